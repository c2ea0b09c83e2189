//! The real benchmarks from a folder, in the layout of their publishers or of the hub.
//!
//! Rows load into the same [`Question`] as those of the pocket world. Which file holds a split
//! follows from what is there: the publishers' file names come first, then Parquet files as the
//! hub lays them out.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Result, anyhow, bail};
use regex::Regex;

use super::ecqa;
use super::known;
use super::question::{Benchmark, Question};
use super::record::{Label, Record, columns, record};
use super::rows::{self, join_labels};
use super::sources::{self, named_by};

/// The splits the publishers made; P1 (Table 13) trains on the first and tests on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NativeSplit {
    Train,
    /// MMLU's five examples of each subject, which few-shot prompts show.
    Dev,
    Validation,
    Test,
}

impl NativeSplit {
    pub const ALL: [NativeSplit; 4] =
        [NativeSplit::Train, NativeSplit::Dev, NativeSplit::Validation, NativeSplit::Test];

    pub fn name(self) -> &'static str {
        match self {
            NativeSplit::Train => "train",
            NativeSplit::Dev => "dev",
            NativeSplit::Validation => "validation",
            NativeSplit::Test => "test",
        }
    }

    /// The splits of a benchmark whose gold is public, the one to score first.
    ///
    /// The papers test on validation where test golds are hidden, and on OBQA's as well
    /// (P1, Table 13: 125 a class).
    pub fn of(benchmark: Benchmark) -> &'static [NativeSplit] {
        use NativeSplit::*;
        match benchmark {
            Benchmark::Obqa => &[Validation, Test, Train],
            Benchmark::Csqa | Benchmark::Piqa | Benchmark::Siqa => &[Validation, Train],
            Benchmark::Gsm8k | Benchmark::MultiArith | Benchmark::Math => &[Test, Train],
            Benchmark::Mmlu => &[Test, Validation, Dev],
            Benchmark::Bbh => &[Test],
            Benchmark::Aqua | Benchmark::Ecqa => &[Test, Validation, Train],
        }
    }

    /// The split that scores are reported on.
    pub fn scored(benchmark: Benchmark) -> NativeSplit {
        Self::of(benchmark)[0]
    }
}

impl fmt::Display for NativeSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Loads one split of a benchmark.
///
/// `dir` is the folder of the benchmark, or one that holds it under its name (`obqa`), under
/// its id on the hub (`allenai/openbookqa` or `allenai__openbookqa`) or as a snapshot of the
/// hub's cache (`datasets--allenai--openbookqa/snapshots/…`).
///
/// Splits whose gold is withheld are an error that says which one to use instead.
/// MultiArith has no published splits: the first 420 rows train and the other 180 test, as in
/// P1 (Table 13); of a file with other than 600 rows the first 70 % train.
pub fn load(benchmark: Benchmark, dir: &Path, split: NativeSplit) -> Result<Vec<Question>> {
    let files = files(benchmark, dir, split)?;
    let mut records = Vec::new();
    for file in &files {
        records.extend(cut(file, split, self::records(benchmark, file)?));
    }
    questions(benchmark, split, records)
}

const MULTIARITH: &str = "MultiArith.json";

/// The records of a file that are of a split: of MultiArith's one file a part, of others all.
pub(super) fn cut(file: &Path, split: NativeSplit, mut records: Vec<Record>) -> Vec<Record> {
    if file.ends_with(MULTIARITH) {
        // 420 of 600, with the rounding of whole rows.
        let test = records.split_off(records.len() * 7 / 10);
        if split == NativeSplit::Test {
            return test;
        }
    }
    records
}

