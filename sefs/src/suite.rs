//! Cryptography behind one seam: AEAD, digest, MAC and key derivation.

use alloc::boxed::Box;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes. Neither `Debug` nor `Clone`; wiped on drop. They stand in one place of the heap, so that moving the owner
/// leaves nothing behind.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey(Box<[u8; 32]>);

impl SecretKey {
    /// Takes the bytes over; the caller wipes its own copy.
    pub fn new(mut bytes: [u8; 32]) -> SecretKey {
        let key = SecretKey::copy_of(&bytes);
        bytes.zeroize();
        key
    }

    /// Copies the bytes, from one place to another and none between.
    pub fn copy_of(bytes: &[u8; 32]) -> SecretKey {
        let mut key = SecretKey(Box::new([0; 32]));
        key.0.copy_from_slice(bytes);
        key
    }

    /// The bytes, for a provider that needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A 96-bit nonce.
pub type Nonce = [u8; 12];
/// A 128-bit authentication tag.
pub type Tag = [u8; 16];

/// The bytes did not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthFailed;

/// An AEAD with its key expanded.
pub trait Aead: Send + Sync {
    /// Encrypts `plain` into `own` (same length) and returns the tag. `own` is memory that only we see: the tag is computed
    /// over the ciphertext after it was written, and a host that changed it in between would have its own bytes
    /// authenticated. The caller copies it out to where the host sees it.
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], own: &mut [u8]) -> Tag;
    /// Verifies and decrypts `buf`, which is our own memory too, in place; on failure `buf` is zeroed.
    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed>;
    /// Decrypts in place what was verified by other means, a digest of the ciphertext say. GCM's cipher is a key stream
    /// (SP 800-38D, section 7), so encrypting the ciphertext again is decrypting it; the tag that comes with it means nothing.
    fn decrypt_verified(&self, nonce: &Nonce, buf: &mut [u8]) {
        let cipher = buf.to_vec();
        self.seal(nonce, &[], &cipher, buf);
    }
}

/// A provider of the suite `aes-256-gcm` with SHA-256.
pub trait Suite: Send + Sync {
    /// Expands an AES-256-GCM key.
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead>;
    /// HKDF-SHA256 (RFC 5869) to 32 bytes; `info` is the concatenation of its parts.
    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey;
    /// HMAC-SHA256.
    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32];
    /// Compares in constant time.
    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed>;
    /// SHA-256 of the concatenation of the parts.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];
}

/// A fallible source of random bytes. Failure stops what needed them.
pub trait Rng: Send + Sync {
    /// Fills `out` with bytes from the hardware's or the operating system's generator.
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed>;
}

/// The generator failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngFailed;

/// The suite on the RustCrypto crates.
#[derive(Clone, Copy, Debug, Default)]
pub struct RustCrypto;

impl Suite for RustCrypto {
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead> {
        Box::new(AesGcm(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key.expose()))))
    }

    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey {
        hkdf(salt, secret.expose(), info)
    }

    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32] {
        hmac(key.expose(), data).finalize().into_bytes().into()
    }

    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed> {
        hmac(key.expose(), data).verify(expected.into()).map_err(|_| AuthFailed)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update(part);
        }
        digest.finalize().into()
    }
}

fn hkdf(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> SecretKey {
    let mut derived = SecretKey(Box::new([0; 32]));
    let expanded = Hkdf::<Sha256>::new(Some(salt), secret).expand_multi_info(info, &mut derived.0[..]);
    expanded.expect("HKDF-SHA256 yields up to 8,160 bytes");
    derived
}

fn hmac(key: &[u8], data: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac
}

struct AesGcm(Aes256Gcm);

impl Aead for AesGcm {
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], own: &mut [u8]) -> Tag {
        let buffer = InOutBuf::new(plain, own).expect("both are as long as the plaintext");
        let sealed = self.0.encrypt_inout_detached(nonce.into(), associated, buffer);
        sealed.expect("messages are far below GCM's limit of 64 GiB").into()
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed> {
        let opened = self.0.decrypt_inout_detached(nonce.into(), associated, InOutBuf::from(&mut *buf), tag.into());
        opened.map_err(|_| {
            buf.fill(0);
            AuthFailed
        })
    }
}

/// The operating system's generator.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

#[cfg(feature = "std")]
impl Rng for OsRng {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        getrandom::fill(out).map_err(|_| RngFailed)
    }
}

#[cfg(test)]
mod tests;
