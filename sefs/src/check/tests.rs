//! One sample volume, one damage at a time, and the codes of what the check finds.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::image::Image;
use super::*;
use crate::backend::MemoryBackend;
use crate::env::SystemClock;
use crate::format::{
    AllocEntry, BlockState, CHECKPOINT_SLOTS, Checkpoint, Chunk, DirEntryRecord, FileKind, Inode, InodeFlags, Key,
    Kind, OrphanRecord, RangeRecord, SpaceRecord, XATTR_PART_LEN, XattrHead, name_hash, name_key, xattr_key,
};
use crate::keys::slot_of;
use crate::store::{Need, StoreFormat, Tx};
use crate::suite::{OsRng, RustCrypto};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, InodeNo, ObjectId, Timestamp};

const SIZE_BYTES: u64 = 16 << 20;
/// Numbers below are in use or free for a damage; the next one to be given out is above.
const NEXT_ID: u64 = 40;
const ROOT: u64 = 1;
const DIR: u64 = 2;
const SMALL: u64 = 3;
const LARGE: u64 = 4;
const LINK: u64 = 5;
const ORPHAN: u64 = 6;
const MOVED: u64 = 7;
const MOVED_OBJECT: u64 = 20;
const DEVICE: u64 = 8;
const UNUSED: u64 = 30;
const LARGE_BLOCKS: u64 = 200;

fn env() -> Env {
    Env { suite: Arc::new(RustCrypto), rng: Arc::new(OsRng), clock: Arc::new(SystemClock) }
}

fn key() -> VolumeKey {
    VolumeKey::new([9; 32])
}

fn format() -> Arc<MemoryBackend> {
    let backend = Arc::new(MemoryBackend::new(SIZE_BYTES));
    let (label, slots) = ("check".into(), Vec::new());
    let options = StoreFormat { size_bytes: SIZE_BYTES, volume_id: [1; 16], label, slots, anchor: None };
    Store::format(&*backend, &key(), &options, &env()).unwrap();
    backend
}

fn open(backend: &Arc<MemoryBackend>) -> Store {
    let memory_bytes = 8 << 20;
    let options = StoreOptions { read_only: false, anchor: None, abandon_anchor: false, volume_id: None, memory_bytes };
    Store::open(backend.clone(), &key(), &options, &env()).unwrap()
}

/// Everything that a check finds.
fn findings(backend: &Arc<MemoryBackend>, scrub: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let options = CheckOptions { scrub, ..CheckOptions::default() };
    let on = &mut |event| {
        if let Event::Finding(finding) = event {
            found.push(finding);
        }
    };
    let summary = check(backend.clone(), &key(), &options, &env(), on).unwrap();
    assert_eq!(usize::try_from(summary.errors + summary.notes).unwrap(), found.len());
    found
}

fn codes(backend: &Arc<MemoryBackend>) -> BTreeSet<&'static str> {
    findings(backend, true).iter().map(Finding::code).collect()
}

fn inode_key(ino: u64) -> Key {
    Key::new(ino, Kind::Inode, 0)
}

fn inode(kind: FileKind, object: u64) -> Inode {
    let now = Timestamp::default();
    let is_dir = kind == FileKind::Directory;
    Inode {
        mode: kind.mode_bits() | 0o644,
        uid: 0,
        gid: 0,
        links: if is_dir { 2 } else { 1 },
        flags: InodeFlags::default(),
        size: 0,
        object: ObjectId(object),
        change: 1,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        project: 0,
        parent: InodeNo(if is_dir { ROOT } else { 0 }),
        entries: 0,
        subdirs: 0,
        extensions: Vec::new(),
    }
}

fn inline(object: u64, size: u64) -> Inode {
    Inode { flags: InodeFlags { inline: true, past_end: false }, size, ..inode(FileKind::Regular, object) }
}

fn entry_key(dir: u64, name: &[u8], discriminator: u8) -> Key {
    Key::new(dir, Kind::DirEntry, name_key(name_hash(&RustCrypto, name), discriminator))
}

fn entry(ino: u64, kind: FileKind, name: &[u8]) -> Vec<u8> {
    DirEntryRecord { ino: InodeNo(ino), kind, name: name.to_vec() }.encode()
}

