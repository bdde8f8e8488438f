//! The inodes in use: their locks, their cached values, and how an operation changes several at once.
//!
//! An inode has a place in the table while an operation names it or a caller has it acquired. Its lock orders operations:
//! shared for those that read, exclusive for those that change. The cached value spares the decoding; it is filled under
//! either lock and replaced only after the transaction that changes it is finished.
//!
//! *Invariants*: locks are taken by rising inode number; a place leaves the table only when nobody holds or has acquired it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Corrupt, Error, Posix, Result};
use crate::format::{Inode, Key, Kind};
use crate::store::{Need, Store, Tx};
use crate::sync::{Mutex, RwLock, RwLockWriteGuard};
use crate::types::{InodeNo, ObjectId};

const SHARDS: usize = 16;

/// All inodes in use.
#[derive(Default)]
pub(super) struct InodeTable {
    shards: [Mutex<BTreeMap<InodeNo, Arc<Place>>>; SHARDS],
}

/// One inode in use.
pub(super) struct Place {
    ino: InodeNo,
    lock: RwLock<()>,
    cached: Mutex<Option<Arc<Inode>>>,
    acquired: AtomicU64,
    /// Made by `make_tmpfile`: it never had a name and may be given one.
    linkable: AtomicBool,
}

/// Keeps an inode's place in the table.
pub(super) struct Held<'t> {
    table: &'t InodeTable,
    place: Arc<Place>,
}

/// Keeps several places, by rising number, none twice.
pub(super) struct HeldSet<'t>(Vec<Held<'t>>);

/// The exclusive locks of a [`HeldSet`].
pub(super) struct Locked<'h>(Vec<(&'h Place, RwLockWriteGuard<'h, ()>)>);

/// A transaction together with the inodes that it changes, whose cached values follow it.
pub(super) struct Edit<'a> {
    /// The transaction.
    pub(super) tx: Tx<'a>,
    locked: &'a Locked<'a>,
    changed: Vec<(InodeNo, Option<Arc<Inode>>)>,
}

impl InodeTable {
    /// Holds an inode's place; whether the inode exists is not asked.
    pub(super) fn hold(&self, ino: InodeNo) -> Held<'_> {
        let mut shard = self.shard(ino).lock();
        let place = shard.entry(ino).or_insert_with(|| Arc::new(Place::new(ino)));
        Held { table: self, place: place.clone() }
    }

    /// Holds several.
    pub(super) fn hold_all(&self, inos: &[InodeNo]) -> HeldSet<'_> {
        let mut sorted = inos.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        HeldSet(sorted.into_iter().map(|ino| self.hold(ino)).collect())
    }

    /// Gives back `count` acquisitions. True if the inode may have waited for this to be reclaimed.
    pub(super) fn release(&self, ino: InodeNo, count: u64) -> bool {
        let held = self.hold(ino);
        let subtract = |acquired: u64| Some(acquired.saturating_sub(count));
        let before = held.acquired.fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract);
        let last = before.is_ok_and(|before| before <= count);
        // Without a cached value nothing is known, and an orphan must not be missed.
        last && held.cached.lock().as_ref().is_none_or(|inode| inode.links == 0)
    }

    /// How many places there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, ino: InodeNo) -> &Mutex<BTreeMap<InodeNo, Arc<Place>>> {
        let index = usize::try_from(ino.0 % SHARDS as u64).unwrap_or(0);
        &self.shards[index]
    }
}

impl Place {
    fn new(ino: InodeNo) -> Place {
        Place {
            ino,
            lock: RwLock::new(()),
            cached: Mutex::new(None),
            acquired: AtomicU64::new(0),
            linkable: AtomicBool::new(false),
        }
    }

    /// Acquires the inode once more. The lock is held, and the inode was seen to exist under it.
    pub(super) fn acquire(&self) {
        self.acquired.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether anybody has it acquired. Under the exclusive lock a "no" stays true.
    pub(super) fn is_acquired(&self) -> bool {
        self.acquired.load(Ordering::Acquire) > 0
    }

    /// Lets it be linked although it has no links, or not any more.
    pub(super) fn set_linkable(&self, linkable: bool) {
        self.linkable.store(linkable, Ordering::Release);
    }

    /// Whether it may be linked although it has no links.
    pub(super) fn is_linkable(&self) -> bool {
        self.linkable.load(Ordering::Acquire)
    }

    /// The inode's value; its lock is held, shared or exclusive. An orphan that nobody has acquired is as good as gone.
    fn load(&self, store: &Store) -> Result<Arc<Inode>> {
        let inode = self.load_any(store)?;
        if inode.links == 0 && !self.is_acquired() { Err(Posix::Stale.into()) } else { Ok(inode) }
    }

    fn load_any(&self, store: &Store) -> Result<Arc<Inode>> {
        if let Some(inode) = &*self.cached.lock() {
            return Ok(inode.clone());
        }
        let inode = Arc::new(read_inode(store, self.ino)?);
        *self.cached.lock() = Some(inode.clone());
        Ok(inode)
    }
}

impl core::ops::Deref for Held<'_> {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Held<'_> {
    /// Runs `f` on the inode under its shared lock.
    pub(super) fn shared<T>(&self, store: &Store, f: impl FnOnce(&Inode) -> Result<T>) -> Result<T> {
        let _guard = self.place.lock.read();
        let inode = self.place.load(store)?;
        f(&inode)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.place.ino).lock();
        // The table's and this one: clones are made only under the shard's lock, so none can come now.
        if Arc::strong_count(&self.place) == 2 && !self.place.is_acquired() {
            shard.remove(&self.place.ino);
        }
    }
}

