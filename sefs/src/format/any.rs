//! Any stored value, for the tests of the decoders.

use alloc::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use super::codec::U48_END;
use super::*;
use crate::types::{BlockAddr, EpochId, Generation, Timestamp};

/// A sealed block whose epoch is `epoch`. Half of all share one run, so that chunks have runs of more than one block.
pub(super) fn block_loc(epoch: u32, block: u8) -> impl Strategy<Value = BlockLoc> {
    let any_tag = any::<[u8; 16]>();
    let run = any_tag.prop_map(move |tag| BlockLoc {
        source: 0,
        epoch: EpochId(epoch),
        addr: BlockAddr(1000 + u64::from(block)),
        birth: Generation(1),
        nonce: nonce_at(&[5; 12], block.into()).unwrap(),
        proof: Proof::Tag(tag),
    });
    let lone = (0..U48_END, 0..U48_END, any::<[u8; 12]>(), any::<[u8; 16]>());
    let lone = lone.prop_map(move |(addr, birth, nonce, tag)| BlockLoc {
        source: 0,
        epoch: EpochId(epoch),
        addr: BlockAddr(addr),
        birth: Generation(birth),
        nonce,
        proof: Proof::Tag(tag),
    });
    prop_oneof![run, lone]
}

pub(super) fn block_state(epoch: u32, block: u8) -> impl Strategy<Value = BlockState> {
    prop_oneof![
        1 => Just(BlockState::Absent),
        1 => Just(BlockState::Unwritten),
        2 => block_loc(epoch, block).prop_map(BlockState::Data),
    ]
}

/// States of 64 blocks; in about half of all cases only few are named.
pub(super) fn block_states(epoch: u32) -> impl Strategy<Value = Vec<Option<BlockState>>> {
    any::<bool>().prop_flat_map(move |dense| {
        let named = if dense { 0.9 } else { 0.1 };
        (0u8..64).map(|block| proptest::option::weighted(named, block_state(epoch, block))).collect::<Vec<_>>()
    })
}

pub(super) fn chunk(epoch: u32) -> impl Strategy<Value = Chunk> {
    patch(epoch).prop_map(|patch| {
        let mut chunk = Chunk::default();
        chunk.apply(&patch, &mut |_| {});
        chunk
    })
}

pub(super) fn patch(epoch: u32) -> impl Strategy<Value = Patch> {
    (any::<bool>(), block_states(epoch)).prop_map(|(reset, states)| {
        let mut patch = if reset { Patch::resetting() } else { Patch::default() };
        for (block, state) in (0u8..).zip(states) {
            if let Some(state) = state {
                patch.set(block, state, &mut |_| {});
            }
        }
        patch
    })
}

pub(super) fn kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select((0..=u8::MAX).filter_map(|byte| Kind::try_from(byte).ok()).collect::<Vec<_>>())
}

pub(super) fn key() -> impl Strategy<Value = Key> {
    (any::<u64>(), kind(), any::<u64>()).prop_map(|(object, kind, offset)| Key::new(object, kind, offset))
}

pub(super) fn file_kind() -> impl Strategy<Value = FileKind> {
    proptest::sample::select((1..=7).map(|byte| FileKind::from_entry_type(byte).unwrap()).collect::<Vec<_>>())
}

pub(super) fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

pub(super) fn alloc_entry() -> impl Strategy<Value = AllocEntry> {
    let proof = (0..ALLOC_HOMES, any::<u32>(), any::<[u8; 12]>(), any::<[u8; 16]>());
    (proptest::option::of(proof), any::<u32>(), any::<u64>()).prop_map(|(proof, free_quads, free_blocks)| {
        let counts = AllocEntry { free_quads, free_blocks, ..AllocEntry::default() };
        match proof {
            Some((home, epoch, nonce, tag)) => {
                AllocEntry { present: true, home, epoch: EpochId(epoch), nonce, tag, ..counts }
            }
            None => counts,
        }
    })
}

/// Bytes near `valid`: some changed, some cut off, some appended.
pub(super) fn damaged(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4);
    (changes, 0..8usize, vec(any::<u8>(), 0..3)).prop_map(move |(changes, cut, tail)| {
        let mut bytes = valid.clone();
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        bytes.truncate(bytes.len() - if cut < 4 { 0 } else { cut.min(bytes.len()) });
        bytes.extend(tail);
        bytes
    })
}
