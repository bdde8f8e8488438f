//! A volume behind an inode with page cache hooks.
//!
//! *Invariants*
//! 1. What the page cache brings back is a write of the kind `Writeback`: it touches no times, it may use the reserve (its
//!    `write` was answered already), and it never makes a file longer.
//! 2. An `Inode`, and what its page cache stands on, keep the inode acquired.

pub mod vfs;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::time::Duration;

use sefs::error::{self, Posix};
use sefs::types::Timestamp;
use sefs::vfs::{AllocateMode, Attr, FileKind, NewInode, RenameMode, SetAttr, SetTime, Volume, WriteMode, XattrMode};

use crate::inode::{Held, invalid, new_inode, trusted};
use vfs::{DirentVisitor, Error, Inode, InodeType, Metadata, PAGE_SIZE, PageCacheBackend, Result};

const DIR_BATCH: usize = 64;

/// The root directory of an open volume.
pub fn root(volume: &Arc<Volume>) -> Arc<dyn Inode> {
    wrapped(Held::root(volume))
}

/// An inode of a volume.
pub struct SefsInode(Arc<Held>);

/// What a page cache stands on.
struct Pages(Arc<Held>);

fn wrapped(held: Held) -> Arc<dyn Inode> {
    Arc::new(SefsInode(Arc::new(held)))
}

impl PageCacheBackend for Pages {
    fn read_page(&self, index: usize, page: &mut [u8; PAGE_SIZE]) -> Result<()> {
        let held = &*self.0;
        let read = held.volume.read(held.ino, offset_of(index), page).map_err(told)?;
        page[read..].fill(0);
        Ok(())
    }

    fn write_page(&self, index: usize, page: &[u8; PAGE_SIZE]) -> Result<()> {
        let held = &*self.0;
        let size = held.attr().map_err(told)?.size;
        let rest = size.saturating_sub(offset_of(index));
        let len = usize::try_from(rest).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        if len > 0 {
            held.write(offset_of(index), &page[..len], WriteMode::Writeback).map_err(told)?;
        }
        Ok(())
    }

    fn npages(&self) -> Result<usize> {
        Ok(length(self.0.attr().map_err(told)?.size).div_ceil(PAGE_SIZE))
    }
}

impl SefsInode {
    fn change(&self, change: SetAttr) -> Result<()> {
        self.0.change(&change).map_err(told)
    }

    fn other<'a>(&self, other: &'a Arc<dyn Inode>) -> Result<&'a Held> {
        let other = other.as_any().downcast_ref::<SefsInode>().ok_or_else(|| told(invalid()))?;
        if self.0.same_volume(&other.0) { Ok(&other.0) } else { Err(told(invalid())) }
    }

    fn make(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>> {
        Ok(wrapped(self.0.make(name, new).map_err(told)?))
    }

    fn allocate(&self, offset: usize, len: usize, mode: AllocateMode) -> Result<()> {
        self.0.volume.allocate(&trusted(), self.0.ino, offset as u64, len as u64, mode).map_err(told)
    }
}

impl Inode for SefsInode {
    fn size(&self) -> Result<usize> {
        Ok(length(self.0.attr().map_err(told)?.size))
    }

    fn resize(&self, new_size: usize) -> Result<()> {
        self.0.resize(new_size as u64).map_err(told)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.0.attr().map(|attr| metadata(&attr)).map_err(told)
    }

    fn ino(&self) -> u64 {
        self.0.ino.0
    }

    fn set_mode(&self, mode: u16) -> Result<()> {
        self.change(SetAttr { mode: Some(u32::from(mode) & 0o7777), ..SetAttr::default() })
    }

    fn set_owner(&self, uid: u32) -> Result<()> {
        self.change(SetAttr { uid: Some(uid), ..SetAttr::default() })
    }

    fn set_group(&self, gid: u32) -> Result<()> {
        self.change(SetAttr { gid: Some(gid), ..SetAttr::default() })
    }

    fn set_atime(&self, time: Duration) -> Result<()> {
        self.change(SetAttr { atime: Some(SetTime::At(timestamp(time)?)), ..SetAttr::default() })
    }

    fn set_mtime(&self, time: Duration) -> Result<()> {
        self.change(SetAttr { mtime: Some(SetTime::At(timestamp(time)?)), ..SetAttr::default() })
    }

    fn page_cache(&self) -> Option<Arc<dyn PageCacheBackend>> {
        let regular = self.0.attr().is_ok_and(|attr| attr.kind == FileKind::Regular);
        regular.then(|| Arc::new(Pages(self.0.clone())) as Arc<dyn PageCacheBackend>)
    }

    fn read_direct_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize> {
        self.0.volume.read(self.0.ino, offset as u64, buf).map_err(told)
    }

