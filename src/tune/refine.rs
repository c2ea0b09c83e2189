//! P2, phase 2: the instructed student improves on its own answers with DPO.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::instruct::{Epochs, example};
use super::loss::{Example, LossType, dpo, ipo, sequence_log_probs, token_log_probs};
use super::optimizer::OptimizerPlan;
use super::parallel::World;
use super::trainer::{Later, LogLine, Metrics, Objective, TrainerPlan, train_in};
use crate::model::{Pass, Tokenizer, Transformer};
use crate::teach::Annotation;

/// Which own answers make a pair. P2's Eq. 3 could not be recovered; the first
/// reading is the one its words support best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairRule {
    /// Under the CoT prompt, the own CoT answer over the own plain answer.
    CotOverPlain,
    /// The same, only where the CoT answer is right ("ground truths" in the
    /// abstract).
    CorrectCotOverPlain,
    /// Both contexts: CoT over plain under the CoT prompt, plain over CoT under
    /// the plain one ("as its teacher would").
    Mirrored,
    /// Under the CoT prompt, a right CoT answer over a wrong one, from several
    /// samples of the same question.
    CorrectCotOverIncorrectCot,
}

/// Settings of one refinement, named as TRL's `DPOConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefineSettings {
    pub pairs: PairRule,
    #[serde(default, skip_serializing_if = "is_default")]
    pub loss_type: LossType,
    pub beta: f64,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_steps: usize,
    pub max_steps: usize,
    pub per_device_train_batch_size: usize,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub gradient_accumulation_steps: usize,
    pub max_grad_norm: f64,
    /// Share of the pairs held out to choose the checkpoint.
    pub hold_out: f64,
    /// Steps between two looks at the held-out loss.
    pub eval_steps: usize,
    /// Own samples per question and prompt.
    pub samples: usize,
    /// As in [`InstructSettings`](super::InstructSettings).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_default(loss: &LossType) -> bool {
    *loss == LossType::default()
}

/// One preference: the same prompt, a chosen and a rejected answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub id: String,
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
}

/// Builds pairs from a student's own answers, in the order of the questions.
/// Equal texts make no pair, nor does an answer that was cut at the length limit.
pub fn pairs(rule: PairRule, plain: &[Annotation], cot: &[Annotation]) -> Vec<Pair> {
    let mut by_id: BTreeMap<&str, (Vec<&Annotation>, Vec<&Annotation>)> = BTreeMap::new();
    for a in plain.iter().filter(|a| a.finished) {
        by_id.entry(&a.id).or_default().0.push(a);
    }
    for a in cot.iter().filter(|a| a.finished) {
        by_id.entry(&a.id).or_default().1.push(a);
    }
    let pair = |context: &Annotation, chosen: &Annotation, rejected: &Annotation| Pair {
        id: chosen.id.clone(),
        prompt: context.prompt.clone(),
        chosen: chosen.output.clone(),
        rejected: rejected.output.clone(),
    };
    let mut all = Vec::new();
    for (plain, cot) in by_id.values() {
        if rule == PairRule::CorrectCotOverIncorrectCot {
            let right = cot.iter().find(|a| a.correct);
            let wrong = cot.iter().find(|a| !a.correct);
            if let (Some(w), Some(l)) = (right, wrong) {
                all.push(pair(w, w, l));
            }
            continue;
        }
        for (p, c) in plain.iter().zip(cot) {
            if p.output == c.output || (rule == PairRule::CorrectCotOverPlain && !c.correct) {
                continue;
            }
            all.push(pair(c, c, p));
            if rule == PairRule::Mirrored {
                all.push(pair(p, p, c));
            }
        }
    }
    all
}

/// One pair as training examples, with the reference's log-probabilities.
struct Preference {
    chosen: Example,
    rejected: Example,
    reference_chosen: f32,
    reference_rejected: f32,
}

/// DPO on pairs with precomputed reference log-probabilities.
pub struct Refine {
    pairs: Vec<Preference>,
    epochs: Epochs,
    batch: usize,
    accumulation: usize,
    loss_type: LossType,
    beta: f64,
}

/// Pairs of one micro-batch, and how many the whole step has.
#[derive(Debug, Clone, PartialEq)]
pub struct RefineBatch {
    pub items: Vec<usize>,
    pub step_pairs: usize,
}

