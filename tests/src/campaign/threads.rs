//! Crashes under several threads.
//!
//! The order of their operations is nobody's to say: an operation takes its place somewhere between its call and its return.
//! Each thread has a directory of its own and a model of it, so what a crash leaves says of each thread how many of its
//! operations are in. Those numbers are right if some order explains them:
//!
//! - of each thread it is a prefix of what that thread did (atomicity, order within a thread);
//! - what had returned before an operation that is in was called, is in too, whichever thread called it (order between
//!   threads, and the state is one moment of all of them);
//! - what had returned before a sync was called that returned before the crash is in (durability);
//! - what was called after the crash is not.
//!
//! Where states repeat, several numbers fit a thread. The rules only ever ask for more of one thread because of what is in of
//! another, so the largest solution is found by giving up what breaks a rule until nothing does.
//!
//! The schedule is the machine's: a seed repeats the operations and the losses, but not the order in which threads got on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Volume};

use crate::campaign::explore::{Depth, Explorer, Oracle, Wrong};
use crate::campaign::{Campaign, Failure, caught};
use crate::op::{Op, Profile, sequence};
use crate::recorder::{Recorder, Recording};
use crate::seed::Dice;
use crate::stage::Stage;
use crate::tree::Tree;
use crate::world::{World, small_memory};

const PROFILE: Profile = Profile { atomic: true, largest: 60_000, huge: false, remounts: false };
const DEPTH: Depth = Depth { samples: 2, window: 1, check_one_in: 4, life_one_in: 40 };

/// What several threads did.
pub struct Threads {
    recording: Recording,
    lives: Vec<Life>,
}

/// What one thread did.
struct Life {
    /// State k is what is in its directory after k of its operations.
    states: Vec<Tree>,
    steps: Vec<Step>,
}

/// One operation. Moments are numbers that rise over all threads.
#[derive(Clone, Copy)]
struct Step {
    called: u64,
    returned: u64,
    /// Events on the disk before the call, and after the return.
    events: (usize, usize),
    sync: bool,
}

/// Runs two to four threads and explores the crashes of the run.
pub fn run(campaign: &mut Campaign, seed: u64, states: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(seed);
    let count = 2 + dice.below(3);
    let works: Vec<Vec<Op>> = (0..count).map(|_| work(&mut dice)).collect();
    campaign.count("runs with threads", 1);
    campaign.count("operations", works.iter().map(|ops| ops.len() as u64).sum());
    let world = campaign.world(dice.next());
    let outcome = caught(|| Threads::of(&world, &works)).and_then(|(threads, from)| {
        let mut explorer = Explorer::new(world, small_memory(), DEPTH, dice.next());
        let outcome = explorer.explore(campaign, &threads, from, states);
        outcome.map_err(|Wrong { loss, what }| format!("{loss}: {what}"))
    });
    outcome.map_err(|what| {
        let of_thread = |(number, ops): (usize, &Vec<Op>)| format!("thread {number}: {ops:?}");
        Failure { seed, what, sequence: works.iter().enumerate().map(of_thread).collect() }
    })
}

fn work(dice: &mut Dice) -> Vec<Op> {
    let mut ops = sequence(PROFILE, 12, dice.next());
    ops.insert(0, Op::Make((0, 0), crate::op::Making::File, 0o600));
    for at in 1..ops.len() {
        if dice.one_in(6) {
            ops.insert(at, Op::Sync);
        }
    }
    ops
}

