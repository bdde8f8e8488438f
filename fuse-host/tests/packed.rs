//! Packed images on a real mount: read-only whatever is asked for, pinned, and not one byte of them changes.

mod stage;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use sealing::Argon2Cost;
use sefs::backend::{Backend, FileBackend};
use sefs::format::FileKind;
use sefs::keys::VolumeKey;
use sefs::pack::{NewEntry, Output, PackOptions, PackSummary, Packer};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::Env;
use sefs_tools::{KeyArgs, RootDigest, VolumeId};

use stage::Stage;

fn entry(kind: FileKind, mode: u32) -> NewEntry {
    let time = Timestamp { seconds: 1_000_000, nanoseconds: 0 };
    let target = if kind == FileKind::Symlink { b"dir/large".to_vec() } else { Vec::new() };
    NewEntry { kind, mode, uid: 0, gid: 0, rdev: 0, atime: time, mtime: time, ctime: time, btime: time, target }
}

fn content() -> Vec<u8> {
    (0..3_000_000_u32).map(|at| (at / 7 + at % 251) as u8).collect()
}

/// Puts a packed image in the place of the stage's volume.
fn pack(stage: &Stage, public: bool) -> PackSummary {
    let env = Env::host();
    let file = File::options().read(true).write(true).truncate(true).open(&stage.image).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(FileBackend::new(file).unwrap());
    let output = match public {
        true => Output::Public { backend, volume_id: None },
        false => {
            let args = KeyArgs { key_file: Some(stage.key_file()), ..KeyArgs::default() };
            let (key, volume_id) = (VolumeKey::generate(&*env.rng).unwrap(), [7; 16]);
            let source = args.key_source(&stage.image).unwrap();
            let slots = vec![source.slot_for(&key, &VolumeId(volume_id), &Argon2Cost::CHEAP).unwrap()];
            Output::Sealed { backend, key, volume_id, slots, salt: [3; 32], measured: None }
        }
    };
    let mut packer = Packer::new(output, PackOptions { label: String::new(), dedup: true, threads: 1 }, &env).unwrap();
    let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
    let dir = packer.make(root, b"dir", &entry(FileKind::Directory, 0o755)).unwrap();
    let large = packer.make(dir, b"large", &entry(FileKind::Regular, 0o644)).unwrap();
    packer.write(large, 0, &content()).unwrap();
    packer.end_file(large, 3_000_000).unwrap();
    packer.make(root, b"link", &entry(FileKind::Symlink, 0)).unwrap();
    assert_eq!(root, InodeNo::ROOT);
    packer.finish([1; 32]).unwrap()
}

#[test]
fn a_mount_changes_no_byte_and_is_read_only() {
    let Some(stage) = Stage::new() else { return };
    for (public, options) in [(true, None), (true, Some("rw")), (true, Some("ro")), (false, None), (false, Some("ro"))]
    {
        let summary = pack(&stage, public);
        let digest = RootDigest(summary.root_digest.unwrap()).to_string();
        let before = fs::read(&stage.image).unwrap();
        assert_eq!(before.len() as u64, summary.size_bytes);
        let mut arguments = vec!["--root-digest", &digest];
        arguments.extend(options.iter().flat_map(|options| ["-o", options]));
        if !public {
            arguments.push("{key}");
        }
        let mount = stage.mount_as(&arguments);
        let line = mount.table_line().unwrap();
        assert!(line.options.iter().any(|option| option == "ro"), "{:?}", line.options);
        assert_eq!(fs::read(mount.path("link")).unwrap(), content());
        assert_eq!(fs::metadata(mount.path("dir/large")).unwrap().mtime(), 1_000_000);
        let refused = File::create(mount.path("new")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
        assert_eq!(fs::remove_file(mount.path("link")).unwrap_err().raw_os_error(), Some(30));
        mount.umount();
        assert!(fs::read(&stage.image).unwrap() == before, "a byte of the image changed");
    }
}

#[test]
fn a_wrong_pin_is_not_mounted_and_a_wrong_bit_is_an_error_where_it_is_met() {
    let Some(stage) = Stage::new() else { return };
    let digest = RootDigest(pack(&stage, true).root_digest.unwrap()).to_string();
    for arguments in [&["--root-digest", &"0".repeat(64)][..], &[]] {
        let output = stage.raw_command(&["{image}", "{dir}"], arguments).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 32)), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("root-digest"), "{output:?}");
    }
    let image = File::options().read(true).write(true).open(&stage.image).unwrap();
    let mut byte = [0];
    image.read_exact_at(&mut byte, 20 * 4096 + 5).unwrap();
    image.write_all_at(&[byte[0] ^ 4], 20 * 4096 + 5).unwrap();
    let mount = stage.mount_as(&["--root-digest", &digest]);
    let large = File::open(mount.path("dir/large")).unwrap();
    let mut out = vec![0; 4096];
    large.read_exact_at(&mut out, 2_000_000).unwrap();
    assert_eq!(large.read_at(&mut out, 3 * 4096).unwrap_err().raw_os_error(), Some(5), "EIO");
    drop(large);
    mount.umount();
}
