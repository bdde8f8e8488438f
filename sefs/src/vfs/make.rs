//! New names: of new inodes, and of those that there are.

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{FileKind, Inode, InodeFlags, Key, Kind, OrphanRecord};
use crate::store::{Need, Store, Tx};
use crate::types::{InodeNo, ObjectId, Timestamp};
use crate::vfs::acl::Acl;
use crate::vfs::attr::{self, MODE_BITS, require_directory, touch_content, touch_status};
use crate::vfs::dir::{self, Bucket};
use crate::vfs::inode::Edit;
use crate::vfs::permission::{self, S_ISGID};
use crate::vfs::xattr::{self, ACL_ACCESS, ACL_DEFAULT};
use crate::vfs::{Attr, Caller, EXECUTE, LINK_MAX, NewInode, Owner, TARGET_MAX, Volume};

/// Links of a directory without subdirectories: its name and its ".".
pub(super) const EMPTY_DIR_LINKS: u32 = 2;

/// Makes an inode with a name.
pub(super) fn make(volume: &Volume, caller: &Caller, dir: InodeNo, name: &[u8], new: &NewInode) -> Result<Attr> {
    dir::check_entry_name(name, Posix::Exists)?;
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[dir]);
    let locked = held.lock();
    let mut parent = (*locked.inode(store, dir)?).clone();
    require_directory(&parent)?;
    permission::check(store, caller, dir, &parent, EXECUTE)?;
    let bucket = Bucket::read(store, dir, name)?;
    if bucket.entry().is_some() {
        return Err(Posix::Exists.into());
    }
    permission::check_insert(store, caller, dir, &parent)?;
    check_new(caller, new)?;
    let (key, ino, now) = (bucket.free_key()?, InodeNo(store.new_id()), volume.clock.now());
    let default_acl = default_acl(store, dir, &parent)?;
    let mut edit = Edit::begin_with(store, Need::Metadata, acl_bytes(default_acl.as_ref()), &locked)?;
    let inode = build(store, &mut edit.tx, caller, (dir, &parent), default_acl, ino, new, now)?;
    bucket.put(&mut edit.tx, key, ino, new.kind);
    add_entry(&mut parent, new.kind)?;
    touch_content(&mut parent, now);
    let attr = attr::of(store, ino, &inode)?;
    edit.put_inode(dir, parent);
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(attr)
}

/// Makes a file without a name, acquired once. It is an orphan from the start, so a crash leaves nothing behind.
pub(super) fn make_tmpfile(volume: &Volume, caller: &Caller, dir: InodeNo, new: &NewInode) -> Result<Attr> {
    check_new(caller, new)?;
    if new.kind != FileKind::Regular {
        return Err(Posix::InvalidArgument.into());
    }
    let store = &volume.store;
    let ino = InodeNo(store.new_id());
    let place = volume.inodes.hold(ino);
    let held = volume.inodes.hold_all(&[dir]);
    let locked = held.lock();
    let parent = locked.inode(store, dir)?;
    require_directory(&parent)?;
    permission::check_insert(store, caller, dir, &parent)?;
    let default_acl = default_acl(store, dir, &parent)?;
    let mut edit = Edit::begin_with(store, Need::Metadata, acl_bytes(default_acl.as_ref()), &locked)?;
    let parent = (dir, &*parent);
    let mut inode = build(store, &mut edit.tx, caller, parent, default_acl, ino, new, volume.clock.now())?;
    inode.links = 0;
    edit.tx.put(orphan_key(ino), OrphanRecord.encode());
    let attr = attr::of(store, ino, &inode)?;
    edit.put_inode(ino, inode);
    // Before the orphan can be seen, so that nobody reclaims it.
    place.acquire();
    place.set_linkable(true);
    edit.finish();
    Ok(attr)
}

/// Gives an inode another name.
pub(super) fn link(volume: &Volume, caller: &Caller, ino: InodeNo, dir: InodeNo, name: &[u8]) -> Result<Attr> {
    dir::check_entry_name(name, Posix::Exists)?;
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[dir, ino]);
    let locked = held.lock();
    let mut parent = (*locked.inode(store, dir)?).clone();
    let mut inode = (*locked.inode(store, ino)?).clone();
    require_directory(&parent)?;
    permission::check(store, caller, dir, &parent, EXECUTE)?;
    let bucket = Bucket::read(store, dir, name)?;
    if bucket.entry().is_some() {
        return Err(Posix::Exists.into());
    }
    permission::check_insert(store, caller, dir, &parent)?;
    let was_unnamed = inode.links == 0;
    check_linkable(&inode, locked.place(ino)?.is_linkable())?;
    let (key, now) = (bucket.free_key()?, volume.clock.now());
    let mut edit = Edit::begin(store, Need::Metadata, &locked)?;
    bucket.put(&mut edit.tx, key, ino, inode.kind());
    if was_unnamed {
        edit.tx.delete(orphan_key(ino));
    }
    inode.links += 1;
    touch_status(&mut inode, now);
    add_entry(&mut parent, inode.kind())?;
    touch_content(&mut parent, now);
    let attr = attr::of(store, ino, &inode)?;
    edit.put_inode(dir, parent);
    edit.put_inode(ino, inode);
    edit.finish();
    locked.place(ino)?.set_linkable(false);
    Ok(attr)
}

