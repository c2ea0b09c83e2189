//! Messages between two processes: a byte for the kind, the length in bytes (u64, little
//! endian), the content.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow, bail};

const CONTENT: u8 = 0;
/// The sender gives up; the content says why.
const FAILURE: u8 = 1;

/// The other end.
pub(super) struct Peer {
    pub rank: usize,
    stream: TcpStream,
    silence: Duration,
}

impl Peer {
    /// `silence`: how long it may say nothing while it is waited for.
    pub fn new(rank: usize, stream: TcpStream, silence: Duration) -> Result<Peer> {
        stream.set_nonblocking(false)?;
        // Most messages are a few bytes that somebody waits for.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(silence))?;
        stream.set_write_timeout(Some(silence))?;
        Ok(Peer { rank, stream, silence })
    }

    pub fn send(&mut self, content: &[u8]) -> Result<()> {
        self.write(CONTENT, content)
    }

    /// Says why this process gives up, if anybody still listens; nothing comes after it.
    pub fn fail(&mut self, why: &str) {
        let _ = self.stream.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = self.write(FAILURE, why.as_bytes());
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads on, for a second at most, until the other end gives up, too. A link that is
    /// closed with messages unread would take the last word with it.
    pub fn drain(&mut self) {
        let until = Instant::now() + Duration::from_secs(1);
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(200)));
        let mut rest = vec![0; 1 << 16];
        while Instant::now() < until {
            match self.stream.read(&mut rest) {
                Ok(0) => return,
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return;
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, kind: u8, content: &[u8]) -> Result<()> {
        let mut head = [0; 9];
        head[0] = kind;
        head[1..].copy_from_slice(&(content.len() as u64).to_le_bytes());
        let both = self.stream.write_all(&head).and_then(|()| self.stream.write_all(content));
        both.map_err(|e| self.lost(e))
    }

    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).map_err(|e| self.lost(e))?;
        let length = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
        let mut content = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut content).map_err(|e| self.lost(e))?;
        match head[0] {
            CONTENT => Ok(content),
            FAILURE => {
                let why = String::from_utf8_lossy(&content);
                // What rank 0 passes on names the rank already.
                match why.starts_with("rank ") {
                    true => bail!("{why}"),
                    false => bail!("rank {}: {why}", self.rank),
                }
            }
            kind => bail!("rank {}: sent a message of kind {kind}; mixed versions?", self.rank),
        }
    }

    /// An error if the other process has ended; does not wait, and reads nothing.
    #[cfg(feature = "nccl")]
    pub fn alive(&self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match seen {
            Ok(0) => Err(self.lost(ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(self.lost(e)),
        }
    }

    fn lost(&self, e: std::io::Error) -> Error {
        let rank = self.rank;
        match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!(
                "rank {rank} has said nothing for {} s: it hangs, or has far more to do than this \
                 rank",
                self.silence.as_secs_f32()
            ),
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => {
                anyhow!("rank {rank} is lost: it ended amid the work; its own error says why")
            }
            _ => anyhow!("rank {rank}: {e}"),
        }
    }
}