impl Refine {
    /// Pairs of a chosen and a rejected answer, `accumulation` times `batch` of them a
    /// step (fewer if there are not so many). The reference is `model` as it is now:
    /// the instructed student.
    pub fn new(
        model: &Transformer,
        pairs: Vec<(Example, Example)>,
        (batch, accumulation): (usize, usize),
        beta: f64,
        seed: u64,
    ) -> Result<Refine> {
        ensure!(!pairs.is_empty(), "there are no pairs to learn from");
        let mut all = Vec::new();
        let model = &model.frozen();
        for chunk in pairs.chunks(32) {
            let both: Vec<&Example> =
                chunk.iter().map(|p| &p.0).chain(chunk.iter().map(|p| &p.1)).collect();
            let lp = token_log_probs(model, &both, Pass::default())?;
            let reference = sequence_log_probs(&lp, both.len())?.to_vec1::<f32>()?;
            for (i, (chosen, rejected)) in chunk.iter().cloned().enumerate() {
                all.push(Preference {
                    chosen,
                    rejected,
                    reference_chosen: reference[i],
                    reference_rejected: reference[chunk.len() + i],
                });
            }
        }
        let epochs = Epochs::new(all.len(), seed);
        let batch = batch.min(pairs.len());
        let accumulation = accumulation.min(pairs.len().div_ceil(batch));
        let loss_type = LossType::default();
        Ok(Refine { pairs: all, epochs, batch, accumulation, loss_type, beta })
    }

    /// The same with another loss.
    pub fn with_loss(self, loss_type: LossType) -> Refine {
        Refine { loss_type, ..self }
    }

    /// Summed loss over `items` divided by `count`, and TRL's metrics.
    fn evaluate(
        &self,
        model: &Transformer,
        items: &[usize],
        count: usize,
        pass: Pass,
    ) -> Result<(Tensor, Later)> {
        let n = items.len();
        let pairs: Vec<&Preference> = items.iter().map(|i| &self.pairs[*i]).collect();
        let both: Vec<&Example> =
            pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected)).collect();
        let lp = token_log_probs(model, &both, pass)?;
        let policy = sequence_log_probs(&lp, 2 * n)?;
        let (chosen, rejected) = (policy.narrow(0, 0, n)?, policy.narrow(0, n, n)?);
        let reference = |f: fn(&Preference) -> f32| {
            Tensor::from_vec(pairs.iter().map(|p| f(p)).collect::<Vec<_>>(), n, policy.device())
        };
        let loss = match self.loss_type {
            LossType::Sigmoid => dpo,
            LossType::Ipo => ipo,
        };
        let d = loss(
            &chosen,
            &rejected,
            &reference(|p| p.reference_chosen)?,
            &reference(|p| p.reference_rejected)?,
            self.beta,
        )?;
        let loss = (d.losses.sum_all()? * (1.0 / count as f64))?;
        // Without their graphs, which would keep all activations.
        let seen = [d.chosen_rewards, d.rejected_rewards, chosen, rejected].map(|t| t.detach());
        let later = move || {
            let [w, l, chosen, rejected] = seen;
            let (w, l) = (w.to_vec1::<f32>()?, l.to_vec1::<f32>()?);
            let total = |x: &[f32]| x.iter().map(|x| *x as f64).sum::<f64>();
            let mut metrics = Metrics::new();
            let mut add = |name: &str, sum: f64| {
                metrics.insert(name.to_string(), (sum, n as f64));
            };
            add("rewards/chosen", total(&w));
            add("rewards/rejected", total(&l));
            add("rewards/margins", total(&w) - total(&l));
            add("rewards/accuracies", w.iter().zip(&l).filter(|(w, l)| w > l).count() as f64);
            add("logps/chosen", total(&chosen.to_vec1::<f32>()?));
            add("logps/rejected", total(&rejected.to_vec1::<f32>()?));
            Ok(metrics)
        };
        Ok((loss, Box::new(later)))
    }

    /// Mean loss over all pairs, without dropout.
    pub fn mean_loss(&self, model: &Transformer) -> Result<f64> {
        let all: Vec<usize> = (0..self.pairs.len()).collect();
        let mut sum = 0.0;
        let model = &model.frozen();
        for items in all.chunks(32) {
            let (loss, _) = self.evaluate(model, items, 1, Pass::default())?;
            sum += loss.to_scalar::<f32>()? as f64;
        }
        Ok(sum / all.len() as f64)
    }
}

impl Objective for Refine {
    type Batch = RefineBatch;

    fn next_step(&mut self) -> Result<Vec<RefineBatch>> {
        let step_pairs = self.batch * self.accumulation;
        let micro = (0..self.accumulation).map(|_| self.epochs.take(self.batch));
        Ok(micro.map(|items| RefineBatch { items, step_pairs }).collect())
    }

