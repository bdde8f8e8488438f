//! Background work: what is due when, by a clock that a host sets as it likes.

use core::sync::atomic::{AtomicI64, Ordering};

use super::room::{Refusing, open_on, write};
use super::*;
use crate::env::Clock;

const COMMIT_MS: u64 = 1000;

#[derive(Default)]
struct SetClock(AtomicI64);

impl SetClock {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: self.0.load(Ordering::SeqCst), nanoseconds: 0 }
    }
}

/// A store at 1000 s with one change that was flushed, and one that was not.
fn behind() -> (Arc<SetClock>, Store) {
    let clock = Arc::new(SetClock::default());
    clock.set(1000);
    let mut store = open_on(Arc::new(Refusing::new(16 << 20)));
    store.clock = clock.clone();
    *store.last_flush.lock() = clock.now();
    write(&store, 0, 1).unwrap();
    let mut tx = store.begin(Need::Data { blocks: 1 }).unwrap();
    tx.write(ObjectId(9), 1, &vec![1; BLOCK_SIZE]).unwrap();
    tx.finish();
    assert!(store.is_behind());
    (clock, store)
}

#[test]
fn what_is_due_is_done_and_then_nothing_is_left() {
    let (clock, store) = behind();
    let first = store.work(COMMIT_MS).unwrap();
    assert!(store.is_behind() && first.again_ms.is_some(), "not due yet");
    clock.set(1001);
    let flushed = store.work(COMMIT_MS).unwrap();
    assert!(!store.is_behind(), "a change stays unflushed for one second");
    assert_eq!(flushed.again_ms, Some(4000), "the rest of the five quiet seconds");
    assert!(!store.layers.read().active.is_empty());
    clock.set(1005);
    let merged = store.work(COMMIT_MS).unwrap();
    assert!(store.layers.read().active.is_empty(), "merged after five quiet seconds");
    assert_eq!(merged.again_ms, None);
}

/// Whoever sets the clock back must not keep anything from being flushed.
#[test]
fn a_clock_that_goes_back_makes_everything_due() {
    let (clock, store) = behind();
    clock.set(-5);
    store.work(COMMIT_MS).unwrap();
    assert!(!store.is_behind());
}
