//! A block whose activations are computed again in the backward pass.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor, Var};

use super::block::Block;
use super::lora::Pass;
use super::ops::{self, Segment};

/// Gradients of variables inside recomputed blocks. candle's graph does not know
/// of them, so they cannot come back with the others.
#[derive(Debug, Default)]
pub(super) struct Sink(Mutex<Vec<(String, Tensor)>>);

impl Sink {
    /// What has gathered since the last call.
    pub fn take(&self) -> Vec<(String, Tensor)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// What a block needs to be run again.
pub(super) struct Recompute {
    pub block: Block,
    /// The variables inside the block, by name.
    pub vars: Vec<(String, Var)>,
    pub segments: Arc<[Segment]>,
    pub pass: Pass,
    pub eps: f64,
    pub sink: Arc<Sink>,
}

impl Recompute {
    fn run(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Option<Tensor>)> {
        self.block.forward(x, pass, self.eps, &mut |q, k, v| {
            Ok(ops::attention(q, k, v, &self.block.shape, &self.segments)?)
        })
    }

    /// Block output and balance as one flat tensor: an op has one output.
    fn flat(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let (y, balance) = self.run(x, pass)?;
        Ok(match balance {
            None => y.flatten_all()?,
            Some(b) => Tensor::cat(&[&y.flatten_all()?, &b.reshape(1)?], 0)?,
        })
    }

    /// The block on `x [N, d]`; the graph keeps `x` and the output alone.
    pub fn forward(self, x: Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let shape = x.shape().clone();
        let n = shape.elem_count();
        // The input of the first block depends on no variable: candle would leave
        // the op out of the graph, and the block's variables without gradients.
        let x = if x.track_op() { x } else { Var::from_tensor(&x)?.into_inner() };
        let value = self.flat(&x.detach(), self.pass)?.detach();
        let extra = value.elem_count() > n;
        let flat = x.apply_op1(Given::new(value, move |x, g| self.backward(x, g)))?;
        let balance = extra.then(|| flat.narrow(0, n, 1)?.reshape(())).transpose()?;
        let y = if extra { flat.narrow(0, 0, n)? } else { flat };
        Ok((y.reshape(shape)?, balance))
    }

    /// Runs the block again with its graph, and sends `g` back from its output.
    fn backward(&self, x: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let x = Var::from_tensor(&x.detach())?;
        let y = self.flat(&x, Pass { unread: true, ..self.pass })?;
        // candle starts at a scalar. This one has the gradient g at y; so has Σ y ⊙ g, for
        // which candle would pass some twenty times over tensors of the size of y.
        let (start, g) = (Tensor::zeros((), y.dtype(), y.device())?, g.clone());
        let start = y.apply_op1(Given::new(start, move |_, _| Ok(Some(g.clone()))))?;
        let store = start.backward()?;
        let mut sink = self.sink.0.lock().unwrap_or_else(|e| e.into_inner());
        for (name, var) in &self.vars {
            if let Some(g) = store.get(var) {
                sink.push((name.clone(), g.clone()));
            }
        }
        Ok(store.get(&x).cloned())
    }
}

/// An op whose result is known before it runs, with a backward pass from argument and
/// gradient.
struct Given<B> {
    /// Handed over once: kept, it would double the result.
    value: Mutex<Option<Tensor>>,
    backward: B,
}

impl<B> Given<B>
where
    B: Fn(&Tensor, &Tensor) -> Result<Option<Tensor>> + Send + Sync,
{
    fn new(value: Tensor, backward: B) -> Given<B> {
        Given { value: Mutex::new(Some(value)), backward }
    }

    fn result(&self) -> candle_core::Result<(Storage, Shape)> {
        let value = self.value.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some(value) = value else { candle_core::bail!("recompute: run twice") };
        Ok((ops::gpu::copy_of(&value)?, value.shape().clone()))
    }
}

impl<B> CustomOp1 for Given<B>
where
    B: Fn(&Tensor, &Tensor) -> Result<Option<Tensor>> + Send + Sync,
{
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match self.result()? {
            (Storage::Cpu(s), shape) => Ok((s, shape)),
            _ => candle_core::bail!("recompute: the value is not in the memory of the CPU"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        match self.result()? {
            (Storage::Cuda(s), shape) => Ok((s, shape)),
            _ => candle_core::bail!("recompute: the value is not in the memory of the GPU"),
        }
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        (self.backward)(x, g).map_err(|e| candle_core::Error::Msg(format!("{e:#}")))
    }
}
