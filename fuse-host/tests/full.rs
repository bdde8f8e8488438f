//! A full volume on a real mount: whoever writes learns of it, nothing that was acknowledged is lost, deleting works, and
//! what was deleted can be had again. Needs root and /dev/fuse, as `mount.rs` does.

mod stage;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use stage::{Mount, Stage};

/// Bytes of the volume.
const SIZE: u64 = 64 << 20;
/// What the kernel may accept beyond what fits: its own limit for this mount, and one write.
const OVERSHOOT: u64 = 16 << 20;

macro_rules! on_stage {
    ($stage:ident) => {
        let Some($stage) = Stage::new() else { return };
    };
}

/// Writes until the first error, at most twice what there is; the bytes that were accepted.
fn fill(file: &mut File, piece: &[u8]) -> u64 {
    let mut accepted = 0;
    while accepted < 2 * SIZE {
        match file.write_all(piece) {
            Ok(()) => accepted += piece.len() as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "after {accepted} bytes");
                return accepted;
            }
        }
    }
    panic!("{accepted} bytes were accepted and no error came");
}

/// Bytes that writers can have.
fn available(mount: &Mount) -> u64 {
    let stat = statvfs(&mount.path("")).unwrap();
    stat.blocks_available() * stat.fragment_size()
}

/// Fills a volume so that less than `left` bytes are left.
fn fill_up_to(mount: &Mount, left: u64) {
    let mut file = File::create(mount.path("filler")).unwrap();
    let piece = vec![1; 1 << 20];
    while available(mount) > left + (1 << 20) {
        file.write_all(&piece).unwrap();
        file.sync_data().unwrap();
    }
}

#[test]
fn a_writer_that_never_syncs_learns_that_the_volume_is_full() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    // Opened while all was free, and by a name that is there already: the kernel asks nothing when it opens it.
    fs::write(mount.path("f"), b"").unwrap();
    let mut file = OpenOptions::new().write(true).open(mount.path("f")).unwrap();
    let accepted = fill(&mut file, &[5; 1 << 20]);
    assert!(accepted < SIZE + OVERSHOOT, "{accepted} bytes");
    // It stays so, and nothing wrote past what was accepted.
    assert_eq!(file.write(&[5; 4096]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.metadata().unwrap().len(), accepted);
    drop(file);
    mount.umount();
    stage.check();

    let mount = stage.mount(&[]);
    assert!(fs::read(mount.path("f")).unwrap().iter().all(|byte| *byte == 5));
    fs::remove_file(mount.path("f")).unwrap();
    fs::write(mount.path("g"), vec![6; 1 << 20]).unwrap();
    mount.umount();
    stage.check();
}

#[test]
fn a_loop_of_small_appends_learns_it_too_and_goes_on_once_there_is_room() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut log = OpenOptions::new().create(true).append(true).open(mount.path("log")).unwrap();
    log.write_all(b"opened while there was space\n").unwrap();
    fill_up_to(&mount, 2 << 20);
    let accepted = fill(&mut log, &[b'x'; 1000]);
    assert!(accepted < 16 << 20, "{accepted} bytes");
    fs::remove_file(mount.path("filler")).unwrap();
    log.write_all(b"end").unwrap();
    log.sync_all().unwrap();
    drop(log);
    let text = fs::read(mount.path("log")).unwrap();
    assert!(text.starts_with(b"opened") && text.ends_with(b"xend"));
}

