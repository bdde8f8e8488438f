//! The structs and constants of `sefs.h`.

use core::ffi::{c_char, c_int, c_void};

use sefs::error::{Error, Posix};
use sefs::format::FileKind;
use sefs::types::Timestamp;
use sefs::vfs::{Attr, Caller, FsStat, SetAttr, SetTime};

use crate::error::{Failure, Outcome};
use crate::host::{SefsAnchor, SefsBackend, SefsEnvironment};

/// The version of this interface; it grows with each function or field that comes to it.
pub const SEFS_ABI_VERSION: u32 = 2;
/// The inode number of the root directory.
pub const SEFS_ROOT: u64 = 1;
/// Bytes of the longest name.
pub const SEFS_NAME_MAX: usize = 255;

/// Open: nothing is written, not even a replayed log.
pub const SEFS_OPEN_READ_ONLY: u32 = 1;
/// Open: without the anchor that the volume is bound to; it is unbound by the first write, for good.
pub const SEFS_OPEN_ABANDON_ANCHOR: u32 = 2;

/// A caller whose permissions are checked here; otherwise the program has checked them.
pub const SEFS_CALLER_CHECK: u32 = 1;
/// A caller whose umask is to be applied.
pub const SEFS_CALLER_UMASK: u32 = 2;

/// Which fields of `sefs_set_attr` count: permission bits.
pub const SEFS_SET_MODE: u32 = 1;
/// The owner.
pub const SEFS_SET_UID: u32 = 2;
/// The owning group.
pub const SEFS_SET_GID: u32 = 4;
/// The length of a regular file.
pub const SEFS_SET_SIZE: u32 = 8;
/// The time of the last access.
pub const SEFS_SET_ATIME: u32 = 16;
/// The time of the last change of content.
pub const SEFS_SET_MTIME: u32 = 32;
/// The last access is now.
pub const SEFS_SET_ATIME_NOW: u32 = 64;
/// The last change of content is now.
pub const SEFS_SET_MTIME_NOW: u32 = 128;

/// Rename: fail if the new name exists.
pub const SEFS_RENAME_NOREPLACE: u32 = 1;
/// Rename: both names change places.
pub const SEFS_RENAME_EXCHANGE: u32 = 2;

/// Write: at the end of the file, wherever that is.
pub const SEFS_WRITE_APPEND: u32 = 1;
/// Write: clear set-user-id and set-group-id, whoever calls.
pub const SEFS_WRITE_KILL_PRIVILEGES: u32 = 2;
/// Write: a page cache writes back; times stay, and the reserve may be used.
pub const SEFS_WRITE_BACK: u32 = 4;

/// Allocate: the file's length stays.
pub const SEFS_ALLOCATE_KEEP_SIZE: u32 = 1;
/// Allocate: the range reads as zeros and takes no space (with `SEFS_ALLOCATE_KEEP_SIZE`, as fallocate(2) demands).
pub const SEFS_ALLOCATE_PUNCH_HOLE: u32 = 2;
/// Allocate: the range reads as zeros and has space promised.
pub const SEFS_ALLOCATE_ZERO_RANGE: u32 = 16;

/// Set an extended attribute: it must not exist.
pub const SEFS_XATTR_CREATE: u32 = 1;
/// Set an extended attribute: it must exist.
pub const SEFS_XATTR_REPLACE: u32 = 2;

