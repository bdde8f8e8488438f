//! What a checkpoint changes in a tree, as absolute values in key order.
//!
//! Patches of a frozen layer are applied to the stored chunks, blocks of old epochs are sealed anew as a slice has planned
//! it, and each object's space record follows its chunks.

use alloc::collections::{BTreeMap, BTreeSet, btree_map};
use alloc::vec::Vec;
use core::iter::Peekable;

use crate::allocator::Extent;
use crate::error::Result;
use crate::format::{BlockLoc, BlockState, Chunk, Key, OWN_SOURCE, Patch, SpaceRecord};
use crate::merge::Change;
use crate::store::Store;
use crate::store::layer::Entry;
use crate::store::read::{record_error, space_key};
use crate::store::reseal::Planned;
use crate::tree::Root;
use crate::types::{EpochId, ObjectId};

/// What merging found out.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) unwritten: i64,
    pub(super) epochs: BTreeMap<EpochId, i64>,
    pub(super) nodes: i64,
    /// A block that was to be sealed anew could not be read.
    pub(super) left_one: bool,
}

impl Totals {
    pub(super) fn add(&mut self, other: Totals) {
        self.unwritten += other.unwritten;
        self.nodes += other.nodes;
        self.left_one |= other.left_one;
        for (epoch, delta) in other.epochs {
            *self.epochs.entry(epoch).or_default() += delta;
        }
    }
}

/// The changes of one tree.
pub(super) struct Changes<'a, I: Iterator<Item = (&'a Key, &'a Entry)>> {
    store: &'a Store,
    root: Option<Root>,
    entries: Peekable<I>,
    planned: Peekable<btree_map::Range<'a, Key, Planned>>,
    old_epochs: &'a BTreeSet<EpochId>,
    space: Option<(ObjectId, i64)>,
    pub(super) totals: Totals,
}

impl<'a, I: Iterator<Item = (&'a Key, &'a Entry)>> Changes<'a, I> {
    pub(super) fn new(
        store: &'a Store,
        root: Option<Root>,
        entries: I,
        planned: btree_map::Range<'a, Key, Planned>,
        old_epochs: &'a BTreeSet<EpochId>,
    ) -> Self {
        let (entries, planned) = (entries.peekable(), planned.peekable());
        Changes { store, root, entries, planned, old_epochs, space: None, totals: Totals::default() }
    }

    fn step(&mut self) -> Result<Option<Change>> {
        loop {
            let next = [self.entries.peek().map(|(key, _)| **key), self.planned.peek().map(|(key, _)| **key)];
            let next = next.into_iter().flatten().min();
            if let Some((object, delta)) = self.space
                && next.is_none_or(|key| key > space_key(object))
            {
                self.space = None;
                return self.space_change(object, delta).map(Some);
            }
            let Some(key) = next else { return Ok(None) };
            let entry = self.entries.next_if(|(at, _)| **at == key).map(|(_, entry)| entry);
            let planned = self.planned.next_if(|(at, _)| **at == key).map(|(_, planned)| planned);
            let value = match (entry, planned) {
                (_, Some(Planned::Record(value))) => value.clone(),
                (Some(Entry::Chunk(chunk)), planned) => {
                    debug_assert!(chunk.pages.is_empty(), "a logged layer holds no pages");
                    self.merge_chunk(key, &chunk.patch, planned)?
                }
                (Some(Entry::Put(bytes)), _) => Some(bytes.clone()),
                (Some(Entry::Delete), _) => self.store.absence(key)?,
                (None, Some(Planned::Blocks(_))) => self.merge_chunk(key, &Patch::default(), planned)?,
                // Its space record comes behind an object's chunks anyway.
                (None, Some(Planned::Same(_))) if self.space.is_some_and(|(object, _)| space_key(object) == key) => {
                    continue;
                }
                (None, Some(Planned::Same(value))) => Some(value.clone()),
                (None, None) => continue,
            };
            return Ok(Some((key, value)));
        }
    }

    fn merge_chunk(&mut self, key: Key, patch: &Patch, planned: Option<&Planned>) -> Result<Option<Vec<u8>>> {
        let is_layered = self.store.lowers.may_have(key.object);
        let below = if is_layered { self.store.chunk_below(key)? } else { Some(Chunk::default()) };
        let own = self.store.own_chunk(self.root, key)?;
        let old = match &below {
            Some(below) if is_layered => own.over(below),
            Some(_) | None => own,
        };
        let mut new = old.clone();
        let mut released: Vec<BlockLoc> = Vec::new();
        match below {
            Some(_) => new.apply(patch, &mut |loc| released.push(loc)),
            None => new.apply_over_unknown(patch, &mut |loc| released.push(loc)),
        }
        if let Some(Planned::Blocks(most)) = planned {
            let (moved, left_one) = self.store.reseal_chunk(key, &new, self.old_epochs, *most)?;
            match below {
                Some(_) => new.apply(&moved, &mut |loc| released.push(loc)),
                None => new.apply_over_unknown(&moved, &mut |loc| released.push(loc)),
            }
            self.totals.left_one |= left_one;
        }
        let own = released.iter().filter(|loc| loc.source == OWN_SOURCE);
        let runs = Extent::runs(own.map(|loc| loc.addr));
        runs.into_iter().try_for_each(|run| self.store.alloc.release_frozen(run))?;
        self.count_epochs(&old, -1);
        self.count_epochs(&new, 1);
        self.totals.unwritten += i64::from(new.unwritten_blocks()) - i64::from(old.unwritten_blocks());
        let used = |chunk: &Chunk| i64::from(chunk.data_blocks() + chunk.unwritten_blocks());
        let delta = used(&new) - used(&old);
        let before = self.space.map_or(0, |(_, delta)| delta);
        self.space = Some((ObjectId(key.object), before + delta));
        if let Some(below) = below.as_ref().filter(|_| is_layered) {
            new = new.apart_from(below);
        }
        Ok(if new.is_empty() { None } else { Some(new.encode()) })
    }

    fn count_epochs(&mut self, chunk: &Chunk, sign: i64) {
        for (_, state) in chunk.iter() {
            if let BlockState::Data(loc) = state
                && loc.source == OWN_SOURCE
            {
                *self.totals.epochs.entry(loc.epoch).or_default() += sign;
            }
        }
    }

    fn space_change(&mut self, object: ObjectId, delta: i64) -> Result<Change> {
        let key = space_key(object);
        let old = match (self.store.corrected_space(object), self.store.stored_record(self.root, key)?) {
            (Some(blocks), _) => blocks,
            (None, Some(bytes)) => match SpaceRecord::decode(&bytes) {
                Ok(record) => record.data_blocks,
                // What an image says there cannot be used; the check tells.
                Err(_) if self.store.lowers.may_have(object.0) => 0,
                Err(why) => return Err(record_error(key, why)),
            },
            (None, None) => 0,
        };
        let blocks = old.saturating_add_signed(delta);
        let value = match blocks {
            0 => self.store.absence(key)?,
            _ => Some(SpaceRecord { data_blocks: blocks }.encode()),
        };
        Ok((key, value))
    }
}

impl<'a, I: Iterator<Item = (&'a Key, &'a Entry)>> Iterator for Changes<'a, I> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
