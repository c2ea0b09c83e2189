//! Word problems: which number a text answers with.

use std::sync::LazyLock;

use regex::Regex;

use super::text::sentence_end;
use super::trigger::{INSTEAD, Kind, Trigger, boxed};
use super::{Found, number};

/// `It is 7.` as a sentence of its own.
static IT_IS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:^|[.!?\n])\s*(?:(?:so|thus|therefore|hence),?\s)?it(?:\sis|'s)\s")
        .expect("constant")
});

/// The number a cleaned text answers with. It is explicit where it stands in the sentence of a
/// trigger or is all there is; the last number of a text is a guess.
pub fn read(text: &str, triggers: &[Trigger]) -> Option<Found<String>> {
    let mut denied = false;
    for (i, trigger) in triggers.iter().enumerate().rev() {
        let tail = &text[trigger.end..];
        if trigger.kind == Kind::Box {
            let (from, to) = boxed(text, trigger.end)?;
            let content = &text[from..to];
            let first = number::next(content, 0)?;
            return Some(Found::explicit(number::result(content, first).value));
        }
        if trigger.negated(text) {
            denied = true;
            let until = triggers.get(i + 1).map_or(text.len(), |next| next.start);
            let tail = &text[trigger.end..until];
            let instead = INSTEAD.find_iter(tail).find_map(|m| number::leading(&tail[m.end()..]));
            if let Some(token) = instead {
                return Some(Found::explicit(token.value));
            }
        } else if trigger.kind == Kind::Echo {
            return echoed(tail).map(Found::explicit).or_else(|| last_number(tail));
        } else if !trigger.remark(text) {
            if let Some(first) = number::next(tail, 0) {
                let explicit = first.start < sentence_end(tail);
                return Some(Found { what: number::result(tail, first).value, explicit });
            }
            break;
        }
    }
    if denied { None } else { last_number(text) }
}

/// The number that a first line is, with no more than a unit behind: `5 km`, `5 + 3 = 8`.
fn echoed(tail: &str) -> Option<String> {
    let line = tail.trim_start_matches([' ', '*', '_']).lines().next()?;
    let token = number::result(line, number::leading(line)?);
    let unit = &line[token.end..];
    let short =
        unit.split_whitespace().count() <= 3 && !unit.contains(|c: char| c.is_ascii_digit());
    (short && sentence_end(unit) + 1 >= unit.trim_end().len()).then_some(token.value)
}

/// The number of a text without a trigger: a first line that is nothing but a number, else a
/// last sentence `It is 7.`, else the last number.
fn last_number(text: &str) -> Option<Found<String>> {
    if let Some(value) = number::exact(text) {
        return Some(Found::explicit(value));
    }
    if let Some(line) = text.trim_start().lines().next()
        && let Some(value) = number::exact(line)
    {
        return Some(Found::guess(value));
    }
    let sentences = IT_IS.find_iter(text).filter_map(|m| {
        let rest = &text[m.end()..];
        let token = number::leading(rest)?;
        let after = rest[token.end..].trim_start_matches(['%', '.', '!']);
        let whole = after.is_empty()
            || after.starts_with([' ', '\n']) && after.len() < rest.len() - token.end;
        whole.then_some(token.value)
    });
    sentences.last().or_else(|| number::last(text).map(|token| token.value)).map(Found::guess)
}
