//! Keys and values of sequences being generated.

use candle_core::{DType, Result, Tensor, bail};

use super::attention::turn;
use super::buffer::View;
use super::launch::{Arg, Grid, out};
use super::{Class, Gpu, profile};
use crate::model::ops::{AttentionShape, Continuation};

/// Keys (turned to their positions) and values of all slots in one layer,
/// `[slots · capacity, Hₖ·d]` each.
#[derive(Debug)]
pub struct DeviceCache {
    k: Tensor,
    v: Tensor,
    capacity: usize,
}

/// The new rows of one step: for each its slot and its position there, in the memory
/// of the device. All layers share them.
#[derive(Debug)]
pub struct StepRows {
    slots: Tensor,
    positions: Tensor,
}

impl StepRows {
    /// `lengths` are those of the slots before the step.
    pub fn new(gpu: &Gpu, rows: &[Continuation], lengths: &[usize]) -> Result<StepRows> {
        let (mut slots, mut positions) = (Vec::new(), Vec::new());
        for c in rows {
            if c.start != slots.len() {
                bail!("cached attention: rows must follow each other");
            }
            slots.extend(std::iter::repeat_n(c.slot as u32, c.len));
            positions.extend((0..c.len).map(|i| (lengths[c.slot] + i) as u32));
        }
        let device = gpu.device();
        Ok(StepRows {
            slots: Tensor::new(slots.as_slice(), &device)?,
            positions: Tensor::new(positions.as_slice(), &device)?,
        })
    }
}

impl DeviceCache {
    pub fn new(
        gpu: &Gpu,
        slots: usize,
        capacity: usize,
        shape: &AttentionShape,
        dtype: DType,
    ) -> Result<DeviceCache> {
        let shape = (slots * capacity, shape.kv_heads * shape.head_dim);
        let new = || Tensor::zeros(shape, dtype, &gpu.device());
        Ok(DeviceCache { k: new()?, v: new()?, capacity })
    }

    /// Copies the first `len` rows of a slot to another.
    pub fn copy(&self, gpu: &Gpu, from: usize, to: usize, len: usize) -> Result<()> {
        let (k, v) = (View::of(&self.k)?, View::of(&self.v)?);
        let (_, width) = k.matrix()?;
        let args = [
            (&k).into(),
            (&v).into(),
            Arg::int(from),
            Arg::int(to),
            Arg::int(len),
            Arg::int(width),
            Arg::int(self.capacity),
        ];
        gpu.launch("cache_copy", k.dtype(), Grid::flat(len * width, 4), &args)
    }
}

/// See [`crate::model::ops::cached_attention`].
pub fn cached_attention(
    gpu: &Gpu,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape,
    rows: &StepRows,
    cache: &mut DeviceCache,
) -> Result<Tensor> {
    profile::within(Class::Attention, || {
        let (q, k, v) = (View::of(q)?, View::of(k)?, View::of(v)?);
        let (n, qw) = q.matrix()?;
        let (d, kv_heads, dtype) = (shape.head_dim, shape.kv_heads, q.dtype());
        let table = shape.rope.on_device(gpu)?;
        let (cos, sin) = (View::of(&table.0)?, View::of(&table.1)?);
        let (slots, positions) = (View::of(&rows.slots)?, View::of(&rows.positions)?);
        let (ck, cv) = (View::of(&cache.k)?, View::of(&cache.v)?);
        let args = [
            (&k).into(),
            (&v).into(),
            (&ck).into(),
            (&cv).into(),
            (&slots).into(),
            (&positions).into(),
            (&cos).into(),
            (&sin).into(),
            Arg::int(kv_heads),
            Arg::int(d / 2),
            Arg::int(cache.capacity),
        ];
        gpu.launch("cache_append", dtype, Grid::rows(n, 256), &args)?;
        let mut turned = gpu.buffer((n, qw), dtype)?;
        let to = out(&mut turned)?;
        turn(gpu, &q, to, &rows.positions, &table, (shape.heads, d / 2), 1.0)?;
        let mut o = gpu.buffer((n, qw), dtype)?;
        let args = [
            to,
            (&ck).into(),
            (&cv).into(),
            (&slots).into(),
            (&positions).into(),
            out(&mut o)?,
            Arg::int(shape.heads),
            Arg::int(kv_heads),
            Arg::int(d),
            Arg::int(cache.capacity),
            Arg::int(shape.window.unwrap_or(0)),
            shape.scale().into(),
        ];
        // Few rows leave most of a card idle; more loads on their way make up for some of it.
        let threads = if n * shape.heads < 264 { 512 } else { 128 };
        let grid = Grid { blocks: [n as u32, shape.heads as u32, 1], threads, shared: 0 };
        gpu.launch("attend_cached", dtype, grid, &args)?;
        Ok(o.into_tensor())
    })
}
