//! The crash campaign (P5, P6): bounded workloads, long random ones, and threads; every write a crash point.

use std::sync::Arc;

use crate::campaign::bounded::{self, Fixture};
use crate::campaign::explore::{Depth, Explorer, Wrong};
use crate::campaign::threads;
use crate::campaign::{Campaign, Failure, caught};
use crate::history::History;
use crate::op::{Op, Profile, sequence};
use crate::recorder::Recorder;
use crate::seed::Dice;
use crate::shrink::shrink;
use crate::stage::Stage;
use crate::world::small_memory;

const DEPTH: Depth = Depth { samples: 1, window: 3, check_one_in: 4, life_one_in: 60 };
const LONG: Profile = Profile { atomic: true, largest: 150_000, huge: false, remounts: true };

/// Runs until there are `states` crash states: first every workload of one operation, then pairs in an order that the seed
/// decides, between them long random workloads and threads.
pub fn run(campaign: &mut Campaign, states: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(campaign.seed);
    let fixture = Fixture::new(campaign.world(dice.next()));
    let mut singles: Vec<usize> = (0..bounded::singles()).collect();
    let mut round = 0u64;
    while campaign.goes_on() && campaign.counted("crash states") < states {
        round += 1;
        let left = |campaign: &Campaign, most: u64| states.min(campaign.counted("crash states") + most);
        if let Some(number) = (!singles.is_empty()).then(|| singles.swap_remove(dice.index(singles.len()))) {
            campaign.count("workloads of one operation", 1);
            bounded_workload(campaign, &fixture, &bounded::single(number), dice.next(), states)?;
        } else {
            campaign.count("workloads of two operations", 1);
            let number = dice.index(bounded::pairs());
            bounded_workload(campaign, &fixture, &bounded::pair(number), dice.next(), states)?;
        }
        if round.is_multiple_of(40) {
            let most = left(campaign, 1000);
            long_workload(campaign, dice.next(), most)?;
        }
        if round.is_multiple_of(40) {
            let most = left(campaign, 400);
            threads::run(campaign, dice.next(), most)?;
        }
    }
    campaign.check_ledger()
}

fn bounded_workload(
    campaign: &mut Campaign,
    fixture: &Fixture,
    ops: &[Op],
    seed: u64,
    states: u64,
) -> Result<(), Failure> {
    campaign.count("operations", ops.len() as u64);
    attempt(campaign, ops, seed, |campaign, ops| {
        let world = campaign.world(seed);
        let run = caught(|| fixture.run(world.clone(), ops, seed.is_multiple_of(2)).map_err(|error| error.to_string()));
        let (history, from) = run.map_err(|error| format!("the workload itself fails: {error}"))?;
        explore(campaign, Explorer::new(world, small_memory(), DEPTH, seed), &history, from, states)
    })
}

/// A long random workload on a fresh volume; `states` bounds the campaign, not this one.
pub fn long_workload(campaign: &mut Campaign, seed: u64, states: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(seed);
    let profile = Profile { remounts: dice.one_in(2), ..LONG };
    let mut ops = sequence(profile, 40 + dice.index(80), seed);
    if dice.one_in(3) {
        // Long windows of unflushed writes, and flushes that only the background makes.
        ops.retain(|op| *op != Op::Sync);
    }
    for op in &mut ops {
        if let Op::Write(node, _, len, filling) = *op
            && dice.one_in(4)
        {
            *op = Op::Append(node, len, filling);
        }
    }
    campaign.count("long workloads", 1);
    campaign.count("operations", ops.len() as u64);
    let size_bytes = *dice.pick(&[4u64 << 20, 8 << 20, 16 << 20]);
    // A part of the events is enough for one workload: the next one is different in all of them.
    let skip = dice.next();
    let depth = Depth { samples: 1, window: 1, ..DEPTH };
    attempt(campaign, &ops, seed, |campaign, ops| {
        let world = campaign.world(seed);
        let disk = Recorder::new(world.format(size_bytes));
        let history = caught(|| {
            let stage = Stage::on(world.clone(), Arc::new(disk.clone()), &small_memory());
            let mut stage = stage.map_err(|error| error.to_string())?;
            let (history, outcome) = History::of(&mut stage, &disk, ops);
            outcome.map(|()| history).map_err(|error| error.to_string())
        });
        let history = history.map_err(|error| format!("the workload itself fails: {error}"))?;
        let from = usize::try_from(skip % (history.recording.events.len() as u64 / 2 + 1)).unwrap_or(0);
        explore(campaign, Explorer::new(world, small_memory(), depth, seed), &history, from, states)
    })
}

fn explore(
    campaign: &mut Campaign,
    mut explorer: Explorer,
    history: &History,
    from: usize,
    states: u64,
) -> Result<(), String> {
    let outcome = explorer.explore(campaign, history, from, states);
    outcome.map_err(|Wrong { loss, what }| format!("{loss}, of {} events: {what}", history.recording.events.len()))
}

/// Runs a workload and, where it fails, makes it smaller.
fn attempt(
    campaign: &mut Campaign,
    ops: &[Op],
    seed: u64,
    mut run: impl FnMut(&mut Campaign, &[Op]) -> Result<(), String>,
) -> Result<(), Failure> {
    let Err(first) = run(campaign, ops) else { return Ok(()) };
    // What the tries count is none of the campaign's.
    let mut again = Campaign { tally: Default::default(), ..Campaign::new(seed) };
    let mut what = first;
    let small = shrink(ops, 60, |ops| {
        again.tally.clear();
        match run(&mut again, ops) {
            Ok(()) => false,
            Err(found) => {
                what = found;
                true
            }
        }
    });
    Err(Failure { seed, what, sequence: small.iter().map(|op| format!("{op:?}")).collect() })
}
