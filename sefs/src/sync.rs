//! Locks with one interface for `std`, where a waiting thread sleeps, and for `no_std`, where it spins.
//!
//! A lock whose holder panicked stays usable: what it guards is either swapped as a whole or checked by its readers, and
//! a volume that stops answering is no safer than one that goes on. Lock order is the business of those who lock.

#[cfg(all(test, feature = "std"))]
pub(crate) mod explored;

#[cfg(all(test, feature = "std"))]
pub(crate) use explored::{Condvar, Mutex, RwLock, RwLockWriteGuard};
#[cfg(all(not(test), feature = "std"))]
pub(crate) use sleeping::{Condvar, Mutex, RwLock, RwLockWriteGuard};
#[cfg(not(feature = "std"))]
pub(crate) use spinning::{Condvar, Mutex, RwLock, RwLockWriteGuard};

#[cfg(feature = "std")]
mod sleeping {
    use core::sync::atomic::{AtomicUsize, Ordering};
    use core::time::Duration;
    use std::sync;
    pub(crate) use std::sync::RwLockWriteGuard;
    use std::sync::{MutexGuard, RwLockReadGuard};

    /// Mutual exclusion.
    #[derive(Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    /// Many readers or one writer.
    #[derive(Default)]
    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    /// What a holder of a mutex waits on. Waits may end without a reason; the waiter checks its condition again.
    ///
    /// Telling nobody costs no system call, which leaves an enclave. A waiter is counted before it gives up the mutex under
    /// which it found its condition unmet, so whoever changes the condition under that mutex sees it afterwards.
    #[derive(Default)]
    pub(crate) struct Condvar {
        condvar: sync::Condvar,
        waiters: AtomicUsize,
    }

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Mutex<T> {
            Mutex(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(sync::PoisonError::into_inner)
        }

        #[cfg(test)]
        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(sync::PoisonError::into_inner)
        }
    }

    impl<T> RwLock<T> {
        pub(crate) const fn new(value: T) -> RwLock<T> {
            RwLock(sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(sync::PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(sync::PoisonError::into_inner)
        }
    }

    impl Condvar {
        pub(crate) const fn new() -> Condvar {
            Condvar { condvar: sync::Condvar::new(), waiters: AtomicUsize::new(0) }
        }

        /// Unlocks, waits for a notification, and locks again.
        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.waiters.fetch_add(1, Ordering::Relaxed);
            let guard = self.condvar.wait(guard).unwrap_or_else(sync::PoisonError::into_inner);
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            guard
        }

        /// As `wait`, for at most `timeout_ms` milliseconds. Without `std` it returns at once.
        #[cfg_attr(not(test), allow(dead_code, reason = "part of the interface that both kinds of lock share"))]
        pub(crate) fn wait_timeout_ms<'a, T>(&self, guard: MutexGuard<'a, T>, timeout_ms: u64) -> MutexGuard<'a, T> {
            self.waiters.fetch_add(1, Ordering::Relaxed);
            let waited = self.condvar.wait_timeout(guard, Duration::from_millis(timeout_ms));
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            waited.unwrap_or_else(sync::PoisonError::into_inner).0
        }

        pub(crate) fn notify_all(&self) {
            if self.waiters.load(Ordering::Relaxed) > 0 {
                self.condvar.notify_all();
            }
        }
    }
}

// Compiled for the tests of `std` builds too, so that it is tested where tests run.
#[cfg(any(not(feature = "std"), test))]
mod spinning {
    use core::ops::{Deref, DerefMut};

    use spin::RwLockReadGuard;
    pub(crate) use spin::RwLockWriteGuard;

    /// Mutual exclusion.
    #[derive(Default)]
    pub(crate) struct Mutex<T>(spin::Mutex<T>);

    /// Access to what a mutex guards. It knows its mutex, so that a condition variable can lock again.
    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        value: spin::MutexGuard<'a, T>,
    }

    /// Many readers or one writer.
    #[derive(Default)]
    pub(crate) struct RwLock<T>(spin::RwLock<T>);

    /// What a holder of a mutex waits on. Nobody sleeps here: a wait lets others have the mutex for a moment, and the
    /// waiter checks its condition again.
    #[derive(Default)]
    pub(crate) struct Condvar;

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Mutex<T> {
            Mutex(spin::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, value: self.0.lock() }
        }

        #[cfg(test)]
        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    impl<T> RwLock<T> {
        pub(crate) const fn new(value: T) -> RwLock<T> {
            RwLock(spin::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read()
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write()
        }
    }

    impl Condvar {
        pub(crate) const fn new() -> Condvar {
            Condvar
        }

        /// Unlocks, lets others have the mutex, and locks again.
        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            let mutex = guard.mutex;
            drop(guard);
            for _ in 0..64 {
                core::hint::spin_loop();
            }
            mutex.lock()
        }

        /// Returns at once: there is no clock to wait by.
        #[cfg_attr(not(test), allow(dead_code, reason = "part of the interface that both kinds of lock share"))]
        pub(crate) fn wait_timeout_ms<'a, T>(&self, guard: MutexGuard<'a, T>, _timeout_ms: u64) -> MutexGuard<'a, T> {
            guard
        }

        pub(crate) fn notify_all(&self) {}
    }
}

#[cfg(test)]
mod tests {
    macro_rules! lock_tests {
        ($name:ident, $locks:ident) => {
            mod $name {
                use std::sync::Arc;
                use std::thread;

                use super::super::$locks::{Condvar, Mutex, RwLock};

                #[test]
                fn increments_are_not_lost() {
                    let count = Arc::new((Mutex::new(0), RwLock::new(0)));
                    let threads = [0; 4].map(|_| {
                        let count = count.clone();
                        thread::spawn(move || {
                            for _ in 0..1000 {
                                *count.0.lock() += 1;
                                *count.1.write() += 1;
                            }
                        })
                    });
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                    assert_eq!((*count.0.lock(), *count.1.read()), (4000, 4000));
                    let (mutex, _) = Arc::into_inner(count).unwrap();
                    assert_eq!(mutex.into_inner(), 4000);
                }

                #[test]
                fn waiters_see_what_was_notified() {
                    // Whether somebody waits, and whether it may go on.
                    let shared = Arc::new((Mutex::new((false, false)), Condvar::new()));
                    let waiter = {
                        let shared = shared.clone();
                        thread::spawn(move || {
                            let mut state = shared.0.lock();
                            state.0 = true;
                            while !state.1 {
                                state = shared.1.wait(state);
                            }
                        })
                    };
                    // Whoever finds the mark has the mutex that the waiter gave up by falling asleep.
                    loop {
                        let mut state = shared.0.lock();
                        if state.0 {
                            state.1 = true;
                            break;
                        }
                        drop(state);
                        thread::yield_now();
                    }
                    shared.1.notify_all();
                    waiter.join().unwrap();
                    let guard = shared.1.wait_timeout_ms(shared.0.lock(), 1);
                    assert!(guard.1, "a timed wait ends without a notification");
                }
            }
        };
    }

    lock_tests!(spins, spinning);
    #[cfg(feature = "std")]
    lock_tests!(sleeps, sleeping);

    #[cfg(feature = "std")]
    #[test]
    fn a_panicking_holder_leaves_the_lock_usable() {
        let mutex = super::Mutex::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = mutex.lock();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(*mutex.lock(), 1);
    }
}
