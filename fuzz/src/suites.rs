//! Suites: one that forges, one that is quick, and a memory for any of them.
//!
//! They are ordinary implementations of the seam that every LibOS may fill. The product knows nothing of them.

use std::sync::{Arc, Mutex, PoisonError};

use sefs::suite::{Aead, AuthFailed, Nonce, SecretKey, Suite, Tag};

/// Everything authenticates and nothing is encrypted: what a host could do that had the keys. Bytes of an image are
/// plaintext, so an edit of the image is an edit of what the parsers behind authentication read.
pub struct Forging;

/// An honest suite that keeps nothing secret: tags depend on every bit of key, nonce, associated data and content, but by
/// a hash that is made to be quick.
#[derive(Default)]
pub struct Quick;

/// A suite that remembers its first results for long inputs: the header is the same for most inputs of a target.
#[derive(Default)]
pub struct Remembering<S> {
    suite: S,
    digests: Mutex<Vec<(Vec<u8>, [u8; 32])>>,
    macs: Mutex<Vec<(Vec<u8>, [u8; 32])>>,
}

/// Everything that the forging suite ever says.
const FORGED_TAG: Tag = [0x7a; 16];
const FORGED_DIGEST: [u8; 32] = [0x7b; 32];
const FORGED_KEY: [u8; 32] = [0x7c; 32];
/// From here on an input is a header, whose digest checkpoints hold: a forger has the right one.
const LONG_BYTES: usize = 16_384;
const REMEMBERED: usize = 4;

struct ForgingAead;

impl Aead for ForgingAead {
    fn seal(&self, _: &Nonce, _: &[u8], plain: &[u8], out: &mut [u8]) -> Tag {
        out.copy_from_slice(plain);
        FORGED_TAG
    }

    fn open(&self, _: &Nonce, _: &[u8], _: &mut [u8], _: &Tag) -> Result<(), AuthFailed> {
        Ok(())
    }
}

impl Suite for Forging {
    fn aead(&self, _: &SecretKey) -> Box<dyn Aead> {
        Box::new(ForgingAead)
    }

    fn derive(&self, _: &[u8], _: &SecretKey, _: &[&[u8]]) -> SecretKey {
        SecretKey::new(FORGED_KEY)
    }

    fn mac(&self, _: &SecretKey, _: &[u8]) -> [u8; 32] {
        FORGED_DIGEST
    }

    fn verify_mac(&self, _: &SecretKey, _: &[u8], _: &[u8; 32]) -> Result<(), AuthFailed> {
        Ok(())
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        // Names need different keys; everything else is compared with what the host wrote.
        match parts {
            [only] if only.len() >= LONG_BYTES => FORGED_DIGEST,
            parts => Mixer::of(parts).digest(),
        }
    }
}

struct QuickAead([u8; 32]);

impl QuickAead {
    fn tag(&self, nonce: &Nonce, associated: &[u8], plain: &[u8]) -> Tag {
        let digest = Mixer::of(&[&self.0, nonce, associated, plain]).digest();
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest[..16]);
        tag
    }
}

impl Aead for QuickAead {
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], out: &mut [u8]) -> Tag {
        out.copy_from_slice(plain);
        self.tag(nonce, associated, plain)
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed> {
        if self.tag(nonce, associated, buf) == *tag {
            return Ok(());
        }
        buf.fill(0);
        Err(AuthFailed)
    }
}

impl Suite for Quick {
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead> {
        Box::new(QuickAead(*key.expose()))
    }

    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey {
        SecretKey::new(Mixer::of(&[&[salt, secret.expose()], info].concat()).digest())
    }

    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32] {
        Mixer::of(&[key.expose(), data]).digest()
    }

    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed> {
        if self.mac(key, data) == *expected { Ok(()) } else { Err(AuthFailed) }
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        // As with SHA-256, only the concatenation counts.
        Mixer::of(&[&parts.concat()]).digest()
    }
}

/// Four lanes, so that a chunk costs four multiplications that do not wait for one another.
struct Mixer([u64; 4]);

