//! An anchor for tests: it remembers every state that it ever held, can be set back to one, and can fail.

use std::sync::{Mutex, MutexGuard};

use sefs::anchor::{Anchor, AnchorKind, AnchorState, check_count};
use sefs::error::AnchorError;

use crate::recorder::Recorder;

/// The anchor.
pub struct Vault {
    kind: AnchorKind,
    identity: [u8; 32],
    inner: Mutex<Inner>,
}

struct Inner {
    state: AnchorState,
    history: Vec<(usize, AnchorState)>,
    clock: Option<Recorder>,
    failure: Option<AnchorError>,
    last: u64,
}

impl Vault {
    /// A fresh anchor.
    pub fn new(identity: u8) -> Vault {
        Vault::holding(identity, AnchorState { counter: 0, digest: [0; 32] })
    }

    /// An anchor that holds a given state.
    pub fn holding(identity: u8, state: AnchorState) -> Vault {
        Vault::of(AnchorKind::ContentBound, identity, state)
    }

    /// An anchor of a given kind.
    pub fn of(kind: AnchorKind, identity: u8, state: AnchorState) -> Vault {
        let inner = Inner { state, history: Vec::new(), clock: None, failure: None, last: u64::MAX };
        Vault { kind, identity: [identity; 32], inner: Mutex::new(inner) }
    }

    /// From now on each advance is remembered with the number of events that `disk` had seen.
    pub fn watch(&self, disk: &Recorder) {
        let mut inner = self.lock();
        let state = inner.state.clone();
        inner.clock = Some(disk.clone());
        inner.history = vec![(disk.position(), state)];
    }

    /// Every state since [`Vault::watch`], with the events on the disk when it was reached.
    pub fn history(&self) -> Vec<(usize, AnchorState)> {
        self.lock().history.clone()
    }

    /// What it holds.
    pub fn state(&self) -> AnchorState {
        self.lock().state.clone()
    }

    /// Fails from now on, or works again.
    pub fn fail(&self, failure: Option<AnchorError>) {
        self.lock().failure = failure;
    }

    /// Counts no further than to a value: whoever wants to go on is held up for ever. `None`: it goes on.
    pub fn stop_at(&self, last: Option<u64>) {
        self.lock().last = last.unwrap_or(u64::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Anchor for Vault {
    fn kind(&self) -> AnchorKind {
        self.kind
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn read(&self) -> Result<AnchorState, AnchorError> {
        let inner = self.lock();
        inner.failure.clone().map_or_else(|| Ok(inner.state.clone()), Err)
    }

    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
        let mut inner = self.lock();
        if let Some(failure) = &inner.failure {
            return Err(failure.clone());
        }
        if to.counter > inner.last {
            return Err(AnchorError::Unreachable("held up".into()));
        }
        if self.kind == AnchorKind::BareCounter {
            check_count(from, to)?;
        }
        if inner.state != *from {
            return Err(AnchorError::Conflict);
        }
        assert!(to.counter > from.counter, "an anchor only goes forward");
        let position = inner.clock.as_ref().map_or(0, Recorder::position);
        inner.state = to.clone();
        inner.history.push((position, to.clone()));
        Ok(())
    }
}
