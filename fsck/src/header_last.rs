//! A volume that is being made: its header comes last, and nothing is made durable before.
//!
//! A block device has no second name to make a volume under, so what stands on it in the meantime must not look like one.
//! And what is not a volume yet need not survive a crash, which saves the flushes between.
//!
//! *Invariants*: from [`HeaderLast::new`] to [`HeaderLast::finish`] the two places where a header is looked for, at the start
//! and at the end, hold zeros below; whatever was there before cannot be taken for a volume any more, and what is being
//! made not yet.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sefs::backend::{Backend, BackendError, Batch, HostBuf, Io, Ticket};
use sefs::types::BLOCK_SIZE_U64;

/// Bytes of a header, and of its replica.
pub const HEADER_BYTES: usize = sefs::format::HEADER_LEN;

/// A backend that keeps the places of headers in memory, and flushes when it is finished only.
pub struct HeaderLast {
    inner: Arc<dyn Backend>,
    held: Mutex<[Held; 2]>,
}

/// A range that is kept in memory.
struct Held {
    start: u64,
    bytes: Vec<u8>,
}

impl HeaderLast {
    /// Wipes the places of headers of `inner`, durably. It has at least room for two.
    pub fn new(inner: Arc<dyn Backend>) -> Result<HeaderLast, BackendError> {
        let len_bytes = inner.len_bytes()?;
        let end = len_bytes - len_bytes % BLOCK_SIZE_U64;
        let held =
            [0, end.saturating_sub(HEADER_BYTES as u64)].map(|start| Held { start, bytes: vec![0; HEADER_BYTES] });
        for place in &held {
            inner.write_at(place.start, HostBuf::zeroed(HEADER_BYTES))?;
        }
        inner.flush()?;
        Ok(HeaderLast { inner, held: Mutex::new(held) })
    }

    /// Makes everything else durable, then the header.
    pub fn finish(&self) -> Result<(), BackendError> {
        self.inner.flush()?;
        for place in self.held().iter().rev() {
            let mut buf = self.inner.buffer(HEADER_BYTES);
            buf.bytes_mut().copy_from_slice(&place.bytes);
            self.inner.write_at(place.start, buf)?;
        }
        self.inner.flush()
    }

    fn held(&self) -> MutexGuard<'_, [Held; 2]> {
        // Nothing that holds the lock can leave the bytes half-copied and panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.held().iter().any(|place| place.overlap(range).is_some())
    }

    fn read(&self, offset_bytes: u64, mut buf: HostBuf) -> Result<HostBuf, BackendError> {
        let range = range_of(offset_bytes, &buf);
        buf = self.inner.read_at(offset_bytes, buf.bytes().len())?;
        for place in self.held().iter() {
            if let Some((here, there)) = place.overlap(&range) {
                buf.bytes_mut()[there].copy_from_slice(&place.bytes[here]);
            }
        }
        Ok(buf)
    }

    fn write(&self, offset_bytes: u64, buf: &HostBuf) -> Result<(), BackendError> {
        let range = range_of(offset_bytes, buf);
        let mut rest = offset_bytes;
        for place in self.held().iter_mut() {
            let Some((here, there)) = place.overlap(&range) else { continue };
            self.write_through(rest..offset_bytes + there.start as u64, offset_bytes, buf)?;
            rest = offset_bytes + there.end as u64;
            place.bytes[here].copy_from_slice(&buf.bytes()[there]);
        }
        self.write_through(rest..range.end, offset_bytes, buf)
    }

    /// Writes the part of `buf`, which stands at `offset_bytes`, that lies in `range`.
    fn write_through(&self, range: Range<u64>, offset_bytes: u64, buf: &HostBuf) -> Result<(), BackendError> {
        if range.is_empty() {
            return Ok(());
        }
        let part = &buf.bytes()[index(range.start - offset_bytes)..index(range.end - offset_bytes)];
        let mut copy = self.inner.buffer(part.len());
        copy.bytes_mut().copy_from_slice(part);
        self.inner.write_at(range.start, copy)
    }

    fn transfer(&self, io: Io) -> Result<Io, BackendError> {
        match io {
            Io::Read { offset_bytes, buf } => Ok(Io::Read { offset_bytes, buf: self.read(offset_bytes, buf)? }),
            Io::Write { offset_bytes, buf } => {
                self.write(offset_bytes, &buf)?;
                Ok(Io::Write { offset_bytes, buf })
            }
        }
    }
}

