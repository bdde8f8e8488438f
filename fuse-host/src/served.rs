//! The volume while it is served: reachable by every thread until the moment it is closed, then by none.
//!
//! *Invariants*: the volume is taken out only under the exclusive lock, so no operation runs during or after `close` or
//! `shut`.

use std::sync::{PoisonError, RwLock};

use fuser::Errno;
use sefs::error::{Error, Result};
use sefs::vfs::Volume;

use crate::activity::Activity;
use crate::convert;
use crate::report::Reports;

/// A volume that threads of the mount share.
pub(crate) struct Served {
    state: RwLock<State>,
    pub(crate) activity: Activity,
    reports: Reports,
}

enum State {
    Open(Box<Volume>),
    /// Stopped by somebody; the mount stays until it is unmounted.
    Shut,
    /// The mount is going away.
    Closed,
}

impl Served {
    pub(crate) fn new(volume: Volume) -> Served {
        Served {
            state: RwLock::new(State::Open(Box::new(volume))),
            activity: Activity::default(),
            reports: Reports::default(),
        }
    }

    /// Runs an operation that changes nothing.
    pub(crate) fn read<T>(&self, operation: impl FnOnce(&Volume) -> Result<T>) -> std::result::Result<T, Errno> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(volume) => operation(volume).map_err(|error| self.refused(&error)),
            State::Shut => Err(Errno::EIO),
            // The kernel says the same once the mount is gone.
            State::Closed => Err(Errno::ENOTCONN),
        }
    }

    /// Runs an operation that leaves something to be made durable.
    pub(crate) fn change<T>(&self, operation: impl FnOnce(&Volume) -> Result<T>) -> std::result::Result<T, Errno> {
        let result = self.read(operation);
        self.activity.happened();
        result
    }

    /// Closes the volume after the operations that still run: a commit and a last checkpoint. Once; later calls do
    /// nothing.
    pub(crate) fn close(&self) -> Result<()> {
        match self.replace(State::Closed) {
            State::Open(volume) => volume.close(),
            State::Shut | State::Closed => Ok(()),
        }
    }

    /// Stops the volume after the operations that still run, and writes nothing any more: what was not flushed is as
    /// after a crash.
    pub(crate) fn shut(&self) {
        drop(self.replace(State::Shut));
    }

    /// Whether it was stopped.
    pub(crate) fn is_shut(&self) -> bool {
        matches!(*self.state.read().unwrap_or_else(PoisonError::into_inner), State::Shut)
    }

    /// Waits for the operations that still run.
    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *self.state.write().unwrap_or_else(PoisonError::into_inner), state)
    }

    fn refused(&self, error: &Error) -> Errno {
        if !matches!(error, Error::Posix(_)) {
            self.reports.failure(error);
        }
        convert::errno(error)
    }
}
