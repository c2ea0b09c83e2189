//! Members that answer behind a server, and what a run may spend on them.
//!
//! The caps of a member hold for the store: whatever its stages have spent there, in this
//! run or before, counts, and stages that run at the same time spend from one purse.

#[cfg(feature = "remote")]
pub(super) use remote::Purses;

#[cfg(feature = "remote")]
mod remote {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    use anyhow::{Context, Result, ensure};

    use crate::model::Sampling;
    use crate::study::questions::QuestionsRef;
    use crate::study::spec::Member;
    use crate::study::stage::{ModelRef, Stage};
    use crate::study::store::Store;
    use crate::study::work::Workshop;
    use crate::task::{Cue, Question};
    use crate::teach::Annotation;
    use crate::teach::remote::{
        Ask, Estimate, Event, Purse, RemoteTeacher, annotate_from, estimate_all,
    };

    /// The purses of the members, by name, each opened when it is first needed.
    #[derive(Default)]
    pub struct Purses(Mutex<BTreeMap<String, Opened>>);

    struct Opened {
        purse: Arc<Purse>,
        /// Held under a cap: another process would spend the same money again.
        _lock: Option<File>,
    }

    impl Workshop<'_> {
        /// Answers of a member behind a server, resumed from the journal in `dir`; none
        /// if the model is loaded instead.
        pub fn served(
            &self,
            model: &ModelRef,
            questions: &[Question],
            cue: Cue,
            sampling: &Sampling,
            dir: &Path,
            done: &mut dyn FnMut(),
        ) -> Result<Option<Vec<Annotation>>> {
            let Some((_, teacher)) = self.server(model) else { return Ok(None) };
            let teacher = with(teacher, sampling);
            let purse = self.purse(&model.name, &teacher, &|_| ())?;
            let mut tell = |event: Event| {
                if event == Event::Answered {
                    done();
                }
            };
            let path = dir.join("annotations.jsonl");
            annotate_from(Some(&purse), questions, cue, &teacher, &path, &mut tell).map(Some)
        }

        /// Opens the purses of all members that `stages` ask, and tells what the stages
        /// would ask at most. Waits for another process that spends under the same caps;
        /// no stage may be running here, since that process may wait for it.
        pub fn open_purses(
            &self,
            stages: &[&Stage],
            say: &dyn Fn(&str),
        ) -> Result<Vec<(String, Estimate)>> {
            let mut all = Vec::new();
            // By name, so that no two processes wait for each other; teachers may be
            // students, too.
            let mut members: Vec<&Member> = self.members.iter().collect();
            members.sort_by_key(|m| (&m.model.name, &m.model.sha256));
            members.dedup_by_key(|m| &m.model);
            for member in members {
                let Some(teacher) = &member.remote else { continue };
                let asked: Vec<&Stage> = stages
                    .iter()
                    .filter(|s| asks(s).is_some_and(|(model, ..)| *model == member.model))
                    .copied()
                    .collect();
                if asked.is_empty() {
                    continue;
                }
                let name = &member.model.name;
                self.purse(name, teacher, say)?;
                let ahead = self.ahead(name, teacher, &asked)?;
                if ahead.requests > 0 {
                    has_key(name, teacher)?;
                }
                if let Some(warning) = over_cap(teacher, &ahead) {
                    say(&format!("warning: {name}: {warning}"));
                }
                all.push((name.clone(), ahead));
            }
            Ok(all)
        }

        fn server(&self, model: &ModelRef) -> Option<(&Member, &RemoteTeacher)> {
            let member = self.members.iter().find(|m| m.model == *model)?;
            Some((member, member.remote.as_ref()?))
        }

        /// What a member may still spend; opened once, until the workshop is closed.
        fn purse(
            &self,
            name: &str,
            teacher: &RemoteTeacher,
            say: &dyn Fn(&str),
        ) -> Result<Arc<Purse>> {
            let mut purses = self.purses.0.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(opened) = purses.get(name) {
                return Ok(opened.purse.clone());
            }
            let capped = teacher.max_total_tokens.is_some() || teacher.max_cost.is_some();
            let lock = if capped {
                let lock = format!("spend {}", name.replace(['/', '\\'], "__"));
                let free = self.store.try_lock(&lock)?;
                Some(match free {
                    Some(free) => free,
                    None => {
                        say(&format!("{name}: waits for another run that spends under its cap"));
                        self.store.lock(&lock)?
                    }
                })
            } else {
                None
            };
            let purse = Arc::new(Purse::open(&journals(self.store, name)?)?);
            let opened = Opened { purse: purse.clone(), _lock: lock };
            purses.insert(name.to_owned(), opened);
            Ok(purse)
        }

