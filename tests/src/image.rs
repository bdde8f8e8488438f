//! Images to be tampered with, and their histories.

use std::sync::Arc;

use sefs::anchor::{Anchor, AnchorPolicy, AnchorState};
use sefs::backend::Backend;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, FormatOptions, NewInode, OpenOptions, SetAttr, Volume, WriteMode, XattrMode};

use crate::disk::{Disk, PAGE};
use crate::history::History;
use crate::model::{Renaming, XattrSetting};
use crate::op::{Making, Op};
use crate::recorder::{Event, Recorder, Recording};
use crate::stage::{Stage, filling};
use crate::tree::Tree;
use crate::vault::Vault;
use crate::walk::walk;
use crate::world::{World, format_options, small_memory};

/// Bytes of the small ones.
pub const SMALL_SIZE: u64 = 4 << 20;
/// Bytes of the images.
pub const SIZE: u64 = 8 << 20;
/// Pages of a header.
pub const HEADER_PAGES: u64 = 16;
/// Where the checkpoint slots stand.
pub const SLOT_PAGES: [u64; 2] = [16, 17];

/// An image with a bit of everything, and its history.
pub struct Image {
    /// The world that it was made in.
    pub world: World,
    /// The image.
    pub disk: Disk,
    /// How it came about.
    pub recording: Recording,
    /// What it holds.
    pub expected: Tree,
    /// States that a reader may see instead: those after the last group that a later one confirmed.
    pub earlier: Vec<Tree>,
    /// What its anchor holds, if it has one.
    pub anchor: Option<AnchorState>,
}

impl Image {
    /// Closed cleanly: nothing may be missing.
    pub fn closed() -> Image {
        let (world, disk, volume, _) = build();
        let expected = walk(&volume).expect("a healthy disk");
        volume.close().expect("a healthy disk");
        Image { world, disk: disk.disk(), recording: disk.recording(), expected, earlier: Vec::new(), anchor: None }
    }

    /// Dropped after the last sync: the log holds several groups, the last of which nothing confirms.
    pub fn dropped() -> Image {
        let (world, disk, volume, before_last_sync) = build();
        let expected = walk(&volume).expect("a healthy disk");
        drop(volume);
        Image {
            world,
            disk: disk.disk(),
            recording: disk.recording(),
            expected,
            earlier: vec![before_last_sync],
            anchor: None,
        }
    }

    /// A small one with something in each zone: trees, two checkpoints, a log of several groups. Also all states that it
    /// was in, with the events when it had reached them.
    pub fn small(world: World, policy: Option<AnchorPolicy>) -> (Image, History) {
        let vault = Arc::new(Vault::new(1));
        let blank = Recorder::plain(Disk::new(SMALL_SIZE));
        let anchor = policy.map(|policy| (vault.clone() as Arc<dyn Anchor>, policy));
        let format = FormatOptions { anchor, ..format_options(SMALL_SIZE) };
        world.format_on(Arc::new(blank.clone()), &format).expect("formatting an empty disk");
        let disk = Recorder::new(blank.disk());
        let anchor = policy.map(|_| vault.clone() as Arc<dyn Anchor>);
        let options = OpenOptions { anchor, ..small_memory() };
        let mut stage = Stage::on(world.clone(), Arc::new(disk.clone()), &options).expect("a fresh volume");
        let (history, outcome) = History::of(&mut stage, &disk, &small_ops());
        outcome.expect("a healthy disk");
        let last = history.states.len() - 1;
        let acknowledged = history.acknowledged();
        let before = acknowledged[acknowledged.len() - 2];
        let unconfirmed = if policy == Some(AnchorPolicy::Strict) { last..last } else { before..last };
        let image = Image {
            world,
            disk: disk.disk(),
            recording: disk.recording(),
            expected: history.states[last].clone(),
            earlier: history.states[unconfirmed].to_vec(),
            anchor: policy.map(|_| vault.state()),
        };
        (image, history)
    }

    /// Opens a disk as this volume, with an anchor that holds what this image's held.
    pub fn open(&self, disk: &Recorder, read_only: bool) -> sefs::error::Result<Volume> {
        self.open_in(&self.world, disk.clone(), read_only)
    }

    /// The same in another world, on any backend.
    pub fn open_in(
        &self,
        world: &World,
        backend: impl Backend + 'static,
        read_only: bool,
    ) -> sefs::error::Result<Volume> {
        let anchor = self.anchor.as_ref().map(|state| Arc::new(Vault::holding(1, state.clone())) as Arc<dyn Anchor>);
        let options = OpenOptions { read_only, anchor, ..small_memory() };
        world.open(Arc::new(backend), &options)
    }

    /// Ring pages of groups since the last checkpoint, oldest first, by sync.
    pub fn live_groups(&self) -> Vec<Vec<u64>> {
        let ring_start = word(&self.disk, 56);
        let ring = ring_start..ring_start + word(&self.disk, 64);
        let mut groups: Vec<Vec<u64>> = vec![Vec::new()];
        for event in &self.recording.events {
            match event {
                Event::Write { offset_bytes, .. } if SLOT_PAGES.contains(&(offset_bytes / PAGE as u64)) => {
                    groups = vec![Vec::new()];
                }
                Event::Write { offset_bytes, data } => {
                    let first = offset_bytes / PAGE as u64;
                    let pages = first..first + (data.len() / PAGE) as u64;
                    groups.last_mut().expect("never empty").extend(pages.filter(|page| ring.contains(page)));
                }
                Event::Flush { .. } => groups.push(Vec::new()),
                Event::Discard { .. } | Event::Grow(_) => {}
            }
        }
        groups.retain(|pages| !pages.is_empty());
        groups
    }

