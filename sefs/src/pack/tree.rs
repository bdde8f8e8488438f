//! A tree from the bottom up: leaves as full as they get, then each level above, until one node is left.

use alloc::vec::Vec;

use super::NODE_SIZE_BYTES;
use crate::error::{Corrupt, Invalid, Result};
use crate::format::{BlockRef, Digest, Key, Proof, ProofKind};
use crate::node::NodeBuilder;
use crate::sealer::PACKED_EPOCH;
use crate::suite::Nonce;
use crate::types::{BLOCK_SIZE, BlockAddr, Generation};

/// Blocks of a node.
pub(super) const NODE_BLOCKS: u64 = (NODE_SIZE_BYTES as usize / BLOCK_SIZE) as u64;

/// Takes a node's level, address and bytes; returns its nonce and what proves it.
pub(super) type WriteNode<'w> = &'w mut dyn FnMut(u8, BlockAddr, Vec<u8>) -> Result<(Nonce, Digest)>;

/// A finished tree.
pub(super) struct Tree {
    pub(super) root: BlockRef,
    pub(super) level: u8,
    pub(super) nodes: u64,
}

/// Builds one level at a time.
pub(super) struct TreeBuilder<'w> {
    write: WriteNode<'w>,
    next: BlockAddr,
    nodes: u64,
    level: u8,
    node: NodeBuilder,
    first: Option<Key>,
    /// The nodes of this level.
    done: Vec<(Key, BlockRef)>,
}

impl<'w> TreeBuilder<'w> {
    /// The first node goes to `start`, the others behind it.
    pub(super) fn new(start: BlockAddr, write: WriteNode<'w>) -> TreeBuilder<'w> {
        TreeBuilder { write, next: start, nodes: 0, level: 0, node: node(0), first: None, done: Vec::new() }
    }

    /// Adds a record whose key is larger than all before.
    pub(super) fn push(&mut self, key: Key, value: &[u8]) -> Result<()> {
        if !self.node.has_room(value.len()) {
            self.close_node()?;
        }
        self.first.get_or_insert(key);
        self.node.push(key, value).map_err(|why| Corrupt::Node(self.next, why).into())
    }

    /// Everything was added: builds the levels above.
    pub(super) fn finish(mut self) -> Result<Tree> {
        loop {
            self.close_node()?;
            let done = core::mem::take(&mut self.done);
            match &done[..] {
                [] => return Err(Invalid::Option("an image without a root directory").into()),
                [(_, root)] => return Ok(Tree { root: *root, level: self.level, nodes: self.nodes }),
                _ => {}
            }
            self.level += 1;
            self.node = node(self.level);
            for (key, reference) in done {
                self.push(key, &reference.encode())?;
            }
        }
    }

    fn close_node(&mut self) -> Result<()> {
        let Some(first) = self.first.take() else { return Ok(()) };
        let full = core::mem::replace(&mut self.node, node(self.level));
        let (addr, level) = (self.next, self.level);
        let bytes = full.finish().map_err(|why| Corrupt::Node(addr, why))?;
        let (nonce, digest) = (self.write)(level, addr, bytes)?;
        let (epoch, birth, proof) = (PACKED_EPOCH, Generation(0), Proof::Digest(digest));
        let reference = BlockRef { source: 0, epoch, addr, nonce, birth, proof, len_bytes: NODE_SIZE_BYTES };
        self.done.push((first, reference));
        self.next = BlockAddr(addr.0 + NODE_BLOCKS);
        self.nodes += 1;
        Ok(())
    }
}

fn node(level: u8) -> NodeBuilder {
    NodeBuilder::new_as(level, NODE_SIZE_BYTES as usize, ProofKind::Digest)
}
