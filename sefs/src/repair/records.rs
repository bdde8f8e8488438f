//! What follows from lost records: names without inodes, inodes without names, content without either.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Fix;
use super::plan::{Plan, inode_key};
use crate::check::{Finding, SUMMARY_EXTENSION, Surveyed};
use crate::error::Result;
use crate::format::{
    Chunk, DirEntryRecord, FileKind, INLINE_FILE_MAX, INODE_FIXED_LEN, Inode, InodeFlags, Key, Kind, MAX_FILE_SIZE,
    MAX_VALUE_LEN, NAME_DISCRIMINATORS, RangeRecord, name_hash, name_key,
};
use crate::types::{BLOCK_SIZE_U64, CHUNK_BLOCKS, InodeNo, ObjectId};

/// Records that are looked at with one scan.
const SCAN: usize = 256;
const LOST_FOUND: &str = "lost+found";
/// If the name is taken by something else, it gets a number; so many are tried.
const LOST_FOUND_NAMES: u32 = 1000;
/// Permissions of what is made anew: whom it belonged to is not known, so it is the superuser's alone.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// The parts of an attribute have keys that differ in this byte.
const PART_MASK: u64 = 0xff;

impl Plan {
    /// Puts right what a loss may have led to. Some of it loses more: names whose inode is gone, and parts of wholes.
    pub(super) fn follow(&mut self, surveyed: &Surveyed, finding: &Finding) -> Result<()> {
        match *finding {
            Finding::DanglingEntry { dir, .. } if self.looked_through.insert(dir) => self.drop_names(surveyed, dir),
            Finding::NoInode { object, kind } if kind == u8::from(Kind::DirEntry) => {
                self.make_directory(InodeNo(object.0));
                Ok(())
            }
            Finding::NoInode { object, .. } => self.drop_attributes(surveyed, InodeNo(object.0), 0, u64::MAX),
            Finding::XattrParts { ino, key } => self.drop_attributes(surveyed, ino, key & !PART_MASK, key | PART_MASK),
            Finding::NoOwner { object } => self.make_owner(surveyed, object),
            Finding::InlineLength { ino, found, .. } => {
                self.edit(surveyed, ino, |inode| inode.size = found)?;
                self.fixed(Fix::ContentLost { object: ino.into() });
                Ok(())
            }
            Finding::PastEnd { ino, .. } => self.cut_content(surveyed, ino),
            _ => Ok(()),
        }
    }

    /// Gives an inode that no directory names a name in `lost+found`.
    pub(super) fn reconnect(&mut self, surveyed: &Surveyed, ino: InodeNo) -> Result<()> {
        let Some(mut inode) = self.inode(surveyed, ino)? else { return Ok(()) };
        let home = self.lost_found(surveyed)?;
        let name = format!("#{ino}");
        let Some(key) = self.place_for(surveyed, home, name.as_bytes())?.free else { return Ok(()) };
        let entry = DirEntryRecord { ino, kind: inode.kind(), name: name.into_bytes() };
        self.put(key, Some(entry.encode()));
        if inode.kind() == FileKind::Directory {
            inode.parent = home;
            self.put(inode_key(ino), Some(inode.encode()));
        }
        self.fixed(Fix::Reconnected { ino });
        Ok(())
    }

    /// The directory for what has no name; made when it is not there. Its counts are put right by the next round.
    fn lost_found(&mut self, surveyed: &Surveyed) -> Result<InodeNo> {
        if let Some(home) = self.lost_found {
            return Ok(home);
        }
        for number in 0..LOST_FOUND_NAMES {
            let name = if number == 0 { String::from(LOST_FOUND) } else { format!("{LOST_FOUND}.{number}") };
            let place = self.place_for(surveyed, InodeNo::ROOT, name.as_bytes())?;
            if let Some(there) = place.entry {
                let directory = self.inode(surveyed, there)?.filter(|inode| inode.kind() == FileKind::Directory);
                if directory.is_some_and(|inode| inode.links > 0) {
                    self.lost_found = Some(there);
                    return Ok(there);
                }
                continue;
            }
            let Some(key) = place.free else { continue };
            let home = InodeNo(self.new_id());
            let entry = DirEntryRecord { ino: home, kind: FileKind::Directory, name: name.into_bytes() };
            self.put(key, Some(entry.encode()));
            self.put_new(home, FileKind::Directory, ObjectId(0), 0, false);
            self.lost_found = Some(home);
            return Ok(home);
        }
        Ok(InodeNo::ROOT)
    }

