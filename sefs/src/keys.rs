//! The volume key, and what is sealed under keys that derive from it directly: checkpoint slots and epoch pages.
//!
//! ```text
//! slot:       0 salt │ 32 tag │ 48 sealed payload (4,048)
//! epoch page: 0 salt │ 32 sealed payload (4,064); its tag stands in the checkpoint
//! root block: as a slot; of a public image, salt and tag are zero and the payload is in plain
//! ```
//! *Security*: each message has a key of its own, from a fresh salt, so the nonce is zero. A torn write that is
//! repeated is another message under another key.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::error::{self, Error};
use crate::format::{
    CHECKPOINT_LEN, Checkpoint, EPOCH_PAGE_PAYLOAD_LEN, EpochPage, FORMAT_VERSION, Header, PackedRoot, VerifiedHeader,
};
use crate::suite::{Aead, Nonce, Rng, SecretKey, Suite, Tag};
use crate::types::{BLOCK_SIZE, Generation};

/// The key of a volume: everything that it seals derives from it.
pub struct VolumeKey(SecretKey);

impl VolumeKey {
    /// Takes the bytes over; the caller wipes its own copy.
    pub fn new(bytes: [u8; 32]) -> VolumeKey {
        VolumeKey(SecretKey::new(bytes))
    }

    /// Copies the bytes: of them nothing is left between.
    pub fn copy_of(bytes: &[u8; 32]) -> VolumeKey {
        VolumeKey(SecretKey::copy_of(bytes))
    }

    /// A fresh key.
    pub fn generate(rng: &dyn Rng) -> error::Result<VolumeKey> {
        Ok(VolumeKey(SecretKey::new(random(rng)?)))
    }

    /// The bytes, for wrapping them into a key slot.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The stored form of a header; see [`Header::seal`].
    pub fn seal_header(&self, suite: &dyn Suite, header: &Header) -> (Box<[u8]>, VerifiedHeader) {
        header.seal(suite, &self.0)
    }

    /// Decodes and authenticates a header; see [`Header::verify`].
    pub fn verify_header(&self, suite: &dyn Suite, bytes: &[u8]) -> error::Result<(Header, VerifiedHeader)> {
        Header::verify(bytes, suite, &self.0)
    }
}

/// Why a slot, page or root block cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OpenFault {
    /// It does not authenticate.
    Auth,
    /// It is authentic and does not decode.
    Corrupt(&'static str),
}

/// A checkpoint, sealed for its slot.
pub(crate) struct SealedSlot {
    /// The slot: generation modulo 2.
    pub(crate) index: u8,
    pub(crate) bytes: Box<[u8; BLOCK_SIZE]>,
    pub(crate) salt: [u8; 32],
    pub(crate) tag: Tag,
}

/// An authentic checkpoint.
#[derive(Debug)]
pub(crate) struct OpenedSlot {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) salt: [u8; 32],
    pub(crate) tag: Tag,
}

/// A page of the epoch table, sealed.
pub(crate) struct SealedEpochPage {
    pub(crate) bytes: Box<[u8; BLOCK_SIZE]>,
    pub(crate) tag: Tag,
}

/// The slot that holds the checkpoint of a generation.
pub(crate) fn slot_of(generation: Generation) -> u8 {
    if generation.0.is_multiple_of(2) { 0 } else { 1 }
}

/// The keys that derive from the volume key for one message each.
pub(crate) struct Keyring {
    suite: Arc<dyn Suite>,
    volume_key: SecretKey,
    immutable_digest: [u8; 32],
}

impl Keyring {
    pub(crate) fn new(suite: Arc<dyn Suite>, volume_key: &VolumeKey, header: &VerifiedHeader) -> Keyring {
        let volume_key = SecretKey::new(*volume_key.expose());
        Keyring { suite, volume_key, immutable_digest: *header.immutable_digest() }
    }

    /// Seals a checkpoint for the slot of its generation.
    pub(crate) fn seal_checkpoint(&self, checkpoint: &Checkpoint, rng: &dyn Rng) -> error::Result<SealedSlot> {
        let index = slot_of(checkpoint.generation);
        let salt = random(rng)?;
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        let aead = self.checkpoint_key(index, &salt);
        let payload = checkpoint.encode();
        let tag = aead.seal(&ZERO_NONCE, &associated(CLASS_CHECKPOINT, index), &payload, &mut bytes[SLOT_PAYLOAD_AT..]);
        bytes[..32].copy_from_slice(&salt);
        bytes[32..SLOT_PAYLOAD_AT].copy_from_slice(&tag);
        Ok(SealedSlot { index, bytes, salt, tag })
    }

    /// Opens a checkpoint slot.
    pub(crate) fn open_checkpoint(&self, index: u8, bytes: &[u8; BLOCK_SIZE]) -> Result<OpenedSlot, OpenFault> {
        let (salt, rest) = bytes.split_first_chunk::<32>().ok_or(OpenFault::Auth)?;
        let (tag, sealed) = rest.split_first_chunk::<16>().ok_or(OpenFault::Auth)?;
        let mut payload = [0; CHECKPOINT_LEN];
        payload.copy_from_slice(sealed);
        let aead = self.checkpoint_key(index, salt);
        aead.open(&ZERO_NONCE, &associated(CLASS_CHECKPOINT, index), &mut payload, tag).map_err(|_| OpenFault::Auth)?;
        let checkpoint = Checkpoint::decode(&payload).map_err(OpenFault::Corrupt)?;
        if slot_of(checkpoint.generation) != index {
            return Err(OpenFault::Corrupt("a generation in the other's slot"));
        }
        Ok(OpenedSlot { checkpoint, salt: *salt, tag: *tag })
    }

