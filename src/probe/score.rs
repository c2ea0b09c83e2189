//! Re-scoring of saved generations, whoever made them: the answer reader by itself.
//!
//! A file holds one generation a line, with the fields that [`line`](mod@line) describes. Each
//! line is written back with what was read from it, so that a score can be checked by eye. A
//! line that is wrong does not cost the others: it is named, with its key, and left out.

pub mod line;

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::task::reader::{self, Answer, ranaldi2024};
use crate::task::{Gold, READER, letter};
use line::Line;

/// A way of reading answers, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedReader {
    /// Version [`READER`] of [`reader`].
    Own,
    /// [`ranaldi2024`]: one reading only, so its strict and flexible scores are the same.
    Ranaldi2024,
}

impl fmt::Display for NamedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedReader::Own => f.pad(&READER.to_string()),
            NamedReader::Ranaldi2024 => f.pad("ranaldi2024"),
        }
    }
}

impl FromStr for NamedReader {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        [NamedReader::Own, NamedReader::Ranaldi2024]
            .into_iter()
            .find(|reader| reader.to_string() == name)
            .with_context(|| format!("unknown reader {name:?}; known: {READER}, ranaldi2024"))
    }
}

/// Counts of one benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// As the lines spell it.
    pub benchmark: String,
    pub n: u64,
    /// Lines with a gold; the next two are out of these.
    pub golds: u64,
    pub correct_strict: u64,
    pub correct: u64,
    /// Lines without an answer, with a gold or not.
    pub no_answer: u64,
}

/// What came of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Score {
    /// In the order in which the benchmarks first occur.
    pub tallies: Vec<Tally>,
    /// What is wrong with the lines left out.
    pub problems: Vec<String>,
}

impl Score {
    fn tally(&mut self, benchmark: &str) -> &mut Tally {
        let at = self.tallies.iter().position(|t| t.benchmark == benchmark).unwrap_or_else(|| {
            self.tallies.push(Tally {
                benchmark: benchmark.to_owned(),
                n: 0,
                golds: 0,
                correct_strict: 0,
                correct: 0,
                no_answer: 0,
            });
            self.tallies.len() - 1
        });
        &mut self.tallies[at]
    }
}

/// The summary: accuracies in percent of the lines with a gold, no answer in percent of all.
impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tallies.iter().map(|t| t.benchmark.chars().count()).max();
        let width = width.unwrap_or(0).max("benchmark".len());
        writeln!(
            f,
            "{:width$}  {:>7}  {:>7}  {:>7}  {:>8}  {:>9}",
            "benchmark", "n", "gold", "strict", "flexible", "no answer"
        )?;
        let percent = |part: u64, of: u64| match of {
            0 => "-".to_owned(),
            _ => format!("{:.1}", 100.0 * part as f64 / of as f64),
        };
        for t in &self.tallies {
            writeln!(
                f,
                "{:width$}  {:>7}  {:>7}  {:>7}  {:>8}  {:>9}",
                t.benchmark,
                t.n,
                t.golds,
                percent(t.correct_strict, t.golds),
                percent(t.correct, t.golds),
                percent(t.no_answer, t.n)
            )?;
        }
        Ok(())
    }
}

/// Whether a name stands for the standard output. `/dev/stdout` is not opened anew: where it is
/// redirected to a file, that would write over what is there.
pub fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Scores the lines of `input` into `output`. A file gets its name when it is whole; a device, a
/// pipe and the standard output are written to as they are, and never replaced.
pub fn score_file(input: &Path, output: &Path, reader: NamedReader) -> Result<Score> {
    let name = |path: &Path| path.display().to_string();
    if input.is_dir() {
        bail!("{}: is a folder; give a file with one JSON object a line", name(input));
    }
    let file = File::open(input).map_err(|e| match e.kind() {
        ErrorKind::NotFound => anyhow!("{}: no such file; check the name", name(input)),
        _ => anyhow!(e).context(name(input)),
    })?;
    let mut lines = BufReader::new(file);
    let head = lines.fill_buf().with_context(|| name(input))?;
    if let Some((_, tool)) = PACKED.iter().find(|(magic, _)| head.starts_with(magic)) {
        bail!("{}: is compressed; unpack it first, with {tool}", name(input));
    }
    if is_stdout(output) {
        let context = || "standard output".to_owned();
        return score_lines(input, lines, io::stdout().lock(), &context, reader);
    }
    let known = fs::metadata(output).ok();
    if known.as_ref().is_some_and(Metadata::is_dir) {
        bail!("{}: is a folder; give the name of a file in it", name(output));
    }
    if known.as_ref().is_some_and(|known| !known.is_file()) {
        let out = OpenOptions::new().write(true).open(output).with_context(|| name(output))?;
        return score_lines(input, lines, out, &|| name(output), reader);
    }
    // Through a link to its file, which a rename would otherwise put in the link's place.
    let mut whole = output.to_owned();
    if known.is_some() {
        whole = fs::canonicalize(output).with_context(|| name(output))?;
        ensure!(
            fs::canonicalize(input).ok().as_ref() != Some(&whole),
            "{}: is the input; give another name",
            name(output)
        );
    }
    if let Some(folder) = whole.parent()
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        bail!("{}: there is no folder {}; make it first", name(output), name(folder));
    }
    let mut part = whole.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let out = File::create(part).with_context(|| name(part))?;
    let score = score_lines(input, lines, out, &|| name(part), reader)
        .and_then(|score| {
            fs::rename(part, &whole).with_context(|| name(output))?;
            Ok(score)
        })
        // What is not whole is of no use; the first error says more than one of removing it.
        .inspect_err(|_| _ = fs::remove_file(part))?;
    Ok(score)
}

