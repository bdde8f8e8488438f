//! Volumes over packed images: how they are made, found again, and what keeps another image from being taken for the right one.

use std::fs;
use std::path::PathBuf;

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Volume, WriteMode};
use sefs_tools::opening::Located;
use sefs_tools::{ImageUse, KeyArgs, Tool};

use crate::bench::{Bench, DEBUG, Ran, pattern};

const SEALING: &str = env!("CARGO_BIN_EXE_sealing");
const KEY: [&str; 2] = ["--key-file", "key"];

impl Bench {
    /// A bench with `src` packed as the public image `base`.
    pub(crate) fn with_base() -> (Bench, String) {
        let bench = Bench::new();
        fs::create_dir_all(bench.path("src/sub")).unwrap();
        fs::write(bench.path("src/hello"), "hello\n").unwrap();
        fs::write(bench.path("src/sub/large"), pattern(300_000)).unwrap();
        let digest = bench.pack_src("base", &["--public"]);
        (bench, digest)
    }

    pub(crate) fn pack_src(&self, image: &str, more: &[&str]) -> String {
        let args = [&[image, "--from", "src", "--read-only", "--json"], more].concat();
        self.mkfs(&args).succeeded().json()["root_digest"].as_str().unwrap().to_string()
    }

    /// The volume `top` over images.
    pub(crate) fn over(&self, lowers: &[&str]) -> Ran {
        let lowers = lowers.iter().flat_map(|lower| ["--lower", lower]);
        self.mkfs(&["top", "--size", "16M", "--json"].into_iter().chain(KEY).chain(lowers).collect::<Vec<_>>())
    }

    pub(crate) fn look(&self, args: &[&str]) -> Ran {
        self.debug(&[&["top"], &KEY[..], args].concat())
    }

