//! Paths by what they lead to, for conflicts to be told.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::error::Result;
use crate::format::{DirEntryRecord, Key, Kind};
use crate::store::{Lowers, record_error};
use crate::types::InodeNo;

/// Parts of a path that is told.
const MAX_DEPTH: usize = 4096;
/// Records that are looked at with one scan.
const SCAN: usize = 1024;

/// A name of every inode, with the directory that it stands in.
#[derive(Default)]
pub(super) struct Paths(BTreeMap<InodeNo, (InodeNo, Vec<u8>)>);

impl Paths {
    /// Those that images have.
    pub(super) fn of_images(lowers: &Lowers) -> Result<Paths> {
        let mut paths = Paths::default();
        each_entry(lowers, |key, entry| {
            paths.add(InodeNo(key.object), &entry);
            Ok(())
        })?;
        Ok(paths)
    }

    /// Takes a name in; of several the first counts.
    pub(super) fn add(&mut self, dir: InodeNo, entry: &DirEntryRecord) {
        self.0.entry(entry.ino).or_insert_with(|| (dir, entry.name.clone()));
    }

    /// The path to an inode, without a slash before it; empty for the root and for what has no name.
    pub(super) fn path(&self, ino: InodeNo) -> Vec<u8> {
        let (mut parts, mut at) = (Vec::new(), ino);
        while at != InodeNo::ROOT
            && let Some((dir, name)) = self.0.get(&at)
            && parts.len() < MAX_DEPTH
        {
            parts.push(&name[..]);
            at = *dir;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// The path of an entry of a directory.
    pub(super) fn entry(&self, dir: InodeNo, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(dir);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

/// Shows every directory entry of the images.
pub(super) fn each_entry(lowers: &Lowers, mut on: impl FnMut(Key, DirEntryRecord) -> Result<()>) -> Result<()> {
    let mut from = Some(Key::MIN);
    while let Some(key) = from {
        let records = lowers.scan(key, Key::MAX, SCAN)?;
        from = records.last().filter(|_| records.len() == SCAN).and_then(|(key, _)| key.successor());
        for (key, bytes) in records.into_iter().filter(|(key, _)| key.kind == Kind::DirEntry) {
            on(key, DirEntryRecord::decode(&bytes).map_err(|why| record_error(key, why))?)?;
        }
    }
    Ok(())
}
