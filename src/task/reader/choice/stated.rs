//! Answers stated without a phrase that announces them: `B) library. A bank keeps money`,
//! `So C is the best choice`, `I would go with D`.

use std::sync::LazyLock;

use regex::Regex;

use super::options::{AFTER_A, LABELS};
use super::{Place, Search};

/// The predicate of an option that is taken.
static TAKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)[)\]*_]*\s(?:is|must\sbe|would\sbe|seems)\s(?:(?:the|my)\s)?",
        r"(?:(?:most\s\w+|best|correct|right|only|final)\s)?",
        r"(?:answer|option|choice|correct|right|best)\b"
    ))
    .expect("constant")
});

/// What a person says before a choice.
static CHOOSE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:i|we)(?:\s(?:would|will|choose\sto)|'d|'ll)?\s",
        r"(?:choose|pick|select|say|guess|go\s(?:with|for))\b:?"
    ))
    .expect("constant")
});

/// The predicate of an option that is ruled out.
static RULED_OUT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)^[)\]*_.:,\s]*(?:(?:is|are|was|would\sbe|seems)\s(?:\w+\s)?(?:not|wrong|incorrect|false|",
        r"out|unlikely|too)\b|(?:isn't|can't|cannot|won't)\b)"
    ))
    .expect("constant")
});

/// A label at the begin of a line or sentence: `B)`, `(B)`, `B.`, or alone in its line.
static LABEL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)(?:^|[.;!?])[ \t*_]*(?:\(?([A-Z])(?:[).:][ *_]|\)?[*_]*$))").expect("constant")
});

impl Search<'_> {
    /// The answer that the text begins with, reasons behind it: a letter with a mark or a
    /// reason, or an option that is the whole first line or sentence. Not the first of a list
    /// of all options, and not one that is ruled out.
    pub(super) fn first(&self, from: usize) -> Option<usize> {
        let at = self.skip_marks(from);
        let Place::Found(index, end) = self.begins(from) else { return None };
        let rest = &self.text[end..];
        let marks = rest.trim_start_matches([' ', '*', '_', '"', ')', ']']);
        let closed = marks.len() < rest.len()
            && rest.trim_start_matches(['*', '_', '"']).starts_with([')', ']'])
            || marks.starts_with(['.', ':', ',', ';', '\n', '!', '-', '–', '—']);
        let named = self.word(at).is_some_and(|word| LABELS.contains(&word));
        let lettered = named || self.letter_at(at).is_some();
        let reason = self.word(self.skip_marks(end)).is_some_and(|word| AFTER_A.contains(&word));
        let stands = if lettered {
            closed || reason
        } else {
            marks.starts_with(['\n', '!'])
                || marks.strip_prefix('.').is_some_and(|r| r.starts_with([' ', '\n']))
        };
        let listed = LABEL.captures_iter(&self.text[end..]).any(|c| {
            let other = usize::from(c[1].as_bytes()[0] - b'A');
            other != index && other < self.options.list.len()
        });
        (stands && !listed && !RULED_OUT.is_match(rest)).then_some(index)
    }

    /// The option that a sentence takes, if all such sentences take the same.
    pub(super) fn chosen(&self, from: usize) -> Option<usize> {
        let text = &self.text[from..];
        let before = TAKEN.find_iter(text).filter_map(|m| self.ending_at(from + m.start()));
        let behind = CHOOSE.find_iter(text).filter_map(|m| self.place(from + m.end()).index());
        let mut all: Vec<usize> = before.chain(behind).collect();
        all.dedup();
        match all[..] {
            [index] => Some(index),
            _ => None,
        }
    }

    /// The option whose letter or text ends at `end`.
    fn ending_at(&self, end: usize) -> Option<usize> {
        let letter = end.checked_sub(1).and_then(|at| {
            let stands =
                self.text.is_char_boundary(at) && self.text.as_bytes()[at].is_ascii_uppercase();
            stands.then(|| self.letter_at(at)).flatten()
        });
        letter.or_else(|| {
            self.options.list.iter().find_map(|option| {
                let start = end.checked_sub(option.text.len())?;
                let here = !option.text.is_empty()
                    && self.lower[..end].ends_with(&option.text)
                    && self.whole(start, end);
                here.then_some(option.index)
            })
        })
    }
}
