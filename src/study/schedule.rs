//! Runs a set of stages in the order of their needs, several at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};

use anyhow::{Result, anyhow};

use super::progress::Progress;
use super::stage::Stage;
use super::store::RunId;
use super::work::Workshop;

/// What [`run_all`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub stages: usize,
    /// Stages that were done before.
    pub found: usize,
}

struct Board {
    /// Waiting stages, in the order they were asked for.
    waiting: Vec<usize>,
    finished: BTreeSet<RunId>,
    running: usize,
    failures: Vec<anyhow::Error>,
    failed: BTreeSet<RunId>,
}

/// Runs every stage that is not done, with up to `jobs` at a time, one thread
/// each. A failed stage stops only those that need its output; the first error
/// is returned when nothing more can be done.
pub fn run_all(
    stages: &BTreeMap<RunId, Stage>,
    order: &[RunId],
    shop: &Workshop,
    jobs: usize,
) -> Result<Tally> {
    let found: BTreeSet<RunId> =
        order.iter().filter(|id| shop.store.is_done(id)).cloned().collect();
    let tally = Tally { stages: order.len(), found: found.len() };
    let waiting: Vec<usize> = (0..order.len()).filter(|i| !found.contains(&order[*i])).collect();
    if waiting.is_empty() {
        return Ok(tally);
    }
    let progress = Progress::new(waiting.iter().map(|i| stages[&order[*i]].weight()).sum());
    progress.say(&format!(
        "{} of {} stages are to be done, {jobs} at a time",
        waiting.len(),
        order.len()
    ));
    let asked: Vec<&Stage> = waiting.iter().map(|i| &stages[&order[*i]]).collect();
    for (name, ahead) in shop.open_purses(&asked, &|text| progress.say(text))? {
        progress.say(&format!("{name}: {ahead}"));
    }
    let board = Mutex::new(Board {
        waiting,
        finished: found,
        running: 0,
        failures: Vec::new(),
        failed: BTreeSet::new(),
    });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| work(stages, order, shop, &board, &changed, &progress));
        }
    });
    progress.end();
    let board = board.into_inner().unwrap_or_else(|e| e.into_inner());
    let failures = board.failures.len();
    match board.failures.into_iter().next() {
        None => Ok(tally),
        Some(e) if failures == 1 => Err(e),
        Some(e) => Err(e.context(format!("{failures} stages failed; the first"))),
    }
}

fn work(
    stages: &BTreeMap<RunId, Stage>,
    order: &[RunId],
    shop: &Workshop,
    board: &Mutex<Board>,
    changed: &Condvar,
    progress: &Progress,
) {
    let mut b = board.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        let parents = |i: &usize| stages[&order[*i]].parents();
        // What needs a failed output will never be ready.
        let lost: Vec<usize> = b
            .waiting
            .iter()
            .copied()
            .filter(|i| parents(i).iter().any(|p| b.failed.contains(p)))
            .collect();
        for i in lost {
            b.waiting.retain(|w| *w != i);
            b.failed.insert(order[i].clone());
        }
        let ready =
            b.waiting.iter().position(|i| parents(i).iter().all(|p| b.finished.contains(p)));
        let Some(at) = ready else {
            if b.waiting.is_empty() || b.running == 0 {
                changed.notify_all();
                return;
            }
            b = changed.wait(b).unwrap_or_else(|e| e.into_inner());
            continue;
        };
        let id = order[b.waiting.remove(at)].clone();
        b.running += 1;
        drop(b);
        let stage = &stages[&id];
        let display = progress.stage(&stage.label());
        // A panic is a bug, but must not take the other stages' work with it.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stage.run(shop, &mut |done, total| display.tick(done, total))
        }))
        .unwrap_or_else(|_| Err(anyhow!("run {id}: panicked; this is a bug")));
        display.finish(stage.weight());
        b = board.lock().unwrap_or_else(|e| e.into_inner());
        b.running -= 1;
        match outcome {
            Ok(_) => {
                b.finished.insert(id);
            }
            Err(e) => {
                progress.say(&format!("failed: {e:#}"));
                b.failures.push(e);
                b.failed.insert(id);
            }
        }
        changed.notify_all();
    }
}
