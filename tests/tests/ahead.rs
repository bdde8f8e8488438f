//! A backend that works meanwhile is asked for data before they are wanted. That shows in no answer.

use std::sync::Arc;

use sefs::types::InodeNo;
use sefs::vfs::{AllocateMode, Caller, FileKind, NewInode, SetAttr, Volume, WriteMode};
use sefs_tests::meanwhile::Meanwhile;
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::world::{World, small_memory};

const FILE_BYTES: usize = 3 << 20;

/// A volume with an empty file, and what is to be written to it.
struct Begun {
    world: World,
    backend: Meanwhile,
    volume: Volume,
    ino: InodeNo,
    expected: Vec<u8>,
}

fn begin(seed: u64, dice: &mut Dice) -> Begun {
    let world = World::new(seed);
    let backend = Meanwhile::new(Recorder::plain(world.format(16 << 20)), dice.next());
    let volume = world.open(Arc::new(backend.clone()), &small_memory()).expect("a fresh volume");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, b"file", &new).expect("room").ino;
    let mut expected = vec![0; FILE_BYTES];
    dice.fill(&mut expected);
    Begun { world, backend, volume, ino, expected }
}

/// Two readers go through a file while it changes in front of them.
#[test]
fn readers_see_what_was_written_in_front_of_them() {
    let seed = seed("readers_see_what_was_written_in_front_of_them", 1);
    for round in 0..scaled(6, 600) as u64 {
        let mut dice = Dice::new(seed + round);
        let Begun { backend, volume, ino, mut expected, .. } = begin(seed + round, &mut dice);
        let root = Caller::root();
        volume.write(&root, ino, 0, &expected, WriteMode::Direct).expect("room");
        volume.sync().expect("a healthy disk");
        let mut positions = [0, FILE_BYTES / 2];
        for step in 0..60 {
            let reader = dice.index(2);
            let at = positions[reader];
            let mut out = vec![0; 4096 * (1 + dice.index(120))];
            let read = volume.read(ino, at as u64, &mut out).expect("a healthy disk");
            assert_eq!(read, out.len().min(expected.len() - at), "round {round}, step {step}, seed {seed}");
            assert!(
                out[..read] == expected[at..at + read],
                "round {round}, step {step}, seed {seed}: not what was written"
            );
            positions[reader] = if at + read == expected.len() { 0 } else { at + read };
            let ahead = (positions[reader] + dice.index(1 << 20)).min(FILE_BYTES - 1);
            let len = (1 + dice.index(100_000)).min(FILE_BYTES - ahead);
            match dice.index(8) {
                0..=3 => {
                    dice.fill(&mut expected[ahead..ahead + len]);
                    volume
                        .write(&root, ino, ahead as u64, &expected[ahead..ahead + len], WriteMode::Direct)
                        .expect("room");
                }
                4 => {
                    expected[ahead..ahead + len].fill(0);
                    volume.allocate(&root, ino, ahead as u64, len as u64, AllocateMode::PunchHole).expect("room");
                }
                5 => {
                    expected[ahead..].fill(0);
                    for size in [ahead, FILE_BYTES] {
                        let change = SetAttr { size: Some(size as u64), ..SetAttr::default() };
                        volume.set_attr(&root, ino, &change).expect("room");
                    }
                }
                _ => {}
            }
            if dice.one_in(3) {
                volume.sync().expect("a healthy disk");
            }
            if dice.one_in(3) {
                volume.work(dice.one_in(2)).expect("a healthy disk");
            }
        }
        assert!(backend.most_at_once() > 2, "nothing was asked for ahead");
        drop(volume);
        assert_eq!(backend.waiting(), 0, "batches that nobody waited for");
    }
}

/// What a host answers wrongly ahead of a reader is asked for again, and is told only to whoever wants it.
#[test]
fn a_host_that_lies_ahead_of_a_reader_shows_it_nothing_wrong() {
    let seed = seed("a_host_that_lies_ahead_of_a_reader_shows_it_nothing_wrong", 2);
    let mut lost = 0;
    for round in 0..scaled(8, 800) as u64 {
        let mut dice = Dice::new(seed + round);
        let Begun { world, backend: honest, volume, ino, expected } = begin(seed + round, &mut dice);
        let root = Caller::root();
        // In pieces out of order, so that it is scattered.
        for piece in (0..FILE_BYTES / 65_536).rev() {
            let at = piece * 65_536;
            volume.write(&root, ino, at as u64, &expected[at..at + 65_536], WriteMode::Direct).expect("room");
        }
        volume.close().expect("a healthy disk");
        let host = honest.hostile(12);
        let Ok(volume) = world.open(Arc::new(host.clone()), &small_memory()) else { continue };
        let mut at = 0;
        while at < FILE_BYTES {
            let mut out = vec![0; (4096 * (1 + dice.index(90))).min(FILE_BYTES - at)];
            // It may be wrong again; not for ever.
            match volume.read(ino, at as u64, &mut out) {
                Ok(read) => {
                    assert!(out[..read] == expected[at..at + read], "round {round}, at {at}, seed {seed}: wrong data")
                }
                Err(_) => lost += 1,
            }
            at += out.len();
        }
        drop(volume);
        assert_eq!(host.waiting(), 0, "batches that nobody waited for");
    }
    assert!(lost < 40, "{lost} reads failed: what was wrong ahead is not asked for again");
}
