//! An inode that is kept alive as long as somebody has it.

use alloc::sync::Arc;

use sefs::error::{Error, Posix, Result};
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, FileKind, NewInode, SetAttr, Volume, WriteMode};

/// What whoever calls these traits may do was checked above them.
pub(crate) fn trusted() -> Caller {
    Caller::root()
}

/// An acquired inode.
pub(crate) struct Held {
    pub(crate) volume: Arc<Volume>,
    pub(crate) ino: InodeNo,
    acquired: bool,
}

impl Held {
    pub(crate) fn new(volume: &Arc<Volume>, ino: InodeNo) -> Result<Held> {
        volume.acquire(ino)?;
        Ok(Held { volume: volume.clone(), ino, acquired: true })
    }

    /// The root, which nobody can remove.
    pub(crate) fn root(volume: &Arc<Volume>) -> Held {
        Held { volume: volume.clone(), ino: InodeNo::ROOT, acquired: false }
    }

    pub(crate) fn attr(&self) -> Result<Attr> {
        self.volume.attr(self.ino)
    }

    pub(crate) fn change(&self, change: &SetAttr) -> Result<()> {
        self.volume.set_attr(&trusted(), self.ino, change).map(drop)
    }

    pub(crate) fn resize(&self, len: u64) -> Result<()> {
        self.change(&SetAttr { size: Some(len), ..SetAttr::default() })
    }

    pub(crate) fn lookup(&self, name: &[u8]) -> Result<Held> {
        Held::new(&self.volume, self.volume.lookup(&trusted(), self.ino, name)?.ino)
    }

    pub(crate) fn make(&self, name: &[u8], new: &NewInode) -> Result<Held> {
        Held::new(&self.volume, self.volume.make(&trusted(), self.ino, name, new)?.ino)
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8], mode: WriteMode) -> Result<usize> {
        self.volume.write(&trusted(), self.ino, offset, data, mode)
    }

    /// Removes a name of whatever it is.
    pub(crate) fn remove(&self, name: &[u8]) -> Result<()> {
        let caller = trusted();
        match self.volume.lookup(&caller, self.ino, name)?.kind {
            FileKind::Directory => self.volume.rmdir(&caller, self.ino, name),
            _ => self.volume.unlink(&caller, self.ino, name),
        }
    }

    /// Whether both are of one volume; operations on two inodes make no sense otherwise.
    pub(crate) fn same_volume(&self, other: &Held) -> bool {
        Arc::ptr_eq(&self.volume, &other.volume)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.acquired {
            self.volume.release(self.ino, 1);
        }
    }
}

/// A permission mode without the type bits.
pub(crate) fn new_inode(kind: FileKind, mode: u16, rdev: u64) -> NewInode {
    NewInode { kind, mode: u32::from(mode) & 0o7777, rdev, target: alloc::vec::Vec::new() }
}

pub(crate) fn invalid() -> Error {
    Error::Posix(Posix::InvalidArgument)
}
