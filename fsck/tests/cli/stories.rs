//! Stories from end to end, with the tools as their users have them: a volume outlives its code, its keys, and a host that
//! shows yesterday's copy. The same with a TPM is in `fsck/tests/tpm.rs`, on a real mount in `fuse-host/tests/`.

use std::fs;

use crate::bench::{Bench, DEBUG, FSCK, MKFS, Ran};
use crate::sealing::{SEALING, code, signer};

impl Bench {
    /// What `sealing explain` says of image `a`: each field that differs, as `place field sealed here`.
    fn explained(&self, platform: &str) -> Vec<String> {
        let ran = self.on(SEALING, &["explain", "a", "--json"], platform);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let mut all = Vec::new();
        for blob in ran.json()["blobs"].as_array().unwrap() {
            assert_eq!((&blob["opens"], &blob["authenticated"]), (&false.into(), &false.into()), "{blob}");
            for it in blob["differences"].as_array().unwrap() {
                let short = |name: &str| it[name].as_str().unwrap().chars().take(4).collect::<String>();
                all.push(format!(
                    "{} {} {} {}",
                    blob["place"].as_str().unwrap(),
                    it["field"].as_str().unwrap(),
                    short("sealed"),
                    short("here")
                ));
            }
        }
        all
    }

    fn refused_key(&self, platform: &str) {
        let ran = self.on(DEBUG, &["a", "ls"], platform);
        assert!(ran.code == Some(1) && ran.err.contains("wrong key"), "{ran:?}");
    }

    fn opened(&self, platform: &str) {
        self.on(DEBUG, &["a", "cat", "/hello"], platform).succeeded();
    }

    fn with_shares(&self, numbers: [u8; 2]) -> Ran {
        let paths = numbers.map(|number| format!("shares/share-{number}"));
        self.debug(&["a", "--share-file", &paths[0], "--share-file", &paths[1], "cat", "/hello"])
    }

    /// A volume with one file, for code 1 at version 1; carried over to others if two of alice, bob and carol approve. Three
    /// shares, of which two open it.
    fn sealed_with_a_way_back(&self) {
        fs::create_dir(self.path("src")).unwrap();
        fs::write(self.path("src/hello"), "hello\n").unwrap();
        fs::create_dir(self.path("shares")).unwrap();
        let old = code('1', 1);
        self.on(MKFS, &["a", "--from", "src", "--size", "16M", "-q"], &old).succeeded();
        let mut rotate = vec!["slots", "rotate", "a", "--slot", "0", "--new-platform", &old, "--approvals", "2"];
        for (name, key, byte) in [("alice.pub", "alice", 11), ("bob.pub", "bob", 12), ("carol.pub", "carol", 13)] {
            self.secret(key, &[byte; 32]);
            let public = self.run(SEALING, &["approver-key", "--signing-key", key]).succeeded();
            fs::write(self.path(name), public.text()).unwrap();
            rotate.extend(["--approver", name]);
        }
        self.on(SEALING, &rotate, &old).succeeded();
        let deal = ["slots", "add", "a", "--shares", "2/3", "--share-dir", "shares"];
        self.on(SEALING, &deal, &old).succeeded();
    }

    fn migrate(&self, from: &str, to: &str, approvers: &[&str]) -> Ran {
        let manifest = ["manifest", "a", "--slot", "0", "--to", to, "--allow-development", "--out", "manifest"];
        self.run(SEALING, &manifest).succeeded();
        let mut args = vec!["migrate", "a", "--to", to, "--manifest", "manifest"];
        let signatures: Vec<String> = approvers.iter().map(|name| format!("{name}.sig")).collect();
        for (name, out) in approvers.iter().zip(&signatures) {
            self.run(SEALING, &["approve", "manifest", "--signing-key", name, "--out", out]).succeeded();
            args.extend(["--approval", out]);
        }
        self.on(SEALING, &args, from)
    }
}

