//! Opening an image: a regular file, a block device, or a loop device with a file behind it.
//!
//! *Invariants*: one writer, or any number of readers. The lock is flock(2), on the file and, for a loop device, on the
//! file behind it too, so that both ways to one image exclude each other. A block device is opened exclusively for
//! writing, which the kernel refuses while it is mounted. umount(8) returns before a FUSE server has finished, so a lock
//! is waited for, and then the one who holds it is named.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc::{O_CLOEXEC, O_EXCL};
use nix::sys::stat::{major, minor};

use crate::report::Failure;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageUse {
    /// Reading; others may read too.
    ReadOnly,
    /// Writing; nobody else may have it open.
    ReadWrite,
}

/// An open, locked image. Dropping it unlocks.
pub struct Image {
    /// The path as the caller gave it.
    pub path: PathBuf,
    /// What it was opened for.
    pub image_use: ImageUse,
    /// The image itself, locked.
    file: File,
    /// The file behind a loop device, locked.
    _backing: Option<File>,
}

impl Image {
    /// Opens and locks `path`, waiting for [`PATIENCE`] if somebody holds it.
    pub fn open(path: &Path, image_use: ImageUse) -> Result<Image, Failure> {
        Image::open_within(path, image_use, PATIENCE)
    }

    /// The same with another patience.
    pub fn open_within(path: &Path, image_use: ImageUse, patience: Duration) -> Result<Image, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let file = open_file(path, image_use, deadline)?;
            let backing = match backing_file(Path::new("/sys"), &file).map_err(|error| Failure::io(path, &error))? {
                Some(behind) => Some(lock_path(&behind, image_use, deadline)?),
                None => None,
            };
            lock(&file, path, image_use, deadline)?;
            // A tool that replaces the image may have done so while we waited; then what we hold is no longer it.
            if still_there(&file, path) {
                return Ok(Image { path: path.to_path_buf(), image_use, file, _backing: backing });
            }
        }
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Locks a file that a tool made itself, as mkfs.sefs does before it fills it.
pub fn lock_new(file: &File, path: &Path) -> Result<(), Failure> {
    lock(file, path, ImageUse::ReadWrite, Instant::now())
}

/// How long a tool waits for an image that is in use.
pub const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

fn open_file(path: &Path, image_use: ImageUse, deadline: Instant) -> Result<File, Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| unopened(path, &error))?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Failure::new(path.display(), "neither a file nor a block device").way_out("check the path"));
    }
    let writing = image_use == ImageUse::ReadWrite;
    let exclusive = if writing && kind.is_block_device() { O_EXCL } else { 0 };
    loop {
        let opened = OpenOptions::new().read(true).write(writing).custom_flags(exclusive | O_CLOEXEC).open(path);
        match opened {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(POLL);
            }
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(in_use(path, &metadata)),
            Err(error) => return Err(unopened(path, &error)),
        }
    }
}

fn lock_path(path: &Path, image_use: ImageUse, deadline: Instant) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| unopened(path, &error))?;
    lock(&file, path, image_use, deadline)?;
    Ok(file)
}

fn lock(file: &File, path: &Path, image_use: ImageUse, deadline: Instant) -> Result<(), Failure> {
    loop {
        let outcome = match image_use {
            ImageUse::ReadOnly => file.try_lock_shared(),
            ImageUse::ReadWrite => file.try_lock(),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => {
                let metadata = file.metadata().map_err(|error| Failure::io(path, &error))?;
                return Err(in_use(path, &metadata));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::io(path, &error)),
        }
    }
}

fn still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        // What is not there any more is what we hold; opening said so when it was not there before.
        _ => true,
    }
}

/// The file behind a loop device, as sysfs names it. `None` for everything else, and for a file that has no name any
/// more: nobody can open that one beside us.
fn backing_file(sysfs: &Path, file: &File) -> io::Result<Option<PathBuf>> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(None);
    }
    backing_file_of(sysfs, major(metadata.rdev()), minor(metadata.rdev()))
}

