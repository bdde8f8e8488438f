//! POSIX access control lists (POSIX.1e draft 17; acl(5)), in the form of `system.posix_acl_access` and `_default`.
//!
//! ```text
//! version u32 = 2, then entries {tag u16, permissions u16, id u32}, little-endian:
//! owner 1, user 2, owning group 4, group 8, mask 16, other 32; id is 2^32 - 1 but for user and group
//! ```
//! An access ACL and the permission bits are two views of one thing: owner and other are the same, the group bits are the
//! mask where there is one. So a stored ACL always has a mask or is not stored at all: without named entries and without
//! a mask the bits say everything.

use alloc::vec::Vec;

use crate::error::Posix;
use crate::format::Inode;
use crate::vfs::Caller;

const VERSION: u32 = 2;
const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 8;
const NO_ID: u32 = u32::MAX;

/// Whom an entry is for, in the order that a valid list has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Who {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

/// A valid list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acl(Vec<(Who, u32)>);

impl Acl {
    /// Parses an attribute's value. `None`: it has no entries, which means "remove the list".
    pub(super) fn decode(value: &[u8]) -> Result<Option<Acl>, Posix> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, body) = value.split_first_chunk::<HEADER_LEN>().ok_or(Posix::InvalidArgument)?;
        let (entries, rest) = body.as_chunks::<ENTRY_LEN>();
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Posix::NotSupported);
        }
        if !rest.is_empty() {
            return Err(Posix::InvalidArgument);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let entries = entries.iter().map(decode_entry).collect::<Result<Vec<_>, Posix>>()?;
        let acl = Acl(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Posix::InvalidArgument) }
    }

    /// The attribute's value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (who, permissions) in &self.0 {
            let (tag, id) = match *who {
                Who::Owner => (1u16, NO_ID),
                Who::User(id) => (2, id),
                Who::OwningGroup => (4, NO_ID),
                Who::Group(id) => (8, id),
                Who::Mask => (16, NO_ID),
                Who::Other => (32, NO_ID),
            };
            let [low, high, ..] = permissions.to_le_bytes();
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&[low, high]);
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// Whether permission bits say all that this list says.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The nine permission bits that go with this list.
    pub(super) fn mode(&self) -> u32 {
        self.permissions(Who::Owner) << 6 | self.group_class() << 3 | self.permissions(Who::Other)
    }

    /// chmod(2) of a file with this list.
    pub(super) fn set_mode(&mut self, mode: u32) {
        let group = if self.has_mask() { Who::Mask } else { Who::OwningGroup };
        for (who, permissions) in &mut self.0 {
            match *who {
                Who::Owner => *permissions = mode >> 6 & 7,
                Who::Other => *permissions = mode & 7,
                who if who == group => *permissions = mode >> 3 & 7,
                _ => {}
            }
        }
    }

    /// This default list as the access list of a new file that asks for `mode`: nothing is granted that it did not ask for.
    pub(super) fn inherit(&self, mode: u32) -> Acl {
        let mut acl = self.clone();
        acl.set_mode(self.mode() & mode);
        acl
    }

    /// The access check of POSIX.1e 23.1.5, for one who is not root.
    pub(super) fn permits(&self, caller: &Caller, inode: &Inode, want: u32) -> bool {
        if caller.uid == inode.uid {
            return want & !self.permissions(Who::Owner) == 0;
        }
        let mask = if self.has_mask() { self.permissions(Who::Mask) } else { 7 };
        let user = self.0.iter().find(|(who, _)| *who == Who::User(caller.uid));
        if let Some((_, permissions)) = user {
            return want & !(permissions & mask) == 0;
        }
        let mut groups = self.0.iter().filter(|(who, _)| match *who {
            Who::OwningGroup => caller.in_group(inode.gid),
            Who::Group(gid) => caller.in_group(gid),
            _ => false,
        });
        let mut member = false;
        if groups.any(|(_, permissions)| {
            member = true;
            want & !(permissions & mask) == 0
        }) {
            return true;
        }
        !member && want & !self.permissions(Who::Other) == 0
    }

    fn has_mask(&self) -> bool {
        self.0.iter().any(|(who, _)| *who == Who::Mask)
    }

    fn group_class(&self) -> u32 {
        self.permissions(if self.has_mask() { Who::Mask } else { Who::OwningGroup })
    }

    fn permissions(&self, whose: Who) -> u32 {
        self.0.iter().find(|(who, _)| *who == whose).map_or(0, |(_, permissions)| *permissions)
    }

    /// Owner, owning group and other are there once; named entries need a mask; the order is the one of `Who`, where
    /// named entries of one sort may come in any order.
    fn is_valid(&self) -> bool {
        let rank = |who: Who| match who {
            Who::Owner => 0,
            Who::User(_) => 1,
            Who::OwningGroup => 2,
            Who::Group(_) => 3,
            Who::Mask => 4,
            Who::Other => 5,
        };
        let ordered = self.0.windows(2).all(|pair| match (pair[0].0, pair[1].0) {
            (Who::User(a), Who::User(b)) | (Who::Group(a), Who::Group(b)) => a != b,
            (a, b) => rank(a) < rank(b),
        });
        let count = |whose: u32| self.0.iter().filter(|(who, _)| rank(*who) == whose).count();
        let named = count(1) + count(3) > 0;
        ordered && [count(0), count(2), count(5)] == [1, 1, 1] && (!named || count(4) == 1)
    }
}

