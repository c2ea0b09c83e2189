//! Tokenizer, transformer, NF4, LoRA, generation, checkpoints.

mod checkpoint;
mod config;
mod generate;
mod hub;
mod lora;
mod moe;
pub mod nf4;
pub mod ops;
pub mod rng;
mod tokenizer;
mod transformer;

pub use checkpoint::{load_adapter, load_base, model_hash, save_adapter, save_base};
pub use config::Config;
pub use generate::{Generation, Sampling, generate};
pub use hub::locate;
pub use lora::{Linear, LoraConfig, Pass};
pub use tokenizer::Tokenizer;
pub use transformer::{Cache, Hidden, Packed, Transformer};
