//! What has no backward pass: NF4 read back, attention over cached tokens, drawing, and
//! the optimizer.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Tensor, Var};

use super::check::{Compared, Target, allowed, off, random, values};
use crate::model::nf4::{BLOCK, Nf4};
use crate::model::ops::gpu::{self, DeviceCache, DeviceNf4, Gpu, StepRows};
use crate::model::ops::{self, AttentionShape, Continuation, Memory, Rope};
use crate::model::scales::Scales;
use crate::model::{Placement, draw_rows, rng};
use crate::tune::{AdamW, Gradients, OptimizerPlan};

/// All of it, beside the same on the CPU.
pub(super) fn check(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    copy(target, dtype, keep)?;
    dequantise(target, dtype, keep)?;
    cached_attention(target, dtype, keep)?;
    draws(target, dtype, keep)?;
    if dtype == DType::F32 {
        optimizer(target, keep)?;
    }
    Ok(())
}

/// The GPU behind the target, on which `f` runs.
fn on_gpu<R>(target: &Target, f: impl FnOnce(&Gpu) -> Result<R>) -> Result<R> {
    target.run(|| f(&Gpu::on(&target.device).context("the target is no GPU")?))
}

/// A part of a tensor, which begins within its memory.
fn copy(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    let part = random("a part of it", &[6, 7])?.to_dtype(dtype)?.narrow(0, 2, 3)?;
    let theirs = on_gpu(target, |_| {
        let storage = gpu::copy_of(&part.to_device(&target.device)?)?;
        values(&Tensor::from_storage(storage, part.shape(), BackpropOp::none(), false))
    })?;
    let what = "copy of a part".to_string();
    keep(Compared { what, dtype, off: off(&values(&part)?, &theirs), allowed: 0.0 });
    Ok(())
}

/// Bit for bit: both sides multiply a code by a scale and round once, in bf16 once more.
fn dequantise(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    // Whole blocks, and a last one that is cut in the middle of a byte.
    for shape in [(48, 64), (37, 21)] {
        let w = values(&random("nf4 bits", &[shape.0, shape.1])?)?;
        let double = Nf4::quantise(&w, shape);
        let scales = (0..w.len().div_ceil(BLOCK)).map(|i| 0.1 + i as f32).collect();
        let single = Nf4::from_parts(shape, double.packed().to_vec(), Scales::Single(scales))?;
        for (kind, w) in [("two steps", double), ("one step", single)] {
            let ours = Tensor::from_vec(w.dequantise(), shape, &Device::Cpu)?.to_dtype(dtype)?;
            let theirs = on_gpu(target, |gpu| {
                let there = DeviceNf4::upload(&w, &target.device)?;
                values(&there.dequantise(gpu, dtype)?.into_tensor())
            })?;
            let what = format!("NF4 {shape:?} read back, scales in {kind}");
            keep(Compared { what, dtype, off: off(&values(&ours)?, &theirs), allowed: 0.0 });
        }
    }
    Ok(())
}

/// Slots of the caches below; the last two are written by copies.
const SLOTS: usize = 5;

/// New rows of one step: slots with their numbers of rows, in the order of the rows.
type Step = &'static [(usize, usize)];

/// A prompt in each of three slots, of which the longest fills blocks of a size of their
/// own; then single tokens, with a copied slot among them, and a prompt that comes late.
const STEPS: [Step; 5] = [
    &[(2, 9), (0, 70), (1, 1)],
    &[(0, 1), (1, 1), (2, 1)],
    // The copies are made here.
    &[(0, 1), (3, 1), (1, 6), (4, 2)],
    &[(4, 1), (3, 1), (2, 1), (1, 1), (0, 1)],
    &[(1, 1)],
];

/// From, to and rows, before the third step.
const COPIES: [(usize, usize, usize); 2] = [(2, 3, 10), (0, 4, 71)];

fn cached_attention(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    // Widths on and beside the fast paths, for every number of lanes a key.
    let shapes = [
        (4, 16, None),
        (2, 12, None),
        (1, 16, Some(5)),
        (2, 10, Some(40)),
        (1, 64, None),
        (2, 128, Some(40)),
        (1, 90, None),
        (1, 256, None),
    ];
    for (kv_heads, d, window) in shapes {
        let rope = Rope::new(96, &ops::frequencies(d, 10000.0));
        let shape = AttentionShape { heads: 4, kv_heads, head_dim: d, window, rope };
        let widths = [4 * d, kv_heads * d, kv_heads * d];
        let ours = on_cpu(&shape, dtype, widths)?;
        let theirs = on_gpu(target, |gpu| on_device(gpu, &shape, target, dtype, widths))?;
        let all = ours.iter().zip(&theirs).map(|(a, b)| off(a, b));
        let what = format!("cached attention, {kv_heads} key heads of {d}, window {window:?}");
        let off = all.fold(0.0, f64::max);
        keep(Compared { what, dtype, off, allowed: allowed(dtype) });
    }
    Ok(())
}

/// Queries, keys and values of a step, rounded to `dtype`.
fn inputs(at: usize, rows: usize, widths: [usize; 3], dtype: DType) -> Result<[Tensor; 3]> {
    let one = |name: &str, width| -> Result<Tensor> {
        Ok(random(&format!("cached {name} {at}"), &[rows, width])?.to_dtype(dtype)?)
    };
    Ok([one("q", widths[0])?, one("k", widths[1])?, one("v", widths[2])?])
}

