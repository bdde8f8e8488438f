//! Locks for tests: those of [`sleeping`], or, where they are made while [`explore`] runs something, those of shuttle, which
//! hands the processor over where a schedule says and not where the machine does.
//!
//! A run is one thread of the machine, so that the same seed gives the same schedule. Every lock, wait and spawn is a point
//! where it may change; atomics are not, and stand for whatever order the locks around them leave.

use core::cell::Cell;
use core::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::thread_local;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::sleeping;

thread_local! {
    static EXPLORING: Cell<bool> = const { Cell::new(false) };
}

/// How many changes of the order of threads a schedule of the second kind has.
const CHANGES: usize = 4;
/// Bytes of a thread's stack.
const STACK_BYTES: usize = 1 << 20;
/// Steps of a schedule, after which it counts as one that never ends.
const MAX_STEPS: usize = 1_000_000;

/// Runs `run` under the schedule of a seed: even ones choose at random at every point; odd ones keep the threads in an order
/// that changes a few times only (Burckhardt et al., ASPLOS 2010), which finds what needs one of them to sleep for long.
/// Threads that wait for each other for ever are a failure like any other.
pub(crate) fn explore(seed: u64, run: impl Fn() + Send + Sync + 'static) {
    match seed % 2 {
        0 => explore_by(RandomScheduler::new_from_seed(seed, 1), run),
        _ => explore_by(PctScheduler::new_from_seed(seed, CHANGES, 1), run),
    }
}

fn explore_by(scheduler: impl Scheduler + 'static, run: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.failure_persistence = FailurePersistence::None;
    let _over = Exploring::begin();
    Runner::new(scheduler, config).run(run);
}

struct Exploring;

impl Exploring {
    fn begin() -> Exploring {
        EXPLORING.set(true);
        Exploring
    }
}

impl Drop for Exploring {
    fn drop(&mut self) {
        EXPLORING.set(false);
    }
}

/// Mutual exclusion.
pub(crate) enum Mutex<T> {
    Real(sleeping::Mutex<T>),
    Explored(shuttle::sync::Mutex<T>),
}

/// Many readers or one writer.
pub(crate) enum RwLock<T> {
    Real(sleeping::RwLock<T>),
    Explored(shuttle::sync::RwLock<T>),
}

/// What a holder of a mutex waits on.
pub(crate) enum Condvar {
    Real(sleeping::Condvar),
    Explored(shuttle::sync::Condvar),
}

macro_rules! guard {
    ($name:ident, mutable: $mutable:tt) => {
        /// Access to what a lock guards.
        pub(crate) enum $name<'a, T> {
            Real(std::sync::$name<'a, T>),
            Explored(shuttle::sync::$name<'a, T>),
        }

        impl<T> Deref for $name<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                match self {
                    $name::Real(guard) => guard,
                    $name::Explored(guard) => guard,
                }
            }
        }

        guard!(@ $name $mutable);
    };
    (@ $name:ident true) => {
        impl<T> DerefMut for $name<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                match self {
                    $name::Real(guard) => guard,
                    $name::Explored(guard) => guard,
                }
            }
        }
    };
    (@ $name:ident false) => {};
}

guard!(MutexGuard, mutable: true);
guard!(RwLockReadGuard, mutable: false);
guard!(RwLockWriteGuard, mutable: true);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        match EXPLORING.get() {
            true => Mutex::Explored(shuttle::sync::Mutex::new(value)),
            false => Mutex::Real(sleeping::Mutex::new(value)),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self {
            Mutex::Real(mutex) => MutexGuard::Real(mutex.lock()),
            Mutex::Explored(mutex) => MutexGuard::Explored(mutex.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    pub(crate) fn into_inner(self) -> T {
        match self {
            Mutex::Real(mutex) => mutex.into_inner(),
            Mutex::Explored(mutex) => mutex.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        match EXPLORING.get() {
            true => RwLock::Explored(shuttle::sync::RwLock::new(value)),
            false => RwLock::Real(sleeping::RwLock::new(value)),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        match self {
            RwLock::Real(lock) => RwLockReadGuard::Real(lock.read()),
            RwLock::Explored(lock) => RwLockReadGuard::Explored(lock.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        match self {
            RwLock::Real(lock) => RwLockWriteGuard::Real(lock.write()),
            RwLock::Explored(lock) => RwLockWriteGuard::Explored(lock.write().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> RwLock<T> {
        RwLock::new(T::default())
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        match EXPLORING.get() {
            true => Condvar::Explored(shuttle::sync::Condvar::new()),
            false => Condvar::Real(sleeping::Condvar::new()),
        }
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        match (self, guard) {
            (Condvar::Real(condvar), MutexGuard::Real(guard)) => MutexGuard::Real(condvar.wait(guard)),
            (Condvar::Explored(condvar), MutexGuard::Explored(guard)) => {
                MutexGuard::Explored(condvar.wait(guard).unwrap_or_else(PoisonError::into_inner))
            }
            _ => panic!("a condition and its mutex are made together"),
        }
    }

    pub(crate) fn notify_all(&self) {
        match self {
            Condvar::Real(condvar) => condvar.notify_all(),
            Condvar::Explored(condvar) => condvar.notify_all(),
        }
    }
}
