//! Tokens, money, the cap and the estimate.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::settings::RemoteTeacher;

/// Tokens of prompts and of answers; they have different prices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    pub prompt: u64,
    pub completion: u64,
}

impl Tokens {
    pub fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }

    pub(super) fn add(&mut self, other: Tokens) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.completion = self.completion.saturating_add(other.completion);
    }

    pub(super) fn take(&mut self, other: Tokens) {
        self.prompt = self.prompt.saturating_sub(other.prompt);
        self.completion = self.completion.saturating_sub(other.completion);
    }

    /// Money, where the teacher has prices.
    pub(super) fn cost(self, teacher: &RemoteTeacher) -> Option<f64> {
        let (input, output) = (teacher.price_per_million_input?, teacher.price_per_million_output?);
        Some((self.prompt as f64 * input + self.completion as f64 * output) / 1e6)
    }
}

/// Tokens that a chat template may put around a prompt; the usual ones put 5 to 30.
const TEMPLATE: u64 = 64;

/// More than a request can cost: no tokenizer in use makes more tokens of a text
/// than it has bytes.
pub(super) fn bound(teacher: &RemoteTeacher, prompt: &str) -> Tokens {
    Tokens { prompt: prompt.len() as u64 + TEMPLATE, completion: u64::from(teacher.max_tokens) }
}

/// Everything a journal accounts for: the content of `usage.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Questions answered.
    pub answers: u64,
    /// Of these, with no text at all: the model called a tool, was filtered, or said nothing.
    #[serde(default)]
    pub empty: u64,
    /// Questions that the server refused to answer; they count as unanswered for good.
    #[serde(default)]
    pub refused: u64,
    /// Replies that could not be used: cut, malformed, of another model, late.
    pub lost: u64,
    /// Tokens that the server reported, of unusable replies too.
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Where the server reported none, the most it can have been; the cap counts them.
    pub assumed_prompt_tokens: u64,
    pub assumed_completion_tokens: u64,
    /// Money for all of these at the last run's prices, where its file has any.
    pub cost: Option<f64>,
    /// Models as the server named them.
    pub served: Vec<String>,
}

impl Usage {
    /// Counts a reply: what the server reported, else the bound.
    pub(super) fn count(&mut self, reported: Option<Tokens>, bound: Tokens) {
        match reported {
            Some(t) => {
                self.prompt_tokens = self.prompt_tokens.saturating_add(t.prompt);
                self.completion_tokens = self.completion_tokens.saturating_add(t.completion);
            }
            None => {
                let (prompt, completion) =
                    (&mut self.assumed_prompt_tokens, &mut self.assumed_completion_tokens);
                *prompt = prompt.saturating_add(bound.prompt);
                *completion = completion.saturating_add(bound.completion);
            }
        }
    }

    /// Reported and assumed together: what the cap is held against.
    pub fn spent(&self) -> Tokens {
        Tokens {
            prompt: self.prompt_tokens.saturating_add(self.assumed_prompt_tokens),
            completion: self.completion_tokens.saturating_add(self.assumed_completion_tokens),
        }
    }

    /// Adds what another journal accounts for.
    pub(super) fn absorb(&mut self, more: &Usage) {
        for (all, more) in [
            (&mut self.answers, more.answers),
            (&mut self.empty, more.empty),
            (&mut self.refused, more.refused),
            (&mut self.lost, more.lost),
            (&mut self.prompt_tokens, more.prompt_tokens),
            (&mut self.completion_tokens, more.completion_tokens),
            (&mut self.assumed_prompt_tokens, more.assumed_prompt_tokens),
            (&mut self.assumed_completion_tokens, more.assumed_completion_tokens),
        ] {
            *all = all.saturating_add(more);
        }
    }

