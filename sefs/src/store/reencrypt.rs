//! Re-encryption: every mount that writes draws an epoch, and the table has room for 4,096. When half of it is in use, what
//! the smallest epochs sealed is sealed anew under the current one, until a quarter is in use.
//!
//! Who pays:
//! - above a half: `work`, a slice a call, and closing, one slice;
//! - above three quarters: a mount's first write too, a share that ends the pass within a sixteenth of the table's mounts;
//!   near the end of the table, the whole pass.
//!
//! A slice is durable with its checkpoint, its record says where the next one goes on: mounts that live a second each get on.
//!
//! *Invariants*: epochs of this mount are never chosen, so nothing new is sealed with a chosen one. A chosen epoch that outlives
//! its pass, for something of it could not be read, is not chosen again in this mount.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::error::{Error, Posix, Result};
use crate::format::{JobRecord, Key, LIVE_UNKNOWN, MAX_JOB_EPOCHS};
use crate::store::Store;
use crate::store::checkpoint::Occasion;
use crate::store::info::Reencrypting;
use crate::store::read::record_error;
use crate::store::reseal::{Budget, JOB_KEY, Order};
use crate::tree;
use crate::types::EpochId;

/// The job, and what it learned in this mount.
#[derive(Default)]
pub(super) struct Reencryption {
    pass: Option<Pass>,
    /// Epochs that a pass did not get rid of.
    stubborn: BTreeSet<EpochId>,
    /// Something but a lack of room kept it from going on; the next mount tries again.
    failed: bool,
}

/// One pass over the volume.
struct Pass {
    epochs: BTreeSet<EpochId>,
    cursor: Key,
    /// It began in this mount, and nothing was left out.
    is_whole: bool,
}

/// Leaves that one slice looks at, and builds again.
const SLICE_LEAVES: u64 = 256;
const SLICE_REWRITES: u64 = 128;
/// Blocks that one slice moves: 4 MiB.
const SLICE_BLOCKS: u64 = 1024;
/// Checkpoints that may give the room for a slice.
const MAX_SPACE_CHECKPOINTS: usize = 3;

impl Store {
    /// Takes up the job that an earlier mount has left.
    pub(super) fn load_job(&self) -> Result<()> {
        let root = self.layers.read().system_root;
        let Some(bytes) = tree::get(self, root, JOB_KEY)? else { return Ok(()) };
        let JobRecord { reencrypt, cursor } = JobRecord::decode(&bytes).map_err(|why| record_error(JOB_KEY, why))?;
        let epochs = reencrypt.into_iter().collect();
        self.reencryption.lock().pass = Some(Pass { epochs, cursor, is_whole: false });
        Ok(())
    }

    /// Works off a slice, if one is due and there is room for it; returns how much that was.
    pub(super) fn reencrypt_slice(&self) -> Result<Option<u64>> {
        // Old epochs are worth nothing to a mount that does not write.
        if !self.epoch_started.load(Ordering::Acquire) || self.sealer.exhausted() {
            return Ok(None);
        }
        let mut state = self.reencryption.lock();
        if state.failed {
            return Ok(None);
        }
        if state.pass.is_none() {
            state.pass = self.choose(&state.stubborn);
        }
        if state.pass.is_none() {
            return Ok(None);
        }
        let Some(budget) = self.slice_budget()? else { return Ok(None) };
        match self.advance_pass(&mut state, budget) {
            Ok(units) => Ok(Some(units)),
            Err(Error::Posix(Posix::NoSpace)) => Ok(None),
            Err(failure) => {
                state.failed = true;
                Err(failure)
            }
        }
    }

    /// A checkpoint, with a slice if one is due.
    pub(super) fn checkpoint_or_slice(&self) -> Result<()> {
        match self.reencrypt_slice()? {
            Some(_) => Ok(()),
            None => self.checkpoint(),
        }
    }

