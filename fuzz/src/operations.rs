//! Sequences of operations on an honest host, against the model of POSIX in `sefs-tests`, with crashes.
//!
//! Each operation's answer is compared with the model's. Then, in three of four inputs, the disk is set to what a crash could
//! have left, with writes lost, reordered and torn: it mounts to a prefix of the operations that includes all that was
//! acknowledged (P5, P6). In every sixth of these it does so again after a few more operations and another crash. In every
//! thirty-second input, everything that is stored is checked wherever nothing is mounted.
//!
//! Inputs are short: many of them reach more than one that does much.

use std::sync::{Arc, LazyLock};

use sefs::error::{Error, Posix};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, Volume, WriteMode};
use sefs_tests::disk::Disk;
use sefs_tests::history::History;
use sefs_tests::model::{Allocation, Renaming, XattrSetting};
use sefs_tests::op::{Making, Op};
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::Dice;
use sefs_tests::stage::Stage;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, small_memory};

use crate::image::{IMAGE_BYTES, world};
use crate::input::Input;
use crate::memory;
use crate::suites::{Quick, Remembering, shared};

/// A fresh volume of each size, and what it runs on.
static FRESH: LazyLock<(World, [Disk; 2])> = LazyLock::new(|| {
    let world = world(&shared(Remembering::<Quick>::default()));
    let disks = [IMAGE_BYTES, 2 * IMAGE_BYTES].map(|size_bytes| world.format(size_bytes));
    (world, disks)
});

/// The model, the recording and all states are memory too.
const BUDGET_BYTES: usize = 96 << 20;
/// Operations of an input, and of every sixteenth.
const MOST_OPS: [usize; 2] = [8, 32];
/// How many of these mount or compare everything, which takes as long as all others together.
const MOST_PAUSES: [usize; 2] = [1, 32];

/// The target.
pub fn run(input: &[u8]) {
    let (fresh, disks) = &*FRESH;
    memory::within(BUDGET_BYTES, || {
        let mut input = Input::new(input);
        let flags = input.u8();
        let disk = &disks[usize::from(flags & 1)];
        let crashes = if flags >> 1 & 3 == 0 { 0 } else { 1 + u8::from(input.rarely(6)) };
        let plan = CrashPlan { crashes, seed: input.u16().into(), check: input.rarely(32) };
        let long = usize::from(input.rarely(16));
        let atomic = plan.crashes > 0;
        let (mut ops, mut pauses) = (Vec::new(), 0);
        while !input.is_empty() && ops.len() < MOST_OPS[long] {
            let op = operation(&mut input, atomic);
            let is_pause = matches!(op, Op::Remount | Op::Crash | Op::Compare);
            pauses += usize::from(is_pause);
            if !is_pause || pauses <= MOST_PAUSES[long] {
                ops.push(op);
            }
        }
        play(&world(&fresh.env.suite), disk, &ops, &plan);
    });
}

/// Which crashes are tried.
struct CrashPlan {
    /// The second one follows a second life.
    crashes: u8,
    seed: u64,
    check: bool,
}

fn play(world: &World, disk: &Disk, ops: &[Op], plan: &CrashPlan) {
    let options = small_memory();
    let recorder = Recorder::new(disk.clone());
    let mut stage = Stage::on(world.clone(), Arc::new(recorder.clone()), &options).expect("a fresh volume");
    if !plan.check {
        stage.leave_out_checks();
    }
    let (history, outcome) = History::of(&mut stage, &recorder, ops);
    match outcome {
        Ok(()) => stage.compare().expect("a healthy disk"),
        Err(error) => assert!(is_full(&error), "the host is healthy: {error}"),
    }
    drop(stage);
    let mut dice = Dice::new(plan.seed);
    if plan.crashes > 0 {
        let count = dice.index(history.recording.events.len() + 1);
        let crashed = history.recording.crash(count, &mut dice);
        after_crash(world, &crashed, &history, count, plan, &mut dice, &options);
    }
}

fn after_crash(
    world: &World,
    disk: &Disk,
    history: &History,
    count: usize,
    plan: &CrashPlan,
    dice: &mut Dice,
    options: &OpenOptions,
) {
    if plan.check {
        world.check(Arc::new(Recorder::plain(disk.clone())), options, "after a crash");
    }
    let again = Recorder::new(disk.clone());
    let volume = mount(world, &again, dice, options);
    let before = walk(&volume).expect("what mounts after a crash can be read");
    if let Err(wrong) = history.judge(count, &before) {
        panic!("crash after event {count}: {wrong}");
    }
    if plan.crashes == 1 {
        return;
    }
    // A second life, and a second crash at any write of it.
    let Ok(states) = live_on(&volume, before) else { return };
    drop(volume);
    let recording = again.recording();
    let count = dice.index(recording.events.len() + 1);
    let durable = count == recording.events.len();
    let crashed = Recorder::plain(recording.crash(count, dice));
    if plan.check {
        world.check(Arc::new(crashed.clone()), options, "after a second crash");
    }
    let found = walk(&mount(world, &crashed, dice, options)).expect("what mounts after a crash can be read");
    let newest = states.last().expect("three states");
    let allowed = if durable { found == *newest } else { states.contains(&found) };
    assert!(allowed, "after a second crash at {count}: in no allowed state:\n{}", newest.difference(&found));
}

