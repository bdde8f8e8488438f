//! A host that keeps what was flushed apart from what was not, and remembers what a crash at one moment would leave.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{Backend, BackendError, Batch, Io, Ticket};
use crate::sync::Mutex;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64};

/// Blocks by number; what is not there is zero.
pub(super) type Pages = BTreeMap<u64, Arc<[u8; BLOCK_SIZE]>>;

/// What a crash leaves, and when it was.
pub(super) struct Crash {
    pub(super) pages: Pages,
    pub(super) at: u64,
}

/// The host. Its lock is one of those at which a schedule may change, so every request is.
pub(super) struct Disk {
    inner: Mutex<Inner>,
    /// Moments so far.
    time: AtomicU64,
    seed: u64,
}

struct Inner {
    now: Pages,
    durable: Pages,
    /// Writes and flushes until the crash.
    left: u64,
    crash: Option<Crash>,
}

impl Disk {
    /// A disk that crashes, for its memory only, after so many writes and flushes.
    pub(super) fn new(pages: Pages, crash_after: u64, seed: u64) -> Disk {
        let inner = Inner { now: pages.clone(), durable: pages, left: crash_after, crash: None };
        Disk { inner: Mutex::new(inner), time: AtomicU64::new(0), seed }
    }

    /// The next moment.
    pub(super) fn tick(&self) -> u64 {
        self.time.fetch_add(1, Ordering::Relaxed)
    }

    /// All that was written.
    pub(super) fn pages(&self) -> Pages {
        self.inner.lock().now.clone()
    }

    /// What the crash left, if it came.
    pub(super) fn crash(&self) -> Option<Crash> {
        self.inner.lock().crash.take()
    }

    /// After a write or flush: perhaps the crash. Of what is not flushed, any part is there.
    fn passed(&self, inner: &mut Inner) {
        inner.left = inner.left.saturating_sub(1);
        if inner.left > 0 || inner.crash.is_some() {
            return;
        }
        let mut pages = inner.durable.clone();
        for (number, page) in &inner.now {
            let is_lost = (self.seed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 0;
            if !is_lost {
                pages.insert(*number, page.clone());
            }
        }
        inner.crash = Some(Crash { pages, at: self.tick() });
    }
}

impl Backend for Disk {
    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        for io in &mut batch {
            let mut inner = self.inner.lock();
            match io {
                Io::Read { offset_bytes, buf } => {
                    for (number, out) in (*offset_bytes / BLOCK_SIZE_U64..).zip(buf.bytes_mut().chunks_mut(BLOCK_SIZE))
                    {
                        match inner.now.get(&number) {
                            Some(page) => out.copy_from_slice(&page[..out.len()]),
                            None => out.fill(0),
                        }
                    }
                }
                Io::Write { offset_bytes, buf } => {
                    for (number, bytes) in (*offset_bytes / BLOCK_SIZE_U64..).zip(buf.bytes().chunks(BLOCK_SIZE)) {
                        let mut page = [0; BLOCK_SIZE];
                        page[..bytes.len()].copy_from_slice(bytes);
                        inner.now.insert(number, Arc::new(page));
                    }
                    self.passed(&mut inner);
                }
            }
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        match ticket {
            Ticket::Done(batch) => Ok(batch),
            Ticket::Pending(_) => Ok(Vec::new()),
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        // What had completed when it was called; more may come while the host is at it.
        let completed = self.inner.lock().now.clone();
        let mut inner = self.inner.lock();
        inner.durable = completed;
        self.passed(&mut inner);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), BackendError> {
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        Ok(super::SIZE)
    }

    fn grow(&self, _: u64) -> Result<(), BackendError> {
        Ok(())
    }
}
