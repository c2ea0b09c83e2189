//! A tuned student in a notebook: what made it, and what is on record about it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::notebook::Markdown;
use crate::study::{Member, RunId};
use crate::teach::Demonstration;
use crate::tune::{LogLine, Pair, RefineReport};

/// A tuned student: the run that made it.
#[derive(Debug, Clone)]
pub struct Tuned {
    pub id: RunId,
    pub(super) student: Member,
    /// Its folder: adapter, demonstrations or pairs, log.
    pub dir: PathBuf,
}

impl Tuned {
    /// The demonstrations it was tuned on (instruction tuning only).
    pub fn demonstrations(&self) -> Result<Vec<Demonstration>> {
        self.lines("demonstrations.jsonl")
    }

    /// The preference pairs it was refined on (refinement only).
    pub fn pairs(&self) -> Result<Vec<Pair>> {
        self.lines("pairs.jsonl")
    }

    /// Its training log.
    pub fn log(&self) -> Result<Vec<LogLine>> {
        self.lines("log.jsonl")
    }

    /// What the refinement did (refinement only).
    pub fn refinement(&self) -> Result<RefineReport> {
        let path = self.dir.join("refine.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The first preference pair it was refined on.
    pub fn show_pair(&self) -> Result<Markdown> {
        let pairs = self.pairs()?;
        let p = pairs.first().context("there are no pairs")?;
        Ok(Markdown(format!(
            "**{}**\n\n```text\n{}\n```\n\nchosen:\n\n```text\n…{}\n```\n\nrejected:\n\n\
             ```text\n…{}\n```\n",
            p.id, p.prompt, p.chosen, p.rejected
        )))
    }

    /// How a refinement went, look by look.
    pub fn show_refinement(&self) -> Result<Markdown> {
        let report = self.refinement()?;
        let mut text = format!(
            "{} pairs to train on, {} held out; the weights of step {} were kept.\n\n\
             | step | loss | rewards/margins | rewards/accuracies | held-out loss |\n|-:|-:|-:|-:|-:|\n",
            report.pairs, report.held_out_pairs, report.best_step
        );
        for (step, held_out) in &report.held_out_loss {
            let line = report.log.iter().find(|l| l.step == *step);
            let number = |x: Option<f64>| x.map_or_else(|| "–".into(), |x| format!("{x:.3}"));
            let metric = |name: &str| number(line.and_then(|l| l.metrics.get(name).copied()));
            text += &format!(
                "| {step} | {} | {} | {} | {held_out:.3} |\n",
                number(line.map(|l| l.loss)),
                metric("rewards/margins"),
                metric("rewards/accuracies")
            );
        }
        Ok(Markdown(text))
    }

    fn lines<T: for<'a> serde::Deserialize<'a>>(&self, name: &str) -> Result<Vec<T>> {
        let path = self.dir.join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.lines()
            .enumerate()
            .map(|(i, l)| {
                serde_json::from_str(l)
                    .with_context(|| format!("{}, line {}", path.display(), i + 1))
            })
            .collect()
    }
}
