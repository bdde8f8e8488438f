//! No nonce is used twice under one key (P8): over checkpoints, crashes, failed writes, reopenings and clones.

use std::sync::Arc;

use sefs::env::Env;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Volume, WriteMode};
use sefs_tests::faulty::{Fails, Faulty, Plan};
use sefs_tests::history::History;
use sefs_tests::ledger::Ledger;
use sefs_tests::op::{Op, Profile, sequence};
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::world::{SeededRng, World, small_memory};

const PROFILE: Profile = Profile { atomic: false, largest: 150_000, huge: false, remounts: true };
const SIZE: u64 = 16 << 20;

/// A world that writes into `ledger`.
fn world(ledger: &Ledger, seed: u64) -> World {
    let world = World::new(seed);
    let env = Env { suite: ledger.suite(world.env.suite.clone()), ..world.env };
    World { env, ..world }
}

fn run(ledger: &Ledger, ops: &[Op], seed: u64) -> (World, History) {
    let world = world(ledger, seed);
    let disk = Recorder::new(world.format(SIZE));
    let mut stage = Stage::on(world.clone(), Arc::new(disk.clone()), &small_memory()).expect("a fresh volume");
    let (history, outcome) = History::of(&mut stage, &disk, ops);
    outcome.expect("a healthy disk");
    (world, history)
}

/// Something that every volume can do, different for each `mark`.
fn scribble(volume: &Volume, mark: u64) -> sefs::error::Result<()> {
    let root = Caller::root();
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let name = format!("scribble {mark}");
    let ino = match volume.lookup(&root, InodeNo::ROOT, name.as_bytes()) {
        Ok(attr) => attr.ino,
        Err(_) => volume.make(&root, InodeNo::ROOT, name.as_bytes(), &new)?.ino,
    };
    let mut data = vec![0; 20_000];
    Dice::new(mark).fill(&mut data);
    volume.write(&root, ino, mark % 5000, &data, WriteMode::Direct)?;
    volume.sync()
}

#[test]
fn over_a_life_with_remounts() {
    let seed = seed("over_a_life_with_remounts", 3);
    let ledger = Ledger::default();
    for round in 0..scaled(4, 200) as u64 {
        run(&ledger, &sequence(PROFILE, 150, seed + round), seed + round);
    }
    assert!(ledger.seals() > 500 && ledger.keys() > 10, "the ledger saw {} seals", ledger.seals());
    ledger.assert_clean("over a life");
}

#[test]
fn over_crashes() {
    let seed = seed("over_crashes", 4);
    let ledger = Ledger::default();
    let (world, history) = run(&ledger, &sequence(PROFILE, 60, seed), seed);
    let mut dice = Dice::new(seed);
    let before = ledger.seals();
    for _ in 0..scaled(150, 5000) {
        let count = dice.index(history.recording.events.len() + 1);
        let disk = Recorder::plain(history.recording.crash(count, &mut dice));
        let volume = world.reseeded(dice.next()).open(Arc::new(disk), &small_memory()).expect("mounts after a crash");
        scribble(&volume, dice.next()).expect("works after a crash");
        if dice.one_in(2) {
            volume.close().expect("closes after a crash");
        }
    }
    assert!(ledger.seals() > before + 300);
    ledger.assert_clean("over crashes");
}

/// Writes that fail, torn or not, once or for ever; then the volume is opened again.
#[test]
fn over_failed_writes() {
    let seed = seed("over_failed_writes", 5);
    let ledger = Ledger::default();
    let mut dice = Dice::new(seed);
    let mut failures = 0;
    for round in 0..scaled(60, 3000) as u64 {
        let world = world(&ledger, seed + round);
        let disk = Recorder::plain(world.format(SIZE));
        let what = *dice.pick(&[Fails::Write, Fails::Write, Fails::Flush]);
        let plan = Plan { what, after: dice.below(60), for_ever: dice.one_in(2), errno: *dice.pick(&[5, 28]) };
        let faulty = Arc::new(Faulty::new(disk.clone(), Some(plan), dice.next()));
        if let Ok(volume) = world.open(faulty.clone(), &small_memory()) {
            for _ in 0..12 {
                // Errors are expected; what counts is that every retry seals with fresh nonces.
                drop(scribble(&volume, dice.below(4)));
                drop(volume.work(true));
            }
            drop(volume.close());
        }
        failures += faulty.failures();
        let volume = world.reseeded(dice.next()).open(Arc::new(disk), &small_memory()).expect("a healthy disk again");
        scribble(&volume, dice.next()).expect("a healthy disk again");
    }
    assert!(failures > 20, "only {failures} requests failed");
    ledger.assert_clean("over failed writes");
}

