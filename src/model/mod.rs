//! Tokenizer, transformer, NF4, LoRA, generation, checkpoints.

mod adapter;
mod block;
mod cache;
mod chat;
mod checkpoint;
mod compute;
mod config;
mod generate;
pub mod hub;
mod lora;
mod moe;
pub mod nf4;
pub mod ops;
mod random;
mod recompute;
pub mod rng;
mod rope;
pub mod scales;
mod tokenizer;
mod transformer;
mod weight;
mod weights;

pub use adapter::{load_adapter, save_adapter};
pub use cache::Cache;
pub use chat::{ChatTemplates, Conversation};
pub use checkpoint::{
    Precision, export, load_at, load_base, load_model, load_nf4, model_hash, save_base,
};
pub use compute::{Compute, open_gpu};
pub use config::{Config, Quantization, RopeScaling};
pub(crate) use generate::draw_rows;
pub use generate::{Generation, Sampling, Stops, generate, generate_limited, stream_key};
pub use hub::{locate, locate_config};
pub use lora::{Linear, LoraConfig, Pass, Targets};
pub use tokenizer::Tokenizer;
pub use transformer::{Hidden, Packed, Transformer, tensor_shapes};
pub use weight::{Placement, Weight};
