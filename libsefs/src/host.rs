//! What a volume stands on: built in, or callbacks of the program.
//!
//! *Safety*: a callback is called as its type in `sefs.h` says, with a context that the program keeps valid and that it made
//! fit for several threads at once, until the handle was freed and no volume uses it any more.
#![allow(unsafe_code)]

use core::ffi::{c_int, c_void};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use sefs::anchor::{Anchor, AnchorKind, AnchorState, FileAnchor};
use sefs::backend::{Backend, BackendError, BackendOperation, Batch, FileBackend, Io, MemoryBackend, Ticket};
use sefs::env::{Clock, Env};
use sefs::error::AnchorError;
use sefs::suite::{Rng, RngFailed, RustCrypto};
use sefs::types::Timestamp;

use crate::error::{Failure, Outcome};
use crate::values::{SefsErrorKind, SefsTime};

/// A place for ciphertext. Volumes that use it keep it alive.
pub struct SefsBackend(pub(crate) Arc<dyn Backend>);

/// A place for the newest committed state, out of the host's reach. Volumes that use it keep it alive.
pub struct SefsAnchor(pub(crate) Arc<dyn Anchor>);

/// Where random bytes and the time come from. Volumes that use it keep it alive.
pub struct SefsEnvironment(pub(crate) Env);

/// Fills `buffer` from `offset`, all of it: 0, or a positive error number.
pub type SefsReadFn = Option<unsafe extern "C" fn(*mut c_void, u64, *mut u8, usize) -> c_int>;
/// Writes all of `buffer` at `offset`: 0, or a positive error number.
pub type SefsWriteFn = Option<unsafe extern "C" fn(*mut c_void, u64, *const u8, usize) -> c_int>;
/// Makes completed writes durable: 0, or a positive error number.
pub type SefsFlushFn = Option<unsafe extern "C" fn(*mut c_void) -> c_int>;
/// Gives a range back to the host: 0, or a positive error number.
pub type SefsDiscardFn = Option<unsafe extern "C" fn(*mut c_void, u64, u64) -> c_int>;
/// Tells the length: 0, or a positive error number.
pub type SefsLengthFn = Option<unsafe extern "C" fn(*mut c_void, *mut u64) -> c_int>;
/// Makes the place at least so long: 0, or a positive error number.
pub type SefsGrowFn = Option<unsafe extern "C" fn(*mut c_void, u64) -> c_int>;

/// A backend's callbacks. Offsets and lengths are multiples of 4,096; what is handed over is ciphertext, and memory of this
/// library that the host may see.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsBackendOps {
    /// `sizeof(sefs_backend_ops)`.
    pub size: usize,
    /// Handed to each callback.
    pub context: *mut c_void,
    /// Needed.
    pub read: SefsReadFn,
    /// Needed by volumes that are written to.
    pub write: SefsWriteFn,
    /// Needed by volumes that are written to.
    pub flush: SefsFlushFn,
    /// May be null.
    pub discard: SefsDiscardFn,
    /// Needed.
    pub length: SefsLengthFn,
    /// May be null for a place that has its length.
    pub grow: SefsGrowFn,
}

/// What an anchor holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsAnchorState {
    /// One higher with each advance.
    pub counter: u64,
    /// Names the newest confirmed state; zero before the first.
    pub digest: [u8; 32],
}

/// Tells what the anchor holds: 0; 2 (`ENOENT`) if it does not exist; another error number.
pub type SefsAnchorReadFn = Option<unsafe extern "C" fn(*mut c_void, *mut SefsAnchorState) -> c_int>;
/// Replaces one state by another, durably, if the anchor holds the first and the second counts higher: 0; 17 (`EEXIST`) if
/// it holds something else, and nothing was changed; another error number if it may hold either.
pub type SefsAnchorAdvanceFn =
    Option<unsafe extern "C" fn(*mut c_void, *const SefsAnchorState, *const SefsAnchorState) -> c_int>;

/// An anchor's callbacks. All are needed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsAnchorOps {
    /// `sizeof(sefs_anchor_ops)`.
    pub size: usize,
    /// Handed to each callback.
    pub context: *mut c_void,
    /// Which anchor it is: a volume is bound to one.
    pub identity: [u8; 32],
    /// Tells what it holds.
    pub read: SefsAnchorReadFn,
    /// Compares and swaps.
    pub advance: SefsAnchorAdvanceFn,
}

