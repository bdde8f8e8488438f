//! Names, links, directories.

use std::collections::BTreeSet;

use sefs::error::Posix;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, RenameMode, SetAttr, Volume, WriteMode, XattrMode};
use sefs_tests::play::{Play, refused};
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{Dice, scaled};
use sefs_tests::walk::walk;

fn root() -> Caller {
    Caller::root()
}

#[test]
fn link_counts() {
    let play = Play::new(8 << 20);
    assert_eq!(play.stat("").links, 2);
    play.dir("d");
    play.dir("d/e");
    play.file("d/f");
    assert_eq!((play.stat("").links, play.stat("d").links, play.stat("d/e").links), (3, 3, 2));
    play.link("d/f", "g").expect("a second name");
    assert_eq!((play.stat("g").links, play.ino("g")), (2, play.ino("d/f")));
    play.unlink("d/f").expect("one name less");
    assert_eq!(play.stat("g").links, 1);
    play.rmdir("d/e").expect("an empty directory");
    assert_eq!(play.stat("d").links, 2);
    play.rmdir("d").expect("an empty directory");
    assert_eq!(play.stat("").links, 2);
    assert_eq!(refused(play.link("", "h")), Posix::NotPermitted);
    walk(&play.remount().volume).expect("consistent");
}

#[test]
fn names_up_to_255_bytes_of_anything_but_slash_and_nul() {
    let play = Play::new(8 << 20);
    let make = |name: &[u8]| {
        let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
        play.volume.make(&root(), InodeNo::ROOT, name, &new).map(|attr| attr.ino)
    };
    let good: [&[u8]; 6] = [&[b'x'; 255], b"\xff\xfe\x80", b" ", b"\n", "ünï".as_bytes(), b"..."];
    for name in good {
        let ino = make(name).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(play.volume.lookup(&root(), InodeNo::ROOT, name).expect("it was made").ino, ino);
    }
    assert_eq!(refused(make(&[b'x'; 256])), Posix::NameTooLong);
    assert_eq!(refused(play.volume.lookup(&root(), InodeNo::ROOT, &[b'x'; 256])), Posix::NameTooLong);
    for name in [&b"a/b"[..], b"/", b"a\0b"] {
        assert_eq!(refused(make(name)), Posix::InvalidArgument, "{name:?}");
    }
    let empty = refused(make(b""));
    assert!(matches!(empty, Posix::InvalidArgument | Posix::NotFound), "{empty:?}");
    assert_eq!(refused(make(b"...")), Posix::Exists);
    make(b"A").expect("case matters");
    make(b"a").expect("case matters");
    walk(&play.volume).expect("consistent");
}

#[test]
fn dot_and_dot_dot() {
    let play = Play::new(8 << 20);
    let d = play.dir("d");
    let e = play.dir("d/e");
    let number = |dir, name: &[u8]| play.volume.lookup(&root(), dir, name).map(|attr| attr.ino);
    assert_eq!(number(e, b".").expect("always there"), e);
    assert_eq!(number(e, b"..").expect("always there"), d);
    assert_eq!(number(InodeNo::ROOT, b"..").expect("always there"), InodeNo::ROOT);
    let listed = play.volume.read_dir(e, 0, 10).expect("a directory");
    let cookies: Vec<(u64, InodeNo)> = listed.iter().map(|entry| (entry.cookie, entry.ino)).collect();
    assert_eq!(cookies, [(1, e), (2, d)]);
    for name in [&b"."[..], b".."] {
        let new = NewInode { kind: FileKind::Directory, mode: 0o755, rdev: 0, target: Vec::new() };
        let made = refused(play.volume.make(&root(), d, name, &new));
        assert!(matches!(made, Posix::Exists | Posix::InvalidArgument), "{made:?}");
        let unlinked = refused(play.volume.unlink(&root(), d, name));
        assert!(matches!(unlinked, Posix::IsDirectory | Posix::InvalidArgument), "{unlinked:?}");
        let removed = refused(play.volume.rmdir(&root(), d, name));
        assert!(matches!(removed, Posix::InvalidArgument | Posix::NotEmpty | Posix::Busy), "{removed:?}");
        for (from, to) in [(name, &b"x"[..]), (b"e", name)] {
            let moved = refused(play.volume.rename(&root(), d, from, d, to, RenameMode::Replace));
            assert!(
                matches!(moved, Posix::InvalidArgument | Posix::Busy | Posix::Exists | Posix::NotEmpty),
                "{moved:?}"
            );
        }
    }
    walk(&play.volume).expect("consistent");
}

