//! The records of one tree with the log's changes over them, in key order.

use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, btree_map};
use alloc::vec::Vec;
use core::iter::Peekable;

use super::image::Image;
use super::log::{Change, Replay};
use crate::error::Result;
use crate::format::{BlockLoc, Chunk, FILES_TREE, Key, Kind, SYSTEM_TREE};
use crate::tree;

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

    /// What the log makes of a record, which may not be there; `None` if it is not there then.
    pub(super) fn over<'v>(&mut self, key: Key, stored: Option<Stored<'v>>) -> Option<Merged<'v>>
    where
        'r: 'v,
    {
        match self.changes.next_if(|(at, _)| **at == key) {
            Some((_, change)) => merge(stored, change),
            None => stored.map(|stored| match stored {
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

/// A single record as a mount would see it, in its stored form. Never a chunk.
pub(super) fn read(image: &Image, replay: &Replay, key: Key) -> Result<Option<Vec<u8>>> {
    let tree = if key.object == 0 { SYSTEM_TREE } else { FILES_TREE };
    let stored = match tree::get(image, image.root(tree), key)? {
        Some(bytes) => Some(bytes).filter(|bytes| !bytes.is_empty() || !image.lowers.may_have(key.object)),
        None => image.lowers.get(key)?,
    };
    Ok(over(replay, key, stored))
}

/// Whether the volume itself says something of a record, be it that there is none.
pub(super) fn is_own(image: &Image, replay: &Replay, key: Key) -> Result<bool> {
    Ok(replay.changes.contains_key(&key) || tree::get(image, image.root(FILES_TREE), key)?.is_some())
}

/// At most `limit` records from `from` up to `end` as a mount would see them, and where to go on. Of chunks only the volume's own.
pub(super) fn scan(image: &Image, replay: &Replay, from: Key, end: Key, limit: usize) -> Result<Scanned> {
    let tree = if from.object == 0 { SYSTEM_TREE } else { FILES_TREE };
    let stored = tree::scan(image, image.root(tree), from, end, limit)?;
    let below = image.lowers.scan(from, end, limit)?;
    let full = [&stored, &below].into_iter().filter(|records| records.len() >= limit);
    let next = full.filter_map(|records| records.last()).map(|(key, _)| *key).min().and_then(Key::successor);
    let until = next.filter(|next| *next < end);
    let below = below.into_iter().filter(|(key, _)| key.kind != Kind::Extent);
    let mut records: BTreeMap<Key, Vec<u8>> = below.chain(stored).collect();
    let says_none = |key: &Key, bytes: &[u8]| bytes.is_empty() && image.lowers.may_have(key.object);
    records.retain(|key, bytes| !says_none(key, bytes) && until.is_none_or(|until| *key < until));
    for (key, change) in replay.changes.range(from..until.unwrap_or(end).max(from)) {
        match change {
            Change::Put(value) => drop(records.insert(*key, value.clone())),
            Change::Delete => drop(records.remove(key)),
            Change::Patch(_) => {
                if let Some(chunk) = over(replay, *key, records.remove(key)) {
                    records.insert(*key, chunk);
                }
            }
        }
    }
    Ok((records.into_iter().collect(), until))
}

/// Records, and the key of the next ones.
pub(crate) type Scanned = (Vec<(Key, Vec<u8>)>, Option<Key>);

fn over(replay: &Replay, key: Key, stored: Option<Vec<u8>>) -> Option<Vec<u8>> {
    let Some(change) = replay.changes.get(&key) else { return stored };
    let chunk = stored.as_deref().and_then(|bytes| Chunk::decode(bytes).ok());
    let below = chunk.as_ref().filter(|_| key.kind == Kind::Extent).map(Stored::Chunk);
    merge(below, change).map(|merged| match merged {
        Merged::Value(value) => value.into_owned(),
        Merged::Chunk(chunk) => chunk.encode(),
    })
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
