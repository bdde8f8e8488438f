//! mkfs.sefs --from-tar: what GNU tar writes comes back, and what nobody should write is refused.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::process::Stdio;

use sefs::types::InodeNo;
use sefs::vfs::Seek;
use sefs_tools::listing::resolve;

use crate::bench::{Bench, MKFS, Ran, pattern, shell, skipped};
use crate::from::{compare, make_tree};

/// A bench with a tree that tar can hold all of: neither sockets nor links to fifos are.
fn with_tree() -> Option<Bench> {
    let bench = Bench::new();
    make_tree(&bench.path("src"));
    fs::remove_file(bench.path("src/socket")).unwrap();
    fs::remove_file(bench.path("src/fifo")).unwrap();
    let long = "a name that is longer than any field of a header ".repeat(5);
    fs::create_dir_all(bench.path("src").join(&long).join(&long)).unwrap();
    fs::write(bench.path("src").join(&long).join(&long).join("file"), "deep").unwrap();
    fs::hard_link(bench.path("src").join(&long).join(&long).join("file"), bench.path("src/zz")).unwrap();
    symlink(&long, bench.path("src/to long")).unwrap();
    shell("tar --version && zstd --version && gzip --version", &bench.path("")).then_some(bench)
}

const TAR: &str = "tar --xattrs --xattrs-include='*' --numeric-owner --atime-preserve=system -C src";

#[track_caller]
fn sh(bench: &Bench, line: &str) {
    assert!(shell(line, &bench.path("")), "{line}");
}

#[test]
fn what_tar_packs_comes_back() {
    let Some(bench) = with_tree() else { return skipped("there is no tar, gzip or zstd") };
    sh(&bench, &format!("{TAR} --format=posix -cf t.tar . && gzip -k t.tar && zstd -q t.tar"));
    for archive in ["t.tar", "t.tar.gz", "t.tar.zst"] {
        for (image, more) in [("packed", &["--read-only"][..]), ("volume", &[])] {
            let args = [&[image, "--from-tar", archive, "--key-file", "key", "--force", "--json"], more].concat();
            let made = bench.mkfs(&args).succeeded();
            assert_eq!(made.json()["content"]["skipped"], 0);
            let volume = bench.volume(image, true);
            assert!(compare(&volume, InodeNo::ROOT, &bench.path("src")) > 20, "{archive} {image}");
            let ino = |path: &str| resolve(&volume, path.as_bytes(), false).unwrap().ino;
            assert_eq!(ino("files/large"), ino("again"), "a hard link is one file");
            drop(volume);
            bench.fsck(&[image, "--key-file", "key", "--scrub"]).succeeded();
        }
    }
    assert_eq!(bench.names().iter().filter(|name| name.starts_with('.')).count(), 0, "nothing is left behind");
}

#[test]
fn a_directory_and_any_tar_of_it_make_the_same_image() {
    let Some(bench) = with_tree() else { return skipped("there is no tar, gzip or zstd") };
    sh(&bench, &format!("{TAR} --format=posix -cf plain . && gzip -k plain && zstd -q plain"));
    // Another order, names with and without "./" and "/", and some entries twice.
    sh(
        &bench,
        &format!(
            "(cd src && find . ! -name . -print0 | sort -rz) >list; {TAR} --format=posix --no-recursion --null -cf order . -T list"
        ),
    );
    sh(
        &bench,
        &format!(
            "{TAR} --format=posix -cf twice . && {TAR} --format=posix -rf twice . && {TAR} --format=posix -P --transform 's,^\\./,/,' -cf slash ."
        ),
    );
    for kind in [&["--public"][..], &["--key-file", "key"]] {
        let pack = |image: &str, from: [&str; 2]| {
            let args = [&[image], &from[..], &["--read-only", "--reproducible", "--json", "--force"], kind].concat();
            let mut command = bench.command(MKFS, &args);
            // So late that the times in the image are the tree's.
            command.env("SOURCE_DATE_EPOCH", "4000000000").stdin(File::open(bench.path("plain.gz")).unwrap());
            Ran::of(command.output().unwrap()).succeeded();
            fs::read(bench.path(image)).unwrap()
        };
        let expected = pack("dir", ["--from", "src"]);
        for archive in ["plain", "plain.gz", "plain.zst", "order", "twice", "slash", "-"] {
            assert!(pack("tar", ["--from-tar", archive]) == expected, "{archive} {kind:?}");
        }
    }
}

