//! One row of a benchmark as a question, from the columns its publishers or the hub give it.
//!
//! Native and hub columns are told apart row by row, by the names that occur. Stems and options
//! are kept as published, blanks included.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::question::{Benchmark, Gold, letter};
use super::reader::number;
use super::rows::{Row, labels_of};

/// A question before it has its place in a split.
#[derive(Debug, Clone)]
pub struct Record {
    pub path: PathBuf,
    pub row: usize,
    /// The publisher's id.
    pub id: Option<String>,
    /// MMLU's and MATH's subject, BBH's task.
    pub subject: Option<String>,
    pub stem: String,
    pub options: Vec<String>,
    pub label: Label,
}

/// The gold, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    Known(Gold),
    /// The publishers keep it to themselves: `answerKey is empty`, `label is -1`, ….
    Withheld(String),
}

/// Reads a row.
pub fn record(benchmark: Benchmark, row: &Row) -> Result<Record> {
    let parts = if row.has("flan_question") {
        flan(benchmark, row)?
    } else {
        match benchmark {
            Benchmark::Obqa | Benchmark::Csqa => lettered(row)?,
            Benchmark::Piqa => piqa(row)?,
            Benchmark::Siqa => siqa(row)?,
            Benchmark::Gsm8k => gsm8k(row)?,
            Benchmark::MultiArith => multiarith(row)?,
            Benchmark::Math => math(row)?,
            Benchmark::Mmlu => mmlu(row)?,
            Benchmark::Bbh => bbh(row)?,
            Benchmark::Aqua => aqua(row)?,
            Benchmark::Ecqa => ecqa(row)?,
        }
    };
    Ok(Record {
        path: row.path.clone(),
        row: row.number,
        id: id(benchmark, row),
        subject: subject(benchmark, row),
        stem: parts.0,
        options: parts.1,
        label: parts.2,
    })
}

/// The columns that a benchmark is read from, of whatever layout.
pub fn columns(benchmark: Benchmark) -> &'static [&'static str] {
    match benchmark {
        Benchmark::Obqa | Benchmark::Csqa => {
            &["id", "question", "question_stem", "choices", "answerKey"]
        }
        Benchmark::Piqa => &["id", "goal", "sol1", "sol2", "label"],
        Benchmark::Siqa => {
            &["id", "context", "question", "answerA", "answerB", "answerC", "label", "correct"]
        }
        Benchmark::Gsm8k => &["id", "question", "answer"],
        Benchmark::MultiArith => &["iIndex", "sQuestion", "lSolutions", "question", "final_ans"],
        Benchmark::Math => &["unique_id", "problem", "solution", "answer", "subject", "type"],
        Benchmark::Mmlu => &["id", "question", "choices", "answer", "subject", "A", "B", "C", "D"],
        Benchmark::Bbh => &["id", "input", "target"],
        Benchmark::Aqua => &["id", "question", "options", "correct", "flan_question", "flan_gold"],
        Benchmark::Ecqa => &[
            "q_no",
            "q_text",
            "q_op1",
            "q_op2",
            "q_op3",
            "q_op4",
            "q_op5",
            "q_ans",
            "flan_question",
            "flan_gold",
        ],
    }
}

type Parts = (String, Vec<String>, Label);

fn known(gold: usize) -> Label {
    Label::Known(Gold::Choice(gold))
}

/// OBQA and CSQA. Native: `question.stem`, `question.choices[].label/.text`, `answerKey`; hub:
/// `question` or `question_stem`, `choices` as one list of labels and one of texts, in
/// either order. The key is missing (native) or empty (hub) where the answer is withheld.
fn lettered(row: &Row) -> Result<Parts> {
    let nested = row.find("question").is_some_and(Value::is_object);
    let (stem, labels, options) = if nested {
        let (mut labels, mut options) = (Vec::new(), Vec::new());
        for choice in row.list("question.choices")? {
            let part = |name: &str| {
                choice.get(name).and_then(Value::as_str).ok_or_else(|| {
                    row.error(&format!("question.choices[].{name}"), "is not a text")
                })
            };
            labels.push(part("label")?.trim().to_owned());
            options.push(part("text")?.to_owned());
        }
        (row.raw("question.stem")?, labels, options)
    } else {
        let stem = if row.has("question_stem") { "question_stem" } else { "question" };
        (row.raw(stem)?, row.texts("choices.label")?, row.texts("choices.text")?)
    };
    ensure!(
        !options.is_empty() && labels.len() == options.len(),
        row.error("choices", &format!("has {} labels for {} texts", labels.len(), options.len()))
    );
    let key = match row.label("answerKey") {
        None if row.has("answerKey") => return Err(row.error("answerKey", "is not a text")),
        None => return Ok((stem, options, Label::Withheld("answerKey is missing".into()))),
        Some(key) if key.is_empty() => {
            return Ok((stem, options, Label::Withheld("answerKey is empty".into())));
        }
        Some(key) => key,
    };
    let gold = labels.iter().position(|label| label.trim() == key).ok_or_else(|| {
        row.error("answerKey", &format!("is {key:?}, not one of {}", labels.join(", ")))
    })?;
    Ok((stem, options, known(gold)))
}