/// The records of one file; labels that lie beside it are joined, and held against known ones.
pub(super) fn records(benchmark: Benchmark, path: &Path) -> Result<Vec<Record>> {
    if benchmark == Benchmark::Ecqa && ecqa::is_list(path) {
        return ecqa::records(path);
    }
    let mut rows = rows::read(path, columns(benchmark))?;
    match benchmark {
        Benchmark::Piqa => join_labels(&mut rows, 0..=1)?,
        Benchmark::Siqa => join_labels(&mut rows, 1..=3)?,
        _ => {}
    }
    let records = rows.iter().map(|row| record(benchmark, row)).collect::<Result<Vec<_>>>()?;
    known::check(benchmark, &records)?;
    Ok(records)
}

/// The ids of a split's records: the publisher's, or counted within MMLU's and MATH's subjects
/// and BBH's tasks, or file and row.
pub(super) fn ids(split: &str, records: &[Record]) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let id = |record: &Record| {
        if let Some(id) = &record.id {
            return id.clone();
        }
        let parquet = record.path.extension().is_some_and(|ending| ending == "parquet");
        let group = match &record.subject {
            Some(subject) => subject.clone(),
            // The hub's file names, `0000.parquet`, say nothing.
            None if parquet => split.to_owned(),
            None => record.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let count = counts.entry(group.clone()).or_default();
        *count += 1;
        format!("{group}-{count}")
    };
    records.iter().map(id).collect()
}

/// What is said of a row without gold in a split whose gold is public.
pub(super) fn no_gold(
    benchmark: Benchmark,
    split: Option<NativeSplit>,
    record: &Record,
    why: &str,
) -> anyhow::Error {
    let split = split.map_or_else(String::new, |split| format!(" {split}"));
    anyhow!(
        "{} row {}: {why}, but the answers of {benchmark}{split} are public; put back what is \
         missing or fetch the files again",
        record.path.display(),
        record.row
    )
}

fn questions(
    benchmark: Benchmark,
    split: NativeSplit,
    records: Vec<Record>,
) -> Result<Vec<Question>> {
    let ids = ids(split.name(), &records);
    let mut seen: HashMap<String, (PathBuf, usize)> = HashMap::new();
    let mut questions = Vec::with_capacity(records.len());
    for (record, id) in records.into_iter().zip(ids) {
        if let Label::Withheld(why) = &record.label
            && NativeSplit::of(benchmark).contains(&split)
        {
            return Err(no_gold(benchmark, Some(split), &record, why));
        }
        let Record { path, row, stem, options, label, .. } = record;
        let gold = match label {
            Label::Known(gold) => gold,
            Label::Withheld(why) => bail!(
                "{} row {row}: {why}; the gold is withheld in some published files; use {}",
                path.display(),
                either(&mut NativeSplit::of(benchmark).iter().rev().filter(|s| **s != split))
            ),
        };
        if let Some((other, at)) = seen.insert(id.clone(), (path.clone(), row)) {
            bail!(
                "{} row {row}: the id {id:?} is that of {} row {at}, too; correct one of them or \
                 fetch the files again",
                path.display(),
                other.display()
            );
        }
        questions.push(Question { id, benchmark, stem, options, gold });
    }
    Ok(questions)
}

fn either(splits: &mut dyn Iterator<Item = &NativeSplit>) -> String {
    splits.map(|split| split.name()).collect::<Vec<_>>().join(" or ")
}

