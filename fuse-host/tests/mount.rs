//! `mount.sefs` against this machine's kernel. These tests need root and /dev/fuse; without them each says so on standard
//! error, in a line that begins with `SKIPPED:`, and ends; `.ci/run` counts those lines.

mod stage;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::signal::Signal;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek64};

use stage::Stage;

/// Runs a test on a fresh volume, or says why not.
macro_rules! on_stage {
    ($stage:ident) => {
        let Some($stage) = Stage::new() else { return };
    };
}

#[test]
fn what_is_written_is_there_at_the_next_mount() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/f"), b"content").unwrap();
    fs::hard_link(mount.path("d/f"), mount.path("hard")).unwrap();
    symlink("d/f", mount.path("soft")).unwrap();
    fs::set_permissions(mount.path("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(mount.path("hard")).unwrap();
    mount.umount();

    let mount = stage.mount(&[]);
    assert_eq!(fs::read(mount.path("soft")).unwrap(), b"content");
    let after = fs::metadata(mount.path("hard")).unwrap();
    assert_eq!((after.ino(), after.nlink(), after.mode()), (before.ino(), 2, 0o100_640));
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    assert_eq!(fs::metadata(mount.path("")).unwrap().nlink(), 3);
}

#[test]
fn every_way_of_doing_io_mounts_the_same_volume() {
    on_stage!(stage);
    for (number, io) in ["sync", "uring", "uring-direct"].into_iter().enumerate() {
        let mount = stage.mount(&["-o", &format!("io={io}")]);
        let content: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 1000) as u8 ^ number as u8).collect();
        fs::write(mount.path(io), &content).unwrap();
        fs::File::open(mount.path(io)).unwrap().sync_all().unwrap();
        for earlier in fs::read_dir(mount.path("")).unwrap() {
            assert_eq!(fs::read(earlier.unwrap().path()).unwrap().len(), content.len());
        }
        mount.umount();
        let mount = stage.mount(&[]);
        assert!(fs::read(mount.path(io)).unwrap() == content, "{io}");
        mount.umount();
    }
}

#[test]
fn the_mount_table_shows_type_and_image_and_safe_options() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let line = mount.table_line().unwrap();
    assert_eq!(line.kind, "fuse.sefs");
    assert_eq!(line.source, stage.image.canonicalize().unwrap());
    for option in ["nosuid", "nodev"] {
        assert!(line.options.contains(&option.to_string()), "{:?}", line.options);
    }
    mount.umount();

    let mount = stage.mount(&["-o", "dev,suid,noatime"]);
    let line = mount.table_line().unwrap();
    assert!(!line.options.iter().any(|option| option == "nosuid" || option == "nodev"), "{:?}", line.options);
    assert!(line.options.contains(&"noatime".to_string()));
}

#[test]
fn fsync_holds_what_it_promises_when_the_server_is_killed() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::create(mount.path("synced")).unwrap();
    file.write_all(&[7; 300_000]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.kill();

    let mount = stage.mount(&[]);
    assert_eq!(fs::read(mount.path("synced")).unwrap(), vec![7; 300_000]);
}

#[test]
fn syncing_a_directory_makes_its_entries_durable() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("old"), b"1").unwrap();
    fs::rename(mount.path("old"), mount.path("new")).unwrap();
    File::open(mount.path("")).unwrap().sync_all().unwrap();
    mount.kill();

    let mount = stage.mount(&[]);
    assert!(!mount.path("old").exists());
    assert_eq!(fs::read(mount.path("new")).unwrap(), b"1");
}

#[test]
fn changes_are_flushed_within_a_second_without_being_asked() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::create_dir(mount.path("unsynced")).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    mount.kill();

    let mount = stage.mount(&[]);
    assert!(mount.path("unsynced").is_dir());
}

#[test]
fn many_callers_of_fsync_are_all_answered() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let path = mount.path(&format!("f{thread}"));
            scope.spawn(move || {
                let mut file = File::create(path).unwrap();
                for round in 0..20u8 {
                    file.write_all(&[round; 5000]).unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
    });
    for thread in 0..8 {
        assert_eq!(fs::metadata(mount.path(&format!("f{thread}"))).unwrap().len(), 100_000);
    }
}

