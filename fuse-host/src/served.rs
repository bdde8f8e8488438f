//! The volume while it is served: reachable by every thread until the moment it is closed, then by none.
//!
//! *Invariants*: the volume is taken out only under the exclusive lock, so no operation runs during or after `close`.

use std::sync::{PoisonError, RwLock};

use fuser::Errno;
use sefs::error::{Error, Result};
use sefs::vfs::Volume;

use crate::activity::Activity;
use crate::convert;
use crate::report::Reports;

/// A volume that threads of the mount share.
pub(crate) struct Served {
    volume: RwLock<Option<Volume>>,
    pub(crate) activity: Activity,
    reports: Reports,
}

impl Served {
    pub(crate) fn new(volume: Volume) -> Served {
        Served { volume: RwLock::new(Some(volume)), activity: Activity::default(), reports: Reports::default() }
    }

    /// Runs an operation that changes nothing.
    pub(crate) fn read<T>(&self, operation: impl FnOnce(&Volume) -> Result<T>) -> std::result::Result<T, Errno> {
        let guard = self.volume.read().unwrap_or_else(PoisonError::into_inner);
        // The mount is going away; the kernel says the same once it is gone.
        let volume = guard.as_ref().ok_or(Errno::ENOTCONN)?;
        operation(volume).map_err(|error| self.refused(&error))
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
        let volume = self.volume.write().unwrap_or_else(PoisonError::into_inner).take();
        volume.map_or(Ok(()), Volume::close)
    }

    fn refused(&self, error: &Error) -> Errno {
        if !matches!(error, Error::Posix(_)) {
            self.reports.failure(error);
        }
        convert::errno(error)
    }
}