/// Whose fault a failure is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SefsErrorKind {
    /// No call failed on this thread.
    None = 0,
    /// A POSIX outcome: understood and refused.
    Posix = 1,
    /// Authentication failed: stored bytes are not what this volume's key holder wrote there.
    Tampered = 2,
    /// The stored state is authentic and too old.
    RolledBack = 3,
    /// Authentic bytes break an invariant.
    Corrupt = 4,
    /// Unauthenticated nonsense where a header should be.
    Malformed = 5,
    /// A volume made by or for another version.
    Incompatible = 6,
    /// The host failed to read, write or flush.
    Backend = 7,
    /// The key opens no slot, or is not this volume's.
    WrongKey = 8,
    /// The random generator failed; nothing was sealed.
    Random = 9,
    /// The anchor is unreachable, missing or refused to advance.
    Anchor = 10,
    /// An earlier failure made the volume read-only.
    Latched = 11,
    /// The program asked for something that makes no sense.
    Invalid = 12,
    /// A defect of this library.
    Internal = 13,
    /// Something that this version has no word for; `text` says what.
    Other = 14,
}

/// What the last failure on this thread was.
#[repr(C)]
pub struct SefsError {
    /// The Linux error number, positive; 0 if no call failed.
    pub number: c_int,
    /// Whose fault it is.
    pub kind: SefsErrorKind,
    /// For people, cut to what fits, with a zero at its end. It names ids, never names or secrets.
    pub text: [c_char; 248],
}

impl SefsError {
    pub(crate) fn new(number: i32, kind: SefsErrorKind, text: &str) -> SefsError {
        let mut error = SefsError { number, kind, text: [0; 248] };
        let room = error.text.len() - 1;
        for (to, from) in error.text[..room].iter_mut().zip(text.bytes()) {
            *to = from as c_char;
        }
        error
    }
}

/// What opens a volume, and what a new one is wrapped for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SefsKeyKind {
    /// The volume key itself, 32 bytes, from whoever unwrapped it. A new volume gets no key slot.
    Volume = 0,
    /// The 32 bytes of a key file.
    RawKey = 1,
    /// A passphrase, of any length but 0.
    Passphrase = 2,
}

/// A key. Its bytes are copied into memory that is wiped, and are not kept after the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsKey {
    /// What `bytes` is: one of `SEFS_KEY_KIND_*`.
    pub kind: u32,
    /// The secret.
    pub bytes: *const u8,
    /// How many bytes.
    pub len: usize,
}

/// How to open a volume. All zero but `size` is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsOpenOptions {
    /// `sizeof(sefs_open_options)`.
    pub size: usize,
    /// `SEFS_OPEN_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// A budget for all caches together, at least 4 MiB; 0 for 64 MiB.
    pub memory_bytes: u64,
    /// The longest time that a change stays unflushed while `sefs_work` is called, in milliseconds; 0 for 1,000.
    pub commit_ms: u64,
    /// The most that Argon2id may take while a passphrase is tried; 0 for 1 GiB.
    pub passphrase_bytes: u64,
    /// 16 bytes: the volume that must be found; or null.
    pub volume_id: *const u8,
    /// The volume's anchor, or null.
    pub anchor: *const SefsAnchor,
    /// Where random bytes and the time come from; null for the operating system.
    pub environment: *const SefsEnvironment,
    /// 32 bytes: the root digest of the one packed image that may be opened; or null.
    pub root_digest: *const u8,
}

/// How to make a volume. All zero but `size` and `size_bytes` is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsFormatOptions {
    /// `sizeof(sefs_format_options)`.
    pub size: usize,
    /// The volume's size, at least 4 MiB; cut down to whole blocks of 4 KiB.
    pub size_bytes: u64,
    /// 16 bytes that never repeat, or null for random ones.
    pub volume_id: *const u8,
    /// At most 64 bytes of UTF-8 for people, or null.
    pub label: *const c_char,
    /// Permission bits of the root directory; 0 for 0755.
    pub root_mode: u32,
    /// Its owner.
    pub root_uid: u32,
    /// Its group.
    pub root_gid: u32,
    /// With an anchor: 0 it advances with each commit (strict), 1 with each checkpoint.
    pub anchor_policy: u32,
    /// An anchor that the volume is bound to from its first state on, or null.
    pub anchor: *const SefsAnchor,
    /// Where random bytes and the time come from; null for the operating system.
    pub environment: *const SefsEnvironment,
}

