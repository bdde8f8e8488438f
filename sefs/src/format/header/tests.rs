use alloc::vec;

use proptest::collection;
use proptest::prelude::*;

use super::*;
use crate::format::any;
use crate::suite::RustCrypto;

pub(crate) fn example() -> Header {
    Header {
        image: ImageType::Volume,
        incompatible: 0,
        volume_id: [1; 16],
        node_size_bytes: 16_384,
        ring_start: RING_START,
        ring_blocks: 256,
        max_unmerged_bytes: 1 << 20,
        generation: 6,
        read_only_compatible: 0,
        compatible: 0,
        total_blocks: 16_384,
        key_generation: 1,
        label: "été".into(),
        slots: vec![
            KeySlot { kind: 2, body: vec![7; 100] },
            KeySlot { kind: 900, body: vec![8; MAX_SLOT_BODY] },
            KeySlot { kind: 1, body: vec![] },
        ],
    }
}

fn key() -> SecretKey {
    SecretKey::new([42; 32])
}

fn sealed(header: &Header) -> Box<[u8]> {
    header.seal(&RustCrypto, &key()).0
}

fn any_header() -> impl Strategy<Value = Header> {
    let slot = (1..=u16::MAX, collection::vec(any::<u8>(), 0..=MAX_SLOT_BODY));
    let slots = collection::vec(slot.prop_map(|(kind, body)| KeySlot { kind, body }), 0..=MAX_KEY_SLOTS);
    let sizes = (prop_oneof![Just(16_384), Just(32_768), Just(65_536u32)], MIN_TOTAL_BLOCKS..=MAX_TOTAL_BLOCKS);
    let numbers = (any::<[u8; 16]>(), 1..=u64::MAX, any::<[u64; 2]>(), 1..=u32::MAX, 1u64 << 16..=1 << 30);
    (sizes, numbers, "[^\0]{0,16}", slots).prop_map(|((node_size_bytes, blocks), numbers, label, slots)| {
        let (volume_id, generation, [read_only_compatible, compatible], key_generation, max_unmerged_bytes) = numbers;
        let total_blocks = usable_blocks(blocks).unwrap();
        Header {
            volume_id,
            node_size_bytes,
            ring_blocks: ring_blocks_for(total_blocks),
            max_unmerged_bytes,
            generation,
            read_only_compatible,
            compatible,
            total_blocks,
            key_generation,
            label,
            slots,
            ..example()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn headers_come_back(header in any_header()) {
        let (bytes, proof) = header.seal(&RustCrypto, &key());
        prop_assert_eq!(Header::decode(&bytes), Ok(header.clone()));
        prop_assert_eq!(Header::verify(&bytes, &RustCrypto, &key()), Ok((header, proof)));
    }

    #[test]
    fn damaged_headers_decode_or_fail(bytes in any_header().prop_flat_map(|header| any::damaged(sealed(&header).to_vec()))) {
        let _ = Header::decode(&bytes);
    }

    #[test]
    fn any_bytes_decode_or_fail(mut bytes in collection::vec(any::<u8>(), 0..300), long: bool) {
        bytes.splice(..0, *HEADER_MAGIC);
        if long {
            bytes.resize(HEADER_LEN, 0);
        }
        prop_assert!(Header::decode(&bytes).is_err());
    }
}

/// What a flipped bit in each range may be taken for. A changed commitment or volume id looks like another key's header.
#[test]
fn a_flip_of_any_byte_is_an_error_of_the_right_kind() {
    let valid = sealed(&example());
    let mut bytes = valid.clone();
    for at in 0..HEADER_LEN {
        bytes[at] ^= 0x10;
        let error = Header::verify(&bytes, &RustCrypto, &key()).expect_err("a changed byte");
        let right = match at {
            0..8 => error == Malformed::NotSefs.into(),
            8..10 => matches!(error, Error::Incompatible(Incompatible::FormatVersion(_))),
            10..12 => matches!(error, Error::Incompatible(Incompatible::ImageType(_))),
            16..24 => matches!(error, Error::Incompatible(Incompatible::Features(_))),
            40..42 => matches!(error, Error::Incompatible(Incompatible::Suite(_))),
            24..40 | 80..112 => error == Error::WrongKey,
            12..16 | 42..56 | 112..256 | 294..296 | 360..8192 => matches!(error, Error::Malformed(_)),
            // Sizes, counts, the label and the slots: a value out of range, or one that is in range and not ours.
            _ if at < MAC_AT => matches!(error, Error::Malformed(_)) || error == Tampered::Header.into(),
            _ => error == Tampered::Header.into(),
        };
        assert!(right, "byte {at}: {error:?}");
        bytes[at] ^= 0x10;
    }
    assert_eq!(bytes, valid);
}

#[test]
fn bytes_that_are_in_range_reach_the_authentication_code() {
    let valid = sealed(&example());
    // max_unmerged_bytes, generation, feature flags, key generation, label, slot kind, slot body
    for at in [73, 256, 264, 272, 288, 298, 8192, 8196] {
        let mut bytes = valid.clone();
        bytes[at] ^= 0x04;
        assert_eq!(Header::verify(&bytes, &RustCrypto, &key()), Err(Tampered::Header.into()), "byte {at}");
    }
}

#[test]
fn another_key_is_a_wrong_key() {
    let bytes = sealed(&example());
    assert_eq!(Header::verify(&bytes, &RustCrypto, &SecretKey::new([43; 32])), Err(Error::WrongKey));
}

#[test]
fn wrong_lengths_are_told_from_wrong_content() {
    let bytes = sealed(&example());
    assert_eq!(Header::decode(&[]), Err(Malformed::NotSefs.into()));
    assert_eq!(Header::decode(&bytes[..7]), Err(Malformed::NotSefs.into()));
    let truncated = Malformed::Truncated { expected_bytes: 65_536, actual_bytes: 65_535 };
    assert_eq!(Header::decode(&bytes[..65_535]), Err(truncated.into()));
}

fn check_range(change: impl Fn(&mut Header), field: &'static str) {
    let mut header = example();
    change(&mut header);
    assert_eq!(header.check_ranges(), Err(field));
    let bytes = header.write_fields(&[0; 32]);
    assert!(Header::decode(&bytes).is_err(), "{field}");
}

#[test]
fn every_range_is_checked() {
    assert_eq!(example().check_ranges(), Ok(()));
    check_range(|header| header.node_size_bytes = 8192, "node size");
    check_range(|header| header.generation = 0, "header generation");
    check_range(|header| header.key_generation = 0, "volume key generation");
    check_range(|header| header.max_unmerged_bytes = (1 << 16) - 1, "max_unmerged_bytes");
    check_range(|header| header.max_unmerged_bytes = (1 << 30) + 1, "max_unmerged_bytes");
    check_range(|header| header.total_blocks = 1023, "total_blocks");
    check_range(|header| header.total_blocks = MAX_TOTAL_BLOCKS + GROUP_BLOCKS, "total_blocks");
    check_range(|header| header.total_blocks = u64::MAX, "total_blocks");
    check_range(|header| header.total_blocks = GROUP_BLOCKS + 63, "total_blocks");
    check_range(|header| header.ring_blocks = 63, "ring_blocks");
    check_range(|header| header.ring_blocks = u64::MAX, "ring_blocks");
    check_range(|header| header.ring_start = BlockAddr(63), "ring_start");
    check_range(|header| header.ring_start = BlockAddr(u64::MAX), "ring_start");
    check_range(|header| header.ring_start = BlockAddr(16_384 - 16 - 255), "ring_start");
}

#[test]
fn slots_and_labels_have_one_form() {
    let why = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = example().write_fields(&[0; 32]);
        assert!(Header::decode(&bytes).is_ok());
        change(&mut bytes);
        Header::decode(&bytes).err()
    };
    let field = |name| Some(Error::from(Malformed::HeaderField(name)));
    assert_eq!(why(&|bytes| bytes[SLOTS_AT + 3] = 8), field("key slot length"));
    assert_eq!(why(&|bytes| bytes[SLOTS_AT + 2] = 99), field("key slot padding"));
    assert_eq!(why(&|bytes| bytes[SLOTS_AT] = 0), field("empty key slot"));
    assert_eq!(why(&|bytes| bytes[SLOTS_AT + 5 * SLOT_LEN] = 1), field("key slot after an empty one"));
    assert_eq!(why(&|bytes| bytes[LABEL_AT + 63] = b'x'), field("label"));
    assert_eq!(why(&|bytes| bytes[LABEL_AT] = 0xff), field("label"));
    assert_eq!(why(&|bytes| bytes[16] = 4), Some(Incompatible::Features(4).into()));
    assert_eq!(why(&|bytes| bytes[292] = 1), field("a reserved field"), "an image's number");
    assert_eq!(why(&|bytes| bytes[4096] = 1), field("a reserved field"), "an image's place");
}

#[test]
fn unknown_features_of_the_mild_kinds_are_no_error() {
    let header = Header { read_only_compatible: 1 << 63, compatible: 1, ..example() };
    assert_ne!(Header::decode(&sealed(&header)).unwrap().unknown_read_only_features(), 0);
    assert_eq!(example().unknown_read_only_features(), 0);
}

#[test]
fn new_volumes_get_sizes_that_decode() {
    assert_eq!(
        [1023, 1024, 32_768, 32_831, 32_832].map(usable_blocks),
        [None, Some(1024), Some(32_768), Some(32_768), Some(32_832)]
    );
    assert_eq!([usable_blocks(MAX_TOTAL_BLOCKS), usable_blocks(MAX_TOTAL_BLOCKS + 64)], [Some(MAX_TOTAL_BLOCKS), None]);
    assert_eq!([1024, 16_383, 16_384, 65_536, 1 << 30].map(ring_blocks_for), [64, 256, 256, 1024, 16_384]);
    for total_blocks in [1024, 4096, 16_384, 32_832, MAX_TOTAL_BLOCKS] {
        let header = Header { total_blocks, ring_blocks: ring_blocks_for(total_blocks), ..example() };
        assert_eq!(header.check_ranges(), Ok(()), "{total_blocks}");
    }
}

fn packed(image: ImageType) -> Header {
    let (key_generation, slots) = if image == ImageType::Public { (0, vec![]) } else { (1, example().slots) };
    Header {
        image,
        ring_start: BlockAddr(0),
        ring_blocks: 0,
        max_unmerged_bytes: 0,
        generation: 1,
        total_blocks: 21,
        key_generation,
        slots,
        ..example()
    }
}

#[test]
fn headers_of_packed_images_come_back() {
    let sealed = packed(ImageType::Packed);
    let bytes = self::sealed(&sealed);
    assert_eq!(Header::verify(&bytes, &RustCrypto, &key()).unwrap().0, sealed);
    let public = packed(ImageType::Public);
    let bytes = public.encode_public();
    assert_eq!(Header::decode(&bytes), Ok(public));
    let refused = Header::verify(&bytes, &RustCrypto, &key()).unwrap_err();
    assert_eq!(refused, Incompatible::NoKeyAdmits.into(), "whatever the key");
}

#[test]
fn a_packed_image_has_nothing_that_it_does_not_need() {
    let public = packed(ImageType::Public).encode_public();
    for at in [64, 56, 72, 80, 111, 257, 264, 272, 288, 8192, HEADER_LEN - 1] {
        let mut changed = public.clone();
        changed[at] = 1;
        assert!(matches!(Header::decode(&changed), Err(Error::Malformed(_))), "byte {at}");
    }
    for (image_type, suite) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (3, 4)] {
        let mut changed = public.clone();
        (changed[10], changed[40]) = (image_type, suite);
        assert_eq!(Header::decode(&changed), Err(Incompatible::Suite(suite.into()).into()), "{image_type}");
    }
}
