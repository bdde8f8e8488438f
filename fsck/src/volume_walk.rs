//! The walk over an open volume, for `debug.sefs commit`: what [`crate::source`] does for a directory of the host.
//!
//! *Invariants*: those of [`crate::source`]. Of the volume only its public interface is used, so that it may be of any kind.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use sefs::error::{Error, Posix};
use sefs::format::FileKind;
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, DirEntry, Seek, Volume};

use crate::listing::entries;
use crate::populate::PopulateError;
use crate::source::{Attributes, Entry, FileId, Item, READ_BYTES};

/// Walks the tree from the root and hands every step to `emit`, until it breaks; attributes and content only if they are wanted.
pub(crate) fn walk(
    volume: &Volume,
    contents: bool,
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<(), PopulateError> {
    let (path, stack) = (PathBuf::from("/"), Vec::new());
    let mut walk = Walk { volume, contents, emit, path, stack, seen: HashSet::new() };
    match walk.run() {
        Ok(()) | Err(Stop::Asked) => Ok(()),
        Err(Stop::Volume(error)) => Err(PopulateError::Original { path: walk.path, error }),
    }
}

enum Stop {
    Asked,
    Volume(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Volume(error)
    }
}

struct Walk<'a> {
    volume: &'a Volume,
    contents: bool,
    emit: &'a mut dyn FnMut(Item) -> ControlFlow<()>,
    /// What is being read.
    path: PathBuf,
    stack: Vec<std::vec::IntoIter<DirEntry>>,
    seen: HashSet<InodeNo>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let root = self.volume.attr(InodeNo::ROOT)?;
        self.enter(root, Vec::new())?;
        while let Some(directory) = self.stack.last_mut() {
            let Some(DirEntry { ino, name, .. }) = directory.next() else {
                self.stack.pop();
                self.path.pop();
                self.send(Item::Leave)?;
                continue;
            };
            self.path.push(OsStr::from_bytes(&name));
            let attr = self.volume.attr(ino)?;
            if attr.kind == FileKind::Directory {
                self.enter(attr, name)?;
            } else {
                self.leaf(attr, name)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn enter(&mut self, attr: Attr, name: Vec<u8>) -> Result<(), Stop> {
        // Whoever has the key can store a directory below itself, and the walk would never end.
        if !self.seen.insert(attr.ino) {
            return Err(Stop::Volume(Posix::SymlinkLoop.into()));
        }
        let found = entries(self.volume, attr.ino)?;
        self.stack.push(found.into_iter());
        let entry = self.entry(&attr, name)?;
        self.send(Item::Enter(entry))
    }

    fn leaf(&mut self, attr: Attr, name: Vec<u8>) -> Result<(), Stop> {
        if attr.links > 1 && !self.seen.insert(attr.ino) {
            return self.send(Item::Link { name, of: id_of(attr.ino) });
        }
        let mut entry = self.entry(&attr, name)?;
        match attr.kind {
            FileKind::Regular if self.contents => {
                self.send(Item::File(entry))?;
                self.content(attr.ino, attr.size)
            }
            FileKind::Regular => {
                entry.data_bytes = self.data_bytes(attr.ino, attr.size)?;
                self.send(Item::File(entry))
            }
            FileKind::Symlink => {
                let target = self.volume.read_link(attr.ino)?;
                self.send(Item::Symlink(entry, target))
            }
            _ => self.send(Item::Special(entry)),
        }
    }

    fn content(&mut self, ino: InodeNo, size: u64) -> Result<(), Stop> {
        let mut offset = 0;
        while let Some((start, end)) = self.next_data(ino, offset, size)? {
            offset = start;
            while offset < end {
                let stop = ((offset / READ_BYTES + 1) * READ_BYTES).min(end);
                let bytes = self.read(ino, offset, stop)?;
                if bytes.is_empty() {
                    return self.send(Item::End { size: offset });
                }
                let length = bytes.len() as u64;
                self.send(Item::Data { offset, bytes })?;
                offset += length;
            }
        }
        self.send(Item::End { size })
    }

    fn read(&self, ino: InodeNo, offset: u64, stop: u64) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; usize::try_from(stop - offset).unwrap_or(usize::MAX)];
        let count = self.volume.read(ino, offset, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn data_bytes(&self, ino: InodeNo, size: u64) -> Result<u64, Stop> {
        let (mut offset, mut data_bytes) = (0, 0);
        while let Some((start, end)) = self.next_data(ino, offset, size)? {
            data_bytes += end - start;
            offset = end;
        }
        Ok(data_bytes)
    }

    /// The next range of data at or after `offset` and below `size`; `None`: only a hole is left.
    fn next_data(&self, ino: InodeNo, offset: u64, size: u64) -> Result<Option<(u64, u64)>, Stop> {
        if offset >= size {
            return Ok(None);
        }
        let start = match self.volume.seek(ino, offset, Seek::Data) {
            Ok(start) => start,
            Err(Error::Posix(Posix::NoSuchOffset)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if start >= size {
            return Ok(None);
        }
        let end = self.volume.seek(ino, start, Seek::Hole)?.min(size);
        Ok((end > start).then_some((start, end)))
    }

    fn entry(&self, attr: &Attr, name: Vec<u8>) -> Result<Entry, Stop> {
        Ok(Entry {
            name,
            id: id_of(attr.ino),
            kind: attr.kind,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            data_bytes: attr.size,
            links: attr.links.into(),
            rdev: attr.rdev,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: Some(attr.ctime),
            btime: Some(attr.btime),
            xattrs: if self.contents { self.xattrs(attr.ino)? } else { Vec::new() },
        })
    }

    fn xattrs(&self, ino: InodeNo) -> Result<Attributes, Stop> {
        let root = Caller::root();
        let mut found = Vec::new();
        for name in self.volume.list_xattr(&root, ino)? {
            let value = self.volume.get_xattr(&root, ino, &name)?;
            found.push((name, value));
        }
        Ok(found)
    }

    fn send(&mut self, item: Item) -> Result<(), Stop> {
        match (self.emit)(item) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Asked),
        }
    }
}

fn id_of(ino: InodeNo) -> FileId {
    FileId { device: 0, inode: ino.0 }
}
