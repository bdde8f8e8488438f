//! The volume while it is served: reachable by every thread until the moment it is closed, then by none.
//!
//! *Invariants*: the volume is taken out only under the exclusive lock, so no operation runs during or after `close` or
//! `shut`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use fuser::Errno;
use sefs::error::{Error, Result};
use sefs::vfs::Volume;

use crate::activity::Activity;
use crate::convert;
use crate::report::Reports;

/// So long nothing comes when the kernel has nothing to write any more.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_AT_MOST: Duration = Duration::from_secs(30);

/// A volume that threads of the mount share.
pub(crate) struct Served {
    state: RwLock<State>,
    /// Of changes.
    pub(crate) activity: Activity,
    /// Of everything that the kernel asks for.
    pub(crate) requests: Activity,
    reports: Reports,
    /// Changes that began, and that ended.
    begun: AtomicU64,
    ended: AtomicU64,
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
            requests: Activity::default(),
            reports: Reports::default(),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Answers a request that changes nothing.
    pub(crate) fn read<T>(&self, operation: impl FnOnce(&Volume) -> Result<T>) -> std::result::Result<T, Errno> {
        self.requests.happened();
        self.look(operation)
    }

    /// Runs an operation that changes nothing, and that no request asked for.
    pub(crate) fn look<T>(&self, operation: impl FnOnce(&Volume) -> Result<T>) -> std::result::Result<T, Errno> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(volume) => operation(volume).map_err(|error| self.refused(&error)),
            State::Shut => Err(Errno::EIO),
            // The kernel says the same once the mount is gone.
            State::Closed => Err(Errno::ENOTCONN),
        }
    }

    /// Runs an operation that leaves something to be made durable.
    pub(crate) fn change<T>(&self, operation: impl FnOnce(&Volume) -> Result<T>) -> std::result::Result<T, Errno> {
        self.begun.fetch_add(1, Ordering::AcqRel);
        let result = self.read(operation);
        self.ended.fetch_add(1, Ordering::AcqRel);
        self.activity.happened();
        result
    }

    /// Waits until no change is under way and none came for a while; on a busy mount not for ever.
    pub(crate) fn wait_for_quiet(&self) {
        let counts = || (self.ended.load(Ordering::Acquire), self.begun.load(Ordering::Acquire));
        let (mut before, mut quiet_since, started) = (counts(), Instant::now(), Instant::now());
        while started.elapsed() < QUIET_AT_MOST && quiet_since.elapsed() < QUIET {
            std::thread::sleep(QUIET / 10);
            let now = counts();
            if now != before || now.0 != now.1 {
                (before, quiet_since) = (now, Instant::now());
            }
        }
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