#[test]
fn removing() {
    let play = Play::new(8 << 20);
    play.dir("d");
    play.file("d/f");
    assert_eq!(refused(play.unlink("none")), Posix::NotFound);
    assert_eq!(refused(play.rmdir("none")), Posix::NotFound);
    let directory = refused(play.unlink("d"));
    assert!(matches!(directory, Posix::IsDirectory | Posix::NotPermitted));
    assert_eq!(refused(play.rmdir("d/f")), Posix::NotDirectory);
    assert_eq!(refused(play.rmdir("d")), Posix::NotEmpty);
    play.unlink("d/f").expect("a file");
    play.rmdir("d").expect("an empty directory");
    assert_eq!(refused(play.find("d")), Posix::NotFound);
}

/// A directory that was removed while it is in use accepts nothing new.
#[test]
fn a_removed_directory_in_use() {
    let play = Play::new(8 << 20);
    let d = play.dir("d");
    play.file("f");
    play.volume.acquire(d).expect("it exists");
    play.rmdir("d").expect("an empty directory");
    let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
    let gone = |outcome: Posix| assert!(matches!(outcome, Posix::NotFound | Posix::Stale), "{outcome:?}");
    gone(refused(play.volume.make(&root(), d, b"x", &new)));
    gone(refused(play.volume.link(&root(), play.ino("f"), d, b"x")));
    gone(refused(play.volume.rename(&root(), InodeNo::ROOT, b"f", d, b"x", RenameMode::Replace)));
    match play.volume.read_dir(d, 2, 10) {
        Ok(entries) => assert!(entries.is_empty()),
        refusal => gone(refused(refusal)),
    }
    assert_eq!(play.volume.attr(d).expect("it is in use").links, 0);
    play.volume.release(d, 1);
    play.settle();
    gone(refused(play.volume.attr(d)));
}

/// An unlinked file lives while it is open, and its space comes back when it is closed, or after a crash.
#[test]
fn an_unlinked_file_in_use() {
    let play = Play::new(16 << 20);
    play.settle();
    let (before, inodes) = (play.volume.stat_fs(), play.inodes());
    let open_and_unlink = |play: &Play| {
        let ino = play.file("f");
        play.put(ino, 0, &vec![7; 2 << 20]);
        play.volume.acquire(ino).expect("it exists");
        play.unlink("f").expect("it exists");
        assert_eq!(play.volume.attr(ino).expect("it is open").links, 0);
        play.put(ino, 1 << 20, b"still writable");
        assert_eq!(play.get(ino, 1 << 20, 14), b"still writable");
        ino
    };
    let ino = open_and_unlink(&play);
    play.volume.release(ino, 1);
    assert!(play.is_gone(ino));
    play.settle();
    assert_eq!(refused(play.volume.attr(ino)), Posix::Stale);
    let after = play.volume.stat_fs();
    assert_eq!((play.inodes(), after.blocks_free), (inodes, before.blocks_free), "closed");

    let ino = open_and_unlink(&play);
    play.volume.sync().expect("a healthy disk");
    let play = play.crash();
    assert!(play.is_gone(ino));
    play.settle();
    assert_eq!(refused(play.volume.attr(ino)), Posix::Stale);
    let after = play.volume.stat_fs();
    assert_eq!(play.inodes(), inodes, "after a crash");
    // A remount adds an epoch and may place tree nodes anew; two megabytes must not be missing.
    assert!(before.blocks_free.abs_diff(after.blocks_free) < 64, "{} before, {after:?}", before.blocks_free);
}

#[test]
fn files_without_a_name() {
    let play = Play::new(8 << 20);
    let d = play.dir("d");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let kept = play.volume.make_tmpfile(&root(), d, &new).expect("a directory");
    let lost = play.volume.make_tmpfile(&root(), d, &new).expect("a directory");
    assert_eq!((kept.links, play.stat("d").size), (0, 0));
    play.put(kept.ino, 0, b"kept");
    play.volume.link(&root(), kept.ino, d, b"name").expect("it never had a name");
    play.volume.release(kept.ino, 1);
    play.volume.release(lost.ino, 1);
    assert!(play.is_gone(lost.ino));
    let play = play.remount();
    assert_eq!((play.get(play.ino("d/name"), 0, 10), play.stat("d/name").links), (b"kept".to_vec(), 1));
}

