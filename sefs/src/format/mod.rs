//! Bytes to values and back: total functions, no I/O, no cryptography beyond digests and the header's code.
//!
//! Every stored type has one decoder. It takes bytes of any content and length, allocates no more than they justify, and
//! returns a value that needs no further check of its own; encoders panic only for values that the decoder would refuse.

mod alloc_entry;
mod block_ref;
mod checkpoint;
mod chunk;
mod codec;
mod epoch_page;
mod group;
mod header;
mod inode;
mod key;
mod packed_root;
mod proof;
mod record;

pub use alloc_entry::{ALLOC_ENTRY_LEN, ALLOC_FANOUT, ALLOC_HOMES, ALLOC_ROOT_LEN, AllocEntry};
pub(crate) use block_ref::OWN_SOURCE;
pub use block_ref::{BLOCK_REF_LEN, BlockRef, block_ref_len};
pub use checkpoint::{
    AnchorBinding, AnchorKind, AnchorPolicy, CHECKPOINT_LEN, Checkpoint, EpochPageRef, FILES_TREE, MAX_EPOCH_PAGES,
    MAX_EPOCHS, MAX_ROOTS, MAX_TREE_LEVEL, Rotation, SYSTEM_TREE, TreeRoot,
};
pub use chunk::{BlockLoc, BlockState, Chunk, Patch, nonce_at};
pub use codec::Decoded;
pub(crate) use codec::ID_END;
pub use epoch_page::{ENTRIES_PER_EPOCH_PAGE, EPOCH_PAGE_PAYLOAD_LEN, EpochEntry, EpochPage, LIVE_UNKNOWN};
pub use group::{
    GROUP_ASSOCIATED_LEN, GROUP_BODY_HEAD_LEN, GROUP_PREFIX_LEN, GroupBody, GroupPrefix, LogRecord, RECORD_HEAD_LEN,
};
pub use header::{
    CHECKPOINT_SLOTS, FEATURE_LAYERED, FEATURE_ROTATED, HEADER_BLOCKS, HEADER_LEN, HEADER_MAGIC, Header, ImageType,
    KeySlot, MAX_KEY_SLOTS, MAX_LABEL_LEN, MAX_SLOT_BODY, MAX_TOTAL_BLOCKS, MIN_TOTAL_BLOCKS, PACKED_DATA_ADDR,
    PACKED_ROOT_ADDR, RING_START, SUITE_AES_256_GCM, VerifiedHeader, ring_blocks_for, usable_blocks,
};
pub use inode::{FileKind, INODE_FIXED_LEN, Inode, InodeFlags, MAX_FILE_SIZE};
pub use key::{KEY_LEN, Key, Kind, MAX_VALUE_LEN};
pub use packed_root::{PACKED_ROOT_LEN, PackedRoot};
pub use proof::{Digest, Proof, ProofKind};
pub use record::{
    DirEntryRecord, FIRST_NAME_KEY, INLINE_FILE_MAX, JobRecord, LOWER_NOTE_MAX, LowerRecord, MAX_JOB_EPOCHS,
    MAX_LOWERS, NAME_DISCRIMINATORS, NAME_MAX, OrphanRecord, RangeRecord, SYMLINK_MAX, SpaceRecord, XATTR_PART_LEN,
    XATTR_VALUE_MAX, XattrHead, name_hash, name_key, xattr_key,
};

/// The version of the format that this library writes and reads.
pub const FORMAT_VERSION: u16 = 1;

#[cfg(test)]
mod any;
#[cfg(test)]
pub(crate) use header::tests::example as example_header;
#[cfg(all(test, feature = "std"))]
mod page_tests;
