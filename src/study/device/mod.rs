//! Whether a GPU computes what the CPU computes, and how fast.

pub mod bench;
mod check;
mod forward;
mod models;
mod operations;

pub use check::{Compared, Target, check, check_models, check_operations};
