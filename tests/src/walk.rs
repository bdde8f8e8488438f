//! Reads everything that a volume holds, through its public face, and checks on the way what must hold of any state.

use std::collections::{BTreeMap, BTreeSet};

use sefs::error::Error;
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, DirEntry, FileKind, Seek, Volume};

use crate::content::{BLOCK, Print, block_print};
use crate::model::join;
use crate::tree::{Entry, Tree};

/// Files up to this size are read whole; larger ones where they have data.
const READ_WHOLE: u64 = 64 << 20;
/// What is read at once.
const READ_BYTES: usize = 256 << 10;

/// What was found, and what could not be read.
#[derive(Debug, Default)]
pub struct Found {
    /// Everything that was read without an error.
    pub tree: Tree,
    /// Paths at which something failed: everything at or below them may be missing.
    pub errors: Vec<(Vec<u8>, Error)>,
    /// Rules that the answers break among themselves.
    pub violations: Vec<String>,
}

/// Reads everything; the first error ends it. Panics where the volume contradicts itself.
pub fn walk(volume: &Volume) -> Result<Tree, Error> {
    let found = walk_all(volume);
    assert!(found.violations.is_empty(), "the volume contradicts itself: {:#?}", found.violations);
    match found.errors.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(found.tree),
    }
}

/// Reads everything that can be read.
pub fn walk_all(volume: &Volume) -> Found {
    let mut walk = Walk { volume, found: Found::default(), seen: BTreeMap::new() };
    match volume.attr(InodeNo::ROOT) {
        Ok(attr) => walk.node(Vec::new(), attr, InodeNo::ROOT),
        Err(error) => walk.fail(&[], error),
    }
    walk.seen.values().for_each(|paths| walk.found.tree.identify(paths));
    walk.check_links();
    walk.found
}

struct Walk<'a> {
    volume: &'a Volume,
    found: Found,
    /// Inodes by number, each with all its paths.
    seen: BTreeMap<InodeNo, BTreeSet<Vec<u8>>>,
}

