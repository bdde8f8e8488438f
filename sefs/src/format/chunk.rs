//! Extent chunks: 64 blocks of content, and the patches that change them.
//!
//! ```text
//! 0 version │ 1 flags │ 2 run count │ 4 reserved │ 8 clear │ 16 present │ 24 zero │ 32 unwritten │ 40 runs │ proofs
//! run: 0 first │ 1 blocks │ 2 source │ 3 flags │ 4 epoch │ 8 address u48 │ 14 birth u48 │ 20 nonce
//! ```
//! Over an image (see [`Chunk::over`]), what a volume's chunk does not name is what the image has there; the zero mask names holes
//! over blocks that the image has.
//!
//! *Invariants*: blocks rise and are below 64; a chunk names no absent block; a patch with the reset flag neither, for
//! what it does not name is absent already. Blocks that a newer state replaces are handed to `released` exactly once,
//! unless the newer state is the same sealed block.

use alloc::vec::Vec;

use super::block_ref::OWN_SOURCE;
use super::codec::{Decoded, Reader, U48_END, Writer, count_u16};
use super::proof::{Proof, ProofKind};
use crate::suite::Nonce;
use crate::types::{BlockAddr, CHUNK_BLOCKS, EpochId, Generation};

const VERSION: u8 = 1;
const FLAG_RESET: u8 = 1;
const BLOCKS: u8 = 64;
const HEAD_LEN: usize = 40;
const RUN_LEN: usize = 32;
const TAG_LEN: usize = 16;
const _: () = assert!(CHUNK_BLOCKS == 64, "masks have 64 bits");

/// Where a data block lies and what proves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockLoc {
    /// 0, as all that is stored: this volume; n, in memory only: the nth image below.
    pub source: u8,
    /// Whose keys sealed it.
    pub epoch: EpochId,
    /// Its place; below 2^48.
    pub addr: BlockAddr,
    /// The checkpoint that it is new in; below 2^48.
    pub birth: Generation,
    /// The nonce it was sealed with.
    pub nonce: Nonce,
    /// What proves it.
    pub proof: Proof,
}

/// What one block of a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BlockState {
    /// A hole.
    #[default]
    Absent,
    /// Promised space without an address; reads as zeros.
    Unwritten,
    /// A sealed block.
    Data(BlockLoc),
}

impl BlockState {
    /// Whether it is a block of an image below the volume.
    pub(crate) fn is_below(&self) -> bool {
        matches!(self, BlockState::Data(loc) if loc.source != OWN_SOURCE)
    }
}

/// The content of 64 blocks. Only blocks that are not absent are named, and holes over blocks of an image below.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chunk {
    blocks: Vec<(u8, BlockState)>,
    /// A bit for each block that is a hole although an image below has data there.
    zero: u64,
}

/// A change of a chunk: each of its blocks is set, cleared, or left alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patch {
    reset: bool,
    changes: Vec<(u8, BlockState)>,
}

/// The nonce of the block `index` places after the first of a run; `None` if the counter would wrap.
pub fn nonce_at(first: &Nonce, index: u32) -> Option<Nonce> {
    let [prefix @ .., a, b, c, d] = *first;
    let counter = u32::from_be_bytes([a, b, c, d]).checked_add(index)?;
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&prefix);
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    Some(nonce)
}

impl Chunk {
    /// A chunk of these blocks, which rise; none is absent or 64 or above.
    pub(crate) fn of_blocks(blocks: Vec<(u8, BlockState)>) -> Chunk {
        Chunk { blocks, zero: 0 }
    }

    /// What this chunk is over what images below have: their blocks show where it names none.
    pub fn over(&self, below: &Chunk) -> Chunk {
        let state = |block: u8| match (find(&self.blocks, block), below.get(block)) {
            (Some(own), _) => own,
            (None, lower @ BlockState::Data(_)) if self.zero & (1 << block) == 0 => lower,
            (None, _) => BlockState::Absent,
        };
        let blocks = (0..BLOCKS).map(|block| (block, state(block)));
        Chunk { blocks: blocks.filter(|(_, state)| *state != BlockState::Absent).collect(), zero: 0 }
    }

    /// What a volume stores of this chunk over what images below have: the inverse of [`Chunk::over`].
    pub fn apart_from(&self, below: &Chunk) -> Chunk {
        let blocks: Vec<(u8, BlockState)> = self.iter().filter(|(_, state)| !state.is_below()).collect();
        let hidden = below
            .iter()
            .filter(|(block, state)| matches!(state, BlockState::Data(_)) && find(&self.blocks, *block).is_none());
        Chunk { blocks, zero: hidden.fold(0, |zero, (block, _)| zero | 1 << block) }
    }

