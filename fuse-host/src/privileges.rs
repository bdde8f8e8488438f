//! Privileges that a changed file must lose: set-user-id, set-group-id, and `security.capability`.
//!
//! With `FUSE_HANDLE_KILLPRIV_V2` the kernel leaves this to the server (linux/fuse.h): capabilities go with every write,
//! truncation and chown, whoever does it; the two mode bits go with a chown, and with a write or truncation by one who is
//! not privileged. For a write the kernel says so by a flag; for a truncation it does too, but fuser (0.18.0) hides that
//! flag, so the caller's user id decides.
//!
//! *Security*: forgetting a case here lets an unprivileged writer keep another's privileges on content of its own.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sefs::error::{Error, Posix, Result};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, SetAttr, Volume};

/// The attribute that holds file capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// The attribute that holds the access ACL.
pub(crate) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Inodes remembered at most; more are asked for again.
const REMEMBERED: usize = 1 << 16;

/// Inodes known to have no capabilities, so that not every write asks for the attribute.
#[derive(Default)]
pub(crate) struct Bare(Mutex<HashSet<InodeNo>>);

impl Bare {
    /// The inode is new and has none.
    pub(crate) fn created(&self, ino: InodeNo) {
        let mut bare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bare.len() >= REMEMBERED {
            bare.clear();
        }
        bare.insert(ino);
    }

    /// The inode may have some from now on, or is of no more interest.
    pub(crate) fn forget(&self, ino: InodeNo) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino);
    }

    /// Takes the inode's capabilities away, before its content changes.
    pub(crate) fn strip(&self, volume: &Volume, ino: InodeNo) -> Result<()> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&ino) {
            return Ok(());
        }
        match volume.get_xattr(&Caller::root(), ino, CAPABILITY) {
            Err(Error::Posix(Posix::NoAttribute)) => {}
            Err(error) => return Err(error),
            Ok(_) => volume.remove_xattr(&Caller::root(), ino, CAPABILITY)?,
        }
        self.created(ino);
        Ok(())
    }
}

/// The mode that a truncation by the caller leaves, where that differs from the mode now.
pub(crate) fn mode_after_truncation(volume: &Volume, caller: &Caller, ino: InodeNo) -> Result<Option<u32>> {
    if caller.uid == 0 {
        return Ok(None);
    }
    let mode = volume.attr(ino)?.mode;
    Ok(without_set_id(mode))
}

/// The mode without the bits that give privileges, where there are any. Set-group-id without group execute is no
/// privilege (it once meant mandatory locking) and stays.
fn without_set_id(mode: u32) -> Option<u32> {
    let privileged_group = SET_GROUP_ID | GROUP_EXECUTE;
    let group = if mode & privileged_group == privileged_group { SET_GROUP_ID } else { 0 };
    let kept = mode & !(SET_USER_ID | group);
    (kept != mode).then_some(kept)
}

/// Takes set-group-id away when an access ACL is set by one who is neither root nor a member of the file's group, as
/// chmod(2) does.
pub(crate) fn acl_is_set(volume: &Volume, caller: &Caller, pid: u32, ino: InodeNo) -> Result<()> {
    if caller.uid == 0 {
        return Ok(());
    }
    let attr = volume.attr(ino)?;
    if attr.mode & SET_GROUP_ID == 0 || attr.gid == caller.gid || groups(pid).contains(&attr.gid) {
        return Ok(());
    }
    let change = SetAttr { mode: Some(attr.mode & !SET_GROUP_ID), ..SetAttr::default() };
    volume.set_attr(&Caller::root(), ino, &change).map(drop)
}

/// A process's further groups: none if it cannot be asked, which takes a bit away rather than leaves it.
fn groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::without_set_id;

    #[test]
    fn only_bits_that_give_privileges_go() {
        assert_eq!(without_set_id(0o4755), Some(0o755));
        assert_eq!(without_set_id(0o6755), Some(0o755));
        assert_eq!(without_set_id(0o2745), None);
        assert_eq!(without_set_id(0o6745), Some(0o2745));
        assert_eq!(without_set_id(0o1755), None);
    }
}
