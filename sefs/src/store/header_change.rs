//! Changing the header of an open volume: its key slots.
//!
//! Order, each step durable before the next: the replica; checkpoints that accept both headers; the primary; checkpoints that
//! accept the new header only. Checkpoints are written twice, so that both slots say the same and a damaged one costs nothing.
//!
//! *Security*: between the two, either header opens the volume: a crash leads to the old key slots or to the new ones, and the
//! next mount that writes settles for the one that it was opened with. Afterwards the old header is `RolledBack`, also when it
//! is put back whole. The anchor binds the header that is current, so during a change it holds one of the two.
//!
//! *Invariants*: at every moment a copy of a header that the newest checkpoint accepts is whole on the backend, whatever
//! happens to the other copy.

use alloc::vec::Vec;

use crate::backend::Io;
use crate::error::{Error, Invalid, Posix, Result};
use crate::format::{AnchorKind, HEADER_BLOCKS, Header, KeySlot, MAX_KEY_SLOTS, MAX_SLOT_BODY};
use crate::keys::VolumeKey;
use crate::store::checkpoint::Occasion;
use crate::store::{Anchored, Store};
use crate::suite::Tag;
use crate::types::{BLOCK_SIZE_U64, Lsn};

/// A copy of the header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    Primary,
    Replica,
}

impl Store {
    /// The authenticated header.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Gives the volume other key slots. Success means that the old header opens it no more.
    pub(crate) fn change_slots(&mut self, key: &VolumeKey, slots: Vec<KeySlot>) -> Result<()> {
        if self.read_only {
            return Err(Posix::ReadOnly.into());
        }
        self.demand_slots(&slots)?;
        self.demand_key(key)?;
        let suite = self.sealer.suite().clone();
        let generation = self.header.generation.checked_add(1).ok_or(Invalid::KeySlots)?;
        let next = Header { generation, slots, ..self.header.clone() };
        let (bytes, verified) = key.seal_header(&*suite, &next);
        self.start_epoch()?;
        self.write_header(Copy::Replica, &bytes)?;
        self.accept(alloc::vec![self.header_digest, *verified.digest()])?;
        self.write_header(Copy::Primary, &bytes)?;
        (self.header, self.header_digest) = (next, *verified.digest());
        self.rebind_anchor()?;
        self.accept(alloc::vec![self.header_digest])
    }

    /// Whether these are slots that a header can hold.
    pub(super) fn demand_slots(&self, slots: &[KeySlot]) -> Result<()> {
        let unfit = |slot: &KeySlot| slot.kind == 0 || slot.body.len() > MAX_SLOT_BODY;
        let fit = slots.len() <= MAX_KEY_SLOTS && !slots.iter().any(unfit);
        if fit { Ok(()) } else { Err(Invalid::KeySlots.into()) }
    }

    /// Whether this is the key that the volume was opened with.
    pub(super) fn demand_key(&self, key: &VolumeKey) -> Result<()> {
        let sealed = key.seal_header(self.suite(), &self.header);
        if sealed.1.digest() == &self.header_digest { Ok(()) } else { Err(Error::WrongKey) }
    }

    /// Before a mount's first checkpoints: a change that was cut short ends with the header that the mount was opened with.
    /// After them the other copy is accepted no more, and is written over.
    pub(super) fn settle_header(&self) {
        self.slots.lock().newest.accepted_headers = alloc::vec![self.header_digest];
    }

    /// The header that is current has changed: an anchor that binds its digest follows, while the slot accepts both.
    fn rebind_anchor(&self) -> Result<()> {
        let binds = self.anchored.lock().as_ref().is_some_and(|it| it.anchor.kind() == AnchorKind::ContentBound);
        if binds { self.anchor_accepted() } else { Ok(()) }
    }

    /// Whether an anchor's digest is that of this state under one of the headers that a checkpoint accepts.
    pub(super) fn anchor_holds(
        &self,
        anchored: &Anchored,
        accepted: &[[u8; 32]],
        salt: &[u8; 32],
        lsn: Lsn,
        tag: &Tag,
    ) -> bool {
        accepted.iter().any(|header| self.digest_under(header, salt, lsn, tag) == anchored.state.digest)
    }

    /// Writes two checkpoints that accept these headers.
    fn accept(&self, digests: Vec<[u8; 32]>) -> Result<()> {
        let before = core::mem::replace(&mut self.slots.lock().newest.accepted_headers, digests);
        let written = (0..2).try_for_each(|_| self.checkpoint_for(Occasion::Ordinary));
        if written.is_err() {
            // No later checkpoint of this mount may accept less than what lies there needs.
            self.slots.lock().newest.accepted_headers = before;
        }
        written
    }

    pub(super) fn write_header(&self, copy: Copy, bytes: &[u8]) -> Result<()> {
        let mut buf = self.backend.buffer(bytes.len());
        buf.bytes_mut().copy_from_slice(bytes);
        self.submit(alloc::vec![Io::Write { offset_bytes: self.copy_offset(copy), buf }])?;
        self.flush()
    }

    fn copy_offset(&self, copy: Copy) -> u64 {
        match copy {
            Copy::Primary => 0,
            Copy::Replica => (self.header.total_blocks - HEADER_BLOCKS) * BLOCK_SIZE_U64,
        }
    }
}
