//! Content and attributes, at the borders of records, blocks and pieces.

use proptest::prelude::*;

use super::*;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::vfs::xattr::Summary;

const SIZES: [usize; 12] = [0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 12_000, 65_536, 70_001];

fn filling(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ seed | 1).collect()
}

fn set_size(volume: &Volume, ino: InodeNo, size: u64) {
    volume.set_attr(&root(), ino, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
}

/// What stands on disk past the end of the file's last block.
fn check_tail(volume: &Volume, ino: InodeNo) {
    let inode = stored(volume, ino);
    let within = usize::try_from(inode.size % BLOCK_SIZE_U64).unwrap();
    if !inode.flags.inline && within > 0 {
        let mut block = [0xaa; BLOCK_SIZE];
        volume.store.read_blocks(inode.object, inode.size / BLOCK_SIZE_U64, &mut block).unwrap();
        assert!(block[within..].iter().all(|byte| *byte == 0), "the tail of inode {ino} is not zero");
    }
}

#[test]
fn every_size_to_every_size() {
    let volume = volume();
    let ino = file(&volume, "f");
    for from in SIZES {
        for to in SIZES {
            set_size(&volume, ino, 0);
            let mut expected = filling(from, 0);
            put(&volume, ino, 0, &expected);
            set_size(&volume, ino, to as u64);
            check_tail(&volume, ino);
            expected.resize(to, 0);
            assert!(contents(&volume, ino) == expected, "{from} to {to}");
            // What was cut off does not come back.
            set_size(&volume, ino, 80_000);
            expected.resize(80_000, 0);
            assert!(contents(&volume, ino) == expected, "{from} to {to} to 80000");
        }
    }
}

#[test]
fn every_range_into_every_size() {
    let volume = volume();
    let ino = file(&volume, "f");
    for size in [0, 100, 2048, 5000, 20_000] {
        for offset in [0, 1, 2000, 4095, 4096, 10_000, 30_000] {
            for len in [1, 48, 4096, 4097, 9000] {
                for punch in [false, true] {
                    set_size(&volume, ino, 0);
                    let mut expected = filling(size, 0);
                    put(&volume, ino, 0, &expected);
                    let end = offset + len;
                    if punch {
                        let span = (offset as u64, len as u64);
                        volume.allocate(&root(), ino, span.0, span.1, AllocateMode::PunchHole).unwrap();
                        let end = end.min(size);
                        expected[offset.min(end)..end].fill(0);
                    } else {
                        let data = filling(len, 0x80);
                        put(&volume, ino, offset as u64, &data);
                        expected.resize(expected.len().max(end), 0);
                        expected[offset..end].copy_from_slice(&data);
                    }
                    check_tail(&volume, ino);
                    assert!(contents(&volume, ino) == expected, "{size} {offset} {len} {punch}");
                }
            }
        }
    }
}

/// Small content is one record, and is again after a cut to nothing.
#[test]
fn content_moves_from_the_record_to_blocks_and_back() {
    let volume = volume();
    let ino = file(&volume, "f");
    let inline = || stored(&volume, ino).flags.inline;
    put(&volume, ino, 0, &filling(2048, 0));
    assert!(inline());
    put(&volume, ino, 2048, b"x");
    assert!(!inline());
    let object = stored(&volume, ino).object;
    assert_eq!(volume.store.get(inline_key(object)).unwrap(), None, "the record is gone");
    set_size(&volume, ino, 100);
    assert!(!inline(), "a file that had blocks keeps them");
    set_size(&volume, ino, 0);
    assert!(inline());
    assert_eq!(volume.attr(ino).unwrap().blocks_512, 0);
    put(&volume, ino, 0, &alloc::vec![1; 5 << 20]);
    set_size(&volume, ino, 0);
    assert_ne!(stored(&volume, ino).object, object, "what may take long to go does not stand in the way");
    put(&volume, ino, 0, b"new");
    assert_eq!(contents(&volume, ino), b"new");
}

#[test]
fn long_writes_come_in_pieces_and_appends_in_order() {
    let volume = volume();
    let ino = file(&volume, "f");
    let data = filling((3 << 20) + 777, 3);
    assert_eq!(volume.write(&root(), ino, 1234, &data, WriteMode::Direct), Ok(data.len()));
    assert_eq!(volume.write(&root(), ino, 0, b"end", WriteMode::Append), Ok(3));
    let found = contents(&volume, ino);
    assert_eq!(found.len(), 1234 + data.len() + 3);
    assert!(found[..1234].iter().all(|byte| *byte == 0) && found[1234..].starts_with(&data) && found.ends_with(b"end"));
}

#[test]
fn sizes_end_where_offsets_do() {
    let volume = volume();
    let ino = file(&volume, "f");
    assert_eq!(volume.write(&root(), ino, FILE_SIZE_MAX - 3, b"12345", WriteMode::Direct), Ok(3));
    assert_eq!(volume.attr(ino).unwrap().size, FILE_SIZE_MAX);
    let mut out = [9; 8];
    assert_eq!(volume.read(ino, FILE_SIZE_MAX - 4, &mut out), Ok(4));
    assert_eq!(&out[..4], b"\x00123");
    assert_eq!(volume.seek(ino, 0, Seek::Data), Ok((FILE_SIZE_MAX - 3) / BLOCK_SIZE_U64 * BLOCK_SIZE_U64));
    assert_eq!(volume.seek(ino, FILE_SIZE_MAX - 1, Seek::Hole), Ok(FILE_SIZE_MAX));
    for offset in [FILE_SIZE_MAX, u64::MAX] {
        assert_eq!(posix(volume.write(&root(), ino, offset, b"x", WriteMode::Direct)), Posix::FileTooBig);
        assert_eq!(volume.read(ino, offset, &mut out), Ok(0));
    }
    let too_big = SetAttr { size: Some(FILE_SIZE_MAX + 1), ..SetAttr::default() };
    assert_eq!(posix(volume.set_attr(&root(), ino, &too_big)), Posix::FileTooBig);
    assert_eq!(posix(volume.copy_range(&root(), ino, 0, file(&volume, "g"), 1, u64::MAX)), Posix::FileTooBig);
    set_size(&volume, ino, 16 << 40);
    volume.unlink(&root(), ROOT, b"f").unwrap();
}

#[test]
fn promises_beyond_what_there_is_take_nothing() {
    let volume = volume();
    let ino = file(&volume, "f");
    let before = volume.stat_fs();
    let promise = AllocateMode::Allocate { keep_size: false };
    assert_eq!(posix(volume.allocate(&root(), ino, 0, 1 << 40, promise)), Posix::NoSpace);
    assert_eq!(volume.stat_fs().blocks_available, before.blocks_available);
    assert_eq!(volume.attr(ino).unwrap().size, 0);
}

/// What others write late, from a kernel's cache, uses the reserve and not what was promised.
#[test]
fn a_promise_holds_against_writeback_and_attributes_are_kept_on_a_full_volume() {
    let volume = volume();
    let (promised, filler) = (file(&volume, "promised"), file(&volume, "filler"));
    let piece = alloc::vec![7; 256 << 10];
    let len = 8 * piece.len() as u64;
    volume.allocate(&root(), promised, 0, len, AllocateMode::Allocate { keep_size: false }).unwrap();
    let mut at = 0;
    let refused = loop {
        match volume.write(&root(), filler, at, &piece, WriteMode::Writeback) {
            Ok(written) => at += written as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, Posix::NoSpace.into());
    assert_eq!(volume.find_room(), Err(Posix::NoSpace.into()));
    assert_eq!(volume.room(), Room { available_bytes: 0, promised_bytes: len });
    for (index, mode) in (0..8).zip([WriteMode::Direct, WriteMode::Writeback].into_iter().cycle()) {
        assert_eq!(volume.write(&root(), promised, index * piece.len() as u64, &piece, mode), Ok(piece.len()));
    }
    assert_eq!(posix(volume.write(&root(), promised, len, &piece, WriteMode::Direct)), Posix::NoSpace);
    let times = SetAttr { mtime: Some(SetTime::Now), mode: Some(0o600), ..SetAttr::default() };
    volume.set_attr(&root(), filler, &times).unwrap();
    volume.sync().unwrap();
    volume.unlink(&root(), ROOT, b"filler").unwrap();
    volume.find_room().unwrap();
}

/// The inode knows how many attributes it has and whether any of them matters to writing and to permissions.
#[test]
fn what_an_inode_knows_of_its_attributes() {
    let volume = volume();
    let ino = file(&volume, "f");
    let known = || Summary::of(&stored(&volume, ino));
    let capability: &[u8] = b"security.capability";
    volume.set_xattr(&root(), ino, b"user.a", b"1", XattrMode::Create).unwrap();
    volume.set_xattr(&root(), ino, b"user.a", &[2; 9000], XattrMode::Replace).unwrap();
    let only_user = known();
    volume.set_xattr(&root(), ino, capability, b"cap", XattrMode::Any).unwrap();
    assert_ne!(known(), only_user);
    put(&volume, ino, 0, b"other content");
    assert_eq!(posix(volume.get_xattr(&root(), ino, capability)), Posix::NoAttribute);
    assert_eq!(known(), only_user);
    volume.set_xattr(&root(), ino, capability, b"cap", XattrMode::Any).unwrap();
    volume.set_attr(&root(), ino, &SetAttr { uid: Some(5), ..SetAttr::default() }).unwrap();
    assert_eq!(known(), only_user);
    assert_eq!(volume.list_xattr(&root(), ino), Ok(alloc::vec![b"user.a".to_vec()]));
    volume.remove_xattr(&root(), ino, b"user.a").unwrap();
    assert!(known().is_empty() && stored(&volume, ino).extensions.is_empty());
    let rest = volume.store.scan(Key::new(ino.0, Kind::Xattr, 0), Key::new(ino.0, Kind::Inline, 0), 10).unwrap();
    assert_eq!(rest, [], "no part is left");
}

/// Attributes of an orphan go in several steps; after each, the inode counts those that are left.
#[test]
fn attributes_go_in_steps() {
    let volume = volume();
    let ino = file(&volume, "f");
    for number in 0..30 {
        let name = alloc::format!("user.{number}");
        volume.set_xattr(&root(), ino, name.as_bytes(), &[1; 9000], XattrMode::Any).unwrap();
    }
    let mut inode = stored(&volume, ino);
    let all = Summary::of(&inode);
    for left in [22, 14, 6, 0] {
        let mut tx = volume.store.begin(Need::Release).unwrap();
        let more = xattr::drop_some(&volume.store, &mut tx, ino, &mut inode, 40).unwrap();
        tx.put(inode_key(ino), inode.encode());
        tx.finish();
        assert_eq!(more, left > 0);
        let (from, end) = (Key::new(ino.0, Kind::Xattr, 0), Key::new(ino.0, Kind::Inline, 0));
        assert_eq!(volume.store.scan(from, end, 1000).unwrap().len(), left * 5);
        assert_eq!(Summary::of(&stored(&volume, ino)).is_empty(), left == 0);
        assert_ne!(Summary::of(&inode), all);
    }
}

#[test]
fn names_of_attributes_fit_what_lists_can_hold() {
    let volume = volume();
    let ino = file(&volume, "f");
    let name = |number: usize| alloc::format!("user.{number:0>250}").into_bytes();
    let fits = (0..).position(|number| volume.set_xattr(&root(), ino, &name(number), b"", XattrMode::Any).is_err());
    assert_eq!(fits, Some(65_536 / 256));
    assert_eq!(posix(volume.set_xattr(&root(), ino, b"user.b", b"", XattrMode::Any)), Posix::NoSpace);
    volume.remove_xattr(&root(), ino, &name(7)).unwrap();
    volume.set_xattr(&root(), ino, b"user.b", b"", XattrMode::Any).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Writes, cuts, holes and copies against a plain array.
    #[test]
    fn a_file_is_an_array(steps in proptest::collection::vec((0u8..6, 0usize..60_000, 1usize..20_000, any::<u8>()), 1..30)) {
        let volume = volume();
        let ino = file(&volume, "f");
        let mut expected: Vec<u8> = Vec::new();
        for (what, offset, len, seed) in steps {
            let span = (offset as u64, len as u64);
            match what {
                0 | 1 => {
                    let data = filling(len, seed);
                    put(&volume, ino, span.0, &data);
                    expected.resize(expected.len().max(offset + len), 0);
                    expected[offset..offset + len].copy_from_slice(&data);
                }
                2 => {
                    set_size(&volume, ino, span.0);
                    expected.resize(offset, 0);
                }
                3 => {
                    let keep_size = seed % 2 == 0;
                    let zero = AllocateMode::ZeroRange { keep_size };
                    volume.allocate(&root(), ino, span.0, span.1, zero).unwrap();
                    if !keep_size {
                        expected.resize(expected.len().max(offset + len), 0);
                    }
                    let end = expected.len().min(offset + len);
                    expected[offset.min(end)..end].fill(0);
                }
                4 => volume.allocate(&root(), ino, span.0, span.1, AllocateMode::Allocate { keep_size: true }).unwrap(),
                _ => {
                    let to = offset + len + usize::from(seed);
                    let copied = volume.copy_range(&root(), ino, span.0, ino, to as u64, span.1).unwrap();
                    let copied = usize::try_from(copied).unwrap();
                    prop_assert_eq!(copied, len.min(expected.len().saturating_sub(offset)));
                    if copied > 0 {
                        expected.resize(expected.len().max(to + copied), 0);
                        expected.copy_within(offset..offset + copied, to);
                    }
                }
            }
            check_tail(&volume, ino);
            prop_assert!(contents(&volume, ino) == expected);
        }
        volume.unlink(&root(), ROOT, b"f").unwrap();
    }
}

/// All runs, got `limit` at a time.
fn runs(volume: &Volume, ino: InodeNo, limit: usize) -> Vec<DataRun> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let some = volume.data_runs(ino, from, limit).unwrap();
        let Some(last) = some.last() else { return found };
        assert!(some.len() <= limit);
        from = last.first_block + last.blocks;
        found.extend(some);
    }
}

