//! Teachers, annotation, Demonstrations.

mod annotate;
mod demonstrations;
pub(crate) mod redacted;
#[cfg(feature = "remote")]
pub mod remote;

pub use annotate::{Annotation, Speaker, annotate, answer, read_annotations};
pub use demonstrations::{Demonstration, DemonstrationSet, demonstrations};
