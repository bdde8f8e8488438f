//! Anchors that hold a number and nothing else.
//!
//! A bare counter cannot say *which* state it confirms, so no two states may ever have one number. Each slot holds a number
//! of its own; slots' numbers are even, and the counter goes up by one.
//!
//! - A mount *owns* a value if its own increment gave it. Nobody else was ever given that value.
//! - A mount that is about to write its first slot counts up to an odd value w, one or two steps. That slot gets the
//!   number w + 3; when it is durable, the mount counts up to it.
//! - Each later slot of the mount gets the number n + 2, n being the one before, which is what the counter holds; when it is
//!   durable, the mount counts up to it.
//! - At the value v the newest slot is accepted if its number n is even and v − 1 ≤ n ≤ v + 3.
//! - An increment that gives anything but the next value means that somebody else counts: the mount stops.
//!
//! *Security*. At an even v the numbers v and v + 2 are accepted, at an odd one v − 1, v + 1 and v + 3. A number n is given
//! by whoever owns n − 2, or the odd n − 3. A mount that has brought the counter to the number n of one of its slots went
//! through n − 3 or n − 2 up to n by its own increments, so it is the only one that can have given the numbers n and n + 2:
//! whatever the host shows at n is a slot of this mount, the one that was confirmed or the one after it. All others, prepared
//! by twins, by mounts that crashed or while this one was held up, have other numbers, which are not accepted at n.
//!
//! The tail of the log behind a slot is not bound: the policy is `checkpoint`, and `strict` is refused.
//!
//! *Crashes*. A slot is durable before it is counted to, and stays accepted on the way: n from n − 3 (a first slot) or n − 2
//! on. Between a mount's first increment and its first slot, the slot of before is accepted at one value more than its number.
//! So that window survives one crash. It lasts for one block's write and flush; if a second mount in a row dies in it, the
//! volume is refused, and only abandoning the anchor opens it. No rule for a bare counter does without such a window: a slot
//! that is prepared before the increment and accepted after it is accepted after anybody's increment, a twin's too.

use super::{Anchor, AnchorKind, AnchorState};
use crate::error::AnchorError;
use crate::sync::Mutex;

/// How far above the value that a mount took a first slot's number is.
const FIRST_STEP: u64 = 3;
/// How far above the number before a later slot's is.
const STEP: u64 = 2;

/// Whether a slot with this number may be the newest when the counter holds `counter`.
pub(crate) fn accepts(counter: u64, number: u64) -> bool {
    let (low, high) = (counter.saturating_sub(1), counter.saturating_add(FIRST_STEP));
    number.is_multiple_of(STEP) && (low..=high).contains(&number)
}

/// Whether the counter holds a value from which a first slot's number follows.
pub(crate) fn is_claim(counter: u64) -> bool {
    !counter.is_multiple_of(STEP)
}

/// The number of a mount's first slot, when the counter holds `claimed`; `None` when there are no more.
pub(crate) fn first_number(claimed: u64) -> Option<u64> {
    claimed.checked_add(FIRST_STEP)
}

/// The number of a mount's next slot, when the counter holds the number of the one before.
pub(crate) fn next_number(counter: u64) -> Option<u64> {
    counter.checked_add(STEP)
}

/// Counts one up, and demands that nobody else did.
pub(crate) fn count(anchor: &dyn Anchor, state: &mut AnchorState) -> Result<(), AnchorError> {
    let counter = state.counter.checked_add(1).ok_or(AnchorError::Malformed)?;
    let next = AnchorState { counter, digest: state.digest };
    anchor.advance(state, &next)?;
    *state = next;
    Ok(())
}

/// A counter in memory: for tests, and for LibOSes that keep its value themselves.
pub struct MemoryCounter {
    identity: [u8; 32],
    value: Mutex<u64>,
}

impl MemoryCounter {
    /// A counter that goes on from a value. The identity is random, or at least not used by another.
    pub fn new(identity: [u8; 32], value: u64) -> MemoryCounter {
        MemoryCounter { identity, value: Mutex::new(value) }
    }
}

impl Anchor for MemoryCounter {
    fn kind(&self) -> AnchorKind {
        AnchorKind::BareCounter
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn read(&self) -> Result<AnchorState, AnchorError> {
        Ok(AnchorState { counter: *self.value.lock(), digest: [0; 32] })
    }

    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
        check_count(from, to)?;
        let mut value = self.value.lock();
        if *value != from.counter {
            return Err(AnchorError::Conflict);
        }
        *value = to.counter;
        Ok(())
    }
}

