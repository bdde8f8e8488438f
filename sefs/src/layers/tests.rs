//! Volumes over several images, and over other versions of them.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::backend::{Backend, MemoryBackend};
use crate::check::{CheckOptions, Event, Severity, check};
use crate::env::Env;
use crate::error::Error;
use crate::format::FileKind;
use crate::keys::VolumeKey;
use crate::pack::{NewEntry, Output, PackOptions, Packer};
use crate::types::{InodeNo, Timestamp};
use crate::vfs::{
    Attr, Caller, FormatOptions, Lower, NewInode, NewLower, OpenOptions, Owner, RenameMode, SetAttr, Volume, WriteMode,
    XattrMode,
};

fn key() -> VolumeKey {
    VolumeKey::new([7; 32])
}

/// What an image is made of: a path, and a directory, a file's content, or `Link`'s other path.
#[derive(Clone)]
enum Item {
    Dir,
    File(Vec<u8>),
    Link(&'static str),
}

type Items = Vec<(&'static str, Item)>;

fn file(content: &str) -> Item {
    Item::File(content.as_bytes().to_vec())
}

/// A file of so many blocks, each filled with its own byte.
fn blocks(fills: &[u8]) -> Item {
    Item::File(fills.iter().flat_map(|fill| vec![*fill; 4096]).collect())
}

fn image(items: &Items, is_public: bool) -> NewLower {
    let env = Env::host();
    let backend = Arc::new(MemoryBackend::new(0));
    let output = match is_public {
        true => Output::Public { backend: backend.clone(), volume_id: None },
        false => Output::Sealed {
            backend: backend.clone(),
            key: key(),
            volume_id: [3; 16],
            slots: Vec::new(),
            salt: [items.len() as u8; 32],
            measured: None,
        },
    };
    let mut packer = Packer::new(output, PackOptions { label: String::new(), dedup: true, threads: 1 }, &env).unwrap();
    let time = Timestamp { seconds: 5, nanoseconds: 0 };
    let entry = |kind| NewEntry {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        target: Vec::new(),
    };
    let mut numbers = BTreeMap::from([("", packer.make_root(&entry(FileKind::Directory)).unwrap())]);
    for (path, item) in items {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (dir, name) = (numbers[dir], name.as_bytes());
        let ino = match item {
            Item::Dir => packer.make(dir, name, &entry(FileKind::Directory)).unwrap(),
            Item::Link(other) => {
                packer.link(dir, name, numbers[other]).unwrap();
                continue;
            }
            Item::File(content) => {
                let ino = packer.make(dir, name, &entry(FileKind::Regular)).unwrap();
                packer.write(ino, 0, content).unwrap();
                packer.end_file(ino, content.len() as u64).unwrap();
                packer.set_xattr(ino, b"user.of", content.get(..4).unwrap_or(b"none")).unwrap();
                ino
            }
        };
        numbers.insert(path, ino);
    }
    let root_digest = packer.finish([0; 32]).unwrap().root_digest;
    let key = (!is_public).then(|| Arc::new(key()));
    NewLower { image: Lower { backend, key }, root_digest, note: b"a note".to_vec() }
}

fn format_options() -> FormatOptions {
    FormatOptions {
        size_bytes: 16 << 20,
        volume_id: [1; 16],
        label: String::new(),
        slots: Vec::new(),
        anchor: None,
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    }
}

/// A volume over images, and what it is asked.
struct Bench {
    backend: Arc<MemoryBackend>,
    lowers: Vec<NewLower>,
}

impl Bench {
    fn over(lowers: Vec<NewLower>) -> Bench {
        let backend = Arc::new(MemoryBackend::new(0));
        Volume::format_over(backend.clone(), &key(), &format_options(), &lowers, &Env::host()).unwrap();
        let bench = Bench { backend, lowers };
        bench.is_whole();
        bench
    }

    fn images(&self) -> Vec<Lower> {
        self.lowers.iter().map(|lower| lower.image.clone()).collect()
    }

    fn check_options(&self) -> CheckOptions {
        CheckOptions { scrub: true, lowers: self.images(), ..CheckOptions::default() }
    }

    fn is_whole(&self) {
        let mut wrong = Vec::new();
        check(self.backend.clone(), &key(), &self.check_options(), &Env::host(), &mut |event| {
            if let Event::Finding(finding) = event
                && finding.severity() == Severity::Error
            {
                wrong.push(finding);
            }
        })
        .unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    fn open(&self) -> Volume {
        let mut volume = Volume::open(self.backend.clone(), &key(), &OpenOptions::default(), &Env::host()).unwrap();
        self.images().iter().for_each(|image| volume.attach_lower(image, &Env::host()).unwrap());
        volume
    }

    fn change(&self, change: impl FnOnce(&Volume)) {
        let volume = self.open();
        change(&volume);
        volume.close().unwrap();
        self.is_whole();
    }

    /// Upgraded to other images, and the conflicts.
    fn upgrade(&mut self, new: Vec<NewLower>) -> Vec<(String, Why)> {
        let options = self.check_options();
        let done = upgrade(self.backend.clone(), &key(), &options, &new, &Env::host(), &mut |_, _, _| {}).unwrap();
        let Upgraded::Done(conflicts) = done else { panic!("{done:?}") };
        self.lowers = new;
        self.is_whole();
        conflicts.into_iter().map(|conflict| (String::from_utf8(conflict.path).unwrap(), conflict.why)).collect()
    }

    /// All paths, and what is there: contents of files, "/" for directories.
    fn tree(&self) -> BTreeMap<String, String> {
        let volume = self.open();
        let (mut found, mut pending) = (BTreeMap::new(), vec![(String::new(), InodeNo::ROOT)]);
        while let Some((path, dir)) = pending.pop() {
            for entry in volume.read_dir(dir, 0, usize::MAX).unwrap().into_iter().skip(2) {
                let name = String::from_utf8(entry.name).unwrap();
                let path = if path.is_empty() { name } else { alloc::format!("{path}/{name}") };
                let told = match entry.kind {
                    FileKind::Directory => {
                        pending.push((path.clone(), entry.ino));
                        String::from("/")
                    }
                    _ => text(&volume, entry.ino),
                };
                found.insert(path, told);
            }
        }
        found
    }
}

/// A file's bytes, each run of equal ones once.
fn text(volume: &Volume, ino: InodeNo) -> String {
    let size = volume.attr(ino).unwrap().size as usize;
    let mut bytes = vec![0; size];
    assert_eq!(volume.read(ino, 0, &mut bytes).unwrap(), size);
    if size < 4096 {
        return String::from_utf8(bytes).unwrap();
    }
    bytes.chunk_by(|one, two| one == two).map(|run| alloc::format!("{}x{} ", run[0], run.len())).collect()
}

fn find(volume: &Volume, path: &str) -> Attr {
    let root = volume.attr(InodeNo::ROOT).unwrap();
    path.split('/').fold(root, |dir, name| volume.lookup(&Caller::root(), dir.ino, name.as_bytes()).unwrap())
}

fn put(volume: &Volume, path: &str, offset: u64, bytes: &[u8]) {
    let ino = find(volume, path).ino;
    volume.write(&Caller::root(), ino, offset, bytes, WriteMode::Direct).unwrap();
}

fn make(volume: &Volume, dir: InodeNo, name: &str, kind: FileKind) -> InodeNo {
    let new = NewInode { kind, mode: 0o700, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), dir, name.as_bytes(), &new).unwrap().ino
}

fn tree(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(path, told)| (String::from(*path), String::from(*told))).collect()
}

#[test]
fn nothing_is_read_before_all_images_are_there_and_no_other_is_taken() {
    let bench = Bench::over(vec![image(&vec![("a", file("1"))], true)]);
    let mut volume = Volume::open(bench.backend.clone(), &key(), &OpenOptions::default(), &Env::host()).unwrap();
    let missing = Error::from(crate::error::Incompatible::Lowers { needed: 1, given: 0 });
    assert_eq!(volume.lookup(&Caller::root(), InodeNo::ROOT, b"a"), Err(missing.clone()));
    assert_eq!(volume.attr(InodeNo::ROOT).unwrap_err(), missing);
    assert_eq!((volume.lowers().len(), &volume.lowers()[0].note[..]), (1, &b"a note"[..]));
    for other in [image(&vec![("a", file("2"))], true), image(&vec![("a", file("1"))], false)] {
        let refused = volume.attach_lower(&other.image, &Env::host()).unwrap_err();
        assert!(matches!(refused, Error::Incompatible(_)), "{refused:?}");
    }
    volume.attach_lower(&bench.lowers[0].image, &Env::host()).unwrap();
    let twice = volume.attach_lower(&bench.lowers[0].image, &Env::host()).unwrap_err();
    assert_eq!(twice, crate::error::Incompatible::Lowers { needed: 1, given: 2 }.into());
    assert_eq!(text(&volume, find(&volume, "a").ino), "1");
}

#[test]
fn of_several_images_the_topmost_has_a_path_and_directories_are_merged() {
    let top = image(
        &vec![
            ("etc", Item::Dir),
            ("etc/passwd", file("top")),
            ("etc/deep", Item::Dir),
            ("etc/deep/top", file("t")),
            ("big", blocks(&[1])),
            ("was-dir", file("now a file")),
            ("was-file", Item::Dir),
        ],
        true,
    );
    let bottom = image(
        &vec![
            ("etc", Item::Dir),
            ("etc/passwd", file("bottom")),
            ("etc/group", file("bottom")),
            ("etc/deep", Item::Dir),
            ("etc/deep/bottom", file("b")),
            ("etc/deep/sub", Item::Dir),
            // More than a chunk, so that some of it has no counterpart above.
            ("big", blocks(&[2; 70])),
            ("was-dir", Item::Dir),
            ("was-dir/below", Item::Dir),
            ("was-dir/below/x", file("hidden")),
            ("was-file", file("hidden")),
            ("one", blocks(&[9])),
            ("two", Item::Link("one")),
        ],
        false,
    );
    let bench = Bench::over(vec![top, bottom]);
    let expected = [
        ("big", "1x4096 "),
        ("etc", "/"),
        ("etc/deep", "/"),
        ("etc/deep/bottom", "b"),
        ("etc/deep/sub", "/"),
        ("etc/deep/top", "t"),
        ("etc/group", "bottom"),
        ("etc/passwd", "top"),
        ("one", "9x4096 "),
        ("two", "9x4096 "),
        ("was-dir", "now a file"),
        ("was-file", "/"),
    ];
    assert_eq!(bench.tree(), tree(&expected));
    bench.change(|volume| {
        assert_eq!(find(volume, "etc").links, 3);
        assert_eq!(find(volume, "etc/deep").links, 3);
        assert_eq!(volume.stat_fs().inodes - volume.stat_fs().inodes_free, 12);
        put(volume, "big", 4096, &[7; 4096]);
        put(volume, "two", 100, &[8; 4]);
        volume
            .rename(&Caller::root(), InodeNo::ROOT, b"etc", find(volume, "was-file").ino, b"moved", RenameMode::Replace)
            .unwrap();
    });
    let after = bench.tree();
    assert_eq!(after["big"], "1x4096 7x4096 ");
    assert_eq!(after["one"], "9x100 8x4 9x3992 ");
    assert_eq!(after["was-file/moved/deep/bottom"], "b");
}

#[test]
fn a_hard_link_that_would_lead_to_another_images_file_is_refused() {
    let top = image(&vec![("a", file("top"))], true);
    let bottom = image(&vec![("a", file("bottom")), ("b", Item::Link("a"))], true);
    let options = format_options();
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(0));
    let lowers = [top.clone(), bottom.clone()];
    let refused = Volume::format_over(backend.clone(), &key(), &options, &lowers, &Env::host()).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
    // The other way round the link is above, and shadows nothing.
    Volume::format_over(backend, &key(), &options, &[bottom, top], &Env::host()).unwrap();
}

