//! The header of a sealed blob: bytes and values.
//!
//! ```text
//! 0 magic │ 8 version, kind │ 12 assurance │ 16 payload length │ 24 policy, versions, masks │ 72 volume id │ 88 not after
//! 96 key id │ 128 identity digest │ 160 purpose │ 192 identity │ 384 commitment │ 416 tag │ 432 sealed payload
//! ```
//! *Security*: everything here is the host's word until the blob opened. Decoding reads a fixed number of bytes and
//! allocates nothing. A header has one encoding: reserved bytes are zero, fields that the policy leaves out are zero, the
//! identity digest is that of the identity, the length is exact.

use sha2::{Digest, Sha256};

use crate::blob::{BlobUse, MAX_PAYLOAD_LEN, SealError};
use crate::bytes::{Fields, array};
use crate::platform::{
    Assurance, Attributes, Identity, KeyPolicy, KeyRequest, Platform, PlatformKind, SEAL_KEY, masked, selected,
};
use crate::policy::SealPolicy;

/// Bytes before the sealed payload.
pub const HEADER_LEN: usize = 432;
/// Bytes before the commitment.
pub(crate) const AUTHENTIC_LEN: usize = 384;

/// What a blob is for: 1 to 32 bytes of text, without control characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Purpose([u8; 32]);

/// A decoded header. Nothing in it is authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobHeader {
    /// The platform that it was sealed on.
    pub kind: PlatformKind,
    /// What the platform's keys were worth then.
    pub assurance: Assurance,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// What the key depends on.
    pub policy: SealPolicy,
    /// The code's version that it was sealed at.
    pub isv_svn: u16,
    /// The configuration's version that it was sealed at.
    pub config_svn: u16,
    /// The processor's version that it was sealed at.
    pub cpu_svn: [u8; 16],
    /// What it is for.
    pub blob_use: BlobUse,
    /// Seconds since 1970 after which it should no longer open; 0 for no end.
    pub not_after: u64,
    /// Random bytes that make the key this blob's own.
    pub key_id: [u8; 32],
    /// Whom it was sealed to: what the policy and the masks select, the rest zero.
    pub identity: Identity,
    pub(crate) commitment: [u8; 32],
}

impl Purpose {
    /// A purpose; `None` if the text cannot be one.
    pub fn new(text: &str) -> Option<Purpose> {
        if text.is_empty() || text.len() > 32 || text.chars().any(char::is_control) {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Purpose(bytes))
    }

    /// The text.
    pub fn text(&self) -> &str {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(32);
        // It was made from text, and cut at the padding only.
        core::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }

    fn decode(bytes: [u8; 32]) -> Option<Purpose> {
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(32);
        let (text, padding) = bytes.split_at(len);
        let text = core::str::from_utf8(text).ok().filter(|_| padding.iter().all(|&byte| byte == 0))?;
        Purpose::new(text)
    }
}

impl core::fmt::Debug for Purpose {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self.text(), f)
    }
}

impl BlobHeader {
    pub(crate) fn new(
        platform: &dyn Platform,
        request: &KeyRequest,
        blob_use: &BlobUse,
        not_after: u64,
        payload_len: u32,
    ) -> BlobHeader {
        // What made the request has checked its policy.
        let policy = SealPolicy::with_masks(request.policy, request.attribute_mask, request.misc_mask)
            .expect("the policy of a request for sealing");
        BlobHeader {
            kind: platform.kind(),
            assurance: platform.assurance(),
            payload_len,
            policy,
            isv_svn: request.isv_svn,
            config_svn: request.config_svn,
            cpu_svn: request.cpu_svn,
            blob_use: *blob_use,
            not_after,
            key_id: request.key_id,
            identity: sealed_to(&policy, platform.identity()),
            commitment: [0; 32],
        }
    }

    /// The request that leads to the blob's key again.
    pub fn request(&self) -> KeyRequest {
        KeyRequest {
            key_name: SEAL_KEY,
            policy: self.policy.bits(),
            isv_svn: self.isv_svn,
            cpu_svn: self.cpu_svn,
            attribute_mask: self.policy.attribute_mask(),
            key_id: self.key_id,
            misc_mask: self.policy.misc_mask(),
            config_svn: self.config_svn,
        }
    }

    /// What of another identity this blob's key would depend on.
    pub(crate) fn sealed_to(&self, identity: &Identity) -> Identity {
        sealed_to(&self.policy, identity)
    }

    /// A digest of kind and identity: what an approval names as the predecessor.
    pub fn identity_digest(&self) -> [u8; 32] {
        let block = encode_identity(&self.identity);
        Sha256::new_with_prefix(IDENTITY_LABEL)
            .chain_update(self.kind.number().to_le_bytes())
            .chain_update(block)
            .finalize()
            .into()
    }

