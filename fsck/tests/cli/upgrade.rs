//! `debug.sefs upgrade`: a volume is put over other versions of its images, and nothing of its own is lost.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Volume, WriteMode};
use sefs_tools::opening::Located;
use sefs_tools::{ImageUse, KeyArgs, Tool};

use crate::bench::{Bench, DEBUG, Ran, pattern};
use crate::layers::{absolute, named};

/// A volume over `base`, changed; and `next`, in which a file has other content, one is new and one is gone.
fn with_next() -> (Bench, String) {
    let (bench, _) = Bench::with_base();
    fs::write(bench.path("src/sub/program"), pattern(50_000)).unwrap();
    fs::write(bench.path("src/sub/old"), "old\n").unwrap();
    bench.pack_src("base", &["--public", "--force"]);
    bench.over(&["base"]).succeeded();
    bench.change();
    fs::write(bench.path("src/sub/program"), pattern(60_000)).unwrap();
    fs::write(bench.path("src/sub/new"), "new\n").unwrap();
    fs::remove_file(bench.path("src/sub/old")).unwrap();
    let digest = bench.pack_src("next", &["--public"]);
    (bench, digest)
}

impl Bench {
    fn upgrade(&self, args: &[&str]) -> Ran {
        self.look(&[&["upgrade"], args].concat())
    }

    /// `top` is over `next`, and what it had of its own is there.
    fn demand_next(&self, digest: &str, more: &[&str]) {
        self.demand_changed(more);
        assert!(self.look(&[more, &["cat", "sub/program"]].concat()).succeeded().out == pattern(60_000));
        assert_eq!(self.look(&[more, &["cat", "sub/new"]].concat()).succeeded().out, b"new\n");
        assert_eq!(self.look(&[more, &["cat", "sub/old"]].concat()).code, Some(1));
        assert_eq!(self.digest_below(more), digest);
    }

    fn digest_below(&self, more: &[&str]) -> String {
        let shown = self.look(&[more, &["super", "--json"]].concat()).succeeded().json();
        shown["state"]["lowers"][0]["root_digest"].as_str().unwrap().to_string()
    }

    fn with_top<T>(&self, act: impl FnOnce(&Volume) -> T) -> T {
        let args = KeyArgs { key_file: Some(self.path("key")), ..KeyArgs::default() };
        let located = Located::open(&self.path("top"), ImageUse::ReadWrite).unwrap();
        let volume = located.unlock(&args, Tool("test")).unwrap().volume().unwrap();
        let result = act(&volume);
        volume.close().unwrap();
        result
    }
}

fn make(volume: &Volume, dir: InodeNo, name: &[u8], content: &[u8]) {
    let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
    let made = volume.make(&Caller::root(), dir, name, &new).unwrap();
    volume.write(&Caller::root(), made.ino, 0, content, WriteMode::Direct).unwrap();
}

#[test]
fn an_upgrade_takes_what_the_image_changed_and_keeps_what_the_volume_did() {
    let (bench, digest) = with_next();
    let images = [bench.content_of("base"), bench.content_of("next")];
    let done = bench.upgrade(&["--to", "next"]).succeeded();
    assert_eq!(done.text(), format!("top: over next, root digest {digest}\ntop: upgraded, no conflicts\n"));
    assert!(
        done.err.contains("next is public, and no root digest was given") && done.err.contains(&digest),
        "{done:?}"
    );
    assert!(images == [bench.content_of("base"), bench.content_of("next")], "an image is never written");
    fs::remove_file(bench.path("base")).unwrap();
    bench.demand_next(&digest, &[]);
    let shown = bench.look(&["super", "--json"]).succeeded().json();
    assert_eq!(shown["state"]["lowers"][0]["note"], absolute(&bench, "next"));
}

