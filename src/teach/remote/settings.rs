//! What a teacher's TOML file says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::secret::Secret;
use super::{key_name, redacted_toml_error, refused_key};

/// Between the seeds of two samples of a prompt.
const SEEDS_APART: u64 = 1000;

/// Which of the two interfaces is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/v1/chat/completions`: the prompt is the only message, the server puts its
    /// model's chat template around it.
    Chat,
    /// `/v1/completions`: the model goes on where the prompt ends, as local models do.
    Completions,
}

/// What the length limit is called in a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    #[default]
    MaxTokens,
    /// As OpenAI's newer models want it.
    MaxCompletionTokens,
}

impl MaxTokensField {
    pub(super) fn name(self) -> &'static str {
        match self {
            MaxTokensField::MaxTokens => "max_tokens",
            MaxTokensField::MaxCompletionTokens => "max_completion_tokens",
        }
    }

    fn is_default(&self) -> bool {
        *self == MaxTokensField::default()
    }
}

/// A model behind an OpenAI-compatible server, and how to ask it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteTeacher {
    /// As OpenAI's own clients take it, version included:
    /// `http://localhost:8000/v1`. Without any path, `/v1` is meant.
    pub base_url: String,
    /// The model's name on that server.
    pub model: String,
    pub endpoint: Endpoint,
    /// Other names under which the server may report that model. The name itself,
    /// and the name with a revision or date behind it (`gpt-3.5-turbo-0125`,
    /// `llama@main`), need not be listed.
    #[serde(default)]
    pub answers_as: Vec<String>,
    /// NAME of the environment variable that holds the key. The key itself is
    /// neither stored nor shown.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// 0 asks for the most probable token each time.
    #[serde(default)]
    pub temperature: f64,
    /// Length limit of an answer.
    pub max_tokens: u32,
    /// Sent with every request; not every server heeds it. The waits between
    /// attempts are drawn from it, too.
    #[serde(default = "one")]
    pub seed: u64,
    /// The name under which a request says `max_tokens`.
    #[serde(default, skip_serializing_if = "MaxTokensField::is_default")]
    pub max_tokens_field: MaxTokensField,
    /// False for servers that refuse a request with a seed.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub send_seed: bool,
    /// False for models that take no temperature but their own.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub send_temperature: bool,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Answers to each prompt, each asked for by a request and a seed of its own:
    /// not every server knows `n`, and one that cuts a reply loses one answer.
    #[serde(default = "one_sample", skip_serializing_if = "is_one_sample")]
    pub samples: usize,
    /// Requests in flight at a time.
    #[serde(default = "concurrency")]
    pub max_concurrency: usize,
    /// Seconds to get a connection.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: f64,
    /// Seconds until an answer begins. Servers send nothing before the last token
    /// is generated, so this holds the generation and the server's own queue.
    #[serde(default = "first_byte_timeout")]
    pub first_byte_timeout: f64,
    /// Seconds for a whole attempt.
    #[serde(default = "timeout")]
    pub timeout: f64,
    /// Attempts after the first one, for each prompt.
    #[serde(default = "max_retries")]
    pub max_retries: u32,
    /// Seconds before the first repetition, at most; each further one may wait
    /// twice as long.
    #[serde(default = "backoff")]
    pub backoff: f64,
    /// Seconds that such a wait never exceeds.
    #[serde(default = "max_backoff")]
    pub max_backoff: f64,
    /// A server that asks to be left alone for more seconds ends the run instead.
    #[serde(default = "max_retry_after")]
    pub max_retry_after: f64,
    /// Prompt and answer tokens together that may be spent.
    #[serde(default)]
    pub max_total_tokens: Option<u64>,
    /// Money that may be spent, in the currency of the prices.
    #[serde(default)]
    pub max_cost: Option<f64>,
    /// Price of a million prompt tokens.
    #[serde(default)]
    pub price_per_million_input: Option<f64>,
    /// Price of a million answer tokens.
    #[serde(default)]
    pub price_per_million_output: Option<f64>,
}

fn yes() -> bool {
    true
}
fn is_yes(yes: &bool) -> bool {
    *yes
}
fn one() -> u64 {
    1
}
fn one_sample() -> usize {
    1
}
fn is_one_sample(n: &usize) -> bool {
    *n == 1
}
fn concurrency() -> usize {
    8
}
fn connect_timeout() -> f64 {
    10.0
}
fn first_byte_timeout() -> f64 {
    300.0
}
fn timeout() -> f64 {
    600.0
}
fn max_retries() -> u32 {
    6
}
fn backoff() -> f64 {
    1.0
}
fn max_backoff() -> f64 {
    60.0
}
fn max_retry_after() -> f64 {
    300.0
}

