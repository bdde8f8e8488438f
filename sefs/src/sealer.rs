//! Sealing and opening of everything that hangs on an epoch: data blocks, tree nodes, allocation pages and log groups.
//!
//! *Security*: a nonce is 64 random bits, drawn when the message is fixed, and a counter that no key of the epoch uses
//! twice; it is burned before the message is sealed, whatever happens afterwards. Only an epoch that was drawn by this
//! very [`Sealer`] can seal: one that was read from a volume has no counter, for nobody knows which nonces an older
//! state of the volume has used. Associated data come from what the reader expects, never from the block.
//!
//! *Invariants*: epoch numbers rise; an epoch that was drawn here is never dropped here, for something that it sealed may
//! still be on its way to a log group; no cryptography runs under the table's lock.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::digest;
use crate::error::{self, Corrupt, Error, Latched, Tampered};
use crate::format::{
    AllocEntry, BlockLoc, BlockRef, Checkpoint, Digest, ENTRIES_PER_EPOCH_PAGE, EpochEntry, EpochPage,
    GROUP_PREFIX_LEN, GroupPrefix, LIVE_UNKNOWN, LogRecord, MAX_EPOCHS, Proof, Rotation, VerifiedHeader, nonce_at,
};
use crate::keys::{
    CLASS_ALLOC_PAGE, CLASS_DATA, CLASS_NODE, Keyring, OpenFault, OpenedSlot, SealedEpochPage, SealedSlot, VolumeKey,
    associated, random,
};
use crate::suite::{Aead, Nonce, Rng, SecretKey, Suite, Tag};
use crate::sync::{Mutex, RwLock};
use crate::types::{BLOCK_SIZE, EpochId, Generation, Lsn};

/// Messages that one epoch may seal: what the 32-bit counter can tell apart.
const DEFAULT_EPOCH_LIMIT: u64 = 1 << 32;
/// An epoch counts as exhausted this many messages before its end, so that what is under way still fits.
const MAX_MARGIN: u64 = 1 << 20;
/// What references of packed images name; their keys derive from the root block's salt.
pub(crate) const PACKED_EPOCH: EpochId = EpochId(0);
/// Epochs whose keys are kept expanded.
const MAX_EXPANDED: usize = 64;

/// Blocks that were sealed with consecutive nonces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SealedRun {
    pub(crate) epoch: EpochId,
    /// The nonce of the first block; see `nonce_at` for the others'.
    pub(crate) nonce: Nonce,
    /// One for each block.
    pub(crate) tags: Vec<Tag>,
}

/// What proves one sealed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sealed {
    pub(crate) epoch: EpochId,
    pub(crate) nonce: Nonce,
    pub(crate) tag: Tag,
}

/// A log group as it will stand in the ring, without its data blocks.
pub(crate) struct SealedGroup {
    /// Whole blocks.
    pub(crate) bytes: Vec<u8>,
    pub(crate) prefix: GroupPrefix,
}

/// Where a group will stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GroupPlace {
    pub(crate) lsn: Lsn,
    pub(crate) previous_tag: Tag,
    pub(crate) epoch: EpochId,
    pub(crate) data_blocks: u32,
}

/// Why a block did not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpenFailure {
    /// The table does not hold the epoch that the parent names.
    UnknownEpoch(EpochId),
    /// The block does not authenticate.
    Auth,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SealFailure {
    /// The random generator failed.
    Rng,
    /// The epoch was not drawn here, or there is none yet.
    NoEpoch,
    /// The epoch has not enough nonces left.
    Exhausted,
    /// The table is full.
    TooManyEpochs,
}

impl From<SealFailure> for Error {
    fn from(failure: SealFailure) -> Error {
        let cause = match failure {
            SealFailure::Rng => return Error::Rng,
            SealFailure::NoEpoch => "something was to be sealed without an epoch",
            SealFailure::Exhausted => "the epoch's nonces are used up",
            SealFailure::TooManyEpochs => {
                "the table of epochs is full: re-encryption of old ones found no room to go on"
            }
        };
        Latched { cause: cause.into() }.into()
    }
}

/// Seals and opens. All methods may be called from several threads.
pub(crate) struct Sealer {
    suite: Arc<dyn Suite>,
    /// A public image has no keys: there is nothing to decrypt, and nothing is sealed.
    keyring: Option<Keyring>,
    rng: Arc<dyn Rng>,
    table: RwLock<Table>,
}

