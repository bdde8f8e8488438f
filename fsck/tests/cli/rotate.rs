//! sealing rotate: a volume gets another key, with all its owners, an interruption and an anchor.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use crate::bench::{Bench, Ran, pattern};

const SEALING: &str = env!("CARGO_BIN_EXE_sealing");
const IN_PROGRESS: &str =
    "key rotation in progress: old blocks are neither secret nor authentic against the old key's holder";
const HEADER_LEN: usize = 65_536;

impl Bench {
    fn rotate(&self, args: &[&str]) -> Ran {
        self.run(SEALING, &[&["rotate", "a"], args].concat())
    }

    fn list(&self, key: &[&str]) -> Ran {
        self.run(SEALING, &[&["slots", "list", "a"], key].concat()).succeeded()
    }

    /// The volume's content is whole, for this key.
    fn is_whole(&self, key: &[&str]) {
        let large = self.debug(&[&["a"], key, &["cat", "/sub/large"]].concat()).succeeded();
        assert!(large.out == pattern(300_000), "the content differs");
        self.fsck(&[&["a", "--scrub"], key].concat()).succeeded();
    }
}

/// An image that closing alone does not seal anew.
fn larger() -> Bench {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("src/sub")).unwrap();
    fs::write(bench.path("src/sub/large"), pattern(300_000)).unwrap();
    for number in 0..6 {
        fs::write(bench.path(&format!("src/file {number}")), pattern(3_000_000 + number)).unwrap();
    }
    bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    bench
}

#[test]
fn a_rotation_is_begun_told_of_and_ended() {
    let bench = larger();
    let (old, new) = (["--key-file", "key"], ["--key-file", "other"]);
    let started = bench.rotate(&["--key-file", "key", "--new-key-file", "other", "--start-only"]).succeeded();
    assert!(started.text().contains(IN_PROGRESS), "{started:?}");
    bench.debug(&["a", "--key-file", "key", "ls"]).refused(1, &["wrong key"]);
    // Every tool says so, and nothing is missing.
    assert!(bench.list(&new).text().contains(IN_PROGRESS));
    assert!(bench.list(&[]).text().contains("Not authenticated"));
    let shown = bench.debug(&["a", "--key-file", "other", "super"]).succeeded();
    assert!(shown.text().contains(IN_PROGRESS), "{shown:?}");
    let shown = bench.debug(&["a", "--key-file", "other", "--json", "super"]).succeeded().json();
    assert_eq!(shown["key_generation"].as_u64(), Some(2));
    assert!(shown.to_string().contains("\"blocks_left\""), "{shown}");
    let checked = bench.fsck(&["a", "--key-file", "other"]).succeeded();
    assert!(checked.text().contains(IN_PROGRESS), "{checked:?}");
    bench.is_whole(&new);

    // The same command goes on, though its key opens nothing any more; and once more it has nothing to do.
    let ended = bench.rotate(&["--key-file", "key", "--new-key-file", "other"]).succeeded();
    assert!(ended.text().contains("has key generation 2 and nothing of an older one"), "{ended:?}");
    let again = bench.rotate(&["--key-file", "key", "--new-key-file", "other", "--json"]).succeeded().json();
    assert_eq!((again["key_generation"].as_u64(), again["rotation"].as_str()), (Some(2), Some("done")));
    bench.is_whole(&new);
    let listed = bench.list(&[&new[..], &["--json"]].concat()).json();
    assert_eq!((listed["rotation"].as_str(), listed["authenticated"].as_bool()), (Some("none"), Some(true)));
    assert!(!bench.fsck(&["a", "--key-file", "other"]).succeeded().text().contains("rotation"));
    bench.rotate(&old).refused(1, &["wrong key"]);
}

/// A new owner's key that opens a volume whose key never changed is no sign of an earlier call.
#[test]
fn a_wrong_key_is_not_taken_for_a_rotation_that_ended() {
    let bench = Bench::with_image();
    bench.rotate(&["--key-file", "other", "--new-key-file", "key"]).refused(1, &["wrong key"]);
}

