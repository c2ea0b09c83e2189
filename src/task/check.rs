//! What is in a benchmark's files, and what is wrong with them: `cotalign data check`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::ecqa;
use super::folder::{self, NativeSplit, records, walk};
use super::leakage::{normal, whole};
use super::question::{Benchmark, Gold, Question, letter};
use super::record::{Label, Record};
use super::rows::{self, Row, labels};
use super::sources::{named_by, source};

/// What was found in the files of one split.
#[derive(Debug, Default)]
pub struct Report {
    pub benchmark: Option<Benchmark>,
    pub split: Option<NativeSplit>,
    /// The file, or the folder of the files.
    pub place: PathBuf,
    pub files: usize,
    pub questions: usize,
    /// How many rows of the whole split are known to exist.
    pub published: Option<usize>,
    pub withheld: usize,
    /// Questions by gold letter.
    pub classes: BTreeMap<String, usize>,
    /// Pairs of rows with the same question and options.
    pub twins: Vec<String>,
    /// Stems that come with several sets of options.
    pub same_stem: usize,
    /// Rows in which two options are the same.
    pub equal_options: Vec<String>,
    /// Pairs of rows with the same question and different golds.
    pub contradictions: Vec<String>,
    /// What keeps a file from being used.
    pub broken: Vec<String>,
}

/// Checks a file, or every file with rows in a folder.
pub fn check(path: &Path) -> Result<Vec<Report>> {
    let files = match path.is_dir() {
        true => walk(path).into_iter().filter(|path| has_rows(path)).collect(),
        false => vec![path.to_owned()],
    };
    ensure!(
        !files.is_empty(),
        "{}: no file ending in .jsonl, .json, .csv, .tsv or .parquet; name another folder",
        path.display()
    );
    let mut reports = Vec::new();
    for (place, files) in groups(files) {
        reports.push(report(&place, &files, None));
    }
    Ok(reports)
}

/// Checks the splits of one benchmark that a folder holds.
pub fn check_benchmark(benchmark: Benchmark, dir: &Path) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    let mut missing = None;
    for split in NativeSplit::ALL {
        if !NativeSplit::of(benchmark).contains(&split) {
            continue;
        }
        match folder::files(benchmark, dir, split) {
            Ok(files) => {
                let place = match files.as_slice() {
                    [one] => one.clone(),
                    _ => files[0].parent().unwrap_or(dir).to_owned(),
                };
                reports.push(report(&place, &files, Some((benchmark, split))));
            }
            Err(error) => missing = Some(error),
        }
    }
    match missing {
        Some(error) if reports.is_empty() => {
            let hub = source(benchmark)?;
            Err(error).with_context(|| {
                format!(
                    "{benchmark}: no files in {}; give --data DIR (on the hub: {}, revision {}, \
                     licence: {})",
                    dir.display(),
                    hub.hub,
                    hub.revision,
                    hub.licence
                )
            })
        }
        _ => Ok(reports),
    }
}

fn has_rows(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match ending.as_str() {
        // Read with the lists of ids.
        "jsonl" if ecqa::is_explanations(path) => false,
        "jsonl" | "json" | "csv" | "tsv" | "parquet" => true,
        "txt" => ecqa::is_list(path),
        // Read with the rows they belong to; alone they are a finding.
        "lst" => !rows_of(path).exists(),
        _ => false,
    }
}

/// `dev.jsonl` of `dev-labels.lst`.
fn rows_of(labels: &Path) -> PathBuf {
    let stem = labels.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    labels.with_file_name(format!("{}.jsonl", stem.trim_end_matches("-labels")))
}

/// MMLU and BBH have a file for each subject or task: those of a folder are one split.
fn groups(files: Vec<PathBuf>) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut groups: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        let ending = path.extension().unwrap_or_default();
        let many = (ending == "csv" && named_by(&path) == Some(Benchmark::Mmlu))
            || (ending == "json" && named_by(&path) == Some(Benchmark::Bbh));
        let place = match path.parent() {
            Some(parent) if many => parent.to_owned(),
            _ => path.clone(),
        };
        groups.entry(place).or_default().push(path);
    }
    groups
}

