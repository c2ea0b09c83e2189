//! Requests and replies as JSON.

use serde_json::{Value, json};

use super::settings::{Endpoint, RemoteTeacher};
use super::spend::Tokens;

/// The body of a request.
pub(super) fn request(teacher: &RemoteTeacher, prompt: &str, seed: u64) -> Value {
    let mut body = json!({
        "model": teacher.model,
        // Some servers stream unless told not to.
        "stream": false,
    });
    body[teacher.max_tokens_field.name()] = json!(teacher.max_tokens);
    if teacher.send_temperature {
        body["temperature"] = json!(teacher.temperature);
    }
    if teacher.send_seed {
        body["seed"] = json!(seed);
    }
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
    /// Another model answered, as it would the next time.
    pub stranger: bool,
}

/// Reads the body of a reply with status 200; `kind` is its content type. Nothing of
/// the body but the model's own text is repeated without `hide`.
pub(super) fn reply(
    teacher: &RemoteTeacher,
    body: &[u8],
    kind: &str,
    hide: impl Fn(&str) -> String,
) -> Result<Reply, Unusable> {
    // Windows programs put a byte order mark before the text.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let body: Value = serde_json::from_slice(body).map_err(|e| Unusable {
        reason: not_json(body, kind, &e, hide),
        usage: None,
        stranger: false,
    })?;
    let usage = usage(&body);
    let unusable = |reason: String| Unusable { reason, usage, stranger: false };
    if let Some(text) = error(&body) {
        return Err(unusable(format!("the server reports an error: {text}")));
    }
    let served = body["model"].as_str().map(str::to_owned);
    if let Some(served) = served.as_deref().filter(|s| !teacher.is_served_by(s)) {
        let reason = format!(
            "asked for the model {:?}, the server answers with {served:?}; if that is the same \
             one, list it in answers_as",
            teacher.model
        );
        return Err(Unusable { reason, usage, stranger: true });
    }
    let Some(choices) = body["choices"].as_array() else {
        let said = message(&body).map_or(String::new(), |text| format!(": {text}"));
        return Err(unusable(format!("the reply has no choices{said}")));
    };
    let Some(choice) = choices.first() else {
        return Err(unusable("the reply's choices are empty".into()));
    };
    let text = match teacher.endpoint {
        Endpoint::Chat => choice.pointer("/message/content"),
        Endpoint::Completions => choice.get("text"),
    };
    let speechless = || {
        let message = &choice["message"];
        ["tool_calls", "function_call", "refusal"].iter().any(|k| !message[k].is_null())
    };
    let said = match text {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => Some(parts.iter().filter_map(part).collect()),
        // A tool call, a refusal or a filtered answer: the teacher said nothing.
        Some(Value::Null) => None,
        None if speechless() => None,
        _ => return Err(unusable("the reply's choice has no text".into())),
    };
    let finished = match choice["finish_reason"].as_str() {
        _ if said.is_none() => false,
        Some("length" | "max_tokens" | "content_filter" | "tool_calls" | "function_call") => false,
        Some(_) => true,
        // Not told: an answer shorter than the limit ended by itself.
        None => usage.is_none_or(|u| u.completion < u64::from(teacher.max_tokens)),
    };
    Ok(Reply { output: said.unwrap_or_default(), finished, usage, served })
}

/// The text of one part of an answer; parts that are no text (thoughts, say) have none.
fn part(part: &Value) -> Option<&str> {
    match part["type"].as_str() {
        None | Some("text" | "output_text") => part.as_str().or(part["text"].as_str()),
        Some(_) => None,
    }
}

/// What came instead of JSON, and why it may have come.
fn not_json(
    body: &[u8],
    kind: &str,
    e: &serde_json::Error,
    hide: impl Fn(&str) -> String,
) -> String {
    // Hidden first: half a key would not be found.
    let text = hide(&String::from_utf8_lossy(body));
    let start: String = text.trim_start().chars().take(80).collect();
    let hint = if kind.contains("event-stream") || start.starts_with("data:") {
        "; the server only streams: it must answer \"stream\": false in one piece"
    } else if kind.contains("html") || start.starts_with('<') {
        "; a web page: check base_url"
    } else {
        ""
    };
    let kind = if kind.is_empty() { "no content type".to_owned() } else { hide(kind) };
    format!("the reply is not JSON ({kind}, {} bytes, {e}): {start:?}{hint}", body.len())
}

/// The tokens that a reply reports.
fn usage(body: &Value) -> Option<Tokens> {
    let count = |key: &str| body["usage"][key].as_u64();
    let prompt = count("prompt_tokens")?;
    // Without both, the most it can have been is assumed: a cap must hold.
    let rest = || count("total_tokens")?.checked_sub(prompt);
    Some(Tokens { prompt, completion: count("completion_tokens").or_else(rest)? })
}

/// The error that a reply reports beside or instead of an answer. Some servers send the
/// field always, with nothing in it.
fn error(body: &Value) -> Option<String> {
    match body.get("error")? {
        Value::Null | Value::Bool(false) => None,
        Value::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
        Value::Object(error) if error.is_empty() => None,
        Value::Object(error) => match error.get("message") {
            Some(Value::String(text)) => Some(text.clone()),
            _ => Some(Value::Object(error.clone()).to_string()),
        },
        other => Some(other.to_string()),
    }
}

/// The text of a refusal, in the shapes that servers use.
pub(super) fn message(body: &Value) -> Option<String> {
    error(body).or_else(|| {
        [body.get("detail"), body.get("message")].into_iter().flatten().find_map(|t| match t {
            Value::Null => None,
            Value::String(text) => Some(text.clone()).filter(|t| !t.is_empty()),
            other => Some(other.to_string()),
        })
    })
}

