//! POSIX semantics over records and blocks: names, permissions, links, times, attributes, file content.
//!
//! ```text
//! volume (the public API) ─► make, remove, rename ─► dir
//!                         ─► file, write, resize, allocate, copy
//!                         ─► attr, xattr ─► acl, permission
//!                         ─► reclaim
//! all of them ─► inode (table, locks, edits) ─► store
//! ```
//!
//! *Invariants*
//! 1. Every operation is one transaction of the store (a long write, an allocation and a copy are several); it happens
//!    as a whole or not at all, and no reader sees its parts.
//! 2. Locks: the rename lock, then inode locks by rising number, then the store's own. None is held when this room
//!    returns.
//! 3. A cached inode equals its record whenever its lock is free: it is replaced only after `Tx::finish`.
//! 4. An inode without links has an orphan record until it is reclaimed, and is not reclaimed while it is acquired.
//! 5. A failed read is an error; it never turns into "not found", a hole or an absent attribute.

mod acl;
mod allocate;
mod attr;
mod copy;
mod dir;
mod file;
mod inode;
mod layered;
mod make;
mod options;
mod permission;
mod reclaim;
mod remove;
mod rename;
mod resize;
#[cfg(test)]
mod tests;
mod volume;
mod write;
mod xattr;

pub use layered::NewLower;
pub use options::*;
pub use volume::Volume;
pub(crate) use volume::{store_format, store_options};
pub(crate) use xattr::given_attribute;

pub use crate::env::{Clock, Env};
pub use crate::format::LowerRecord;
pub use crate::format::{FileKind, Header, KeySlot};
pub use crate::store::{
    AnchorStanding, DataRun, EpochInfo, Lower, Notice, Reencrypting, Rotating, RotationStep, VolumeInfo, WorkDone,
};
