//! Log-probabilities of labelled tokens.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::Gpu;
use super::buffer::{Buffer, View};
use super::gemm::{Mat, Product};
use super::launch::{Arg, Grid, out};
use super::linear::DenseWeight;
use super::op::GpuOp;
use crate::model::weight::Weight;

/// Logits are made for so many values at a time, at most.
const CHUNK: usize = 1 << 24;

const THREADS: u32 = 1024;

/// See [`crate::model::ops::log_prob`]; logits in f32.
pub struct LogProb {
    pub labels: Tensor,
}

impl GpuOp<1> for LogProb {
    const NAME: &'static str = "log-prob";

    fn forward(&self, gpu: &Gpu, [z]: [View; 1]) -> Result<Buffer> {
        let (m, vocab) = z.matrix()?;
        z.expect("log-prob", DType::F32)?;
        let mut y = gpu.buffer(m, DType::F32)?;
        let labels = View::of(&self.labels)?;
        let args = [(&z).into(), (&labels).into(), out(&mut y)?, Arg::int(vocab)];
        gpu.launch_exact("log_prob_forward", Grid::rows(m, THREADS), &args)?;
        Ok(y)
    }

    fn backward(&self, gpu: &Gpu, [z]: [View; 1], g: View) -> Result<[Option<Buffer>; 1]> {
        let (m, vocab) = z.matrix()?;
        let mut dz = gpu.buffer((m, vocab), DType::F32)?;
        let labels = View::of(&self.labels)?;
        let args = [(&z).into(), (&labels).into(), (&g).into(), out(&mut dz)?, Arg::int(vocab)];
        gpu.launch("log_prob_backward", DType::F32, Grid::rows(m, THREADS), &args)?;
        Ok([Some(dz)])
    }
}

/// `log softmax(x Wᵀ)[label]` for states `x [M, d]` and a frozen head `W [V, d]`, some
/// rows at a time: at no moment is there a tensor of all logits. The backward pass
/// makes each chunk's logits again.
pub struct HeadLogProb {
    pub weight: Weight,
    pub labels: Tensor,
}

impl HeadLogProb {
    /// Labels go to the device once.
    pub fn new(weight: &Weight, labels: &[u32], device: &Device) -> Result<HeadLogProb> {
        let (vocab, _) = weight.shape()?;
        if let Some(bad) = labels.iter().find(|l| **l as usize >= vocab) {
            bail!("log-prob: label {bad} is outside the vocabulary of {vocab}");
        }
        Ok(HeadLogProb { weight: weight.clone(), labels: Tensor::new(labels, device)? })
    }
}

/// The logits of some rows, in f32: `z = x[rows] Wᵀ`.
fn logits(gpu: &Gpu, x: &View, w: &View, rows: Range<usize>, z: &mut Buffer) -> Result<()> {
    let ((_, d), (vocab, _)) = (x.matrix()?, w.matrix()?);
    let (a, b) = (Mat::rows(x, d).offset(rows.start * d), Mat::transposed(w, d));
    gpu.gemm(Product::of(rows.len(), vocab, d), Mat::out(z, vocab)?, a, b)
}

impl GpuOp<1> for HeadLogProb {
    const NAME: &'static str = "head-log-prob";

    fn forward(&self, gpu: &Gpu, [x]: [View; 1]) -> Result<Buffer> {
        let ((m, _), (vocab, _)) = (x.matrix()?, self.weight.shape()?);
        let labels = View::of(&self.labels)?;
        if labels.len() != m {
            bail!("log-prob: {} labels for {m} rows", labels.len());
        }
        let w = DenseWeight::of(gpu, &self.weight, x.dtype())?;
        let mut y = gpu.buffer(m, DType::F32)?;
        let to = y.address()?;
        let chunk = (CHUNK / vocab).clamp(1, m.max(1));
        let mut z = gpu.buffer((chunk, vocab), DType::F32)?;
        for first in (0..m).step_by(chunk) {
            let rows = chunk.min(m - first);
            logits(gpu, &x, &w.view()?, first..first + rows, &mut z)?;
            let args = [
                out(&mut z)?,
                Arg::Address(labels.address() + 4 * first as u64),
                Arg::Address(to + 4 * first as u64),
                Arg::int(vocab),
            ];
            gpu.launch_exact("log_prob_forward", Grid::rows(rows, THREADS), &args)?;
        }
        Ok(y)
    }

    fn backward(&self, gpu: &Gpu, [x]: [View; 1], g: View) -> Result<[Option<Buffer>; 1]> {
        let ((m, d), (vocab, _)) = (x.matrix()?, self.weight.shape()?);
        let labels = View::of(&self.labels)?;
        let w = DenseWeight::of(gpu, &self.weight, x.dtype())?;
        let mut dx = gpu.buffer((m, d), x.dtype())?;
        let chunk = (CHUNK / vocab).clamp(1, m.max(1));
        let mut z = gpu.buffer((chunk, vocab), DType::F32)?;
        let mut dz = gpu.buffer((chunk, vocab), x.dtype())?;
        for first in (0..m).step_by(chunk) {
            let rows = chunk.min(m - first);
            logits(gpu, &x, &w.view()?, first..first + rows, &mut z)?;
            let args = [
                out(&mut z)?,
                Arg::Address(labels.address() + 4 * first as u64),
                Arg::Address(g.address() + 4 * first as u64),
                out(&mut dz)?,
                Arg::int(vocab),
            ];
            gpu.launch("log_prob_backward", x.dtype(), Grid::rows(rows, THREADS), &args)?;
            let (a, b) = (Mat::rows(&dz.view()?, vocab), Mat::rows(&w.view()?, d));
            let c = Mat::out(&mut dx, d)?.offset(first * d);
            gpu.gemm(Product::of(rows, d, vocab), c, a, b)?;
        }
        Ok([Some(dx)])
    }
}
