//! What a plan costs before anything starts: downloads, memory, hours, money.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::experiments::lay_out;
use super::questions::{Cut, QuestionsRef, Side};
use super::spec::Plan;
use super::stage::Stage;
use crate::model::{Compute, Config, tensor_shapes};
use crate::task::{Benchmark, Cue, NativeSplit, Split, sources};
use crate::tune::memory::{StepMemory, StepShape, predict};

/// Tokens of a question with its options, of a plain and of a worked answer, of the
/// longest question, and operations a second. Guesses, all of them, and printed as such:
/// the real ones are known when the first stage is done.
#[derive(Debug, Clone, Copy)]
pub struct Assumptions {
    pub prompt: f64,
    pub plain: f64,
    pub cot: f64,
    /// Keys and values need room for it.
    pub longest: f64,
    pub flops: f64,
    pub compute: Compute,
    /// Stages at a time, each with a model of its own.
    pub jobs: usize,
}

/// Operations a second that the maker states for an A100, without sparsity: the card is
/// an example.
const CARD_BF16: f64 = 312e12;
const CARD_F32: f64 = 19.5e12;

/// Share of them that a run is taken to reach. Nobody measured it: tokens are written one
/// by one, which leaves most of a card idle.
const UTILISATION: f64 = 0.2;

impl Assumptions {
    /// On the CPU: 65 G operations a second and core, which is what pretraining the
    /// pocket models reaches (0.97 M parameters, 11 thousand tokens a second and core,
    /// six operations a parameter and token).
    pub fn cpu(cores: usize) -> Assumptions {
        Assumptions {
            prompt: 120.0,
            plain: 12.0,
            cot: 150.0,
            longest: 300.0,
            flops: 65e9 * cores as f64,
            compute: Compute::Cpu,
            jobs: 1,
        }
    }

    /// On one GPU; on the CPU with `cores` and `jobs` stages at a time.
    pub fn of(compute: Compute, cores: usize, jobs: usize) -> Assumptions {
        let cpu = Assumptions { jobs, ..Assumptions::cpu(cores) };
        match compute {
            Compute::Cpu => cpu,
            Compute::CudaBf16 => Assumptions { flops: CARD_BF16 * UTILISATION, compute, ..cpu },
            Compute::CudaF32 => Assumptions { flops: CARD_F32 * UTILISATION, compute, ..cpu },
        }
    }

    /// Bytes of a weight that is not quantised, of an activation, of a key or value.
    fn width(&self) -> usize {
        match self.compute {
            Compute::CudaBf16 => 2,
            Compute::Cpu | Compute::CudaF32 => 4,
        }
    }

