//! `cotalign annotate`: a local or remote teacher answers questions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use cotalign::model::{Sampling, load_at, locate, model_hash};
use cotalign::probe::by_generation;
use cotalign::study::{ModelRef, Places, Progress, write_whole};
use cotalign::task::{Benchmark, Cue, Question, Split, World};
use cotalign::teach::{Annotation, Speaker, annotate};

use super::compute::ComputeArgs;

#[derive(Args)]
pub struct AnnotateArgs {
    /// Who answers: a pocket model (gpt-pocket), a model folder, owner/name of the hub, or
    /// FILE.toml that describes a model behind an OpenAI-compatible server.
    #[arg(long, value_name = "MODEL|FILE.toml")]
    teacher: String,
    /// Folder to write: plain.jsonl and cot.jsonl. A stopped run goes on there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Questions, one JSON object a line: id, benchmark, stem, options, gold.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "split"])]
    questions: Option<PathBuf>,
    /// Questions of a pocket task instead, e.g. obqa.
    #[arg(long, required_unless_present = "questions")]
    task: Option<Benchmark>,
    /// train or test.
    #[arg(long, default_value = "train", value_parser = split)]
    split: Split,
    /// The first so many questions; all when not given.
    #[arg(long)]
    count: Option<usize>,
    /// Prompts: plain, cot, or both.
    #[arg(long, value_delimiter = ',', default_value = "plain,cot")]
    cues: Vec<Cue>,
    /// Of a local teacher; 0 when not given. A remote one has it in its file, as what follows.
    #[arg(long)]
    temperature: Option<f64>,
    /// Of a local teacher; 80 when not given.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Of a local teacher; 1 when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Answers to each question and prompt, one line each; 1, or what the teacher's file says,
    /// when not given.
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Of a local teacher.
    #[command(flatten)]
    compute: ComputeArgs,
}

fn split(name: &str) -> Result<Split, String> {
    let known = [Split::Train, Split::Test];
    let found = known.into_iter().find(|s| s.to_string().eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("unknown split {name:?}; known: train, test"))
}

pub fn run(args: AnnotateArgs, places: &Places) -> Result<()> {
    let questions = args.load()?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    if args.teacher.ends_with(".toml") {
        ensure!(
            args.temperature.is_none() && args.max_new_tokens.is_none() && args.seed.is_none(),
            "--temperature, --max-new-tokens and --seed are for local teachers; write \
             temperature, max_tokens and seed into {}",
            args.teacher
        );
        remote(&args, &questions)
    } else {
        local(&args, &questions, places)
    }
}

impl AnnotateArgs {
    fn load(&self) -> Result<Vec<Question>> {
        let mut questions = match (&self.questions, self.task) {
            (Some(path), _) => read_questions(path)?,
            (None, Some(task)) => World::new(1)?.questions(task, self.split),
            (None, None) => bail!("give --questions or --task"),
        };
        questions.truncate(self.count.unwrap_or(usize::MAX));
        ensure!(!questions.is_empty(), "no questions");
        Ok(questions)
    }

    /// The two kinds of teachers resume from different files; in one folder each would
    /// overwrite the other's answers.
    fn ensure_none(&self, name: &str, whose: &str) -> Result<()> {
        let path = self.out.join(name);
        ensure!(
            !path.exists(),
            "{}: the folder holds answers of a {whose} teacher; choose another folder",
            path.display()
        );
        Ok(())
    }

    fn file(&self, cue: Cue) -> PathBuf {
        self.out.join(format!("{cue}.jsonl"))
    }
}

fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}, line {}: not a question", path.display(), i + 1))
        })
        .collect()
}

