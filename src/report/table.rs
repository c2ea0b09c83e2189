//! Tables: long form for programs, wide form for people.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, bail};
use polars::prelude::*;

use super::file::replace;
use super::notebook::{Html, Markdown};
use crate::study::Row;

/// A column of [`Row`] that a table can be laid out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Student,
    Teacher,
    Method,
    Demonstrations,
    TrainTask,
    EvalTask,
    Metric,
}

impl Key {
    /// All of them, in the order of [`Row`].
    pub const ALL: [Key; 7] = [
        Key::Student,
        Key::Teacher,
        Key::Method,
        Key::Demonstrations,
        Key::TrainTask,
        Key::EvalTask,
        Key::Metric,
    ];

    /// The name of the column in the parquet and CSV files.
    pub fn name(self) -> &'static str {
        match self {
            Key::Student => "student",
            Key::Teacher => "teacher",
            Key::Method => "method",
            Key::Demonstrations => "demonstrations",
            Key::TrainTask => "train_task",
            Key::EvalTask => "eval_task",
            Key::Metric => "metric",
        }
    }

    fn of(self, row: &Row) -> &str {
        match self {
            Key::Student => &row.student,
            Key::Teacher => &row.teacher,
            Key::Method => &row.method,
            Key::Demonstrations => &row.demonstrations,
            Key::TrainTask => &row.train_task,
            Key::EvalTask => &row.eval_task,
            Key::Metric => &row.metric,
        }
    }
}

/// How the wide table is laid out. Lines and columns come in the order in
/// which the rows first name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pivot {
    /// What makes a line.
    pub rows: Vec<Key>,
    /// What makes a column; with several, the headings are joined.
    pub columns: Vec<Key>,
    /// Decimals of the mean and of the half-width.
    pub decimals: usize,
}

impl Pivot {
    /// With one decimal, as the papers print accuracies.
    pub fn new(rows: &[Key], columns: &[Key]) -> Self {
        Pivot { rows: rows.to_vec(), columns: columns.to_vec(), decimals: 1 }
    }

    /// With another number of decimals.
    pub fn decimals(self, decimals: usize) -> Self {
        Pivot { decimals, ..self }
    }
}

/// What stands above the wide table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    pub title: String,
    /// What the table shows, in a sentence.
    pub caption: String,
    /// How it was made: the command, the seeds, the number of questions.
    pub notes: Vec<String>,
    pub pivot: Pivot,
}

/// The rows as a data frame, one column per field of [`Row`].
pub fn frame(rows: &[Row]) -> Result<DataFrame> {
    fn column<T, F: Fn(&Row) -> T>(rows: &[Row], value: F) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    let mut columns: Vec<Column> = Key::ALL
        .into_iter()
        .map(|key| {
            let names: Vec<&str> = rows.iter().map(|row| key.of(row)).collect();
            Column::new(key.name().into(), names)
        })
        .collect();
    columns.extend([
        Column::new("mean".into(), column(rows, |r| r.mean)),
        Column::new("std".into(), column(rows, |r| r.std)),
        Column::new("ci_low".into(), column(rows, |r| r.ci_low)),
        Column::new("ci_high".into(), column(rows, |r| r.ci_high)),
        Column::new("n".into(), column(rows, |r| r.n)),
        Column::new("seeds".into(), column(rows, |r| r.seeds)),
        Column::new("published".into(), column(rows, |r| r.published)),
    ]);
    Ok(DataFrame::new(rows.len(), columns)?)
}

/// Writes `<name>.parquet`, `<name>.csv` (both long form) and `<name>.md` (wide
/// form). Equal rows give equal bytes: none of the files holds a date.
pub fn write(rows: &[Row], dir: &Path, name: &str, heading: &Heading) -> Result<()> {
    // First, because it is the one that can find fault with the rows.
    let page = page(rows, heading)?;
    let mut frame = frame(rows)?;
    replace(dir, &format!("{name}.parquet"), |path| {
        ParquetWriter::new(File::create(path)?).set_parallel(false).finish(&mut frame)?;
        Ok(())
    })?;
    replace(dir, &format!("{name}.csv"), |path| {
        CsvWriter::new(File::create(path)?).with_float_precision(Some(4)).finish(&mut frame)?;
        Ok(())
    })?;
    replace(dir, &format!("{name}.md"), |path| Ok(fs::write(path, &page)?))
}

/// The whole page for people: heading, notes, legend and wide table.
fn page(rows: &[Row], heading: &Heading) -> Result<String> {
    let Heading { title, caption, notes, pivot } = heading;
    let mut page = format!("# {title}\n\n{caption}\n\n");
    for note in notes {
        writeln!(page, "- {note}")?;
    }
    if !notes.is_empty() {
        page.push('\n');
    }
    writeln!(page, "{}\n", legend(rows))?;
    page.push_str(&markdown(rows, pivot)?.0);
    Ok(page)
}

