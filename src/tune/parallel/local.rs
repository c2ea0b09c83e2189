//! Ranks of one host over TCP: all talk to rank 0, which adds and sends back.
//!
//! Rank 0 adds in the order of ranks, `((g₀ + g₁) + g₂) + …`, so that a result does not
//! depend on who was faster.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

use super::Transport;
use super::wire::Peer;

/// How long ranks wait for each other. A rank that ended is noticed at once; these are
/// for one that hangs.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until all ranks have met.
    pub meet: Duration,
    /// Between two messages: others may still load the model, or have a larger share.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { meet: Duration::from_secs(120), silence: Duration::from_secs(1800) }
    }
}

/// The links of one rank: of rank 0 to all others, in their order, of the others to it.
pub struct Local {
    rank: usize,
    peers: Vec<Peer>,
}

/// What a rank says when it comes: a magic, the hash of the key, rank and size.
const HELLO: usize = 48;

fn hello(key: &str, rank: usize, size: usize) -> [u8; HELLO] {
    let mut all = [0; HELLO];
    all[..8].copy_from_slice(b"cotalign");
    all[8..40].copy_from_slice(&Sha256::digest(key));
    all[40..44].copy_from_slice(&(rank as u32).to_le_bytes());
    all[44..].copy_from_slice(&(size as u32).to_le_bytes());
    all
}

impl Local {
    /// A world of one.
    pub fn single() -> Local {
        Local { rank: 0, peers: Vec::new() }
    }

    /// Rank 0: takes in all others. Who does not know the `key` is left outside.
    /// `watch` is called again and again, and ends the wait with an error.
    pub fn host(
        listener: &TcpListener,
        size: usize,
        key: &str,
        patience: Patience,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Local> {
        let mut met: Vec<Option<Peer>> = (1..size).map(|_| None).collect();
        let until = Instant::now() + patience.meet;
        listener.set_nonblocking(true)?;
        while let Some(missing) = met.iter().position(Option::is_none) {
            watch()?;
            ensure!(
                Instant::now() < until,
                "rank {} has not come within {} s",
                missing + 1,
                patience.meet.as_secs_f32()
            );
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(e) => return Err(e).context("the ranks' port"),
            };
            let Some((rank, their_size)) = greeted(&stream, key) else { continue };
            ensure!(
                their_size == size && (1..size).contains(&rank),
                "rank {rank} of {their_size} has come, rank 0 is of {size}: give all ranks the \
                 same WORLD_SIZE"
            );
            let place = &mut met[rank - 1];
            ensure!(place.is_none(), "two processes are rank {rank}: give each a RANK of its own");
            *place = Some(Peer::new(rank, stream, patience.silence)?);
        }
        let mut local = Local { rank: 0, peers: met.into_iter().flatten().collect() };
        local.peers.iter_mut().try_for_each(|peer| peer.send(&[]))?;
        Ok(local)
    }

    /// Any other rank; returns once all ranks have met.
    pub fn join(
        at: SocketAddr,
        rank: usize,
        size: usize,
        key: &str,
        patience: Patience,
    ) -> Result<Local> {
        let until = Instant::now() + patience.meet;
        let mut stream = loop {
            match TcpStream::connect_timeout(&at, Duration::from_secs(5)) {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > until => {
                    bail!("rank 0 does not answer at {at}: {e}; start all ranks together")
                }
                // It may not have started yet.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.write_all(&hello(key, rank, size)).context("rank 0")?;
        let mut peer = Peer::new(0, stream.try_clone()?, patience.meet)?;
        peer.receive().context("rank 0 has not taken this process in")?;
        // Longer than rank 0, which sees who hangs and says so.
        Ok(Local { rank, peers: vec![Peer::new(0, stream, 2 * patience.silence)?] })
    }

    /// An error that names a rank which has ended, as far as this one can see.
    #[cfg(feature = "nccl")]
    pub(super) fn alive(&self) -> Result<()> {
        self.peers.iter().try_for_each(Peer::alive)
    }

    /// The sum of all ranks' numbers.
    pub fn sum_host(&mut self, mut values: Vec<f32>) -> Result<Vec<f32>> {
        if self.rank != 0 {
            let rank_0 = &mut self.peers[0];
            rank_0.send(&bytes(&values))?;
            return numbers(&rank_0.receive()?, values.len(), 0);
        }
        for peer in &mut self.peers {
            let others = numbers(&peer.receive()?, values.len(), peer.rank)?;
            values.iter_mut().zip(&others).for_each(|(sum, x)| *sum += x);
        }
        let sum = bytes(&values);
        self.peers.iter_mut().try_for_each(|peer| peer.send(&sum))?;
        Ok(values)
    }
}

/// Rank and size of who has come, if it is one of us.
fn greeted(mut stream: &TcpStream, key: &str) -> Option<(usize, usize)> {
    stream.set_nonblocking(false).ok()?;
    // A stranger that says nothing must not keep the ranks waiting.
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut said = [0; HELLO];
    stream.read_exact(&mut said).ok()?;
    let number = |at: usize| -> usize {
        u32::from_le_bytes(said[at..at + 4].try_into().expect("four bytes")) as usize
    };
    let (rank, size) = (number(40), number(44));
    (said == hello(key, rank, size)).then_some((rank, size))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8], count: usize, rank: usize) -> Result<Vec<f32>> {
    ensure!(
        bytes.len() == 4 * count,
        "rank {rank} sent {} numbers where this rank has {count}: the ranks do not train the same \
         parameters",
        bytes.len() / 4
    );
    let each = bytes.chunks_exact(4);
    Ok(each.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
}

impl Transport for Local {
    fn gather(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.rank != 0 {
            let rank_0 = &mut self.peers[0];
            rank_0.send(message)?;
            return unpack(&rank_0.receive()?).context("rank 0 sent a broken message");
        }
        let mut all = vec![message.to_vec()];
        for peer in &mut self.peers {
            all.push(peer.receive()?);
        }
        let packed = pack(&all);
        self.peers.iter_mut().try_for_each(|peer| peer.send(&packed))?;
        Ok(all)
    }

    fn sum(&mut self, flat: Tensor) -> Result<Tensor> {
        let values = flat.to_device(&Device::Cpu)?.to_vec1()?;
        let sum = self.sum_host(values)?;
        Ok(Tensor::from_vec(sum, flat.shape(), flat.device())?)
    }

    fn fail(&mut self, why: &str) {
        self.peers.iter_mut().for_each(|peer| peer.fail(why));
        self.peers.iter_mut().for_each(Peer::drain);
    }
}

/// Several messages as one: each behind its length.
fn pack(all: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::new();
    for message in all {
        packed.extend((message.len() as u64).to_le_bytes());
        packed.extend(message);
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk::<8>()?;
        let (message, rest) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        all.push(message.to_vec());
        packed = rest;
    }
    Some(all)
}
