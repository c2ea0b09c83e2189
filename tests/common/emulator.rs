//! The kernels, compiled for the processor and loaded into the test.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Device;
use cotalign::model::ops::gpu::Emulator;
use cotalign::study::device::Target;
use libloading::Library;

const KERNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/ops/gpu/kernels");

type Launch =
    unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, *mut *mut c_void) -> i32;

/// The kernels as a library, or why there is none.
fn library() -> Result<&'static Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let build = || {
        // A file for each process: another test may be loading its own.
        let name = format!("libkernels-{}.so", std::process::id());
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let source = Path::new(KERNELS).join("emulator.cpp");
        let run = Command::new("g++")
            .args(["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"])
            .args(["-shared", "-fPIC", "-o"])
            .args([&out, &source])
            .output()
            .map_err(|e| format!("g++ cannot be run: {e}"))?;
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "the kernels do not compile:\n{errors}");
        // SAFETY: the library was made from this repository just now.
        let library = unsafe { Library::new(&out) }.map_err(|e| e.to_string());
        // What is loaded stays.
        let _ = std::fs::remove_file(&out);
        library
    };
    LIBRARY.get_or_init(build).as_ref().map_err(Clone::clone)
}

/// The emulator as a device, and what it has run.
pub struct Emulated {
    pub target: Target,
    launched: Arc<Mutex<BTreeSet<String>>>,
    kernels: &'static Library,
}

/// None, with a word about it, where there is no compiler.
pub fn emulated() -> Option<Emulated> {
    let library = match library() {
        Ok(library) => library,
        Err(why) => {
            eprintln!("skipped: {why}");
            return None;
        }
    };
    // SAFETY: the signature is that of kernels/emulator.cpp.
    let launch = unsafe { library.get::<Launch>(b"emulated_launch\0") }.unwrap();
    let launched = Arc::new(Mutex::new(BTreeSet::new()));
    let record = launched.clone();
    let emulator = Emulator::new(Box::new(move |name, grid, block, shared, args| {
        record.lock().unwrap().insert(name.to_string());
        let name = CString::new(name).unwrap();
        // SAFETY: the arguments are what the kernel takes; that they are is the test.
        unsafe { launch(name.as_ptr(), grid.as_ptr(), block.as_ptr(), shared, args.as_mut_ptr()) }
    }));
    let target = Target { device: Device::Cpu, emulator: Some(emulator) };
    Some(Emulated { target, launched, kernels: library })
}

#[allow(dead_code)] // Not every test asks.
impl Emulated {
    /// Names of all kernels that no launch has named.
    pub fn not_launched(&self) -> Vec<String> {
        // SAFETY: the signature is that of kernels/emulator.cpp, and the text is static.
        let names = unsafe {
            let f =
                self.kernels.get::<unsafe extern "C" fn() -> *const c_char>(b"emulated_kernels\0");
            CStr::from_ptr(f.unwrap()())
        };
        let launched = self.launched.lock().unwrap();
        let names = names.to_str().unwrap().lines().map(String::from);
        names.filter(|name| !launched.contains(name)).collect()
    }

    /// Lanes of a warp, and warps of a block, from the last to the first.
    pub fn fall(&self, falling: bool) {
        // SAFETY: as above.
        unsafe {
            let f = self.kernels.get::<unsafe extern "C" fn(c_int)>(b"emulated_order\0");
            f.unwrap()(falling.into());
        }
    }
}
