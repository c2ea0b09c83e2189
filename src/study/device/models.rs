//! Whole models: logits, gradients, training steps and generated tokens.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device};
use rand::Rng;

use super::check::{Compared, Target, allowed, off, values};
use crate::model::{
    Config, Generation, LoraConfig, Packed, Pass, Placement, Sampling, Transformer, generate, rng,
};
use crate::tune::loss::Example;
use crate::tune::{
    Gradients, Instruct, LogLine, Objective, OptimizerPlan, Refine, TrainerPlan, train,
};

const VOCAB: usize = 101;

fn config(model_type: &str) -> Config {
    let sparse = model_type == "mixtral";
    Config {
        model_type: model_type.into(),
        vocab_size: VOCAB,
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        sliding_window: (model_type == "mistral").then_some(9),
        attention_bias: model_type == "llama",
        tie_word_embeddings: model_type == "qwen3",
        head_dim: (model_type == "qwen3").then_some(16),
        num_local_experts: sparse.then_some(4),
        num_experts_per_tok: 2,
        ..Config::default()
    }
}

/// The same numbers everywhere: rounded to `dtype`, then held in what `place` says.
fn base(model_type: &str, dtype: DType, place: &Placement) -> Result<Transformer> {
    let model = Transformer::init(&config(model_type), 5)?.merged()?;
    let rounded = model.at(&Placement { device: Device::Cpu, dtype })?;
    rounded.at(&Placement { device: Device::Cpu, dtype: DType::F32 })?.at(place)
}

fn student(model_type: &str, dtype: DType, place: &Placement) -> Result<Transformer> {
    // Quantised before it moves: NF4 of the same numbers.
    let mut model = base(model_type, dtype, &Placement::CPU)?;
    model.quantise()?;
    let mut model = model.at(place)?;
    model.add_lora(&LoraConfig::default(), 3)?;
    // B starts at zero, and nothing would reach A on the first step.
    for (name, var) in model.variables().iter().filter(|(name, _)| name.contains("lora_B")) {
        let b = rng::normal(&mut rng::stream(7, name), var.elem_count(), 0.05);
        var.set(&candle_core::Tensor::from_vec(b, var.shape(), var.device())?)?;
    }
    Ok(model)
}

fn examples(count: usize) -> Vec<Example> {
    let mut rng = rng::stream(11, "examples");
    (0..count)
        .map(|_| {
            let len = rng.random_range(6..20);
            let tokens = (0..len).map(|_| rng.random_range(0..VOCAB as u32)).collect();
            Example { tokens, answer: len / 2 }
        })
        .collect()
}

fn gradients<O: Objective>(
    model: &Transformer,
    objective: &mut O,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut sums = Gradients::new();
    for batch in objective.next_step()? {
        let (part, _) = objective.loss(model, &batch, Pass::default())?;
        model.backward(&part, &mut sums)?;
    }
    sums.iter().map(|(name, g)| Ok((name.clone(), values(g)?))).collect()
}

fn steps<O: Objective>(model: &Transformer, objective: &mut O) -> Result<Vec<LogLine>> {
    let plan = TrainerPlan {
        optimizer: OptimizerPlan { weight_decay: 0.1, ..OptimizerPlan::new(3e-3, 10) },
        dropout: 0.1,
        seed: 3,
        logging_steps: 1,
        save_steps: 0,
    };
    train(model, objective, &plan, Path::new(""), &mut |_, _| Ok(()))
}

fn pairs() -> Vec<(Example, Example)> {
    let all = examples(12);
    all.chunks(2).map(|c| (c[0].clone(), c[1].clone())).collect()
}

fn answers(model: &Transformer, temperature: f64) -> Result<Vec<Generation>> {
    let prompts: Vec<Vec<u32>> =
        examples(7).into_iter().map(|e| [vec![1, 2, 3], e.tokens].concat()).collect();
    let keys: Vec<String> = (0..prompts.len()).map(|i| i.to_string()).collect();
    let samples = if temperature > 0.0 { 2 } else { 1 };
    let sampling =
        Sampling { temperature, max_new_tokens: 12, seed: 1, batch: 3, samples, stop: Vec::new() };
    generate(model, &prompts, &keys, &sampling, [0u32].as_slice(), &mut || ())
}

