//! A store opened for a repair: what a check of the whole volume found to be true is laid over what is stored.
//!
//! Everything becomes durable at once, with the slot of the first checkpoint: until then the older state stands as it was,
//! and nothing that it reaches is overwritten. So a repair that is cut off anywhere has happened, or has not.
//!
//! *Security*: nothing here is taken from the backend; whoever repairs has seen all of it authenticate, or names what is
//! given up.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::allocator::{Extent, Made};
use crate::error::Result;
use crate::format::{BlockLoc, BlockRef, Key, Kind, Patch, SpaceRecord};
use crate::store::read::{range_of, space_key};
use crate::store::{Layers, Store};
use crate::suite::Nonce;
use crate::types::{BLOCK_SIZE, BlockAddr, EpochId, Lsn, ObjectId};

/// A node: its place, and its nonce, which no other node has.
pub(crate) type NodeName = (BlockAddr, Nonce);

/// Nodes that are given up.
#[derive(Clone, Default)]
pub(crate) struct GivenUp {
    pub(crate) nodes: BTreeSet<NodeName>,
    /// The nodes above them.
    pub(crate) above: BTreeSet<NodeName>,
}

impl GivenUp {
    pub(crate) fn extend(&mut self, other: GivenUp) {
        self.nodes.extend(other.nodes);
        self.above.extend(other.above);
    }
}

/// What a repair lays over a volume.
#[derive(Default)]
pub(crate) struct Corrections {
    pub(crate) given_up: GivenUp,
    /// The log ends here; what follows never happened.
    pub(crate) log_end: Option<Lsn>,
    /// Allocation pages, if those that are stored are wrong.
    pub(crate) allocation: Option<Made>,
    /// What is marked in use in these pages and is not.
    pub(crate) leaked: Vec<Extent>,
    /// Live blocks by epoch; an epoch that is not named has none.
    pub(crate) live: BTreeMap<EpochId, u64>,
    pub(crate) nodes: u64,
    pub(crate) unwritten: u64,
    /// All inodes, after the records below.
    pub(crate) inodes: u64,
    /// No number from here on is in use.
    pub(crate) next_id: u64,
    /// Blocks of the stored chunks of objects whose space record is wrong.
    pub(crate) spaces: BTreeMap<ObjectId, u64>,
    pub(crate) patches: BTreeMap<Key, Patch>,
    pub(crate) records: BTreeMap<Key, Option<Vec<u8>>>,
}

impl Store {
    /// Before the log is read: counters that are stored wrongly.
    pub(super) fn correct_counts(&self) {
        let Some(corrections) = &self.corrections else { return };
        for (epoch, _) in self.sealer.epochs() {
            self.sealer.set_live(epoch, corrections.live.get(&epoch).copied().unwrap_or(0));
        }
        self.node_count.store(corrections.nodes, Ordering::Relaxed);
        self.say_trees(corrections.nodes, corrections.inodes);
        self.slots.lock().newest.unwritten_blocks = corrections.unwritten;
        self.layers.write().unwritten_stored = corrections.unwritten;
    }

    /// After the log was applied: records and blocks. The next checkpoint merges them; no log group ever names them.
    pub(super) fn correct_records(&self) -> Result<()> {
        let Some(corrections) = &self.corrections else { return Ok(()) };
        let mut released: Vec<BlockLoc> = Vec::new();
        let mut layers = self.layers.write();
        let layers = &mut *layers;
        for (key, patch) in &corrections.patches {
            layers.active.merge_patch(*key, patch, &mut |loc| released.push(loc));
        }
        for (key, value) in &corrections.records {
            if key.kind == Kind::Range {
                match value {
                    Some(bytes) => layers.ranges.set(range_of(*key, bytes)?),
                    None => layers.ranges.remove(key.offset),
                }
            }
            layers.active.set(*key, value.clone());
        }
        for (object, blocks) in &corrections.spaces {
            // Where chunks change too, the merge counts from the corrected number.
            if !layers.has_chunks(*object) {
                let record = (*blocks > 0).then(|| SpaceRecord { data_blocks: *blocks }.encode());
                layers.active.set(space_key(*object), record);
            }
        }
        (layers.inodes, layers.inodes_logged) = (corrections.inodes, corrections.inodes);
        layers.next_id.fetch_max(corrections.next_id, Ordering::Relaxed);
        self.release_logged(&mut layers.ring_active, &released)?;
        corrections.leaked.iter().try_for_each(|extent| self.alloc.release(*extent))?;
        if corrections.log_end.is_some() {
            self.jump_over_the_rest();
        }
        Ok(())
    }

    /// A log that was cut goes on behind everything that may stand in the ring, so that nothing of it is ever taken for
    /// a group of the log again.
    fn jump_over_the_rest(&self) {
        let mut log = self.log.lock();
        log.next = Lsn(log.tail.0 + self.ring.blocks);
        log.flushed = log.next;
    }

    /// Makes the corrections durable.
    pub(crate) fn write_corrections(&self) -> Result<()> {
        self.start_epoch()?;
        self.close()
    }

    pub(super) fn is_in(&self, reference: &BlockRef, nodes: fn(&GivenUp) -> &BTreeSet<NodeName>) -> bool {
        let corrections = self.corrections.as_ref();
        corrections.is_some_and(|all| nodes(&all.given_up).contains(&(reference.addr, reference.nonce)))
    }

    /// The stored number of an object's blocks where its record is wrong; until the first checkpoint has put it right.
    pub(super) fn corrected_space(&self, object: ObjectId) -> Option<u64> {
        let corrections = self.corrections.as_ref()?;
        let first = self.base_generation() == self.opened_at;
        corrections.spaces.get(&object).copied().filter(|_| first)
    }

    pub(super) fn has_made_pages(&self) -> bool {
        self.corrections.as_ref().is_some_and(|corrections| corrections.allocation.is_some())
    }

    pub(super) fn made_page(&self, level: u8, first_group: u64) -> Option<Box<[u8; BLOCK_SIZE]>> {
        let made = self.corrections.as_ref()?.allocation.as_ref()?;
        made.page(level, first_group).map(|page| Box::new(*page))
    }
}

impl Layers {
    fn has_chunks(&self, object: ObjectId) -> bool {
        let (from, end) = (Key::new(object.0, Kind::Extent, 0), space_key(object));
        self.active.range(from, end).next().is_some()
    }
}