fn put_entry(tx: &mut Tx<'_>, dir: u64, name: &[u8], ino: u64, kind: FileKind) {
    tx.put(entry_key(dir, name, 0), entry(ino, kind, name));
}

fn put_xattr(tx: &mut Tx<'_>, ino: u64, name: &[u8], value: &[u8], discriminator: u8) {
    let key = |part| Key::new(ino, Kind::Xattr, xattr_key(&RustCrypto, name, discriminator, part));
    let (first, rest) = value.split_at(value.len().min(XATTR_PART_LEN));
    let value_len = u32::try_from(value.len()).unwrap();
    tx.put(key(0), XattrHead { name: name.to_vec(), value_len, first: first.to_vec() }.encode());
    for (part, bytes) in (1..).zip(rest.chunks(XATTR_PART_LEN)) {
        tx.put(key(part), bytes.to_vec());
    }
}

fn summary(flags: u32, count: u32, bytes: u32) -> Vec<(u16, Vec<u8>)> {
    vec![(1, [flags, count, bytes].iter().flat_map(|field| field.to_le_bytes()).collect())]
}

fn large() -> Inode {
    let extensions = summary(0, 2, 14);
    Inode { size: LARGE_BLOCKS * BLOCK_SIZE_U64 - 100, extensions, ..inode(FileKind::Regular, LARGE) }
}

fn root() -> Inode {
    Inode { entries: 6, subdirs: 1, links: 3, ..inode(FileKind::Directory, 0) }
}

fn dir() -> Inode {
    Inode { entries: 1, ..inode(FileKind::Directory, 0) }
}

/// A volume with one of everything, open and committed.
fn sample() -> (Arc<MemoryBackend>, Store) {
    let backend = format();
    let store = open(&backend);
    while store.new_id() < NEXT_ID {}
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.put(inode_key(ROOT), root().encode());
    tx.put(inode_key(DIR), dir().encode());
    tx.put(inode_key(SMALL), Inode { links: 2, ..inline(SMALL, 5) }.encode());
    tx.put(Key::new(SMALL, Kind::Inline, 0), b"hello".to_vec());
    tx.put(inode_key(LARGE), large().encode());
    let link = Inode { mode: FileKind::Symlink.mode_bits() | 0o777, ..inline(LINK, 3) };
    tx.put(inode_key(LINK), link.encode());
    tx.put(Key::new(LINK, Kind::Inline, 0), b"a/b".to_vec());
    tx.put(inode_key(ORPHAN), Inode { links: 0, ..inline(ORPHAN, 0) }.encode());
    tx.put(Key::new(0, Kind::Orphan, ORPHAN), OrphanRecord.encode());
    let moved = Inode { size: 1 << 30, ..inode(FileKind::Regular, MOVED_OBJECT) };
    tx.put(inode_key(MOVED), moved.encode());
    tx.put(inode_key(DEVICE), Inode { rdev: 1, ..inode(FileKind::CharDevice, 0) }.encode());
    for (name, ino, kind) in [
        (&b"dir"[..], DIR, FileKind::Directory),
        (b"small", SMALL, FileKind::Regular),
        (b"large", LARGE, FileKind::Regular),
        (b"link", LINK, FileKind::Symlink),
        (b"moved", MOVED, FileKind::Regular),
        (b"device", DEVICE, FileKind::CharDevice),
    ] {
        put_entry(&mut tx, ROOT, name, ino, kind);
    }
    put_entry(&mut tx, DIR, b"again", SMALL, FileKind::Regular);
    put_xattr(&mut tx, LARGE, b"user.a", b"", 0);
    put_xattr(&mut tx, LARGE, b"user.b", &[7; 5000], 0);
    tx.count_inodes(8);
    tx.finish();
    write_large(&store, 100);
    let mut tx = store.begin(Need::Data { blocks: 3 }).unwrap();
    tx.write(ObjectId(MOVED_OBJECT), 1000, &[5; 3 * BLOCK_SIZE]).unwrap();
    tx.preallocate(ObjectId(MOVED_OBJECT), 2000, 10).unwrap();
    tx.clear(ObjectId(MOVED_OBJECT), 100_000, 200_000).unwrap();
    tx.finish();
    store.commit().unwrap();
    (backend, store)
}