struct Table {
    epochs: BTreeMap<EpochId, Epoch>,
    current: Option<EpochId>,
    /// Messages that an epoch may seal.
    limit: u64,
    /// Epochs that the stored table may hold.
    max_epochs: u32,
    /// The log of neither slot starts with an older epoch.
    needed: EpochId,
    /// How many of `epochs` have their keys expanded.
    expanded: usize,
    /// Which epochs are of the volume key before this one, and what their keys derive with.
    rotation: Option<Rotation>,
}

struct Epoch {
    secret: SecretKey,
    live_blocks: u64,
    /// The first checkpoint that names nothing of it.
    dead_since: Option<Generation>,
    keys: Option<Arc<EpochKeys>>,
    /// Only epochs that were drawn here have one, and only they seal.
    nonces: Option<Arc<NonceSource>>,
}

struct EpochKeys {
    data: Box<dyn Aead>,
    node: Box<dyn Aead>,
    log: Box<dyn Aead>,
}

/// What an epoch needs for sealing.
struct SealingEpoch {
    id: EpochId,
    keys: Arc<EpochKeys>,
    nonces: Arc<NonceSource>,
    limit: u64,
}

/// The counter of an epoch.
#[derive(Default)]
struct NonceSource {
    next: Mutex<u64>,
}

impl NonceSource {
    /// Draws a prefix and burns `count` counters; returns the first nonce. The counters of a run do not wrap.
    fn burn(&self, count: u64, limit: u64, rng: &dyn Rng) -> Result<Nonce, SealFailure> {
        let prefix: [u8; 8] = random(rng).map_err(|_| SealFailure::Rng)?;
        let mut next = self.next.lock();
        let end = next.checked_add(count).filter(|&end| end <= limit).ok_or(SealFailure::Exhausted)?;
        let first = u32::try_from(*next).map_err(|_| SealFailure::Exhausted)?;
        *next = end;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&prefix);
        nonce[8..].copy_from_slice(&first.to_be_bytes());
        Ok(nonce)
    }

    fn left(&self, limit: u64) -> u64 {
        limit.saturating_sub(*self.next.lock())
    }
}

/// Data blocks, nodes, allocation pages and log groups.
impl Sealer {
    pub(crate) fn new(suite: Arc<dyn Suite>, rng: Arc<dyn Rng>, key: &VolumeKey, header: &VerifiedHeader) -> Sealer {
        let table = Table::new();
        let keyring = Some(Keyring::new(suite.clone(), key, header));
        Sealer { suite, keyring, rng, table: RwLock::new(table) }
    }

    /// Opens what stands in a packed image that is encrypted under keys from this salt.
    pub(crate) fn packed(
        suite: Arc<dyn Suite>,
        rng: Arc<dyn Rng>,
        keyring: Keyring,
        salt: &[u8; 32],
    ) -> Result<Sealer, Corrupt> {
        let secret = keyring.packed_secret(salt);
        let sealer = Sealer { suite, keyring: Some(keyring), rng, table: RwLock::new(Table::new()) };
        sealer.add_epoch(PACKED_EPOCH, secret, LIVE_UNKNOWN).map(|()| sealer)
    }

    /// Opens what stands in a packed image in plain.
    pub(crate) fn public(suite: Arc<dyn Suite>, rng: Arc<dyn Rng>) -> Sealer {
        Sealer { suite, keyring: None, rng, table: RwLock::new(Table::new()) }
    }

    pub(crate) fn suite(&self) -> &Arc<dyn Suite> {
        &self.suite
    }

