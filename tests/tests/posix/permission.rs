//! Who may do what: permission bits, the sticky bit, set-group-id, access control lists.

use sefs::error::{Posix, Result};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{Caller, EXECUTE, FileKind, NewInode, READ, RenameMode, SetAttr, SetTime, WRITE, WriteMode, XattrMode};
use sefs_tests::play::{Play, refused};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

fn root() -> Caller {
    Caller::root()
}

fn user(uid: u32) -> Caller {
    Caller::user(uid, uid)
}

fn denied<T: core::fmt::Debug>(what: &str, result: Result<T>) {
    let outcome = refused(result);
    assert!(matches!(outcome, Posix::AccessDenied | Posix::NotPermitted), "{what}: {outcome:?}");
}

/// Puts something there as root, owned by `uid`, with exactly these permission bits.
fn place(play: &Play, path: &str, kind: FileKind, mode: u32, uid: u32) -> InodeNo {
    play.make_as(&root(), path, kind, mode).expect("root may");
    play.set_as(&root(), path, SetAttr { uid: Some(uid), gid: Some(uid), ..SetAttr::default() }).expect("root may");
    play.set_as(&root(), path, SetAttr { mode: Some(mode), ..SetAttr::default() }).expect("root may").ino
}

#[test]
fn the_class_that_matches_first_decides() {
    let play = Play::new(4 << 20);
    let masks = [READ, WRITE, EXECUTE, READ | WRITE, 0];
    let member = Caller { groups: vec![5], ..user(8) };
    for mode in [0o000, 0o400, 0o040, 0o004, 0o077, 0o704, 0o751, 0o640] {
        let name = format!("{mode:o}");
        let ino = place(&play, &name, FileKind::Regular, mode, 5);
        for (caller, shift) in [(user(5), 6), (Caller::user(6, 5), 3), (member.clone(), 3), (user(9), 0)] {
            for mask in masks {
                let may = (mode >> shift) & mask == mask;
                let result = play.volume.access(&caller, ino, mask);
                assert_eq!(result.is_ok(), may, "mode {mode:o}, user {}, mask {mask}: {result:?}", caller.uid);
            }
        }
        play.volume.access(&root(), ino, READ | WRITE).expect("root reads and writes anything");
        let executes = play.volume.access(&root(), ino, EXECUTE).is_ok();
        assert_eq!(executes, mode & 0o111 != 0, "root executes only what somebody may");
    }
}

#[test]
fn directories_need_write_and_search() {
    for (mode, may_make, may_look) in
        [(0o777, true, true), (0o775, false, true), (0o776, false, false), (0o772, false, false)]
    {
        let play = Play::new(4 << 20);
        let d = place(&play, "d", FileKind::Directory, mode, 5);
        play.file("d/there");
        let caller = user(9);
        let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
        let made = play.volume.make(&caller, d, b"new", &new);
        assert_eq!(made.is_ok(), may_make, "make in {mode:o}");
        assert_eq!(play.volume.lookup(&caller, d, b"there").is_ok(), may_look, "lookup in {mode:o}");
        assert_eq!(play.volume.unlink(&caller, d, b"there").is_ok(), may_make, "unlink in {mode:o}");
        if let Ok(attr) = made {
            assert_eq!((attr.uid, attr.gid), (9, 9));
        }
    }
}

#[test]
fn only_the_owner_changes_what_is_his() {
    let play = Play::new(4 << 20);
    place(&play, "f", FileKind::Regular, 0o666, 5);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(refused(play.set_as(&user(9), "f", mode.clone())), Posix::NotPermitted);
    play.set_as(&user(5), "f", mode).expect("the owner may");
    let owner = |uid| SetAttr { uid: Some(uid), ..SetAttr::default() };
    assert_eq!(refused(play.set_as(&user(5), "f", owner(9))), Posix::NotPermitted);
    let group = |gid| SetAttr { gid: Some(gid), ..SetAttr::default() };
    assert_eq!(refused(play.set_as(&user(5), "f", group(77))), Posix::NotPermitted);
    let member = Caller { groups: vec![77], ..user(5) };
    play.set_as(&member, "f", group(77)).expect("the owner may give it to a group of his");
    assert_eq!(refused(play.set_as(&user(9), "f", group(9))), Posix::NotPermitted);
}

#[test]
fn times_need_ownership_or_for_now_write_permission() {
    let play = Play::new(4 << 20);
    place(&play, "open", FileKind::Regular, 0o666, 5);
    place(&play, "closed", FileKind::Regular, 0o644, 5);
    let at = |time| SetAttr { mtime: Some(time), atime: Some(time), ..SetAttr::default() };
    let past = SetTime::At(Timestamp { seconds: 1, nanoseconds: 0 });
    play.set_as(&user(9), "open", at(SetTime::Now)).expect("he may write it");
    denied("now, not writable", play.set_as(&user(9), "closed", at(SetTime::Now)));
    assert_eq!(refused(play.set_as(&user(9), "open", at(past))), Posix::NotPermitted);
    play.set_as(&user(5), "closed", at(past)).expect("the owner may");
}

