//! A backend in ordinary memory, sparse: what was never written takes no space.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use crate::backend::{Backend, BackendError, BackendOperation, Batch, Io, Ticket};
use crate::sync::RwLock;

const PAGE: u64 = 65_536;

/// A volume in memory, for tests and for LibOSes without a disk.
pub struct MemoryBackend(RwLock<Memory>);

struct Memory {
    len_bytes: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl MemoryBackend {
    /// A backend of zeros.
    pub fn new(len_bytes: u64) -> MemoryBackend {
        MemoryBackend(RwLock::new(Memory { len_bytes, pages: BTreeMap::new() }))
    }
}

impl Memory {
    fn pieces(&self, offset: u64, len: usize, operation: BackendOperation) -> Result<(), BackendError> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.len_bytes) {
            return Err(BackendError { operation, offset_bytes: offset, errno: 0 });
        }
        Ok(())
    }
}

impl Backend for MemoryBackend {
    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        for io in &mut batch {
            match io {
                Io::Read { offset_bytes, buf } => {
                    let memory = self.0.read();
                    memory.pieces(*offset_bytes, buf.bytes().len(), BackendOperation::ShortRead)?;
                    let mut at = *offset_bytes;
                    let mut out = buf.bytes_mut();
                    while !out.is_empty() {
                        let inside = (at % PAGE) as usize;
                        let (head, rest) = out.split_at_mut(out.len().min(PAGE as usize - inside));
                        match memory.pages.get(&(at / PAGE)) {
                            Some(page) => head.copy_from_slice(&page[inside..inside + head.len()]),
                            None => head.fill(0),
                        }
                        at += head.len() as u64;
                        out = rest;
                    }
                }
                Io::Write { offset_bytes, buf } => {
                    let mut memory = self.0.write();
                    memory.pieces(*offset_bytes, buf.bytes().len(), BackendOperation::Write)?;
                    let mut at = *offset_bytes;
                    let mut bytes = buf.bytes();
                    while !bytes.is_empty() {
                        let inside = (at % PAGE) as usize;
                        let (head, rest) = bytes.split_at(bytes.len().min(PAGE as usize - inside));
                        let page = memory.pages.entry(at / PAGE).or_insert_with(|| alloc::vec![0; PAGE as usize].into());
                        page[inside..inside + head.len()].copy_from_slice(head);
                        at += head.len() as u64;
                        bytes = rest;
                    }
                }
            }
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        match ticket {
            Ticket::Done(batch) => Ok(batch),
            Ticket::Pending(_) => Err(BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: 22 }),
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        let mut memory = self.0.write();
        let (first, end) = (offset_bytes.div_ceil(PAGE), offset_bytes.saturating_add(len_bytes) / PAGE);
        for page in first..end {
            memory.pages.remove(&page);
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        Ok(self.0.read().len_bytes)
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        let mut memory = self.0.write();
        memory.len_bytes = memory.len_bytes.max(len_bytes);
        Ok(())
    }
}
