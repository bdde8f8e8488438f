//! A volume behind the filesystem traits that library OSes and kernels have.
//!
//! ```text
//! occlum (FileSystem, INode of rcore-fs as Occlum has them) ─┐
//! kernel (an inode with page cache hooks, as Asterinas has) ─┴─► inode (an inode that is held) ─► sefs::vfs
//! ```
//! The traits here are stand-ins: they have the methods, names and types of those projects, whose own crates are no
//! dependencies of this one. Whoever integrates replaces `occlum::vfs` or `kernel::vfs` by the real traits; the code
//! behind them stays. There is no unsafe code, and no `std`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod inode;
pub mod kernel;
pub mod occlum;
