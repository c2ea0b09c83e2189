//! Guards downloads from the hub, against a server on this machine that speaks as
//! the hub does: what arrives, what is asked for again, where the token goes, and
//! the words for everything that goes wrong. Each test runs the program itself,
//! since the environment decides about endpoint, cache, token and network.
#![cfg(feature = "hub")]

mod common;
#[path = "hub/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cotalign::model::{Config, load_base};
use server::{COMMIT, Fault, Hub, SIGNATURE, sha256};
use tempfile::TempDir;

const TOKEN: &str = "hf_this_is_the_token";
const WEIGHTS: &str = "model.safetensors";

/// Bytes without a period that a shifted part could hide behind.
fn noise(n: usize) -> Vec<u8> {
    let mut x = 1u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// A repository with a model's files; the weights are 300 kB of noise.
fn model() -> Hub {
    let weights = noise(300_000);
    Hub::of(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"version\": \"1.0\"}"),
        ("generation_config.json", b"{\"do_sample\": false}"),
        (WEIGHTS, &weights),
        ("pytorch_model.bin", b"code"),
    ])
}

struct Ran {
    ok: bool,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn well(self) -> Ran {
        assert!(self.ok, "{}\n{}", self.out, self.err);
        self
    }

    /// It failed, and said all of this.
    #[track_caller]
    fn badly(self, words: &[&str]) {
        assert!(!self.ok, "expected an error:\n{}", self.out);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in:\n{}", self.err);
        }
    }
}

/// Runs the program with nothing in its environment but this.
fn run(endpoint: &str, home: &Path, more: &[(&str, &str)], args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_cotalign"))
        .env_clear()
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home)
        .envs(more.iter().copied())
        .current_dir(home)
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ran =
        Ran { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) };
    for secret in [TOKEN, SIGNATURE] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{}\n{}", ran.out, ran.err);
    }
    ran
}

fn fetch(hub: &Hub, home: &TempDir, args: &[&str]) -> Ran {
    run(&hub.endpoint, home.path(), &[], &[&["fetch", "owner/name"], args].concat())
}

fn snapshot(home: &Path) -> PathBuf {
    home.join("hub/models--owner--name/snapshots").join(COMMIT)
}

/// What lies under `blobs`, by name.
fn blobs(home: &Path) -> BTreeMap<String, u64> {
    let Ok(all) = fs::read_dir(home.join("hub/models--owner--name/blobs")) else {
        return BTreeMap::new();
    };
    let one = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len());
    all.map(|e| one(e.unwrap())).collect()
}

#[test]
fn a_model_arrives_once_with_its_hashes_and_the_token_stays_with_the_hub() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    let token = [("HF_TOKEN", TOKEN)];
    let ran = run(&hub.endpoint, home.path(), &token, &["fetch", "owner/name"]).well();
    assert!(ran.out.contains(&format!("owner/name@main is commit {COMMIT}")), "{}", ran.out);
    let weights = noise(300_000);
    assert!(ran.out.contains(&format!("300000  {}  {WEIGHTS}", sha256(&weights))), "{}", ran.out);
    assert!(ran.out.contains(&sha256(b"{}")) && !ran.out.contains("pytorch_model"), "{}", ran.out);
    assert!(ran.err.contains("model.safetensors (4 of 4), 300.0 kB"), "{}", ran.err);
    assert_eq!(fs::read(snapshot(home.path()).join(WEIGHTS)).unwrap(), weights);
    // Where the Python tools look for it.
    assert!(blobs(home.path()).contains_key(&sha256(&weights)));
    let refs = home.path().join("hub/models--owner--name/refs/main");
    assert_eq!(fs::read_to_string(refs).unwrap(), COMMIT);

    let seen = hub.seen();
    let bearer = format!("Bearer {TOKEN}");
    assert!(seen.iter().any(|s| s.store) && seen.iter().any(|s| !s.store));
    for s in &seen {
        assert_eq!(s.authorization.as_deref(), (!s.store).then_some(bearer.as_str()), "{s:?}");
    }

    let dry = fetch(&hub, &home, &["--dry-run"]).well();
    assert!(dry.out.contains("             0  to download"), "{}", dry.out);
    hub.seen();

    // The second time only the revision is asked about, a pinned one not even that.
    let again = fetch(&hub, &home, &[]).well();
    assert_eq!(again.out, ran.out);
    assert_eq!(hub.seen().len(), 1);
    let pinned = format!("owner/name@{COMMIT}");
    run(&hub.endpoint, home.path(), &[], &["fetch", &pinned]).well();
    assert_eq!(hub.seen(), []);
}

