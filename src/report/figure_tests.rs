//! The figures of both papers, drawn from made-up rows.

use std::fs;

use super::figure::{Bars, GroupBy, Layout, Pick, SIZE, SeriesBy, Style, grouped_bars, svg};
use super::sample;
use crate::study::Row;
use crate::study::published;
use crate::task::Benchmark;

/// P1's Figure 2: student ← teacher, four sets of demonstrations.
fn figure02() -> Layout {
    let pair = |label: &str, student: &str, name: &str, teacher: &str| {
        GroupBy::new(label, Pick::new().student(student).teacher(teacher))
            .untuned(Pick::new().student(student).method("baseline"))
            .teacher(name, Pick::new().student("-").teacher(teacher).method("baseline_cot"))
    };
    let set = |name: &str, style: Style, demonstrations: &str| {
        SeriesBy::new(name, style, Pick::new().demonstrations(demonstrations))
    };
    Layout {
        title: "Students taught with correct step-by-step answers gain most".into(),
        subtitle: "P1, Figure 2: accuracy on the task tuned on, student ← teacher".into(),
        teacher: "teacher (step-by-step prompt)".into(),
        tasks: Benchmark::ALL.to_vec(),
        groups: vec![
            pair("7 ← 70", "llama-pocket-7", "70", "llama-pocket-70"),
            pair("7 ← gpt", "llama-pocket-7", "gpt", "gpt-pocket"),
            pair("13 ← 70", "llama-pocket-13", "70", "llama-pocket-70"),
            pair("13 ← gpt", "llama-pocket-13", "gpt", "gpt-pocket"),
        ],
        series: vec![
            set("Demonstrations", Style::DEMONSTRATIONS, "demonstrations"),
            set("Truthful", Style::TRUTHFUL, "truthful"),
            set("CoT-Demonstrations", Style::COT_DEMONSTRATIONS, "cot_demonstrations"),
            set("Delivering-CoT", Style::DELIVERING_COT, "delivering_cot"),
        ],
    }
}

/// P2's Figures 2 and 3: pairs of student and teacher, three methods.
fn phases(groups: Vec<GroupBy>) -> Layout {
    Layout {
        title: "Self-refinement closes the gap to the teacher".into(),
        subtitle: "P2: accuracy on the task tuned on, student ← teacher".into(),
        teacher: "teacher".into(),
        tasks: Benchmark::ALL.to_vec(),
        groups,
        series: vec![
            SeriesBy::new("Untuned", Style::UNTUNED, Pick::new().teacher("-").method("baseline")),
            SeriesBy::new(
                "Instruction-tuned",
                Style::INSTRUCTION_TUNED,
                Pick::new().method("instruction_tuning_cot"),
            ),
            SeriesBy::new("Self-refined", Style::SELF_REFINED, Pick::new().method("self_refine")),
        ],
    }
}

fn phase_rows() -> Vec<Row> {
    let mut rows = sample::teachers();
    for (s, student) in
        ["llama-pocket-7", "llama-pocket-13", "mistral-pocket-7"].into_iter().enumerate()
    {
        for (t, task) in Benchmark::ALL.into_iter().enumerate() {
            let base = 40.0 + 3.0 * s as f64 + 2.0 * t as f64;
            let untuned = Row { student: student.into(), ..sample::row(task.name(), base, 3.4) };
            for teacher in ["llama-pocket-70", "gpt-pocket", "mixtral-pocket"] {
                for (method, gain) in [("instruction_tuning_cot", 17.0), ("self_refine", 26.0)] {
                    rows.push(Row {
                        student: student.into(),
                        teacher: teacher.into(),
                        method: method.into(),
                        demonstrations: "both".into(),
                        train_task: task.name().into(),
                        ..sample::row(task.name(), base + gain, 3.0)
                    });
                }
            }
            rows.push(untuned);
        }
    }
    rows
}

fn taught(label: &str, student: &str, name: &str, teacher: &str) -> GroupBy {
    GroupBy::new(label, Pick::new().student(student).teacher(teacher))
        .teacher(name, Pick::new().student("-").teacher(teacher).method("baseline_cot"))
}

/// P1's Tables 3 and 11: two prompts.
fn prompts(title: &str, groups: Vec<GroupBy>) -> Layout {
    Layout {
        title: title.into(),
        subtitle: String::new(),
        teacher: String::new(),
        tasks: Benchmark::ALL.to_vec(),
        groups,
        series: vec![
            SeriesBy::new("Plain prompt", Style::PLAIN_PROMPT, Pick::new().method("baseline")),
            SeriesBy::new(
                "Step-by-step prompt",
                Style::COT_PROMPT,
                Pick::new().method("baseline_cot"),
            ),
        ],
    }
}

/// Draws into a directory that goes away, or into `FIGURES` to be looked at.
fn drawn(bars: &Bars, name: &str) -> (Vec<u8>, String) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("FIGURES").map_or(temporary.path().to_path_buf(), Into::into);
    grouped_bars(bars, &dir, name).unwrap();
    let read = |ending: &str| fs::read(dir.join(format!("{name}.{ending}"))).unwrap();
    (read("png"), String::from_utf8(read("svg")).unwrap())
}

