//! Slots for platforms and for recovery shares, and upgrades by approval.

use proptest::prelude::*;
use sealing::approval::{ApprovalError, Approvers, Manifest, approve};
use sealing::platform::sgx_sim::{SgxSim, SimCpuSvn};
use sealing::platform::{Attributes, Identity, KeyPolicy, PlatformKind, flags};
use sealing::policy::{Development, PolicyError, SealPolicy};
use sealing::shares::{Share, ShareError, deal, recover};
use sealing::{
    Argon2Cost, Argon2Limits, BlobHeader, Key, MAX_BODY_LEN, OsRng, PlatformOwner, SigningKey, SlotError, SlotSecret,
    open_platform_slot, set_of_slot, unwrap, wrap, wrap_shares,
};

const VOLUME: [u8; 16] = [7; 16];
const KEY: [u8; 32] = [0x55; 32];

fn identity(code: u8, isv_svn: u16) -> Identity {
    Identity { mrenclave: [code; 32], mrsigner: [2; 32], isv_svn, ..Identity::default() }
}

fn owner_of(identity: Identity, bits: KeyPolicy) -> PlatformOwner {
    let platform = Box::new(SgxSim::new(identity, SimCpuSvn::Default));
    PlatformOwner::new(platform, SealPolicy::new(bits).unwrap(), Development::Allowed).unwrap()
}

fn owner(code: u8, isv_svn: u16) -> PlatformOwner {
    owner_of(identity(code, isv_svn), KeyPolicy::MRENCLAVE)
}

fn secret(code: u8, isv_svn: u16) -> SlotSecret {
    SlotSecret::Platform(owner(code, isv_svn))
}

fn body(secret: &SlotSecret) -> Vec<u8> {
    wrap(secret, &Key::from_bytes(&KEY), &VOLUME, &Argon2Cost::CHEAP, &OsRng).unwrap()
}

fn opens(secret: &SlotSecret, body: &[u8]) -> Result<[u8; 32], SlotError> {
    unwrap(secret, body, &VOLUME, &Argon2Limits::default()).map(|key| *key.expose())
}

#[test]
fn a_platforms_slot_opens_for_its_code_only() {
    let body = body(&secret(1, 1));
    assert_eq!(opens(&secret(1, 1), &body), Ok(KEY));
    assert_eq!(opens(&secret(1, 2), &body), Ok(KEY));
    assert_eq!(opens(&secret(1, 0), &body), Err(SlotError::WrongKey));
    assert_eq!(opens(&secret(9, 1), &body), Err(SlotError::WrongKey));
    let elsewhere = unwrap(&secret(1, 1), &body, &[8; 16], &Argon2Limits::default());
    assert_eq!(elsewhere.err(), Some(SlotError::WrongKey));
}

#[test]
fn the_door_is_shut_to_development() {
    let platform = Box::new(SgxSim::new(identity(1, 1), SimCpuSvn::Default));
    let policy = SealPolicy::new(KeyPolicy::MRENCLAVE).unwrap();
    let owner = PlatformOwner::new(platform, policy, Development::Refused);
    assert_eq!(owner.err(), Some(PolicyError::Development));
}

fn signers(count: u8) -> Vec<SigningKey> {
    (1..=count).map(|byte| SigningKey::from_bytes(&[byte; 32])).collect()
}

fn approvers(needed: u8, keys: &[SigningKey]) -> Approvers {
    Approvers::new(needed, keys.iter().map(|key| key.verifying_key().to_bytes()).collect()).unwrap()
}

fn largest_set() -> Approvers {
    approvers(16, &signers(16))
}

#[test]
fn approvers_are_sealed_with_the_key() {
    let set = largest_set();
    let body = owner(1, 1).wrap(&Key::from_bytes(&KEY), &VOLUME, Some(&set), &OsRng).unwrap();
    assert!(body.len() <= MAX_BODY_LEN, "{}", body.len());
    let opened = open_platform_slot(&owner(1, 1), &body, &VOLUME).unwrap();
    assert_eq!((*opened.volume_key.expose(), opened.approvers), (KEY, Some(set)));
    let bare = open_platform_slot(&owner(1, 1), &self::body(&secret(1, 1)), &VOLUME).unwrap();
    assert_eq!(bare.approvers, None);
}

