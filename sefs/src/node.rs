//! One tree node: sorted records, or references to the nodes below (format.md, section 5).
//!
//! ```text
//! | level u8 | 0 | count u16 | value bytes u32 | index: count × 24 | values, no gaps | zeros |
//! index entry: | object u64 | offset u64 | kind u8 | 0 | position u16 | length u16 | 0 u16 |
//! ```
//!
//! *Security*: a node is decoded only after it authenticated; still, a hostile key holder may have written it, so
//! [`Node::decode`] checks everything once. After that no accessor can fail on the node's content.
//!
//! *Invariants*: at least one entry; keys rise strictly, and no chunk is past the end of the largest file; values lie in
//! index order without gaps, at most [`MAX_VALUE_LEN`] bytes each, exactly one [`BlockRef`] of a whole, aligned node each
//! in an inner node; all other bytes are zero.

use alloc::vec::Vec;

use crate::format::{BlockRef, Key, Kind, MAX_VALUE_LEN, ProofKind, block_ref_len};
use crate::types::BLOCK_SIZE;

/// The highest level a node may have.
pub(crate) const MAX_LEVEL: u8 = 12;
/// The most bytes that one entry takes.
pub(crate) const MAX_ENTRY_LEN: usize = entry_len(MAX_VALUE_LEN);

const HEADER_LEN: usize = 8;
const INDEX_LEN: usize = 24;

/// Bytes that an entry with a value of `value_len` bytes takes in a node.
pub(crate) const fn entry_len(value_len: usize) -> usize {
    INDEX_LEN + value_len
}

/// Bytes that a node has for entries.
pub(crate) const fn capacity(node_size: usize) -> usize {
    node_size - HEADER_LEN
}

/// A checked node. It never changes.
pub(crate) struct Node {
    bytes: Vec<u8>,
    count: usize,
    /// What its references hold.
    proofs: ProofKind,
}

