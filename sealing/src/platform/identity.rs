//! Who asks for a key: the fields of SGX's SECS that a key can depend on, and how a REPORT carries them.
//!
//! REPORT body (Intel SDM volume 3D, "REPORT (REPORT)"), 384 bytes of which are read here:
//! ```text
//! 0 CPUSVN │ 16 MISCSELECT │ 20 CET │ 32 ISVEXTPRODID │ 48 ATTRIBUTES │ 64 MRENCLAVE │ 128 MRSIGNER │ 192 CONFIGID
//! 256 ISVPRODID │ 258 ISVSVN │ 260 CONFIGSVN │ 304 ISVFAMILYID │ 320 REPORTDATA
//! ```

use crate::bytes::{Fields, array};

/// Bytes of a REPORT's body: everything before KEYID and MAC.
pub const REPORT_BODY_LEN: usize = 384;

/// Bits of an enclave's attribute FLAGS.
pub mod flags {
    /// The enclave was initialised.
    pub const INIT: u64 = 1;
    /// A debugger may read and write the enclave.
    pub const DEBUG: u64 = 1 << 1;
    /// 64-bit mode.
    pub const MODE64BIT: u64 = 1 << 2;
    /// May derive the provisioning keys.
    pub const PROVISIONKEY: u64 = 1 << 4;
    /// May derive the launch key.
    pub const EINITTOKEN_KEY: u64 = 1 << 5;
    /// Key separation and sharing.
    pub const KSS: u64 = 1 << 7;
}

/// An enclave's attributes, or a mask over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Attributes {
    /// See [`flags`].
    pub flags: u64,
    /// The extended processor features, as in XCR0.
    pub xfrm: u64,
}

impl Attributes {
    /// The 16 bytes: FLAGS, XFRM.
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..].copy_from_slice(&self.xfrm.to_le_bytes());
        out
    }

    /// The attributes in 16 bytes.
    pub fn decode(bytes: [u8; 16]) -> Attributes {
        let fields = Fields(&bytes);
        Attributes { flags: fields.u64(0), xfrm: fields.u64(8) }
    }
}

/// Who asks for a key. All of it is public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The enclave's attributes.
    pub attributes: Attributes,
    /// The enclave's MISCSELECT.
    pub misc_select: u32,
    /// The measurement of the code.
    pub mrenclave: [u8; 32],
    /// The digest of the signer's key.
    pub mrsigner: [u8; 32],
    /// The signer's number for the product.
    pub isv_prod_id: u16,
    /// The signer's version of the code.
    pub isv_svn: u16,
    /// The configuration (KSS).
    pub config_id: [u8; 64],
    /// The configuration's version (KSS).
    pub config_svn: u16,
    /// The product family (KSS).
    pub isv_family_id: [u8; 16],
    /// The extended product id (KSS).
    pub isv_ext_prod_id: [u8; 16],
}

impl Default for Identity {
    /// A 64-bit production enclave with nothing else set.
    fn default() -> Identity {
        Identity {
            attributes: Attributes { flags: flags::INIT | flags::MODE64BIT, xfrm: 3 },
            misc_select: 0,
            mrenclave: [0; 32],
            mrsigner: [0; 32],
            isv_prod_id: 0,
            isv_svn: 0,
            config_id: [0; 64],
            config_svn: 0,
            isv_family_id: [0; 16],
            isv_ext_prod_id: [0; 16],
        }
    }
}

impl Identity {
    /// The identity and the CPUSVN that a REPORT's body names. Whoever calls has the report from EREPORT itself, or has
    /// verified its MAC.
    pub fn from_report_body(body: &[u8; REPORT_BODY_LEN]) -> (Identity, [u8; 16]) {
        let fields = Fields(body);
        let identity = Identity {
            misc_select: fields.u32(16),
            isv_ext_prod_id: array(&body[32..48]),
            attributes: Attributes::decode(array(&body[48..64])),
            mrenclave: array(&body[64..96]),
            mrsigner: array(&body[128..160]),
            config_id: array(&body[192..256]),
            isv_prod_id: fields.u16(256),
            isv_svn: fields.u16(258),
            config_svn: fields.u16(260),
            isv_family_id: array(&body[304..320]),
        };
        (identity, array(&body[0..16]))
    }

    /// Whether a debugger can look into the enclave.
    pub fn is_debug(&self) -> bool {
        self.attributes.flags & flags::DEBUG != 0
    }

    /// Whether key separation and sharing is on.
    pub fn has_kss(&self) -> bool {
        self.attributes.flags & flags::KSS != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_where_the_manual_puts_its_fields() {
        let mut body = [0xee; REPORT_BODY_LEN];
        let fields: [(usize, &[u8]); 11] = [
            (0, &[1; 16]),
            (16, &[2, 0, 0, 0]),
            (32, &[3; 16]),
            (48, &[0x85, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]),
            (64, &[5; 32]),
            (128, &[6; 32]),
            (192, &[7; 64]),
            (256, &[8, 0]),
            (258, &[9, 0]),
            (260, &[10, 0]),
            (304, &[11; 16]),
        ];
        for (at, field) in fields {
            body[at..at + field.len()].copy_from_slice(field);
        }
        let (identity, cpu_svn) = Identity::from_report_body(&body);
        let expected = Identity {
            attributes: Attributes { flags: 0x85, xfrm: 7 },
            misc_select: 2,
            mrenclave: [5; 32],
            mrsigner: [6; 32],
            isv_prod_id: 8,
            isv_svn: 9,
            config_id: [7; 64],
            config_svn: 10,
            isv_family_id: [11; 16],
            isv_ext_prod_id: [3; 16],
        };
        assert_eq!((identity, cpu_svn), (expected, [1; 16]));
    }
}
