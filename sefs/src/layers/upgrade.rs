//! Another version of the images below a volume, with everything that is the volume's own kept.
//!
//! Inode numbers of images are made of paths, so a number is the same file in both versions. For every number that the volume has
//! a record of:
//! - content that the two versions have alike stays where it is, block by block;
//! - content that differs, or that the new version does not have, becomes the volume's own whole before anything else;
//! - names that only the old version had are put, with the directories that lead to them.
//!
//! Where both sides changed the same thing, the volume's side stays, and a [`Conflict`] tells.
//!
//! *Invariants*: until the one checkpoint that names the new images, the volume over the old ones shows what it did before; from
//! then on it shows the new ones. Nothing of the volume's own is removed.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::backend::Backend;
use crate::check::{Amend, CheckOptions, Finding, Stage};
use crate::env::Env;
use crate::error::{Error, Incompatible, Posix, Result};
use crate::format::{BlockState, DirEntryRecord, FileKind, Inode, Key, Kind, LowerRecord, MAX_EPOCHS};
use crate::keys::VolumeKey;
use crate::layers::content::{Versions, attributes};
use crate::layers::make::{inode_of, refuse_crossed_links, stack, survey};
use crate::layers::paths::{Paths, each_entry};
use crate::repair::{Fitted, fit};
use crate::store::{Lower, Need, PACKED_IDS_END, Store, StoreOptions, chunk_key, record_error};
use crate::types::{BLOCK_SIZE, InodeNo, ObjectId};
use crate::vfs::NewLower;
use crate::workers::NoWorkers;

/// Something that the volume and the new images have both changed, or that only one of them has any more. The volume's side
/// stays, and the image's is still in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Where it is, without a slash before it.
    pub path: Vec<u8>,
    /// What it is about.
    pub why: Why,
}

/// What a conflict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The content was changed in the volume, and another version of it is in the new images.
    Content,
    /// Owner, permissions or attributes were changed in the volume, and others are in the new images.
    Attributes,
    /// It was changed in the volume, and the new images do not have it, or something else in its place.
    Gone,
    /// It was made in the volume, and the new images have something else of this name.
    Name,
    /// In the new images it is a further name of something that the volume has something else in place of. Nothing has this name
    /// now: it is the one thing of the images that an upgrade leaves out.
    LeftOut,
    /// It was removed in the volume, and another version of it is in the new images.
    Removed,
}

impl Why {
    /// A word for programs, the same in every release.
    pub fn code(self) -> &'static str {
        match self {
            Why::Content => "content",
            Why::Attributes => "attributes",
            Why::Gone => "gone",
            Why::Name => "name",
            Why::LeftOut => "left-out",
            Why::Removed => "removed",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Content => "content changed in the volume and in the image; the volume's stays",
            Why::Attributes => "attributes changed in the volume and in the image; the volume's stay",
            Why::Gone => "changed in the volume, and no longer in the image; the volume's stays",
            Why::Name => "made in the volume, and the image has something else of this name; the volume's stays",
            Why::LeftOut => {
                "a hard link in the image to something that the volume has something else in place of; left out"
            }
            Why::Removed => "removed in the volume, and changed in the image; it stays removed",
        })
    }
}

/// What an upgrade came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgraded {
    /// The volume lies over the new images, durably.
    Done(Vec<Conflict>),
    /// The volume is as it was, for what it would be would not hold.
    Refused(Vec<Finding>),
}

