//! Mounting and unmounting: by mount(2) where that is allowed, through fusermount3 otherwise.
//!
//! *Security*: the options that the kernel gets are composed here; a path never becomes part of an option string except
//! in fusermount3's escaped form. Unmounting looks first whether what stands at the path is ours.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sys::statvfs::statvfs;
use nix::unistd::{geteuid, getgid, getuid};

use crate::fusermount;
use crate::mountpoint::{self, Device, Entry, Standing};
use crate::shutdown::Place;
use crate::throttle::Throttle;

/// What to mount where.
pub(crate) struct Wanted {
    /// The image, as a canonical path.
    pub(crate) source: PathBuf,
    /// The directory, as a canonical path.
    pub(crate) point: PathBuf,
    /// mount(2) flags.
    pub(crate) flags: MsFlags,
    /// Others than the mounting user may use it.
    pub(crate) allow_other: bool,
}

/// Why mounting failed.
pub(crate) enum MountError {
    /// /dev/fuse does not open.
    Device(io::Error),
    /// The directory is not there or is none.
    Point(PathBuf, io::Error),
    /// mount(2) refused.
    Refused(PathBuf, Errno),
    /// fusermount3 is not there.
    NoHelper(io::Error),
    /// fusermount3 refused, and said why.
    Helper(String),
    /// The mount table does not show the mount that was made.
    NotShown(PathBuf),
}

/// A mount that this process made.
pub(crate) struct Mount {
    entry: Entry,
    by_helper: bool,
}

/// How an unmount went.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Unmounted {
    /// It is gone, and so are all who used it.
    Yes,
    /// It is out of the tree, but some still have files open in it.
    Lazily,
    /// It was gone already.
    Before,
}

/// Mounts; the descriptor is the kernel's end.
pub(crate) fn attach(wanted: &Wanted) -> Result<(OwnedFd, Mount), MountError> {
    check_point(&wanted.point)?;
    let (connection, by_helper) = match geteuid().is_root().then(|| attach_directly(wanted)) {
        Some(Ok(connection)) => (connection, false),
        // Root without the capability, as in a container: the helper has the same lack, but says so best.
        Some(Err(MountError::Refused(_, Errno::EPERM))) | None => (fusermount::attach(wanted)?, true),
        Some(Err(error)) => return Err(error),
    };
    let is_ours = |entry: &Entry| {
        entry.point == wanted.point && entry.kind == "fuse.sefs" && entry.source == wanted.source.as_os_str()
    };
    match mountpoint::table().unwrap_or_default().into_iter().rev().find(is_ours) {
        Some(entry) => Ok((connection, Mount { entry, by_helper })),
        None => Err(MountError::NotShown(wanted.point.clone())),
    }
}

fn check_point(point: &Path) -> Result<(), MountError> {
    match point.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(MountError::Point(point.into(), io::ErrorKind::NotADirectory.into())),
        Err(error) => Err(MountError::Point(point.into(), error)),
    }
}

fn attach_directly(wanted: &Wanted) -> Result<OwnedFd, MountError> {
    let connection = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::Device)?;
    let data = kernel_options(&connection, wanted);
    nix::mount::mount(
        Some(wanted.source.as_path()),
        wanted.point.as_path(),
        Some("fuse.sefs"),
        wanted.flags,
        Some(data.as_str()),
    )
    .map_err(|errno| MountError::Refused(wanted.point.clone(), errno))?;
    Ok(connection.into())
}

/// The option string of mount(2). The kernel always checks permissions itself, the more so when others may enter.
fn kernel_options(connection: &File, wanted: &Wanted) -> String {
    let (fd, user, group) = (connection.as_raw_fd(), getuid(), getgid());
    let others = if wanted.allow_other { ",allow_other" } else { "" };
    format!("fd={fd},rootmode=40000,user_id={user},group_id={group},default_permissions{others}")
}

/// The options that fusermount3 takes.
pub(crate) fn helper_options(wanted: &Wanted) -> OsString {
    let mut options = OsString::from("default_permissions,subtype=sefs,fsname=");
    options.push(mountpoint::escape_option(&wanted.source));
    for (flag, name) in NAMED_FLAGS {
        if wanted.flags.contains(flag) {
            options.push(",");
            options.push(name);
        }
    }
    if wanted.allow_other {
        options.push(",allow_other");
    }
    options
}

/// Flags that fusermount3 knows; it sets nosuid and nodev by itself.
const NAMED_FLAGS: [(MsFlags, &str); 5] = [
    (MsFlags::MS_RDONLY, "ro"),
    (MsFlags::MS_NOEXEC, "noexec"),
    (MsFlags::MS_NOATIME, "noatime"),
    (MsFlags::MS_SYNCHRONOUS, "sync"),
    (MsFlags::MS_DIRSYNC, "dirsync"),
];

impl Mount {
    /// Where it stands now.
    pub(crate) fn standing(&self) -> io::Result<Standing> {
        Ok(mountpoint::standing(&mountpoint::table()?, &self.entry))
    }

