//! Answers fsync: one thread commits for everybody who waits, so an event loop never waits for the disk and concurrent
//! callers share one commit. It answers statfs too, which merges what was given back before it counts.

use std::sync::{Condvar, Mutex, PoisonError};

use fuser::{Errno, ReplyEmpty, ReplyStatfs, ReplyWrite};

use crate::served::Served;

/// A caller that waits.
pub(crate) enum Waiting {
    /// fsync(2), fdatasync(2).
    Sync(ReplyEmpty),
    /// A write that is to be durable before it returns, and its length.
    Written(ReplyWrite, u32),
    /// statfs(2).
    Space(ReplyStatfs),
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
            let wants_commit = callers.iter().any(|caller| !matches!(caller, Waiting::Space(_)));
            let outcome = if wants_commit { served.look(|volume| volume.sync()) } else { Ok(()) };
            callers.into_iter().for_each(|caller| caller.answer(served, outcome));
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
    fn answer(self, served: &Served, outcome: Result<(), Errno>) {
        match (self, outcome) {
            (Waiting::Space(reply), _) => answer_space(reply, served),
            (Waiting::Sync(reply), Ok(())) => reply.ok(),
            (Waiting::Sync(reply), Err(errno)) => reply.error(errno),
            (Waiting::Written(reply, len), Ok(())) => reply.written(len),
            (Waiting::Written(reply, _), Err(errno)) => reply.error(errno),
        }
    }
}

fn answer_space(reply: ReplyStatfs, served: &Served) {
    match served.look(|volume| Ok(volume.stat_fs())) {
        Ok(stat) => reply.statfs(
            stat.blocks,
            stat.blocks_free,
            stat.blocks_available,
            stat.inodes,
            stat.inodes_free,
            stat.block_size,
            stat.name_max,
            stat.block_size,
        ),
        Err(errno) => reply.error(errno),
    }
}
