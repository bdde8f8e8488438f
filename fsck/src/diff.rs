//! What differs between two trees of files, by path: two sorted walks side by side.
//!
//! A path is added, removed, or changed. What may change is in [`Aspect`]; a path that another kind of file stands at is changed,
//! and what is below the directory of one side is added or removed.
//!
//! Names of one file are compared as groups: two paths that both sides have are names of one file in both, or in neither.
//!
//! *Invariants*: a failure to read is a failure of the comparison, never a difference and never equality. What is held in memory
//! are the directories on the way down, the numbers of those that were visited, and the files with several names.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::path::Path;
use std::vec::IntoIter;

use sefs::error::{Error, Posix};
use sefs::format::FileKind;
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, DirEntry, Seek, Volume};

use crate::listing::{device_numbers, entries, kind_text};
use crate::names::escaped;
use crate::report::Failure;

/// What a path can differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// The kind of file.
    Type,
    /// Permission bits; symbolic links have none that count.
    Mode,
    /// User and group.
    Owner,
    /// Length of a regular file.
    Size,
    /// Content of a regular file; another length is other content.
    Content,
    /// When the content changed last; only if asked for.
    Times,
    /// Extended attributes, ACLs among them.
    Xattrs,
    /// Where a symbolic link points.
    Target,
    /// Number of a device.
    Device,
    /// With which paths it shares a file.
    Links,
}

/// What a comparison looks at, beyond what it always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Times of last change of content.
    pub times: bool,
    /// How much content differs, and where: all of both contents is read then.
    pub extent: bool,
}

/// How the contents of two files differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDiff {
    /// The first byte that differs; bytes that only one side has differ.
    pub first_byte: u64,
    /// Behind the last byte that differs.
    pub end_byte: u64,
    /// Bytes that differ.
    pub bytes: u64,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the second side has it.
    Added(Vec<u8>, FileKind),
    /// Only the first side has it.
    Removed(Vec<u8>, FileKind),
    /// Both have it.
    Changed(Box<Changed>),
}

/// A path that both sides have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// From the root, with a slash before it.
    pub path: Vec<u8>,
    /// What differs, rising; never empty.
    pub aspects: Vec<Aspect>,
    /// What stands on the two sides, by aspect; of those that a word can tell.
    pub values: BTreeMap<Aspect, [String; 2]>,
    /// Where content differs, if that was wanted.
    pub content: Option<ContentDiff>,
}

/// How many paths there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Only on the second side.
    pub added: u64,
    /// Only on the first.
    pub removed: u64,
    /// On both, and different.
    pub changed: u64,
    /// On both, and the same.
    pub unchanged: u64,
}

impl Counts {
    /// Whether nothing differs.
    pub fn same(&self) -> bool {
        (self.added, self.removed, self.changed) == (0, 0, 0)
    }
}

impl Aspect {
    /// Its name, for people and for programs.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Size => "size",
            Aspect::Content => "content",
            Aspect::Times => "times",
            Aspect::Xattrs => "xattrs",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Links => "links",
        }
    }
}

/// One of the two sides.
#[derive(Clone, Copy)]
pub struct Side<'v> {
    /// The image, for messages.
    pub image: &'v Path,
    /// What is in it.
    pub volume: &'v Volume,
}

/// Compares all of both sides. `on` is told of differences in the order of paths, parents before what is in them; it answers
/// whether to go on.
pub fn compare(
    old: Side<'_>,
    new: Side<'_>,
    wanted: Wanted,
    on: &mut dyn FnMut(Difference) -> Result<bool, Failure>,
) -> Result<Counts, Failure> {
    let mut walk = Walk {
        sides: [old, new],
        wanted,
        names: Default::default(),
        visited: Default::default(),
        counts: Counts::default(),
        buffers: [vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]],
    };
    let roots = [walk.attr(0, InodeNo::ROOT, b"/")?, walk.attr(1, InodeNo::ROOT, b"/")?];
    let mut pending = vec![];
    if !walk.visit(Vec::new(), roots.map(Some), &mut pending, on)? {
        return Ok(walk.counts);
    }
    while let Some(level) = pending.last_mut() {
        let Some((name, found)) = level.next() else {
            pending.pop();
            continue;
        };
        let mut path = level.path.clone();
        path.push(b'/');
        path.extend_from_slice(&name);
        let attr = |side: usize| found[side].map(|ino| walk.attr(side, ino, &path)).transpose();
        let attrs = [attr(0)?, attr(1)?];
        if !walk.visit(path, attrs, &mut pending, on)? {
            break;
        }
    }
    Ok(walk.counts)
}

/// Content is read in pieces of that many bytes.
const PIECE_BYTES: usize = 1 << 20;

/// A directory of one side or both, with the entries that are still to be visited.
struct Level {
    path: Vec<u8>,
    left: [Peekable<IntoIter<DirEntry>>; 2],
}

