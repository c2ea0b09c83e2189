//! The six benchmarks in the layout their publishers give them.
//!
//! Rows load into the same [`Question`] as those of the pocket world and of the hub. Where two
//! layouts are published (PIQA and SIQA, labels beside or inside the rows) either is read.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::question::{Benchmark, Gold, Question, letter};
use super::reader::number;

/// The splits the publishers made; P1 (Table 13) trains on the first and tests on one of the
/// other two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NativeSplit {
    Train,
    Validation,
    Test,
}

impl fmt::Display for NativeSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NativeSplit::Train => "train",
            NativeSplit::Validation => "validation",
            NativeSplit::Test => "test",
        })
    }
}

/// Loads one split of a benchmark from the folder that holds its published files.
///
/// Splits whose gold is withheld are an error that says which one to use instead.
/// MultiArith has no published splits: the first 420 rows train and the other 180 test, as in
/// P1 (Table 13); of a file with other than 600 rows the first 70 % train.
pub fn load(benchmark: Benchmark, dir: &Path, split: NativeSplit) -> Result<Vec<Question>> {
    use Benchmark::*;
    use NativeSplit::*;
    let file = |name: &str| dir.join(name);
    match (benchmark, split) {
        (Obqa, Train) => nested(benchmark, &file("train.jsonl")),
        (Obqa, Validation) => nested(benchmark, &file("dev.jsonl")),
        (Obqa, Test) => nested(benchmark, &file("test.jsonl")),
        (Csqa, Train) => nested(benchmark, &file("train_rand_split.jsonl")),
        (Csqa, Validation) => nested(benchmark, &file("dev_rand_split.jsonl")),
        (Piqa, Train) => piqa(&file("train.jsonl"), &file("train-labels.lst")),
        (Piqa, Validation) => piqa(&file("dev.jsonl"), &file("dev-labels.lst")),
        (Siqa, Train) => {
            siqa(&file("socialIQa_v1.4_trn.jsonl"), &file("train.jsonl"), &file("train-labels.lst"))
        }
        (Siqa, Validation) => {
            siqa(&file("socialIQa_v1.4_dev.jsonl"), &file("dev.jsonl"), &file("dev-labels.lst"))
        }
        // The v1.4 release labels a test split, the leaderboard's `test.jsonl` is another one.
        (Siqa, Test) if file("socialIQa_v1.4_tst.jsonl").exists() => {
            siqa_lettered(&file("socialIQa_v1.4_tst.jsonl"))
        }
        (Csqa | Piqa | Siqa, Test) => bail!(
            "{benchmark} test: the publishers withhold the answers of this split; use validation"
        ),
        (Gsm8k, Train) => gsm8k(&file("train.jsonl")),
        (Gsm8k, Test) => gsm8k(&file("test.jsonl")),
        (MultiArith, Train | Test) => multiarith(&file("MultiArith.json"), split),
        (Gsm8k | MultiArith, Validation) => {
            bail!("{benchmark} validation: this benchmark has no such split; use test")
        }
    }
}

/// OBQA and CSQA: `question.stem`, `question.choices[].label/.text`, `answerKey`.
fn nested(benchmark: Benchmark, path: &Path) -> Result<Vec<Question>> {
    rows(path)?
        .iter()
        .map(|row| {
            let stem = row.text("question.stem")?;
            let key = row.text("answerKey").with_context(
                || "the gold is withheld in some published files; use train or validation",
            )?;
            let choices = row.list("question.choices")?;
            let mut labels = Vec::with_capacity(choices.len());
            let mut options = Vec::with_capacity(choices.len());
            for choice in choices {
                let part = |name: &str| {
                    choice
                        .get(name)
                        .and_then(Value::as_str)
                        .map(|s| s.trim().to_owned())
                        .ok_or_else(|| {
                            row.error(&format!("question.choices[].{name}"), "is not a text")
                        })
                };
                labels.push(part("label")?);
                options.push(part("text")?);
            }
            let gold = labels.iter().position(|label| *label == key).ok_or_else(|| {
                row.error("answerKey", &format!("is {key:?}, not one of {}", labels.join(", ")))
            })?;
            Ok(Question { id: row.id(), benchmark, stem, options, gold: Gold::Choice(gold) })
        })
        .collect()
}

