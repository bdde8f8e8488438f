//! Random workloads on a host that strikes at random (see [`crate::simulator`]): every answer is right or an error that fits
//! what struck, and the next mount on a healthy host shows what it must.

use std::collections::BTreeMap;
use std::sync::Arc;

use sefs::error::{Error, Posix};

use crate::attack::{blames_the_host, consistent};
use crate::campaign::{Campaign, Failure, caught};
use crate::history::History;
use crate::loss::Loss;
use crate::op::{Op, Profile, sequence};
use crate::recorder::Recorder;
use crate::seed::Dice;
use crate::shrink::shrink;
use crate::simulator::{FAULTS, Fault, Request, Simulator, Strike};
use crate::stage::Stage;
use crate::tree::Tree;
use crate::walk::walk_all;
use crate::world::{World, small_memory};

const PROFILE: Profile = Profile { atomic: true, largest: 100_000, huge: false, remounts: false };

/// Runs `runs` workloads.
pub fn run(campaign: &mut Campaign, runs: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(campaign.seed);
    for _ in 0..runs {
        if !campaign.goes_on() {
            break;
        }
        storm(campaign, dice.next())?;
    }
    campaign.check_ledger()
}

/// One workload with its strikes, all by one seed.
pub fn storm(campaign: &mut Campaign, seed: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(seed);
    let ops = workload(&mut dice);
    let requests = caught(|| Storm::reference(&campaign.world(dice.next()), &ops)).map(|reference| reference.1);
    let requests = requests.map_err(|what| Failure { seed, what, sequence: describe(&ops, &[]) })?;
    let strikes: Vec<Strike> = (0..1 + dice.below(2)).map(|_| strike(&mut dice, &requests)).collect();
    campaign.count("storms", 1);
    campaign.count("operations", ops.len() as u64);
    match weather(campaign, &ops, &strikes, seed) {
        Ok(struck) => {
            struck.into_iter().for_each(|(fault, count)| campaign.count(name(fault), count));
            Ok(())
        }
        Err(first) => {
            let mut what = first;
            let mut again = |ops: &[Op], strikes: &[Strike]| match weather(campaign, ops, strikes, seed) {
                Ok(_) => false,
                Err(found) => {
                    what = found;
                    true
                }
            };
            let strikes = shrink(&strikes, 20, |strikes| again(&ops, strikes));
            let ops = shrink(&ops, 150, |ops| again(ops, &strikes));
            Err(Failure { seed, what, sequence: describe(&ops, &strikes) })
        }
    }
}

fn workload(dice: &mut Dice) -> Vec<Op> {
    let mut ops = sequence(PROFILE, 30 + dice.index(50), dice.next());
    for op in &mut ops {
        if dice.one_in(12) {
            *op = Op::Work(true);
        }
    }
    ops.push(Op::Sync);
    ops
}

fn strike(dice: &mut Dice, requests: &BTreeMap<Request, u64>) -> Strike {
    let fault = *dice.pick(&FAULTS);
    let total = requests.get(&fault.request()).copied().unwrap_or(0).max(1);
    // A length that lies for ever, or any read that does, ends a run at once: mostly once, then.
    Strike { fault, after: dice.below(total), for_ever: dice.one_in(4) }
}

struct Storm;

impl Storm {
    /// The workload on a healthy host, and how many requests there are to strike.
    fn reference(world: &World, ops: &[Op]) -> Result<(History, BTreeMap<Request, u64>), String> {
        let disk = Recorder::new(world.format(8 << 20));
        let host = Arc::new(Simulator::new(disk.clone(), &[], 0));
        let stage = Stage::on(world.clone(), host.clone(), &small_memory());
        let (history, outcome) = History::of(&mut stage.map_err(|error| error.to_string())?, &disk, ops);
        outcome.map_err(|error| format!("on a healthy host: {error}"))?;
        let all = [Request::Read, Request::Write, Request::Flush, Request::Len];
        Ok((history, all.map(|request| (request, host.requests(request))).into()))
    }
}

/// Runs it, and says what struck, or what is wrong.
fn weather(campaign: &Campaign, ops: &[Op], strikes: &[Strike], seed: u64) -> Result<BTreeMap<Fault, u64>, String> {
    caught(|| {
        let mut dice = Dice::new(seed ^ 0x5702);
        let (reference, _) = Storm::reference(&campaign.world(dice.next()), ops)?;
        let world = campaign.world(dice.next());
        let disk = Recorder::new(world.format(8 << 20));
        let host = Arc::new(Simulator::new(disk.clone(), strikes, dice.next()));
        let (mut attempted, mut durable) = (0, 0);
        match Stage::on(world.clone(), host.clone(), &small_memory()) {
            Err(error) => fair(&error, &host.struck())?,
            Ok(mut stage) => {
                for (number, op) in ops.iter().enumerate() {
                    attempted = number + 1;
                    match stage.run(op) {
                        Ok(()) => durable = if *op == Op::Sync { number + 1 } else { durable },
                        Err(error) => {
                            fair(&error, &host.struck()).map_err(|wrong| format!("{op:?}: {wrong}"))?;
                            break;
                        }
                    }
                }
            }
        }
        let struck = host.struck();
        let after = Aftermath { world: &world, states: &reference.states, durable, attempted, struck: &struck };
        after.judge(&disk, &mut dice)?;
        Ok(struck)
    })
}

