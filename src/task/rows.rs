//! Rows of a benchmark's files, whatever the format, and what errors say of them.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Map, Value};

use super::{csv, parquet};

/// One row, with what an error has to name.
#[derive(Debug, Clone)]
pub struct Row {
    pub path: PathBuf,
    /// Counted from one; in JSON lines the line.
    pub number: usize,
    pub value: Value,
}

impl Row {
    pub fn error(&self, key: &str, what: &str) -> anyhow::Error {
        anyhow!(
            "{} row {}: {key} {what}; correct the row or fetch the file again",
            self.path.display(),
            self.number
        )
    }

    /// Whether there is anything but null under a dotted key.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The value under a dotted key, unless it is null.
    pub fn find(&self, key: &str) -> Option<&Value> {
        key.split('.')
            .try_fold(&self.value, |value, part| value.get(part))
            .filter(|value| !value.is_null())
    }

    /// The value under a dotted key.
    pub fn get(&self, key: &str) -> Result<&Value> {
        self.find(key).ok_or_else(|| self.error(key, "is missing"))
    }

    /// A text without the blanks some files pad it with; an empty one is an error.
    pub fn text(&self, key: &str) -> Result<String> {
        Ok(self.raw(key)?.trim().to_owned())
    }

    /// A text as published: lm-evaluation-harness scores options with their blanks.
    pub fn raw(&self, key: &str) -> Result<String> {
        let text = self.get(key)?.as_str().ok_or_else(|| self.error(key, "is not a text"))?;
        ensure!(!text.trim().is_empty(), self.error(key, "is empty"));
        Ok(text.to_owned())
    }

    pub fn list(&self, key: &str) -> Result<&[Value]> {
        let list = self.get(key)?.as_array().ok_or_else(|| self.error(key, "is not a list"))?;
        Ok(list)
    }

    /// A list of texts as published, none of them empty.
    pub fn texts(&self, key: &str) -> Result<Vec<String>> {
        let text = |value: &Value| match value.as_str() {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            Some(_) => Err(self.error(key, "has an empty text in it")),
            None => Err(self.error(key, "is not a list of texts")),
        };
        self.list(key)?.iter().map(text).collect()
    }

    /// A number or text as text, without blanks: labels are published as either.
    pub fn label(&self, key: &str) -> Option<String> {
        match self.find(key)? {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The file's name without its ending.
    pub fn stem(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// All rows of a file, by its ending: `.parquet`, `.csv`, `.tsv`, and JSON in any of the
/// shapes benchmarks come in ([`json`]). Of Parquet only `columns`; the others are read whole.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<Row>> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let values = match ending.as_str() {
        "parquet" => parquet::read(path, columns)?,
        "csv" => csv::read(path, &text(path)?)?,
        "tsv" => csv::three_columns(path, &text(path)?)?,
        _ => json(path, &text(path)?)?,
    };
    ensure!(!values.is_empty(), "{}: no rows; fetch the file again", path.display());
    let rows = values.into_iter().enumerate();
    Ok(rows.map(|(i, value)| Row { path: path.to_owned(), number: i + 1, value }).collect())
}

/// The text of a file, without a byte order mark and without blanks at its end.
pub fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| {
        format!("{}: cannot read it; put the published file there", path.display())
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&b| b == b'\n').count() + 1;
        anyhow!("{} row {line}: not UTF-8; convert the file or fetch it again", path.display())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end();
    ensure!(!text.is_empty(), "{}: the file is empty; fetch it again", path.display());
    Ok(text.to_owned())
}

/// JSON as an array of rows (MultiArith), under `examples` of one object (BBH), as one row
/// (MATH's files of one problem each), or as lines, whatever the file is called (AQuA).
fn json(path: &Path, text: &str) -> Result<Vec<Value>> {
    if text.starts_with('[') {
        return serde_json::from_str(text).with_context(|| {
            format!("{}: not a JSON array of rows; fetch the file again", path.display())
        });
    }
    if let Ok(Value::Object(mut whole)) = serde_json::from_str(text) {
        return match whole.remove("examples") {
            Some(Value::Array(rows)) => Ok(rows),
            Some(_) => Err(anyhow!(
                "{} row 1: examples is not a list; fetch the file again",
                path.display()
            )),
            None => Ok(vec![Value::Object(whole)]),
        };
    }
    let line = |(i, line): (usize, &str)| {
        let broken =
            || format!("{} row {}: broken JSON; fetch the file again", path.display(), i + 1);
        let row: Map<String, Value> = serde_json::from_str(line).with_context(broken)?;
        Ok(Value::Object(row))
    };
    text.lines().enumerate().map(line).collect()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What a reader of polars returns; None where it gives up with a panic, as it does on some
/// broken files. The panic's message stays unsaid: the caller's error says what to do.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    QUIET.set(before);
    outcome.ok()
}

/// The file with the labels of `train.jsonl`: `train-labels.lst` beside it.
pub fn labels_of(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-labels.lst"))
}

/// Puts the labels that lie beside a file (PIQA, SIQA: one integer per line, line by line
/// with the rows) into its rows, as `label`.
pub fn join_labels(rows: &mut [Row], range: RangeInclusive<i64>) -> Result<()> {
    let Some(of) = rows.first().map(|row| row.path.clone()) else { return Ok(()) };
    let path = labels_of(&of);
    if of.extension().is_none_or(|ending| ending != "jsonl") || !path.exists() {
        return Ok(());
    }
    let labels = labels(&path, range)?;
    // Labels of another release pair with the wrong rows without any other sign of it.
    ensure!(
        labels.len() == rows.len(),
        "{}: {} labels for the {} rows of {}; take both files from one release",
        path.display(),
        labels.len(),
        rows.len(),
        of.display()
    );
    for (row, label) in rows.iter_mut().zip(labels) {
        let inside = row.label("label").is_some_and(|inside| inside != label.to_string());
        ensure!(!inside, row.error("label", &format!("is not the {label} of {}", path.display())));
        if let Value::Object(fields) = &mut row.value {
            fields.insert("label".to_owned(), label.into());
        }
    }
    Ok(())
}

/// The integers of a label file.
pub fn labels(path: &Path, range: RangeInclusive<i64>) -> Result<Vec<i64>> {
    let label = |(i, line): (usize, &str)| {
        line.trim().parse().ok().filter(|label| range.contains(label)).ok_or_else(|| {
            anyhow!(
                "{} row {}: label {:?} is not one of {} to {}; fetch the file again",
                path.display(),
                i + 1,
                line.trim(),
                range.start(),
                range.end()
            )
        })
    };
    text(path)?.lines().enumerate().map(label).collect()
}