    fn loss(
        &self,
        model: &Transformer,
        batch: &RefineBatch,
        pass: Pass,
    ) -> Result<(Tensor, Later)> {
        self.evaluate(model, &batch.items, batch.step_pairs, pass)
    }

    fn split(&self, batch: RefineBatch, parts: usize) -> Result<Vec<RefineBatch>> {
        let RefineBatch { items, step_pairs } = batch;
        let parts = items.chunks(items.len().div_ceil(parts).max(1));
        Ok(parts.map(|items| RefineBatch { items: items.to_vec(), step_pairs }).collect())
    }
}

/// What a refinement did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefineReport {
    pub pairs: usize,
    pub held_out_pairs: usize,
    /// Held-out loss at each look, by step; step 0 is ln 2.
    pub held_out_loss: Vec<(usize, f64)>,
    /// The step whose weights were kept.
    pub best_step: usize,
    pub log: Vec<LogLine>,
}

/// Trains the adapter that `model` carries on `pairs`; leaves the weights of the
/// lowest held-out loss in place.
pub fn refine(
    model: &Transformer,
    tokenizer: &Tokenizer,
    pairs: &[Pair],
    settings: &RefineSettings,
    seed: u64,
    each_step: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<RefineReport> {
    refine_in(&mut World::alone(), model, tokenizer, pairs, settings, seed, each_step)
}

/// The same on every rank of `world`, as in [`train_in`]. Each computes the reference's
/// log-probabilities and the held-out loss of all pairs itself.
pub fn refine_in(
    world: &mut World,
    model: &Transformer,
    tokenizer: &Tokenizer,
    pairs: &[Pair],
    settings: &RefineSettings,
    seed: u64,
    each_step: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<RefineReport> {
    // By question, so that the two halves of a mirrored pair stay together.
    let mut ids: Vec<&str> = pairs.iter().map(|p| p.id.as_str()).collect();
    ids.dedup();
    let held = ((ids.len() as f64 * settings.hold_out).ceil() as usize).min(ids.len() / 2);
    let held_ids: std::collections::HashSet<&str> =
        ids[ids.len() - held..].iter().copied().collect();
    let (held_out, training): (Vec<Pair>, Vec<Pair>) =
        pairs.iter().cloned().partition(|p| held_ids.contains(p.id.as_str()));
    let mut report = RefineReport {
        pairs: training.len(),
        held_out_pairs: held_out.len(),
        held_out_loss: Vec::new(),
        best_step: 0,
        log: Vec::new(),
    };
    if training.len() < 2 || held_out.is_empty() {
        // Nothing to prefer: the refined student is the instructed one, and the
        // report says why.
        return Ok(report);
    }
    let batch = (settings.per_device_train_batch_size, settings.gradient_accumulation_steps);
    let encode = |pairs: &[Pair]| -> Result<Vec<(Example, Example)>> {
        pairs
            .iter()
            .map(|p| {
                let chosen = example(tokenizer, &p.prompt, &p.chosen)?;
                Ok((chosen, example(tokenizer, &p.prompt, &p.rejected)?))
            })
            .collect()
    };
    let refine = |pairs: &[Pair]| -> Result<Refine> {
        let refine = Refine::new(model, encode(pairs)?, batch, settings.beta, seed)?;
        Ok(refine.with_loss(settings.loss_type))
    };
    let (mut objective, judge) = (refine(&training)?, refine(&held_out)?);
    let total = settings.max_steps;
    let plan = TrainerPlan {
        optimizer: OptimizerPlan {
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
            warmup_steps: settings.warmup_steps,
            ..OptimizerPlan::new(settings.learning_rate, total)
        },
        // TRL's default: policy and reference must be the same function.
        dropout: 0.0,
        seed,
        logging_steps: settings.eval_steps,
        save_steps: 0,
    };
    let copy = || -> Result<Vec<Tensor>> {
        model.variables().values().map(|v| Ok(v.as_detached_tensor().copy()?)).collect()
    };
    let mut best = (judge.mean_loss(model)?, copy()?);
    report.held_out_loss.push((0, best.0));
    let nowhere = std::path::Path::new("");
    report.log = train_in(world, model, &mut objective, &plan, nowhere, &mut |step, _| {
        if step % settings.eval_steps == 0 || step == total {
            let loss = judge.mean_loss(model)?;
            report.held_out_loss.push((step, loss));
            if loss < best.0 {
                best = (loss, copy()?);
                report.best_step = step;
            }
        }
        each_step(step, total)
    })?;
    for (var, value) in model.variables().values().zip(&best.1) {
        var.set(value)?;
    }
    Ok(report)
}
