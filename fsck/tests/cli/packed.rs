//! mkfs.sefs --read-only: packed images, and what the other tools make of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sefs::backend::{Backend, FileBackend};
use sefs::types::InodeNo;
use sefs::vfs::{Env, OpenOptions, Volume};
use sefs_tools::RootDigest;

use crate::bench::{Bench, MKFS, Ran, pattern, shell};
use crate::from::{compare, make_tree};

const PUBLIC: [&str; 3] = ["--read-only", "--public", "--reproducible"];

impl Bench {
    fn with_tree() -> Bench {
        let bench = Bench::new();
        let root = bench.path("src");
        make_tree(&root);
        fs::create_dir(root.join("many")).unwrap();
        for number in 0..700 {
            fs::write(root.join(format!("many/a file with a rather long name, number {number}")), "x").unwrap();
        }
        fs::write(root.join("many").join("n".repeat(255)), pattern(5000)).unwrap();
        bench
    }

    fn pack(&self, image: &str, more: &[&str]) -> Ran {
        self.mkfs(&[&[image, "--from", "src", "--json"], more].concat())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

fn digest(made: &Ran) -> String {
    made.json()["root_digest"].as_str().unwrap().to_string()
}

fn public_volume(path: &Path, digest: &str) -> Volume {
    let backend = Arc::new(FileBackend::open(path, false).unwrap());
    let root_digest = Some(digest.parse::<RootDigest>().unwrap().0);
    Volume::open_public(backend, &OpenOptions { root_digest, ..OpenOptions::default() }, &Env::host()).unwrap()
}

#[test]
fn a_public_image_holds_the_tree_and_opens_with_its_root_digest_only() {
    let bench = Bench::with_tree();
    let made = bench.pack("a", &["--read-only", "--public"]).succeeded();
    let digest = digest(&made);
    assert_eq!(bench.bytes("a.root-digest"), format!("{digest}\n").into_bytes());
    assert_eq!(fs::metadata(bench.path("a")).unwrap().len(), made.json()["size_bytes"].as_u64().unwrap());
    assert!(compare(&public_volume(&bench.path("a"), &digest), InodeNo::ROOT, &bench.path("src")) > 700);
    let pin = ["a", "--root-digest", &digest];
    let before = bench.bytes("a");
    bench.fsck(&[&pin[..], &["--scrub", "-n"]].concat()).succeeded();
    bench.fsck(&["a", "-p", "-o", &format!("root-digest={digest}")]).succeeded();
    let shown = bench.debug(&[&pin[..], &["root-digest", "--json"]].concat()).succeeded().json();
    assert_eq!((shown["root_digest"].as_str(), shown["proven"].as_bool()), (Some(digest.as_str()), Some(true)));
    let listed = bench.debug(&[&pin[..], &["manifest", "--json"]].concat()).succeeded().json();
    assert_eq!(listed["manifest_root"], made.json()["manifest_root"]);
    assert_eq!(listed["carried"], true);
    bench.debug(&[&pin[..], &["tree"]].concat()).succeeded();
    let shown = bench.debug(&[&pin[..], &["super", "--json"]].concat()).succeeded().json();
    assert_eq!((shown["suite"].as_str(), shown["authenticated"].as_bool()), (Some("sha-256"), Some(true)));
    assert!(before == bench.bytes("a"), "no tool changes it");
}

#[test]
fn a_pin_that_is_absent_or_wrong_is_refused() {
    let bench = Bench::with_tree();
    let digest = digest(&bench.pack("a", &PUBLIC).succeeded());
    bench.debug(&["a", "ls"]).refused(2, &["a: it is public", "--root-digest HEX"]);
    bench.fsck(&["a"]).refused(16, &["a: it is public", "--root-digest HEX"]);
    let wrong = digest.replace(['0', '1', '2', '3'], "f");
    bench.debug(&["a", "--root-digest", &wrong, "ls"]).refused(1, &["root digest is not the one demanded"]);
    bench.fsck(&["a", "--root-digest", &wrong]).refused(8, &["root digest is not the one demanded"]);
    bench.debug(&["a", "--key-file", "key", "ls"]).refused(2, &["it is public: no key", "give --root-digest"]);
    let unproven = bench.debug(&["a", "root-digest"]).succeeded();
    assert!(unproven.text().starts_with(&format!("root digest {digest}\n# ")), "{unproven:?}");
    assert!(unproven.text().contains("proves nothing"), "{unproven:?}");
    bench.flip("a", 17 * 4096);
    bench.fsck(&["a", "--root-digest", &digest]).succeeded();
    let scrubbed = bench.fsck(&["a", "--root-digest", &digest, "--scrub", "-y"]);
    assert_eq!(scrubbed.code, Some(4), "{scrubbed:?}");
    assert!(scrubbed.text().contains("[data-tampered]") && scrubbed.text().contains("not repaired"), "{scrubbed:?}");
}

#[test]
fn an_encrypted_image_opens_with_its_key_and_may_be_pinned() {
    let bench = Bench::with_tree();
    let made = bench.pack("a", &["--read-only", "--key-file", "key", "--passphrase-file", "phrase"]).succeeded();
    let digest = digest(&made);
    assert!(compare(&bench.volume("a", false), InodeNo::ROOT, &bench.path("src")) > 700);
    for args in [&["--key-file", "key"][..], &["--passphrase-file", "phrase", "--root-digest", &digest]] {
        bench.fsck(&[&["a"], args, &["--scrub"]].concat()).succeeded();
        let listed = bench.debug(&[&["a"], args, &["manifest", "--json"]].concat()).succeeded().json();
        assert_eq!(listed["manifest_root"], made.json()["manifest_root"]);
    }
    bench.debug(&["a", "--key-file", "other", "ls"]).refused(1, &["wrong key"]);
    let other = "0".repeat(64);
    bench.debug(&["a", "--key-file", "key", "--root-digest", &other, "ls"]).refused(1, &["not the one demanded"]);
    bench.debug(&["a", "--root-digest", &digest, "ls"]).refused(2, &["no key is given"]);
    assert!(bench.debug(&["a", "root-digest"]).succeeded().text().contains(&digest));
    let again = bench.pack("b", &["--read-only", "--key-file", "key"]).succeeded();
    assert_ne!(again.json()["root_digest"].as_str(), Some(digest.as_str()), "salts are fresh");
    let anchor = ["a", "--key-file", "key", "--anchor", "file:x", "ls"];
    assert_eq!(bench.debug(&anchor).code, Some(1));
}

#[test]
fn two_reproducible_builds_are_the_same_bytes() {
    let bench = Bench::with_tree();
    assert!(shell("cp -a src copy && touch -a src/files/* && mv src old && mv copy src", &bench.path("")));
    let pack = |image: &str, from: &str, more: &[&str]| {
        let args = [&[image, "--from", from, "--read-only", "--reproducible", "--json"], more].concat();
        bench.mkfs(&args).succeeded()
    };
    for kind in [&["--public"][..], &["--key-file", "key"]] {
        let (one, two) = (pack("one", "src", kind), pack("two", "old", kind));
        assert_eq!(one.json()["root_digest"], two.json()["root_digest"]);
        assert!(bench.bytes("one") == bench.bytes("two"), "{kind:?}");
        fs::remove_file(bench.path("one")).unwrap();
        fs::remove_file(bench.path("two")).unwrap();
    }
    pack("one", "src", &["--key-file", "key"]);
    pack("two", "src", &["--key-file", "other"]);
    assert!(bench.bytes("one") != bench.bytes("two"));
    bench.fsck(&["one", "--key-file", "key", "--scrub"]).succeeded();
    let late = bench.command(MKFS, &["late", "--from", "src", "--read-only", "--public", "--reproducible", "--json"]);
    let mut late = late;
    let late = Ran::of(late.env("SOURCE_DATE_EPOCH", "1000000000").output().unwrap()).succeeded();
    let stat = ["late", "--root-digest", &digest(&late), "stat", "files", "--json"];
    let shown = bench.debug(&stat).succeeded().json();
    assert!(shown["mtime"]["seconds"].as_i64().unwrap() <= 1_000_000_000, "{shown}");
    assert_eq!(shown["mtime"], shown["ctime"]);
}

/// The salt of the root block, and where the data begin.
#[test]
fn builds_that_differ_in_one_mode_bit_share_neither_salt_nor_ciphertext() {
    let bench = Bench::with_tree();
    let args = ["--read-only", "--reproducible", "--key-file", "key"];
    bench.pack("one", &args).succeeded();
    assert!(shell("chmod u+s src/files/large", &bench.path("")));
    bench.pack("two", &args).succeeded();
    let (one, two) = (bench.bytes("one"), bench.bytes("two"));
    assert_eq!(one.len(), two.len());
    assert_ne!(one[24..40], two[24..40], "volume ids");
    assert_ne!(one[8192..8448], two[8192..8448], "slots");
    assert_ne!(one[65_536..65_568], two[65_536..65_568], "salts");
    let blocks = |image: &[u8]| image[17 * 4096..].chunks_exact(4096).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let same = blocks(&one).iter().zip(&blocks(&two)).filter(|(one, two)| one == two).count();
    let padding = blocks(&one).iter().filter(|block| block.iter().all(|&byte| byte == 0)).count();
    assert_eq!(same, padding, "the first bytes differ in one bit, the ciphertexts everywhere");
}

#[test]
fn equal_blocks_and_links_are_stored_once_and_holes_not_at_all() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    for name in ["one", "two", "three"] {
        fs::write(bench.path("src").join(name), pattern(1 << 20)).unwrap();
    }
    fs::hard_link(bench.path("src/one"), bench.path("src/link")).unwrap();
    fs::write(bench.path("src/zeros"), vec![0; 8 << 20]).unwrap();
    let made = bench.pack("a", &PUBLIC).succeeded().json();
    assert_eq!((made["data_blocks"].as_u64(), made["shared_blocks"].as_u64()), (Some(256), Some(512)));
    assert!(made["size_bytes"].as_u64().unwrap() < (1 << 20) + (256 << 10), "{made}");
    let each = bench.pack("b", &[&PUBLIC[..], &["--no-dedup"]].concat()).succeeded().json();
    assert_eq!(each["data_blocks"].as_u64(), Some(768));
    assert_eq!(each["manifest_root"], made["manifest_root"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = Bench::with_image();
    let mkfs = |args: &[&str]| bench.mkfs(&[&["x", "--from", "src"], args].concat());
    mkfs(&["--read-only", "--public", "--key-file", "key"]).refused(1, &["a public image has no key"]);
    mkfs(&["--read-only", "--key-file", "key", "--size", "1G"]).refused(1, &["--size"]);
    mkfs(&["--read-only", "--key-file", "key", "--anchor", "file:x"]).refused(1, &["--anchor"]);
    mkfs(&["--reproducible", "--key-file", "key"]).refused(1, &["--reproducible", "give --read-only"]);
    mkfs(&["--read-only", "--reproducible", "--passphrase-file", "phrase"]).refused(1, &["only a raw key"]);
    mkfs(&["--read-only"]).refused(1, &["no key is given"]);
    assert_eq!(bench.mkfs(&["x", "--read-only", "--public"]).code, Some(1));
    assert!(!bench.path("x").exists() && !bench.path("x.root-digest").exists());
    let zeros = "0".repeat(64);
    bench.debug(&["a", "--key-file", "key", "--root-digest", &zeros, "ls"]).refused(1, &["no root digest", "leave"]);
    assert_eq!(bench.debug(&["a", "--key-file", "key", "--root-digest", "12", "ls"]).code, Some(2));
    bench.pack("p", &["--read-only", "--key-file", "key"]).succeeded();
    bench.pack("p", &["--read-only", "--key-file", "key"]).told(1, &["p: it holds a SEFS volume", "--force"]);
    bench.pack("p", &["--read-only", "--key-file", "key", "--force"]).succeeded();
    bench.debug(&["p", "--key-file", "key", "log"]).refused(2, &["no log"]);
    let backend = FileBackend::open(&bench.path("p"), true).unwrap();
    backend.grow(fs::metadata(bench.path("p")).unwrap().len() + 1).unwrap();
    bench.debug(&["p", "--key-file", "key", "ls"]).refused(1, &["something follows the image"]);
}
