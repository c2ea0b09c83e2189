//! Tuning stages with further processes: this one is rank 0, keeps the run store and
//! starts the others, which do the same stage and store nothing.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::stage::{ModelRef, Stage};
use super::store::Store;
use super::work::{Workshop, lessons};
use crate::model::{Placement, load_adapter, load_at};
use crate::tune::parallel::{Local, Patience, World};
use crate::tune::{instruct_in, refine_in};

/// How many processes tune together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks {
    pub size: usize,
    /// The program that `worker` is a command of.
    pub program: PathBuf,
}

impl Ranks {
    /// Of this program.
    pub fn new(size: usize) -> Result<Ranks> {
        ensure!((1..=1024).contains(&size), "{size} ranks: give 1 or more, one for each GPU");
        let program = std::env::current_exe().context("where this program lies is unknown")?;
        Ok(Ranks { size, program })
    }
}

/// How the work of a run is spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crew {
    /// Stages at a time.
    pub jobs: usize,
    /// Processes of each tuning stage; none: only this one.
    pub ranks: Option<Ranks>,
}

impl From<usize> for Crew {
    fn from(jobs: usize) -> Crew {
        Crew { jobs, ranks: None }
    }
}

/// What a rank is told, as one line on its standard input.
#[derive(Serialize, Deserialize)]
struct Job {
    stage: Stage,
    /// The stage's working folder: rank 0 has put there what takes long to make.
    dir: PathBuf,
    /// The folder of the model that is tuned.
    student: PathBuf,
    runs: PathBuf,
}

/// NCCL's sums of two stages on the same GPUs could wait for each other for ever.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Tunes with `body` on this process and, if the workshop has ranks, on further ones that
/// do the same `stage` beside it. `body` trains `place`'s model in the world it is given.
pub(super) fn together<R>(
    shop: &Workshop,
    stage: &Stage,
    dir: &Path,
    place: &Placement,
    body: impl FnOnce(&mut World) -> Result<R>,
) -> Result<R> {
    let Some(ranks) = shop.ranks.as_ref().filter(|r| r.size > 1) else {
        return body(&mut World::alone());
    };
    let _turn =
        place.device.is_cuda().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the ranks")?;
    let job = Job {
        stage: stage.clone(),
        dir: dir.to_path_buf(),
        student: shop.folder(stage_student(stage)?)?,
        runs: shop.store.root().to_path_buf(),
    };
    // So that no other user of the host takes part.
    let key = secret();
    let mut crew = Workers::start(ranks, &job, listener.local_addr()?, &key)?;
    let tuned = (|| {
        let local =
            Local::host(&listener, ranks.size, &key, Patience::default(), &mut || crew.watch())?;
        body(&mut World::connect(0, ranks.size, local, &place.device)?)
    })();
    match tuned {
        Ok(tuned) => {
            crew.farewell();
            Ok(tuned)
        }
        Err(e) => Err(crew.explain(e)),
    }
}

/// The model that a stage tunes.
fn stage_student(stage: &Stage) -> Result<&ModelRef> {
    match stage {
        Stage::Instruct(p) => Ok(&p.student),
        Stage::Refine(p) => Ok(&p.student),
        other => bail!("{} is not tuning: it has no ranks", other.name()),
    }
}

/// 128 bits that nobody can guess: each hasher is keyed by the system's random numbers.
fn secret() -> String {
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}

struct Worker {
    rank: usize,
    child: Child,
    /// Everything it said on standard error; ends with the process.
    said: Option<JoinHandle<String>>,
}

/// Ranks 1 and up. Dropping them ends their processes.
struct Workers(Vec<Worker>);

