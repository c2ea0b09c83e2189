//! Real benchmarks from folders: both layouts, what is wrong with wrong files, and every
//! file of the samples in `../shared/data` where it is there.

#[path = "data/checks.rs"]
mod checks;
mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use NativeSplit::{Dev, Test, Train, Validation};
use common::message;
use cotalign::task::draw::{Size, draw};
use cotalign::task::leakage::overlaps;
use cotalign::task::{Benchmark, Gold, NativeSplit, Question, check, hub_files, leakage, load};
use polars::prelude::{DataFrame, IntoSeries, NamedFrom, ParquetWriter, Series, StructChunked, df};

/// Names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

fn folder(files: Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(&dir.path().join(name), text.as_bytes());
    }
    dir
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn parquet(path: &Path, mut frame: DataFrame) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    ParquetWriter::new(File::create(path).unwrap()).finish(&mut frame).unwrap();
}

fn shared() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !data.is_dir() {
        eprintln!("skipped: no folder {}", data.display());
        return None;
    }
    Some(data)
}

#[track_caller]
fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

fn cotalign(args: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_cotalign")).args(args).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(text).unwrap())
}

const MATH: &str = r#"{"problem": "p", "level": "Level 1", "type": "Number Theory", "solution": "$\\boxed{1}$, so $\\boxed{\\frac{1}{2}}$"}"#;
const AQUA: &str = r#"{"question": "q", "options": ["A)6", "B)18", "C) 24", "D)36", "E)none"], "rationale": "r", "correct": "C"}"#;
const ECQA: &str =
    ",q_no,q_concept,q_text,q_op1,q_op2,q_op3,q_op4,q_op5,q_ans,taskA_pos,taskA_neg,taskB\n";
const PIQA: &str = r#"{"goal": "g", "sol1": "x", "sol2": "y"}"#;
const BBH: &str = r#"{"canary": "c", "examples": [
    {"input": "Which?\nOptions:\n(A) x\n(B) y", "target": "(B)"},
    {"input": "Which?\nOptions:\n(A) x, y\n(B) z", "target": "x, y"},
    {"input": "not ( True ) is", "target": "False"},
    {"input": "Sound?\nOptions:\n- valid \n- invalid", "target": "valid"}]}"#;

