//! When something last changed, told to the thread that does the background work. Counting is one atomic addition; the
//! lock is taken only when that thread sleeps without a deadline.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Counts changes and wakes a sleeper.
#[derive(Default)]
pub(crate) struct Activity {
    changes: AtomicU64,
    asleep: AtomicBool,
    closed: Mutex<bool>,
    wake: Condvar,
}

/// Why a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Woken {
    /// Time passed or something changed.
    Up,
    /// No more work: the mount ends.
    Closed,
}

impl Activity {
    /// Something changed.
    pub(crate) fn happened(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // Taking the lock makes sure that the sleeper either waits already or has not looked yet.
            drop(self.closed.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// How often something changed.
    pub(crate) fn count(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Sleeps for a while, whatever happens meanwhile.
    pub(crate) fn rest(&self, time: Duration) -> Woken {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.wake.wait_timeout_while(closed, time, |closed| !*closed);
        woken(*result.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Sleeps until something changes after the count was `seen`, at most for `time` where one is given.
    pub(crate) fn wait(&self, seen: u64, time: Option<Duration>) -> Woken {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, Ordering::SeqCst);
        let quiet = |closed: &mut bool| !*closed && self.count() == seen;
        let closed = match time {
            Some(time) => self.wake.wait_timeout_while(closed, time, quiet).unwrap_or_else(PoisonError::into_inner).0,
            None => self.wake.wait_while(closed, quiet).unwrap_or_else(PoisonError::into_inner),
        };
        self.asleep.store(false, Ordering::SeqCst);
        woken(*closed)
    }

    /// Ends every sleep, now and later.
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }
}

fn woken(closed: bool) -> Woken {
    if closed { Woken::Closed } else { Woken::Up }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_change_wakes_and_a_change_before_is_not_missed() {
        let activity = Arc::new(Activity::default());
        let seen = activity.count();
        activity.happened();
        assert_eq!(activity.wait(seen, None), Woken::Up, "it happened already");

        let seen = activity.count();
        let other = Arc::clone(&activity);
        let sleeper = std::thread::spawn(move || other.wait(seen, Some(Duration::from_secs(60))));
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        activity.happened();
        assert_eq!(sleeper.join().ok(), Some(Woken::Up));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn closing_ends_every_sleep() {
        let activity = Arc::new(Activity::default());
        let other = Arc::clone(&activity);
        let sleeper = std::thread::spawn(move || other.wait(other.count(), None));
        activity.close();
        assert_eq!(sleeper.join().ok(), Some(Woken::Closed));
        assert_eq!(activity.rest(Duration::from_secs(60)), Woken::Closed);
    }
}
