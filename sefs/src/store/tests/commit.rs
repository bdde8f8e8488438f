//! What a commit promises: the flush that it waited for began after the group was there.

use core::sync::atomic::{AtomicUsize, Ordering};

use alloc::boxed::Box;

use super::room::open_on;
use super::*;
use crate::backend::{BackendError, Batch, Ticket};

/// A host that lets others in while it flushes.
struct Slow {
    memory: Arc<MemoryBackend>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    flushes: AtomicUsize,
}

impl Backend for Slow {
    fn submit(&self, batch: Batch) -> core::result::Result<Ticket, BackendError> {
        self.memory.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> core::result::Result<Batch, BackendError> {
        self.memory.wait(ticket)
    }

    fn flush(&self) -> core::result::Result<(), BackendError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> core::result::Result<(), BackendError> {
        self.memory.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> core::result::Result<u64, BackendError> {
        self.memory.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> core::result::Result<(), BackendError> {
        self.memory.grow(len_bytes)
    }
}

#[test]
fn what_is_logged_while_a_commit_flushes_waits_for_the_next_flush() {
    let host = Arc::new(Slow { memory: format(16 << 20), meanwhile: Mutex::default(), flushes: AtomicUsize::new(0) });
    let store = Arc::new(open_on(host.clone()));
    let change = |store: &Store, number: u64| {
        let mut tx = store.begin(Need::Metadata).unwrap();
        tx.put(Key::new(5, Kind::DirEntry, number), vec![1; 10]);
        tx.finish();
    };
    change(&store, 0);
    store.commit().unwrap();
    change(&store, 1);
    let other = store.clone();
    *host.meanwhile.lock() = Some(Box::new(move || {
        change(&other, 2);
        other.cut_group().unwrap();
    }));
    store.commit().unwrap();
    let before = host.flushes.load(Ordering::SeqCst);
    store.commit().unwrap();
    assert_eq!(host.flushes.load(Ordering::SeqCst), before + 1, "the second group was logged, not flushed");
    store.commit().unwrap();
    assert_eq!(host.flushes.load(Ordering::SeqCst), before + 1, "there was nothing new");
}
