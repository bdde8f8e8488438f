//! SEFS for C: `sefs.h` is made of this crate, and `link.sh` makes `libsefs.so.0` and `libsefs.a`.
//!
//! ```text
//! abi, abi_files, abi_layers (the exported functions) ─► volume, host (callbacks) ─► values ─► error ─► raw
//! ```
//!
//! *What callers owe*, beyond what `sefs.h` says of each function. A pointer is null where that is allowed, or points to as
//! many readable, for results writable, aligned values as its type and count say, which nobody else changes during the
//! call. A handle came from this library and was not freed. Callbacks may be called from any thread that is in a call of
//! this library, from several at once, until the handle that they were given to was freed and no volume uses it any more.
//!
//! *Invariants*
//! 1. Unsafe code is in `raw`, in `host` where a callback is called, and in the exported functions, each of which turns what
//!    C lends into borrows for the length of the call, calls safe code, and hands the result out.
//! 2. No panic crosses into C: each exported function catches it and answers `-EIO`.
//! 3. Every failure leaves a record for [`abi::sefs_last_error`] on the calling thread.
//! 4. A struct that may grow carries its size; fields that an older caller does not have are zero, which is their default.

pub mod abi;
pub mod abi_files;
pub mod abi_layers;
mod error;
pub mod host;
mod raw;
pub mod values;
pub mod volume;