/// Nobody is left out who was not named, and everybody else opens the volume as before.
#[test]
fn all_owners_keep_their_way_in_or_are_named() {
    let bench = Bench::with_image();
    let platform = format!("sgx-sim:mrenclave={},mrsigner={},isvsvn=1", "1".repeat(64), "5".repeat(64));
    fs::create_dir(bench.path("shares")).unwrap();
    fs::create_dir(bench.path("later")).unwrap();
    let add = |args: &[&str]| bench.run(SEALING, &[&["slots", "add", "a", "--key-file", "key"], args].concat());
    add(&["--new-passphrase-file", "phrase"]).succeeded();
    add(&["--new-platform", &platform, "--allow-development"]).succeeded();
    add(&["--shares", "2/3", "--share-dir", "shares"]).succeeded();
    add(&["--new-key-file", "other"]).succeeded();
    let before = fs::read(bench.path("a")).unwrap();
    let refused = bench.rotate(&["--key-file", "key", "--with-passphrase-file", "phrase"]);
    refused.refused(1, &["slot 2 (platform", "3 (recovery shares)", "4 (key file)", "--drop-slot"]);
    assert!(fs::read(bench.path("a")).unwrap() == before, "what is refused changes nothing");
    bench.rotate(&["--key-file", "key", "--drop-slot", "9"]).refused(2, &["9 is no slot"]);
    let all =
        ["--key-file", "key", "--with-passphrase-file", "phrase", "--with-platform", &platform, "--shares", "2/3"];
    let rest = ["--allow-development", "--share-dir", "later", "--drop-slot", "4", "--json"];
    let rotated = bench.rotate(&[&all[..], &rest[..]].concat()).succeeded().json();
    let kinds: Vec<&str> = rotated["slots"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["key file", "passphrase", "platform sgx-sim (development)", "recovery shares"]);
    assert_eq!(rotated["dropped"].as_array().unwrap().len(), 1);
    bench.is_whole(&["--key-file", "key"]);
    bench.is_whole(&["--passphrase-file", "phrase"]);
    bench.is_whole(&["--platform", &platform, "--allow-development"]);
    bench.is_whole(&["--share-file", "later/share-1", "--share-file", "later/share-3"]);
    bench.debug(&["a", "--key-file", "other", "ls"]).refused(1, &["wrong key"]);
    bench
        .debug(&["a", "--share-file", "shares/share-1", "--share-file", "shares/share-2", "ls"])
        .refused(1, &["wrong key"]);
}

/// A slot of code stays bound to what it was bound to, whatever policy the command's options have by default.
#[test]
fn a_platforms_slot_keeps_its_policy() {
    let bench = Bench::with_image();
    let code = |measurement: &str| {
        format!("sgx-sim:mrenclave={},mrsigner={},isvsvn=1", measurement.repeat(64), "5".repeat(64))
    };
    for (policy, next_opens) in [("mrsigner", true), ("mrenclave", false)] {
        let made = format!("{},policy={policy}", code("1"));
        let add = ["slots", "add", "a", "--key-file", "key", "--allow-development", "--new-platform", &made];
        bench.run(SEALING, &add).succeeded();
        let other = if next_opens { "mrenclave" } else { "mrsigner" };
        let named = format!("{},policy={other}", code("1"));
        bench.rotate(&["--key-file", "key", "--with-platform", &named, "--allow-development"]).succeeded();
        let next = bench.debug(&["a", "--platform", &code("2"), "--allow-development", "ls"]);
        assert_eq!(next.code == Some(0), next_opens, "{policy}: {next:?}");
        bench.run(SEALING, &["slots", "remove", "a", "--key-file", "key", "--slot", "1"]).succeeded();
    }
}