/// An event loop does not sleep while requests come one after another; afterwards it does.
#[test]
fn a_mount_that_nobody_uses_takes_no_processor() {
    on_stage!(stage);
    for options in [&["-o", "busy-poll=off"], &["-o", "busy-poll=on"]] {
        let mount = stage.mount(options);
        for number in 0..1500 {
            let path = mount.path(&format!("f{}", number % 50));
            fs::write(&path, b"content").unwrap();
            fs::remove_file(path).unwrap();
        }
        // What is unflushed is flushed after a second.
        std::thread::sleep(Duration::from_secs(2));
        let before = mount.processor_time();
        std::thread::sleep(Duration::from_secs(1));
        let took = mount.processor_time() - before;
        assert!(took < Duration::from_millis(200), "{options:?}: {took:?} in an idle second");
        mount.umount();
    }
}

#[test]
fn a_signal_unmounts_and_closes() {
    on_stage!(stage);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mount = stage.mount(&[]);
        fs::write(mount.path("f"), signal.as_str()).unwrap();
        let ended = mount.signal(signal);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(ended.mounted.is_none());
        let mount = stage.mount(&[]);
        assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), signal.as_str());
        mount.umount();
    }
}

#[test]
fn a_busy_mount_is_detached_and_closes_when_its_user_lets_go() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"before ").unwrap();
    let waiting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        file.write_all(b"after").unwrap();
    });
    let ended = mount.signal(Signal::SIGTERM);
    waiting.join().unwrap();
    assert_eq!(ended.code, Some(0));
    assert!(ended.said.contains("is busy"), "{}", ended.said);
    let mount = stage.mount(&[]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"before after");
}

#[test]
fn a_mount_that_took_our_place_is_left_alone() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let point = mount.path("");
    nix::mount::umount(&point).unwrap();
    nix::mount::mount(Some("none"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    let ended = mount.wait();
    let kind = ended.mounted.map(|line| line.kind);
    nix::mount::umount(&point).unwrap();
    assert_eq!(kind.as_deref(), Some("tmpfs"));
    assert_eq!(ended.code, Some(0));
}

#[test]
fn an_aborted_connection_leaves_no_dead_mount() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("f"), b"x").unwrap();
    let minor = nix::sys::stat::minor(fs::metadata(mount.path("")).unwrap().dev());
    let connections = "/sys/fs/fuse/connections";
    if fs::read_dir(connections).unwrap().next().is_none() {
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), connections, Some("fusectl"), none, None::<&str>).unwrap();
    }
    fs::write(format!("{connections}/{minor}/abort"), "1").unwrap();
    let ended = mount.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.mounted.is_none());
    stage.mount(&[]).umount();
}

#[test]
fn in_the_background_it_returns_once_the_mount_is_up() {
    on_stage!(stage);
    let point = stage.point();
    let output = stage.command(&["--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stderr, b"");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["image"], stage.image.canonicalize().unwrap().to_str().unwrap());
    fs::write(point.join("f"), b"x").unwrap();
    nix::mount::umount(&point).unwrap();

    // The server may still be closing: the next one waits for its lock.
    let output = stage.command(&[]).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(0), &b""[..], &b""[..]));
    assert_eq!(fs::read(point.join("f")).unwrap(), b"x");
    nix::mount::umount(&point).unwrap();
}

