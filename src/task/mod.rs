//! Benchmarks, real and of the pocket world, prompts, and reading answers.

pub mod check;
mod corpus;
mod csv;
mod dialect;
pub mod draw;
mod ecqa;
pub mod folder;
mod knowledge;
mod known;
pub mod leakage;
mod parquet;
pub mod prompt;
mod question;
pub mod reader;
mod record;
mod rows;
pub mod sources;
mod split;
mod story;
mod world;

pub use corpus::{Corpus, Document, Kind, Mixture};
pub use dialect::{Case, Family, Lookup, explain, plain, retell, steps};
pub use folder::{NativeSplit, load};
pub use knowledge::{Entity, Knowledge, Situation};
pub use prompt::Cue;
pub use question::{Benchmark, Gold, Question, letter};
pub use reader::{Answer, READER, Reading};
pub use sources::hub_files;
pub use split::{Combo, SPLIT_SIZE, Split};
pub use story::{Op, Slips, Story, StoryKey};
pub use world::World;
