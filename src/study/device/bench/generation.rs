//! Annotation and decoding, on a model in bf16.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::Tensor;
use rand::Rng;
use serde_json::json;

use super::part::Deadline;
use super::session::{Session, time};
use super::{Shape, Work};
use crate::model::ops::Continuation;
use crate::model::ops::gpu::sample;
use crate::model::{Cache, Sampling, Transformer, generate_limited, rng, tensor_shapes};

/// Prompts of random tokens, in the order of the file, with their answers' lengths.
struct Prompts {
    tokens: Vec<Vec<u32>>,
    keys: Vec<String>,
    limits: Vec<usize>,
}

impl Prompts {
    fn new(rows: impl Iterator<Item = (usize, usize)>, vocab: usize) -> Prompts {
        let mut rng = rng::stream(1, "prompts");
        let (tokens, limits): (Vec<Vec<u32>>, Vec<usize>) = rows
            .map(|(len, new)| ((0..len).map(|_| rng.random_range(3..vocab as u32)).collect(), new))
            .unzip();
        let keys = (0..limits.len()).map(|i| i.to_string()).collect();
        Prompts { tokens, keys, limits }
    }

    fn new_tokens(&self) -> usize {
        self.limits.iter().sum()
    }

    fn prompt_tokens(&self) -> usize {
        self.tokens.iter().map(Vec::len).sum()
    }

    /// Seconds of all answers, each to its limit or to `most` tokens.
    fn run(&self, model: &Transformer, slots: usize, most: usize) -> Result<f64> {
        let sampling = Sampling {
            temperature: 0.0,
            max_new_tokens: most,
            seed: 1,
            batch: slots,
            stop: Vec::new(),
            samples: 1,
        };
        let start = Instant::now();
        let (prompts, keys) = (&self.tokens, &self.keys);
        // No token ends an answer.
        let none: &[u32] = &[];
        let all =
            generate_limited(model, prompts, keys, &self.limits, &sampling, none, &mut || ())?;
        anyhow::ensure!(
            all.iter().zip(&self.limits).all(|(g, limit)| g.tokens.len() == most.min(*limit)),
            "an answer has not the length that was asked for"
        );
        Ok(start.elapsed().as_secs_f64())
    }
}

