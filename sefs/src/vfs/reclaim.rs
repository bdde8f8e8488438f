//! Inodes that lost their last name: removed for good in the background, in bounded steps.
//!
//! Opening a volume reclaims nothing; whatever orphans it finds are worked off by [`Volume::work`]. An orphan that is
//! acquired is left alone until it is released.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Corrupt, Error, Posix, Result};
use crate::format::{Key, Kind};
use crate::store::Need;
use crate::sync::Mutex;
use crate::types::InodeNo;
use crate::vfs::inode::{Edit, record_error};
use crate::vfs::make::orphan_key;
use crate::vfs::remove::drop_content;
use crate::vfs::{Volume, xattr};

/// Orphans looked at with one scan.
const SCAN: usize = 64;
/// Records of attributes that go in one step.
const XATTR_RECORDS: usize = 128;

/// Whether there may be orphans that nobody has acquired.
pub(super) struct Orphans {
    expected: AtomicBool,
    reclaimed: AtomicU64,
    /// Held by whoever reclaims: the next one waits and then knows what was found.
    running: Mutex<()>,
}

impl Orphans {
    /// `expected`: whether there may be some from before.
    pub(super) fn new(expected: bool) -> Orphans {
        Orphans { expected: AtomicBool::new(expected), reclaimed: AtomicU64::new(0), running: Mutex::new(()) }
    }

    /// There may be some now.
    pub(super) fn expect_some(&self) {
        self.expected.store(true, Ordering::Release);
    }

    /// Whether there may be some.
    pub(super) fn are_expected(&self) -> bool {
        self.expected.load(Ordering::Acquire)
    }

    /// How many were reclaimed since the volume was opened.
    pub(super) fn reclaimed(&self) -> u64 {
        self.reclaimed.load(Ordering::Acquire)
    }
}

/// Reclaims at most `limit` orphans and returns how many, after whoever is at it already. One that cannot be reclaimed keeps no other from it.
pub(super) fn reclaim(volume: &Volume, limit: usize) -> Result<usize> {
    let _one = volume.orphans.running.lock();
    if !volume.orphans.expected.swap(false, Ordering::AcqRel) {
        return Ok(0);
    }
    let store = &volume.store;
    let (mut from, end) = (orphan_key(InodeNo(0)), Key::new(0, Kind::Job, 0));
    let (mut reclaimed, mut failure) = (0, None);
    loop {
        let found = match store.scan(from, end, SCAN) {
            Ok(found) => found,
            Err(error) => {
                volume.orphans.expect_some();
                return Err(error);
            }
        };
        for (key, _) in &found {
            if reclaimed == limit {
                volume.orphans.expect_some();
                return Ok(reclaimed);
            }
            match reclaim_one(volume, InodeNo(key.offset)) {
                Ok(true) => {
                    reclaimed += 1;
                    volume.orphans.reclaimed.fetch_add(1, Ordering::AcqRel);
                }
                Ok(false) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match found.last().and_then(|(key, _)| key.successor()) {
            Some(next) if found.len() == SCAN => from = next,
            _ => break,
        }
    }
    failure.map_or(Ok(reclaimed), |error| {
        volume.orphans.expect_some();
        Err(error)
    })
}

/// Reclaims an orphan unless somebody has it acquired, or it is none any more.
fn reclaim_one(volume: &Volume, ino: InodeNo) -> Result<bool> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    if locked.place(ino)?.is_acquired() || store.get(orphan_key(ino))?.is_none() {
        return Ok(false);
    }
    let inode = locked.orphan(store, ino).map_err(|error| match error {
        Error::Posix(Posix::Stale) => Corrupt::MissingInode(ino).into(),
        error => error,
    })?;
    if inode.links > 0 {
        return Err(record_error(orphan_key(ino), "an orphan has links"));
    }
    let mut inode = (*inode).clone();
    loop {
        let mut edit = Edit::begin(store, Need::Release, &locked)?;
        if xattr::drop_some(store, &mut edit.tx, ino, &mut inode, XATTR_RECORDS)? {
            edit.put_inode(ino, inode.clone());
            edit.finish();
            continue;
        }
        drop_content(&mut edit, &inode);
        edit.delete_inode(ino);
        edit.tx.delete(orphan_key(ino));
        edit.finish();
        return Ok(true);
    }
}