impl Node {
    /// Checks the bytes of a volume's node that must stand at `level`.
    pub(crate) fn decode(bytes: Vec<u8>, level: u8, node_size: usize) -> Result<Node, &'static str> {
        Node::decode_as(bytes, level, node_size, ProofKind::Tag)
    }

    /// The same, of a node whose references hold this kind of proof.
    pub(crate) fn decode_as(
        bytes: Vec<u8>,
        level: u8,
        node_size: usize,
        proofs: ProofKind,
    ) -> Result<Node, &'static str> {
        if bytes.len() != node_size || node_size < HEADER_LEN {
            return Err("a node of the wrong size");
        }
        if bytes[0] != level || level > MAX_LEVEL {
            return Err("not at the level that its parent gives");
        }
        let count = usize::from(u16_at(&bytes, 2));
        if bytes[1] != 0 {
            return Err("reserved bytes are not zero");
        }
        if count == 0 {
            return Err("no entries");
        }
        let values_start = HEADER_LEN + count * INDEX_LEN;
        let values_len = usize::try_from(u32_at(&bytes, 4)).map_err(|_| "the value area passes the node's end")?;
        let Some(room) = node_size.checked_sub(values_start) else {
            return Err("the index passes the node's end");
        };
        if values_len > room {
            return Err("the value area passes the node's end");
        }
        // Without an early end the compiler takes many bytes at once: most of a node may be padding.
        if bytes[values_start + values_len..].iter().fold(0, |set, byte| set | byte) != 0 {
            return Err("the padding is not zero");
        }
        let node = Node { bytes, count, proofs };
        node.check_entries(level, values_len)?;
        Ok(node)
    }

    fn check_entries(&self, level: u8, values_len: usize) -> Result<(), &'static str> {
        let mut end = 0;
        let mut before: Option<Key> = None;
        for i in 0..self.count {
            let entry = self.index(i);
            let kind = Kind::try_from(entry[16]).map_err(|_| "an unknown record kind")?;
            if entry[17] != 0 || u16_at(entry, 22) != 0 {
                return Err("reserved bytes are not zero");
            }
            let key = Key::new(u64_at(entry, 0), kind, u64_at(entry, 8));
            if before.is_some_and(|before| before >= key) {
                return Err("keys do not rise");
            }
            if key.is_past_all_files() {
                return Err("a chunk past the end of the largest file");
            }
            before = Some(key);
            let len = usize::from(u16_at(entry, 20));
            if usize::from(u16_at(entry, 18)) != end || len > MAX_VALUE_LEN {
                return Err("values are not contiguous, or too long");
            }
            end += len;
            if end > values_len {
                return Err("values pass their area");
            }
            if level > 0 && !self.is_child(i) {
                return Err("not a reference to a node");
            }
        }
        if end == values_len { Ok(()) } else { Err("values do not fill their area") }
    }

    fn is_child(&self, i: usize) -> bool {
        let Some(reference) = BlockRef::decode_as(self.value(i), self.proofs) else { return false };
        let node_size = self.bytes.len();
        let Ok(node_blocks) = u64::try_from(node_size / BLOCK_SIZE) else { return false };
        usize::try_from(reference.len_bytes) == Ok(node_size)
            && (node_blocks == 0 || reference.addr.0.is_multiple_of(node_blocks))
    }

    /// 0 for a leaf.
    pub(crate) fn level(&self) -> u8 {
        self.bytes[0]
    }

    /// The number of entries, at least 1.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The key of entry `i`, which is below [`Node::len`].
    pub(crate) fn key(&self, i: usize) -> Key {
        let entry = self.index(i);
        // `decode` has refused kinds that are not known.
        let kind = Kind::try_from(entry[16]).expect("checked by decode");
        Key::new(u64_at(entry, 0), kind, u64_at(entry, 8))
    }

    /// The smallest key.
    pub(crate) fn first_key(&self) -> Key {
        self.key(0)
    }

    /// The largest key.
    pub(crate) fn last_key(&self) -> Key {
        self.key(self.count - 1)
    }

    /// The value of entry `i`, which is below [`Node::len`].
    pub(crate) fn value(&self, i: usize) -> &[u8] {
        let entry = self.index(i);
        let start = HEADER_LEN + self.count * INDEX_LEN + usize::from(u16_at(entry, 18));
        &self.bytes[start..start + usize::from(u16_at(entry, 20))]
    }

    /// The reference in entry `i` of an inner node; `None` in a leaf.
    pub(crate) fn child(&self, i: usize) -> Option<BlockRef> {
        if self.level() == 0 {
            return None;
        }
        BlockRef::decode_as(self.value(i), self.proofs)
    }

    /// Where `key` stands, or else where it would be inserted.
    pub(crate) fn find(&self, key: Key) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(&key) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return Ok(middle),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The entry of an inner node below which `key` stands, if anywhere: the first child covers all smaller keys too.
    pub(crate) fn child_index(&self, key: Key) -> usize {
        match self.find(key) {
            Ok(i) => i,
            Err(i) => i.saturating_sub(1),
        }
    }

    /// Bytes that the entries take.
    #[cfg(test)]
    pub(crate) fn entry_bytes(&self) -> usize {
        (0..self.count).map(|i| entry_len(self.value(i).len())).sum()
    }

    fn index(&self, i: usize) -> &[u8] {
        let start = HEADER_LEN + i * INDEX_LEN;
        &self.bytes[start..start + INDEX_LEN]
    }
}

/// Writes a node, entry by entry.
pub(crate) struct NodeBuilder {
    node_size: usize,
    index: Vec<u8>,
    values: Vec<u8>,
    level: u8,
    count: u16,
    last: Option<Key>,
    proofs: ProofKind,
}

impl NodeBuilder {
    /// Starts a volume's node of `node_size` bytes (at most 65,536) at `level`.
    pub(crate) fn new(level: u8, node_size: usize) -> NodeBuilder {
        NodeBuilder::new_as(level, node_size, ProofKind::Tag)
    }

    /// The same, of a node whose references hold this kind of proof.
    pub(crate) fn new_as(level: u8, node_size: usize, proofs: ProofKind) -> NodeBuilder {
        NodeBuilder { node_size, index: Vec::new(), values: Vec::new(), level, count: 0, last: None, proofs }
    }

    /// Whether an entry with a value of `value_len` bytes still fits.
    pub(crate) fn has_room(&self, value_len: usize) -> bool {
        self.index.len() + self.values.len() + entry_len(value_len) <= capacity(self.node_size)
    }