/// The files that hold a split; none of them is no error, only some of them is one.
pub(super) fn found(
    benchmark: Benchmark,
    dir: &Path,
    split: NativeSplit,
) -> Result<Option<Vec<PathBuf>>> {
    for home in homes(benchmark, dir) {
        let found = match native(benchmark, &home, split) {
            Some(files) => files,
            None => hub(benchmark, &home, split)?,
        };
        if !found.is_empty() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The files that hold a split.
pub fn files(benchmark: Benchmark, dir: &Path, split: NativeSplit) -> Result<Vec<PathBuf>> {
    if let Some(found) = found(benchmark, dir, split)? {
        return Ok(found);
    }
    let homes = homes(benchmark, dir);
    let public = NativeSplit::of(benchmark);
    if !public.contains(&split) {
        let instead = either(&mut public.iter());
        match (benchmark, split) {
            (Benchmark::Csqa | Benchmark::Piqa | Benchmark::Siqa, NativeSplit::Test) => bail!(
                "{benchmark} {split}: the publishers withhold the answers of this split; use \
                 {instead}"
            ),
            (Benchmark::Mmlu, _) => bail!(
                "{benchmark} {split}: this benchmark has no such split (the hub's \
                 auxiliary_train is text of other benchmarks); use {instead}"
            ),
            _ => bail!("{benchmark} {split}: this benchmark has no such split; use {instead}"),
        }
    }
    let home = homes.first().map_or(dir, PathBuf::as_path);
    let names: Vec<String> = native_names(benchmark, split)
        .iter()
        .map(|name| home.join(name).display().to_string())
        .collect();
    let (repository, _, paths) = sources::hub_files(benchmark, split)?;
    Err(anyhow!(
        "{}: cannot find it; put the published file there, or {} of the hub's {repository}",
        names.join(" or "),
        paths.first().map_or("the files", String::as_str)
    ))
}

/// The folders that may hold a benchmark, the likeliest first.
fn homes(benchmark: Benchmark, dir: &Path) -> Vec<PathBuf> {
    let mut names = vec![benchmark.folder()];
    for hub in sources::repositories(benchmark) {
        names.extend([hub.clone(), hub.replace('/', "__")]);
        let cache = dir.join(format!("datasets--{}", hub.replace('/', "--"))).join("snapshots");
        let snapshots = entries(&cache)
            .into_iter()
            .filter_map(|path| Some(path.strip_prefix(dir).ok()?.to_string_lossy().into_owned()));
        names.extend(snapshots);
    }
    let inner: Vec<PathBuf> =
        names.iter().map(|name| dir.join(name)).filter(|path| path.is_dir()).collect();
    if inner.is_empty() { vec![dir.to_owned()] } else { inner }
}

/// The publishers' names of the files of a split; of several, the first that exists is read.
fn native_names(benchmark: Benchmark, split: NativeSplit) -> &'static [&'static str] {
    use Benchmark::*;
    use NativeSplit::*;
    match (benchmark, split) {
        (Obqa | Gsm8k | Math, Train) => &["train.jsonl"],
        (Obqa, Validation) => &["dev.jsonl"],
        (Obqa | Gsm8k | Math, Test) => &["test.jsonl"],
        (Csqa, Train) => &["train_rand_split.jsonl"],
        (Csqa, Validation) => &["dev_rand_split.jsonl"],
        (Piqa, Train) => &["train.jsonl"],
        (Piqa, Validation) => &["dev.jsonl", "valid.jsonl"],
        (Siqa, Train) => &["socialIQa_v1.4_trn.jsonl", "train.jsonl"],
        (Siqa, Validation) => &["socialIQa_v1.4_dev.jsonl", "dev.jsonl"],
        // The v1.4 release labels a test split; the leaderboard's `test.jsonl` is another one.
        (Siqa, Test) => &["socialIQa_v1.4_tst.jsonl"],
        // Without splits by its publishers, with them on the hub.
        (MultiArith, Train) => &["MultiArith.json", "train.json"],
        (MultiArith, Test) => &["MultiArith.json", "test.json"],
        (Mmlu, Dev) => &["dev", "data/dev"],
        (Mmlu, Validation) => &["val", "data/val"],
        (Mmlu, Test) => &["test", "data/test"],
        (Bbh, Test) => &["", "bbh"],
        (Aqua, Train) => &["train.json", "train_flan_cot.tsv"],
        (Aqua, Validation) => &["dev.json"],
        (Aqua, Test) => &["test.json"],
        (Ecqa, Train) => {
            &["cqa_data_train.csv", "author_split/train_ids.txt", "train_flan_cot.tsv"]
        }
        (Ecqa, Validation) => &["cqa_data_val.csv", "author_split/val_ids.txt"],
        (Ecqa, Test) => &["cqa_data_test.csv", "author_split/test_ids.txt"],
        _ => &[],
    }
}

/// MMLU and BBH have a folder of files; MATH one file of lines, or a folder of subjects with
/// a file for each problem.
fn native(benchmark: Benchmark, home: &Path, split: NativeSplit) -> Option<Vec<PathBuf>> {
    let ending = match benchmark {
        Benchmark::Mmlu => "csv",
        _ => "json",
    };
    let tasks = sources::source(benchmark).map_or(&[][..], |source| &source.configs);
    let is_row_file = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        path.extension().is_some_and(|found| found == ending)
            // Other JSON files lie beside the tasks, such as `dataset_infos.json`.
            && (benchmark != Benchmark::Bbh || tasks.iter().any(|task| *task == stem))
    };
    for name in native_names(benchmark, split) {
        let path = if name.is_empty() { home.to_owned() } else { home.join(name) };
        if path.is_file() {
            return Some(vec![path]);
        }
        let files: Vec<PathBuf> = entries(&path).into_iter().filter(is_row_file).collect();
        if matches!(benchmark, Benchmark::Mmlu | Benchmark::Bbh) && !files.is_empty() {
            return Some(files);
        }
    }
    if benchmark == Benchmark::Math {
        let below = walk(&home.join(split.name()));
        let files: Vec<PathBuf> = below.into_iter().filter(is_row_file).collect();
        return (!files.is_empty()).then_some(files);
    }
    None
}