impl Held {
    /// The bytes that a transfer has in common with this range: where they are here, and where in the transfer.
    fn overlap(&self, range: &Range<u64>) -> Option<(Range<usize>, Range<usize>)> {
        let start = self.start.max(range.start);
        let end = (self.start + HEADER_BYTES as u64).min(range.end);
        let within = |base: u64| index(start - base)..index(end - base);
        (start < end).then(|| (within(self.start), within(range.start)))
    }
}

impl Backend for HeaderLast {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.inner.buffer(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        self.inner.give_back(buf);
    }

    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        let touches = |io: &Io| match io {
            Io::Read { offset_bytes, buf } | Io::Write { offset_bytes, buf } => {
                self.touches(&range_of(*offset_bytes, buf))
            }
        };
        if !batch.iter().any(touches) {
            return self.inner.submit(batch);
        }
        let done: Result<Batch, BackendError> = batch.into_iter().map(|io| self.transfer(io)).collect();
        done.map(Ticket::Done)
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        match ticket {
            Ticket::Done(batch) => Ok(batch),
            pending => self.inner.wait(pending),
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        if self.touches(&(offset_bytes..offset_bytes.saturating_add(len_bytes))) {
            // What is discarded reads as anything, so it may as well stay.
            return Ok(());
        }
        self.inner.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.inner.grow(len_bytes)
    }
}

fn range_of(offset_bytes: u64, buf: &HostBuf) -> Range<u64> {
    offset_bytes..offset_bytes + buf.bytes().len() as u64
}

/// An index into a buffer, which fits in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a difference of offsets within one buffer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sefs::backend::MemoryBackend;

    fn filled(len_bytes: usize, value: u8) -> HostBuf {
        let mut buf = HostBuf::zeroed(len_bytes);
        buf.bytes_mut().fill(value);
        buf
    }

    fn device() -> Arc<MemoryBackend> {
        let device = Arc::new(MemoryBackend::new(1 << 20));
        device.write_at(0, filled(1 << 20, 0xee)).unwrap();
        device
    }

    #[test]
    fn the_header_comes_last() {
        let device = device();
        let backend = HeaderLast::new(device.clone()).unwrap();
        backend.write_at(0, filled(HEADER_BYTES, 1)).unwrap();
        backend.write_at(HEADER_BYTES as u64, filled(4096, 2)).unwrap();
        backend.flush().unwrap();
        assert!(device.read_at(0, HEADER_BYTES).unwrap().bytes().iter().all(|&byte| byte == 0));
        assert_eq!(device.read_at(HEADER_BYTES as u64, 4096).unwrap().bytes(), [2; 4096]);
        assert!(backend.read_at(0, HEADER_BYTES).unwrap().bytes().iter().all(|&byte| byte == 1));
        backend.finish().unwrap();
        assert!(device.read_at(0, HEADER_BYTES).unwrap().bytes().iter().all(|&byte| byte == 1));
    }

    #[test]
    fn neither_does_the_replica_come_before() {
        let device = device();
        let backend = HeaderLast::new(device.clone()).unwrap();
        let end = (1 << 20) - HEADER_BYTES as u64;
        backend.write_at(end - 4096, filled(HEADER_BYTES + 4096, 5)).unwrap();
        assert_eq!(device.read_at(end - 4096, 4096).unwrap().bytes(), [5; 4096]);
        assert!(device.read_at(end, HEADER_BYTES).unwrap().bytes().iter().all(|&byte| byte == 0));
        assert!(backend.read_at(end, HEADER_BYTES).unwrap().bytes().iter().all(|&byte| byte == 5));
        backend.finish().unwrap();
        assert!(device.read_at(end, HEADER_BYTES).unwrap().bytes().iter().all(|&byte| byte == 5));
    }

    #[test]
    fn a_transfer_over_the_edge_is_split() {
        let device = device();
        let backend = HeaderLast::new(device.clone()).unwrap();
        let edge = HEADER_BYTES as u64 - 4096;
        backend.write_at(edge, filled(8192, 3)).unwrap();
        assert_eq!(backend.read_at(edge, 8192).unwrap().bytes(), [3; 8192]);
        assert_eq!(device.read_at(edge, 4096).unwrap().bytes(), [0; 4096]);
        assert_eq!(device.read_at(edge + 4096, 4096).unwrap().bytes(), [3; 4096]);
    }
}
