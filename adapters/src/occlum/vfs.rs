//! The traits as Occlum's fork of rcore-fs has them: methods, names and meaning. A stand-in to compile and test against.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// What a file operation fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsError {
    /// The operation makes no sense for this filesystem.
    NotSupported,
    /// A file was expected.
    NotFile,
    /// It is a directory.
    IsDir,
    /// It is no directory.
    NotDir,
    /// No such entry.
    EntryNotFound,
    /// It exists already.
    EntryExist,
    /// Two inodes of two filesystems.
    NotSameFs,
    /// An argument is out of its range.
    InvalidParam,
    /// No space is left.
    NoDeviceSpace,
    /// The directory was removed.
    DirRemoved,
    /// The directory is not empty.
    DirNotEmpty,
    /// It is not a filesystem of this kind.
    WrongFs,
    /// The device failed.
    DeviceError,
    /// Too many symlinks, or none where one was expected.
    SymLoop,
    /// It is in use.
    Busy,
    /// It cannot be written to.
    WrProtected,
    /// Stored bytes are not authentic.
    NoIntegrity,
    /// It is not permitted.
    PermError,
    /// The name is too long.
    NameTooLong,
    /// The file would be too long.
    FileTooBig,
}

/// What the methods return.
pub type Result<T> = core::result::Result<T, FsError>;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    SymLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A fifo.
    NamedPipe,
    /// A socket.
    Socket,
}

/// A time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: i32,
}

/// What stat(2) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The filesystem's device number, which whoever mounts it gives.
    pub dev: usize,
    /// The inode's number.
    pub inode: usize,
    /// Bytes.
    pub size: usize,
    /// Bytes that are good to transfer at once.
    pub blk_size: usize,
    /// Space in units of 512 bytes.
    pub blocks: usize,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of anything.
    pub ctime: Timespec,
    /// Its type.
    pub type_: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Links.
    pub nlinks: usize,
    /// The owner.
    pub uid: usize,
    /// The owning group.
    pub gid: usize,
    /// Device number, of devices.
    pub rdev: usize,
}

/// What statfs(2) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsInfo {
    /// Tells filesystems apart.
    pub magic: usize,
    /// Bytes of a block.
    pub bsize: usize,
    /// Bytes of a fragment.
    pub frsize: usize,
    /// All blocks.
    pub blocks: usize,
    /// Free blocks.
    pub bfree: usize,
    /// Free blocks that everybody can have.
    pub bavail: usize,
    /// Inodes.
    pub files: usize,
    /// Inodes that can still be made.
    pub ffree: usize,
    /// Bytes of the longest name.
    pub namemax: usize,
}

/// What fallocate(2) is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Promise space; the file grows unless its size is kept.
    Allocate {
        /// The length stays.
        keep_size: bool,
    },
    /// A hole.
    PunchHole,
    /// Zeros with space promised.
    ZeroRange {
        /// The length stays.
        keep_size: bool,
    },
}

/// Takes directory entries.
pub trait DirentVisitor {
    /// Takes one entry; `offset` is where to go on after it. An error ends the iteration before this entry.
    fn visit_entry(&mut self, name: &str, ino: u64, type_: FileType, offset: usize) -> Result<()>;
}

/// An inode.
pub trait INode: Any + Sync + Send {
    /// Reads.
    fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize>;
    /// Writes; into a symlink, where it points.
    fn write_at(&self, offset: usize, buf: &[u8]) -> Result<usize>;
    /// Tells the attributes.
    fn metadata(&self) -> Result<Metadata>;
    /// Sets mode, owner and times.
    fn set_metadata(&self, metadata: &Metadata) -> Result<()>;
    /// Makes everything durable.
    fn sync_all(&self) -> Result<()>;
    /// Makes content durable.
    fn sync_data(&self) -> Result<()>;
    /// fallocate(2).
    fn fallocate(&self, mode: &FallocateMode, offset: usize, len: usize) -> Result<()>;
    /// Sets the length.
    fn resize(&self, len: usize) -> Result<()>;
    /// Makes a file, directory or symlink.
    fn create(&self, name: &str, type_: FileType, mode: u16) -> Result<Arc<dyn INode>>;
    /// Gives an inode another name.
    fn link(&self, name: &str, other: &Arc<dyn INode>) -> Result<()>;
    /// Removes a name, of an empty directory too.
    fn unlink(&self, name: &str) -> Result<()>;
    /// Moves a name.
    fn move_(&self, old_name: &str, target: &Arc<dyn INode>, new_name: &str) -> Result<()>;
    /// Finds a name.
    fn find(&self, name: &str) -> Result<Arc<dyn INode>>;
    /// The name of the entry with this number.
    fn get_entry(&self, id: usize) -> Result<String>;
    /// The same with the attributes of what it names.
    fn get_entry_with_metadata(&self, id: usize) -> Result<(Metadata, String)>;
    /// Hands over the entries from an offset on: how many.
    fn iterate_entries(&self, offset: usize, visitor: &mut dyn DirentVisitor) -> Result<usize>;
    /// All names.
    fn list(&self) -> Result<Vec<String>>;
    /// The filesystem that it is of.
    fn fs(&self) -> Arc<dyn FileSystem>;
    /// For going back to the type behind the trait.
    fn as_any_ref(&self) -> &dyn Any;
}

/// A filesystem.
pub trait FileSystem: Sync + Send {
    /// Makes everything durable.
    fn sync(&self) -> Result<()>;
    /// The root directory.
    fn root_inode(&self) -> Arc<dyn INode>;
    /// Its figures.
    fn info(&self) -> FsInfo;
}