/// PIQA: the label 0 or 1 in a file beside the rows or, in re-published files, in the row.
fn piqa(path: &Path, beside: &Path) -> Result<Vec<Question>> {
    let rows = rows(path)?;
    let labels = beside.exists().then(|| labels(beside, path, rows.len(), 0..=1)).transpose()?;
    rows.iter()
        .enumerate()
        .map(|(i, row)| {
            let gold = match &labels {
                Some(labels) => labels[i],
                None => {
                    let label = row.get("label").with_context(|| {
                        format!("labels are looked for in {}, too: put it there", beside.display())
                    })?;
                    match label.as_u64() {
                        Some(label @ 0..=1) => label as usize,
                        _ => return Err(row.error("label", &format!("is {label}, not 0 or 1"))),
                    }
                }
            };
            Ok(Question {
                id: row.id(),
                benchmark: Benchmark::Piqa,
                stem: row.text("goal")?,
                options: vec![row.text("sol1")?, row.text("sol2")?],
                gold: Gold::Choice(gold),
            })
        })
        .collect()
}

/// SIQA in the v1.4 layout where that file is there, else with labels beside the rows.
fn siqa(lettered: &Path, plain: &Path, beside: &Path) -> Result<Vec<Question>> {
    if lettered.exists() || !plain.exists() {
        return siqa_lettered(lettered);
    }
    let rows = rows(plain)?;
    let labels = labels(beside, plain, rows.len(), 1..=3)?;
    rows.iter().zip(labels).map(|(row, label)| siqa_row(row, label - 1)).collect()
}

fn siqa_lettered(path: &Path) -> Result<Vec<Question>> {
    rows(path)?
        .iter()
        .map(|row| {
            let label = row.text("correct")?;
            let gold = (0..3)
                .find(|&i| label == letter(i).to_string())
                .ok_or_else(|| row.error("correct", &format!("is {label:?}, not A, B or C")))?;
            siqa_row(row, gold)
        })
        .collect()
}

fn siqa_row(row: &Row, gold: usize) -> Result<Question> {
    Ok(Question {
        id: row.id(),
        benchmark: Benchmark::Siqa,
        stem: format!("{} {}", row.text("context")?, row.text("question")?),
        options: vec![row.text("answerA")?, row.text("answerB")?, row.text("answerC")?],
        gold: Gold::Choice(gold),
    })
}

/// GSM8K: the gold stands behind `####` at the end of the worked solution.
fn gsm8k(path: &Path) -> Result<Vec<Question>> {
    rows(path)?
        .iter()
        .map(|row| {
            let answer = row.text("answer")?;
            let gold = answer
                .rsplit_once("####")
                .and_then(|(_, gold)| number::exact(gold))
                .ok_or_else(|| row.error("answer", "does not end in `#### ` and a number"))?;
            Ok(Question {
                id: row.id(),
                benchmark: Benchmark::Gsm8k,
                stem: row.text("question")?,
                options: Vec::new(),
                gold: Gold::Number(gold),
            })
        })
        .collect()
}

/// MultiArith: one JSON array without splits.
fn multiarith(path: &Path, split: NativeSplit) -> Result<Vec<Question>> {
    let text = read(path)?;
    let values: Vec<Value> = serde_json::from_str(&text).with_context(|| {
        format!("{}: not a JSON array of rows; fetch the file again", path.display())
    })?;
    ensure!(!values.is_empty(), "{}: no rows; fetch the file again", path.display());
    // 420 of 600, with the rounding of whole rows.
    let train = values.len() * 7 / 10;
    let part = match split {
        NativeSplit::Train => 0..train,
        _ => train..values.len(),
    };
    let rows = values.into_iter().enumerate();
    let rows = rows.map(|(i, value)| Row { path: path.to_owned(), number: i + 1, value });
    rows.skip(part.start)
        .take(part.len())
        .map(|row| {
            let solutions = row.list("lSolutions")?;
            let gold = match solutions {
                [Value::Number(one)] => number::exact(&one.to_string()),
                _ => None,
            };
            let gold =
                gold.ok_or_else(|| row.error("lSolutions", "is not a list of one number"))?;
            Ok(Question {
                id: match row.value.get("iIndex").and_then(Value::as_i64) {
                    Some(index) => index.to_string(),
                    None => row.id(),
                },
                benchmark: Benchmark::MultiArith,
                stem: row.text("sQuestion")?,
                options: Vec::new(),
                gold: Gold::Number(gold),
            })
        })
        .collect()
}

