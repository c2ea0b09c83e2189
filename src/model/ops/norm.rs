//! RMSNorm.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::gpu::{self, Gpu};
use super::kernel::{dot, vectorised};
use super::{output, rows_cols, values, with_values};

/// `y = x / rms(x) ⊙ w` with `rms(x) = √(mean(x²) + ε)`, over the rows of
/// `x [N, d]` with `w [d]`. With `train_weight` off, `w` gets no gradient.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64, train_weight: bool) -> Result<Tensor> {
    let eps = eps as f32;
    match Gpu::of(x) {
        Some(_) => gpu::apply2(x, w, gpu::RmsNorm { eps, train_weight }),
        None => x.apply_op2(w, RmsNorm { eps, train_weight }),
    }
}

struct RmsNorm {
    eps: f32,
    train_weight: bool,
}

vectorised! {
    fn forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
        let d = w.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let inv = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * inv * w;
            }
        }
    }

    /// With `x̂ = x / rms`, `ĝ = g ⊙ w`: `dx = (ĝ − x̂ · mean(ĝ ⊙ x̂)) / rms`
    /// and `dw = Σ_rows g ⊙ x̂`.
    fn backward(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: Option<&mut [f32]>) {
        let d = w.len();
        let mut gw = vec![0f32; d];
        let mut dw = dw;
        for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let inv = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            for ((gw, g), w) in gw.iter_mut().zip(g).zip(w) {
                *gw = g * w;
            }
            let c = dot(&gw, x) * inv * inv / d as f32;
            for ((dx, gw), x) in dx.iter_mut().zip(&gw).zip(x) {
                *dx = (gw - x * c) * inv;
            }
            if let Some(dw) = dw.as_deref_mut() {
                for ((dw, g), x) in dw.iter_mut().zip(g).zip(x) {
                    *dw += g * (x * inv);
                }
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, d) = rows_cols("rms-norm", lx)?;
        let (x, w) = (values("rms-norm", x, lx)?, values("rms-norm", w, lw)?);
        let mut y = vec![0f32; n * d];
        forward(x, w, self.eps, &mut y);
        Ok(output(y, (n, d)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, d) = x.dims2()?;
        let (mut dx, mut dw) = (vec![0f32; n * d], vec![0f32; d]);
        let g = g.contiguous()?;
        with_values("rms-norm", x, |xs| {
            with_values("rms-norm", w, |w| {
                with_values("rms-norm", &g, |gs| {
                    let dw = self.train_weight.then_some(dw.as_mut_slice());
                    backward(xs, w, gs, self.eps, &mut dx, dw);
                    Ok(())
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, (n, d), x.device())?;
        let dw = self.train_weight.then(|| Tensor::from_vec(dw, d, x.device())).transpose()?;
        Ok((Some(dx), dw))
    }
}
