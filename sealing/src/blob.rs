//! Sealed blobs: data under a key of the platform, with all that is needed to ask for that key again.
//!
//! `docs/sealing-format.md` has the byte table. The header is plain, and the host's word until the blob opened.
//!
//! *Security*: the whole header is associated data, and its digest is part of the derivation of key and commitment, so no
//! field of it can change unnoticed. GCM does not commit to its key: the commitment is compared, in constant time, before
//! anything is decrypted. The key depends on a fresh random key id and seals one message, so the nonce is zero. Data is
//! sealed at the current security versions; the recorded ones serve for opening.

use core::fmt;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, Tag};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::blob_header::{AUTHENTIC_LEN, BlobHeader, HEADER_LEN, Purpose};
use crate::platform::{Platform, PlatformError, PlatformKind};
use crate::policy::{Development, PolicyError, SealPolicy};
use crate::prk::{Committed, Prk, ZERO_NONCE};
use crate::rng::{Rng, RngFailed};
use crate::secret::Secret;

/// The most bytes that one blob holds.
pub const MAX_PAYLOAD_LEN: usize = 1 << 20;

/// What a blob is for: it opens for the same only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobUse {
    /// What the data is.
    pub purpose: Purpose,
    /// The volume that it belongs to; zero for none.
    pub volume_id: [u8; 16],
}

/// Why data was not sealed or not opened. None of it tells anything of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// A rule forbids it.
    Policy(PolicyError),
    /// The platform derived no key.
    Platform(PlatformError),
    /// These are not the bytes of a blob: which part.
    Malformed(&'static str),
    /// It was sealed on a platform of another kind.
    OtherPlatform {
        /// The kind that it was sealed on, in the header's own words.
        sealed: PlatformKind,
    },
    /// It was sealed for another purpose.
    Purpose,
    /// It belongs to another volume.
    Volume,
    /// Its time is over, by the caller's clock.
    Expired,
    /// The key does not open it, or it was changed: the two cannot be told apart.
    WrongKey,
    /// More than [`MAX_PAYLOAD_LEN`] bytes.
    TooLong,
    /// The random generator failed; nothing was sealed.
    Rng,
}

/// Seals data to whoever runs on `platform`. `not_after` is in seconds since 1970, 0 for no end.
pub fn seal(
    platform: &dyn Platform,
    policy: &SealPolicy,
    blob_use: &BlobUse,
    not_after: u64,
    payload: &[u8],
    development: Development,
    rng: &dyn Rng,
) -> Result<Vec<u8>, SealError> {
    development.check(platform)?;
    let payload_len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD_LEN);
    let payload_len = payload_len.ok_or(SealError::TooLong)?;
    let mut key_id = [0; 32];
    rng.fill(&mut key_id)?;
    let request = policy.request(platform, key_id)?;
    let header = BlobHeader::new(platform, &request, blob_use, not_after, payload_len);
    let keys = BlobKeys::derive(platform, &header)?;
    let commitment = keys.commitment();
    keys.seal(&BlobHeader { commitment, ..header }, payload)
}

/// Opens a blob, which may be anything that a hostile host stored. `now` is the caller's clock, if it has one to trust.
pub fn unseal(
    platform: &dyn Platform,
    blob: &[u8],
    blob_use: &BlobUse,
    now: Option<u64>,
    development: Development,
) -> Result<Secret, SealError> {
    development.check(platform)?;
    let header = BlobHeader::decode(blob)?;
    if header.kind != platform.kind() {
        return Err(SealError::OtherPlatform { sealed: header.kind });
    }
    if header.blob_use.purpose != blob_use.purpose {
        return Err(SealError::Purpose);
    }
    if header.blob_use.volume_id != blob_use.volume_id {
        return Err(SealError::Volume);
    }
    let keys = BlobKeys::derive(platform, &header)?;
    let proof = keys.verify(&header)?;
    let payload = keys.open(blob, proof)?;
    // Asked only of a blob that opened: before that, the end of its time is the host's word.
    match now {
        Some(now) if header.not_after != 0 && now > header.not_after => Err(SealError::Expired),
        _ => Ok(payload),
    }
}

/// The extracted key of one blob, from which its key and its commitment expand.
struct BlobKeys {
    prk: Prk,
    /// SHA-256 of the header's part before the commitment.
    context: [u8; 32],
}

impl BlobKeys {
    fn derive(platform: &dyn Platform, header: &BlobHeader) -> Result<BlobKeys, SealError> {
        let derived = platform.derive(&header.request())?;
        let prk = Prk::extract(&header.key_id, derived.expose());
        Ok(BlobKeys { prk, context: Sha256::digest(&header.encode()[..AUTHENTIC_LEN]).into() })
    }

    fn commitment(&self) -> [u8; 32] {
        self.prk.commitment(&[COMMITMENT_LABEL, &self.context])
    }