impl HeldSet<'_> {
    /// Takes all exclusive locks, by rising number.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked(self.0.iter().map(|held| (&*held.place, held.place.lock.write())).collect())
    }
}

impl Locked<'_> {
    /// The value of one of the locked inodes.
    pub(super) fn inode(&self, store: &Store, ino: InodeNo) -> Result<Arc<Inode>> {
        self.place(ino)?.load(store)
    }

    /// The value of one of the locked inodes, even of an orphan that nobody has acquired.
    pub(super) fn orphan(&self, store: &Store, ino: InodeNo) -> Result<Arc<Inode>> {
        self.place(ino)?.load_any(store)
    }

    /// The value of an inode that a directory entry names.
    pub(super) fn named(&self, store: &Store, dir: InodeNo, ino: InodeNo) -> Result<Arc<Inode>> {
        self.inode(store, ino).map_err(|error| dangling(error, dir, ino))
    }

    /// The place of one of the locked inodes.
    pub(super) fn place(&self, ino: InodeNo) -> Result<&Place> {
        let found = self.0.iter().find(|(place, _)| place.ino == ino);
        found.map(|(place, _)| *place).ok_or(Error::Posix(Posix::Stale))
    }
}

impl<'a> Edit<'a> {
    /// Begins a transaction over locked inodes.
    pub(super) fn begin(store: &'a Store, need: Need, locked: &'a Locked<'a>) -> Result<Edit<'a>> {
        Edit::begin_with(store, need, 0, locked)
    }

    /// As `begin`; the transaction also puts long values, of so many bytes together.
    pub(super) fn begin_with(
        store: &'a Store,
        need: Need,
        value_bytes: usize,
        locked: &'a Locked<'a>,
    ) -> Result<Edit<'a>> {
        Ok(Edit { tx: store.begin_with(need, value_bytes)?, locked, changed: Vec::new() })
    }

    /// Sets an inode's record.
    pub(super) fn put_inode(&mut self, ino: InodeNo, inode: Inode) {
        self.tx.put(inode_key(ino), inode.encode());
        self.changed.push((ino, Some(Arc::new(inode))));
    }

    /// Removes an inode's record.
    pub(super) fn delete_inode(&mut self, ino: InodeNo) {
        self.tx.delete(inode_key(ino));
        self.tx.count_inodes(-1);
        self.changed.push((ino, None));
    }

    /// Makes it happen; from here on readers see the new values.
    pub(super) fn finish(self) {
        self.finish_unlink();
    }

    /// As `finish`; true if an inode is left that has no links and that nobody has acquired. `release` looks at both in
    /// the other order, so one of the two notices an inode that loses its last link and its last user at once.
    pub(super) fn finish_unlink(self) -> bool {
        self.tx.finish();
        let mut left = false;
        for (ino, inode) in self.changed {
            if let Ok(place) = self.locked.place(ino) {
                let linked = inode.as_ref().is_none_or(|inode| inode.links > 0);
                *place.cached.lock() = inode;
                left |= !linked && !place.is_acquired();
            }
        }
        left
    }
}

/// The key of an inode's record.
pub(super) fn inode_key(ino: InodeNo) -> Key {
    Key::new(ino.0, Kind::Inode, 0)
}

/// Reads and decodes an inode; one that does not exist is stale.
pub(super) fn read_inode(store: &Store, ino: InodeNo) -> Result<Inode> {
    let key = inode_key(ino);
    let bytes = store.get(key)?.ok_or(Error::Posix(Posix::Stale))?;
    Inode::decode(&bytes).map_err(|why| record_error(key, why))
}

/// An authentic record that does not decode, or contradicts another.
pub(super) fn record_error(key: Key, why: &'static str) -> Error {
    Corrupt::Record { object: ObjectId(key.object), kind: key.kind.into(), why }.into()
}

/// An entry's inode that does not exist is no stale handle: the directory is wrong.
pub(super) fn dangling(error: Error, dir: InodeNo, ino: InodeNo) -> Error {
    match error {
        Error::Posix(Posix::Stale) => Corrupt::DanglingEntry { dir, ino }.into(),
        error => error,
    }
}
