//! The papers' tables and figures: which runs each is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::grid::{Grid, Tuning};
use super::published;
use super::row::{Row, summarise};
use super::spec::{Member, Plan};
use super::stage::Stage;
use super::store::{RunId, Store};
use crate::probe::Probe;
use crate::task::{Benchmark, Cue};
use crate::teach::DemonstrationSet;

/// One table or figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[allow(non_camel_case_types)]
pub enum Artifact {
    /// Teachers, plain and CoT, train and test.
    P1_Table11,
    /// Untuned students, plain and CoT.
    P1_Table03,
    /// Students by demonstration set, in- and out-family.
    P1_Figure02,
    /// Self-refinement, in-family.
    P2_Figure02,
    /// Self-refinement, out-family beside in-family.
    P2_Figure03,
}

impl Artifact {
    pub const ALL: [Artifact; 5] = [
        Artifact::P1_Table11,
        Artifact::P1_Table03,
        Artifact::P1_Figure02,
        Artifact::P2_Figure02,
        Artifact::P2_Figure03,
    ];

    /// File name, without ending.
    pub fn name(self) -> &'static str {
        match self {
            Artifact::P1_Table11 => "p1_table11",
            Artifact::P1_Table03 => "p1_table03",
            Artifact::P1_Figure02 => "p1_figure02",
            Artifact::P2_Figure02 => "p2_figure02",
            Artifact::P2_Figure03 => "p2_figure03",
        }
    }

    /// Paper and item, as `data/published` names them.
    pub fn item(self) -> (&'static str, &'static str) {
        match self {
            Artifact::P1_Table11 => ("P1", "Table 11"),
            Artifact::P1_Table03 => ("P1", "Table 3"),
            Artifact::P1_Figure02 => ("P1", "Figure 2"),
            Artifact::P2_Figure02 => ("P2", "Figure 2"),
            Artifact::P2_Figure03 => ("P2", "Figure 3"),
        }
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Artifact> for String {
    fn from(a: Artifact) -> String {
        a.name().to_string()
    }
}

impl TryFrom<String> for Artifact {
    type Error = anyhow::Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl FromStr for Artifact {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> Result<Self> {
        let known = || Artifact::ALL.map(Artifact::name).join(", ");
        Artifact::ALL
            .into_iter()
            .find(|a| a.name() == s)
            .with_context(|| format!("unknown table or figure {s:?}; known: {}", known()))
    }
}

/// One cell of a table: what it is about, and its runs, one a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub student: String,
    pub teacher: String,
    pub method: &'static str,
    pub demonstrations: &'static str,
    pub train_task: String,
    pub eval_task: String,
    /// `accuracy`, or `lm_accuracy` for language-model probing.
    pub metric: &'static str,
    pub runs: Vec<RunId>,
}

impl Cell {
    fn base(model: &str, teacher: bool, cue: Cue, task: Benchmark, runs: Vec<RunId>) -> Cell {
        let none = || "-".to_string();
        Cell {
            student: if teacher { none() } else { model.into() },
            teacher: if teacher { model.into() } else { none() },
            method: match cue {
                Cue::Plain => "baseline",
                Cue::Cot => "baseline_cot",
            },
            demonstrations: "none",
            train_task: none(),
            eval_task: task.name().into(),
            metric: "accuracy",
            runs,
        }
    }

    /// Reads the runs' scores.
    pub fn rows(&self, store: &Store) -> Result<Vec<Row>> {
        let file = if self.metric == "lm_accuracy" { "probe_lm.json" } else { "probe.json" };
        let probes: Vec<Probe> =
            self.runs.iter().map(|id| store.read(id, file)).collect::<Result<_>>()?;
        let row = |metric: &str, count: fn(&Probe) -> u64| {
            let s = summarise(&probes.iter().map(|p| (count(p), p.n)).collect::<Vec<_>>());
            Row {
                student: self.student.clone(),
                teacher: self.teacher.clone(),
                method: self.method.into(),
                demonstrations: self.demonstrations.into(),
                train_task: self.train_task.clone(),
                eval_task: self.eval_task.clone(),
                metric: metric.into(),
                mean: s.mean,
                std: s.std,
                ci_low: s.ci_low,
                ci_high: s.ci_high,
                n: s.n,
                seeds: s.seeds,
                published: None,
            }
        };
        let mut rows = vec![row(self.metric, |p| p.correct)];
        if self.metric == "accuracy" {
            rows.push(row("no_answer", |p| p.no_answer));
        }
        Ok(rows)
    }
}

/// The stages and cells of a plan, nothing run yet.
pub struct Experiments {
    pub stages: BTreeMap<RunId, Stage>,
    pub order: Vec<RunId>,
    pub artifacts: Vec<(Artifact, Vec<Cell>)>,
}

/// Lays the plan's experiments out.
pub fn lay_out(plan: &Plan) -> Result<Experiments> {
    let mut grid = Grid::new(plan);
    let artifacts = plan
        .only
        .iter()
        .map(|a| Ok((*a, cells(*a, plan, &mut grid)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Experiments { stages: grid.stages, order: grid.order, artifacts })
}

/// The cells of one table or figure; the stages they need are added to `grid`.
pub fn cells(artifact: Artifact, plan: &Plan, grid: &mut Grid) -> Result<Vec<Cell>> {
    match artifact {
        Artifact::P1_Table11 => teachers(plan, grid, &plan.teachers, true),
        Artifact::P1_Table03 => untuned(plan, grid, &[Cue::Plain, Cue::Cot], true),
        Artifact::P1_Figure02 => figure_2(plan, grid),
        Artifact::P2_Figure02 => self_refine(plan, grid, true),
        Artifact::P2_Figure03 => self_refine(plan, grid, false),
    }
}

/// The rows of one table or figure, once its runs are there.
pub fn rows(artifact: Artifact, cells: &[Cell], store: &Store) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> =
        cells.iter().map(|c| c.rows(store)).collect::<Result<Vec<_>>>()?.concat();
    let (paper, item) = artifact.item();
    published::fill(&mut rows, paper, item);
    Ok(rows)
}

fn per_seed(plan: &Plan, mut run: impl FnMut(u64) -> Result<RunId>) -> Result<Vec<RunId>> {
    plan.seeds.iter().map(|seed| run(*seed)).collect()
}

fn teachers(plan: &Plan, grid: &mut Grid, who: &[Member], train: bool) -> Result<Vec<Cell>> {
    let mut all = Vec::new();
    for teacher in who {
        let name = &teacher.model.name;
        for &task in &plan.tasks {
            for cue in Cue::ALL {
                if train {
                    let runs = per_seed(plan, |s| grid.annotate(teacher, task, cue, s))?;
                    let cell = Cell::base(name, true, cue, task, runs);
                    all.push(Cell { eval_task: format!("{task}(train)"), ..cell });
                }
                let runs = per_seed(plan, |s| grid.probe_base(teacher, task, cue, s))?;
                let cell = Cell::base(name, true, cue, task, runs);
                // Where both splits are shown, the published table marks both.
                let eval_task =
                    if train { format!("{task}(test)") } else { cell.eval_task.clone() };
                all.push(Cell { eval_task, ..cell });
            }
        }
    }
    Ok(all)
}

fn untuned(plan: &Plan, grid: &mut Grid, cues: &[Cue], lm: bool) -> Result<Vec<Cell>> {
    let mut all = Vec::new();
    for student in &plan.students {
        for &task in &plan.tasks {
            for &cue in cues {
                let runs = per_seed(plan, |s| grid.probe_base(student, task, cue, s))?;
                let cell = Cell::base(&student.model.name, false, cue, task, runs);
                if lm && cue == Cue::Plain && !task.is_math() {
                    all.push(Cell { metric: "lm_accuracy", ..cell.clone() });
                }
                all.push(cell);
            }
        }
    }
    Ok(all)
}

fn tuned(
    plan: &Plan,
    grid: &mut Grid,
    student: &Member,
    teacher: &Member,
    tuning: Tuning,
    task: Benchmark,
    cue: Cue,
) -> Result<Cell> {
    let runs = per_seed(plan, |s| grid.probe_tuned(student, teacher, tuning, task, cue, s))?;
    let (method, demonstrations) = match tuning {
        Tuning::Refined => ("self_refine", DemonstrationSet::Both),
        Tuning::Instructed(set) if set.cues() == [Cue::Plain] => ("instruction_tuning", set),
        Tuning::Instructed(set) => ("instruction_tuning_cot", set),
    };
    Ok(Cell {
        student: student.model.name.clone(),
        teacher: teacher.model.name.clone(),
        method,
        demonstrations: demonstrations.name(),
        train_task: task.name().into(),
        eval_task: task.name().into(),
        metric: "accuracy",
        runs,
    })
}

/// Tuned students answer the plain prompt, which is the input their records have
/// (P1 Table 2): those tuned on CoT answer it step by step.
fn figure_2(plan: &Plan, grid: &mut Grid) -> Result<Vec<Cell>> {
    let who: Vec<Member> = plan.teachers.iter().filter(|t| t.figure_2).cloned().collect();
    let mut all = teachers(plan, grid, &who, false)?;
    for student in plan.students.iter().filter(|s| s.figure_2) {
        for &task in &plan.tasks {
            let runs = per_seed(plan, |s| grid.probe_base(student, task, Cue::Plain, s))?;
            all.push(Cell::base(&student.model.name, false, Cue::Plain, task, runs));
        }
        for teacher in &who {
            for set in DemonstrationSet::FIGURE_2 {
                for &task in &plan.tasks {
                    let tuning = Tuning::Instructed(set);
                    all.push(tuned(plan, grid, student, teacher, tuning, task, Cue::Plain)?);
                }
            }
        }
    }
    Ok(all)
}

/// P2: the CoT prompt, under which its students are elicited. In-family only, or
/// every pair.
fn self_refine(plan: &Plan, grid: &mut Grid, in_family: bool) -> Result<Vec<Cell>> {
    let mut all = teachers(plan, grid, &plan.teachers, false)?;
    all.extend(untuned(plan, grid, &[Cue::Plain, Cue::Cot], false)?);
    for student in &plan.students {
        for teacher in &plan.teachers {
            if in_family && teacher.family != student.family {
                continue;
            }
            for tuning in [Tuning::Instructed(DemonstrationSet::Both), Tuning::Refined] {
                for &task in &plan.tasks {
                    all.push(tuned(plan, grid, student, teacher, tuning, task, Cue::Cot)?);
                }
            }
        }
    }
    Ok(all)
}

/// The rows of one artifact of a plan whose runs are all there.
pub fn finished_rows(artifact: Artifact, plan: &Plan, store: &Store) -> Result<Vec<Row>> {
    let mut grid = Grid::new(plan);
    let cells = cells(artifact, plan, &mut grid)?;
    rows(artifact, &cells, store)
}
