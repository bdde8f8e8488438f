//! A volume addressed by paths, for tests that tell a story.

use std::sync::Arc;

use sefs::backend::Backend;
use sefs::error::{Error, Posix, Result};
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, FileKind, NewInode, NewLower, OpenOptions, RenameMode, SetAttr, Volume, WriteMode};

use crate::recorder::Recorder;
use crate::world::{World, small_memory};

/// A mounted volume and what it stands on.
pub struct Play {
    /// The volume.
    pub volume: Volume,
    /// Its disk.
    pub disk: Recorder,
    /// Its clock and the rest.
    pub world: World,
    options: OpenOptions,
}

impl Play {
    /// A fresh volume of this size with little memory.
    pub fn new(size_bytes: u64) -> Play {
        let world = World::new(size_bytes ^ 0x9117);
        let disk = Recorder::plain(world.format(size_bytes));
        let options = small_memory();
        let volume = world.open(Arc::new(disk.clone()), &options).expect("opening a fresh volume");
        Play { volume, disk, world, options }
    }

    /// The same over images.
    pub fn over(size_bytes: u64, lowers: &[NewLower]) -> Play {
        let mut world = World::new(size_bytes ^ 0x9117);
        let disk = Recorder::plain(world.format_over(size_bytes, lowers));
        let options = small_memory();
        let volume = world.open(Arc::new(disk.clone()), &options).expect("opening a fresh volume");
        Play { volume, disk, world, options }
    }

    /// Closes the volume and opens it again.
    pub fn remount(self) -> Play {
        let Play { volume, disk, world, options } = self;
        volume.close().expect("closing");
        world.check(Arc::new(disk.clone()), &options, "after a close");
        let volume = world.open(Arc::new(disk.clone()) as Arc<dyn Backend>, &options).expect("opening again");
        Play { volume, disk, world, options }
    }

    /// Loses what is only in memory and opens the volume again.
    pub fn crash(self) -> Play {
        let Play { volume, disk, world, options } = self;
        drop(volume);
        world.check(Arc::new(disk.clone()), &options, "after a crash");
        let volume = world.open(Arc::new(disk.clone()) as Arc<dyn Backend>, &options).expect("opening after a crash");
        Play { volume, disk, world, options }
    }

    /// Sets the time of all that follows.
    pub fn at(&self, seconds: i64) -> &Play {
        self.world.clock.set(seconds);
        self
    }

