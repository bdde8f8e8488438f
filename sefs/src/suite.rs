//! Cryptography behind one seam: AEAD, digest, MAC and key derivation.

use alloc::boxed::Box;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes. Neither `Debug` nor `Clone`; wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Takes the bytes over; the caller wipes its own copy.
    pub fn new(bytes: [u8; 32]) -> SecretKey {
        SecretKey(bytes)
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
