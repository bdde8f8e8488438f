//! SEV-SNP: keys from the secure processor, asked for with MSG_KEY_REQ (AMD 56860, "Key Derivation"; Linux
//! `SNP_GET_DERIVED_KEY`).
//!
//! ```text
//! request, 32 bytes:  0 root key select u32 │ 4 reserved │ 8 guest field select u64 │ 16 VMPL u32 │ 20 guest SVN u32 │ 24 TCB version u64
//! response, 64 bytes: 0 status u32 │ 4 reserved 28 │ 32 key
//! ```
//! Untested on hardware: what is tested is the bytes and how answers are judged. The ioctl itself is the caller's, for it
//! needs code that this crate forbids.
//!
//! How SGX's words map: MRENCLAVE is the launch measurement, ISVFAMILYID and ISVEXTPRODID are the family and image id, ISVSVN
//! is the guest SVN, the first 8 bytes of CPUSVN are the TCB version. SNP binds to no signer and to no product id or
//! configuration: a request for those is refused. The guest policy, which holds the debug bit, is always part of the key.
//! The firmware takes no key id: the key is HKDF(key id, firmware's key, "sealing 1 snp").

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Assurance, Identity, KeyPolicy, KeyRequest, Platform, PlatformError, PlatformKind, SEAL_KEY, Versions};
use crate::bytes::Fields;
use crate::secret::{Key, Secret};

/// Bytes of MSG_KEY_REQ.
pub const REQUEST_LEN: usize = 32;
/// Bytes of MSG_KEY_RSP.
pub const RESPONSE_LEN: usize = 64;

/// Bits of GUEST_FIELD_SELECT.
pub mod field {
    /// The guest policy.
    pub const GUEST_POLICY: u64 = 1;
    /// The image id.
    pub const IMAGE_ID: u64 = 1 << 1;
    /// The family id.
    pub const FAMILY_ID: u64 = 1 << 2;
    /// The launch measurement.
    pub const MEASUREMENT: u64 = 1 << 3;
    /// The guest SVN.
    pub const GUEST_SVN: u64 = 1 << 4;
    /// The TCB version.
    pub const TCB_VERSION: u64 = 1 << 5;
    /// All that this version of the message knows.
    pub const KNOWN: u64 = 63;
}

/// MSG_KEY_REQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnpKeyRequest {
    /// Bit 0: 0 the chip's key (VCEK or VLEK), 1 the migration agent's (VMRK). Bits 1–2: 0 VLEK if there is one and VCEK
    /// otherwise, 1 VCEK, 2 VLEK.
    pub root_key_select: u32,
    /// See [`field`].
    pub guest_field_select: u64,
    /// 0 to 3, and not below the VMPL that asks.
    pub vmpl: u32,
    /// At most the guest's own.
    pub guest_svn: u32,
    /// At most the committed one, in each component.
    pub tcb_version: u64,
}

impl SnpKeyRequest {
    /// The message's bytes, after the checks that the firmware makes on it alone.
    pub fn encode(&self) -> Result<[u8; REQUEST_LEN], PlatformError> {
        let key_select = self.root_key_select >> 1;
        if self.root_key_select > 7 || key_select == 3 || self.guest_field_select & !field::KNOWN != 0 || self.vmpl > 3
        {
            return Err(PlatformError::Reserved);
        }
        let mut out = [0; REQUEST_LEN];
        out[0..4].copy_from_slice(&self.root_key_select.to_le_bytes());
        out[8..16].copy_from_slice(&self.guest_field_select.to_le_bytes());
        out[16..20].copy_from_slice(&self.vmpl.to_le_bytes());
        out[20..24].copy_from_slice(&self.guest_svn.to_le_bytes());
        out[24..32].copy_from_slice(&self.tcb_version.to_le_bytes());
        Ok(out)
    }

