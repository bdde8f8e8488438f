//! Trees against a `BTreeMap`, with a store that keeps books of every node.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Bound;

use proptest::prelude::*;

use super::level::min_fill;
use super::{Change, NodeWriter, try_apply};
use crate::error::{Corrupt, Error, Result};
use crate::format::{BlockRef, Key, Kind, MAX_VALUE_LEN};
use crate::node::{MAX_LEVEL, Node, NodeBuilder, capacity};
use crate::tree::{self, NodeReader, Place, Root, Visitor};
use crate::types::{BLOCK_SIZE, BlockAddr, EpochId, Generation};

const NODE_SIZE: usize = 16_384;

/// Nodes in memory. References vouch for nothing here: a test may change what a node holds.
struct Store {
    node_size: usize,
    nodes: RefCell<BTreeMap<u64, Vec<u8>>>,
    /// Written by the batch under way, which must not read them.
    fresh: RefCell<BTreeSet<u64>>,
    released: RefCell<BTreeSet<u64>>,
    next: RefCell<u64>,
    writes: RefCell<usize>,
}

impl Store {
    fn new(node_size: usize) -> Store {
        Store {
            node_size,
            nodes: RefCell::default(),
            fresh: RefCell::default(),
            released: RefCell::default(),
            next: RefCell::new(64),
            writes: RefCell::default(),
        }
    }

    fn apply(&self, root: Option<Root>, changes: Vec<Change>) -> Result<Option<Root>> {
        *self.writes.borrow_mut() = 0;
        let new = try_apply(self, &mut Writer(self), self.node_size, root, changes.into_iter().map(Ok))?;
        self.fresh.borrow_mut().clear();
        for addr in self.released.take() {
            self.nodes.borrow_mut().remove(&addr);
        }
        Ok(new)
    }
}

impl NodeReader for Store {
    fn read(&self, level: u8, reference: &BlockRef) -> Result<Arc<Node>> {
        let addr = reference.addr;
        assert!(!self.fresh.borrow().contains(&addr.0), "the batch reads back what it wrote");
        let nodes = self.nodes.borrow();
        let bytes = nodes.get(&addr.0).ok_or(Corrupt::Reference(addr))?;
        let node = Node::decode(bytes.clone(), level, self.node_size).map_err(|why| Corrupt::Node(addr, why))?;
        Ok(Arc::new(node))
    }
}

struct Writer<'a>(&'a Store);

impl NodeWriter for Writer<'_> {
    fn write(&mut self, level: u8, bytes: Vec<u8>) -> Result<BlockRef> {
        assert!(Node::decode(bytes.clone(), level, self.0.node_size).is_ok(), "an invalid node is written");
        let addr = *self.0.next.borrow();
        *self.0.next.borrow_mut() += u64::try_from(self.0.node_size / BLOCK_SIZE).unwrap();
        self.0.nodes.borrow_mut().insert(addr, bytes);
        self.0.fresh.borrow_mut().insert(addr);
        *self.0.writes.borrow_mut() += 1;
        Ok(BlockRef {
            source: 0,
            epoch: EpochId(1),
            addr: BlockAddr(addr),
            nonce: [7; 12],
            birth: Generation(1),
            proof: [9; 16].into(),
            len_bytes: u32::try_from(self.0.node_size).unwrap(),
        })
    }

    fn release(&mut self, reference: &BlockRef) {
        let addr = reference.addr.0;
        assert!(self.0.nodes.borrow().contains_key(&addr), "a dead node is released");
        assert!(!self.0.fresh.borrow().contains(&addr), "a new node is released");
        assert!(self.0.released.borrow_mut().insert(addr), "a node is released twice");
    }
}

/// What a walk sees.
#[derive(Default)]
struct Seen {
    addrs: BTreeSet<u64>,
    records: Vec<(Key, Vec<u8>)>,
    fills: Vec<(u8, usize)>,
}

impl Visitor for Seen {
    fn enter(&mut self, place: &Place) -> Result<bool> {
        assert!(self.addrs.insert(place.reference.addr.0), "a node hangs in two places");
        Ok(true)
    }

