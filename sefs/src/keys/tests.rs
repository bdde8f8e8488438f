use core::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::error::Tampered;
use crate::format::{AllocEntry, AnchorBinding, EpochEntry, example_header};
use crate::suite::{RngFailed, RustCrypto};
use crate::types::{EpochId, Lsn};

/// Yields bytes that count up with each call.
#[derive(Default)]
pub(crate) struct CountingRng(AtomicU8);

impl Rng for CountingRng {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        out.fill(self.0.fetch_add(1, Ordering::Relaxed));
        Ok(())
    }
}

pub(crate) struct FailingRng;

impl Rng for FailingRng {
    fn fill(&self, _: &mut [u8]) -> Result<(), RngFailed> {
        Err(RngFailed)
    }
}

pub(crate) fn volume_key() -> VolumeKey {
    VolumeKey::new([1; 32])
}

/// A header's proof; volumes differ by `id`.
pub(crate) fn verified(id: u8) -> VerifiedHeader {
    let header = Header { volume_id: [id; 16], ..example_header() };
    volume_key().seal_header(&RustCrypto, &header).1
}

fn keyring(id: u8) -> Keyring {
    Keyring::new(Arc::new(RustCrypto), &volume_key(), &verified(id))
}

fn checkpoint(generation: u64) -> Checkpoint {
    Checkpoint {
        generation: Generation(generation),
        previous_salt: [0; 32],
        log_start: Lsn(0),
        previous_tag: [0; 16],
        log_epoch: EpochId(1),
        epoch_count: 0,
        clean: true,
        epoch_start: false,
        accepted_headers: [[1; 32]].into(),
        alloc_levels: 1,
        next_id: 2,
        free_blocks: 3,
        unwritten_blocks: 4,
        inodes: 5,
        nodes: 6,
        alloc_root: AllocEntry::default(),
        anchor: AnchorBinding::default(),
        roots: [].into(),
        epoch_pages: [].into(),
        rotation: None,
    }
}

#[test]
fn checkpoints_open_in_the_slot_of_their_generation_only() {
    let (keyring, rng) = (keyring(1), CountingRng::default());
    for generation in [6, 7] {
        let sealed = keyring.seal_checkpoint(&checkpoint(generation), &rng).unwrap();
        assert_eq!(u64::from(sealed.index), generation % 2);
        let opened = keyring.open_checkpoint(sealed.index, &sealed.bytes).unwrap();
        assert_eq!((opened.checkpoint, opened.salt, opened.tag), (checkpoint(generation), sealed.salt, sealed.tag));
        let other = keyring.open_checkpoint(1 - sealed.index, &sealed.bytes);
        assert_eq!(other.unwrap_err(), OpenFault::Auth, "in the other slot");
    }
}

#[test]
fn a_changed_byte_anywhere_in_a_slot_or_page_does_not_open() {
    let (keyring, rng) = (keyring(1), CountingRng::default());
    let slot = keyring.seal_checkpoint(&checkpoint(6), &rng).unwrap();
    let page = keyring.seal_epoch_page(&EpochPage { entries: [].into() }, &rng).unwrap();
    let (mut slot_bytes, mut page_bytes) = (slot.bytes.clone(), page.bytes.clone());
    for at in 0..BLOCK_SIZE {
        slot_bytes[at] ^= 1;
        assert_eq!(keyring.open_checkpoint(0, &slot_bytes).unwrap_err(), OpenFault::Auth, "byte {at}");
        slot_bytes[at] ^= 1;
        page_bytes[at] ^= 1;
        assert_eq!(keyring.open_epoch_page(&page_bytes, &page.tag).err(), Some(OpenFault::Auth), "byte {at}");
        page_bytes[at] ^= 1;
    }
    assert!(keyring.open_checkpoint(0, &slot_bytes).is_ok() && keyring.open_epoch_page(&page_bytes, &page.tag).is_ok());
    assert_eq!(keyring.open_epoch_page(&page.bytes, &[0; 16]).err(), Some(OpenFault::Auth));
}

#[test]
fn other_volumes_and_other_keys_do_not_open() {
    let rng = CountingRng::default();
    let slot = keyring(1).seal_checkpoint(&checkpoint(6), &rng).unwrap();
    let page = keyring(1).seal_epoch_page(&EpochPage { entries: [].into() }, &rng).unwrap();
    let other_key = Keyring::new(Arc::new(RustCrypto), &VolumeKey::new([2; 32]), &verified(1));
    for other in [keyring(2), other_key] {
        assert_eq!(other.open_checkpoint(0, &slot.bytes).unwrap_err(), OpenFault::Auth);
        assert_eq!(other.open_epoch_page(&page.bytes, &page.tag).err(), Some(OpenFault::Auth));
    }
}

#[test]
fn the_same_message_is_never_sealed_under_the_same_key() {
    let (keyring, rng) = (keyring(1), CountingRng::default());
    let [first, second] = [0; 2].map(|_| keyring.seal_checkpoint(&checkpoint(6), &rng).unwrap());
    assert_ne!(first.salt, second.salt);
    assert_ne!(first.bytes[48..80], second.bytes[48..80]);
}

#[test]
fn epoch_pages_come_back() {
    let (keyring, rng) = (keyring(1), CountingRng::default());
    let entry = EpochEntry { id: EpochId(3), live_blocks: 4, secret: SecretKey::new([5; 32]) };
    let sealed = keyring.seal_epoch_page(&EpochPage { entries: [entry].into() }, &rng).unwrap();
    let opened = keyring.open_epoch_page(&sealed.bytes, &sealed.tag).unwrap();
    let parts: alloc::vec::Vec<_> =
        opened.entries.iter().map(|it| (it.id, it.live_blocks, *it.secret.expose())).collect();
    assert_eq!(parts, [(EpochId(3), 4, [5; 32])]);
    assert!(!sealed.bytes.windows(32).any(|bytes| bytes == [5; 32]), "the secret is not in plain");
}

#[test]
fn without_random_bytes_nothing_is_sealed() {
    assert_eq!(keyring(1).seal_checkpoint(&checkpoint(6), &FailingRng).err(), Some(Error::Rng));
    assert_eq!(keyring(1).seal_epoch_page(&EpochPage { entries: [].into() }, &FailingRng).err(), Some(Error::Rng));
    assert_eq!(VolumeKey::generate(&FailingRng).err(), Some(Error::Rng));
}

#[test]
fn headers_seal_and_verify_through_the_key() {
    let key = volume_key();
    let header = Header::decode(&key.seal_header(&RustCrypto, &example_header()).0).unwrap();
    let (mut bytes, proof) = key.seal_header(&RustCrypto, &header);
    assert_eq!(key.verify_header(&RustCrypto, &bytes), Ok((header, proof)));
    bytes[256] ^= 2;
    assert_eq!(key.verify_header(&RustCrypto, &bytes).err(), Some(Tampered::Header.into()));
}
