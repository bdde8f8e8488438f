//! Wrapping a volume key for one owner, and opening it again.
//!
//! *Security*: the slot key comes from the owner's secret and a fresh random salt, so it seals one message ever and its
//! nonce can be zero. GCM does not commit to its key: a ciphertext can be made that opens under two of them. So a second
//! output of the same derivation stands in the body and is compared, in constant time, before anything is decrypted.
//! Every failure looks the same to the caller, but for a cost that is over the limits.

use core::fmt;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, Tag};

use crate::argon2id::{self, Argon2Cost, Argon2Limits};
use crate::blob::SealError;
use crate::body::{Body, BodyHead, HEAD_LEN, SlotKind};
use crate::prk::{Committed, Prk, ZERO_NONCE};
use crate::rng::{Rng, RngFailed};
use crate::secret::{Key, Secret};
use crate::slot_platform::{PlatformOwner, open_platform_slot};
use crate::slot_shares;

/// What an owner opens a slot with.
#[non_exhaustive]
pub enum SlotSecret {
    /// The content of a key file.
    RawKey(Key),
    /// A passphrase.
    Passphrase(Secret),
    /// Code on a platform.
    Platform(PlatformOwner),
    /// What enough recovery shares gave. It opens slots; [`crate::wrap_shares`] makes them.
    Shares(Key),
}

/// Why a slot was not made or not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotError {
    /// The secret does not open this slot, or the slot is damaged: the two cannot be told apart.
    WrongKey,
    /// The slot's Argon2id cost is outside the limits; nothing was computed.
    OverLimit {
        /// What the slot asks for, in its own unauthenticated words.
        cost: Argon2Cost,
        /// The memory that was granted, in KiB.
        budget_kib: u64,
    },
    /// There was not enough memory for Argon2id.
    OutOfMemory,
    /// The random generator failed; nothing was sealed.
    Rng,
    /// The platform did not seal.
    Platform(SealError),
    /// A slot for recovery shares is made by dealing them.
    SharesAreDealt,
}

impl SlotSecret {
    /// The kind of slot that this opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            SlotSecret::RawKey(_) => SlotKind::RawKey,
            SlotSecret::Passphrase(_) => SlotKind::Passphrase,
            SlotSecret::Platform(_) => SlotKind::Platform,
            SlotSecret::Shares(_) => SlotKind::Shares,
        }
    }
}

/// Wraps `volume_key` for the owner of `secret`: the body of a slot. `cost` applies to passphrases only and must lie within
/// the widest limits.
pub fn wrap(
    secret: &SlotSecret,
    volume_key: &Key,
    volume_id: &[u8; 16],
    cost: &Argon2Cost,
    rng: &dyn Rng,
) -> Result<Vec<u8>, SlotError> {
    let cost = match secret {
        SlotSecret::RawKey(_) => None,
        SlotSecret::Passphrase(_) => Some(*cost),
        SlotSecret::Platform(owner) => return owner.wrap(volume_key, volume_id, None, rng),
        SlotSecret::Shares(_) => return Err(SlotError::SharesAreDealt),
    };
    let mut salt = [0; 32];
    rng.fill(&mut salt)?;
    let keys = SlotKeys::derive(secret, &salt, volume_id, cost, &Argon2Limits::default())?;
    let head = BodyHead { kind: secret.kind(), cost, salt, commitment: keys.commitment() };
    keys.seal(head, volume_key, volume_id)
}

/// Opens a slot body, which may be anything that a hostile host stored.
pub fn unwrap(secret: &SlotSecret, body: &[u8], volume_id: &[u8; 16], limits: &Argon2Limits) -> Result<Key, SlotError> {
    match secret {
        SlotSecret::Platform(owner) => {
            return open_platform_slot(owner, body, volume_id).map(|opened| opened.volume_key).map_err(looks_alike);
        }
        SlotSecret::Shares(secret) => return slot_shares::unwrap(secret, body, volume_id),
        SlotSecret::RawKey(_) | SlotSecret::Passphrase(_) => {}
    }
    let body = Body::decode(body).ok_or(SlotError::WrongKey)?;
    if body.head.kind != secret.kind() {
        return Err(SlotError::WrongKey);
    }
    let keys = SlotKeys::derive(secret, &body.head.salt, volume_id, body.head.cost, limits)?;
    let proof = keys.verify(&body.head.commitment)?;
    keys.open(&body, volume_id, proof)
}

/// Why a platform's slot does not open is told by [`crate::explain`] to whoever asks, not by the way it fails.
fn looks_alike(_: SealError) -> SlotError {
    SlotError::WrongKey
}

/// The extracted secret of one slot, from which its key and its commitment expand.
pub(crate) struct SlotKeys {
    prk: Prk,
    /// `kind ‖ volume id`, which separates slots of different kinds and volumes under one secret.
    context: [u8; 18],
}