/// Says what a cell holds.
fn legend(rows: &[Row]) -> String {
    let first = rows.first().map_or("accuracy", |row| row.metric.as_str());
    let what = if rows.iter().all(|row| row.metric == first) { first } else { "the metric named" };
    let unit = if what.ends_with("accuracy") { " in %" } else { "" };
    let published =
        if rows.iter().any(|r| r.published.is_some()) { " (published value)" } else { "" };
    format!("Each cell: {what}{unit}, mean ± half the width of its 95 % interval{published}.")
}

/// The wide table as Markdown, padded so that it also lines up as plain text.
pub fn markdown(rows: &[Row], pivot: &Pivot) -> Result<Markdown> {
    let wide = wide(rows, pivot)?;
    let keys = pivot.rows.len();
    let widths: Vec<usize> = (0..wide.header.len())
        .map(|i| {
            let lines = wide.lines.iter().map(|line| line[i].chars().count());
            lines.chain([wide.header[i].chars().count(), 3]).max().unwrap_or(3)
        })
        .collect();
    let line = |cells: &[String]| {
        let mut text = String::from("|");
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if i < keys {
                let _ = write!(text, " {cell:<width$} |");
            } else {
                let _ = write!(text, " {cell:>width$} |");
            }
        }
        text + "\n"
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(i, width)| {
            let dashes = "-".repeat(width - 1);
            if i < keys { format!(":{dashes}") } else { format!("{dashes}:") }
        })
        .collect();
    let mut text = line(&wide.header) + &line(&rule);
    for cells in &wide.lines {
        text.push_str(&line(cells));
    }
    Ok(Markdown(text))
}