fn version_one() -> Items {
    vec![
        ("bin", Item::Dir),
        ("bin/sh", blocks(&[1, 1, 1])),
        ("bin/tool", blocks(&[2, 2])),
        ("etc", Item::Dir),
        ("etc/conf", file("conf 1")),
        ("etc/other", file("other 1")),
        ("etc/kept", file("same")),
        ("lib", Item::Dir),
        ("lib/old", blocks(&[3, 3, 3])),
        ("lib/link", Item::Link("lib/old")),
        ("gone", Item::Dir),
        ("gone/dir", Item::Dir),
        ("gone/dir/file", file("of one")),
        ("removed", file("r 1")),
        ("same-removed", file("same")),
    ]
}

fn version_two() -> Items {
    vec![
        ("bin", Item::Dir),
        ("bin/sh", blocks(&[1, 5, 1, 5])),
        ("bin/tool", blocks(&[2, 2])),
        ("bin/new", file("new")),
        ("etc", Item::Dir),
        ("etc/conf", file("conf 2")),
        ("etc/other", file("other 2")),
        ("etc/kept", file("same")),
        ("etc/mine", file("the image's")),
        ("lib", Item::Dir),
        ("lib/new", Item::Dir),
        ("removed", file("r 2")),
        ("same-removed", file("same")),
        ("same-too", Item::Link("same-removed")),
    ]
}

