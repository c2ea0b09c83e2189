//! The loaders of benchmark files on any bytes: an error or questions that can be asked, never
//! a panic.
//!
//!     cargo fuzz run -s none loaders
//!
//! Parquet is left out: its bytes are the decoder's matter, not the loaders'.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use cotalign::task::NativeSplit::{Dev, Test, Train, Validation};
use cotalign::task::{Benchmark, Gold, NativeSplit, load};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Each shape of file that a loader reads, one at least of every benchmark.
const FILES: [(Benchmark, NativeSplit, &str); 17] = [
    (Benchmark::Obqa, Train, "train.jsonl"),
    (Benchmark::Csqa, Train, "train_rand_split.jsonl"),
    (Benchmark::Piqa, Train, "train.jsonl"),
    (Benchmark::Siqa, Validation, "socialIQa_v1.4_dev.jsonl"),
    (Benchmark::Gsm8k, Test, "test.jsonl"),
    (Benchmark::MultiArith, Train, "MultiArith.json"),
    (Benchmark::MultiArith, Test, "MultiArith.json"),
    (Benchmark::Math, Train, "train.jsonl"),
    (Benchmark::Math, Test, "test/algebra/1.json"),
    (Benchmark::Mmlu, Dev, "dev/anatomy_dev.csv"),
    (Benchmark::Mmlu, Test, "test/anatomy_test.csv"),
    (Benchmark::Bbh, Test, "web_of_lies.json"),
    (Benchmark::Aqua, Test, "test.json"),
    (Benchmark::Aqua, Train, "train_flan_cot.tsv"),
    (Benchmark::Ecqa, Validation, "cqa_data_val.csv"),
    (Benchmark::Ecqa, Train, "train_flan_cot.tsv"),
    (Benchmark::Ecqa, Validation, "author_split/val_ids.txt"),
];

/// A row of the second of CSQA's files, which a list of ids needs, too.
const CSQA: &str = r#"{"answerKey": "A", "id": "d", "question": {"stem": "s", "choices": [
    {"label": "A", "text": "a"}, {"label": "B", "text": "b"}, {"label": "C", "text": "c"},
    {"label": "D", "text": "d"}, {"label": "E", "text": "e"}]}}"#;

/// A folder for each of [`FILES`], so that the loader finds that file and no other.
static FOLDERS: LazyLock<(TempDir, Vec<PathBuf>)> = LazyLock::new(|| {
    assert!(Benchmark::every().all(|b| FILES.iter().any(|(of, ..)| *of == b)));
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let dir = dir.expect("a folder for the files");
    let folders: Vec<PathBuf> = (0..FILES.len()).map(|i| dir.path().join(i.to_string())).collect();
    for (folder, (_, _, name)) in folders.iter().zip(FILES) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("making a folder");
        if name.ends_with("_ids.txt") {
            fs::create_dir(folder.join("cqa")).expect("making a folder");
            let row = CSQA.replace('\n', " ");
            fs::write(folder.join("cqa/dev_rand_split.jsonl"), row).expect("writing a file");
        }
    }
    (dir, folders)
});

/// The file that lies beside the one with the rows, if it can have one: labels, or the
/// questions of a list of ids.
fn beside(benchmark: Benchmark, name: &str) -> Option<String> {
    match benchmark {
        Benchmark::Piqa | Benchmark::Siqa => {
            Some(format!("{}-labels.lst", name.trim_end_matches(".jsonl")))
        }
        Benchmark::Ecqa if name.ends_with("_ids.txt") => Some("cqa/train_rand_split.jsonl".into()),
        _ => None,
    }
}

// The first byte picks the file; a NUL splits its rows from what lies beside them.
fuzz_target!(|data: &[u8]| {
    let Some((pick, rest)) = data.split_first() else { return };
    let pick = usize::from(*pick) % FILES.len();
    let (benchmark, split, name) = FILES[pick];
    let folder = &FOLDERS.1[pick];
    let path = folder.join(name);
    let mut rows = rest;
    if let Some(name) = beside(benchmark, name) {
        let other = folder.join(name);
        match rest.iter().position(|b| *b == 0) {
            Some(at) => {
                rows = &rest[..at];
                fs::write(other, &rest[at + 1..]).expect("writing a file");
            }
            None => drop(fs::remove_file(other)),
        }
    }
    fs::write(&path, rows).expect("writing a file");
    let Ok(questions) = load(benchmark, folder, split) else { return };
    for q in questions {
        assert_eq!(q.benchmark, benchmark);
        assert!(!q.id.is_empty() && !q.stem.trim().is_empty());
        match q.gold {
            Gold::Choice(index) => assert!(index < q.options.len()),
            _ => assert!(q.options.is_empty()),
        }
    }
});
