//! CSV files (MMLU, ECQA) and the tab-separated ones of the FLAN collection.

use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::Value;

/// The columns of MMLU's files, which have no header: `question,A,B,C,D,letter`.
const MMLU: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

/// The columns that ECQA's files have, among others.
const ECQA: [&str; 8] = ["q_no", "q_text", "q_op1", "q_op2", "q_op3", "q_op4", "q_op5", "q_ans"];

/// The rows as objects. A header is taken for one only if it is ECQA's; any other file
/// has to have MMLU's six columns. Short rows lack their last columns, which an error on the
/// row then names; a field without text counts as missing.
pub fn read(path: &Path, text: &str) -> Result<Vec<Value>> {
    let mut records = records(path, text)?;
    let first: Vec<String> = match records.first() {
        Some(first) => first.iter().map(|name| name.trim().to_owned()).collect(),
        None => return Ok(Vec::new()),
    };
    let has = |name: &&str| first.iter().any(|found| found == name);
    let names = if ECQA.iter().any(&has) {
        if let Some(missing) = ECQA.iter().find(|name| !has(name)) {
            bail!(
                "{} row 1: the header lacks the column {missing}; fetch the file again",
                path.display()
            );
        }
        records.remove(0);
        first
    } else {
        ensure!(
            first.len() == MMLU.len(),
            "{} row 1: {} columns instead of MMLU's six ({}) or a header with ECQA's {}; fetch \
             the file again",
            path.display(),
            first.len(),
            MMLU.join(","),
            ECQA.join(",")
        );
        MMLU.map(String::from).to_vec()
    };
    let object = |(i, fields): (usize, Vec<String>)| {
        ensure!(
            fields.len() <= names.len(),
            "{} row {}: {} columns instead of {}; put quotes around a field with commas in it, or \
             fetch the file again",
            path.display(),
            i + 1,
            fields.len(),
            names.len()
        );
        let fields = names.iter().cloned().zip(fields).filter(|(_, text)| !text.is_empty());
        Ok(Value::Object(fields.map(|(name, text)| (name, text.into())).collect()))
    };
    records.into_iter().enumerate().map(object).collect()
}

/// The fields of every record, by RFC 4180: they may hold newlines, so rows are not lines.
/// Empty lines are passed over.
///
/// The files of the publishers end their records with CR and LF, or with LF, and the lines
/// inside a field with LF. Polars does not read the first kind and names no row in its errors.
fn records(path: &Path, text: &str) -> Result<Vec<Vec<String>>> {
    // A copy all of whose line ends were converted (CR and LF to CR, CR and LF) is read as the
    // original.
    let converted =
        text.contains("\r\n") && text.matches('\n').count() == text.matches("\r\n").count();
    // Rows are counted without the header.
    let header = text.lines().next().is_some_and(|line| line.contains(ECQA[1]));
    let (mut records, mut fields, mut rest) = (Vec::new(), Vec::new(), text);
    loop {
        let start = text.len() - rest.len();
        let (mut field, after) = match rest.strip_prefix('"') {
            Some(inside) => quoted(inside).map_err(|what| {
                anyhow!(
                    "{} line {} (row {}): {what}; double the quotes inside a field or fetch the \
                     file again",
                    path.display(),
                    text[..start].matches('\n').count() + 1,
                    records.len() + 1 - usize::from(header && !records.is_empty())
                )
            })?,
            None => {
                let (field, after) = rest.split_at(rest.find([',', '\n']).unwrap_or(rest.len()));
                let ends = !after.starts_with(',');
                let field = if ends { field.trim_end_matches('\r') } else { field };
                (field.to_owned(), after)
            }
        };
        if converted {
            field = field.replace("\r\n", "\n");
        }
        fields.push(field);
        if let Some(next) = after.strip_prefix(',') {
            rest = next;
            continue;
        }
        if fields.len() > 1 || !fields[0].is_empty() {
            records.push(std::mem::take(&mut fields));
        }
        fields.clear();
        match after.strip_prefix('\n') {
            Some(next) => rest = next,
            None => return Ok(records),
        }
    }
}

/// A field up to the quote that closes it, and what follows: a comma, a newline or nothing.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (part, after) =
            rest.split_once('"').ok_or("a quote opens a field and none closes it")?;
        field += part;
        rest = after;
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => break,
        }
    }
    let end = rest.trim_start_matches('\r');
    let rest = if end.starts_with('\n') { end } else { rest };
    match rest.is_empty() || rest.starts_with([',', '\n']) {
        true => Ok((field, rest)),
        false => Err("text between the quote that closes a field and the next comma"),
    }
}

/// The chain-of-thought files of the FLAN collection: question with options, gold and
/// rationale, separated by tabs, newlines written as `\n`.
pub fn three_columns(path: &Path, text: &str) -> Result<Vec<Value>> {
    let row = |(i, line): (usize, &str)| {
        let parts: Vec<&str> = line.split('\t').collect();
        let [question, gold, rationale] = parts[..] else {
            return Err(anyhow!(
                "{} row {}: {} columns instead of three (question, gold, rationale); fetch the \
                 file again",
                path.display(),
                i + 1,
                parts.len()
            ));
        };
        let fields = [("flan_question", question), ("flan_gold", gold), ("rationale", rationale)];
        let fields = fields.map(|(name, text)| (name.to_owned(), text.replace("\\n", "\n").into()));
        Ok(Value::Object(fields.into_iter().collect()))
    };
    text.lines().enumerate().map(row).collect()
}
