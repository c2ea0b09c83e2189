//! Where in a text an answer is announced: the one idea all readings share.

use std::sync::LazyLock;

use regex::Regex;

/// A phrase that announces the answer.
pub struct Trigger {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
}

#[derive(PartialEq, Eq)]
pub enum Kind {
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
        r"(?i)\b(?:answer|",
        r"(?:correct|right|best|final|chosen|selected)\s(?:option|choice|solution|response))",
        r"(?:\s(?:choice|option))?[*_]*",
        // What the answer is an answer to.
        r"(?:\s(?:to|for)\s(?:the|this|your)\s(?:question|problem)|",
        r"\s(?:from|among|of|out\sof)\s(?:the|these)\s(?:(?:given|following|above)\s)?",
        r"(?:options|choices)|\sthat\s(?:best|makes|fits|matches)\s[^.,:;\n]{0,40}?|",
        r"\shere|\s(?:that\s)?i\swould\s(?:choose|pick|give)|,\sin\smy\sopinion)?",
        r"(?:\sfrom\sthe\sgiven\soptions)?",
        r"(?:\s\(arabic numerals\))?,?\s+(?:isn't|wasn't|can't\sbe|cannot\sbe|",
        r"(?:would|should|must|could|can|will|might|may)(?:\snot|n't)?\s(?:\w+\s)?be|",
        r"has\sto\sbe|seems\sto\sbe|is|was)\b[*_]*:?|",
        r#"\b(?:answer|ans|(?:correct|right|best|final|chosen|selected)\s(?:option|choice))["*_]*"#,
        r"(?:\s?[:=]|\s[-–—]\s)|<answer>|#{4,}|\\boxed|\\fbox"
    ))
    .expect("constant")
});

/// What may lead on to an answer once one was denied.
pub static INSTEAD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:it\sis|it's|it\smust\sbe|but\srather|but|rather|instead)\b[,:]?")
        .expect("constant")
});

pub static NOT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^[\s*_:,]*(?:(?:definitely|certainly|clearly|probably)\s)?(?:not|never)\b")
        .expect("constant")
});

static REMARK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\s*(?:correct|incorrect|right|wrong|true|false|valid|invalid|based)\b")
        .expect("constant")
});

/// What is said of an answer rather than the answer: `The answer is obvious`.
static IDLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)^\s*(?:obvious|simple|clear|unclear|final|good|found|easy|what|for|straightforward|",
        r"given|provided|explained|supported|helpful|reasonable|useful|based)\b"
    ))
    .expect("constant")
});

/// What denies an answer before it is announced: `I don't think the answer is A`.
static DENIED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)(?:\b(?:don't|doesn't|didn't|can't|(?:do|does|did|can)\s?not)\s(?:think|believe|say)",
        r"(?:\sthat)?\s(?:(?:the|my)\s)?(?:(?:correct|right|best)\s)?|",
        r"\bunlikely\s(?:that\s)?(?:the\s)?|\b(?:incorrect|wrong|least\s\w+)\s)$"
    ))
    .expect("constant")
});

/// What makes a case of an announcement: `If your answer was B, you misread`.
static SUPPOSED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:if|whether)\s(?:(?:the|your|my)\s)?$").expect("constant")
});

/// Words before a trigger that may change its sense take up no more bytes than these.
const BEFORE: usize = 60;

impl Trigger {
    /// A short piece of the text before the trigger.
    fn before<'a>(&self, text: &'a str) -> &'a str {
        let mut from = self.start.saturating_sub(BEFORE);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        &text[from..self.start]
    }

    pub fn negated(&self, text: &str) -> bool {
        self.kind == Kind::Denies
            || NOT.is_match(&text[self.end..])
            || self.kind == Kind::Says && DENIED.is_match(self.before(text))
    }

    /// Whether what follows is most likely no answer: where one was announced before, it stands.
    pub fn idle(&self, text: &str) -> bool {
        self.kind == Kind::Says && IDLE.is_match(&text[self.end..])
    }

    pub fn remark(&self, text: &str) -> bool {
        self.kind == Kind::Says
            && (REMARK.is_match(&text[self.end..]) || SUPPOSED.is_match(self.before(text)))
    }
}

/// So many triggers are looked at, at most: each may cost the time of the whole text.
const MOST: usize = 50;

/// The last triggers of a text, in order.
pub fn triggers(text: &str) -> Vec<Trigger> {
    let begins = text.find(char::is_alphanumeric).unwrap_or(text.len());
    let all: Vec<_> = TRIGGER.find_iter(text).collect();
    all[all.len().saturating_sub(MOST)..]
        .iter()
        .map(|m| {
            let words = m.as_str();
            let first = m.start() <= begins;
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
pub fn boxed(text: &str, at: usize) -> Option<(usize, usize)> {
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
