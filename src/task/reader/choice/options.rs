//! The options of one question, made ready to be found, and the words around them.

use super::super::text::lower;
use super::super::{clean, number};

/// Marks trimmed off the ends of an option before it is compared.
const ENDS: &[char] = &[' ', '\n', '.', ',', ';', ':', '!', '?', '"', '\'', '*'];

/// Words that may stand between a trigger and the answer.
pub const FILLERS: &[&str] = &[
    "the",
    "a",
    "an",
    "to",
    "that",
    "option",
    "options",
    "choice",
    "choices",
    "letter",
    "number",
    "answer",
    "solution",
    "be",
    "is",
    "are",
    "definitely",
    "probably",
    "likely",
    "most",
    "clearly",
    "clear",
    "obviously",
    "obvious",
    "simply",
    "just",
    "only",
    "therefore",
    "thus",
    "so",
    "then",
    "indeed",
    "either",
    "both",
    "maybe",
    "possibly",
    "actually",
    "i",
    "think",
    "believe",
    "say",
    "it",
    "it's",
    "text",
    "textbf",
    "mathrm",
    "mathbf",
];

/// Words after which a number is a label: `solution 2`.
pub const LABELS: &[&str] = &["option", "choice", "number", "answer", "solution"];

/// Words that may follow the letter `A` (or `I`); before any other word it is an article.
pub const AFTER_A: &[&str] = &[
    "because", "since", "as", "for", "and", "or", "but", "which", "while", "so", "due", "given",
    "is", "not", "if", "instead", "rather",
];

/// One option.
pub struct Folded {
    pub index: usize,
    /// Lower case, cleaned, without marks at the ends.
    pub text: String,
    /// Of an option that begins with a number.
    pub value: Option<String>,
}

/// The options of one question, ready to be found.
pub struct Options {
    /// Longest first, so that `department store` is found before `store`.
    pub list: Vec<Folded>,
    /// Every option begins with a number: a number is a value, not a label.
    pub valued: bool,
    /// No option begins with a number: a number may be a label.
    pub labelled: bool,
}

impl Options {
    pub fn new(options: &[String]) -> Self {
        let mut list: Vec<Folded> = options
            .iter()
            .take(26)
            .enumerate()
            .map(|(index, option)| {
                let cleaned = clean(option);
                Folded {
                    index,
                    value: number::leading(&cleaned).map(|token| token.value),
                    text: lower(cleaned.trim_matches(ENDS).trim_start_matches("- ")),
                }
            })
            .collect();
        list.sort_by_key(|option| std::cmp::Reverse(option.text.len()));
        let valued = list.iter().all(|option| option.value.is_some());
        let labelled = list.iter().all(|option| option.value.is_none());
        Options { list, valued, labelled }
    }
}
