//! A backend that remembers every write, flush and discard, and rebuilds every disk that a crash could have left.
//!
//! What a crash leaves: everything written before the last flush that returned, and of the later writes any subset, in any
//! order, each torn at 512 bytes. A discarded range holds anything.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread::ThreadId;

use sefs::backend::{Backend, BackendError, BackendOperation, Batch, BufferPool, HostBuf, Io, Ticket};

use crate::disk::{Disk, PAGE};
use crate::loss::Loss;
use crate::seed::Dice;

/// What happened to the disk, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes were written.
    Write {
        /// Where.
        offset_bytes: u64,
        /// What.
        data: Arc<Vec<u8>>,
    },
    /// A range was given back.
    Discard {
        /// Where.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
    },
    /// A flush returned. Durable are the first `covers` events: those that had completed when it was called.
    Flush {
        /// How many events.
        covers: usize,
    },
    /// The image got longer.
    Grow(u64),
}

/// The backend. Clones share the disk.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
}

/// The buffers of all recorders, with what was in them last: nobody may rely on a fresh one.
static BUFFERS: LazyLock<BufferPool> = LazyLock::new(|| BufferPool::new(1));

struct Shared {
    disk: Disk,
    base: Disk,
    events: Vec<Event>,
    recording: bool,
    reads: Counts,
    user: User,
    read_requests: u64,
    read_limit: u64,
}

/// How often each page was read, in pieces of 64.
#[derive(Default)]
struct Counts(BTreeMap<u64, [u64; 64]>);

/// Which threads have come so far.
enum User {
    Nobody,
    One(ThreadId),
    Several,
}

impl Recorder {
    /// Starts recording on `base`.
    pub fn new(base: Disk) -> Recorder {
        let shared = Shared {
            disk: base.clone(),
            base,
            events: Vec::new(),
            recording: true,
            reads: Counts::default(),
            user: User::Nobody,
            read_requests: 0,
            read_limit: u64::MAX,
        };
        Recorder { shared: Arc::new(Mutex::new(shared)) }
    }

    /// A disk without memory, for tests that only look at the end.
    pub fn plain(base: Disk) -> Recorder {
        let recorder = Recorder::new(base);
        recorder.lock().recording = false;
        recorder
    }

    /// Requests to read after which the backend fails: a bound that stands in for "never hangs".
    pub fn limit_reads(&self, requests: u64) {
        self.lock().read_limit = requests;
    }

    /// Whether the bound of [`Recorder::limit_reads`] was passed.
    pub fn read_limit_passed(&self) -> bool {
        let shared = self.lock();
        shared.read_requests > shared.read_limit
    }

    /// The disk as it is now, all writes carried out.
    pub fn disk(&self) -> Disk {
        self.lock().disk.clone()
    }

    /// Replaces the disk under a mount, as a hostile host does.
    pub fn replace_disk(&self, disk: Disk) {
        self.lock().disk = disk;
    }

    /// How many events there are.
    pub fn position(&self) -> usize {
        self.lock().events.len()
    }

    /// The whole record.
    pub fn recording(&self) -> Recording {
        let shared = self.lock();
        Recording { base: shared.base.clone(), events: shared.events.clone() }
    }

    /// Pages read so far.
    pub fn pages_read(&self) -> Vec<u64> {
        self.lock().reads.counted().map(|(page, _)| page).collect()
    }

    /// How many pages were read so far, each as often as it was.
    pub fn page_reads(&self) -> u64 {
        self.lock().reads.counted().map(|(_, count)| count).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Counts {
    fn count(&mut self, page: u64) {
        self.0.entry(page / 64).or_insert([0; 64])[(page % 64) as usize] += 1;
    }

    /// The pages that were read, rising, with how often.
    fn counted(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let pages = self.0.iter().flat_map(|(piece, counts)| (piece * 64..).zip(counts.iter().copied()));
        pages.filter(|(_, count)| *count > 0)
    }
}

impl User {
    fn meet(&mut self) {
        let this = std::thread::current().id();
        *self = match self {
            User::Nobody => User::One(this),
            User::One(first) if *first == this => return,
            User::One(_) | User::Several => User::Several,
        };
    }
}

impl Shared {
    fn read(&mut self, offset: u64, buf: &mut HostBuf) -> Result<(), BackendError> {
        let len = buf.bytes().len() as u64;
        self.read_requests += 1;
        let past_end = offset.checked_add(len).is_none_or(|end| end > self.disk.len_bytes());
        if past_end || self.read_requests > self.read_limit {
            return Err(BackendError { operation: BackendOperation::ShortRead, offset_bytes: offset, errno: 0 });
        }
        for page in offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64) {
            self.reads.count(page);
        }
        self.disk.read(offset, buf.bytes_mut());
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        let past_end = offset.checked_add(data.len() as u64).is_none_or(|end| end > self.disk.len_bytes());
        if past_end {
            return Err(BackendError { operation: BackendOperation::Write, offset_bytes: offset, errno: 27 });
        }
        assert_eq!((offset % PAGE as u64, data.len() % PAGE), (0, 0), "writes are whole blocks");
        self.disk.write(offset, data);
        if self.recording {
            self.events.push(Event::Write { offset_bytes: offset, data: Arc::new(data.to_vec()) });
        }
        Ok(())
    }
}

impl Backend for Recorder {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        BUFFERS.take(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        BUFFERS.put(buf);
    }

    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        let mut shared = self.lock();
        shared.user.meet();
        for io in &mut batch {
            match io {
                Io::Read { offset_bytes, buf } => shared.read(*offset_bytes, buf)?,
                Io::Write { offset_bytes, buf } => shared.write(*offset_bytes, buf.bytes())?,
            }
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        match ticket {
            Ticket::Done(batch) => Ok(batch),
            Ticket::Pending(_) => Err(BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: 22 }),
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        let mut shared = self.lock();
        let covers = shared.events.len();
        shared.user.meet();
        if matches!(shared.user, User::Several) {
            // Writes of others that complete during a flush are not covered by it.
            drop(shared);
            std::thread::yield_now();
            shared = self.lock();
        }
        if shared.recording {
            shared.events.push(Event::Flush { covers });
        }
        Ok(())
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        let mut shared = self.lock();
        if shared.recording {
            shared.events.push(Event::Discard { offset_bytes, len_bytes });
        }
        // Nobody may rely on what a discarded range holds, so it gets what is least convenient: bytes that were never written.
        scramble(&mut shared.disk, offset_bytes, len_bytes);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        Ok(self.lock().disk.len_bytes())
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        let mut shared = self.lock();
        if len_bytes > shared.disk.len_bytes() {
            shared.disk.set_len(len_bytes);
            if shared.recording {
                shared.events.push(Event::Grow(len_bytes));
            }
        }
        Ok(())
    }
}

fn scramble(disk: &mut Disk, offset_bytes: u64, len_bytes: u64) {
    disk.write(offset_bytes, &vec![0xd5; usize::try_from(len_bytes).expect("test images are small")]);
}

/// What one run did to a disk.
#[derive(Clone)]
pub struct Recording {
    /// The disk before.
    pub base: Disk,
    /// Everything that happened to it.
    pub events: Vec<Event>,
}

impl Recording {
    /// The disk after the first `count` events, all carried out.
    pub fn prefix(&self, count: usize) -> Disk {
        let mut disk = self.base.clone();
        self.events[..count].iter().for_each(|event| apply(&mut disk, event));
        disk
    }

