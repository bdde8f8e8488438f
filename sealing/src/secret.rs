//! Secrets in memory: wiped on drop, neither printed nor copied by accident.
//!
//! *Invariants*: no `Debug`, no `Clone`, no serde. The bytes live in one heap block that never moves or grows, so that
//! moving the owner leaves nothing behind.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::rng::{Rng, RngFailed};

/// 32 secret bytes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Key(Box<[u8; 32]>);

impl Key {
    /// A key of zeros, to be filled in place.
    pub fn zeroed() -> Key {
        Key(Box::new([0; 32]))
    }

    /// Copies the bytes; the caller wipes its own.
    pub fn from_bytes(bytes: &[u8; 32]) -> Key {
        let mut key = Key::zeroed();
        key.0.copy_from_slice(bytes);
        key
    }

    /// A fresh random key.
    pub fn random(rng: &dyn Rng) -> Result<Key, RngFailed> {
        let mut key = Key::zeroed();
        rng.fill(&mut key.0[..])?;
        Ok(key)
    }

    /// The bytes, for what needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes, to be filled in.
    pub fn expose_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

/// A secret of any length, such as a passphrase.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over. The vector is wiped with all of its capacity.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes, for what needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
