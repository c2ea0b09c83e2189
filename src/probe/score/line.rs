//! One line of a file of generations.
//!
//! | field | value |
//! | --- | --- |
//! | `benchmark` | a name; lines are summed by it. Any name will do. |
//! | `choices` | the options' texts, in order, or null (as if missing) for an open question. Labels of their own (`A)21`) are taken off if all have them. |
//! | `output` | the generated text; null is a line without an answer, and counts as one |
//! | `gold` | optional. With choices a letter (`B`, `b`, `(B)`), an option's text in any case, or both (`B) library`); a bare number is refused, since it may count from 0 or from 1. Without choices a number, with or without its unit, a formula, or a text; a worked solution counts for what stands behind its `####` or in its last `\boxed{}`. |
//! | `question` | optional: the question's text, which `word_sorting` takes its words from |
//!
//! Without choices the form of the answer is a formula if the benchmark's name has `math` in it
//! or the gold is in LaTeX, a number if the gold is one, and a text otherwise. Without a gold
//! the name decides: `math`, then `bbh` for texts, all others for numbers.
//!
//! A gold that no answer could equal is refused, since it would pass for a wrong answer: a
//! letter without choices (but for `math`), and a text where the name is one of word problems.

use std::fmt;

use serde_json::{Map, Value};

use crate::task::reader::{Form, Shape, last_box, plain_number};
use crate::task::{Gold, letter};

/// Letters there are for options.
const MOST_CHOICES: usize = 26;

/// A line that is whole.
#[derive(Debug)]
pub struct Line {
    /// All fields, also those that say nothing here.
    pub fields: Map<String, Value>,
    pub benchmark: String,
    /// Empty for an open question.
    pub options: Vec<String>,
    pub gold: Option<Gold>,
    pub output: String,
    pub question: String,
}

/// What is wrong with a line.
#[derive(Debug)]
pub struct Problem {
    key: Option<&'static str>,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "key {key:?}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

fn wrong(key: &'static str, what: impl Into<String>) -> Problem {
    Problem { key: Some(key), what: what.into() }
}

impl Line {
    pub fn parse(bytes: &[u8]) -> Result<Line, Problem> {
        let not = |what: String| Problem { key: None, what };
        let text = std::str::from_utf8(bytes).map_err(|e| not(format!("is not UTF-8: {e}")))?;
        if text.starts_with('[') {
            return Err(not("is not a JSON object but a list; give one object a line".into()));
        }
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|e| {
            // Its line is always the first, which is not that of the file.
            let e = e.to_string().replace(" at line 1 column ", " at column ");
            not(format!("is not a JSON object: {e}; give one whole object a line"))
        })?;
        let text = |key: &'static str| match fields.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(wrong(key, format!("is {}, not a text", kind(other)))),
            None => Err(wrong(key, "is missing")),
        };
        let benchmark = text("benchmark")?;
        let output = match fields.get("output") {
            // A generation that failed; left out, it would raise the score of the others.
            Some(Value::Null) => String::new(),
            _ => text("output")?,
        };
        let question = match fields.get("question") {
            // Some formats nest more than a text there, which is none of our business.
            Some(Value::String(question)) => question.clone(),
            _ => String::new(),
        };
        let options = options(fields.get("choices").unwrap_or(&Value::Null))?;
        let gold = match fields.get("gold").unwrap_or(&Value::Null) {
            Value::Null => None,
            gold if options.is_empty() => Some(open_gold(gold, &benchmark)?),
            gold => Some(Gold::Choice(chosen(gold, &options)?)),
        };
        Ok(Line { benchmark, options, gold, output, question, fields })
    }

    /// The form of answer to look for.
    pub fn form(&self) -> Form<'_> {
        match &self.gold {
            Some(gold) => Form::of(&self.options, gold, &self.question),
            None if !self.options.is_empty() => Form::Choice(&self.options),
            None if is_math(&self.benchmark) => Form::Math,
            None if is_bbh(&self.benchmark) => Form::Text(Shape::Line),
            None => Form::Number,
        }
    }
}

fn is_math(benchmark: &str) -> bool {
    benchmark.to_lowercase().contains("math")
}