fn decode_entry(bytes: &[u8; ENTRY_LEN]) -> Result<(Who, u32), Posix> {
    let [t0, t1, p0, p1, id @ ..] = *bytes;
    let (tag, permissions, id) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]), u32::from_le_bytes(id));
    let who = match tag {
        1 => Who::Owner,
        2 if id != NO_ID => Who::User(id),
        4 => Who::OwningGroup,
        8 if id != NO_ID => Who::Group(id),
        16 => Who::Mask,
        32 => Who::Other,
        _ => return Err(Posix::InvalidArgument),
    };
    if permissions > 7 {
        return Err(Posix::InvalidArgument);
    }
    Ok((who, u32::from(permissions)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FileKind, InodeFlags};
    use crate::types::{InodeNo, ObjectId, Timestamp};

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// owner rwx, user 7 rw, group 5 rw, owning group r, mask, other nothing
    fn acl(mask: u16) -> Acl {
        let entries = [(1, 7, NO_ID), (2, 6, 7), (4, 4, NO_ID), (8, 6, 5), (16, mask, NO_ID), (32, 0, NO_ID)];
        Acl::decode(&value(&entries)).unwrap().unwrap()
    }

    fn inode() -> Inode {
        let time = Timestamp::default();
        Inode {
            mode: FileKind::Regular.mode_bits() | 0o760,
            uid: 1,
            gid: 2,
            links: 1,
            flags: InodeFlags::default(),
            size: 0,
            object: ObjectId(9),
            change: 0,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            project: 0,
            parent: InodeNo(0),
            entries: 0,
            subdirs: 0,
            extensions: Vec::new(),
        }
    }

    #[test]
    fn lists_that_are_refused() {
        let (owner, group, other) = ((1, 7, NO_ID), (4, 5, NO_ID), (32, 5, NO_ID));
        let refused: [&[(u16, u16, u32)]; 11] = [
            &[owner],
            &[owner, group],
            &[owner, other, group],
            &[owner, owner, group, other],
            &[owner, (2, 7, 5), group, other],
            &[owner, (2, 7, NO_ID), group, (16, 7, NO_ID), other],
            &[owner, (2, 7, 5), (2, 7, 5), group, (16, 7, NO_ID), other],
            &[owner, group, (2, 7, 5), (16, 7, NO_ID), other],
            &[owner, group, (16, 7, NO_ID), (16, 7, NO_ID), other],
            &[(1, 8, NO_ID), group, other],
            &[owner, group, (64, 7, NO_ID), other],
        ];
        for entries in refused {
            assert_eq!(Acl::decode(&value(entries)), Err(Posix::InvalidArgument), "{entries:?}");
        }
        let good = value(&[owner, group, other]);
        for len in 1..good.len() {
            let removes = len == 4;
            assert_eq!(Acl::decode(&good[..len]), if removes { Ok(None) } else { Err(Posix::InvalidArgument) });
        }
        assert_eq!(Acl::decode(&[1, 0, 0, 0]), Err(Posix::NotSupported), "version 1");
        assert_eq!(Acl::decode(&[]), Ok(None));
    }

    #[test]
    fn lists_come_back_as_they_were() {
        let acl = acl(4);
        assert_eq!(Acl::decode(&acl.encode()), Ok(Some(acl.clone())));
        assert_eq!((acl.mode(), acl.is_minimal()), (0o740, false));
        let minimal = Acl::decode(&value(&[(1, 6, 0), (4, 4, 0), (32, 0, 0)])).unwrap().unwrap();
        assert_eq!((minimal.mode(), minimal.is_minimal()), (0o640, true));
    }

    #[test]
    fn who_may_do_what() {
        let cases = [
            // (uid, gid, groups, mask, wanted, permitted)
            (1, 9, &[][..], 0, 7, true),
            (7, 9, &[], 7, 6, true),
            (7, 9, &[], 4, 4, true),
            (7, 9, &[], 4, 2, false),
            (7, 5, &[], 7, 1, false),
            (8, 2, &[], 7, 4, true),
            (8, 2, &[], 7, 2, false),
            (8, 9, &[5], 7, 6, true),
            (8, 9, &[5], 2, 6, false),
            (8, 2, &[5], 7, 6, true),
            (8, 2, &[5], 4, 2, false),
            (8, 9, &[], 7, 4, false),
            (8, 9, &[], 7, 0, true),
        ];
        for (uid, gid, groups, mask, want, permitted) in cases {
            let caller = Caller { groups: groups.to_vec(), ..Caller::user(uid, gid) };
            assert_eq!(acl(mask).permits(&caller, &inode(), want), permitted, "{uid} {gid} {groups:?} {mask} {want}");
        }
    }

    #[test]
    fn chmod_moves_the_mask_and_heirs_get_no_more_than_they_ask_for() {
        let mut changed = acl(7);
        changed.set_mode(0o451);
        assert_eq!(changed.mode(), 0o451);
        assert_eq!(changed.permissions(Who::OwningGroup), 4, "the owning group's own entry stays");
        let heir = acl(6).inherit(0o666);
        assert_eq!(heir.mode(), 0o660);
        assert_eq!(heir.permissions(Who::User(7)), 6);
        assert_eq!(acl(7).inherit(0o600).mode(), 0o600);
    }
}
