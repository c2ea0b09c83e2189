//! Log-probability of the labelled token, the one quantity that SFT, DPO and
//! language-model probing are all made of.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use super::gpu::{self, Gpu};
use super::kernel::{exp, max, vectorised};
use super::{output, rows_cols, values, with_values};
use crate::model::weight::Weight;

/// `out_m = z_m[label_m] − log Σ_v e^{z_m[v]}` for logits `z [M, V]`; `[M]`, in nats.
/// Callers select the rows that carry a label first, so no logits are computed
/// that no loss reads.
pub fn log_prob(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (rows, vocab) = logits.dims2()?;
    if labels.len() != rows {
        bail!("log-prob: {} labels for {rows} rows of logits", labels.len());
    }
    if let Some(bad) = labels.iter().find(|l| **l as usize >= vocab) {
        bail!("log-prob: label {bad} is outside the vocabulary of {vocab}");
    }
    if Gpu::of(logits).is_some() {
        let labels = Tensor::new(labels, logits.device())?;
        return gpu::apply1(&logits.to_dtype(DType::F32)?, gpu::LogProb { labels });
    }
    logits.apply_op1(LogProb { labels: labels.to_vec() })
}

/// [`log_prob`] of the logits `x Wᵀ` of states `x [M, d]` under a head `W [V, d]`. On a
/// GPU a frozen head is applied to some rows at a time, and there is no tensor of all
/// logits.
pub fn head_log_prob(x: &Tensor, head: &Weight, labels: &[u32]) -> Result<Tensor> {
    let trained = matches!(head, Weight::Dense(w) if w.is_variable());
    if Gpu::of(x).is_some() && !trained {
        return gpu::apply1(x, gpu::HeadLogProb::new(head, labels, x.device())?);
    }
    log_prob(&super::linear(x, head)?, labels)
}

struct LogProb {
    labels: Vec<u32>,
}

/// `(max, Σ e^{z − max})` of one row.
#[inline(always)]
fn log_sum_exp(z: &[f32], scratch: &mut [f32]) -> (f32, f32) {
    let top = max(z);
    for (s, z) in scratch.iter_mut().zip(z) {
        *s = exp(z - top);
    }
    (top, super::kernel::sum(scratch))
}

vectorised! {
    fn forward(z: &[f32], labels: &[u32], vocab: usize, out: &mut [f32]) {
        let mut scratch = vec![0f32; vocab];
        for ((out, z), label) in out.iter_mut().zip(z.chunks_exact(vocab)).zip(labels) {
            let (top, total) = log_sum_exp(z, &mut scratch);
            *out = z[*label as usize] - top - total.ln();
        }
    }

    /// `dz = g · (onehot(label) − softmax(z))`.
    fn backward(z: &[f32], labels: &[u32], g: &[f32], dz: &mut [f32]) {
        let vocab = z.len() / labels.len().max(1);
        let rows = z.chunks_exact(vocab).zip(dz.chunks_exact_mut(vocab));
        for (((z, dz), label), g) in rows.zip(labels).zip(g) {
            let (_, total) = log_sum_exp(z, dz);
            let c = -g / total;
            for d in dz.iter_mut() {
                *d *= c;
            }
            dz[*label as usize] += g;
        }
    }
}

impl CustomOp1 for LogProb {
    fn name(&self) -> &'static str {
        "log-prob"
    }

    fn cpu_fwd(&self, z: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, v) = rows_cols("log-prob", l)?;
        let z = values("log-prob", z, l)?;
        let mut out = vec![0f32; m];
        forward(z, &self.labels, v, &mut out);
        Ok(output(out, m))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (m, v) = logits.dims2()?;
        let mut dz = vec![0f32; m * v];
        let grad = grad.contiguous()?;
        with_values("log-prob", logits, |z| {
            with_values("log-prob", &grad, |g| {
                backward(z, &self.labels, g, &mut dz);
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dz, (m, v), logits.device())?))
    }
}
