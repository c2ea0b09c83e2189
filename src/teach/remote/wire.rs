//! Requests and replies as JSON.

use serde_json::{Value, json};

use super::settings::{Endpoint, RemoteTeacher};
use super::spend::Tokens;

/// The body of a request.
pub(super) fn request(teacher: &RemoteTeacher, prompt: &str, seed: u64) -> Value {
    let mut body = json!({
        "model": teacher.model,
        "max_tokens": teacher.max_tokens,
        "temperature": teacher.temperature,
        "seed": seed,
    });
    match teacher.endpoint {
        Endpoint::Chat => body["messages"] = json!([{"role": "user", "content": prompt}]),
        Endpoint::Completions => body["prompt"] = json!(prompt),
    }
    // Some servers refuse an empty list.
    if !teacher.stop.is_empty() {
        body["stop"] = json!(teacher.stop);
    }
    body
}

/// What a reply says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub output: String,
    /// Ended by itself, not by the length limit or the server's filter.
    pub finished: bool,
    /// As the server counts; `None` where it does not tell.
    pub usage: Option<Tokens>,
    /// The model that answered, where the server tells.
    pub served: Option<String>,
}

/// A reply that cannot be used: why, and what it cost nevertheless.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unusable {
    pub reason: String,
    pub usage: Option<Tokens>,
}

/// Reads the body of a reply with status 200.
pub(super) fn reply(teacher: &RemoteTeacher, body: &[u8]) -> Result<Reply, Unusable> {
    let body: Value = serde_json::from_slice(body).map_err(|e| Unusable {
        reason: format!("the reply is not JSON ({} bytes, {e})", body.len()),
        usage: None,
    })?;
    let usage = usage(&body);
    let unusable = |reason: String| Unusable { reason, usage };
    if let Some(text) = message(&body) {
        return Err(unusable(format!("the server reports an error: {text}")));
    }
    let served = body["model"].as_str().map(str::to_owned);
    if let Some(served) = served.as_deref().filter(|s| !teacher.is_served_by(s)) {
        return Err(unusable(format!(
            "asked for the model {:?}, the server answers with {served:?}; if that is the same \
             one, list it in answers_as",
            teacher.model
        )));
    }
    let Some(choices) = body["choices"].as_array() else {
        return Err(unusable("the reply has no choices".into()));
    };
    let Some(choice) = choices.first() else {
        return Err(unusable("the reply's choices are empty".into()));
    };
    let text = match teacher.endpoint {
        Endpoint::Chat => choice.pointer("/message/content"),
        Endpoint::Completions => choice.get("text"),
    };
    let output = match text {
        Some(Value::String(text)) => text.clone(),
        // A refusal or a filtered answer: the teacher said nothing.
        Some(Value::Null) => String::new(),
        _ => return Err(unusable("the reply's choice has no text".into())),
    };
    let finished = match choice["finish_reason"].as_str() {
        Some(reason) => !matches!(reason, "length" | "max_tokens" | "content_filter"),
        // Not told: an answer shorter than the limit ended by itself.
        None => usage.is_none_or(|u| u.completion < u64::from(teacher.max_tokens)),
    };
    Ok(Reply { output, finished, usage, served })
}

/// The tokens that a reply reports.
fn usage(body: &Value) -> Option<Tokens> {
    let count = |key: &str| body["usage"][key].as_u64();
    Some(Tokens {
        prompt: count("prompt_tokens")?,
        // Left out by some servers where it is 0.
        completion: count("completion_tokens").unwrap_or(0),
    })
}

/// The error text of a reply, in the shapes that servers use.
pub(super) fn message(body: &Value) -> Option<String> {
    let text = match &body["error"] {
        Value::Null => body.get("detail").or_else(|| body.get("message"))?,
        Value::Object(error) => error.get("message")?,
        other => other,
    };
    match text {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The error code of a reply, e.g. `insufficient_quota`.
pub(super) fn code(body: &Value) -> Option<&str> {
    body["error"]["code"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher(endpoint: &str) -> RemoteTeacher {
        RemoteTeacher::parse(&format!(
            "base_url = \"http://h\"\nmodel = \"m\"\nendpoint = \"{endpoint}\"\nmax_tokens = 5\n"
        ))
        .unwrap()
    }

    #[test]
    fn requests_of_both_endpoints() {
        let mut t = teacher("chat");
        assert_eq!(
            request(&t, "p", 1),
            json!({"model": "m", "max_tokens": 5, "temperature": 0.0, "seed": 1,
                   "messages": [{"role": "user", "content": "p"}]})
        );
        t = teacher("completions");
        t.stop = vec!["\n".into()];
        assert_eq!(
            request(&t, "p", 1),
            json!({"model": "m", "max_tokens": 5, "temperature": 0.0, "seed": 1,
                   "prompt": "p", "stop": ["\n"]})
        );
    }

    #[test]
    fn replies_of_both_endpoints() {
        let body = br#"{"model":"m","choices":[{"message":{"content":" B"},
            "finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
        let r = reply(&teacher("chat"), body).unwrap();
        assert_eq!((r.output.as_str(), r.finished), (" B", true));
        assert_eq!(r.usage, Some(Tokens { prompt: 7, completion: 2 }));
        let body = br#"{"choices":[{"text":" B","finish_reason":"length"}]}"#;
        let r = reply(&teacher("completions"), body).unwrap();
        assert_eq!((r.finished, r.usage, r.served), (false, None, None));
        let body =
            br#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#;
        let r = reply(&teacher("chat"), body).unwrap();
        assert_eq!((r.output.as_str(), r.finished), ("", false));
    }

    #[test]
    fn unusable_replies_say_why_and_what_they_cost() {
        let chat = teacher("chat");
        let u = reply(
            &chat,
            br#"{"model":"other","choices":[{"message":{"content":"x"}}],
            "usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
        )
        .unwrap_err();
        assert!(u.reason.contains("\"m\"") && u.reason.contains("\"other\""), "{}", u.reason);
        assert_eq!(u.usage, Some(Tokens { prompt: 7, completion: 2 }));
        for (body, part) in [
            ("{\"choices\": [", "not JSON"),
            ("{\"choices\": []}", "empty"),
            ("{}", "no choices"),
            ("[1]", "no choices"),
            ("{\"choices\": [{}]}", "no text"),
            ("{\"choices\": [{\"text\": \"x\"}]}", "no text"),
            ("{\"error\": {\"message\": \"overloaded\"}}", "overloaded"),
            ("{\"error\": \"overloaded\"}", "overloaded"),
        ] {
            let u = reply(&chat, body.as_bytes()).unwrap_err();
            assert!(u.reason.contains(part), "{body}: {}", u.reason);
        }
    }
}
