//! Extended attributes: their records, and which namespace asks what of whom (xattr(7)).
//!
//! ```text
//! inode extension 1: {flags u32: 1 access ACL, 2 default ACL, 4 security.capability; count u32; bytes of names u32}
//! ```
//! The extension is there exactly if the inode has attributes. So writing, unlinking and permission checks know without a
//! lookup that there is nothing to remove or to ask, which is the case for almost all files.
//!
//! *Invariants*: the parts of an attribute follow each other from part 0; count and bytes are those of all heads.

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{FileKind, Inode, Key, Kind, XATTR_PART_LEN, XATTR_VALUE_MAX, XattrHead, xattr_key};
use crate::store::{Need, Store, Tx};
use crate::suite::Suite;
use crate::types::InodeNo;
use crate::vfs::acl::Acl;
use crate::vfs::attr::{MODE_BITS, touch_status};
use crate::vfs::inode::{Edit, record_error};
use crate::vfs::permission::{self, S_ISVTX};
use crate::vfs::{Caller, NAME_MAX, READ, Volume, WRITE, XattrMode};

/// The attribute that holds the access ACL.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds a directory's default ACL.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";
/// What listxattr(2) can return: all names, each with its zero byte.
const NAMES_MAX: u32 = 65_536;
const SUMMARY_EXTENSION: u16 = 1;
const SUMMARY_LEN: usize = 12;
/// Bytes of extensions that an inode's record has room for, heads included.
const EXTENSIONS_MAX: usize = crate::format::MAX_VALUE_LEN - crate::format::INODE_FIXED_LEN;
const FLAG_ACCESS: u32 = 1;
const FLAG_DEFAULT: u32 = 2;
const FLAG_CAPABILITY: u32 = 4;
const PARTS: u64 = 256;
const DISCRIMINATORS: u64 = 256;

/// What an inode knows of its attributes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Summary {
    flags: u32,
    count: u32,
    name_bytes: u32,
}

/// An attribute as it is stored.
struct Stored {
    key: Key,
    head: XattrHead,
}

/// The namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Space {
    User,
    Trusted,
    Security,
    AccessAcl,
    DefaultAcl,
}

/// An attribute's value, for a caller.
pub(super) fn get(volume: &Volume, caller: &Caller, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
    let space = parse_name(name)?;
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| {
        check_get(store, caller, ino, inode, space)?;
        value(store, ino, inode, name)?.ok_or(Posix::NoAttribute.into())
    })
}

/// All names that a caller may know of.
pub(super) fn list(volume: &Volume, caller: &Caller, ino: InodeNo) -> Result<Vec<Vec<u8>>> {
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| {
        let mut names = Vec::new();
        if Summary::of(inode).is_empty() {
            return Ok(names);
        }
        let mut from = Some(Key::new(ino.0, Kind::Xattr, 0));
        while let Some(stored) = from.map(|from| next_head(store, from, ino)).transpose()?.flatten() {
            from = after(stored.key);
            let hidden = caller.is_limited() && stored.head.name.starts_with(b"trusted.");
            if !hidden {
                names.push(stored.head.name);
            }
        }
        Ok(names)
    })
}

/// Sets an attribute.
pub(super) fn set(
    volume: &Volume,
    caller: &Caller,
    ino: InodeNo,
    name: &[u8],
    new: &[u8],
    mode: XattrMode,
) -> Result<()> {
    let space = parse_name(name)?;
    if new.len() > XATTR_VALUE_MAX {
        return Err(Posix::TooLong.into());
    }
    let acl = match space {
        Space::AccessAcl | Space::DefaultAcl => Some(Acl::decode(new)?),
        Space::User | Space::Trusted | Space::Security => None,
    };
    change(volume, caller, ino, name, space, |store, inode| {
        let exists = value(store, ino, inode, name)?.is_some();
        match mode {
            XattrMode::Create if exists => return Err(Posix::Exists.into()),
            XattrMode::Replace if !exists => return Err(Posix::NoAttribute.into()),
            XattrMode::Any | XattrMode::Create | XattrMode::Replace => {}
        }
        Ok(match &acl {
            None => Some(new.to_vec()),
            Some(None) => None,
            Some(Some(acl)) if space == Space::DefaultAcl => Some(acl.encode()),
            Some(Some(acl)) => {
                let kept = permission::chmod_bits(caller, inode.gid, inode.mode) & (MODE_BITS & !0o777);
                inode.mode = inode.mode & !MODE_BITS | kept | acl.mode();
                (!acl.is_minimal()).then(|| acl.encode())
            }
        })
    })
}

