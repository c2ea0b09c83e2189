//! Kernels on the processor, for machines without a GPU.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::{Result, bail};

use super::launch::{Arg, Grid};

/// Runs one kernel: its name, blocks, threads of a block, bytes of shared memory and
/// the addresses of its arguments, as `cuLaunchKernel` takes them. 0 is success.
pub type Launcher = dyn Fn(&str, [u32; 3], [u32; 3], u32, &mut [*mut c_void]) -> i32 + Send + Sync;

/// The kernels' source as compiled for the processor; see `kernels/emulator.cpp`.
pub struct Emulator {
    launcher: Box<Launcher>,
}

impl Emulator {
    pub fn new(launcher: Box<Launcher>) -> Arc<Emulator> {
        Arc::new(Emulator { launcher })
    }

    pub(super) fn launch(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        let mut pointers: Vec<*mut c_void> = args.iter().map(Arg::pointer).collect();
        let threads = [grid.threads, 1, 1];
        match (self.launcher)(kernel, grid.blocks, threads, grid.shared, &mut pointers) {
            0 => Ok(()),
            1 => bail!("kernel {kernel} does not exist"),
            2 => bail!("kernel {kernel}: a barrier that only a part of a block reaches"),
            3 => bail!("kernel {kernel}: shared memory beyond its limit"),
            4 => bail!("kernel {kernel} refuses this launch: {grid:?}"),
            code => bail!("kernel {kernel}: code {code}"),
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Emulator>>> = const { RefCell::new(None) };
}

pub(super) fn current() -> Option<Arc<Emulator>> {
    CURRENT.with(|c| c.borrow().clone())
}

/// Runs `f` with the CPU taken for a GPU on this thread.
pub fn emulated<R>(emulator: &Arc<Emulator>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<Emulator>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.with(|c| *c.borrow_mut() = self.0.take());
        }
    }
    let before = CURRENT.with(|c| c.borrow_mut().replace(emulator.clone()));
    let _restore = Restore(before);
    f()
}
