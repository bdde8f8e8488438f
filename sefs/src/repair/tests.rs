//! Each kind of damage: left alone, or put right and nothing else; and a repair that is cut off anywhere.

mod crash;
mod volumes;

use alloc::sync::Arc;
use alloc::vec;

use super::*;
use crate::backend::MemoryBackend;
use crate::check::tests::stored::{closed, flip, image, logged, reseal, some_data};
use crate::check::tests::*;
use crate::error::{Error, RolledBack};
use crate::format::{AllocEntry, Checkpoint, FileKind, Inode, Key, Kind, OrphanRecord, SYSTEM_TREE, SpaceRecord};
use crate::store::{Need, Tx};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr};
use crate::vfs::{OpenOptions, Volume};

/// Repairs and returns what came of it.
fn run(backend: &Arc<MemoryBackend>, accepted: &[Loss]) -> Outcome {
    repair(backend.clone(), &key(), &CheckOptions::default(), accepted, &env(), &mut |_, _, _| {}).unwrap()
}

fn bytes(backend: &MemoryBackend) -> Vec<u8> {
    backend.read_at(0, usize::try_from(SIZE_BYTES).unwrap()).unwrap().bytes().to_vec()
}

/// The repair finds something to do, and a check that reads everything finds nothing afterwards.
fn becomes_clean(backend: &Arc<MemoryBackend>, accepted: &[Loss]) -> Vec<Fix> {
    let Outcome::Repaired(fixes) = run(backend, accepted) else { panic!("{:?}", run(backend, accepted)) };
    assert_eq!(findings(backend, true), [], "after {fixes:?}");
    // It can be written as any volume.
    let volume = Volume::open(backend.clone(), &key(), &OpenOptions::default(), &env()).unwrap();
    volume.close().unwrap();
    assert_eq!(findings(backend, true), []);
    fixes
}

fn left_alone(backend: &Arc<MemoryBackend>, accepted: &[Loss]) -> Refusal {
    let before = bytes(backend);
    let Outcome::Refused(refusal) = run(backend, accepted) else { panic!("repaired") };
    assert!(bytes(backend) == before, "something was written");
    refusal
}

