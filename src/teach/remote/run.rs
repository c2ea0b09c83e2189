//! The loop: asks what the journal does not answer, and writes what comes.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Event;
use super::client::{Charge, Client, Failure};
use super::journal::{Answered, Journal, Line, Lost, answered, refused, write_whole};
use super::purse::Purse;
use super::retry::{pause, wait};
use super::settings::RemoteTeacher;
use super::spend::{Tokens, bound};
use super::wire::Reply;
use crate::task::{Cue, Question, prompt, reader};
use crate::teach::Annotation;

/// Prompts that may stay without an answer before the run ends: a single bad prompt
/// must not cost the others a night, and a server that is down must not be asked
/// thousands of times.
const GIVE_UP: usize = 5;

/// Requests that may be refused, all alike and none answered, before a setting is taken
/// to be the reason and not the prompts.
const ALL_REFUSED: usize = 8;

/// Until a purse that others spend from, too, is looked into again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The cap ended a run. Everything paid for is in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// Which cap, and how far.
    pub reason: String,
    pub answered: usize,
    pub questions: usize,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stopped by {}; {} of {} questions are answered and kept, a higher cap goes on from \
             there",
            self.reason, self.answered, self.questions
        )
    }
}

impl std::error::Error for Stopped {}

/// A remote teacher answers `questions` under `cue`; `path` gets a line for each of its
/// samples, in order, once all are answered. Beside it lie `journal.jsonl`, which keeps every
/// reply from the moment it arrives, and `usage.json`, the totals over all runs.
///
/// Killed at any moment and called again, it asks only what the journal does not
/// answer; at most the requests that were in flight are made twice. Several cues, or
/// teachers, may share a folder one after the other; the caps hold for the folder.
pub fn annotate_remote(
    questions: &[Question],
    cue: Cue,
    teacher: &RemoteTeacher,
    path: &Path,
    progress: &mut dyn FnMut(Event),
) -> Result<Vec<Annotation>> {
    annotate_from(None, questions, cue, teacher, path, progress)
}