#[test]
fn symlinks() {
    let play = Play::new(8 << 20);
    let make = |name: &[u8], target: &[u8]| {
        let new = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target: target.to_vec() };
        play.volume.make(&root(), InodeNo::ROOT, name, &new)
    };
    for len in [1, 2048, 2049, 4095] {
        let name = format!("link {len}");
        let attr = make(name.as_bytes(), &vec![b't'; len]).expect("a valid target");
        assert_eq!((attr.size, attr.mode), (len as u64, 0o777));
        assert_eq!(play.volume.read_link(attr.ino).expect("a symlink"), vec![b't'; len]);
    }
    let empty = refused(make(b"empty", b""));
    assert!(matches!(empty, Posix::NotFound | Posix::InvalidArgument));
    let long = refused(make(b"long", &[b't'; 4096]));
    assert!(matches!(long, Posix::NameTooLong | Posix::InvalidArgument), "{long:?}");
    let file = play.file("file");
    assert_eq!(refused(play.volume.read_link(file)), Posix::InvalidArgument);
}

#[test]
fn devices_keep_their_number() {
    let play = Play::new(8 << 20);
    for (number, kind) in [FileKind::CharDevice, FileKind::BlockDevice].into_iter().enumerate() {
        let rdev = 0x0801_0000_0000 + number as u64;
        let new = NewInode { kind, mode: 0o660, rdev, target: Vec::new() };
        let name = format!("device {number}");
        play.volume.make(&root(), InodeNo::ROOT, name.as_bytes(), &new).expect("root may");
    }
    play.other("socket", FileKind::Socket);
    play.other("fifo", FileKind::Fifo);
    let play = play.remount();
    assert_eq!((play.stat("device 1").rdev, play.stat("device 1").kind), (0x0801_0000_0001, FileKind::BlockDevice));
    assert_eq!((play.stat("socket").kind, play.stat("fifo").kind), (FileKind::Socket, FileKind::Fifo));
}

/// Every operation on the wrong kind of inode, and the error that it gives.
#[test]
fn wrong_kinds() {
    let play = Play::new(8 << 20);
    let (dir, file, fifo) = (play.dir("dir"), play.file("file"), play.other("fifo", FileKind::Fifo));
    let volume = &play.volume;
    let mut buf = [0; 10];
    let invalid_or_dir = |outcome: Posix| assert!(matches!(outcome, Posix::IsDirectory | Posix::InvalidArgument));
    invalid_or_dir(refused(volume.read(dir, 0, &mut buf)));
    invalid_or_dir(refused(volume.write(&root(), dir, 0, b"x", WriteMode::Direct)));
    invalid_or_dir(refused(play.set_as(&root(), "dir", SetAttr { size: Some(0), ..SetAttr::default() })));
    invalid_or_dir(refused(play.set_as(&root(), "fifo", SetAttr { size: Some(0), ..SetAttr::default() })));
    invalid_or_dir(refused(volume.read(fifo, 0, &mut buf)));
    assert_eq!(refused(volume.read_dir(file, 0, 10)), Posix::NotDirectory);
    assert_eq!(refused(volume.lookup(&root(), file, b"x")), Posix::NotDirectory);
    assert_eq!(refused(volume.unlink(&root(), file, b"x")), Posix::NotDirectory);
    let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
    assert_eq!(refused(volume.make(&root(), file, b"x", &new)), Posix::NotDirectory);
    let nowhere = InodeNo(1 << 40);
    for outcome in [
        refused(volume.attr(nowhere)),
        refused(volume.read(nowhere, 0, &mut buf)),
        refused(volume.lookup(&root(), nowhere, b"x")),
        refused(volume.acquire(nowhere)),
        refused(volume.set_xattr(&root(), nowhere, b"user.a", b"", XattrMode::Any)),
    ] {
        assert!(matches!(outcome, Posix::Stale | Posix::NotFound), "{outcome:?}");
    }
}