/// Damages records of the sample, and repairs them where the log has them, and merged.
fn records_put_right(damage: impl Fn(&mut Tx<'_>), code: &str) {
    for merged in [false, true] {
        let (backend, store) = sample();
        let mut tx = store.begin(Need::Metadata).unwrap();
        damage(&mut tx);
        tx.finish();
        store.commit().unwrap();
        if merged {
            store.close().unwrap();
        }
        drop(store);
        assert!(codes(&backend).contains(code));
        let fixes = becomes_clean(&backend, &[]);
        assert!(fixes.iter().any(|fix| fix.code() == code), "{fixes:?}");
        assert!(!fixes.iter().any(Fix::is_loss), "{fixes:?}");
    }
}

#[test]
fn counts_of_records_are_put_right_without_loss() {
    records_put_right(|tx| tx.put(inode_key(SMALL), Inode { links: 3, ..inline(SMALL, 5) }.encode()), "link-count");
    records_put_right(|tx| tx.put(inode_key(ROOT), Inode { links: 2, ..root() }.encode()), "link-count");
    records_put_right(|tx| tx.put(inode_key(ROOT), Inode { entries: 5, ..root() }.encode()), "entry-count");
    records_put_right(|tx| tx.put(inode_key(ROOT), Inode { subdirs: 2, ..root() }.encode()), "subdir-count");
    records_put_right(
        |tx| {
            tx.put(inode_key(DIR), dir().encode());
            tx.count_inodes(1);
        },
        "inode-count",
    );
    records_put_right(
        |tx| {
            let ino = NEXT_ID + 60;
            tx.put(inode_key(ino), Inode { links: 0, ..inline(ino, 0) }.encode());
            tx.put(Key::new(0, Kind::Orphan, ino), OrphanRecord.encode());
            tx.count_inodes(1);
        },
        "next-id",
    );
    records_put_right(|tx| tx.delete(Key::new(0, Kind::Orphan, ORPHAN)), "orphan-unrecorded");
    records_put_right(|tx| tx.put(Key::new(0, Kind::Orphan, SMALL), OrphanRecord.encode()), "orphan-linked");
    records_put_right(|tx| tx.put(Key::new(0, Kind::Orphan, UNUSED), OrphanRecord.encode()), "orphan-missing");
    records_put_right(
        |tx| tx.put(inode_key(LARGE), Inode { extensions: summary(0, 1, 14), ..large() }.encode()),
        "xattr-summary",
    );
    records_put_right(
        |tx| tx.put(inode_key(ROOT), Inode { parent: crate::types::InodeNo(DIR), ..root() }.encode()),
        "parent",
    );
}

#[test]
fn what_no_directory_names_is_found_in_lost_and_found() {
    records_put_right(|tx| tx.delete(entry_key(ROOT, b"large", 0)), "link-count");
    records_put_right(|tx| tx.delete(entry_key(ROOT, b"dir", 0)), "directory-names");
    let (backend, store) = sample();
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.delete(entry_key(ROOT, b"large", 0));
    tx.delete(entry_key(ROOT, b"dir", 0));
    tx.finish();
    store.close().unwrap();
    drop(store);
    becomes_clean(&backend, &[]);
    let volume = Volume::open(backend, &key(), &OpenOptions::default(), &env()).unwrap();
    let root = crate::vfs::Caller::root();
    let home = volume.lookup(&root, InodeNo::ROOT, b"lost+found").unwrap().ino;
    let large = volume.lookup(&root, home, b"#4").unwrap().ino;
    assert_eq!((large, volume.lookup(&root, home, b"#2").unwrap().ino), (InodeNo(LARGE), InodeNo(DIR)));
    let mut content = vec![0; 8192];
    assert_eq!(volume.read(large, 0, &mut content), Ok(8192));
    assert!(content.iter().all(|byte| *byte == 0xaa));
    assert_eq!(volume.lookup(&root, InodeNo(DIR), b"..").unwrap().ino, home);
}

/// A checkpoint that says something wrong is put right.
fn sums_put_right(change: impl FnOnce(&mut Checkpoint, &crate::check::Image), code: &str) {
    let backend = closed();
    reseal(&backend, change);
    assert!(codes(&backend).contains(code), "{:?}", codes(&backend));
    let fixes = becomes_clean(&backend, &[]);
    assert!(fixes.iter().any(|fix| fix.code() == code), "{fixes:?}");
    assert!(!fixes.iter().any(Fix::is_loss), "{fixes:?}");
}

#[test]
fn sums_of_a_checkpoint_are_put_right() {
    sums_put_right(|checkpoint, _| checkpoint.nodes += 1, "node-count");
    sums_put_right(|checkpoint, _| checkpoint.unwritten_blocks += 1, "unwritten");
    sums_put_right(|checkpoint, _| checkpoint.inodes += 1, "inode-count");
    sums_put_right(|checkpoint, _| checkpoint.next_id = 10, "next-id");
    sums_put_right(|checkpoint, _| checkpoint.free_blocks += 1, "free-blocks");
    sums_put_right(|checkpoint, _| checkpoint.alloc_root.free_quads -= 1, "alloc-counts");
    let empty = |checkpoint: &mut Checkpoint, image: &crate::check::Image| {
        checkpoint.alloc_root = AllocEntry::default();
        checkpoint.free_blocks = image.geometry.free_blocks(&checkpoint.alloc_root);
    };
    sums_put_right(empty, "not-allocated");
    for delta in [-1, 1] {
        let backend = closed();
        change_live(&backend, delta);
        assert!(!codes(&backend).is_empty());
        becomes_clean(&backend, &[]);
    }
}

#[test]
fn space_records_are_put_right_with_and_without_changes_over_them() {
    for write in [false, true] {
        let backend = closed();
        let store = open(&backend);
        let mut tx = store.begin(Need::Metadata).unwrap();
        tx.put(Key::new(LARGE, Kind::Space, 0), SpaceRecord { data_blocks: 5 }.encode());
        tx.finish();
        store.close().unwrap();
        drop(store);
        if write {
            let store = open(&backend);
            let mut tx = store.begin(Need::Data { blocks: 1 }).unwrap();
            tx.write(ObjectId(LARGE), 3, &[9; BLOCK_SIZE]).unwrap();
            tx.clear(ObjectId(LARGE), 64, 70).unwrap();
            tx.finish();
            store.commit().unwrap();
        }
        assert!(codes(&backend).contains("space"));
        becomes_clean(&backend, &[]);
    }
}

#[test]
fn leaked_blocks_are_given_back() {
    let backend = closed();
    let free = |backend: &Arc<MemoryBackend>| image(backend).checkpoint.free_blocks;
    // Half of the files' tree goes: its blocks are nobody's. What is left of the names is an error, so all of it goes.
    reseal(&backend, |checkpoint, _| checkpoint.roots.retain(|root| root.tree == SYSTEM_TREE));
    let before = free(&backend);
    let Outcome::Repaired(fixes) = run(&backend, &[]) else { panic!() };
    assert!(fixes.iter().any(|fix| fix.code() == "leaked"));
    assert!(!codes(&backend).contains("leaked"));
    assert!(free(&backend) > before + LARGE_BLOCKS);
}

#[test]
fn data_blocks_become_holes_only_where_they_are_named() {
    let backend = closed();
    let second = BlockAddr(some_data(&image(&backend)).0 + 1);
    flip(&backend, some_data(&image(&backend)), 4000);
    flip(&backend, second, 0);
    let tampered = |backend: &Arc<MemoryBackend>| -> Vec<Loss> {
        findings(backend, true).iter().filter_map(Finding::loss).collect()
    };
    let named = tampered(&backend);
    assert_eq!(named, [Loss::data_block(ObjectId(LARGE), 67), Loss::data_block(ObjectId(LARGE), 68)]);
    let scrub = CheckOptions { scrub: true, ..CheckOptions::default() };
    let before = bytes(&backend);
    let automatic = repair(backend.clone(), &key(), &scrub, &[], &env(), &mut |_, _, _| {}).unwrap();
    assert!(matches!(automatic, Outcome::Refused(Refusal::Hidden(_))));
    assert_eq!(
        left_alone(&backend, &[Loss::data_block(ObjectId(LARGE), 66)]),
        Refusal::NotLost(Loss::data_block(ObjectId(LARGE), 66))
    );
    assert!(bytes(&backend) == before);
    assert_eq!(run(&backend, &named[..1]), Outcome::Repaired(vec![Fix::GivenUp(named[0])]));
    assert_eq!(tampered(&backend), named[1..], "the other one stays poisoned");
    becomes_clean(&backend, &["data:4".parse().unwrap()]);
    let volume = Volume::open(backend, &key(), &OpenOptions::default(), &env()).unwrap();
    let mut content = vec![1; usize::try_from(LARGE_BLOCKS * BLOCK_SIZE_U64 - 100).unwrap()];
    assert_eq!(volume.read(InodeNo(LARGE), 0, &mut content), Ok(content.len()));
    for (block, content) in content.chunks(BLOCK_SIZE).enumerate() {
        let expected = if [67, 68].contains(&block) { 0 } else { 0xaa };
        assert!(content.iter().all(|byte| *byte == expected), "block {block}");
    }
}

#[test]
fn the_log_is_cut_where_it_is_named_and_nothing_behind_comes_back() {
    let (backend, first) = logged();
    // Three commits: the second group is hit, the first one stays.
    flip(&backend, BlockAddr(first.0 + 2), 100);
    let found = findings(&backend, true);
    let broken: Vec<Loss> = found.iter().filter_map(Finding::loss).collect();
    assert!(matches!(broken[..], [Loss::Log { .. }]), "{found:?}");
    assert!(matches!(left_alone(&backend, &[]), Refusal::Hidden(_)));
    let Loss::Log { lsn } = broken[0] else { panic!() };
    let elsewhere = Loss::Log { lsn: crate::types::Lsn(lsn.0 + 2) };
    assert_eq!(left_alone(&backend, &[elsewhere]), Refusal::NotLost(elsewhere));
    becomes_clean(&backend, &broken);
    let store = open(&backend);
    let mut block = vec![0; BLOCK_SIZE];
    for (at, byte) in [(5, 3), (6, 0), (7, 0)] {
        store.read_blocks(ObjectId(MOVED_OBJECT), at, &mut block).unwrap();
        assert_eq!(block[0], byte, "block {at}");
    }
    // A mount that dies early: the third group still stands in the ring, authentic, behind where the log was cut.
    drop(store.begin(Need::Metadata).unwrap());
    drop(store);
    open(&backend);
}

#[test]
fn allocation_pages_are_made_anew_when_they_are_named() {
    for level in [0, 1] {
        for with_log in [false, true] {
            let backend = if with_log { logged().0 } else { closed() };
            let image = image(&backend);
            let root = image.checkpoint.alloc_root;
            let home = if level == 1 { root.home } else { bitmap_home(&image) };
            flip(&backend, image.geometry.home(level, 0, home), 9);
            assert!(codes(&backend).contains("alloc-page-tampered"));
            assert!(matches!(left_alone(&backend, &[]), Refusal::Hidden(_)));
            let fixes = becomes_clean(&backend, &[Loss::Allocation]);
            assert!(!fixes.iter().any(Fix::is_loss));
        }
    }
}

#[test]
fn a_rolled_back_volume_is_never_repaired() {
    let backend = closed();
    reseal(&backend, |checkpoint, _| checkpoint.accepted_headers[0][0] ^= 1);
    let before = bytes(&backend);
    assert!(matches!(left_alone(&backend, &[]), Refusal::Hidden(_)));
    assert!(matches!(left_alone(&backend, &[Loss::Allocation]), Refusal::NotLost(_)));
    assert!(bytes(&backend) == before);
    let error = Error::from(RolledBack::Header { generation: 1 });
    assert!(Finding::Unmountable { error }.is_of_the_host());
}

#[test]
fn a_sound_volume_is_left_as_it_is() {
    let backend = closed();
    let before = bytes(&backend);
    assert_eq!(run(&backend, &[]), Outcome::Nothing);
    assert!(bytes(&backend) == before);
    assert_eq!(left_alone(&backend, &[Loss::Allocation]), Refusal::NotLost(Loss::Allocation));
}

/// Seals the epoch table again, with another count for its last epoch.
fn change_live(backend: &Arc<MemoryBackend>, delta: i64) {
    reseal(backend, |checkpoint, image| {
        let pages = image.pages_with_live(delta);
        crate::check::tests::stored::write(backend, checkpoint.epoch_pages[0].addr, &pages.bytes[..]);
        checkpoint.epoch_pages[0].tag = pages.tag;
    });
}

/// The home that the root page names for the first bitmap.
fn bitmap_home(image: &crate::check::Image) -> u8 {
    let named = image.bitmap_homes();
    u8::try_from(named.trailing_zeros()).unwrap()
}

/// One copy of the header hides nothing, and is put back by whatever repairs.
#[test]
fn a_header_copy_is_put_back() {
    for replica in [false, true] {
        let backend = closed();
        let at = if replica { SIZE_BYTES / BLOCK_SIZE_U64 - crate::format::HEADER_BLOCKS } else { 0 };
        flip(&backend, BlockAddr(at), 300);
        assert_eq!(codes(&backend).into_iter().collect::<Vec<_>>(), ["header-copy"]);
        assert_eq!(becomes_clean(&backend, &[]), [Fix::Right(Finding::HeaderCopy { replica })]);
    }
}
