//! Room for operations: what is accepted can be carried out, whatever else was accepted meanwhile.

use alloc::boxed::Box;

use super::*;
use crate::backend::{BackendError, BackendOperation, Batch, Io, Ticket};
use crate::error::{Error, Posix};
use crate::types::BLOCK_SIZE_U64;
use crate::workers::NoWorkers;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SMALLEST: u64 = 4 << 20;
pub(super) const NO_SPACE: Error = Error::Posix(Posix::NoSpace);

pub(super) fn write(store: &Store, first: u64, blocks: u64) -> Result<()> {
    let mut tx = store.begin(Need::Data { blocks })?;
    tx.write(ObjectId(9), first, &vec![1; blocks as usize * BLOCK_SIZE])?;
    tx.finish();
    Ok(())
}

#[test]
fn the_last_blocks_are_given_to_one_operation_only() {
    for blocks in [1, 32] {
        let store = open(&format(8 << 20), 4 << 20);
        let mut at = 0;
        while store.begin(Need::Data { blocks: 3 * blocks }).is_ok() {
            write(&store, at, blocks).unwrap();
            at += blocks;
        }
        // The last ones that one operation can have.
        let first = loop {
            match (store.begin(Need::Data { blocks }), store.begin(Need::Data { blocks })) {
                (Ok(first), Err(refused)) => {
                    assert_eq!(refused, NO_SPACE);
                    break first;
                }
                (Ok(mut first), Ok(second)) => {
                    drop(second);
                    first.write(ObjectId(9), at, &vec![2; blocks as usize * BLOCK_SIZE]).unwrap();
                    first.finish();
                    at += blocks;
                }
                (Err(refused), _) => panic!("not even one: {refused}"),
            }
        };
        assert_eq!(write(&store, at, blocks), Err(NO_SPACE));
        drop(first);
        write(&store, at, blocks).expect("what the first gave back");
        store.commit().unwrap();
    }
}

/// Many operations at once, each within what there was when it began: all of them can be logged and merged.
#[test]
fn all_that_was_accepted_has_space() {
    for (size_bytes, blocks) in [(SMALLEST, 1), (SMALLEST, 15), (SMALLEST, 64), (16 << 20, 15), (16 << 20, 200)] {
        let store = open(&format(size_bytes), 4 << 20);
        store.commit().unwrap();
        let (mut begun, mut at) = (Vec::new(), 0);
        // As many as threads can have; more wait for a share of the log.
        loop {
            match store.begin(Need::Data { blocks }) {
                Ok(tx) => begun.push(tx),
                Err(refused) => {
                    assert_eq!(refused, NO_SPACE);
                    if begun.is_empty() {
                        break;
                    }
                }
            }
            if begun.len() == 3 || store.begin(Need::Data { blocks }).is_err() {
                for mut tx in begun.drain(..) {
                    tx.write(ObjectId(9), at, &vec![3; blocks as usize * BLOCK_SIZE]).unwrap();
                    tx.finish();
                    at += blocks;
                }
            }
        }
        assert!(at * 8 > size_bytes / BLOCK_SIZE_U64 * 4, "{size_bytes} bytes: only {at} blocks fitted");
        store.commit().unwrap();
        store.checkpoint().unwrap();
        store.close().unwrap();
    }
}

/// The largest operations of every kind can be logged on the smallest volume, and several of them wait for one another.
#[test]
fn the_largest_operation_fits_the_smallest_ring() {
    let store = open(&format(SMALLEST), 4 << 20);
    let needs = [
        (Need::Metadata, 2 * 65_536 + 300),
        (Need::Release, 0),
        (Need::Data { blocks: 258 }, 0),
        (Need::Writeback { blocks: 258 }, 65_536),
        (Need::Promise { blocks: MAX_PREALLOCATE_BLOCKS }, 0),
        (Need::Edges { blocks: 2 }, 65_536),
        (Need::Promised { blocks: 258, promised: 1 }, 0),
    ];
    for (need, value_bytes) in needs {
        let most = need.share().with_values(value_bytes).log_bytes();
        let group = crate::store::log::group_estimate(most, 0, store.limits.ring_pages);
        assert!(group <= store.ring.blocks, "{need:?} may take {group} ring blocks");
    }
}

#[test]
fn a_preallocation_costs_what_its_masks_take() {
    let mut layer = Layer::default();
    let all = (0..64).map(|block| (block, layer::Content::State(crate::format::BlockState::Unwritten)));
    layer.change_chunk(Key::new(9, Kind::Extent, 0), false, all.collect(), &mut |_| {});
    assert!(layer.log_bytes() < 100, "{} bytes for three masks", layer.log_bytes());
    layer.forget(Key::MIN, Key::MAX, &mut |_| {});
    assert_eq!((layer.log_bytes(), layer.memory_bytes()), (0, 0));
}