/// The wide table as a small piece of HTML; the data frame itself has no
/// notebook display.
pub fn html(rows: &[Row], pivot: &Pivot) -> Result<Html> {
    let wide = wide(rows, pivot)?;
    let keys = pivot.rows.len();
    let line = |cells: &[String], tag: &str| {
        let mut text = String::from("<tr>");
        for (i, cell) in cells.iter().enumerate() {
            let align = if i < keys { "left" } else { "right" };
            let cell = escape(cell.trim()).replace(' ', "&nbsp;");
            let _ = write!(text, "<{tag} style=\"text-align:{align}\">{cell}</{tag}>");
        }
        text + "</tr>\n"
    };
    let mut text = String::from("<table>\n<thead>");
    text.push_str(&line(&wide.header, "th"));
    text.push_str("</thead>\n<tbody>\n");
    for cells in &wide.lines {
        text.push_str(&line(cells, "td"));
    }
    text.push_str("</tbody>\n</table>");
    Ok(Html(text))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The pivoted table as text: row keys first, then the cells.
struct Wide {
    header: Vec<String>,
    lines: Vec<Vec<String>>,
}

fn wide(rows: &[Row], pivot: &Pivot) -> Result<Wide> {
    fn keys(row: &Row, by: &[Key]) -> Vec<String> {
        by.iter().map(|key| key.of(row).to_owned()).collect()
    }
    fn distinct(all: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
        let mut seen = Vec::new();
        for one in all {
            if !seen.contains(&one) {
                seen.push(one);
            }
        }
        seen
    }
    let down = distinct(rows.iter().map(|row| keys(row, &pivot.rows)));
    let across = distinct(rows.iter().map(|row| keys(row, &pivot.columns)));
    let any_published = rows.iter().any(|row| row.published.is_some());

    let mut header: Vec<String> =
        pivot.rows.iter().map(|key| key.name().replace('_', " ")).collect();
    header.extend(
        across.iter().map(|column| {
            if column.is_empty() { String::from("value") } else { column.join(", ") }
        }),
    );
    let mut lines = Vec::with_capacity(down.len());
    for line_keys in &down {
        let mut line = line_keys.clone();
        for column_keys in &across {
            let mut here = rows.iter().filter(|row| {
                keys(row, &pivot.rows) == *line_keys && keys(row, &pivot.columns) == *column_keys
            });
            let first = here.next();
            if let (Some(a), Some(b)) = (first, here.next()) {
                // Silently showing one of the two would be showing the wrong number.
                let apart: Vec<&str> = Key::ALL
                    .into_iter()
                    .filter(|key| key.of(a) != key.of(b))
                    .map(Key::name)
                    .collect();
                bail!(
                    "two rows fall into the cell [{}] × [{}]; they differ in: {}",
                    line_keys.join(", "),
                    column_keys.join(", "),
                    if apart.is_empty() { "nothing".into() } else { apart.join(", ") }
                );
            }
            line.push(first.map_or_else(String::new, |r| cell(r, pivot.decimals, any_published)));
        }
        lines.push(line);
    }
    Ok(Wide { header, lines })
}

/// `75.3 ± 3.5 (75.5)`, padded so that the parts of a column line up.
fn cell(row: &Row, decimals: usize, any_published: bool) -> String {
    let (mean_width, half_width) = (decimals + 4, decimals + 3);
    let mut text = format!("{:mean_width$.decimals$}", row.mean);
    let half = (row.ci_high - row.ci_low) / 2.0;
    if half.is_finite() {
        let _ = write!(text, " ± {half:<half_width$.decimals$}");
    } else {
        // A metric without an interval.
        text.push_str(&" ".repeat(3 + half_width));
    }
    if any_published {
        let brackets = row.published.map_or_else(String::new, |p| format!("({p:.decimals$})"));
        let _ = write!(text, " {brackets:>width$}", width = mean_width + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn heading() -> Heading {
        Heading {
            title: "P1, Figure 2".into(),
            caption: "Students tuned on their own task.".into(),
            notes: vec!["`cotalign run p1_figure02`".into(), "3 seeds".into()],
            pivot: Pivot::new(
                &[Key::Student, Key::Teacher, Key::Method, Key::Demonstrations],
                &[Key::EvalTask],
            ),
        }
    }

    #[test]
    fn files_are_the_same_bytes_every_time() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let rows = sample::figure02();
        write(&rows, a.path(), "t", &heading()).unwrap();
        write(&rows, b.path(), "t", &heading()).unwrap();
        // Once more over the old files: they are replaced, and nothing is left beside them.
        write(&rows, b.path(), "t", &heading()).unwrap();
        for file in ["t.parquet", "t.csv", "t.md"] {
            let read = |dir: &tempfile::TempDir| fs::read(dir.path().join(file)).unwrap();
            assert_eq!(read(&a), read(&b), "{file}");
        }
        assert_eq!(fs::read_dir(b.path()).unwrap().count(), 3);
    }

    #[test]
    fn parquet_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let rows = sample::figure02();
        write(&rows, dir.path(), "t", &heading()).unwrap();
        let file = File::open(dir.path().join("t.parquet")).unwrap();
        let back = ParquetReader::new(file).finish().unwrap();
        assert!(back.equals_missing(&frame(&rows).unwrap()));
        assert_eq!(back.width(), 14);
    }

    #[test]
    fn csv_has_four_decimals_and_empty_nulls() {
        let dir = tempfile::tempdir().unwrap();
        let row = Row { std: None, published: None, ..sample::row("OBQA", 75.5, 3.0) };
        write(&[row], dir.path(), "t", &heading()).unwrap();
        let csv = fs::read_to_string(dir.path().join("t.csv")).unwrap();
        assert_eq!(
            csv,
            "student,teacher,method,demonstrations,train_task,eval_task,metric,mean,std,ci_low,\
             ci_high,n,seeds,published\n\
             llama-pocket-7,-,baseline,none,-,OBQA,accuracy,75.5000,,72.5000,78.5000,500,3,\n"
        );
    }

    #[test]
    fn markdown_lines_up() {
        let dir = tempfile::tempdir().unwrap();
        write(&sample::figure02(), dir.path(), "t", &heading()).unwrap();
        let page = fs::read_to_string(dir.path().join("t.md")).unwrap();
        assert!(page.starts_with("# P1, Figure 2\n\nStudents tuned on their own task.\n\n- `cot"));
        let table: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(table.len(), 2 + 2 + 16);
        let bars = |line: &str| -> Vec<usize> {
            line.chars().enumerate().filter(|(_, c)| *c == '|').map(|(i, _)| i).collect()
        };
        for line in &table {
            assert_eq!(bars(line), bars(table[0]), "{line}");
        }
    }

    #[test]
    fn cells_show_mean_half_width_and_published() {
        let row = Row { published: Some(75.5), ..sample::row("OBQA", 75.26, 3.54) };
        assert_eq!(cell(&row, 1, true).trim(), "75.3 ± 3.5  (75.5)");
        assert_eq!(cell(&row, 1, false).trim(), "75.3 ± 3.5");
        let bare = Row { ci_low: f64::NAN, ci_high: f64::NAN, ..row };
        assert_eq!(cell(&bare, 3, false).trim(), "75.260");
    }

    #[test]
    fn two_rows_in_one_cell_are_refused() {
        let row = sample::row("OBQA", 70.0, 3.0);
        let other = Row { train_task: "CSQA".into(), ..row.clone() };
        let error = html(&[row, other], &heading().pivot).unwrap_err().to_string();
        assert!(error.contains("differ in: train_task"), "{error}");
    }

    #[test]
    fn html_is_a_table() {
        let rows = [sample::row("A<B", 70.0, 3.0)];
        let html = html(&rows, &Pivot::new(&[Key::Student], &[Key::EvalTask])).unwrap().0;
        assert!(html.contains("<th style=\"text-align:right\">A&lt;B</th>"), "{html}");
        assert!(html.contains("70.0&nbsp;±&nbsp;3.0"), "{html}");
    }
}