/// Fills all of a buffer from the hardware's generator: 0, or anything else, and then nothing is sealed.
pub type SefsRandomFn = Option<unsafe extern "C" fn(*mut c_void, *mut u8, usize) -> c_int>;
/// Tells the time of day; nothing that is trusted depends on it.
pub type SefsTimeFn = Option<unsafe extern "C" fn(*mut c_void, *mut SefsTime)>;

/// An environment's callbacks. One that is null is the operating system's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SefsEnvironmentOps {
    /// `sizeof(sefs_environment_ops)`.
    pub size: usize,
    /// Handed to each callback.
    pub context: *mut c_void,
    /// Random bytes.
    pub random: SefsRandomFn,
    /// The time.
    pub time: SefsTimeFn,
}

/// A context may go to any thread: the program promised that.
struct Context<T>(T);
// SAFETY: the crate's head makes it the program's duty that callbacks and their context are fit for several threads.
unsafe impl<T> Send for Context<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Context<T> {}

const MISSING_CALLBACK: Failure = Failure::Call(22, SefsErrorKind::Invalid, "a callback is null that must not be");
const NOT_SUPPORTED: c_int = 95;

impl SefsBackend {
    pub(crate) fn file(path: &Path, writable: bool) -> Outcome<SefsBackend> {
        let file = File::options().read(true).write(writable).open(path)?;
        SefsBackend::locked(file, writable)
    }

    pub(crate) fn new_file(path: &Path, len_bytes: u64) -> Outcome<SefsBackend> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(len_bytes)?;
        SefsBackend::locked(file, true)
    }

    pub(crate) fn memory(len_bytes: u64) -> SefsBackend {
        SefsBackend(Arc::new(MemoryBackend::new(len_bytes)))
    }

    pub(crate) fn of(ops: SefsBackendOps) -> Outcome<SefsBackend> {
        if ops.read.is_none() || ops.length.is_none() {
            return Err(MISSING_CALLBACK);
        }
        Ok(SefsBackend(Arc::new(Callbacks(Context(ops)))))
    }

    /// The lock that the tools take too.
    fn locked(file: File, writable: bool) -> Outcome<SefsBackend> {
        let lock = if writable { file.try_lock() } else { file.try_lock_shared() };
        match lock {
            Ok(()) => Ok(SefsBackend(Arc::new(FileBackend::new(file)?))),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Failure::Call(16, SefsErrorKind::Backend, "somebody else has the image open"))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

struct Callbacks(Context<SefsBackendOps>);

impl Callbacks {
    fn transfer(&self, io: &mut Io) -> Result<(), BackendError> {
        let ops = &self.0.0;
        let (operation, offset, number) = match io {
            Io::Read { offset_bytes, buf } => {
                let bytes = buf.bytes_mut();
                let number = ops.read.map_or(NOT_SUPPORTED, |read| {
                    // SAFETY: the buffer is ours for the call.
                    unsafe { read(ops.context, *offset_bytes, bytes.as_mut_ptr(), bytes.len()) }
                });
                (BackendOperation::Read, *offset_bytes, number)
            }
            Io::Write { offset_bytes, buf } => {
                let bytes = buf.bytes();
                let number = ops.write.map_or(NOT_SUPPORTED, |write| {
                    // SAFETY: the buffer is ours for the call.
                    unsafe { write(ops.context, *offset_bytes, bytes.as_ptr(), bytes.len()) }
                });
                (BackendOperation::Write, *offset_bytes, number)
            }
        };
        answered(operation, offset, number)
    }
}

fn answered(operation: BackendOperation, offset_bytes: u64, number: c_int) -> Result<(), BackendError> {
    if number == 0 { Ok(()) } else { Err(BackendError { operation, offset_bytes, errno: number.saturating_abs() }) }
}

impl Backend for Callbacks {
    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        batch.iter_mut().try_for_each(|io| self.transfer(io))?;
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        match ticket {
            Ticket::Done(batch) => Ok(batch),
            Ticket::Pending(_) => Err(BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: 22 }),
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        let ops = &self.0.0;
        // SAFETY: a callback of the program, called as it says.
        let number = ops.flush.map_or(NOT_SUPPORTED, |flush| unsafe { flush(ops.context) });
        answered(BackendOperation::Flush, 0, number)
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        let ops = &self.0.0;
        // SAFETY: as above.
        let number = ops.discard.map_or(0, |discard| unsafe { discard(ops.context, offset_bytes, len_bytes) });
        answered(BackendOperation::Discard, offset_bytes, number)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        let (ops, mut len) = (&self.0.0, 0);
        // SAFETY: as above; the number is ours for the call.
        let number = ops.length.map_or(NOT_SUPPORTED, |length| unsafe { length(ops.context, &raw mut len) });
        answered(BackendOperation::Length, 0, number).map(|()| len)
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        let ops = &self.0.0;
        if ops.grow.is_none() && self.len_bytes()? >= len_bytes {
            return Ok(());
        }
        // SAFETY: as above.
        let number = ops.grow.map_or(NOT_SUPPORTED, |grow| unsafe { grow(ops.context, len_bytes) });
        answered(BackendOperation::Grow, len_bytes, number)
    }
}

