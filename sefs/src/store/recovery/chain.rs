//! The chain of log groups: how far it leads, and which of its groups count.
//!
//! *Security*
//! - A group continues the chain only with the LSN, the previous tag and the epoch that the chain expects.
//! - The highest flushed LSN is looked for in the whole ring, behind a break too: a break below it is tampering, not a torn
//!   tail.
//! - Groups above it count only if they and every data block that they name authenticate. The first that does not ends the log.
//!
//! *Bounds*: what is read is linear in the ring's size. The chain is read group by group, three times. The search behind its
//! end meets each block once; a block that looks like the start of a group (magic, its own LSN, a known epoch, a length that
//! fits) may claim all that follows, and costs that much to find out. Of claims that prove false only [`FALSE_CLAIMS`]
//! rings' worth are followed; more is [`Tampered`].
//!
//! No honest ring has so many. A false claim there is the start of a group that was torn. An LSN names one lap of the ring,
//! so a group of an earlier lap is none; a sealed block begins with magic, LSN and zeros once in 2^190 blocks. Groups of one
//! mount do not overlap, hence all that one mount left torn claim the ring at most once. Claims of several mounts overlap only
//! where each began at the same point, had nothing of it confirmed, and lost again what the one before it had written: more
//! than [`FALSE_CLAIMS`] crashes in a row would each have to lose unflushed groups as long as the whole ring, which is more
//! than a mount leaves unflushed in all but the smallest rings.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::OpenedSlot;
use crate::allocator::Extent;
use crate::error::{Corrupt, Result, Tampered};
use crate::format::{GROUP_PREFIX_LEN, GroupBody, GroupPrefix, LogRecord};
use crate::store::Store;
use crate::store::log::group_blocks;
use crate::suite::Tag;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, Generation, Lsn};

/// Ring blocks that the search behind a break reads at once.
const LOOK_ON_BLOCKS: u64 = 256;
/// How many times the ring's length false claims may add up to.
const FALSE_CLAIMS: u64 = 8;
/// Sums of an LSN below this and a ring's length do not overflow.
const LSN_END: u64 = 1 << 62;

impl Store {
    /// Follows the chain of groups from `start`, then looks for flushed groups behind its end. If that is at `cut`, what stands
    /// behind is given up, and all before counts as flushed.
    pub(super) fn scan_log(&self, start: ChainPoint, clean: bool, cut: Option<Lsn>) -> Result<Chain> {
        if start.lsn.0 >= LSN_END {
            return Err(Corrupt::Checkpoint("log start").into());
        }
        let mut chain = Chain { groups: Vec::new(), flushed: start.lsn, torn: false };
        let mut at = start;
        while let Some((group, body)) = self.next_group(&at, start.lsn)? {
            chain.flushed = chain.flushed.max(body.flushed_lsn);
            at = group.after(&body);
            self.learn_epochs(body)?;
            chain.groups.push(group);
        }
        chain.torn = self.torn_group(&at, start.lsn)?;
        if cut == Some(at.lsn) {
            (chain.flushed, chain.torn) = (at.lsn, false);
        } else if !clean {
            let behind = self.flushed_behind(at.lsn, Lsn(start.lsn.0 + self.ring.blocks))?;
            if behind.is_some_and(|flushed| flushed > at.lsn) {
                return Err(Tampered::LogGroup { lsn: at.lsn }.into());
            }
        }
        Ok(chain)
    }

    /// Groups after this one may be sealed with keys that it names.
    pub(super) fn learn_epochs(&self, body: GroupBody) -> Result<()> {
        for record in body.records {
            if let LogRecord::NewEpoch { id, secret } = record {
                self.sealer.add_epoch(id, secret, 0)?;
            }
        }
        Ok(())
    }

    /// The group at a point of the chain, if an authentic one that continues the chain is there.
    pub(super) fn next_group(&self, at: &ChainPoint, start: Lsn) -> Result<Option<(Group, GroupBody)>> {
        let room = self.ring.blocks - (at.lsn.0 - start.0);
        if room == 0 {
            return Ok(None);
        }
        let head = self.read_ring(at.lsn, 1)?;
        let Some(prefix) = prefix_of(&head) else { return Ok(None) };
        if (prefix.lsn, prefix.previous_tag, prefix.epoch) != (at.lsn, at.tag, at.epoch) {
            return Ok(None);
        }
        self.open_group(&prefix, room)
    }

    /// Whether a group that does not open stands where the chain ends: it was written, and not whole.
    fn torn_group(&self, at: &ChainPoint, start: Lsn) -> Result<bool> {
        if at.lsn.0 - start.0 >= self.ring.blocks {
            return Ok(false);
        }
        let prefix = prefix_of(&self.read_ring(at.lsn, 1)?);
        Ok(prefix.is_some_and(|prefix| (prefix.lsn, prefix.previous_tag) == (at.lsn, at.tag)))
    }

    /// Opens a group under what its prefix says. Whoever calls has compared that with what is expected.
    fn open_group(&self, prefix: &GroupPrefix, room: u64) -> Result<Option<(Group, GroupBody)>> {
        let Some((head_blocks, blocks)) = group_blocks(&self.ring, prefix) else { return Ok(None) };
        if blocks > room {
            return Ok(None);
        }
        let bytes = self.read_ring(prefix.lsn, head_blocks)?;
        // The prefix is taken from the same bytes that are opened: the host may have changed it since it was looked at.
        if prefix_of(&bytes).as_ref() != Some(prefix) {
            return Ok(None);
        }
        let sealed = &bytes[GROUP_PREFIX_LEN..GROUP_PREFIX_LEN + prefix.sealed_len as usize];
        let Some(plain) = self.sealer.open_group(prefix, sealed) else { return Ok(None) };
        let body = GroupBody::decode(&plain, prefix.data_blocks).map_err(|why| Corrupt::LogGroup(prefix.lsn, why))?;
        let group = Group {
            lsn: prefix.lsn,
            blocks,
            head_blocks,
            tag: prefix.tag,
            previous_tag: prefix.previous_tag,
            epoch: prefix.epoch,
            base: body.base,
        };
        Ok(Some((group, body)))
    }

