//! Matrix products.

use candle_core::{DType, Result, bail};

use super::buffer::{Buffer, View};
use super::{Class, Gpu, profile};

/// A matrix, or `batch` of them, in device memory: row-major with rows `ld` values
/// apart, read as it is or transposed; the next of a batch lies `stride` values on.
#[derive(Debug, Clone, Copy)]
pub struct Mat {
    pub(super) at: u64,
    pub(super) dtype: DType,
    pub(super) ld: usize,
    pub(super) transposed: bool,
    pub(super) stride: usize,
}

impl Mat {
    /// Row-major with rows of `cols` values.
    pub fn rows(v: &View, cols: usize) -> Mat {
        Mat { at: v.address(), dtype: v.dtype(), ld: cols, transposed: false, stride: 0 }
    }

    /// The transpose of a row-major matrix whose rows have `cols` values.
    pub fn transposed(v: &View, cols: usize) -> Mat {
        Mat { transposed: true, ..Mat::rows(v, cols) }
    }

    /// Memory to write.
    pub fn out(b: &mut Buffer, cols: usize) -> Result<Mat> {
        let (at, dtype) = (b.address()?, b.dtype());
        Ok(Mat { at, dtype, ld: cols, transposed: false, stride: 0 })
    }

    /// The same, `values` further on.
    pub fn offset(self, values: usize) -> Mat {
        Mat { at: self.at + (values * self.dtype.size_in_bytes()) as u64, ..self }
    }

    pub fn batched(self, stride: usize) -> Mat {
        Mat { stride, ..self }
    }
}

/// What is multiplied: `c = keep · c + scale · a b`, `a` m×k, `b` k×n.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub scale: f32,
    /// Adds to what is in `c`; otherwise `c` is overwritten.
    pub keep: bool,
    pub batch: usize,
}

impl Product {
    pub fn of(m: usize, n: usize, k: usize) -> Product {
        Product { m, n, k, scale: 1.0, keep: false, batch: 1 }
    }

    pub fn scaled(self, scale: f32) -> Product {
        Product { scale, ..self }
    }

    pub fn added(self, keep: bool) -> Product {
        Product { keep, ..self }
    }

    pub fn batch(self, batch: usize) -> Product {
        Product { batch, ..self }
    }
}

impl Gpu {
    /// One product, or a batch of them. `a` and `b` have one type, f32 or bf16; `c` has
    /// theirs or f32; sums are f32.
    pub fn gemm(&self, p: Product, c: Mat, a: Mat, b: Mat) -> Result<()> {
        if p.m == 0 || p.n == 0 || p.batch == 0 {
            return Ok(());
        }
        if a.dtype != b.dtype || (c.dtype != a.dtype && c.dtype != DType::F32) {
            bail!("gemm: {:?} = {:?} times {:?}", c.dtype, a.dtype, b.dtype);
        }
        profile::timed(self, Class::Matmul, || match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => super::cuda::gemm(d, p, c, a, b),
            Gpu::Emulated(_) => on_cpu(p, c, a, b),
        })
    }
}

/// The product on the processor, with the same strides.
fn on_cpu(p: Product, c: Mat, a: Mat, b: Mat) -> Result<()> {
    use super::super::kernel;
    // Sizes of the stored matrices, not of their transposes.
    let stored =
        |m: &Mat, rows: usize, cols: usize| if m.transposed { (cols, rows) } else { (rows, cols) };
    for i in 0..p.batch {
        let read = |m: Mat, rows: usize, cols: usize| -> Vec<f32> {
            let (r, w) = stored(&m, rows, cols);
            let m = m.offset(i * m.stride);
            let mut values = Vec::with_capacity(r * w);
            for row in 0..r {
                for col in 0..w {
                    // SAFETY: the caller's matrix holds r rows of w values, ld apart.
                    values.push(unsafe { load(m, row * m.ld + col) });
                }
            }
            values
        };
        let (av, bv) = (read(a, p.m, p.k), read(b, p.k, p.n));
        let mat = |m: &Mat, v, rows: usize, cols: usize| {
            if m.transposed { kernel::Mat::transposed(v, rows) } else { kernel::Mat::rows(v, cols) }
        };
        let mut out = vec![0f32; p.m * p.n];
        let (am, bm) = (mat(&a, &av, p.m, p.k), mat(&b, &bv, p.k, p.n));
        kernel::matmul((p.m, p.n, p.k), &mut out, p.n, false, p.scale, am, bm);
        let to = c.offset(i * c.stride);
        for row in 0..p.m {
            for col in 0..p.n {
                let place = row * to.ld + col;
                // SAFETY: as above, and `c` is memory that this call may write.
                unsafe {
                    let before = if p.keep { load(to, place) } else { 0.0 };
                    store(to, place, before + out[row * p.n + col]);
                }
            }
        }
    }
    Ok(())
}

/// # Safety
/// `m` must hold a value at `place`.
unsafe fn load(m: Mat, place: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        match m.dtype {
            DType::BF16 => (m.at as *const half::bf16).add(place).read_unaligned().to_f32(),
            _ => (m.at as *const f32).add(place).read_unaligned(),
        }
    }
}

/// # Safety
/// `m` must have room for a value at `place`, and nobody may be reading it.
unsafe fn store(m: Mat, place: usize, x: f32) {
    // SAFETY: the caller's.
    unsafe {
        match m.dtype {
            DType::BF16 => {
                (m.at as *mut half::bf16).add(place).write_unaligned(half::bf16::from_f32(x))
            }
            _ => (m.at as *mut f32).add(place).write_unaligned(x),
        }
    }
}
