//! What lies below the records: header, slots, log, nodes, bitmaps, counts, data blocks.

use super::*;
use crate::check::image::Image;
use crate::check::log;

/// The sample, closed.
pub(crate) fn closed() -> Arc<MemoryBackend> {
    let (backend, store) = sample();
    store.close().unwrap();
    backend
}

pub(crate) fn image(backend: &Arc<MemoryBackend>) -> Image {
    let on = &mut |_| {};
    Image::open(backend.clone(), &key(), &env(), &mut Report::new(on)).unwrap().unwrap()
}

/// Seals the newest checkpoint again, changed.
pub(crate) fn reseal(backend: &Arc<MemoryBackend>, change: impl FnOnce(&mut Checkpoint, &Image)) {
    let image = image(backend);
    let mut checkpoint = image.checkpoint.clone();
    change(&mut checkpoint, &image);
    let sealed = image.sealer.seal_checkpoint(&checkpoint).unwrap();
    write(backend, CHECKPOINT_SLOTS[usize::from(sealed.index)], &sealed.bytes[..]);
}

pub(crate) fn write(backend: &MemoryBackend, addr: BlockAddr, bytes: &[u8]) {
    let mut buf = backend.buffer(bytes.len());
    buf.bytes_mut().copy_from_slice(bytes);
    backend.write_at(addr.0 * BLOCK_SIZE_U64, buf).unwrap();
}

pub(crate) fn flip(backend: &MemoryBackend, addr: BlockAddr, byte: usize) {
    let mut bytes = backend.read_at(addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE).unwrap().bytes().to_vec();
    bytes[byte] ^= 1;
    write(backend, addr, &bytes);
}