    /// Reads a group of the chain once more; that it was there a moment ago is no proof that it still is.
    pub(super) fn read_group(&self, group: &Group) -> Result<GroupBody> {
        let at = ChainPoint { lsn: group.lsn, tag: group.previous_tag, epoch: group.epoch };
        match self.next_group(&at, group.lsn)? {
            Some((again, body)) if again.tag == group.tag => Ok(body),
            _ => Err(Tampered::LogGroup { lsn: group.lsn }.into()),
        }
    }

    /// The highest flushed LSN that any authentic group in `[from, end)` tells of. What looks like one and does not open
    /// costs; too much of it is no torn log.
    fn flushed_behind(&self, from: Lsn, end: Lsn) -> Result<Option<Lsn>> {
        let mut budget = self.ring.blocks * FALSE_CLAIMS;
        let (mut found, mut at) = (None, from.0);
        while at < end.0 {
            let count = LOOK_ON_BLOCKS.min(end.0 - at);
            // The blocks of a sealed part that opens hold nothing else; of its data blocks that is not known.
            let mut next = at;
            for prefix in self.group_starts(Lsn(at), count)? {
                let (lsn, room) = (prefix.lsn.0, end.0 - prefix.lsn.0);
                if lsn < next || !self.sealer.knows_epoch(prefix.epoch) || prefix.total_blocks() > room {
                    continue;
                }
                if let Some((group, body)) = self.open_group(&prefix, room)? {
                    found = found.max(Some(body.flushed_lsn));
                    next = lsn + group.head_blocks;
                } else {
                    let left = budget.checked_sub(prefix.record_blocks());
                    budget = left.ok_or(Tampered::LogGroup { lsn: from })?;
                }
            }
            at = next.max(at + count);
        }
        Ok(found)
    }

    /// How many groups count: all that were flushed, and of the others those whose data blocks authenticate, up to the
    /// first that has one which does not.
    pub(super) fn whole_groups(&self, chain: &Chain) -> Result<usize> {
        for (index, group) in chain.groups.iter().enumerate() {
            if group.lsn < chain.flushed {
                continue;
            }
            let body = self.read_group(group)?;
            if !self.group_is_whole(group, &body)? {
                return Ok(index);
            }
        }
        Ok(chain.groups.len())
    }

    fn group_is_whole(&self, group: &Group, body: &GroupBody) -> Result<bool> {
        let in_ring: BTreeMap<BlockAddr, Lsn> = group.ring_addresses(body).collect();
        for record in &body.records {
            let LogRecord::Patch(_, patch) = record else { continue };
            for loc in patch.sealed_blocks() {
                if !self.geometry.is_usable(Extent { addr: loc.addr, blocks: 1 }) {
                    return Err(Corrupt::Reference(loc.addr).into());
                }
                let addr = in_ring.get(&loc.addr).map_or(loc.addr, |lsn| self.ring.addr(*lsn));
                let sealed = self.backend.read_at(addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE)?;
                if self.verify_block(loc, sealed.bytes()).is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// A place in the chain: what the next group has to carry.
#[derive(Clone, Copy)]
pub(super) struct ChainPoint {
    pub(super) lsn: Lsn,
    pub(super) tag: Tag,
    pub(super) epoch: EpochId,
}

/// An authentic group.
pub(super) struct Group {
    pub(super) lsn: Lsn,
    blocks: u64,
    head_blocks: u64,
    pub(super) tag: Tag,
    previous_tag: Tag,
    epoch: EpochId,
    /// The checkpoint that was durable when it was written.
    pub(super) base: Generation,
}

/// What the log holds from a point on.
pub(super) struct Chain {
    pub(super) groups: Vec<Group>,
    /// All groups below were flushed.
    pub(super) flushed: Lsn,
    /// What follows the last group is one that was not written whole.
    pub(super) torn: bool,
}

impl Group {
    /// Where the next group stands.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + self.blocks)
    }

    /// What the next group has to carry, after one that said `body`.
    pub(super) fn after(&self, body: &GroupBody) -> ChainPoint {
        let mut epoch = self.epoch;
        for record in &body.records {
            if let LogRecord::NewEpoch { id, .. } = record {
                epoch = *id;
            }
        }
        ChainPoint { lsn: self.end(), tag: self.tag, epoch }
    }

    /// The home addresses of the data blocks that stand in the ring behind the group's records, and where they stand.
    pub(super) fn ring_addresses(&self, body: &GroupBody) -> impl Iterator<Item = (BlockAddr, Lsn)> {
        let first = self.lsn.0 + self.head_blocks;
        let addresses: Vec<BlockAddr> = body.data_addresses.clone();
        addresses.into_iter().zip(first..).map(|(addr, lsn)| (addr, Lsn(lsn)))
    }
}

fn prefix_of(block: &[u8]) -> Option<GroupPrefix> {
    GroupPrefix::decode(block.first_chunk::<GROUP_PREFIX_LEN>()?)
}

/// Where the log of a slot begins.
pub(super) fn chain_start(slot: &OpenedSlot) -> ChainPoint {
    let checkpoint = &slot.opened.checkpoint;
    let tag = if checkpoint.epoch_start { slot.opened.tag } else { checkpoint.previous_tag };
    ChainPoint { lsn: checkpoint.log_start, tag, epoch: checkpoint.log_epoch }
}
