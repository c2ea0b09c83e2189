//! The command line: a thin layer over [`cotalign::study`].

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cotalign::study::Places;

// Training allocates and frees many buffers of a few megabytes; the system's
// allocator gives the pages back each time and spends a third of a step on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Teaches small language models to reason step by step, and re-runs the tables
/// and figures of the papers on it.
///
/// Start with `cotalign reproduce`: teachers answer questions, students are
/// tuned on the answers, refine themselves and are tested. Every step is kept in
/// the run store (`runs/`), so a second call does only what is missing.
#[derive(Parser)]
#[command(version, max_term_width = 90)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Project folder: holds data/, runs/, results/ and figures/.
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    root: PathBuf,
    /// Take models and data of the hub from its cache only, as HF_HUB_OFFLINE=1 does.
    #[arg(long, global = true)]
    offline: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make tables and figures, running whatever they need.
    Reproduce(cli::run::RunArgs),
    /// Show what `reproduce` would do, without doing it.
    Plan(cli::run::RunArgs),
    /// Pretrain the pocket base models from nothing.
    Pretrain(cli::run::PretrainArgs),
    /// Test a model, and show some of its answers.
    Probe(cli::probe::ProbeArgs),
    /// Read and score saved generations, whoever made them.
    Score(cli::score::ScoreArgs),
    /// Let a teacher, local or behind a server, answer questions.
    Annotate(cli::annotate::AnnotateArgs),
    /// Fold an adapter into its base, as a plain checkpoint that transformers loads.
    Merge(cli::model::MergeArgs),
    /// Look into the files of real benchmarks.
    #[command(subcommand)]
    Data(cli::data::DataCommand),
    /// Predict the memory of a QLoRA training step, from config.json alone.
    Memory(cli::model::MemoryArgs),
    /// Hold a GPU's results against the CPU's, and measure its speed and memory.
    #[command(subcommand)]
    Device(cli::device::DeviceCommand),
    /// Download a model or files of a dataset from the hub, and print their hashes.
    Fetch(cli::model::FetchArgs),
    /// A further rank of `reproduce --ranks`.
    #[command(hide = true)]
    Worker,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.offline {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("HF_HUB_OFFLINE", "1") };
    }
    // One job a core: candle's own pool of threads would make the jobs wait for
    // each other at every large addition. It reads the variable at its first use.
    for variable in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        if std::env::var_os(variable).is_none() {
            // SAFETY: no other thread runs yet.
            unsafe { std::env::set_var(variable, "1") };
        }
    }
    match run(cli) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let places = Places::under(&cli.root);
    match cli.command {
        Command::Reproduce(args) => cli::run::reproduce(args, places),
        Command::Plan(args) => cli::run::plan(args, &places),
        Command::Pretrain(args) => cli::run::pretrain(args, &cli.root, places),
        Command::Probe(args) => cli::probe::run(args, &places),
        Command::Score(args) => cli::score::run(args),
        Command::Annotate(args) => cli::annotate::run(args, &places),
        Command::Merge(args) => cli::model::merge(args, &places),
        Command::Data(command) => cli::data::run(command),
        Command::Memory(args) => cli::model::memory(args, &places),
        Command::Device(command) => return cli::device::run(command),
        Command::Fetch(args) => cli::model::fetch(args),
        Command::Worker => cotalign::study::work_as_rank(),
    }?;
    Ok(ExitCode::SUCCESS)
}