impl Threads {
    /// Runs them on a fresh volume; also says at which event they began.
    fn of(world: &World, works: &[Vec<Op>]) -> Result<(Threads, usize), String> {
        let says = |error: sefs::error::Error| error.to_string();
        let disk = Recorder::new(world.format(16 << 20));
        let volume = Arc::new(world.open(Arc::new(disk.clone()), &small_memory()).map_err(says)?);
        let mut stages = Vec::new();
        for number in 0..works.len() {
            let dir = make_directory(&volume, number).map_err(says)?;
            let (backend, shares) = (Arc::new(disk.clone()), works.len() as u64);
            let stage = Stage::within(world.clone(), backend, &small_memory(), volume.clone(), dir, shares);
            stages.push(stage.map_err(says)?);
        }
        volume.sync().map_err(says)?;
        let from = disk.position();
        let (moment, start) = (AtomicU64::new(0), Barrier::new(works.len()));
        let lives: Vec<Result<Life, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = stages
                .into_iter()
                .zip(works)
                .map(|(stage, ops)| {
                    let (moment, start, disk) = (&moment, &start, &disk);
                    scope.spawn(move || {
                        start.wait();
                        caught(|| Life::of(stage, ops, disk, moment))
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
                .collect()
        });
        let lives = lives.into_iter().collect::<Result<Vec<Life>, String>>()?;
        drop(volume);
        Ok((Threads { recording: disk.recording(), lives }, from))
    }

    /// For each thread the least number of operations that must be in, and the largest that may, after so many events.
    fn bounds(&self, count: usize) -> Vec<(usize, usize)> {
        let steps = || self.lives.iter().flat_map(|life| &life.steps);
        let promised = steps().filter(|step| step.sync && step.events.1 <= count).map(|step| step.called).max();
        let begun = |life: &Life| life.steps.iter().take_while(|step| step.events.0 < count).count();
        // A sync with nothing to write promises operations that changed nothing, and writes no event.
        let bounds = |life: &Life| {
            let least = promised.map_or(0, |moment| life.before(moment));
            (least, begun(life).max(least))
        };
        self.lives.iter().map(bounds).collect()
    }
}

impl Oracle for Threads {
    fn recording(&self) -> &Recording {
        &self.recording
    }

    fn key(&self, count: usize) -> u64 {
        let bounds = self.bounds(count);
        bounds.iter().fold(0, |key, (least, most)| (key * 1009 + *least as u64) * 1009 + *most as u64)
    }

    fn allows(&self, count: usize, found: &Tree) -> Result<(), String> {
        let bounds = self.bounds(count);
        let mut fitting: Vec<Vec<usize>> = Vec::new();
        for (number, (life, (least, most))) in self.lives.iter().zip(bounds).enumerate() {
            let part = part_of(found, &directory(number));
            let fits: Vec<usize> = (least..=most).filter(|state| life.states[*state] == part).collect();
            if fits.is_empty() {
                let elsewhere = life.states.iter().rposition(|state| *state == part);
                let difference = life.states[least].difference(&part);
                return Err(format!(
                    "thread {number}: {least} to {most} operations may be in, found is state {elsewhere:?}; \
                     from state {least}:\n{difference}"
                ));
            }
            fitting.push(fits);
        }
        self.explained(fitting)
    }
}

impl Threads {
    /// Whether one of the fitting numbers of each thread can be chosen so that no rule between threads is broken.
    fn explained(&self, mut fitting: Vec<Vec<usize>>) -> Result<(), String> {
        loop {
            let most: Vec<usize> = fitting.iter().filter_map(|fits| fits.last().copied()).collect();
            if most.len() < fitting.len() {
                return Err("no order of the threads' operations explains what is in and what is not".into());
            }
            let asked = |number: usize| {
                let last = self.lives[number].steps[..most[number]].last();
                last.is_some_and(|last| {
                    self.lives.iter().zip(&most).any(|(other, most)| other.before(last.called) > *most)
                })
            };
            match (0..most.len()).find(|number| asked(*number)) {
                None => return Ok(()),
                Some(number) => drop(fitting[number].pop()),
            }
        }
    }
}

impl Life {
    fn of(mut stage: Stage, ops: &[Op], disk: &Recorder, moment: &AtomicU64) -> Result<Life, String> {
        let mut life = Life { states: vec![stage.model.tree()], steps: Vec::new() };
        for op in ops {
            let before = disk.position();
            let called = moment.fetch_add(1, Ordering::SeqCst);
            stage.run(op).map_err(|error| format!("{op:?}: {error}"))?;
            let returned = moment.fetch_add(1, Ordering::SeqCst);
            let events = (before, disk.position());
            life.steps.push(Step { called, returned, events, sync: *op == Op::Sync });
            life.states.push(stage.model.tree());
        }
        Ok(life)
    }

    /// How many operations had returned at a moment.
    fn before(&self, moment: u64) -> usize {
        self.steps.iter().take_while(|step| step.returned < moment).count()
    }
}

fn directory(number: usize) -> Vec<u8> {
    format!("thread {number}").into_bytes()
}

fn make_directory(volume: &Volume, number: usize) -> sefs::error::Result<InodeNo> {
    let new = NewInode { kind: FileKind::Directory, mode: crate::world::ROOT_MODE, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), InodeNo::ROOT, &directory(number), &new).map(|attr| attr.ino)
}

/// What is at and below a directory, as if it were the root.
fn part_of(tree: &Tree, dir: &[u8]) -> Tree {
    let below = [dir, b"/"].concat();
    let inner = |path: &[u8]| match path.strip_prefix(below.as_slice()) {
        Some(rest) => Some(rest.to_vec()),
        None => (path == dir).then(Vec::new),
    };
    let entries = tree.0.iter().filter_map(|(path, entry)| {
        let mut entry = entry.clone();
        entry.identity = inner(&entry.identity)?;
        Some((inner(path)?, entry))
    });
    Tree(entries.collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn life(steps: &[(u64, u64)]) -> Life {
        let step = |(called, returned): &(u64, u64)| Step {
            called: *called,
            returned: *returned,
            events: (0, 0),
            sync: false,
        };
        Life { states: Vec::new(), steps: steps.iter().map(step).collect() }
    }

    /// Thread 0 calls its operations at 0 and 4, thread 1 one in between: what is in has to respect that.
    #[test]
    fn a_state_without_an_order_is_refused() {
        let lives = vec![life(&[(0, 1), (4, 5)]), life(&[(2, 3)])];
        let threads = Threads { recording: Recorder::new(Disk::new(0)).recording(), lives };
        let judge =
            |first: &[usize], second: &[usize]| threads.explained(vec![first.to_vec(), second.to_vec()]).is_ok();
        assert!(judge(&[0], &[0]) && judge(&[1], &[0]) && judge(&[1], &[1]) && judge(&[2], &[1]));
        assert!(!judge(&[0], &[1]), "the second operation is in and the first is not");
        assert!(!judge(&[2], &[0]), "the third is in and the second is not");
        assert!(judge(&[1, 2], &[0]), "the third may be one that changes nothing");
    }
}
