//! Teaching small language models to reason step by step.

pub mod model;
pub mod probe;
pub mod task;
pub mod teach;
pub mod tune;
