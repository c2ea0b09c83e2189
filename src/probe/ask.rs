//! The two ways P1 (§3.3) and P2 describe of asking what a model knows.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::model::ops::Continuation;
use crate::model::{Cache, Tokenizer, Transformer};
use crate::task::{Cue, Gold, Question, READER, prompt, reader};
use crate::teach::Annotation;

/// The score of one model on one set of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub n: u64,
    pub correct: u64,
    /// Those of them whose answer is stated, not guessed from what the output names; see
    /// [`reader`]. 0 in files that are older than this count.
    #[serde(default)]
    pub correct_strict: u64,
    /// Outputs the reader found no answer in; they are not correct either, but
    /// they are a different failure.
    pub no_answer: u64,
    /// Outputs cut at the length limit.
    pub truncated: u64,
    /// Version of the answer reader, 0 where none is used.
    pub reader: u32,
}

/// Multiple-choice probing: generate, read the answer, match it with the target. The
/// annotations are the questions' answers, in their order; of several samples all count.
pub fn by_generation(questions: &[Question], annotations: &[Annotation]) -> Probe {
    let samples = annotations.len() / questions.len().max(1);
    let asked = || questions.iter().flat_map(|q| std::iter::repeat_n(q, samples));
    debug_assert!(asked().map(|q| &q.id).eq(annotations.iter().map(|a| &a.id)));
    let stated = |(q, a): &(&Question, &Annotation)| {
        reader::read_strict(q, &a.output).is_some_and(|answer| reader::is_correct(q, &answer))
    };
    let count = |f: fn(&Annotation) -> bool| annotations.iter().filter(|a| f(a)).count() as u64;
    Probe {
        n: annotations.len() as u64,
        correct: count(|a| a.correct),
        correct_strict: asked().zip(annotations).filter(stated).count() as u64,
        no_answer: count(|a| a.answer.is_none()),
        truncated: count(|a| !a.finished),
        reader: READER,
    }
}

/// Language-model probing: the option with the highest log-probability after the
/// prompt, as lm-evaluation-harness scores `multiple_choice` tasks. One line a
/// question is returned beside the score.
pub fn by_language_model(
    model: &Transformer,
    tokenizer: &Tokenizer,
    questions: &[Question],
    cue: Cue,
    done: &mut dyn FnMut(),
) -> Result<(Probe, Vec<OptionScores>)> {
    let mut lines = Vec::new();
    for q in questions {
        ensure!(!q.options.is_empty(), "question {}: word problems have no options to score", q.id);
        let log_probs = score_options(model, tokenizer, q, cue)?;
        let choice = (0..log_probs.len())
            .max_by(|a, b| log_probs[*a].total_cmp(&log_probs[*b]).then(b.cmp(a)))
            .expect("options were checked");
        let correct = q.gold == Gold::Choice(choice);
        lines.push(OptionScores { id: q.id.clone(), log_probs, choice, correct });
        done();
    }
    let correct = lines.iter().filter(|l| l.correct).count() as u64;
    let n = lines.len() as u64;
    let probe =
        Probe { n, correct, correct_strict: correct, no_answer: 0, truncated: 0, reader: 0 };
    Ok((probe, lines))
}

/// One question of [`by_language_model`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptionScores {
    pub id: String,
    /// Sum of token log-probabilities of `" " + option`, in nats.
    pub log_probs: Vec<f64>,
    /// Index of the highest; the first on a tie.
    pub choice: usize,
    pub correct: bool,
}

/// `log p(" " + option | prompt)` of each option. The prompt is run once and
/// its cache copied for each option.
pub fn score_options(
    model: &Transformer,
    tokenizer: &Tokenizer,
    question: &Question,
    cue: Cue,
) -> Result<Vec<f64>> {
    let context = tokenizer.prompt(&prompt::render(question, cue))?;
    let options = question
        .options
        .iter()
        .map(|o| tokenizer.encode(&format!(" {}", o.trim())))
        .collect::<Result<Vec<_>>>()?;
    let n = options.len();
    let longest = options.iter().map(Vec::len).max().unwrap_or(0);
    let mut cache = Cache::new(model, n + 1, context.len() + longest)?;
    let row = Continuation { start: 0, len: context.len(), slot: n };
    let states = model.step(&context, &[row], &mut cache)?;
    let last = states.narrow(0, context.len() - 1, 1)?.contiguous()?;
    let first: Vec<f32> = {
        // One row of logits serves the first token of every option.
        let rows = Tensor::cat(&vec![&last; n], 0)?;
        let labels: Vec<u32> = options.iter().map(|o| o[0]).collect();
        model.log_probs(&rows, &labels)?.to_vec1()?
    };
    let mut sums: Vec<f64> = first.into_iter().map(f64::from).collect();
    let (mut tokens, mut rows, mut labels, mut owner) = (vec![], vec![], vec![], vec![]);
    for (slot, o) in options.iter().enumerate().filter(|(_, o)| o.len() > 1) {
        cache.copy(n, slot)?;
        rows.push(Continuation { start: tokens.len(), len: o.len() - 1, slot });
        tokens.extend_from_slice(&o[..o.len() - 1]);
        labels.extend_from_slice(&o[1..]);
        owner.extend(std::iter::repeat_n(slot, o.len() - 1));
    }
    if !rows.is_empty() {
        let states = model.step(&tokens, &rows, &mut cache)?;
        let rest: Vec<f32> = model.log_probs(&states, &labels)?.to_vec1()?;
        for (slot, lp) in owner.into_iter().zip(rest) {
            sums[slot] += lp as f64;
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Benchmark;

    #[test]
    fn stated_answers_are_counted_apart() {
        let question = |id: &str| Question {
            id: id.into(),
            benchmark: Benchmark::Csqa,
            stem: "Where?".into(),
            options: vec!["bank".into(), "library".into()],
            gold: Gold::Choice(1),
        };
        let texts = ["So the answer is library.", "I saw the library there.", "bank", "a or b"];
        let questions: Vec<Question> = texts.iter().map(|text| question(text)).collect();
        let answers: Vec<Annotation> = questions
            .iter()
            .map(|q| {
                let answer = reader::read(q, &q.id);
                Annotation {
                    id: q.id.clone(),
                    cue: Cue::Plain,
                    prompt: String::new(),
                    output: q.id.clone(),
                    correct: answer.as_ref().is_some_and(|a| reader::is_correct(q, a)),
                    answer,
                    tokens: 1,
                    finished: true,
                    seed: 1,
                    sample: 0,
                    model: String::new(),
                }
            })
            .collect();
        let p = by_generation(&questions, &answers);
        assert_eq!((p.n, p.correct, p.correct_strict, p.no_answer), (4, 2, 1, 1));
    }

    #[test]
    fn older_files_load() {
        let old = r#"{"n":3,"correct":2,"no_answer":1,"truncated":0,"reader":1}"#;
        assert_eq!(serde_json::from_str::<Probe>(old).unwrap().correct_strict, 0);
    }
}
