//! Errors of TOML files that someone may have put a key into: the line, the setting
//! and what is expected there, never a value.
//!
//! serde repeats what it found ("unknown variant `sk-…`"), and such a message ends up
//! in logs and issues. Compiled with and without teachers behind a server, since a
//! run's description holds the same settings.

/// Names under which people write a key into a file. No file of ours has them.
pub(crate) const KEY_NAMES: [&str; 12] = [
    "api_key",
    "apikey",
    "key",
    "token",
    "api_token",
    "access_token",
    "hf_token",
    "openai_api_key",
    "authorization",
    "bearer",
    "password",
    "secret",
];

/// What to tell about a setting that holds a key.
pub(crate) fn refused_key(name: &str) -> String {
    format!(
        "{name}: keys are not read from files; put it into an environment variable and name that \
         in api_key_env"
    )
}

/// The first of [`KEY_NAMES`] in a table, or in a table within it.
pub(crate) fn key_name(table: &toml::Table) -> Option<&'static str> {
    fn within(value: &toml::Value) -> Option<&'static str> {
        match value {
            toml::Value::Table(table) => key_name(table),
            toml::Value::Array(values) => values.iter().find_map(within),
            _ => None,
        }
    }
    table.iter().find_map(|(name, value)| {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        KEY_NAMES.into_iter().find(|k| *k == plain).or_else(|| within(value))
    })
}

/// `e` in words that hold nothing of the values of `text`, the file it is about.
pub(crate) fn redacted_toml_error(e: &toml::de::Error, text: &str) -> String {
    let at = e.span().map_or(0, |s| s.start.min(text.len()));
    let before = &text.as_bytes()[..at];
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let setting = written.split_once('=').map(|(name, _)| name.trim()).filter(|n| is_name(n));
    match setting {
        Some(name) if !e.message().contains(&format!("`{name}`")) => {
            format!("line {line}: {name}: {}", what(e.message()))
        }
        _ => format!("line {line}: {}", what(e.message())),
    }
}

/// What is wrong, from serde's words: only those parts that it does not take from the
/// file.
fn what(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    // The last one: a value may hold these words, too.
    let expected = message.rfind(", expected ").map_or("", |at| &message[at..]);
    let there_are = message.rfind(", there are no fields").map_or("", |at| &message[at..]);
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let name = rest.split('`').next().filter(|name| is_name(name));
        let name = name.map_or_else(|| "(not repeated)".to_owned(), |name| format!("`{name}`"));
        return format!("unknown field {name}{expected}{there_are}");
    }
    if message.starts_with("unknown variant") {
        return format!("unknown value{expected}");
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        let kinds = ["string", "integer", "floating point", "boolean", "sequence", "map"];
        let kind = kinds.into_iter().find(|kind| rest.starts_with(kind)).unwrap_or("value");
        return format!("invalid type: {kind}{expected}");
    }
    if message.starts_with("invalid value") || message.starts_with("invalid length") {
        return format!("invalid value{expected}");
    }
    for own in ["missing field `", "data did not match any variant", "duplicate "] {
        if message.starts_with(own) {
            // "duplicate field `x`" names a setting of ours, "duplicate key" nothing.
            return message.to_owned();
        }
    }
    "not TOML, or not what is expected there".to_owned()
}

/// Whether this is how settings are called, and not how keys look.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let key = ["sk-", "sk_", "hf_", "gsk_"].iter().any(|start| text.starts_with(start));
    (1..=32).contains(&text.len()) && text.chars().all(plain) && digits <= 3 && !key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its errors are looked at")]
    struct File {
        n: u32,
        kind: Kind,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Chat,
        Completions,
    }

    #[test]
    fn values_are_never_repeated() {
        for (text, part) in [
            ("n = 1\nkind = \"sk-SESAME\"", "line 2: kind: unknown value, expected `chat` or"),
            ("n = \"sk-SESAME\"\nkind = \"chat\"", "line 1: n: invalid type: string, expected u32"),
            ("n = \"a, expected SESAME\"", "line 1: n: invalid type: string, expected u32"),
            ("openai = \"sk-SESAME\"", "line 1: unknown field `openai`, expected"),
            ("sk-SESAME = 1", "line 1: unknown field (not repeated), expected"),
            ("n = 1\nkey: sk-SESAME", "line 2: "),
            ("n = sk-SESAME", "line 1: "),
            ("n = \"sk-SESAME", "line 1: "),
            ("n = 1", "missing field `kind`"),
        ] {
            let e = toml::from_str::<File>(text).unwrap_err();
            let said = redacted_toml_error(&e, text);
            assert!(said.contains(part), "{text}: {said}");
            assert!(!said.contains("SESAME"), "{said}");
        }
    }

    #[test]
    fn keys_are_found_wherever_they_are_written() {
        for text in ["API-Key = 1", "[a.b]\ntoken = 1", "a = [{ password = 1 }]"] {
            assert!(key_name(&text.parse().unwrap()).is_some(), "{text}");
        }
        assert_eq!(key_name(&"tokens = 1\napi_key_env = 'X'".parse().unwrap()), None);
    }
}
