//! The volume header: 65,536 bytes in plain under one authentication code.
//!
//! The byte table stands in section 2 of the format page.
//!
//! *Security*: a decoded [`Header`] is the host's word, good for finding the key slots and nothing else. Only
//! [`Header::verify`] and [`Header::verify_pinned`] mint a [`VerifiedHeader`], which everything that opens or seals demands. The commitment is
//! compared before the authentication code, so that a wrong key and a changed header are told apart.
//!
//! A public image's header has neither; a root digest covers it.
//!
//! *Invariants* of a decoded header: the ring lies inside group 0 between block 64 and the replica; the last group has
//! room for its homes and the replica; every size is bounded, so that arithmetic on addresses cannot overflow.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::FORMAT_VERSION;
use super::codec::{Decoded, Reader, Writer, count_u16};
use super::proof::{Digest, ProofKind};
use crate::error::{Error, Incompatible, Malformed, Result, Tampered};
use crate::suite::{SecretKey, Suite};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, CHUNK_BLOCKS, GROUP_BLOCKS};

/// How a header begins.
pub const HEADER_MAGIC: &[u8; 8] = b"SEFSvol\0";
/// Bytes of a header.
pub const HEADER_LEN: usize = 65_536;
/// Blocks of a header.
pub const HEADER_BLOCKS: u64 = 16;
/// Key slots.
pub const MAX_KEY_SLOTS: usize = 16;
/// Bytes of the longest body of a key slot.
pub const MAX_SLOT_BODY: usize = 2044;
/// Bytes of the longest label.
pub const MAX_LABEL_LEN: usize = 64;
/// Blocks of the smallest volume: 4 MiB.
pub const MIN_TOTAL_BLOCKS: u64 = 1024;
/// Blocks of the largest volume: 2 PiB, what four levels of summaries cover.
pub const MAX_TOTAL_BLOCKS: u64 = 1 << 39;
/// The blocks of the two checkpoint slots.
pub const CHECKPOINT_SLOTS: [BlockAddr; 2] = [BlockAddr(16), BlockAddr(17)];
/// Where the log ring starts.
pub const RING_START: BlockAddr = BlockAddr(64);
/// The suite of volumes.
pub const SUITE_AES_256_GCM: u16 = 1;
/// Where a packed image's root block stands.
pub const PACKED_ROOT_ADDR: BlockAddr = BlockAddr(16);
/// The first block of a packed image's data.
pub const PACKED_DATA_ADDR: BlockAddr = BlockAddr(17);

const NAME_HASH_SHA256: u16 = 1;
/// Incompatible features that this version knows.
const KNOWN_INCOMPATIBLE: u64 = FEATURE_LAYERED | FEATURE_ROTATED;
/// Incompatible feature 0: the volume lies over images, which its system tree names.
pub const FEATURE_LAYERED: u64 = 1;
/// Incompatible feature 1: the volume key was changed; checkpoints may hold a rotation record.
pub const FEATURE_ROTATED: u64 = 2;
/// Read-only-compatible features that this version knows: none.
const KNOWN_READ_ONLY_COMPATIBLE: u64 = 0;
const ROOT_DIGEST_DOMAIN: &[u8] = b"sefs 1 root digest";
const IMMUTABLE_LEN: usize = 256;
const COMMITMENT_AT: usize = 80;
const VOLUME_ID_AT: usize = 24;
const TOTAL_BLOCKS_AT: usize = 280;
const MAC_AT: usize = HEADER_LEN - 32;
const BLOCKS_PER_CHUNK: u32 = 64;
const BLOCKS_PER_GROUP: u32 = 32_768;
const LABEL_AT: usize = 296;
const SLOTS_AT: usize = 8192;
const SLOT_LEN: usize = 2048;
const RESERVED_AFTER_SLOTS_AT: usize = SLOTS_AT + MAX_KEY_SLOTS * SLOT_LEN;
const _: () = assert!(CHUNK_BLOCKS == 64 && GROUP_BLOCKS == 32_768, "the header states both");
/// The last group holds at least its homes, the replica and as much again.
const MIN_GROUP_BLOCKS: u64 = 64;

/// What an image is. Its suite follows from that: the header states both, and no other pair is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ImageType {
    /// A volume; suite 1, `aes-256-gcm`.
    #[default]
    Volume,
    /// A packed read-only image that a key opens; suite 2, `aes-256-gcm + sha-256`.
    Packed,
    /// A packed read-only image in plain, which a root digest admits; suite 3, `sha-256`.
    Public,
}