#[test]
fn files_of_a_dataset_by_reference_and_a_list_of_them() {
    let rows = noise(5_000);
    let hub = Hub::of(&[("default/train/0000.parquet", &rows), ("README.md", b"# Data")]);
    let home = TempDir::new().unwrap();
    let name = "owner/name@refs/convert/parquet";
    let args = ["fetch", "--dataset", name, "--file", "default/train/0000.parquet"];
    let ran = run(&hub.endpoint, home.path(), &[], &args).well();
    assert!(ran.out.contains(&sha256(&rows)) && ran.out.contains(COMMIT), "{}", ran.out);
    assert!(hub.seen()[0].path.ends_with("/revision/refs%2Fconvert%2Fparquet"));
    let file = format!("hub/datasets--owner--name/snapshots/{COMMIT}/default/train/0000.parquet");
    assert_eq!(fs::read(home.path().join(file)).unwrap(), rows);

    run(&hub.endpoint, home.path(), &[("HF_HUB_OFFLINE", "1")], &args).well();
    run(&hub.endpoint, home.path(), &[], &["fetch", "--dataset", "owner/name"]).badly(&[
        "--file",
        "default/train/0000.parquet",
        "README.md",
    ]);
    run(&hub.endpoint, home.path(), &[], &["fetch", "--dataset", name, "--file", "no.parquet"])
        .badly(&["owner/name@refs/convert/parquet: no.parquet: there is no such file", "%2F"]);
    run(&hub.endpoint, home.path(), &[], &["fetch", "--dataset", name, "--file", "../../x"])
        .badly(&["is not a path in a repository"]);
}

fn shard(i: usize) -> String {
    format!("model-0000{}-of-00002.safetensors", i + 1)
}