/// Removes an attribute.
pub(super) fn remove(volume: &Volume, caller: &Caller, ino: InodeNo, name: &[u8]) -> Result<()> {
    let space = parse_name(name)?;
    change(volume, caller, ino, name, space, |store, inode| match value(store, ino, inode, name)? {
        Some(_) => Ok(None),
        None => Err(Posix::NoAttribute.into()),
    })
}

/// Sets an attribute to what `decide` says, or removes it; the inode changes with it.
fn change(
    volume: &Volume,
    caller: &Caller,
    ino: InodeNo,
    name: &[u8],
    space: Space,
    decide: impl FnOnce(&Store, &mut Inode) -> Result<Option<Vec<u8>>>,
) -> Result<()> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let before = locked.inode(store, ino)?;
    check_set(store, caller, ino, &before, space)?;
    let mut inode = (*before).clone();
    let new = decide(store, &mut inode)?;
    let need = if new.is_some() { Need::Metadata } else { Need::Release };
    let value_bytes = new.as_ref().map_or(0, |value| name.len() + value.len());
    let mut edit = Edit::begin_with(store, need, value_bytes, &locked)?;
    replace(store, &mut edit.tx, ino, &mut inode, name, new.as_deref())?;
    touch_status(&mut inode, volume.clock.now());
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(())
}

/// Puts an attribute's records, or removes them, and keeps the inode's summary right. The caller puts the inode.
pub(super) fn replace(
    store: &Store,
    tx: &mut Tx<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    name: &[u8],
    new: Option<&[u8]>,
) -> Result<()> {
    let mut summary = Summary::of(inode);
    let old = if summary.may_have(name) { find(store, ino, name)? } else { None };
    if let Some(stored) = &old {
        summary.remove(name);
        for part in 0..stored.head.parts() {
            tx.delete(part_key(stored.key, part));
        }
    }
    if let Some(value) = new {
        summary.add(name)?;
        let key = match old {
            Some(stored) => stored.key,
            None => free_key(store, ino, name)?,
        };
        put_parts(tx, key, name, value);
    }
    summary.store(inode)
}

/// Puts the attributes of a new inode.
pub(super) fn put_new(
    store: &Store,
    tx: &mut Tx<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    name: &[u8],
    value: &[u8],
) -> Result<()> {
    let mut summary = Summary::of(inode);
    summary.add(name)?;
    put_parts(tx, Key::new(ino.0, Kind::Xattr, xattr_key(store.suite(), name, 0, 0)), name, value);
    summary.store(inode)
}

/// An attribute of an inode of a new image.
pub(crate) struct GivenAttribute {
    /// Its value, as it will be read.
    pub(crate) value: Vec<u8>,
    /// Offsets of keys, and values, of its records.
    pub(crate) records: Vec<(u64, Vec<u8>)>,
}

