//! MATH: which formula a text answers with.

use super::text::{head, sentence_end};
use super::trigger::{INSTEAD, Kind, Trigger, boxed};
use super::{Found, number};

/// Marks that may stand before the answer.
const MARKS: &[char] = &[' ', '\n', ':', '*', '_'];

/// Letters in a row that are no word.
const NAMES: &[&str] = &[
    "sin", "cos", "tan", "sec", "csc", "cot", "log", "exp", "mod", "gcd", "lcm", "max", "min",
    "inf", "sup", "arcsin", "arccos", "arctan", "sqrt", "frac",
];

/// Short words of prose; other pairs of letters are products.
const SHORT: &[&str] = &["is", "as", "so", "if", "we", "in", "it", "by", "of", "to", "at", "on"];

/// The formula a cleaned text answers with, in LaTeX: the last box; behind a trigger the formula
/// between delimiters or the rest of the sentence. Explicit is also a text that is all formula;
/// without a trigger the last formula between delimiters, else the last number, is a guess.
pub fn read(text: &str, triggers: &[Trigger]) -> Option<Found<String>> {
    let mut denied = false;
    let mut word = None;
    for (i, trigger) in triggers.iter().enumerate().rev() {
        let tail = &text[trigger.end..];
        if trigger.kind == Kind::Box {
            let (from, to) = boxed(text, trigger.end)?;
            return tidy(&text[from..to]).map(Found::explicit);
        }
        if trigger.negated(text) {
            denied = true;
            let until = triggers.get(i + 1).map_or(text.len(), |next| next.start);
            let tail = &text[trigger.end..until];
            if let Some(found) = INSTEAD.find_iter(tail).find_map(|m| behind(&tail[m.end()..])) {
                return Some(found);
            }
        } else if trigger.kind == Kind::Echo {
            return bare(tail);
        } else if !trigger.remark(text) {
            match behind(tail) {
                // `Monday` is an answer, and `clear` a remark if one was given before.
                Some(found) if trigger.idle(text) => word = word.or(Some(found)),
                Some(found) => return Some(found),
                None => {}
            }
        }
    }
    match word {
        Some(word) => Some(word),
        None if denied => None,
        None => bare(text),
    }
}

/// The formula right behind a trigger.
fn behind(tail: &str) -> Option<Found<String>> {
    let tail = head(tail.trim_start_matches(MARKS));
    if let Some((content, _)) = delimited(tail) {
        return tidy(content).map(Found::explicit);
    }
    let sentence = &tail[..sentence_end(tail)];
    if let Some(content) = groups(sentence).next() {
        return tidy(content).map(Found::guess);
    }
    match first_word(sentence) {
        None => tidy(sentence).map(Found::explicit),
        // `the number of ways`: hardly an answer, unless it is one word, as in `Monday`.
        Some(0) => {
            let what = tidy(sentence)?;
            Some(Found { explicit: !what.contains(' '), what })
        }
        // `5 because 2 + 3 = 5`
        Some(word) => tidy(&sentence[..word]).map(Found::explicit),
    }
}

/// The formula of a text without a trigger.
fn bare(text: &str) -> Option<Found<String>> {
    let whole = text.trim_matches(MARKS);
    if let Some((content, end)) = delimited(whole)
        && whole[end..].chars().all(|c| !c.is_alphanumeric())
    {
        return tidy(content).map(Found::explicit);
    }
    if !whole.contains(['\n', '$'])
        && (first_word(whole).is_none() || !whole.contains(' '))
        && let Some(what) = tidy(whole)
    {
        return Some(Found::explicit(what));
    }
    let group = groups(text).last().and_then(tidy);
    group.or_else(|| number::last(text).map(|token| token.value)).map(Found::guess)
}

/// A formula without the marks around it; `None` if nothing is left.
fn tidy(content: &str) -> Option<String> {
    let content = content.trim_matches(|c: char| c.is_whitespace() || "*$".contains(c));
    let content = content.trim_end_matches(|c: char| c.is_whitespace() || ".,;:".contains(c));
    // `\$5` keeps its sign; one left of `5\ ` would escape nothing.
    let content = content.strip_suffix('\\').unwrap_or(content).trim();
    content.chars().any(char::is_alphanumeric).then(|| content.to_owned())
}

