//! Mixtral's sparse mixture of experts (Jiang et al. 2024).

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};

use super::block::Gated;
use super::lora::{Linear, Pass};
use super::ops::with_values;

/// A router and its experts; each token uses the best `used` of them.
#[derive(Debug, Clone)]
pub(super) struct Experts {
    pub router: Linear,
    pub experts: Vec<Gated>,
    pub used: usize,
}

impl Experts {
    /// `y = Σ_{e ∈ top} softmax(top logits)_e · E_e(x)` for `x [N, d]`, and the
    /// load-balancing loss `E · Σ_e f_e P_e` (Fedus et al. 2021): `f_e` the share
    /// of choices that fell on expert `e`, `P_e` its mean probability. It is 1
    /// when the load is even, times the number of choices as the hub computes it.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Tensor)> {
        let (n, _) = x.dims2()?;
        let count = self.experts.len();
        let logits = self.router.forward(x, pass)?;
        // The rows of an expert decide which products there are, so the host has to know.
        let seen = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let chosen = with_values("router", &seen, |z| {
            Ok(z.chunks_exact(count).map(|row| best(row, self.used)).collect::<Vec<_>>())
        })?;
        let flat: Vec<u32> = chosen.iter().flatten().map(|e| *e as u32).collect();
        let top = Tensor::from_vec(flat, (n, self.used), x.device())?;
        let weights = softmax(&logits.gather(&top, D::Minus1)?)?.flatten_all()?;
        let mut y = x.zeros_like()?;
        let mut share = vec![0f32; count];
        for (e, expert) in self.experts.iter().enumerate() {
            let (mut rows, mut places) = (Vec::new(), Vec::new());
            for (row, picks) in chosen.iter().enumerate() {
                if let Some(j) = picks.iter().position(|p| *p == e) {
                    rows.push(row as u32);
                    places.push((row * self.used + j) as u32);
                }
            }
            if rows.is_empty() {
                continue;
            }
            share[e] = rows.len() as f32 / n as f32;
            let m = rows.len();
            let (rows, places) =
                (Tensor::from_vec(rows, m, x.device())?, Tensor::from_vec(places, m, x.device())?);
            let h = expert.forward(&x.index_select(&rows, 0)?, pass)?;
            let w = weights.index_select(&places, 0)?.reshape((m, 1))?;
            y = y.index_add(&rows, &h.broadcast_mul(&w)?, 0)?;
        }
        let mean = softmax(&logits)?.mean(0)?;
        let share = Tensor::from_vec(share, count, x.device())?.to_dtype(mean.dtype())?;
        let balance = ((mean * share)?.sum_all()? * count as f64)?;
        Ok((y, balance))
    }
}

/// Indices of the `k` largest, the lower index first on a tie.
fn best(row: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    order.truncate(k);
    order
}

/// The differentiable softmax over the last dimension; a handful of experts
/// wide, so composed ops cost nothing.
fn softmax(z: &Tensor) -> Result<Tensor> {
    let z = z.broadcast_sub(&z.max_keepdim(D::Minus1)?.detach())?.exp()?;
    Ok(z.broadcast_div(&z.sum_keepdim(D::Minus1)?)?)
}
