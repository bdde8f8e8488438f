//! What files hold: holes, sizes, allocation, copying, large offsets.

use sefs::error::Posix;
use sefs::types::InodeNo;
use sefs::vfs::{AllocateMode, Caller, Seek, SetAttr, WriteMode};
use sefs_tests::play::{Play, refused};
use sefs_tests::stage::filling;

const KIB: u64 = 1024;

fn root() -> Caller {
    Caller::root()
}

/// Data as `SEEK_DATA` and `SEEK_HOLE` tell it.
fn segments(play: &Play, ino: InodeNo) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(data) = play.volume.seek(ino, at, Seek::Data) {
        at = play.volume.seek(ino, data, Seek::Hole).expect("the end is a hole");
        found.push((data, at));
    }
    found
}

#[test]
fn what_was_never_written_is_a_hole() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    play.put(ino, 64 * KIB, &[1; 8192]);
    play.put(ino, 600 * KIB, &[2; 100]);
    let expected = [(64 * KIB, 72 * KIB), (600 * KIB, 600 * KIB + 100)];
    assert_eq!(segments(&play, ino), expected);
    assert_eq!(play.get(ino, 0, 64 << 10), vec![0; 64 << 10]);
    let play = play.remount();
    assert_eq!(segments(&play, ino), expected);
    assert_eq!(play.stat("f").blocks_512, 3 * 8, "three blocks");
    assert_eq!(refused(play.volume.seek(ino, 600 * KIB + 100, Seek::Data)), Posix::NoSuchOffset);
    assert_eq!(refused(play.volume.seek(ino, 600 * KIB + 100, Seek::Hole)), Posix::NoSuchOffset);
    assert_eq!(play.volume.seek(ino, 64 * KIB + 5, Seek::Data).expect("data"), 64 * KIB + 5);
    assert_eq!(play.volume.seek(ino, 5, Seek::Hole).expect("a hole"), 5);
}

#[test]
fn punching() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    play.put(ino, 0, &[7; 300 << 10]);
    let punch = |offset, len| play.volume.allocate(&root(), ino, offset, len, AllocateMode::PunchHole).expect("a file");
    punch(4096, 8192);
    punch(20_000, 100);
    punch(299 << 10, 1 << 20);
    assert_eq!(play.stat("f").size, 300 << 10, "the size stays");
    let content = play.get(ino, 0, 400 << 10);
    for (at, byte) in content.iter().enumerate() {
        let hole = (4096..12_288).contains(&at) || (20_000..20_100).contains(&at) || at >= 299 << 10;
        assert_eq!(*byte, if hole { 0 } else { 7 }, "byte {at}");
    }
    assert_eq!(segments(&play, ino)[0], (0, 4096));
    assert_eq!(refused(play.volume.allocate(&root(), ino, 0, 0, AllocateMode::PunchHole)), Posix::InvalidArgument);
}

#[test]
fn allocating() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    let allocate = |offset, len, mode| play.volume.allocate(&root(), ino, offset, len, mode);
    let before = play.volume.stat_fs().blocks_free;
    allocate(0, 1 << 20, AllocateMode::Allocate { keep_size: true }).expect("space enough");
    assert_eq!(play.stat("f").size, 0);
    assert!(before - play.volume.stat_fs().blocks_free >= 256, "promised space is not free");
    allocate(0, 1 << 20, AllocateMode::Allocate { keep_size: false }).expect("space enough");
    assert_eq!((play.stat("f").size, segments(&play, ino)), (1 << 20, vec![]), "unwritten blocks are a hole");
    assert!(play.stat("f").blocks_512 >= 2048);
    play.put(ino, 8192, &[3; 4096]);
    assert_eq!(segments(&play, ino), [(8192, 12_288)]);
    allocate(0, 1 << 20, AllocateMode::Allocate { keep_size: false }).expect("space enough");
    assert_eq!(play.get(ino, 8192, 4096), [3; 4096], "allocating keeps what is there");
    allocate(8192, 100, AllocateMode::ZeroRange { keep_size: true }).expect("space enough");
    assert_eq!(play.get(ino, 8192, 101), [vec![0; 100], vec![3]].concat());
    for mode in [AllocateMode::Collapse, AllocateMode::Insert] {
        assert_eq!(refused(allocate(0, 4096, mode)), Posix::NotSupported);
    }
    let too_big = refused(allocate(i64::MAX as u64 - 10, 4096, AllocateMode::Allocate { keep_size: false }));
    assert!(matches!(too_big, Posix::FileTooBig | Posix::InvalidArgument), "{too_big:?}");
    assert_eq!(refused(allocate(0, 1 << 40, AllocateMode::Allocate { keep_size: false })), Posix::NoSpace);
    play.unlink("f").expect("it exists");
    play.settle();
    assert_eq!(play.volume.stat_fs().blocks_free, before, "the promise is taken back");
}

/// A shorter file forgets its tail: extended again, it reads as zeros.
#[test]
fn cut_and_extended_reads_as_zeros() {
    for size in [1000u64, 2048, 3000, 10_000, 300_000, 1_000_000] {
        for cut in [0, 1, size / 3, size - 1] {
            let play = Play::new(16 << 20);
            let ino = play.file("f");
            play.put(ino, 0, &filling(9, u32::try_from(size).expect("small")));
            play.truncate(ino, cut);
            play.truncate(ino, size);
            let mut expected = filling(9, u32::try_from(size).expect("small"));
            expected[cut as usize..].fill(0);
            assert!(play.get(ino, 0, size as usize + 1) == expected, "{size} cut to {cut}");
            let play = play.remount();
            assert!(play.get(ino, cut, size as usize).iter().all(|byte| *byte == 0), "{size} cut to {cut}, remounted");
        }
    }
}

