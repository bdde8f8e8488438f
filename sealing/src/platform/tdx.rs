//! TDX: the request for a key that TDG.MR.KEY.GET takes (TDCALL leaf 29), and the checks that the TDX module makes on it.
//!
//! ```text
//! TDKEYREQUEST, 128 bytes:
//!   0 key name u16 │ 2 software key name u8 │ 3 key sizes u8 │ 4 reserved 4 │ 8 policy u64 │ 16 attributes mask u64 │ 24 XFAM mask u64
//!   32 CPUSVN 16 │ 48 TEE_TCB_SVN 16 │ 64 ISVSVN u16 │ 66 CONFIGSVN u16 │ 68 OWNERCONFIGSVN u16 │ 70 salt 32 │ 102 reserved 26
//! ```
//! From Intel's own source of the TDX module (github.com/intel/tdx-module, commit 9fd3c8b1: `include/tdx_api_defs.h`,
//! `src/td_dispatcher/vm_exits/tdg_mr_key_get.c`). Untested on hardware: what is tested is the bytes. TDCALL itself is the
//! caller's, for it needs code that this crate forbids; the request lies at a multiple of 128 bytes, the key at one of 32.
//!
//! Key sizes are a bitmap: bit n asks for 128 << n bits. That the bits are numbered so is read from the module's answer (R9),
//! which is 128 << n; callers compare R9 with 256.
//!
//! *Security*: that module accepts policy bits which it then does not derive from: MRCONFIGID, MROWNERCONFIG, MRSIGROOT, MRSIGNER
//! and ISVPRODID. A key that was asked for with one of them alone is bound to nothing, so they are refused here. MROWNER is
//! whatever the host wrote when it made the TD, no signature as MRSIGNER is; it binds only beside MRTD. MRTD measures the
//! firmware; kernel and file system are in RTMRs, which is why these can be selected. The debug attribute is always part of
//! the key.
//!
//! There is no [`Platform`](super::Platform) for it. A blob would have to record TEE_TCB_SVN beside CPUSVN, for which version 1
//! of the blob has no room; so number 5 stays reserved.

use super::PlatformError;

/// Bytes of TDKEYREQUEST.
pub const TD_KEY_REQUEST_LEN: usize = 128;

/// Bits of TDKEYPOLICY.
pub mod key_policy {
    /// The measurement of what the TD was built from.
    pub const MRTD: u64 = 1;
    /// The owner that the host named.
    pub const MROWNER: u64 = 1 << 1;
    /// The first of the runtime measurement registers.
    pub const RTMR0: u64 = 1 << 32;
    /// How many of them there are.
    pub const RTMRS: u32 = 4;
    /// Bits that have a meaning and that the module does not derive from, with their names.
    pub const UNBOUND: [(u64, &str); 5] = [
        (1 << 2, "MRCONFIGID"),
        (1 << 3, "MROWNERCONFIG"),
        (1 << 8, "MRSIGROOT"),
        (1 << 9, "MRSIGNER"),
        (1 << 10, "ISVPRODID"),
    ];
}

/// Bits of a TD's attributes.
pub mod attributes {
    /// The TD can be debugged.
    pub const DEBUG: u64 = 1;
    /// The TD can migrate.
    pub const MIGRATABLE: u64 = 1 << 29;
    /// Those that are reserved: 3:1, 15:7, 26:18, 61:32.
    pub const RESERVED: u64 = 0xe | 0xff80 | 0x07fc_0000 | 0x3fff_ffff_0000_0000;
}

/// TDKEYREQUEST, for a seal key of 256 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdKeyRequest {
    /// A number of the caller's own, which is part of the key.
    pub software_key_name: u8,
    /// See [`key_policy`]: MRTD at least.
    pub policy: u64,
    /// Which attributes are part of the key; the debug attribute always is.
    pub attributes_mask: u64,
    /// Which bits of XFAM are.
    pub xfam_mask: u64,
    /// At most the processor's; as in the TD's report.
    pub cpu_svn: [u8; 16],
    /// At most the module's; as in the TD's report. Three bytes and zeros.
    pub tee_tcb_svn: [u8; 16],
    /// Fresh for each thing that is sealed.
    pub salt: [u8; 32],
}

impl TdKeyRequest {
    /// The request's bytes, after the checks that the module makes on it alone, and those that it lacks.
    pub fn encode(&self) -> Result<[u8; TD_KEY_REQUEST_LEN], PlatformError> {
        self.check()?;
        let mut out = [0; TD_KEY_REQUEST_LEN];
        // The key's name is 0, and so are the SVNs that no policy bit uses.
        out[2] = self.software_key_name;
        out[3] = KEY_OF_256_BITS;
        out[8..16].copy_from_slice(&self.policy.to_le_bytes());
        out[16..24].copy_from_slice(&(self.attributes_mask | attributes::DEBUG).to_le_bytes());
        out[24..32].copy_from_slice(&self.xfam_mask.to_le_bytes());
        out[32..48].copy_from_slice(&self.cpu_svn);
        out[48..64].copy_from_slice(&self.tee_tcb_svn);
        out[70..102].copy_from_slice(&self.salt);
        Ok(out)
    }

