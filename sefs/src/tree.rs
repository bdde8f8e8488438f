//! Reading a copy-on-write B+tree: one record, ranges, and the walk of a check.
//!
//! *Security*: a node that a parent vouches for may still come from a hostile key holder. Its level and the bounds that
//! its parent gives its keys are checked on every descent, so what a range yields rises strictly, a node that hangs in
//! two places is refused in one of them, and no descent is deeper than the root's level.
//!
//! *Invariants*: all leaves are at level 0; the children of a node at level n are at level n − 1; the keys below entry i
//! are at least key i (the first entry's may be smaller, down to the node's own bound) and below key i + 1.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::{Corrupt, Error, Result};
use crate::format::{BlockRef, Key};
use crate::node::{MAX_LEVEL, Node};

/// Opens nodes: reads, authenticates, decodes, caches.
pub(crate) trait NodeReader {
    /// The node that `reference` vouches for, decoded for `level`.
    fn read(&self, level: u8, reference: &BlockRef) -> Result<Arc<Node>>;

    /// Whether the node was given up: it reads as if it and everything below it were not there, and the next merge drops
    /// it from its parent.
    fn is_given_up(&self, _reference: &BlockRef) -> bool {
        false
    }

    /// Whether a node that was given up is this one, or is below it.
    fn holds_given_up(&self, _reference: &BlockRef) -> bool {
        false
    }
}

/// The root of a tree that is not empty.
#[derive(Clone, Copy)]
pub(crate) struct Root {
    /// The root node.
    pub(crate) reference: BlockRef,
    /// Its level, 0 for a leaf.
    pub(crate) level: u8,
}

/// A node, as its parent describes it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// What vouches for the node.
    pub(crate) reference: BlockRef,
    /// 0 for a leaf.
    pub(crate) level: u8,
    /// No key of the node is smaller.
    pub(crate) lower: Option<Key>,
    /// All keys of the node are smaller.
    pub(crate) upper: Option<Key>,
}

impl Place {
    /// The place of a tree's root; refuses levels that no tree may have.
    pub(crate) fn root(root: &Root) -> Result<Place> {
        if root.level > MAX_LEVEL {
            return Err(Corrupt::NodeLevel(root.reference.addr).into());
        }
        Ok(Place { reference: root.reference, level: root.level, lower: None, upper: None })
    }

    /// The place of child `i` of `node`, which stands here; `None` below a leaf.
    pub(crate) fn child(&self, node: &Node, i: usize) -> Option<Place> {
        Some(Place {
            reference: node.child(i)?,
            level: self.level.checked_sub(1)?,
            lower: if i == 0 { self.lower } else { Some(node.key(i)) },
            upper: if i + 1 < node.len() { Some(node.key(i + 1)) } else { self.upper },
        })
    }

    /// Reads the node and checks it against what the parent says.
    pub(crate) fn read<R: NodeReader + ?Sized>(&self, reader: &R) -> Result<Arc<Node>> {
        let node = reader.read(self.level, &self.reference)?;
        if node.level() != self.level {
            return Err(Corrupt::NodeLevel(self.reference.addr).into());
        }
        let below = self.lower.is_some_and(|lower| node.first_key() < lower);
        let above = self.upper.is_some_and(|upper| node.last_key() >= upper);
        if below || above {
            return Err(Corrupt::Node(self.reference.addr, "keys outside the bounds that its parent gives").into());
        }
        Ok(node)
    }

    fn no_child(&self) -> Error {
        Corrupt::Node(self.reference.addr, "not a reference to a node").into()
    }
}

/// The value of `key`.
pub(crate) fn get<R: NodeReader + ?Sized>(reader: &R, root: Option<Root>, key: Key) -> Result<Option<Vec<u8>>> {
    let Some(root) = root else { return Ok(None) };
    let mut place = Place::root(&root)?;
    loop {
        if reader.is_given_up(&place.reference) {
            return Ok(None);
        }
        let node = place.read(reader)?;
        if place.level == 0 {
            return Ok(node.find(key).ok().map(|i| node.value(i).to_vec()));
        }
        place = place.child(&node, node.child_index(key)).ok_or_else(|| place.no_child())?;
    }
}

/// At most `limit` records from `from` up to, without, `end`, in order.
pub(crate) fn scan<R: NodeReader + ?Sized>(
    reader: &R,
    root: Option<Root>,
    from: Key,
    end: Key,
    limit: usize,
) -> Result<Vec<(Key, Vec<u8>)>> {
    let mut found = Vec::new();
    if limit == 0 || from >= end {
        return Ok(found);
    }
    let mut cursor = Cursor::seek(reader, root, from)?;
    while let Some((key, value)) = cursor.entry() {
        if key >= end {
            break;
        }
        found.push((key, value.to_vec()));
        if found.len() == limit {
            break;
        }
        cursor.advance()?;
    }
    Ok(found)
}