#[test]
fn inode_numbers_are_never_used_again() {
    let mut play = Play::new(8 << 20);
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        for number in 0..50 {
            let name = format!("{round} {number}");
            assert!(seen.insert(play.file(&name)), "round {round}: a number was used again");
            play.unlink(&name).expect("it exists");
        }
        play.volume.sync().expect("a healthy disk");
        play = if round % 2 == 0 { play.remount() } else { play.crash() };
    }
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let play = Play::new(8 << 20);
    let ino = play.file("f");
    play.put(ino, 0, b"content");
    play.dir("d");
    let Play { volume, disk, world, .. } = play.remount();
    volume.close().expect("a healthy disk");
    let disk = Recorder::new(disk.disk());
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let volume = world.open(std::sync::Arc::new(disk.clone()), &options).expect("an intact image");
    let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
    let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let all: [(&str, sefs::error::Result<()>); 9] = [
        ("make", volume.make(&root(), InodeNo::ROOT, b"x", &new).map(drop)),
        ("link", volume.link(&root(), ino, InodeNo::ROOT, b"x").map(drop)),
        ("unlink", volume.unlink(&root(), InodeNo::ROOT, b"f")),
        ("rmdir", volume.rmdir(&root(), InodeNo::ROOT, b"d")),
        ("rename", volume.rename(&root(), InodeNo::ROOT, b"f", InodeNo::ROOT, b"g", RenameMode::Replace)),
        ("write", volume.write(&root(), ino, 0, b"x", WriteMode::Direct).map(drop)),
        ("set_attr", volume.set_attr(&root(), ino, &change).map(drop)),
        ("set_xattr", volume.set_xattr(&root(), ino, b"user.a", b"", XattrMode::Any)),
        ("tmpfile", volume.make_tmpfile(&root(), InodeNo::ROOT, &new).map(drop)),
    ];
    for (what, result) in all {
        assert_eq!(refused(result), Posix::ReadOnly, "{what}");
    }
    assert!(volume.info().read_only);
    use_read_only(&volume, ino);
    volume.close().expect("closing writes nothing");
    // Not even what stands there already.
    assert_eq!(disk.position(), 0, "a read-only mount wrote");
    let opened = world.open(std::sync::Arc::new(disk.clone()), &OpenOptions::default()).expect("an intact image");
    drop(opened);
    assert_eq!(disk.position(), 0, "opening wrote");
}

fn use_read_only(volume: &Volume, ino: InodeNo) {
    let mut buf = [0; 7];
    assert_eq!(volume.read(ino, 0, &mut buf).expect("an intact image"), 7);
    assert_eq!(&buf, b"content");
    volume.acquire(ino).expect("it exists");
    volume.release(ino, 1);
    volume.work(true).expect("nothing to do");
    volume.sync().expect("nothing to do");
}

/// Cookies stay valid while entries come and go: what exists all the time is listed exactly once.
#[test]
fn a_large_directory_lists_stably() {
    let count = scaled(100_000, 1_000_000) as u64;
    let play = Play::new(if count > 100_000 { 2 << 30 } else { 256 << 20 });
    let d = play.dir("d");
    let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
    let name = |number: u64| format!("entry {number:08}").into_bytes();
    for number in 0..count {
        play.volume.make(&root(), d, &name(number), &new).expect("space enough");
        if number % 1024 == 0 {
            play.volume.work(false).expect("a healthy disk");
        }
    }
    assert_eq!(play.stat("d").size, count);
    let mut dice = Dice::new(count);
    // Multiples of 10 stay; others come and go while the listing is under way.
    let mut listed = BTreeSet::new();
    let (mut cookie, mut calls) = (0, 0u64);
    loop {
        let entries = play.volume.read_dir(d, cookie, 300).expect("a healthy disk");
        let Some(last) = entries.last() else { break };
        cookie = last.cookie;
        for entry in entries {
            assert!(listed.insert(entry.name), "listed twice");
        }
        for _ in 0..20 {
            let number = dice.below(count);
            if !number.is_multiple_of(10) {
                drop(play.volume.unlink(&root(), d, &name(number)));
            }
        }
        calls += 1;
        let extra = format!("new {calls}").into_bytes();
        play.volume.make(&root(), d, &extra, &new).expect("space enough");
    }
    for number in (0..count).step_by(10) {
        assert!(listed.contains(&name(number)), "entry {number} was there all the time and is not listed");
    }
    let play = play.remount();
    let again = play.volume.read_dir(play.ino("d"), cookie - 1, 2).expect("a healthy disk");
    assert!(again.iter().all(|entry| entry.cookie >= cookie), "a cookie means the same place after a remount");
}