    /// Seals as many blocks as `out` has room for, with consecutive nonces of the current epoch. `out` may be memory that
    /// the host sees: each block is sealed in our own and copied out.
    pub(crate) fn seal_data<'p>(
        &self,
        plain: impl IntoIterator<Item = &'p [u8]>,
        out: &mut [u8],
    ) -> Result<SealedRun, SealFailure> {
        assert!(out.len().is_multiple_of(BLOCK_SIZE), "whole blocks are sealed");
        let epoch = self.sealing(None)?;
        let blocks = u32::try_from(out.len() / BLOCK_SIZE).map_err(|_| SealFailure::Exhausted)?;
        let nonce = epoch.nonces.burn(u64::from(blocks), epoch.limit, &*self.rng)?;
        let associated = associated(CLASS_DATA, 0);
        let mut tags = Vec::with_capacity(out.len() / BLOCK_SIZE);
        let mut own = [0; BLOCK_SIZE];
        for ((index, out), plain) in (0..blocks).zip(out.chunks_exact_mut(BLOCK_SIZE)).zip(plain) {
            let nonce = nonce_at(&nonce, index).ok_or(SealFailure::Exhausted)?;
            tags.push(epoch.keys.data.seal(&nonce, &associated, plain, &mut own));
            out.copy_from_slice(&own);
        }
        assert!(tags.len() * BLOCK_SIZE == out.len(), "there is as much to seal as room for it");
        Ok(SealedRun { epoch: epoch.id, nonce, tags })
    }

    /// Verifies and decrypts a data block in place.
    pub(crate) fn open_data(&self, loc: &BlockLoc, buf: &mut [u8; BLOCK_SIZE]) -> Result<(), OpenFailure> {
        match &loc.proof {
            Proof::Tag(tag) => {
                let opened = self.keys(loc.epoch)?.data.open(&loc.nonce, &associated(CLASS_DATA, 0), buf, tag);
                opened.map_err(|_| OpenFailure::Auth)
            }
            Proof::Digest(digest) => {
                self.verify(CLASS_DATA, 0, &loc.nonce, digest, buf)?;
                self.uncover(loc.epoch, |keys| keys.data.decrypt_verified(&loc.nonce, buf))
            }
        }
    }

    /// Compares stored bytes, in memory that only we see, with their digest; on failure they are zeroed.
    fn verify(&self, class: u8, level: u8, nonce: &Nonce, digest: &Digest, buf: &mut [u8]) -> Result<(), OpenFailure> {
        let nonce = self.keyring.as_ref().map(|_| nonce);
        if digest::of_stored(&*self.suite, class, level, nonce, buf) == *digest {
            return Ok(());
        }
        buf.fill(0);
        Err(OpenFailure::Auth)
    }

    /// Decrypts what was verified; in a public image there is nothing to decrypt.
    fn uncover(&self, epoch: EpochId, decrypt: impl FnOnce(&EpochKeys)) -> Result<(), OpenFailure> {
        if self.keyring.is_some() {
            decrypt(&*self.keys(epoch)?);
        }
        Ok(())
    }

    fn keyring(&self) -> error::Result<&Keyring> {
        self.keyring.as_ref().ok_or_else(|| SealFailure::NoEpoch.into())
    }

    /// Takes data blocks that stand side by side out of `host`, memory that the host sees, and opens them into `out` of the
    /// same length. Each is copied once, right before it is verified. The error tells which block it is.
    pub(crate) fn open_run(&self, run: &[BlockLoc], host: &[u8], out: &mut [u8]) -> Result<(), (usize, OpenFailure)> {
        assert!(host.len() == out.len() && out.len() == run.len() * BLOCK_SIZE, "whole blocks are opened");
        let associated = associated(CLASS_DATA, 0);
        let mut keys: Option<(EpochId, Arc<EpochKeys>)> = None;
        let places = host.chunks_exact(BLOCK_SIZE).zip(out.chunks_exact_mut(BLOCK_SIZE));
        for (index, (loc, (sealed, block))) in run.iter().zip(places).enumerate() {
            block.copy_from_slice(sealed);
            let tag = match &loc.proof {
                Proof::Tag(tag) => tag,
                Proof::Digest(digest) => {
                    let opened = self.verify(CLASS_DATA, 0, &loc.nonce, digest, block);
                    opened.map_err(|failure| (index, failure))?;
                    let opened = self.uncover(loc.epoch, |keys| keys.data.decrypt_verified(&loc.nonce, block));
                    opened.map_err(|failure| (index, failure))?;
                    continue;
                }
            };
            let expanded = match &keys {
                Some((epoch, expanded)) if *epoch == loc.epoch => expanded,
                _ => {
                    let expanded = self.keys(loc.epoch).map_err(|failure| (index, failure))?;
                    &keys.insert((loc.epoch, expanded)).1
                }
            };
            let opened = expanded.data.open(&loc.nonce, &associated, block, tag);
            opened.map_err(|_| (index, OpenFailure::Auth))?;
        }
        Ok(())
    }

    /// Seals a tree node of `level` into `own`, memory that only we see.
    pub(crate) fn seal_node(&self, level: u8, plain: &[u8], own: &mut [u8]) -> Result<Sealed, SealFailure> {
        self.seal(|keys| &*keys.node, CLASS_NODE, level, plain, own)
    }

    /// Verifies and decrypts, in place, the tree node that `reference` names; the parent says that its level is `level`.
    pub(crate) fn open_node(&self, level: u8, reference: &BlockRef, buf: &mut [u8]) -> Result<(), OpenFailure> {
        let (epoch, nonce) = (reference.epoch, &reference.nonce);
        match &reference.proof {
            Proof::Tag(tag) => {
                let opened = self.keys(epoch)?.node.open(nonce, &associated(CLASS_NODE, level), buf, tag);
                opened.map_err(|_| OpenFailure::Auth)
            }
            Proof::Digest(digest) => {
                self.verify(CLASS_NODE, level, nonce, digest, buf)?;
                self.uncover(epoch, |keys| keys.node.decrypt_verified(nonce, buf))
            }
        }
    }

    /// Seals an allocation page of `level` (0 bitmap) into `own`, memory that only we see.
    pub(crate) fn seal_alloc_page(&self, level: u8, plain: &[u8], own: &mut [u8]) -> Result<Sealed, SealFailure> {
        self.seal(|keys| &*keys.node, CLASS_ALLOC_PAGE, level, plain, own)
    }

    /// Verifies and decrypts, in place, the allocation page of `level` that `entry` proves.
    pub(crate) fn open_alloc_page(&self, level: u8, entry: &AllocEntry, buf: &mut [u8]) -> Result<(), OpenFailure> {
        let keys = self.keys(entry.epoch)?;
        let opened = keys.node.open(&entry.nonce, &associated(CLASS_ALLOC_PAGE, level), buf, &entry.tag);
        opened.map_err(|_| OpenFailure::Auth)
    }

    /// Seals the body of a log group; the epoch is one that was drawn here, not always the current one.
    pub(crate) fn seal_group(&self, place: &GroupPlace, body: &[u8]) -> Result<SealedGroup, SealFailure> {
        let sealed_len = u32::try_from(body.len()).map_err(|_| SealFailure::Exhausted)?;
        let epoch = self.sealing(Some(place.epoch))?;
        let nonce = epoch.nonces.burn(1, epoch.limit, &*self.rng)?;
        let &GroupPlace { lsn, previous_tag, epoch: epoch_id, data_blocks } = place;
        let mut prefix =
            GroupPrefix { lsn, previous_tag, sealed_len, epoch: epoch_id, data_blocks, nonce, tag: [0; 16] };
        let end = GROUP_PREFIX_LEN + body.len();
        let mut bytes = alloc::vec![0; end.next_multiple_of(BLOCK_SIZE)];
        let out = &mut bytes[GROUP_PREFIX_LEN..end];
        prefix.tag = epoch.keys.log.seal(&nonce, &prefix.associated_data(), body, out);
        bytes[..GROUP_PREFIX_LEN].copy_from_slice(&prefix.encode());
        Ok(SealedGroup { bytes, prefix })
    }

    /// Opens the sealed part of a group. The caller has compared the prefix with what it expects at this place.
    pub(crate) fn open_group(&self, prefix: &GroupPrefix, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if u32::try_from(sealed.len()) != Ok(prefix.sealed_len) {
            return None;
        }
        let keys = self.keys(prefix.epoch).ok()?;
        let mut body = Zeroizing::new(sealed.to_vec());
        keys.log.open(&prefix.nonce, &prefix.associated_data(), &mut body, &prefix.tag).ok()?;
        Some(body)
    }

    fn seal(
        &self,
        key: impl Fn(&EpochKeys) -> &dyn Aead,
        class: u8,
        level: u8,
        plain: &[u8],
        own: &mut [u8],
    ) -> Result<Sealed, SealFailure> {
        let epoch = self.sealing(None)?;
        let nonce = epoch.nonces.burn(1, epoch.limit, &*self.rng)?;
        let tag = key(&epoch.keys).seal(&nonce, &associated(class, level), plain, own);
        Ok(Sealed { epoch: epoch.id, nonce, tag })
    }
}

