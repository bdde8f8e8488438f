//! A host that fails to read, write or flush, once or for ever: no panic, no lie, and after the next mount everything
//! that was acknowledged as durable is there. After a failed write or flush the volume is read-only and says why.

use std::sync::Arc;

use sefs::error::{Error, Posix};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, WriteMode};
use sefs_tests::disk::Disk;
use sefs_tests::faulty::{Fails, Faulty, Plan};
use sefs_tests::history::History;
use sefs_tests::op::{Op, Profile, sequence};
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::{Stage, filling};
use sefs_tests::thin::Thin;
use sefs_tests::walk::walk;
use sefs_tests::world::{BrokenRng, World, format_options, small_memory};

const PROFILE: Profile = Profile { atomic: true, largest: 150_000, huge: false, remounts: false };
const SIZE: u64 = 16 << 20;

struct Campaign {
    ops: Vec<Op>,
    seed: u64,
    reference: History,
    requests: [u64; 3],
}

impl Campaign {
    /// Runs the workload once on a healthy host: what should be, and how many requests there are to fail.
    fn new(seed: u64, ops: Vec<Op>) -> Campaign {
        let world = World::new(seed);
        let disk = Recorder::new(world.format(SIZE));
        let healthy = Arc::new(Faulty::new(disk.clone(), None, 0));
        let mut stage = Stage::on(world, healthy.clone(), &small_memory()).expect("a healthy disk");
        let (reference, outcome) = History::of(&mut stage, &disk, &ops);
        outcome.expect("a healthy disk");
        stage.into_volume().close().expect("a healthy disk");
        let requests = [Fails::Read, Fails::Write, Fails::Flush].map(|what| healthy.count(what));
        Campaign { ops, seed, reference, requests }
    }

    fn fail_each(&self, what: Fails, cases: usize) {
        let total = self.requests[what as usize];
        assert!(total > 0, "the workload never asks for {what:?}");
        let step = (total / cases as u64).max(1);
        for after in (0..total).step_by(usize::try_from(step).expect("few requests")) {
            for for_ever in [false, true] {
                self.fail(Plan { what, after, for_ever, errno: 5 });
            }
        }
    }

    fn fail(&self, plan: Plan) {
        let context = format!("seed {}, {plan:?}", self.seed);
        let world = World::new(self.seed);
        let disk = Recorder::new(world.format(SIZE));
        let faulty = Arc::new(Faulty::new(disk.clone(), Some(plan), plan.after));
        let (mut attempted, mut durable) = (0, 0);
        match Stage::on(world.clone(), faulty.clone(), &small_memory()) {
            Err(error) => self.check_error(&error, &context),
            Ok(mut stage) => {
                for (number, op) in self.ops.iter().enumerate() {
                    attempted = number + 1;
                    let outcome = stage.run(op);
                    match &outcome {
                        Ok(()) if *op == Op::Sync => durable = number + 1,
                        Ok(()) => {}
                        Err(error) => {
                            self.check_error(error, &context);
                            self.check_after(&stage, plan, &context);
                            break;
                        }
                    }
                }
                drop(stage);
            }
        }
        world.check(Arc::new(disk.clone()), &small_memory(), &context);
        let volume = world
            .reseeded(plan.after)
            .open(Arc::new(disk), &small_memory())
            .unwrap_or_else(|error| panic!("{context}: does not mount on a healthy host: {error}"));
        let found = walk(&volume).unwrap_or_else(|error| panic!("{context}: mounts, then: {error}"));
        let allowed = &self.reference.states[durable..=attempted];
        if !allowed.contains(&found) {
            let wrong: Vec<String> = allowed.iter().map(|state| state.difference(&found)).collect();
            let last = self.ops[..attempted].last();
            let all = wrong.join("or from the next state:\n");
            panic!(
                "{context}: {attempted} operations, the last {last:?}, {durable} durable; the remount shows:\n{all}"
            );
        }
    }

    fn check_error(&self, error: &Error, context: &str) {
        let honest = matches!(error, Error::Backend(_) | Error::Latched(_));
        assert!(honest, "{context}: a failure of the host is reported as {error:?}");
    }

