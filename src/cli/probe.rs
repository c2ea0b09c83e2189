//! `cotalign probe`: a model is tested, or scored as lm-evaluation-harness scores it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use cotalign::model::{Sampling, Tokenizer, Transformer, load_at, locate};
use cotalign::probe::{by_generation, by_language_model, harness};
use cotalign::study::Places;
use cotalign::task::{Benchmark, Cue, NativeSplit, Split, World, load};
use cotalign::teach::{Speaker, answer};

use super::compute::ComputeArgs;

#[derive(Args)]
pub struct ProbeArgs {
    /// A pocket model (llama-pocket-70), a model folder, or owner/name of the hub.
    model: String,
    /// Questions of each task.
    #[arg(long, default_value_t = 200)]
    questions: usize,
    /// Answers to show of each task and prompt.
    #[arg(long, default_value_t = 1)]
    show: usize,
    #[arg(long, default_value_t = 0.1)]
    temperature: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Score real benchmarks as lm-evaluation-harness does (acc, acc_norm): a folder
    /// with piqa/, obqa/, siqa/ and csqa/ in their publishers' layout.
    #[arg(long, value_name = "DIR")]
    harness: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
}

pub fn run(args: ProbeArgs, places: &Places) -> Result<()> {
    let place = args.compute.compute()?.unwrap_or_default().open()?;
    let (model, tokenizer) = load_at(&locate(&args.model, &places.models)?, false, &place)?;
    if let Some(data) = &args.harness {
        return run_harness(&model, &tokenizer, data, args.questions);
    }
    let world = World::new(1)?;
    println!("{:10}  {:>29}  {:>29}  {:>9}", "task", "plain", "step by step", "by option");
    let mut shown = String::new();
    for task in Benchmark::ALL {
        let mut questions = world.questions(task, Split::Test);
        questions.truncate(args.questions);
        let mut line = format!("{task:10}");
        for cue in Cue::ALL {
            let sampling = Sampling {
                temperature: args.temperature,
                max_new_tokens: 80,
                seed: args.seed,
                batch: 100,
                stop: Vec::new(),
                samples: 1,
            };
            let speaker = Speaker { model: &model, tokenizer: &tokenizer, name: "", chat: None };
            let answers = answer(&speaker, &questions, cue, &sampling, &mut || ())?;
            let p = by_generation(&questions, &answers);
            let percent = |k: u64| 100.0 * k as f64 / p.n.max(1) as f64;
            let cell = format!(
                "{:.1} ({:.1} strict, {:.1} none)",
                percent(p.correct),
                percent(p.correct_strict),
                percent(p.no_answer)
            );
            line += &format!("  {cell:>29}");
            for a in answers.iter().take(args.show) {
                let mark = if a.correct { "right" } else { "wrong" };
                shown += &format!("\n{}\x1b[1m{}\x1b[0m   [{mark}]\n", a.prompt, a.output);
            }
        }
        if !task.is_math() {
            let (p, _) = by_language_model(&model, &tokenizer, &questions, Cue::Plain, &mut || ())?;
            line += &format!("  {:>9.1}", 100.0 * p.correct as f64 / p.n.max(1) as f64);
        }
        println!("{line}");
    }
    println!("{shown}");
    Ok(())
}

fn run_harness(model: &Transformer, tokenizer: &Tokenizer, data: &Path, most: usize) -> Result<()> {
    println!("{:16} {:>5}  {:>15}  {:>15}", "task", "n", "acc", "acc_norm");
    for benchmark in Benchmark::QA {
        let split = match benchmark {
            Benchmark::Obqa => NativeSplit::Test,
            _ => NativeSplit::Validation,
        };
        let mut questions = load(benchmark, data, split)?;
        questions.truncate(most);
        let scores = questions
            .iter()
            .map(|q| harness::score(model, tokenizer, q))
            .collect::<Result<Vec<_>>>()?;
        let share = |hit: fn(&harness::DocScore) -> bool| {
            let (mean, stderr) = harness::mean_stderr(&scores.iter().map(hit).collect::<Vec<_>>());
            format!("{mean:.4} ± {stderr:.4}")
        };
        let task = harness::task_name(benchmark).unwrap_or_default();
        println!(
            "{task:16} {:>5}  {:>15}  {:>15}",
            scores.len(),
            share(|s| s.acc),
            share(|s| s.acc_norm)
        );
    }
    Ok(())
}
