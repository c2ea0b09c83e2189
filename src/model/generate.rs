//! Batched generation with a key–value cache.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::ops::gpu::Gpu;
use super::ops::{self, Continuation, with_values};
use super::rng;
use super::tokenizer::Tokenizer;
use super::transformer::Transformer;

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the most probable token.
    pub temperature: f64,
    pub max_new_tokens: usize,
    pub seed: u64,
    /// Sequences in flight at a time.
    pub batch: usize,
    /// Texts that end an answer, as they do behind a server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// What ends an answer.
#[derive(Clone, Copy)]
pub struct Stops<'a> {
    pub ids: &'a [u32],
    /// Decodes tokens, to look for [`Sampling::stop`]; none: only ids end an answer.
    pub tokenizer: Option<&'a Tokenizer>,
}

impl<'a> From<&'a Tokenizer> for Stops<'a> {
    fn from(tokenizer: &'a Tokenizer) -> Stops<'a> {
        Stops { ids: &tokenizer.stops, tokenizer: Some(tokenizer) }
    }
}

impl<'a> From<&'a [u32]> for Stops<'a> {
    fn from(ids: &'a [u32]) -> Stops<'a> {
        Stops { ids, tokenizer: None }
    }
}

impl Stops<'_> {
    /// Whether `tokens`, the last of which is new, end with or within a stop text. A
    /// text may be spread over several tokens, each of at least one byte.
    fn ended(&self, tokens: &[u32], stop: &[String]) -> Result<bool> {
        let Some(tokenizer) = self.tokenizer.filter(|_| !stop.is_empty()) else {
            return Ok(false);
        };
        let longest = stop.iter().map(String::len).max().unwrap_or(0);
        let tail = &tokens[tokens.len().saturating_sub(longest + 1)..];
        let text = tokenizer.decode(tail)?;
        Ok(stop.iter().any(|s| text.contains(s.as_str())))
    }
}

/// One generated continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Without the token that ended it.
    pub tokens: Vec<u32>,
    /// Ended by itself, not by the length limit.
    pub finished: bool,
}

struct Active {
    prompt: usize,
    tokens: Vec<u32>,
    rng: ChaCha8Rng,
    /// Tokens to feed next: the prompt at first, then the last token drawn.
    feed: Vec<u32>,
}

/// Continues each prompt (ids, BOS included). Prompt `i` draws from its own
/// stream, `keys[i]` and the seed, so a sample does not depend on its neighbours.
/// A slot that finishes takes the next prompt at once; the prefix that all
/// prompts share is computed once. An id of `stops` or a text of `sampling.stop` ends
/// an answer; the text is left in it. `done` is called as each prompt ends.
pub fn generate<'a>(
    model: &Transformer,
    prompts: &[Vec<u32>],
    keys: &[String],
    sampling: &Sampling,
    stops: impl Into<Stops<'a>>,
    done: &mut dyn FnMut(),
) -> Result<Vec<Generation>> {
    let stops = stops.into();
    ensure!(prompts.len() == keys.len(), "{} prompts, {} keys", prompts.len(), keys.len());
    ensure!(sampling.batch > 0, "batch must be at least 1");
    let positions = model.config.max_position_embeddings;
    for (p, key) in prompts.iter().zip(keys) {
        ensure!(
            !p.is_empty() && p.len() < positions,
            "prompt {key} has {} tokens, the model takes 1 to {}",
            p.len(),
            positions - 1
        );
    }
    let mut results: Vec<Option<Generation>> = prompts.iter().map(|_| None).collect();
    let slots = sampling.batch.min(prompts.len());
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let capacity = (longest + sampling.max_new_tokens).min(positions);
    let mut cache = Cache::new(model, slots + 1, capacity)?;
    let shared = shared_prefix(prompts);
    if shared > 0 {
        let row = Continuation { start: 0, len: shared, slot: slots };
        model.step(&prompts[0][..shared], &[row], &mut cache)?;
    }
    let mut active: Vec<Option<Active>> = (0..slots).map(|_| None).collect();
    let mut next = 0;
    loop {
        for (slot, place) in active.iter_mut().enumerate() {
            if place.is_none() && next < prompts.len() {
                cache.copy(slots, slot)?;
                *place = Some(Active {
                    prompt: next,
                    tokens: Vec::new(),
                    rng: rng::stream(sampling.seed, &keys[next]),
                    feed: prompts[next][shared..].to_vec(),
                });
                next += 1;
            }
        }
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        for (slot, a) in active.iter().enumerate() {
            let Some(a) = a else { continue };
            rows.push(Continuation { start: tokens.len(), len: a.feed.len(), slot });
            tokens.extend_from_slice(&a.feed);
        }
        if rows.is_empty() {
            break;
        }
        let states = model.step(&tokens, &rows, &mut cache)?;
        let last: Vec<u32> = rows.iter().map(|r| (r.start + r.len - 1) as u32).collect();
        let last = Tensor::new(last.as_slice(), states.device())?;
        let logits = model.logits(&states.index_select(&last, 0)?)?;
        let streams = rows.iter().map(|r| r.slot);
        let drawn = draw_rows(&logits, sampling.temperature, streams, &mut active)?;
        for (token, row) in drawn.into_iter().zip(&rows) {
            let place = &mut active[row.slot];
            let a = place.as_mut().expect("only active slots have rows");
            let mut ends = stops.ids.contains(&token);
            if !ends {
                a.tokens.push(token);
                ends = stops.ended(&a.tokens, &sampling.stop)?;
            }
            let length = prompts[a.prompt].len() + a.tokens.len();
            let full = a.tokens.len() >= sampling.max_new_tokens || length >= positions;
            if ends || full {
                let a = place.take().expect("as above");
                results[a.prompt] = Some(Generation { tokens: a.tokens, finished: ends });
                done();
            } else {
                a.feed = vec![token];
            }
        }
    }
    Ok(results.into_iter().map(|r| r.expect("every prompt was run to its end")).collect())
}

