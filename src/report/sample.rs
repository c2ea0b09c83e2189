//! Made-up rows for the tests of tables and figures.

use crate::study::Row;
use crate::study::published;
use crate::task::Benchmark;

/// An untuned student on `task`.
pub fn row(task: &str, mean: f64, half: f64) -> Row {
    Row {
        student: "llama-pocket-7".into(),
        teacher: "-".into(),
        method: "baseline".into(),
        demonstrations: "none".into(),
        train_task: "-".into(),
        eval_task: task.into(),
        metric: "accuracy".into(),
        mean,
        std: Some(half / 3.0),
        ci_low: mean - half,
        ci_high: mean + half,
        n: 500,
        seeds: 3,
        published: None,
    }
}

/// The four sets of demonstrations with their method and a made-up gain.
pub const SETS: [(&str, &str, f64); 4] = [
    ("demonstrations", "instruction_tuning", 8.0),
    ("truthful", "instruction_tuning", 13.0),
    ("cot_demonstrations", "instruction_tuning_cot", 17.0),
    ("delivering_cot", "instruction_tuning_cot", 24.0),
];

/// All rows of P1's Figure 2: two students, two teachers, four sets, six
/// tasks; with both untuned students and no teachers.
pub fn figure02() -> Vec<Row> {
    let mut rows = Vec::new();
    for (s, student) in ["llama-pocket-7", "llama-pocket-13"].into_iter().enumerate() {
        for (t, task) in Benchmark::ALL.into_iter().enumerate() {
            let base = 41.0 + 4.0 * s as f64 + 2.5 * t as f64;
            rows.push(Row { student: student.into(), ..row(task.name(), base, 3.6) });
            for (k, teacher) in ["llama-pocket-70", "gpt-pocket"].into_iter().enumerate() {
                for (demonstrations, method, gain) in SETS {
                    rows.push(Row {
                        student: student.into(),
                        teacher: teacher.into(),
                        method: method.into(),
                        demonstrations: demonstrations.into(),
                        train_task: task.name().into(),
                        ..row(task.name(), base + gain - 1.5 * k as f64, 3.0)
                    });
                }
            }
        }
    }
    // The order of a table of results: by model and set, then by task.
    rows.sort_by_key(|r| (r.student.len(), r.teacher.clone(), r.demonstrations.clone()));
    published::fill(&mut rows, "P1", "Figure 2");
    rows
}

/// Teachers with both prompts, for the teacher lines.
pub fn teachers() -> Vec<Row> {
    let mut rows = Vec::new();
    for (k, teacher) in ["llama-pocket-70", "gpt-pocket", "mixtral-pocket"].into_iter().enumerate()
    {
        for (t, task) in Benchmark::ALL.into_iter().enumerate() {
            for (method, gain) in [("baseline", 0.0), ("baseline_cot", 7.0)] {
                rows.push(Row {
                    student: "-".into(),
                    teacher: teacher.into(),
                    method: method.into(),
                    ..row(task.name(), 66.0 + 3.0 * t as f64 + 3.0 * k as f64 + gain, 2.0)
                });
            }
        }
    }
    rows
}
