//! Packed images of every released builder open with the root digest that they had, and what builds them today builds the same.
//!
//! `golden/packed-*.pages` hold whole images, `golden/packed-*.txt` their root digests. They were made once (`SEFS_GOLDEN=write`,
//! for an image that is not there yet). A builder that makes other bytes of the same content is another version of it:
//! it gets another `BUILDER_VERSION` and further images here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::backend::{Backend, HostBuf, MemoryBackend};
use sefs::env::Env;
use sefs::format::KeySlot;
use sefs::pack::{NewEntry, Output, PackOptions, Packer};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{Caller, FileKind, OpenOptions, Volume};
use sefs_tests::stage::filling;
use sefs_tests::world::key;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn entry(kind: FileKind, mode: u32) -> NewEntry {
    let time = |seconds| Timestamp { seconds, nanoseconds: 9 };
    let target = if kind == FileKind::Symlink { b"dir/chunks".to_vec() } else { Vec::new() };
    let (atime, mtime, ctime, btime) = (time(-5), time(1_000_000), time(1_000_001), time(1_000_002));
    NewEntry { kind, mode, uid: 1000, gid: 1001, rdev: 0x801, atime, mtime, ctime, btime, target }
}

/// One of everything.
fn story(packer: &mut Packer) -> sefs::error::Result<()> {
    let root = packer.make_root(&entry(FileKind::Directory, 0o755))?;
    let dir = packer.make(root, b"dir", &entry(FileKind::Directory, 0o1777))?;
    for (name, size) in [("empty", 0_u32), ("inline", 2048), ("block", 4096), ("chunks", 300_000)] {
        let ino = packer.make(dir, name.as_bytes(), &entry(FileKind::Regular, 0o4711))?;
        packer.write(ino, 0, &filling(size + 1, size))?;
        packer.end_file(ino, u64::from(size))?;
        if name == "block" {
            packer.link(root, b"again", ino)?;
            packer.set_xattr(ino, b"user.small", b"green")?;
            packer.set_xattr(ino, b"security.large", &filling(3, 20_000))?;
        }
    }
    let holes = packer.make(dir, b"holes", &entry(FileKind::Regular, 0o600))?;
    packer.write(holes, 500_000, b"far")?;
    packer.end_file(holes, 1 << 33)?;
    let kinds = [FileKind::Fifo, FileKind::Socket, FileKind::Symlink, FileKind::BlockDevice, FileKind::CharDevice];
    for (number, kind) in kinds.into_iter().enumerate() {
        packer.make(root, format!("special {number}").as_bytes(), &entry(kind, 0o640))?;
    }
    for number in 0..60 {
        let ino = packer.make(dir, format!("{number:0>60}").as_bytes(), &entry(FileKind::Regular, 0o600))?;
        packer.end_file(ino, 0)?;
    }
    Ok(())
}

fn build(public: bool) -> (Vec<u8>, [u8; 32]) {
    let backend = Arc::new(MemoryBackend::new(0));
    let to = backend.clone();
    let output = match public {
        true => Output::Public { backend: to, volume_id: None },
        false => {
            let slots = vec![KeySlot { kind: 1, body: vec![7; 80] }];
            Output::Sealed { backend: to, key: key(), volume_id: [9; 16], slots, salt: [5; 32], measured: None }
        }
    };
    let options = PackOptions { label: "golden".into(), dedup: true, threads: 2 };
    let mut packer = Packer::new(output, options, &Env::host()).expect("sound options");
    story(&mut packer).expect("a sound story");
    let summary = packer.finish([0x4d; 32]).expect("memory does not fail");
    let len = usize::try_from(summary.size_bytes).expect("a small image");
    let bytes = backend.read_at(0, len).expect("memory does not fail").bytes().to_vec();
    (bytes, summary.root_digest.expect("it was written"))
}

fn check(name: &str, public: bool) {
    let (pages, text) = (golden(&format!("{name}.pages")), golden(&format!("{name}.txt")));
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (built, digest) = build(public);
    if !pages.exists() && std::env::var("SEFS_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(&pages, &built).expect("writing the golden image");
        fs::write(&text, format!("{}\n", hex(&digest))).expect("writing the golden digest");
    }
    let image = fs::read(&pages).unwrap_or_else(|error| panic!("{}: {error}", pages.display()));
    let expected = fs::read_to_string(&text).unwrap_or_else(|error| panic!("{}: {error}", text.display()));
    let backend = Arc::new(MemoryBackend::new(image.len() as u64));
    let mut buf = HostBuf::zeroed(image.len());
    buf.bytes_mut().copy_from_slice(&image);
    backend.write_at(0, buf).expect("memory does not fail");
    let found = Volume::read_root_digest(&*backend, &Env::host()).expect("a packed image");
    assert_eq!(format!("{}\n", hex(&found)), expected, "{name}");
    let options = OpenOptions { root_digest: Some(found), ..OpenOptions::default() };
    let volume = match public {
        true => Volume::open_public(backend, &options, &Env::host()),
        false => Volume::open(backend, &key(), &options, &Env::host()),
    };
    read(&volume.expect("a golden image opens"));
    assert_eq!(hex(&digest), hex(&found), "{name}: today's builder makes another image of the same content");
    assert!(built == image, "{name}");
}

fn read(volume: &Volume) {
    let root = Caller::root();
    let dir = volume.lookup(&root, InodeNo::ROOT, b"dir").expect("it is there");
    assert_eq!((dir.mode, dir.uid, dir.gid, dir.size, dir.mtime.seconds), (0o1777, 1000, 1001, 65, 1_000_000));
    for (name, size) in [("empty", 0_u32), ("inline", 2048), ("block", 4096), ("chunks", 300_000)] {
        let size_bytes = size as usize;
        let attr = volume.lookup(&root, dir.ino, name.as_bytes()).expect("it is there");
        let mut content = vec![0; size_bytes + 1];
        assert_eq!(volume.read(attr.ino, 0, &mut content).expect("an intact image"), size_bytes);
        assert_eq!(content[..size_bytes], filling(size + 1, size), "{name}");
    }
    let again = volume.lookup(&root, InodeNo::ROOT, b"again").expect("it is there");
    assert_eq!(volume.get_xattr(&root, again.ino, b"security.large").expect("it is there"), filling(3, 20_000));
    let device = volume.lookup(&root, InodeNo::ROOT, b"special 3").expect("it is there");
    assert_eq!((device.kind, device.rdev, device.links), (FileKind::BlockDevice, 0x801, 1));
    assert_eq!(volume.info().manifest_root, Some([0x4d; 32]));
}

#[test]
fn public_images_of_the_first_builder() {
    check("packed-public-1", true);
}

#[test]
fn encrypted_images_of_the_first_builder() {
    check("packed-sealed-1", false);
}
