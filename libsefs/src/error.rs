//! Failures, as C gets them: a negative error number, and a record of what it was.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sefs::error::Error;

use crate::values::{SefsError, SefsErrorKind};

pub(crate) type Outcome<T> = Result<T, Failure>;

/// Why a call failed.
pub(crate) enum Failure {
    /// The volume's word.
    Volume(Error),
    /// Said before the volume was asked.
    Call(i32, SefsErrorKind, &'static str),
    /// A slot's passphrase asks for more memory than the caller allows, or memory ran out.
    Slot(sealing::SlotError),
    /// The operating system's, of a built-in backend or anchor.
    Host(std::io::Error),
}

impl Failure {
    pub(crate) const NULL: Failure = Failure::Call(22, SefsErrorKind::Invalid, "a pointer is null that must not be");
    pub(crate) const INVALID: Failure = Failure::Call(22, SefsErrorKind::Invalid, "an argument is out of its range");
    const PANIC: Failure = Failure::Call(5, SefsErrorKind::Internal, "a defect of this library; please report it");

    fn record(&self) -> (i32, SefsErrorKind, String) {
        match self {
            Failure::Volume(error) => (error.errno(), kind(error), error.to_string()),
            Failure::Call(number, kind, text) => (*number, *kind, (*text).into()),
            Failure::Slot(error) => (12, SefsErrorKind::WrongKey, error.to_string()),
            Failure::Host(error) => (error.raw_os_error().unwrap_or(5), SefsErrorKind::Backend, error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Volume(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Host(error)
    }
}

fn kind(error: &Error) -> SefsErrorKind {
    match error {
        Error::Posix(_) => SefsErrorKind::Posix,
        Error::Tampered(_) => SefsErrorKind::Tampered,
        Error::RolledBack(_) => SefsErrorKind::RolledBack,
        Error::Corrupt(_) => SefsErrorKind::Corrupt,
        Error::Malformed(_) => SefsErrorKind::Malformed,
        Error::Incompatible(_) => SefsErrorKind::Incompatible,
        Error::Backend(_) => SefsErrorKind::Backend,
        Error::WrongKey => SefsErrorKind::WrongKey,
        Error::Rng => SefsErrorKind::Random,
        Error::Anchor(_) => SefsErrorKind::Anchor,
        Error::Latched(_) => SefsErrorKind::Latched,
        Error::Invalid(_) => SefsErrorKind::Invalid,
        _ => SefsErrorKind::Other,
    }
}

thread_local! {
    static LAST: RefCell<(i32, SefsErrorKind, String)> = const { RefCell::new((0, SefsErrorKind::None, String::new())) };
}

/// Runs the body of an exported function: the result, or a negative error number.
pub(crate) fn call(body: impl FnOnce() -> Outcome<i64>) -> i64 {
    match guarded(body) {
        Ok(value) => value,
        Err(number) => -i64::from(number),
    }
}

/// The same for a function that answers 0 or a negative error number.
pub(crate) fn status(body: impl FnOnce() -> Outcome<()>) -> i32 {
    match guarded(body) {
        Ok(()) => 0,
        Err(number) => -number,
    }
}

/// The same for a function that answers a handle, or null.
pub(crate) fn handle<T>(body: impl FnOnce() -> Outcome<T>) -> *mut T {
    match guarded(body) {
        Ok(value) => crate::raw::given(value),
        Err(_) => core::ptr::null_mut(),
    }
}

/// A volume that was in the middle of something when it panicked is not touched again by what is here: its locks are
/// poison-free, and its invariants are those of the last whole operation.
fn guarded<T>(body: impl FnOnce() -> Outcome<T>) -> Result<T, i32> {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::PANIC,
    };
    let record = failure.record();
    let number = record.0;
    LAST.with(|last| *last.borrow_mut() = record);
    Err(number)
}

/// What the last failure on this thread was.
pub(crate) fn last() -> SefsError {
    LAST.with(|last| {
        let (number, kind, text) = &*last.borrow();
        SefsError::new(*number, *kind, text)
    })
}