/// PIQA: `label` 0 or 1, in the row or joined from the file beside it; -1 where withheld.
fn piqa(row: &Row) -> Result<Parts> {
    let label = match row.label("label").as_deref() {
        Some("0") => known(0),
        Some("1") => known(1),
        Some("-1") => Label::Withheld("label is -1".into()),
        None if !row.has("label") => no_label(row, "label"),
        _ => {
            let found = row.get("label")?;
            return Err(row.error("label", &format!("is {found}, not 0 or 1")));
        }
    };
    Ok((row.raw("goal")?, vec![row.raw("sol1")?, row.raw("sol2")?], label))
}

/// SIQA: `label` "1", "2" or "3" (hub, or joined from the file beside it), or `correct` A, B
/// or C (release v1.4).
fn siqa(row: &Row) -> Result<Parts> {
    let label = if row.has("correct") {
        let found = row.text("correct")?;
        let gold = (0..3).find(|&i| found == letter(i).to_string());
        known(gold.ok_or_else(|| row.error("correct", &format!("is {found:?}, not A, B or C")))?)
    } else {
        match row.label("label").as_deref() {
            Some("1") => known(0),
            Some("2") => known(1),
            Some("3") => known(2),
            Some("") | Some("-1") => Label::Withheld("label is empty".into()),
            None if !row.has("label") => no_label(row, "label"),
            _ => {
                let found = row.get("label")?;
                return Err(row.error("label", &format!("is {found}, not 1, 2 or 3")));
            }
        }
    };
    let stem = format!("{} {}", row.raw("context")?, row.raw("question")?);
    Ok((stem, vec![row.raw("answerA")?, row.raw("answerB")?, row.raw("answerC")?], label))
}

fn no_label(row: &Row, key: &str) -> Label {
    let beside = labels_of(&row.path);
    Label::Withheld(match row.path.extension().is_some_and(|ending| ending == "jsonl") {
        true => format!("{key} is missing, and there is no {}", beside.display()),
        false => format!("{key} is missing"),
    })
}

/// GSM8K: the gold stands behind `####` at the end of the worked solution.
fn gsm8k(row: &Row) -> Result<Parts> {
    let answer = row.text("answer")?;
    let gold = answer
        .rsplit_once("####")
        .and_then(|(_, gold)| number::exact(gold))
        .ok_or_else(|| row.error("answer", "does not end in `#### ` and a number"))?;
    Ok((row.text("question")?, Vec::new(), Label::Known(Gold::Number(gold))))
}

/// MultiArith. Native: `sQuestion`, `lSolutions` with one number; hub: `question`, `final_ans`.
fn multiarith(row: &Row) -> Result<Parts> {
    let (stem, gold) = if row.has("final_ans") {
        let gold = row.label("final_ans").and_then(|gold| number::exact(&gold));
        let gold = gold.ok_or_else(|| row.error("final_ans", "is not a number"))?;
        (row.text("question")?, gold)
    } else {
        let gold = match row.list("lSolutions")? {
            [Value::Number(one)] => number::exact(&one.to_string()),
            _ => None,
        };
        let gold = gold.ok_or_else(|| row.error("lSolutions", "is not a list of one number"))?;
        (row.text("sQuestion")?, gold)
    };
    Ok((stem, Vec::new(), Label::Known(Gold::Number(gold))))
}

/// MATH: `problem` and the last box of `solution`. MATH-500 has the `answer` as well, which
/// counts only where the solution has no box.
fn math(row: &Row) -> Result<Parts> {
    let solution = row.raw("solution")?;
    let gold = match last_boxed(&solution) {
        Some(gold) => gold.to_owned(),
        None if row.has("answer") => row.text("answer")?,
        None => return Err(row.error("solution", r"has no complete \boxed{…}")),
    };
    Ok((row.raw("problem")?, Vec::new(), Label::Known(Gold::Math(gold))))
}

