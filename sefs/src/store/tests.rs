//! The store against a map of what it should hold, over reopenings of every kind.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::backend::MemoryBackend;
use crate::env::SystemClock;
use crate::format::{Key, Kind, LIVE_UNKNOWN, MAX_EPOCHS};
use crate::keys::VolumeKey;
use crate::suite::{OsRng, RustCrypto};
use crate::types::ObjectId;
use crate::workers::NoWorkers;

const OBJECTS: u64 = 3;
const BLOCKS: u64 = 400;

fn env() -> Env {
    Env { suite: Arc::new(RustCrypto), rng: Arc::new(OsRng), clock: Arc::new(SystemClock) }
}

fn key() -> VolumeKey {
    VolumeKey::new([7; 32])
}

fn format(size_bytes: u64) -> Arc<MemoryBackend> {
    let backend = Arc::new(MemoryBackend::new(size_bytes));
    let options = StoreFormat {
        size_bytes,
        volume_id: [3; 16],
        label: "test".into(),
        slots: Vec::new(),
        anchor: None,
        layered: false,
    };
    Store::format(&*backend, &key(), &options, &env()).unwrap();
    backend
}

fn open(backend: &Arc<MemoryBackend>, memory_bytes: usize) -> Store {
    let options = StoreOptions {
        read_only: false,
        anchor: None,
        abandon_anchor: false,
        volume_id: None,
        root_digest: None,
        memory_bytes,
        workers: Arc::new(NoWorkers),
        corrections: None,
        max_epochs: MAX_EPOCHS,
    };
    Store::open(backend.clone(), &key(), &options, &env()).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Put { object: u64, offset: u64, len: usize },
    Delete { object: u64, offset: u64 },
    Write { object: u64, block: u64, blocks: u64 },
    Clear { object: u64, block: u64, blocks: u64 },
    Drop { object: u64, hint: bool },
    Preallocate { object: u64, block: u64, blocks: u64 },
    Commit,
    Cut,
    Checkpoint,
    Reclaim,
    Close,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let object = 10..10 + OBJECTS;
    let block = 0..BLOCKS;
    prop_oneof![
        6 => (object.clone(), 0..50u64, 0..3000usize).prop_map(|(object, offset, len)| Step::Put { object, offset, len }),
        2 => (object.clone(), 0..50u64).prop_map(|(object, offset)| Step::Delete { object, offset }),
        8 => (object.clone(), block.clone(), 1..40u64)
            .prop_map(|(object, block, blocks)| Step::Write { object, block, blocks }),
        3 => (object.clone(), block.clone(), prop_oneof![1..100u64, Just(u64::MAX)])
            .prop_map(|(object, block, blocks)| Step::Clear { object, block, blocks }),
        1 => (object.clone(), any::<bool>()).prop_map(|(object, hint)| Step::Drop { object, hint }),
        1 => (object, block, 1..100u64).prop_map(|(object, block, blocks)| Step::Preallocate { object, block, blocks }),
        3 => Just(Step::Commit),
        2 => Just(Step::Cut),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reclaim),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

#[derive(Clone, Default)]
struct Model {
    records: BTreeMap<(u64, u64), Vec<u8>>,
    blocks: BTreeMap<(u64, u64), u8>,
}

struct Run {
    backend: Arc<MemoryBackend>,
    store: Store,
    model: Model,
    fill: u8,
    memory_bytes: usize,
}

impl Run {
    fn new(memory_bytes: usize) -> Run {
        let backend = format(32 << 20);
        let store = open(&backend, memory_bytes);
        Run { backend, store, model: Model::default(), fill: 0, memory_bytes }
    }

    fn apply(&mut self, step: &Step) {
        self.fill = self.fill % 250 + 1;
        let fill = self.fill;
        match *step {
            Step::Put { object, offset, len } => {
                let mut tx = self.store.begin(Need::Metadata).unwrap();
                tx.put(Key::new(object, Kind::DirEntry, offset), vec![fill; len]);
                tx.finish();
                self.model.records.insert((object, offset), vec![fill; len]);
            }
            Step::Delete { object, offset } => {
                let mut tx = self.store.begin(Need::Release).unwrap();
                tx.delete(Key::new(object, Kind::DirEntry, offset));
                tx.finish();
                self.model.records.remove(&(object, offset));
            }
            Step::Write { object, block, blocks } => {
                let mut tx = self.store.begin(Need::Data { blocks }).unwrap();
                tx.write(ObjectId(object), block, &vec![fill; blocks as usize * BLOCK_SIZE]).unwrap();
                tx.finish();
                self.model.blocks.extend((block..block + blocks).map(|block| ((object, block), fill)));
            }
            Step::Clear { object, block, blocks } => {
                let end = block.saturating_add(blocks);
                let mut tx = self.store.begin(Need::Release).unwrap();
                tx.clear(ObjectId(object), block, end).unwrap();
                tx.finish();
                self.model.blocks.retain(|at, _| at.0 != object || at.1 < block || at.1 >= end);
            }
            Step::Drop { object, hint } => {
                let mut tx = self.store.begin(Need::Release).unwrap();
                tx.drop_object(ObjectId(object), if hint { BLOCKS + 200 } else { u64::MAX });
                tx.finish();
                self.model.blocks.retain(|at, _| at.0 != object);
            }
            Step::Preallocate { object, block, blocks } => {
                let mut tx = self.store.begin(Need::Data { blocks }).unwrap();
                tx.preallocate(ObjectId(object), block, blocks).unwrap();
                tx.finish();
            }
            Step::Commit => self.store.commit().unwrap(),
            Step::Cut => self.store.cut_group().unwrap(),
            Step::Checkpoint => self.store.checkpoint().unwrap(),
            Step::Reclaim => drop(self.store.reclaim_ranges(1).unwrap()),
            Step::Close => {
                self.store.close().unwrap();
                self.store = open(&self.backend, self.memory_bytes);
            }
            Step::Crash => {
                self.store.commit().unwrap();
                self.store = open(&self.backend, self.memory_bytes);
            }
        }
    }

    fn verify(&self) {
        for object in 10..10 + OBJECTS {
            let (from, end) = (Key::new(object, Kind::DirEntry, 0), Key::new(object, Kind::DirEntry, u64::MAX));
            let got = self.store.scan(from, end, 1000).unwrap();
            let got: Vec<_> = got.into_iter().map(|(key, value)| ((object, key.offset), value)).collect();
            let want = self.model.records.range((object, 0)..(object + 1, 0));
            assert_eq!(got, want.map(|(at, value)| (*at, value.clone())).collect::<Vec<_>>());
            let mut out = vec![0xee; (BLOCKS as usize + 100) * BLOCK_SIZE];
            self.store.read_blocks(ObjectId(object), 0, &mut out).unwrap();
            for (block, bytes) in (0u64..).zip(out.chunks(BLOCK_SIZE)) {
                let want = self.model.blocks.get(&(object, block)).copied().unwrap_or(0);
                assert!(
                    bytes.iter().all(|byte| *byte == want),
                    "object {object} block {block}: {} not {want}",
                    bytes[0]
                );
            }
            let first = self.store.next_extent(ObjectId(object), 0, Extent::Data, BLOCKS + 200).unwrap();
            let want = self.model.blocks.range((object, 0)..(object + 1, 0)).next().map(|(at, _)| at.1);
            assert_eq!(first, want);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn holds_what_was_put_over_every_kind_of_reopening(
        steps in prop::collection::vec(step(), 1..120),
        small in any::<bool>(),
    ) {
        let mut run = Run::new(if small { 1 << 20 } else { 64 << 20 });
        for (index, step) in steps.iter().enumerate() {
            run.apply(step);
            if index % 10 == 0 {
                run.verify();
            }
        }
        run.verify();
        run.apply(&Step::Close);
        run.verify();
    }
}

#[test]
fn what_was_not_committed_is_gone_after_a_crash_and_the_rest_is_there() {
    let backend = format(8 << 20);
    let store = open(&backend, 8 << 20);
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.put(Key::new(5, Kind::DirEntry, 5), vec![1; 10]);
    tx.finish();
    store.commit().unwrap();
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.put(Key::new(5, Kind::DirEntry, 6), vec![2; 10]);
    tx.finish();
    drop(store);
    let store = open(&backend, 8 << 20);
    assert_eq!(store.get(Key::new(5, Kind::DirEntry, 5)).unwrap(), Some(vec![1; 10]));
    assert_eq!(store.get(Key::new(5, Kind::DirEntry, 6)).unwrap(), None);
}

#[test]
fn fill_and_empty_twenty_times_ends_with_the_space_it_began_with() {
    let backend = format(16 << 20);
    let store = open(&backend, 8 << 20);
    let mut before = None;
    for round in 0..20 {
        let mut block = 0;
        loop {
            match store.begin(Need::Data { blocks: 32 }) {
                Ok(mut tx) => {
                    tx.write(ObjectId(9), block, &vec![round; 32 * BLOCK_SIZE]).unwrap();
                    tx.finish();
                    block += 32;
                }
                Err(failure) => {
                    assert_eq!(failure, crate::error::Posix::NoSpace.into());
                    break;
                }
            }
        }
        assert!(block > 2000, "round {round}: {block} blocks fitted");
        let mut tx = store.begin(Need::Release).unwrap();
        tx.drop_object(ObjectId(9), u64::MAX);
        tx.finish();
        store.commit().unwrap();
        store.reclaim_ranges(usize::MAX).unwrap();
        store.commit().unwrap();
        for _ in 0..3 {
            store.checkpoint().unwrap();
        }
        let free = store.space().free_blocks;
        assert_eq!(*before.get_or_insert(free), free, "round {round}");
    }
}

#[test]
fn an_epoch_that_runs_out_is_followed_by_another() {
    let backend = format(16 << 20);
    let store = open(&backend, 8 << 20);
    let write = |store: &Store, round: u64| {
        let mut tx = store.begin(Need::Data { blocks: 1 }).unwrap();
        tx.write(ObjectId(9), round, &vec![round as u8; BLOCK_SIZE]).unwrap();
        tx.finish();
        store.commit().unwrap();
    };
    write(&store, 0);
    store.sealer.set_epoch_limit(100);
    (1..200).for_each(|round| write(&store, round));
    assert!(store.epoch_count() > 3);
    drop(store);
    let store = open(&backend, 8 << 20);
    let mut out = vec![0; 200 * BLOCK_SIZE];
    store.read_blocks(ObjectId(9), 0, &mut out).unwrap();
    for (round, bytes) in out.chunks(BLOCK_SIZE).enumerate() {
        assert!(bytes.iter().all(|byte| *byte == round as u8));
    }
}

fn open_with(backend: &Arc<MemoryBackend>, max_epochs: u32) -> Store {
    let mut store = open(backend, 8 << 20);
    store.limits.epochs = max_epochs;
    store
}

fn write_block(store: &Store, block: u64) -> crate::error::Result<()> {
    let mut tx = store.begin(Need::Data { blocks: 1 })?;
    tx.write(ObjectId(9), block, &vec![block as u8; BLOCK_SIZE])?;
    tx.finish();
    store.commit()
}

fn read_back(store: &Store, blocks: u64) {
    let mut out = vec![0; blocks as usize * BLOCK_SIZE];
    store.read_blocks(ObjectId(9), 0, &mut out).unwrap();
    for (block, bytes) in out.chunks(BLOCK_SIZE).enumerate() {
        assert!(bytes.iter().all(|byte| *byte == block as u8), "block {block}");
    }
}

#[test]
fn a_full_table_refuses_writes_with_its_reason_and_can_be_read() {
    let backend = format(16 << 20);
    for mount in 0..12 {
        let store = open_with(&backend, 4096);
        write_block(&store, mount).unwrap();
    }
    let full = open_with(&backend, 4096);
    full.sealer.set_max_epochs(full.epoch_count());
    let refused = write_block(&full, 12).unwrap_err();
    assert!(alloc::string::ToString::to_string(&refused).contains("table of epochs is full"), "{refused}");
    read_back(&full, 12);
    // One place is enough to make others.
    let tight = open_with(&backend, 8);
    tight.sealer.set_max_epochs(tight.epoch_count() + 1);
    write_block(&tight, 12).unwrap();
    assert!(tight.epoch_count() <= 4, "{}", tight.epoch_count());
    read_back(&tight, 13);
}

#[test]
fn counts_that_are_not_known_are_found_by_a_pass() {
    let backend = format(16 << 20);
    for mount in 0..8 {
        write_block(&open_with(&backend, 4096), mount).unwrap();
    }
    let store = open_with(&backend, 16);
    store.start_epoch().unwrap();
    for (epoch, _) in store.sealer.old_epochs().into_iter().take(6) {
        store.sealer.set_live(epoch, LIVE_UNKNOWN);
    }
    store.checkpoint().unwrap();
    let unknown = || store.sealer.epochs().iter().filter(|(_, live)| *live == LIVE_UNKNOWN).count();
    assert_eq!(unknown(), 6);
    while store.reencrypt_slice().unwrap().is_some() {}
    assert!(unknown() < 6, "those that the pass took are known");
    store.checkpoint().unwrap();
    assert!(store.epoch_count() <= 8);
    read_back(&store, 8);
}

#[test]
fn readers_of_an_older_state_keep_its_epochs() {
    let backend = format(16 << 20);
    for mount in 0..8 {
        write_block(&open_with(&backend, 4096), mount).unwrap();
    }
    let mut store = open_with(&backend, 4096);
    write_block(&store, 8).unwrap();
    store.limits.epochs = 8;
    let old = store.sealer.old_epochs();
    let (blocks, pin) = store.resolve(ObjectId(9), 0).unwrap();
    while store.reencrypt_slice().unwrap().is_some() {}
    (0..3).for_each(|_| store.checkpoint().unwrap());
    let mut out = vec![0; 8 * BLOCK_SIZE];
    store.fill(ObjectId(9), 0, &blocks[..8], &mut out).unwrap();
    drop((blocks, pin));
    store.checkpoint().unwrap();
    let left = store.sealer.epochs();
    let gone = old.iter().filter(|(epoch, _)| left.iter().all(|(other, _)| other != epoch)).count();
    assert!(gone >= 5, "{gone} of {} epochs are dropped once nobody reads with them", old.len());
    read_back(&store, 9);
}

mod commit;
mod room;
mod start;
mod work;
