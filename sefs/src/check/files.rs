//! Files: inodes, names, links and content, seen as one rising sequence of records.
//!
//! What hangs on one number stands together, so most is checked when the number is done: a directory's counts, an
//! inode's attributes, an object's content. An object never has a smaller number than its inode, so the inode is known
//! when its content comes. Names are collected and looked up at the end.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::walk::{corrupt, misplaced};
use super::xattrs::{self, Xattrs};
use super::{Finding, Report, Stage};
use crate::format::{
    BlockState, Chunk, DirEntryRecord, FIRST_NAME_KEY, FileKind, Inode, JobRecord, Key, Kind, LowerRecord,
    NAME_DISCRIMINATORS, OrphanRecord, RangeRecord, name_hash,
};
use crate::suite::Suite;
use crate::types::{BLOCK_SIZE_U64, InodeNo, ObjectId};

/// Links of a directory without subdirectories.
const EMPTY_DIR_LINKS: u64 = 2;

/// What is kept of every inode.
struct Known {
    ino: InodeNo,
    parent: InodeNo,
    links: u32,
    /// Entries that name it.
    named: u32,
    kind: FileKind,
}

/// What is kept of every directory entry.
struct Name {
    ino: InodeNo,
    dir: InodeNo,
    kind: FileKind,
}

/// What an inode says of its content.
#[derive(Clone, Copy)]
struct Content {
    ino: InodeNo,
    size: u64,
    inline: bool,
    past_end: bool,
}

struct Range {
    object: ObjectId,
    first_chunk: u64,
    end_chunk: u64,
}

/// What stands under one number.
struct Current {
    object: ObjectId,
    inode: Option<Directory>,
    /// The inode that has the content.
    owner: Option<Content>,
    entries: u64,
    subdirs: u64,
    /// The names of the entries that share the last one's hash.
    bucket: (u64, Vec<Vec<u8>>),
    xattrs: Xattrs,
    stated_xattrs: Option<[u32; 3]>,
    /// The length of the inline content.
    inline_len: Option<u64>,
    chunks: bool,
    /// The last block that is not a hole, and the last one with data.
    last_block: Option<u64>,
    last_data: Option<u64>,
    /// Records that need an inode were reported.
    orphaned: bool,
}

/// What counters should say, if the walk was complete.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) inodes: u64,
    /// No number above is in use.
    pub(crate) highest_id: u64,
}

/// What an inode says of its entries; zero for all but directories.
struct Directory {
    kind: FileKind,
    links: u32,
    entries: u64,
    subdirs: u32,
}

/// Everything that was seen of files.
pub(super) struct Files {
    suite: Arc<dyn Suite>,
    inodes: Vec<Known>,
    names: Vec<Name>,
    /// Content under another number than the inode's, until that number comes.
    elsewhere: BTreeMap<ObjectId, Content>,
    ranges: Vec<Range>,
    orphans: Vec<InodeNo>,
    current: Option<Current>,
    highest_id: u64,
    next_id: u64,
    inode_records: u64,
    /// Some nodes could not be had, so a missing record means nothing.
    pub(super) incomplete: bool,
}

impl Files {
    /// Numbers from `next_id` on are not in use.
    pub(super) fn new(suite: Arc<dyn Suite>, next_id: u64) -> Files {
        Files {
            suite,
            inodes: Vec::new(),
            names: Vec::new(),
            elsewhere: BTreeMap::new(),
            ranges: Vec::new(),
            orphans: Vec::new(),
            current: None,
            highest_id: 0,
            next_id,
            inode_records: 0,
            incomplete: false,
        }
    }

    /// The next record that is no chunk.
    pub(super) fn record(&mut self, key: Key, value: &[u8], report: &mut Report<'_>) {
        let result = match (key.object, key.kind) {
            (0, Kind::Range) => self.range(key, value),
            (0, Kind::Orphan) => self.orphan(key, value),
            (0, Kind::Lower) => LowerRecord::decode(value).map(|_| ()),
            (0, Kind::Job) => JobRecord::decode(value).map(|_| self.saw_id(key.offset)),
            (1.., Kind::Inode) if key.offset == 0 => self.inode(key, value, report),
            (1.., Kind::DirEntry) => self.entry(key, value, report),
            (1.., Kind::Xattr) => self.xattr(key, value, report),
            (1.., Kind::Inline) if key.offset == 0 => {
                self.at(key, report).inline_len = u64::try_from(value.len()).ok();
                Ok(())
            }
            (1.., Kind::Space) if key.offset == 0 => {
                self.at(key, report);
                Ok(())
            }
            _ => return report.found(misplaced(key)),
        };
        if let Err(why) = result {
            report.found(corrupt(key, why));
        }
    }

