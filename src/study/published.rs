//! The papers' own numbers, compiled in.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::row::Row;

/// The files under `data/published`, in which every number has its own line.
const FILES: [&str; 10] = [
    include_str!("../../data/published/p1_figure02_main_results.csv"),
    include_str!("../../data/published/p1_figure03_low_resource.csv"),
    include_str!("../../data/published/p1_figure04_mistral.csv"),
    include_str!("../../data/published/p1_table03_untuned_students.csv"),
    include_str!("../../data/published/p1_table11_teachers.csv"),
    include_str!("../../data/published/p1_table13_datasets.csv"),
    include_str!("../../data/published/p1_table15_cross_task.csv"),
    include_str!("../../data/published/p1_table16_bbh_mmlu.csv"),
    include_str!("../../data/published/p2_low_resource_splits.csv"),
    include_str!("../../data/published/p2_section41_teacher_student_gap.csv"),
];

/// The columns before the value: paper, item, student, teacher, method,
/// demonstrations, train task, eval task, metric.
type Key = [String; 9];

static NUMBERS: LazyLock<HashMap<Key, f64>> = LazyLock::new(|| {
    let mut numbers = HashMap::new();
    for line in FILES.iter().flat_map(|file| file.lines().skip(1)) {
        let mut fields = split(line);
        let value = fields.pop().and_then(|v| v.parse().ok());
        if let (Some(value), Ok(key)) = (value, Key::try_from(fields)) {
            numbers.insert(key, value);
        }
    }
    numbers
});

/// Splits a line of CSV; a field in double quotes may hold commas.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().expect("starts with one field").push(c),
        }
    }
    fields
}

/// The pocket models and the models of the papers they stand for.
const MODELS: [(&str, &str); 6] = [
    ("llama-pocket-7", "Llama-2-7"),
    ("llama-pocket-13", "Llama-2-13"),
    ("llama-pocket-70", "Llama-2-70"),
    ("gpt-pocket", "GPT-3.5"),
    ("mistral-pocket-7", "Mistral-7"),
    ("mixtral-pocket", "Mixtral"),
];

/// The papers' name of a pocket model; any other name is returned as it is.
pub fn paper_name(model: &str) -> &str {
    MODELS.iter().find(|(pocket, _)| *pocket == model).map_or(model, |(_, paper)| paper)
}

/// One published cell, in this project's names or the papers' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    /// `P1` or `P2`.
    pub paper: &'a str,
    /// `Figure 2`, `Table 3`, …
    pub item: &'a str,
    pub student: &'a str,
    pub teacher: &'a str,
    pub method: &'a str,
    pub demonstrations: &'a str,
    pub train_task: &'a str,
    /// `OBQA`; where an item reports both splits, `OBQA` finds `OBQA(test)`.
    pub eval_task: &'a str,
    pub metric: &'a str,
}

impl<'a> Cell<'a> {
    /// The cell that corresponds to a row of ours.
    pub fn of(paper: &'a str, item: &'a str, row: &'a Row) -> Self {
        Cell {
            paper,
            item,
            student: &row.student,
            teacher: &row.teacher,
            method: &row.method,
            demonstrations: &row.demonstrations,
            train_task: &row.train_task,
            eval_task: &row.eval_task,
            metric: &row.metric,
        }
    }
}

/// The number a paper gives for this cell, or `None` if it gives none.
pub fn published(cell: &Cell<'_>) -> Option<f64> {
    let key = |eval_task: &str| {
        [
            cell.paper,
            cell.item,
            paper_name(cell.student),
            paper_name(cell.teacher),
            cell.method,
            cell.demonstrations,
            cell.train_task,
            eval_task,
            cell.metric,
        ]
        .map(str::to_owned)
    };
    let found = NUMBERS.get(&key(cell.eval_task));
    found.or_else(|| NUMBERS.get(&key(&format!("{}(test)", cell.eval_task)))).copied()
}

/// Sets [`Row::published`] of every row from one table or figure.
pub fn fill(rows: &mut [Row], paper: &str, item: &str) {
    for row in rows {
        row.published = published(&Cell::of(paper, item, row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELIVERING: Cell<'static> = Cell {
        paper: "P1",
        item: "Figure 2",
        student: "llama-pocket-7",
        teacher: "llama-pocket-70",
        method: "instruction_tuning_cot",
        demonstrations: "delivering_cot",
        train_task: "OBQA",
        eval_task: "OBQA",
        metric: "accuracy",
    };

    #[test]
    fn known_cells() {
        assert_eq!(published(&DELIVERING), Some(75.5));
        let papers_names = Cell { student: "Llama-2-7", teacher: "Llama-2-70", ..DELIVERING };
        assert_eq!(published(&papers_names), Some(75.5));
        let untuned = Cell {
            item: "Table 3",
            student: "llama-pocket-13",
            teacher: "-",
            method: "baseline_cot",
            demonstrations: "none",
            train_task: "-",
            eval_task: "CSQA",
            ..DELIVERING
        };
        assert_eq!(published(&untuned), Some(60.8));
        let teacher = Cell {
            item: "Table 11",
            student: "-",
            teacher: "gpt-pocket",
            eval_task: "OBQA(train)",
            ..untuned
        };
        assert_eq!(published(&teacher), Some(75.4));
        // Without a split the test split is meant.
        assert_eq!(published(&Cell { eval_task: "OBQA", ..teacher }), Some(74.6));
    }

    #[test]
    fn what_no_paper_prints_is_none() {
        assert_eq!(published(&Cell { paper: "P2", ..DELIVERING }), None);
        assert_eq!(published(&Cell { student: "mistral-pocket-7", ..DELIVERING }), None);
    }

    #[test]
    fn every_line_is_a_number_of_its_own() {
        let lines: usize = FILES.iter().map(|file| file.lines().count() - 1).sum();
        assert_eq!(NUMBERS.len(), lines);
        assert!(FILES.iter().all(|f| {
            f.starts_with(
                "paper,item,student,teacher,method,demonstrations,train_task,eval_task,metric,value\n",
            )
        }));
    }

    #[test]
    fn quoted_fields_keep_their_commas() {
        assert_eq!(split(r#"a,"b,c",d"#), ["a", "b,c", "d"]);
    }
}
