//! The public face of a volume.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::*;
use crate::backend::Backend;
use crate::error::Result;
use crate::keys::VolumeKey;
use crate::store::Store;
use crate::types::InodeNo;

/// An open volume. All methods take `&self` and may be called from many threads at once.
///
/// Inode numbers come from [`Volume::lookup`], [`Volume::make`] and [`Volume::read_dir`]; the root is
/// [`InodeNo::ROOT`]. They are never used again for another inode: one that is gone gives `ESTALE`.
pub struct Volume {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
}

impl Volume {
    /// Makes a volume that holds a root directory and nothing else.
    pub fn format(backend: Arc<dyn Backend>, key: &VolumeKey, options: &FormatOptions, env: &Env) -> Result<()> {
        unimplemented!()
    }

    /// Opens a volume: authenticates it, replays its log, checks its anchor.
    pub fn open(backend: Arc<dyn Backend>, key: &VolumeKey, options: &OpenOptions, env: &Env) -> Result<Volume> {
        unimplemented!()
    }

    /// The header as it stands there, not authenticated: only to find the key slots.
    pub fn read_header(backend: &dyn Backend) -> Result<Header> {
        unimplemented!()
    }

    /// What is known of the volume.
    pub fn info(&self) -> VolumeInfo {
        unimplemented!()
    }

    /// Finds a name in a directory; "." and ".." too.
    pub fn lookup(&self, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<Attr> {
        unimplemented!()
    }

    /// An inode's attributes.
    pub fn attr(&self, ino: InodeNo) -> Result<Attr> {
        unimplemented!()
    }

    /// Changes attributes, all or none.
    pub fn set_attr(&self, caller: &Caller, ino: InodeNo, change: &SetAttr) -> Result<Attr> {
        unimplemented!()
    }

    /// Whether the caller may do all of `mask` ([`READ`], [`WRITE`], [`EXECUTE`]); `Caller::check` is not asked.
    pub fn access(&self, caller: &Caller, ino: InodeNo, mask: u32) -> Result<()> {
        unimplemented!()
    }

    /// Makes a file, directory, symlink, fifo, socket or device.
    pub fn make(&self, caller: &Caller, dir: InodeNo, name: &[u8], new: &NewInode) -> Result<Attr> {
        unimplemented!()
    }

    /// Makes a file without a name (`O_TMPFILE`), acquired once; it can be linked while it is acquired.
    pub fn make_tmpfile(&self, caller: &Caller, dir: InodeNo, new: &NewInode) -> Result<Attr> {
        unimplemented!()
    }

    /// Gives an inode another name.
    pub fn link(&self, caller: &Caller, ino: InodeNo, dir: InodeNo, name: &[u8]) -> Result<Attr> {
        unimplemented!()
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Moves a name, or exchanges two.
    pub fn rename(
        &self,
        caller: &Caller,
        from_dir: InodeNo,
        from_name: &[u8],
        to_dir: InodeNo,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        unimplemented!()
    }

    /// Where a symlink points.
    pub fn read_link(&self, ino: InodeNo) -> Result<Vec<u8>> {
        unimplemented!()
    }

    /// At most `limit` entries after `cookie` (0: from the start), "." and ".." included.
    pub fn read_dir(&self, dir: InodeNo, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        unimplemented!()
    }

    /// Keeps an inode alive, linked or not, until it is released as often.
    pub fn acquire(&self, ino: InodeNo) -> Result<()> {
        unimplemented!()
    }

    /// Gives back `count` acquisitions.
    pub fn release(&self, ino: InodeNo, count: u64) {
        unimplemented!()
    }

    /// Reads from a regular file; fewer bytes than `out` holds only at its end.
    pub fn read(&self, ino: InodeNo, offset: u64, out: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }

    /// Writes into a regular file. Up to 1 MiB is all or nothing; of more, what was written before a failure counts.
    pub fn write(&self, caller: &Caller, ino: InodeNo, offset: u64, data: &[u8], mode: WriteMode) -> Result<usize> {
        unimplemented!()
    }

    /// Promises or gives back space (fallocate(2)).
    pub fn allocate(&self, caller: &Caller, ino: InodeNo, offset: u64, len: u64, mode: AllocateMode) -> Result<()> {
        unimplemented!()
    }

    /// The next data or hole at or after `offset`; `ENXIO` if there is none before the file's end.
    pub fn seek(&self, ino: InodeNo, offset: u64, whence: Seek) -> Result<u64> {
        unimplemented!()
    }

    /// Copies a range between files, or within one where the ranges do not overlap. Returns the bytes copied, which may
    /// be fewer than asked for; 0 at the end of the source.
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: InodeNo,
        from_offset: u64,
        to: InodeNo,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        unimplemented!()
    }

    /// An extended attribute's value.
    pub fn get_xattr(&self, caller: &Caller, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        unimplemented!()
    }

    /// Sets an extended attribute. An access ACL also sets the permission bits.
    pub fn set_xattr(
        &self,
        caller: &Caller,
        ino: InodeNo,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        unimplemented!()
    }

    /// The names of all extended attributes that the caller may know of.
    pub fn list_xattr(&self, caller: &Caller, ino: InodeNo) -> Result<Vec<Vec<u8>>> {
        unimplemented!()
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, caller: &Caller, ino: InodeNo, name: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Space and inodes.
    pub fn stat_fs(&self) -> FsStat {
        unimplemented!()
    }

    /// Makes everything up to now durable; fsync(2) of anything is this.
    pub fn sync(&self) -> Result<()> {
        unimplemented!()
    }

    /// Background work: logs and flushes when due, checkpoints, reclaims. The owner's thread calls it again and again;
    /// the result says when.
    pub fn work(&self, idle: bool) -> Result<WorkDone> {
        unimplemented!()
    }

    /// Commits and writes a last checkpoint.
    pub fn close(self) -> Result<()> {
        unimplemented!()
    }
}
