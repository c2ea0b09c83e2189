//! Guards the program as it is run: `cotalign reproduce` from nothing to tables
//! and figures, again, interrupted, twice at once and on real benchmarks; and that
//! bad input is an error that names it. The models are tiny ones, trained here for a
//! moment so that they answer in the right form.

mod common;
#[path = "pipeline/refusals.rs"]
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cotalign::model::{Config, Sampling, Transformer, load_base, save_base};
use cotalign::study::Artifact;
use cotalign::task::{Benchmark, Cue, NativeSplit, Split, load};
use cotalign::teach::{DemonstrationSet, Speaker, annotate, demonstrations};
use cotalign::tune::{Instruct, OptimizerPlan, TrainerPlan, examples, train};
use serde_json::Value;
use tempfile::TempDir;

/// Name, architecture, width and steps of training of the models that the scales
/// name. The teachers learn enough to get a few questions right, so that no kind of
/// demonstration set stays empty.
const MODELS: [(&str, &str, usize, usize); 6] = [
    ("llama-pocket-70", "llama", 48, 150),
    ("mixtral-pocket", "mixtral", 32, 60),
    ("gpt-pocket", "llama", 48, 130),
    ("llama-pocket-7", "llama", 24, 60),
    ("llama-pocket-13", "llama", 32, 60),
    ("mistral-pocket-7", "mistral", 24, 60),
];

/// Files of a tiny model under each name, made once a test run. Each learns the
/// answers to a few questions by heart.
fn models() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = common::train_tokenizer(800);
        let questions = [Benchmark::Obqa, Benchmark::MultiArith]
            .map(|task| common::questions(task, Split::Train, 8))
            .concat();
        let set = DemonstrationSet::Both;
        let records = demonstrations(set, &questions, &common::perfect(&questions)).unwrap();
        let examples = examples(&tokenizer, set, &records).unwrap();
        let one = |at: usize| {
            let (name, model_type, width, steps) = MODELS[at];
            let config = Config {
                hidden_size: width,
                intermediate_size: 2 * width,
                vocab_size: tokenizer.vocab_size(),
                bos_token_id: tokenizer.bos,
                eos_token_id: vec![tokenizer.eos],
                max_position_embeddings: 2048,
                tie_word_embeddings: true,
                ..common::tiny_config(model_type)
            };
            // In training every expert is used, so that each learns in few steps.
            let used = config.num_experts_per_tok;
            let config =
                Config { num_experts_per_tok: config.num_local_experts.unwrap_or(2), ..config };
            let mut model = Transformer::init(&config, at as u64).unwrap();
            let mut objective = Instruct::new(examples.clone(), 8, 1, at as u64).unwrap();
            let plan = TrainerPlan {
                optimizer: OptimizerPlan {
                    adam_beta2: 0.98,
                    warmup_steps: 10,
                    ..OptimizerPlan::new(1e-2, steps)
                },
                dropout: 0.0,
                seed: at as u64,
                logging_steps: 10,
                save_steps: 0,
            };
            train(&model, &mut objective, &plan, Path::new(""), &mut |_, _| Ok(())).unwrap();
            model.config.num_experts_per_tok = used;
            save_base(&model, &tokenizer, &dir.path().join(name)).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| (0..2).for_each(one));
            (2..MODELS.len()).for_each(one);
        });
        files(dir.path())
    })
}

/// A project folder that holds the models and nothing else.
fn project() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, bytes) in models() {
        let to = root.path().join("data/pocket/models").join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    root
}

fn cotalign(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cotalign"));
    command.arg("--root").arg(root).stdin(Stdio::null());
    command
}

fn smoke(root: &Path, jobs: usize) -> Command {
    let mut command = cotalign(root);
    command.args(["reproduce", "--scale", "smoke", "--jobs", &jobs.to_string(), "--out"]);
    command.arg(root);
    command
}

