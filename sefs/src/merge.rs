//! Applying a batch of changes to a copy-on-write B+tree, in one pass from left to right.
//!
//! The old tree is walked along the keys of the changes. A node is taken apart only once something below it really
//! changes; from then on its untouched children are handed to the [`Spine`] whole, and the records of changed leaves one
//! by one. The spine builds the new tree bottom-up. A batch that changes nothing leaves the tree as it is.
//!
//! *Invariants*: a replaced node is released exactly once, and only nodes of the old tree are; every other old node is
//! part of the new tree. Memory: a few nodes for each level, and what the iterator holds. After an error the tree must be
//! abandoned together with all that was written and released.

mod level;
mod spine;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

use self::spine::Spine;
use crate::error::{Corrupt, Error, Result};
use crate::format::{BlockRef, Key};
use crate::node::Node;
use crate::tree::{NodeReader, Place, Root};
use crate::types::ObjectId;

/// Takes the nodes of the new tree, and those that it no longer needs.
pub(crate) trait NodeWriter {
    /// Stores a node and returns what vouches for it. Nothing reads it back before the batch is done.
    fn write(&mut self, level: u8, bytes: Vec<u8>) -> Result<BlockRef>;
    /// The new tree does without this node of the old one.
    fn release(&mut self, reference: &BlockRef);
    /// Whether the new tree must not keep this node if a change leads through it, even one that changes nothing.
    fn is_unwanted(&self, _reference: &BlockRef) -> bool {
        false
    }
}

/// A record's new value; `None` deletes it.
pub(crate) type Change = (Key, Option<Vec<u8>>);

/// Applies changes, whose keys rise strictly and whose making can fail, and returns the new root; `None` is the empty
/// tree.
pub(crate) fn try_apply<R, W>(
    reader: &R,
    writer: &mut W,
    node_size: usize,
    root: Option<Root>,
    changes: impl Iterator<Item = Result<Change>>,
) -> Result<Option<Root>>
where
    R: NodeReader + ?Sized,
    W: NodeWriter + ?Sized,
{
    let mut merge =
        Merge { reader, spine: Spine::new(reader, writer, node_size), changes, next: None, path: Vec::new() };
    merge.pull()?;
    match root {
        None => merge.insert_below(None)?,
        Some(root) => {
            let place = Place::root(&root)?;
            if !merge.merge_node(place, None)? {
                return Ok(Some(root));
            }
        }
    }
    merge.spine.finish()
}

struct Merge<'a, R: ?Sized, W: ?Sized, I> {
    reader: &'a R,
    spine: Spine<'a, R, W>,
    changes: I,
    next: Option<Change>,
    /// The nodes from the root down to where the merge stands.
    path: Vec<Step>,
}

struct Step {
    place: Place,
    node: Arc<Node>,
    /// The key under which the parent names the node.
    key: Key,
    /// Entries before this one are unchanged, or already in the spine.
    index: usize,
    /// Taken apart: released, and everything before `index` is in the spine.
    open: bool,
}

