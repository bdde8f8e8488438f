//! A storage simulator: a host that strikes by a plan. The same plan on the same run strikes the same requests.
//!
//! What each zone of a volume must survive. *Mounts*: the volume opens and shows the whole state. *Refused*: an error that
//! blames the host, at open or where it is read, and everything else reads as before. *Latches*: the request fails, the volume
//! is read-only from then on, and the next mount on a healthy host shows everything that was acknowledged.
//!
//! | fault | header and replica | slots | log | trees, bitmaps, data |
//! |---|---|---|---|---|
//! | crash at any write, reordered, torn at 512 bytes | mounts | mounts | mounts, at a group boundary | mounts |
//! | failed or short read, once or for ever | the request fails, nothing is remembered | the same | the same | the same |
//! | failed write or flush, host out of space | latches | latches | latches | latches, or the one operation fails |
//! | flip, stale or foreign bytes in what is read | mounts by the other copy | mounts by the other one | refused; unconfirmed groups dropped | refused |
//! | write that flips, is lost or goes elsewhere | mounts by the other copy | mounts by the other one | refused; unconfirmed groups dropped | refused |
//! | length that lies | refused, or mounts | | | |
//! | a second read that differs from the first | refused | refused | refused | refused |
//! | buffers swapped, missing or short in a batch | the request fails, or as flips | the same | the same | the same |
//!
//! A buffer cannot change under the reader: the interface hands it over by value. What is left of a double fetch is to read
//! a block twice, which is what [`Fault::SecondRead`] strikes. Crashes are not struck here but cut out of the recording below
//! (see [`crate::loss`]), and a host that forks the state is a copy of the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use sefs::backend::{Backend, BackendError, BackendOperation, Batch, HostBuf, Io, Ticket};

use crate::disk::{PAGE, SECTOR};
use crate::recorder::Recorder;
use crate::seed::Dice;

/// What the host does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A read fails.
    FailRead,
    /// A read returns fewer bytes, and says nothing.
    ShortRead,
    /// A bit of what is read is another.
    FlipRead,
    /// What is read was there before the last write to it.
    StaleRead,
    /// What is read is another place's.
    OtherRead,
    /// A block that was read before reads differently.
    SecondRead,
    /// The buffers of a batch come back in another order.
    SwappedBuffers,
    /// A buffer of a batch does not come back.
    MissingBuffer,
    /// A write fails; the range holds the old bytes, the new ones, or a mixture.
    FailWrite,
    /// A write fails, for the host has no space.
    HostFull,
    /// A write is acknowledged and not carried out.
    LostWrite,
    /// A write is carried out with one bit changed.
    FlipWrite,
    /// A write goes to another place.
    OtherWrite,
    /// A flush fails.
    FailFlush,
    /// The length is said to be another.
    LyingLen,
}

/// All faults.
pub const FAULTS: [Fault; 15] = [
    Fault::FailRead,
    Fault::ShortRead,
    Fault::FlipRead,
    Fault::StaleRead,
    Fault::OtherRead,
    Fault::SecondRead,
    Fault::SwappedBuffers,
    Fault::MissingBuffer,
    Fault::FailWrite,
    Fault::HostFull,
    Fault::LostWrite,
    Fault::FlipWrite,
    Fault::OtherWrite,
    Fault::FailFlush,
    Fault::LyingLen,
];

/// The requests that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Flushing.
    Flush,
    /// Asking for the length.
    Len,
}

impl Fault {
    /// What it strikes.
    pub fn request(self) -> Request {
        match self {
            Fault::FailRead | Fault::ShortRead | Fault::FlipRead | Fault::StaleRead | Fault::OtherRead => Request::Read,
            Fault::SecondRead | Fault::SwappedBuffers | Fault::MissingBuffer => Request::Read,
            Fault::FailWrite | Fault::HostFull | Fault::LostWrite | Fault::FlipWrite | Fault::OtherWrite => {
                Request::Write
            }
            Fault::FailFlush => Request::Flush,
            Fault::LyingLen => Request::Len,
        }
    }

    /// Whether the host admits it: the request fails, or its answer cannot be taken for one.
    pub fn is_admitted(self) -> bool {
        matches!(
            self,
            Fault::FailRead
                | Fault::ShortRead
                | Fault::MissingBuffer
                | Fault::FailWrite
                | Fault::HostFull
                | Fault::FailFlush
        )
    }

    /// Whether the disk is left with bytes that nobody wrote there, or without some that somebody did, unknown to the volume.
    pub fn spoils_the_disk(self) -> bool {
        matches!(self, Fault::LostWrite | Fault::FlipWrite | Fault::OtherWrite)
    }
}

/// One fault of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What.
    pub fault: Fault,
    /// How many requests of that sort are left alone before.
    pub after: u64,
    /// All requests of that sort from then on, or one.
    pub for_ever: bool,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let often = if self.for_ever { "from" } else { "at" };
        write!(f, "{:?} {often} request {} of {:?}", self.fault, self.after, self.fault.request())
    }
}

