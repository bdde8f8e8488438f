//! Patches against an array of 64 blocks: merging two and applying the result equals applying both in turn.

use sefs::format::{BlockLoc, BlockState, Chunk, Patch};
use sefs::types::{BlockAddr, EpochId, Generation};

/// The target.
pub fn run(input: &[u8]) {
    let patches: Vec<Patch> = input.split(|byte| *byte == 0xff).take(4).map(patch_of).collect();
    let (mut chunk, mut model) = (Chunk::default(), [BlockState::Absent; 64]);
    let mut merged = Patch::default();
    for patch in &patches {
        chunk.apply(patch, &mut |_| {});
        merged.merge(patch, &mut |_| {});
        for (block, state) in (0u8..).zip(model.iter_mut()) {
            if let Some(new) = patch.get(block) {
                *state = new;
            }
        }
    }
    let mut at_once = Chunk::default();
    at_once.apply(&merged, &mut |_| {});
    assert_eq!(at_once, chunk);
    for (block, state) in (0u8..).zip(model) {
        assert_eq!(chunk.get(block), state);
    }
    if !chunk.is_empty() {
        assert_eq!(Chunk::decode(&chunk.encode()), Ok(chunk));
    }
}

fn patch_of(bytes: &[u8]) -> Patch {
    let mut patch =
        if bytes.first().is_some_and(|byte| *byte & 1 == 1) { Patch::resetting() } else { Patch::default() };
    for pair in bytes.chunks_exact(2) {
        let state = match pair[1] % 3 {
            0 => BlockState::Absent,
            1 => BlockState::Unwritten,
            _ => BlockState::Data(loc_of(pair[1])),
        };
        patch.set(pair[0] % 64, state, &mut |_| {});
    }
    patch
}

fn loc_of(byte: u8) -> BlockLoc {
    BlockLoc {
        source: 0,
        epoch: EpochId(1),
        addr: BlockAddr(u64::from(byte)),
        birth: Generation(1),
        nonce: [byte; 12],
        proof: [byte; 16].into(),
    }
}
