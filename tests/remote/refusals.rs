//! Servers that refuse, are busy or answer nothing: what is the run's fault, what a prompt's,
//! and what passes.

use super::*;

#[test]
fn a_server_with_another_model_is_an_error_that_names_both() {
    let server = Server::start(|_| Act::WrongModel("small".into()));
    let t = RemoteTeacher { max_retries: 2, ..teacher(&server) };
    let error = error(&questions(1), &t);
    assert!(error.contains("\"big\"") && error.contains("\"small\""), "{error}");
    assert_eq!(server.seen().len(), 1, "it would answer the next time, too, for money");
    let t = RemoteTeacher { answers_as: vec!["small".into()], ..t };
    let dir = tempfile::tempdir().unwrap();
    ask(&questions(1), &t, dir.path()).unwrap();
    assert_eq!(usage(dir.path()).served, ["small"]);
}

#[test]
fn refusals_are_told_at_once_and_in_clear_words() {
    for (status, body, parts) in [
        (401, "{}", ["api_key_env", "401"]),
        (403, "{\"detail\": \"not yours\"}", ["\"big\"", "not yours"]),
        (404, "gone", ["base_url", "\"big\""]),
        (429, "{\"error\": {\"code\": \"insufficient_quota\"}}", ["no credit", "429"]),
        (
            429,
            "{\"error\": {\"type\": \"insufficient_quota\", \"code\": null}}",
            ["no credit", "429"],
        ),
        (
            400,
            "{\"error\": {\"message\": \"Unsupported parameter: 'max_tokens'. Use \
             'max_completion_tokens' instead.\", \"code\": \"unsupported_parameter\"}}",
            ["refuses", "max_tokens_field = \"max_completion_tokens\""],
        ),
        (
            400,
            "{\"error\": {\"message\": \"Not supported\", \"param\": \"seed\", \
             \"code\": \"unsupported_parameter\"}}",
            ["refuses", "send_seed = false"],
        ),
        (308, "", ["http://elsewhere/v1", "base_url"]),
    ] {
        let server = Server::start(move |_| {
            Act::Status(status, vec![("Location", "http://elsewhere/v1".into())], body.into())
        });
        let t = RemoteTeacher { max_concurrency: 1, ..teacher(&server) };
        let error = error(&questions(3), &t);
        for part in parts {
            assert!(error.contains(part), "{status}: {error}");
        }
        assert_eq!(server.seen().len(), 1, "{status} is not repeated");
    }
}

#[test]
fn no_server_is_told_so() {
    // No server may use that port.
    let base_url = "http://127.0.0.1:1/v1".to_owned();
    let t = RemoteTeacher { max_retries: 1, base_url, ..teacher(&Server::sound()) };
    let error = error(&questions(1), &t);
    assert!(error.contains("does the server run?") && error.contains("tried 2 times"), "{error}");
}

#[test]
fn a_server_that_only_fails_is_given_up() {
    let server = Server::start(|_| Act::Status(500, vec![], "{}".into()));
    let t = RemoteTeacher { max_retries: 1, max_concurrency: 2, ..teacher(&server) };
    let error = error(&questions(1000), &t);
    assert!(error.contains("status 500"), "{error}");
    assert!(server.seen().len() < 20, "{} requests", server.seen().len());
}

#[test]
fn one_bad_prompt_does_not_cost_the_others() {
    let server = Server::start(|seen| match seen.prompt.contains("number 3?") {
        true => Act::Status(500, vec![], "{}".into()),
        false => Act::Answer(Duration::ZERO),
    });
    let t = RemoteTeacher { max_retries: 1, ..teacher(&server) };
    let (questions, dir) = (questions(50), tempfile::tempdir().unwrap());
    let error = format!("{:#}", ask(&questions, &t, dir.path()).unwrap_err());
    assert!(error.contains("1 of 50") && error.contains("q3"), "{error}");
    assert_eq!(kept(dir.path()).len(), 49);
    assert!(!dir.path().join("annotations.jsonl").exists(), "not before it is whole");
}

