//! Training steps: QLoRA on answers, AdamW alone, and DPO.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Tensor, Var};
use cotalign::model::{LoraConfig, Pass, Transformer, load_adapter, load_model};
use cotalign::tune::loss::{Example, ipo, sft, token_log_probs};
use cotalign::tune::{
    AdamW, Gradients, Later, LogLine, Metrics, Objective, OptimizerPlan, Refine, RefineBatch,
    TrainerPlan, train,
};
use serde::Deserialize;

use super::support::{agree, distance, fixture, floats, ids, json, tensors};

/// The base in NF4 with an adapter of the fixtures.
fn student(adapter: &str) -> Transformer {
    let mut model = load_model(&fixture("sft/base"), true).unwrap();
    let dir = fixture(adapter);
    load_adapter(&mut model, &LoraConfig::load(&dir).unwrap(), &dir).unwrap();
    model
}

/// The largest distance, absolute or relative to the expected value, whichever
/// is smaller for a value: `|Δ| / max(scale, |x|)` with `scale` the ratio of the
/// two tolerances.
fn relative(found: &[f32], expected: &[f32], scale: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).fold(0.0, |worst, (a, b)| {
        worst.max((*a as f64 - *b as f64).abs() / (*b as f64).abs().max(scale))
    })
}

#[derive(Deserialize)]
struct Settings {
    lr: f64,
    weight_decay: f64,
    max_grad_norm: f64,
    #[serde(default)]
    warmup_steps: usize,
    steps: usize,
}

impl Settings {
    fn optimizer(&self) -> OptimizerPlan {
        OptimizerPlan {
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            warmup_steps: self.warmup_steps,
            ..OptimizerPlan::new(self.lr, self.steps)
        }
    }

    fn trainer(&self) -> TrainerPlan {
        TrainerPlan {
            optimizer: self.optimizer(),
            dropout: 0.0,
            seed: 0,
            logging_steps: 1,
            save_steps: 0,
        }
    }
}

#[derive(Deserialize)]
struct SftExpected {
    settings: Settings,
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
    learning_rate: Vec<f64>,
}

/// The fixture's batches, one after the other.
struct Given {
    batches: std::vec::IntoIter<Vec<Example>>,
}

impl Objective for Given {
    type Batch = Vec<Example>;

    fn next_step(&mut self) -> anyhow::Result<Vec<Vec<Example>>> {
        Ok(vec![self.batches.next().expect("no more than ten steps")])
    }

    fn loss(
        &self,
        model: &Transformer,
        batch: &Vec<Example>,
        pass: Pass,
    ) -> anyhow::Result<(Tensor, Later)> {
        let lp = token_log_probs(model, &batch.iter().collect::<Vec<_>>(), pass)?;
        Ok((sft(&lp, lp.example.len())?, Box::new(|| Ok(Metrics::new()))))
    }
}

fn batches(per_step: usize) -> Vec<Vec<Example>> {
    let data = tensors("sft/expected.safetensors");
    let starts = ids(&data["answer_start"]);
    let all = super::models::sequences(&ids(&data["input_ids"]), &ids(&data["lengths"]));
    let examples: Vec<Example> = all
        .into_iter()
        .zip(starts)
        .map(|(tokens, start)| Example { tokens, answer: start as usize })
        .collect();
    examples.chunks(per_step).map(<[Example]>::to_vec).collect()
}

