//! Instruction tuning on Demonstrations: QLoRA with loss on the answer.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::loss::{Example, sft, token_log_probs};
use super::optimizer::OptimizerPlan;
use super::parallel::World;
use super::trainer::{Later, LogLine, Metrics, Objective, TrainerPlan, train_in};
use crate::model::{LoraConfig, Pass, Tokenizer, Transformer, rng};
use crate::teach::{Demonstration, DemonstrationSet};

/// Settings of one instruction tuning, named as transformers names them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstructSettings {
    pub lora: LoraConfig,
    pub num_train_epochs: f64,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_ratio: f64,
    pub max_grad_norm: f64,
    pub per_device_train_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    /// Keep only the inputs of blocks for the backward pass, and compute the rest again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// How a checkpoint is chosen; without it the last step's weights are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// Choosing a checkpoint by questions that are held out of training: what transformers
/// does with `eval_strategy = "steps"` and `load_best_model_at_end = true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Training questions of each task that are cut off before the teacher annotates, for
    /// choosing only.
    pub hold_out: usize,
    /// Steps between two looks at the loss on their Demonstrations.
    pub eval_steps: usize,
}

/// `[BOS prompt][answer EOS]` with the loss on the answer: P2's `L_IT`.
///
/// What goes wrong elsewhere cannot here: the BOS is put once, by [`Tokenizer::prompt`],
/// never by a template and a tokenizer both; the EOS is always among the labels, since
/// there is no padding that could share its id; and the mean is over the answer tokens
/// of the whole step, not a mean of the means of micro-batches.
pub fn example(tokenizer: &Tokenizer, prompt: &str, answer: &str) -> Result<Example> {
    let mut tokens = tokenizer.prompt(prompt)?;
    let start = tokens.len();
    tokens.extend(tokenizer.answer(answer)?);
    Ok(Example { tokens, answer: start })
}

/// Training examples of a set's records.
pub fn examples(
    tokenizer: &Tokenizer,
    set: DemonstrationSet,
    records: &[Demonstration],
) -> Result<Vec<Example>> {
    records
        .iter()
        .map(|d| {
            let (prompt, answer) = d.split(set)?;
            example(tokenizer, &prompt, &answer)
        })
        .collect()
}

/// Passes over a fixed set of items in a new seeded order each epoch.
pub(super) struct Epochs {
    n: usize,
    seed: u64,
    epoch: usize,
    order: Vec<usize>,
}

impl Epochs {
    pub fn new(n: usize, seed: u64) -> Epochs {
        Epochs { n, seed, epoch: 0, order: Vec::new() }
    }

    /// The next `count` items; an epoch's end may fall inside.
    pub fn take(&mut self, count: usize) -> Vec<usize> {
        while self.order.len() < count {
            let mut rng = rng::stream(self.seed, &format!("epoch {}", self.epoch));
            self.order.extend(rng::permutation(&mut rng, self.n));
            self.epoch += 1;
        }
        self.order.drain(..count).collect()
    }
}

/// Maximum likelihood of answers.
pub struct Instruct {
    examples: Vec<Example>,
    epochs: Epochs,
    batch: usize,
    accumulation: usize,
}

impl Instruct {
    pub fn new(
        examples: Vec<Example>,
        batch: usize,
        accumulation: usize,
        seed: u64,
    ) -> Result<Self> {
        ensure!(!examples.is_empty(), "there are no demonstrations to tune on");
        ensure!(batch > 0 && accumulation > 0, "batch size and accumulation must be at least 1");
        let epochs = Epochs::new(examples.len(), seed);
        Ok(Instruct { examples, epochs, batch, accumulation })
    }
}

/// Items of one micro-batch, and the answer tokens of the whole step.
pub struct InstructBatch {
    items: Vec<usize>,
    step_tokens: usize,
    /// Micro-batches that it is: 1, or the part of one that was split.
    weight: f64,
}

impl Objective for Instruct {
    type Batch = InstructBatch;

    fn next_step(&mut self) -> Result<Vec<InstructBatch>> {
        let micro: Vec<Vec<usize>> =
            (0..self.accumulation).map(|_| self.epochs.take(self.batch)).collect();
        let tokens = |i: &usize| self.examples[*i].tokens.len() - self.examples[*i].answer;
        let step_tokens = micro.iter().flatten().map(tokens).sum();
        Ok(micro
            .into_iter()
            .map(|items| InstructBatch { items, step_tokens, weight: 1.0 })
            .collect())
    }

    fn loss(
        &self,
        model: &Transformer,
        batch: &InstructBatch,
        pass: Pass,
    ) -> Result<(Tensor, Later)> {
        let items: Vec<&Example> = batch.items.iter().map(|i| &self.examples[*i]).collect();
        let lp = token_log_probs(model, &items, pass)?;
        let metrics =
            Metrics::from([("num_tokens".to_string(), (lp.example.len() as f64, batch.weight))]);
        Ok((sft(&lp, batch.step_tokens)?, Box::new(|| Ok(metrics))))
    }