    /// The directory.
    pub(crate) fn point(&self) -> &Path {
        &self.entry.point
    }

    /// Whether it still stands though its connection is broken. Once the connection is gone, the device number may belong
    /// to another mount, even to one of the same image at the same place; but that one answers.
    pub(crate) fn is_dead(&self) -> bool {
        let dead = || matches!(statvfs(self.point()), Err(Errno::ENOTCONN | Errno::ECONNABORTED));
        self.standing().is_ok_and(|standing| standing == Standing::Top) && dead()
    }

    /// Its path and device.
    pub(crate) fn place(&self) -> Place {
        Place { point: self.entry.point.clone(), device: self.entry.device }
    }

    /// Lets the kernel read further ahead than it grants a FUSE mount by default, and takes over how much unwritten data it
    /// keeps. Only root can; without it the mount is slower and as good.
    pub(crate) fn tune(&self) -> Option<Throttle> {
        if !geteuid().is_root() {
            return None;
        }
        let Device { major, minor } = self.entry.device;
        let bdi = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}"));
        let _ = std::fs::write(bdi.join("read_ahead_kb"), "2048");
        Throttle::new(bdi)
    }

    /// Unmounts. The kernel writes its dirty pages first, so the event loops must still run. What is in use is taken out
    /// of the tree, and goes when its last user does.
    pub(crate) fn detach(&self) -> Result<Unmounted, DetachError> {
        match self.standing().map_err(DetachError::Table)? {
            Standing::Gone => return Ok(Unmounted::Before),
            Standing::Covered => return Err(DetachError::Covered),
            Standing::Top => {}
        }
        match self.unmount(MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(Unmounted::Yes),
            Err(Errno::EBUSY) => self
                .unmount(MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                .map(|()| Unmounted::Lazily)
                .map_err(DetachError::Refused),
            // Somebody else was faster.
            Err(Errno::EINVAL | Errno::ENOENT) => Ok(Unmounted::Before),
            Err(errno) => Err(DetachError::Refused(errno)),
        }
    }

    fn unmount(&self, flags: MntFlags) -> Result<(), Errno> {
        if self.by_helper { fusermount::detach(self.point(), flags) } else { nix::mount::umount2(self.point(), flags) }
    }
}

/// Why unmounting failed.
pub(crate) enum DetachError {
    /// The mount table does not read.
    Table(io::Error),
    /// Another mount stands over ours.
    Covered,
    /// The kernel refused.
    Refused(Errno),
}

impl std::fmt::Display for MountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MountError::Device(error) if error.kind() == io::ErrorKind::NotFound => {
                f.write_str("/dev/fuse is not there; load the module with \"modprobe fuse\"")
            }
            MountError::Device(error) => write!(f, "/dev/fuse does not open: {}", plain(error)),
            MountError::Point(point, error) => {
                write!(f, "cannot mount on {}: {}; {}", point.display(), plain(error), point_way_out(error))
            }
            MountError::Refused(point, errno) => {
                write!(f, "the kernel refused to mount on {}: {}", point.display(), errno.desc())
            }
            MountError::NoHelper(error) => write!(
                f,
                "only root may mount directly, and fusermount3 does not start ({}); install the package fuse3",
                plain(error)
            ),
            MountError::Helper(said) => write!(f, "fusermount3 refused: {said}"),
            MountError::NotShown(point) => {
                write!(f, "/proc/self/mountinfo does not show the mount on {}", point.display())
            }
        }
    }
}

fn point_way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make that directory first",
        io::ErrorKind::NotADirectory => "name a directory",
        io::ErrorKind::NotConnected => "a mount died there: umount it first",
        _ => "check the directory and its permissions",
    }
}

impl std::fmt::Display for DetachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DetachError::Table(error) => write!(f, "/proc/self/mountinfo does not read: {error}"),
            DetachError::Covered => f.write_str("something else is mounted over it"),
            DetachError::Refused(errno) => write!(f, "the kernel refused: {}", errno.desc()),
        }
    }
}

/// The system's words without the error number that the standard library adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(flags: MsFlags, allow_other: bool) -> Wanted {
        Wanted { source: "/img,suid".into(), point: "/mnt".into(), flags, allow_other }
    }

    #[test]
    fn permissions_are_always_checked_by_the_kernel() {
        let file = File::open("/dev/null").unwrap();
        for others in [false, true] {
            let options = kernel_options(&file, &wanted(MsFlags::empty(), others));
            assert!(options.contains("default_permissions"), "{options}");
            assert_eq!(options.contains("allow_other"), others);
            assert!(!options.contains("img"), "the source is no option: {options}");
        }
        let options = helper_options(&wanted(MsFlags::MS_RDONLY, true));
        assert_eq!(options, "default_permissions,subtype=sefs,fsname=/img\\,suid,ro,allow_other");
    }
}