/// A Parquet file of the hub, by its path.
struct Part {
    path: PathBuf,
    /// The folder below the home, without that of the split: `main`, `data`, `anatomy`, or
    /// nothing.
    config: String,
    split: String,
    /// Number of this shard and number of all.
    shard: Option<(usize, usize)>,
}

/// `train-00000-of-00001.parquet`, also with a hash before the ending (`lighteval/siqa`), or
/// `piqa_train.parquet` (`baber/piqa`).
static FILE: LazyLock<Regex> = LazyLock::new(|| {
    let splits = "auxiliary_train|train|validation|val|dev|test";
    Regex::new(&format!(
        r"^(?:[A-Za-z0-9]+_)??({splits})(?:-(\d+)-of-(\d+)(?:-[0-9a-f]+)?)?\.parquet$"
    ))
    .unwrap_or_else(|error| unreachable!("a constant pattern: {error}"))
});

/// `<config>/<split>-00000-of-00001.parquet` on a repository's main branch, or
/// `<config>/<split>/0000.parquet` on the branch `refs/convert/parquet`.
fn part(home: &Path, path: PathBuf) -> Option<Part> {
    let below = path.strip_prefix(home).ok()?;
    let folder = below.parent()?.to_string_lossy().replace('\\', "/");
    let name = below.file_name()?.to_string_lossy().into_owned();
    if let Some(found) = FILE.captures(&name) {
        let number = |n: usize| found.get(n).and_then(|text| text.as_str().parse().ok());
        let (split, shard) = (found[1].to_owned(), number(2).zip(number(3)));
        return Some(Part { path, config: folder, split, shard });
    }
    let (config, split) = folder.rsplit_once('/').unwrap_or(("", &folder));
    let (config, split) = (config.to_owned(), split.to_owned());
    let numbered = name.trim_end_matches(".parquet").bytes().all(|byte| byte.is_ascii_digit());
    numbered.then_some(Part { path, config, split, shard: None })
}

