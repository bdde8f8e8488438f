//! Every decoder of stored bytes, on any bytes: no panic, no memory that the bytes do not justify, and what decodes
//! encodes to the bytes that it came from.
//!
//! Tree nodes and ACLs have no public decoder; `mount_image_forged` reaches them. Bodies of key slots are `key_slots`.

use sefs::format::*;
use sefs::keys::VolumeKey;

use crate::memory;
use crate::suites::Forging;

/// A header has 64 KiB; its decoded form and its encoded form have no more, twice over.
const BUDGET_BYTES: usize = 1 << 20;

/// The target.
pub fn run(input: &[u8]) {
    let Some((&which, bytes)) = input.split_first() else { return };
    memory::within(BUDGET_BYTES, || decode(which, bytes));
}

fn decode(which: u8, bytes: &[u8]) {
    match which % 17 {
        0 => header(bytes),
        1 => {
            canonical(Checkpoint::decode(bytes), Checkpoint::encode, bytes);
            canonical(PackedRoot::decode(bytes), PackedRoot::encode, bytes);
        }
        2 => {
            if let Ok(chunk) = Chunk::decode(bytes) {
                assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
            }
            if let Ok(chunk) = Chunk::decode_as(bytes, ProofKind::Digest) {
                assert_eq!(Chunk::decode_as(&chunk.encode(), ProofKind::Digest), Ok(chunk));
            }
        }
        3 => {
            if let Ok(patch) = Patch::decode(bytes) {
                assert_eq!(Patch::decode(&patch.encode()), Ok(patch));
            }
        }
        4 => canonical(Inode::decode(bytes), Inode::encode, bytes),
        5 => canonical(DirEntryRecord::decode(bytes), DirEntryRecord::encode, bytes),
        6 => canonical(XattrHead::decode(bytes), XattrHead::encode, bytes),
        7 => canonical(RangeRecord::decode(bytes), RangeRecord::encode, bytes),
        8 => canonical(SpaceRecord::decode(bytes), SpaceRecord::encode, bytes),
        9 => canonical(OrphanRecord::decode(bytes), OrphanRecord::encode, bytes),
        10 => canonical(JobRecord::decode(bytes), JobRecord::encode, bytes),
        11 => canonical(EpochPage::decode(bytes), |page| page.encode().to_vec(), bytes),
        12 => group(bytes),
        13 => {
            let count = bytes.first().copied().unwrap_or(0);
            group_body(bytes, count.into());
        }
        14 => {
            if let Some(bytes) = bytes.first_chunk() {
                canonical(AllocEntry::decode(bytes), AllocEntry::encode, bytes);
            }
        }
        15 => {
            if let Some(bytes) = bytes.first_chunk() {
                canonical(AllocEntry::decode_root(bytes), AllocEntry::encode_root, bytes);
            }
        }
        _ => {
            if let Some(bytes) = bytes.first_chunk() {
                canonical(BlockRef::decode(bytes).ok_or("a reference"), BlockRef::encode, bytes);
            }
            let of_digest = BlockRef::decode_as(bytes, ProofKind::Digest).ok_or("a reference");
            canonical(of_digest, BlockRef::encode, bytes);
        }
    }
}

fn canonical<T, B: AsRef<[u8]>>(decoded: Decoded<T>, encode: impl Fn(&T) -> B, bytes: &[u8]) {
    if let Ok(value) = decoded {
        assert!(encode(&value).as_ref() == bytes, "it decodes, and encodes to something else");
    }
}

/// A short input is a header with zeros behind it, so that the fuzzer need not guess 64 KiB; slots stand at 8,192, so
/// what follows byte 512 of the input goes there.
fn header(bytes: &[u8]) {
    let mut whole = vec![0; HEADER_LEN];
    let (head, slots) = bytes.split_at(bytes.len().min(512));
    whole[..head.len()].copy_from_slice(head);
    let room = &mut whole[8192..];
    let len = slots.len().min(room.len());
    room[..len].copy_from_slice(&slots[..len]);
    let _ = Header::decode(bytes);
    let Ok(header) = Header::decode(&whole) else { return };
    if header.image == ImageType::Public {
        assert!(*header.encode_public() == *whole, "a public header encodes to something else");
        return;
    }
    let (sealed, _) = VolumeKey::new([1; 32]).seal_header(&Forging, &header);
    // All but the commitment and the authentication code, which the key decides.
    assert!(sealed[..80] == whole[..80] && sealed[112..HEADER_LEN - 32] == whole[112..HEADER_LEN - 32]);
}

fn group(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_at_checked(GROUP_PREFIX_LEN) else { return };
    let Some(head) = head.first_chunk() else { return };
    let Some(prefix) = GroupPrefix::decode(head) else { return };
    assert_eq!(prefix.encode(), *head);
    let _ = (prefix.total_blocks(), prefix.associated_data());
    group_body(body, prefix.data_blocks);
}

fn group_body(bytes: &[u8], data_blocks: u32) {
    if let Ok(body) = GroupBody::decode(bytes, data_blocks) {
        let again = body.encode();
        let twice = GroupBody::decode(&again, data_blocks).expect("what was encoded decodes");
        assert!(*twice.encode() == *again, "a group changes when it is written again");
    }
}
