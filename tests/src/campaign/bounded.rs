//! Every workload of one and of two operations over a small name space, each followed by every kind of commit (Mohan et al.,
//! "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
//!
//! The library has one commit: fsync of a file or of a directory is [`sefs::vfs::Volume::sync`]. So the kinds are none, sync,
//! what the background does when it is busy (log and flush) and when it is idle (checkpoint), and a close.

use std::sync::Arc;

use sefs::vfs::OpenOptions;

use crate::disk::Disk;
use crate::history::History;
use crate::model::{Allocation, Renaming, XattrSetting};
use crate::op::{Making, Op};
use crate::recorder::Recorder;
use crate::stage::{Memory, Stage};
use crate::world::{World, small_memory};

/// What follows an operation.
pub const COMMITS: [Option<Op>; 5] =
    [None, Some(Op::Sync), Some(Op::Work(false)), Some(Op::Work(true)), Some(Op::Remount)];

/// Bytes of the volumes.
pub const SIZE_BYTES: u64 = 8 << 20;

/// A volume that every workload starts from: two directories and an empty one, a large file with two names, an inline
/// file, an empty file, attributes; part of it in the trees, part in the log.
pub struct Fixture {
    disk: Disk,
    memory: Memory,
    options: OpenOptions,
}

impl Fixture {
    /// Builds it.
    pub fn new(world: World) -> Fixture {
        let options = small_memory();
        let disk = Recorder::plain(world.format(SIZE_BYTES));
        let mut stage = Stage::on(world, Arc::new(disk.clone()), &options).expect("a fresh volume");
        for op in fixture() {
            stage.run(&op).expect("a healthy disk");
        }
        let memory = stage.memory();
        Fixture { disk: disk.disk(), memory, options }
    }

    /// Runs a workload on a copy. A warm one has had its first commit already, which otherwise starts the epoch. Returns the
    /// history, and the event at which the workload began.
    pub fn run(&self, world: World, ops: &[Op], warm: bool) -> sefs::error::Result<(History, usize)> {
        let disk = Recorder::new(self.disk.clone());
        let mut stage = Stage::recall(world, Arc::new(disk.clone()), &self.options, &self.memory)?;
        let mut all = Vec::new();
        if warm {
            all.extend([Op::SetMode(0, 0o751), Op::Sync]);
        }
        let before = all.len();
        all.extend_from_slice(ops);
        let (history, outcome) = History::of(&mut stage, &disk, &all);
        outcome?;
        let from = if warm { history.spans[before - 1].end } else { 0 };
        Ok((history, from))
    }
}

/// How many workloads of one operation there are.
pub fn singles() -> usize {
    alphabet().len() * COMMITS.len()
}

/// How many of two there are.
pub fn pairs() -> usize {
    singles() * singles()
}

/// The workload of one operation of this number.
pub fn single(number: usize) -> Vec<Op> {
    let alphabet = alphabet();
    let commit = &COMMITS[number % COMMITS.len()];
    std::iter::once(alphabet[number / COMMITS.len()].clone()).chain(commit.clone()).collect()
}

/// The workload of two operations of this number.
pub fn pair(number: usize) -> Vec<Op> {
    [single(number / singles()), single(number % singles())].concat()
}

/// Directories: 0 the root, 1 `a`, 2 `b`, 3 an empty one. Files: 0 large, 1 inline, 2 empty.
fn fixture() -> Vec<Op> {
    vec![
        Op::Make((0, 0), Making::Directory, 0o755),
        Op::Make((0, 1), Making::Directory, 0o700),
        Op::Make((1, 2), Making::File, 0o644),
        Op::Make((2, 2), Making::File, 0o600),
        Op::Write(0, 0, 150_000, 1),
        Op::Link(3, (2, 1)),
        Op::SetXattr(3, 1, 100, XattrSetting::Any),
        Op::Work(true),
        Op::Write(1, 0, 1500, 2),
        Op::Make((0, 2), Making::File, 0o640),
        Op::Make((0, 3), Making::Directory, 0o755),
        Op::Write(0, 60_000, 9000, 3),
        Op::Sync,
    ]
}

