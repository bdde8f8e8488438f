//! Buffers of the backend come back to it. A new one is zeroed memory for each transfer, which shows in no result.

use alloc::vec;
use core::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::backend::{Backend, BackendError, Batch, HostBuf, Ticket};

/// Memory that counts what it lent.
struct Lending {
    below: Arc<MemoryBackend>,
    lent: AtomicI64,
    ever: AtomicI64,
}

impl Backend for Lending {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.lent.fetch_add(1, Ordering::Relaxed);
        self.ever.fetch_add(1, Ordering::Relaxed);
        self.below.buffer(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        self.below.give_back(buf);
    }

    fn submit(&self, batch: Batch) -> core::result::Result<Ticket, BackendError> {
        self.below.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> core::result::Result<Batch, BackendError> {
        self.below.wait(ticket)
    }

    fn flush(&self) -> core::result::Result<(), BackendError> {
        self.below.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> core::result::Result<(), BackendError> {
        self.below.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> core::result::Result<u64, BackendError> {
        self.below.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> core::result::Result<(), BackendError> {
        self.below.grow(len_bytes)
    }
}

/// Does something on an open volume, and demands that every buffer taken for it came back.
fn check(backend: &Lending, what: &str, work: impl FnOnce()) {
    let (lent, ever) = (backend.lent.load(Ordering::Relaxed), backend.ever.load(Ordering::Relaxed));
    work();
    assert!(backend.ever.load(Ordering::Relaxed) > ever, "{what} took none");
    assert_eq!(backend.lent.load(Ordering::Relaxed), lent, "{what} kept buffers");
}

#[test]
fn every_buffer_comes_back() {
    let backend = Arc::new(Lending { below: formatted(), lent: AtomicI64::default(), ever: AtomicI64::default() });
    let open = || {
        let options = OpenOptions { memory_bytes: 4 << 20, ..OpenOptions::default() };
        Volume::open(backend.clone(), &key(), &options, &env()).unwrap()
    };
    let volume = open();
    // The first write of a mount starts its epoch.
    let ino = file(&volume, "file");
    volume.sync().unwrap();
    check(&backend, "a small write", || {
        put(&volume, ino, 4096, &[1; 5000]);
        volume.sync().unwrap();
    });
    check(&backend, "pages for more than a group", || {
        (0..40).for_each(|block| put(&volume, ino, block * 8192, &[3; 4096]));
        volume.sync().unwrap();
    });
    check(&backend, "a large write", || put(&volume, ino, 0, &vec![2; 1 << 20]));
    for index in 0..200 {
        file(&volume, &alloc::format!("file {index}"));
    }
    check(&backend, "logging many records and a checkpoint", || volume.close().unwrap());
    let volume = open();
    check(&backend, "looking up", || {
        volume.lookup(&root(), ROOT, b"file 100").unwrap();
    });
    let mut out = vec![0; 300_000];
    check(&backend, "a read", || assert_eq!(volume.read(ino, 100, &mut out), Ok(300_000)));
}
