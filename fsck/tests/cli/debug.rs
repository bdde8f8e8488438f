//! debug.sefs: looking inside, and changing nothing.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, WriteMode};

use crate::bench::{Bench, DEBUG, Ran, hex, pattern};

fn debug(bench: &Bench, more: &[&str]) -> Ran {
    bench.debug(&[&["a", "--key-file", "key"], more].concat())
}

/// `src` with links and odd names, sealed.
fn bench() -> Bench {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("src/dir/sub")).unwrap();
    fs::write(bench.path("src/dir/file"), pattern(3_000_000)).unwrap();
    fs::write(bench.path("src").join(std::ffi::OsStr::from_bytes(b"es\x1b[2Jc\xff")), "odd").unwrap();
    symlink("dir/file", bench.path("src/link")).unwrap();
    symlink("../dir/sub/../../link", bench.path("src/dir/chain")).unwrap();
    symlink("/dir", bench.path("src/dir/sub/up")).unwrap();
    symlink("loop", bench.path("src/loop")).unwrap();
    bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    bench
}

#[test]
fn files_come_back_byte_for_byte_whatever_leads_to_them() {
    let bench = bench();
    let content = pattern(3_000_000);
    for path in ["dir/file", "/dir/file", "//dir/./sub/../file", "link", "dir/chain", "dir/sub/up/file", "../../link"] {
        assert!(debug(&bench, &["cat", path]).succeeded().out == content, "{path}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let bench = bench();
    debug(&bench, &["cat", "dir/none"]).refused_plainly("debug.sefs: dir/none: no such file or directory");
    debug(&bench, &["cat", "dir"]).refused(1, &["dir: is a directory; use ls or tree"]);
    debug(&bench, &["ls", "dir/file/x"]).refused_plainly("not a directory");
    debug(&bench, &["cat", "loop"]).refused_plainly("too many levels of symbolic links");
    assert!(debug(&bench, &["stat", "loop"]).succeeded().text().contains("symbolic link"));
}

#[test]
fn listings_name_everything() {
    let bench = bench();
    let listed = debug(&bench, &["ls", "dir"]).succeeded();
    let text = listed.text();
    assert!(text.contains(" file\n") && text.contains(" sub\n") && text.contains(" chain -> ../dir/sub/../../link\n"));
    assert!(text.starts_with("lrwxrwxrwx "), "sorted by name: {text}");
    // Into a pipe names go as they are; as text they are escaped.
    let raw = debug(&bench, &["ls"]).succeeded().out;
    assert!(raw.windows(8).any(|part| part == b"es\x1b[2Jc\xff"));
    let tree = debug(&bench, &["tree"]).succeeded();
    assert!(tree.text().contains("es\\x1b[2Jc\\xff"), "{}", tree.text());
    assert!(tree.text().contains("└── ") && tree.text().ends_with("2 directories, 6 files\n"), "{}", tree.text());
}

#[test]
fn json_keeps_names_that_are_not_text() {
    let bench = bench();
    let lines = debug(&bench, &["ls", "--json"]).succeeded().json_lines();
    let odd = lines.iter().find(|line| line["name_hex"].is_string()).unwrap();
    assert_eq!(odd["name_hex"], hex(std::ffi::OsStr::from_bytes(b"es\x1b[2Jc\xff")));
    let link = lines.iter().find(|line| line["name"] == "link").unwrap();
    assert_eq!((link["kind"].as_str(), link["target"].as_str()), (Some("symbolic link"), Some("dir/file")));
    let stat = debug(&bench, &["--json", "stat", "dir/file"]).succeeded().json();
    assert_eq!((stat["size"].as_u64(), stat["links"].as_u64()), (Some(3_000_000), Some(1)));
    assert_eq!(debug(&bench, &["tree", "--json"]).succeeded().json_lines().len(), 8);
}

#[test]
fn nothing_is_changed_by_looking() {
    let bench = bench();
    let before = fs::read(bench.path("a")).unwrap();
    for look in [
        &["ls"][..],
        &["tree"],
        &["stat", "/"],
        &["super"],
        &["log"],
        &["space"],
        &["slots"],
        &["root-digest"],
        &["fragmentation"],
        &["fragmentation", "--list"],
        &["epochs"],
    ] {
        debug(&bench, look).succeeded();
        let json = debug(&bench, &[look, &["--json"]].concat()).succeeded();
        assert!(!json.json_lines().is_empty(), "{look:?}");
    }
    assert_eq!(fs::read(bench.path("a")).unwrap(), before);
    // An image on read-only storage can be looked at too.
    let mut permissions = fs::metadata(bench.path("a")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(bench.path("a"), permissions).unwrap();
    debug(&bench, &["ls"]).succeeded();
}

#[test]
fn a_read_write_volume_has_no_root_digest() {
    let bench = bench();
    let shown = debug(&bench, &["root-digest"]).succeeded();
    assert!(shown.text().starts_with("checkpoint id ") && shown.text().contains("not a digest image"), "{shown:?}");
    assert!(debug(&bench, &["root-digest", "--json"]).json()["root_digest"].is_null());
}

#[test]
fn without_a_key_the_header_is_shown_as_unauthenticated() {
    let bench = bench();
    let shown = bench.debug(&["a", "super"]).succeeded();
    assert!(shown.text().starts_with("# Not authenticated") && shown.text().contains("key file"), "{shown:?}");
    assert_eq!(bench.debug(&["a", "slots", "--json"]).succeeded().json()["authenticated"], false);
    bench.debug(&["a", "ls"]).refused(2, &["no key is given"]);
    // A key that is given is used, whatever kind it is.
    bench.debug(&["a", "--share-file", "other", "super"]).refused(2, &["other: "]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = bench();
    let line = format!("{DEBUG} a --key-file key cat dir/file | head -c 10 | wc -c; exit ${{PIPESTATUS[0]}}");
    let ran = Ran::of(bench.command("bash", &["-c", &line]).output().unwrap());
    assert_eq!((ran.code, ran.text().trim(), ran.err.as_str()), (Some(0), "10", ""));
}

#[test]
fn tampered_content_is_never_shown() {
    let bench = bench();
    let length = fs::metadata(bench.path("a")).unwrap().len();
    let image = fs::read(bench.path("a")).unwrap();
    let header = sefs::format::Header::decode(&image[..65_536]).unwrap();
    let first = (header.ring_start.0 + header.ring_blocks) * 4096;
    for offset in (first..length - 65_536).step_by(4096).filter(|offset| image[*offset as usize + 5] != 0) {
        bench.flip("a", offset + 5);
    }
    let ran = debug(&bench, &["cat", "dir/file"]);
    ran.refused(1, &["tampered"]);
}

#[test]
fn fragmentation_counts_runs() {
    let bench = bench();
    let told = debug(&bench, &["fragmentation", "--json"]).succeeded().json();
    assert_eq!((told["files"].as_u64(), told["files_in_blocks"].as_u64()), (Some(2), Some(1)), "{told}");
    assert_eq!(told["data_blocks"].as_u64(), Some(3_000_000_u64.div_ceil(4096)));
    let runs = told["data_runs"].as_u64().unwrap();
    assert_eq!(told["average_run_bytes"].as_u64(), Some(3_000_000_u64.div_ceil(4096) * 4096 / runs));
    assert!(debug(&bench, &["fragmentation", "dir/file"]).succeeded().text().contains(&format!("{runs}\n")));

    // Two files that grow in turns lie in pieces, and one of them is a single piece again once it is packed.
    let volume = bench.volume("a", false);
    let files = ["one", "two"].map(|name| {
        let new = sefs::vfs::NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
        volume.make(&Caller::root(), InodeNo::ROOT, name.as_bytes(), &new).unwrap().ino
    });
    for turn in 0..8 {
        for ino in files {
            volume.write(&Caller::root(), ino, turn << 17, &pattern(1 << 17), WriteMode::Direct).unwrap();
            volume.sync().unwrap();
        }
    }
    volume.close().unwrap();
    let lines = debug(&bench, &["fragmentation", "--list", "--json"]).succeeded().json_lines();
    let (all, listed) = lines.split_last().unwrap();
    assert!(all["files_in_several_runs"].as_u64().unwrap() >= 2, "{all}");
    for name in ["/one", "/two"] {
        let file = listed.iter().find(|line| line["path"] == name).unwrap();
        assert!(file["data_runs"].as_u64().unwrap() > 1 && file["data_blocks"] == 256, "{file}");
    }
    let pack = ["p", "--from", "src", "--key-file", "key", "--read-only", "-q"];
    bench.mkfs(&pack).succeeded();
    let packed = bench.debug(&["p", "--key-file", "key", "fragmentation", "--json"]).succeeded().json();
    assert_eq!(
        (packed["data_runs"].as_u64(), packed["files_in_several_runs"].as_u64()),
        (Some(1), Some(0)),
        "{packed}"
    );
    bench.debug(&["p", "--key-file", "key", "epochs"]).refused(2, &["epochs: a packed image"]);
}

#[test]
fn epochs_are_listed_with_what_they_sealed() {
    let bench = bench();
    let told = debug(&bench, &["epochs", "--json"]).succeeded().json();
    let epochs = told["epochs"].as_array().unwrap();
    let live: u64 = epochs.iter().map(|epoch| epoch["live_blocks"].as_u64().unwrap()).sum();
    assert!(live > 733, "the content's blocks at least: {told}");
    let text = debug(&bench, &["epochs"]).succeeded();
    assert!(
        text.text().ends_with(&format!("{} of {} epochs in use\n", told["in_use"], told["max_epochs"])),
        "{text:?}"
    );
}

#[test]
fn a_failure_is_an_object_too() {
    let bench = bench();
    let ran = debug(&bench, &["stat", "none", "--json"]);
    assert_eq!((ran.code, ran.json()["error"]["thing"].as_str()), (Some(1), Some("none")), "{ran:?}");
    debug(&bench, &["cat", "none", "--json"]).refused_plainly("no such file");
}

impl Ran {
    /// A failure that needs no way out: one line that has `part`.
    #[track_caller]
    fn refused_plainly(self, part: &str) {
        assert_eq!((self.code, self.err.matches('\n').count()), (Some(1), 1), "{self:?}");
        assert!(self.err.contains(part) && self.out.is_empty(), "{self:?}");
    }
}

#[test]
fn a_volume_is_the_same_with_either_provider() {
    for (maker, reader) in [("aws-lc", "rustcrypto"), ("rustcrypto", "aws-lc")] {
        let bench = Bench::new();
        fs::create_dir(bench.path("src")).unwrap();
        fs::write(bench.path("src/large"), pattern(300_000)).unwrap();
        bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q", "--crypto", maker]).succeeded();
        let with = ["a", "--key-file", "key", "--crypto", reader];
        assert!(bench.debug(&[&with[..], &["cat", "large"]].concat()).succeeded().out == pattern(300_000));
        bench.fsck(&[&with[..], &["--scrub"]].concat()).succeeded();
        let shown = bench.debug(&[&with[..], &["super"]].concat()).succeeded();
        assert!(shown.text().contains(&format!("cryptography:          {reader}\n")), "{}", shown.text());
        assert_eq!(bench.debug(&[&with[..], &["super", "--json"]].concat()).succeeded().json()["crypto"], reader);
    }
    let bench = Bench::with_image();
    let shown = debug(&bench, &["super", "--json"]).succeeded().json();
    assert_eq!(shown["crypto"], "aws-lc", "what host tools use unless they are told");
}