fn backing_file_of(sysfs: &Path, major: u64, minor: u64) -> io::Result<Option<PathBuf>> {
    let device = sysfs.join(format!("dev/block/{major}:{minor}"));
    // The second is for a partition of a loop device.
    for place in ["loop/backing_file", "../loop/backing_file"] {
        match std::fs::read(device.join(place)) {
            Ok(mut bytes) => {
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                }
                let path = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes));
                return Ok(path.exists().then_some(path));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn unopened(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::io(path, error);
    match error.kind() {
        io::ErrorKind::NotFound => failure.way_out("check the path"),
        io::ErrorKind::PermissionDenied => failure.way_out("check its permissions, or run as its owner"),
        io::ErrorKind::ReadOnlyFilesystem => failure.way_out("open it read-only"),
        _ => failure,
    }
}

fn in_use(path: &Path, metadata: &std::fs::Metadata) -> Failure {
    let reason = match holder(metadata) {
        Some(holder) => format!("it is in use by {} (process {})", holder.command, holder.pid),
        None => "it is in use by another process".to_string(),
    };
    Failure::new(path.display(), reason).way_out("unmount it or wait for that to finish")
}

/// A process that holds a lock or has the image open.
struct Holder {
    pid: u32,
    command: String,
}

/// Asks /proc/locks first. The process that took a lock may have handed it to its child and ended, as daemons do; then
/// whoever else has the file open is named.
fn holder(metadata: &std::fs::Metadata) -> Option<Holder> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let locked =
        lock_holders(&locks, metadata).into_iter().find_map(|pid| Some(Holder { pid, command: command(pid)? }));
    locked.or_else(|| opener(metadata))
}

/// The processes that hold a flock on the file, from lines such as `3: FLOCK  ADVISORY  WRITE 812 08:01:1311 0 EOF`.
fn lock_holders(locks: &str, metadata: &std::fs::Metadata) -> Vec<u32> {
    let device = format!("{:02x}:{:02x}:{}", major(metadata.dev()), minor(metadata.dev()), metadata.ino());
    let mut holders = Vec::new();
    for line in locks.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A waiting process's line has an arrow after its number and is not a holder's.
        if let [_, "FLOCK", _, _, pid, place, ..] = words[..]
            && place == device
            && let Ok(pid) = pid.parse()
        {
            holders.push(pid);
        }
    }
    holders
}

/// Another process that has the file, or the block device, open.
fn opener(wanted: &std::fs::Metadata) -> Option<Holder> {
    let matches = |open: &std::fs::Metadata| match wanted.file_type().is_block_device() {
        true => open.file_type().is_block_device() && open.rdev() == wanted.rdev(),
        false => (open.dev(), open.ino()) == (wanted.dev(), wanted.ino()),
    };
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // What another user has open cannot be seen, and a process may end while it is looked at.
        let Ok(open) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let has_it = |fd: std::fs::DirEntry| std::fs::metadata(fd.path()).is_ok_and(|open| matches(&open));
        if pid != std::process::id() && open.flatten().any(has_it) {
            return Some(Holder { pid, command: command(pid)? });
        }
    }
    None
}

