//! A volume as Occlum's `FileSystem` and `INode`.
//!
//! *Invariants*
//! 1. An `INode` keeps its inode acquired, so an open file lives on after its last name went.
//! 2. rcore-fs makes a symlink first and writes its target then; a volume makes both at once. So a symlink that was just
//!    created is a promise, which the first write keeps. Until then its name is free, and nobody else sees it.

pub mod vfs;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use sefs::error::{Error, Posix};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{AllocateMode, Attr, DirEntry, FileKind, NewInode, RenameMode, SetAttr, SetTime, Volume, WriteMode};
use spin::{Mutex, Once};

use crate::inode::{Held, new_inode, trusted};
use vfs::{DirentVisitor, FallocateMode, FileSystem, FileType, FsError, FsInfo, INode, Metadata, Result, Timespec};

/// "SEFS" in the bytes of a number.
pub const MAGIC: usize = 0x5345_4653;
const DIR_BATCH: usize = 64;

/// A mounted volume. It stays usable beside: its owner calls [`Volume::work`] and closes it.
pub struct SefsFs(Arc<Volume>);

impl SefsFs {
    /// Puts an open volume behind the trait.
    pub fn new(volume: Arc<Volume>) -> Arc<SefsFs> {
        Arc::new(SefsFs(volume))
    }
}

impl FileSystem for SefsFs {
    fn sync(&self) -> Result<()> {
        self.0.sync().map_err(fs_error)
    }

    fn root_inode(&self) -> Arc<dyn INode> {
        SefsInode::wrapped(Held::root(&self.0))
    }

    fn info(&self) -> FsInfo {
        let stat = self.0.stat_fs();
        FsInfo {
            magic: MAGIC,
            bsize: stat.block_size as usize,
            frsize: stat.block_size as usize,
            blocks: size(stat.blocks),
            bfree: size(stat.blocks_free),
            bavail: size(stat.blocks_available),
            files: size(stat.inodes),
            ffree: size(stat.inodes_free),
            namemax: stat.name_max as usize,
        }
    }
}

/// An inode of a mounted volume.
pub struct SefsInode {
    volume: Arc<Volume>,
    held: Once<Held>,
    /// A symlink that has no target yet: the directory and the name that it will have.
    promise: Option<(InodeNo, Vec<u8>)>,
    /// Which entry `get_entry` told last, and where to go on after it.
    listed: Mutex<(usize, u64)>,
}

impl SefsInode {
    fn wrapped(held: Held) -> Arc<dyn INode> {
        let (volume, held) = (held.volume.clone(), Once::initialized(held));
        Arc::new(SefsInode { volume, held, promise: None, listed: Mutex::new((0, 0)) })
    }

    fn promised(dir: &Held, name: &[u8]) -> Arc<dyn INode> {
        let promise = Some((dir.ino, name.to_vec()));
        Arc::new(SefsInode { volume: dir.volume.clone(), held: Once::new(), promise, listed: Mutex::new((0, 0)) })
    }

    fn held(&self) -> Result<&Held> {
        self.held.get().ok_or(FsError::EntryNotFound)
    }

    /// Makes the symlink that was promised.
    fn keep_promise(&self, dir: InodeNo, name: &[u8], target: &[u8]) -> Result<usize> {
        let made = self.held.try_call_once(|| {
            let new = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target: target.to_vec() };
            let attr = self.volume.make(&trusted(), dir, name, &new)?;
            Held::new(&self.volume, attr.ino)
        });
        made.map(|_| target.len()).map_err(fs_error)
    }

    /// The entry with this number, counted from 0 with "." and "..". Asking for one after the other costs one look each.
    fn entry(&self, id: usize) -> Result<DirEntry> {
        let held = self.held()?;
        let (mut next, mut cookie) = match *self.listed.lock() {
            (next, cookie) if next <= id => (next, cookie),
            _ => (0, 0),
        };
        loop {
            let wanted = id - next;
            let entries = held.volume.read_dir(held.ino, cookie, (wanted + 1).min(DIR_BATCH)).map_err(fs_error)?;
            if let Some(entry) = entries.get(wanted) {
                *self.listed.lock() = (id + 1, entry.cookie);
                return Ok(entry.clone());
            }
            let last = entries.last().ok_or(FsError::EntryNotFound)?;
            next += entries.len();
            cookie = last.cookie;
        }
    }

    fn other<'a>(&self, other: &'a Arc<dyn INode>) -> Result<&'a Held> {
        let other = other.as_any_ref().downcast_ref::<SefsInode>().ok_or(FsError::NotSameFs)?.held()?;
        if self.held()?.same_volume(other) { Ok(other) } else { Err(FsError::NotSameFs) }
    }
}

