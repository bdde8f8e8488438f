//! fsck.sefs: exit codes, what it reports, and what it repairs and what never.

use std::fs;
use std::os::unix::process::CommandExt;

use sefs::format::{CHECKPOINT_SLOTS, FileKind, Header};
use sefs::types::{BLOCK_SIZE_U64, InodeNo};
use sefs::vfs::{Caller, NewInode, WriteMode};

use crate::bench::{Bench, FSCK, Ran, pattern};

const KEY: [&str; 2] = ["--key-file", "key"];

fn fsck(bench: &Bench, more: &[&str]) -> Ran {
    bench.fsck(&[&["a"], &KEY[..], more].concat())
}

#[test]
fn a_sound_volume_is_clean_and_stays_as_it_is() {
    let bench = Bench::with_image();
    let before = fs::read(bench.path("a")).unwrap();
    for more in [&[][..], &["-n"], &["-y"], &["-p"], &["-a"], &["-f", "-p"], &["--scrub"], &["-n", "--scrub"]] {
        let ran = fsck(&bench, more);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{more:?}: {ran:?}");
        assert_eq!(fs::read(bench.path("a")).unwrap(), before, "{more:?} changed the image");
    }
    let result = fsck(&bench, &["--scrub", "--json"]).json();
    assert_eq!((result["state"].as_str(), result["errors"].as_u64()), (Some("clean"), Some(0)));
    assert_eq!(result["inodes"], 4);
    assert_eq!(result["scrubbed_blocks"], result["data_blocks"]);
    assert_eq!(fsck(&bench, &["-p", "--json"]).json()["checked"], false);
}

#[test]
fn changed_data_are_found_by_a_scrub_and_never_repaired() {
    let bench = Bench::with_image();
    bench.flip("a", data_offset(&bench));
    let before = fs::read(bench.path("a")).unwrap();
    assert_eq!(fsck(&bench, &["-n"]).code, Some(0), "data are read by a scrub only");
    for more in [&["--scrub"][..], &["--scrub", "-y"], &["--scrub", "-p"], &["--scrub", "-a", "-f"]] {
        let ran = fsck(&bench, more);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.text().contains("does not authenticate [data-tampered]"), "{ran:?}");
        assert!(ran.text().contains("1 error in "), "{ran:?}");
        assert_eq!(fs::read(bench.path("a")).unwrap(), before, "{more:?} changed the image");
    }
    let lines = fsck(&bench, &["--scrub", "--json"]).json_lines();
    assert_eq!((lines[0]["finding"].as_str(), lines[0]["severity"].as_str()), (Some("data-tampered"), Some("error")));
    assert_eq!(lines[1]["state"], "errors");
}

