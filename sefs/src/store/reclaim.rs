//! Background work: log groups and flushes that are due, checkpoints, and old epochs and range tombstones worked off in slices.

use alloc::vec::Vec;

use crate::error::Result;
use crate::store::rotation::RotationStep;
use crate::store::{Need, Store, Tx};
use crate::types::Timestamp;

/// Chunks that one step of a tombstone resets.
const STEP_CHUNKS: usize = 64;
/// Tombstone steps in one call of `work`.
const STEPS_PER_CALL: usize = 16;
/// A group is written after so long without a change …
const IDLE_MS: u64 = 5;
/// … or when its oldest change is so old.
const AGE_MS: u64 = 100;

/// Others get the backend for so long between two slices of re-encryption.
const PAUSE_MS: u64 = 50;
/// What is logged is merged after so long without a change.
const QUIET_MS: u64 = 5_000;

/// What `work` did and when it wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkDone {
    /// Call again after so many milliseconds, or at the next change; 0 means that more is waiting. `None`: nothing is left to
    /// do until something changes.
    pub again_ms: Option<u64>,
}

impl Store {
    /// Does what is due. `commit_ms` is the longest time that a change stays unflushed.
    pub(crate) fn work(&self, commit_ms: u64) -> Result<WorkDone> {
        if self.read_only {
            return Ok(WorkDone { again_ms: None });
        }
        self.check_latch()?;
        let now = self.clock.now();
        let (waiting, idle_ms, age_ms, half_full, unmerged) = {
            let layers = self.layers.read();
            let age = layers.oldest_change.map_or(0, |oldest| elapsed_ms(oldest, now));
            let half_full = layers.active.memory_bytes() > self.limits.unmerged_bytes / 2;
            (
                !layers.unlogged.is_empty(),
                elapsed_ms(layers.last_change, now),
                age,
                half_full,
                !layers.active.is_empty(),
            )
        };
        if waiting && (idle_ms >= IDLE_MS || age_ms >= AGE_MS) {
            self.cut_group()?;
        }
        if self.flush_due(now, commit_ms) {
            self.commit()?;
            self.note_flush(now);
        }
        let ring_half = self.log.lock().used_blocks() > self.ring.blocks / 2;
        let quiet = unmerged && idle_ms >= QUIET_MS;
        let due = half_full || ring_half || quiet || self.pending_is_much();
        let worked = match self.is_rotating() {
            true => self.rotate_slice()? == RotationStep::Working,
            false => self.reencrypt_slice()?.is_some(),
        };
        if due && !worked {
            self.checkpoint()?;
        }
        let more = self.reclaim_ranges(STEPS_PER_CALL)?;
        let left = !self.layers.read().active.is_empty();
        Ok(WorkDone {
            again_ms: match (more, worked) {
                (true, _) => Some(0),
                (false, true) => Some(PAUSE_MS),
                (false, false) if self.is_behind() => Some(IDLE_MS),
                (false, false) => left.then(|| QUIET_MS.saturating_sub(idle_ms).max(IDLE_MS)),
            },
        })
    }

    fn flush_due(&self, now: Timestamp, commit_ms: u64) -> bool {
        self.is_behind() && elapsed_ms(*self.last_flush.lock(), now) >= commit_ms
    }

    /// Whether something is not flushed yet.
    pub(super) fn is_behind(&self) -> bool {
        self.layers.read().sequence > self.commit_state.lock().flushed_sequence
    }

    fn note_flush(&self, now: Timestamp) {
        *self.last_flush.lock() = now;
    }

    /// So much waits for a checkpoint before it can be used again that one is worth its while.
    fn pending_is_much(&self) -> bool {
        let counts = self.alloc.counts();
        counts.pending_blocks > (counts.free_blocks / 8).clamp(1024, 262_144)
    }

    /// Works tombstones off, at most `steps` slices; true if some are left.
    pub(super) fn reclaim_ranges(&self, steps: usize) -> Result<bool> {
        for _ in 0..steps {
            let Some(range) = self.layers.read().ranges.first() else { return Ok(false) };
            self.start_epoch()?;
            let mut chunks: Vec<u64> = Vec::new();
            let mut next = range.first_chunk;
            while chunks.len() < STEP_CHUNKS {
                match self.next_named_chunk(range.object, next, range.end_chunk)? {
                    Some(chunk) => {
                        chunks.push(chunk);
                        next = chunk + 1;
                    }
                    None => {
                        next = range.end_chunk;
                        break;
                    }
                }
            }
            let mut tx = Tx::new(self, self.make_room(Need::Release, 0)?);
            tx.reclaim(range.id, chunks, next);
            tx.finish();
            let full = {
                let layers = self.layers.read();
                layers.unlogged.memory_bytes().max(layers.unlogged.log_bytes()) > self.limits.unlogged_bytes
            };
            if full {
                self.cut_group()?;
            }
            let full = self.layers.read().active.memory_bytes() > self.limits.unmerged_bytes;
            if full {
                self.checkpoint()?;
            }
        }
        Ok(self.layers.read().ranges.len() > 0)
    }
}

/// A clock that was set back, by whoever keeps it, says nothing about how much time passed: everything is due then.
fn elapsed_ms(from: Timestamp, to: Timestamp) -> u64 {
    if to < from {
        return u64::MAX;
    }
    let seconds = to.seconds.saturating_sub(from.seconds);
    let nanoseconds = i64::from(to.nanoseconds) - i64::from(from.nanoseconds);
    u64::try_from(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)).unwrap_or(0)
}
