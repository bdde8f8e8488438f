//! Durability: group commit, and the conditions under which an operation may begin.
//!
//! A commit makes everything up to now durable: one group, one flush, the anchor's advance if its policy is strict. All
//! callers that wait share it. If nothing is newer than the last flush it costs no I/O.

use alloc::sync::Arc;

use crate::anchor::{Anchor, AnchorState, state_digest};
use crate::format::AnchorPolicy;
use crate::error::{AnchorError, Error, Posix, Result};
use crate::store::{Store, Tx, data_blocks};
use crate::suite::Tag;
use crate::types::Lsn;

/// What an operation is going to need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Records only.
    Metadata,
    /// Records, and so many new data blocks.
    Data {
        /// Blocks, at most what one operation may write or preallocate.
        blocks: u64,
    },
    /// Records that give space back in the end: these may use the reserve.
    Release,
    /// The kernel's writeback of pages that were accepted long ago: these may use the reserve.
    Writeback {
        /// Blocks.
        blocks: u64,
    },
}

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
}

/// Checkpoints that a full volume may need before blocks that were given back can be used.
const MAX_SPACE_CHECKPOINTS: usize = 3;

impl Store {
    /// Makes all operations so far durable.
    pub(crate) fn commit(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
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
        self.advance_anchor(AnchorPolicy::Strict, end, &tag)?;
        Ok(sequence)
    }

    /// Cuts a group, after checkpoints if the ring has no room for it.
    pub(super) fn cut_group(&self) -> Result<()> {
        for _ in 0..MAX_SPACE_CHECKPOINTS {
            if self.cut(&mut self.log.lock())? {
                return Ok(());
            }
            self.checkpoint()?;
        }
        Err(self.latch(Posix::NoSpace.into()))
    }

    /// Makes all completed writes durable.
    pub(super) fn flush(&self) -> Result<()> {
        self.unflushed.clear();
        self.backend.flush().map_err(|failure| self.latch(failure.into()))
    }

    /// Everything in the log below `end` was flushed.
    pub(super) fn flushed(&self, end: Lsn) {
        let mut log = self.log.lock();
        log.flushed = log.flushed.max(end);
    }

    /// Advances the anchor to the state at `lsn`, if there is one and its policy asks for it at this occasion.
    pub(super) fn advance_anchor(&self, occasion: AnchorPolicy, lsn: Lsn, tag: &Tag) -> Result<()> {
        let mut anchored = self.anchored.lock();
        let Some(anchored) = anchored.as_mut() else { return Ok(()) };
        if occasion == AnchorPolicy::Strict && anchored.policy == AnchorPolicy::Checkpoint {
            return Ok(());
        }
        let digest = self.digest_at(&anchored.slot_salt, lsn, tag);
        if digest == anchored.state.digest {
            return Ok(());
        }
        let counter = anchored.state.counter.checked_add(1).ok_or(AnchorError::Malformed)?;
        let next = AnchorState { counter, digest };
        anchored.anchor.advance(&anchored.state, &next).map_err(|failure| self.latch(failure.into()))?;
        anchored.state = next;
        Ok(())
    }

    pub(super) fn digest_at(&self, slot_salt: &[u8; 32], lsn: Lsn, tag: &Tag) -> [u8; 32] {
        let header = &self.header;
        state_digest(
            &**self.sealer.suite(),
            &header.volume_id,
            header.key_generation,
            &self.header_digest,
            slot_salt,
            lsn,
            tag,
        )
    }

