//! Durability: group commit, and the conditions under which an operation may begin.
//!
//! A commit makes everything up to now durable: one group, one flush, the anchor's advance if its policy is strict. All
//! callers that wait share it. If nothing is newer than the last flush it costs no I/O.

use alloc::sync::Arc;

use crate::anchor::{Anchor, AnchorState, state_digest};
use crate::error::{AnchorError, Error, Posix, Result};
use crate::format::AnchorPolicy;
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
    /// The latest point of the log that the anchor was advanced to. It never goes back: a commit and a checkpoint may
    /// overtake each other on their way here.
    pub(super) confirmed: (Lsn, Tag),
}

/// What waits for being logged or merged.
struct Waiting {
    unlogged_bytes: usize,
    unlogged_pages: u64,
    unmerged_bytes: usize,
    entries: usize,
    ranges: usize,
}

/// Entries that most operations make at most.
const OPERATION_ENTRIES: usize = 8;
/// Checkpoints that a full volume may need before blocks that were given back can be used.
const MAX_SPACE_CHECKPOINTS: usize = 3;

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
        // One at a time, and none after one that failed: the host tells of a lost write once, to whoever flushes first.
        let _one = self.flushing.lock();
        self.check_latch()?;
        self.unflushed.clear();
        self.backend.flush().map_err(|failure| self.latch(failure.into()))
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
        let (lsn, tag) = anchored.confirmed;
        let digest = self.digest_at(&anchored.slot_salt, lsn, &tag);
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
        let waiting = self.waiting();
        if self.sealer.exhausted()
            || waiting.unlogged_bytes > self.limits.unlogged_bytes
            || waiting.unlogged_pages > self.limits.unlogged_pages
        {
            self.cut_group()?;
        }
        let ring_full = self.log.lock().used_blocks() > self.ring.blocks / 4 * 3;
        if self.merge_is_tight(waiting.entries) {
            self.cut_group()?;
            self.checkpoint()?;
        } else if waiting.unmerged_bytes > self.limits.unmerged_bytes || ring_full {
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
        Waiting {
            unlogged_bytes: layers.unlogged.record_bytes(),
            unlogged_pages: layers.unlogged.pages(),
            unmerged_bytes: layers.active.record_bytes(),
            entries: layers.unlogged.len() + layers.active.len(),
            ranges: layers.ranges.len(),
        }
    }

    /// Whether merging what waits, with one operation more, might need more nodes than can be had. Half of the free quads
    /// count: what a checkpoint releases comes back only with the next one.
    fn merge_is_tight(&self, entries: usize) -> bool {
        let counts = self.alloc.counts();
        let entries_now = (entries + OPERATION_ENTRIES) as u64;
        // A leaf for each entry or each leaf there is, splits, and the way up.
        let nodes = entries_now.min(self.nodes_in_use()) + entries_now / 3 + 8;
        (entries > 0 || counts.pending_blocks > 0) && nodes > counts.free_quads / 2
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
            Need::Release => free >= reserve / 4,
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

    /// Space as statfs tells it: what is given back counts as free before it can be used again. How much was given back is
    /// known when it is merged, so that is done first.
    pub(crate) fn space(&self) -> Space {
        // If that fails, the failure is latched and every later commit tells it; the figures are those from before.
        let _ = self.settle();
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

    /// Merges what was given back, if anything was.
    fn settle(&self) -> Result<()> {
        if self.read_only || !self.layers.read().gave_back {
            return Ok(());
        }
        self.reclaim_ranges(usize::MAX)?;
        self.layers.write().gave_back = false;
        self.cut_group()?;
        self.checkpoint()
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
