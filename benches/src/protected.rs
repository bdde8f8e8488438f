//! A baseline: one file kept as SGX protected files are (Intel's SDK, `sgx_tprotected_fs`).
//!
//! ```text
//! meta node ─► root of the tree ─► 96 data nodes, 32 tree nodes ─► …      all of 4 KiB, each at one place for ever
//! ```
//! Every write of a node draws a fresh key for it, which stands beside its tag in the node above, so a change of a block
//! seals every node on the way up to the meta node anew. Nodes are overwritten in place; what they held goes into a
//! recovery copy first. 48 nodes are cached, as there.
//!
//! It is for measuring only: it does what costs time in that scheme and keeps no promise. Keys are of 256 bits like ours:
//! the half that is fresh, and a half that the file has.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use sefs::backend::{Backend, Io};
use sefs::env::Env;
use sefs::suite::SecretKey;

use crate::Outcome;
use crate::limits::bare;

const NODE: usize = 4096;
/// Data nodes below a tree node; their entries stand before those of the tree nodes below it.
const DATA_BELOW: u64 = 96;
const TREES_BELOW: u64 = 32;
/// Of the fresh half of a key, and of a tag.
const HALF: usize = 16;
const CACHED_NODES: usize = 48;
const META: u64 = 0;
/// The root of the tree.
const ROOT: u64 = 1;

/// A file of blocks in such a scheme.
pub(crate) struct Protected {
    backend: Arc<dyn Backend>,
    env: Env,
    nodes: HashMap<u64, Node>,
    /// Nodes in the order in which they came.
    came: VecDeque<u64>,
    changed: BTreeSet<u64>,
    root_entry: [u8; 2 * HALF],
    /// Where the recovery copy is written.
    recovery_at: u64,
    /// Where the file begins on the backend.
    start_bytes: u64,
}

struct Node {
    plain: Box<[u8; NODE]>,
    /// What stands on the backend.
    stored: Box<[u8; NODE]>,
}

/// The node that holds the key and tag of `place`, and at which byte.
fn above(place: u64) -> Option<(u64, usize)> {
    let (tree, within) = ((place - 1) / (DATA_BELOW + 1), (place - 1) % (DATA_BELOW + 1));
    let (tree, entry) = match (within, tree) {
        (0, 0) => return None,
        (0, tree) => ((tree - 1) / TREES_BELOW, DATA_BELOW + (tree - 1) % TREES_BELOW),
        (within, tree) => (tree, within - 1),
    };
    Some((1 + tree * (DATA_BELOW + 1), usize::try_from(entry).unwrap_or(usize::MAX) * 2 * HALF))
}

fn data_place(block: u64) -> u64 {
    2 + block / DATA_BELOW * (DATA_BELOW + 1) + block % DATA_BELOW
}

impl Protected {
    /// Makes a file of `blocks` blocks from `start_bytes` on.
    pub(crate) fn new(backend: Arc<dyn Backend>, env: Env, blocks: u64, start_bytes: u64) -> Outcome<Protected> {
        let recovery_at = data_place(blocks) + 1;
        let room = start_bytes + (recovery_at + 4 * CACHED_NODES as u64) * NODE as u64;
        if bare(backend.len_bytes())? < room {
            return Err("the bare backend is too small for the baseline".into());
        }
        let (nodes, came, changed) = (HashMap::new(), VecDeque::new(), BTreeSet::new());
        let mut file =
            Protected { backend, env, nodes, came, changed, root_entry: [0; 2 * HALF], recovery_at, start_bytes };
        for block in 0..blocks {
            file.write(block, &[7; NODE])?;
        }
        file.flush()?;
        Ok(file)
    }

    pub(crate) fn read(&mut self, block: u64, out: &mut [u8; NODE]) -> Outcome<()> {
        let place = data_place(block);
        self.load(place)?;
        out.copy_from_slice(&*self.node(place)?.plain);
        self.trim()
    }

    pub(crate) fn write(&mut self, block: u64, data: &[u8]) -> Outcome<()> {
        let place = data_place(block);
        self.load(place)?;
        self.node(place)?.plain.copy_from_slice(data);
        let mut change = Some(place);
        while let Some(place) = change {
            // A tree node may have left the cache before what hangs on it.
            self.load(place)?;
            self.changed.insert(place);
            change = above(place).map(|(tree, _)| tree);
        }
        self.trim()
    }

    /// Writes what changed, and makes it durable.
    pub(crate) fn flush(&mut self) -> Outcome<()> {
        self.write_changed()?;
        bare(self.backend.flush())
    }

    fn node(&mut self, place: u64) -> Outcome<&mut Node> {
        self.nodes.get_mut(&place).ok_or_else(|| "a node is not in memory".into())
    }

