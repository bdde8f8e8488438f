//! A backend that works while its caller does something else: a batch is carried out when it is submitted, when it is waited
//! for, or at any request in between, as a seed decides. A hostile one answers some reads wrongly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sefs::backend::{Backend, BackendError, BackendOperation, Batch, HostBuf, Io, Ticket};

use crate::recorder::Recorder;
use crate::seed::Dice;

/// The backend. Clones share what is under way.
#[derive(Clone)]
pub struct Meanwhile {
    inner: Recorder,
    /// Of so many reads one is answered wrongly; 0 for none.
    wrong_one_in: u64,
    under_way: Arc<Mutex<UnderWay>>,
}

struct UnderWay {
    dice: Dice,
    next: u64,
    batches: BTreeMap<u64, State>,
    most: usize,
}

const REFUSED: BackendError = BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: 5 };

enum State {
    Due(Batch),
    Done(Result<Batch, BackendError>),
}

impl Meanwhile {
    /// A backend on a disk.
    pub fn new(inner: Recorder, seed: u64) -> Meanwhile {
        let under_way = UnderWay { dice: Dice::new(seed), next: 0, batches: BTreeMap::new(), most: 0 };
        Meanwhile { inner, wrong_one_in: 0, under_way: Arc::new(Mutex::new(under_way)) }
    }

    /// The same disk under a host that answers one of so many reads wrongly: not at all, with something else, in too few buffers,
    /// or in the wrong ones.
    pub fn hostile(&self, wrong_one_in: u64) -> Meanwhile {
        Meanwhile { wrong_one_in, ..self.clone() }
    }

    /// Batches that nobody has waited for yet.
    pub fn waiting(&self) -> usize {
        self.lock().batches.len()
    }

    /// How many there were at once.
    pub fn most_at_once(&self) -> usize {
        self.lock().most
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, batch: Batch, dice: &mut Dice) -> Result<Batch, BackendError> {
        let reads = batch.iter().all(|io| matches!(io, Io::Read { .. }));
        let mut done = self.inner.submit(batch).and_then(|ticket| self.inner.wait(ticket))?;
        if !reads || self.wrong_one_in == 0 || !dice.one_in(self.wrong_one_in) {
            return Ok(done);
        }
        match dice.index(4) {
            0 => return Err(REFUSED),
            1 => done.reverse(),
            2 => drop(done.pop()),
            _ => {
                let which = dice.index(done.len());
                if let Io::Read { buf, .. } = &mut done[which] {
                    let at = dice.index(buf.bytes().len());
                    buf.bytes_mut()[at] ^= 1;
                }
            }
        }
        Ok(done)
    }

    /// Some of what is due is done now, in any order.
    fn progress(&self, under_way: &mut UnderWay) {
        let due = under_way.batches.iter().filter(|(_, state)| matches!(state, State::Due(_)));
        let mut due: Vec<u64> = due.map(|(number, _)| *number).collect();
        while !due.is_empty() && under_way.dice.one_in(2) {
            let number = due.swap_remove(under_way.dice.index(due.len()));
            if let Some(State::Due(batch)) = under_way.batches.remove(&number) {
                let done = self.carry_out(batch, &mut under_way.dice);
                under_way.batches.insert(number, State::Done(done));
            }
        }
    }
}

impl Backend for Meanwhile {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.inner.buffer(len_bytes)
    }

    fn works_meanwhile(&self) -> bool {
        true
    }

    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        let mut under_way = self.lock();
        let reads = batch.iter().all(|io| matches!(io, Io::Read { .. }));
        if reads && self.wrong_one_in > 0 && under_way.dice.one_in(self.wrong_one_in * 4) {
            return Err(REFUSED);
        }
        let number = under_way.next;
        under_way.next += 1;
        under_way.batches.insert(number, State::Due(batch));
        under_way.most = under_way.most.max(under_way.batches.len());
        self.progress(&mut under_way);
        Ok(Ticket::Pending(number))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        let Ticket::Pending(number) = ticket else {
            return Err(REFUSED);
        };
        let mut under_way = self.lock();
        self.progress(&mut under_way);
        match under_way.batches.remove(&number).expect("a ticket is waited for once") {
            State::Due(batch) => self.carry_out(batch, &mut under_way.dice),
            State::Done(outcome) => outcome,
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        let mut under_way = self.lock();
        self.progress(&mut under_way);
        self.inner.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        self.inner.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.inner.grow(len_bytes)
    }
}
