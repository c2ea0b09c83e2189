//! The code for GPUs without one: its kernels are compiled for the processor, and every
//! operation and step on them is held against the CPU's own.

#[path = "common/emulator.rs"]
mod emulator;

use candle_core::DType;
use cotalign::study::device::{Compared, check_models, check_operations};
use emulator::emulated;

fn show(c: &Compared) {
    println!("{:62} {:>5} {:9.2e} of {:8.1e}", c.what, c.dtype.as_str(), c.off, c.allowed);
}

fn assert_all_hold(all: &[Compared]) {
    let wrong: Vec<_> = all.iter().filter(|c| !c.holds()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for dtype in [DType::F32, DType::BF16] {
        assert!(all.iter().any(|c| c.dtype == dtype), "nothing was compared in {dtype:?}");
    }
}

/// Kernels that nothing uses yet.
const UNUSED: [&str; 1] = ["accumulate"];

/// Results and gradients of single operations, in f32 and bf16; again with the lanes of a
/// warp and the warps of a block in falling order, since a result that changes with it
/// lacks a barrier.
#[test]
fn operations_agree_with_the_cpu() {
    let Some(emulated) = emulated() else { return };
    let all = check_operations(&emulated.target, &mut show).unwrap();
    assert_all_hold(&all);
    // A check is worth what it reaches.
    assert_eq!(emulated.not_launched(), UNUSED, "kernels without a check");

    emulated.fall(true);
    let again = check_operations(&emulated.target, &mut |_| ());
    emulated.fall(false);
    assert_all_hold(&again.unwrap());
}

/// Logits, gradients, training steps and answers of whole models, in f32 and bf16.
#[test]
fn models_agree_with_the_cpu() {
    let Some(emulated) = emulated() else { return };
    assert_all_hold(&check_models(&emulated.target, &mut show).unwrap());
}
