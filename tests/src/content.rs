//! What a file holds, in the model: blocks that were written, holes everywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// A sparse sequence of bytes. Absent blocks are zeros; a present block may be all zeros too.
///
/// *Invariants*: bytes past the end are zero, and no block starts past the end.
#[derive(Clone, Debug, Default)]
pub struct Content {
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
    promised: BTreeSet<u64>,
    size: u64,
}

/// Blocks that are not zeros, by number, each as a hash. Equal prints mean equal bytes.
pub type Print = BTreeMap<u64, u64>;

/// The hash of one block, `None` for zeros. A short block counts as filled up with zeros.
pub fn block_print(block: &[u8]) -> Option<u64> {
    if block.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut whole = [0; BLOCK as usize];
    whole[..block.len()].copy_from_slice(block);
    let mut hasher = DefaultHasher::new();
    whole.hash(&mut hasher);
    Some(hasher.finish())
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
                Some(block) => out.extend_from_slice(&block[within..within + count]),
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
            } else if let Some(bytes) = self.blocks.get_mut(&block) {
                Arc::make_mut(bytes)[from as usize..to as usize].fill(0);
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
        self.blocks.iter().filter_map(|(block, bytes)| Some((*block, block_print(bytes)?))).collect()
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let count = (BLOCK as usize - within).min(data.len() - done);
            self.promised.remove(&(at / BLOCK));
            let block = self.blocks.entry(at / BLOCK).or_insert_with(|| Arc::new(vec![0; BLOCK as usize]));
            Arc::make_mut(block)[within..within + count].copy_from_slice(&data[done..done + count]);
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
            }
        }
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
