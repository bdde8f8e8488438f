//! A volume and the model side by side: every operation runs on both, and their answers must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sefs::backend::Backend;
use sefs::error::{Error, Posix, Result};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{
    AllocateMode, Attr, FileKind, NewInode, OpenOptions, RenameMode, SetAttr, SetTime, Volume, WriteMode, XattrMode,
};

use crate::disk::Disk;
use crate::model::{Allocation, Id, Model, New, Outcome, ROOT, Renaming, XattrSetting};
use crate::op::{Making, NAMES, Op, Place, XATTRS};
use crate::packed::Packed;
use crate::recorder::Recorder;
use crate::seed::Dice;
use crate::walk::walk;
use crate::world::{ROOT_MODE, World, checked_root};

/// Both, and what leads from one to the other.
pub struct Stage {
    /// What should be.
    pub model: Model,
    /// The clock and the rest that the volume runs on.
    pub world: World,
    backend: Arc<dyn Backend>,
    options: OpenOptions,
    volume: Option<Arc<Volume>>,
    /// Whether others use the volume too: then the clock stands still, and nobody closes the volume.
    shared: bool,
    numbers: BTreeMap<Id, InodeNo>,
    given_out: BTreeSet<InodeNo>,
    slots: [Option<Id>; 4],
    block_limit: u64,
    step: i64,
    /// Whether everything that is stored is checked between two mounts.
    checks: bool,
}

/// What a stage knows of its volume.
#[derive(Clone)]
pub struct Memory {
    model: Model,
    numbers: BTreeMap<Id, InodeNo>,
    given_out: BTreeSet<InodeNo>,
    step: i64,
}

impl Stage {
    /// Formats a disk of this size and opens it; the recording starts after the format.
    pub fn new(size_bytes: u64, options: &OpenOptions, seed: u64) -> (Stage, Recorder) {
        let world = World::new(seed);
        let disk = Recorder::new(world.format(size_bytes));
        let stage = Stage::on(world, Arc::new(disk.clone()), options).expect("opening a fresh volume");
        (stage, disk)
    }

    /// Opens a freshly formatted disk.
    pub fn on(world: World, backend: Arc<dyn Backend>, options: &OpenOptions) -> Result<Stage> {
        let volume = world.open(backend.clone(), options)?;
        Stage::within(world, backend, options, Arc::new(volume), InodeNo::ROOT, 1)
    }

    /// One of `shares` stages on one volume, each with a directory of its own, for a thread each.
    pub fn within(
        world: World,
        backend: Arc<dyn Backend>,
        options: &OpenOptions,
        volume: Arc<Volume>,
        dir: InodeNo,
        shares: u64,
    ) -> Result<Stage> {
        Ok(Stage {
            model: Model::new(world.clock.seconds(), ROOT_MODE),
            world,
            block_limit: volume.stat_fs().blocks / 4 / shares,
            backend,
            options: options.clone(),
            volume: Some(volume),
            shared: shares > 1,
            numbers: BTreeMap::from([(ROOT, dir)]),
            given_out: BTreeSet::from([dir]),
            slots: [None; 4],
            step: 0,
            checks: true,
        })
    }

    /// From now on what is stored is not checked between two mounts, which takes longer than they do; all that is read still
    /// is compared.
    pub fn leave_out_checks(&mut self) {
        self.checks = false;
    }

    /// What is known of the volume, to go on from there with [`Stage::recall`].
    pub fn memory(&self) -> Memory {
        let (model, numbers, given_out) = (self.model.clone(), self.numbers.clone(), self.given_out.clone());
        Memory { model, numbers, given_out, step: self.step }
    }

    /// Opens a disk of which everything is known already; no handle is open.
    pub fn recall(world: World, backend: Arc<dyn Backend>, options: &OpenOptions, memory: &Memory) -> Result<Stage> {
        let mut stage = Stage::on(world, backend, options)?;
        let Memory { model, numbers, given_out, step } = memory.clone();
        (stage.model, stage.numbers, stage.given_out, stage.step) = (model, numbers, given_out, step);
        stage.model.close_all();
        Ok(stage)
    }