    /// What the firmware is to be asked for a key request in SGX's words.
    pub fn for_request(request: &KeyRequest) -> Result<SnpKeyRequest, PlatformError> {
        if request.policy.0 & !KeyPolicy::KNOWN.0 != 0 {
            return Err(PlatformError::Reserved);
        }
        if request.key_name != SEAL_KEY {
            return Err(PlatformError::InvalidKeyName);
        }
        for (bit, name) in [(KeyPolicy::MRSIGNER, "MRSIGNER"), (KeyPolicy::CONFIGID, "CONFIGID")] {
            if request.policy.has(bit) {
                return Err(PlatformError::CannotBind(name));
            }
        }
        if !request.policy.has(KeyPolicy::NOISVPRODID) {
            return Err(PlatformError::CannotBind("ISVPRODID"));
        }
        let mut select = field::GUEST_POLICY | field::GUEST_SVN | field::TCB_VERSION;
        for (bit, field) in [
            (KeyPolicy::MRENCLAVE, field::MEASUREMENT),
            (KeyPolicy::ISVFAMILYID, field::FAMILY_ID),
            (KeyPolicy::ISVEXTPRODID, field::IMAGE_ID),
        ] {
            select |= if request.policy.has(bit) { field } else { 0 };
        }
        Ok(SnpKeyRequest {
            root_key_select: 0,
            guest_field_select: select,
            vmpl: 0,
            guest_svn: request.isv_svn.into(),
            tcb_version: Fields(&request.cpu_svn).u64(0),
        })
    }
}

/// MSG_KEY_REQ's way to the firmware: fills the response in, or returns an error number as in errno(3).
pub type GetDerivedKey = Box<dyn Fn(&[u8; REQUEST_LEN], &mut [u8; RESPONSE_LEN]) -> Result<(), i32>>;

/// A guest under SEV-SNP.
pub struct SevSnp {
    identity: Identity,
    tcb_version: u64,
    get_derived_key: GetDerivedKey,
}

impl SevSnp {
    /// `identity` and `tcb_version` (the committed one) are from the guest's own attestation report.
    pub fn new(identity: Identity, tcb_version: u64, get_derived_key: GetDerivedKey) -> SevSnp {
        SevSnp { identity, tcb_version, get_derived_key }
    }
}

impl Platform for SevSnp {
    fn kind(&self) -> PlatformKind {
        PlatformKind::SevSnp
    }