/// Standard output of a run that must succeed.
fn succeed(output: Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(!err.contains("panicked"), "{err}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file under `dir`, by its path in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// All that a run leaves and that must not depend on how it went: tables, figures
/// and the run store, without the times it took.
fn remains(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for folder in ["results", "figures", "runs"] {
        for (name, bytes) in files(&root.join(folder)) {
            if !name.starts_with(".locks/") && !name.ends_with("cost.json") {
                all.insert(format!("{folder}/{name}"), bytes);
            }
        }
    }
    all
}

fn assert_same(ours: &BTreeMap<String, Vec<u8>>, theirs: &BTreeMap<String, Vec<u8>>) {
    let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(ours), names(theirs));
    for (name, bytes) in ours {
        assert!(theirs[name] == *bytes, "{name} differs");
    }
}

/// What an uninterrupted run of two jobs leaves.
fn reference() -> &'static BTreeMap<String, Vec<u8>> {
    static REFERENCE: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let root = project();
        succeed(smoke(root.path(), 2).output().unwrap());
        remains(root.path())
    })
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Every file of answers has one line for each question that its plan asks, in
/// order and each once.
fn assert_answers_are_complete(remains: &BTreeMap<String, Vec<u8>>) -> usize {
    let mut seen = 0;
    for (name, bytes) in remains.iter().filter(|(name, _)| name.starts_with("runs/")) {
        let (dir, file) = name.rsplit_once('/').unwrap();
        if file != "annotations.jsonl" && !file.starts_with("own_") {
            continue;
        }
        let plan = json(&remains[&format!("{dir}/plan.json")]);
        let ids: Vec<String> = text(bytes)
            .lines()
            .map(|line| json(line.as_bytes())["id"].as_str().unwrap().to_string())
            .collect();
        assert_eq!(ids.len() as u64, plan["questions"]["count"].as_u64().unwrap(), "{name}");
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{name}: one twice");
        seen += 1;
    }
    seen
}

