//! The log, read as recovery must read it, and what it changes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::image::Image;
use super::{Finding, Report};
use crate::error::{Error, Result};
use crate::format::{BlockLoc, BlockState, GROUP_PREFIX_LEN, GroupBody, GroupPrefix, Key, Kind, LogRecord, Patch};
use crate::suite::Tag;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, Lsn, ObjectId};

/// What the log says of a record.
pub(super) enum Change {
    Put(Vec<u8>),
    Delete,
    Patch(Patch),
}

/// What the log changes since the newest checkpoint.
pub(crate) struct Replay {
    pub(super) changes: BTreeMap<Key, Change>,
    /// Blocks that stand in the ring, by their homes.
    pub(super) ring: BTreeMap<BlockAddr, Lsn>,
    pub(super) groups: u64,
    pub(crate) next_id: u64,
    pub(super) inodes: u64,
}

/// Where the next group must stand and what it must bind.
#[derive(Clone, Copy)]
struct Point {
    lsn: Lsn,
    tag: Tag,
    epoch: EpochId,
}

struct Group {
    prefix: GroupPrefix,
    body: GroupBody,
}

/// What the search behind the log's end gives.
enum Behind {
    /// The highest flushed LSN that an authentic group there tells of; zero if there is none.
    Flushed(Lsn),
    /// More that looks like groups and is none than a torn log can hold; looking at all of it might never end.
    TooMuch,
}

/// How many times the ring's length such claims may add up to, as recovery has it.
const FALSE_CLAIMS: u64 = 8;
/// Sums of an LSN below this and a group's length do not overflow.
const LSN_END: u64 = 1 << 62;
/// Ring blocks that the search behind the log's end reads at once.
const LOOK_ON_BLOCKS: u64 = 256;

/// Reads the log, up to `end` if that is where it breaks, and applies it.
pub(super) fn replay(image: &Image, end: Option<Lsn>, report: &mut Report<'_>) -> Result<Replay> {
    let checkpoint = &image.checkpoint;
    let mut replay = Replay {
        changes: BTreeMap::new(),
        ring: BTreeMap::new(),
        groups: 0,
        next_id: checkpoint.next_id,
        inodes: checkpoint.inodes,
    };
    let start = checkpoint.log_start;
    if start.0 >= LSN_END {
        report.found(Finding::LogGroup { lsn: start, why: "a place that no log ever reaches" });
        return Ok(replay);
    }
    let tag = if checkpoint.epoch_start { image.slot_tag } else { checkpoint.previous_tag };
    let mut at = Point { lsn: start, tag, epoch: checkpoint.log_epoch };
    let (flushed, groups) = measure(image, at, end, report)?;
    for index in 0..groups {
        let Some(group) = next_group(image, &at, start, report)? else { break };
        at = after(&group);
        if group.prefix.lsn >= flushed && !is_whole(image, &group)? {
            report.found(Finding::LogDropped { groups: groups - index });
            break;
        }
        replay.apply(group, report);
    }
    Ok(replay)
}

/// Follows the chain to its end: the highest flushed LSN that it or what stands behind it tells of, and its length.
/// A break at `end` is accepted.
fn measure(image: &Image, start: Point, end: Option<Lsn>, report: &mut Report<'_>) -> Result<(Lsn, u64)> {
    let (mut at, mut flushed, mut groups) = (start, start.lsn, 0);
    while let Some(group) = next_group(image, &at, start.lsn, report)? {
        flushed = flushed.max(group.body.flushed_lsn);
        at = after(&group);
        groups += 1;
        for record in group.body.records {
            if let LogRecord::NewEpoch { id, secret } = record
                && image.sealer.add_epoch(id, secret, 0).is_err()
            {
                report
                    .found(Finding::LogGroup { lsn: group.prefix.lsn, why: "an epoch that is known with other keys" });
            }
        }
    }
    if end == Some(at.lsn) {
        // What stands behind confirms everything before the cut.
        flushed = flushed.max(at.lsn);
    } else if !image.checkpoint.clean {
        match flushed_behind(image, at.lsn, start.lsn)? {
            Behind::Flushed(behind) if behind <= at.lsn => {}
            Behind::Flushed(_) | Behind::TooMuch => {
                flushed = flushed.max(at.lsn);
                report.found(Finding::LogBroken { lsn: at.lsn });
            }
        }
    }
    Ok((flushed, groups))
}

