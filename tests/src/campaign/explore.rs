//! Mounts what crashes of one run can leave, and judges each: it opens without a repair, at a state that the run's history
//! allows, with every invariant intact; and it can be used and crash again, in the recovery's own first writes too.

use std::collections::HashSet;
use std::sync::Arc;

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, Volume, WriteMode};

use crate::campaign::{Campaign, caught};
use crate::disk::Disk;
use crate::loss::Loss;
use crate::recorder::{Event, Recorder, Recording};
use crate::seed::Dice;
use crate::shrink::shrink;
use crate::tree::Tree;
use crate::walk::walk;
use crate::world::World;

/// Says which states a crash may leave.
pub trait Oracle {
    /// What the run wrote.
    fn recording(&self) -> &Recording;
    /// Two crash points with equal keys allow the same states.
    fn key(&self, count: usize) -> u64;
    /// Whether a crash after `count` events may leave this; otherwise what is wrong with it.
    fn allows(&self, count: usize, found: &Tree) -> Result<(), String>;
}

/// How deep to look.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Random losses at each event.
    pub samples: usize,
    /// Unflushed writes of which each is lost, kept alone and torn, at each event.
    pub window: usize,
    /// One state in so many goes through the check of all invariants.
    pub check_one_in: u64,
    /// One state in so many lives on and crashes again.
    pub life_one_in: u64,
}

/// Explores the crashes of runs.
pub struct Explorer {
    world: World,
    options: OpenOptions,
    depth: Depth,
    dice: Dice,
    seen: HashSet<(u64, u64)>,
}

/// A crash that is not survived.
#[derive(Debug)]
pub struct Wrong {
    /// What was lost; what counts of it, if nothing less fails.
    pub loss: Loss,
    /// What is wrong.
    pub what: String,
}

/// How one state is judged; the same once more gives the same.
#[derive(Clone, Copy)]
struct Trial {
    check: bool,
    life: bool,
    seed: u64,
}

impl Explorer {
    /// For runs in one world.
    pub fn new(world: World, options: OpenOptions, depth: Depth, seed: u64) -> Explorer {
        Explorer { world, options, depth, dice: Dice::new(seed), seen: HashSet::new() }
    }

    /// Judges the crashes from event `from` on, until one is not survived or the campaign has `states` states.
    pub fn explore(
        &mut self,
        campaign: &mut Campaign,
        oracle: &dyn Oracle,
        from: usize,
        states: u64,
    ) -> Result<(), Wrong> {
        let recording = oracle.recording();
        let discards = recording.events.iter().any(|event| matches!(event, Event::Discard { .. }));
        let (mut durable, mut disk) = (0, recording.base.clone());
        for count in from..=recording.events.len() {
            let now = recording.durable(count);
            recording.carry_out(&mut disk, durable..now);
            durable = now;
            let mut losses = vec![Loss::nothing(recording, count)];
            losses.extend(Loss::each(recording, count, self.depth.window, &mut self.dice));
            losses.extend((0..self.depth.samples).map(|_| Loss::random(recording, count, &mut self.dice)));
            for loss in losses {
                if !campaign.goes_on() || campaign.counted("crash states") >= states {
                    return Ok(());
                }
                let left = if discards && loss.discards.is_some() {
                    loss.disk(recording)
                } else {
                    loss.after(disk.clone(), recording)
                };
                self.state(campaign, oracle, loss, &left)?;
            }
        }
        Ok(())
    }

    fn state(&mut self, campaign: &mut Campaign, oracle: &dyn Oracle, loss: Loss, disk: &Disk) -> Result<(), Wrong> {
        if !self.seen.insert((disk.print(&oracle.recording().base), oracle.key(loss.count))) {
            campaign.count("duplicates left out", 1);
            return Ok(());
        }
        campaign.count("crash states", 1);
        let trial = Trial {
            check: self.dice.one_in(self.depth.check_one_in),
            life: self.dice.one_in(self.depth.life_one_in),
            seed: self.dice.next(),
        };
        campaign.count("checks", u64::from(trial.check));
        match self.judge(oracle, &loss, disk, trial) {
            Ok(again) => {
                campaign.count("crash states", again);
                campaign.count("of a second crash", again);
                Ok(())
            }
            Err(what) => Err(self.smaller(oracle, loss, what, trial)),
        }
    }