#[test]
fn sizes_need_write_permission() {
    let play = Play::new(4 << 20);
    place(&play, "f", FileKind::Regular, 0o644, 5);
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    denied("truncate", play.set_as(&user(9), "f", cut.clone()));
    play.set_as(&user(5), "f", cut).expect("the owner may write");
}

/// In a sticky directory only the file's owner, the directory's owner and root remove or rename.
#[test]
fn sticky_directories() {
    let play = Play::new(4 << 20);
    place(&play, "tmp", FileKind::Directory, 0o1777, 3);
    play.dir("other");
    play.set_as(&root(), "other", SetAttr { mode: Some(0o777), ..SetAttr::default() }).expect("root may");
    for (caller, may) in [(user(5), true), (user(3), true), (user(9), false), (root(), true)] {
        let prepare = |path: &str| place(&play, path, FileKind::Regular, 0o666, 5);
        prepare("tmp/f");
        let outcome = play.unlink_as(&caller, "tmp/f");
        assert_eq!(outcome.is_ok(), may, "unlink by {}: {outcome:?}", caller.uid);
        if may {
            prepare("tmp/f");
        }
        let outcome = play.rename_as(&caller, "tmp/f", "other/f", RenameMode::Replace);
        assert_eq!(outcome.is_ok(), may, "rename away by {}: {outcome:?}", caller.uid);
        if may {
            prepare("tmp/f");
        }
        place(&play, "other/mine", FileKind::Regular, 0o666, caller.uid);
        let outcome = play.rename_as(&caller, "other/mine", "tmp/f", RenameMode::Replace);
        assert_eq!(outcome.is_ok(), may, "rename over by {}: {outcome:?}", caller.uid);
        for path in ["tmp/f", "other/f", "other/mine"] {
            drop(play.unlink(path));
        }
    }
}

#[test]
fn set_group_id_directories_pass_their_group_on() {
    let play = Play::new(4 << 20);
    place(&play, "d", FileKind::Directory, 0o2777, 5);
    let caller = user(9);
    let file = play.make_as(&caller, "d/f", FileKind::Regular, 0o644).expect("it is writable by all");
    let dir = play.make_as(&caller, "d/e", FileKind::Directory, 0o755).expect("it is writable by all");
    assert_eq!((file.uid, file.gid, file.mode), (9, 5, 0o644));
    assert_eq!((dir.gid, dir.mode), (5, 0o2755));
    // Somebody outside the group cannot make set-group-id programs for it.
    let program = play.make_as(&caller, "d/program", FileKind::Regular, 0o2755).expect("it is writable by all");
    assert_eq!(program.mode, 0o755);
    let changed = play.set_as(&caller, "d/f", SetAttr { mode: Some(0o2755), ..SetAttr::default() }).expect("his own");
    assert_eq!(changed.mode, 0o755);
}

#[test]
fn umask_applies_unless_there_is_a_default_acl() {
    let play = Play::new(4 << 20);
    let caller = Caller { umask: Some(0o027), ..root() };
    let attr = play.make_as(&caller, "f", FileKind::Regular, 0o666).expect("root may");
    assert_eq!(attr.mode, 0o640);
    let d = play.dir("d");
    let acl = acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 0, NONE)]);
    play.volume.set_xattr(&root(), d, DEFAULT, &acl, XattrMode::Any).expect("a valid list");
    let attr = play.make_as(&caller, "d/f", FileKind::Regular, 0o666).expect("root may");
    assert_eq!(attr.mode, 0o640, "the default list alone: rw- r-- ---");
    let attr = play.make_as(&caller, "d/e", FileKind::Directory, 0o777).expect("root may");
    assert_eq!(attr.mode, 0o750);
    assert_eq!(play.volume.get_xattr(&root(), attr.ino, DEFAULT).expect("directories inherit it"), acl);
}

const NONE: u32 = u32::MAX;

/// An access control list as Linux stores it: version 2, then (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// owner rw-, user 9 rwx, group r--, group 50 -w-, mask rw-, others ---.
fn sample() -> Vec<u8> {
    acl(&[(1, 6, NONE), (2, 7, 9), (4, 4, NONE), (8, 2, 50), (0x10, 6, NONE), (0x20, 0, NONE)])
}

#[test]
fn access_lists_decide() {
    let play = Play::new(4 << 20);
    let ino = place(&play, "f", FileKind::Regular, 0o600, 5);
    play.volume.set_xattr(&root(), ino, ACCESS, &sample(), XattrMode::Any).expect("a valid list");
    assert_eq!(play.stat("f").mode, 0o660, "the group bits show the mask");
    let named_group = Caller { groups: vec![50], ..user(10) };
    let cases = [
        (user(5), READ | WRITE, true),
        (user(5), EXECUTE, false),
        (user(9), READ | WRITE, true),
        (user(9), EXECUTE, false),
        (Caller::user(6, 5), READ, true),
        (Caller::user(6, 5), WRITE, false),
        (named_group.clone(), WRITE, true),
        (named_group, READ, false),
        (user(11), READ, false),
    ];
    for (caller, mask, may) in cases {
        let result = play.volume.access(&caller, ino, mask);
        assert_eq!(result.is_ok(), may, "user {}, mask {mask}: {result:?}", caller.uid);
    }
    play.set_as(&root(), "f", SetAttr { mode: Some(0o640), ..SetAttr::default() }).expect("root may");
    assert!(play.volume.access(&user(9), ino, WRITE).is_err(), "chmod changes the mask");
    let stored = play.volume.get_xattr(&root(), ino, ACCESS).expect("it was set");
    assert_eq!(stored[4 + 4 * 8 + 2], 4, "and the stored list");
}

