//! How much memory of the card is taken.

use candle_core::Result;

use super::Gpu;

/// Bytes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Of the card, by everybody: this program's tensors, freed memory that the pool keeps,
    /// kernels, libraries and the driver's context, and other programs. What nvidia-smi
    /// shows.
    pub taken: u64,
    /// In tensors now.
    pub live: u64,
    /// The most that was in tensors at a time, since [`Gpu::trim`].
    pub peak: u64,
}

impl Gpu {
    /// None: the emulator's memory is that of the process.
    pub fn memory(&self) -> Result<Option<DeviceMemory>> {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => super::cuda::memory(d).map(Some),
            Gpu::Emulated(_) => Ok(None),
        }
    }

    /// Gives freed memory back to the driver and counts the peak anew. Waits for all work;
    /// what is allocated next takes longer.
    pub fn trim(&self) -> Result<()> {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => super::cuda::trim(d),
            Gpu::Emulated(_) => Ok(()),
        }
    }

    /// What it is, in names and values.
    pub fn about(&self) -> Result<Vec<(&'static str, String)>> {
        match self {
            #[cfg(feature = "cuda")]
            Gpu::Cuda(d) => super::cuda::about(d).map(Vec::from),
            Gpu::Emulated(_) => Ok(vec![("gpu", "emulator".into())]),
        }
    }
}
