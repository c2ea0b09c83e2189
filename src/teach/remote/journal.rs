//! What was paid for: one line a reply, written the moment it arrives.
//!
//! A folder has one journal, `journal.jsonl`, whatever cues are annotated into it,
//! and the cap holds for the folder. Lines are keyed by question, cue, seed and
//! teacher (model, server and all settings that decide an answer), so that changed
//! settings find no old answers and unchanged ones find all.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::settings::RemoteTeacher;
use super::spend::{Tokens, Usage, bound};
use crate::task::Cue;

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    Answer(Answered),
    /// A reply that could not be used but may have been charged.
    Lost(Lost),
}

/// A usable reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answered {
    pub id: String,
    pub cue: Cue,
    pub seed: u64,
    /// [`RemoteTeacher::id`].
    pub model: String,
    pub prompt: String,
    pub output: String,
    pub finished: bool,
    /// As the server counted.
    pub usage: Option<Tokens>,
    /// The most it can have been.
    pub bound: Tokens,
    pub served: Option<String>,
    /// The server's words, where it refuses this prompt whatever the settings; the
    /// output is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lost {
    pub id: String,
    pub cue: Cue,
    pub reason: String,
    pub usage: Option<Tokens>,
    pub bound: Tokens,
}

/// A journal that this process may write.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    pub contents: Contents,
}

/// What a journal says.
#[derive(Default)]
pub(super) struct Contents {
    answers: HashMap<(String, Cue, u64, String), Answered>,
    usage: Usage,
    served: BTreeSet<String>,
    /// Bytes and tokens of the prompts that the server counted.
    measured: (u64, u64),
}

impl Contents {
    fn add(&mut self, line: Line) {
        match line {
            Line::Answer(a) => {
                if a.refused.is_some() {
                    self.usage.refused += 1;
                } else {
                    self.usage.answers += 1;
                    self.usage.empty += u64::from(a.output.trim().is_empty());
                }
                self.usage.count(a.usage, a.bound);
                self.served.extend(a.served.clone());
                if let Some(usage) = a.usage.filter(|_| a.refused.is_none()) {
                    self.measured.0 += a.prompt.len() as u64;
                    self.measured.1 = self.measured.1.saturating_add(usage.prompt);
                }
                self.answers.insert((a.id.clone(), a.cue, a.seed, a.model.clone()), a);
            }
            Line::Lost(l) => {
                self.usage.lost += 1;
                self.usage.count(l.usage, l.bound);
            }
        }
    }

    /// The answer to a question, if it is there. A question that reads differently
    /// than when it was asked is an error: its answer was paid for, and to ask again
    /// is for the user to decide.
    pub fn find(
        &self,
        seed: u64,
        model: &str,
        id: &str,
        cue: Cue,
        prompt: &str,
    ) -> Result<Option<&Answered>> {
        let found = self.answers.get(&(id.to_owned(), cue, seed, model.to_owned()));
        if let Some(a) = found {
            ensure!(
                a.prompt == prompt,
                "question {id} ({cue}): was answered when it read differently; annotate into \
                 another folder, or give the question another id"
            );
        }
        Ok(found)
    }

    /// Whether this teacher ever answered: its settings can work, then.
    pub fn knows(&self, model: &str) -> bool {
        self.answers.values().any(|a| a.model == model && a.refused.is_none())
    }

    pub fn usage(&self, teacher: &RemoteTeacher) -> Usage {
        let mut usage = self.usage.clone();
        usage.cost = usage.spent().cost(teacher);
        usage.served = self.served.iter().cloned().collect();
        usage
    }

    /// Adds what another journal accounts for, without its answers.
    pub fn absorb(&mut self, other: &Contents) {
        self.usage.absorb(&other.usage);
        self.served.extend(other.served.iter().cloned());
        self.measured.0 += other.measured.0;
        self.measured.1 = self.measured.1.saturating_add(other.measured.1);
    }

    pub fn spent(&self) -> Tokens {
        self.usage.spent()
    }

    /// Bytes of prompt to a token, once some were counted.
    pub fn bytes_per_token(&self) -> Option<f64> {
        let (bytes, tokens) = self.measured;
        (bytes > 0 && tokens > 0).then(|| bytes as f64 / tokens as f64)
    }

    /// Reads a journal and tells how many of its bytes are whole lines.
    fn read(path: &Path) -> Result<(Contents, Ending)> {
        let mut contents = Contents::default();
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            bytes => bytes.with_context(|| path.display().to_string())?,
        };
        let mut at = 0;
        for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            let whole = line.ends_with(b"\n");
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => contents.add(line),
                // Killed while it was written.
                Err(_) if !whole => return Ok((contents, Ending::Torn(at as u64))),
                Err(e) => bail!(
                    "{}, line {}: broken ({e}); what it answered was paid for, so nothing is done \
                     until the line is repaired or deleted",
                    path.display(),
                    i + 1
                ),
            }
            if !whole {
                return Ok((contents, Ending::Unended));
            }
            at += line.len();
        }
        Ok((contents, Ending::Whole))
    }

    /// A journal as it is, without taking it.
    pub fn look(dir: &Path) -> Result<Contents> {
        Ok(Contents::read(&journal(dir))?.0)
    }
}