    fn write_direct_at(&self, offset: usize, buf: &[u8]) -> Result<usize> {
        self.0.write(offset as u64, buf, WriteMode::Direct).map_err(told)
    }

    fn create(&self, name: &[u8], type_: InodeType, mode: u16) -> Result<Arc<dyn Inode>> {
        match type_ {
            FileKind::Regular | FileKind::Directory => self.make(name, &new_inode(type_, mode, 0)),
            _ => Err(told(invalid())),
        }
    }

    fn mknod(&self, name: &[u8], type_: InodeType, mode: u16, rdev: u64) -> Result<Arc<dyn Inode>> {
        match type_ {
            FileKind::Directory | FileKind::Symlink => Err(told(invalid())),
            _ => self.make(name, &new_inode(type_, mode, rdev)),
        }
    }

    fn symlink(&self, name: &[u8], target: &[u8]) -> Result<Arc<dyn Inode>> {
        self.make(name, &NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target: target.to_vec() })
    }

    fn readdir_at(&self, offset: usize, visitor: &mut dyn DirentVisitor) -> Result<usize> {
        let (mut cookie, mut count) = (offset as u64, 0);
        loop {
            let entries = self.0.volume.read_dir(self.0.ino, cookie, DIR_BATCH).map_err(told)?;
            if entries.is_empty() {
                return Ok(count);
            }
            for entry in &entries {
                cookie = entry.cookie;
                if !visitor.visit(&entry.name, entry.ino.0, entry.kind, length(cookie)) {
                    return Ok(count);
                }
                count += 1;
            }
        }
    }

    fn link(&self, old: &Arc<dyn Inode>, name: &[u8]) -> Result<()> {
        let old = self.other(old)?;
        self.0.volume.link(&trusted(), old.ino, self.0.ino, name).map(drop).map_err(told)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.0.volume.unlink(&trusted(), self.0.ino, name).map_err(told)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.0.volume.rmdir(&trusted(), self.0.ino, name).map_err(told)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(wrapped(self.0.lookup(name).map_err(told)?))
    }

    fn rename(&self, old_name: &[u8], target: &Arc<dyn Inode>, new_name: &[u8]) -> Result<()> {
        let (volume, target) = (&self.0.volume, self.other(target)?);
        volume.rename(&trusted(), self.0.ino, old_name, target.ino, new_name, RenameMode::Replace).map_err(told)
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        self.0.volume.read_link(self.0.ino).map_err(told)
    }

    fn fallocate(&self, offset: usize, len: usize, keep_size: bool) -> Result<()> {
        self.allocate(offset, len, AllocateMode::Allocate { keep_size })
    }

    fn punch_hole(&self, offset: usize, len: usize) -> Result<()> {
        self.allocate(offset, len, AllocateMode::PunchHole)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.0.volume.get_xattr(&trusted(), self.0.ino, name).map_err(told)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        self.0.volume.set_xattr(&trusted(), self.0.ino, name, value, XattrMode::Any).map_err(told)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        self.0.volume.list_xattr(&trusted(), self.0.ino).map_err(told)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.0.volume.remove_xattr(&trusted(), self.0.ino, name).map_err(told)
    }

    fn sync_all(&self) -> Result<()> {
        self.0.volume.sync().map_err(told)
    }

    fn sync_data(&self) -> Result<()> {
        self.sync_all()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn offset_of(index: usize) -> u64 {
    (index as u64).saturating_mul(PAGE_SIZE as u64)
}

fn length(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn metadata(attr: &Attr) -> Metadata {
    Metadata {
        ino: attr.ino.0,
        size: length(attr.size),
        blk_size: attr.blksize as usize,
        blocks: length(attr.blocks_512),
        atime: duration(attr.atime),
        mtime: duration(attr.mtime),
        ctime: duration(attr.ctime),
        type_: attr.kind,
        mode: (attr.mode & 0o7777) as u16,
        nlinks: attr.links as usize,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
    }
}

/// Such an inode knows no time before 1970.
fn duration(time: Timestamp) -> Duration {
    u64::try_from(time.seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, time.nanoseconds))
}

fn timestamp(time: Duration) -> Result<Timestamp> {
    let seconds = i64::try_from(time.as_secs()).map_err(|_| told(invalid()))?;
    Ok(Timestamp { seconds, nanoseconds: time.subsec_nanos() })
}

fn told(error: error::Error) -> Error {
    match error {
        error::Error::Posix(outcome) => Error::Errno(outcome),
        error::Error::Latched(_) => Error::Errno(Posix::ReadOnly),
        error if error.errno() == Posix::NoSpace.errno() => Error::Errno(Posix::NoSpace),
        _ => Error::Io,
    }
}
