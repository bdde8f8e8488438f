//! Errors, grouped by who is at fault. Fields are ids, never names: the host reads an enclave's log.

use alloc::string::String;
use core::fmt;

use crate::types::{BlockAddr, EpochId, Generation, InodeNo, Lsn, ObjectId};

/// A result of this library.
pub type Result<T> = core::result::Result<T, Error>;

/// Everything that can go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A POSIX outcome: the request is understood and refused.
    Posix(Posix),
    /// Authentication failed: stored bytes are not what this volume's key holder wrote there.
    Tampered(Tampered),
    /// The stored state is authentic and too old.
    RolledBack(RolledBack),
    /// Authentic bytes break an invariant: our bug, or a hostile key holder.
    Corrupt(Corrupt),
    /// Unauthenticated nonsense where a header should be.
    Malformed(Malformed),
    /// A volume made by or for another version of this software.
    Incompatible(Incompatible),
    /// The host failed to read, write or flush.
    Backend(BackendError),
    /// No key slot opened, or the key is not this volume's.
    WrongKey,
    /// The random generator failed; nothing was sealed.
    Rng,
    /// The anchor is unreachable, missing or refused to advance.
    Anchor(AnchorError),
    /// An earlier failure made the volume read-only; it says which.
    Latched(Latched),
    /// The caller asked for something that makes no sense.
    Invalid(Invalid),
}

/// POSIX outcomes, one for each errno that the filesystem returns by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posix {
    /// ENOENT
    NotFound,
    /// EEXIST
    Exists,
    /// ENOTDIR
    NotDirectory,
    /// EISDIR
    IsDirectory,
    /// ENOTEMPTY
    NotEmpty,
    /// ENAMETOOLONG
    NameTooLong,
    /// EPERM
    NotPermitted,
    /// EACCES
    AccessDenied,
    /// ENOSPC
    NoSpace,
    /// EROFS
    ReadOnly,
    /// EMLINK
    TooManyLinks,
    /// EFBIG
    FileTooBig,
    /// ENODATA: no such extended attribute
    NoAttribute,
    /// ERANGE: the caller's buffer is too small
    BufferTooSmall,
    /// E2BIG: an attribute's value is too long
    TooLong,
    /// EINVAL
    InvalidArgument,
    /// EOPNOTSUPP
    NotSupported,
    /// EBUSY
    Busy,
    /// ENXIO: no data or hole past this offset
    NoSuchOffset,
    /// ESTALE: the inode is gone
    Stale,
    /// ELOOP
    SymlinkLoop,
}

/// What failed to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampered {
    /// The header's authentication code.
    Header,
    /// Both checkpoint slots.
    CheckpointSlots,
    /// A tree node.
    Node {
        /// Where it lies.
        addr: BlockAddr,
        /// Its level, 0 for a leaf.
        level: u8,
    },
    /// A data block.
    Data {
        /// Where it lies.
        addr: BlockAddr,
        /// The object it belongs to; 0 when not known.
        object: ObjectId,
        /// Its number within the object.
        block: u64,
    },
    /// An allocation page.
    AllocPage {
        /// The first group that it covers.
        group: u64,
        /// 0 for a bitmap, more for summaries.
        level: u8,
    },
    /// A packed image's root block.
    RootBlock,
    /// A byte that belongs to nothing and is not zero.
    Padding {
        /// The block that it stands in.
        addr: BlockAddr,
    },
    /// A page of the epoch table.
    EpochPage {
        /// Its index.
        index: u32,
    },
    /// A log group that was known flushed.
    LogGroup {
        /// Its place.
        lsn: Lsn,
    },
}

/// An authentic state that is older than what must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolledBack {
    /// The anchor names a state that the volume does not lead to.
    Anchor {
        /// The anchor's counter.
        counter: u64,
    },
    /// The header is not the one that the checkpoint accepts.
    Header {
        /// The header's own generation.
        generation: u64,
    },
    /// Another writer, or the host, put a newer checkpoint beside ours.
    NewerCheckpoint {
        /// Its generation.
        generation: Generation,
    },
}