#[test]
fn a_sharded_model_of_the_hub_loads() {
    let (home, made) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    // The prompts of `probe` are longer than the other tests' sequences.
    let config = Config { max_position_embeddings: 2048, ..common::tiny_config("llama") };
    common::save_tiny(&config, 3, made.path());
    let all = candle_core::safetensors::load(made.path().join(WEIGHTS), &candle_core::Device::Cpu)
        .unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [std::collections::HashMap::new(), std::collections::HashMap::new()];
    for (i, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(name.clone(), shard(i % 2).into());
        shards[i % 2].insert(name, tensor);
    }
    for (i, tensors) in shards.iter().enumerate() {
        candle_core::safetensors::save(tensors, made.path().join(shard(i))).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    let read = |name: &str| fs::read(made.path().join(name)).unwrap();
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", &shard(0), &shard(1)];
    let mut files: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (*n, read(n))).collect();
    files.push(("model.safetensors.index.json", index.into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    let hub = Hub::of(&files);

    // What needs no weights does not download them.
    run(&hub.endpoint, home.path(), &[], &["memory", "owner/name"]).well();
    assert!(!snapshot(home.path()).join("model.safetensors.index.json").exists());
    let ran = fetch(&hub, &home, &["--dry-run"]).well();
    assert!(ran.out.contains("to download") && ran.out.contains(&shard(1)), "{}", ran.out);
    assert!(!snapshot(home.path()).join(shard(1)).exists());

    let probe = ["probe", "owner/name@v1", "--questions", "1", "--show", "0"];
    let ran = run(&hub.endpoint, home.path(), &[], &probe).well();
    assert!(ran.err.contains("owner/name: model-00002-of-00002.safetensors"), "{}", ran.err);
    let (ours, _) = load_base(&snapshot(home.path())).unwrap();
    let (whole, _) = load_base(made.path()).unwrap();
    let ids = common::tokens(20, 1);
    assert_eq!(common::logits(&ours, &[&ids]), common::logits(&whole, &[&ids]));
}

#[test]
fn a_refusal_says_what_to_do() {
    let home = TempDir::new().unwrap();
    let hub = model();
    let page = format!("{}/owner/name", hub.endpoint);
    let with =
        |more: &[(&str, &str)], name: &str| run(&hub.endpoint, home.path(), more, &["fetch", name]);
    let token = [("HF_TOKEN", TOKEN)];

    let gated =
        "X-Error-Code: GatedRepo\r\nX-Error-Message: Access to model owner/name is restricted.\r\n";
    let refuse = |status, head| {
        hub.faults(move |s, _| (s.method == "HEAD").then_some(Fault::Refuse(status, head)));
    };
    refuse(401, gated);
    with(&[], "owner/name").badly(&["owner/name@main: config.json", "gated", &page, "HF_TOKEN"]);
    refuse(403, gated);
    with(&token, "owner/name").badly(&["the account of your token has no access", &page]);
    refuse(403, "X-Error-Message: Access to this resource is disabled.\r\n");
    with(&[], "owner/name").badly(&["the hub has disabled this model"]);
    refuse(401, "X-Error-Message: Invalid credentials in Authorization header\r\n");
    with(&token, "owner/name").badly(&["does not accept your token", "settings/tokens"]);
    refuse(429, "Retry-After: 3600\r\n");
    with(&[], "owner/name").badly(&["owner/name@main: config.json", "wait 60 minutes", "HF_TOKEN"]);
    refuse(429, "RateLimit: \"resolve\";r=0;t=90\r\n");
    with(&token, "owner/name").badly(&["wait 90 seconds"]);
    refuse(200, "");
    with(&[], "owner/name").badly(&["no usable ETag", "proxy"]);

    hub.well();
    with(&[], "owner/nothing").badly(&[
        "owner/nothing@main",
        "no such model",
        "private",
        "--dataset",
    ]);
    with(&[], "owner/name@v9").badly(&["owner/name@v9", "no revision \"v9\""]);
    let ran = run(&hub.endpoint, home.path(), &[], &["fetch", "owner/name", "--file", "x.json"]);
    ran.badly(&["owner/name@main: x.json: there is no such file", "/tree/main"]);
    let old =
        Hub::of(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"")]);
    fetch(&old, &TempDir::new().unwrap(), &[]).badly(&["safetensors only", "pytorch_model.bin"]);
    run(&hub.endpoint, home.path(), &[], &["probe", "no-such-model"]).badly(&["not owner/name"]);
    run("not an address", home.path(), &[], &["fetch", "owner/name"]).badly(&["HF_ENDPOINT"]);
    assert!(!snapshot(home.path()).join(WEIGHTS).exists());
}

#[test]
fn what_passes_is_waited_for() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    // Every request is refused twice; the store's 403 is a signature that ran out.
    hub.faults(|s, before| match (before, s.store, s.path.starts_with("/api/models")) {
        (0, false, true) => Some(Fault::Refuse(503, "")),
        (0..2, true, _) => Some(Fault::Refuse(if before == 0 { 503 } else { 403 }, "")),
        (0, false, false) if s.path.ends_with("/config.json") => {
            Some(Fault::Refuse(429, "Retry-After: 1\r\n"))
        }
        _ => None,
    });
    let ran = fetch(&hub, &home, &[]).well();
    assert!(ran.out.contains(&sha256(&noise(300_000))), "{}", ran.out);
    for said in ["owner/name: answer 503; again", "too many requests; again in 1.0", "answer 403"] {
        assert!(ran.err.contains(said), "no {said:?} in\n{}", ran.err);
    }
}