/// A write past the end leaves zeros between, also inside a block that was cut before.
#[test]
fn the_gap_before_a_write_is_zeros() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    play.put(ino, 0, &[9; 6000]);
    play.truncate(ino, 5000);
    play.put(ino, 7000, &[8; 10]);
    let content = play.get(ino, 4990, 3000);
    assert_eq!(content, [vec![9; 10], vec![0; 2000], vec![8; 10]].concat());
}

/// Over the inline limit and back.
#[test]
fn sizes_around_the_inline_limit() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    for size in [1u32, 2047, 2048, 2049, 4095, 4096, 4097, 100, 2048, 262_143, 262_144, 262_145, 5] {
        play.truncate(ino, 0);
        play.put(ino, 0, &filling(size, size));
        assert!(play.get(ino, 0, size as usize + 1) == filling(size, size), "{size} bytes");
        play.volume.sync().expect("a healthy disk");
    }
    for size in [2048u64, 2049, 2047, 5000, 10] {
        play.truncate(ino, size);
        assert_eq!(play.stat("f").size, size);
        assert_eq!(play.get(ino, 0, 5), filling(5, 5));
    }
}

#[test]
fn offsets_up_to_16_tib() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    let far = 16u64 << 40;
    play.put(ino, far - 2, b"over the edge");
    assert_eq!(play.stat("f").size, far + 11);
    assert_eq!(play.get(ino, far - 4, 100), b"\0\0over the edge");
    assert_eq!(play.get(ino, 1 << 40, 10), [0; 10]);
    assert_eq!(segments(&play, ino), [(far - 4096, far + 11)]);
    let play = play.remount();
    assert_eq!(play.get(ino, far - 4, 100), b"\0\0over the edge");
    play.volume.allocate(&root(), ino, 0, far - 1, AllocateMode::PunchHole).expect("a large hole");
    assert_eq!(play.get(ino, far - 2, 3), b"\0ve");
    play.truncate(ino, 5);
    play.truncate(ino, far + 100);
    assert_eq!(play.get(ino, far - 4, 100), [0; 100]);
    play.settle();
}

#[test]
fn the_largest_file() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    let end = i64::MAX as u64;
    play.put(ino, end - 1, b"x");
    assert_eq!((play.stat("f").size, play.get(ino, end - 2, 10)), (end, b"\0x".to_vec()));
    assert_eq!(refused(play.write(ino, end, b"y")), Posix::FileTooBig);
    assert_eq!(refused(play.write(ino, u64::MAX - 1, b"yy")), Posix::FileTooBig);
    let grow = SetAttr { size: Some(end + 1), ..SetAttr::default() };
    assert_eq!(refused(play.set_as(&root(), "f", grow)), Posix::FileTooBig);
    let crossing = play.write(ino, end - 4, b"12345678");
    assert!(matches!(crossing, Ok(4) | Err(sefs::error::Error::Posix(Posix::FileTooBig))), "{crossing:?}");
    assert_eq!(play.get(ino, u64::MAX, 10), []);
    play.unlink("f").expect("it exists");
    play.settle();
}

#[test]
fn appending() {
    let play = Play::new(16 << 20);
    let ino = play.file("f");
    for piece in [&b"one "[..], b"two ", b"three"] {
        play.volume.write(&root(), ino, 12_345, piece, WriteMode::Append).expect("space enough");
    }
    assert_eq!(play.get(ino, 0, 100), b"one two three");
}

#[test]
fn long_writes_are_written_whole() {
    let play = Play::new(64 << 20);
    let ino = play.file("f");
    let data = filling(3, 5 << 20);
    play.put(ino, 1000, &data);
    assert!(play.get(ino, 1000, data.len()) == data);
    let play = play.remount();
    assert!(play.get(ino, 1000, data.len()) == data);
}

#[test]
fn copying() {
    let play = Play::new(32 << 20);
    let (from, to) = (play.file("from"), play.file("to"));
    play.put(from, 0, &filling(4, 500_000));
    let copy =
        |from, from_offset, to, to_offset, len| play.volume.copy_range(&root(), from, from_offset, to, to_offset, len);
    let mut done = 0;
    while done < 500_000 {
        let count = copy(from, done, to, 100 + done, 1 << 40).expect("space enough");
        assert!(count > 0, "stuck at {done}");
        done += count;
    }
    assert!(play.get(to, 100, 600_000) == filling(4, 500_000));
    assert_eq!(copy(from, 500_000, to, 0, 100).expect("the end of the source"), 0);
    assert_eq!(copy(from, 600_000, to, 0, 100).expect("past the end of the source"), 0);
    assert_eq!(refused(copy(from, 0, from, 100, 1000)), Posix::InvalidArgument);
    assert_eq!(copy(from, 0, from, 500_000, 1000).expect("no overlap"), 1000);
    assert!(play.get(from, 500_000, 1000) == filling(4, 1000));
    let outcome = refused(copy(play.dir("d"), 0, to, 0, 10));
    assert!(matches!(outcome, Posix::IsDirectory | Posix::InvalidArgument));
}