/// One variant per invariant of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Corrupt {
    /// A checkpoint payload does not decode.
    Checkpoint(&'static str),
    /// A packed image's root block does not decode, or contradicts the header.
    RootBlock(&'static str),
    /// A tree node does not decode.
    Node(BlockAddr, &'static str),
    /// A node's level is not what its parent says.
    NodeLevel(BlockAddr),
    /// A reference points outside the volume or into a reserved area.
    Reference(BlockAddr),
    /// A record does not decode.
    Record {
        /// The object it hangs on.
        object: ObjectId,
        /// The key kind.
        kind: u8,
        /// What is wrong.
        why: &'static str,
    },
    /// A log group does not decode.
    LogGroup(Lsn, &'static str),
    /// An allocation page does not decode, or contradicts its parent.
    AllocPage(u64, &'static str),
    /// An epoch page does not decode.
    EpochPage(u32),
    /// A block names an epoch that the table does not hold.
    UnknownEpoch(EpochId),
    /// A directory entry names an inode that does not exist.
    DanglingEntry {
        /// The directory.
        dir: InodeNo,
        /// The missing inode.
        ino: InodeNo,
    },
    /// An address was released or allocated twice.
    Allocation(BlockAddr),
    /// An inode's record is missing though something needs it.
    MissingInode(InodeNo),
}

/// Unauthenticated nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The magic number is not there: not a SEFS image.
    NotSefs,
    /// A packed image is longer than its header says.
    Longer {
        /// Bytes that the header names.
        expected_bytes: u64,
        /// Bytes that the backend has.
        actual_bytes: u64,
    },
    /// The image is shorter than its header says.
    Truncated {
        /// Bytes that the header names.
        expected_bytes: u64,
        /// Bytes that the backend has.
        actual_bytes: u64,
    },
    /// A header field is out of its range.
    HeaderField(&'static str),
}

/// Made by or for another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// The format's version is not known here.
    FormatVersion(u16),
    /// A feature flag is not known here.
    Features(u64),
    /// The suite is not supported here.
    Suite(u16),
    /// The image's type is not supported here, or not the one demanded.
    ImageType(u16),
    /// The volume id is not the one demanded.
    VolumeId,
    /// The volume was made for an anchor of another kind, identity or policy.
    AnchorRequired,
    /// The anchor that was given is not the one that the volume is bound to.
    OtherAnchor,
    /// An anchor was given, the volume has none.
    NotAnchored,
    /// The root digest is not the one demanded.
    RootDigest,
    /// A root digest was demanded of a volume, which has none.
    NotPacked,
    /// A key was given for a public image, which no key authenticates: a root digest admits it.
    NoKeyAdmits,
    /// No key was given for an image that only a key opens.
    KeyNeeded,
    /// The volume lies over images, and not all of them were given, or more.
    Lowers {
        /// Images that it lies over.
        needed: usize,
        /// Images that were given.
        given: usize,
    },
}

/// A failure of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendError {
    /// What was tried.
    pub operation: BackendOperation,
    /// Byte offset, where one applies.
    pub offset_bytes: u64,
    /// The host's error number, 0 when it gave none.
    pub errno: i32,
}

/// What the backend was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendOperation {
    /// Read bytes.
    Read,
    /// Fewer bytes came than were asked for.
    ShortRead,
    /// Write bytes.
    Write,
    /// Make writes durable.
    Flush,
    /// Give blocks back.
    Discard,
    /// Tell the length.
    Length,
    /// Grow.
    Grow,
}

/// What went wrong with an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorError {
    /// It does not exist; opening never creates one.
    Missing,
    /// It could not be read or written.
    Unreachable(String),
    /// It holds bytes that are not an anchor's.
    Malformed,
    /// Somebody else advanced it.
    Conflict,
}

/// Why a volume went read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latched {
    /// The first failure, as one line.
    pub cause: String,
}

/// A request that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The volume would be smaller than 4 MiB or larger than 2^39 blocks.
    VolumeSize(u64),
    /// The backend is too small for the volume.
    BackendSize {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes that the backend has and can grow to.
        actual_bytes: u64,
    },
    /// An option is out of its range.
    Option(&'static str),
    /// A label longer than 64 bytes.
    Label,
    /// What was to be sealed is not what was measured.
    ContentChanged,
    /// All key slots are in use, or a slot body is too long.
    KeySlots,
    /// The new volume key is the old one, or there were 2^32 before it.
    VolumeKey,
    /// The volume key cannot be changed while something that the one before it sealed is left.
    KeyRotation,
}

impl Posix {
    /// The Linux error number.
    pub const fn errno(self) -> i32 {
        match self {
            Posix::NotFound => 2,
            Posix::Exists => 17,
            Posix::NotDirectory => 20,
            Posix::IsDirectory => 21,
            Posix::NotEmpty => 39,
            Posix::NameTooLong => 36,
            Posix::NotPermitted => 1,
            Posix::AccessDenied => 13,
            Posix::NoSpace => 28,
            Posix::ReadOnly => 30,
            Posix::TooManyLinks => 31,
            Posix::FileTooBig => 27,
            Posix::NoAttribute => 61,
            Posix::BufferTooSmall => 34,
            Posix::TooLong => 7,
            Posix::InvalidArgument => 22,
            Posix::NotSupported => 95,
            Posix::Busy => 16,
            Posix::NoSuchOffset => 6,
            Posix::Stale => 116,
            Posix::SymlinkLoop => 40,
        }
    }
}

