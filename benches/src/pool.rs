//! Threads of this host that seal and open the parts of a large request.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};
use sefs::workers::Workers;

/// A pool of threads, which end with it. Whoever asks works with them.
pub(crate) struct Pool {
    threads: ThreadPool,
}

impl Pool {
    /// So many threads, whoever asks included; 2 at least.
    pub(crate) fn new(threads: usize) -> io::Result<Pool> {
        let builder =
            ThreadPoolBuilder::new().num_threads(threads.max(2) - 1).thread_name(|index| format!("sefs-{index}"));
        Ok(Pool { threads: builder.build().map_err(io::Error::other)? })
    }
}

impl Workers for Pool {
    fn count(&self) -> usize {
        self.threads.current_num_threads() + 1
    }

    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            let number = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < jobs);
            std::iter::from_fn(number).for_each(job);
        };
        self.threads.in_place_scope(|scope| {
            (1..self.count().min(jobs)).for_each(|_| scope.spawn(|_| work()));
            work();
        });
    }
}
