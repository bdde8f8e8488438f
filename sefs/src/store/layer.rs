//! A layer: changes that lie over the trees, in key order.
//!
//! Lookups go through the layers from the newest to the oldest and then to the trees:
//!
//! ```text
//! unlogged ─► sealing ─► active ─► frozen ─► trees of the last checkpoint
//! ```
//! *Invariants*: entries are absolute values, deletions or patches of one chunk, never deltas, so applying a layer twice
//! gives what applying it once gives. Plaintext pages exist only in the two newest layers, which no log group names.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::format::{BlockLoc, BlockState, Key, Patch, RECORD_HEAD_LEN};

/// The plaintext of one block.
pub(super) type Page = Arc<[u8]>;

/// What a layer says of a key.
pub(super) enum Entry {
    Put(Vec<u8>),
    Delete,
    Chunk(ChunkEntry),
}

/// Changes of one extent chunk. A page stands above the patch's word for the same block.
#[derive(Default)]
pub(super) struct ChunkEntry {
    pub(super) patch: Patch,
    pub(super) pages: BTreeMap<u8, Page>,
}

/// The new content of one block.
pub(super) enum Content {
    Page(Page),
    State(BlockState),
}

/// What a chunk's layers say of a block.
pub(super) enum Said {
    Nothing,
    Page(Page),
    State(BlockState),
}

#[derive(Default)]
pub(super) struct Layer {
    entries: BTreeMap<Key, Entry>,
    cost: Cost,
    pages: u64,
}

/// What entries take, without pages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Cost {
    memory_bytes: usize,
    /// No less than their records take in a log group.
    log_bytes: usize,
}

impl Layer {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Roughly what the records take in memory, without pages.
    pub(super) fn memory_bytes(&self) -> usize {
        self.cost.memory_bytes
    }

    /// What the records take in a log group, at most, without those that pages will add.
    pub(super) fn log_bytes(&self) -> usize {
        self.cost.log_bytes
    }

    /// Plaintext pages that wait for being sealed.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn entry(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn range(&self, from: Key, end: Key) -> impl Iterator<Item = (&Key, &Entry)> {
        // An empty or inverted range would panic inside the map.
        let end = end.max(from);
        self.entries.range(from..end)
    }

    pub(super) fn set(&mut self, key: Key, value: Option<Vec<u8>>) {
        let entry = match value {
            Some(bytes) => Entry::Put(bytes),
            None => Entry::Delete,
        };
        self.cost.add(cost(&entry));
        if let Some(old) = self.entries.insert(key, entry) {
            self.cost.subtract(cost(&old));
        }
    }

    /// Changes blocks of a chunk; with `reset`, drops what was said of it before. Blocks that lose their last mention
    /// here go to `released`.
    pub(super) fn change_chunk(
        &mut self,
        key: Key,
        reset: bool,
        blocks: Vec<(u8, Content)>,
        released: &mut dyn FnMut(BlockLoc),
    ) {
        self.edit_chunk(key, |chunk| {
            if reset {
                chunk.pages.clear();
                chunk.patch.merge(&Patch::resetting(), released);
            }
            for (block, content) in blocks {
                match content {
                    Content::Page(page) => {
                        chunk.patch.set(block, BlockState::Absent, released);
                        chunk.pages.insert(block, page);
                    }
                    Content::State(state) => {
                        chunk.pages.remove(&block);
                        chunk.patch.set(block, state, released);
                    }
                }
            }
        });
    }

    fn edit_chunk(&mut self, key: Key, edit: impl FnOnce(&mut ChunkEntry)) {
        let entry = self.entries.entry(key).or_insert_with(|| {
            let chunk = ChunkEntry::default();
            self.cost.add(chunk_cost(&chunk));
            Entry::Chunk(chunk)
        });
        let Entry::Chunk(chunk) = entry else {
            debug_assert!(false, "a chunk's key holds chunk changes only");
            return;
        };
        self.cost.subtract(chunk_cost(chunk));
        self.pages -= chunk.pages.len() as u64;
        edit(chunk);
        self.cost.add(chunk_cost(chunk));
        self.pages += chunk.pages.len() as u64;
    }

    /// Forgets what is said of the chunks in a range of keys: something above says it all.
    pub(super) fn forget(&mut self, from: Key, end: Key, released: &mut dyn FnMut(BlockLoc)) {
        let keys: Vec<Key> = self.range(from, end).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(entry) = self.entries.remove(&key) {
                self.cost.subtract(cost(&entry));
                if let Entry::Chunk(mut chunk) = entry {
                    self.pages -= chunk.pages.len() as u64;
                    chunk.patch.merge(&Patch::resetting(), released);
                }
            }
        }
    }

    /// Takes a newer layer in. It holds no pages: they were sealed into `sealed` patches before.
    pub(super) fn absorb(
        &mut self,
        newer: &Layer,
        sealed: &mut BTreeMap<Key, Patch>,
        released: &mut dyn FnMut(BlockLoc),
    ) {
        for (key, entry) in newer.iter() {
            match entry {
                Entry::Put(bytes) => self.set(*key, Some(bytes.clone())),
                Entry::Delete => self.set(*key, None),
                Entry::Chunk(chunk) => match sealed.remove(key) {
                    Some(patch) => self.merge_patch(*key, &patch, released),
                    None => self.merge_patch(*key, &chunk.patch, released),
                },
            }
        }
    }

    /// Takes a newer layer in, pages included: what was to be logged and stays unlogged.
    pub(super) fn absorb_unlogged(&mut self, newer: Layer, released: &mut dyn FnMut(BlockLoc)) {
        for (key, entry) in newer.entries {
            match entry {
                Entry::Put(bytes) => self.set(key, Some(bytes)),
                Entry::Delete => self.set(key, None),
                Entry::Chunk(chunk) => {
                    self.merge_patch(key, &chunk.patch, released);
                    let pages = chunk.pages.into_iter().map(|(block, page)| (block, Content::Page(page)));
                    self.change_chunk(key, false, pages.collect(), released);
                }
            }
        }
    }

    pub(super) fn merge_patch(&mut self, key: Key, patch: &Patch, released: &mut dyn FnMut(BlockLoc)) {
        self.edit_chunk(key, |chunk| {
            chunk.pages.retain(|block, _| patch.get(*block).is_none());
            chunk.patch.merge(patch, released);
        });
    }
}