    /// Applies a patch to a stored chunk over one that cannot be read: what the patch clears is a hole whatever is below, what is not
    /// said stays unsaid.
    pub(crate) fn apply_over_unknown(&mut self, patch: &Patch, released: &mut dyn FnMut(BlockLoc)) {
        let mut zero = self.zero;
        for block in 0..BLOCKS {
            match patch.get(block) {
                Some(BlockState::Absent) => zero |= 1 << block,
                Some(_) => zero &= !(1 << block),
                None => {}
            }
        }
        self.apply(patch, released);
        self.zero = zero;
    }

    /// The same blocks as those of the image that is `source` places below.
    pub(crate) fn named_below(mut self, source: u8) -> Chunk {
        for (_, state) in &mut self.blocks {
            if let BlockState::Data(loc) = state {
                loc.source = source;
            }
        }
        self
    }

    /// Whether it names holes over an image.
    pub fn hides_some(&self) -> bool {
        self.zero != 0
    }

    /// The state of a block; `block` is below 64.
    pub fn get(&self, block: u8) -> BlockState {
        find(&self.blocks, block).unwrap_or_default()
    }

    /// All blocks that are not absent, rising.
    pub fn iter(&self) -> impl Iterator<Item = (u8, BlockState)> + '_ {
        self.blocks.iter().copied()
    }

    /// Whether it says nothing; such a chunk is not stored.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.zero == 0
    }

    /// How many blocks hold data.
    pub fn data_blocks(&self) -> u32 {
        count(self.blocks.iter().filter(|(_, state)| matches!(state, BlockState::Data(_))))
    }

    /// How many blocks are promised without an address.
    pub fn unwritten_blocks(&self) -> u32 {
        count(self.blocks.iter().filter(|(_, state)| matches!(state, BlockState::Unwritten)))
    }

    /// Applies a patch to the whole content of a chunk, which hides nothing any more; `released` receives each sealed block that
    /// is replaced or cleared.
    pub fn apply(&mut self, patch: &Patch, released: &mut dyn FnMut(BlockLoc)) {
        let mut merged = Vec::with_capacity(self.blocks.len().max(patch.changes.len()));
        for block in 0..BLOCKS {
            let old = self.get(block);
            let new = patch.get(block).unwrap_or(old);
            release(old, new, released);
            if new != BlockState::Absent {
                merged.push((block, new));
            }
        }
        (self.blocks, self.zero) = (merged, 0);
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        encode(0, self.zero, &self.blocks)
    }

    /// The value of a volume's stored chunk.
    pub fn decode(bytes: &[u8]) -> Decoded<Chunk> {
        Chunk::decode_as(bytes, ProofKind::Tag)
    }

    /// The value of a stored chunk whose blocks have this kind of proof.
    pub fn decode_as(bytes: &[u8], proofs: ProofKind) -> Decoded<Chunk> {
        let (flags, zero, blocks) = decode(bytes, proofs)?;
        if zero != 0 && proofs == ProofKind::Digest {
            return Err("holes over an image in an image");
        }
        if flags != 0 || blocks.iter().any(|(_, state)| *state == BlockState::Absent) {
            return Err("a stored chunk with a patch's flag or mask");
        }
        if blocks.is_empty() && zero == 0 {
            return Err("a stored chunk without blocks");
        }
        Ok(Chunk { blocks, zero })
    }
}

impl Patch {
    /// A patch that drops everything the chunk held before.
    pub fn resetting() -> Patch {
        Patch { reset: true, changes: Vec::new() }
    }

    /// Whether what the chunk held before is dropped.
    pub fn is_reset(&self) -> bool {
        self.reset
    }

    /// Whether the patch changes nothing.
    pub fn is_empty(&self) -> bool {
        !self.reset && self.changes.is_empty()
    }

    /// What the block becomes; `None` if it is left alone. `block` is below 64.
    pub fn get(&self, block: u8) -> Option<BlockState> {
        find(&self.changes, block).or(self.reset.then_some(BlockState::Absent))
    }