    /// The next chunk; false if a tombstone hides it, or it is no content.
    pub(super) fn chunk(&mut self, key: Key, chunk: &Chunk, report: &mut Report<'_>) -> bool {
        if key.object == 0 {
            report.found(misplaced(key));
            return false;
        }
        let hidden = self.is_hidden(ObjectId(key.object), key.offset);
        let current = self.at(key, report);
        if hidden {
            return false;
        }
        current.chunks = true;
        for (index, state) in chunk.iter() {
            let block = Some(key.block_number(index));
            match state {
                BlockState::Absent => {}
                BlockState::Unwritten => current.last_block = block,
                BlockState::Data(_) => (current.last_block, current.last_data) = (block, block),
            }
        }
        true
    }

    /// How many bytes of a block of the object that is being seen are content, if its file ends in it.
    pub(super) fn bytes_in_block(&self, block: u64) -> Option<usize> {
        let owner = self.current.as_ref()?.owner?;
        let used = owner.size.checked_sub(block.checked_mul(BLOCK_SIZE_U64)?)?;
        usize::try_from(used).ok().filter(|_| (1..BLOCK_SIZE_U64).contains(&used))
    }

    /// All of the system's records were seen. Tombstones may overlap; what they cover is kept as disjoint ranges.
    pub(super) fn end_system(&mut self) {
        self.ranges.sort_by_key(|range| (range.object, range.first_chunk));
        self.ranges.dedup_by(|next, range| {
            let joins = range.object == next.object && next.first_chunk <= range.end_chunk;
            if joins {
                range.end_chunk = range.end_chunk.max(next.end_chunk);
            }
            joins
        });
    }

