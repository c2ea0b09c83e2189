//! The stages of the method, each a plan and what it does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::served::Purses;
use super::spec::{Member, Plan};
use super::store::{RunId, Store};
use crate::model::hub::{self, Snapshot};
use crate::model::{
    ChatTemplates, LoraConfig, Sampling, Tokenizer, Transformer, load_adapter, load_base, load_nf4,
    locate, save_adapter,
};
use crate::probe::{by_generation, by_language_model};
use crate::task::{
    Benchmark, Cue, Gold, NativeSplit, Question, Split, World, draw, hub_files, load,
};
use crate::teach::{DemonstrationSet, Speaker, annotate, demonstrations, read_annotations};
use crate::tune::{InstructSettings, RefineSettings, examples, instruct_choosing, pairs, refine};

/// Raised when a stage computes something else from the same plan.
const VERSION: u32 = 1;

/// The same for refinement alone. 2: the gradient of `log σ` is right at 0.
const REFINE_VERSION: u32 = 2;

/// A base model by name and content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRef {
    pub name: String,
    /// [`crate::model::model_hash`].
    pub sha256: String,
}

/// Which questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionsRef {
    pub benchmark: Benchmark,
    pub split: Split,
    /// The first of the split; 0 is all.
    pub count: usize,
    pub source: Source,
    /// Drawn with this seed instead of the first, each gold letter equally often (P1,
    /// Table 13).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<u64>,
    /// Of one side of a split that is cut in two first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// The train split in two: to learn from, and to choose checkpoints by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Questions held out.
    pub hold_out: usize,
    pub seed: u64,
    pub side: Side,
}

/// A side of a [`Cut`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Train,
    HeldOut,
}

/// Where questions come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The pocket world of this seed.
    World(u64),
    /// Real benchmarks, in sub-folders named like them or like their ids on the hub.
    Folder(PathBuf),
    /// Downloaded from the hub, at the revisions of `data/benchmarks.toml`; the value
    /// is a hash of the files' contents.
    Hub(String),
}

impl QuestionsRef {
    pub fn load(&self) -> Result<Vec<Question>> {
        let mut all = match &self.source {
            Source::World(seed) => World::new(*seed)?.questions(self.benchmark, self.split),
            Source::Folder(dir) => load(self.benchmark, dir, self.native_split())?,
            Source::Hub(_) => {
                // Making the plan has brought the files; a branch that moves meanwhile, or
                // a network that fails, must not change what a stage reads.
                let split = self.native_split();
                load(self.benchmark, &snapshot(self.benchmark, split, true)?.dir, split)?
            }
        };
        if let Some(cut) = self.cut {
            let two = draw::hold_out(&all, cut.hold_out, cut.seed)?;
            all = match cut.side {
                Side::Train => two.train,
                Side::HeldOut => two.held,
            };
        }
        if self.count == 0 || self.count >= all.len() {
            return Ok(all);
        }
        let Some(seed) = self.draw else {
            all.truncate(self.count);
            return Ok(all);
        };
        let Some(letters) = self.benchmark.options() else {
            return Ok(draw::draw(&all, draw::Size::Total(self.count), seed)?.questions);
        };
        // Where the count is no multiple of the letters, the first ones get one more.
        let per_class = draw::Size::PerClass(self.count.div_ceil(letters));
        let (each, mut extra) = (self.count / letters, self.count % letters);
        let mut taken = vec![0; letters];
        let mut drawn = draw::draw(&all, per_class, seed)?.questions;
        drawn.retain(|q| {
            let Gold::Choice(class) = q.gold else { return false };
            taken[class] += 1;
            if taken[class] <= each {
                return true;
            }
            let take = extra > 0;
            extra = extra.saturating_sub(1);
            take
        });
        Ok(drawn)
    }

    /// The papers test on the validation split where test golds are hidden.
    fn native_split(&self) -> NativeSplit {
        match self.split {
            Split::Test => NativeSplit::scored(self.benchmark),
            _ => NativeSplit::Train,
        }
    }
}

/// A split of a benchmark from the hub, or from its cache.
pub fn snapshot(benchmark: Benchmark, split: NativeSplit, offline: bool) -> Result<Snapshot> {
    let (repo, revision, files) = hub_files(benchmark, split)?;
    hub::fetch(&hub::Request { kind: hub::Kind::Dataset, repo, revision, files, offline })
}

/// A teacher (or any base model) answers questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnotatePlan {
    pub version: u32,
    pub model: ModelRef,
    pub questions: QuestionsRef,
    pub cue: Cue,
    pub sampling: Sampling,
    /// Asked through the model's chat template.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
}