    /// Lets an operation begin, after the work that has to come before it.
    pub(crate) fn begin(&self, need: Need) -> Result<Tx<'_>> {
        if self.read_only {
            return Err(Posix::ReadOnly.into());
        }
        self.check_latch()?;
        self.start_epoch()?;
        self.slow_down()?;
        self.check_space(need)?;
        Ok(Tx::new(self))
    }

    /// Keeps what is not logged, not merged and not flushed within its bounds.
    fn slow_down(&self) -> Result<()> {
        let (unlogged, pages, unmerged, entries, ranges) = {
            let layers = self.layers.read();
            let unlogged = layers.unlogged.record_bytes();
            (unlogged, layers.unlogged.pages(), layers.active.record_bytes(), layers.active.len(), layers.ranges.len())
        };
        if self.sealer.exhausted() || unlogged > self.limits.unlogged_bytes || pages > self.limits.unlogged_pages {
            self.cut_group()?;
        }
        let ring_full = self.log.lock().used_blocks() > self.ring.blocks / 4 * 3;
        if unmerged > self.limits.unmerged_bytes || ring_full || self.merge_needs(entries) > self.alloc.counts().free_quads / 2 {
            self.checkpoint()?;
        }
        if ranges > self.limits.ranges {
            self.reclaim_ranges(self.limits.ranges)?;
        }
        if self.unflushed.bytes() > self.limits.unflushed_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Nodes that merging so many scattered entries may write, at most.
    pub(super) fn merge_needs(&self, entries: usize) -> u64 {
        let nodes = self.nodes_in_use();
        let entries = entries as u64;
        entries.min(nodes) + entries / 3 + 16
    }

    fn check_space(&self, need: Need) -> Result<()> {
        for _ in 0..MAX_SPACE_CHECKPOINTS {
            if self.has_space(need) {
                return Ok(());
            }
            if !self.checkpoint_would_help() {
                break;
            }
            self.reclaim_ranges(usize::MAX)?;
            self.cut_group()?;
            self.checkpoint()?;
        }
        if self.has_space(need) { Ok(()) } else { Err(Posix::NoSpace.into()) }
    }

    fn has_space(&self, need: Need) -> bool {
        let (pages, unwritten) = {
            let layers = self.layers.read();
            let sealing = layers.sealing.as_ref().map_or(0, |layer| layer.pages());
            (layers.unlogged.pages() + sealing, layers.unwritten())
        };
        let free = self.alloc.counts().free_blocks.saturating_sub(pages);
        let reserve = self.limits.reserve_blocks;
        match need {
            Need::Metadata => free.saturating_sub(unwritten) >= reserve,
            Need::Data { blocks } => free.saturating_sub(unwritten).saturating_sub(blocks) >= reserve,
            Need::Writeback { blocks } => free.saturating_sub(blocks) >= reserve / 2,
            Need::Release => free >= reserve / 8,
        }
    }

    fn checkpoint_would_help(&self) -> bool {
        let layers = self.layers.read();
        !layers.active.is_empty() || !layers.unlogged.is_empty() || self.alloc.counts().pending_blocks > 0
    }

    /// Latches the volume read-only on a failure that leaves the backend in an unknown state, and hands the failure on.
    pub(super) fn latch(&self, failure: Error) -> Error {
        let mut latched = self.latched.lock();
        if latched.is_none() {
            *latched = Some(alloc::string::ToString::to_string(&failure));
        }
        drop(latched);
        self.commit_done.notify_all();
        failure
    }

    pub(super) fn check_latch(&self) -> Result<()> {
        match &*self.latched.lock() {
            None => Ok(()),
            Some(cause) => Err(crate::error::Latched { cause: cause.clone() }.into()),
        }
    }

    /// Space as statfs tells it: what is given back counts as free before it can be used again.
    pub(crate) fn space(&self) -> Space {
        let counts = self.alloc.counts();
        let layers = self.layers.read();
        let promised = layers.unwritten() + layers.unlogged.pages();
        let free = (counts.free_blocks + counts.pending_blocks).saturating_sub(promised);
        Space {
            total_blocks: data_blocks(&self.geometry),
            free_blocks: free,
            available_blocks: free.saturating_sub(self.limits.reserve_blocks),
            inodes: layers.inodes,
        }
    }
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

