//! What data may be sealed to.
//!
//! *Security*: the rules that keep a key from meaning less than its owner thinks. A policy binds to code or its signer, or
//! it is none. A field that is selected and empty is an error, for it would match whatever else left it empty. INIT and DEBUG
//! are part of every mask, so a debug enclave never opens what a production enclave sealed. New data is sealed at the
//! current security versions: there is no way to hand in others.

use core::fmt;

use crate::platform::{Assurance, Attributes, Identity, KeyPolicy, KeyRequest, Platform, SEAL_KEY, flags};

/// What a key binds to: a policy that keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealPolicy {
    bits: KeyPolicy,
    attribute_mask: Attributes,
    misc_mask: u32,
}

/// Whether platforms whose keys are no secret are good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Development {
    /// They are not.
    Refused,
    /// The user said outright that they are.
    Allowed,
}

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// Neither MRENCLAVE nor MRSIGNER: any code could ask for the key.
    NoIdentity,
    /// A bit without a meaning.
    UnknownBits,
    /// The mask leaves INIT or DEBUG out.
    MaskWithoutDebug,
    /// A field that the policy selects is all zero.
    EmptyField(&'static str),
    /// The platform is one for development, and the caller did not allow that.
    Development,
}

impl SealPolicy {
    /// The attributes that count by default: those that matter to security, as in the SGX SDK.
    pub const DEFAULT_FLAGS_MASK: u64 = 0xff00_0000_0000_000b;
    /// The bits of MISCSELECT that count by default, as in the SGX SDK.
    pub const DEFAULT_MISC_MASK: u32 = 0xf000_0000;

    /// A policy with the default masks.
    pub fn new(bits: KeyPolicy) -> Result<SealPolicy, PolicyError> {
        let mask = Attributes { flags: SealPolicy::DEFAULT_FLAGS_MASK, xfrm: 0 };
        SealPolicy::with_masks(bits, mask, SealPolicy::DEFAULT_MISC_MASK)
    }

    /// A policy with these masks.
    pub fn with_masks(bits: KeyPolicy, attribute_mask: Attributes, misc_mask: u32) -> Result<SealPolicy, PolicyError> {
        if bits.0 & !KeyPolicy::KNOWN.0 != 0 {
            return Err(PolicyError::UnknownBits);
        }
        if !bits.has_any(KeyPolicy::MRENCLAVE.with(KeyPolicy::MRSIGNER)) {
            return Err(PolicyError::NoIdentity);
        }
        let demanded = flags::INIT | flags::DEBUG;
        if attribute_mask.flags & demanded != demanded {
            return Err(PolicyError::MaskWithoutDebug);
        }
        Ok(SealPolicy { bits, attribute_mask, misc_mask })
    }

    /// The policy's bits.
    pub fn bits(&self) -> KeyPolicy {
        self.bits
    }

    /// The attributes that count.
    pub fn attribute_mask(&self) -> Attributes {
        self.attribute_mask
    }

    /// The bits of MISCSELECT that count.
    pub fn misc_mask(&self) -> u32 {
        self.misc_mask
    }

    /// The first field that is selected and empty, if there is one.
    pub fn check_identity(&self, identity: &Identity) -> Result<(), PolicyError> {
        let fields: [(KeyPolicy, &[u8], &'static str); 5] = [
            (KeyPolicy::MRENCLAVE, &identity.mrenclave, "mrenclave"),
            (KeyPolicy::MRSIGNER, &identity.mrsigner, "mrsigner"),
            (KeyPolicy::CONFIGID, &identity.config_id, "configid"),
            (KeyPolicy::ISVFAMILYID, &identity.isv_family_id, "isvfamilyid"),
            (KeyPolicy::ISVEXTPRODID, &identity.isv_ext_prod_id, "isvextprodid"),
        ];
        for (bit, value, name) in fields {
            if self.bits.has(bit) && value.iter().all(|&byte| byte == 0) {
                return Err(PolicyError::EmptyField(name));
            }
        }
        Ok(())
    }

    /// The request for a new key of whoever runs on `platform`, at the current security versions.
    pub(crate) fn request(&self, platform: &dyn Platform, key_id: [u8; 32]) -> Result<KeyRequest, PolicyError> {
        self.check_identity(platform.identity())?;
        let versions = platform.versions();
        let config_svn = if self.bits.has(KeyPolicy::CONFIGID) { versions.config_svn } else { 0 };
        Ok(KeyRequest {
            key_name: SEAL_KEY,
            policy: self.bits,
            isv_svn: versions.isv_svn,
            cpu_svn: versions.cpu_svn,
            attribute_mask: self.attribute_mask,
            key_id,
            misc_mask: self.misc_mask,
            config_svn,
        })
    }
}

impl Development {
    /// Refuses a platform for development unless it is allowed.
    pub fn check(self, platform: &dyn Platform) -> Result<(), PolicyError> {
        match (platform.assurance(), self) {
            (Assurance::Development, Development::Refused) => Err(PolicyError::Development),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::NoIdentity => f.write_str("the policy names neither mrenclave nor mrsigner"),
            PolicyError::UnknownBits => f.write_str("the policy has bits without a meaning"),
            PolicyError::MaskWithoutDebug => f.write_str("the attribute mask leaves INIT or DEBUG out"),
            PolicyError::EmptyField(field) => {
                write!(f, "the policy selects {field}, which is empty: that would match anything else without one")
            }
            PolicyError::Development => {
                f.write_str("the platform is for development: its keys are no secret from whoever looks for them")
            }
        }
    }
}

impl core::error::Error for PolicyError {}
