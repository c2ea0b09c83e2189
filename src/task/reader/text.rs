//! What a text is stripped of before it is read.

use std::sync::LazyLock;

use regex::Regex;

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

/// The output proper.
pub fn cut(text: &str) -> &str {
    let mut text = text;
    while let Some(lead) = LEAD.find(text) {
        text = &text[lead.end()..];
    }
    &text[..CUT.find(text).map_or(text.len(), |m| m.start())]
}

/// MATH's questions begin with `Problem:`; in other outputs it is a word like others.
static PROBLEM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^\s*Problem(?:\s+\d+)?\s*:").expect("constant"));

/// The output up to where a new problem of MATH begins.
pub fn cut_at_problem(text: &str) -> &str {
    &text[..PROBLEM.find(text).map_or(text.len(), |m| m.start())]
}

/// One spelling of blanks, quotes and minus signs, so that texts compare byte by byte.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2212}' => out.push('-'),
            '‘' | '’' | '´' => out.push('\''),
            '“' | '”' => out.push('"'),
            '（' => out.push('('),
            '）' => out.push(')'),
            '：' => out.push(':'),
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

/// `text` in lower case, every character in its place: byte offsets are those of `text`.
pub fn lower(text: &str) -> String {
    let one = |c: char| {
        let mut all = c.to_lowercase();
        match (all.next(), all.next()) {
            (Some(small), None) if small.len_utf8() == c.len_utf8() => small,
            _ => c,
        }
    };
    text.chars().map(one).collect()
}

/// Takes out the calculator notes of GSM8K, `<<48/2=24>>`.
pub fn without_notes(text: String) -> String {
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

/// Bytes behind a place that an answer in words or LaTeX may take up.
const LONGEST: usize = 2000;

/// What an answer may take up of `text`, so that a search for its end at each of many places
/// does not cost the square of the text's length.
pub fn head(text: &str) -> &str {
    let mut most = text.len().min(LONGEST);
    while !text.is_char_boundary(most) {
        most -= 1;
    }
    &text[..most]
}

/// Where the first sentence of `text` ends: at a line's end, or at a stop that blanks or
/// nothing follow. Blanks and marks before it are no sentence.
pub fn sentence_end(text: &str) -> usize {
    let start = text.len()
        - text.trim_start_matches(|c: char| c.is_whitespace() || ":*_.\"'".contains(c)).len();
    end_from(text, start)
}

/// The first end of a sentence at or after `start`, whatever stands before.
pub fn end_from(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    (start..bytes.len())
        .find(|&i| match bytes[i] {
            b'\n' => true,
            b'.' | b'!' | b'?' => bytes.get(i + 1).is_none_or(u8::is_ascii_whitespace),
            _ => false,
        })
        .unwrap_or(bytes.len())
}
