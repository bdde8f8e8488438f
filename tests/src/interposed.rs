//! A backend that lets a test do something right after a block was written.

use std::sync::{Arc, Mutex};

use sefs::backend::{Backend, BackendError, Batch, HostBuf, Io, Ticket};

use crate::recorder::Recorder;

type Action = Box<dyn FnOnce() + Send>;
/// Offsets in bytes, and what is to be done after a write to one of them.
type Armed = (Vec<u64>, Action);

/// The backend. Clones share what is armed.
#[derive(Clone)]
pub struct Interposed {
    inner: Recorder,
    armed: Arc<Mutex<Option<Armed>>>,
}

impl Interposed {
    /// A backend on a disk.
    pub fn new(inner: Recorder) -> Interposed {
        Interposed { inner, armed: Arc::default() }
    }

    /// Once, after a write that begins at one of these offsets, `action` runs in the writer's thread.
    pub fn after_write(&self, offsets_bytes: &[u64], action: impl FnOnce() + Send + 'static) {
        *self.armed.lock().expect("no action panics while it is armed") =
            Some((offsets_bytes.to_vec(), Box::new(action)));
    }

    fn due(&self, batch: &Batch) -> Option<Action> {
        let mut armed = self.armed.lock().expect("no action panics while it is armed");
        let hit = armed.as_ref().is_some_and(|(offsets, _)| {
            batch.iter().any(|io| matches!(io, Io::Write { offset_bytes, .. } if offsets.contains(offset_bytes)))
        });
        if hit { armed.take().map(|(_, action)| action) } else { None }
    }
}

impl Backend for Interposed {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.inner.buffer(len_bytes)
    }

    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        let action = self.due(&batch);
        let ticket = self.inner.submit(batch)?;
        if let Some(action) = action {
            action();
        }
        Ok(ticket)
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        self.inner.wait(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
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
