use alloc::vec;

use proptest::collection;
use proptest::prelude::*;

use super::*;
use crate::format::any;

fn inode() -> impl Strategy<Value = Inode> {
    let ids = (any::file_kind(), 0..=0o7777u32, any::<[u32; 4]>(), any::<[bool; 2]>());
    let sizes = (0..=MAX_FILE_SIZE, any::<[u64; 5]>(), any::<u32>());
    let times = (any::timestamp(), any::timestamp(), any::timestamp(), any::timestamp());
    let extensions = collection::vec((any::<u16>(), collection::vec(any::<u8>(), 0..200)), 0..8);
    (ids, sizes, times, extensions).prop_map(|(ids, sizes, (atime, mtime, ctime, btime), extensions)| {
        let (kind, permissions, [uid, gid, links, project], [inline, past_end]) = ids;
        let (size, [object, change, rdev, parent, entries], subdirs) = sizes;
        Inode {
            mode: kind.mode_bits() | permissions,
            uid,
            gid,
            links,
            flags: InodeFlags { inline, past_end },
            size,
            object: ObjectId(object),
            change,
            rdev,
            atime,
            mtime,
            ctime,
            btime,
            project,
            parent: InodeNo(parent),
            entries,
            subdirs,
            extensions,
        }
    })
}

proptest! {
    #[test]
    fn inodes_come_back(inode in inode()) {
        prop_assert_eq!(Inode::decode(&inode.encode()), Ok(inode));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(bytes in inode().prop_flat_map(|inode| any::damaged(inode.encode()))) {
        if let Ok(inode) = Inode::decode(&bytes) {
            prop_assert_eq!(inode.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in collection::vec(any::<u8>(), 0..300)) {
        let _ = Inode::decode(&bytes);
    }
}

fn example() -> Inode {
    let time = |seconds| Timestamp { seconds, nanoseconds: 1 };
    Inode {
        mode: 0o100_644,
        uid: 1,
        gid: 2,
        links: 3,
        flags: InodeFlags { inline: true, past_end: false },
        size: 4,
        object: ObjectId(5),
        change: 6,
        rdev: 7,
        atime: time(8),
        mtime: time(9),
        ctime: time(10),
        btime: time(-11),
        project: 12,
        parent: InodeNo(13),
        entries: 14,
        subdirs: 15,
        extensions: vec![(16, vec![17])],
    }
}

#[test]
fn fields_stand_where_the_format_says() {
    let bytes = example().encode();
    let offsets = [8, 12, 16, 24, 32, 40, 48, 56, 68, 80, 92, 104, 112, 120, 128, 184, 188];
    let values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0xf5, 12, 13, 14, 15, 16, 17];
    assert_eq!(offsets.map(|at: usize| bytes[at]), values);
    assert_eq!(bytes[..8], [1, 0, 5, 0, 0xa4, 0x81, 0, 0], "version, extension bytes, mode");
    assert_eq!(bytes[20], 1, "flags");
    assert_eq!(bytes.len(), 189);
}

#[test]
fn every_rule_is_checked() {
    let valid = example().encode();
    let why = |at: usize, value: u8| {
        let mut bytes = valid.clone();
        bytes[at] = value;
        Inode::decode(&bytes).err()
    };
    assert_eq!(why(0, 2), Some("inode version"));
    assert_eq!(why(1, 1), Some("reserved bytes are set"));
    assert_eq!(why(2, 4), Some("inode extension length"));
    assert_eq!(why(5, 0x01), Some("inode mode"), "no type");
    assert_eq!(why(6, 1), Some("inode mode"), "bits above the type");
    assert_eq!(why(20, 4), Some("inode flags"));
    assert_eq!(why(31, 0x80), Some("inode size"));
    assert_eq!(why(67, 0x3c), Some("inode time"));
    assert_eq!(why(108, 1), Some("reserved bytes are set"));
    assert_eq!(why(132, 1), Some("reserved bytes are set"));
    assert_eq!(why(183, 1), Some("reserved bytes are set"));
    assert_eq!(why(186, 2), Some("truncated"), "an extension that runs past the end");
    assert_eq!(Inode::decode(&vec![1; MAX_VALUE_LEN + 1]), Err("inode too long"));
}

#[test]
fn kinds_convert_both_ways() {
    for kind in ALL_KINDS {
        assert_eq!(FileKind::from_mode(kind.mode_bits() | 0o7777), Some(kind));
        assert_eq!(FileKind::from_entry_type(kind.entry_type()), Some(kind));
    }
    assert_eq!(FileKind::from_mode(0o644), None);
    assert_eq!((FileKind::from_entry_type(0), FileKind::from_entry_type(8)), (None, None));
}