    fn check(&self) -> Result<(), PlatformError> {
        if let Some((_, name)) = key_policy::UNBOUND.iter().find(|(bit, _)| self.policy & bit != 0) {
            return Err(PlatformError::CannotBind(name));
        }
        let rtmrs = ((1 << key_policy::RTMRS) - 1) * key_policy::RTMR0;
        if self.policy & !(key_policy::MRTD | key_policy::MROWNER | rtmrs) != 0
            || self.attributes_mask & attributes::RESERVED != 0
            || self.xfam_mask & XFAM_RESERVED != 0
            || self.tee_tcb_svn[3..] != [0; 13]
        {
            return Err(PlatformError::Reserved);
        }
        // Whatever else is selected, other firmware could have measured it.
        if self.policy & key_policy::MRTD == 0 {
            return Err(PlatformError::CannotBind("anything but MRTD first"));
        }
        if self.salt == [0; 32] {
            return Err(PlatformError::Malformed);
        }
        Ok(())
    }
}

const KEY_OF_256_BITS: u8 = 1 << 1;
/// XFAM has the bits of XCR0 and IA32_XSS, as far as AMX's (17 and 18).
const XFAM_RESERVED: u64 = !0x7_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> TdKeyRequest {
        let mut tee_tcb_svn = [0; 16];
        tee_tcb_svn[..3].copy_from_slice(&[7, 1, 9]);
        TdKeyRequest {
            software_key_name: 0x5e,
            policy: key_policy::MRTD | key_policy::RTMR0 << 1 | key_policy::RTMR0 << 2,
            attributes_mask: attributes::MIGRATABLE,
            xfam_mask: 0x600e7,
            cpu_svn: [0xc5; 16],
            tee_tcb_svn,
            salt: [0x5a; 32],
        }
    }

    /// Written out by hand from `td_key_request_s` of the module's source.
    #[test]
    fn the_request_is_the_modules() {
        let bytes = request().encode().unwrap();
        let mut expected = vec![0x00, 0x00, 0x5e, 0x02, 0, 0, 0, 0];
        expected.extend([0x01, 0, 0, 0, 0x06, 0, 0, 0]);
        expected.extend([0x01, 0, 0, 0x20, 0, 0, 0, 0]);
        expected.extend([0xe7, 0, 0x06, 0, 0, 0, 0, 0]);
        expected.extend([0xc5; 16]);
        expected.extend([7, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([0; 6]);
        expected.extend([0x5a; 32]);
        expected.extend([0; 26]);
        assert_eq!(bytes.to_vec(), expected);
    }

    #[test]
    fn what_the_module_takes_and_does_not_bind_is_refused() {
        for (bit, name) in key_policy::UNBOUND {
            let asked = TdKeyRequest { policy: key_policy::MRTD | bit, ..request() };
            assert_eq!(asked.encode(), Err(PlatformError::CannotBind(name)));
        }
        for policy in [0, key_policy::MROWNER, key_policy::RTMR0] {
            assert!(TdKeyRequest { policy, ..request() }.encode().is_err(), "{policy:#x} binds to no code");
        }
        TdKeyRequest { policy: key_policy::MRTD | key_policy::MROWNER, ..request() }.encode().unwrap();
    }

    #[test]
    fn reserved_bits_are_refused() {
        let good = request();
        let svn = |at: usize| {
            let mut tee_tcb_svn = good.tee_tcb_svn;
            tee_tcb_svn[at] = 1;
            tee_tcb_svn
        };
        for bit in [4, 5, 7, 11, 31, 36, 47, 48, 63] {
            let bad = TdKeyRequest { policy: good.policy | 1 << bit, ..good };
            assert_eq!(bad.encode(), Err(PlatformError::Reserved), "policy bit {bit}");
        }
        for bit in [1, 3, 7, 15, 18, 22, 23, 26, 32, 61] {
            let bad = TdKeyRequest { attributes_mask: 1 << bit, ..good };
            assert_eq!(bad.encode(), Err(PlatformError::Reserved), "attribute {bit}");
        }
        for bit in [0, 4, 5, 6, 16, 17, 27, 28, 29, 30, 31, 62, 63] {
            TdKeyRequest { attributes_mask: 1 << bit, ..good }.encode().expect("an attribute that exists");
        }
        for bad in [
            TdKeyRequest { xfam_mask: 1 << 19, ..good },
            TdKeyRequest { tee_tcb_svn: svn(3), ..good },
            TdKeyRequest { tee_tcb_svn: svn(15), ..good },
        ] {
            assert_eq!(bad.encode(), Err(PlatformError::Reserved), "{bad:?}");
        }
        assert!(TdKeyRequest { salt: [0; 32], ..good }.encode().is_err(), "a salt that was forgotten");
    }

    /// Debug and production never share a key.
    #[test]
    fn the_debug_attribute_is_always_part_of_the_key() {
        assert_eq!(TdKeyRequest { attributes_mask: 0, ..request() }.encode().unwrap()[16] & 1, 1);
    }
}