fn after(group: &Group) -> Point {
    let mut epoch = group.prefix.epoch;
    for record in &group.body.records {
        if let LogRecord::NewEpoch { id, .. } = record {
            epoch = *id;
        }
    }
    Point { lsn: Lsn(group.prefix.lsn.0 + group.prefix.total_blocks()), tag: group.prefix.tag, epoch }
}

fn next_group(image: &Image, at: &Point, start: Lsn, report: &mut Report<'_>) -> Result<Option<Group>> {
    let room = image.ring_blocks.saturating_sub(at.lsn.0 - start.0);
    if room == 0 {
        return Ok(None);
    }
    let head = read_ring(image, at.lsn, 1)?;
    let Some(prefix) = prefix_of(&head) else { return Ok(None) };
    if (prefix.lsn, prefix.previous_tag, prefix.epoch) != (at.lsn, at.tag, at.epoch) {
        return Ok(None);
    }
    Ok(match open_group(image, &prefix, room)? {
        Some(Ok(group)) => Some(group),
        Some(Err(why)) => {
            report.found(Finding::LogGroup { lsn: at.lsn, why });
            None
        }
        None => None,
    })
}

/// Opens a group: `None` if it does not authenticate, `Err` if it does and does not decode.
fn open_group(
    image: &Image,
    prefix: &GroupPrefix,
    room: u64,
) -> Result<Option<core::result::Result<Group, &'static str>>> {
    if prefix.total_blocks() > room {
        return Ok(None);
    }
    let bytes = read_ring(image, prefix.lsn, prefix.record_blocks())?;
    let len = usize::try_from(prefix.sealed_len).unwrap_or(usize::MAX);
    let Some(sealed) = bytes.get(GROUP_PREFIX_LEN..).and_then(|rest| rest.get(..len)) else { return Ok(None) };
    let Some(plain) = image.sealer.open_group(prefix, sealed) else { return Ok(None) };
    Ok(Some(GroupBody::decode(&plain, prefix.data_blocks).map(|body| Group { prefix: *prefix, body })))
}

/// What stands behind the chain's end.
fn flushed_behind(image: &Image, from: Lsn, start: Lsn) -> Result<Behind> {
    let (mut at, mut found) = (from.0, Lsn(0));
    let (mut budget, end) = (image.ring_blocks * FALSE_CLAIMS, start.0 + image.ring_blocks);
    while at < end {
        let count = LOOK_ON_BLOCKS.min(end - at);
        let bytes = read_ring(image, Lsn(at), count)?;
        let mut next = at;
        for (lsn, block) in (at..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
            let fits =
                |prefix: &GroupPrefix| prefix.lsn == Lsn(lsn) && lsn >= next && prefix.total_blocks() <= end - lsn;
            let prefix = prefix_of(block).filter(fits);
            let Some(prefix) = prefix.filter(|prefix| image.sealer.knows_epoch(prefix.epoch)) else { continue };
            if let Some(Ok(group)) = open_group(image, &prefix, end - lsn)? {
                found = found.max(group.body.flushed_lsn);
                next = lsn + prefix.record_blocks();
            } else if let Some(left) = budget.checked_sub(prefix.record_blocks()) {
                budget = left;
            } else {
                return Ok(Behind::TooMuch);
            }
        }
        at = next.max(at + count);
    }
    Ok(Behind::Flushed(found))
}

