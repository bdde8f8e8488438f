//! mkfs.sefs: what it makes, and that it destroys nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::{Bench, FSCK, MKFS, Ran, is_root, shell, skipped};

#[test]
fn a_volume_is_made_and_opens_with_its_key_only() {
    let bench = Bench::new();
    let made = bench.mkfs(&["a", "--size", "64M", "--key-file", "key", "--label", "backup"]).succeeded();
    assert!(made.text().starts_with("a: 64 MiB, volume "), "{made:?}");
    assert!(made.err.contains("single key"), "{made:?}");
    assert_eq!(fs::metadata(bench.path("a")).unwrap().len(), 64 << 20);
    assert_eq!(fs::metadata(bench.path("a")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::metadata(bench.path("a")).unwrap().blocks() * 512 < 4 << 20, "the image is sparse");
    bench.fsck(&["a", "--key-file", "key", "--scrub"]).succeeded();
    bench.debug(&["a", "--key-file", "other", "ls"]).refused(1, &["debug.sefs: a: wrong key"]);
    assert_eq!(bench.names(), ["a", "key", "other", "phrase"]);
}

#[test]
fn two_sources_make_two_slots_and_either_opens() {
    let bench = Bench::new();
    let both = ["a", "--size", "16M", "--key-file", "key", "--passphrase-file", "phrase", "--json"];
    let made = bench.mkfs(&both).succeeded();
    assert_eq!(made.json()["key_slots"], serde_json::json!(["key file", "passphrase"]));
    assert_eq!(made.err, "", "two keys need no advice");
    bench.debug(&["a", "--key-file", "key", "ls"]).succeeded();
    bench.debug(&["a", "--passphrase-file", "phrase", "ls"]).succeeded();
    bench.secret("phrase", b"wrong horse\n");
    bench.debug(&["a", "--passphrase-file", "phrase", "ls"]).refused(1, &["wrong key"]);
}

#[test]
fn every_way_of_doing_io_makes_the_same_volume() {
    let bench = Bench::new();
    for io in ["sync", "uring", "uring-direct"] {
        bench.mkfs(&["a", "--size", "16M", "--key-file", "key", "--force", "--io", io]).succeeded();
        for other in ["sync", "uring", "uring-direct"] {
            bench.fsck(&["a", "--key-file", "key", "--scrub", "--io", other]).succeeded();
        }
    }
    bench.mkfs(&["b", "--size", "16M", "--key-file", "key", "--io", "fast"]).refused(1, &["fast", "uring"]);
}

#[test]
fn label_and_id_are_as_given() {
    let bench = Bench::new();
    let id = "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74";
    let made = bench.mkfs(&["a", "--size", "4M", "--key-file", "key", "--volume-id", id, "-L", "büro", "--json"]);
    let made = made.succeeded().json();
    assert_eq!((made["volume_id"].as_str(), made["label"].as_str()), (Some(id), Some("büro")));
    assert_eq!(made["size_bytes"], 4 << 20);
    let shown = bench.debug(&["a", "--key-file", "key", "super", "--json"]).succeeded().json();
    assert_eq!((shown["volume_id"].as_str(), shown["label"].as_str()), (Some(id), Some("büro")));
    assert_eq!(shown["authenticated"], true);
    bench.debug(&["a", "--key-file", "key", "--volume-id", id, "ls"]).succeeded();
    let another = id.replace('7', "8");
    bench.debug(&["a", "--key-file", "key", "--volume-id", &another, "ls"]).refused(1, &["a: ", "id"]);
}

#[test]
fn ids_are_random_uuids() {
    let bench = Bench::new();
    let id = |name| {
        let made = bench.mkfs(&[name, "--size", "4M", "--key-file", "key", "--json"]).succeeded();
        made.json()["volume_id"].as_str().unwrap().to_string()
    };
    let (one, two) = (id("a"), id("b"));
    assert_ne!(one, two);
    assert_eq!(&one[14..15], "4");
}

#[test]
fn nothing_is_overwritten_without_force() {
    let bench = Bench::with_image();
    let before = fs::read(bench.path("a")).unwrap();
    fs::write(bench.path("letter"), "Dear Bob").unwrap();
    let again = bench.mkfs(&["a", "--size", "8M", "--key-file", "key"]);
    again.refused(1, &["mkfs.sefs: a: it holds a SEFS volume (id ", "--force"]);
    bench.mkfs(&["a", "--size", "8M", "--key-file", "key", "--json"]).told(1, &["--force"]);
    bench.mkfs(&["letter", "--size", "8M", "--key-file", "key"]).refused(1, &["letter: it holds a file of 8 bytes"]);
    assert_eq!(fs::read(bench.path("a")).unwrap(), before);
    assert_eq!(fs::read(bench.path("letter")).unwrap(), b"Dear Bob");
    fs::set_permissions(bench.path("letter"), fs::Permissions::from_mode(0o640)).unwrap();
    bench.mkfs(&["letter", "--size", "8M", "--key-file", "key", "--force"]).succeeded();
    assert_eq!(fs::metadata(bench.path("letter")).unwrap().len(), 8 << 20);
    assert_eq!(fs::metadata(bench.path("letter")).unwrap().permissions().mode() & 0o777, 0o640);
}

/// Not even by force does a volume take the place of what it needs or is made of.
#[test]
fn what_a_volume_needs_is_not_replaced_by_it() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/f"), "precious").unwrap();
    let small = ["--size", "4M", "--force"];
    let refused =
        |args: &[&str], part: &str| bench.mkfs(&[args, &small[..]].concat()).refused(1, &[part, "another image"]);
    refused(&["key", "--key-file", "key"], "key: it is the file of a key");
    refused(&["phrase", "--passphrase-file", "./phrase"], "phrase: it is the file of a key");
    refused(&["a", "--key-file", "key", "--anchor", "file:./a"], "a: it is the place of its own anchor");
    refused(&["src/f", "--key-file", "key", "--from", "src"], "src/f: it is a file of the directory");
    assert_eq!(fs::read(bench.path("key")).unwrap(), [1; 32]);
    assert_eq!(fs::read(bench.path("src/f")).unwrap(), b"precious");
    assert!(!bench.path("a").exists());
}

