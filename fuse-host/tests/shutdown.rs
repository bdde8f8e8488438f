//! The shutdown ioctl on a real mount. Needs root and /dev/fuse, as `mount.rs` does.
#![allow(unsafe_code, reason = "ioctl(2) has no safe form")]

mod stage;

use std::fs::{self, File};
use std::io::{Error, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use stage::{Mount, Stage};

mod command {
    #![allow(missing_docs, reason = "the macro takes no documentation")]
    nix::ioctl_read!(goingdown, b'X', 125, u32);
}

macro_rules! on_stage {
    ($stage:ident) => {
        let Some($stage) = Stage::new() else { return };
    };
}

fn shut_down(file: &File, mut flags: u32) -> nix::Result<i32> {
    // SAFETY: the command is given the address of 4 bytes that live until the call returns, which is what it asks for.
    unsafe { command::goingdown(file.as_raw_fd(), &raw mut flags) }
}

/// `a` is synced, `b` is written and stays in the kernel's cache.
fn written(mount: &Mount) -> File {
    let mut a = File::create(mount.path("a")).unwrap();
    a.write_all(&[1; 300_000]).unwrap();
    a.sync_all().unwrap();
    let mut b = File::create(mount.path("b")).unwrap();
    b.write_all(&[2; 300_000]).unwrap();
    b
}

fn is_eio<T>(outcome: std::io::Result<T>) -> bool {
    outcome.err().and_then(|error| error.raw_os_error()) == Some(nix::libc::EIO)
}

#[test]
fn after_it_every_request_fails_and_nothing_reaches_the_image() {
    on_stage!(stage);
    for flags in [0, 1, 2] {
        let mount = stage.mount(&[]);
        let mut b = written(&mount);
        shut_down(&File::open(mount.path("")).unwrap(), flags).unwrap();
        let image = fs::read(&stage.image).unwrap();

        assert!(is_eio(File::create(mount.path("c"))));
        assert!(is_eio(fs::remove_file(mount.path("a"))));
        assert!(is_eio(fs::create_dir(mount.path("d"))));
        assert!(is_eio(
            fs::read_dir(mount.path(""))
                .and_then(|mut entries| entries.next().unwrap_or_else(|| Err(Error::other("empty"))))
        ));
        let _ = b.write_all(&[3; 300_000]);
        assert!(is_eio(b.sync_all()));
        assert!(is_eio(File::open(mount.path("")).and_then(|dir| dir.sync_all())));
        assert_eq!(shut_down(&b, flags), Ok(0), "a second time");
        drop(b);
        // Longer than a group and a flush would take.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert!(fs::read(&stage.image).unwrap() == image, "the image changed after flag {flags}");
        mount.umount();
        assert!(fs::read(&stage.image).unwrap() == image, "the image changed at the unmount after flag {flags}");
        stage.check();

        let mount = stage.mount(&[]);
        let holds = |name, fill: u8| fs::read(mount.path(name)).is_ok_and(|content| content == vec![fill; 300_000]);
        assert!(holds("a", 1), "what was synced is gone after flag {flags}");
        assert!(flags != 0 || holds("b", 2), "what was to be flushed is gone");
        assert!(!mount.path("c").exists() && !mount.path("d").exists());
        mount.umount();
    }
}

#[test]
fn without_a_flush_what_is_in_the_kernels_cache_is_lost() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let b = written(&mount);
    // On any file of the mount.
    shut_down(&b, 2).unwrap();
    drop(b);
    mount.umount();
    let mount = stage.mount(&[]);
    let mut content = Vec::new();
    if let Ok(mut b) = File::open(mount.path("b")) {
        b.read_to_end(&mut content).unwrap();
    }
    assert_eq!(content, b"", "the flags did not arrive");
}

#[test]
fn other_flags_other_commands_and_other_users_are_refused() {
    on_stage!(stage);
    let mount = stage.mount(&["-o", "allow_other"]);
    let root = File::open(mount.path("")).unwrap();
    assert_eq!(shut_down(&root, 3), Err(nix::errno::Errno::EINVAL));
    let script = "import fcntl, os, sys; fcntl.ioctl(os.open('.', os.O_RDONLY), 0x8004587d, bytes(4))";
    let output =
        Command::new("python3").args(["-c", script]).current_dir(mount.path("")).uid(65_534).gid(65_534).output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("PermissionError"), "{said}");
        }
        Err(error) => stage::skipped(&format!("as another user: python3: {error}")),
    }
    fs::write(mount.path("f"), b"still up").unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"still up");
}