    fn node(&mut self, place: &Place, node: core::result::Result<&Node, &Error>) -> Result<()> {
        let node = node.expect("every node can be had");
        if place.level == 0 {
            self.records.extend((0..node.len()).map(|i| (node.key(i), node.value(i).to_vec())));
        } else {
            assert!(node.first_key() >= place.lower.unwrap_or(Key::MIN));
        }
        self.fills.push((place.level, node.entry_bytes()));
        Ok(())
    }
}

/// A tree beside the map that it must equal.
struct Twin {
    store: Store,
    root: Option<Root>,
    map: BTreeMap<Key, Vec<u8>>,
}

impl Twin {
    fn new(node_size: usize) -> Twin {
        Twin { store: Store::new(node_size), root: None, map: BTreeMap::new() }
    }

    fn apply(&mut self, changes: &BTreeMap<Key, Option<Vec<u8>>>) {
        let batch = changes.iter().map(|(key, value)| (*key, value.clone())).collect();
        self.root = self.store.apply(self.root, batch).unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => self.map.insert(*key, value.clone()),
                None => self.map.remove(key),
            };
        }
    }

    fn walk(&self) -> Seen {
        let mut seen = Seen::default();
        tree::walk(&self.store, self.root, &mut seen).unwrap();
        seen
    }

    /// All invariants: content, books, bounds, fill.
    fn check(&self) {
        let seen = self.walk();
        assert!(seen.records.iter().map(|(key, value)| (key, value)).eq(self.map.iter()), "the tree equals the map");
        let live: BTreeSet<u64> = self.store.nodes.borrow().keys().copied().collect();
        assert_eq!(live, seen.addrs, "what lives is what is reached");
        assert_eq!(self.root.is_none(), self.map.is_empty());
        if let Some(root) = self.root {
            assert!(root.level == 0 || self.store.read(root.level, &root.reference).unwrap().len() > 1);
        }
        for &(level, bytes) in &seen.fills {
            let is_root = self.root.is_some_and(|root| root.level == level);
            assert!(is_root || bytes >= min_fill(self.store.node_size), "level {level}: {bytes} bytes");
        }
    }

    fn check_range(&self, from: Key, end: Key, limit: usize) {
        let found = tree::scan(&self.store, self.root, from, end, limit).unwrap();
        let next = tree::next_key(&self.store, self.root, from, end).unwrap();
        if from >= end {
            assert!(found.is_empty() && next.is_none());
            return;
        }
        let expected = || self.map.range((Bound::Included(from), Bound::Excluded(end)));
        assert!(found.iter().map(|(key, value)| (key, value)).eq(expected().take(limit)));
        assert_eq!(next, expected().next().map(|(key, _)| *key));
    }

    fn check_get(&self, key: Key) {
        assert_eq!(tree::get(&self.store, self.root, key).unwrap().as_ref(), self.map.get(&key));
    }

    fn average_fill(&self, level: u8) -> f64 {
        let fills: Vec<usize> = self.walk().fills.iter().filter(|fill| fill.0 == level).map(|fill| fill.1).collect();
        fills.iter().sum::<usize>() as f64 / (fills.len() * capacity(self.store.node_size)) as f64
    }
}

fn key(number: u64) -> Key {
    let kind = [Kind::Inode, Kind::DirEntry, Kind::Extent][usize::try_from(number % 3).unwrap()];
    Key::new(number / 24, kind, number)
}

fn value(number: u64, len: usize) -> Vec<u8> {
    number.to_le_bytes().iter().copied().cycle().take(len).collect()
}

