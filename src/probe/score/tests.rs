use super::*;

/// Scores lines through files; gives the lines written and the score.
fn scored(lines: &[&str], reader: NamedReader) -> (Vec<Value>, Result<Score>) {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    fs::write(&input, lines.join("\n")).unwrap();
    let score = score_file(&input, &output, reader);
    let text = fs::read_to_string(&output).unwrap_or_default();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), if score.is_ok() { 2 } else { 1 });
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), score)
}

/// `answer`, `answer_strict`, `correct` and `correct_strict` of one line.
#[track_caller]
fn one(line: &str) -> [Value; 4] {
    let (lines, score) = scored(&[line], NamedReader::Own);
    score.unwrap();
    ["answer", "answer_strict", "correct", "correct_strict"].map(|key| lines[0][key].clone())
}

#[test]
fn forms_of_answers() {
    let csqa = r#""benchmark":"CSQA","choices":["bank","library","mall"]"#;
    for (rest, expected) in [
        (r#""output":"The answer is B.","gold":"B""#, json!(["B", "B", true, true])),
        (r#""output":"The answer is B.","gold":"library""#, json!(["B", "B", true, true])),
        (r#""output":"The answer is B.","gold":"(C)""#, json!(["B", "B", false, false])),
        (r#""output":"Books are in the library, so","gold":"B""#, json!(["B", null, true, false])),
        (r#""output":"I do not know","gold":"B""#, json!([null, null, false, false])),
        (r#""output":"B""#, json!(["B", "B", null, null])),
        (r#""output":"B","gold":null"#, json!(["B", "B", null, null])),
    ] {
        assert_eq!(json!(one(&format!("{{{csqa},{rest}}}"))), expected, "{rest}");
    }
    for (line, expected) in [
        (
            r#"{"benchmark":"gsm8k","output":"So 3 + 4 = 7.","gold":"3+4=<<3+4=7>>7\n#### 7"}"#,
            json!(["7", null, true, false]),
        ),
        (
            r#"{"benchmark":"MultiArith","output":"The answer is $1,080.00.","gold":1080.0}"#,
            json!(["1080", "1080", true, true]),
        ),
        (
            r#"{"benchmark":"MATH","output":"$\\boxed{\\frac{3}{4}}$","gold":"so $\\boxed{3/4}$"}"#,
            json!([r"\frac{3}{4}", r"\frac{3}{4}", true, true]),
        ),
        (
            r#"{"benchmark":"mine","output":"The answer is $x+1$.","gold":"$x + 1$"}"#,
            json!(["x+1", "x+1", true, true]),
        ),
        (
            r#"{"benchmark":"BBH","output":"So the answer is False.","gold":"False"}"#,
            json!(["False", "False", true, true]),
        ),
        (
            r#"{"benchmark":"bbh_word_sorting","question":"Sort: List: b a","output":"The answer is a, b","gold":"a b"}"#,
            json!(["a b", "a b", true, true]),
        ),
        (
            r#"{"benchmark":"aqua","choices":["A)21","B)22"],"output":"The answer is 22","gold":"B"}"#,
            json!(["B", "B", true, true]),
        ),
        (r#"{"benchmark":"x","output":"It is 7"}"#, json!(["7", null, null, null])),
    ] {
        assert_eq!(json!(one(line)), expected, "{line}");
    }
}

#[test]
fn lines_are_kept() {
    let (lines, score) = scored(
        &[
            r#"{"id":7,"benchmark":"a","output":"The answer is 5","answer":"old","correct":true}"#,
            "",
            r#"{"benchmark":"b","output":"6","gold":"6","more":{"x":[1]}}"#,
            r#"{"benchmark":"a","output":"5 or so","gold":"5"}"#,
        ],
        NamedReader::Own,
    );
    let score = score.unwrap();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["id"], 7);
    assert_eq!(lines[0]["answer"], "5");
    assert_eq!(lines[0]["reader"], READER);
    assert!(lines[0].get("correct").is_none(), "an old verdict is no longer true");
    assert_eq!(lines[1]["more"], json!({"x": [1]}));
    let names: Vec<&str> = score.tallies.iter().map(|t| t.benchmark.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let a = &score.tallies[0];
    assert_eq!((a.n, a.golds, a.correct, a.correct_strict, a.no_answer), (2, 1, 1, 0, 0));
    assert_eq!(score.to_string().lines().count(), 3);
    assert!(score.to_string().contains("100.0"));
}

#[test]
fn bad_lines_are_named_and_left_out() {
    let good = r#"{"benchmark":"a","output":"5"}"#;
    for (bad, words) in [
        ("{", "is not a JSON object"),
        ("[1]", "is not a JSON object but a list; give one object a line"),
        (r#"{"benchmark":"a","#, "at column 17; give one whole object a line"),
        (r#"{"benchmark":"a","output":"5","choices":[]}"#, "give null for an open question"),
        (r#"{"benchmark":"a","output":"5","choices":["x","y"],"gold":"A) y"}"#, "neither a"),
        (r#"{"benchmark":"a","output":"5","choices":["x.","x"],"gold":"X"}"#, "neither a"),
        (r#"{"benchmark":"bbh","output":"A","gold":"(A)"}"#, "give choices"),
        (r#"{"benchmark":"mmlu","output":"A","gold":"b"}"#, "give choices"),
        (r#"{"benchmark":"mmlu","output":"A","gold":"B) library"}"#, "give choices"),
        (r#"{"benchmark":"gsm8k","output":"5","gold":"five"}"#, "not a number; give the number"),
        (r#"{"benchmark":"gsm8k","output":"3","gold":"3 and a half"}"#, "not a number"),
        (r#"{"output":"5"}"#, r#"key "benchmark": is missing"#),
        (r#"{"benchmark":"a"}"#, r#"key "output": is missing"#),
        (r#"{"benchmark":"a","output":7}"#, r#"key "output": is a number, not a text"#),
        (r#"{"benchmark":"a","output":"5","choices":"AB"}"#, r#"key "choices": is a text"#),
        (r#"{"benchmark":"a","output":"5","choices":["x"]}"#, r#"key "choices": has 1 choices"#),
        (r#"{"benchmark":"a","output":"5","choices":["x",1]}"#, "choice 2 is a number"),
        (r#"{"benchmark":"a","output":"5","choices":["x","y"],"gold":1}"#, "give the letter"),
        (r#"{"benchmark":"a","output":"5","choices":["x","y"],"gold":"C"}"#, "neither a letter"),
        (r#"{"benchmark":"a","output":"5","choices":["B","A"],"gold":"A"}"#, "of one choice and"),
        (r#"{"benchmark":"a","output":"5","gold":[5]}"#, r#"key "gold": is a list"#),
        (r#"{"benchmark":"a","output":"5","gold":" "}"#, r#"key "gold": is empty"#),
    ] {
        let (lines, score) = scored(&[good, bad, good], NamedReader::Own);
        let score = score.unwrap();
        assert_eq!(lines.len(), 2, "{bad}");
        assert_eq!(score.problems.len(), 1, "{bad}");
        let problem = &score.problems[0];
        assert!(problem.contains("in.jsonl, line 2: ") && problem.contains(words), "{problem}");
        let (lines, score) = scored(&[bad], NamedReader::Own);
        assert!(lines.is_empty() && score.unwrap_err().to_string().contains(words));
    }
    let (_, score) = scored(&["", " "], NamedReader::Own);
    assert!(score.unwrap_err().to_string().contains("holds no line"));
}

#[test]
fn bytes_that_are_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    let mut bytes = b"\xef\xbb\xbf{\"benchmark\":\"a\",\"output\":\"5\"}\r\n".to_vec();
    bytes.extend(b"{\"benchmark\":\"\xff\",\"output\":\"5\"}\n");
    fs::write(&input, bytes).unwrap();
    let score = score_file(&input, &output, NamedReader::Own).unwrap();
    assert_eq!(score.tallies[0].n, 1);
    assert!(score.problems[0].contains("line 2: is not UTF-8"));
    let same = score_file(&input, &input, NamedReader::Own).unwrap_err();
    assert!(same.to_string().contains("is the input"));
    let none = score_file(&dir.path().join("none"), &output, NamedReader::Own).unwrap_err();
    assert!(format!("{none:#}").contains("none"));
}

/// What the released matcher does to a score: it loses E, brackets and missing stops, and
/// takes one option for another that is worded alike.
#[test]
fn the_released_matcher() {
    let csqa = r#"{"benchmark":"CSQA","choices":["bank","library","mall","park","store"]"#;
    let piqa =
        r#"{"benchmark":"PIQA","choices":["pour water into a glass","pour water into a jar"]"#;
    let lines = [
        format!(r#"{csqa},"output":"The answer is B) library.","gold":"B"}}"#),
        format!(r#"{csqa},"output":"The answer is (B) library.","gold":"B"}}"#),
        format!(r#"{csqa},"output":"The answer is E) store.","gold":"E"}}"#),
        format!(r#"{piqa},"output":"The answer is B) pour water into a jar.","gold":"A"}}"#),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (out, score) = scored(&lines, "ranaldi2024".parse().unwrap());
    let verdicts: Vec<_> = out.iter().map(|line| line["correct"].as_bool().unwrap()).collect();
    assert_eq!(verdicts, [true, false, false, true]);
    assert_eq!(out[0]["answer"], "B) library");
    assert_eq!(out[2]["answer"], Value::Null);
    assert_eq!(out[0]["reader"], "ranaldi2024");
    assert_eq!(score.unwrap().tallies[0].no_answer, 2);
    let (out, _) = scored(&lines, READER.to_string().parse().unwrap());
    let verdicts: Vec<_> = out.iter().map(|line| line["correct"].as_bool().unwrap()).collect();
    assert_eq!(verdicts, [true, true, true, false]);
    assert!("1".parse::<NamedReader>().is_err(), "a reader of the past");
}

#[test]
fn golds_of_open_questions() {
    let gold = |benchmark: &str, gold: Value| {
        let line = json!({"benchmark": benchmark, "output": "", "gold": gold}).to_string();
        Line::parse(line.as_bytes()).unwrap().gold.unwrap()
    };
    let number = |text: &str| Gold::Number(text.into());
    for (benchmark, written, expected) in [
        ("gsm8k", json!("5 apples"), number("5")),
        ("gsm8k", json!("$18/hour"), number("18")),
        ("gsm8k", json!("So 20.\n#### 1,020 dollars"), number("1020")),
        ("gsm8k", json!("1/2 cup"), number("0.5")),
        ("gsm8k", json!("5cm"), number("5")),
        ("gsm8k", json!("$5$"), number("5")),
        ("gsm8k", json!(1e22), number("10000000000000000000000")),
        ("mine", json!("5 apples"), number("5")),
        ("mine", json!("2 Chainz"), Gold::Text("2 Chainz".into())),
        ("mine", json!("5 million"), Gold::Text("5 million".into())),
        ("mine", json!("E. coli"), Gold::Text("E. coli".into())),
        ("bbh", json!("5 apples"), Gold::Text("5 apples".into())),
        ("math500", json!("$5$"), Gold::Math("5".into())),
        ("math", json!(r"\(5\)"), Gold::Math("5".into())),
        ("math", json!(r"$$x+1$$."), Gold::Math("x+1".into())),
        ("math", json!(r"\[\$5\]"), Gold::Math(r"\$5".into())),
        ("math", json!("$a$ and $b$"), Gold::Math("$a$ and $b$".into())),
        ("math", json!("(A)"), Gold::Math("(A)".into())),
    ] {
        assert_eq!(gold(benchmark, written.clone()), expected, "{benchmark}, {written}");
    }
}

#[test]
fn golds_of_choices() {
    for (choices, golds) in [
        (json!(["foo", "bar"]), &["b", "B:", "B) bar", "(B) bar", "B. bar", "Bar", "bar."][..]),
        (json!(["A)6", "B)5"]), &["B)5", "5", "(b) 5"]),
        (json!(["6", "5"]), &["B)5", "B"]),
        (json!(["E. coli", "U. S. Army"]), &["U. S. Army", "B) U. S. Army"]),
    ] {
        for gold in golds {
            let line = json!({"benchmark": "x", "choices": choices, "output": "", "gold": gold});
            let line = Line::parse(line.to_string().as_bytes()).unwrap();
            assert_eq!(line.gold, Some(Gold::Choice(1)), "{gold}");
        }
    }
}

/// A failed generation, left out, made 100 % of one right answer in two.
#[test]
fn no_output_is_no_answer() {
    let lines = [
        r#"{"benchmark":"gsm8k","output":null,"gold":"5"}"#,
        r#"{"benchmark":"gsm8k","output":"5","gold":"5"}"#,
    ];
    for reader in [NamedReader::Own, NamedReader::Ranaldi2024] {
        let (out, score) = scored(&lines, reader);
        assert_eq!((&out[0]["output"], &out[0]["answer"]), (&Value::Null, &Value::Null));
        assert_eq!(out[0]["correct"], false);
        assert_eq!(score.unwrap().tallies[0].n, 2);
    }
}

/// `--out /dev/null`, as root, put a file in the place of the device.
#[test]
fn devices_are_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("in"), r#"{"benchmark":"a","output":"5"}"#).unwrap();
    fs::write(path("file"), "old").unwrap();
    // Links, so that a rename would not reach the machine's own devices.
    for (name, target) in [("null", Path::new("/dev/null")), ("link", &path("file"))] {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
        score_file(&path("in"), &path(name), NamedReader::Own).unwrap();
        assert!(path(name).is_symlink(), "{name}");
    }
    assert!(fs::read_to_string(path("file")).unwrap().contains(r#""answer":"5""#));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "no part is left");
}

#[test]
fn files_that_cannot_be_scored() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("in"), r#"{"benchmark":"a","output":"5"}"#).unwrap();
    fs::write(path("in.gz"), b"\x1f\x8b\x08\x00").unwrap();
    for (input, output, words) in [
        ("none", "out", "no such file"),
        (".", "out", "is a folder; give a file"),
        ("in.gz", "out", "is compressed; unpack it first, with gunzip"),
        ("in", ".", "is a folder; give the name"),
        ("in", "none/out", "make it first"),
    ] {
        let error = score_file(&path(input), &path(output), NamedReader::Own).unwrap_err();
        assert!(error.to_string().contains(words), "{error:#}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}
