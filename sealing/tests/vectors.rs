//! The primitives against Project Wycheproof's vectors and RFC 5869's.

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::{AeadInOut, consts};
use aes_gcm::{AesGcm, KeyInit, Nonce, Tag};
use cmac::{Cmac, Mac};
use hkdf::Hkdf;
use sha2::Sha256;
use wycheproof::{TestResult, aead, hkdf as hkdf_vectors, mac};

fn opens<C>(key: &[u8], test: &aead::Test) -> bool
where
    AesGcm<C, consts::U12>: KeyInit + AeadInOut<NonceSize = consts::U12, TagSize = consts::U16>,
{
    let cipher = <AesGcm<C, consts::U12> as KeyInit>::new_from_slice(key).expect("the group's key size");
    let nonce: [u8; 12] = test.nonce[..].try_into().expect("only such were selected");
    let Ok(tag) = <[u8; 16]>::try_from(&test.tag[..]) else { return false };
    let mut data = test.ct.to_vec();
    let opened =
        cipher.decrypt_inout_detached(&Nonce::from(nonce), &test.aad, data.as_mut_slice().into(), &Tag::from(tag));
    opened.is_ok() && data[..] == test.pt[..]
}

#[test]
fn aes_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).expect("the crate's own file");
    let mut count = 0;
    for group in set.test_groups.iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128) {
        for test in &group.tests {
            let opened = match group.key_size {
                128 => opens::<Aes128>(&test.key, test),
                256 => opens::<Aes256>(&test.key, test),
                _ => continue,
            };
            assert_eq!(opened, test.result != TestResult::Invalid, "test {}: {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    assert!(count > 100, "{count} tests");
}

#[test]
fn hkdf_sha256() {
    let set = hkdf_vectors::TestSet::load(hkdf_vectors::TestName::HkdfSha256).expect("the crate's own file");
    let mut count = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut out = vec![0; test.size];
        let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut out);
        let right = expanded.is_ok() && out[..] == test.okm[..];
        assert_eq!(right, test.result != TestResult::Invalid, "test {}: {}", test.tc_id, test.comment);
        count += 1;
    }
    assert!(count > 50, "{count} tests");
}

#[test]
fn aes_cmac() {
    let set = mac::TestSet::load(mac::TestName::AesCmac).expect("the crate's own file");
    let mut count = 0;
    for group in &set.test_groups {
        for test in group.tests.iter().filter(|_| group.tag_size == 128) {
            let right = match group.key_size {
                128 => verifies(<Cmac<Aes128> as KeyInit>::new_from_slice(&test.key).ok(), test),
                192 => verifies(<Cmac<Aes192> as KeyInit>::new_from_slice(&test.key).ok(), test),
                256 => verifies(<Cmac<Aes256> as KeyInit>::new_from_slice(&test.key).ok(), test),
                _ => false,
            };
            assert_eq!(right, test.result != TestResult::Invalid, "test {}: {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    assert!(count > 50, "{count} tests");
}

fn verifies<M: Mac>(mac: Option<M>, test: &mac::Test) -> bool {
    mac.is_some_and(|mac| mac.chain_update(&test.msg).verify_slice(&test.tag).is_ok())
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits")).collect()
}

/// RFC 5869, appendix A.1 to A.3.
#[test]
fn rfc_5869() {
    let check = |ikm: &[u8], salt: &[u8], info: &[u8], prk: &str, okm: &str| {
        let (found, hkdf) = Hkdf::<Sha256>::extract(Some(salt), ikm);
        assert_eq!(found[..], bytes(prk)[..]);
        let mut out = vec![0; okm.len() / 2];
        hkdf.expand(info, &mut out).expect("short enough");
        assert_eq!(out, bytes(okm));
    };
    check(
        &[0x0b; 22],
        &bytes("000102030405060708090a0b0c"),
        &bytes("f0f1f2f3f4f5f6f7f8f9"),
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    );
    let rising = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    check(
        &rising(0x00, 0x4f),
        &rising(0x60, 0xaf),
        &rising(0xb0, 0xff),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
         da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    );
    check(
        &[0x0b; 22],
        &[],
        &[],
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    );
}
