//! Sealing and opening of everything that hangs on an epoch: data blocks, tree nodes, allocation pages and log groups.
//!
//! *Security*: a nonce is 64 random bits, drawn when the message is fixed, and a counter that no key of the epoch uses
//! twice; it is burned before the message is sealed, whatever happens afterwards. Only an epoch that was drawn by this
//! very [`Sealer`] can seal: one that was read from a volume has no counter, for nobody knows which nonces an older
//! state of the volume has used. Associated data come from what the reader expects, never from the block.

mod epochs;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use self::epochs::{EpochKeys, Table};
use crate::digest;
use crate::error::{self, Corrupt, Error, Latched};
use crate::format::{
    AllocEntry, BlockLoc, BlockRef, Checkpoint, Digest, GROUP_PREFIX_LEN, GroupPrefix, LIVE_UNKNOWN, Proof,
    VerifiedHeader, nonce_at,
};
use crate::keys::{
    CLASS_ALLOC_PAGE, CLASS_DATA, CLASS_NODE, Keyring, OpenFault, OpenedSlot, SealedSlot, VolumeKey, associated,
};
use crate::suite::{Aead, Nonce, Rng, Suite, Tag};
use crate::sync::RwLock;
use crate::types::{BLOCK_SIZE, EpochId, Lsn};

/// What references of packed images name; their keys derive from the root block's salt.
pub(crate) const PACKED_EPOCH: EpochId = EpochId(0);

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