/// Checkpoints.
impl Sealer {
    /// Seals a checkpoint for the slot of its generation.
    pub(crate) fn seal_checkpoint(&self, checkpoint: &Checkpoint) -> error::Result<SealedSlot> {
        self.keyring()?.seal_checkpoint(checkpoint, &*self.rng)
    }

    /// Opens checkpoint slot `index`.
    pub(crate) fn open_checkpoint(&self, index: u8, bytes: &[u8; BLOCK_SIZE]) -> Result<OpenedSlot, OpenFault> {
        self.keyring.as_ref().ok_or(OpenFault::Auth)?.open_checkpoint(index, bytes)
    }
}

/// The volume key's change.
impl Sealer {
    /// From now on everything is sealed under another volume key. No epoch that is known seals again: the next one to be drawn
    /// is the first of the new key. Nothing that an epoch sealed may be on its way to the volume.
    pub(crate) fn change_key(
        &mut self,
        key: &VolumeKey,
        header: &VerifiedHeader,
        old_header_digest: [u8; 32],
    ) -> error::Result<()> {
        let old_immutable_digest = *self.keyring()?.immutable_digest();
        self.keyring = Some(Keyring::new(self.suite.clone(), key, header));
        let mut table = self.table.write();
        let last = table.epochs.last_key_value().map_or(1, |(last, _)| last.0);
        for epoch in table.epochs.values_mut() {
            epoch.nonces = None;
        }
        table.current = None;
        let first_epoch = EpochId(last.saturating_add(1));
        table.rotation = Some(Rotation { first_epoch, old_immutable_digest, old_header_digest });
        Ok(())
    }

