//! Upgrades that several people agreed to: a manifest names the successor, and M of N approvers sign it.
//!
//! ```text
//! manifest, 160 bytes: 0 magic │ 8 version │ 10 platform │ 12 policy │ 14 minimum ISVSVN │ 16 volume id │ 32 generation u64
//!                      40 not after u64 │ 48 predecessor 32 │ 80 MRENCLAVE │ 112 MRSIGNER │ 144 ISVPRODID u16 │ 146 reserved
//! signature, 96 bytes: 0 public key │ 32 Ed25519 over "sealing 1 migration" ‖ 0 ‖ manifest
//! approvers:           0 M │ 1 N │ 2 reserved 2 │ 4 public keys 32 × N
//! ```
//! *Security*: signatures are verified, strictly, over the manifest's raw bytes before anything of it is parsed. M counts
//! distinct keys of the approver set, which is sealed together with the volume key: what stands in a plain header would be
//! the host's choice. The manifest is for one volume, one predecessor and one generation of the volume's header, so an
//! approval serves once. A field that the policy selects must not be empty.

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::blob_header::BlobHeader;
use crate::bytes::{Fields, array};
use crate::platform::{Identity, KeyPolicy, Platform, PlatformKind};
use crate::policy::{PolicyError, SealPolicy};

/// Bytes of a manifest.
pub const MANIFEST_LEN: usize = 160;
/// Bytes of a signature with its key.
pub const APPROVAL_LEN: usize = 96;
/// The most approvers.
pub const MAX_APPROVERS: usize = 16;

/// Who may approve, and how many must. A set is sound: 1 ≤ needed ≤ keys ≤ 16, keys distinct, none weak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvers {
    needed: u8,
    keys: Vec<[u8; 32]>,
}

/// What is approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The successor's platform.
    pub kind: PlatformKind,
    /// What the successor's slot binds to.
    pub policy: KeyPolicy,
    /// The lowest version that the successor may have.
    pub min_isv_svn: u16,
    /// The volume.
    pub volume_id: [u8; 16],
    /// The generation of the volume's header that this approval is for.
    pub generation: u64,
    /// Seconds since 1970 after which it counts no longer; 0 for no end. Worth what the clock is worth.
    pub not_after: u64,
    /// [`BlobHeader::identity_digest`] of the slot that hands over.
    pub predecessor: [u8; 32],
    /// The successor's measurement; zero exactly if the policy leaves it out.
    pub mrenclave: [u8; 32],
    /// The successor's signer; zero exactly if the policy leaves it out.
    pub mrsigner: [u8; 32],
    /// The successor's product; zero if the policy leaves it out.
    pub isv_prod_id: u16,
}

/// Only [`Approvers::verify`] makes one: enough approvers signed these bytes.
#[derive(Debug)]
pub struct Approved(Manifest);

/// Why an upgrade is not approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApprovalError {
    /// The approver set is not sound.
    Approvers,
    /// Too few distinct approvers signed.
    TooFew {
        /// Approvers that are needed.
        needed: u8,
        /// Approvers of the set that signed.
        signed: u8,
    },
    /// The signed bytes are no manifest.
    Malformed,
    /// A rule for policies is broken.
    Policy(PolicyError),
    /// What is at hand is not what was approved: the field.
    Differs(&'static str),
    /// Its time is over, by the caller's clock.
    Expired,
}