/// Fills the large file; its last block ends with so many zeros.
fn write_large(store: &Store, zeros: usize) {
    let mut bytes = vec![0xaa; BLOCK_SIZE * usize::try_from(LARGE_BLOCKS).unwrap()];
    let len = bytes.len();
    bytes[len - zeros..].fill(0);
    let mut tx = store.begin(Need::Data { blocks: LARGE_BLOCKS }).unwrap();
    tx.write(ObjectId(LARGE), 0, &bytes).unwrap();
    tx.finish();
}

#[test]
fn a_sound_volume_has_no_findings_in_the_log_and_in_the_trees() {
    let fresh = format();
    assert_eq!(codes(&fresh), BTreeSet::from(["no-root"]), "nothing else is wrong with an empty store");
    let (backend, store) = sample();
    assert_eq!(findings(&backend, true), []);
    store.close().unwrap();
    drop(store);
    let options = CheckOptions { scrub: true, ..CheckOptions::default() };
    let mut stages = Vec::new();
    let on = &mut |event| match event {
        Event::Progress { what, done, total } => {
            assert!(total == 0 || done <= total);
            stages.push(what);
        }
        Event::Finding(finding) => panic!("{finding}"),
    };
    let summary = check(backend.clone(), &key(), &options, &env(), on).unwrap();
    stages.dedup();
    assert_eq!(stages, [Stage::Opening, Stage::Trees, Stage::Space, Stage::Names]);
    assert_eq!((summary.inodes, summary.data_blocks, summary.groups), (8, LARGE_BLOCKS + 3, 0));
    assert_eq!(summary.scrubbed_blocks, summary.data_blocks);
}

/// Damages records of the sample and checks them twice: as the log has them, and merged.
fn damaged(damage: impl Fn(&mut Tx<'_>), expected: &[&'static str]) {
    let (backend, store) = sample();
    let mut tx = store.begin(Need::Metadata).unwrap();
    damage(&mut tx);
    tx.finish();
    store.commit().unwrap();
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    assert_eq!(codes(&backend), expected, "in the log");
    store.close().unwrap();
    drop(store);
    assert_eq!(codes(&backend), expected, "in the trees");
}

#[test]
fn links_and_counts() {
    damaged(|tx| tx.put(inode_key(SMALL), Inode { links: 3, ..inline(SMALL, 5) }.encode()), &["link-count"]);
    damaged(|tx| tx.put(inode_key(ROOT), Inode { links: 2, ..root() }.encode()), &["link-count"]);
    damaged(|tx| tx.put(inode_key(ROOT), Inode { entries: 5, ..root() }.encode()), &["entry-count"]);
    damaged(|tx| tx.put(inode_key(ROOT), Inode { subdirs: 2, ..root() }.encode()), &["subdir-count"]);
    damaged(
        |tx| {
            tx.put(inode_key(DIR), dir().encode());
            tx.count_inodes(1);
        },
        &["inode-count"],
    );
    damaged(
        |tx| {
            tx.put(inode_key(NEXT_ID + 60), Inode { links: 0, ..inline(NEXT_ID + 60, 0) }.encode());
            tx.put(Key::new(0, Kind::Orphan, NEXT_ID + 60), OrphanRecord.encode());
            tx.count_inodes(1);
        },
        &["next-id"],
    );
}

#[test]
fn names() {
    damaged(
        |tx| tx.put(entry_key(DIR, b"again", 0), entry(UNUSED, FileKind::Regular, b"again")),
        &["dangling-entry", "link-count"],
    );
    damaged(|tx| put_entry(tx, DIR, b"again", SMALL, FileKind::Fifo), &["entry-kind"]);
    damaged(
        |tx| {
            tx.delete(entry_key(DIR, b"again", 0));
            tx.put(entry_key(DIR, b"other", 0), entry(SMALL, FileKind::Regular, b"again"));
        },
        &["entry-hash"],
    );
    damaged(
        |tx| {
            tx.put(entry_key(DIR, b"again", 5), entry(SMALL, FileKind::Regular, b"again"));
            tx.put(inode_key(DIR), Inode { entries: 2, ..dir() }.encode());
            tx.put(inode_key(SMALL), Inode { links: 3, ..inline(SMALL, 5) }.encode());
        },
        &["entry-twice"],
    );
    damaged(|tx| put_entry(tx, UNUSED, b"x", UNUSED, FileKind::Regular), &["no-inode", "dangling-entry"]);
    damaged(|tx| put_xattr(tx, UNUSED, b"user.x", b"x", 0), &["no-inode"]);
    damaged(|tx| put_entry(tx, SMALL, b"x", UNUSED, FileKind::Regular), &["not-directory", "dangling-entry"]);
}

