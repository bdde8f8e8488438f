//! Fills a packed image from the steps of a walk, and lists what went in: `mkfs.sefs --read-only`.
//!
//! *Invariants*: the manifest says what will be read from the image, not what the source said: an attribute that cannot be
//! stored is on neither. Of an inode's names the first in the order of paths is the one that has the record, as for a manifest
//! that is made by reading the image.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sefs::error::{Error, Posix};
use sefs::format::FileKind;
use sefs::pack::{NewEntry, Packer};
use sefs::types::{InodeNo, Timestamp};
use sefs_manifest::{Digest, Manifest, Record, digest_of_attributes};
use sha2::Digest as _;

use crate::manifests::{hard_link, kind_of};
use crate::names::escaped;
use crate::populate::{Counts, PopulateError, Step};
use crate::source::{Entry, FileId, Item, Unreadable};

/// Which times an image gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Times {
    /// The source's, and this one for what the source does not have.
    Source {
        /// The time of building.
        now: Timestamp,
    },
    /// All four are the time of the last change, but none is later than this.
    Clamped {
        /// The latest.
        latest: Timestamp,
    },
}

/// What went in.
pub(crate) struct Contents {
    pub(crate) counts: Counts,
    pub(crate) manifest: Manifest,
}

/// Stores what the steps say. `root` is for messages only.
pub(crate) fn pack_from(
    packer: &mut Packer,
    root: &Path,
    items: impl IntoIterator<Item = Item>,
    times: Times,
    stop: &AtomicBool,
    on: &mut dyn FnMut(Step<'_>),
) -> Result<Contents, PopulateError> {
    let mut packing = Packing {
        packer,
        times,
        on,
        path: root.to_path_buf(),
        inside: Vec::new(),
        directories: Vec::new(),
        file: None,
        links: HashMap::new(),
        records: BTreeMap::new(),
        counts: Counts::default(),
    };
    for item in items {
        if stop.load(Ordering::Relaxed) {
            return Err(PopulateError::Interrupted);
        }
        packing.apply(item)?;
        (packing.on)(Step::Progress(&packing.counts));
    }
    packing.finish()
}

/// A file whose data are coming in.
struct OpenFile {
    ino: InodeNo,
    entry: Entry,
    attributes: Digest,
    hash: sha2::Sha256,
    hashed: u64,
}

/// An inode's record under its first name, and its other names.
struct Listed {
    record: Record,
    others: Vec<Vec<u8>>,
}

struct Packing<'a, 'p> {
    packer: &'p mut Packer,
    times: Times,
    on: &'a mut dyn FnMut(Step<'_>),
    /// For messages only.
    path: PathBuf,
    /// The path in the image of the directory that is being filled.
    inside: Vec<u8>,
    directories: Vec<(InodeNo, usize)>,
    file: Option<OpenFile>,
    links: HashMap<FileId, InodeNo>,
    records: BTreeMap<u64, Listed>,
    counts: Counts,
}

/// Zeros that stand for holes in a digest of content.
static ZEROS: [u8; 65_536] = [0; 65_536];

impl Packing<'_, '_> {
    fn apply(&mut self, item: Item) -> Result<(), PopulateError> {
        match item {
            Item::Enter(entry) => self.enter(&entry),
            Item::Leave => {
                self.leave();
                Ok(())
            }
            Item::File(entry) => self.begin_file(entry),
            Item::Data { offset, bytes } => self.data(offset, &bytes),
            Item::End { size } => self.end_file(size),
            Item::Abort(what) => self.abort_file(&what),
            Item::Symlink(entry, target) => self.node(&entry, target),
            Item::Special(entry) => self.node(&entry, Vec::new()),
            Item::Link { name, of } => self.link(&name, of),
            Item::Skipped(what) => {
                self.counts.skipped += 1;
                self.warn(format!("{what}; left out"));
                Ok(())
            }
            Item::Excluded(path) => {
                self.warn(format!("{} is the image itself; left out", escaped(path.as_os_str().as_bytes())));
                Ok(())
            }
        }
    }