/// A prompt that the server will not take is noted as such, and only that one.
#[test]
fn a_refused_prompt_counts_as_no_answer_and_is_not_asked_again() {
    let refuses = |seen: &server::Seen| ["number 0?", "number 7?"].map(|n| seen.prompt.contains(n));
    let server = Server::start(move |seen| match refuses(seen) {
        [true, _] => Act::Status(400, vec![], "{\"error\": {\"message\": \"odd\"}}".into()),
        [_, true] => Act::Status(413, vec![], "{}".into()),
        _ => Act::Answer(Duration::ZERO),
    });
    let (questions, dir, t) = (questions(30), tempfile::tempdir().unwrap(), teacher(&server));
    let all = ask(&questions, &t, dir.path()).unwrap();
    assert_eq!((all.len(), server.seen().len()), (30, 30));
    for a in &all {
        let refused = a.id == "q0" || a.id == "q7";
        assert_eq!(
            (a.answer.is_none(), a.finished, a.output.is_empty()),
            (refused, !refused, refused)
        );
    }
    let usage = usage(dir.path());
    assert_eq!((usage.answers, usage.refused, usage.lost), (28, 2, 0));
    assert_eq!(usage.spent().prompt, server.state.lock().unwrap().prompt_tokens);
    assert!(usage.remark().unwrap().contains("2 prompts were refused"));
    let journal = fs::read_to_string(dir.path().join("journal.jsonl")).unwrap();
    assert!(journal.contains("\"refused\":") && journal.contains("status 400: odd"));
    assert_eq!(ask(&questions, &t, dir.path()).unwrap(), all);
    assert_eq!(server.seen().len(), 30);
    // Alone, it says itself that it is the prompt.
    let server = Server::start(|_| {
        let body = "{\"error\": {\"code\": \"context_length_exceeded\"}}";
        Act::Status(400, vec![], body.into())
    });
    let dir = tempfile::tempdir().unwrap();
    assert!(!ask(&questions[..1], &teacher(&server), dir.path()).unwrap()[0].finished);
}

#[test]
fn prompts_that_are_all_refused_end_the_run_and_are_asked_again() {
    let server =
        Server::start(|_| Act::Status(422, vec![], "{\"detail\": [{\"msg\": \"odd\"}]}".into()));
    let (t, dir) = (teacher(&server), tempfile::tempdir().unwrap());
    for (count, asked) in [(1000, 8), (3, 11)] {
        let error = format!("{:#}", ask(&questions(count), &t, dir.path()).unwrap_err());
        assert!(error.contains("refuses") && error.contains("odd"), "{error}");
        assert_eq!(server.seen().len(), asked);
    }
    assert_eq!(kept(dir.path()), Vec::<String>::new());
}

/// Five requests in each 300 ms, and no word of when the next is welcome.
#[test]
fn a_rate_limit_slows_a_run_and_does_not_end_it() {
    let window = std::sync::Mutex::new((Instant::now(), 0));
    let server = Server::start(move |_| {
        let mut window = window.lock().unwrap();
        if window.0.elapsed() > Duration::from_millis(300) {
            *window = (Instant::now(), 0);
        }
        window.1 += 1;
        match window.1 {
            1..=5 => Act::Answer(Duration::ZERO),
            _ => Act::Status(429, vec![], "{}".into()),
        }
    });
    let t = RemoteTeacher { max_retries: 2, ..teacher(&server) };
    let (questions, dir) = (questions(30), tempfile::tempdir().unwrap());
    check(&ask(&questions, &t, dir.path()).unwrap(), &questions, Cue::Plain, &t);
    let server = Server::start(|_| Act::Status(429, vec![], "{}".into()));
    let t = RemoteTeacher { max_retries: 0, ..teacher(&server) };
    let error = error(&questions, &t);
    assert!(error.contains("429") && error.contains("run again later"), "{error}");
    assert!(server.seen().len() < 20, "{} requests", server.seen().len());
}

#[test]
fn faults_of_a_proxy_pass() {
    for status in [424, 520, 524, 527] {
        let server = Server::start(move |seen| match seen.before {
            0 => Act::Status(status, vec![], "<html>".into()),
            _ => Act::Answer(Duration::ZERO),
        });
        let dir = tempfile::tempdir().unwrap();
        ask(&questions(1), &teacher(&server), dir.path()).unwrap();
    }
}

#[test]
fn mostly_empty_answers_are_remarked_on() {
    let server = Server::start(|_| Act::Say(String::new()));
    let dir = tempfile::tempdir().unwrap();
    ask(&questions(4), &teacher(&server), dir.path()).unwrap();
    assert!(usage(dir.path()).remark().unwrap().contains("4 of 4 answers are empty"));
}