    /// The inode that a name stands for, and the first key where an entry for it could go.
    fn place_for(&self, surveyed: &Surveyed, dir: InodeNo, name: &[u8]) -> Result<Place> {
        let hash = name_hash(surveyed.suite(), name);
        let key = |discriminator| Key::new(dir.0, Kind::DirEntry, name_key(hash, discriminator));
        let (first, last) = (key(0), key(NAME_DISCRIMINATORS - 1));
        let end = last.successor().unwrap_or(Key::MAX);
        let (stored, _) = surveyed.records(first, end, usize::from(NAME_DISCRIMINATORS))?;
        let mut bucket: BTreeMap<Key, Option<Vec<u8>>> =
            stored.into_iter().map(|(key, bytes)| (key, Some(bytes))).collect();
        bucket.extend(self.amend.records.range(first..end).map(|(key, planned)| (*key, planned.clone())));
        let taken = |key: &Key| bucket.get(key).is_some_and(Option::is_some);
        let free = (0..NAME_DISCRIMINATORS).map(key).find(|key| !taken(key));
        let records = bucket.values().flatten().filter_map(|bytes| DirEntryRecord::decode(bytes).ok());
        let entry = records.into_iter().find(|record| record.name == name).map(|record| record.ino);
        Ok(Place { entry, free })
    }

    /// Makes a directory's record anew, for the names that it has.
    pub(super) fn make_directory(&mut self, ino: InodeNo) {
        self.put_new(ino, FileKind::Directory, ObjectId(0), 0, false);
        self.fixed(Fix::MadeAnew { ino });
    }

    /// Makes a file for content that no inode has; where that is not possible, the content goes.
    fn make_owner(&mut self, surveyed: &Surveyed, object: ObjectId) -> Result<()> {
        let ino = InodeNo(object.0);
        let inline = self.record(surveyed, Key::new(object.0, Kind::Inline, 0))?;
        let size = self.end_of_chunks(surveyed, object)?;
        // An object has a number of its own only if its inode's number was taken by other content before.
        if self.inode(surveyed, ino)?.is_some() {
            return self.drop_content(object, inline.is_some(), 0);
        }
        match (size, inline) {
            (Some(size), inline) => {
                if inline.is_some() {
                    self.put(Key::new(object.0, Kind::Inline, 0), None);
                }
                self.put_new(ino, FileKind::Regular, object, size.min(MAX_FILE_SIZE), false);
            }
            (None, Some(bytes)) => {
                let kind = if bytes.len() > INLINE_FILE_MAX { FileKind::Symlink } else { FileKind::Regular };
                self.put_new(ino, kind, object, bytes.len() as u64, true);
            }
            (None, None) => return Ok(()),
        }
        self.fixed(Fix::MadeAnew { ino });
        Ok(())
    }

    /// Where the last chunk of an object ends, in bytes.
    fn end_of_chunks(&self, surveyed: &Surveyed, object: ObjectId) -> Result<Option<u64>> {
        let end = Key::new(object.0, Kind::Space, 0);
        let (mut from, mut last) = (Some(Key::new(object.0, Kind::Extent, 0)), None);
        while let Some(key) = from {
            let (records, next) = surveyed.records(key, end, SCAN)?;
            last = records.into_iter().next_back().or(last);
            from = next;
        }
        Ok(last.and_then(|(key, bytes)| {
            let (index, _) = Chunk::decode(&bytes).ok()?.iter().last()?;
            (key.block_number(index) + 1).checked_mul(BLOCK_SIZE_U64)
        }))
    }

