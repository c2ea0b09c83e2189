//! `log σ`, exact on both sides and at 0.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::gpu::{self, Gpu};
use super::{output, values, with_values};

/// `log σ(x) = −max(−x, 0) − log(1 + e^{−|x|})`, elementwise; any shape.
///
/// Composed of `relu` and `abs` it has the right value, but a gradient three
/// times too large at exactly 0, where DPO starts: each takes its own side there.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    match Gpu::of(&x) {
        Some(_) => gpu::apply1(&x, gpu::LogSigmoid),
        None => x.apply_op1(LogSigmoid),
    }
}

struct LogSigmoid;

impl CustomOp1 for LogSigmoid {
    fn name(&self) -> &'static str {
        "log-sigmoid"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values("log-sigmoid", x, l)?;
        let y = x.iter().map(|x| x.min(0.0) - (-x.abs()).exp().ln_1p()).collect();
        Ok(output(y, l.shape()))
    }

    /// `d log σ(x)/dx = σ(−x)`.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_values("log-sigmoid", x, |x| {
            with_values("log-sigmoid", &grad, |g| {
                Ok(x.iter().zip(g).map(|(x, g)| g / (1.0 + x.exp())).collect::<Vec<f32>>())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
