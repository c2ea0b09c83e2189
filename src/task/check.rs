//! What is in a benchmark's files, and what is wrong with them: `cotalign data check`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::ecqa;
use super::folder::{self, NativeSplit, records, walk};
use super::leakage::{normal, whole};
use super::question::{Benchmark, Gold, Question, letter};
use super::record::{Label, Record, columns};
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
    /// Why, in the words for the first of them.
    pub why_withheld: Option<String>,
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
        let mut report = report(&place, &files, None);
        // Who names one file of several wants to know of that one.
        if path.is_dir() {
            report.broken.extend(folder::complete_files(&files).err().map(|e| e.to_string()));
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Checks the splits of one benchmark that a folder holds.
pub fn check_benchmark(benchmark: Benchmark, dir: &Path) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for split in NativeSplit::ALL {
        if !NativeSplit::of(benchmark).contains(&split) {
            continue;
        }
        match folder::found(benchmark, dir, split) {
            Ok(None) => {}
            Ok(Some(files)) => {
                let place = match files.as_slice() {
                    [one] => one.clone(),
                    _ => common(&files),
                };
                reports.push(report(&place, &files, Some((benchmark, split))));
            }
            Err(error) => reports.push(Report {
                benchmark: Some(benchmark),
                split: Some(split),
                place: dir.to_owned(),
                broken: vec![format!("{error:#}")],
                ..Report::default()
            }),
        }
    }
    if reports.is_empty() {
        folder::files(benchmark, dir, NativeSplit::scored(benchmark)).with_context(|| {
            let hub = source(benchmark);
            let hub = hub.map(|hub| (hub.hub.as_str(), hub.revision.as_str(), &*hub.licence));
            let (hub, revision, licence) = hub.unwrap_or_default();
            format!(
                "{benchmark}: no files in {}; give --data DIR (on the hub: {hub}, revision \
                 {revision}, licence: {licence})",
                dir.display(),
            )
        })?;
    }
    Ok(reports)
}

/// The innermost folder that all of the files are in.
fn common(files: &[PathBuf]) -> PathBuf {
    let parent = files.first().and_then(|file| file.parent()).unwrap_or(Path::new(""));
    let holds = |folder: &&Path| files.iter().all(|file| file.starts_with(folder));
    parent.ancestors().find(holds).unwrap_or(parent).to_owned()
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

/// MMLU and BBH have a file for each subject or task, MATH one for each problem in a folder for
/// each subject, the hub several for a large split: those of a split are one group.
fn groups(files: Vec<PathBuf>) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut groups: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        let ending = path.extension().unwrap_or_default();
        let many = (ending == "csv" && named_by(&path) == Some(Benchmark::Mmlu))
            || (ending == "json" && named_by(&path) == Some(Benchmark::Bbh));
        let place = match path.parent() {
            Some(parent) if many => parent.to_owned(),
            Some(parent) if is_problem(&path) => parent.parent().unwrap_or(parent).to_owned(),
            _ => folder::shards(&path).unwrap_or_else(|| path.clone()),
        };
        groups.entry(place).or_default().push(path);
    }
    groups
}

/// A file of MATH with one problem: `MATH/train/algebra/12.json`.
fn is_problem(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.extension().is_some_and(|ending| ending == "json")
        && stem.bytes().all(|byte| byte.is_ascii_digit())
        && named_by(path) == Some(Benchmark::Math)
}

