//! A crash at any write, with any subset and order of unflushed writes, torn at 512 bytes: the volume mounts without
//! fsck to a prefix of the operations (P5) that includes everything acknowledged as durable (P6).

use std::sync::Arc;

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, Volume, WriteMode};
use sefs_tests::disk::Disk;
use sefs_tests::history::History;
use sefs_tests::op::{Op, Profile, sequence};
use sefs_tests::recorder::{Event, Recorder};
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::tree::Tree;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, small_memory};

const PROFILE: Profile = Profile { atomic: true, largest: 150_000, huge: false, remounts: true };

/// One campaign: a workload, and everything that a crash of it could leave.
struct Campaign {
    seed: u64,
    history: History,
    world: World,
    options: OpenOptions,
    dice: Dice,
}

impl Campaign {
    fn new(size_bytes: u64, ops: &[Op], seed: u64) -> Campaign {
        let options = small_memory();
        let (mut stage, disk) = Stage::new(size_bytes, &options, seed);
        let (history, outcome) = History::of(&mut stage, &disk, ops);
        outcome.unwrap_or_else(|error| panic!("seed {seed}: the workload itself failed: {error}"));
        Campaign { seed, history, world: stage.world.clone(), options, dice: Dice::new(seed ^ 0xc4a5) }
    }