    /// The named blocks, rising. With the reset flag, all others become absent.
    pub fn iter(&self) -> impl Iterator<Item = (u8, BlockState)> + '_ {
        self.changes.iter().copied()
    }

    /// The sealed blocks that it names, rising by block.
    pub(crate) fn sealed_blocks(&self) -> impl Iterator<Item = &BlockLoc> {
        self.changes.iter().filter_map(|(_, state)| match state {
            BlockState::Data(loc) => Some(loc),
            BlockState::Absent | BlockState::Unwritten => None,
        })
    }

    /// Sets one block (`Absent` clears it); `released` receives the sealed block that this patch had set there.
    /// Panics if `block` is not below 64.
    pub fn set(&mut self, block: u8, state: BlockState, released: &mut dyn FnMut(BlockLoc)) {
        assert!(block < BLOCKS, "block {block} of a chunk");
        let implied = self.reset && state == BlockState::Absent;
        if self.changes.last().is_none_or(|(last, _)| *last < block) {
            // Most come in order.
            if !implied {
                self.changes.push((block, state));
            }
            return;
        }
        match self.changes.binary_search_by_key(&block, |(block, _)| *block) {
            Ok(at) => {
                release(self.changes[at].1, state, released);
                if implied {
                    self.changes.remove(at);
                } else {
                    self.changes[at].1 = state;
                }
            }
            Err(_) if implied => {}
            Err(at) => self.changes.insert(at, (block, state)),
        }
    }

    /// Adds a newer patch; applying the result equals applying both in turn. `released` receives each sealed block of
    /// this patch that the newer one replaces or clears.
    ///
    /// A patch must not name a sealed block that the chunk below holds already: when a newer patch replaces it, it would be
    /// released here and again when the result is applied.
    pub fn merge(&mut self, newer: &Patch, released: &mut dyn FnMut(BlockLoc)) {
        if self.is_empty() {
            *self = newer.clone();
            return;
        }
        if !newer.reset {
            for (block, state) in newer.iter() {
                self.set(block, state, released);
            }
            return;
        }
        for (block, state) in self.iter() {
            release(state, newer.get(block).unwrap_or_default(), released);
        }
        *self = newer.clone();
    }

    /// No fewer bytes than the stored form has.
    pub(crate) fn max_len(&self) -> usize {
        let data = self.changes.iter().filter(|(_, state)| matches!(state, BlockState::Data(_)));
        HEAD_LEN + data.count() * (RUN_LEN + TAG_LEN)
    }

    /// The stored form, as a log record holds it.
    pub fn encode(&self) -> Vec<u8> {
        encode(if self.reset { FLAG_RESET } else { 0 }, 0, &self.changes)
    }

    /// The value of a stored patch. Only volumes have patches.
    pub fn decode(bytes: &[u8]) -> Decoded<Patch> {
        let (flags, zero, changes) = decode(bytes, ProofKind::Tag)?;
        if zero != 0 {
            return Err("a patch with a zero mask");
        }
        let reset = flags == FLAG_RESET;
        if reset && changes.iter().any(|(_, state)| *state == BlockState::Absent) {
            return Err("a patch that resets and clears");
        }
        Ok(Patch { reset, changes })
    }
}

fn find(blocks: &[(u8, BlockState)], block: u8) -> Option<BlockState> {
    blocks.binary_search_by_key(&block, |(block, _)| *block).ok().map(|at| blocks[at].1)
}

fn count<T>(blocks: impl Iterator<Item = T>) -> u32 {
    blocks.fold(0, |sum, _| sum + 1)
}

fn release(old: BlockState, new: BlockState, released: &mut dyn FnMut(BlockLoc)) {
    if let BlockState::Data(loc) = old
        && old != new
    {
        released(loc);
    }
}

/// Consecutive blocks that one stored run describes.
struct Run {
    first: u8,
    blocks: u8,
    loc: BlockLoc,
}

impl Run {
    /// Whether `loc` at `block` is what the run says of its next block.
    fn continues(&self, block: u8, loc: &BlockLoc) -> bool {
        let next = u32::from(self.blocks);
        block == self.first + self.blocks
            && loc.source == self.loc.source
            && loc.epoch == self.loc.epoch
            && loc.birth == self.loc.birth
            && loc.addr.0 == self.loc.addr.0 + u64::from(next)
            && nonce_at(&self.loc.nonce, next) == Some(loc.nonce)
    }

    fn write(&self, out: &mut Writer) {
        let loc = &self.loc;
        out.u8(self.first).u8(self.blocks).u8(loc.source).u8(0).u32(loc.epoch.0);
        out.u48(loc.addr.0).u48(loc.birth.0).bytes(&loc.nonce);
    }