impl Approvers {
    /// A set, if it is sound.
    pub fn new(needed: u8, keys: Vec<[u8; 32]>) -> Result<Approvers, ApprovalError> {
        let weak = |key: &[u8; 32]| VerifyingKey::from_bytes(key).map_or(true, |key| key.is_weak());
        let twice = keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key));
        let sound = needed >= 1 && usize::from(needed) <= keys.len() && keys.len() <= MAX_APPROVERS;
        if !sound || twice || keys.iter().any(weak) {
            return Err(ApprovalError::Approvers);
        }
        Ok(Approvers { needed, keys })
    }

    /// How many must sign.
    pub fn needed(&self) -> u8 {
        self.needed
    }

    /// Their public keys.
    pub fn keys(&self) -> &[[u8; 32]] {
        &self.keys
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // A set has at most 16 keys.
        let count = u8::try_from(self.keys.len()).unwrap_or(u8::MAX);
        [&[self.needed, count, 0, 0][..], self.keys.as_flattened()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Approvers> {
        let (head, keys) = bytes.split_at_checked(4)?;
        if head[2..] != [0; 2] || keys.len() != usize::from(head[1]) * 32 {
            return None;
        }
        Approvers::new(head[0], keys.chunks_exact(32).map(array).collect()).ok()
    }

    /// Verifies signatures over the raw manifest, then reads it.
    pub fn verify(&self, manifest: &[u8], approvals: &[Vec<u8>]) -> Result<Approved, ApprovalError> {
        let message = signed_bytes(manifest);
        let signed_by = |key: &[u8; 32]| {
            approvals.iter().filter(|approval| approval.len() == APPROVAL_LEN && approval[..32] == *key).any(
                |approval| {
                    let signature = Signature::from_bytes(&array(&approval[32..]));
                    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(&message, &signature).is_ok())
                },
            )
        };
        // Counted by key of the set, so an approver who signs twice counts once.
        let signed = self.keys.iter().filter(|key| signed_by(key)).count();
        let signed = u8::try_from(signed).unwrap_or(u8::MAX);
        if signed < self.needed {
            return Err(ApprovalError::TooFew { needed: self.needed, signed });
        }
        Manifest::decode(manifest).map(Approved)
    }
}

/// An approver's signature over a manifest's bytes, with the public key.
pub fn approve(manifest: &[u8], key: &SigningKey) -> [u8; APPROVAL_LEN] {
    let mut out = [0; APPROVAL_LEN];
    out[..32].copy_from_slice(&key.verifying_key().to_bytes());
    out[32..].copy_from_slice(&key.sign(&signed_bytes(manifest)).to_bytes());
    out
}

fn signed_bytes(manifest: &[u8]) -> Vec<u8> {
    [LABEL, manifest].concat()
}

impl Manifest {
    /// The bytes to sign.
    pub fn encode(&self) -> [u8; MANIFEST_LEN] {
        let mut out = [0; MANIFEST_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MANIFEST_MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &self.kind.number().to_le_bytes());
        put(12, &self.policy.0.to_le_bytes());
        put(14, &self.min_isv_svn.to_le_bytes());
        put(16, &self.volume_id);
        put(32, &self.generation.to_le_bytes());
        put(40, &self.not_after.to_le_bytes());
        put(48, &self.predecessor);
        put(80, &self.mrenclave);
        put(112, &self.mrsigner);
        put(144, &self.isv_prod_id.to_le_bytes());
        out
    }

