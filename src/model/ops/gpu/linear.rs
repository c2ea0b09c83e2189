//! Linear layers: trained, frozen, and frozen with a low-rank adapter.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::Gpu;
use super::buffer::{Buffer, View};
use super::elementwise::cast;
use super::gemm::{Mat, Product};
use super::launch::{Arg, Grid, out};
use super::op::GpuOp;
use crate::model::nf4::{BLOCK, Nf4};
use crate::model::ops::Dropout;
use crate::model::scales::{DYNAMIC_MAP, NESTED_BLOCK, Scales};
use crate::model::weight::Weight;

/// Up to so many rows are multiplied by reading the weight once, without cuBLAS.
const FEW: usize = 8;

/// An NF4 weight in the memory of a GPU, as [`Nf4`] holds it.
#[derive(Debug)]
pub struct DeviceNf4 {
    shape: (usize, usize),
    packed: Tensor,
    /// Absent in an argument: an address of 0.
    codes: Option<Tensor>,
    nested: Option<Tensor>,
    map: Option<Tensor>,
    single: Option<Tensor>,
    offset: f32,
}

impl DeviceNf4 {
    pub fn upload(w: &Nf4, device: &Device) -> Result<DeviceNf4> {
        let bytes = |x: &[u8]| Tensor::from_slice(x, x.len(), device);
        let floats = |x: &[f32]| Tensor::from_slice(x, x.len(), device);
        let (mut codes, mut nested, mut map, mut single, mut offset) =
            (None, None, None, None, 0.0);
        match w.scales() {
            Scales::Single(s) => single = Some(floats(s)?),
            Scales::Double { codes: c, nested: n, offset: o, map: m } => {
                (codes, nested, offset) = (Some(bytes(c)?), Some(floats(n)?), *o);
                map = Some(floats(m.as_deref().unwrap_or(&*DYNAMIC_MAP))?);
            }
        }
        let packed = bytes(w.packed())?;
        Ok(DeviceNf4 { shape: w.shape(), packed, codes, nested, map, single, offset })
    }

    /// From what is in the memory of the GPU already, bytes and f32: `packed [out·in/2]`,
    /// `codes [out·in/64]` and `nested [out·in/16384]`, each rounded up; scales are
    /// those of the signed dynamic map.
    pub fn from_parts(
        shape: (usize, usize),
        packed: Tensor,
        codes: Tensor,
        nested: Tensor,
        offset: f32,
    ) -> Result<DeviceNf4> {
        let n = shape.0 * shape.1;
        let blocks = n.div_ceil(BLOCK);
        let want = [n.div_ceil(2), blocks, blocks.div_ceil(NESTED_BLOCK)];
        let have = [&packed, &codes, &nested].map(Tensor::elem_count);
        if have != want {
            bail!("nf4: {shape:?} weights need parts of {want:?} values, there are {have:?}");
        }
        let map = Tensor::from_slice(&DYNAMIC_MAP[..], DYNAMIC_MAP.len(), packed.device())?;
        let (codes, nested, map) = (Some(codes), Some(nested), Some(map));
        Ok(DeviceNf4 { shape, packed, codes, nested, map, single: None, offset })
    }

    /// Back in ordinary memory.
    pub fn download(&self) -> Result<Nf4> {
        let bytes = |t: &Tensor| t.to_vec1::<u8>();
        let floats = |t: &Tensor| t.to_vec1::<f32>();
        let scales = match (&self.single, &self.codes, &self.nested, &self.map) {
            (Some(s), ..) => Scales::Single(floats(s)?),
            (None, Some(c), Some(n), Some(m)) => {
                let map = Some(floats(m)?).filter(|m| *m != *DYNAMIC_MAP);
                Scales::Double { codes: bytes(c)?, nested: floats(n)?, offset: self.offset, map }
            }
            _ => bail!("nf4: scales without their parts"),
        };
        Nf4::from_parts(self.shape, bytes(&self.packed)?, scales)
    }

