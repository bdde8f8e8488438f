//! Which cryptography a tool runs on. A volume is the same bytes with either provider.
//!
//! *Security*: the AEAD is the part that every stored byte passes through, and the only one that differs. Key derivation,
//! digests and authentication codes are those of [`RustCrypto`] with both. AWS-LC is C and assembly: it is for hosts that
//! hold the key anyway, while an enclave links [`RustCrypto`], which is in the library itself.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as LcNonce, UnboundKey};
use sefs::suite::{Aead, AuthFailed, Nonce, RustCrypto, SecretKey, Suite, Tag};
use sefs::vfs::Env;

/// A provider of the suite `aes-256-gcm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CryptoKind {
    /// AES-GCM of AWS-LC: the default.
    #[default]
    AwsLc,
    /// AES-GCM in Rust, as in an enclave.
    Rustcrypto,
}

impl CryptoKind {
    /// What a volume needs from this host, with this provider.
    pub fn host_env(self) -> Env {
        let suite: Arc<dyn Suite> = match self {
            CryptoKind::AwsLc => Arc::new(AwsLc),
            CryptoKind::Rustcrypto => Arc::new(RustCrypto),
        };
        Env { suite, ..Env::host() }
    }
}

impl fmt::Display for CryptoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CryptoKind::AwsLc => "aws-lc",
            CryptoKind::Rustcrypto => "rustcrypto",
        })
    }
}

/// The suite with the AES-GCM of AWS-LC, which wipes expanded keys when it frees them.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl Suite for AwsLc {
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead> {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256 takes keys of 32 bytes");
        Box::new(AesGcm(LessSafeKey::new(key)))
    }

    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey {
        RustCrypto.derive(salt, secret, info)
    }

    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32] {
        RustCrypto.mac(key, data)
    }

    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed> {
        RustCrypto.verify_mac(key, data, expected)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.sha256(parts)
    }
}

/// An expanded key. "Less safe" means that the caller names the nonce; the sealer burns each before it uses it.
struct AesGcm(LessSafeKey);

impl Aead for AesGcm {
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], own: &mut [u8]) -> Tag {
        assert_eq!(plain.len(), own.len(), "ciphertext is as long as its plaintext");
        let (nonce, associated) = (LcNonce::assume_unique_for_key(*nonce), Aad::from(associated));
        let mut tag = [0; 16];
        let sealed = self.0.seal_out_of_place_scatter(nonce, associated, plain, own, &[], &mut tag);
        sealed.expect("messages are far below GCM's limit of 64 GiB");
        tag
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed> {
        let (nonce, associated) = (LcNonce::assume_unique_for_key(*nonce), Aad::from(associated));
        if self.0.open_in_place_separate_tag(nonce, associated, tag, buf).is_ok() {
            return Ok(());
        }
        // The library leaves open what it leaves there.
        buf.fill(0);
        Err(AuthFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 14] = [0, 1, 15, 16, 17, 127, 128, 255, 256, 4048, 4096, 4097, 16_384, 70_001];

    fn both(key: u8) -> [Box<dyn Aead>; 2] {
        [AwsLc.aead(&SecretKey::new([key; 32])), RustCrypto.aead(&SecretKey::new([key; 32]))]
    }

    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|at| ((at * 7 + seed * 31) % 251) as u8).collect()
    }

    #[test]
    fn both_seal_to_the_same_bytes_and_open_what_the_other_sealed() {
        for (seed, len) in LENGTHS.into_iter().enumerate() {
            for associated in [0, 1, 3, 16, 64].map(|len| bytes(len, seed)) {
                // No two bytes of a nonce are the same: one that is read in another order is another one.
                let nonce = core::array::from_fn(|at| (13 * at + seed) as u8);
                let plain = bytes(len, seed);
                let sealed = both(seed as u8).map(|aead| {
                    let mut own = vec![0; len];
                    let tag = aead.seal(&nonce, &associated, &plain, &mut own);
                    (own, tag)
                });
                assert_eq!(sealed[0], sealed[1], "{len} bytes, {} associated", associated.len());
                for aead in both(seed as u8) {
                    let (mut buf, tag) = sealed[0].clone();
                    assert_eq!(aead.open(&nonce, &associated, &mut buf, &tag), Ok(()));
                    assert_eq!(buf, plain);
                }
            }
        }
    }

    #[test]
    fn both_refuse_what_was_changed_and_leave_nothing_of_it() {
        for aead in both(3) {
            let plain = bytes(5000, 1);
            let mut sealed = vec![0; plain.len()];
            let tag = aead.seal(&[4; 12], b"associated", &plain, &mut sealed);
            let refused = |nonce: &Nonce, associated: &[u8], change: Option<usize>, tag: &Tag| {
                let mut buf = sealed.clone();
                if let Some(at) = change {
                    buf[at] ^= 0x40;
                }
                assert_eq!(aead.open(nonce, associated, &mut buf, tag), Err(AuthFailed));
                assert_eq!(buf, vec![0; plain.len()]);
            };
            for at in [0, 1, 15, 16, 4095, 4096, 4999] {
                refused(&[4; 12], b"associated", Some(at), &tag);
            }
            refused(&[5; 12], b"associated", None, &tag);
            refused(&[4; 12], b"associateD", None, &tag);
            for at in 0..16 {
                let mut tag = tag;
                tag[at] ^= 1;
                refused(&[4; 12], b"associated", None, &tag);
            }
        }
    }
}
