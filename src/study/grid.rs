//! The stages that a plan's tables and figures need, each once.

use std::collections::BTreeMap;

use anyhow::Result;

use super::questions::{Cut, QuestionsRef, Side, Source};
use super::spec::{Member, Plan};
use super::stage::{AnnotatePlan, HeldOutPlan, InstructPlan, ProbePlan, RefinePlan, Stage};
use super::store::RunId;
use crate::model::Sampling;
use crate::task::{Benchmark, Cue, Split};
use crate::teach::DemonstrationSet;

/// Collects stages; asking for one adds what it needs, and asking twice adds
/// nothing.
pub struct Grid<'a> {
    plan: &'a Plan,
    pub stages: BTreeMap<RunId, Stage>,
    /// In the order asked for, parents first.
    pub order: Vec<RunId>,
}

/// A student's own fate in a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    Instructed(DemonstrationSet),
    /// Instructed on both prompts' demonstrations, then DPO.
    Refined,
}

impl<'a> Grid<'a> {
    pub fn new(plan: &'a Plan) -> Grid<'a> {
        Grid { plan, stages: BTreeMap::new(), order: Vec::new() }
    }

    fn add(&mut self, stage: Stage) -> Result<RunId> {
        let id = stage.id()?;
        if !self.stages.contains_key(&id) {
            self.stages.insert(id.clone(), stage);
            self.order.push(id.clone());
        }
        Ok(id)
    }

    fn questions(&self, benchmark: Benchmark, split: Split) -> QuestionsRef {
        let count = match split {
            Split::Test => self.plan.test_questions,
            _ => self.plan.train_questions,
        };
        // The pocket world's classes are balanced as they come.
        let real = !matches!(self.plan.source, Source::World(_));
        let draw = (real && split == Split::Train).then_some(self.plan.draw);
        let cut = if split == Split::Train { self.cut(Side::Train) } else { None };
        QuestionsRef { benchmark, split, count, source: self.plan.source.clone(), draw, cut }
    }

    /// What is held out of training; none unless a checkpoint is chosen by it.
    fn held_out(&self, benchmark: Benchmark) -> Option<QuestionsRef> {
        let cut = Some(self.cut(Side::HeldOut)?);
        let all = self.questions(benchmark, Split::Train);
        Some(QuestionsRef { count: 0, draw: None, cut, ..all })
    }

    fn cut(&self, side: Side) -> Option<Cut> {
        let hold_out = self.plan.instruct.evaluation?.hold_out;
        Some(Cut { hold_out, seed: self.plan.draw, side })
    }

    fn sampling(&self, member: &Member, seed: u64) -> Sampling {
        Sampling {
            temperature: member.temperature,
            max_new_tokens: self.plan.max_new_tokens,
            seed,
            batch: self.plan.generation_batch,
            stop: self.plan.stop.clone(),
            samples: 1,
        }
    }

    /// A teacher annotates the training split.
    pub fn annotate(
        &mut self,
        teacher: &Member,
        task: Benchmark,
        cue: Cue,
        seed: u64,
    ) -> Result<RunId> {
        self.annotate_these(teacher, self.questions(task, Split::Train), cue, seed)
    }

    fn annotate_these(
        &mut self,
        teacher: &Member,
        questions: QuestionsRef,
        cue: Cue,
        seed: u64,
    ) -> Result<RunId> {
        self.add(Stage::Annotate(AnnotatePlan {
            version: Stage::version(),
            model: teacher.model.clone(),
            questions,
            cue,
            sampling: Sampling { samples: self.plan.samples, ..self.sampling(teacher, seed) },
            chat: teacher.chat,
        }))
    }

    /// A base model is tested as it is.
    pub fn probe_base(
        &mut self,
        model: &Member,
        task: Benchmark,
        cue: Cue,
        seed: u64,
    ) -> Result<RunId> {
        self.add(Stage::Probe(ProbePlan {
            version: Stage::version(),
            model: model.model.clone(),
            adapter: None,
            questions: self.questions(task, Split::Test),
            cue,
            sampling: self.sampling(model, seed),
            language_model: cue == Cue::Plain,
            chat: model.chat,
        }))
    }

    /// A student is tuned on a set of a teacher's demonstrations.
    pub fn instruct(
        &mut self,
        student: &Member,
        teacher: &Member,
        set: DemonstrationSet,
        task: Benchmark,
        seed: u64,
    ) -> Result<RunId> {
        let sources = set
            .cues()
            .iter()
            .map(|cue| self.annotate(teacher, task, *cue, seed))
            .collect::<Result<Vec<_>>>()?;
        // P2 trains on as many records as P1 does, drawn from both prompts.
        let limit = (self.plan.demonstrations / sources.len()).max(1);
        let held_out = match self.held_out(task) {
            None => None,
            Some(questions) => {
                let of = |cue: &Cue| self.annotate_these(teacher, questions.clone(), *cue, seed);
                let sources = set.cues().iter().map(of).collect::<Result<Vec<_>>>()?;
                Some(HeldOutPlan { questions, sources })
            }
        };
        self.add(Stage::Instruct(InstructPlan {
            version: Stage::version(),
            student: student.model.clone(),
            questions: self.questions(task, Split::Train),
            set,
            sources,
            limit,
            settings: self.plan.instruct.clone(),
            seed,
            held_out,
        }))
    }

    /// A student tuned on both prompts' demonstrations refines itself.
    pub fn refine(
        &mut self,
        student: &Member,
        teacher: &Member,
        task: Benchmark,
        seed: u64,
    ) -> Result<RunId> {
        let instructed = self.instruct(student, teacher, DemonstrationSet::Both, task, seed)?;
        let mut questions = self.questions(task, Split::Train);
        questions.count = self.plan.refine_questions;
        self.add(Stage::Refine(RefinePlan {
            version: Stage::refine_version(),
            student: student.model.clone(),
            lora: self.plan.instruct.lora.clone(),
            instructed,
            questions,
            sampling: self.sampling(student, seed),
            settings: self.plan.refine.clone(),
            seed,
        }))
    }

    /// A tuned student is tested on `task`, which it was tuned on.
    pub fn probe_tuned(
        &mut self,
        student: &Member,
        teacher: &Member,
        tuning: Tuning,
        task: Benchmark,
        cue: Cue,
        seed: u64,
    ) -> Result<RunId> {
        let adapter = match tuning {
            Tuning::Instructed(set) => self.instruct(student, teacher, set, task, seed)?,
            Tuning::Refined => self.refine(student, teacher, task, seed)?,
        };
        self.add(Stage::Probe(ProbePlan {
            version: Stage::version(),
            model: student.model.clone(),
            adapter: Some((self.plan.instruct.lora.clone(), adapter)),
            questions: self.questions(task, Split::Test),
            cue,
            sampling: self.sampling(student, seed),
            language_model: false,
            // It was tuned on the plain form of its records.
            chat: false,
        }))
    }
}
