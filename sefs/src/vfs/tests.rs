//! The room as a whole, over a store in memory.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::inode::{Edit, inode_key};
use super::make::{inline_key, orphan_key};
use super::remove::put_or_drop;
use super::*;
use crate::backend::MemoryBackend;
use crate::env::SystemClock;
use crate::error::{Corrupt, Error, Posix, Result};
use crate::format::{Inode, Key, Kind};
use crate::keys::VolumeKey;
use crate::store::Need;
use crate::suite::{OsRng, RustCrypto};
use crate::types::{InodeNo, ObjectId};

mod buffers;
mod content;
mod names;
mod schedules;

const ROOT: InodeNo = InodeNo::ROOT;

fn env() -> Env {
    Env { suite: Arc::new(RustCrypto), rng: Arc::new(OsRng), clock: Arc::new(SystemClock) }
}

fn key() -> VolumeKey {
    VolumeKey::new([9; 32])
}

fn formatted() -> Arc<MemoryBackend> {
    let backend = Arc::new(MemoryBackend::new(16 << 20));
    let options = FormatOptions {
        size_bytes: 16 << 20,
        volume_id: [5; 16],
        label: String::from("test"),
        slots: Vec::new(),
        anchor: None,
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    Volume::format(backend.clone(), &key(), &options, &env()).unwrap();
    backend
}

fn opened(backend: &Arc<MemoryBackend>) -> Volume {
    Volume::open(backend.clone(), &key(), &OpenOptions::default(), &env()).unwrap()
}

fn volume() -> Volume {
    opened(&formatted())
}

fn root() -> Caller {
    Caller::root()
}

fn new(kind: FileKind, mode: u32) -> NewInode {
    NewInode { kind, mode, rdev: 0, target: Vec::new() }
}

fn file(volume: &Volume, name: &str) -> InodeNo {
    volume.make(&root(), ROOT, name.as_bytes(), &new(FileKind::Regular, 0o644)).unwrap().ino
}

fn dir_in(volume: &Volume, dir: InodeNo, name: &str) -> InodeNo {
    volume.make(&root(), dir, name.as_bytes(), &new(FileKind::Directory, 0o755)).unwrap().ino
}

fn put(volume: &Volume, ino: InodeNo, offset: u64, data: &[u8]) {
    assert_eq!(volume.write(&root(), ino, offset, data, WriteMode::Direct), Ok(data.len()));
}

fn contents(volume: &Volume, ino: InodeNo) -> Vec<u8> {
    let mut out = alloc::vec![0xaa; usize::try_from(volume.attr(ino).unwrap().size).unwrap()];
    assert_eq!(volume.read(ino, 0, &mut out), Ok(out.len()));
    out
}

fn stored(volume: &Volume, ino: InodeNo) -> Inode {
    inode::read_inode(&volume.store, ino).unwrap()
}

/// Puts records past this room, as a hostile holder of the key could.
fn forge(volume: &Volume, records: Vec<(Key, Option<Vec<u8>>)>) {
    let mut tx = volume.store.begin(Need::Metadata).unwrap();
    for (key, value) in records {
        match value {
            Some(value) => tx.put(key, value),
            None => tx.delete(key),
        }
    }
    tx.finish();
}

fn posix<T: core::fmt::Debug>(outcome: Result<T>) -> Posix {
    match outcome {
        Err(Error::Posix(refusal)) => refusal,
        other => panic!("{other:?} is no POSIX refusal"),
    }
}

fn corrupt<T: core::fmt::Debug>(outcome: Result<T>) -> Corrupt {
    match outcome {
        Err(Error::Corrupt(what)) => what,
        other => panic!("{other:?} is not a corruption"),
    }
}

#[test]
fn a_volume_serves_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Volume>();
}

/// Authentic records that contradict each other are told from what is merely not there.
#[test]
fn what_is_missing_is_not_not_found() {
    let volume = volume();
    let ino = file(&volume, "f");
    put(&volume, ino, 0, b"content");
    volume.set_xattr(&root(), ino, b"user.long", &[1; 5000], XattrMode::Any).unwrap();
    let object = stored(&volume, ino).object;
    let part = volume.store.scan(Key::new(ino.0, Kind::Xattr, 0), Key::new(ino.0, Kind::Inline, 0), 10).unwrap()[1].0;
    forge(&volume, alloc::vec![(inline_key(object), None), (part, None)]);
    assert!(matches!(corrupt(volume.read(ino, 0, &mut [0; 7])), Corrupt::Record { kind: 4, .. }));
    assert!(matches!(corrupt(volume.get_xattr(&root(), ino, b"user.long")), Corrupt::Record { kind: 3, .. }));
    forge(&volume, alloc::vec![(inode_key(ino), None)]);
    let dangling = Corrupt::DanglingEntry { dir: ROOT, ino };
    assert_eq!(corrupt(volume.lookup(&root(), ROOT, b"f")), dangling);
    assert_eq!(corrupt(volume.unlink(&root(), ROOT, b"f")), dangling);
    assert_eq!(corrupt(volume.rename(&root(), ROOT, b"f", ROOT, b"g", RenameMode::Replace)), dangling);
}

