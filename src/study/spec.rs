//! What is asked for (`Spec`), and what that means once resolved (`Plan`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::experiments::Artifact;
use super::pin::{Pinned, pin};
use super::questions::{Source, snapshot};
use super::stage::ModelRef;
use crate::model::Compute;
use crate::model::hub::{self, Snapshot};
use crate::task::{Benchmark, NativeSplit};
use crate::teach::redacted::{key_name, redacted_toml_error, refused_key};
#[cfg(feature = "remote")]
use crate::teach::remote::RemoteTeacher;
use crate::tune::{InstructSettings, RefineSettings};

/// Stands for a hash in a draft.
const NOT_LOOKED_AT: &str = "not looked at";

/// The scales that ship with the program: every value a run needs.
const SCALES: [(&str, &str); 4] = [
    ("pocket", include_str!("../../data/scales/pocket.toml")),
    ("laptop", include_str!("../../data/scales/laptop.toml")),
    ("paper", include_str!("../../data/scales/paper.toml")),
    ("smoke", include_str!("../../data/scales/smoke.toml")),
];

/// A model and what a grid needs to know of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    pub name: String,
    /// Students and teachers of one family share a dialect and a tokenizer.
    pub family: String,
    /// Sampling temperature of its answers.
    pub temperature: f64,
    /// Students of P1 Figure 2; the others appear only in P2.
    #[serde(default)]
    pub figure_2: bool,
    /// Ask it through the chat template of its folder.
    #[serde(default)]
    pub chat: bool,
    /// It answers behind a server; temperature and seed are the run's.
    #[cfg(feature = "remote")]
    #[serde(default)]
    pub remote: Option<RemoteTeacher>,
}

impl ModelSpec {
    /// What names a model behind a server; none for one that is loaded.
    fn served_as(&self) -> Result<Option<String>> {
        #[cfg(feature = "remote")]
        if let Some(teacher) = &self.remote {
            teacher.check().with_context(|| format!("{}: remote", self.name))?;
            return Ok(Some(teacher.id()));
        }
        Ok(None)
    }

    /// Gives a server of the scale the run's own limit of an answer.
    #[cfg_attr(not(feature = "remote"), expect(unused_variables, clippy::unnecessary_wraps))]
    fn limit(&mut self, max_new_tokens: usize) -> Result<()> {
        #[cfg(feature = "remote")]
        if let Some(teacher) = &mut self.remote {
            teacher.max_tokens = u32::try_from(max_new_tokens)
                .with_context(|| format!("max_new_tokens: {max_new_tokens} is too many"))?;
        }
        Ok(())
    }

    /// Refuses a server that stops elsewhere than the models that are loaded.
    #[cfg_attr(not(feature = "remote"), expect(unused_variables, clippy::unnecessary_wraps))]
    fn agrees_with(&self, max_new_tokens: usize) -> Result<()> {
        #[cfg(feature = "remote")]
        if let Some(teacher) = &self.remote {
            ensure!(
                teacher.max_tokens as usize == max_new_tokens,
                "{}: remote.max_tokens is {}, but max_new_tokens is {max_new_tokens}; give both the \
                 same value",
                self.name,
                teacher.max_tokens
            );
        }
        Ok(())
    }
}