fn mount(world: &World, disk: &Recorder, dice: &mut Dice, options: &OpenOptions) -> Volume {
    let opened = world.reseeded(dice.next()).open(Arc::new(disk.clone()), options);
    opened.unwrap_or_else(|error| panic!("does not mount after a crash: {error}"))
}

/// The states of a short second life; the last one is synced. `Err`: the volume is full.
fn live_on(volume: &Volume, before: sefs_tests::tree::Tree) -> Result<Vec<sefs_tests::tree::Tree>, Error> {
    let root = Caller::root();
    let tree = |volume: &Volume| walk(volume).expect("a healthy disk");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let full = |error: Error| {
        assert!(is_full(&error), "a second life: {error}");
        error
    };
    let attr = volume.make(&root, InodeNo::ROOT, b"second life", &new).map_err(full)?;
    let made = tree(volume);
    volume.write(&root, attr.ino, 100, &[0x77; 5000], WriteMode::Direct).map_err(full)?;
    let written = tree(volume);
    volume.sync().map_err(full)?;
    Ok(vec![before, made, written])
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Posix(Posix::NoSpace))
}

/// One operation. What a crash may leave half done is left out if `atomic`.
fn operation(input: &mut Input<'_>, atomic: bool) -> Op {
    let tag = input.u8();
    match tag % 24 {
        0 | 1 => {
            let (place, choice) = (place(input), input.u8());
            let making = match choice >> 4 {
                0..=6 => Making::File,
                7..=12 => Making::Directory,
                13 => Making::Symlink([1, 40, 2049, 4095][usize::from(choice % 4)]),
                14 => Making::Fifo,
                _ => Making::Device(choice.into()),
            };
            Op::Make(place, making, [0o644, 0o755, 0o2775, 0o1777][usize::from(choice % 4)])
        }
        2..=6 => Op::Write(input.u8(), offset(input), length(input), input.u8().into()),
        7 => Op::Truncate(input.u8(), offset(input)),
        8 => Op::Unlink(place(input)),
        9 => Op::Rmdir(place(input)),
        10 | 11 => {
            let mode = [Renaming::Replace, Renaming::NoReplace, Renaming::Exchange][usize::from(tag / 24 % 3)];
            Op::Rename(place(input), place(input), mode)
        }
        12 => Op::Link(input.u8(), place(input)),
        13 => {
            let keep_size = atomic || tag & 0x80 != 0;
            let mode = match input.u8() % 4 {
                0 => Allocation::Allocate { keep_size },
                1 => Allocation::Zero { keep_size },
                _ => Allocation::Punch,
            };
            Op::Allocate(input.u8(), offset(input), length(input).into(), mode)
        }
        14 if !atomic => Op::Copy(input.u8(), offset(input), input.u8(), offset(input), length(input)),
        14 => Op::Read(input.u8(), offset(input), length(input)),
        15 => {
            let len = [0, 3, 100, 2048, 2049, 4100, 20_000, 65_536][usize::from(input.u8() % 8)];
            let setting = [XattrSetting::Any, XattrSetting::Create, XattrSetting::Replace][usize::from(tag / 24 % 3)];
            Op::SetXattr(input.u8(), input.u8(), len, setting)
        }
        16 => Op::RemoveXattr(input.u8(), input.u8()),
        17 => match input.u8() % 3 {
            0 => Op::SetMode(input.u8(), input.u16() & 0o7777),
            1 => Op::SetOwner(input.u8(), input.u8().into(), input.u8().into()),
            _ => Op::SetMtime(input.u8(), input.u32().cast_signed()),
        },
        18 => match input.u8() % 3 {
            0 => Op::Open(input.u8(), input.u8()),
            1 => Op::Tmpfile(input.u8(), input.u8()),
            _ => Op::Close(input.u8()),
        },
        19 => Op::Sync,
        20 | 21 => Op::Work(tag & 0x40 != 0),
        22 => match tag / 24 % 4 {
            0 => Op::Remount,
            1 => Op::Crash,
            2 => Op::Compare,
            _ => Op::Lookup(place(input)),
        },
        _ => Op::Sync,
    }
}

fn place(input: &mut Input<'_>) -> (u8, u8) {
    let both = input.u8();
    (both >> 3, both & 7)
}

/// Near the borders of inline content, blocks, chunks and ranges, or anywhere below 1 MiB.
fn offset(input: &mut Input<'_>) -> u64 {
    let choice = input.u8();
    let edges = [0, 2048, 4096, 8192, 65_536, 262_144, 524_288, 1 << 20];
    match choice >> 6 {
        0 | 1 => (edges[usize::from(choice >> 3 & 7)] + u64::from(choice & 7)).saturating_sub(4),
        2 => u64::from(choice & 63) * 4096,
        _ => u64::from(input.u16()) << (choice & 3),
    }
}

fn length(input: &mut Input<'_>) -> u32 {
    let choice = input.u8();
    match choice >> 5 {
        0 => u32::from(choice),
        1 => 4096,
        2 => 4096 * u32::from(1 + (choice & 31)),
        3 => 2040 + u32::from(choice & 31),
        4 | 5 => 4090 + u32::from(choice & 31),
        _ => u32::from(input.u16()),
    }
}
