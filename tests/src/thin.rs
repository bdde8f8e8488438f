//! A host with a thin disk: what was never written takes no space, and there may be none left for it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sefs::backend::{Backend, BackendError, BackendOperation, Batch, Io, Ticket};

use crate::recorder::Recorder;

const BLOCK: u64 = 4096;

/// The backend.
pub struct Thin {
    disk: Recorder,
    state: Mutex<State>,
}

struct State {
    given: BTreeSet<u64>,
    left: u64,
    refused: u64,
}

impl Thin {
    /// Stands before `disk`, of which nothing was written yet, with endless space.
    pub fn new(disk: Recorder) -> Thin {
        Thin { disk, state: Mutex::new(State { given: BTreeSet::new(), left: u64::MAX, refused: 0 }) }
    }

    /// From now on the host has space for so many blocks that were not written before.
    pub fn leave(&self, blocks: u64) {
        self.state().left = blocks;
    }

    /// Writes that were refused.
    pub fn refused(&self) -> u64 {
        self.state().refused
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes space for a write; false if there is too little.
    fn take(&self, offset_bytes: u64, len_bytes: usize) -> bool {
        let mut state = self.state();
        let blocks = offset_bytes / BLOCK..(offset_bytes + len_bytes as u64) / BLOCK;
        let new: Vec<u64> = blocks.filter(|block| !state.given.contains(block)).collect();
        if new.len() as u64 > state.left {
            state.refused += 1;
            return false;
        }
        state.left -= new.len() as u64;
        state.given.extend(new);
        true
    }
}

impl Backend for Thin {
    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        let mut done = Vec::new();
        for io in batch {
            if let Io::Write { offset_bytes, buf } = &io
                && !self.take(*offset_bytes, buf.bytes().len())
            {
                return Err(BackendError {
                    operation: BackendOperation::Write,
                    offset_bytes: *offset_bytes,
                    errno: 28,
                });
            }
            done.extend(self.disk.wait(self.disk.submit(vec![io])?)?);
        }
        Ok(Ticket::Done(done))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        self.disk.wait(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.disk.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        {
            let mut state = self.state();
            let blocks = offset_bytes / BLOCK..(offset_bytes + len_bytes) / BLOCK;
            let gone: Vec<u64> = state.given.range(blocks).copied().collect();
            state.given.retain(|block| !gone.contains(block));
            state.left = state.left.saturating_add(gone.len() as u64);
        }
        self.disk.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.disk.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.disk.grow(len_bytes)
    }
}
