//! Known answers, and what a failed opening leaves.

use alloc::vec;
use alloc::vec::Vec;

use super::*;

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn array<const N: usize>(digits: &str) -> [u8; N] {
    hex(digits).try_into().unwrap()
}

fn check_gcm(key: &str, nonce: &str, associated: &str, plain: &str, cipher: &str, tag: &str) {
    let aead = RustCrypto.aead(&SecretKey::new(array(key)));
    let (nonce, associated, plain) = (array(nonce), hex(associated), hex(plain));
    let mut out = vec![0; plain.len()];
    let sealed = aead.seal(&nonce, &associated, &plain, &mut out);
    assert_eq!((&out, sealed), (&hex(cipher), array(tag)));
    assert_eq!(aead.open(&nonce, &associated, &mut out, &sealed), Ok(()));
    assert_eq!(out, plain);
}

const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
const PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                     b16aedf5aa0de657ba637b391aafd255";
const CIPHER: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
                      c5f61e6393ba7a0abcc9f662898015ad";
const NONCE: &str = "cafebabefacedbaddecaf888";

/// Test cases 13 to 16 of "The Galois/Counter Mode of Operation", which NIST SP 800-38D builds on.
#[test]
fn aes_256_gcm_gives_the_published_answers() {
    let zero = "00".repeat(32);
    check_gcm(&zero, &"00".repeat(12), "", "", "", "530f8afbc74536b9a963b4f1c4cb738b");
    let cipher = "cea7403d4d606b6e074ec5d3baf39d18";
    check_gcm(&zero, &"00".repeat(12), "", &"00".repeat(16), cipher, "d0d1c8a799996bf0265b98b5d48ab919");
    check_gcm(KEY, NONCE, "", PLAIN, CIPHER, "b094dac5d93471bdec1a502270e3cc6c");
    let associated = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    check_gcm(KEY, NONCE, associated, &PLAIN[..120], &CIPHER[..120], "76fc6ece0f4e1768cddf8853bb2d551b");
}

/// RFC 5869, A.1 to A.3: the first 32 bytes of each output.
#[test]
fn hkdf_gives_the_published_answers() {
    let check = |salt: &[u8], secret: &[u8], info: &[&[u8]], expected: &str| {
        assert_eq!(*hkdf(salt, secret, info).expose(), array::<32>(expected));
    };
    let bytes = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    let first = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf";
    check(&bytes(0, 12), &[0x0b; 22], &[&bytes(0xf0, 0xf9)], first);
    check(&bytes(0, 12), &[0x0b; 22], &[&bytes(0xf0, 0xf3), &bytes(0xf4, 0xf9)], first);
    let second = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c";
    check(&bytes(0x60, 0xaf), &bytes(0, 0x4f), &[&bytes(0xb0, 0xff)], second);
    let third = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
    check(&[], &[0x0b; 22], &[], third);
    let secret = SecretKey::new([0x0b; 32]);
    assert_eq!(RustCrypto.derive(b"s", &secret, &[b"ab"]).expose(), hkdf(b"s", &[0x0b; 32], &[b"a", b"b"]).expose());
}

/// RFC 4231, test cases 1 and 2.
#[test]
fn hmac_gives_the_published_answers() {
    let mac = |key: &[u8], data: &[u8]| -> [u8; 32] { hmac(key, data).finalize().into_bytes().into() };
    let first = array("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    assert_eq!(mac(&[0x0b; 20], b"Hi There"), first);
    let second = array("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_eq!(mac(b"Jefe", b"what do ya want for nothing?"), second);
    let key = SecretKey::new([7; 32]);
    let mut mac = RustCrypto.mac(&key, b"data");
    assert_eq!(RustCrypto.verify_mac(&key, b"data", &mac), Ok(()));
    mac[31] ^= 1;
    assert_eq!(RustCrypto.verify_mac(&key, b"data", &mac), Err(AuthFailed));
}

#[test]
fn sha256_is_of_the_concatenation() {
    let expected = array("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(RustCrypto.sha256(&[b"abc"]), expected);
    assert_eq!(RustCrypto.sha256(&[b"a", b"", b"bc"]), expected);
}

#[test]
fn a_changed_byte_anywhere_does_not_open() {
    let aead = RustCrypto.aead(&SecretKey::new([1; 32]));
    let (nonce, plain) = ([2; 12], vec![3; 5000]);
    let mut sealed = vec![0; plain.len()];
    let tag = aead.seal(&nonce, b"associated", &plain, &mut sealed);
    for at in [0, 1, 4095, 4096, 4999] {
        let mut changed = sealed.clone();
        changed[at] ^= 0x80;
        assert_eq!(aead.open(&nonce, b"associated", &mut changed, &tag), Err(AuthFailed), "byte {at}");
        assert_eq!(changed, vec![0; plain.len()], "a failed opening leaves nothing");
    }
    assert_eq!(aead.open(&nonce, b"associateD", &mut sealed.clone(), &tag), Err(AuthFailed));
    assert_eq!(aead.open(&[9; 12], b"associated", &mut sealed.clone(), &tag), Err(AuthFailed));
    assert_eq!(aead.open(&nonce, b"associated", &mut sealed, &tag), Ok(()));
    assert_eq!(sealed, plain);
}

#[cfg(feature = "std")]
#[test]
fn the_generator_yields_different_bytes() {
    let mut bytes = [[0; 32]; 2];
    bytes.iter_mut().for_each(|out| OsRng.fill(out).unwrap());
    assert_ne!(bytes[0], bytes[1]);
}