/// How a journal ends.
enum Ending {
    Whole,
    /// A whole line without its newline.
    Unended,
    /// Part of a line from this byte on.
    Torn(u64),
}

fn journal(dir: &Path) -> PathBuf {
    dir.join("journal.jsonl")
}

impl Journal {
    /// Takes the journal of a folder and repairs its end. No two processes may have
    /// it: they would pay twice.
    pub fn open(dir: &Path) -> Result<Journal> {
        let path = journal(dir);
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is annotating into this folder", path.display())
            }
            Err(TryLockError::Error(e)) => return Err(e).context(path.display().to_string()),
        }
        let (contents, ending) = Contents::read(&path)?;
        match ending {
            Ending::Whole => {}
            Ending::Unended => file.write_all(b"\n").with_context(|| path.display().to_string())?,
            Ending::Torn(at) => file.set_len(at).with_context(|| path.display().to_string())?,
        }
        Ok(Journal { path, file, contents })
    }

    /// Writes a line, with one call, past every buffer of this process.
    pub fn write(&mut self, line: Line) -> Result<()> {
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        let wrote = self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush());
        wrote.with_context(|| format!("{}: cannot be written", self.path.display()))?;
        self.contents.add(line);
        Ok(())
    }

    /// Notes what was spent beside the journal, and makes sure of the journal itself.
    pub fn close(&self, teacher: &RemoteTeacher) -> Result<()> {
        self.file.sync_data().with_context(|| self.path.display().to_string())?;
        let usage = serde_json::to_string_pretty(&self.contents.usage(teacher))? + "\n";
        write_whole(&self.path.with_file_name("usage.json"), usage.as_bytes())
    }
}

/// Writes through a temporary name, so that a reader sees all of it or nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| path.display().to_string())
}

/// An answered line.
pub(super) fn answered(
    teacher: &RemoteTeacher,
    model: &str,
    (id, cue, prompt, seed): (&str, Cue, &str, u64),
    reply: super::wire::Reply,
) -> Line {
    Line::Answer(Answered {
        id: id.to_owned(),
        cue,
        seed,
        model: model.to_owned(),
        prompt: prompt.to_owned(),
        output: reply.output,
        finished: reply.finished,
        usage: reply.usage,
        bound: bound(teacher, prompt),
        served: reply.served,
        refused: None,
    })
}

/// A line for a prompt that the server refuses: an empty answer that cost nothing.
pub(super) fn refused(
    teacher: &RemoteTeacher,
    model: &str,
    asked: (&str, Cue, &str, u64),
    reason: String,
) -> Line {
    let usage = Some(Tokens::default());
    let none = super::wire::Reply { output: String::new(), finished: false, usage, served: None };
    match answered(teacher, model, asked, none) {
        Line::Answer(a) => Line::Answer(Answered { refused: Some(reason), ..a }),
        line => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> Line {
        Line::Answer(Answered {
            id: id.into(),
            cue: Cue::Plain,
            seed: 1,
            model: "m@h#0".into(),
            prompt: "p".into(),
            output: " é".into(),
            finished: true,
            usage: Some(Tokens { prompt: 3, completion: 2 }),
            bound: Tokens { prompt: 9, completion: 9 },
            served: None,
            refused: None,
        })
    }

    /// Cut at every byte, the journal keeps all whole lines and takes new ones.
    #[test]
    fn a_torn_end_is_repaired_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = journal(dir.path());
        let mut j = Journal::open(dir.path()).unwrap();
        j.write(line("a")).unwrap();
        let one = fs::metadata(&path).unwrap().len() as usize;
        j.write(line("b")).unwrap();
        drop(j);
        let bytes = fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let mut j = Journal::open(dir.path()).unwrap();
            let whole = usize::from(cut >= one - 1) + usize::from(cut >= bytes.len() - 1);
            assert_eq!(j.contents.usage.answers as usize, whole, "cut at {cut}");
            j.write(line("c")).unwrap();
            drop(j);
            let again = Contents::look(dir.path()).unwrap();
            assert_eq!(again.usage.answers as usize, whole + 1, "cut at {cut}");
            assert!(again.find(1, "m@h#0", "c", Cue::Plain, "p").unwrap().is_some());
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_stops_everything() {
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&line("a")).unwrap();
        fs::write(journal(dir.path()), format!("{text}\n{{\n{text}\n")).unwrap();
        let error = Journal::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn one_process_has_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::open(dir.path()).unwrap();
        let error = Journal::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        assert!(Journal::open(dir.path()).is_ok());
    }

    #[test]
    fn an_answer_is_found_by_all_of_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut j = Journal::open(dir.path()).unwrap();
        j.write(line("a")).unwrap();
        let find =
            |seed, model, id, cue| j.contents.find(seed, model, id, cue, "p").unwrap().is_some();
        assert!(find(1, "m@h#0", "a", Cue::Plain));
        assert!(!find(1, "m@h#1", "a", Cue::Plain));
        assert!(!find(1, "m@h#0", "b", Cue::Plain));
        assert!(!find(1, "m@h#0", "a", Cue::Cot));
        assert!(!find(2, "m@h#0", "a", Cue::Plain));
        let error = j.contents.find(1, "m@h#0", "a", Cue::Plain, "q").unwrap_err();
        assert!(error.to_string().contains("question a"), "{error}");
    }
}