impl RemoteTeacher {
    /// Reads and checks a teacher's file. No message repeats a line of it: someone
    /// may have put a key there.
    pub fn load(path: &Path) -> Result<RemoteTeacher> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        RemoteTeacher::parse(&text).with_context(|| path.display().to_string())
    }

    /// The same from the text of a file.
    pub fn parse(text: &str) -> Result<RemoteTeacher> {
        let redacted = |e: toml::de::Error| anyhow!(redacted_toml_error(&e, text));
        let table: toml::Table = text.parse().map_err(redacted)?;
        if let Some(name) = key_name(&table) {
            bail!(refused_key(name));
        }
        let teacher: RemoteTeacher = toml::from_str(text).map_err(redacted)?;
        teacher.check()?;
        Ok(teacher)
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<()> {
        self.url()?;
        ensure!(!self.model.trim().is_empty(), "model: empty");
        if let Some(name) = &self.api_key_env {
            let mut chars = name.chars();
            let first = chars.next().is_some_and(|c| c.is_ascii_uppercase() || c == '_');
            let rest = chars.all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            ensure!(
                first && rest,
                "api_key_env: must be the NAME of an environment variable (capital letters, \
                 digits, underscores), not the key itself"
            );
        }
        let t = self.temperature;
        ensure!((0.0..=10.0).contains(&t), "temperature: {t} is not between 0 and 10");
        ensure!(self.max_tokens > 0, "max_tokens: must be at least 1");
        ensure!(self.max_concurrency > 0, "max_concurrency: must be at least 1");
        ensure!(self.samples > 0, "samples: must be at least 1");
        ensure!(
            self.samples == 1 || t > 0.0 || !self.send_temperature,
            "samples: all {} would be the same at temperature 0; set a higher one",
            self.samples
        );
        let last = (self.samples as u64 - 1).checked_mul(SEEDS_APART);
        let last = last.and_then(|n| n.checked_add(self.seed));
        ensure!(
            last.is_some_and(|seed| i64::try_from(seed).is_ok()),
            "seed: servers take a signed number of 64 bits, {} (and {SEEDS_APART} more for each \
             further sample) is larger",
            self.seed
        );
        ensure!(self.stop.iter().all(|s| !s.is_empty()), "stop: an empty text ends every answer");
        for (key, seconds) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("timeout", self.timeout),
        ] {
            ensure!(
                seconds > 0.0 && seconds <= 1e6,
                "{key}: {seconds} is no sensible number of seconds"
            );
        }
        for (key, seconds) in [
            ("backoff", self.backoff),
            ("max_backoff", self.max_backoff),
            ("max_retry_after", self.max_retry_after),
        ] {
            ensure!(
                (0.0..=1e6).contains(&seconds),
                "{key}: {seconds} is no sensible number of seconds"
            );
        }
        for (key, price) in [
            ("price_per_million_input", self.price_per_million_input),
            ("price_per_million_output", self.price_per_million_output),
            ("max_cost", self.max_cost),
        ] {
            if let Some(p) = price {
                ensure!(p.is_finite() && p >= 0.0, "{key}: {p} is not a sum of money");
            }
        }
        ensure!(
            self.max_cost.is_none()
                || (self.price_per_million_input.is_some()
                    && self.price_per_million_output.is_some()),
            "max_cost: needs price_per_million_input and price_per_million_output"
        );
        Ok(())
    }

    /// The seed that a sample is asked for with. Neighbouring seeds are other runs'.
    pub(super) fn sample_seed(&self, sample: usize) -> u64 {
        self.seed + SEEDS_APART * sample as u64
    }

    /// Where requests go.
    pub(super) fn url(&self) -> Result<Url> {
        // The text is not repeated until it is known to hold no password.
        let base = Url::parse(&self.base_url).map_err(|e| {
            anyhow::anyhow!("base_url: {e}; expected e.g. http://localhost:8000/v1")
        })?;
        ensure!(
            base.username().is_empty() && base.password().is_none(),
            "base_url: holds a user or password; put the key into an environment variable and \
             name that in api_key_env"
        );
        ensure!(
            base.query().is_none() && base.fragment().is_none(),
            "base_url: holds a query or fragment; give the address only"
        );
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            bail!("base_url: {base} does not begin with http:// or https:// and a host");
        }
        let path = base.path().trim_end_matches('/');
        let what = match self.endpoint {
            Endpoint::Chat => "chat/completions",
            Endpoint::Completions => "completions",
        };
        ensure!(
            !path.ends_with("/completions"),
            "base_url: {base} is an endpoint's address; give the part before /{what}"
        );
        let mut url = base.clone();
        url.set_path(&format!("{}/{what}", if path.is_empty() { "/v1" } else { path }));
        Ok(url)
    }

    /// The server's name, without port: a server that moved to another port of its
    /// machine still counts as the same teacher.
    pub(super) fn host(&self) -> String {
        let url = Url::parse(&self.base_url).ok();
        url.and_then(|u| u.host_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Names the teacher in annotations: `model@host#hash`. The hash is of all
    /// that decides what is answered, so caps, prices, timeouts and concurrency may
    /// change between two runs that share a journal.
    pub fn id(&self) -> String {
        let mut decides = vec![
            json!(self.host()),
            json!(self.model),
            json!(self.endpoint),
            json!(self.temperature),
            json!(self.max_tokens),
            json!(self.seed),
            json!(self.stop),
        ];
        // Settings that came later: left alone, they name the journals of before.
        for (name, sent) in [("seed", self.send_seed), ("temperature", self.send_temperature)] {
            if !sent {
                decides.push(json!(format!("no {name}")));
            }
        }
        let decides = serde_json::Value::from(decides);
        let hash = format!("{:x}", Sha256::digest(decides.to_string().as_bytes()));
        format!("{}@{}#{}", self.model, self.host(), &hash[..16])
    }

    /// Whether a reply that names `served` as its model comes from the model asked for.
    pub(super) fn is_served_by(&self, served: &str) -> bool {
        served == self.model
            || self.answers_as.iter().any(|name| name == served)
            || served.strip_prefix(self.model.as_str()).is_some_and(|rest| {
                let dated = rest.strip_prefix('-').is_some_and(|date| {
                    date.len() >= 4 && date.chars().all(|c| c.is_ascii_digit() || c == '-')
                });
                dated || rest.starts_with('@')
            })
    }

    /// The key, from the environment.
    pub(super) fn secret(&self) -> Result<Option<Secret>> {
        self.api_key_env.as_deref().map(Secret::from_env).transpose()
    }

    pub(super) fn first_byte(&self) -> Duration {
        Duration::from_secs_f64(self.first_byte_timeout.min(self.timeout))
    }
}

#[cfg(test)]
mod tests;
