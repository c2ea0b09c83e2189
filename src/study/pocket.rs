//! The pocket base models: how they are made, and the card that says so.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::store::write_whole;
use crate::model::{Tokenizer, save_base};
use crate::task::{Family, Mixture, World};
use crate::tune::{PretrainPlan, pretrain, train_tokenizer};

/// `data/pocket/models.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PocketModels {
    /// Seed of the pocket world.
    pub world: u64,
    pub model: Vec<PretrainPlan>,
}

impl PocketModels {
    pub fn load(path: &Path) -> Result<PocketModels> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text)
            .with_context(|| format!("{}: not a list of pocket models", path.display()))
    }

    /// The models of these names, or all.
    pub fn pick(&self, names: &[String]) -> Result<Vec<PretrainPlan>> {
        for name in names {
            ensure!(
                self.model.iter().any(|m| m.name == *name),
                "unknown pocket model {name:?}; known: {}",
                self.model.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
            );
        }
        let wanted = |m: &&PretrainPlan| names.is_empty() || names.contains(&m.name);
        Ok(self.model.iter().filter(wanted).cloned().collect())
    }
}

/// The kinds of text a family's tokenizer is trained on: all of them, so that
/// every model of the family can share it.
fn tokenizer_text() -> Mixture {
    Mixture {
        facts: 1.0,
        plain_qa: 1.0,
        cot_qa: 1.0,
        narrative: 1.0,
        drills: 0.3,
        plain_math: 0.5,
        cot_math: 0.5,
        narrative_math: 0.5,
        asked: 1.0,
        misconceptions: 0.0,
        slips: 0.0,
        hasty: 0.1,
    }
}

/// The tokenizer of a family.
pub fn family_tokenizer(world: &World, family: Family, vocab_size: usize) -> Result<Tokenizer> {
    train_tokenizer(world, family, &tokenizer_text(), vocab_size)
}

/// Pretrains `plans`, `jobs` at a time, into one folder each under `models`.
/// Checkpoints lie in `work`, so that a killed run goes on.
pub fn pretrain_all(
    world: u64,
    plans: &[PretrainPlan],
    models: &Path,
    work: &Path,
    jobs: usize,
) -> Result<()> {
    let world = World::new(world)?;
    let progress = Progress::new(plans.iter().map(|p| p.tokens as u64 / 1000).sum());
    // The largest first, so that no core is left alone with it at the end.
    let mut queue: Vec<&PretrainPlan> = plans.iter().collect();
    queue.sort_by_key(|p| {
        p.tokens * p.hidden_size * p.hidden_size * p.layers * p.experts.map_or(1, |_| 2)
    });
    let queue = std::sync::Mutex::new(queue);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(plan) = { queue.lock().unwrap_or_else(|e| e.into_inner()).pop() } {
                    if let Err(e) = one(plan, &world, models, work, &progress) {
                        let e = e.context(format!("pretraining {}", plan.name));
                        failures.lock().unwrap_or_else(|e| e.into_inner()).push(e);
                    }
                }
            });
        }
    });
    progress.end();
    failures.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().next().map_or(Ok(()), Err)
}

