//! Base models of a plan, fixed when the plan is made: the hub is asked once, and every
//! stage reads the commit that was found then, whatever happens to the branch meanwhile.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::model::hub::{Kind, Request, Snapshot, fetch};
use crate::model::{locate, model_hash};

/// A model as it is at this moment.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// [`model_hash`].
    pub sha256: String,
    /// None: it lies in a folder of this machine.
    pub snapshot: Option<Snapshot>,
}

/// Finds a model, brings it from the hub where it is there, and hashes it.
pub fn pin(name: &str, models: &Path) -> Result<Pinned> {
    let local = models.join(name).join("config.json").is_file() || Path::new(name).is_dir();
    match Request::new(Kind::Model, name) {
        Ok(request) if !local => {
            let snapshot = fetch(&request)?;
            Ok(Pinned { sha256: model_hash(&snapshot.dir)?, snapshot: Some(snapshot) })
        }
        _ => Ok(Pinned { sha256: model_hash(&locate(name, models)?)?, snapshot: None }),
    }
}

/// The folder of a model, at a commit of the hub if one is given: all of it is in the
/// cache then, and the hub is not asked.
pub fn folder(name: &str, commit: Option<&str>, models: &Path) -> Result<PathBuf> {
    let Some(commit) = commit else { return locate(name, models) };
    let repo = name.split_once('@').map_or(name, |(repo, _)| repo);
    locate(&format!("{repo}@{commit}"), models)
}
