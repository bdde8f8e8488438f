//! What the callers of a volume give and get: options, attributes, changes, modes.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::anchor::{Anchor, AnchorPolicy};
use crate::format::{FileKind, KeySlot, MAX_EPOCHS};
use crate::types::{InodeNo, Timestamp};
use crate::workers::{NoWorkers, Workers};

/// How to make a volume.
#[derive(Clone)]
pub struct FormatOptions {
    /// The volume's size in bytes, at least 4 MiB; cut down to whole blocks.
    pub size_bytes: u64,
    /// The volume's id, a UUID that never repeats.
    pub volume_id: [u8; 16],
    /// A name for people, at most 64 bytes of UTF-8.
    pub label: String,
    /// Ways to the volume key, stored as they are.
    pub slots: Vec<KeySlot>,
    /// An anchor that the volume is bound to from its first state on.
    pub anchor: Option<(Arc<dyn Anchor>, AnchorPolicy)>,
    /// Who owns the root directory, and its permission bits.
    pub root: Owner,
}

/// Owner and permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Permission bits (0o7777).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
}

/// How to open a volume.
#[derive(Clone)]
pub struct OpenOptions {
    /// Nothing is written, not even a replayed log.
    pub read_only: bool,
    /// The volume's anchor.
    pub anchor: Option<Arc<dyn Anchor>>,
    /// Open an anchored volume without its anchor, and unbind it.
    pub abandon_anchor: bool,
    /// The volume id that must be found.
    pub volume_id: Option<[u8; 16]>,
    /// The packed image that must be found: its root digest, from a place that the host cannot write to.
    pub root_digest: Option<[u8; 32]>,
    /// A budget for all caches together, at least 4 MiB.
    pub memory_bytes: usize,
    /// The longest time in milliseconds that a change stays unflushed while `work` is called.
    pub commit_ms: u64,
    /// How many epochs (sets of keys, one for each mount that writes) the volume may keep, 8 to 4,096. With half of them in
    /// use, what the smallest ones sealed is sealed anew by [`Volume::work`](super::Volume::work) and by closing; with three
    /// quarters, by a mount's first write too.
    pub max_epochs: u32,
    /// Who seals and opens the parts of large requests: by default, whoever makes the request.
    pub workers: Arc<dyn Workers>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            read_only: false,
            anchor: None,
            abandon_anchor: false,
            volume_id: None,
            root_digest: None,
            memory_bytes: 64 << 20,
            commit_ms: 1000,
            max_epochs: MAX_EPOCHS,
            workers: Arc::new(NoWorkers),
        }
    }
}

/// The figures of statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsStat {
    /// Bytes of a block.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Blocks in no use, the reserve included.
    pub blocks_free: u64,
    /// Blocks that writers can have.
    pub blocks_available: u64,
    /// Inodes in use and possible.
    pub inodes: u64,
    /// Inodes that can still be made, estimated: one for each block.
    pub inodes_free: u64,
    /// Bytes of the longest name.
    pub name_max: u32,
}

/// What is left for writers, told at once: see [`Volume::room`](crate::vfs::Volume::room).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that new data may take, at least. What was deleted just now may not count yet.
    pub available_bytes: u64,
    /// Bytes that fallocate(2) promised to files and that are not written yet.
    pub promised_bytes: u64,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user; 0 is capable of everything.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Check permissions. Without it, whoever calls (a kernel) has done that.
    pub check: bool,
    /// Permission bits that new files do not get, unless the directory has a default ACL; none if applied already.
    pub umask: Option<u32>,
}

impl Caller {
    /// The superuser, for whom nothing is checked.
    pub fn root() -> Caller {
        Caller { uid: 0, gid: 0, groups: Vec::new(), check: false, umask: None }
    }

    /// A user whose permissions are checked.
    pub fn user(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, groups: Vec::new(), check: true, umask: None }
    }
}