/// Key numbers in `0..span`, so that batches meet each other's keys; values of all sizes, most of them small.
fn any_batch(span: u64, most: usize) -> impl Strategy<Value = BTreeMap<Key, Option<Vec<u8>>>> {
    let len = prop_oneof![3 => 0..64_usize, 2 => 100..300_usize, 1 => 0..=MAX_VALUE_LEN];
    let put = (any::<u64>(), len).prop_map(|(seed, len)| Some(value(seed, len)));
    let change = prop_oneof![2 => put, 1 => Just(None)];
    let spread = prop::collection::vec((0..span, change.clone()), 0..most);
    let run = (0..span, prop::collection::vec(change.clone(), 0..most))
        .prop_map(|(start, run)| run.into_iter().enumerate().map(|(i, c)| (start + i as u64, c)).collect::<Vec<_>>());
    let wipe = (0..span, 0..span).prop_map(|(a, b)| (a.min(b)..a.max(b)).map(|i| (i, None)).collect::<Vec<_>>());
    prop_oneof![3 => spread, 2 => run, 1 => wipe]
        .prop_map(|changes| changes.into_iter().map(|(number, change)| (key(number), change)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn trees_equal_maps_after_any_batches(
        batches in prop::collection::vec(any_batch(3_000, 400), 1..12),
        ranges in prop::collection::vec((0..3_600_u64, 0..3_600_u64, 0..200_usize), 8),
    ) {
        let mut twin = Twin::new(NODE_SIZE);
        for batch in &batches {
            twin.apply(batch);
            twin.check();
            for &(from, end, limit) in &ranges {
                twin.check_range(key(from), key(end), limit);
                twin.check_get(key(from));
            }
        }
    }

    #[test]
    fn trees_of_large_nodes_equal_maps(batches in prop::collection::vec(any_batch(3_000, 600), 1..6)) {
        let mut twin = Twin::new(65_536);
        for batch in &batches {
            twin.apply(batch);
            twin.check();
        }
    }

    /// Three levels, and changes that are few for the tree's size.
    #[test]
    fn large_trees_equal_maps(
        step in 1..4_u64,
        batches in prop::collection::vec(any_batch(300_000, 60), 1..10),
    ) {
        let mut twin = Twin::new(NODE_SIZE);
        twin.apply(&(0..300_000).step_by(step as usize).map(|i| (key(i), Some(value(i, 200)))).take(40_000).collect());
        prop_assert!(twin.root.unwrap().level >= 2);
        for batch in &batches {
            twin.apply(batch);
            twin.check();
        }
    }

    /// A reader that verifies nothing hands out nodes with bytes changed by whoever holds the key.
    #[test]
    fn changed_nodes_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..1_600_usize, 1..=255_u8), 1..4),
        batch in any_batch(3_000, 60),
    ) {
        let mut twin = Twin::new(NODE_SIZE);
        twin.apply(&(0..3_000).map(|i| (key(i), Some(value(i, 150)))).collect());
        let addrs: Vec<u64> = twin.store.nodes.borrow().keys().copied().collect();
        for (node, at, bits) in flips {
            twin.store.nodes.borrow_mut().get_mut(node.get(&addrs)).unwrap()[at] ^= bits;
        }
        use_hostile(&twin.store, twin.root.unwrap(), batch);
    }

    /// Well-formed nodes that contradict each other.
    #[test]
    fn contradicting_nodes_never_panic(
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
        level in 0..=255_u8,
        batch in any_batch(20_000, 60),
    ) {
        let mut twin = Twin::new(NODE_SIZE);
        twin.apply(&(0..20_000).map(|i| (key(i), Some(value(i, 250)))).collect());
        let addrs: Vec<u64> = twin.store.nodes.borrow().keys().copied().collect();
        for (a, b) in swaps {
            let other = twin.store.nodes.borrow()[b.get(&addrs)].clone();
            twin.store.nodes.borrow_mut().insert(*a.get(&addrs), other);
        }
        let root = twin.root.unwrap();
        use_hostile(&twin.store, root, batch.clone());
        use_hostile(&twin.store, Root { level, ..root }, batch);
    }
}

