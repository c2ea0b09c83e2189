//! Where a model of a given name lies: among the project's own, in a folder, or
//! on the hub.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The folder of a model: a pocket model under `pocket`, else an existing folder,
/// else a hub repository `owner/name` or `owner/name@revision`, downloaded into
/// the hub's usual cache.
pub fn locate(name: &str, pocket: &Path) -> Result<PathBuf> {
    for dir in [pocket.join(name), PathBuf::from(name)] {
        if dir.join("config.json").is_file() {
            return Ok(dir);
        }
    }
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    match id.split_once('/') {
        Some((owner, repo)) if !owner.is_empty() && !repo.contains('/') && !repo.is_empty() => {
            download(owner, repo, revision)
        }
        _ => bail!(
            "no model {name:?}: not in {}, not a folder with a config.json, not owner/name of the hub",
            pocket.display()
        ),
    }
}

#[cfg(feature = "hub")]
fn download(owner: &str, repo: &str, revision: &str) -> Result<PathBuf> {
    use anyhow::Context;
    // Weights are taken as safetensors only: other formats can run code.
    let files = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"];
    let client = hf_hub::HFClientSync::new().context("the hub's client could not be set up")?;
    client
        .model(owner, repo)
        .snapshot_download()
        .revision(revision)
        .allow_patterns(files.map(String::from).to_vec())
        .send()
        .with_context(|| {
            format!(
                "{owner}/{repo} at {revision}: could not be downloaded; check the name and the network, \
                 set HF_TOKEN for a gated model, or give a local folder"
            )
        })
}

#[cfg(not(feature = "hub"))]
fn download(owner: &str, repo: &str, _: &str) -> Result<PathBuf> {
    bail!(
        "{owner}/{repo}: this build has no hub access; give a local folder, or build with `--features hub`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nowhere_says_where_it_was_looked_for() {
        let pocket = tempfile::tempdir().unwrap();
        let error = locate("no-such-model", pocket.path()).unwrap_err().to_string();
        assert!(error.contains("no-such-model") && error.contains("config.json"), "{error}");
        std::fs::create_dir(pocket.path().join("here")).unwrap();
        std::fs::write(pocket.path().join("here/config.json"), "{}").unwrap();
        assert_eq!(locate("here", pocket.path()).unwrap(), pocket.path().join("here"));
    }
}
