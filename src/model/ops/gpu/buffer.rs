//! Memory that kernels read and write.

use std::marker::PhantomData;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use half::bf16;

use super::Gpu;
use super::elementwise::cast;

/// The address of a contiguous tensor that somebody else keeps alive for `'a`.
#[derive(Debug, Clone)]
pub struct View<'a> {
    at: u64,
    dtype: DType,
    shape: Shape,
    alive: PhantomData<&'a ()>,
}

impl<'a> View<'a> {
    pub fn of(t: &'a Tensor) -> Result<View<'a>> {
        let (storage, layout) = t.storage_and_layout();
        let at = match &*storage {
            Storage::Cpu(s) => cpu_address(s)?,
            #[cfg(feature = "cuda")]
            Storage::Cuda(s) => super::cuda::address(s)?,
            _ => bail!("no kernels for {:?}", t.device().location()),
        };
        View::at(at, t.dtype(), layout)
    }

    pub(super) fn cpu(s: &'a CpuStorage, layout: &Layout) -> Result<View<'a>> {
        View::at(cpu_address(s)?, s.dtype(), layout)
    }

    #[cfg(feature = "cuda")]
    pub(super) fn cuda(s: &'a candle_core::CudaStorage, layout: &Layout) -> Result<View<'a>> {
        View::at(super::cuda::address(s)?, s.dtype(), layout)
    }

    fn at(base: u64, dtype: DType, layout: &Layout) -> Result<View<'a>> {
        let Some((start, _)) = layout.contiguous_offsets() else {
            bail!("a kernel's argument must be contiguous, its layout is {layout:?}");
        };
        let at = base + (start * dtype.size_in_bytes()) as u64;
        Ok(View { at, dtype, shape: layout.shape().clone(), alive: PhantomData })
    }

    pub fn address(&self) -> u64 {
        self.at
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn len(&self) -> usize {
        self.shape.elem_count()
    }

    pub fn matrix(&self) -> Result<(usize, usize)> {
        self.shape.dims2()
    }

    pub fn vector(&self) -> Result<usize> {
        self.shape.dims1()
    }

    /// An error unless the values are of this type.
    pub fn expect(&self, what: &str, dtype: DType) -> Result<()> {
        if self.dtype != dtype {
            bail!("{what}: expected {dtype:?}, got {:?}", self.dtype);
        }
        Ok(())
    }
}

/// Memory that belongs to this process; its values are undefined until a kernel
/// has written them, unless it was asked for as zeros.
pub struct Buffer {
    storage: Storage,
    dtype: DType,
    shape: Shape,
}

impl Buffer {
    pub fn address(&mut self) -> Result<u64> {
        match &mut self.storage {
            Storage::Cpu(s) => cpu_address_mut(s),
            #[cfg(feature = "cuda")]
            Storage::Cuda(s) => super::cuda::address(s),
            _ => bail!("no kernels for this device"),
        }
    }

    /// To be read by a kernel.
    pub fn view(&self) -> Result<View<'_>> {
        let at = match &self.storage {
            Storage::Cpu(s) => cpu_address(s)?,
            #[cfg(feature = "cuda")]
            Storage::Cuda(s) => super::cuda::address(s)?,
            _ => bail!("no kernels for this device"),
        };
        Ok(View { at, dtype: self.dtype, shape: self.shape.clone(), alive: PhantomData })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn len(&self) -> usize {
        self.shape.elem_count()
    }

    pub(super) fn into_parts(self) -> (Storage, Shape) {
        (self.storage, self.shape)
    }

    /// A tensor without a graph.
    pub fn into_tensor(self) -> Tensor {
        Tensor::from_storage(self.storage, self.shape, BackpropOp::none(), false)
    }
}

impl Gpu {
    /// Memory for a tensor, not initialised.
    pub fn buffer(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Buffer> {
        let shape = shape.into();
        let len = shape.elem_count();
        let storage = match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => Storage::Cuda(super::cuda::allocate(d, len, dtype)?),
            // Not zero, so that a value which no kernel wrote is seen.
            Gpu::Emulated(_) => Storage::Cpu(match dtype {
                DType::F32 => CpuStorage::F32(vec![f32::NAN; len]),
                DType::F64 => CpuStorage::F64(vec![f64::NAN; len]),
                DType::BF16 => CpuStorage::BF16(vec![bf16::NAN; len]),
                DType::U32 => CpuStorage::U32(vec![u32::MAX; len]),
                other => bail!("no kernels for {other:?}"),
            }),
        };
        Ok(Buffer { storage, dtype, shape })
    }
}

/// A copy of `t`'s values in memory of its own, whatever graph `t` is in.
pub fn copy_of(t: &Tensor) -> Result<Storage> {
    let t = t.contiguous()?;
    // candle clones the whole of a tensor on a GPU, whatever part of it `t` is.
    if let Some(gpu) = Gpu::of(&t) {
        return Ok(cast(&gpu, &View::of(&t)?, t.dtype())?.storage);
    }
    let (storage, layout) = t.storage_and_layout();
    let (start, end) = layout.contiguous_offsets().expect("made contiguous above");
    Ok(match &*storage {
        Storage::Cpu(CpuStorage::F32(v)) => Storage::Cpu(CpuStorage::F32(v[start..end].to_vec())),
        _ => bail!("no copy of {:?} on {:?}", t.dtype(), t.device().location()),
    })
}

fn cpu_address(s: &CpuStorage) -> Result<u64> {
    Ok(match s {
        CpuStorage::F32(v) => v.as_ptr() as u64,
        CpuStorage::F64(v) => v.as_ptr() as u64,
        CpuStorage::BF16(v) => v.as_ptr() as u64,
        CpuStorage::U32(v) => v.as_ptr() as u64,
        CpuStorage::U8(v) => v.as_ptr() as u64,
        other => bail!("no kernels for {:?}", other.dtype()),
    })
}

fn cpu_address_mut(s: &mut CpuStorage) -> Result<u64> {
    Ok(match s {
        CpuStorage::F32(v) => v.as_mut_ptr() as u64,
        CpuStorage::F64(v) => v.as_mut_ptr() as u64,
        CpuStorage::BF16(v) => v.as_mut_ptr() as u64,
        CpuStorage::U32(v) => v.as_mut_ptr() as u64,
        other => bail!("no kernels for {:?}", other.dtype()),
    })
}
