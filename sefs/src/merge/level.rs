//! The entries of one level of a tree under construction that no written node holds yet.
//!
//! They stand in two parts: a *closed* one, which would make a good node of its own, and behind it the *open* one. The
//! closed part is held back until the open one is large enough to stand alone, so that no poor rest is left over.

use alloc::vec::Vec;

use crate::format::{BLOCK_REF_LEN, BlockRef, Key};
use crate::node::{MAX_ENTRY_LEN, Node, NodeBuilder, capacity, entry_len};

#[derive(Default)]
pub(super) struct Level {
    entries: Vec<Entry>,
    values: Vec<u8>,
    /// Entries of the closed part, and their bytes.
    closed: usize,
    closed_bytes: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    len: usize,
    /// Was not in the old tree: an inserted record, a reference to a node just written.
    fresh: bool,
}

impl Level {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that all entries take in a node.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * entry_len(0) + self.values.len()
    }

    /// Entries of the closed part.
    pub(super) fn closed(&self) -> usize {
        self.closed
    }

    /// Bytes of the open part.
    pub(super) fn open_bytes(&self) -> usize {
        self.bytes() - self.closed_bytes
    }

    /// Makes the open part the closed one; nothing is closed before.
    pub(super) fn close(&mut self) {
        self.closed = self.entries.len();
        self.closed_bytes = self.bytes();
    }

    /// Makes the closed part open again.
    pub(super) fn reopen(&mut self) {
        self.closed = 0;
        self.closed_bytes = 0;
    }

    pub(super) fn push(&mut self, key: Key, value: &[u8], fresh: bool) -> Result<(), &'static str> {
        if self.entries.last().is_some_and(|last| last.key >= key) {
            return Err("keys do not rise");
        }
        self.entries.push(Entry { key, len: value.len(), fresh });
        self.values.extend_from_slice(value);
        Ok(())
    }

    /// Puts the entries of the node to the left in front. `key` is its parent's key of it, which an inner node's first
    /// entry takes over, for that one no longer covers everything smaller.
    pub(super) fn prepend(&mut self, node: &Node, key: Key) -> Result<(), &'static str> {
        let mut left = Level::default();
        for i in 0..node.len() {
            let key = if i == 0 && node.level() > 0 { key } else { node.key(i) };
            left.push(key, node.value(i), false)?;
        }
        if let (Some(last), Some(first)) = (left.entries.last(), self.entries.first())
            && last.key >= first.key
        {
            return Err("keys do not rise");
        }
        left.entries.append(&mut self.entries);
        left.values.append(&mut self.values);
        *self = left;
        Ok(())
    }

    /// Takes the last entry, a reference to a node of the old tree, off. `None` if there is none such.
    pub(super) fn pop_old(&mut self) -> Option<(Key, BlockRef)> {
        let last = *self.entries.last().filter(|last| !last.fresh)?;
        let start = self.values.len().checked_sub(BLOCK_REF_LEN).filter(|_| last.len == BLOCK_REF_LEN)?;
        let reference = BlockRef::decode(self.values[start..].try_into().ok()?)?;
        self.entries.pop();
        self.values.truncate(start);
        if self.closed > self.entries.len() {
            self.reopen();
        }
        Some((last.key, reference))
    }

    /// The only entry, as a reference.
    pub(super) fn only(&self) -> Option<BlockRef> {
        let bytes = self.values.as_slice().try_into().ok()?;
        (self.entries.len() == 1).then(|| BlockRef::decode(bytes)).flatten()
    }

    /// Makes a node of the first `count` entries; returns its first key and its bytes.
    pub(super) fn take(&mut self, count: usize, level: u8, node_size: usize) -> Result<(Key, Vec<u8>), &'static str> {
        let first = self.entries.first().ok_or("no entries")?.key;
        let mut builder = NodeBuilder::new(level, node_size);
        let mut start = 0;
        for entry in self.entries.drain(..count) {
            builder.push(entry.key, &self.values[start..start + entry.len])?;
            start += entry.len;
        }
        self.values.drain(..start);
        let taken_bytes = start + count * entry_len(0);
        self.closed = self.closed.saturating_sub(count);
        self.closed_bytes = if self.closed == 0 { 0 } else { self.closed_bytes.saturating_sub(taken_bytes) };
        builder.finish().map(|bytes| (first, bytes))
    }

    /// How many of the first entries the next node should take, so that it fits, and the rest makes no poor node.
    /// `edge`: nothing stands to the right in the whole tree.
    pub(super) fn split(&self, node_size: usize, leaf: bool, edge: bool) -> usize {
        let (room, total) = (capacity(node_size), self.bytes());
        if total <= room {
            return self.entries.len();
        }
        if total + MAX_ENTRY_LEN > 2 * room {
            // What is left is still more than a node less one entry.
            return self.boundary(0, room, room);
        }
        let (low, high) = ((total - room).max(min_fill(node_size)), room.min(total - min_fill(node_size)));
        let target = match self.run_end(room / 8, leaf, edge) {
            Some(after_run) => after_run.clamp(low, high),
            None => total / 2,
        };
        self.boundary(low, high, target)
    }

    /// The bytes before the end of the last run of inserted records, if it is long enough to look like a sequence, or
    /// grows at the tree's right edge: then the next ones come there too, and the left node had better be full.
    fn run_end(&self, long_bytes: usize, leaf: bool, edge: bool) -> Option<usize> {
        let last = self.entries.iter().rposition(|entry| entry.fresh)?;
        let after: usize = self.entries[last + 1..].iter().map(|entry| entry_len(entry.len)).sum();
        let run = self.entries[..=last].iter().rev().take_while(|entry| entry.fresh);
        let (count, bytes) = run.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry_len(entry.len)));
        let sequence = leaf && count > 1 && bytes >= long_bytes;
        (sequence || (edge && after == 0)).then(|| self.bytes() - after)
    }

    /// The number of first entries whose bytes are within `low..=high` and nearest to `target`; as a last resort, as
    /// many as fit into `high`, but one at least.
    fn boundary(&self, low: usize, high: usize, target: usize) -> usize {
        let (mut bytes, mut best, mut best_distance) = (0, 0, usize::MAX);
        for (i, entry) in self.entries.iter().enumerate() {
            bytes += entry_len(entry.len);
            if bytes > high {
                break;
            }
            let distance = if bytes < low { usize::MAX - bytes } else { bytes.abs_diff(target) };
            if distance < best_distance {
                (best, best_distance) = (i + 1, distance);
            }
        }
        best.max(1)
    }
}

/// A node with fewer bytes of entries is poor: it pulls a neighbour in.
pub(super) const fn min_fill(node_size: usize) -> usize {
    node_size / 4
}