/// Puts a volume, which nobody has mounted, over other versions of its images.
///
/// `options` are those of a check, with the images that the volume lies over now; both versions are needed, for what differs is
/// taken from the old one. An anchor advances as for a mount.
///
/// Errors: those of opening volume and images; `NoSpace` if what has to become the volume's own finds no room. Whatever fails,
/// the volume shows what it did before, and still lies over the old images.
pub fn upgrade(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    options: &CheckOptions,
    new: &[NewLower],
    env: &Env,
    on: &mut dyn FnMut(Stage, u64, u64),
) -> Result<Upgraded> {
    let table = survey(new, env)?;
    let images: Vec<Lower> = new.iter().map(|lower| lower.image.clone()).collect();
    let new = stack(&table, &images, options.memory_bytes / 8, env)?;
    refuse_crossed_links(&new)?;
    let mut store = Store::open(backend.clone(), key, &store_options(options), env)?;
    if store.lowers().is_empty() {
        return Err(Incompatible::Lowers { needed: 0, given: options.lowers.len() }.into());
    }
    options.lowers.iter().try_for_each(|lower| store.attach_lower(lower, env))?;
    store.below().images()?;
    // Everything into the trees: what is the volume's own is then what its tree has.
    store.merge_all()?;
    let versions = Versions { old: store.below(), new: &new };
    let mut upgrade = Upgrade {
        store: &store,
        versions,
        names: Names::default(),
        amend: Amend::default(),
        conflicts: Vec::new(),
        estranged: BTreeSet::new(),
        removed: Vec::new(),
    };
    upgrade.run(&table, on)?;
    let Upgrade { amend, mut conflicts, .. } = upgrade;
    store.close()?;
    drop(store);
    let options = CheckOptions { lowers: images, ..options.clone() };
    Ok(match fit(backend, key, &options, amend, env, on)? {
        Fitted::Refused(findings) => Upgraded::Refused(findings),
        Fitted::Done => {
            conflicts.sort();
            conflicts.dedup();
            Upgraded::Done(conflicts)
        }
    })
}

fn store_options(options: &CheckOptions) -> StoreOptions {
    StoreOptions {
        read_only: false,
        anchor: options.anchor.clone(),
        abandon_anchor: options.abandon_anchor,
        volume_id: options.volume_id,
        root_digest: None,
        memory_bytes: options.memory_bytes,
        max_epochs: MAX_EPOCHS,
        workers: Arc::new(NoWorkers),
        corrections: None,
    }
}

/// A name as the volume shows it over the old images.
#[derive(Clone)]
struct Name {
    key: Key,
    record: DirEntryRecord,
}

/// Every name of the volume over the old images, by what it names.
#[derive(Default)]
struct Names {
    all: BTreeMap<InodeNo, Vec<Name>>,
    paths: Paths,
}

impl Names {
    fn of(&self, ino: InodeNo) -> &[Name] {
        self.all.get(&ino).map_or(&[], Vec::as_slice)
    }
}

/// Records that are looked at with one scan.
const SCAN: usize = 1024;
/// Keys that the parts of one attribute may have.
const XATTR_PARTS: u64 = 256;
/// Blocks that become the volume's own in one step.
const STEP_BLOCKS: u64 = 64;

struct Upgrade<'a> {
    store: &'a Store,
    versions: Versions<'a>,
    names: Names,
    amend: Amend,
    conflicts: Vec<Conflict>,
    /// Numbers that are something else in the new images.
    estranged: BTreeSet<u64>,
    /// What the volume has removed, and the new images have changed.
    removed: Vec<InodeNo>,
}