/// The hub's files of a split, of the configuration that the papers use: `main` of OBQA and
/// GSM8K, `raw` of AQuA, every subject of MMLU and MATH and every task of BBH.
fn hub(benchmark: Benchmark, home: &Path, split: NativeSplit) -> Result<Vec<PathBuf>> {
    let names: &[&str] = match (benchmark, split) {
        (Benchmark::Mmlu, NativeSplit::Validation) => &["validation", "val"],
        (_, NativeSplit::Validation) => &["validation", "val", "dev"],
        // One copy calls BBH's only split so.
        (Benchmark::Bbh, NativeSplit::Test) => &["test", "train"],
        (_, NativeSplit::Train) => &["train"],
        (_, NativeSplit::Dev) => &["dev"],
        (_, NativeSplit::Test) => &["test"],
    };
    let mut configs: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for path in walk(home) {
        if path.extension().is_none_or(|ending| ending != "parquet") {
            continue;
        }
        // Deeper folders, and those named after a benchmark, are other data beside this one.
        let own = |part: &Part| {
            let aside = part.config.contains('/') || named_by(Path::new(&part.config)).is_some();
            names.contains(&part.split.as_str()) && !aside
        };
        if let Some(part) = part(home, path).filter(own) {
            configs.entry(part.config.clone()).or_default().push(part);
        }
    }
    let whole = ["main", "data", "default", "plain_text", "raw", "all", ""];
    let further: &[&str] = match benchmark {
        // The same questions, with a fact or with another solution.
        Benchmark::Obqa => &["additional"],
        Benchmark::Gsm8k => &["socratic"],
        _ => &[],
    };
    let named = |config: &str| !whole.contains(&config) && config != "auxiliary_train";
    let by_subject = matches!(benchmark, Benchmark::Mmlu | Benchmark::Math | Benchmark::Bbh);
    let chosen: Vec<Part> = if by_subject && configs.keys().any(|config| named(config)) {
        configs.into_iter().filter(|(config, _)| named(config)).flat_map(|(_, p)| p).collect()
    } else {
        let config = whole.iter().chain(further).find(|config| configs.contains_key(**config));
        config.and_then(|config| configs.remove(*config)).unwrap_or_default()
    };
    complete(home, &chosen)?;
    Ok(chosen.into_iter().map(|part| part.path).collect())
}

/// Of a split in shards, all have to be there.
fn complete(home: &Path, parts: &[Part]) -> Result<()> {
    for part in parts {
        let Some((_, of)) = part.shard else { continue };
        let there = |n| parts.iter().any(|p| p.config == part.config && p.shard == Some((n, of)));
        if let Some(missing) = (0..of).find(|n| !there(*n)) {
            bail!(
                "{}: part {missing:05} of the {of} parts of {} is missing; fetch it, too",
                home.join(&part.config).display(),
                part.split
            );
        }
    }
    Ok(())
}

/// Of files in one folder, all the shards have to be there that their names tell of.
pub(super) fn complete_files(files: &[PathBuf]) -> Result<()> {
    let Some(home) = files.first().and_then(|file| file.parent()) else { return Ok(()) };
    let parts: Vec<Part> = files.iter().filter_map(|file| part(home, file.clone())).collect();
    complete(home, &parts)
}

/// What all shards of a split are called by one of them: `train-*-of-00002.parquet`.
pub(super) fn shards(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let found = FILE.captures(name)?;
    let (number, of) = (found.get(2)?, found.get(3)?.as_str());
    let many = of.trim_start_matches('0') != "1";
    many.then(|| path.with_file_name(format!("{}*-of-{of}.parquet", &name[..number.start()])))
}

/// What lies in a folder, by name; nothing if it is none.
pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    paths
}

/// All files below a folder, in a fixed order; hidden ones (`.git`, `.cache`) are left out.
///
/// Links to folders are followed when all else is read, and no folder is read twice: a link to
/// a folder above itself has no end.
pub(super) fn walk(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    let mut folders = VecDeque::from([dir.to_owned()]);
    while let Some(folder) = folders.pop_front() {
        let Ok(place) = folder.canonicalize() else { continue };
        if !seen.insert(place) {
            continue;
        }
        for path in entries(&folder) {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            match path.metadata() {
                Ok(what) if what.is_dir() && path.is_symlink() => folders.push_back(path),
                Ok(what) if what.is_dir() => folders.push_front(path),
                // A pipe would be waited for.
                Ok(what) if !what.is_file() => {}
                // Reading a link to nothing says what is wrong.
                _ => files.push(path),
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests;