impl<R, W, I> Merge<'_, R, W, I>
where
    R: NodeReader + ?Sized,
    W: NodeWriter + ?Sized,
    I: Iterator<Item = Result<Change>>,
{
    /// Merges the changes below the node's upper bound into it; tells whether it was taken apart. `key` is the parent's
    /// key of it; the root has none.
    fn merge_node(&mut self, place: Place, key: Option<Key>) -> Result<bool> {
        if self.next_below(place.upper).is_none() && !self.reader.holds_given_up(&place.reference) {
            return Ok(false);
        }
        if self.reader.is_given_up(&place.reference) {
            self.open_path()?;
            self.spine.release(&place.reference);
            self.insert_below(place.upper)?;
            return Ok(true);
        }
        let node = place.read(self.reader)?;
        let key = key.unwrap_or_else(|| node.first_key());
        self.path.push(Step { place, node: node.clone(), key, index: 0, open: false });
        if place.level == 0 {
            self.merge_leaf(&place, &node)?;
        } else {
            self.merge_children(&place, &node, key)?;
        }
        let open = self.path.pop().is_some_and(|step| step.open);
        if open {
            self.spine.boundary(place.level, place.upper.is_none())?;
        }
        Ok(open)
    }

    fn merge_children(&mut self, place: &Place, node: &Node, key: Key) -> Result<()> {
        for i in 0..node.len() {
            let child = place.child(node, i).ok_or_else(|| not_a_child(&place.reference))?;
            let child_key = if i == 0 { key } else { node.key(i) };
            self.stand_at(i);
            if !self.merge_node(child, Some(child_key))? && self.is_open() {
                self.spine.keep(child_key, &child.reference, child.level)?;
            }
        }
        Ok(())
    }

    fn merge_leaf(&mut self, place: &Place, node: &Node) -> Result<()> {
        let mut index = 0;
        while let Some(key) = self.next_below(place.upper) {
            let (at, exists) = match node.find(key) {
                Ok(at) => (at, true),
                Err(at) => (at, false),
            };
            self.keep_records(node, index, at)?;
            index = at;
            self.stand_at(index);
            let (_, value) = self.take()?;
            match value {
                Some(value) if !exists || value != node.value(at) || self.is_unwanted() => {
                    self.open_path()?;
                    self.spine.push(0, key, &value, !exists)?;
                    index += usize::from(exists);
                }
                None if exists => {
                    self.open_path()?;
                    index += 1;
                }
                _ => {}
            }
        }
        self.keep_records(node, index, node.len())
    }

    /// Records of an open leaf that stay as they are.
    fn keep_records(&mut self, node: &Node, from: usize, to: usize) -> Result<()> {
        if self.is_open() {
            for i in from..to {
                self.spine.push(0, node.key(i), node.value(i), false)?;
            }
        }
        Ok(())
    }

    /// Puts all changes below `upper` in where no old node is.
    fn insert_below(&mut self, upper: Option<Key>) -> Result<()> {
        while self.next_below(upper).is_some() {
            if let (key, Some(value)) = self.take()? {
                self.spine.push(0, key, &value, true)?;
            }
        }
        Ok(())
    }

    /// Takes the nodes of the path apart, from the root down: something below them changes.
    fn open_path(&mut self) -> Result<()> {
        for step in self.path.iter_mut().filter(|step| !step.open) {
            step.open = true;
            self.spine.release(&step.place.reference);
            for i in 0..step.index {
                let key = if i == 0 { step.key } else { step.node.key(i) };
                match step.place.level.checked_sub(1) {
                    None => self.spine.push(0, step.node.key(i), step.node.value(i), false)?,
                    Some(below) => {
                        let child = step.node.child(i).ok_or_else(|| not_a_child(&step.place.reference))?;
                        self.spine.keep(key, &child, below)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a node on the path that is still whole has to go.
    fn is_unwanted(&self) -> bool {
        self.path.iter().any(|step| !step.open && self.spine.is_unwanted(&step.place.reference))
    }

    fn stand_at(&mut self, index: usize) {
        if let Some(step) = self.path.last_mut() {
            step.index = index;
        }
    }

    fn is_open(&self) -> bool {
        self.path.last().is_some_and(|step| step.open)
    }

    /// The key of the next change, if it is below `upper`.
    fn next_below(&self, upper: Option<Key>) -> Option<Key> {
        let (key, _) = self.next.as_ref()?;
        upper.is_none_or(|upper| *key < upper).then_some(*key)
    }

    fn take(&mut self) -> Result<Change> {
        let taken = self.pull()?;
        // Callers have seen the change in `next_below`.
        taken.ok_or(Error::Corrupt(Corrupt::Record { object: ObjectId(0), kind: 0, why: "no change is left" }))
    }

    /// Moves the iterator on; returns the change that was next.
    fn pull(&mut self) -> Result<Option<Change>> {
        let next = self.changes.next().transpose()?;
        let taken = core::mem::replace(&mut self.next, next);
        if let (Some((before, _)), Some((key, _))) = (&taken, &self.next)
            && before >= key
        {
            let why = "changes are not in order";
            return Err(Corrupt::Record { object: ObjectId(key.object), kind: key.kind.into(), why }.into());
        }
        Ok(taken)
    }
}

fn not_a_child(reference: &BlockRef) -> Error {
    Corrupt::Node(reference.addr, "not a reference to a node").into()
}
