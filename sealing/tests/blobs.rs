//! What a sealed blob promises: it opens for whom the policy names, and no byte of it changes unnoticed.

use proptest::prelude::*;
use sealing::blob::{BlobUse, SealError, check_decoder, seal, unseal};
use sealing::explain::{Change, explain, survives};
use sealing::platform::sgx_sim::{SgxSim, SimCpuSvn};
use sealing::platform::{Attributes, Identity, KeyPolicy, Platform, PlatformError, flags};
use sealing::policy::{Development, PolicyError, SealPolicy};
use sealing::{BLOB_HEADER_LEN, BlobHeader, OsRng, Purpose, Rng, RngFailed};

const ENCLAVE: KeyPolicy = KeyPolicy::MRENCLAVE;
const SIGNER: KeyPolicy = KeyPolicy::MRSIGNER;

fn identity() -> Identity {
    Identity { mrenclave: [1; 32], mrsigner: [2; 32], isv_prod_id: 7, isv_svn: 3, ..Identity::default() }
}

fn sim(identity: Identity) -> SgxSim {
    SgxSim::new(identity, SimCpuSvn::Default)
}

fn what(purpose: &str) -> BlobUse {
    BlobUse { purpose: Purpose::new(purpose).unwrap(), volume_id: [9; 16] }
}

fn policy(bits: KeyPolicy) -> SealPolicy {
    SealPolicy::new(bits).unwrap()
}

fn sealed(bits: KeyPolicy) -> Vec<u8> {
    seal(&sim(identity()), &policy(bits), &what("test"), 0, b"payload", Development::Allowed, &OsRng).unwrap()
}

fn open(platform: &dyn Platform, blob: &[u8]) -> Result<Vec<u8>, SealError> {
    unseal(platform, blob, &what("test"), None, Development::Allowed).map(|payload| payload.expose().to_vec())
}

#[test]
fn opens_for_the_same_code() {
    for bits in [ENCLAVE, SIGNER, ENCLAVE.with(SIGNER)] {
        assert_eq!(open(&sim(identity()), &sealed(bits)).unwrap(), b"payload", "{bits}");
    }
}

#[test]
fn other_code_other_signer_other_product() {
    let other = |change: fn(&mut Identity)| {
        let mut identity = identity();
        change(&mut identity);
        sim(identity)
    };
    let code = other(|it| it.mrenclave = [8; 32]);
    assert_eq!(open(&code, &sealed(ENCLAVE)), Err(SealError::WrongKey));
    assert!(open(&code, &sealed(SIGNER)).is_ok());
    let signer = other(|it| it.mrsigner = [8; 32]);
    assert_eq!(open(&signer, &sealed(SIGNER)), Err(SealError::WrongKey));
    assert!(open(&signer, &sealed(ENCLAVE)).is_ok());
    let product = other(|it| it.isv_prod_id = 8);
    assert_eq!(open(&product, &sealed(SIGNER)), Err(SealError::WrongKey));
    let debug = other(|it| it.attributes.flags |= flags::DEBUG);
    assert_eq!(open(&debug, &sealed(SIGNER)), Err(SealError::WrongKey));
}

#[test]
fn newer_versions_open_what_older_ones_sealed_and_not_the_other_way() {
    let blob = sealed(SIGNER);
    assert!(open(&sim(Identity { isv_svn: 4, ..identity() }), &blob).is_ok());
    let older = sim(Identity { isv_svn: 2, ..identity() });
    assert_eq!(open(&older, &blob), Err(SealError::Platform(PlatformError::InvalidIsvSvn)));
    assert!(open(&SgxSim::new(identity(), SimCpuSvn::Upgraded), &blob).is_ok());
    let downgraded = SgxSim::new(identity(), SimCpuSvn::Downgraded);
    assert_eq!(open(&downgraded, &blob), Err(SealError::Platform(PlatformError::InvalidCpuSvn)));
}

#[test]
fn data_is_sealed_at_the_current_versions() {
    let platform = SgxSim::new(identity(), SimCpuSvn::Upgraded);
    let blob = seal(&platform, &policy(SIGNER), &what("test"), 0, b"x", Development::Allowed, &OsRng).unwrap();
    let header = BlobHeader::decode(&blob).unwrap();
    assert_eq!((header.isv_svn, header.cpu_svn), (3, SimCpuSvn::Upgraded.bytes()));
}

