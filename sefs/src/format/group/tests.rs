use alloc::vec;
use alloc::vec::Vec;

use proptest::collection;
use proptest::prelude::*;

use super::*;
use crate::format::any;
use crate::format::codec::{COUNTER_END, U48_END};
use crate::format::key::LAST_CHUNK;

fn prefix() -> impl Strategy<Value = GroupPrefix> {
    (any::<[u64; 2]>(), any::<[u32; 3]>(), any::<[u8; 12]>(), any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(
        |([lsn, _], [sealed_len, epoch, data_blocks], nonce, tag, previous_tag)| GroupPrefix {
            lsn: Lsn(lsn),
            previous_tag,
            sealed_len,
            epoch: EpochId(epoch),
            data_blocks,
            nonce,
            tag,
        },
    )
}

/// Of anything but a chunk.
fn record_key() -> impl Strategy<Value = Key> {
    any::key().prop_filter("chunks are patched", |key| key.kind != Kind::Extent)
}

fn record() -> impl Strategy<Value = LogRecord> {
    prop_oneof![
        (record_key(), collection::vec(any::<u8>(), 0..60)).prop_map(|(key, value)| LogRecord::Put(key, value)),
        record_key().prop_map(LogRecord::Delete),
        (any::<u64>(), 0..=LAST_CHUNK, any::patch(1))
            .prop_map(|(object, chunk, patch)| LogRecord::Patch(Key::new(object, Kind::Extent, chunk), patch)),
        (any::<u32>(), any::<[u8; 32]>())
            .prop_map(|(id, secret)| LogRecord::NewEpoch { id: EpochId(id), secret: SecretKey::new(secret) }),
    ]
}

fn body() -> impl Strategy<Value = GroupBody> {
    (any::<[u64; 5]>(), collection::vec(0..U48_END, 0..5), collection::vec(record(), 0..8)).prop_map(
        |(counters, addresses, records)| {
            let [flushed, base, sequence, next_id, inodes] = counters.map(|counter| counter % COUNTER_END);
            GroupBody {
                flushed_lsn: Lsn(flushed),
                base: Generation(base),
                sequence,
                next_id,
                inodes,
                data_addresses: addresses.into_iter().map(BlockAddr).collect(),
                records,
            }
        },
    )
}

fn data_blocks(body: &GroupBody) -> u32 {
    count_u32(body.data_addresses.len())
}

fn same(a: &LogRecord, b: &LogRecord) -> bool {
    match (a, b) {
        (LogRecord::Put(a, value), LogRecord::Put(b, other)) => a == b && value == other,
        (LogRecord::Delete(a), LogRecord::Delete(b)) => a == b,
        (LogRecord::Patch(a, patch), LogRecord::Patch(b, other)) => a == b && patch == other,
        (LogRecord::NewEpoch { id: a, secret }, LogRecord::NewEpoch { id: b, secret: other }) => {
            a == b && secret.expose() == other.expose()
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn prefixes_come_back(prefix in prefix()) {
        prop_assert_eq!(GroupPrefix::decode(&prefix.encode()), Some(prefix));
    }

    #[test]
    fn any_prefix_bytes_decode_or_fail(prefix in prefix(), at in 0..80usize, value in any::<u8>()) {
        let mut bytes = prefix.encode();
        bytes[at] = value;
        if let Some(decoded) = GroupPrefix::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
            prop_assert!(decoded.total_blocks() >= decoded.record_blocks() && decoded.record_blocks() >= 1);
        }
    }

    #[test]
    fn bodies_come_back(body in body()) {
        let bytes = body.encode();
        let decoded = GroupBody::decode(&bytes, data_blocks(&body)).unwrap();
        prop_assert_eq!(&decoded.data_addresses, &body.data_addresses);
        prop_assert_eq!(decoded.records.len(), body.records.len());
        prop_assert!(decoded.records.iter().zip(&body.records).all(|(a, b)| same(a, b)));
        prop_assert_eq!(&*decoded.encode(), &*bytes);
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in collection::vec(any::<u8>(), 0..300), data_blocks in any::<u32>()) {
        let _ = GroupBody::decode(&bytes, data_blocks);
        let _ = GroupBody::decode(&bytes, data_blocks % 4);
    }

    #[test]
    fn damaged_bytes_decode_or_fail(
        (bytes, data_blocks) in body().prop_flat_map(|body| (any::damaged(body.encode().to_vec()), Just(data_blocks(&body)))),
    ) {
        if let Ok(body) = GroupBody::decode(&bytes, data_blocks) {
            prop_assert!(GroupBody::decode(&body.encode(), data_blocks).is_ok());
        }
    }
}

#[test]
fn every_byte_that_the_associated_data_bind_changes_them() {
    let (zero, mut bytes) = (GroupPrefix::decode(&with_magic([0; 80])).unwrap(), [0; 80]);
    for at in 8..44 {
        bytes[at] = 1;
        let prefix = GroupPrefix::decode(&with_magic(bytes)).unwrap();
        assert_ne!(prefix.associated_data(), zero.associated_data(), "byte {at}");
        bytes[at] = 0;
    }
    assert_eq!(zero.associated_data()[..4], [4, 0, 1, 0]);
    assert_eq!(zero.associated_data()[4..12], *b"SEFSgrp1");
    for at in (44..48).chain(60..64) {
        bytes[at] = 1;
        assert_eq!(GroupPrefix::decode(&with_magic(bytes)), None, "reserved byte {at}");
        bytes[at] = 0;
    }
}

fn with_magic(mut bytes: [u8; 80]) -> [u8; 80] {
    bytes[..8].copy_from_slice(b"SEFSgrp1");
    bytes
}

#[test]
fn groups_take_whole_blocks() {
    let blocks = |sealed_len| {
        let prefix = GroupPrefix { sealed_len, ..GroupPrefix::decode(&with_magic([0; 80])).unwrap() };
        (prefix.record_blocks(), GroupPrefix { data_blocks: u32::MAX, ..prefix }.total_blocks())
    };
    assert_eq!(blocks(0), (1, 1 + u64::from(u32::MAX)));
    assert_eq!(blocks(4016).0, 1);
    assert_eq!(blocks(4017).0, 2);
    assert_eq!(blocks(u32::MAX).0, 1_048_577);
}

#[test]
fn counts_that_the_bytes_do_not_justify_are_refused_before_anything_is_allocated() {
    let body = |count: u32| {
        let mut bytes = GroupBody::default().encode().to_vec();
        bytes[24..28].copy_from_slice(&count.to_le_bytes());
        bytes
    };
    assert!(GroupBody::decode(&body(0), 0).is_ok());
    assert_eq!(GroupBody::decode(&body(u32::MAX), 0).unwrap_err(), "record count");
    assert_eq!(GroupBody::decode(&body(1), 0).unwrap_err(), "record count");
    assert_eq!(GroupBody::decode(&body(0), u32::MAX).unwrap_err(), "truncated");
}

#[test]
fn every_rule_of_a_record_is_checked() {
    let (key, chunk) = (Key::new(5, Kind::DirEntry, 1), Key::new(5, Kind::Extent, 1));
    let check = |record: LogRecord, change: &dyn Fn(&mut Vec<u8>), why: &str| {
        let mut bytes = GroupBody { records: vec![record], ..GroupBody::default() }.encode().to_vec();
        change(&mut bytes);
        assert_eq!(GroupBody::decode(&bytes, 0).unwrap_err(), why);
    };
    let new_epoch = || LogRecord::NewEpoch { id: EpochId(1), secret: SecretKey::new([1; 32]) };
    check(LogRecord::Delete(key), &|bytes| bytes[28] = 1, "group flags");
    check(LogRecord::Delete(key), &|bytes| bytes[64] = 9, "unknown key kind");
    check(LogRecord::Delete(key), &|bytes| bytes[65] = 5, "unknown log record");
    check(LogRecord::Delete(key), &|bytes| bytes[66] = 1, "truncated");
    check(LogRecord::Delete(key), &|bytes| bytes.push(0), "bytes follow the end");
    check(LogRecord::Put(key, vec![0]), &|bytes| bytes[65] = 2, "a deletion with a value");
    check(LogRecord::Put(key, vec![0; 4353]), &|_| {}, "value too long");
    check(LogRecord::Put(chunk, vec![0]), &|_| {}, "a chunk that is put or deleted as a whole");
    check(LogRecord::Delete(chunk), &|_| {}, "a chunk that is put or deleted as a whole");
    check(LogRecord::Patch(chunk, Patch::default()), &|bytes| bytes[64] = 1, "a patch of something other than a chunk");
    check(LogRecord::Patch(chunk, Patch::default()), &|bytes| bytes[70] = 2, "chunk version");
    let past = Key::new(5, Kind::Extent, LAST_CHUNK + 1);
    check(LogRecord::Patch(past, Patch::default()), &|_| {}, "a chunk past the end of the largest file");
    check(new_epoch(), &|bytes| bytes[64] = 1, "reserved bytes are set");
    check(
        LogRecord::Put(Key::new(0, Kind::Inode, 0), vec![0; 37]),
        &|bytes| bytes[64..66].copy_from_slice(&[0, 4]),
        "bytes follow the end",
    );
}

#[test]
fn debug_output_has_no_secrets_and_no_contents() {
    let secret = LogRecord::NewEpoch { id: EpochId(1), secret: SecretKey::new([0xab; 32]) };
    assert!(!alloc::format!("{secret:?}").contains("171"));
    let value = LogRecord::Put(Key::MIN, vec![0xab; 3]);
    assert!(!alloc::format!("{value:?}").contains("171"));
}
