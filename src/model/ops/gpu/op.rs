//! From an operation on a GPU to one of candle's.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::Gpu;
use super::buffer::{Buffer, View};

/// An operation on `N` tensors with its backward pass. What else it works with,
/// frozen weights for instance, it holds itself.
pub trait GpuOp<const N: usize>: Send + Sync {
    const NAME: &'static str;

    fn forward(&self, gpu: &Gpu, x: [View; N]) -> Result<Buffer>;

    /// Gradients of the arguments from the gradient `g` of the result.
    fn backward(&self, gpu: &Gpu, x: [View; N], g: View) -> Result<[Option<Buffer>; N]>;
}

struct Op<T>(T);

pub fn apply1<T: GpuOp<1> + 'static>(x: &Tensor, op: T) -> Result<Tensor> {
    x.apply_op1(Op(op))
}

pub fn apply2<T: GpuOp<2> + 'static>(x: &Tensor, y: &Tensor, op: T) -> Result<Tensor> {
    x.apply_op2(y, Op(op))
}

pub fn apply3<T: GpuOp<3> + 'static>(x: &Tensor, y: &Tensor, z: &Tensor, op: T) -> Result<Tensor> {
    x.apply_op3(y, z, Op(op))
}

/// The emulator, under which alone this code sees the memory of the CPU.
fn emulated(name: &str) -> Result<Gpu> {
    match super::emulator::current() {
        Some(e) => Ok(Gpu::Emulated(e)),
        None => bail!("{name}: this tensor was made for a GPU"),
    }
}

fn on_cpu(b: Buffer) -> Result<(CpuStorage, Shape)> {
    match b.into_parts() {
        (Storage::Cpu(s), shape) => Ok((s, shape)),
        _ => bail!("the result is not in the memory of the CPU"),
    }
}

#[cfg(feature = "cuda")]
fn on_cuda(b: Buffer) -> Result<(CudaStorage, Shape)> {
    match b.into_parts() {
        (Storage::Cuda(s), shape) => Ok((s, shape)),
        _ => bail!("the result is not in the memory of the GPU"),
    }
}

fn run_backward<T: GpuOp<N>, const N: usize>(
    op: &T,
    x: [&Tensor; N],
    g: &Tensor,
) -> Result<[Option<Tensor>; N]> {
    let Some(gpu) = Gpu::of(x[0]) else { bail!("{}: this tensor was made for a GPU", T::NAME) };
    let g = g.contiguous()?;
    let mut views = Vec::with_capacity(N);
    for t in x {
        views.push(View::of(t)?);
    }
    let Ok(views) = <[View; N]>::try_from(views) else { unreachable!("one view a tensor") };
    let grads = op.backward(&gpu, views, View::of(&g)?)?;
    Ok(grads.map(|g| g.map(Buffer::into_tensor)))
}

impl<T: GpuOp<1>> CustomOp1 for Op<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.0.forward(&emulated(T::NAME)?, [View::cpu(s, l)?])?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.0.forward(&Gpu::Cuda(s.device.clone()), [View::cuda(s, l)?])?)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = run_backward(&self.0, [x], g)?;
        Ok(dx)
    }
}

impl<T: GpuOp<2>> CustomOp2 for Op<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = [View::cpu(s1, l1)?, View::cpu(s2, l2)?];
        on_cpu(self.0.forward(&emulated(T::NAME)?, x)?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let x = [View::cuda(s1, l1)?, View::cuda(s2, l2)?];
        on_cuda(self.0.forward(&Gpu::Cuda(s1.device.clone()), x)?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dy] = run_backward(&self.0, [x, y], g)?;
        Ok((dx, dy))
    }
}

impl<T: GpuOp<3>> CustomOp3 for Op<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = [View::cpu(s1, l1)?, View::cpu(s2, l2)?, View::cpu(s3, l3)?];
        on_cpu(self.0.forward(&emulated(T::NAME)?, x)?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let x = [View::cuda(s1, l1)?, View::cuda(s2, l2)?, View::cuda(s3, l3)?];
        on_cuda(self.0.forward(&Gpu::Cuda(s1.device.clone()), x)?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dy, dz] = run_backward(&self.0, [x, y, z], g)?;
        Ok((dx, dy, dz))
    }
}
