//! Durability: group commit, the anchor, the latch, and what keeps work that is left undone within bounds.
//!
//! A commit makes everything up to now durable: one group, one flush, the anchor's advance if its policy is strict. All
//! callers that wait share it. If nothing is newer than the last flush it costs no I/O.

use alloc::sync::Arc;

use crate::anchor::{Anchor, AnchorState, state_digest};
use crate::error::{AnchorError, Error, Latched, Posix, Result};
use crate::format::{AnchorKind, AnchorPolicy};
use crate::store::layer::Layer;
use crate::store::{Limits, Store, data_blocks};
use crate::suite::Tag;
use crate::types::Lsn;

/// What callers of `commit` wait for.
#[derive(Default)]
pub(super) struct CommitState {
    running: bool,
    pub(super) flushed_sequence: u64,
}

/// The anchor, if the volume has one, and what it holds.
pub(super) struct Anchored {
    pub(super) anchor: Arc<dyn Anchor>,
    pub(super) policy: AnchorPolicy,
    pub(super) state: AnchorState,
    /// The salt of the newest checkpoint slot, part of what the anchor binds.
    pub(super) slot_salt: [u8; 32],
    /// The latest point of the log that the anchor was advanced to. It never goes back: a commit and a checkpoint may
    /// overtake each other on their way here.
    pub(super) confirmed: (Lsn, Tag),
    /// For a bare counter: the number of the newest slot that this mount wrote, what it counts up to.
    pub(super) number: u64,
}

/// What waits for being logged or merged.
struct Waiting {
    /// Bytes and pages.
    unlogged: (usize, u64),
    /// Bytes and pages of what is being cut: if the host refuses that, it is unlogged again.
    sealing: (usize, u64),
    unmerged_bytes: usize,
    ranges: usize,
}

/// Checkpoints that a group may need before the ring has room for it: two empty the ring, others may fill it meanwhile.
const MAX_RING_CHECKPOINTS: usize = 8;

impl Waiting {
    /// Whether it is time for a cut. One that is under way does not hold up the next layer's writers before that layer is full.
    fn is_much(&self, limits: &Limits) -> bool {
        let (bytes, pages) = self.unlogged;
        bytes > limits.unlogged_bytes
            || pages > limits.unlogged_pages
            || bytes + self.sealing.0 > 2 * limits.unlogged_bytes
            || pages + self.sealing.1 > 2 * limits.unlogged_pages
    }
}

impl Store {
    /// Makes all operations so far durable.
    pub(crate) fn commit(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.check_latch()?;
        let target = self.layers.read().sequence;
        let mut state = self.commit_state.lock();
        loop {
            if state.flushed_sequence >= target {
                return Ok(());
            }
            self.check_latch()?;
            if !state.running {
                break;
            }
            state = self.commit_done.wait(state);
        }
        state.running = true;
        drop(state);
        let result = self.commit_now();
        let mut state = self.commit_state.lock();
        state.running = false;
        if let Ok(sequence) = result {
            state.flushed_sequence = state.flushed_sequence.max(sequence);
        }
        drop(state);
        self.commit_done.notify_all();
        result.map(drop)
    }

    fn commit_now(&self) -> Result<u64> {
        self.cut_group()?;
        let (sequence, end, tag) = {
            let log = self.log.lock();
            (log.sequence, log.next, log.previous_tag)
        };
        self.flush()?;
        self.flushed(end);
        self.anchor_commit((end, tag))?;
        Ok(sequence)
    }

    /// Logs all operations so far, after checkpoints if the ring has no room for their group. `NoSpace` leaves them where
    /// they are: they wait for the next attempt.
    pub(super) fn cut_group(&self) -> Result<()> {
        let target = self.layers.read().sequence;
        for _ in 0..MAX_RING_CHECKPOINTS {
            {
                let mut log = self.log.lock();
                if log.sequence >= target || self.cut(&mut log)? {
                    return Ok(());
                }
            }
            self.checkpoint()?;
        }
        Err(Posix::NoSpace.into())
    }