#[test]
fn one_qlora_step_and_ten() {
    let expected: SftExpected = json("sft/expected.json");
    let model = student("sft/adapter0");
    let all = batches(4);

    let lp = token_log_probs(&model, &all[0].iter().collect::<Vec<_>>(), Pass::default()).unwrap();
    let loss = sft(&lp, lp.example.len()).unwrap();
    let off = (loss.to_scalar::<f32>().unwrap() as f64 - expected.loss[0]).abs();
    agree("QLoRA step: loss", "PEFT + bitsandbytes", "absolute", off, 1e-5);
    let mut grads = Gradients::new();
    model.backward(&loss, &mut grads).unwrap();
    let theirs = tensors("sft/expected.safetensors");
    let mut worst: f64 = 0.0;
    for name in model.variables().keys() {
        // 1e-5 absolute or 1e-4 relative, whichever is wider.
        worst = worst.max(relative(&floats(&grads[name]), &floats(&theirs[name]), 0.1));
    }
    let what = format!("QLoRA step: {} LoRA gradients", grads.len());
    agree(&what, "PEFT + bitsandbytes", "relative", worst, 1e-4);

    let mut objective = Given { batches: all.into_iter() };
    let plan = expected.settings.trainer();
    let nowhere = Path::new("");
    let log = train(&model, &mut objective, &plan, nowhere, &mut |_, _| Ok(())).unwrap();
    let column = |f: fn(&LogLine) -> f64| log.iter().map(|l| f(l) as f32).collect::<Vec<_>>();
    let theirs = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let off = distance(&column(|l| l.loss), &theirs(&expected.loss));
    agree("QLoRA, ten steps: losses", "PEFT + bitsandbytes", "absolute", off, 1e-5);
    let off = relative(&column(|l| l.grad_norm), &theirs(&expected.grad_norm), 1e-9);
    agree("QLoRA, ten steps: grad_norm", "PEFT + bitsandbytes", "relative", off, 1e-5);
    let off = distance(&column(|l| l.learning_rate), &theirs(&expected.learning_rate));
    agree("cosine schedule with warm-up: rates", "transformers", "absolute", off, 1e-9);
    compare_adapter("QLoRA, ten steps: adapter", "PEFT + bitsandbytes", &model, "sft/adapter10");
}

fn compare_adapter(what: &str, with: &str, model: &Transformer, adapter: &str) {
    let theirs = tensors(&format!("{adapter}/adapter_model.safetensors"));
    let mut worst: f64 = 0.0;
    for (name, var) in model.variables() {
        worst = worst.max(distance(&floats(var), &floats(&theirs[name])));
    }
    agree(what, with, "absolute", worst, 1e-5);
}

#[derive(Deserialize)]
struct AdamwExpected {
    settings: Settings,
    grad_norm: Vec<f64>,
}

#[test]
fn ten_steps_of_adamw() {
    let expected: AdamwExpected = json("adamw/expected.json");
    let t = tensors("adamw/expected.safetensors");
    // As matrices: vectors do not decay here, as in transformers' Trainer.
    let matrix = |t: &Tensor| t.reshape(((), t.dim(t.rank() - 1).unwrap())).unwrap();
    let vars: BTreeMap<String, Var> = (0..3)
        .map(|i| {
            let initial = matrix(&t[&format!("initial.{i}")]);
            (i.to_string(), Var::from_tensor(&initial).unwrap())
        })
        .collect();
    let mut adam = AdamW::new(expected.settings.optimizer());
    let (mut worst, mut norms): (f64, Vec<f64>) = (0.0, Vec::new());
    for step in 0..expected.settings.steps {
        let at = |key: &str| floats(&t[key].get(step).unwrap());
        let gradient = |i: usize| matrix(&t[&format!("gradient.{i}")].get(step).unwrap());
        let grads: Gradients = (0..3).map(|i| (i.to_string(), gradient(i))).collect();
        norms.push(adam.update(&vars, &grads).unwrap().grad_norm().unwrap());
        for (i, var) in &vars {
            worst = worst.max(distance(&floats(var), &at(&format!("parameter.{i}"))));
        }
    }
    agree("AdamW, ten steps with clipping: parameters", "torch", "absolute", worst, 1e-6);
    for (ours, theirs) in norms.iter().zip(&expected.grad_norm) {
        assert!((ours - theirs).abs() <= 1e-5 * theirs, "{ours} {theirs}");
    }
}

#[derive(Deserialize)]
struct DpoExpected {
    settings: Settings,
    steps: Vec<BTreeMap<String, serde_json::Value>>,
    ipo_after_training_on_first_batch: Ipo,
}

#[derive(Deserialize)]
struct Ipo {
    chosen_logps: Vec<f32>,
    rejected_logps: Vec<f32>,
    loss_averaged: f64,
    loss_summed: f64,
}

/// [`Refine`] with the fixture's batches in their order.
struct InOrder {
    refine: Refine,
    next: usize,
}

impl Objective for InOrder {
    type Batch = RefineBatch;

    fn next_step(&mut self) -> anyhow::Result<Vec<RefineBatch>> {
        self.next += 4;
        let items = (self.next - 4..self.next).collect();
        Ok(vec![RefineBatch { items, step_pairs: 4 }])
    }