#[test]
fn conflicts_are_lines_a_count_and_an_exit_code() {
    let (bench, _) = with_next();
    bench.with_top(|volume| make(volume, named(volume, InodeNo::ROOT, "sub"), b"two\nlines", b"the volume's"));
    bench.with_top(|volume| {
        let old = named(volume, named(volume, InodeNo::ROOT, "sub"), "old");
        volume.write(&Caller::root(), old, 0, b"OLD", WriteMode::Direct).unwrap();
    });
    fs::write(bench.path("src/hello"), "another\n").unwrap();
    fs::write(bench.path("src/sub/large"), pattern(300_001)).unwrap();
    fs::write(bench.path("src/own"), "the image's").unwrap();
    fs::write(bench.path("src/sub/two\nlines"), "the image's").unwrap();
    let digest = bench.pack_src("next", &["--public", "--force"]);
    fs::copy(bench.path("top"), bench.path("before")).unwrap();
    let pinned = format!("next,root-digest={digest}");
    let done = bench.upgrade(&["--to", &pinned]);
    assert_eq!((done.code, &done.err[..]), (Some(1), ""), "{done:?}");
    let lines: Vec<&str> = done.text().lines().collect();
    let expected = [
        "removed /hello: ",
        "name /own: ",
        "content /sub/large: content changed in the volume and in the image; the volume's stays",
        "gone /sub/old: ",
        r"name /sub/two\nlines: ",
        "top: over next, root digest ",
        "top: upgraded, 5 conflicts",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    bench.demand_changed(&[]);
    assert_eq!(bench.look(&["cat", "sub/old"]).succeeded().out, b"OLD\n");
    assert_eq!(bench.look(&["cat", "sub/two\nlines"]).succeeded().out, b"the volume's");
    assert_eq!(bench.look(&["cat", "sub/new"]).succeeded().out, b"new\n");
    // The same for programs.
    fs::copy(bench.path("before"), bench.path("top")).unwrap();
    let done = bench.upgrade(&["--to", &pinned, "--json"]);
    assert_eq!(done.code, Some(1));
    let told = done.json();
    assert_eq!((told["count"].as_u64(), told["lowers"][0]["root_digest"].as_str()), (Some(5), Some(&digest[..])));
    let told: Vec<(&str, &str)> = told["conflicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conflict| (conflict["kind"].as_str().unwrap(), conflict["path"].as_str().unwrap()))
        .collect();
    assert_eq!(told[..4], [("removed", "/hello"), ("name", "/own"), ("content", "/sub/large"), ("gone", "/sub/old")]);
}

#[test]
fn both_versions_are_needed_and_named_where_they_are_now() {
    let (bench, digest) = with_next();
    // The new version has taken the old one's place, as images are upgraded.
    fs::rename(bench.path("base"), bench.path("moved")).unwrap();
    fs::rename(bench.path("next"), bench.path("base")).unwrap();
    let before = bench.content_of("top");
    let pinned = format!("base,root-digest={digest}");
    bench.upgrade(&["--to", &pinned]).refused(2, &["it is not the image that top was made over", "--lower"]);
    fs::rename(bench.path("base"), bench.path("next")).unwrap();
    bench.upgrade(&["--to", "next"]).refused(2, &["it is not there", "--lower"]);
    bench.upgrade(&["--to", "nowhere", "--lower", "moved"]).refused(2, &["nowhere: No such file"]);
    let wrong = format!("next,root-digest={}", "1".repeat(64));
    bench.upgrade(&["--to", &wrong, "--lower", "moved"]).refused(2, &["root digest is not the one"]);
    assert!(before == bench.content_of("top"), "what was refused has changed nothing");
    bench.upgrade(&["-q", "--to", &format!("next,root-digest={digest}"), "--lower", "moved"]).succeeded();
    bench.demand_next(&digest, &[]);
}

#[test]
fn an_upgrade_that_makes_no_sense_is_refused() {
    let (bench, digest) = with_next();
    bench.mkfs(&["plain", "--size", "8M", "--key-file", "key", "-q"]).succeeded();
    bench.upgrade(&["--to", "top"]).refused(2, &["top: it is the volume itself"]);
    bench.upgrade(&["--to", "plain"]).refused(2, &["plain: it is no packed image"]);
    bench.upgrade(&["--to", "next,key-file=key"]).refused(2, &["next: it is public: no key"]);
    assert_eq!(bench.upgrade(&[]).code, Some(2));
    let plain = ["plain", "--key-file", "key", "upgrade", "--to", "next"];
    bench.debug(&plain).refused(2, &["plain: it lies over no image"]);
    let packed = ["base", "--root-digest", &digest, "upgrade", "--to", "next"];
    bench.debug(&packed).refused(2, &["base: it is a packed image"]);
    let told = bench.upgrade(&["--to", "top", "--json"]);
    assert_eq!((told.code, told.json()["error"]["kind"].as_str()), (Some(2), Some("usage")));
}

#[test]
fn an_image_with_a_key_of_its_own_is_noted_with_it() {
    let (bench, _) = with_next();
    let digest = bench.pack_src("strange", &["--key-file", "other"]);
    bench.upgrade(&["--to", "strange"]).refused(2, &["strange: wrong key", "write strange,key-file=FILE"]);
    let done = bench.upgrade(&["--to", "strange,key-file=other"]).succeeded();
    assert_eq!(done.err, "", "its key says that it is the right one");
    bench.demand_next(&digest, &[]);
}

#[test]
fn the_anchor_advances_with_the_images() {
    let (bench, digest) = with_next();
    let anchor = ["--anchor", "file:anchor"];
    fs::remove_file(bench.path("top")).unwrap();
    let made = ["top", "--size", "16M", "--key-file", "key", "--lower", "base", "-q"];
    bench.mkfs(&[&made[..], &anchor].concat()).succeeded();
    fs::copy(bench.path("top"), bench.path("before")).unwrap();
    bench.upgrade(&["--to", "next"]).refused(2, &["top: ", "anchor"]);
    assert!(bench.content_of("before") == bench.content_of("top"));
    bench.look(&[&anchor[..], &["upgrade", "--to", "next"]].concat()).succeeded();
    assert_eq!(bench.digest_below(&anchor), digest);
    bench.fsck(&[&["top", "--key-file", "key"][..], &anchor].concat()).succeeded();
    fs::copy(bench.path("before"), bench.path("top")).unwrap();
    bench.look(&[&anchor[..], &["ls"]].concat()).refused(1, &["put the newest image back"]);
}

#[test]
fn a_volume_in_use_is_not_upgraded_and_images_are_shared() {
    let (bench, digest) = with_next();
    let readers = ["base", "next"].map(|image| Located::open(&bench.path(image), ImageUse::ReadOnly).unwrap());
    let reader = Located::open(&bench.path("top"), ImageUse::ReadOnly).unwrap();
    bench.upgrade(&["--to", "next"]).refused(2, &["top: "]);
    drop(reader);
    bench.upgrade(&["--to", "next"]).succeeded();
    drop(readers);
    bench.demand_next(&digest, &[]);
}

/// By the signal that nobody has the tool ignore: a job in the background ignores SIGINT.
fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
}

#[test]
fn an_interrupt_before_the_checkpoint_leaves_the_volume_as_it_was() {
    let (bench, _) = with_next();
    bench.pack_src("sealed", &["--key-file", "other"]);
    let before = bench.content_of("top");
    // It waits for the new image's key, which nobody gives.
    let args = ["top", "--key-file", "key", "upgrade", "--to", "sealed,key-file=-"];
    let mut child = bench.command(DEBUG, &args).stdin(Stdio::piped()).spawn().unwrap();
    // Waiting closes what the child still holds, and the end of the key would come before the signal.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"half of a key").unwrap();
    sleep(Duration::from_millis(300));
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    assert!(before == bench.content_of("top"));
    bench.demand_changed(&[]);
}

#[test]
fn wherever_it_is_interrupted_it_has_happened_or_it_has_not() {
    let (bench, digest) = with_next();
    let old = bench.digest_below(&[]);
    fs::copy(bench.path("top"), bench.path("before")).unwrap();
    let began = Instant::now();
    bench.upgrade(&["--to", "next"]).succeeded();
    let whole = began.elapsed();
    let args = ["top", "--key-file", "key", "upgrade", "-q", "--to", "next"];
    for part in 0..12 {
        fs::copy(bench.path("before"), bench.path("top")).unwrap();
        let mut child = bench.command(DEBUG, &args).stderr(Stdio::null()).spawn().unwrap();
        sleep(whole * part / 11);
        interrupt(&child);
        let code = child.wait().unwrap().code();
        let found = bench.digest_below(&[]);
        assert!(found == old || found == digest, "{part}: {code:?} {found}");
        assert!(code != Some(0) || found == digest, "{part}: what is done is done");
        match found == old {
            true => drop(bench.demand_changed(&[])),
            false => bench.demand_next(&digest, &[]),
        }
    }
}

#[test]
fn a_damaged_volume_is_refused_and_stays_over_its_images() {
    let (bench, _) = with_next();
    // The records of so many files fill tree nodes that nothing needs before the whole is checked.
    bench.with_top(|volume| {
        for number in 0..200 {
            make(volume, InodeNo::ROOT, format!("small {number}").as_bytes(), &pattern(1000));
        }
    });
    let old = bench.digest_below(&[]);
    let before = bench.content_of("top");
    let (mut failed, mut refused) = (0, 0);
    for block in (1024..u64::try_from(before.len() / 4096).unwrap()).step_by(4) {
        let offset = usize::try_from(block * 4096).unwrap();
        if before[offset..offset + 4096].iter().all(|byte| *byte == 0) {
            continue;
        }
        fs::write(bench.path("top"), &before).unwrap();
        bench.flip("top", block * 4096 + 100);
        let done = bench.upgrade(&["-q", "--to", "next"]);
        if done.code == Some(0) {
            continue;
        }
        failed += 1;
        assert_eq!((done.code, done.text()), (Some(2), ""), "{done:?}");
        assert!(done.err.contains("; fsck.sefs "), "{done:?}");
        if done.err.contains("still lies over the old images") {
            assert!(done.err.contains("does not authenticate [node-tampered]"), "{done:?}");
            refused += 1;
            if refused > 1 {
                continue;
            }
            let told = bench.upgrade(&["--to", "next", "--json"]).json();
            assert_eq!(told["findings"][0]["finding"], "node-tampered", "{told}");
            assert!(told["error"]["way_out"].as_str().unwrap().contains("fsck.sefs top"), "{told}");
            assert_eq!(bench.digest_below(&[]), old);
            assert_eq!(bench.look(&["cat", "sub/old"]).succeeded().out, b"old\n");
            assert!(bench.look(&["cat", "own"]).succeeded().out == pattern(100_000));
        }
    }
    assert!(failed > refused && refused > 0, "{failed} {refused}");
}

#[test]
fn a_diff_with_its_image_shows_what_the_volume_changed() {
    let (bench, digest) = Bench::with_base();
    bench.over(&["base"]).succeeded();
    let diff =
        |more: &[&str]| bench.debug(&[&["base", "--root-digest", &digest, "diff", "top,key-file=key"], more].concat());
    let same = diff(&[]).succeeded();
    assert!(same.out.is_empty(), "{same:?}");
    bench.change();
    let changed = diff(&[]);
    assert_eq!(changed.code, Some(1));
    assert_eq!(changed.text(), "D /hello\nA /own\nM /sub/large: content\n");
    let list = diff(&["--json"]).json();
    let large = &list["differences"][2]["content"];
    assert_eq!((large["first_byte"].as_u64(), list["changed"].as_u64()), (Some(150_000), Some(1)), "{list}");
    let turned = ["top", "--key-file", "key", "diff", &format!("base,root-digest={digest}")];
    assert_eq!(bench.debug(&turned).text(), "A /hello\nD /own\nM /sub/large: content\n");
}
