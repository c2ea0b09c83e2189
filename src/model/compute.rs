//! Where a model computes, as a plan says it.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::weight::Placement;

/// A kind of device and the type of what is computed there. Answers depend on both, so
/// they are a part of every plan; which card it is does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compute {
    #[default]
    #[serde(rename = "cpu-float32")]
    Cpu,
    /// Weights that are not quantised, and activations, in bf16; adapters and the
    /// optimizer's state in f32.
    #[serde(rename = "cuda-bfloat16")]
    CudaBf16,
    #[serde(rename = "cuda-float32")]
    CudaF32,
}

impl Compute {
    /// From `cpu` or `cuda`, and torch's name of a type if one is given.
    pub fn of(device: &str, dtype: Option<&str>) -> Result<Compute> {
        Ok(match (device, dtype) {
            ("cpu", None | Some("float32")) => Compute::Cpu,
            ("cpu", Some(other)) => bail!("dtype {other:?}: the CPU computes in float32"),
            ("cuda", None | Some("bfloat16")) => Compute::CudaBf16,
            ("cuda", Some("float32")) => Compute::CudaF32,
            ("cuda", Some(other)) => bail!("dtype {other:?}: known are bfloat16 and float32"),
            (other, _) => bail!(
                "device {other:?}: known are cpu and cuda; CUDA_VISIBLE_DEVICES chooses the card"
            ),
        })
    }

    pub fn is_cpu(&self) -> bool {
        *self == Compute::Cpu
    }

    pub fn name(self) -> &'static str {
        match self {
            Compute::Cpu => "cpu-float32",
            Compute::CudaBf16 => "cuda-bfloat16",
            Compute::CudaF32 => "cuda-float32",
        }
    }

    /// An error if this program or machine has no such device, told before any work.
    pub fn check(self) -> Result<()> {
        if !self.is_cpu() {
            ensure!(gpus()? > 0, "there is no NVIDIA GPU here; --device cpu needs none");
        }
        Ok(())
    }

    /// Opens the device: of several GPUs that of this process's rank (`LOCAL_RANK`, as
    /// torchrun sets it), else the first. Tensors of one model and its data must come
    /// from one call.
    pub fn open(self) -> Result<Placement> {
        let dtype = match self {
            Compute::Cpu => return Ok(Placement::CPU),
            Compute::CudaBf16 => DType::BF16,
            Compute::CudaF32 => DType::F32,
        };
        // Where kernels are emulated, the CPU is the GPU.
        let emulated = Placement { dtype, ..Placement::CPU };
        if emulated.is_gpu() { Ok(emulated) } else { cuda(dtype) }
    }
}

impl FromStr for Compute {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Compute> {
        let known = [Compute::Cpu, Compute::CudaBf16, Compute::CudaF32];
        match known.into_iter().find(|c| c.name() == s) {
            Some(c) => Ok(c),
            None => bail!("compute {s:?}: known are {}", known.map(Compute::name).join(", ")),
        }
    }
}

fn cuda(dtype: DType) -> Result<Placement> {
    let rank = std::env::var("LOCAL_RANK").unwrap_or_else(|_| "0".into());
    let ordinal = rank.parse().with_context(|| format!("LOCAL_RANK {rank:?} is not a number"))?;
    Ok(Placement { device: open_gpu(ordinal)?, dtype })
}

/// How many there are.
#[cfg(feature = "cuda")]
fn gpus() -> Result<i32> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    CudaContext::device_count().context("the driver does not answer; nvidia-smi may say why")
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<i32> {
    bail!("{WITHOUT}")
}

#[cfg(not(feature = "cuda"))]
const WITHOUT: &str =
    "this program was built without CUDA, for the cpu alone; `make cuda` builds one that has it";

/// The GPU with this number, set up for training.
#[cfg(feature = "cuda")]
pub fn open_gpu(ordinal: usize) -> Result<Device> {
    super::ops::gpu::open(ordinal)
        .with_context(|| format!("GPU {ordinal} cannot be used; nvidia-smi lists those there are"))
}

/// The GPU with this number: an error, in a program without them.
#[cfg(not(feature = "cuda"))]
pub fn open_gpu(_: usize) -> Result<Device> {
    bail!("{WITHOUT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_types_that_do_not_exist_are_named() {
        assert_eq!(Compute::of("cpu", None).unwrap(), Compute::Cpu);
        assert_eq!(Compute::of("cuda", None).unwrap(), Compute::CudaBf16);
        assert_eq!(Compute::of("cuda", Some("float32")).unwrap(), Compute::CudaF32);
        let error = |d, t| Compute::of(d, t).unwrap_err().to_string();
        assert!(error("tpu", None).contains("tpu"));
        assert!(error("cpu", Some("bfloat16")).contains("float32"));
        for c in [Compute::Cpu, Compute::CudaBf16, Compute::CudaF32] {
            assert_eq!(c.name().parse::<Compute>().unwrap(), c);
            assert_eq!(serde_json::to_string(&c).unwrap(), format!("{:?}", c.name()));
        }
    }
}
