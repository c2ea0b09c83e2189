//! Who computes which micro-batches, and what all have seen of a step.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::World;
use crate::tune::{Metrics, Objective};

/// This rank's micro-batches of a step, each with its index in the step.
///
/// A step with fewer micro-batches than ranks has each of them split. Then dropout draws
/// other masks than in one process: a mask hangs on the index. With
/// `gradient_accumulation_steps` no less than the number of ranks, it does not come to
/// that. A rank for which there are not even single items does nothing in the step.
pub(in crate::tune) fn share<O: Objective>(
    world: &World,
    objective: &O,
    step: Vec<O::Batch>,
) -> Result<Vec<(usize, O::Batch)>> {
    let (rank, size) = (world.rank(), world.size());
    let parts = size.div_ceil(step.len().max(1));
    let mut all = Vec::new();
    for batch in step {
        match parts {
            1 => all.push(batch),
            _ => all.extend(objective.split(batch, parts)?),
        }
    }
    Ok(all.into_iter().enumerate().filter(|(i, _)| i % size == rank).collect())
}

/// Loss and metrics of one micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::tune) struct Seen {
    /// Of the micro-batch in the step.
    pub index: usize,
    pub loss: f64,
    pub metrics: Metrics,
}

/// With its numbers as bits: decimal text read back may be off in the last digit.
#[derive(Serialize, Deserialize)]
struct Sent {
    index: usize,
    loss: u64,
    metrics: BTreeMap<String, (u64, u64)>,
}

impl World {
    /// What all ranks have seen of a step, in the order of its micro-batches: summed in
    /// that order, it is what one process would have logged.
    pub(in crate::tune) fn all_seen(&mut self, own: Vec<Seen>) -> Result<Vec<Seen>> {
        if self.is_alone() {
            return Ok(own);
        }
        let sent: Vec<Sent> = own
            .into_iter()
            .map(|s| {
                let bits = |(k, (a, b)): (String, (f64, f64))| (k, (a.to_bits(), b.to_bits()));
                let metrics = s.metrics.into_iter().map(bits).collect();
                Sent { index: s.index, loss: s.loss.to_bits(), metrics }
            })
            .collect();
        let mut all = Vec::new();
        for (rank, message) in self.gather(&serde_json::to_vec(&sent)?)?.iter().enumerate() {
            let theirs: Vec<Sent> = serde_json::from_slice(message)
                .with_context(|| format!("rank {rank}: a broken message; mixed versions?"))?;
            all.extend(theirs.into_iter().map(|s| {
                let value = |(k, (a, b))| (k, (f64::from_bits(a), f64::from_bits(b)));
                let metrics = s.metrics.into_iter().map(value).collect();
                Seen { index: s.index, loss: f64::from_bits(s.loss), metrics }
            }));
        }
        all.sort_by_key(|s| s.index);
        Ok(all)
    }
}
