//! Models and data from the hub.
//!
//! What is downloaded lies in the hub's usual cache, which the Python tools
//! share: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
//! `HF_TOKEN` (or the file that `hf auth login` leaves) opens gated and private
//! repositories, `HF_ENDPOINT` names another server, `HF_HUB_OFFLINE=1` forbids
//! the network.

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg_attr(not(feature = "hub"), path = "none.rs")]
mod download;
#[cfg(feature = "hub")]
mod failure;
#[cfg(feature = "hub")]
mod mask;
#[cfg(feature = "hub")]
mod progress;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// What a repository of the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// As in addresses of the hub's API and in the names of cache folders.
    #[cfg(feature = "hub")]
    fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }

    #[cfg(feature = "hub")]
    fn name(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        }
    }
}

/// What to bring from the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub kind: Kind,
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag, a commit, or a reference such as `refs/convert/parquet`.
    pub revision: String,
    /// Paths in the repository. For a model, none means everything [`load_base`]
    /// reads.
    ///
    /// [`load_base`]: super::load_base
    pub files: Vec<String>,
    /// Take everything from the cache and leave the network alone.
    pub offline: bool,
}

impl Request {
    /// Everything of `owner/name` or `owner/name@revision`, `main` if no revision
    /// is given; offline if the environment variable `HF_HUB_OFFLINE` says so.
    ///
    /// # Errors
    ///
    /// If the name has another form.
    pub fn new(kind: Kind, name: &str) -> Result<Request> {
        let (repo, revision) = name.split_once('@').unwrap_or((name, "main"));
        // Both become parts of addresses and of paths in the cache.
        let plain = |part: &str| {
            let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
            !part.is_empty() && !part.starts_with('.') && !part.contains(odd)
        };
        let halves = repo.split_once('/');
        ensure!(
            halves.is_some_and(|(owner, name)| plain(owner) && plain(name)),
            "{name:?}: not of the form owner/name or owner/name@revision"
        );
        ensure!(
            is_inside(revision),
            "{name:?}: {revision:?} cannot be a revision; give a branch, a tag or a commit"
        );
        let (repo, revision) = (repo.to_string(), revision.to_string());
        Ok(Request { kind, repo, revision, files: Vec::new(), offline: offline() })
    }
}

/// Whether `path` stays below the folder it is joined to.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Whether `HF_HUB_OFFLINE` forbids the network, by the words the Python tools take.
pub fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| {
        ["1", "on", "yes", "true"].iter().any(|word| v.trim().eq_ignore_ascii_case(word))
    })
}

/// Files of one commit of a repository, as they lie in the cache. Enough to say
/// later what a run was made from, and to get the same bytes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub kind: Kind,
    pub repo: String,
    /// What was asked for.
    pub revision: String,
    /// What it stood for: 40 hex digits.
    pub commit: String,
    /// Sorted by path.
    pub files: Vec<SnapshotFile>,
    /// The folder that holds the files under their paths. Not written to plans:
    /// it differs from machine to machine.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// One file of a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// In the repository, with `/`.
    pub path: String,
    pub bytes: u64,
    /// Of the bytes on disk; equal to the hub's where the hub states one.
    pub sha256: String,
}

/// Brings what `request` asks for into the cache, as far as it is not there, and
/// reads every file once to hash it.
///
/// # Errors
///
/// Says what is wrong and what to do, with the repository and the file: no such
/// repository, revision or file; access that must be asked for; a hub that is
/// busy, out of reach or sends other bytes than it announced; a full disk; with
/// `offline`, a file that is not in the cache. What has arrived of a file is
/// kept, and the next call goes on from there.
pub fn fetch(request: &Request) -> Result<Snapshot> {
    download::bring(request)?.hashed(request)
}

/// What a request is about, before anything is downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// What the revision stands for: 40 hex digits.
    pub commit: String,
    pub files: Vec<Planned>,
}

/// One file of a [`Survey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub path: String,
    /// None if the hub does not say.
    pub bytes: Option<u64>,
    /// Whether it is in the cache already.
    pub cached: bool,
}

/// Says which files [`fetch`] would bring, and how large they are. Of a model in
/// shards the index is downloaded, for it names them.
///
/// # Errors
///
/// As [`fetch`].
pub fn survey(request: &Request) -> Result<Survey> {
    download::survey(request)
}

/// The folder of a model: a pocket model under `pocket`, else an existing folder,
/// else a hub repository `owner/name` or `owner/name@revision`, downloaded into
/// the hub's usual cache.
///
/// # Errors
///
/// If `name` is none of these, and as [`fetch`].
pub fn locate(name: &str, pocket: &Path) -> Result<PathBuf> {
    located(name, pocket, &[])
}

/// The folder of a model as [`locate`] finds it, of which only `config.json` is
/// needed: the weights are not downloaded.
///
/// # Errors
///
/// As [`locate`].
pub fn locate_config(name: &str, pocket: &Path) -> Result<PathBuf> {
    located(name, pocket, &["config.json"])
}

fn located(name: &str, pocket: &Path, files: &[&str]) -> Result<PathBuf> {
    for dir in [pocket.join(name), PathBuf::from(name)] {
        if dir.join("config.json").is_file() {
            return Ok(dir);
        }
    }
    if Path::new(name).is_dir() {
        bail!("{name}: a folder, but there is no config.json in it");
    }
    match Request::new(Kind::Model, name) {
        // Files that are in the cache already are not hashed again.
        Ok(request) => {
            let files = files.iter().map(|f| f.to_string()).collect();
            Ok(download::bring(&Request { files, ..request })?.folder())
        }
        Err(_) => bail!(
            "no model {name:?}: not in {}, not a folder with a config.json, not owner/name of the hub",
            pocket.display()
        ),
    }
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

    #[test]
    fn names_and_revisions_are_parted_and_cannot_leave_the_cache() {
        let parsed = |name| Request::new(Kind::Dataset, name).map(|r| (r.repo, r.revision)).ok();
        let pair = |a: &str, b: &str| Some((a.to_string(), b.to_string()));
        assert_eq!(parsed("owner/name"), pair("owner/name", "main"));
        assert_eq!(parsed("o/n@refs/convert/parquet"), pair("o/n", "refs/convert/parquet"));
        for bad in
            ["name", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a/b@x//y", "a b/c"]
        {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        assert!(is_inside("main/train-00000-of-00001.parquet"));
        for bad in ["../x", "/x", "a/../../x", "", "a\\b", "c:x"] {
            assert!(!is_inside(bad), "{bad}");
        }
    }
}
