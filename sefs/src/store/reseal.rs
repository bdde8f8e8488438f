//! Sealing anew whatever a set of epochs sealed: one bounded slice of it, as a part of a checkpoint.
//!
//! A slice looks at the trees that the checkpoint merges, from a key on, and plans: which chunks have blocks of the set, and
//! which records lead through nodes of the set. Merging then moves those blocks and builds those nodes again. So nothing can
//! race with it: the checkpoint's trees are nobody else's, a writer's newer word lies in a layer above them, and readers of
//! the older state have pinned it. After the trees come the allocation pages, so many groups a slice.
//!
//! *Security*: a block is authenticated before it is sealed again, under the current epoch, at another address and with a
//! fresh nonce. What does not authenticate stays as it is: this job must never be what hides tampering, nor be stopped by it.
//!
//! *Invariants*: no block is ever sealed with an epoch of the set, and no log group names one that is not merged; so behind
//! the cursor there is nothing of the set but what could not be read, and it stays so.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Range;

use crate::backend::Io;
use crate::error::{Error, Result};
use crate::format::{BlockLoc, BlockState, Chunk, JobRecord, Key, Kind, OWN_SOURCE, Patch};
use crate::node::Node;
use crate::store::read::Block;
use crate::store::{FILES_FROM, Store};
use crate::tree::{Place, Root};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, CHUNK_BLOCKS, EpochId, ObjectId};

/// What a slice is to do.
pub(super) struct Order<'a> {
    /// Nothing at all is to be done without this, not even an end to be noted.
    pub(super) is_job: bool,
    /// The epochs.
    pub(super) epochs: &'a BTreeSet<EpochId>,
    /// The first key that is not done; see [`pages_from`].
    pub(super) from: Key,
    pub(super) budget: Budget,
    /// Nothing of the set was left out so far, in this mount.
    pub(super) is_whole: bool,
}

/// What a slice may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Budget {
    /// Leaves that are looked at.
    pub(super) leaves: u64,
    /// Leaves that are built again, with the nodes above them.
    pub(super) rewrites: u64,
    /// Data blocks that are moved.
    pub(super) blocks: u64,
}

/// What a slice does.
pub(super) struct Slice {
    pub(super) planned: BTreeMap<Key, Planned>,
    /// Groups whose allocation pages are looked at.
    pub(super) groups: Range<u64>,
    /// Where the next slice goes on; `None` if this is the last.
    pub(super) next: Option<Key>,
    /// How much it is: leaves looked at, blocks moved, groups.
    pub(super) units: u64,
    /// Something could not be read and stays as it is.
    pub(super) left_one: bool,
}

impl Order<'static> {
    /// For a checkpoint that does no more than it must.
    pub(super) fn nothing() -> Order<'static> {
        static NONE: BTreeSet<EpochId> = BTreeSet::new();
        let budget = Budget { leaves: 0, rewrites: 0, blocks: 0 };
        Order { is_job: false, epochs: &NONE, from: Key::MIN, budget, is_whole: false }
    }
}

impl Slice {
    /// Nothing is left to do.
    fn empty() -> Slice {
        Slice { planned: BTreeMap::new(), groups: 0..0, next: None, units: 0, left_one: false }
    }
}

/// What happens to a record of the trees.
pub(super) enum Planned {
    /// So many blocks of the chunk are sealed anew.
    Blocks(usize),
    /// It keeps its value, and the nodes that lead to it are built again if they are of the set.
    Same(Vec<u8>),
    /// The job's own record.
    Record(Option<Vec<u8>>),
}

/// Where the job's record stands.
pub(super) const JOB_KEY: Key = Key::new(0, Kind::Job, 1);
/// Groups whose allocation pages one slice looks at.
const GROUPS: u64 = 1024;

/// The cursor of a job that is done with the trees: no object has this number.
pub(super) fn pages_from(group: u64) -> Key {
    Key::new(u64::MAX, Kind::Job, group)
}

