//! Answers fsync: one thread commits for everybody who waits, so an event loop never waits for the disk and concurrent
//! callers share one commit.

use std::sync::{Condvar, Mutex, PoisonError};

use fuser::{Errno, ReplyEmpty, ReplyWrite};

use crate::served::Served;

/// A caller that waits for a commit.
pub(crate) enum Waiting {
    /// fsync(2), fdatasync(2).
    Sync(ReplyEmpty),
    /// A write that is to be durable before it returns, and its length.
    Written(ReplyWrite, u32),
}

/// Those who wait.
#[derive(Default)]
pub(crate) struct Committer {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    closed: bool,
}

impl Committer {
    /// Hands a caller over; the answer comes after a commit that began later than now.
    pub(crate) fn add(&self, caller: Waiting) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.push(caller);
        self.wake.notify_one();
    }

    /// Lets `run` end once nobody waits.
    pub(crate) fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_one();
    }

    /// Commits whenever somebody waits.
    pub(crate) fn run(&self, served: &Served) {
        while let Some(callers) = self.next() {
            let outcome = served.read(|volume| volume.sync());
            callers.into_iter().for_each(|caller| caller.answer(outcome));
        }
    }

    /// All who wait now; `None` when it is time to end.
    fn next(&self) -> Option<Vec<Waiting>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
        let mut queue = self.wake.wait_while(queue, empty).unwrap_or_else(PoisonError::into_inner);
        let callers = std::mem::take(&mut queue.waiting);
        (!callers.is_empty()).then_some(callers)
    }
}

impl Waiting {
    fn answer(self, outcome: Result<(), Errno>) {
        match (self, outcome) {
            (Waiting::Sync(reply), Ok(())) => reply.ok(),
            (Waiting::Sync(reply), Err(errno)) => reply.error(errno),
            (Waiting::Written(reply, len), Ok(())) => reply.written(len),
            (Waiting::Written(reply, _), Err(errno)) => reply.error(errno),
        }
    }
}
