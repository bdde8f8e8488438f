//! Who may do what: permission bits, ACLs, sticky directories, and what changes of ownership and content cost.

use crate::error::{Posix, Result};
use crate::format::{FileKind, Inode};
use crate::store::Store;
use crate::types::InodeNo;
use crate::vfs::acl::Acl;
use crate::vfs::inode::record_error;
use crate::vfs::xattr::{self, ACL_ACCESS, Summary};
use crate::vfs::{Caller, EXECUTE, READ, WRITE};

/// Set-user-id.
pub(super) const S_ISUID: u32 = 0o4000;
/// Set-group-id; of a directory, that its entries inherit the group.
pub(super) const S_ISGID: u32 = 0o2000;
/// Of a directory, that only owners remove entries.
pub(super) const S_ISVTX: u32 = 0o1000;
/// The group may execute.
const S_IXGRP: u32 = 0o010;
/// Anybody may execute.
const S_IXUGO: u32 = 0o111;

impl Caller {
    /// Whether the caller is in this group.
    pub(super) fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether what follows has to be checked: a kernel has not, and the caller is not root.
    pub(super) fn is_limited(&self) -> bool {
        self.check && self.uid != 0
    }
}

/// Checks permission bits and ACL, if the caller is to be checked.
pub(super) fn check(store: &Store, caller: &Caller, ino: InodeNo, inode: &Inode, want: u32) -> Result<()> {
    if caller.check { permit(store, caller, ino, inode, want) } else { Ok(()) }
}

/// Whether the caller has all of `want`.
pub(super) fn permit(store: &Store, caller: &Caller, ino: InodeNo, inode: &Inode, want: u32) -> Result<()> {
    let want = want & (READ | WRITE | EXECUTE);
    if caller.uid == 0 {
        let executable = inode.kind() == FileKind::Directory || inode.mode & S_IXUGO != 0;
        return if want & EXECUTE == 0 || executable { Ok(()) } else { Err(Posix::AccessDenied.into()) };
    }
    let permitted = match access_acl(store, ino, inode)? {
        Some(acl) => acl.permits(caller, inode, want),
        None if caller.uid == inode.uid => want & !(inode.mode >> 6) == 0,
        None if caller.in_group(inode.gid) => want & !(inode.mode >> 3) == 0,
        None => want & !inode.mode == 0,
    };
    if permitted { Ok(()) } else { Err(Posix::AccessDenied.into()) }
}

/// Nothing of a volume that is open for reading can be written; what a device or pipe leads to is elsewhere.
pub(super) fn check_writable(read_only: bool, inode: &Inode, want: u32) -> Result<()> {
    let here = matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
    if read_only && here && want & WRITE != 0 { Err(Posix::ReadOnly.into()) } else { Ok(()) }
}

/// The access list of an inode, if it has one; the inode itself knows that, so it costs nothing where there is none.
pub(super) fn access_acl(store: &Store, ino: InodeNo, inode: &Inode) -> Result<Option<Acl>> {
    if !Summary::of(inode).access_acl() {
        return Ok(None);
    }
    let key = crate::vfs::inode::inode_key(ino);
    let value = xattr::value(store, ino, inode, ACL_ACCESS)?.ok_or_else(|| record_error(key, "its ACL is missing"))?;
    Acl::decode(&value).map_err(|_| record_error(key, "its ACL is not valid"))
}

/// Only the owner and root.
pub(super) fn check_owner(caller: &Caller, inode: &Inode) -> Result<()> {
    if caller.is_limited() && caller.uid != inode.uid { Err(Posix::NotPermitted.into()) } else { Ok(()) }
}

/// Whether the caller may add entries to a directory.
pub(super) fn check_insert(store: &Store, caller: &Caller, dir: InodeNo, parent: &Inode) -> Result<()> {
    check(store, caller, dir, parent, WRITE | EXECUTE)
}

/// Whether the caller may remove this entry: of a sticky directory only its owner's, or all as the directory's owner.
pub(super) fn check_remove(store: &Store, caller: &Caller, dir: InodeNo, parent: &Inode, child: &Inode) -> Result<()> {
    check(store, caller, dir, parent, WRITE | EXECUTE)?;
    let owns = caller.uid == parent.uid || caller.uid == child.uid;
    if caller.is_limited() && parent.mode & S_ISVTX != 0 && !owns {
        return Err(Posix::NotPermitted.into());
    }
    Ok(())
}

/// Whether the caller may change owner and group to these.
pub(super) fn check_chown(caller: &Caller, inode: &Inode, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    if !caller.is_limited() {
        return Ok(());
    }
    let keeps_owner = caller.uid == inode.uid && uid.is_none_or(|uid| uid == inode.uid);
    let own_group = gid.is_none_or(|gid| gid == inode.gid || caller.in_group(gid));
    if keeps_owner && own_group { Ok(()) } else { Err(Posix::NotPermitted.into()) }
}

/// The mode of a file after its content changed: nobody gains rights by content that somebody else wrote.
pub(super) fn without_privileges(caller: &Caller, inode: &Inode) -> u32 {
    if inode.kind() == FileKind::Directory {
        return inode.mode;
    }
    let mut mode = inode.mode & !S_ISUID;
    // Set-group-id without group execution once meant mandatory locking; it goes unless the caller is in the group.
    if mode & S_IXGRP != 0 || (caller.uid != 0 && !caller.in_group(inode.gid)) {
        mode &= !S_ISGID;
    }
    mode
}

/// The mode that chmod(2) really sets: who is not in the file's group cannot make it run as that group.
pub(super) fn chmod_bits(caller: &Caller, gid: u32, bits: u32) -> u32 {
    if caller.is_limited() && !caller.in_group(gid) { bits & !S_ISGID } else { bits }
}

/// The bits that a new inode may have: set-group-id of an executable, given by the directory's group, needs membership.
pub(super) fn new_bits(caller: &Caller, kind: FileKind, gid: u32, bits: u32) -> u32 {
    let runs_as_group = bits & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
    let refused = kind != FileKind::Directory && runs_as_group && caller.is_limited() && !caller.in_group(gid);
    if refused { bits & !S_ISGID } else { bits }
}
