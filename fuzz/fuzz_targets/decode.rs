//! Every decoder of stored bytes, on any bytes: no panic, and what decodes encodes to the bytes it came from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sefs::format::*;

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else { return };
    match which % 12 {
        0 => drop(Header::decode(bytes)),
        1 => {
            if let Ok(checkpoint) = Checkpoint::decode(bytes) {
                assert_eq!(&checkpoint.encode()[..], bytes);
            }
        }
        2 => {
            if let Ok(chunk) = Chunk::decode(bytes) {
                assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
            }
        }
        3 => {
            if let Ok(patch) = Patch::decode(bytes) {
                assert_eq!(Patch::decode(&patch.encode()), Ok(patch));
            }
        }
        4 => {
            if let Ok(inode) = Inode::decode(bytes) {
                assert_eq!(inode.encode(), bytes);
            }
        }
        5 => drop(DirEntryRecord::decode(bytes)),
        6 => drop(XattrHead::decode(bytes)),
        7 => drop(RangeRecord::decode(bytes)),
        8 => drop(EpochPage::decode(bytes)),
        9 => {
            if let Some((head, body)) = bytes.split_at_checked(GROUP_PREFIX_LEN)
                && let Some(prefix) = head.first_chunk().and_then(GroupPrefix::decode)
            {
                drop(GroupBody::decode(body, prefix.data_blocks));
            }
        }
        10 => {
            let count = bytes.first().copied().unwrap_or(0);
            drop(GroupBody::decode(bytes, count.into()));
        }
        _ => {
            if let Some(entry) = bytes.first_chunk() {
                drop(AllocEntry::decode(entry));
            }
            if let Some(reference) = bytes.first_chunk() {
                drop(BlockRef::decode(reference));
            }
        }
    }
});