#[test]
fn programs_are_told_what_failed_by_whichever_process() {
    on_stage!(stage);
    let key = stage.wrong_key();
    let options = ["--json", "--key-file", key.to_str().unwrap(), "-f"];
    for options in [&options[..], &options[..3]] {
        let output = stage.raw_command(&["{image}", "{dir}"], options).output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(32));
        assert!(told["error"]["reason"].as_str().unwrap().contains("wrong key"), "{told}");
        assert_eq!(output.stderr.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}

#[test]
fn a_process_that_is_killed_before_it_mounts_leaves_word() {
    on_stage!(stage);
    let first = stage.mount(&[]);
    // It waits for the image's lock.
    let other = stage.outside("other");
    fs::create_dir(&other).unwrap();
    let mut command = stage.raw_command(&["{image}", other.to_str().unwrap()], &["{key}", "--json"]);
    let parent = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    let child = loop {
        if let Ok(child) = fs::read_to_string(&children).unwrap().trim().parse() {
            break child;
        }
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
    let output = parent.wait_with_output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["error"]["reason"].as_str().unwrap().contains("ended"), "{told}");
    assert_eq!(output.status.code(), Some(8));
    assert_eq!(output.stderr.iter().filter(|byte| **byte == b'\n').count(), 1);
    first.umount();
}

#[test]
fn failures_have_the_codes_of_mount_and_one_line() {
    on_stage!(stage);
    let key = stage.wrong_key();
    let wrong_key = ["--key-file", key.to_str().unwrap()];
    let cases: [(&[&str], &[&str], i32, &str); 5] = [
        (&["/nonexistent", "{dir}"], &["{key}"], 32, "/nonexistent: No such file or directory; check the path"),
        (&["{image}", "/nonexistent"], &["{key}"], 32, "cannot mount on /nonexistent"),
        (&["{image}", "{dir}"], &wrong_key, 32, "wrong key"),
        (&["{image}", "{dir}"], &[], 1, "no key is given"),
        (&["{image}", "{dir}"], &["{key}", "-o", "allow_root"], 1, "allow_root"),
    ];
    for (places, options, code, words) in cases {
        let output = stage.raw_command(places, options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.starts_with("mount.sefs: ") && said.contains(words), "{said}");
        assert_eq!((said.lines().count(), output.stdout.len()), (1, 0), "{said}");
    }
}

#[test]
fn read_only_means_that_nothing_changes() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("f"), b"x").unwrap();
    mount.umount();
    let before = fs::read(&stage.image).unwrap();
    let mount = stage.mount(&["-o", "ro"]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    assert_eq!(fs::write(mount.path("g"), b"x").unwrap_err().raw_os_error(), Some(nix::libc::EROFS));
    mount.umount();
    assert!(fs::read(&stage.image).unwrap() == before, "the image changed");
}

/// A server that was killed leaves a log. Who only looks replays it in memory.
#[test]
fn read_only_replays_a_log_and_changes_nothing() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::create(mount.path("f")).unwrap();
    for turn in 0..8 {
        file.write_all(&[turn; 50_000]).unwrap();
        file.sync_all().unwrap();
    }
    drop(file);
    mount.kill();
    let before = fs::read(&stage.image).unwrap();
    assert!(stage.replayed_groups() > 0, "there is something to replay");
    for _ in 0..2 {
        let mount = stage.mount(&["-o", "ro"]);
        let content: Vec<u8> = (0..8).flat_map(|turn| [turn; 50_000]).collect();
        assert!(fs::read(mount.path("f")).unwrap() == content);
        assert_eq!(fs::remove_file(mount.path("f")).unwrap_err().raw_os_error(), Some(nix::libc::EROFS));
        mount.umount();
        assert!(fs::read(&stage.image).unwrap() == before, "a byte of the image changed");
    }
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::options().create_new(true).read(true).write(true).open(mount.path("f")).unwrap();
    file.write_all(&[1; 100_000]).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    // Long enough for the background work to take it, if it took it for unused.
    std::thread::sleep(Duration::from_millis(300));
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![1; 100_000]);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}

#[test]
fn holes_are_found_though_the_kernel_has_not_written_its_pages() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let file = File::options().create_new(true).read(true).write(true).open(mount.path("f")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    assert_eq!(lseek64(&file, 0, Whence::SeekData).unwrap(), 0);
    assert_eq!(lseek64(&file, 0, Whence::SeekHole).unwrap(), 4096);
    assert_eq!(lseek64(&file, 4096, Whence::SeekData).unwrap(), 1 << 20);
    assert_eq!(lseek64(&file, 1 << 20, Whence::SeekHole).unwrap(), (1 << 20) + 3);
    assert_eq!(lseek64(&file, 2 << 20, Whence::SeekData).unwrap_err(), nix::errno::Errno::ENXIO);
}