impl ImageType {
    /// The stored numbers of type and suite.
    pub const fn numbers(self) -> (u16, u16) {
        match self {
            ImageType::Volume => (1, SUITE_AES_256_GCM),
            ImageType::Packed => (2, 2),
            ImageType::Public => (3, 3),
        }
    }

    /// The suite's name.
    pub const fn suite_name(self) -> &'static str {
        match self {
            ImageType::Volume => "aes-256-gcm",
            ImageType::Packed => "aes-256-gcm + sha-256",
            ImageType::Public => "sha-256",
        }
    }

    /// Whether it is packed: read-only, with a root digest.
    pub const fn is_packed(self) -> bool {
        !matches!(self, ImageType::Volume)
    }

    /// What references hold.
    pub const fn proofs(self) -> ProofKind {
        match self {
            ImageType::Volume => ProofKind::Tag,
            ImageType::Packed | ImageType::Public => ProofKind::Digest,
        }
    }
}

/// What the header says. Version, name hash, chunk and group size have one value in this version. A packed image has no
/// ring: its place, size and what may be unmerged are 0; its generation is 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the image is.
    pub image: ImageType,
    /// Features that a reader must know; see [`Header::decode`].
    pub incompatible: u64,
    /// The volume's UUID.
    pub volume_id: [u8; 16],
    /// Bytes of a tree node: 16,384, 32,768 or 65,536.
    pub node_size_bytes: u32,
    /// The first block of the log ring; 64 or more.
    pub ring_start: BlockAddr,
    /// Blocks of the log ring: 64 to 16,384, all in group 0.
    pub ring_blocks: u64,
    /// What any writer may leave in log and overlay: 64 KiB to 1 GiB.
    pub max_unmerged_bytes: u64,
    /// From 1, one higher with each change.
    pub generation: u64,
    /// Features without which a volume can only be read.
    pub read_only_compatible: u64,
    /// Features that a reader and a writer may ignore.
    pub compatible: u64,
    /// Blocks of the volume; see [`usable_blocks`]. A packed image has exactly so many.
    pub total_blocks: u64,
    /// From 1, one higher with each volume key; 0 in a public image, which has none.
    pub key_generation: u32,
    /// At most 64 bytes, without NUL.
    pub label: String,
    /// The wrapped volume keys, at most 16.
    pub slots: Vec<KeySlot>,
}

/// A wrapped volume key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySlot {
    /// What wraps it: 1 raw key file, 2 passphrase, 3 platform, 4 recovery shares. Never 0; others are kept as they are.
    pub kind: u16,
    /// At most [`MAX_SLOT_BODY`] bytes, opaque here.
    pub body: Vec<u8>,
}

/// Proof that a header was authenticated, and its digests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifiedHeader {
    digest: [u8; 32],
    immutable_digest: [u8; 32],
}

impl VerifiedHeader {
    /// SHA-256 of the whole header: what checkpoints accept.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// SHA-256 of the immutable part: what every key is derived with.
    pub fn immutable_digest(&self) -> &[u8; 32] {
        &self.immutable_digest
    }
}

/// How many of a backend's blocks a volume can use; `None` if there are too few or too many. A last group that is too
/// short for its homes and the replica is left out.
pub fn usable_blocks(blocks: u64) -> Option<u64> {
    let tail = blocks % GROUP_BLOCKS;
    let usable = if tail < MIN_GROUP_BLOCKS { blocks - tail } else { blocks };
    (MIN_TOTAL_BLOCKS..=MAX_TOTAL_BLOCKS).contains(&usable).then_some(usable)
}

/// How many blocks the log ring of a new volume has.
pub fn ring_blocks_for(total_blocks: u64) -> u64 {
    const SMALL_VOLUME_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE_U64;
    if total_blocks < SMALL_VOLUME_BLOCKS {
        (total_blocks / 16).clamp(64, 256)
    } else {
        (total_blocks / 64).clamp(256, 16_384)
    }
}

/// The commitment to a volume key that the immutable part holds.
fn key_commitment(suite: &dyn Suite, volume_id: &[u8], volume_key: &SecretKey) -> [u8; 32] {
    *suite.derive(volume_id, volume_key, &[b"sefs 1 key commitment"]).expose()
}

fn header_key(suite: &dyn Suite, volume_key: &SecretKey, immutable_digest: &[u8; 32]) -> SecretKey {
    suite.derive(&[], volume_key, &[b"sefs 1 header", immutable_digest])
}

