//! Keys and values of sequences being generated.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::ops::gpu::{self, DeviceCache, Gpu, StepRows};
use super::ops::{self, AttentionShape, Continuation, Memory};
use super::transformer::Transformer;

/// A memory for each of some sequences, the slots, in every layer.
pub struct Cache {
    store: Store,
}

enum Store {
    /// `memory[layer][slot]`; each grows as it needs.
    Host(Vec<Vec<Memory>>),
    /// Room for `capacity` tokens in every slot, taken at once.
    Device { gpu: Gpu, layers: Vec<DeviceCache>, lengths: Vec<usize>, capacity: usize },
}

/// What all layers of one step share.
pub(super) enum Step<'a> {
    Host(&'a [Continuation]),
    Device(StepRows),
}

impl Cache {
    /// Empty slots for sequences of up to `capacity` tokens.
    pub fn new(model: &Transformer, slots: usize, capacity: usize) -> Result<Cache> {
        let shapes = model.attention_shapes();
        let place = model.placement();
        let store = match Gpu::on(&place.device) {
            None => Store::Host(vec![vec![Memory::default(); slots]; shapes.len()]),
            Some(gpu) => {
                let layer =
                    |s: &AttentionShape| DeviceCache::new(&gpu, slots, capacity, s, place.dtype);
                let layers: candle_core::Result<_> = shapes.iter().copied().map(layer).collect();
                let layers = layers.with_context(|| {
                    let width = |s: &&AttentionShape| 2 * s.kv_heads * s.head_dim;
                    let values: usize = shapes.iter().map(width).sum();
                    let bytes = slots * capacity * values * place.dtype.size_in_bytes();
                    format!(
                        "keys and values of {slots} sequences of up to {capacity} tokens take \
                         {:.1} GB; generate fewer at a time (generation_batch)",
                        bytes as f64 / 1e9
                    )
                })?;
                Store::Device { gpu, layers, lengths: vec![0; slots], capacity }
            }
        };
        Ok(Cache { store })
    }

    /// Makes slot `to` a copy of another: a shared prompt prefix is computed once.
    pub fn copy(&mut self, from: usize, to: usize) -> Result<()> {
        match &mut self.store {
            Store::Host(memory) => {
                for layer in memory {
                    layer[to] = layer[from].clone();
                }
            }
            Store::Device { gpu, layers, lengths, .. } => {
                lengths[to] = lengths[from];
                if lengths[from] > 0 {
                    for layer in layers {
                        layer.copy(gpu, from, to, lengths[from])?;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn clear(&mut self, slot: usize) {
        match &mut self.store {
            Store::Host(memory) => {
                for layer in memory {
                    layer[slot] = Memory::default();
                }
            }
            Store::Device { lengths, .. } => lengths[slot] = 0,
        }
    }

    /// Prepares for new rows.
    pub(super) fn begin<'a>(&self, rows: &'a [Continuation]) -> Result<Step<'a>> {
        match &self.store {
            Store::Host(_) => Ok(Step::Host(rows)),
            Store::Device { gpu, lengths, capacity, .. } => {
                for c in rows {
                    let total = lengths[c.slot] + c.len;
                    ensure!(
                        total <= *capacity,
                        "attention: {total} tokens, but the cache has room for {capacity}"
                    );
                }
                Ok(Step::Device(StepRows::new(gpu, rows, lengths)?))
            }
        }
    }

    /// Attention of one layer; keeps the new keys and values.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        shape: &AttentionShape,
        step: &Step,
    ) -> Result<Tensor> {
        Ok(match (&mut self.store, step) {
            (Store::Host(memory), Step::Host(rows)) => {
                ops::cached_attention(q, k, v, shape, rows, &mut memory[layer])?
            }
            (Store::Device { gpu, layers, .. }, Step::Device(rows)) => {
                gpu::cached_attention(gpu, (q, k, v), shape, rows, &mut layers[layer])?
            }
            _ => unreachable!("a step is prepared by its own cache"),
        })
    }

    /// Counts the rows of a step whose layers have all run.
    pub(super) fn end(&mut self, rows: &[Continuation]) {
        if let Store::Device { lengths, .. } = &mut self.store {
            for c in rows {
                lengths[c.slot] += c.len;
            }
        }
    }
}
