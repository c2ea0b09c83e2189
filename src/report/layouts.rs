//! How each table and figure looks.

use super::figure::{GroupBy, Layout, Pick, SeriesBy, Style};
use super::table::{Heading, Key, Pivot};
use crate::study::{Artifact, Member, Plan, Row};

/// A model's name without what all pocket models share: `llama-7`, `gpt`.
fn short(name: &str) -> String {
    name.replace("-pocket", "")
}

/// Its size or family alone, for the foot of a bar: `70`, `gpt`, `mixtral`.
fn tiny(name: &str) -> String {
    match short(name).rsplit_once('-') {
        Some(("llama", size)) => size.to_string(),
        Some((family, _)) => family.to_string(),
        None => short(name),
    }
}

/// The page of a table.
pub fn heading(artifact: Artifact, plan: &Plan, rows: &[Row]) -> Heading {
    let (paper, item) = artifact.item();
    let has_published = rows.iter().any(|r| r.published.is_some());
    let mut notes = vec![
        format!(
            "Made by `cotalign reproduce --scale {} --seeds {} --only {artifact}`.",
            plan.scale,
            plan.seeds.len()
        ),
        format!(
            "{} test questions a task, {} seeds; each seed samples the teachers' answers, draws the \
             adapters, orders the training and samples the students' answers anew.",
            plan.test_questions,
            plan.seeds.len()
        ),
        "Accuracies in percent, ± half of the 95 % interval over questions and seeds. Answers without \
         a readable choice count as wrong; their share is in the rows `no_answer`."
            .to_string(),
    ];
    if has_published {
        notes.push(
            match plan.scale.as_str() {
                "paper" => "Published values are the papers' own, of the same models.",
                "laptop" => {
                    "Published values belong to the papers' models, which are larger and of other \
                     families: compare directions, not levels."
                }
                _ => {
                    "Published values belong to the papers' models, which are thousands of times \
                     larger and answer other questions: compare directions, not levels."
                }
            }
            .to_string(),
        );
    }
    let members = plan.teachers.iter().chain(&plan.students);
    if let Some(m) = members.map(|m| &m.model).find(|m| !m.compute.is_cpu()) {
        notes.push(format!("Models that are loaded here compute as {}.", m.compute.name()));
    }
    let (title, caption, keys): (_, _, &[Key]) = match artifact {
        Artifact::P1_Table11 => (
            "teachers",
            "Accuracy of the teachers on the questions they annotate (train) and on the test split, \
             with the plain and the step-by-step prompt.",
            &[Key::Teacher, Key::Method, Key::Metric],
        ),
        Artifact::P1_Table03 => (
            "untuned students",
            "Accuracy of the students before any tuning. `lm_accuracy` takes the option with the \
             highest log-probability instead of reading generated text.",
            &[Key::Student, Key::Method, Key::Metric],
        ),
        Artifact::P1_Figure02 => (
            "students by demonstration set",
            "Accuracy on the task tuned on, answering the plain prompt.",
            &[Key::Student, Key::Teacher, Key::Method, Key::Demonstrations, Key::Metric],
        ),
        Artifact::P2_Figure02 => (
            "self-refinement, in-family",
            "Accuracy on the task tuned on, answering the step-by-step prompt: after instruction \
             tuning, and after DPO on the student's own answers.",
            &[Key::Student, Key::Teacher, Key::Method, Key::Metric],
        ),
        Artifact::P2_Figure03 => (
            "self-refinement, in-family and out-family",
            "Accuracy on the task tuned on, answering the step-by-step prompt, for every student and \
             teacher.",
            &[Key::Student, Key::Teacher, Key::Method, Key::Metric],
        ),
    };
    Heading {
        title: format!("{paper} {item}: {title}"),
        caption: caption.into(),
        notes,
        pivot: Pivot::new(keys, &[Key::EvalTask]),
    }
}