/// How compressed files begin, and what unpacks them.
const PACKED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
    (b"\xfd7zXZ", "unxz"),
    (b"BZh", "bunzip2"),
    (b"PK\x03\x04", "unzip"),
];

/// Scores the lines of `input`, which are read from `lines`, into `out`, which `named` names.
fn score_lines(
    input: &Path,
    mut lines: impl BufRead,
    out: impl Write,
    named: &dyn Fn() -> String,
    reader: NamedReader,
) -> Result<Score> {
    let mut out = BufWriter::new(out);
    let mut score = Score::default();
    let (mut bytes, mut number) = (Vec::new(), 0);
    loop {
        bytes.clear();
        let read = lines.read_until(b'\n', &mut bytes);
        if read.with_context(|| input.display().to_string())? == 0 {
            break;
        }
        number += 1;
        let text = if number == 1 { bytes.strip_prefix(b"\xef\xbb\xbf") } else { None };
        let text = text.unwrap_or(&bytes).trim_ascii();
        if text.is_empty() {
            continue;
        }
        match Line::parse(text) {
            Ok(line) => {
                let scored = score_line(line, reader, &mut score);
                writeln!(out, "{scored}").with_context(named)?;
            }
            Err(problem) => {
                score.problems.push(format!("{}, line {number}: {problem}", input.display()));
            }
        }
    }
    out.flush().with_context(named)?;
    if score.tallies.is_empty() {
        match score.problems.first() {
            Some(first) => bail!("{first} (and no other line could be scored)"),
            None => bail!("{}: holds no line", input.display()),
        }
    }
    Ok(score)
}

/// The line with what was read from it, and counted.
fn score_line(mut line: Line, reader: NamedReader, score: &mut Score) -> Value {
    let mut fields = std::mem::take(&mut line.fields);
    let Line { benchmark, options, gold, output, .. } = &line;
    let tally = score.tally(benchmark);
    tally.n += 1;
    let [strict, flexible] = match reader {
        NamedReader::Own => {
            let reading = reader::read_as(line.form(), output);
            [reading.strict, reading.flexible].map(|answer| {
                let right =
                    |gold: &Gold| answer.as_ref().map(|a| reader::is_right(options, gold, a));
                let right = gold.as_ref().map(|gold| right(gold).unwrap_or(false));
                (answer.as_ref().map(written), right)
            })
        }
        NamedReader::Ranaldi2024 => {
            let found = ranaldi2024::read(output);
            let passes =
                |gold: &Gold| found.is_some_and(|f| ranaldi2024::is_right(options, gold, f));
            let one = (found.map(str::to_owned), gold.as_ref().map(passes));
            [one.clone(), one]
        }
    };
    tally.no_answer += u64::from(flexible.0.is_none());
    fields.insert(
        "reader".into(),
        match reader {
            NamedReader::Own => json!(READER),
            NamedReader::Ranaldi2024 => json!(reader.to_string()),
        },
    );
    fields.insert("answer".into(), json!(flexible.0));
    fields.insert("answer_strict".into(), json!(strict.0));
    // What an earlier scoring left must not stay beside a new answer.
    fields.remove("correct");
    fields.remove("correct_strict");
    if let (Some(correct), Some(correct_strict)) = (flexible.1, strict.1) {
        tally.golds += 1;
        tally.correct += u64::from(correct);
        tally.correct_strict += u64::from(correct_strict);
        fields.insert("correct".into(), json!(correct));
        fields.insert("correct_strict".into(), json!(correct_strict));
    }
    Value::Object(fields)
}

/// An answer as people write it: options by their letter.
fn written(answer: &Answer) -> String {
    match answer {
        Answer::Choice(index) => letter(*index).to_string(),
        Answer::Number(text) | Answer::Math(text) | Answer::Text(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests;
