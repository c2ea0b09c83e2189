//! A model answers questions; every answer is kept with how it was read.
//!
//! Teachers annotate the training split this way (P1 §3, P2 §3.1), students
//! answer their own demonstrations' questions before DPO, and the same records
//! are what a probe scores.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::model::{ChatTemplates, Conversation, Sampling, Tokenizer, Transformer, generate};
use crate::task::{Answer, Cue, Question, prompt, reader};

/// One answer of a model: a line of `annotations.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// [`Question::id`].
    pub id: String,
    pub cue: Cue,
    pub prompt: String,
    /// Raw text that followed the prompt.
    pub output: String,
    /// What the answer reader took from it; `null` is "no answer".
    pub answer: Option<Answer>,
    pub correct: bool,
    /// Generated tokens, EOS not counted.
    pub tokens: usize,
    /// False: cut at the length limit.
    pub finished: bool,
    pub seed: u64,
    /// Which of several answers to the same prompt.
    #[serde(default, skip_serializing_if = "is_first")]
    pub sample: usize,
    /// Hash of the model that answered.
    pub model: String,
}

fn is_first(sample: &usize) -> bool {
    *sample == 0
}

/// A local model that answers.
#[derive(Clone, Copy)]
pub struct Speaker<'a> {
    pub model: &'a Transformer,
    pub tokenizer: &'a Tokenizer,
    /// What its annotations say they are from: the model's hash.
    pub name: &'a str,
    /// Ask through its chat template, one message of the user.
    pub chat: Option<&'a ChatTemplates>,
}

impl Speaker<'_> {
    /// The prompt as text and as ids.
    fn prompt(&self, question: &Question, cue: Cue) -> Result<(String, Vec<u32>)> {
        let text = prompt::render(question, cue);
        let Some(templates) = self.chat else {
            let ids = self.tokenizer.prompt(&text)?;
            return Ok((text, ids));
        };
        let message = [("role", "user"), ("content", text.as_str())];
        let message = message.map(|(k, v)| (k.to_string(), v.into())).into_iter().collect();
        let conversation = Conversation {
            messages: vec![message],
            add_generation_prompt: true,
            ..Conversation::default()
        };
        let text = templates.render(&conversation, None)?;
        // The template writes the special tokens, BOS included.
        let ids = self.tokenizer.encode(&text)?;
        Ok((text, ids))
    }
}

/// Prompts that are generated, and written, together. A run that is killed goes
/// on at the next multiple, so each batch holds the same prompts again and the
/// file ends with the same bytes.
const CHUNK: usize = 200;

/// Answers `questions` under `cue` into `dir/<name>.jsonl`, a line for each of
/// `sampling.samples`, in order. Lines that an earlier, killed run completed are
/// kept; nothing is answered twice. `done` is called once an answer.
pub fn annotate(
    speaker: &Speaker,
    questions: &[Question],
    cue: Cue,
    sampling: &Sampling,
    path: &Path,
    done: &mut dyn FnMut(),
) -> Result<Vec<Annotation>> {
    sampling.check()?;
    let samples = sampling.samples;
    let mut all = resume(path, CHUNK * samples)?;
    ensure!(
        all.len() <= questions.len() * samples,
        "{}: {} lines for {} questions; delete it to start over",
        path.display(),
        all.len(),
        questions.len()
    );
    for (line, a) in all.iter().enumerate() {
        let (q, sample) = (&questions[line / samples], line % samples);
        ensure!(
            a.id == q.id && a.sample == sample,
            "{}, line {}: sample {} of question {}, expected {sample} of {}; delete the file to \
             start over",
            path.display(),
            line + 1,
            a.sample,
            a.id,
            q.id
        );
        done();
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    for chunk in questions[all.len() / samples..].chunks(CHUNK) {
        let answers = answer(speaker, chunk, cue, sampling, done)?;
        let mut text = String::new();
        for a in &answers {
            text += &serde_json::to_string(a)?;
            text.push('\n');
        }
        file.write_all(text.as_bytes()).with_context(|| path.display().to_string())?;
        all.extend(answers);
    }
    Ok(all)
}

/// The same without a file: the answers to a question follow each other.
pub fn answer(
    speaker: &Speaker,
    questions: &[Question],
    cue: Cue,
    sampling: &Sampling,
    done: &mut dyn FnMut(),
) -> Result<Vec<Annotation>> {
    let asked = questions.iter().map(|q| speaker.prompt(q, cue)).collect::<Result<Vec<_>>>()?;
    let (texts, prompts): (Vec<String>, Vec<Vec<u32>>) = asked.into_iter().unzip();
    let Speaker { model, tokenizer, .. } = speaker;
    let keys: Vec<String> = questions.iter().map(|q| format!("{} {cue}", q.id)).collect();
    let generated = generate(model, &prompts, &keys, sampling, *tokenizer, done)?;
    generated
        .into_iter()
        .enumerate()
        .map(|(i, g)| {
            let (of, sample) = (i / sampling.samples, i % sampling.samples);
            let (q, prompt) = (&questions[of], texts[of].clone());
            let mut output = tokenizer.decode(&g.tokens)?;
            if let Some(end) = sampling.stop.iter().filter_map(|s| output.find(s.as_str())).min() {
                output.truncate(end);
            }
            let answer = reader::read(q, &output);
            Ok(Annotation {
                id: q.id.clone(),
                cue,
                prompt,
                correct: answer.as_ref().is_some_and(|a| reader::is_correct(q, a)),
                answer,
                output,
                tokens: g.tokens.len(),
                finished: g.finished,
                seed: sampling.seed,
                sample,
                model: speaker.name.to_string(),
            })
        })
        .collect()
}

/// Reads a finished file of annotations.
pub fn read_annotations(path: &Path) -> Result<Vec<Annotation>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    BufReader::new(file)
        .lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(&line?)
                .with_context(|| format!("{}, line {}: not an annotation", path.display(), i + 1))
        })
        .collect()
}

/// The whole chunks of a file that a killed run may have left; anything after
/// them is cut off.
fn resume(path: &Path, chunk: usize) -> Result<Vec<Annotation>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let (mut all, mut kept, mut at) = (Vec::new(), 0, 0);
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let Ok(a) = serde_json::from_slice::<Annotation>(line) else { break };
        if !line.ends_with(b"\n") {
            break;
        }
        all.push(a);
        at += line.len();
        if all.len() % chunk == 0 {
            kept = at;
        }
    }
    // The last chunk may be a short one and complete; answering it again gives
    // the same lines, so it costs little to always cut at a chunk's end.
    all.truncate(all.len() / chunk * chunk);
    if kept < bytes.len() {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(kept as u64).with_context(|| path.display().to_string())?;
    }
    Ok(all)
}
