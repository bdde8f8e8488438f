//! sealing, and the tools with platforms: upgrade stories from end to end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sefs::backend::FileBackend;
use sefs::vfs::Volume;

use crate::bench::{Bench, DEBUG, FSCK, MKFS, Ran};

pub(crate) const SEALING: &str = env!("CARGO_BIN_EXE_sealing");

pub(crate) fn code(digit: char, isvsvn: u16) -> String {
    let signer = "5".repeat(64);
    format!("sgx-sim:mrenclave={},mrsigner={signer},isvsvn={isvsvn}", digit.to_string().repeat(64))
}

pub(crate) fn signer(isvsvn: u16) -> String {
    format!("{},policy=mrsigner", code('9', isvsvn))
}

impl Bench {
    fn sealing(&self, args: &[&str]) -> Ran {
        self.run(SEALING, args)
    }

    /// The arguments with a platform for development, which is allowed.
    pub(crate) fn on(&self, program: &str, args: &[&str], platform: &str) -> Ran {
        // A subcommand's own arguments come last with debug.sefs, the key's first.
        let (first, rest) = if program == DEBUG { args.split_at(1) } else { args.split_at(args.len()) };
        self.run(program, &[first, &["--platform", platform, "--allow-development"], rest].concat())
    }

    /// A volume `a` for code 1 at version 1.
    fn sealed_image(&self) {
        let made = self.on(MKFS, &["a", "--size", "16M"], &code('1', 1)).succeeded();
        assert!(made.text().contains("key slot: platform sgx-sim (development)"), "{made:?}");
        assert!(made.err.contains("its keys are no secret"), "{made:?}");
    }

    fn opens(&self, platform: &str) -> bool {
        let ran = self.on(DEBUG, &["a", "ls"], platform);
        assert!(ran.code == Some(0) || ran.err.contains("wrong key"), "{ran:?}");
        ran.code == Some(0)
    }
}

#[test]
fn a_volume_opens_for_the_code_it_was_made_for() {
    let bench = Bench::new();
    bench.sealed_image();
    assert!(bench.opens(&code('1', 1)) && bench.opens(&code('1', 2)));
    assert!(!bench.opens(&code('1', 0)) && !bench.opens(&code('2', 1)));
    let checked = bench.on(FSCK, &["a", "--scrub"], &code('1', 1)).succeeded();
    assert!(checked.err.contains("development"), "{checked:?}");
    let slots = bench.debug(&["a", "slots"]).succeeded();
    assert!(slots.text().contains("platform sgx-sim (development)"), "{slots:?}");
}

#[test]
fn development_needs_a_word() {
    let bench = Bench::new();
    let platform = code('1', 1);
    bench
        .mkfs(&["a", "--size", "16M", "--platform", &platform])
        .refused(1, &["for development", "--allow-development"]);
    assert!(!bench.path("a").exists());
    bench.sealed_image();
    bench.debug(&["a", "--platform", &platform, "ls"]).refused(2, &["for development"]);
    bench.fsck(&["a", "--platform", &platform]).refused(16, &["for development"]);
}

#[test]
fn a_root_key_is_made_once_and_on_purpose() {
    let bench = Bench::new();
    let platform = format!("software:root=root,{}", code('1', 1).split_once(':').unwrap().1);
    let gone = bench.on(MKFS, &["a", "--size", "16M"], &platform);
    gone.refused(1, &["root: there is no root key here", "sealing root"]);
    assert!(!bench.path("root").exists() && !bench.path("a").exists());
    bench.sealing(&["root", "root"]).succeeded();
    assert_eq!(fs::metadata(bench.path("root")).unwrap().permissions().mode() & 0o777, 0o600);
    bench.sealing(&["root", "root"]).refused(1, &["never replaced"]);
    bench.on(MKFS, &["a", "--size", "16M", "-q"], &platform).succeeded();
    bench.on(DEBUG, &["a", "ls"], &platform).succeeded();
    fs::remove_file(bench.path("root")).unwrap();
    assert!(bench.on(DEBUG, &["a", "ls"], &platform).err.contains("no root key here"));
    bench.sealing(&["root", "root"]).succeeded();
    assert!(bench.on(DEBUG, &["a", "ls"], &platform).err.contains("wrong key"));
}