/// The next version takes over when two of three approve; code that is older or other is refused, and `explain` says by which
/// field; two of three shares open it; and with nothing but shares a new key is made.
#[test]
fn a_volume_outlives_its_code_and_its_keys() {
    let bench = Bench::new();
    bench.sealed_with_a_way_back();
    let (old, new) = (code('1', 1), code('2', 2));
    // Before: only the code that it was made for. The rebuild to come is announced.
    bench.opened(&old);
    bench.refused_key(&new);
    assert_eq!(bench.explained(&new), ["slot 0 mrenclave 1111 2222"]);
    let doctor = bench.run(SEALING, &["doctor", "a", "--simulate", "new-mrenclave"]).succeeded();
    assert!(doctor.text().contains("1 platform slots are lost, 1 others still open it"), "{doctor:?}");

    let few = bench.migrate(&old, &new, &["alice"]);
    assert!(few.err.contains("2 approvers must sign, 1 of this volume's did"), "{few:?}");
    fs::remove_file(bench.path("manifest")).unwrap();
    fs::remove_file(bench.path("alice.sig")).unwrap();
    bench.migrate(&old, &new, &["alice", "carol"]).succeeded();

    // After: the next version and later ones, neither the old code nor an older version of the new one.
    bench.opened(&new);
    bench.opened(&code('2', 3));
    bench.refused_key(&old);
    assert_eq!(bench.explained(&old), ["slot 0 mrenclave 2222 1111", "slot 0 isvsvn 2 1"]);
    bench.refused_key(&code('2', 1));
    assert_eq!(bench.explained(&code('2', 1)), ["slot 0 isvsvn 2 1"]);
    bench.refused_key(&format!("{},debug=yes", code('2', 2)));
    let debug = bench.explained(&format!("{},debug=yes", code('2', 2)));
    assert!(debug.contains(&"slot 0 debug prod debu".to_string()), "{debug:?}");

    for pair in [[1, 2], [1, 3], [2, 3]] {
        bench.with_shares(pair).succeeded();
    }
    bench.debug(&["a", "--share-file", "shares/share-1", "ls"]).refused(2, &["2 shares are needed, 1 given"]);

    // Everything but two shares is lost.
    let recover = ["recover", "a", "--share-file", "shares/share-2", "--share-file", "shares/share-3"];
    let one = ["recover", "a", "--share-file", "shares/share-2", "--make-key-file", "fresh"];
    bench.run(SEALING, &one).refused(2, &["2 shares are needed, 1 given"]);
    bench
        .run(SEALING, &["recover", "a", "--key-file", "key", "--make-key-file", "fresh"])
        .refused(2, &["--share-file"]);
    bench.run(SEALING, &recover).refused(2, &["exactly one owner is needed", "--make-key-file"]);
    let recovered = bench.run(SEALING, &[&recover[..], &["--make-key-file", "fresh"]].concat()).succeeded();
    for part in ["recovered", "sealing slots test a --key-file fresh", "sealing slots remove", "deal new ones"] {
        assert!(recovered.text().contains(part), "'{part}' is not in {recovered:?}");
    }
    bench.debug(&["a", "--key-file", "fresh", "cat", "/hello"]).succeeded();
    bench.run(SEALING, &["slots", "test", "a", "--key-file", "fresh"]).succeeded();
    bench.mkfs(&["b", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    let foreign = ["recover", "b", "--share-file", "shares/share-2", "--share-file", "shares/share-3"];
    bench
        .run(SEALING, &[&foreign[..], &["--make-key-file", "unmade"]].concat())
        .refused(1, &["b: it has no slot for these shares, which are of volume", "bring its own"]);
    assert!(!bench.path("unmade").exists());
    let again = bench.run(SEALING, &[&recover[..], &["--make-key-file", "fresh"]].concat());
    again.refused(1, &["fresh", "exists already"]);
    // The dead slot's place is taken, and the volume is whole.
    let over = [&recover[..], &["--slot", "0", "--make-key-file", "second"]].concat();
    let slots = bench.run(SEALING, &[&over[..], &["--json"]].concat()).succeeded().json();
    assert_eq!(slots["slots"], serde_json::json!(["key file", "recovery shares", "key file"]));
    bench.fsck(&["a", "--key-file", "second", "--scrub"]).succeeded();
}

/// A volume that is bound to its signer needs no approval: whatever the signer signs opens it, from its version on.
#[test]
fn a_volume_of_its_signer_opens_for_whatever_he_signs() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/hello"), "hello\n").unwrap();
    bench.on(MKFS, &["a", "--from", "src", "--size", "16M", "-q"], &signer(2)).succeeded();
    bench.opened(&signer(2));
    bench.opened(&signer(3).replace(&"9".repeat(64), &"8".repeat(64)));
    bench.refused_key(&signer(1));
    assert_eq!(bench.explained(&signer(1)), ["slot 0 isvsvn 2 1"]);
    let stranger = signer(2).replace(&"5".repeat(64), &"6".repeat(64));
    bench.refused_key(&stranger);
    assert_eq!(bench.explained(&stranger), ["slot 0 mrsigner 5555 6666"]);
    bench.run(SEALING, &["doctor", "a", "--simulate", "new-mrenclave"]).succeeded();
}

/// Yesterday's copy is refused, in words that tell an operator what happened, and by `anchor check` from both sides.
#[test]
fn a_volume_of_yesterday_is_refused() {
    let bench = Bench::new();
    bench.sealed_with_a_way_back();
    let old = code('1', 1);
    let anchor = |args: &[&str]| bench.on(SEALING, &[&["anchor"], args].concat(), &old);
    let check = |image: &str| anchor(&["check", image, "--anchor", "file:anchor", "--json"]);
    // The volume gets its first anchor; nothing makes one by looking.
    for looking in [&["show", "file:anchor"][..], &["check", "a", "--anchor", "file:anchor"]] {
        let ran = anchor(looking);
        assert!(ran.code == Some(1) && !bench.path("anchor").exists(), "{ran:?}");
    }
    let made = anchor(&["make", "a", "--new-anchor", "file:anchor"]).succeeded();
    assert!(made.err.contains("nothing told whether this was the volume's newest state"), "{made:?}");
    assert!(made.text().contains("give --anchor file:anchor from now on"), "{made:?}");
    let anchored = |program: &str, args: &[&str]| {
        let (image, rest) = args.split_at(1);
        bench.on(program, &[image, &["--anchor", "file:anchor"], rest].concat(), &old)
    };
    let alone = bench.on(DEBUG, &["a", "ls"], &old);
    assert!(alone.code == Some(1) && alone.err.contains("anchor"), "{alone:?}");
    anchored(DEBUG, &["a", "ls"]).succeeded();
    let newest = check("a").succeeded().json();
    assert_eq!((newest["relation"].as_str(), newest["opens"].as_bool()), (Some("equal"), Some(true)));

    fs::copy(bench.path("a"), bench.path("yesterday")).unwrap();
    fs::copy(bench.path("anchor"), bench.path("yesterdays-anchor")).unwrap();
    bench.on(SEALING, &["slots", "add", "a", "--anchor", "file:anchor", "--new-key-file", "other"], &old).succeeded();
    assert_eq!(check("a").succeeded().json()["relation"], "equal");
    anchored(FSCK, &["a", "-n"]).succeeded();
    let refused = anchored(DEBUG, &["yesterday", "ls"]);
    assert!(refused.code != Some(0) && refused.err.contains("rolled back"), "{refused:?}");
    assert!(refused.err.contains("put the newest image back"), "{refused:?}");

    let behind = anchor(&["check", "yesterday", "--anchor", "file:anchor"]);
    assert_eq!(behind.code, Some(1));
    for part in ["image is at ", "anchor at ", ": behind; the image was rolled back", "--abandon-anchor"] {
        assert!(behind.text().contains(part), "'{part}' is not in {behind:?}");
    }
    let other = anchor(&["check", "a", "--anchor", "file:yesterdays-anchor"]);
    assert_eq!(other.code, Some(1));
    assert!(other.text().contains("the anchor is behind; the anchor was set back, or is a copy"), "{other:?}");
    let shown = anchor_shown(&bench, "file:anchor");
    assert_eq!(shown["kind"], "content");
    assert!(shown["counter"].as_u64() > anchor_shown(&bench, "file:yesterdays-anchor")["counter"].as_u64());

    // The anchor is lost: said outright, the volume opens without it, and gets a new one.
    fs::remove_file(bench.path("anchor")).unwrap();
    let lost = anchored(DEBUG, &["a", "ls"]);
    assert!(lost.code != Some(0) && lost.err.contains("--abandon-anchor"), "{lost:?}");
    let without = anchor(&["make", "a", "--new-anchor", "file:next"]);
    assert!(without.code == Some(1) && without.err.contains("anchor"), "{without:?}");
    assert!(!bench.path("next").exists(), "made for a volume that was not opened");
    anchor(&["make", "a", "--new-anchor", "file:next", "--abandon-anchor"]).succeeded();
    assert_eq!(anchor(&["check", "a", "--anchor", "file:next", "--json"]).succeeded().json()["relation"], "equal");
    let old_image = anchor(&["check", "yesterday", "--anchor", "file:next"]);
    assert!(old_image.code == Some(1) && old_image.err.contains("anchor"), "{old_image:?}");
    let taken = anchor(&["make", "a", "--anchor", "file:next", "--new-anchor", "file:next"]);
    assert!(taken.code == Some(1) && taken.err.contains("it exists"), "{taken:?}");
    // From one anchor to another, without a gap.
    anchor(&["make", "a", "--anchor", "file:next", "--new-anchor", "file:third", "--anchor-policy", "checkpoint"])
        .succeeded();
    let moved = anchor(&["check", "a", "--anchor", "file:third", "--json"]).succeeded().json();
    assert_eq!((moved["relation"].as_str(), moved["policy"].as_str()), (Some("equal"), Some("checkpoint")));
    bench.on(FSCK, &["a", "--scrub", "--anchor", "file:third"], &old).succeeded();
}

fn anchor_shown(bench: &Bench, place: &str) -> serde_json::Value {
    bench.run(SEALING, &["anchor", "show", place, "--json"]).succeeded().json()
}