impl Session<'_> {
    /// For each number of slots all prompts, or as many as there is time for, taken
    /// evenly from the list. A slot that ends takes the next prompt at once.
    pub(super) fn annotate(&mut self, shape: Shape, deadline: Deadline) -> Result<()> {
        let (sizes, model) = (shape.sizes(), self.model(shape, false)?);
        for (i, &slots) in sizes.slots.iter().enumerate() {
            let known = json!({ "shape": shape.name(), "batch": slots });
            let left = deadline.left().div_f64((sizes.slots.len() - i) as f64);
            self.guarded(Work::Annotate, &known, |s| s.slots(&model, shape, slots, left))?;
        }
        Ok(())
    }

    fn slots(
        &mut self,
        model: &Transformer,
        shape: Shape,
        slots: usize,
        left: Duration,
    ) -> Result<()> {
        self.gpu.trim()?;
        let vocab = shape.config().vocab_size;
        let lengths = &self.plan.lengths;
        let all = lengths.prompt_tokens.len();
        let row = |i| (lengths.prompt_tokens[i], lengths.new_tokens[i]);
        let some = |count: usize| Prompts::new((0..count).map(|i| row(i * all / count)), vocab);
        // What a token of a prompt takes, and what a step of all slots: the trial tells how
        // many prompts there is time for.
        let trial = some(slots.min(all));
        let begun = Instant::now();
        trial.run(model, slots, 1)?;
        let first = trial.run(model, slots, 1)?;
        let step =
            (trial.run(model, slots, TRIAL_TOKENS)? - first).max(0.0) / (TRIAL_TOKENS - 1) as f64;
        let whole = some(all);
        let seconds = first * whole.prompt_tokens() as f64 / trial.prompt_tokens() as f64
            + step * whole.new_tokens() as f64 / slots as f64;
        let left = left.saturating_sub(begun.elapsed()).as_secs_f64();
        let count = ((all as f64 * 0.9 * left / seconds.max(1e-9)) as usize).min(all);
        anyhow::ensure!(
            count >= slots.min(all),
            "no time left: all {all} prompts would take {seconds:.0} s, and there are {left:.0}"
        );
        let prompts = if count == all { whole } else { some(count) };
        let most = prompts.limits.iter().copied().max().unwrap_or(1);
        let taken = prompts.run(model, slots, most)?;
        let scaled =
            if count == all { "" } else { ", evenly from the list, seconds scaled to all" };
        let found = json!({
            "shape": shape.name(), "batch": slots,
            "tokens_per_s": prompts.new_tokens() as f64 / taken,
            "seconds": taken * all as f64 / count as f64,
            "prompts": all, "prompts_measured": count, "repeats": 1, "spread": null,
            "notes": format!(
                "{count} of {all} prompts measured, the longest first{scaled}; a slot that \
                 ends takes the next prompt at once, and the last ones run out empty"
            ),
        });
        self.line("annotate", &[found, self.memory()?])
    }

    /// Steps of sequences of one length: what generation does between two refills.
    pub(super) fn decode(&mut self, shape: Shape, deadline: Deadline) -> Result<()> {
        let (sizes, limits) = (shape.sizes(), self.limits()?);
        let model = self.model(shape, false)?;
        for (i, &streams) in sizes.streams.iter().enumerate() {
            let known = json!({ "shape": shape.name(), "batch": streams });
            let left = deadline.left().div_f64((sizes.streams.len() - i) as f64);
            self.guarded(Work::Decode, &known, |s| {
                s.gpu.trim()?;
                let mut run = Streams::new(&model, streams, sizes.context, sizes.new + WARM)?;
                let taken = time(&s.gpu, (WARM, sizes.new), left.mul_f64(0.8), || run.step())?;
                // The middle of what was measured.
                let tokens = sizes.context + WARM + taken.0.len() / 2;
                let config = &model.config;
                // All weights but the table of embeddings, and the cache, once each, in bf16.
                let weights: usize = tensor_shapes(config)
                    .iter()
                    .filter(|(name, _)| !name.contains("embed_tokens"))
                    .map(|(_, shape)| shape.iter().product::<usize>())
                    .sum();
                let row = 2 * config.num_key_value_heads * config.head_dim();
                let cache = streams * tokens * row * config.num_hidden_layers;
                let rate = 1e3 * 2.0 * (weights + cache) as f64 / taken.median();
                let found = json!({
                    "shape": shape.name(), "batch": streams, "context": sizes.context,
                    "tokens_per_s": 1e3 * streams as f64 / taken.median(),
                    "bytes_per_step": 2 * (weights + cache),
                    "bandwidth": {
                        "bytes_per_s": rate, "limit_bytes_per_s": limits.bytes_per_s,
                        "share": rate / limits.bytes_per_s,
                    },
                    "notes": "a step and its tokens on the host; spread is over single steps; \
                        bytes are weights and cache, read once; the limit is that of a copy",
                });
                s.line("decode", &[found, taken.fields(), s.memory()?])
            })?;
        }
        Ok(())
    }
}

/// New tokens of a trial.
const TRIAL_TOKENS: usize = 9;

/// Decoded tokens before the clock counts.
const WARM: usize = 4;

/// Sequences that decode together.
struct Streams<'a> {
    model: &'a Transformer,
    cache: Cache,
    /// The last token of each.
    tokens: Vec<u32>,
    rows: Vec<Continuation>,
}

impl<'a> Streams<'a> {
    /// Reads a prompt of `context` random tokens into each, one after the other, so that
    /// their activations need little memory.
    fn new(model: &'a Transformer, count: usize, context: usize, new: usize) -> Result<Self> {
        let mut cache = Cache::new(model, count, context + new)?;
        let prompts = Prompts::new((0..count).map(|_| (context, new)), model.config.vocab_size);
        for (slot, prompt) in prompts.tokens.iter().enumerate() {
            let row = Continuation { start: 0, len: context, slot };
            model.step(prompt, &[row], &mut cache)?;
        }
        let rows = (0..count).map(|slot| Continuation { start: slot, len: 1, slot }).collect();
        Ok(Streams { model, cache, tokens: vec![3; count], rows })
    }

    fn step(&mut self) -> Result<()> {
        let states = self.model.step(&self.tokens, &self.rows, &mut self.cache)?;
        // As generation does: here every row is the last of its sequence.
        let last: Vec<u32> = (0..self.rows.len() as u32).collect();
        let last = Tensor::new(last.as_slice(), states.device())?;
        let logits = self.model.logits(&states.index_select(&last, 0)?)?;
        let gpu = crate::model::ops::gpu::Gpu::of(&logits).context("decoding needs a GPU")?;
        self.tokens = sample(&gpu, &logits, 0.0, &vec![0.0; self.rows.len()])?;
        Ok(())
    }
}
