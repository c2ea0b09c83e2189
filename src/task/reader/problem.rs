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

/// What joins a second answer to the first.
static OR: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?i)^,?\sor\s").expect("constant"));

/// What ends a calculation: reasons, and whatever else may hold an equation of its own.
static ASIDE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)[,;:]|\b(?:because|since|as|where|when|if|so|that|which|with|and|for)\b")
        .expect("constant")
});

/// The number a cleaned text answers with. It is explicit where it stands right behind a
/// trigger, is the only one of the trigger's sentence, or is all there is; the last number of a
/// sentence or a text is a guess.
pub fn read(text: &str, triggers: &[Trigger]) -> Option<Found<String>> {
    let mut denied = false;
    let mut guess = None;
    for (i, trigger) in triggers.iter().enumerate().rev() {
        let tail = &text[trigger.end..];
        if trigger.kind == Kind::Box {
            let content = boxed(text, trigger.end).map(|(from, to)| &text[from..to]);
            let first = content.and_then(|content| number::next(content, 0));
            match (content, first) {
                (Some(content), Some(first)) => {
                    return Some(Found::explicit(number::result(content, first).value));
                }
                // It was to be boxed: the last number of the text is no guess at it then.
                _ => denied = true,
            }
        } else if trigger.negated(text) {
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
            match announced(tail) {
                Announced::Stated(value) | Announced::Near(value) if trigger.idle(text) => {
                    guess = guess.or(Some(value));
                }
                Announced::Stated(value) => return Some(Found::explicit(value)),
                Announced::Several => return None,
                // What was announced before stands.
                Announced::Near(value) => guess = guess.or(Some(value)),
                Announced::Nothing => {}
            }
        }
    }
    match guess {
        Some(value) => Some(Found::guess(value)),
        None if denied => None,
        None => last_number(text),
    }
}

enum Announced {
    Stated(String),
    /// `15 or 20`
    Several,
    Near(String),
    Nothing,
}

/// What a trigger announces, `tail` being all that follows it.
fn announced(tail: &str) -> Announced {
    let sentence = &tail[..sentence_end(tail)];
    let Some(first) = number::next(tail, 0) else { return Announced::Nothing };
    if first.start >= sentence.len() {
        return Announced::Near(number::result(tail, first).value);
    }
    let at = tail.len() - tail.trim_start_matches(|c: char| !c.is_alphanumeric()).len();
    let here = first.start <= at;
    let token = number::result(tail, first.clone());
    if let Some(or) = OR.find(&tail[token.end..])
        && let Some(second) = number::leading(&tail[token.end + or.end()..])
        && second.value != token.value
    {
        return Announced::Several;
    }
    // `$4 a day * 2 days = $8`
    let equals = sentence.get(token.end..).and_then(|rest| {
        let (left, right) = rest.rsplit_once('=')?;
        let result = number::leading(right.trim_start_matches([' ', '(', '\\']))?;
        (!ASIDE.is_match(left)).then_some(result.value)
    });
    if let Some(value) = equals {
        return Announced::Stated(value);
    }
    let last = number::last(sentence).map_or_else(|| token.value.clone(), |last| last.value);
    let only = number::last(sentence).is_none_or(|last| last.start <= token.end);
    match here || only || last == token.value {
        true => Announced::Stated(token.value),
        false => Announced::Near(last),
    }
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
    let bare = text.trim().trim_start_matches("\\(").trim_end_matches("\\)");
    let bare = bare.trim_matches([' ', '*', '_']).trim_end_matches('$');
    if let Some(value) = number::exact(bare) {
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
