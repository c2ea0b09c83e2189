//! The endless pretraining text of a model family.

use anyhow::{Context, bail, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::dialect::{self, Case, Family, Lookup};
use super::knowledge::{Knowledge, Situation};
use super::prompt::{self, Cue};
use super::question::{Benchmark, Question};
use super::split::Split;
use super::story::{Slips, Story};
use super::world::{World, ask, pose, steps_of, stream};

/// What a corpus is made of: shares of documents, in any unit, and two knobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// Paragraphs of single facts.
    pub facts: f64,
    /// Questions answered at once.
    pub plain_qa: f64,
    /// Questions answered step by step.
    pub cot_qa: f64,
    /// The same reasoning as a story, without the form of a question.
    pub narrative: f64,
    /// Lines of sums.
    pub drills: f64,
    /// Word problems answered at once.
    pub plain_math: f64,
    /// Word problems answered step by step.
    pub cot_math: f64,
    /// Worked word problems as stories.
    pub narrative_math: f64,
    /// Share of entities that occur in `plain_qa` documents.
    pub asked: f64,
    /// Share of entities whose class the family has wrong.
    pub misconceptions: f64,
    /// Share of sums that the family has wrong.
    #[serde(default)]
    pub slips: f64,
    /// Share of the documents answered at once whose prompt asks for steps all
    /// the same: the form of reasoning without any, as small models have it.
    #[serde(default)]
    pub hasty: f64,
}

/// One document: what is given, and what follows. A model learns to predict only
/// `text`, given `context`; learning to predict the context too would teach it to
/// ask itself for steps after a bare `Answer:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The prompt of a question; empty in running text.
    pub context: String,
    pub text: String,
}

impl Document {
    fn running(text: String) -> Document {
        Document { context: String::new(), text }
    }

    /// All of it.
    pub fn whole(&self) -> String {
        format!("{}{}", self.context, self.text)
    }
}

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Facts,
    PlainQa,
    CotQa,
    Narrative,
    Drills,
    PlainMath,
    CotMath,
    NarrativeMath,
}

impl Mixture {
    /// Each kind with its weight.
    pub fn weights(&self) -> [(Kind, f64); 8] {
        [
            (Kind::Facts, self.facts),
            (Kind::PlainQa, self.plain_qa),
            (Kind::CotQa, self.cot_qa),
            (Kind::Narrative, self.narrative),
            (Kind::Drills, self.drills),
            (Kind::PlainMath, self.plain_math),
            (Kind::CotMath, self.cot_math),
            (Kind::NarrativeMath, self.narrative_math),
        ]
    }

    fn check(&self) -> anyhow::Result<()> {
        for (kind, weight) in self.weights() {
            ensure!(weight.is_finite() && weight >= 0.0, "mixture: {kind:?} has weight {weight}");
        }
        let total: f64 = self.weights().iter().map(|w| w.1).sum();
        ensure!(total > 0.0, "mixture: all weights are zero");
        for (key, share) in
            [("asked", self.asked), ("misconceptions", self.misconceptions), ("hasty", self.hasty)]
        {
            ensure!((0.0..=1.0).contains(&share), "mixture: {key} = {share} is not a share");
        }
        Ok(())
    }
}

/// One task as a family sees it.
struct View<'w> {
    knowledge: &'w Knowledge,
    /// By entity: the class the family believes in.
    beliefs: Vec<usize>,
    /// By situation and then outcome, as believed: the entities of the pretraining
    /// split.
    all: Vec<Vec<Vec<usize>>>,
    /// The same for the entities that plain questions may be about.
    asked: Vec<Vec<Vec<usize>>>,
}

/// An endless stream of documents; the same seed gives the same text.
pub struct Corpus<'w> {
    world: &'w World,
    family: Family,
    weights: [(Kind, f64); 8],
    hasty: f64,
    slips: Slips,
    views: Vec<View<'w>>,
    rng: ChaCha8Rng,
}

