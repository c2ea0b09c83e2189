//! One training loop for pretraining, instruction tuning and DPO.
//!
//! What differs between them is the [`Objective`]; what does not is here:
//! accumulation, clipping, AdamW, the log, and checkpoints from which a killed
//! run goes on to the same bits.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::optimizer::{AdamW, Gradients, OptimizerPlan};
use super::parallel::{Seen, World, share};
use crate::model::ops::Dropout;
use crate::model::ops::gpu::Gpu;
use crate::model::{Pass, Transformer, rng};

/// Named numbers of one step, by TRL's names (`rewards/margins`, …). Each is a
/// pair of a sum and a weight, so that micro-batches add up.
pub type Metrics = BTreeMap<String, (f64, f64)>;

/// Metrics to be read once the step is done: reading a number from a GPU waits for all
/// work before it.
pub type Later = Box<dyn FnOnce() -> Result<Metrics>>;

/// What is trained for.
pub trait Objective {
    type Batch;

    /// The micro-batches of the next optimizer step.
    fn next_step(&mut self) -> Result<Vec<Self::Batch>>;

    /// The part of the step's loss that one micro-batch contributes: the parts
    /// of a step *add up* to its loss, so each is divided by the whole step's
    /// count, never by its own.
    fn loss(&self, model: &Transformer, batch: &Self::Batch, pass: Pass)
    -> Result<(Tensor, Later)>;

    /// A micro-batch as `parts` smaller ones whose parts of the loss add up to its own;
    /// fewer, if it has not so many items. Asked for where a step has fewer micro-batches
    /// than there are ranks.
    fn split(&self, batch: Self::Batch, parts: usize) -> Result<Vec<Self::Batch>> {
        let _ = (batch, parts);
        bail!(
            "a step has fewer micro-batches than there are ranks, and these cannot be split: \
             start fewer ranks, or accumulate over more micro-batches"
        )
    }
}

/// Everything the loop itself depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerPlan {
    pub optimizer: OptimizerPlan,
    /// Dropout on the adapters' inputs; 0 for none.
    pub dropout: f32,
    pub seed: u64,
    /// Steps between log lines.
    pub logging_steps: usize,
    /// Steps between checkpoints; 0 for none.
    pub save_steps: usize,
}

/// One line of the training log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub step: usize,
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// Trains the variables of `model` up to `plan.optimizer.total_steps`.
///
/// With `save_steps`, the state is kept in `dir/checkpoint` and a run that finds
/// one there goes on from it. `each_step` is called after every update, with the
/// number of updates done; it may look at the model, and ends training with an
/// error.
pub fn train<O: Objective>(
    model: &Transformer,
    objective: &mut O,
    plan: &TrainerPlan,
    dir: &Path,
    each_step: &mut dyn FnMut(usize, &LogLine) -> Result<()>,
) -> Result<Vec<LogLine>> {
    train_in(&mut World::alone(), model, objective, plan, dir, each_step)
}

/// The same with the processes of `world` sharing the micro-batches of each step. All of
/// them call this with equal arguments, and get the same log and the same parameters,
/// which are those of one process but for the order in which gradients are added.
///
/// `each_step` is called on every rank. A checkpoint is written by rank 0, and read by
/// all: `dir` must be the same folder for each.
pub fn train_in<O: Objective>(
    world: &mut World,
    model: &Transformer,
    objective: &mut O,
    plan: &TrainerPlan,
    dir: &Path,
    each_step: &mut dyn FnMut(usize, &LogLine) -> Result<()>,
) -> Result<Vec<LogLine>> {
    let log = all_steps(world, model, objective, plan, dir, each_step);
    if let Err(e) = &log {
        world.fail(&format!("{e:#}"));
    }
    log
}

