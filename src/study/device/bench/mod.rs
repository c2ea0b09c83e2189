//! Speed and memory at the papers' size, on random weights: neither depends on the
//! values. What is run is the product's own code: its trainer, its objectives, its
//! generation.
//!
//! Each measurement is a JSON object with `side`, `work` and what was found, the moment
//! it is there: `tests/cuda/report.py` sets them beside those of the Python stack, whose
//! settings (`tests/cuda/reference.py`) are the ones here. A failure is an object with
//! `error`, and the next measurement goes on.

mod flops;
mod generation;
mod limits;
mod part;
mod session;
mod shape;
mod tuning;

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

pub use shape::Shape;

use super::Target;
use session::Session;

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A QLoRA step on Demonstrations.
    Sft,
    /// A DPO step with the reference's log-probabilities at hand.
    Dpo,
    /// Answers of mixed lengths to many prompts.
    Annotate,
    /// Steady decoding, of one sequence and of many.
    Decode,
    /// Where the time of a QLoRA step goes.
    Steps,
    /// The card's limits: a large product, a large copy.
    Matmul,
}

impl Work {
    pub const ALL: [Work; 6] =
        [Work::Sft, Work::Dpo, Work::Annotate, Work::Decode, Work::Steps, Work::Matmul];

    pub fn name(self) -> &'static str {
        match self {
            Work::Sft => "sft",
            Work::Dpo => "dpo",
            Work::Annotate => "annotate",
            Work::Decode => "decode",
            Work::Steps => "steps",
            Work::Matmul => "matmul",
        }
    }
}

impl FromStr for Work {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Work> {
        match Work::ALL.into_iter().find(|w| w.name() == s) {
            Some(work) => Ok(work),
            None => bail!("work {s:?}: known are {}", Work::ALL.map(Work::name).join(", ")),
        }
    }
}

/// What `tests/cuda/lengths.py` writes: how long each prompt is, and how long its answer
/// gets; random weights end no answer sensibly.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Lengths {
    pub prompt_tokens: Vec<usize>,
    pub new_tokens: Vec<usize>,
}

impl Lengths {
    pub fn parse(text: &str) -> Result<Lengths> {
        let lengths: Lengths = serde_json::from_str(text)
            .context("expected {\"prompt_tokens\": [...], \"new_tokens\": [...]}")?;
        let (prompts, answers) = (&lengths.prompt_tokens, &lengths.new_tokens);
        ensure!(
            !prompts.is_empty() && prompts.len() == answers.len(),
            "{} prompts and {} answers; each prompt needs the length of its answer",
            prompts.len(),
            answers.len()
        );
        ensure!(
            prompts.iter().chain(answers).all(|n| *n > 0),
            "a prompt and its answer have at least one token each"
        );
        Ok(lengths)
    }
}

/// What is measured.
pub struct BenchPlan {
    pub works: Vec<Work>,
    /// QLoRA steps and their split are measured at each, the others at the first.
    pub shapes: Vec<Shape>,
    /// Of the prompts to annotate.
    pub lengths: Lengths,
    /// For everything. Works share it; one that needs less leaves the rest to those
    /// behind it.
    pub budget: Duration,
}

/// What a bench tells while it runs.
pub enum Told<'a> {
    /// A part begins.
    Progress(&'a str),
    /// A measurement, or a failure.
    Line(&'a Value),
}

/// Runs the plan; the number of measurements that did not fail.
pub fn bench(
    target: &Target,
    plan: &BenchPlan,
    each: &mut dyn FnMut(Told) -> Result<()>,
) -> Result<usize> {
    ensure!(!plan.works.is_empty() && !plan.shapes.is_empty(), "nothing to measure");
    target.run(|| Session::new(target, plan, each)?.run())
}
