//! `cotalign device`: whether a GPU computes what the CPU computes, and how fast.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use cotalign::model::open_gpu;
use cotalign::study::device::bench::{BenchPlan, Lengths, Shape, Told, Work, bench};
use cotalign::study::device::{Compared, Target, check};
use cotalign::tune::parallel::self_test;

/// What the scripts in tests/cuda end with where there is no GPU.
const NO_GPU: u8 = 3;

#[derive(Subcommand)]
pub enum DeviceCommand {
    /// Compute the same on the GPU and on the CPU, and compare.
    ///
    /// Every operation with its gradients, decoding with a cache, the optimizer, and
    /// whole models of every kind, tiny ones: logits, gradients, ten training steps,
    /// generated tokens; in float32 and in bfloat16. Each line says how far the GPU is
    /// off, as a share of the largest value, and how far it may be. Ends with 1 if any is
    /// wrong, with 3 if there is no GPU. Takes a few minutes and no files.
    Check(CheckArgs),
    /// Measure speed and memory at the papers' size, on random weights.
    ///
    /// Makes Llama-2's shapes on the GPU, from nothing: neither speed nor memory depends on
    /// the values. Each measurement is a line of JSON, written the moment it is there; one
    /// that fails is a line with "error", and the next goes on. `make bench-cuda` runs
    /// this beside the Python stack and judges both.
    ///
    /// `python3 tests/cuda/lengths.py lengths.json` makes the file of lengths; then, for one
    /// work alone: `cotalign device bench --lengths lengths.json --out bench.jsonl --works sft`.
    Bench(BenchArgs),
}

#[derive(Args)]
pub struct CheckArgs {
    /// cuda, or cuda:1 for the second card.
    #[arg(long, default_value = "cuda")]
    device: String,
}

#[derive(Args)]
pub struct BenchArgs {
    /// sft, dpo: training steps. annotate: many prompts of mixed lengths. decode: steady
    /// generation against the memory's bandwidth. steps: where a step's time goes.
    /// matmul: what the card can do at most.
    #[arg(long, value_delimiter = ',', default_value = "sft,dpo,annotate,decode,steps,matmul")]
    works: Vec<Work>,
    /// 7b, 13b. Works but sft and steps are measured at the first one only.
    #[arg(long, value_delimiter = ',', default_value = "7b,13b")]
    shapes: Vec<Shape>,
    /// Lengths of prompts and answers, as tests/cuda/lengths.py writes them.
    #[arg(long, value_name = "FILE")]
    lengths: PathBuf,
    /// Where the lines go; a file that exists is replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Seconds for everything; what there is no time for is said to be so.
    #[arg(long, value_name = "N", default_value_t = 210)]
    budget_s: u64,
    /// cuda, or cuda:1 for the second card.
    #[arg(long, default_value = "cuda")]
    device: String,
}

pub fn run(command: DeviceCommand) -> Result<ExitCode> {
    let device = match &command {
        DeviceCommand::Check(args) => &args.device,
        DeviceCommand::Bench(args) => &args.device,
    };
    let target = match open_gpu(ordinal(device)?) {
        Ok(device) => Target { device, emulator: None },
        Err(e) => {
            eprintln!("error: {e:#}");
            return Ok(ExitCode::from(NO_GPU));
        }
    };
    match command {
        DeviceCommand::Check(_) => run_check(&target),
        DeviceCommand::Bench(args) => run_bench(&target, args),
    }
}

/// 1 of `cuda:1`.
fn ordinal(device: &str) -> Result<usize> {
    let number = match device.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse().ok()),
        None => None,
    };
    match number {
        Some(n) => Ok(n),
        None => bail!("device {device:?}: expected cuda, or cuda:1 for the second card"),
    }
}

fn run_check(target: &Target) -> Result<ExitCode> {
    let start = Instant::now();
    println!("{:62} {:>5} {:>9} {:>9}", "what", "dtype", "off", "allowed");
    let all = check(target, &mut |c: &Compared| {
        let verdict = if c.holds() { "ok" } else { "WRONG" };
        let dtype = c.dtype.as_str();
        println!("{:62} {dtype:>5} {:9.2e} {:9.1e}  {verdict}", c.what, c.off, c.allowed);
    })?;
    println!("{}", self_test(&target.device)?);
    let wrong = all.iter().filter(|c| !c.holds()).count();
    let seconds = start.elapsed().as_secs_f64();
    let summary = match wrong {
        0 => "the GPU computes what the CPU computes".to_string(),
        n => format!("{n} WRONG"),
    };
    println!("{} comparisons in {seconds:.0} s: {summary}", all.len());
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_bench(target: &Target, args: BenchArgs) -> Result<ExitCode> {
    let name = args.lengths.display();
    let text = std::fs::read_to_string(&args.lengths)
        .with_context(|| format!("{name}: python3 tests/cuda/lengths.py {name} makes one"))?;
    let plan = BenchPlan {
        works: args.works,
        shapes: args.shapes,
        lengths: Lengths::parse(&text).with_context(|| name.to_string())?,
        budget: Duration::from_secs(args.budget_s),
    };
    let to = || args.out.display().to_string();
    let mut out = File::create(&args.out).with_context(to)?;
    let measured = bench(target, &plan, &mut |told| {
        match told {
            Told::Progress(text) => println!("{text}"),
            Told::Line(line) => {
                println!("{line}");
                // Unbuffered: a run that is stopped keeps what it has.
                writeln!(out, "{line}").with_context(to)?;
            }
        }
        Ok(())
    })?;
    println!("{measured} measurements in {}", to());
    if measured == 0 {
        bail!("nothing was measured; the lines in {} say why", to());
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_have_numbers() {
        assert_eq!(ordinal("cuda").unwrap(), 0);
        assert_eq!(ordinal("cuda:3").unwrap(), 3);
        for wrong in ["cpu", "cuda:", "cuda:x", "cuda3"] {
            assert!(ordinal(wrong).unwrap_err().to_string().contains("cuda:1"), "{wrong}");
        }
    }
}