    /// What a checkpoint says of the volume key before this one; epochs are told apart by it.
    pub(crate) fn set_rotation(&self, rotation: Option<Rotation>) {
        self.table.write().rotation = rotation;
    }

    /// What a checkpoint has to say of the volume key before this one, if its table leaves `left_out` out.
    pub(crate) fn rotation_without(&self, left_out: &BTreeSet<EpochId>) -> Option<Rotation> {
        let table = self.table.read();
        let is_left = |rotation: &Rotation| table.old_keys(rotation).any(|(id, _)| !left_out.contains(id));
        table.rotation.filter(is_left)
    }

    /// Epochs of the volume key before this one, with their live counts.
    pub(crate) fn epochs_of_old_key(&self) -> Vec<(EpochId, u64)> {
        let table = self.table.read();
        let Some(rotation) = &table.rotation else { return Vec::new() };
        table.old_keys(rotation).map(|(id, epoch)| (*id, epoch.live_blocks)).collect()
    }
}

/// The table of epochs.
impl Sealer {
    /// Draws an epoch and makes it the current one. Its [`LogRecord`] or the table must be durable before anything that
    /// it sealed counts.
    pub(crate) fn new_epoch(&self) -> Result<EpochId, SealFailure> {
        let secret = SecretKey::new(random(&*self.rng).map_err(|_| SealFailure::Rng)?);
        let mut table = self.table.write();
        let id = match table.epochs.last_key_value() {
            Some((last, _)) => EpochId(last.0.checked_add(1).ok_or(SealFailure::TooManyEpochs)?),
            None => EpochId(1),
        };
        if table.listed() >= table.max_epochs {
            return Err(SealFailure::TooManyEpochs);
        }
        let nonces = Some(Arc::new(NonceSource::default()));
        table.insert(id, Epoch { secret, live_blocks: 0, dead_since: None, keys: None, nonces })?;
        table.current = Some(id);
        Ok(id)
    }

    /// Adds an epoch that was read from the volume, for opening only. Adding it again changes nothing.
    pub(crate) fn add_epoch(&self, id: EpochId, secret: SecretKey, live_blocks: u64) -> Result<(), Corrupt> {
        self.add(id, Epoch { secret, live_blocks, dead_since: None, keys: None, nonces: None })
    }

    fn add(&self, id: EpochId, epoch: Epoch) -> Result<(), Corrupt> {
        let mut table = self.table.write();
        match table.epochs.get(&id) {
            Some(known) if known.secret.expose() == epoch.secret.expose() => Ok(()),
            Some(_) => Err(Corrupt::UnknownEpoch(id)),
            None => table.insert(id, epoch).map_err(|_| Corrupt::UnknownEpoch(id)),
        }
    }

