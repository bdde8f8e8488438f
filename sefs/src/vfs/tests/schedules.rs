//! Threads on one volume under one schedule after another: what each was answered and what is there afterwards is explained
//! by some order of the operations, and so is what a crash leaves.
//!
//! Two or three threads write, read, make, rename, unlink, look, sync and do the background work, on a volume that was
//! opened a moment ago, so that caches are cold and its first write is still to come. At a moment that the seed draws, the
//! host remembers what a crash would leave. An order explains a run if it keeps what came before what, if every answer is
//! the model's, and if it has a moment at which the crash could have been: with everything in that had been answered before
//! a sync was called that had been answered.
//!
//! `SEFS_SCHEDULES` says how many schedules, `SEFS_SEED` where they begin. A failure prints the seed of its schedule.

mod disk;
mod order;

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use self::disk::{Crash, Disk, Pages};
use self::order::{Action, Answer, Event, State, explains};
use super::*;
use crate::check::{self, CheckOptions, Severity};
use crate::env::Clock;
use crate::suite::{Rng, RngFailed};
use crate::sync::explored::explore;
use crate::types::{BLOCK_SIZE, Timestamp};

/// Blocks of a file that are written and read.
const BLOCKS: usize = 20;
/// Bytes of the volume.
const SIZE: u64 = 4 << 20;
/// Names that come and go; the first two are there at first.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// A generator and a clock whose answers follow from a seed. The clock leaps, so that background work is always due.
struct Draws(AtomicU64);

impl Draws {
    fn next(&self) -> u64 {
        let mut word = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&self, end: u64) -> u64 {
        self.next() % end
    }
}

impl Rng for Draws {
    fn fill(&self, out: &mut [u8]) -> core::result::Result<(), RngFailed> {
        out.chunks_mut(8).for_each(|part| part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]));
        Ok(())
    }
}

struct Leaps(AtomicU64);

impl Clock for Leaps {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: self.0.fetch_add(10, Ordering::Relaxed).cast_signed(), nanoseconds: 0 }
    }
}

fn env_of(seed: u64) -> Env {
    let (rng, clock) = (Draws(AtomicU64::new(seed)), Leaps(AtomicU64::new(0)));
    Env { suite: Arc::new(RustCrypto), rng: Arc::new(rng), clock: Arc::new(clock) }
}

fn options() -> OpenOptions {
    OpenOptions { memory_bytes: 4 << 20, ..OpenOptions::default() }
}