impl SefsAnchor {
    pub(crate) fn file(path: &Path, create: bool) -> Outcome<SefsAnchor> {
        let anchor = if create { FileAnchor::create(path) } else { FileAnchor::open(path) };
        let anchor = anchor.map_err(|error| Failure::Volume(error.into()))?;
        Ok(SefsAnchor(Arc::new(anchor)))
    }

    pub(crate) fn of(ops: SefsAnchorOps) -> Outcome<SefsAnchor> {
        if ops.read.is_none() || ops.advance.is_none() {
            return Err(MISSING_CALLBACK);
        }
        Ok(SefsAnchor(Arc::new(AnchorCallbacks(Context(ops)))))
    }
}

struct AnchorCallbacks(Context<SefsAnchorOps>);

const ENOENT: c_int = 2;
const EEXIST: c_int = 17;

impl Anchor for AnchorCallbacks {
    fn kind(&self) -> AnchorKind {
        AnchorKind::ContentBound
    }

    fn identity(&self) -> [u8; 32] {
        self.0.0.identity
    }

    fn read(&self) -> Result<AnchorState, AnchorError> {
        let (ops, mut state) = (&self.0.0, SefsAnchorState { counter: 0, digest: [0; 32] });
        // SAFETY: a callback of the program, called as it says; the state is ours for the call.
        let number = ops.read.map_or(NOT_SUPPORTED, |read| unsafe { read(ops.context, &raw mut state) });
        match number {
            0 => Ok(AnchorState { counter: state.counter, digest: state.digest }),
            ENOENT => Err(AnchorError::Missing),
            number => Err(unreachable(number)),
        }
    }

    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
        let ops = &self.0.0;
        let [from, to] = [from, to].map(|state| SefsAnchorState { counter: state.counter, digest: state.digest });
        let number = ops.advance.map_or(NOT_SUPPORTED, |advance| {
            // SAFETY: as above.
            unsafe { advance(ops.context, &raw const from, &raw const to) }
        });
        match number {
            0 => Ok(()),
            EEXIST => Err(AnchorError::Conflict),
            ENOENT => Err(AnchorError::Missing),
            number => Err(unreachable(number)),
        }
    }
}

fn unreachable(number: c_int) -> AnchorError {
    AnchorError::Unreachable(format!("the callback answered {number}"))
}

impl SefsEnvironment {
    pub(crate) fn of(ops: SefsEnvironmentOps) -> SefsEnvironment {
        let host = Env::host();
        let callbacks = Arc::new(EnvironmentCallbacks(Context(ops)));
        SefsEnvironment(Env {
            suite: Arc::new(RustCrypto),
            rng: if ops.random.is_some() { callbacks.clone() } else { host.rng },
            clock: if ops.time.is_some() { callbacks } else { host.clock },
        })
    }
}

struct EnvironmentCallbacks(Context<SefsEnvironmentOps>);

impl Rng for EnvironmentCallbacks {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        let ops = &self.0.0;
        // SAFETY: a callback of the program, called as it says; the buffer is ours for the call.
        let number =
            ops.random.map_or(NOT_SUPPORTED, |random| unsafe { random(ops.context, out.as_mut_ptr(), out.len()) });
        if number == 0 { Ok(()) } else { Err(RngFailed) }
    }
}

impl Clock for EnvironmentCallbacks {
    fn now(&self) -> Timestamp {
        let (ops, mut time) = (&self.0.0, SefsTime::default());
        if let Some(tell) = ops.time {
            // SAFETY: as above; the time is ours for the call.
            unsafe { tell(ops.context, &raw mut time) };
        }
        Timestamp { seconds: time.seconds, nanoseconds: time.nanoseconds.min(999_999_999) }
    }
}