/// `run` looks for the token in everything; here the hub repeats it, in words and as a
/// body, and the address holds a password.
#[test]
fn what_the_hub_was_sent_is_not_printed() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    hub.faults(|_, _| {
        let said = "X-Error-Message: unknown token hf_this_is_the_token\r\n";
        Some(Fault::Refuse(401, said))
    });
    let token = [("HF_TOKEN", TOKEN)];
    let with = |endpoint: &str, args: &[&str]| run(endpoint, home.path(), &token, args);
    with(&hub.endpoint, &["fetch", "owner/name"]).badly(&["unknown token ***"]);
    let pinned = format!("owner/name@{COMMIT}");
    with(&hub.endpoint, &["fetch", &pinned]).badly(&["unknown token ***"]);
    let endpoint = hub.endpoint.replace("http://", "http://me:pass_SESAME@");
    let ran = with(&endpoint, &["fetch", "owner/name"]);
    assert!(!ran.err.contains("SESAME"), "{}", ran.err);
    ran.badly(&["127.0.0.1"]);
}

/// The first call gets 100 kB and then nothing but 503; the second goes on from there.
#[test]
fn a_cut_file_goes_on_where_it_stopped() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    hub.faults(|s, before| match (s.store, before) {
        (true, 0) => Some(Fault::Cut(100_000)),
        (true, _) => Some(Fault::Refuse(503, "")),
        _ => None,
    });
    fetch(&hub, &home, &[]).badly(&[WEIGHTS, "again in", "503", "what has arrived is kept"]);
    let seen = hub.seen();
    assert_eq!(seen.iter().filter(|s| s.store).count(), 5);
    let part = format!("{}.incomplete", sha256(&noise(300_000)));
    assert_eq!(blobs(home.path())[&part], 100_000);
    assert!(!snapshot(home.path()).join(WEIGHTS).exists());

    hub.well();
    let ran = fetch(&hub, &home, &[]).well();
    assert!(ran.err.contains("going on after 100.0 kB"), "{}", ran.err);
    let store: Vec<_> = hub.seen().into_iter().filter(|s| s.store).collect();
    assert_eq!(store.len(), 1);
    assert_eq!(store[0].range.as_deref(), Some("bytes=100000-"));
    assert_eq!(fs::read(snapshot(home.path()).join(WEIGHTS)).unwrap(), noise(300_000));
    assert!(!blobs(home.path()).contains_key(&part));
}

#[test]
fn a_line_that_breaks_again_and_again_is_no_obstacle_while_bytes_come() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    hub.faults(|s, before| (s.store && before < 2).then_some(Fault::Cut(120_000)));
    fetch(&hub, &home, &[]).well();
    let ranges: Vec<_> = hub.seen().into_iter().filter(|s| s.store).map(|s| s.range).collect();
    let from = |n: usize| Some(format!("bytes={n}-"));
    assert_eq!(ranges, [None, from(120_000), from(240_000)]);
    assert_eq!(fs::read(snapshot(home.path()).join(WEIGHTS)).unwrap(), noise(300_000));

    // A store that cannot go on sends all of it again.
    let home = TempDir::new().unwrap();
    hub.faults(|s, before| {
        s.store.then_some(if before == 0 { Fault::Cut(120_000) } else { Fault::Whole })
    });
    fetch(&hub, &home, &[]).well();
    assert_eq!(fs::read(snapshot(home.path()).join(WEIGHTS)).unwrap(), noise(300_000));
}