impl SlotKeys {
    fn derive(
        secret: &SlotSecret,
        salt: &[u8; 32],
        volume_id: &[u8; 16],
        cost: Option<Argon2Cost>,
        limits: &Argon2Limits,
    ) -> Result<SlotKeys, SlotError> {
        let stretched;
        let input = match (secret, cost) {
            (SlotSecret::RawKey(key), None) => key,
            (SlotSecret::Passphrase(passphrase), Some(cost)) => {
                stretched = argon2id::derive(passphrase.expose(), salt, &cost, limits)?;
                &stretched
            }
            _ => return Err(SlotError::WrongKey),
        };
        Ok(SlotKeys::extract(input, salt, secret.kind(), volume_id))
    }

    pub(crate) fn extract(input: &Key, salt: &[u8; 32], kind: SlotKind, volume_id: &[u8; 16]) -> SlotKeys {
        let mut context = [0; 18];
        context[..2].copy_from_slice(&kind.number().to_le_bytes());
        context[2..].copy_from_slice(volume_id);
        SlotKeys { prk: Prk::extract(salt, input.expose()), context }
    }

    pub(crate) fn commitment(&self) -> [u8; 32] {
        self.prk.commitment(&[COMMITMENT_LABEL, &self.context])
    }

    pub(crate) fn verify(&self, commitment: &[u8; 32]) -> Result<Committed, SlotError> {
        self.prk.verify(&[COMMITMENT_LABEL, &self.context], commitment).ok_or(SlotError::WrongKey)
    }

    fn aead(&self) -> Aes256Gcm {
        self.prk.aead(&[KEY_LABEL, &self.context])
    }

    /// `bound` is authenticated beside the head.
    pub(crate) fn seal(&self, head: BodyHead, volume_key: &Key, bound: &[u8]) -> Result<Vec<u8>, SlotError> {
        // Encrypted in place: the copy of the volume key in this array is ciphertext once this succeeded.
        let mut sealed_key = *volume_key.expose();
        let tag = self
            .aead()
            .encrypt_inout_detached(
                &ZERO_NONCE,
                &associated_data(&head.encode(), bound),
                sealed_key.as_mut_slice().into(),
            )
            .map_err(|_| SlotError::WrongKey)?;
        Ok(Body { head, tag: tag.into(), sealed_key }.encode())
    }

    pub(crate) fn open(&self, body: &Body, bound: &[u8], _: Committed) -> Result<Key, SlotError> {
        let mut key = Key::from_bytes(&body.sealed_key);
        self.aead()
            .decrypt_inout_detached(
                &ZERO_NONCE,
                &associated_data(&body.head.encode(), bound),
                key.expose_mut().as_mut_slice().into(),
                &Tag::from(body.tag),
            )
            .map_err(|_| SlotError::WrongKey)?;
        Ok(key)
    }
}

fn associated_data(head: &[u8; HEAD_LEN], bound: &[u8]) -> Vec<u8> {
    [DATA_LABEL, head, bound].concat()
}

impl From<RngFailed> for SlotError {
    fn from(_: RngFailed) -> SlotError {
        SlotError::Rng
    }
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotError::WrongKey => f.write_str("the key does not open this slot"),
            SlotError::OverLimit { cost, budget_kib } => write!(
                f,
                "the slot asks for Argon2id with {} KiB, {} passes and {} lanes; allowed are 65536 to {budget_kib} KiB, \
                 16 passes and 8 lanes",
                cost.memory_kib, cost.passes, cost.lanes
            ),
            SlotError::OutOfMemory => f.write_str("not enough memory for Argon2id"),
            SlotError::Rng => f.write_str("the random generator failed"),
            SlotError::Platform(error) => error.fmt(f),
            SlotError::SharesAreDealt => f.write_str("a slot for recovery shares is made by dealing them"),
        }
    }
}

impl core::error::Error for SlotError {}

const KEY_LABEL: &[u8] = b"sealing 1 slot key";
const COMMITMENT_LABEL: &[u8] = b"sealing 1 slot commitment";
const DATA_LABEL: &[u8] = b"sealing 1 slot";

#[cfg(test)]
mod tests {
    use super::*;

    /// Sealed rightly, so that GCM and the associated data agree, but with another commitment.
    #[test]
    fn the_commitment_is_checked_on_its_own() {
        let (secret, volume_id) = (SlotSecret::RawKey(Key::from_bytes(&[7; 32])), [1; 16]);
        let volume_key = Key::from_bytes(&[9; 32]);
        let keys = SlotKeys::derive(&secret, &[2; 32], &volume_id, None, &Argon2Limits::default()).unwrap();
        let check = |commitment: [u8; 32], opens: bool| {
            let head = BodyHead { kind: SlotKind::RawKey, cost: None, salt: [2; 32], commitment };
            let body = keys.seal(head, &volume_key, &volume_id).unwrap();
            let opened = unwrap(&secret, &body, &volume_id, &Argon2Limits::default());
            assert_eq!(opened.map(|key| *key.expose()), if opens { Ok([9; 32]) } else { Err(SlotError::WrongKey) });
        };
        check(keys.commitment(), true);
        let mut other = keys.commitment();
        other[31] ^= 1;
        check(other, false);
    }
}
