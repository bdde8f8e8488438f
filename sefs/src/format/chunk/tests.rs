use alloc::vec;
use alloc::vec::Vec;

use proptest::collection;
use proptest::prelude::*;

use super::*;
use crate::format::any;

type Model = [BlockState; 64];

fn model_of(chunk: &Chunk) -> Model {
    core::array::from_fn(|block| chunk.get(u8::try_from(block).unwrap()))
}

/// The law in its plainest form: each block by itself.
fn apply_to_model(model: &mut Model, patch: &Patch, released: &mut Vec<BlockLoc>) {
    for (block, old) in (0u8..).zip(model) {
        let named = patch.iter().find(|(named, _)| *named == block).map(|(_, state)| state);
        let new = named.unwrap_or(if patch.is_reset() { BlockState::Absent } else { *old });
        if let BlockState::Data(loc) = *old
            && *old != new
        {
            released.push(loc);
        }
        *old = new;
    }
}

fn sorted(mut locs: Vec<BlockLoc>) -> Vec<BlockLoc> {
    locs.sort_by_key(|loc| (loc.epoch, loc.addr, loc.birth, loc.nonce, loc.proof));
    locs
}

fn check_law(chunk: &Chunk, older: &Patch, newer: &Patch) {
    let (mut model, mut model_released) = (model_of(chunk), vec![]);
    apply_to_model(&mut model, older, &mut model_released);
    apply_to_model(&mut model, newer, &mut model_released);

    let (mut in_turn, mut in_turn_released) = (chunk.clone(), vec![]);
    in_turn.apply(older, &mut |loc| in_turn_released.push(loc));
    in_turn.apply(newer, &mut |loc| in_turn_released.push(loc));
    assert_eq!(model_of(&in_turn), model);
    assert_eq!(sorted(in_turn_released), sorted(model_released.clone()));

    let (mut at_once, mut merged, mut at_once_released) = (chunk.clone(), older.clone(), vec![]);
    merged.merge(newer, &mut |loc| at_once_released.push(loc));
    at_once.apply(&merged, &mut |loc| at_once_released.push(loc));
    assert_eq!(at_once, in_turn);
    assert_eq!(sorted(at_once_released), sorted(model_released));
}

/// Replaces some of a patch's blocks by what stands there already, as a repeated write of the same records does.
fn repeating(patch: &Patch, standing: &Model, repeat: u64) -> Patch {
    let mut patch = patch.clone();
    for (block, state) in (0u8..).zip(standing) {
        if repeat & 1 << block != 0 && (*state != BlockState::Absent || !patch.is_reset()) {
            patch.set(block, *state, &mut |_| {});
        }
    }
    patch
}

proptest! {
    #[test]
    fn merging_equals_applying_in_turn(chunk in any::chunk(1), older in any::patch(2), newer in any::patch(3)) {
        check_law(&chunk, &older, &newer);
    }

    #[test]
    fn what_is_set_again_is_not_released(
        chunk in any::chunk(1), older in any::patch(2), newer in any::patch(3), repeat in any::<u64>(),
    ) {
        let mut standing = model_of(&chunk);
        apply_to_model(&mut standing, &older, &mut vec![]);
        check_law(&chunk, &older, &repeating(&newer, &standing, repeat));
    }

    #[test]
    fn chunks_come_back(chunk in any::chunk(1)) {
        let bytes = chunk.encode();
        prop_assert!(bytes.len() <= crate::format::MAX_VALUE_LEN);
        prop_assert_eq!(bytes.len() % 8, 0);
        if chunk.is_empty() {
            prop_assert!(Chunk::decode(&bytes).is_err());
        } else {
            prop_assert_eq!(Chunk::decode(&bytes), Ok(chunk));
        }
    }

    #[test]
    fn patches_come_back(patch in any::patch(1)) {
        let bytes = patch.encode();
        prop_assert!(bytes.len() <= patch.max_len());
        prop_assert_eq!(Patch::decode(&bytes), Ok(patch));
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in collection::vec(any::<u8>(), 0..200)) {
        let _ = Chunk::decode(&bytes);
        let _ = Patch::decode(&bytes);
    }

    #[test]
    fn damaged_bytes_decode_to_something_that_comes_back(
        bytes in any::patch(1).prop_flat_map(|patch| any::damaged(patch.encode())),
    ) {
        if let Ok(patch) = Patch::decode(&bytes) {
            prop_assert_eq!(Patch::decode(&patch.encode()), Ok(patch));
        }
        if let Ok(chunk) = Chunk::decode(&bytes) {
            prop_assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
        }
    }
}