/// Whether an error fits what struck.
fn fair(error: &Error, struck: &BTreeMap<Fault, u64>) -> Result<(), String> {
    let any = |test: fn(&Fault) -> bool| struck.keys().any(test);
    let admitted = any(|fault| fault.is_admitted() || *fault == Fault::LyingLen || *fault == Fault::SwappedBuffers);
    let fits = match error {
        Error::Backend(_) => admitted,
        Error::Latched(_) => !struck.is_empty(),
        Error::Posix(Posix::NoSpace) => any(|fault| *fault == Fault::HostFull),
        error => blames_the_host(error) && any(|fault| !fault.is_admitted()),
    };
    if fits { Ok(()) } else { Err(format!("{error} ({error:?}) after {struck:?}")) }
}

struct Aftermath<'a> {
    world: &'a World,
    states: &'a [Tree],
    durable: usize,
    attempted: usize,
    struck: &'a BTreeMap<Fault, u64>,
}

impl Aftermath<'_> {
    /// The next mount, on a healthy host: of the disk as it is, and of what crashes would leave of it.
    fn judge(&self, disk: &Recorder, dice: &mut Dice) -> Result<(), String> {
        let spoiled = self.struck.keys().any(|fault| fault.spoils_the_disk());
        let recording = disk.recording();
        let end = recording.events.len();
        for number in 0..4 {
            let (left, what) = match number {
                0 => (disk.disk(), "the disk as it is".to_string()),
                _ => {
                    let loss = Loss::random(&recording, end, dice);
                    (loss.disk(&recording), loss.to_string())
                }
            };
            let left = Recorder::plain(left);
            let outcome = if spoiled { self.spoiled(&left, dice) } else { self.whole(&left, dice) };
            outcome.map_err(|wrong| {
                let Aftermath { durable, attempted, struck, .. } = self;
                format!("{what}; {durable} operations were durable, {attempted} attempted, {struck:?} struck: {wrong}")
            })?;
        }
        Ok(())
    }

    /// Nothing false is on the disk: it mounts without a repair, and nothing that was acknowledged is missing.
    fn whole(&self, disk: &Recorder, dice: &mut Dice) -> Result<(), String> {
        self.world.check(Arc::new(disk.clone()), &small_memory(), "after the storm");
        let volume = self.world.reseeded(dice.next()).open(Arc::new(disk.clone()), &small_memory());
        let volume = volume.map_err(|error| format!("does not mount: {error}"))?;
        let found = walk_all(&volume);
        let allowed = &self.states[self.durable..=self.attempted];
        if found.errors.is_empty() && found.violations.is_empty() && allowed.contains(&found.tree) {
            return Ok(());
        }
        let difference = self.states[self.attempted].difference(&found.tree);
        Err(format!("{:?} {:?}\n{difference}", found.errors, found.violations))
    }

    /// Something false is on the disk: an error that blames the host, or a state of the history; never anything else.
    fn spoiled(&self, disk: &Recorder, dice: &mut Dice) -> Result<(), String> {
        let volume = match self.world.reseeded(dice.next()).open(Arc::new(disk.clone()), &small_memory()) {
            Ok(volume) => volume,
            Err(error) if blames_the_host(&error) => return Ok(()),
            Err(error) => return Err(format!("open: {error} ({error:?})")),
        };
        let found = walk_all(&volume);
        if !found.violations.is_empty() {
            return Err(format!("{:?}", found.violations));
        }
        if let Some((path, error)) = found.errors.iter().find(|(_, error)| !blames_the_host(error)) {
            return Err(format!("at {}: {error} ({error:?})", String::from_utf8_lossy(path)));
        }
        let fits = self.states[..=self.attempted].iter().any(|state| consistent(&found, state).is_ok());
        if fits {
            Ok(())
        } else {
            Err(format!("no state at all:\n{}", self.states[self.attempted].difference(&found.tree)))
        }
    }
}

fn describe(ops: &[Op], strikes: &[Strike]) -> Vec<String> {
    ops.iter().map(|op| format!("{op:?}")).chain(strikes.iter().map(ToString::to_string)).collect()
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::FailRead => "failed reads",
        Fault::ShortRead => "short reads",
        Fault::FlipRead => "flipped reads",
        Fault::StaleRead => "stale reads",
        Fault::OtherRead => "misdirected reads",
        Fault::SecondRead => "changed second reads",
        Fault::SwappedBuffers => "swapped buffers",
        Fault::MissingBuffer => "missing buffers",
        Fault::FailWrite => "failed writes",
        Fault::HostFull => "writes without space",
        Fault::LostWrite => "lost writes",
        Fault::FlipWrite => "flipped writes",
        Fault::OtherWrite => "misdirected writes",
        Fault::FailFlush => "failed flushes",
        Fault::LyingLen => "false lengths",
    }
}
