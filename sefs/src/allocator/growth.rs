//! What the trees may still grow by while nothing is added to the volume.
//!
//! A block's proof (its tag, and its part of a run) is small when a file was written in one piece: one run for a chunk of 64
//! blocks. Overwritten block by block each has a run of its own, and the leaves become several times as many. They need
//! whole quads, of which a nearly full volume has no new ones: what data give back there are single blocks of quads whose
//! other blocks are in use. So the quads that the leaves may come to need are left to them from the beginning; otherwise a
//! volume that was filled in order is full one day, though it holds no more than it did.
//!
//! *What it is*: leaves that hold nothing but chunks of single runs, for all data blocks, less those that chunks have now.
//! How many those are is not counted, but bounded from below in two ways, of which the greater holds: the tags in full leaves;
//! and all blocks of nodes less a generous 1 KiB for each inode and its name.
//!
//! *What notices*: `store::tests::room::overwriting_at_random_needs_no_more_than_what_was_there_when_it_was_full`.

/// Bytes of leaves for a data block that is a run of its own: the run 32, the tag 16, a 64th of key and head of the chunk
/// 1; and leaves that are filled to some 60 %.
const MOST_BYTES: u64 = 82;
/// Bytes for a block of a whole run: the tag 16, a 64th of run, key and head 1.5.
const LEAST_BYTES: u64 = 17;
/// Bytes of leaves for an inode with its name, counted high: what is left is taken for chunks, and must not be more than those.
const INODE_BYTES: u64 = 1024;
const BLOCK_BYTES: u64 = crate::types::BLOCK_SIZE_U64;

/// What is known of the trees.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Trees {
    /// Blocks of their nodes.
    pub(crate) node_blocks: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

impl Trees {
    /// Blocks that the nodes may grow by if there are so many data blocks.
    pub(super) fn growth(self, data_blocks: u64) -> u64 {
        let of = |bytes: u64, count: u64| bytes.saturating_mul(count) / BLOCK_BYTES;
        let chunks = self.node_blocks.saturating_sub(of(INODE_BYTES, self.inodes)).max(of(LEAST_BYTES, data_blocks));
        of(MOST_BYTES, data_blocks).saturating_sub(chunks)
    }
}

/// Of so many blocks, those that data may have if the growth that they bring is to have the others.
pub(super) fn with_growth(blocks: u64) -> u64 {
    blocks - blocks.saturating_mul(MOST_BYTES).div_ceil(BLOCK_BYTES + MOST_BYTES).min(blocks)
}
