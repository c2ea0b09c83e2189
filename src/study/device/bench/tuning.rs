//! QLoRA and DPO steps, by the trainer that tunes students.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::Rng;
use serde_json::{Map, Value, json};

use super::flops::StepFlops;
use super::part::Deadline;
use super::session::{Session, Taken, lora};
use super::{Shape, Work};
use crate::model::ops::gpu::{Gpu, profiled};
use crate::model::{Transformer, rng};
use crate::tune::loss::Example;
use crate::tune::{Instruct, Objective, OptimizerPlan, Refine, TrainerPlan, train};

/// Steps before the clock counts: the first makes the optimizer's state and fills the pool.
const WARMUP: usize = 2;

/// What is measured of a step at a time, at most.
const MOST: Duration = Duration::from_secs(6);

fn plan(work: Work, steps: usize) -> TrainerPlan {
    let (rate, clip) = if work == Work::Dpo { (1e-6, 1.0) } else { (2e-5, 0.3) };
    TrainerPlan {
        optimizer: OptimizerPlan {
            weight_decay: 1e-3,
            max_grad_norm: clip,
            ..OptimizerPlan::new(rate, steps)
        },
        dropout: lora().lora_dropout,
        seed: 1,
        logging_steps: 1,
        save_steps: 0,
    }
}

/// Times of whole steps, from one update to the next; `most` is for those that count.
fn steps<O: Objective>(
    gpu: &Gpu,
    model: &Transformer,
    objective: &mut O,
    plan: &TrainerPlan,
    most: Duration,
) -> Result<Taken> {
    let (mut taken, mut last, mut begun) = (Vec::new(), Instant::now(), Instant::now());
    let mut enough = false;
    let end = train(model, objective, plan, Path::new(""), &mut |step, _| {
        gpu.synchronise()?;
        if step > WARMUP {
            taken.push(1e3 * last.elapsed().as_secs_f64());
        } else {
            begun = Instant::now();
        }
        enough = taken.len() >= 3 && begun.elapsed() > most;
        ensure!(!enough, "measured long enough");
        last = Instant::now();
        Ok(())
    });
    match end {
        Err(e) if !enough => Err(e),
        _ => Ok(Taken(taken)),
    }
}

/// Random sequences of one length whose last tokens carry the loss.
fn examples(shape: Shape, count: usize, purpose: &str) -> Vec<Example> {
    let (sizes, vocab) = (shape.sizes(), shape.config().vocab_size as u32);
    let mut rng = rng::stream(1, purpose);
    (0..count)
        .map(|_| Example {
            tokens: (0..sizes.length).map(|_| rng.random_range(3..vocab)).collect(),
            answer: sizes.length - sizes.answer,
        })
        .collect()
}

/// Pairs that share their prompt.
fn pairs(shape: Shape, count: usize) -> Vec<(Example, Example)> {
    let chosen = examples(shape, count, "chosen");
    let rejected = examples(shape, count, "rejected");
    let paired = chosen.into_iter().zip(rejected).map(|(chosen, mut rejected)| {
        rejected.tokens[..chosen.answer].copy_from_slice(&chosen.tokens[..chosen.answer]);
        (chosen, rejected)
    });
    paired.collect()
}

const FED: &str = "the last token of a sequence predicts nothing and is not fed";

