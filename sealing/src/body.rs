//! A slot body: bytes and values.
//!
//! ```text
//! 0     2     4         8       12      16      20     32    64           96   112        144
//! │ version │ kind │ suite │ m KiB │ passes │ lanes │ rsvd │ salt │ commitment │ tag │ sealed key │
//!  └──────────────── associated data ─────────────────────────────────────────┘
//! ```
//! *Security*: everything here is the host's word until the tag verified. Decoding reads a fixed number of bytes and
//! allocates nothing; reserved bytes must be zero, so no byte of a body can change unnoticed.

use crate::argon2id::Argon2Cost;

/// The most bytes a slot body can have: what a volume header leaves for one.
pub const MAX_BODY_LEN: usize = 2044;

/// How a slot is opened. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotKind {
    /// A key file: 32 bytes.
    RawKey = 1,
    /// A passphrase, through Argon2id.
    Passphrase = 2,
    /// Code on a platform: the body is a sealed blob.
    Platform = 3,
    /// Recovery shares.
    Shares = 4,
}

impl SlotKind {
    /// The stored number.
    pub fn number(self) -> u16 {
        match self {
            SlotKind::RawKey => 1,
            SlotKind::Passphrase => 2,
            SlotKind::Platform => 3,
            SlotKind::Shares => 4,
        }
    }

    /// The kind of a stored number, if it is known here.
    pub fn from_number(number: u16) -> Option<SlotKind> {
        match number {
            1 => Some(SlotKind::RawKey),
            2 => Some(SlotKind::Passphrase),
            3 => Some(SlotKind::Platform),
            4 => Some(SlotKind::Shares),
            _ => None,
        }
    }
}

/// The part of a body that is not secret and is authenticated.
pub(crate) struct BodyHead {
    pub(crate) kind: SlotKind,
    /// For [`SlotKind::Passphrase`] only.
    pub(crate) cost: Option<Argon2Cost>,
    pub(crate) salt: [u8; 32],
    pub(crate) commitment: [u8; 32],
}

/// A decoded body. Nothing in it is authentic yet.
pub(crate) struct Body {
    pub(crate) head: BodyHead,
    pub(crate) tag: [u8; 16],
    pub(crate) sealed_key: [u8; 32],
}

impl BodyHead {
    /// The bytes as stored, which are also the associated data.
    pub(crate) fn encode(&self) -> [u8; HEAD_LEN] {
        let cost = self.cost.unwrap_or(NO_COST);
        let mut out = [0; HEAD_LEN];
        out[0..2].copy_from_slice(&VERSION.to_le_bytes());
        out[2..4].copy_from_slice(&self.kind.number().to_le_bytes());
        out[4..8].copy_from_slice(&SUITE.to_le_bytes());
        out[8..12].copy_from_slice(&cost.memory_kib.to_le_bytes());
        out[12..16].copy_from_slice(&cost.passes.to_le_bytes());
        out[16..20].copy_from_slice(&cost.lanes.to_le_bytes());
        out[32..64].copy_from_slice(&self.salt);
        out[64..96].copy_from_slice(&self.commitment);
        out
    }
}

impl Body {
    /// The bytes as stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BODY_LEN);
        out.extend_from_slice(&self.head.encode());
        out.extend_from_slice(&self.tag);
        out.extend_from_slice(&self.sealed_key);
        out
    }

    /// `None` for anything that [`Body::encode`] cannot have written.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Body> {
        let bytes: &[u8; BODY_LEN] = bytes.try_into().ok()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = SlotKind::from_number(u16_at(2))?;
        let cost = Argon2Cost { memory_kib: u32_at(8), passes: u32_at(12), lanes: u32_at(16) };
        let cost = match kind {
            SlotKind::RawKey | SlotKind::Shares if cost == NO_COST => None,
            SlotKind::RawKey | SlotKind::Shares => return None,
            SlotKind::Passphrase => Some(cost),
            SlotKind::Platform => return None,
        };
        if u16_at(0) != VERSION || u32_at(4) != SUITE || bytes[20..32] != [0; 12] {
            return None;
        }
        let head = BodyHead { kind, cost, salt: array(&bytes[32..64])?, commitment: array(&bytes[64..96])? };
        Some(Body { head, tag: array(&bytes[96..112])?, sealed_key: array(&bytes[112..144])? })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

const VERSION: u16 = 1;
/// HKDF-SHA256, AES-256-GCM and, for passphrases, Argon2id version 0x13.
const SUITE: u32 = 1;
pub(crate) const HEAD_LEN: usize = 96;
pub(crate) const BODY_LEN: usize = 144;
const NO_COST: Argon2Cost = Argon2Cost { memory_kib: 0, passes: 0, lanes: 0 };