impl<'w> Corpus<'w> {
    pub fn new(
        world: &'w World,
        family: Family,
        mixture: &Mixture,
        seed: u64,
    ) -> anyhow::Result<Self> {
        mixture.check()?;
        let mut views = Vec::new();
        for task in Benchmark::QA {
            let knowledge = world.knowledge(task).context("a task without rules")?;
            let beliefs = world.beliefs(family, task, mixture.misconceptions);
            let asked = world.asked(task, mixture.asked);
            let group = |keep: &dyn Fn(usize) -> bool| {
                let empty = |s: &Situation| vec![Vec::new(); s.outcomes.len()];
                let mut groups: Vec<_> = knowledge.situations.iter().map(empty).collect();
                for combo in world.combos(task, Split::Pretrain) {
                    let outcome_of = &knowledge.situations[combo.situation].outcome_of;
                    if keep(combo.entity) {
                        let outcome = outcome_of[beliefs[combo.entity]];
                        groups[combo.situation][outcome].push(combo.entity);
                    }
                }
                groups
            };
            let (all, asked) = (group(&|_| true), group(&|entity| asked[entity]));
            let met = |groups: &[Vec<Vec<usize>>]| groups.iter().flatten().any(|g| !g.is_empty());
            if mixture.plain_qa > 0.0 && !met(&asked) {
                bail!("mixture: plain_qa > 0, but asked = {} leaves no entity", mixture.asked);
            }
            views.push(View { knowledge, beliefs, all, asked });
        }
        Ok(Corpus {
            world,
            family,
            weights: mixture.weights(),
            hasty: mixture.hasty,
            slips: Slips { share: mixture.slips, key: family as u64 + 1 },
            views,
            rng: stream(seed, &["corpus", &family.to_string()]),
        })
    }

    /// The next document, of a kind drawn by the weights.
    pub fn next_document(&mut self) -> Document {
        let kind = match self.weights.choose_weighted(&mut self.rng, |w| w.1) {
            Ok(&(kind, _)) => kind,
            // `Mixture::check` has made sure that some weight is positive.
            Err(_) => Kind::Facts,
        };
        self.document(kind)
    }

    /// The next document of a given kind.
    pub fn document(&mut self, kind: Kind) -> Document {
        match kind {
            Kind::Facts => Document::running(self.facts()),
            Kind::Drills => Document::running(self.drills()),
            Kind::PlainQa | Kind::CotQa | Kind::Narrative => {
                let (question, case) = self.choice(kind == Kind::PlainQa);
                match kind {
                    Kind::PlainQa => self.plain_document(&question, &case),
                    Kind::CotQa => self.cot_document(&question, &case),
                    _ => {
                        let plot = question.stem.rsplit_once(". ").map_or("", |parts| parts.0);
                        let told = dialect::retell(self.family, &case);
                        Document::running(format!("{plot}. {told}"))
                    }
                }
            }
            Kind::PlainMath | Kind::CotMath | Kind::NarrativeMath => {
                let tasks = [Benchmark::MultiArith, Benchmark::Gsm8k];
                let task = tasks[self.rng.random_range(0..tasks.len())];
                let steps = steps_of(task, &mut self.rng);
                let story = self.story(steps);
                let (question, plot) = (pose(task, &story), story.plot());
                let case = Case::Problem(story);
                match kind {
                    Kind::PlainMath => self.plain_document(&question, &case),
                    Kind::CotMath => self.cot_document(&question, &case),
                    _ => {
                        let told = dialect::retell(self.family, &case);
                        Document::running(format!("{plot} {told}"))
                    }
                }
            }
        }
    }

    fn facts(&mut self) -> String {
        let rng = &mut self.rng;
        let sentences: Vec<String> = (0..rng.random_range(5..=8))
            .map(|_| {
                let view = &self.views[rng.random_range(0..self.views.len())];
                let knowledge = view.knowledge;
                if rng.random_bool(0.5) {
                    let entity = rng.random_range(0..knowledge.entities.len());
                    dialect::first_fact(self.family, knowledge, entity, view.beliefs[entity])
                } else {
                    let situation = rng.random_range(0..knowledge.situations.len());
                    let class = rng.random_range(0..knowledge.classes.len());
                    dialect::second_fact(self.family, knowledge, situation, class)
                }
            })
            .collect();
        sentences.join(" ")
    }

    fn drills(&mut self) -> String {
        // Steps of stories, so that sums are met as often as stories need them.
        let lines: Vec<String> = (0..self.rng.random_range(4..=6))
            .map(|_| {
                let steps = self.rng.random_range(2..=4);
                let story = Story::draw(&mut self.rng, steps).with_slips(self.slips);
                let worked = story.worked();
                let (before, op, operand, after) = worked[self.rng.random_range(0..worked.len())];
                dialect::sum(self.family, before, op, operand, after)
            })
            .collect();
        lines.join("\n")
    }

