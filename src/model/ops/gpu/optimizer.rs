//! AdamW and the norm of the gradient, without a word to the host.

use candle_core::{DType, Result, Tensor};

use super::Gpu;
use super::buffer::View;
use super::launch::{Arg, Grid, out};

/// Blocks that sum the squares of one tensor.
const PARTS: usize = 32;

/// `Σ g²` over all tensors, a scalar in f64 on the device. The order of the additions
/// is fixed.
pub fn square_sum(gpu: &Gpu, gradients: &[&Tensor]) -> Result<Tensor> {
    let mut parts = gpu.buffer(PARTS * gradients.len(), DType::F64)?;
    let start = parts.address()?;
    for (i, g) in gradients.iter().enumerate() {
        let g = View::of(g)?;
        g.expect("gradient", DType::F32)?;
        let place = Arg::Address(start + (8 * PARTS * i) as u64);
        let args = [(&g).into(), place, Arg::U64(g.len() as u64)];
        gpu.launch_exact("sum_squares", Grid::rows(PARTS, 256), &args)?;
    }
    let mut total = gpu.buffer((), DType::F64)?;
    let args = [out(&mut parts)?, out(&mut total)?, Arg::int(PARTS * gradients.len())];
    gpu.launch_exact("sum_partials", Grid::rows(1, 256), &args)?;
    Ok(total.into_tensor())
}

/// The numbers of one update that all parameters share, rounded as the CPU rounds them.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    pub max_norm: f32,
    pub b1: f32,
    pub b2: f32,
    /// `η / (1 − β₁ᵗ)`.
    pub size: f32,
    /// `1 / (1 − β₂ᵗ)`.
    pub root: f32,
    pub eps: f32,
    /// `η λ`.
    pub decay: f32,
}

/// Updates `theta` and its moments in place; `square` is [`square_sum`] of all
/// gradients, by which they are clipped.
pub fn adamw(
    gpu: &Gpu,
    [theta, g, m, v]: [&Tensor; 4],
    square: &Tensor,
    step: &AdamStep,
) -> Result<()> {
    let (theta, g, m, v) = (View::of(theta)?, View::of(g)?, View::of(m)?, View::of(v)?);
    for x in [&theta, &g, &m, &v] {
        x.expect("adamw", DType::F32)?;
    }
    let square = View::of(square)?;
    let args = [
        (&theta).into(),
        (&g).into(),
        (&m).into(),
        (&v).into(),
        (&square).into(),
        step.max_norm.into(),
        step.b1.into(),
        step.b2.into(),
        step.size.into(),
        step.root.into(),
        step.eps.into(),
        step.decay.into(),
        Arg::U64(theta.len() as u64),
    ];
    gpu.launch_exact("adamw", Grid::flat(theta.len(), 4), &args)
}