    pub fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let parts = [Some(&self.packed), self.codes.as_ref(), self.nested.as_ref()];
        let more = [self.map.as_ref(), self.single.as_ref()];
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        parts.into_iter().chain(more).flatten().map(size).sum()
    }

    /// The first arguments of every kernel that reads NF4.
    fn args(&self) -> Result<Vec<Arg>> {
        let place = |t: &Option<Tensor>| match t {
            None => Ok(Arg::Address(0)),
            Some(t) => View::of(t).map(|v| Arg::from(&v)),
        };
        Ok(vec![
            Arg::from(&View::of(&self.packed)?),
            place(&self.codes)?,
            place(&self.nested)?,
            place(&self.map)?,
            Arg::F32(self.offset),
            place(&self.single)?,
        ])
    }

    /// The weight in f32.
    pub fn dense(&self) -> Result<Tensor> {
        match Gpu::of(&self.packed) {
            Some(gpu) => Ok(self.dequantise(&gpu, DType::F32)?.into_tensor()),
            None => bail!("nf4: this weight was made for a GPU"),
        }
    }

    /// The weight in full, for the time of one product.
    pub fn dequantise(&self, gpu: &Gpu, dtype: DType) -> Result<Buffer> {
        let mut w = gpu.buffer(self.shape, dtype)?;
        let mut args = self.args()?;
        args.extend([out(&mut w)?, Arg::U64(w.len() as u64)]);
        gpu.launch("nf4_dequantise", dtype, Grid::flat(w.len(), 16), &args)?;
        Ok(w)
    }
}

/// A weight as a product reads it: the dense tensor itself, or a fresh copy of NF4.
pub(super) enum DenseWeight<'a> {
    Tensor(&'a Tensor),
    Fresh(Buffer),
}

impl<'a> DenseWeight<'a> {
    pub fn of(gpu: &Gpu, w: &'a Weight, dtype: DType) -> Result<DenseWeight<'a>> {
        match w {
            Weight::Dense(w) if w.dtype() == dtype => Ok(DenseWeight::Tensor(w)),
            Weight::Dense(w) => bail!("a weight in {:?} for values in {dtype:?}", w.dtype()),
            Weight::DeviceNf4(w) => Ok(DenseWeight::Fresh(w.dequantise(gpu, dtype)?)),
            Weight::Nf4(_) => bail!("an NF4 weight that was not moved to the GPU"),
        }
    }

    pub fn view(&self) -> Result<View<'_>> {
        match self {
            DenseWeight::Tensor(t) => View::of(t),
            DenseWeight::Fresh(b) => b.view(),
        }
    }
}

fn check(op: &'static str, k: usize, (o, i): (usize, usize)) -> Result<()> {
    if k != i {
        bail!("{op}: rows of {k} values for a weight [{o}, {i}]");
    }
    Ok(())
}

/// `y = x Wᵀ`.
fn product(gpu: &Gpu, x: &View, w: &Weight) -> Result<Buffer> {
    let ((n, k), (o, i)) = (x.matrix()?, w.shape()?);
    check("linear", k, (o, i))?;
    let mut y = gpu.buffer((n, o), x.dtype())?;
    if few(n) {
        // Decoding: the time is that of reading the weight.
        let grid = Grid::rows(o.div_ceil(8), 256);
        let (kernel, mut args) = match w {
            Weight::DeviceNf4(w) => ("nf4_gemv", w.args()?),
            Weight::Dense(w) => {
                let w = View::of(w)?;
                w.expect("linear", x.dtype())?;
                ("gemv", vec![Arg::from(&w)])
            }
            Weight::Nf4(_) => bail!("an NF4 weight that was not moved to the GPU"),
        };
        args.extend([x.into(), out(&mut y)?, Arg::int(o), Arg::int(k), Arg::int(n)]);
        gpu.launch(kernel, x.dtype(), grid, &args)?;
        return Ok(y);
    }
    add_product(gpu, x, w, &mut y, false)?;
    Ok(y)
}

fn few(rows: usize) -> bool {
    (1..=FEW).contains(&rows)
}