    /// The same failure with as few events kept, or as few lost, as still fail.
    fn smaller(&self, oracle: &dyn Oracle, loss: Loss, what: String, trial: Trial) -> Wrong {
        let recording = oracle.recording();
        let with = |kept: &[crate::loss::Kept]| Loss { kept: kept.to_vec(), ..loss.clone() };
        let fails = |loss: &Loss| self.judge(oracle, loss, &loss.disk(recording), trial).err();
        let kept = shrink(&loss.kept, 200, |kept| fails(&with(kept)).is_some());
        let small = with(&kept);
        match fails(&small) {
            Some(what) => Wrong { loss: small, what },
            None => Wrong { loss, what },
        }
    }

    /// Returns how many second crashes were survived.
    fn judge(&self, oracle: &dyn Oracle, loss: &Loss, disk: &Disk, trial: Trial) -> Result<u64, String> {
        caught(|| {
            if trial.check {
                self.world.check(Arc::new(Recorder::plain(disk.clone())), &self.options, "the crashed volume");
            }
            let mut dice = Dice::new(trial.seed);
            let host = Recorder::new(disk.clone());
            let volume = self.mount(&host, &mut dice)?;
            let found = walk(&volume).map_err(|error| format!("mounts, then: {error}"))?;
            oracle.allows(loss.count, &found)?;
            if trial.life { self.live_on(volume, &host, &found, &mut dice) } else { Ok(0) }
        })
    }

    fn mount(&self, host: &Recorder, dice: &mut Dice) -> Result<Volume, String> {
        let world = self.world.reseeded(dice.next());
        world.open(Arc::new(host.clone()), &self.options).map_err(|error| format!("does not mount: {error}"))
    }

    /// After a recovery the volume works, and a second crash, at any write since the first one, loses nothing either:
    /// not in the first commit after the mount, not in the merge of what was replayed, not in the close.
    fn live_on(&self, volume: Volume, host: &Recorder, before: &Tree, dice: &mut Dice) -> Result<u64, String> {
        let says = |what: &str, error: sefs::error::Error| format!("second life: {what}: {error}");
        let (mut earlier, mut acknowledged) = (vec![before.clone()], usize::MAX);
        if dice.one_in(3) {
            volume.work(true).map_err(|error| says("work", error))?;
        }
        if !dice.one_in(3) {
            let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
            let root = Caller::root();
            let made = volume.make(&root, InodeNo::ROOT, b"second life", &new).map_err(|error| says("make", error))?;
            earlier.push(walk(&volume).map_err(|error| says("walk", error))?);
            let data = vec![0x77; *dice.pick(&[300, 5000, 70_000])];
            volume.write(&root, made.ino, 100, &data, WriteMode::Direct).map_err(|error| says("write", error))?;
        }
        volume.sync().map_err(|error| says("sync", error))?;
        let written = walk(&volume).map_err(|error| says("walk", error))?;
        acknowledged = acknowledged.min(host.position());
        if dice.one_in(2) {
            volume.close().map_err(|error| says("close", error))?;
        } else {
            drop(volume);
        }
        let recording = host.recording();
        let mut survived = 0;
        for count in 0..=recording.events.len() {
            let losses = [Loss::nothing(&recording, count), Loss::random(&recording, count, dice)];
            for loss in &losses[..if survived < 60 { 2 } else { 1 }] {
                let again = Recorder::plain(loss.disk(&recording));
                let context = format!("second {loss}");
                if dice.one_in(4) {
                    self.world.check(Arc::new(again.clone()), &self.options, &context);
                }
                let volume = self.mount(&again, dice).map_err(|error| format!("{context}: {error}"))?;
                let found = walk(&volume).map_err(|error| format!("{context}: mounts, then: {error}"))?;
                if found != written && (count >= acknowledged || !earlier.contains(&found)) {
                    let difference = written.difference(&found);
                    return Err(format!(
                        "{context}, {acknowledged} were acknowledged: neither old nor new:\n{difference}"
                    ));
                }
                survived += 1;
            }
        }
        Ok(survived)
    }
}