impl Walk<'_> {
    fn node(&mut self, path: Vec<u8>, attr: Attr, parent: InodeNo) {
        let paths = self.seen.entry(attr.ino).or_default();
        paths.insert(path.clone());
        if paths.len() > 1 && attr.kind == FileKind::Directory {
            return self.violation(&path, "a directory with two names");
        }
        match self.entry(&attr) {
            Ok(entry) => drop(self.found.tree.0.insert(path.clone(), entry)),
            Err(error) => self.fail(&path, error),
        }
        if attr.kind == FileKind::Directory {
            self.directory(path, &attr, parent);
        }
    }

    fn entry(&mut self, attr: &Attr) -> Result<Entry, Error> {
        let print = match attr.kind {
            FileKind::Regular => self.print(attr)?,
            _ => Print::new(),
        };
        let target = match attr.kind {
            FileKind::Symlink => self.volume.read_link(attr.ino)?,
            _ => Vec::new(),
        };
        let root = Caller::root();
        let mut xattrs = BTreeMap::new();
        for name in self.volume.list_xattr(&root, attr.ino)? {
            let value = self.volume.get_xattr(&root, attr.ino, &name)?;
            xattrs.insert(name, value);
        }
        let size = if attr.kind == FileKind::Directory { 0 } else { attr.size };
        Ok(Entry {
            identity: Vec::new(),
            kind: attr.kind,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            links: attr.links,
            size,
            rdev: attr.rdev,
            target,
            print,
            xattrs,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        })
    }

    fn directory(&mut self, path: Vec<u8>, attr: &Attr, parent: InodeNo) {
        let entries = match self.entries(&path, attr.ino) {
            Ok(entries) => entries,
            Err(error) => return self.fail(&path, error),
        };
        let mut names = BTreeSet::new();
        let mut subdirectories = 0;
        for entry in entries {
            if entry.name == b"." || entry.name == b".." {
                let expected = if entry.name == b"." { attr.ino } else { parent };
                if entry.ino != expected {
                    self.violation(&path, &format!("{:?} names inode {}", entry.name, entry.ino));
                }
                continue;
            }
            if !names.insert(entry.name.clone()) {
                self.violation(&path, "a name that is listed twice");
            }
            subdirectories += u32::from(entry.kind == FileKind::Directory);
            self.child(&path, attr.ino, &entry);
        }
        if attr.links != 2 + subdirectories {
            self.violation(&path, &format!("{} links with {subdirectories} subdirectories", attr.links));
        }
        if attr.size != names.len() as u64 {
            self.violation(&path, &format!("size {} with {} entries", attr.size, names.len()));
        }
    }

    fn child(&mut self, path: &[u8], dir: InodeNo, entry: &DirEntry) {
        let path = join(path, &entry.name);
        let by_name = self.volume.lookup(&Caller::root(), dir, &entry.name);
        let by_number = self.volume.attr(entry.ino);
        match (by_name, by_number) {
            (Ok(by_name), Ok(by_number)) => {
                if by_name != by_number || by_name.ino != entry.ino || by_name.kind != entry.kind {
                    self.violation(&path, &format!("listed {entry:?}, looked up {by_name:?}, by number {by_number:?}"));
                }
                self.node(path, by_name, dir);
            }
            (Err(error), _) | (_, Err(error)) => self.fail(&path, error),
        }
    }

    /// Lists in small pieces, as a kernel with a small buffer does.
    fn entries(&mut self, path: &[u8], dir: InodeNo) -> Result<Vec<DirEntry>, Error> {
        let mut all: Vec<DirEntry> = Vec::new();
        let mut cookies = BTreeSet::new();
        loop {
            let cookie = all.last().map_or(0, |entry| entry.cookie);
            let limit = 1 + all.len() * 2;
            let piece = self.volume.read_dir(dir, cookie, limit)?;
            if piece.len() > limit {
                self.violation(path, "more entries than asked for");
            }
            if piece.is_empty() {
                break;
            }
            for entry in &piece {
                if !cookies.insert(entry.cookie) || entry.cookie == 0 || entry.cookie >> 63 != 0 {
                    self.violation(path, &format!("cookie {} twice, or out of range", entry.cookie));
                    return Ok(all);
                }
            }
            all.extend(piece);
        }
        let dots: Vec<&[u8]> = all.iter().take(2).map(|entry| entry.name.as_slice()).collect();
        if dots != [&b"."[..], b".."] {
            self.violation(path, "does not start with . and ..");
        }
        Ok(all)
    }

    fn print(&mut self, attr: &Attr) -> Result<Print, Error> {
        let segments = self.data_segments(attr)?;
        let mut print = Print::new();
        if attr.size > READ_WHOLE {
            for (from, to) in &segments {
                let first = from / BLOCK * BLOCK;
                self.read_range(attr, first, to.div_ceil(BLOCK) * BLOCK, &mut print)?;
            }
            return Ok(print);
        }
        self.read_range(attr, 0, attr.size, &mut print)?;
        let in_data = |block: u64| {
            let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(attr.size));
            segments.iter().any(|(from, to)| *from < end && start < *to)
        };
        for block in print.keys().filter(|block| !in_data(**block)) {
            self.found.violations.push(format!("inode {}: block {block} has data and is called a hole", attr.ino));
        }
        Ok(print)
    }

    fn read_range(&mut self, attr: &Attr, first: u64, end: u64, print: &mut Print) -> Result<(), Error> {
        let end = end.min(attr.size);
        // No longer than the range: most files are short.
        let mut buf =
            vec![0xee; usize::try_from(end.saturating_sub(first)).map_or(READ_BYTES, |len| len.min(READ_BYTES))];
        let mut at = first;
        while at < end {
            let want = buf.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let count = self.volume.read(attr.ino, at, &mut buf[..want])?;
            let expected = want.min(usize::try_from(attr.size - at).unwrap_or(usize::MAX));
            if count != expected {
                let what = format!("inode {}: {count} bytes at {at}, {expected} expected", attr.ino);
                self.found.violations.push(what);
                return Ok(());
            }
            for (index, block) in buf[..count].chunks(BLOCK as usize).enumerate() {
                if let Some(hash) = block_print(block) {
                    print.insert(at / BLOCK + index as u64, hash);
                }
            }
            at += count as u64;
        }
        Ok(())
    }

    /// What `SEEK_DATA` and `SEEK_HOLE` say.
    fn data_segments(&mut self, attr: &Attr) -> Result<Vec<(u64, u64)>, Error> {
        let mut segments = Vec::new();
        let mut at = 0;
        while at < attr.size {
            let data = match self.volume.seek(attr.ino, at, Seek::Data) {
                Ok(data) => data,
                Err(Error::Posix(sefs::error::Posix::NoSuchOffset)) => break,
                Err(error) => return Err(error),
            };
            let hole = self.volume.seek(attr.ino, data, Seek::Hole)?;
            if data < at || hole <= data || hole > attr.size {
                let what = format!("inode {}: from {at}: data at {data}, hole at {hole}, size {}", attr.ino, attr.size);
                self.found.violations.push(what);
                break;
            }
            segments.push((data, hole));
            at = hole;
        }
        Ok(segments)
    }

    /// A link count is right when every name was seen, which errors may have prevented.
    fn check_links(&mut self) {
        if !self.found.errors.is_empty() {
            return;
        }
        for paths in self.seen.values() {
            let Some((path, entry)) = paths.first().and_then(|path| Some((path, self.found.tree.0.get(path)?))) else {
                continue;
            };
            if entry.kind != FileKind::Directory && paths.len() != entry.links as usize {
                let what = format!("{}: {} links, {} names", String::from_utf8_lossy(path), entry.links, paths.len());
                self.found.violations.push(what);
            }
        }
    }

    fn fail(&mut self, path: &[u8], error: Error) {
        self.found.errors.push((path.to_vec(), error));
    }

    fn violation(&mut self, path: &[u8], what: &str) {
        self.found.violations.push(format!("{}: {what}", String::from_utf8_lossy(path)));
    }
}
