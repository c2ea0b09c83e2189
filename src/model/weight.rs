//! The weight of a linear layer, dense or in NF4.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::nf4::Nf4;
use super::ops::gpu::{DeviceNf4, Gpu};
use super::ops::with_values;

/// Where a model computes, and in which type.
#[derive(Debug, Clone)]
pub struct Placement {
    pub device: Device,
    /// Of weights that are not quantised and of all activations: f32, on a GPU also bf16.
    pub dtype: DType,
}

impl Placement {
    /// Where the pocket models and all references run.
    pub const CPU: Placement = Placement { device: Device::Cpu, dtype: DType::F32 };

    /// Whether kernels run there; inside [`super::ops::gpu::emulated`] the CPU counts.
    pub fn is_gpu(&self) -> bool {
        Gpu::on(&self.device).is_some()
    }

    /// `t` there; a variable becomes frozen.
    pub fn tensor(&self, t: &Tensor) -> Result<Tensor> {
        t.detach().to_dtype(self.dtype)?.to_device(&self.device)
    }
}

/// The weight of a linear layer, `[out, in]`.
#[derive(Debug, Clone)]
pub enum Weight {
    Dense(Tensor),
    Nf4(Arc<Nf4>),
    /// NF4 in the memory of a GPU.
    DeviceNf4(Arc<DeviceNf4>),
}

impl Weight {
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Weight::Dense(w) => w.dims2(),
            Weight::Nf4(w) => Ok(w.shape()),
            Weight::DeviceNf4(w) => Ok(w.shape()),
        }
    }

    /// The same weight in NF4; a variable has no quantised form.
    pub fn quantised(&self) -> Result<Weight> {
        match self {
            Weight::Dense(w) if w.is_variable() => {
                bail!("nf4: a trained weight cannot be quantised")
            }
            Weight::Dense(w) => {
                let shape = w.dims2()?;
                with_values("nf4", w, |w| Ok(Weight::Nf4(Arc::new(Nf4::quantise(w, shape)))))
            }
            Weight::Nf4(_) | Weight::DeviceNf4(_) => Ok(self.clone()),
        }
    }

    /// As a dense tensor; what was quantised comes in f32.
    pub fn dense(&self) -> Result<Tensor> {
        match self {
            Weight::Dense(w) => Ok(w.clone()),
            Weight::Nf4(w) => Tensor::from_vec(w.dequantise(), w.shape(), &Device::Cpu),
            Weight::DeviceNf4(w) => w.dense(),
        }
    }

    /// Calls `f` with the (dequantised) values, row-major.
    pub(super) fn with_values<R>(&self, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        match self {
            Weight::Dense(w) => with_values("weight", w, f),
            Weight::Nf4(w) => f(&w.dequantise()),
            Weight::DeviceNf4(w) => f(&w.download()?.dequantise()),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Weight::Dense(w) => w.elem_count() * w.dtype().size_in_bytes(),
            Weight::Nf4(w) => w.bytes(),
            Weight::DeviceNf4(w) => w.bytes(),
        }
    }

    /// The same weight where `place` says.
    pub fn at(&self, place: &Placement) -> Result<Weight> {
        Ok(match self {
            Weight::Dense(w) => Weight::Dense(place.tensor(w)?),
            Weight::Nf4(w) if place.is_gpu() => {
                Weight::DeviceNf4(Arc::new(DeviceNf4::upload(w, &place.device)?))
            }
            other => other.clone(),
        })
    }
}
