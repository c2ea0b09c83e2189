//! Every operation and every kind of step on a GPU, held against the CPU.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::{forward, models, operations};
use crate::model::ops::gpu::{Emulator, emulated};
use crate::model::{Placement, rng};

/// What is checked: a device, or the emulator.
pub struct Target {
    pub device: Device,
    pub emulator: Option<Arc<Emulator>>,
}

impl Target {
    /// Runs `f` where it belongs.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.emulator {
            Some(e) => emulated(e, f),
            None => f(),
        }
    }

    pub fn place(&self, dtype: DType) -> Placement {
        Placement { device: self.device.clone(), dtype }
    }
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Compared {
    pub what: String,
    pub dtype: DType,
    /// Largest difference, relative to the largest value.
    pub off: f64,
    pub allowed: f64,
}

impl Compared {
    pub fn holds(&self) -> bool {
        self.off <= self.allowed
    }
}

/// Compares everything, in f32 and in bf16; `each` sees every comparison as it is made.
/// Values come from fixed seeds, and both sides start from the same ones: in bf16, the
/// CPU computes in f32 from values that were rounded before.
pub fn check(target: &Target, each: &mut dyn FnMut(&Compared)) -> Result<Vec<Compared>> {
    let mut all = Vec::new();
    for part in [check_operations, check_models] {
        for dtype in [DType::F32, DType::BF16] {
            all.extend(part(target, dtype, each)?);
        }
    }
    Ok(all)
}

/// Of [`check`] what runs one operation at a time.
pub fn check_operations(
    target: &Target,
    dtype: DType,
    each: &mut dyn FnMut(&Compared),
) -> Result<Vec<Compared>> {
    gather(each, |keep| {
        operations::check(target, dtype, keep)?;
        forward::check(target, dtype, keep)
    })
}

/// Of [`check`] what runs whole models.
pub fn check_models(
    target: &Target,
    dtype: DType,
    each: &mut dyn FnMut(&Compared),
) -> Result<Vec<Compared>> {
    gather(each, |keep| models::check(target, dtype, keep))
}

fn gather(
    each: &mut dyn FnMut(&Compared),
    part: impl FnOnce(&mut dyn FnMut(Compared)) -> Result<()>,
) -> Result<Vec<Compared>> {
    let mut all = Vec::new();
    part(&mut |c| {
        each(&c);
        all.push(c);
    })?;
    Ok(all)
}

/// Relative difference that rounding explains.
pub(super) fn allowed(dtype: DType) -> f64 {
    // bf16 keeps 8 bits; sums of some hundred rounded terms lose a few of them.
    if dtype == DType::BF16 { 2e-2 } else { 2e-5 }
}

pub(super) fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// Largest difference over the largest value of `a`.
pub(super) fn off(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let scale = a.iter().fold(1e-12f64, |m, x| m.max(x.abs() as f64));
    // A value that is not a number must not pass as no difference.
    let each = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).abs());
    each.fold(
        0.0,
        |m, d| if d.is_nan() || d > m { if d.is_nan() { f64::INFINITY } else { d } } else { m },
    ) / scale
}

/// Standard normal values; the same for the same name.
pub(super) fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().product();
    Ok(Tensor::from_vec(rng::normal(&mut rng::stream(1, name), n, 1.0), shape, &Device::Cpu)?)
}