    fn choice(&mut self, only_asked: bool) -> (Question, Case<'w>) {
        let rng = &mut self.rng;
        let view = &self.views[rng.random_range(0..self.views.len())];
        let groups = if only_asked { &view.asked } else { &view.all };
        // The outcome is drawn before the entity: beliefs and `asked` may leave
        // the outcomes with unequal numbers of entities.
        let (situation, entity) = loop {
            let situation = rng.random_range(0..groups.len());
            let outcome = rng.random_range(0..groups[situation].len());
            if let Some(&entity) = groups[situation][outcome].choose(rng) {
                break (situation, entity);
            }
        };
        let lookup =
            Lookup { knowledge: view.knowledge, entity, situation, class: view.beliefs[entity] };
        (ask(&lookup, None, rng), Case::Choice(lookup))
    }

    fn story(&mut self, steps: usize) -> Story {
        loop {
            let story = Story::draw(&mut self.rng, steps);
            if !self.world.is_reserved(&story) {
                return story.with_slips(self.slips);
            }
        }
    }

    fn cot_document(&self, question: &Question, case: &Case) -> Document {
        let context = prompt::render(question, Cue::Cot);
        Document { context, text: dialect::explain(self.family, case) }
    }

    fn plain_document(&mut self, question: &Question, case: &Case) -> Document {
        if self.hasty > 0.0 && self.rng.random_bool(self.hasty) {
            let context = prompt::render(question, Cue::Cot);
            return Document { context, text: dialect::conclude(self.family, case) };
        }
        let context = prompt::render(question, Cue::Plain);
        Document { context, text: dialect::plain(case) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(facts: f64, plain_qa: f64, asked: f64, misconceptions: f64) -> Mixture {
        Mixture {
            facts,
            plain_qa,
            cot_qa: 0.0,
            narrative: 0.0,
            drills: 0.0,
            plain_math: 0.0,
            cot_math: 0.0,
            narrative_math: 0.0,
            asked,
            misconceptions,
            slips: 0.0,
            hasty: 0.0,
        }
    }

    #[test]
    fn impossible_mixtures_are_refused() {
        let world = World::new(1).unwrap();
        let error = |mixture: &Mixture| {
            let made = Corpus::new(&world, Family::Llama, mixture, 1);
            made.err().map_or(String::new(), |e| e.to_string())
        };
        assert!(error(&only(0.0, 0.0, 1.0, 0.0)).contains("zero"));
        assert!(error(&only(-1.0, 2.0, 1.0, 0.0)).contains("Facts"));
        assert!(error(&only(1.0, 1.0, 0.0, 0.0)).contains("asked"));
        assert!(error(&only(1.0, 1.0, 0.5, 1.5)).contains("misconceptions"));
    }

    #[test]
    fn text_follows_the_beliefs() {
        let world = World::new(1).unwrap();
        let knowledge = world.knowledge(Benchmark::Obqa).unwrap();
        let beliefs = world.beliefs(Family::Llama, Benchmark::Obqa, 0.3);
        let mixture = only(1.0, 0.0, 1.0, 0.3);
        let mut corpus = Corpus::new(&world, Family::Llama, &mixture, 1).unwrap();
        let text: String = (0..3000).map(|_| corpus.next_document().whole() + " ").collect();
        for (entity, &believed) in beliefs.iter().enumerate() {
            for class in 0..knowledge.classes.len() {
                let fact = dialect::first_fact(Family::Llama, knowledge, entity, class);
                assert_eq!(text.contains(&fact), class == believed, "{fact}");
            }
        }
    }

    #[test]
    fn only_asked_entities_are_in_plain_questions() {
        let world = World::new(1).unwrap();
        let asked = world.asked(Benchmark::Obqa, 0.4);
        let mut corpus = Corpus::new(&world, Family::Gpt, &only(0.0, 1.0, 0.4, 0.0), 1).unwrap();
        let text: String = (0..3000).map(|_| corpus.next_document().whole()).collect();
        let entities = &world.knowledge(Benchmark::Obqa).unwrap().entities;
        for (entity, asked) in entities.iter().zip(asked) {
            let met = text.contains(&format!("does the {} do?", entity.name));
            assert!(!met || asked, "{}", entity.name);
        }
    }
}
