//! A host that fails: at the k-th read, write or flush, once or from then on.

use std::sync::Mutex;

use sefs::backend::{Backend, BackendError, BackendOperation, Batch, HostBuf, Io, Ticket};

use crate::disk::{PAGE, SECTOR};
use crate::recorder::Recorder;
use crate::seed::Dice;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    /// Reading.
    Read,
    /// Writing; the range holds the old bytes, the new ones, or a mixture.
    Write,
    /// Flushing; nothing is known of the writes before.
    Flush,
}

/// When it fails.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What fails.
    pub what: Fails,
    /// How many requests of that sort succeed before.
    pub after: u64,
    /// Once, or for ever.
    pub for_ever: bool,
    /// The host's error number.
    pub errno: i32,
}

/// The backend.
pub struct Faulty {
    disk: Recorder,
    state: Mutex<State>,
}

struct State {
    plan: Option<Plan>,
    counts: [u64; 3],
    failures: u64,
    dice: Dice,
}

impl Faulty {
    /// Stands before `disk` and fails by `plan`.
    pub fn new(disk: Recorder, plan: Option<Plan>, seed: u64) -> Faulty {
        Faulty { disk, state: Mutex::new(State { plan, counts: [0; 3], failures: 0, dice: Dice::new(seed) }) }
    }

    /// How many requests of this sort came so far.
    pub fn count(&self, what: Fails) -> u64 {
        self.lock().counts[what as usize]
    }

    /// How many requests failed so far.
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn fails(&self, what: Fails) -> Option<i32> {
        let mut state = self.lock();
        let number = state.counts[what as usize];
        state.counts[what as usize] += 1;
        let plan = state.plan.filter(|plan| plan.what == what)?;
        let hit = number == plan.after || (plan.for_ever && number > plan.after);
        state.failures += u64::from(hit);
        hit.then_some(plan.errno)
    }

    /// What a failed write may have done all the same.
    fn half_write(&self, offset_bytes: u64, buf: &HostBuf) {
        let sectors = buf.bytes().len() / SECTOR;
        let (kind, part) = {
            let mut state = self.lock();
            (state.dice.below(3), state.dice.index(sectors + 1))
        };
        let keep = match kind {
            0 => 0,
            1 => sectors,
            _ => part,
        };
        let first = offset_bytes - offset_bytes % PAGE as u64;
        let Ok(mut old) = self.disk.read_at(first, buf.bytes().len()) else { return };
        old.bytes_mut()[..keep * SECTOR].copy_from_slice(&buf.bytes()[..keep * SECTOR]);
        drop(self.disk.write_at(first, old));
    }
}

impl Backend for Faulty {
    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        let mut done = Vec::new();
        for io in batch {
            let (what, operation) = match &io {
                Io::Read { .. } => (Fails::Read, BackendOperation::Read),
                Io::Write { .. } => (Fails::Write, BackendOperation::Write),
            };
            if let Some(errno) = self.fails(what) {
                let (Io::Read { offset_bytes, .. } | Io::Write { offset_bytes, .. }) = &io;
                if let Io::Write { offset_bytes, buf } = &io {
                    self.half_write(*offset_bytes, buf);
                }
                return Err(BackendError { operation, offset_bytes: *offset_bytes, errno });
            }
            match self.disk.submit(vec![io])? {
                Ticket::Done(mut one) => done.append(&mut one),
                Ticket::Pending(_) => unreachable!("the recorder completes in submit"),
            }
        }
        Ok(Ticket::Done(done))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        self.disk.wait(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        match self.fails(Fails::Flush) {
            Some(errno) => Err(BackendError { operation: BackendOperation::Flush, offset_bytes: 0, errno }),
            None => self.disk.flush(),
        }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        self.disk.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.disk.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.disk.grow(len_bytes)
    }
}
