//! SGX's KEYREQUEST: what a key is asked for with (Intel SDM volume 3D, "KEY REQUEST (KEYREQUEST)").
//!
//! ```text
//! 0    2        4        6      8        24              40      72          76          78        512
//! │name│ policy │ ISVSVN │ rsvd │ CPUSVN │ attribute mask│ KEYID │ misc mask │ CONFIGSVN │ reserved │
//! ```
//! All integers are little-endian; the attribute mask is FLAGS, then XFRM.

use super::PlatformError;
use super::identity::Attributes;
use crate::bytes::{Fields, array};

/// Bytes of a KEYREQUEST.
pub const KEY_REQUEST_LEN: usize = 512;
/// The name of seal keys (`SGX_KEYSELECT_SEAL`).
pub const SEAL_KEY: u16 = 4;

/// What a seal key depends on: bits of KEYPOLICY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KeyPolicy(pub u16);

impl KeyPolicy {
    /// The code's measurement.
    pub const MRENCLAVE: KeyPolicy = KeyPolicy(1);
    /// The signer of the code.
    pub const MRSIGNER: KeyPolicy = KeyPolicy(2);
    /// Leave the product id out (KSS).
    pub const NOISVPRODID: KeyPolicy = KeyPolicy(4);
    /// The configuration's id and version (KSS).
    pub const CONFIGID: KeyPolicy = KeyPolicy(8);
    /// The family id (KSS).
    pub const ISVFAMILYID: KeyPolicy = KeyPolicy(16);
    /// The extended product id (KSS).
    pub const ISVEXTPRODID: KeyPolicy = KeyPolicy(32);

    /// All bits that have a meaning.
    pub const KNOWN: KeyPolicy = KeyPolicy(63);
    /// Those that demand key separation and sharing.
    pub const KSS: KeyPolicy = KeyPolicy(0x3c);

    /// Each bit with its name.
    pub const NAMES: [(KeyPolicy, &'static str); 6] = [
        (KeyPolicy::MRENCLAVE, "mrenclave"),
        (KeyPolicy::MRSIGNER, "mrsigner"),
        (KeyPolicy::NOISVPRODID, "noisvprodid"),
        (KeyPolicy::CONFIGID, "configid"),
        (KeyPolicy::ISVFAMILYID, "isvfamilyid"),
        (KeyPolicy::ISVEXTPRODID, "isvextprodid"),
    ];

    /// Whether all bits of `other` are set.
    pub fn has(self, other: KeyPolicy) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub fn has_any(self, other: KeyPolicy) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of both.
    #[must_use]
    pub fn with(self, other: KeyPolicy) -> KeyPolicy {
        KeyPolicy(self.0 | other.0)
    }
}

impl core::fmt::Display for KeyPolicy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let set = KeyPolicy::NAMES.iter().filter(|(bit, _)| self.has(*bit));
        for (index, (_, name)) in set.enumerate() {
            write!(f, "{}{name}", if index > 0 { "+" } else { "" })?;
        }
        Ok(())
    }
}

/// A request for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// Which key; [`SEAL_KEY`] here.
    pub key_name: u16,
    /// What it depends on. Unknown bits are kept, for the platform to refuse.
    pub policy: KeyPolicy,
    /// The code's version, at most the current one.
    pub isv_svn: u16,
    /// The processor's version, at most the current one; all zero means the current one to SGX's simulation.
    pub cpu_svn: [u8; 16],
    /// The attributes that the key depends on, besides INIT and DEBUG, which count always.
    pub attribute_mask: Attributes,
    /// Random bytes that tell keys apart.
    pub key_id: [u8; 32],
    /// The bits of MISCSELECT that the key depends on.
    pub misc_mask: u32,
    /// The configuration's version, at most the current one (KSS).
    pub config_svn: u16,
}

impl KeyRequest {
    /// The bytes that EGETKEY reads.
    pub fn encode(&self) -> [u8; KEY_REQUEST_LEN] {
        let mut out = [0; KEY_REQUEST_LEN];
        out[0..2].copy_from_slice(&self.key_name.to_le_bytes());
        out[2..4].copy_from_slice(&self.policy.0.to_le_bytes());
        out[4..6].copy_from_slice(&self.isv_svn.to_le_bytes());
        out[8..24].copy_from_slice(&self.cpu_svn);
        out[24..40].copy_from_slice(&self.attribute_mask.encode());
        out[40..72].copy_from_slice(&self.key_id);
        out[72..76].copy_from_slice(&self.misc_mask.to_le_bytes());
        out[76..78].copy_from_slice(&self.config_svn.to_le_bytes());
        out
    }

    /// The request in these bytes. A set reserved byte is refused as EGETKEY refuses it; policy bits are the check's business.
    pub fn decode(bytes: &[u8; KEY_REQUEST_LEN]) -> Result<KeyRequest, PlatformError> {
        if bytes[6..8] != [0; 2] || bytes[78..].iter().any(|&byte| byte != 0) {
            return Err(PlatformError::Reserved);
        }
        let fields = Fields(bytes);
        Ok(KeyRequest {
            key_name: fields.u16(0),
            policy: KeyPolicy(fields.u16(2)),
            isv_svn: fields.u16(4),
            cpu_svn: array(&bytes[8..24]),
            attribute_mask: Attributes::decode(array(&bytes[24..40])),
            key_id: array(&bytes[40..72]),
            misc_mask: fields.u32(72),
            config_svn: fields.u16(76),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> KeyRequest {
        KeyRequest {
            key_name: 0x0102,
            policy: KeyPolicy(0x0304),
            isv_svn: 0x0506,
            cpu_svn: [0x11; 16],
            attribute_mask: Attributes { flags: 0x2122_2324_2526_2728, xfrm: 0x3132_3334_3536_3738 },
            key_id: [0x41; 32],
            misc_mask: 0x5152_5354,
            config_svn: 0x6162,
        }
    }

    #[test]
    fn the_layout_is_the_manuals() {
        let bytes = request().encode();
        let expected = [
            (0, &[0x02, 0x01, 0x04, 0x03, 0x06, 0x05, 0, 0][..]),
            (8, &[0x11; 16]),
            (24, &[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21]),
            (32, &[0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31]),
            (40, &[0x41; 32]),
            (72, &[0x54, 0x53, 0x52, 0x51]),
            (76, &[0x62, 0x61]),
            (78, &[0; 434]),
        ];
        for (at, field) in expected {
            assert_eq!(&bytes[at..at + field.len()], field, "at {at}");
        }
        assert_eq!(KeyRequest::decode(&bytes), Ok(request()));
    }

    #[test]
    fn every_reserved_byte_is_refused() {
        for at in [6, 7].into_iter().chain(78..KEY_REQUEST_LEN) {
            let mut bytes = request().encode();
            bytes[at] = 1;
            assert_eq!(KeyRequest::decode(&bytes), Err(PlatformError::Reserved), "byte {at}");
        }
    }
}
