//! What a check takes for given: damage that was accepted, and records that are to be put. With it a check tells what a
//! volume would be like, and a repair is tried out without a write.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::log::Replay;
use crate::format::{BlockState, Key, Patch};
use crate::types::{BlockAddr, CHUNK_BLOCKS, Lsn, ObjectId};

/// Assumptions of a check.
#[derive(Clone, Default)]
pub(crate) struct Amend {
    /// Nodes that are taken for gone, with all below them.
    pub(crate) nodes: BTreeSet<BlockAddr>,
    /// The log ends here, whatever follows.
    pub(crate) log_end: Option<Lsn>,
    /// Allocation pages that do not authenticate are no error.
    pub(crate) allocation: bool,
    /// Blocks that are holes.
    pub(crate) cleared: BTreeSet<(ObjectId, u64)>,
    /// Records that are put, or deleted.
    pub(crate) records: BTreeMap<Key, Option<Vec<u8>>>,
}

impl Amend {
    /// The cleared blocks as patches of their chunks.
    pub(crate) fn patches(&self) -> BTreeMap<Key, Patch> {
        let mut patches: BTreeMap<Key, Patch> = BTreeMap::new();
        for (object, block) in &self.cleared {
            let key = Key::new(object.0, crate::format::Kind::Extent, block / CHUNK_BLOCKS);
            // The remainder is below 64.
            let index = u8::try_from(block % CHUNK_BLOCKS).unwrap_or(0);
            patches.entry(key).or_default().set(index, BlockState::Absent, &mut |_| {});
        }
        patches
    }

    /// Lays everything over what the log says.
    pub(super) fn lay_over(&self, replay: &mut Replay) {
        for (key, patch) in self.patches() {
            replay.patch(key, &patch);
        }
        for (key, value) in &self.records {
            replay.put(*key, value.clone());
        }
    }
}