        fn ahead(
            &self,
            name: &str,
            teacher: &RemoteTeacher,
            stages: &[&Stage],
        ) -> Result<Estimate> {
            let mut questions: Vec<(&QuestionsRef, Vec<Question>)> = Vec::new();
            let mut asked = Vec::new();
            for stage in stages {
                let Some((_, of, cue, sampling)) = asks(stage) else { continue };
                let at = match questions.iter().position(|(known, _)| *known == of) {
                    Some(at) => at,
                    None => {
                        questions.push((of, of.load()?));
                        questions.len() - 1
                    }
                };
                let dir = self.store.working(&stage.id()?);
                asked.push((at, cue, with(teacher, sampling), dir));
            }
            let asks: Vec<Ask> = asked
                .iter()
                .map(|(at, cue, teacher, dir)| Ask {
                    questions: &questions[*at].1,
                    cue: *cue,
                    teacher,
                    dir,
                })
                .collect();
            estimate_all(&asks, teacher, &journals(self.store, name)?)
        }
    }

    /// Refuses to begin without the key: the stages before the first request may take days.
    fn has_key(name: &str, teacher: &RemoteTeacher) -> Result<()> {
        let Some(variable) = &teacher.api_key_env else { return Ok(()) };
        let set = std::env::var_os(variable).is_some_and(|value| !value.is_empty());
        ensure!(
            set,
            "{name}: the environment variable {variable} is not set; it must hold the server's key"
        );
        Ok(())
    }

    /// What is said of an estimate that is above a cap.
    fn over_cap(teacher: &RemoteTeacher, ahead: &Estimate) -> Option<String> {
        let end = "if every answer is as long as it may be; the run stops at the cap, and goes on \
                   once it is raised";
        let spent = ahead.spent.cost.unwrap_or(0.0);
        if let (Some(cost), Some(cap)) = (ahead.cost, teacher.max_cost)
            && cost + spent > cap
        {
            return Some(format!(
                "may cost {:.2}, more than max_cost = {cap}, {end}",
                cost + spent
            ));
        }
        let more = ahead.prompt_tokens.saturating_add(ahead.completion_tokens);
        let tokens = ahead.spent.spent().total().saturating_add(more);
        let cap = teacher.max_total_tokens.filter(|cap| tokens > *cap)?;
        Some(format!("may take {tokens} tokens, more than max_total_tokens = {cap}, {end}"))
    }

    /// The model, questions, cue and sampling of a stage that a server may answer.
    fn asks(stage: &Stage) -> Option<(&ModelRef, &QuestionsRef, Cue, &Sampling)> {
        match stage {
            Stage::Annotate(p) => Some((&p.model, &p.questions, p.cue, &p.sampling)),
            Stage::Probe(p) if p.adapter.is_none() => {
                Some((&p.model, &p.questions, p.cue, &p.sampling))
            }
            _ => None,
        }
    }

    fn with(teacher: &RemoteTeacher, sampling: &Sampling) -> RemoteTeacher {
        RemoteTeacher {
            temperature: sampling.temperature,
            seed: sampling.seed,
            samples: sampling.samples,
            ..teacher.clone()
        }
    }

    /// Folders of the store, finished or not, in which the member of this name was asked.
    fn journals(store: &Store, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for dir in store.folders()? {
            if !dir.join("journal.jsonl").exists() {
                continue;
            }
            let path = dir.join("plan.json");
            let text =
                std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let plan: Stage = serde_json::from_str(&text).with_context(|| {
                format!(
                    "{}: broken; what was paid for lies beside it, so nothing is asked until it is \
                     repaired or its folder deleted",
                    path.display()
                )
            })?;
            if asks(&plan).is_some_and(|(model, ..)| model.name == name) {
                found.push(dir);
            }
        }
        Ok(found)
    }
}

#[cfg(not(feature = "remote"))]
mod none {
    use std::path::Path;

    use anyhow::Result;

    use crate::model::Sampling;
    use crate::study::stage::{ModelRef, Stage};
    use crate::study::work::Workshop;
    use crate::task::{Cue, Question};
    use crate::teach::Annotation;

    /// Nobody is asked behind a server.
    impl Workshop<'_> {
        pub fn served(
            &self,
            _: &ModelRef,
            _: &[Question],
            _: Cue,
            _: &Sampling,
            _: &Path,
            _: &mut dyn FnMut(),
        ) -> Result<Option<Vec<Annotation>>> {
            Ok(None)
        }

        pub fn open_purses(&self, _: &[&Stage], _: &dyn Fn(&str)) -> Result<Vec<(String, String)>> {
            Ok(Vec::new())
        }
    }
}
