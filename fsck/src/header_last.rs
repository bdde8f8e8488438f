//! A volume that is being made: its header comes last, and nothing is made durable before.
//!
//! A block device has no second name to make a volume under, so what stands on it in the meantime must not look like one.
//! And what is not a volume yet need not survive a crash, which saves the flushes between.
//!
//! *Invariants*: from [`HeaderLast::new`] to [`HeaderLast::finish`] the header area below holds zeros; whatever was there
//! before cannot be taken for a volume any more, and what is being made not yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sefs::backend::{Backend, BackendError, Batch, HostBuf, Io, Ticket};

/// Bytes that are held back: the header's.
pub const HEADER_BYTES: usize = sefs::format::HEADER_LEN;

/// A backend whose header area is in memory, and which flushes when it is finished only.
pub struct HeaderLast {
    inner: Arc<dyn Backend>,
    header: Mutex<Vec<u8>>,
}

impl HeaderLast {
    /// Wipes the header area of `inner`, durably.
    pub fn new(inner: Arc<dyn Backend>) -> Result<HeaderLast, BackendError> {
        inner.write_at(0, HostBuf::zeroed(HEADER_BYTES))?;
        inner.flush()?;
        Ok(HeaderLast { inner, header: Mutex::new(vec![0; HEADER_BYTES]) })
    }

    /// Makes everything else durable, then the header.
    pub fn finish(&self) -> Result<(), BackendError> {
        self.inner.flush()?;
        let mut buf = self.inner.buffer(HEADER_BYTES);
        buf.bytes_mut().copy_from_slice(&self.header());
        self.inner.write_at(0, buf)?;
        self.inner.flush()
    }

    fn header(&self) -> MutexGuard<'_, Vec<u8>> {
        // Nothing that holds the lock can leave the bytes half-copied and panic.
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfer(&self, io: Io) -> Result<Io, BackendError> {
        match io {
            Io::Read { offset_bytes, .. } | Io::Write { offset_bytes, .. } if start_of(offset_bytes).is_none() => {
                let ticket = self.inner.submit(vec![io])?;
                let mut done = self.inner.wait(ticket)?;
                done.pop().ok_or(BackendError {
                    operation: sefs::backend::BackendOperation::ShortRead,
                    offset_bytes,
                    errno: 0,
                })
            }
            Io::Read { offset_bytes, buf } => {
                let mut buf = if end_in_header(offset_bytes, &buf) {
                    buf
                } else {
                    self.inner.read_at(offset_bytes, buf.bytes().len())?
                };
                let (from, count) = overlap(offset_bytes, &buf);
                buf.bytes_mut()[..count].copy_from_slice(&self.header()[from..from + count]);
                Ok(Io::Read { offset_bytes, buf })
            }
            Io::Write { offset_bytes, buf } => {
                let (from, count) = overlap(offset_bytes, &buf);
                self.header()[from..from + count].copy_from_slice(&buf.bytes()[..count]);
                if count < buf.bytes().len() {
                    let mut rest = self.inner.buffer(buf.bytes().len() - count);
                    rest.bytes_mut().copy_from_slice(&buf.bytes()[count..]);
                    self.inner.write_at(HEADER_BYTES as u64, rest)?;
                }
                Ok(Io::Write { offset_bytes, buf })
            }
        }
    }
}

impl Backend for HeaderLast {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.inner.buffer(len_bytes)
    }

    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        let touches = |io: &Io| match io {
            Io::Read { offset_bytes, .. } | Io::Write { offset_bytes, .. } => start_of(*offset_bytes).is_some(),
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
        match start_of(offset_bytes) {
            // Content after a discard is undefined, so that leaving the header as it is, is allowed.
            Some(_) => Ok(()),
            None => self.inner.discard(offset_bytes, len_bytes),
        }
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.inner.grow(len_bytes)
    }
}

/// The offset, if it lies in the header.
fn start_of(offset_bytes: u64) -> Option<usize> {
    usize::try_from(offset_bytes).ok().filter(|&start| start < HEADER_BYTES)
}

/// Where in the header a transfer that starts in it begins, and how many of its bytes stay in it.
fn overlap(offset_bytes: u64, buf: &HostBuf) -> (usize, usize) {
    let from = start_of(offset_bytes).unwrap_or(HEADER_BYTES);
    (from, buf.bytes().len().min(HEADER_BYTES - from))
}

fn end_in_header(offset_bytes: u64, buf: &HostBuf) -> bool {
    overlap(offset_bytes, buf).1 == buf.bytes().len()
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