/// An image that a new volume is to lie over. All zero but `size` and `backend` is the default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsNewLower {
    /// `sizeof(sefs_new_lower)`.
    pub size: usize,
    /// Where the packed image lies.
    pub backend: *const SefsBackend,
    /// What opens an encrypted image; null for a public one.
    pub key: *const SefsKey,
    /// 32 bytes: the root digest that it must have; a public image cannot do without.
    pub root_digest: *const u8,
    /// Whatever helps to find the image again, no secret; it is stored with the volume. Or null.
    pub note: *const u8,
    /// Bytes of the note, at most 4,096.
    pub note_len: usize,
}

/// An image that a volume lies over.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsLowerInfo {
    /// The image's id.
    pub volume_id: [u8; 16],
    /// The image's root digest, which binds the volume to it.
    pub root_digest: [u8; 32],
    /// Bytes of the note on it.
    pub note_len: u64,
}

/// Who asks. Null stands for the superuser, for whom nothing is checked.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsCaller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// `SEFS_CALLER_*`.
    pub flags: u32,
    /// Permission bits that new files do not get, with `SEFS_CALLER_UMASK`.
    pub umask: u32,
    /// Further groups, or null.
    pub groups: *const u32,
    /// How many.
    pub group_count: usize,
}

/// A time: seconds since 1970, and nanoseconds from 0 to 999,999,999.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SefsTime {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
    /// Zero.
    pub reserved: u32,
}

/// What stat(2) tells, and more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SefsAttr {
    /// The inode's number.
    pub ino: u64,
    /// Bytes; of a directory the number of its entries.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks_512: u64,
    /// Device number, of devices only.
    pub rdev: u64,
    /// One higher with each change of anything.
    pub change: u64,
    /// Last access, as it was last set.
    pub atime: SefsTime,
    /// Last change of content.
    pub mtime: SefsTime,
    /// Last change of anything.
    pub ctime: SefsTime,
    /// Creation.
    pub btime: SefsTime,
    /// Type and permission bits, as `st_mode` has them.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Links.
    pub links: u32,
    /// Bytes that are good to transfer at once.
    pub blksize: u32,
    /// Zero.
    pub reserved: u32,
}

/// Which attributes to change, all or none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SefsSetAttr {
    /// `SEFS_SET_*`.
    pub valid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The length.
    pub size: u64,
    /// Last access.
    pub atime: SefsTime,
    /// Last change of content.
    pub mtime: SefsTime,
}

/// One entry of a directory, handed to the callback of `sefs_read_dir`.
#[repr(C)]
pub struct SefsDirEntry {
    /// The inode that it names.
    pub ino: u64,
    /// Where to go on after this entry.
    pub cookie: u64,
    /// The type bits of `st_mode`.
    pub mode: u32,
    /// Bytes of the name.
    pub name_len: u32,
    /// The name, without a zero at its end, valid during the callback.
    pub name: *const u8,
}

/// Takes one entry; anything but 0 ends the listing after it.
pub type SefsDirCallback = Option<unsafe extern "C" fn(context: *mut c_void, entry: *const SefsDirEntry) -> c_int>;

/// The figures of statfs(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SefsStatFs {
    /// Blocks of `block_size` bytes.
    pub blocks: u64,
    /// Blocks in no use, the reserve included.
    pub blocks_free: u64,
    /// Blocks that writers can have.
    pub blocks_available: u64,
    /// Inodes in use and possible.
    pub inodes: u64,
    /// Inodes that can still be made, estimated.
    pub inodes_free: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of the longest name.
    pub name_max: u32,
}

impl From<Timestamp> for SefsTime {
    fn from(time: Timestamp) -> SefsTime {
        SefsTime { seconds: time.seconds, nanoseconds: time.nanoseconds, reserved: 0 }
    }
}

