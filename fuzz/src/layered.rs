//! A backend that copies nothing: changes over a static image. It obeys the host that the input plays, and counts.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use sefs::backend::{Backend, BackendError, BackendOperation, Batch, BufferPool, HostBuf, Io, Ticket};
use sefs_tests::disk::PAGE;

use crate::edit::Edit;
use crate::image::Image;

/// The buffers of all inputs, with what was in them last.
static BUFFERS: LazyLock<BufferPool> = LazyLock::new(|| BufferPool::new(1));

/// The backend. Clones share it.
#[derive(Clone)]
pub struct Layered {
    state: Arc<Mutex<State>>,
}

struct State {
    image: Arc<Image>,
    changed: BTreeMap<u64, Box<[u8; PAGE]>>,
    len_bytes: u64,
    /// Edits that are made when so many requests have come.
    later: BTreeMap<u64, Vec<Edit>>,
    requests: u64,
    read_pages: u64,
    most_requests: u64,
    most_read_pages: u64,
}

impl Layered {
    /// Starts from an image. With more than `most_requests` requests, or more pages read than `most_read_pages`, it fails.
    pub fn new(image: Arc<Image>, most_requests: u64, most_read_pages: u64) -> Layered {
        let len_bytes = image.len_bytes();
        #[rustfmt::skip]
        let state = State {
            image, changed: BTreeMap::new(), len_bytes, later: BTreeMap::new(),
            requests: 0, read_pages: 0, most_requests, most_read_pages,
        };
        Layered { state: Arc::new(Mutex::new(state)) }
    }

    /// The host does something.
    pub fn edit(&self, edit: Edit) {
        self.lock().edit(&edit);
    }

    /// The host does something after that many further requests.
    pub fn edit_later(&self, requests: u64, edit: Edit) {
        let mut state = self.lock();
        let at = state.requests + requests;
        state.later.entry(at).or_default().push(edit);
    }

    /// Requests and pages read so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.requests, state.read_pages)
    }

    /// Panics when a bound was passed: the product did not come to an end.
    pub fn assert_bounded(&self) {
        let state = self.lock();
        let within = state.requests <= state.most_requests && state.read_pages <= state.most_read_pages;
        assert!(within, "no end: {} requests, {} pages read", state.requests, state.read_pages);
    }

    /// A page as it is now.
    pub fn page(&self, page: u64) -> [u8; PAGE] {
        self.lock().page(page)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn page(&self, page: u64) -> [u8; PAGE] {
        match self.changed.get(&page) {
            Some(bytes) => **bytes,
            None => self.image.page(page).copied().unwrap_or([0; PAGE]),
        }
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE] {
        let image = &self.image;
        let fresh = || Box::new(image.page(page).copied().unwrap_or([0; PAGE]));
        self.changed.entry(page).or_insert_with(fresh)
    }

    fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::Bytes { page, offset, bytes } => {
                let room = &mut self.page_mut(*page)[*offset..];
                let len = bytes.len().min(room.len());
                room[..len].copy_from_slice(&bytes[..len]);
            }
            Edit::Flip { page, offset, mask } => self.page_mut(*page)[*offset] ^= mask,
            Edit::Copy { from, to } => *self.page_mut(*to) = self.page(*from),
            Edit::Page { page, bytes } => **self.changed.entry(*page).or_insert_with(|| Box::new([0; PAGE])) = **bytes,
            Edit::Len(len_bytes) => self.len_bytes = *len_bytes,
        }
    }

    fn request(&mut self) -> bool {
        self.requests += 1;
        while let Some(entry) = self.later.first_entry().filter(|entry| *entry.key() < self.requests) {
            let edits = entry.remove();
            edits.iter().for_each(|edit| self.edit(edit));
        }
        self.requests <= self.most_requests
    }

    fn within(&self, offset_bytes: u64, len: usize) -> bool {
        let end = offset_bytes.checked_add(len as u64);
        let aligned = offset_bytes.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE);
        assert!(aligned, "requests are whole blocks: {len} bytes at {offset_bytes}");
        end.is_some_and(|end| end <= self.len_bytes)
    }

    fn read(&mut self, offset_bytes: u64, out: &mut [u8]) -> Result<(), BackendError> {
        self.read_pages += (out.len() / PAGE) as u64;
        let bounded = self.request() && self.read_pages <= self.most_read_pages;
        if !bounded || !self.within(offset_bytes, out.len()) {
            return Err(BackendError { operation: BackendOperation::ShortRead, offset_bytes, errno: 0 });
        }
        let (pages, _) = out.as_chunks_mut::<PAGE>();
        for (page, out) in (offset_bytes / PAGE as u64..).zip(pages) {
            match self.changed.get(&page).map(|bytes| &**bytes).or_else(|| self.image.page(page)) {
                Some(bytes) => *out = *bytes,
                None => out.fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Result<(), BackendError> {
        if !self.request() || !self.within(offset_bytes, data.len()) {
            return Err(BackendError { operation: BackendOperation::Write, offset_bytes, errno: 5 });
        }
        let (pages, _) = data.as_chunks::<PAGE>();
        for (page, bytes) in (offset_bytes / PAGE as u64..).zip(pages) {
            self.edit(&Edit::Page { page, bytes: Box::new(*bytes) });
        }
        Ok(())
    }
}

impl Backend for Layered {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        BUFFERS.take(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        BUFFERS.put(buf);
    }

    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        let mut state = self.lock();
        for io in &mut batch {
            match io {
                Io::Read { offset_bytes, buf } => state.read(*offset_bytes, buf.bytes_mut())?,
                Io::Write { offset_bytes, buf } => state.write(*offset_bytes, buf.bytes())?,
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
        if self.lock().request() {
            return Ok(());
        }
        Err(BackendError { operation: BackendOperation::Flush, offset_bytes: 0, errno: 5 })
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), BackendError> {
        self.lock().request();
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        Ok(self.lock().len_bytes)
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        let mut state = self.lock();
        state.len_bytes = state.len_bytes.max(len_bytes);
        Ok(())
    }
}