fn all_steps<O: Objective>(
    world: &mut World,
    model: &Transformer,
    objective: &mut O,
    plan: &TrainerPlan,
    dir: &Path,
    each_step: &mut dyn FnMut(usize, &LogLine) -> Result<()>,
) -> Result<Vec<LogLine>> {
    let vars = model.variables();
    ensure!(!vars.is_empty(), "the model has nothing to train");
    let mut adam = AdamW::new(plan.optimizer.clone());
    let mut log = Vec::new();
    let place = dir.join("checkpoint");
    if world.rank() == 0 {
        recover(&place)?;
    }
    world.barrier()?;
    if plan.save_steps > 0 && place.join("state.json").exists() {
        log = restore(model, &mut adam, &place)?;
        // The objective's stream is a function of its seed: fast-forward it.
        for _ in 0..adam.step {
            objective.next_step()?;
        }
    }
    let start = (&plan, adam.step);
    world.agree("settings", &serde_json::to_vec(&start)?)?;
    world.agree_on("parameters at the start", vars)?;
    let first = adam.step;
    let on_gpu = Gpu::on(&model.placement().device).is_some();
    let mut recent: Vec<(f64, f64, Metrics)> = Vec::new();
    while adam.step < plan.optimizer.total_steps {
        let step = adam.step;
        let mut grads = Gradients::new();
        let (mut parts, mut later) = (Vec::new(), Vec::new());
        let batches = objective.next_step()?;
        for (i, batch) in share(world, objective, batches)? {
            let key = rng::mix(plan.seed, &format!("dropout {step} {i}"));
            let dropout = (plan.dropout > 0.0).then_some(Dropout { p: plan.dropout, key });
            let (part, seen) =
                objective.loss(model, &batch, Pass { dropout, ..Pass::default() })?;
            parts.push(part.detach());
            later.push((i, seen));
            model.backward(&part, &mut grads)?;
        }
        let losses = || -> Result<Vec<f64>> {
            let each = parts.iter().map(|part| Ok(f64::from(part.to_scalar::<f32>()?)));
            let losses: Vec<f64> = each.collect::<Result<_>>()?;
            let loss: f64 = losses.iter().sum();
            ensure!(loss.is_finite(), "step {step}: the loss is {loss}; lower learning_rate");
            Ok(losses)
        };
        // On a GPU the host waits here for the first time in a step, with the update
        // queued already.
        let early = if on_gpu { None } else { Some(losses()?) };
        let grads = world.sum(vars, grads)?;
        let update = adam.update(vars, &grads)?;
        world.wait()?;
        let losses = early.map_or_else(losses, Ok)?;
        let mut seen = Vec::new();
        for ((index, metrics), loss) in later.into_iter().zip(losses) {
            seen.push(Seen { index, loss, metrics: metrics()? });
        }
        let (mut loss, mut metrics) = (0f64, Metrics::new());
        for part in world.all_seen(seen)? {
            loss += part.loss;
            for (name, (sum, weight)) in part.metrics {
                let m = metrics.entry(name).or_default();
                *m = (m.0 + sum, m.1 + weight);
            }
        }
        if step == first {
            // What makes ranks drift apart shows here, and not after hours.
            world.agree_on("parameters after a step", vars)?;
        }
        let grad_norm = update.grad_norm()?;
        ensure!(grad_norm.is_finite(), "step {step}: the gradient is not finite");
        recent.push((loss, grad_norm, metrics));
        let line = summary(step + 1, &recent, update.learning_rate);
        let last = step + 1 == plan.optimizer.total_steps;
        if (step + 1).is_multiple_of(plan.logging_steps.max(1)) || last {
            log.push(line.clone());
            recent.clear();
        }
        each_step(step + 1, &line)?;
        // Only where the log has just been written: a resumed run logs the same means.
        let due = plan.save_steps > 0 && (step + 1).is_multiple_of(plan.save_steps);
        if due && recent.is_empty() && world.rank() == 0 {
            save(model, &adam, &log, &place)?;
        }
    }
    Ok(log)
}

