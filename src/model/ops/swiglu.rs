//! The gated activation of Llama's feed-forward layer.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::gpu::{self, Gpu};
use super::kernel::{exp, vectorised};
use super::{output, rows_cols, values, with_values};

/// `SwiGLU(g, u) = silu(g) ⊙ u` with `silu(g) = g / (1 + e^{-g})`; both `[N, f]`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match Gpu::of(gate) {
        Some(_) => gpu::apply2(gate, up, gpu::SwiGlu),
        None => gate.apply_op2(up, SwiGlu),
    }
}

struct SwiGlu;

vectorised! {
    fn forward(g: &[f32], u: &[f32], y: &mut [f32]) {
        for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
            *y = g / (1.0 + exp(-g)) * u;
        }
    }

    /// `d silu(g)/dg = σ(g) (1 + g (1 − σ(g)))`.
    fn backward(g: &[f32], u: &[f32], r: &[f32], dg: &mut [f32], du: &mut [f32]) {
        for ((((g, u), r), dg), du) in g.iter().zip(u).zip(r).zip(dg).zip(du) {
            let s = 1.0 / (1.0 + exp(-g));
            *du = r * g * s;
            *dg = r * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        lg: &Layout,
        u: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = rows_cols("swiglu", lg)?;
        let (g, u) = (values("swiglu", g, lg)?, values("swiglu", u, lu)?);
        let mut y = vec![0f32; g.len()];
        forward(g, u, &mut y);
        Ok(output(y, shape))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let shape = gate.dims2()?;
        let (mut dg, mut du) = (vec![0f32; shape.0 * shape.1], vec![0f32; shape.0 * shape.1]);
        let grad = grad.contiguous()?;
        with_values("swiglu", gate, |g| {
            with_values("swiglu", up, |u| {
                with_values("swiglu", &grad, |r| {
                    backward(g, u, r, &mut dg, &mut du);
                    Ok(())
                })
            })
        })?;
        let device = gate.device();
        Ok((Some(Tensor::from_vec(dg, shape, device)?), Some(Tensor::from_vec(du, shape, device)?)))
    }
}