fn report(place: &Path, files: &[PathBuf], known: Option<(Benchmark, NativeSplit)>) -> Report {
    let mut report = Report { place: place.to_owned(), files: files.len(), ..Report::default() };
    let mut all = Vec::new();
    for path in files {
        match open(path, known.map(|(benchmark, _)| benchmark)) {
            Ok((benchmark, records)) => {
                report.benchmark = Some(benchmark);
                all.extend(records);
            }
            Err(error) => report.broken.push(format!("{error:#}")),
        }
    }
    let benchmark = report.benchmark.or_else(|| named_by(place));
    report.benchmark = benchmark;
    if let (Some(benchmark), Some(path)) = (benchmark, files.first()) {
        report.split = known.map(|(_, split)| split).or_else(|| split_of(benchmark, path));
        let rows = |split| source(benchmark).ok().and_then(|source| source.rows(split));
        report.published = match (report.split, benchmark) {
            (Some(split), _) => rows(split),
            (None, Benchmark::MultiArith) => Some(600),
            _ => None,
        };
    }
    report.count(&all);
    report
}

/// The records of a file, and whose they are.
fn open(path: &Path, known: Option<Benchmark>) -> Result<(Benchmark, Vec<Record>)> {
    if path.extension().is_some_and(|ending| ending == "lst") {
        labels(path, -1..=3)?;
        bail!(
            "{}: labels without their rows; put {} there",
            path.display(),
            rows_of(path).display()
        );
    }
    let benchmark = match known {
        Some(benchmark) => benchmark,
        None if ecqa::is_list(path) => Benchmark::Ecqa,
        None => identify(path)?,
    };
    let records = records(benchmark, path)?;
    let withheld = records.iter().filter(|r| matches!(r.label, Label::Withheld(_))).count();
    if withheld > 0 && withheld < records.len() {
        let first = records.iter().find_map(|record| match &record.label {
            Label::Withheld(why) => Some((record.row, why)),
            Label::Known(_) => None,
        });
        if let Some((row, why)) = first {
            bail!(
                "{} row {row}: {why}, while other rows have their answers; fetch the file again",
                path.display()
            );
        }
    }
    Ok((benchmark, records))
}

/// The benchmark whose columns a file has; the folder's name decides where that leaves two,
/// or none.
fn identify(path: &Path) -> Result<Benchmark> {
    let rows = rows::read(path)?;
    let row = &rows[0];
    let fitting: Vec<Benchmark> = Benchmark::every().filter(|b| fits(*b, row)).collect();
    match named_by(path) {
        Some(named) if fitting.is_empty() || fitting.contains(&named) => Ok(named),
        named => fitting.first().copied().or(named).with_context(|| {
            let names: Vec<String> = Benchmark::every().map(Benchmark::folder).collect();
            format!(
                "{}: the columns are those of no benchmark; put the file into a folder named \
                 after its own ({}) to see what is missing",
                path.display(),
                names.join(", ")
            )
        }),
    }
}

fn fits(benchmark: Benchmark, row: &Row) -> bool {
    let has = |keys: &[&str]| keys.iter().all(|key| row.has(key));
    match benchmark {
        Benchmark::Obqa => has(&["question_stem", "choices"]) || has(&["question.stem"]),
        Benchmark::Csqa => {
            has(&["question", "choices.label"])
                || has(&["question.stem"])
                || has(&["question.question_concept"])
        }
        Benchmark::Piqa => has(&["goal", "sol1", "sol2"]),
        Benchmark::Siqa => has(&["context", "question", "answerA"]),
        Benchmark::Gsm8k => has(&["question", "answer"]) && !has(&["choices"]) && !has(&["A"]),
        Benchmark::MultiArith => has(&["sQuestion"]) || has(&["question", "final_ans"]),
        Benchmark::Math => has(&["problem", "solution"]),
        Benchmark::Mmlu => has(&["question", "choices", "answer"]) || has(&["question", "A", "B"]),
        Benchmark::Bbh => has(&["input", "target"]),
        Benchmark::Aqua => {
            has(&["question", "options", "correct"])
                || row.label("flan_gold").is_some_and(|gold| gold.starts_with('('))
        }
        Benchmark::Ecqa => has(&["q_text", "q_op1"]) || has(&["flan_gold"]),
    }
}

