//! Every sequence of operations gives the same answers and the same tree as the model of POSIX, over clean remounts,
//! crashes after a sync, small memory and small volumes.

use std::sync::Arc;

use proptest::test_runner::{Config, TestCaseError, TestError};
use sefs::backend::Backend;
use sefs::vfs::OpenOptions;
use sefs_tests::crew::Crew;
use sefs_tests::meanwhile::Meanwhile;
use sefs_tests::op::{Op, Profile, runner, sequence, sequences};
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::world::{World, small_memory};

const ORDINARY: Profile = Profile { atomic: false, largest: 600_000, huge: true, remounts: true };

fn check(test: &str, profile: Profile, size_bytes: u64, options: &OpenOptions, cases: usize, len: usize) {
    let seed = seed(test, 1);
    let cases = u32::try_from(scaled(cases, cases * 100)).expect("a sane number of cases");
    let config = Config {
        cases,
        max_shrink_iters: 3000,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let result = runner(seed, config).run(&sequences(profile, 1..len), |ops| {
        let (mut stage, _) = Stage::new(size_bytes, options, seed);
        run_all(&mut stage, &ops).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, ops)) => {
            let ops: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
            panic!("{test}, seed {seed}: {reason}\nafter shrinking:\n{}", ops.join("\n"));
        }
        Err(other) => panic!("{test}, seed {seed}: {other}"),
    }
}

fn run_all(stage: &mut Stage, ops: &[Op]) -> Result<(), String> {
    for (number, op) in ops.iter().enumerate() {
        stage.run(op).map_err(|error| format!("operation {number}, {op:?}: {error}"))?;
    }
    stage.compare().map_err(|error| format!("at the end: {error}"))?;
    stage.remount(true).map_err(|error| format!("at the last remount: {error}"))
}

#[test]
fn ordinary_volume() {
    check("ordinary_volume", ORDINARY, 32 << 20, &OpenOptions::default(), 30, 200);
}

#[test]
fn little_memory() {
    let profile = Profile { largest: 1 << 20, ..ORDINARY };
    check("little_memory", profile, 64 << 20, &small_memory(), 16, 200);
}

#[test]
fn small_volume() {
    let profile = Profile { largest: 200_000, huge: false, ..ORDINARY };
    check("small_volume", profile, 8 << 20, &small_memory(), 40, 200);
}

/// A backend that works while the volume does something else.
#[test]
fn works_meanwhile() {
    let seed = seed("works_meanwhile", 5);
    let profile = Profile { largest: 1 << 20, ..ORDINARY };
    for round in 0..scaled(8, 400) as u64 {
        let world = World::new(seed + round);
        let backend = Meanwhile::new(Recorder::plain(world.format(32 << 20)), seed + round);
        let mut stage = Stage::on(world, Arc::new(backend.clone()), &small_memory()).expect("a fresh volume");
        let ops = sequence(profile, 150, seed + round);
        run_all(&mut stage, &ops).unwrap_or_else(|failure| panic!("round {round}: {failure}"));
        drop(stage);
        assert_eq!(backend.waiting(), 0, "round {round}: batches that nobody waited for");
    }
}

/// Large requests whose parts are sealed and opened by several threads, on a backend that finishes what it is asked for at once
/// and on one that does not.
#[test]
fn several_threads_for_a_request() {
    let seed = seed("several_threads_for_a_request", 7);
    let profile = Profile { largest: 1 << 20, ..ORDINARY };
    let mut jobs = 0;
    for round in 0..scaled(16, 400) as u64 {
        let crew = Arc::new(Crew::new(seed + round));
        let options = OpenOptions { workers: crew.clone(), ..small_memory() };
        let world = World::new(seed + round);
        let disk = Recorder::plain(world.format(32 << 20));
        let backend: Arc<dyn Backend> = match round % 2 {
            0 => Arc::new(disk),
            _ => Arc::new(Meanwhile::new(disk, seed + round)),
        };
        let mut stage = Stage::on(world, backend, &options).expect("a fresh volume");
        let ops = sequence(profile, 150, seed + round);
        run_all(&mut stage, &ops).unwrap_or_else(|failure| panic!("round {round}: {failure}"));
        jobs += crew.jobs();
    }
    println!("{jobs} parts of requests");
    assert!(jobs > 100, "{jobs} parts of requests tell nothing");
}

/// A volume over an image of what a volume held, again and again: everything stays as it is, and everything can be changed.
#[test]
fn over_images() {
    let seed = seed("over_images", 3);
    let profile = Profile { largest: 400_000, huge: false, ..ORDINARY };
    for round in 0..scaled(8, 400) as u64 {
        let (mut stage, _) = Stage::new(16 << 20, &small_memory(), seed + round);
        for life in 0..3 {
            let ops = sequence(profile, 150, seed + round * 10 + life);
            run_all(&mut stage, &ops).unwrap_or_else(|failure| panic!("round {round}, life {life}: {failure}"));
            stage.rebase(life % 2 == 0).unwrap_or_else(|error| panic!("round {round}, life {life}: {error}"));
        }
    }
}

/// Long enough to go round the log's ring several times, with remounts far apart.
#[test]
fn long_life_without_remounts() {
    let seed = seed("long_life_without_remounts", 7);
    let profile = Profile { atomic: false, largest: 300_000, huge: false, remounts: false };
    let (mut stage, _) = Stage::new(16 << 20, &small_memory(), seed);
    for round in 0..scaled(4, 100) as u64 {
        let ops = sequence(profile, 600, seed + round);
        run_all(&mut stage, &ops).unwrap_or_else(|failure| panic!("round {round}: {failure}"));
    }
}