    fn assurance(&self) -> Assurance {
        if self.identity.is_debug() { Assurance::Development } else { Assurance::Hardware }
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn versions(&self) -> Versions {
        let mut cpu_svn = [0; 16];
        cpu_svn[..8].copy_from_slice(&self.tcb_version.to_le_bytes());
        Versions { cpu_svn, isv_svn: self.identity.isv_svn, config_svn: 0 }
    }

    fn derive(&self, request: &KeyRequest) -> Result<Secret, PlatformError> {
        let message = SnpKeyRequest::for_request(request)?.encode()?;
        if request.isv_svn > self.identity.isv_svn {
            return Err(PlatformError::InvalidIsvSvn);
        }
        let within = request.cpu_svn.iter().zip(&self.versions().cpu_svn).all(|(asked, current)| asked <= current);
        if !within {
            return Err(PlatformError::InvalidCpuSvn);
        }
        let mut response = Zeroizing::new([0; RESPONSE_LEN]);
        (self.get_derived_key)(&message, &mut response).map_err(|errno| PlatformError::Unreachable { errno })?;
        let status = Fields(&response[..]).u32(0);
        if status != 0 {
            return Err(PlatformError::Refused { status });
        }
        if response[32..].iter().all(|&byte| byte == 0) {
            return Err(PlatformError::Malformed);
        }
        let mut key = Key::zeroed();
        // 32 bytes are far below HKDF's limit.
        Hkdf::<Sha256>::new(Some(&request.key_id), &response[32..])
            .expand(b"sealing 1 snp", key.expose_mut())
            .map_err(|_| PlatformError::Malformed)?;
        Ok(Secret::new(key.expose().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Attributes;

    fn request(policy: KeyPolicy) -> KeyRequest {
        let mut cpu_svn = [0; 16];
        cpu_svn[..8].copy_from_slice(&0xd515_0000_0000_0803_u64.to_le_bytes());
        KeyRequest {
            key_name: SEAL_KEY,
            policy,
            isv_svn: 2,
            cpu_svn,
            attribute_mask: Attributes::default(),
            key_id: [7; 32],
            misc_mask: 0,
            config_svn: 0,
        }
    }

    fn guest(status: u32, byte: u8) -> SevSnp {
        let identity = Identity { isv_svn: 2, mrenclave: [1; 32], ..Identity::default() };
        SevSnp::new(
            identity,
            0xd515_0000_0000_0803,
            Box::new(move |_, response| {
                response[..4].copy_from_slice(&status.to_le_bytes());
                response[32..].fill(byte);
                Ok(())
            }),
        )
    }

    const MEASURED: KeyPolicy = KeyPolicy(1 | 4);

    #[test]
    fn the_message_is_the_manuals() {
        let policy = MEASURED.with(KeyPolicy::ISVFAMILYID);
        let bytes = SnpKeyRequest::for_request(&request(policy)).unwrap().encode().unwrap();
        let mut expected = [0; 32];
        expected[8] = 0b11_1101;
        expected[20] = 2;
        expected[24..].copy_from_slice(&[0x03, 0x08, 0, 0, 0, 0, 0x15, 0xd5]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn reserved_bits_are_refused() {
        let good = SnpKeyRequest::for_request(&request(MEASURED)).unwrap();
        for bad in [
            SnpKeyRequest { root_key_select: 8, ..good },
            SnpKeyRequest { root_key_select: 6, ..good },
            SnpKeyRequest { guest_field_select: 64, ..good },
            SnpKeyRequest { vmpl: 4, ..good },
        ] {
            assert_eq!(bad.encode(), Err(PlatformError::Reserved), "{bad:?}");
        }
    }

    #[test]
    fn what_snp_cannot_bind_is_refused() {
        let error = |policy| SnpKeyRequest::for_request(&request(policy)).unwrap_err();
        assert_eq!(error(MEASURED.with(KeyPolicy::MRSIGNER)), PlatformError::CannotBind("MRSIGNER"));
        assert_eq!(error(MEASURED.with(KeyPolicy::CONFIGID)), PlatformError::CannotBind("CONFIGID"));
        assert_eq!(error(KeyPolicy::MRENCLAVE), PlatformError::CannotBind("ISVPRODID"));
        assert_eq!(error(KeyPolicy(64)), PlatformError::Reserved);
    }

    #[test]
    fn answers_are_judged() {
        let derive = |guest: &SevSnp, request: &KeyRequest| guest.derive(request).map(|key| key.expose().to_vec());
        let key = derive(&guest(0, 5), &request(MEASURED)).unwrap();
        assert_eq!(key.len(), 32);
        assert_ne!(key, derive(&guest(0, 5), &KeyRequest { key_id: [8; 32], ..request(MEASURED) }).unwrap());
        assert_eq!(derive(&guest(0x16, 5), &request(MEASURED)), Err(PlatformError::Refused { status: 0x16 }));
        assert_eq!(derive(&guest(0, 0), &request(MEASURED)), Err(PlatformError::Malformed));
        let newer = KeyRequest { isv_svn: 3, ..request(MEASURED) };
        assert_eq!(derive(&guest(0, 5), &newer), Err(PlatformError::InvalidIsvSvn));
        let newer = KeyRequest { cpu_svn: [4, 8, 0, 0, 0, 0, 0x15, 0xd5, 0, 0, 0, 0, 0, 0, 0, 0], ..request(MEASURED) };
        assert_eq!(derive(&guest(0, 5), &newer), Err(PlatformError::InvalidCpuSvn));
    }
}