#[test]
fn the_tree_of_directories() {
    damaged(
        |tx| tx.put(inode_key(DIR), Inode { parent: InodeNo(SMALL), ..dir() }.encode()),
        &["parent", "unreachable"],
    );
    damaged(|tx| tx.put(inode_key(ROOT), Inode { parent: InodeNo(DIR), ..root() }.encode()), &["parent"]);
    damaged(
        |tx| {
            put_entry(tx, ROOT, b"second", DIR, FileKind::Directory);
            tx.put(inode_key(ROOT), Inode { entries: 7, subdirs: 2, links: 4, ..root() }.encode());
        },
        &["directory-names"],
    );
    damaged(
        |tx| {
            // Two directories that hold each other.
            for (one, two) in [(UNUSED, UNUSED + 1), (UNUSED + 1, UNUSED)] {
                let inode = Inode { parent: InodeNo(two), entries: 1, subdirs: 1, links: 3, ..dir() };
                tx.put(inode_key(one), inode.encode());
                put_entry(tx, one, b"loop", two, FileKind::Directory);
            }
            tx.count_inodes(2);
        },
        &["unreachable"],
    );
    damaged(
        |tx| {
            tx.delete(inode_key(ROOT));
            tx.count_inodes(-1);
        },
        &["no-root", "no-inode"],
    );
}

#[test]
fn orphans() {
    damaged(|tx| tx.delete(Key::new(0, Kind::Orphan, ORPHAN)), &["orphan-unrecorded"]);
    damaged(|tx| tx.put(Key::new(0, Kind::Orphan, SMALL), OrphanRecord.encode()), &["orphan-linked"]);
    damaged(|tx| tx.put(Key::new(0, Kind::Orphan, UNUSED), OrphanRecord.encode()), &["orphan-missing"]);
}

#[test]
fn attributes() {
    let key = |name: &[u8], part| Key::new(LARGE, Kind::Xattr, xattr_key(&RustCrypto, name, 0, part));
    damaged(|tx| tx.delete(key(b"user.b", 2)), &["xattr-parts"]);
    damaged(|tx| tx.delete(key(b"user.b", 1)), &["xattr-parts"]);
    damaged(|tx| tx.put(key(b"user.b", 3), vec![1]), &["xattr-parts"]);
    damaged(|tx| tx.put(key(b"user.a", 1), vec![1]), &["xattr-parts"]);
    damaged(|tx| tx.put(key(b"user.b", 1), vec![7; 10]), &["xattr-parts"]);
    damaged(
        |tx| tx.put(inode_key(LARGE), Inode { extensions: summary(0, 1, 14), ..large() }.encode()),
        &["xattr-summary"],
    );
    damaged(|tx| tx.put(inode_key(LARGE), Inode { extensions: Vec::new(), ..large() }.encode()), &["xattr-summary"]);
    damaged(
        |tx| {
            put_xattr(tx, LARGE, b"user.a", b"", 1);
            tx.put(inode_key(LARGE), Inode { extensions: summary(0, 3, 21), ..large() }.encode());
        },
        &["xattr-twice"],
    );
    damaged(
        |tx| {
            let head = XattrHead { name: b"user.c".to_vec(), value_len: 0, first: Vec::new() };
            tx.put(key(b"user.a", 0), head.encode());
        },
        &["xattr-hash"],
    );
}

