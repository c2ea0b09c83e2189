//! Where to compute: the flags that several commands share.

use anyhow::Result;
use clap::Args;
use cotalign::model::Compute;

#[derive(Args)]
pub struct ComputeArgs {
    /// cpu, or cuda in a program that `make cuda` built. CUDA_VISIBLE_DEVICES chooses one
    /// of several cards.
    #[arg(long)]
    device: Option<String>,
    /// What a GPU computes in: bfloat16, or float32 to compare with the CPU.
    #[arg(long, requires = "device")]
    dtype: Option<String>,
}

impl ComputeArgs {
    /// None: nothing was said.
    pub fn compute(&self) -> Result<Option<Compute>> {
        let Some(device) = &self.device else { return Ok(None) };
        Compute::of(device, self.dtype.as_deref()).map(Some)
    }
}