impl INode for SefsInode {
    fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let held = self.held()?;
        match held.volume.read(held.ino, offset as u64, buf) {
            Err(Error::Posix(Posix::InvalidArgument)) if held.attr().map_err(fs_error)?.kind == FileKind::Symlink => {
                let target = held.volume.read_link(held.ino).map_err(fs_error)?;
                let rest = target.get(offset..).unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
            outcome => outcome.map_err(fs_error),
        }
    }

    fn write_at(&self, offset: usize, buf: &[u8]) -> Result<usize> {
        match &self.promise {
            Some((dir, name)) if self.held.get().is_none() && offset == 0 => self.keep_promise(*dir, name, buf),
            _ => self.held()?.write(offset as u64, buf, WriteMode::Direct).map_err(fs_error),
        }
    }

    fn metadata(&self) -> Result<Metadata> {
        self.held()?.attr().map(|attr| metadata(&attr)).map_err(fs_error)
    }

    fn set_metadata(&self, metadata: &Metadata) -> Result<()> {
        let change = SetAttr {
            mode: Some(u32::from(metadata.mode) & 0o7777),
            uid: Some(u32::try_from(metadata.uid).map_err(|_| FsError::InvalidParam)?),
            gid: Some(u32::try_from(metadata.gid).map_err(|_| FsError::InvalidParam)?),
            atime: Some(SetTime::At(timestamp(metadata.atime)?)),
            mtime: Some(SetTime::At(timestamp(metadata.mtime)?)),
            ctime: Some(timestamp(metadata.ctime)?),
            ..SetAttr::default()
        };
        self.held()?.change(&change).map_err(fs_error)
    }

    fn sync_all(&self) -> Result<()> {
        self.held()?.volume.sync().map_err(fs_error)
    }

    fn sync_data(&self) -> Result<()> {
        self.sync_all()
    }

    fn fallocate(&self, mode: &FallocateMode, offset: usize, len: usize) -> Result<()> {
        let mode = match *mode {
            FallocateMode::Allocate { keep_size } => AllocateMode::Allocate { keep_size },
            FallocateMode::PunchHole => AllocateMode::PunchHole,
            FallocateMode::ZeroRange { keep_size } => AllocateMode::ZeroRange { keep_size },
        };
        let held = self.held()?;
        held.volume.allocate(&trusted(), held.ino, offset as u64, len as u64, mode).map_err(fs_error)
    }

    fn resize(&self, len: usize) -> Result<()> {
        self.held()?.resize(len as u64).map_err(fs_error)
    }

    fn create(&self, name: &str, type_: FileType, mode: u16) -> Result<Arc<dyn INode>> {
        let held = self.held()?;
        if type_ == FileType::SymLink {
            return match held.volume.lookup(&trusted(), held.ino, name.as_bytes()) {
                Ok(_) => Err(FsError::EntryExist),
                Err(Error::Posix(Posix::NotFound)) => Ok(SefsInode::promised(held, name.as_bytes())),
                Err(error) => Err(fs_error(error)),
            };
        }
        let made = held.make(name.as_bytes(), &new_inode(kind(type_), mode, 0)).map_err(fs_error)?;
        Ok(SefsInode::wrapped(made))
    }

    fn link(&self, name: &str, other: &Arc<dyn INode>) -> Result<()> {
        let (dir, other) = (self.held()?, self.other(other)?);
        dir.volume.link(&trusted(), other.ino, dir.ino, name.as_bytes()).map(drop).map_err(fs_error)
    }

    fn unlink(&self, name: &str) -> Result<()> {
        self.held()?.remove(name.as_bytes()).map_err(fs_error)
    }

    fn move_(&self, old_name: &str, target: &Arc<dyn INode>, new_name: &str) -> Result<()> {
        let (from, to) = (self.held()?, self.other(target)?);
        let (old, new) = (old_name.as_bytes(), new_name.as_bytes());
        from.volume.rename(&trusted(), from.ino, old, to.ino, new, RenameMode::Replace).map_err(fs_error)
    }

    fn find(&self, name: &str) -> Result<Arc<dyn INode>> {
        Ok(SefsInode::wrapped(self.held()?.lookup(name.as_bytes()).map_err(fs_error)?))
    }

    fn get_entry(&self, id: usize) -> Result<String> {
        Ok(name_of(&self.entry(id)?))
    }

    fn get_entry_with_metadata(&self, id: usize) -> Result<(Metadata, String)> {
        let entry = self.entry(id)?;
        let attr = self.held()?.volume.attr(entry.ino).map_err(fs_error)?;
        Ok((metadata(&attr), name_of(&entry)))
    }