/// Whether every data block that the group names authenticates.
fn is_whole(image: &Image, group: &Group) -> Result<bool> {
    let ring: BTreeMap<BlockAddr, Lsn> = ring_blocks(group).collect();
    for record in &group.body.records {
        let LogRecord::Patch(_, patch) = record else { continue };
        for loc in data_of(patch) {
            if !image.is_usable(loc.addr, 1) {
                return Ok(false);
            }
            let addr = ring.get(&loc.addr).map_or(loc.addr, |lsn| ring_addr(image, *lsn));
            let sealed = image.read_bytes(addr, BLOCK_SIZE).map_err(Error::from)?;
            if image.open_block(&loc, &sealed).is_none() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Replay {
    fn apply(&mut self, group: Group, report: &mut Report<'_>) {
        let lsn = group.prefix.lsn;
        self.groups += 1;
        self.ring.extend(ring_blocks(&group));
        self.next_id = self.next_id.max(group.body.next_id);
        self.inodes = group.body.inodes;
        for record in group.body.records {
            match record {
                LogRecord::Put(key, value) => self.set(lsn, key, Change::Put(value), report),
                LogRecord::Delete(key) => self.set(lsn, key, Change::Delete, report),
                LogRecord::Patch(key, patch) => self.patch(key, &patch),
                LogRecord::NewEpoch { .. } => {}
            }
        }
    }

    fn set(&mut self, lsn: Lsn, key: Key, change: Change, report: &mut Report<'_>) {
        if matches!(key.kind, Kind::Extent | Kind::Space) {
            // Chunks change by patches, and space records follow them when they are merged.
            report.found(Finding::LogRecord { lsn, object: ObjectId(key.object), kind: key.kind.into() });
            return;
        }
        self.changes.insert(key, change);
    }

    /// Puts or deletes a record, over all that the log says.
    pub(super) fn put(&mut self, key: Key, value: Option<Vec<u8>>) {
        self.changes.insert(key, value.map_or(Change::Delete, Change::Put));
    }

    pub(super) fn patch(&mut self, key: Key, patch: &Patch) {
        let ring = &mut self.ring;
        let mut released = |loc: BlockLoc| {
            ring.remove(&loc.addr);
        };
        match self.changes.get_mut(&key) {
            Some(Change::Patch(before)) => before.merge(patch, &mut released),
            _ => {
                self.changes.insert(key, Change::Patch(patch.clone()));
            }
        }
    }

    /// The data blocks that the log's records name.
    pub(super) fn data(&self) -> impl Iterator<Item = (Key, BlockLoc)> + '_ {
        self.changes.iter().flat_map(|(key, change)| {
            let locs: Vec<BlockLoc> = match change {
                Change::Patch(patch) => data_of(patch).collect(),
                Change::Put(_) | Change::Delete => Vec::new(),
            };
            locs.into_iter().map(|loc| (*key, loc))
        })
    }
}

fn data_of(patch: &Patch) -> impl Iterator<Item = BlockLoc> + '_ {
    patch.iter().filter_map(|(_, state)| match state {
        BlockState::Data(loc) => Some(loc),
        BlockState::Absent | BlockState::Unwritten => None,
    })
}

/// The homes of the blocks that travel in the ring, and where in it they stand.
fn ring_blocks(group: &Group) -> impl Iterator<Item = (BlockAddr, Lsn)> + '_ {
    let first = group.prefix.lsn.0 + group.prefix.record_blocks();
    group.body.data_addresses.iter().copied().zip((first..).map(Lsn))
}

fn prefix_of(block: &[u8]) -> Option<GroupPrefix> {
    GroupPrefix::decode(block.first_chunk::<GROUP_PREFIX_LEN>()?)
}

/// Where in the ring an LSN stands.
pub(super) fn ring_addr(image: &Image, lsn: Lsn) -> BlockAddr {
    BlockAddr(image.ring_start + lsn.0 % image.ring_blocks)
}

/// Reads ring blocks, round the ring's end if need be.
fn read_ring(image: &Image, lsn: Lsn, blocks: u64) -> Result<Vec<u8>> {
    let (mut bytes, mut at, end) = (Vec::new(), lsn.0, lsn.0 + blocks);
    while at < end {
        let take = (end - at).min(image.ring_blocks - at % image.ring_blocks);
        let len = usize::try_from(take * BLOCK_SIZE_U64).unwrap_or(usize::MAX);
        bytes.extend(image.read_bytes(ring_addr(image, Lsn(at)), len)?);
        at += take;
    }
    Ok(bytes)
}