#[test]
fn programs_say_that_no_space_is_left() {
    on_stage!(stage);
    let source = stage.outside("big");
    fs::write(&source, vec![7; 80 << 20]).unwrap();
    let archive = stage.outside("archive");
    let made = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(source.parent().unwrap()).arg("big").status();
    assert!(made.unwrap().success());
    let mount = stage.mount(&[]);
    let scripts = [
        "dd if=/dev/zero of=f bs=1M",
        "dd if=/dev/zero of=f bs=1M conv=notrunc",
        "cp \"$1\" f",
        "cat \"$1\" >f",
        "tar -xf \"$2\"",
        "exec 3>f; while :; do head -c 300000 /dev/zero >&3 || exit; done",
    ];
    for script in scripts {
        // The file is there while all is free.
        let script = format!("export LC_ALL=C; : >f; {script}");
        let output = Command::new("timeout")
            .args(["60", "sh", "-c", &script, "sh"])
            .args([&source, &archive])
            .current_dir(mount.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.status.code() != Some(124), "{script}: {:?}: {said}", output.status);
        assert!(said.contains("No space left on device"), "{script}: {said}");
        for name in ["f", "big"] {
            let _ = fs::remove_file(mount.path(name));
        }
    }
    mount.umount();
    stage.check();
}

#[test]
fn what_was_synced_before_the_volume_was_full_stays() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::create(mount.path("synced")).unwrap();
    let mut acknowledged = 0;
    for number in 0..=u8::MAX {
        let outcome = file.write_all(&[number; 500_000]).and_then(|()| file.sync_data());
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            break;
        }
        acknowledged += 1;
    }
    assert!(acknowledged > 60);
    mount.kill();

    stage.check();
    let mount = stage.mount(&[]);
    let mut file = File::open(mount.path("synced")).unwrap();
    for number in 0..acknowledged {
        let mut piece = vec![0; 500_000];
        file.read_exact(&mut piece).unwrap();
        assert!(piece.iter().all(|byte| *byte == number), "piece {number} of {acknowledged}");
    }
}

#[test]
fn promised_space_is_there_when_nothing_else_is() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let promised = File::create(mount.path("promised")).unwrap();
    fallocate(&promised, FallocateFlags::empty(), 0, 2 << 20).unwrap();
    let mut filler = File::create(mount.path("filler")).unwrap();
    fill(&mut filler, &[1; 1 << 20]);
    for at in 0..8 {
        promised.write_all_at(&[9; 256 << 10], at * (256 << 10)).unwrap();
    }
    promised.sync_all().unwrap();
    drop((promised, filler));
    mount.umount();
    stage.check();
    let mount = stage.mount(&[]);
    assert!(fs::read(mount.path("promised")).unwrap() == vec![9; 2 << 20]);
}

#[test]
fn filled_and_emptied_twenty_times_it_has_the_space_it_began_with() {
    let Some(stage) = Stage::of_size(32 << 20) else { return };
    let mount = stage.mount(&[]);
    fs::create_dir(mount.path("d")).unwrap();
    let began = available(&mount);
    let piece = vec![3; 1 << 20];
    for round in 0..20 {
        let accepted = if round % 2 == 0 {
            fill(&mut File::create(mount.path("d/big")).unwrap(), &piece)
        } else {
            fill_with_files(&mount.path("d"), &piece)
        };
        assert!(accepted > began / 10 * 8, "round {round}: only {accepted} bytes fitted");
        for entry in fs::read_dir(mount.path("d")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    // What is given back is counted by the background work and by whoever asks.
    let ended = (0..100).map(|_| settled(&mount)).find(|ended| *ended >= began);
    assert_eq!(ended, Some(began));
    mount.umount();
    stage.check();
    let mount = stage.mount(&[]);
    assert_eq!(available(&mount), began);
}

fn settled(mount: &Mount) -> u64 {
    std::thread::sleep(std::time::Duration::from_millis(20));
    available(mount)
}

/// Makes files of many sizes until there is no space; the bytes that were accepted.
fn fill_with_files(dir: &Path, content: &[u8]) -> u64 {
    let mut accepted = 0;
    for number in 0.. {
        let len = [100, 3000, 70_000, 9000, 300_000][number % 5];
        match fs::write(dir.join(number.to_string()), &content[..len]) {
            Ok(()) => accepted += len as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                return accepted;
            }
        }
        assert!(accepted < 2 * SIZE);
    }
    accepted
}
