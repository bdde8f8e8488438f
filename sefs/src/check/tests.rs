//! One sample volume, one damage at a time, and the codes of what the check finds.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

mod random;
pub(crate) mod records;
pub(crate) mod stored;
mod volumes;

use super::*;
use crate::backend::{BackendError, BackendOperation, Batch, Io, MemoryBackend, Ticket};
use crate::env::SystemClock;
use crate::format::{
    AllocEntry, BlockState, CHECKPOINT_SLOTS, Checkpoint, Chunk, DirEntryRecord, FileKind, Inode, InodeFlags, Key,
    Kind, OrphanRecord, RangeRecord, SpaceRecord, XATTR_PART_LEN, XattrHead, name_hash, name_key, xattr_key,
};
use crate::keys::slot_of;
use crate::store::{Need, StoreFormat, Tx};
use crate::suite::{OsRng, RustCrypto};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, InodeNo, ObjectId, Timestamp};
use crate::workers::NoWorkers;

pub(crate) const SIZE_BYTES: u64 = 16 << 20;
/// Numbers below are in use or free for a damage; the next one to be given out is above.
pub(crate) const NEXT_ID: u64 = 40;
pub(crate) const ROOT: u64 = 1;
pub(crate) const DIR: u64 = 2;
pub(crate) const SMALL: u64 = 3;
pub(crate) const LARGE: u64 = 4;
pub(crate) const LINK: u64 = 5;
pub(crate) const ORPHAN: u64 = 6;
pub(crate) const MOVED: u64 = 7;
pub(crate) const MOVED_OBJECT: u64 = 20;
pub(crate) const DEVICE: u64 = 8;
pub(crate) const UNUSED: u64 = 30;
pub(crate) const LARGE_BLOCKS: u64 = 200;

pub(crate) fn env() -> Env {
    Env { suite: Arc::new(RustCrypto), rng: Arc::new(OsRng), clock: Arc::new(SystemClock) }
}

pub(crate) fn key() -> VolumeKey {
    VolumeKey::new([9; 32])
}

pub(crate) fn format() -> Arc<MemoryBackend> {
    let backend = Arc::new(MemoryBackend::new(SIZE_BYTES));
    let (label, slots) = ("check".into(), Vec::new());
    let options =
        StoreFormat { size_bytes: SIZE_BYTES, volume_id: [1; 16], label, slots, anchor: None, layered: false };
    Store::format(&*backend, &key(), &options, &env()).unwrap();
    backend
}

pub(crate) fn open(backend: &Arc<MemoryBackend>) -> Store {
    let memory_bytes = 8 << 20;
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

/// Everything that a check finds.
pub(crate) fn findings(backend: &Arc<MemoryBackend>, scrub: bool) -> Vec<Finding> {
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

pub(crate) fn codes(backend: &Arc<MemoryBackend>) -> BTreeSet<&'static str> {
    findings(backend, true).iter().map(Finding::code).collect()
}

pub(crate) fn inode_key(ino: u64) -> Key {
    Key::new(ino, Kind::Inode, 0)
}

pub(crate) fn inode(kind: FileKind, object: u64) -> Inode {
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

pub(crate) fn inline(object: u64, size: u64) -> Inode {
    Inode { flags: InodeFlags { inline: true, past_end: false }, size, ..inode(FileKind::Regular, object) }
}

pub(crate) fn entry_key(dir: u64, name: &[u8], discriminator: u8) -> Key {
    Key::new(dir, Kind::DirEntry, name_key(name_hash(&RustCrypto, name), discriminator))
}

pub(crate) fn entry(ino: u64, kind: FileKind, name: &[u8]) -> Vec<u8> {
    DirEntryRecord { ino: InodeNo(ino), kind, name: name.to_vec() }.encode()
}

pub(crate) fn put_entry(tx: &mut Tx<'_>, dir: u64, name: &[u8], ino: u64, kind: FileKind) {
    tx.put(entry_key(dir, name, 0), entry(ino, kind, name));
}

pub(crate) fn put_xattr(tx: &mut Tx<'_>, ino: u64, name: &[u8], value: &[u8], discriminator: u8) {
    let key = |part| Key::new(ino, Kind::Xattr, xattr_key(&RustCrypto, name, discriminator, part));
    let (first, rest) = value.split_at(value.len().min(XATTR_PART_LEN));
    let value_len = u32::try_from(value.len()).unwrap();
    tx.put(key(0), XattrHead { name: name.to_vec(), value_len, first: first.to_vec() }.encode());
    for (part, bytes) in (1..).zip(rest.chunks(XATTR_PART_LEN)) {
        tx.put(key(part), bytes.to_vec());
    }
}

pub(crate) fn summary(flags: u32, count: u32, bytes: u32) -> Vec<(u16, Vec<u8>)> {
    vec![(1, [flags, count, bytes].iter().flat_map(|field| field.to_le_bytes()).collect())]
}

pub(crate) fn large() -> Inode {
    let extensions = summary(0, 2, 14);
    Inode { size: LARGE_BLOCKS * BLOCK_SIZE_U64 - 100, extensions, ..inode(FileKind::Regular, LARGE) }
}

pub(crate) fn root() -> Inode {
    Inode { entries: 6, subdirs: 1, links: 3, ..inode(FileKind::Directory, 0) }
}

pub(crate) fn dir() -> Inode {
    Inode { entries: 1, ..inode(FileKind::Directory, 0) }
}

/// A volume with one of everything, open and committed.
pub(crate) fn sample() -> (Arc<MemoryBackend>, Store) {
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
pub(crate) fn write_large(store: &Store, zeros: usize) {
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