#[test]
fn fallocate_as_far_as_the_kernel_lets_it_through() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let file = File::options().create_new(true).read(true).write(true).open(mount.path("f")).unwrap();
    file.write_all_at(&[9; 65_536], 0).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 5_000, 20_000).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 60_000, 10_000).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 100_000, 50_000).unwrap();
    let mut expected = vec![9; 70_000];
    expected[5_000..25_000].fill(0);
    expected[60_000..70_000].fill(0);
    assert!(fs::read(mount.path("f")).unwrap() == expected);
    let collapse = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096).unwrap_err();
    assert_eq!(collapse, nix::errno::Errno::EOPNOTSUPP);
}

#[test]
fn rename_with_flags() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("a"), b"a").unwrap();
    fs::write(mount.path("b"), b"b").unwrap();
    let rename =
        |flags| renameat2(nix::fcntl::AT_FDCWD, &mount.path("a"), nix::fcntl::AT_FDCWD, &mount.path("b"), flags);
    assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Err(nix::errno::Errno::EEXIST));
    rename(RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"b");
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"a");
}

#[test]
fn privileges_go_when_another_writes() {
    on_stage!(stage);
    let mount = stage.mount(&["-o", "allow_other,suid"]);
    fs::set_permissions(mount.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let as_user = |script: &str| {
        let status =
            Command::new("sh").arg("-c").arg(script).current_dir(mount.path("")).uid(65_534).gid(65_534).status();
        assert!(status.unwrap().success(), "{script}");
    };
    // Asks the kernel for the mode alone, which it may have in its cache; execve(2) takes it from there too.
    let mode = || {
        let output = Command::new("stat").args(["-c", "%a"]).arg(mount.path("f")).output().unwrap();
        u32::from_str_radix(String::from_utf8(output.stdout).unwrap().trim(), 8).unwrap()
    };
    for change in ["echo more >>f", "truncate -s 1 f", "chown :65534 f", "fallocate -l 9000 f", "fallocate -pl 1 f"] {
        as_user("rm -f f; echo x >f; chmod 6755 f");
        assert_eq!(mode(), 0o6755);
        as_user(change);
        assert_eq!(mode(), 0o755, "{change}");
    }
    // Capabilities go with any write, even root's.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(mount.path("f"), "security.capability", &capability).unwrap();
    assert!(xattr::get(mount.path("f"), "security.capability").unwrap().is_some());
    OpenOptions::new().append(true).open(mount.path("f")).unwrap().write_all(b"x").unwrap();
    assert_eq!(xattr::get(mount.path("f"), "security.capability").unwrap(), None);
}

#[test]
fn others_enter_only_where_they_may() {
    on_stage!(stage);
    let mount = stage.mount(&["-o", "allow_other"]);
    fs::write(mount.path("secret"), b"x").unwrap();
    fs::set_permissions(mount.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(mount.path("open"), b"x").unwrap();
    let cat = |name: &str| {
        let path = mount.path(name);
        Command::new("cat").arg(path).uid(65_534).gid(65_534).output().unwrap().status.success()
    };
    assert!(cat("open"));
    assert!(!cat("secret"));
    mount.umount();

    let mount = stage.mount(&[]);
    let path = mount.path("open");
    assert!(!Command::new("cat").arg(path).uid(65_534).gid(65_534).output().unwrap().status.success());
}

#[test]
fn default_acls_replace_the_umask() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::create_dir(mount.path("d")).unwrap();
    // Version 2; owner rwx, user 1 rw-, group r-x, mask rwx, other ---.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [(1u16, 7u16, u32::MAX), (2, 6, 1), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)] {
        acl.extend(tag.to_le_bytes().into_iter().chain(perm.to_le_bytes()).chain(id.to_le_bytes()));
    }
    xattr::set(mount.path("d"), "system.posix_acl_default", &acl).unwrap();
    File::options().create_new(true).write(true).mode(0o666).open(mount.path("d/f")).unwrap();
    assert_eq!(fs::metadata(mount.path("d/f")).unwrap().mode() & 0o777, 0o660);
    assert!(xattr::get(mount.path("d/f"), "system.posix_acl_access").unwrap().is_some());
    File::options().create_new(true).write(true).mode(0o666).open(mount.path("plain")).unwrap();
    assert_eq!(fs::metadata(mount.path("plain")).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn extended_attributes_and_the_time_of_creation() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("f"), b"x").unwrap();
    xattr::set(mount.path("f"), "user.a", b"value").unwrap();
    xattr::set(mount.path("f"), "user.long", &[7; 4000]).unwrap();
    let mut names: Vec<_> = xattr::list(mount.path("f")).unwrap().collect();
    names.sort();
    assert_eq!(names, ["user.a", "user.long"]);
    assert_eq!(xattr::get(mount.path("f"), "user.long").unwrap(), Some(vec![7; 4000]));
    xattr::remove(mount.path("f"), "user.a").unwrap();
    assert_eq!(xattr::get(mount.path("f"), "user.a").unwrap(), None);

    let text = xattr::get(mount.path("f"), "system.sefs.btime").unwrap().unwrap();
    let seconds: f64 = String::from_utf8(text).unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - seconds).abs() < 60.0, "{seconds} {now}");
    assert!(xattr::set(mount.path("f"), "system.sefs.btime", b"0").is_err());
}