#[test]
fn runs_name_all_content_and_nothing_else() {
    let backend = formatted();
    let volume = opened(&backend);
    let (large, holes, small) = (file(&volume, "large"), file(&volume, "holes"), file(&volume, "small"));
    put(&volume, large, 0, &filling(200 * BLOCK_SIZE, 1));
    put(&volume, small, 0, b"in its record");
    let blocks = [3, 4, 63, 64, 500];
    blocks.iter().for_each(|block| put(&volume, holes, block * BLOCK_SIZE_U64, &[1]));
    let in_memory = runs(&volume, holes, 9);
    assert!(in_memory.iter().all(|run| run.addr.is_none()), "{in_memory:?}");
    volume.close().unwrap();
    let volume = opened(&backend);
    let one = runs(&volume, large, 9);
    assert_eq!(
        (one.len(), one[0].first_block, one[0].blocks),
        (1, 0, 200),
        "written at once, and across chunks: {one:?}"
    );
    let sparse = runs(&volume, holes, 9);
    let named: Vec<u64> = sparse.iter().flat_map(|run| run.first_block..run.first_block + run.blocks).collect();
    assert_eq!(named, blocks);
    assert_eq!(runs(&volume, holes, 1), sparse);
    let used = |run: &DataRun| (0..run.blocks).map(|block| run.addr.unwrap().0 + block).collect::<Vec<_>>();
    let mut used: Vec<u64> = one.iter().chain(&sparse).flat_map(used).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 200 + blocks.len(), "each block has a place of its own");
    assert!(runs(&volume, small, 9).is_empty());
    assert_eq!(posix(volume.data_runs(ROOT, 0, 9)), Posix::IsDirectory);
}

#[test]
fn epochs_count_what_they_sealed() {
    let backend = formatted();
    let volume = opened(&backend);
    put(&volume, file(&volume, "f"), 0, &filling(100 * BLOCK_SIZE, 1));
    volume.close().unwrap();
    let volume = opened(&backend);
    let epochs = volume.epochs();
    let used = epochs.iter().filter(|epoch| epoch.live_blocks != Some(0)).count();
    assert!((used..=epochs.len()).contains(&(volume.info().epochs as usize)), "{epochs:?}");
    assert!(epochs.windows(2).all(|pair| pair[0].id < pair[1].id), "{epochs:?}");
    let live: u64 = epochs.iter().map(|epoch| epoch.live_blocks.unwrap()).sum();
    assert!((100..400).contains(&live), "the content, and the trees: {epochs:?}");
    assert!(epochs.iter().all(|epoch| !epoch.old_key));
}
