//! mkfs.sefs --from: everything that a tree has comes back.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use sefs::format::FileKind;
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, Seek, Volume};
use sefs_tools::listing::{copy_out, entries, resolve};

use crate::bench::{Bench, MKFS, Ran, is_root, pattern, shell, skipped};

#[test]
fn a_tree_comes_back_with_all_attributes() {
    let bench = Bench::new();
    let root = bench.path("src");
    make_tree(&root);
    bench.mkfs(&["a", "--from", "src", "--key-file", "key"]).succeeded();
    let volume = bench.volume("a", true);
    let compared = compare(&volume, InodeNo::ROOT, &root);
    assert!(compared >= 14, "{compared} entries");
    let ino = |path: &str| resolve(&volume, path.as_bytes(), false).unwrap().ino;
    assert_eq!(ino("files/large"), ino("again"), "a hard link is one file");
    assert_eq!(ino("fifo"), ino("files/fifo-again"));
    bench.fsck(&["a", "--key-file", "key", "--scrub"]).succeeded();
}

#[test]
fn holes_stay_holes() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    let file = File::create(bench.path("src/sparse")).unwrap();
    file.write_all_at(&pattern(4096), 1 << 30).unwrap();
    file.set_len(20 << 30).unwrap();
    let made = bench.mkfs(&["a", "--from", "src", "--key-file", "key", "--json"]).succeeded().json();
    assert_eq!(made["size_bytes"], 64 << 20, "holes take no space");
    let volume = bench.volume("a", true);
    let sparse = resolve(&volume, b"sparse", false).unwrap();
    assert_eq!((sparse.size, sparse.blocks_512), (20 << 30, 8));
    assert_eq!(volume.seek(sparse.ino, 0, Seek::Data).unwrap(), 1 << 30);
    assert_eq!(volume.seek(sparse.ino, 1 << 30, Seek::Hole).unwrap(), (1 << 30) + 4096);
    let mut data = vec![0; 4096];
    volume.read(sparse.ino, 1 << 30, &mut data).unwrap();
    assert_eq!(data, pattern(4096));
}

#[test]
fn inherited_attributes_do_not_replace_those_of_the_source() {
    let bench = Bench::new();
    let shared = bench.path("src/shared");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("before"), "x").unwrap();
    fs::create_dir(shared.join("dir")).unwrap();
    // A default ACL and set-group-id would both be handed down to what is made in the directory.
    let acl = default_acl();
    if xattr::set(&shared, "system.posix_acl_default", &acl).is_err() {
        return skipped("the host's temporary directory keeps no ACLs");
    }
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2777)).unwrap();
    bench.mkfs(&["a", "--from", "src", "--key-file", "key"]).succeeded();
    compare(&bench.volume("a", true), InodeNo::ROOT, &bench.path("src"));
}

#[test]
fn what_cannot_be_read_ends_it_or_is_left_out() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::create_dir(bench.path("src/closed")).unwrap();
    fs::write(bench.path("src/secret"), "x").unwrap();
    fs::write(bench.path("src/open"), "y").unwrap();
    fs::set_permissions(bench.path("src/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(bench.path("src/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let Some(nobody) = Nobody::new(&bench) else { return skipped("nobody else can run the tool here") };
    let args = ["a", "--from", "src", "--key-file", "key"];
    nobody
        .mkfs(&args)
        .refused(1, &["mkfs.sefs: src/closed: it cannot be read: Permission denied", "--skip-unreadable"]);
    assert!(!bench.path("a").exists());
    let made = nobody.mkfs(&[&args[..], &["--skip-unreadable", "--json"]].concat()).succeeded();
    assert_eq!(made.json()["content"]["skipped"], 2);
    assert_eq!(made.json()["content"]["files"], 1);
    assert!(made.err.contains("cannot read src/secret: Permission denied; left out"), "{made:?}");
    assert_eq!(bench.debug(&["a", "--key-file", "key", "cat", "open"]).succeeded().out, b"y");
}

#[test]
fn a_file_that_fails_halfway_is_left_out_as_a_whole() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/good"), "x").unwrap();
    // The memory of a process is a file that opens and whose first page cannot be read.
    if !is_root() || !shell("touch src/bad && mount --bind /proc/self/mem src/bad", &bench.path("")) {
        return skipped("only root can mount");
    }
    let stopped = bench.mkfs(&["a", "--from", "src", "--key-file", "key"]);
    let left_out = bench.mkfs(&["b", "--from", "src", "--key-file", "key", "--skip-unreadable", "-q"]);
    assert!(shell("umount src/bad", &bench.path("")));
    // It has no length, so nothing is read, or it fails: either way there is no half file.
    assert!(stopped.code == Some(0) || stopped.err.contains("it cannot be read"), "{stopped:?}");
    left_out.succeeded();
    assert_eq!(bench.debug(&["b", "--key-file", "key", "cat", "good"]).succeeded().out, b"x");
}

