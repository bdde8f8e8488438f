//! The volume as it lies there: header, slots and epoch table, and the reading of everything that hangs on them.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Finding, Report};
use crate::allocator::{Extent, Geometry};
use crate::backend::Backend;
use crate::env::Env;
use crate::error::{BackendError, Corrupt, Error, Malformed, Result, Tampered};
use crate::format::{
    BlockLoc, BlockRef, Checkpoint, FEATURE_LAYERED, HEADER_BLOCKS, HEADER_LEN, Header, Key, VerifiedHeader,
};
use crate::keys::{OpenFault, OpenedSlot, VolumeKey};
use crate::node::Node;
use crate::sealer::{OpenFailure, Sealer};
use crate::store::{Lower, Lowers, find_replica, read_slot};
use crate::tree::{NodeReader, Root};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, Generation};

/// Bytes of each image's nodes that are kept.
const LOWER_CACHE_BYTES: usize = 4 << 20;

/// An opened volume: nothing of it is taken over from a mount.
pub(crate) struct Image {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) sealer: Sealer,
    pub(crate) geometry: Geometry,
    pub(super) ring_start: u64,
    pub(super) ring_blocks: u64,
    pub(super) node_size: usize,
    /// The newest checkpoint.
    pub(crate) checkpoint: Checkpoint,
    /// The one in the other slot.
    pub(super) older: Option<Checkpoint>,
    /// Nodes that are taken for gone.
    pub(super) given_up: BTreeSet<BlockAddr>,
    /// The tag of the slot that holds it.
    pub(super) slot_tag: crate::suite::Tag,
    /// The images below, once the log was read.
    pub(super) lowers: Lowers,
    /// The header says that there are images below.
    pub(super) layered: bool,
    /// The epoch table's counts.
    pub(super) epochs: BTreeMap<EpochId, u64>,
}

impl Image {
    /// Opens the volume; `None` if too little of it authenticates to look further.
    pub(super) fn open(
        backend: Arc<dyn Backend>,
        key: &VolumeKey,
        env: &Env,
        report: &mut Report<'_>,
    ) -> Result<Option<Image>> {
        let copies = headers(&*backend, key, env, report)?;
        let Some((header, verified)) = copies.first() else {
            report.found(Finding::Unmountable { error: Tampered::Header.into() });
            return Ok(None);
        };
        let sealer = Sealer::new(env.suite.clone(), env.rng.clone(), key, verified);
        let (Some(slot), older) = newest_slot(&*backend, &sealer, report)? else { return Ok(None) };
        let checkpoint = slot.checkpoint;
        let rotation = checkpoint.rotation.or(older.as_ref().and_then(|older| older.checkpoint.rotation));
        sealer.set_rotation(rotation);
        if checkpoint.rotation.is_some() {
            report.found(Finding::KeyRotation {});
        }
        check_accepted(&copies, &checkpoint, report);
        let geometry = Geometry::new(header.total_blocks, header.ring_start.0, header.ring_blocks)?;
        if checkpoint.alloc_levels != geometry.levels() {
            let (stored, expected) = (checkpoint.alloc_levels, geometry.levels());
            report.found(Finding::AllocLevels { stored, expected });
        }
        load_epochs(&*backend, &sealer, &geometry, &checkpoint, report);
        let epochs = sealer.epochs().into_iter().collect();
        let node_size = usize::try_from(header.node_size_bytes).map_err(|_| Malformed::HeaderField("node size"))?;
        Ok(Some(Image {
            backend,
            sealer,
            geometry,
            ring_start: header.ring_start.0,
            ring_blocks: header.ring_blocks,
            node_size,
            checkpoint,
            older: older.map(|slot| slot.checkpoint),
            given_up: BTreeSet::new(),
            lowers: Lowers::new(header.incompatible & FEATURE_LAYERED != 0, Vec::new())?,
            layered: header.incompatible & FEATURE_LAYERED != 0,
            slot_tag: slot.tag,
            epochs,
        }))
    }

    /// Puts the images below that the records name, which are all that are given.
    pub(super) fn put_below(&mut self, records: Vec<(Key, Vec<u8>)>, images: &[Lower], env: &Env) -> Result<()> {
        let mut lowers = Lowers::of_records(self.layered, records)?;
        images.iter().try_for_each(|image| lowers.attach(image, LOWER_CACHE_BYTES, env))?;
        if self.layered {
            lowers.images()?;
        }
        self.lowers = lowers;
        Ok(())
    }

