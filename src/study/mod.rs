//! Each table and figure as an experiment: plan, run store, grid.

pub mod device;
pub mod estimate;
mod experiments;
mod grid;
mod pin;
mod places;
mod pocket;
mod progress;
pub mod published;
mod questions;
mod ranks;
mod row;
mod schedule;
mod served;
mod spec;
mod stage;
mod store;
mod work;

pub use experiments::{Artifact, Cell, Experiments, finished_rows, lay_out, rows};
pub use grid::{Grid, Tuning};
pub use places::Places;
pub use pocket::{PocketModels, family_tokenizer, pretrain_all};
pub use progress::{Progress, clock};
pub use questions::{Cut, QuestionsRef, Side, Source};
pub use ranks::{Crew, Ranks, work_as_rank};
pub use row::{Row, Summary, paired_difference, summarise};
pub use schedule::{Tally, run_all};
pub use spec::{Member, ModelSpec, Plan, Spec};
pub use stage::{AnnotatePlan, HeldOutPlan, InstructPlan, ModelRef, ProbePlan, RefinePlan, Stage};
pub use store::{RunCost, RunId, Store, peak_memory, write_whole};
pub use work::Workshop;