fn command(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn image() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sefs");
        std::fs::write(&path, [0; 8192]).unwrap();
        (dir, path)
    }

    fn open(path: &Path, image_use: ImageUse) -> Result<Image, String> {
        Image::open_within(path, image_use, NOW).map_err(|failure| failure.to_string())
    }

    #[test]
    fn one_writer_or_many_readers() {
        let (_dir, path) = image();
        let reader = open(&path, ImageUse::ReadOnly).unwrap();
        let other = open(&path, ImageUse::ReadOnly).unwrap();
        assert!(open(&path, ImageUse::ReadWrite).is_err());
        drop((reader, other));
        let writer = open(&path, ImageUse::ReadWrite).unwrap();
        let pid = std::process::id();
        let error = open(&path, ImageUse::ReadOnly).err().unwrap();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.contains(&format!("(process {pid})")) && error.contains("; unmount it or wait"), "{error}");
        drop(writer);
        open(&path, ImageUse::ReadWrite).unwrap();
    }

    #[test]
    fn a_lock_is_waited_for() {
        let (_dir, path) = image();
        let writer = open(&path, ImageUse::ReadWrite).unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(writer);
        });
        Image::open_within(&path, ImageUse::ReadWrite, Duration::from_secs(20)).map(drop).unwrap();
        later.join().unwrap();
    }

    #[test]
    fn an_image_that_was_replaced_meanwhile_is_opened_anew() {
        let (dir, path) = image();
        let old = open(&path, ImageUse::ReadWrite).unwrap();
        let new = dir.path().join("new");
        std::fs::write(&new, "new").unwrap();
        let opener = {
            let path = path.clone();
            std::thread::spawn(move || Image::open_within(&path, ImageUse::ReadWrite, Duration::from_secs(20)))
        };
        std::thread::sleep(Duration::from_millis(200));
        std::fs::rename(&new, &path).unwrap();
        drop(old);
        let image = opener.join().unwrap().map_err(|failure| failure.to_string()).unwrap();
        assert_eq!(image.file().metadata().unwrap().len(), 3);
    }

    #[test]
    fn other_things_are_refused() {
        let (dir, path) = image();
        assert!(open(dir.path(), ImageUse::ReadOnly).err().unwrap().contains("neither a file nor a block device"));
        assert!(open(Path::new("/dev/null"), ImageUse::ReadOnly).err().unwrap().contains("neither"));
        assert!(open(&path.join("x"), ImageUse::ReadOnly).is_err());
        let gone = open(&dir.path().join("gone"), ImageUse::ReadOnly).err().unwrap();
        assert!(gone.ends_with(": No such file or directory; check the path"), "{gone}");
    }

    #[test]
    fn sysfs_names_the_file_behind_a_loop_device() {
        let (dir, path) = image();
        let device = dir.path().join("dev/block/7:3");
        std::fs::create_dir_all(device.join("loop")).unwrap();
        std::fs::write(device.join("loop/backing_file"), format!("{}\n", path.display())).unwrap();
        assert_eq!(backing_file_of(dir.path(), 7, 3).unwrap(), Some(path.clone()));
        std::fs::create_dir_all(device.join("loop3p1")).unwrap();
        std::os::unix::fs::symlink("7:3/loop3p1", dir.path().join("dev/block/259:0")).unwrap();
        assert_eq!(backing_file_of(dir.path(), 259, 0).unwrap(), Some(path.clone()));
        std::fs::write(device.join("loop/backing_file"), format!("{} (deleted)\n", path.display())).unwrap();
        assert_eq!(backing_file_of(dir.path(), 7, 3).unwrap(), None);
        assert_eq!(backing_file_of(dir.path(), 8, 0).unwrap(), None);
    }

    /// A loop device over a file; detached when dropped.
    struct Loop(PathBuf);

    impl Loop {
        /// `None` where this process may not make one.
        fn over(path: &Path) -> Option<Loop> {
            let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(path).output().ok()?;
            let name = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| Loop(PathBuf::from(name.trim_end())))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
        }
    }

    #[test]
    fn a_loop_device_and_the_file_behind_it_exclude_each_other() {
        let (_dir, path) = image();
        let Some(device) = Loop::over(&path) else {
            return crate::tests::skipped("no loop device can be made here");
        };
        let through_device = open(&device.0, ImageUse::ReadWrite).unwrap();
        assert!(open(&path, ImageUse::ReadWrite).err().unwrap().contains("in use"));
        assert!(open(&device.0, ImageUse::ReadWrite).err().unwrap().contains("in use"));
        drop(through_device);
        let through_file = open(&path, ImageUse::ReadOnly).unwrap();
        assert!(open(&device.0, ImageUse::ReadWrite).err().unwrap().contains("in use"));
        open(&device.0, ImageUse::ReadOnly).unwrap();
        drop(through_file);
    }

    #[test]
    fn waiting_processes_hold_nothing() {
        let (_dir, path) = image();
        let metadata = std::fs::metadata(&path).unwrap();
        let place = format!("{:02x}:{:02x}:{}", major(metadata.dev()), minor(metadata.dev()), metadata.ino());
        let locks = format!(
            "1: FLOCK  ADVISORY  WRITE 812 {place} 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 813 {place} 0 EOF\n\
             2: POSIX  ADVISORY  WRITE 814 {place} 0 EOF\n3: FLOCK  ADVISORY  WRITE 815 00:00:1 0 EOF\n"
        );
        assert_eq!(lock_holders(&locks, &metadata), [812]);
    }

    #[test]
    fn whoever_has_the_file_open_is_found() {
        let (_dir, path) = image();
        let file = File::open(&path).unwrap();
        let mut child = std::process::Command::new("sleep").arg("30").stdin(file).spawn().unwrap();
        let found = opener(&std::fs::metadata(&path).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert_eq!((found.pid, found.command.as_str()), (child.id(), "sleep"));
    }
}
