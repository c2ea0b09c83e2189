//! What the stages do, in the folders that the store gives them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::pin;
use super::questions::QuestionsRef;
use super::ranks::{Ranks, together};
#[cfg(feature = "remote")]
use super::served::Purses;
use super::spec::{Member, Plan};
use super::stage::{AnnotatePlan, InstructPlan, ModelRef, ProbePlan, RefinePlan, Stage, Tick};
use super::store::{RunId, Store};
use crate::model::{
    ChatTemplates, LoraConfig, Placement, Sampling, Tokenizer, Transformer, load_adapter, load_at,
    save_adapter,
};
use crate::probe::{by_generation, by_language_model};
use crate::task::Cue;
use crate::teach::{Demonstration, Speaker, annotate, demonstrations, read_annotations};
use crate::tune::loss::Example;
use crate::tune::{examples, instruct_in, pairs, refine_in};

/// Where models lie and how a stage tells how far it is.
pub struct Workshop<'a> {
    pub store: &'a Store,
    /// Folder of base models, one sub-folder each.
    pub models: &'a Path,
    /// Members of the plan; some may answer behind a server.
    pub members: Vec<Member>,
    /// What those may spend.
    #[cfg(feature = "remote")]
    pub(super) purses: Purses,
    /// The GPU, once a stage has asked for it: all stages share one.
    gpu: OnceLock<Placement>,
    /// Processes that tune together; none: only this one.
    pub ranks: Option<Ranks>,
}

impl<'a> Workshop<'a> {
    pub fn new(store: &'a Store, models: &'a Path, plan: &Plan) -> Workshop<'a> {
        let members = plan.teachers.iter().chain(&plan.students).cloned().collect();
        Workshop {
            store,
            models,
            members,
            #[cfg(feature = "remote")]
            purses: Purses::default(),
            gpu: OnceLock::new(),
            ranks: None,
        }
    }

    /// The folder of a base model, as it was when the plan was made.
    pub(super) fn folder(&self, model: &ModelRef) -> Result<PathBuf> {
        let member = self.members.iter().find(|m| m.model == *model);
        pin::folder(&model.name, member.and_then(|m| m.revision.as_deref()), self.models)
    }

    /// Where a model goes.
    fn place(&self, model: &ModelRef) -> Result<Placement> {
        if model.compute.is_cpu() {
            return Ok(Placement::CPU);
        }
        if let Some(place) = self.gpu.get() {
            return Ok(place.clone());
        }
        let place = model.compute.open()?;
        Ok(self.gpu.get_or_init(|| place).clone())
    }

    fn base(&self, model: &ModelRef) -> Result<(Transformer, Tokenizer)> {
        load_at(&self.folder(model)?, false, &self.place(model)?)
    }

    /// A base to be tuned. On a GPU it goes into NF4 tensor by tensor: the whole model
    /// in bf16 is never there.
    fn student(&self, model: &ModelRef) -> Result<(Transformer, Tokenizer)> {
        let place = self.place(model)?;
        load_at(&self.folder(model)?, place.is_gpu(), &place)
    }

    /// The chat templates of a model that is asked through them.
    fn templates(&self, model: &ModelRef, chat: bool) -> Result<Option<ChatTemplates>> {
        if !chat {
            return Ok(None);
        }
        let dir = self.folder(model)?;
        let templates = ChatTemplates::open(&dir)?;
        ensure!(!templates.is_empty(), "{}: has no chat template; set chat = false", dir.display());
        Ok(Some(templates))
    }

    /// The base in NF4 with the adapter of a run on it.
    fn adapted(
        &self,
        model: &ModelRef,
        lora: &LoraConfig,
        run: &RunId,
    ) -> Result<(Transformer, Tokenizer)> {
        let place = self.place(model)?;
        let (mut base, tokenizer) = load_at(&self.folder(model)?, true, &place)?;
        load_adapter(&mut base, lora, &self.store.path(run))?;
        Ok((base, tokenizer))
    }
}

