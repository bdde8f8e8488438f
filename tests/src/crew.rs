//! Threads that do the parts of large requests, each in an order of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sefs::workers::Workers;

use crate::seed::Dice;

/// A few threads for each request.
pub struct Crew {
    dice: Mutex<Dice>,
    jobs: AtomicU64,
}

impl Crew {
    /// The order of jobs follows from the seed, as far as threads let it.
    pub fn new(seed: u64) -> Crew {
        Crew { dice: Mutex::new(Dice::new(seed)), jobs: AtomicU64::new(0) }
    }

    /// How many jobs were done.
    pub fn jobs(&self) -> u64 {
        self.jobs.load(Ordering::Relaxed)
    }
}

impl Workers for Crew {
    fn count(&self) -> usize {
        3
    }

    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        let mut order: Vec<usize> = (0..jobs).collect();
        {
            let mut dice = self.dice.lock().expect("no thread panicked");
            (0..jobs).for_each(|at| order.swap(at, dice.index(jobs)));
        }
        self.jobs.fetch_add(jobs as u64, Ordering::Relaxed);
        let order = Mutex::new(order);
        let next = || order.lock().expect("no thread panicked").pop();
        std::thread::scope(|scope| {
            for _ in 0..self.count() {
                scope.spawn(|| std::iter::from_fn(next).for_each(job));
            }
        });
    }
}
