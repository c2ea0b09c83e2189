//! Launching a kernel.

use std::ffi::c_void;

use candle_core::{DType, Result, bail};

use super::buffer::{Buffer, View};
use super::{Class, Gpu, profile};

/// Shape of a launch: blocks, threads of a block, and bytes of shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared: u32,
}

impl Grid {
    /// One block for each of `n` rows.
    pub fn rows(n: usize, threads: u32) -> Grid {
        Grid { blocks: [n as u32, 1, 1], threads, shared: 0 }
    }

    /// Enough blocks of 256 threads for `n` values, `each` a thread, but no more than
    /// fill any card: the kernels go on in strides.
    pub fn flat(n: usize, each: usize) -> Grid {
        let blocks = n.div_ceil(256 * each).clamp(1, 132 * 16);
        Grid { blocks: [blocks as u32, 1, 1], threads: 256, shared: 0 }
    }
}

/// One argument, of exactly the type that the kernel declares.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    Address(u64),
    I32(i32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Arg {
    /// An `int`.
    pub fn int(n: usize) -> Arg {
        Arg::I32(n as i32)
    }

    pub(super) fn pointer(&self) -> *mut c_void {
        match self {
            Arg::Address(x) | Arg::U64(x) => std::ptr::from_ref(x) as *mut c_void,
            Arg::I32(x) => std::ptr::from_ref(x) as *mut c_void,
            Arg::F32(x) => std::ptr::from_ref(x) as *mut c_void,
            Arg::F64(x) => std::ptr::from_ref(x) as *mut c_void,
        }
    }
}

impl From<&View<'_>> for Arg {
    fn from(v: &View) -> Arg {
        Arg::Address(v.address())
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::F32(x)
    }
}

/// The argument for memory that the kernel writes.
pub fn out(b: &mut Buffer) -> Result<Arg> {
    Ok(Arg::Address(b.address()?))
}

impl Gpu {
    /// Launches the form of `kernel` for values of type `dtype`.
    pub fn launch(&self, kernel: &str, dtype: DType, grid: Grid, args: &[Arg]) -> Result<()> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            other => bail!("{kernel}: no kernel for {other:?}"),
        };
        self.launch_exact(&format!("{kernel}_{suffix}"), grid, args)
    }

    /// Launches the kernel of this very name.
    pub fn launch_exact(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        profile::timed(self, Class::of_kernel(kernel), || match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => super::cuda::launch(d, kernel, grid, args),
            Gpu::Emulated(e) => e.launch(kernel, grid, args),
        })
    }
}
