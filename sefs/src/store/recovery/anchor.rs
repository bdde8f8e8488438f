//! Whether what was found is as new as the anchor says.
//!
//! *Security*. A content-bound anchor names a point of the log under the salt of a slot: (S, P). Let N be the newest slot,
//! O the slot before it, J the point where N's log starts. N says where J is and which salt O has, so both are authentic with
//! N alone. The anchor's state is accepted where the newest state contains it:
//! - (N, P) with P at J or at the end of a group of N's log that *counts*;
//! - (O, P) with P on O's log at or before J: O's log up to J is merged in N. The log has to lead to J itself;
//! - (O, P) with P at the end of a group of N's log that counts.
//!
//! Nothing else is: a group that does not count is not part of what is mounted, and what O's log holds beyond J is there only
//! as far as N's log holds it.
//!
//! Why an honest crash is never refused. Salt and point move together under one lock, points never go back, and a point is
//! confirmed only after a flush that covers it. The steps of a checkpoint are: freeze (J is set), flush, write N, flush, move
//! the anchor to (N, J or later). Commits may run between any two of them.
//! - Before N is written, O is the newest slot; the anchor holds (O, P), or the pair before it as below.
//! - From then until the anchor moves it holds (O, P). Under the weaker policy, or if no commit came since the freeze, P is at
//!   or before J; O's log is still in the ring, which is not reused before N's successor. If a strict commit overtook the
//!   checkpoint, P is behind J: its group was flushed with its data, so it counts in N's log.
//! - Afterwards the anchor holds (N, P), P at J or at the end of a flushed group of N's log.
//! - The next checkpoint begins only after the anchor has moved, and so does a mount's first: it moves the anchor to what it
//!   accepted before it writes anything. So the anchor is never two slots behind, after any number of crashes.
//!
//! A slot that starts an epoch is no exception: no group is written before it is confirmed, so P is at or before J.
//!
//! The bare counter has rules of its own; see `anchor/counter.rs`.

use crate::anchor::{AnchorKind, counter};
use crate::error::{Corrupt, Incompatible, Result, RolledBack};
use crate::format::{AnchorPolicy, Checkpoint};
use crate::store::Store;
use crate::store::commit::Anchored;
use crate::suite::Tag;
use crate::types::Lsn;

use super::chain::{Group, chain_start};
use super::{OpenedSlot, StoreOptions};

/// The anchor that a volume is bound to, with what it holds now; `None` for an unanchored volume.
pub(super) fn bind_anchor(checkpoint: &Checkpoint, options: &StoreOptions) -> Result<Option<Anchored>> {
    let binding = &checkpoint.anchor;
    let anchor = match (&options.anchor, binding.policy) {
        (None, AnchorPolicy::None) => return Ok(None),
        (Some(_), AnchorPolicy::None) => return Err(Incompatible::NotAnchored.into()),
        (_, _) if options.abandon_anchor => return Ok(None),
        (None, _) => return Err(Incompatible::AnchorRequired.into()),
        (Some(anchor), _) => anchor.clone(),
    };
    if anchor.identity() != binding.identity || anchor.kind() != binding.kind {
        return Err(Incompatible::OtherAnchor.into());
    }
    if (binding.kind, binding.policy) == (AnchorKind::BareCounter, AnchorPolicy::Strict) {
        // No volume is made so: a counter cannot name the state of every commit.
        return Err(Corrupt::Checkpoint("a strict bare counter").into());
    }
    let state = anchor.read()?;
    let number = state.counter;
    let confirmed = (Lsn(0), [0; 16]);
    Ok(Some(Anchored { anchor, policy: binding.policy, state, slot_salt: [0; 32], confirmed, number }))
}

impl Store {
    /// What is mounted has to contain the state that the anchor holds. `kept` are the groups of the newest slot's log that
    /// count.
    pub(super) fn verify_anchor(
        &self,
        anchored: &Anchored,
        newest: &OpenedSlot,
        older: Option<&OpenedSlot>,
        kept: &[Group],
    ) -> Result<()> {
        let accepted = match anchored.anchor.kind() {
            AnchorKind::BareCounter => {
                counter::accepts(anchored.state.counter, newest.opened.checkpoint.anchor.counter)
            }
            AnchorKind::ContentBound | AnchorKind::None => self.leads_through(anchored, newest, older, kept)?,
        };
        if accepted { Ok(()) } else { Err(RolledBack::Anchor { counter: anchored.state.counter }.into()) }
    }

    fn leads_through(
        &self,
        anchored: &Anchored,
        newest: &OpenedSlot,
        older: Option<&OpenedSlot>,
        kept: &[Group],
    ) -> Result<bool> {
        // During a change of the header the anchor binds either of the two that the slot accepts.
        let headers = &newest.opened.checkpoint.accepted_headers;
        let holds = |salt: &[u8; 32], lsn, tag: &Tag| self.anchor_holds(anchored, headers, salt, lsn, tag);
        let counts = |salt: &[u8; 32]| kept.iter().any(|group| holds(salt, group.end(), &group.tag));
        let (start, closed) = (chain_start(newest), &newest.opened.checkpoint);
        if holds(&newest.opened.salt, start.lsn, &start.tag) || counts(&newest.opened.salt) {
            return Ok(true);
        }
        if holds(&closed.previous_salt, closed.log_start, &closed.previous_tag) || counts(&closed.previous_salt) {
            return Ok(true);
        }
        if self.holds_old_key(anchored, closed) {
            return Ok(true);
        }
        older.map_or(Ok(false), |older| self.merged_since(older, closed, &holds))
    }

    /// Whether the anchor's state is on the older slot's log, before the point up to which that is merged in the newest.
    fn merged_since(
        &self,
        older: &OpenedSlot,
        closed: &Checkpoint,
        holds: &dyn Fn(&[u8; 32], Lsn, &Tag) -> bool,
    ) -> Result<bool> {
        let salt = &older.opened.salt;
        let mut at = chain_start(older);
        let start = at.lsn;
        let mut met = holds(salt, at.lsn, &at.tag);
        while at.lsn < closed.log_start {
            let Some((group, body)) = self.next_group(&at, start)? else { return Ok(false) };
            at = group.after(&body);
            self.learn_epochs(body)?;
            met = met || holds(salt, at.lsn, &at.tag);
        }
        Ok(met && (at.lsn, &at.tag) == (closed.log_start, &closed.previous_tag))
    }
}