    /// Brings a node and all above it into memory.
    fn load(&mut self, place: u64) -> Outcome<()> {
        if self.nodes.contains_key(&place) {
            return Ok(());
        }
        let entry: [u8; 2 * HALF] = match above(place) {
            None => self.root_entry,
            Some((tree, at)) => {
                self.load(tree)?;
                self.node(tree)?.plain[at..at + 2 * HALF].try_into()?
            }
        };
        let mut node = Node { plain: Box::new([0; NODE]), stored: Box::new([0; NODE]) };
        // A node that was never written has no key.
        if entry != [0; 2 * HALF] {
            let host = bare(self.backend.read_at(self.start_bytes + place * NODE as u64, NODE))?;
            node.stored.copy_from_slice(host.bytes());
            node.plain.copy_from_slice(&*node.stored);
            let (key, tag) = entry.split_at(HALF);
            let opened = self.env.suite.aead(&self.key(key)?).open(&[0; 12], &[], &mut *node.plain, tag.try_into()?);
            opened.map_err(|_| "a node of the baseline does not open")?;
        }
        self.nodes.insert(place, node);
        self.came.push_back(place);
        Ok(())
    }

    fn key(&self, fresh: &[u8]) -> Outcome<SecretKey> {
        let mut key = [0x33; 2 * HALF];
        key[..HALF].copy_from_slice(fresh);
        Ok(SecretKey::new(key))
    }

    /// Keeps the cache within its size; changed nodes leave it together.
    fn trim(&mut self) -> Outcome<()> {
        if self.nodes.len() <= CACHED_NODES {
            return Ok(());
        }
        if self.changed.len() >= CACHED_NODES / 2 {
            self.write_changed()?;
        }
        for _ in 0..self.came.len() {
            if self.nodes.len() <= CACHED_NODES {
                break;
            }
            let Some(place) = self.came.pop_front() else { break };
            // What leads to many nodes is wanted again soon.
            if place == ROOT || self.changed.contains(&place) {
                self.came.push_back(place);
            } else {
                self.nodes.remove(&place);
            }
        }
        Ok(())
    }

    fn write_changed(&mut self) -> Outcome<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        // What is overwritten next, so that a crash can be undone.
        for (index, place) in (0..).zip(&self.changed) {
            let stored = &self.nodes[place].stored;
            self.put(self.recovery_at + index, &stored[..])?;
        }
        self.put(META, &[1; NODE])?;
        // Data before the trees that hold their keys, and these from the bottom up: a node stands behind its tree.
        for place in std::mem::take(&mut self.changed).into_iter().rev() {
            self.seal(place)?;
        }
        self.put(META, &[0; NODE])
    }

    fn seal(&mut self, place: u64) -> Outcome<()> {
        let mut fresh = [0; HALF];
        self.env.rng.fill(&mut fresh).map_err(|_| "no random bytes")?;
        let (aead, node) = (self.env.suite.aead(&self.key(&fresh)?), self.node(place)?);
        let tag = aead.seal(&[0; 12], &[], &*node.plain, &mut *node.stored);
        let stored = node.stored.clone();
        self.put(place, &stored[..])?;
        let entry: [u8; 2 * HALF] = [fresh, tag].concat().try_into().map_err(|_| "an entry's length")?;
        match above(place) {
            None => self.root_entry = entry,
            Some((tree, at)) => self.node(tree)?.plain[at..at + 2 * HALF].copy_from_slice(&entry),
        }
        Ok(())
    }

    fn put(&self, place: u64, bytes: &[u8]) -> Outcome<()> {
        let mut buf = self.backend.buffer(NODE);
        buf.bytes_mut().copy_from_slice(bytes);
        let batch = vec![Io::Write { offset_bytes: self.start_bytes + place * NODE as u64, buf }];
        let ticket = bare(self.backend.submit(batch))?;
        bare(self.backend.wait(ticket)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use sefs::backend::MemoryBackend;

    use super::*;
    use crate::place::Dice;

    #[test]
    fn the_baseline_returns_what_was_written() {
        let backend = Arc::new(MemoryBackend::new(64 << 20));
        let blocks = 7000;
        let mut file = Protected::new(backend, Env::host(), blocks, 1 << 20).unwrap();
        let mut dice = Dice::new(5);
        let mut content = vec![7u8; 7000];
        for round in 0..3000 {
            let block = dice.below(blocks);
            content[usize::try_from(block).unwrap()] = round as u8;
            file.write(block, &[round as u8; NODE]).unwrap();
        }
        let mut out = [0; NODE];
        for (block, byte) in (0..).zip(content) {
            file.read(block, &mut out).unwrap();
            assert_eq!(out, [byte; NODE], "block {block}");
        }
    }

    #[test]
    fn every_node_stands_behind_the_one_that_vouches_for_it() {
        assert_eq!(above(ROOT), None);
        for place in 2..100_000 {
            let (tree, at) = above(place).unwrap();
            assert!(tree < place && tree % (DATA_BELOW + 1) == 1 && at + 2 * HALF <= NODE, "{place}");
        }
    }
}