/// A checkpoint that says something else than what it names is found out, and nothing more is found.
fn misstated(change: impl FnOnce(&mut Checkpoint, &Image), expected: &[&'static str]) {
    let backend = closed();
    reseal(&backend, change);
    assert_eq!(codes(&backend), expected.iter().copied().collect());
}

#[test]
fn what_a_checkpoint_says() {
    misstated(|_, _| {}, &[]);
    misstated(|checkpoint, _| checkpoint.nodes += 1, &["node-count"]);
    misstated(|checkpoint, _| checkpoint.unwritten_blocks += 1, &["unwritten"]);
    misstated(|checkpoint, _| checkpoint.inodes += 1, &["inode-count"]);
    misstated(|checkpoint, _| checkpoint.next_id = 10, &["next-id"]);
    misstated(|checkpoint, _| checkpoint.epoch_count -= 1, &["epoch-count"]);
    misstated(|checkpoint, _| checkpoint.alloc_levels += 1, &["alloc-levels"]);
    misstated(|checkpoint, _| checkpoint.previous_salt[0] ^= 1, &["slot-order"]);
    misstated(|checkpoint, _| checkpoint.accepted_headers.push([1; 32]), &["header-change-pending"]);
    misstated(|checkpoint, _| checkpoint.accepted_headers[0][0] ^= 1, &["header-not-accepted", "unmountable"]);
    misstated(|checkpoint, _| checkpoint.free_blocks += 1, &["free-blocks", "unmountable"]);
    misstated(|checkpoint, _| checkpoint.alloc_root.free_quads -= 1, &["alloc-counts"]);
}

#[test]
fn blocks_that_nothing_refers_to_and_blocks_that_are_not_allocated() {
    let backend = closed();
    let data = LARGE_BLOCKS + 3;
    reseal(&backend, |checkpoint, _| checkpoint.roots.retain(|root| root.tree == SYSTEM_TREE));
    let found = findings(&backend, false);
    let leaked: u64 =
        found.iter().map(|finding| if let Finding::Leaked { blocks, .. } = finding { *blocks } else { 0 }).sum();
    assert!(leaked > data, "{found:?}");
    assert!(found.iter().any(|finding| matches!(finding, Finding::EpochLiveHigh { .. })));
    let backend = closed();
    reseal(&backend, |checkpoint, image| {
        checkpoint.alloc_root = AllocEntry::default();
        checkpoint.free_blocks = image.geometry.free_blocks(&checkpoint.alloc_root);
    });
    let found = findings(&backend, false);
    let missing: u64 =
        found.iter().map(|finding| if let Finding::NotAllocated { blocks, .. } = finding { *blocks } else { 0 }).sum();
    assert!(missing > data, "{found:?}");
    assert!(!found.iter().any(|finding| matches!(finding, Finding::Leaked { .. } | Finding::FreeBlocks { .. })));
}

#[test]
fn blocks_that_are_referred_to_twice() {
    let backend = closed();
    reseal(&backend, |checkpoint, _| {
        let system = *checkpoint.root(SYSTEM_TREE).unwrap();
        checkpoint.roots.retain(|root| root.tree == SYSTEM_TREE);
        checkpoint.roots.push(crate::format::TreeRoot { tree: FILES_TREE, ..system });
    });
    assert!(codes(&backend).is_superset(&BTreeSet::from(["referred-twice", "incomplete"])));
}

#[test]
fn places_and_times_that_cannot_be() {
    misstated(|checkpoint, _| files_root(checkpoint).addr = BlockAddr(0), &["address", "incomplete"]);
    misstated(
        |checkpoint, image| files_root(checkpoint).addr = BlockAddr(image.geometry.total_blocks()),
        &["address", "incomplete"],
    );
    misstated(|checkpoint, _| files_root(checkpoint).epoch = EpochId(9), &["unknown-epoch", "incomplete"]);
    misstated(|checkpoint, _| files_root(checkpoint).birth = Generation(99), &["birth"]);
}

fn files_root(checkpoint: &mut Checkpoint) -> &mut crate::format::BlockRef {
    let root = checkpoint.roots.iter_mut().find(|root| root.tree == FILES_TREE).unwrap();
    root.reference.as_mut().unwrap()
}

#[test]
fn two_headers_that_differ() {
    let backend = closed();
    let bytes = backend.read_at(0, crate::format::HEADER_LEN).unwrap().bytes().to_vec();
    let (mut header, _) = key().verify_header(&RustCrypto, &bytes).unwrap();
    let replica = BlockAddr(header.total_blocks - 16);
    header.generation += 1;
    write(&backend, replica, &key().seal_header(&RustCrypto, &header).0);
    assert_eq!(codes(&backend), BTreeSet::from(["header-copies-differ"]));
}

type Outcome<T> = core::result::Result<T, BackendError>;

/// Fails to read one block.
struct Hole(Arc<MemoryBackend>, BlockAddr);

impl Backend for Hole {
    fn submit(&self, batch: Batch) -> Outcome<Ticket> {
        let bad = self.1.0 * BLOCK_SIZE_U64;
        for io in &batch {
            if let Io::Read { offset_bytes, buf } = io
                && (*offset_bytes..*offset_bytes + buf.bytes().len() as u64).contains(&bad)
            {
                let operation = BackendOperation::Read;
                return Err(BackendError { operation, offset_bytes: bad, errno: 5 });
            }
        }
        self.0.submit(batch)
    }
    fn wait(&self, ticket: Ticket) -> Outcome<Batch> {
        self.0.wait(ticket)
    }
    fn flush(&self) -> Outcome<()> {
        panic!("a check changes nothing")
    }
    fn discard(&self, _: u64, _: u64) -> Outcome<()> {
        panic!("a check changes nothing")
    }
    fn len_bytes(&self) -> Outcome<u64> {
        self.0.len_bytes()
    }
    fn grow(&self, _: u64) -> Outcome<()> {
        panic!("a check changes nothing")
    }
}

#[test]
fn what_the_host_cannot_read_is_named_and_the_rest_is_checked() {
    let backend = closed();
    let addr = image(&backend).root(FILES_TREE).unwrap().reference.addr;
    let mut found = Vec::new();
    let on = &mut |event| {
        if let Event::Finding(finding) = event {
            found.push(finding);
        }
    };
    let host = Arc::new(Hole(backend, addr));
    check(host, &key(), &CheckOptions::default(), &env(), on).unwrap();
    assert_eq!(
        found,
        [Finding::Unreadable { addr, errno: 5, loss: Some(Loss::Node { addr }) }, Finding::Incomplete {}]
    );
}

#[test]
fn counts_of_epochs() {
    for (delta, code) in [(-1, "epoch-live-low"), (1, "epoch-live-high")] {
        let backend = closed();
        reseal(&backend, |checkpoint, image| {
            let (epoch, live) = *image.sealer.epochs().last().unwrap();
            image.sealer.set_live(epoch, live.checked_add_signed(delta).unwrap());
            let (generation, log_epoch) = (checkpoint.generation, checkpoint.log_epoch);
            let sealed = image.sealer.seal_epoch_pages(generation, &BTreeSet::new(), 1, log_epoch);
            let (pages, _) = sealed.unwrap();
            write(&backend, checkpoint.epoch_pages[0].addr, &pages[0].bytes[..]);
            checkpoint.epoch_pages[0].tag = pages[0].tag;
        });
        assert_eq!(codes(&backend), BTreeSet::from([code]));
    }
}

#[test]
fn changed_bytes_are_found_where_they_are() {
    let changed = |at: &dyn Fn(&Image) -> (BlockAddr, usize), expected: &[&'static str]| {
        let backend = closed();
        let (addr, byte) = at(&image(&backend));
        flip(&backend, addr, byte);
        assert_eq!(codes(&backend), expected.iter().copied().collect());
    };
    changed(&|_| (BlockAddr(2), 100), &["header-copy"]);
    changed(&|image| (BlockAddr(image.geometry.total_blocks() - 3), 100), &["header-copy"]);
    let older = |image: &Image| CHECKPOINT_SLOTS[usize::from(1 - slot_of(image.checkpoint.generation))];
    changed(&|image| (older(image), 1000), &["slot-damaged"]);
    changed(
        &|image| (image.checkpoint.epoch_pages[0].addr, 900),
        &["epoch-page", "epoch-count", "unknown-epoch", "unmountable", "incomplete"],
    );
    changed(&|image| (image.root(FILES_TREE).unwrap().reference.addr, 40), &["node-tampered", "incomplete"]);
    changed(&|image| (image.geometry.home(1, 0, image.checkpoint.alloc_root.home), 9), &["alloc-page-tampered"]);
    changed(&|image| (some_data(image), 4000), &["data-tampered"]);
}

#[test]
fn without_scrubbing_data_blocks_are_not_read() {
    let backend = closed();
    flip(&backend, some_data(&image(&backend)), 0);
    assert_eq!(findings(&backend, false), []);
}

pub(crate) fn some_data(image: &Image) -> BlockAddr {
    let key = Key::new(LARGE, Kind::Extent, 1);
    let chunk = crate::tree::get(image, image.root(FILES_TREE), key).unwrap().unwrap();
    match Chunk::decode(&chunk).unwrap().get(3) {
        BlockState::Data(loc) => loc.addr,
        state => panic!("{state:?}"),
    }
}

#[test]
fn slots_that_are_both_gone_end_the_check() {
    let backend = closed();
    CHECKPOINT_SLOTS.iter().for_each(|addr| flip(&backend, *addr, 3));
    assert_eq!(codes(&backend), BTreeSet::from(["slot-damaged", "unmountable"]));
}

#[test]
fn a_wrong_key_is_no_finding() {
    let on = &mut |_| {};
    let failed = check(closed(), &VolumeKey::new([1; 32]), &CheckOptions::default(), &env(), on);
    assert_eq!(failed, Err(Error::WrongKey));
}

/// The sample with three more commits, and where its log starts.
pub(crate) fn logged() -> (Arc<MemoryBackend>, BlockAddr) {
    let backend = closed();
    let store = open(&backend);
    for round in 0..3 {
        let mut tx = store.begin(Need::Data { blocks: 1 }).unwrap();
        tx.write(ObjectId(MOVED_OBJECT), 5 + round, &[3; BLOCK_SIZE]).unwrap();
        tx.finish();
        store.commit().unwrap();
    }
    assert_eq!(findings(&backend, true), []);
    let image = image(&backend);
    let start = image.checkpoint.log_start;
    (backend.clone(), log::ring_addr(&image, start))
}

#[test]
fn a_flushed_group_must_be_there() {
    let (backend, first) = logged();
    flip(&backend, first, 100);
    assert_eq!(codes(&backend), BTreeSet::from(["log-broken", "unmountable"]));
}

#[test]
fn an_unconfirmed_group_without_its_data_does_not_count() {
    let (backend, first) = logged();
    // A group takes two blocks here: its records, and the sealed block behind them.
    flip(&backend, BlockAddr(first.0 + 5), 100);
    assert_eq!(findings(&backend, true), [Finding::LogDropped { groups: 1 }]);
}

#[test]
fn an_epoch_that_nothing_names_is_no_finding() {
    let (backend, _) = logged();
    let store = open(&backend);
    store.close().unwrap();
    drop(store);
    assert_eq!(findings(&backend, true), []);
    assert!(image(&backend).sealer.epochs().iter().all(|(id, _)| *id > EpochId(0)));
}
