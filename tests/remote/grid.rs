//! Whole runs with a teacher behind a server: one cap for all of its stages.

use std::collections::HashSet;
use std::path::Path;

use cotalign::study::{
    Artifact, Experiments, ModelSpec, Spec, Stage, Store, Workshop, lay_out, run_all,
};
use cotalign::task::Benchmark;
use cotalign::teach::remote::{Estimate, RemoteTeacher, Stopped};

use super::server::Server;
use super::{kept, teacher};

/// 2 tasks, 2 cues, 2 seeds; each stage asks the 6 train or the 4 test questions.
const REQUESTS: usize = 2 * 2 * 2 * (6 + 4);

/// A run's parts; nobody is loaded, since the students, who are not needed, are served, too.
fn spec(teacher: &RemoteTeacher) -> Spec {
    let member = |name: &str| ModelSpec {
        name: name.into(),
        family: "big".into(),
        temperature: 0.5,
        figure_2: true,
        chat: false,
        remote: Some(teacher.clone()),
    };
    Spec {
        scale: Some("smoke".into()),
        only: Some(vec![Artifact::P1_Table11]),
        tasks: Some(vec![Benchmark::Obqa, Benchmark::MultiArith]),
        seeds: Some(2),
        teachers: Some(vec![member("big")]),
        students: Some(vec![member("small")]),
        train_questions: Some(6),
        test_questions: Some(4),
        ..Spec::default()
    }
}

fn ahead(grid: &Experiments, shop: &Workshop) -> Option<Estimate> {
    let waiting = grid.order.iter().filter(|id| !shop.store.is_done(id));
    let stages: Vec<&Stage> = waiting.map(|id| &grid.stages[id]).collect();
    let mut all = shop.open_purses(&stages, &|_| ()).unwrap();
    assert!(all.len() < 2);
    all.pop().map(|(_, estimate)| estimate)
}

/// Runs all stages in a store of this folder, each time as a new process would.
fn run(dir: &Path, teacher: &RemoteTeacher, jobs: usize) -> (Option<Estimate>, Result<(), String>) {
    let plan = spec(teacher).resolve(Path::new("nowhere")).unwrap();
    let grid = lay_out(&plan).unwrap();
    assert_eq!(grid.order.len(), 16);
    let store = Store::open(dir).unwrap();
    let shop = Workshop::new(&store, Path::new("nowhere"), &plan);
    let ahead = ahead(&grid, &shop);
    let outcome = run_all(&grid.stages, &grid.order, &shop, jobs);
    if let Err(e) = &outcome {
        assert!(e.chain().any(|e| e.is::<Stopped>()), "{e:#}");
    }
    (ahead, outcome.map(|_| ()).map_err(|e| format!("{e:#}")))
}

fn spent(server: &Server) -> u64 {
    let state = server.state.lock().unwrap();
    state.prompt_tokens + state.completion_tokens
}

/// Answers in all journals of a store.
fn answered(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().map(|entry| kept(&entry.unwrap().path()).len()).sum()
}

#[test]
fn a_cap_holds_for_all_stages_of_a_run() {
    let (free, dir) = (Server::sound(), tempfile::tempdir().unwrap());
    run(dir.path(), &teacher(&free), 1).1.unwrap();
    let all = spent(&free);
    for jobs in [1, 2] {
        let (server, dir) = (Server::sound(), tempfile::tempdir().unwrap());
        let t = RemoteTeacher { max_concurrency: 3, ..teacher(&server) };
        // Each stage alone would stay far below it.
        let cap = all * 6 / 10;
        let capped = RemoteTeacher { max_total_tokens: Some(cap), ..t.clone() };
        let (ahead, outcome) = run(dir.path(), &capped, jobs);
        let ahead = ahead.unwrap();
        assert_eq!((ahead.requests, ahead.answered, ahead.spent.answers), (REQUESTS, 0, 0));
        assert_eq!(ahead.completion_tokens, REQUESTS as u64 * 20);
        let error = outcome.unwrap_err();
        assert!(error.contains("max_total_tokens"), "{error}");
        // The longest prompt has less than 500 bytes, and one like it did not fit.
        assert!(spent(&server) <= cap && spent(&server) + 600 > cap, "{} {cap}", spent(&server));
        // A run that goes on counts what was spent before, and has nothing left to spend.
        let (before, kept) = (spent(&server), answered(dir.path()));
        let (ahead, outcome) = run(dir.path(), &capped, jobs);
        let ahead = ahead.unwrap();
        assert_eq!(ahead.spent.answers, kept as u64);
        assert_eq!(ahead.spent.spent().total(), before);
        assert!(ahead.requests >= REQUESTS - kept && ahead.measured, "{ahead}");
        outcome.unwrap_err();
        assert!(spent(&server) <= cap, "{}", spent(&server));
        // Money, at one a token.
        let money = RemoteTeacher {
            price_per_million_input: Some(1e6),
            price_per_million_output: Some(1e6),
            max_cost: Some(all as f64 * 0.8),
            ..t.clone()
        };
        let error = run(dir.path(), &money, jobs).1.unwrap_err();
        assert!(error.contains("max_cost"), "{error}");
        assert!(spent(&server) > cap && spent(&server) as f64 <= all as f64 * 0.8);
        // Without a cap to the end: everything was asked once, under both seeds.
        run(dir.path(), &t, jobs).1.unwrap();
        assert_eq!((spent(&server), answered(dir.path())), (all, REQUESTS));
        assert!(server.answers().values().all(|n| *n == 2));
        assert!(run(dir.path(), &t, jobs).0.is_none(), "nothing is left to ask");
    }
}

