//! Slots for recovery shares: a body as for a key file, whose secret was split, followed by the share set.
//!
//! ```text
//! 0 body as of kind 1, with kind 4 │ 144 share set
//! ```
//! *Security*: the set is associated data, so threshold and commitments are as authentic as the key. Before the slot opened
//! they are the host's word; a share brings its own signed copy, and the two are compared.

use ed25519_dalek::SigningKey;

use crate::body::{BODY_LEN, Body, BodyHead, SlotKind};
use crate::rng::Rng;
use crate::secret::Key;
use crate::shares::{self, Share, ShareError, ShareSet};
use crate::slot::{SlotError, SlotKeys};

/// Deals shares of a fresh secret and wraps the volume key under it: the shares, and the body of a slot.
pub fn wrap_shares(
    volume_key: &Key,
    volume_id: &[u8; 16],
    threshold: u8,
    count: u8,
    dealer: &SigningKey,
    rng: &dyn Rng,
) -> Result<(Vec<Share>, Vec<u8>), ShareError> {
    let secret = Key::random(rng)?;
    let shares = shares::deal(&secret, volume_id, threshold, count, dealer, rng)?;
    let set = shares.first().map(|share| share.set().encode()).ok_or(ShareError::Threshold)?;
    let mut salt = [0; 32];
    rng.fill(&mut salt)?;
    let keys = SlotKeys::extract(&secret, &salt, SlotKind::Shares, volume_id);
    let head = BodyHead { kind: SlotKind::Shares, cost: None, salt, commitment: keys.commitment() };
    let mut body = keys.seal(head, volume_key, &bound(volume_id, &set)).map_err(|_| ShareError::Malformed)?;
    body.extend_from_slice(&set);
    Ok((shares, body))
}

/// The share set of a slot, in the slot's own unauthenticated words.
pub fn set_of_slot(body: &[u8]) -> Option<ShareSet> {
    let (_, set) = body.split_at_checked(BODY_LEN)?;
    ShareSet::decode(set)
}

pub(crate) fn unwrap(secret: &Key, body: &[u8], volume_id: &[u8; 16]) -> Result<Key, SlotError> {
    let (body, set) = body.split_at_checked(BODY_LEN).ok_or(SlotError::WrongKey)?;
    let body = Body::decode(body).filter(|body| body.head.kind == SlotKind::Shares).ok_or(SlotError::WrongKey)?;
    let keys = SlotKeys::extract(secret, &body.head.salt, SlotKind::Shares, volume_id);
    let proof = keys.verify(&body.head.commitment)?;
    keys.open(&body, &bound(volume_id, set), proof)
}

fn bound(volume_id: &[u8; 16], set: &[u8]) -> Vec<u8> {
    [volume_id, set].concat()
}
