//! One attempt, and what its failure means.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, Url};
use serde_json::Value;

use super::retry::retry_after;
use super::secret::Secret;
use super::settings::RemoteTeacher;
use super::spend::Tokens;
use super::wire::{self, Reply};

/// No answer is longer; a server that sends more is broken.
const MAX_REPLY: usize = 16 << 20;

/// Why an attempt brought no answer. No text in it holds the key.
#[derive(Debug)]
pub(super) enum Failure {
    /// The next attempt may go better.
    Again {
        reason: String,
        /// How long the server wants to be left alone.
        wish: Option<Duration>,
        lost: Charge,
    },
    /// The server is asked too much, whatever the prompt.
    Busy { reason: String, wish: Option<Duration> },
    /// The server refuses this request, and would again; others it may take.
    Refused {
        reason: String,
        /// Refusals with the same have the same cause.
        alike: String,
        /// The server says that it is the prompt, not a setting.
        prompt: bool,
    },
    /// No attempt would go better, with this prompt or another.
    Final { reason: String, lost: Charge },
}

impl Failure {
    fn last(reason: impl Into<String>) -> Failure {
        Failure::Final { reason: reason.into(), lost: Charge::Nothing }
    }
}

/// Whether a failed attempt cost something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Charge {
    /// The server did not take it.
    Nothing,
    /// The server answered, or may have: the tokens, where it told.
    Perhaps(Option<Tokens>),
}

/// A connection to a teacher's server.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    teacher: RemoteTeacher,
    secret: Option<Secret>,
}

impl Client {
    pub fn new(teacher: &RemoteTeacher) -> Result<Client> {
        let url = teacher.url()?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("cotalign/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs_f64(teacher.connect_timeout))
            .timeout(Duration::from_secs_f64(teacher.timeout))
            .pool_max_idle_per_host(teacher.max_concurrency)
            // The key must not follow a redirection, and a redirected POST loses its body.
            .redirect(Policy::none())
            // Repetitions are ours to count.
            .retry(reqwest::retry::never());
        if url.scheme() == "http" {
            // Reads no certificates: a machine without any can still ask its own server.
            builder = builder.tls_certs_only([]);
        }
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder.build().context("the HTTP client could not be set up")?;
        Ok(Client { http, url, teacher: teacher.clone(), secret: teacher.secret()? })
    }

    fn hide(&self, text: &str) -> String {
        match &self.secret {
            Some(secret) => secret.hide(text),
            None => text.to_owned(),
        }
    }

    /// Asks once.
    pub async fn ask(&self, prompt: &str, seed: u64) -> Result<Reply, Failure> {
        let body = wire::request(&self.teacher, prompt, seed);
        let mut request = self.http.post(self.url.clone()).json(&body);
        if let Some(secret) = &self.secret {
            let bearer = secret.bearer().map_err(|e| Failure::last(e.to_string()))?;
            request = request.header(AUTHORIZATION, bearer);
        }
        let late = self.teacher.first_byte();
        let response = match tokio::time::timeout(late, request.send()).await {
            Err(_) => {
                return Err(Failure::Again {
                    reason: format!("no answer within {} s", late.as_secs_f64()),
                    wish: None,
                    lost: Charge::Perhaps(None),
                });
            }
            Ok(Err(e)) if e.is_connect() => {
                return Err(Failure::Again {
                    reason: format!(
                        "no connection to {} ({}); does the server run?",
                        self.url,
                        self.told(e)
                    ),
                    wish: None,
                    lost: Charge::Nothing,
                });
            }
            Ok(Err(e)) => return Err(self.broken(e)),
            Ok(Ok(response)) => response,
        };
        self.read(response).await
    }

    async fn read(&self, mut response: Response) -> Result<Reply, Failure> {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let wish = header(RETRY_AFTER).and_then(|v| retry_after(v, SystemTime::now()));
        let location = header(LOCATION).map(|v| self.hide(v));
        let kind = header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                // The status of a refusal says enough without its text.
                Err(_) if !status.is_success() => break,
                Err(e) => return Err(self.broken(e)),
            }
            if body.len() > MAX_REPLY {
                return Err(Failure::Again {
                    reason: format!("the reply is longer than {MAX_REPLY} bytes"),
                    wish: None,
                    lost: Charge::Perhaps(None),
                });
            }
        }
        if status.is_success() {
            return match wire::reply(&self.teacher, &body, &kind, |text| self.hide(text)) {
                Ok(reply) => Ok(Reply {
                    output: self.hide(&reply.output),
                    served: reply.served.map(|s| self.hide(&s)),
                    ..reply
                }),
                Err(unusable) if unusable.stranger => Err(Failure::Final {
                    reason: self.hide(&unusable.reason),
                    lost: Charge::Perhaps(unusable.usage),
                }),
                Err(unusable) => Err(Failure::Again {
                    reason: self.hide(&unusable.reason),
                    wish: None,
                    lost: Charge::Perhaps(unusable.usage),
                }),
            };
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = wire::message(&body).map_or(String::new(), |text| {
            // Long enough for the reason, short enough for a line.
            let text: String = self.hide(&text).chars().take(400).collect();
            format!(": {text}")
        });
        let status = status.as_u16();
        let codes = wire::codes(&body);
        let is = |names: &[&str]| codes.iter().any(|code| names.contains(&code.as_str()));
        let out_of_money = is(&["insufficient_quota", "billing_hard_limit_reached"]);
        // 424 is TGI's for a generation that broke, 520 to 527 are a proxy's before the server.
        let again =
            matches!(status, 408 | 424 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=527 | 529);
        if again && !out_of_money {
            let longest = self.teacher.max_retry_after;
            if let Some(wish) = wish.filter(|w| w.as_secs_f64() > longest) {
                return Err(Failure::last(format!(
                    "the server asks to be left alone for {} s, more than max_retry_after = \
                     {longest} (status {status}{said}); run again later",
                    wish.as_secs()
                )));
            }
            let reason = format!("status {status}{said}");
            return Err(match status {
                429 => Failure::Busy { reason, wish },
                _ => Failure::Again { reason, wish, lost: Charge::Nothing },
            });
        }
        if out_of_money {
            return Err(Failure::last(format!(
                "{}: the account has no credit left (status {status}{said})",
                self.url
            )));
        }
        let reason = self.refusal(status, &said, location);
        if !matches!(status, 400 | 413 | 422) {
            return Err(Failure::last(reason));
        }
        let prompt = is(&[
            "context_length_exceeded",
            "exceed_context_size_error",
            "content_filter",
            "content_policy_violation",
        ]);
        let setting = if prompt { None } else { setting(&body, &codes) };
        let reason = setting.map_or(reason.clone(), |to_set| format!("{reason}; set {to_set}"));
        if is(&["unsupported_parameter", "unsupported_value"]) {
            return Err(Failure::last(reason));
        }
        Err(Failure::Refused { reason, alike: format!("{status} {codes:?}"), prompt })
    }

