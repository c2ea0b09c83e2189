//! Losses, optimizer, trainer.

mod instruct;
pub mod loss;
pub mod memory;
mod optimizer;
pub mod parallel;
mod pretrain;
mod refine;
mod trainer;

pub use instruct::{
    Choice, Evaluation, Instruct, InstructReport, InstructSettings, example, examples, instruct,
    instruct_choosing, instruct_in, mean_loss,
};
pub use optimizer::{AdamW, Gradients, OptimizerPlan, Update};
pub use pretrain::{PretrainPlan, pretrain, train_tokenizer};
pub use refine::{
    Pair, PairRule, Refine, RefineBatch, RefineReport, RefineSettings, pairs, refine, refine_in,
};
pub use trainer::{Later, LogLine, Metrics, Objective, TrainerPlan, train, train_in};
