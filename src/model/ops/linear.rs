//! Linear layers: trained, frozen, and frozen with a low-rank adapter.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};

use super::gpu::{self, Gpu};
use super::kernel::{Mat, matmul};
use super::{output, rows_cols, values, with_values};
use crate::model::weight::Weight;

/// `y = x Wᵀ` for `x [N, in]`, `W [out, in]` as the hub stores it. A `W` that is
/// a variable is trained; a frozen one leaves no gradient behind (candle's own
/// product would compute and keep one).
pub fn linear(x: &Tensor, weight: &Weight) -> Result<Tensor> {
    match weight {
        Weight::Dense(w) if w.is_variable() => match Gpu::of(x) {
            Some(_) => gpu::apply2(x, w, gpu::Trained),
            None => x.apply_op2(w, Trained),
        },
        frozen => {
            let weight = frozen.clone();
            match Gpu::of(x) {
                Some(_) => gpu::apply1(x, gpu::Frozen { weight }),
                None => x.apply_op1(Frozen { weight }),
            }
        }
    }
}

/// Dropout on the input of an adapter: which values are dropped is a function
/// of the key and their place, so the backward pass draws the same mask again.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    pub p: f32,
    pub key: u64,
}

impl Dropout {
    fn apply(self, x: &[f32]) -> Vec<f32> {
        let keep = 1.0 / (1.0 - self.p);
        x.iter().enumerate().map(|(i, x)| if self.drops(i) { 0.0 } else { x * keep }).collect()
    }