/// A host that has no space refuses one write, each in turn, and what was sealed for it is sealed again: with other counters.
#[test]
fn over_a_host_without_space() {
    let seed = seed("over_a_host_without_space", 8);
    let ledger = Ledger::default();
    let (mut refused, mut dice) = (0, Dice::new(seed));
    for after in 0..scaled(60, 200) as u64 {
        let world = world(&ledger, seed + after);
        let disk = Recorder::plain(world.format(SIZE));
        let plan = Plan { what: Fails::Write, after, for_ever: false, errno: 28 };
        let faulty = Arc::new(Faulty::new(disk, Some(plan), dice.next()));
        let volume = world.open(faulty.clone(), &small_memory()).expect("opening writes nothing");
        for step in 0..8 {
            drop(scribble(&volume, dice.below(4)));
            // Much later, so that a checkpoint is due.
            world.clock.set(100 * (step + 1));
            drop(volume.work(true));
        }
        refused += faulty.failures();
    }
    assert!(refused > 20, "only {refused} requests failed");
    ledger.assert_clean("over a host without space");
    assert_eq!(ledger.counters_used_twice(), 0, "a counter came back");
}

/// Two machines go on from one image; only their hardware generators differ.
#[test]
fn over_cloned_images() {
    let seed = seed("over_cloned_images", 6);
    let ledger = Ledger::default();
    let (world, history) = run(&ledger, &sequence(PROFILE, 40, seed), seed);
    let mut dice = Dice::new(seed);
    for _ in 0..scaled(20, 1000) {
        let count = dice.index(history.recording.events.len() + 1);
        let image = history.recording.prefix(count);
        for _ in 0..3 {
            let disk = Arc::new(Recorder::plain(image.clone()));
            let volume = world.reseeded(dice.next()).open(disk, &small_memory()).expect("a clone mounts");
            scribble(&volume, dice.next()).expect("a clone works");
        }
    }
    ledger.assert_clean("over clones");
}

/// A machine is cloned while it has the volume mounted: both know the same keys and count alike. From then on only their
/// hardware generators differ, and that is enough.
#[test]
fn over_machines_cloned_as_they_run() {
    let seed = seed("over_machines_cloned_as_they_run", 7);
    for round in 0..scaled(6, 300) as u64 {
        let ledger = Ledger::default();
        let world = world(&ledger, seed + round);
        let image = world.format(SIZE);
        let clones = [1, 2].map(|clone| {
            let rng = Arc::new(SeededRng::new(seed + round));
            let host = Recorder::new(image.clone());
            let volume = world.with_rng(rng.clone()).open(Arc::new(host.clone()), &small_memory()).expect("it mounts");
            scribble(&volume, round).expect("a healthy disk");
            let position = host.position();
            let before = host.disk().print(&image);
            rng.part(seed + 1000 + clone);
            for mark in 0..5 {
                scribble(&volume, 100 * clone + mark).expect("a healthy disk");
                volume.work(true).expect("a healthy disk");
            }
            (position, before)
        });
        assert_eq!(clones[0], clones[1], "until they part they are one machine");
        assert!(ledger.counters_used_twice() > 10, "they seal with the same keys");
        ledger.assert_clean("over machines that were cloned as they ran");
    }
}

/// The ledger's own test: clones whose generators are the same too do reuse nonces, and the ledger says so.
#[test]
fn the_ledger_sees_a_reuse() {
    let ledger = Ledger::default();
    let world = world(&ledger, 1);
    let image = world.format(SIZE);
    for mark in 0..2 {
        let disk = Arc::new(Recorder::plain(image.clone()));
        let volume = world.reseeded(99).open(disk, &small_memory()).expect("a clone mounts");
        scribble(&volume, mark).expect("a clone works");
    }
    assert!(!ledger.reuses().is_empty());
}