/// What was sealed for a group that has no space stays readable and is logged later, in the right order.
#[test]
fn what_cannot_be_logged_for_want_of_space_waits() {
    let backend = Arc::new(Refusing::new(16 << 20));
    let store = open_on(backend.clone());
    (0..40).for_each(|block| write(&store, block * 2, 1).unwrap());
    backend.refuse.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(store.commit(), Err(NO_SPACE));
        let mut tx = store.begin(Need::Release).unwrap();
        tx.clear(ObjectId(9), 2, 3).unwrap();
        tx.put(Key::new(5, Kind::DirEntry, 5), vec![1; 10]);
        tx.finish();
        store.check_latch().unwrap();
    }
    backend.refuse.store(false, Ordering::SeqCst);
    store.commit().unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let store = open_on(backend);
    let mut out = vec![0; 4 * BLOCK_SIZE];
    store.read_blocks(ObjectId(9), 0, &mut out).unwrap();
    let firsts: Vec<u8> = out.chunks(BLOCK_SIZE).map(|block| block[0]).collect();
    assert_eq!(firsts, [1, 0, 0, 0]);
    assert_eq!(store.get(Key::new(5, Kind::DirEntry, 5)).unwrap(), Some(vec![1; 10]));
}

/// A checkpoint for which the host has no space is taken back and can be made later.
#[test]
fn a_checkpoint_without_space_at_the_host_is_taken_back() {
    let backend = Arc::new(Refusing::new(16 << 20));
    let store = open_on(backend.clone());
    let mut refused = 0;
    for round in 0..12 {
        write(&store, round * 40, 1).unwrap();
        write(&store, round * 40 + 2, 20).unwrap();
        store.commit().unwrap();
        backend.after.store(round % 6, Ordering::SeqCst);
        backend.given.lock().clear();
        backend.refuse.store(true, Ordering::SeqCst);
        match store.checkpoint() {
            Ok(()) => {}
            Err(failure) => {
                assert_eq!(failure, NO_SPACE);
                refused += 1;
            }
        }
        store.check_latch().unwrap();
        backend.refuse.store(false, Ordering::SeqCst);
        store.checkpoint().unwrap();
    }
    assert!(refused > 4);
    store.close().unwrap();
    drop(store);
    let store = open_on(backend);
    let mut out = vec![0; BLOCK_SIZE];
    store.read_blocks(ObjectId(9), 11 * 40 + 21, &mut out).unwrap();
    assert_eq!(out, vec![1; BLOCK_SIZE]);
}

/// While a cut tries to seal what a host without space refuses, others begin operations. What it puts back and what they brought
/// still fit one group, so that all of it is logged once the host has space.
#[test]
fn what_a_refused_cut_puts_back_still_fits_a_group() {
    let backend = Arc::new(Refusing::new(SMALLEST));
    let store = open_on(backend.clone());
    write(&store, 0, 1).unwrap();
    store.commit().unwrap();
    backend.refuse.store(true, Ordering::SeqCst);
    backend.stubborn.store(true, Ordering::SeqCst);
    let operation = |object: u64, round: u64| -> Result<()> {
        let mut tx = store.begin_with(Need::Data { blocks: 10 }, 40 << 10)?;
        tx.write(ObjectId(object), round % 4 * 20, &vec![3; 10 * BLOCK_SIZE])?;
        for part in 0..10 {
            tx.put(Key::new(object, Kind::Xattr, round % 8 * 10 + part), vec![4; 4000]);
        }
        tx.finish();
        Ok(())
    };
    std::thread::scope(|scope| {
        for object in [20, 30] {
            let operation = &operation;
            scope.spawn(move || {
                for round in 0..400 {
                    if let Err(failure) = operation(object, round) {
                        assert_eq!(failure, NO_SPACE);
                    }
                }
            });
        }
        for _ in 0..400 {
            if let Err(failure) = store.commit() {
                assert_eq!(failure, NO_SPACE);
            }
        }
    });
    store.check_latch().unwrap();
    backend.refuse.store(false, Ordering::SeqCst);
    store.commit().expect("all that was accepted can be logged");
    store.close().unwrap();
}

/// An operation that began before the failure writes nothing after it.
#[test]
fn nothing_is_written_by_whoever_began_before_the_latch() {
    let backend = Arc::new(Refusing::new(16 << 20));
    let store = open_on(backend.clone());
    write(&store, 0, 1).unwrap();
    let mut begun = store.begin(Need::Data { blocks: 32 }).unwrap();
    store.latch(Error::Rng);
    let writes = backend.writes.load(Ordering::SeqCst);
    assert!(matches!(begun.write(ObjectId(9), 100, &vec![1; 32 * BLOCK_SIZE]), Err(Error::Latched(_))));
    drop(begun);
    assert!(matches!(store.cut_group(), Err(Error::Latched(_))));
    assert!(matches!(store.flush(), Err(Error::Latched(_))));
    assert_eq!(backend.writes.load(Ordering::SeqCst), writes);
}

pub(super) fn open_on(backend: Arc<Refusing>) -> Store {
    let memory_bytes = 4 << 20;
    let options = StoreOptions {
        read_only: false,
        anchor: None,
        abandon_anchor: false,
        volume_id: None,
        root_digest: None,
        memory_bytes,
        max_epochs: MAX_EPOCHS,
        workers: Arc::new(NoWorkers),
        corrections: None,
    };
    Store::open(backend, &key(), &options, &env()).unwrap()
}