impl Mixer {
    fn of(parts: &[&[u8]]) -> Mixer {
        let mut mixer =
            Mixer([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89]);
        parts.iter().for_each(|part| mixer.part(part));
        mixer
    }

    fn part(&mut self, part: &[u8]) {
        let (chunks, rest) = part.as_chunks::<32>();
        chunks.iter().for_each(|chunk| self.chunk(chunk));
        let mut last = [0; 32];
        last[..rest.len()].copy_from_slice(rest);
        self.chunk(&last);
        // The length separates a part from the next one.
        self.lane(0, part.len() as u64);
    }

    fn chunk(&mut self, chunk: &[u8; 32]) {
        let (words, _) = chunk.as_chunks::<8>();
        for (lane, word) in words.iter().enumerate() {
            self.lane(lane, u64::from_le_bytes(*word));
        }
    }

    fn lane(&mut self, lane: usize, word: u64) {
        self.0[lane] = (self.0[lane] ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn digest(mut self) -> [u8; 32] {
        let mut out = [0; 32];
        for round in 0..8 {
            let next = self.0[(round + 1) % 4];
            self.lane(round % 4, next.rotate_right(17));
        }
        for (bytes, lane) in out.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }
}

impl<S: Suite> Suite for Remembering<S> {
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead> {
        self.suite.aead(key)
    }

    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey {
        self.suite.derive(salt, secret, info)
    }

    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32] {
        if data.len() < LONG_BYTES {
            return self.suite.mac(key, data);
        }
        remembered(&self.macs, &[key.expose(), data], || self.suite.mac(key, data))
    }

    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed> {
        if self.mac(key, data) == *expected { Ok(()) } else { Err(AuthFailed) }
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        match parts {
            [only] if only.len() >= LONG_BYTES => remembered(&self.digests, parts, || self.suite.sha256(parts)),
            parts => self.suite.sha256(parts),
        }
    }
}

/// The result for an input that was among the first few; otherwise computed.
fn remembered(results: &Mutex<Vec<(Vec<u8>, [u8; 32])>>, parts: &[&[u8]], compute: impl Fn() -> [u8; 32]) -> [u8; 32] {
    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |input: &[u8]| {
        let mut rest = input;
        parts.iter().all(|part| rest.strip_prefix(*part).map(|after| rest = after).is_some()) && rest.is_empty()
    };
    if let Some((_, result)) = results.iter().find(|(input, _)| same(input)) {
        return *result;
    }
    let result = compute();
    if results.len() < REMEMBERED {
        results.push((parts.concat(), result));
    }
    result
}

/// A suite, shared.
pub fn shared(suite: impl Suite + 'static) -> Arc<dyn Suite> {
    Arc::new(suite)
}

#[cfg(test)]
mod tests {
    use sefs::suite::RustCrypto;

    use super::*;

    #[test]
    fn the_quick_suite_notices_every_bit() {
        let (aead, nonce) = (Quick.aead(&SecretKey::new([1; 32])), [2; 12]);
        let plain = [3; 100];
        let mut sealed = [0; 100];
        let tag = aead.seal(&nonce, &[4], &plain, &mut sealed);
        assert_eq!(aead.open(&nonce, &[4], &mut sealed.clone(), &tag), Ok(()));
        for bit in 0..800 {
            let mut changed = sealed;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(aead.open(&nonce, &[4], &mut changed, &tag), Err(AuthFailed), "bit {bit}");
        }
        assert_eq!(aead.open(&nonce, &[5], &mut sealed.clone(), &tag), Err(AuthFailed));
        assert_eq!(aead.open(&[3; 12], &[4], &mut sealed.clone(), &tag), Err(AuthFailed));
    }

    #[test]
    fn remembering_changes_no_result() {
        let (suite, key) = (Remembering::<RustCrypto>::default(), SecretKey::new([1; 32]));
        for round in 0..3 {
            for fill in 0..8 {
                let data = vec![fill; LONG_BYTES + usize::from(fill)];
                assert_eq!(suite.sha256(&[&data]), RustCrypto.sha256(&[&data]), "round {round}");
                assert_eq!(suite.mac(&key, &data), RustCrypto.mac(&key, &data), "round {round}");
            }
        }
    }
}