    /// Makes all completed writes durable.
    pub(super) fn flush(&self) -> Result<()> {
        // One at a time, and none after one that failed: the host tells of a lost write once, to whoever flushes first.
        let _one = self.flushing.lock();
        self.unflushed.clear();
        self.while_unlatched(|| self.backend.flush())?.map_err(|failure| self.latch(failure.into()))
    }

    /// Everything in the log below `end` was flushed.
    pub(super) fn flushed(&self, end: Lsn) {
        let mut log = self.log.lock();
        log.flushed = log.flushed.max(end);
    }

    /// A commit confirmed the log up to `end`.
    fn anchor_commit(&self, end: (Lsn, Tag)) -> Result<()> {
        let mut anchored = self.anchored.lock();
        let Some(anchored) = anchored.as_mut() else { return Ok(()) };
        if anchored.confirmed.0 < end.0 {
            anchored.confirmed = end;
        }
        match anchored.policy {
            AnchorPolicy::Strict => self.advance(anchored),
            AnchorPolicy::None | AnchorPolicy::Checkpoint => Ok(()),
        }
    }

    /// Before the first write of a mount: what was replayed is flushed and becomes what the anchor holds.
    pub(super) fn anchor_accepted(&self) -> Result<()> {
        if self.anchored.lock().is_none() {
            return Ok(());
        }
        let (end, salt) = {
            let slots = self.slots.lock();
            let log = self.log.lock();
            ((log.next, log.previous_tag), slots.newest_salt)
        };
        self.flush()?;
        self.anchor_slot(salt, end, end)
    }

    /// A slot was written: its log starts at `start`, and the log was flushed up to `flushed`. Under a lock that commits
    /// take, the salt and the point of the log change together.
    pub(super) fn anchor_slot(&self, salt: [u8; 32], start: (Lsn, Tag), flushed: (Lsn, Tag)) -> Result<()> {
        let mut anchored = self.anchored.lock();
        let Some(anchored) = anchored.as_mut() else { return Ok(()) };
        anchored.slot_salt = salt;
        for point in [start, flushed] {
            if anchored.confirmed.0 <= point.0 {
                anchored.confirmed = point;
            }
        }
        self.advance(anchored)
    }

    fn advance(&self, anchored: &mut Anchored) -> Result<()> {
        if anchored.anchor.kind() == AnchorKind::BareCounter {
            return self.count_up(anchored);
        }
        let (lsn, tag) = anchored.confirmed;
        let digest = self.digest_at(&anchored.slot_salt, lsn, &tag);
        if digest == anchored.state.digest {
            return Ok(());
        }
        let counter = anchored.state.counter.checked_add(1).ok_or(AnchorError::Malformed)?;
        let next = AnchorState { counter, digest };
        self.check_latch()?;
        anchored.anchor.advance(&anchored.state, &next).map_err(|failure| self.latch(failure.into()))?;
        anchored.state = next;
        Ok(())
    }

    pub(super) fn digest_at(&self, slot_salt: &[u8; 32], lsn: Lsn, tag: &Tag) -> [u8; 32] {
        self.digest_under(&self.header_digest, slot_salt, lsn, tag)
    }

    /// The same while another header is accepted too.
    pub(super) fn digest_under(&self, header_digest: &[u8; 32], slot_salt: &[u8; 32], lsn: Lsn, tag: &Tag) -> [u8; 32] {
        let header = &self.header;
        state_digest(
            &**self.sealer.suite(),
            &header.volume_id,
            header.key_generation,
            header_digest,
            slot_salt,
            lsn,
            tag,
        )
    }