    fn split(&self, batch: InstructBatch, parts: usize) -> Result<Vec<InstructBatch>> {
        let InstructBatch { items, step_tokens, weight } = batch;
        let parts = items.chunks(items.len().div_ceil(parts).max(1));
        let weight = weight / parts.len() as f64;
        let part = |items: &[usize]| InstructBatch { items: items.to_vec(), step_tokens, weight };
        Ok(parts.map(part).collect())
    }
}

/// What an instruction tuning did.
#[derive(Debug, Clone, PartialEq)]
pub struct InstructReport {
    /// With `eval_loss` in the lines of steps at which it was looked at.
    pub log: Vec<LogLine>,
    /// How the kept weights were chosen; none: they are the last step's.
    pub choice: Option<Choice>,
}

/// A checkpoint chosen by its held-out loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub held_out_examples: usize,
    /// Mean loss of a held-out answer token at each look, by step.
    pub eval_loss: Vec<(usize, f64)>,
    /// The step whose weights were kept: the first of the lowest loss.
    pub best_step: usize,
}

/// Tunes a fresh adapter on `model`, which is quantised first.
pub fn instruct(
    model: &mut Transformer,
    examples: Vec<Example>,
    settings: &InstructSettings,
    seed: u64,
    each_step: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<LogLine>> {
    Ok(instruct_choosing(model, examples, &[], settings, seed, each_step)?.log)
}

/// The same, and the weights of the lowest loss on `held_out` are left in place, if
/// `settings.evaluation` says how often to look and there is anything to look at.
pub fn instruct_choosing(
    model: &mut Transformer,
    examples: Vec<Example>,
    held_out: &[Example],
    settings: &InstructSettings,
    seed: u64,
    each_step: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<InstructReport> {
    let alone = &mut World::alone();
    instruct_in(alone, model, examples, held_out, settings, seed, each_step)
}

/// The same on every rank of `world`, as in [`train_in`]. Each looks at all of `held_out`
/// itself and keeps the weights of the same step.
pub fn instruct_in(
    world: &mut World,
    model: &mut Transformer,
    examples: Vec<Example>,
    held_out: &[Example],
    settings: &InstructSettings,
    seed: u64,
    each_step: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<InstructReport> {
    model.quantise()?;
    model.add_lora(&settings.lora, seed)?;
    model.set_gradient_checkpointing(settings.gradient_checkpointing);
    let per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps;
    let total =
        (examples.len() as f64 * settings.num_train_epochs / per_step as f64).ceil() as usize;
    let look = settings.evaluation.filter(|_| !held_out.is_empty()).map(|e| e.eval_steps);
    ensure!(look != Some(0), "evaluation.eval_steps: must be at least 1");
    let plan = TrainerPlan {
        optimizer: OptimizerPlan {
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
            warmup_steps: (total as f64 * settings.warmup_ratio).ceil() as usize,
            ..OptimizerPlan::new(settings.learning_rate, total)
        },
        dropout: settings.lora.lora_dropout,
        seed,
        // So that a line of the log is there for each look.
        logging_steps: look.unwrap_or(10),
        save_steps: 0,
    };
    let mut objective = Instruct::new(
        examples,
        settings.per_device_train_batch_size,
        settings.gradient_accumulation_steps,
        seed,
    )?;
    let nowhere = std::path::Path::new("");
    let mut looks: Vec<(usize, f64)> = Vec::new();
    let mut best: Option<(usize, f64, Vec<Tensor>)> = None;
    let mut log = train_in(world, model, &mut objective, &plan, nowhere, &mut |step, _| {
        if look.is_some_and(|every| step % every == 0 || step == total) {
            let loss = mean_loss(model, held_out)?;
            looks.push((step, loss));
            if best.as_ref().is_none_or(|(_, lowest, _)| loss < *lowest) {
                let weights = model.variables().values();
                let copies = weights.map(|v| Ok(v.as_detached_tensor().copy()?));
                best = Some((step, loss, copies.collect::<Result<_>>()?));
            }
        }
        each_step(step, total)
    })?;
    let Some((best_step, _, weights)) = best else {
        return Ok(InstructReport { log, choice: None });
    };
    for (var, value) in model.variables().values().zip(&weights) {
        var.set(value)?;
    }
    for (step, loss) in &looks {
        if let Some(line) = log.iter_mut().find(|line| line.step == *step) {
            line.metrics.insert("eval_loss".to_string(), *loss);
        }
    }
    let choice = Choice { held_out_examples: held_out.len(), eval_loss: looks, best_step };
    Ok(InstructReport { log, choice: Some(choice) })
}

/// Mean loss of an answer token over all examples, without dropout.
pub fn mean_loss(model: &Transformer, examples: &[Example]) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0);
    let model = &model.frozen();
    for chunk in examples.chunks(32) {
        let lp = token_log_probs(model, &chunk.iter().collect::<Vec<_>>(), Pass::default())?;
        tokens += lp.example.len();
        sum += f64::from(sft(&lp, 1)?.to_scalar::<f32>()?);
    }
    ensure!(tokens > 0, "there are no answers to take the loss of");
    Ok(sum / tokens as f64)
}