/// What stat(2) tells, and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode's number.
    pub ino: InodeNo,
    /// Its type.
    pub kind: FileKind,
    /// Permission bits (0o7777).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Links; of a directory 2 and one for each subdirectory.
    pub links: u32,
    /// Bytes; of a directory the number of its entries.
    pub size: u64,
    /// Space in units of 512 bytes; for content kept in the inode's record its own length.
    pub blocks_512: u64,
    /// Device number, as stored; of devices only.
    pub rdev: u64,
    /// Last access, as it was last set: reading does not touch it.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// One higher with each change of anything.
    pub change: u64,
    /// Bytes that are good to transfer at once.
    pub blksize: u32,
}

/// Which attributes to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (0o7777).
    pub mode: Option<u32>,
    /// The owner. A change of owner or group clears set-user-id and set-group-id, unless `mode` is given too.
    pub uid: Option<u32>,
    /// The owning group.
    pub gid: Option<u32>,
    /// The length of a regular file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of anything; otherwise the time of this call.
    pub ctime: Option<Timestamp>,
    /// Creation.
    pub btime: Option<Timestamp>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call; who may write the file may set this.
    Now,
    /// A given time; only the owner may.
    At(Timestamp),
}

/// An inode to be made. Its owner is the caller; its group too, or the directory's where that has set-group-id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// Its type.
    pub kind: FileKind,
    /// Permission bits (0o7777); of a symlink always 0o777.
    pub mode: u32,
    /// Device number, for devices.
    pub rdev: u64,
    /// Where a symlink points: 1 to 4,095 bytes without NUL.
    pub target: Vec<u8>,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode that it names.
    pub ino: InodeNo,
    /// The inode's type.
    pub kind: FileKind,
    /// Where to go on after this entry; it stays for the entry's life. "." has 1, ".." has 2, all are below 2^63.
    pub cookie: u64,
    /// The name.
    pub name: Vec<u8>,
}

/// What a rename does when the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// The new name's inode loses that name.
    Replace,
    /// It fails (`RENAME_NOREPLACE`).
    NoReplace,
    /// Both names change places (`RENAME_EXCHANGE`); both must exist.
    Exchange,
}

/// Which kind of write it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// write(2): times change; set-user-id and set-group-id are cleared if the caller is checked and is not root.
    Direct,
    /// As `Direct`, at the end of the file wherever that is; the offset is not used.
    Append,
    /// As `Direct`, and set-user-id and set-group-id are cleared whoever calls.
    KillPrivileges,
    /// A kernel's cache writes back: times and mode stay, and the reserve may be used.
    Writeback,
}

/// What fallocate(2) is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateMode {
    /// Promise space.
    Allocate {
        /// The file's length stays.
        keep_size: bool,
    },
    /// The range reads as zeros and takes no space.
    PunchHole,
    /// The range reads as zeros and has space promised.
    ZeroRange {
        /// The file's length stays.
        keep_size: bool,
    },
    /// Cut the range out: not supported.
    Collapse,
    /// Push a hole in: not supported.
    Insert,
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// What setting an extended attribute expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    Any,
    /// That it does not exist.
    Create,
    /// That it exists.
    Replace,
}

/// Permission to read, for [`Volume::access`](super::Volume::access).
pub const READ: u32 = 4;
/// Permission to write.
pub const WRITE: u32 = 2;
/// Permission to execute, or to pass through a directory.
pub const EXECUTE: u32 = 1;

/// Bytes of the longest name.
pub const NAME_MAX: usize = crate::format::NAME_MAX;
/// Bytes of the longest symlink target.
pub const TARGET_MAX: usize = crate::format::SYMLINK_MAX;
/// The largest file: offsets are signed 64-bit numbers in every system call.
pub const FILE_SIZE_MAX: u64 = crate::format::MAX_FILE_SIZE;
/// Most links to one inode.
pub const LINK_MAX: u32 = 1 << 31;
/// Bytes that are written all or not at all.
pub const ATOMIC_WRITE_MAX: usize = 1 << 20;
