//! Multiple choice: which option a text names.

mod options;
mod stated;

use std::sync::LazyLock;

use regex::Regex;

use super::text::{end_from, lower};
use super::trigger::{INSTEAD, Kind, NOT, Trigger, boxed};
use super::{Found, number};
use options::{AFTER_A, FILLERS, LABELS, Options};

/// What joins a second answer to the first.
static JOIN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?i)^[)\]}*"' ]*(?:,?\s*\(?(?:and/or|or|and)\b|[/&,])[\s(]*"#).expect("constant")
});

/// What a place in the text says.
enum Place {
    /// An option and one past the last byte that names it.
    Found(usize, usize),
    /// Two different options.
    Ambiguous,
    Nothing,
}

impl Place {
    fn index(&self) -> Option<usize> {
        match self {
            Place::Found(index, _) => Some(*index),
            _ => None,
        }
    }
}

/// The option a cleaned text answers with. It is explicit where a letter or an option stands
/// right behind a trigger or is all there is; an option that is merely named is not.
pub fn read(text: &str, options: &[String], triggers: &[Trigger]) -> Option<Found<usize>> {
    let options = Options::new(options);
    let search = Search { text, lower: lower(text), options: &options };
    let mut denied = Vec::new();
    for (i, trigger) in triggers.iter().enumerate().rev() {
        let at = trigger.end;
        if trigger.kind == Kind::Box {
            let (from, to) = boxed(text, at)?;
            let text = &text[from..to];
            let inside = Search { text, lower: lower(text), options: &options };
            let index = inside.bare(0).map(|found| found.what);
            return index.or_else(|| inside.place(0).index()).map(Found::explicit);
        }
        // Options may begin like a negation or a remark: `not enough food`, `right away`.
        let option = search.option_at(search.skip_marks(at)).is_some();
        if !option && trigger.negated(text) {
            let until = triggers.get(i + 1).map_or(text.len(), |next| next.start);
            if let Some(index) = search.instead(at, until, &mut denied) {
                return Some(Found::explicit(index));
            }
            continue;
        }
        if !option && trigger.remark(text) {
            continue;
        }
        let place = search.place(at);
        if matches!(place, Place::Nothing) && trigger.idle(text) {
            continue;
        }
        let found = match place {
            Place::Nothing if trigger.kind == Kind::Echo => search.bare(at),
            // Nothing announced: what was announced before stands.
            Place::Nothing => match search.unique(at, search.sentence_end(at), true) {
                None if i > 0 => continue,
                guess => guess.map(Found::guess),
            },
            place => place.index().map(Found::explicit),
        };
        return found.filter(|found| !denied.contains(&found.what));
    }
    if triggers.iter().any(|trigger| trigger.negated(text)) { None } else { search.bare(0) }
}

/// One text and the options to be found in it.
struct Search<'a> {
    text: &'a str,
    /// `text` in lower case, byte by byte.
    lower: String,
    options: &'a Options,
}

