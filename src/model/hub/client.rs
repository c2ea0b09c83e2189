//! Talking to the hub, one step at a time; [`download`](super::download) repeats
//! steps that fail.
//!
//! `hf-hub` answers what a revision stands for and what a repository holds. The
//! bytes are fetched here, because version 1.0 of it starts a file from nothing
//! after a broken connection, keeps the body of a refusal as if it were the file,
//! knows no time limits, and does not say which SHA-256 the hub announced.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoType};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::header::{CONTENT_RANGE, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};

use super::cache::{is_commit, write_below};
use super::failure::{Answer, Failure, chain, disk};
use super::mask::{self, Mask};
use super::progress::Progress;
use super::{Kind, Request};

/// Without a sign of life for so long, a connection counts as broken.
const CONNECT: Duration = Duration::from_secs(15);
const READ: Duration = Duration::from_secs(60);

const REDIRECTS: usize = 10;

/// The hub, as the environment describes it.
pub(super) struct Hub {
    api: HFClientSync,
    /// Does not follow redirects by itself: they lead to file stores, which must
    /// not see the token.
    http: Client,
    runtime: tokio::runtime::Runtime,
    url: Url,
    /// The address as messages may show it.
    shown: String,
    mask: Mask,
    token: Option<String>,
}

/// What the hub says about a file before it is downloaded.
pub(super) struct Remote {
    pub path: String,
    /// Names the content: its SHA-256 for large files, git's hash for others.
    pub etag: String,
    pub bytes: Option<u64>,
}

impl Hub {
    /// # Errors
    ///
    /// If `HF_ENDPOINT` is not an address, or the system's certificates cannot
    /// be read.
    pub fn open() -> Result<Hub> {
        let token = token();
        let mut builder = HFClient::builder()
            .client(http(redirect::Policy::limited(REDIRECTS))?)
            .retry_max_attempts(0);
        if let Some(token) = &token {
            builder = builder.token(token);
        }
        // The error is not repeated: it may hold the address with a password in it.
        let client = builder.build().map_err(|_| {
            anyhow!("the hub's client could not be set up; is HF_ENDPOINT an address?")
        })?;
        let url = Url::parse(client.endpoint()).context("HF_ENDPOINT")?;
        let (mask, shown) = (Mask::of(token.as_deref(), &url), mask::shown(&url));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let api = HFClientSync::from_inner(client)?;
        Ok(Hub { api, http: http(redirect::Policy::none())?, runtime, url, shown, mask, token })
    }