/// A host that has no space for anything but the ring, the slots and the pages' homes, when it is told so.
pub(super) struct Refusing {
    pub(super) memory: Arc<MemoryBackend>,
    pub(super) refuse: AtomicBool,
    /// Writes that still succeed.
    pub(super) after: AtomicU64,
    writes: AtomicU64,
    /// Places that were asked for while it refused: each is decided once, for a place that the host gave stays given.
    pub(super) given: Mutex<alloc::collections::BTreeSet<u64>>,
    /// Refuses what it gave before, too.
    stubborn: AtomicBool,
    /// A place that cannot be read.
    pub(super) unreadable: Mutex<Option<u64>>,
    pub(super) reads: AtomicU64,
    pub(super) flushes: AtomicU64,
    /// What others do while it flushes, once.
    pub(super) at_flush: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    ring_end: u64,
}

impl Refusing {
    pub(super) fn new(size_bytes: u64) -> Refusing {
        let ring_end = (64 + crate::format::ring_blocks_for(size_bytes / BLOCK_SIZE_U64)) * BLOCK_SIZE_U64;
        let (refuse, after, writes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        Refusing {
            memory: format(size_bytes),
            refuse,
            after,
            writes,
            given: Mutex::default(),
            stubborn: AtomicBool::new(false),
            unreadable: Mutex::default(),
            reads: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            at_flush: Mutex::default(),
            ring_end,
        }
    }
}

impl Backend for Refusing {
    fn submit(&self, batch: Batch) -> core::result::Result<Ticket, BackendError> {
        for io in &batch {
            let offset_bytes = match io {
                Io::Write { offset_bytes, .. } => offset_bytes,
                Io::Read { offset_bytes, buf }
                    if self.unreadable.lock().is_some_and(|place| {
                        (*offset_bytes..*offset_bytes + buf.bytes().len() as u64).contains(&place)
                    }) =>
                {
                    let operation = BackendOperation::Read;
                    return Err(BackendError { operation, offset_bytes: *offset_bytes, errno: 5 });
                }
                Io::Read { .. } => {
                    self.reads.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
            };
            self.writes.fetch_add(1, Ordering::SeqCst);
            if self.refuse.load(Ordering::SeqCst)
                && *offset_bytes >= self.ring_end
                && (self.given.lock().insert(*offset_bytes) || self.stubborn.load(Ordering::SeqCst))
                && self.after.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
            {
                // Long enough for others to get between.
                std::thread::sleep(core::time::Duration::from_millis(1));
                return Err(BackendError {
                    operation: BackendOperation::Write,
                    offset_bytes: *offset_bytes,
                    errno: 28,
                });
            }
        }
        self.memory.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> core::result::Result<Batch, BackendError> {
        self.memory.wait(ticket)
    }

    fn flush(&self) -> core::result::Result<(), BackendError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        let others = self.at_flush.lock().take();
        if let Some(others) = others {
            others();
        }
        self.memory.flush()
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

/// What statfs says is there can be had, to the last block.
#[test]
fn what_is_available_is_given() {
    for size_bytes in [SMALLEST, 16 << 20, 64 << 20] {
        let store = open(&format(size_bytes), 4 << 20);
        let mut at = 0;
        loop {
            let left = store.space().available_blocks;
            if left == 0 {
                break;
            }
            let blocks = if left > 200 { (left / 3).min(200) } else { left };
            let done = write(&store, at, blocks);
            assert_eq!(done, Ok(()), "{size_bytes} bytes: {blocks} of {left} blocks that are available");
            at += blocks + 1;
        }
        assert!(at * 2 > size_bytes / BLOCK_SIZE_U64, "{size_bytes} bytes: only {at} blocks fitted");
    }
}

/// Filled in order, then written anew block by block all over: the leaves become twice as many and more, in quads that data
/// left to them.
#[test]
fn overwriting_at_random_needs_no_more_than_what_was_there_when_it_was_full() {
    let mut store = open(&format(128 << 20), 4 << 20);
    // Little beside what the leaves grow by, as on a large volume.
    store.limits.reserve_blocks = 256;
    store.alloc.set_reserve(256);
    let blocks = store.space().available_blocks * 99 / 100;
    for at in (0..blocks).step_by(32) {
        write(&store, at, 32.min(blocks - at)).unwrap();
    }
    store.commit().unwrap();
    store.checkpoint().unwrap();
    let in_order = store.nodes_in_use();
    // A prime that does not divide it steps through all of them.
    let step = if blocks.is_multiple_of(7_919) { 7_907 } else { 7_919 };
    for turn in 0..blocks * 2 {
        let done = write(&store, turn * step % blocks, 1);
        assert_eq!(done, Ok(()), "block {turn} of {blocks}, {} nodes of {in_order}", store.nodes_in_use());
        if turn % 64 == 0 {
            store.commit().unwrap();
        }
    }
    store.commit().unwrap();
    assert!(store.nodes_in_use() > in_order * 2, "{} nodes of {in_order} tell nothing", store.nodes_in_use());
}