    /// Clear words for a status that repeating does not change.
    fn refusal(&self, status: u16, said: &str, location: Option<String>) -> String {
        let (url, model) = (&self.url, &self.teacher.model);
        let key = match &self.secret {
            Some(secret) => format!("the key in {}", secret.name()),
            None => "a request without a key (name the key's environment variable in \
                     api_key_env)"
                .to_owned(),
        };
        match status {
            400 | 413 | 422 => {
                format!("{url} refuses the request (status {status}{said})")
            }
            401 => format!("{url} does not accept {key} (status 401{said})"),
            402 => format!("{url}: the account has no credit left (status {status}{said})"),
            403 => format!("{url} does not let {key} use {model:?} (status 403{said})"),
            404 => format!(
                "{url}: no such endpoint, or no model {model:?} there (status 404{said}); check \
                 base_url, endpoint and model"
            ),
            300..=399 => format!(
                "{url} redirects to {} (status {status}); put the right address into base_url",
                location.as_deref().unwrap_or("an unnamed place")
            ),
            _ => format!("{url}: status {status}{said}"),
        }
    }

    /// A connection that broke after the request was sent: it may have been charged.
    fn broken(&self, e: reqwest::Error) -> Failure {
        let reason = if e.is_timeout() {
            format!("no whole answer within {} s", self.teacher.timeout)
        } else {
            format!("the answer was cut off ({})", self.told(e))
        };
        Failure::Again { reason, wish: None, lost: Charge::Perhaps(None) }
    }

    /// An error with its causes; the address is said elsewhere.
    fn told(&self, e: reqwest::Error) -> String {
        self.hide(&format!("{:#}", anyhow::Error::from(e.without_url())))
    }
}

/// The line of a teacher's file that leaves out or renames what a refusal complains of.
fn setting(body: &Value, codes: &[String]) -> Option<&'static str> {
    let said = wire::message(body).unwrap_or_default();
    let names = |name: &str| {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        codes.iter().any(|code| code == name) || said.split(|c| !inside(c)).any(|w| w == name)
    };
    let refuses = ["instead", "upport", "ecogni", "nknown", "xtra", "ermitted", "llowed"];
    if !refuses.iter().any(|word| said.contains(word)) {
        return None;
    }
    if names("max_completion_tokens") {
        Some("max_tokens_field = \"max_completion_tokens\"")
    } else if names("seed") {
        Some("send_seed = false")
    } else if names("temperature") {
        Some("send_temperature = false")
    } else {
        None
    }
}
