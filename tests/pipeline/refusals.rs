//! What the command line refuses, and what a plan says before anything runs.

use super::*;

/// Fails with an error that holds every one of `parts`, and does no work.
fn refuse(root: &Path, args: &[&str], parts: &[&str]) {
    let output = cotalign(root).args(args).output().unwrap();
    let err = text(&output.stderr);
    let code = output.status.code();
    assert!(code == Some(1) || code == Some(2), "{args:?}: {code:?}\n{err}");
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    for part in parts {
        assert!(err.contains(part), "{args:?}: {part:?} is not in: {err}");
    }
    assert_eq!(finished_runs(root), 0, "{args:?}");
    assert!(!root.join("results").exists(), "{args:?}");
}

#[test]
fn bad_input_is_an_error_that_names_it() {
    let project = project();
    let root = project.path();
    refuse(root, &["reproduce", "--only", "p1_table99"], &["p1_table99", "p1_table11"]);
    refuse(root, &["reproduce", "--scale", "huge"], &["huge", "pocket, laptop, paper, smoke"]);
    refuse(
        root,
        &["reproduce", "--scale", "paper", "--offline"],
        &["allenai/openbookqa", "offline"],
    );
    refuse(root, &["reproduce", "--tasks", "arc"], &["arc", "OBQA"]);
    refuse(root, &["reproduce", "--tasks", "mmlu"], &["no MMLU", "--data"]);
    refuse(root, &["reproduce", "--seeds", "0"], &["seeds", "0"]);
    refuse(root, &["reproduce", "--seeds", "many"], &["many", "--seeds"]);
    refuse(root, &["reproduce", "--device", "cuda"], &["cuda", "cpu"]);
    refuse(root, &["reproduce", "--frobnicate"], &["--frobnicate"]);
    refuse(root, &["divine"], &["divine"]);
    let spec = root.join("spec.toml");
    let path = spec.to_str().unwrap();
    refuse(root, &["reproduce", "--spec", path], &["spec.toml"]);
    for (text, parts) in [
        ("sedes = 3\n", &["spec.toml", "sedes"][..]),
        ("seeds = \"three\"\n", &["spec.toml", "seeds"]),
        ("seeds = \n", &["spec.toml"]),
        ("train_questions = 0\n", &["train_questions", "at least 1"]),
        ("tasks = []\n", &["tasks"]),
        ("only = []\n", &["only"]),
        ("scale = \"smoke\"\nstudents = []\n", &["students"]),
        (
            "[[students]]\nname = \"nobody\"\nfamily = \"llama\"\ntemperature = 0.1\n",
            &["nobody", "config.json"],
        ),
        (
            "[[students]]\nname = \"llama-pocket-7\"\nfamily = \"llama\"\ntemperature = -1.0\n",
            &["llama-pocket-7", "temperature"],
        ),
    ] {
        std::fs::write(&spec, text).unwrap();
        refuse(root, &["reproduce", "--spec", path], parts);
        refuse(root, &["plan", "--spec", path], parts);
    }
    refuse(root, &["pretrain"], &["models.toml"]);
    refuse(root, &["probe", "nobody"], &["nobody", "config.json"]);

    let empty = tempfile::tempdir().unwrap();
    refuse(empty.path(), &["reproduce", "--scale", "smoke"], &["llama-pocket", "config.json"]);
    // The data folder is only opened when a stage asks for its rows.
    let args = ["reproduce", "--scale", "smoke", "--data", "no/such/folder"];
    refuse(root, &args, &["no/such/folder"]);
}

/// What `plan` announces is what `reproduce` does.
#[test]
fn a_plan_does_nothing_and_counts_right() {
    let root = project();
    let output = cotalign(root.path()).args(["plan", "--scale", "smoke"]).output().unwrap();
    let out = succeed(output);
    assert_eq!(finished_runs(root.path()), 0);
    for stage in ["annotate", "instruct", "probe", "refine"] {
        let line = out.lines().find(|l| l.starts_with(&format!("{stage} "))).unwrap();
        let runs: Vec<usize> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let prefix = format!("runs/{stage}-");
        let done = |n: &&String| n.starts_with(&prefix) && n.ends_with("/plan.json");
        assert_eq!(runs, [reference().keys().filter(done).count(), 0], "{stage}");
    }
}