    /// A failed write or flush latches; a failed read does not.
    fn check_after(&self, stage: &Stage, plan: Plan, context: &str) {
        let volume = stage.volume();
        match plan.what {
            Fails::Write | Fails::Flush => {
                for _ in 0..2 {
                    let again = volume.sync().expect_err("a commit after a failed write");
                    assert!(matches!(again, Error::Latched(_)), "{context}: {again:?}");
                }
                let make = sefs::vfs::NewInode {
                    kind: sefs::vfs::FileKind::Regular,
                    mode: 0o600,
                    rdev: 0,
                    target: Vec::new(),
                };
                let refused = volume.make(&sefs::vfs::Caller::root(), sefs::types::InodeNo::ROOT, b"new", &make);
                let error = refused.expect_err("a volume that latched is read-only");
                let said = matches!(error, Error::Latched(_) | Error::Posix(Posix::ReadOnly));
                assert!(said, "{context}: {error:?}");
            }
            Fails::Read if !plan.for_ever => {
                walk(volume).unwrap_or_else(|error| panic!("{context}: a failed read is remembered: {error}"));
                volume.sync().unwrap_or_else(|error| panic!("{context}: a failed read latched: {error}"));
            }
            Fails::Read => {}
        }
    }
}

fn workload(seed: u64) -> Vec<Op> {
    let mut ops = sequence(PROFILE, 60, seed);
    ops.push(Op::Sync);
    // Enough for checkpoints in between.
    for (number, op) in sequence(PROFILE, 60, seed + 1).into_iter().enumerate() {
        ops.push(op);
        if number % 7 == 0 {
            ops.push(Op::Work(true));
        }
    }
    ops.push(Op::Sync);
    ops
}

#[test]
fn writes_fail() {
    let seed = seed("writes_fail", 51);
    Campaign::new(seed, workload(seed)).fail_each(Fails::Write, scaled(60, 10_000));
}

#[test]
fn flushes_fail() {
    let seed = seed("flushes_fail", 52);
    Campaign::new(seed, workload(seed)).fail_each(Fails::Flush, scaled(30, 10_000));
}

#[test]
fn reads_fail() {
    let seed = seed("reads_fail", 53);
    Campaign::new(seed, workload(seed)).fail_each(Fails::Read, scaled(60, 10_000));
}

/// A host that is out of space loses nothing that was acknowledged.
#[test]
fn the_host_is_out_of_space() {
    let seed = seed("the_host_is_out_of_space", 54);
    let campaign = Campaign::new(seed, workload(seed));
    let mut dice = Dice::new(seed);
    for _ in 0..scaled(20, 1000) {
        let after = dice.below(campaign.requests[Fails::Write as usize]);
        let world = World::new(seed);
        let disk = Recorder::plain(world.format(SIZE));
        let plan = Plan { what: Fails::Write, after, for_ever: true, errno: 28 };
        let faulty = Arc::new(Faulty::new(disk.clone(), Some(plan), after));
        let mut durable = 0;
        let mut attempted = 0;
        if let Ok(mut stage) = Stage::on(world.clone(), faulty, &small_memory()) {
            for (number, op) in campaign.ops.iter().enumerate() {
                attempted = number + 1;
                match stage.run(op) {
                    Ok(()) if *op == Op::Sync => durable = number + 1,
                    Ok(()) => {}
                    Err(_) => break,
                }
            }
        }
        let volume = world.reseeded(after).open(Arc::new(disk), &small_memory()).expect("a healthy host");
        let found = walk(&volume).expect("a healthy host");
        assert!(campaign.reference.states[durable..=attempted].contains(&found), "seed {seed}, after {after} writes");
    }
}