#[test]
fn other_formats_hold_what_they_can() {
    let Some(bench) = with_tree() else { return skipped("there is no tar, gzip or zstd") };
    sh(&bench, "tar --format=gnu -C src -cf gnu . && tar --format=v7 -C src/files -cf v7 empty inline deep");
    for (archive, path) in [("gnu", "files/large"), ("v7", "inline")] {
        bench.mkfs(&["a", "--from-tar", archive, "--key-file", "key", "--force", "-q"]).succeeded();
        let found = bench.debug(&["a", "--key-file", "key", "cat", path]).succeeded().out;
        let expected = if archive == "gnu" { fs::read(bench.path("src/files/large")) } else { Ok(pattern(2048)) };
        assert!(found == expected.unwrap(), "{archive}");
    }
    bench.debug(&["a", "--key-file", "key", "stat", "deep/deeper"]).succeeded();
}

#[test]
fn holes_stay_holes_in_every_format() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    let file = File::create(bench.path("src/sparse")).unwrap();
    for number in 0..40 {
        file.write_all_at(&pattern(4096), (1 << 30) + number * (1 << 20)).unwrap();
    }
    file.set_len(20 << 30).unwrap();
    for format in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"] {
        if !shell(&format!("tar --sparse --format={format} -C src -cf t.tar ."), &bench.path("")) {
            return skipped("there is no tar that knows holes");
        }
        assert!(fs::metadata(bench.path("t.tar")).unwrap().len() < 1 << 20);
        bench.mkfs(&["a", "--from-tar", "t.tar", "--key-file", "key", "--force", "-q"]).succeeded();
        let volume = bench.volume("a", true);
        let sparse = resolve(&volume, b"sparse", false).unwrap();
        assert_eq!((sparse.size, sparse.blocks_512), (20 << 30, 40 * 8), "{format}");
        for number in 0..40 {
            let at = (1 << 30) + number * (1 << 20);
            assert_eq!(volume.seek(sparse.ino, at - 4096, Seek::Data).unwrap(), at, "{format}");
            let mut data = vec![0; 4096];
            volume.read(sparse.ino, at, &mut data).unwrap();
            assert!(data == pattern(4096), "{format}");
        }
    }
}

fn archive(bench: &Bench, name: &str, fill: impl FnOnce(&mut tar::Builder<File>)) {
    let mut builder = tar::Builder::new(File::create(bench.path(name)).unwrap());
    fill(&mut builder);
    builder.finish().unwrap();
}