    /// Whether something that was sealed in this epoch can be opened.
    pub(crate) fn knows_epoch(&self, id: EpochId) -> bool {
        self.table.read().epochs.contains_key(&id)
    }

    /// The epoch that seals; `None` before the first [`Sealer::new_epoch`].
    #[cfg(test)]
    pub(crate) fn current(&self) -> Option<EpochId> {
        self.table.read().current
    }

    /// Whether the current epoch nears its limit, so that it is time for a new one.
    pub(crate) fn exhausted(&self) -> bool {
        self.nonces_left().is_some_and(|(left, limit)| left <= (limit / 4).min(MAX_MARGIN))
    }

    /// How many messages the current epoch can still seal, and how many it could at first.
    pub(crate) fn nonces_left(&self) -> Option<(u64, u64)> {
        let (limit, nonces) = {
            let table = self.table.read();
            let epoch = table.epochs.get(&table.current?)?;
            (table.limit, epoch.nonces.clone()?)
        };
        Some((nonces.left(limit), limit))
    }

    /// Lowers how many messages an epoch may seal, for tests of what happens then.
    #[cfg(test)]
    pub(crate) fn set_epoch_limit(&self, messages: u32) {
        self.table.write().limit = messages.into();
    }

    /// Lowers how many epochs the table may hold, for tests of what happens then.
    #[cfg(test)]
    pub(crate) fn set_max_epochs(&self, max_epochs: u32) {
        self.table.write().max_epochs = max_epochs;
    }

    /// The log record that makes an epoch known to replay.
    pub(crate) fn new_epoch_record(&self, id: EpochId) -> Option<LogRecord> {
        let table = self.table.read();
        let secret = SecretKey::new(*table.epochs.get(&id)?.secret.expose());
        Some(LogRecord::NewEpoch { id, secret })
    }

    /// Counts blocks that an epoch sealed and that became live (positive) or were released (negative).
    pub(crate) fn adjust_live(&self, id: EpochId, delta: i64) {
        if let Some(epoch) = self.table.write().epochs.get_mut(&id) {
            // A count that would turn negative was wrong before: an epoch whose count is not known is never dropped.
            epoch.live_blocks = match epoch.live_blocks {
                LIVE_UNKNOWN => LIVE_UNKNOWN,
                live => live.checked_add_signed(delta).unwrap_or(LIVE_UNKNOWN),
            };
        }
    }

    /// Sets the count of an epoch, as somebody who has looked everywhere found it.
    pub(crate) fn set_live(&self, id: EpochId, live_blocks: u64) {
        if let Some(epoch) = self.table.write().epochs.get_mut(&id) {
            epoch.live_blocks = live_blocks;
        }
    }

    /// All epochs and their live counts, rising.
    pub(crate) fn epochs(&self) -> Vec<(EpochId, u64)> {
        self.table.read().epochs.iter().map(|(id, epoch)| (*id, epoch.live_blocks)).collect()
    }

    /// Epochs of earlier mounts that sealed something live, with its count; nothing new is ever sealed with them.
    pub(crate) fn old_epochs(&self) -> Vec<(EpochId, u64)> {
        let table = self.table.read();
        let old = table.epochs.iter().filter(|(_, epoch)| epoch.nonces.is_none() && epoch.live_blocks > 0);
        old.map(|(id, epoch)| (*id, epoch.live_blocks)).collect()
    }

    /// How many epochs the next checkpoint's table will hold.
    pub(crate) fn listed_epochs(&self) -> u32 {
        self.table.read().listed()
    }

    /// Epochs that the table of checkpoint `generation` leaves out: the checkpoint before already named nothing of them.
    /// `needed` is the oldest epoch in which a group of the log that either slot starts is sealed.
    pub(crate) fn dead_epochs(&self, generation: Generation, needed: EpochId) -> BTreeSet<EpochId> {
        let table = self.table.read();
        table.epochs.iter().filter(|(id, epoch)| epoch.is_dead(**id, generation, needed)).map(|(id, _)| *id).collect()
    }

