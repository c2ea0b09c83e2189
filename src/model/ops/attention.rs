//! Causal attention with rotary positions over packed sequences.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::gpu::{self, Gpu};
use super::kernel::{Mat, dot, exp, matmul, max, sum, vectorised};
use super::rope::Rope;
use super::{output, rows_cols, values, with_values};

/// One sequence of a packed batch: rows `start .. start + len`. Positions count
/// from its own start and attention never crosses its ends, so a sequence gives
/// the same numbers whatever it is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: usize,
    pub len: usize,
}

/// Heads of one attention layer.
#[derive(Debug, Clone)]
pub struct AttentionShape {
    pub heads: usize,
    /// Fewer than `heads` is grouped-query attention.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// A position sees itself and the `window - 1` positions before it.
    pub window: Option<usize>,
    pub rope: Arc<Rope>,
}

impl AttentionShape {
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// First position that position `t` sees.
    #[inline(always)]
    pub(super) fn first(&self, t: usize) -> usize {
        self.window.map_or(0, |w| (t + 1).saturating_sub(w))
    }
}

vectorised! {
    /// Turns scores into causal probabilities, row by row; `offset` is the
    /// position of the first row.
    pub(super) fn causal_softmax(p: &mut [f32], cols: usize, offset: usize, shape: &AttentionShape) {
        for (t, row) in p.chunks_exact_mut(cols).enumerate() {
            let (from, to) = (shape.first(offset + t), offset + t + 1);
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            let live = &mut row[from..to];
            let top = max(live);
            for x in live.iter_mut() {
                *x = exp(*x - top);
            }
            let inv = 1.0 / sum(live);
            for x in live.iter_mut() {
                *x *= inv;
            }
        }
    }

    /// `ds ← p ⊙ (ds − Σ_row ds ⊙ p)`, row by row.
    fn softmax_backward(p: &[f32], ds: &mut [f32], cols: usize) {
        for (p, ds) in p.chunks_exact(cols).zip(ds.chunks_exact_mut(cols)) {
            let mean = dot(p, ds);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = p * (*ds - mean);
            }
        }
    }
}

/// `softmax(R(q) R(k)ᵀ / √d + causal mask) v` for `q [N, H·d]`, `k, v [N, Hₖ·d]`,
/// `R` the rotary embedding; `[N, H·d]`. The scores are computed again in the
/// backward pass instead of being kept.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape,
    segments: &Arc<[Segment]>,
) -> Result<Tensor> {
    let rows = q.dim(0)?;
    for s in segments.iter() {
        if s.start + s.len > rows || s.len > shape.rope.positions() {
            bail!(
                "attention: a sequence of {} tokens at row {} does not fit {rows} rows and {} positions",
                s.len,
                s.start,
                shape.rope.positions()
            );
        }
    }
    let (shape, segments) = (shape.clone(), segments.clone());
    match Gpu::of(q) {
        Some(_) => gpu::apply3(q, k, v, gpu::Attention { shape, segments }),
        None => q.apply_op3(k, v, Attention { shape, segments }),
    }
}

struct Attention {
    shape: AttentionShape,
    segments: Arc<[Segment]>,
}

impl Attention {
    /// `(query width, key width, offset of the key head that head `h` reads)`.
    fn widths(&self) -> (usize, usize) {
        let s = &self.shape;
        (s.heads * s.head_dim, s.kv_heads * s.head_dim)
    }

    fn kv_offset(&self, head: usize) -> usize {
        head / (self.shape.heads / self.shape.kv_heads) * self.shape.head_dim
    }