/// `y = keep · y + x Wᵀ`, by cuBLAS.
fn add_product(gpu: &Gpu, x: &View, w: &Weight, y: &mut Buffer, keep: bool) -> Result<()> {
    let ((n, k), (o, _)) = (x.matrix()?, w.shape()?);
    let w = DenseWeight::of(gpu, w, x.dtype())?;
    let (a, b) = (Mat::rows(x, k), Mat::transposed(&w.view()?, k));
    gpu.gemm(Product::of(n, o, k).added(keep), Mat::out(y, o)?, a, b)
}

/// See [`crate::model::ops::linear`]; the weight has no gradient.
pub struct Frozen {
    pub weight: Weight,
}

impl GpuOp<1> for Frozen {
    const NAME: &'static str = "frozen-linear";

    fn forward(&self, gpu: &Gpu, [x]: [View; 1]) -> Result<Buffer> {
        product(gpu, &x, &self.weight)
    }

    /// `dx = g W`.
    fn backward(&self, gpu: &Gpu, [x]: [View; 1], g: View) -> Result<[Option<Buffer>; 1]> {
        let ((n, k), (o, _)) = (x.matrix()?, self.weight.shape()?);
        let w = DenseWeight::of(gpu, &self.weight, x.dtype())?;
        let mut dx = gpu.buffer((n, k), x.dtype())?;
        let (a, b) = (Mat::rows(&g, o), Mat::rows(&w.view()?, k));
        gpu.gemm(Product::of(n, k, o), Mat::out(&mut dx, k)?, a, b)?;
        Ok([Some(dx)])
    }
}

/// See [`crate::model::ops::linear`]; arguments `x` and `W`.
pub struct Trained;

impl GpuOp<2> for Trained {
    const NAME: &'static str = "linear";

    fn forward(&self, gpu: &Gpu, [x, w]: [View; 2]) -> Result<Buffer> {
        let ((n, k), (o, i)) = (x.matrix()?, w.matrix()?);
        check("linear", k, (o, i))?;
        let mut y = gpu.buffer((n, o), x.dtype())?;
        let (a, b) = (Mat::rows(&x, k), Mat::transposed(&w, k));
        gpu.gemm(Product::of(n, o, k), Mat::out(&mut y, o)?, a, b)?;
        Ok(y)
    }

    /// `dx = g W`, `dW = gᵀ x`.
    fn backward(&self, gpu: &Gpu, [x, w]: [View; 2], g: View) -> Result<[Option<Buffer>; 2]> {
        let ((n, k), (o, _)) = (x.matrix()?, w.matrix()?);
        let mut dx = gpu.buffer((n, k), x.dtype())?;
        let c = Mat::out(&mut dx, k)?;
        gpu.gemm(Product::of(n, k, o), c, Mat::rows(&g, o), Mat::rows(&w, k))?;
        let mut dw = gpu.buffer((o, k), w.dtype())?;
        let c = Mat::out(&mut dw, k)?;
        gpu.gemm(Product::of(o, k, n), c, Mat::transposed(&g, o), Mat::rows(&x, k))?;
        Ok([Some(dx), Some(dw)])
    }
}

/// See [`crate::model::ops::lora_linear`]; arguments `x`, `A` and `B`, the last two
/// in f32 and rounded to the type of `x` for the products. Their gradients are f32.
pub struct LoraLinear {
    pub weight: Weight,
    pub scaling: f32,
    pub dropout: Option<Dropout>,
    /// The result is not read, and stays undefined.
    pub unread: bool,
}

fn dropped(gpu: &Gpu, d: Dropout, x: &View) -> Result<Buffer> {
    let mut y = gpu.buffer(x.shape().clone(), x.dtype())?;
    let args = [x.into(), out(&mut y)?, Arg::F32(d.p), Arg::U64(d.key), Arg::U64(x.len() as u64)];
    gpu.launch("dropout", x.dtype(), Grid::flat(x.len(), 8), &args)?;
    Ok(y)
}

impl GpuOp<3> for LoraLinear {
    const NAME: &'static str = "lora-linear";

