//! Drawing tokens.

use candle_core::{DType, Result, Tensor};

use super::Gpu;
use super::buffer::View;
use super::elementwise::cast;
use super::launch::{Arg, Grid, out};

/// One token from each row of logits `[M, V]`: the first most probable at temperature
/// 0, else the one that `u[row]`, uniform on [0, 1), falls on in `softmax(z /
/// temperature)`. Only the tokens come back to the host.
pub fn sample(gpu: &Gpu, logits: &Tensor, temperature: f64, u: &[f64]) -> Result<Vec<u32>> {
    let logits = logits.contiguous()?;
    let z = View::of(&logits)?;
    let (m, vocab) = z.matrix()?;
    let wide = match z.dtype() {
        DType::F32 => None,
        _ => Some(cast(gpu, &z, DType::F32)?),
    };
    let z = wide.as_ref().map(|w| w.view()).transpose()?.unwrap_or(z);
    let u = Tensor::new(u, &gpu.device())?;
    let u = View::of(&u)?;
    let mut tokens = gpu.buffer(m, DType::U32)?;
    let args =
        [(&z).into(), (&u).into(), out(&mut tokens)?, Arg::int(vocab), Arg::F64(temperature)];
    gpu.launch_exact("sample", Grid::rows(m, 1024), &args)?;
    tokens.into_tensor().to_vec1()
}