/// What appears at the image's path while it is made stays.
#[test]
fn what_appears_meanwhile_is_left_alone() {
    use sefs_tools::place::Place;
    let bench = Bench::new();
    let made = |force: bool, meanwhile: &dyn Fn(&Path)| {
        let path = bench.path("a");
        let unplaced = Place::find(&path, force).unwrap().begin(4 << 20).unwrap();
        meanwhile(&path);
        unplaced.place()
    };
    let refused = made(false, &|path| fs::write(path, "new").unwrap());
    assert!(refused.unwrap_err().to_string().contains("while the volume was made"));
    assert_eq!(fs::read(bench.path("a")).unwrap(), b"new");
    let refused = made(true, &|path| {
        fs::write(bench.path("b"), "newer").unwrap();
        fs::rename(bench.path("b"), path).unwrap();
    });
    assert!(refused.unwrap_err().to_string().contains("while the volume was made"));
    assert_eq!(fs::read(bench.path("a")).unwrap(), b"newer");
    assert!(made(true, &|_| ()).is_ok());
}

#[test]
fn a_failed_replacement_leaves_the_old_image() {
    let bench = Bench::with_image();
    let before = fs::read(bench.path("a")).unwrap();
    fs::write(bench.path("src/more"), vec![1; 9 << 20]).unwrap();
    let args = ["a", "--size", "8M", "--from", "src", "--key-file", "key", "--force"];
    bench.mkfs(&args).refused(1, &["src: it does not fit into a volume of 8 MiB"]);
    assert_eq!(fs::read(bench.path("a")).unwrap(), before);
    assert_eq!(bench.names(), ["a", "key", "other", "phrase", "src"]);
}

#[test]
fn a_file_that_is_only_reserved_is_free_and_gives_its_size() {
    let bench = Bench::new();
    fs::File::create(bench.path("a")).unwrap().set_len(32 << 20).unwrap();
    let made = bench.mkfs(&["a", "--key-file", "key", "--json"]).succeeded().json();
    assert_eq!(made["size_bytes"], 32 << 20);
    bench.fsck(&["a", "--key-file", "key"]).succeeded();
}

