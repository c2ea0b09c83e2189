//! Losses, optimizer, trainer.

pub mod loss;
mod optimizer;
mod pretrain;
mod trainer;

pub use optimizer::{AdamW, Gradients, OptimizerPlan, Update, accumulate};
pub use pretrain::{PretrainPlan, pretrain, train_tokenizer};
pub use trainer::{LogLine, Metrics, Objective, TrainerPlan, train};