fn add(builder: &mut tar::Builder<File>, kind: tar::EntryType, name: &str, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

#[test]
fn hostile_archives_leave_nothing_but_a_line() {
    use tar::EntryType::{Link, Regular, Symlink};
    let bench = Bench::new();
    fs::create_dir(bench.path("outside")).unwrap();
    let outside = bench.path("outside").display().to_string();
    for (name, reason, fill) in [
        ("up", "../outside/x: its name has a part '..'", vec![(Regular, "../outside/x", "", &b"x"[..])]),
        (
            "through",
            "l/x: its name leads through a symbolic link, which is not followed",
            vec![(Symlink, "l", "outside", b""), (Regular, "l/x", "", b"x")],
        ),
        (
            "absolute",
            "l/x: its name leads through a symbolic link, which is not followed",
            vec![(Symlink, "l", &outside, b""), (Regular, "l/x", "", b"x")],
        ),
        ("link", "h: it is a hard link to what is not there", vec![(Link, "h", "/etc/passwd", b"")]),
        ("itself", "h: it is a hard link to itself", vec![(Link, "h", "./h", b"")]),
    ] {
        archive(&bench, name, |builder| {
            fill.iter().for_each(|(kind, name, link, content)| add(builder, *kind, name, link, content));
        });
        for more in [&["--read-only", "--public"][..], &["--key-file", "key"]] {
            let made = bench.mkfs(&[&["a", "--from-tar", name], more].concat());
            made.refused(1, &[&format!("{name}: {reason}")]);
        }
    }
    assert_eq!(fs::read_dir(bench.path("outside")).unwrap().count(), 0);
    let left = bench.names();
    assert_eq!(left, ["absolute", "itself", "key", "link", "other", "outside", "phrase", "through", "up"]);
}

#[test]
fn what_is_no_archive_and_what_ends_early_is_refused() {
    let bench = Bench::new();
    archive(&bench, "t", |builder| add(builder, tar::EntryType::Regular, "file", "", &pattern(100_000)));
    let whole = fs::read(bench.path("t")).unwrap();
    fs::write(bench.path("cut"), &whole[..50_000]).unwrap();
    fs::write(bench.path("unmarked"), &whole[..whole.len() - 1024]).unwrap();
    fs::write(bench.path("noise"), pattern(5000)).unwrap();
    let mkfs = |archive: &str| bench.mkfs(&["a", "--from-tar", archive, "--read-only", "--public"]);
    mkfs("cut").refused(1, &["cut: file: the archive is truncated"]);
    mkfs("unmarked").refused(1, &["unmarked: the archive is truncated"]);
    mkfs("noise").refused(1, &["noise: this is no tar header"]);
    mkfs("gone").refused(1, &["gone: No such file"]);
    mkfs("outside/").refused(1, &["outside/: "]);
    mkfs("-").refused(1, &["-: the archive is truncated"]);
    assert!(!bench.path("a").exists());
    mkfs("t").succeeded();
    bench
        .mkfs(&["t", "--from-tar", "t", "--read-only", "--public", "--force"])
        .refused(1, &["the archive to be sealed"]);
    bench.mkfs(&["b", "--from-tar", "-", "--key-file", "-"]).refused(1, &["cannot both be standard input"]);
    bench.mkfs(&["b", "--from-tar", "t", "--from", "outside", "--key-file", "key"]).refused(1, &["--from-tar"]);
}

#[test]
fn what_is_unknown_is_left_out_and_counted() {
    let bench = Bench::new();
    archive(&bench, "t", |builder| {
        for number in 0..30 {
            add(builder, tar::EntryType::new(b'D'), &format!("dump{number}"), "", b"content");
        }
        add(builder, tar::EntryType::Regular, "file", "", b"x");
    });
    for more in [&["--read-only", "--public"][..], &["--key-file", "key"]] {
        let made = bench.mkfs(&[&["a", "--from-tar", "t", "--json", "--force"], more].concat()).succeeded();
        assert_eq!(
            (made.json()["content"]["skipped"].as_u64(), made.json()["content"]["files"].as_u64()),
            (Some(30), Some(1))
        );
        assert!(made.err.contains("dump0: an entry of type 'D', of which nothing is known; left out"), "{made:?}");
        assert!(made.err.contains("10 more were left out"), "{made:?}");
    }
}

/// 2 GiB of zeros in 2 MiB, and 300 MiB of something in 1 MiB, within 400 MiB of memory.
#[test]
fn a_bomb_takes_no_memory() {
    let bench = Bench::new();
    let file = File::create(bench.path("bomb.gz")).unwrap();
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    let mut zeros = std::io::repeat(0);
    let mut letters = std::io::repeat(b'x');
    for (name, size, content) in [("zeros", 2_u64 << 30, &mut zeros), ("letters", 300 << 20, &mut letters)] {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        builder.append(&header, std::io::Read::take(content, size)).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap().flush().unwrap();
    let line = format!("ulimit -v 409600; exec {MKFS} a --from-tar bomb.gz --read-only --public --json");
    let mut command = bench.command("sh", &["-c", &line]);
    let made = Ran::of(command.stdin(Stdio::null()).output().unwrap()).succeeded().json();
    assert_eq!(made["content"]["bytes"], 300 << 20);
    assert!(made["size_bytes"].as_u64().unwrap() < 32 << 20, "{made}");
}
