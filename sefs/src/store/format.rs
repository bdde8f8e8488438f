//! Making a volume: everything but its first inode.
//!
//! Order: a header that stands there is wiped, then ring, slots and replica are written and flushed, then the header. So a
//! volume that was not made to the end has no header.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::anchor::{Anchor, AnchorKind, AnchorState, counter, state_digest};
use crate::backend::{Backend, HostBuf};
use crate::env::Env;
use crate::error::{AnchorError, Error, Invalid, Result};
use crate::format::{
    AllocEntry, AnchorBinding, AnchorPolicy, Checkpoint, FEATURE_LAYERED, HEADER_LEN, Header, ImageType, KeySlot,
    MAX_KEY_SLOTS, MAX_LABEL_LEN, MAX_SLOT_BODY, RING_START, VerifiedHeader, ring_blocks_for, usable_blocks,
};
use crate::keys::VolumeKey;
use crate::sealer::Sealer;
use crate::store::{Geometry, PACKED_IDS_END, SLOT_ADDRS, Store};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, EpochId, Generation, InodeNo, Lsn};

/// How to make a volume.
pub(crate) struct StoreFormat {
    pub(crate) size_bytes: u64,
    pub(crate) volume_id: [u8; 16],
    pub(crate) label: String,
    pub(crate) slots: Vec<KeySlot>,
    pub(crate) anchor: Option<(Arc<dyn Anchor>, AnchorPolicy)>,
    /// It is going to lie over images.
    pub(crate) layered: bool,
}

const NODE_SIZE_BYTES: u32 = 16_384;
/// What any writer may leave unmerged, so that a small reader can still open the volume.
const MAX_UNMERGED_BYTES: u64 = 32 << 20;
/// Ring bytes that are zeroed in one request.
const ZERO_BYTES: u64 = 1 << 20;

impl Store {
    /// Makes an empty volume on a backend, whatever was there before.
    pub(crate) fn format(backend: &dyn Backend, key: &VolumeKey, options: &StoreFormat, env: &Env) -> Result<()> {
        let header = new_header(options)?;
        let geometry = Geometry::new(header.total_blocks, header.ring_start.0, header.ring_blocks)?;
        make_room(backend, &header)?;
        backend.write_at(0, backend_zeros(backend, HEADER_LEN))?;
        backend.flush()?;
        zero_ring(backend, &header)?;
        let (bytes, verified) = key.seal_header(&*env.suite, &header);
        write(backend, (header.total_blocks - 16) * BLOCK_SIZE_U64, &bytes)?;
        let sealer = Sealer::new(env.suite.clone(), env.rng.clone(), key, &verified);
        let anchor = options.anchor.as_ref().map(|(anchor, policy)| (&**anchor, *policy));
        let binding = binding(anchor)?;
        let salt = write_slots(backend, &sealer, &geometry, &verified, binding, options.layered)?;
        backend.flush()?;
        write(backend, 0, &bytes)?;
        backend.flush()?;
        match anchor {
            Some((anchor, _)) if binding.kind == AnchorKind::BareCounter => start_counter(anchor, binding.counter),
            Some((anchor, _)) => start_anchor(anchor, &header, &verified, &salt, env),
            None => Ok(()),
        }
    }
}

fn new_header(options: &StoreFormat) -> Result<Header> {
    if options.label.len() > MAX_LABEL_LEN {
        return Err(Invalid::Label.into());
    }
    if options.slots.len() > MAX_KEY_SLOTS || options.slots.iter().any(|slot| slot.body.len() > MAX_SLOT_BODY) {
        return Err(Invalid::KeySlots.into());
    }
    let size = Invalid::VolumeSize(options.size_bytes);
    let total_blocks = usable_blocks(options.size_bytes / BLOCK_SIZE_U64).ok_or(size)?;
    Ok(Header {
        image: ImageType::Volume,
        incompatible: if options.layered { FEATURE_LAYERED } else { 0 },
        volume_id: options.volume_id,
        node_size_bytes: NODE_SIZE_BYTES,
        ring_start: RING_START,
        ring_blocks: ring_blocks_for(total_blocks),
        max_unmerged_bytes: MAX_UNMERGED_BYTES,
        generation: 1,
        read_only_compatible: 0,
        compatible: 0,
        total_blocks,
        key_generation: 1,
        label: options.label.clone(),
        slots: options.slots.clone(),
    })
}

