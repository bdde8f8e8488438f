//! Long campaigns: what all of them share. Each takes a seed, counts what it did, can be stopped, and ends with a failure
//! that says how to see it again.
//!
//! ```text
//! bin/campaign ─► crash ─┬─► bounded, threads ─► explore
//!              ├─► storm │
//!              └─► tamper
//! ```
pub mod bounded;
pub mod crash;
pub mod explore;
pub mod hostile;
pub mod storm;
pub mod tamper;
pub mod threads;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::world::World;

/// A run of a campaign.
pub struct Campaign {
    /// Where all its dice start.
    pub seed: u64,
    /// What was done so far.
    pub tally: BTreeMap<&'static str, u64>,
    /// Every nonce of every volume of the run.
    pub ledger: Ledger,
    stop: Arc<AtomicBool>,
    started: Instant,
    told: Instant,
    /// How often progress is told; never if there is none.
    tell_every: Option<Duration>,
}

/// What went wrong, and how to see it again.
#[derive(Debug)]
pub struct Failure {
    /// The seed of the one run that failed.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
    /// The smallest sequence found that fails.
    pub sequence: Vec<String>,
}

impl Campaign {
    /// A campaign that tells nobody of its progress.
    pub fn new(seed: u64) -> Campaign {
        let now = Instant::now();
        Campaign {
            seed,
            tally: BTreeMap::new(),
            ledger: Ledger::default(),
            stop: Arc::default(),
            started: now,
            told: now,
            tell_every: None,
        }
    }

    /// Tells its progress on standard error: on a terminal in one line that is kept up to date, otherwise each minute.
    pub fn telling(mut self) -> Campaign {
        let pause = if std::io::stderr().is_terminal() { Duration::from_millis(300) } else { Duration::from_secs(60) };
        self.tell_every = Some(pause);
        self
    }

    /// A flag that ends the campaign at its next step when set.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Counts.
    pub fn count(&mut self, what: &'static str, by: u64) {
        *self.tally.entry(what).or_insert(0) += by;
    }

    /// How many there were so far.
    pub fn counted(&self, what: &str) -> u64 {
        self.tally.get(what).copied().unwrap_or(0)
    }

    /// Whether to go on; tells the progress on the way.
    pub fn goes_on(&mut self) -> bool {
        if let Some(pause) = self.tell_every
            && self.told.elapsed() > pause
        {
            self.told = Instant::now();
            let (start, end) = if std::io::stderr().is_terminal() { ("\r", "\x1b[K") } else { ("", "\n") };
            eprint!("{start}{}{end}", self.line());
            drop(std::io::stderr().flush());
        }
        !self.stopped()
    }

    /// Whether it was told to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A world whose nonces go into the ledger.
    pub fn world(&self, seed: u64) -> World {
        World::new(seed).recorded_by(&self.ledger)
    }

    /// What was done, in one line.
    pub fn line(&self) -> String {
        let counts: Vec<String> = self.tally.iter().map(|(what, count)| format!("{what} {count}")).collect();
        format!("{:.0} s: {}", self.started.elapsed().as_secs_f64(), counts.join(", "))
    }

    /// No nonce was used twice in all the run.
    pub fn check_ledger(&mut self) -> Result<(), Failure> {
        self.tally.insert("seals", self.ledger.seals());
        match self.ledger.reuses().first() {
            None => Ok(()),
            Some(first) => {
                let what = format!("{} nonce reuses, the first: {first}", self.ledger.reuses().len());
                Err(Failure { seed: self.seed, what, sequence: Vec::new() })
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "seed {}; the smallest sequence that fails:", self.seed)?;
        self.sequence.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on panics are not printed; those within [`caught`] keep their place.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| LAST_PANIC.with(|last| *last.borrow_mut() = Some(info.to_string()))));
}

/// Turns a panic into what it says.
pub fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let told = LAST_PANIC.with(|last| last.borrow_mut().take());
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        Err(told.or(text).unwrap_or_else(|| "a panic without words".into()))
    })
}
