//! What a volume under test runs on: a clock that stands still between operations, random bytes from a seed, a key.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use sefs::backend::Backend;
use sefs::check::{self, CheckOptions, Event, Severity};
use sefs::env::{Clock, Env};
use sefs::error::Result;
use sefs::keys::VolumeKey;
use sefs::suite::{Rng, RngFailed};
use sefs::types::Timestamp;
use sefs::vfs::{Caller, FormatOptions, Lower, NewLower, OpenOptions, Owner, Volume};

use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::recorder::Recorder;
use crate::seed::Dice;

/// Permission bits of the root directory.
pub const ROOT_MODE: u32 = 0o755;
/// The id of volumes under test.
pub const VOLUME_ID: [u8; 16] = *b"volume-under-tst";

/// A clock that tells what it was told.
#[derive(Default)]
pub struct StillClock(AtomicI64);

impl StillClock {
    /// The time.
    pub fn seconds(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Sets the time.
    pub fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: self.0.load(Ordering::SeqCst), nanoseconds: 0 }
    }
}

/// A generator whose bytes follow from a seed, so that a run can be repeated.
pub struct SeededRng(Mutex<Dice>);

impl SeededRng {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> SeededRng {
        SeededRng(Mutex::new(Dice::new(seed)))
    }

    /// From now on its bytes follow from another seed: what comes out of the hardware of a machine that was cloned as it ran.
    pub fn part(&self, seed: u64) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Dice::new(seed);
    }
}

impl Rng for SeededRng {
    fn fill(&self, out: &mut [u8]) -> core::result::Result<(), RngFailed> {
        self.0.lock().map_err(|_| RngFailed)?.fill(out);
        Ok(())
    }
}

/// A generator that fails.
pub struct BrokenRng;

impl Rng for BrokenRng {
    fn fill(&self, _: &mut [u8]) -> core::result::Result<(), RngFailed> {
        Err(RngFailed)
    }
}

/// Surroundings of one volume.
#[derive(Clone)]
pub struct World {
    /// What the volume is given.
    pub env: Env,
    /// Its clock.
    pub clock: Arc<StillClock>,
    /// The images that volumes of this world lie over.
    pub lowers: Vec<Lower>,
}

impl World {
    /// A world whose random bytes follow from `seed`.
    pub fn new(seed: u64) -> World {
        let clock = Arc::new(StillClock::default());
        let env = Env { suite: Env::host().suite, rng: Arc::new(SeededRng::new(seed)), clock: clock.clone() };
        World { env, clock, lowers: Vec::new() }
    }

    /// The same world with other random bytes: what a clone of a machine gets.
    pub fn reseeded(&self, seed: u64) -> World {
        let env = Env { rng: Arc::new(SeededRng::new(seed)), ..self.env.clone() };
        World { env, ..self.clone() }
    }

    /// The same world with this generator.
    pub fn with_rng(&self, rng: Arc<SeededRng>) -> World {
        let env = Env { rng, ..self.env.clone() };
        World { env, ..self.clone() }
    }

    /// The same world with a suite that writes every nonce into `ledger`.
    pub fn recorded_by(&self, ledger: &Ledger) -> World {
        let env = Env { suite: ledger.suite(self.env.suite.clone()), ..self.env.clone() };
        World { env, ..self.clone() }
    }

    /// Formats a fresh disk.
    pub fn format(&self, size_bytes: u64) -> Disk {
        let disk = Recorder::plain(Disk::new(size_bytes));
        self.format_on(Arc::new(disk.clone()), &format_options(size_bytes)).expect("formatting an empty disk");
        disk.disk()
    }

    /// Formats by given options.
    pub fn format_on(&self, backend: Arc<dyn Backend>, options: &FormatOptions) -> Result<()> {
        Volume::format(backend, &key(), options, &self.env)
    }

    /// Opens a volume.
    pub fn open(&self, backend: Arc<dyn Backend>, options: &OpenOptions) -> Result<Volume> {
        let mut volume = Volume::open(backend, &key(), options, &self.env)?;
        self.lowers.iter().try_for_each(|lower| volume.attach_lower(lower, &self.env))?;
        Ok(volume)
    }

    /// Formats a fresh disk over images, which are this world's from now on.
    pub fn format_over(&mut self, size_bytes: u64, lowers: &[NewLower]) -> Disk {
        let disk = Recorder::plain(Disk::new(size_bytes));
        let backend = Arc::new(disk.clone());
        Volume::format_over(backend, &key(), &format_options(size_bytes), lowers, &self.env)
            .expect("formatting over images");
        self.lowers = lowers.iter().map(|lower| lower.image.clone()).collect();
        disk.disk()
    }
}

impl World {
    /// Checks every invariant of what is stored, data included. Panics with the findings that are errors.
    pub fn check(&self, backend: Arc<dyn Backend>, options: &OpenOptions, context: &str) {
        let check = CheckOptions {
            scrub: true,
            anchor: options.anchor.clone(),
            memory_bytes: options.memory_bytes,
            lowers: self.lowers.clone(),
            ..CheckOptions::default()
        };
        let mut wrong = Vec::new();
        let summary = check::check(backend, &key(), &check, &self.env, &mut |event| {
            if let Event::Finding(finding) = event
                && finding.severity() == Severity::Error
            {
                wrong.push(finding);
            }
        });
        let summary = summary.unwrap_or_else(|error| panic!("{context}: cannot be checked: {error}"));
        assert!(wrong.is_empty() && summary.errors == 0, "{context}: the check finds {wrong:#?}");
    }
}

/// The superuser, checked like everybody else.
pub fn checked_root() -> Caller {
    Caller { check: true, ..Caller::root() }
}

/// The key of volumes under test.
pub fn key() -> VolumeKey {
    VolumeKey::new([0x5a; 32])
}

/// Ordinary options for a volume of this size.
pub fn format_options(size_bytes: u64) -> FormatOptions {
    FormatOptions {
        size_bytes,
        volume_id: VOLUME_ID,
        label: "under test".into(),
        slots: Vec::new(),
        anchor: None,
        root: Owner { mode: ROOT_MODE, uid: 0, gid: 0 },
    }
}

/// Options with the smallest budget that is allowed.
pub fn small_memory() -> OpenOptions {
    OpenOptions { memory_bytes: 4 << 20, ..OpenOptions::default() }
}
