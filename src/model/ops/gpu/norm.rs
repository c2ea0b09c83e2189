//! RMSNorm.

use candle_core::{DType, Result, bail};

use super::Gpu;
use super::buffer::{Buffer, View};
use super::launch::{Arg, Grid, out};
use super::op::GpuOp;

/// See [`crate::model::ops::rms_norm`].
pub struct RmsNorm {
    pub eps: f32,
    pub train_weight: bool,
}

impl GpuOp<2> for RmsNorm {
    const NAME: &'static str = "rms-norm";

    fn forward(&self, gpu: &Gpu, [x, w]: [View; 2]) -> Result<Buffer> {
        let (n, d) = x.matrix()?;
        w.expect("rms-norm", x.dtype())?;
        if w.vector()? != d {
            bail!("rms-norm: rows of {d} values for a weight {:?}", w.shape());
        }
        let mut y = gpu.buffer((n, d), x.dtype())?;
        let args = [(&x).into(), (&w).into(), out(&mut y)?, Arg::int(d), self.eps.into()];
        gpu.launch("rms_norm_forward", x.dtype(), Grid::rows(n, 256), &args)?;
        Ok(y)
    }

    fn backward(&self, gpu: &Gpu, [x, w]: [View; 2], g: View) -> Result<[Option<Buffer>; 2]> {
        let (n, d) = x.matrix()?;
        let mut dx = gpu.buffer((n, d), x.dtype())?;
        let mut inverse = match self.train_weight {
            true => Some(gpu.buffer(n, DType::F32)?),
            false => None,
        };
        let place = inverse.as_mut().map_or(Ok(Arg::Address(0)), out)?;
        let (xa, ga): (Arg, Arg) = ((&x).into(), (&g).into());
        let args = [xa, (&w).into(), ga, out(&mut dx)?, place, Arg::int(d), self.eps.into()];
        gpu.launch("rms_norm_backward", x.dtype(), Grid::rows(n, 256), &args)?;
        let mut dw = None;
        if self.train_weight {
            let mut b = gpu.buffer(d, x.dtype())?;
            let args = [xa, ga, place, out(&mut b)?, Arg::int(n), Arg::int(d)];
            gpu.launch("rms_norm_weight", x.dtype(), Grid::rows(d.div_ceil(32), 256), &args)?;
            dw = Some(b);
        }
        Ok([Some(dx), dw])
    }
}