    /// Opens `top` as the tools do, changes something everywhere, and closes it.
    pub(crate) fn change(&self) {
        let args = KeyArgs { key_file: Some(self.path("key")), ..KeyArgs::default() };
        let located = Located::open(&self.path("top"), ImageUse::ReadWrite).unwrap();
        let volume = located.unlock(&args, Tool("test")).unwrap().volume().unwrap();
        let root = Caller::root();
        let new = NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() };
        let made = volume.make(&root, InodeNo::ROOT, b"own", &new).unwrap();
        volume.write(&root, made.ino, 0, &pattern(100_000), WriteMode::Direct).unwrap();
        let sub = named(&volume, InodeNo::ROOT, "sub");
        volume.write(&root, named(&volume, sub, "large"), 150_000, b"changed", WriteMode::Direct).unwrap();
        volume.unlink(&root, InodeNo::ROOT, b"hello").unwrap();
        volume.close().unwrap();
    }

    /// `top` has what [`Bench::change`] made of it; the result is the check's.
    pub(crate) fn demand_changed(&self, more: &[&str]) -> Ran {
        let mut large = pattern(300_000);
        large[150_000..150_007].copy_from_slice(b"changed");
        assert!(self.look(&[more, &["cat", "sub/large"]].concat()).succeeded().out == large);
        assert!(self.look(&[more, &["cat", "own"]].concat()).succeeded().out == pattern(100_000));
        assert_eq!(self.look(&[more, &["cat", "hello"]].concat()).code, Some(1));
        let listed = self.look(&[more, &["ls", "--json"]].concat()).succeeded().json_lines();
        assert_eq!(listed.iter().map(|line| line["name"].as_str().unwrap()).collect::<Vec<_>>(), ["own", "sub"]);
        self.fsck(&[&["top", "--scrub", "-n"], &KEY[..], more].concat()).succeeded()
    }

    pub(crate) fn content_of(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

pub(crate) fn named(volume: &Volume, dir: InodeNo, name: &str) -> InodeNo {
    volume.lookup(&Caller::root(), dir, name.as_bytes()).unwrap().ino
}

pub(crate) fn absolute(bench: &Bench, name: &str) -> String {
    let path: PathBuf = bench.path(name);
    path.to_str().unwrap().to_string()
}

#[test]
fn a_volume_has_what_its_image_has_and_finds_it_again_by_its_note() {
    let (bench, digest) = Bench::with_base();
    let before = bench.content_of("base");
    let made = bench.over(&["base"]).succeeded();
    assert!(
        made.err.contains("base is public, and no root digest was given") && made.err.contains(&digest),
        "{made:?}"
    );
    assert_eq!(made.json()["lowers"][0]["root_digest"], digest);
    assert_eq!(bench.look(&["cat", "hello"]).succeeded().out, b"hello\n");
    bench.change();
    let volume = bench.content_of("top");
    let checked = bench.demand_changed(&[]);
    // Of 74 blocks of the image one was written over; 25 are the new file's.
    assert!(checked.text().contains("99 data blocks (26 read, the volume's own)"), "{checked:?}");
    let shown = bench.look(&["super", "--json"]).succeeded().json();
    assert_eq!(shown["state"]["lowers"][0]["root_digest"], digest);
    assert_eq!(shown["state"]["lowers"][0]["note"], absolute(&bench, "base"));
    let text = bench.look(&["super"]).succeeded();
    assert!(text.text().contains(&digest) && text.text().contains(&absolute(&bench, "base")), "{text:?}");
    assert!(before == bench.content_of("base"), "an image is never written");
    assert!(volume == bench.content_of("top"), "who looks changes nothing");
}

#[test]
fn an_image_that_moved_is_named_where_it_is_now() {
    let (bench, digest) = Bench::with_base();
    bench.over(&[&format!("base,root-digest={digest}")]).succeeded();
    bench.change();
    fs::rename(bench.path("base"), bench.path("moved, once")).unwrap();
    let gone = absolute(&bench, "base");
    let parts = [&gone[..], "it is not there", "top lies over it", "name where it is now with --lower"];
    bench.look(&["ls"]).refused(1, &parts);
    bench.fsck(&["top", "--key-file", "key"]).refused(8, &parts);
    bench.look(&["super"]).succeeded();
    bench.run(SEALING, &["slots", "list", "top", "--key-file", "key"]).succeeded();
    bench.demand_changed(&["--lower", r"moved\, once"]);
    bench.demand_changed(&["-o", r"lower=moved\\\, once"]);
    let other = format!(r"moved\, once,root-digest={}", "0".repeat(64));
    bench.look(&["--lower", &other, "ls"]).refused(1, &["top was made over", &digest]);
}

#[test]
fn another_image_is_refused() {
    let (bench, _) = Bench::with_base();
    let id = "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74";
    bench.pack_src("base", &["--public", "--force", "--volume-id", id]);
    bench.over(&["base"]).succeeded();
    let (path, asked) = (absolute(&bench, "base"), "give that one with --lower IMAGE[,KEY], or see debug.sefs upgrade");
    let refused = |how: &str| {
        let parts = [&path[..], "it is not the image that top was made over", how, asked];
        bench.look(&["ls"]).refused(1, &parts);
        bench.fsck(&["top", "--key-file", "key", "-y"]).refused(8, &[&path, how]);
    };
    fs::write(bench.path("src/hello"), "jello\n").unwrap();
    bench.pack_src("base", &["--public", "--force", "--volume-id", id]);
    refused("its root digest differs");
    bench.pack_src("base", &["--public", "--force"]);
    refused("its id is");
    // One that the same key opens is another all the same.
    let sealed = [&KEY[..], &["--force", "--volume-id", id]].concat();
    bench.pack_src("base", &sealed);
    fs::remove_file(bench.path("top")).unwrap();
    bench.over(&["base"]).succeeded();
    bench.look(&["cat", "hello"]).succeeded();
    bench.pack_src("base", &sealed);
    refused("its root digest differs");
    bench.mkfs(&["base", "--size", "8M", "--key-file", "key", "--force"]).succeeded();
    bench.look(&["ls"]).refused(1, &[&path, "no packed image"]);
}

#[test]
fn an_encrypted_image_opens_with_the_volumes_key_or_its_own() {
    let (bench, _) = Bench::with_base();
    bench.pack_src("same", &KEY);
    bench.pack_src("strange", &["--key-file", "other"]);
    bench.over(&["same"]).succeeded();
    bench.change();
    bench.demand_changed(&[]);
    fs::remove_file(bench.path("top")).unwrap();
    bench.over(&["strange"]).told(1, &["strange: wrong key", "write strange,key-file=FILE"]);
    assert!(!bench.path("top").exists(), "nothing half-made stays");
    bench.over(&["strange,key-file=other"]).succeeded();
    bench.change();
    bench.demand_changed(&[]);
    let note = &bench.look(&["super", "--json"]).succeeded().json()["state"]["lowers"][0]["note"];
    let (image, key) = (absolute(&bench, "strange"), absolute(&bench, "other"));
    assert_eq!(note.as_str().unwrap(), format!("{image},key-file={key}"), "names of places, never a secret");
    fs::rename(bench.path("other"), bench.path("away")).unwrap();
    bench.look(&["ls"]).refused(1, &["/other"]);
    bench.demand_changed(&["--lower", "strange,key-file=away"]);
    // Standard input is read once, for the volume and for the image that has the same key.
    fs::remove_file(bench.path("top")).unwrap();
    bench.over(&["same"]).succeeded();
    let mut piped = bench.command(DEBUG, &["top", "--key-file", "-", "cat", "hello"]);
    let piped = piped.stdin(fs::File::open(bench.path("key")).unwrap()).output().unwrap();
    assert_eq!(Ran::of(piped).succeeded().out, b"hello\n");
    // What pins the volume does not pin the image.
    let shown = bench.look(&["super", "--json"]).succeeded().json();
    let id = shown["volume_id"].as_str().unwrap();
    assert_eq!(bench.look(&["--volume-id", id, "cat", "hello"]).succeeded().out, b"hello\n");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let (bench, digest) = Bench::with_base();
    let pinned = format!("base,root-digest={digest}");
    bench.over(&["nowhere"]).told(1, &["nowhere: No such file"]);
    bench.over(&["base,key-file=key"]).told(1, &["base: it is public: no key"]);
    bench.over(&["base,anchor=file:x"]).told(1, &["a packed image has no anchor"]);
    bench.over(&["base,lower=base"]).told(1, &["lies over no other"]);
    bench.over(&[&format!("base,root-digest={}", "1".repeat(64))]).told(1, &["root digest is not the one"]);
    bench.over(&["key"]).told(1, &["key: "]);
    bench.mkfs(&["own", "--size", "8M", "--key-file", "key", "-q"]).succeeded();
    bench.over(&["own"]).told(1, &["own: it is no packed image"]);
    let filled = ["top", "--size", "16M", "--key-file", "key", "--lower", &pinned, "--from", "src"];
    bench.mkfs(&filled).refused(1, &["--lower", "leave --from away"]);
    let over_itself = ["base", "--size", "16M", "--key-file", "key", "--lower", &pinned, "--force"];
    bench.mkfs(&over_itself).refused(1, &["base: it is an image that it is to lie over"]);
    assert!(!bench.path("top").exists());
    bench.over(&[&pinned]).succeeded();
    bench
        .look(&["--lower", "base", "--lower", "base", "ls"])
        .refused(1, &["top: ", "it needs 1 of them, and 2 were given"]);
    bench.debug(&["own", "--key-file", "key", "--lower", "base", "ls"]).refused(2, &["own: it lies over no image"]);
    bench.debug(&["base", "--root-digest", &digest, "--lower", "base", "ls"]).refused(2, &["lies over no image"]);
}

#[test]
fn its_key_is_changed_and_its_log_replayed_over_its_image() {
    let (bench, _) = Bench::with_base();
    let before = bench.content_of("base");
    bench.over(&["base"]).succeeded();
    bench.change();
    bench.run(SEALING, &["slots", "add", "top", "--key-file", "key", "--new-passphrase-file", "phrase"]).succeeded();
    let rotate = ["rotate", "top", "--key-file", "key", "--with-passphrase-file", "phrase"];
    bench.run(SEALING, &rotate).succeeded();
    bench.demand_changed(&[]);
    bench.debug(&["top", "--passphrase-file", "phrase", "cat", "sub/large"]).succeeded();
    assert!(before == bench.content_of("base"));
}
