//! Reading the answer off a generated text.
//!
//! P1 and P2 do not print their extraction rule, and the usual patterns misread common
//! outputs, so the rule is stated here and carries a version, [`READER`]:
//!
//! 1. The text ends where a new question or a template marker begins.
//! 2. The answer stands behind the last trigger (`answer is`, `answer:`, `####`, `\boxed`, …)
//!    that announces one and is neither negated, before it or behind, nor a remark such as
//!    `this answer is correct`. Behind a negated trigger an answer is read only after `it is`,
//!    `but` or `instead`.
//! 3. Multiple choice: a delimited letter in range, or the text of an option, the longest
//!    whole match first; options that are numbers go by value. Two different answers are none.
//!    Without a trigger an output has an answer that begins with it (`B) library. A bank …`),
//!    says which option is taken (`C is the best choice`), or names exactly one.
//! 4. Word problems: the number right behind the trigger (the result, where a calculation
//!    begins there), or the only one of its sentence; else the last number of the sentence or
//!    of the text. `15 or 20` is none.
//! 5. MATH: the last box, or the formula behind the trigger, else the last formula of the text.
//!    BIG-Bench Hard: the word, words or brackets behind the trigger; see [`Shape`].
//! 6. No answer is not a wrong answer: it is counted apart.
//!
//! Every text has two readings. The strict one wants the answer stated: right behind a trigger,
//! first of all, or as the whole output. The flexible one, which [`read`] gives, also takes what
//! is a guess: the only option named, the last number. Where there is a strict reading the
//! flexible one is the same.
//!
//! The matcher that the authors of P1 released is kept beside it, as [`ranaldi2024`], to show
//! what it does to a score.

mod choice;
mod difflib;
pub mod latex;
mod math;
pub(super) mod number;
mod problem;
pub mod ranaldi2024;
mod text;
mod trigger;
mod words;

use serde::{Deserialize, Serialize};

use super::question::{Gold, Question};
use text::{clean, cut, without_notes};
use trigger::triggers;
pub use words::Shape;

/// Version of the rule. It goes into every result, since a changed rule changes accuracies. What
/// was changed in which version stands in `results/LOG.md`.
pub const READER: u32 = 2;

/// What a text answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Index into [`Question::options`].
    Choice(usize),
    /// A number in plain decimal notation, as in [`Gold::Number`].
    Number(String),
    /// A formula in LaTeX, as it was written.
    Math(String),
    /// A text, as in [`Gold::Text`].
    Text(String),
}

/// What kind of answer to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// One of these options.
    Choice(&'a [String]),
    Number,
    /// A formula in LaTeX.
    Math,
    Text(Shape<'a>),
}

impl<'a> Form<'a> {
    /// The kind that a gold is of, for a question that is worded `stem`. Of the gold only its
    /// kind is looked at. BIG-Bench Hard's whole numbers are read as numbers.
    pub fn of(options: &'a [String], gold: &Gold, stem: &'a str) -> Self {
        match gold {
            _ if !options.is_empty() => Form::Choice(options),
            Gold::Math(_) => Form::Math,
            Gold::Text(text) if number::exact(text).is_none() => Form::Text(Shape::of(text, stem)),
            _ => Form::Number,
        }
    }
}

/// The two readings of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// An answer that is stated: right behind a trigger, first of all, or the whole output.
    pub strict: Option<Answer>,
    /// The answer, guessed where it is not stated. The same as `strict` where that is one.
    pub flexible: Option<Answer>,
}

/// What was found in a text, and whether it was stated as the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found<T> {
    what: T,
    explicit: bool,
}

impl<T> Found<T> {
    fn explicit(what: T) -> Self {
        Found { what, explicit: true }
    }

    fn guess(what: T) -> Self {
        Found { what, explicit: false }
    }

    fn into_reading(self, answer: impl Fn(T) -> Answer) -> Reading {
        let flexible = Some(answer(self.what));
        Reading { strict: flexible.clone().filter(|_| self.explicit), flexible }
    }
}

/// Both readings of a text that should hold an answer of this form. Never panics, whatever
/// the text; blanks around it make no difference.
pub fn read_as(form: Form, text: &str) -> Reading {
    let text = match form {
        Form::Math => text::cut_at_problem(cut(text)),
        _ => cut(text),
    };
    let text = clean(text.trim());
    // Notes are of word problems; two brackets in a row may be an answer elsewhere.
    let text = if form == Form::Number { without_notes(text) } else { text };
    let triggers = triggers(&text);
    let reading = match form {
        Form::Choice(options) => {
            choice::read(&text, options, &triggers).map(|found| found.into_reading(Answer::Choice))
        }
        Form::Number => {
            problem::read(&text, &triggers).map(|found| found.into_reading(Answer::Number))
        }
        Form::Math => math::read(&text, &triggers).map(|found| found.into_reading(Answer::Math)),
        Form::Text(shape) => {
            words::read(&text, shape, &triggers).map(|found| found.into_reading(Answer::Text))
        }
    };
    reading.unwrap_or_default()
}

/// Both readings of a text that answers `question`.
pub fn read_both(question: &Question, text: &str) -> Reading {
    read_as(Form::of(&question.options, &question.gold, &question.stem), text)
}

/// The answer; `None` is "no answer".
pub fn read(question: &Question, text: &str) -> Option<Answer> {
    read_both(question, text).flexible
}

/// The answer where it is stated as such.
pub fn read_strict(question: &Question, text: &str) -> Option<Answer> {
    read_both(question, text).strict
}

/// Whether an answer is the right one; see [`is_right`].
pub fn is_correct(question: &Question, answer: &Answer) -> bool {
    is_right(&question.options, &question.gold, answer)
}

/// Whether an answer is the gold. Numbers compare as decimals, formulas after [`latex`]'s
/// normalisation, texts without regard to case and blanks; an option equal to the gold option
/// is right too, since some questions of CSQA, OBQA and SIQA print one twice.
pub fn is_right(options: &[String], gold: &Gold, answer: &Answer) -> bool {
    match (gold, answer) {
        (Gold::Choice(gold), Answer::Choice(read)) => {
            gold == read
                || match (options.get(*gold), options.get(*read)) {
                    (Some(gold), Some(read)) => gold.trim().eq_ignore_ascii_case(read.trim()),
                    _ => false,
                }
        }
        (Gold::Number(gold) | Gold::Text(gold), Answer::Number(read)) => {
            let gold = number::exact(gold);
            gold.is_some() && gold == number::exact(read)
        }
        (Gold::Math(gold), Answer::Math(read)) => latex::equal(gold, read),
        (Gold::Text(gold), Answer::Text(read)) => words::equal(gold, read),
        _ => false,
    }
}

/// The value of a text that is nothing but a number, in plain decimal notation.
pub fn plain_number(text: &str) -> Option<String> {
    number::exact(text)
}

/// What the last `\boxed{}` of a solution holds.
pub fn last_box(solution: &str) -> Option<String> {
    let at = solution.rfind("\\boxed")? + "\\boxed".len();
    let (from, to) = trigger::boxed(solution, at)?;
    Some(solution[from..to].trim().to_owned()).filter(|content| !content.is_empty())
}

#[cfg(test)]
mod pitfalls;
#[cfg(test)]
mod tests;
