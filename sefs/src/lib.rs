//! An encrypted, integrity-protected filesystem for library OSes in trusted execution environments.
//!
//! ```text
//! layers ─► repair ─► check    pack ─► vfs (rules of attributes), node, keys, backend
//! vfs, check ─► store (layers, log, commit, checkpoint, recovery)
//!                 ├─► merge ─► tree ─► node
//!                 ├─► cache
//!                 ├─► allocator
//!                 ├─► sealer (epochs, nonces) ─► keys
//!                 ├─► anchor (trusted)
//!                 └─► backend (untrusted)
//! all of them ─► format (bytes ↔ values) ─► types, error, suite; locks are those of sync, threads those of workers
//! ```
//! A room names only the rooms below it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod allocator;
pub mod anchor;
pub mod backend;
mod cache;
pub mod check;
mod digest;
pub mod env;
pub mod error;
pub mod format;
pub mod keys;
pub mod layers;
mod merge;
mod node;
pub mod pack;
pub mod repair;
mod sealer;
mod store;
pub mod suite;
mod sync;
mod tree;
pub mod types;
pub mod vfs;
pub mod workers;
