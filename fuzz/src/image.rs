//! The images that hostile hosts start from: 4 MiB volumes of every shape that a mount may meet, each with all states that
//! it went through and every page that it ever held.

use std::sync::Arc;

use sefs::env::Env;
use sefs::suite::Suite;
use sefs_tests::disk::{Disk, PAGE};
use sefs_tests::history::History;
use sefs_tests::model::{Allocation, Renaming, XattrSetting};
use sefs_tests::op::{Making, Op};
use sefs_tests::recorder::Recorder;
use sefs_tests::stage::Stage;
use sefs_tests::tree::Tree;
use sefs_tests::world::{World, small_memory};

/// Bytes of an image: the smallest volume.
pub const IMAGE_BYTES: u64 = 4 << 20;

/// An image in memory, shared by all inputs.
pub struct Image {
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
    used: Vec<u64>,
    older: Vec<(u64, Arc<[u8; PAGE]>)>,
    states: Vec<Tree>,
}

impl Image {
    /// All shapes under a suite.
    pub fn all(suite: &Arc<dyn Suite>) -> Vec<Arc<Image>> {
        shapes().iter().map(|(ops, end)| Arc::new(Image::of(suite, ops, *end))).collect()
    }

    fn of(suite: &Arc<dyn Suite>, ops: &[Op], end: End) -> Image {
        let world = world(suite);
        let disk = Recorder::new(world.format(IMAGE_BYTES));
        let mut stage = Stage::on(world, Arc::new(disk.clone()), &small_memory()).expect("a fresh volume");
        let (history, outcome) = History::of(&mut stage, &disk, ops);
        outcome.expect("a healthy disk");
        match end {
            End::Closed => stage.into_volume().close().expect("a healthy disk"),
            End::Left => drop(stage),
        }
        let older = disk.recording().versions();
        let older = older.into_iter().flat_map(|(page, all)| all.into_iter().map(move |bytes| (page, Arc::new(bytes))));
        Image::from_disk(&disk.disk(), older.collect(), history.states)
    }

    fn from_disk(disk: &Disk, older: Vec<(u64, Arc<[u8; PAGE]>)>, states: Vec<Tree>) -> Image {
        let used = disk.used_pages();
        let mut pages = vec![None; usize::try_from(disk.len_bytes()).expect("images are small") / PAGE];
        for page in &used {
            pages[*page as usize] = Some(Arc::new(disk.page(*page)));
        }
        Image { pages, used, older, states }
    }

    /// Its length.
    pub fn len_bytes(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }

    /// A page that is not all zeros.
    pub fn page(&self, page: u64) -> Option<&[u8; PAGE]> {
        self.pages.get(usize::try_from(page).ok()?)?.as_deref()
    }

    /// The pages that are not all zeros.
    pub fn used(&self) -> &[u64] {
        &self.used
    }

    /// Contents that pages had since the volume was made.
    pub fn older(&self) -> &[(u64, Arc<[u8; PAGE]>)] {
        &self.older
    }

    /// Every state, one after each operation; the last one is the image's own.
    pub fn states(&self) -> &[Tree] {
        &self.states
    }
}

/// What a volume under a suite runs on: the same clock and the same random bytes for each input.
pub fn world(suite: &Arc<dyn Suite>) -> World {
    let world = World::new(0xf022);
    World { env: Env { suite: suite.clone(), ..world.env }, ..world }
}

#[derive(Clone, Copy)]
enum End {
    Closed,
    /// As a crash leaves it.
    Left,
}

fn shapes() -> Vec<(Vec<Op>, End)> {
    let synced = [small_tree(), vec![Op::Sync]].concat();
    let unflushed = [synced.clone(), later_changes(), vec![Op::Work(false)]].concat();
    let remounted = [synced.clone(), vec![Op::Remount], later_changes(), vec![Op::Crash], removals(), vec![Op::Sync]];
    let many = [many_files(), vec![Op::Sync, Op::Work(true), Op::Remount], later_changes(), vec![Op::Sync]].concat();
    let orphans = [synced.clone(), holes(), vec![Op::Sync]].concat();
    vec![
        (Vec::new(), End::Closed),
        (small_tree(), End::Closed),
        (synced, End::Left),
        (unflushed, End::Left),
        (remounted.concat(), End::Left),
        (many, End::Left),
        (orphans, End::Left),
    ]
}

/// Directories and names are numbers of what exists: see [`Op`].
fn small_tree() -> Vec<Op> {
    vec![
        Op::Make((0, 0), Making::Directory, 0o755),
        Op::Make((0, 1), Making::File, 0o644),
        Op::Make((1, 0), Making::File, 0o600),
        Op::Make((1, 1), Making::Symlink(40), 0o777),
        Op::Make((0, 3), Making::Directory, 0o1777),
        Op::Make((2, 4), Making::Fifo, 0o644),
        Op::Make((2, 5), Making::Device(0x501), 0o644),
        Op::Write(0, 0, 1000, 1),
        Op::Write(1, 3000, 30_000, 2),
        Op::SetXattr(1, 0, 10, XattrSetting::Any),
        Op::SetXattr(2, 1, 5000, XattrSetting::Any),
        Op::Link(2, (2, 0)),
    ]
}

fn later_changes() -> Vec<Op> {
    vec![
        Op::Make((0, 2), Making::File, 0o644),
        Op::Write(2, 4096, 8192, 3),
        Op::Rename((0, 1), (1, 2), Renaming::Replace),
        Op::Truncate(1, 10_000),
        Op::SetXattr(0, 0, 20, XattrSetting::Any),
    ]
}

fn removals() -> Vec<Op> {
    vec![Op::Unlink((1, 0)), Op::Unlink((2, 4)), Op::RemoveXattr(2, 1), Op::Write(0, 0, 4096, 4)]
}

/// More than one leaf, hence an inner node.
fn many_files() -> Vec<Op> {
    let mut ops = small_tree();
    for dir in 0..8 {
        ops.push(Op::Make((dir, 2), Making::Directory, 0o755));
        ops.extend((3..6).map(|name| Op::Make((dir + 1, name), Making::File, 0o644)));
        ops.push(Op::Make((dir + 2, 6), Making::Symlink(2049), 0o777));
        ops.push(Op::SetXattr(dir, 2, 4096, XattrSetting::Any));
        ops.push(Op::Write(dir, 0, 2000, 9));
    }
    ops
}

/// Chunks with holes, promises and tombstones, and inodes without a name.
fn holes() -> Vec<Op> {
    vec![
        Op::Make((0, 5), Making::File, 0o644),
        Op::Write(3, 1 << 20, 100_000, 5),
        Op::Write(3, 5 << 20, 9000, 6),
        Op::Allocate(3, 300_000, 20_000, Allocation::Allocate { keep_size: true }),
        Op::Allocate(3, 0, 4 << 20, Allocation::Punch),
        Op::Truncate(3, 1 << 19),
        Op::Open(2, 0),
        Op::Unlink((1, 0)),
        Op::Tmpfile(0, 1),
        Op::Sync,
        Op::Write(2, 600_000, 5000, 7),
    ]
}
