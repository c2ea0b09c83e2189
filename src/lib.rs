//! Teaching small language models to reason step by step.

pub mod model;
pub mod task;
pub mod tune;
