//! Parquet files, as the hub keeps them.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use polars::prelude::*;
use serde_json::{Map, Value};

use super::rows::guarded;

/// The rows as objects, of `columns` alone: what else a file has may be of a type that is not
/// read here.
pub fn read(path: &Path, columns: &[&str]) -> Result<Vec<Value>> {
    let bytes = std::fs::read(path).with_context(|| {
        format!("{}: cannot read it; put the published file there", path.display())
    })?;
    ensure!(!bytes.is_empty(), "{}: the file is empty; fetch it again", path.display());
    // A git-lfs pointer is what a clone without git-lfs leaves in place of the file.
    ensure!(
        !bytes.starts_with(b"version https://git-lfs"),
        "{}: a git-lfs pointer, not the file itself; fetch it with git lfs pull",
        path.display()
    );
    ensure!(
        bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"),
        "{}: not a Parquet file, or cut off; fetch it again",
        path.display()
    );
    let mut unread = None;
    let rows = guarded(|| rows(&bytes, columns, &mut unread))
        .unwrap_or_else(|| Err(anyhow!("the reader gave up on it")));
    rows.with_context(|| match unread {
        Some(column) => format!(
            "{}: cannot read the column {column}; write it as texts, integers or lists of texts",
            path.display()
        ),
        None => format!("{}: broken Parquet; fetch the file again", path.display()),
    })
}

/// `unread` becomes the column that is of a type which is not read, as far as that is the cause.
fn rows(bytes: &[u8], columns: &[&str], unread: &mut Option<String>) -> Result<Vec<Value>> {
    // On this thread, where a panic on a broken file is caught without a word of it.
    let mut reader = ParquetReader::new(Cursor::new(bytes)).read_parallel(ParallelStrategy::None);
    let schema = reader.schema()?;
    let there = schema.iter_values().filter(|field| columns.contains(&field.name.as_str()));
    let (mut names, mut exotic) = (Vec::new(), None);
    for field in there {
        names.push(field.name.to_string());
        let kind = format!("{:?}", field.dtype);
        if EXOTIC.iter().any(|name| kind.starts_with(name)) {
            let kind = kind.split('(').next().unwrap_or_default();
            exotic.get_or_insert(format!("{} of type {kind}", field.name));
        }
    }
    if names.is_empty() {
        // Of no benchmark; the first row's error says what is missing.
        return Ok(vec![Value::Object(Map::new()); reader.num_rows()?]);
    }
    if exotic.is_some() {
        *unread = exotic;
        bail!("this type is not read");
    }
    let frame = reader.with_columns(Some(names)).finish()?;
    let mut rows = vec![Map::new(); frame.height()];
    for column in frame.columns() {
        let filled = fill(&mut rows, column.name(), column.name(), column.as_materialized_series());
        if filled.is_err() {
            *unread = Some(column.name().to_string());
        }
        filled?;
    }
    Ok(rows.into_iter().map(Value::Object).collect())
}

/// Arrow's types that no question is made of; polars is built here without most of them.
const EXOTIC: [&str; 12] = [
    "Timestamp",
    "Date",
    "Time",
    "Duration",
    "Interval",
    "Binary",
    "LargeBinary",
    "FixedSize",
    "Decimal",
    "Map",
    "Union",
    "Extension",
];

/// Adds a column, or a struct's field, to the rows; `path` is what an error calls it.
fn fill(rows: &mut [Map<String, Value>], path: &str, name: &str, column: &Series) -> Result<()> {
    let values = values(path, column)?;
    ensure!(
        values.len() == rows.len(),
        "column {path} has {} values in {} rows",
        values.len(),
        rows.len()
    );
    for (row, value) in rows.iter_mut().zip(values) {
        row.insert(name.to_owned(), value);
    }
    Ok(())
}

/// Structs as objects, lists as arrays; a missing one is null, as any missing value.
fn values(path: &str, column: &Series) -> Result<Vec<Value>> {
    if !matches!(column.dtype(), DataType::Struct(_)) {
        return column.iter().map(|value| plain(path, value)).collect();
    }
    let mut rows = vec![Map::new(); column.len()];
    for field in column.struct_()?.fields_as_series() {
        fill(&mut rows, &format!("{path}.{}", field.name()), field.name(), &field)?;
    }
    let missing = column.is_null();
    let row = |(row, missing)| if missing == Some(true) { Value::Null } else { Value::Object(row) };
    Ok(rows.into_iter().zip(missing.iter()).map(row).collect())
}

fn plain(path: &str, value: AnyValue) -> Result<Value> {
    Ok(match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(value) => value.into(),
        AnyValue::List(list) => Value::Array(values(path, &list)?),
        AnyValue::Float32(value) => f64::from(value).into(),
        AnyValue::Float64(value) => value.into(),
        value => {
            if let Some(text) = value.get_str() {
                text.into()
            } else if let Ok(number) = value.try_extract::<i64>() {
                number.into()
            } else if let Ok(number) = value.try_extract::<u64>() {
                number.into()
            } else {
                bail!("column {path}: values of type {} are not supported", value.dtype())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `choices` as OBQA and CSQA have them on the hub, a struct of lists; as their
    /// publishers write them, a list of structs; and a row without either.
    #[test]
    fn structs_and_lists_nest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        let pair = |texts: [&str; 2]| {
            let fields =
                [Series::new("label".into(), ["A", "B"]), Series::new("text".into(), texts)];
            StructChunked::from_series("choices".into(), 2, fields.iter()).unwrap().into_series()
        };
        let (first, second) = (pair(["x", "y"]), pair(["u", "v"]));
        let structs = Series::new("structs".into(), [Some(first), None, Some(second)]);
        let list = |texts: [&str; 2]| Series::new("".into(), texts);
        let fields = [
            Series::new("label".into(), [list(["A", "B"]), list(["A", "B"]), list(["A", "B"])]),
            Series::new("text".into(), [list(["x", "y"]), list(["p", "q"]), list(["u", "v"])]),
        ];
        let lists = StructChunked::from_series("lists".into(), 3, fields.iter()).unwrap();
        let present = BooleanChunked::new("".into(), [true, false, true]);
        let nothing = Series::full_null("lists".into(), 3, lists.dtype());
        let lists = lists.into_series().zip_with(&present, &nothing).unwrap();
        let number = Series::new("number".into(), [Some(1i64), Some(2), None]);
        let columns = [structs, lists, number].map(Column::from).to_vec();
        let mut frame = DataFrame::new(3, columns).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        ParquetWriter::new(file).finish(&mut frame).unwrap();
        let row = |a: &str, b: &str, number: Value| {
            json!({
                "structs": [{"label": "A", "text": a}, {"label": "B", "text": b}],
                "lists": {"label": ["A", "B"], "text": [a, b]},
                "number": number,
            })
        };
        let expected = [
            row("x", "y", json!(1)),
            json!({"structs": null, "lists": null, "number": 2}),
            row("u", "v", Value::Null),
        ];
        assert_eq!(read(&path, &["number", "lists", "structs"]).unwrap(), expected);
        // Only what is asked for, and a row all the same where there is none of that.
        let numbers = [json!({"number": 1}), json!({"number": 2}), json!({"number": null})];
        assert_eq!(read(&path, &["number", "other"]).unwrap(), numbers);
        assert_eq!(read(&path, &["other"]).unwrap(), [json!({}), json!({}), json!({})]);
    }
}
