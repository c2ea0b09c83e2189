//! `cotalign data check` and `data leaks`: what they print, and what they fail on.

use super::*;

/// `data check` prints counts and findings, and fails on what is broken.
#[test]
fn the_check_finds_what_is_wrong() {
    let row = |stem: &str, options: [&str; 2], key: &str| {
        let [a, b] = options;
        format!(
            r#"{{"question": {{"stem": "{stem}", "choices": [{{"text": "{a}", "label": "A"}}, {{"text": "{b}", "label": "B"}}]}}, "answerKey": "{key}"}}"#
        )
    };
    let rows = [
        row("Where is it?", ["here", "there"], "A"),
        row("where is it", ["There.", "here"], "B"),
        row("Where is it?", ["here", "there"], "B"),
        row("Where is it?", ["up", "Up"], "A"),
    ];
    let dir = folder(&[("obqa/train.jsonl", &rows.join("\n"))]);
    let target = dir.path().display().to_string();
    let (fine, text) = cotalign(&["data", "check", &target]);
    assert!(fine, "{text}");
    says(
        &text,
        &[
            "OBQA       train",
            "4 of 4957",
            "gold: A 2, B 2",
            "same question twice: 1 (rows 1 and 2)",
            "same stem with other options: 1",
            "two equal options: 1 (row 4)",
            "CONTRADICTION, same question with different golds: 1 (rows 1 and 3)",
            "1 files, 4 questions, 0 broken",
        ],
    );
    let (fine, text) = cotalign(&["data", "check", "obqa", "--data", &target]);
    assert!(fine && text.contains("4 of 4957"), "{text}");
    write(&dir.path().join("piqa/dev-labels.lst"), b"0\n");
    write(&dir.path().join("obqa/dev.jsonl"), b"{}\n");
    write(&dir.path().join("odd/rows.jsonl"), b"{\"x\": 1}\n");
    let (fine, text) = cotalign(&["data", "check", &target]);
    assert!(!fine, "{text}");
    says(
        &text,
        &[
            "labels without their rows",
            "dev.jsonl row 1",
            "columns are those of no benchmark",
            "3 broken",
        ],
    );
    let (fine, text) = cotalign(&["data", "check", "obqua"]);
    assert!(!fine);
    says(&text, &["no such file or folder", "unknown benchmark \"obqua\"", "ECQA"]);
    let (fine, text) = cotalign(&["data", "check", "mmlu", "--data", &target]);
    assert!(!fine);
    says(&text, &["no files in", "cais/mmlu"]);
}

/// A row of OBQA or CSQA.
fn lettered(id: &str, key: &str) -> String {
    format!(
        r#"{{"id": "{id}", "question": {{"stem": "Is it {id}?", "choices": [{{"text": "x", "label": "A"}}, {{"text": "y", "label": "B"}}]}}, {key}}}"#
    )
}

/// Whether `data check` fails and says so, of a folder with these files.
#[track_caller]
fn check_fails(dir: &Path, parts: &[&str]) {
    let (fine, text) = cotalign(&["data", "check", dir.to_str().unwrap()]);
    assert!(!fine, "{text}");
    says(&text, parts);
}