    /// Reads a manifest and keeps the rules for policies.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ApprovalError> {
        let fields = Fields(bytes);
        let sound = bytes.len() == MANIFEST_LEN && bytes[..8] == *MANIFEST_MAGIC && fields.u16(8) == VERSION;
        if !sound || bytes[146..].iter().any(|&byte| byte != 0) {
            return Err(ApprovalError::Malformed);
        }
        let manifest = Manifest {
            kind: PlatformKind::from_number(fields.u16(10)).ok_or(ApprovalError::Malformed)?,
            policy: KeyPolicy(fields.u16(12)),
            min_isv_svn: fields.u16(14),
            volume_id: array(&bytes[16..32]),
            generation: fields.u64(32),
            not_after: fields.u64(40),
            predecessor: array(&bytes[48..80]),
            mrenclave: array(&bytes[80..112]),
            mrsigner: array(&bytes[112..144]),
            isv_prod_id: fields.u16(144),
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// The rules: an identity is named, nothing that is selected is empty, nothing that is not selected is there.
    pub fn check(&self) -> Result<(), ApprovalError> {
        let policy = SealPolicy::new(self.policy).map_err(ApprovalError::Policy)?;
        let unknown = KeyPolicy::CONFIGID.with(KeyPolicy::ISVFAMILYID).with(KeyPolicy::ISVEXTPRODID);
        if self.policy.has_any(unknown) {
            // A manifest has no room for these, so a slot that binds to them would bind to something unapproved.
            return Err(ApprovalError::Policy(PolicyError::UnknownBits));
        }
        let identity = Identity { mrenclave: self.mrenclave, mrsigner: self.mrsigner, ..Identity::default() };
        policy.check_identity(&identity).map_err(ApprovalError::Policy)?;
        let left_out =
            [(KeyPolicy::MRENCLAVE, self.mrenclave != [0; 32]), (KeyPolicy::MRSIGNER, self.mrsigner != [0; 32])];
        let contradicts = left_out.iter().any(|(bit, is_there)| *is_there && !self.policy.has(*bit))
            || self.policy.has(KeyPolicy::NOISVPRODID) && self.isv_prod_id != 0;
        if contradicts { Err(ApprovalError::Malformed) } else { Ok(()) }
    }
}

impl Approved {
    /// What was approved.
    pub fn manifest(&self) -> &Manifest {
        &self.0
    }

    /// Whether this is the approval for handing a volume over from the slot with this header to `successor`.
    pub fn admits(
        &self,
        volume_id: &[u8; 16],
        generation: u64,
        predecessor: &BlobHeader,
        successor: &dyn Platform,
        now: Option<u64>,
    ) -> Result<SealPolicy, ApprovalError> {
        let (manifest, identity) = (&self.0, successor.identity());
        if now.is_some_and(|now| manifest.not_after != 0 && now > manifest.not_after) {
            return Err(ApprovalError::Expired);
        }
        let bits = manifest.policy;
        let checks = [
            ("volume id", manifest.volume_id == *volume_id),
            ("header generation", manifest.generation == generation),
            ("predecessor", manifest.predecessor == predecessor.identity_digest()),
            ("platform", manifest.kind == successor.kind()),
            ("mrenclave", !bits.has(KeyPolicy::MRENCLAVE) || manifest.mrenclave == identity.mrenclave),
            ("mrsigner", !bits.has(KeyPolicy::MRSIGNER) || manifest.mrsigner == identity.mrsigner),
            ("isvprodid", bits.has(KeyPolicy::NOISVPRODID) || manifest.isv_prod_id == identity.isv_prod_id),
            ("isvsvn", identity.isv_svn >= manifest.min_isv_svn),
            ("debug", !identity.is_debug() || predecessor.identity.is_debug()),
            ("assurance", successor.assurance() >= predecessor.assurance),
        ];
        match checks.iter().find(|(_, holds)| !holds) {
            Some((field, _)) => Err(ApprovalError::Differs(field)),
            None => SealPolicy::new(bits).map_err(ApprovalError::Policy),
        }
    }
}

impl fmt::Display for ApprovalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApprovalError::Approvers => {
                write!(f, "an approver set has 1 to {MAX_APPROVERS} different sound keys and needs at most as many")
            }
            ApprovalError::TooFew { needed, signed } => {
                write!(f, "{needed} approvers must sign, {signed} of this volume's did")
            }
            ApprovalError::Malformed => f.write_str("it is no upgrade manifest"),
            ApprovalError::Policy(error) => error.fmt(f),
            ApprovalError::Differs(field) => write!(f, "another {field} was approved"),
            ApprovalError::Expired => f.write_str("the approval's time is over"),
        }
    }
}

impl core::error::Error for ApprovalError {}

/// What a manifest begins with.
pub const MANIFEST_MAGIC: &[u8; 8] = b"SEALmig\0";
const VERSION: u16 = 1;
const LABEL: &[u8] = b"sealing 1 migration\0";
