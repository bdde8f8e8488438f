//! Writing while space is short.
//!
//! The kernel takes writes into its cache and sends them later, so a writer that neither syncs nor closes would never
//! learn that there was no room. But before each write(2) the kernel wants to know the file's mode; where it was told
//! not to trust what it has, it asks, and an error of the answer is the error of the write. Such a question carries a file
//! handle, which stat(2)'s does not. So while space is short:
//!
//! ```text
//! write(2) ─► GETATTR with handle ─► this thread: have the file's pages written, look for room ─► attributes or ENOSPC
//!    ▲                                               │
//!    └──── "do not trust the mode you have" ◄────────┘  (that comes with having the pages written)
//! ```
//! A writer is told for the first time when space becomes short, if it wrote or was made a short while ago; otherwise with
//! the first of its pages that arrives. What the kernel may hold until then is bounded by `throttle`.
//!
//! *Invariants*
//! 1. An event loop only ever has attributes forgotten, which waits for no page; this thread has pages written.
//! 2. The kernel drops the attributes of an answer if it was told to forget them after it asked (linux/fs/fuse,
//!    `attr_version`), so telling before answering leaves no gap.
//! 3. A file whose pages found no room is refused until there is room again, even where promises (fallocate(2)) let others
//!    write.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};

use fuser::{Errno, INodeNo, Notifier, ReplyAttr};
use sefs::error::{Error, Posix, Result};
use sefs::vfs::{Attr, Volume};

use crate::adapter::TTL;
use crate::convert;
use crate::served::Served;

/// Files that are remembered because somebody may be writing them.
const WRITERS: usize = 4096;
/// Files that are remembered because their pages found no room; beyond that the first of them are asked again.
const REFUSED: usize = 4096;

/// What the thread is asked.
pub(crate) enum Question {
    /// Space has become short.
    Began,
    /// May this file be written to?
    Write {
        /// The file.
        ino: INodeNo,
        /// For its attributes, or the error that the writer gets.
        reply: ReplyAttr,
    },
}

/// Whether space is short, and who may be writing.
pub(crate) struct Shortage {
    limit_bytes: u64,
    short: AtomicBool,
    writers: Mutex<Writers>,
    refused: Mutex<BTreeSet<u64>>,
    questions: Sender<Question>,
    notifier: std::sync::Arc<OnceLock<Notifier>>,
}

impl Shortage {
    /// Space is short below `limit_bytes`.
    pub(crate) fn new(
        limit_bytes: u64,
        questions: Sender<Question>,
        notifier: std::sync::Arc<OnceLock<Notifier>>,
    ) -> Shortage {
        let (writers, refused) = (Mutex::default(), Mutex::default());
        Shortage { limit_bytes, short: AtomicBool::new(false), writers, refused, questions, notifier }
    }

    /// Whether space is short now.
    pub(crate) fn is_short(&self, served: &Served) -> bool {
        // Where the volume does not answer, the question that follows does not get through either.
        served.look(|volume| Ok(self.look(volume))).unwrap_or(true)
    }

    fn look(&self, volume: &Volume) -> bool {
        if volume.room().available_bytes >= self.limit_bytes {
            self.short.store(false, Ordering::Relaxed);
            return false;
        }
        if self.short.load(Ordering::Relaxed) {
            return true;
        }
        // What was given back and not merged may be enough. This merges it, so it is asked once and not for each write.
        if settled_bytes(volume) >= self.limit_bytes {
            return false;
        }
        if !self.short.swap(true, Ordering::Relaxed) {
            // If the thread is gone, so is the mount.
            let _ = self.questions.send(Question::Began);
        }
        true
    }

    /// While nobody writes: whether what was deleted meanwhile ends the shortage.
    pub(crate) fn look_again(&self, volume: &Volume) {
        if self.short.load(Ordering::Relaxed) && settled_bytes(volume) >= self.limit_bytes {
            self.short.store(false, Ordering::Relaxed);
        }
    }

