//! Whether a GPU computes what the CPU computes, and how fast.

mod check;
mod models;

pub use check::{Compared, Target, check};
