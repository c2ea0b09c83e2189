//! The rules of one question task of the pocket world.
//!
//! All four tasks have one shape: an entity belongs to a class (hop 1), and in a
//! given situation each class has an outcome (hop 2). Neither hop alone tells
//! the answer: every outcome of a situation is reached by equally many classes,
//! and no outcome text occurs in two situations.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::question::Benchmark;

/// An entity and the class it truly belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    pub name: String,
    /// Index into [`Knowledge::classes`].
    pub class: usize,
}

/// A situation, its answer set and the outcome of every class in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The words that name the situation, as in "in a pond".
    pub cue: String,
    /// Question texts with `{entity}` and perhaps `{name}` to fill in; the last
    /// sentence is the question itself.
    pub stems: Vec<String>,
    /// The answer set.
    pub outcomes: Vec<String>,
    /// By class: index into `outcomes`.
    pub outcome_of: Vec<usize>,
}

/// All rules of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knowledge {
    pub task: Benchmark,
    pub classes: Vec<String>,
    pub entities: Vec<Entity>,
    pub situations: Vec<Situation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    class: Vec<RawClass>,
    situation: Vec<RawSituation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClass {
    name: String,
    entities: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSituation {
    cue: String,
    stems: Vec<String>,
    /// Each row: the option text, then the classes that reach it.
    outcomes: Vec<Vec<String>>,
}

const SOURCES: [(Benchmark, &str, &str); 4] = [
    (Benchmark::Obqa, "obqa.toml", include_str!("../../data/pocket/world/obqa.toml")),
    (Benchmark::Csqa, "csqa.toml", include_str!("../../data/pocket/world/csqa.toml")),
    (Benchmark::Piqa, "piqa.toml", include_str!("../../data/pocket/world/piqa.toml")),
    (Benchmark::Siqa, "siqa.toml", include_str!("../../data/pocket/world/siqa.toml")),
];

/// The rules of all four tasks, in the order of [`Benchmark::QA`].
pub fn load() -> anyhow::Result<Vec<Knowledge>> {
    let mut all = Vec::with_capacity(SOURCES.len());
    let mut owner: HashMap<String, &str> = HashMap::new();
    for (task, file, text) in SOURCES {
        let knowledge = parse(task, text).with_context(|| file.to_string())?;
        for entity in &knowledge.entities {
            // An entity of two tasks would carry two classes under one name.
            if let Some(other) = owner.insert(entity.name.clone(), file) {
                bail!("{file}: class.entities: {:?} is also in {other}", entity.name);
            }
        }
        all.push(knowledge);
    }
    Ok(all)
}

fn parse(task: Benchmark, text: &str) -> anyhow::Result<Knowledge> {
    let raw: RawTask = toml::from_str(text)?;
    let size = task.options().context("the word problems have no knowledge file")?;
    ensure!(
        !raw.class.is_empty() && raw.class.len().is_multiple_of(size),
        "class: {} classes cannot share {size} outcomes equally",
        raw.class.len()
    );
    let mut entities = Vec::new();
    let mut classes = Vec::new();
    for (class, RawClass { name, entities: members }) in raw.class.into_iter().enumerate() {
        ensure!(!classes.contains(&name), "class.name: {name:?} occurs twice");
        ensure!(!members.is_empty(), "class.entities: {name:?} has none");
        for member in members {
            ensure!(!member.trim().is_empty(), "class.entities: {name:?} has an empty name");
            entities.push(Entity { name: member, class });
        }
        classes.push(name);
    }
    let mut texts = HashSet::new();
    let mut situations: Vec<Situation> = Vec::new();
    for raw in raw.situation {
        let cue = raw.cue.clone();
        ensure!(situations.iter().all(|s| s.cue != cue), "situation.cue: {cue:?} occurs twice");
        let situation =
            parse_situation(raw, &classes, size).with_context(|| format!("situation {cue:?}"))?;
        for outcome in &situation.outcomes {
            // A shared text would let an entity's answers in one situation leak
            // into another without any reasoning.
            ensure!(
                texts.insert(outcome.clone()),
                "situation {cue:?}: outcomes: {outcome:?} occurs twice in the task"
            );
        }
        situations.push(situation);
    }
    ensure!(!situations.is_empty(), "situation: there is none");
    Ok(Knowledge { task, classes, entities, situations })
}

fn parse_situation(
    raw: RawSituation,
    classes: &[String],
    size: usize,
) -> anyhow::Result<Situation> {
    ensure!(!raw.cue.is_empty(), "cue: is empty");
    ensure!(!raw.stems.is_empty(), "stems: there is none");
    for stem in &raw.stems {
        ensure!(stem.contains("{entity}"), "stems: {stem:?} lacks {{entity}}");
        ensure!(stem.contains(&raw.cue), "stems: {stem:?} lacks the cue");
        ensure!(
            stem.ends_with('?') && stem.contains(". "),
            "stems: {stem:?} must tell something and then ask"
        );
    }
    ensure!(
        raw.outcomes.len() == size,
        "outcomes: {} rows where the task has {size} options",
        raw.outcomes.len()
    );
    let mut outcome_of = vec![None; classes.len()];
    let mut outcomes = Vec::with_capacity(size);
    for (index, row) in raw.outcomes.into_iter().enumerate() {
        let mut row = row.into_iter();
        let text = row.next().context("outcomes: an empty row")?;
        ensure!(!text.is_empty() && !text.contains('.'), "outcomes: bad text {text:?}");
        let mut reached = 0;
        for class in row {
            let slot = classes
                .iter()
                .position(|c| *c == class)
                .with_context(|| format!("outcomes: {text:?} names the unknown class {class:?}"))?;
            ensure!(
                outcome_of[slot].replace(index).is_none(),
                "outcomes: class {class:?} has two outcomes"
            );
            reached += 1;
        }
        ensure!(
            reached == classes.len() / size,
            "outcomes: {text:?} is reached by {reached} classes, not {}",
            classes.len() / size
        );
        outcomes.push(text);
    }
    // Equal shares of all classes and no class twice: every slot is filled.
    let outcome_of = outcome_of
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .context("outcomes: a class has no outcome")?;
    Ok(Situation { cue: raw.cue, stems: raw.stems, outcomes, outcome_of })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_rules_are_valid() {
        let all = load().unwrap();
        for (knowledge, task) in all.iter().zip(Benchmark::QA) {
            assert_eq!(knowledge.task, task);
            assert!(knowledge.entities.len() >= 120);
            assert_eq!(knowledge.situations.len(), 14);
        }
    }

    #[test]
    fn errors_name_the_key() {
        let text = r#"
            class = [
                { name = "soft", entities = ["bun"] },
                { name = "hard", entities = ["slab"] },
            ]
            [[situation]]
            cue = "to cut"
            stems = ["{name} wants to cut the {entity}. What is the way?"]
            outcomes = [["use a saw", "soft", "hard"], ["use a knife"]]
        "#;
        let error = format!("{:#}", parse(Benchmark::Piqa, text).unwrap_err());
        assert!(error.contains("situation \"to cut\"") && error.contains("outcomes"), "{error}");
    }

    #[test]
    fn no_two_classes_always_share_their_outcome() {
        for knowledge in load().unwrap() {
            for a in 0..knowledge.classes.len() {
                for b in 0..a {
                    let same = |s: &&Situation| s.outcome_of[a] == s.outcome_of[b];
                    let shared = knowledge.situations.iter().filter(same).count();
                    assert!(shared * 2 < knowledge.situations.len(), "{}", knowledge.task);
                }
            }
        }
    }
}
