//! One batch under way through a ring of its own. The only unsafe code of this crate.
//!
//! *Safety*: the kernel reads and writes the memory of a request from the moment that it is pushed until its completion was
//! taken from the ring. Both stay in here: a [`Flight`] owns the batch, never hands a buffer out, moves no buffer's heap
//! memory, and counts what is under way. [`Flight::landed`] and dropping wait until nothing is. If the kernel refuses even
//! to wait, ring and buffers are leaked rather than freed.
#![allow(unsafe_code)]

use std::io;
use std::mem::forget;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use sefs::backend::{BackendError, BackendOperation, Batch, Io};

/// A ring that one flight has at a time.
pub(crate) struct Ring(IoUring);

impl Ring {
    pub(crate) fn new(depth: u32) -> io::Result<Ring> {
        Ok(Ring(IoUring::new(depth)?))
    }
}

/// A batch under way.
pub(crate) struct Flight {
    /// There until the flight landed.
    cargo: Option<(Ring, Batch)>,
    file: RawFd,
    /// Bytes of each request that are done.
    done: Vec<usize>,
    /// Requests to be pushed, first or again.
    due: Vec<usize>,
    under_way: usize,
    failure: Option<BackendError>,
}

impl Flight {
    pub(crate) fn new(ring: Ring, file: RawFd, batch: Batch) -> Flight {
        let (done, due) = (vec![0; batch.len()], (0..batch.len()).rev().collect());
        Flight { cargo: Some((ring, batch)), file, done, due, under_way: 0, failure: None }
    }

    /// Hands the kernel as many requests as the ring takes, and does not wait.
    pub(crate) fn push(&mut self) -> Result<(), BackendError> {
        let Some((ring, batch)) = &mut self.cargo else { return Ok(()) };
        while let Some(index) = self.due.pop() {
            let entry = entry(self.file, &mut batch[index], self.done[index]).user_data(index as u64);
            // SAFETY: the entry names memory of the batch, which stays until the request was completed (see above), and the
            // file of the backend that owns this flight.
            if unsafe { ring.0.submission().push(&entry) }.is_err() {
                self.due.push(index);
                break;
            }
            self.under_way += 1;
        }
        self.enter(0).map_err(|error| self.failed(0, &error))
    }

    /// Waits until all is done, or until what was under way when something failed is.
    pub(crate) fn finish(&mut self) -> Result<(), BackendError> {
        loop {
            self.take_completions();
            if self.failure.is_some() {
                self.due.clear();
            } else if !self.due.is_empty() {
                self.push()?;
            }
            if self.under_way == 0 && self.due.is_empty() {
                return self.failure.take().map_or(Ok(()), Err);
            }
            self.enter(1).map_err(|error| self.failed(0, &error))?;
        }
    }

    /// The ring and the batch, once nothing is under way; no ring if it is not to be used again.
    pub(crate) fn landed(mut self) -> (Option<Ring>, Batch) {
        let settled = self.settle();
        match self.cargo.take() {
            Some((ring, batch)) if settled => (Some(ring), batch),
            cargo => {
                // The kernel may still use the memory.
                forget(cargo);
                (None, Batch::new())
            }
        }
    }

    fn enter(&self, wanted: usize) -> io::Result<()> {
        let Some((ring, _)) = &self.cargo else { return Ok(()) };
        loop {
            match ring.0.submit_and_wait(wanted) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The completions have to be taken first, or memory is short for a moment.
                Err(error) if matches!(error.raw_os_error(), Some(EBUSY | EAGAIN)) => return Ok(()),
                outcome => return outcome.map(drop),
            }
        }
    }

    fn take_completions(&mut self) {
        let Some((ring, batch)) = &mut self.cargo else { return };
        for (index, result) in ring.0.completion().map(|entry| (entry.user_data(), entry.result())) {
            self.under_way -= 1;
            let Some(index) = usize::try_from(index).ok().filter(|index| *index < self.done.len()) else { continue };
            let (operation, offset_bytes, len) = match &batch[index] {
                Io::Read { offset_bytes, buf } => (BackendOperation::Read, *offset_bytes, buf.bytes().len()),
                Io::Write { offset_bytes, buf } => (BackendOperation::Write, *offset_bytes, buf.bytes().len()),
            };
            let failure = |operation, errno| BackendError { operation, offset_bytes, errno };
            match usize::try_from(result) {
                Ok(0) if len > self.done[index] && operation == BackendOperation::Read => {
                    self.failure.get_or_insert(failure(BackendOperation::ShortRead, 0));
                }
                Ok(0) if len > self.done[index] => {
                    self.failure.get_or_insert(failure(operation, Errno::EIO as i32));
                }
                Ok(count) => {
                    self.done[index] += count;
                    if self.done[index] < len {
                        self.due.push(index);
                    }
                }
                Err(_) if matches!(-result, EINTR | EAGAIN) => self.due.push(index),
                Err(_) => {
                    self.failure.get_or_insert(failure(operation, result.saturating_neg()));
                }
            }
        }
    }

    /// Waits until nothing is under way; false if the kernel does not let us.
    fn settle(&mut self) -> bool {
        self.due.clear();
        while self.under_way > 0 {
            if self.enter(1).is_err() {
                return false;
            }
            self.take_completions();
            self.due.clear();
        }
        true
    }

    fn failed(&self, offset_bytes: u64, error: &io::Error) -> BackendError {
        let errno = error.raw_os_error().unwrap_or(0);
        BackendError { operation: BackendOperation::Read, offset_bytes, errno }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.settle() {
            forget(self.cargo.take());
        }
    }
}

/// What is left of a request.
fn entry(file: RawFd, io: &mut Io, done: usize) -> squeue::Entry {
    match io {
        Io::Read { offset_bytes, buf } => {
            let rest = &mut buf.bytes_mut()[done..];
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let offset = offset_bytes.saturating_add(done as u64);
            opcode::Read::new(types::Fd(file), rest.as_mut_ptr(), len).offset(offset).build()
        }
        Io::Write { offset_bytes, buf } => {
            let rest = &buf.bytes()[done..];
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let offset = offset_bytes.saturating_add(done as u64);
            opcode::Write::new(types::Fd(file), rest.as_ptr(), len).offset(offset).build()
        }
    }
}

const EBUSY: i32 = Errno::EBUSY as i32;
const EAGAIN: i32 = Errno::EAGAIN as i32;
const EINTR: i32 = Errno::EINTR as i32;
