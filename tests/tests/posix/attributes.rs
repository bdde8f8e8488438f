//! Times, modes, owners, extended attributes.

use sefs::error::Posix;
use sefs::types::Timestamp;
use sefs::vfs::{AllocateMode, Attr, Caller, FileKind, RenameMode, SetAttr, SetTime, WriteMode, XattrMode};
use sefs_tests::play::{Play, refused};
use sefs_tests::world::checked_root;

fn root() -> Caller {
    Caller::root()
}

/// Which times an operation moves to now.
fn moved(before: &Attr, after: &Attr, now: i64) -> String {
    let times = [("a", before.atime, after.atime), ("m", before.mtime, after.mtime), ("c", before.ctime, after.ctime)];
    let mut text = String::new();
    for (name, before, after) in times {
        match after {
            after if after == before => {}
            after if after.seconds == now => text.push_str(name),
            after => panic!("{name}time went to {after:?}"),
        }
    }
    assert_eq!(before.btime, after.btime, "creation time moved");
    assert_eq!(before.change < after.change, !text.is_empty(), "the change counter and the times disagree");
    text
}

type Step = fn(&Play);

/// Each operation, the times it moves of the file, of the directory, and of a second directory.
#[test]
fn which_times_move() {
    let cases: [(&str, Step, [&str; 3]); 22] = [
        ("nothing", |_| {}, ["", "", ""]),
        ("read", |play| _ = play.get(play.ino("d/f"), 0, 10), ["", "", ""]),
        ("write", |play| play.put(play.ino("d/f"), 0, b"x"), ["mc", "", ""]),
        ("write nothing", |play| play.put(play.ino("d/f"), 0, b""), ["", "", ""]),
        ("cut", |play| play.truncate(play.ino("d/f"), 3), ["mc", "", ""]),
        ("extend", |play| play.truncate(play.ino("d/f"), 9999), ["mc", "", ""]),
        ("chmod", |play| set(play, SetAttr { mode: Some(0o600), ..SetAttr::default() }), ["c", "", ""]),
        ("chown", |play| set(play, SetAttr { uid: Some(5), ..SetAttr::default() }), ["c", "", ""]),
        ("utimes now", |play| set(play, times(SetTime::Now)), ["amc", "", ""]),
        ("set xattr", |play| xattr(play, b"user.x"), ["c", "", ""]),
        ("remove xattr", |play| play.volume.remove_xattr(&root(), play.ino("d/f"), b"user.a").unwrap(), ["c", "", ""]),
        ("link", |play| _ = play.link("d/f", "e/g").unwrap(), ["c", "", "mc"]),
        ("make", |play| _ = play.file("d/new"), ["", "mc", ""]),
        ("make a directory", |play| _ = play.dir("d/new"), ["", "mc", ""]),
        ("rename within", |play| play.rename("d/f", "d/g").unwrap(), ["c", "mc", ""]),
        ("rename across", |play| play.rename("d/f", "e/g").unwrap(), ["c", "mc", "mc"]),
        ("exchange", exchange, ["c", "mc", "mc"]),
        ("unlink another name", |play| play.unlink("d/second").unwrap(), ["c", "mc", ""]),
        ("rmdir", |play| play.rmdir("d/empty").unwrap(), ["", "mc", ""]),
        ("punch", |play| allocate(play, AllocateMode::PunchHole), ["mc", "", ""]),
        ("allocate", |play| allocate(play, AllocateMode::Allocate { keep_size: false }), ["mc", "", ""]),
        ("a refused make", |play| _ = play.make_as(&root(), "d/f", FileKind::Regular, 0).unwrap_err(), ["", "", ""]),
    ];
    for (what, step, expected) in cases {
        let play = Play::new(4 << 20);
        play.at(100);
        play.dir("d");
        play.dir("e");
        play.file("e/other");
        play.dir("d/empty");
        let file = play.file("d/f");
        play.put(file, 0, b"content");
        play.link("d/f", "d/second").expect("a second name");
        play.volume.set_xattr(&root(), file, b"user.a", b"1", XattrMode::Any).expect("space enough");
        let (d, e) = (play.ino("d"), play.ino("e"));
        let all = || [file, d, e].map(|ino| play.volume.attr(ino).expect("it exists"));
        let before = all();
        step(play.at(200));
        let after = all();
        let found: Vec<String> = before.iter().zip(&after).map(|(before, after)| moved(before, after, 200)).collect();
        assert_eq!(found, expected, "{what}");
        let play = play.remount();
        let stored = [file, d, e].map(|ino| play.volume.attr(ino).expect("it exists"));
        assert_eq!(stored, after, "{what}: after a remount");
    }
}

