//! From a plan to tables and figures.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use super::figure::{Bars, grouped_bars};
use super::layouts::{heading, layout};
use super::standing::standing_claims;
use super::table;
use crate::study::{
    Artifact, Cell, Crew, Places, Plan, RunCost, RunId, Store, Tally, Workshop, lay_out,
    peak_memory, rows, run_all, write_whole,
};

/// Raised when tables or figures are drawn differently from the same rows.
const VERSION: u32 = 2;

/// What a run did; not part of any result, since it depends on the machine.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub tally: Tally,
    pub seconds: f64,
    /// Sum of the seconds that all its stages took when they were done.
    pub stage_seconds: f64,
    pub peak_memory_bytes: u64,
    /// Files under `results` and `figures`, as written or as found.
    pub files: Vec<PathBuf>,
}

/// Runs what is missing and writes every table and figure of the plan. A run
/// that is killed goes on where it was, and ends with the same bytes.
///
/// `crew`: the stages at a time, or how else the work is spread.
pub fn reproduce(plan: &Plan, places: &Places, crew: impl Into<Crew>) -> Result<Outcome> {
    let Crew { jobs, ranks } = crew.into();
    let started = Instant::now();
    let store = Store::open(&places.runs)?;
    let grid = lay_out(plan)?;
    let mut shop = Workshop::new(&store, &places.models, plan);
    shop.ranks = ranks;
    let tally = run_all(&grid.stages, &grid.order, &shop, jobs)?;
    let mut files = Vec::new();
    let _lock = store.lock("publish")?;
    for (artifact, cells) in &grid.artifacts {
        files.extend(publish(*artifact, cells, plan, &store, places)?);
    }
    let mut stage_seconds = 0.0;
    for id in &grid.order {
        stage_seconds += store.read::<RunCost>(id, "cost.json")?.seconds;
    }
    Ok(Outcome {
        tally,
        seconds: started.elapsed().as_secs_f64(),
        stage_seconds,
        peak_memory_bytes: peak_memory().unwrap_or(0),
        files,
    })
}

/// What stands above the claims on every page.
const CLAIMS: &str = "\n## Claims\n\nTwo cells make a pair if they differ only in what the claim \
    names. A difference is clear if it exceeds √(h₁² + h₂²), h being half the widths of the two \
    95 % intervals; means are in points.\n\n";

#[derive(Serialize)]
struct ReportPlan<'a> {
    version: u32,
    runs: Vec<&'a str>,
    /// The plan with this one artifact; saved beside its files.
    plan: Plan,
}

/// Draws an artifact in the store, under the hash of its runs, and copies it
/// out; drawn once, it is only copied.
fn publish(
    artifact: Artifact,
    cells: &[Cell],
    plan: &Plan,
    store: &Store,
    places: &Places,
) -> Result<Vec<PathBuf>> {
    let report = ReportPlan {
        version: VERSION,
        runs: cells.iter().flat_map(|c| &c.runs).map(RunId::as_str).collect(),
        plan: Plan { only: vec![artifact], ..plan.clone() },
    };
    let id = RunId::of("report", &report)?;
    let name = artifact.name();
    store.run(&id, &report, |dir| {
        let rows = rows(artifact, cells, store)?;
        table::write(&rows, dir, name, &heading(artifact, plan, &rows))?;
        let claims = standing_claims(artifact, plan, &rows).0;
        let path = dir.join(format!("{name}.md"));
        let page = fs::read_to_string(&path)? + CLAIMS + &claims;
        fs::write(&path, page)?;
        let json = serde_json::to_string_pretty(&report.plan)? + "\n";
        fs::write(dir.join(format!("{name}.plan.json")), json)?;
        grouped_bars(&Bars::from_rows(&rows, &layout(artifact, plan, &rows))?, dir, name)
    })?;
    let from = store.path(&id);
    let mut files = Vec::new();
    for (folder, endings) in [
        (&places.results, &["parquet", "csv", "md", "plan.json"][..]),
        (&places.figures, &["svg", "png"]),
    ] {
        for ending in endings {
            let file = format!("{name}.{ending}");
            let bytes = fs::read(from.join(&file))
                .with_context(|| from.join(&file).display().to_string())?;
            let to = folder.join(&file);
            write_if_new(&to, &bytes)?;
            files.push(to);
        }
    }
    Ok(files)
}

/// Leaves a file alone that holds these bytes already.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    write_whole(path, bytes).with_context(|| path.display().to_string())
}