    /// Keeps what is not logged, not merged and not flushed within its bounds.
    pub(super) fn slow_down(&self) -> Result<()> {
        let waiting = self.waiting();
        let exhausted = self.sealer.exhausted();
        if exhausted || waiting.is_much(&self.limits) {
            self.cut_group()?;
        }
        if exhausted {
            self.pay_for_epoch();
        }
        let ring_full = self.log.lock().used_blocks() > self.ring.blocks / 4 * 3;
        if waiting.unmerged_bytes > self.limits.unmerged_bytes || ring_full {
            self.checkpoint()?;
        }
        if waiting.ranges > self.limits.ranges {
            self.reclaim_ranges(self.limits.ranges)?;
        }
        if self.unflushed.bytes() > self.limits.unflushed_bytes {
            self.flush()?;
        }
        Ok(())
    }

    fn waiting(&self) -> Waiting {
        let layers = self.layers.read();
        let of = |layer: &Layer| (layer.memory_bytes().max(layer.log_bytes()), layer.pages());
        Waiting {
            unlogged: of(&layers.unlogged),
            sealing: layers.sealing.as_deref().map_or((0, 0), of),
            unmerged_bytes: layers.active.memory_bytes(),
            ranges: layers.ranges.len(),
        }
    }

    /// Latches the volume read-only on a failure that leaves the backend in an unknown state, and hands the failure on. Other
    /// threads' writes are over when it returns.
    pub(super) fn latch(&self, failure: Error) -> Error {
        let mut latched = self.latched.write();
        if latched.is_none() {
            *latched = Some(alloc::string::ToString::to_string(&failure));
        }
        drop(latched);
        // Who is about to wait and is missed here is woken by the commit that it waits for.
        self.commit_done.notify_all();
        failure
    }

    pub(super) fn check_latch(&self) -> Result<()> {
        self.while_unlatched(|| ())
    }

    /// Does what changes the backend, unless the volume is latched; it is not latched before this is done. So every thread's
    /// write either began before the failure was known, or does not happen.
    pub(super) fn while_unlatched<T>(&self, change: impl FnOnce() -> T) -> Result<T> {
        match &*self.latched.read() {
            None => Ok(change()),
            Some(cause) => Err(Latched { cause: cause.clone() }.into()),
        }
    }

    /// Space as statfs tells it: what is given back counts as free before it can be used again. How much was given back is
    /// known when it is merged, so that is done first.
    pub(crate) fn space(&self) -> Space {
        // If that fails, the failure is latched and every later commit tells it; the figures are those from before.
        let _ = self.settle();
        let counts = self.alloc.counts();
        let layers = self.layers.read();
        let promised = layers.unwritten() + layers.unlogged.pages();
        Space {
            total_blocks: if self.packed.is_some() { self.header.total_blocks } else { data_blocks(&self.geometry) },
            free_blocks: (counts.free_blocks + counts.pending_blocks).saturating_sub(promised),
            available_blocks: counts.available_blocks(promised),
            inodes: layers.inodes,
        }
    }

    /// What writers can have for sure, without waiting for anything: what is given back and not merged yet does not count.
    pub(crate) fn room(&self) -> Room {
        let counts = self.alloc.counts();
        let layers = self.layers.read();
        let promised_blocks = layers.unwritten();
        let available_blocks = counts.available_blocks(promised_blocks + layers.unlogged.pages());
        Room { available_blocks, promised_blocks }
    }

    /// Merges what was given back, if anything was.
    fn settle(&self) -> Result<()> {
        if self.read_only || !self.layers.read().gave_back {
            return Ok(());
        }
        self.reclaim_ranges(usize::MAX)?;
        self.layers.write().gave_back = false;
        self.cut_group().and_then(|()| self.checkpoint()).inspect_err(|_| self.layers.write().gave_back = true)
    }
}

/// What is left for writers, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Blocks that data may take.
    pub(crate) available_blocks: u64,
    /// Blocks that fallocate(2) promised to files and that are not written yet.
    pub(crate) promised_blocks: u64,
}

/// Space of the volume, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Blocks that are not reserved areas.
    pub(crate) total_blocks: u64,
    /// Blocks not in use.
    pub(crate) free_blocks: u64,
    /// Blocks that data may take.
    pub(crate) available_blocks: u64,
    /// Inodes in use.
    pub(crate) inodes: u64,
}