/// The short names under which a refusal says what it is about, e.g.
/// `insufficient_quota`: not all servers put them into the same field.
pub(super) fn codes(body: &Value) -> Vec<String> {
    let places = [&body["error"], body];
    let fields = places.iter().flat_map(|e| ["code", "type", "param"].map(|key| &e[key]));
    fields
        .filter_map(|v| match v {
            Value::String(text) => Some(text.clone()),
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::settings::MaxTokensField;
    use super::*;

    fn teacher(endpoint: &str) -> RemoteTeacher {
        RemoteTeacher::parse(&format!(
            "base_url = \"http://h\"\nmodel = \"m\"\nendpoint = \"{endpoint}\"\nmax_tokens = 5\n"
        ))
        .unwrap()
    }

    fn read(teacher: &RemoteTeacher, body: &[u8]) -> Result<Reply, Unusable> {
        reply(teacher, body, "application/json", str::to_owned)
    }

    #[test]
    fn requests_of_both_endpoints() {
        let mut t = teacher("chat");
        assert_eq!(
            request(&t, "p", 1),
            json!({"model": "m", "max_tokens": 5, "temperature": 0.0, "seed": 1,
                   "stream": false, "messages": [{"role": "user", "content": "p"}]})
        );
        t = teacher("completions");
        t.stop = vec!["\n".into()];
        assert_eq!(
            request(&t, "p", 1),
            json!({"model": "m", "max_tokens": 5, "temperature": 0.0, "seed": 1,
                   "stream": false, "prompt": "p", "stop": ["\n"]})
        );
    }

    #[test]
    fn replies_of_both_endpoints() {
        let body = br#"{"model":"m","choices":[{"message":{"content":" B"},
            "finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
        let r = read(&teacher("chat"), body).unwrap();
        assert_eq!((r.output.as_str(), r.finished), (" B", true));
        assert_eq!(r.usage, Some(Tokens { prompt: 7, completion: 2 }));
        let body = br#"{"choices":[{"text":" B","finish_reason":"length"}]}"#;
        let r = read(&teacher("completions"), body).unwrap();
        assert_eq!((r.finished, r.usage, r.served), (false, None, None));
        let body =
            br#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#;
        let r = read(&teacher("chat"), body).unwrap();
        assert_eq!((r.output.as_str(), r.finished), ("", false));
    }

    #[test]
    fn unusable_replies_say_why_and_what_they_cost() {
        let chat = teacher("chat");
        let u = read(
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
            let u = read(&chat, body.as_bytes()).unwrap_err();
            assert!(u.reason.contains(part), "{body}: {}", u.reason);
        }
    }

    #[test]
    fn newer_models_get_only_what_they_take() {
        let mut t = teacher("chat");
        t.max_tokens_field = MaxTokensField::MaxCompletionTokens;
        (t.send_seed, t.send_temperature) = (false, false);
        assert_eq!(
            request(&t, "p", 1),
            json!({"model": "m", "max_completion_tokens": 5, "stream": false,
                   "messages": [{"role": "user", "content": "p"}]})
        );
    }

    #[test]
    fn unusual_but_usable_replies() {
        let choices = r#""choices":[{"message":{"content":" B"},"finish_reason":"stop"}]"#;
        for more in [
            "\"error\":false",
            "\"error\":\"\"",
            "\"error\":null",
            "\"error\":{}",
            "\"detail\":\"high\"",
            "\"message\":\"ok\"",
        ] {
            let body = format!("\u{feff}{{{more},{choices}}}");
            let r = read(&teacher("chat"), body.as_bytes()).unwrap();
            assert_eq!((r.output.as_str(), r.finished), (" B", true), "{more}");
        }
        let body = br#"{"choices":[{"message":{"content":[{"type":"thinking","text":"hm"},
            {"type":"text","text":" B"},{"type":"text","text":"."}]},"finish_reason":"stop"}]}"#;
        assert_eq!(read(&teacher("chat"), body).unwrap().output, " B.");
    }

    #[test]
    fn a_reply_without_text_is_an_unfinished_one() {
        for choice in [
            r#"{"message":{"content":null},"finish_reason":"stop"}"#,
            r#"{"message":{"tool_calls":[{"id":"1"}]},"finish_reason":"tool_calls"}"#,
            r#"{"message":{"content":"","tool_calls":[]},"finish_reason":"tool_calls"}"#,
        ] {
            let body = format!("{{\"choices\":[{choice}]}}");
            let r = read(&teacher("chat"), body.as_bytes()).unwrap();
            assert_eq!((r.output.as_str(), r.finished), ("", false), "{choice}");
        }
    }

    #[test]
    fn tokens_half_told_are_not_zero() {
        let told = |usage: &str| {
            let body = format!(
                "{{\"choices\":[{{\"message\":{{\"content\":\"B\"}}}}],\"usage\":{usage}}}"
            );
            read(&teacher("chat"), body.as_bytes()).unwrap().usage
        };
        assert_eq!(told("{\"prompt_tokens\":7}"), None);
        let rest = Some(Tokens { prompt: 7, completion: 2 });
        assert_eq!(told("{\"prompt_tokens\":7,\"total_tokens\":9}"), rest);
    }

    #[test]
    fn what_is_no_json_is_shown_without_the_key() {
        let hide = |text: &str| text.replace("SESAME", "***");
        let said = |kind: &str, body: &str| {
            reply(&teacher("chat"), body.as_bytes(), kind, hide).unwrap_err().reason
        };
        let page = said("text/html", "<html>Log in, SESAME</html>");
        assert!(page.contains("text/html") && page.contains("Log in, ***"), "{page}");
        assert!(page.contains("check base_url"), "{page}");
        assert!(said("text/event-stream", "data: {}").contains("only streams"));
    }
}