impl ChunkEntry {
    pub(super) fn said(&self, block: u8) -> Said {
        if let Some(page) = self.pages.get(&block) {
            return Said::Page(page.clone());
        }
        match self.patch.get(block) {
            Some(state) => Said::State(state),
            None => Said::Nothing,
        }
    }
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.memory_bytes += other.memory_bytes;
        self.log_bytes += other.log_bytes;
    }

    fn subtract(&mut self, other: Cost) {
        self.memory_bytes -= other.memory_bytes;
        self.log_bytes -= other.log_bytes;
    }
}

/// An entry's place in the map.
const ENTRY_BYTES: usize = 96;
const EMPTY_CHUNK_BYTES: usize = 128;

fn cost(entry: &Entry) -> Cost {
    let value_bytes = match entry {
        Entry::Put(bytes) => bytes.len(),
        Entry::Delete => 0,
        Entry::Chunk(chunk) => return chunk_cost(chunk),
    };
    Cost { memory_bytes: ENTRY_BYTES + value_bytes, log_bytes: RECORD_HEAD_LEN + value_bytes }
}

fn chunk_cost(chunk: &ChunkEntry) -> Cost {
    let named = chunk.patch.iter().count();
    Cost {
        memory_bytes: EMPTY_CHUNK_BYTES + named * size_of::<(u8, BlockState)>(),
        log_bytes: RECORD_HEAD_LEN + chunk.patch.max_len(),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::format::{Kind, Proof};
    use crate::types::{BlockAddr, EpochId, Generation};

    const KEY: Key = Key { object: 7, kind: Kind::Extent, offset: 0 };

    fn data(addr: u64) -> BlockState {
        let (addr, proof) = (BlockAddr(addr), Proof::from([9; 16]));
        BlockState::Data(BlockLoc { source: 0, epoch: EpochId(1), addr, birth: Generation(1), nonce: [0; 12], proof })
    }

    fn layer(reset: bool, blocks: Vec<(u8, Content)>) -> Layer {
        let mut layer = Layer::default();
        layer.change_chunk(KEY, reset, blocks, &mut |_| {});
        layer
    }

    fn pages(layer: &Layer) -> Vec<u8> {
        let Some(Entry::Chunk(chunk)) = layer.entry(&KEY) else { panic!("a chunk") };
        assert_eq!(layer.pages(), chunk.pages.len() as u64);
        assert_eq!(layer.cost, chunk_cost(chunk));
        chunk.pages.keys().copied().collect()
    }

    /// What could not be logged stands under what came since: a page that is newer than a block, or older, is told apart.
    #[test]
    fn newer_blocks_and_holes_take_the_place_of_pages() {
        let page = |block: u8| (block, Content::Page(Page::from([block; 4])));
        let mut older = layer(false, vec![page(1), page(2), page(3)]);
        let blocks = vec![(1, Content::State(data(40))), (2, Content::State(BlockState::Absent)), page(5)];
        older.absorb_unlogged(layer(false, blocks), &mut |loc| panic!("{loc:?} is still named"));
        assert_eq!(pages(&older), [3, 5]);
        let Some(Entry::Chunk(chunk)) = older.entry(&KEY) else { panic!("a chunk") };
        assert!(matches!(chunk.said(1), Said::State(state) if state == data(40)));
        assert!(matches!(chunk.said(2), Said::State(BlockState::Absent)));

        let mut released = Vec::new();
        older.absorb_unlogged(layer(true, vec![page(8)]), &mut |loc| released.push(loc.addr));
        assert_eq!((pages(&older), released), (vec![8], vec![BlockAddr(40)]));
        let Some(Entry::Chunk(chunk)) = older.entry(&KEY) else { panic!("a chunk") };
        assert!(matches!(chunk.said(3), Said::State(BlockState::Absent)));
    }
}