    /// What `hours` rest on.
    fn speed(&self) -> String {
        if self.compute.is_cpu() {
            return format!("this machine's cores, {:.0} G operations a second", self.flops / 1e9);
        }
        format!(
            "one GPU, {:.0} T operations a second: {:.0} % of what an A100's maker states, a share \
             that was assumed and not measured",
            self.flops / 1e12,
            100.0 * UTILISATION
        )
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
    /// The most that may be spent on them.
    pub max_cost: Option<f64>,
    /// The most tokens that may be spent on them.
    pub max_total_tokens: Option<u64>,
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
    let served = served(plan);
    let mut refined = BTreeSet::new();
    let mut all = BTreeMap::<String, ModelEstimate>::new();
    for id in &grid.order {
        let stage = &grid.stages[id];
        match stage {
            Stage::Annotate(p) => {
                let e = all.entry(p.model.name.clone()).or_default();
                answers(e, count(&p.questions) * p.sampling.samples as f64, p.cue, a);
            }
            Stage::Probe(p) => {
                let e = all.entry(p.model.name.clone()).or_default();
                answers(e, count(&p.questions), p.cue, a);
                // A server's log-probabilities are not asked for.
                if p.language_model && !served.contains(&p.model.name) {
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
                refined.insert(p.student.name.clone());
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
    #[cfg(feature = "remote")]
    for member in plan.teachers.iter().chain(&plan.students) {
        let Some(teacher) = &member.remote else { continue };
        let Some(e) = all.get_mut(&member.model.name) else { continue };
        e.max_cost = teacher.max_cost;
        e.max_total_tokens = teacher.max_total_tokens;
        let prices = (teacher.price_per_million_input, teacher.price_per_million_output);
        if let (Some(input), Some(output)) = prices {
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
        e.memory = Some(memory(plan, a, &config, e, refined.contains(name))?);
        // Two operations a parameter and token forward, two more for the gradient of
        // the input, and two again where activations are computed twice.
        let trained = if plan.instruct.gradient_checkpointing { 6.0 } else { 4.0 };
        let work = 2.0 * (e.tokens.0 + e.tokens.1) + trained * e.trained;
        e.hours = Some(work * parameters as f64 / a.flops / 3600.0);
    }
    Ok(all)
}

/// Names of the members that answer behind a server.
fn served(plan: &Plan) -> BTreeSet<String> {
    #[cfg(feature = "remote")]
    {
        let members = plan.teachers.iter().chain(&plan.students);
        members.filter(|m| m.remote.is_some()).map(|m| m.model.name.clone()).collect()
    }
    #[cfg(not(feature = "remote"))]
    {
        let _ = plan;
        BTreeSet::new()
    }
}

/// Bytes at the peak of answering and of tuning, whichever is more.
fn memory(
    plan: &Plan,
    a: &Assumptions,
    config: &Config,
    e: &ModelEstimate,
    refined: bool,
) -> Result<u64> {
    let width = a.width();
    let sizes = tensor_shapes(config).into_iter().map(|(name, s)| (name, s.iter().product()));
    let sizes: Vec<(String, usize)> = sizes.collect();
    let parameters: usize = sizes.iter().map(|(_, n)| n).sum();
    // The slots of a batch, the prefix that prompts share, and a prompt that waits.
    let slots = plan.generation_batch.min(e.prompts as usize) + 2;
    let longest = (a.longest as usize + plan.max_new_tokens).min(config.max_position_embeddings);
    let kv_width = config.num_key_value_heads * config.head_dim();
    let cache = slots * longest * config.num_hidden_layers * 2 * kv_width * width;
    let answering = width * parameters + cache;
    if e.trained == 0.0 {
        return Ok(answering as u64);
    }
    let step = |sequences, gradient_accumulation_steps, gradient_checkpointing| {
        let length = (a.prompt + a.cot) as usize;
        let answer = a.cot as usize;
        predict(
            config,
            &plan.instruct.lora,
            &StepShape {
                sequences,
                length,
                answer,
                gradient_accumulation_steps,
                gradient_checkpointing,
            },
        )
    };
    let (i, r) = (&plan.instruct, &plan.refine);
    let instruct = step(
        i.per_device_train_batch_size,
        i.gradient_accumulation_steps,
        i.gradient_checkpointing,
    )?;
    // `predict` counts four bytes for what is not quantised.
    let dense: usize = sizes.iter().filter(|(name, _)| !is_quantised(name)).map(|(_, n)| n).sum();
    let base = instruct.base - dense * (4 - width);
    let peak = |m: &StepMemory| {
        let others = m.activations + m.logits + m.workspace;
        base + m.adapters + m.optimizer + m.gradients + others / 4 * width
    };
    let mut most = peak(&instruct);
    if refined {
        // Each record is two sequences.
        let refine = step(
            2 * r.per_device_train_batch_size,
            r.gradient_accumulation_steps,
            r.gradient_checkpointing,
        )?;
        most = most.max(peak(&refine));
    }
    // It answers as a dense copy, beside the quantised model that is tuned next.
    Ok(most.max(answering + base) as u64)
}

/// Whether a tensor goes into NF4 when its model is tuned.
fn is_quantised(name: &str) -> bool {
    name.ends_with("_proj.weight") || name.contains("block_sparse_moe")
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
        "{:width$}  {:>11}  {:>9}  {:>8}  {:>9}  {:>9}  {:>9}  {:>8}  {:>6}  {:>6}\n",
        "model",
        "download GB",
        "memory GB",
        "prompts",
        "M read",
        "M written",
        "M trained",
        "hours",
        "cost",
        "cap"
    );
    let or_dash =
        |x: Option<f64>, decimals: usize| x.map_or("-".to_string(), |x| format!("{x:.decimals$}"));
    let (mut bytes, mut hours) = (0.0, 0.0);
    for (name, e) in all {
        let download = e.download.map(|b| b as f64 / 1e9);
        bytes += download.unwrap_or(0.0);
        hours += e.hours.unwrap_or(0.0);
        text += &format!(
            "{name:width$}  {:>11}  {:>9}  {:>8.0}  {:>9.1}  {:>9.1}  {:>9.1}  {:>8}  {:>6}  {:>6}{}\n",
            or_dash(download, 1),
            or_dash(e.memory.map(|b| b as f64 / 1e9), 1),
            e.prompts,
            e.tokens.0 / 1e6,
            e.tokens.1 / 1e6,
            e.trained / 1e6,
            or_dash(e.hours, 1),
            or_dash(e.cost, 2),
            or_dash(e.max_cost, 2),
            if e.gated { "  (gated)" } else { "" },
        );
    }
    let memory = all.values().filter_map(|e| e.memory).max().unwrap_or(0) as f64 / 1e9;
    text += &format!(
        "in all {bytes:.1} GB to download, {hours:.1} hours on {}; up to {:.1} GB of {}memory for \
         {} at a time\n",
        a.speed(),
        memory * a.jobs as f64,
        if a.compute.is_cpu() { "" } else { "GPU " },
        if a.jobs == 1 { "one stage".into() } else { format!("{} stages", a.jobs) },
    );
    for (name, e) in all {
        text += &over_cap(name, e);
    }
    text += &format!(
        "\nGuesses, until the first stage is done: {:.0} tokens a question (the longest: {:.0}), \
         {:.0} a plain and {:.0} a worked answer, and the operations a second. Memory is that of \
         weights, keys and values, and a step of tuning; libraries and the driver come on top. A \
         dash: served elsewhere, or not in data/models.toml.\n",
        a.prompt, a.longest, a.plain, a.cot,
    );
    text
}

/// A line for each cap that the estimate is above.
fn over_cap(name: &str, e: &ModelEstimate) -> String {
    let mut text = String::new();
    if let (Some(cost), Some(cap)) = (e.cost, e.max_cost)
        && cost > cap
    {
        text += &format!(
            "warning: {name}: may cost {cost:.2}, more than max_cost = {cap}; the run would stop \
             there\n"
        );
    }
    let tokens = e.tokens.0 + e.tokens.1;
    if let Some(cap) = e.max_total_tokens.filter(|cap| tokens > *cap as f64) {
        text += &format!(
            "warning: {name}: may take {tokens:.0} tokens, more than max_total_tokens = {cap}; the \
             run would stop there\n"
        );
    }
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

    /// Half the bytes a weight on a GPU in bf16, and keys and values for every slot.
    #[test]
    fn memory_of_answering_by_hand() {
        let spec = Spec {
            scale: Some("laptop".into()),
            only: Some(vec![crate::study::Artifact::P1_Table11]),
            generation_batch: Some(16),
            max_new_tokens: Some(256),
            ..Spec::default()
        };
        let plan = spec.draft().unwrap();
        let of = |compute| {
            let all = estimate(&plan, &Assumptions::of(compute, 2, 1)).unwrap();
            all["Qwen/Qwen2.5-1.5B-Instruct"].memory.unwrap()
        };
        // 18 slots of 300 + 256 tokens, 28 layers, keys and values of 2 heads of 128.
        let values = 1_543_714_304 + 18 * 556 * 28 * 2 * 256;
        assert_eq!(of(Compute::CudaBf16), 2 * values);
        assert_eq!(of(Compute::Cpu), 4 * values);
    }

    #[cfg(feature = "remote")]
    #[test]
    fn the_paper_scale_stays_under_its_own_cap_and_a_lower_one_is_told() {
        let plan = Spec { scale: Some("paper".into()), ..Spec::default() }.draft().unwrap();
        let a = Assumptions::of(Compute::CudaBf16, 2, 1);
        let mut all = estimate(&plan, &a).unwrap();
        let text = table(&all, &a);
        assert!(!text.contains("warning") && text.contains("not measured"), "{text}");
        all.get_mut("gpt-3.5-turbo").unwrap().max_cost = Some(5.0);
        assert!(table(&all, &a).contains("more than max_cost = 5"));
    }

    /// A server is asked for answers alone: each plain prompt of the test is read once.
    #[cfg(feature = "remote")]
    #[test]
    fn log_probabilities_of_a_server_cost_nothing() {
        let spec = Spec {
            scale: Some("paper".into()),
            only: Some(vec![crate::study::Artifact::P1_Table11]),
            tasks: Some(vec![Benchmark::Obqa]),
            ..Spec::default()
        };
        let a = Assumptions::cpu(2);
        let all = estimate(&spec.draft().unwrap(), &a).unwrap();
        let e = &all["gpt-3.5-turbo"];
        assert_eq!(e.tokens.0, e.prompts * a.prompt);
    }
}
