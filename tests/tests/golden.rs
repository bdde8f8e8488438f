//! An image of every released format version opens and holds what it always held.
//!
//! `golden/` has, for each version, the used pages of an image and a listing of what is in it. Images are made once, by
//! the release that introduced the version (`SEFS_GOLDEN=write`, for a version that has none yet), and never again: what
//! was written then has to be readable for ever.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::backend::{Backend, HostBuf, MemoryBackend};
use sefs::env::Env;
use sefs::keys::VolumeKey;
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{
    AllocateMode, Attr, Caller, FileKind, Lower, NewInode, NewLower, OpenOptions, SetAttr, SetTime, Volume, WriteMode,
    XattrMode,
};
use sefs_tests::disk::{Disk, PAGE};
use sefs_tests::play::Play;
use sefs_tests::recorder::Recorder;
use sefs_tests::stage::filling;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, key, small_memory};

/// Images by name: what of the format they show.
#[allow(clippy::type_complexity)]
const IMAGES: [(&str, fn() -> Disk, fn() -> VolumeKey); 4] = [
    ("v1-closed", closed, key),
    ("v1-with-log", with_log, key),
    ("v1-rotating", rotating, later_key),
    ("v1-over-image", over_image, key),
];

/// The key of a volume that was made with another.
fn later_key() -> VolumeKey {
    VolumeKey::new([0xa5; 32])
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[test]
fn every_golden_image_opens() {
    for (name, make, key) in IMAGES {
        let (pages, listing) = (folder().join(format!("{name}.pages")), folder().join(format!("{name}.txt")));
        if !pages.exists() && std::env::var("SEFS_GOLDEN").is_ok_and(|value| value == "write") {
            let disk = make();
            std::fs::write(&pages, dump(&disk)).expect("writing the golden image");
            std::fs::write(&listing, list(&open(disk, key, true))).expect("writing the golden listing");
        }
        let image = std::fs::read(&pages).unwrap_or_else(|error| panic!("{}: {error}", pages.display()));
        let expected =
            std::fs::read_to_string(&listing).unwrap_or_else(|error| panic!("{}: {error}", listing.display()));
        let disk = load(&image);
        assert_eq!(list(&open(disk.clone(), key, true)), expected, "{name}, read only");
        let volume = open(disk, key, false);
        assert_eq!(list(&volume), expected, "{name}, writable");
        let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
        volume.make(&Caller::root(), InodeNo::ROOT, b"made today", &new).expect("an old image can be written");
        walk(&volume).expect("and read");
        volume.close().expect("and closed");
    }
}

fn open(disk: Disk, key: fn() -> VolumeKey, read_only: bool) -> Volume {
    let options = OpenOptions { read_only, ..small_memory() };
    let backend = Arc::new(Recorder::plain(disk));
    let mut volume = Volume::open(backend, &key(), &options, &World::new(1).env).expect("a golden image opens");
    for _ in 0..volume.lowers().len() {
        volume.attach_lower(&golden_lower().image, &World::new(1).env).expect("a golden image lies below");
    }
    volume
}

/// The packed image that volumes of this format lie over.
fn golden_lower() -> NewLower {
    let image = std::fs::read(folder().join("packed-public-1.pages")).expect("a golden image");
    let backend = Arc::new(MemoryBackend::new(image.len() as u64));
    let mut buf = HostBuf::zeroed(image.len());
    buf.bytes_mut().copy_from_slice(&image);
    backend.write_at(0, buf).expect("memory does not fail");
    let root_digest = Volume::read_root_digest(&*backend, &Env::host()).ok();
    NewLower { image: Lower { backend, key: None }, root_digest, note: b"packed-public-1".to_vec() }
}

/// Length, then for each used page its number and its bytes.
fn dump(disk: &Disk) -> Vec<u8> {
    let mut bytes = disk.len_bytes().to_le_bytes().to_vec();
    for page in disk.used_pages() {
        bytes.extend(page.to_le_bytes());
        bytes.extend(disk.page(page));
    }
    bytes
}

fn load(bytes: &[u8]) -> Disk {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let mut disk = Disk::new(word(bytes));
    for entry in bytes[8..].chunks_exact(8 + PAGE) {
        disk.put_page(word(entry), entry[8..].try_into().expect("a page"));
    }
    disk
}

/// Everything in a volume, one line for each name.
fn list(volume: &Volume) -> String {
    let mut text = String::new();
    let root = volume.attr(InodeNo::ROOT).expect("the root");
    list_below(volume, "/", &root, &mut text);
    text
}

fn list_below(volume: &Volume, path: &str, attr: &Attr, text: &mut String) {
    let time = |time: Timestamp| format!("{}.{:09}", time.seconds, time.nanoseconds);
    let digest = |bytes: &[u8]| {
        let digest = Env::host().suite.sha256(&[bytes]);
        digest[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let content = match attr.kind {
        FileKind::Regular => {
            let mut bytes = vec![0; usize::try_from(attr.size).expect("golden files are small")];
            volume.read(attr.ino, 0, &mut bytes).expect("an intact image");
            digest(&bytes)
        }
        FileKind::Symlink => String::from_utf8(volume.read_link(attr.ino).expect("an intact image")).expect("UTF-8"),
        _ => format!("{:x}", attr.rdev),
    };
    let times = [attr.atime, attr.mtime, attr.ctime, attr.btime].map(time).join(" ");
    let (ino, kind, mode, links, size) = (attr.ino, attr.kind, attr.mode, attr.links, attr.size);
    writeln!(text, "{path} {ino} {kind:?} {mode:o} {}:{} {links} {size} {times} {content}", attr.uid, attr.gid)
        .expect("a string grows");
    let root = Caller::root();
    for name in volume.list_xattr(&root, attr.ino).expect("an intact image") {
        let value = volume.get_xattr(&root, attr.ino, &name).expect("an intact image");
        writeln!(text, "  {} {} {}", String::from_utf8_lossy(&name), value.len(), digest(&value))
            .expect("a string grows");
    }
    if attr.kind == FileKind::Directory {
        let entries = volume.read_dir(attr.ino, 2, usize::MAX >> 1).expect("an intact image");
        for entry in entries {
            let attr = volume.attr(entry.ino).expect("an intact image");
            let below = format!("{}/{}", path.trim_end_matches('/'), String::from_utf8_lossy(&entry.name));
            list_below(volume, &below, &attr, text);
        }
    }
}

/// One of everything.
fn story() -> Play {
    let play = Play::new(4 << 20);
    let root = Caller::root();
    play.at(1_000_000).dir("dir");
    play.dir("dir/deep");
    for (name, kind) in [("fifo", FileKind::Fifo), ("socket", FileKind::Socket), ("link", FileKind::Symlink)] {
        play.at(1_000_001).other(&format!("dir/{name}"), kind);
    }
    let device = NewInode { kind: FileKind::BlockDevice, mode: 0o660, rdev: 0x801, target: Vec::new() };
    play.volume.make(&root, play.ino("dir"), b"device", &device).expect("a fresh volume");
    for (name, size) in [("empty", 0), ("inline", 2048), ("block", 4096), ("chunks", 300_000)] {
        let ino = play.at(1_000_002).file(&format!("dir/{name}"));
        play.put(ino, 0, &filling(size + 1, size));
    }
    let holes = play.file("dir/deep/holes");
    play.put(holes, 500_000, b"far");
    play.volume.allocate(&root, holes, 0, 40_000, AllocateMode::Allocate { keep_size: true }).expect("space enough");
    play.link("dir/block", "dir/deep/block again").expect("a fresh volume");
    for (name, len) in [("user.small", 10), ("user.large", 20_000), ("trusted.t", 1), ("security.s", 100)] {
        let value = filling(len, len);
        play.volume.set_xattr(&root, play.ino("dir/inline"), name.as_bytes(), &value, XattrMode::Any).expect("space");
    }
    let change = SetAttr { mode: Some(0o4711), uid: Some(1000), gid: Some(1001), ..SetAttr::default() };
    play.set_as(&root, "dir/block", change).expect("a fresh volume");
    let time = SetTime::At(Timestamp { seconds: -5, nanoseconds: 7 });
    play.set_as(&root, "dir/chunks", SetAttr { mtime: Some(time), ..SetAttr::default() }).expect("a fresh volume");
    for number in 0..60 {
        play.file(&format!("dir/deep/{number:0>60}"));
    }
    play
}

fn closed() -> Disk {
    let Play { volume, disk, .. } = story();
    volume.close().expect("a healthy disk");
    disk.disk()
}

/// A second mount with overwritten data, a large truncation under way, and a log that was never merged.
fn with_log() -> Disk {
    let play = story().remount();
    let far = play.at(2_000_000).file("far");
    play.put(far, 9 << 30, b"far");
    play.truncate(far, 10);
    play.put(play.ino("dir/chunks"), 100_000, &filling(5, 50_000));
    play.volume.sync().expect("a healthy disk");
    play.put(play.ino("dir/chunks"), 200_000, &filling(6, 5000));
    play.rename("dir/empty", "dir/deep/renamed").expect("a healthy disk");
    play.volume.sync().expect("a healthy disk");
    play.disk.disk()
}

/// A volume over an image: names removed and made, blocks written over and punched, attributes, and a log.
fn over_image() -> Disk {
    let play = Play::over(4 << 20, &[golden_lower()]);
    let root = Caller::root();
    let dir = play.at(3_000_000).ino("dir");
    play.volume.unlink(&root, dir, b"holes").expect("it is there");
    play.volume.unlink(&root, InodeNo::ROOT, b"again").expect("it is there");
    play.volume.remove_xattr(&root, play.ino("dir/block"), b"security.large").expect("it is there");
    play.put(play.ino("dir/chunks"), 10_000, &filling(4, 5000));
    play.volume
        .allocate(&root, play.ino("dir/chunks"), 40_960, 8192, AllocateMode::PunchHole)
        .expect("a hole needs no space");
    play.put(play.ino("dir/inline"), 3000, b"no longer inline");
    let play = play.remount();
    play.file("made over it");
    play.rename("special 0", "dir/moved").expect("a healthy disk");
    play.volume.sync().expect("a healthy disk");
    play.disk.disk()
}

/// A volume that has another key since, with blocks, nodes and pages of both, and a log under the new one.
fn rotating() -> Disk {
    let Play { mut volume, disk, .. } = story().remount();
    volume.rotate_key(&key(), &later_key(), Vec::new()).expect("a healthy disk");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, b"since", &new).expect("space enough").ino;
    volume.write(&Caller::root(), ino, 0, &filling(9, 30_000), WriteMode::Direct).expect("space enough");
    volume.sync().expect("a healthy disk");
    disk.disk()
}