    /// Forgets the keys of epochs that no slot, no log and no reader needs, and returns them. Readers began with checkpoint
    /// `oldest_read` or later, which is durable.
    pub(crate) fn drop_dead_epochs(&self, oldest_read: Generation, needed: EpochId) -> Vec<EpochId> {
        let dropped: Vec<EpochId> = self.dead_epochs(oldest_read, needed).into_iter().collect();
        let mut table = self.table.write();
        table.needed = needed;
        for id in &dropped {
            table.remove(*id);
        }
        dropped
    }

    /// How many pages [`Sealer::seal_epoch_pages`] makes.
    pub(crate) fn epoch_page_count(&self, left_out: &BTreeSet<EpochId>) -> usize {
        let table = self.table.read();
        let listed = table.epochs.keys().filter(|id| !left_out.contains(id)).count();
        listed.div_ceil(ENTRIES_PER_EPOCH_PAGE)
    }

    /// Seals the table of checkpoint `generation`, without `left_out`, into at most `most_pages` pages; returns how many
    /// epochs they hold. Epochs that do not fit have to be younger than `log_epoch`: the log names those.
    pub(crate) fn seal_epoch_pages(
        &self,
        generation: Generation,
        left_out: &BTreeSet<EpochId>,
        most_pages: usize,
        log_epoch: EpochId,
    ) -> error::Result<(Vec<SealedEpochPage>, u32)> {
        let (pages, count) = {
            let mut table = self.table.write();
            table.note_dead(generation);
            let is_wrong = |(id, epoch): (&EpochId, &Epoch)| left_out.contains(id) && epoch.live_blocks != 0;
            if let Some((id, _)) = table.epochs.iter().find(|entry| is_wrong(*entry)) {
                return Err(Corrupt::UnknownEpoch(*id).into());
            }
            let mut entries: Vec<_> = table.epochs.iter().filter(|(id, _)| !left_out.contains(id)).collect();
            let behind = entries.split_off(entries.len().min(most_pages * ENTRIES_PER_EPOCH_PAGE));
            let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            // The log names what is left out here. It must not have sealed anything that the slot is going to name itself.
            if behind.iter().any(|(id, epoch)| **id <= log_epoch || epoch.live_blocks != 0) || count > MAX_EPOCHS {
                return Err(SealFailure::TooManyEpochs.into());
            }
            let pages: Vec<EpochPage> = entries.chunks(ENTRIES_PER_EPOCH_PAGE).map(page_of).collect();
            (pages, count)
        };
        let keyring = self.keyring()?;
        let sealed: error::Result<Vec<_>> =
            pages.iter().map(|page| keyring.seal_epoch_page(page, &*self.rng)).collect();
        Ok((sealed?, count))
    }

    /// Opens page `index` of the table of checkpoint `generation` with the tag that the checkpoint holds, and adds its
    /// epochs. What only a table that is not the `newest` knows died since.
    pub(crate) fn open_epoch_page(
        &self,
        index: u32,
        bytes: &[u8; BLOCK_SIZE],
        tag: &Tag,
        generation: Generation,
        newest: bool,
    ) -> error::Result<()> {
        let page = self.keyring()?.open_epoch_page(bytes, tag).map_err(|fault| match fault {
            OpenFault::Auth => Error::from(Tampered::EpochPage { index }),
            OpenFault::Corrupt(_) => Corrupt::EpochPage(index).into(),
        })?;
        for EpochEntry { id, live_blocks, secret } in page.entries {
            let live_blocks = if newest { live_blocks } else { 0 };
            let dead_since = (live_blocks == 0).then_some(generation);
            self.add(id, Epoch { secret, live_blocks, dead_since, keys: None, nonces: None })?;
        }
        Ok(())
    }

    /// Neither slot's log starts with an epoch before this one.
    pub(crate) fn set_needed(&self, needed: EpochId) {
        self.table.write().needed = needed;
    }