/// The backend.
pub struct Simulator {
    disk: Recorder,
    state: Mutex<State>,
}

struct State {
    plan: Vec<Strike>,
    counts: BTreeMap<Request, u64>,
    struck: BTreeMap<Fault, u64>,
    dice: Dice,
    /// What each page held before its last write.
    older: BTreeMap<u64, [u8; PAGE]>,
    read_before: BTreeMap<u64, u64>,
}

impl Simulator {
    /// Stands before `disk`; the dice of `seed` decide which bit flips and where a write goes.
    pub fn new(disk: Recorder, plan: &[Strike], seed: u64) -> Simulator {
        let state = State {
            plan: plan.to_vec(),
            counts: BTreeMap::new(),
            struck: BTreeMap::new(),
            dice: Dice::new(seed),
            older: BTreeMap::new(),
            read_before: BTreeMap::new(),
        };
        Simulator { disk, state: Mutex::new(state) }
    }

    /// The faults that struck, and how often.
    pub fn struck(&self) -> BTreeMap<Fault, u64> {
        self.lock().struck.clone()
    }

    /// How many requests of this sort there were.
    pub fn requests(&self, request: Request) -> u64 {
        self.lock().counts.get(&request).copied().unwrap_or(0)
    }

    /// What pages held before, for stale reads of things that were not written through this simulator.
    pub fn remember(&self, older: BTreeMap<u64, [u8; PAGE]>) {
        self.lock().older = older;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read(
        &self,
        state: &mut State,
        fault: Option<Fault>,
        offset: u64,
        buf: &mut HostBuf,
    ) -> Result<(), BackendError> {
        let len = buf.bytes().len();
        let from = match fault {
            Some(Fault::OtherRead) => state.elsewhere(&self.disk, offset, len),
            _ => offset,
        };
        let read = self.disk.read_at(from, len)?;
        buf.bytes_mut().copy_from_slice(read.bytes());
        let pages = offset / PAGE as u64..(offset + len as u64).div_ceil(PAGE as u64);
        match fault {
            Some(Fault::FailRead) => {
                return Err(BackendError { operation: BackendOperation::Read, offset_bytes: offset, errno: 5 });
            }
            Some(Fault::ShortRead) => *buf = HostBuf::zeroed(state.dice.index(len.max(1))),
            Some(Fault::FlipRead) => state.flip(buf),
            Some(Fault::SecondRead) if pages.clone().all(|page| state.read_before.contains_key(&page)) => {
                state.flip(buf)
            }
            Some(Fault::StaleRead) if offset.is_multiple_of(PAGE as u64) => {
                for (page, bytes) in pages.clone().zip(buf.bytes_mut().chunks_mut(PAGE)) {
                    if let Some(older) = state.older.get(&page) {
                        bytes.copy_from_slice(&older[..bytes.len()]);
                    }
                }
            }
            _ => {}
        }
        pages.for_each(|page| *state.read_before.entry(page).or_insert(0) += 1);
        Ok(())
    }

    fn write(&self, state: &mut State, fault: Option<Fault>, offset: u64, buf: &HostBuf) -> Result<(), BackendError> {
        let len = buf.bytes().len();
        let old = self.disk.read_at(offset, len)?;
        let mut put = self.disk.buffer(len);
        put.bytes_mut().copy_from_slice(buf.bytes());
        let mut to = offset;
        match fault {
            Some(Fault::FailWrite | Fault::HostFull) => {
                let sectors = len / SECTOR;
                let keep = *state.dice.pick(&[0, sectors, sectors / 2, sectors.min(1)]);
                put.bytes_mut()[keep * SECTOR..].copy_from_slice(&old.bytes()[keep * SECTOR..]);
                self.disk.write_at(to, put)?;
                let errno = if fault == Some(Fault::HostFull) { 28 } else { 5 };
                return Err(BackendError { operation: BackendOperation::Write, offset_bytes: offset, errno });
            }
            Some(Fault::LostWrite) => return Ok(()),
            Some(Fault::FlipWrite) => state.flip(&mut put),
            Some(Fault::OtherWrite) => to = state.elsewhere(&self.disk, offset, len),
            _ => {}
        }
        for (page, bytes) in (offset / PAGE as u64..).zip(old.bytes().chunks_exact(PAGE)) {
            state.older.insert(page, bytes.try_into().expect("chunks_exact"));
        }
        self.disk.write_at(to, put)
    }
}

impl State {
    /// The fault that strikes this request, if one does.
    fn strikes(&mut self, request: Request) -> Option<Fault> {
        let count = self.counts.entry(request).or_insert(0);
        let number = *count;
        *count += 1;
        let hits = |strike: &&Strike| {
            strike.fault.request() == request && (number == strike.after || (strike.for_ever && number > strike.after))
        };
        let fault = self.plan.iter().find(hits)?.fault;
        *self.struck.entry(fault).or_insert(0) += 1;
        Some(fault)
    }