/// [`annotate_remote`] with caps that hold for all that spend from `purse`, not for the
/// folder; the purse counts the folder's journal already.
pub fn annotate_from(
    purse: Option<&Purse>,
    questions: &[Question],
    cue: Cue,
    teacher: &RemoteTeacher,
    path: &Path,
    progress: &mut dyn FnMut(Event),
) -> Result<Vec<Annotation>> {
    teacher.check()?;
    distinct(questions)?;
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut journal = Journal::open(dir)?;
    let model = teacher.id();
    let prompts: Vec<Arc<str>> = questions.iter().map(|q| prompt::render(q, cue).into()).collect();
    let mut fresh = VecDeque::new();
    for (question, (q, prompt)) in questions.iter().zip(&prompts).enumerate() {
        for sample in 0..teacher.samples {
            let seed = teacher.sample_seed(sample);
            if journal.contents.find(seed, &model, &q.id, cue, prompt)?.is_none() {
                fresh.push_back(Job { question, sample, attempt: 0, strikes: 0 });
            }
        }
    }
    let own = Purse::new(journal.contents.spent());
    if !fresh.is_empty() {
        let client = Arc::new(Client::new(teacher)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut run = Run {
            teacher,
            model: &model,
            cue,
            questions,
            prompts: &prompts,
            client,
            journal: &mut journal,
            purse: purse.unwrap_or(&own),
            fresh,
            running: JoinSet::new(),
            waiting: Vec::new(),
            reserved: Tokens::default(),
            blocked: false,
            answers: 0,
            refused: Vec::new(),
            paused: None,
            strikes: 0,
            failed: Vec::new(),
            stop: None,
            progress,
        };
        let outcome = runtime.block_on(run.all());
        drop(run);
        // Totals are noted however it ended; what ended it is the news.
        let noted = journal.close(teacher);
        outcome?;
        noted?;
    } else {
        journal.close(teacher)?;
    }
    let mut all = Vec::with_capacity(questions.len() * teacher.samples);
    let mut text = String::new();
    for (q, prompt) in questions.iter().zip(&prompts) {
        for sample in 0..teacher.samples {
            let seed = teacher.sample_seed(sample);
            let found = journal.contents.find(seed, &model, &q.id, cue, prompt)?;
            let a = annotation(q, found.context("a question was left out")?, sample);
            text += &serde_json::to_string(&a)?;
            text.push('\n');
            all.push(a);
        }
    }
    write_whole(path, text.as_bytes())?;
    Ok(all)
}

pub(super) fn distinct(questions: &[Question]) -> Result<()> {
    let mut seen = HashSet::new();
    for q in questions {
        ensure!(
            seen.insert(q.id.as_str()),
            "two questions have the id {:?}; answers are kept by id, so annotate benchmarks one \
             by one",
            q.id
        );
    }
    Ok(())
}

/// Reads the answer anew, so that a better reader needs no new request.
fn annotation(question: &Question, a: &Answered, sample: usize) -> Annotation {
    let answer = match a.refused {
        None => reader::read(question, &a.output),
        Some(_) => None,
    };
    Annotation {
        id: a.id.clone(),
        cue: a.cue,
        prompt: a.prompt.clone(),
        output: a.output.clone(),
        correct: answer.as_ref().is_some_and(|r| reader::is_correct(question, r)),
        answer,
        // Most servers count the end of the text, too. Where one counts nothing, the
        // usual four bytes to a token.
        tokens: a.usage.map_or(a.output.len().div_ceil(4), |u| u.completion as usize),
        finished: a.finished,
        seed: a.seed,
        sample,
        model: a.model.clone(),
    }
}

/// A sample of a prompt and how often it was tried before.
#[derive(Debug, Clone, Copy)]
struct Job {
    question: usize,
    sample: usize,
    attempt: u32,
    /// [`Run::strikes`] when it was sent.
    strikes: u32,
}

/// A prompt that the server refuses.
struct Refusal {
    job: Job,
    reason: String,
    alike: String,
    /// As the server says, the prompt is the cause.
    prompt: bool,
}

struct Run<'a> {
    teacher: &'a RemoteTeacher,
    model: &'a str,
    cue: Cue,
    questions: &'a [Question],
    prompts: &'a [Arc<str>],
    client: Arc<Client>,
    journal: &'a mut Journal,
    purse: &'a Purse,
    /// What is not tried yet.
    fresh: VecDeque<Job>,
    running: JoinSet<(Job, Result<Reply, Failure>)>,
    /// Prompts to try again, and when. They keep their place among the
    /// `max_concurrency`: a server in trouble gets no further prompts meanwhile.
    waiting: Vec<(Instant, Job)>,
    /// What the requests in flight may cost; set aside in the purse.
    reserved: Tokens,
    /// The next request has to wait until one in flight turns out cheaper than it
    /// may have been.
    blocked: bool,
    /// Usable replies of this run.
    answers: usize,
    /// Refusals before the first answer: not in the journal yet, for a setting may be
    /// the reason, and then these prompts must be asked again.
    refused: Vec<Refusal>,
    /// Until then nobody asks: the server said it is asked too much.
    paused: Option<Instant>,
    /// How often in a row it said so. Until it answers again, one request at a time
    /// looks whether it would.
    strikes: u32,
    failed: Vec<String>,
    stop: Option<anyhow::Error>,
    progress: &'a mut dyn FnMut(Event),
}

