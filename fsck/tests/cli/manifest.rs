//! The manifest: one digest of everything, and proofs that need neither image nor key.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::bench::{Bench, Ran};

fn bench() -> Bench {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("src/usr/bin")).unwrap();
    fs::write(bench.path("src/usr/bin/dash"), "shell").unwrap();
    fs::set_permissions(bench.path("src/usr/bin/dash"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(bench.path("src/usr/bin/dash"), bench.path("src/usr/bin/rbash")).unwrap();
    symlink("dash", bench.path("src/usr/bin/sh")).unwrap();
    symlink("/usr/bin", bench.path("src/bin")).unwrap();
    fs::write(bench.path("src/other"), "other").unwrap();
    bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    bench
}

fn debug(bench: &Bench, image: &str, more: &[&str]) -> Ran {
    bench.debug(&[&[image, "--key-file", "key"], more].concat())
}

fn root(bench: &Bench, image: &str) -> String {
    let shown = debug(bench, image, &["manifest", "--json"]).succeeded().json();
    shown["manifest_root"].as_str().unwrap().to_string()
}

/// Of what is sealed again only the times differ, and they are not on the list.
#[test]
fn the_same_content_has_the_same_root_and_any_change_another() {
    let bench = bench();
    let first = root(&bench, "a");
    bench.mkfs(&["b", "--from", "src", "--passphrase-file", "phrase", "-q"]).succeeded();
    let shown = bench.debug(&["b", "--passphrase-file", "phrase", "manifest"]).succeeded();
    assert_eq!(shown.text(), format!("manifest root {first}\n8 entries\n"));
    let mut roots = std::collections::BTreeSet::from([first]);
    let changes: [&dyn Fn(); 4] = [
        &|| fs::write(bench.path("src/other"), "0ther").unwrap(),
        &|| fs::set_permissions(bench.path("src/other"), fs::Permissions::from_mode(0o4755)).unwrap(),
        &|| fs::rename(bench.path("src/other"), bench.path("src/another")).unwrap(),
        &|| fs::copy(bench.path("src/usr/bin/dash"), bench.path("src/usr/bin/rbash")).map(drop).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        if number == 3 {
            fs::remove_file(bench.path("src/usr/bin/rbash")).unwrap();
        }
        change();
        bench.mkfs(&["c", "--from", "src", "--key-file", "key", "-q", "--force"]).succeeded();
        assert!(roots.insert(root(&bench, "c")), "change {number} is not seen");
    }
}

#[test]
fn a_proof_shows_what_a_path_leads_to() {
    let bench = bench();
    let root = root(&bench, "a");
    debug(&bench, "a", &["prove", "/bin/sh", "usr/bin/rbash", "-O", "proof"]).succeeded();
    // On another machine: no image, no key.
    fs::remove_file(bench.path("a")).unwrap();
    fs::remove_file(bench.path("key")).unwrap();
    let shown = bench.debug(&["proof", "verify-proof", &root]).succeeded();
    let lines: Vec<&str> = shown.text().lines().collect();
    assert_eq!(lines.len(), 4, "{shown:?}");
    assert!(lines[0].starts_with("/bin: symbolic link to /usr/bin"), "{shown:?}");
    let digest = sefs_manifest::sha256(&[b"shell"]).map(|byte| format!("{byte:02x}")).concat();
    assert!(lines[1].starts_with("/usr/bin/dash: regular file, 0755 "), "{shown:?}");
    assert!(lines[1].ends_with(&format!("5 bytes, sha256 {digest}")), "{shown:?}");
    assert_eq!(lines[2], "/usr/bin/rbash: another name of /usr/bin/dash");
    assert!(lines[3].starts_with("/usr/bin/sh: symbolic link to dash"), "{shown:?}");
    let json = bench.debug(&["proof", "verify-proof", "--json", &root]).succeeded().json_lines();
    assert_eq!((json.len(), json[1]["sha256"].as_str()), (4, Some(&*digest)));

    let other = root.replace(|digit: char| digit != '0', "0");
    bench.debug(&["proof", "verify-proof", &other]).refused(1, &["proof: the proof does not hold", "another proof"]);
    let len = fs::metadata(bench.path("proof")).unwrap().len();
    for at in [9, 40, len / 2, len - 1] {
        bench.flip("proof", at);
        bench.debug(&["proof", "verify-proof", &root]).refused(1, &["the proof does not hold"]);
        bench.flip("proof", at);
    }
    bench.debug(&["proof", "verify-proof", "abc"]).refused(2, &["64 hex digits"]);
    bench.debug(&["none", "verify-proof", &root]).refused(1, &["none: No such file"]);
}

#[test]
fn what_is_not_there_cannot_be_proved() {
    let bench = bench();
    symlink("loop", bench.path("src/loop")).unwrap();
    bench.mkfs(&["b", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    let prove = |path: &str, why: &str| debug(&bench, "b", &["prove", path, "-O", "proof"]).refused(1, &[path, why]);
    prove("/nowhere", "it is not in the volume");
    prove("/other/x", "a part of it is no directory");
    prove("loop", "too many symbolic links");
    assert!(!bench.path("proof").exists());
    debug(&bench, "b", &["prove", "/", "..", "-O", "proof"]).succeeded();
    let shown = bench.debug(&["proof", "verify-proof", &root(&bench, "b")]).succeeded();
    assert!(shown.text().starts_with("/: directory, "), "{shown:?}");
}