#[test]
fn wrong_bytes_are_found_out() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    let right = sha256(&noise(300_000));
    hub.faults(|s, _| s.store.then_some(Fault::Corrupt));
    fetch(&hub, &home, &[]).badly(&["owner/name@main: model.safetensors", &right, "was deleted"]);
    assert!(blobs(home.path()).keys().all(|name| !name.starts_with(&right)));

    // A part that suffered on disk is found out too, and gets a second chance.
    hub.well();
    let part = home.path().join(format!("hub/models--owner--name/blobs/{right}.incomplete"));
    fs::write(part, vec![7; 50_000]).unwrap();
    let ran = fetch(&hub, &home, &[]).well();
    assert!(ran.err.contains("again from the beginning"), "{}", ran.err);
    assert_eq!(fs::read(snapshot(home.path()).join(WEIGHTS)).unwrap(), noise(300_000));

    // So is a file that changed after it came.
    let blob = home.path().join(format!("hub/models--owner--name/blobs/{right}"));
    fs::write(&blob, vec![7; 300_000]).unwrap();
    fetch(&hub, &home, &["--offline"]).badly(&["damaged", "delete", blob.to_str().unwrap()]);
    fs::remove_file(blob).unwrap();
    fetch(&hub, &home, &[]).well();
}

/// The second waits for the first, and finds the file there.
#[test]
fn two_at_once_download_once() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| fetch(&hub, &home, &[]).well());
        }
    });
    assert_eq!(hub.seen().iter().filter(|s| s.store).count(), 1);
    fetch(&hub, &home, &["--offline"]).well();
}

#[test]
fn offline_takes_what_is_there_and_asks_nobody() {
    let (hub, home) = (model(), TempDir::new().unwrap());
    let off = [("HF_HUB_OFFLINE", "1")];
    fetch(&hub, &home, &["--offline"]).badly(&[
        "owner/name@main",
        "not in the cache",
        "`cotalign fetch owner/name@main`",
    ]);
    fetch(&hub, &home, &["--file", "config.json"]).well();
    hub.seen();
    fetch(&hub, &home, &["--offline"]).badly(&["tokenizer.json is not in the cache"]);
    let ran =
        run(&hub.endpoint, home.path(), &off, &["fetch", "owner/name", "--file", "config.json"]);
    assert!(ran.well().out.contains(&sha256(b"{}")));
    assert_eq!(hub.seen(), []);

    let all = fetch(&hub, &home, &[]).well();
    hub.seen();
    assert_eq!(fetch(&hub, &home, &["--offline"]).well().out, all.out);
    fs::remove_file(snapshot(home.path()).join(WEIGHTS)).unwrap();
    fetch(&hub, &home, &["--offline"]).badly(&["model.safetensors is not in the cache"]);
    assert_eq!(hub.seen(), []);
}

#[test]
fn no_network_is_said_so() {
    let home = TempDir::new().unwrap();
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    run(&endpoint, home.path(), &[], &["fetch", "owner/name"]).badly(&[
        "owner/name@main",
        &endpoint,
        "cannot be reached",
        "--offline",
    ]);
}

/// A file system of 64 kB, where the machine lets us have one.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(dir.path())
            .output();
        mounted.is_ok_and(|o| o.status.success()).then(|| Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).output());
    }
}

#[test]
fn a_full_disk_is_said_so() {
    let Some(small) = Small::mount() else {
        eprintln!("skipped: no file system may be mounted here");
        return;
    };
    let (hub, home) = (model(), TempDir::new().unwrap());
    let cache = small.0.path().join("hub");
    let more = [("HF_HUB_CACHE", cache.to_str().unwrap())];
    run(&hub.endpoint, home.path(), &more, &["fetch", "owner/name"]).badly(&[
        "owner/name@main: model.safetensors",
        "no space left",
        "still to come",
        "HF_HOME",
        cache.to_str().unwrap(),
    ]);
    // HF_HUB_CACHE goes before HF_HOME.
    assert!(blobs(home.path()).is_empty());
}