/// The host's disk is thin and has no more space for what was never written: whoever wants to write learns of it, nothing
/// that was accepted is lost, and once there is space everything goes on.
#[test]
fn a_thin_host_runs_out_of_space() {
    let seed = seed("a_thin_host_runs_out_of_space", 56);
    let world = World::new(seed);
    let disk = Recorder::plain(Disk::new(SIZE));
    let thin = Arc::new(Thin::new(disk.clone()));
    world.format_on(thin.clone(), &format_options(SIZE)).expect("formatting an empty disk");
    let volume = world.open(thin.clone(), &small_memory()).expect("a fresh volume");
    let caller = Caller::root();
    let make = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&caller, InodeNo::ROOT, b"file", &make).expect("space at the host").ino;
    let mut content = vec![0; 6 << 20];
    let mut dice = Dice::new(seed);
    let mut refusals = 0;
    for round in 0..scaled(300, 5000) {
        thin.leave(dice.below(60));
        let len = [300, 5000, 40_000, 70_000, 500_000][dice.index(5)];
        let (offset, data) = (dice.index(content.len() - len), filling(round as u32 + 1, len as u32));
        match volume.write(&caller, ino, offset as u64, &data, WriteMode::Direct) {
            Ok(count) => content[offset..offset + count].copy_from_slice(&data[..count]),
            Err(error) => {
                assert_eq!(error, Error::Posix(Posix::NoSpace), "round {round}");
                refusals += 1;
            }
        }
        match dice.below(6) {
            0 | 1 => refusals += no_space_at_most(volume.sync(), round),
            2 => {
                world.clock.set(world.clock.seconds() + 10);
                refusals += no_space_at_most(volume.work(true), round);
            }
            3 => {
                thin.leave(u64::MAX);
                volume.sync().unwrap_or_else(|error| panic!("round {round}: the host has space again: {error}"));
            }
            _ => {}
        }
        let mut found = vec![0; len];
        let count = volume.read(ino, offset as u64, &mut found).expect("reading needs no space");
        assert!(found[..count] == content[offset..offset + count], "round {round}");
    }
    assert!(refusals > 20 && thin.refused() > 20, "the host refused {} writes", thin.refused());
    thin.leave(u64::MAX);
    volume.sync().expect("the host has space again");
    drop(volume);
    world.check(Arc::new(disk.clone()), &small_memory(), "after the host had no space");
    let volume = world.open(Arc::new(disk), &small_memory()).expect("a healthy host");
    let mut found = vec![0; content.len()];
    let count = volume.read(ino, 0, &mut found).expect("a healthy host");
    assert!(found[..count] == content[..count] && content[count..].iter().all(|byte| *byte == 0));
}

fn no_space_at_most<T>(outcome: sefs::error::Result<T>, round: usize) -> u32 {
    match outcome {
        Ok(_) => 0,
        Err(error) => {
            assert_eq!(error, Error::Posix(Posix::NoSpace), "round {round}");
            1
        }
    }
}

/// Once a caller was told of a failed write, no other thread writes anything more.
#[test]
fn threads_stop_when_one_write_fails() {
    let seed = seed("threads_stop_when_one_write_fails", 57);
    let mut dice = Dice::new(seed);
    for round in 0..scaled(25, 1000) {
        let world = World::new(seed);
        let disk = Recorder::plain(world.format(64 << 20));
        let plan = Plan { what: Fails::Write, after: 20 + dice.below(120), for_ever: false, errno: 5 };
        let faulty = Arc::new(Faulty::new(disk, Some(plan), seed));
        let volume = world.open(faulty.clone(), &small_memory()).expect("a fresh volume");
        let told = std::sync::OnceLock::new();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let (volume, told, faulty) = (&volume, &told, &faulty);
                scope.spawn(move || {
                    let caller = Caller::root();
                    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
                    let Ok(file) = volume.make(&caller, InodeNo::ROOT, &[b'a' + thread], &new) else { return };
                    for piece in 0..100 {
                        let (offset, data) = (piece << 17, [thread; 1 << 17]);
                        if volume.write(&caller, file.ino, offset, &data, WriteMode::Direct).is_err() {
                            told.get_or_init(|| faulty.count(Fails::Write));
                            return;
                        }
                    }
                });
            }
        });
        let told = told.get().copied().expect("a write failed");
        assert_eq!(faulty.count(Fails::Write), told, "round {round}: writes after the failure was known");
    }
}

/// Without random bytes nothing is sealed: reading works, the first commit fails, and nothing is lost.
#[test]
fn the_generator_fails() {
    let (stage, disk) = Stage::new(SIZE, &OpenOptions::default(), 55);
    let world = stage.world.clone();
    let before = walk(stage.volume()).expect("a healthy disk");
    stage.into_volume().close().expect("a healthy disk");
    let position = disk.position();
    let broken = World { env: sefs::env::Env { rng: Arc::new(BrokenRng), ..world.env.clone() }, ..world.clone() };
    if let Ok(volume) = broken.open(Arc::new(disk.clone()), &small_memory()) {
        let new =
            sefs::vfs::NewInode { kind: sefs::vfs::FileKind::Directory, mode: 0o700, rdev: 0, target: Vec::new() };
        let made = volume.make(&sefs::vfs::Caller::root(), sefs::types::InodeNo::ROOT, b"new", &new);
        assert!(made.and_then(|_| volume.sync()).is_err(), "a commit without random bytes");
        drop(volume);
    }
    assert_eq!(disk.position(), position, "something was written without random bytes");
    let volume = world.open(Arc::new(disk), &small_memory()).expect("a healthy generator");
    assert_eq!(walk(&volume).expect("a healthy generator"), before);
}
