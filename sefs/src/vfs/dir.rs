//! Directory entries: where a name stands, and in which order a directory is listed.
//!
//! An entry's key is a hash of its name and a discriminator that the entry keeps for life, so the key is a cookie that
//! stays. The names that share a hash are a *bucket*: at most 128 keys in a row.
//!
//! *Invariants*: names are compared, never hashes alone; one directory holds a name once.

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{DirEntryRecord, FileKind, Inode, Key, Kind, NAME_DISCRIMINATORS, name_hash, name_key};
use crate::store::{Store, Tx};
use crate::types::InodeNo;
use crate::vfs::attr::require_directory;
use crate::vfs::inode::record_error;
use crate::vfs::{DirEntry, NAME_MAX};

const DOT_COOKIE: u64 = 1;
const DOT_DOT_COOKIE: u64 = 2;
/// Entry keys are below this.
const KEYS_END: u64 = 1 << 63;

/// An entry and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The key of its record.
    pub(super) key: Key,
    /// The inode that it names.
    pub(super) ino: InodeNo,
    /// The inode's type.
    pub(super) kind: FileKind,
}

/// All entries of a directory whose names share a name's hash.
pub(super) struct Bucket<'n> {
    dir: InodeNo,
    name: &'n [u8],
    hash: u64,
    records: Vec<(Key, DirEntryRecord)>,
}

impl<'n> Bucket<'n> {
    /// Reads the bucket of a name.
    pub(super) fn read(store: &Store, dir: InodeNo, name: &'n [u8]) -> Result<Bucket<'n>> {
        Bucket::of_hash(store, dir, name, name_hash(store.suite(), name))
    }

    pub(super) fn of_hash(store: &Store, dir: InodeNo, name: &'n [u8], hash: u64) -> Result<Bucket<'n>> {
        let from = entry_key(dir, hash * u64::from(NAME_DISCRIMINATORS));
        let end = entry_key(dir, (hash + 1) * u64::from(NAME_DISCRIMINATORS));
        let records = store.scan(from, end, usize::from(NAME_DISCRIMINATORS))?;
        let records = records.into_iter().map(|(key, value)| Ok((key, decode(key, &value)?)));
        Ok(Bucket { dir, name, hash, records: records.collect::<Result<_>>()? })
    }

    /// The name's entry, if the directory has it.
    pub(super) fn entry(&self) -> Option<Entry> {
        let found = self.records.iter().find(|(_, record)| record.name == self.name);
        found.map(|(key, record)| Entry { key: *key, ino: record.ino, kind: record.kind })
    }

    /// The name's entry, or `ENOENT`.
    pub(super) fn existing(&self) -> Result<Entry> {
        self.entry().ok_or(Posix::NotFound.into())
    }

    /// Where a new entry for the name goes; `ENOSPC` if 128 names share its hash.
    pub(super) fn free_key(&self) -> Result<Key> {
        let keys =
            (0..NAME_DISCRIMINATORS).map(|discriminator| entry_key(self.dir, name_key(self.hash, discriminator)));
        let mut free = keys.filter(|key| self.records.iter().all(|(used, _)| used != key));
        free.next().ok_or(Posix::NoSpace.into())
    }

    /// Puts an entry for the name at `key`.
    pub(super) fn put(&self, tx: &mut Tx<'_>, key: Key, ino: InodeNo, kind: FileKind) {
        tx.put(key, DirEntryRecord { ino, kind, name: self.name.to_vec() }.encode());
    }
}

/// Checks a name that is to be looked up; "." and ".." pass.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() {
        return Err(Posix::NotFound.into());
    }
    if name.len() > NAME_MAX {
        return Err(Posix::NameTooLong.into());
    }
    if name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Posix::InvalidArgument.into());
    }
    Ok(())
}

/// Checks a name that an entry is to have or has; "." and ".." are `refusal`.
pub(super) fn check_entry_name(name: &[u8], refusal: Posix) -> Result<()> {
    check_name(name)?;
    if is_dots(name) { Err(refusal.into()) } else { Ok(()) }
}

/// Whether a name is "." or "..".
pub(super) fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// At most `limit` entries after `cookie`.
pub(super) fn list(store: &Store, dir: InodeNo, inode: &Inode, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
    match require_directory(inode) {
        // A directory that was removed while it is in use has nothing in it, not even itself.
        Err(error) if error == Posix::NotFound.into() => return Ok(Vec::new()),
        outcome => outcome?,
    }
    let dots = [(DOT_COOKIE, dir, &b"."[..]), (DOT_DOT_COOKIE, inode.parent, b"..")];
    let dots = dots.into_iter().filter(|(own, ..)| *own > cookie).take(limit);
    let mut entries: Vec<DirEntry> = dots
        .map(|(cookie, ino, name)| DirEntry { ino, kind: FileKind::Directory, cookie, name: name.to_vec() })
        .collect();
    let (from, rest) = (cookie.max(DOT_DOT_COOKIE).saturating_add(1), limit - entries.len());
    if rest == 0 || from >= KEYS_END {
        return Ok(entries);
    }
    for (key, value) in store.scan(entry_key(dir, from), entry_key(dir, KEYS_END), rest)? {
        let record = decode(key, &value)?;
        entries.push(DirEntry { ino: record.ino, kind: record.kind, cookie: key.offset, name: record.name });
    }
    Ok(entries)
}

fn entry_key(dir: InodeNo, offset: u64) -> Key {
    Key::new(dir.0, Kind::DirEntry, offset)
}

fn decode(key: Key, value: &[u8]) -> Result<DirEntryRecord> {
    DirEntryRecord::decode(value).map_err(|why| record_error(key, why))
}