    /// Adds an entry whose key is larger than all before. Refuses, without a change, what a node may not hold.
    pub(crate) fn push(&mut self, key: Key, value: &[u8]) -> Result<(), &'static str> {
        if self.last.is_some_and(|last| last >= key) {
            return Err("keys do not rise");
        }
        if value.len() > MAX_VALUE_LEN || (self.level > 0 && value.len() != block_ref_len(self.proofs)) {
            return Err("a value of the wrong length");
        }
        if !self.has_room(value.len()) {
            return Err("the node is full");
        }
        let (Ok(position), Ok(len), Some(count)) =
            (u16::try_from(self.values.len()), u16::try_from(value.len()), self.count.checked_add(1))
        else {
            return Err("the node is full");
        };
        self.index.extend_from_slice(&key.object.to_le_bytes());
        self.index.extend_from_slice(&key.offset.to_le_bytes());
        self.index.extend_from_slice(&[u8::from(key.kind), 0]);
        self.index.extend_from_slice(&position.to_le_bytes());
        self.index.extend_from_slice(&len.to_le_bytes());
        self.index.extend_from_slice(&[0, 0]);
        self.values.extend_from_slice(value);
        self.count = count;
        self.last = Some(key);
        Ok(())
    }

    /// The node's bytes; refuses an empty one.
    pub(crate) fn finish(self) -> Result<Vec<u8>, &'static str> {
        if self.count == 0 {
            return Err("no entries");
        }
        let values_len = u32::try_from(self.values.len()).map_err(|_| "the node is full")?;
        let mut bytes = Vec::with_capacity(self.node_size);
        bytes.extend_from_slice(&[self.level, 0]);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&values_len.to_le_bytes());
        bytes.extend_from_slice(&self.index);
        bytes.extend_from_slice(&self.values);
        bytes.resize(self.node_size, 0);
        Ok(bytes)
    }
}

