//! A suite that remembers every (key, nonce) pair that ever sealed something, and with which input.
//!
//! *Invariants*: one pair never seals two different inputs. This is promise P8, and the only way to see it broken: a reused
//! nonce changes nothing that a reader notices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use sefs::suite::{Aead, AuthFailed, Nonce, SecretKey, Suite, Tag};

/// What was sealed so far, over all volumes that share this ledger.
#[derive(Clone, Default)]
pub struct Ledger {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    sealed: HashMap<([u8; 32], Nonce), [u8; 32]>,
    reuses: Vec<String>,
    seals: u64,
}

impl Ledger {
    /// Seals so far.
    pub fn seals(&self) -> u64 {
        self.lock().seals
    }

    /// Different keys that sealed something.
    pub fn keys(&self) -> usize {
        self.lock().sealed.keys().map(|(key, _)| *key).collect::<std::collections::HashSet<_>>().len()
    }

    /// Every reuse of a pair for another input.
    pub fn reuses(&self) -> Vec<String> {
        self.lock().reuses.clone()
    }

    /// Fails the test when a pair was used for two inputs.
    pub fn assert_clean(&self, context: &str) {
        let reuses = self.reuses();
        assert!(reuses.is_empty(), "{context}: {} nonce reuses, the first: {}", reuses.len(), reuses[0]);
    }

    /// Counters, the last four bytes of a nonce, that one key used for two inputs. A machine burns each before any I/O is
    /// tried, so that whatever the host refuses, none comes back; the random part of the nonce is there for clones.
    pub fn counters_used_twice(&self) -> usize {
        let shared = self.lock();
        let mut used: HashMap<([u8; 32], [u8; 4]), [u8; 32]> = HashMap::new();
        // Keys of one message have no counter.
        let counted = shared.sealed.iter().filter(|((_, nonce), _)| *nonce != Nonce::default());
        let mut twice = 0;
        for ((key, nonce), input) in counted {
            let counter = [nonce[8], nonce[9], nonce[10], nonce[11]];
            twice += usize::from(used.insert((*key, counter), *input).is_some());
        }
        twice
    }

    /// How many messages each key has sealed so far.
    pub fn marked(&self) -> HashMap<[u8; 32], u64> {
        let mut counts = HashMap::new();
        for (key, _) in self.lock().sealed.keys() {
            *counts.entry(*key).or_default() += 1;
        }
        counts
    }

    /// A suite that writes into this ledger and leaves the work to `inner`.
    pub fn suite(&self, inner: Arc<dyn Suite>) -> Arc<dyn Suite> {
        Arc::new(LedgerSuite { inner, ledger: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn record(&self, key: [u8; 32], nonce: Nonce, input: [u8; 32], what: &str) {
        let mut shared = self.lock();
        shared.seals += 1;
        match shared.sealed.insert((key, nonce), input) {
            Some(before) if before != input => {
                let reuse = format!("key {:02x?}…, nonce {nonce:02x?}, {what}", &key[..4]);
                shared.reuses.push(reuse);
            }
            _ => {}
        }
    }
}

struct LedgerSuite {
    inner: Arc<dyn Suite>,
    ledger: Ledger,
}

struct LedgerAead {
    suite: Arc<dyn Suite>,
    inner: Box<dyn Aead>,
    ledger: Ledger,
    key: [u8; 32],
}

impl Suite for LedgerSuite {
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead> {
        Box::new(LedgerAead {
            suite: self.inner.clone(),
            inner: self.inner.aead(key),
            ledger: self.ledger.clone(),
            key: self.inner.sha256(&[key.expose()]),
        })
    }

    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey {
        self.inner.derive(salt, secret, info)
    }

    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32] {
        self.inner.mac(key, data)
    }

    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed> {
        self.inner.verify_mac(key, data, expected)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.inner.sha256(parts)
    }
}

impl Aead for LedgerAead {
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], out: &mut [u8]) -> Tag {
        let lengths = [associated.len() as u64, plain.len() as u64].map(u64::to_le_bytes).concat();
        let input = self.suite.sha256(&[&lengths, associated, plain]);
        let what = format!("{} bytes, associated data {associated:02x?}", plain.len());
        self.ledger.record(self.key, *nonce, input, &what);
        self.inner.seal(nonce, associated, plain, out)
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed> {
        self.inner.open(nonce, associated, buf, tag)
    }

    /// What is decrypted is no message that was sealed.
    fn decrypt_verified(&self, nonce: &Nonce, buf: &mut [u8]) {
        self.inner.decrypt_verified(nonce, buf);
    }
}
