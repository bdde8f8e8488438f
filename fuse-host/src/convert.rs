//! Values as the kernel's protocol has them ↔ values as the volume has them. Total functions, no I/O.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use sefs::error::{Error, Posix};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{AllocateMode, Attr, Caller, FileKind, Seek, SetTime, XattrMode};

/// fallocate(2): the length of the file stays.
const FALLOC_KEEP_SIZE: i32 = 0x01;
/// fallocate(2): the range becomes a hole.
const FALLOC_PUNCH_HOLE: i32 = 0x02;
/// fallocate(2): the range disappears.
const FALLOC_COLLAPSE_RANGE: i32 = 0x08;
/// fallocate(2): the range reads as zeros.
const FALLOC_ZERO_RANGE: i32 = 0x10;
/// fallocate(2): a hole is inserted.
const FALLOC_INSERT_RANGE: i32 = 0x20;

/// An inode's number as the volume has it.
pub(crate) fn inode(ino: INodeNo) -> InodeNo {
    InodeNo(ino.0)
}

/// The error number that the caller gets.
pub(crate) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// Whoever calls: the kernel has checked its permissions already.
pub(crate) fn caller(request: &fuser::Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), groups: Vec::new(), check: false, umask: None }
}

/// A file's kind in the kernel's words.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::CharDevice => FileType::CharDevice,
    }
}

/// The kind of file that mknod(2) shall make; `None` for what it may not make.
pub(crate) fn node_kind(mode: u32) -> Option<FileKind> {
    match mode & 0o170_000 {
        0 | 0o100_000 => Some(FileKind::Regular),
        0o010_000 => Some(FileKind::Fifo),
        0o140_000 => Some(FileKind::Socket),
        0o060_000 => Some(FileKind::BlockDevice),
        0o020_000 => Some(FileKind::CharDevice),
        _ => None,
    }
}

/// Attributes in the kernel's words.
pub(crate) fn attributes(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks_512,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        // Twelve bits, so the conversion cannot fail.
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        // Linux has 12 bits of major and 20 of minor number; all device numbers that it can make fit.
        rdev: u32::try_from(attr.rdev).unwrap_or(0),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// A stored time. What the operating system's type cannot hold becomes 1970.
pub(crate) fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time from a request.
///
/// Before 1970 the fuser crate (0.18.0) makes `UNIX_EPOCH - (|seconds| + nanoseconds)` of a time that is `seconds +
/// nanoseconds`; this undoes it, so that the bits arrive that the kernel sent.
pub(crate) fn requested_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Timestamp { seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanoseconds: after.subsec_nanos() }
        }
        Err(before) => Timestamp {
            seconds: 0i64.checked_sub_unsigned(before.duration().as_secs()).unwrap_or(i64::MIN),
            nanoseconds: before.duration().subsec_nanos(),
        },
    }
}

/// A time to set.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(requested_time(time)),
    }
}

/// The mode of fallocate(2); `None` for combinations that are not supported.
pub(crate) fn allocate_mode(mode: i32) -> Option<AllocateMode> {
    const PUNCH: i32 = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE;
    const ZERO_KEEP: i32 = FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE;
    match mode {
        0 => Some(AllocateMode::Allocate { keep_size: false }),
        FALLOC_KEEP_SIZE => Some(AllocateMode::Allocate { keep_size: true }),
        PUNCH => Some(AllocateMode::PunchHole),
        FALLOC_ZERO_RANGE => Some(AllocateMode::ZeroRange { keep_size: false }),
        ZERO_KEEP => Some(AllocateMode::ZeroRange { keep_size: true }),
        FALLOC_COLLAPSE_RANGE => Some(AllocateMode::Collapse),
        FALLOC_INSERT_RANGE => Some(AllocateMode::Insert),
        _ => None,
    }
}

/// What lseek(2) looks for; the kernel answers everything but `SEEK_DATA` (3) and `SEEK_HOLE` (4) itself.
pub(crate) fn seek(whence: i32) -> Option<Seek> {
    match whence {
        3 => Some(Seek::Data),
        4 => Some(Seek::Hole),
        _ => None,
    }
}

/// The flags of setxattr(2).
pub(crate) fn xattr_mode(flags: i32) -> Result<XattrMode, Error> {
    match flags {
        0 => Ok(XattrMode::Any),
        1 => Ok(XattrMode::Create),
        2 => Ok(XattrMode::Replace),
        _ => Err(Posix::InvalidArgument.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_arrive_as_the_kernel_sent_them() {
        // What fuser makes of (-2 s, 800,000,000 ns), which is 1.2 s before 1970.
        let mangled = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let time = requested_time(mangled);
        assert_eq!(time, Timestamp { seconds: -2, nanoseconds: 800_000_000 });
        assert_eq!(system_time(time), UNIX_EPOCH - Duration::new(1, 200_000_000));
    }

    #[test]
    fn the_largest_and_smallest_times_do_not_overflow() {
        for seconds in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
            for nanoseconds in [0, 1, 999_999_999] {
                let _ = system_time(Timestamp { seconds, nanoseconds });
            }
        }
        let last = Timestamp { seconds: i64::MAX, nanoseconds: 999_999_999 };
        assert_eq!(requested_time(system_time(last)), last);
    }

    #[test]
    fn fallocate_modes_are_an_explicit_list() {
        assert_eq!(allocate_mode(0), Some(AllocateMode::Allocate { keep_size: false }));
        assert_eq!(allocate_mode(3), Some(AllocateMode::PunchHole));
        assert_eq!(allocate_mode(0x11), Some(AllocateMode::ZeroRange { keep_size: true }));
        assert_eq!(allocate_mode(FALLOC_PUNCH_HOLE), None, "fallocate(2) demands KEEP_SIZE with it");
        assert_eq!(allocate_mode(0x40), None, "UNSHARE_RANGE");
    }

    #[test]
    fn mknod_makes_no_directories_and_no_links() {
        assert_eq!(node_kind(0o644), Some(FileKind::Regular));
        assert_eq!(node_kind(0o020_600), Some(FileKind::CharDevice));
        assert_eq!(node_kind(0o040_755), None);
        assert_eq!(node_kind(0o120_777), None);
    }
}