    fn enter(&mut self, entry: &Entry) -> Result<(), PopulateError> {
        let new = self.new_entry(entry, Vec::new());
        let made = match self.directories.last() {
            None => self.packer.make_root(&new),
            Some((dir, _)) => self.packer.make(*dir, &entry.name, &new),
        };
        let ino = made.map_err(|error| self.failed(&entry.name, error))?;
        let attributes = self.attributes(ino, entry)?;
        let path = self.inside_path(&entry.name);
        self.list(ino, self.record(path.clone(), entry, attributes));
        self.directories.push((ino, self.inside.len()));
        self.inside = path;
        if !entry.name.is_empty() {
            self.path.push(OsStr::from_bytes(&entry.name));
        }
        self.counts.directories += 1;
        Ok(())
    }

    fn leave(&mut self) {
        let (_, length) = self.directories.pop().expect("the walk leaves what it entered");
        self.inside.truncate(length);
        if !self.directories.is_empty() {
            self.path.pop();
        }
    }

    fn begin_file(&mut self, entry: Entry) -> Result<(), PopulateError> {
        let ino = self.make(&entry, Vec::new())?;
        let attributes = self.attributes(ino, &entry)?;
        self.file = Some(OpenFile { ino, entry, attributes, hash: sha2::Sha256::new(), hashed: 0 });
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), PopulateError> {
        let file = self.file.as_mut().expect("data follow their file");
        file.hash_zeros_to(offset);
        file.hash.update(bytes);
        file.hashed = offset + bytes.len() as u64;
        let (ino, written) = (file.ino, self.packer.write(file.ino, offset, bytes));
        debug_assert!(ino.0 > 0, "files have numbers");
        self.counts.bytes += bytes.len() as u64;
        written.map_err(|error| self.failed_in_file(error))
    }

    fn end_file(&mut self, size: u64) -> Result<(), PopulateError> {
        let ended = self.file.as_ref().map(|file| self.packer.end_file(file.ino, size));
        if let Some(Err(error)) = ended {
            return Err(self.failed_in_file(error));
        }
        let mut file = self.file.take().expect("an end follows its file");
        if size != file.entry.size {
            let path = self.path.join(OsStr::from_bytes(&file.entry.name));
            let path = escaped(path.as_os_str().as_bytes());
            self.warn(format!("{path} became shorter while it was read; stored as it was found"));
        }
        file.hash_zeros_to(size);
        let mut record = self.record(self.inside_path(&file.entry.name), &file.entry, file.attributes);
        (record.size, record.content) = (size, file.hash.finalize().into());
        self.list(file.ino, record);
        self.remember(&file.entry, file.ino);
        self.counts.files += 1;
        Ok(())
    }

    fn abort_file(&mut self, what: &Unreadable) -> Result<(), PopulateError> {
        let file = self.file.take().expect("an abort follows its file");
        self.packer.abandon_file(file.ino).map_err(|error| self.failed(&file.entry.name, error))?;
        self.counts.skipped += 1;
        self.warn(format!("{what}; left out"));
        Ok(())
    }

    fn node(&mut self, entry: &Entry, target: Vec<u8>) -> Result<(), PopulateError> {
        let ino = self.make(entry, target.clone())?;
        let attributes = self.attributes(ino, entry)?;
        let record = Record { target, ..self.record(self.inside_path(&entry.name), entry, attributes) };
        self.list(ino, record);
        self.remember(entry, ino);
        match entry.kind {
            FileKind::Symlink => self.counts.symlinks += 1,
            _ => self.counts.specials += 1,
        }
        Ok(())
    }

    fn link(&mut self, name: &[u8], of: FileId) -> Result<(), PopulateError> {
        let ino = *self.links.get(&of).expect("the walk names a file before it links to it");
        let dir = self.directory();
        self.packer.link(dir, name, ino).map_err(|error| self.failed(name, error))?;
        let path = self.inside_path(name);
        if let Some(listed) = self.records.get_mut(&ino.0) {
            listed.others.push(path);
        }
        self.counts.hard_links += 1;
        Ok(())
    }

