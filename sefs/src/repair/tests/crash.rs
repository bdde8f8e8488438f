//! A repair that is cut off at any write, with what was not flushed lost or half there.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::*;
use crate::backend::{Backend, BackendError, BackendOperation, Batch, Io, Ticket};
use crate::sync::Mutex;

type Answer<T> = core::result::Result<T, BackendError>;

/// What the host's cache holds, and how many writes are left until the power goes.
struct Cache {
    unflushed: Vec<(u64, Vec<u8>)>,
    left: usize,
    writes: usize,
}

/// A host with a cache that is lost with the power.
struct Crashing {
    disk: Arc<MemoryBackend>,
    cache: Mutex<Cache>,
}

impl Crashing {
    fn new(disk: Arc<MemoryBackend>, left: usize) -> Arc<Crashing> {
        Arc::new(Crashing { disk, cache: Mutex::new(Cache { unflushed: Vec::new(), left, writes: 0 }) })
    }

    /// The disk after the power went; `keep` tells which unflushed writes made it.
    fn crashed(&self, keep: impl Fn(usize) -> bool) -> Arc<MemoryBackend> {
        let disk = copy(&self.disk);
        let cache = self.cache.lock();
        for (_, (offset, bytes)) in cache.unflushed.iter().enumerate().filter(|(index, _)| keep(*index)) {
            put(&disk, *offset, bytes);
        }
        disk
    }
}

fn put(disk: &MemoryBackend, offset: u64, bytes: &[u8]) {
    let mut buf = disk.buffer(bytes.len());
    buf.bytes_mut().copy_from_slice(bytes);
    disk.write_at(offset, buf).unwrap();
}

pub(super) fn copy(disk: &MemoryBackend) -> Arc<MemoryBackend> {
    let len = disk.len_bytes().unwrap();
    let copy = Arc::new(MemoryBackend::new(len));
    for offset in (0..len).step_by(65_536) {
        let page = disk.read_at(offset, 65_536).unwrap();
        if page.bytes().iter().any(|byte| *byte != 0) {
            put(&copy, offset, page.bytes());
        }
    }
    copy
}

impl Backend for Crashing {
    fn submit(&self, mut batch: Batch) -> Answer<Ticket> {
        let mut cache = self.cache.lock();
        for io in &mut batch {
            match io {
                Io::Write { offset_bytes, buf } => {
                    if cache.left == 0 {
                        let operation = BackendOperation::Write;
                        return Err(BackendError { operation, offset_bytes: *offset_bytes, errno: 5 });
                    }
                    cache.left -= 1;
                    cache.writes += 1;
                    cache.unflushed.push((*offset_bytes, buf.bytes().to_vec()));
                }
                Io::Read { offset_bytes, buf } => {
                    let len = buf.bytes().len();
                    buf.bytes_mut().copy_from_slice(self.disk.read_at(*offset_bytes, len)?.bytes());
                    let read_end = *offset_bytes + len as u64;
                    for (at, bytes) in &cache.unflushed {
                        let (from, end) = ((*at).max(*offset_bytes), (*at + bytes.len() as u64).min(read_end));
                        if from < end {
                            let within = |start: u64| {
                                usize::try_from(from - start).unwrap()..usize::try_from(end - start).unwrap()
                            };
                            buf.bytes_mut()[within(*offset_bytes)].copy_from_slice(&bytes[within(*at)]);
                        }
                    }
                }
            }
        }
        Ok(Ticket::Done(batch))
    }
    fn wait(&self, ticket: Ticket) -> Answer<Batch> {
        self.disk.wait(ticket)
    }
    fn flush(&self) -> Answer<()> {
        for (offset, bytes) in self.cache.lock().unflushed.drain(..) {
            put(&self.disk, offset, &bytes);
        }
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Answer<()> {
        Ok(())
    }
    fn len_bytes(&self) -> Answer<u64> {
        self.disk.len_bytes()
    }
    fn grow(&self, _: u64) -> Answer<()> {
        panic!("a repair does not grow a volume")
    }
}

/// Wherever a repair ends, the volume has the findings that it had before, or none; and can be repaired again.
fn at_every_write(damaged: &Arc<MemoryBackend>, accepted: &[Loss]) {
    let before = errors(damaged);
    assert!(!before.is_empty());
    let whole = Crashing::new(copy(damaged), usize::MAX);
    try_repair(&whole, accepted).unwrap();
    let writes = whole.cache.lock().writes;
    let (mut same, mut done) = (0, 0);
    for count in 0..writes {
        let host = Crashing::new(copy(damaged), count);
        try_repair(&host, accepted).unwrap_err();
        let subsets: [fn(usize) -> bool; 4] = [|_| true, |_| false, |index| index % 2 == 0, |index| index % 2 == 1];
        for keep in subsets {
            let disk = host.crashed(keep);
            let now = errors(&disk);
            if now.is_empty() {
                done += 1;
            } else {
                assert_eq!(now, before, "after {count} of {writes} writes");
                same += 1;
                // Any of them would do; a few are enough.
                if same % 16 == 1 {
                    becomes_clean(&disk, accepted);
                }
            }
        }
    }
    assert!(same > 0 && done > 0, "{same} crashes before, {done} after");
}

fn try_repair(host: &Arc<Crashing>, accepted: &[Loss]) -> Result<Outcome> {
    repair(host.clone(), &key(), &CheckOptions::default(), accepted, &env(), &mut |_, _, _| {})
}

/// Errors only: a torn slot is what a crash leaves.
fn errors(disk: &Arc<MemoryBackend>) -> Vec<Finding> {
    findings(disk, true).into_iter().filter(|finding| finding.severity() == Severity::Error).collect()
}

#[test]
fn sums() {
    let (backend, store) = sample();
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.delete(entry_key(ROOT, b"large", 0));
    tx.put(inode_key(SMALL), Inode { links: 3, ..inline(SMALL, 5) }.encode());
    tx.finish();
    store.commit().unwrap();
    drop(store);
    at_every_write(&backend, &[]);
}

#[test]
fn not_allocated() {
    let backend = closed();
    reseal(&backend, |checkpoint, image| {
        checkpoint.alloc_root = AllocEntry::default();
        checkpoint.free_blocks = image.geometry.free_blocks(&checkpoint.alloc_root);
    });
    at_every_write(&backend, &[]);
}

#[test]
fn data() {
    let backend = closed();
    flip(&backend, some_data(&image(&backend)), 4000);
    at_every_write(&backend, &[Loss::data_block(ObjectId(LARGE), 67)]);
}

#[test]
fn log() {
    let (backend, first) = logged();
    flip(&backend, BlockAddr(first.0 + 2), 100);
    let broken = findings(&backend, true).iter().find_map(Finding::loss).unwrap();
    at_every_write(&backend, &[broken]);
}

#[test]
fn nodes() {
    let backend = closed();
    let addr = image(&backend).root(crate::format::FILES_TREE).unwrap().reference.addr;
    flip(&backend, addr, 40);
    at_every_write(&backend, &[Loss::Node { addr }]);
}

#[test]
fn allocation() {
    let (backend, _) = logged();
    let image = image(&backend);
    flip(&backend, image.geometry.home(1, 0, image.checkpoint.alloc_root.home), 9);
    at_every_write(&backend, &[Loss::Allocation]);
}