/// A student is tuned on a teacher's demonstrations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructPlan {
    pub version: u32,
    pub student: ModelRef,
    pub questions: QuestionsRef,
    pub set: DemonstrationSet,
    /// Annotations by cue.
    pub sources: Vec<RunId>,
    /// Demonstrations used at most, per cue.
    pub limit: usize,
    pub settings: InstructSettings,
    pub seed: u64,
    /// What the checkpoint is chosen by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutPlan>,
}

/// Held-out questions of an instruction tuning, and the teacher's answers to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutPlan {
    pub questions: QuestionsRef,
    /// Annotations by cue.
    pub sources: Vec<RunId>,
}

/// A tuned student improves on its own answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinePlan {
    pub version: u32,
    pub student: ModelRef,
    pub lora: LoraConfig,
    pub instructed: RunId,
    pub questions: QuestionsRef,
    pub sampling: Sampling,
    pub settings: RefineSettings,
    pub seed: u64,
}

/// A model is scored on questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbePlan {
    pub version: u32,
    pub model: ModelRef,
    /// The adapter on it, if any, and the run that made it.
    pub adapter: Option<(LoraConfig, RunId)>,
    pub questions: QuestionsRef,
    pub cue: Cue,
    pub sampling: Sampling,
    /// Score the options by log-probability as well.
    pub language_model: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
}

/// Any stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "lowercase")]
pub enum Stage {
    Annotate(AnnotatePlan),
    Instruct(InstructPlan),
    Refine(RefinePlan),
    Probe(ProbePlan),
}

/// Where models lie and how a stage tells how far it is.
pub struct Workshop<'a> {
    pub store: &'a Store,
    /// Folder of base models, one sub-folder each.
    pub models: &'a Path,
    /// Members of the plan; some may answer behind a server.
    pub members: Vec<Member>,
    /// What those may spend.
    pub(super) purses: Purses,
}

/// Called as a stage goes on: items done, items in all.
pub type Tick<'a> = &'a mut dyn FnMut(usize, usize);

impl Stage {
    pub fn version() -> u32 {
        VERSION
    }

    pub fn refine_version() -> u32 {
        REFINE_VERSION
    }

    pub fn name(&self) -> &'static str {
        match self {
            Stage::Annotate(_) => "annotate",
            Stage::Instruct(_) => "instruct",
            Stage::Refine(_) => "refine",
            Stage::Probe(_) => "probe",
        }
    }

    pub fn id(&self) -> Result<RunId> {
        RunId::of(self.name(), self)
    }

    /// What it is about, for a progress line.
    pub fn label(&self) -> String {
        match self {
            Stage::Annotate(p) => {
                format!("{} answers {} ({})", p.model.name, p.questions.benchmark, p.cue)
            }
            Stage::Instruct(p) => {
                format!("{} learns {} from {}", p.student.name, p.questions.benchmark, p.set)
            }
            Stage::Refine(p) => {
                format!("{} refines itself on {}", p.student.name, p.questions.benchmark)
            }
            Stage::Probe(p) => format!("{} is tested on {}", p.model.name, p.questions.benchmark),
        }
    }

    /// The runs whose outputs it reads.
    pub fn parents(&self) -> Vec<RunId> {
        match self {
            Stage::Annotate(_) => Vec::new(),
            Stage::Instruct(p) => {
                let held_out = p.held_out.iter().flat_map(|h| &h.sources);
                p.sources.iter().chain(held_out).cloned().collect()
            }
            Stage::Refine(p) => vec![p.instructed.clone()],
            Stage::Probe(p) => p.adapter.iter().map(|(_, id)| id.clone()).collect(),
        }
    }

    /// Rough cost, in any unit, for the estimate of the time left.
    pub fn weight(&self) -> u64 {
        match self {
            Stage::Annotate(_) => 2,
            Stage::Instruct(_) => 3,
            Stage::Refine(_) => 5,
            Stage::Probe(_) => 1,
        }
    }

    /// Does the stage, unless it is done.
    pub fn run(&self, shop: &Workshop, tick: Tick) -> Result<bool> {
        let id = self.id()?;
        shop.store.run(&id, self, |dir| match self {
            Stage::Annotate(p) => run_annotate(p, shop, dir, tick),
            Stage::Instruct(p) => run_instruct(p, shop, dir, tick),
            Stage::Refine(p) => run_refine(p, shop, dir, tick),
            Stage::Probe(p) => run_probe(p, shop, dir, tick),
        })
    }
}

