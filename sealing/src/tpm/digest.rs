//! Names and policy digests, computed here instead of asked for (TPM 2.0 Library Specification, part 1 "Names", part 3
//! "Enhanced Authorization Commands"). All of them with SHA-256; integers in the TPM's words are big-endian.
//!
//! ```text
//! Name              = 000b ‖ H(public area)
//! PolicyPCR         = H(before ‖ 0000017f ‖ selection ‖ H(PCR values))
//! PolicySecret      = H(H(before ‖ 00000151 ‖ Name of the entity) ‖ policy reference)
//! PolicyAuthorize   = H(H(zero ‖ 0000016a ‖ Name of the key) ‖ policy reference)
//! ```
//! *Security*: what a TPM says of an object is compared with what stands here, so that it cannot say something else.

use core::fmt;

use sha2::{Digest, Sha256};

/// A TPM's name for an object: which algorithm, and the digest of the public area. Nothing else has the same one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(pub [u8; 34]);

/// Registers of the SHA-256 bank, at least one of the 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcrSet(u32);

/// Registers that a TPM for a PC has.
pub const PCR_COUNT: u8 = 24;

impl Name {
    /// The name of an object with this public area, a TPMT_PUBLIC or TPMS_NV_PUBLIC.
    pub fn of(public_area: &[u8]) -> Name {
        let mut name = [0; 34];
        name[..2].copy_from_slice(&SHA256.to_be_bytes());
        name[2..].copy_from_slice(&hash(&[public_area]));
        Name(name)
    }
}

impl PcrSet {
    /// These registers; `None` if there are none, or one that does not exist.
    pub fn new(registers: &[u8]) -> Option<PcrSet> {
        let all_exist = registers.iter().all(|&register| register < PCR_COUNT);
        let bits = registers.iter().fold(0, |bits, &register| bits | 1_u32.checked_shl(register.into()).unwrap_or(0));
        (all_exist && bits != 0).then_some(PcrSet(bits))
    }

    /// The registers, ascending.
    pub fn registers(self) -> impl Iterator<Item = u8> {
        (0..PCR_COUNT).filter(move |register| self.0 >> register & 1 == 1)
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.registers().count()
    }

    /// TPML_PCR_SELECTION: one selection, in the SHA-256 bank, of three bytes.
    pub fn encode(self) -> [u8; 10] {
        let bits = self.0.to_le_bytes();
        let bank = SHA256.to_be_bytes();
        [0, 0, 0, 1, bank[0], bank[1], 3, bits[0], bits[1], bits[2]]
    }
}

/// The policy "these registers have these values", in a session that asked for nothing before.
pub fn policy_pcr(set: PcrSet, values: &[[u8; 32]]) -> [u8; 32] {
    let values = hash(&[values.as_flattened()]);
    hash(&[&[0; 32], &POLICY_PCR.to_be_bytes(), &set.encode(), &values])
}

/// The policy "whoever uses it knows the authorization of this entity".
pub fn policy_secret(entity: &Name) -> [u8; 32] {
    hash(&[&hash(&[&[0; 32], &POLICY_SECRET.to_be_bytes(), &entity.0])])
}

/// The policy "what this key approved under this reference".
pub fn policy_authorize(key: &Name, reference: &[u8; 32]) -> [u8; 32] {
    hash(&[&hash(&[&[0; 32], &POLICY_AUTHORIZE.to_be_bytes(), &key.0]), reference])
}

/// What is signed to approve a policy.
pub(super) fn approved(policy: &[u8; 32], reference: &[u8; 32]) -> [u8; 32] {
    hash(&[policy, reference])
}

pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().into()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// TPM_ALG_SHA256.
pub(super) const SHA256: u16 = 0x000b;
const POLICY_SECRET: u32 = 0x0151;
const POLICY_AUTHORIZE: u32 = 0x016a;
const POLICY_PCR: u32 = 0x017f;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_its_registers() {
        let set = PcrSet::new(&[7, 0, 16, 7]).unwrap();
        assert_eq!(set.registers().collect::<Vec<_>>(), [0, 7, 16]);
        assert_eq!(set.encode(), [0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0, 1]);
        for none in [&[][..], &[24], &[0, 200]] {
            assert_eq!(PcrSet::new(none), None);
        }
    }
}
