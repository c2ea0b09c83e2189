//! Which questions a stage is about, and where they come from.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::model::hub::{self, Snapshot};
use crate::task::{Benchmark, Gold, NativeSplit, Question, Split, World, draw, hub_files, load};

/// Which questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionsRef {
    pub benchmark: Benchmark,
    pub split: Split,
    /// The first of the split; 0 is all.
    pub count: usize,
    pub source: Source,
    /// Drawn with this seed instead of the first, each gold letter equally often (P1,
    /// Table 13).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<u64>,
    /// Of one side of a split that is cut in two first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

/// The train split in two: to learn from, and to choose checkpoints by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Questions held out.
    pub hold_out: usize,
    pub seed: u64,
    pub side: Side,
}

/// A side of a [`Cut`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Train,
    HeldOut,
}

/// Where questions come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The pocket world of this seed.
    World(u64),
    /// Real benchmarks, in sub-folders named like them or like their ids on the hub.
    Folder(PathBuf),
    /// Downloaded from the hub, at the revisions of `data/benchmarks.toml`; the value
    /// is a hash of the files' contents.
    Hub(String),
}

impl QuestionsRef {
    pub fn load(&self) -> Result<Vec<Question>> {
        let mut all = match &self.source {
            Source::World(seed) => World::new(*seed)?.questions(self.benchmark, self.split),
            Source::Folder(dir) => load(self.benchmark, dir, self.native_split())?,
            Source::Hub(_) => {
                // Making the plan has brought the files; a branch that moves meanwhile, or
                // a network that fails, must not change what a stage reads.
                let split = self.native_split();
                load(self.benchmark, &snapshot(self.benchmark, split, true)?.dir, split)?
            }
        };
        if let Some(cut) = self.cut {
            let two = draw::hold_out(&all, cut.hold_out, cut.seed)?;
            all = match cut.side {
                Side::Train => two.train,
                Side::HeldOut => two.held,
            };
        }
        if self.count == 0 || self.count >= all.len() {
            return Ok(all);
        }
        let Some(seed) = self.draw else {
            all.truncate(self.count);
            return Ok(all);
        };
        let Some(letters) = self.benchmark.options() else {
            return Ok(draw::draw(&all, draw::Size::Total(self.count), seed)?.questions);
        };
        // Where the count is no multiple of the letters, the first ones get one more.
        let per_class = draw::Size::PerClass(self.count.div_ceil(letters));
        let (each, mut extra) = (self.count / letters, self.count % letters);
        let mut taken = vec![0; letters];
        let mut drawn = draw::draw(&all, per_class, seed)?.questions;
        drawn.retain(|q| {
            let Gold::Choice(class) = q.gold else { return false };
            taken[class] += 1;
            if taken[class] <= each {
                return true;
            }
            let take = extra > 0;
            extra = extra.saturating_sub(1);
            take
        });
        Ok(drawn)
    }

    /// The papers test on the validation split where test golds are hidden.
    fn native_split(&self) -> NativeSplit {
        match self.split {
            Split::Test => NativeSplit::scored(self.benchmark),
            _ => NativeSplit::Train,
        }
    }
}

/// A split of a benchmark from the hub, or from its cache.
pub fn snapshot(benchmark: Benchmark, split: NativeSplit, offline: bool) -> Result<Snapshot> {
    let (repo, revision, files) = hub_files(benchmark, split)?;
    hub::fetch(&hub::Request { kind: hub::Kind::Dataset, repo, revision, files, offline })
}
