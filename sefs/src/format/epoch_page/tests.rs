use proptest::collection;
use proptest::prelude::*;

use super::*;

/// Number, live blocks and secret of each epoch. Secrets are not `Debug`, so pages are made inside the tests.
type Parts = Vec<(u32, u64, [u8; 32])>;

fn parts() -> impl Strategy<Value = Parts> {
    collection::btree_map(any::<u32>(), (any::<u64>(), any::<[u8; 32]>()), 0..=ENTRIES_PER_EPOCH_PAGE)
        .prop_map(|entries| entries.into_iter().map(|(id, (live, secret))| (id, live, secret)).collect())
}

fn page_of(parts: &Parts) -> EpochPage {
    let entry = |&(id, live_blocks, secret): &(u32, u64, [u8; 32])| EpochEntry {
        id: EpochId(id),
        live_blocks,
        secret: SecretKey::new(secret),
    };
    EpochPage { entries: parts.iter().map(entry).collect() }
}

fn parts_of(page: &EpochPage) -> Parts {
    page.entries.iter().map(|entry| (entry.id.0, entry.live_blocks, *entry.secret.expose())).collect()
}

proptest! {
    #[test]
    fn pages_come_back(parts in parts()) {
        let bytes = page_of(&parts).encode();
        prop_assert_eq!(bytes.len(), EPOCH_PAGE_PAYLOAD_LEN);
        prop_assert_eq!(parts_of(&EpochPage::decode(&bytes).unwrap()), parts);
    }

    #[test]
    fn damaged_pages_decode_or_fail(parts in parts(), at in 0..EPOCH_PAGE_PAYLOAD_LEN, value in any::<u8>()) {
        let mut bytes = page_of(&parts).encode().to_vec();
        bytes[at] = value;
        if let Ok(page) = EpochPage::decode(&bytes) {
            prop_assert_eq!(&**page.encode(), &bytes[..]);
        }
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(EpochPage::decode(&bytes).is_err());
    }
}

#[test]
fn every_rule_is_checked() {
    let entry = |id| EpochEntry { id: EpochId(id), live_blocks: 2, secret: SecretKey::new([3; 32]) };
    let valid = EpochPage { entries: alloc::vec![entry(1), entry(2)] }.encode();
    assert!(EpochPage::decode(&valid).is_ok());
    let why = |at: usize, value: u8| {
        let mut bytes = valid.to_vec();
        bytes[at] = value;
        EpochPage::decode(&bytes).err()
    };
    assert_eq!(why(0, 85), Some("epoch page count"));
    assert_eq!(why(3, 1), Some("epoch page count"));
    assert_eq!(why(0, 1), Some("reserved bytes are set"), "an entry that is not counted");
    assert_eq!(why(4, 1), Some("reserved bytes are set"));
    assert_eq!(why(20, 1), Some("reserved bytes are set"));
    assert_eq!(why(64, 1), Some("epoch ids do not rise"));
    assert_eq!(why(4063, 1), Some("reserved bytes are set"));
}
