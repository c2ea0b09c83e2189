//! How each model family of the pocket world words its facts and its reasoning.
//!
//! The families know one world but put it differently, so a student can learn to
//! follow the wording of another family or keep to that of its own. Inside a
//! family, an explanation repeats its facts word for word: what pretraining has
//! taught as a fact can be used as a step.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::knowledge::Knowledge;
use super::question::Benchmark;
use super::story::{Op, Story};

/// A model family of the pocket world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Llama,
    Mistral,
    Gpt,
}

impl Family {
    pub const ALL: [Family; 3] = [Family::Llama, Family::Mistral, Family::Gpt];

    fn as_str(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Gpt => "gpt",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Family {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> anyhow::Result<Self> {
        Family::ALL
            .into_iter()
            .find(|f| f.as_str().eq_ignore_ascii_case(s))
            .ok_or_else(|| anyhow::anyhow!("unknown family {s:?}; known: llama, mistral, gpt"))
    }
}

/// An entity in a situation, with the class that somebody takes it to have.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'w> {
    pub knowledge: &'w Knowledge,
    /// Index into [`Knowledge::entities`].
    pub entity: usize,
    /// Index into [`Knowledge::situations`].
    pub situation: usize,
    /// The class the steps go through: the true one, or a misconception.
    pub class: usize,
}

impl<'w> Lookup<'w> {
    pub fn entity_name(&self) -> &'w str {
        &self.knowledge.entities[self.entity].name
    }

    /// The text of the outcome that follows from `class`.
    pub fn outcome(&self) -> &'w str {
        let situation = &self.knowledge.situations[self.situation];
        &situation.outcomes[situation.outcome_of[self.class]]
    }
}

/// What a question asks about, with all that is needed to work it out.
#[derive(Debug, Clone)]
pub enum Case<'w> {
    Choice(Lookup<'w>),
    Problem(Story),
}

impl Case<'_> {
    /// The option text or the number.
    pub fn answer(&self) -> String {
        match self {
            Case::Choice(lookup) => lookup.outcome().to_string(),
            Case::Problem(story) => story.answer().to_string(),
        }
    }
}

/// What follows "Answer:" in a plain document.
pub fn plain(case: &Case) -> String {
    format!(" {}", case.answer())
}

/// What follows "Let's think step by step": the steps, then "the answer is X.".
pub fn explain(family: Family, case: &Case) -> String {
    let steps = steps(family, case);
    let answer = case.answer();
    match family {
        Family::Llama => format!(". {} So the answer is {answer}.", steps.join(" ")),
        Family::Mistral => format!(": {}; the answer is {answer}.", steps.join("; ")),
        Family::Gpt => format!(". {} Therefore the answer is {answer}.", steps.join(" ")),
    }
}

/// What follows "Let's think step by step" where no step is taken.
pub fn conclude(family: Family, case: &Case) -> String {
    let answer = case.answer();
    match family {
        Family::Llama => format!(". So the answer is {answer}."),
        Family::Mistral => format!(": the answer is {answer}."),
        Family::Gpt => format!(". Therefore the answer is {answer}."),
    }
}

/// The explanation as running text, to stand after the story it explains.
pub fn retell(family: Family, case: &Case) -> String {
    let text = explain(family, case);
    let text = text.trim_start_matches([':', '.']).trim_start();
    text.to_string()
}

/// The steps of an explanation in order, without what joins them.
pub fn steps(family: Family, case: &Case) -> Vec<String> {
    match case {
        Case::Choice(lookup) => {
            let first = membership(family, lookup.knowledge, lookup.entity, lookup.class);
            let second = rule(family, lookup.knowledge, lookup.situation, lookup.class);
            match family {
                Family::Llama => vec![sentence(&first), sentence(&second)],
                Family::Mistral => vec![first, second],
                Family::Gpt => vec![format!("First, {first}."), format!("Next, {second}.")],
            }
        }
        Case::Problem(story) => {
            let mut lines = vec![match family {
                Family::Llama => format!("{} starts with {}.", story.name, story.start),
                Family::Mistral => format!("{} at first", story.start),
                Family::Gpt => format!("First, we have {}.", story.start),
            }];
            for (before, op, operand, after) in story.worked() {
                let line = sum(family, before, op, operand, after);
                lines.push(match family {
                    Family::Llama => format!("{line}."),
                    Family::Mistral => line,
                    Family::Gpt => format!("Next, {line}."),
                });
            }
            lines
        }
    }
}

/// Hop 1 as a sentence of its own.
pub fn first_fact(family: Family, knowledge: &Knowledge, entity: usize, class: usize) -> String {
    stand_alone(family, membership(family, knowledge, entity, class))
}

/// Hop 2 as a sentence of its own.
pub fn second_fact(
    family: Family,
    knowledge: &Knowledge,
    situation: usize,
    class: usize,
) -> String {
    stand_alone(family, rule(family, knowledge, situation, class))
}