    /// Without a slash at the end, and without user and password.
    pub fn endpoint(&self) -> &str {
        &self.shown
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The commit that the request's revision stands for.
    pub fn commit(&self, request: &Request) -> Result<String, Failure> {
        let (owner, name) = hf_hub::split_id(&request.repo);
        let revision = request.revision.as_str();
        // Nothing else of the description is needed, and nothing else in it can then be odd.
        let only = vec!["sha".to_string()];
        let sha = match request.kind {
            Kind::Model => self
                .api
                .model(owner, name)
                .info()
                .revision(revision)
                .expand(only)
                .send()
                .map(|i| i.sha),
            Kind::Dataset => self
                .api
                .dataset(owner, name)
                .info()
                .revision(revision)
                .expand(only)
                .send()
                .map(|i| i.sha),
        };
        let sha = sha.map_err(|e| self.of_api(e))?.filter(|sha| is_commit(sha));
        Ok(sha.with_context(|| format!("{} did not say which commit this is", self.endpoint()))?)
    }

    /// Paths of at most `most` files of a commit.
    pub fn list(
        &self,
        request: &Request,
        commit: &str,
        most: usize,
    ) -> Result<Vec<String>, Failure> {
        fn paths<T: RepoType>(
            repo: HFRepositorySync<T>,
            commit: &str,
            most: usize,
        ) -> Result<Vec<String>, HFError> {
            let entries = repo.list_tree().revision(commit).recursive(true).limit(most).send()?;
            Ok(entries
                .into_iter()
                .filter_map(|entry| match entry {
                    RepoTreeEntry::File { path, .. } => Some(path),
                    RepoTreeEntry::Directory { .. } => None,
                })
                .collect())
        }
        let (owner, name) = hf_hub::split_id(&request.repo);
        match request.kind {
            Kind::Model => paths(self.api.model(owner, name), commit, most),
            Kind::Dataset => paths(self.api.dataset(owner, name), commit, most),
        }
        .map_err(|e| self.of_api(e))
    }

    /// What a refusal says; `store` is the host if it is not the hub.
    async fn answer(&self, response: Response, store: Option<String>) -> Answer {
        let answer = answer(response, store).await;
        Answer { message: answer.message.map(|m| self.mask.hide(&m)), ..answer }
    }

    /// The same for what `hf-hub` asked.
    fn of_api(&self, e: HFError) -> Failure {
        match of_api(e) {
            Failure::Status(a) => {
                Failure::Status(Answer { message: a.message.map(|m| self.mask.hide(&m)), ..a })
            }
            Failure::Network(text) => Failure::Network(self.mask.hide(&text)),
            Failure::Other(e) => Failure::Other(anyhow!(self.mask.hide(&format!("{e:#}")))),
        }
    }

    fn address(&self, request: &Request, commit: &str, path: &str) -> Result<Url> {
        let mut url = self.url.clone();
        let mut parts =
            url.path_segments_mut().map_err(|()| anyhow!("HF_ENDPOINT is not an address"))?;
        parts.pop_if_empty();
        if request.kind == Kind::Dataset {
            parts.push("datasets");
        }
        parts.extend(request.repo.split('/')).extend(["resolve", commit]).extend(path.split('/'));
        drop(parts);
        Ok(url)
    }

    /// What the hub says about a file; None if the commit has no such file.
    pub fn look(
        &self,
        request: &Request,
        commit: &str,
        path: &str,
    ) -> Result<Option<Remote>, Failure> {
        let url = self.address(request, commit, path)?;
        self.runtime.block_on(async {
            let (response, store) = self.send(Method::HEAD, url, 0).await?;
            let status = response.status();
            if !status.is_success() && !status.is_redirection() {
                let answer = self.answer(response, store).await;
                // Not all mirrors give codes; that there is such a commit is known by now,
                // unless it was given as such.
                let other = answer.says("RepoNotFound") || answer.says("RevisionNotFound");
                if answer.status == 404 && !other {
                    return Ok(None);
                }
                return Err(Failure::Status(answer));
            }
            let headers = response.headers();
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
            let etag = etag
                .map(|e| e.trim_start_matches("W/").trim_matches('"').to_string())
                // It becomes a file's name.
                .filter(|e| !e.is_empty() && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
                .with_context(|| {
                    format!(
                        "the answer for {path} has no usable ETag; does {} speak the hub's language, \
                         or does a proxy answer in its place?",
                        self.endpoint()
                    )
                })?;
            let length = if status.is_redirection() { None } else { text(headers, CONTENT_LENGTH.as_str()) };
            let bytes = text(headers, "x-linked-size").or(length).and_then(|n| n.parse().ok());
            Ok(Some(Remote { path: path.to_string(), etag, bytes }))
        })
    }

    /// Adds to `part` what it lacks of a file. If the connection breaks, what has
    /// arrived stays there.
    pub fn get(
        &self,
        request: &Request,
        commit: &str,
        remote: &Remote,
        part: &Path,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut have = fs::metadata(part).map_or(0, |m| m.len());
        if have > 0 && remote.bytes == Some(have) {
            return Ok(());
        }
        let url = self.address(request, commit, &remote.path)?;
        let full = |have: u64, e| disk(part, remote.bytes.map(|b| b.saturating_sub(have)), e);
        self.runtime.block_on(async {
            let (mut response, store) = self.send(Method::GET, url, have).await?;
            let goes_on = match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    let range =
                        text(response.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
                    range.starts_with(&format!("bytes {have}-"))
                }
                StatusCode::OK => false,
                StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                    // What is there is not a beginning of this file.
                    fs::remove_file(part).map_err(|e| full(have, e))?;
                    progress.add(-(have as i64));
                    return Err(Failure::Network("the server cannot go on from there".into()));
                }
                _ => return Err(Failure::Status(self.answer(response, store).await)),
            };
            if !goes_on {
                if response.status() == StatusCode::PARTIAL_CONTENT {
                    return Err(Failure::Other(anyhow!(
                        "the server sent another part than asked for"
                    )));
                }
                progress.add(-(have as i64));
                have = 0;
            }
            let mut file = write_below(part, |p| {
                OpenOptions::new()
                    .create(true)
                    .write(true)
                    .append(goes_on)
                    .truncate(!goes_on)
                    .open(p)
            })
            .map_err(|e| full(have, e))?;
            while let Some(bytes) = response.chunk().await? {
                file.write_all(&bytes).map_err(|e| full(have, e))?;
                have += bytes.len() as u64;
                progress.add(bytes.len() as i64);
                if remote.bytes.is_some_and(|all| have > all) {
                    break;
                }
            }
            if remote.bytes.is_some_and(|all| have < all) {
                return Err(Failure::Network("the connection ended early".into()));
            }
            Ok(())
        })
    }