/// What the last `\boxed` of a text holds: up to the brace that closes it, or in the form
/// `\boxed 7` the next word. None where it is empty or not closed.
pub fn last_boxed(text: &str) -> Option<&str> {
    const BOX: &str = r"\boxed";
    let rest = text[text.rfind(BOX)? + BOX.len()..].trim_start();
    let Some(inside) = rest.strip_prefix('{') else {
        let end = rest.find(|c: char| c.is_whitespace() || c == '$').unwrap_or(rest.len());
        let word = rest[..end].trim_end_matches(['.', ',']);
        return (!word.is_empty()).then_some(word);
    };
    let (mut depth, mut escaped) = (1, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let inside = inside[..at].trim();
            return (!inside.is_empty()).then_some(inside);
        }
    }
    None
}

/// MMLU. Native, without a header: `question`, `A` to `D`, a letter; hub: `choices` as a list
/// and `answer` as 0 to 3.
fn mmlu(row: &Row) -> Result<Parts> {
    let options = match row.has("choices") {
        true => row.texts("choices")?,
        false => ["A", "B", "C", "D"].map(|key| row.raw(key)).into_iter().collect::<Result<_>>()?,
    };
    ensure!(
        options.len() == 4,
        row.error("choices", &format!("has {} options, not 4", options.len()))
    );
    let label = row.label("answer").ok_or_else(|| row.error("answer", "is missing"))?;
    let gold = (0..4).find(|&i| label == letter(i).to_string() || label == i.to_string());
    let gold =
        gold.ok_or_else(|| row.error("answer", &format!("is {label:?}, not A to D or 0 to 3")))?;
    Ok((row.raw("question")?, options, known(gold)))
}

/// BBH: `input` and `target`.
///
/// Where the input ends in options with letters they become the question's options, up to
/// (R) in one of the tasks, and the block is cut from the stem: a reader then knows which letters
/// there are. Three targets of the full set are the text of an option instead of its letter.
/// All other targets (`True`, `valid`, a list of words, …) are texts, and the input stays whole.
fn bbh(row: &Row) -> Result<Parts> {
    let input = row.raw("input")?;
    let target = match row.find("target") {
        Some(Value::Bool(true)) => "True".to_owned(),
        Some(Value::Bool(false)) => "False".to_owned(),
        _ => row.label("target").ok_or_else(|| row.error("target", "is missing"))?,
    };
    ensure!(!target.is_empty(), row.error("target", "is empty"));
    if let Some((stem, options)) = lettered_block(&input) {
        if let Some(at) = bracketed(&target) {
            ensure!(
                at < options.len(),
                row.error(
                    "target",
                    &format!("is {target}, but there are {} options", options.len())
                )
            );
            return Ok((stem.to_owned(), options, known(at)));
        }
        if let Some(at) = position(&options, &target) {
            return Ok((stem.to_owned(), options, known(at)));
        }
    } else {
        ensure!(
            bracketed(&target).is_none(),
            row.error("target", &format!("is {target}, but input has no such option"))
        );
    }
    Ok((input, Vec::new(), Label::Known(Gold::Text(target))))
}

/// Stem and options of a text that ends in `Options:` and lines `(A) …`, `(B) …`, ….
fn lettered_block(text: &str) -> Option<(&str, Vec<String>)> {
    let (stem, block) = text.rsplit_once("Options:")?;
    let option = |(i, line): (usize, &str)| {
        let option = line.strip_prefix(&format!("({}) ", letter(i)))?.trim();
        (!option.is_empty()).then(|| option.to_owned())
    };
    let options = block.trim().lines().enumerate().take(26).map(option);
    let options = options.collect::<Option<Vec<_>>>()?;
    (options.len() >= 2).then(|| (stem.trim_end(), options))
}

