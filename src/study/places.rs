//! Where things lie on disk.

use std::path::{Path, PathBuf};

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// Base models, one sub-folder each.
    pub models: PathBuf,
    /// The run store.
    pub runs: PathBuf,
    pub results: PathBuf,
    pub figures: PathBuf,
}

impl Places {
    /// The usual places under a project folder.
    pub fn under(root: &Path) -> Places {
        Places {
            models: root.join("data/pocket/models"),
            runs: root.join("runs"),
            results: root.join("results"),
            figures: root.join("figures"),
        }
    }
}
