//! Ids and addresses: newtypes, so that no two of them are confused.

/// Bytes of a block, the unit of addresses, of sealing and of file data.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes of a block, as a 64-bit value.
pub const BLOCK_SIZE_U64: u64 = 4096;
/// Blocks of one extent chunk (256 KiB).
pub const CHUNK_BLOCKS: u64 = 64;
/// Blocks of one allocation group (128 MiB).
pub const GROUP_BLOCKS: u64 = 32_768;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A block's place on the backend, counted in blocks from its start.
    BlockAddr(u64)
);
id!(
    /// An inode's number; 1 is the root directory.
    InodeNo(u64)
);
id!(
    /// What content hangs on. Inode numbers and object ids come from one counter, so no two things share a number.
    ObjectId(u64)
);
id!(
    /// A place in the log's endless stream, counted in ring blocks.
    Lsn(u64)
);
id!(
    /// The number of a checkpoint; it never repeats.
    Generation(u64)
);
id!(
    /// The number of an epoch: of a set of data, node and log keys.
    EpochId(u32)
);

impl InodeNo {
    /// The root directory.
    pub const ROOT: InodeNo = InodeNo(1);
}

impl From<InodeNo> for ObjectId {
    fn from(ino: InodeNo) -> ObjectId {
        ObjectId(ino.0)
    }
}

/// A point in time: seconds and nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}
