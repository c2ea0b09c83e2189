//! Publishers' layouts of the six: what loads, and what each broken file is told.

use super::super::question::Gold;
use super::*;
use NativeSplit::{Test, Train, Validation};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn error(benchmark: Benchmark, split: NativeSplit, files: &[(&str, &str)]) -> String {
    format!("{:#}", load(benchmark, folder(files).path(), split).unwrap_err())
}

#[track_caller]
fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

const OBQA: &str = r#"{"id": "7-1", "question": {"stem": "s", "choices": [{"text": "x ", "label": "A"}, {"text": "y", "label": "B"}]}, "answerKey": "B"}"#;
const PIQA: &str = r#"{"goal": "g", "sol1": "x ", "sol2": "y"}"#;
const SIQA: &str =
    r#"{"context": "c.", "question": "q?", "answerA": "x", "answerB": "y", "answerC": "z""#;

#[test]
fn errors_name_file_row_and_key() {
    use Benchmark::*;
    says(&error(Obqa, Test, &[]), &["test.jsonl", "put the published file there"]);
    says(&error(Obqa, Test, &[("test.jsonl", " \n")]), &["test.jsonl", "empty"]);
    let broken = format!("{OBQA}\n{{\"id\": ");
    says(&error(Obqa, Test, &[("test.jsonl", &broken)]), &["test.jsonl row 2", "broken JSON"]);
    let missing = OBQA.replace("stem", "steam");
    says(
        &error(Obqa, Test, &[("test.jsonl", &missing)]),
        &["test.jsonl row 1", "question.stem is missing", "fetch"],
    );
    let outside = OBQA.replace(r#""answerKey": "B""#, r#""answerKey": "E""#);
    says(
        &error(Csqa, Validation, &[("dev_rand_split.jsonl", &outside)]),
        &["dev_rand_split.jsonl row 1", "answerKey is \"E\"", "A, B"],
    );
    let unanswered = OBQA.replace(r#", "answerKey": "B""#, "");
    says(
        &error(Csqa, Train, &[("train_rand_split.jsonl", &unanswered)]),
        &["row 1", "answerKey is missing", "the answers of CSQA train are public"],
    );
}

#[test]
fn not_utf8_names_the_line() {
    let dir = folder(&[]);
    let mut bytes = format!("{OBQA}\n").into_bytes();
    bytes.push(0xff);
    std::fs::write(dir.path().join("dev.jsonl"), bytes).unwrap();
    let error = load(Benchmark::Obqa, dir.path(), Validation).unwrap_err().to_string();
    says(&error, &["dev.jsonl row 2", "not UTF-8"]);
}

#[test]
fn label_files_are_checked() {
    use Benchmark::*;
    let two = format!("{PIQA}\n{PIQA}\n");
    let shorter = error(Piqa, Validation, &[("dev.jsonl", &two), ("dev-labels.lst", "0\n")]);
    says(&shorter, &["dev-labels.lst", "1 labels for the 2 rows", "one release"]);
    let outside = error(Piqa, Validation, &[("dev.jsonl", &two), ("dev-labels.lst", "0\n2\n")]);
    says(&outside, &["dev-labels.lst row 2", "\"2\"", "0 to 1"]);
    let none = error(Piqa, Validation, &[("dev.jsonl", &two)]);
    says(&none, &["dev.jsonl row 1", "label is missing", "dev-labels.lst"]);
    let plain = format!("{SIQA}}}");
    let zero = error(Siqa, Validation, &[("dev.jsonl", &plain), ("dev-labels.lst", "0")]);
    says(&zero, &["dev-labels.lst row 1", "\"0\"", "1 to 3"]);
    let lettered = format!("{SIQA}, \"correct\": \"D\"}}");
    let four = error(Siqa, Train, &[("socialIQa_v1.4_trn.jsonl", &lettered)]);
    says(&four, &["socialIQa_v1.4_trn.jsonl row 1", "correct is \"D\""]);
}

#[test]
fn withheld_and_missing_splits_say_what_to_use() {
    for benchmark in [Benchmark::Csqa, Benchmark::Piqa, Benchmark::Siqa] {
        says(&error(benchmark, Test, &[]), &["withhold", "use validation"]);
    }
    for benchmark in [Benchmark::Gsm8k, Benchmark::MultiArith] {
        says(&error(benchmark, Validation, &[]), &["no such split", "use test"]);
    }
}

#[test]
fn math_golds_are_checked() {
    use Benchmark::*;
    let row = r#"{"question": "q", "answer": "no gold"}"#;
    says(&error(Gsm8k, Test, &[("test.jsonl", row)]), &["test.jsonl row 1", "answer does not"]);
    let rows = r#"[{"sQuestion": "q", "lSolutions": []}]"#;
    says(
        &error(MultiArith, Test, &[("MultiArith.json", rows)]),
        &["MultiArith.json row 1", "lSolutions is not"],
    );
    says(&error(MultiArith, Test, &[("MultiArith.json", "{}")]), &["lSolutions is missing"]);
    says(&error(MultiArith, Test, &[("MultiArith.json", "[]")]), &["no rows"]);
}

#[test]
fn golds_are_plain_decimals_and_blanks_are_trimmed() {
    let rows = r#"{"question": "q", "answer": "1\n#### 1,575,000"}
{"question": "q", "answer": "x\n#### -3"}"#;
    let dir = folder(&[("train.jsonl", rows)]);
    let loaded = load(Benchmark::Gsm8k, dir.path(), Train).unwrap();
    assert_eq!(loaded[0].gold, Gold::Number("1575000".into()));
    assert_eq!(loaded[1].gold, Gold::Number("-3".into()));
    assert_eq!(loaded[1].id, "train-2");
    let rows =
        r#"[{"sQuestion": " q ", "lSolutions": [39.0]}, {"sQuestion": "r", "lSolutions": [2.5]}]"#;
    let dir = folder(&[("MultiArith.json", rows)]);
    let train = load(Benchmark::MultiArith, dir.path(), Train).unwrap();
    let test = load(Benchmark::MultiArith, dir.path(), Test).unwrap();
    assert_eq!((train.len(), test.len()), (1, 1));
    assert_eq!((train[0].stem.as_str(), &train[0].gold), ("q", &Gold::Number("39".into())));
    assert_eq!(test[0].gold, Gold::Number("2.5".into()));
}

#[test]
fn both_siqa_layouts_agree() {
    let plain = format!("{SIQA}}}");
    let beside = folder(&[("dev.jsonl", &plain), ("dev-labels.lst", "3\n")]);
    let lettered = format!("{SIQA}, \"correct\": \"C\"}}");
    let inside = folder(&[("socialIQa_v1.4_dev.jsonl", &lettered)]);
    let beside = load(Benchmark::Siqa, beside.path(), Validation).unwrap();
    let inside = load(Benchmark::Siqa, inside.path(), Validation).unwrap();
    assert_eq!(beside[0].gold, Gold::Choice(2));
    assert_eq!(beside[0].gold, inside[0].gold);
    assert_eq!(beside[0].stem, "c. q?");
}

/// The rows of the samples, where the folder is there: counts and one known row each.
#[test]
fn published_samples_load() {
    let shared = std::env::var("COTALIGN_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared").to_owned());
    let data = Path::new(&shared).join("data");
    if !data.is_dir() {
        eprintln!("skipped: no folder {}; set COTALIGN_SHARED", data.display());
        return;
    }
    use Benchmark::*;
    let choice = Gold::Choice;
    let number = |n: &str| Gold::Number(n.to_owned());
    let known = [
        (Obqa, Train, 2000, "7-870", "When food is reduced in the stomach", choice(2)),
        (Obqa, Validation, 350, "8-376", "Frilled sharks", choice(0)),
        (Obqa, Test, 350, "1129", "There is most likely going", choice(0)),
        (Csqa, Train, 2000, "23505889b94e880c3e89cff4ba119860", "The fox walked", choice(2)),
        (Csqa, Validation, 900, "a7ab086045575bb497933726e4e6ad28", "What do people", choice(0)),
        (Piqa, Train, 2000, "train-1", "To permanently attach metal legs", choice(0)),
        (Piqa, Validation, 900, "c36c629e-12e9-43cc-8936-e1a96d869ab0", "How do I", choice(0)),
        (Siqa, Train, 2000, "socialIQa_v1.4_trn-1", "Cameron tried to work", choice(1)),
        (Siqa, Validation, 900, "socialIQa_v1.4_dev-1", "Aubrey never told Riley", choice(0)),
        (Gsm8k, Train, 2000, "train-1", "Mark has a garden", number("35")),
        (Gsm8k, Test, 1000, "test-1", "Janet\u{2019}s ducks lay 16 eggs", number("18")),
        (MultiArith, Train, 245, "1", "A pet store had 13 siamese cats", number("8")),
        (MultiArith, Test, 105, "", "Wendy uploaded 22 pictures", number("6")),
    ];
    for (benchmark, split, count, id, stem, gold) in known {
        let dir = data.join(benchmark.name().to_lowercase());
        let rows = load(benchmark, &dir, split).unwrap();
        assert_eq!(rows.len(), count, "{benchmark} {split}");
        for row in &rows {
            assert_eq!(Some(row.options.len()), benchmark.options().or(Some(0)), "{}", row.id);
        }
        let first = &rows[0];
        assert!(first.stem.starts_with(stem), "{benchmark} {split}: {}", first.stem);
        assert_eq!(first.gold, gold, "{benchmark} {split}");
        if !id.is_empty() {
            assert_eq!(first.id, id, "{benchmark} {split}");
        }
    }
}
