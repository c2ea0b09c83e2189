//! Teachers behind an OpenAI-compatible server: vLLM, mistral.rs, llama.cpp, TGI,
//! `transformers serve`, or a hosted model such as GPT-3.5.
//!
//! What a server answers costs money or hours, so nothing of it may get lost or be
//! asked twice. Every usable reply is written to a `journal` the moment it
//! arrives; the annotations, the totals in `usage.json` and what is left to ask
//! are all derived from it. The parts:
//!
//! - `settings`: what a teacher's TOML file says, and which of it names the answers
//! - `secret`: the key, which leaves the process only in the request's header
//! - `wire`: requests and replies as JSON
//! - `client`: one attempt, and what its failure means
//! - `retry`: how long to wait before the next one
//! - `spend`: tokens, money, the cap and the estimate
//! - `purse`: what a cap counts, also over several folders asked into at once
//! - `ahead`: the estimate, from the journals and what is still to ask
//! - `journal`: what was paid for
//! - `run`: the loop over all of it

mod ahead;
mod client;
mod journal;
mod purse;
mod retry;
mod run;
mod secret;
mod settings;
mod spend;
mod wire;

pub(crate) use super::redacted::{key_name, redacted_toml_error, refused_key};
pub use ahead::{Ask, estimate, estimate_all};
pub use purse::Purse;
pub use run::{Stopped, annotate_from, annotate_remote};
pub use settings::{Endpoint, MaxTokensField, RemoteTeacher};
pub use spend::{Estimate, Tokens, Usage};

/// What [`annotate_remote`] tells of while it works.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One question more is answered, or refused for good; it was not asked before.
    Answered,
    /// An attempt failed and is made again.
    Retry {
        /// Id of the question.
        id: String,
        /// What went wrong, without the key.
        reason: String,
        /// Seconds until the next attempt.
        wait: f64,
    },
}
