//! Whole archives, one over the other, and what comes out of them: hostile ones above all.

use std::io::{Cursor, Write};
use std::sync::atomic::AtomicBool;

use super::member::tests::{archive, entry, records};
use super::*;

type Layer = Vec<Vec<u8>>;

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(b'0', name.as_bytes(), content.as_bytes(), |_| {})
}

fn directory(name: &str) -> Vec<u8> {
    entry(b'5', name.as_bytes(), b"", |header| header.set_mode(0o750))
}

fn link(letter: u8, name: &str, target: &str) -> Vec<u8> {
    entry(letter, name.as_bytes(), b"", |header| {
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    })
}

fn named(name: &[u8], then: Vec<u8>) -> Vec<u8> {
    [entry(b'x', b"", &records(&[("path", name)]), |_| {}), then].concat()
}

/// Merges streams and says what was warned of.
fn merge(layers: &[Vec<u8>], role: Role) -> Result<(Archive, Vec<String>), String> {
    let mut merged = Archive::new(Path::new("test"), &std::env::temp_dir()).unwrap();
    let (stop, mut warnings) = (AtomicBool::new(false), Vec::new());
    for layer in layers {
        let from = Box::new(Cursor::new(layer.clone()));
        let applied = merged.apply(from, role, &stop, &mut |line| warnings.push(line));
        applied.map_err(|Refused { entry, why }| format!("{}: {why}", escaped(&entry)))?;
    }
    Ok((merged.finish().unwrap(), warnings))
}

fn alone(entries: &[Vec<u8>]) -> Result<Vec<String>, String> {
    merge(&[archive(entries)], Role::Alone).map(|(merged, _)| shape(&merged))
}

fn layers(layers: &[Layer]) -> Result<Vec<String>, String> {
    let streams: Vec<Vec<u8>> = layers.iter().map(|entries| archive(entries)).collect();
    merge(&streams, Role::Layer).map(|(merged, _)| shape(&merged))
}

#[track_caller]
fn refused(entries: &[Vec<u8>], text: &str) {
    match alone(entries) {
        Err(found) => assert!(found.contains(text), "{found}, not {text}"),
        Ok(found) => panic!("{found:?}, not {text}"),
    }
}