    pub(crate) fn root(&self, tree: u32) -> Option<Root> {
        let root = self.checkpoint.root(tree)?;
        Some(Root { reference: root.reference?, level: root.level })
    }

    pub(super) fn node_blocks(&self) -> u64 {
        u64::try_from(self.node_size / BLOCK_SIZE).unwrap_or(1)
    }

    /// Blocks that the checkpoint says are in use: an estimate of what there is to do.
    pub(super) fn used_blocks(&self) -> u64 {
        let empty = self.geometry.free_blocks(&crate::format::AllocEntry::default());
        empty.saturating_sub(self.checkpoint.free_blocks)
    }

    pub(super) fn is_usable(&self, addr: BlockAddr, blocks: u64) -> bool {
        self.geometry.is_usable(Extent { addr, blocks })
    }

    /// Sealed bytes, copied out of the host's memory once.
    pub(super) fn read_bytes(&self, addr: BlockAddr, len_bytes: usize) -> core::result::Result<Vec<u8>, BackendError> {
        Ok(self.backend.read_at(addr.0 * BLOCK_SIZE_U64, len_bytes)?.bytes().to_vec())
    }

    /// The plaintext of a data block that stands at `addr`, its home or a place in the ring.
    pub(super) fn open_block(&self, loc: &BlockLoc, sealed: &[u8]) -> Option<Box<[u8; BLOCK_SIZE]>> {
        let mut block = Box::new([0; BLOCK_SIZE]);
        block.copy_from_slice(sealed.get(..BLOCK_SIZE)?);
        self.sealer.open_data(loc, &mut block).ok().map(|()| block)
    }
}

impl NodeReader for Image {
    fn is_given_up(&self, reference: &BlockRef) -> bool {
        self.given_up.contains(&reference.addr)
    }

    fn read(&self, level: u8, reference: &BlockRef) -> Result<Arc<Node>> {
        let addr = reference.addr;
        let mut bytes = self.read_bytes(addr, self.node_size)?;
        self.sealer.open_node(level, reference, &mut bytes).map_err(|failure| match failure {
            OpenFailure::UnknownEpoch(epoch) => Error::from(Corrupt::UnknownEpoch(epoch)),
            OpenFailure::Auth => Tampered::Node { addr, level }.into(),
        })?;
        let node = Node::decode(bytes, level, self.node_size).map_err(|why| Corrupt::Node(addr, why))?;
        Ok(Arc::new(node))
    }
}

/// The header's copies that authenticate, the primary first. What keeps all of them from it is an error.
fn headers(
    backend: &dyn Backend,
    key: &VolumeKey,
    env: &Env,
    report: &mut Report<'_>,
) -> Result<Vec<(Header, VerifiedHeader)>> {
    let read = |offset: u64| backend.read_at(offset, HEADER_LEN).map(|buf| buf.bytes().to_vec()).map_err(Error::from);
    let verify = |bytes: &[u8]| key.verify_header(&*env.suite, bytes);
    let mut copies = Vec::new();
    let primary = read(0);
    match primary.as_ref().map_err(Clone::clone).and_then(|bytes| verify(bytes)) {
        Ok(copy) => copies.push(copy),
        Err(error) => {
            report.found(Finding::HeaderCopy { replica: false });
            let replica = find_replica(backend, primary.ok().as_deref(), |bytes| verify(bytes).ok())?;
            copies.push(replica.ok_or(error)?);
            return Ok(copies);
        }
    }
    let at = (copies[0].0.total_blocks - HEADER_BLOCKS) * BLOCK_SIZE_U64;
    match read(at).and_then(|bytes| verify(&bytes)) {
        Ok(replica) => {
            if replica.1.digest() != copies[0].1.digest() {
                let (primary, replica) = (copies[0].0.generation, replica.0.generation);
                report.found(Finding::HeaderCopiesDiffer { primary, replica });
            }
            copies.push(replica);
        }
        Err(_) => report.found(Finding::HeaderCopy { replica: true }),
    }
    Ok(copies)
}

fn check_accepted(copies: &[(Header, VerifiedHeader)], checkpoint: &Checkpoint, report: &mut Report<'_>) {
    let accepted = &checkpoint.accepted_headers;
    if accepted.len() > 1 {
        report.found(Finding::HeaderChangePending {});
    }
    if let Some((header, _)) = copies.first()
        && !copies.iter().any(|(_, verified)| accepted.contains(verified.digest()))
    {
        report.found(Finding::HeaderNotAccepted { generation: header.generation });
    }
}

