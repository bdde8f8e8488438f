//! The new tree under construction: for each level the entries that no written node holds yet.
//!
//! What stands in a level is to the right of everything that the levels above refer to, and everything in all levels is
//! to the left of what comes next. A finished node is written at once, and its reference goes to the level above.
//!
//! A whole subtree of the old tree can be taken over only where no entries are pending below it. If what is pending there
//! is too little for a node, the subtree is taken apart instead: that pulls the neighbour in. At the right end, where no
//! neighbour follows, the one to the left is pulled back.
//!
//! *Invariants*: a level that holds less than a quarter of a node has an untouched node of the old tree to its left, or
//! nothing: so nothing written by this batch must ever be read back.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::NodeWriter;
use super::level::{Level, min_fill};
use super::not_a_child;
use crate::error::{Corrupt, Error, Result};
use crate::format::{BlockRef, Key};
use crate::node::{MAX_LEVEL, Node, capacity};
use crate::tree::{NodeReader, Place, Root};
use crate::types::BlockAddr;

pub(super) struct Spine<'a, R: ?Sized, W: ?Sized> {
    reader: &'a R,
    writer: &'a mut W,
    node_size: usize,
    /// Index = level; the last one, above any that a tree may have, holds at most the root's reference.
    levels: Vec<Level>,
}

