//! Privileges that a file must lose where the volume cannot tell by itself.
//!
//! With `FUSE_HANDLE_KILLPRIV_V2` the kernel leaves it to the server to clear set-user-id, set-group-id and capabilities
//! (linux/fuse.h). The volume does so on writes, by the request's flag, and on chown and truncation. Two cases are left: the
//! kernel checks permissions here, so the volume takes every caller for a privileged one where it allocates, copies, or
//! sets an access ACL.
//!
//! *Security*: forgetting a case here lets an unprivileged writer keep another's privileges on content of its own.

use sefs::error::Result;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, SetAttr, Volume};

/// The attribute that holds the access ACL.
pub(crate) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Before the caller allocates in a file or copies into it. True if the mode changed.
pub(crate) fn content_changes(volume: &Volume, caller: &Caller, ino: InodeNo) -> Result<bool> {
    if caller.uid == 0 {
        return Ok(false);
    }
    match without_set_id(volume.attr(ino)?.mode) {
        Some(mode) => set_mode(volume, ino, mode).map(|()| true),
        None => Ok(false),
    }
}

/// Before an access ACL is set: who is neither root nor a member of the file's group takes set-group-id away, as with
/// chmod(2).
pub(crate) fn acl_is_set(volume: &Volume, caller: &Caller, pid: u32, ino: InodeNo) -> Result<()> {
    if caller.uid == 0 {
        return Ok(());
    }
    let attr = volume.attr(ino)?;
    if attr.mode & SET_GROUP_ID == 0 || attr.gid == caller.gid || groups(pid).contains(&attr.gid) {
        return Ok(());
    }
    set_mode(volume, ino, attr.mode & !SET_GROUP_ID)
}

fn set_mode(volume: &Volume, ino: InodeNo, mode: u32) -> Result<()> {
    volume.set_attr(&Caller::root(), ino, &SetAttr { mode: Some(mode), ..SetAttr::default() }).map(drop)
}

/// The mode without the bits that give privileges, where there are any. Set-group-id without group execute is no
/// privilege (it once meant mandatory locking) and stays.
fn without_set_id(mode: u32) -> Option<u32> {
    let privileged_group = SET_GROUP_ID | GROUP_EXECUTE;
    let group = if mode & privileged_group == privileged_group { SET_GROUP_ID } else { 0 };
    let kept = mode & !(SET_USER_ID | group);
    (kept != mode).then_some(kept)
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