/// Each format with its labels: the question that the first row becomes.
#[test]
fn every_format_is_read() {
    type Case<'a> = (Benchmark, NativeSplit, Files<'a>, &'a str, &'a [&'a str], Gold);
    let cases: [Case; 11] = [
        (
            Benchmark::Math,
            Test,
            &[("test.jsonl", MATH)],
            "p",
            &[],
            Gold::Math(r"\frac{1}{2}".into()),
        ),
        (
            Benchmark::Math,
            Train,
            &[("train/algebra/12.json", MATH)],
            "p",
            &[],
            Gold::Math(r"\frac{1}{2}".into()),
        ),
        (
            Benchmark::Mmlu,
            Test,
            &[("test/anatomy_test.csv", "\"a \"\"b\"\",\nc\",1,2,\"3,4\",5,C\n")],
            "a \"b\",\nc",
            &["1", "2", "3,4", "5"],
            Gold::Choice(2),
        ),
        (Benchmark::Bbh, Test, &[("snarks.json", BBH)], "Which?", &["x", "y"], Gold::Choice(1)),
        (
            Benchmark::Aqua,
            Validation,
            &[("dev.json", AQUA)],
            "q",
            &["6", "18", " 24", "36", "none"],
            Gold::Choice(2),
        ),
        (
            Benchmark::Aqua,
            Train,
            &[("train_flan_cot.tsv", "q\\nOptions:\\n(A) 1\\n(B) 2\t(B)\tr")],
            "q",
            &["1", "2"],
            Gold::Choice(1),
        ),
        (
            Benchmark::Ecqa,
            Train,
            &[("train_flan_cot.tsv", "q\\nOptions:\\n- x\\n- y\ty\tr")],
            "q",
            &["x", "y"],
            Gold::Choice(1),
        ),
        (
            Benchmark::MultiArith,
            Test,
            &[("test.json", r#"[{"question": " q ", "final_ans": "1,080"}]"#)],
            "q",
            &[],
            Gold::Number("1080".into()),
        ),
        (
            Benchmark::Piqa,
            Validation,
            &[("valid.jsonl", PIQA), ("valid-labels.lst", "1\n")],
            "g",
            &["x", "y"],
            Gold::Choice(1),
        ),
        (
            Benchmark::Csqa,
            Validation,
            &[(
                "dev_rand_split.jsonl",
                r#"{"id": "1", "question": "q", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"}"#,
            )],
            "q",
            &["x", "y"],
            Gold::Choice(1),
        ),
        (
            Benchmark::Ecqa,
            Validation,
            &[(
                "cqa_data_val.csv",
                &(ECQA.to_owned() + "2,id,c,\"q, r\",x,y,z,Y ,v,y,\"p\nn\",n,t\n"),
            )],
            "q, r",
            &["x", "y", "z", "Y ", "v"],
            Gold::Choice(1),
        ),
    ];
    for (benchmark, split, files, stem, options, gold) in cases {
        let dir = folder(files);
        let loaded = load(benchmark, dir.path(), split).unwrap();
        let first = &loaded[0];
        assert_eq!((first.stem.as_str(), &first.gold), (stem, &gold), "{benchmark} {split}");
        assert_eq!(first.options, options, "{benchmark} {split}");
    }
    let bbh = folder(&[("bbh/snarks.json", BBH)]);
    let bbh = load(Benchmark::Bbh, bbh.path(), Test).unwrap();
    let golds: Vec<&Gold> = bbh.iter().map(|q| &q.gold).collect();
    let text = |text: &str| Gold::Text(text.into());
    let expected = [Gold::Choice(1), Gold::Choice(0), text("False"), text("valid")];
    assert_eq!(golds, expected.iter().collect::<Vec<_>>());
    assert_eq!(bbh[3].id, "snarks-4");
    assert_eq!(bbh[3].stem, "Sound?\nOptions:\n- valid \n- invalid", "texts stay whole");
}

/// Parquet as the hub lays it out: under the benchmark's name, its id, or an id with `__`.
#[test]
fn hub_layouts_are_found() {
    let aqua = |question: &str| {
        let options = Series::new("".into(), ["A)1", "B)2"]);
        df!("question" => [question], "options" => [options], "correct" => ["B"]).unwrap()
    };
    for place in [
        "aqua",
        "deepmind/aqua_rat",
        "deepmind__aqua_rat",
        "datasets--deepmind--aqua_rat/snapshots/0a",
    ] {
        for file in ["raw/test-00000-of-00001.parquet", "raw/test/0000.parquet"] {
            let dir = tempfile::tempdir().unwrap();
            parquet(&dir.path().join(place).join(file), aqua("q"));
            // Another text of the same rows, not to be read.
            parquet(
                &dir.path().join(place).join("tokenized/test-00000-of-00001.parquet"),
                aqua("t"),
            );
            let loaded = load(Benchmark::Aqua, dir.path(), Test).unwrap();
            assert_eq!(loaded.len(), 1);
            assert_eq!((loaded[0].stem.as_str(), loaded[0].id.as_str()), ("q", "test-1"));
            assert_eq!((&loaded[0].options[1], &loaded[0].gold), (&"2".into(), &Gold::Choice(1)));
            assert_eq!(load(Benchmark::Aqua, &dir.path().join(place), Test).unwrap(), loaded);
        }
    }
    // What is to be fetched is what is found.
    for benchmark in Benchmark::every() {
        for split in NativeSplit::of(benchmark) {
            let (repository, _, paths) = hub_files(benchmark, *split).unwrap();
            let dir = tempfile::tempdir().unwrap();
            for path in &paths {
                write(&dir.path().join(&repository).join(path), b"");
            }
            let error = message(load(benchmark, dir.path(), *split));
            says(&error, &["the file is empty", &paths[0]]);
        }
    }
    // Shards: all, in their order.
    let dir = tempfile::tempdir().unwrap();
    let at = |n: usize| dir.path().join(format!("gsm8k/main/train-0000{n}-of-00002.parquet"));
    let gsm8k = |q: &str| df!("question" => [q], "answer" => ["#### 1"]).unwrap();
    parquet(&at(1), gsm8k("second"));
    let error = message(load(Benchmark::Gsm8k, dir.path(), Train));
    says(&error, &["gsm8k/main", "part 00000 of the 2 parts of train is missing"]);
    parquet(&at(0), gsm8k("first"));
    let stems: Vec<String> =
        load(Benchmark::Gsm8k, dir.path(), Train).unwrap().into_iter().map(|q| q.stem).collect();
    assert_eq!(stems, ["first", "second"]);
}

/// Labels in all their codings, on the hub.
#[test]
fn labels_of_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let piqa = |labels: [i64; 2]| df!("goal" => ["g", "h"], "sol1" => ["a", "b"], "sol2" => ["c", "d"], "label" => labels);
    parquet(&dir.path().join("baber__piqa/piqa_validation.parquet"), piqa([1, 0]).unwrap());
    parquet(&dir.path().join("baber__piqa/piqa_test.parquet"), piqa([-1, -1]).unwrap());
    let golds =
        |questions: Vec<Question>| questions.into_iter().map(|q| q.gold).collect::<Vec<_>>();
    let loaded = load(Benchmark::Piqa, dir.path(), Validation).unwrap();
    assert_eq!(golds(loaded), [Gold::Choice(1), Gold::Choice(0)]);
    let error = message(load(Benchmark::Piqa, dir.path(), Test));
    says(&error, &["piqa_test.parquet row 1", "label is -1", "withheld", "validation"]);
    let siqa = df!("context" => ["c"], "question" => ["q"], "answerA" => ["x"], "answerB" => ["y"],
        "answerC" => ["z"], "label" => ["3"]);
    let name = "lighteval__siqa/data/validation-00000-of-00001-90bb85eab85fcfa8.parquet";
    parquet(&dir.path().join(name), siqa.unwrap());
    assert_eq!(golds(load(Benchmark::Siqa, dir.path(), Validation).unwrap()), [Gold::Choice(2)]);
}

/// Each broken file, and the parts of what is said about it: file, row, column, what to do.
#[test]
fn wrong_files_are_named() {
    let outside = AQUA.replace("\"correct\": \"C\"", "\"correct\": \"F\"");
    let two = format!("{AQUA}\n{AQUA}\n").replacen("rationale", "x", 1);
    let missing = two.replacen("\"question\"", "\"quest\"", 1);
    let unboxed = MATH.replace("boxed", "bxd");
    let unknown = ECQA.to_owned() + "2,id,c,q,x,y,z,u,v,w,p,n,t\n";
    let short = ECQA.to_owned() + "2,id,c,q,x,y\n";
    let headless = ECQA.replace("q_ans", "answer") + "2,id,c,q,x,y,z,u,v,w,p,n,t\n";
    let beyond = r#"{"examples": [{"input": "Which?\nOptions:\n(A) x\n(B) y", "target": "(C)"}]}"#;
    let piqa = format!("{PIQA}\n{PIQA}\n");
    let cases: [(Benchmark, NativeSplit, Files, &[&str]); 21] = [
        (
            Benchmark::Aqua,
            Test,
            &[],
            &["test.json", "put the published file there", "deepmind/aqua_rat"],
        ),
        (Benchmark::Aqua, Test, &[("test.json", "\n \n")], &["test.json", "empty", "fetch"]),
        (
            Benchmark::Aqua,
            Test,
            &[("test.json", &outside)],
            &["test.json row 1", "correct is \"F\"", "A, B, C"],
        ),
        (
            Benchmark::Aqua,
            Test,
            &[("test.json", &missing)],
            &["test.json row 1", "question is missing"],
        ),
        (
            Benchmark::Aqua,
            Test,
            &[("test.json", &format!("{AQUA}\n{}", &AQUA[..40]))],
            &["test.json row 2", "broken JSON", "fetch"],
        ),
        (
            Benchmark::Aqua,
            Train,
            &[("train_flan_cot.tsv", "a\tb")],
            &["train_flan_cot.tsv row 1", "2 columns"],
        ),
        (
            Benchmark::Math,
            Test,
            &[("test.jsonl", &unboxed)],
            &["test.jsonl row 1", "solution", "boxed"],
        ),
        (Benchmark::Math, Validation, &[], &["no such split", "use test"]),
        (Benchmark::Mmlu, Train, &[], &["auxiliary_train", "use test"]),
        (
            Benchmark::Mmlu,
            Test,
            &[("test/x_test.csv", "q,1,2,3,4,E\n")],
            &["x_test.csv row 1", "answer is \"E\""],
        ),
        (
            Benchmark::Mmlu,
            Test,
            &[("test/x_test.csv", "q,1,2,3,D\n")],
            &["x_test.csv row 1", "5 columns", "question,A,B,C,D,answer"],
        ),
        (
            Benchmark::Mmlu,
            Dev,
            &[("dev/x_dev.csv", "q,1,2,3,4,A\nq,1,2\n")],
            &["x_dev.csv row 2", "C is missing"],
        ),
        (
            Benchmark::Bbh,
            Test,
            &[("snarks.json", beyond)],
            &["snarks.json row 1", "target is (C)", "2 options"],
        ),
        (
            Benchmark::Bbh,
            Test,
            &[("snarks.json", &BBH[..120])],
            &["snarks.json row 1", "broken JSON"],
        ),
        (
            Benchmark::Bbh,
            Test,
            &[("snarks.json", r#"{"examples": []}"#)],
            &["snarks.json", "no rows"],
        ),
        (
            Benchmark::Ecqa,
            Test,
            &[("cqa_data_test.csv", &unknown)],
            &["cqa_data_test.csv row 1", "q_ans is \"w\""],
        ),
        (
            Benchmark::Ecqa,
            Test,
            &[("cqa_data_test.csv", &short)],
            &["cqa_data_test.csv row 1", "q_op3 is missing"],
        ),
        (
            Benchmark::Ecqa,
            Test,
            &[("cqa_data_test.csv", &headless)],
            &["cqa_data_test.csv row 1", "lacks the column q_ans"],
        ),
        (
            Benchmark::Piqa,
            Train,
            &[("train.jsonl", &piqa), ("train-labels.lst", "0\n")],
            &["train-labels.lst", "1 labels for the 2 rows", "one release"],
        ),
        (
            Benchmark::Piqa,
            Train,
            &[("train.jsonl", &piqa), ("train-labels.lst", "0\nx\n")],
            &["train-labels.lst row 2", "\"x\"", "0 to 1"],
        ),
        (
            Benchmark::Obqa,
            Test,
            &[(
                "test.jsonl",
                r#"{"id": "1", "question_stem": "q", "choices": {"text": ["x"], "label": ["A", "B"]}, "answerKey": "A"}"#,
            )],
            &["test.jsonl row 1", "choices has 2 labels for 1 texts"],
        ),
    ];
    for (benchmark, split, files, parts) in cases {
        says(&message(load(benchmark, folder(files).path(), split)), parts);
    }
    let dir = folder(&[]);
    write(&dir.path().join("cqa_data_test.csv"), &[ECQA.as_bytes(), b"2,id,c,q\xff,"].concat());
    let error = message(load(Benchmark::Ecqa, dir.path(), Test));
    says(&error, &["cqa_data_test.csv row 2", "not UTF-8", "convert"]);
}

/// Any cut of a Parquet file is an error that names it, and so is one with other columns.
#[test]
fn broken_parquet_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bbh/snarks/test-00000-of-00001.parquet");
    parquet(&path, df!("input" => ["a", "b"], "target" => ["True", "False"]).unwrap());
    let load = || load(Benchmark::Bbh, dir.path(), Test);
    assert_eq!(load().unwrap()[1].id, "snarks-2");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        write(&path, &whole[..length]);
        says(&message(load()), &["test-00000-of-00001.parquet", "fetch"]);
    }
    // Damage inside: an error or other text, never a panic that gets out.
    for at in (4..whole.len() - 4).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        write(&path, &bytes);
        if let Err(error) = load() {
            says(&format!("{error:#}"), &["test-00000-of-00001.parquet"]);
        }
    }
    write(&path, b"version https://git-lfs.github.com/spec/v1\n");
    says(&message(load()), &["git lfs pull"]);
    parquet(&path, df!("inputs" => ["a"], "target" => ["True"]).unwrap());
    says(&message(load()), &["test-00000-of-00001.parquet row 1", "input is missing"]);
}

/// All of the samples: no file is broken, and all rows are met.
#[test]
fn the_samples_are_checked() {
    let Some(data) = shared() else { return };
    let reports = check::check(&data).unwrap();
    let mut rows = 0;
    for report in &reports {
        assert!(report.broken.is_empty(), "{report}");
        assert!(report.benchmark.is_some() && report.questions > 0, "{report}");
        rows += report.questions;
    }
    // The sums of the two tables of the samples' README.
    let native = 3000 + 3200 + 3000 + 3900 + 3000 + 350 + 969 + 945 + 2254 + 3000;
    let hub = 300 + 200 + 200 + 100 + 100 + 34 + 100 + 105 + 100;
    assert_eq!(rows, native + hub);
    let find = |name: &str| reports.iter().find(|r| r.place.ends_with(name)).unwrap();
    let dev = find("csqa/dev_rand_split.jsonl");
    assert_eq!((dev.questions, dev.published, dev.split), (900, Some(1221), Some(Validation)));
    assert_eq!(dev.classes.values().sum::<usize>(), 900);
    assert!(!dev.equal_options.is_empty());
    assert_eq!(find("csqa/test_rand_split_no_answers.jsonl").withheld, 100);
    assert_eq!(find("plain_text/test/0000.parquet").withheld, 100);
    assert_eq!((find("mmlu/test").files, find("mmlu/test").questions), (57, 684));
    assert_eq!((find("bbh").files, find("bbh").questions), (27, 945));
}

/// Where the samples hold the same rows in both layouts, both load to the same questions.
#[test]
fn both_layouts_of_the_samples_agree() {
    let Some(data) = shared() else { return };
    let hub = data.join("hf_layout");
    for (benchmark, split) in [
        (Benchmark::Csqa, Train),
        (Benchmark::Csqa, Validation),
        (Benchmark::Obqa, Train),
        (Benchmark::Obqa, Validation),
        (Benchmark::Piqa, Validation),
        (Benchmark::Siqa, Validation),
        (Benchmark::Gsm8k, Test),
        (Benchmark::Mmlu, Dev),
        (Benchmark::Mmlu, Test),
        (Benchmark::Bbh, Test),
        (Benchmark::Aqua, Validation),
        (Benchmark::Ecqa, Validation),
    ] {
        let native = load(benchmark, &data, split).unwrap();
        let hub = load(benchmark, &hub, split).unwrap();
        assert!(hub.len() >= 10 && hub.len() < native.len(), "{benchmark} {split}");
        for question in hub {
            let same = |q: &&Question| {
                (&q.stem, &q.options, &q.gold)
                    == (&question.stem, &question.options, &question.gold)
            };
            let twin = native.iter().find(same);
            assert!(twin.is_some(), "{benchmark} {split}: {question:?}");
            if matches!(
                benchmark,
                Benchmark::Csqa | Benchmark::Obqa | Benchmark::Mmlu | Benchmark::Bbh
            ) {
                assert!(native.iter().any(|q| q.id == question.id), "{}", question.id);
            }
        }
    }
    for benchmark in [Benchmark::Csqa, Benchmark::Piqa] {
        says(&message(load(benchmark, &hub, Test)), &["row 1", "withheld", "validation"]);
    }
}

/// Real PIQA rows with their labels a line too low: every label is in range, and the counts
/// agree.
#[test]
fn shifted_labels_are_noticed() {
    let Some(data) = shared() else { return };
    for (folder, benchmark) in [("piqa", Benchmark::Piqa), ("siqa", Benchmark::Siqa)] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(data.join(folder).join("dev.jsonl"), dir.path().join("dev.jsonl")).unwrap();
        let labels = fs::read_to_string(data.join(folder).join("dev-labels.lst")).unwrap();
        let write = |text: String| fs::write(dir.path().join("dev-labels.lst"), text).unwrap();
        write(labels.clone());
        assert_eq!(load(benchmark, dir.path(), Validation).unwrap().len(), 900);
        let mut lines: Vec<&str> = labels.lines().collect();
        lines.rotate_right(1);
        write(lines.join("\n"));
        let error = message(load(benchmark, dir.path(), Validation));
        says(&error, &["dev-labels.lst row", "shifted", "one release"]);
    }
}