impl<'a, R, W> Spine<'a, R, W>
where
    R: NodeReader + ?Sized,
    W: NodeWriter + ?Sized,
{
    pub(super) fn new(reader: &'a R, writer: &'a mut W, node_size: usize) -> Spine<'a, R, W> {
        let levels = (0..=usize::from(MAX_LEVEL) + 1).map(|_| Level::default()).collect();
        Spine { reader, writer, node_size, levels }
    }

    /// Lets a node of the old tree go.
    pub(super) fn release(&mut self, reference: &BlockRef) {
        self.writer.release(reference);
    }

    pub(super) fn is_unwanted(&self, reference: &BlockRef) -> bool {
        self.writer.is_unwanted(reference)
    }

    /// Adds an entry at the right end of `level`. `fresh`: the old tree did not have it.
    pub(super) fn push(&mut self, level: u8, key: Key, value: &[u8], fresh: bool) -> Result<()> {
        let pending = &mut self.levels[usize::from(level)];
        pending.push(key, value, fresh).map_err(own_fault)?;
        if pending.open_bytes() > 2 * capacity(self.node_size) {
            self.write_closed(level)?;
            let count = self.levels[usize::from(level)].split(self.node_size, level == 0, false);
            self.write_front(level, count)?;
        }
        Ok(())
    }

    /// Adds a whole node of the old tree, which stands at `level`, at the right end.
    pub(super) fn keep(&mut self, key: Key, reference: &BlockRef, level: u8) -> Result<()> {
        for below in 0..=level {
            let pending = &self.levels[usize::from(below)];
            if pending.is_empty() {
                continue;
            }
            if pending.bytes() < min_fill(self.node_size) {
                return self.take_apart(key, reference, level);
            }
            self.flush(below, false)?;
        }
        self.push(level + 1, key, &reference.encode(), false)
    }

    /// Adds what a node of the old tree holds instead of the node. No deeper than its level.
    fn take_apart(&mut self, key: Key, reference: &BlockRef, level: u8) -> Result<()> {
        let node = self.open(level, reference)?;
        for i in 0..node.len() {
            match level.checked_sub(1) {
                None => self.push(0, node.key(i), node.value(i), false)?,
                Some(below) => {
                    let child = node.child(i).ok_or_else(|| not_a_child(reference))?;
                    let child_key = if i == 0 { key } else { node.key(i) };
                    self.keep(child_key, &child, below)?;
                }
            }
        }
        self.boundary(level, false)
    }

    fn open(&mut self, level: u8, reference: &BlockRef) -> Result<Arc<Node>> {
        let place = Place { reference: *reference, level, lower: None, upper: None };
        let node = place.read(self.reader)?;
        self.writer.release(reference);
        Ok(node)
    }

    /// A node of the old tree, whose content went into `level`, ended here: if what is pending makes a good node, the
    /// new tree gets a boundary here as well, so that nodes keep room to grow. `edge`: nothing stands to the right.
    pub(super) fn boundary(&mut self, level: u8, edge: bool) -> Result<()> {
        let room = capacity(self.node_size);
        if self.levels[usize::from(level)].open_bytes() < room / 2 {
            return Ok(());
        }
        self.write_closed(level)?;
        while self.levels[usize::from(level)].bytes() > room {
            let count = self.levels[usize::from(level)].split(self.node_size, level == 0, edge);
            self.write_front(level, count)?;
        }
        self.levels[usize::from(level)].close();
        Ok(())
    }

    /// Writes all that is pending in `level`.
    fn flush(&mut self, level: u8, edge: bool) -> Result<()> {
        let pending = &mut self.levels[usize::from(level)];
        if (1..min_fill(self.node_size)).contains(&pending.open_bytes()) {
            pending.reopen();
        }
        self.write_closed(level)?;
        while !self.levels[usize::from(level)].is_empty() {
            let count = self.levels[usize::from(level)].split(self.node_size, level == 0, edge);
            self.write_front(level, count)?;
        }
        Ok(())
    }

    fn write_closed(&mut self, level: u8) -> Result<()> {
        match self.levels[usize::from(level)].closed() {
            0 => Ok(()),
            closed => self.write_front(level, closed),
        }
    }

    /// Writes the first `count` entries of `level` as a node.
    fn write_front(&mut self, level: u8, count: usize) -> Result<()> {
        if level > MAX_LEVEL {
            return Err(own_fault("the tree is too high"));
        }
        let (key, bytes) = self.levels[usize::from(level)].take(count, level, self.node_size).map_err(own_fault)?;
        let reference = self.writer.write(level, bytes)?;
        self.push(level + 1, key, &reference.encode(), true)
    }

    /// Closes the tree at its right end and returns its root.
    pub(super) fn finish(&mut self) -> Result<Option<Root>> {
        for level in 0..=MAX_LEVEL + 1 {
            let at = usize::from(level);
            while !self.levels[at].is_empty()
                && self.levels[at].bytes() < min_fill(self.node_size)
                && self.pull_left(level)?
            {}
            if self.levels[at + 1..].iter().all(Level::is_empty) {
                if self.levels[at].is_empty() {
                    return Ok(None);
                }
                if let Some(root) = self.close_root(level)? {
                    return Ok(Some(root));
                }
            }
            self.flush(level, true)?;
        }
        Err(own_fault("the tree is too high"))
    }

    /// The root, if what is pending in `level`, the only content left, makes one.
    fn close_root(&mut self, level: u8) -> Result<Option<Root>> {
        let pending = &mut self.levels[usize::from(level)];
        if let Some(below) = level.checked_sub(1)
            && pending.len() == 1
        {
            let reference = pending.only().ok_or_else(|| own_fault("not a reference to a node"))?;
            return Ok(Some(Root { reference, level: below }));
        }
        if level > MAX_LEVEL || pending.bytes() > capacity(self.node_size) {
            return Ok(None);
        }
        let count = pending.len();
        let (_, bytes) = pending.take(count, level, self.node_size).map_err(own_fault)?;
        Ok(Some(Root { reference: self.writer.write(level, bytes)?, level }))
    }

    /// Takes the node to the left of what is pending in `level` apart and puts its entries in front. False if there is
    /// none.
    fn pull_left(&mut self, level: u8) -> Result<bool> {
        let Some(above) = self.levels.get(usize::from(level) + 1) else { return Ok(false) };
        if above.is_empty() && !self.pull_left(level + 1)? {
            return Ok(false);
        }
        let Some((key, reference)) = self.levels[usize::from(level) + 1].pop_old() else { return Ok(false) };
        let node = self.open(level, &reference)?;
        self.levels[usize::from(level)].prepend(&node, key).map_err(|why| Corrupt::Node(reference.addr, why))?;
        Ok(true)
    }
}

/// The nodes being written have no address yet.
fn own_fault(why: &'static str) -> Error {
    Corrupt::Node(BlockAddr(0), why).into()
}
