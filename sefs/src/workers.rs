//! Who computes: parts of a large request at once, where there are threads for it.
//!
//! A request of a megabyte is four chunks or five, each sealed or opened by itself. One thread does them one after the other;
//! with [`Workers`] several do them side by side. It is the caller's choice, for threads are dear in an enclave, and a mount
//! serves several requests at once anyway. A backend that works meanwhile has its reads opened by whoever asks, one part after
//! the other as they come.
//!
//! *Locks*: whoever hands out jobs holds no lock that a job takes, its own or that of another request: they may stand in one
//! queue. Jobs do not wait for each other.

use alloc::vec::Vec;

use crate::sync::Mutex;

/// Threads that compute.
pub trait Workers: Send + Sync {
    /// How many jobs run at once, 1 at least.
    fn count(&self) -> usize;

    /// Calls `job` once with each number below `jobs`, on any threads, and returns when all the calls have returned. A panic
    /// of one becomes a panic of this.
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync));
}

/// Whoever asks does it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWorkers;

impl Workers for NoWorkers {
    fn count(&self) -> usize {
        1
    }

    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..jobs).for_each(job);
    }
}

/// Does something with each of the inputs, and gives the results in their order.
pub(crate) fn map<I: Send, T: Send>(workers: &dyn Workers, inputs: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    if workers.count() <= 1 || inputs.len() <= 1 {
        return inputs.into_iter().map(work).collect();
    }
    let jobs: Vec<Mutex<(Option<I>, Option<T>)>> =
        inputs.into_iter().map(|input| Mutex::new((Some(input), None))).collect();
    let job = |index: usize| {
        let Some(job) = jobs.get(index) else { return };
        let input = job.lock().0.take();
        if let Some(input) = input {
            let result = work(input);
            job.lock().1 = Some(result);
        }
    };
    workers.run(jobs.len(), &job);
    // What was not called for is done now. What was begun and has not ended has no result, and there is no going on without it.
    (0..jobs.len()).for_each(job);
    jobs.iter().map(|job| job.lock().1.take().expect("`Workers::run` returns when all jobs have")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Calls every second job, in falling order, and one of them twice.
    struct Careless;

    impl Workers for Careless {
        fn count(&self) -> usize {
            4
        }

        fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
            (0..jobs).rev().step_by(2).for_each(job);
            job(jobs - 1);
            job(jobs);
        }
    }

    #[test]
    fn each_input_is_worked_on_once_and_results_keep_their_order() {
        for workers in [&Careless as &dyn Workers, &NoWorkers] {
            let calls = AtomicUsize::new(0);
            let results = map(workers, (0..9).collect(), |input: usize| {
                calls.fetch_add(1, Ordering::Relaxed);
                input * 10
            });
            assert_eq!(results, (0..9).map(|input| input * 10).collect::<Vec<_>>());
            assert_eq!(calls.into_inner(), 9);
        }
        assert_eq!(map(&Careless, Vec::new(), |input: u8| input), []);
    }

    /// Begins all jobs, and swallows the panic of one.
    struct Silent;

    impl Workers for Silent {
        fn count(&self) -> usize {
            2
        }

        fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
            for number in 0..jobs {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(number)));
            }
        }
    }

    /// A part without a result is no success: it would be read as zeros, or never written.
    #[test]
    #[should_panic(expected = "returns when all jobs have")]
    fn a_part_that_ended_without_a_result_is_missed() {
        map(&Silent, (0..4).collect(), |input: usize| assert!(input != 2, "this part fails"));
    }
}