/// Every way to use a tree; whether it succeeds is not asked.
fn use_hostile(store: &Store, root: Root, batch: BTreeMap<Key, Option<Vec<u8>>>) {
    struct Ignore;
    impl Visitor for Ignore {
        fn enter(&mut self, _: &Place) -> Result<bool> {
            Ok(true)
        }
        fn node(&mut self, _: &Place, _: core::result::Result<&Node, &Error>) -> Result<()> {
            Ok(())
        }
    }
    /// Keeps no books: a hostile tree may name a node twice.
    struct Sink(u64);
    impl NodeWriter for Sink {
        fn write(&mut self, _: u8, _: Vec<u8>) -> Result<BlockRef> {
            self.0 += 4;
            let (addr, len_bytes) = (BlockAddr(1 << 40 | self.0), 16_384);
            let (epoch, birth) = (EpochId(1), Generation(1));
            Ok(BlockRef { source: 0, epoch, addr, nonce: [0; 12], birth, proof: [0; 16].into(), len_bytes })
        }
        fn release(&mut self, _: &BlockRef) {}
    }
    for number in (0..3_000).step_by(97) {
        let _ = tree::get(store, Some(root), key(number));
    }
    if let Ok(found) = tree::scan(store, Some(root), Key::MIN, Key::MAX, usize::MAX) {
        assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    }
    let _ = tree::next_key(store, Some(root), key(1_000), Key::MAX);
    let _ = tree::walk(store, Some(root), &mut Ignore);
    let _ = try_apply(store, &mut Sink(0), store.node_size, Some(root), batch.into_iter().map(Ok));
}

#[test]
fn every_changed_byte_of_a_node_is_refused_or_harmless() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&(0..200).map(|i| (key(i), Some(value(i, 150)))).collect());
    let root = twin.root.unwrap();
    let addr = root.reference.addr.0;
    let bytes = twin.store.nodes.borrow()[&addr].clone();
    for at in 0..NODE_SIZE {
        twin.store.nodes.borrow_mut().get_mut(&addr).unwrap()[at] ^= 0x41;
        use_hostile(&twin.store, root, BTreeMap::from([(key(3), None), (key(150), Some(vec![1; 40]))]));
        twin.store.nodes.borrow_mut().insert(addr, bytes.clone());
    }
}

#[test]
fn sequential_inserts_leave_full_nodes() {
    // At the right end, and in the middle of other records. Where a batch is less than a node, the quarter that a split
    // leaves to the right node at least is lost.
    let cases = [(10_000, false, 0.95), (1_000, false, 0.9), (1_000, true, 0.9), (100, true, 0.75), (7, false, 0.75)];
    for (batch_len, middle, least) in cases {
        let mut twin = Twin::new(NODE_SIZE);
        if middle {
            let around = [0..500, 1_000_000..1_000_500];
            twin.apply(&around.into_iter().flatten().map(|i| (key(i), Some(value(i, 100)))).collect());
        }
        for start in (0..10_000).step_by(batch_len) {
            let numbers = (1_000 + start as u64..).take(batch_len);
            twin.apply(&numbers.map(|i| (key(i), Some(value(i, 100)))).collect());
        }
        twin.check();
        let fill = twin.average_fill(0);
        assert!(fill > least, "batches of {batch_len}, in the middle: {middle}: {fill}");
    }
}

#[test]
fn random_inserts_leave_balanced_nodes() {
    for batch_len in [10, 100, 1_000, 30_000] {
        let mut twin = Twin::new(NODE_SIZE);
        let mut state = 1_u64;
        for _ in 0..30_000 / batch_len {
            let batch = core::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (key(state >> 20), Some(value(state, 100)))
            });
            let batch = batch.take(batch_len).collect();
            twin.apply(&batch);
        }
        twin.check();
        let fill = twin.average_fill(0);
        assert!(fill > 0.6, "batches of {batch_len}: {fill}");
    }
}

#[test]
fn a_batch_without_effect_leaves_the_tree_alone() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&(0..5_000).map(|i| (key(i * 2), Some(value(i, 100)))).collect());
    let root = twin.root.unwrap();
    twin.apply(&(0..5_000).map(|i| (key(i * 2), Some(value(i, 100)))).collect());
    twin.apply(&(0..5_000).map(|i| (key(i * 2 + 1), None)).collect());
    twin.apply(&BTreeMap::new());
    assert_eq!((twin.root.unwrap().reference, *twin.store.writes.borrow()), (root.reference, 0));
}

