//! BIG-Bench Hard: answers that are neither a letter nor a formula.
//!
//! Which kind a question asks for is seen from its gold, whose kind, not whose value, is the
//! same for all questions of a task: one of a pair of words, brackets, words of a list, or a line.

use super::Found;
use super::text::{head, sentence_end};
use super::trigger::{INSTEAD, Kind, Trigger, boxed};

/// Kinds of text answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape<'a> {
    /// One of two words, such as `True` and `False`.
    Pair([&'static str; 2]),
    /// A sequence of brackets, as `dyck_languages` completes it.
    Brackets,
    /// Words in the order that is asked for; the question holds them.
    List(&'a str),
    /// Anything else: what follows the trigger, up to the end of its sentence.
    Line,
}

const PAIRS: [[&str; 2]; 3] = [["True", "False"], ["Yes", "No"], ["valid", "invalid"]];

const BRACKETS: &[char] = &['(', ')', '[', ']', '{', '}', '<', '>'];

/// Marks that may stand around an answer.
const MARKS: &[char] = &[' ', '\n', ':', '*', '_', '"', '\'', '`', '$', '.', ','];

impl<'a> Shape<'a> {
    /// The kind of answer that a gold stands for, in a question that is worded `stem`.
    pub fn of(gold: &str, stem: &'a str) -> Self {
        let gold = gold.trim();
        if let Some(pair) =
            PAIRS.into_iter().find(|pair| pair.iter().any(|word| word.eq_ignore_ascii_case(gold)))
        {
            return Shape::Pair(pair);
        }
        if !gold.is_empty() && gold.chars().all(|c| c == ' ' || BRACKETS.contains(&c)) {
            return Shape::Brackets;
        }
        let listed = stem.rsplit_once("List:").map_or("", |(_, list)| list);
        if !listed.trim().is_empty() { Shape::List(listed) } else { Shape::Line }
    }
}

/// Whether two texts are the same answer: without regard to case, blanks between brackets,
/// commas, and marks around it.
pub fn equal(a: &str, b: &str) -> bool {
    fold(a) == fold(b)
}

fn fold(text: &str) -> String {
    if text.chars().all(|c| c.is_whitespace() || BRACKETS.contains(&c)) {
        return text.chars().filter(|c| !c.is_whitespace()).collect();
    }
    let words = text.trim_matches(MARKS).to_lowercase().replace(',', " ");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text answer of a cleaned text. Explicit is one right behind a trigger and one that is
/// all there is.
pub fn read(text: &str, shape: Shape, triggers: &[Trigger]) -> Option<Found<String>> {
    let mut denied = false;
    for (i, trigger) in triggers.iter().enumerate().rev() {
        let tail = &text[trigger.end..];
        if trigger.kind == Kind::Box {
            let (from, to) = boxed(text, trigger.end)?;
            let inside = &text[from..to];
            let command = inside.strip_prefix("\\text{").and_then(|t| t.strip_suffix('}'));
            return shape.bare(command.unwrap_or(inside)).map(|f| Found::explicit(f.what));
        }
        let negated = trigger.negated(text);
        // A pair has a word for what is `not valid`.
        let pair = matches!(shape, Shape::Pair(_)) && trigger.kind != Kind::Denies;
        if (pair || !negated)
            && let Some(found) = shape.behind(tail)
        {
            return Some(found);
        }
        if negated {
            denied = true;
            let until = triggers.get(i + 1).map_or(text.len(), |next| next.start);
            let tail = &text[trigger.end..until];
            let instead = INSTEAD.find_iter(tail).find_map(|m| shape.behind(&tail[m.end()..]));
            if instead.is_some() {
                return instead;
            }
        } else if trigger.kind == Kind::Echo {
            return shape.bare(tail);
        }
    }
    if denied { None } else { shape.bare(text) }
}

impl Shape<'_> {
    /// The answer right behind a trigger.
    fn behind(self, tail: &str) -> Option<Found<String>> {
        let tail = head(tail);
        match self {
            Shape::Pair(pair) => {
                let sentence = &tail[..sentence_end(tail)];
                // `that the argument is deductively invalid`, `not valid`.
                let near: Vec<&str> = words(sentence).take(8).collect();
                // `yes, no doubt about it`
                let first =
                    near.first().and_then(|w| pair.iter().find(|p| p.eq_ignore_ascii_case(w)));
                if let Some(first) = first
                    && near.get(1).is_none_or(|w| !w.eq_ignore_ascii_case("or"))
                {
                    return Some(Found::explicit((*first).to_owned()));
                }
                one_of(pair, &near).map(Found::explicit)
            }
            Shape::Brackets => {
                let run = bracket_run(tail.trim_start_matches(MARKS))?;
                Some(Found::explicit(run.to_owned()))
            }
            Shape::List(list) => {
                let list = list_words(list);
                let mut runs = runs(tail, &list);
                let (skipped, run) = runs.next()?;
                // What is no word of the list may lead on to it: `the following`.
                (skipped <= 4 && (run.len() > 1 || list.len() == 1))
                    .then(|| Found::explicit(run.join(" ")))
            }
            Shape::Line => {
                let tail = tail.trim_start_matches(MARKS);
                let what = tail[..sentence_end(tail)].trim_matches(MARKS);
                what.chars().any(char::is_alphanumeric).then(|| Found::explicit(what.to_owned()))
            }
        }
    }

    /// The answer of a text without a trigger.
    fn bare(self, text: &str) -> Option<Found<String>> {
        let whole = text.trim_matches(MARKS);
        match self {
            Shape::Pair(pair) => {
                if let Some(word) = pair.iter().find(|word| word.eq_ignore_ascii_case(whole)) {
                    return Some(Found::explicit((*word).to_owned()));
                }
                let said: Vec<&str> = words(text).collect();
                // `Yes, because ...`; then a text that holds one of the two only. `no` is an
                // ordinary word, so that it must stand first.
                let first = said.first().is_some_and(|w| w.eq_ignore_ascii_case(pair[1]));
                let first = first || said.first().is_some_and(|w| w.eq_ignore_ascii_case(pair[0]));
                let found = if first {
                    one_of(pair, &said[..1])
                } else if pair[1] == "No" {
                    None
                } else {
                    one_of(pair, &said)
                };
                found.map(Found::guess)
            }
            Shape::Brackets => {
                if let Some(run) = bracket_run(whole)
                    && run.len() == whole.len()
                {
                    return Some(Found::explicit(run.to_owned()));
                }
                let mut rest = text;
                let mut last = None;
                while let Some(at) = rest.find(BRACKETS) {
                    let run = bracket_run(&rest[at..])?;
                    // A bracket inside prose, `(see above)`, is none.
                    let before = rest[..at].chars().next_back();
                    let after = rest[at + run.len()..].chars().next();
                    let alone = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
                    if alone(before) && alone(after) {
                        last = Some(run);
                    }
                    rest = &rest[at + run.len()..];
                }
                last.map(|run| Found::guess(run.to_owned()))
            }
            Shape::List(list) => {
                let list = list_words(list);
                let found: Vec<(usize, Vec<String>)> = runs(text, &list).collect();
                if let [(0, run)] = &found[..]
                    && tokens(text).filter(|t| !is_filler(t)).count() == run.len()
                {
                    return Some(Found::explicit(run.join(" ")));
                }
                // Of runs of the same length the last.
                let longest = found.into_iter().map(|(_, run)| run).max_by_key(Vec::len)?;
                (longest.len() > 1).then(|| Found::guess(longest.join(" ")))
            }
            Shape::Line => {
                let one_line = !whole.contains('\n') && whole.chars().any(char::is_alphanumeric);
                one_line.then(|| Found::explicit(whole.to_owned()))
            }
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty())
}

/// The word of a pair that stands among `said`; both are none. `not valid` is `invalid`, while
/// `not True` is left alone: it is how `boolean_expressions` words its questions.
fn one_of(pair: [&str; 2], said: &[&str]) -> Option<String> {
    let mut found: Option<usize> = None;
    for (i, word) in said.iter().enumerate() {
        let Some(mut which) = pair.iter().position(|p| p.eq_ignore_ascii_case(word)) else {
            continue;
        };
        let mut before = said[..i].iter().rev().take(2);
        if before.any(|w| w.eq_ignore_ascii_case("not") || w.ends_with("n't")) {
            if pair[0] != "valid" {
                return None;
            }
            which = 1 - which;
        }
        if *found.get_or_insert(which) != which {
            return None;
        }
    }
    found.map(|which| pair[which].to_owned())
}

/// The brackets and blanks that a text begins with, if it begins with a bracket.
fn bracket_run(text: &str) -> Option<&str> {
    let end = text.find(|c| c != ' ' && !BRACKETS.contains(&c)).unwrap_or(text.len());
    Some(text[..end].trim_end()).filter(|run| !run.is_empty() && run.starts_with(BRACKETS))
}

/// Words between blanks and commas, lower case, without the marks around them.
fn tokens(text: &str) -> impl Iterator<Item = String> {
    let marks = |c: char| !c.is_alphanumeric();
    text.split(move |c: char| c.is_whitespace() || c == ',' || c == '<')
        .map(move |word| word.trim_matches(marks).to_lowercase())
        .filter(|word| !word.is_empty())
}

fn list_words(list: &str) -> Vec<String> {
    let mut words: Vec<String> = tokens(list).collect();
    words.sort();
    words
}

/// What may stand between the words of a list: numbering and the last `and`.
fn is_filler(token: &str) -> bool {
    token == "and" || token.bytes().all(|b| b.is_ascii_digit())
}

/// The runs of words of the list in a text, each with the words passed over before it.
fn runs<'a>(text: &'a str, list: &'a [String]) -> impl Iterator<Item = (usize, Vec<String>)> + 'a {
    let mut tokens = tokens(text).peekable();
    std::iter::from_fn(move || {
        let listed = |token: &String| list.binary_search(token).is_ok();
        let mut skipped = 0;
        while let Some(token) = tokens.next_if(|token| !listed(token)) {
            skipped += usize::from(!is_filler(&token));
        }
        let mut run = Vec::new();
        while let Some(token) = tokens.next_if(|token| listed(token) || is_filler(token)) {
            if listed(&token) {
                run.push(token);
            }
        }
        (!run.is_empty()).then_some((skipped, run))
    })
}

#[cfg(test)]
mod tests {
    use super::super::trigger::triggers;
    use super::*;

    #[track_caller]
    fn texts(gold: &str, stem: &str, table: &[(&str, &str, bool)]) {
        for &(text, expected, explicit) in table {
            let found = read(text, Shape::of(gold, stem), &triggers(text));
            let found = found.as_ref().map_or(("-", false), |f| (f.what.as_str(), f.explicit));
            assert_eq!(found, (expected, explicit), "{text:?}");
        }
    }

    #[test]
    fn pairs() {
        texts(
            "True",
            "not ( True ) and ( True ) is",
            &[
                ("So the answer is True.", "True", true),
                ("So the answer is **false**", "False", true),
                ("True", "True", true),
                ("not True = False. So the answer is False", "False", true),
                ("The answer is True or False.", "-", false),
                ("It evaluates to False, since it is so.", "False", false),
                ("not True and False", "-", false),
                ("\\boxed{\\text{True}}", "True", true),
            ],
        );
        texts(
            "yes",
            "Is it plausible?",
            &[
                ("So the answer is yes.", "Yes", true),
                ("So the answer is no", "No", true),
                ("No, he never skated.", "No", false),
                ("There are no rinks.", "-", false),
                ("no", "No", true),
            ],
        );
        texts(
            "invalid",
            "Is it valid?",
            &[
                ("So the answer is that the argument is deductively invalid.", "invalid", true),
                ("The answer is not valid.", "invalid", true),
                ("The argument is valid.", "valid", false),
                ("It is valid, or is it invalid?", "-", false),
            ],
        );
    }

    #[test]
    fn brackets() {
        texts(
            ") ) >",
            "Input: < ( (",
            &[
                (") ) >", ") ) >", true),
                ("So the answer is ) ) >.", ") ) >", true),
                ("So the answer is: `))>`", "))>", true),
                ("We need (as above) to close ( with ) and then ] ] >", "] ] >", false),
                ("nothing", "-", false),
            ],
        );
        assert!(equal("))>", ") ) > ") && !equal("))>", "))"));
    }

    #[test]
    fn lists() {
        texts(
            "bela bock burley",
            "Sort the following words alphabetically: List: burley bela bock",
            &[
                ("bela bock burley", "bela bock burley", true),
                ("So the answer is bela, bock, burley.", "bela bock burley", true),
                ("The answer is:\n1. bela\n2. bock\n3. burley", "bela bock burley", true),
                ("The answer is the following: Bela bock and burley", "bela bock burley", true),
                ("burley first? Hence bela < bock < burley", "bela bock burley", false),
                ("I cannot", "-", false),
            ],
        );
        assert!(equal("Bela, bock", "bela bock."));
    }

    #[test]
    fn lines() {
        texts(
            "Monsters, Inc",
            "Find a movie",
            &[
                ("The answer is Monsters, Inc.", "Monsters, Inc", true),
                ("Monsters, Inc", "Monsters, Inc", true),
                ("The answer is not that.", "-", false),
                ("Two\nlines", "-", false),
            ],
        );
    }
}
