//! The untrusted store: ciphertext at an address. Everything it returns is the adversary's word.
//!
//! *Security*: a [`HostBuf`] is memory that the host may see and change at any time. Ciphertext is copied out of it once,
//! into memory of our own, before it is verified; plaintext never enters it.

#[cfg(test)]
mod check;
#[cfg(feature = "std")]
mod file;
mod memory;
mod pool;

use alloc::vec::Vec;

#[cfg(feature = "std")]
pub use file::FileBackend;
pub use memory::MemoryBackend;
pub use pool::BufferPool;

pub use crate::error::{BackendError, BackendOperation};

/// Memory that the host may see and change. It holds ciphertext only.
#[derive(Default)]
pub struct HostBuf {
    memory: Vec<u8>,
    /// Where in it the buffer begins.
    start: usize,
    /// How much of it is in use; never more than there is.
    len_bytes: usize,
}

impl HostBuf {
    /// A buffer of `len_bytes` zeros in ordinary memory.
    pub fn zeroed(len_bytes: usize) -> HostBuf {
        HostBuf { memory: alloc::vec![0; len_bytes], start: 0, len_bytes }
    }

    /// A buffer of `len_bytes` zeros whose address is a multiple of `alignment`, a power of two, as direct I/O wants it.
    pub fn aligned(len_bytes: usize, alignment: usize) -> HostBuf {
        let memory = alloc::vec![0; len_bytes + alignment - 1];
        let start = memory.as_ptr().addr().wrapping_neg() & (alignment - 1);
        HostBuf { memory, start, len_bytes }
    }

    /// The bytes, to be copied out once before they are trusted.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len_bytes]
    }

    /// The bytes, to be filled with ciphertext.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len_bytes]
    }
}

/// One request to the backend. Offsets and lengths are in bytes and multiples of the block size.
pub enum Io {
    /// Fill `buf` from `offset_bytes`.
    Read {
        /// Where to read.
        offset_bytes: u64,
        /// What to fill.
        buf: HostBuf,
    },
    /// Write `buf` at `offset_bytes`.
    Write {
        /// Where to write.
        offset_bytes: u64,
        /// What to write.
        buf: HostBuf,
    },
}

impl Io {
    /// What it transfers.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Io::Read { buf, .. } | Io::Write { buf, .. } => buf.bytes(),
        }
    }
}

/// Requests that are handed over together; the backend may run them in any order.
pub type Batch = Vec<Io>;

/// A batch under way.
pub enum Ticket {
    /// It completed while it was submitted.
    Done(Batch),
    /// It completes later; `wait` tells.
    Pending(u64),
}

/// Ciphertext at an address.
///
/// A batch that returns an error may have been carried out in part. After `flush` returns, all writes that completed
/// before it was called are durable. A read past the end is an error, never zeros.
pub trait Backend: Send + Sync {
    /// A buffer that this backend can transfer well. What is in it is undefined: ciphertext of whatever went before.
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        HostBuf::zeroed(len_bytes)
    }
    /// Takes a buffer back that nobody needs any more, so that it can be used again.
    fn give_back(&self, buf: HostBuf) {
        drop(buf);
    }
    /// Whether a batch that was submitted makes progress while its caller does something else. If so, a volume asks for data
    /// before they are wanted, and has buffers of 1 MiB under way for each request, and for up to two that may follow.
    fn works_meanwhile(&self) -> bool {
        false
    }
    /// Starts a batch.
    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError>;
    /// Waits for a batch and returns its buffers.
    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError>;
    /// Makes all completed writes durable.
    fn flush(&self) -> Result<(), BackendError>;
    /// Gives a range back to the host. Its content is undefined afterwards.
    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError>;
    /// The length in bytes, as the host claims it.
    fn len_bytes(&self) -> Result<u64, BackendError>;
    /// Makes the backend at least `len_bytes` long.
    fn grow(&self, len_bytes: u64) -> Result<(), BackendError>;

    /// Reads one range and waits.
    fn read_at(&self, offset_bytes: u64, len_bytes: usize) -> Result<HostBuf, BackendError> {
        let buf = self.buffer(len_bytes);
        let ticket = self.submit(alloc::vec![Io::Read { offset_bytes, buf }])?;
        match self.wait(ticket)?.pop() {
            Some(Io::Read { buf, .. }) if buf.bytes().len() == len_bytes => Ok(buf),
            _ => Err(BackendError { operation: BackendOperation::ShortRead, offset_bytes, errno: 0 }),
        }
    }

    /// Writes one range and waits.
    fn write_at(&self, offset_bytes: u64, buf: HostBuf) -> Result<(), BackendError> {
        let ticket = self.submit(alloc::vec![Io::Write { offset_bytes, buf }])?;
        self.wait(ticket).map(drop)
    }
}

/// The batch of a backend that completes while it submits.
fn completed(ticket: Ticket) -> Result<Batch, BackendError> {
    match ticket {
        Ticket::Done(batch) => Ok(batch),
        // Another backend's ticket.
        Ticket::Pending(_) => Err(BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: 22 }),
    }
}