    /// Reads a run that starts at `floor` or later. Afterwards `first + blocks` is at most 64, and neither the address
    /// nor the nonce counter of its last block exceeds its range.
    fn read(reader: &mut Reader<'_>, floor: u8) -> Decoded<Run> {
        let (first, blocks, source, flags) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
        let epoch = EpochId(reader.u32()?);
        let (addr, birth) = (reader.u48()?, reader.u48()?);
        let nonce: Nonce = reader.array()?;
        if source != OWN_SOURCE || flags != 0 {
            return Err("a run with an unknown source or flag");
        }
        if first < floor || blocks == 0 || first.checked_add(blocks).is_none_or(|end| end > BLOCKS) {
            return Err("runs overlap or leave the chunk");
        }
        if addr + u64::from(blocks) > U48_END || nonce_at(&nonce, u32::from(blocks) - 1).is_none() {
            return Err("a run's address or nonce overflows");
        }
        let (addr, birth) = (BlockAddr(addr), Generation(birth));
        let loc = BlockLoc { source, epoch, addr, birth, nonce, proof: ProofKind::Tag.zero() };
        Ok(Run { first, blocks, loc })
    }

    /// The block `index` places after the first; `index` is below `self.blocks`.
    fn block(&self, index: u8, proof: Proof) -> Decoded<BlockLoc> {
        let nonce = nonce_at(&self.loc.nonce, u32::from(index)).ok_or("a run's nonce overflows")?;
        Ok(BlockLoc { addr: BlockAddr(self.loc.addr.0 + u64::from(index)), nonce, proof, ..self.loc })
    }
}

/// Writes states in block order; `Absent` goes to the clear mask.
fn encode(flags: u8, zero: u64, states: &[(u8, BlockState)]) -> Vec<u8> {
    let (mut clear, mut present, mut unwritten) = (0u64, 0u64, 0u64);
    let mut runs: Vec<Run> = Vec::new();
    for &(block, state) in states {
        let bit = 1u64 << block;
        match state {
            BlockState::Absent => clear |= bit,
            BlockState::Unwritten => unwritten |= bit,
            BlockState::Data(loc) => {
                present |= bit;
                match runs.last_mut().filter(|run| run.continues(block, &loc)) {
                    Some(run) => run.blocks += 1,
                    None => runs.push(Run { first: block, blocks: 1, loc }),
                }
            }
        }
    }
    let mut out = Writer::with_capacity(HEAD_LEN + runs.len() * RUN_LEN + states.len() * TAG_LEN);
    out.u8(VERSION).u8(flags).u16(count_u16(runs.len())).zeros(4);
    out.u64(clear).u64(present).u64(zero).u64(unwritten);
    for run in &runs {
        run.write(&mut out);
    }
    for (_, state) in states {
        if let BlockState::Data(loc) = state {
            out.bytes(loc.proof.bytes());
        }
    }
    out.finish()
}

/// Flags, the zero mask, and states, rising by block.
type Fields = (u8, u64, Vec<(u8, BlockState)>);

/// Reads flags (at most `FLAG_RESET`), the zero mask and states.
fn decode(bytes: &[u8], proofs: ProofKind) -> Decoded<Fields> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err("chunk version");
    }
    let flags = reader.u8()?;
    let run_count = reader.u16()?;
    reader.zeros(4)?;
    let (clear, present, zero, unwritten) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
    if flags > FLAG_RESET || run_count > u16::from(BLOCKS) {
        return Err("chunk flags or run count");
    }
    let masks = [clear, present, zero, unwritten];
    if masks.iter().map(|mask| mask.count_ones()).sum::<u32>()
        != masks.iter().fold(0, |all, mask| all | mask).count_ones()
    {
        return Err("chunk masks overlap");
    }
    let mut states = [None; 64];
    for block in 0..BLOCKS {
        states[usize::from(block)] = match 1u64 << block {
            bit if clear & bit != 0 => Some(BlockState::Absent),
            bit if unwritten & bit != 0 => Some(BlockState::Unwritten),
            _ => None,
        };
    }
    decode_runs(&mut reader, proofs, run_count, present, &mut states)?;
    reader.end()?;
    Ok((flags, zero, (0..BLOCKS).zip(states).filter_map(|(block, state)| Some((block, state?))).collect()))
}

fn decode_runs(
    reader: &mut Reader<'_>,
    proofs: ProofKind,
    run_count: u16,
    present: u64,
    states: &mut [Option<BlockState>; 64],
) -> Decoded<()> {
    let run_bytes = reader.bytes(usize::from(run_count) * RUN_LEN)?;
    let (mut runs, mut floor, mut covered) = (Reader::new(run_bytes), 0, 0u64);
    for _ in 0..run_count {
        let run = Run::read(&mut runs, floor)?;
        floor = run.first + run.blocks;
        for index in 0..run.blocks {
            let block = run.first + index;
            covered |= 1u64 << block;
            states[usize::from(block)] = Some(BlockState::Data(run.block(index, proofs.read(reader)?)?));
        }
    }
    if covered == present { Ok(()) } else { Err("runs do not cover the present mask") }
}

#[cfg(test)]
mod tests;