#[test]
fn other_filesystems_are_crossed_unless_told_otherwise() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("src/mnt")).unwrap();
    fs::write(bench.path("src/here"), "x").unwrap();
    if !is_root() || !shell("mount -t tmpfs sefs-test src/mnt && touch src/mnt/there", &bench.path("")) {
        return skipped("only root can mount");
    }
    let crossed = bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]);
    let stayed = bench.mkfs(&["b", "--from", "src", "--key-file", "key", "-q", "--one-file-system"]);
    assert!(shell("umount src/mnt", &bench.path("")));
    crossed.succeeded();
    stayed.succeeded();
    bench.debug(&["a", "--key-file", "key", "stat", "mnt/there"]).succeeded();
    assert_eq!(bench.debug(&["b", "--key-file", "key", "ls", "mnt"]).succeeded().out, b"");
}

#[test]
fn the_image_does_not_swallow_itself() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/file"), "x").unwrap();
    for _ in 0..2 {
        let made = bench.mkfs(&["src/a", "--from", "src", "--key-file", "key", "--force", "--json"]).succeeded();
        assert_eq!(made.json()["content"]["files"], 1, "{made:?}");
        assert!(made.err.contains("is the image itself; left out"), "{made:?}");
    }
    assert!(bench.debug(&["src/a", "--key-file", "key", "ls"]).succeeded().text().ends_with(" file\n"));
}

#[test]
fn a_source_that_is_too_large_says_what_would_do() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/large"), pattern(20 << 20)).unwrap();
    let early = bench.mkfs(&["a", "--size", "16M", "--from", "src", "--key-file", "key"]);
    early.refused(1, &["src: it does not fit into a volume of 16 MiB; give --size 64M, or leave --size out"]);
    // The content alone would fit, but not with all that a volume needs besides.
    let late = bench.mkfs(&["a", "--size", "21M", "--from", "src", "--key-file", "key"]);
    late.refused(1, &["src: it does not fit into a volume of 21 MiB; give --size "]);
    assert_eq!(bench.names(), ["key", "other", "phrase", "src"]);
    bench.mkfs(&["a", "--size", "64M", "--from", "src", "--key-file", "key"]).succeeded();
}

#[test]
fn the_size_that_is_chosen_is_enough() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    for number in 0..3000 {
        fs::write(bench.path(&format!("src/small-{number}")), pattern(number % 5000)).unwrap();
    }
    fs::write(bench.path("src/large"), pattern(60 << 20)).unwrap();
    let made = bench.mkfs(&["a", "--from", "src", "--key-file", "key", "--json"]).succeeded().json();
    assert_eq!(made["content"]["files"], 3001);
    let size = made["size_bytes"].as_u64().unwrap();
    assert!(size > 80 << 20 && size < 160 << 20, "{size}");
}

#[test]
fn a_source_that_is_none_is_refused() {
    let bench = Bench::new();
    bench.mkfs(&["a", "--from", "gone", "--key-file", "key"]).refused(1, &["gone: it cannot be read: No such file"]);
    bench.mkfs(&["a", "--from", "key", "--key-file", "key"]).refused(1, &["key: it cannot be read: Not a directory"]);
    bench.mkfs(&["a", "--size", "4M", "-x", "--key-file", "key"]).refused(1, &["--from"]);
}

