//! Causal attention over packed sequences.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::buffer::{Buffer, View};
use super::elementwise::cast;
use super::gemm::{Mat, Product};
use super::launch::{Arg, Grid, out};
use super::op::GpuOp;
use super::{Class, Gpu, profile};
use crate::model::ops::{AttentionShape, Segment};

/// Scores of so many values are alive at a time, at most: 16 MB in f32, so that what one
/// kernel has written the next one finds in the cache of a large card (50 MB on an H100).
/// On the emulator so few that short sequences are taken in portions, too.
fn most_scores(gpu: &Gpu) -> usize {
    match gpu {
        #[cfg(feature = "cuda")]
        Gpu::Cuda(_) => 1 << 22,
        Gpu::Emulated(_) => 400,
    }
}

/// See [`crate::model::ops::attention`]. Scores are made by the sequence and for some
/// heads at a time, softmax runs on them in f32, and the backward pass makes them
/// again.
pub struct Attention {
    pub shape: AttentionShape,
    pub segments: Arc<[Segment]>,
}

/// Values from one row of scores to the next: a multiple of 16 bytes, without which the
/// products on tensor cores are slow. An example is fed without its last token, so odd
/// lengths are the rule.
fn width(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// The heads of one step: key heads `first .. first + count` and the queries that read
/// them, of which key head `j` has `group`.
#[derive(Clone, Copy)]
struct Heads {
    first: usize,
    count: usize,
}

impl Attention {
    fn widths(&self) -> (usize, usize) {
        let s = &self.shape;
        (s.heads * s.head_dim, s.kv_heads * s.head_dim)
    }

    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Key heads in portions whose scores fit.
    fn portions(&self, gpu: &Gpu, len: usize) -> impl Iterator<Item = Heads> + use<> {
        let kv = self.shape.kv_heads;
        let of_one = self.group() * len * width(len);
        let count = (most_scores(gpu) / of_one.max(1)).clamp(1, kv);
        (0..kv).step_by(count).map(move |first| Heads { first, count: count.min(kv - first) })
    }

    /// `q`-sided matrix of the `j`-th query head of every key head of `heads`.
    fn queries(&self, m: Mat, s: Segment, heads: Heads, j: usize) -> Mat {
        let (qw, d, group) = (self.widths().0, self.shape.head_dim, self.group());
        m.offset(s.start * qw + (heads.first * group + j) * d).batched(group * d)
    }

    fn keys(&self, m: Mat, s: Segment, heads: Heads) -> Mat {
        let (kw, d) = (self.widths().1, self.shape.head_dim);
        m.offset(s.start * kw + heads.first * d).batched(d)
    }

    /// Square matrices `[len, len]` of the `j`-th query heads, in rows of [`width`].
    fn squares(&self, m: Mat, len: usize, j: usize) -> Mat {
        let size = len * width(len);
        m.offset(j * size).batched(self.group() * size)
    }

    /// Rows turned to their positions, or back.
    fn turned(&self, gpu: &Gpu, x: &View, heads: usize, sign: f32) -> Result<Buffer> {
        let (n, _) = x.matrix()?;
        let table = self.shape.rope.on_device(gpu)?;
        let positions = self.shape.rope.positions_of(gpu, &self.segments, n)?;
        let mut y = gpu.buffer(x.shape().clone(), x.dtype())?;
        let at = out(&mut y)?;
        turn(gpu, x, at, &positions, &table, (heads, self.shape.head_dim / 2), sign)?;
        Ok(y)
    }

    /// Probabilities `[heads, len, len]` of one portion of one sequence.
    fn probabilities(
        &self,
        gpu: &Gpu,
        (q, k): (&View, &View),
        s: Segment,
        heads: Heads,
        (scores, p): (&mut Buffer, &mut Buffer),
    ) -> Result<()> {
        let ((qw, kw), d, len) = (self.widths(), self.shape.head_dim, s.len);
        for j in 0..self.group() {
            let a = self.queries(Mat::rows(q, qw), s, heads, j);
            let b = self.keys(Mat::transposed(k, kw), s, heads);
            let c = self.squares(Mat::out(scores, width(len))?, len, j);
            let product = Product::of(len, len, d).scaled(self.shape.scale()).batch(heads.count);
            gpu.gemm(product, c, a, b)?;
        }
        let rows = heads.count * self.group();
        let window = self.shape.window.unwrap_or(0);
        let dtype = p.dtype();
        let args = [
            out(scores)?,
            out(p)?,
            Arg::int(len),
            Arg::int(width(len)),
            Arg::I32(0),
            Arg::int(window),
        ];
        let grid = Grid { blocks: [len as u32, rows as u32, 1], threads: 128, shared: 0 };
        gpu.launch("softmax_causal", dtype, grid, &args)
    }

    /// Room for the scores of the largest portion.
    fn room(&self, gpu: &Gpu, dtype: DType) -> Result<Buffer> {
        let group = self.group();
        let of = |s: &Segment| {
            let heads = self.portions(gpu, s.len).map(|h| h.count).max().unwrap_or(0);
            heads * group * s.len * width(s.len)
        };
        gpu.buffer(self.segments.iter().map(of).max().unwrap_or(0), dtype)
    }

    fn run(&self, gpu: &Gpu, [q, k, v]: [View; 3]) -> Result<Buffer> {
        let (n, _) = q.matrix()?;
        let ((qw, kw), d, dtype) = (self.widths(), self.shape.head_dim, q.dtype());
        let q = self.turned(gpu, &q, self.shape.heads, 1.0)?;
        let k = self.turned(gpu, &k, self.shape.kv_heads, 1.0)?;
        let mut o = gpu.buffer((n, qw), dtype)?;
        let (mut scores, mut p) = (self.room(gpu, DType::F32)?, self.room(gpu, dtype)?);
        for &s in self.segments.iter() {
            for heads in self.portions(gpu, s.len) {
                let qk = (&q.view()?, &k.view()?);
                self.probabilities(gpu, qk, s, heads, (&mut scores, &mut p))?;
                for j in 0..self.group() {
                    let a = self.squares(Mat::rows(&p.view()?, width(s.len)), s.len, j);
                    let b = self.keys(Mat::rows(&v, kw), s, heads);
                    let c = self.queries(Mat::out(&mut o, qw)?, s, heads, j);
                    gpu.gemm(Product::of(s.len, d, s.len).batch(heads.count), c, a, b)?;
                }
            }
        }
        Ok(o)
    }

    /// With `P` the probabilities and `G` the gradient of the output, per head:
    /// `dV = Pᵀ G`, `dP = G Vᵀ`, `dS = P ⊙ (dP − Σ_row dP ⊙ P)`,
    /// `dQ = dS K / √d`, `dK = dSᵀ Q / √d`, then the rotation is undone.
    fn run_backward(&self, gpu: &Gpu, [q, k, v]: [View; 3], g: View) -> Result<[Buffer; 3]> {
        let (n, _) = q.matrix()?;
        let ((qw, kw), d, dtype) = (self.widths(), self.shape.head_dim, q.dtype());
        let scale = self.shape.scale();
        let q = self.turned(gpu, &q, self.shape.heads, 1.0)?;
        let k = self.turned(gpu, &k, self.shape.kv_heads, 1.0)?;
        let (q, k) = (q.view()?, k.view()?);
        let mut dq = gpu.buffer((n, qw), dtype)?;
        // Key heads that several query heads read gather their gradients in f32.
        let sums = if self.group() > 1 { DType::F32 } else { dtype };
        let (mut dk, mut dv) = (gpu.buffer((n, kw), sums)?, gpu.buffer((n, kw), sums)?);
        let (mut scores, mut p) = (self.room(gpu, DType::F32)?, self.room(gpu, dtype)?);
        let mut ds = self.room(gpu, dtype)?;
        for &s in self.segments.iter() {
            let len = s.len;
            for heads in self.portions(gpu, len) {
                self.probabilities(gpu, (&q, &k), s, heads, (&mut scores, &mut p))?;
                let square = |b: &Buffer, transposed: bool, j| -> Result<Mat> {
                    let m = Mat::rows(&b.view()?, width(len));
                    Ok(self.squares(Mat { transposed, ..m }, len, j))
                };
                for j in 0..self.group() {
                    let g = self.queries(Mat::rows(&g, qw), s, heads, j);
                    let c = self.keys(Mat::out(&mut dv, kw)?, s, heads);
                    let product = Product::of(len, d, len).batch(heads.count).added(j > 0);
                    gpu.gemm(product, c, square(&p, true, j)?, g)?;
                    let c = self.squares(Mat::out(&mut scores, width(len))?, len, j);
                    let b = self.keys(Mat::transposed(&v, kw), s, heads);
                    gpu.gemm(Product::of(len, len, d).batch(heads.count), c, g, b)?;
                }
                let rows = heads.count * self.group() * len;
                let sizes = [Arg::int(len), Arg::int(width(len))];
                let args = [out(&mut p)?, out(&mut scores)?, out(&mut ds)?, sizes[0], sizes[1]];
                gpu.launch("softmax_backward", dtype, Grid::rows(rows, 128), &args)?;
                for j in 0..self.group() {
                    let product = Product::of(len, d, len).scaled(scale).batch(heads.count);
                    let c = self.queries(Mat::out(&mut dq, qw)?, s, heads, j);
                    let b = self.keys(Mat::rows(&k, kw), s, heads);
                    gpu.gemm(product, c, square(&ds, false, j)?, b)?;
                    let c = self.keys(Mat::out(&mut dk, kw)?, s, heads);
                    let b = self.queries(Mat::rows(&q, qw), s, heads, j);
                    gpu.gemm(product.added(j > 0), c, square(&ds, true, j)?, b)?;
                }
            }
        }
        if sums != dtype {
            (dk, dv) = (cast(gpu, &dk.view()?, dtype)?, cast(gpu, &dv.view()?, dtype)?);
        }
        let dq = self.turned(gpu, &dq.view()?, self.shape.heads, -1.0)?;
        let dk = self.turned(gpu, &dk.view()?, self.shape.kv_heads, -1.0)?;
        Ok([dq, dk, dv])
    }
}

impl GpuOp<3> for Attention {
    const NAME: &'static str = "attention";

    fn forward(&self, gpu: &Gpu, x: [View; 3]) -> Result<Buffer> {
        profile::within(Class::Attention, || self.run(gpu, x))
    }

    fn backward(&self, gpu: &Gpu, x: [View; 3], g: View) -> Result<[Option<Buffer>; 3]> {
        Ok(profile::within(Class::Attention, || self.run_backward(gpu, x, g))?.map(Some))
    }
}

/// Turns the rows of `x`, `(heads, half)` each, to `positions`.
pub(super) fn turn(
    gpu: &Gpu,
    x: &View,
    to: Arg,
    positions: &Tensor,
    (cos, sin): &(Tensor, Tensor),
    (heads, half): (usize, usize),
    sign: f32,
) -> Result<()> {
    let (n, _) = x.matrix()?;
    let (cos, sin, positions) = (View::of(cos)?, View::of(sin)?, View::of(positions)?);
    let args = [
        x.into(),
        to,
        (&positions).into(),
        (&cos).into(),
        (&sin).into(),
        Arg::int(heads),
        Arg::int(half),
        sign.into(),
    ];
    gpu.launch("rope", x.dtype(), Grid::rows(n, 256), &args)
}
