//! Rotary position embedding (Su et al. 2021).

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{Result, Tensor};

use super::Segment;
use super::gpu::Gpu;
use super::kernel::vectorised;

/// Cosines and sines of the rotary embedding, `[positions, head_dim / 2]`.
#[derive(Debug)]
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    /// The same in the memory of a GPU, once something has run there.
    device: OnceLock<(Tensor, Tensor)>,
    /// Positions of the rows of the last batch: every layer asks for them, and a copy to
    /// a GPU costs more than it takes to turn a row.
    rows: Mutex<Option<(Arc<[Segment]>, Tensor)>>,
}

impl Rope {
    /// `angle(t, i) = t · f_i` for the frequencies `f [head_dim / 2]`, in the
    /// pairing of the hub's Llama: dimension `i` turns with dimension `i + d/2`.
    /// Products are rounded to f32, as transformers rounds them: at large `t`
    /// that shows.
    pub fn new(positions: usize, frequencies: &[f32]) -> Arc<Rope> {
        let angles = (0..positions).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (cos, sin) = angles.map(|a| (a.cos(), a.sin())).unzip();
        let (device, rows) = (OnceLock::new(), Mutex::new(None));
        Arc::new(Rope { cos, sin, half: frequencies.len(), device, rows })
    }

    /// Cosines and sines in the memory of the GPU.
    pub(super) fn on_device(&self, gpu: &Gpu) -> Result<(Tensor, Tensor)> {
        if let Some(table) = self.device.get() {
            return Ok(table.clone());
        }
        let upload = |x: &[f32]| Tensor::from_slice(x, x.len(), &gpu.device());
        let table = (upload(&self.cos)?, upload(&self.sin)?);
        Ok(self.device.get_or_init(|| table).clone())
    }

    /// Position of each of the `n` rows of a packed batch, in the memory of the GPU.
    pub(super) fn positions_of(
        &self,
        gpu: &Gpu,
        segments: &Arc<[Segment]>,
        n: usize,
    ) -> Result<Tensor> {
        let mut last = self.rows.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((of, rows)) = last.as_ref()
            && Arc::ptr_eq(of, segments)
            && rows.elem_count() == n
        {
            return Ok(rows.clone());
        }
        let mut positions = vec![0u32; n];
        for s in segments.iter() {
            for (t, p) in positions[s.start..s.start + s.len].iter_mut().enumerate() {
                *p = t as u32;
            }
        }
        let rows = Tensor::new(positions.as_slice(), &gpu.device())?;
        *last = Some((segments.clone(), rows.clone()));
        Ok(rows)
    }

    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Turns every head of one row to position `t`; `sign` −1 turns back.
    #[inline(always)]
    fn turn(&self, row: &mut [f32], t: usize, sign: f32) {
        let h = self.half;
        let (cos, sin) = (&self.cos[t * h..(t + 1) * h], &self.sin[t * h..(t + 1) * h]);
        for head in row.chunks_exact_mut(2 * h) {
            let (a, b) = head.split_at_mut(h);
            for i in 0..h {
                let (x, y, s) = (a[i], b[i], sin[i] * sign);
                a[i] = x * cos[i] - y * s;
                b[i] = y * cos[i] + x * s;
            }
        }
    }

    /// A copy of `x` with every row turned to its position in its segment.
    pub(super) fn turned(
        &self,
        x: &[f32],
        width: usize,
        segments: &[Segment],
        sign: f32,
    ) -> Vec<f32> {
        let mut out = x.to_vec();
        for s in segments {
            let rows = &mut out[s.start * width..(s.start + s.len) * width];
            turn_rows(self, rows, width, 0, sign);
        }
        out
    }
}

vectorised! {
    /// Turns consecutive rows to the positions from `first` on.
    pub(super) fn turn_rows(rope: &Rope, rows: &mut [f32], width: usize, first: usize, sign: f32) {
        for (t, row) in rows.chunks_exact_mut(width).enumerate() {
            rope.turn(row, first + t, sign);
        }
    }
}

/// `f_i = θ^{−2i/d}` for `i < d/2`, computed in f32 as transformers does.
pub fn frequencies(head_dim: usize, theta: f64) -> Vec<f32> {
    let power = |i: usize| (2 * i) as f32 / head_dim as f32;
    (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf(power(i))).collect()
}
