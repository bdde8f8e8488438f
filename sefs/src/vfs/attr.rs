//! Attributes: what stat(2) tells, and what chmod(2), chown(2), utimensat(2) and truncate(2) change, all in one step.

use crate::error::{Posix, Result};
use crate::format::{FileKind, Inode};
use crate::store::{Need, Store};
use crate::types::{BLOCK_SIZE, InodeNo, Timestamp};
use crate::vfs::inode::{Edit, Locked};
use crate::vfs::permission;
use crate::vfs::resize::Resize;
use crate::vfs::xattr::{self, ACL_ACCESS};
use crate::vfs::{Attr, Caller, SetAttr, SetTime, Volume, WRITE};

/// The bits that chmod(2) may set.
pub(super) const MODE_BITS: u32 = 0o7777;
const NANOSECONDS: u32 = 1_000_000_000;
/// The id that means "no id" in every interface.
const NO_ID: u32 = u32::MAX;

/// What stat(2) tells of an inode.
pub(super) fn of(store: &Store, ino: InodeNo, inode: &Inode) -> Result<Attr> {
    let kind = inode.kind();
    Ok(Attr {
        ino,
        kind,
        mode: inode.permissions(),
        uid: inode.uid,
        gid: inode.gid,
        links: inode.links,
        size: if kind == FileKind::Directory { inode.entries } else { inode.size },
        blocks_512: blocks_512(store, inode)?,
        rdev: inode.rdev,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: inode.btime,
        change: inode.change,
        blksize: BLOCK_SIZE as u32,
    })
}

fn blocks_512(store: &Store, inode: &Inode) -> Result<u64> {
    match inode.kind() {
        FileKind::Regular if !inode.flags.inline => Ok(store.object_blocks(inode.object)?.saturating_mul(8)),
        // Zero would make archivers take the file for one large hole.
        FileKind::Regular | FileKind::Symlink => Ok(inode.size.div_ceil(512)),
        _ => Ok(0),
    }
}

/// Notes a change of attributes.
pub(super) fn touch_status(inode: &mut Inode, now: Timestamp) {
    inode.ctime = now;
    inode.change = inode.change.wrapping_add(1);
}

/// Notes a change of content.
pub(super) fn touch_content(inode: &mut Inode, now: Timestamp) {
    inode.mtime = now;
    touch_status(inode, now);
}

/// Changes attributes, all or none.
pub(super) fn set(volume: &Volume, caller: &Caller, ino: InodeNo, change: &SetAttr) -> Result<Attr> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let before = locked.inode(store, ino)?;
    if *change == SetAttr::default() {
        return of(store, ino, &before);
    }
    check(store, caller, ino, &before, change)?;
    apply(volume, caller, &locked, ino, &before, change)?;
    of(store, ino, &*locked.inode(store, ino)?)
}

fn apply(
    volume: &Volume,
    caller: &Caller,
    locked: &Locked<'_>,
    ino: InodeNo,
    before: &Inode,
    change: &SetAttr,
) -> Result<()> {
    let store = &volume.store;
    let now = volume.clock.now();
    let mut inode = before.clone();
    let resize = change.size.map(|size| Resize::plan(store, before, size)).transpose()?;
    let mut acl = match change.mode {
        Some(_) => permission::access_acl(store, ino, before)?,
        None => None,
    };
    // Without a new size records are only replaced. And the kernel sends times with the pages that it accepted long ago: on
    // a full volume they must not fail where the pages did not.
    let need = resize.as_ref().map_or(Need::Release, Resize::need);
    let acl_bytes = acl.as_ref().map_or(0, |acl| acl.encode().len());
    let mut edit = Edit::begin_with(store, need, acl_bytes, locked)?;
    let chowns = (change.uid.is_some() || change.gid.is_some()) && inode.kind() != FileKind::Directory;
    if chowns {
        inode.mode = permission::without_privileges(caller, &inode);
    }
    inode.uid = change.uid.unwrap_or(inode.uid);
    inode.gid = change.gid.unwrap_or(inode.gid);
    if let Some(resize) = resize {
        resize.apply(store, &mut edit.tx, &mut inode)?;
        inode.mtime = now;
        if caller.uid != 0 {
            inode.mode = permission::without_privileges(caller, &inode);
        }
    }
    if chowns || change.size.is_some() {
        xattr::strip_capability(store, &mut edit.tx, ino, &mut inode)?;
    }
    if let Some(bits) = change.mode {
        let bits = permission::chmod_bits(caller, inode.gid, bits & MODE_BITS);
        inode.mode = inode.mode & !MODE_BITS | bits;
        if let Some(acl) = &mut acl {
            acl.set_mode(bits);
            xattr::replace(store, &mut edit.tx, ino, &mut inode, ACL_ACCESS, Some(&acl.encode()))?;
        }
    }
    inode.atime = change.atime.map_or(inode.atime, |time| time.at(now));
    inode.mtime = change.mtime.map_or(inode.mtime, |time| time.at(now));
    inode.btime = change.btime.unwrap_or(inode.btime);
    touch_status(&mut inode, change.ctime.unwrap_or(now));
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(())
}

fn check(store: &Store, caller: &Caller, ino: InodeNo, inode: &Inode, change: &SetAttr) -> Result<()> {
    check_values(inode, change)?;
    if change.mode.is_some() {
        permission::check_owner(caller, inode)?;
    }
    if change.uid.is_some() || change.gid.is_some() {
        permission::check_chown(caller, inode, change.uid, change.gid)?;
    }
    if change.size.is_some() {
        permission::check(store, caller, ino, inode, WRITE)?;
    }
    if change.ctime.is_some() || change.btime.is_some() {
        // No system call sets these; a caller that is checked must not forge them.
        if caller.is_limited() {
            return Err(Posix::NotPermitted.into());
        }
    }
    let times = [change.atime, change.mtime];
    if times.iter().flatten().any(|time| *time != SetTime::Now) {
        permission::check_owner(caller, inode)?;
    } else if times.iter().any(Option::is_some) && caller.uid != inode.uid {
        permission::check(store, caller, ino, inode, WRITE)?;
    }
    Ok(())
}

fn check_values(inode: &Inode, change: &SetAttr) -> Result<()> {
    if change.mode.is_some() && inode.kind() == FileKind::Symlink {
        return Err(Posix::NotSupported.into());
    }
    if change.uid == Some(NO_ID) || change.gid == Some(NO_ID) {
        return Err(Posix::InvalidArgument.into());
    }
    if change.size.is_some() {
        require_regular(inode)?;
    }
    let given = |time: Option<SetTime>| match time {
        Some(SetTime::At(time)) => Some(time),
        Some(SetTime::Now) | None => None,
    };
    let times = [given(change.atime), given(change.mtime), change.ctime, change.btime];
    if times.iter().flatten().any(|time| time.nanoseconds >= NANOSECONDS) {
        return Err(Posix::InvalidArgument.into());
    }
    Ok(())
}

/// Content is what regular files have.
pub(super) fn require_regular(inode: &Inode) -> Result<()> {
    match inode.kind() {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Posix::IsDirectory.into()),
        _ => Err(Posix::InvalidArgument.into()),
    }
}

/// Names are what directories have, until they are removed.
pub(super) fn require_directory(inode: &Inode) -> Result<()> {
    match inode.kind() {
        FileKind::Directory if inode.links > 0 => Ok(()),
        FileKind::Directory => Err(Posix::NotFound.into()),
        _ => Err(Posix::NotDirectory.into()),
    }
}

impl SetTime {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            SetTime::Now => now,
            SetTime::At(time) => time,
        }
    }
}