    fn loss(
        &self,
        model: &Transformer,
        batch: &RefineBatch,
        pass: Pass,
    ) -> anyhow::Result<(Tensor, Later)> {
        self.refine.loss(model, batch, pass)
    }
}

/// The rows of a collated batch: four chosen, then four rejected answers.
fn dpo_pairs(steps: usize) -> Vec<(Example, Example)> {
    let t = tensors("dpo/batches.safetensors");
    let mut pairs = Vec::new();
    for step in 0..steps {
        let part = |key: &str| {
            let t = &t[&format!("{step}.{key}")];
            let width = t.dim(1).unwrap();
            ids(t).chunks(width).map(<[u32]>::to_vec).collect::<Vec<_>>()
        };
        let (tokens, real, answer) =
            (part("input_ids"), part("attention_mask"), part("completion_mask"));
        let rows: Vec<Example> = (0..tokens.len())
            .map(|i| {
                // The padding is the EOS, so only the mask tells them apart.
                let n = real[i].iter().filter(|m| **m == 1).count();
                let start = answer[i].iter().position(|m| *m == 1).unwrap();
                Example { tokens: tokens[i][..n].to_vec(), answer: start }
            })
            .collect();
        let (chosen, rejected) = rows.split_at(rows.len() / 2);
        pairs.extend(chosen.iter().cloned().zip(rejected.iter().cloned()));
    }
    pairs
}

#[test]
fn five_dpo_steps_with_a_tuned_adapter_as_reference() {
    let expected: DpoExpected = json("dpo/expected.json");
    let model = student("sft/adapter10");
    let pairs = dpo_pairs(expected.steps.len());
    let refine = Refine::new(&model, pairs, (4, 1), 0.1, 0).unwrap();
    let mut objective = InOrder { refine, next: 0 };
    let plan = expected.settings.trainer();
    let nowhere = Path::new("");
    let log = train(&model, &mut objective, &plan, nowhere, &mut |_, _| Ok(())).unwrap();
    let mut off: BTreeMap<&str, f64> = BTreeMap::new();
    for (line, theirs) in log.iter().zip(&expected.steps) {
        let own = [("loss", line.loss), ("learning_rate", line.learning_rate)];
        let named = own.into_iter().chain(line.metrics.iter().map(|(k, v)| (k.as_str(), *v)));
        for (name, value) in named {
            let Some(expected) = theirs.get(name).and_then(|v| v.as_f64()) else { continue };
            let worst = off.entry(name).or_default();
            *worst = worst.max((value - expected).abs());
        }
        let norm = theirs["grad_norm"].as_f64().unwrap();
        assert!((line.grad_norm - norm).abs() < 1e-4 * norm, "{} {norm}", line.grad_norm);
    }
    assert_eq!(off.len(), 8, "every metric was compared: {off:?}");
    for (name, off) in off {
        agree(&format!("DPO, five steps: {name}"), "TRL", "absolute", off, 1e-5);
    }
    compare_adapter("DPO, five steps: adapter", "TRL", &model, "dpo/adapter5");
    assert_eq!(log[0].metrics["rewards/margins"], 0.0, "the reference is the tuned student");
    // TRL averages IPO's log-ratios over tokens, the paper and we sum them.
    let given = &expected.ipo_after_training_on_first_batch;
    let t = |x: &[f32]| Tensor::new(x, &candle_core::Device::Cpu).unwrap();
    let reference =
        |key: &str| -> Vec<f32> { serde_json::from_value(expected.steps[0][key].clone()).unwrap() };
    let (chosen, rejected) = (reference("ref_logps/chosen"), reference("ref_logps/rejected"));
    let policy = (t(&given.chosen_logps), t(&given.rejected_logps));
    let ours = ipo(&policy.0, &policy.1, &t(&chosen), &t(&rejected), 0.1).unwrap();
    let mean = floats(&ours.losses).iter().sum::<f32>() / 4.0;
    let off = (mean as f64 - given.loss_summed).abs() / given.loss_summed;
    agree("IPO, sums as in its paper: loss", "its definition in torch", "relative", off, 1e-5);
    assert!((given.loss_averaged - given.loss_summed).abs() > 1.0);
}
