//! Recovery shares: a slot's secret, split so that `threshold` of `count` people together can open it.
//!
//! Shamir's scheme over GF(2^8), byte by byte, with uniformly random coefficients: fewer shares than the threshold tell
//! nothing of the secret. Every share is committed to with SHA-256, and the dealer signs the list of commitments with
//! Ed25519, so a holder can check a share long before it is needed, and a wrong share is named instead of spoiling the rest.
//!
//! ```text
//! set:    0 set id │ 16 volume id │ 32 threshold │ 33 count │ 34 reserved 6 │ 40 dealer's key │ 72 commitments 32 × count
//! share:  0 magic │ 8 version u16 │ 10 index │ 11 reserved 5 │ 16 share 32 │ 48 signature 64 │ 112 set
//! ```
//! *Security*: field arithmetic uses neither tables nor branches that depend on secrets: an enclave's host watches its
//! memory accesses. What the shares give is checked against the slot's own commitment when the slot is opened.

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::bytes::{Fields, array};
use crate::gf256;
use crate::rng::{Rng, RngFailed};
use crate::secret::Key;

/// The most shares of a set.
pub const MAX_SHARES: u8 = 16;

/// What is known of all shares of a secret. All of it is public.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareSet {
    /// Random; tells sets apart.
    pub set_id: [u8; 16],
    /// The volume that the secret opens.
    pub volume_id: [u8; 16],
    /// Shares that are needed: 2 or more.
    pub threshold: u8,
    /// The key that signed.
    pub dealer: [u8; 32],
    /// One for each share: share number 1 has the first.
    pub commitments: Vec<[u8; 32]>,
}

/// One person's share. Only [`Share::decode`] and [`deal`] make one, so its signature and its commitment are right.
pub struct Share {
    index: u8,
    value: Key,
    signature: [u8; 64],
    set: ShareSet,
}

/// What is wrong with shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareError {
    /// The threshold is below 2, above the count, or there are more than [`MAX_SHARES`].
    Threshold,
    /// These are not the bytes of a share.
    Malformed,
    /// The dealer did not sign this.
    Signature,
    /// The share is not the one that the dealer committed to.
    Commitment,
    /// Shares of different sets.
    OtherSet,
    /// One share twice.
    Twice(u8),
    /// Too few shares.
    TooFew {
        /// Shares that are needed.
        needed: u8,
        /// Shares that are there.
        given: usize,
    },
    /// The random generator failed.
    Rng,
}

/// Splits a secret. The dealer's key signs the set; a fresh one does where nobody would know another.
pub fn deal(
    secret: &Key,
    volume_id: &[u8; 16],
    threshold: u8,
    count: u8,
    dealer: &SigningKey,
    rng: &dyn Rng,
) -> Result<Vec<Share>, ShareError> {
    if threshold < 2 || threshold > count || count > MAX_SHARES {
        return Err(ShareError::Threshold);
    }
    let mut set_id = [0; 16];
    rng.fill(&mut set_id)?;
    let mut coefficients = Vec::with_capacity(usize::from(threshold) - 1);
    for _ in 1..threshold {
        coefficients.push(Key::random(rng)?);
    }
    let values: Vec<Key> = (1..=count).map(|index| evaluate(secret, &coefficients, index)).collect();
    let mut set = ShareSet {
        set_id,
        volume_id: *volume_id,
        threshold,
        dealer: dealer.verifying_key().to_bytes(),
        commitments: Vec::new(),
    };
    set.commitments = (1..=count).zip(&values).map(|(index, value)| set.commit(index, value)).collect();
    let signature = dealer.sign(&set.signed_bytes()).to_bytes();
    let share = |(index, value)| Share { index, value, signature, set: set.clone() };
    Ok((1..=count).zip(values).map(share).collect())
}

/// The secret, from at least as many shares of one set as it needs.
pub fn recover(shares: &[Share]) -> Result<Key, ShareError> {
    let first = shares.first().ok_or(ShareError::TooFew { needed: 2, given: 0 })?;
    for (position, share) in shares.iter().enumerate() {
        if share.set != first.set {
            return Err(ShareError::OtherSet);
        }
        if shares[..position].iter().any(|other| other.index == share.index) {
            return Err(ShareError::Twice(share.index));
        }
    }
    if shares.len() < usize::from(first.set.threshold) {
        return Err(ShareError::TooFew { needed: first.set.threshold, given: shares.len() });
    }
    let mut secret = Key::zeroed();
    for share in shares {
        let weight = shares.iter().filter(|other| other.index != share.index).fold(1, |weight, other| {
            gf256::mul(weight, gf256::mul(other.index, gf256::inverse(other.index ^ share.index)))
        });
        for (out, byte) in secret.expose_mut().iter_mut().zip(share.value.expose()) {
            *out ^= gf256::mul(weight, *byte);
        }
    }
    Ok(secret)
}

