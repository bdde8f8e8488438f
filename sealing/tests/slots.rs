//! What a slot promises: it opens for its owner and for nobody else, and a hostile one costs nothing.

use std::cell::Cell;

use proptest::prelude::*;
use sealing::{Argon2Cost, Argon2Limits, Key, OsRng, Rng, RngFailed, Secret, SlotError, SlotSecret, unwrap, wrap};

const VOLUME: [u8; 16] = *b"\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf";
const QUICK: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 1, lanes: 4 };
const TIGHT: Argon2Limits = Argon2Limits { max_memory_bytes: 64 << 20 };

/// The generator of the known answers: 0x20, 0x21, …
struct Counting;

impl Rng for Counting {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        for (byte, value) in out.iter_mut().zip(0x20..) {
            *byte = value;
        }
        Ok(())
    }
}

fn rising(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + u8::try_from(i).unwrap())
}

fn raw(first: u8) -> SlotSecret {
    SlotSecret::RawKey(Key::from_bytes(&rising(first)))
}

fn passphrase(text: &str) -> SlotSecret {
    SlotSecret::Passphrase(Secret::new(text.as_bytes().to_vec()))
}

fn volume_key() -> Key {
    Key::from_bytes(&rising(0x60))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn opens(secret: &SlotSecret, body: &[u8]) -> bool {
    match unwrap(secret, body, &VOLUME, &TIGHT) {
        Ok(key) => *key.expose() == rising(0x60),
        Err(_) => false,
    }
}

/// Computed from the byte layout in `docs/sealing-format.md` with Python's hmac and hashlib and OpenSSL's AES-GCM and
/// Argon2id.
#[test]
fn known_answers() {
    let body = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &Counting).unwrap();
    assert_eq!(
        hex(&body),
        "0100010001000000000000000000000000000000000000000000000000000000202122232425262728292a2b2c2d2e2f3031323334353637\
         38393a3b3c3d3e3f0476e273b15f3379295d7b02122c14bfea1bd0b88850fe37c351d0a35bf1bc9bfe5d7386d42a89bb30e6c0220a322446\
         5134bd7cdb496e01648c2c9e93b22a3cfa5b99cec4d94271d890f0b9cbedd1ba"
    );
    let body = wrap(&passphrase("correct horse"), &volume_key(), &VOLUME, &QUICK, &Counting).unwrap();
    assert_eq!(
        hex(&body),
        "0100020001000000000001000100000004000000000000000000000000000000202122232425262728292a2b2c2d2e2f3031323334353637\
         38393a3b3c3d3e3f833a9c6cdb0f0ffdcc2adb04faa7f36c67d3dc654100ec3a38e5d1d239cba00511d0d293aceab855436910783d864dce\
         ef38d6409664a6cc8e262ecbe642c5063670966c4b73e3c8361656190a251a61"
    );
}

