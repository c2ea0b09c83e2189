//! The stages of the method, each a plan and what it does.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::questions::QuestionsRef;
use super::store::RunId;
use super::work::{Workshop, run_annotate, run_instruct, run_probe, run_refine};
use crate::model::{Compute, LoraConfig, Sampling};
use crate::task::Cue;
use crate::teach::DemonstrationSet;
use crate::tune::{InstructSettings, RefineSettings};

/// Raised when a stage computes something else from the same plan. 2: reader 2.
const VERSION: u32 = 2;

/// The same for refinement alone. 2: the gradient of `log σ` is right at 0.
const REFINE_VERSION: u32 = 2;

/// A base model by name and content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRef {
    pub name: String,
    /// [`crate::model::model_hash`].
    pub sha256: String,
    /// Where it answers and is tuned; left out of plans for the CPU.
    #[serde(default, skip_serializing_if = "Compute::is_cpu")]
    pub compute: Compute,
}

impl ModelRef {
    /// What stands in its answers: the hash, and where they were computed if that is not
    /// the CPU.
    pub fn speaker(&self) -> String {
        match self.compute {
            Compute::Cpu => self.sha256.clone(),
            other => format!("{} {}", self.sha256, other.name()),
        }
    }
}

/// A teacher (or any base model) answers questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnnotatePlan {
    pub version: u32,
    pub model: ModelRef,
    pub questions: QuestionsRef,
    pub cue: Cue,
    pub sampling: Sampling,
    /// Asked through the model's chat template.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
}

/// A student is tuned on a teacher's demonstrations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstructPlan {
    pub version: u32,
    pub student: ModelRef,
    pub questions: QuestionsRef,
    pub set: DemonstrationSet,
    /// Annotations by cue.
    pub sources: Vec<RunId>,
    /// Demonstrations used at most, per cue.
    pub limit: usize,
    pub settings: InstructSettings,
    pub seed: u64,
    /// What the checkpoint is chosen by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutPlan>,
}

/// Held-out questions of an instruction tuning, and the teacher's answers to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutPlan {
    pub questions: QuestionsRef,
    /// Annotations by cue.
    pub sources: Vec<RunId>,
}

/// A tuned student improves on its own answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinePlan {
    pub version: u32,
    pub student: ModelRef,
    pub lora: LoraConfig,
    pub instructed: RunId,
    pub questions: QuestionsRef,
    pub sampling: Sampling,
    pub settings: RefineSettings,
    pub seed: u64,
}

/// A model is scored on questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbePlan {
    pub version: u32,
    pub model: ModelRef,
    /// The adapter on it, if any, and the run that made it.
    pub adapter: Option<(LoraConfig, RunId)>,
    pub questions: QuestionsRef,
    pub cue: Cue,
    pub sampling: Sampling,
    /// Score the options by log-probability as well.
    pub language_model: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
}

/// Any stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "lowercase")]
pub enum Stage {
    Annotate(AnnotatePlan),
    Instruct(InstructPlan),
    Refine(RefinePlan),
    Probe(ProbePlan),
}

/// Called as a stage goes on: items done, items in all.
pub type Tick<'a> = &'a mut dyn FnMut(usize, usize);

impl Stage {
    pub fn version() -> u32 {
        VERSION
    }

    pub fn refine_version() -> u32 {
        REFINE_VERSION
    }

    pub fn name(&self) -> &'static str {
        match self {
            Stage::Annotate(_) => "annotate",
            Stage::Instruct(_) => "instruct",
            Stage::Refine(_) => "refine",
            Stage::Probe(_) => "probe",
        }
    }

    pub fn id(&self) -> Result<RunId> {
        RunId::of(self.name(), self)
    }

    /// What it is about, for a progress line.
    pub fn label(&self) -> String {
        match self {
            Stage::Annotate(p) => {
                format!("{} answers {} ({})", p.model.name, p.questions.benchmark, p.cue)
            }
            Stage::Instruct(p) => {
                format!("{} learns {} from {}", p.student.name, p.questions.benchmark, p.set)
            }
            Stage::Refine(p) => {
                format!("{} refines itself on {}", p.student.name, p.questions.benchmark)
            }
            Stage::Probe(p) => format!("{} is tested on {}", p.model.name, p.questions.benchmark),
        }
    }

    /// The runs whose outputs it reads.
    pub fn parents(&self) -> Vec<RunId> {
        match self {
            Stage::Annotate(_) => Vec::new(),
            Stage::Instruct(p) => {
                let held_out = p.held_out.iter().flat_map(|h| &h.sources);
                p.sources.iter().chain(held_out).cloned().collect()
            }
            Stage::Refine(p) => vec![p.instructed.clone()],
            Stage::Probe(p) => p.adapter.iter().map(|(_, id)| id.clone()).collect(),
        }
    }

    /// Rough cost, in any unit, for the estimate of the time left.
    pub fn weight(&self) -> u64 {
        match self {
            Stage::Annotate(_) => 2,
            Stage::Instruct(_) => 3,
            Stage::Refine(_) => 5,
            Stage::Probe(_) => 1,
        }
    }

    /// Does the stage, unless it is done.
    pub fn run(&self, shop: &Workshop, tick: Tick) -> Result<bool> {
        let id = self.id()?;
        shop.store.run(&id, self, |dir| match self {
            Stage::Annotate(p) => run_annotate(p, shop, dir, tick),
            Stage::Instruct(p) => run_instruct(p, shop, dir, tick),
            Stage::Refine(p) => run_refine(p, shop, dir, tick),
            Stage::Probe(p) => run_probe(p, shop, dir, tick),
        })
    }
}