impl Run<'_> {
    async fn all(&mut self) -> Result<()> {
        loop {
            self.start();
            if self.running.is_empty() && (self.stop.is_some() || self.waiting.is_empty()) {
                break;
            }
            let due = self.waiting.iter().map(|(at, _)| *at).min();
            let due = due.max(self.paused.filter(|_| due.is_some()));
            let due = due.filter(|_| self.stop.is_none() && !self.blocked && !self.probes());
            tokio::select! {
                Some(done) = self.running.join_next() => self.settle(done),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        if self.stop.is_none() {
            self.conclude();
        }
        if let Some(stop) = self.stop.take() {
            return Err(stop);
        }
        if let Some(first) = self.failed.first() {
            return Err(anyhow!(
                "{} of {} answers are missing; the first is {first}. The other answers are \
                 kept: run again to ask only what is missing",
                self.failed.len(),
                self.questions.len() * self.teacher.samples
            ));
        }
        Ok(())
    }

    /// Starts what may start now.
    fn start(&mut self) {
        self.blocked = false;
        while self.stop.is_none() {
            let Some(job) = self.next() else { return };
            let prompt = &self.prompts[job.question];
            let most = bound(self.teacher, prompt);
            if let Err(refused) = self.purse.reserve(self.teacher, most) {
                if !self.running.is_empty() {
                    self.waiting.push((Instant::now(), job));
                    self.blocked = true;
                } else if refused.in_flight {
                    // Another stage's, of which nothing is heard here.
                    self.waiting.push((Instant::now() + LOOK_AGAIN, job));
                } else {
                    self.stop = Some(self.stopped(refused.reason).into());
                }
                return;
            }
            self.reserved.add(most);
            let job = Job { strikes: self.strikes, ..job };
            let (client, prompt) = (self.client.clone(), prompt.clone());
            let seed = self.teacher.sample_seed(job.sample);
            self.running.spawn(async move { (job, client.ask(&prompt, seed).await) });
        }
    }

    /// A prompt whose wait is over, else a new one if there is room.
    fn next(&mut self) -> Option<Job> {
        let now = Instant::now();
        if self.paused.is_some_and(|until| until > now) || self.probes() {
            return None;
        }
        if let Some(i) = self.waiting.iter().position(|(at, _)| *at <= now) {
            return Some(self.waiting.swap_remove(i).1);
        }
        if self.running.len() + self.waiting.len() >= self.teacher.max_concurrency {
            return None;
        }
        // No more than may turn out to be refused for the same reason.
        if self.answers == 0
            && !self.refused.is_empty()
            && self.refused.len() + self.running.len() >= ALL_REFUSED
        {
            return None;
        }
        self.fresh.pop_front()
    }

    /// Whether a request is out to see if the server takes requests again.
    fn probes(&self) -> bool {
        self.strikes > 0 && !self.running.is_empty()
    }

    fn stopped(&self, reason: String) -> Stopped {
        let done = self.questions.iter().zip(self.prompts).filter(|(q, prompt)| {
            (0..self.teacher.samples).all(|sample| {
                let seed = self.teacher.sample_seed(sample);
                let found = self.journal.contents.find(seed, self.model, &q.id, self.cue, prompt);
                matches!(found, Ok(Some(_)))
            })
        });
        Stopped { reason, answered: done.count(), questions: self.questions.len() }
    }

    /// Takes what an attempt brought.
    fn settle(&mut self, done: Result<(Job, Result<Reply, Failure>), JoinError>) {
        let (job, result) = match done {
            Ok(done) => done,
            Err(e) => return self.halt(anyhow!("a request broke down: {e}")),
        };
        let prompt = self.prompts[job.question].clone();
        let id = self.questions[job.question].id.clone();
        let most = bound(self.teacher, &prompt);
        let cost = match &result {
            Ok(reply) => reply.usage.unwrap_or(most),
            Err(
                Failure::Again { lost: Charge::Perhaps(usage), .. }
                | Failure::Final { lost: Charge::Perhaps(usage), .. },
            ) => usage.unwrap_or(most),
            Err(_) => Tokens::default(),
        };
        self.reserved.take(most);
        self.purse.settle(most, cost);
        match result {
            Ok(reply) => {
                let asked = (id.as_str(), self.cue, &*prompt, self.teacher.sample_seed(job.sample));
                let line = answered(self.teacher, self.model, asked, reply);
                self.answers += 1;
                self.strikes = 0;
                match self.journal.write(line) {
                    Ok(()) => (self.progress)(Event::Answered),
                    Err(e) => return self.abandon(e),
                }
                // Settings that bring an answer are not why others were refused.
                self.note_refused();
            }
            Err(Failure::Final { reason, lost }) => {
                if self.note_lost(&id, &reason, lost, most) {
                    self.halt(anyhow!("question {id}: {reason}"));
                }
            }
            Err(Failure::Again { reason, wish, lost }) => {
                if self.note_lost(&id, &reason, lost, most) {
                    self.again(job, id, reason, wish);
                }
            }
            Err(Failure::Busy { reason, wish }) => self.busy(job, id, reason, wish),
            Err(Failure::Refused { reason, alike, prompt }) => {
                let refusal = Refusal { job, reason, alike, prompt };
                self.refuse(refusal);
            }
        }
    }

    /// Notes a reply that may have been charged, and whether it could.
    fn note_lost(&mut self, id: &str, reason: &str, lost: Charge, bound: Tokens) -> bool {
        let Charge::Perhaps(usage) = lost else { return true };
        let (id, reason) = (id.to_owned(), reason.to_owned());
        let line = Lost { id, cue: self.cue, reason, usage, bound };
        match self.journal.write(Line::Lost(line)) {
            Ok(()) => true,
            Err(e) => {
                self.abandon(e);
                false
            }
        }
    }

    /// Leaves the server alone for a while, all of us: what it refuses for is no
    /// prompt's fault, and counts against none.
    fn busy(&mut self, job: Job, id: String, reason: String, wish: Option<Duration>) {
        let now = Instant::now();
        // Requests that were out together bring one piece of news, not many.
        let news = job.strikes == self.strikes;
        if news {
            self.strikes += 1;
        }
        let most = self.teacher.max_retries.saturating_add(1).saturating_mul(GIVE_UP as u32);
        if self.strikes >= most {
            return self.halt(anyhow!(
                "question {id}: {reason}; the server said so {most} times in a row and answered \
                 nothing in between. What was answered is kept: run again later, or with a lower \
                 max_concurrency"
            ));
        }
        if news || wish.is_some() {
            let until = now + pause(self.teacher, self.strikes, wish);
            self.paused = self.paused.max(Some(until));
        }
        let wait = self.paused.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.waiting.push((now, job));
        (self.progress)(Event::Retry { id, reason, wait: wait.as_secs_f64() });
    }

    /// Takes a refusal for what it is: the prompt's fault, unless nothing was answered yet
    /// and all are refused alike.
    fn refuse(&mut self, refusal: Refusal) {
        let alike = refusal.alike.clone();
        self.refused.push(refusal);
        if self.answers > 0 {
            return self.note_refused();
        }
        let same = self.refused.iter().filter(|r| r.alike == alike).count();
        if same >= ALL_REFUSED {
            self.halt_refused();
        } else if self.refused.len() >= ALL_REFUSED {
            // Different causes cannot all be a setting.
            self.note_refused();
        }
    }

    /// Nothing is left to ask: what of the refusals?
    fn conclude(&mut self) {
        let answered = || self.journal.contents.knows(self.model);
        if self.refused.is_empty() || self.refused.iter().all(|r| r.prompt) || answered() {
            self.note_refused();
        } else {
            self.halt_refused();
        }
    }

    fn halt_refused(&mut self) {
        let Some(first) = self.refused.first() else { return };
        let id = &self.questions[first.job.question].id;
        let why = anyhow!(
            "question {id}: {}. None of the first {} requests was answered, so a setting may be \
             the reason, and nothing is noted as refused. If it is the prompts (too long for the \
             model, say), leave them out",
            first.reason,
            self.refused.len()
        );
        self.halt(why);
    }

    /// Writes down that these prompts have no answer: they are not asked again.
    fn note_refused(&mut self) {
        for Refusal { job, reason, .. } in std::mem::take(&mut self.refused) {
            let id = self.questions[job.question].id.as_str();
            let prompt = &*self.prompts[job.question];
            let asked = (id, self.cue, prompt, self.teacher.sample_seed(job.sample));
            let line = refused(self.teacher, self.model, asked, reason);
            match self.journal.write(line) {
                Ok(()) => (self.progress)(Event::Answered),
                Err(e) => return self.abandon(e),
            }
        }
    }

    /// Plans the next attempt, unless this was the last.
    fn again(&mut self, job: Job, id: String, reason: String, wish: Option<Duration>) {
        let attempt = job.attempt + 1;
        if attempt <= self.teacher.max_retries {
            let wait = wait(self.teacher, &format!("{id} {}", self.cue), attempt, wish);
            self.waiting.push((Instant::now() + wait, Job { attempt, ..job }));
            return (self.progress)(Event::Retry { id, reason, wait: wait.as_secs_f64() });
        }
        self.failed.push(format!("question {id}, tried {attempt} times: {reason}"));
        if self.failed.len() >= GIVE_UP {
            self.halt(anyhow!(
                "{GIVE_UP} questions got no answer; the first is {}. What was answered is kept: \
                 run again to go on",
                self.failed[0]
            ));
        }
    }

    /// Asks nothing more, but takes what is in flight: it is paid for.
    fn halt(&mut self, why: anyhow::Error) {
        self.stop.get_or_insert(why);
    }

    /// The journal cannot be written: what is in flight could not be kept.
    fn abandon(&mut self, why: anyhow::Error) {
        self.halt(why);
        self.running.abort_all();
    }
}

impl Drop for Run<'_> {
    /// What was in flight when the run broke off is not known to be spent, and must not
    /// keep others waiting.
    fn drop(&mut self) {
        self.purse.settle(self.reserved, Tokens::default());
    }
}