impl Session<'_> {
    /// Every batch size; one for which there is no time is said to be so.
    fn batches(
        &mut self,
        work: Work,
        shape: Shape,
        deadline: Deadline,
        batches: &[usize],
        mut measure: impl FnMut(&mut Self, usize, Duration) -> Result<f64>,
    ) -> Result<()> {
        // Of one sequence or pair, of the largest batch so far.
        let mut seconds = 0.0;
        for (i, &batch) in batches.iter().enumerate() {
            let known = json!({ "shape": shape.name(), "batch": batch });
            let left = deadline.left();
            let least = (WARMUP + 3) as f64 * seconds * batch as f64;
            if left.is_zero() || least > left.as_secs_f64() {
                self.failed(work, known, "no time left")?;
                continue;
            }
            // What is to come takes longer, the larger the batch.
            let rest: usize = batches[i..].iter().sum();
            let most = left.mul_f64(0.7 * batch as f64 / rest as f64).min(MOST);
            self.guarded(work, &known, |s| {
                s.gpu.trim()?;
                seconds = measure(s, batch, most.max(Duration::from_secs(1)))? / batch as f64;
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(super) fn sft(&mut self, shape: Shape, deadline: Deadline) -> Result<()> {
        let (sizes, model) = (shape.sizes(), self.model(shape, true)?);
        self.batches(Work::Sft, shape, deadline, sizes.batches, |s, batch, most| {
            let mut objective = Instruct::new(examples(shape, batch, "sft"), batch, 1, 1)?;
            let plan = plan(Work::Sft, WARMUP + sizes.repeats);
            let taken = steps(&s.gpu, &model, &mut objective, &plan, most)?;
            let seconds = taken.median() / 1e3;
            let rate = (batch * sizes.length) as f64 / seconds;
            s.rates.insert((shape, batch), rate);
            let found = json!({
                "shape": shape.name(), "batch": batch, "length": sizes.length,
                "answer": sizes.answer, "tokens_per_s": rate,
            });
            let notes = json!({ "notes": format!("gradient checkpointing; {FED}") });
            s.line("sft", &[found, taken.fields(), s.memory()?, notes])?;
            Ok(seconds)
        })
    }

    pub(super) fn dpo(&mut self, shape: Shape, deadline: Deadline) -> Result<()> {
        let (sizes, model) = (shape.sizes(), self.model(shape, true)?);
        self.batches(Work::Dpo, shape, deadline, sizes.pairs, |s, batch, most| {
            let mut objective = Refine::new(&model, pairs(shape, batch), (batch, 1), 0.1, 1)?;
            // Making the reference's log-probabilities is no part of a step.
            s.gpu.trim()?;
            let plan = plan(Work::Dpo, WARMUP + sizes.repeats);
            let taken = steps(&s.gpu, &model, &mut objective, &plan, most)?;
            let seconds = taken.median() / 1e3;
            let found = json!({
                "shape": shape.name(), "batch": batch, "length": sizes.length,
                "answer": sizes.answer, "pairs_per_s": batch as f64 / seconds,
                "tokens_per_s": (2 * batch * sizes.length) as f64 / seconds,
            });
            let notes = format!("gradient checkpointing; reference computed before; {FED}");
            s.line("dpo", &[found, taken.fields(), s.memory()?, json!({ "notes": notes })])?;
            Ok(seconds)
        })
    }

    /// At the batch size that was fastest, or the second that is tried.
    pub(super) fn steps(&mut self, shape: Shape, deadline: Deadline) -> Result<()> {
        let (sizes, limits) = (shape.sizes(), self.limits()?);
        let model = self.model(shape, true)?;
        let of_shape = self.rates.iter().filter(|((of, _), _)| *of == shape);
        let fastest = of_shape.max_by(|a, b| a.1.total_cmp(b.1)).map(|((_, batch), _)| *batch);
        let batch = fastest.unwrap_or(sizes.batches[1]);
        self.gpu.trim()?;
        let mut objective = Instruct::new(examples(shape, batch, "sft"), batch, 1, 1)?;
        let most = deadline.left().mul_f64(0.5).min(MOST);
        let gpu = self.gpu.clone();
        let plan_of = |steps| plan(Work::Steps, steps);
        let taken = steps(&gpu, &model, &mut objective, &plan_of(WARMUP + sizes.repeats), most)?;
        let (end, mut split) = profiled(&gpu, || {
            Ok(train(&model, &mut objective, &plan_of(PROFILED), Path::new(""), &mut |_, _| Ok(())))
        })?;
        end?;
        let whole = taken.median();
        let mut parts = Map::new();
        let mut other = whole;
        for class in split.values_mut() {
            *class /= PROFILED as f64;
            other -= *class;
        }
        parts.extend(split.iter().map(|(class, ms)| (class.name().to_string(), json!(ms))));
        parts.insert("other".into(), json!(other));
        let fed = sizes.length - 1;
        let flops = StepFlops::of(&shape.config(), batch, fed, batch * sizes.answer);
        let second = limits.tflops * 1e12 * whole / 1e3;
        let found = json!({
            "shape": shape.name(), "batch": batch, "split": Value::from(parts),
            "model_flops": flops.model(), "mfu": flops.model() / second,
            "hardware_flops": flops.total(), "hfu": flops.total() / second,
            "peak_tflops": limits.tflops, "notes": NOTES,
        });
        self.line("steps", &[found, taken.fields()])
    }
}

/// Steps between events: the first of them makes the optimizer's state.
const PROFILED: usize = 3;

const NOTES: &str = "split: means of 3 steps with an event before and after each kernel and \
    product; other is what no class holds: candle's own element-wise kernels, copies, launches \
    and waiting. model_flops: 2N a token forward and 2N for the gradient of the \
    activations (frozen weights have none of their own), causal attention and the head on \
    labelled tokens on top; hardware_flops counts the forward pass that gradient \
    checkpointing does again as well";
