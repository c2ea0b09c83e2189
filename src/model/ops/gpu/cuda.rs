//! A CUDA device behind [`super::Gpu`].

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys as blas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, result, sys,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, bail};

use super::gemm::{Mat, Product};
use super::launch::{Arg, Grid};
use super::memory::DeviceMemory;

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// The GPU with this number, set up for training.
///
/// - Everything runs on one stream of its own, so candle's events for every allocation
///   are turned off.
/// - Freed memory stays in the pool instead of going back to the driver whenever the
///   host waits.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all tensors are made, used and freed on one thread and its stream.
    unsafe { cuda.disable_event_tracking() };
    // SAFETY: the pool belongs to the device, and the value is a u64 as the attribute asks.
    unsafe {
        let card = result::device::get(ordinal as i32).w()?;
        let pool = result::device::get_default_mem_pool(card).w()?;
        let mut keep = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()).result().w()?;
    }
    Ok(device)
}

fn start<T: DeviceRepr + CudaDType>(s: &CudaStorage) -> Result<u64> {
    let slice: &CudaSlice<T> = s.as_cuda_slice()?;
    let stream = s.device.cuda_stream();
    let (at, _guard) = slice.device_ptr(&stream);
    Ok(at)
}

pub(super) fn address(s: &CudaStorage) -> Result<u64> {
    match s.dtype() {
        DType::F32 => start::<f32>(s),
        DType::F64 => start::<f64>(s),
        DType::BF16 => start::<half::bf16>(s),
        DType::U32 => start::<u32>(s),
        DType::U8 => start::<u8>(s),
        other => bail!("no kernels for {other:?}"),
    }
}

fn fresh<T: DeviceRepr + CudaDType>(d: &CudaDevice, len: usize) -> Result<CudaStorage> {
    // SAFETY: every kernel writes all of its output.
    let slice = unsafe { d.alloc::<T>(len)? };
    Ok(CudaStorage::wrap_cuda_slice(slice, d.clone()))
}

pub(super) fn allocate(d: &CudaDevice, len: usize, dtype: DType) -> Result<CudaStorage> {
    match dtype {
        DType::F32 => fresh::<f32>(d, len),
        DType::F64 => fresh::<f64>(d, len),
        DType::BF16 => fresh::<half::bf16>(d, len),
        DType::U32 => fresh::<u32>(d, len),
        other => bail!("no kernels for {other:?}"),
    }
}

pub(super) fn launch(d: &CudaDevice, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
    let f = d.get_or_load_custom_func(kernel, "cotalign", ALL)?;
    let [x, y, z] = grid.blocks;
    let config = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (grid.threads, 1, 1),
        shared_mem_bytes: grid.shared,
    };
    let mut builder = f.builder();
    for arg in args {
        match arg {
            Arg::Address(x) | Arg::U64(x) => builder.arg(x),
            Arg::I32(x) => builder.arg(x),
            Arg::F32(x) => builder.arg(x),
            Arg::F64(x) => builder.arg(x),
        };
    }
    // SAFETY: the addresses are of live memory that is large enough, and the types are
    // the kernel's; the emulator runs the same call in the tests.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// cuBLAS is column-major: it is asked for `cᵀ = bᵀ aᵀ`, where a row-major matrix read
/// by columns is its transpose already.
pub(super) fn gemm(d: &CudaDevice, p: Product, c: Mat, a: Mat, b: Mat) -> Result<()> {
    let kind = |dtype: DType| match dtype {
        DType::BF16 => blas::cudaDataType_t::CUDA_R_16BF,
        _ => blas::cudaDataType_t::CUDA_R_32F,
    };
    let operation = |m: &Mat| match m.transposed {
        true => blas::cublasOperation_t::CUBLAS_OP_T,
        false => blas::cublasOperation_t::CUBLAS_OP_N,
    };
    let (alpha, beta) = (p.scale, if p.keep { 1f32 } else { 0f32 });
    let handle = d.cublas_handle();
    // SAFETY: the addresses are of live memory of the sizes that the product says.
    unsafe {
        gemm_strided_batched_ex(
            *handle.handle(),
            operation(&b),
            operation(&a),
            p.n as i32,
            p.m as i32,
            p.k as i32,
            (&raw const alpha).cast(),
            b.at as *const _,
            kind(b.dtype),
            b.ld as i32,
            b.stride as i64,
            a.at as *const _,
            kind(a.dtype),
            a.ld as i32,
            a.stride as i64,
            (&raw const beta).cast(),
            c.at as *mut _,
            kind(c.dtype),
            c.ld as i32,
            c.stride as i64,
            p.batch as i32,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    }
    .map_err(|e| candle_core::Error::Msg(format!("cuBLAS, {p:?}: {e:?}")))
}

/// The pool that all tensors come from.
fn pool(d: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let card = result::device::get(d.cuda_stream().context().ordinal() as i32).w()?;
    // SAFETY: the device exists.
    unsafe { result::device::get_default_mem_pool(card) }.w()
}

pub(super) fn memory(d: &CudaDevice) -> Result<DeviceMemory> {
    let (free, total) = d.cuda_stream().context().mem_get_info().w()?;
    let pool = pool(d)?;
    let read = |attribute| -> Result<u64> {
        let mut bytes = 0u64;
        // SAFETY: the pool is alive, and both attributes are u64.
        unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.w()?;
        Ok(bytes)
    };
    Ok(DeviceMemory {
        taken: (total - free) as u64,
        live: read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        peak: read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
    })
}

/// Gives the pool's free memory back to the driver, and counts the peak anew.
pub(super) fn trim(d: &CudaDevice) -> Result<()> {
    let (pool, mut zero) = (pool(d)?, 0u64);
    // What was freed is free once the stream has come to it.
    d.cuda_stream().synchronize().w()?;
    // SAFETY: the pool is alive; the attribute is a u64, and 0 starts it over.
    unsafe {
        result::mem_pool::trim_to(pool, 0).w()?;
        let peak = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::set_attribute(pool, peak, (&raw mut zero).cast()).w()
    }
}

/// The card's name, and the newest CUDA that its driver knows.
pub(super) fn about(d: &CudaDevice) -> Result<[(&'static str, String); 2]> {
    let mut version = 0;
    // SAFETY: the place is an int, as the call asks.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().w()?;
    let version = format!("{}.{}", version / 1000, version % 1000 / 10);
    let name = d.cuda_stream().context().name().w()?;
    Ok([("gpu", name), ("cuda_of_driver", version)])
}
