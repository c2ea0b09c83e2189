//! Tuning with several processes of one host, one process a GPU (or a core).
//!
//! Every rank draws the same micro-batches from the same seed and computes those whose
//! index is its own modulo the number of ranks. The micro-batches' losses *add up* to
//! the loss of the step, each being divided by the tokens (or pairs) of the whole step;
//! so the ranks' gradients are summed, and the sum is the average over the step exactly
//! as one process has it, however the tokens fall to the ranks. The mean of the ranks'
//! own means would be another number. Then each rank takes the same step of AdamW; all
//! of them hold the same parameters at any time.
//!
//! What goes over the wire a step: which parameters got a gradient, a byte each; their
//! gradients, in one buffer; the loss and the metrics of each micro-batch.

mod flat;
mod local;
#[cfg(feature = "nccl")]
mod nccl;
mod share;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{TcpListener, ToSocketAddrs};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor, Var};
use sha2::{Digest, Sha256};

pub use local::{Local, Patience};
pub(super) use share::{Seen, share};

/// How ranks reach each other.
pub trait Transport {
    /// What every rank sent, in the order of ranks. Returns once all have sent.
    fn gather(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The sum of all ranks' `flat`, a vector in f32, with the same bits on every rank
    /// and where `flat` was. On a GPU it may only be queued yet.
    fn sum(&mut self, flat: Tensor) -> Result<Tensor>;

    /// Waits until what is queued on the device is done, and ends in an error if a rank
    /// is lost meanwhile.
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    /// Tells the others, as well as it still can, why this rank gives up.
    fn fail(&mut self, why: &str);
}

/// This process among those that tune together.
pub struct World {
    rank: usize,
    size: usize,
    transport: Option<Box<dyn Transport>>,
}

impl World {
    /// One process, which has nobody to talk to.
    pub fn alone() -> World {
        World { rank: 0, size: 1, transport: None }
    }

    pub fn over(rank: usize, size: usize, transport: impl Transport + 'static) -> World {
        World { rank, size, transport: Some(Box::new(transport)) }
    }

    /// The world that the environment describes, by the names of torch's launcher: RANK,
    /// WORLD_SIZE, MASTER_ADDR (127.0.0.1 if not set) and MASTER_PORT. Without
    /// WORLD_SIZE, the process is alone. Only processes with the same COTALIGN_KEY, which
    /// may be left out, meet each other. With NCCL if `device` asks for it, as in
    /// [`World::connect`].
    pub fn from_env(device: &Device) -> Result<World> {
        if std::env::var_os("WORLD_SIZE").is_none() {
            return Ok(World::alone());
        }
        let (rank, size) = (number("RANK")?, number("WORLD_SIZE")?);
        ensure!(rank < size, "RANK is {rank}: must be below WORLD_SIZE, which is {size}");
        let host = std::env::var("MASTER_ADDR").unwrap_or_else(|_| "127.0.0.1".into());
        let port = u16::try_from(number("MASTER_PORT")?).context("MASTER_PORT: no port")?;
        let key = std::env::var("COTALIGN_KEY").unwrap_or_default();
        let at = (host.as_str(), port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next())
            .with_context(|| format!("MASTER_ADDR is {host:?}: not an address of this host"))?;
        let local = match rank {
            0 => {
                let listener = TcpListener::bind(at)
                    .with_context(|| format!("{at}: taken; choose another MASTER_PORT"))?;
                Local::host(&listener, size, &key, Patience::default(), &mut || Ok(()))?
            }
            _ => Local::join(at, rank, size, &key, Patience::default())?,
        };
        World::connect(rank, size, local, device)
    }

    /// The ranks that `local` reaches, gradients going over NCCL if they lie on CUDA
    /// devices and the program was built for it, and over the host otherwise.
    pub fn connect(rank: usize, size: usize, local: Local, device: &Device) -> Result<World> {
        #[cfg(feature = "nccl")]
        if let Device::Cuda(cuda) = device {
            return Ok(World::over(rank, size, nccl::Nccl::new(rank, size, local, cuda)?));
        }
        let _ = device;
        Ok(World::over(rank, size, local))
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there is nobody to talk to.
    pub fn is_alone(&self) -> bool {
        self.transport.is_none()
    }

    /// As [`Transport::gather`].
    pub fn gather(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(transport) = &mut self.transport else { return Ok(vec![message.to_vec()]) };
        let all = transport.gather(message)?;
        ensure!(all.len() == self.size, "{} ranks of {} answered", all.len(), self.size);
        Ok(all)
    }

    /// Returns once all ranks have come here.
    pub fn barrier(&mut self) -> Result<()> {
        self.gather(&[]).map(|_| ())
    }

    /// An error unless all ranks bring the same bytes.
    pub fn agree(&mut self, what: &str, value: &[u8]) -> Result<()> {
        let all = self.gather(value)?;
        if let Some(other) = all.iter().position(|v| *v != all[0]) {
            bail!(
                "rank {other} has other {what} than rank 0: start all ranks with the same program, \
                 settings, data and models, on processors of the same kind"
            );
        }
        Ok(())
    }

    /// The same for the values of variables.
    pub(super) fn agree_on(&mut self, what: &str, vars: &BTreeMap<String, Var>) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let mut hash = Sha256::new();
        for (name, var) in vars {
            hash.update(format!("{name} {:?}\n", var.dims()));
            let values = var.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
            values.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        self.agree(what, &hash.finalize())
    }

    /// As [`Transport::wait`].
    pub(super) fn wait(&mut self) -> Result<()> {
        self.transport.as_mut().map_or(Ok(()), |t| t.wait())
    }

    /// As [`Transport::fail`].
    pub fn fail(&mut self, why: &str) {
        if let Some(transport) = &mut self.transport {
            transport.fail(why);
        }
    }
}

fn number(name: &str) -> Result<usize> {
    let text = std::env::var(name).with_context(|| {
        format!("{name}: not set; each rank needs RANK, WORLD_SIZE, MASTER_PORT")
    })?;
    text.parse().with_context(|| format!("{name} is {text:?}: must be a whole number"))
}

/// Sums a buffer over a world of one where `device` is, through the transport that tuning
/// would take there, and says which it was; an error if the sum is not the buffer itself.
pub fn self_test(device: &Device) -> Result<String> {
    let mut said = String::new();
    let nccl = cfg!(feature = "nccl") && device.is_cuda();
    // An odd number of values, and more than one block of a kernel.
    let values: Vec<f32> = (0..100_003).map(|i| i as f32 / 8.0 - 1000.0).collect();
    let mut world = World::connect(0, 1, Local::single(), device)?;
    let transport = world.transport.as_mut().expect("made with one");
    let sum = transport.sum(Tensor::from_slice(&values, values.len(), device)?)?;
    transport.wait()?;
    ensure!(sum.device().same_device(device), "the sum has left the device");
    ensure!(
        sum.to_device(&Device::Cpu)?.to_vec1::<f32>()? == values,
        "a sum over one rank must be what the rank has"
    );
    write!(said, "a sum over one rank, by {}", if nccl { "NCCL" } else { "the host" })?;
    Ok(said)
}