/// What nobody changed is as in the new version, what the volume changed stays, whatever the kinds of both versions are.
#[test]
fn an_upgrade_keeps_what_is_the_volumes_and_takes_the_rest() {
    for kinds in [[true, true], [false, false], [true, false], [false, true]] {
        let mut bench = Bench::over(vec![image(&version_one(), kinds[0])]);
        let root = Caller::root();
        bench.change(|volume| {
            // Partly rewritten, the rest shows from the image.
            put(volume, "bin/sh", 4096, &[7; 4096]);
            put(volume, "etc/conf", 0, b"mine!!");
            put(volume, "lib/link", 0, &[8; 4096]);
            put(volume, "bin/tool", 0, &[9; 4096]);
            let etc = find(volume, "etc").ino;
            let mine = make(volume, etc, "mine", FileKind::Regular);
            volume.write(&root, mine, 0, b"volume's", WriteMode::Direct).unwrap();
            let inside = find(volume, "gone/dir").ino;
            make(volume, inside, "added", FileKind::Regular);
            volume.unlink(&root, InodeNo::ROOT, b"removed").unwrap();
            volume.unlink(&root, InodeNo::ROOT, b"same-removed").unwrap();
            make(volume, InodeNo::ROOT, "dir", FileKind::Directory);
        });
        let conflicts = bench.upgrade(vec![image(&version_two(), kinds[1])]);
        let expected = [
            ("bin", "/"),
            ("bin/new", "new"),
            ("bin/sh", "1x4096 7x4096 1x4096 "),
            ("bin/tool", "9x4096 2x4096 "),
            ("dir", "/"),
            ("etc", "/"),
            ("etc/conf", "mine!!"),
            ("etc/kept", "same"),
            ("etc/mine", "volume's"),
            ("etc/other", "other 2"),
            ("gone", "/"),
            ("gone/dir", "/"),
            ("gone/dir/added", ""),
            ("lib", "/"),
            ("lib/link", "8x4096 3x8192 "),
            ("lib/new", "/"),
            ("lib/old", "8x4096 3x8192 "),
        ];
        assert_eq!(bench.tree(), tree(&expected), "{kinds:?}");
        let expected = [
            ("bin/sh", Why::Content),
            ("etc/conf", Why::Content),
            ("etc/mine", Why::Name),
            ("gone/dir", Why::Gone),
            ("lib/link", Why::Gone),
            ("removed", Why::Removed),
        ];
        let found: Vec<(&str, Why)> = conflicts.iter().map(|(path, why)| (&path[..], *why)).collect();
        assert_eq!(found, expected, "{kinds:?}");
        let volume = bench.open();
        let read = |path: &str| volume.get_xattr(&root, find(&volume, path).ino, b"user.of").unwrap();
        assert_eq!((read("etc/other"), read("etc/conf")), (b"othe".to_vec(), b"conf".to_vec()));
        assert_eq!(find(&volume, "lib/old").links, 2);
    }
}

