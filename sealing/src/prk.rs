//! What blobs, slots and root keys have in common: HKDF's pseudorandom key, expanded one block at a time.

use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroize;

use crate::secret::Key;

/// HKDF's pseudorandom key (RFC 5869, 2.2).
pub(crate) struct Prk(Key);

/// Only [`Prk::verify`] makes one: the commitment was compared.
pub(crate) struct Committed(());

/// What a key that seals one message ever can have for a nonce.
pub(crate) const ZERO_NONCE: Nonce<aes_gcm::aead::consts::U12> = aes_gcm::aead::array::Array([0; 12]);

impl Prk {
    pub(crate) fn extract(salt: &[u8], input: &[u8]) -> Prk {
        let (mut prk, _) = Hkdf::<Sha256>::extract(Some(salt), input);
        let mut key = Key::zeroed();
        key.expose_mut().copy_from_slice(&prk);
        prk.as_mut_slice().zeroize();
        Prk(key)
    }

    /// A root that is one already: 32 uniform bytes.
    #[cfg(feature = "tpm")]
    pub(crate) fn from_key(key: Key) -> Prk {
        Prk(key)
    }

    /// HKDF-Expand of one block (RFC 5869, 2.3).
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Key {
        let mut bytes = self.block(info).finalize().into_bytes();
        let mut key = Key::zeroed();
        key.expose_mut().copy_from_slice(&bytes);
        bytes.as_mut_slice().zeroize();
        key
    }

    /// The same for an output that is no secret.
    pub(crate) fn commitment(&self, info: &[&[u8]]) -> [u8; 32] {
        self.block(info).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, info: &[&[u8]], commitment: &[u8; 32]) -> Option<Committed> {
        self.block(info).verify(commitment.into()).ok().map(|()| Committed(()))
    }

    pub(crate) fn aead(&self, info: &[&[u8]]) -> Aes256Gcm {
        Aes256Gcm::new(self.expand(info).expose().into())
    }

    fn block(&self, info: &[&[u8]]) -> Hmac<Sha256> {
        // HMAC takes keys of any length, so this cannot fail.
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.0.expose()).expect("any length");
        info.iter().for_each(|part| mac.update(part));
        mac.update(&[1]);
        mac
    }
}
