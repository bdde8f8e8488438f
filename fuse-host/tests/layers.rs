//! A volume over a packed image on a real mount: it behaves as a plain volume does with the same tree, and the image never changes.

mod stage;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use stage::Stage;

/// Bytes that do not repeat soon.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 * 31 + at % 251) as u8).collect()
}

/// What the image holds, and what the plain volume starts with.
fn make_tree(root: &Path) {
    for dir in ["etc/deep/er", "usr/bin", "usr/lib", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0\n").unwrap();
    fs::write(root.join("etc/deep/er/file"), "deep\n").unwrap();
    fs::write(root.join("usr/lib/large"), pattern(3_000_000)).unwrap();
    fs::hard_link(root.join("usr/lib/large"), root.join("usr/lib/large.1")).unwrap();
    for number in 0..300 {
        fs::write(root.join(format!("usr/bin/program-{number}")), pattern(number * 40)).unwrap();
    }
    symlink("../lib/large", root.join("usr/bin/link")).unwrap();
    fs::set_permissions(root.join("usr/bin/program-7"), fs::Permissions::from_mode(0o4711)).unwrap();
    xattr::set(root.join("etc/passwd"), "user.note", b"from below").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 2_000_000).unwrap();
}

/// Everything that may happen to what lies below, and to what does not.
fn churn(root: &Path) {
    // Names: new ones, renamed directories with what is in them, hard links across, removed ones, one made again.
    fs::write(root.join("etc/new"), "new\n").unwrap();
    fs::rename(root.join("etc/deep"), root.join("usr/deep")).unwrap();
    fs::write(root.join("usr/deep/er/beside"), "beside\n").unwrap();
    fs::hard_link(root.join("usr/bin/program-3"), root.join("third")).unwrap();
    fs::hard_link(root.join("usr/lib/large"), root.join("usr/lib/large.2")).unwrap();
    for number in (0..300).step_by(3) {
        fs::remove_file(root.join(format!("usr/bin/program-{number}"))).unwrap();
    }
    fs::write(root.join("usr/bin/program-0"), "again\n").unwrap();
    fs::remove_dir(root.join("empty")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("empty/not"), "").unwrap();
    fs::rename(root.join("usr/bin/program-4"), root.join("usr/bin/program-5")).unwrap();
    assert_eq!(fs::remove_dir(root.join("usr/lib")).unwrap_err().raw_os_error(), Some(39), "ENOTEMPTY");
    // Content: within a block, over blocks, cut and grown, holes over what lies below.
    let large = File::options().read(true).write(true).open(root.join("usr/lib/large.1")).unwrap();
    large.write_all_at(b"in the middle", 1_000_001).unwrap();
    large.write_all_at(&pattern(9_000), 2_100_000).unwrap();
    let sparse = File::options().write(true).open(root.join("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    let cut = File::options().write(true).open(root.join("usr/bin/program-299")).unwrap();
    cut.set_len(5_000).unwrap();
    cut.set_len(9_000).unwrap();
    let mut punch = Command::new("fallocate");
    punch.args(["-p", "-o", "262144", "-l", "300000"]).arg(root.join("usr/lib/large"));
    assert!(punch.status().unwrap().success());
    // Attributes.
    xattr::set(root.join("etc/passwd"), "user.note", b"from above").unwrap();
    xattr::set(root.join("usr/lib/large"), "user.more", &[7; 300]).unwrap();
    fs::set_permissions(root.join("usr/bin/program-8"), fs::Permissions::from_mode(0o600)).unwrap();
    nix::unistd::chown(&root.join("usr/bin/program-8"), Some(1.into()), Some(2.into())).unwrap();
    // A file of below that is open lives on without its name.
    let open = File::options().read(true).write(true).open(root.join("usr/deep/er/file")).unwrap();
    fs::remove_file(root.join("usr/deep/er/file")).unwrap();
    open.write_all_at(b"D", 0).unwrap();
    let mut text = [0; 5];
    open.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"Deep\n");
}

/// What is at each path: what stat tells but for inode numbers and times, the content, the attributes.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = match () {
                () if stat.is_dir() => String::new(),
                () if stat.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
                () => format!("{:?}", sum(&fs::read(&path).unwrap())),
            };
            // A directory's size and blocks are a filesystem's own affair.
            let size = if stat.is_dir() { 0 } else { stat.size() };
            let owner = (stat.mode(), stat.nlink(), stat.uid(), stat.gid());
            let line = format!("{owner:?} {size} {content} {}", xattrs(&path));
            assert!(found.insert(path.strip_prefix(root).unwrap().display().to_string(), line).is_none());
            if stat.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