#[test]
fn attributes_alone_and_renames_survive_an_upgrade() {
    let mut bench = Bench::over(vec![image(&version_one(), true)]);
    let root = Caller::root();
    bench.change(|volume| {
        let mode = SetAttr { mode: Some(0o4711), ..SetAttr::default() };
        volume.set_attr(&root, find(volume, "etc/other").ino, &mode).unwrap();
        volume.set_attr(&root, find(volume, "etc/kept").ino, &mode).unwrap();
        volume.set_xattr(&root, find(volume, "bin/tool").ino, b"user.mine", b"yes", XattrMode::Any).unwrap();
        let (lib, etc) = (find(volume, "lib").ino, find(volume, "etc").ino);
        volume.rename(&root, lib, b"old", etc, b"old", RenameMode::Replace).unwrap();
        volume.rename(&root, InodeNo::ROOT, b"gone", lib, b"moved", RenameMode::Replace).unwrap();
    });
    let conflicts = bench.upgrade(vec![image(&version_two(), true)]);
    let volume = bench.open();
    // Only its mode was changed; with that mode it must not become another program unasked.
    assert_eq!(
        (text(&volume, find(&volume, "etc/other").ino), find(&volume, "etc/other").mode),
        ("other 1".into(), 0o4711)
    );
    assert_eq!(find(&volume, "etc/kept").mode, 0o4711);
    assert_eq!(volume.list_xattr(&root, find(&volume, "bin/tool").ino).unwrap().len(), 2);
    assert_eq!(text(&volume, find(&volume, "etc/old").ino), "3x12288 ");
    assert_eq!(find(&volume, "lib/moved").kind, FileKind::Directory);
    assert!(conflicts.contains(&("etc/other".into(), Why::Content)), "{conflicts:?}");
    assert!(!conflicts.iter().any(|(path, _)| path == "etc/kept" || path == "bin/tool"), "{conflicts:?}");
}

