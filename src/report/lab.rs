//! The method one call at a time, for notebooks: names and plans in, answers,
//! tables and figures out. Nothing that is being trained ever crosses a call.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::figure::{Bars, Pick, svg};
use super::layouts::{heading, layout};
use super::notebook::{Html, Markdown, Svg};
use super::reproduce::{Outcome, reproduce};
use super::table;
use crate::model::{Sampling, load_adapter, load_base};
use crate::probe::Probe;
use crate::study::{
    Artifact, Grid, Member, Places, Plan, Row, RunId, Spec, Store, Tuning, Workshop, finished_rows,
    run_all, summarise,
};
use crate::task::{Answer, Benchmark, Cue, Gold, Question, Split, World, letter, prompt};
use crate::teach::{Annotation, Demonstration, DemonstrationSet, answer, demonstrations};
use crate::tune::{LogLine, Pair, RefineReport};

/// A project folder with a plan.
pub struct Lab {
    pub plan: Plan,
    pub places: Places,
    /// Stages at a time.
    pub jobs: usize,
}

/// A tuned student: the run that made it.
#[derive(Debug, Clone)]
pub struct Tuned {
    pub id: RunId,
    student: Member,
    /// Its folder: adapter, demonstrations or pairs, log.
    pub dir: PathBuf,
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
        let world = World::new(1)?;
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
        };
        let name = &member.model.sha256;
        let one = std::slice::from_ref(question);
        let mut all = answer(model, tokenizer, name, one, cue, &sampling, &mut || ())?;
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
        let shop = Workshop { store: &store, models: &self.places.models };
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

    /// Claims that the first kind of cell has a higher accuracy than the second: in
    /// how many pairs of cells that holds and by how many points on average, here
    /// and in the paper. Two cells make a pair if they agree in what neither side
    /// names. A difference is clear if it exceeds `√(h₁² + h₂²)`, `h` being half
    /// the widths of the two 95 % intervals.
    pub fn show_claims(
        &self,
        artifact: Artifact,
        claims: &[(&str, Pick, Pick)],
    ) -> Result<Markdown> {
        let rows = self.rows(artifact)?;
        let mut text = String::from(
            "| claim | tasks | here: holds in | clearly | clearly not | mean | paper: holds in | mean |\n\
             |:-|:-|-:|-:|-:|-:|-:|-:|\n",
        );
        let half = |r: &Row| (r.ci_high - r.ci_low) / 2.0;
        for (what, first, second) in claims {
            let pairs = pairs_of_cells(&rows, first, second);
            for (tasks, math) in [("QA", false), ("math", true)] {
                let here: Vec<_> = pairs.iter().filter(|(a, _)| is_math(a) == math).collect();
                let ours: Vec<f64> = here.iter().map(|(a, b)| a.mean - b.mean).collect();
                let clear: Vec<f64> = here.iter().map(|(a, b)| half(a).hypot(half(b))).collect();
                let papers: Vec<f64> =
                    here.iter().filter_map(|(a, b)| Some(a.published? - b.published?)).collect();
                let beyond =
                    |sign: f64| ours.iter().zip(&clear).filter(|(d, c)| sign * **d > **c).count();
                if !here.is_empty() {
                    text += &format!(
                        "| {what} | {tasks} | {} | {} | {} | {} | {} | {} |\n",
                        above(&ours),
                        beyond(1.0),
                        beyond(-1.0),
                        mean(&ours),
                        above(&papers),
                        mean(&papers)
                    );
                }
            }
        }
        Ok(Markdown(text))
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

/// A question as a reader sees it, its gold answer marked.
pub fn show_question(question: &Question) -> Markdown {
    let mut text = format!("**{}** ({})\n\n{}\n\n", question.id, question.benchmark, question.stem);
    for (i, option) in question.options.iter().enumerate() {
        let mark = if question.gold == Gold::Choice(i) { "  ✓" } else { "" };
        text += &format!("- {}) {option}{mark}\n", letter(i));
    }
    if let Gold::Number(n) = &question.gold {
        text += &format!("gold answer: {n}\n");
    }
    Markdown(text)
}

/// The prompt a question makes.
pub fn show_prompt(question: &Question, cue: Cue) -> Markdown {
    Markdown(format!("```text\n{}\n```\n", prompt::render(question, cue)))
}

/// An answer with how it was read.
pub fn show_answer(who: &str, a: &Annotation) -> Markdown {
    let read = match &a.answer {
        None => "no answer could be read".to_string(),
        Some(Answer::Choice(i)) => format!("read as {})", letter(*i)),
        Some(Answer::Number(n)) => format!("read as {n}"),
    };
    let verdict = if a.correct { "right" } else { "wrong" };
    Markdown(format!(
        "**{who}**, {} prompt:\n\n```text\n…{}\n```\n\n{read}: **{verdict}**, {} tokens\n",
        a.cue, a.output, a.tokens
    ))
}

fn both(who: &str, ask: impl Fn(Cue) -> Result<Annotation>) -> Result<Markdown> {
    let shown = Cue::ALL.map(|cue| Ok(show_answer(who, &ask(cue)?).0));
    Ok(Markdown(shown.into_iter().collect::<Result<Vec<_>>>()?.join("\n")))
}

fn above(differences: &[f64]) -> String {
    match differences.len() {
        0 => "–".into(),
        n => format!("{} of {n}", differences.iter().filter(|d| **d > 0.0).count()),
    }
}

fn mean(differences: &[f64]) -> String {
    match differences.len() {
        0 => "–".into(),
        // Rounded first, and `+ 0.0`, so that nothing reads "-0.0".
        n => {
            let mean = differences.iter().sum::<f64>() / n as f64;
            format!("{:+.1}", (mean * 10.0).round() / 10.0 + 0.0)
        }
    }
}

fn is_math(row: &Row) -> bool {
    row.eval_task.split('(').next().is_some_and(|t| t.parse().is_ok_and(Benchmark::is_math))
}

fn pairs_of_cells<'a>(rows: &'a [Row], first: &Pick, second: &Pick) -> Vec<(&'a Row, &'a Row)> {
    let meets = |pick: &Pick, row: &Row| {
        let asks = |want: &Option<String>, have: &str| want.as_deref().is_none_or(|w| w == have);
        row.metric == "accuracy"
            && asks(&pick.student, &row.student)
            && asks(&pick.teacher, &row.teacher)
            && asks(&pick.method, &row.method)
            && asks(&pick.demonstrations, &row.demonstrations)
    };
    let named = |f: fn(&Pick) -> bool| f(first) || f(second);
    let (student, teacher) = (named(|p| p.student.is_some()), named(|p| p.teacher.is_some()));
    // Methods and sets go together: who names the one means the other, too.
    let set = named(|p| p.demonstrations.is_some() || p.method.is_some());
    let mut pairs = Vec::new();
    for a in rows.iter().filter(|r| meets(first, r)) {
        for b in rows.iter().filter(|r| meets(second, r)) {
            if a.eval_task == b.eval_task
                && (student || a.student == b.student)
                && (teacher || a.teacher == b.teacher)
                && (set || a.demonstrations == b.demonstrations)
            {
                pairs.push((a, b));
            }
        }
    }
    pairs
}
