//! What would be asked and what it may cost, before anything is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::journal::Contents;
use super::run::distinct;
use super::settings::RemoteTeacher;
use super::spend::{Estimate, Tokens, caps};
use crate::task::{Cue, Question, prompt};

/// Questions to ask under a cue, and the folder that keeps the answers.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub questions: &'a [Question],
    pub cue: Cue,
    pub teacher: &'a RemoteTeacher,
    pub dir: &'a Path,
}

/// What annotating `questions` under all of `cues` into the folder `dir` would ask
/// and cost. Nothing is written and no server asked.
pub fn estimate(
    questions: &[Question],
    cues: &[Cue],
    teacher: &RemoteTeacher,
    dir: &Path,
) -> Result<Estimate> {
    let asks: Vec<Ask> =
        cues.iter().map(|cue| Ask { questions, cue: *cue, teacher, dir }).collect();
    estimate_all(&asks, teacher, &[dir.to_owned()])
}

/// The same for several folders under one cap, that of `teacher`: it counts what the
/// journals of `spent` hold.
pub fn estimate_all(asks: &[Ask], teacher: &RemoteTeacher, spent: &[PathBuf]) -> Result<Estimate> {
    let mut total = Contents::default();
    for dir in spent {
        total.absorb(&Contents::look(dir)?);
    }
    let mut journals: HashMap<&Path, Contents> = HashMap::new();
    let (mut requests, mut answered, mut bytes) = (0, 0, 0);
    for ask in asks {
        ask.teacher.check()?;
        distinct(ask.questions)?;
        if !journals.contains_key(ask.dir) {
            journals.insert(ask.dir, Contents::look(ask.dir)?);
        }
        let (journal, model) = (&journals[ask.dir], ask.teacher.id());
        for q in ask.questions {
            let prompt = prompt::render(q, ask.cue);
            for sample in 0..ask.teacher.samples {
                let seed = ask.teacher.sample_seed(sample);
                if journal.find(seed, &model, &q.id, ask.cue, &prompt)?.is_some() {
                    answered += 1;
                } else {
                    requests += 1;
                    bytes += prompt.len();
                }
            }
        }
    }
    let measured = total.bytes_per_token();
    let bytes_per_token = measured.unwrap_or(4.0);
    let tokens = Tokens {
        prompt: (bytes as f64 / bytes_per_token).ceil() as u64,
        completion: requests as u64 * u64::from(teacher.max_tokens),
    };
    Ok(Estimate {
        requests,
        answered,
        prompt_tokens: tokens.prompt,
        bytes_per_token,
        measured: measured.is_some(),
        completion_tokens: tokens.completion,
        cost: tokens.cost(teacher),
        spent: total.usage(teacher),
        caps: caps(teacher),
    })
}
