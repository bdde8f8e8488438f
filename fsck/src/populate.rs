//! Fills a fresh volume from a tree: `mkfs.sefs --from`, `--from-tar`, `--from-oci`.
//!
//! One thread reads the tree ([`crate::origin`]) and is a few pieces ahead of the other, which writes the volume.
//!
//! *Invariants*: a directory gets its owner, mode, attributes and times when its entries are in, so that neither its times
//! nor an inherited ACL or group touch what the source says. A file's attributes are set after its data, for writing
//! clears some of them.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use sefs::error::{Error, Posix};
use sefs::format::FileKind;
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, NewInode, SetAttr, SetTime, Volume, WriteMode, XattrMode};

use crate::names::escaped;
use crate::origin::Origin;
use crate::source::{Entry, FileId, Item, Unreadable};

/// What a tree holds, found without reading its contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Regular files, each counted once however many names it has.
    pub files: u64,
    /// Inodes of all kinds.
    pub inodes: u64,
    /// Bytes of data that will be read.
    pub data_bytes: u64,
    /// Bytes of whole blocks that the data take in the volume.
    pub block_bytes: u64,
    /// Bytes of records that the rest takes, at the least.
    pub record_bytes: u64,
}

/// What was copied, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Fifos, sockets and device nodes.
    pub specials: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// Entries left out because they cannot be read.
    pub skipped: u64,
    /// Extended attributes that a volume cannot hold.
    pub xattrs_skipped: u64,
}

/// What happens during [`populate`].
pub enum Step<'a> {
    /// The counts so far.
    Progress(&'a Counts),
    /// Something was left out: one line.
    Warning(String),
}

/// Why a volume was not filled.
#[derive(Debug)]
pub enum PopulateError {
    /// Something of the source cannot be read.
    Source(Unreadable),
    /// The volume is too small.
    NoSpace,
    /// The volume refused something.
    Volume {
        /// What was being copied.
        path: PathBuf,
        /// Why it failed.
        error: Error,
    },
    /// Something of a volume that is the source cannot be read.
    Original {
        /// What was being read.
        path: PathBuf,
        /// Why it failed.
        error: Error,
    },
    /// `stop` was set.
    Interrupted,
}

impl fmt::Display for PopulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PopulateError::Source(what) => what.fmt(f),
            PopulateError::NoSpace => f.write_str("no space left in the volume"),
            PopulateError::Volume { path, error } => write!(f, "cannot store {}: {error}", shown(path)),
            PopulateError::Original { path, error } => write!(f, "cannot read {}: {error}", shown(path)),
            PopulateError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl Survey {
    /// A volume with fewer bytes than this free cannot hold the tree.
    pub fn least_bytes(&self) -> u64 {
        self.block_bytes.saturating_add(self.record_bytes)
    }

    /// Counts one step of a walk.
    pub fn count(&mut self, item: &Item) {
        match item {
            Item::Enter(entry) | Item::Special(entry) => self.inode(&entry.name),
            Item::Symlink(entry, target) => {
                self.inode(&entry.name);
                self.records(24 + target.len() as u64);
            }
            Item::Link { name, .. } => self.records(ENTRY_BYTES + name.len() as u64),
            Item::File(entry) => {
                self.inode(&entry.name);
                self.files += 1;
                self.data(entry.size, entry.data_bytes);
            }
            _ => {}
        }
    }

    /// A size for a volume that holds the tree with a quarter of headroom; at least 64 MiB, whole MiB.
    pub fn size_bytes(&self) -> u64 {
        // Tree nodes are on average not full, attributes were not counted, and log and reserve take their share.
        let content = self.block_bytes.saturating_add(self.record_bytes.saturating_mul(2));
        let size = content.saturating_add(content / 4).saturating_add(FIXED_BYTES);
        size.max(LEAST_SIZE_BYTES).div_ceil(MIB).saturating_mul(MIB)
    }
}

