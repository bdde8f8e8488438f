//! A real mount whose key a boot state opens and whose anchor is in a TPM, against a real swtpm. Needs root and /dev/fuse, as
//! `mount.rs` does.
#![cfg(feature = "tpm")]

mod stage;
#[path = "../../sealing/tests/swtpm/mod.rs"]
mod swtpm;

use std::ffi::OsString;
use std::fs;
use std::process::{Command, ExitCode};

use stage::Stage;
use swtpm::Swtpm;

/// Runs a tool's own function, as its binary does.
fn tool(run: fn(&[OsString]) -> ExitCode, line: &str) {
    let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    assert_eq!(run(&args), ExitCode::SUCCESS, "{line}");
}

fn output(command: &mut Command) -> (bool, String) {
    let output = command.env("TSS2_LOG", "all+NONE").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_mount_needs_its_boot_state_and_its_newest_state() {
    // It says loudly what is missing where there is no /dev/fuse.
    let Some(_stage) = Stage::new() else { return };
    let tpm = Swtpm::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("approver"), [7; 32]).unwrap();
    let (tcti, root) = (format!("swtpm:127.0.0.1:{}", tpm.port()), path("root.toml"));
    let init = format!("sealing tpm init --config {root} --signing-key {} --pcrs 7 --tcti {tcti}", path("approver"));
    tool(sefs_tools::sealing_tool::run, &init);
    let trust = format!("platform=tpm:config={root},allow-development,anchor=tpm:0x1500016@{tcti}");
    tool(sefs_tools::mkfs::run, &format!("mkfs.sefs {} --size 32M --quiet -o {trust}", path("image")));

    let point = folder.path().join("point");
    fs::create_dir(&point).unwrap();
    let mount = |image: &str| {
        output(Command::new(env!("CARGO_BIN_EXE_mount-sefs")).arg(path(image)).arg(&point).args(["-o", &trust]))
    };
    let umount = || assert!(output(Command::new("umount").arg(&point)).0);
    let mounted = |image: &str| {
        let (ok, text) = mount(image);
        assert!(ok, "{text}");
    };

    mounted("image");
    fs::write(point.join("file"), "first").unwrap();
    umount();
    mounted("image");
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "first");
    umount();
    // Once its lock can be had, the server has written all.
    tool(sefs_tools::fsck::run, &format!("fsck.sefs {} -n -o {trust}", path("image")));
    fs::copy(path("image"), path("yesterday")).unwrap();
    mounted("image");
    fs::write(point.join("file"), "second").unwrap();
    umount();
    tool(sefs_tools::fsck::run, &format!("fsck.sefs {} -n -o {trust}", path("image")));

    let (ok, text) = mount("yesterday");
    assert!(!ok && text.contains("roll"), "{text}");

    tpm.extend(7, 1);
    let (ok, text) = mount("image");
    assert!(!ok && text.contains("not approved") && text.contains("PCR 7"), "{text}");
    tool(
        sefs_tools::sealing_tool::run,
        &format!("sealing tpm approve --config {root} --signing-key {}", path("approver")),
    );
    mounted("image");
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "second");
    umount();
    tool(sefs_tools::fsck::run, &format!("fsck.sefs {} -n -o {trust}", path("image")));
}