fn loc(block: u8) -> BlockLoc {
    BlockLoc {
        source: 0,
        epoch: EpochId(7),
        addr: BlockAddr(100 + u64::from(block)),
        birth: Generation(3),
        nonce: nonce_at(&[1; 12], block.into()).unwrap(),
        proof: [block; 16].into(),
    }
}

fn chunk_of(blocks: &[(u8, BlockLoc)]) -> Chunk {
    Chunk { blocks: blocks.iter().map(|(block, loc)| (*block, BlockState::Data(*loc))).collect(), zero: 0 }
}

#[test]
fn consecutive_blocks_share_a_run_and_others_do_not() {
    let runs = |chunk: &Chunk| chunk.encode()[2];
    let all: Vec<_> = (0..64).map(|block| (block, loc(block))).collect();
    assert_eq!(runs(&chunk_of(&all)), 1);
    assert_eq!(chunk_of(&all).encode().len(), 40 + 32 + 64 * 16);
    assert_eq!(runs(&chunk_of(&[(0, loc(0)), (2, loc(2))])), 2, "a gap");
    let changes: [fn(&mut BlockLoc); 4] =
        [|loc| loc.epoch.0 += 1, |loc| loc.addr.0 += 1, |loc| loc.birth.0 += 1, |loc| loc.nonce[0] ^= 1];
    for change in changes {
        let mut second = loc(1);
        change(&mut second);
        let chunk = chunk_of(&[(0, loc(0)), (1, second)]);
        assert_eq!(runs(&chunk), 2);
        assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
    }
}

