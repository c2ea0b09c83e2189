//! The few inner loops all ops share: matrix products and `exp`.
//!
//! Loops that LLVM can vectorise are declared with [`vectorised!`], which
//! compiles them a second time for AVX2 and picks at run time, so a portable
//! build is as fast as one for a given processor. No loop fuses multiply and
//! add by hand: the lanes decide the speed, not the result.

use std::sync::atomic::{AtomicUsize, Ordering};

use gemm::Parallelism;

static THREADS: AtomicUsize = AtomicUsize::new(1);

/// How many threads one matrix product may use. The default is 1: a grid of
/// experiments runs one job a core, which scales better than sharing a small
/// product. Results do not depend on it, bit for bit.
pub fn set_threads(n: usize) {
    THREADS.store(n.max(1), Ordering::Relaxed);
}

/// The current setting of [`set_threads`].
pub fn threads() -> usize {
    THREADS.load(Ordering::Relaxed)
}

/// Declares functions whose loops are compiled for the widest instructions of
/// the processor at hand.
macro_rules! vectorised {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($arg: $ty),*) {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has what `wide` was compiled for.
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(super) use vectorised;

/// A matrix in a slice: element (i, j) is at `i * rs + j * cs`.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    pub data: &'a [f32],
    pub rs: usize,
    pub cs: usize,
}

impl<'a> Mat<'a> {
    /// Row-major with rows of `cols` values.
    pub fn rows(data: &'a [f32], cols: usize) -> Self {
        Mat { data, rs: cols, cs: 1 }
    }

    /// The transpose of a row-major matrix whose rows have `cols` values.
    pub fn transposed(data: &'a [f32], cols: usize) -> Self {
        Mat { data, rs: 1, cs: cols }
    }

    fn reaches(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.rs + (cols - 1) * self.cs < self.data.len()
    }
}

/// `c = keep·c + scale · a b` with `a` m×k, `b` k×n, and `c` row-major with
/// rows `c_rs` apart. `keep` adds to what is there, otherwise `c` is overwritten.
#[allow(clippy::too_many_arguments)]
pub(super) fn matmul(
    (m, n, k): (usize, usize, usize),
    c: &mut [f32],
    c_rs: usize,
    keep: bool,
    scale: f32,
    a: Mat,
    b: Mat,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * c_rs + n <= c.len() && a.reaches(m, k) && b.reaches(k, n), "matmul bounds");
    // Below this size waking a second thread costs more than it saves.
    let threads = threads();
    let parallelism = if threads > 1 && m * n * k > 64 * 64 * 64 {
        Parallelism::Rayon(threads)
    } else {
        Parallelism::None
    };
    // SAFETY: the bounds of all three operands were checked above, and `c` is
    // borrowed mutably, so nothing aliases it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_rs as isize,
            keep,
            a.data.as_ptr(),
            a.cs as isize,
            a.rs as isize,
            b.data.as_ptr(),
            b.cs as isize,
            b.rs as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `e^x` to about 1 ulp·2 over the range that softmax and SiLU need, written so
/// that it vectorises: `x = n ln 2 + r`, a polynomial for `e^r` (the Cephes
/// coefficients), and `2^n` through the exponent bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 0.5).floor();
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    e * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// Sum in 16 lanes: a fixed order of additions that vectorises.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for c in chunks {
        for (l, v) in lanes.iter_mut().zip(c) {
            *l += v;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Dot product in 16 lanes.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in xs.zip(ys) {
        for ((l, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *l += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    for c in chunks {
        for (l, v) in lanes.iter_mut().zip(c) {
            *l = if *v > *l { *v } else { *l };
        }
    }
    lanes.iter().fold(rest, |m, v| m.max(*v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_libm() {
        for i in -8700..=8800 {
            let x = i as f32 * 0.01;
            let (ours, libm) = (exp(x), (x as f64).exp());
            assert!(((ours as f64 - libm) / libm).abs() < 3e-7, "{x}: {ours} {libm}");
        }
    }

    /// A row of a product must not depend on how many other rows there are:
    /// batching, resuming and sampling all rest on it.
    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        let (n, k) = (129, 96);
        let w: Vec<f32> = (0..n * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        let x: Vec<f32> = (0..130 * k).map(|i| ((i * 53 % 97) as f32 - 48.0) / 13.0).collect();
        let mut all = vec![0f32; 130 * n];
        let wt = Mat::transposed(&w, k);
        matmul((130, n, k), &mut all, n, false, 1.0, Mat::rows(&x, k), wt);
        for m in [2, 3, 7, 16, 31, 64, 129] {
            let mut some = vec![0f32; m * n];
            matmul((m, n, k), &mut some, n, false, 1.0, Mat::rows(&x, k), wt);
            assert_eq!(some, all[..m * n], "{m} rows");
        }
    }
}