    /// Sends a request and follows redirects; the token goes to the hub alone. A
    /// redirect that itself describes the file is the answer to HEAD. Also returns
    /// the host that answered, if it was another.
    async fn send(
        &self,
        method: Method,
        mut url: Url,
        from: u64,
    ) -> Result<(Response, Option<String>), Failure> {
        for _ in 0..=REDIRECTS {
            let ours = url.origin() == self.url.origin();
            let mut request = self.http.request(method.clone(), url.clone());
            // Compressed, the length would not be the file's.
            request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| ours) {
                request = request.bearer_auth(token);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await?;
            let store = if ours { None } else { url.host_str().map(String::from) };
            let Some(to) = text(response.headers(), LOCATION.as_str())
                .filter(|_| response.status().is_redirection())
            else {
                return Ok((response, store));
            };
            let to = url.join(&to).context("a redirect leads nowhere")?;
            let described = response.headers().contains_key("x-linked-etag")
                || response.headers().contains_key(ETAG);
            if method == Method::HEAD && described && to.origin() != url.origin() {
                return Ok((response, store));
            }
            url = to;
        }
        Err(Failure::Other(anyhow!("more than {REDIRECTS} redirects")))
    }
}

/// Where the hub's cache is on this machine.
pub(super) fn cache_root() -> PathBuf {
    hf_hub::resolve_cache_dir()
}

fn http(redirects: redirect::Policy) -> Result<Client> {
    Client::builder()
        .user_agent(concat!("cotalign/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(READ)
        .redirect(redirects)
        .build()
        .map_err(|e| anyhow!("no HTTP client: {}", chain(&e)))
}

/// The token by the rules of `huggingface_hub`. `hf-hub` follows them too but
/// keeps what it finds to itself.
fn token() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok();
    let usable = |token: String| Some(token.trim().to_string()).filter(|t| !t.is_empty());
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|v| !v.is_empty()) {
        return None;
    }
    let file =
        variable("HF_TOKEN_PATH").map_or_else(|| hf_hub::hf_home().join("token"), PathBuf::from);
    variable("HF_TOKEN").and_then(usable).or_else(|| fs::read_to_string(file).ok().and_then(usable))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

async fn answer(mut response: Response, store: Option<String>) -> Answer {
    let headers = response.headers();
    let code = text(headers, "x-error-code");
    let said = text(headers, "x-error-message");
    let seconds = text(headers, RETRY_AFTER.as_str())
        // "resolve";r=0;t=57: none left, and a new count begins in 57 seconds.
        .or_else(|| Some(text(headers, "ratelimit")?.split(";t=").nth(1)?.to_string()))
        .and_then(|s| s.trim().parse().ok());
    let status = response.status().as_u16();
    // A short JSON text where it comes from the hub, a page for people elsewhere.
    let body = response.chunk().await.ok().flatten().unwrap_or_default();
    let body = || {
        let value: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(value.get("error")?.as_str()?.to_string())
    };
    Answer {
        status,
        code,
        message: said.or_else(body),
        retry_after: seconds.map(Duration::from_secs),
        store,
    }
}

fn of_api(e: HFError) -> Failure {
    let (context, retry_after) = match e {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context }
        | HFError::RepoNotFound { context: Some(context), .. }
        | HFError::RevisionNotFound { context: Some(context), .. }
        | HFError::EntryNotFound { context: Some(context), .. } => (context, None),
        HFError::RateLimited { retry_after, context } => (context, retry_after),
        HFError::Request { source, .. } if source.is_decode() => {
            return Failure::Other(anyhow!(
                "the answer cannot be read ({}); does a proxy answer in the hub's place?",
                chain(&source.without_url())
            ));
        }
        HFError::Request { source, .. } => return source.into(),
        other => return Failure::Other(anyhow!("{other}")),
    };
    Failure::Status(Answer {
        status: context.status.as_u16(),
        code: context.error_code.clone(),
        message: context.server_message.clone(),
        retry_after,
        store: None,
    })
}
