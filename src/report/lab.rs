//! The method one call at a time, for notebooks: names and plans in, answers,
//! tables and figures out. Nothing that is being trained ever crosses a call.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::claims::claims;
use super::figure::{Bars, Pick, svg};
use super::layouts::{heading, layout};
use super::notebook::{Html, Markdown, Svg};
use super::reproduce::{Outcome, reproduce};
use super::show::both;
use super::table;
use super::tuned::Tuned;
use crate::model::{Sampling, load_adapter, load_base};
use crate::probe::Probe;
use crate::study::{
    Artifact, Grid, Member, Places, Plan, Row, RunId, Source, Spec, Store, Tuning, Workshop,
    finished_rows, run_all, summarise,
};
use crate::task::{Benchmark, Cue, Question, Split, World};
use crate::teach::{Annotation, DemonstrationSet, Speaker, answer, demonstrations};

/// A project folder with a plan.
pub struct Lab {
    pub plan: Plan,
    pub places: Places,
    /// Stages at a time.
    pub jobs: usize,
}

impl Lab {
    /// The pocket scale in a project folder.
    pub fn open(root: impl AsRef<Path>) -> Result<Lab> {
        Lab::with(root, Spec::default())
    }

    /// Any plan in a project folder.
    pub fn with(root: impl AsRef<Path>, spec: Spec) -> Result<Lab> {
        let places = Places::under(root.as_ref());
        let plan = spec.resolve(&places.models)?;
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Lab { plan, places, jobs })
    }

    fn member(&self, name: &str) -> Result<&Member> {
        let mut all = self.plan.students.iter().chain(&self.plan.teachers);
        all.find(|m| m.model.name == name).with_context(|| {
            let names: Vec<&str> = self
                .plan
                .students
                .iter()
                .chain(&self.plan.teachers)
                .map(|m| m.model.name.as_str())
                .collect();
            format!("unknown model {name:?}; known: {}", names.join(", "))
        })
    }

    /// A question of the pocket world by its id, such as `obqa-test-0001`.
    pub fn question(&self, id: &str) -> Result<Question> {
        let Source::World(seed) = self.plan.source else {
            bail!("question {id:?}: only questions of the pocket world are found by their id");
        };
        let world = World::new(seed)?;
        for task in Benchmark::ALL {
            for split in [Split::Train, Split::Test] {
                if let Some(q) = world.questions(task, split).into_iter().find(|q| q.id == id) {
                    return Ok(q);
                }
            }
        }
        bail!(
            "no question {id:?}; ids run from obqa-test-0001 to multiarith-test-0600, and -train-"
        )
    }

    /// What a model without an adapter answers.
    pub fn ask(&self, model: &str, question: &Question, cue: Cue) -> Result<Annotation> {
        let member = self.member(model)?;
        let (base, tokenizer) = load_base(&self.places.models.join(model))?;
        self.one(&base, &tokenizer, member, question, cue)
    }

    /// What a tuned student answers.
    pub fn ask_tuned(&self, tuned: &Tuned, question: &Question, cue: Cue) -> Result<Annotation> {
        let dir = self.places.models.join(&tuned.student.model.name);
        let (mut base, tokenizer) = load_base(&dir)?;
        base.quantise()?;
        load_adapter(&mut base, &self.plan.instruct.lora, &tuned.dir)?;
        self.one(&base.merged()?, &tokenizer, &tuned.student, question, cue)
    }

    /// What a model without an adapter answers to both prompts.
    pub fn show_answers(&self, model: &str, question: &Question) -> Result<Markdown> {
        both(model, |cue| self.ask(model, question, cue))
    }

    /// What a tuned student answers to both prompts.
    pub fn show_tuned_answers(&self, tuned: &Tuned, question: &Question) -> Result<Markdown> {
        // A run's id begins with its stage: `instruct` or `refine`.
        let stage = tuned.id.as_str().split('-').next().unwrap_or_default();
        let who = format!("{} after {stage}", tuned.student.model.name);
        both(&who, |cue| self.ask_tuned(tuned, question, cue))
    }

    /// The record that a teacher's answer makes (P1 Table 2), right or wrong.
    pub fn show_demonstration(&self, teacher: &str, question: &Question) -> Result<Markdown> {
        let answer = self.ask(teacher, question, Cue::Cot)?;
        let set = DemonstrationSet::CotDemonstrations;
        let records = demonstrations(set, std::slice::from_ref(question), &[answer])?;
        let record = records.first().context("the answer was cut at the length limit")?;
        Ok(Markdown(format!("```json\n{}\n```\n", serde_json::to_string_pretty(record)?)))
    }

    fn one(
        &self,
        model: &crate::model::Transformer,
        tokenizer: &crate::model::Tokenizer,
        member: &Member,
        question: &Question,
        cue: Cue,
    ) -> Result<Annotation> {
        let sampling = Sampling {
            temperature: member.temperature,
            max_new_tokens: self.plan.max_new_tokens,
            seed: 1,
            batch: 1,
            stop: Vec::new(),
            samples: 1,
        };
        let name = &member.model.sha256;
        let one = std::slice::from_ref(question);
        let speaker = Speaker { model, tokenizer, name, chat: None };
        let mut all = answer(&speaker, one, cue, &sampling, &mut || ())?;
        all.pop().context("one question gave no answer")
    }

    /// Tunes a student on a set of a teacher's demonstrations (P1), with whatever
    /// annotations that needs.
    pub fn instruct(
        &self,
        student: &str,
        teacher: &str,
        set: DemonstrationSet,
        task: Benchmark,
        seed: u64,
    ) -> Result<Tuned> {
        let (student, teacher) = (self.member(student)?, self.member(teacher)?);
        let mut grid = Grid::new(&self.plan);
        let id = grid.instruct(student, teacher, set, task, seed)?;
        self.tuned(grid, id, student)
    }

    /// Tunes a student on both prompts' demonstrations, then lets it refine itself
    /// with DPO (P2).
    pub fn refine(
        &self,
        student: &str,
        teacher: &str,
        task: Benchmark,
        seed: u64,
    ) -> Result<Tuned> {
        let (student, teacher) = (self.member(student)?, self.member(teacher)?);
        let mut grid = Grid::new(&self.plan);
        let id = grid.refine(student, teacher, task, seed)?;
        self.tuned(grid, id, student)
    }

    fn tuned(&self, grid: Grid, id: RunId, student: &Member) -> Result<Tuned> {
        let store = self.run(&grid)?;
        Ok(Tuned { dir: store.path(&id), id, student: student.clone() })
    }

    fn run(&self, grid: &Grid) -> Result<Store> {
        let store = Store::open(&self.places.runs)?;
        let shop = Workshop::new(&store, &self.places.models, &self.plan);
        run_all(&grid.stages, &grid.order, &shop, self.jobs)?;
        Ok(store)
    }

    /// Score of a model without an adapter on a task's test questions.
    pub fn score(&self, model: &str, task: Benchmark, cue: Cue) -> Result<Probe> {
        let mut grid = Grid::new(&self.plan);
        let id = grid.probe_base(self.member(model)?, task, cue, 1)?;
        self.run(&grid)?.read(&id, "probe.json")
    }

    /// Score of a tuned student.
    pub fn score_tuned(
        &self,
        student: &str,
        teacher: &str,
        tuning: Tuning,
        task: Benchmark,
        cue: Cue,
    ) -> Result<Probe> {
        let (student, teacher) = (self.member(student)?, self.member(teacher)?);
        let mut grid = Grid::new(&self.plan);
        let id = grid.probe_tuned(student, teacher, tuning, task, cue, 1)?;
        self.run(&grid)?.read(&id, "probe.json")
    }

    /// Scores, each with the 95 % interval that its number of questions leaves.
    pub fn show_scores(scores: &[(&str, &Probe)]) -> Markdown {
        let mut text = String::from(
            "| | right | accuracy | 95 % interval | no answer read |\n|:-|-:|-:|-:|-:|\n",
        );
        for (who, p) in scores {
            let s = summarise(&[(p.correct, p.n)]);
            text += &format!(
                "| {who} | {} of {} | {:.1} % | {:.1}–{:.1} | {} |\n",
                p.correct, p.n, s.mean, s.ci_low, s.ci_high, p.no_answer
            );
        }
        Markdown(text)
    }

    /// Makes a table and a figure, running whatever they need.
    pub fn reproduce(&self, artifact: Artifact) -> Result<Outcome> {
        let plan = Plan { only: vec![artifact], ..self.plan.clone() };
        reproduce(&plan, &self.places, self.jobs)
    }

    /// The rows of a table whose runs are done.
    pub fn rows(&self, artifact: Artifact) -> Result<Vec<Row>> {
        finished_rows(artifact, &self.plan, &Store::open(&self.places.runs)?)
    }

    /// Those rows of one metric as the wide table.
    pub fn table(&self, artifact: Artifact, metric: &str) -> Result<Html> {
        let mut rows = self.rows(artifact)?;
        rows.retain(|r| r.metric == metric);
        table::html(&rows, &heading(artifact, &self.plan, &rows).pivot)
    }

    /// [`claims`] on the rows of an artifact whose runs are done.
    pub fn show_claims(&self, artifact: Artifact, list: &[(&str, Pick, Pick)]) -> Result<Markdown> {
        Ok(claims(&self.rows(artifact)?, list))
    }

    /// The figure of an artifact whose runs are done.
    pub fn figure(&self, artifact: Artifact) -> Result<Svg> {
        let rows = self.rows(artifact)?;
        svg(&Bars::from_rows(&rows, &layout(artifact, &self.plan, &rows))?)
    }

    /// The stages that an artifact needs, and how many are done.
    pub fn stages(&self, artifact: Artifact) -> Result<(usize, usize)> {
        let plan = Plan { only: vec![artifact], ..self.plan.clone() };
        let all = crate::study::lay_out(&plan)?;
        let store = Store::open(&self.places.runs)?;
        Ok((all.order.len(), all.order.iter().filter(|id| store.is_done(id)).count()))
    }
}
