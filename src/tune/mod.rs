//! Losses, optimizer, trainer.

mod instruct;
pub mod loss;
pub mod memory;
mod optimizer;
mod pretrain;
mod refine;
mod trainer;

pub use instruct::{
    Choice, Evaluation, Instruct, InstructReport, InstructSettings, example, examples, instruct,
    instruct_choosing, mean_loss,
};
pub use optimizer::{AdamW, Gradients, OptimizerPlan, Update};
pub use pretrain::{PretrainPlan, pretrain, train_tokenizer};
pub use refine::{
    Pair, PairRule, Refine, RefineBatch, RefineReport, RefineSettings, pairs, refine,
};
pub use trainer::{Later, LogLine, Metrics, Objective, TrainerPlan, train};