/// No record of whatever content makes an operation panic or run for ever.
#[test]
fn hostile_inodes_are_refused() {
    let volume = volume();
    let (ino, a) = (file(&volume, "f"), dir_in(&volume, ROOT, "a"));
    let b = dir_in(&volume, a, "b");
    let with = |ino: InodeNo, change: &dyn Fn(&mut Inode)| {
        let mut inode = stored(&volume, ino);
        change(&mut inode);
        forge(&volume, alloc::vec![(inode_key(ino), Some(inode.encode()))]);
    };
    // The directories are their own ancestors: the walk up must end.
    with(a, &|inode| inode.parent = b);
    dir_in(&volume, ROOT, "moved");
    let moved = volume.rename(&root(), ROOT, b"moved", b, b"moved", RenameMode::Replace);
    assert!(matches!(corrupt(moved), Corrupt::Record { kind: 1, .. }));
    // A record full of extensions has no room for what is known of attributes.
    with(ino, &|inode| inode.extensions = alloc::vec![(9, alloc::vec![0; 4164])]);
    assert_eq!(posix(volume.set_xattr(&root(), ino, b"user.a", b"1", XattrMode::Any)), Posix::NoSpace);
    // Inline content longer than a block.
    with(ino, &|inode| inode.size = 4352);
    forge(&volume, alloc::vec![(inline_key(ObjectId(ino.0)), Some(alloc::vec![1; 4352]))]);
    assert!(matches!(corrupt(volume.write(&root(), ino, 5000, b"x", WriteMode::Direct)), Corrupt::Record { .. }));
    // A summary that is too short, and counts that are lower than what goes.
    with(ino, &|inode| inode.extensions = alloc::vec![(1, alloc::vec![1])]);
    assert!(volume.set_attr(&root(), ino, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).is_err());
    with(ROOT, &|inode| (inode.entries, inode.subdirs, inode.links) = (0, 0, 1));
    assert_eq!(volume.unlink(&root(), ROOT, b"f"), Ok(()));
    assert_eq!(volume.attr(ROOT).unwrap().size, 0);
}

#[test]
fn an_orphan_lives_as_long_as_it_is_acquired_and_opening_reclaims_nothing() {
    let backend = formatted();
    let volume = opened(&backend);
    let inodes = volume.store.space().inodes;
    let ino = file(&volume, "f");
    put(&volume, ino, 0, &[7; 100_000]);
    for number in 0..200 {
        let name = alloc::format!("user.{number}");
        volume.set_xattr(&root(), ino, name.as_bytes(), b"value", XattrMode::Any).unwrap();
    }
    volume.acquire(ino).unwrap();
    volume.unlink(&root(), ROOT, b"f").unwrap();
    volume.work(true).unwrap();
    assert_eq!(contents(&volume, ino), [7; 100_000]);
    assert_eq!(posix(volume.link(&root(), ino, ROOT, b"again")), Posix::NotFound);
    volume.sync().unwrap();
    drop(volume);
    let volume = opened(&backend);
    assert!(volume.store.get(orphan_key(ino)).unwrap().is_some(), "opening leaves orphans alone");
    assert_eq!(posix(volume.attr(ino)), Posix::Stale);
    assert_eq!(posix(volume.acquire(ino)), Posix::Stale);
    volume.work(true).unwrap();
    assert_eq!(volume.store.get(orphan_key(ino)).unwrap(), None);
    assert_eq!(volume.store.space().inodes, inodes);
    let (from, end) = (Key::new(ino.0, Kind::Inode, 0), Key::new(ino.0, Kind::Extent, 0));
    assert_eq!(volume.store.scan(from, end, 10).unwrap(), [], "nothing of it is left");
}

/// The last link and the last user go at once; whoever is second has to notice.
#[test]
fn unlinking_and_releasing_at_once_leaves_nothing() {
    let volume = volume();
    let inodes = volume.store.space().inodes;
    for _ in 0..300 {
        let ino = file(&volume, "f");
        volume.acquire(ino).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| volume.release(ino, 1));
            scope.spawn(|| volume.unlink(&root(), ROOT, b"f").unwrap());
        });
        volume.work(true).unwrap();
        assert_eq!(volume.store.space().inodes, inodes);
        assert_eq!(volume.inodes.len(), 0, "no place is kept for what nobody uses");
    }
}

/// The same, one step after the other: the user goes between the decision to keep an orphan and its becoming visible.
#[test]
fn a_release_amid_an_unlink_is_noticed() {
    let volume = volume();
    let ino = file(&volume, "f");
    volume.acquire(ino).unwrap();
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let unlinked = Inode { links: 0, ..stored(&volume, ino) };
    let mut edit = Edit::begin(&volume.store, Need::Release, &locked).unwrap();
    put_or_drop(&mut edit, &locked, ino, unlinked).unwrap();
    assert!(!volume.inodes.release(ino, 1), "it still has a link for all that can be seen");
    assert!(edit.finish_unlink());
}

#[test]
fn a_file_without_a_name_is_linked_once_or_vanishes() {
    let volume = volume();
    let inodes = volume.store.space().inodes;
    let make = || volume.make_tmpfile(&root(), ROOT, &new(FileKind::Regular, 0o600)).unwrap().ino;
    let (named, lost) = (make(), make());
    assert_eq!(volume.link(&root(), named, ROOT, b"f").unwrap().links, 1);
    volume.unlink(&root(), ROOT, b"f").unwrap();
    assert_eq!(posix(volume.link(&root(), named, ROOT, b"f")), Posix::NotFound, "it had a name and lost it");
    for ino in [named, lost] {
        volume.release(ino, 1);
    }
    volume.work(true).unwrap();
    assert_eq!(volume.store.space().inodes, inodes);
}

/// An inode that cannot be reclaimed keeps nothing else from being made durable.
#[test]
fn closing_commits_whatever_else_goes_wrong() {
    let backend = formatted();
    let volume = opened(&backend);
    forge(&volume, alloc::vec![(orphan_key(InodeNo(99)), Some(crate::format::OrphanRecord.encode()))]);
    let ino = file(&volume, "f");
    put(&volume, ino, 0, &[7; 5000]);
    volume.orphans.expect_some();
    assert_eq!(corrupt(volume.close()), Corrupt::MissingInode(InodeNo(99)));
    assert_eq!(contents(&opened(&backend), ino), [7; 5000]);
}