    /// States that a reader may see of the image with these pages spoilt: those after the last group behind which every
    /// group was hit. None with an anchor, and none if the last group was not hit.
    pub fn cut_short(&self, history: &History, spoilt: &[u64]) -> Vec<Tree> {
        let hit = |group: &&Vec<u64>| group.iter().any(|page| spoilt.contains(page));
        let lost = self.live_groups().iter().rev().take_while(hit).count();
        if lost == 0 || self.anchor.is_some() {
            return Vec::new();
        }
        let last = history.states.len() - 1;
        let acknowledged = history.acknowledged();
        history.states[acknowledged[acknowledged.len() - 1 - lost]..last].to_vec()
    }

    /// Pages that hold something or that a reader asks for.
    pub fn pages(&self) -> Vec<u64> {
        let disk = Recorder::plain(self.disk.clone());
        let volume = self.open(&disk, true).expect("an intact image");
        assert_eq!(walk(&volume).expect("an intact image"), self.expected);
        let mut pages = disk.pages_read();
        pages.extend(self.disk.used_pages());
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

/// A number of the header.
pub fn word(disk: &Disk, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    disk.read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Options of a read-only mount with little memory.
pub fn read_only() -> OpenOptions {
    OpenOptions { read_only: true, ..small_memory() }
}

/// What makes the small image.
fn small_ops() -> Vec<Op> {
    vec![
        Op::Make((0, 0), Making::Directory, 0o755),
        Op::Make((1, 1), Making::File, 0o644),
        Op::Write(0, 0, 9000, 1),
        Op::Make((1, 2), Making::Symlink(40), 0o777),
        Op::Sync,
        Op::Make((0, 2), Making::File, 0o600),
        Op::Write(1, 0, 1500, 2),
        Op::SetXattr(3, 0, 300, XattrSetting::Any),
        Op::Remount,
        Op::Write(0, 5000, 9000, 3),
        Op::Link(4, (1, 3)),
        Op::Work(true),
        Op::Write(0, 0, 4096, 4),
        Op::Sync,
        Op::Write(1, 100, 200, 5),
        Op::Truncate(0, 8000),
        Op::Sync,
        Op::Rename((1, 3), (0, 4), Renaming::Replace),
        Op::Write(1, 1000, 6000, 6),
        Op::Sync,
    ]
}

/// Directories, an inline file, files of several chunks, holes, links, symlinks, attributes; overwritten here and there,
/// over two mounts, with a checkpoint in between and a log after it.
fn build() -> (World, Recorder, Volume, Tree) {
    let world = World::new(77);
    let disk = Recorder::new(world.format(SIZE));
    let volume = world.open(Arc::new(disk.clone()), &small_memory()).expect("a fresh volume");
    let dir = make(&volume, InodeNo::ROOT, "dir", FileKind::Directory);
    let inner = make(&volume, dir, "inner", FileKind::Directory);
    let big = fill(&volume, dir, "big", 0, 700_000);
    fill(&volume, inner, "inline", 0, 1500);
    volume.sync().expect("a healthy disk");
    fill(&volume, inner, "holes", 900_000, 10_000);
    for number in 0..40 {
        fill(&volume, inner, &format!("many {number}"), 0, 100 + number * 37);
    }
    let root = Caller::root();
    volume.set_xattr(&root, big, b"user.large", &filling(9, 9000), XattrMode::Any).expect("a healthy disk");
    volume.link(&root, big, InodeNo::ROOT, b"link to big").expect("a healthy disk");
    make(&volume, dir, "symlink", FileKind::Symlink);
    volume.close().expect("a healthy disk");

    let volume = world.open(Arc::new(disk.clone()), &small_memory()).expect("a healthy disk");
    let overwrite = |offset: u64, seed: u32| {
        let data = filling(seed, 30_000);
        volume.write(&root, big, offset, &data, WriteMode::Direct).expect("a healthy disk");
        volume.sync().expect("a healthy disk");
    };
    overwrite(100_000, 21);
    overwrite(300_001, 22);
    volume.set_attr(&root, big, &SetAttr { size: Some(650_000), ..SetAttr::default() }).expect("a healthy disk");
    fill(&volume, dir, "late", 0, 20_000);
    volume.sync().expect("a healthy disk");
    let before_last_sync = walk(&volume).expect("a healthy disk");
    volume.unlink(&root, dir, b"late").expect("a healthy disk");
    fill(&volume, dir, "last", 0, 9000);
    volume.sync().expect("a healthy disk");
    (world, disk, volume, before_last_sync)
}

/// Makes an inode.
pub fn make(volume: &Volume, dir: InodeNo, name: &str, kind: FileKind) -> InodeNo {
    let target = if kind == FileKind::Symlink { b"dir/inner".to_vec() } else { Vec::new() };
    let new = NewInode { kind, mode: 0o755, rdev: 0, target };
    volume.make(&Caller::root(), dir, name.as_bytes(), &new).expect("a healthy disk").ino
}

/// Makes a file with something in it.
pub fn fill(volume: &Volume, dir: InodeNo, name: &str, offset: u64, len: u32) -> InodeNo {
    let ino = make(volume, dir, name, FileKind::Regular);
    let data = filling(len, len);
    volume.write(&Caller::root(), ino, offset, &data, WriteMode::Direct).expect("a healthy disk");
    ino
}