    /// Probabilities `[len, len]` of one head in one sequence, from turned q, k.
    fn probabilities(&self, q: &[f32], k: &[f32], s: Segment, head: usize, p: &mut [f32]) {
        let (qw, kw) = self.widths();
        let d = self.shape.head_dim;
        let q = &q[s.start * qw + head * d..];
        let k = &k[s.start * kw + self.kv_offset(head)..];
        let dims = (s.len, s.len, d);
        let scale = self.shape.scale();
        matmul(dims, p, s.len, false, scale, Mat::rows(q, qw), Mat::transposed(k, kw));
        causal_softmax(p, s.len, 0, &self.shape);
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, _) = rows_cols("attention", lq)?;
        let (qw, kw) = self.widths();
        let rope = &self.shape.rope;
        let q = rope.turned(values("attention", q, lq)?, qw, &self.segments, 1.0);
        let k = rope.turned(values("attention", k, lk)?, kw, &self.segments, 1.0);
        let v = values("attention", v, lv)?;
        let d = self.shape.head_dim;
        let mut out = vec![0f32; n * qw];
        let mut p = Vec::new();
        for &s in self.segments.iter() {
            p.resize(s.len * s.len, 0.0);
            for head in 0..self.shape.heads {
                self.probabilities(&q, &k, s, head, &mut p);
                let v = &v[s.start * kw + self.kv_offset(head)..];
                let out = &mut out[s.start * qw + head * d..];
                let dims = (s.len, d, s.len);
                matmul(dims, out, qw, false, 1.0, Mat::rows(&p, s.len), Mat::rows(v, kw));
            }
        }
        Ok(output(out, (n, qw)))
    }

    /// With `P` the probabilities and `G` the gradient of the output, per head:
    /// `dV = Pᵀ G`, `dP = G Vᵀ`, `dS = P ⊙ (dP − Σ_row dP ⊙ P)`,
    /// `dQ = dS K / √d`, `dK = dSᵀ Q / √d`, then the rotation is undone.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let n = q.dim(0)?;
        let (qw, kw) = self.widths();
        let (d, scale) = (self.shape.head_dim, self.shape.scale());
        let rope = &self.shape.rope;
        let qr = with_values("attention", q, |q| Ok(rope.turned(q, qw, &self.segments, 1.0)))?;
        let kr = with_values("attention", k, |k| Ok(rope.turned(k, kw, &self.segments, 1.0)))?;
        let (mut dq, mut dk, mut dv) = (vec![0f32; n * qw], vec![0f32; n * kw], vec![0f32; n * kw]);
        let grad = grad.contiguous()?;
        with_values("attention", v, |v| {
            with_values("attention", &grad, |g| {
                let (mut p, mut ds) = (Vec::new(), Vec::new());
                for &s in self.segments.iter() {
                    let t = s.len;
                    p.resize(t * t, 0.0);
                    ds.resize(t * t, 0.0);
                    for head in 0..self.shape.heads {
                        self.probabilities(&qr, &kr, s, head, &mut p);
                        let (qo, ko) =
                            (s.start * qw + head * d, s.start * kw + self.kv_offset(head));
                        let (g, v) = (&g[qo..], &v[ko..]);
                        let pt = Mat::transposed(&p, t);
                        matmul((t, d, t), &mut dv[ko..], kw, true, 1.0, pt, Mat::rows(g, qw));
                        let vt = Mat::transposed(v, kw);
                        matmul((t, t, d), &mut ds, t, false, 1.0, Mat::rows(g, qw), vt);
                        softmax_backward(&p, &mut ds, t);
                        let (q, k) = (&qr[qo..], &kr[ko..]);
                        let ds_rows = Mat::rows(&ds, t);
                        let dq = &mut dq[qo..];
                        matmul((t, d, t), dq, qw, false, scale, ds_rows, Mat::rows(k, kw));
                        let ds_t = Mat::transposed(&ds, t);
                        let dk = &mut dk[ko..];
                        matmul((t, d, t), dk, kw, true, scale, ds_t, Mat::rows(q, qw));
                    }
                }
                Ok(())
            })
        })?;
        let dq = rope.turned(&dq, qw, &self.segments, -1.0);
        let dk = rope.turned(&dk, kw, &self.segments, -1.0);
        let device = q.device();
        Ok((
            Some(Tensor::from_vec(dq, (n, qw), device)?),
            Some(Tensor::from_vec(dk, (n, kw), device)?),
            Some(Tensor::from_vec(dv, (n, kw), device)?),
        ))
    }
}