    fn finish(self) -> Result<Contents, PopulateError> {
        let mut records = Vec::with_capacity(self.records.len());
        for Listed { mut record, others } in self.records.into_values() {
            let mut names = others;
            names.push(std::mem::take(&mut record.path));
            names.sort_unstable();
            let mut names = names.into_iter();
            record.path = names.next().unwrap_or_default();
            records.extend(names.map(|name| hard_link(name, record.path.clone())));
            records.push(record);
        }
        let path = self.path;
        let manifest = Manifest::new(records)
            .map_err(|_| PopulateError::Volume { path, error: Error::Posix(Posix::InvalidArgument) })?;
        Ok(Contents { counts: self.counts, manifest })
    }

    fn make(&mut self, entry: &Entry, target: Vec<u8>) -> Result<InodeNo, PopulateError> {
        let new = self.new_entry(entry, target);
        let dir = self.directory();
        self.packer.make(dir, &entry.name, &new).map_err(|error| self.failed(&entry.name, error))
    }

    fn new_entry(&self, entry: &Entry, target: Vec<u8>) -> NewEntry {
        let (atime, mtime, ctime, btime) = match self.times {
            Times::Source { now } => (entry.atime, entry.mtime, entry.ctime.unwrap_or(now), entry.btime.unwrap_or(now)),
            Times::Clamped { latest } => {
                let time = entry.mtime.min(latest);
                (time, time, time, time)
            }
        };
        NewEntry {
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            rdev: entry.rdev,
            atime,
            mtime,
            ctime,
            btime,
            target,
        }
    }

    /// Stores the attributes, and returns the digest of those that an image can hold. Their order is not the source's: it
    /// says nothing, and decides nothing.
    fn attributes(&mut self, ino: InodeNo, entry: &Entry) -> Result<Digest, PopulateError> {
        let mut sorted: Vec<&(Vec<u8>, Vec<u8>)> = entry.xattrs.iter().collect();
        sorted.sort_unstable();
        let mut stored = Vec::with_capacity(sorted.len());
        for (name, value) in sorted {
            match self.packer.set_xattr(ino, name, value) {
                Ok(given) => {
                    self.counts.xattrs += 1;
                    stored.extend(given.map(|value| (name, value)));
                }
                Err(Error::Posix(Posix::NotSupported | Posix::NotPermitted | Posix::TooLong | Posix::NameTooLong)) => {
                    self.counts.xattrs_skipped += 1;
                    let path = self.path.join(OsStr::from_bytes(&entry.name));
                    let path = escaped(path.as_os_str().as_bytes());
                    self.warn(format!("{path}: attribute {} cannot be stored; left out", escaped(name)));
                }
                Err(error) => return Err(self.failed(&entry.name, error)),
            }
        }
        Ok(digest_of_attributes(stored.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))))
    }

    fn record(&self, path: Vec<u8>, entry: &Entry, attributes: Digest) -> Record {
        let is_device = matches!(entry.kind, FileKind::BlockDevice | FileKind::CharDevice);
        Record {
            path,
            kind: kind_of(entry.kind),
            mode: if entry.kind == FileKind::Symlink { 0 } else { entry.mode },
            uid: entry.uid,
            gid: entry.gid,
            rdev: if is_device { entry.rdev } else { 0 },
            size: 0,
            content: [0; 32],
            attributes,
            target: Vec::new(),
        }
    }

    fn list(&mut self, ino: InodeNo, record: Record) {
        self.records.insert(ino.0, Listed { record, others: Vec::new() });
    }

    fn remember(&mut self, entry: &Entry, ino: InodeNo) {
        if entry.links > 1 {
            self.links.insert(entry.id, ino);
        }
    }

    fn inside_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.inside.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn directory(&self) -> InodeNo {
        self.directories.last().expect("entries stand in a directory").0
    }

    fn warn(&mut self, line: String) {
        (self.on)(Step::Warning(line));
    }

    fn failed_in_file(&self, error: Error) -> PopulateError {
        let name = self.file.as_ref().map(|file| file.entry.name.clone()).unwrap_or_default();
        self.failed(&name, error)
    }

    fn failed(&self, name: &[u8], error: Error) -> PopulateError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(name)) };
        PopulateError::Volume { path, error }
    }
}

impl OpenFile {
    /// Holes are content too.
    fn hash_zeros_to(&mut self, offset: u64) {
        while self.hashed < offset {
            let left = usize::try_from(offset - self.hashed).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hash.update(&ZEROS[..left]);
            self.hashed += left as u64;
        }
    }
}
