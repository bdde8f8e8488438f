//! Bodies of key slots, which stand in the plain header: any bytes, and honest ones with a few of them changed.
//!
//! Argon2id is the one thing here that costs; a hostile slot asks for as much of it as it likes. It is never computed: the
//! limits of this target grant less than the least that a slot may ask for, so each passphrase slot has to be refused
//! before a byte is allocated, which the memory bound sees.

use sealing::{Argon2Cost, Argon2Limits, Key, Rng, RngFailed, Secret, SlotError, SlotSecret, unwrap, wrap};

use crate::input::Input;
use crate::memory;

const BUDGET_BYTES: usize = 64 << 10;
/// Below the 64 MiB from which on a slot may be opened.
const GRANTED_BYTES: u64 = (64 << 20) - 1;

struct Salt([u8; 32]);

impl Rng for Salt {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        out.copy_from_slice(&self.0[..out.len()]);
        Ok(())
    }
}

/// The target.
pub fn run(input: &[u8]) {
    memory::within(BUDGET_BYTES, || open(&mut Input::new(input)));
}

fn open(input: &mut Input<'_>) {
    let (choice, salt, volume_id) = (input.u8(), Salt([input.u8(); 32]), [input.u8(); 16]);
    let limits = Argon2Limits { max_memory_bytes: GRANTED_BYTES.min(input.number()) };
    let raw = || SlotSecret::RawKey(Key::from_bytes(&[3; 32]));
    let passphrase = SlotSecret::Passphrase(Secret::new(b"passphrase".to_vec()));
    let (volume_key, cost) = (Key::from_bytes(&[5; 32]), Argon2Cost::DEFAULT);
    let honest = wrap(&raw(), &volume_key, &volume_id, &cost, &salt).expect("a raw key needs no memory");
    let mut body = if choice & 1 == 0 { honest.clone() } else { input.rest().to_vec() };
    while !input.is_empty() {
        change(&mut body, input);
    }
    match unwrap(&raw(), &body, &volume_id, &limits) {
        Ok(key) => assert!(body == honest && key.expose() == volume_key.expose(), "a changed slot opens"),
        Err(error) => {
            assert_eq!(error, SlotError::WrongKey, "one failure is like the other");
            assert!(body != honest, "an honest slot does not open");
        }
    }
    // A slot of the other kind is not tried, and one of this kind asks for too much.
    let refused = unwrap(&passphrase, &body, &volume_id, &limits).err();
    assert!(matches!(refused, Some(SlotError::WrongKey | SlotError::OverLimit { .. })), "{refused:?}");
}

fn change(body: &mut Vec<u8>, input: &mut Input<'_>) {
    match input.u8() % 4 {
        0 => body.truncate(input.u8().into()),
        1 => body.extend_from_slice(input.short()),
        2 => {
            let at = usize::from(input.u8());
            let with = input.number().to_le_bytes();
            if let Some(place) = body.get_mut(at..at + 4) {
                place.copy_from_slice(&with[..4]);
            }
        }
        _ => {
            let (at, mask) = (usize::from(input.u8()), input.u8());
            if let Some(byte) = body.get_mut(at) {
                *byte ^= mask;
            }
        }
    }
}