fn set(play: &Play, change: SetAttr) {
    play.set_as(&root(), "d/f", change).expect("root may");
}

fn times(time: SetTime) -> SetAttr {
    SetAttr { atime: Some(time), mtime: Some(time), ..SetAttr::default() }
}

fn xattr(play: &Play, name: &[u8]) {
    play.volume.set_xattr(&root(), play.ino("d/f"), name, b"value", XattrMode::Any).expect("space enough");
}

fn exchange(play: &Play) {
    play.rename_as(&root(), "d/f", "e/other", RenameMode::Exchange).expect("both exist");
}

fn allocate(play: &Play, mode: AllocateMode) {
    play.volume.allocate(&root(), play.ino("d/f"), 0, 8192, mode).expect("space enough");
}

#[test]
fn times_are_kept_to_the_nanosecond_and_before_1970() {
    let play = Play::new(4 << 20);
    play.file("f");
    let when = Timestamp { seconds: -12_345_678_901, nanoseconds: 999_999_999 };
    let change = SetAttr { btime: Some(when), ctime: Some(when), ..times(SetTime::At(when)) };
    let attr = play.set_as(&root(), "f", change).expect("root may");
    assert_eq!([attr.atime, attr.mtime, attr.ctime, attr.btime], [when; 4]);
    let attr = play.remount().stat("f");
    assert_eq!([attr.atime, attr.mtime, attr.ctime, attr.btime], [when; 4]);
}

/// The kernel's write-back moves no times: the kernel sends them itself.
#[test]
fn writeback_moves_no_times() {
    let play = Play::new(4 << 20);
    let file = play.at(100).file("f");
    play.at(200);
    play.volume.write(&root(), file, 0, b"cached", WriteMode::Writeback).expect("space enough");
    assert_eq!((play.stat("f").mtime.seconds, play.stat("f").size), (100, 6));
}

/// Set-user-id and set-group-id go when somebody else's hand was in the file.
#[test]
fn privileges_are_dropped() {
    let prepare = || {
        let play = Play::new(4 << 20);
        play.make_as(&root(), "f", FileKind::Regular, 0o6777).expect("root may");
        assert_eq!(play.stat("f").mode, 0o6777);
        play
    };
    let user = Caller::user(7, 7);
    let play = prepare();
    play.put(play.ino("f"), 0, b"root writes");
    assert_eq!(play.stat("f").mode, 0o6777, "root's writes keep them");
    play.volume.write(&user, play.ino("f"), 0, b"x", WriteMode::Direct).expect("it is writable by all");
    assert_eq!(play.stat("f").mode, 0o777, "a user's write");
    let play = prepare();
    play.volume.write(&root(), play.ino("f"), 0, b"x", WriteMode::KillPrivileges).expect("space enough");
    assert_eq!(play.stat("f").mode, 0o777, "a write that says so");
    let play = prepare();
    play.set_as(&user, "f", SetAttr { size: Some(100), ..SetAttr::default() }).expect("it is writable by all");
    assert_eq!(play.stat("f").mode, 0o777, "a user's truncate");
    let play = prepare();
    play.set_as(&root(), "f", SetAttr { uid: Some(9), ..SetAttr::default() }).expect("root may");
    assert_eq!(play.stat("f").mode, 0o777, "a new owner");
    let play = prepare();
    play.volume.set_xattr(&root(), play.ino("f"), b"security.capability", &[1; 20], XattrMode::Any).expect("root may");
    play.volume.write(&user, play.ino("f"), 0, b"x", WriteMode::Direct).expect("it is writable by all");
    let gone = play.volume.get_xattr(&root(), play.ino("f"), b"security.capability");
    assert_eq!(refused(gone), Posix::NoAttribute, "capabilities go with a write");
}