/// Length of the prefix that all prompts share, short of their last token: each
/// prompt must feed at least one token of its own.
pub fn shared_prefix(prompts: &[Vec<u32>]) -> usize {
    let Some(first) = prompts.first() else { return 0 };
    prompts
        .iter()
        .map(|p| first.iter().zip(p).take_while(|(a, b)| a == b).count().min(p.len() - 1))
        .min()
        .unwrap_or(0)
}

/// One token for each row of logits, drawn with the stream of its slot.
fn draw_rows(
    logits: &Tensor,
    temperature: f64,
    slots: impl Iterator<Item = usize>,
    active: &mut [Option<Active>],
) -> Result<Vec<u32>> {
    let vocab = logits.dim(1)?;
    fn stream(active: &mut [Option<Active>], slot: usize) -> &mut ChaCha8Rng {
        &mut active[slot].as_mut().expect("only active slots have rows").rng
    }
    if let Some(gpu) = Gpu::of(logits) {
        let u: Vec<f64> = slots
            .map(|s| if temperature > 0.0 { stream(active, s).random() } else { 0.0 })
            .collect();
        return Ok(ops::gpu::sample(&gpu, logits, temperature, &u)?);
    }
    Ok(with_values("sample", logits, |z| {
        let rows = z.chunks_exact(vocab).zip(slots);
        Ok(rows.map(|(z, slot)| draw(z, temperature, stream(active, slot))).collect())
    })?)
}

/// One token from a row of logits: the first most probable at temperature 0,
/// else a draw from `softmax(z / temperature)`.
fn draw(z: &[f32], temperature: f64, rng: &mut ChaCha8Rng) -> u32 {
    let (best, top) = z
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |m, (i, x)| if *x > m.1 { (i, *x) } else { m });
    if temperature <= 0.0 {
        return best as u32;
    }
    // Below e^-40 nothing is ever drawn, and most of a vocabulary is below it.
    let weight = |x: f32| {
        let z = ((x - top) as f64) / temperature;
        if z > -40.0 { z.exp() } else { 0.0 }
    };
    let total: f64 = z.iter().map(|x| weight(*x)).sum();
    let mut left = rng.random::<f64>() * total;
    for (i, x) in z.iter().enumerate() {
        left -= weight(*x);
        if left < 0.0 {
            return i as u32;
        }
    }
    best as u32
}