fn summary(step: usize, recent: &[(f64, f64, Metrics)], learning_rate: f64) -> LogLine {
    let n = recent.len() as f64;
    let mut sums = Metrics::new();
    for (name, (sum, weight)) in recent.iter().flat_map(|r| &r.2) {
        let m = sums.entry(name.clone()).or_default();
        *m = (m.0 + sum, m.1 + weight);
    }
    LogLine {
        step,
        loss: recent.iter().map(|r| r.0).sum::<f64>() / n,
        grad_norm: recent.iter().map(|r| r.1).sum::<f64>() / n,
        learning_rate,
        metrics: sums.into_iter().map(|(k, (s, w))| (k, s / w.max(1.0))).collect(),
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    step: usize,
    log: Vec<SavedLine>,
}

/// A log line with its numbers as bits: decimal text read back may be off in the
/// last digit, and a resumed run must log what an uninterrupted one does.
#[derive(Serialize, Deserialize)]
struct SavedLine {
    step: usize,
    bits: [u64; 3],
    metrics: BTreeMap<String, u64>,
}

impl From<&LogLine> for SavedLine {
    fn from(l: &LogLine) -> SavedLine {
        SavedLine {
            step: l.step,
            bits: [l.loss, l.grad_norm, l.learning_rate].map(f64::to_bits),
            metrics: l.metrics.iter().map(|(k, v)| (k.clone(), v.to_bits())).collect(),
        }
    }
}

impl From<SavedLine> for LogLine {
    fn from(s: SavedLine) -> LogLine {
        let [loss, grad_norm, learning_rate] = s.bits.map(f64::from_bits);
        let metrics = s.metrics.into_iter().map(|(k, v)| (k, f64::from_bits(v))).collect();
        LogLine { step: s.step, loss, grad_norm, learning_rate, metrics }
    }
}

fn save(model: &Transformer, adam: &AdamW, log: &[LogLine], place: &Path) -> Result<()> {
    let part = sibling(place, "part");
    let old = sibling(place, "old");
    for dir in [&part, &old] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
    }
    fs::create_dir_all(&part)?;
    let parameters: HashMap<String, Tensor> =
        model.variables().iter().map(|(k, v)| (k.clone(), v.as_detached_tensor())).collect();
    candle_core::safetensors::save(&parameters, part.join("parameters.safetensors"))?;
    let state: HashMap<String, Tensor> = adam.state()?.into_iter().collect();
    candle_core::safetensors::save(&state, part.join("optimizer.safetensors"))?;
    let state = State { step: adam.step, log: log.iter().map(SavedLine::from).collect() };
    fs::write(part.join("state.json"), serde_json::to_string(&state)?)?;
    // Two renames: a kill between them leaves `old`, which recover() puts back.
    if place.exists() {
        fs::rename(place, &old)?;
    }
    fs::rename(&part, place)?;
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    Ok(())
}

fn sibling(place: &Path, suffix: &str) -> PathBuf {
    place.with_extension(suffix)
}

fn restore(model: &Transformer, adam: &mut AdamW, place: &Path) -> Result<Vec<LogLine>> {
    let path = place.join("state.json");
    let state: State = serde_json::from_str(&fs::read_to_string(&path)?)
        .with_context(|| format!("{}: broken; delete its folder to start over", path.display()))?;
    let path = place.join("parameters.safetensors");
    let saved = candle_core::safetensors::load(&path, &Device::Cpu)?;
    for (name, var) in model.variables() {
        let t = saved
            .get(name)
            .with_context(|| format!("{}: tensor {name} is missing", path.display()))?;
        var.set(&t.to_device(var.device())?)?;
    }
    let path = place.join("optimizer.safetensors");
    let moments = candle_core::safetensors::load(&path, &Device::Cpu)?.into_iter().collect();
    adam.restore(state.step, &moments, &path)?;
    Ok(state.log.into_iter().map(LogLine::from).collect())
}

/// Puts back a checkpoint that a kill left between its two renames.
fn recover(place: &Path) -> Result<()> {
    let old = sibling(place, "old");
    if !place.exists() && old.exists() {
        fs::rename(&old, place)?;
    }
    Ok(())
}