    /// The expanded keys of an epoch.
    fn keys(&self, id: EpochId) -> Result<Arc<EpochKeys>, OpenFailure> {
        let (secret, old) = {
            let table = self.table.read();
            let epoch = table.epochs.get(&id).ok_or(OpenFailure::UnknownEpoch(id))?;
            if let Some(keys) = &epoch.keys {
                return Ok(keys.clone());
            }
            (SecretKey::new(*epoch.secret.expose()), table.rotation.filter(|rotation| id < rotation.first_epoch))
        };
        let keyring = self.keyring.as_ref().ok_or(OpenFailure::UnknownEpoch(id))?;
        let immutable = old.as_ref().map_or(keyring.immutable_digest(), |it| &it.old_immutable_digest);
        let key = |label: &[u8]| keyring.epoch_key(&secret, label, immutable);
        let keys =
            Arc::new(EpochKeys { data: key(b"sefs 1 data"), node: key(b"sefs 1 node"), log: key(b"sefs 1 log") });
        self.table.write().remember(id, &keys);
        Ok(keys)
    }

    /// What is needed to seal with an epoch that was drawn here: with `id`, or with the current one.
    fn sealing(&self, id: Option<EpochId>) -> Result<SealingEpoch, SealFailure> {
        let (id, nonces, limit) = {
            let table = self.table.read();
            let id = id.or(table.current).ok_or(SealFailure::NoEpoch)?;
            let epoch = table.epochs.get(&id).ok_or(SealFailure::NoEpoch)?;
            (id, epoch.nonces.clone().ok_or(SealFailure::NoEpoch)?, table.limit)
        };
        let keys = self.keys(id).map_err(|_| SealFailure::NoEpoch)?;
        Ok(SealingEpoch { id, keys, nonces, limit })
    }
}

fn page_of(entries: &[(&EpochId, &Epoch)]) -> EpochPage {
    let entry = |(id, epoch): &(&EpochId, &Epoch)| EpochEntry {
        id: **id,
        live_blocks: epoch.live_blocks,
        secret: SecretKey::new(*epoch.secret.expose()),
    };
    EpochPage { entries: entries.iter().map(entry).collect() }
}

impl Epoch {
    fn is_dead(&self, id: EpochId, generation: Generation, needed: EpochId) -> bool {
        let named_nothing = self.live_blocks == 0 && self.dead_since.is_some_and(|since| since < generation);
        named_nothing && id < needed && self.nonces.is_none()
    }
}

impl Table {
    fn new() -> Table {
        Table {
            epochs: BTreeMap::new(),
            current: None,
            limit: DEFAULT_EPOCH_LIMIT,
            max_epochs: MAX_EPOCHS,
            needed: EpochId(0),
            expanded: 0,
            rotation: None,
        }
    }

    fn old_keys(&self, rotation: &Rotation) -> impl Iterator<Item = (&EpochId, &Epoch)> {
        self.epochs.range(..rotation.first_epoch)
    }

    /// Epochs that the next table names, if nothing of a dead one comes back.
    fn listed(&self) -> u32 {
        let next = Generation(u64::MAX);
        let listed = self.epochs.iter().filter(|(id, epoch)| !epoch.is_dead(**id, next, self.needed));
        u32::try_from(listed.count()).unwrap_or(u32::MAX)
    }

    /// Notes which epochs checkpoint `generation` is the first to name nothing of.
    fn note_dead(&mut self, generation: Generation) {
        for epoch in self.epochs.values_mut() {
            epoch.dead_since = (epoch.live_blocks == 0).then(|| epoch.dead_since.unwrap_or(generation));
        }
    }

    /// Two tables may be known at once, that of either slot.
    fn insert(&mut self, id: EpochId, epoch: Epoch) -> Result<(), SealFailure> {
        if u32::try_from(self.epochs.len()).is_ok_and(|count| count < 2 * MAX_EPOCHS) {
            self.epochs.insert(id, epoch);
            Ok(())
        } else {
            Err(SealFailure::TooManyEpochs)
        }
    }

    fn remove(&mut self, id: EpochId) {
        if self.epochs.remove(&id).is_some_and(|epoch| epoch.keys.is_some()) {
            self.expanded -= 1;
        }
    }

    /// Keeps expanded keys, and forgets all others' when they become many: a volume may have thousands of epochs.
    fn remember(&mut self, id: EpochId, keys: &Arc<EpochKeys>) {
        if self.expanded >= MAX_EXPANDED {
            for epoch in self.epochs.values_mut() {
                epoch.keys = None;
            }
            self.expanded = 0;
        }
        if let Some(epoch) = self.epochs.get_mut(&id)
            && epoch.keys.replace(keys.clone()).is_none()
        {
            self.expanded += 1;
        }
    }
}

#[cfg(test)]
mod tests;
