//! The newest committed state, kept where the host cannot take it back.
//!
//! An anchor holds a counter and a digest. A volume that has one is opened only if its log leads through the state that the
//! digest names; an older copy of the whole volume is then noticed. One that holds a counter only confirms the checkpoint
//! slots of a volume by their numbers, and cannot be strict.
//!
//! *Invariants*: the counter never falls; a state is replaced only by whoever knows it (compare-and-swap); opening never
//! creates an anchor.

pub(crate) mod counter;
#[cfg(feature = "std")]
mod file;

use crate::error::AnchorError;
use crate::suite::{Suite, Tag};
use crate::sync::Mutex;
use crate::types::Lsn;

pub use counter::{MemoryCounter, check_count};
#[cfg(feature = "std")]
pub use file::FileAnchor;

pub use crate::format::{AnchorKind, AnchorPolicy};

const STATE_DOMAIN: &[u8] = b"sefs 1 anchored state";

/// What an anchor holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnchorState {
    /// One higher with each advance.
    pub counter: u64,
    /// [`state_digest`] of the newest confirmed state; zero before the first, and always for a bare counter.
    pub digest: [u8; 32],
}

/// A place that the host can neither roll back nor forge.
pub trait Anchor: Send + Sync {
    /// What it can hold.
    fn kind(&self) -> AnchorKind;
    /// Which anchor it is. A volume is bound to one.
    fn identity(&self) -> [u8; 32];
    /// What it holds now.
    fn read(&self) -> Result<AnchorState, AnchorError>;
    /// Replaces `from` by `to`, durably. If it holds something else, or if `to` does not count higher, it stays as it is and
    /// the answer is [`AnchorError::Conflict`]. After any other error it may hold either.
    ///
    /// A bare counter is asked for one step only (see [`check_count`]). What decides is the value that its own increment
    /// gave: if that is not `to`'s, the answer is `Conflict`, though it has counted. It looks before it counts, so that this
    /// happens in a race only; each count of a stranger brings a volume closer to being refused.
    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError>;
}

/// Names the state of a volume after the log group that ends before `lsn` and has the tag `tag`, or, when there is none
/// since, after the slot with that salt and tag. Each part has a fixed length, so that no two states share their bytes.
pub fn state_digest(
    suite: &dyn Suite,
    volume_id: &[u8; 16],
    key_generation: u32,
    header_digest: &[u8; 32],
    slot_salt: &[u8; 32],
    lsn: Lsn,
    tag: &Tag,
) -> [u8; 32] {
    let (key_generation, lsn) = (key_generation.to_le_bytes(), lsn.0.to_le_bytes());
    suite.sha256(&[STATE_DOMAIN, volume_id, &key_generation, header_digest, slot_salt, &lsn, tag])
}

/// An anchor in memory: for tests, and for LibOSes that keep its state themselves.
pub struct MemoryAnchor {
    identity: [u8; 32],
    state: Mutex<AnchorState>,
}

impl MemoryAnchor {
    /// A new anchor. The identity is random, or at least not used by another.
    pub fn new(identity: [u8; 32]) -> MemoryAnchor {
        MemoryAnchor::with_state(identity, AnchorState { counter: 0, digest: [0; 32] })
    }

    /// An anchor that goes on from a state that was kept elsewhere.
    pub fn with_state(identity: [u8; 32], state: AnchorState) -> MemoryAnchor {
        MemoryAnchor { identity, state: Mutex::new(state) }
    }
}

impl Anchor for MemoryAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::ContentBound
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn read(&self) -> Result<AnchorState, AnchorError> {
        Ok(self.state.lock().clone())
    }

    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
        let mut state = self.state.lock();
        check_step(&state, from, to)?;
        *state = to.clone();
        Ok(())
    }
}

/// The rule of every advance.
fn check_step(held: &AnchorState, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
    if held == from && to.counter > from.counter { Ok(()) } else { Err(AnchorError::Conflict) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::RustCrypto;
    use alloc::vec::Vec;
    use std::sync::Arc;

    pub(super) fn state(counter: u64) -> AnchorState {
        AnchorState { counter, digest: [counter.to_le_bytes()[0]; 32] }
    }

    /// What every anchor promises, from a new one on.
    pub(super) fn check_promises(anchor: Arc<dyn Anchor>) {
        let start = anchor.read().unwrap();
        assert_eq!(start, AnchorState { counter: 0, digest: [0; 32] });
        assert_eq!(anchor.advance(&start, &state(1)), Ok(()));
        assert_eq!(anchor.advance(&start, &state(2)), Err(AnchorError::Conflict), "the state is no longer that");
        let other_content = AnchorState { counter: 1, digest: [9; 32] };
        assert_eq!(anchor.advance(&other_content, &state(2)), Err(AnchorError::Conflict), "the digest counts too");
        assert_eq!(anchor.advance(&state(1), &state(0)), Err(AnchorError::Conflict), "never back");
        assert_eq!(anchor.advance(&state(1), &other_content), Err(AnchorError::Conflict), "no two states, one number");
        assert_eq!(anchor.read().unwrap(), state(1));

        let winners: Vec<bool> = std::thread::scope(|scope| {
            let racers: Vec<_> = (2..10)
                .map(|counter| {
                    let anchor = &anchor;
                    scope.spawn(move || anchor.advance(&state(1), &state(counter)).is_ok())
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(winners.iter().filter(|won| **won).count(), 1, "of all who know a state one replaces it");
        let won = winners.iter().zip(2..).find(|(won, _)| **won).map(|(_, counter)| counter);
        assert_eq!(anchor.read().unwrap().counter, won.unwrap());
    }

    #[test]
    fn a_memory_anchor_keeps_the_promises() {
        check_promises(Arc::new(MemoryAnchor::new([7; 32])));
    }

    #[test]
    fn every_part_changes_the_digest() {
        let digest = |volume: u8, generation, header: u8, salt: u8, lsn, tag: u8| {
            state_digest(&RustCrypto, &[volume; 16], generation, &[header; 32], &[salt; 32], Lsn(lsn), &[tag; 16])
        };
        let variants = [
            digest(0, 0, 0, 0, 0, 0),
            digest(1, 0, 0, 0, 0, 0),
            digest(0, 1, 0, 0, 0, 0),
            digest(0, 0, 1, 0, 0, 0),
            digest(0, 0, 0, 1, 0, 0),
            digest(0, 0, 0, 0, 1, 0),
            digest(0, 0, 0, 0, 0, 1),
        ];
        let distinct: std::collections::BTreeSet<_> = variants.iter().collect();
        assert_eq!(distinct.len(), variants.len());
        let undivided = RustCrypto.sha256(&[&[0; 16 + 4 + 32 + 32 + 8 + 16]]);
        assert_ne!(variants[0], undivided, "the domain is part of it");
    }
}
