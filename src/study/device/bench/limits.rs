//! What the card can do at most: its matrix units, and its memory.

use std::time::Duration;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::session::{Session, time};
use crate::model::ops::gpu::{Mat, Product, View};
use crate::model::rng;

/// The rates that others are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// TFLOP/s of a large product in bf16.
    pub tflops: f64,
    /// Bytes read and written a second by a copy from device to device.
    pub bytes_per_s: f64,
}

impl Limits {
    /// Measures both, each a line.
    pub fn measure(session: &mut Session) -> Result<Limits> {
        Ok(Limits { tflops: matmul(session)?, bytes_per_s: copy(session)? })
    }
}

/// On random values: zeros would draw less power, and go faster.
fn matmul(session: &mut Session) -> Result<f64> {
    let sizes = session.plan.shapes[0].sizes();
    let (n, gpu) = (sizes.square, session.gpu.clone());
    session.gpu.trim()?;
    let random = |name: &str| -> Result<Tensor> {
        let t = match gpu.device() {
            Device::Cpu => {
                let values = rng::normal(&mut rng::stream(1, name), n * n, 1.0);
                Tensor::from_vec(values, (n, n), &Device::Cpu)?
            }
            device => Tensor::randn(0f32, 1f32, (n, n), &device)?,
        };
        Ok(t.to_dtype(DType::BF16)?)
    };
    let (a, b) = (random("a")?, random("b")?);
    let mut c = gpu.buffer((n, n), DType::BF16)?;
    let taken = time(&gpu, (5, 3 * sizes.repeats), Duration::from_secs(3), || {
        // As a linear layer multiplies: x Wᵀ.
        let (a, b) = (Mat::rows(&View::of(&a)?, n), Mat::transposed(&View::of(&b)?, n));
        Ok(gpu.gemm(Product::of(n, n, n), Mat::out(&mut c, n)?, a, b)?)
    })?;
    let tflops = 2.0 * (n as f64).powi(3) / taken.median() / 1e9;
    session.line("matmul", &[json!({ "size": n }), taken.fields(), json!({ "tflops": tflops })])?;
    Ok(tflops)
}

fn copy(session: &mut Session) -> Result<f64> {
    let sizes = session.plan.shapes[0].sizes();
    let (bytes, gpu) = (sizes.buffer, session.gpu.clone());
    session.gpu.trim()?;
    let from = Tensor::zeros(bytes / 4, DType::F32, &gpu.device())?;
    let taken = time(&gpu, (3, 2 * sizes.repeats), Duration::from_secs(2), || {
        from.copy()?;
        Ok(())
    })?;
    let rate = 2e3 * bytes as f64 / taken.median();
    let notes = format!("buffer of {bytes} bytes; counts bytes read and bytes written");
    let found = json!({ "copy_bytes_per_s": rate, "notes": notes });
    session.line("bandwidth", &[taken.fields(), found])?;
    Ok(rate)
}
