//! The table of epochs: their secrets, their keys once they are expanded, and their counters.
//!
//! *Security*: see the sealer. A counter is burned under its own lock, before anything is sealed with it.
//!
//! *Invariants*: epoch numbers rise; an epoch that was drawn here is never dropped here, for something that it sealed may
//! still be on its way to a log group; no cryptography runs under the table's lock.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{OpenFailure, SealFailure, Sealer};
use crate::error::{self, Corrupt, Error, Tampered};
use crate::format::{
    ENTRIES_PER_EPOCH_PAGE, EpochEntry, EpochPage, LIVE_UNKNOWN, LogRecord, MAX_EPOCHS, Rotation, VerifiedHeader,
};
use crate::keys::{Keyring, OpenFault, SealedEpochPage, VolumeKey, random};
use crate::suite::{Aead, Nonce, Rng, SecretKey, Tag};
use crate::sync::Mutex;
use crate::types::{BLOCK_SIZE, EpochId, Generation};

/// Messages that one epoch may seal: what the 32-bit counter can tell apart.
pub(super) const DEFAULT_EPOCH_LIMIT: u64 = 1 << 32;
/// An epoch counts as exhausted this many messages before its end, so that what is under way still fits.
const MAX_MARGIN: u64 = 1 << 20;
/// Epochs whose keys are kept expanded.
pub(super) const MAX_EXPANDED: usize = 64;

pub(super) struct Table {
    pub(super) epochs: BTreeMap<EpochId, Epoch>,
    current: Option<EpochId>,
    /// Messages that an epoch may seal.
    limit: u64,
    /// Epochs that the stored table may hold.
    max_epochs: u32,
    /// The log of neither slot starts with an older epoch.
    needed: EpochId,
    /// How many of `epochs` have their keys expanded.
    pub(super) expanded: usize,
    /// Which epochs are of the volume key before this one, and what their keys derive with.
    rotation: Option<Rotation>,
}

pub(super) struct Epoch {
    secret: SecretKey,
    live_blocks: u64,
    /// The first checkpoint that names nothing of it.
    dead_since: Option<Generation>,
    pub(super) keys: Option<Arc<EpochKeys>>,
    /// Only epochs that were drawn here have one, and only they seal.
    nonces: Option<Arc<NonceSource>>,
}

pub(super) struct EpochKeys {
    pub(super) data: Box<dyn Aead>,
    pub(super) node: Box<dyn Aead>,
    pub(super) log: Box<dyn Aead>,
}

/// What an epoch needs for sealing.
pub(super) struct SealingEpoch {
    pub(super) id: EpochId,
    pub(super) keys: Arc<EpochKeys>,
    pub(super) nonces: Arc<NonceSource>,
    pub(super) limit: u64,
}

/// The counter of an epoch.
#[derive(Default)]
pub(super) struct NonceSource {
    pub(super) next: Mutex<u64>,
}

impl NonceSource {
    /// Draws a prefix and burns `count` counters; returns the first nonce. The counters of a run do not wrap.
    pub(super) fn burn(&self, count: u64, limit: u64, rng: &dyn Rng) -> Result<Nonce, SealFailure> {
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
    pub(super) fn keys(&self, id: EpochId) -> Result<Arc<EpochKeys>, OpenFailure> {
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
    pub(super) fn sealing(&self, id: Option<EpochId>) -> Result<SealingEpoch, SealFailure> {
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
    pub(super) fn new() -> Table {
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