impl Workers {
    fn start(ranks: &Ranks, job: &Job, at: SocketAddr, key: &str) -> Result<Workers> {
        let line = serde_json::to_string(job)? + "\n";
        let mut all = Workers(Vec::new());
        for rank in 1..ranks.size {
            let mut child = Command::new(&ranks.program)
                .arg("worker")
                .env("RANK", rank.to_string())
                .env("LOCAL_RANK", rank.to_string())
                .env("WORLD_SIZE", ranks.size.to_string())
                .env("MASTER_ADDR", at.ip().to_string())
                .env("MASTER_PORT", at.port().to_string())
                .env("COTALIGN_KEY", key)
                // It stays open: its end tells the rank that this process is gone.
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("{}: rank {rank}", ranks.program.display()))?;
            let mut stderr = child.stderr.take().expect("piped");
            let said = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stderr.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            });
            // What fails here is a process that has ended, which is seen soon enough.
            let _ = child.stdin.as_mut().expect("piped").write_all(line.as_bytes());
            all.0.push(Worker { rank, child, said: Some(said) });
        }
        Ok(all)
    }

    /// An error once one of them has ended.
    fn watch(&mut self) -> Result<()> {
        for worker in &mut self.0 {
            if worker.child.try_wait()?.is_some() {
                bail!("rank {} ended before the work began", worker.rank);
            }
        }
        Ok(())
    }

    /// Adds to an error what the rank that it names had to say.
    fn explain(mut self, e: anyhow::Error) -> anyhow::Error {
        let mut message = format!("{e:#}");
        let named = |worker: &&mut Worker| {
            let name = format!("rank {}", worker.rank);
            message.match_indices(&name).any(|(at, _)| {
                !message[at + name.len()..].starts_with(|c: char| c.is_ascii_digit())
            })
        };
        let Some(worker) = self.0.iter_mut().find(named) else { return e };
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let Ok(Some(status)) = worker.child.try_wait() else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            let said = worker.said.take().and_then(|s| s.join().ok()).unwrap_or_default();
            let said = said.trim();
            let cut = said.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
            let own = said[cut..].trim_start_matches("error: ");
            if !message.contains(own) || own.is_empty() {
                message += &format!("; rank {} ended with {status}: {own}", worker.rank);
            }
            return anyhow!("{message}");
        }
        e
    }

    /// Lets them end by themselves for a moment: all is done.
    fn farewell(mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        for worker in &mut self.0 {
            while Instant::now() < until && matches!(worker.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // It may have ended already.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// What a process started for a tuning stage does: the stage that standard input names, as
/// the rank that the environment names.
pub fn work_as_rank() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)
        .context("a worker is started by `cotalign reproduce --ranks`, not by hand")?;
    std::thread::spawn(|| {
        // Rank 0 says nothing more: this returns when it is gone, however it ended.
        let _ = std::io::stdin().lock().read(&mut [0]);
        eprintln!("error: rank 0 is gone");
        std::process::exit(1);
    });
    let student = stage_student(&job.stage)?;
    // LOCAL_RANK says which card.
    let place = student.compute.open()?;
    // Joined before the model is loaded, so that all ranks load at the same time.
    let mut world = World::from_env(&place.device)?;
    let store = Store::open(&job.runs)?;
    let quiet = &mut |_, _| Ok(());
    match &job.stage {
        Stage::Instruct(p) => {
            let (mut model, tokenizer) = load_at(&job.student, true, &place)?;
            let all = lessons(p, &store, &tokenizer)?;
            let (examples, held_out) = (all.examples, &all.held_out);
            instruct_in(&mut world, &mut model, examples, held_out, &p.settings, p.seed, quiet)?;
        }
        Stage::Refine(p) => {
            let (mut model, tokenizer) = load_at(&job.student, true, &place)?;
            load_adapter(&mut model, &p.lora, &store.path(&p.instructed))?;
            model.set_gradient_checkpointing(p.settings.gradient_checkpointing);
            let path = job.dir.join("pairs.jsonl");
            let text =
                std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let pairs: Vec<_> = text
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()
                .with_context(|| path.display().to_string())?;
            refine_in(&mut world, &model, &tokenizer, &pairs, &p.settings, p.seed, quiet)?;
        }
        other => bail!("{} is not tuning: it has no ranks", other.name()),
    }
    Ok(())
}