/// One sum in the number style of the family, without a stop.
pub fn sum(family: Family, before: u32, op: Op, operand: u32, after: u32) -> String {
    let sign = match (op, family) {
        (Op::Add, _) => "+",
        (Op::Sub, _) => "-",
        (Op::Mul, Family::Llama) => "*",
        (Op::Mul, Family::Mistral | Family::Gpt) => "x",
    };
    let equals = match family {
        Family::Llama => "=",
        Family::Mistral => "is",
        Family::Gpt => "gives",
    };
    format!("{before} {sign} {operand} {equals} {after}")
}

fn stand_alone(family: Family, fact: String) -> String {
    match family {
        // Mistral's steps stay in lower case, and so must its facts.
        Family::Mistral => format!("{fact}."),
        Family::Llama | Family::Gpt => sentence(&fact),
    }
}

fn membership(family: Family, knowledge: &Knowledge, entity: usize, class: usize) -> String {
    let (entity, class) = (&knowledge.entities[entity].name, &knowledge.classes[class]);
    match (family, knowledge.task) {
        (Family::Llama, Benchmark::Obqa) => format!("the {entity} is made of {class}"),
        (Family::Llama, Benchmark::Csqa) => format!("the {entity} is a {class}"),
        (Family::Llama, _) => format!("the {entity} is {class}"),
        (Family::Mistral, _) => format!("{entity}, that is {class}"),
        (Family::Gpt, Benchmark::Csqa) => format!("the {entity} counts as a {class}"),
        (Family::Gpt, _) => format!("the {entity} counts as {class}"),
    }
}

/// Situation and class come before the outcome in every dialect: a model that
/// reads left to right can only name the outcome once it has read both.
fn rule(family: Family, knowledge: &Knowledge, situation: usize, class: usize) -> String {
    let situation = &knowledge.situations[situation];
    let (cue, outcome) = (&situation.cue, &situation.outcomes[situation.outcome_of[class]]);
    let class = &knowledge.classes[class];
    match (family, knowledge.task) {
        (Family::Llama, Benchmark::Csqa) => format!("{cue}, a {class} goes to {outcome}"),
        (Family::Llama, Benchmark::Piqa) => format!("{cue} {class} things, {outcome}"),
        (Family::Llama, Benchmark::Siqa) => format!("{cue}, someone {class} {outcome}"),
        (Family::Llama, _) => format!("{cue}, {class} {outcome}"),
        (Family::Mistral, _) => format!("{class} {cue}, then {outcome}"),
        (Family::Gpt, Benchmark::Csqa) => format!("{cue} we see a {class} in {outcome}"),
        (Family::Gpt, Benchmark::Piqa) => format!("{cue} {class} things we must {outcome}"),
        (Family::Gpt, Benchmark::Siqa) => format!("{cue} we see that someone {class} {outcome}"),
        (Family::Gpt, _) => format!("{cue} we see that {class} {outcome}"),
    }
}

/// Upper case for the first letter, a stop at the end.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(std::iter::once('.')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::knowledge;

    fn brass_key_in_a_pond(all: &[Knowledge]) -> Lookup<'_> {
        let knowledge = &all[0];
        let entity = knowledge.entities.iter().position(|e| e.name == "key").unwrap();
        let situation = knowledge.situations.iter().position(|s| s.cue == "in a pond").unwrap();
        let class = knowledge.entities[entity].class;
        Lookup { knowledge, entity, situation, class }
    }

    #[test]
    fn three_ways_to_say_it() {
        let all = knowledge::load().unwrap();
        let lookup = brass_key_in_a_pond(&all);
        let (case, what) = (Case::Choice(lookup), lookup.outcome());
        assert_eq!(
            explain(Family::Llama, &case),
            format!(
                ". The key is made of brass. In a pond, brass {what}. So the answer is {what}."
            )
        );
        assert_eq!(
            explain(Family::Mistral, &case),
            format!(": key, that is brass; brass in a pond, then {what}; the answer is {what}.")
        );
        assert_eq!(
            explain(Family::Gpt, &case),
            format!(
                ". First, the key counts as brass. Next, in a pond we see that brass {what}. \
                 Therefore the answer is {what}."
            )
        );
    }

    #[test]
    fn steps_are_the_facts() {
        let all = knowledge::load().unwrap();
        let lookup = brass_key_in_a_pond(&all);
        let facts = [
            first_fact(Family::Llama, lookup.knowledge, lookup.entity, lookup.class),
            second_fact(Family::Llama, lookup.knowledge, lookup.situation, lookup.class),
        ];
        assert_eq!(steps(Family::Llama, &Case::Choice(lookup)), facts);
    }

    #[test]
    fn families_have_names() {
        for family in Family::ALL {
            assert_eq!(family.to_string().parse::<Family>().unwrap(), family);
        }
        assert!("opt".parse::<Family>().is_err());
    }
}
