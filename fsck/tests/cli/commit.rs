//! debug.sefs commit: a packed image of everything that a volume holds now.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sefs::backend::FileBackend;
use sefs::format::FileKind;
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{Attr, Caller, Env, NewInode, OpenOptions, Seek, SetAttr, SetTime, Volume, WriteMode, XattrMode};
use sefs_tools::RootDigest;
use sefs_tools::listing::{copy_out, entries, resolve};

use crate::bench::{Bench, Ran, pattern};
use crate::from::make_tree;

/// A volume `a` of a tree, written to afterwards.
fn with_volume() -> Bench {
    let bench = Bench::new();
    make_tree(&bench.path("src"));
    bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q", "--label", "mine"]).succeeded();
    let (volume, root) = (bench.volume("a", false), Caller::root());
    let new = NewInode { kind: FileKind::Regular, mode: 0o640, rdev: 0, target: Vec::new() };
    let made = volume.make(&root, InodeNo::ROOT, b"written later", &new).unwrap();
    volume.write(&root, made.ino, 1 << 30, &pattern(9000), WriteMode::Direct).unwrap();
    volume.set_xattr(&root, made.ino, b"user.note", b"kept", XattrMode::Any).unwrap();
    let files = resolve(&volume, b"files", false).unwrap().ino;
    volume.link(&root, made.ino, files, b"and again").unwrap();
    volume.unlink(&root, files, b"block").unwrap();
    let at = |seconds| Timestamp { seconds, nanoseconds: 987_654_321 };
    let times = SetAttr {
        size: Some((1 << 30) + (64 << 20)),
        atime: Some(SetTime::At(at(-77))),
        mtime: Some(SetTime::At(at(1_111))),
        ctime: Some(at(2_222)),
        btime: Some(at(3_333)),
        ..SetAttr::default()
    };
    volume.set_attr(&root, made.ino, &times).unwrap();
    volume.close().unwrap();
    bench
}

fn public_volume(path: &Path, made: &Ran) -> Volume {
    let backend = Arc::new(FileBackend::open(path, false).unwrap());
    let root_digest = Some(made.json()["root_digest"].as_str().unwrap().parse::<RootDigest>().unwrap().0);
    Volume::open_public(backend, &OpenOptions { root_digest, ..OpenOptions::default() }, &Env::host()).unwrap()
}

