//! The shapes of the models, and how much of each work is done at each.

use std::str::FromStr;

use anyhow::{Result, bail};

use crate::model::Config;

/// Sizes of a Llama.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Llama-2-7B.
    Llama7B,
    /// Llama-2-13B.
    Llama13B,
    /// For a trial where no GPU is.
    Tiny,
}

impl Shape {
    const ALL: [Shape; 3] = [Shape::Llama7B, Shape::Llama13B, Shape::Tiny];

    pub fn name(self) -> &'static str {
        match self {
            Shape::Llama7B => "7b",
            Shape::Llama13B => "13b",
            Shape::Tiny => "tiny",
        }
    }

    pub fn config(self) -> Config {
        let (hidden_size, intermediate_size, layers, heads, vocab_size) = match self {
            Shape::Llama7B => (4096, 11008, 32, 32, 32000),
            Shape::Llama13B => (5120, 13824, 40, 40, 32000),
            Shape::Tiny => (64, 192, 2, 4, 512),
        };
        Config {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            max_position_embeddings: 4096,
            ..Config::default()
        }
    }

    pub(super) fn sizes(self) -> Sizes {
        match self {
            Shape::Tiny => TRIAL,
            _ => REAL,
        }
    }
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Shape> {
        match Shape::ALL.into_iter().find(|shape| shape.name() == s) {
            Some(shape) => Ok(shape),
            None => bail!("shape {s:?}: known are 7b and 13b"),
        }
    }
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Tokens of a training sequence, and how many of them are its answer.
    pub length: usize,
    pub answer: usize,
    /// Sequences of a micro-batch, in the order they are tried.
    pub batches: &'static [usize],
    /// Pairs of a micro-batch.
    pub pairs: &'static [usize],
    /// Sequences that are generated at a time.
    pub slots: &'static [usize],
    /// Tokens before the first decoded one, decoded ones, and sequences at a time.
    pub context: usize,
    pub new: usize,
    pub streams: &'static [usize],
    /// Rows and columns of the product.
    pub square: usize,
    /// Bytes of the copy.
    pub buffer: usize,
    pub repeats: usize,
}

const REAL: Sizes = Sizes {
    length: 512,
    answer: 128,
    batches: &[1, 8, 4, 16],
    pairs: &[1, 4, 8],
    // The cache of 256 wants a card of more than 120 GB, that of 144 one of 80 GB.
    slots: &[128, 256, 144],
    context: 512,
    new: 64,
    streams: &[1, 64],
    square: 8192,
    buffer: 1 << 32,
    repeats: 10,
};

const TRIAL: Sizes = Sizes {
    length: 32,
    answer: 8,
    batches: &[1, 2],
    pairs: &[1, 2],
    slots: &[4, 8],
    context: 16,
    new: 8,
    streams: &[1, 4],
    square: 256,
    buffer: 1 << 22,
    repeats: 3,
};