struct Walk<'v> {
    sides: [Side<'v>; 2],
    wanted: Wanted,
    /// For each side, the first of the paths of both sides that name a file, of files with several names.
    names: [BTreeMap<InodeNo, Vec<u8>>; 2],
    visited: [BTreeSet<InodeNo>; 2],
    counts: Counts,
    buffers: [Vec<u8>; 2],
}

impl Level {
    /// The next name, and what it names on either side.
    fn next(&mut self) -> Option<(Vec<u8>, [Option<InodeNo>; 2])> {
        let [old, new] = &mut self.left;
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => old.name.cmp(&new.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        let found = [old.as_ref().map(|entry| entry.ino), new.as_ref().map(|entry| entry.ino)];
        old.or(new).map(|entry| (entry.name, found))
    }
}

impl Walk<'_> {
    /// Compares what stands at a path, tells of it, and notes what is below it.
    fn visit(
        &mut self,
        path: Vec<u8>,
        attrs: [Option<Attr>; 2],
        pending: &mut Vec<Level>,
        on: &mut dyn FnMut(Difference) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let shown = if path.is_empty() { b"/".to_vec() } else { path.clone() };
        let difference = match &attrs {
            [Some(old), Some(new)] => self.changed(&shown, old, new)?.map(Difference::Changed),
            [Some(old), None] => Some(Difference::Removed(shown.clone(), old.kind)),
            [None, Some(new)] => Some(Difference::Added(shown.clone(), new.kind)),
            [None, None] => None,
        };
        match &difference {
            None => self.counts.unchanged += 1,
            Some(Difference::Changed(_)) => self.counts.changed += 1,
            Some(Difference::Removed(..)) => self.counts.removed += 1,
            Some(Difference::Added(..)) => self.counts.added += 1,
        }
        let go_on = difference.map_or(Ok(true), on)?;
        if attrs.iter().flatten().any(|attr| attr.kind == FileKind::Directory) {
            let [old, new] = &attrs;
            let left = [self.listed(0, old.as_ref(), &shown)?, self.listed(1, new.as_ref(), &shown)?];
            pending.push(Level { path, left });
        }
        Ok(go_on)
    }

    /// The entries of a directory; none of anything else.
    fn listed(
        &mut self,
        side: usize,
        attr: Option<&Attr>,
        path: &[u8],
    ) -> Result<Peekable<IntoIter<DirEntry>>, Failure> {
        let Some(attr) = attr.filter(|attr| attr.kind == FileKind::Directory) else {
            return Ok(Vec::new().into_iter().peekable());
        };
        // Whoever has the key can store a directory below itself, and the walk would never end.
        if !self.visited[side].insert(attr.ino) {
            let thing = self.thing(side, path);
            return Err(
                Failure::new(thing, "this directory stands in two places").way_out("check the volume with fsck.sefs")
            );
        }
        let found = entries(self.sides[side].volume, attr.ino).map_err(|error| self.failed(side, path, &error))?;
        Ok(found.into_iter().peekable())
    }

    fn changed(&mut self, path: &[u8], old: &Attr, new: &Attr) -> Result<Option<Box<Changed>>, Failure> {
        let mut values = BTreeMap::new();
        let mut differs = |aspect, one: String, two: String| {
            if one != two {
                values.insert(aspect, [one, two]);
            }
        };
        differs(Aspect::Type, kind_text(old.kind).into(), kind_text(new.kind).into());
        differs(Aspect::Owner, format!("{}:{}", old.uid, old.gid), format!("{}:{}", new.uid, new.gid));
        let same_kind = old.kind == new.kind;
        if !(same_kind && old.kind == FileKind::Symlink) {
            differs(Aspect::Mode, format!("{:04o}", old.mode), format!("{:04o}", new.mode));
        }
        if self.wanted.times {
            let text = |attr: &Attr| format!("{}.{:09}", attr.mtime.seconds, attr.mtime.nanoseconds);
            differs(Aspect::Times, text(old), text(new));
        }
        let is = |kind| same_kind && old.kind == kind;
        if is(FileKind::BlockDevice) || is(FileKind::CharDevice) {
            let text = |rdev| {
                let (major, minor) = device_numbers(rdev);
                format!("{major}:{minor}")
            };
            differs(Aspect::Device, text(old.rdev), text(new.rdev));
        }
        if is(FileKind::Symlink) {
            differs(Aspect::Target, self.target(0, old, path)?, self.target(1, new, path)?);
        }
        if is(FileKind::Regular) {
            differs(Aspect::Size, old.size.to_string(), new.size.to_string());
        }
        let mut aspects: Vec<Aspect> = values.keys().copied().collect();
        let content = if is(FileKind::Regular) { self.content(path, old, new)? } else { None };
        aspects.extend(content.map(|_| Aspect::Content));
        if self.xattrs(0, old, path)? != self.xattrs(1, new, path)? {
            aspects.push(Aspect::Xattrs);
        }
        if self.linked_otherwise(path, old, new) {
            aspects.push(Aspect::Links);
        }
        aspects.sort_unstable();
        let content = content.filter(|_| self.wanted.extent);
        let changed = Changed { path: path.to_vec(), aspects, values, content };
        Ok((!changed.aspects.is_empty()).then(|| Box::new(changed)))
    }

