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
    /// Answers to each prompt, each drawn from a stream of its own.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub samples: usize,
}

impl Sampling {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<()> {
        ensure!(self.batch > 0, "batch must be at least 1");
        ensure!(self.samples > 0, "samples must be at least 1");
        ensure!(
            self.samples == 1 || self.temperature > 0.0,
            "samples: all {} would be the same at temperature 0; set a higher one",
            self.samples
        );
        Ok(())
    }
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
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

/// One sample being generated.
struct Active {
    prompt: usize,
    sample: usize,
    tokens: Vec<u32>,
    rng: ChaCha8Rng,
    /// Tokens to feed next: the prompt at first, then the last token drawn.
    feed: Vec<u32>,
}

/// A prompt that is computed, some samples of which wait for a slot.
struct Parked {
    prompt: usize,
    next: usize,
    /// Logits after the prompt's last token.
    logits: Tensor,
}

/// What the samples of a run share, and what became of them.
struct Run<'a> {
    prompts: &'a [Vec<u32>],
    keys: &'a [String],
    sampling: &'a Sampling,
    /// New tokens of each prompt's answers at most; none: the sampling's for all.
    limits: Option<&'a [usize]>,
    stops: Stops<'a>,
    positions: usize,
    /// Prompt by prompt, sample by sample.
    results: Vec<Option<Generation>>,
    done: &'a mut dyn FnMut(),
}

/// Continues each prompt (ids, BOS included), `sampling.samples` times; the samples of a
/// prompt follow each other. A sample draws from its own stream, [`stream_key`] and the
/// seed, so it does not depend on its neighbours. Long prompts begin first. A slot that
/// finishes takes the next sample at once; the prefix that all prompts share is computed
/// once, and so is what a prompt has beyond it, however many samples it has. An id of
/// `stops` or a text of `sampling.stop` ends an answer; the text is left in it. `done` is
/// called as each sample ends.
pub fn generate<'a>(
    model: &Transformer,
    prompts: &'a [Vec<u32>],
    keys: &'a [String],
    sampling: &'a Sampling,
    stops: impl Into<Stops<'a>>,
    done: &'a mut dyn FnMut(),
) -> Result<Vec<Generation>> {
    run(model, prompts, keys, None, sampling, stops.into(), done)
}

/// [`generate`] with a limit of new tokens for each prompt, at most
/// `sampling.max_new_tokens`.
pub fn generate_limited<'a>(
    model: &Transformer,
    prompts: &'a [Vec<u32>],
    keys: &'a [String],
    limits: &'a [usize],
    sampling: &'a Sampling,
    stops: impl Into<Stops<'a>>,
    done: &'a mut dyn FnMut(),
) -> Result<Vec<Generation>> {
    ensure!(limits.len() == prompts.len(), "{} limits, {} prompts", limits.len(), prompts.len());
    run(model, prompts, keys, Some(limits), sampling, stops.into(), done)
}

