//! A backend in a file or on a block device that hands batches to the kernel at once, through io_uring.
//!
//! For processes that trust their kernel: an enclave's ring is shared with the host, and needs a backend that validates what
//! it is handed.
//!
//! A short request alone gains nothing from a ring, so it is a pread or pwrite. Requests of a batch are under way together, up to
//! [`DEPTH`] of them; so is, with direct I/O, a long one while its caller does something else. Each batch has a ring to itself while it is under way: rings are not shared by threads, so that no
//! thread takes another's completions, and none waits for another's lock.
//!
//! *Direct I/O*, on request: the page cache is left out, and buffers are aligned for it.
//!
//! *Invariants*
//! 1. The memory of a request stays where it is until its completion was seen: a flight owns ring and buffers, and ends by
//!    waiting for everything that is under way, also when it is dropped.
//! 2. At most [`MOST_RINGS`] rings exist; who finds none free does without.
//!
//! The only unsafe code is in `flight`.

mod flight;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sefs::backend::{Backend, BackendError, BackendOperation, Batch, BufferPool, FileBackend, HostBuf, Io, Ticket};

use flight::{Flight, Ring};

/// Requests of one batch that are under way together.
pub const DEPTH: u32 = 64;
/// Rings that are made at most: as many batches can be under way through rings at once. A volume that reads ahead keeps up to
/// half of them.
pub const MOST_RINGS: usize = 16;
/// From here on a request past the page cache takes longer than the way through a ring.
const LONG_BYTES: usize = 64 << 10;
/// What direct I/O wants addresses, offsets and lengths to be multiples of.
const ALIGNMENT: usize = 4096;

/// A volume in a regular file or on a block device, through io_uring. Locking the image is the caller's business.
pub struct UringBackend {
    /// Dropped before the file: a request that the kernel has not taken yet names it by a number that others could get.
    flights: Mutex<(u64, HashMap<u64, Flight>)>,
    /// The same file, for everything that is no transfer.
    plain: FileBackend,
    file: File,
    direct: bool,
    buffers: BufferPool,
    rings: Mutex<Rings>,
}

struct Rings {
    idle: Vec<Ring>,
    made: usize,
}

impl UringBackend {
    /// Takes an open file over. `Unsupported` if the kernel, or whoever confines this process, allows no io_uring.
    pub fn new(file: File, direct: bool) -> io::Result<UringBackend> {
        let first = Ring::new(DEPTH).map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error))?;
        if direct {
            let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
            fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT))?;
        }
        let plain = FileBackend::new(file.try_clone()?)?;
        let rings = Mutex::new(Rings { idle: vec![first], made: 1 });
        let buffers = BufferPool::new(if direct { ALIGNMENT } else { 1 });
        Ok(UringBackend { plain, file, direct, buffers, rings, flights: Mutex::default() })
    }

    fn idle_ring(&self) -> Option<Ring> {
        let mut rings = unpoisoned(&self.rings);
        if let Some(ring) = rings.idle.pop() {
            return Some(ring);
        }
        if rings.made == MOST_RINGS {
            return None;
        }
        // Locked memory may be scarce: a batch that gets no ring does without.
        let ring = Ring::new(DEPTH).ok()?;
        rings.made += 1;
        Some(ring)
    }

    /// The buffers of these requests stand as direct I/O wants them.
    fn fits(&self, batch: &Batch) -> bool {
        !self.direct || batch.iter().all(|io| io.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT))
    }

    /// One request after the other.
    fn by_itself(&self, io: &mut Io) -> Result<(), BackendError> {
        let fitting = |buf: &HostBuf| !self.direct || buf.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT);
        match io {
            Io::Read { offset_bytes, buf } => {
                let read = if fitting(buf) {
                    self.file.read_exact_at(buf.bytes_mut(), *offset_bytes)
                } else {
                    let mut between = HostBuf::aligned(buf.bytes().len(), ALIGNMENT);
                    let read = self.file.read_exact_at(between.bytes_mut(), *offset_bytes);
                    buf.bytes_mut().copy_from_slice(between.bytes());
                    read
                };
                read.map_err(|error| failed(BackendOperation::Read, *offset_bytes, &error))
            }
            Io::Write { offset_bytes, buf } => {
                let written = if fitting(buf) {
                    self.file.write_all_at(buf.bytes(), *offset_bytes)
                } else {
                    let mut between = HostBuf::aligned(buf.bytes().len(), ALIGNMENT);
                    between.bytes_mut().copy_from_slice(buf.bytes());
                    self.file.write_all_at(between.bytes(), *offset_bytes)
                };
                written.map_err(|error| failed(BackendOperation::Write, *offset_bytes, &error))
            }
        }
    }

    /// Starts the disk's work on what was written, where a page cache would keep it.
    fn hand_over(&self, batch: &Batch) {
        if self.direct {
            return;
        }
        for io in batch {
            if let Io::Write { offset_bytes, buf } = io {
                self.plain.hand_over(*offset_bytes, buf.bytes().len());
            }
        }
    }
}

impl Backend for UringBackend {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.buffers.take(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        self.buffers.put(buf);
    }

    /// Past the page cache: nobody else reads ahead there.
    fn works_meanwhile(&self) -> bool {
        self.direct
    }

    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        let takes_long =
            |batch: &Batch| batch.len() > 1 || self.direct && batch.iter().any(|io| io.bytes().len() >= LONG_BYTES);
        let ring = if takes_long(&batch) && self.fits(&batch) { self.idle_ring() } else { None };
        let Some(ring) = ring else {
            batch.iter_mut().try_for_each(|io| self.by_itself(io))?;
            self.hand_over(&batch);
            return Ok(Ticket::Done(batch));
        };
        let mut flight = Flight::new(ring, self.file.as_raw_fd(), batch);
        let begun = flight.push();
        let mut flights = unpoisoned(&self.flights);
        if let Err(error) = begun {
            drop(flights);
            return Err(self.ended(flight, Err(error)).err().unwrap_or(OTHER));
        }
        flights.0 += 1;
        let number = flights.0;
        flights.1.insert(number, flight);
        Ok(Ticket::Pending(number))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        let number = match ticket {
            Ticket::Done(batch) => return Ok(batch),
            Ticket::Pending(number) => number,
        };
        // Another backend's ticket.
        let mut flight = unpoisoned(&self.flights).1.remove(&number).ok_or(OTHER)?;
        let outcome = flight.finish();
        self.ended(flight, outcome)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.plain.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        self.plain.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.plain.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.plain.grow(len_bytes)
    }
}

const OTHER: BackendError =
    BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: Errno::EINVAL as i32 };

impl UringBackend {
    /// The outcome of a flight, whose ring is free again.
    fn ended(&self, flight: Flight, outcome: Result<(), BackendError>) -> Result<Batch, BackendError> {
        let (ring, batch) = flight.landed();
        match ring {
            Some(ring) => unpoisoned(&self.rings).idle.push(ring),
            None => unpoisoned(&self.rings).made -= 1,
        }
        outcome?;
        self.hand_over(&batch);
        Ok(batch)
    }
}

fn failed(operation: BackendOperation, offset_bytes: u64, error: &io::Error) -> BackendError {
    let short = error.kind() == io::ErrorKind::UnexpectedEof;
    let operation = if short { BackendOperation::ShortRead } else { operation };
    BackendError { operation, offset_bytes, errno: error.raw_os_error().unwrap_or(0) }
}

/// What these locks guard is whole at every moment.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