fn is_bbh(benchmark: &str) -> bool {
    let name = benchmark.to_lowercase();
    name.starts_with("bbh") || name.contains("big-bench") || name.contains("bigbench")
}

/// Whether the name is one of word problems, whose answers are numbers.
fn is_problems(benchmark: &str) -> bool {
    let name = benchmark.to_lowercase();
    ["gsm", "multiarith", "svamp", "asdiv", "addsub", "singleeq", "mawps"]
        .iter()
        .any(|known| name.contains(known))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn options(value: &Value) -> Result<Vec<String>, Problem> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        other => {
            let what = format!("is {}, not a list of texts or null", kind(other));
            return Err(wrong("choices", what));
        }
    };
    if list.is_empty() {
        return Err(wrong("choices", "is an empty list; give null for an open question"));
    }
    if !(2..=MOST_CHOICES).contains(&list.len()) {
        let what = format!("has {} choices; 2 to {MOST_CHOICES} can be told apart", list.len());
        return Err(wrong("choices", what));
    }
    let texts = list.iter().enumerate().map(|(i, choice)| match choice {
        Value::String(text) => Ok(text.as_str()),
        other => Err(wrong("choices", format!("choice {} is {}, not a text", i + 1, kind(other)))),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let bare: Option<Vec<&str>> =
        texts.iter().enumerate().map(|(i, text)| without_label(i, text)).collect();
    Ok(bare.unwrap_or(texts).into_iter().map(str::to_owned).collect())
}

/// `21` of AQuA's `A)21`.
fn without_label(index: usize, text: &str) -> Option<&str> {
    let text = text.trim_start();
    let rest = text.strip_prefix('(').unwrap_or(text).strip_prefix(letter(index))?;
    rest.strip_prefix(')').or_else(|| rest.strip_prefix(". "))
}

/// The option that a gold names, by letter or by text. Of two equal options the first, as
/// either is right.
fn chosen(gold: &Value, options: &[String]) -> Result<usize, Problem> {
    let Value::String(gold) = gold else {
        let what = match gold {
            Value::Number(n) => {
                format!("is the number {n}, which may count from 0 or from 1; give the letter")
            }
            other => format!("is {}, not a letter or a choice", kind(other)),
        };
        return Err(wrong("gold", what));
    };
    let label = label(gold).filter(|(index, _)| *index < options.len());
    let by_letter = label.filter(|(_, rest)| rest.is_empty()).map(|(index, _)| index);
    let exact = options.iter().position(|option| option.trim() == gold.trim());
    let alike = || {
        let mut alike = (0..options.len()).filter(|i| folded(&options[*i]) == folded(gold));
        let first = alike.next()?;
        let same = |i: usize| options[i].trim().eq_ignore_ascii_case(options[first].trim());
        alike.all(same).then_some(first)
    };
    let by_text = exact.or_else(alike);
    // A letter with the text of its option is no doubt; with another text it is.
    let by_both = label.filter(|(index, rest)| folded(&options[*index]) == folded(rest));
    let by_both = by_both.map(|(index, _)| index);
    let mut named = [by_letter, by_text, by_both].into_iter().flatten();
    match named.next() {
        Some(index) if named.all(|other| other == index) => Ok(index),
        Some(_) if by_letter.is_some() => {
            let what = format!("{gold:?} is the letter of one choice and the text of another");
            Err(wrong("gold", what))
        }
        Some(_) => Err(wrong("gold", format!("{gold:?} names two choices; give the letter"))),
        None => {
            let last = letter(options.len() - 1);
            Err(wrong("gold", format!("is {gold:?}, neither a letter A to {last} nor a choice")))
        }
    }
}

/// A text as options are told apart: without regard to case, blanks and a final stop.
fn folded(text: &str) -> String {
    let text = text.trim().to_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The letter that a gold begins with, as an index, and what follows: `B`, `(B)`, `B) library`,
/// `(B) library`, `B. library`, `B: library`.
fn label(gold: &str) -> Option<(usize, &str)> {
    let gold = gold.trim();
    let open = gold.strip_prefix('(');
    let bare = open.unwrap_or(gold);
    let first = bare.chars().next().filter(char::is_ascii_alphabetic)?;
    let index = usize::from(first.to_ascii_uppercase() as u8 - b'A');
    let rest = &bare[1..];
    if let Some(rest) = rest.strip_prefix(')') {
        return Some((index, rest.trim_start_matches(['.', ':', ' ']).trim_end()));
    }
    if open.is_some() {
        return None;
    }
    let behind = rest.strip_prefix(['.', ':']).unwrap_or(rest);
    // `U.S.` and `Bank` begin with a letter, not with a label.
    let is_label = behind.is_empty() || behind.len() < rest.len() && behind.starts_with(' ');
    is_label.then_some((index, behind.trim()))
}

/// The gold of an open question.
fn open_gold(gold: &Value, benchmark: &str) -> Result<Gold, Problem> {
    let gold = match gold {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => match number.as_f64() {
            // Not `1e22`, which is no number in plain notation.
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        },
        other => {
            return Err(wrong("gold", format!("is {}, not a text or a number", kind(other))));
        }
    };
    if gold.is_empty() {
        return Err(wrong("gold", "is empty; leave it out where there is none"));
    }
    let result = gold.rsplit_once("####").map_or(gold.as_str(), |(_, result)| result).trim();
    if is_math(benchmark) {
        let formula = last_box(&gold).unwrap_or_else(|| result.to_owned());
        return Ok(Gold::Math(without_delimiters(&formula).to_owned()));
    }
    // Not `E. coli`, which is an answer of its own.
    if let Some((_, rest)) = label(&gold)
        && (rest.is_empty() || !gold[1..].starts_with('.'))
    {
        let what = format!("is {gold:?}, a letter, but there are no choices; give choices");
        return Err(wrong("gold", what));
    }
    let problems = is_problems(benchmark);
    if let Some(number) = plain_number(result) {
        return Ok(Gold::Number(number));
    }
    if problems {
        let boxed = last_box(&gold);
        let bare = without_delimiters(boxed.as_deref().unwrap_or(result));
        if let Some(number) = plain_number(bare).or_else(|| before_unit(bare, true)) {
            return Ok(Gold::Number(number));
        }
        if !gold.contains('\\') {
            return Err(wrong("gold", format!("is {gold:?}, not a number; give the number")));
        }
    } else if !is_bbh(benchmark)
        && let Some(number) = before_unit(result, false)
    {
        return Ok(Gold::Number(number));
    }
    Ok(match last_box(&gold) {
        Some(boxed) => Gold::Math(boxed),
        None if gold.contains(['\\', '$']) => Gold::Math(without_delimiters(&gold).to_owned()),
        None => Gold::Text(gold),
    })
}

/// `5` of `$5$` and `\(5\)`; a text that is not one formula stays as it is.
fn without_delimiters(text: &str) -> &str {
    let text = text.trim();
    let sentence = text.strip_suffix('.').unwrap_or(text);
    for (open, close) in [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")] {
        let inside = sentence.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(inside) = inside
            && !inside.trim().is_empty()
            && !inside.ends_with('\\')
            && !inside.replace("\\$", "").contains(open)
        {
            return inside.trim();
        }
    }
    text
}

/// Words that make another number of the one before them, or another kind of answer.
const NO_UNITS: &[&str] = &[
    "and", "or", "to", "out", "plus", "minus", "times", "half", "dozen", "hundred", "thousand",
    "million", "billion", "trillion", "st", "nd", "rd", "th",
];

/// The number of a text that is a number and its unit, such as `5 apples` or `$18/hour`. Unless
/// it is `sure` to be one, the unit stands apart in small letters: `3D`, `2 Chainz` are names.
fn before_unit(text: &str, sure: bool) -> Option<String> {
    let at = text.find(char::is_alphabetic).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let apart = number.ends_with([' ', '/', '°']) && unit.starts_with(char::is_lowercase);
    if !sure && !unit.is_empty() && !apart {
        return None;
    }
    let words: Vec<&str> = unit.split_whitespace().collect();
    let plain = |word: &&str| {
        !NO_UNITS.contains(&word.to_lowercase().trim_end_matches('.'))
            && word.chars().all(|c| c.is_alphabetic() || "/.'-²³".contains(c))
    };
    if words.len() > 3 || !words.iter().all(plain) {
        return None;
    }
    plain_number(number.trim_end_matches([' ', '/', '°', '$', '€', '£', '¢']))
}