/// Everything that two volumes tell of a file is the same, but for inode numbers. Returns how many were compared.
fn same(one: &Volume, two: &Volume, inos: (InodeNo, InodeNo), path: &str) -> usize {
    let attrs = (one.attr(inos.0).unwrap(), two.attr(inos.1).unwrap());
    let shown = |attr: &Attr| {
        let Attr { kind, mode, uid, gid, links, size, rdev, atime, mtime, ctime, btime, .. } = *attr;
        (kind, mode, (uid, gid, links, size, rdev), [atime, mtime, ctime, btime])
    };
    assert_eq!(shown(&attrs.0), shown(&attrs.1), "{path}");
    let xattrs = |volume: &Volume, ino| {
        let names = volume.list_xattr(&Caller::root(), ino).unwrap();
        let value = |name: Vec<u8>| (volume.get_xattr(&Caller::root(), ino, &name).unwrap(), name);
        let mut all: Vec<_> = names.into_iter().map(value).collect();
        all.sort();
        all
    };
    assert_eq!(xattrs(one, inos.0), xattrs(two, inos.1), "{path}");
    match attrs.0.kind {
        FileKind::Directory => {
            let (left, right) = (entries(one, inos.0).unwrap(), entries(two, inos.1).unwrap());
            assert!(left.iter().map(|entry| &entry.name).eq(right.iter().map(|entry| &entry.name)), "{path}");
            let below = left.iter().zip(&right).map(|(left, right)| {
                same(one, two, (left.ino, right.ino), &format!("{path}/{}", String::from_utf8_lossy(&left.name)))
            });
            return 1 + below.sum::<usize>();
        }
        FileKind::Regular if attrs.0.size < 1 << 30 => {
            let content = |volume: &Volume, ino| {
                let mut all = Vec::new();
                copy_out(volume, ino, &mut |bytes| {
                    all.extend_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
                all
            };
            assert!(content(one, inos.0) == content(two, inos.1), "{path}");
        }
        FileKind::Symlink => assert_eq!(one.read_link(inos.0).unwrap(), two.read_link(inos.1).unwrap()),
        _ => {}
    }
    1
}

#[test]
fn a_commit_holds_all_that_the_volume_does() {
    let bench = with_volume();
    let before = fs::read(bench.path("a")).unwrap();
    let commit = |output: &str, more: &[&str]| {
        bench.debug(&[&["a", "--key-file", "key", "--json", "commit", "--output", output], more].concat()).succeeded()
    };
    let made = commit("public", &["--public"]);
    assert_eq!((made.json()["label"].as_str(), made.json()["content"]["hard_links"].as_u64()), (Some("mine"), Some(3)));
    let original = bench.volume("a", true);
    let public = public_volume(&bench.path("public"), &made);
    assert!(same(&original, &public, (InodeNo::ROOT, InodeNo::ROOT), "") > 14);
    let sparse = resolve(&public, b"written later", false).unwrap();
    assert_eq!((sparse.size, sparse.btime.seconds, sparse.ctime.seconds), ((1 << 30) + (64 << 20), 3_333, 2_222));
    assert_eq!(sparse.ino, resolve(&public, b"files/and again", false).unwrap().ino);
    assert_eq!(public.seek(sparse.ino, 0, Seek::Data).unwrap(), 1 << 30);
    let mut data = vec![0; 9000];
    public.read(sparse.ino, 1 << 30, &mut data).unwrap();
    assert_eq!(data, pattern(9000));
    assert!(resolve(&public, b"files/block", false).is_err(), "what was removed is not there");
    // With a key of its own, which is not the volume's.
    let sealed = commit("sealed", &["--key-file", "other"]);
    bench.debug(&["sealed", "--key-file", "key", "ls"]).refused(1, &["wrong key"]);
    bench.fsck(&["sealed", "--key-file", "other", "--scrub"]).succeeded();
    assert_eq!(sealed.json()["manifest_root"], made.json()["manifest_root"]);
    let listed = bench.debug(&["a", "--key-file", "key", "manifest", "--json"]).succeeded().json();
    assert_eq!(listed["manifest_root"], made.json()["manifest_root"]);
    // An image of an image is the same again.
    let digest = made.json()["root_digest"].as_str().unwrap().to_string();
    let again = ["public", "--root-digest", &digest, "--json", "commit", "-O", "again", "--public"];
    let again = bench.debug(&again).succeeded();
    assert_eq!(again.json()["manifest_root"], made.json()["manifest_root"]);
    drop(original);
    assert!(fs::read(bench.path("a")).unwrap() == before, "the volume stays as it is");
}

#[test]
fn reproducible_commits_are_the_same_bytes_as_the_directory() {
    let bench = Bench::new();
    make_tree(&bench.path("src"));
    bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    for kind in [&["--public"][..], &["--key-file", "other"]] {
        let commit = |output: &str| {
            let args = ["a", "--key-file", "key", "commit", "-q", "--output", output, "--reproducible", "--force"];
            bench.debug(&[&args[..], kind].concat()).succeeded();
            fs::read(bench.path(output)).unwrap()
        };
        let one = commit("one");
        assert!(one == commit("two"));
        let args = ["dir", "--from", "src", "--read-only", "--reproducible", "-q", "--force"];
        bench.mkfs(&[&args[..], kind].concat()).succeeded();
        assert!(one == fs::read(bench.path("dir")).unwrap(), "{kind:?}");
    }
}

#[test]
fn a_commit_that_makes_no_sense_is_refused() {
    let bench = Bench::with_image();
    let commit = |more: &[&str]| bench.debug(&[&["a", "--key-file", "key", "commit"], more].concat());
    commit(&["--output", "a", "--public", "--force"]).refused(2, &["it is the image that is read"]);
    commit(&["--output", "b", "--public", "--lower", "a"]).refused(2, &["the new image lies over nothing"]);
    commit(&["--output", "b"]).refused(2, &["no key is given"]);
    commit(&["--output", "b", "--public", "--key-file", "key"]).refused(2, &["a public image has no key"]);
    commit(&["--output", "phrase", "--public"]).refused(1, &["phrase: it holds", "--force"]);
    assert_eq!(commit(&["--public"]).code, Some(2));
    commit(&["--output", "b", "--reproducible", "--passphrase-file", "phrase"]).refused(2, &["only a raw key"]);
    assert!(!bench.path("b").exists());
    commit(&["--output", "b", "--public"]).succeeded();
    assert_eq!(fs::read(bench.path("phrase")).unwrap(), b"correct horse\n");
}

#[test]
fn a_commit_of_a_layered_volume_holds_all_layers() {
    let bench = Bench::with_image();
    bench.mkfs(&["low", "--from", "src", "--read-only", "--public", "-q"]).succeeded();
    bench.mkfs(&["up", "--size", "64M", "--lower", "low", "--key-file", "key", "-q"]).succeeded();
    let commit = ["up", "--key-file", "key", "--json", "commit", "--output", "all", "--public"];
    let made = bench.debug(&commit).succeeded();
    let digest = made.json()["root_digest"].as_str().unwrap().to_string();
    let content = bench.debug(&["all", "--root-digest", &digest, "cat", "sub/large"]).succeeded().out;
    assert!(content == pattern(300_000));
}
