//! The records of one tree with the log's changes over them, in key order.

use alloc::borrow::Cow;
use alloc::collections::btree_map;
use core::iter::Peekable;

use super::log::{Change, Replay};
use crate::format::{BlockLoc, Chunk, Key, Kind};

/// A record as a mount would see it.
pub(super) enum Merged<'v> {
    Value(Cow<'v, [u8]>),
    Chunk(Chunk),
}

/// Lays the log's changes over a rising sequence of stored records.
pub(super) struct Overlay<'r> {
    changes: Peekable<btree_map::Range<'r, Key, Change>>,
}

impl<'r> Overlay<'r> {
    /// The changes of the system's records, or of all others.
    pub(super) fn new(replay: &'r Replay, system: bool) -> Overlay<'r> {
        let split = Key::new(1, Kind::Inode, 0);
        let range = if system { replay.changes.range(..split) } else { replay.changes.range(split..) };
        Overlay { changes: range.peekable() }
    }

    /// The next record that only the log has and that stands before `key`; all that are left if there is no key.
    pub(super) fn before(&mut self, key: Option<Key>) -> Option<(Key, Merged<'r>)> {
        loop {
            let (at, change) = self.changes.next_if(|(at, _)| key.is_none_or(|key| **at < key))?;
            if let Some(merged) = merge(None, change) {
                return Some((*at, merged));
            }
        }
    }

    /// What the log makes of a stored record; `None` if it deletes it.
    pub(super) fn over<'v>(&mut self, key: Key, stored: Stored<'v>) -> Option<Merged<'v>>
    where
        'r: 'v,
    {
        match self.changes.next_if(|(at, _)| **at == key) {
            Some((_, change)) => merge(Some(stored), change),
            None => Some(match stored {
                Stored::Value(value) => Merged::Value(Cow::Borrowed(value)),
                Stored::Chunk(chunk) => Merged::Chunk(chunk.clone()),
            }),
        }
    }
}

/// A stored record.
#[derive(Clone, Copy)]
pub(super) enum Stored<'v> {
    Value(&'v [u8]),
    Chunk(&'v Chunk),
}

fn merge<'v>(stored: Option<Stored<'v>>, change: &'v Change) -> Option<Merged<'v>> {
    match change {
        Change::Put(value) => Some(Merged::Value(Cow::Borrowed(value))),
        Change::Delete => None,
        Change::Patch(patch) => {
            let mut chunk = match stored {
                Some(Stored::Chunk(chunk)) => chunk.clone(),
                Some(Stored::Value(_)) | None => Chunk::default(),
            };
            chunk.apply(patch, &mut |_: BlockLoc| {});
            (!chunk.is_empty()).then_some(Merged::Chunk(chunk))
        }
    }
}