fn group_of(cursor: Key) -> Option<u64> {
    (cursor >= pages_from(0)).then_some(cursor.offset)
}

/// Whether something is wrong with what was to be read, so that it is left alone.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Tampered(_) | Error::Backend(_) | Error::Corrupt(_))
}

impl Store {
    /// Plans a slice over the trees that a checkpoint is about to merge.
    pub(super) fn plan_slice(&self, roots: [Option<Root>; 2], order: &Order<'_>) -> Result<Slice> {
        if !order.is_job {
            return Ok(Slice::empty());
        }
        let mut slice = if order.epochs.is_empty() { Slice::empty() } else { self.look_ahead(roots, order)? };
        let reencrypt = order.epochs.iter().copied().collect();
        let record = slice.next.map(|cursor| JobRecord { reencrypt, cursor }.encode());
        slice.planned.insert(JOB_KEY, Planned::Record(record));
        Ok(slice)
    }

    fn look_ahead(&self, roots: [Option<Root>; 2], order: &Order<'_>) -> Result<Slice> {
        let mut planner = Planner {
            store: self,
            order,
            left: order.budget,
            planned: BTreeMap::new(),
            stop: None,
            floor: Key::MIN,
            owed: false,
            left_one: false,
        };
        if group_of(order.from).is_none() {
            for (root, floor) in roots.into_iter().zip([Key::MIN, FILES_FROM]) {
                planner.floor = floor;
                if let Some(root) = root {
                    planner.node(&Place::root(&root)?)?;
                }
            }
        }
        let Planner { planned, stop, left, left_one, .. } = planner;
        let groups = match stop {
            Some(_) => 0..0,
            None => {
                let first = group_of(order.from).unwrap_or(0).min(self.geometry.groups());
                first..first.saturating_add(GROUPS).min(self.geometry.groups())
            }
        };
        let last = (groups.end < self.geometry.groups()).then(|| pages_from(groups.end));
        let spent = |before: u64, after: u64| before - after;
        let units = spent(order.budget.leaves, left.leaves) + spent(order.budget.blocks, left.blocks);
        let units = units + (groups.end - groups.start) + 1;
        Ok(Slice { planned, groups, next: stop.or(last), units, left_one })
    }

    /// Moves at most `most` blocks of a chunk that `epochs` sealed. Returns what replaces them, and whether one of them stays
    /// for it cannot be read.
    pub(super) fn reseal_chunk(
        &self,
        key: Key,
        chunk: &Chunk,
        epochs: &BTreeSet<EpochId>,
        most: usize,
    ) -> Result<(Patch, bool)> {
        let found: Vec<(u8, BlockLoc)> = blocks_of(chunk, epochs).take(most).collect();
        let mut patch = Patch::default();
        for run in found.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
            let first = key.block_number(run[0].0);
            let locs: Vec<BlockLoc> = run.iter().map(|(_, loc)| *loc).collect();
            self.reseal_run(ObjectId(key.object), first, &locs, &mut patch)?;
        }
        let left_one = patch.iter().count() < found.len();
        Ok((patch, left_one))
    }

    /// Moves consecutive blocks of a chunk. Those that cannot be read stay.
    fn reseal_run(&self, object: ObjectId, first_block: u64, locs: &[BlockLoc], patch: &mut Patch) -> Result<()> {
        let mut plain = alloc::vec![0; locs.len() * BLOCK_SIZE];
        let blocks: Vec<Block> = locs.iter().map(|loc| Block::Stored(*loc)).collect();
        match self.fill(object, first_block, &blocks, &mut plain) {
            Ok(()) => {}
            Err(failure) if is_damage(&failure) => {
                // One by one, all but the damaged ones can be read.
                let singly = if locs.len() > 1 { locs } else { &[] };
                let mut singly = (first_block..).zip(singly.chunks(1));
                return singly.try_for_each(|(block, loc)| self.reseal_run(object, block, loc, patch));
            }
            Err(failure) => return Err(failure),
        }
        let (mut rest, mut block, mut writes) = (plain.as_slice(), first_block, Vec::new());
        for extent in self.alloc.allocate_moved(self, locs.len() as u64)? {
            let bytes = usize::try_from(extent.blocks).map_or(usize::MAX, |blocks| blocks.saturating_mul(BLOCK_SIZE));
            let (here, later) = rest.split_at(bytes.min(rest.len()));
            let mut buf = self.backend.buffer(here.len());
            for (at, loc) in self.seal_run(block, extent, here.chunks_exact(BLOCK_SIZE), buf.bytes_mut())? {
                patch.set((at % CHUNK_BLOCKS) as u8, BlockState::Data(loc), &mut |_| {});
            }
            writes.push(Io::Write { offset_bytes: extent.addr.0 * BLOCK_SIZE_U64, buf });
            block += extent.blocks;
            rest = later;
        }
        self.submit_unnamed(writes)
    }
}