#[test]
fn content() {
    damaged(|tx| tx.put(Key::new(UNUSED, Kind::Inline, 0), vec![1]), &["no-owner"]);
    damaged(|tx| tx.put(inode_key(DIR), Inode { object: ObjectId(UNUSED), ..dir() }.encode()), &["owns-content"]);
    damaged(|tx| tx.put(inode_key(SMALL), Inode { links: 2, ..inline(SMALL, 6) }.encode()), &["inline-length"]);
    damaged(|tx| tx.delete(Key::new(SMALL, Kind::Inline, 0)), &["inline-length"]);
    damaged(
        |tx| {
            let flags = InodeFlags { inline: true, past_end: false };
            tx.put(inode_key(LARGE), Inode { flags, ..large() }.encode());
        },
        &["inline-and-chunks", "inline-length"],
    );
    damaged(|tx| tx.put(Key::new(LARGE, Kind::Inline, 0), vec![1]), &["inline-and-chunks"]);
    damaged(|tx| tx.put(inode_key(LARGE), Inode { size: 10 * BLOCK_SIZE_U64, ..large() }.encode()), &["past-end"]);
    damaged(
        |tx| {
            let second = Inode { links: 0, size: 1 << 30, ..inode(FileKind::Regular, MOVED_OBJECT) };
            tx.put(inode_key(UNUSED - 20), second.encode());
            tx.put(Key::new(0, Kind::Orphan, UNUSED - 20), OrphanRecord.encode());
            tx.count_inodes(1);
        },
        &["two-owners"],
    );
    damaged(|tx| tx.put(inode_key(LARGE), Inode { size: large().size - 1, ..large() }.encode()), &["tail-not-zero"]);
}

#[test]
fn records() {
    damaged(|tx| tx.put(Key::new(SMALL, Kind::Inline, 5), vec![1]), &["record-misplaced"]);
    damaged(|tx| tx.put(Key::new(0, Kind::DirEntry, 5), vec![1]), &["record-misplaced"]);
    damaged(|tx| tx.put(Key::new(0, Kind::Job, 5), vec![1]), &["record-corrupt"]);
    damaged(|tx| tx.put(entry_key(DIR, b"again", 0), vec![1]), &["record-corrupt", "link-count"]);
    let range = RangeRecord { object: ObjectId(NEXT_ID + 60), first_chunk: 3, end_chunk: 9 };
    damaged(|tx| tx.put(Key::new(0, Kind::Range, UNUSED), range.encode()), &["next-id"]);
}

#[test]
fn space_records_are_the_mergers_alone() {
    let (backend, store) = sample();
    store.close().unwrap();
    drop(store);
    let store = open(&backend);
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.put(Key::new(LARGE, Kind::Space, 0), SpaceRecord { data_blocks: 5 }.encode());
    tx.finish();
    store.commit().unwrap();
    assert_eq!(codes(&backend), BTreeSet::from(["log-record"]));
    store.close().unwrap();
    drop(store);
    assert_eq!(codes(&backend), BTreeSet::from(["space"]));
}

/// The sample, closed.
fn closed() -> Arc<MemoryBackend> {
    let (backend, store) = sample();
    store.close().unwrap();
    backend
}

fn image(backend: &Arc<MemoryBackend>) -> Image {
    let on = &mut |_| {};
    Image::open(backend.clone(), &key(), &env(), &mut Report::new(on)).unwrap().unwrap()
}

/// Seals the newest checkpoint again, changed.
fn reseal(backend: &Arc<MemoryBackend>, change: impl FnOnce(&mut Checkpoint, &Image)) {
    let image = image(backend);
    let mut checkpoint = image.checkpoint.clone();
    change(&mut checkpoint, &image);
    let sealed = image.sealer.seal_checkpoint(&checkpoint).unwrap();
    write(backend, CHECKPOINT_SLOTS[usize::from(sealed.index)], &sealed.bytes[..]);
}

fn write(backend: &MemoryBackend, addr: BlockAddr, bytes: &[u8]) {
    let mut buf = backend.buffer(bytes.len());
    buf.bytes_mut().copy_from_slice(bytes);
    backend.write_at(addr.0 * BLOCK_SIZE_U64, buf).unwrap();
}