impl SefsTime {
    fn checked(self) -> Outcome<Timestamp> {
        if self.nanoseconds > 999_999_999 {
            return Err(Failure::INVALID);
        }
        Ok(Timestamp { seconds: self.seconds, nanoseconds: self.nanoseconds })
    }
}

impl From<&Attr> for SefsAttr {
    fn from(attr: &Attr) -> SefsAttr {
        SefsAttr {
            ino: attr.ino.0,
            size: attr.size,
            blocks_512: attr.blocks_512,
            rdev: attr.rdev,
            change: attr.change,
            atime: attr.atime.into(),
            mtime: attr.mtime.into(),
            ctime: attr.ctime.into(),
            btime: attr.btime.into(),
            mode: type_bits(attr.kind) | attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            links: attr.links,
            blksize: attr.blksize,
            reserved: 0,
        }
    }
}

impl From<FsStat> for SefsStatFs {
    fn from(stat: FsStat) -> SefsStatFs {
        SefsStatFs {
            blocks: stat.blocks,
            blocks_free: stat.blocks_free,
            blocks_available: stat.blocks_available,
            inodes: stat.inodes,
            inodes_free: stat.inodes_free,
            block_size: stat.block_size,
            name_max: stat.name_max,
        }
    }
}

impl SefsSetAttr {
    pub(crate) fn change(&self) -> Outcome<SetAttr> {
        let wanted = |bit| self.valid & bit != 0;
        if self.valid >= 2 * SEFS_SET_MTIME_NOW || self.mode & !0o7777 != 0 {
            return Err(Failure::INVALID);
        }
        let time = |given: u32, now: u32, time: SefsTime| match (wanted(given), wanted(now)) {
            (true, true) => Err(Failure::INVALID),
            (true, false) => Ok(Some(SetTime::At(time.checked()?))),
            (false, true) => Ok(Some(SetTime::Now)),
            (false, false) => Ok(None),
        };
        Ok(SetAttr {
            mode: wanted(SEFS_SET_MODE).then_some(self.mode),
            uid: wanted(SEFS_SET_UID).then_some(self.uid),
            gid: wanted(SEFS_SET_GID).then_some(self.gid),
            size: wanted(SEFS_SET_SIZE).then_some(self.size),
            atime: time(SEFS_SET_ATIME, SEFS_SET_ATIME_NOW, self.atime)?,
            mtime: time(SEFS_SET_MTIME, SEFS_SET_MTIME_NOW, self.mtime)?,
            ctime: None,
            btime: None,
        })
    }
}

/// The caller that a struct and its groups say, or the superuser.
pub(crate) fn caller(given: Option<(&SefsCaller, &[u32])>) -> Outcome<Caller> {
    let Some((caller, groups)) = given else { return Ok(Caller::root()) };
    if caller.flags > (SEFS_CALLER_CHECK | SEFS_CALLER_UMASK) {
        return Err(Failure::INVALID);
    }
    Ok(Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups: groups.to_vec(),
        check: caller.flags & SEFS_CALLER_CHECK != 0,
        umask: (caller.flags & SEFS_CALLER_UMASK != 0).then_some(caller.umask & 0o777),
    })
}

/// The type bits of `st_mode`.
pub(crate) fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o010_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::Directory => 0o040_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::Regular => 0o100_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Socket => 0o140_000,
    }
}

/// The kind that the type bits of `st_mode` say; none is a regular file.
pub(crate) fn kind_of(mode: u32) -> Outcome<FileKind> {
    Ok(match mode & 0o170_000 {
        0 | 0o100_000 => FileKind::Regular,
        0o010_000 => FileKind::Fifo,
        0o020_000 => FileKind::CharDevice,
        0o040_000 => FileKind::Directory,
        0o060_000 => FileKind::BlockDevice,
        0o120_000 => FileKind::Symlink,
        0o140_000 => FileKind::Socket,
        _ => return Err(Failure::Volume(Error::Posix(Posix::InvalidArgument))),
    })
}