fn report(place: &Path, files: &[PathBuf], known: Option<(Benchmark, NativeSplit)>) -> Report {
    let mut report = Report { place: place.to_owned(), files: files.len(), ..Report::default() };
    let mut all = Vec::new();
    for path in files {
        match open(path, known) {
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
fn open(path: &Path, known: Option<(Benchmark, NativeSplit)>) -> Result<(Benchmark, Vec<Record>)> {
    if path.extension().is_some_and(|ending| ending == "lst") {
        labels(path, -1..=3)?;
        bail!(
            "{}: labels without their rows; put {} there",
            path.display(),
            rows_of(path).display()
        );
    }
    let benchmark = match known {
        Some((benchmark, _)) => benchmark,
        None if ecqa::is_list(path) => Benchmark::Ecqa,
        None => identify(path)?,
    };
    let mut records = records(benchmark, path)?;
    if let Some((_, split)) = known {
        records = folder::cut(path, split, records);
    }
    let split = known.map(|(_, split)| split).or_else(|| split_of(benchmark, path));
    golds(benchmark, split, &records)?;
    Ok((benchmark, records))
}

/// Golds are withheld of a whole file, and of some benchmarks' test split only; any other that
/// is missing was lost.
fn golds(benchmark: Benchmark, split: Option<NativeSplit>, records: &[Record]) -> Result<()> {
    let why = |record: &Record| match &record.label {
        Label::Withheld(why) => Some(why.clone()),
        Label::Known(_) => None,
    };
    let missing = records.iter().filter(|record| why(record).is_some()).count();
    let first = records.iter().find_map(|record| Some((record, why(record)?)));
    let Some((record, why)) = first else { return Ok(()) };
    if missing < records.len() {
        bail!(
            "{} row {}: {why}, while other rows have their answers; fetch the file again",
            record.path.display(),
            record.row
        );
    }
    let public = match split {
        Some(split) => NativeSplit::of(benchmark).contains(&split),
        None => NativeSplit::of(benchmark).contains(&NativeSplit::Test),
    };
    if public { Err(folder::no_gold(benchmark, split, record, &why)) } else { Ok(()) }
}

/// The benchmark whose columns a file has; the folder's name decides where that leaves two,
/// or none.
fn identify(path: &Path) -> Result<Benchmark> {
    let every: Vec<&str> = Benchmark::every().flat_map(columns).copied().collect();
    let rows = rows::read(path, &every)?;
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
    // MMLU's, of which some may be empty.
    let lettered = ["A", "B", "C", "D"].iter().any(|key| row.has(key));
    match benchmark {
        Benchmark::Obqa => has(&["question_stem", "choices"]) || has(&["question.stem"]),
        Benchmark::Csqa => {
            has(&["question", "choices.label"])
                || has(&["question.stem"])
                || has(&["question.question_concept"])
        }
        Benchmark::Piqa => has(&["goal", "sol1", "sol2"]),
        Benchmark::Siqa => has(&["context", "question", "answerA"]),
        Benchmark::Gsm8k => has(&["question", "answer"]) && !has(&["choices"]) && !lettered,
        Benchmark::MultiArith => has(&["sQuestion"]) || has(&["question", "final_ans"]),
        Benchmark::Math => has(&["problem", "solution"]),
        Benchmark::Mmlu => {
            has(&["question", "choices", "answer"]) || (has(&["question"]) && lettered)
        }
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
        let several = self.files > 1;
        let home = common(&records.iter().map(|record| record.path.clone()).collect::<Vec<_>>());
        let at = |record: &Record| match several {
            false => record.row.to_string(),
            true => {
                let path = record.path.strip_prefix(&home).unwrap_or(&record.path);
                format!("{} {}", path.display(), record.row)
            }
        };
        self.broken.extend(same_ids(self.split, &self.place, records, &at));
        let mut wholes: HashMap<String, (&Record, Option<String>)> = HashMap::new();
        let mut stems: HashMap<String, usize> = HashMap::new();
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
            Label::Withheld(why) => {
                self.withheld += 1;
                self.why_withheld.get_or_insert_with(|| why.clone());
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

/// Rows with the id of an earlier one: they would not load.
fn same_ids(
    split: Option<NativeSplit>,
    place: &Path,
    records: &[Record],
    at: &impl Fn(&Record) -> String,
) -> Option<String> {
    let ids = folder::ids(split.map_or("row", NativeSplit::name), records);
    let mut first: HashMap<&str, &Record> = HashMap::new();
    let mut pairs = Vec::new();
    for (id, record) in ids.iter().zip(records) {
        match first.get(id.as_str()) {
            Some(other) => pairs.push(format!("{id:?} of rows {} and {}", at(other), at(record))),
            None => _ = first.insert(id, record),
        }
    }
    (!pairs.is_empty()).then(|| {
        format!(
            "{}: the same id twice: {} ({}); correct one of them or fetch the files again",
            place.display(),
            pairs.len(),
            shown(&pairs)
        )
    })
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
            let why = self.why_withheld.as_deref().unwrap_or("missing");
            write!(f, "\n    answers withheld ({why}): cannot be scored")?;
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
    if found.is_empty() {
        return Ok(());
    }
    write!(f, "\n    {what}: {} ({of} {})", found.len(), shown(found))
}

/// The first few, and whether there are more.
fn shown(found: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = if found.len() > SHOWN { "; …" } else { "" };
    found[..found.len().min(SHOWN)].join("; ") + more
}