#[test]
fn approver_sets_are_sound() {
    let key = |byte: u8| SigningKey::from_bytes(&[byte; 32]).verifying_key().to_bytes();
    let unsound = |needed, keys: Vec<[u8; 32]>| assert_eq!(Approvers::new(needed, keys), Err(ApprovalError::Approvers));
    unsound(0, vec![key(1)]);
    unsound(2, vec![key(1)]);
    unsound(1, vec![]);
    unsound(2, vec![key(1), key(1)]);
    unsound(1, (1..=17).map(key).collect());
    // The neutral element: everybody can sign for it.
    let mut weak = [0; 32];
    weak[0] = 1;
    unsound(1, vec![weak]);
}

/// A slot of the old code, and a manifest that names the new one.
struct Upgrade {
    header: BlobHeader,
    manifest: Manifest,
}

impl Upgrade {
    fn new() -> Upgrade {
        let header = BlobHeader::decode(&body(&secret(1, 1))).unwrap();
        let manifest = Manifest {
            kind: PlatformKind::SgxSim,
            policy: KeyPolicy::MRENCLAVE,
            min_isv_svn: 2,
            volume_id: VOLUME,
            generation: 5,
            not_after: 1000,
            predecessor: header.identity_digest(),
            mrenclave: [3; 32],
            mrsigner: [0; 32],
            isv_prod_id: 0,
        };
        Upgrade { header, manifest }
    }

    fn admits(&self, manifest: &Manifest, identity: Identity, generation: u64, now: u64) -> Result<(), ApprovalError> {
        let raw = manifest.encode();
        let keys = signers(1);
        let approved = approvers(1, &keys).verify(&raw, &[approve(&raw, &keys[0]).to_vec()])?;
        let successor = SgxSim::new(identity, SimCpuSvn::Default);
        approved.admits(&VOLUME, generation, &self.header, &successor, Some(now)).map(drop)
    }
}

#[test]
fn an_approval_is_for_one_upgrade() {
    let upgrade = Upgrade::new();
    let good = &upgrade.manifest;
    let admits = |manifest: Manifest| upgrade.admits(&manifest, identity(3, 2), 5, 1000);
    let differs = |field| Err(ApprovalError::Differs(field));
    assert_eq!(admits(good.clone()), Ok(()));
    assert_eq!(admits(Manifest { volume_id: [8; 16], ..good.clone() }), differs("volume id"));
    assert_eq!(admits(Manifest { generation: 4, ..good.clone() }), differs("header generation"));
    assert_eq!(admits(Manifest { predecessor: [0; 32], ..good.clone() }), differs("predecessor"));
    assert_eq!(admits(Manifest { kind: PlatformKind::Software, ..good.clone() }), differs("platform"));
    assert_eq!(admits(Manifest { mrenclave: [4; 32], ..good.clone() }), differs("mrenclave"));
    assert_eq!(admits(Manifest { isv_prod_id: 4, ..good.clone() }), differs("isvprodid"));
    assert_eq!(admits(Manifest { min_isv_svn: 3, ..good.clone() }), differs("isvsvn"));
    assert_eq!(upgrade.admits(good, identity(3, 1), 5, 1000), differs("isvsvn"));
    assert_eq!(upgrade.admits(good, identity(3, 2), 6, 1000), differs("header generation"));
    assert_eq!(upgrade.admits(good, identity(3, 2), 5, 1001), Err(ApprovalError::Expired));
    let debug = Identity { attributes: Attributes { flags: 5 | flags::DEBUG, xfrm: 3 }, ..identity(3, 2) };
    assert_eq!(upgrade.admits(good, debug, 5, 1000), differs("debug"));
    let signer = Manifest { policy: KeyPolicy::MRSIGNER, mrenclave: [0; 32], mrsigner: [6; 32], ..good.clone() };
    assert_eq!(admits(signer), differs("mrsigner"));
}