#[test]
fn p1_figure02() {
    let mut rows = sample::figure02();
    rows.extend(sample::teachers());
    let bars = Bars::from_rows(&rows, &figure02()).unwrap();
    assert_eq!(bars.panels.len(), 6);
    assert_eq!(bars.panels[0].note, "n = 500 × 3 seeds");
    let first = &bars.panels[0].groups[0];
    assert_eq!(first.bars[3].unwrap().published, Some(75.5));
    assert_eq!(first.untuned, Some(41.0));
    assert_eq!(first.teacher, Some(("70".into(), 73.0)));

    let (png, svg) = drawn(&bars, "p1_figure02");
    // Width and height stand at a fixed place of every PNG.
    let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), SIZE);
    for text in ["MultiArith", "13 ← gpt", "chance", "Delivering-CoT", "published value"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(svg.contains("DejaVu Sans, Verdana, sans-serif"));
    // Chance is drawn for the four multiple-choice tasks and in the legend.
    assert_eq!(svg.matches("\nchance\n").count(), 5);
    let (again, svg_again) = drawn(&bars, "p1_figure02");
    assert!(png == again && svg == svg_again);
}

#[test]
fn p2_figures() {
    let rows = phase_rows();
    let in_family = phases(vec![
        taught("llama-7\n← 70", "llama-pocket-7", "70", "llama-pocket-70"),
        taught("llama-13\n← 70", "llama-pocket-13", "70", "llama-pocket-70"),
        taught("mistral-7\n← mixtral", "mistral-pocket-7", "mixtral", "mixtral-pocket"),
    ]);
    let bars = Bars::from_rows(&rows, &in_family).unwrap();
    assert!(bars.panels[0].groups.iter().all(|g| g.bars.iter().all(Option::is_some)));
    drawn(&bars, "p2_figure02");
    let out_family = phases(vec![
        taught("7\n← 70", "llama-pocket-7", "70", "llama-pocket-70"),
        taught("7\n← gpt", "llama-pocket-7", "gpt", "gpt-pocket"),
        taught("13\n← 70", "llama-pocket-13", "70", "llama-pocket-70"),
        taught("13\n← gpt", "llama-pocket-13", "gpt", "gpt-pocket"),
        taught("mis\n← mix", "mistral-pocket-7", "mixtral", "mixtral-pocket"),
        taught("mis\n← gpt", "mistral-pocket-7", "gpt", "gpt-pocket"),
    ]);
    drawn(&Bars::from_rows(&rows, &out_family).unwrap(), "p2_figure03");
}

#[test]
fn p1_tables_as_figures() {
    let mut rows = sample::teachers();
    let train: Vec<Row> = rows
        .iter()
        .map(|r| Row {
            eval_task: format!("{}(train)", r.eval_task),
            mean: r.mean - 4.0,
            ..r.clone()
        })
        .collect();
    rows.extend(train);
    published::fill(&mut rows, "P1", "Table 11");
    let teacher = |label: &str, name: &str, split: &str| {
        GroupBy::new(label, Pick::new().student("-").teacher(name).split(split))
    };
    let layout = prompts(
        "Teachers reason better step by step",
        vec![
            teacher("70 train", "llama-pocket-70", "(train)"),
            teacher("70 test", "llama-pocket-70", ""),
            teacher("gpt train", "gpt-pocket", "(train)"),
            teacher("gpt test", "gpt-pocket", ""),
        ],
    );
    let bars = Bars::from_rows(&rows, &layout).unwrap();
    assert_eq!(bars.panels[0].groups[2].bars[1].unwrap().published, Some(75.4));
    assert_eq!(bars.panels[0].groups[3].bars[1].unwrap().published, Some(74.6));
    drawn(&bars, "p1_table11");

    let mut rows = Vec::new();
    for (task, student, method) in Benchmark::ALL
        .into_iter()
        .flat_map(|t| ["llama-pocket-7", "llama-pocket-13"].map(|s| (t, s)))
        .flat_map(|(t, s)| ["baseline", "baseline_cot"].map(|m| (t, s, m)))
    {
        rows.push(Row {
            student: student.into(),
            method: method.into(),
            ..sample::row(task.name(), 30.0 + student.len() as f64, 4.0)
        });
    }
    published::fill(&mut rows, "P1", "Table 3");
    let student = |label: &str, name: &str| GroupBy::new(label, Pick::new().student(name));
    let layout = prompts(
        "Untuned students gain little from step-by-step prompts",
        vec![student("llama-7", "llama-pocket-7"), student("llama-13", "llama-pocket-13")],
    );
    drawn(&Bars::from_rows(&rows, &layout).unwrap(), "p1_table03");
}

#[test]
fn two_rows_for_a_bar_are_refused_and_none_is_a_gap() {
    let mut rows = sample::figure02();
    let copy = rows.iter().find(|r| r.demonstrations == "truthful").unwrap().clone();
    // The same student trained on another task does not compete for the bar.
    rows.push(Row { train_task: "elsewhere".into(), ..copy.clone() });
    let bars = Bars::from_rows(&rows, &figure02()).unwrap();
    assert_eq!(bars.panels[0].groups[0].teacher, None);
    rows.push(copy);
    assert!(Bars::from_rows(&rows, &figure02()).is_err());
    let empty = Bars::from_rows(&[], &figure02()).unwrap();
    assert!(svg(&empty).unwrap().0.contains("OBQA"));
}