pub(super) fn check(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    let place = target.place(dtype);
    let cpu = Placement::CPU;
    for model_type in ["llama", "mistral", "qwen3", "mixtral"] {
        let mut compared = |what: &str, off: f64, allowed: f64| {
            keep(Compared { what: format!("{model_type}: {what}"), dtype, off, allowed })
        };
        // A router that rounding turns sends a token elsewhere: no small difference. The
        // bound still tells results that have nothing to do with the CPU's.
        let routed = model_type == "mixtral" && dtype == DType::BF16;
        let loose = if routed { 1.0 } else { 3.0 * allowed(dtype) };

        let sequences: Vec<Vec<u32>> = examples(5).into_iter().map(|e| e.tokens).collect();
        let logits = |place: &Placement| -> Result<Vec<f32>> {
            let model = base(model_type, dtype, place)?;
            let hidden = model.hidden(&Packed::new(&sequences), Pass::default())?;
            values(&model.logits(&hidden.states)?)
        };
        let (a, b) = (logits(&cpu)?, target.run(|| logits(&place))?);
        compared("logits", off(&a, &b), loose);

        for checkpointing in [false, true] {
            let run = |place: &Placement| {
                let mut model = student(model_type, dtype, place)?;
                model.set_gradient_checkpointing(checkpointing);
                gradients(&model, &mut Instruct::new(examples(8), 4, 2, 7)?)
            };
            let (a, b) = (run(&cpu)?, target.run(|| run(&place))?);
            ensure!(a.keys().eq(b.keys()), "{model_type}: other parameters have gradients");
            let flat =
                |m: BTreeMap<String, Vec<f32>>| m.into_values().flatten().collect::<Vec<_>>();
            let again = if checkpointing { ", blocks computed again" } else { "" };
            compared(&format!("gradients of an SFT step{again}"), off(&flat(a), &flat(b)), loose);
        }

        let sft = |place: &Placement| {
            let model = student(model_type, dtype, place)?;
            steps(&model, &mut Instruct::new(examples(8), 4, 2, 7)?)
        };
        let (a, b) = (sft(&cpu)?, target.run(|| sft(&place))?);
        let losses = |log: &[LogLine]| log.iter().map(|l| l.loss as f32).collect::<Vec<_>>();
        let norms = |log: &[LogLine]| log.iter().map(|l| l.grad_norm as f32).collect::<Vec<_>>();
        compared("losses of ten SFT steps", off(&losses(&a), &losses(&b)), loose);
        compared("norms of gradients in ten SFT steps", off(&norms(&a), &norms(&b)), 3.0 * loose);

        let dpo = |place: &Placement| {
            let model = student(model_type, dtype, place)?;
            steps(&model, &mut Refine::new(&model, pairs(), (3, 1), 0.1, 5)?)
        };
        let (a, b) = (dpo(&cpu)?, target.run(|| dpo(&place))?);
        compared("losses of ten DPO steps", off(&losses(&a), &losses(&b)), 2.0 * loose);

        if dtype == DType::F32 {
            for temperature in [0.0, 1.0] {
                let run =
                    |place: &Placement| answers(&base(model_type, dtype, place)?, temperature);
                let (a, b) = (run(&cpu)?, target.run(|| run(&place))?);
                let wrong = a.iter().zip(&b).filter(|(a, b)| a != b).count();
                let how = if temperature > 0.0 { "drawn" } else { "greedy" };
                let what = format!("answers of other tokens, {how}, of {}", a.len());
                compared(&what, wrong as f64, 0.0);
            }
        }
        let merged = |place: &Placement| -> Result<Vec<f32>> {
            let model = student(model_type, dtype, place)?.merged()?;
            let hidden = model.hidden(&Packed::new(&sequences), Pass::default())?;
            values(&model.logits(&hidden.states)?)
        };
        let (a, b) = (merged(&cpu)?, target.run(|| merged(&place))?);
        compared("logits with the adapter folded in", off(&a, &b), loose);
    }
    Ok(())
}