/// A lost column or file of labels passed for answers that the publishers withhold.
#[test]
fn lost_answers_are_not_withheld_ones() {
    let renamed = lettered("1", r#""answer": "B""#);
    let dir = folder(&[("obqa/train.jsonl", &renamed)]);
    check_fails(
        dir.path(),
        &["train.jsonl row 1: answerKey is missing", "OBQA train are public", "put back"],
    );
    let dir = folder(&[("piqa/dev.jsonl", PIQA)]);
    check_fails(dir.path(), &["label is missing", "dev-labels.lst", "PIQA validation are public"]);
    let dir = tempfile::tempdir().unwrap();
    let choices = Series::new("".into(), ["x", "y"]);
    let fields = ["label", "text"].map(|name| Series::new(name.into(), [choices.clone()]));
    let choices = StructChunked::from_series("choices".into(), 1, fields.iter()).unwrap();
    let mut frame = df!("id" => ["1"], "question" => ["q"]).unwrap();
    frame.with_column(choices.into_series().into()).unwrap();
    parquet(&dir.path().join("csqa/data/validation-00000-of-00001.parquet"), frame);
    check_fails(dir.path(), &["row 1: answerKey is missing", "CSQA validation are public"]);
    // Those that are withheld still are, and why.
    let dir = folder(&[("csqa/test_rand_split_no_answers.jsonl", &lettered("1", r#""x": 1"#))]);
    let (fine, text) = cotalign(&["data", "check", dir.path().to_str().unwrap()]);
    assert!(fine && text.contains("answers withheld (answerKey is missing)"), "{text}");
}

/// Without one of its shards a split was left out, or taken for whole.
#[test]
fn a_missing_shard_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let row = |q: &str| df!("question" => [q], "answer" => ["#### 1"]).unwrap();
    let at = |name: &str| dir.path().join("gsm8k/main").join(name);
    parquet(&at("train-00000-of-00002.parquet"), row("a"));
    parquet(&at("test-00000-of-00001.parquet"), row("a"));
    let missing = "part 00001 of the 2 parts of train is missing";
    check_fails(dir.path(), &[missing]);
    let data = dir.path().to_str().unwrap();
    for command in [vec!["data", "check", "gsm8k", "--data", data], vec!["data", "leaks", data]] {
        let (fine, text) = cotalign(&command);
        assert!(!fine && text.contains(missing), "{text}");
    }
    parquet(&at("train-00001-of-00002.parquet"), row("a"));
    let reports = check::check(dir.path()).unwrap();
    let train = reports.iter().find(|report| report.split == Some(Train)).unwrap();
    assert_eq!((train.files, train.questions, train.twins.len()), (2, 2, 1));
    assert!(train.broken.is_empty(), "{train}");
}

/// Records that end in CR and LF are read; what is no CSV is said with its line, in our words.
#[test]
fn csv_is_read_by_its_rules() {
    let text = ECQA.to_owned() + "2,id,c,\"q,\nr\",x,y,z,u,v,y,\"p\nn\",n,\"t \"\"u\"\"\"\n";
    let load = |text: &str| {
        let dir = folder(&[("cqa_data_val.csv", text)]);
        load(Benchmark::Ecqa, dir.path(), Validation)
    };
    let plain = load(&text).unwrap();
    assert_eq!(plain[0].stem, "q,\nr");
    assert_eq!(load(&text.replace('\n', "\r\n")).unwrap(), plain);
    // As published, with LF inside fields only; and a copy of that with its line ends converted.
    let published = text.replace("taskB\n", "taskB\r\n").replace("\"\"\"\n", "\"\"\"\r\n");
    assert_eq!(load(&published).unwrap(), plain);
    assert_eq!(load(&published.replace('\n', "\r\n")).unwrap(), plain);
    let long = format!("{text}3,id,c,q,x,y,z,u,v,y,p,n,t,more\n");
    let open = format!("{text}3,id,c,\"q,x,y,z,u,v,y,p,n,t\n");
    let after = format!("{text}3,id,c,\"q\" r,x,y,z,u,v,y,p,n,t\n");
    for (text, parts) in [
        (long, ["row 2: 14 columns instead of 13", "fetch"]),
        (open, ["line 5 (row 2): a quote opens", "fetch"]),
        (after, ["line 5 (row 2): text between", "fetch"]),
    ] {
        let error = message(load(&text));
        says(&error, &parts);
        assert!(!error.contains("truncate_ragged_lines") && error.lines().count() == 1, "{error}");
    }
}

/// MultiArith's one file is two splits, in a check as well.
#[test]
fn the_check_cuts_multiarith() {
    let row = |i| format!(r#"{{"iIndex": {i}, "sQuestion": "q {i}", "lSolutions": [1]}}"#);
    let rows = format!("[{}]", (0..10).map(row).collect::<Vec<_>>().join(", "));
    let dir = folder(&[("multiarith/MultiArith.json", &rows)]);
    let reports = check::check_benchmark(Benchmark::MultiArith, dir.path()).unwrap();
    let counts: Vec<_> = reports.iter().map(|r| (r.split, r.questions)).collect();
    assert_eq!(counts, [(Some(Train), 7), (Some(Test), 3)]);
}

/// Ids that `load` refuses are found by the check.
#[test]
fn the_check_finds_equal_ids() {
    let rows = ["a", "b", "a"].map(|id| lettered(id, r#""answerKey": "A""#)).join("\n");
    let dir = folder(&[("obqa/dev.jsonl", &rows)]);
    says(&message(load(Benchmark::Obqa, dir.path(), Validation)), &["the id \"a\""]);
    check_fails(
        dir.path(),
        &["dev.jsonl: the same id twice: 1 (\"a\" of rows 1 and 3)", "1 broken"],
    );
}

/// Links to a folder above made a check count files 41 times, or go on for ever.
#[cfg(unix)]
#[test]
fn links_in_a_circle_end() {
    let dir = folder(&[("obqa/dev.jsonl", &lettered("a", r#""answerKey": "A""#))]);
    for name in ["one", "two"] {
        std::os::unix::fs::symlink(dir.path(), dir.path().join("obqa").join(name)).unwrap();
    }
    assert_eq!(check::check(dir.path()).unwrap().len(), 1);
}

/// A column of a type that is not read hinders only where it is needed.
#[test]
fn columns_of_other_types_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bbh/snarks/test-00000-of-00001.parquet");
    let bytes: [&[u8]; 1] = [b"\xff\xfe"];
    let mut frame = df!("input" => ["a"], "target" => ["True"]).unwrap();
    frame.with_column(Series::new("hash".into(), bytes).into()).unwrap();
    parquet(&path, frame);
    assert_eq!(load(Benchmark::Bbh, dir.path(), Test).unwrap()[0].stem, "a");
    assert!(check::check(dir.path()).unwrap()[0].broken.is_empty());
    let mut frame = df!("input" => ["a"]).unwrap();
    frame.with_column(Series::new("target".into(), bytes).into()).unwrap();
    parquet(&path, frame);
    let error = message(load(Benchmark::Bbh, dir.path(), Test));
    says(&error, &["test-00000-of-00001.parquet: cannot read the column target of type", "texts"]);
}

/// MATH's files of one problem each are one line of a report, in which twins are found.
#[test]
fn the_check_takes_maths_problems_together() {
    let dir = folder(&[
        ("math/test/algebra/1.json", MATH),
        ("math/test/geometry/1.json", MATH),
        ("math/test/geometry/2.json", &MATH.replace("\"p\"", "\"r\"")),
    ]);
    for reports in [
        check::check(dir.path()).unwrap(),
        check::check_benchmark(Benchmark::Math, dir.path()).unwrap(),
    ] {
        let [report] = &reports[..] else { panic!("{} reports", reports.len()) };
        assert_eq!((report.files, report.questions, report.split), (3, 3, Some(Test)));
        assert_eq!(report.twins, ["algebra/1.json 1 and geometry/1.json 1"]);
        assert!(report.place.ends_with("math/test") && report.broken.is_empty(), "{report}");
    }
}

/// A broken file leaves the rest of the report, which names rows.
#[test]
fn leaks_go_on_past_a_broken_file() {
    let row = lettered("a", r#""answerKey": "A""#);
    let dir = folder(&[
        ("obqa/train.jsonl", &row),
        ("obqa/dev.jsonl", &row.replace("\"a\"", "\"v\"")),
        ("csqa/dev_rand_split.jsonl", "{\n"),
    ]);
    let (fine, text) = cotalign(&["data", "leaks", dir.path().to_str().unwrap()]);
    assert!(!fine, "{text}");
    says(&text, &["OBQA validation", "v in a", "BROKEN: CSQA validation", "row 1: broken JSON"]);
}
