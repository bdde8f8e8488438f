//! Range tombstones: "these chunks of this object read as holes, whatever older records say".
//!
//! A truncation or a deletion of a large file writes one record instead of one for each chunk; a background job resets the
//! chunks in slices and moves the tombstone's start along. All tombstones are held in memory: they are records of the
//! system tree, few, and read when the volume is opened.
//!
//! *Invariant*: a chunk inside a tombstone has no content. Whoever gives it content first takes it out of the tombstone
//! and resets it, under the same lock.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::types::ObjectId;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) id: u64,
    pub(super) object: ObjectId,
    pub(super) first_chunk: u64,
    pub(super) end_chunk: u64,
}

#[derive(Default)]
pub(super) struct Ranges {
    by_id: BTreeMap<u64, Range>,
    by_object: BTreeMap<ObjectId, Vec<u64>>,
}

impl Ranges {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn first(&self) -> Option<Range> {
        self.by_id.values().next().copied()
    }

    pub(super) fn by_id(&self, id: u64) -> Option<Range> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn set(&mut self, range: Range) {
        if self.by_id.insert(range.id, range).is_none() {
            self.by_object.entry(range.object).or_default().push(range.id);
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(range) = self.by_id.remove(&id)
            && let Some(ids) = self.by_object.get_mut(&range.object)
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_object.remove(&range.object);
            }
        }
    }

    pub(super) fn covering(&self, object: ObjectId, chunk: u64) -> Option<Range> {
        if self.by_id.is_empty() {
            return None;
        }
        let ids = self.by_object.get(&object)?;
        let ranges = ids.iter().filter_map(|id| self.by_id.get(id));
        ranges.copied().find(|range| (range.first_chunk..range.end_chunk).contains(&chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_its_chunks_and_no_others() {
        let mut ranges = Ranges::default();
        ranges.set(Range { id: 9, object: ObjectId(4), first_chunk: 3, end_chunk: 6 });
        ranges.set(Range { id: 10, object: ObjectId(4), first_chunk: 8, end_chunk: u64::MAX });
        let covered: Vec<u64> = (0..12).filter(|chunk| ranges.covering(ObjectId(4), *chunk).is_some()).collect();
        assert_eq!(covered, [3, 4, 5, 8, 9, 10, 11]);
        assert!(ranges.covering(ObjectId(5), 4).is_none());
        ranges.remove(9);
        assert!(ranges.covering(ObjectId(4), 4).is_none());
        assert_eq!(ranges.len(), 1);
    }
}