/// The image that every run begins with, and what it holds: two files that have a name for ever and one that may go, and a
/// tree of several nodes around them.
static BASE: LazyLock<(Pages, State)> = LazyLock::new(|| {
    let disk = Arc::new(Disk::new(Pages::new(), u64::MAX, 0));
    let format = FormatOptions {
        size_bytes: SIZE,
        volume_id: [5; 16],
        label: String::from("test"),
        slots: Vec::new(),
        anchor: None,
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    Volume::format(disk.clone(), &key(), &format, &env_of(1)).unwrap();
    let volume = Volume::open(disk.clone(), &key(), &options(), &env_of(2)).unwrap();
    let files = [0, 1].map(|number| {
        let ino = file(&volume, &alloc::format!("kept {number}"));
        volume.link(&root(), ino, ROOT, NAMES[number].as_bytes()).unwrap();
        put(&volume, ino, 0, &[1; BLOCKS * BLOCK_SIZE]);
        ino
    });
    for number in 0..40 {
        let ino = file(&volume, &alloc::format!("other {number}"));
        put(&volume, ino, 0, &[2; 1000]);
    }
    volume.close().unwrap();
    let names = BTreeMap::from([(0, files[0]), (1, files[1])]);
    (disk.pages(), State { files, names, blocks: [[1; BLOCKS]; 2] })
});

/// What the threads of a run do.
fn plans(draws: &Draws) -> Vec<Vec<Action>> {
    let count = 2 + draws.below(2);
    let plan = |number: u64| {
        // Every second run has somebody who does nothing but the background work.
        if number == 0 && draws.below(2) == 0 {
            return alloc::vec![Action::Work; 3];
        }
        (0..2 + draws.below(3)).map(|_| action(draws)).collect()
    };
    (0..count).map(plan).collect()
}

fn action(draws: &Draws) -> Action {
    let file = usize::try_from(draws.below(2)).unwrap();
    let name = |draws: &Draws| usize::try_from(draws.below(3)).unwrap();
    let block = usize::try_from(draws.below(BLOCKS as u64)).unwrap();
    // Long writes go home at once, short ones wait as pages.
    let blocks = if draws.below(2) == 0 { BLOCKS - block } else { 1 };
    match draws.below(16) {
        0..=3 => {
            let block = if draws.below(2) == 0 { 0 } else { block };
            let blocks = if block == 0 { BLOCKS } else { blocks };
            Action::Write { file, block, blocks, fill: u8::try_from(3 + draws.below(250)).unwrap() }
        }
        4..=6 => Action::Read { file, block },
        7 => Action::Make(name(draws)),
        8 => Action::Rename(name(draws), name(draws)),
        9 => Action::Unlink(name(draws)),
        10 => Action::Look(name(draws)),
        11..=13 => Action::Sync,
        _ => Action::Work,
    }
}

fn perform(volume: &Volume, files: [InodeNo; 2], action: Action) -> Answer {
    let named = |name: usize| NAMES[name].as_bytes();
    let done = |outcome: Result<()>| outcome.map(|()| Answer::Done);
    let outcome = match action {
        Action::Write { file, block, blocks, fill } => {
            let (offset, data) = ((block * BLOCK_SIZE) as u64, alloc::vec![fill; blocks * BLOCK_SIZE]);
            volume.write(&root(), files[file], offset, &data, WriteMode::Direct).map(|_| Answer::Done)
        }
        Action::Read { file, block } => {
            let mut data = alloc::vec![0; BLOCK_SIZE];
            let read = volume.read(files[file], (block * BLOCK_SIZE) as u64, &mut data);
            read.map(|count| {
                let whole = count == BLOCK_SIZE && data.iter().all(|byte| *byte == data[0]);
                if whole { Answer::Byte(data[0]) } else { Answer::Torn }
            })
        }
        Action::Make(name) => {
            let made = volume.make(&root(), ROOT, named(name), &new(FileKind::Regular, 0o644));
            made.map(|attr| Answer::Ino(attr.ino))
        }
        Action::Rename(from, to) => {
            done(volume.rename(&root(), ROOT, named(from), ROOT, named(to), RenameMode::Replace))
        }
        Action::Unlink(name) => done(volume.unlink(&root(), ROOT, named(name))),
        Action::Look(name) => volume.lookup(&root(), ROOT, named(name)).map(|attr| Answer::Ino(attr.ino)),
        Action::Sync => done(volume.sync()),
        Action::Work => volume.work(true).map(|_| Answer::Done),
    };
    match outcome {
        Ok(answer) => answer,
        Err(Error::Posix(refusal)) => Answer::Refused(refusal),
        Err(failure) => panic!("{action:?}: {failure} ({failure:?})"),
    }
}

/// What a volume holds.
fn look(volume: &Volume, files: [InodeNo; 2]) -> State {
    let found = |name: &str| match volume.lookup(&root(), ROOT, name.as_bytes()) {
        Ok(attr) => Some(attr.ino),
        Err(Error::Posix(Posix::NotFound)) => None,
        Err(failure) => panic!("{name}: {failure:?}"),
    };
    let names = NAMES.iter().enumerate().filter_map(|(number, name)| Some((number, found(name)?))).collect();
    let blocks = files.map(|ino| {
        let bytes = contents(volume, ino);
        core::array::from_fn(|block| {
            let block = &bytes[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE];
            assert!(block.iter().all(|byte| *byte == block[0]), "a block of two writes");
            block[0]
        })
    });
    State { files, names, blocks }
}

/// What came of a run.
struct Run {
    events: Vec<Event>,
    state: State,
    crash: Option<Crash>,
}

/// Runs plans under the schedule of a seed.
fn run(seed: u64, plans: Vec<Vec<Action>>, crash_after: u64) -> Run {
    let (pages, start) = &*BASE;
    let (files, out) = (start.files, Arc::new(Mutex::new(None)));
    let into = out.clone();
    explore(seed, move || {
        let disk = Arc::new(Disk::new(pages.clone(), crash_after, seed));
        let volume = Arc::new(Volume::open(disk.clone(), &key(), &options(), &env_of(seed)).unwrap());
        let events = Arc::new(Mutex::new(Vec::new()));
        let threads = plans.iter().cloned().enumerate().map(|(thread, plan)| {
            let (volume, disk, events) = (volume.clone(), disk.clone(), events.clone());
            shuttle::thread::spawn(move || {
                for action in plan {
                    let began = disk.tick();
                    let answer = perform(&volume, files, action);
                    let ended = disk.tick();
                    events.lock().unwrap().push(Event { thread, action, answer, began, ended });
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let (state, crash) = (look(&volume, files), disk.crash());
        let events = core::mem::take(&mut *events.lock().unwrap());
        *into.lock().unwrap() = Some(Run { events, state, crash });
    });
    let run = out.lock().unwrap().take();
    run.expect("a run ends")
}

/// One schedule, judged. Returns whether it was crashed.
fn schedule(seed: u64) -> bool {
    let draws = Draws(AtomicU64::new(seed));
    let run = run(seed, plans(&draws), draws.below(60));
    let (_, start) = &*BASE;
    let crashed = run.crash.as_ref().map(|crash| {
        let disk = Arc::new(Disk::new(crash.pages.clone(), u64::MAX, 0));
        if seed.is_multiple_of(8) {
            let check = CheckOptions { scrub: true, ..CheckOptions::default() };
            let env = env_of(seed);
            let summary = check::check(disk.clone(), &key(), &check, &env, &mut |event| {
                if let check::Event::Finding(finding) = event {
                    assert!(finding.severity() != Severity::Error, "after a crash: {finding:?}");
                }
            });
            assert_eq!(summary.unwrap().errors, 0);
        }
        let volume = Volume::open(disk, &key(), &options(), &env_of(seed + 1)).unwrap();
        (look(&volume, start.files), crash.at)
    });
    let explained = explains(start, &run.events, &run.state, crashed.as_ref());
    assert!(explained, "no order explains {:#?}\nthen {:?}\ncrashed {crashed:?}", run.events, run.state);
    crashed.is_some()
}

/// Says which schedule it was.
struct Tell(u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("SEFS_SCHEDULES=1 SEFS_SEED={} shows it again", self.0);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn some_order_explains_what_threads_see() {
    let (count, first) = (variable("SEFS_SCHEDULES").unwrap_or(2000), variable("SEFS_SEED").unwrap_or(1));
    let mut crashes = 0;
    for seed in first..first + count {
        let _tell = Tell(seed);
        crashes += u64::from(schedule(seed));
    }
    std::println!("{count} schedules, {crashes} of them crashed");
    assert!(count < 100 || crashes > count / 4, "{crashes} crashes are too few");
}

/// The judge's own test: answers that no order explains are refused.
#[test]
fn what_no_order_explains_is_refused() {
    let (_, start) = &*BASE;
    let write = Action::Write { file: 0, block: 0, blocks: 1, fill: 9 };
    let event = |thread, action, answer, began, ended| Event { thread, action, answer, began, ended };
    let read = |byte, began| event(1, Action::Read { file: 0, block: 0 }, Answer::Byte(byte), began, began + 1);
    let wrote = event(0, write, Answer::Done, 0, 9);
    let mut after = start.clone();
    after.blocks[0][0] = 9;
    assert!(explains(start, &[wrote, read(1, 1), read(9, 3)], &after, None));
    assert!(!explains(start, &[wrote, read(9, 1), read(1, 3)], &after, None), "new, then old");
    assert!(!explains(start, &[wrote, read(1, 10)], &after, None), "old after it was answered");
    assert!(!explains(start, &[wrote], start, None), "and it stays");
    let synced = event(0, Action::Sync, Answer::Done, 10, 12);
    assert!(explains(start, &[wrote, synced], &after, Some(&(start.clone(), 11))));
    assert!(!explains(start, &[wrote, synced], &after, Some(&(start.clone(), 13))), "a sync was answered");
}
