//! rename(2), renameat2(2).

use sefs::error::Posix;
use sefs::vfs::{Caller, FileKind, RenameMode};
use sefs_tests::play::{Play, refused};
use sefs_tests::walk::walk;

/// What stands at a name before a rename.
#[derive(Clone, Copy, Debug, PartialEq)]
enum There {
    Nothing,
    File,
    Symlink,
    EmptyDir,
    FullDir,
}

use There::{EmptyDir, File, FullDir, Nothing, Symlink};

fn place(play: &Play, path: &str, what: There) {
    match what {
        Nothing => {}
        File => _ = play.file(path),
        Symlink => _ = play.other(path, FileKind::Symlink),
        EmptyDir => drop(play.dir(path)),
        FullDir => {
            play.dir(path);
            play.file(&format!("{path}/inside"));
        }
    }
}

/// Every pair of source and target, in one directory and across two.
#[test]
fn every_pair_of_kinds() {
    let all = [Nothing, File, Symlink, EmptyDir, FullDir];
    for mode in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
        for source in all {
            for target in all {
                for (from, to) in [("a", "b"), ("left/a", "right/b")] {
                    check_pair(mode, source, target, from, to);
                }
            }
        }
    }
}

fn check_pair(mode: RenameMode, source: There, target: There, from: &str, to: &str) {
    let play = Play::new(4 << 20);
    play.dir("left");
    play.dir("right");
    place(&play, from, source);
    place(&play, to, target);
    let (source_ino, target_ino) = (play.find(from).ok(), play.find(to).ok());
    let is_dir = |there: There| matches!(there, EmptyDir | FullDir);
    let expected = match (mode, source, target) {
        (_, Nothing, _) => Err(Posix::NotFound),
        (RenameMode::NoReplace, _, Nothing) | (RenameMode::Replace, _, Nothing) => Ok(()),
        (RenameMode::NoReplace, ..) => Err(Posix::Exists),
        (RenameMode::Exchange, _, Nothing) => Err(Posix::NotFound),
        (RenameMode::Exchange, ..) => Ok(()),
        (RenameMode::Replace, source, target) if is_dir(source) && !is_dir(target) => Err(Posix::NotDirectory),
        (RenameMode::Replace, source, target) if !is_dir(source) && is_dir(target) => Err(Posix::IsDirectory),
        (RenameMode::Replace, _, FullDir) => Err(Posix::NotEmpty),
        (RenameMode::Replace, ..) => Ok(()),
    };
    let result = play.rename_as(&Caller::root(), from, to, mode);
    let what = format!("{mode:?} {source:?} {from} over {target:?} {to}");
    match expected {
        Ok(()) => {
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(Some(play.ino(to)), source_ino.map(|attr| attr.ino), "{what}");
            let left = play.find(from).ok().map(|attr| attr.ino);
            let exchanged = target_ino.filter(|_| mode == RenameMode::Exchange).map(|attr| attr.ino);
            assert_eq!(left, exchanged, "{what}");
        }
        Err(outcome) => {
            assert_eq!(refused(result), outcome, "{what}");
            assert_eq!((play.find(from).ok(), play.find(to).ok()), (source_ino, target_ino), "{what}");
        }
    }
    walk(&play.volume).expect("consistent");
}

#[test]
fn into_itself_and_over_an_ancestor() {
    let play = Play::new(4 << 20);
    play.dir("a");
    play.dir("a/b");
    play.dir("a/b/c");
    play.file("a/b/f");
    for to in ["a/x", "a/b/x", "a/b/c/x", "a/b/c"] {
        assert_eq!(refused(play.rename("a", to)), Posix::InvalidArgument, "a to {to}");
    }
    assert_eq!(refused(play.rename("a/b/c", "a")), Posix::NotEmpty);
    let file = refused(play.rename("a/b/f", "a"));
    assert!(matches!(file, Posix::NotEmpty | Posix::IsDirectory));
    for (left, right) in [("a", "a/b"), ("a/b/c", "a"), ("a/b/f", "a")] {
        let outcome = refused(play.rename_as(&Caller::root(), left, right, RenameMode::Exchange));
        assert_eq!(outcome, Posix::InvalidArgument, "{left} and {right}");
    }
    walk(&play.volume).expect("consistent");
}

/// Two names of one inode: nothing happens, and both stay.
#[test]
fn between_two_names_of_one_file() {
    let play = Play::new(4 << 20);
    play.file("a");
    play.link("a", "b").expect("a second name");
    play.rename("a", "b").expect("nothing to do");
    assert_eq!((play.ino("a"), play.stat("b").links), (play.ino("b"), 2));
    play.rename("a", "a").expect("nothing to do");
    play.rename_as(&Caller::root(), "a", "b", RenameMode::Exchange).expect("nothing to do");
    assert_eq!(refused(play.rename_as(&Caller::root(), "a", "b", RenameMode::NoReplace)), Posix::Exists);
    walk(&play.volume).expect("consistent");
}

#[test]
fn a_directory_that_moves_takes_its_parent_and_link_along() {
    let play = Play::new(4 << 20);
    play.dir("left");
    play.dir("right");
    play.dir("left/d");
    play.file("right/f");
    play.rename("left/d", "right/d").expect("a free name");
    assert_eq!((play.stat("left").links, play.stat("right").links), (2, 3));
    assert_eq!(play.ino("right/d/.."), play.ino("right"));
    play.rename_as(&Caller::root(), "right/d", "left/e", RenameMode::Exchange).expect_err("nothing to exchange with");
    play.file("left/e");
    play.rename_as(&Caller::root(), "right/d", "left/e", RenameMode::Exchange).expect("both exist");
    assert_eq!((play.stat("left").links, play.stat("right").links), (3, 2));
    assert_eq!(play.ino("left/e/.."), play.ino("left"));
    let play = play.remount();
    assert_eq!(play.ino("left/e/.."), play.ino("left"));
    walk(&play.volume).expect("consistent");
}

/// What was replaced lives on while it is open.
#[test]
fn the_replaced_file_lives_while_it_is_open() {
    let play = Play::new(4 << 20);
    let (new, old) = (play.file("new"), play.file("old"));
    play.put(old, 0, b"old");
    play.volume.acquire(old).expect("it exists");
    play.rename("new", "old").expect("it replaces");
    assert_eq!((play.ino("old"), play.get(old, 0, 10)), (new, b"old".to_vec()));
    play.volume.release(old, 1);
    assert!(play.is_gone(old));
    play.settle();
    assert_eq!(refused(play.volume.attr(old)), Posix::Stale);
}