    fn range(&mut self, key: Key, value: &[u8]) -> Result<(), &'static str> {
        let RangeRecord { object, first_chunk, end_chunk } = RangeRecord::decode(value)?;
        self.saw_id(key.offset);
        self.saw_id(object.0);
        self.ranges.push(Range { object, first_chunk, end_chunk });
        Ok(())
    }

    fn orphan(&mut self, key: Key, value: &[u8]) -> Result<(), &'static str> {
        OrphanRecord::decode(value)?;
        self.saw_id(key.offset);
        self.orphans.push(InodeNo(key.offset));
        Ok(())
    }

    fn is_hidden(&self, object: ObjectId, chunk: u64) -> bool {
        let after = self.ranges.partition_point(|range| (range.object, range.first_chunk) <= (object, chunk));
        let before = after.checked_sub(1).and_then(|at| self.ranges.get(at));
        before.is_some_and(|range| range.object == object && chunk < range.end_chunk)
    }

    fn saw_id(&mut self, id: u64) {
        self.highest_id = self.highest_id.max(id);
    }

    /// What stands under the key's number; a number before it is done.
    fn at(&mut self, key: Key, report: &mut Report<'_>) -> &mut Current {
        let object = ObjectId(key.object);
        if self.current.as_ref().is_none_or(|current| current.object != object) {
            self.end_current(report);
            self.saw_id(object.0);
        }
        let owner = if self.current.is_none() { self.elsewhere.remove(&object) } else { None };
        self.current.get_or_insert_with(|| Current { object, owner, ..Current::nothing() })
    }

    fn inode(&mut self, key: Key, value: &[u8], report: &mut Report<'_>) -> Result<(), &'static str> {
        self.at(key, report);
        self.inode_records += 1;
        report.summary.inodes += 1;
        let inode = Inode::decode(value)?;
        let (ino, kind) = (InodeNo(key.object), inode.kind());
        self.inodes.push(Known { ino, parent: inode.parent, links: inode.links, named: 0, kind });
        self.saw_id(inode.object.0);
        self.owns(ino, &inode, report)?;
        let current = self.at(key, report);
        current.stated_xattrs = xattrs::stated(&inode);
        let (links, entries, subdirs) = (inode.links, inode.entries, inode.subdirs);
        current.inode = Some(Directory { kind, links, entries, subdirs });
        Ok(())
    }

    /// Notes where the inode's content stands.
    fn owns(&mut self, ino: InodeNo, inode: &Inode, report: &mut Report<'_>) -> Result<(), &'static str> {
        match inode.kind() {
            FileKind::Regular | FileKind::Symlink => {}
            _ if inode.object == ObjectId(0) => return Ok(()),
            _ => {
                report.found(Finding::OwnsContent { ino });
                return Ok(());
            }
        }
        if inode.object == ObjectId(0) {
            return Err("a file without an object");
        }
        let flags = inode.flags;
        let content = Content { ino, size: inode.size, inline: flags.inline, past_end: flags.past_end };
        let before = match &mut self.current {
            Some(current) if current.object == inode.object => current.owner.replace(content),
            _ => self.elsewhere.insert(inode.object, content),
        };
        if before.is_some() {
            report.found(Finding::TwoOwners { object: inode.object, ino });
        }
        Ok(())
    }

    fn entry(&mut self, key: Key, value: &[u8], report: &mut Report<'_>) -> Result<(), &'static str> {
        let suite = self.suite.clone();
        let dir = InodeNo(key.object);
        let incomplete = self.incomplete;
        let current = self.at(key, report);
        let kind = current.inode.as_ref().map(|inode| inode.kind);
        if !current.orphaned && kind != Some(FileKind::Directory) {
            current.orphaned = true;
            match kind {
                Some(_) => report.found(Finding::NotDirectory { ino: dir }),
                None if incomplete => {}
                None => report.found(Finding::NoInode { object: ObjectId(key.object), kind: key.kind.into() }),
            }
        }
        current.entries += 1;
        let record = DirEntryRecord::decode(value)?;
        current.subdirs += u64::from(record.kind == FileKind::Directory);
        let hash = key.offset / u64::from(NAME_DISCRIMINATORS);
        if name_hash(&*suite, &record.name) != hash || key.offset < FIRST_NAME_KEY {
            report.found(Finding::EntryHash { dir, key: key.offset });
        }
        if current.bucket.0 != hash {
            current.bucket = (hash, Vec::new());
        }
        if current.bucket.1.contains(&record.name) {
            report.found(Finding::EntryTwice { dir, key: key.offset });
        }
        current.bucket.1.push(record.name);
        self.names.push(Name { ino: record.ino, dir, kind: record.kind });
        Ok(())
    }

    fn xattr(&mut self, key: Key, value: &[u8], report: &mut Report<'_>) -> Result<(), &'static str> {
        let suite = self.suite.clone();
        let incomplete = self.incomplete;
        let current = self.at(key, report);
        if !current.orphaned && !incomplete && current.inode.is_none() {
            current.orphaned = true;
            report.found(Finding::NoInode { object: ObjectId(key.object), kind: key.kind.into() });
        }
        current.xattrs.record(&*suite, InodeNo(key.object), key.offset, value, report)
    }

    fn end_current(&mut self, report: &mut Report<'_>) {
        let Some(current) = self.current.take() else { return };
        if self.incomplete {
            return;
        }
        let object = current.object;
        match current.owner {
            Some(content) => check_content(&content, &current, report),
            None if current.chunks || current.inline_len.is_some() => report.found(Finding::NoOwner { object }),
            None => {}
        }
        if let Some(inode) = &current.inode {
            let ino = InodeNo(object.0);
            check_directory(ino, inode, &current, report);
            current.xattrs.finish(ino, current.stated_xattrs, report);
        }
    }

    /// Everything was seen; so many inodes are counted elsewhere.
    pub(super) fn finish(mut self, inodes: u64, report: &mut Report<'_>) -> Counted {
        self.compare_all(inodes, report);
        Counted { inodes: self.inode_records, highest_id: self.highest_id }
    }

    fn compare_all(&mut self, inodes: u64, report: &mut Report<'_>) {
        self.end_current(report);
        report.stage(Stage::Names, u64::try_from(self.names.len()).unwrap_or(0));
        if self.highest_id >= self.next_id {
            report.found(Finding::NextId { next: self.next_id, id: self.highest_id });
        }
        if self.incomplete {
            return;
        }
        // Content that never came: these files have none.
        let nothing = Current::nothing();
        for content in core::mem::take(&mut self.elsewhere).values() {
            check_content(content, &nothing, report);
        }
        if inodes != self.inode_records {
            report.found(Finding::InodeCount { stored: inodes, found: self.inode_records });
        }
        self.check_names(report);
        self.check_links(report);
        self.check_orphans(report);
        self.check_reachable(report);
    }

    fn find(&self, ino: InodeNo) -> Option<usize> {
        self.inodes.binary_search_by_key(&ino, |known| known.ino).ok()
    }

    fn check_names(&mut self, report: &mut Report<'_>) {
        for name in core::mem::take(&mut self.names) {
            report.progress(1);
            let Name { ino, dir, kind } = name;
            let Some(known) = self.find(ino).and_then(|at| self.inodes.get_mut(at)) else {
                report.found(Finding::DanglingEntry { dir, ino });
                continue;
            };
            known.named = known.named.saturating_add(1);
            if known.kind != kind {
                report.found(Finding::EntryKind { dir, ino });
            }
            if known.kind == FileKind::Directory && known.parent != dir {
                report.found(Finding::Parent { ino, stored: known.parent, found: dir });
            }
        }
    }

    fn check_links(&self, report: &mut Report<'_>) {
        for known in &self.inodes {
            let (ino, named) = (known.ino, u64::from(known.named));
            if known.kind == FileKind::Directory {
                let expected = u64::from(ino != InodeNo::ROOT && known.links > 0);
                if named != expected {
                    report.found(Finding::DirectoryNames { ino, found: named });
                }
            } else if u64::from(known.links) != named {
                report.found(Finding::LinkCount { ino, stored: known.links, found: named });
            }
        }
    }

    fn check_orphans(&self, report: &mut Report<'_>) {
        for &ino in &self.orphans {
            match self.find(ino).and_then(|at| self.inodes.get(at)) {
                None => report.found(Finding::OrphanMissing { ino }),
                Some(known) if known.links > 0 => report.found(Finding::OrphanLinked { ino }),
                Some(_) => {}
            }
        }
        for known in self.inodes.iter().filter(|known| known.links == 0) {
            // Their keys rise, so they were collected in order.
            if self.orphans.binary_search(&known.ino).is_err() {
                report.found(Finding::OrphanUnrecorded { ino: known.ino });
            }
        }
    }

    /// From every directory the parents lead to the root.
    fn check_reachable(&self, report: &mut Report<'_>) {
        let root = self.find(InodeNo::ROOT).filter(|&at| self.inodes[at].kind == FileKind::Directory);
        let Some(root) = root else { return report.found(Finding::NoRoot {}) };
        if self.inodes[root].parent != InodeNo::ROOT {
            let stored = self.inodes[root].parent;
            report.found(Finding::Parent { ino: InodeNo::ROOT, stored, found: InodeNo::ROOT });
        }
        let mut state = alloc::vec![Reach::Unknown; self.inodes.len()];
        state[root] = Reach::Reached;
        for start in 0..self.inodes.len() {
            let (mut at, mut path) = (start, Vec::new());
            let end = loop {
                if state[at] != Reach::Unknown {
                    break state[at];
                }
                let known = &self.inodes[at];
                // Others than directories are reached through their names; orphans hang on nothing.
                if known.kind != FileKind::Directory || known.links == 0 {
                    break if path.is_empty() { Reach::Reached } else { Reach::Lost };
                }
                state[at] = Reach::UnderWay;
                path.push(at);
                match self.find(known.parent) {
                    Some(parent) => at = parent,
                    None => break Reach::Lost,
                }
            };
            let reached = if end == Reach::Reached { Reach::Reached } else { Reach::Lost };
            for &at in &path {
                state[at] = reached;
                if reached == Reach::Lost {
                    report.found(Finding::Unreachable { ino: self.inodes[at].ino });
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    UnderWay,
    Reached,
    Lost,
}

impl Current {
    fn nothing() -> Current {
        Current {
            object: ObjectId(0),
            inode: None,
            owner: None,
            entries: 0,
            subdirs: 0,
            bucket: (0, Vec::new()),
            xattrs: Xattrs::default(),
            stated_xattrs: None,
            inline_len: None,
            chunks: false,
            last_block: None,
            last_data: None,
            orphaned: false,
        }
    }
}

fn check_directory(ino: InodeNo, inode: &Directory, current: &Current, report: &mut Report<'_>) {
    if inode.kind != FileKind::Directory {
        return;
    }
    if inode.entries != current.entries {
        report.found(Finding::EntryCount { dir: ino, stored: inode.entries, found: current.entries });
    }
    if u64::from(inode.subdirs) != current.subdirs {
        report.found(Finding::SubdirCount { dir: ino, stored: inode.subdirs, found: current.subdirs });
    }
    let links = EMPTY_DIR_LINKS + current.subdirs;
    if inode.links > 0 && u64::from(inode.links) != links {
        report.found(Finding::LinkCount { ino, stored: inode.links, found: links });
    }
}

fn check_content(content: &Content, current: &Current, report: &mut Report<'_>) {
    let &Content { ino, size, inline, past_end } = content;
    if if inline { current.chunks } else { current.inline_len.is_some() } {
        report.found(Finding::InlineAndChunks { ino });
    }
    let found = current.inline_len.unwrap_or(0);
    if inline && found != size {
        report.found(Finding::InlineLength { ino, size, found });
    }
    // Only promised blocks may stand after the end.
    let last = if past_end { current.last_data } else { current.last_block };
    if let Some(block) = last.filter(|&block| block >= size.div_ceil(BLOCK_SIZE_U64)) {
        report.found(Finding::PastEnd { ino, block });
    }
}