fn write_json(path: PathBuf, value: &impl Serialize) -> Result<()> {
    fs::write(&path, serde_json::to_string_pretty(value)? + "\n")
        .with_context(|| path.display().to_string())
}

fn write_lines<T: Serialize>(path: PathBuf, lines: &[T]) -> Result<()> {
    let mut text = String::new();
    for l in lines {
        text += &serde_json::to_string(l)?;
        text.push('\n');
    }
    fs::write(&path, text).with_context(|| path.display().to_string())
}

pub(super) fn run_annotate(
    p: &AnnotatePlan,
    shop: &Workshop,
    dir: &Path,
    tick: Tick,
) -> Result<()> {
    let questions = p.questions.load()?;
    let (mut n, total) = (0, questions.len() * p.sampling.samples);
    let mut done = || {
        n += 1;
        tick(n, total)
    };
    let served = shop.served(&p.model, &questions, p.cue, &p.sampling, dir, &mut done)?;
    let all = match served {
        Some(all) => all,
        None => {
            let (model, tokenizer) = shop.base(&p.model)?;
            let templates = shop.templates(&p.model, p.chat)?;
            let name = &p.model.speaker();
            let chat = templates.as_ref();
            let speaker = Speaker { model: &model, tokenizer: &tokenizer, name, chat };
            let path = dir.join("annotations.jsonl");
            annotate(&speaker, &questions, p.cue, &p.sampling, &path, &mut done)?
        }
    };
    write_json(dir.join("probe.json"), &by_generation(&questions, &all))
}

/// What a student is to learn.
pub(super) struct Lessons {
    records: Vec<Demonstration>,
    pub examples: Vec<Example>,
    pub held_out: Vec<Example>,
}

pub(super) fn lessons(p: &InstructPlan, store: &Store, tokenizer: &Tokenizer) -> Result<Lessons> {
    let read = |questions: &QuestionsRef, sources: &[RunId], limit: usize| -> Result<_> {
        let questions = questions.load()?;
        let mut records = Vec::new();
        for source in sources {
            let path = store.path(source).join("annotations.jsonl");
            let mut some = demonstrations(p.set, &questions, &read_annotations(&path)?)?;
            some.truncate(limit);
            records.extend(some);
        }
        Ok(records)
    };
    let records = read(&p.questions, &p.sources, p.limit)?;
    let held_out = match &p.held_out {
        None => Vec::new(),
        Some(h) => read(&h.questions, &h.sources, usize::MAX)?,
    };
    Ok(Lessons {
        examples: examples(tokenizer, p.set, &records)?,
        held_out: examples(tokenizer, p.set, &held_out)?,
        records,
    })
}

pub(super) fn run_instruct(
    p: &InstructPlan,
    shop: &Workshop,
    dir: &Path,
    tick: Tick,
) -> Result<()> {
    let (mut model, tokenizer) = shop.student(&p.student)?;
    let Lessons { records, examples, held_out } = lessons(p, shop.store, &tokenizer)?;
    write_lines(dir.join("demonstrations.jsonl"), &records)?;
    let log = if examples.is_empty() {
        // A teacher that got nothing right delivers no right answers: the student
        // keeps its adapter as it was drawn, which changes nothing.
        model.quantise()?;
        model.add_lora(&p.settings.lora, p.seed)?;
        Vec::new()
    } else {
        let mut each_step = |step, total| {
            tick(step, total);
            Ok(())
        };
        let (stage, place) = (Stage::Instruct(p.clone()), model.placement());
        let report = together(shop, &stage, dir, &place, |world| {
            let settings = &p.settings;
            instruct_in(world, &mut model, examples, &held_out, settings, p.seed, &mut each_step)
        })?;
        if p.held_out.is_some() {
            write_json(dir.join("evaluation.json"), &report.choice)?;
        }
        report.log
    };
    write_lines(dir.join("log.jsonl"), &log)?;
    save_adapter(&model, &p.settings.lora, &p.student.name, dir)
}