    fn flip(&mut self, buf: &mut HostBuf) {
        let len = buf.bytes().len();
        if len > 0 {
            buf.bytes_mut()[self.dice.index(len)] ^= 1 << self.dice.below(8);
        }
    }

    /// Another place with room for so many bytes: a neighbour, or anywhere.
    fn elsewhere(&mut self, disk: &Recorder, offset: u64, len: usize) -> u64 {
        let places = (disk.disk().len_bytes() - len as u64) / PAGE as u64 + 1;
        let page = match self.dice.below(3) {
            0 => offset / PAGE as u64 + 1,
            1 => (offset / PAGE as u64).saturating_sub(1),
            _ => self.dice.below(places),
        };
        (page % places) * PAGE as u64
    }
}

impl Backend for Simulator {
    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        let mut state = self.lock();
        let (mut swapped, mut missing) = (false, false);
        for io in &mut batch {
            match io {
                Io::Read { offset_bytes, buf } => {
                    let fault = state.strikes(Request::Read);
                    swapped |= fault == Some(Fault::SwappedBuffers);
                    missing |= fault == Some(Fault::MissingBuffer);
                    self.read(&mut state, fault, *offset_bytes, buf)?;
                }
                Io::Write { offset_bytes, buf } => {
                    let fault = state.strikes(Request::Write);
                    self.write(&mut state, fault, *offset_bytes, buf)?;
                }
            }
        }
        if swapped {
            batch.reverse();
        }
        if missing {
            drop(batch.pop());
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        self.disk.wait(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        match self.lock().strikes(Request::Flush) {
            Some(_) => Err(BackendError { operation: BackendOperation::Flush, offset_bytes: 0, errno: 5 }),
            None => self.disk.flush(),
        }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        self.disk.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        let len = self.disk.len_bytes()?;
        let mut state = self.lock();
        match state.strikes(Request::Len) {
            Some(_) => {
                Ok(*state.dice.pick(&[0, 1, 4096, 65_536, len / 2, len - 1, len + 1, len + 4096, len * 3, u64::MAX]))
            }
            None => Ok(len),
        }
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.disk.grow(len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn simulator(plan: &[Strike]) -> Simulator {
        Simulator::new(Recorder::new(Disk::new(64 * PAGE as u64)), plan, 7)
    }

    fn once(fault: Fault, after: u64) -> Strike {
        Strike { fault, after, for_ever: false }
    }

    fn write(simulator: &Simulator, page: u64, byte: u8) -> Result<(), BackendError> {
        let mut buf = simulator.buffer(PAGE);
        buf.bytes_mut().fill(byte);
        simulator.write_at(page * PAGE as u64, buf)
    }

    fn read(simulator: &Simulator, page: u64) -> Result<Vec<u8>, BackendError> {
        simulator.read_at(page * PAGE as u64, PAGE).map(|buf| buf.bytes().to_vec())
    }

    /// Each fault does what its name says, once, and no more.
    #[test]
    fn faults_strike_once() {
        for fault in FAULTS {
            let host = simulator(&[once(fault, if fault == Fault::SecondRead { 2 } else { 1 })]);
            write(&host, 3, 1).expect("left alone");
            let second = write(&host, 3, 2);
            let [first_read, second_read, third_read] = [3; 3].map(|page| read(&host, page));
            drop((host.flush(), host.flush(), host.len_bytes(), host.len_bytes()));
            assert_eq!(host.struck(), BTreeMap::from([(fault, 1)]), "{fault:?}");
            let whole = |read: &Result<Vec<u8>, BackendError>| *read == Ok(vec![2; PAGE]);
            match fault {
                Fault::FailWrite | Fault::HostFull => assert!(second.is_err()),
                Fault::LostWrite => assert_eq!(first_read, Ok(vec![1; PAGE])),
                Fault::FlipWrite | Fault::OtherWrite => assert!(!whole(&first_read)),
                Fault::FailRead | Fault::ShortRead | Fault::MissingBuffer => assert!(second_read.is_err()),
                Fault::StaleRead => assert_eq!(second_read, Ok(vec![1; PAGE])),
                Fault::FlipRead | Fault::OtherRead => assert!(!whole(&second_read) && whole(&first_read)),
                Fault::SecondRead => assert!(!whole(&third_read) && whole(&second_read)),
                Fault::SwappedBuffers | Fault::FailFlush | Fault::LyingLen => assert!(whole(&second_read)),
            }
        }
    }

    #[test]
    fn the_same_plan_strikes_the_same() {
        let run = || {
            let host = simulator(&[Strike { fault: Fault::OtherWrite, after: 3, for_ever: true }]);
            (0..20).for_each(|page| write(&host, page, 9).expect("misdirected writes do not fail"));
            host.disk.disk()
        };
        assert!(run() == run());
    }
}
