//! A volume that is full: errors reach the caller, deletion works, and nothing that was acknowledged is lost.

use sefs::error::{Error, Posix};
use sefs::types::InodeNo;
use sefs::vfs::{AllocateMode, Caller, FileKind, SetAttr};
use sefs_tests::play::{Play, refused};
use sefs_tests::seed::scaled;
use sefs_tests::stage::filling;
use sefs_tests::walk::walk;

const SIZE: u64 = 64 << 20;

/// Fills the volume and returns the files and how many bytes each holds.
fn fill(play: &Play, round: u32, piece: u32) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    for number in 0.. {
        let path = format!("fill {round} {number}");
        let ino = match play.make_as(&Caller::root(), &path, FileKind::Regular, 0o644) {
            Ok(attr) => attr.ino,
            Err(Error::Posix(Posix::NoSpace)) => return files,
            Err(error) => panic!("making {path}: {error}"),
        };
        let (done, full) = append_until_full(play, ino, number, piece);
        files.push((path, done));
        if full {
            return files;
        }
    }
    unreachable!("a volume is finite")
}

fn append_until_full(play: &Play, ino: InodeNo, number: u32, piece: u32) -> (u64, bool) {
    let mut done = 0;
    while done < 4 << 20 {
        match play.write(ino, done, &filling(number + 1, piece)) {
            Ok(count) => done += count as u64,
            Err(Error::Posix(Posix::NoSpace)) => return (done, true),
            Err(error) => panic!("writing at {done}: {error}"),
        }
    }
    (done, false)
}

fn check(play: &Play, files: &[(String, u64)], piece: u32) {
    for (number, (path, len)) in files.iter().enumerate() {
        let ino = play.ino(path);
        assert_eq!(play.stat(path).size, *len, "{path}");
        let expected = filling(number as u32 + 1, piece);
        for offset in (0..*len).step_by(piece as usize) {
            assert!(
                play.get(ino, offset, piece as usize) == expected[..(*len - offset).min(u64::from(piece)) as usize]
            );
        }
    }
}

#[test]
fn a_full_volume_can_be_emptied_and_filled_again() {
    let mut play = Play::new(SIZE);
    play.settle();
    let (before, inodes) = (play.volume.stat_fs(), play.inodes());
    let mut first_time = 0;
    for round in 0..scaled(20, 200) as u32 {
        let piece = [65_536, 1 << 20, 10_000, 4096][round as usize % 4];
        let files = fill(&play, round, piece);
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        first_time = if round == 0 { total } else { first_time };
        assert!(total * 10 > SIZE * 6, "round {round}: only {total} bytes fit");
        assert!(total * 100 >= first_time * 95, "round {round}: {total} bytes fit, {first_time} did at first");
        if round % 5 == 0 {
            play.volume.sync().unwrap_or_else(|error| panic!("round {round}: sync when full: {error}"));
            play = if round % 2 == 0 { play.crash() } else { play.remount() };
            check(&play, &files, piece);
        }
        for (path, _) in &files {
            play.unlink(path).unwrap_or_else(|error| panic!("round {round}: deleting when full: {error}"));
        }
        play.settle();
        let after = play.volume.stat_fs();
        assert_eq!(play.inodes(), inodes, "round {round}");
        let lost = before.blocks_free.saturating_sub(after.blocks_free);
        assert!(lost < 64, "round {round}: {lost} blocks are lost");
    }
    walk(&play.volume).expect("consistent");
}

/// Every way to make room works when there is none.
#[test]
fn what_works_on_a_full_volume() {
    let play = Play::new(SIZE);
    let dir = play.dir("dir");
    for number in 0..8 {
        let ino = play.file(&format!("dir/{number}"));
        play.put(ino, 0, &filling(5, 300_000));
    }
    play.volume.sync().expect("a healthy disk");
    let files = fill(&play, 0, 65_536);
    assert_eq!(refused(play.write(files_ino(&play, &files), 0, &vec![0; 1 << 20])), Posix::NoSpace);
    let ino = play.ino("dir/1");
    let allocate = AllocateMode::Allocate { keep_size: true };
    assert_eq!(refused(play.volume.allocate(&Caller::root(), ino, 1 << 20, 8 << 20, allocate)), Posix::NoSpace);
    play.volume.sync().expect("sync when full");
    play.unlink("dir/0").expect("unlink when full");
    play.truncate(play.ino("dir/1"), 100_001);
    play.volume
        .allocate(&Caller::root(), play.ino("dir/2"), 0, 200_000, AllocateMode::PunchHole)
        .expect("punch when full");
    play.truncate(play.ino("dir/3"), 0);
    play.rename("dir/4", "dir/5").expect("replacing when full");
    play.set_as(&Caller::root(), "dir/6", SetAttr { mode: Some(0o600), ..SetAttr::default() })
        .map_or_else(|error| assert_eq!(error, Error::Posix(Posix::NoSpace)), |attr| assert_eq!(attr.mode, 0o600));
    play.volume.sync().expect("sync when full");
    let play = play.crash();
    assert_eq!(refused(play.find("dir/0")), Posix::NotFound);
    assert_eq!(play.get(play.ino("dir/1"), 0, 300_000), filling(5, 100_001));
    assert!(play.get(play.ino("dir/2"), 0, 200_000).iter().all(|byte| *byte == 0));
    assert_eq!(play.stat("dir").size, 6);
    assert_eq!(play.ino("dir"), dir);
    check(&play, &files, 65_536);
    walk(&play.volume).expect("consistent");
}