#[test]
fn a_damaged_slot_is_a_note_and_is_repaired_when_asked() {
    let bench = Bench::with_image();
    let older = older_slot(&bench);
    bench.flip("a", CHECKPOINT_SLOTS[older].0 * BLOCK_SIZE_U64 + 100);
    let ran = fsck(&bench, &["-n"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.text().contains("[slot-damaged]"), "{ran:?}");
    let ran = fsck(&bench, &["-y", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.json_lines().last().unwrap()["state"], "corrected");
    let ran = fsck(&bench, &["--scrub"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.text().contains("note"), "{ran:?}");
    assert_eq!(bench.debug(&["a", "--key-file", "key", "cat", "hello"]).out, b"hello\n");
}

#[test]
fn a_log_is_replayed_when_asked() {
    let bench = Bench::with_image();
    crash_with_a_log(&bench);
    let before = fs::read(bench.path("a")).unwrap();
    let ran = fsck(&bench, &["-n", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.json()["log_groups"].as_u64().unwrap() > 0, "{ran:?}");
    // Looking replays in memory only.
    assert_eq!(bench.debug(&["a", "--key-file", "key", "cat", "new"]).succeeded().out, pattern(9000));
    assert_eq!(fs::read(bench.path("a")).unwrap(), before);
    assert_eq!(fsck(&bench, &["-p"]).code, Some(1));
    let result = fsck(&bench, &["--scrub", "--json"]);
    assert_eq!((result.code, result.json()["log_groups"].as_u64()), (Some(0), Some(0)), "{result:?}");
    assert_eq!(bench.debug(&["a", "--key-file", "key", "cat", "new"]).succeeded().out, pattern(9000));
    assert_eq!(fsck(&bench, &["-p"]).code, Some(0));
}

#[test]
fn a_changed_header_or_both_slots_are_errors() {
    for offsets in
        [&[300][..], &[CHECKPOINT_SLOTS[0].0 * BLOCK_SIZE_U64 + 9, CHECKPOINT_SLOTS[1].0 * BLOCK_SIZE_U64 + 9]]
    {
        let bench = Bench::with_image();
        offsets.iter().for_each(|offset| bench.flip("a", *offset));
        let before = fs::read(bench.path("a")).unwrap();
        let ran = fsck(&bench, &["-y"]);
        assert!(matches!(ran.code, Some(4 | 8)), "{ran:?}");
        assert_eq!(fs::read(bench.path("a")).unwrap(), before);
    }
}

/// A copy of the header hides nothing, but someone should see that it does not authenticate.
#[test]
fn a_header_copy_is_put_back_when_a_person_asks() {
    let bench = Bench::with_image();
    let len = fs::metadata(bench.path("a")).unwrap().len();
    bench.flip("a", len - 60_000);
    let ran = fsck(&bench, &["-y"]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.text().contains("[header-copy]") && ran.text().contains("--repair does"), "{ran:?}");
    assert_eq!(fsck(&bench, &["--repair"]).code, Some(1));
    assert_eq!(fsck(&bench, &[]).code, Some(0));
}

#[test]
fn an_older_image_is_named_as_one_and_nothing_is_done() {
    let bench = Bench::new();
    let with = ["--key-file", "key", "--anchor", "file:anchor"];
    bench.mkfs(&[&["a", "--size", "8M"], &with[..]].concat()).succeeded();
    let old = fs::read(bench.path("a")).unwrap();
    // What writes moves the anchor.
    let slots = ["slots", "add", "a", "--new-passphrase-file", "phrase"];
    bench.run(env!("CARGO_BIN_EXE_sealing"), &[&slots[..], &with[..]].concat()).succeeded();
    fs::write(bench.path("a"), &old).unwrap();
    for mode in ["-y", "--repair"] {
        let ran = bench.fsck(&[&["a", mode], &with[..]].concat());
        assert_eq!(ran.code, Some(4));
        assert!(ran.text().contains("put the newest image back"), "{ran:?}");
        assert!(fs::read(bench.path("a")).unwrap() == old);
    }
    let ran = bench.fsck(&["a", "-n", "--key-file", "key", "--abandon-anchor"]);
    assert!(ran.err.contains("no anchor any more"), "{ran:?}");
    bench.mkfs(&["b", "--size", "8M", "--key-file", "key", "--anchor", "file:stranger"]).succeeded();
    bench.debug(&["b", "--key-file", "key", "--anchor", "file:anchor", "ls"]).refused(1, &["another volume's"]);
}

#[test]
fn bad_images_are_named_with_reason_and_way_out() {
    let bench = Bench::with_image();
    let image = fs::read(bench.path("a")).unwrap();
    let refused = |content: &[u8], parts: &[&str]| {
        fs::write(bench.path("bad"), content).unwrap();
        let args = ["bad", "--key-file", "key"];
        bench.fsck(&args).refused(8, &[&["fsck.sefs: bad: "], parts].concat());
        bench.debug(&[&args[..], &["ls"]].concat()).refused(1, &[&["debug.sefs: bad: "], parts].concat());
        assert!(fs::read(bench.path("bad")).unwrap() == content);
    };
    refused(&image[..image.len() / 2], &["truncated: the header names 67108864 bytes, there are 33554432"]);
    refused(&pattern(1 << 20), &["not a SEFS image", "take the image from a copy"]);
    refused(&image[..5000], &[]);
    refused(b"", &[]);
    // A header has a replica at the end; what both say counts.
    let patched = |offset: usize, value: u8| {
        let (mut patched, replica) = (image.clone(), image.len() - 65_536);
        (patched[offset], patched[replica + offset]) = (value, value);
        patched
    };
    refused(&patched(8, 2), &["format version 2 is not supported; use a newer release"]);
    refused(&patched(16, 64), &["feature flags 0x40 are not supported"]);
    bench.fsck(&["gone", "--key-file", "key"]).refused(8, &["gone: No such file or directory; check the path"]);
    bench.fsck(&[".", "--key-file", "key"]).refused(8, &["neither a file nor a block device"]);
}

#[test]
fn keys_and_usage() {
    let bench = Bench::with_image();
    bench.fsck(&["a", "--key-file", "other"]).refused(8, &["fsck.sefs: a: wrong key"]);
    bench.fsck(&["a", "--passphrase-file", "phrase"]).refused(8, &["wrong key"]);
    let told = bench.fsck(&["a", "--key-file", "other", "--json"]).told(8, &["fsck.sefs: a: wrong key"]).json();
    assert_eq!(told["error"]["kind"], "operational");
    bench.fsck(&["a"]).refused(16, &["a: no key is given; give --key-file FILE or --passphrase-file FILE"]);
    bench.fsck(&["a", "-n", "-y"]).refused(16, &["see fsck.sefs --help"]);
    bench.fsck(&[]).refused(16, &["IMAGE"]);
    fsck(&bench, &["-o", "nosuch"]).refused(16, &["option nosuch"]);
    assert_eq!(bench.fsck(&["a", "-o", "key-file=key"]).code, Some(0));
}

#[test]
fn readers_share_the_image() {
    let bench = Bench::with_image();
    let held = fs::File::open(bench.path("a")).unwrap();
    held.lock_shared().unwrap();
    assert_eq!(fsck(&bench, &["-n"]).code, Some(0));
}

#[test]
fn as_the_systems_helper_it_is_silent_and_takes_its_options() {
    let bench = Bench::with_image();
    let mut command = bench.command(FSCK, &["-T", "-a", "-C", "0", "-V", "a"]);
    let ran = Ran::of(command.arg0("fsck.fuse.sefs").env("SEFS_KEY_FILE", "key").output().unwrap());
    assert_eq!((ran.code, ran.text(), ran.err.as_str()), (Some(0), "", ""));
    bench.flip("a", data_offset(&bench));
    let mut command = bench.command(FSCK, &["-a", "--scrub", "a"]);
    let ran = Ran::of(command.arg0("fsck.fuse.sefs").env("SEFS_KEY_FILE", "key").output().unwrap());
    assert_eq!(ran.code, Some(4));
    assert!(ran.text().contains("data-tampered"), "{ran:?}");
}

/// Writes a file, commits, and goes away without closing the volume.
fn crash_with_a_log(bench: &Bench) {
    let volume = bench.volume("a", false);
    let root = Caller::root();
    let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
    let made = volume.make(&root, InodeNo::ROOT, b"new", &new).unwrap();
    volume.write(&root, made.ino, 0, &pattern(9000), WriteMode::Direct).unwrap();
    volume.sync().unwrap();
    drop(volume);
}

/// A byte in the longest run of blocks that hold something behind the log: the content of the large file.
fn data_offset(bench: &Bench) -> u64 {
    let image = fs::read(bench.path("a")).unwrap();
    let header = Header::decode(&image[..65_536]).unwrap();
    let first = usize::try_from(header.ring_start.0 + header.ring_blocks).unwrap();
    let end = usize::try_from(header.total_blocks).unwrap() - 16;
    let (mut start, mut longest) = (first, 0..0);
    for block in first..=end {
        let empty = block == end || image[block * 4096..][..4096].iter().all(|byte| *byte == 0);
        if empty {
            if block - start > longest.len() {
                longest = start..block;
            }
            start = block + 1;
        }
    }
    assert!(longest.len() > 60, "the large file is not to be found: {longest:?}");
    (longest.start + longest.len() / 2) as u64 * 4096 + 77
}

/// The slot that does not hold the newest checkpoint.
fn older_slot(bench: &Bench) -> usize {
    let shown = bench.debug(&["a", "--key-file", "key", "super", "--json"]).succeeded().json();
    let newest = shown["state"]["checkpoint"].as_u64().unwrap();
    usize::from(newest.is_multiple_of(2))
}