    /// The inode that a path leads to, symlinks not followed. The empty path is the root.
    pub fn find(&self, path: &str) -> Result<Attr> {
        let mut attr = self.volume.attr(InodeNo::ROOT)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.volume.lookup(&Caller::root(), attr.ino, name.as_bytes())?;
        }
        Ok(attr)
    }

    /// The inode's number; the path must exist.
    pub fn ino(&self, path: &str) -> InodeNo {
        self.stat(path).ino
    }

    /// The attributes; the path must exist.
    pub fn stat(&self, path: &str) -> Attr {
        self.find(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The directory and the name of a path.
    pub fn split<'a>(&self, path: &'a str) -> (InodeNo, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.ino(dir), name.as_bytes())
    }

    /// Makes an inode.
    pub fn make_as(&self, caller: &Caller, path: &str, kind: FileKind, mode: u32) -> Result<Attr> {
        let (dir, name) = self.split(path);
        let target = if kind == FileKind::Symlink { b"target".to_vec() } else { Vec::new() };
        self.volume.make(caller, dir, name, &NewInode { kind, mode, rdev: 0, target })
    }

    /// Makes a regular file.
    pub fn file(&self, path: &str) -> InodeNo {
        self.make_as(&Caller::root(), path, FileKind::Regular, 0o644)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .ino
    }

    /// Makes a directory.
    pub fn dir(&self, path: &str) -> InodeNo {
        self.make_as(&Caller::root(), path, FileKind::Directory, 0o755)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .ino
    }

    /// Makes any other inode.
    pub fn other(&self, path: &str, kind: FileKind) -> InodeNo {
        self.make_as(&Caller::root(), path, kind, 0o644).unwrap_or_else(|error| panic!("{path}: {error}")).ino
    }

    /// Writes.
    pub fn write(&self, ino: InodeNo, offset: u64, data: &[u8]) -> Result<usize> {
        self.volume.write(&Caller::root(), ino, offset, data, WriteMode::Direct)
    }

    /// Writes all of it; it must work.
    pub fn put(&self, ino: InodeNo, offset: u64, data: &[u8]) {
        let count = self.write(ino, offset, data).unwrap_or_else(|error| panic!("writing {ino} at {offset}: {error}"));
        assert_eq!(count, data.len());
    }

    /// Reads up to `len` bytes.
    pub fn get(&self, ino: InodeNo, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0xee; len];
        let count = self.volume.read(ino, offset, &mut out).unwrap_or_else(|error| panic!("reading {ino}: {error}"));
        out.truncate(count);
        out
    }

    /// Changes attributes.
    pub fn set_as(&self, caller: &Caller, path: &str, change: SetAttr) -> Result<Attr> {
        self.volume.set_attr(caller, self.ino(path), &change)
    }

    /// Sets a size; it must work.
    pub fn truncate(&self, ino: InodeNo, size: u64) {
        let change = SetAttr { size: Some(size), ..SetAttr::default() };
        self.volume.set_attr(&Caller::root(), ino, &change).unwrap_or_else(|error| panic!("truncating {ino}: {error}"));
    }

    /// Removes a name.
    pub fn unlink_as(&self, caller: &Caller, path: &str) -> Result<()> {
        let (dir, name) = self.split(path);
        self.volume.unlink(caller, dir, name)
    }

    /// Removes a name.
    pub fn unlink(&self, path: &str) -> Result<()> {
        self.unlink_as(&Caller::root(), path)
    }

    /// Removes a directory.
    pub fn rmdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.split(path);
        self.volume.rmdir(&Caller::root(), dir, name)
    }

    /// Renames.
    pub fn rename_as(&self, caller: &Caller, from: &str, to: &str, mode: RenameMode) -> Result<()> {
        let ((from_dir, from_name), (to_dir, to_name)) = (self.split(from), self.split(to));
        self.volume.rename(caller, from_dir, from_name, to_dir, to_name, mode)
    }

    /// Renames.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_as(&Caller::root(), from, to, RenameMode::Replace)
    }

    /// Links.
    pub fn link(&self, from: &str, to: &str) -> Result<Attr> {
        let (dir, name) = self.split(to);
        self.volume.link(&Caller::root(), self.ino(from), dir, name)
    }

    /// Lets the background finish what it has to do, however long that takes.
    pub fn settle(&self) {
        let now = self.world.clock.seconds();
        for _ in 0..200 {
            self.world.clock.set(self.world.clock.seconds() + 10);
            self.volume.work(true).expect("background work on a healthy disk");
        }
        self.volume.sync().expect("sync on a healthy disk");
        self.world.clock.set(now);
    }

    /// Inodes in use.
    pub fn inodes(&self) -> u64 {
        let stat = self.volume.stat_fs();
        stat.inodes - stat.inodes_free
    }

    /// Whether an inode is gone, as far as anybody can tell: its number leads nowhere, or to what no name leads to.
    pub fn is_gone(&self, ino: InodeNo) -> bool {
        match self.volume.attr(ino) {
            Ok(attr) => attr.links == 0,
            Err(error) => matches!(error, Error::Posix(Posix::Stale | Posix::NotFound)),
        }
    }
}

/// The POSIX outcome of a call that should be refused.
pub fn refused<T: core::fmt::Debug>(result: Result<T>) -> Posix {
    match result {
        Err(Error::Posix(outcome)) => outcome,
        other => panic!("should be refused with an errno, is {other:?}"),
    }
}
