//! Gradients over NCCL, one GPU a rank; all else over the host's links.
//!
//! NCCL's kernels wait for the other ranks' on the device, for ever if one is lost. So
//! ranks meet on the host before each sum ([`World::sum`](super::World::sum) does that),
//! and while a sum is under way this rank looks whether the others live; if not, it
//! aborts the communicator, which ends the kernel.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Storage, Tensor};

use super::{Local, Transport};

pub(super) struct Nccl {
    local: Local,
    /// On candle's own stream, so that sums take their turn among the kernels without
    /// events. None after an abort.
    comm: Option<Comm>,
    device: CudaDevice,
}

fn wrong(what: &str, e: NcclError) -> anyhow::Error {
    anyhow!("NCCL, {what}: {:?}; NCCL_DEBUG=WARN says more", e.0)
}

impl Nccl {
    /// Rank 0's id goes to all ranks over `local`; returns when all have come together.
    pub fn new(rank: usize, size: usize, mut local: Local, device: &CudaDevice) -> Result<Nccl> {
        let own = match rank {
            0 => Id::new().map_err(|e| wrong("a new id", e))?.internal().map(|c| c as u8).to_vec(),
            _ => Vec::new(),
        };
        let all = local.gather(&own)?;
        let id: [u8; 128] =
            all[0].as_slice().try_into().ok().context("rank 0 sent no id of NCCL's")?;
        let id = Id::uninit(id.map(|c| c as std::ffi::c_char));
        // NCCL takes the GPU whose context is current on this thread.
        device.cuda_stream().context().bind_to_thread().w()?;
        let comm = Comm::from_rank(device.cuda_stream(), rank, size, id)
            .map_err(|e| wrong("one GPU of its own for each rank?", e))?;
        Ok(Nccl { local, comm: Some(comm), device: device.clone() })
    }
}

impl Transport for Nccl {
    fn gather(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.local.gather(message)
    }

    fn sum(&mut self, flat: Tensor) -> Result<Tensor> {
        let comm = self.comm.as_ref().context("NCCL has been aborted")?;
        let flat = flat.contiguous()?;
        let (storage, layout) = flat.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("NCCL sums on a CUDA device only") };
        let (start, end) = layout.contiguous_offsets().context("made contiguous above")?;
        let own = storage.as_cuda_slice::<f32>()?.slice(start..end);
        // SAFETY: the sum writes all of it.
        let mut sum = unsafe { self.device.alloc::<f32>(end - start)? };
        comm.all_reduce(&own, &mut sum, &ReduceOp::Sum).map_err(|e| wrong("a sum", e))?;
        let sum = Storage::Cuda(CudaStorage::wrap_cuda_slice(sum, self.device.clone()));
        Ok(Tensor::from_storage(sum, layout.shape().clone(), BackpropOp::none(), false))
    }

    fn wait(&mut self) -> Result<()> {
        let done = self.device.cuda_stream().record_event(None).context("NCCL's sum")?;
        while !done.try_is_complete().context("NCCL's sum")? {
            if let Err(e) = self.local.alive() {
                // Dropping it aborts what it has under way.
                self.comm = None;
                return Err(e);
            }
            // A step takes tens of milliseconds at least.
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn fail(&mut self, why: &str) {
        self.local.fail(why);
        self.comm = None;
    }
}