impl Search<'_> {
    /// Reads the answer that begins at `at`, past marks and filler words.
    fn place(&self, at: usize) -> Place {
        let reading = self.begins(at);
        let Place::Found(index, end) = reading else { return reading };
        // `A or C`, `A/C`, `A, C`: another answer joined to the first.
        let Some(join) = JOIN.find(&self.text[end..]) else { return reading };
        let second = end + join.end();
        match self.begins(second) {
            Place::Found(other, _) if other == index => reading,
            Place::Found(_, end) => {
                // A bare comma joins only where nothing but the list goes on: not in
                // `B, C being too small`.
                let comma = join.as_str().trim_matches([' ', ')', '(']) == ",";
                if comma && self.word(self.skip_marks(end)).is_some_and(|w| w != "or" && w != "and")
                {
                    reading
                } else {
                    Place::Ambiguous
                }
            }
            Place::Ambiguous => Place::Ambiguous,
            Place::Nothing => reading,
        }
    }

    fn begins(&self, at: usize) -> Place {
        let mut at = at;
        let mut label = false;
        if let Some(place) = self.calculated(at) {
            return place;
        }
        for _ in 0..16 {
            // The option is looked for before each mark, too: it may begin with one.
            let marks = self.skip_marks(at);
            for start in [at, marks] {
                if let Some((index, end)) = self.option_at(start) {
                    return self.lettered_behind(index, end);
                }
            }
            at = marks;
            if let Some(index) = self.letter_at(at) {
                return self.texted_behind(index, at + 1);
            }
            if let Some(reading) = self.number_at(at, label) {
                return reading;
            }
            let Some(word) = self.word(at) else { return Place::Nothing };
            if !FILLERS.contains(&word) {
                return Place::Nothing;
            }
            label = LABELS.contains(&word);
            at += word.len();
        }
        Place::Nothing
    }

    /// The option that is the result of a calculation: 23 of `21 + 2 = 23`; the operands are
    /// none. An option that is the whole calculation is found by its text.
    fn calculated(&self, at: usize) -> Option<Place> {
        let at = self.skip_marks(at);
        let first = number::at(self.text, at)?;
        let end = first.end;
        let result = number::result(self.text, first);
        let whole = self.option_at(at).is_some_and(|(_, past)| past >= result.end);
        if result.end == end || whole {
            return None;
        }
        let same = |o: &&options::Folded| o.value.as_ref() == Some(&result.value);
        let option = self.options.list.iter().find(same);
        Some(option.map_or(Place::Nothing, |o| Place::Found(o.index, result.end)))
    }

    /// The option whose text stands at `at`, whole; the longest.
    fn option_at(&self, at: usize) -> Option<(usize, usize)> {
        self.options.list.iter().find_map(|option| {
            let end = at + option.text.len();
            let here = !option.text.is_empty()
                && self.lower[at..].starts_with(&option.text)
                && self.whole(at, end);
            here.then_some((option.index, end))
        })
    }

    /// Whether neither end of a match cuts a word or a number.
    fn whole(&self, start: usize, end: usize) -> bool {
        let text = self.text;
        let (first, last) = (text[start..].chars().next(), text[..end].chars().next_back());
        let mut before = text[..start].chars().rev();
        let mut after = text[end..].chars();
        let joins = |edge: Option<char>, near: Option<char>, far: Option<char>| {
            let (Some(edge), Some(near)) = (edge, near) else { return false };
            let far = far.unwrap_or(' ');
            edge.is_alphanumeric()
                && (near.is_alphanumeric()
                    || near == '-' && far.is_alphanumeric()
                    || ".,".contains(near) && edge.is_ascii_digit() && far.is_ascii_digit())
        };
        // `5` is not named by `-5`.
        let minus = first.is_some_and(|c| c.is_ascii_digit()) && text[..start].ends_with('-');
        !minus
            && !joins(first, before.next(), before.next())
            && !joins(last, after.next(), after.next())
    }

    /// A letter in range that stands alone at `at`.
    fn letter_at(&self, at: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let letter = *bytes.get(at).filter(|b| b.is_ascii_alphabetic())?;
        let index = usize::from(letter.to_ascii_uppercase() - b'A');
        let mut after = self.text[at + 1..].chars();
        let (next, far) = (after.next(), after.next().unwrap_or(' '));
        let before = at.checked_sub(1).map(|i| bytes[i]);
        if index >= self.options.list.len()
            || self.text[..at].chars().next_back().is_some_and(char::is_alphanumeric)
            || next.is_some_and(|c| c.is_alphanumeric() || c == '_' && before != Some(b'_'))
            || next.is_some_and(|c| "'-.".contains(c)) && far.is_alphanumeric()
        {
            return None;
        }
        let bracketed =
            matches!(next, Some(')' | ']' | '}' | '*')) || (before == Some(b'(') && next.is_none());
        let ends = matches!(next, None | Some('.' | '\n'));
        let stands = if bracketed {
            true
        } else if letter.is_ascii_lowercase() {
            ends && !matches!(letter, b'a' | b'i')
        } else if matches!(letter, b'A' | b'I') && next == Some(' ') {
            // `A knife` has an article, `A because ...` a letter.
            self.word(at + 2).is_none_or(|word| AFTER_A.contains(&word))
        } else {
            true
        };
        stands.then_some(index)
    }

    /// A number at `at`: the value of an option or, where no option is a number, a label
    /// counted from one (SIQA's `2`, PIQA's `solution 2`).
    fn number_at(&self, at: usize, label: bool) -> Option<Place> {
        let token = number::at(self.text, at)?;
        if self.options.valued {
            let mut same =
                self.options.list.iter().filter(|o| o.value.as_ref() == Some(&token.value));
            return Some(match (same.next(), same.next()) {
                (Some(option), None) => Place::Found(option.index, token.end),
                (Some(_), Some(_)) => Place::Ambiguous,
                (None, _) => Place::Nothing,
            });
        }
        let index = token.value.parse::<usize>().ok()?.checked_sub(1)?;
        if !self.options.labelled || index >= self.options.list.len() {
            return None;
        }
        // Alone, closed like a letter, or before its own option: not `2 people`.
        let after = &self.text[token.end..];
        let closed = after.is_empty() || after.starts_with([')', ']', '}', '*', '.', ':', '\n']);
        let own = self.option_at(self.skip_marks(token.end)).is_some_and(|(i, _)| i == index);
        if !(label || closed || own) {
            return None;
        }
        Some(self.texted_behind(index, token.end))
    }

    /// Takes in the option text behind its letter, `B) library`. The text of another option
    /// there is a contradiction.
    fn texted_behind(&self, index: usize, end: usize) -> Place {
        let closers = [')', ']', '}', '*', '"', '\'', '.', ':', ',', '-', '–', ' '];
        let rest = self.text[end..].trim_start_matches(closers);
        let at = self.text.len() - rest.len();
        let Some((other, past)) = self.option_at(at) else {
            return Place::Found(index, end);
        };
        let text = |wanted: usize| self.options.list.iter().find(|o| o.index == wanted);
        let (own, named) = (text(index), text(other));
        if other == index || own.map(|o| &o.text) == named.map(|o| &o.text) {
            return Place::Found(index, past);
        }
        // A text cut short may look like a shorter option.
        let cut = own.is_some_and(|o| o.text.starts_with(self.lower[at..].trim_end()));
        let goes_on = self.word(self.skip_marks(past)).is_some();
        let comma = self.text[end..at].contains(',');
        if cut || goes_on || comma { Place::Found(index, end) } else { Place::Ambiguous }
    }

    /// Takes in a bracketed letter behind an option text, `library (B)`. Another option's
    /// letter there is a contradiction.
    fn lettered_behind(&self, index: usize, end: usize) -> Place {
        let bytes = &self.text.as_bytes()[end..];
        let open = bytes.iter().take_while(|b| **b == b' ').count();
        match bytes.get(open..open + 3) {
            Some([b'(', letter, b')']) if letter.is_ascii_uppercase() => {
                let text = |index| self.options.list.iter().find(|o| o.index == index);
                let letter = usize::from(letter - b'A');
                // Two options may be the same.
                let same = letter == index
                    || text(letter).is_some_and(|o| Some(&o.text) == text(index).map(|o| &o.text));
                if same { Place::Found(index, end + open + 3) } else { Place::Ambiguous }
            }
            _ => Place::Found(index, end),
        }
    }

    /// The answer behind a denied one: `is not A. It is D.`
    fn instead(&self, at: usize, until: usize, denied: &mut Vec<usize>) -> Option<usize> {
        let tail = &self.text[at..until];
        if let Some(not) = NOT.find(tail)
            && let Some(index) = self.begins(at + not.end()).index()
        {
            denied.push(index);
        } else if let Some(index) = self.begins(at).index() {
            denied.push(index);
        }
        INSTEAD
            .find_iter(tail)
            .filter_map(|m| self.place(at + m.end()).index())
            .find(|index| !denied.contains(index))
    }

    /// Without a trigger: nothing but a letter or an option, or exactly one option named.
    fn bare(&self, from: usize) -> Option<Found<usize>> {
        let text = self.text[from..].trim_matches(|c: char| !c.is_alphanumeric());
        if let [letter] = text.as_bytes()
            && letter.is_ascii_alphabetic()
        {
            let index = usize::from(letter.to_ascii_uppercase() - b'A');
            if index < self.options.list.len() {
                return Some(Found::explicit(index));
            }
        }
        match self.place(from) {
            Place::Found(index, end) if self.text[end..].chars().all(|c| !c.is_alphanumeric()) => {
                return Some(Found::explicit(index));
            }
            Place::Ambiguous => return None,
            _ => {}
        }
        let stated = self.first(from).or_else(|| self.chosen(from));
        let named = || self.unique(from, self.text.len(), false).map(Found::guess);
        stated.map(Found::explicit).or_else(named)
    }

    /// The one option named between two places; with `letters`, bracketed letters count, too.
    fn unique(&self, from: usize, to: usize, letters: bool) -> Option<usize> {
        let mut found: Option<usize> = None;
        let mut agrees = |index: usize| *found.get_or_insert(index) == index;
        let mut covered = vec![false; to - from];
        for (rank, option) in self.options.list.iter().enumerate() {
            // Of two equal options the first stands for both.
            let double = self.options.list[..rank].iter().any(|o| o.text == option.text);
            if option.text.is_empty() || double {
                continue;
            }
            for (i, _) in self.lower[from..to].match_indices(&option.text) {
                let (start, end) = (from + i, from + i + option.text.len());
                let span = &mut covered[i..i + option.text.len()];
                if span.contains(&true) || !self.whole(start, end) {
                    continue;
                }
                span.fill(true);
                if !self.denied_before(start) && !agrees(option.index) {
                    return None;
                }
            }
        }
        if letters {
            let bytes = self.text.as_bytes();
            for close in (from + 1..to).filter(|&i| bytes[i] == b')') {
                let letter = bytes[close - 1];
                if letter.is_ascii_uppercase()
                    && !covered[close - 1 - from]
                    && !self.denied_before(close - 1)
                    && let Some(index) = self.letter_at(close - 1)
                    && !agrees(index)
                {
                    return None;
                }
            }
        }
        found
    }

    /// Whether the word before an option denies it: `not a bank`.
    fn denied_before(&self, start: usize) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '\'';
        let words = self.lower[..start].rsplit(|c| !is_word(c)).filter(|word| !word.is_empty());
        let word = words.take(3).find(|word| !matches!(*word, "a" | "an" | "the" | "of"));
        word.is_some_and(|word| {
            word.ends_with("n't")
                || matches!(word, "not" | "never" | "neither" | "nor" | "than" | "instead")
        })
    }

    /// Where the sentence at `from` ends; leading blanks are not an end.
    fn sentence_end(&self, from: usize) -> usize {
        end_from(self.text, self.skip_marks(from)).max(from)
    }

    fn skip_marks(&self, at: usize) -> usize {
        let marks = |c: char| c.is_whitespace() || ":*_\"'`([{<>$,=-–—\\#|".contains(c);
        let rest = self.text[at..].trim_start_matches(marks);
        let at = self.text.len() - rest.len();
        // The backslash of a fraction is part of a number.
        let fraction = ["frac", "dfrac", "tfrac"].iter().any(|f| rest.starts_with(f));
        at - usize::from(fraction && self.text[..at].ends_with('\\'))
    }

    /// The word at `at`, in lower case.
    fn word(&self, at: usize) -> Option<&str> {
        let rest = self.lower.get(at..)?;
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '\'').unwrap_or(rest.len());
        (end > 0).then(|| &rest[..end])
    }
}