#[test]
fn special_files() {
    on_stage!(stage);
    let mount = stage.mount(&["-o", "dev"]);
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    mknod(&mount.path("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    mknod(&mount.path("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).unwrap();
    fs::write(mount.path("null"), b"gone").unwrap();
    assert_eq!(fs::metadata(mount.path("null")).unwrap().rdev(), makedev(1, 3));
    assert!(fs::metadata(mount.path("fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn times_before_1970_and_after_2038_are_kept() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("f"), b"").unwrap();
    for (seconds, nanoseconds) in [(-2, 800_000_000), (-1, 1), (1 << 33, 999_999_999), (0, 0)] {
        let time = TimeSpec::new(seconds, nanoseconds);
        let here = nix::fcntl::AT_FDCWD;
        utimensat(here, &mount.path("f"), &time, &time, UtimensatFlags::FollowSymlink).unwrap();
        // An unlinked directory entry and a new one make the kernel ask the server again.
        fs::rename(mount.path("f"), mount.path("g")).unwrap();
        fs::rename(mount.path("g"), mount.path("f")).unwrap();
        let metadata = fs::metadata(mount.path("f")).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (seconds, nanoseconds));
    }
}

/// fuser 0.18.0 cannot hold this time and panics before this crate sees the request.
#[test]
fn a_request_that_kills_an_event_loop_does_not_cost_the_volume() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::write(mount.path("f"), b"kept").unwrap();
    let path = mount.path("f");
    let victim = std::thread::spawn(move || {
        let time = TimeSpec::new(i64::MIN, 1);
        utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, UtimensatFlags::FollowSymlink)
    });
    let ended = mount.wait();
    assert!(victim.join().unwrap().is_err());
    assert!(ended.said.contains("internal error"), "{}", ended.said);
    assert!(ended.mounted.is_none());
    let mount = stage.mount(&[]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"kept");
}

#[test]
fn a_directory_of_thousands_lists_each_name_once() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    fs::create_dir(mount.path("d")).unwrap();
    for number in 0..3000 {
        File::create(mount.path(&format!("d/{number}"))).unwrap();
    }
    let list = |mount: &stage::Mount| {
        let mut names: Vec<u32> = fs::read_dir(mount.path("d"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert!(entry.metadata().unwrap().is_file());
                entry.file_name().to_str().unwrap().parse().unwrap()
            })
            .collect();
        names.sort_unstable();
        names
    };
    let all: Vec<u32> = (0..3000).collect();
    assert_eq!(list(&mount), all);
    mount.umount();
    let mount = stage.mount(&["-o", "memory=4M"]);
    assert_eq!(list(&mount), all);
}

