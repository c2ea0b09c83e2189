//! Operations with their gradients.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor, Var};

use super::check::{Compared, Target, allowed, off, random, values};
use crate::model::nf4::Nf4;
use crate::model::ops::{self, AttentionShape, Dropout, Rope, Segment};
use crate::model::{Placement, Weight};

/// An argument of an operation under test.
struct Input {
    name: &'static str,
    shape: Vec<usize>,
    /// Kept in f32 on both sides, as adapters are.
    exact: bool,
}

fn input(name: &'static str, shape: &[usize]) -> Input {
    Input { name, shape: shape.to_vec(), exact: false }
}

type Operation<'a> = &'a dyn Fn(&[Var], &Placement) -> Result<Tensor>;

/// Result and gradients of `f`, contracted with the same random tensor on both sides.
fn compare(
    target: &Target,
    dtype: DType,
    what: &str,
    inputs: &[Input],
    keep: &mut dyn FnMut(Compared),
    f: Operation,
) -> Result<()> {
    let run = |place: &Placement, dtype: DType| -> Result<Vec<Vec<f32>>> {
        let vars = inputs
            .iter()
            .map(|i| {
                let t = random(&format!("{what} {}", i.name), &i.shape)?;
                // Rounded on both sides, so that both start from the same numbers.
                let t = if i.exact { t } else { t.to_dtype(dtype)?.to_dtype(DType::F32)? };
                let kept = if i.exact { DType::F32 } else { place.dtype };
                Ok(Var::from_tensor(&t.to_dtype(kept)?.to_device(&place.device)?)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let y = f(&vars, place)?;
        let c = random(&format!("{what} gradient"), y.dims())?.to_device(&place.device)?;
        let grads = (y.to_dtype(DType::F32)? * c)?.sum_all()?.backward()?;
        let mut out = vec![values(&y)?];
        for v in &vars {
            out.push(grads.get(v).map_or(Ok(Vec::new()), values)?);
        }
        Ok(out)
    };
    let ours = run(&Placement::CPU, dtype)?;
    let theirs = target.run(|| run(&target.place(dtype), dtype))?;
    let names = std::iter::once("result").chain(inputs.iter().map(|i| i.name));
    for ((name, a), b) in names.zip(&ours).zip(&theirs) {
        ensure!(a.len() == b.len(), "{what}: {name} has {} values, then {}", a.len(), b.len());
        if a.is_empty() {
            continue;
        }
        let what = match name {
            "result" => what.to_string(),
            name => format!("{what}: gradient of {name}"),
        };
        keep(Compared { what, dtype, off: off(a, b), allowed: allowed(dtype) });
    }
    Ok(())
}

/// A frozen weight: on the CPU the same rounded numbers as elsewhere.
fn weight(
    name: &str,
    shape: (usize, usize),
    nf4: bool,
    dtype: DType,
    at: &Placement,
) -> Result<Weight> {
    let w = random(name, &[shape.0, shape.1])?;
    if nf4 {
        // NF4 is rounded where it is used, which the CPU in f32 does not do.
        let w = Weight::Nf4(Arc::new(Nf4::quantise(&values(&w)?, shape)));
        return Ok(w.at(at)?);
    }
    Ok(Weight::Dense(at.tensor(&w.to_dtype(dtype)?)?))
}

/// Results and gradients of everything that has a backward pass.
pub(super) fn check(target: &Target, dtype: DType, keep: &mut dyn FnMut(Compared)) -> Result<()> {
    // Odd widths reach the paths beside the fast ones.
    for (n, d) in [(5, 64), (3, 37)] {
        let inputs = [input("x", &[n, d]), input("w", &[d])];
        let what = format!("rms_norm of {d}");
        compare(target, dtype, &what, &inputs, keep, &|v, _| {
            Ok(ops::rms_norm(&v[0], &v[1], 1e-5, true)?)
        })?;
        let inputs = [input("gate", &[n, d]), input("up", &[n, d])];
        compare(target, dtype, "swiglu", &inputs, keep, &|v, _| Ok(ops::swiglu(&v[0], &v[1])?))?;
        let inputs = [input("x", &[n, d])];
        compare(target, dtype, "add_bias", &inputs, keep, &|v, place| {
            let b = random("bias", &[d])?.to_dtype(dtype)?;
            Ok(ops::add_bias(&v[0], &place.tensor(&b)?)?)
        })?;
    }
    // Few rows are multiplied by an own kernel, many by the library's.
    for (n, k, o) in [(1, 64, 48), (5, 64, 48), (12, 64, 48), (3, 37, 21), (12, 37, 21)] {
        for nf4 in [false, true] {
            let kind = if nf4 { "NF4" } else { "dense" };
            let inputs = [input("x", &[n, k])];
            let what = format!("{kind} linear, {n} rows of {k}");
            compare(target, dtype, &what, &inputs, keep, &|v, place| {
                Ok(ops::linear(&v[0], &weight("w", (o, k), nf4, dtype, place)?)?)
            })?;
            let exact = |name, shape: &[usize]| Input { exact: true, ..input(name, shape) };
            let inputs = [input("x", &[n, k]), exact("A", &[8, k]), exact("B", &[o, 8])];
            let what = format!("{kind} lora_linear, {n} rows of {k}");
            compare(target, dtype, &what, &inputs, keep, &|v, place| {
                let w = weight("w", (o, k), nf4, dtype, place)?;
                let dropout = Some(Dropout { p: 0.25, key: 77 });
                Ok(ops::lora_linear(&v[0], &w, &v[1], &v[2], 0.5, dropout, false)?)
            })?;
        }
    }
    let inputs = [input("x", &[12, 64]), input("W", &[48, 64])];
    compare(target, dtype, "trained linear", &inputs, keep, &|v, _| {
        Ok(ops::linear(&v[0], &Weight::Dense(v[1].as_tensor().clone()))?)
    })?;
    let segments: Arc<[Segment]> =
        [(0, 7), (7, 1), (8, 12)].map(|(start, len)| Segment { start, len }).into();
    for (kv_heads, window) in [(4, None), (2, None), (1, Some(5))] {
        let d = 12;
        let inputs = [
            input("q", &[20, 4 * d]),
            input("k", &[20, kv_heads * d]),
            input("v", &[20, kv_heads * d]),
        ];
        let what = format!("attention, {kv_heads} key heads, window {window:?}");
        compare(target, dtype, &what, &inputs, keep, &|v, _| {
            let rope = Rope::new(32, &ops::frequencies(d, 10000.0));
            let shape = AttentionShape { heads: 4, kv_heads, head_dim: d, window, rope };
            Ok(ops::attention(&v[0], &v[1], &v[2], &shape, &segments)?)
        })?;
    }
    let labels: Vec<u32> = (0..9).map(|i| (i * 31) % 101).collect();
    let inputs = [input("x", &[9, 64])];
    compare(target, dtype, "head_log_prob", &inputs, keep, &|v, place| {
        let w = weight("head", (101, 64), false, dtype, place)?;
        Ok(ops::head_log_prob(&v[0], &w, &labels)?)
    })?;
    let inputs = [input("z", &[9, 101])];
    compare(target, dtype, "log_prob", &inputs, keep, &|v, _| Ok(ops::log_prob(&v[0], &labels)?))?;
    let inputs = [Input { exact: true, ..input("x", &[77]) }];
    compare(target, DType::F32, "log_sigmoid", &inputs, keep, &|v, _| {
        Ok(ops::log_sigmoid(v[0].as_tensor())?)
    })
}