/// A run as written: everything may be left out. The keys of a `--spec` file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Where missing values come from: `pocket` (default), `laptop`, `paper` or `smoke`.
    pub scale: Option<String>,
    /// Where models compute; the CPU when left out.
    pub compute: Option<Compute>,
    /// Number of seeds; they are 1, 2, ….
    pub seeds: Option<u64>,
    /// Tables and figures to make; all when left out.
    pub only: Option<Vec<Artifact>>,
    /// Benchmarks.
    pub tasks: Option<Vec<Benchmark>>,
    pub students: Option<Vec<ModelSpec>>,
    pub teachers: Option<Vec<ModelSpec>>,
    /// Seed of the pocket world.
    pub world: Option<u64>,
    /// Real benchmarks in their publishers' or the hub's layout, from this folder.
    pub data: Option<PathBuf>,
    /// `"hub"`: real benchmarks, downloaded.
    pub benchmarks: Option<String>,
    /// Questions of each task, training split; 0 is all of them.
    pub train_questions: Option<usize>,
    /// Seed of the class-balanced draw of training questions from real benchmarks.
    pub draw: Option<u64>,
    pub test_questions: Option<usize>,
    /// Demonstrations a student is tuned on at most.
    pub demonstrations: Option<usize>,
    pub max_new_tokens: Option<usize>,
    /// Sequences generated at a time.
    pub generation_batch: Option<usize>,
    /// Texts that end an answer of a model that is loaded.
    pub stop: Option<Vec<String>>,
    /// Answers of a teacher to each training question and prompt; 1 when not given.
    pub samples: Option<usize>,
    /// P1, and P2's phase 1.
    pub instruct: Option<InstructSettings>,
    /// P2's phase 2.
    pub refine: Option<RefineSettings>,
    /// Own-answer questions of phase 2.
    pub refine_questions: Option<usize>,
}

/// A run with every value decided; what the stages are made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub scale: String,
    pub seeds: Vec<u64>,
    pub only: Vec<Artifact>,
    pub tasks: Vec<Benchmark>,
    pub students: Vec<Member>,
    pub teachers: Vec<Member>,
    pub source: Source,
    /// What was downloaded of benchmarks and models: commits, and hashes of the files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    pub train_questions: usize,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub draw: u64,
    pub test_questions: usize,
    pub demonstrations: usize,
    pub max_new_tokens: usize,
    pub generation_batch: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    #[serde(default = "one_sample", skip_serializing_if = "is_one_sample")]
    pub samples: usize,
    pub instruct: InstructSettings,
    pub refine: RefineSettings,
    pub refine_questions: usize,
}

fn one() -> u64 {
    1
}

fn is_one(n: &u64) -> bool {
    *n == 1
}

fn one_sample() -> usize {
    1
}

fn is_one_sample(n: &usize) -> bool {
    *n == 1
}

/// A model of a plan, its content fixed by a hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub model: ModelRef,
    /// The hub's commit that all stages read; none for a model in a folder. What a stage
    /// computes is decided by the hash alone, so stages are not named by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub family: String,
    pub temperature: f64,
    pub figure_2: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
    #[cfg(feature = "remote")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteTeacher>,
}