/// Looks at the whole tree once. What cannot be read ends it, unless the origin says to skip.
pub(crate) fn survey(origin: &Origin<'_>, stop: &AtomicBool) -> Result<Survey, PopulateError> {
    let mut found = Survey::default();
    origin.walk(false, &mut |item| {
        found.count(&item);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if stop.load(Ordering::Relaxed) { Err(PopulateError::Interrupted) } else { Ok(found) }
}

/// Copies the tree into the root directory of `volume`, which must be empty.
pub(crate) fn populate(
    volume: &Volume,
    origin: &Origin<'_>,
    stop: &AtomicBool,
    on: &mut dyn FnMut(Step<'_>),
) -> Result<Counts, PopulateError> {
    let mut counts = feed(origin, stop, |items| populate_from(volume, origin.name(), items, stop, on))?;
    counts.skipped += origin.left_out();
    Ok(counts)
}

/// Walks the tree in a thread of its own, a few pieces ahead of `consume`.
pub(crate) fn feed<T>(
    origin: &Origin<'_>,
    stop: &AtomicBool,
    consume: impl FnOnce(Receiver<Item>) -> Result<T, PopulateError>,
) -> Result<T, PopulateError> {
    let (sender, receiver) = sync_channel(ITEMS_AHEAD);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let sender = sender;
            // A send fails only when the writer has given up; its error is the one that counts.
            origin.walk(true, &mut |item| match sender.send(item) {
                Ok(()) if !stop.load(Ordering::Relaxed) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            })
        });
        let written = consume(receiver);
        let read = match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (written, read) {
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(())) if stop.load(Ordering::Relaxed) => Err(PopulateError::Interrupted),
            (Ok(consumed), Ok(())) => Ok(consumed),
        }
    })
}

/// The same from steps of a walk, whoever made them. `root` is for messages only. Names, attributes and contents may be
/// anything; the steps follow one another as the invariants of [`crate::source`] say.
pub fn populate_from(
    volume: &Volume,
    root: &Path,
    items: impl IntoIterator<Item = Item>,
    stop: &AtomicBool,
    on: &mut dyn FnMut(Step<'_>),
) -> Result<Counts, PopulateError> {
    Writer::new(volume, root, stop, on).run(items)
}

const MIB: u64 = 1 << 20;
const LEAST_SIZE_BYTES: u64 = 64 * MIB;
/// Log, reserve, header and its replica.
const FIXED_BYTES: u64 = 24 * MIB;
/// Pieces of at most 1 MiB that the reader may be ahead.
const ITEMS_AHEAD: usize = 16;
/// Inode, its key and its place in a node.
const INODE_BYTES: u64 = 24 + 184;
const ENTRY_BYTES: u64 = 24 + 10;
/// A chunk record covers 64 blocks; its tags take 16 bytes for each.
const CHUNK_BYTES: u64 = 24 + 40 + 32;
const TAG_BYTES: u64 = 16;
const BLOCK_BYTES: u64 = sefs::types::BLOCK_SIZE_U64;
const CHUNK_BLOCKS: u64 = sefs::types::CHUNK_BLOCKS;
/// Content up to this length stands in a record of its own.
const INLINE_BYTES: u64 = 2048;

impl Survey {
    fn inode(&mut self, name: &[u8]) {
        self.inodes += 1;
        self.records(INODE_BYTES + ENTRY_BYTES + name.len() as u64);
    }

    fn records(&mut self, bytes: u64) {
        self.record_bytes = self.record_bytes.saturating_add(bytes);
    }

    fn data(&mut self, size: u64, data_bytes: u64) {
        self.data_bytes = self.data_bytes.saturating_add(data_bytes);
        if size <= INLINE_BYTES {
            self.records(24 + size);
            return;
        }
        let blocks = data_bytes.div_ceil(BLOCK_BYTES);
        self.block_bytes = self.block_bytes.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
        self.records(blocks.div_ceil(CHUNK_BLOCKS) * CHUNK_BYTES + blocks * TAG_BYTES);
    }
}

/// A file whose data are coming in.
struct OpenFile {
    ino: InodeNo,
    made: Attr,
    entry: Entry,
    end: u64,
}

struct Directory {
    ino: InodeNo,
    made: Attr,
    entry: Entry,
}

struct Writer<'a> {
    volume: &'a Volume,
    stop: &'a AtomicBool,
    on: &'a mut dyn FnMut(Step<'_>),
    /// For messages only.
    path: PathBuf,
    directories: Vec<Directory>,
    file: Option<OpenFile>,
    /// Files with more than one name.
    links: HashMap<FileId, InodeNo>,
    counts: Counts,
}

