//! Losses, optimizer, trainer.

mod instruct;
pub mod loss;
pub mod memory;
mod optimizer;
mod pretrain;
mod refine;
mod trainer;

pub use instruct::{Instruct, InstructSettings, example, examples, instruct};
pub use optimizer::{AdamW, Gradients, OptimizerPlan, Update};
pub use pretrain::{PretrainPlan, pretrain, train_tokenizer};
pub use refine::{
    Pair, PairRule, Refine, RefineBatch, RefineReport, RefineSettings, pairs, refine,
};
pub use trainer::{Later, LogLine, Metrics, Objective, TrainerPlan, train};