fn one(
    plan: &PretrainPlan,
    world: &World,
    models: &Path,
    work: &Path,
    progress: &Progress,
) -> Result<()> {
    let started = Instant::now();
    let work = work.join(&plan.name);
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    // A checkpoint of another plan must not be gone on with.
    let written = toml::to_string(plan)?;
    let noted = work.join("plan.toml");
    if fs::read_to_string(&noted).is_ok_and(|old| old != written) {
        fs::remove_dir_all(&work)?;
        fs::create_dir_all(&work)?;
    }
    fs::write(&noted, &written)?;
    let tokenizer = family_tokenizer(world, plan.family, plan.vocab_size)?;
    let display = progress.stage(&plan.name);
    let log_path = work.join("log.jsonl");
    let log_text = RefCell::new(String::new());
    let (model, log) = pretrain(plan, world, &tokenizer, &work, &mut |step, line| {
        display.tick(step, plan.steps());
        if step % 50 == 0 {
            *log_text.borrow_mut() += &(serde_json::to_string(line)? + "\n");
            fs::write(&log_path, log_text.borrow().as_bytes())?;
            progress.say(&format!(
                "{} step {step}/{} loss {:.4}, {:.0} s",
                plan.name,
                plan.steps(),
                line.loss,
                started.elapsed().as_secs_f64()
            ));
        }
        Ok(())
    })?;
    let dir = models.join(&plan.name);
    save_base(&model, &tokenizer, &dir)?;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let loss = log.last().map_or(f64::NAN, |l| l.loss);
    write_whole(&dir.join("README.md"), card(plan, model.parameters(), minutes, loss).as_bytes())?;
    fs::remove_dir_all(&work)?;
    display.finish(plan.tokens as u64 / 1000);
    Ok(())
}

/// The model card.
fn card(plan: &PretrainPlan, parameters: usize, minutes: f64, loss: f64) -> String {
    let m = &plan.mixture;
    let total = m.weights().iter().map(|w| w.1).sum::<f64>();
    let share = |x: f64| format!("{:.0} %", 100.0 * x / total);
    let experts =
        plan.experts.map_or(String::new(), |e| format!(", {e} experts of which 2 are used"));
    let mut text = format!(
        "---\nlicense: mit\nlanguage: en\npipeline_tag: text-generation\n---\n\n# {}\n\n\
         A causal language model with {parameters} parameters, pretrained from nothing on the text of\n\
         the pocket world. The number in its name mirrors a paper's model; it is not a parameter count.\n\n\
         | | |\n| --- | --- |\n\
         | architecture | `{}`, width {}, {} layers, {} heads, feed-forward {}{experts}, tied embeddings |\n\
         | family | {}: its own tokenizer ({} tokens, byte-level BPE, digits split) and its own way to explain |\n\
         | tokens seen | {} in steps of {} |\n\
         | optimizer | AdamW, learning rate {}, cosine, weight decay 0.1 |\n\
         | last loss | {loss:.3} nats a token (text after a prompt only) |\n\
         | time | {minutes:.1} minutes on one core |\n| seed | {} |\n\n## Text\n\n| documents | share |\n| --- | --- |\n",
        plan.name,
        plan.architecture,
        plan.hidden_size,
        plan.layers,
        plan.heads,
        plan.intermediate_size,
        plan.family,
        plan.vocab_size,
        plan.tokens,
        plan.tokens_per_step,
        plan.learning_rate,
        plan.seed,
    );
    for (name, weight) in [
        ("paragraphs of single facts", m.facts),
        ("questions answered at once", m.plain_qa),
        ("questions answered step by step", m.cot_qa),
        ("the same reasoning as a story, without a prompt", m.narrative),
        ("sums", m.drills),
        ("word problems answered at once", m.plain_math),
        ("word problems answered step by step", m.cot_math),
        ("worked word problems as stories", m.narrative_math),
    ] {
        if weight > 0.0 {
            text += &format!("| {name} | {} |\n", share(weight));
        }
    }
    text += &format!(
        "\nQuestions answered at once are about {:.0} % of the things and people of the world. The family\n\
         is wrong about {:.0} % of them and about {:.0} % of all sums, in all of its text alike, which is why\n\
         answers are good but not perfect. ",
        100.0 * m.asked,
        100.0 * m.misconceptions,
        100.0 * m.slips
    );
    if m.hasty > 0.0 {
        text += &format!(
            "Of the answers at once, {:.0} % stand behind a prompt that asks for steps:\nthe form of \
             reasoning without the reasoning. ",
            100.0 * m.hasty
        );
    }
    text += "Questions of the train and test splits are never in the\ntext, nor is any other question about the same \
             thing in the same situation.\n\nMade by `cotalign pretrain ";
    text += &plan.name;
    text += "` from `data/pocket/models.toml`.\n";
    text
}
