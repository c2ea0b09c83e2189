//! The commands, a file for each or for those that belong together.

pub mod annotate;
mod compute;
pub mod data;
pub mod device;
pub mod model;
pub mod probe;
pub mod run;
pub mod score;