pub(super) fn run_refine(p: &RefinePlan, shop: &Workshop, dir: &Path, tick: Tick) -> Result<()> {
    let (mut model, tokenizer) = shop.adapted(&p.student, &p.lora, &p.instructed)?;
    model.set_gradient_checkpointing(p.settings.gradient_checkpointing);
    let questions = p.questions.load()?;
    let total = questions.len() * 2 * p.settings.samples + p.settings.max_steps;
    let mut n = 0;
    let mut own = [Vec::new(), Vec::new()];
    // The dense copy is for answering alone: tuning needs its memory.
    let merged = model.merged()?;
    for (cue, answers) in [Cue::Plain, Cue::Cot].into_iter().zip(&mut own) {
        for sample in 0..p.settings.samples {
            let sampling =
                Sampling { seed: p.sampling.seed + 1000 * sample as u64, ..p.sampling.clone() };
            let path = dir.join(format!("own_{cue}_{sample}.jsonl"));
            let mut done = || {
                n += 1;
                tick(n, total)
            };
            let name = p.instructed.as_str();
            let speaker = Speaker { model: &merged, tokenizer: &tokenizer, name, chat: None };
            answers.extend(annotate(&speaker, &questions, cue, &sampling, &path, &mut done)?);
        }
    }
    drop(merged);
    let pairs = pairs(p.settings.pairs, &own[0], &own[1]);
    write_lines(dir.join("pairs.jsonl"), &pairs)?;
    let mut each_step = |step, _| {
        tick(n + step, total);
        Ok(())
    };
    let report = together(shop, &Stage::Refine(p.clone()), dir, &model.placement(), |world| {
        refine_in(world, &model, &tokenizer, &pairs, &p.settings, p.seed, &mut each_step)
    })?;
    write_lines(dir.join("log.jsonl"), &report.log)?;
    write_json(dir.join("refine.json"), &report)?;
    save_adapter(&model, &p.lora, &p.student.name, dir)
}

pub(super) fn run_probe(p: &ProbePlan, shop: &Workshop, dir: &Path, tick: Tick) -> Result<()> {
    let questions = p.questions.load()?;
    if p.adapter.is_none() {
        let (mut n, total) = (0, questions.len());
        let mut done = || {
            n += 1;
            tick(n, total)
        };
        let served = shop.served(&p.model, &questions, p.cue, &p.sampling, dir, &mut done)?;
        if let Some(all) = served {
            // A server's log-probabilities are not asked for.
            return write_json(dir.join("probe.json"), &by_generation(&questions, &all));
        }
    }
    let (model, tokenizer) = match &p.adapter {
        None => shop.base(&p.model)?,
        Some((lora, run)) => {
            let (model, tokenizer) = shop.adapted(&p.model, lora, run)?;
            (model.merged()?, tokenizer)
        }
    };
    let score_options = p.language_model && questions.iter().all(|q| !q.options.is_empty());
    let total = questions.len() * if score_options { 2 } else { 1 };
    let mut n = 0;
    let mut done = || {
        n += 1;
        tick(n, total)
    };
    let path = dir.join("annotations.jsonl");
    let name = p.adapter.as_ref().map_or_else(|| p.model.speaker(), |(_, run)| run.to_string());
    let templates = shop.templates(&p.model, p.chat)?;
    let speaker =
        Speaker { model: &model, tokenizer: &tokenizer, name: &name, chat: templates.as_ref() };
    let all = annotate(&speaker, &questions, p.cue, &p.sampling, &path, &mut done)?;
    write_json(dir.join("probe.json"), &by_generation(&questions, &all))?;
    if score_options {
        let (probe, lines) = by_language_model(&model, &tokenizer, &questions, p.cue, &mut done)?;
        write_lines(dir.join("option_scores.jsonl"), &lines)?;
        write_json(dir.join("probe_lm.json"), &probe)?;
    }
    Ok(())
}