/// A chunk's blocks that one of the epochs sealed.
fn blocks_of<'a>(chunk: &'a Chunk, epochs: &'a BTreeSet<EpochId>) -> impl Iterator<Item = (u8, BlockLoc)> + 'a {
    chunk.iter().filter_map(|(block, state)| match state {
        BlockState::Data(loc) if loc.source == OWN_SOURCE && epochs.contains(&loc.epoch) => Some((block, loc)),
        BlockState::Data(_) | BlockState::Absent | BlockState::Unwritten => None,
    })
}

/// The walk that plans.
struct Planner<'a> {
    store: &'a Store,
    order: &'a Order<'a>,
    left: Budget,
    planned: BTreeMap<Key, Planned>,
    /// The first key that is not planned; the walk has ended there.
    stop: Option<Key>,
    /// The tree that is walked has no smaller key.
    floor: Key,
    /// A node on the path is of the set, and nothing planned so far leads through it.
    owed: bool,
    left_one: bool,
}

impl Planner<'_> {
    /// Plans what is below a node. No deeper than the root's level, which is at most 12.
    fn node(&mut self, place: &Place) -> Result<()> {
        if self.stop.is_some() || place.upper.is_some_and(|upper| upper <= self.order.from) {
            return Ok(());
        }
        if self.left.leaves == 0 || self.left.rewrites == 0 {
            self.stop = Some(place.lower.unwrap_or(self.floor).max(self.order.from));
            return Ok(());
        }
        let node = match place.read(self.store) {
            Ok(node) => node,
            Err(failure) if is_damage(&failure) => {
                self.left_one = true;
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        self.owed |= self.order.epochs.contains(&place.reference.epoch);
        if place.level == 0 {
            self.leaf(&node);
            return Ok(());
        }
        for i in 0..node.len() {
            match place.child(&node, i) {
                Some(child) => self.node(&child)?,
                None => self.left_one = true,
            }
        }
        Ok(())
    }

    fn leaf(&mut self, node: &Node) {
        self.left.leaves -= 1;
        let mut leads = false;
        for i in 0..node.len() {
            let key = node.key(i);
            if key < self.order.from || key.kind != Kind::Extent {
                continue;
            }
            let Ok(chunk) = Chunk::decode(node.value(i)) else {
                self.left_one = true;
                continue;
            };
            let found = blocks_of(&chunk, self.order.epochs).count() as u64;
            let take = found.min(self.left.blocks);
            self.left.blocks -= take;
            if take > 0 {
                leads = true;
                self.planned.insert(key, Planned::Blocks(take as usize));
            }
            if take < found {
                self.stop = Some(key);
                break;
            }
        }
        if self.owed && !leads {
            leads = true;
            self.planned.insert(node.first_key(), Planned::Same(node.value(0).to_vec()));
        }
        if leads {
            self.left.rewrites -= 1;
            self.owed = false;
        }
    }
}
