//! Fused operations, each with its own backward pass.
//!
//! candle's fast kernels (`softmax_last_dim`, `rms_norm`, `rope`) run without a
//! graph: their gradient is silently missing. Its composed ones keep the
//! gradient but spend most of a training step in broadcasts, copies and fresh
//! pages. Every op here is a candle `CustomOp` that does both directions in one
//! pass over plain slices. All tensors are `f32`, contiguous, and *packed*: the
//! sequences of a batch lie end to end in one `[N, …]` tensor, so nothing is
//! ever padded (see [`Segment`]). On a GPU the tensors are f32 or bf16, and the work is
//! that of [`gpu`].

mod attention;
mod bias;
mod cache;
pub mod gpu;
mod kernel;
mod linear;
mod logprob;
mod logsigmoid;
mod norm;
mod rope;
mod swiglu;

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

pub use attention::{AttentionShape, Segment, attention};
pub use bias::add_bias;
pub use cache::{Continuation, Memory, cached_attention};
pub use kernel::{set_threads, threads};
pub use linear::{Dropout, linear, lora_linear};
pub use logprob::{head_log_prob, log_prob};
pub use logsigmoid::log_sigmoid;
pub use norm::rms_norm;
pub use rope::{Rope, frequencies};
pub use swiglu::swiglu;

/// The values of a contiguous `f32` CPU storage.
fn values<'a>(op: &'static str, s: &'a CpuStorage, l: &Layout) -> Result<&'a [f32]> {
    let data = match s {
        CpuStorage::F32(data) => data,
        other => bail!(
            "{op}: expected f32, got {:?}",
            candle_core::backend::BackendStorage::dtype(other)
        ),
    };
    match l.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("{op}: the argument must be contiguous, its layout is {l:?}"),
    }
}

/// Calls `f` with the values of a contiguous `f32` CPU tensor.
pub(crate) fn with_values<R>(
    op: &'static str,
    t: &Tensor,
    f: impl FnOnce(&[f32]) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => f(values(op, s, layout)?),
        _ => bail!("{op}: no implementation for {:?}", t.device().location()),
    }
}

pub(super) fn output(data: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(data), shape.into())
}

/// Rows and columns of a matrix.
fn rows_cols(op: &'static str, l: &Layout) -> Result<(usize, usize)> {
    match l.dims() {
        [n, d] => Ok((*n, *d)),
        other => bail!("{op}: expected a matrix, got the shape {other:?}"),
    }
}