#[test]
fn default_lists_are_inherited() {
    let play = Play::new(4 << 20);
    let d = play.dir("d");
    play.volume.set_xattr(&root(), d, DEFAULT, &sample(), XattrMode::Any).expect("a valid list");
    let file = play.make_as(&root(), "d/f", FileKind::Regular, 0o640).expect("root may");
    assert_eq!(file.mode, 0o640);
    play.volume.access(&user(9), file.ino, READ).expect("user 9 is on the list");
    assert!(play.volume.access(&user(9), file.ino, WRITE).is_err(), "the mode cuts the mask");
    let inner = play.make_as(&root(), "d/e", FileKind::Directory, 0o777).expect("root may");
    assert_eq!(play.volume.get_xattr(&root(), inner.ino, DEFAULT).expect("directories inherit it"), sample());
    let play = play.remount();
    play.volume.access(&user(9), play.ino("d/f"), READ).expect("user 9 is on the list");
}

#[test]
fn lists_that_make_no_sense_are_refused() {
    let play = Play::new(4 << 20);
    let (file, dir) = (play.file("f"), play.dir("d"));
    let cases: [(&str, Vec<u8>); 6] = [
        ("too short", vec![2, 0]),
        (
            "an unknown version",
            acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 0, NONE)]).iter().map(|byte| byte ^ 1).collect(),
        ),
        ("no owner", acl(&[(4, 5, NONE), (0x20, 0, NONE)])),
        ("a named user without a mask", acl(&[(1, 7, NONE), (2, 7, 9), (4, 5, NONE), (0x20, 0, NONE)])),
        ("an unknown tag", acl(&[(1, 7, NONE), (3, 7, 9), (4, 5, NONE), (0x20, 0, NONE)])),
        (
            "the same user twice",
            acl(&[(1, 7, NONE), (2, 7, 9), (2, 6, 9), (4, 5, NONE), (0x10, 7, NONE), (0x20, 0, NONE)]),
        ),
    ];
    for (what, value) in cases {
        let outcome = refused(play.volume.set_xattr(&root(), file, ACCESS, &value, XattrMode::Any));
        assert!(matches!(outcome, Posix::InvalidArgument | Posix::NotSupported), "{what}: {outcome:?}");
    }
    let on_file = refused(play.volume.set_xattr(&root(), file, DEFAULT, &sample(), XattrMode::Any));
    assert!(matches!(on_file, Posix::AccessDenied | Posix::NotPermitted | Posix::InvalidArgument), "{on_file:?}");
    play.volume.set_xattr(&root(), dir, DEFAULT, &sample(), XattrMode::Any).expect("a valid list");
}

#[test]
fn attributes_have_their_own_rules() {
    let play = Play::new(4 << 20);
    let ino = place(&play, "f", FileKind::Regular, 0o644, 5);
    let (owner, other) = (user(5), user(9));
    let set = |caller: &Caller, name: &[u8]| play.volume.set_xattr(caller, ino, name, b"v", XattrMode::Any);
    set(&owner, b"user.a").expect("the owner may write");
    denied("user.a by another", set(&other, b"user.a"));
    denied("trusted.a by the owner", set(&owner, b"trusted.a"));
    set(&root(), b"trusted.a").expect("root may");
    play.volume.get_xattr(&other, ino, b"user.a").expect("all may read the file");
    let hidden = refused(play.volume.get_xattr(&owner, ino, b"trusted.a"));
    assert!(matches!(hidden, Posix::NoAttribute | Posix::NotPermitted), "{hidden:?}");
    let names = play.volume.list_xattr(&owner, ino).expect("listing needs nothing");
    assert!(!names.contains(&b"trusted.a".to_vec()), "trusted attributes are root's");
    denied("an access list by another", play.volume.set_xattr(&other, ino, ACCESS, &sample(), XattrMode::Any));
}

/// A caller whose kernel has checked already is not checked again.
#[test]
fn unchecked_callers_pass() {
    let play = Play::new(4 << 20);
    let ino = place(&play, "f", FileKind::Regular, 0o000, 5);
    let kernel = Caller { check: false, ..user(9) };
    play.volume.write(&kernel, ino, 0, b"x", WriteMode::Direct).expect("the kernel has checked");
    assert!(play.volume.access(&kernel, ino, READ).is_err(), "but access asks for the answer");
}
