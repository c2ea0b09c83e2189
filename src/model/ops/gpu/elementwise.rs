//! Activation, bias and `log σ`.

use candle_core::{DType, Result, Tensor, bail};

use super::Gpu;
use super::buffer::{Buffer, View};
use super::launch::{Arg, Grid, out};
use super::op::GpuOp;

/// See [`crate::model::ops::swiglu`].
pub struct SwiGlu;

impl GpuOp<2> for SwiGlu {
    const NAME: &'static str = "swiglu";

    fn forward(&self, gpu: &Gpu, [gate, up]: [View; 2]) -> Result<Buffer> {
        if gate.shape() != up.shape() {
            bail!("swiglu: {:?} and {:?}", gate.shape(), up.shape());
        }
        let mut y = gpu.buffer(gate.shape().clone(), gate.dtype())?;
        let n = Arg::U64(gate.len() as u64);
        let args = [(&gate).into(), (&up).into(), out(&mut y)?, n];
        gpu.launch("swiglu_forward", gate.dtype(), Grid::flat(gate.len(), 8), &args)?;
        Ok(y)
    }

    fn backward(&self, gpu: &Gpu, [gate, up]: [View; 2], g: View) -> Result<[Option<Buffer>; 2]> {
        let mut dg = gpu.buffer(gate.shape().clone(), gate.dtype())?;
        let mut du = gpu.buffer(gate.shape().clone(), gate.dtype())?;
        let n = Arg::U64(gate.len() as u64);
        let args = [(&gate).into(), (&up).into(), (&g).into(), out(&mut dg)?, out(&mut du)?, n];
        gpu.launch("swiglu_backward", gate.dtype(), Grid::flat(gate.len(), 8), &args)?;
        Ok([Some(dg), Some(du)])
    }
}

/// A frozen bias; see [`crate::model::ops::add_bias`].
pub struct AddBias {
    pub b: Tensor,
}

impl GpuOp<1> for AddBias {
    const NAME: &'static str = "add-bias";

    fn forward(&self, gpu: &Gpu, [x]: [View; 1]) -> Result<Buffer> {
        let (_, d) = x.matrix()?;
        let b = View::of(&self.b)?;
        b.expect("add-bias", x.dtype())?;
        if b.vector()? != d {
            bail!("add-bias: rows of {d} values for a bias {:?}", b.shape());
        }
        let mut y = gpu.buffer(x.shape().clone(), x.dtype())?;
        let n = Arg::U64(x.len() as u64);
        let args = [(&x).into(), (&b).into(), out(&mut y)?, Arg::int(d), n];
        gpu.launch("add_bias", x.dtype(), Grid::flat(x.len(), 8), &args)?;
        Ok(y)
    }

    fn backward(&self, gpu: &Gpu, _: [View; 1], g: View) -> Result<[Option<Buffer>; 1]> {
        Ok([Some(cast(gpu, &g, g.dtype())?)])
    }
}

/// See [`crate::model::ops::log_sigmoid`].
pub struct LogSigmoid;

impl GpuOp<1> for LogSigmoid {
    const NAME: &'static str = "log-sigmoid";

    fn forward(&self, gpu: &Gpu, [x]: [View; 1]) -> Result<Buffer> {
        x.expect("log-sigmoid", DType::F32)?;
        let mut y = gpu.buffer(x.shape().clone(), DType::F32)?;
        let args = [(&x).into(), out(&mut y)?, Arg::U64(x.len() as u64)];
        gpu.launch_exact("log_sigmoid_forward", Grid::flat(x.len(), 1), &args)?;
        Ok(y)
    }

    fn backward(&self, gpu: &Gpu, [x]: [View; 1], g: View) -> Result<[Option<Buffer>; 1]> {
        let mut dx = gpu.buffer(x.shape().clone(), DType::F32)?;
        let args = [(&x).into(), (&g).into(), out(&mut dx)?, Arg::U64(x.len() as u64)];
        gpu.launch_exact("log_sigmoid_backward", Grid::flat(x.len(), 1), &args)?;
        Ok([Some(dx)])
    }
}

/// A copy of `x` in another type, or the same.
pub(super) fn cast(gpu: &Gpu, x: &View, to: DType) -> Result<Buffer> {
    let mut y = gpu.buffer(x.shape().clone(), to)?;
    let kernel = match (x.dtype(), to) {
        (DType::F32, DType::F32) => "copy_f32",
        (DType::BF16, DType::BF16) => "copy_bf16",
        (DType::F32, DType::BF16) => "round_bf16",
        (DType::BF16, DType::F32) => "widen_bf16",
        (from, to) => bail!("no kernel from {from:?} to {to:?}"),
    };
    let args = [x.into(), out(&mut y)?, Arg::U64(x.len() as u64)];
    gpu.launch_exact(kernel, Grid::flat(x.len(), 8), &args)?;
    Ok(y)
}