impl Spec {
    /// Reads a `--spec` file. No message repeats a value of it: it may be a key.
    pub fn load(path: &Path) -> Result<Spec> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Spec::parse(&text).with_context(|| format!("{}: not a run description", path.display()))
    }

    fn parse(text: &str) -> Result<Spec> {
        let redacted = |e: toml::de::Error| anyhow!(redacted_toml_error(&e, text));
        let table: toml::Table = text.parse().map_err(redacted)?;
        if let Some(name) = key_name(&table) {
            bail!(refused_key(name));
        }
        toml::from_str(text).map_err(redacted)
    }

    /// These values, and those of `base` where this one says nothing.
    pub fn or(self, base: Spec) -> Spec {
        Spec {
            scale: self.scale.or(base.scale),
            compute: self.compute.or(base.compute),
            seeds: self.seeds.or(base.seeds),
            only: self.only.or(base.only),
            tasks: self.tasks.or(base.tasks),
            students: self.students.or(base.students),
            teachers: self.teachers.or(base.teachers),
            world: self.world.or(base.world),
            data: self.data.or(base.data),
            benchmarks: self.benchmarks.or(base.benchmarks),
            train_questions: self.train_questions.or(base.train_questions),
            draw: self.draw.or(base.draw),
            test_questions: self.test_questions.or(base.test_questions),
            demonstrations: self.demonstrations.or(base.demonstrations),
            max_new_tokens: self.max_new_tokens.or(base.max_new_tokens),
            generation_batch: self.generation_batch.or(base.generation_batch),
            stop: self.stop.or(base.stop),
            samples: self.samples.or(base.samples),
            instruct: self.instruct.or(base.instruct),
            refine: self.refine.or(base.refine),
            refine_questions: self.refine_questions.or(base.refine_questions),
        }
    }

    /// Fills in the scale's values, checks everything, and hashes the models in
    /// `models`.
    pub fn resolve(self, models: &Path) -> Result<Plan> {
        self.resolve_with(Some(models))
    }

    /// The same without looking at any model, for estimates before a download.
    pub fn draft(self) -> Result<Plan> {
        self.resolve_with(None)
    }

    fn resolve_with(self, models: Option<&Path>) -> Result<Plan> {
        let scale = self.scale.clone().unwrap_or_else(|| "pocket".into());
        let Some((_, text)) = SCALES.iter().find(|(name, _)| *name == scale) else {
            let known = SCALES.map(|(name, _)| name).join(", ");
            bail!("unknown scale {scale:?}; known: {known}");
        };
        let mut base: Spec = toml::from_str(text).with_context(|| format!("scale {scale}"))?;
        let limit = self.max_new_tokens;
        if let (Some(n), Some(teachers)) = (limit, &mut base.teachers) {
            teachers.iter_mut().try_for_each(|t| t.limit(n))?;
        }
        let s = self.or(base);
        let seeds = need(s.seeds, "seeds")?;
        ensure!((1..=100).contains(&seeds), "seeds: {seeds} is not between 1 and 100");
        let compute = s.compute.unwrap_or_default();
        // A member that is named twice is one model, even if the hub's moves just now.
        let mut pinned: BTreeMap<String, Pinned> = BTreeMap::new();
        let mut members = |list: Vec<ModelSpec>| -> Result<Vec<Member>> {
            list.into_iter()
                .map(|m| {
                    let mut revision = None;
                    let (sha256, compute) = match (m.served_as()?, models) {
                        // What decides its answers, as far as can be known from here.
                        (Some(id), _) => (id, Compute::Cpu),
                        (None, None) => (NOT_LOOKED_AT.into(), compute),
                        (None, Some(models)) => {
                            if !pinned.contains_key(&m.name) {
                                pinned.insert(m.name.clone(), pin(&m.name, models)?);
                            }
                            let found = &pinned[&m.name];
                            revision = found.snapshot.as_ref().map(|s| s.commit.clone());
                            (found.sha256.clone(), compute)
                        }
                    };
                    if let Some(n) = limit {
                        m.agrees_with(n)?;
                    }
                    ensure!(
                        (0.0..=10.0).contains(&m.temperature),
                        "{}: temperature {} is not between 0 and 10",
                        m.name,
                        m.temperature
                    );
                    Ok(Member {
                        model: ModelRef { name: m.name, sha256, compute },
                        revision,
                        family: m.family,
                        temperature: m.temperature,
                        figure_2: m.figure_2,
                        chat: m.chat,
                        #[cfg(feature = "remote")]
                        remote: m.remote,
                    })
                })
                .collect()
        };
        let tasks = need(s.tasks, "tasks")?;
        let mut snapshots = Vec::new();
        let source = match (s.data, s.benchmarks.as_deref()) {
            (Some(dir), _) => Source::Folder(dir),
            (None, Some("hub")) => Source::Hub(match models {
                None => NOT_LOOKED_AT.into(),
                Some(_) => {
                    for task in &tasks {
                        for split in [NativeSplit::Train, NativeSplit::scored(*task)] {
                            snapshots.push(snapshot(*task, split, hub::offline())?);
                        }
                    }
                    let json = serde_json::to_string(&snapshots)?;
                    format!("{:x}", Sha256::digest(json))
                }
            }),
            (None, None) => Source::World(need(s.world, "world")?),
            (None, Some(other)) => bail!("benchmarks: {other:?} is not known; only \"hub\""),
        };
        let students = members(need(s.students, "students")?)?;
        let teachers = members(need(s.teachers, "teachers")?)?;
        snapshots.extend(pinned.into_values().filter_map(|p| p.snapshot));
        let plan = Plan {
            scale,
            seeds: (1..=seeds).collect(),
            only: s.only.unwrap_or_else(|| Artifact::ALL.to_vec()),
            tasks,
            students,
            teachers,
            source,
            snapshots,
            train_questions: need(s.train_questions, "train_questions")?,
            draw: s.draw.unwrap_or(1),
            test_questions: need(s.test_questions, "test_questions")?,
            demonstrations: need(s.demonstrations, "demonstrations")?,
            max_new_tokens: need(s.max_new_tokens, "max_new_tokens")?,
            generation_batch: need(s.generation_batch, "generation_batch")?,
            stop: s.stop.unwrap_or_default(),
            samples: s.samples.unwrap_or(1),
            instruct: need(s.instruct, "instruct")?,
            refine: need(s.refine, "refine")?,
            refine_questions: need(s.refine_questions, "refine_questions")?,
        };
        plan.check()?;
        Ok(plan)
    }
}