#[test]
fn a_change_rewrites_its_path_only() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&(0..50_000).map(|i| (key(i), Some(value(i, 100)))).collect());
    let levels = usize::from(twin.root.unwrap().level) + 1;
    assert_eq!(levels, 3);
    for number in [0, 25_000, 49_999] {
        twin.apply(&BTreeMap::from([(key(number), Some(value(1, 100)))]));
        assert_eq!(*twin.store.writes.borrow(), levels);
        twin.check();
    }
}

#[test]
fn deleting_everything_leaves_the_empty_tree() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&(0..50_000).map(|i| (key(i), Some(value(i, 100)))).collect());
    for keep in [1, 30_000, 30_001] {
        // Down to one leaf at the left edge, in the middle, and the last records of all.
        let gone = (0..50_000).filter(|i| !(keep..keep + 5).contains(i)).map(|i| (key(i), None));
        twin.apply(&gone.collect());
        twin.check();
        assert_eq!(twin.root.unwrap().level, 0);
        twin.apply(&(0..50_000).map(|i| (key(i), Some(value(i, 100)))).collect());
    }
    twin.apply(&(0..50_000).map(|i| (key(i), None)).collect());
    twin.check();
    assert!(twin.root.is_none() && twin.store.nodes.borrow().is_empty());
    twin.check_range(Key::MIN, Key::MAX, 10);
    twin.check_get(key(1));
}

#[test]
fn the_edges_of_key_space_are_ordinary_keys() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&(0..500).map(|i| (key(i), Some(value(i, 100)))).collect());
    twin.apply(&BTreeMap::from([(Key::MIN, Some(vec![1])), (Key::MAX, Some(vec![2; MAX_VALUE_LEN]))]));
    twin.check();
    twin.check_get(Key::MIN);
    twin.check_get(Key::MAX);
    twin.check_range(Key::MIN, Key::MAX, usize::MAX);
}

#[test]
fn changes_out_of_order_and_oversized_values_are_errors() {
    let store = Store::new(NODE_SIZE);
    let out_of_order = vec![(key(2), Some(vec![])), (key(1), Some(vec![]))];
    assert!(matches!(store.apply(None, out_of_order), Err(Error::Corrupt(Corrupt::Record { .. }))));
    assert!(store.apply(None, vec![(key(1), Some(vec![0; MAX_VALUE_LEN + 1]))]).is_err());
}

#[test]
fn an_error_among_the_changes_comes_through() {
    let store = Store::new(NODE_SIZE);
    let changes = [Ok((key(1), Some(vec![]))), Err(Error::Rng)];
    let result = try_apply(&store, &mut Writer(&store), NODE_SIZE, None, changes.into_iter());
    assert_eq!(result.err(), Some(Error::Rng));
}

#[test]
fn a_node_that_hangs_in_two_places_is_refused_in_one() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&(0..2_000).map(|i| (key(i), Some(value(i, 100)))).collect());
    let root = twin.root.unwrap();
    let old = twin.store.read(root.level, &root.reference).unwrap();
    let mut forged = NodeBuilder::new(root.level, NODE_SIZE);
    for i in 0..old.len() {
        forged.push(old.key(i), old.value(i.min(3))).unwrap();
    }
    twin.store.nodes.borrow_mut().insert(root.reference.addr.0, forged.finish().unwrap());
    let result = tree::scan(&twin.store, twin.root, Key::MIN, Key::MAX, usize::MAX);
    assert!(matches!(result, Err(Error::Corrupt(Corrupt::Node(..)))));
}

#[test]
fn levels_beyond_the_bound_are_refused() {
    let mut twin = Twin::new(NODE_SIZE);
    twin.apply(&BTreeMap::from([(key(1), Some(vec![]))]));
    let root = Root { level: MAX_LEVEL + 1, ..twin.root.unwrap() };
    assert!(matches!(tree::get(&twin.store, Some(root), key(1)), Err(Error::Corrupt(Corrupt::NodeLevel(_)))));
}
