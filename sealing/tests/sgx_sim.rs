//! `sgx-sim` against known answers of the SDK's simulation mode, and every check of EGETKEY.

use proptest::prelude::*;
use sealing::platform::sgx_sim::{SgxSim, SimCpuSvn};
use sealing::platform::{
    Assurance, Attributes, Identity, KEY_REQUEST_LEN, KeyPolicy, KeyRequest, Platform, PlatformError, SEAL_KEY, flags,
};

fn rising<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(i as u8))
}

fn identity() -> Identity {
    Identity {
        attributes: Attributes { flags: 5, xfrm: 0 },
        misc_select: 0,
        mrenclave: rising(0),
        mrsigner: rising(0x80),
        isv_prod_id: 7,
        isv_svn: 2,
        ..Identity::default()
    }
}

fn kss_identity() -> Identity {
    Identity {
        attributes: Attributes { flags: 5 | flags::KSS, xfrm: 7 },
        misc_select: 0xffff_ffff,
        config_id: rising(0x10),
        config_svn: 4,
        isv_family_id: rising(0x50),
        isv_ext_prod_id: rising(0x70),
        ..identity()
    }
}

fn request(policy: KeyPolicy) -> KeyRequest {
    KeyRequest {
        key_name: SEAL_KEY,
        policy,
        isv_svn: 2,
        cpu_svn: [0; 16],
        attribute_mask: Attributes { flags: 0xff00_0000_0000_000b, xfrm: 0 },
        key_id: rising(0xa0),
        misc_mask: 0xf000_0000,
        config_svn: 0,
    }
}

