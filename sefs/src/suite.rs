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
    /// Encrypts `plain` into `out` (same length) and returns the tag. `out` may be memory that the host sees: the
    /// plaintext is never written there.
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], out: &mut [u8]) -> Tag;
    /// Verifies and decrypts `buf` in place; on failure `buf` holds nothing useful.
    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed>;
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

/// Ciphertexts up to this long are made on the stack.
const STACK_LEN: usize = 4096;

impl Aead for AesGcm {
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], out: &mut [u8]) -> Tag {
        // The tag is computed over the ciphertext after it was written. Were it written to memory that the host sees,
        // the host could change it in between, and we would authenticate the host's bytes. So it is made in memory of
        // our own and copied out.
        if plain.len() <= STACK_LEN {
            self.seal_through(nonce, associated, plain, &mut [0; STACK_LEN][..plain.len()], out)
        } else {
            self.seal_through(nonce, associated, plain, &mut alloc::vec![0; plain.len()], out)
        }
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed> {
        self.0.decrypt_inout_detached(nonce.into(), associated, InOutBuf::from(buf), tag.into()).map_err(|_| AuthFailed)
    }
}

impl AesGcm {
    fn seal_through(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], own: &mut [u8], out: &mut [u8]) -> Tag {
        let buffer = InOutBuf::new(plain, own).expect("both are as long as the plaintext");
        let sealed = self.0.encrypt_inout_detached(nonce.into(), associated, buffer);
        let tag = sealed.expect("messages are far below GCM's limit of 64 GiB");
        out.copy_from_slice(own);
        tag.into()
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
