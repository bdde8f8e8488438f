//! A quick slice of the long campaigns (`cargo run --release -p sefs-tests --bin campaign`), and what they found.

use std::sync::Arc;

use sefs::error::{Error, Tampered};
use sefs::types::InodeNo;
use sefs::vfs::{FileKind, Notice};
use sefs_tests::campaign::{Campaign, Failure, crash, storm, tamper};
use sefs_tests::disk::PAGE;
use sefs_tests::history::History;
use sefs_tests::image::{SLOT_PAGES, make};
use sefs_tests::op::{Making, Op};
use sefs_tests::recorder::{Event, Recorder};
use sefs_tests::seed::{scaled, seed};
use sefs_tests::simulator::{Fault, Request, Simulator, Strike};
use sefs_tests::stage::Stage;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, small_memory};

fn slice(test: &str, default: u64, run: impl FnOnce(&mut Campaign) -> Result<(), Failure>) {
    let mut campaign = Campaign::new(seed(test, default));
    let outcome = run(&mut campaign);
    println!("{test}: {}", campaign.line());
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn crashes() {
    slice("crashes", 81, |campaign| crash::run(campaign, scaled(1500, 100_000) as u64));
}

#[test]
fn tampering() {
    slice("tampering", 82, |campaign| tamper::run(campaign, scaled(600, 1) as u64));
}

#[test]
fn storms() {
    slice("storms", 83, |campaign| storm::run(campaign, scaled(40, 2000) as u64));
}

/// The host puts the older slot back in place of the newest. The log goes on from the one that is left, and may name blocks
/// that the checkpoint which is gone had set free: the same state all the same, and the slot is reported as damaged.
#[test]
fn the_older_slot_put_back_is_a_lost_slot() {
    let mut reported = 0;
    for rounds in 1..8u16 {
        let (mut stage, disk) = Stage::new(8 << 20, &small_memory(), 84);
        let mut ops = vec![Op::Make((0, 0), Making::File, 0o600)];
        for round in 0..rounds {
            ops.extend([Op::SetMode(0, 0o700 + round), Op::Work(true)]);
        }
        ops.extend([Op::Write(0, 0, 9000, 77), Op::Sync]);
        let (history, outcome) = History::of(&mut stage, &disk, &ops);
        outcome.expect("a healthy disk");
        let world = stage.world.clone();
        drop(stage);
        let is_slot = |offset_bytes: &u64| SLOT_PAGES.contains(&(offset_bytes / PAGE as u64));
        let slots = history.recording.events.iter().filter_map(|event| match event {
            Event::Write { offset_bytes, data } if is_slot(offset_bytes) => Some((*offset_bytes, data.clone())),
            _ => None,
        });
        let slots: Vec<_> = slots.collect();
        let [.., (place, older), _, (newest, _)] = &slots[..] else { continue };
        assert_eq!(place, newest, "slots take turns");
        let mut back = disk.disk();
        back.write(*place, older);
        let host = Recorder::plain(back);
        let opened = world.reseeded(1).open(Arc::new(host.clone()), &small_memory());
        let volume = opened.unwrap_or_else(|error| panic!("{rounds} rounds: {error} ({error:?})"));
        let expected = history.states.last().expect("there is a last state");
        assert_eq!(walk(&volume).expect("the same state"), *expected, "{rounds} rounds");
        let index = u8::from(*newest == SLOT_PAGES[1] * PAGE as u64);
        reported += usize::from(volume.info().notices.contains(&Notice::DamagedSlot { index }));
        make(&volume, InodeNo::ROOT, "new", FileKind::Regular);
        let expected = walk(&volume).expect("a healthy disk");
        volume.close().expect("a healthy disk");
        world.check(Arc::new(host.clone()), &small_memory(), "after the repair");
        let volume = world.reseeded(2).open(Arc::new(host), &small_memory()).expect("the slots are rewritten");
        assert_eq!(walk(&volume).expect("the same state"), expected, "{rounds} rounds");
        assert!(!volume.info().notices.iter().any(|notice| matches!(notice, Notice::DamagedSlot { .. })));
    }
    assert!(reported > 0, "no run took a block that was held back");
}

/// The host puts the older slot back in place of the newest, and the other one is gone too: a group tells of a checkpoint that
/// stood where the old one stands. What is missing are the slots, and that is what the error names.
#[test]
fn both_newer_checkpoints_gone_are_missed() {
    let mut told = 0;
    for rounds in 2..8u16 {
        let (mut stage, disk) = Stage::new(8 << 20, &small_memory(), 87);
        let mut ops = vec![Op::Make((0, 0), Making::File, 0o600)];
        for round in 0..rounds {
            ops.extend([Op::SetMode(0, 0o700 + round), Op::Write(0, 0, 9000, u32::from(round)), Op::Work(true)]);
        }
        ops.extend([Op::Write(0, 0, 9000, 77), Op::Sync]);
        let (history, outcome) = History::of(&mut stage, &disk, &ops);
        outcome.expect("a healthy disk");
        let world = stage.world.clone();
        drop(stage);
        let is_slot = |offset_bytes: &u64| SLOT_PAGES.contains(&(offset_bytes / PAGE as u64));
        let slots = history.recording.events.iter().filter_map(|event| match event {
            Event::Write { offset_bytes, data } if is_slot(offset_bytes) => Some((*offset_bytes, data.clone())),
            _ => None,
        });
        let slots: Vec<_> = slots.collect();
        let [.., (place, older), (between, _), (newest, _)] = &slots[..] else { continue };
        assert_eq!(place, newest, "slots take turns");
        let mut back = disk.disk();
        back.write(*place, older);
        back.write(*between, &[0; PAGE]);
        let opened = world.reseeded(1).open(Arc::new(Recorder::plain(back)), &small_memory());
        assert_eq!(opened.err(), Some(Error::Tampered(Tampered::CheckpointSlots)), "{rounds} rounds");
        told += 1;
    }
    assert!(told > 3);
}

/// A checkpoint copies blocks from the log to their homes. One wrong answer on the way loses nothing that was acknowledged:
/// the checkpoint fails or does without, the next one works, and all of it is still there.
#[test]
fn a_wrong_answer_during_a_checkpoint_loses_nothing() {
    let ops = [
        Op::Make((0, 0), Making::File, 0o600),
        Op::Write(0, 0, 30_000, 1),
        Op::Sync,
        Op::Write(0, 8192, 9000, 2),
        Op::Make((0, 1), Making::File, 0o600),
        Op::Write(1, 3000, 20_000, 3),
        Op::Sync,
    ];
    let run = |strikes: &[Strike]| {
        let world = World::new(85);
        let disk = Recorder::new(world.format(8 << 20));
        let host = Arc::new(Simulator::new(disk.clone(), strikes, 85));
        let mut stage = Stage::on(world, host.clone(), &small_memory()).expect("left alone");
        let (history, outcome) = History::of(&mut stage, &disk, &ops);
        outcome.expect("left alone");
        (stage, disk, host, history)
    };
    let (mut stage, _, host, _) = run(&[]);
    let before = host.requests(Request::Read);
    stage.run(&Op::Work(true)).expect("a healthy disk");
    let reads = before..host.requests(Request::Read);
    assert!(!reads.is_empty(), "the checkpoint reads what it copies");
    let mut refused = 0;
    for (after, fault) in reads.flat_map(|after| [(after, Fault::FlipRead), (after, Fault::OtherRead)]) {
        let (mut stage, disk, host, history) = run(&[Strike { fault, after, for_ever: false }]);
        refused += usize::from(stage.run(&Op::Work(true)).is_err());
        assert_eq!(host.struck().get(&fault), Some(&1));
        stage.run(&Op::Work(true)).expect("the host is honest again");
        stage.run(&Op::Sync).expect("the host is honest again");
        let world = stage.world.clone();
        drop(stage);
        world.check(Arc::new(disk.clone()), &small_memory(), "after one wrong answer");
        let volume = world.reseeded(after).open(Arc::new(disk), &small_memory()).expect("nothing false is on the disk");
        let found = walk(&volume).expect("nothing false is on the disk");
        assert_eq!(found, *history.states.last().expect("there is a last state"), "{fault:?} at read {after}");
    }
    assert!(refused > 0);
}

/// The newest slot reads wrong once, at a mount, and is whole on the disk. What that mount writes, cut short anywhere, does
/// not spoil it: the next mount shows the state that was acknowledged.
#[test]
fn a_slot_misread_once_is_not_believed_later() {
    let mut cuts = 0;
    for rounds in 0..4u16 {
        let (mut stage, disk) = Stage::new(8 << 20, &small_memory(), 86);
        let mut ops = vec![Op::Make((0, 0), Making::File, 0o600), Op::Write(0, 0, 9000, 1), Op::Sync];
        for round in 0..rounds {
            ops.extend([Op::SetMode(0, 0o700 + round), Op::Work(true)]);
        }
        ops.push(Op::Sync);
        History::of(&mut stage, &disk, &ops).1.expect("a healthy disk");
        let (world, expected) = (stage.world.clone(), stage.model.tree());
        drop(stage);
        let base = disk.disk();
        for slot in 0..2 {
            let second = Recorder::new(base.clone());
            // Requests 0 to 2 read the header, to see what kind of image it is, again, to open it, and its replica.
            let strike = Strike { fault: Fault::FlipRead, after: 3 + slot, for_ever: false };
            let host = Arc::new(Simulator::new(second.clone(), &[strike], 86));
            let volume = world.reseeded(slot).open(host, &small_memory()).expect("either slot leads to the same state");
            assert_eq!(walk(&volume).expect("the same state"), expected);
            let index = u8::try_from(slot).expect("0 or 1");
            assert!(volume.info().notices.contains(&Notice::DamagedSlot { index }));
            make(&volume, InodeNo::ROOT, "new", FileKind::Regular);
            let with_new = walk(&volume).expect("a healthy disk");
            volume.sync().expect("a healthy disk");
            volume.close().expect("a healthy disk");
            let recording = second.recording();
            for count in 0..=recording.events.len() {
                let cut = Arc::new(Recorder::plain(recording.prefix(count)));
                let context = format!("{rounds} rounds, slot {slot} misread, cut at {count}");
                world.check(cut.clone(), &small_memory(), &context);
                let opened = world.reseeded(2).open(cut, &small_memory());
                let volume = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
                let found = walk(&volume).expect("the same state");
                assert!(found == expected || found == with_new, "{context}");
                cuts += 1;
            }
        }
    }
    assert!(cuts > 50);
}