/// The formula between delimiters that `text` begins with, and where it ends.
fn delimited(text: &str) -> Option<(&str, usize)> {
    let (open, close) = [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")]
        .into_iter()
        .find(|(open, _)| text.starts_with(open))?;
    let inside = &text[open.len()..];
    let content = &inside[..head(inside).find(close)?];
    // `$5 and then $6`: money.
    let money = open == "$" && (content.contains('\n') || first_word(content).is_some());
    let formula = !money && content.chars().any(char::is_alphanumeric);
    formula.then_some((content, open.len() + content.len() + close.len()))
}

/// All formulas between delimiters, in order.
fn groups(text: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += text[at..].find(['$', '\\'])?;
            // A dollar sign that is escaped opens nothing.
            if text[at..].starts_with("\\$") {
                at += 2;
                continue;
            }
            match delimited(&text[at..]) {
                Some((content, end)) => {
                    at += end;
                    return Some(content);
                }
                None => at += 1,
            }
        }
    })
}

/// Where the first word of prose begins; commands and what they set as text are none.
fn first_word(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let run = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' {
            let name = &text[at + 1..at + 1 + run(at + 1)];
            at += 1 + name.len();
            if (name.starts_with("text") || matches!(name, "mathrm" | "mbox" | "operatorname"))
                && bytes.get(at) == Some(&b'{')
            {
                at += text[at..].find('}').unwrap_or(0);
            }
            continue;
        }
        let length = run(at);
        let letters = &text[at..at + length];
        let word = if length > 2 { !NAMES.contains(&letters) } else { SHORT.contains(&letters) };
        if word {
            return Some(at);
        }
        at += length.max(1);
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::trigger::triggers;
    use super::*;

    #[track_caller]
    fn formulas(table: &[(&str, &str, bool)]) {
        for &(text, expected, explicit) in table {
            let found = read(text, &triggers(text));
            let found = found.as_ref().map_or(("-", false), |f| (f.what.as_str(), f.explicit));
            assert_eq!(found, (expected, explicit), "{text:?}");
        }
    }

    #[test]
    fn boxes() {
        formulas(&[
            ("so $\\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}", true),
            ("\\boxed{1} or rather \\boxed{x^{2}+\\sqrt{y}}", "x^{2}+\\sqrt{y}", true),
            ("so $\\boxed 7$", "7", true),
            ("so \\boxed 7.", "7", true),
            ("I had 3, so \\boxed{\\frac{1}{2}", "-", false),
            ("\\boxed{}", "-", false),
            ("\\boxed{\\text{Monday}}", "\\text{Monday}", true),
            ("\\boxed{\\$5}", "\\$5", true),
        ]);
    }

    #[test]
    fn behind_triggers() {
        formulas(&[
            ("Final Answer: The final answer is $5$. I hope it is correct.", "5", true),
            ("The answer is $\\frac{1}{2}$", "\\frac{1}{2}", true),
            ("The answer is \\(x+1\\).", "x+1", true),
            ("The answer is \\[x+1\\]", "x+1", true),
            ("The answer is $$x+1$$", "x+1", true),
            ("The answer is 3.5.", "3.5", true),
            ("The answer is \\frac{1}{2}.", "\\frac{1}{2}", true),
            ("The answer is (1, 2)", "(1, 2)", true),
            ("The answer is 5 because 2 + 3 = 5.", "5", true),
            ("The answer is 5 units.", "5", true),
            ("The answer is $5.", "5", true),
            ("The answer is Monday.", "Monday", true),
            ("The answer is the number $7$, as $3+4=7$.", "7", false),
            ("The answer is not 5. It is $6$.", "6", true),
            ("The answer is not 5.", "-", false),
            ("The answer is $2$. This answer is correct.", "2", true),
            ("\\boxed{1}, no, the answer is $2$", "2", true),
            ("#### 42", "42", true),
            ("**Answer:** $42$", "42", true),
            ("The answer is $3 \\text{ and } 4$", "3 \\text{ and } 4", true),
        ]);
    }

    #[test]
    fn without_triggers() {
        formulas(&[
            ("$x+1$", "x+1", true),
            ("x+1", "x+1", true),
            ("-\\frac{1}{2}.", "-\\frac{1}{2}", true),
            ("Monday", "Monday", true),
            ("We get $x=2$ and then $y=3$.", "y=3", false),
            ("It costs \\$5 and $6.", "6", false),
            ("There are 3 of them and 4 more", "4", false),
            ("I do not know", "-", false),
            ("", "-", false),
            ("$", "-", false),
        ]);
    }
}