fn run<'a>(
    model: &Transformer,
    prompts: &'a [Vec<u32>],
    keys: &'a [String],
    limits: Option<&'a [usize]>,
    sampling: &'a Sampling,
    stops: Stops<'a>,
    done: &'a mut dyn FnMut(),
) -> Result<Vec<Generation>> {
    ensure!(prompts.len() == keys.len(), "{} prompts, {} keys", prompts.len(), keys.len());
    sampling.check()?;
    let positions = model.config.max_position_embeddings;
    for (p, key) in prompts.iter().zip(keys) {
        ensure!(
            !p.is_empty() && p.len() < positions,
            "prompt {key} has {} tokens, the model takes 1 to {}",
            p.len(),
            positions - 1
        );
    }
    let samples = sampling.samples;
    let results = (0..prompts.len() * samples).map(|_| None).collect();
    let mut run = Run { prompts, keys, sampling, limits, stops, positions, results, done };
    let slots = sampling.batch.min(prompts.len() * samples);
    // Behind the slots: the shared prefix, and a prompt whose samples wait.
    let (prefix, park) = (slots, slots + 1);
    let longest = (0..prompts.len()).map(|i| prompts[i].len() + run.limit(i)).max().unwrap_or(0);
    let capacity = longest.min(positions);
    let mut cache = Cache::new(model, slots + 2, capacity)?;
    let shared = shared_prefix(prompts);
    if shared > 0 {
        let row = Continuation { start: 0, len: shared, slot: prefix };
        #[cfg(test)]
        tests::fed(shared);
        model.step(&prompts[0][..shared], &[row], &mut cache)?;
    }
    // The longest first: prompts of a step are alike, and what does not fit shows at once.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(prompts[i].len()));
    let mut order = order.into_iter();
    let mut active: Vec<Option<Active>> = (0..slots).map(|_| None).collect();
    let mut parked: Option<Parked> = None;
    loop {
        // Slots that the samples of prompts begun here will take.
        let mut kept = 0;
        for (slot, place) in active.iter_mut().enumerate() {
            if place.is_none() {
                run.resume(&mut parked, place)?;
                if place.is_some() {
                    cache.copy(park, slot)?;
                } else if kept > 0 {
                    kept -= 1;
                } else if let Some(next) = order.next() {
                    cache.copy(prefix, slot)?;
                    *place = Some(run.begin(next, 0, prompts[next][shared..].to_vec()));
                    kept = samples - 1;
                }
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
        #[cfg(test)]
        tests::fed(tokens.len());
        let states = model.step(&tokens, &rows, &mut cache)?;
        let last: Vec<u32> = rows.iter().map(|r| (r.start + r.len - 1) as u32).collect();
        let last = Tensor::new(last.as_slice(), states.device())?;
        let logits = model.logits(&states.index_select(&last, 0)?)?;
        let take = |r: &Continuation| active[r.slot].take().expect("only active slots have rows");
        let mut seen: Vec<Active> = rows.iter().map(take).collect();
        let streams = seen.iter_mut().map(|a| &mut a.rng);
        let drawn = draw_rows(&logits, sampling.temperature, streams)?;
        // Prompts of several samples, just computed: their slot and logits.
        let mut computed = Vec::new();
        for (i, ((a, token), row)) in seen.into_iter().zip(drawn).zip(&rows).enumerate() {
            if samples > 1 && a.sample == 0 && a.tokens.is_empty() {
                let logits = logits.narrow(0, i, 1)?;
                computed.push((row.slot, Parked { prompt: a.prompt, next: 1, logits }));
            }
            active[row.slot] = run.advance(a, token)?;
        }
        for (from, prompt) in computed {
            let mut rest = Some(prompt);
            for (slot, place) in active.iter_mut().enumerate().filter(|(_, a)| a.is_none()) {
                run.resume(&mut rest, place)?;
                if place.is_some() {
                    cache.copy(from, slot)?;
                }
            }
            // Only the last prompt that was begun can lack slots.
            if rest.is_some() {
                cache.copy(from, park)?;
                parked = rest;
            }
        }
    }
    let all = run.results.into_iter();
    Ok(all.map(|r| r.expect("every sample was run to its end")).collect())
}

impl Run<'_> {
    /// New tokens of an answer to this prompt, at most.
    fn limit(&self, prompt: usize) -> usize {
        let most = self.sampling.max_new_tokens;
        self.limits.map_or(most, |l| l[prompt].min(most))
    }

    fn begin(&self, prompt: usize, sample: usize, feed: Vec<u32>) -> Active {
        let rng = rng::stream(self.sampling.seed, &stream_key(&self.keys[prompt], sample));
        Active { prompt, sample, tokens: Vec::new(), rng, feed }
    }

    /// Puts the next sample that goes on after its first token into a free place.
    fn resume(&mut self, parked: &mut Option<Parked>, place: &mut Option<Active>) -> Result<()> {
        while let (None, Some(p)) = (&*place, &mut *parked) {
            let mut fresh = self.begin(p.prompt, p.next, Vec::new());
            let stream = std::iter::once(&mut fresh.rng);
            let token = draw_rows(&p.logits, self.sampling.temperature, stream)?[0];
            *place = self.advance(fresh, token)?;
            p.next += 1;
            if p.next == self.sampling.samples {
                *parked = None;
            }
        }
        Ok(())
    }

    /// Adds the next token to a sample; none: it was the last.
    fn advance(&mut self, mut a: Active, token: u32) -> Result<Option<Active>> {
        let mut ends = self.stops.ids.contains(&token);
        if !ends {
            a.tokens.push(token);
            ends = self.stops.ended(&a.tokens, &self.sampling.stop)?;
        }
        let length = self.prompts[a.prompt].len() + a.tokens.len();
        let full = a.tokens.len() >= self.limit(a.prompt) || length >= self.positions;
        if ends || full {
            let at = a.prompt * self.sampling.samples + a.sample;
            self.results[at] = Some(Generation { tokens: a.tokens, finished: ends });
            (self.done)();
            return Ok(None);
        }
        a.feed = vec![token];
        Ok(Some(a))
    }
}

/// What names the stream of a prompt's sample. The first one's is the prompt's own: one
/// sample is the first of several.
pub fn stream_key(key: &str, sample: usize) -> String {
    if sample == 0 { key.to_owned() } else { format!("{key} sample {sample}") }
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

/// One token for each row of logits `[M, V]`, each drawn with its own stream.
pub(crate) fn draw_rows<'a>(
    logits: &Tensor,
    temperature: f64,
    streams: impl Iterator<Item = &'a mut ChaCha8Rng>,
) -> Result<Vec<u32>> {
    if let Some(gpu) = Gpu::of(logits) {
        let u = streams.map(|s| if temperature > 0.0 { s.random() } else { 0.0 });
        return Ok(ops::gpu::sample(&gpu, logits, temperature, &u.collect::<Vec<f64>>())?);
    }
    let vocab = logits.dim(1)?;
    Ok(with_values("sample", logits, |z| {
        Ok(z.chunks_exact(vocab).zip(streams).map(|(z, s)| draw(z, temperature, s)).collect())
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

#[cfg(test)]
mod tests;
