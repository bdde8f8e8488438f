//! An inode as a kernel has it, after Asterinas: content goes through a page cache that is the kernel's. A stand-in to compile
//! and test against.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

pub use sefs::error::Posix as Errno;
pub use sefs::vfs::FileKind as InodeType;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// What a call failed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// An error number that POSIX gives a meaning.
    Errno(Errno),
    /// `EIO`: the device failed, or what it holds is not authentic.
    Io,
}

/// What the methods return.
pub type Result<T> = core::result::Result<T, Error>;

/// What stat(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The inode's number.
    pub ino: u64,
    /// Bytes.
    pub size: usize,
    /// Bytes that are good to transfer at once.
    pub blk_size: usize,
    /// Space in units of 512 bytes.
    pub blocks: usize,
    /// Last access, since 1970.
    pub atime: Duration,
    /// Last change of content.
    pub mtime: Duration,
    /// Last change of anything.
    pub ctime: Duration,
    /// Its type.
    pub type_: InodeType,
    /// Permission bits.
    pub mode: u16,
    /// Links.
    pub nlinks: usize,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
}

/// Where the kernel's page cache gets pages and brings them back.
pub trait PageCacheBackend: Send + Sync {
    /// Fills a page; zeros after the file's end.
    fn read_page(&self, index: usize, page: &mut [u8; PAGE_SIZE]) -> Result<()>;
    /// Takes a dirty page; what is after the file's end is dropped.
    fn write_page(&self, index: usize, page: &[u8; PAGE_SIZE]) -> Result<()>;
    /// How many pages the file has.
    fn npages(&self) -> Result<usize>;
}

/// Takes directory entries: name, inode number, type, and where to go on after it.
pub trait DirentVisitor {
    /// Takes one; false ends the listing before this entry.
    fn visit(&mut self, name: &[u8], ino: u64, type_: InodeType, offset: usize) -> bool;
}

/// An inode.
pub trait Inode: Send + Sync {
    /// Bytes.
    fn size(&self) -> Result<usize>;
    /// Sets the length.
    fn resize(&self, new_size: usize) -> Result<()>;
    /// Its attributes.
    fn metadata(&self) -> Result<Metadata>;
    /// Its number.
    fn ino(&self) -> u64;
    /// Sets the permission bits.
    fn set_mode(&self, mode: u16) -> Result<()>;
    /// Sets the owner.
    fn set_owner(&self, uid: u32) -> Result<()>;
    /// Sets the group.
    fn set_group(&self, gid: u32) -> Result<()>;
    /// Sets the time of the last access.
    fn set_atime(&self, time: Duration) -> Result<()>;
    /// Sets the time of the last change of content.
    fn set_mtime(&self, time: Duration) -> Result<()>;
    /// What the page cache of a regular file stands on.
    fn page_cache(&self) -> Option<Arc<dyn PageCacheBackend>>;
    /// Reads past the page cache.
    fn read_direct_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize>;
    /// Writes past the page cache.
    fn write_direct_at(&self, offset: usize, buf: &[u8]) -> Result<usize>;
    /// Makes a file or directory.
    fn create(&self, name: &[u8], type_: InodeType, mode: u16) -> Result<Arc<dyn Inode>>;
    /// Makes a device, fifo or socket.
    fn mknod(&self, name: &[u8], type_: InodeType, mode: u16, rdev: u64) -> Result<Arc<dyn Inode>>;
    /// Makes a symlink.
    fn symlink(&self, name: &[u8], target: &[u8]) -> Result<Arc<dyn Inode>>;
    /// Hands over the entries after an offset: how many.
    fn readdir_at(&self, offset: usize, visitor: &mut dyn DirentVisitor) -> Result<usize>;
    /// Gives an inode of this filesystem another name.
    fn link(&self, old: &Arc<dyn Inode>, name: &[u8]) -> Result<()>;
    /// Removes a name of anything but a directory.
    fn unlink(&self, name: &[u8]) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, name: &[u8]) -> Result<()>;
    /// Finds a name.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>>;
    /// Moves a name.
    fn rename(&self, old_name: &[u8], target: &Arc<dyn Inode>, new_name: &[u8]) -> Result<()>;
    /// Where a symlink points.
    fn read_link(&self) -> Result<Vec<u8>>;
    /// Promises space.
    fn fallocate(&self, offset: usize, len: usize, keep_size: bool) -> Result<()>;
    /// Zeros a range and gives its space back.
    fn punch_hole(&self, offset: usize, len: usize) -> Result<()>;
    /// An extended attribute.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>>;
    /// Sets an extended attribute.
    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()>;
    /// The names of all extended attributes.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>>;
    /// Removes an extended attribute.
    fn remove_xattr(&self, name: &[u8]) -> Result<()>;
    /// Makes everything durable that the page cache brought back.
    fn sync_all(&self) -> Result<()>;
    /// The same.
    fn sync_data(&self) -> Result<()>;
    /// For going back to the type behind the trait.
    fn as_any(&self) -> &dyn core::any::Any;
}
