//! What a teacher's file may and may not say.

use super::*;

const FILE: &str = "base_url = \"http://localhost:8000/v1\"\nmodel = \"m\"\n\
    endpoint = \"chat\"\nmax_tokens = 5\n";

fn teacher() -> RemoteTeacher {
    RemoteTeacher::parse(FILE).unwrap()
}

#[test]
fn the_endpoint_is_found_from_the_base() {
    let url = |base: &str, endpoint| {
        RemoteTeacher { base_url: base.into(), endpoint, ..teacher() }.url().map(String::from)
    };
    let chat = "http://localhost:8000/v1/chat/completions";
    for base in ["http://localhost:8000", "http://localhost:8000/", "http://localhost:8000/v1/"] {
        assert_eq!(url(base, Endpoint::Chat).unwrap(), chat);
    }
    assert_eq!(
        url("https://api.example.org/openai/v1", Endpoint::Completions).unwrap(),
        "https://api.example.org/openai/v1/completions"
    );
    for wrong in ["localhost:8000", "ftp://h/v1", chat, "http://h/v1?key=sesame", "nonsense"] {
        assert!(url(wrong, Endpoint::Chat).is_err(), "{wrong}");
    }
    let error = url("http://me:sesame@h/v1", Endpoint::Chat).unwrap_err().to_string();
    assert!(!error.contains("sesame"), "{error}");
}

#[test]
fn a_key_in_the_file_is_refused_and_not_repeated() {
    for line in [
        "api_key = \"sk-sesame\"",
        "api_key_env = \"sk-sesame\"",
        "openai = \"sk-sesame\"",
        "key: sk-sesame",
        "OPENAI_API_KEY = \"sk-sesame\"",
        "seed = \"sk-sesame\"",
    ] {
        let error = format!("{:#}", RemoteTeacher::parse(&format!("{FILE}{line}\n")).unwrap_err());
        assert!(!error.contains("sesame"), "{error}");
    }
}

#[test]
fn a_key_as_a_value_is_not_repeated() {
    let file = FILE.replace("\"chat\"", "\"sk-sesame\"");
    let error = format!("{:#}", RemoteTeacher::parse(&file).unwrap_err());
    assert!(error.contains("line 3: endpoint") && error.contains("`chat`"), "{error}");
    assert!(!error.contains("sesame"), "{error}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for (line, part) in [
        ("temperature = -1", "temperature"),
        ("max_concurrency = 0", "max_concurrency"),
        ("max_cost = 1.0", "price_per_million_input"),
        ("timeout = 0", "timeout"),
        ("stop = [\"\"]", "stop"),
        ("max_tokes = 3", "max_tokes"),
    ] {
        let error = format!("{:#}", RemoteTeacher::parse(&format!("{FILE}{line}\n")).unwrap_err());
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn the_hash_is_of_what_decides_the_answers() {
    let id = teacher().id();
    assert!(id.starts_with("m@localhost#"), "{id}");
    let same = RemoteTeacher {
        base_url: "http://localhost:9000/v1".into(),
        max_concurrency: 3,
        max_total_tokens: Some(7),
        ..teacher()
    };
    assert_eq!(same.id(), id);
    // As computed before there was `send_seed`: journals of then must still be found.
    let then = r#"["localhost","m","chat",0.0,5,1,[]]"#;
    let then = format!("{:x}", Sha256::digest(then));
    assert_eq!(id, format!("m@localhost#{}", &then[..16]));
    let file = toml::to_string(&teacher()).unwrap();
    assert!(!file.contains("send_") && !file.contains("max_tokens_field"), "{file}");
    assert_ne!(RemoteTeacher { send_seed: false, ..teacher() }.id(), id);
    assert_ne!(RemoteTeacher { seed: 2, ..teacher() }.id(), id);
    assert_ne!(RemoteTeacher { stop: vec!["\n".into()], ..teacher() }.id(), id);
}

#[test]
fn dated_names_are_the_same_model_others_are_not() {
    let t = RemoteTeacher {
        model: "gpt-4".into(),
        answers_as: vec!["/models/four.gguf".into()],
        ..teacher()
    };
    for name in ["gpt-4", "gpt-4-0613", "gpt-4-2024-08-06", "gpt-4@main", "/models/four.gguf"] {
        assert!(t.is_served_by(name), "{name}");
    }
    for name in ["gpt-4-32k", "gpt-4o", "gpt-3.5-turbo", "", "gpt-4-", "gpt-4-1"] {
        assert!(!t.is_served_by(name), "{name}");
    }
}