    fn iterate_entries(&self, offset: usize, visitor: &mut dyn DirentVisitor) -> Result<usize> {
        let held = self.held()?;
        let (mut cookie, mut count) = (offset as u64, 0);
        loop {
            let entries = held.volume.read_dir(held.ino, cookie, DIR_BATCH).map_err(fs_error)?;
            if entries.is_empty() {
                return Ok(count);
            }
            for entry in &entries {
                cookie = entry.cookie;
                match visitor.visit_entry(&name_of(entry), entry.ino.0, file_type(entry.kind), size(cookie)) {
                    Ok(()) => count += 1,
                    // A visitor whose buffer is full has what it took so far.
                    Err(_) if count > 0 => return Ok(count),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn list(&self) -> Result<Vec<String>> {
        struct Names(Vec<String>);
        impl DirentVisitor for Names {
            fn visit_entry(&mut self, name: &str, _: u64, _: FileType, _: usize) -> Result<()> {
                self.0.push(name.into());
                Ok(())
            }
        }
        let mut names = Names(Vec::new());
        self.iterate_entries(0, &mut names)?;
        Ok(names.0)
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        SefsFs::new(self.volume.clone())
    }

    fn as_any_ref(&self) -> &dyn Any {
        self
    }
}

/// Names are bytes; those that are no UTF-8 cannot be told through this trait, and get replacement characters.
fn name_of(entry: &DirEntry) -> String {
    String::from_utf8_lossy(&entry.name).into_owned()
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn metadata(attr: &Attr) -> Metadata {
    Metadata {
        dev: 0,
        inode: size(attr.ino.0),
        size: size(attr.size),
        blk_size: attr.blksize as usize,
        blocks: size(attr.blocks_512),
        atime: timespec(attr.atime),
        mtime: timespec(attr.mtime),
        ctime: timespec(attr.ctime),
        type_: file_type(attr.kind),
        mode: (attr.mode & 0o7777) as u16,
        nlinks: attr.links as usize,
        uid: attr.uid as usize,
        gid: attr.gid as usize,
        rdev: size(attr.rdev),
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { sec: time.seconds, nsec: i32::try_from(time.nanoseconds).unwrap_or(0) }
}

fn timestamp(time: Timespec) -> Result<Timestamp> {
    let nanoseconds = u32::try_from(time.nsec).ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000);
    Ok(Timestamp { seconds: time.sec, nanoseconds: nanoseconds.ok_or(FsError::InvalidParam)? })
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::File,
        FileKind::Directory => FileType::Dir,
        FileKind::Symlink => FileType::SymLink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::CharDevice => FileType::CharDevice,
    }
}

fn kind(type_: FileType) -> FileKind {
    match type_ {
        FileType::File => FileKind::Regular,
        FileType::Dir => FileKind::Directory,
        FileType::SymLink => FileKind::Symlink,
        FileType::NamedPipe => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::CharDevice => FileKind::CharDevice,
    }
}

/// A failure in the words of rcore-fs. That stored bytes are not authentic is never told as anything else.
fn fs_error(error: Error) -> FsError {
    match error {
        Error::Tampered(_) | Error::RolledBack(_) | Error::Corrupt(_) | Error::Malformed(_) => FsError::NoIntegrity,
        Error::Incompatible(_) | Error::WrongKey => FsError::WrongFs,
        Error::Latched(_) => FsError::WrProtected,
        Error::Invalid(_) => FsError::InvalidParam,
        Error::Posix(outcome) => posix(outcome),
        error if error.errno() == 28 => FsError::NoDeviceSpace,
        _ => FsError::DeviceError,
    }
}

fn posix(outcome: Posix) -> FsError {
    match outcome {
        Posix::NotFound | Posix::Stale | Posix::NoAttribute => FsError::EntryNotFound,
        Posix::Exists => FsError::EntryExist,
        Posix::NotDirectory => FsError::NotDir,
        Posix::IsDirectory => FsError::IsDir,
        Posix::NotEmpty => FsError::DirNotEmpty,
        Posix::NameTooLong => FsError::NameTooLong,
        Posix::NotPermitted | Posix::AccessDenied => FsError::PermError,
        Posix::NoSpace => FsError::NoDeviceSpace,
        Posix::ReadOnly => FsError::WrProtected,
        Posix::FileTooBig => FsError::FileTooBig,
        Posix::Busy => FsError::Busy,
        Posix::SymlinkLoop | Posix::TooManyLinks => FsError::SymLoop,
        Posix::NotSupported => FsError::NotSupported,
        _ => FsError::InvalidParam,
    }
}