fn files_ino(play: &Play, files: &[(String, u64)]) -> InodeNo {
    play.ino(&files[0].0)
}

/// Overwriting in place needs new blocks; on a full volume it works or is refused, and refused it changes nothing.
#[test]
fn overwriting_on_a_full_volume() {
    let play = Play::new(SIZE);
    let ino = play.file("precious");
    play.put(ino, 0, &filling(6, 1 << 20));
    play.volume.sync().expect("a healthy disk");
    fill(&play, 0, 65_536);
    let mut expected = filling(6, 1 << 20);
    for round in 0..200u32 {
        let offset = u64::from(round) * 5000 % (1 << 20);
        let data = filling(round + 100, 5000);
        match play.write(ino, offset, &data) {
            Ok(count) => {
                let end = (offset as usize + count).max(expected.len());
                expected.resize(end, 0);
                expected[offset as usize..offset as usize + count].copy_from_slice(&data[..count]);
            }
            Err(error) => assert_eq!(error, Error::Posix(Posix::NoSpace)),
        }
        if round % 20 == 0 {
            play.volume.sync().expect("sync when full");
        }
    }
    assert!(play.get(ino, 0, 2 << 20) == expected);
    play.volume.sync().expect("sync when full");
    let play = play.crash();
    assert!(play.get(ino, 0, 2 << 20) == expected);
}

/// Many small files: records, not data, fill the volume.
#[test]
fn filled_with_names() {
    let play = Play::new(8 << 20);
    play.settle();
    let (before, inodes) = (play.volume.stat_fs(), play.inodes());
    let mut made = 0;
    let name = |number: u32| format!("{number:0>200}");
    loop {
        match play.make_as(&Caller::root(), &name(made), FileKind::Regular, 0o644) {
            Ok(attr) => match play.write(attr.ino, 0, &[7; 1500]) {
                Ok(_) => made += 1,
                Err(error) => {
                    assert_eq!(error, Error::Posix(Posix::NoSpace));
                    made += 1;
                    break;
                }
            },
            Err(error) => {
                assert_eq!(error, Error::Posix(Posix::NoSpace));
                break;
            }
        }
    }
    assert!(made > 300, "only {made} files fit");
    play.volume.sync().expect("sync when full");
    let play = play.crash();
    assert_eq!(play.stat("").size, u64::from(made));
    for number in 0..made {
        play.unlink(&name(number)).unwrap_or_else(|error| panic!("deleting {number} of {made} when full: {error}"));
    }
    play.settle();
    let after = play.volume.stat_fs();
    assert_eq!(play.inodes(), inodes);
    assert!(before.blocks_free.saturating_sub(after.blocks_free) < 64, "{before:?} became {after:?}");
}

#[test]
fn statfs_follows() {
    let play = Play::new(SIZE);
    play.settle();
    let (before, inodes) = (play.volume.stat_fs(), play.inodes());
    assert_eq!((before.block_size, before.name_max), (4096, 255));
    assert!(before.blocks_available <= before.blocks_free && before.blocks_free <= before.blocks);
    let ino = play.file("f");
    play.put(ino, 0, &vec![1; 8 << 20]);
    let full = play.volume.stat_fs();
    assert!(before.blocks_free - full.blocks_free >= 2048);
    assert_eq!(play.inodes(), inodes + 1);
    play.unlink("f").expect("it exists");
    play.settle();
    assert_eq!(play.inodes(), inodes);
    assert!(before.blocks_free.abs_diff(play.volume.stat_fs().blocks_free) < 32);
}