    /// The volume; after a failed remount there is none.
    pub fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("the volume is open")
    }

    /// Gives the volume away, for a crash or a close.
    pub fn into_volume(mut self) -> Volume {
        alone(self.volume.take().expect("the volume is open"))
    }

    /// Runs one operation on both. Panics where they differ; returns the error when the volume failed in a way that no
    /// operation by itself explains (a host failure, a latch), in which case the model has not moved.
    pub fn run(&mut self, op: &Op) -> Result<()> {
        self.step += 1;
        if !self.shared {
            self.world.clock.set(self.step);
            self.model.now = self.step;
        }
        match op {
            Op::Make(..) | Op::Tmpfile(..) => self.make(op),
            Op::Link(..) | Op::Unlink(_) | Op::Rmdir(_) | Op::Rename(..) | Op::Lookup(_) => self.names(op),
            Op::Write(..) | Op::Append(..) | Op::Truncate(..) | Op::Allocate(..) | Op::Copy(..) | Op::Read(..) => {
                self.contents(op)
            }
            Op::SetMode(..) | Op::SetOwner(..) | Op::SetMtime(..) | Op::SetXattr(..) | Op::RemoveXattr(..) => {
                self.attributes(op)
            }
            Op::Open(..) | Op::Close(_) => self.handles(op),
            Op::Sync => self.volume().sync(),
            Op::Work(idle) => self.work(*idle),
            Op::Remount => self.remount(true),
            Op::Crash => self.volume().sync().and_then(|()| self.remount(false)),
            Op::Compare => self.compare(),
        }
    }

    /// Compares everything.
    pub fn compare(&mut self) -> Result<()> {
        let found = walk(self.volume())?;
        let expected = self.model.tree();
        assert!(found == expected, "the trees differ:\n{}", expected.difference(&found));
        Ok(())
    }

    /// Opens the volume again, after a clean close or after losing what was only in memory.
    pub fn remount(&mut self, clean: bool) -> Result<()> {
        let volume = alone(self.volume.take().expect("the volume is open"));
        if clean {
            volume.close()?;
        } else {
            drop(volume);
        }
        if self.checks {
            self.world.check(self.backend.clone(), &self.options, "between two mounts");
        }
        self.volume = Some(Arc::new(self.world.open(self.backend.clone(), &self.options)?));
        self.slots = [None; 4];
        self.model.close_all();
        self.compare()
    }

    /// From here on the volume is a fresh one over an image of what it holds: nothing that can be seen changes.
    pub fn rebase(&mut self, is_public: bool) -> Result<Recorder> {
        let volume = alone(self.volume.take().expect("the volume is open"));
        self.model.close_all();
        self.slots = [None; 4];
        let size_bytes = volume.info().size_bytes;
        let image = Packed::of(&volume, is_public, &self.world.env)?;
        drop(volume);
        self.numbers.retain(|_, ino| image.numbers.contains_key(ino));
        self.numbers.values_mut().for_each(|ino| *ino = image.numbers[ino]);
        self.given_out = self.numbers.values().copied().collect();
        let disk = Recorder::new(self.world.format_over(size_bytes, &[image.new_lower()]));
        self.backend = Arc::new(disk.clone());
        self.volume = Some(Arc::new(self.world.open(self.backend.clone(), &self.options)?));
        self.compare()?;
        Ok(disk)
    }

    /// Background work; when idle, so late that everything is due, a checkpoint too.
    fn work(&mut self, idle: bool) -> Result<()> {
        if self.shared {
            return self.volume().work(idle).map(drop);
        }
        if idle {
            self.world.clock.set(self.step + 60);
        }
        let done = self.volume().work(idle);
        self.world.clock.set(self.step);
        done.map(drop)
    }

    fn make(&mut self, op: &Op) -> Result<()> {
        let root = checked_root();
        match *op {
            Op::Make((dir, name), making, mode) => {
                let (dir, name) = self.place((dir, name));
                let new = new_node(making, mode, u64::from(dir as u32));
                let got = self.volume().make(&root, self.number(dir), name, &to_volume(&new));
                let got = settle(got)?;
                let expected = self.model.make(dir, name, &new);
                self.born(op, expected, got)?;
                self.check_node(dir)
            }
            Op::Tmpfile(dir, slot) => {
                let slot = usize::from(slot) % 4;
                self.empty_slot(slot)?;
                let dir = pick(&self.model.directories(), dir);
                let new = new_node(Making::File, 0o600, 0);
                let got = settle(self.volume().make_tmpfile(&root, self.number(dir), &to_volume(&new)))?;
                let expected = self.model.make_tmpfile(dir, &new);
                self.slots[slot] = expected.ok();
                self.born(op, expected, got)
            }
            _ => unreachable!("only operations that make something come here"),
        }
    }

    fn born(&mut self, op: &Op, expected: Outcome<Id>, got: core::result::Result<Attr, Posix>) -> Result<()> {
        agree(op, &expected, &got);
        if let (Ok(id), Ok(attr)) = (expected, got) {
            assert!(self.given_out.insert(attr.ino), "{op:?}: inode number {} was used before", attr.ino);
            self.numbers.insert(id, attr.ino);
            self.check_node(id)?;
        }
        Ok(())
    }

    fn names(&mut self, op: &Op) -> Result<()> {
        let root = checked_root();
        match *op {
            Op::Link(node, place) => {
                let id = pick(&self.model.ids(), node);
                let (dir, name) = self.place(place);
                let got = self.volume().link(&root, self.number(id), self.number(dir), name);
                let got = settle(got.map(drop))?;
                agree(op, &self.model.link(id, dir, name), &got);
                self.check_node(id)?;
                self.check_node(dir)
            }
            Op::Unlink(place) => {
                let (dir, name) = self.place(place);
                let got = settle(self.volume().unlink(&root, self.number(dir), name))?;
                agree(op, &self.model.unlink(dir, name), &got);
                self.check_node(dir)
            }
            Op::Rmdir(place) => {
                let (dir, name) = self.place(place);
                let got = settle(self.volume().rmdir(&root, self.number(dir), name))?;
                agree(op, &self.model.rmdir(dir, name), &got);
                self.check_node(dir)
            }
            Op::Rename(from, to, mode) => {
                let (from, to) = (self.place(from), self.place(to));
                let (from_no, to_no) = (self.number(from.0), self.number(to.0));
                let got = self.volume().rename(&root, from_no, from.1, to_no, to.1, renaming(mode));
                let got = settle(got)?;
                agree(op, &self.model.rename(from, to, mode), &got);
                self.check_node(from.0)?;
                self.check_node(to.0)
            }
            Op::Lookup(place) => {
                let (dir, name) = self.place(place);
                let got = settle(self.volume().lookup(&root, self.number(dir), name).map(|attr| attr.ino))?;
                let expected = self.model.lookup(dir, name).map(|id| self.number(id));
                agree(op, &expected, &got);
                assert!(expected.is_err() || expected.ok() == got.ok(), "{op:?}: another inode");
                Ok(())
            }
            _ => unreachable!("only operations on names come here"),
        }
    }

    fn contents(&mut self, op: &Op) -> Result<()> {
        let (Op::Write(node, ..)
        | Op::Append(node, ..)
        | Op::Truncate(node, _)
        | Op::Allocate(node, ..)
        | Op::Copy(node, ..)
        | Op::Read(node, ..)) = *op
        else {
            unreachable!("only operations on content come here")
        };
        let files = self.files();
        if files.is_empty() {
            return Ok(());
        }
        let id = pick(&files, node);
        let ino = self.number(id);
        let root = checked_root();
        match *op {
            Op::Write(_, offset, len, seed) if self.has_room(u64::from(len)) => {
                let data = filling(seed, len);
                let count = self.volume().write(&root, ino, offset, &data, WriteMode::Direct)?;
                assert_eq!(count, data.len(), "{op:?}: a short write");
                self.model.write(id, offset, &data);
                self.check_range(op, id, offset.saturating_sub(4096), u64::from(len) + 8192)?;
            }
            Op::Append(_, len, seed) if self.has_room(u64::from(len)) => {
                let (data, end) = (filling(seed, len), self.model.node(id).content.size());
                let count = self.volume().write(&root, ino, 0, &data, WriteMode::Append)?;
                assert_eq!(count, data.len(), "{op:?}: a short write");
                self.model.write(id, end, &data);
                self.check_range(op, id, end.saturating_sub(4096), u64::from(len) + 8192)?;
            }
            Op::Truncate(_, size) => {
                let change = SetAttr { size: Some(size), ..SetAttr::default() };
                let got = settle(self.volume().set_attr(&root, ino, &change).map(drop))?;
                agree(op, &self.model.truncate(id, size), &got);
                self.check_range(op, id, size.saturating_sub(8192), 16_384)?;
            }
            Op::Allocate(_, offset, len, mode) if mode == Allocation::Punch || self.has_room(len) => {
                let got = settle(self.volume().allocate(&root, ino, offset, len, allocation(mode)))?;
                agree(op, &self.model.allocate(id, offset, len, mode), &got);
                self.check_range(op, id, offset.saturating_sub(4096), len + 8192)?;
            }
            Op::Copy(_, from_offset, to, to_offset, len) if self.has_room(u64::from(len)) => {
                self.copy(op, (id, from_offset), (pick(&files, to), to_offset), u64::from(len))?;
            }
            Op::Read(_, offset, len) => self.check_range(op, id, offset, u64::from(len))?,
            _ => {}
        }
        self.check_node(id)
    }

    fn copy(&mut self, op: &Op, from: (Id, u64), to: (Id, u64), len: u64) -> Result<()> {
        let size = self.model.node(from.0).content.size();
        let most = len.min(size.saturating_sub(from.1));
        let overlap = |len: u64| from.0 == to.0 && from.1.abs_diff(to.1) < len;
        let (from_no, to_no) = (self.number(from.0), self.number(to.0));
        let got = self.volume().copy_range(&checked_root(), from_no, from.1, to_no, to.1, len);
        match settle(got)? {
            Ok(count) => {
                assert!(!overlap(most), "{op:?}: overlapping ranges were copied");
                assert!(count <= most && (count > 0 || most == 0), "{op:?}: {count} of {most} bytes");
                self.model.copy_range(from, to, count);
                self.check_range(op, to.0, to.1.saturating_sub(4096), len + 8192)?;
            }
            Err(Posix::InvalidArgument) => assert!(overlap(len), "{op:?}: refused without an overlap"),
            Err(other) => panic!("{op:?}: {other:?}"),
        }
        self.check_node(to.0)
    }

    fn attributes(&mut self, op: &Op) -> Result<()> {
        let root = checked_root();
        let (Op::SetMode(node, _)
        | Op::SetOwner(node, ..)
        | Op::SetMtime(node, _)
        | Op::SetXattr(node, ..)
        | Op::RemoveXattr(node, _)) = *op
        else {
            unreachable!("only operations on attributes come here")
        };
        let id = pick(&self.model.ids(), node);
        let ino = self.number(id);
        match *op {
            Op::SetMode(_, mode) if self.model.node(id).kind != FileKind::Symlink => {
                let change = SetAttr { mode: Some(u32::from(mode)), ..SetAttr::default() };
                self.volume().set_attr(&root, ino, &change)?;
                self.model.set_mode(id, u32::from(mode));
            }
            Op::SetOwner(_, uid, gid) => {
                let (uid, gid) = (u32::from(uid), u32::from(gid));
                let change = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
                self.volume().set_attr(&root, ino, &change)?;
                self.model.set_owner(id, uid, gid);
            }
            Op::SetMtime(_, seconds) => {
                let time = Timestamp { seconds: i64::from(seconds), nanoseconds: 0 };
                let change = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
                self.volume().set_attr(&root, ino, &change)?;
                self.model.set_mtime(id, i64::from(seconds));
            }
            Op::SetXattr(_, name, len, setting) => {
                let (name, value) = (XATTRS[usize::from(name) % 4], filling(len | 1, len));
                let got = settle(self.volume().set_xattr(&root, ino, name, &value, xattr_mode(setting)))?;
                agree(op, &self.model.set_xattr(id, name, &value, setting), &got);
            }
            Op::RemoveXattr(_, name) => {
                let name = XATTRS[usize::from(name) % 4];
                let got = settle(self.volume().remove_xattr(&root, ino, name))?;
                agree(op, &self.model.remove_xattr(id, name), &got);
            }
            _ => {}
        }
        self.check_node(id)
    }

    fn handles(&mut self, op: &Op) -> Result<()> {
        match *op {
            Op::Open(node, slot) => {
                let slot = usize::from(slot) % 4;
                self.empty_slot(slot)?;
                let id = pick(&self.model.ids(), node);
                self.volume().acquire(self.number(id))?;
                self.model.acquire(id);
                self.slots[slot] = Some(id);
                Ok(())
            }
            Op::Close(slot) => self.empty_slot(usize::from(slot) % 4),
            _ => unreachable!("only operations on handles come here"),
        }
    }

    fn empty_slot(&mut self, slot: usize) -> Result<()> {
        if let Some(id) = self.slots[slot].take() {
            let ino = self.number(id);
            self.volume().release(ino, 1);
            self.model.release(id);
            if !self.model.exists(id) {
                // It may still be there until the background gets round to it, but nobody can take it up again.
                let gone = settle(self.volume().attr(ino).map(|attr| attr.links))?;
                let right = matches!(gone, Ok(0) | Err(Posix::Stale | Posix::NotFound));
                assert!(right, "inode {ino} has neither name nor handle and is still there: {gone:?}");
            }
        }
        Ok(())
    }

    /// Compares one node's attributes, if it still exists.
    fn check_node(&self, id: Id) -> Result<()> {
        if !self.model.exists(id) {
            return Ok(());
        }
        let node = self.model.node(id);
        let attr = self.volume().attr(self.number(id))?;
        let found = (attr.kind, attr.mode, attr.uid, attr.gid, attr.links, attr.mtime.seconds, attr.ctime.seconds);
        let expected = (node.kind, node.mode, node.uid, node.gid, node.links, node.mtime, node.ctime);
        assert_eq!(expected, found, "kind, mode, uid, gid, links, mtime, ctime of inode {}", attr.ino);
        let size = match node.kind {
            FileKind::Regular => node.content.size(),
            FileKind::Symlink => node.target.len() as u64,
            FileKind::Directory => node.entries.len() as u64,
            _ => 0,
        };
        assert_eq!(size, attr.size, "size of inode {}", attr.ino);
        Ok(())
    }

    fn check_range(&self, op: &Op, id: Id, offset: u64, len: u64) -> Result<()> {
        let expected = self.model.node(id).content.read(offset, len);
        let mut found = vec![0xee; usize::try_from(len).expect("tests read little at once")];
        let count = self.volume().read(self.number(id), offset, &mut found)?;
        assert_eq!(count, expected.len(), "{op:?}: bytes read at {offset}");
        let first = (0..count).find(|at| found[*at] != expected[*at]);
        if let Some(first) = first {
            let (wrong, right) = (found[first], expected[first]);
            panic!("{op:?}: byte {} reads as {wrong:#x}, should be {right:#x}", offset + first as u64);
        }
        Ok(())
    }

    fn has_room(&self, len: u64) -> bool {
        self.model.used_blocks() + len.div_ceil(4096) + 2 <= self.block_limit
    }

    fn files(&self) -> Vec<Id> {
        let regular = |id: &Id| self.model.node(*id).kind == FileKind::Regular;
        self.model.ids().into_iter().filter(regular).collect()
    }

    fn place(&self, (dir, name): Place) -> (Id, &'static [u8]) {
        (pick(&self.model.directories(), dir), NAMES[usize::from(name) % NAMES.len()])
    }

    fn number(&self, id: Id) -> InodeNo {
        self.numbers[&id]
    }
}

