//! Names that go, and inodes that lose their last one.

use crate::error::{Posix, Result};
use crate::format::{FileKind, Inode, OrphanRecord};
use crate::store::Need;
use crate::types::{BLOCK_SIZE_U64, CHUNK_BLOCKS, InodeNo};
use crate::vfs::attr::{require_directory, touch_content, touch_status};
use crate::vfs::dir::{self, Bucket, Entry};
use crate::vfs::inode::{Edit, Locked};
use crate::vfs::make::{inline_key, orphan_key};
use crate::vfs::permission;
use crate::vfs::xattr::Summary;
use crate::vfs::{Caller, EXECUTE, Volume};

/// A file up to this size goes in the step that removes its last name; so many chunks are a bounded number of records.
pub(super) const SMALL_BYTES: u64 = 16 * CHUNK_BLOCKS * BLOCK_SIZE_U64;

/// Removes a name of anything but a directory.
pub(super) fn unlink(volume: &Volume, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<()> {
    dir::check_entry_name(name, Posix::IsDirectory)?;
    remove(volume, caller, dir, name, |child| match child.kind() {
        FileKind::Directory => Err(Posix::IsDirectory.into()),
        _ => Ok(()),
    })
}

/// Removes an empty directory.
pub(super) fn rmdir(volume: &Volume, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<()> {
    dir::check_name(name)?;
    match name {
        b"." => return Err(Posix::InvalidArgument.into()),
        b".." => return Err(Posix::NotEmpty.into()),
        _ => {}
    }
    remove(volume, caller, dir, name, |child| match child.kind() {
        FileKind::Directory if child.entries == 0 => Ok(()),
        FileKind::Directory => Err(Posix::NotEmpty.into()),
        _ => Err(Posix::NotDirectory.into()),
    })
}

fn remove(
    volume: &Volume,
    caller: &Caller,
    dir: InodeNo,
    name: &[u8],
    allowed: impl Fn(&Inode) -> Result<()>,
) -> Result<()> {
    loop {
        let entry = peek(volume, caller, dir, name)?.ok_or(Posix::NotFound)?;
        let held = volume.inodes.hold_all(&[dir, entry.ino]);
        let locked = held.lock();
        if remove_entry(volume, caller, &locked, dir, name, &entry, &allowed)? {
            return Ok(());
        }
    }
}

/// Looks a name up to learn which inodes to lock. What it says may be old when they are locked.
pub(super) fn peek(volume: &Volume, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<Option<Entry>> {
    let store = &volume.store;
    volume.inodes.hold(dir).shared(store, |parent| {
        require_directory(parent)?;
        permission::check(store, caller, dir, parent, EXECUTE)?;
        Ok(Bucket::read(store, dir, name)?.entry())
    })
}

/// Removes an entry if it still is what it was; false if it is not.
fn remove_entry(
    volume: &Volume,
    caller: &Caller,
    locked: &Locked<'_>,
    dir: InodeNo,
    name: &[u8],
    entry: &Entry,
    allowed: impl Fn(&Inode) -> Result<()>,
) -> Result<bool> {
    let store = &volume.store;
    let mut parent = (*locked.inode(store, dir)?).clone();
    require_directory(&parent)?;
    if Bucket::read(store, dir, name)?.existing()? != *entry {
        return Ok(false);
    }
    let mut child = (*locked.named(store, dir, entry.ino)?).clone();
    permission::check_remove(store, caller, dir, &parent, &child)?;
    allowed(&child)?;
    let now = volume.clock.now();
    let mut edit = Edit::begin(store, Need::Release, locked)?;
    edit.tx.delete(entry.key);
    subtract_entry(&mut parent, child.kind());
    touch_content(&mut parent, now);
    edit.put_inode(dir, parent);
    subtract_link(&mut child);
    touch_status(&mut child, now);
    put_or_drop(&mut edit, locked, entry.ino, child)?;
    if edit.finish_unlink() {
        volume.orphans.expect_some();
    }
    Ok(true)
}

/// Counts one entry less.
pub(super) fn subtract_entry(parent: &mut Inode, kind: FileKind) {
    parent.entries = parent.entries.saturating_sub(1);
    if kind == FileKind::Directory {
        parent.subdirs = parent.subdirs.saturating_sub(1);
        parent.links = parent.links.saturating_sub(1).max(1);
    }
}

/// Takes a link from an inode; a directory has no other.
pub(super) fn subtract_link(inode: &mut Inode) {
    inode.links = if inode.kind() == FileKind::Directory { 0 } else { inode.links.saturating_sub(1) };
}

/// Puts an inode that lost a link. Without links it goes at once if it is small and nobody has it acquired; otherwise it
/// becomes an orphan.
pub(super) fn put_or_drop(edit: &mut Edit<'_>, locked: &Locked<'_>, ino: InodeNo, inode: Inode) -> Result<()> {
    let acquired = locked.place(ino)?.is_acquired();
    if inode.links > 0 {
        edit.put_inode(ino, inode);
    } else if !acquired && is_small(&inode) {
        drop_content(edit, &inode);
        edit.delete_inode(ino);
    } else {
        edit.tx.put(orphan_key(ino), OrphanRecord.encode());
        edit.put_inode(ino, inode);
    }
    Ok(())
}

/// Removes all content of an inode that goes.
pub(super) fn drop_content(edit: &mut Edit<'_>, inode: &Inode) {
    match inode.kind() {
        FileKind::Regular | FileKind::Symlink if inode.flags.inline => edit.tx.delete(inline_key(inode.object)),
        FileKind::Regular => edit.tx.drop_object(inode.object, blocks_hint(inode)),
        _ => {}
    }
}

/// No block of the inode's content stands at or after this one.
pub(super) fn blocks_hint(inode: &Inode) -> u64 {
    if inode.flags.past_end { u64::MAX } else { inode.size.div_ceil(BLOCK_SIZE_U64) }
}

/// Whether the content can go in one step.
pub(super) fn is_small(inode: &Inode) -> bool {
    Summary::of(inode).is_empty() && !inode.flags.past_end && (inode.flags.inline || inode.size <= SMALL_BYTES)
}