/// `(stages, done before)` of the line a run ends with.
fn tally(out: &str) -> (usize, usize) {
    let line = out.lines().find(|l| l.contains("done before")).expect("a line of what was done");
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn smoke_makes_every_artifact_and_a_second_run_does_nothing() {
    let root = project();
    let out = succeed(smoke(root.path(), 1).output().unwrap());
    let (stages, found) = tally(&out);
    assert_eq!(found, 0);
    for artifact in Artifact::ALL {
        for file in ["results/_.parquet", "results/_.csv", "results/_.md", "figures/_.svg"] {
            let path = root.path().join(file.replace('_', artifact.name()));
            assert!(std::fs::metadata(&path).unwrap().len() > 100, "{}", path.display());
        }
        let png = root.path().join(format!("figures/{artifact}.png"));
        assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG\r\n"));
        let table = root.path().join(format!("results/{artifact}.md"));
        assert!(out.contains(&std::fs::read_to_string(table).unwrap()), "the table is printed");
    }
    let once = remains(root.path());
    assert!(once.keys().all(|name| !name.contains(".part")), "nothing is left half done");
    // Each model under each prompt on each task, at least.
    assert!(assert_answers_are_complete(&once) > 6 * 2 * 2);
    let of_plan = |n: &&String| n.starts_with("runs/instruct-") && n.ends_with("/plan.json");
    let taught: BTreeSet<String> = once
        .keys()
        .filter(of_plan)
        .filter(|n| !once[&n.replace("plan.json", "demonstrations.jsonl")].is_empty())
        .map(|n| json(&once[n])["set"].as_str().unwrap().to_string())
        .collect();
    let sets = ["both", "cot_demonstrations", "delivering_cot", "demonstrations", "truthful"];
    assert_eq!(taught.iter().collect::<Vec<_>>(), sets, "a set that is always empty");
    let runs = once.keys().filter(|n| n.starts_with("runs/") && n.ends_with("/plan.json")).count();
    assert_eq!(runs, stages + Artifact::ALL.len(), "a run for each stage and each report");

    let started = Instant::now();
    let again = succeed(smoke(root.path(), 1).output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(tally(&again), (stages, stages));
    assert_same(&remains(root.path()), &once);

    // A lost table is made again from the store, a lost run alone is done again.
    std::fs::remove_dir_all(root.path().join("results")).unwrap();
    let probe = once.keys().find(|n| n.starts_with("runs/probe-")).unwrap();
    let probe = root.path().join(probe).parent().unwrap().to_path_buf();
    std::fs::remove_dir_all(probe).unwrap();
    let mended = succeed(smoke(root.path(), 2).output().unwrap());
    assert_eq!(tally(&mended), (stages, stages - 1));
    assert_same(&remains(root.path()), &once);

    // This run had one job at a time, the reference two.
    assert_same(&once, reference());
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn finished_runs(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root.join("runs")) else { return 0 };
    let done = |name: &str| !name.starts_with('.') && !name.ends_with(".part");
    entries.filter(|e| done(&e.as_ref().unwrap().file_name().to_string_lossy())).count()
}

/// Killed at different moments, with more and more of the work done, and at last
/// left alone.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let reference = reference();
    let root = project();
    let all = reference.keys().filter(|n| n.ends_with("/plan.json")).count();
    let mut kills = 0;
    for (round, share) in [0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85].into_iter().enumerate() {
        let mut child = quiet(smoke(root.path(), 2));
        // A moment more each time, so that the kills do not all fall behind a rename.
        let moment = Duration::from_millis(37 + 53 * round as u64);
        while finished_runs(root.path()) < (share * all as f64) as usize {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was done");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(moment);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills >= 4, "only {kills} kills");
    let before = finished_runs(root.path());
    let out = succeed(smoke(root.path(), 2).output().unwrap());
    assert!(
        tally(&out).1 > 0 && tally(&out).1 <= before,
        "{} of {before} runs kept",
        tally(&out).1
    );
    let remains = remains(root.path());
    assert_answers_are_complete(&remains);
    assert_same(&remains, reference);
}

#[test]
fn two_processes_at_once_share_the_work() {
    let root = project();
    let start = || smoke(root.path(), 1).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let (one, two) = (start().unwrap(), start().unwrap());
    for child in [one, two] {
        succeed(child.wait_with_output().unwrap());
    }
    assert_same(&remains(root.path()), reference());
}

/// A file of answers that a kill cut anywhere ends with the same bytes, and every
/// question is counted once.
#[test]
fn half_written_answers_are_gone_on_with() {
    let root = project();
    let models = root.path().join("data/pocket/models");
    let (model, tokenizer) = load_base(&models.join("llama-pocket-7")).unwrap();
    let speaker = Speaker { model: &model, tokenizer: &tokenizer, name: "m", chat: None };
    let questions = common::questions(Benchmark::Piqa, Split::Train, 430);
    let dir = tempfile::tempdir().unwrap();
    let run = |path: &Path| {
        let sampling = Sampling {
            temperature: 0.7,
            max_new_tokens: 4,
            seed: 1,
            batch: 64,
            stop: vec![],
            samples: 1,
        };
        let mut done = 0;
        let mut tick = || done += 1;
        let all = annotate(&speaker, &questions, Cue::Plain, &sampling, path, &mut tick);
        assert_eq!(done, 430);
        all.unwrap()
    };
    let path = dir.path().join("whole.jsonl");
    let whole = run(&path);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 430);
    let line_ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    for cut in [0, 17, line_ends[149], line_ends[199], line_ends[199] + 9, line_ends[399] - 1] {
        let path = dir.path().join("cut.jsonl");
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(run(&path), whole, "cut at {cut}");
        assert!(std::fs::read(&path).unwrap() == bytes, "cut at {cut}");
    }
    // Answers of other questions are not silently taken for these.
    let other = common::questions(Benchmark::Obqa, Split::Train, 430);
    let sampling = Sampling {
        temperature: 0.7,
        max_new_tokens: 4,
        seed: 1,
        batch: 64,
        stop: vec![],
        samples: 1,
    };
    let mixed = annotate(&speaker, &other, Cue::Plain, &sampling, &path, &mut || ());
    let found = common::message(mixed);
    assert!(found.contains("whole.jsonl, line 1") && found.contains(&other[0].id), "{found}");
}

const REAL: &str = r#"
scale = "smoke"
only = ["p1_table11", "p1_figure02", "p2_figure02"]
tasks = ["obqa", "csqa", "piqa", "siqa", "gsm8k", "multiarith"]
train_questions = 12
test_questions = 8
refine_questions = 6
max_new_tokens = 32

[[teachers]]
name = "llama-pocket-70"
family = "llama"
temperature = 0.1
figure_2 = true

[[students]]
name = "llama-pocket-7"
family = "llama"
temperature = 0.1
figure_2 = true
"#;

const HELD_OUT: &str = r#"
scale = "smoke"
only = ["p1_figure02"]
tasks = ["obqa"]

[[teachers]]
name = "llama-pocket-70"
family = "llama"
temperature = 0.1
figure_2 = true

[[students]]
name = "llama-pocket-7"
family = "llama"
temperature = 0.1
figure_2 = true

[instruct]
num_train_epochs = 2.0
learning_rate = 5e-3
weight_decay = 1e-3
warmup_ratio = 0.03
max_grad_norm = 0.3
per_device_train_batch_size = 4
gradient_accumulation_steps = 1
lora = { r = 8, lora_alpha = 16.0, lora_dropout = 0.0, target_modules = "all-linear" }
evaluation = { hold_out = 12, eval_steps = 4 }
"#;

/// Questions that choose a checkpoint are cut off before anything is annotated, and no
/// student learns from them.
#[test]
fn checkpoints_are_chosen_by_questions_that_nobody_learns_from() {
    let root = project();
    let spec = root.path().join("held.toml");
    std::fs::write(&spec, HELD_OUT).unwrap();
    let mut command = cotalign(root.path());
    command.args(["reproduce", "--jobs", "2", "--spec"]).arg(&spec).arg("--out").arg(root.path());
    succeed(command.output().unwrap());
    let remains = remains(root.path());
    let (mut held, mut learnt) = (BTreeSet::new(), BTreeSet::new());
    let ids = |bytes: &[u8]| -> BTreeSet<String> {
        let lines = text(bytes);
        let ids = lines.lines().map(|l| json(l.as_bytes())["id"].as_str().unwrap().to_string());
        ids.collect()
    };
    let mut chosen = 0;
    for (name, bytes) in &remains {
        let Some(dir) = name.strip_suffix("/plan.json").filter(|n| n.starts_with("runs/")) else {
            continue;
        };
        let plan = json(bytes);
        match (plan["stage"].as_str(), plan["questions"]["cut"]["side"].as_str()) {
            (Some("annotate"), side) => {
                let some = ids(&remains[&format!("{dir}/annotations.jsonl")]);
                let (side, count) = match side {
                    Some("held_out") => (&mut held, 12),
                    Some("train") => (&mut learnt, 40),
                    other => panic!("{name}: {other:?}"),
                };
                assert_eq!(some.len(), count, "{name}");
                side.extend(some);
            }
            (Some("instruct"), _) => {
                let evaluation = json(&remains[&format!("{dir}/evaluation.json")]);
                let looks = evaluation["eval_loss"].as_array().unwrap();
                let lowest = looks
                    .iter()
                    .min_by(|a, b| a[1].as_f64().unwrap().total_cmp(&b[1].as_f64().unwrap()));
                assert_eq!(lowest.unwrap()[0], evaluation["best_step"], "{name}");
                let log = text(&remains[&format!("{dir}/log.jsonl")]);
                for (line, look) in log.lines().zip(looks) {
                    let line = json(line.as_bytes());
                    assert_eq!((&line["step"], &line["eval_loss"]), (&look[0], &look[1]));
                }
                chosen += 1;
            }
            _ => {}
        }
    }
    assert_eq!((chosen, held.len(), learnt.len()), (4, 12, 40));
    assert!(held.is_disjoint(&learnt));
}

/// Rows of the six real benchmarks go through every stage. Models this small get
/// next to none of them right, so some sets of demonstrations are empty; their
/// students stay as they are.
#[test]
fn real_benchmarks_go_through_every_stage() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: the real benchmarks are not beside the project");
        return;
    }
    let root = project();
    let spec = root.path().join("real.toml");
    std::fs::write(&spec, REAL).unwrap();
    let mut command = cotalign(root.path());
    command.args(["reproduce", "--jobs", "2", "--spec"]).arg(&spec);
    command.arg("--data").arg(&data).arg("--out").arg(root.path());
    succeed(command.output().unwrap());
    let remains = remains(root.path());
    assert_answers_are_complete(&remains);
    let (mut seen, mut taught) = (BTreeSet::new(), 0);
    for (name, bytes) in &remains {
        let Some(dir) = name.strip_suffix("/plan.json").filter(|n| n.starts_with("runs/")) else {
            continue;
        };
        let plan = json(bytes);
        let Some(task) = plan["questions"]["benchmark"].as_str() else { continue };
        let task: Benchmark = task.parse().unwrap();
        let stage = plan["stage"].as_str().unwrap().to_string();
        if stage == "probe" {
            let probe = json(&remains[&format!("{dir}/probe.json")]);
            assert_eq!(probe["n"], 8, "{name}");
        }
        if stage == "annotate" {
            let rows = load(task, &data, NativeSplit::Train).unwrap();
            let lines = text(&remains[&format!("{dir}/annotations.jsonl")]);
            let mut drawn = BTreeMap::<String, usize>::new();
            for line in lines.lines() {
                let line = json(line.as_bytes());
                let row = rows.iter().find(|r| line["id"] == r.id.as_str()).unwrap();
                assert!(line["prompt"].as_str().unwrap().contains(row.stem.trim()), "{}", row.id);
                *drawn.entry(format!("{:?}", row.gold)).or_default() += 1;
            }
            // Class-balanced, as in P1's Table 13: give or take one.
            if task.options().is_some() {
                let (few, many) = (drawn.values().min(), drawn.values().max());
                assert!(many.unwrap() - few.unwrap() <= 1, "{task}: {drawn:?}");
            }
        }
        if stage == "instruct" {
            let learned = !remains[&format!("{dir}/demonstrations.jsonl")].is_empty();
            assert_eq!(!remains[&format!("{dir}/log.jsonl")].is_empty(), learned, "{name}");
            taught += usize::from(learned);
        }
        seen.insert((stage, task));
    }
    let stages = ["annotate", "instruct", "refine", "probe"];
    let every = stages.into_iter().flat_map(|s| Benchmark::ALL.map(|task| (s.to_string(), task)));
    assert_eq!(seen, every.collect::<BTreeSet<_>>());
    assert!(taught > 0, "no student was tuned at all");
    let table = text(&remains["results/p2_figure02.csv"]);
    for task in Benchmark::ALL {
        assert!(table.contains(task.name()), "{task} has no row");
    }
}

/// The models that ship with the project, where they have been made.
#[test]
fn the_pocket_models_go_through_smoke() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let there = |name: &str| project.join("data/pocket/models").join(name).is_dir();
    if !MODELS.iter().all(|(name, ..)| there(name)) {
        eprintln!("skipped: the pocket models have not been made");
        return;
    }
    let aside = tempfile::tempdir().unwrap();
    let mut command = cotalign(project);
    command.args(["reproduce", "--scale", "smoke", "--jobs", "2", "--out"]).arg(aside.path());
    command.arg("--runs").arg(aside.path().join("runs"));
    let out = succeed(command.output().unwrap());
    assert_eq!(tally(&out).1, 0);
    let remains = remains(aside.path());
    assert!(assert_answers_are_complete(&remains) > 6 * 2 * 2);
    for artifact in Artifact::ALL {
        assert!(remains.contains_key(&format!("results/{artifact}.parquet")));
        assert!(remains.contains_key(&format!("figures/{artifact}.svg")));
    }
}
