use alloc::vec;

use proptest::collection;
use proptest::prelude::*;

use super::*;
use crate::format::any;
use crate::format::block_ref::tests::any_block_ref;

fn anchor() -> impl Strategy<Value = AnchorBinding> {
    let policies = prop_oneof![Just(AnchorPolicy::Strict), Just(AnchorPolicy::Checkpoint)];
    let kinds = prop_oneof![Just(AnchorKind::ContentBound), Just(AnchorKind::BareCounter)];
    let binding = (policies, kinds, any::<[u8; 32]>(), 0..COUNTER_END);
    let binding =
        binding.prop_map(|(policy, kind, identity, counter)| AnchorBinding { policy, kind, identity, counter });
    prop_oneof![Just(AnchorBinding::default()), binding]
}

fn roots() -> impl Strategy<Value = Vec<TreeRoot>> {
    let root = (proptest::option::of((any_block_ref(), 0..=MAX_TREE_LEVEL)), 0..U48_END, any::<u32>());
    collection::btree_map(any::<u32>(), root, 0..=MAX_ROOTS).prop_map(|roots| {
        let root = |tree, node: Option<(BlockRef, u8)>, birth, parent| TreeRoot {
            tree,
            level: node.map_or(0, |(_, level)| level),
            birth: Generation(birth),
            parent,
            reference: node.map(|(reference, _)| reference),
        };
        roots.into_iter().map(|(tree, (node, birth, parent))| root(tree, node, birth, parent)).collect()
    })
}

pub(in crate::format) fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
    let page = (0..U48_END, any::<[u8; 16]>()).prop_map(|(addr, tag)| EpochPageRef { addr: BlockAddr(addr), tag });
    let counters = any::<[u64; 6]>().prop_map(|counters| counters.map(|counter| counter % COUNTER_END));
    let numbers = (1..GENERATION_END, counters, any::<u32>(), 1..=4u8, any::<[bool; 2]>());
    let proofs = (any::<[u8; 32]>(), any::<[u8; 16]>(), collection::vec(any::<[u8; 32]>(), 1..=2), any::alloc_entry());
    let lists = (anchor(), roots(), collection::vec(page, 0..=MAX_EPOCH_PAGES), rotation());
    (numbers, proofs, lists).prop_map(|(numbers, proofs, (anchor, roots, epoch_pages, rotation))| {
        let (
            generation,
            [log_start, next_id, free_blocks, unwritten_blocks, inodes, nodes],
            log_epoch,
            alloc_levels,
            [clean, epoch_start],
        ) = numbers;
        let (previous_salt, previous_tag, accepted_headers, alloc_root) = proofs;
        let epoch_count = count_u32(epoch_pages.len() * ENTRIES_PER_EPOCH_PAGE).min(MAX_EPOCHS);
        Checkpoint {
            generation: Generation(generation),
            previous_salt,
            log_start: Lsn(log_start),
            previous_tag,
            log_epoch: EpochId(log_epoch),
            epoch_count,
            clean,
            epoch_start,
            accepted_headers,
            alloc_levels,
            next_id,
            free_blocks,
            unwritten_blocks,
            inodes,
            nodes,
            alloc_root,
            anchor,
            roots,
            epoch_pages,
            rotation,
        }
    })
}

fn rotation() -> impl Strategy<Value = Option<Rotation>> {
    let some = (2..=u32::MAX, any::<[[u8; 32]; 2]>()).prop_map(|(first, [old_immutable_digest, old_header_digest])| {
        Rotation { first_epoch: EpochId(first), old_immutable_digest, old_header_digest }
    });
    proptest::option::of(some)
}

