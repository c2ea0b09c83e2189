//! Teachers behind a server that fails in all ways a server can.
#![cfg(feature = "remote")]

#[path = "remote/grid.rs"]
mod grid;
#[path = "remote/refusals.rs"]
mod refusals;
#[path = "remote/server.rs"]
mod server;

use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cotalign::model::rng;
use cotalign::task::{Benchmark, Cue, Gold, Question, prompt};
use cotalign::teach::remote::{
    Endpoint, Event, RemoteTeacher, Stopped, Usage, annotate_remote, estimate,
};
use cotalign::teach::{Annotation, read_annotations};
use serde_json::Value;
use server::{Act, Server, text, tokens};

fn questions(count: usize) -> Vec<Question> {
    (0..count)
        .map(|i| Question {
            id: format!("q{i}"),
            benchmark: Benchmark::Piqa,
            stem: format!("What is the way number {i}?"),
            options: vec!["the left one".into(), "the right one".into()],
            gold: Gold::Choice(i % 2),
        })
        .collect()
}

/// Impatient, so that the tests end soon.
fn teacher(server: &Server) -> RemoteTeacher {
    let file = format!(
        "base_url = {:?}\nmodel = \"big\"\nendpoint = \"chat\"\nmax_tokens = 20\n\
         first_byte_timeout = 1.0\ntimeout = 2.0\nbackoff = 0.01\nmax_backoff = 0.05\n",
        server.base_url
    );
    RemoteTeacher::parse(&file).unwrap()
}

fn ask(
    questions: &[Question],
    teacher: &RemoteTeacher,
    dir: &Path,
) -> anyhow::Result<Vec<Annotation>> {
    annotate_remote(questions, Cue::Plain, teacher, &dir.join("annotations.jsonl"), &mut |_| ())
}

fn error(questions: &[Question], teacher: &RemoteTeacher) -> String {
    let dir = tempfile::tempdir().unwrap();
    format!("{:#}", ask(questions, teacher, dir.path()).unwrap_err())
}

fn usage(dir: &Path) -> Usage {
    serde_json::from_str(&fs::read_to_string(dir.join("usage.json")).unwrap()).unwrap()
}

/// Ids of the answers in a journal's whole lines.
fn kept(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("journal.jsonl")).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|l| l.ends_with('\n'))
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .filter_map(|l| l["answer"]["id"].as_str().map(str::to_owned))
        .collect()
}

/// All of them, in order, with the text the server gave to just this prompt.
fn check(all: &[Annotation], questions: &[Question], cue: Cue, teacher: &RemoteTeacher) {
    assert_eq!(all.len(), questions.len());
    for (a, q) in all.iter().zip(questions) {
        let prompt = prompt::render(q, cue);
        assert_eq!((a.id.as_str(), a.cue), (q.id.as_str(), cue));
        assert_eq!(a.output, text(&prompt));
        assert_eq!(a.tokens as u64, tokens(&prompt).1);
        assert_eq!(a.prompt, prompt);
        assert!(a.answer.is_some() && a.finished, "{a:?}");
        assert_eq!((a.seed, &a.model), (teacher.seed, &teacher.id()));
    }
}

/// Three in ten requests go wrong, in nine ways.
fn three_in_ten(prompt: &str, before: usize) -> Act {
    let key = rng::mix(7, &format!("{prompt} {before}"));
    if key % 10 >= 3 {
        return Act::Answer(Duration::ZERO);
    }
    let in_a_second = SystemTime::now() + Duration::from_secs(1);
    let retry = |after: String| vec![("Retry-After", after)];
    match key / 10 % 9 {
        // Everybody waits for it, so it is short.
        0 => Act::Status(429, retry("0.02".into()), "{}".into()),
        1 => Act::Status(503, retry(http_date(in_a_second)), "busy".into()),
        2 => Act::Status(500, vec![], "{\"error\": {\"message\": \"oops\"}}".into()),
        3 => Act::Hang,
        4 => Act::Cut,
        5 => Act::Malformed,
        6 => Act::EmptyChoices,
        7 => Act::Status(520, vec![], "<html>".into()),
        _ => Act::SlowFirstByte(Duration::from_millis(1500)),
    }
}