#[test]
fn manifests_keep_the_rules() {
    let good = Upgrade::new().manifest;
    let decode = |manifest: &Manifest| Manifest::decode(&manifest.encode());
    assert_eq!(decode(&good), Ok(good.clone()));
    let empty = Err(ApprovalError::Policy(PolicyError::EmptyField("mrenclave")));
    assert_eq!(decode(&Manifest { mrenclave: [0; 32], ..good.clone() }), empty);
    let none = Err(ApprovalError::Policy(PolicyError::NoIdentity));
    assert_eq!(decode(&Manifest { policy: KeyPolicy(0), ..good.clone() }), none);
    let config = KeyPolicy::MRENCLAVE.with(KeyPolicy::CONFIGID);
    assert!(decode(&Manifest { policy: config, ..good.clone() }).is_err());
    assert_eq!(decode(&Manifest { mrsigner: [1; 32], ..good.clone() }), Err(ApprovalError::Malformed));
    let raw = good.encode();
    for len in 0..raw.len() {
        assert_eq!(Manifest::decode(&raw[..len]), Err(ApprovalError::Malformed));
    }
    for at in (0..10).chain(146..160) {
        let mut bad = raw;
        bad[at] ^= 1;
        assert_eq!(Manifest::decode(&bad), Err(ApprovalError::Malformed), "byte {at}");
    }
}

#[test]
fn distinct_approvers_of_the_set_are_counted() {
    let keys = signers(4);
    let set = approvers(2, &keys[..3]);
    let raw = Upgrade::new().manifest.encode();
    let by = |key: &SigningKey| approve(&raw, key).to_vec();
    let verify = |approvals: &[Vec<u8>]| set.verify(&raw, approvals).map(drop);
    let few = |signed| Err(ApprovalError::TooFew { needed: 2, signed });
    assert_eq!(verify(&[by(&keys[0]), by(&keys[2])]), Ok(()));
    assert_eq!(verify(&[by(&keys[0])]), few(1));
    assert_eq!(verify(&[by(&keys[0]), by(&keys[0])]), few(1));
    assert_eq!(verify(&[by(&keys[0]), by(&keys[3])]), few(1));
    let mut other = raw;
    other[14] = 0;
    assert_eq!(verify(&[by(&keys[0]), approve(&other, &keys[1]).to_vec()]), few(1));
    let mut stolen = by(&keys[3]);
    stolen[..32].copy_from_slice(&keys[1].verifying_key().to_bytes());
    assert_eq!(verify(&[by(&keys[0]), stolen, vec![], vec![0; 96]]), few(1));
    // Signed as it stands, without the label: not an approval.
    use ed25519_dalek::Signer;
    let bare = [&keys[1].verifying_key().to_bytes()[..], &keys[1].sign(&raw).to_bytes()].concat();
    assert_eq!(verify(&[by(&keys[0]), bare]), few(1));
}

fn dealt(threshold: u8, count: u8) -> (Vec<Share>, Vec<u8>) {
    wrap_shares(&Key::from_bytes(&KEY), &VOLUME, threshold, count, &signers(1)[0], &OsRng).unwrap()
}

fn again(shares: &[Share], indices: &[usize]) -> Vec<Share> {
    indices.iter().map(|index| Share::decode(&shares[*index].encode()).unwrap()).collect()
}

fn opened(shares: &[Share], body: &[u8]) -> Result<[u8; 32], SlotError> {
    opens(&SlotSecret::Shares(recover(shares).map_err(|_| SlotError::WrongKey)?), body)
}

