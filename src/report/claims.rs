//! Claims of the form "this beats that", counted over the cells of a table.

use super::figure::Pick;
use super::notebook::Markdown;
use crate::study::Row;
use crate::task::Benchmark;

/// Claims that the first kind of cell has a higher accuracy than the second: in
/// how many pairs of cells that holds and by how many points on average, here
/// and in the paper. Two cells make a pair if they agree in what neither side
/// names. A difference is clear if it exceeds `√(h₁² + h₂²)`, `h` being half
/// the widths of the two 95 % intervals.
pub fn claims(rows: &[Row], list: &[(&str, Pick, Pick)]) -> Markdown {
    let mut text = String::from(
        "| claim | tasks | here: holds in | clearly | clearly not | mean | paper: holds in | mean |\n\
         |:-|:-|-:|-:|-:|-:|-:|-:|\n",
    );
    let half = |r: &Row| (r.ci_high - r.ci_low) / 2.0;
    for (what, first, second) in list {
        let pairs = pairs_of_cells(rows, first, second);
        for (tasks, math) in [("QA", false), ("math", true)] {
            let here: Vec<_> = pairs.iter().filter(|(a, _)| is_math(a) == math).collect();
            let ours: Vec<f64> = here.iter().map(|(a, b)| a.mean - b.mean).collect();
            let clear: Vec<f64> = here.iter().map(|(a, b)| half(a).hypot(half(b))).collect();
            let papers: Vec<f64> =
                here.iter().filter_map(|(a, b)| Some(a.published? - b.published?)).collect();
            let beyond =
                |sign: f64| ours.iter().zip(&clear).filter(|(d, c)| sign * **d > **c).count();
            if !here.is_empty() {
                text += &format!(
                    "| {what} | {tasks} | {} | {} | {} | {} | {} | {} |\n",
                    above(&ours),
                    beyond(1.0),
                    beyond(-1.0),
                    mean(&ours),
                    above(&papers),
                    mean(&papers)
                );
            }
        }
    }
    Markdown(text)
}

fn above(differences: &[f64]) -> String {
    match differences.len() {
        0 => "–".into(),
        n => format!("{} of {n}", differences.iter().filter(|d| **d > 0.0).count()),
    }
}

fn mean(differences: &[f64]) -> String {
    match differences.len() {
        0 => "–".into(),
        // Rounded first, and `+ 0.0`, so that nothing reads "-0.0".
        n => {
            let mean = differences.iter().sum::<f64>() / n as f64;
            format!("{:+.1}", (mean * 10.0).round() / 10.0 + 0.0)
        }
    }
}

fn is_math(row: &Row) -> bool {
    row.eval_task.split('(').next().is_some_and(|t| t.parse().is_ok_and(Benchmark::is_math))
}

fn pairs_of_cells<'a>(rows: &'a [Row], first: &Pick, second: &Pick) -> Vec<(&'a Row, &'a Row)> {
    let meets = |pick: &Pick, row: &Row| {
        let asks = |want: &Option<String>, have: &str| want.as_deref().is_none_or(|w| w == have);
        row.metric == "accuracy"
            && asks(&pick.student, &row.student)
            && asks(&pick.teacher, &row.teacher)
            && asks(&pick.method, &row.method)
            && asks(&pick.demonstrations, &row.demonstrations)
    };
    let named = |f: fn(&Pick) -> bool| f(first) || f(second);
    let (student, teacher) = (named(|p| p.student.is_some()), named(|p| p.teacher.is_some()));
    // Methods and sets go together: who names the one means the other, too.
    let set = named(|p| p.demonstrations.is_some() || p.method.is_some());
    let mut pairs = Vec::new();
    for a in rows.iter().filter(|r| meets(first, r)) {
        for b in rows.iter().filter(|r| meets(second, r)) {
            if a.eval_task == b.eval_task
                && (student || a.student == b.student)
                && (teacher || a.teacher == b.teacher)
                && (set || a.demonstrations == b.demonstrations)
            {
                pairs.push((a, b));
            }
        }
    }
    pairs
}