/// What may be asked of a bare counter: one step, and no digest.
pub fn check_count(from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
    let one_step = from.counter.checked_add(1) == Some(to.counter);
    if one_step && from.digest == [0; 32] && to.digest == [0; 32] { Ok(()) } else { Err(AnchorError::Conflict) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn a_counter_notices_that_somebody_else_counts() {
        let counter = MemoryCounter::new([1; 32], 7);
        let start = counter.read().unwrap();
        let at = |counter| AnchorState { counter, digest: [0; 32] };
        assert_eq!(counter.advance(&start, &at(9)), Err(AnchorError::Conflict), "one step at a time");
        assert_eq!(counter.advance(&start, &AnchorState { counter: 8, digest: [1; 32] }), Err(AnchorError::Conflict));
        assert_eq!(counter.read(), Ok(start.clone()));
        assert_eq!(counter.advance(&start, &at(8)), Ok(()));
        assert_eq!(counter.advance(&start, &at(8)), Err(AnchorError::Conflict), "twins");
        assert_eq!(counter.read(), Ok(at(8)), "whoever is late does not count");
    }

    /// A slot: its number, the mount that wrote it, and which of its slots it is.
    type Slot = (u64, u8, u8);

    /// A mount on its way. `slot` is what it read or wrote last.
    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Mount {
        value: u64,
        slot: Option<Slot>,
        written: u8,
        stopped: bool,
    }

    /// Everything that the host can bring about: the counter, each slot ever written, each mount.
    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Model {
        counter: u64,
        slots: BTreeSet<Slot>,
        mounts: Vec<Mount>,
    }

    impl Model {
        /// One step of a mount; on an increment that gave something else it stops.
        fn step(&mut self, who: u8) -> bool {
            let mount = &mut self.mounts[usize::from(who)];
            if mount.stopped {
                return false;
            }
            let claims = mount.written == 0 && (mount.slot.is_none() || !is_claim(mount.value));
            let counting = mount.written > 0 && mount.slot.is_some_and(|slot| mount.value < slot.0);
            if claims || counting {
                self.counter += 1;
                mount.value += 1;
                mount.stopped = self.counter != mount.value;
                mount.slot = mount.slot.or(Some((0, who, 0)));
                return true;
            }
            let number = if mount.written == 0 { first_number(mount.value) } else { next_number(mount.value) };
            mount.written += 1;
            let slot = (number.unwrap(), who, mount.written);
            mount.slot = Some(slot);
            self.slots.insert(slot);
            true
        }

        /// Where a mount has brought the counter to the number of a slot, that slot or a later one of it is all the host can show.
        fn check(&self) {
            for (who, mount) in (0u8..).zip(&self.mounts) {
                let Some(slot) = mount.slot.filter(|slot| mount.written > 0 && mount.value == slot.0) else { continue };
                if mount.stopped || self.counter != mount.value {
                    continue;
                }
                let shown: Vec<&Slot> = self.slots.iter().filter(|slot| accepts(self.counter, slot.0)).collect();
                assert!(shown.iter().all(|shown| shown.1 == who && shown.2 >= slot.2), "{shown:?} at {}", self.counter);
                assert!(shown.contains(&&slot));
            }
        }
    }

    /// All interleavings of mounts that begin whenever they like, at whatever the counter holds, and of which each may be
    /// left standing anywhere.
    #[test]
    fn whatever_is_accepted_was_written_by_the_one_who_counts() {
        let start = Model { counter: 4, slots: BTreeSet::from([(4, 9, 0)]), mounts: Vec::new() };
        let mut seen = BTreeSet::from([start.clone()]);
        let mut todo = vec![start];
        while let Some(model) = todo.pop() {
            model.check();
            let mut next: Vec<Model> = Vec::new();
            if model.mounts.len() < 3 && model.slots.iter().any(|slot| accepts(model.counter, slot.0)) {
                let mut more = model.clone();
                more.mounts.push(Mount { value: model.counter, slot: None, written: 0, stopped: false });
                next.push(more);
            }
            for who in 0..model.mounts.len() as u8 {
                let mut more = model.clone();
                if model.mounts[usize::from(who)].written < 3 && more.step(who) {
                    next.push(more);
                }
            }
            for model in next {
                if seen.insert(model.clone()) {
                    todo.push(model);
                }
            }
        }
        assert!(seen.len() > 1000);
    }

    #[test]
    fn a_mount_can_crash_anywhere_once() {
        for before in [4u64, 5] {
            // The newest slot has the number 4 and is confirmed, or one mount has counted since and died.
            let mut value = before + 1;
            assert_eq!(accepts(value, 4), before == 4, "the window survives one crash");
            if !is_claim(value) {
                value += 1;
            }
            let number = first_number(value).unwrap();
            for value in value..=number {
                assert!(accepts(value, number));
            }
            let later = next_number(number).unwrap();
            for value in number..=later {
                assert!(accepts(value, later));
            }
            assert!(accepts(number, number) && !accepts(later, number));
        }
    }
}