/// The slots that authenticate: the newest, and the other one.
fn newest_slot(
    backend: &dyn Backend,
    sealer: &Sealer,
    report: &mut Report<'_>,
) -> Result<(Option<OpenedSlot>, Option<OpenedSlot>)> {
    let mut slots: Vec<OpenedSlot> = Vec::new();
    let mut unreadable = None;
    for index in 0..2 {
        let bytes = match read_slot(backend, index) {
            Ok(bytes) => bytes,
            // A slot whose write lost its power: a mount goes on from the other one.
            Err(failure) => {
                report.found(Finding::SlotDamaged { index });
                unreadable = Some(failure);
                continue;
            }
        };
        match sealer.open_checkpoint(index, &bytes) {
            Ok(slot) => slots.push(slot),
            Err(OpenFault::Auth) => report.found(Finding::SlotDamaged { index }),
            Err(OpenFault::Corrupt(why)) => report.found(Finding::SlotCorrupt { index, why }),
        }
    }
    slots.sort_by_key(|slot| slot.checkpoint.generation);
    if let (true, Some(failure)) = (slots.is_empty(), unreadable) {
        return Err(failure);
    }
    let newest = slots.pop();
    let older = slots.pop();
    if let (Some(newest), Some(older)) = (&newest, &older) {
        // Two numbers are left out where the slot in between was damaged when the volume was opened.
        let step = newest.checkpoint.generation.0 - older.checkpoint.generation.0;
        let follows = step == 1 || step == 3;
        if !follows || newest.checkpoint.previous_salt != older.salt {
            let (newest, older) = (newest.checkpoint.generation, older.checkpoint.generation);
            report.found(Finding::SlotOrder { newest, older });
        }
    }
    Ok((newest, older))
}

fn load_epochs(
    backend: &dyn Backend,
    sealer: &Sealer,
    geometry: &Geometry,
    checkpoint: &Checkpoint,
    report: &mut Report<'_>,
) {
    for (index, page) in (0u32..).zip(&checkpoint.epoch_pages) {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        let usable = geometry.is_usable(Extent { addr: page.addr, blocks: 1 });
        let read = usable.then(|| backend.read_at(page.addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE));
        match read {
            None => report.found(Finding::Address { addr: page.addr }),
            Some(Err(failure)) => {
                report.found(Finding::Unreadable { addr: page.addr, errno: failure.errno, loss: None })
            }
            Some(Ok(buf)) => {
                bytes.copy_from_slice(buf.bytes());
                if sealer.open_epoch_page(index, &bytes, &page.tag, checkpoint.generation, true).is_err() {
                    report.found(Finding::EpochPage { index });
                }
            }
        }
    }
    let found = sealer.epochs().len();
    if usize::try_from(checkpoint.epoch_count) != Ok(found) {
        let found = u64::try_from(found).unwrap_or(u64::MAX);
        report.found(Finding::EpochCount { stored: checkpoint.epoch_count, found });
    }
}

/// Whether something may claim to be written by `birth`, seen from a checkpoint and the log above it. The log may go on past a
/// newer checkpoint whose slot is lost: that one's number is one or, after an earlier loss, three higher.
pub(super) fn is_born(birth: Generation, checkpoint: Generation, logged: bool) -> bool {
    birth <= checkpoint || (logged && birth.0 - checkpoint.0 <= 4)
}

#[cfg(test)]
impl Image {
    /// The epoch table's first page with another count for its last epoch.
    pub(crate) fn pages_with_live(&self, delta: i64) -> crate::keys::SealedEpochPage {
        let (epoch, live) = *self.sealer.epochs().last().unwrap();
        self.sealer.set_live(epoch, live.checked_add_signed(delta).unwrap());
        let (generation, log_epoch) = (self.checkpoint.generation, self.checkpoint.log_epoch);
        let (mut pages, _) = self.sealer.seal_epoch_pages(generation, &Default::default(), 1, log_epoch).unwrap();
        pages.swap_remove(0)
    }

    /// The home that the newest checkpoint has for the first group's bitmap, as a bit.
    pub(crate) fn bitmap_homes(&self) -> u8 {
        super::homes::of(self, &self.checkpoint).get(&(0, 0)).copied().unwrap_or(0)
    }
}