fn key(identity: &Identity, request: &KeyRequest) -> Result<[u8; 16], PlatformError> {
    SgxSim::new(identity.clone(), SimCpuSvn::Default).egetkey(request)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[test]
fn known_answers() {
    let check = |policy, expected: &str| assert_eq!(hex(&key(&identity(), &request(policy)).unwrap()), expected);
    check(KeyPolicy::MRSIGNER, "5B9E9E44F05656E4E5D602209E7556EC");
    check(KeyPolicy::MRENCLAVE, "9CFF4385E9DA3E2093EC897B71A3F1A5");
}

#[test]
fn a_zero_cpusvn_is_the_usual_one() {
    let zero = request(KeyPolicy::MRSIGNER);
    let named = KeyRequest { cpu_svn: SimCpuSvn::Default.bytes(), ..zero };
    assert_eq!(key(&identity(), &zero), key(&identity(), &named));
}

#[test]
fn versions_beyond_the_current_ones_are_refused() {
    use SimCpuSvn::{Default, Downgraded, Upgraded};
    let all = [Downgraded, Default, Upgraded];
    for current in all {
        let sim = SgxSim::new(identity(), current);
        for asked in all {
            let request = KeyRequest { cpu_svn: asked.bytes(), ..request(KeyPolicy::MRSIGNER) };
            let expected = if asked <= current { None } else { Some(PlatformError::InvalidCpuSvn) };
            assert_eq!(sim.egetkey(&request).err(), expected, "{asked:?} on {current:?}");
        }
    }
    let unknown = KeyRequest { cpu_svn: [1; 16], ..request(KeyPolicy::MRSIGNER) };
    assert_eq!(key(&identity(), &unknown), Err(PlatformError::InvalidCpuSvn));
    let newer = KeyRequest { isv_svn: 3, ..request(KeyPolicy::MRSIGNER) };
    assert_eq!(key(&identity(), &newer), Err(PlatformError::InvalidIsvSvn));
    let newer = KeyRequest { config_svn: 5, ..request(KeyPolicy::MRSIGNER) };
    assert_eq!(key(&kss_identity(), &newer), Err(PlatformError::InvalidIsvSvn));
    let older = KeyRequest { isv_svn: 1, ..request(KeyPolicy::MRSIGNER) };
    assert_ne!(key(&identity(), &older).unwrap(), key(&identity(), &request(KeyPolicy::MRSIGNER)).unwrap());
    let codes = [PlatformError::InvalidCpuSvn, PlatformError::InvalidIsvSvn].map(|error| error.sgx_code());
    assert_eq!(codes, [Some(0x20), Some(0x40)]);
}

#[test]
fn reserved_policy_bits_are_refused() {
    for bit in 6..16 {
        let request = request(KeyPolicy(2 | 1 << bit));
        assert_eq!(key(&kss_identity(), &request), Err(PlatformError::Reserved), "bit {bit}");
    }
}

#[test]
fn without_kss_its_bits_and_configsvn_are_refused() {
    for bit in [KeyPolicy::NOISVPRODID, KeyPolicy::CONFIGID, KeyPolicy::ISVFAMILYID, KeyPolicy::ISVEXTPRODID] {
        let request = request(KeyPolicy::MRSIGNER.with(bit));
        assert_eq!(key(&identity(), &request), Err(PlatformError::KssOff), "{bit}");
        assert!(key(&kss_identity(), &request).is_ok(), "{bit}");
    }
    let request = KeyRequest { config_svn: 1, ..request(KeyPolicy::MRSIGNER) };
    assert_eq!(key(&identity(), &request), Err(PlatformError::KssOff));
}

#[test]
fn other_names_are_refused_as_the_processor_would() {
    let named = |key_name, flags| {
        let identity = Identity { attributes: Attributes { flags, xfrm: 0 }, ..identity() };
        key(&identity, &KeyRequest { key_name, ..request(KeyPolicy::MRSIGNER) }).unwrap_err()
    };
    for (name, flag) in [(0, flags::EINITTOKEN_KEY), (1, flags::PROVISIONKEY), (2, flags::PROVISIONKEY)] {
        assert_eq!(named(name, 5), PlatformError::InvalidAttribute, "name {name}");
        assert_eq!(named(name, 5 | flag), PlatformError::InvalidKeyName, "name {name}");
    }
    for name in [3, 5, 6, 0x104, 0xffff] {
        assert_eq!(named(name, 5), PlatformError::InvalidKeyName, "name {name}");
    }
    assert_eq!(PlatformError::InvalidKeyName.sgx_code(), Some(0x100));
    assert_eq!(PlatformError::InvalidAttribute.sgx_code(), Some(2));
}

/// The identity with one field changed, and the policy bit that makes the key depend on it.
fn changes() -> Vec<(&'static str, Identity, Option<KeyPolicy>)> {
    let base = kss_identity();
    vec![
        ("mrenclave", Identity { mrenclave: [1; 32], ..base.clone() }, Some(KeyPolicy::MRENCLAVE)),
        ("mrsigner", Identity { mrsigner: [1; 32], ..base.clone() }, Some(KeyPolicy::MRSIGNER)),
        ("config id", Identity { config_id: [1; 64], ..base.clone() }, Some(KeyPolicy::CONFIGID)),
        ("family id", Identity { isv_family_id: [1; 16], ..base.clone() }, Some(KeyPolicy::ISVFAMILYID)),
        ("ext prod id", Identity { isv_ext_prod_id: [1; 16], ..base.clone() }, Some(KeyPolicy::ISVEXTPRODID)),
        // A newer version alone changes no key.
        ("isv svn", Identity { isv_svn: 9, ..base.clone() }, None),
        ("config svn", Identity { config_svn: 9, ..base }, None),
    ]
}

#[test]
fn fields_count_with_their_policy_bits_only() {
    for policy in (0..64).map(KeyPolicy) {
        let request = KeyRequest { config_svn: 3, ..request(policy) };
        let base = key(&kss_identity(), &request).unwrap();
        for (name, changed, bit) in changes() {
            let counts = bit.is_some_and(|bit| policy.has(bit));
            assert_eq!(key(&changed, &request).unwrap() != base, counts, "{name} under {policy}");
        }
        let other_product = Identity { isv_prod_id: 8, ..kss_identity() };
        let counts = !policy.has(KeyPolicy::NOISVPRODID);
        assert_eq!(key(&other_product, &request).unwrap() != base, counts, "product id under {policy}");
        let other_config = KeyRequest { config_svn: 2, ..request };
        let counts = policy.has(KeyPolicy::CONFIGID);
        assert_eq!(key(&kss_identity(), &other_config).unwrap() != base, counts, "requested config svn under {policy}");
    }
}

#[test]
fn every_policy_has_a_key_of_its_own() {
    let keys: std::collections::BTreeSet<[u8; 16]> =
        (0..64).map(|bits| key(&kss_identity(), &request(KeyPolicy(bits))).unwrap()).collect();
    assert_eq!(keys.len(), 64);
}

#[test]
fn debug_and_production_never_share_a_key() {
    let debug = Identity { attributes: Attributes { flags: 7, xfrm: 0 }, ..identity() };
    for mask in [0, 0xff00_0000_0000_000b, u64::MAX] {
        let request =
            KeyRequest { attribute_mask: Attributes { flags: mask, xfrm: 0 }, ..request(KeyPolicy::MRSIGNER) };
        assert_ne!(key(&debug, &request).unwrap(), key(&identity(), &request).unwrap(), "mask {mask:#x}");
    }
}

#[test]
fn masks_choose_attributes_and_misc_bits() {
    let with =
        |flags, xfrm, misc_select| Identity { attributes: Attributes { flags, xfrm }, misc_select, ..identity() };
    let request = KeyRequest {
        attribute_mask: Attributes { flags: 0x100, xfrm: 4 },
        misc_mask: 1,
        ..request(KeyPolicy::MRSIGNER)
    };
    let base = key(&with(5, 3, 2), &request).unwrap();
    for (identity, counts) in [
        (with(5 | 0x100, 3, 2), true),
        (with(5 | 0x200, 3, 2), false),
        (with(5, 7, 2), true),
        (with(5, 1, 2), false),
        (with(5, 3, 3), true),
        (with(5, 3, 6), false),
    ] {
        assert_eq!(key(&identity, &request).unwrap() != base, counts, "{identity:?}");
    }
}

#[test]
fn it_never_claims_more_than_development() {
    let sim = SgxSim::new(identity(), SimCpuSvn::Upgraded);
    assert_eq!(sim.assurance(), Assurance::Development);
    assert_eq!(sim.versions().cpu_svn, SimCpuSvn::Upgraded.bytes());
    assert_eq!(sim.derive(&request(KeyPolicy::MRSIGNER)).unwrap().expose().len(), 16);
}

proptest! {
    #[test]
    fn requests_survive_their_bytes(bytes in proptest::collection::vec(any::<u8>(), 78)) {
        let mut whole = [0; KEY_REQUEST_LEN];
        whole[..78].copy_from_slice(&bytes);
        whole[6..8].fill(0);
        prop_assert_eq!(KeyRequest::decode(&whole).unwrap().encode(), whole);
    }
}