fn flip(backend: &MemoryBackend, addr: BlockAddr, byte: usize) {
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
    let data = u64::try_from(LARGE_BLOCKS).unwrap() + 3;
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
fn counts_of_epochs() {
    for (delta, code) in [(-1, "epoch-live-low"), (1, "epoch-live-high")] {
        let backend = closed();
        reseal(&backend, |checkpoint, image| {
            let (epoch, live) = *image.sealer.epochs().last().unwrap();
            image.sealer.set_live(epoch, live.checked_add_signed(delta).unwrap());
            let pages = image.sealer.seal_epoch_pages().unwrap();
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

fn some_data(image: &Image) -> BlockAddr {
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
fn logged() -> (Arc<MemoryBackend>, BlockAddr) {
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

/// What a file of the random volume may see.
#[derive(Clone, Debug)]
enum Step {
    Write { file: u64, block: u64, blocks: u64 },
    Clear { file: u64, block: u64, blocks: u64 },
    Preallocate { file: u64, block: u64, blocks: u64 },
    Truncate { file: u64 },
    Commit,
    Work,
    Crash,
    Close,
}

fn any_step() -> impl Strategy<Value = Step> {
    let (file, block) = (0..4_u64, 0..3_000_u64);
    prop_oneof![
        8 => (file.clone(), block.clone(), 1..60_u64).prop_map(|(file, block, blocks)| Step::Write { file, block, blocks }),
        3 => (file.clone(), block.clone(), 1..2_500_u64)
            .prop_map(|(file, block, blocks)| Step::Clear { file, block, blocks }),
        1 => (file.clone(), block, 1..100_u64)
            .prop_map(|(file, block, blocks)| Step::Preallocate { file, block, blocks }),
        1 => file.prop_map(|file| Step::Truncate { file }),
        3 => Just(Step::Commit),
        2 => Just(Step::Work),
        2 => Just(Step::Crash),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened, and wherever it was cut off.
    #[test]
    fn random_volumes_have_no_findings(steps in prop::collection::vec(any_step(), 1..80)) {
        let (backend, mut store) = sample();
        let mut tx = store.begin(Need::Metadata).unwrap();
        for file in 0..4 {
            let size = 4_000 * BLOCK_SIZE_U64;
            let file = Inode { links: 0, size, ..inode(FileKind::Regular, UNUSED + file) };
            tx.put(inode_key(file.object.0), file.encode());
            tx.put(Key::new(0, Kind::Orphan, file.object.0), OrphanRecord.encode());
        }
        tx.count_inodes(4);
        tx.finish();
        store.commit().unwrap();
        for step in steps {
            let begin = |need| store.begin(need).unwrap();
            match step {
                Step::Write { file, block, blocks } => {
                    let Ok(mut tx) = store.begin(Need::Data { blocks }) else { continue };
                    let bytes = vec![1; usize::try_from(blocks).unwrap() * BLOCK_SIZE];
                    tx.write(ObjectId(UNUSED + file), block, &bytes).unwrap();
                    tx.finish();
                }
                Step::Clear { file, block, blocks } => {
                    let mut tx = begin(Need::Release);
                    tx.clear(ObjectId(UNUSED + file), block, block + blocks).unwrap();
                    tx.finish();
                }
                Step::Preallocate { file, block, blocks } => {
                    let Ok(mut tx) = store.begin(Need::Data { blocks }) else { continue };
                    tx.preallocate(ObjectId(UNUSED + file), block, blocks).unwrap();
                    tx.finish();
                }
                Step::Truncate { file } => {
                    let mut tx = begin(Need::Release);
                    tx.clear(ObjectId(UNUSED + file), 0, u64::MAX).unwrap();
                    tx.finish();
                }
                Step::Commit => store.commit().unwrap(),
                Step::Work => drop(store.work(0).unwrap()),
                Step::Crash => {
                    drop(store);
                    prop_assert_eq!(findings(&backend, true), []);
                    store = open(&backend);
                }
                Step::Close => {
                    store.close().unwrap();
                    prop_assert_eq!(findings(&backend, true), []);
                    store = open(&backend);
                }
            }
        }
        store.commit().unwrap();
        prop_assert_eq!(findings(&backend, true), []);
    }
}