    fn verify(&self, header: &BlobHeader) -> Result<Committed, SealError> {
        self.prk.verify(&[COMMITMENT_LABEL, &self.context], &header.commitment).ok_or(SealError::WrongKey)
    }

    fn aead(&self) -> Aes256Gcm {
        self.prk.aead(&[KEY_LABEL, &self.context])
    }

    fn seal(&self, header: &BlobHeader, payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let encoded = header.encode();
        let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
        out.extend_from_slice(&encoded);
        // Encrypted in place, in memory that holds no plaintext once this succeeded and is wiped if it did not.
        let mut data = Zeroizing::new(payload.to_vec());
        let tag = self
            .aead()
            .encrypt_inout_detached(&ZERO_NONCE, &associated_data(&encoded), data.as_mut_slice().into())
            .map_err(|_| SealError::TooLong)?;
        out[TAG_AT..HEADER_LEN].copy_from_slice(&tag);
        out.extend_from_slice(&data);
        Ok(out)
    }

    fn open(&self, blob: &[u8], _: Committed) -> Result<Secret, SealError> {
        let (header, data) = blob.split_at(HEADER_LEN);
        let mut tag = [0; 16];
        tag.copy_from_slice(&header[TAG_AT..]);
        let mut payload = Zeroizing::new(data.to_vec());
        self.aead()
            .decrypt_inout_detached(
                &ZERO_NONCE,
                &associated_data(header),
                payload.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .map_err(|_| SealError::WrongKey)?;
        Ok(Secret::new(core::mem::take(&mut *payload)))
    }
}

fn associated_data(header: &[u8]) -> Vec<u8> {
    [DATA_LABEL, &header[..TAG_AT]].concat()
}

/// Decodes arbitrary bytes, and demands that what decodes encodes to the same bytes. For fuzzing.
pub fn check_decoder(bytes: &[u8]) {
    if let Ok(header) = BlobHeader::decode(bytes) {
        let mut encoded = header.encode();
        encoded[TAG_AT..].copy_from_slice(&bytes[TAG_AT..HEADER_LEN]);
        assert_eq!(encoded[..], bytes[..HEADER_LEN], "a header that decodes is the header of its value");
    }
}

impl From<PolicyError> for SealError {
    fn from(error: PolicyError) -> SealError {
        SealError::Policy(error)
    }
}

impl From<PlatformError> for SealError {
    fn from(error: PlatformError) -> SealError {
        SealError::Platform(error)
    }
}

impl From<RngFailed> for SealError {
    fn from(_: RngFailed) -> SealError {
        SealError::Rng
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Policy(error) => error.fmt(f),
            SealError::Platform(error) => error.fmt(f),
            SealError::Malformed(part) => write!(f, "it is no sealed blob: {part} makes no sense"),
            SealError::OtherPlatform { sealed } => write!(f, "it was sealed on the platform {}", sealed.name()),
            SealError::Purpose => f.write_str("it was sealed for another purpose"),
            SealError::Volume => f.write_str("it belongs to another volume"),
            SealError::Expired => f.write_str("its time is over"),
            SealError::WrongKey => f.write_str("the platform's key does not open it"),
            SealError::TooLong => write!(f, "it is longer than {MAX_PAYLOAD_LEN} bytes"),
            SealError::Rng => f.write_str("the random generator failed"),
        }
    }
}

impl core::error::Error for SealError {}

const KEY_LABEL: &[u8] = b"sealing 1 blob key";
const COMMITMENT_LABEL: &[u8] = b"sealing 1 blob commitment";
const DATA_LABEL: &[u8] = b"sealing 1 blob";
const TAG_AT: usize = AUTHENTIC_LEN + 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sgx_sim::{SgxSim, SimCpuSvn};
    use crate::platform::{Identity, KeyPolicy};

    /// Sealed rightly, so that GCM and the associated data agree, but with another commitment.
    #[test]
    fn the_commitment_is_checked_on_its_own() {
        let identity = Identity { mrsigner: [2; 32], ..Identity::default() };
        let platform = SgxSim::new(identity, SimCpuSvn::Default);
        let blob_use = BlobUse { purpose: Purpose::new("test").unwrap(), volume_id: [0; 16] };
        let policy = SealPolicy::new(KeyPolicy::MRSIGNER).unwrap();
        let header = BlobHeader::new(&platform, &policy.request(&platform, [3; 32]).unwrap(), &blob_use, 0, 1);
        let keys = BlobKeys::derive(&platform, &header).unwrap();
        let right = keys.commitment();
        let open = |commitment| {
            let blob = keys.seal(&BlobHeader { commitment, ..header.clone() }, b"x").unwrap();
            unseal(&platform, &blob, &blob_use, None, Development::Allowed).map(|payload| payload.expose().to_vec())
        };
        assert_eq!(open(right), Ok(b"x".to_vec()));
        let mut other = right;
        other[31] ^= 1;
        assert_eq!(open(other), Err(SealError::WrongKey));
    }
}