#[test]
fn opens_for_its_owner_only() {
    let body = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    assert!(opens(&raw(0), &body));
    assert!(!opens(&raw(1), &body));
    assert!(!opens(&passphrase("raw"), &body));

    let body = wrap(&passphrase("pass"), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    assert!(opens(&passphrase("pass"), &body));
    assert!(!opens(&passphrase("pasS"), &body));
    assert!(!opens(&passphrase(""), &body));
    assert!(!opens(&raw(0), &body));
}

#[test]
fn a_slot_of_another_volume_is_refused() {
    let body = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    let mut other = VOLUME;
    other[15] ^= 1;
    assert_eq!(unwrap(&raw(0), &body, &other, &TIGHT).err(), Some(SlotError::WrongKey));
}

#[test]
fn two_slots_of_one_owner_share_nothing() {
    let one = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    let two = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    for range in [32..64, 64..96, 96..112, 112..144] {
        assert_ne!(one[range.clone()], two[range]);
    }
}

#[test]
fn every_bit_of_a_raw_slot_counts() {
    let body = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    for bit in 0..body.len() * 8 {
        let mut changed = body.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(unwrap(&raw(0), &changed, &VOLUME, &TIGHT).err(), Some(SlotError::WrongKey), "bit {bit}");
    }
    for len in 0..body.len() {
        assert!(!opens(&raw(0), &body[..len]), "cut to {len}");
    }
    assert!(!opens(&raw(0), &[&body[..], &[0]].concat()), "one byte more");
}

#[test]
fn every_byte_of_a_passphrase_slot_counts() {
    let body = wrap(&passphrase("pass"), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    for at in 0..body.len() {
        let mut changed = body.clone();
        changed[at] ^= 2;
        let error = unwrap(&passphrase("pass"), &changed, &VOLUME, &TIGHT).err();
        // A changed cost may be over the limits, which is the one failure that looks different.
        let expected = matches!(error, Some(SlotError::WrongKey))
            || (8..20).contains(&at) && matches!(error, Some(SlotError::OverLimit { .. }));
        assert!(expected, "byte {at}: {error:?}");
    }
}

#[test]
fn a_hostile_cost_is_refused_before_it_is_paid() {
    let body = wrap(&passphrase("pass"), &volume_key(), &VOLUME, &QUICK, &OsRng).unwrap();
    let ask = |memory_kib: u32, passes: u32, lanes: u32, max_memory_bytes: u64| {
        let mut hostile = body.clone();
        hostile[8..12].copy_from_slice(&memory_kib.to_le_bytes());
        hostile[12..16].copy_from_slice(&passes.to_le_bytes());
        hostile[16..20].copy_from_slice(&lanes.to_le_bytes());
        unwrap(&passphrase("pass"), &hostile, &VOLUME, &Argon2Limits { max_memory_bytes }).err()
    };
    for (memory_kib, passes, lanes) in
        [(u32::MAX, 1, 1), (1 << 20 | 1, 1, 1), (1 << 16, u32::MAX, 1), (1 << 16, 1, 9), (1024, 1, 1), (0, 0, 0)]
    {
        let error = ask(memory_kib, passes, lanes, u64::MAX);
        assert!(matches!(error, Some(SlotError::OverLimit { .. })), "{memory_kib} KiB, {passes}, {lanes}: {error:?}");
    }
    let error = ask(128 << 10, 1, 4, 100 << 20);
    assert!(matches!(error, Some(SlotError::OverLimit { budget_kib: 102_400, .. })), "{error:?}");
}

#[test]
fn the_callers_cost_is_bounded_too() {
    let cost = Argon2Cost { memory_kib: 1024, passes: 1, lanes: 1 };
    let error = wrap(&passphrase("pass"), &volume_key(), &VOLUME, &cost, &OsRng).err();
    assert!(matches!(error, Some(SlotError::OverLimit { .. })), "{error:?}");
}

#[test]
fn a_failing_generator_seals_nothing() {
    struct Broken(Cell<u32>);
    impl Rng for Broken {
        fn fill(&self, _: &mut [u8]) -> Result<(), RngFailed> {
            self.0.set(self.0.get() + 1);
            Err(RngFailed)
        }
    }
    let broken = Broken(Cell::new(0));
    assert_eq!(wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &broken).err(), Some(SlotError::Rng));
    assert_eq!(broken.0.get(), 1);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_open(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(unwrap(&raw(0), &body, &VOLUME, &TIGHT).err(), Some(SlotError::WrongKey));
    }

    #[test]
    fn an_arbitrary_tail_behind_a_true_start_never_opens(
        start in 0usize..144,
        tail in proptest::collection::vec(any::<u8>(), 144),
    ) {
        let mut body = wrap(&raw(0), &volume_key(), &VOLUME, &QUICK, &Counting).unwrap();
        let original = body.clone();
        body[start..].copy_from_slice(&tail[start..]);
        prop_assert_eq!(opens(&raw(0), &body), body == original);
    }
}