    /// What whoever took an epoch out of a scarce rest does for the next one. That it does not get far is no reason to fail:
    /// as long as there are epochs the volume can be written, and what latches it is told to everybody.
    pub(super) fn pay_for_epoch(&self) {
        let (used, most) = (self.epoch_count(), self.limits.epochs);
        if used <= most / 4 * 3 {
            return;
        }
        let share =
            if used >= most - most / 8 { u64::MAX } else { self.pass_units() / u64::from(most / 16).max(1) + 1 };
        let mut done = 0;
        while done < share {
            match self.reencrypt_slice() {
                Ok(Some(units)) => done += units,
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) fn reencrypting(&self) -> Option<Reencrypting> {
        let state = self.reencryption.lock();
        let pass = state.pass.as_ref()?;
        let live: Vec<u64> = self.live_of(pass).collect();
        Some(Reencrypting {
            epochs: u32::try_from(live.len()).unwrap_or(u32::MAX),
            blocks_left: live.into_iter().filter(|live| *live != LIVE_UNKNOWN).sum(),
        })
    }

    /// Epochs of an old volume key, whatever the table's use; otherwise the smallest of the old epochs, so many that a quarter of
    /// the table is left, and none as long as half of it is free.
    fn choose(&self, stubborn: &BTreeSet<EpochId>) -> Option<Pass> {
        let of_old_key = self.live_of_old_key(stubborn);
        let (used, most) = (self.epoch_count(), self.limits.epochs);
        if of_old_key.is_empty() && used <= most / 2 {
            return None;
        }
        let (wanted, mut old) = match of_old_key.is_empty() {
            true => (used - most / 4, self.sealer.old_epochs()),
            false => (u32::MAX, of_old_key),
        };
        let wanted = usize::try_from(wanted).map_or(MAX_JOB_EPOCHS, |wanted| wanted.min(MAX_JOB_EPOCHS));
        old.retain(|(epoch, _)| !stubborn.contains(epoch));
        // Those whose count is not known come last.
        old.sort_unstable_by_key(|(epoch, live)| (*live, *epoch));
        let epochs: BTreeSet<EpochId> = old.into_iter().take(wanted).map(|(epoch, _)| epoch).collect();
        (!epochs.is_empty()).then_some(Pass { epochs, cursor: Key::MIN, is_whole: true })
    }

    fn advance_pass(&self, state: &mut Reencryption, budget: Budget) -> Result<u64> {
        let Some(pass) = &mut state.pass else { return Ok(0) };
        let old: BTreeSet<EpochId> = self.sealer.old_epochs().into_iter().map(|(epoch, _)| epoch).collect();
        pass.epochs.retain(|epoch| old.contains(epoch));
        let Pass { epochs, cursor, is_whole } = &*pass;
        let order = Order { is_job: true, epochs, from: *cursor, budget, is_whole: *is_whole };
        let slice = self.checkpoint_with(Occasion::Ordinary, &order)?;
        pass.is_whole &= !slice.left_one;
        match slice.next {
            Some(next) => pass.cursor = next,
            None => {
                let survivors: Vec<EpochId> = self.sealer.old_epochs().into_iter().map(|(epoch, _)| epoch).collect();
                state.stubborn.extend(survivors.into_iter().filter(|epoch| pass.epochs.contains(epoch)));
                state.pass = None;
            }
        }
        Ok(slice.units.max(1))
    }

    /// What a slice may cost now; `None` if there is no room for one.
    fn slice_budget(&self) -> Result<Option<Budget>> {
        for _ in 0..MAX_SPACE_CHECKPOINTS {
            let budget = self.room_for_slice();
            if budget.is_some() || self.alloc.counts().pending_blocks == 0 {
                return Ok(budget);
            }
            self.checkpoint()?;
        }
        Ok(self.room_for_slice())
    }

    /// A slice takes new places before the old ones become free. It leaves alone what accepted writes are going to need, and a
    /// quarter of the reserve, so that it neither fails them nor waits for them on a full volume.
    fn room_for_slice(&self) -> Option<Budget> {
        let pages = {
            let layers = self.layers.read();
            let sealing = layers.sealing.as_ref().map_or(0, |layer| layer.pages());
            layers.unlogged.pages() + sealing
        };
        if self.merge_is_tight() {
            return None;
        }
        let (counts, reserve) = (self.alloc.counts(), self.limits.reserve_blocks);
        let free = counts.free_blocks.saturating_sub(pages);
        let plenty = free.saturating_sub(reserve) / 4;
        let room = (free.saturating_sub(reserve / 4) / 4).min(reserve / 8) + plenty;
        let node_blocks = (self.node_size / crate::types::BLOCK_SIZE) as u64;
        let rewrites = (room / 2 / (2 * node_blocks)).min(counts.free_quads / 8).min(SLICE_REWRITES);
        let nonces = self.sealer.nonces_left().map_or(0, |(left, _)| left / 8);
        let blocks = (room / 2).min(nonces).min(SLICE_BLOCKS);
        (rewrites > 0 && blocks > 0).then_some(Budget { leaves: SLICE_LEAVES, rewrites, blocks })
    }

    /// What a whole pass is, at most, in the units of a slice.
    fn pass_units(&self) -> u64 {
        let state = self.reencryption.lock();
        let blocks: u64 = match &state.pass {
            Some(pass) => self.live_of(pass).filter(|live| *live != LIVE_UNKNOWN).sum(),
            None => match self.choose(&state.stubborn) {
                Some(pass) => self.live_of(&pass).filter(|live| *live != LIVE_UNKNOWN).sum(),
                None => 0,
            },
        };
        blocks.saturating_add(self.nodes_in_use()).saturating_add(self.geometry.groups())
    }

    fn live_of(&self, pass: &Pass) -> impl Iterator<Item = u64> {
        let old = self.sealer.old_epochs();
        old.into_iter().filter(|(epoch, _)| pass.epochs.contains(epoch)).map(|(_, live)| live)
    }
}