pub(crate) fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("files/deep/deeper")).unwrap();
    fs::write(root.join("files/empty"), "").unwrap();
    fs::write(root.join("files/inline"), pattern(2048)).unwrap();
    fs::write(root.join("files/block"), pattern(4097)).unwrap();
    fs::write(root.join("files/large"), pattern((3 << 20) + 17)).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"bytes \xff\n")), "odd").unwrap();
    fs::hard_link(root.join("files/large"), root.join("again")).unwrap();
    symlink("files/large", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("files/deep/broken")).unwrap();
    nix::unistd::mkfifo(&root.join("files/fifo-again"), Mode::from_bits_truncate(0o640)).unwrap();
    fs::hard_link(root.join("files/fifo-again"), root.join("fifo")).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    fs::set_permissions(root.join("files/inline"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("files"), fs::Permissions::from_mode(0o1770)).unwrap();
    let long = vec![7; 3000];
    for (path, name, value) in [
        ("files/block", "user.colour", &b"green"[..]),
        ("files/block", "user.empty", b""),
        ("files/block", "user.long", &long),
        ("files/deep", "user.dir", b"x"),
        ("files/block", "security.sefs-test", b"\0\xff"),
        ("files/block", "trusted.sefs-test", b"t"),
    ] {
        // What the host's filesystem or our rights do not allow is not there to be copied.
        let _ = xattr::set(root.join(path), name, value);
    }
    let _ = xattr::set(root.join("files/block"), "system.posix_acl_access", &access_acl());
    if is_root() {
        let device = |name: &str, kind, numbers| {
            let _ = mknod(&root.join(name), kind, Mode::from_bits_truncate(0o600), numbers);
        };
        device("block-device", SFlag::S_IFBLK, makedev(8, 17));
        device("char-device", SFlag::S_IFCHR, makedev(259, 70_000));
        lchown(root.join("files/block"), Some(1234), Some(4321)).unwrap();
        lchown(root.join("link"), Some(12), Some(34)).unwrap();
        lchown(root.join("files/deep"), Some(5), Some(6)).unwrap();
        fs::write(root.join("program"), "x").unwrap();
        // cap_net_raw=ep, as setcap(8) stores it.
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let _ = xattr::set(root.join("program"), "security.capability", capability);
    }
    for (path, seconds) in [
        ("files/large", 1_000_000_000),
        ("link", 1_111_111_111),
        ("files/deep/deeper", 1_222_222_222),
        ("files/deep", 1_333_333_333),
        ("files", -5),
    ] {
        let times = [TimeSpec::new(seconds, 123_456_789), TimeSpec::new(seconds + 10, 987_654_321)];
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, &root.join(path), &times[0], &times[1], flags).unwrap();
    }
}

/// Compares a directory of the volume with one of the host, all below it too. Returns how many entries were compared.
pub(crate) fn compare(volume: &Volume, ino: InodeNo, path: &Path) -> usize {
    let metadata = fs::symlink_metadata(path).unwrap();
    let attr = volume.attr(ino).unwrap();
    compare_attributes(volume, &attr, &metadata, path);
    match attr.kind {
        FileKind::Directory => {
            let found = entries(volume, ino).unwrap();
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(found.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), {
                names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>()
            });
            let below = found.iter().zip(&names).map(|(entry, name)| compare(volume, entry.ino, &path.join(name)));
            return 1 + below.sum::<usize>();
        }
        FileKind::Regular => {
            let mut content = Vec::new();
            copy_out(volume, ino, &mut |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
            assert!(content == read_unnoticed(path), "{path:?}");
        }
        FileKind::Symlink => {
            assert_eq!(volume.read_link(ino).unwrap(), fs::read_link(path).unwrap().as_os_str().as_bytes());
        }
        _ => {}
    }
    1
}