impl<'a> Writer<'a> {
    fn new(volume: &'a Volume, root: &Path, stop: &'a AtomicBool, on: &'a mut dyn FnMut(Step<'_>)) -> Writer<'a> {
        let path = root.to_path_buf();
        let (directories, links) = (Vec::new(), HashMap::new());
        Writer { volume, stop, on, path, directories, file: None, links, counts: Counts::default() }
    }

    fn run(mut self, items: impl IntoIterator<Item = Item>) -> Result<Counts, PopulateError> {
        for item in items {
            if self.stop.load(Ordering::Relaxed) {
                return Err(PopulateError::Interrupted);
            }
            self.apply(item)?;
            (self.on)(Step::Progress(&self.counts));
        }
        Ok(self.counts)
    }

    fn apply(&mut self, item: Item) -> Result<(), PopulateError> {
        match item {
            Item::Enter(entry) => self.enter(entry),
            Item::Leave => self.leave(),
            Item::File(entry) => self.begin_file(entry),
            Item::Data { offset, bytes } => self.data(offset, &bytes),
            Item::End { size } => self.end_file(size),
            Item::Abort(what) => self.abort_file(&what),
            Item::Symlink(entry, target) => self.node(entry, target),
            Item::Special(entry) => self.node(entry, Vec::new()),
            Item::Link { name, of } => self.link(&name, of),
            Item::Skipped(what) => {
                self.counts.skipped += 1;
                self.warn(format!("{what}; left out"));
                Ok(())
            }
            Item::Excluded(path) => {
                self.warn(format!("{} is the image itself; left out", shown(&path)));
                Ok(())
            }
        }
    }

    fn enter(&mut self, entry: Entry) -> Result<(), PopulateError> {
        let made = if self.directories.is_empty() {
            self.volume.attr(InodeNo::ROOT).map_err(|error| self.failed(&[], error))?
        } else {
            // Whoever owns it and whatever it inherits comes when its entries are in.
            self.make(&entry, 0o700, Vec::new())?
        };
        if !entry.name.is_empty() {
            self.path.push(std::ffi::OsStr::from_bytes(&entry.name));
        }
        self.directories.push(Directory { ino: made.ino, made, entry });
        self.counts.directories += 1;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), PopulateError> {
        let Directory { ino, made, entry } = self.directories.pop().expect("the walk leaves what it entered");
        self.finish(ino, &made, &entry, &[])?;
        if !entry.name.is_empty() {
            self.path.pop();
        }
        Ok(())
    }

    fn begin_file(&mut self, entry: Entry) -> Result<(), PopulateError> {
        let made = self.make(&entry, entry.mode, Vec::new())?;
        self.file = Some(OpenFile { ino: made.ino, made, entry, end: 0 });
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), PopulateError> {
        let file = self.file.as_mut().expect("data follow their file");
        let (caller, mut done) = (Caller::root(), 0);
        while done < bytes.len() {
            let at = offset + done as u64;
            let written = self.volume.write(&caller, file.ino, at, &bytes[done..], WriteMode::Direct);
            match written {
                Ok(count) if count > 0 => done += count,
                Ok(_) => return Err(PopulateError::NoSpace),
                Err(error) => {
                    return Err(failure(self.path.join(std::ffi::OsStr::from_bytes(&file.entry.name)), error));
                }
            }
        }
        file.end = offset + bytes.len() as u64;
        self.counts.bytes += bytes.len() as u64;
        Ok(())
    }

    fn end_file(&mut self, size: u64) -> Result<(), PopulateError> {
        let file = self.file.take().expect("an end follows its file");
        if size != file.entry.size {
            let path = self.path.join(std::ffi::OsStr::from_bytes(&file.entry.name));
            self.warn(format!("{} became shorter while it was read; stored as it was found", shown(&path)));
        }
        if size > file.end {
            let change = SetAttr { size: Some(size), ..SetAttr::default() };
            self.volume
                .set_attr(&Caller::root(), file.ino, &change)
                .map_err(|error| self.failed(&file.entry.name, error))?;
        }
        self.finish(file.ino, &file.made, &file.entry, &file.entry.name)?;
        self.remember(&file.entry, file.ino);
        self.counts.files += 1;
        Ok(())
    }

    fn abort_file(&mut self, what: &Unreadable) -> Result<(), PopulateError> {
        let file = self.file.take().expect("an abort follows its file");
        let dir = self.directory();
        self.volume
            .unlink(&Caller::root(), dir, &file.entry.name)
            .map_err(|error| self.failed(&file.entry.name, error))?;
        self.counts.skipped += 1;
        self.warn(format!("{what}; left out"));
        Ok(())
    }

    fn node(&mut self, entry: Entry, target: Vec<u8>) -> Result<(), PopulateError> {
        let made = self.make(&entry, entry.mode, target)?;
        self.finish(made.ino, &made, &entry, &entry.name)?;
        self.remember(&entry, made.ino);
        match entry.kind {
            FileKind::Symlink => self.counts.symlinks += 1,
            _ => self.counts.specials += 1,
        }
        Ok(())
    }

    fn link(&mut self, name: &[u8], of: FileId) -> Result<(), PopulateError> {
        let ino = *self.links.get(&of).expect("the walk names a file before it links to it");
        let dir = self.directory();
        self.volume.link(&Caller::root(), ino, dir, name).map_err(|error| self.failed(name, error))?;
        self.counts.hard_links += 1;
        Ok(())
    }

    fn make(&mut self, entry: &Entry, mode: u32, target: Vec<u8>) -> Result<Attr, PopulateError> {
        let owner = Caller { uid: entry.uid, gid: entry.gid, ..Caller::root() };
        let new = NewInode { kind: entry.kind, mode, rdev: entry.rdev, target };
        let dir = self.directory();
        self.volume.make(&owner, dir, &entry.name, &new).map_err(|error| self.failed(&entry.name, error))
    }

    /// Owner, attributes, mode and times, in the order in which none of them undoes another.
    fn finish(&mut self, ino: InodeNo, made: &Attr, entry: &Entry, name: &[u8]) -> Result<(), PopulateError> {
        let root = Caller::root();
        if (made.uid, made.gid) != (entry.uid, entry.gid) {
            let owner = SetAttr { uid: Some(entry.uid), gid: Some(entry.gid), ..SetAttr::default() };
            self.volume.set_attr(&root, ino, &owner).map_err(|error| self.failed(name, error))?;
        }
        for (attribute, value) in &entry.xattrs {
            match self.volume.set_xattr(&root, ino, attribute, value, XattrMode::Any) {
                Ok(()) => self.counts.xattrs += 1,
                Err(Error::Posix(Posix::NotSupported | Posix::NotPermitted | Posix::TooLong | Posix::NameTooLong)) => {
                    self.counts.xattrs_skipped += 1;
                    let path = self.path.join(std::ffi::OsStr::from_bytes(name));
                    self.warn(format!("{}: attribute {} cannot be stored; left out", shown(&path), escaped(attribute)));
                }
                Err(error) => return Err(self.failed(name, error)),
            }
        }
        let last = SetAttr {
            mode: (entry.kind != FileKind::Symlink).then_some(entry.mode),
            atime: Some(SetTime::At(entry.atime)),
            mtime: Some(SetTime::At(entry.mtime)),
            ctime: entry.ctime,
            btime: entry.btime,
            ..SetAttr::default()
        };
        self.volume.set_attr(&root, ino, &last).map(drop).map_err(|error| self.failed(name, error))
    }

    fn remember(&mut self, entry: &Entry, ino: InodeNo) {
        if entry.links > 1 {
            self.links.insert(entry.id, ino);
        }
    }

    fn directory(&self) -> InodeNo {
        self.directories.last().expect("entries stand in a directory").ino
    }

    fn warn(&mut self, line: String) {
        (self.on)(Step::Warning(line));
    }

    fn failed(&self, name: &[u8], error: Error) -> PopulateError {
        failure(
            if name.is_empty() { self.path.clone() } else { self.path.join(std::ffi::OsStr::from_bytes(name)) },
            error,
        )
    }
}

fn failure(path: PathBuf, error: Error) -> PopulateError {
    match error {
        Error::Posix(Posix::NoSpace) => PopulateError::NoSpace,
        error => PopulateError::Volume { path, error },
    }
}

fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tree_still_gets_64_mib() {
        assert_eq!(Survey::default().size_bytes(), LEAST_SIZE_BYTES);
    }

    #[test]
    fn a_large_tree_gets_a_quarter_more() {
        let mut survey = Survey::default();
        survey.data(1 << 30, 1 << 30);
        let size = survey.size_bytes();
        assert!(((1 << 30) * 5 / 4..(1 << 30) * 4 / 3).contains(&size), "{size}");
        assert_eq!(size % MIB, 0);
    }

    #[test]
    fn holes_and_tiny_files_take_no_blocks() {
        let mut survey = Survey::default();
        survey.data(1 << 40, 8192);
        survey.data(100, 100);
        assert_eq!((survey.block_bytes, survey.data_bytes), (8192, 8292));
    }
}