impl Header {
    /// The stored form, authenticated with keys from the volume key. Panics if a field exceeds its documented range.
    pub fn seal(&self, suite: &dyn Suite, volume_key: &SecretKey) -> (Box<[u8]>, VerifiedHeader) {
        let mut out = self.write_fields(&key_commitment(suite, &self.volume_id, volume_key));
        let immutable_digest = suite.sha256(&[&out[..IMMUTABLE_LEN]]);
        let mac = suite.mac(&header_key(suite, volume_key, &immutable_digest), &out[..MAC_AT]);
        out[MAC_AT..].copy_from_slice(&mac);
        let digest = suite.sha256(&[&out]);
        assert!(self.image != ImageType::Public, "a public image has no authentication code");
        check_readable(&out);
        (out.into_boxed_slice(), VerifiedHeader { digest, immutable_digest })
    }

    /// The stored form of a public image's header: without commitment and authentication code, for a code under a key that
    /// everybody knows is none. Panics if a field exceeds its documented range.
    pub fn encode_public(&self) -> Box<[u8]> {
        assert!(self.image == ImageType::Public, "all others are authenticated");
        let out = self.write_fields(&[0; 32]);
        check_readable(&out);
        out.into_boxed_slice()
    }

    /// The value of a stored header, checked in form only: the authentication code is not.
    ///
    /// Errors: `Malformed` and `Incompatible`.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        if !bytes.starts_with(HEADER_MAGIC) {
            return Err(Malformed::NotSefs.into());
        }
        if bytes.len() != HEADER_LEN {
            let actual_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return Err(Malformed::Truncated { expected_bytes: HEADER_BLOCKS * BLOCK_SIZE_U64, actual_bytes }.into());
        }
        let image = read_version(bytes)?;
        let header = Header::read_fields(bytes, image).map_err(Malformed::HeaderField)?;
        header.check_ranges().map_err(Malformed::HeaderField)?;
        Ok(header)
    }

    /// Decodes a header and authenticates it with keys from the volume key.
    ///
    /// Errors: as [`Header::decode`]; `WrongKey` if the header commits to another key; `Tampered` if it commits to this
    /// key and does not authenticate.
    pub fn verify(bytes: &[u8], suite: &dyn Suite, volume_key: &SecretKey) -> Result<(Header, VerifiedHeader)> {
        let header = Header::decode(bytes)?;
        if header.image == ImageType::Public {
            return Err(Incompatible::NoKeyAdmits.into());
        }
        let commitment = key_commitment(suite, &header.volume_id, volume_key);
        if bytes[COMMITMENT_AT..COMMITMENT_AT + 32] != commitment {
            return Err(Error::WrongKey);
        }
        let immutable_digest = suite.sha256(&[&bytes[..IMMUTABLE_LEN]]);
        let (covered, mac) = bytes.split_last_chunk::<32>().ok_or(Tampered::Header)?;
        let key = header_key(suite, volume_key, &immutable_digest);
        suite.verify_mac(&key, covered, mac).map_err(|_| Tampered::Header)?;
        Ok((header, VerifiedHeader { digest: suite.sha256(&[bytes]), immutable_digest }))
    }

    /// The digest that pins a packed image: of its header and of its root block, as they are stored. Whoever has only these
    /// bytes from the host knows nothing yet.
    pub fn root_digest(suite: &dyn Suite, header: &[u8], root_block: &[u8; BLOCK_SIZE]) -> Digest {
        suite.sha256(&[ROOT_DIGEST_DOMAIN, header, root_block])
    }

    /// Decodes a public image's header, which this root digest admits.
    ///
    /// Errors: as [`Header::decode`]; `Incompatible` if it is another image, or none that a root digest admits.
    pub fn verify_pinned(
        header: &[u8],
        root_block: &[u8; BLOCK_SIZE],
        root_digest: &Digest,
        suite: &dyn Suite,
    ) -> Result<(Header, VerifiedHeader)> {
        if Header::root_digest(suite, header, root_block) != *root_digest {
            return Err(Incompatible::RootDigest.into());
        }
        let decoded = Header::decode(header)?;
        if decoded.image != ImageType::Public {
            return Err(Incompatible::KeyNeeded.into());
        }
        let immutable_digest = suite.sha256(&[&header[..IMMUTABLE_LEN]]);
        Ok((decoded, VerifiedHeader { digest: suite.sha256(&[header]), immutable_digest }))
    }

    /// The size in blocks that a header's bytes state, whatever else they hold: a hint where the replica stands.
    pub fn stored_total_blocks(bytes: &[u8]) -> Option<u64> {
        bytes.get(TOTAL_BLOCKS_AT..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Whether the first block of a header states that it is a packed image's, whatever else the header holds.
    pub fn states_packed(first_block: &[u8]) -> bool {
        first_block.starts_with(HEADER_MAGIC) && read_version(first_block).is_ok_and(|image| image.is_packed())
    }

    /// Features that this release does not know, and without which the volume can only be read; 0 if there are none.
    pub fn unknown_read_only_features(&self) -> u64 {
        self.read_only_compatible & !KNOWN_READ_ONLY_COMPATIBLE
    }

    /// All bytes up to the authentication code, which is zero.
    fn write_fields(&self, commitment: &[u8; 32]) -> Vec<u8> {
        let mut out = Writer::with_capacity(HEADER_LEN);
        let (image_type, suite) = self.image.numbers();
        out.bytes(HEADER_MAGIC).u16(FORMAT_VERSION).u16(image_type).zeros(4).u64(self.incompatible);
        out.bytes(&self.volume_id).u16(suite).u16(NAME_HASH_SHA256).u32(self.node_size_bytes);
        out.u32(BLOCKS_PER_CHUNK).u32(BLOCKS_PER_GROUP).u64(self.ring_start.0).u64(self.ring_blocks);
        out.u64(self.max_unmerged_bytes).bytes(commitment).pad_to(IMMUTABLE_LEN);
        out.u64(self.generation).u64(self.read_only_compatible).u64(self.compatible).u64(self.total_blocks);
        out.u32(self.key_generation).zeros(4);
        out.bytes(self.label.as_bytes()).pad_to(LABEL_AT + MAX_LABEL_LEN).pad_to(SLOTS_AT);
        for (slot, end) in self.slots.iter().zip((SLOTS_AT..RESERVED_AFTER_SLOTS_AT).step_by(SLOT_LEN)) {
            out.u16(slot.kind).u16(count_u16(slot.body.len())).bytes(&slot.body).pad_to(end + SLOT_LEN);
        }
        out.pad_to(HEADER_LEN);
        out.finish()
    }

    /// Reads what follows the version. `bytes` is as long as a header.
    fn read_fields(bytes: &[u8], image: ImageType) -> Decoded<Header> {
        let mut fixed = Reader::new(&bytes[VOLUME_ID_AT..SLOTS_AT]);
        let incompatible = Reader::new(&bytes[16..VOLUME_ID_AT]).u64()?;
        let volume_id = fixed.array()?;
        let _suite = fixed.u16()?;
        demand(fixed.u16()? == NAME_HASH_SHA256, "name hash")?;
        let node_size_bytes = fixed.u32()?;
        demand(fixed.u32()? == BLOCKS_PER_CHUNK, "blocks per chunk")?;
        demand(fixed.u32()? == BLOCKS_PER_GROUP, "blocks per group")?;
        let (ring_start, ring_blocks) = (BlockAddr(fixed.u64()?), fixed.u64()?);
        let max_unmerged_bytes = fixed.u64()?;
        let commitment = fixed.bytes(32)?;
        reserved(&mut fixed, IMMUTABLE_LEN - COMMITMENT_AT - 32)?;
        let (generation, read_only_compatible) = (fixed.u64()?, fixed.u64()?);
        let (compatible, total_blocks) = (fixed.u64()?, fixed.u64()?);
        let key_generation = fixed.u32()?;
        reserved(&mut fixed, 4)?;
        let label = read_label(fixed.bytes(MAX_LABEL_LEN)?)?;
        let rest = fixed.remaining();
        reserved(&mut fixed, rest)?;
        let slots = read_slots(&bytes[SLOTS_AT..RESERVED_AFTER_SLOTS_AT])?;
        reserved(&mut Reader::new(&bytes[RESERVED_AFTER_SLOTS_AT..]), MAC_AT - RESERVED_AFTER_SLOTS_AT)?;
        if image == ImageType::Public {
            let code = &bytes[MAC_AT..];
            demand(commitment.iter().chain(code).all(|&byte| byte == 0), "a public image's key fields")?;
        }
        #[rustfmt::skip]
        let header = Header {
            image, incompatible, volume_id, node_size_bytes, ring_start, ring_blocks, max_unmerged_bytes, generation,
            read_only_compatible, compatible, total_blocks, key_generation, label, slots,
        };
        Ok(header)
    }

    fn check_ranges(&self) -> Decoded<()> {
        demand(matches!(self.node_size_bytes, 16_384 | 32_768 | 65_536), "node size")?;
        if self.image.is_packed() {
            return self.check_packed();
        }
        demand(self.generation > 0, "header generation")?;
        demand(self.key_generation > 0, "volume key generation")?;
        demand((1 << 16..=1 << 30).contains(&self.max_unmerged_bytes), "max_unmerged_bytes")?;
        demand(usable_blocks(self.total_blocks) == Some(self.total_blocks), "total_blocks")?;
        demand((64..=16_384).contains(&self.ring_blocks), "ring_blocks")?;
        let ring_limit = (self.total_blocks - HEADER_BLOCKS).min(GROUP_BLOCKS);
        let ring_end = self.ring_start.0.checked_add(self.ring_blocks);
        demand(self.ring_start >= RING_START && ring_end.is_some_and(|end| end <= ring_limit), "ring_start")
    }

    /// What a packed image does not have is zero, so that each image has one header.
    fn check_packed(&self) -> Decoded<()> {
        let (key_generation, may_have_slots) = match self.image {
            ImageType::Public => (0, false),
            ImageType::Packed | ImageType::Volume => (1, true),
        };
        demand(self.generation == 1, "header generation")?;
        demand(self.key_generation == key_generation, "volume key generation")?;
        demand(may_have_slots || self.slots.is_empty(), "a public image's key slots")?;
        demand((self.ring_start.0, self.ring_blocks) == (0, 0), "ring of a packed image")?;
        demand(self.max_unmerged_bytes == 0, "max_unmerged_bytes")?;
        let flags = self.incompatible | self.read_only_compatible | self.compatible;
        demand(flags == 0, "feature flags of a packed image")?;
        demand((PACKED_DATA_ADDR.0..=MAX_TOTAL_BLOCKS).contains(&self.total_blocks), "total_blocks")
    }
}

/// What is encoded can be read back.
fn check_readable(bytes: &[u8]) {
    if let Err(error) = Header::decode(bytes) {
        panic!("a header that could not be read back: {error}");
    }
}

/// Checks what decides how everything else is to be read. `bytes` start with the magic number.
fn read_version(bytes: &[u8]) -> Result<ImageType> {
    let mut reader = Reader::new(bytes);
    let mut read = || -> Decoded<_> {
        reader.bytes(HEADER_MAGIC.len())?;
        let (version, image_type, zeros, incompatible) = (reader.u16()?, reader.u16()?, reader.zeros(4), reader.u64()?);
        reader.bytes(16)?;
        Ok((version, image_type, zeros, incompatible, reader.u16()?))
    };
    let (version, image_type, zeros, incompatible, suite) = read().map_err(Malformed::HeaderField)?;
    if version != FORMAT_VERSION {
        return Err(Incompatible::FormatVersion(version).into());
    }
    let known = [ImageType::Volume, ImageType::Packed, ImageType::Public];
    let image = known.into_iter().find(|known| known.numbers().0 == image_type);
    let image = image.ok_or(Incompatible::ImageType(image_type))?;
    if incompatible & !KNOWN_INCOMPATIBLE != 0 {
        return Err(Incompatible::Features(incompatible & !KNOWN_INCOMPATIBLE).into());
    }
    if suite != image.numbers().1 {
        return Err(Incompatible::Suite(suite).into());
    }
    zeros.map_err(|_| Malformed::HeaderField(RESERVED))?;
    Ok(image)
}

fn read_label(bytes: &[u8]) -> Decoded<String> {
    let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (label, padding) = bytes.split_at(len);
    demand(padding.iter().all(|&byte| byte == 0), "label")?;
    core::str::from_utf8(label).map(String::from).map_err(|_| "label")
}

/// Slots are filled from the first; all after an empty one are empty.
fn read_slots(table: &[u8]) -> Decoded<Vec<KeySlot>> {
    let mut slots = Vec::new();
    let mut table = Reader::new(table);
    while table.remaining() > 0 {
        let mut slot = Reader::new(table.bytes(SLOT_LEN)?);
        let (kind, len) = (slot.u16()?, usize::from(slot.u16()?));
        demand(len <= MAX_SLOT_BODY, "key slot length")?;
        let body = slot.bytes(len)?.to_vec();
        slot.zeros(MAX_SLOT_BODY - len).map_err(|_| "key slot padding")?;
        if kind == 0 {
            demand(len == 0, "empty key slot")?;
            let rest = table.remaining();
            table.zeros(rest).map_err(|_| "key slot after an empty one")?;
        } else {
            slots.push(KeySlot { kind, body });
        }
    }
    Ok(slots)
}

const RESERVED: &str = "a reserved field";

fn reserved(reader: &mut Reader<'_>, len: usize) -> Decoded<()> {
    reader.zeros(len).map_err(|_| RESERVED)
}

fn demand(holds: bool, field: &'static str) -> Decoded<()> {
    if holds { Ok(()) } else { Err(field) }
}

#[cfg(test)]
pub(super) mod tests;