/// Written apart from the library's reading of it.
fn http_date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let out = Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn five_thousand_prompts_with_three_in_ten_requests_failing() {
    let server = Server::start(|seen| three_in_ten(&seen.prompt, seen.before));
    let t = RemoteTeacher { max_concurrency: 64, max_retries: 20, ..teacher(&server) };
    let (questions, dir) = (questions(5000), tempfile::tempdir().unwrap());
    let path = dir.path().join("annotations.jsonl");
    let (mut answered, mut retries, started) = (0, 0, Instant::now());
    let all = annotate_remote(&questions, Cue::Plain, &t, &path, &mut |e| match e {
        Event::Answered => answered += 1,
        Event::Retry { .. } => retries += 1,
    })
    .unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("{seconds:.1} s, {retries} repetitions");
    assert!(seconds < 60.0, "{seconds} s");
    check(&all, &questions, Cue::Plain, &t);
    assert_eq!(read_annotations(&path).unwrap(), all);
    assert_eq!(answered, 5000);
    let ids = kept(dir.path());
    assert_eq!(ids.len(), 5000);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 5000);

    let state = server.state.lock().unwrap();
    assert!(state.answers.values().all(|n| *n == 1) && state.answers.len() == 5000);
    assert_eq!(state.seen.len(), 5000 + retries);
    let share = retries as f64 / state.seen.len() as f64;
    assert!((0.27..0.33).contains(&share), "{share} of the requests failed");
    let usage = usage(dir.path());
    assert_eq!((usage.answers, usage.lost), (5000, state.lost));
    assert_eq!(usage.prompt_tokens, state.prompt_tokens);
    assert_eq!(usage.completion_tokens, state.completion_tokens);
    assert!(usage.assumed_prompt_tokens > 0 && usage.cost.is_none());
    assert_eq!(usage.served, ["big"]);
}

#[test]
fn both_endpoints_ask_as_they_should() {
    let server = Server::sound();
    for (endpoint, path) in
        [(Endpoint::Chat, "/v1/chat/completions"), (Endpoint::Completions, "/v1/completions")]
    {
        let t = RemoteTeacher {
            endpoint,
            temperature: 0.7,
            stop: vec!["\n\n".into()],
            seed: 9,
            ..teacher(&server)
        };
        let (questions, dir) = (questions(3), tempfile::tempdir().unwrap());
        check(&ask(&questions, &t, dir.path()).unwrap(), &questions, Cue::Plain, &t);
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.path, path);
        assert_eq!(seen.authorization, None);
        assert_eq!(seen.body["temperature"], 0.7);
        assert_eq!((&seen.body["seed"], &seen.body["max_tokens"]), (&9.into(), &20.into()));
        assert_eq!(seen.body["stop"], serde_json::json!(["\n\n"]));
    }
}

#[test]
fn as_many_requests_at_a_time_as_allowed() {
    let server = Server::start(|_| Act::Answer(Duration::from_millis(10)));
    let t = RemoteTeacher { max_concurrency: 5, ..teacher(&server) };
    let dir = tempfile::tempdir().unwrap();
    ask(&questions(200), &t, dir.path()).unwrap();
    assert_eq!(server.peak.load(Ordering::SeqCst), 5);
}