impl Upgrade<'_> {
    fn run(&mut self, table: &[LowerRecord], on: &mut dyn FnMut(Stage, u64, u64)) -> Result<()> {
        self.names = self.walk()?;
        let own = self.own_inodes()?;
        let total = own.len() as u64;
        for (done, (number, inode)) in (0..).zip(own) {
            on(Stage::Changes, done, total);
            match inode {
                None => self.removed(number)?,
                Some(inode) if inode.links > 0 => self.changed(number, &inode)?,
                Some(inode) => self.orphaned(number, &inode)?,
            }
        }
        self.both_made()?;
        self.hide_estranged()?;
        self.tell_removed()?;
        let places = self.store.lowers().len().max(table.len());
        for (place, index) in (1..).zip(0..places) {
            let record = table.get(index).map(LowerRecord::encode);
            self.amend.records.insert(Key::new(0, Kind::Lower, place), record);
        }
        Ok(())
    }

    /// All names, from the root on.
    fn walk(&self) -> Result<Names> {
        let (mut names, mut seen) = (Names::default(), BTreeSet::from([InodeNo::ROOT]));
        let mut pending = alloc::vec![InodeNo::ROOT];
        while let Some(dir) = pending.pop() {
            let (first, end) = (Key::new(dir.0, Kind::DirEntry, 0), Key::new(dir.0, Kind::Xattr, 0));
            for (key, bytes) in self.store.scan(first, end, usize::MAX)? {
                let record = DirEntryRecord::decode(&bytes).map_err(|why| record_error(key, why))?;
                if record.kind == FileKind::Directory && seen.insert(record.ino) {
                    pending.push(record.ino);
                }
                names.paths.add(dir, &record);
                names.all.entry(record.ino).or_default().push(Name { key, record });
            }
        }
        Ok(names)
    }

    /// The numbers of images that the volume has a record of its own for: the inode, or that there is none.
    fn own_inodes(&self) -> Result<Vec<(u64, Option<Inode>)>> {
        let mut found = Vec::new();
        let mut from = Some(Key::new(1, Kind::Inode, 0));
        while let Some(key) = from {
            let records = self.store.own_records(key, Key::new(PACKED_IDS_END, Kind::Inode, 0), SCAN)?;
            from = records.last().filter(|_| records.len() == SCAN).and_then(|(key, _)| key.successor());
            for (key, bytes) in records.into_iter().filter(|(key, _)| key.kind == Kind::Inode) {
                let inode = match bytes.is_empty() {
                    true => None,
                    false => Some(Inode::decode(&bytes).map_err(|why| record_error(key, why))?),
                };
                found.push((key.object, inode));
            }
        }
        Ok(found)
    }

    /// The volume has removed an inode of the images.
    fn removed(&mut self, number: u64) -> Result<()> {
        let new = inode_of(self.versions.new, number)?;
        if new.is_some() && !(self.versions.same_content(number)? && self.versions.same_attributes(number)?) {
            self.removed.push(InodeNo(number));
        }
        Ok(())
    }

    /// The volume has an inode of the images that lost its names and waits for being reclaimed.
    fn orphaned(&mut self, number: u64, inode: &Inode) -> Result<()> {
        self.keep_attributes(number)?;
        match inode.kind() {
            FileKind::Directory => {
                let (first, end) = (Key::new(number, Kind::DirEntry, 0), Key::new(number, Kind::Xattr, 0));
                for (key, _) in self.versions.new.scan(first, end, usize::MAX)? {
                    self.amend.records.insert(key, None);
                }
                Ok(())
            }
            _ if self.versions.same_content(number)? => Ok(()),
            _ => self.keep_content(number, inode),
        }
    }

    /// The volume has changed an inode of the images.
    fn changed(&mut self, number: u64, inode: &Inode) -> Result<()> {
        let (old, new) = (inode_of(self.versions.old, number)?, inode_of(self.versions.new, number)?);
        let is_directory = inode.kind() == FileKind::Directory;
        let Some(old) = old else { return self.returned(number, inode, new.as_ref()) };
        match new {
            None => self.tell(number, Why::Gone),
            Some(new) if new.kind() != inode.kind() => {
                self.estranged.insert(number);
                self.tell(number, Why::Gone);
            }
            Some(_) if !is_directory && !self.versions.same_content(number)? => self.tell(number, Why::Content),
            Some(_) => {
                let facts = |inode: &Inode| (inode.mode, inode.uid, inode.gid);
                if facts(inode) != facts(&old) && !self.versions.same_attributes(number)? {
                    self.tell(number, Why::Attributes);
                }
                self.keep_own_attributes(number)?;
                return self.keep_names(number);
            }
        }
        self.keep_attributes(number)?;
        if !is_directory {
            self.keep_content(number, inode)?;
        }
        self.keep_names(number)
    }

    /// It became the volume's own when an earlier version of the images did without it. If this one has it again, that is another.
    fn returned(&mut self, number: u64, inode: &Inode, new: Option<&Inode>) -> Result<()> {
        let Some(new) = new else { return Ok(()) };
        if new.kind() != inode.kind() {
            self.estranged.insert(number);
        }
        if inode.kind() != FileKind::Directory {
            self.tell(number, Why::Content);
            self.keep_content(number, inode)?;
        }
        self.keep_attributes(number)?;
        self.keep_names(number)
    }

    fn tell(&mut self, number: u64, why: Why) {
        let path = self.names.paths.path(InodeNo(number));
        self.conflicts.push(Conflict { path, why });
    }

    /// The inode's attributes are those that it has now, whatever the new images say.
    fn keep_attributes(&mut self, number: u64) -> Result<()> {
        let (first, end) = (Key::new(number, Kind::Xattr, 0), Key::new(number, Kind::Inline, 0));
        for (key, _) in attributes(self.versions.new, number)? {
            self.amend.records.insert(key, None);
        }
        for (key, value) in self.store.scan(first, end, usize::MAX)? {
            self.amend.records.insert(key, Some(value));
        }
        Ok(())
    }

    /// Of an attribute that the volume has set or removed, no part of the new images' shows.
    fn keep_own_attributes(&mut self, number: u64) -> Result<()> {
        let (first, end) = (Key::new(number, Kind::Xattr, 0), Key::new(number, Kind::Inline, 0));
        let own = self.store.own_records(first, end, usize::MAX)?;
        let own_keys: BTreeSet<Key> = own.iter().map(|(key, _)| *key).collect();
        let set: BTreeSet<u64> = own.iter().map(|(key, _)| key.offset / XATTR_PARTS).collect();
        for (key, _) in attributes(self.versions.new, number)? {
            if set.contains(&(key.offset / XATTR_PARTS)) && !own_keys.contains(&key) {
                self.amend.records.insert(key, None);
            }
        }
        Ok(())
    }

    /// The inode's content is that which it has now: what is below becomes the volume's own, and nothing of the new images shows.
    fn keep_content(&mut self, number: u64, inode: &Inode) -> Result<()> {
        let object = ObjectId(number);
        if inode.object != object {
            // It has content of its own already, and an image's is not looked at through such an inode.
            return Ok(());
        }
        self.make_whole(object)?;
        let inline = Key::new(number, Kind::Inline, 0);
        self.amend.records.insert(inline, self.store.get(inline)?);
        let (mut from, end) = (chunk_key(object, 0), Key::new(number, Kind::Space, 0));
        while let Some(key) = self.versions.new.next_key(from, end)? {
            let content = self.store.read_chunk(self.store.files_root(), key)?;
            for (block, state) in self.versions.new.chunk(key)?.iter() {
                if matches!(state, BlockState::Data(_)) && content.get(block) == BlockState::Absent {
                    self.amend.cleared.insert((object, key.block_number(block)));
                }
            }
            from = key.successor().ok_or(Error::Posix(Posix::FileTooBig))?;
        }
        Ok(())
    }

    /// Blocks of the old images that show become blocks of the volume.
    fn make_whole(&self, object: ObjectId) -> Result<()> {
        let (mut from, end) = (chunk_key(object, 0), Key::new(object.0, Kind::Space, 0));
        while let Some(key) = self.versions.old.next_key(from, end)? {
            let content = self.store.read_chunk(self.store.files_root(), key)?;
            let below: Vec<u64> = content
                .iter()
                .filter(|(_, state)| state.is_below())
                .map(|(block, _)| key.block_number(block))
                .collect();
            for run in below.chunk_by(|one, two| one + 1 == *two) {
                let mut bytes = alloc::vec![0; run.len() * BLOCK_SIZE];
                self.store.read_blocks(object, run[0], &mut bytes)?;
                let mut tx = self.store.begin(Need::Data { blocks: STEP_BLOCKS })?;
                tx.write(object, run[0], &bytes)?;
                tx.finish();
            }
            from = key.successor().ok_or(Error::Posix(Posix::FileTooBig))?;
        }
        self.store.merge_all()
    }

    /// All names that the inode has now stay, with the directories that they stand in.
    fn keep_names(&mut self, number: u64) -> Result<()> {
        let mut pending = alloc::vec![InodeNo(number)];
        while let Some(ino) = pending.pop() {
            for Name { key, record } in self.names.of(ino).to_vec() {
                let there = self.versions.new.get(key)?;
                if self.store.own_record(key)?.is_none() && there.as_deref() != Some(&record.encode()[..]) {
                    if there.is_some() {
                        let path = self.names.paths.path(ino);
                        self.conflicts.push(Conflict { path, why: Why::Name });
                    }
                    self.amend.records.insert(key, Some(record.encode()));
                }
                if self.keep_directory(InodeNo(key.object))? {
                    pending.push(InodeNo(key.object));
                }
            }
        }
        Ok(())
    }

    /// A directory that the new images do not have, and that the volume has not changed, becomes the volume's own; true if so.
    fn keep_directory(&mut self, dir: InodeNo) -> Result<bool> {
        let key = Key::new(dir.0, Kind::Inode, 0);
        if dir.0 >= PACKED_IDS_END || self.store.own_record(key)?.is_some() || self.amend.records.contains_key(&key) {
            return Ok(false);
        }
        if inode_of(self.versions.new, dir.0)?.is_some_and(|inode| inode.kind() == FileKind::Directory) {
            return Ok(false);
        }
        self.amend.records.insert(key, self.store.get(key)?);
        self.keep_attributes(dir.0)?;
        Ok(true)
    }

    /// Further names in the new images of what the volume has something else for would lead to that: they go.
    fn hide_estranged(&mut self) -> Result<()> {
        if self.estranged.is_empty() {
            return Ok(());
        }
        let mut names = Vec::new();
        each_entry(self.versions.new, |key, entry| {
            if self.estranged.contains(&entry.ino.0) {
                names.push((key, entry));
            }
            Ok(())
        })?;
        let paths = Paths::of_images(self.versions.new)?;
        for (key, entry) in names {
            if !self.amend.records.contains_key(&key) && self.store.own_record(key)?.is_none() {
                self.amend.records.insert(key, None);
                let path = paths.entry(InodeNo(key.object), &entry.name);
                self.conflicts.push(Conflict { path, why: Why::LeftOut });
            }
        }
        Ok(())
    }

    /// What the volume has removed has a path in the old images only.
    fn tell_removed(&mut self) -> Result<()> {
        if self.removed.is_empty() {
            return Ok(());
        }
        let paths = Paths::of_images(self.versions.old)?;
        let told = self.removed.iter().map(|ino| Conflict { path: paths.path(*ino), why: Why::Removed });
        self.conflicts.extend(told);
        Ok(())
    }

    /// Names that the volume has put, and that the new images have for something else.
    fn both_made(&mut self) -> Result<()> {
        let mut found = Vec::new();
        for name in self.names.all.values().flatten().filter(|name| name.key.object < PACKED_IDS_END) {
            if self.store.own_record(name.key)?.is_some()
                && self.versions.old.get(name.key)?.is_none()
                && let Some(bytes) = self.versions.new.get(name.key)?
                && bytes != name.record.encode()
            {
                found.push(name.clone());
            }
        }
        for name in found {
            let path = self.names.paths.entry(InodeNo(name.key.object), &name.record.name);
            self.conflicts.push(Conflict { path, why: Why::Name });
        }
        Ok(())
    }
}
