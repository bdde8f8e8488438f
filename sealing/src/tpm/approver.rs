//! Who approves boot states, and what an approval is: a signature that a TPM can verify.
//!
//! The approver's key is 32 secret bytes that are kept away from the machine. The P-256 key is
//! HKDF-Expand(those, "sealing 1 tpm approver" ‖ attempt u8, 32), the first attempt that is a scalar of the curve.
//!
//! Signed is SHA-256(policy ‖ reference): the policy says which PCRs have which values, the reference is
//! SHA-256("sealing 1 tpm boot state"), so that nothing that was signed for something else is an approval.

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::structures::{
    EccParameter, EccPoint, EccScheme, HashScheme, Public, PublicBuilder, PublicEccParametersBuilder,
};

use super::digest::{self, PcrSet};
use super::error::TpmError;
use crate::secret::Key;

/// Bytes of an approver's public key: a point of P-256, uncompressed (SEC 1, 2.3.3).
pub const APPROVER_LEN: usize = 65;

/// The approver's key.
pub struct ApproverKey(SigningKey);

/// A boot state that was approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootApproval {
    /// What the selected registers hold, ascending.
    pub values: Vec<[u8; 32]>,
    /// ECDSA: r, s.
    pub signature: [u8; 64],
}

impl ApproverKey {
    /// The key of 32 secret bytes.
    pub fn new(secret: &Key) -> ApproverKey {
        let hkdf = hkdf::Hkdf::<sha2::Sha256>::from_prk(secret.expose()).expect("32 bytes are a pseudorandom key");
        for attempt in 0..=u8::MAX {
            let mut scalar = Key::zeroed();
            // 32 bytes are far below HKDF's limit.
            hkdf.expand_multi_info(&[LABEL, &[attempt]], scalar.expose_mut()).expect("32 bytes");
            if let Ok(key) = SigningKey::from_slice(scalar.expose()) {
                return ApproverKey(key);
            }
        }
        // Each attempt fails with a probability of 2^-32.
        unreachable!("256 numbers in a row that are no scalar of P-256")
    }

    /// The public key.
    pub fn public(&self) -> [u8; APPROVER_LEN] {
        let point = self.0.verifying_key().to_sec1_point(false);
        let mut out = [0; APPROVER_LEN];
        out.copy_from_slice(point.as_bytes());
        out
    }

    /// Approves the state in which the registers of `set` hold `values`.
    pub fn approve(&self, set: PcrSet, values: &[[u8; 32]]) -> Result<BootApproval, TpmError> {
        if values.len() != set.count() {
            return Err(TpmError::Approval);
        }
        let message = digest::approved(&digest::policy_pcr(set, values), &reference());
        let signature: Signature = self.0.sign_prehash(&message).map_err(|_| TpmError::Approver)?;
        Ok(BootApproval { values: values.to_vec(), signature: signature.to_bytes().into() })
    }
}

/// The reference under which boot states are approved.
pub fn reference() -> [u8; 32] {
    digest::hash(&[b"sealing 1 tpm boot state"])
}

/// The approver's key as a TPM takes it.
pub(super) fn public_area(approver: &[u8; APPROVER_LEN]) -> Result<Public, TpmError> {
    p256::PublicKey::from_sec1_bytes(approver).map_err(|_| TpmError::Approver)?;
    let parameter = |bytes: &[u8]| EccParameter::try_from(bytes);
    let build = || {
        let attributes = ObjectAttributesBuilder::new().with_user_with_auth(true).with_sign_encrypt(true).build()?;
        let scheme = EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256));
        PublicBuilder::new()
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_ecc_parameters(
                PublicEccParametersBuilder::new_unrestricted_signing_key(scheme, EccCurve::NistP256).build()?,
            )
            .with_ecc_unique_identifier(EccPoint::new(parameter(&approver[1..33])?, parameter(&approver[33..])?))
            .build()
    };
    build().map_err(TpmError::of("the approver's key"))
}

const LABEL: &[u8] = b"sealing 1 tpm approver";
