//! A volume takes the memory that its owner budgets, and not much more.

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use sefs::backend::FileBackend;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, Volume, WriteMode};
use sefs_tests::seed::Dice;
use sefs_tests::world::{World, format_options};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const BUDGET_BYTES: usize = 4 << 20;
/// What is no cache: the operation under way, its buffers, a checkpoint's part of the tree.
const BESIDE_BYTES: usize = 3 << 20;
const SIZE_BYTES: u64 = 256 << 20;

/// More than the bound is an allocation that fails, which ends the process.
fn bounded<T>(run: impl FnOnce() -> T) -> T {
    MEMORY.set_limit(MEMORY.allocated() + BUDGET_BYTES + BESIDE_BYTES).unwrap();
    let result = run();
    MEMORY.set_limit(usize::MAX).unwrap();
    result
}

fn make(volume: &Volume, dir: InodeNo, name: &str, kind: FileKind) -> InodeNo {
    let new = NewInode { kind, mode: 0o755, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), dir, name.as_bytes(), &new).unwrap().ino
}

/// 5,000 files in 50 directories, 64 MiB in one file, and work in between.
fn fill(volume: &Volume) {
    let root = Caller::root();
    for dir in 0..50 {
        let dir = make(volume, InodeNo::ROOT, &format!("dir {dir}"), FileKind::Directory);
        for file in 0..100 {
            let ino = make(volume, dir, &format!("file {file}"), FileKind::Regular);
            volume.write(&root, ino, 0, &[7; 3000], WriteMode::Direct).unwrap();
        }
        volume.work(false).unwrap();
    }
    let big = make(volume, InodeNo::ROOT, "big", FileKind::Regular);
    let piece = vec![3; 256 << 10];
    for number in 0..256 {
        volume.write(&root, big, number * piece.len() as u64, &piece, WriteMode::Direct).unwrap();
        volume.work(false).unwrap();
    }
    volume.sync().unwrap();
}

/// Everything is looked at, big blocks and small ones, and some of it changed.
fn use_it(volume: &Volume) {
    let root = Caller::root();
    let big = volume.lookup(&root, InodeNo::ROOT, b"big").unwrap().ino;
    let mut dice = Dice::new(7);
    let mut buf = vec![0; 128 << 10];
    for number in 0..512u64 {
        assert_eq!(volume.read(big, number * buf.len() as u64, &mut buf).unwrap(), buf.len());
    }
    for _ in 0..5000 {
        let offset = dice.below(16_384) * 4096;
        volume.write(&root, big, offset, &buf[..4096], WriteMode::Direct).unwrap();
        assert_eq!(volume.read(big, dice.below(16_384) * 4096, &mut buf[..4096]).unwrap(), 4096);
    }
    for dir in volume.read_dir(InodeNo::ROOT, 0, 1000).unwrap() {
        if dir.kind == FileKind::Directory && !dir.name.starts_with(b".") {
            for entry in volume.read_dir(dir.ino, 0, 1000).unwrap() {
                volume.attr(entry.ino).unwrap();
            }
        }
    }
}

#[test]
fn four_mebibytes_of_caches_are_enough_and_are_kept_to() {
    let world = World::new(1);
    let folder = tempfile::tempdir().unwrap();
    let file = FileBackend::create(&folder.path().join("image"), SIZE_BYTES).unwrap();
    let backend = Arc::new(file);
    world.format_on(backend.clone(), &format_options(SIZE_BYTES)).unwrap();
    let options = OpenOptions { memory_bytes: BUDGET_BYTES, ..OpenOptions::default() };
    bounded(|| {
        let volume = world.open(backend.clone(), &options).unwrap();
        fill(&volume);
        volume.close().unwrap();
    });
    bounded(|| {
        let volume = world.open(backend, &options).unwrap();
        use_it(&volume);
        volume.close().unwrap();
    });
}
