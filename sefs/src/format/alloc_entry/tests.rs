use proptest::prelude::*;

use super::*;
use crate::format::any;

proptest! {
    #[test]
    fn entries_come_back(entry in any::alloc_entry()) {
        prop_assert_eq!(AllocEntry::decode(&entry.encode()), Ok(entry));
        prop_assert_eq!(AllocEntry::decode_root(&entry.encode_root()), Ok(entry));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(entry in any::alloc_entry(), at in 0..64usize, value in any::<u8>()) {
        let mut bytes = entry.encode();
        bytes[at] = value;
        if let Ok(entry) = AllocEntry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }
}

#[test]
fn every_rule_is_checked() {
    let valid = AllocEntry { present: true, home: 2, ..AllocEntry::default() }.encode();
    let check = |at: usize, value: u8| {
        let mut bytes = valid;
        bytes[at] = value;
        assert!(AllocEntry::decode(&bytes).is_err(), "{value} at {at}");
    };
    check(0, 2);
    check(1, 3);
    check(2, 1);
    check(3, 1);
    check(48, 1);
    check(63, 1);
    check(0, 0); // an absent page has no home
    for at in [4, 8, 20] {
        let mut bytes = [0; ALLOC_ENTRY_LEN];
        bytes[at] = 1;
        assert!(AllocEntry::decode(&bytes).is_err(), "an absent page with a byte at {at}");
    }
}