fn need<T>(value: Option<T>, key: &str) -> Result<T> {
    value.with_context(|| format!("{key}: not given, and the scale has no value for it"))
}

impl Plan {
    fn check(&self) -> Result<()> {
        for (key, n) in [
            ("demonstrations", self.demonstrations),
            ("max_new_tokens", self.max_new_tokens),
            ("generation_batch", self.generation_batch),
            ("refine_questions", self.refine_questions),
            ("samples", self.samples),
            ("instruct.per_device_train_batch_size", self.instruct.per_device_train_batch_size),
            ("instruct.gradient_accumulation_steps", self.instruct.gradient_accumulation_steps),
            ("instruct.lora.r", self.instruct.lora.r),
            ("refine.per_device_train_batch_size", self.refine.per_device_train_batch_size),
            ("refine.gradient_accumulation_steps", self.refine.gradient_accumulation_steps),
            ("refine.max_steps", self.refine.max_steps),
            ("refine.eval_steps", self.refine.eval_steps),
            ("refine.samples", self.refine.samples),
        ] {
            ensure!(n > 0, "{key}: must be at least 1");
        }
        if let Source::World(_) = self.source {
            for (key, n) in
                [("train_questions", self.train_questions), ("test_questions", self.test_questions)]
            {
                ensure!(n > 0, "{key}: must be at least 1");
            }
        }
        let share = self.refine.hold_out;
        ensure!(
            share > 0.0 && share < 1.0,
            "refine.hold_out: {share} is not a share between 0 and 1"
        );
        let greedy = self.teachers.iter().find(|t| t.temperature == 0.0);
        if let Some(teacher) = greedy.filter(|_| self.samples > 1) {
            bail!(
                "samples: all {} of {} would be the same at temperature 0; give it a higher one",
                self.samples,
                teacher.model.name
            );
        }
        if let Some(e) = self.instruct.evaluation {
            for (key, n) in [("hold_out", e.hold_out), ("eval_steps", e.eval_steps)] {
                ensure!(n > 0, "instruct.evaluation.{key}: must be at least 1");
            }
        }
        let p = self.instruct.lora.lora_dropout;
        ensure!((0.0..1.0).contains(&p), "instruct.lora.lora_dropout: {p} is not in [0, 1)");
        ensure!(
            !self.tasks.is_empty(),
            "tasks: empty; known: OBQA, CSQA, PIQA, SIQA, GSM8K, MultiArith"
        );
        if let (Source::World(_), Some(task)) =
            (&self.source, self.tasks.iter().find(|task| Benchmark::EXTRA.contains(task)))
        {
            bail!("tasks: the pocket world has no {task}; name a folder that has it with --data");
        }
        ensure!(
            !self.students.is_empty() && !self.teachers.is_empty(),
            "students and teachers: name at least one each"
        );
        ensure!(!self.only.is_empty(), "only: names no table or figure");
        self.check_students()?;
        Ok(())
    }

    /// Every table but the teachers' own tunes its students, or scores the options by
    /// log-probability: neither is possible through a server.
    fn check_students(&self) -> Result<()> {
        #[cfg(feature = "remote")]
        if let (Some(artifact), Some(student)) = (
            self.only.iter().find(|a| **a != Artifact::P1_Table11),
            self.students.iter().find(|s| s.remote.is_some()),
        ) {
            bail!(
                "students: {} answers behind a server, but {} needs a model that is loaded; leave \
                 its remote table out, or make it a teacher",
                student.model.name,
                artifact.name()
            );
        }
        Ok(())
    }
}
