//! Answers `SEEK_DATA` and `SEEK_HOLE`: with a writeback cache the kernel asks without having written its dirty pages, so
//! the server would take data that is still on its way for a hole. This thread has the pages written first; an event loop
//! cannot, for the writes that it would wait for arrive there.

use std::sync::mpsc::Receiver;

use fuser::{INodeNo, Notifier, ReplyLseek};
use sefs::types::InodeNo;
use sefs::vfs::Seek;

use crate::served::Served;

/// A question.
pub(crate) struct Sought {
    pub(crate) ino: InodeNo,
    pub(crate) offset: u64,
    pub(crate) whence: Seek,
    pub(crate) reply: ReplyLseek,
}

/// Answers until no more can come.
pub(crate) fn run(questions: &Receiver<Sought>, served: &Served, notifier: &Notifier) {
    for Sought { ino, offset, whence, reply } in questions {
        // Fails only when the kernel does not know the inode any more, and then it has no pages of it.
        let _ = notifier.inval_inode(INodeNo(ino.0), 0, 0);
        let found = served.read(|volume| volume.seek(ino, offset, whence));
        match found.map(i64::try_from) {
            Ok(Ok(found)) => reply.offset(found),
            Ok(Err(_)) => reply.error(fuser::Errno::EOVERFLOW),
            Err(errno) => reply.error(errno),
        }
    }
}