fn sum(bytes: &[u8]) -> (usize, u64) {
    let add = |sum: u64, byte: &u8| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte);
    (bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, add))
}

fn xattrs(path: &Path) -> String {
    let mut names: Vec<_> = xattr::list(path).unwrap().collect();
    names.sort();
    let value = |name: &OsString| xattr::get(path, name).unwrap();
    names.iter().map(|name| format!("{name:?}={:?} ", value(name).map(|value| sum(&value)))).collect()
}

fn same(layered: &Path, plain: &Path) {
    let (one, two) = (listing(layered), listing(plain));
    let differ: Vec<_> = two.iter().filter(|(path, line)| one.get(*path) != Some(line)).collect();
    let more: Vec<_> = one.keys().filter(|path| !two.contains_key(*path)).collect();
    assert!(differ.is_empty() && more.is_empty(), "differ: {differ:#?}\nmore: {more:?}");
}

#[test]
fn it_behaves_as_a_plain_volume_with_the_same_tree() {
    let Some(stage) = Stage::new() else { return };
    let plain = Stage::new().unwrap();
    let source = stage.outside("src");
    fs::create_dir(&source).unwrap();
    make_tree(&source);
    stage.pack_and_lie_over(&source);
    let base = fs::read(stage.base()).unwrap();
    let (mut over, mut alone) = (stage.mount(&[]), plain.mount(&[]));
    make_tree(&alone.path(""));
    same(&over.path(""), &alone.path(""));
    for round in 0..2 {
        if round == 0 {
            churn(&over.path(""));
            churn(&alone.path(""));
        }
        same(&over.path(""), &alone.path(""));
        over.umount();
        alone.umount();
        stage.fsck();
        (over, alone) = (stage.mount(&[]), plain.mount(&[]));
    }
    same(&over.path(""), &alone.path(""));
    // Emptied, as whiteouts all over; then a crash.
    for at in [over.path(""), alone.path("")] {
        fs::remove_dir_all(at.join("usr")).unwrap();
        fs::create_dir(at.join("usr")).unwrap();
        fs::write(at.join("usr/lib"), "a file now\n").unwrap();
        File::open(at.join("usr/lib")).unwrap().sync_all().unwrap();
    }
    over.kill();
    let over = stage.mount(&[]);
    same(&over.path(""), &alone.path(""));
    over.umount();
    alone.umount();
    stage.fsck();
    assert!(fs::read(stage.base()).unwrap() == base, "an image below is never written");
}

#[test]
fn read_only_changes_no_byte_and_many_volumes_lie_over_one_image() {
    let Some(stage) = Stage::new() else { return };
    let source = stage.outside("src");
    fs::create_dir_all(source.join("dir")).unwrap();
    fs::write(source.join("dir/large"), pattern(500_000)).unwrap();
    stage.pack_and_lie_over(&source);
    let mount = stage.mount(&[]);
    fs::write(mount.path("dir/large"), "short now").unwrap();
    let second = stage.another_over();
    // The first holds the image; the second shares it.
    let beside = second.mount(&[]);
    assert_eq!(fs::read(beside.path("dir/large")).unwrap(), pattern(500_000));
    beside.umount();
    // What a server that died left in the log is replayed in memory.
    File::open(mount.path("dir/large")).unwrap().sync_all().unwrap();
    mount.kill();
    let before = (fs::read(&stage.image).unwrap(), fs::read(stage.base()).unwrap());
    let mount = stage.mount(&["-o", "ro"]);
    assert_eq!(fs::read(mount.path("dir/large")).unwrap(), b"short now");
    assert_eq!(fs::write(mount.path("new"), "").unwrap_err().raw_os_error(), Some(30), "EROFS");
    mount.umount();
    assert!(before == (fs::read(&stage.image).unwrap(), fs::read(stage.base()).unwrap()), "a byte changed");
}

#[test]
fn the_image_is_named_by_an_option_or_missed_by_name() {
    let Some(stage) = Stage::new() else { return };
    let source = stage.outside("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "below\n").unwrap();
    stage.pack_and_lie_over(&source);
    let moved = stage.outside("moved,here");
    fs::rename(stage.base(), &moved).unwrap();
    let output = stage.command(&[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(32), "{said}");
    assert!(said.contains(&*stage.base().to_string_lossy()) && said.contains("--lower IMAGE"), "{said}");
    let escaped = moved.to_str().unwrap().replace(',', r"\\\,");
    let mount = stage.mount(&["-o", &format!("lower={escaped}")]);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"below\n");
    let ended = mount.signal(Signal::SIGTERM);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}