/// One row, with what an error has to name.
struct Row {
    path: PathBuf,
    /// Counted from one; in JSON lines the line.
    number: usize,
    value: Value,
}

impl Row {
    fn error(&self, key: &str, what: &str) -> anyhow::Error {
        anyhow!(
            "{} row {}: {key} {what}; correct the row or fetch the file again",
            self.path.display(),
            self.number
        )
    }

    /// The value under a dotted key.
    fn get(&self, key: &str) -> Result<&Value> {
        key.split('.')
            .try_fold(&self.value, |value, part| value.get(part))
            .ok_or_else(|| self.error(key, "is missing"))
    }

    /// A text without the blanks some files pad it with; an empty one is an error.
    fn text(&self, key: &str) -> Result<String> {
        let text = self.get(key)?.as_str().ok_or_else(|| self.error(key, "is not a text"))?.trim();
        ensure!(!text.is_empty(), self.error(key, "is empty"));
        Ok(text.to_owned())
    }

    fn list(&self, key: &str) -> Result<&[Value]> {
        let list = self.get(key)?.as_array().ok_or_else(|| self.error(key, "is not a list"))?;
        Ok(list)
    }

    /// The publisher's id or, where there is none, file and row.
    fn id(&self) -> String {
        match self.value.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => {
                let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
                format!("{stem}-{}", self.number)
            }
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| {
        format!("{}: cannot read it; put the published file there", path.display())
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&b| b == b'\n').count() + 1;
        anyhow!("{} row {line}: not UTF-8; convert the file or fetch it again", path.display())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end();
    ensure!(!text.is_empty(), "{}: the file is empty; fetch it again", path.display());
    Ok(text.to_owned())
}

/// The rows of a file of JSON lines.
fn rows(path: &Path) -> Result<Vec<Row>> {
    read(path)?
        .lines()
        .enumerate()
        .map(|(i, line)| {
            let value = serde_json::from_str(line).with_context(|| {
                let number = i + 1;
                format!("{} row {number}: broken JSON; fetch the file again", path.display())
            })?;
            Ok(Row { path: path.to_owned(), number: i + 1, value })
        })
        .collect()
}

/// A label file: one integer per line, line by line with the rows.
fn labels(
    path: &Path,
    of: &Path,
    rows: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Vec<usize>> {
    let text = read(path)?;
    let lines = text.lines().count();
    // Labels of another release pair with the wrong rows without any other sign of it.
    ensure!(
        lines == rows,
        "{}: {lines} labels for the {rows} rows of {}; take both files from one release",
        path.display(),
        of.display()
    );
    text.lines()
        .enumerate()
        .map(|(i, line)| {
            line.trim().parse().ok().filter(|label| range.contains(label)).ok_or_else(|| {
                anyhow!(
                    "{} row {}: label {:?} is not one of {} to {}; fetch the file again",
                    path.display(),
                    i + 1,
                    line.trim(),
                    range.start(),
                    range.end()
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
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
            &["row 1", "answerKey is missing", "use train or validation"],
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
        says(&error(MultiArith, Test, &[("MultiArith.json", "{}")]), &["not a JSON array"]);
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
        let rows = r#"[{"sQuestion": " q ", "lSolutions": [39.0]}, {"sQuestion": "r", "lSolutions": [2.5]}]"#;
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
            (
                Csqa,
                Validation,
                900,
                "a7ab086045575bb497933726e4e6ad28",
                "What do people",
                choice(0),
            ),
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
}
