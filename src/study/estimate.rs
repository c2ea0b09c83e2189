//! What a plan costs before anything starts: downloads, memory, hours, money.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::experiments::lay_out;
use super::questions::{Cut, QuestionsRef, Side};
use super::spec::Plan;
use super::stage::Stage;
use crate::model::{Config, tensor_shapes};
use crate::task::{Benchmark, Cue, NativeSplit, Split, sources};
use crate::tune::memory::{StepShape, predict};

/// Tokens of a question with its options, of a plain and of a worked answer, and
/// operations a second. Guesses, all of them, and printed as such: the real ones are
/// known when the first stage is done.
#[derive(Debug, Clone, Copy)]
pub struct Assumptions {
    pub prompt: f64,
    pub plain: f64,
    pub cot: f64,
    pub flops: f64,
}

impl Assumptions {
    /// On the CPU: 65 G operations a second and core, which is what pretraining the
    /// pocket models reaches (0.97 M parameters, 11 thousand tokens a second and core,
    /// six operations a parameter and token).
    pub fn cpu(cores: usize) -> Assumptions {
        Assumptions { prompt: 120.0, plain: 12.0, cot: 150.0, flops: 65e9 * cores as f64 }
    }

    fn answer(&self, cue: Cue) -> f64 {
        match cue {
            Cue::Plain => self.plain,
            Cue::Cot => self.cot,
        }
    }
}

/// What one model takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelEstimate {
    /// Bytes to download; none where it is served elsewhere or not in `data/models.toml`.
    pub download: Option<u64>,
    pub gated: bool,
    /// Bytes at the peak of answering, and of training if it is trained.
    pub memory: Option<u64>,
    /// Prompts to answer.
    pub prompts: f64,
    /// Tokens read and written.
    pub tokens: (f64, f64),
    /// Tokens trained on, epochs counted.
    pub trained: f64,
    pub hours: Option<f64>,
    /// Of answers behind a server whose prices are given, in their currency.
    pub cost: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    model: Vec<Known>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    name: String,
    #[serde(default)]
    gated: bool,
    #[serde(default = "llama")]
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    vocab_size: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
}

fn llama() -> String {
    "llama".into()
}

impl Known {
    fn config(&self) -> Config {
        Config {
            model_type: self.model_type.clone(),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            vocab_size: self.vocab_size,
            tie_word_embeddings: self.tie_word_embeddings,
            max_position_embeddings: 4096,
            ..Config::default()
        }
    }
}

/// Rows of a benchmark's split on the hub.
fn rows(benchmark: Benchmark, split: Split) -> usize {
    let split = match split {
        Split::Test => NativeSplit::scored(benchmark),
        _ => NativeSplit::Train,
    };
    sources::source(benchmark).ok().and_then(|s| s.rows(split)).unwrap_or(usize::MAX)
}

fn count(q: &QuestionsRef) -> f64 {
    let all = match q.cut {
        None => rows(q.benchmark, q.split),
        Some(Cut { hold_out, side: Side::HeldOut, .. }) => hold_out,
        Some(Cut { hold_out, .. }) => rows(q.benchmark, q.split).saturating_sub(hold_out),
    };
    (if q.count == 0 { all } else { q.count.min(all) }) as f64
}

/// Estimates every model of a plan, by name.
pub fn estimate(plan: &Plan, a: &Assumptions) -> Result<BTreeMap<String, ModelEstimate>> {
    let facts: Facts = toml::from_str(include_str!("../../data/models.toml"))
        .context("data/models.toml, as built in")?;
    let grid = lay_out(plan)?;
    let mut all = BTreeMap::<String, ModelEstimate>::new();
    for id in &grid.order {
        let stage = &grid.stages[id];
        match stage {
            Stage::Annotate(p) => {
                let e = all.entry(p.model.name.clone()).or_default();
                answers(e, count(&p.questions), p.cue, a);
            }
            Stage::Probe(p) => {
                let e = all.entry(p.model.name.clone()).or_default();
                answers(e, count(&p.questions), p.cue, a);
                if p.language_model {
                    e.tokens.0 += count(&p.questions) * a.prompt;
                }
            }
            Stage::Instruct(p) => {
                let e = all.entry(p.student.name.clone()).or_default();
                let cues = p.set.cues();
                for cue in cues {
                    let records = count(&p.questions).min(p.limit as f64);
                    e.trained +=
                        records * p.settings.num_train_epochs * (a.prompt + a.answer(*cue));
                }
            }
            Stage::Refine(p) => {
                let e = all.entry(p.student.name.clone()).or_default();
                let n = count(&p.questions) * p.settings.samples as f64;
                for cue in Cue::ALL {
                    answers(e, n, cue, a);
                }
                let pair = 2.0 * a.prompt + a.plain + a.cot;
                e.tokens.0 += n * pair;
                let s = &p.settings;
                let steps =
                    s.max_steps * s.per_device_train_batch_size * s.gradient_accumulation_steps;
                e.trained += steps as f64 * pair;
            }
        }
    }
    let batch = plan.instruct.per_device_train_batch_size;
    let length = (a.prompt + a.cot) as usize;
    #[cfg(feature = "remote")]
    for member in plan.teachers.iter().chain(&plan.students) {
        let Some(teacher) = &member.remote else { continue };
        let prices = (teacher.price_per_million_input, teacher.price_per_million_output);
        if let (Some(e), (Some(input), Some(output))) = (all.get_mut(&member.model.name), prices) {
            e.cost = Some((e.tokens.0 * input + e.tokens.1 * output) / 1e6);
        }
    }
    for (name, e) in &mut all {
        let Some(known) = facts.model.iter().find(|k| k.name == *name) else { continue };
        let config = known.config();
        let parameters: usize =
            tensor_shapes(&config).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        e.gated = known.gated;
        e.download = Some(2 * parameters as u64);
        let mut memory = 4 * parameters;
        if e.trained > 0.0 {
            let shape = StepShape {
                sequences: batch,
                length,
                answer: a.cot as usize,
                gradient_accumulation_steps: plan.instruct.gradient_accumulation_steps,
                gradient_checkpointing: plan.instruct.gradient_checkpointing,
            };
            memory = memory.max(predict(&config, &plan.instruct.lora, &shape)?.total());
        }
        e.memory = Some(memory as u64);
        // Two operations a parameter and token forward, two more for the gradient of
        // the input, and two again where activations are computed twice.
        let trained = if plan.instruct.gradient_checkpointing { 6.0 } else { 4.0 };
        let work = 2.0 * (e.tokens.0 + e.tokens.1) + trained * e.trained;
        e.hours = Some(work * parameters as f64 / a.flops / 3600.0);
    }
    Ok(all)
}