    fn put_new(&mut self, ino: InodeNo, kind: FileKind, object: ObjectId, size: u64, inline: bool) {
        let directory = kind == FileKind::Directory;
        let now = self.now;
        let inode = Inode {
            mode: kind.mode_bits() | if directory { DIRECTORY_MODE } else { FILE_MODE },
            uid: 0,
            gid: 0,
            links: if directory { 2 } else { 1 },
            flags: InodeFlags { inline, past_end: false },
            size,
            object,
            change: 1,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            project: 0,
            parent: if directory { InodeNo::ROOT } else { InodeNo(0) },
            entries: 0,
            subdirs: 0,
            extensions: Vec::new(),
        };
        self.put(inode_key(ino), Some(inode.encode()));
    }

    /// Removes the names of a directory whose inodes are gone.
    fn drop_names(&mut self, surveyed: &Surveyed, dir: InodeNo) -> Result<()> {
        let end = Key::new(dir.0, Kind::Xattr, 0);
        let mut from = Some(Key::new(dir.0, Kind::DirEntry, 0));
        while let Some(key) = from {
            let (records, next) = surveyed.records(key, end, SCAN)?;
            for (key, bytes) in records {
                let Ok(record) = DirEntryRecord::decode(&bytes) else { continue };
                if self.record(surveyed, inode_key(record.ino))?.is_none() {
                    self.put(key, None);
                    self.fixed(Fix::NameLost { dir, ino: record.ino });
                }
            }
            from = next;
        }
        Ok(())
    }

    fn drop_attributes(&mut self, surveyed: &Surveyed, ino: InodeNo, first: u64, last: u64) -> Result<()> {
        let end = Key::new(ino.0, Kind::Xattr, last).successor().unwrap_or(Key::MAX);
        let mut from = Some(Key::new(ino.0, Kind::Xattr, first));
        let mut lost = false;
        while let Some(key) = from {
            let (records, next) = surveyed.records(key, end, SCAN)?;
            for (key, _) in records {
                lost |= self.amend.records.get(&key) != Some(&None);
                self.put(key, None);
            }
            from = next;
        }
        if lost {
            self.fixed(Fix::AttributesLost { ino });
        }
        Ok(())
    }

    /// What stands past a file's end was hidden by a tombstone that is lost.
    fn cut_content(&mut self, surveyed: &Surveyed, ino: InodeNo) -> Result<()> {
        let Some(inode) = self.inode(surveyed, ino)? else { return Ok(()) };
        self.drop_content(inode.object, false, inode.size.div_ceil(BLOCK_SIZE_U64))
    }

    /// Removes an object's content from a block on.
    fn drop_content(&mut self, object: ObjectId, inline: bool, first_block: u64) -> Result<()> {
        if inline {
            self.put(Key::new(object.0, Kind::Inline, 0), None);
        }
        let first_chunk = first_block.div_ceil(CHUNK_BLOCKS);
        for block in first_block..first_chunk * CHUNK_BLOCKS {
            self.clear(object, block);
        }
        let id = self.new_id();
        let range = RangeRecord { object, first_chunk, end_chunk: u64::MAX };
        self.put(Key::new(0, Kind::Range, id), Some(range.encode()));
        self.fixed(Fix::ContentLost { object });
        Ok(())
    }
}

/// Where a name stands and where it could stand.
struct Place {
    entry: Option<InodeNo>,
    free: Option<Key>,
}

/// Sets what an inode says of its attributes: flags, count, bytes of names. Nothing changes if there is no room for it.
pub(super) fn summarize(inode: &mut Inode, summary: [u32; 3]) {
    let mut extensions = inode.extensions.clone();
    extensions.retain(|(kind, _)| *kind != SUMMARY_EXTENSION);
    if summary[1] > 0 {
        extensions.push((SUMMARY_EXTENSION, summary.iter().flat_map(|field| field.to_le_bytes()).collect()));
    }
    let bytes: usize = extensions.iter().map(|(_, bytes)| 4 + bytes.len()).sum();
    if INODE_FIXED_LEN + bytes <= MAX_VALUE_LEN {
        inode.extensions = extensions;
    }
}
