//! Writing a file in one step.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `dir/name` through `write`, which is given a temporary path in the
/// same directory; the file takes its real name only when it is complete, so a
/// reader, or a run broken off half way, never sees half a table.
///
/// The temporary name keeps the extension: the PNG encoder goes by it.
pub(super) fn replace(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let temporary = dir.join(format!(".{}-{name}", std::process::id()));
    let target = dir.join(name);
    let done = write(&temporary)
        .and_then(|()| fs::rename(&temporary, &target).map_err(anyhow::Error::from))
        .with_context(|| format!("writing {}", target.display()));
    if done.is_err() {
        // Best effort: the first error is the one worth telling.
        let _ = fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), "a.txt", |p| Ok(fs::write(p, "old")?)).unwrap();
        let failed = replace(dir.path(), "a.txt", |p| {
            fs::write(p, "ne")?;
            anyhow::bail!("disk full")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(dir.path().join("a.txt")).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