/// Another teacher's spending is its own.
#[test]
fn a_cap_is_the_members_own() {
    let (server, dir) = (Server::sound(), tempfile::tempdir().unwrap());
    let t = teacher(&server);
    run(dir.path(), &t, 2).1.unwrap();
    let all = spent(&server);
    let capped = RemoteTeacher { max_total_tokens: Some(2 * all), ..t };
    let mut spec = spec(&capped);
    spec.teachers.as_mut().unwrap()[0].name = "other".into();
    let plan = spec.resolve(Path::new("nowhere")).unwrap();
    let grid = lay_out(&plan).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let shop = Workshop::new(&store, Path::new("nowhere"), &plan);
    assert_eq!(ahead(&grid, &shop).unwrap().spent.spent().total(), 0);
    run_all(&grid.stages, &grid.order, &shop, 2).unwrap();
    assert_eq!(spent(&server), 2 * all);
}

#[test]
fn a_second_run_under_the_same_cap_waits_for_the_first() {
    let (server, dir) = (Server::sound(), tempfile::tempdir().unwrap());
    let free = Server::sound();
    let other = tempfile::tempdir().unwrap();
    run(other.path(), &teacher(&free), 1).1.unwrap();
    let cap = spent(&free) / 2;
    let t = RemoteTeacher { max_total_tokens: Some(cap), ..teacher(&server) };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| run(dir.path(), &t, 2).1.unwrap_err());
        }
    });
    assert!(spent(&server) <= cap, "{} of {cap}", spent(&server));
}

/// Several demonstrations of a question: three answers each, asked with three seeds.
#[test]
fn a_teacher_gives_several_samples() {
    let (server, dir) = (Server::sound(), tempfile::tempdir().unwrap());
    let plan = Spec { samples: Some(3), seeds: Some(1), ..spec(&teacher(&server)) }
        .resolve(Path::new("nowhere"))
        .unwrap();
    let grid = lay_out(&plan).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let shop = Workshop::new(&store, Path::new("nowhere"), &plan);
    // Only what students learn from is asked several times.
    assert_eq!(ahead(&grid, &shop).unwrap().requests, 2 * 2 * (3 * 6 + 4));
    run_all(&grid.stages, &grid.order, &shop, 2).unwrap();
    for id in &grid.order {
        let Stage::Annotate(p) = &grid.stages[id] else { continue };
        assert_eq!(p.sampling.samples, 3);
        let path = store.path(id).join("annotations.jsonl");
        let all = cotalign::teach::read_annotations(&path).unwrap();
        let of: Vec<(usize, u64)> = all.iter().map(|a| (a.sample, a.seed)).collect();
        assert_eq!(of, [(0, 1), (1, 1001), (2, 2001)].repeat(6));
        assert_eq!(all.iter().map(|a| &a.id).collect::<HashSet<_>>().len(), 6);
        let probe: cotalign::probe::Probe = store.read(id, "probe.json").unwrap();
        assert_eq!(probe.n, 18);
    }
    let error = Spec { samples: Some(2), ..spec(&teacher(&server)) };
    let mut cold = error.clone();
    cold.teachers.as_mut().unwrap()[0].temperature = 0.0;
    let error = cold.resolve(Path::new("nowhere")).unwrap_err().to_string();
    assert!(error.contains("samples") && error.contains("big"), "{error}");
}
