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
    assert!(!all.is_empty(), "nothing was compared");
}

/// Results and gradients of single operations; again with the lanes of a warp and the
/// warps of a block in falling order, since a result that changes with it lacks a
/// barrier.
#[test]
fn operations_agree_with_the_cpu() {
    let Some(emulated) = emulated() else { return };
    let both = [DType::F32, DType::BF16];
    for dtype in both {
        assert_all_hold(&check_operations(&emulated.target, dtype, &mut show).unwrap());
    }
    // A check is worth what it reaches.
    assert_eq!(emulated.not_launched(), [""; 0], "kernels without a check");

    emulated.fall(true);
    let again = both.map(|dtype| check_operations(&emulated.target, dtype, &mut |_| ()));
    emulated.fall(false);
    for all in again {
        assert_all_hold(&all.unwrap());
    }
}

/// Logits, gradients, training steps and answers of whole models.
fn models_agree(dtype: DType) {
    let Some(emulated) = emulated() else { return };
    assert_all_hold(&check_models(&emulated.target, dtype, &mut show).unwrap());
}

// Two tests, for two cores.
#[test]
fn models_agree_with_the_cpu_in_f32() {
    models_agree(DType::F32);
}

#[test]
fn models_agree_with_the_cpu_in_bf16() {
    models_agree(DType::BF16);
}
