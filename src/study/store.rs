//! The run store: every stage's output, filed under the hash of its plan.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Name of a run: its stage and the first 16 hex digits of its plan's SHA-256.
/// A plan names its parents by their run ids, so the id stands for everything
/// that led to the output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    pub fn of(stage: &str, plan: &impl Serialize) -> Result<RunId> {
        let json = serde_json::to_string(plan)?;
        let hash = format!("{:x}", Sha256::digest(json.as_bytes()));
        Ok(RunId(format!("{stage}-{}", &hash[..16])))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// What a finished run cost; kept apart from its outputs, which do not depend
/// on the machine's speed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunCost {
    pub seconds: f64,
    /// Highest resident memory of the process so far, in bytes; several stages
    /// may share a process.
    pub peak_memory_bytes: u64,
}

/// A folder of runs. A folder without the suffix `.part` is complete, because
/// it got its name by a rename after everything in it was written.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    pub fn open(root: &Path) -> Result<Store> {
        let locks = root.join(".locks");
        fs::create_dir_all(&locks).with_context(|| {
            format!("{}: cannot be made; choose another folder with --runs", locks.display())
        })?;
        Ok(Store { root: root.to_path_buf() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a finished run is.
    pub fn path(&self, id: &RunId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Where a run is while it is not finished.
    pub fn working(&self, id: &RunId) -> PathBuf {
        self.root.join(format!("{id}.part"))
    }

    /// Every folder of a run, finished or not, by name.
    pub fn folders(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.root).with_context(|| self.root.display().to_string())?;
        let mut folders = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| self.root.display().to_string())?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        folders.sort();
        Ok(folders)
    }

    pub fn is_done(&self, id: &RunId) -> bool {
        self.path(id).is_dir()
    }

    /// Runs `body` in a working folder unless the run is there already, and says
    /// whether it did. A second process that wants the same run waits for the
    /// first; a killed process leaves its working folder, and the next one gets
    /// it as it is, to go on from what it finds.
    pub fn run(
        &self,
        id: &RunId,
        plan: &impl Serialize,
        body: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<bool> {
        if self.is_done(id) {
            return Ok(false);
        }
        let _lock = self.lock(id.as_str())?;
        if self.is_done(id) {
            return Ok(false);
        }
        let started = Instant::now();
        let part = self.working(id);
        fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
        let json = serde_json::to_string_pretty(plan)? + "\n";
        fs::write(part.join("plan.json"), json)?;
        body(&part).with_context(|| format!("run {id}"))?;
        let cost = RunCost {
            seconds: started.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory().unwrap_or(0),
        };
        fs::write(part.join("cost.json"), serde_json::to_string_pretty(&cost)? + "\n")?;
        fs::rename(&part, self.path(id)).with_context(|| part.display().to_string())?;
        Ok(true)
    }

    /// Waits for, and takes, the lock of this name; other processes on the store
    /// wait until the returned file is dropped. The kernel drops it with the
    /// process, however it ends.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join(".locks").join(name);
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        lock.lock().with_context(|| path.display().to_string())?;
        Ok(lock)
    }

    /// The same without waiting: none if another process has the lock.
    pub fn try_lock(&self, name: &str) -> Result<Option<File>> {
        let path = self.root.join(".locks").join(name);
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    /// Reads a JSON file of a finished run.
    pub fn read<T: for<'a> Deserialize<'a>>(&self, id: &RunId, name: &str) -> Result<T> {
        let path = self.path(id).join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: broken; delete its folder and run again", path.display()))
    }
}

/// Writes through a temporary name, so that a reader sees all of it or nothing.
/// Two writers of one file must hold a lock: they would share that name.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes)?;
    fs::rename(part, path)
}

/// Peak resident memory of this process in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_done_once_and_a_failed_one_can_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = RunId::of("stage", &42).unwrap();
        let failed = store.run(&id, &42, |part| {
            fs::write(part.join("half"), "1")?;
            anyhow::bail!("killed")
        });
        assert!(failed.is_err() && !store.is_done(&id));
        let again = store.run(&id, &42, |part| {
            assert!(part.join("half").exists());
            Ok(())
        });
        assert!(again.unwrap() && store.is_done(&id));
        assert!(!store.run(&id, &42, |_| panic!("already done")).unwrap());
        assert_ne!(id, RunId::of("stage", &43).unwrap());
    }

    /// Two threads stand for two processes: each opens the lock file itself.
    #[test]
    fn two_at_once_do_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let id = RunId::of("stage", &1).unwrap();
        let worked: usize = std::thread::scope(|s| {
            let one = || {
                let store = Store::open(dir.path()).unwrap();
                let slow = |_: &Path| {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    Ok(())
                };
                usize::from(store.run(&id, &1, slow).unwrap())
            };
            let threads: Vec<_> = (0..4).map(|_| s.spawn(one)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(worked, 1);
    }
}
