//! How content lies, for whoever looks: nothing here is needed to read or to write.

use alloc::vec::Vec;

use crate::error::Result;
use crate::store::Store;
use crate::store::read::Block;
use crate::types::{BlockAddr, CHUNK_BLOCKS, ObjectId};

/// A stretch of a file's content that lies side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRun {
    /// Its first block in the file.
    pub first_block: u64,
    /// Its length in blocks; not 0.
    pub blocks: u64,
    /// Where its first block lies once the log is merged. `None`: in memory only, and nowhere yet.
    pub addr: Option<BlockAddr>,
    /// 0: in the volume; n: in the nth image below it.
    pub source: u8,
}

impl DataRun {
    fn goes_on_with(&self, block: u64, addr: Option<BlockAddr>, source: u8) -> bool {
        block == self.first_block + self.blocks
            && source == self.source
            && addr == self.addr.map(|first| BlockAddr(first.0 + self.blocks))
    }
}

impl Store {
    /// The runs in `[from_block, end_block)`, rising, at most `limit`; the last one is whole too.
    pub(crate) fn data_runs(
        &self,
        object: ObjectId,
        from_block: u64,
        end_block: u64,
        limit: usize,
    ) -> Result<Vec<DataRun>> {
        let (mut runs, mut chunk): (Vec<DataRun>, u64) = (Vec::new(), from_block / CHUNK_BLOCKS);
        while let Some(found) = self.next_chunk(object, chunk, end_block.div_ceil(CHUNK_BLOCKS))? {
            let (blocks, _pin) = self.resolve(object, found)?;
            let numbered = (found * CHUNK_BLOCKS..).zip(&blocks);
            for (block, what) in numbered.filter(|(block, _)| (from_block..end_block).contains(block)) {
                let (addr, source) = match what {
                    Block::Absent | Block::Unwritten => continue,
                    Block::Page(_) => (None, 0),
                    Block::Stored(loc) => (Some(loc.addr), loc.source),
                };
                let enough = runs.len() >= limit;
                match runs.last_mut() {
                    Some(run) if run.goes_on_with(block, addr, source) => run.blocks += 1,
                    _ if enough => return Ok(runs),
                    _ => runs.push(DataRun { first_block: block, blocks: 1, addr, source }),
                }
            }
            chunk = found + 1;
        }
        Ok(runs)
    }
}
