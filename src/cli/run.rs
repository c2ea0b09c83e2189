//! `cotalign reproduce`, `cotalign plan` and `cotalign pretrain`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::compute::ComputeArgs;
use clap::Args;
use cotalign::report;
use cotalign::study::{
    Artifact, Crew, Places, Plan, PocketModels, Ranks, Spec, clock, estimate, lay_out, pretrain_all,
};
use cotalign::task::Benchmark;

#[derive(Args)]
pub struct RunArgs {
    /// Size of everything: pocket (tiny models, CPU), laptop (small models of the hub),
    /// paper (the papers' models), or smoke (all stages once, in a minute; its numbers
    /// mean nothing).
    #[arg(long)]
    scale: Option<String>,
    /// Repetitions of the whole pipeline; results show their spread.
    #[arg(long)]
    seeds: Option<u64>,
    /// Only these tables and figures, e.g. p1_figure02,p2_figure02.
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<Artifact>>,
    /// Only these benchmarks, e.g. obqa,multiarith.
    #[arg(long, value_delimiter = ',')]
    tasks: Option<Vec<Benchmark>>,
    /// Values that override the scale's: a TOML file with its keys (see data/scales/).
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Real benchmarks: a folder with obqa/, csqa/, … in their publishers' layout, or
    /// allenai/openbookqa/, … in the hub's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Stages at a time, one core each; on a GPU one. Results do not depend on it.
    #[arg(long)]
    jobs: Option<usize>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Processes that share the steps of each tuning stage, one a GPU (on the CPU, one a
    /// core). Results depend on it in the last digits.
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks: usize,
    /// Where results/ and figures/ go, if not the project folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The run store, if not runs/ of the project folder.
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
}

#[derive(Args)]
pub struct PretrainArgs {
    /// Models to train, e.g. llama-pocket-7; all when none is named.
    names: Vec<String>,
    /// Description of the models.
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Folder the models are written to.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Models at a time, one core each.
    #[arg(long)]
    jobs: Option<usize>,
}

impl RunArgs {
    fn spec(&self) -> Result<Spec> {
        let flags = Spec {
            scale: self.scale.clone(),
            compute: self.compute.compute()?,
            seeds: self.seeds,
            only: self.only.clone(),
            tasks: self.tasks.clone(),
            data: self.data.clone(),
            ..Spec::default()
        };
        Ok(match &self.spec {
            None => flags,
            Some(path) => flags.or(Spec::load(path)?),
        })
    }

    fn jobs(&self, plan: &Plan, ranks: usize) -> Result<usize> {
        let mut members = plan.teachers.iter().chain(&plan.students);
        if members.all(|m| m.model.compute.is_cpu()) {
            return Ok(self.jobs.unwrap_or_else(|| (cores() / ranks).max(1)));
        }
        ensure!(
            self.jobs.is_none_or(|n| n == 1),
            "jobs: one stage at a time uses the GPU; leave --jobs out"
        );
        Ok(1)
    }

    fn places(&self, places: Places) -> Places {
        let mut places = places;
        if let Some(out) = &self.out {
            places.results = out.join("results");
            places.figures = out.join("figures");
        }
        if let Some(runs) = &self.runs {
            places.runs = runs.clone();
        }
        places
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

pub fn reproduce(args: RunArgs, places: Places) -> Result<()> {
    let mut places = args.places(places);
    let spec = args.spec()?;
    spec.compute.unwrap_or_default().check()?;
    let plan = spec.resolve(&places.models)?;
    if plan.scale == "smoke" && args.out.is_none() {
        // Numbers that mean nothing must not replace those that do.
        places.results = places.runs.join("smoke/results");
        places.figures = places.runs.join("smoke/figures");
    }
    let ranks = Ranks::new(args.ranks)?;
    let jobs = args.jobs(&plan, ranks.size)?;
    let outcome = report::reproduce(&plan, &places, Crew { jobs, ranks: Some(ranks) })?;
    for file in outcome.files.iter().filter(|f| f.extension().is_some_and(|e| e == "md")) {
        println!("{}", std::fs::read_to_string(file).with_context(|| file.display().to_string())?);
    }
    println!(
        "{} stages, {} of them done before; {} on {} cores ({} for all stages one after \
         the other), peak memory {:.0} MB",
        outcome.tally.stages,
        outcome.tally.found,
        clock(outcome.seconds),
        cores(),
        clock(outcome.stage_seconds),
        outcome.peak_memory_bytes as f64 / 1e6
    );
    println!("tables in {}, figures in {}", places.results.display(), places.figures.display());
    Ok(())
}

pub fn plan(args: RunArgs, places: &Places) -> Result<()> {
    let places = args.places(places.clone());
    let spec = args.spec()?;
    let compute = spec.compute.unwrap_or_default();
    // Models of these scales are downloaded when the run starts, not to look at a plan.
    let remote = matches!(spec.scale.as_deref(), Some("laptop" | "paper"));
    let plan = if remote { spec.draft()? } else { spec.resolve(&places.models)? };
    let grid = lay_out(&plan)?;
    println!("{}", toml::to_string(&plan)?);
    if remote {
        let jobs = args.jobs(&plan, Ranks::new(args.ranks)?.size)?;
        let assumptions = estimate::Assumptions::of(compute, cores(), jobs);
        let all = estimate::estimate(&plan, &assumptions)?;
        println!("{}", estimate::table(&all, &assumptions));
    }
    let mut counts = std::collections::BTreeMap::<&str, (usize, usize)>::new();
    for id in &grid.order {
        let count = counts.entry(grid.stages[id].name()).or_default();
        count.0 += 1;
        count.1 += usize::from(places.runs.join(id.as_str()).is_dir());
    }
    println!("{:10} {:>7} {:>7}", "stage", "runs", "done");
    for (stage, (all, done)) in counts {
        println!("{stage:10} {all:>7} {done:>7}");
    }
    Ok(())
}

/// Pretrains the pocket models, or those named.
pub fn pretrain(args: PretrainArgs, root: &Path, places: Places) -> Result<()> {
    let path = args.models.unwrap_or_else(|| root.join("data/pocket/models.toml"));
    let models = PocketModels::load(&path)?;
    let out = args.out.unwrap_or(places.models);
    let work = places.runs.join("pretrain");
    let plans = models.pick(&args.names)?;
    pretrain_all(models.world, &plans, &out, &work, args.jobs.unwrap_or_else(cores))
}