/// `(C)` is 2.
fn bracketed(text: &str) -> Option<usize> {
    match text.trim().as_bytes() {
        [b'(', letter @ b'A'..=b'Z', b')'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

/// The first option that equals a text; blanks and case count only if that leaves none.
fn position(options: &[String], text: &str) -> Option<usize> {
    options.iter().position(|option| option == text).or_else(|| {
        let text = text.trim().to_lowercase();
        options.iter().position(|option| option.trim().to_lowercase() == text)
    })
}

/// AQuA: options that carry their letters, `A)21`, and the letter of the right one.
fn aqua(row: &Row) -> Result<Parts> {
    let (mut labels, mut options) = (Vec::new(), Vec::new());
    for (i, option) in row.texts("options")?.into_iter().enumerate() {
        let (label, text) = match option.split_once(')') {
            Some((label, text)) if matches!(label.as_bytes(), [b'A'..=b'E']) => {
                (label.to_owned(), text.to_owned())
            }
            _ => (letter(i).to_string(), option),
        };
        labels.push(label);
        options.push(text);
    }
    let key = row.text("correct")?;
    let gold = labels.iter().position(|label| *label == key).ok_or_else(|| {
        row.error("correct", &format!("is {key:?}, not one of {}", labels.join(", ")))
    })?;
    Ok((row.raw("question")?, options, known(gold)))
}

/// ECQA: the gold is the text of an option; two options may be equal, the first one counts.
fn ecqa(row: &Row) -> Result<Parts> {
    let options: Vec<String> =
        (1..=5).map(|n| row.raw(&format!("q_op{n}"))).collect::<Result<_>>()?;
    let gold = row.raw("q_ans")?;
    let gold = position(&options, &gold).ok_or_else(|| {
        row.error("q_ans", &format!("is {gold:?}, none of the options {}", options.join(", ")))
    })?;
    Ok((row.raw("q_text")?, options, known(gold)))
}

/// Train questions of AQuA and ECQA as the FLAN collection re-formats them: a block of
/// options below the question, lettered (AQuA) or not and shuffled (ECQA).
fn flan(benchmark: Benchmark, row: &Row) -> Result<Parts> {
    let text = row.raw("flan_question")?;
    let gold = row.text("flan_gold")?;
    let (stem, options, at) = if benchmark == Benchmark::Aqua {
        let block = lettered_block(&text);
        let (stem, options) = block.ok_or_else(|| row.error("question", "has no options"))?;
        let at = bracketed(&gold).filter(|&at| at < options.len());
        (stem, options, at)
    } else {
        let block = text.rsplit_once("\nOptions:\n");
        let (stem, block) = block.ok_or_else(|| row.error("question", "has no options"))?;
        let options: Vec<String> =
            block.lines().map(|line| line.trim_start_matches("- ").to_owned()).collect();
        let at = position(&options, &gold);
        (stem, options, at)
    };
    let at = at.ok_or_else(|| row.error("gold", &format!("is {gold:?}, none of the options")))?;
    Ok((stem.to_owned(), options, known(at)))
}

fn id(benchmark: Benchmark, row: &Row) -> Option<String> {
    let key = match benchmark {
        Benchmark::MultiArith => "iIndex",
        Benchmark::Math => "unique_id",
        Benchmark::Ecqa => "q_no",
        _ => "id",
    };
    row.label(key).filter(|id| !id.is_empty())
}

/// From a column where there is one, else from the path: `anatomy_test.csv`,
/// `word_sorting.json`, `algebra/test-00000-of-00001.parquet`, `snarks/test/0000.parquet`.
fn subject(benchmark: Benchmark, row: &Row) -> Option<String> {
    let key = match benchmark {
        Benchmark::Mmlu | Benchmark::Math if row.has("subject") => "subject",
        Benchmark::Math => "type",
        Benchmark::Mmlu | Benchmark::Bbh => "",
        _ => return None,
    };
    if let Some(name) = row.label(key).filter(|name| !name.is_empty()) {
        return Some(name.to_lowercase().replace([' ', '&'], "_").replace("___", "_and_"));
    }
    let folder = |path: &Path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned());
    let stem = row.stem();
    if row.path.extension().is_some_and(|ending| ending == "parquet") {
        let split = ["train", "validation", "test", "dev"];
        return match folder(&row.path) {
            Some(name) if split.contains(&name.as_str()) => folder(row.path.parent()?),
            other => other,
        };
    }
    let bare = ["_dev", "_val", "_test"].iter().find_map(|end| stem.strip_suffix(end));
    Some(bare.unwrap_or(&stem).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_counts() {
        for (text, inside) in [
            (r"so $\boxed{\frac{3}{4}}$.", Some(r"\frac{3}{4}")),
            (r"\boxed{1} and then \boxed{2}", Some("2")),
            (r"it is $\boxed 7$, of course", Some("7")),
            (r"it is \boxed {7}.", Some("7")),
            (r"\boxed{\left\{1,2\right.}", Some(r"\left\{1,2\right.")),
            (r"\boxed{ 3 \text{ cm} }", Some(r"3 \text{ cm}")),
            (r"cut off: \boxed{12", None),
            (r"\boxed{}", None),
            (r"ends in \boxed", None),
            ("no box", None),
        ] {
            assert_eq!(last_boxed(text), inside, "{text}");
        }
    }

    #[test]
    fn options_are_cut_from_the_stem() {
        let text = "Which?\nOptions:\n(A) red\n(B) blue";
        assert_eq!(lettered_block(text), Some(("Which?", vec!["red".into(), "blue".into()])));
        for text in
            ["Which?\nOptions:\n- Yes\n- No", "Which?\nOptions:\n(A) red", "Options:\n(A) x\n(C) y"]
        {
            assert_eq!(lettered_block(text), None, "{text}");
        }
    }
}