#[test]
fn a_full_volume_says_so_and_recovers() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::create(mount.path("big")).unwrap();
    // The kernel takes what fits its cache; whoever asks for durability is told.
    let failure = (0..100).find_map(|_| file.write_all(&[5; 1 << 20]).err()).or_else(|| file.sync_all().err());
    assert_eq!(failure.expect("the volume has 64 MiB").raw_os_error(), Some(nix::libc::ENOSPC));
    drop(file);
    fs::remove_file(mount.path("big")).unwrap();
    let mut file = File::create(mount.path("small")).unwrap();
    file.write_all(&[6; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.umount();
    let mount = stage.mount(&[]);
    assert_eq!(fs::read(mount.path("small")).unwrap(), vec![6; 1 << 20]);
}

/// The key is a platform's, the anchor a file: what opens, what does not, and yesterday's copy, with the real mount.
#[test]
fn a_platform_and_an_anchor_guard_a_mount() {
    on_stage!(stage);
    let (image, yesterday, point) = (stage.outside("sealed"), stage.outside("yesterday"), stage.point());
    let anchor = format!("file:{}", stage.outside("anchor").display());
    let code = |digit: &str, version| format!("sgx-sim:mrenclave={},isvsvn={version}", digit.repeat(64));
    let trust = |code: String| {
        ["--platform".to_string(), code, "--allow-development".into(), "--anchor".into(), anchor.clone()]
    };
    let made = ["mkfs.sefs".to_string(), image.display().to_string(), "--size".into(), "32M".into(), "-q".into()];
    let made: Vec<std::ffi::OsString> =
        made.into_iter().chain(trust(code("1", 2))).map(std::ffi::OsString::from).collect();
    assert_eq!(sefs_tools::mkfs::run(&made), std::process::ExitCode::SUCCESS);
    let mount = |image: &Path, code: String| {
        let tool =
            Command::new(env!("CARGO_BIN_EXE_mount-sefs")).arg(image).arg(&point).args(trust(code)).output().unwrap();
        (tool.status.success(), String::from_utf8_lossy(&tool.stderr).into_owned())
    };
    let umount = || {
        assert!(Command::new("umount").arg(&point).status().unwrap().success());
        // Whoever gets the lock knows that the server has written all.
        drop(sefs_tools::Image::open_within(&image, sefs_tools::ImageUse::ReadWrite, Duration::from_secs(60)).unwrap());
    };
    let mounted = |code: String| {
        let (done, said) = mount(&image, code);
        assert!(done && said.contains("its keys are no secret"), "{said}");
    };
    mounted(code("1", 2));
    fs::write(point.join("file"), "first").unwrap();
    umount();
    fs::copy(&image, &yesterday).unwrap();
    mounted(code("1", 3));
    assert_eq!(fs::read(point.join("file")).unwrap(), b"first");
    fs::write(point.join("file"), "second").unwrap();
    umount();

    let (done, said) = mount(&yesterday, code("1", 2));
    assert!(!done && said.contains("rolled back") && said.contains("put the newest image back"), "{said}");
    for other in [code("1", 1), code("2", 2)] {
        let (done, said) = mount(&image, other);
        assert!(!done && said.contains("wrong key"), "{said}");
    }
    mounted(code("1", 2));
    assert_eq!(fs::read(point.join("file")).unwrap(), b"second");
    umount();
}

/// The kernel tells of a close later than of what comes after it: whoever closed and removed a file has its space.
#[test]
fn what_is_closed_a_moment_later_gives_its_space() {
    on_stage!(stage);
    let mount = stage.mount(&[]);
    let mut file = File::create(mount.path("big")).unwrap();
    while file.write_all(&[5; 1 << 20]).is_ok() {}
    let _ = file.sync_all();
    fs::remove_file(mount.path("big")).unwrap();
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        drop(file);
    });
    File::create(mount.path("small")).unwrap();
    closing.join().unwrap();
    mount.umount();
}