    fn drops(self, place: usize) -> bool {
        // SplitMix64 of key and place; 24 bits are plenty for a probability.
        let mut z = self.key.wrapping_add((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32) < self.p * (1u64 << 24) as f32
    }
}

/// LoRA (Hu et al. 2022, as PEFT computes it): `y = x Wᵀ + (α/r) · drop(x) Aᵀ Bᵀ`
/// with `W [out, in]` frozen, `A [r, in]`, `B [out, r]` trained. Nobody reads the values
/// of `y` if it is `unread`: they are undefined then, and its gradients as ever.
pub fn lora_linear(
    x: &Tensor,
    weight: &Weight,
    a: &Tensor,
    b: &Tensor,
    scaling: f64,
    dropout: Option<Dropout>,
    unread: bool,
) -> Result<Tensor> {
    let (weight, scaling) = (weight.clone(), scaling as f32);
    match Gpu::of(x) {
        Some(_) => gpu::apply3(x, a, b, gpu::LoraLinear { weight, scaling, dropout, unread }),
        None => x.apply_op3(a, b, LoraLinear { weight, scaling, dropout, unread }),
    }
}

fn check(op: &'static str, (_, k): (usize, usize), (o, i): (usize, usize)) -> Result<()> {
    if k != i {
        bail!("{op}: rows of {k} values for a weight [{o}, {i}]");
    }
    Ok(())
}

struct Trained;

impl CustomOp2 for Trained {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, k), (o, i)) = (rows_cols("linear", lx)?, rows_cols("linear", lw)?);
        check("linear", (n, k), (o, i))?;
        let (x, w) = (values("linear", x, lx)?, values("linear", w, lw)?);
        let mut y = vec![0f32; n * o];
        matmul((n, o, k), &mut y, o, false, 1.0, Mat::rows(x, k), Mat::transposed(w, k));
        Ok(output(y, (n, o)))
    }

    /// `dx = g W`, `dW = gᵀ x`.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((n, k), o) = (x.dims2()?, w.dim(0)?);
        let (mut dx, mut dw) = (vec![0f32; n * k], vec![0f32; o * k]);
        let g = g.contiguous()?;
        with_values("linear", x, |x| {
            with_values("linear", w, |w| {
                with_values("linear", &g, |g| {
                    matmul((n, k, o), &mut dx, k, false, 1.0, Mat::rows(g, o), Mat::rows(w, k));
                    let gt = Mat::transposed(g, o);
                    matmul((o, k, n), &mut dw, k, false, 1.0, gt, Mat::rows(x, k));
                    Ok(())
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(dx, (n, k), x.device())?),
            Some(Tensor::from_vec(dw, (o, k), x.device())?),
        ))
    }
}

struct Frozen {
    weight: Weight,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, k), (o, i)) = (rows_cols("frozen-linear", lx)?, self.weight.shape()?);
        check("frozen-linear", (n, k), (o, i))?;
        let x = values("frozen-linear", x, lx)?;
        let mut y = vec![0f32; n * o];
        self.weight.with_values(|w| {
            matmul((n, o, k), &mut y, o, false, 1.0, Mat::rows(x, k), Mat::transposed(w, k));
            Ok(())
        })?;
        Ok(output(y, (n, o)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let ((n, k), (o, _)) = (x.dims2()?, self.weight.shape()?);
        let mut dx = vec![0f32; n * k];
        let g = g.contiguous()?;
        self.weight.with_values(|w| {
            with_values("frozen-linear", &g, |g| {
                matmul((n, k, o), &mut dx, k, false, 1.0, Mat::rows(g, o), Mat::rows(w, k));
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, (n, k), x.device())?))
    }
}

struct LoraLinear {
    weight: Weight,
    scaling: f32,
    dropout: Option<Dropout>,
    unread: bool,
}

impl LoraLinear {
    /// `drop(x) Aᵀ`, `[n, r]`.
    fn down(&self, x: &[f32], a: &[f32], (n, k, r): (usize, usize, usize)) -> Vec<f32> {
        let mut h = vec![0f32; n * r];
        matmul((n, r, k), &mut h, r, false, 1.0, Mat::rows(x, k), Mat::transposed(a, k));
        h
    }
}

impl CustomOp3 for LoraLinear {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, k), (o, i)) = (rows_cols("lora-linear", lx)?, self.weight.shape()?);
        check("lora-linear", (n, k), (o, i))?;
        let r = rows_cols("lora-linear", la)?.0;
        let (x, a, b) = (
            values("lora-linear", x, lx)?,
            values("lora-linear", a, la)?,
            values("lora-linear", b, lb)?,
        );
        let mut y = vec![0f32; n * o];
        if self.unread {
            return Ok(output(y, (n, o)));
        }
        self.weight.with_values(|w| {
            matmul((n, o, k), &mut y, o, false, 1.0, Mat::rows(x, k), Mat::transposed(w, k));
            Ok(())
        })?;
        let dropped = self.dropout.map(|d| d.apply(x));
        let h = self.down(dropped.as_deref().unwrap_or(x), a, (n, k, r));
        matmul((n, o, r), &mut y, o, true, self.scaling, Mat::rows(&h, r), Mat::transposed(b, r));
        Ok(output(y, (n, o)))
    }

    /// With `s = α/r`, `h = drop(x) Aᵀ`, `e = s · g B`: `dB = s · gᵀ h`,
    /// `dA = eᵀ drop(x)`, `dx = g W + drop(e A)`.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((n, k), (o, _), r) = (x.dims2()?, self.weight.shape()?, a.dim(0)?);
        let s = self.scaling;
        let (mut dx, mut da, mut db) = (vec![0f32; n * k], vec![0f32; r * k], vec![0f32; o * r]);
        let g = g.contiguous()?;
        let op = "lora-linear";
        with_values(op, &g, |g| {
            with_values(op, x, |x| {
                with_values(op, a, |a| {
                    with_values(op, b, |b| {
                        let dropped = self.dropout.map(|d| d.apply(x));
                        let xd = dropped.as_deref().unwrap_or(x);
                        let h = self.down(xd, a, (n, k, r));
                        let gt = Mat::transposed(g, o);
                        matmul((o, r, n), &mut db, r, false, s, gt, Mat::rows(&h, r));
                        let mut e = vec![0f32; n * r];
                        matmul((n, r, o), &mut e, r, false, s, Mat::rows(g, o), Mat::rows(b, r));
                        let et = Mat::transposed(&e, r);
                        matmul((r, k, n), &mut da, k, false, 1.0, et, Mat::rows(xd, k));
                        let (e, a) = (Mat::rows(&e, r), Mat::rows(a, k));
                        matmul((n, k, r), &mut dx, k, false, 1.0, e, a);
                        if let Some(d) = self.dropout {
                            dx = d.apply(&dx);
                        }
                        self.weight.with_values(|w| {
                            let (g, w) = (Mat::rows(g, o), Mat::rows(w, k));
                            matmul((n, k, o), &mut dx, k, true, 1.0, g, w);
                            Ok(())
                        })
                    })
                })
            })
        })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, (n, k), device)?),
            Some(Tensor::from_vec(da, (r, k), device)?),
            Some(Tensor::from_vec(db, (o, r), device)?),
        ))
    }
}