#[test]
fn xattr_namespaces_and_limits() {
    let play = Play::new(8 << 20);
    let (file, link, fifo) = (play.file("f"), play.other("l", FileKind::Symlink), play.other("p", FileKind::Fifo));
    let volume = &play.volume;
    let set = |ino, name: &[u8], value: &[u8], mode| volume.set_xattr(&checked_root(), ino, name, value, mode);
    for len in [0, 1, 2048, 2049, 4096, 65_535, 65_536] {
        let value = vec![b'v'; len];
        set(file, b"user.a", &value, XattrMode::Any).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        assert_eq!(volume.get_xattr(&root(), file, b"user.a").expect("it was set"), value);
    }
    assert_eq!(refused(set(file, b"user.a", &vec![0; 65_537], XattrMode::Any)), Posix::TooLong);
    assert_eq!(refused(set(file, b"user.a", b"", XattrMode::Create)), Posix::Exists);
    assert_eq!(refused(set(file, b"user.b", b"", XattrMode::Replace)), Posix::NoAttribute);
    assert_eq!(refused(volume.get_xattr(&root(), file, b"user.b")), Posix::NoAttribute);
    assert_eq!(refused(volume.remove_xattr(&root(), file, b"user.b")), Posix::NoAttribute);
    for ino in [link, fifo] {
        assert_eq!(refused(set(ino, b"user.a", b"", XattrMode::Any)), Posix::NotPermitted);
        set(ino, b"trusted.a", b"t", XattrMode::Any).expect("trusted attributes stand anywhere");
    }
    let longest = [b"user.", &[b'n'; 250][..]].concat();
    set(file, &longest, b"x", XattrMode::Any).expect("255 bytes of name");
    let too_long = refused(set(file, &[&longest[..], b"n"].concat(), b"x", XattrMode::Any));
    assert!(matches!(too_long, Posix::BufferTooSmall | Posix::NameTooLong | Posix::InvalidArgument), "{too_long:?}");
    let unknown = refused(set(file, b"nonsense.a", b"x", XattrMode::Any));
    assert!(matches!(unknown, Posix::NotSupported | Posix::InvalidArgument), "{unknown:?}");
    let play = play.remount();
    let mut names = play.volume.list_xattr(&root(), file).expect("a healthy disk");
    names.sort();
    assert_eq!(names, [b"user.a".to_vec(), longest]);
}

/// Many attributes on one inode, each of its own size, replaced and removed.
#[test]
fn many_xattrs() {
    let play = Play::new(16 << 20);
    let file = play.file("f");
    let name = |number: usize| format!("user.attribute {number}").into_bytes();
    for number in 0..300 {
        let value = vec![number as u8; number * 13];
        play.volume.set_xattr(&root(), file, &name(number), &value, XattrMode::Create).expect("space enough");
    }
    for number in (0..300).step_by(3) {
        play.volume.remove_xattr(&root(), file, &name(number)).expect("it was set");
    }
    for number in (1..300).step_by(3) {
        let value = vec![1; 5000 - number * 13];
        play.volume.set_xattr(&root(), file, &name(number), &value, XattrMode::Replace).expect("it was set");
    }
    let play = play.remount();
    for number in 0..300 {
        let expected = match number % 3 {
            0 => None,
            1 => Some(vec![1; 5000 - number * 13]),
            _ => Some(vec![number as u8; number * 13]),
        };
        let found = play.volume.get_xattr(&root(), file, &name(number));
        assert_eq!(found.ok(), expected, "attribute {number}");
    }
    assert_eq!(play.volume.list_xattr(&root(), file).expect("a healthy disk").len(), 200);
}
