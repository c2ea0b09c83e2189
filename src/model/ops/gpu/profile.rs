//! Where the time of a step goes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::Result;

use super::Gpu;

/// Kinds of work on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Matmul,
    Dequantise,
    /// Products and kernels of attention.
    Attention,
    Optimizer,
    /// Norms, activations, losses and the like.
    Elementwise,
}

impl Class {
    pub(super) fn of_kernel(name: &str) -> Class {
        let starts = |with: &[&str]| with.iter().any(|w| name.starts_with(w));
        if starts(&["nf4_dequantise"]) {
            Class::Dequantise
        } else if starts(&["nf4_gemv", "gemv"]) {
            Class::Matmul
        } else if starts(&["rope", "softmax", "attend", "cache"]) {
            Class::Attention
        } else if starts(&["adamw", "sum_"]) {
            Class::Optimizer
        } else {
            Class::Elementwise
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Class::Matmul => "matmul",
            Class::Dequantise => "dequantise",
            Class::Attention => "attention",
            Class::Optimizer => "optimizer",
            Class::Elementwise => "elementwise",
        }
    }
}

/// Milliseconds of each kind of work.
pub type Split = BTreeMap<Class, f64>;

#[cfg(feature = "cuda")]
type Event = candle_core::cuda_backend::cudarc::driver::CudaEvent;
#[cfg(not(feature = "cuda"))]
type Event = ();

/// A piece of work between two events.
struct Piece {
    class: Class,
    start: Event,
    end: Event,
}

thread_local! {
    static PIECES: RefCell<Option<Vec<Piece>>> = const { RefCell::new(None) };
    static WITHIN: RefCell<Option<Class>> = const { RefCell::new(None) };
}

/// Counts all work inside `f` as `class`.
pub(super) fn within<R>(class: Class, f: impl FnOnce() -> R) -> R {
    let before = WITHIN.with(|w| w.borrow_mut().replace(class));
    let r = f();
    WITHIN.with(|w| *w.borrow_mut() = before);
    r
}

#[cfg(feature = "cuda")]
fn event(gpu: &Gpu) -> Result<Option<Event>> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
    match gpu {
        Gpu::Cuda(d) => {
            let timing = Some(CUevent_flags::CU_EVENT_DEFAULT);
            Ok(Some(d.cuda_stream().record_event(timing).w()?))
        }
        Gpu::Emulated(_) => Ok(None),
    }
}

#[cfg(not(feature = "cuda"))]
fn event(_: &Gpu) -> Result<Option<Event>> {
    Ok(None)
}

/// Runs `f`, between two events if somebody is profiling.
pub(super) fn timed(gpu: &Gpu, class: Class, f: impl FnOnce() -> Result<()>) -> Result<()> {
    if PIECES.with(|p| p.borrow().is_none()) {
        return f();
    }
    let class = WITHIN.with(|w| w.borrow().unwrap_or(class));
    let start = event(gpu)?;
    f()?;
    if let (Some(start), Some(end)) = (start, event(gpu)?) {
        PIECES.with(|p| {
            if let Some(pieces) = p.borrow_mut().as_mut() {
                pieces.push(Piece { class, start, end });
            }
        });
    }
    Ok(())
}

/// Runs `f` with an event before and after every kernel and product of this module.
/// What candle's own kernels take, and what the card waits, is in no class.
pub fn profiled<R>(gpu: &Gpu, f: impl FnOnce() -> Result<R>) -> Result<(R, Split)> {
    PIECES.with(|p| *p.borrow_mut() = Some(Vec::new()));
    let result = f();
    let pieces = PIECES.with(|p| p.borrow_mut().take()).unwrap_or_default();
    let result = result?;
    gpu.synchronise()?;
    let mut split = Split::new();
    for piece in pieces {
        *split.entry(piece.class).or_default() += elapsed(&piece)?;
    }
    Ok((result, split))
}

#[cfg(feature = "cuda")]
fn elapsed(piece: &Piece) -> Result<f64> {
    use candle_core::cuda_backend::WrapErr;
    Ok(f64::from(piece.start.elapsed_ms(&piece.end).w()?))
}

#[cfg(not(feature = "cuda"))]
fn elapsed(piece: &Piece) -> Result<f64> {
    let Piece { start: (), end: (), .. } = piece;
    Ok(0.0)
}
