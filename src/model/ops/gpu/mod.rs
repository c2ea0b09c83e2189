//! The operations on a GPU: the same formulas, on own kernels and cuBLAS.
//!
//! An operation here is written against [`Gpu`]: buffers, kernel launches and
//! matrix products. Two things stand behind it. One is a CUDA device. The other is
//! an emulator that runs the kernels' own source, compiled for the processor, on
//! tensors in ordinary memory: with it, whole training steps go through this code,
//! its launch shapes, argument orders and strides included, where no GPU is.
//!
//! Tensors are f32 or bf16; sums are f32 in both.

mod attention;
mod buffer;
mod cache;
#[cfg(feature = "cuda")]
mod cuda;
mod elementwise;
mod emulator;
mod gemm;
mod launch;
mod linear;
mod logprob;
mod memory;
mod norm;
mod op;
mod optimizer;
mod profile;
mod sample;

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

pub(super) use attention::Attention;
pub(crate) use buffer::View;
pub use buffer::copy_of;
pub use cache::{DeviceCache, StepRows, cached_attention};
#[cfg(feature = "cuda")]
pub use cuda::open;
pub(super) use elementwise::{AddBias, LogSigmoid, SwiGlu};
pub use emulator::{Emulator, Launcher, emulated};
pub(crate) use gemm::{Mat, Product};
pub(crate) use linear::DeviceNf4;
pub(super) use linear::{Frozen, LoraLinear, Trained};
pub(super) use logprob::{HeadLogProb, LogProb};
pub use memory::DeviceMemory;
pub(super) use norm::RmsNorm;
pub(super) use op::{apply1, apply2, apply3};
pub use optimizer::{AdamStep, adamw, square_sum};
pub use profile::{Class, Split, profiled};
pub use sample::sample;

/// Where kernels run.
#[derive(Clone)]
pub enum Gpu {
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaDevice),
    Emulated(Arc<Emulator>),
}

impl Gpu {
    /// The GPU that holds `t`; none: `t` is for the operations of the CPU.
    pub fn of(t: &Tensor) -> Option<Gpu> {
        Gpu::on(t.device())
    }

    /// The GPU behind a device. Inside [`emulated`], the CPU is one.
    pub fn on(device: &Device) -> Option<Gpu> {
        match device {
            Device::Cpu => emulator::current().map(Gpu::Emulated),
            #[cfg(feature = "cuda")]
            Device::Cuda(d) => Some(Gpu::Cuda(d.clone())),
            _ => None,
        }
    }

    /// candle's name for it.
    pub fn device(&self) -> Device {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => Device::Cuda(d.clone()),
            Gpu::Emulated(_) => Device::Cpu,
        }
    }

    /// Waits until all work is done.
    pub fn synchronise(&self) -> Result<()> {
        self.device().synchronize()
    }
}