fn make_room(backend: &dyn Backend, header: &Header) -> Result<()> {
    let needed_bytes = header.total_blocks * BLOCK_SIZE_U64;
    if backend.len_bytes()? < needed_bytes {
        backend.grow(needed_bytes)?;
    }
    let actual_bytes = backend.len_bytes()?;
    if actual_bytes < needed_bytes {
        return Err(Invalid::BackendSize { needed_bytes, actual_bytes }.into());
    }
    Ok(())
}

/// The ring is written once, so that later groups go into written area: that is what makes a commit fast.
fn zero_ring(backend: &dyn Backend, header: &Header) -> Result<()> {
    let end = (header.ring_start.0 + header.ring_blocks) * BLOCK_SIZE_U64;
    let mut at = header.ring_start.0 * BLOCK_SIZE_U64;
    while at < end {
        let take = ZERO_BYTES.min(end - at);
        backend.write_at(at, backend_zeros(backend, usize::try_from(take).unwrap_or(BLOCK_SIZE)))?;
        at += take;
    }
    Ok(())
}

fn backend_zeros(backend: &dyn Backend, len_bytes: usize) -> HostBuf {
    let mut buf = backend.buffer(len_bytes);
    buf.bytes_mut().fill(0);
    buf
}

fn write(backend: &dyn Backend, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
    let mut buf = backend.buffer(bytes.len());
    buf.bytes_mut().copy_from_slice(bytes);
    backend.write_at(offset_bytes, buf).map_err(Error::from)
}

/// Writes both slots and returns the newer one's salt.
fn write_slots(
    backend: &dyn Backend,
    sealer: &Sealer,
    geometry: &Geometry,
    header: &VerifiedHeader,
    anchor: AnchorBinding,
    layered: bool,
) -> Result<[u8; 32]> {
    let mut salt = [0; 32];
    // Numbers of images are below.
    let next_id = if layered { PACKED_IDS_END } else { InodeNo::ROOT.0 + 1 };
    for generation in [1, 2].map(Generation) {
        let checkpoint = Checkpoint {
            generation,
            previous_salt: salt,
            log_start: Lsn(0),
            previous_tag: [0; 16],
            log_epoch: EpochId(0),
            epoch_count: 0,
            clean: true,
            epoch_start: false,
            accepted_headers: alloc::vec![*header.digest()],
            alloc_levels: geometry.levels(),
            next_id,
            free_blocks: geometry.free_blocks(&AllocEntry::default()),
            unwritten_blocks: 0,
            inodes: 0,
            nodes: 0,
            alloc_root: AllocEntry::default(),
            anchor,
            roots: Vec::new(),
            epoch_pages: Vec::new(),
            rotation: None,
        };
        let sealed = sealer.seal_checkpoint(&checkpoint)?;
        write(backend, SLOT_ADDRS[usize::from(sealed.index)].0 * BLOCK_SIZE_U64, &sealed.bytes[..])?;
        salt = sealed.salt;
    }
    Ok(salt)
}

pub(super) fn binding(anchor: Option<(&dyn Anchor, AnchorPolicy)>) -> Result<AnchorBinding> {
    let Some((anchor, policy)) = anchor else { return Ok(AnchorBinding::default()) };
    let mut binding = AnchorBinding { policy, kind: anchor.kind(), identity: anchor.identity(), counter: 0 };
    if binding.kind == AnchorKind::BareCounter {
        if policy == AnchorPolicy::Strict {
            return Err(Invalid::Option("a strict anchor has to hold a digest, not a counter only").into());
        }
        let counter = anchor.read()?.counter;
        let odd = if counter::is_claim(counter) { Some(counter) } else { counter.checked_add(1) };
        binding.counter = odd.and_then(counter::first_number).ok_or(AnchorError::Malformed)?;
    }
    Ok(binding)
}

/// Counts up to the number that the slots have.
fn start_counter(anchor: &dyn Anchor, number: u64) -> Result<()> {
    let mut state = anchor.read()?;
    while state.counter < number {
        counter::count(anchor, &mut state)?;
    }
    if state.counter == number { Ok(()) } else { Err(AnchorError::Conflict.into()) }
}

fn start_anchor(
    anchor: &dyn Anchor,
    header: &Header,
    verified: &VerifiedHeader,
    salt: &[u8; 32],
    env: &Env,
) -> Result<()> {
    let state = anchor.read()?;
    let counter = state.counter.checked_add(1).ok_or(AnchorError::Malformed)?;
    let digest =
        state_digest(&*env.suite, &header.volume_id, header.key_generation, verified.digest(), salt, Lsn(0), &[0; 16]);
    anchor.advance(&state, &AnchorState { counter, digest }).map_err(Error::from)
}