fn local(args: &AnnotateArgs, questions: &[Question], places: &Places) -> Result<()> {
    args.ensure_none("journal.jsonl", "remote")?;
    let folder = locate(&args.teacher, &places.models)?;
    let sha256 = model_hash(&folder)?;
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(0.0),
        max_new_tokens: args.max_new_tokens.unwrap_or(80),
        seed: args.seed.unwrap_or(1),
        batch: 100,
        stop: Vec::new(),
        samples: args.samples.unwrap_or(1),
    };
    sampling.check()?;
    // Answers of other settings in the same files would pass for these.
    let compute = args.compute.compute()?.unwrap_or_default();
    let model = ModelRef { name: args.teacher.clone(), sha256, compute };
    let mut plan = serde_json::json!({
        "model": model.name,
        "sha256": model.sha256,
        "sampling": sampling
    });
    if !compute.is_cpu() {
        plan["compute"] = compute.name().into();
    }
    let path = args.out.join("plan.json");
    let text = serde_json::to_string_pretty(&plan)? + "\n";
    match fs::read_to_string(&path) {
        Ok(old) if old != text => bail!(
            "{}: the folder holds answers of another model or of other settings; choose another \
             folder",
            path.display()
        ),
        Ok(_) => {}
        Err(_) => {
            write_whole(&path, text.as_bytes()).with_context(|| path.display().to_string())?
        }
    }
    let name = model.speaker();
    let (model, tokenizer) = load_at(&folder, false, &compute.open()?)?;
    let progress = Progress::new((questions.len() * args.cues.len() * sampling.samples) as u64);
    let speaker = Speaker { model: &model, tokenizer: &tokenizer, name: &name, chat: None };
    for cue in &args.cues {
        let mut done = || progress.advance(1, &format!("{} ({cue})", args.teacher));
        let path = args.file(*cue);
        let all = annotate(&speaker, questions, *cue, &sampling, &path, &mut done)?;
        progress.say(&summary(*cue, questions, &all, &path));
    }
    progress.end();
    Ok(())
}

#[cfg(feature = "remote")]
fn remote(args: &AnnotateArgs, questions: &[Question]) -> Result<()> {
    use std::time::{Duration, Instant};

    use cotalign::teach::remote::{Event, RemoteTeacher, annotate_remote, estimate};

    /// Seconds between two words about repetitions: one in trouble tells of all.
    const SAY_EVERY: Duration = Duration::from_secs(5);

    args.ensure_none("plan.json", "local")?;
    let mut teacher = RemoteTeacher::load(Path::new(&args.teacher))?;
    if let Some(samples) = args.samples {
        teacher.samples = samples;
        teacher.check()?;
    }
    let ahead = estimate(questions, &args.cues, &teacher, &args.out)?;
    eprintln!("{}", teacher.id());
    eprintln!("{ahead}");
    let progress = Progress::new(ahead.requests as u64);
    let mut said: Option<Instant> = None;
    for cue in &args.cues {
        let path = args.file(*cue);
        let label = format!("{} ({cue})", teacher.model);
        let mut tell = |event: Event| match event {
            Event::Answered => progress.advance(1, &label),
            Event::Retry { id, reason, wait } => {
                if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                    said = Some(Instant::now());
                    progress.say(&format!("question {id}: {reason}; again in {wait:.1} s"));
                }
            }
        };
        let outcome = annotate_remote(questions, *cue, &teacher, &path, &mut tell);
        match outcome {
            Ok(all) => progress.say(&summary(*cue, questions, &all, &path)),
            Err(e) => {
                progress.end();
                return Err(e);
            }
        }
    }
    progress.end();
    let spent = estimate(questions, &args.cues, &teacher, &args.out)?.spent;
    let cost = spent.cost.map_or(String::new(), |c| format!(", {c:.4} in money"));
    eprintln!(
        "in all {} prompt and {} answer tokens{cost}; see {}",
        spent.spent().prompt,
        spent.spent().completion,
        args.out.join("usage.json").display()
    );
    if let Some(remark) = spent.remark() {
        eprintln!("note: {remark}");
    }
    Ok(())
}

#[cfg(not(feature = "remote"))]
fn remote(args: &AnnotateArgs, _: &[Question]) -> Result<()> {
    bail!("{}: this build has no remote teachers; build with `--features remote`", args.teacher)
}

fn summary(cue: Cue, questions: &[Question], all: &[Annotation], path: &Path) -> String {
    let p = by_generation(questions, all);
    let percent = |k: u64| 100.0 * k as f64 / p.n.max(1) as f64;
    format!(
        "{cue}: {} answers, {:.1} % right, {:.1} % unreadable, {:.1} % cut; {}",
        p.n,
        percent(p.correct),
        percent(p.no_answer),
        percent(p.truncated),
        path.display()
    )
}