/// Makes the root directory of a new volume.
pub(super) fn make_root(store: &Store, owner: &Owner, now: Timestamp) -> Result<()> {
    let new = NewInode { kind: FileKind::Directory, mode: owner.mode, rdev: 0, target: Vec::new() };
    let mut root = blank(InodeNo::ROOT, &new, now);
    root.mode |= owner.mode & MODE_BITS;
    (root.uid, root.gid, root.parent) = (owner.uid, owner.gid, InodeNo::ROOT);
    let mut tx = store.begin(Need::Metadata)?;
    tx.put(crate::vfs::inode::inode_key(InodeNo::ROOT), root.encode());
    tx.count_inodes(1);
    tx.finish();
    Ok(())
}

/// The key of an inode's orphan record.
pub(super) fn orphan_key(ino: InodeNo) -> Key {
    Key::new(0, Kind::Orphan, ino.0)
}

/// The key of content that is one record.
pub(super) fn inline_key(object: ObjectId) -> Key {
    Key::new(object.0, Kind::Inline, 0)
}

/// Counts one entry more.
pub(super) fn add_entry(parent: &mut Inode, kind: FileKind) -> Result<()> {
    parent.entries = parent.entries.saturating_add(1);
    if kind == FileKind::Directory {
        parent.subdirs = parent.subdirs.checked_add(1).ok_or(Posix::TooManyLinks)?;
        parent.links = parent.links.checked_add(1).ok_or(Posix::TooManyLinks)?;
    }
    Ok(())
}

fn check_linkable(inode: &Inode, linkable: bool) -> Result<()> {
    if inode.kind() == FileKind::Directory {
        return Err(Posix::NotPermitted.into());
    }
    if inode.links == 0 && !linkable {
        return Err(Posix::NotFound.into());
    }
    if inode.links >= LINK_MAX { Err(Posix::TooManyLinks.into()) } else { Ok(()) }
}

fn check_new(caller: &Caller, new: &NewInode) -> Result<()> {
    match new.kind {
        FileKind::Symlink if new.target.is_empty() => Err(Posix::NotFound.into()),
        FileKind::Symlink if new.target.len() > TARGET_MAX => Err(Posix::NameTooLong.into()),
        FileKind::Symlink if new.target.contains(&0) => Err(Posix::InvalidArgument.into()),
        FileKind::BlockDevice | FileKind::CharDevice if caller.is_limited() => Err(Posix::NotPermitted.into()),
        _ => Ok(()),
    }
}

fn default_acl(store: &Store, dir: InodeNo, parent: &Inode) -> Result<Option<Acl>> {
    let Some(value) = xattr::value(store, dir, parent, ACL_DEFAULT)? else { return Ok(None) };
    let key = crate::vfs::inode::inode_key(dir);
    Acl::decode(&value).map_err(|_| crate::vfs::inode::record_error(key, "its default ACL is not valid"))
}

/// What a new inode inherits, at most: a directory gets the list twice.
fn acl_bytes(default_acl: Option<&Acl>) -> usize {
    default_acl.map_or(0, |acl| 2 * acl.encode().len())
}

/// A new inode's value; what else it consists of goes into the transaction.
#[expect(clippy::too_many_arguments, reason = "each is one fact that a new inode depends on")]
fn build(
    store: &Store,
    tx: &mut Tx<'_>,
    caller: &Caller,
    (dir, parent): (InodeNo, &Inode),
    default_acl: Option<Acl>,
    ino: InodeNo,
    new: &NewInode,
    now: Timestamp,
) -> Result<Inode> {
    let mut inode = blank(ino, new, now);
    inode.uid = caller.uid;
    inode.gid = if parent.mode & S_ISGID != 0 { parent.gid } else { caller.gid };
    let mut bits = new.mode & MODE_BITS;
    match default_acl {
        _ if new.kind == FileKind::Symlink => bits = 0o777,
        Some(acl) => {
            let access = acl.inherit(bits);
            bits = bits & !0o777 | access.mode();
            if !access.is_minimal() {
                xattr::put_new(store, tx, ino, &mut inode, ACL_ACCESS, &access.encode())?;
            }
            if new.kind == FileKind::Directory {
                xattr::put_new(store, tx, ino, &mut inode, ACL_DEFAULT, &acl.encode())?;
            }
        }
        None => bits &= !(caller.umask.unwrap_or(0) & 0o777),
    }
    if new.kind == FileKind::Directory {
        inode.parent = dir;
        bits |= parent.mode & S_ISGID;
    }
    inode.mode |= permission::new_bits(caller, new.kind, inode.gid, bits);
    if new.kind == FileKind::Symlink {
        inode.size = new.target.len() as u64;
        tx.put(inline_key(inode.object), new.target.clone());
    }
    tx.count_inodes(1);
    Ok(inode)
}

/// An inode of this kind, of nobody's, without permissions and content. Its first content hangs on its own number, so
/// that a small file's records are neighbours.
fn blank(ino: InodeNo, new: &NewInode, now: Timestamp) -> Inode {
    let has_content = matches!(new.kind, FileKind::Regular | FileKind::Symlink);
    let is_device = matches!(new.kind, FileKind::BlockDevice | FileKind::CharDevice);
    Inode {
        mode: new.kind.mode_bits(),
        uid: 0,
        gid: 0,
        links: if new.kind == FileKind::Directory { EMPTY_DIR_LINKS } else { 1 },
        flags: InodeFlags { inline: has_content, past_end: false },
        size: 0,
        object: if has_content { ino.into() } else { ObjectId(0) },
        change: 1,
        rdev: if is_device { new.rdev } else { 0 },
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        project: 0,
        parent: InodeNo(0),
        entries: 0,
        subdirs: 0,
        extensions: Vec::new(),
    }
}