#[test]
fn purpose_volume_and_time() {
    let platform = sim(identity());
    let blob = seal(&platform, &policy(SIGNER), &what("test"), 1000, b"x", Development::Allowed, &OsRng).unwrap();
    let open = |blob_use: &BlobUse, now| unseal(&platform, &blob, blob_use, now, Development::Allowed).map(drop);
    assert_eq!(open(&what("test"), Some(1000)), Ok(()));
    assert_eq!(open(&what("test"), None), Ok(()));
    assert_eq!(open(&what("test"), Some(1001)), Err(SealError::Expired));
    assert_eq!(open(&what("tesT"), None), Err(SealError::Purpose));
    assert_eq!(open(&BlobUse { volume_id: [8; 16], ..what("test") }, None), Err(SealError::Volume));
}

#[test]
fn policies_keep_the_rules() {
    assert_eq!(SealPolicy::new(KeyPolicy(0)), Err(PolicyError::NoIdentity));
    assert_eq!(SealPolicy::new(KeyPolicy::NOISVPRODID), Err(PolicyError::NoIdentity));
    assert_eq!(SealPolicy::new(KeyPolicy(64 | 1)), Err(PolicyError::UnknownBits));
    for missing in [flags::INIT, flags::DEBUG] {
        let mask = Attributes { flags: !missing, xfrm: 0 };
        assert_eq!(SealPolicy::with_masks(SIGNER, mask, 0), Err(PolicyError::MaskWithoutDebug));
    }
    let kss = |identity: Identity| Identity {
        attributes: Attributes { flags: 5 | flags::KSS, xfrm: 3 },
        config_id: [3; 64],
        isv_family_id: [4; 16],
        isv_ext_prod_id: [5; 16],
        ..identity
    };
    let all = policy(KeyPolicy(1 | 2 | 8 | 16 | 32));
    let try_seal =
        |identity: Identity| seal(&sim(identity), &all, &what("test"), 0, b"", Development::Allowed, &OsRng).map(drop);
    assert_eq!(try_seal(kss(identity())), Ok(()));
    let empty = |field| Err(SealError::Policy(PolicyError::EmptyField(field)));
    assert_eq!(try_seal(Identity { mrenclave: [0; 32], ..kss(identity()) }), empty("mrenclave"));
    assert_eq!(try_seal(Identity { mrsigner: [0; 32], ..kss(identity()) }), empty("mrsigner"));
    assert_eq!(try_seal(Identity { config_id: [0; 64], ..kss(identity()) }), empty("configid"));
    assert_eq!(try_seal(Identity { isv_family_id: [0; 16], ..kss(identity()) }), empty("isvfamilyid"));
    assert_eq!(try_seal(Identity { isv_ext_prod_id: [0; 16], ..kss(identity()) }), empty("isvextprodid"));
}

#[test]
fn development_is_refused_unless_it_is_allowed() {
    let platform = sim(identity());
    let refused = Err(SealError::Policy(PolicyError::Development));
    let made = seal(&platform, &policy(SIGNER), &what("test"), 0, b"", Development::Refused, &OsRng);
    assert_eq!(made.map(drop), refused);
    assert_eq!(unseal(&platform, &sealed(SIGNER), &what("test"), None, Development::Refused).map(drop), refused);
}

#[test]
fn every_bit_of_a_blob_counts() {
    let blob = sealed(SIGNER);
    let platform = sim(identity());
    for bit in 0..blob.len() * 8 {
        let mut changed = blob.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&platform, &changed).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
    }
    for len in 0..blob.len() {
        assert!(open(&platform, &blob[..len]).is_err(), "cut to {len}");
    }
    assert!(open(&platform, &[&blob[..], &[0]].concat()).is_err());
}

/// A header that decodes and differs anywhere must not open: that is what its digest in the derivation, the commitment and
/// the associated data are for.
#[test]
fn sound_headers_with_another_field_do_not_open() {
    let blob = sealed(SIGNER);
    let platform = SgxSim::new(Identity { isv_svn: 9, ..identity() }, SimCpuSvn::Upgraded);
    assert!(open(&platform, &blob).is_ok());
    let mut tried = 0;
    for (at, value) in [(12, 3), (26, 4), (26, 2), (55, 0xfe), (64, 1), (88, 1), (96, 0), (384, 0), (416, 0)] {
        let mut changed = blob.clone();
        changed[at] = if changed[at] == value { value ^ 1 } else { value };
        if BlobHeader::decode(&changed).is_ok() {
            tried += 1;
            assert_eq!(open(&platform, &changed), Err(SealError::WrongKey), "byte {at}");
        }
    }
    assert!(tried >= 7, "{tried} headers decoded");
}