proptest! {
    #[test]
    fn checkpoints_come_back(checkpoint in any_checkpoint()) {
        prop_assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        bytes in any_checkpoint().prop_flat_map(|checkpoint| any::damaged(checkpoint.encode().to_vec())),
    ) {
        if let Ok(checkpoint) = Checkpoint::decode(&bytes) {
            prop_assert_eq!(&checkpoint.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Checkpoint::decode(&bytes).is_err());
    }
}

/// A checkpoint in which every part is used.
pub(in crate::format) fn example() -> Checkpoint {
    let reference = BlockRef {
        source: 0,
        epoch: EpochId(2),
        addr: BlockAddr(2000),
        nonce: [3; 12],
        birth: Generation(4),
        proof: [5; 16].into(),
        len_bytes: 16_384,
    };
    let root = |tree, reference| TreeRoot { tree, level: 0, birth: Generation(1), parent: 0, reference };
    Checkpoint {
        generation: Generation(8),
        previous_salt: [9; 32],
        log_start: Lsn(10),
        previous_tag: [11; 16],
        log_epoch: EpochId(1),
        epoch_count: 85,
        clean: false,
        epoch_start: true,
        accepted_headers: vec![[12; 32], [13; 32]],
        alloc_levels: 1,
        next_id: 14,
        free_blocks: 15,
        unwritten_blocks: 16,
        inodes: 17,
        nodes: 18,
        alloc_root: AllocEntry { present: true, home: 1, ..AllocEntry::default() },
        anchor: AnchorBinding {
            policy: AnchorPolicy::Strict,
            kind: AnchorKind::BareCounter,
            identity: [19; 32],
            counter: 20,
        },
        roots: vec![root(SYSTEM_TREE, None), root(FILES_TREE, Some(reference))],
        epoch_pages: vec![EpochPageRef { addr: BlockAddr(21), tag: [22; 16] }; 2],
        rotation: Some(Rotation {
            first_epoch: EpochId(23),
            old_immutable_digest: [24; 32],
            old_header_digest: [25; 32],
        }),
    }
}

#[test]
fn every_rule_is_checked() {
    let valid = example().encode();
    assert_eq!(Checkpoint::decode(&valid), Ok(example()));
    assert_eq!(example().root(FILES_TREE).map(|root| root.tree), Some(FILES_TREE));
    let why = |at: usize, bytes: &[u8]| {
        let mut changed = valid;
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        Checkpoint::decode(&changed).err()
    };
    assert_eq!(why(0, &[0]), Some("generation"));
    assert_eq!(why(6, &[1]), Some("generation"));
    assert_eq!(why(68, &[169]), Some("epoch count"), "more epochs than the pages hold");
    assert_eq!(why(68, &[1, 16, 0, 0, 52]), Some("epoch count"), "4,097 epochs");
    assert_eq!(why(72, &[53]), Some("epoch page count"));
    assert_eq!(why(72, &[255; 4]), Some("epoch page count"));
    assert_eq!(why(76, &[4]), Some("checkpoint flags"));
    assert_eq!(why(78, &[0]), Some("accepted header digests"));
    assert_eq!(why(78, &[1]), Some("accepted header digests"), "a second digest that does not count");
    assert_eq!(why(78, &[3]), Some("accepted header digests"));
    assert_eq!(why(79, &[0]), Some("allocation levels"));
    assert_eq!(why(79, &[5]), Some("allocation levels"));
    assert_eq!(why(224, &[0]), Some("anchor binding"));
    assert_eq!(why(225, &[0]), Some("anchor binding"));
    assert_eq!(why(224, &[0, 0]), Some("anchor binding"), "an identity without an anchor");
    assert_eq!(why(224, &[3]), Some("anchor policy"));
    assert_eq!(why(225, &[3]), Some("anchor kind"));
    assert_eq!(why(226, &[1]), Some("reserved bytes are set"));
    assert_eq!(why(272, &[9]), Some("root count"));
    assert_eq!(why(272, &[1]), Some("reserved bytes are set"), "a root that does not count");
    assert_eq!(why(280, &[1]), Some("tree ids do not rise"));
    assert_eq!(why(284, &[1]), Some("root presence or level"), "a level without a node");
    assert_eq!(why(380, &[13]), Some("root presence or level"));
    assert_eq!(why(381, &[2]), Some("root presence or level"));
    assert_eq!(why(400, &[1]), Some("root reference"));
    assert_eq!(why(2304, &[2]), Some("rotation presence"));
    assert_eq!(why(2304, &[0]), Some("reserved bytes are set"), "a record that is not there");
    assert_eq!(why(2305, &[1]), Some("reserved bytes are set"));
    assert_eq!(why(2308, &[1, 0, 0, 0]), Some("first epoch of the new key"));
    assert_eq!(why(2376, &[1]), Some("reserved bytes are set"));
    assert_eq!(why(4047, &[1]), Some("reserved bytes are set"));
}

/// A hostile holder of the key may store any number; what is added to it later must not overflow.
#[test]
fn counters_leave_room_to_count() {
    let check = |at: usize, value: u64, why: &str| {
        let mut bytes = example().encode().to_vec();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        assert_eq!(Checkpoint::decode(&bytes).err(), Some(why), "bytes {at}");
        bytes[at..at + 8].copy_from_slice(&(value - 1).to_le_bytes());
        assert_ne!(Checkpoint::decode(&bytes).err(), Some(why), "bytes {at}, one less");
    };
    check(0, GENERATION_END, "generation");
    check(144, ID_END, "a counter that no volume reaches");
    for at in [40, 152, 160, 168, 264, 2296] {
        check(at, COUNTER_END, "a counter that no volume reaches");
    }
}