/// The records of an attribute that an inode of a new image is given, under keys that `is_taken` does not know. What may be
/// set is what [`set`] allows the superuser. An access ACL gets the bits of the inode's mode; one that says no more is left out:
/// `None`.
pub(crate) fn given_attribute(
    suite: &dyn Suite,
    inode: &mut Inode,
    name: &[u8],
    value: &[u8],
    is_taken: impl Fn(u64) -> bool,
) -> Result<Option<GivenAttribute>> {
    let (space, kind) = (parse_name(name)?, inode.kind());
    if value.len() > XATTR_VALUE_MAX {
        return Err(Posix::TooLong.into());
    }
    let value = match space {
        Space::AccessAcl | Space::DefaultAcl if kind == FileKind::Symlink => return Err(Posix::NotSupported.into()),
        Space::DefaultAcl if kind != FileKind::Directory => return Err(Posix::NotPermitted.into()),
        Space::User if !has_user_space(inode) => return Err(Posix::NotPermitted.into()),
        Space::AccessAcl | Space::DefaultAcl => match Acl::decode(value)? {
            None => return Ok(None),
            Some(acl) if space == Space::DefaultAcl => acl.encode(),
            Some(mut acl) => {
                acl.set_mode(inode.mode & MODE_BITS);
                if acl.is_minimal() {
                    return Ok(None);
                }
                acl.encode()
            }
        },
        Space::User | Space::Trusted | Space::Security => value.to_vec(),
    };
    let mut summary = Summary::of(inode);
    summary.add(name)?;
    let first = xattr_key(suite, name, 0, 0);
    let keys = (0..DISCRIMINATORS).map(|discriminator| first + discriminator * PARTS);
    let offset = keys.into_iter().find(|offset| !is_taken(*offset)).ok_or(Posix::NoSpace)?;
    summary.store(inode)?;
    let records = parts_of(Key::new(0, Kind::Xattr, offset), name, &value);
    let records = records.into_iter().map(|(key, value)| (key.offset, value)).collect();
    Ok(Some(GivenAttribute { value, records }))
}

/// Content or owner changed: a file's capabilities were granted to what it was before.
pub(super) fn strip_capability(store: &Store, tx: &mut Tx<'_>, ino: InodeNo, inode: &mut Inode) -> Result<()> {
    if Summary::of(inode).flags & FLAG_CAPABILITY != 0 {
        replace(store, tx, ino, inode, CAPABILITY, None)?;
    }
    Ok(())
}

/// Removes attributes of an inode that goes, about `records` records of them; true if some are left. What the inode knows
/// of them stays right all the time.
pub(super) fn drop_some(
    store: &Store,
    tx: &mut Tx<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    records: usize,
) -> Result<bool> {
    let (mut summary, mut dropped) = (Summary::of(inode), 0);
    let mut from = Some(Key::new(ino.0, Kind::Xattr, 0));
    while let Some(stored) = from.map(|from| next_head(store, from, ino)).transpose()?.flatten() {
        if dropped >= records {
            summary.store(inode)?;
            return Ok(true);
        }
        summary.remove(&stored.head.name);
        for part in 0..stored.head.parts() {
            tx.delete(part_key(stored.key, part));
            dropped += 1;
        }
        from = after(stored.key);
    }
    Summary::default().store(inode)?;
    Ok(false)
}