/// The figure of an artifact.
pub fn layout(artifact: Artifact, plan: &Plan, _rows: &[Row]) -> Layout {
    let tasks = plan.tasks.clone();
    let prompts = || {
        vec![
            SeriesBy::new("Plain prompt", Style::PLAIN_PROMPT, Pick::new().method("baseline")),
            SeriesBy::new(
                "Step-by-step prompt",
                Style::COT_PROMPT,
                Pick::new().method("baseline_cot"),
            ),
        ]
    };
    match artifact {
        Artifact::P1_Table11 => Layout {
            title: "Teachers answer better step by step".into(),
            subtitle: "P1, Table 11: accuracy of the teachers".into(),
            teacher: String::new(),
            tasks,
            groups: plan
                .teachers
                .iter()
                .flat_map(|t| {
                    let name = &t.model.name;
                    [("train", "(train)"), ("test", "(test)")].map(|(label, split)| {
                        let pick = Pick::new().student("-").teacher(name).split(split);
                        GroupBy::new(&format!("{}\n{label}", tiny(name)), pick)
                    })
                })
                .collect(),
            series: prompts(),
        },
        Artifact::P1_Table03 => Layout {
            title: "Untuned students gain nothing from being asked for steps".into(),
            subtitle: "P1, Table 3: accuracy of the students before tuning".into(),
            teacher: String::new(),
            tasks,
            groups: plan
                .students
                .iter()
                .map(|s| GroupBy::new(&short(&s.model.name), Pick::new().student(&s.model.name)))
                .collect(),
            series: prompts(),
        },
        Artifact::P1_Figure02 => {
            let set = |name: &str, style, set: &str| {
                SeriesBy::new(name, style, Pick::new().demonstrations(set))
            };
            Layout {
                title: "What students learn from four sets of demonstrations".into(),
                subtitle: "P1, Figure 2: accuracy on the task tuned on, student ← teacher".into(),
                teacher: "teacher (step-by-step prompt)".into(),
                tasks,
                groups: pairs(plan, |s, t| s.figure_2 && t.figure_2, " ← "),
                series: vec![
                    set("Demonstrations", Style::DEMONSTRATIONS, "demonstrations"),
                    set("Truthful", Style::TRUTHFUL, "truthful"),
                    set("CoT-Demonstrations", Style::COT_DEMONSTRATIONS, "cot_demonstrations"),
                    set("Delivering-CoT", Style::DELIVERING_COT, "delivering_cot"),
                ],
            }
        }
        Artifact::P2_Figure02 => phases(
            plan,
            "Instruction tuning, then self-refinement: in-family teachers",
            "P2, Figure 2: accuracy on the task tuned on, student ← teacher",
            pairs(plan, |s, t| s.family == t.family, "\n← "),
        ),
        Artifact::P2_Figure03 => phases(
            plan,
            "Instruction tuning, then self-refinement: every teacher",
            "P2, Figure 3: accuracy on the task tuned on, student ← teacher",
            pairs(plan, |_, _| true, "\n← "),
        ),
    }
}

fn pairs(plan: &Plan, keep: impl Fn(&Member, &Member) -> bool, between: &str) -> Vec<GroupBy> {
    let mut groups = Vec::new();
    for s in &plan.students {
        for t in plan.teachers.iter().filter(|t| keep(s, t)) {
            let (student, teacher) = (&s.model.name, &t.model.name);
            let (from, to) = (short_teacher(teacher), tiny_student(student));
            let pick = Pick::new().student(student).teacher(teacher);
            groups.push(
                GroupBy::new(&format!("{to}{between}{from}"), pick)
                    .untuned(Pick::new().student(student).method("baseline"))
                    .teacher(
                        &from,
                        Pick::new().student("-").teacher(teacher).method("baseline_cot"),
                    ),
            );
        }
    }
    groups
}

fn short_teacher(name: &str) -> String {
    match tiny(name).as_str() {
        "mixtral" => "mix".into(),
        other => other.into(),
    }
}

fn tiny_student(name: &str) -> String {
    match tiny(name).as_str() {
        "mistral" => "mis".into(),
        other => other.into(),
    }
}

fn phases(plan: &Plan, title: &str, subtitle: &str, groups: Vec<GroupBy>) -> Layout {
    Layout {
        title: title.into(),
        subtitle: subtitle.into(),
        teacher: "teacher (step-by-step prompt)".into(),
        tasks: plan.tasks.clone(),
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