#[test]
fn two_blobs_share_no_key_and_failing_generators_seal_nothing() {
    struct Broken;
    impl Rng for Broken {
        fn fill(&self, _: &mut [u8]) -> Result<(), RngFailed> {
            Err(RngFailed)
        }
    }
    assert_ne!(sealed(SIGNER)[BLOB_HEADER_LEN..], sealed(SIGNER)[BLOB_HEADER_LEN..]);
    let made = seal(&sim(identity()), &policy(SIGNER), &what("test"), 0, b"x", Development::Allowed, &Broken);
    assert_eq!(made, Err(SealError::Rng));
}

/// Computed from `docs/sealing-format.md` with Python: OpenSSL's CMAC and AES-GCM, hashlib and hmac.
#[test]
fn known_answer() {
    struct Rising;
    impl Rng for Rising {
        fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
            out.iter_mut().zip(0x20..).for_each(|(byte, value)| *byte = value);
            Ok(())
        }
    }
    let blob = seal(&sim(identity()), &policy(SIGNER), &what("test"), 1000, b"payload", Development::Allowed, &Rising)
        .unwrap();
    let hex: String = blob[128..160].iter().chain(&blob[384..]).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "0ecfbafdb0015649952787ab86dd30d20c3054dd98efaac0751db53c1dc0ca3f3960ee82b1746fa6070f8e2a992da05343f663042a33e56d81358ae6aed14995f4b9504fcf96432a23b452a4cdd49349031227634a53fa"
    );
}

#[test]
fn differences_are_named() {
    let header = BlobHeader::decode(&sealed(ENCLAVE)).unwrap();
    let fields = |platform: &SgxSim, wanted: &BlobUse| -> Vec<&'static str> {
        let all = explain(&header, platform.kind(), platform.identity(), &platform.versions(), Some(wanted));
        all.iter().map(|difference| difference.field).collect()
    };
    let check = |identity: Identity, expected: &[&str]| assert_eq!(fields(&sim(identity), &what("test")), expected);
    check(identity(), &[]);
    check(Identity { mrenclave: [5; 32], ..identity() }, &["mrenclave"]);
    check(Identity { mrsigner: [5; 32], ..identity() }, &[]);
    check(Identity { isv_svn: 2, ..identity() }, &["isvsvn"]);
    check(Identity { isv_svn: 4, ..identity() }, &[]);
    check(Identity { isv_prod_id: 4, ..identity() }, &["isvprodid"]);
    let debug = Identity { attributes: Attributes { flags: 7, xfrm: 3 }, ..identity() };
    check(debug, &["debug", "attribute flags (masked)"]);
    let downgraded = SgxSim::new(identity(), SimCpuSvn::Downgraded);
    assert_eq!(fields(&downgraded, &what("test")), ["cpusvn"]);
    assert_eq!(fields(&sim(identity()), &what("other")), ["purpose"]);
}

#[test]
fn changes_to_come() {
    let (code, signer) = (BlobHeader::decode(&sealed(ENCLAVE)).unwrap(), BlobHeader::decode(&sealed(SIGNER)).unwrap());
    assert!(!survives(&code, Change::NewMrenclave) && survives(&signer, Change::NewMrenclave));
    for change in [Change::CpuSvnUp, Change::TpmClear, Change::PcrChange] {
        assert!(survives(&code, change) && survives(&signer, change), "{change:?}");
    }
}

#[test]
fn purposes_are_short_texts() {
    assert_eq!(Purpose::new("volume key").unwrap().text(), "volume key");
    assert!(Purpose::new(&"x".repeat(32)).is_some());
    for text in ["", "a\nb", "a\0b", &"x".repeat(33)] {
        assert!(Purpose::new(text).is_none(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
        check_decoder(&bytes);
    }

    #[test]
    fn changed_blobs_decode_without_panic_and_do_not_open(
        changes in proptest::collection::vec((0usize..439, any::<u8>()), 1..6),
    ) {
        let blob = sealed(SIGNER);
        let mut changed = blob.clone();
        changes.iter().for_each(|(at, value)| changed[*at] = *value);
        check_decoder(&changed);
        prop_assert_eq!(open(&sim(identity()), &changed).is_ok(), changed == blob);
    }
}