#[test]
fn fields_stand_where_the_format_says() {
    let mut patch = Patch::default();
    patch.set(0, BlockState::Data(loc(0)), &mut |_| {});
    patch.set(1, BlockState::Unwritten, &mut |_| {});
    patch.set(2, BlockState::Absent, &mut |_| {});
    let bytes = patch.encode();
    assert_eq!(bytes[..8], [1, 0, 1, 0, 0, 0, 0, 0]);
    let masks: Vec<_> = bytes[8..40].chunks(8).map(|mask| u64::from_le_bytes(mask.try_into().unwrap())).collect();
    assert_eq!(masks, [4, 1, 0, 2], "clear, present, zero, unwritten");
    assert_eq!(bytes[40..48], [0, 1, 0, 0, 7, 0, 0, 0]);
    assert_eq!(bytes[48..60], [100, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[60..72], [1; 12]);
    assert_eq!(bytes[72..], [0; 16]);
    assert_eq!(Patch::resetting().encode()[..2], [1, 1]);
}

#[test]
fn every_rule_of_the_stored_form_is_checked() {
    let mut chunk = chunk_of(&[(3, loc(3)), (4, loc(4)), (9, loc(9))]);
    chunk.blocks.push((10, BlockState::Unwritten));
    let valid = chunk.encode();
    let check = |at: usize, bytes: &[u8], why: &str| {
        let mut changed = valid.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(Chunk::decode(&changed), Err(why), "{bytes:?} at {at}");
    };
    check(0, &[2], "chunk version");
    check(1, &[2], "chunk flags or run count");
    check(1, &[1], "a stored chunk with a patch's flag or mask");
    check(2, &[65], "chunk flags or run count");
    check(2, &[3], "truncated");
    check(2, &[1], "runs do not cover the present mask");
    check(4, &[1], "reserved bytes are set");
    check(8, &[1], "a stored chunk with a patch's flag or mask");
    check(8, &[8], "chunk masks overlap");
    check(16, &[0], "runs do not cover the present mask");
    check(24, &[8], "chunk masks overlap");
    check(24, &[0, 4], "chunk masks overlap");
    check(33, &[2 | 4], "chunk masks overlap");
    check(41, &[0], "runs overlap or leave the chunk");
    check(41, &[62], "runs overlap or leave the chunk");
    check(41, &[255], "runs overlap or leave the chunk");
    check(42, &[1], "a run with an unknown source or flag");
    check(43, &[1], "a run with an unknown source or flag");
    check(48, &[255; 6], "a run's address or nonce overflows");
    check(68, &[255; 4], "a run's address or nonce overflows");
    check(72, &[4], "runs overlap or leave the chunk");
    assert_eq!(Chunk::decode(&valid[..valid.len() - 1]), Err("truncated"));
    assert_eq!(Chunk::decode(&[&valid[..], &[0]].concat()), Err("bytes follow the end"));
    assert_eq!(Chunk::decode(&Chunk::default().encode()), Err("a stored chunk without blocks"));
    let mut clearing = Patch { reset: false, changes: vec![(0, BlockState::Absent)] }.encode();
    clearing[1] = 1;
    assert_eq!(Patch::decode(&clearing), Err("a patch that resets and clears"));
}

#[test]
fn counters_of_nonces_do_not_wrap() {
    let first = [1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 0xff, 0xfe];
    assert_eq!(nonce_at(&first, 1), Some([1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xff, 0xff, 0xff]));
    assert_eq!(nonce_at(&first, 2), None);
}

#[test]
fn counts_are_of_blocks() {
    let mut chunk = chunk_of(&[(3, loc(3)), (4, loc(4))]);
    chunk.blocks.push((10, BlockState::Unwritten));
    assert_eq!((chunk.data_blocks(), chunk.unwritten_blocks(), chunk.is_empty()), (2, 1, false));
    chunk.apply(&Patch::resetting(), &mut |_| {});
    assert!(chunk.is_empty());
}

/// What a volume stores over an image and what it stands for lead to each other, and blocks of the image never count as the volume's.
mod over_images {
    use super::*;

    proptest! {
        #[test]
        fn apart_and_over_are_inverse(own in any::chunk(1), below in any::chunk(2), patch in any::patch(3)) {
            let below = below.named_below(2);
            let mut content = own.over(&below);
            content.apply(&patch, &mut |_| {});
            let stored = content.apart_from(&below);
            prop_assert!(stored.iter().all(|(_, state)| !state.is_below()));
            prop_assert_eq!(stored.over(&below), content);
            if !stored.is_empty() {
                prop_assert_eq!(Chunk::decode(&stored.encode()), Ok(stored));
            }
        }

        /// Whatever the image turns out to have.
        #[test]
        fn a_patch_over_what_cannot_be_read_means_the_same(own in any::chunk(1), below in any::chunk(2), patch in any::patch(3)) {
            let below = below.named_below(1);
            let mut content = own.over(&below);
            content.apply(&patch, &mut |_| {});
            let mut stored = own;
            stored.apply_over_unknown(&patch, &mut |_| {});
            prop_assert_eq!(stored.over(&below), content);
        }

        #[test]
        fn what_is_not_said_is_what_the_image_has(below in any::chunk(2)) {
            let below = below.named_below(1);
            let seen = Chunk::default().over(&below);
            prop_assert!(seen.iter().all(|(_, state)| state.is_below()));
            prop_assert_eq!(seen.data_blocks(), below.data_blocks());
            prop_assert!(seen.apart_from(&below).is_empty());
        }
    }

    #[test]
    fn a_hole_over_an_image_is_said_and_decodes() {
        let below = chunk_of(&[(3, loc(3)), (4, loc(4))]).named_below(1);
        let mut content = Chunk::default().over(&below);
        let mut hole = Patch::default();
        hole.set(3, BlockState::Absent, &mut |_| {});
        content.apply(&hole, &mut |released| assert_eq!(released.source, 1));
        let stored = content.apart_from(&below);
        assert!(stored.hides_some() && !stored.is_empty() && stored.iter().count() == 0);
        assert_eq!(stored.encode()[24..32], [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Chunk::decode(&stored.encode()).unwrap().over(&below).get(3), BlockState::Absent);
        assert!(Chunk::decode_as(&stored.encode(), ProofKind::Digest).is_err(), "an image lies over nothing");
        assert!(Patch::decode(&stored.encode()).is_err());
    }
}