impl Error {
    /// The Linux error number that a system call would return.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Posix(outcome) => outcome.errno(),
            Error::Tampered(_) | Error::RolledBack(_) | Error::Corrupt(_) | Error::Rng | Error::Anchor(_) => 5,
            Error::Malformed(_) | Error::Incompatible(_) | Error::Invalid(_) => 22,
            Error::Backend(failure) if failure.errno == 28 => 28,
            Error::Backend(_) => 5,
            Error::WrongKey => 126,
            Error::Latched(_) => 30,
        }
    }
}

impl BackendError {
    /// Whether the host had no space for a write.
    pub(crate) fn is_no_space(&self) -> bool {
        self.operation == BackendOperation::Write && self.errno == Posix::NoSpace.errno()
    }
}

impl From<Posix> for Error {
    fn from(outcome: Posix) -> Error {
        Error::Posix(outcome)
    }
}

macro_rules! from {
    ($($inner:ident),*) => {
        $(impl From<$inner> for Error {
            fn from(inner: $inner) -> Error {
                Error::$inner(inner)
            }
        })*
    };
}
from!(Tampered, RolledBack, Corrupt, Malformed, Incompatible, Latched, Invalid);

impl From<BackendError> for Error {
    fn from(inner: BackendError) -> Error {
        Error::Backend(inner)
    }
}

impl From<AnchorError> for Error {
    fn from(inner: AnchorError) -> Error {
        Error::Anchor(inner)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Posix(outcome) => outcome.fmt(f),
            Error::Tampered(what) => what.fmt(f),
            Error::RolledBack(what) => what.fmt(f),
            Error::Corrupt(what) => write!(f, "authentic but inconsistent: {what:?}; run fsck.sefs and report this"),
            Error::Malformed(what) => what.fmt(f),
            Error::Incompatible(what) => what.fmt(f),
            Error::Backend(failure) => failure.fmt(f),
            Error::WrongKey => f.write_str("wrong key: no key slot of this volume opens with it"),
            Error::Rng => f.write_str("the random generator failed; nothing was written"),
            Error::Anchor(what) => what.fmt(f),
            Error::Latched(latched) => write!(f, "the volume is read-only since an earlier failure: {}", latched.cause),
            Error::Invalid(what) => what.fmt(f),
        }
    }
}

impl fmt::Display for Posix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Posix::NotFound => "no such file or directory",
            Posix::Exists => "file exists",
            Posix::NotDirectory => "not a directory",
            Posix::IsDirectory => "is a directory",
            Posix::NotEmpty => "directory not empty",
            Posix::NameTooLong => "name too long",
            Posix::NotPermitted => "operation not permitted",
            Posix::AccessDenied => "permission denied",
            Posix::NoSpace => "no space left in the volume",
            Posix::ReadOnly => "read-only filesystem",
            Posix::TooManyLinks => "too many links",
            Posix::FileTooBig => "file too large",
            Posix::NoAttribute => "no such attribute",
            Posix::BufferTooSmall => "buffer too small",
            Posix::TooLong => "value too long",
            Posix::InvalidArgument => "invalid argument",
            Posix::NotSupported => "operation not supported",
            Posix::Busy => "resource busy",
            Posix::NoSuchOffset => "no data or hole past this offset",
            Posix::Stale => "stale file handle",
            Posix::SymlinkLoop => "too many levels of symbolic links",
        })
    }
}

impl fmt::Display for Tampered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tampered::Header => f.write_str("tampered: the header does not authenticate"),
            Tampered::CheckpointSlots => f.write_str("tampered: neither checkpoint slot authenticates"),
            Tampered::Node { addr, level } => {
                write!(f, "tampered: the level-{level} tree node at block {addr} does not authenticate")
            }
            Tampered::Data { addr, object, block } => write!(
                f,
                "tampered: the data block at block {addr} (object {object}, block {block}) does not authenticate"
            ),
            Tampered::AllocPage { group, level } => {
                write!(f, "tampered: the level-{level} allocation page of group {group} does not authenticate")
            }
            Tampered::RootBlock => f.write_str("tampered: the image's root block does not authenticate"),
            Tampered::Padding { addr } => write!(f, "tampered: the padding at block {addr} is not zero"),
            Tampered::EpochPage { index } => write!(f, "tampered: epoch page {index} does not authenticate"),
            Tampered::LogGroup { lsn } => {
                write!(f, "tampered: the log group at {lsn}, which was flushed, is not there or does not authenticate")
            }
        }
    }
}

