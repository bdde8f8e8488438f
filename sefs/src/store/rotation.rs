//! Rotation: the volume gets another key, and what the old one can open is sealed anew.
//!
//! Order, each step durable before the next:
//! 1. the replica becomes the new header;
//! 2. a checkpoint under the new key closes the log, begins an epoch, and holds the record of the old key; the anchor stays;
//! 3. the primary becomes the new header;
//! 4. the anchor follows;
//! 5. a second checkpoint under the new key, in the other slot;
//! 6. re-encryption ends the epochs of the old key; with the last one the record goes.
//!
//! *Security*: no key wraps the other. What a mount under the new key needs of the old time are the secrets of old epochs,
//! which its epoch pages repeat, and the record, which is not secret. Whoever has the old key can read and forge blocks of old
//! epochs until these have ended, and nothing afterwards. A slot under the old key is noise to a mount under the new one.
//!
//! *Invariants*: at every moment one of the keys opens the volume, and the header's first copy that is whole leads to it; no epoch
//! of the old key seals after 2. The argument is decision 11.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::anchor::state_digest;
use crate::error::{Error, Invalid, Posix, Result};
use crate::format::{Checkpoint, FEATURE_ROTATED, Header, KeySlot, LIVE_UNKNOWN};
use crate::keys::VolumeKey;
use crate::store::checkpoint::Occasion;
use crate::store::header_change::Copy;
use crate::store::{Anchored, Store};
use crate::types::EpochId;

/// What a rotation has left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotating {
    /// Epochs of the old key.
    pub epochs: u32,
    /// Blocks that they sealed, as far as they are known.
    pub blocks_left: u64,
}

/// What a step of a rotation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// There is nothing of an old key.
    Ended,
    /// More is left.
    Working,
    /// More is left, and this mount cannot do it: it cannot be read, or there is no room for sealing it anew.
    Stuck,
}

impl Store {
    /// Gives the volume another key and other slots; see the module's header. Success means that the old key opens it no more;
    /// what is left for [`Store::rotate_slice`] is what it can still read.
    pub(crate) fn change_key(&mut self, old: &VolumeKey, new: &VolumeKey, slots: Vec<KeySlot>) -> Result<()> {
        if self.read_only {
            return Err(Posix::ReadOnly.into());
        }
        self.demand_slots(&slots)?;
        self.demand_key(old)?;
        if self.is_rotating() {
            return Err(Invalid::KeyRotation.into());
        }
        let next = self.header_of_new_key(slots)?;
        let (bytes, verified) = new.seal_header(self.suite(), &next);
        if old.verify_header(self.suite(), &bytes).is_ok() {
            return Err(Invalid::VolumeKey.into());
        }
        self.start_epoch()?;
        // Nothing that an epoch of the old key sealed may be named later: all of it is merged, and both slots are sound.
        self.commit()?;
        self.checkpoint_for(Occasion::Ordinary)?;
        self.write_header(Copy::Replica, &bytes)?;
        self.sealer.change_key(new, &verified, self.header_digest)?;
        self.begin_under_new_key(*verified.digest()).map_err(|failure| self.latch(failure))?;
        self.write_header(Copy::Primary, &bytes)?;
        (self.header, self.header_digest) = (next, *verified.digest());
        self.anchor_accepted()?;
        self.checkpoint_for(Occasion::Ordinary)
    }

    fn header_of_new_key(&self, slots: Vec<KeySlot>) -> Result<Header> {
        let generation = self.header.generation.checked_add(1).ok_or(Invalid::VolumeKey)?;
        let key_generation = self.header.key_generation.checked_add(1).ok_or(Invalid::VolumeKey)?;
        let incompatible = self.header.incompatible | FEATURE_ROTATED;
        Ok(Header { generation, key_generation, incompatible, slots, ..self.header.clone() })
    }

    /// The first checkpoint under the new key. Until its header is the primary, the old key opens the volume too, from the slot
    /// before; so which of the two this mount goes on with is not known after a failure.
    fn begin_under_new_key(&self, header_digest: [u8; 32]) -> Result<()> {
        let epoch = self.sealer.new_epoch()?;
        self.log.lock().epoch = epoch;
        {
            let mut slots = self.slots.lock();
            slots.newest.accepted_headers = alloc::vec![header_digest];
            slots.newest.rotation = self.sealer.rotation_without(&BTreeSet::new());
        }
        self.checkpoint_for(Occasion::KeyChange)
    }

    /// Before a mount's first write: a change of the key that was cut short may have left the primary under the old key. The mount's
    /// own checkpoints take the last slot of that key away, so nothing may lead there any more.
    pub(super) fn lead_to_new_key(&self) -> Result<()> {
        let accepts_one = self.slots.lock().newest.accepted_headers.len() == 1;
        if self.is_rotating() && accepts_one { self.repair_headers() } else { Ok(()) }
    }

    /// Whether the anchor holds the last state of the old key, and `checkpoint` is the one that follows it: it was not moved
    /// before a crash.
    pub(super) fn holds_old_key(&self, anchored: &Anchored, checkpoint: &Checkpoint) -> bool {
        let Some(rotation) = checkpoint.rotation.filter(|rotation| rotation.first_epoch == checkpoint.log_epoch) else {
            return false;
        };
        let Some(key_generation) = self.header.key_generation.checked_sub(1) else { return false };
        let digest = state_digest(
            self.suite(),
            &self.header.volume_id,
            key_generation,
            &rotation.old_header_digest,
            &checkpoint.previous_salt,
            checkpoint.log_start,
            &checkpoint.previous_tag,
        );
        digest == anchored.state.digest
    }

    /// Whether the newest checkpoint names an epoch of an old key.
    pub(super) fn is_rotating(&self) -> bool {
        self.rotating.load(Ordering::Acquire)
    }

    pub(super) fn rotating(&self) -> Option<Rotating> {
        let epochs = self.is_rotating().then(|| self.sealer.epochs_of_old_key())?;
        let known = epochs.iter().map(|(_, live)| *live).filter(|live| *live != LIVE_UNKNOWN);
        let blocks_left = known.fold(0, u64::saturating_add);
        Some(Rotating { epochs: u32::try_from(epochs.len()).unwrap_or(u32::MAX), blocks_left })
    }

    /// Epochs of an old key that sealed something live, but for those that a pass could not end.
    pub(super) fn live_of_old_key(&self, stubborn: &BTreeSet<EpochId>) -> Vec<(EpochId, u64)> {
        if !self.is_rotating() {
            return Vec::new();
        }
        let mut epochs = self.sealer.epochs_of_old_key();
        epochs.retain(|(epoch, live)| *live > 0 && !stubborn.contains(epoch));
        epochs
    }

    /// Works off a slice of what is left of a rotation.
    pub(crate) fn rotate_slice(&self) -> Result<RotationStep> {
        if !self.is_rotating() {
            return Ok(RotationStep::Ended);
        }
        if self.read_only {
            return Err(Posix::ReadOnly.into());
        }
        match self.start_epoch() {
            Err(Error::Posix(Posix::NoSpace)) => return Ok(RotationStep::Stuck),
            started => started?,
        }
        if self.reencrypt_slice()?.is_some() {
            return Ok(RotationStep::Working);
        }
        if !self.live_of_old_key(&BTreeSet::new()).is_empty() {
            return Ok(RotationStep::Stuck);
        }
        // Nothing of them is live; a checkpoint that says so, and the one after it, end them.
        self.checkpoint_for(Occasion::Ordinary)?;
        Ok(if self.is_rotating() { RotationStep::Working } else { RotationStep::Ended })
    }
}
