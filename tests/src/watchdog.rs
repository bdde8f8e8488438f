//! Ends the run when one case takes too long: a hang is a failure that no assertion sees.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

type Cases = Arc<Mutex<BTreeMap<String, Instant>>>;

/// Watches the cases of one test.
pub struct Watchdog {
    cases: Cases,
    stop: Arc<AtomicBool>,
}

impl Watchdog {
    /// Starts watching; a case that takes longer than `limit` ends the process.
    pub fn new(limit: Duration) -> Watchdog {
        let cases: Cases = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, stopped) = (cases.clone(), stop.clone());
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(200));
                let cases = watched.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if let Some((case, _)) = cases.iter().find(|(_, since)| since.elapsed() > limit) {
                    eprintln!("hangs for more than {limit:?}: {case}");
                    std::process::abort();
                }
            }
        });
        Watchdog { cases, stop }
    }

    /// Runs one case.
    pub fn watch<T>(&self, case: &str, run: impl FnOnce() -> T) -> T {
        let id: ThreadId = thread::current().id();
        let name = format!("{case} ({id:?})");
        let lock = || self.cases.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        lock().insert(name.clone(), Instant::now());
        let result = run();
        lock().remove(&name);
        result
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