/// An attribute's value, whoever asks.
pub(super) fn value(store: &Store, ino: InodeNo, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>> {
    if !Summary::of(inode).may_have(name) {
        return Ok(None);
    }
    let Some(Stored { key, head }) = find(store, ino, name)? else { return Ok(None) };
    let parts = head.parts();
    let len = usize::try_from(head.value_len).map_err(|_| record_error(key, "attribute length"))?;
    let mut value = head.first;
    for part in 1..parts {
        let key = part_key(key, part);
        value.extend(store.get(key)?.ok_or_else(|| record_error(key, "a part of an attribute is missing"))?);
    }
    if value.len() == len { Ok(Some(value)) } else { Err(record_error(key, "attribute length")) }
}

fn put_parts(tx: &mut Tx<'_>, key: Key, name: &[u8], value: &[u8]) {
    for (key, value) in parts_of(key, name, value) {
        tx.put(key, value);
    }
}

/// The records of an attribute whose head stands at `key`.
fn parts_of(key: Key, name: &[u8], value: &[u8]) -> Vec<(Key, Vec<u8>)> {
    let (first, rest) = value.split_at(value.len().min(XATTR_PART_LEN));
    let value_len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let head = XattrHead { name: name.to_vec(), value_len, first: first.to_vec() }.encode();
    let others = (1..=u8::MAX).zip(rest.chunks(XATTR_PART_LEN));
    core::iter::once((key, head)).chain(others.map(|(part, bytes)| (part_key(key, part), bytes.to_vec()))).collect()
}

/// The head with this name, if there is one.
fn find(store: &Store, ino: InodeNo, name: &[u8]) -> Result<Option<Stored>> {
    let first = Key::new(ino.0, Kind::Xattr, xattr_key(store.suite(), name, 0, 0));
    let mut from = Some(first);
    while let Some(stored) = from.map(|from| next_head(store, from, ino)).transpose()?.flatten() {
        if !same_hash(first, stored.key) {
            break;
        }
        if stored.head.name == name {
            return Ok(Some(stored));
        }
        from = after(stored.key);
    }
    Ok(None)
}

/// A key for a new attribute: the lowest free discriminator.
fn free_key(store: &Store, ino: InodeNo, name: &[u8]) -> Result<Key> {
    let mut key = Key::new(ino.0, Kind::Xattr, xattr_key(store.suite(), name, 0, 0));
    for _ in 0..DISCRIMINATORS {
        if store.get(key)?.is_none() {
            return Ok(key);
        }
        key.offset = key.offset.checked_add(PARTS).ok_or(Posix::NoSpace)?;
    }
    Err(Posix::NoSpace.into())
}

/// The first head at or after a key that itself is a head's.
fn next_head(store: &Store, from: Key, ino: InodeNo) -> Result<Option<Stored>> {
    let end = Key::new(ino.0, Kind::Inline, 0);
    let Some((key, value)) = store.scan(from, end, 1)?.into_iter().next() else { return Ok(None) };
    if key.offset % PARTS != 0 {
        return Err(record_error(key, "a part of no attribute"));
    }
    let head = XattrHead::decode(&value).map_err(|why| record_error(key, why))?;
    Ok(Some(Stored { key, head }))
}

/// The first key that the next attribute may have.
fn after(head: Key) -> Option<Key> {
    head.offset.checked_add(PARTS).map(|offset| Key { offset, ..head })
}

fn same_hash(a: Key, b: Key) -> bool {
    a.offset / (PARTS * DISCRIMINATORS) == b.offset / (PARTS * DISCRIMINATORS)
}

fn part_key(head: Key, part: u8) -> Key {
    Key { offset: head.offset | u64::from(part), ..head }
}

impl Summary {
    /// What this inode knows of its attributes.
    pub(super) fn of(inode: &Inode) -> Summary {
        let found = inode.extensions.iter().find(|(kind, _)| *kind == SUMMARY_EXTENSION);
        let Some((_, bytes)) = found else { return Summary::default() };
        let field = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
            bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
        };
        Summary { flags: field(0), count: field(4), name_bytes: field(8) }
    }

    /// Whether there are no attributes.
    pub(super) fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Whether there is an access ACL.
    pub(super) fn access_acl(self) -> bool {
        self.flags & FLAG_ACCESS != 0
    }

    fn may_have(self, name: &[u8]) -> bool {
        self.count > 0 && (flag(name) == 0 || self.flags & flag(name) != 0)
    }

    fn add(&mut self, name: &[u8]) -> Result<()> {
        self.flags |= flag(name);
        self.count = self.count.saturating_add(1);
        self.name_bytes = self.name_bytes.saturating_add(listed_len(name));
        if self.name_bytes > NAMES_MAX { Err(Posix::NoSpace.into()) } else { Ok(()) }
    }

    fn remove(&mut self, name: &[u8]) {
        self.flags &= !flag(name);
        self.count = self.count.saturating_sub(1);
        self.name_bytes = self.name_bytes.saturating_sub(listed_len(name));
    }

    fn store(self, inode: &mut Inode) -> Result<()> {
        inode.extensions.retain(|(kind, _)| *kind != SUMMARY_EXTENSION);
        if self.count == 0 {
            return Ok(());
        }
        let used: usize = inode.extensions.iter().map(|(_, bytes)| 4 + bytes.len()).sum();
        if used + 4 + SUMMARY_LEN > EXTENSIONS_MAX {
            return Err(Posix::NoSpace.into());
        }
        let fields = [self.flags, self.count, self.name_bytes];
        inode.extensions.push((SUMMARY_EXTENSION, fields.iter().flat_map(|field| field.to_le_bytes()).collect()));
        Ok(())
    }
}

