//! Deals the combinations of entity and situation to the splits.

use std::fmt;

use anyhow::ensure;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::knowledge::Knowledge;

/// What a question may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// May occur in pretraining documents.
    Pretrain,
    /// For teaching; never seen in pretraining.
    Train,
    /// For measuring; never seen before.
    Test,
}

impl Split {
    pub const ALL: [Split; 3] = [Split::Pretrain, Split::Train, Split::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Split::Pretrain => "pretrain",
            Split::Train => "train",
            Split::Test => "test",
        })
    }
}

/// Questions of each benchmark in `Train`, and as many in `Test`.
pub const SPLIT_SIZE: usize = 600;

/// One entity in one situation: what a question asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Combo {
    pub entity: usize,
    pub situation: usize,
}

/// The combinations of each split, in the order of [`Split::ALL`].
///
/// In each situation of a split the outcomes occur equally often (give or take
/// one), so that knowing the situation alone is worth nothing; entities are
/// spread evenly, so that each is met in every split.
pub fn deal(knowledge: &Knowledge, rng: &mut ChaCha8Rng) -> anyhow::Result<[Vec<Combo>; 3]> {
    let mut splits: [Vec<Combo>; 3] = Default::default();
    let situations = shuffled(knowledge.situations.len(), rng);
    let mut used = [vec![0u32; knowledge.entities.len()], vec![0u32; knowledge.entities.len()]];
    for (rank, &situation) in situations.iter().enumerate() {
        let outcomes = knowledge.situations[situation].outcomes.len();
        let share = part(SPLIT_SIZE, situations.len(), rank);
        // Ranks of outcomes decide who gets the odd ones; one shuffle for both
        // splits would make train and test lean the same way.
        let ranks = shuffled(outcomes, rng).into_iter().zip(shuffled(outcomes, rng));
        for (outcome, (test, train)) in ranks.enumerate() {
            let of_class = &knowledge.situations[situation].outcome_of;
            let mut group = shuffled(knowledge.entities.len(), rng);
            group.retain(|&e| of_class[knowledge.entities[e].class] == outcome);
            let shares = [(Split::Test, test), (Split::Train, train)];
            for (side, (split, rank)) in shares.into_iter().enumerate() {
                let take = part(share, outcomes, rank);
                ensure!(
                    take < group.len(),
                    "{}: situation {:?} has too few entities for the splits",
                    knowledge.task,
                    knowledge.situations[situation].cue
                );
                // Stable: ties keep the order of the shuffle.
                group.sort_by_key(|&e| used[side][e]);
                for entity in group.drain(..take) {
                    used[side][entity] += 1;
                    splits[split as usize].push(Combo { entity, situation });
                }
            }
            let rest = group.into_iter().map(|entity| Combo { entity, situation });
            splits[Split::Pretrain as usize].extend(rest);
        }
    }
    splits.iter_mut().for_each(|split| split.shuffle(rng));
    Ok(splits)
}

/// `count` positions below `letters`, each equally often give or take one.
pub fn balanced_letters(count: usize, letters: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).map(|i| i % letters).collect();
    all.shuffle(rng);
    all
}

/// The size of part `rank` when `total` is cut into `parts` equal parts and the
/// first ones take what is left over.
fn part(total: usize, parts: usize, rank: usize) -> usize {
    total / parts + usize::from(rank < total % parts)
}

fn shuffled(count: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    all.shuffle(rng);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::knowledge;
    use rand::SeedableRng;

    #[test]
    fn parts_add_up() {
        assert_eq!((0..14).map(|rank| part(600, 14, rank)).sum::<usize>(), 600);
    }

    #[test]
    fn every_entity_is_in_every_split() {
        for knowledge in knowledge::load().unwrap() {
            let splits = deal(&knowledge, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
            for split in &splits {
                let mut met = vec![false; knowledge.entities.len()];
                split.iter().for_each(|combo| met[combo.entity] = true);
                assert!(met.into_iter().all(|m| m), "{}", knowledge.task);
            }
            let total = splits.iter().map(Vec::len).sum::<usize>();
            assert_eq!(total, knowledge.entities.len() * knowledge.situations.len());
        }
    }
}