    fn forward(&self, gpu: &Gpu, [x, a, b]: [View; 3]) -> Result<Buffer> {
        let ((n, k), (o, i), (r, _)) = (x.matrix()?, self.weight.shape()?, a.matrix()?);
        check("lora-linear", k, (o, i))?;
        check("lora-linear", k, a.matrix()?)?;
        check("lora-linear", r, b.matrix()?)?;
        if self.unread {
            return gpu.buffer((n, o), x.dtype());
        }
        // The small product goes first where the large one can be added to it: written
        // to `y` alone, it need not read it.
        let mut y =
            if few(n) { product(gpu, &x, &self.weight)? } else { gpu.buffer((n, o), x.dtype())? };
        let (a, b) = (cast(gpu, &a, x.dtype())?, cast(gpu, &b, x.dtype())?);
        let xd = self.dropout.map(|d| dropped(gpu, d, &x)).transpose()?;
        let xd = xd.as_ref().map(Buffer::view).transpose()?.unwrap_or(x.clone());
        let mut h = gpu.buffer((n, r), xd.dtype())?;
        let c = Mat::out(&mut h, r)?;
        gpu.gemm(Product::of(n, r, k), c, Mat::rows(&xd, k), Mat::transposed(&a.view()?, k))?;
        let p = Product::of(n, o, r).scaled(self.scaling).added(few(n));
        let (h, b) = (Mat::rows(&h.view()?, r), Mat::transposed(&b.view()?, r));
        gpu.gemm(p, Mat::out(&mut y, o)?, h, b)?;
        if !few(n) {
            add_product(gpu, &x, &self.weight, &mut y, true)?;
        }
        Ok(y)
    }

    /// With `s = α/r`, `h = drop(x) Aᵀ`, `e = s · g B`: `dB = s · gᵀ h`,
    /// `dA = eᵀ drop(x)`, `dx = g W + drop(e A)`.
    fn backward(&self, gpu: &Gpu, [x, a, b]: [View; 3], g: View) -> Result<[Option<Buffer>; 3]> {
        let ((n, k), (o, _), (r, _)) = (x.matrix()?, self.weight.shape()?, a.matrix()?);
        let (dtype, s) = (x.dtype(), self.scaling);
        let (a, b) = (cast(gpu, &a, dtype)?, cast(gpu, &b, dtype)?);
        let (a, b) = (a.view()?, b.view()?);
        let xd = self.dropout.map(|d| dropped(gpu, d, &x)).transpose()?;
        let xd = xd.as_ref().map(Buffer::view).transpose()?.unwrap_or(x);

        let mut h = gpu.buffer((n, r), dtype)?;
        let c = Mat::out(&mut h, r)?;
        gpu.gemm(Product::of(n, r, k), c, Mat::rows(&xd, k), Mat::transposed(&a, k))?;
        let mut db = gpu.buffer((o, r), DType::F32)?;
        let c = Mat::out(&mut db, r)?;
        let h = h.view()?;
        gpu.gemm(Product::of(o, r, n).scaled(s), c, Mat::transposed(&g, o), Mat::rows(&h, r))?;

        let mut e = gpu.buffer((n, r), dtype)?;
        let c = Mat::out(&mut e, r)?;
        gpu.gemm(Product::of(n, r, o).scaled(s), c, Mat::rows(&g, o), Mat::rows(&b, r))?;
        let e = e.view()?;
        let mut da = gpu.buffer((r, k), DType::F32)?;
        let c = Mat::out(&mut da, k)?;
        gpu.gemm(Product::of(r, k, n), c, Mat::transposed(&e, r), Mat::rows(&xd, k))?;

        let mut dx = gpu.buffer((n, k), dtype)?;
        let c = Mat::out(&mut dx, k)?;
        gpu.gemm(Product::of(n, k, r), c, Mat::rows(&e, r), Mat::rows(&a, k))?;
        if let Some(d) = self.dropout {
            dx = dropped(gpu, d, &dx.view()?)?;
        }
        let w = DenseWeight::of(gpu, &self.weight, dtype)?;
        let c = Mat::out(&mut dx, k)?;
        let p = Product::of(n, k, o).added(true);
        gpu.gemm(p, c, Mat::rows(&g, o), Mat::rows(&w.view()?, k))?;
        Ok([Some(dx), Some(da), Some(db)])
    }
}