/// From the names of the file and its folders: `dev_rand_split.jsonl`, `test/0000.parquet`.
fn split_of(benchmark: Benchmark, path: &Path) -> Option<NativeSplit> {
    for part in path.iter().rev().take(3) {
        let part = part.to_string_lossy().to_lowercase();
        for word in part.split(|c: char| !c.is_alphanumeric()) {
            return Some(match word {
                "train" | "trn" => NativeSplit::Train,
                "dev" if benchmark == Benchmark::Mmlu => NativeSplit::Dev,
                "dev" | "val" | "valid" | "validation" => NativeSplit::Validation,
                "test" | "tst" => NativeSplit::Test,
                _ => continue,
            });
        }
    }
    (benchmark == Benchmark::Bbh).then_some(NativeSplit::Test)
}

impl Report {
    fn count(&mut self, records: &[Record]) {
        self.questions = records.len();
        let files = self.files;
        let mut wholes: HashMap<String, (&Record, Option<String>)> = HashMap::new();
        let mut stems: HashMap<String, usize> = HashMap::new();
        let at = |record: &Record| match files {
            1 => record.row.to_string(),
            _ => {
                let name = record.path.file_name().unwrap_or_default().to_string_lossy();
                format!("{name} {}", record.row)
            }
        };
        for record in records {
            let gold = self.class(record);
            let options: Vec<String> = record.options.iter().map(|o| normal(o)).collect();
            if (1..options.len()).any(|i| options[..i].contains(&options[i])) {
                self.equal_options.push(at(record));
            }
            let question = Question {
                id: String::new(),
                benchmark: self.benchmark.unwrap_or(Benchmark::Obqa),
                stem: record.stem.clone(),
                options: record.options.clone(),
                gold: Gold::Choice(0),
            };
            let whole = whole(&question);
            match wholes.get(&whole) {
                None => {
                    *stems.entry(normal(&record.stem)).or_default() += 1;
                    wholes.insert(whole, (record, gold));
                }
                Some((other, known)) => {
                    let pair = format!("{} and {}", at(other), at(record));
                    if *known == gold {
                        self.twins.push(pair);
                    } else {
                        self.contradictions.push(pair);
                    }
                }
            }
        }
        self.same_stem = stems.values().filter(|questions| **questions > 1).count();
    }

    /// Counts the gold of a record; its text, for comparison with that of a twin.
    fn class(&mut self, record: &Record) -> Option<String> {
        match &record.label {
            Label::Withheld(_) => {
                self.withheld += 1;
                None
            }
            Label::Known(Gold::Choice(at)) => {
                *self.classes.entry(letter(*at).to_string()).or_default() += 1;
                record.options.get(*at).map(|option| normal(option))
            }
            Label::Known(Gold::Number(gold) | Gold::Math(gold) | Gold::Text(gold)) => {
                Some(gold.clone())
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.benchmark.map_or("?", Benchmark::name);
        let split = self.split.map_or("all", NativeSplit::name);
        write!(f, "{name:10} {split:10} {:>6}", self.questions)?;
        match self.published {
            Some(rows) if rows != self.questions => write!(f, " of {rows:<6}")?,
            _ => write!(f, "{:10}", "")?,
        }
        write!(f, " {}", self.place.display())?;
        if self.files > 1 {
            write!(f, " ({} files)", self.files)?;
        }
        if self.withheld > 0 {
            write!(f, "\n    answers withheld: cannot be scored")?;
        }
        if !self.classes.is_empty() {
            let classes: Vec<String> =
                self.classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
            write!(f, "\n    gold: {}", classes.join(", "))?;
        }
        list(f, "same question twice", "rows", &self.twins)?;
        if self.same_stem > 0 {
            write!(f, "\n    same stem with other options: {}", self.same_stem)?;
        }
        list(f, "two equal options", "row", &self.equal_options)?;
        list(f, "CONTRADICTION, same question with different golds", "rows", &self.contradictions)?;
        for broken in &self.broken {
            write!(f, "\n    BROKEN: {broken}")?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, of: &str, found: &[String]) -> fmt::Result {
    const SHOWN: usize = 3;
    if found.is_empty() {
        return Ok(());
    }
    write!(
        f,
        "\n    {what}: {} ({of} {}",
        found.len(),
        found[..found.len().min(SHOWN)].join("; ")
    )?;
    if found.len() > SHOWN {
        write!(f, "; …")?;
    }
    write!(f, ")")
}