fn alone(volume: Arc<Volume>) -> Volume {
    Arc::into_inner(volume).expect("nobody else uses the volume")
}

/// POSIX outcomes are answers; everything else is a failure of the volume or its host.
fn settle<T>(got: Result<T>) -> Result<core::result::Result<T, Posix>> {
    match got {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Posix(outcome)) if outcome != Posix::NoSpace && outcome != Posix::ReadOnly => Ok(Err(outcome)),
        Err(other) => Err(other),
    }
}

fn agree<T, U>(op: &Op, expected: &Outcome<T>, got: &core::result::Result<U, Posix>) {
    match (expected, got) {
        (Ok(_), Ok(_)) => {}
        (Err(any_of), Err(outcome)) if any_of.contains(outcome) => {}
        (Ok(_), Err(outcome)) => panic!("{op:?}: should work, got {outcome:?}"),
        (Err(any_of), Ok(_)) => panic!("{op:?}: worked, should be {any_of:?}"),
        (Err(any_of), Err(outcome)) => panic!("{op:?}: got {outcome:?}, should be {any_of:?}"),
    }
}

fn pick(ids: &[Id], number: u8) -> Id {
    ids[usize::from(number) % ids.len()]
}

/// Bytes that follow from a seed; 0 gives zeros.
pub fn filling(seed: u32, len: u32) -> Vec<u8> {
    let mut data = vec![0; len as usize];
    if seed != 0 {
        Dice::new(u64::from(seed)).fill(&mut data);
    }
    data
}