fn answers(e: &mut ModelEstimate, n: f64, cue: Cue, a: &Assumptions) {
    e.prompts += n;
    e.tokens.0 += n * a.prompt;
    e.tokens.1 += n * a.answer(cue);
}

/// The estimates as a table for people, with what they rest on.
pub fn table(all: &BTreeMap<String, ModelEstimate>, a: &Assumptions) -> String {
    let width = all.keys().map(String::len).max().unwrap_or(5).max(5);
    let mut text = format!(
        "{:width$}  {:>11}  {:>9}  {:>8}  {:>9}  {:>9}  {:>9}  {:>8}  {:>6}\n",
        "model",
        "download GB",
        "memory GB",
        "prompts",
        "M read",
        "M written",
        "M trained",
        "hours",
        "cost"
    );
    let or_dash =
        |x: Option<f64>, decimals: usize| x.map_or("-".to_string(), |x| format!("{x:.decimals$}"));
    let (mut bytes, mut hours) = (0.0, 0.0);
    for (name, e) in all {
        let download = e.download.map(|b| b as f64 / 1e9);
        bytes += download.unwrap_or(0.0);
        hours += e.hours.unwrap_or(0.0);
        text += &format!(
            "{name:width$}  {:>11}  {:>9}  {:>8.0}  {:>9.1}  {:>9.1}  {:>9.1}  {:>8}  {:>6}{}\n",
            or_dash(download, 1),
            or_dash(e.memory.map(|b| b as f64 / 1e9), 1),
            e.prompts,
            e.tokens.0 / 1e6,
            e.tokens.1 / 1e6,
            e.trained / 1e6,
            or_dash(e.hours, 1),
            or_dash(e.cost, 2),
            if e.gated { "  (gated)" } else { "" },
        );
    }
    text += &format!(
        "in all {bytes:.1} GB to download, {hours:.1} hours on this machine's cores ({:.1} at 100 T \
         operations a second, which one large GPU may reach; this version has no GPU path)\n\n\
         Guesses, until the first stage is done: {:.0} tokens a question, {:.0} a plain and {:.0} \
         a worked answer, {:.0} G operations a second. A dash: served elsewhere, or not in \
         data/models.toml.\n",
        hours * a.flops / 1e14,
        a.prompt,
        a.plain,
        a.cot,
        a.flops / 1e9
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Spec;

    /// The published sizes of the checkpoints, in parameters.
    #[test]
    fn sizes_are_those_of_the_checkpoints() {
        let facts: Facts = toml::from_str(include_str!("../../data/models.toml")).unwrap();
        for (name, parameters) in [
            ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616),
            ("meta-llama/Llama-2-13b-chat-hf", 13_015_864_320),
            ("mistralai/Mistral-7B-Instruct-v0.1", 7_241_732_096),
            ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
            ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
            ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120usize),
        ] {
            let known = facts.model.iter().find(|k| k.name == name).unwrap();
            let found: usize = tensor_shapes(&known.config())
                .iter()
                .map(|(_, s)| s.iter().product::<usize>())
                .sum();
            assert_eq!(found, parameters, "{name}");
        }
    }

    /// P1 Table 11 alone: each teacher answers train and test questions twice.
    #[test]
    fn prompts_of_a_small_plan_by_hand() {
        let spec = Spec {
            scale: Some("laptop".into()),
            only: Some(vec![crate::study::Artifact::P1_Table11]),
            tasks: Some(vec![Benchmark::Obqa]),
            ..Spec::default()
        };
        let plan = spec.draft().unwrap();
        let all = estimate(&plan, &Assumptions::cpu(2)).unwrap();
        let e = &all["Qwen/Qwen2.5-1.5B-Instruct"];
        assert_eq!(e.prompts, 2.0 * (200.0 + 100.0));
        // 300 plain answers of 12 tokens and 300 worked ones of 150.
        assert_eq!(e.tokens.1, 300.0 * 162.0);
        assert!(e.hours.unwrap() > 0.0 && e.trained == 0.0);
        assert!(table(&all, &Assumptions::cpu(2)).contains("in all"));
    }
}