// Callers pass offsets that lie within what `decode` has measured.

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BlockAddr, EpochId, Generation};

    const SIZE: usize = 16_384;

    fn leaf() -> Vec<u8> {
        let mut builder = NodeBuilder::new(0, SIZE);
        builder.push(Key::new(1, Kind::Inode, 0), b"abc").unwrap();
        builder.push(Key::new(1, Kind::DirEntry, 7), b"").unwrap();
        builder.push(Key::new(2, Kind::Inode, 0), &[5; MAX_VALUE_LEN]).unwrap();
        builder.finish().unwrap()
    }

    fn reference(addr: u64, len_bytes: u32) -> Vec<u8> {
        let (epoch, birth) = (EpochId(3), Generation(4));
        BlockRef { source: 0, epoch, addr: BlockAddr(addr), nonce: [1; 12], birth, proof: [2; 16].into(), len_bytes }
            .encode()
    }

    fn inner(addr: u64, len_bytes: u32) -> Vec<u8> {
        let mut builder = NodeBuilder::new(1, SIZE);
        builder.push(Key::new(1, Kind::Inode, 0), &reference(addr, len_bytes)).unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn a_leaf_comes_back_as_it_was_built() {
        let node = Node::decode(leaf(), 0, SIZE).unwrap();
        assert_eq!((node.level(), node.len()), (0, 3));
        assert_eq!((node.first_key(), node.last_key()), (Key::new(1, Kind::Inode, 0), Key::new(2, Kind::Inode, 0)));
        assert_eq!(node.key(1), Key::new(1, Kind::DirEntry, 7));
        assert_eq!((node.value(0), node.value(1), node.value(2)), (&b"abc"[..], &b""[..], &[5; MAX_VALUE_LEN][..]));
        assert_eq!(node.entry_bytes(), 3 * 24 + 3 + MAX_VALUE_LEN);
        assert_eq!(node.child(0), None);
    }

    #[test]
    fn keys_are_found_or_placed() {
        let node = Node::decode(leaf(), 0, SIZE).unwrap();
        assert_eq!(node.find(Key::new(1, Kind::DirEntry, 7)), Ok(1));
        assert_eq!(node.find(Key::new(1, Kind::DirEntry, 8)), Err(2));
        assert_eq!((node.find(Key::MIN), node.find(Key::MAX)), (Err(0), Err(3)));
        assert_eq!((node.child_index(Key::MIN), node.child_index(Key::MAX)), (0, 2));
    }

    #[test]
    fn fields_stand_where_the_format_says() {
        let bytes = leaf();
        assert_eq!(bytes[..8], [0, 0, 3, 0, 3, 17, 0, 0]);
        assert_eq!(bytes[32..56], [1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[80..84], *b"abc\x05");
        assert_eq!(bytes.len(), SIZE);
    }

    #[test]
    fn each_broken_rule_is_refused() {
        let check = |at: usize, with: &[u8], why: &str| {
            let mut bytes = leaf();
            bytes[at..at + with.len()].copy_from_slice(with);
            assert_eq!(Node::decode(bytes, 0, SIZE).err(), Some(why), "bytes {at}");
        };
        check(0, &[1], "not at the level that its parent gives");
        check(1, &[1], "reserved bytes are not zero");
        check(2, &[0, 0], "no entries");
        check(2, &[255, 255], "the index passes the node's end");
        check(4, &[0, 0, 1, 0], "the value area passes the node's end");
        check(4, &[255; 4], "the value area passes the node's end");
        check(4, &[4, 17, 0, 0], "values do not fill their area");
        check(4, &[2, 17, 0, 0], "the padding is not zero");
        check(24, &[99], "an unknown record kind");
        check(25, &[1], "reserved bytes are not zero");
        check(30, &[1], "reserved bytes are not zero");
        check(26, &[1], "values are not contiguous, or too long");
        check(32, &[3], "keys do not rise");
        check(56, &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2], "keys do not rise");
        check(76, &[1, 17], "values are not contiguous, or too long");
        check(SIZE - 1, &[1], "the padding is not zero");
        assert!(Node::decode(leaf(), 1, SIZE).is_err());
        assert!(Node::decode(leaf(), 0, 32_768).is_err());
        assert!(Node::decode(Vec::new(), 0, 0).is_err());
    }

    #[test]
    fn no_chunk_is_past_the_end_of_the_largest_file() {
        let with_chunk = |chunk: u64| {
            let mut builder = NodeBuilder::new(0, SIZE);
            builder.push(Key::new(7, Kind::Extent, chunk), b"").unwrap();
            Node::decode(builder.finish().unwrap(), 0, SIZE)
        };
        let last = (u64::MAX >> 1) / (256 << 10);
        assert_eq!(with_chunk(last).unwrap().key(0).block_number(63), (u64::MAX >> 1) / 4096);
        assert_eq!(with_chunk(last + 1).err(), Some("a chunk past the end of the largest file"));
    }

    #[test]
    fn inner_nodes_hold_whole_aligned_nodes_only() {
        assert_eq!(Node::decode(inner(64, 16_384), 1, SIZE).unwrap().child(0).unwrap().addr, BlockAddr(64));
        assert!(Node::decode(inner(65, 16_384), 1, SIZE).is_err());
        assert!(Node::decode(inner(64, 4_096), 1, SIZE).is_err());
        let mut flagged = inner(64, 16_384);
        flagged[8 + 24 + 1] = 1;
        assert!(Node::decode(flagged, 1, SIZE).is_err());
    }

    #[test]
    fn the_builder_refuses_what_no_node_may_hold() {
        let mut builder = NodeBuilder::new(0, SIZE);
        assert!(NodeBuilder::new(0, SIZE).finish().is_err());
        assert!(builder.push(Key::MIN, &[0; MAX_VALUE_LEN + 1]).is_err());
        for object in 0..3 {
            builder.push(Key::new(object, Kind::Inode, 0), &[0; MAX_VALUE_LEN]).unwrap();
        }
        assert!(builder.push(Key::MIN, b"").is_err(), "keys rise");
        assert!(builder.push(Key::MAX, &[0; MAX_VALUE_LEN]).is_err(), "the node is full");
        let rest = capacity(SIZE) - 3 * MAX_ENTRY_LEN - entry_len(0);
        builder.push(Key::MAX, &alloc::vec![1; rest]).unwrap();
        assert_eq!(Node::decode(builder.finish().unwrap(), 0, SIZE).unwrap().entry_bytes(), capacity(SIZE));
        assert!(NodeBuilder::new(1, SIZE).push(Key::MIN, b"no reference").is_err());
    }
}
