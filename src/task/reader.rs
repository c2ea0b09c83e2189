//! Reading the answer off a generated text.
//!
//! P1 and P2 do not print their extraction rule, and the usual patterns misread common
//! outputs, so the rule is stated here and carries a version, [`READER`]:
//!
//! 1. The text ends where a new question or a template marker begins.
//! 2. The answer stands behind the last trigger (`answer is`, `answer:`, `####`, `\boxed`)
//!    that is neither negated nor a remark such as `this answer is correct`. Behind a negated
//!    trigger an answer is read only after `it is`, `but` or `instead`.
//! 3. Multiple choice: a delimited letter in range, or the text of an option, the longest
//!    whole match first; options that are numbers go by value. Two different answers are none.
//!    Without a trigger only an output that is nothing but a letter or an option, or that names
//!    exactly one option, has an answer.
//! 4. Word problems: the first number behind the trigger (the result, where an equation begins
//!    there), else the last number of the text.
//! 5. No answer is not a wrong answer: it is counted apart.

mod choice;
pub(super) mod number;

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::question::{Gold, Question};

/// Version of the rule. It goes into every result, since a changed rule changes accuracies.
pub const READER: u32 = 1;

/// What a text answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Index into [`Question::options`].
    Choice(usize),
    /// A number in plain decimal notation, as in [`Gold::Number`].
    Number(String),
}

/// Reads the answer; `None` is "no answer". Never panics, whatever the text.
pub fn read(question: &Question, text: &str) -> Option<Answer> {
    let text = clean(cut(text));
    if question.options.is_empty() {
        let text = without_notes(text);
        read_number(&text, &triggers(&text)).map(Answer::Number)
    } else {
        choice::read(&text, &question.options, &triggers(&text)).map(Answer::Choice)
    }
}

/// Whether an answer is the right one. Numbers compare as decimals; an option equal to the
/// gold option is right too, since some questions of CSQA, OBQA and SIQA print one twice.
pub fn is_correct(question: &Question, answer: &Answer) -> bool {
    match (&question.gold, answer) {
        (Gold::Choice(gold), Answer::Choice(read)) => {
            gold == read
                || match (question.options.get(*gold), question.options.get(*read)) {
                    (Some(gold), Some(read)) => gold.trim().eq_ignore_ascii_case(read.trim()),
                    _ => false,
                }
        }
        (Gold::Number(gold), Answer::Number(read)) => {
            let gold = number::exact(gold);
            gold.is_some() && gold == number::exact(read)
        }
        _ => false,
    }
}

/// Tokens of chat templates that may stand before the output proper.
static LEAD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^\s*(?:<\|[^|>\n]{0,40}\|>|</?s>|\[/?INST\]|<pad>|<start_of_turn>(?:model)?|",
        r"#{2,3}\s*Response:?)"
    ))
    .expect("constant")
});

/// Where the output ends and a new question or turn begins.
static CUT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?m)<\||</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:eos|pad|unk)>|",
        r"^\s*#{2,3}\s*(?:Instruction|Input|Question|Response|Human|User|Assistant)|",
        r"\bQuestion(?:\s+\d+)?\s*:|",
        r"^\s*(?:Q(?:\s?\d+)?|question|Choices|Options|Instruction|Input|Human|User)\s*:|",
        r"Choose the answer to the question only|Answer the following mathematical question"
    ))
    .expect("constant")
});

fn cut(text: &str) -> &str {
    let mut text = text;
    while let Some(lead) = LEAD.find(text) {
        text = &text[lead.end()..];
    }
    &text[..CUT.find(text).map_or(text.len(), |m| m.start())]
}

/// One spelling of blanks, quotes and minus signs, so that texts compare byte by byte.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2212}' => out.push('-'),
            '‘' | '’' | '´' => out.push('\''),
            '“' | '”' => out.push('"'),
            '\n' => out.push('\n'),
            c if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Takes out the calculator notes of GSM8K, `<<48/2=24>>`.
fn without_notes(text: String) -> String {
    if !text.contains("<<") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find("<<") {
        let Some(close) = rest[open..].find(">>") else { break };
        out.push_str(&rest[..open]);
        rest = &rest[open + close + 2..];
    }
    out.push_str(rest);
    out
}

/// A phrase that announces the answer.
struct Trigger {
    start: usize,
    end: usize,
    kind: Kind,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Says,
    /// `answer isn't`; a `not` behind the trigger is found by [`Trigger::negated`].
    Denies,
    Box,
    /// `Answer:` as the first words: the cue repeated, or the form of P1's demonstrations
    /// (Table 2), whose reasoning may follow instead of the answer.
    Echo,
}

