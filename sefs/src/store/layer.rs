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

use crate::format::{BlockLoc, BlockState, Key, Patch};

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
    record_bytes: usize,
    pages: u64,
}

impl Layer {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Roughly what the records take in memory and in the log, without pages.
    pub(super) fn record_bytes(&self) -> usize {
        self.record_bytes
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
        self.record_bytes += cost(&entry);
        if let Some(old) = self.entries.insert(key, entry) {
            self.record_bytes -= cost(&old);
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
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.record_bytes += EMPTY_CHUNK_COST;
            Entry::Chunk(ChunkEntry::default())
        });
        let Entry::Chunk(chunk) = entry else {
            debug_assert!(false, "a chunk's key holds chunk changes only");
            return;
        };
        self.record_bytes -= chunk_cost(chunk);
        self.pages -= chunk.pages.len() as u64;
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
        self.record_bytes += chunk_cost(chunk);
        self.pages += chunk.pages.len() as u64;
    }

    /// Forgets what is said of the chunks in a range of keys: something above says it all.
    pub(super) fn forget(&mut self, from: Key, end: Key, released: &mut dyn FnMut(BlockLoc)) {
        let keys: Vec<Key> = self.range(from, end).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(entry) = self.entries.remove(&key) {
                self.record_bytes -= cost(&entry);
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

    pub(super) fn merge_patch(&mut self, key: Key, patch: &Patch, released: &mut dyn FnMut(BlockLoc)) {
        let blocks = patch.iter().map(|(block, state)| (block, Content::State(state))).collect();
        self.change_chunk(key, patch.is_reset(), blocks, released);
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

const EMPTY_CHUNK_COST: usize = 128;

fn cost(entry: &Entry) -> usize {
    match entry {
        Entry::Put(bytes) => 96 + bytes.len(),
        Entry::Delete => 96,
        Entry::Chunk(chunk) => chunk_cost(chunk),
    }
}

fn chunk_cost(chunk: &ChunkEntry) -> usize {
    EMPTY_CHUNK_COST + 72 * chunk.patch.iter().count()
}
