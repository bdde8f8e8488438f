//! `tpm`: SGX's identity model and checks over a root key in a TPM 2.0, for machines without enclaves.
//!
//! Seal key = HKDF-Expand(root key, "sealing 1 tpm seal key" ‖ derivation structure, 32), as with `software`; the root is
//! [`crate::tpm::Root`]'s. MRSIGNER is SHA-256("sealing 1 tpm signer" ‖ Name of the approver's key): who says which boot
//! states are good. The rest of the identity is the caller's word, which is worth what the measured boot is.
//!
//! *Security*: a TPM that is a program has nothing behind it but that program. Only a device of the kernel's, from a maker of
//! chips or of processors with one inside, counts as measured boot, all else is for development: a swtpm says so itself,
//! and whoever pretends otherwise has to be the kernel. Nothing that a TPM says makes it hardware assurance.

use sha2::{Digest, Sha256};

use super::egetkey::Derivation;
use super::software::seal_key;
use super::{Assurance, Difference, Identity, KeyRequest, Platform, PlatformError, PlatformKind, Versions};
use crate::prk::Prk;
use crate::secret::Secret;
use crate::tpm::{APPROVER_LEN, Maker, Root, Tcti, TpmError, approver_name};

/// A machine with a TPM.
pub struct Tpm {
    root: Result<Prk, TpmError>,
    assurance: Assurance,
    identity: Identity,
    cpu_svn: [u8; 16],
}

impl Tpm {
    /// The machine whose TPM holds `root`. If its boot state was not approved there is a platform, which says so in
    /// [`Platform::refusals`] and derives no key. `identity` gets its MRSIGNER from the approver. `cpu_svn` has one version
    /// in each byte.
    pub fn open(root: &Root, identity: Identity, cpu_svn: [u8; 16]) -> Result<Tpm, TpmError> {
        let (maker, opened) = root.open_with_maker()?;
        let root_key = match opened {
            Err(error @ (TpmError::NotApproved(_) | TpmError::NothingApproved)) => Err(error),
            opened => Ok(Prk::from_key(opened?)),
        };
        let identity = Identity { mrsigner: signer(&root.approver)?, ..identity };
        Ok(Tpm { root: root_key, assurance: assurance(&maker, &root.tcti), identity, cpu_svn })
    }
}

/// What MRSIGNER is under an approver.
pub fn signer(approver: &[u8; APPROVER_LEN]) -> Result<[u8; 32], TpmError> {
    let name = approver_name(approver)?;
    Ok(Sha256::new().chain_update(b"sealing 1 tpm signer").chain_update(name.0).finalize().into())
}

/// What stands behind a TPM of this maker at this place.
pub fn assurance(maker: &Maker, tcti: &Tcti) -> Assurance {
    let is_chip = CHIP_MAKERS.contains(&maker.manufacturer.as_str()) && !maker.vendor.starts_with("SW");
    if tcti.is_device() && is_chip { Assurance::MeasuredBoot } else { Assurance::Development }
}

impl Platform for Tpm {
    fn kind(&self) -> PlatformKind {
        PlatformKind::Tpm
    }

    fn assurance(&self) -> Assurance {
        self.assurance
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn versions(&self) -> Versions {
        Versions { cpu_svn: self.cpu_svn, isv_svn: self.identity.isv_svn, config_svn: self.identity.config_svn }
    }

    fn derive(&self, request: &KeyRequest) -> Result<Secret, PlatformError> {
        let exists = request.cpu_svn.iter().zip(&self.cpu_svn).all(|(requested, current)| requested <= current);
        let derivation = Derivation::check(request, &self.identity, &request.cpu_svn, exists, &[0; 16])?;
        let root = self.root.as_ref().map_err(|_| PlatformError::NotApproved)?;
        Ok(seal_key(root, LABEL, &derivation))
    }

    fn refusals(&self) -> Vec<Difference> {
        match &self.root {
            Ok(_) => Vec::new(),
            Err(TpmError::NotApproved(differences)) => {
                let named = differences.iter().map(|it| Difference {
                    field: PCRS[usize::from(it.register)],
                    sealed: hex(&it.approved),
                    here: hex(&it.here),
                });
                named.collect()
            }
            Err(_) => {
                let (sealed, here) = ("no boot state is approved".to_string(), "any".to_string());
                vec![Difference { field: "boot state", sealed, here }]
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const LABEL: &[u8] = b"sealing 1 tpm seal key";

/// Makers of chips, and of processors with a TPM inside (TCG TPM Vendor ID Registry). Not IBM, whose name libtpms has and so
/// swtpm and QEMU, nor Microsoft and Google, whose TPMs are a hypervisor's.
const CHIP_MAKERS: [&str; 21] = [
    "AMD", "ATML", "BRCM", "CSCO", "FLYS", "HPE", "IFX", "INTC", "LEN", "NSM", "NTC", "NTZ", "QCOM", "ROCC", "SECE",
    "SMSC", "SMSN", "SNS", "STM", "TXN", "WEC",
];

const PCRS: [&str; 24] = [
    "PCR 0", "PCR 1", "PCR 2", "PCR 3", "PCR 4", "PCR 5", "PCR 6", "PCR 7", "PCR 8", "PCR 9", "PCR 10", "PCR 11",
    "PCR 12", "PCR 13", "PCR 14", "PCR 15", "PCR 16", "PCR 17", "PCR 18", "PCR 19", "PCR 20", "PCR 21", "PCR 22",
    "PCR 23",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_makers_chip_behind_the_kernel_is_measured_boot() {
        let judged = |tcti: &str, manufacturer: &str, vendor: &str| {
            let maker = Maker { manufacturer: manufacturer.into(), vendor: vendor.into(), firmware: 0 };
            assurance(&maker, &tcti.parse().unwrap())
        };
        assert_eq!(judged("device:/dev/tpmrm0", "IFX", "SLB9670"), Assurance::MeasuredBoot);
        // What a swtpm says of itself, behind a kernel that passes it on.
        assert_eq!(judged("device:/dev/tpmrm0", "IBM", "SW   TPM"), Assurance::Development);
        assert_eq!(judged("device:/dev/tpmrm0", "IFX", "SW   TPM"), Assurance::Development);
        assert_eq!(judged("device:/dev/tpmrm0", "", ""), Assurance::Development);
        // A program at the other end says what it likes.
        assert_eq!(judged("swtpm:127.0.0.1:2321", "IFX", "SLB9670"), Assurance::Development);
        assert_eq!(judged("mssim:127.0.0.1:2321", "IFX", "SLB9670"), Assurance::Development);
    }
}