fn continuations(step: Step) -> Vec<Continuation> {
    let mut start = 0;
    let row = |&(slot, len): &(usize, usize)| {
        start += len;
        Continuation { start: start - len, len, slot }
    };
    step.iter().map(row).collect()
}

fn on_cpu(shape: &AttentionShape, dtype: DType, widths: [usize; 3]) -> Result<Vec<Vec<f32>>> {
    let mut memory = vec![Memory::default(); SLOTS];
    let mut out = Vec::new();
    for (at, step) in STEPS.into_iter().enumerate() {
        if at == 2 {
            for (from, to, _) in COPIES {
                memory[to] = memory[from].clone();
            }
        }
        let rows = continuations(step);
        let n = rows.iter().map(|r| r.len).sum();
        let [q, k, v] = inputs(at, n, widths, dtype)?;
        let [q, k, v] = [q, k, v].map(|t| t.to_dtype(DType::F32));
        out.push(values(&ops::cached_attention(&q?, &k?, &v?, shape, &rows, &mut memory)?)?);
    }
    Ok(out)
}

fn on_device(
    gpu: &Gpu,
    shape: &AttentionShape,
    target: &Target,
    dtype: DType,
    widths: [usize; 3],
) -> Result<Vec<Vec<f32>>> {
    let place = Placement { device: target.device.clone(), dtype };
    let mut cache = DeviceCache::new(gpu, SLOTS, 80, shape, dtype)?;
    let mut lengths = vec![0; SLOTS];
    let mut out = Vec::new();
    for (at, step) in STEPS.into_iter().enumerate() {
        if at == 2 {
            for (from, to, len) in COPIES {
                cache.copy(gpu, from, to, len)?;
                lengths[to] = len;
            }
        }
        let rows = continuations(step);
        let n = rows.iter().map(|r| r.len).sum();
        let [q, k, v] = inputs(at, n, widths, dtype)?;
        let [q, k, v] = [place.tensor(&q)?, place.tensor(&k)?, place.tensor(&v)?];
        let step = StepRows::new(gpu, &rows, &lengths)?;
        out.push(values(&gpu::cached_attention(gpu, (&q, &k, &v), shape, &step, &mut cache)?)?);
        for r in &rows {
            lengths[r.slot] += r.len;
        }
    }
    Ok(out)
}

/// Tokens from the same logits and the same streams.
fn draws(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    // Fewer tokens than a block has threads, and more, not a multiple of them.
    for vocab in [37, 3001] {
        for temperature in [0.0, 0.7, 1.5] {
            let rows = 40;
            let z = (random("draws", &[rows, vocab])? * 3.0)?.to_dtype(dtype)?;
            let draw = |z: &Tensor| {
                let stream = |i| rng::stream(5, &format!("draw {i}"));
                let mut streams: Vec<_> = (0..rows).map(stream).collect();
                draw_rows(z, temperature, streams.iter_mut())
            };
            let ours = draw(&z.to_dtype(DType::F32)?)?;
            let theirs = target.run(|| draw(&z.to_device(&target.device)?))?;
            let wrong = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            let what = format!("other tokens of {rows} drawn from {vocab} at {temperature}");
            keep(Compared { what, dtype, off: wrong as f64, allowed: 0.0 });
        }
    }
    Ok(())
}

/// Matrices and a vector through some updates, with a gradient that is clipped and one
/// that is not.
fn optimizer(target: &Target, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    let shapes: [(&str, &[usize]); 3] = [("a", &[8, 37]), ("b", &[300, 8]), ("c", &[19])];
    for max_grad_norm in [0.3, 1e6] {
        let run = |device: &Device| -> Result<(Vec<f32>, Vec<f32>)> {
            let mut vars = BTreeMap::new();
            for (name, shape) in shapes {
                let t = random(&format!("parameter {name}"), shape)?.to_device(device)?;
                vars.insert(name.to_string(), Var::from_tensor(&t)?);
            }
            let plan =
                OptimizerPlan { weight_decay: 0.1, max_grad_norm, ..OptimizerPlan::new(1e-2, 10) };
            let (mut adam, mut norms) = (AdamW::new(plan), Vec::new());
            for step in 0..4 {
                let mut grads = Gradients::new();
                for (name, shape) in shapes {
                    let g = random(&format!("gradient {name} {step}"), shape)?;
                    grads.insert(name.to_string(), g.to_device(device)?);
                }
                norms.push(adam.update(&vars, &grads)?.grad_norm()? as f32);
            }
            let mut all = Vec::new();
            for var in vars.values() {
                all.extend(values(var)?);
            }
            Ok((all, norms))
        };
        let (ours, norms) = run(&Device::Cpu)?;
        let (theirs, their_norms) = target.run(|| run(&target.device))?;
        let dtype = DType::F32;
        let mut compared = |what: &str, off| {
            let what = format!("AdamW, clipped at {max_grad_norm}: {what}");
            // The norm's sum has another order.
            keep(Compared { what, dtype, off, allowed: 1e-6 });
        };
        compared("parameters", off(&ours, &theirs));
        compared("norms", off(&norms, &their_norms));
    }
    Ok(())
}
