//! A bias added to every row.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::gpu::{self, Gpu};
use super::{output, rows_cols, values, with_values};

/// `y = x + b` for `x [N, d]`, `b [d]`. A `b` that is a variable is trained; a
/// frozen one leaves no gradient behind.
pub fn add_bias(x: &Tensor, b: &Tensor) -> Result<Tensor> {
    match Gpu::of(x) {
        _ if b.is_variable() => x.broadcast_add(b),
        Some(_) => gpu::apply1(x, gpu::AddBias { b: b.clone() }),
        None => x.apply_op1(AddFrozen { b: b.clone() }),
    }
}

struct AddFrozen {
    b: Tensor,
}

impl CustomOp1 for AddFrozen {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, d) = rows_cols("add-bias", lx)?;
        if self.b.dims() != [d] {
            bail!("add-bias: rows of {d} values for a bias {:?}", self.b.dims());
        }
        let mut y = values("add-bias", x, lx)?.to_vec();
        with_values("add-bias", &self.b, |b| {
            for row in y.chunks_exact_mut(d) {
                row.iter_mut().zip(b).for_each(|(y, b)| *y += b);
            }
            Ok(())
        })?;
        Ok(output(y, (n, d)))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(g.clone()))
    }
}
