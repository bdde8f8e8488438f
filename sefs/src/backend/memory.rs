//! A backend in ordinary memory, sparse: what was never written takes no space.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::pool::BufferPool;
use super::{Backend, BackendError, BackendOperation, Batch, HostBuf, Io, Ticket};
use crate::sync::RwLock;

/// The unit of memory (64 KiB).
const PAGE_BYTES: usize = 65_536;
const PAGE_BYTES_U64: u64 = 65_536;

/// A volume in memory, for tests and for LibOSes without a disk.
pub struct MemoryBackend {
    memory: RwLock<Memory>,
    buffers: BufferPool,
}

struct Memory {
    len_bytes: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl MemoryBackend {
    /// A backend of zeros.
    pub fn new(len_bytes: u64) -> MemoryBackend {
        MemoryBackend { memory: RwLock::new(Memory { len_bytes, pages: BTreeMap::new() }), buffers: BufferPool::new(1) }
    }

    /// Bytes of memory that the content takes.
    pub fn resident_bytes(&self) -> usize {
        self.memory.read().pages.len() * PAGE_BYTES
    }
}

impl Memory {
    fn read(&self, offset_bytes: u64, out: &mut [u8]) -> Result<(), BackendError> {
        self.check(BackendOperation::ShortRead, offset_bytes, out.len())?;
        let mut place = Place::of(offset_bytes);
        let mut rest = out;
        while !rest.is_empty() {
            let (part, after) = rest.split_at_mut(place.room().min(rest.len()));
            match self.pages.get(&place.page) {
                Some(page) => part.copy_from_slice(&page[place.inside..place.inside + part.len()]),
                None => part.fill(0),
            }
            (rest, place) = (after, place.next_page());
        }
        Ok(())
    }

    fn write(&mut self, offset_bytes: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.check(BackendOperation::Write, offset_bytes, bytes.len())?;
        let mut place = Place::of(offset_bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(place.room().min(rest.len()));
            let page = self.pages.entry(place.page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[place.inside..place.inside + part.len()].copy_from_slice(part);
            (rest, place) = (after, place.next_page());
        }
        Ok(())
    }

    fn check(&self, operation: BackendOperation, offset_bytes: u64, len: usize) -> Result<(), BackendError> {
        let end = u64::try_from(len).ok().and_then(|len| offset_bytes.checked_add(len));
        match end {
            Some(end) if end <= self.len_bytes => Ok(()),
            _ => Err(BackendError { operation, offset_bytes, errno: 0 }),
        }
    }
}

/// A byte's place.
#[derive(Clone, Copy)]
struct Place {
    page: u64,
    inside: usize,
}

impl Place {
    fn of(offset_bytes: u64) -> Place {
        // The remainder is below 65,536.
        let inside = usize::try_from(offset_bytes % PAGE_BYTES_U64).unwrap_or(0);
        Place { page: offset_bytes / PAGE_BYTES_U64, inside }
    }

    fn room(self) -> usize {
        PAGE_BYTES - self.inside
    }

    fn next_page(self) -> Place {
        Place { page: self.page + 1, inside: 0 }
    }
}

impl Backend for MemoryBackend {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.buffers.take(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        self.buffers.put(buf);
    }

    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        for io in &mut batch {
            match io {
                Io::Read { offset_bytes, buf } => self.memory.read().read(*offset_bytes, buf.bytes_mut())?,
                Io::Write { offset_bytes, buf } => self.memory.write().write(*offset_bytes, buf.bytes())?,
            }
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        super::completed(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        let first = offset_bytes.div_ceil(PAGE_BYTES_U64);
        let end = offset_bytes.saturating_add(len_bytes) / PAGE_BYTES_U64;
        let mut memory = self.memory.write();
        // Only pages that exist, for a range may be the whole of a sparse terabyte.
        while let Some((&page, _)) = memory.pages.range(first..end.max(first)).next() {
            memory.pages.remove(&page);
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        Ok(self.memory.read().len_bytes)
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        let mut memory = self.memory.write();
        memory.len_bytes = memory.len_bytes.max(len_bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::check_promises;
    use super::*;

    #[test]
    fn keeps_the_promises_of_a_backend() {
        check_promises(&MemoryBackend::new(1 << 20));
    }

    #[test]
    fn a_sparse_terabyte_costs_what_was_written() {
        let backend = MemoryBackend::new(1 << 40);
        for offset_bytes in [0, 1 << 30, (1 << 40) - 4096] {
            backend.write_at(offset_bytes, HostBuf::zeroed(4096)).unwrap();
        }
        assert_eq!(backend.resident_bytes(), 3 * PAGE_BYTES);
        backend.discard(0, 1 << 40).unwrap();
        assert_eq!(backend.resident_bytes(), 0);
    }
}