    /// The bytes as stored, but for the tag, which is zero.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &self.kind.number().to_le_bytes());
        put(12, &[self.assurance.number()]);
        put(16, &self.payload_len.to_le_bytes());
        put(24, &self.policy.bits().0.to_le_bytes());
        put(26, &self.isv_svn.to_le_bytes());
        put(28, &self.config_svn.to_le_bytes());
        put(32, &self.cpu_svn);
        put(48, &self.policy.attribute_mask().encode());
        put(64, &self.policy.misc_mask().to_le_bytes());
        put(72, &self.blob_use.volume_id);
        put(88, &self.not_after.to_le_bytes());
        put(96, &self.key_id);
        put(128, &self.identity_digest());
        put(160, &self.blob_use.purpose.0);
        put(IDENTITY_AT, &encode_identity(&self.identity));
        put(AUTHENTIC_LEN, &self.commitment);
        out
    }

    /// Reads the header of a whole blob.
    pub fn decode(blob: &[u8]) -> Result<BlobHeader, SealError> {
        let malformed = SealError::Malformed;
        let (head, payload) = blob.split_at_checked(HEADER_LEN).ok_or(malformed("the length"))?;
        let fields = Fields(head);
        if head[..8] != *MAGIC {
            return Err(malformed("the magic number"));
        }
        if fields.u16(8) != VERSION {
            return Err(malformed("the version"));
        }
        let kind = PlatformKind::from_number(fields.u16(10)).ok_or(malformed("the platform"))?;
        let assurance = Assurance::from_number(head[12]).ok_or(malformed("the assurance"))?;
        let payload_len = fields.u32(16);
        if payload.len() > MAX_PAYLOAD_LEN || usize::try_from(payload_len) != Ok(payload.len()) {
            return Err(malformed("the length"));
        }
        let reserved = [13..16, 20..24, 30..32, 68..72];
        if reserved.into_iter().any(|range| head[range].iter().any(|&byte| byte != 0)) {
            return Err(malformed("a reserved field"));
        }
        let mask = Attributes::decode(array(&head[48..64]));
        let policy = SealPolicy::with_masks(KeyPolicy(fields.u16(24)), mask, fields.u32(64))
            .map_err(|_| malformed("the policy"))?;
        let purpose = Purpose::decode(array(&head[160..192])).ok_or(malformed("the purpose"))?;
        let identity = decode_identity(&head[IDENTITY_AT..AUTHENTIC_LEN]).ok_or(malformed("a reserved field"))?;
        let header = BlobHeader {
            kind,
            assurance,
            payload_len,
            policy,
            isv_svn: fields.u16(26),
            config_svn: fields.u16(28),
            cpu_svn: array(&head[32..48]),
            blob_use: BlobUse { purpose, volume_id: array(&head[72..88]) },
            not_after: fields.u64(88),
            key_id: array(&head[96..128]),
            identity,
            commitment: array(&head[AUTHENTIC_LEN..AUTHENTIC_LEN + 32]),
        };
        let consistent = header.identity == sealed_to(&policy, &header.identity)
            && policy.check_identity(&header.identity).is_ok()
            && header.identity_digest() == array(&head[128..160]);
        if consistent { Ok(header) } else { Err(malformed("the identity")) }
    }
}

/// What of an identity a key under this policy depends on. Versions are kept beside it, so they are zero here.
fn sealed_to(policy: &SealPolicy, identity: &Identity) -> Identity {
    let mut sealed = selected(policy.bits(), identity);
    sealed.attributes = masked(&policy.attribute_mask(), &identity.attributes);
    sealed.misc_select &= policy.misc_mask();
    (sealed.isv_svn, sealed.config_svn) = (0, 0);
    sealed
}

fn encode_identity(identity: &Identity) -> [u8; IDENTITY_LEN] {
    let mut out = [0; IDENTITY_LEN];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &identity.attributes.encode());
    put(16, &identity.misc_select.to_le_bytes());
    put(20, &identity.isv_prod_id.to_le_bytes());
    put(24, &identity.mrenclave);
    put(56, &identity.mrsigner);
    put(88, &identity.config_id);
    put(152, &identity.isv_family_id);
    put(168, &identity.isv_ext_prod_id);
    out
}

fn decode_identity(bytes: &[u8]) -> Option<Identity> {
    let fields = Fields(bytes);
    if fields.u16(22) != 0 || fields.u64(184) != 0 {
        return None;
    }
    Some(Identity {
        attributes: Attributes::decode(array(&bytes[..16])),
        misc_select: fields.u32(16),
        isv_prod_id: fields.u16(20),
        mrenclave: array(&bytes[24..56]),
        mrsigner: array(&bytes[56..88]),
        config_id: array(&bytes[88..152]),
        isv_family_id: array(&bytes[152..168]),
        isv_ext_prod_id: array(&bytes[168..184]),
        isv_svn: 0,
        config_svn: 0,
    })
}

const MAGIC: &[u8; 8] = b"SEALblob";
const VERSION: u16 = 1;
const IDENTITY_AT: usize = 192;
const IDENTITY_LEN: usize = 192;
const IDENTITY_LABEL: &[u8] = b"sealing 1 identity";