    /// Somebody opened this file for writing, or pages of it came from the kernel's cache.
    pub(crate) fn may_be_written(&self, ino: INodeNo) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).add(ino.0);
    }

    /// Pages from the kernel's cache were written or found no room: this decides what the next write(2) does.
    pub(crate) fn pages_came<T>(&self, served: &Served, ino: INodeNo, outcome: &std::result::Result<T, Errno>) {
        match outcome {
            Ok(_) => {
                self.may_be_written(ino);
                if !self.is_short(served) {
                    return;
                }
            }
            Err(_) => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                if refused.len() == REFUSED {
                    refused.pop_first();
                }
                refused.insert(ino.0);
            }
        }
        if let Some(notifier) = self.notifier.get() {
            ask_again(notifier, ino);
        }
    }

    /// Whether a write to this file has to be asked for.
    pub(crate) fn concerns(&self, served: &Served, ino: INodeNo) -> bool {
        self.was_refused(ino) || self.is_short(served)
    }

    /// Hands a question over.
    pub(crate) fn ask(&self, ino: INodeNo, reply: ReplyAttr) {
        // If the thread is gone, so is the mount; the dropped reply answers with EIO.
        let _ = self.questions.send(Question::Write { ino, reply });
    }

    fn was_refused(&self, ino: INodeNo) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&ino.0)
    }

    /// Answers until no more can come.
    pub(crate) fn run(&self, questions: &Receiver<Question>, served: &Served, notifier: &Notifier) {
        for question in questions {
            match question {
                Question::Began => self.writers().into_iter().for_each(|ino| ask_again(notifier, INodeNo(ino))),
                Question::Write { ino, reply } => {
                    // Fails only when the kernel does not know the inode any more, and then it has no pages of it.
                    let _ = notifier.inval_inode(ino, 0, 0);
                    match served.look(|volume| self.admit(volume, ino)) {
                        Ok(attr) => reply.attr(&TTL, &convert::attributes(&attr)),
                        Err(errno) => reply.error(errno),
                    }
                }
            }
        }
    }

    fn writers(&self) -> VecDeque<u64> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).newest.clone()
    }

    /// The file's attributes, if a write to it may find room.
    fn admit(&self, volume: &Volume, ino: INodeNo) -> Result<Attr> {
        match volume.find_room() {
            Ok(()) => {
                self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino.0);
            }
            // The write may go where space was promised; if it does not, its pages will find no room.
            Err(Error::Posix(Posix::NoSpace)) if volume.room().promised_bytes > 0 && !self.was_refused(ino) => {}
            Err(error) => return Err(error),
        }
        volume.attr(convert::inode(ino))
    }
}

/// The kernel shall not trust the attributes that it has. This touches no pages, so it cannot wait for an event loop.
pub(crate) fn ask_again(notifier: &Notifier, ino: INodeNo) {
    // Fails only when the kernel has forgotten the inode, and its attributes with it.
    let _ = notifier.inval_inode(ino, -1, 0);
}

/// Bytes that new data may take, with everything counted that was given back.
fn settled_bytes(volume: &Volume) -> u64 {
    let stat = volume.stat_fs();
    stat.blocks_available.saturating_mul(stat.block_size.into())
}

/// Files that may be open for writing; the oldest are forgotten first.
#[derive(Default)]
struct Writers {
    newest: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Writers {
    fn add(&mut self, ino: u64) {
        if !self.known.insert(ino) {
            return;
        }
        if self.newest.len() == WRITERS
            && let Some(oldest) = self.newest.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.newest.push_back(ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_a_bounded_set_of_the_newest() {
        let mut writers = Writers::default();
        for ino in 0..WRITERS as u64 + 10 {
            writers.add(ino);
            writers.add(ino);
        }
        assert_eq!(writers.newest.len(), WRITERS);
        assert_eq!(writers.known.len(), WRITERS);
        assert_eq!(writers.newest.front(), Some(&10));
        writers.add(3);
        assert_eq!(writers.newest.back(), Some(&3), "forgotten ones come back");
    }
}
