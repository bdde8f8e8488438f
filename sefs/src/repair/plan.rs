//! The plan of a repair: what is given up, and which records are put.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Fix;
use crate::check::{Amend, Finding, Loss, Surveyed};
use crate::error::Result;
use crate::format::{Inode, Key, Kind, OrphanRecord};
use crate::types::{InodeNo, ObjectId, Timestamp};

/// What is to be done, found out round by round.
pub(super) struct Plan {
    pub(super) amend: Amend,
    /// Losses were accepted, so what may follow from them is put right too.
    pub(super) lossy: bool,
    pub(super) now: Timestamp,
    /// The next number to be given out; 0 before the first round.
    pub(super) next_id: u64,
    /// Where inodes without a name go.
    pub(super) lost_found: Option<InodeNo>,
    /// Directories whose names were looked through in this round.
    pub(super) looked_through: BTreeSet<InodeNo>,
    /// Counts changes of what is planned.
    changes: u64,
    fixes: Vec<Fix>,
}

impl Plan {
    pub(super) fn new(lossy: bool, now: Timestamp) -> Plan {
        let (amend, looked_through, fixes) = (Amend::default(), BTreeSet::new(), Vec::new());
        Plan { amend, lossy, now, next_id: 0, lost_found: None, looked_through, changes: 0, fixes }
    }

    pub(super) fn amend(&self) -> &Amend {
        &self.amend
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(super) fn fixes(&self) -> Vec<Fix> {
        self.fixes.clone()
    }

    pub(super) fn fixed(&mut self, fix: Fix) {
        self.fixes.push(fix);
    }

    /// Takes the damage that is named for given up; `Err` is a loss that names none.
    pub(super) fn accept(&mut self, accepted: &[Loss], found: &[Finding]) -> core::result::Result<(), Loss> {
        for &loss in accepted {
            let mut named = false;
            for damage in found.iter().filter_map(Finding::loss).filter(|damage| covers(loss, *damage)) {
                named = true;
                let new = match damage {
                    Loss::Data { object, first, .. } => self.amend.cleared.insert((object, first)),
                    Loss::Node { addr } => self.amend.nodes.insert(addr),
                    Loss::Log { lsn } => self.amend.log_end.replace(lsn).is_none(),
                    Loss::Allocation => !core::mem::replace(&mut self.amend.allocation, true),
                };
                if new {
                    self.fixed(Fix::GivenUp(damage));
                }
            }
            if !named {
                return Err(loss);
            }
        }
        Ok(())
    }

    /// Puts records right that a survey found wrong; false if there was nothing to do.
    pub(super) fn put_right(&mut self, surveyed: &Surveyed, found: &[Finding]) -> Result<bool> {
        let highest = surveyed.counted.highest_id.saturating_add(1);
        self.next_id = self.next_id.max(surveyed.replay.next_id).max(highest);
        let before = self.changes;
        self.looked_through.clear();
        if self.lossy && found.contains(&Finding::NoRoot {}) {
            // Everything else hangs on it.
            self.make_directory(InodeNo::ROOT);
        } else {
            let named = found.iter().filter_map(|finding| match finding {
                Finding::LinkCount { ino, .. } | Finding::DirectoryNames { ino, .. } => Some(*ino),
                _ => None,
            });
            let miscounted: BTreeSet<InodeNo> = named.collect();
            for finding in found {
                self.count(surveyed, finding, &miscounted)?;
                if self.lossy {
                    self.follow(surveyed, finding)?;
                }
            }
        }
        Ok(self.changes != before)
    }

    /// Counts, links and orphans: nothing is lost by putting them right.
    fn count(&mut self, surveyed: &Surveyed, finding: &Finding, miscounted: &BTreeSet<InodeNo>) -> Result<()> {
        let before = self.changes;
        match *finding {
            Finding::LinkCount { ino, found, .. } => self.set_links(surveyed, ino, found)?,
            Finding::DirectoryNames { ino, found: 0 } => self.reconnect(surveyed, ino)?,
            Finding::DirectoryNames { ino, found: 1 } => self.edit(surveyed, ino, |inode| inode.links = 2)?,
            Finding::EntryCount { dir, found, .. } => self.edit(surveyed, dir, |inode| inode.entries = found)?,
            Finding::SubdirCount { dir, found, .. } => {
                let subdirs = u32::try_from(found).unwrap_or(u32::MAX);
                self.edit(surveyed, dir, |inode| inode.subdirs = subdirs)?;
            }
            Finding::Parent { ino, found, .. } => self.edit(surveyed, ino, |inode| inode.parent = found)?,
            Finding::XattrSummary { ino, flags, count, bytes } => {
                self.edit(surveyed, ino, |inode| super::records::summarize(inode, [flags, count, bytes]))?;
            }
            // One that has a name gets its links back first.
            Finding::OrphanUnrecorded { ino } if !miscounted.contains(&ino) => {
                self.put(orphan_key(ino), Some(OrphanRecord.encode()));
            }
            Finding::OrphanLinked { ino } | Finding::OrphanMissing { ino } => self.put(orphan_key(ino), None),
            _ => return Ok(()),
        }
        if before != self.changes {
            self.fixed(Fix::Right(finding.clone()));
        }
        Ok(())
    }

    fn set_links(&mut self, surveyed: &Surveyed, ino: InodeNo, found: u64) -> Result<()> {
        let links = u32::try_from(found).unwrap_or(u32::MAX);
        if links == 0 {
            return self.reconnect(surveyed, ino);
        }
        self.edit(surveyed, ino, |inode| inode.links = links)
    }

    /// Changes an inode, if there is one.
    pub(super) fn edit(&mut self, surveyed: &Surveyed, ino: InodeNo, change: impl FnOnce(&mut Inode)) -> Result<()> {
        if let Some(mut inode) = self.inode(surveyed, ino)? {
            change(&mut inode);
            self.put(inode_key(ino), Some(inode.encode()));
        }
        Ok(())
    }

    /// An inode as it stands after what is planned; one that does not decode is not there.
    pub(super) fn inode(&self, surveyed: &Surveyed, ino: InodeNo) -> Result<Option<Inode>> {
        let bytes = self.record(surveyed, inode_key(ino))?;
        Ok(bytes.and_then(|bytes| Inode::decode(&bytes).ok()))
    }

    pub(super) fn record(&self, surveyed: &Surveyed, key: Key) -> Result<Option<Vec<u8>>> {
        match self.amend.records.get(&key) {
            Some(planned) => Ok(planned.clone()),
            None => surveyed.record(key),
        }
    }

    pub(super) fn put(&mut self, key: Key, value: Option<Vec<u8>>) {
        let before = self.amend.records.insert(key, value.clone());
        self.changes += u64::from(before != Some(value));
    }

    pub(super) fn clear(&mut self, object: ObjectId, block: u64) {
        self.changes += u64::from(self.amend.cleared.insert((object, block)));
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

fn covers(loss: Loss, damage: Loss) -> bool {
    match (loss, damage) {
        (Loss::Data { object, first, last }, Loss::Data { object: damaged, first: block, .. }) => {
            object == damaged && (first..=last).contains(&block)
        }
        (loss, damage) => loss == damage,
    }
}

pub(super) fn inode_key(ino: InodeNo) -> Key {
    Key::new(ino.0, Kind::Inode, 0)
}

fn orphan_key(ino: InodeNo) -> Key {
    Key::new(0, Kind::Orphan, ino.0)
}
