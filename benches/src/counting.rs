//! A backend that counts what passes through it: what a volume really reads and writes for what its callers asked for.

use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sefs::backend::{Backend, BackendError, Batch, HostBuf, Io, Ticket};

/// A backend of another kind, counted.
pub(crate) struct Counting {
    below: Arc<dyn Backend>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
}

/// What passed up to a moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) flushes: u64,
}

impl Counting {
    pub(crate) fn new(below: Arc<dyn Backend>) -> Counting {
        let zero = AtomicU64::default;
        Counting { below, reads: zero(), read_bytes: zero(), writes: zero(), written_bytes: zero(), flushes: zero() }
    }

    /// Everything since the beginning.
    pub(crate) fn counts(&self) -> Counts {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            reads: now(&self.reads),
            read_bytes: now(&self.read_bytes),
            writes: now(&self.writes),
            written_bytes: now(&self.written_bytes),
            flushes: now(&self.flushes),
        }
    }

    fn count(&self, io: &Io) {
        let (requests, bytes, buf) = match io {
            Io::Read { buf, .. } => (&self.reads, &self.read_bytes, buf),
            Io::Write { buf, .. } => (&self.writes, &self.written_bytes, buf),
        };
        requests.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(buf.bytes().len() as u64, Ordering::Relaxed);
    }
}

impl Sub for Counts {
    type Output = Counts;

    fn sub(self, before: Counts) -> Counts {
        Counts {
            reads: self.reads - before.reads,
            read_bytes: self.read_bytes - before.read_bytes,
            writes: self.writes - before.writes,
            written_bytes: self.written_bytes - before.written_bytes,
            flushes: self.flushes - before.flushes,
        }
    }
}

impl Backend for Counting {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.below.buffer(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        self.below.give_back(buf);
    }

    fn works_meanwhile(&self) -> bool {
        self.below.works_meanwhile()
    }

    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        batch.iter().for_each(|io| self.count(io));
        self.below.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        self.below.wait(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.below.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        self.below.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.below.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.below.grow(len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use sefs::backend::MemoryBackend;

    use super::*;

    #[test]
    fn every_request_is_counted_once_with_its_length() {
        let backend = Counting::new(Arc::new(MemoryBackend::new(1 << 20)));
        let buf = |len| HostBuf::zeroed(len);
        let batch = vec![
            Io::Write { offset_bytes: 0, buf: buf(8192) },
            Io::Read { offset_bytes: 4096, buf: buf(4096) },
            Io::Write { offset_bytes: 65_536, buf: buf(4096) },
        ];
        backend.wait(backend.submit(batch).unwrap()).unwrap();
        let before = backend.counts();
        assert_eq!(before, Counts { reads: 1, read_bytes: 4096, writes: 2, written_bytes: 12_288, flushes: 0 });
        backend.write_at(0, buf(16_384)).unwrap();
        backend.read_at(0, 12_288).unwrap();
        backend.flush().unwrap();
        let since = Counts { reads: 1, read_bytes: 12_288, writes: 1, written_bytes: 16_384, flushes: 1 };
        assert_eq!(backend.counts() - before, since);
    }

    #[test]
    fn what_was_written_is_read() {
        let backend = Counting::new(Arc::new(MemoryBackend::new(1 << 20)));
        let mut buf = backend.buffer(4096);
        buf.bytes_mut().fill(7);
        backend.write_at(8192, buf).unwrap();
        assert_eq!(backend.read_at(8192, 4096).unwrap().bytes(), [7; 4096]);
        backend.discard(0, 1 << 20).unwrap();
        assert_eq!(backend.read_at(8192, 4096).unwrap().bytes(), [0; 4096]);
        backend.grow(2 << 20).unwrap();
        assert_eq!(backend.len_bytes(), Ok(2 << 20));
    }
}