/// ECQA's train split holds questions of CSQA's validation split, and none of the samples'
/// other train splits does.
#[test]
fn ecqa_leaks_into_csqa() {
    let Some(data) = shared() else { return };
    let train = load(Benchmark::Ecqa, &data, Train).unwrap();
    let test = load(Benchmark::Csqa, &data, Validation).unwrap();
    let found = overlaps(&train, &test);
    assert!(found.len() > 50, "{} overlaps", found.len());
    assert!(found.iter().filter(|overlap| overlap.options).count() > found.len() / 2);
    let leaks = leakage::leaks(&data).unwrap().found;
    let pair = ((Benchmark::Ecqa, Train), (Benchmark::Csqa, Validation));
    let leak = leaks.iter().find(|leak| (leak.train, leak.test) == pair).unwrap();
    assert_eq!(leak.overlaps, found);
    assert!(!leaks.iter().any(|leak| leak.train.0 == Benchmark::Piqa && leak.same() > 0));
}

/// P1's draw in miniature, on real rows.
#[test]
fn draws_of_real_rows_are_balanced() {
    let Some(data) = shared() else { return };
    for benchmark in Benchmark::QA {
        let train = load(benchmark, &data, Train).unwrap();
        let drawn = draw(&train, Size::PerClass(200), 1).unwrap();
        assert_eq!(drawn.classes, vec![200; benchmark.options().unwrap()], "{benchmark}");
    }
}