    /// The same over an image of what other operations made.
    fn over_an_image(size_bytes: u64, below: &[Op], ops: &[Op], seed: u64) -> Campaign {
        let options = small_memory();
        let (mut stage, disk) = Stage::new(size_bytes, &options, seed);
        let (_, outcome) = History::of(&mut stage, &disk, below);
        outcome.unwrap_or_else(|error| panic!("seed {seed}: the image's workload failed: {error}"));
        let disk = stage.rebase(seed.is_multiple_of(2)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (history, outcome) = History::of(&mut stage, &disk, ops);
        outcome.unwrap_or_else(|error| panic!("seed {seed}: the workload itself failed: {error}"));
        Campaign { seed, history, world: stage.world.clone(), options, dice: Dice::new(seed ^ 0xc4a5) }
    }

    /// Every prefix, and `samples` losses at each.
    fn run(&mut self, samples: usize) {
        let (operations, events) = (self.history.spans.len(), self.history.recording.events.len());
        println!("seed {}: {operations} operations, {events} writes and flushes", self.seed);
        for count in 0..=self.history.recording.events.len() {
            let after_write = count == 0 || !matches!(self.history.recording.events[count - 1], Event::Flush { .. });
            if after_write {
                let disk = self.history.recording.prefix(count);
                self.judge(count, &disk, "all writes up to here");
            }
            for sample in 0..samples {
                let disk = self.history.recording.crash(count, &mut self.dice);
                self.judge(count, &disk, &format!("loss {sample}"));
            }
        }
    }

    fn judge(&mut self, count: usize, disk: &Disk, what: &str) {
        let context = format!("seed {}, crash after event {count}, {what}", self.seed);
        if self.dice.one_in(3) {
            self.world.check(Arc::new(Recorder::plain(disk.clone())), &self.options, &context);
        }
        let again = Recorder::new(disk.clone());
        let volume = self.mount(&again, &context);
        let found = walk(&volume).unwrap_or_else(|error| panic!("{context}: mounts, then: {error}"));
        if let Err(wrong) = self.history.judge(count, &found) {
            panic!("{context}: {wrong}");
        }
        if self.dice.one_in(6) {
            self.live_on(volume, &again, &found, &context);
        }
    }

    fn mount(&mut self, disk: &Recorder, context: &str) -> Volume {
        let world = self.world.reseeded(self.dice.next());
        world
            .open(Arc::new(disk.clone()), &self.options)
            .unwrap_or_else(|error| panic!("{context}: does not mount: {error}"))
    }

    /// After a recovery the volume works, and a second crash, at any write since the first one, loses nothing either.
    fn live_on(&mut self, volume: Volume, disk: &Recorder, before: &Tree, context: &str) {
        let context = format!("{context}, second life");
        let root = Caller::root();
        let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
        let attr = volume.make(&root, InodeNo::ROOT, b"second life", &new).expect("making a file after recovery");
        let data = vec![0x77; 5000];
        let named = walk(&volume).expect("walking after recovery");
        volume.write(&root, attr.ino, 100, &data, WriteMode::Direct).expect("writing after recovery");
        volume.sync().unwrap_or_else(|error| panic!("{context}: sync: {error}"));
        let written = walk(&volume).expect("walking after recovery");
        let acknowledged = disk.position();
        volume.close().unwrap_or_else(|error| panic!("{context}: close: {error}"));
        let recording = disk.recording();
        for _ in 0..scaled(3, 12) {
            let count = self.dice.index(recording.events.len() + 1);
            let context = format!("{context}, second crash after its event {count}");
            let again = Recorder::plain(recording.crash(count, &mut self.dice));
            self.world.check(Arc::new(again.clone()), &self.options, &context);
            let volume = self.mount(&again, &context);
            let found = walk(&volume).unwrap_or_else(|error| panic!("{context}: mounts, then: {error}"));
            let allowed = found == written || (count < acknowledged && (found == *before || found == named));
            assert!(allowed, "{context}: neither the old nor the new state:\n{}", written.difference(&found));
        }
    }
}

#[test]
fn random_workloads() {
    let seed = seed("random_workloads", 11);
    for round in 0..scaled(12, 300) as u64 {
        let ops = sequence(PROFILE, 70, seed + round);
        Campaign::new(16 << 20, &ops, seed + round).run(scaled(2, 6));
    }
}

/// Over an image, whose blocks and records are partly shadowed: what a crash leaves does not depend on where things stand.
#[test]
fn over_images() {
    let seed = seed("over_images", 41);
    for round in 0..scaled(5, 150) as u64 {
        let below = sequence(PROFILE, 60, seed + 2 * round);
        let ops = sequence(PROFILE, 60, seed + 2 * round + 1);
        Campaign::over_an_image(16 << 20, &below, &ops, seed + round).run(scaled(1, 4));
    }
}

/// Hardly any syncs: long windows of unflushed writes, and flushes that only the background makes.
#[test]
fn long_windows() {
    let seed = seed("long_windows", 23);
    for round in 0..scaled(8, 100) as u64 {
        let mut ops = sequence(Profile { remounts: false, ..PROFILE }, 120, seed + round);
        ops.retain(|op| !matches!(op, Op::Sync));
        Campaign::new(8 << 20, &ops, seed + round).run(scaled(2, 6));
    }
}

/// The first commit after a mount starts an epoch; it is cut at every write.
#[test]
fn first_commit_after_a_mount() {
    let seed = seed("first_commit_after_a_mount", 31);
    for round in 0..scaled(8, 50) as u64 {
        let mut ops = sequence(Profile { remounts: false, ..PROFILE }, 12, seed + round);
        ops.push(Op::Sync);
        let tail = sequence(Profile { remounts: false, ..PROFILE }, 6, seed + round + 1000);
        for op in [Op::Remount, Op::Crash] {
            ops.push(op);
            ops.extend(tail.clone());
            ops.push(Op::Sync);
        }
        Campaign::new(8 << 20, &ops, seed + round).run(scaled(4, 20));
    }
}

/// Dropping a volume without closing it writes nothing: only commits make things durable.
#[test]
fn dropping_writes_nothing() {
    let (mut stage, disk) = Stage::new(8 << 20, &small_memory(), 5);
    for op in sequence(Profile { remounts: false, ..PROFILE }, 40, 5) {
        stage.run(&op).expect("a healthy disk");
    }
    let before = disk.position();
    drop(stage);
    assert_eq!(disk.position(), before);
}

/// A sync with nothing new costs no I/O.
#[test]
fn an_idle_sync_costs_nothing() {
    let (mut stage, disk) = Stage::new(8 << 20, &small_memory(), 6);
    for op in sequence(Profile { remounts: false, ..PROFILE }, 40, 6) {
        stage.run(&op).expect("a healthy disk");
    }
    stage.run(&Op::Sync).expect("a healthy disk");
    let before = disk.position();
    stage.run(&Op::Sync).expect("a healthy disk");
    assert_eq!(disk.position(), before);
}

/// The process dies, its unflushed writes are still in the host's cache, and the next mount shows them. A sync of that
/// mount promises them, though it has written nothing itself.
#[test]
fn a_sync_promises_what_was_replayed() {
    let seed = seed("a_sync_promises_what_was_replayed", 37);
    for round in 0..scaled(6, 200) as u64 {
        let (mut stage, disk) = Stage::new(8 << 20, &small_memory(), seed + round);
        for op in sequence(Profile { remounts: false, ..PROFILE }, 30, seed + round) {
            stage.run(&op).expect("a healthy disk");
        }
        stage.world.clock.set(1000);
        stage.volume().work(true).expect("a healthy disk");
        let world = stage.world.clone();
        drop(stage);
        let volume = world.reseeded(1).open(Arc::new(disk.clone()), &small_memory()).expect("nothing is lost yet");
        let promised = walk(&volume).expect("a healthy disk");
        volume.sync().expect("a healthy disk");
        let recording = disk.recording();
        drop(volume);
        let mut dice = Dice::new(seed + round);
        for sample in 0..20 {
            let crashed = Recorder::plain(recording.crash(recording.events.len(), &mut dice));
            let volume = world.reseeded(2).open(Arc::new(crashed), &small_memory()).expect("mounts after a crash");
            let found = walk(&volume).expect("mounts after a crash");
            let difference = promised.difference(&found);
            assert!(found == promised, "seed {}, loss {sample}: a promised state is lost:\n{difference}", seed + round);
        }
    }
}