    /// A disk that a crash after the first `count` events could have left: the durable part, and a random subset of the
    /// later writes, reordered and torn.
    pub fn crash(&self, count: usize, dice: &mut Dice) -> Disk {
        Loss::random(self, count, dice).disk(self)
    }

    /// Carries out the events of a range.
    pub fn carry_out(&self, disk: &mut Disk, range: Range<usize>) {
        self.events[range].iter().for_each(|event| apply(disk, event));
    }

    /// How many of the first `count` events the flushes among them made durable.
    pub fn durable(&self, count: usize) -> usize {
        let covered = |event: &Event| if let Event::Flush { covers } = event { *covers } else { 0 };
        self.events[..count].iter().map(covered).max().unwrap_or(0)
    }

    /// Every content that each page ever had, oldest first, the base's included when it was not zero.
    pub fn versions(&self) -> BTreeMap<u64, Vec<[u8; PAGE]>> {
        let mut versions: BTreeMap<u64, Vec<[u8; PAGE]>> = BTreeMap::new();
        for page in self.base.used_pages() {
            versions.entry(page).or_default().push(self.base.page(page));
        }
        for event in &self.events {
            if let Event::Write { offset_bytes, data } = event {
                for (index, bytes) in data.chunks_exact(PAGE).enumerate() {
                    let page = offset_bytes / PAGE as u64 + index as u64;
                    let bytes: [u8; PAGE] = bytes.try_into().expect("chunks_exact");
                    versions.entry(page).or_default().push(bytes);
                }
            }
        }
        versions
    }
}

/// Carries one event out.
pub fn apply(disk: &mut Disk, event: &Event) {
    match event {
        Event::Write { offset_bytes, data } => disk.write(*offset_bytes, data),
        Event::Discard { offset_bytes, len_bytes } => scramble(disk, *offset_bytes, *len_bytes),
        Event::Flush { .. } => {}
        Event::Grow(len_bytes) => disk.set_len((*len_bytes).max(disk.len_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(recorder: &Recorder, page: u64, byte: u8) {
        let mut buf = recorder.buffer(PAGE);
        buf.bytes_mut().fill(byte);
        recorder.write_at(page * PAGE as u64, buf).unwrap();
    }

    #[test]
    fn what_was_flushed_is_in_every_crash_and_what_was_not_is_in_some() {
        let recorder = Recorder::new(Disk::new(8 * PAGE as u64));
        write(&recorder, 1, 1);
        recorder.flush().unwrap();
        write(&recorder, 2, 2);
        write(&recorder, 3, 3);
        let recording = recorder.recording();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = recording.crash(recording.events.len(), &mut Dice::new(seed));
            assert_eq!(disk.page(1), [1; PAGE]);
            let whole = |page: u64| disk.page(page) == [page as u8; PAGE];
            let torn = |page: u64| disk.page(page) != [0; PAGE] && !whole(page);
            seen.insert((whole(2), torn(2), whole(3), torn(3)));
        }
        assert!(seen.contains(&(false, false, true, false)), "the second write alone");
        assert!(seen.contains(&(true, false, false, false)), "the first write alone");
        assert!(seen.iter().any(|state| state.1), "a torn write");
    }

    #[test]
    fn prefixes_and_versions_are_exact() {
        let recorder = Recorder::new(Disk::new(4 * PAGE as u64));
        write(&recorder, 0, 7);
        write(&recorder, 0, 8);
        let recording = recorder.recording();
        assert_eq!(recording.prefix(0).page(0), [0; PAGE]);
        assert_eq!(recording.prefix(1).page(0), [7; PAGE]);
        assert_eq!(recording.prefix(2), recorder.disk());
        assert_eq!(recording.versions()[&0], vec![[7; PAGE], [8; PAGE]]);
    }
}
