//! What a file holds, in the model: blocks that were written, holes everywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// A sparse sequence of bytes. Absent blocks are zeros; a present block may be all zeros too.
///
/// *Invariants*: bytes past the end are zero, and no block starts past the end.
#[derive(Clone, Debug, Default)]
pub struct Content {
    blocks: BTreeMap<u64, Arc<Block>>,
    promised: BTreeSet<u64>,
    size: u64,
}

/// Blocks that are not zeros, by number, each as a hash. Equal prints mean equal bytes.
pub type Print = BTreeMap<u64, u64>;

/// The hash of one block, `None` for zeros. A short block counts as filled up with zeros.
pub fn block_print(block: &[u8]) -> Option<u64> {
    const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    if *block == ZEROS[..block.len()] {
        return None;
    }
    if let Ok(whole) = block.try_into() {
        return Some(hash(whole));
    }
    let mut whole = ZEROS;
    whole[..block.len()].copy_from_slice(block);
    Some(hash(&whole))
}

/// Four lanes, which do not wait for one another. Both halves of a product go on, for without the upper one a bit at the
/// top of a word would move to one place of the next word and no further.
fn hash(block: &[u8; BLOCK as usize]) -> u64 {
    let step = |lane: u64, word: u64| {
        let product = u128::from(lane ^ word) * 0x9e37_79b9_7f4a_7c15;
        product as u64 ^ (product >> 64) as u64
    };
    let mut lanes = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
    for words in block.as_chunks::<8>().0.as_chunks::<4>().0 {
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    lanes.into_iter().fold(0, step)
}

/// One block and its hash, once somebody has asked for it.
#[derive(Clone, Debug)]
struct Block {
    bytes: Vec<u8>,
    print: OnceLock<Option<u64>>,
}

impl Block {
    fn zeros() -> Arc<Block> {
        Arc::new(Block { bytes: vec![0; BLOCK as usize], print: OnceLock::new() })
    }

    fn print(&self) -> Option<u64> {
        *self.print.get_or_init(|| block_print(&self.bytes))
    }

    /// The bytes, to be changed: the hash is forgotten.
    fn bytes_mut(shared: &mut Arc<Block>) -> &mut [u8] {
        let block = Arc::make_mut(shared);
        block.print = OnceLock::new();
        &mut block.bytes
    }
}

impl Content {
    /// Bytes up to the end of file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads what there is; short at the end of file.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len));
        let mut out = Vec::new();
        let mut at = offset;
        while at < end {
            let within = (at % BLOCK) as usize;
            let count = ((BLOCK as usize) - within).min((end - at) as usize);
            match self.blocks.get(&(at / BLOCK)) {
                Some(block) => out.extend_from_slice(&block.bytes[within..within + count]),
                None => out.resize(out.len() + count, 0),
            }
            at += count as u64;
        }
        out
    }

    /// Writes, extending the file where needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.put(offset, data);
        self.size = self.size.max(offset + data.len() as u64);
    }

    /// Cuts or extends with a hole.
    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.clear(size, self.size - size);
            self.blocks.retain(|block, _| block * BLOCK < size);
            self.promised.retain(|block| block * BLOCK < size);
        }
        self.size = size;
    }

    /// Makes a range zeros: whole blocks become holes.
    pub fn clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        self.promised.retain(|block| *block < offset.div_ceil(BLOCK) || *block >= end / BLOCK);
        let touched: Vec<u64> =
            self.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)).map(|(block, _)| *block).collect();
        for block in touched {
            let start = block * BLOCK;
            let from = offset.saturating_sub(start).min(BLOCK);
            let to = (end - start).min(BLOCK);
            if from == 0 && to == BLOCK {
                self.blocks.remove(&block);
            } else if let Some(block) = self.blocks.get_mut(&block) {
                Block::bytes_mut(block)[from as usize..to as usize].fill(0);
            }
        }
    }

    /// Promises space for a range.
    pub fn promise(&mut self, offset: u64, len: u64) {
        let range = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        self.promised.extend(range.filter(|block| !self.blocks.contains_key(block)));
    }

    /// Blocks that hold or will hold something.
    pub fn used_blocks(&self) -> u64 {
        (self.blocks.len() + self.promised.len()) as u64
    }

    /// What the bytes are, for comparison.
    pub fn print(&self) -> Print {
        self.blocks.iter().filter_map(|(number, block)| Some((*number, block.print()?))).collect()
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let count = (BLOCK as usize - within).min(data.len() - done);
            self.promised.remove(&(at / BLOCK));
            let block = self.blocks.entry(at / BLOCK).or_insert_with(Block::zeros);
            Block::bytes_mut(block)[within..within + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Dice;

    /// The same operations on a plain vector.
    #[test]
    fn behaves_like_a_vector() {
        let mut dice = Dice::new(7);
        for _ in 0..50 {
            let (mut content, mut plain) = (Content::default(), Vec::new());
            for _ in 0..30 {
                one_operation(&mut dice, &mut content, &mut plain);
                assert_eq!(content.size(), plain.len() as u64);
                assert_eq!(content.read(0, u64::MAX), plain);
                assert_eq!(content.print(), print_of(&plain));
            }
        }
    }

    /// Without anything that was remembered.
    fn print_of(plain: &[u8]) -> Print {
        let blocks = (0..).zip(plain.chunks(BLOCK as usize));
        blocks.filter_map(|(number, block)| Some((number, block_print(block)?))).collect()
    }

    #[test]
    fn prints_tell_blocks_apart() {
        let mut seen = BTreeSet::new();
        for at in 0..BLOCK as usize {
            for bit in 0..8 {
                let mut block = vec![0; BLOCK as usize];
                block[at] = 1 << bit;
                assert!(seen.insert(block_print(&block)), "bit {bit} of byte {at}");
                assert_eq!(block_print(&block), block_print(&block[..at + 1]), "zeros fill it up");
            }
        }
        assert_eq!((block_print(&[]), block_print(&[0; 4096])), (None, None));
    }

    fn one_operation(dice: &mut Dice, content: &mut Content, plain: &mut Vec<u8>) {
        let offset = dice.below(20_000) as usize;
        let len = dice.below(9_000) as usize;
        match dice.below(3) {
            0 => {
                let data = vec![dice.next() as u8 | 1; len.max(1)];
                content.write(offset as u64, &data);
                plain.resize(plain.len().max(offset + data.len()), 0);
                plain[offset..offset + data.len()].copy_from_slice(&data);
            }
            1 => {
                content.truncate(offset as u64);
                plain.resize(offset, 0);
            }
            _ => {
                content.clear(offset as u64, len as u64);
                let (from, to) = (offset.min(plain.len()), (offset + len).min(plain.len()));
                plain[from..to].fill(0);
            }
        }
    }
}