fn evaluate(secret: &Key, coefficients: &[Key], index: u8) -> Key {
    let mut value = Key::zeroed();
    for coefficient in coefficients.iter().rev().chain([secret]) {
        for (out, byte) in value.expose_mut().iter_mut().zip(coefficient.expose()) {
            *out = gf256::mul(*out, index) ^ byte;
        }
    }
    value
}

impl Share {
    /// Its number, from 1.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The set that it belongs to.
    pub fn set(&self) -> &ShareSet {
        &self.set
    }

    /// The bytes to keep. They are secret.
    pub fn encode(&self) -> zeroize::Zeroizing<Vec<u8>> {
        let set = self.set.encode();
        let mut out = zeroize::Zeroizing::new(Vec::with_capacity(SHARE_HEAD_LEN + set.len()));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.index, 0, 0, 0, 0, 0]);
        out.extend_from_slice(self.value.expose());
        out.extend_from_slice(&self.signature);
        out.extend_from_slice(&set);
        out
    }

    /// Reads a share and checks it: the dealer's signature, and the commitment to this share.
    pub fn decode(bytes: &[u8]) -> Result<Share, ShareError> {
        let (head, set) = bytes.split_at_checked(SHARE_HEAD_LEN).ok_or(ShareError::Malformed)?;
        if head[..8] != *MAGIC || Fields(head).u16(8) != VERSION || head[11..16] != [0; 5] {
            return Err(ShareError::Malformed);
        }
        let set = ShareSet::decode(set).ok_or(ShareError::Malformed)?;
        let index = head[10];
        let signature: [u8; 64] = array(&head[48..112]);
        let dealer = VerifyingKey::from_bytes(&set.dealer).map_err(|_| ShareError::Signature)?;
        let signed = dealer.verify_strict(&set.signed_bytes(), &Signature::from_bytes(&signature));
        signed.map_err(|_| ShareError::Signature)?;
        let value = Key::from_bytes(&array(&head[16..48]));
        let commitment = index.checked_sub(1).and_then(|at| set.commitments.get(usize::from(at)));
        // Commitments are public, so the comparison tells nobody anything.
        if commitment != Some(&set.commit(index, &value)) {
            return Err(ShareError::Commitment);
        }
        Ok(Share { index, value, signature, set })
    }
}

impl ShareSet {
    /// Shares that there are.
    pub fn count(&self) -> u8 {
        // A set has at most 16.
        u8::try_from(self.commitments.len()).unwrap_or(u8::MAX)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SET_HEAD_LEN + self.commitments.len() * 32);
        out.extend_from_slice(&self.set_id);
        out.extend_from_slice(&self.volume_id);
        out.extend_from_slice(&[self.threshold, self.count(), 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.dealer);
        self.commitments.iter().for_each(|commitment| out.extend_from_slice(commitment));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<ShareSet> {
        let (head, commitments) = bytes.split_at_checked(SET_HEAD_LEN)?;
        let (threshold, count) = (head[32], head[33]);
        let sound = threshold >= 2 && threshold <= count && count <= MAX_SHARES && head[34..40] == [0; 6];
        if !sound || commitments.len() != usize::from(count) * 32 {
            return None;
        }
        Some(ShareSet {
            set_id: array(&head[..16]),
            volume_id: array(&head[16..32]),
            threshold,
            dealer: array(&head[40..72]),
            commitments: commitments.chunks_exact(32).map(array).collect(),
        })
    }

    /// A share has 256 bits that nobody can guess, so its digest hides it.
    fn commit(&self, index: u8, value: &Key) -> [u8; 32] {
        Sha256::new_with_prefix(COMMITMENT_LABEL)
            .chain_update(self.set_id)
            .chain_update(self.volume_id)
            .chain_update([self.threshold, index])
            .chain_update(value.expose())
            .finalize()
            .into()
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [SET_LABEL, &self.encode()[..]].concat()
    }
}

impl From<RngFailed> for ShareError {
    fn from(_: RngFailed) -> ShareError {
        ShareError::Rng
    }
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::Threshold => write!(f, "needed are 2 or more of at most {MAX_SHARES} shares"),
            ShareError::Malformed => f.write_str("it is no recovery share"),
            ShareError::Signature => f.write_str("the share's set does not bear its dealer's signature"),
            ShareError::Commitment => f.write_str("the share is not the one that was dealt"),
            ShareError::OtherSet => f.write_str("the shares are of different sets"),
            ShareError::Twice(index) => write!(f, "share {index} is given twice"),
            ShareError::TooFew { needed, given } => write!(f, "{needed} shares are needed, {given} given"),
            ShareError::Rng => f.write_str("the random generator failed"),
        }
    }
}

impl core::error::Error for ShareError {}

const MAGIC: &[u8; 8] = b"SEALshr\0";
const VERSION: u16 = 1;
const SHARE_HEAD_LEN: usize = 112;
const SET_HEAD_LEN: usize = 72;
const COMMITMENT_LABEL: &[u8] = b"sealing 1 share";
const SET_LABEL: &[u8] = b"sealing 1 share set";
