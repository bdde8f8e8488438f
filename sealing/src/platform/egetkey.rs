//! EGETKEY for seal keys in software: the checks of Intel SDM volume 3D and what a key is derived from.
//!
//! Derivation structure, 280 bytes, little-endian, as the SDK's simulation mode lays it out:
//! ```text
//! 0 key name │ 2 policy │ 8 masked FLAGS │ 16 masked XFRM │ 24 FLAGS mask │ 32 XFRM mask │ 40 masked MISCSELECT
//! 44 ~misc mask │ 48 owner epoch │ 64 CPUSVN │ 80 ISVSVN │ 82 ISVPRODID │ 84 CONFIGSVN │ 86 CONFIGID
//! 150 ISVFAMILYID │ 166 ISVEXTPRODID │ 182 MRENCLAVE │ 214 MRSIGNER │ 246 KEYID │ 278 zero
//! ```
//! *Security*: INIT and DEBUG count under every mask, so a debug enclave and a production enclave never share a key. A field
//! that the policy leaves out is zero, and the policy itself is part of the structure, so leaving a field out never gives
//! the key of an identity in which that field is zero.

use super::identity::flags;
use super::{Attributes, Identity, KeyPolicy, KeyRequest, PlatformError, SEAL_KEY};

/// Bytes of the derivation structure.
pub const DERIVATION_LEN: usize = 280;

/// What a seal key is derived from, after all checks passed: only [`Derivation::check`] makes one.
pub struct Derivation([u8; DERIVATION_LEN]);

/// Key names of SGX.
const EINITTOKEN_KEY: u16 = 0;
const PROVISION_KEY: u16 = 1;
const PROVISION_SEAL_KEY: u16 = 2;
/// Attributes that every key depends on.
const ALWAYS: u64 = flags::INIT | flags::DEBUG;

impl Derivation {
    /// Checks a request of an enclave. `cpu_svn` is the one that the request stands for; `cpu_svn_exists` tells whether it is
    /// at most the current one.
    pub fn check(
        request: &KeyRequest,
        identity: &Identity,
        cpu_svn: &[u8; 16],
        cpu_svn_exists: bool,
        owner_epoch: &[u8; 16],
    ) -> Result<Derivation, PlatformError> {
        check_faults(request, identity)?;
        check_name(request, identity)?;
        if request.isv_svn > identity.isv_svn || request.config_svn > identity.config_svn {
            return Err(PlatformError::InvalidIsvSvn);
        }
        if !cpu_svn_exists {
            return Err(PlatformError::InvalidCpuSvn);
        }
        Ok(Derivation::assemble(request, identity, cpu_svn, owner_epoch))
    }

    /// The structure's bytes.
    pub fn bytes(&self) -> &[u8; DERIVATION_LEN] {
        &self.0
    }

    fn assemble(request: &KeyRequest, identity: &Identity, cpu_svn: &[u8; 16], owner_epoch: &[u8; 16]) -> Derivation {
        let selected = selected(request.policy, identity);
        let masked = masked(&request.attribute_mask, &identity.attributes);
        let config_svn = if request.policy.has(KeyPolicy::CONFIGID) { request.config_svn } else { 0 };
        let mut out = [0; DERIVATION_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &request.key_name.to_le_bytes());
        put(2, &request.policy.0.to_le_bytes());
        put(8, &masked.encode());
        put(24, &request.attribute_mask.encode());
        put(40, &(request.misc_mask & identity.misc_select).to_le_bytes());
        put(44, &(!request.misc_mask).to_le_bytes());
        put(48, owner_epoch);
        put(64, cpu_svn);
        put(80, &request.isv_svn.to_le_bytes());
        put(82, &selected.isv_prod_id.to_le_bytes());
        put(84, &config_svn.to_le_bytes());
        put(86, &selected.config_id);
        put(150, &selected.isv_family_id);
        put(166, &selected.isv_ext_prod_id);
        put(182, &selected.mrenclave);
        put(214, &selected.mrsigner);
        put(246, &request.key_id);
        Derivation(out)
    }
}

/// The attributes that a key depends on under a mask.
pub(crate) fn masked(mask: &Attributes, of: &Attributes) -> Attributes {
    Attributes { flags: (mask.flags | ALWAYS) & of.flags, xfrm: mask.xfrm & of.xfrm }
}

/// The identity with everything zero that the policy leaves out. Attributes, MISCSELECT and versions are not selected by
/// the policy and stay as they are.
pub(crate) fn selected(policy: KeyPolicy, identity: &Identity) -> Identity {
    let mut out = identity.clone();
    if !policy.has(KeyPolicy::MRENCLAVE) {
        out.mrenclave = [0; 32];
    }
    if !policy.has(KeyPolicy::MRSIGNER) {
        out.mrsigner = [0; 32];
    }
    if policy.has(KeyPolicy::NOISVPRODID) {
        out.isv_prod_id = 0;
    }
    if !policy.has(KeyPolicy::CONFIGID) {
        out.config_id = [0; 64];
    }
    if !policy.has(KeyPolicy::ISVFAMILYID) {
        out.isv_family_id = [0; 16];
    }
    if !policy.has(KeyPolicy::ISVEXTPRODID) {
        out.isv_ext_prod_id = [0; 16];
    }
    out
}

/// What the processor answers with a general protection fault.
fn check_faults(request: &KeyRequest, identity: &Identity) -> Result<(), PlatformError> {
    if request.policy.0 & !KeyPolicy::KNOWN.0 != 0 {
        return Err(PlatformError::Reserved);
    }
    if !identity.has_kss() && (request.policy.has_any(KeyPolicy::KSS) || request.config_svn > 0) {
        return Err(PlatformError::KssOff);
    }
    Ok(())
}

/// Launch and provisioning keys demand an attribute first; then it turns out that only seal keys exist here.
fn check_name(request: &KeyRequest, identity: &Identity) -> Result<(), PlatformError> {
    let demanded = match request.key_name {
        SEAL_KEY => return Ok(()),
        EINITTOKEN_KEY => flags::EINITTOKEN_KEY,
        PROVISION_KEY | PROVISION_SEAL_KEY => flags::PROVISIONKEY,
        _ => 0,
    };
    if identity.attributes.flags & demanded != demanded {
        return Err(PlatformError::InvalidAttribute);
    }
    Err(PlatformError::InvalidKeyName)
}