impl fmt::Display for RolledBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RolledBack::Anchor { counter } => {
                write!(
                    f,
                    "rolled back: the volume does not lead to the state that its anchor holds (counter {counter})"
                )
            }
            RolledBack::Header { generation } => {
                write!(f, "rolled back: header generation {generation} is not the one that the checkpoint accepts")
            }
            RolledBack::NewerCheckpoint { generation } => {
                write!(f, "another writer put checkpoint {generation} on this volume while it was open")
            }
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::NotSefs => f.write_str("not a SEFS image"),
            Malformed::Truncated { expected_bytes, actual_bytes } => {
                write!(f, "truncated: the header names {expected_bytes} bytes, there are {actual_bytes}")
            }
            Malformed::Longer { expected_bytes, actual_bytes } => {
                write!(
                    f,
                    "something follows the image: the header names {expected_bytes} bytes, there are {actual_bytes}"
                )
            }
            Malformed::HeaderField(field) => write!(f, "malformed header: {field} is out of range"),
        }
    }
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Incompatible::FormatVersion(version) => {
                write!(f, "format version {version} is not supported; use a newer release")
            }
            Incompatible::Features(flags) => {
                write!(f, "feature flags {flags:#x} are not supported; use a newer release")
            }
            Incompatible::Suite(suite) => write!(f, "suite {suite} is not supported"),
            Incompatible::ImageType(kind) => write!(f, "image type {kind} is not what was asked for"),
            Incompatible::VolumeId => f.write_str("the volume's id is not the one demanded"),
            Incompatible::AnchorRequired => {
                f.write_str("this volume is anchored; give its anchor, or --abandon-anchor to open it without")
            }
            Incompatible::OtherAnchor => f.write_str("the anchor that was given is another volume's"),
            Incompatible::NotAnchored => f.write_str("this volume has no anchor, but one was given"),
            Incompatible::RootDigest => f.write_str("the image's root digest is not the one demanded"),
            Incompatible::NotPacked => f.write_str("this is a read-write volume, which has no root digest"),
            Incompatible::NoKeyAdmits => {
                f.write_str("this image is public: no key authenticates it, only its root digest does")
            }
            Incompatible::KeyNeeded => f.write_str("this image is encrypted: it takes a key"),
            Incompatible::Lowers { needed, given } => {
                write!(f, "this volume lies over images: it needs {needed} of them, and {given} were given")
            }
        }
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.operation {
            BackendOperation::Read => "read",
            BackendOperation::ShortRead => "read to the end",
            BackendOperation::Write => "write",
            BackendOperation::Flush => "flush",
            BackendOperation::Discard => "discard",
            BackendOperation::Length => "tell its length",
            BackendOperation::Grow => "grow",
        };
        write!(f, "the backend failed to {what} at byte {}", self.offset_bytes)?;
        if self.errno != 0 {
            write!(f, " (host error {})", self.errno)?;
        }
        Ok(())
    }
}

impl fmt::Display for AnchorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnchorError::Missing => f.write_str("the anchor does not exist; opening never creates one"),
            AnchorError::Unreachable(why) => write!(f, "the anchor is unreachable: {why}"),
            AnchorError::Malformed => f.write_str("the anchor's content is not an anchor"),
            AnchorError::Conflict => f.write_str("the anchor was advanced by somebody else"),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalid::VolumeSize(bytes) => {
                write!(f, "a volume of {bytes} bytes is not possible: 4 MiB to 2 PiB are")
            }
            Invalid::BackendSize { needed_bytes, actual_bytes } => {
                write!(f, "the backend has {actual_bytes} bytes, the volume needs {needed_bytes}")
            }
            Invalid::Option(name) => write!(f, "option {name} is out of its range"),
            Invalid::ContentChanged => {
                f.write_str("the content changed between the two passes over it; nothing was kept")
            }
            Invalid::Label => f.write_str("a label has at most 64 bytes"),
            Invalid::KeySlots => f.write_str("no free key slot, or the slot's body is too long"),
            Invalid::VolumeKey => f.write_str("the new volume key is no new one"),
            Invalid::KeyRotation => f.write_str("the rotation of the volume key before has not ended"),
        }
    }
}

impl core::error::Error for Error {}