#[test]
fn a_second_slot_of_a_kind_is_dropped_by_name_only() {
    let bench = Bench::with_image();
    for dir in ["first", "second", "new"] {
        fs::create_dir(bench.path(dir)).unwrap();
    }
    for dir in ["first", "second"] {
        let add = ["slots", "add", "a", "--key-file", "key", "--shares", "2/3", "--share-dir", dir];
        bench.run(SEALING, &add).succeeded();
    }
    let args = ["--key-file", "key", "--shares", "2/3", "--share-dir", "new"];
    fs::write(bench.path("new/share-2"), b"in the way").unwrap();
    bench.rotate(&[&args[..], &["--drop-slot", "2"]].concat()).refused(1, &["new/share-2", "exists already"]);
    assert!(!bench.path("new/share-1").exists(), "all shares or none");
    fs::remove_file(bench.path("new/share-2")).unwrap();
    bench.rotate(&args).refused(1, &["slot 2 (recovery shares)", "--drop-slot"]);
    bench.rotate(&[&args[..], &["--with-key-file", "other"]].concat()).refused(2, &["other", "opens no slot"]);
    let rotated = bench.rotate(&[&args[..], &["--drop-slot", "2", "--start-only", "--json"]].concat()).succeeded();
    assert_eq!((&rotated.json()["dropped"], &rotated.json()["begun"]), (&serde_json::json!([2]), &true.into()));
    bench.is_whole(&["--share-file", "new/share-1", "--share-file", "new/share-2"]);
}

#[test]
fn yesterdays_copy_is_refused_with_an_anchor() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("src/sub")).unwrap();
    fs::write(bench.path("src/sub/large"), pattern(300_000)).unwrap();
    let anchored = ["--key-file", "key", "--anchor", "file:anchor"];
    bench.mkfs(&[&["a", "--from", "src", "-q"], &anchored[..]].concat()).succeeded();
    let before = fs::read(bench.path("a")).unwrap();
    bench.rotate(&anchored).succeeded();
    bench.is_whole(&anchored);
    let after = fs::read(bench.path("a")).unwrap();
    // The owner of the slot is the same, so the old header leads him to the old key, and the anchor does not.
    fs::write(bench.path("a"), &before).unwrap();
    bench.debug(&[&["a"], &anchored[..], &["ls"]].concat()).refused(1, &["rolled back"]);
    let mut mixed = after.clone();
    let end = after.len() - HEADER_LEN;
    mixed[..HEADER_LEN].copy_from_slice(&before[..HEADER_LEN]);
    mixed[end..].copy_from_slice(&before[end..]);
    fs::write(bench.path("a"), mixed).unwrap();
    bench.debug(&[&["a"], &anchored[..], &["ls"]].concat()).refused(1, &["tampered"]);
    fs::write(bench.path("a"), after).unwrap();
    bench.is_whole(&anchored);
}

/// A crash in the middle of the primary's write leaves slots of the old key beside the commitment to the new one.
#[test]
fn a_torn_header_leads_to_the_key_that_opens() {
    let bench = Bench::with_image();
    let before = fs::read(bench.path("a")).unwrap();
    bench.rotate(&["--key-file", "key", "--start-only"]).succeeded();
    let image = fs::File::options().write(true).open(bench.path("a")).unwrap();
    for torn_at in [512, 4096, 8192 + 512, 50_000] {
        image.write_all_at(&before[torn_at..HEADER_LEN], torn_at as u64).unwrap();
        bench.debug(&["a", "--key-file", "key", "ls"]).succeeded();
    }
    bench.rotate(&["--key-file", "key"]).succeeded();
    bench.is_whole(&["--key-file", "key"]);
}

/// Interrupted at any moment, it loses nothing, and the same command goes on.
#[test]
fn an_interrupted_rotation_goes_on() {
    let bench = larger();
    let args = ["rotate", "a", "--key-file", "key", "--new-key-file", "other"];
    let (mut interrupted, mut ended) = (0, false);
    // The first one is gone before it began: on a busy machine any later one may come too late.
    for wait_ms in (0..400).step_by(15) {
        let mut command = bench.command(SEALING, &args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        // Every second one is not asked but ended.
        let signal = if wait_ms % 2 == 0 { nix::sys::signal::SIGKILL } else { nix::sys::signal::SIGINT };
        let _ = nix::sys::signal::kill(pid, signal);
        let status = child.wait().unwrap();
        interrupted += u32::from(!status.success());
        ended |= status.success();
        // Somebody's key opens it, and all is there.
        let by = ["key", "other"].into_iter().find(|key| bench.debug(&["a", "--key-file", key, "ls"]).code == Some(0));
        bench.is_whole(&["--key-file", by.expect("neither key opens it")]);
        if ended {
            break;
        }
    }
    bench.run(SEALING, &args).succeeded();
    bench.is_whole(&["--key-file", "other"]);
    assert!(interrupted > 0, "no call was interrupted");
}