static TRIGGER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:answer|correct\s(?:option|choice))(?:\s(?:choice|option))?[*_]*",
        r"(?:\sto\s(?:the|this)\s(?:question|problem))?(?:\sfrom\sthe\sgiven\soptions)?",
        r"(?:\s\(arabic numerals\))?,?\s+(?:isn't|wasn't|can't\sbe|cannot\sbe|",
        r"(?:would|should|must|could|can|will|might|may)(?:\snot|n't)?\s(?:\w+\s)?be|",
        r"has\sto\sbe|is|was)\b[*_]*:?|\banswer[*_]*(?:\s?[:=]|\s[-–—]\s)|#{4,}|\\boxed"
    ))
    .expect("constant")
});

/// What may lead on to an answer once one was denied.
static INSTEAD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:it\sis|it's|it\smust\sbe|but\srather|but|rather|instead)\b[,:]?")
        .expect("constant")
});

static NOT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^[\s*_:,]*(?:(?:definitely|certainly|clearly|probably)\s)?(?:not|never)\b")
        .expect("constant")
});

static REMARK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\s*(?:correct|incorrect|right|wrong|true|false|valid|invalid|based)\b")
        .expect("constant")
});

impl Trigger {
    fn negated(&self, text: &str) -> bool {
        self.kind == Kind::Denies || NOT.is_match(&text[self.end..])
    }

    fn remark(&self, text: &str) -> bool {
        self.kind == Kind::Says && REMARK.is_match(&text[self.end..])
    }
}

fn triggers(text: &str) -> Vec<Trigger> {
    TRIGGER
        .find_iter(text)
        .map(|m| {
            let words = m.as_str();
            let first = text[..m.start()].chars().all(|c| !c.is_alphanumeric());
            let kind = if words.starts_with('\\') {
                Kind::Box
            } else if words.contains("not") || words.contains("n't") {
                Kind::Denies
            } else if first && words.ends_with([':', '=']) && words.len() <= 12 {
                Kind::Echo
            } else {
                Kind::Says
            };
            Trigger { start: m.start(), end: m.end(), kind }
        })
        .collect()
}

/// Content of the box whose `\boxed` ends at `at`: braces are counted, the blank form
/// `\boxed 7` is known; an unclosed box has none.
fn boxed(text: &str, at: usize) -> Option<(usize, usize)> {
    let start = at + (text[at..].len() - text[at..].trim_start().len());
    let rest = &text[start..];
    if !rest.starts_with('{') {
        let length = rest.find([' ', '\n', '$']).unwrap_or(rest.len());
        return Some((start, start + length));
    }
    let mut depth = 0usize;
    for (i, b) in rest.bytes().enumerate() {
        match b {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((start + 1, start + i));
                }
            }
            _ => {}
        }
    }
    None
}

/// `It is 7.` as a sentence of its own.
static IT_IS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:^|[.!?\n])\s*(?:(?:so|thus|therefore|hence),?\s)?it(?:\sis|'s)\s")
        .expect("constant")
});

fn read_number(text: &str, triggers: &[Trigger]) -> Option<String> {
    let mut denied = false;
    for (i, trigger) in triggers.iter().enumerate().rev() {
        let tail = &text[trigger.end..];
        if trigger.kind == Kind::Box {
            let (from, to) = boxed(text, trigger.end)?;
            let content = &text[from..to];
            return number::next(content, 0).map(|first| number::result(content, first));
        }
        if trigger.negated(text) {
            denied = true;
            let until = triggers.get(i + 1).map_or(text.len(), |next| next.start);
            let tail = &text[trigger.end..until];
            let instead = INSTEAD.find_iter(tail).find_map(|m| number::leading(&tail[m.end()..]));
            if let Some(token) = instead {
                return Some(token.value);
            }
        } else if trigger.kind == Kind::Echo {
            return last_number(tail);
        } else if !trigger.remark(text) {
            if let Some(first) = number::next(tail, 0) {
                return Some(number::result(tail, first));
            }
            break;
        }
    }
    if denied { None } else { last_number(text) }
}

/// The number of a text without a trigger: a first line that is nothing but a number, else a
/// last sentence `It is 7.`, else the last number.
fn last_number(text: &str) -> Option<String> {
    if let Some(line) = text.trim_start().lines().next()
        && let Some(value) = number::exact(line)
    {
        return Some(value);
    }
    let sentences = IT_IS.find_iter(text).filter_map(|m| {
        let rest = &text[m.end()..];
        let token = number::leading(rest)?;
        let after = rest[token.end..].trim_start_matches(['%', '.', '!']);
        let whole = after.is_empty()
            || after.starts_with([' ', '\n']) && after.len() < rest.len() - token.end;
        whole.then_some(token.value)
    });
    sentences.last().or_else(|| number::last(text).map(|token| token.value))
}

#[cfg(test)]
mod tests;