    /// Whether a path of both sides shares its file with other such paths than it does on the other side.
    fn linked_otherwise(&mut self, path: &[u8], old: &Attr, new: &Attr) -> bool {
        if old.kind == FileKind::Directory || new.kind == FileKind::Directory || old.links <= 1 && new.links <= 1 {
            return false;
        }
        // Two groupings of the paths are the same if in both each path has the same first path of its group.
        let [of_old, of_new] = &mut self.names;
        let first = |names: &mut BTreeMap<InodeNo, Vec<u8>>, attr: &Attr| match attr.links {
            0 | 1 => path.to_vec(),
            _ => names.entry(attr.ino).or_insert_with(|| path.to_vec()).clone(),
        };
        first(of_old, old) != first(of_new, new)
    }

    /// How contents differ; up to the first byte that does, unless more is wanted.
    fn content(&mut self, path: &[u8], old: &Attr, new: &Attr) -> Result<Option<ContentDiff>, Failure> {
        let (common, end) = (old.size.min(new.size), old.size.max(new.size));
        let tail = ContentDiff { first_byte: common, end_byte: end, bytes: end - common };
        if common < end && !self.wanted.extent {
            return Ok(Some(tail));
        }
        let (mut found, mut offset): (Option<ContentDiff>, u64) = (None, 0);
        loop {
            // What is a hole on both sides is zeros on both.
            offset = self.next_data(0, old, offset, common, path)?.min(self.next_data(1, new, offset, common, path)?);
            if offset >= common {
                break;
            }
            let len = usize::try_from(common - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            self.fill(0, old.ino, offset, len, path)?;
            self.fill(1, new.ino, offset, len, path)?;
            let [one, two] = &self.buffers;
            if one[..len] != two[..len] {
                let places = (offset..).zip(one[..len].iter().zip(&two[..len]));
                for (at, _) in places.filter(|(_, (one, two))| one != two) {
                    let diff = found.get_or_insert(ContentDiff { first_byte: at, end_byte: at, bytes: 0 });
                    (diff.end_byte, diff.bytes) = (at + 1, diff.bytes + 1);
                }
                if !self.wanted.extent {
                    return Ok(found);
                }
            }
            offset += len as u64;
        }
        if common < end {
            let first_byte = found.map_or(common, |found| found.first_byte);
            let bytes = tail.bytes + found.map_or(0, |found| found.bytes);
            return Ok(Some(ContentDiff { first_byte, end_byte: end, bytes }));
        }
        Ok(found)
    }

    /// Where data begin at or after `offset`; `end` if there are none before it.
    fn next_data(&self, side: usize, attr: &Attr, offset: u64, end: u64, path: &[u8]) -> Result<u64, Failure> {
        if offset >= end {
            return Ok(end);
        }
        match self.sides[side].volume.seek(attr.ino, offset, Seek::Data) {
            Ok(at) => Ok(at.min(end)),
            Err(Error::Posix(Posix::NoSuchOffset)) => Ok(end),
            Err(error) => Err(self.failed(side, path, &error)),
        }
    }

    /// Reads exactly `len` bytes into the side's buffer.
    fn fill(&mut self, side: usize, ino: InodeNo, offset: u64, len: usize, path: &[u8]) -> Result<(), Failure> {
        let (volume, mut done) = (self.sides[side].volume, 0);
        while done < len {
            let read = volume.read(ino, offset + done as u64, &mut self.buffers[side][done..len]);
            match read.map_err(|error| self.failed(side, path, &error))? {
                0 => return Err(Failure::new(self.thing(side, path), "it is shorter than its inode says")),
                count => done += count,
            }
        }
        Ok(())
    }

    fn xattrs(&self, side: usize, attr: &Attr, path: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
        let (root, volume) = (Caller::root(), self.sides[side].volume);
        let names = volume.list_xattr(&root, attr.ino).map_err(|error| self.failed(side, path, &error))?;
        let value = |name: Vec<u8>| Ok((name.clone(), volume.get_xattr(&root, attr.ino, &name)?));
        let found: Result<BTreeMap<_, _>, Error> = names.into_iter().map(value).collect();
        found.map_err(|error| self.failed(side, path, &error))
    }

    fn target(&self, side: usize, attr: &Attr, path: &[u8]) -> Result<String, Failure> {
        let target = self.sides[side].volume.read_link(attr.ino);
        target.map(|target| escaped(&target)).map_err(|error| self.failed(side, path, &error))
    }

    fn attr(&self, side: usize, ino: InodeNo, path: &[u8]) -> Result<Attr, Failure> {
        self.sides[side].volume.attr(ino).map_err(|error| self.failed(side, path, &error))
    }

    fn thing(&self, side: usize, path: &[u8]) -> String {
        format!("{}: {}", self.sides[side].image.display(), escaped(path))
    }

    fn failed(&self, side: usize, path: &[u8], error: &Error) -> Failure {
        Failure::volume(Path::new(&self.thing(side, path)), error)
    }
}