fn new_node(making: Making, mode: u32, salt: u64) -> New {
    let (kind, rdev, target) = match making {
        Making::File => (FileKind::Regular, 0, Vec::new()),
        Making::Directory => (FileKind::Directory, 0, Vec::new()),
        Making::Symlink(len) => (FileKind::Symlink, 0, vec![b't' + (salt % 5) as u8; usize::from(len)]),
        Making::Fifo => (FileKind::Fifo, 0, Vec::new()),
        Making::Device(rdev) => (FileKind::CharDevice, u64::from(rdev), Vec::new()),
    };
    let mode = if kind == FileKind::Symlink { 0o777 } else { mode };
    New { kind, mode, rdev, target }
}

fn to_volume(new: &New) -> NewInode {
    NewInode { kind: new.kind, mode: new.mode, rdev: new.rdev, target: new.target.clone() }
}

fn renaming(mode: Renaming) -> RenameMode {
    match mode {
        Renaming::Replace => RenameMode::Replace,
        Renaming::NoReplace => RenameMode::NoReplace,
        Renaming::Exchange => RenameMode::Exchange,
    }
}

fn allocation(mode: Allocation) -> AllocateMode {
    match mode {
        Allocation::Allocate { keep_size } => AllocateMode::Allocate { keep_size },
        Allocation::Punch => AllocateMode::PunchHole,
        Allocation::Zero { keep_size } => AllocateMode::ZeroRange { keep_size },
        Allocation::Shift => AllocateMode::Collapse,
    }
}

fn xattr_mode(setting: XattrSetting) -> XattrMode {
    match setting {
        XattrSetting::Any => XattrMode::Any,
        XattrSetting::Create => XattrMode::Create,
        XattrSetting::Replace => XattrMode::Replace,
    }
}

/// A fresh recorder on a copy of a disk.
pub fn copy_of(disk: &Disk) -> Recorder {
    Recorder::new(disk.clone())
}