/// Reads a file without touching its access time, which another of its names may still be compared by.
fn read_unnoticed(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let flags = nix::libc::O_NOATIME;
    let mut file = File::options().read(true).custom_flags(flags).open(path).unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn compare_attributes(volume: &Volume, attr: &Attr, metadata: &fs::Metadata, path: &Path) {
    let kind = metadata.file_type();
    let expected = match attr.kind {
        FileKind::Regular => kind.is_file(),
        FileKind::Directory => kind.is_dir(),
        FileKind::Symlink => kind.is_symlink(),
        FileKind::Fifo => kind.is_fifo(),
        FileKind::Socket => kind.is_socket(),
        FileKind::BlockDevice => kind.is_block_device(),
        FileKind::CharDevice => kind.is_char_device(),
    };
    assert!(expected, "{path:?}");
    assert_eq!(attr.mode, metadata.mode() & 0o7777, "mode of {path:?}");
    assert_eq!((attr.uid, attr.gid), (metadata.uid(), metadata.gid()), "owner of {path:?}");
    assert_eq!(
        (attr.mtime.seconds, i64::from(attr.mtime.nanoseconds)),
        (metadata.mtime(), metadata.mtime_nsec()),
        "{path:?}"
    );
    if !kind.is_dir() {
        assert_eq!(u64::from(attr.links), metadata.nlink(), "links of {path:?}");
        assert_eq!(attr.rdev, metadata.rdev(), "device of {path:?}");
    }
    // Listing a directory and reading a link, as this comparison does, touch their access times on the host.
    if !kind.is_dir() && !kind.is_symlink() {
        assert_eq!((attr.atime.seconds, i64::from(attr.atime.nanoseconds)), (metadata.atime(), metadata.atime_nsec()));
    }
    let mut expected: Vec<(Vec<u8>, Vec<u8>)> = xattr::list(path)
        .unwrap()
        .map(|name| (name.as_bytes().to_vec(), xattr::get(path, &name).unwrap().unwrap()))
        .collect();
    let root = Caller::root();
    let names = volume.list_xattr(&root, attr.ino).unwrap();
    let mut found: Vec<_> =
        names.into_iter().map(|name| (name.clone(), volume.get_xattr(&root, attr.ino, &name).unwrap())).collect();
    expected.sort();
    found.sort();
    found.retain(|(name, _)| name != b"system.sefs.btime");
    assert_eq!(found, expected, "attributes of {path:?}");
}

/// user::rw-, user:1000:r--, group::r--, mask::r--, other::---
fn access_acl() -> Vec<u8> {
    acl(&[(0x01, 6, u32::MAX), (0x02, 4, 1000), (0x04, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)])
}

/// Lets user 1000 read all that is made here.
fn default_acl() -> Vec<u8> {
    acl(&[(0x01, 7, u32::MAX), (0x02, 4, 1000), (0x04, 5, u32::MAX), (0x10, 5, u32::MAX), (0x20, 0, u32::MAX)])
}

/// The kernel's layout of an ACL: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// A user without rights, who owns the bench and has his own copy of the tool.
struct Nobody<'a> {
    bench: &'a Bench,
    /// Root becomes somebody else; others are without rights as they are.
    id: Option<u32>,
}

impl<'a> Nobody<'a> {
    fn new(bench: &'a Bench) -> Option<Nobody<'a>> {
        fs::copy(MKFS, bench.path("tool")).unwrap();
        let id = is_root().then_some(65_534);
        if let Some(id) = id {
            for name in ["", "src", "src/open", "src/secret", "src/closed", "key", "tool"] {
                lchown(bench.path(name), Some(id), Some(id)).unwrap();
            }
        }
        let mut help = bench.command(bench.path("tool").to_str().unwrap(), &["--version"]);
        help.uid(id.unwrap_or(nix::unistd::geteuid().as_raw()));
        help.output().is_ok_and(|output| output.status.success()).then_some(Nobody { bench, id })
    }

    fn mkfs(&self, args: &[&str]) -> Ran {
        let mut command = self.bench.command(self.bench.path("tool").to_str().unwrap(), args);
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        Ran::of(command.output().unwrap())
    }
}