    /// What a user should know of the answers before believing a score, if anything.
    pub fn remark(&self) -> Option<String> {
        let mut said = Vec::new();
        if self.refused > 0 {
            said.push(format!(
                "{} prompts were refused by the server and count as no answer (journal.jsonl says \
                 why: \"refused\")",
                self.refused
            ));
        }
        if self.empty > self.answers / 2 {
            said.push(format!(
                "{} of {} answers are empty: the model may call tools, think until max_tokens is \
                 reached, or need the other endpoint",
                self.empty, self.answers
            ));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// Why a cap forbids a request, if it does. `held` is what is spent and what the
/// requests in flight may still cost.
pub(super) fn forbids(teacher: &RemoteTeacher, held: Tokens, next: Tokens) -> Option<String> {
    let mut sum = held;
    sum.add(next);
    if let Some(cap) = teacher.max_total_tokens.filter(|cap| sum.total() > *cap) {
        return Some(format!(
            "max_total_tokens = {cap}: {} are spent, the next request may take {}",
            held.total(),
            next.total()
        ));
    }
    let (cap, cost) = (teacher.max_cost?, sum.cost(teacher)?);
    (cost > cap).then(|| {
        format!(
            "max_cost = {cap}: {:.4} is spent, the next request may cost {:.4}",
            held.cost(teacher).unwrap_or(0.0),
            next.cost(teacher).unwrap_or(0.0)
        )
    })
}

/// What is left to ask, before it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Questions still to ask.
    pub requests: usize,
    /// Questions that the journal already answers.
    pub answered: usize,
    /// Prompt tokens, approximated: bytes divided by `bytes_per_token`.
    pub prompt_tokens: u64,
    /// Bytes of prompt to a token: 4, the usual measure for English, until the journal
    /// holds answers whose tokens the server counted; then what they had.
    pub bytes_per_token: f64,
    /// Whether the journal gave `bytes_per_token`.
    pub measured: bool,
    /// Answer tokens at most: every answer as long as `max_tokens` allows.
    pub completion_tokens: u64,
    /// Money at most, where the teacher has prices.
    pub cost: Option<f64>,
    /// What the journal holds by now.
    pub spent: Usage,
    /// The caps, in words.
    pub caps: Option<String>,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests ({} answered before): about {} prompt tokens ({} {:.1} bytes each), at \
             most {} answer tokens",
            self.requests,
            self.answered,
            self.prompt_tokens,
            if self.measured { "measured" } else { "taking" },
            self.bytes_per_token,
            self.completion_tokens
        )?;
        match self.cost {
            Some(cost) => write!(f, ", at most about {cost:.4} in money")?,
            None => write!(f, "; no prices given")?,
        }
        let spent = self.spent.spent();
        if spent.total() > 0 {
            write!(f, "; spent before: {} tokens", spent.total())?;
            if let Some(cost) = self.spent.cost {
                write!(f, ", {cost:.4}")?;
            }
        }
        if let Some(remark) = self.spent.remark() {
            write!(f, "; {remark}")?;
        }
        match &self.caps {
            Some(caps) => write!(f, "; cap: {caps}"),
            None => write!(f, "; no cap"),
        }
    }
}

/// The caps in words.
pub(super) fn caps(teacher: &RemoteTeacher) -> Option<String> {
    let tokens = teacher.max_total_tokens.map(|n| format!("{n} tokens"));
    let money = teacher.max_cost.map(|c| format!("{c} in money"));
    let caps: Vec<String> = tokens.into_iter().chain(money).collect();
    (!caps.is_empty()).then(|| caps.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher() -> RemoteTeacher {
        RemoteTeacher::parse(
            "base_url = \"http://h\"\nmodel = \"m\"\nendpoint = \"chat\"\nmax_tokens = 100\n\
             price_per_million_input = 2.0\nprice_per_million_output = 10.0\n",
        )
        .unwrap()
    }

    #[test]
    fn prices_of_prompts_and_answers_differ() {
        let t = Tokens { prompt: 500_000, completion: 100_000 };
        assert_eq!(t.cost(&teacher()), Some(2.0));
        assert_eq!(t.cost(&RemoteTeacher { price_per_million_input: None, ..teacher() }), None);
    }

    #[test]
    fn no_count_of_a_server_overflows() {
        let (mut usage, most) = (Usage::default(), u64::MAX);
        for _ in 0..2 {
            let all = Tokens { prompt: most, completion: most };
            usage.count(Some(all), Tokens::default());
            usage.count(None, all);
        }
        usage.absorb(&usage.clone());
        assert_eq!(usage.spent().total(), most);
    }

    #[test]
    fn a_cap_counts_what_is_held_and_the_next_request() {
        let next = bound(&teacher(), "0123456789");
        assert_eq!(next, Tokens { prompt: 74, completion: 100 });
        let capped = RemoteTeacher { max_total_tokens: Some(374), ..teacher() };
        let held = |n| Tokens { prompt: n, completion: 100 };
        assert_eq!(forbids(&capped, held(100), next), None);
        assert!(forbids(&capped, held(101), next).unwrap().contains("374"));
        let capped = RemoteTeacher { max_cost: Some(0.003), ..teacher() };
        assert_eq!(forbids(&capped, held(426), next), None, "exactly the cap");
        assert!(forbids(&capped, held(427), next).unwrap().contains("max_cost"));
        assert_eq!(forbids(&teacher(), held(u64::MAX), next), None, "no cap");
    }
}
