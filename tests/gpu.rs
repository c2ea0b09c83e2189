//! The code for GPUs without one: its kernels are compiled for the processor, and every
//! operation and step on them is held against the CPU's own.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device};
use cotalign::model::ops::gpu::Emulator;
use cotalign::study::device::{Target, check};
use libloading::Library;

const KERNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/ops/gpu/kernels");

type Launch =
    unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, *mut *mut c_void) -> i32;

/// The kernels as a library, or why there is none.
fn library() -> Result<&'static Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let build = || {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libkernels.so");
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
        unsafe { Library::new(&out) }.map_err(|e| e.to_string())
    };
    LIBRARY.get_or_init(build).as_ref().map_err(Clone::clone)
}

fn emulator() -> Option<Arc<Emulator>> {
    let library = match library() {
        Ok(library) => library,
        Err(why) => {
            eprintln!("skipped: {why}");
            return None;
        }
    };
    // SAFETY: the signature is that of kernels/emulator.cpp.
    let launch = unsafe { library.get::<Launch>(b"emulated_launch\0") }.unwrap();
    Some(Emulator::new(Box::new(move |name, grid, block, shared, args| {
        let name = CString::new(name).unwrap();
        // SAFETY: the arguments are what the kernel takes; that they are is the test.
        unsafe { launch(name.as_ptr(), grid.as_ptr(), block.as_ptr(), shared, args.as_mut_ptr()) }
    })))
}

/// Operations, logits, gradients, training steps and answers, in f32 and bf16.
#[test]
fn kernels_agree_with_the_cpu() {
    let Some(emulator) = emulator() else { return };
    let target = Target { device: Device::Cpu, emulator: Some(emulator) };
    let all = check(&target, &mut |c| {
        println!("{:60} {:>5} {:9.2e} of {:8.1e}", c.what, c.dtype.as_str(), c.off, c.allowed)
    })
    .unwrap();
    let wrong: Vec<_> = all.iter().filter(|c| !c.holds()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all.iter().any(|c| c.dtype == DType::BF16));
}