    /// Seals a page of the epoch table.
    pub(crate) fn seal_epoch_page(&self, page: &EpochPage, rng: &dyn Rng) -> error::Result<SealedEpochPage> {
        let salt = random(rng)?;
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        let payload = page.encode();
        let aead = self.epoch_page_key(&salt);
        let tag = aead.seal(&ZERO_NONCE, &associated(CLASS_EPOCH_PAGE, 0), &payload, &mut bytes[32..]);
        bytes[..32].copy_from_slice(&salt);
        Ok(SealedEpochPage { bytes, tag })
    }

    /// Opens a page of the epoch table with the tag that the checkpoint holds.
    pub(crate) fn open_epoch_page(&self, bytes: &[u8; BLOCK_SIZE], tag: &Tag) -> Result<EpochPage, OpenFault> {
        let (salt, sealed) = bytes.split_first_chunk::<32>().ok_or(OpenFault::Auth)?;
        let mut payload = zeroize::Zeroizing::new([0; EPOCH_PAGE_PAYLOAD_LEN]);
        payload.copy_from_slice(sealed);
        let aead = self.epoch_page_key(salt);
        let opened = aead.open(&ZERO_NONCE, &associated(CLASS_EPOCH_PAGE, 0), payload.as_mut_slice(), tag);
        opened.map_err(|_| OpenFault::Auth)?;
        EpochPage::decode(payload.as_slice()).map_err(OpenFault::Corrupt)
    }

    /// The digest of the header's immutable part, with which every key derives.
    pub(crate) fn immutable_digest(&self) -> &[u8; 32] {
        &self.immutable_digest
    }

    /// A key of an epoch; `label` is one of the labels in section 9 of the format page. `immutable_digest` is that of the header
    /// under which the epoch was drawn.
    pub(crate) fn epoch_key(&self, secret: &SecretKey, label: &[u8], immutable_digest: &[u8; 32]) -> Box<dyn Aead> {
        self.suite.aead(&self.suite.derive(&[], secret, &[label, immutable_digest]))
    }

    /// Seals a packed image's root block under a key from this salt, which is never used for another payload.
    pub(crate) fn seal_packed_root(&self, root: &PackedRoot, salt: &[u8; 32]) -> Box<[u8; BLOCK_SIZE]> {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        let payload = root.encode();
        let associated = associated(CLASS_PACKED_ROOT, 0);
        let tag = self.packed_root_key(salt).seal(&ZERO_NONCE, &associated, &payload, &mut bytes[SLOT_PAYLOAD_AT..]);
        bytes[..32].copy_from_slice(salt);
        bytes[32..SLOT_PAYLOAD_AT].copy_from_slice(&tag);
        bytes
    }

    /// Opens a packed image's root block; returns its salt too.
    pub(crate) fn open_packed_root(&self, bytes: &[u8; BLOCK_SIZE]) -> Result<(PackedRoot, [u8; 32]), OpenFault> {
        let (salt, rest) = bytes.split_first_chunk::<32>().ok_or(OpenFault::Auth)?;
        let (tag, sealed) = rest.split_first_chunk::<16>().ok_or(OpenFault::Auth)?;
        let mut payload = sealed.to_vec();
        let opened = self.packed_root_key(salt).open(&ZERO_NONCE, &associated(CLASS_PACKED_ROOT, 0), &mut payload, tag);
        opened.map_err(|_| OpenFault::Auth)?;
        Ok((PackedRoot::decode(&payload).map_err(OpenFault::Corrupt)?, *salt))
    }

    /// What the data and node keys of a packed image derive from.
    pub(crate) fn packed_secret(&self, salt: &[u8; 32]) -> SecretKey {
        self.suite.derive(salt, &self.volume_key, &[b"sefs 1 packed content", &self.immutable_digest])
    }

    fn packed_root_key(&self, salt: &[u8; 32]) -> Box<dyn Aead> {
        let info: [&[u8]; 2] = [b"sefs 1 packed root", &self.immutable_digest];
        self.suite.aead(&self.suite.derive(salt, &self.volume_key, &info))
    }

    fn checkpoint_key(&self, index: u8, salt: &[u8; 32]) -> Box<dyn Aead> {
        let info: [&[u8]; 3] = [b"sefs 1 checkpoint", &[index], &self.immutable_digest];
        self.suite.aead(&self.suite.derive(salt, &self.volume_key, &info))
    }

    fn epoch_page_key(&self, salt: &[u8; 32]) -> Box<dyn Aead> {
        let info: [&[u8]; 2] = [b"sefs 1 epochs", &self.immutable_digest];
        self.suite.aead(&self.suite.derive(salt, &self.volume_key, &info))
    }
}

pub(crate) const CLASS_CHECKPOINT: u8 = 1;
pub(crate) const CLASS_NODE: u8 = 2;
pub(crate) const CLASS_DATA: u8 = 3;
pub(crate) const CLASS_ALLOC_PAGE: u8 = 5;
pub(crate) const CLASS_EPOCH_PAGE: u8 = 6;
/// A packed image's root block.
pub(crate) const CLASS_PACKED_ROOT: u8 = 7;

const ZERO_NONCE: Nonce = [0; 12];
const SLOT_PAYLOAD_AT: usize = 48;

/// The associated data of everything but log groups: class ‖ level or slot ‖ format version.
pub(crate) fn associated(class: u8, level: u8) -> [u8; 4] {
    let [low, high] = FORMAT_VERSION.to_le_bytes();
    [class, level, low, high]
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>(rng: &dyn Rng) -> error::Result<[u8; N]> {
    let mut bytes = [0; N];
    rng.fill(&mut bytes).map_err(|_| Error::Rng)?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