/// A line for each name: its path, and what it is.
fn shape(merged: &Archive) -> Vec<String> {
    let (mut lines, mut path) = (Vec::new(), Vec::<String>::new());
    let mut walked = |item: Item| {
        let place = |path: &[String], name: &[u8]| [path, &[escaped(name)]].concat().join("/");
        match item {
            Item::Enter(entry) => {
                path.push(escaped(&entry.name));
                lines.push(format!("{}/ {:o}", path.join("/"), entry.mode));
            }
            Item::Leave => drop(path.pop()),
            Item::File(entry) => lines.push(format!("{} ", place(&path, &entry.name))),
            Item::Data { bytes, .. } => lines.last_mut().unwrap().push_str(&escaped(&bytes)),
            Item::End { size } => lines.last_mut().unwrap().push_str(&format!(" {size}")),
            Item::Symlink(entry, target) => {
                lines.push(format!("{} -> {}", place(&path, &entry.name), escaped(&target)))
            }
            Item::Special(entry) => {
                lines.push(format!("{} {:?} {:x}", place(&path, &entry.name), entry.kind, entry.rdev))
            }
            Item::Link { name, of } => lines.push(format!("{} = {}", place(&path, &name), of.inode)),
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    };
    merged.walk(true, &mut walked).unwrap();
    assert_eq!(lines.remove(0).split('/').next(), Some(""));
    lines
}

#[test]
fn entries_come_in_the_order_of_paths_whatever_the_archive_has() {
    let found = alone(&[file("./z", "last"), file("/a/b/c", "deep"), directory("a"), link(b'2', "a/l", "../..")]);
    assert_eq!(found.unwrap(), ["/a/ 750", "/a/b/ 755", "/a/b/c deep 4", "/a/l -> ../..", "/z last 4"]);
}

#[test]
fn no_name_leads_up() {
    for name in ["..", "../x", "a/../x", "/..", "./..", "a/.."] {
        refused(&[file(name, "x")], &format!("{name}: its name has a part '..'"));
        refused(&[file("x", ""), link(b'1', "y", name)], "y: its name has a part '..'");
    }
    assert_eq!(alone(&[file("a..b/...", "x")]).unwrap(), ["/a..b/ 755", "/a..b/... x 1"]);
}

#[test]
fn no_name_leads_through_a_link_or_a_file() {
    let through_link = "its name leads through a symbolic link, which is not followed";
    refused(&[directory("etc"), link(b'2', "l", "etc"), file("l/passwd", "x")], &format!("l/passwd: {through_link}"));
    refused(&[link(b'2', "l", "/"), directory("l/x")], through_link);
    refused(&[link(b'2', "a", "."), link(b'1', "h", "a/a")], through_link);
    refused(&[file("f", ""), file("f/x", "")], "f/x: its name leads through what is no directory");
    refused(&[entry(b'6', b"p", b"", |_| {}), link(b'2', "p/x", "y")], "p/x: its name leads through");
    let lower = vec![directory("d"), link(b'2', "l", "d")];
    for upper in ["l/x", "l/.wh.x", "l/.wh..wh..opq"] {
        let found = layers(&[lower.clone(), vec![file(upper, "")]]).unwrap_err();
        assert!(found.contains(through_link), "{upper}: {found}");
    }
    // A directory takes the place of a link; nothing goes where the link led.
    let found = alone(&[directory("d"), link(b'2', "l", "d"), directory("l"), file("l/x", "x")]).unwrap();
    assert_eq!(found, ["/d/ 750", "/l/ 750", "/l/x x 1"]);
}

#[test]
fn hard_links_lead_to_files_that_are_there() {
    let found = alone(&[file("a", "x"), link(b'1', "b", "./a"), link(b'2', "s", "a"), link(b'1', "t", "/s")]).unwrap();
    assert_eq!(found, ["/a x 1", "/b = 1", "/s -> a", "/t = 2"]);
    refused(&[link(b'1', "b", "a")], "b: it is a hard link to what is not there");
    refused(&[link(b'1', "b", "a"), file("a", "x")], "b: it is a hard link to what is not there");
    refused(&[file("a", "x"), link(b'1', "a", "./a")], "a: it is a hard link to itself");
    refused(&[directory("d"), link(b'1', "b", "d")], "b: it is a hard link to a directory");
    refused(&[link(b'1', "b", "")], "b: it is a hard link to a directory");
    refused(&[file("a", "x"), link(b'1', "/", "a")], "the root can only be a directory");
}

#[test]
fn a_link_outlives_what_it_was_linked_to() {
    let found = alone(&[file("a", "old"), link(b'1', "b", "a"), file("a", "new")]).unwrap();
    assert_eq!(found, ["/a new 3", "/b old 3"]);
    // The directory with its last other name goes as the link takes its place.
    assert_eq!(alone(&[file("d/f", "x"), link(b'1', "d", "d/f")]).unwrap(), ["/d x 1"]);
    let again = [file("a", "x"), link(b'1', "b", "a"), link(b'1', "b", "a"), link(b'1', "a", "b")];
    assert_eq!(alone(&again).unwrap(), ["/a x 1", "/b = 1"]);
}

#[test]
fn later_entries_take_the_place_of_earlier_ones() {
    assert_eq!(alone(&[file("a", "1"), file("a", "22"), file("./a", "333")]).unwrap(), ["/a 333 3"]);
    let back = [file("d/x", "1"), file("d", "2"), directory("d"), file("d/y", "3")];
    assert_eq!(alone(&back).unwrap(), ["/d/ 750", "/d/y 3 1"]);
    let kept = [file("d/x", "1"), directory("d")];
    assert_eq!(alone(&kept).unwrap(), ["/d/ 750", "/d/x 1 1"], "a directory over a directory changes attributes only");
}

#[test]
fn names_are_bounded() {
    let part = |length: usize| "n".repeat(length).into_bytes();
    refused(&[named(&part(256), file("x", ""))], "a part of its name is longer than 255 bytes");
    assert_eq!(alone(&[named(&part(255), file("x", "1"))]).unwrap().len(), 1);
    let deep = |levels: usize| b"d/".repeat(levels);
    assert_eq!(alone(&[named(&deep(2048), directory("x"))]).unwrap().len(), 2048);
    refused(&[named(&deep(2049), directory("x"))], "its name is longer than 4096 bytes");
    refused(&[named(b"a\0b", file("x", ""))], "its name has a NUL");
    refused(&[entry(b'L', b"", b"a\0b\0", |_| {}), file("x", "")], "its name has a NUL");
    refused(&[link(b'2', "l", "")], "l: what it points to is no path");
    let target = entry(b'x', b"", &records(&[("linkpath", &part(4096))]), |_| {});
    refused(&[[target, link(b'2', "l", "")].concat()], "l: what it points to is no path");
}

#[test]
fn devices_and_what_is_unknown() {
    let device = |letter, name: &[u8]| {
        entry(letter, name, b"", |header| {
            header.set_device_major(8).unwrap();
            header.set_device_minor(17).unwrap();
        })
    };
    let entries =
        [device(b'4', b"b"), device(b'3', b"c"), device(b'6', b"p"), entry(b'D', b"dump", b"content", |_| {})];
    let (merged, warnings) = merge(&[archive(&entries)], Role::Alone).unwrap();
    assert_eq!(shape(&merged), ["/b BlockDevice 811", "/c CharDevice 811", "/p Fifo 0"]);
    assert_eq!(merged.left_out(), 1);
    assert_eq!(warnings, ["dump: an entry of type 'D', of which nothing is known; left out"]);
}

#[test]
fn whiteouts_hide_what_is_below() {
    let lower = || vec![directory("d"), file("d/a", "1"), file("d/b", "2"), file("d/sub/x", "3"), file("e", "4")];
    let over = |upper: Layer| layers(&[lower(), upper]).unwrap();
    assert_eq!(
        over(vec![file("d/.wh.a", ""), file(".wh.e", "")]),
        ["/d/ 750", "/d/b 2 1", "/d/sub/ 755", "/d/sub/x 3 1"]
    );
    assert_eq!(over(vec![file(".wh.d", "")]), ["/e 4 1"]);
    assert_eq!(over(vec![file("d/.wh.sub", ""), file("d/.wh.none", ""), file("none/.wh.x", "")]).len(), 4);
    assert_eq!(over(vec![file("d/.wh..wh..opq", "")]), ["/d/ 750", "/e 4 1"]);
    assert_eq!(over(vec![file(".wh..wh..opq", "")]), Vec::<String>::new());
    // In an archive by itself these are names.
    assert_eq!(alone(&[file("a", ""), file(".wh.a", "")]).unwrap().len(), 2);
}

#[test]
fn whiteouts_hide_nothing_of_their_own_layer_wherever_they_stand() {
    let lower = || vec![directory("d"), file("d/a", "1"), file("d/sub/x", "3")];
    let own = [directory("d"), file("d/a", "new"), file("d/sub/y", "own")];
    for (mark, expected) in [
        ("d/.wh..wh..opq", &["/d/ 750", "/d/a new 3", "/d/sub/ 755", "/d/sub/y own 3"][..]),
        (".wh.d", &["/d/ 750", "/d/a new 3", "/d/sub/ 755", "/d/sub/y own 3"]),
        ("d/.wh.a", &["/d/ 750", "/d/a new 3", "/d/sub/ 755", "/d/sub/x 3 1", "/d/sub/y own 3"]),
        ("d/.wh.sub", &["/d/ 750", "/d/a new 3", "/d/sub/ 755", "/d/sub/y own 3"]),
    ] {
        for place in 0..=own.len() {
            let mut upper = own.to_vec();
            upper.insert(place, file(mark, ""));
            assert_eq!(layers(&[lower(), upper]).unwrap(), expected, "{mark} at {place}");
        }
    }
}

#[test]
fn a_directory_that_is_hidden_and_only_passed_through_loses_its_attributes() {
    for upper in [[file(".wh.d", ""), file("d/y", "2")], [file("d/y", "2"), file(".wh.d", "")]] {
        let found = layers(&[vec![directory("d"), file("d/x", "1")], upper.to_vec()]).unwrap();
        assert_eq!(found, ["/d/ 755", "/d/y 2 1"]);
    }
}

#[test]
fn links_reach_into_lower_layers() {
    let found = layers(&[vec![file("a", "1")], vec![link(b'1', "b", "a")], vec![file(".wh.a", "")]]).unwrap();
    assert_eq!(found, ["/b 1 1"]);
    let found = layers(&[vec![file("a", "1")], vec![link(b'1', "b", "a"), file(".wh.b", "")]]).unwrap();
    assert_eq!(found, ["/a 1 1", "/b = 1"]);
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for bad in [".wh.", ".wh..", ".wh...", "d/.wh.", ".wh.d/x"] {
        let found = layers(&[vec![directory("d")], vec![file(bad, "")]]).unwrap_err();
        assert!(found.contains("it is a whiteout of no name"), "{bad}: {found}");
    }
    let (merged, warnings) = merge(&[archive(&[file(".wh..wh.plnk", "")])], Role::Layer).unwrap();
    assert_eq!((shape(&merged).len(), merged.left_out(), warnings.len()), (0, 1, 1));
}

#[test]
fn content_of_zeros_and_holes_takes_no_space() {
    let zeros = "\0".repeat(3 << 20);
    let (merged, _) = merge(&[archive(&[file("zeros", &zeros), file("x", "y")])], Role::Alone).unwrap();
    assert_eq!(merged.spool.read(0, 1).unwrap(), b"y");
    let holes = records(&[("GNU.sparse.size", b"1099511627777"), ("GNU.sparse.map", b"0,1")]);
    refused(
        &[entry(b'x', b"", &holes, |_| {}), file("a", "x"), entry(b'x', b"", &holes, |_| {}), file("b", "x")],
        "b: the holes",
    );
    let huge = records(&[("GNU.sparse.size", b"9000000000000000000"), ("GNU.sparse.map", b"0,1")]);
    refused(&[entry(b'x', b"", &huge, |_| {}), file("a", "x")], "a: ");
}

#[test]
fn what_is_kept_in_memory_is_bounded() {
    let mut tree = Tree::new();
    assert!(tree.keep(2 << 30).is_ok());
    let name = Names::parse(b"x").unwrap();
    let target = Names::parse(b"y").unwrap();
    assert!(matches!(tree.link(&name, &target), Err(Refusal::TooManyEntries)));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn compressed_streams_are_told_by_their_first_bytes() {
    let plain = archive(&[file("a", "text"), file("b", &"more ".repeat(100_000))]);
    let expected = shape(&merge(std::slice::from_ref(&plain), Role::Alone).unwrap().0);
    let halves = plain.split_at(plain.len() / 2);
    let skippable = b"\x5e\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    for (name, stream) in [
        ("gzip", gzip(&plain)),
        ("gzip in two members", [gzip(halves.0), gzip(halves.1)].concat()),
        ("zstd", zstd(&plain)),
        ("zstd in two frames", [skippable.clone(), zstd(halves.0), skippable, zstd(halves.1)].concat()),
    ] {
        let whole = merge(std::slice::from_ref(&stream), Role::Alone);
        assert_eq!(shape(&whole.unwrap_or_else(|why| panic!("{name}: {why}")).0), expected, "{name}");
        for length in (1..stream.len()).step_by(stream.len() / 50 + 1).chain([stream.len() - 1]) {
            assert!(merge(&[stream[..length].to_vec()], Role::Alone).is_err(), "{name}, {length} bytes");
        }
        for at in (4..stream.len()).step_by(stream.len() / 20 + 1) {
            let mut damaged = stream.clone();
            damaged[at] ^= 0x10;
            // What a changed byte makes of it is refused, or was no content; it never panics.
            let _ = merge(&[damaged], Role::Alone);
        }
    }
    let Err(found) = merge(&[b"\xfd7zXZ\0\0\0".to_vec()], Role::Alone) else { panic!("xz is not read") };
    assert!(found.contains("compressed by xz"), "{found}");
    assert!(merge(&[Vec::new()], Role::Alone).is_err(), "nothing at all is a truncated archive");
}

#[test]
fn a_checksum_that_is_wrong_is_noticed() {
    let plain = archive(&[file("a", &"text ".repeat(1000))]);
    for (mut stream, from_end) in [(gzip(&plain), 8), (gzip(&plain), 1), (zstd(&plain), 1)] {
        let at = stream.len() - from_end;
        stream[at] ^= 1;
        assert!(merge(&[stream], Role::Alone).is_err());
    }
}

#[test]
fn a_window_of_zstd_beyond_measure_is_refused() {
    // A frame of no known size whose window is 2^41 bytes.
    assert!(merge(&[b"\x28\xb5\x2f\xfd\x00\xf8\x01\0\0".to_vec()], Role::Alone).is_err());
}

#[test]
fn random_changes_never_panic() {
    let pax =
        entry(b'x', b"", &records(&[("path", b"long"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")]), |_| {});
    let sparse = records(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"10,2,50,4")]);
    let sparse = entry(b'x', b"", &sparse, |_| {});
    let whole = archive(&[
        directory("d"),
        pax,
        file("x", "y"),
        sparse,
        file("s", "abcdef"),
        link(b'1', "h", "s"),
        file("d/.wh.x", ""),
    ]);
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..20_000 {
        let mut changed = whole.clone();
        for _ in 0..=random(3) {
            let (block, at) = (random(changed.len() / 512), random(512));
            changed[block * 512 + at] = u8::try_from(random(256)).unwrap();
            // Most changes would fail at the checksum alone.
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&changed[block * 512..][..512]);
            if header.as_bytes().iter().any(|byte| *byte != 0) && random(8) > 0 {
                header.set_cksum();
                changed[block * 512..][..512].copy_from_slice(header.as_bytes());
            }
        }
        if let Ok((merged, _)) = merge(&[changed], Role::Layer) {
            shape(&merged);
        }
    }
}

/// Headers of empty files, each made when it is read.
struct Many {
    left: u32,
    block: Vec<u8>,
}

impl Read for Many {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() && self.left > 0 {
            self.left -= 1;
            self.block = match self.left {
                0 => vec![0; 1024],
                number => file(&format!("{number:07}"), ""),
            };
        }
        let count = self.block.len().min(out.len());
        out[..count].copy_from_slice(&self.block[..count]);
        self.block.drain(..count);
        Ok(count)
    }
}

#[test]
fn a_million_tiny_entries_are_held() {
    let mut merged = Archive::new(Path::new("test"), &std::env::temp_dir()).unwrap();
    let from = Box::new(BufReader::new(Many { left: 1_000_001, block: Vec::new() }));
    merged.apply(from, Role::Alone, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let mut steps = 0_u64;
    let counted = merged.walk(false, &mut |_| {
        steps += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((counted, steps), (Ok(()), 1_000_002));
}
