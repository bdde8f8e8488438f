//! Which anchor a volume is bound to: changing it, and where the two stand.
//!
//! *Security*: a volume is bound to the state in which it was opened. If that was checked against the anchor of before, nothing
//! is lost on the way; if it was not, an older image would be confirmed by this, which is why whoever calls it has to mean it.
//! The new anchor first moves to the state that was opened, as at every mount; only then do slots name it, both of them before
//! this returns. After a crash in between, the volume belongs to whatever it belonged to before.

use alloc::sync::Arc;

use crate::anchor::{Anchor, AnchorKind, AnchorPolicy};
use crate::error::{Invalid, Posix, Result};
use crate::store::commit::Anchored;
use crate::store::format::binding;
use crate::store::{Start, Store};
use crate::types::Lsn;

/// Where a volume and its anchor stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorStanding {
    /// What the anchor can hold.
    pub kind: AnchorKind,
    /// When it advances.
    pub policy: AnchorPolicy,
    /// Which anchor it is.
    pub identity: [u8; 32],
    /// The anchor's counter as the newest checkpoint has it: for content what the anchor held when that was written, for a bare
    /// counter the checkpoint's own number.
    pub image: u64,
    /// The anchor's counter now; `None` if the volume was opened without it.
    pub anchor: Option<u64>,
    /// The anchor names the newest state itself, and not one that leads to it.
    pub current: bool,
}

impl Store {
    /// Binds the volume to an anchor that no other volume has, from its present state on.
    pub(crate) fn bind(&mut self, anchor: Arc<dyn Anchor>, policy: AnchorPolicy) -> Result<()> {
        if self.read_only {
            return Err(Posix::ReadOnly.into());
        }
        if policy == AnchorPolicy::None {
            return Err(Invalid::Option("a volume is bound to an anchor under a policy").into());
        }
        if *self.start.lock() != Start::Accepted {
            return Err(Invalid::Option("a volume is bound before anything is written to it").into());
        }
        let bound = binding(Some((&*anchor, policy)))?;
        let state = anchor.read()?;
        let slot_salt = {
            let mut slots = self.slots.lock();
            // Every later checkpoint repeats what this one says.
            slots.newest.anchor = bound;
            slots.newest_salt
        };
        let (number, confirmed) = (state.counter, (Lsn(0), [0; 16]));
        *self.anchored.lock() = Some(Anchored { anchor, policy, state, slot_salt, confirmed, number });
        self.replayed.bound = bound;
        self.start_epoch()
    }

    /// `None` for a volume that has no anchor.
    pub(crate) fn anchor_standing(&self) -> Option<AnchorStanding> {
        let bound = &self.replayed.bound;
        if bound.policy == AnchorPolicy::None {
            return None;
        }
        let (image, headers) = {
            let newest = &self.slots.lock().newest;
            // An abandoned anchor is no longer in what the next checkpoint is made of.
            let image = if newest.anchor.policy == AnchorPolicy::None { bound.counter } else { newest.anchor.counter };
            (image, newest.accepted_headers.clone())
        };
        let anchored = self.anchored.lock();
        let current = anchored.as_ref().is_some_and(|anchored| match bound.kind {
            AnchorKind::BareCounter => anchored.state.counter == image,
            AnchorKind::ContentBound | AnchorKind::None => {
                let log = self.log.lock();
                self.anchor_holds(anchored, &headers, &anchored.slot_salt, log.next, &log.previous_tag)
            }
        });
        let anchor = anchored.as_ref().map(|anchored| anchored.state.counter);
        Some(AnchorStanding {
            kind: bound.kind,
            policy: bound.policy,
            identity: bound.identity,
            image,
            anchor,
            current,
        })
    }
}