fn alphabet() -> Vec<Op> {
    [names(), contents(), space(), attributes()].concat()
}

fn names() -> Vec<Op> {
    let (replace, refuse, exchange) = (Renaming::Replace, Renaming::NoReplace, Renaming::Exchange);
    vec![
        Op::Make((1, 0), Making::File, 0o644),
        Op::Make((2, 0), Making::Directory, 0o755),
        Op::Make((1, 1), Making::Symlink(40), 0o777),
        Op::Make((3, 1), Making::Symlink(2049), 0o777),
        Op::Link(3, (1, 3)),
        Op::Link(4, (0, 4)),
        Op::Unlink((1, 2)),
        Op::Unlink((2, 1)),
        Op::Unlink((2, 2)),
        Op::Unlink((0, 2)),
        Op::Rmdir((0, 3)),
        Op::Rmdir((0, 1)),
        Op::Rename((1, 2), (2, 2), replace),
        Op::Rename((1, 2), (2, 3), replace),
        Op::Rename((2, 1), (1, 2), replace),
        Op::Rename((0, 2), (3, 0), refuse),
        Op::Rename((0, 2), (1, 2), refuse),
        Op::Rename((1, 2), (2, 2), exchange),
        Op::Rename((0, 0), (0, 1), exchange),
        Op::Rename((0, 1), (1, 1), replace),
        Op::Rename((0, 1), (0, 3), replace),
    ]
}

fn contents() -> Vec<Op> {
    vec![
        Op::Write(0, 4096, 8192, 11),
        Op::Write(0, 5000, 3000, 12),
        Op::Write(0, 140_000, 20_000, 13),
        Op::Write(0, 8192, 90_000, 14),
        Op::Write(1, 700, 100, 15),
        Op::Write(1, 1000, 5000, 16),
        Op::Write(2, 0, 70_000, 17),
        Op::Write(2, 300_000, 4096, 18),
        Op::Append(0, 100, 19),
        Op::Append(1, 600, 20),
        Op::Append(2, 66_000, 21),
        Op::Truncate(0, 0),
        Op::Truncate(0, 61_000),
        Op::Truncate(0, 300_000),
        Op::Truncate(1, 100),
        Op::Truncate(1, 9000),
        Op::Truncate(2, 10_000),
    ]
}

fn space() -> Vec<Op> {
    let (keep, extend) = (Allocation::Zero { keep_size: true }, Allocation::Zero { keep_size: false });
    vec![
        Op::Allocate(0, 4096, 8192, Allocation::Punch),
        Op::Allocate(0, 61_000, 70_000, Allocation::Punch),
        Op::Allocate(1, 10, 500, Allocation::Punch),
        Op::Allocate(0, 5000, 20_000, keep),
        Op::Allocate(0, 140_000, 20_000, extend),
        Op::Allocate(0, 100_000, 100_000, Allocation::Allocate { keep_size: true }),
        Op::Allocate(2, 0, 100_000, Allocation::Allocate { keep_size: false }),
        Op::Copy(0, 0, 2, 0, 20_000),
        Op::Copy(0, 100, 1, 50, 9000),
        Op::Copy(0, 0, 0, 100_000, 70_000),
    ]
}

fn attributes() -> Vec<Op> {
    vec![
        Op::SetXattr(3, 1, 200, XattrSetting::Replace),
        Op::SetXattr(4, 0, 5000, XattrSetting::Create),
        Op::SetXattr(0, 2, 40_000, XattrSetting::Any),
        Op::RemoveXattr(3, 1),
        Op::SetMode(4, 0o4711),
        Op::SetOwner(3, 1, 2),
        Op::SetMtime(4, -5),
    ]
}