impl<'a> Workshop<'a> {
    pub fn new(store: &'a Store, models: &'a Path, plan: &Plan) -> Workshop<'a> {
        let members = plan.teachers.iter().chain(&plan.students).cloned().collect();
        Workshop { store, models, members, purses: Purses::default() }
    }

    fn base(&self, model: &ModelRef) -> Result<(Transformer, Tokenizer)> {
        load_base(&locate(&model.name, self.models)?)
    }

    /// The chat templates of a model that is asked through them.
    fn templates(&self, model: &ModelRef, chat: bool) -> Result<Option<ChatTemplates>> {
        if !chat {
            return Ok(None);
        }
        let dir = locate(&model.name, self.models)?;
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
        let (mut base, tokenizer) = load_nf4(&locate(&model.name, self.models)?)?;
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

fn run_annotate(p: &AnnotatePlan, shop: &Workshop, dir: &Path, tick: Tick) -> Result<()> {
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
            let name = &p.model.sha256;
            let chat = templates.as_ref();
            let speaker = Speaker { model: &model, tokenizer: &tokenizer, name, chat };
            let path = dir.join("annotations.jsonl");
            annotate(&speaker, &questions, p.cue, &p.sampling, &path, &mut done)?
        }
    };
    write_json(dir.join("probe.json"), &by_generation(&questions, &all))
}

fn run_instruct(p: &InstructPlan, shop: &Workshop, dir: &Path, tick: Tick) -> Result<()> {
    let (mut model, tokenizer) = shop.base(&p.student)?;
    let read = |questions: &QuestionsRef, sources: &[RunId], limit: usize| -> Result<_> {
        let questions = questions.load()?;
        let mut records = Vec::new();
        for source in sources {
            let path = shop.store.path(source).join("annotations.jsonl");
            let mut some = demonstrations(p.set, &questions, &read_annotations(&path)?)?;
            some.truncate(limit);
            records.extend(some);
        }
        Ok(records)
    };
    let records = read(&p.questions, &p.sources, p.limit)?;
    write_lines(dir.join("demonstrations.jsonl"), &records)?;
    let examples = examples(&tokenizer, p.set, &records)?;
    let log = if examples.is_empty() {
        // A teacher that got nothing right delivers no right answers: the student
        // keeps its adapter as it was drawn, which changes nothing.
        model.quantise()?;
        model.add_lora(&p.settings.lora, p.seed)?;
        Vec::new()
    } else {
        let held_out = match &p.held_out {
            None => Vec::new(),
            Some(h) => {
                self::examples(&tokenizer, p.set, &read(&h.questions, &h.sources, usize::MAX)?)?
            }
        };
        let mut each_step = |step, total| {
            tick(step, total);
            Ok(())
        };
        let report = instruct_choosing(
            &mut model,
            examples,
            &held_out,
            &p.settings,
            p.seed,
            &mut each_step,
        )?;
        if p.held_out.is_some() {
            write_json(dir.join("evaluation.json"), &report.choice)?;
        }
        report.log
    };
    write_lines(dir.join("log.jsonl"), &log)?;
    save_adapter(&model, &p.settings.lora, &p.student.name, dir)
}

fn run_refine(p: &RefinePlan, shop: &Workshop, dir: &Path, tick: Tick) -> Result<()> {
    let (mut model, tokenizer) = shop.adapted(&p.student, &p.lora, &p.instructed)?;
    model.set_gradient_checkpointing(p.settings.gradient_checkpointing);
    let merged = model.merged()?;
    let questions = p.questions.load()?;
    let total = questions.len() * 2 * p.settings.samples + p.settings.max_steps;
    let mut n = 0;
    let mut own = [Vec::new(), Vec::new()];
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
    let pairs = pairs(p.settings.pairs, &own[0], &own[1]);
    write_lines(dir.join("pairs.jsonl"), &pairs)?;
    let report = refine(&model, &tokenizer, &pairs, &p.settings, p.seed, &mut |step, _| {
        tick(n + step, total);
        Ok(())
    })?;
    write_lines(dir.join("log.jsonl"), &report.log)?;
    write_json(dir.join("refine.json"), &report)?;
    save_adapter(&model, &p.lora, &p.student.name, dir)
}

fn run_probe(p: &ProbePlan, shop: &Workshop, dir: &Path, tick: Tick) -> Result<()> {
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
    let name = p.adapter.as_ref().map_or(p.model.sha256.as_str(), |(_, run)| run.as_str());
    let templates = shop.templates(&p.model, p.chat)?;
    let speaker = Speaker { model: &model, tokenizer: &tokenizer, name, chat: templates.as_ref() };
    let all = annotate(&speaker, &questions, p.cue, &p.sampling, &path, &mut done)?;
    write_json(dir.join("probe.json"), &by_generation(&questions, &all))?;
    if score_options {
        let (probe, lines) = by_language_model(&model, &tokenizer, &questions, p.cue, &mut done)?;
        write_lines(dir.join("option_scores.jsonl"), &lines)?;
        write_json(dir.join("probe_lm.json"), &probe)?;
    }
    Ok(())
}