fn flag(name: &[u8]) -> u32 {
    match name {
        _ if name == ACL_ACCESS => FLAG_ACCESS,
        _ if name == ACL_DEFAULT => FLAG_DEFAULT,
        _ if name == CAPABILITY => FLAG_CAPABILITY,
        _ => 0,
    }
}

fn listed_len(name: &[u8]) -> u32 {
    u32::try_from(name.len()).map_or(u32::MAX, |len| len.saturating_add(1))
}

fn parse_name(name: &[u8]) -> Result<Space> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Posix::BufferTooSmall.into());
    }
    if name.contains(&0) {
        return Err(Posix::InvalidArgument.into());
    }
    if name == ACL_ACCESS {
        return Ok(Space::AccessAcl);
    }
    if name == ACL_DEFAULT {
        return Ok(Space::DefaultAcl);
    }
    let spaces = [(&b"user."[..], Space::User), (b"trusted.", Space::Trusted), (b"security.", Space::Security)];
    for (prefix, space) in spaces {
        if let Some(rest) = name.strip_prefix(prefix) {
            return if rest.is_empty() { Err(Posix::InvalidArgument.into()) } else { Ok(space) };
        }
    }
    Err(Posix::NotSupported.into())
}

fn check_get(store: &Store, caller: &Caller, ino: InodeNo, inode: &Inode, space: Space) -> Result<()> {
    match space {
        Space::AccessAcl | Space::DefaultAcl if inode.kind() == FileKind::Symlink => Err(Posix::NotSupported.into()),
        Space::AccessAcl | Space::DefaultAcl | Space::Security => Ok(()),
        Space::Trusted if caller.is_limited() => Err(Posix::NoAttribute.into()),
        Space::User if !has_user_space(inode) => Err(Posix::NoAttribute.into()),
        Space::User => permission::check(store, caller, ino, inode, READ),
        Space::Trusted => Ok(()),
    }
}

fn check_set(store: &Store, caller: &Caller, ino: InodeNo, inode: &Inode, space: Space) -> Result<()> {
    match space {
        Space::AccessAcl | Space::DefaultAcl if inode.kind() == FileKind::Symlink => Err(Posix::NotSupported.into()),
        Space::DefaultAcl if inode.kind() != FileKind::Directory => Err(Posix::AccessDenied.into()),
        Space::AccessAcl | Space::DefaultAcl => permission::check_owner(caller, inode),
        Space::Trusted | Space::Security if caller.is_limited() => Err(Posix::NotPermitted.into()),
        Space::Trusted | Space::Security => Ok(()),
        Space::User if !has_user_space(inode) => Err(Posix::NotPermitted.into()),
        Space::User => {
            if inode.kind() == FileKind::Directory && inode.mode & S_ISVTX != 0 {
                permission::check_owner(caller, inode)?;
            }
            permission::check(store, caller, ino, inode, WRITE)
        }
    }
}

/// Permission bits of other kinds say who may use a device or follow a link, not who may write attributes.
fn has_user_space(inode: &Inode) -> bool {
    matches!(inode.kind(), FileKind::Regular | FileKind::Directory)
}