#[test]
fn data_is_sealed_and_explained() {
    let bench = Bench::new();
    fs::write(bench.path("data"), "attack at dawn").unwrap();
    let use_args = ["--purpose", "orders"];
    bench.on(SEALING, &[&["seal", "data", "--out", "blob"], &use_args[..]].concat(), &code('1', 2)).succeeded();
    assert!(!fs::read(bench.path("blob")).unwrap().windows(6).any(|part| part == b"attack"));
    let unseal = |platform: &str, purpose: &str| {
        bench.on(SEALING, &["unseal", "blob", "--out", "-", "--purpose", purpose], platform)
    };
    assert_eq!(unseal(&code('1', 2), "orders").succeeded().text(), "attack at dawn");
    assert!(unseal(&code('1', 2), "other").err.contains("another purpose"));
    let refused = unseal(&code('2', 2), "orders");
    assert_eq!((refused.code, refused.out.len()), (Some(1), 0));
    assert!(refused.err.contains("does not open it; sealing explain says what differs"), "{refused:?}");

    let inspected = bench.sealing(&["inspect", "blob"]).succeeded();
    for part in ["unauthenticated", "sgx-sim (development)", "orders", &"1".repeat(64), "isvsvn             2"] {
        assert!(inspected.text().contains(part), "'{part}' is not in {inspected:?}");
    }
    let explained = |platform: &str| bench.on(SEALING, &["explain", "blob", "--json"], platform);
    let fields = |ran: &Ran| -> Vec<String> {
        let all = ran.json()["blobs"][0]["differences"].as_array().unwrap().clone();
        all.iter().map(|it| it["field"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(explained(&code('1', 2)).code, Some(0));
    let other = explained(&code('2', 1));
    assert_eq!((other.code, fields(&other)), (Some(1), vec!["mrenclave".to_string(), "isvsvn".into()]));
    assert!(other.err.contains("hint from unauthenticated bytes"), "{other:?}");
    assert_eq!(other.json()["blobs"][0]["authenticated"], false);
    let elsewhere = ["explain", "blob", "--volume-id", "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74", "--json"];
    assert_eq!(fields(&bench.on(SEALING, &elsewhere, &code('1', 2))), ["volume id"]);
    bench.on(SEALING, &["seal", "data", "--out", "blob", "--purpose", "x"], &code('1', 1)).refused_twice();
    let over = ["seal", "data", "--out", "over", "--purpose", "orders", "--not-after", "1"];
    bench.on(SEALING, &over, &code('1', 2)).succeeded();
    let over = bench.on(SEALING, &["explain", "over", "--json"], &code('1', 2));
    assert_eq!((over.code, fields(&over)), (Some(1), vec!["not after".to_string()]), "as unseal says");
}

impl Ran {
    /// Refused, after the warning about development.
    fn refused_twice(self) {
        assert_eq!((self.code, self.err.matches('\n').count()), (Some(1), 2), "{self:?}");
    }
}

#[test]
fn slots_come_and_go() {
    let bench = Bench::with_image();
    let slots = |args: &[&str]| bench.run(SEALING, &[&["slots"], args].concat());
    slots(&["add", "a", "--key-file", "key", "--new-key-file", "other"]).succeeded();
    bench.debug(&["a", "--key-file", "other", "ls"]).succeeded();
    let test = slots(&["test", "a", "--key-file", "other", "--json"]).succeeded().json();
    assert_eq!((test["slot"].as_u64(), test["kind"].as_str()), (Some(1), Some("key file")));
    let listed = slots(&["list", "a", "--json"]).succeeded().json();
    assert_eq!(listed["slots"].as_array().unwrap().len(), 2);
    let old = fs::read(bench.path("a")).unwrap();

    bench.secret("third", &[3; 32]);
    let rotated = slots(&["rotate", "a", "--key-file", "other", "--slot", "0", "--new-key-file", "third"]).succeeded();
    assert!(rotated.err.contains("does not revoke"), "{rotated:?}");
    bench.debug(&["a", "--key-file", "key", "ls"]).refused(1, &["wrong key"]);
    bench.debug(&["a", "--key-file", "third", "ls"]).succeeded();
    slots(&["remove", "a", "--key-file", "third", "--slot", "1"]).succeeded();
    bench.debug(&["a", "--key-file", "other", "ls"]).refused(1, &["wrong key"]);
    slots(&["remove", "a", "--key-file", "third", "--slot", "0"]).refused(2, &["only one"]);
    slots(&["remove", "a", "--key-file", "third", "--slot", "7"]).refused(2, &["has 1 slots"]);
    slots(&["add", "a", "--key-file", "third"]).refused(2, &["exactly one owner"]);
    bench.fsck(&["a", "--key-file", "third", "--scrub"]).succeeded();

    // The host puts the old header back, in both places: the rest is of today.
    let mut image = fs::read(bench.path("a")).unwrap();
    let end = image.len() - 65_536;
    image[..65_536].copy_from_slice(&old[..65_536]);
    image[end..].copy_from_slice(&old[end..]);
    fs::write(bench.path("a"), image).unwrap();
    bench.debug(&["a", "--key-file", "key", "ls"]).refused(1, &["rolled back"]);
}

#[test]
fn two_of_three_shares_open() {
    let bench = Bench::with_image();
    fs::create_dir(bench.path("shares")).unwrap();
    let deal = ["slots", "add", "a", "--key-file", "key", "--shares", "2/3", "--share-dir", "shares"];
    bench.sealing(&deal).succeeded();
    let with = |numbers: &[u8]| {
        let paths: Vec<String> = numbers.iter().map(|number| format!("shares/share-{number}")).collect();
        let mut args = vec!["a"];
        paths.iter().for_each(|path| args.extend(["--share-file", path]));
        args.push("ls");
        bench.debug(&args)
    };
    for pair in [[1, 2], [1, 3], [3, 2]] {
        with(&pair).succeeded();
    }
    with(&[2]).refused(2, &["2 shares are needed, 1 given"]);
    with(&[2, 2]).refused(2, &["given twice"]);
    let drill = bench.sealing(&["verify-shares", "shares/share-3", "--image", "a", "--json"]).succeeded().json();
    assert_eq!((drill["enough"].as_bool(), drill["threshold"].as_u64()), (Some(false), Some(2)));

    let text = fs::read_to_string(bench.path("shares/share-1")).unwrap();
    let digit = if &text[60..61] == "0" { "1" } else { "0" };
    fs::write(bench.path("shares/share-1"), format!("{}{digit}{}", &text[..60], &text[61..])).unwrap();
    bench
        .sealing(&["verify-shares", "shares/share-1"])
        .refused(2, &["share-1: the share is not the one that was dealt"]);
    bench.mkfs(&["b", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    bench.sealing(&["verify-shares", "shares/share-2", "--image", "b"]).refused(1, &["no slot for these shares"]);
    let both = ["verify-shares", "shares/share-3", "shares/share-2", "--image", "a"];
    assert!(bench.sealing(&both).succeeded().text().contains("enough"));
    // A drill tries what it says: a slot that was changed is found though the shares are true.
    let image = FileBackend::open(&bench.path("a"), false).unwrap();
    let slots = Volume::read_header(&image).unwrap().slots;
    let body = slots.iter().find(|slot| slot.kind == 4).expect("a slot for shares").body.clone();
    let whole = fs::read(bench.path("a")).unwrap();
    let mut bytes = whole.clone();
    let places: Vec<usize> =
        (0..bytes.len() - body.len()).filter(|at| bytes[*at] == body[0] && bytes[*at..].starts_with(&body)).collect();
    places.iter().for_each(|at| bytes[at + 80] ^= 1);
    fs::write(bench.path("a"), bytes).unwrap();
    bench.sealing(&both).refused(1, &["does not open with them"]);
    fs::write(bench.path("a"), whole).unwrap();
    // Shares only: everything else is lost, and a new key is made.
    let rescue = ["slots", "add", "a", "--share-file", "shares/share-2", "--share-file", "shares/share-3"];
    bench.sealing(&[&rescue[..], &["--new-key-file", "other"]].concat()).succeeded();
    bench.debug(&["a", "--key-file", "other", "ls"]).succeeded();
}

#[test]
fn an_approved_upgrade() {
    let bench = Bench::new();
    for (name, byte) in [("alice", 11), ("bob", 12), ("carol", 13), ("mallory", 14)] {
        bench.secret(name, &[byte; 32]);
        let public = bench.sealing(&["approver-key", "--signing-key", name]).succeeded();
        fs::write(bench.path(&format!("{name}.pub")), public.text()).unwrap();
    }
    bench.sealed_image();
    fs::create_dir(bench.path("shares")).unwrap();
    let old = code('1', 1);
    let approvers = ["--approver", "alice.pub", "--approver", "bob.pub", "--approver", "carol.pub", "--approvals", "2"];
    let rotate = [&["slots", "rotate", "a", "--slot", "0", "--new-platform", &old], &approvers[..]].concat();
    bench.on(SEALING, &rotate, &old).succeeded();
    bench.on(SEALING, &["slots", "add", "a", "--shares", "2/3", "--share-dir", "shares"], &old).succeeded();

    let new = code('2', 2);
    let manifest = ["manifest", "a", "--slot", "0", "--to", &new, "--allow-development", "--out", "manifest"];
    bench.sealing(&manifest).succeeded();
    for name in ["alice", "bob", "mallory"] {
        let out = format!("{name}.sig");
        let signed = bench.sealing(&["approve", "manifest", "--signing-key", name, "--out", &out]).succeeded();
        let shown = bench.sealing(&["inspect", "manifest"]).succeeded();
        for part in ["volume id          ", "header generation  ", "isvsvn at least    2", &"2".repeat(64), "no end"] {
            assert!(signed.text().contains(part) && shown.text().contains(part), "'{part}' is not in {signed:?}");
        }
        assert!(signed.text().contains(&"2".repeat(64)), "{signed:?}");
    }
    let migrate = |to: &str, signed: &[&str]| {
        let mut args = vec!["migrate", "a", "--to", to, "--manifest", "manifest"];
        signed.iter().for_each(|file| args.extend(["--approval", file]));
        bench.on(SEALING, &args, &old)
    };
    let few = migrate(&new, &["alice.sig", "mallory.sig"]);
    assert!(few.err.contains("2 approvers must sign, 1 of this volume's did"), "{few:?}");
    let other = migrate(&code('3', 2), &["alice.sig", "bob.sig"]);
    assert!(other.err.contains("another mrenclave was approved"), "{other:?}");
    let older = migrate(&code('2', 1), &["alice.sig", "bob.sig"]);
    assert!(older.err.contains("another isvsvn was approved"), "{older:?}");
    assert!(!bench.opens(&new) && bench.opens(&old));

    migrate(&new, &["alice.sig", "bob.sig"]).succeeded();
    assert!(bench.opens(&new) && bench.opens(&code('2', 3)));
    assert!(!bench.opens(&old), "the old code was handed over from");
    assert!(!bench.opens(&code('2', 1)), "an older version than was approved");
    // The same approval again: the header's generation has moved on, and its slot is gone.
    assert_ne!(migrate(&new, &["alice.sig", "bob.sig"]).code, Some(0));
    let explained = bench.on(SEALING, &["explain", "a"], &code('2', 1));
    assert!(explained.text().contains("isvsvn: sealed 2, here 1"), "{explained:?}");
    bench.debug(&["a", "--share-file", "shares/share-1", "--share-file", "shares/share-3", "ls"]).succeeded();
    bench.on(FSCK, &["a", "--scrub"], &new).succeeded();
}

#[test]
fn doctor_knows_what_a_rebuild_would_cost() {
    let bench = Bench::new();
    bench.sealed_image();
    let doctor = |change: &str| bench.sealing(&["doctor", "a", "--simulate", change]);
    let lost = doctor("new-mrenclave");
    assert_eq!(lost.code, Some(1));
    assert!(lost.text().contains("a: WOULD NO LONGER OPEN") && lost.err.contains("hint"), "{lost:?}");
    for change in ["cpusvn+1", "tpm-clear", "pcr-change"] {
        assert!(doctor(change).succeeded().text().contains("nothing changes"), "{change}");
    }
    let add = ["slots", "add", "a", "--new-platform", &signer(1)];
    bench.on(SEALING, &add, &code('1', 1)).succeeded();
    assert!(doctor("new-mrenclave").succeeded().text().contains("1 platform slots are lost, 1 others still open it"));
    assert!(bench.opens(&signer(1)));
}

#[test]
fn slots_of_an_anchored_volume() {
    let bench = Bench::new();
    let anchored = ["--key-file", "key", "--anchor", "file:anchor"];
    bench.mkfs(&[&["a", "--size", "16M", "-q"], &anchored[..]].concat()).succeeded();
    let yesterday = fs::read(bench.path("a")).unwrap();
    bench.sealing(&[&["slots", "add", "a", "--new-key-file", "other"], &anchored[..]].concat()).succeeded();
    let with_other = ["--key-file", "other", "--anchor", "file:anchor", "ls"];
    bench.debug(&[&["a"], &with_other[..]].concat()).succeeded();
    fs::write(bench.path("a"), yesterday).unwrap();
    bench.debug(&[&["a"], &anchored[..], &["ls"]].concat()).refused(1, &["rolled back"]);
}

#[test]
fn doctor_goes_on_behind_a_file_that_it_cannot_read() {
    let bench = Bench::new();
    bench.sealed_image();
    fs::write(bench.path("junk"), "neither blob nor image").unwrap();
    let files = ["doctor", "none", "junk", "a", "--simulate", "cpusvn+1"];
    let told = bench.sealing(&files);
    assert_eq!((told.code, told.text().lines().count()), (Some(1), 3), "{told:?}");
    let lines: Vec<&str> = told.text().lines().collect();
    assert!(lines[0].starts_with("NOT LOOKED AT: none: No such file") && lines[1].starts_with("NOT LOOKED AT: junk: "));
    assert_eq!(lines[2], "a: nothing changes");
    let told = bench.sealing(&[&files[..], &["--json"]].concat());
    assert_eq!(told.code, Some(1));
    let told = told.json();
    assert_eq!((told["fine"].as_bool(), told["files"].as_array().unwrap().len()), (Some(false), 3));
    assert!(told["files"][0]["error"]["reason"].as_str().unwrap().contains("No such file"), "{told}");
    assert!(told["files"][1]["opens"].is_null() && told["files"][2]["opens"] == true, "{told}");
}

#[test]
fn programs_get_numbers_as_numbers_and_failures_as_objects() {
    let bench = Bench::new();
    fs::write(bench.path("data"), "attack at dawn").unwrap();
    // A purpose of digits stays the text that it is, and a time that no double holds exactly is text too.
    let seal = ["seal", "data", "--out", "blob", "--purpose", "42", "--not-after", "9007199254740993"];
    bench.on(SEALING, &seal, &code('1', 2)).succeeded();
    let blob = bench.sealing(&["inspect", "blob", "--json"]).succeeded().json()["blobs"][0].clone();
    for (name, number) in [("isvsvn", 2), ("configsvn", 0), ("isvprodid", 0), ("payload_bytes", 14)] {
        assert_eq!(blob[name].as_u64(), Some(number), "{name}: {blob}");
    }
    assert_eq!(blob["debug"].as_bool(), Some(false));
    assert_eq!(
        (blob["purpose"].as_str(), blob["not_after"].as_str()),
        (Some("42"), Some("9007199254740993")),
        "{blob}"
    );
    assert_eq!(blob["mrenclave"].as_str(), Some(&*"1".repeat(64)));
    bench.sealed_image();
    let made = ["manifest", "a", "--slot", "0", "--to", &code('2', 2), "--allow-development", "--out", "up"];
    bench.sealing(&made).succeeded();
    let manifest = bench.sealing(&["inspect", "up", "--json"]).succeeded().json();
    for (name, number) in [("header_generation", 1), ("isvsvn_at_least", 2), ("not_after", 0)] {
        assert_eq!(manifest[name].as_u64(), Some(number), "{name}: {manifest}");
    }

    let failed = bench.sealing(&["slots", "list", "none", "--json"]);
    assert_eq!((failed.code, failed.err.matches('\n').count()), (Some(1), 1), "{failed:?}");
    let error = failed.json()["error"].clone();
    assert_eq!((error["thing"].as_str(), error["kind"].as_str()), (Some("none"), Some("operational")), "{error}");
    assert!(error["reason"].as_str().unwrap().contains("No such file") && error["way_out"].is_string(), "{error}");
}

#[test]
fn an_anchor_is_removed_when_no_volume_names_it() {
    let bench = Bench::new();
    let key = ["--key-file", "key"];
    bench.mkfs(&["a", "--size", "16M", "-q", "--key-file", "key", "--anchor", "file:anchor"]).succeeded();
    let remove = |more: &[&str]| bench.sealing(&[&["anchor", "remove"], more].concat());
    remove(&["file:anchor"]).refused(2, &["nothing tells whether a volume names file:anchor", "--image"]);
    remove(&[&["file:anchor", "--image", "a"], &key[..]].concat()).refused(1, &["a: it is bound to file:anchor"]);
    remove(&["file:anchor", "--image", "a", "--key-file", "other"]).refused(1, &["wrong key"]);
    assert!(bench.path("anchor").exists());
    // What is no anchor is not removed, whatever is said.
    remove(&["file:a", "--force"]).refused(1, &["file:a: "]);
    remove(&["file:none", "--force"]).refused(1, &["file:none: "]);
    assert!(bench.path("a").exists());

    let next = ["anchor", "make", "a", "--anchor", "file:anchor", "--new-anchor", "file:next"];
    bench.sealing(&[&next[..], &key].concat()).succeeded();
    let removed = remove(&[&["file:anchor", "--image", "a", "--json"], &key[..]].concat()).succeeded();
    assert_eq!(removed.json()["removed"], true);
    assert!(!bench.path("anchor").exists() && bench.path("next").exists());
    bench.debug(&["a", "--key-file", "key", "--anchor", "file:next", "ls"]).succeeded();

    remove(&["file:next", "--force"]).succeeded();
    assert!(!bench.path("next").exists());
    bench.debug(&["a", "--key-file", "key", "--abandon-anchor", "ls"]).succeeded();
    // A volume without an anchor names none.
    bench.mkfs(&["b", "--size", "16M", "-q", "--key-file", "key"]).succeeded();
    bench.mkfs(&["c", "--size", "16M", "-q", "--key-file", "key", "--anchor", "file:third"]).succeeded();
    remove(&[&["file:third", "--image", "b"], &key[..]].concat()).succeeded();
}
