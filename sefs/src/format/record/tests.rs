use alloc::vec;

use proptest::collection;
use proptest::prelude::*;

use super::*;
use crate::format::{Kind, any};
use crate::suite::RustCrypto;

fn name() -> impl Strategy<Value = Vec<u8>> {
    collection::vec(any::<u8>().prop_filter("not in names", |byte| !matches!(byte, 0 | b'/')), 1..=NAME_MAX)
        .prop_filter("reserved", |name| name != b"." && name != b"..")
}

proptest! {
    #[test]
    fn records_come_back(ino: u64, kind in any::file_kind(), name in name(), value in collection::vec(any::<u8>(), 0..4096)) {
        let entry = DirEntryRecord { ino: InodeNo(ino), kind, name: name.clone() };
        prop_assert_eq!(DirEntryRecord::decode(&entry.encode()), Ok(entry));
        let value_len = u32::try_from(value.len()).unwrap();
        let first = value[..value.len().min(XATTR_PART_LEN)].to_vec();
        let head = XattrHead { name, value_len, first };
        prop_assert!(head.encode().len() <= crate::format::MAX_VALUE_LEN);
        prop_assert_eq!(XattrHead::decode(&head.encode()), Ok(head));
    }

    #[test]
    fn small_records_come_back(a: u64, b: u64, c: u64, epoch: u32, cursor in any::key()) {
        let space = SpaceRecord { data_blocks: a };
        prop_assert_eq!(SpaceRecord::decode(&space.encode()), Ok(space));
        let range = RangeRecord { object: ObjectId(a), first_chunk: b, end_chunk: c };
        prop_assert_eq!(RangeRecord::decode(&range.encode()).is_ok(), b < c);
        if b < c {
            prop_assert_eq!(RangeRecord::decode(&range.encode()), Ok(range));
        }
        prop_assert_eq!(OrphanRecord::decode(&OrphanRecord.encode()), Ok(OrphanRecord));
        let note = alloc::vec![7; (a % (LOWER_NOTE_MAX as u64 + 1)) as usize];
        let lower = LowerRecord { volume_id: [b as u8; 16], root_digest: [c as u8; 32], note };
        prop_assert!(lower.encode().len() <= crate::format::MAX_VALUE_LEN);
        prop_assert_eq!(LowerRecord::decode(&lower.encode()), Ok(lower));
        let first = epoch % 1_000_000;
        let reencrypt: Vec<_> = (first..=first + epoch / 5_000_000).map(EpochId).collect();
        let job = JobRecord { reencrypt, cursor };
        prop_assert_eq!(job.encode().len(), 25 + 4 * job.reencrypt.len());
        prop_assert_eq!(JobRecord::decode(&job.encode()), Ok(job));
    }

    #[test]
    fn any_bytes_decode_to_what_encodes_to_them(bytes in collection::vec(any::<u8>(), 0..40)) {
        if let Ok(record) = DirEntryRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
        if let Ok(record) = XattrHead::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
        if let Ok(record) = SpaceRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
        if let Ok(record) = RangeRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
        if let Ok(record) = OrphanRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
        if let Ok(record) = LowerRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
        if let Ok(record) = JobRecord::decode(&bytes) {
            prop_assert_eq!(&record.encode(), &bytes);
        }
    }
}

/// SHA-256 of "abc" starts with ba7816bf8f01cfea.
#[test]
fn keys_of_names_have_known_answers() {
    let hash = name_hash(&RustCrypto, b"abc");
    assert_eq!(hash, 0x00ba_7816_bf8f_01cf);
    assert_eq!(name_key(hash, 0), 0x5d3c_0b5f_c780_e780);
    assert_eq!(name_key(hash, 127), 0x5d3c_0b5f_c780_e7ff);
    assert_eq!(xattr_key(&RustCrypto, b"abc", 5, 2), 0xba78_16bf_8f01_0502);
}

#[test]
fn keys_of_names_are_above_two_and_below_two_to_the_63() {
    assert_eq!([0, 1, 2, 3, 4].map(|discriminator| name_key(0, discriminator)), [3, 4, 5, 3, 4]);
    assert_eq!(name_key((1 << 56) - 1, 127), (1 << 63) - 1);
}

#[test]
fn names_that_no_directory_may_hold_are_refused() {
    let entry = |name: &[u8]| DirEntryRecord { ino: InodeNo(2), kind: FileKind::Regular, name: name.to_vec() }.encode();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", b"/"] {
        assert_eq!(DirEntryRecord::decode(&entry(name)), Err("directory entry name"), "{name:?}");
    }
    assert!(DirEntryRecord::decode(&entry(b"...")).is_ok());
    let mut bytes = entry(b"abc");
    assert_eq!(bytes[8..10], [1, 3]);
    bytes[8] = 8;
    assert_eq!(DirEntryRecord::decode(&bytes), Err("directory entry type"));
    bytes[8] = 1;
    bytes[9] = 2;
    assert_eq!(DirEntryRecord::decode(&bytes), Err("bytes follow the end"));
}

#[test]
fn attribute_heads_hold_exactly_what_their_length_says() {
    let head = |value_len, first| XattrHead { name: b"user.a".to_vec(), value_len, first: vec![1; first] };
    let check = |value_len, first| XattrHead::decode(&head(value_len, first).encode()).is_ok();
    assert!(check(0, 0) && check(2048, 2048) && check(2049, 2048) && check(65_536, 2048));
    assert!(!check(1, 0) && !check(2049, 2049) && !check(65_537, 2048) && !check(u32::MAX, 2048));
    assert!(XattrHead::decode(&XattrHead { name: vec![], value_len: 0, first: vec![] }.encode()).is_err());
    assert!(XattrHead::decode(&XattrHead { name: vec![0], value_len: 0, first: vec![] }.encode()).is_err());
    assert_eq!([0, 1, 2048, 2049, 65_536].map(|len| head(len, 0).parts()), [1, 1, 1, 2, 32]);
}

fn job(epochs: Vec<u32>) -> Vec<u8> {
    let reencrypt = epochs.into_iter().map(EpochId).collect();
    JobRecord { reencrypt, cursor: crate::format::Key::new(1, Kind::Inode, 0) }.encode()
}

#[test]
fn jobs_have_a_bounded_number_of_rising_epochs() {
    let most = u32::try_from(MAX_JOB_EPOCHS).unwrap();
    let decode = |epochs| JobRecord::decode(&job(epochs)).map(|job| job.reencrypt.len());
    assert_eq!(decode((1..=most).collect()), Ok(MAX_JOB_EPOCHS));
    assert!(job((1..=most).collect()).len() <= crate::format::MAX_VALUE_LEN);
    assert_eq!(decode((0..=most).collect()), Err("job epoch count"));
    assert_eq!(decode(vec![]), Err("job epoch count"));
    assert_eq!(decode(vec![2, 2]), Err("job epochs do not rise"));
    let mut long = job(vec![1]);
    long[4..8].copy_from_slice(&2u32.to_le_bytes());
    assert!(JobRecord::decode(&long).is_err());
}

#[test]
fn jobs_of_unknown_types_are_refused() {
    let mut bytes = job(vec![1]);
    bytes[0] = 2;
    assert_eq!(JobRecord::decode(&bytes), Err("job type"));
}