#[test]
fn any_two_of_three_open_and_one_does_not() {
    let (shares, body) = dealt(2, 3);
    for pair in [[0, 1], [0, 2], [1, 2], [2, 0]] {
        assert_eq!(opened(&again(&shares, &pair), &body), Ok(KEY), "{pair:?}");
    }
    assert_eq!(opened(&again(&shares, &[0, 1, 2]), &body), Ok(KEY));
    let few = ShareError::TooFew { needed: 2, given: 1 };
    assert_eq!(recover(&again(&shares, &[1])).err(), Some(few));
    assert_eq!(recover(&again(&shares, &[1, 1])).err(), Some(ShareError::Twice(2)));
    assert_eq!(recover(&[]).err(), Some(ShareError::TooFew { needed: 2, given: 0 }));
    assert_eq!(set_of_slot(&body).as_ref(), Some(shares[0].set()));
}

#[test]
fn shares_of_two_sets_do_not_mix() {
    let ((one, body), (two, _)) = (dealt(2, 3), dealt(2, 3));
    let mut mixed = again(&one, &[0]);
    mixed.extend(again(&two, &[1]));
    assert_eq!(recover(&mixed).err(), Some(ShareError::OtherSet));
    assert_eq!(opened(&again(&two, &[0, 1]), &body), Err(SlotError::WrongKey));
}

#[test]
fn a_changed_share_is_named_before_it_is_used() {
    let (shares, _) = dealt(2, 3);
    let good = shares[1].encode();
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        let error = Share::decode(&bad).err();
        let expected: &[ShareError] = match at {
            16..48 => &[ShareError::Commitment],
            10 => &[ShareError::Commitment, ShareError::Malformed],
            48..112 => &[ShareError::Signature],
            _ => &[ShareError::Malformed, ShareError::Signature],
        };
        assert!(error.is_some_and(|error| expected.contains(&error)), "byte {at}: {error:?}");
    }
    for len in 0..good.len() {
        assert!(Share::decode(&good[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn every_byte_of_a_shares_slot_counts() {
    let (shares, body) = dealt(3, 4);
    let shares = again(&shares, &[3, 0, 2]);
    assert_eq!(opened(&shares, &body), Ok(KEY));
    for at in 0..body.len() {
        let mut bad = body.clone();
        bad[at] ^= 4;
        assert_eq!(opened(&shares, &bad), Err(SlotError::WrongKey), "byte {at}");
    }
    for len in 0..body.len() {
        assert_eq!(opened(&shares, &body[..len]), Err(SlotError::WrongKey), "cut to {len}");
    }
}

#[test]
fn thresholds_make_sense() {
    for (threshold, count) in [(0, 3), (1, 3), (4, 3), (2, 1), (2, 17), (17, 17)] {
        let dealt = wrap_shares(&Key::zeroed(), &VOLUME, threshold, count, &signers(1)[0], &OsRng);
        assert_eq!(dealt.err(), Some(ShareError::Threshold), "{threshold} of {count}");
    }
    let (_, body) = dealt(16, 16);
    assert!(body.len() <= MAX_BODY_LEN);
}

#[test]
fn a_slot_for_shares_is_dealt_not_wrapped() {
    let secret = SlotSecret::Shares(Key::zeroed());
    let made = wrap(&secret, &Key::zeroed(), &VOLUME, &Argon2Cost::CHEAP, &OsRng);
    assert_eq!(made.err(), Some(SlotError::SharesAreDealt));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_subset_at_the_threshold_gives_the_secret(
        secret in any::<[u8; 32]>(),
        threshold in 2u8..=6,
        more in 0u8..=4,
        order in any::<u64>(),
    ) {
        let count = threshold + more;
        let shares = deal(&Key::from_bytes(&secret), &VOLUME, threshold, count, &signers(1)[0], &OsRng).unwrap();
        let mut indices: Vec<usize> = (0..usize::from(count)).collect();
        indices.rotate_left((order % u64::from(count)) as usize);
        indices.truncate(usize::from(threshold));
        let recovered = recover(&again(&shares, &indices)).unwrap();
        prop_assert_eq!(*recovered.expose(), secret);
    }

    #[test]
    fn arbitrary_bytes_are_no_share(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Share::decode(&bytes).is_err());
        let _ = set_of_slot(&bytes);
        let _ = Manifest::decode(&bytes);
    }
}