#[test]
fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    for date in [false, true] {
        let server = Server::start(move |seen| {
            let after = match date {
                true => http_date(SystemTime::now() + Duration::from_secs(3)),
                false => "2".into(),
            };
            match seen.before {
                0 => Act::Status(429, vec![("Retry-After", after)], "{}".into()),
                _ => Act::Answer(Duration::ZERO),
            }
        });
        let dir = tempfile::tempdir().unwrap();
        ask(&questions(1), &teacher(&server), dir.path()).unwrap();
        let seen = server.seen();
        let waited = (seen[1].at - seen[0].at).as_secs_f64();
        // A date has whole seconds only.
        assert!((1.9..3.5).contains(&waited), "date: {date}, waited {waited} s");
    }
    let server =
        Server::start(|_| Act::Status(429, vec![("Retry-After", "3600".into())], "{}".into()));
    let error = error(&questions(1), &teacher(&server));
    assert!(error.contains("3600 s") && error.contains("max_retry_after"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_run_that_ends_in_the_middle_asks_nothing_twice() {
    let server = Server::start(|seen| three_in_ten_quick(&seen.prompt, seen.before));
    let t = RemoteTeacher { max_retries: 20, ..teacher(&server) };
    let (questions, dir) = (questions(600), tempfile::tempdir().unwrap());
    let path = dir.path().join("annotations.jsonl");
    for limit in [150, 1, 200] {
        let mut answered = 0;
        let mut until = |e: Event| {
            answered += usize::from(e == Event::Answered);
            assert!(answered < limit, "killed by the test");
        };
        let run = || annotate_remote(&questions, Cue::Plain, &t, &path, &mut until);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        // As a kill in the middle of a write leaves it.
        let mut file = fs::OpenOptions::new().append(true).open(dir.path().join("journal.jsonl"));
        std::io::Write::write_all(file.as_mut().unwrap(), b"{\"answer\":{\"id\":\"q").unwrap();
        assert!(!path.exists());
    }
    let before = fs::read_to_string(dir.path().join("journal.jsonl")).unwrap();
    let kept_before: HashSet<String> = before
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter_map(|l| l["answer"]["id"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(kept_before.len(), 351);
    let asked = server.seen().len();
    check(&ask(&questions, &t, dir.path()).unwrap(), &questions, Cue::Plain, &t);
    for seen in &server.seen()[asked..] {
        let q = questions.iter().find(|q| prompt::render(q, Cue::Plain) == seen.prompt).unwrap();
        assert!(!kept_before.contains(&q.id), "{} was asked again", q.id);
    }
    // All that the server answered is kept, but what was in flight at the three ends.
    let doubled: usize = server.answers().values().map(|n| n - 1).sum();
    assert!(doubled <= 3 * t.max_concurrency, "{doubled}");
    assert_eq!(usage(dir.path()).answers, 600);

    // Done, it needs no server.
    drop(server);
    assert_eq!(ask(&questions, &t, dir.path()).unwrap().len(), 600);
}

/// The faults that cost no second.
fn three_in_ten_quick(prompt: &str, before: usize) -> Act {
    match three_in_ten(prompt, before) {
        Act::Hang | Act::SlowFirstByte(_) => Act::Cut,
        Act::Status(..) => Act::Status(500, vec![], "{}".into()),
        act => act,
    }
}

#[test]
fn caps_stop_before_they_are_exceeded_and_keep_what_was_paid_for() {
    let server = Server::sound();
    let (questions, dir) = (questions(200), tempfile::tempdir().unwrap());
    let t = teacher(&server);
    let each = |q: &Question| {
        let (prompt, answer) = tokens(&prompt::render(q, Cue::Plain));
        prompt + answer
    };
    let all: u64 = questions.iter().map(each).sum();
    let spent = || {
        let s = server.state.lock().unwrap();
        s.prompt_tokens + s.completion_tokens
    };
    // Not even one: the bound of a request is above it.
    let capped = RemoteTeacher { max_total_tokens: Some(100), ..t.clone() };
    let error = ask(&questions, &capped, dir.path()).unwrap_err();
    assert_eq!(error.downcast_ref::<Stopped>().unwrap().answered, 0);
    assert_eq!(spent(), 0);
    // Half.
    let cap = all / 2;
    let capped = RemoteTeacher { max_total_tokens: Some(cap), ..t.clone() };
    let error = ask(&questions, &capped, dir.path()).unwrap_err();
    let stopped = error.downcast_ref::<Stopped>().unwrap().clone();
    assert!(spent() <= cap && spent() + 400 > cap, "{} of {cap}", spent());
    assert_eq!(kept(dir.path()).len(), stopped.answered);
    assert!(error.to_string().contains("max_total_tokens"), "{error}");
    // Again, nothing more is spent.
    let before = spent();
    ask(&questions, &capped, dir.path()).unwrap_err();
    assert_eq!(spent(), before);
    // Money.
    let capped = RemoteTeacher {
        price_per_million_input: Some(1e6),
        price_per_million_output: Some(1e6),
        max_cost: Some(all as f64 * 0.75),
        ..t.clone()
    };
    let ahead = estimate(&questions, &[Cue::Plain], &capped, dir.path()).unwrap();
    assert_eq!(ahead.requests, 200 - stopped.answered);
    assert!(ahead.measured && (2.9..3.2).contains(&ahead.bytes_per_token), "{ahead}");
    assert!(ahead.to_string().contains("in money"), "{ahead}");
    let error = ask(&questions, &capped, dir.path()).unwrap_err();
    assert!(error.to_string().contains("max_cost"), "{error}");
    assert!(spent() as f64 <= all as f64 * 0.75 && spent() > before);
    let usage = usage(dir.path());
    assert_eq!(usage.cost, Some(spent() as f64));
    // And without a cap to the end: everything was asked once.
    check(&ask(&questions, &t, dir.path()).unwrap(), &questions, Cue::Plain, &t);
    assert_eq!(spent(), all);
    assert!(server.answers().values().all(|n| *n == 1));
}

#[test]
fn a_server_that_counts_no_tokens_is_held_against_the_bound() {
    let server = Server::start(|_| Act::NoUsage);
    let (questions, dir) = (questions(100), tempfile::tempdir().unwrap());
    let t = RemoteTeacher { max_total_tokens: Some(5000), ..teacher(&server) };
    let error = ask(&questions, &t, dir.path()).unwrap_err();
    let answered = error.downcast_ref::<Stopped>().unwrap().answered;
    let usage = usage(dir.path());
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (0, 0));
    assert_eq!(usage.assumed_completion_tokens, 20 * answered as u64);
    assert!(usage.spent().total() <= 5000 && answered > 10, "{usage:?}");
}

#[test]
fn changed_questions_and_settings_do_not_get_old_answers() {
    let server = Server::sound();
    let (mut questions, dir) = (questions(3), tempfile::tempdir().unwrap());
    let t = teacher(&server);
    ask(&questions, &t, dir.path()).unwrap();
    let warmer = RemoteTeacher { temperature: 1.0, ..t.clone() };
    assert_eq!(ask(&questions, &warmer, dir.path()).unwrap()[0].model, warmer.id());
    assert_eq!(server.seen().len(), 6);
    questions[1].stem = "Something else?".into();
    let error = ask(&questions, &t, dir.path()).unwrap_err().to_string();
    assert!(error.contains("question q1"), "{error}");
    questions[1] = questions[0].clone();
    let error = ask(&questions, &t, dir.path()).unwrap_err().to_string();
    assert!(error.contains("two questions"), "{error}");
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn samples_are_asked_for_with_seeds_of_their_own() {
    let server = Server::start(|seen| three_in_ten(&seen.prompt, seen.before));
    let (questions, dir) = (questions(20), tempfile::tempdir().unwrap());
    let t = RemoteTeacher { temperature: 0.7, max_retries: 20, ..teacher(&server) };
    let several = RemoteTeacher { samples: 3, ..t.clone() };
    assert_eq!(several.id(), t.id());
    // One answer each first: they are the first samples.
    let first = ask(&questions, &t, dir.path()).unwrap();
    let ahead = estimate(&questions, &[Cue::Plain], &several, dir.path()).unwrap();
    assert_eq!((ahead.requests, ahead.answered), (40, 20));
    let all = ask(&questions, &several, dir.path()).unwrap();
    assert_eq!((all.len(), kept(dir.path()).len()), (60, 60));
    for (i, a) in all.iter().enumerate() {
        assert_eq!((&a.id, a.sample), (&questions[i / 3].id, i % 3));
        assert_eq!(a.seed, 1 + 1000 * (i as u64 % 3));
    }
    let firsts: Vec<Annotation> = all.into_iter().step_by(3).collect();
    assert_eq!(firsts, first);
    let seeds: HashSet<u64> =
        server.seen().iter().map(|s| s.body["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, HashSet::from([1, 1001, 2001]));
    let same = RemoteTeacher { temperature: 0.0, ..several };
    assert!(error(&questions, &same).contains("temperature 0"));
}

// The program itself, as a process.

const SECRET: &str = "sk-SESAME-0123456789";

fn program(dir: &Path, teacher: &str) -> Command {
    fs::write(dir.join("teacher.toml"), teacher).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cotalign"));
    command
        .args(["annotate", "--teacher"])
        .arg(dir.join("teacher.toml"))
        .arg("--questions")
        .arg(dir.join("questions.jsonl"))
        .arg("--out")
        .arg(dir.join("out"))
        .env("COTALIGN_TEST_KEY", SECRET)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn write_questions(dir: &Path, questions: &[Question]) {
    let lines: Vec<String> = questions.iter().map(|q| serde_json::to_string(q).unwrap()).collect();
    fs::write(dir.join("questions.jsonl"), lines.join("\n") + "\n").unwrap();
}

fn file(server: &Server, more: &str) -> String {
    toml::to_string(&teacher(server)).unwrap() + more
}

#[test]
fn a_killed_process_asks_nothing_twice() {
    let server = Server::start(|_| Act::Answer(Duration::from_millis(20)));
    let (questions, dir) = (questions(300), tempfile::tempdir().unwrap());
    write_questions(dir.path(), &questions);
    let out = dir.path().join("out");
    let mut kills = 0;
    for enough in [40, 120, 330] {
        let mut child: Child = program(dir.path(), &file(&server, "")).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while kept(&out).len() < enough && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let text = fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let before: HashSet<(String, String)> = text
        .split_inclusive('\n')
        .filter(|l| l.ends_with('\n'))
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .map(|l| {
            let a = &l["answer"];
            (a["id"].as_str().unwrap().into(), a["cue"].as_str().unwrap().into())
        })
        .collect();
    assert!((330..600).contains(&before.len()), "{}", before.len());
    let asked = server.seen().len();
    let outcome = program(dir.path(), &file(&server, "")).output().unwrap();
    assert!(outcome.status.success(), "{}", all_text(&outcome));
    for cue in Cue::ALL {
        let all = read_annotations(&out.join(format!("{cue}.jsonl"))).unwrap();
        check(&all, &questions, cue, &teacher(&server));
    }
    let prompts: HashSet<String> = questions
        .iter()
        .flat_map(|q| Cue::ALL.map(|cue| (q, cue)))
        .filter(|(q, cue)| before.contains(&(q.id.clone(), cue.to_string())))
        .map(|(q, cue)| prompt::render(q, cue))
        .collect();
    for seen in &server.seen()[asked..] {
        assert!(!prompts.contains(&seen.prompt), "asked again:\n{}", seen.prompt);
    }
    let doubled: usize = server.answers().values().map(|n| n - 1).sum();
    assert!(doubled <= kills * teacher(&server).max_concurrency, "{doubled}");
    assert_eq!(usage(&out).answers, 600);
}

fn all_text(outcome: &Output) -> String {
    String::from_utf8_lossy(&outcome.stdout).into_owned()
        + &String::from_utf8_lossy(&outcome.stderr)
}

/// The server repeats the key in every place it can; it is nowhere on disk and in
/// no line the program prints.
#[test]
fn the_key_is_sent_and_never_written() {
    let repeat = format!("{{\"error\": {{\"message\": \"bad key {SECRET}\"}}}}");
    let acts: Vec<Act> = vec![
        Act::Say(format!(" A, says {SECRET}.")),
        Act::WrongModel(SECRET.into()),
        Act::WrongModel(format!("big@{SECRET}")),
        Act::Status(500, vec![], repeat.clone()),
        Act::Status(200, vec![], repeat.clone()),
        Act::Status(400, vec![], repeat.clone()),
        Act::Status(401, vec![], repeat.clone()),
        Act::Status(403, vec![], repeat.clone()),
        Act::Status(404, vec![], repeat.clone()),
        Act::Status(307, vec![("Location", format!("http://h/?key={SECRET}"))], repeat),
        Act::Malformed,
        Act::Cut,
    ];
    for act in acts {
        let what = format!("{act:?}");
        let server = Server::start(move |_| act.clone());
        let dir = tempfile::tempdir().unwrap();
        write_questions(dir.path(), &questions(2));
        let more = "api_key_env = \"COTALIGN_TEST_KEY\"\n";
        let file = file(&server, more).replace("max_retries = 6", "max_retries = 1");
        let outcome = program(dir.path(), &file).output().unwrap();
        let said = all_text(&outcome);
        assert!(!said.contains(SECRET), "{what}: {said}");
        let seen = server.seen();
        let bearer = format!("Bearer {SECRET}");
        assert!(!seen.is_empty(), "{what}: {said}");
        assert!(seen.iter().all(|s| s.authorization.as_deref() == Some(&bearer)));
        for entry in fs::read_dir(dir.path().join("out")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
            assert!(!found, "{what}: {}", path.display());
        }
        if what.contains("401") {
            assert!(said.contains("COTALIGN_TEST_KEY") && said.contains("***"), "{said}");
        }
        assert_eq!(outcome.status.success(), what.contains("Say") || what.contains("big@"));
    }
}

#[test]
fn a_missing_key_is_told_before_anything_is_asked() {
    let server = Server::sound();
    let dir = tempfile::tempdir().unwrap();
    write_questions(dir.path(), &questions(2));
    let more = "api_key_env = \"COTALIGN_TEST_KEY\"\n";
    let outcome =
        program(dir.path(), &file(&server, more)).env_remove("COTALIGN_TEST_KEY").output().unwrap();
    let said = all_text(&outcome);
    assert!(said.contains("COTALIGN_TEST_KEY is not set"), "{said}");
    assert!(!outcome.status.success() && server.seen().is_empty());
}

#[test]
fn the_estimate_is_shown_before_and_the_totals_after() {
    let server = Server::sound();
    let dir = tempfile::tempdir().unwrap();
    write_questions(dir.path(), &questions(10));
    let more = "price_per_million_input = 1.0\nprice_per_million_output = 2.0\nmax_cost = 1.0\n";
    let outcome = program(dir.path(), &file(&server, more)).output().unwrap();
    let said = all_text(&outcome);
    assert!(outcome.status.success(), "{said}");
    for part in ["20 requests", "at most 400 answer tokens", "cap: 1 in money", "in all"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(dir.path().join("out/plain.jsonl").is_file());
    assert!(dir.path().join("out/cot.jsonl").is_file());
}