/// The smallest key from `from` up to, without, `end`.
pub(crate) fn next_key<R: NodeReader + ?Sized>(
    reader: &R,
    root: Option<Root>,
    from: Key,
    end: Key,
) -> Result<Option<Key>> {
    if from >= end {
        return Ok(None);
    }
    let cursor = Cursor::seek(reader, root, from)?;
    Ok(cursor.entry().map(|(key, _)| key).filter(|&key| key < end))
}

/// A position in a tree, moving upwards. It holds one node of each level.
pub(crate) struct Cursor<'a, R: NodeReader + ?Sized> {
    reader: &'a R,
    path: Vec<Step>,
}

struct Step {
    place: Place,
    node: Arc<Node>,
    index: usize,
}

impl<'a, R: NodeReader + ?Sized> Cursor<'a, R> {
    /// Stands at the first record that is not below `from`.
    pub(crate) fn seek(reader: &'a R, root: Option<Root>, from: Key) -> Result<Cursor<'a, R>> {
        let mut cursor = Cursor { reader, path: Vec::new() };
        let Some(root) = root else { return Ok(cursor) };
        cursor.descend(Place::root(&root)?, Some(from))?;
        cursor.settle()?;
        Ok(cursor)
    }

    /// The record here; `None` past the last one.
    pub(crate) fn entry(&self) -> Option<(Key, &[u8])> {
        let leaf = self.path.last()?;
        (leaf.index < leaf.node.len()).then(|| (leaf.node.key(leaf.index), leaf.node.value(leaf.index)))
    }

    /// Moves to the next record.
    pub(crate) fn advance(&mut self) -> Result<()> {
        if let Some(leaf) = self.path.last_mut() {
            leaf.index += 1;
        }
        self.settle()
    }

    /// Puts the nodes from `place` down to a leaf on the path: towards `from`, or along the left edge.
    fn descend(&mut self, mut place: Place, from: Option<Key>) -> Result<()> {
        loop {
            if self.reader.is_given_up(&place.reference) {
                // `settle` goes on with what stands to the right.
                if let Some(parent) = self.path.last_mut() {
                    parent.index += 1;
                }
                return Ok(());
            }
            let node = place.read(self.reader)?;
            let index = match from {
                None => 0,
                Some(key) if place.level == 0 => node.find(key).unwrap_or_else(|i| i),
                Some(key) => node.child_index(key),
            };
            let below = place.child(&node, index);
            self.path.push(Step { place, node, index });
            if place.level == 0 {
                return Ok(());
            }
            place = below.ok_or_else(|| place.no_child())?;
        }
    }

    /// Leaves nodes that are used up, for the next leaf to the right.
    fn settle(&mut self) -> Result<()> {
        while let Some(step) = self.path.last() {
            if step.index < step.node.len() {
                if step.place.level == 0 {
                    return Ok(());
                }
                let below = step.place.child(&step.node, step.index).ok_or_else(|| step.place.no_child())?;
                self.descend(below, None)?;
                continue;
            }
            self.path.pop();
            if let Some(parent) = self.path.last_mut() {
                parent.index += 1;
            }
        }
        Ok(())
    }
}

/// Sees every node of a tree, for a check that goes on after errors.
pub(crate) trait Visitor {
    /// A node is named here. `false` leaves it, and what is below, out.
    fn enter(&mut self, place: &Place) -> Result<bool>;
    /// The node, or why it cannot be had; then nothing below it is seen.
    fn node(&mut self, place: &Place, node: core::result::Result<&Node, &Error>) -> Result<()>;
}

/// Shows `visitor` every node, parents first, left to right. An error of the visitor ends the walk.
pub(crate) fn walk<R, V>(reader: &R, root: Option<Root>, visitor: &mut V) -> Result<()>
where
    R: NodeReader + ?Sized,
    V: Visitor + ?Sized,
{
    let Some(root) = root else { return Ok(()) };
    let mut path: Vec<Step> = Vec::new();
    let mut next = Some(Place::root(&root)?);
    loop {
        if let Some(place) = next.take()
            && visitor.enter(&place)?
        {
            match place.read(reader) {
                Ok(node) => {
                    visitor.node(&place, Ok(&node))?;
                    path.push(Step { place, node, index: 0 });
                }
                Err(error) => visitor.node(&place, Err(&error))?,
            }
        }
        let Some(step) = path.last_mut() else { return Ok(()) };
        if step.place.level > 0 && step.index < step.node.len() {
            next = step.place.child(&step.node, step.index);
            step.index += 1;
        } else {
            path.pop();
        }
    }
}