#[test]
fn a_link_leads_to_the_image() {
    let bench = Bench::new();
    fs::create_dir(bench.path("store")).unwrap();
    fs::write(bench.path("store/a"), "").unwrap();
    std::os::unix::fs::symlink("store/a", bench.path("link")).unwrap();
    bench.mkfs(&["link", "--size", "4M", "--key-file", "key"]).succeeded();
    assert!(fs::symlink_metadata(bench.path("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(bench.path("store/a")).unwrap().len(), 4 << 20);
    std::os::unix::fs::symlink("store/none", bench.path("nowhere")).unwrap();
    bench.mkfs(&["nowhere", "--size", "4M", "--key-file", "key"]).refused(1, &["a link to store/none"]);
}

#[test]
fn places_that_cannot_be_are_refused() {
    let bench = Bench::new();
    let refused = |image: &str, part: &str| {
        bench.mkfs(&[image, "--size", "4M", "--key-file", "key"]).refused(1, &[part]);
    };
    refused(".", "it is a directory");
    refused("/dev/null", "neither a file nor a block device");
    refused("missing/a", "No such file or directory");
    refused("key/a", "Not a directory");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let bench = Bench::new();
    bench.mkfs(&["a", "--key-file", "key"]).refused(1, &["a: no size is given; give --size SIZE"]);
    bench.mkfs(&["a", "--size", "1M", "--key-file", "key"]).refused(1, &["too small", "--size 4M"]);
    bench.mkfs(&["a", "--size", "10GB", "--key-file", "key"]).refused(1, &["'10GB' is not a size"]);
    bench.mkfs(&["a", "--size", "8000P", "--key-file", "key"]).refused(1, &[]);
    assert_eq!(bench.names(), ["key", "other", "phrase"]);
}

#[test]
fn keys_that_cannot_be_are_refused_before_anything_is_made() {
    let bench = Bench::new();
    bench.secret("short", b"1234");
    let refused = |args: &[&str], part: &str| {
        bench.mkfs(&[&["a", "--size", "4M"], args].concat()).refused(1, &[part]);
    };
    refused(&[], "no key is given");
    refused(&["--key-file", "gone"], "No such file");
    refused(&["--key-file", "short"], "32 bytes or 64 hex digits");
    refused(&["--key-file", "key", "--passphrase-file", "key"], "key file and as passphrase file");
    refused(&["--platform", "sgx"], "cannot reach that platform");
    assert_eq!(bench.names(), ["key", "other", "phrase", "short"]);
}

#[test]
fn an_image_in_use_is_left_alone() {
    let bench = Bench::with_image();
    let held = fs::File::open(bench.path("a")).unwrap();
    held.lock().unwrap();
    let before = fs::read(bench.path("a")).unwrap();
    let pid = format!("(process {})", std::process::id());
    std::thread::scope(|scope| {
        // Each waits for the lock, so they wait together.
        scope.spawn(|| {
            let ran = bench.mkfs(&["a", "--size", "8M", "--key-file", "key", "--force"]);
            ran.refused(1, &["mkfs.sefs: a: it is in use by ", &pid]);
        });
        scope.spawn(|| bench.run(FSCK, &["a", "--key-file", "key", "-y"]).refused(8, &["it is in use by ", &pid]));
        scope.spawn(|| bench.debug(&["a", "--key-file", "key", "ls"]).refused(1, &["it is in use by ", &pid]));
    });
    assert_eq!(fs::read(bench.path("a")).unwrap(), before);
}

#[test]
fn a_full_host_leaves_nothing_behind() {
    let bench = Bench::new();
    fs::create_dir(bench.path("disk")).unwrap();
    if !is_root() || !shell("mount -t tmpfs -o size=600k sefs-test disk", &bench.path("")) {
        return skipped("only root can make a small filesystem");
    }
    let early = bench.mkfs(&["disk/a", "--from", "/bin", "--key-file", "key"]);
    let late = bench.mkfs(&["disk/a", "--size", "64M", "--key-file", "key"]);
    let left = fs::read_dir(bench.path("disk")).unwrap().count();
    assert!(shell("umount disk", &bench.path("")));
    early.refused(1, &["disk/a: the filesystem that is to hold it has ", " free, ", "put the image elsewhere"]);
    late.refused(1, &["disk/a: no space left on the filesystem that is to hold it"]);
    assert_eq!(left, 0);
}

#[test]
fn a_file_size_limit_is_an_error_and_not_death() {
    let bench = Bench::new();
    let line = format!("ulimit -f 1000; exec {MKFS} a --size 64M --key-file key");
    let ran = Ran::of(bench.command("sh", &["-c", &line]).output().unwrap());
    ran.refused(1, &["a: the system does not allow so large a file here", "ulimit -f"]);
    assert_eq!(bench.names(), ["key", "other", "phrase"]);
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    for number in 0..64 {
        fs::write(bench.path(&format!("src/{number}")), vec![number; 4 << 20]).unwrap();
    }
    let mut child = bench.command(MKFS, &["a", "--from", "src", "--key-file", "key"]);
    let child = child.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !bench.names().iter().any(|name| name.ends_with(".tmp")) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    // SIGINT stays ignored if whoever started the tests ignores it, a shell's background job say.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    ran.refused(1, &["a: interrupted; nothing was made"]);
    assert_eq!(bench.names(), ["key", "other", "phrase", "src"]);
}

#[test]
fn anchors_are_made_once_and_demanded_ever_after() {
    let bench = Bench::new();
    let anchor = ["--anchor", "file:anchor"];
    let made = bench.mkfs(&[&["a", "--size", "8M", "--key-file", "key"][..], &anchor].concat());
    made.succeeded();
    bench.debug(&["a", "--key-file", "key", "ls"]).refused(1, &["anchored"]);
    bench.debug(&[&["a", "--key-file", "key"][..], &anchor, &["ls"]].concat()).succeeded();
    bench.fsck(&[&["a", "--key-file", "key"][..], &anchor].concat()).succeeded();
    let before = fs::read(bench.path("anchor")).unwrap();
    let second = bench.mkfs(&[&["b", "--size", "8M", "--key-file", "key"][..], &anchor].concat());
    second.refused(1, &["anchor file:anchor: it exists"]);
    assert_eq!(fs::read(bench.path("anchor")).unwrap(), before);
    assert!(!bench.path("b").exists());
    bench.fsck(&["a", "--key-file", "key", "--anchor", "file:gone"]).refused(8, &["anchor", "never creates one"]);
    assert!(!bench.path("gone").exists());
}

#[test]
fn an_anchor_has_its_policy_wherever_it_is_named() {
    let bench = Bench::new();
    let args = ["a", "--size", "8M", "--key-file", "key", "--anchor-policy", "checkpoint"];
    bench.mkfs(&args).refused(1, &["--anchor-policy: the volume gets no anchor", "give --anchor"]);
    let made = bench.mkfs(&[&args[..], &["-o", "anchor=file:anchor", "--json"]].concat()).succeeded();
    assert_eq!(made.json()["anchor"], "file:anchor");
    let shown = bench.debug(&["a", "--key-file", "key", "--anchor", "file:anchor", "super", "--json"]).succeeded();
    assert_eq!(shown.json()["state"]["anchor"], "checkpoint");
}

#[test]
fn a_volume_that_fails_leaves_no_anchor() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/large"), vec![1; 5 << 20]).unwrap();
    let args = ["a", "--size", "6M", "--from", "src", "--key-file", "key", "--anchor", "file:anchor"];
    bench.mkfs(&args).refused(1, &["does not fit"]);
    assert_eq!(bench.names(), ["key", "other", "phrase", "src"]);
}

#[test]
fn on_a_block_device_all_of_it_is_used() {
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    fs::write(bench.path("src/hello"), "hello\n").unwrap();
    fs::write(bench.path("disk"), vec![0; 32 << 20]).unwrap();
    let Some(device) = LoopDevice::new(&bench, "disk") else { return skipped("no loop device can be made") };
    let made = bench.mkfs(&[&device.0, "--from", "src", "--key-file", "key", "--json"]).succeeded().json();
    assert_eq!(made["size_bytes"], 32 << 20);
    assert_eq!(bench.debug(&[&device.0, "--key-file", "key", "cat", "hello"]).succeeded().out, b"hello\n");
    bench.fsck(&[&device.0, "--key-file", "key", "--scrub"]).succeeded();
    let again = bench.mkfs(&[&device.0, "--key-file", "key"]);
    again.refused(1, &["it holds a SEFS volume", "--force"]);
    bench.mkfs(&[&device.0, "--size", "1G", "--key-file", "key", "--force"]).refused(1, &["the device has 32 MiB"]);
    bench.debug(&[&device.0, "--key-file", "key", "cat", "hello"]).succeeded();
    // A volume that is not completed leaves no half one, and not the old one in part either.
    fs::write(bench.path("src/large"), crate::bench::pattern(27 << 20)).unwrap();
    let failed = bench.mkfs(&[&device.0, "--from", "src", "--key-file", "key", "--force"]);
    failed.refused(1, &["does not fit", "a device of at least"]);
    bench.debug(&[&device.0, "--key-file", "key", "ls"]).refused(1, &["not a SEFS image"]);
}

#[test]
fn as_the_systems_helper_it_is_silent() {
    let bench = Bench::new();
    let mut command = bench.command(MKFS, &["a", "--size", "4M", "--key-file", "key"]);
    let ran = Ran::of(command.arg0("/sbin/mkfs.fuse.sefs").output().unwrap()).succeeded();
    assert_eq!((ran.text(), ran.err.as_str()), ("", ""));
    let mut command = bench.command(MKFS, &["b", "--size", "4M"]);
    Ran::of(command.env("SEFS_KEY_FILE", "key").output().unwrap()).succeeded();
    bench.mkfs(&["c", "--size", "4M", "-o", "key-file=key"]).succeeded();
    // A key file that others may read is worth a warning, but not where nothing but errors is to be said.
    fs::set_permissions(bench.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let args = ["d", "--size", "4M", "--key-file", "key"];
    assert_ne!(bench.mkfs(&args).succeeded().err, "");
    assert_eq!(bench.mkfs(&[&args[..], &["--force", "-q"]].concat()).succeeded().err, "");
}

/// A loop device on a file of the bench, given back at the end.
struct LoopDevice(String);

impl LoopDevice {
    fn new(bench: &Bench, name: &str) -> Option<LoopDevice> {
        if !is_root() {
            return None;
        }
        let output = bench.command("losetup", &["--find", "--show", name]).output().ok()?;
        let device = String::from_utf8(output.stdout).ok()?.trim().to_string();
        output.status.success().then_some(LoopDevice(device))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["-d", &self.0]).status();
    }
}
