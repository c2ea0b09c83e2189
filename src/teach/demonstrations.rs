//! P1's demonstration sets, made of a teacher's annotations.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::annotate::Annotation;
use crate::task::{Cue, Question, prompt};

/// Which annotations a student is tuned on (P1 Table 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DemonstrationSet {
    /// Answers to the plain prompt, right and wrong.
    Demonstrations,
    /// Answers to the plain prompt that are right.
    Truthful,
    /// Answers to the CoT prompt, right and wrong.
    CotDemonstrations,
    /// Answers to the CoT prompt that are right.
    DeliveringCot,
    /// Answers to the CoT prompt that are wrong: the complement.
    MisleadingCot,
    /// P2's phase 1: answers to both prompts, each behind its own, right and
    /// wrong. Its DPO needs a student that still answers the plain prompt
    /// plainly, which a student tuned on CoT alone no longer does.
    Both,
}

impl DemonstrationSet {
    /// The four that P1 Figure 2 compares, in its order.
    pub const FIGURE_2: [DemonstrationSet; 4] = [
        DemonstrationSet::Demonstrations,
        DemonstrationSet::Truthful,
        DemonstrationSet::CotDemonstrations,
        DemonstrationSet::DeliveringCot,
    ];

    pub fn name(self) -> &'static str {
        match self {
            DemonstrationSet::Demonstrations => "demonstrations",
            DemonstrationSet::Truthful => "truthful",
            DemonstrationSet::CotDemonstrations => "cot_demonstrations",
            DemonstrationSet::DeliveringCot => "delivering_cot",
            DemonstrationSet::MisleadingCot => "misleading_cot",
            DemonstrationSet::Both => "both",
        }
    }

    /// The cues whose annotations the set is drawn from.
    pub fn cues(self) -> &'static [Cue] {
        match self {
            DemonstrationSet::Demonstrations | DemonstrationSet::Truthful => &[Cue::Plain],
            DemonstrationSet::Both => &[Cue::Plain, Cue::Cot],
            _ => &[Cue::Cot],
        }
    }

    fn keeps(self, correct: bool) -> bool {
        match self {
            DemonstrationSet::Truthful | DemonstrationSet::DeliveringCot => correct,
            DemonstrationSet::MisleadingCot => !correct,
            _ => true,
        }
    }
}

impl fmt::Display for DemonstrationSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DemonstrationSet {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> Result<Self> {
        use DemonstrationSet::*;
        [Demonstrations, Truthful, CotDemonstrations, DeliveringCot, MisleadingCot, Both]
            .into_iter()
            .find(|d| d.name() == s)
            .with_context(|| {
                format!(
                    "unknown demonstration set {s:?}; known: demonstrations, truthful, \
                     cot_demonstrations, delivering_cot, misleading_cot, both"
                )
            })
    }
}

/// One record in the form of P1 Table 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    pub id: String,
    /// The line that says what to choose from.
    pub instruction: String,
    /// Question and choices, without the cue.
    pub input: String,
    /// From `Answer:` on: the teacher's text with the cue it answered to.
    pub output: String,
    pub correct: bool,
}

impl Demonstration {
    /// Where the student's own words begin. A record of P1 is prompted plainly
    /// up to `Answer:`, so that after tuning the plain prompt elicits what the
    /// teacher did, steps included; in [`DemonstrationSet::Both`] a CoT record
    /// is prompted with its suffix.
    pub fn split(&self, set: DemonstrationSet) -> Result<(String, String)> {
        let cot = prompt::cue(Cue::Cot);
        let head = match set {
            DemonstrationSet::Both if self.output.starts_with(cot) => cot,
            _ => prompt::cue(Cue::Plain),
        };
        let Some(rest) = self.output.strip_prefix(head) else {
            bail!("demonstration {}: its output does not begin with {head:?}", self.id);
        };
        Ok((format!("{}\n{}\n{head}", self.instruction, self.input), rest.to_string()))
    }
}

/// The records of a set, in the order of the annotations. An annotation without
/// a readable answer is wrong, so only the unfiltered sets keep it; one that was
/// cut at the length limit teaches no end and is left out of every set.
pub fn demonstrations(
    set: DemonstrationSet,
    questions: &[Question],
    annotations: &[Annotation],
) -> Result<Vec<Demonstration>> {
    let by_id: std::collections::HashMap<&str, &Question> =
        questions.iter().map(|q| (q.id.as_str(), q)).collect();
    annotations
        .iter()
        .filter(|a| set.cues().contains(&a.cue) && set.keeps(a.correct) && a.finished)
        .map(|a| {
            let q = by_id
                .get(a.id.as_str())
                .with_context(|| format!("annotation {}: no such question", a.id))?;
            Ok(Demonstration {
                id: a.id.clone(),
                instruction: prompt::instruction(q),
                input: prompt::input(q),
                output: format!("{}{}", prompt::cue(a.cue), a.output),
                correct: a.correct,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Answer, Benchmark, Gold};

    fn question() -> Question {
        Question {
            id: "q".into(),
            benchmark: Benchmark::Piqa,
            stem: "Tom has to cut the log. What is the way?".into(),
            options: vec!["use a saw".into(), "use a knife".into()],
            gold: Gold::Choice(0),
        }
    }

    fn annotation(cue: Cue, output: &str, correct: bool) -> Annotation {
        Annotation {
            id: "q".into(),
            cue,
            prompt: prompt::render(&question(), cue),
            output: output.into(),
            answer: Some(Answer::Choice(usize::from(!correct))),
            correct,
            tokens: 3,
            finished: true,
            seed: 1,
            sample: 0,
            model: "m".into(),
        }
    }

    #[test]
    fn the_sets_of_table_5() {
        let all = [
            annotation(Cue::Plain, " use a saw", true),
            annotation(Cue::Plain, " use a knife", false),
            annotation(Cue::Cot, ". The log is hard. So the answer is use a saw.", true),
            annotation(Cue::Cot, ". The log is soft. So the answer is use a knife.", false),
        ];
        let size = |set| demonstrations(set, &[question()], &all).unwrap().len();
        assert_eq!(DemonstrationSet::FIGURE_2.map(size), [2, 1, 2, 1]);
        assert_eq!(size(DemonstrationSet::MisleadingCot), 1);
        assert_eq!(size(DemonstrationSet::Both), 4);
    }

    #[test]
    fn the_record_of_table_2() {
        let a = annotation(Cue::Cot, ". The log is hard. So the answer is use a saw.", true);
        let d = &demonstrations(DemonstrationSet::DeliveringCot, &[question()], &[a]).unwrap()[0];
        assert_eq!(d.instruction, "Choose the answer to the question only from options A, B.");
        assert_eq!(
            d.input,
            "Question: Tom has to cut the log. What is the way?\nChoices:\nA) use a saw\nB) use a knife"
        );
        let cot = "Answer: Let's think step by step. The log is hard. So the answer is use a saw.";
        assert_eq!(d.output, cot);
        let (prompt, answer) = d.split(DemonstrationSet::DeliveringCot).unwrap();
        assert!(prompt.ends_with("\nAnswer:") && answer.starts_with(" Let's think"));
        let (prompt, answer) = d.split(DemonstrationSet::Both).unwrap();
        assert!(prompt.ends_with("step by step") && answer.starts_with(". The log"));
    }
}