/// What became the volume's own when a version did without it stays so when a later one has it again: neither its holes nor the
/// attributes that it lost are filled from there.
#[test]
fn what_comes_back_in_the_image_is_another() {
    let mut bench = Bench::over(vec![image(&version_one(), true)]);
    let root = Caller::root();
    bench.change(|volume| put(volume, "lib/old", 0, &[8; 4096]));
    let gone = bench.upgrade(vec![image(&version_two(), true)]);
    assert!(gone.iter().any(|(_, why)| *why == Why::Gone), "{gone:?}");
    bench.change(|volume| {
        let ino = find(volume, "lib/old").ino;
        volume.set_attr(&root, ino, &SetAttr { size: Some(4096), ..SetAttr::default() }).unwrap();
        volume.set_attr(&root, ino, &SetAttr { size: Some(12_288), ..SetAttr::default() }).unwrap();
        volume.remove_xattr(&root, ino, b"user.of").unwrap();
    });
    let back = bench.upgrade(vec![image(&version_one(), true)]);
    assert!(back.iter().any(|(_, why)| *why == Why::Content), "{back:?}");
    let volume = bench.open();
    let ino = find(&volume, "lib/old").ino;
    assert_eq!(text(&volume, ino), "8x4096 0x8192 ");
    assert_eq!(volume.list_xattr(&root, ino).unwrap(), Vec::<Vec<u8>>::new());
}

/// A large file of an image that goes leaves a volume whole at every step of its way.
#[test]
fn a_check_in_the_middle_of_a_tombstone_finds_nothing() {
    let large: Vec<u8> = (0..200 * 64).map(|block| (block % 250 + 1) as u8).collect();
    let bench = Bench::over(vec![image(&vec![("large", blocks(&large))], true)]);
    let volume = bench.open();
    volume.unlink(&Caller::root(), InodeNo::ROOT, b"large").unwrap();
    for _ in 0..6 {
        volume.work(true).unwrap();
        volume.sync().unwrap();
        bench.is_whole();
    }
    drop(volume);
    bench.is_whole();
    assert_eq!(bench.tree(), tree(&[]));
    bench.change(|_| {});
}

/// There and back again: a volume that changed nothing shows the images, whatever version.
#[test]
fn an_unchanged_volume_follows_its_images() {
    let mut bench = Bench::over(vec![image(&version_one(), false)]);
    let one = bench.tree();
    assert_eq!(bench.upgrade(vec![image(&version_two(), true)]), []);
    let two = bench.tree();
    assert_ne!(one, two);
    assert_eq!(bench.upgrade(vec![image(&version_one(), true)]), []);
    assert_eq!(bench.tree(), one);
    let both = vec![image(&version_two(), true), image(&vec![("extra", Item::Dir), ("etc", Item::Dir)], true)];
    assert_eq!(bench.upgrade(both), []);
    let mut expected = two;
    expected.insert("extra".into(), "/".into());
    assert_eq!(bench.tree(), expected);
}

/// What the leaves grow by is kept from the beginning, and less when they have grown: inodes of images are none of the volume's,
/// whose leaves would seem to be full of names.
#[test]
fn overwriting_a_file_over_an_image_of_many_files_costs_no_space() {
    let name = |number: u32| &*alloc::format!("name {number}").leak();
    let many: Items = (0..3000).map(|number| (name(number), file(""))).collect();
    let bench = Bench::over(vec![image(&many, true)]);
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    // Closing merges everything, so what was given back counts.
    let available = |writes: Vec<(u64, usize)>| {
        let volume = bench.open();
        let ino = match volume.lookup(&Caller::root(), InodeNo::ROOT, b"data") {
            Ok(attr) => attr.ino,
            Err(_) => volume.make(&Caller::root(), InodeNo::ROOT, b"data", &new).unwrap().ino,
        };
        for (block, blocks) in writes {
            volume.write(&Caller::root(), ino, block * 4096, &vec![1; blocks * 4096], WriteMode::Direct).unwrap();
        }
        volume.close().unwrap();
        bench.open().stat_fs().blocks_available
    };
    const BLOCKS: u64 = 2048;
    let before = available((0..BLOCKS).step_by(64).map(|block| (block, 64)).collect());
    let after = available((0..BLOCKS).map(|turn| (turn * 1021 % BLOCKS, 1)).collect());
    assert!(before - after <= 12, "{before} blocks available in order, {after} overwritten");
}
