//! Proofs of what is not on a list. Each kind is first made for the library's tree alone, which accepts it.

use rs_merkle::{Hasher, MerkleProof, MerkleTree};
use sefs_manifest::{Kind, Manifest, Proof, ProofError, Record, sha256};

/// The library's tree as it comes.
#[derive(Clone)]
struct Plain;

impl Hasher for Plain {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        sha256(&[data])
    }
}

fn plain() -> (Vec<[u8; 32]>, MerkleTree<Plain>) {
    let leaves: Vec<[u8; 32]> = (0u8..4).map(|number| Plain::hash(&[number])).collect();
    (leaves.clone(), MerkleTree::from_leaves(&leaves))
}

fn accepts(
    tree: &MerkleTree<Plain>,
    hashes: &[[u8; 32]],
    indices: &[usize],
    leaves: &[[u8; 32]],
    count: usize,
) -> bool {
    MerkleProof::<Plain>::new(hashes.to_vec()).verify(tree.root().unwrap(), indices, leaves, count)
}

fn record(path: &str) -> Record {
    let directory = path.is_empty();
    Record {
        path: path.into(),
        kind: if directory { Kind::Directory } else { Kind::Regular },
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        content: [0; 32],
        attributes: [0; 32],
        target: Vec::new(),
    }
}

/// Four records, `""`, `a`, `b`, `c`.
fn list() -> Manifest {
    Manifest::new(["", "a", "b", "c"].map(record).into()).unwrap()
}

fn proof(paths: &[&str]) -> Proof {
    list().prove(&paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap()
}

fn refused(forged: &Proof, why: ProofError) {
    assert_eq!(forged.verify(&list().root()), Err(why));
    assert_eq!(Proof::decode(&forged.encode()).unwrap().verify(&list().root()), Err(why), "in bytes");
}

#[test]
fn an_inner_node_is_no_leaf() {
    let (leaves, tree) = plain();
    let left = Plain::concat_and_hash(&leaves[0], Some(&leaves[1]));
    let right = Plain::concat_and_hash(&leaves[2], Some(&leaves[3]));
    assert!(accepts(&tree, &[right], &[0], &[left], 2), "the library takes a node for a leaf of a smaller tree");
    // Somebody who finds a record whose bytes are two hashes would need the same first byte; and the number is bound.
    let mut forged = proof(&["", "a", "b", "c"]);
    forged.leaves = 2;
    forged.records.truncate(1);
    forged.hashes = vec![[7; 32]];
    refused(&forged, ProofError::Root);
}

#[test]
fn no_place_is_named_twice() {
    let (leaves, tree) = plain();
    let right = Plain::concat_and_hash(&leaves[2], Some(&leaves[3]));
    let never = Plain::hash(b"never there");
    let hashes = [leaves[0], leaves[1], right];
    assert!(
        accepts(&tree, &hashes, &[1, 1], &[never, never], 4),
        "the library looks at neither of two leaves at one place"
    );
    let mut forged = proof(&["a"]);
    forged.records = vec![(1, record("evil")), (1, record("evil too"))];
    forged.hashes.insert(1, [7; 32]);
    refused(&forged, ProofError::Order);
}

#[test]
fn no_hash_is_left_over_and_none_is_missing() {
    let (leaves, tree) = plain();
    let right = Plain::concat_and_hash(&leaves[2], Some(&leaves[3]));
    assert!(
        accepts(&tree, &[leaves[1], right, [9; 32]], &[0], &[leaves[0]], 4),
        "the library ignores what is left over"
    );
    let mut forged = proof(&["b"]);
    forged.hashes.push([9; 32]);
    refused(&forged, ProofError::Hashes);
    forged.hashes.truncate(1);
    refused(&forged, ProofError::Hashes);
}

#[test]
fn the_number_of_records_is_bound() {
    let (leaves, tree) = plain();
    let right = Plain::concat_and_hash(&leaves[2], Some(&leaves[3]));
    assert!(accepts(&tree, &[leaves[1], right], &[0], &[leaves[0]], 3), "the library takes another number of leaves");
    for leaves in [3, 5] {
        let mut forged = proof(&[""]);
        forged.leaves = leaves;
        assert!(forged.verify(&list().root()).is_err(), "{leaves}");
    }
    let mut forged = proof(&[""]);
    forged.leaves = 1 << 40;
    refused(&forged, ProofError::Size);
}

#[test]
fn places_lie_on_the_list_and_in_its_order() {
    let mut forged = proof(&["c"]);
    forged.records[0].0 = 4;
    refused(&forged, ProofError::Order);
    let mut forged = proof(&["a", "b"]);
    forged.records.swap(0, 1);
    refused(&forged, ProofError::Order);
    let mut forged = proof(&["a", "b"]);
    (forged.records[0].1, forged.records[1].1) = (record("b"), record("a"));
    refused(&forged, ProofError::Order);
    let mut forged = proof(&["a"]);
    forged.records.clear();
    refused(&forged, ProofError::Size);
}

#[test]
fn a_record_is_what_it_says_to_the_last_bit() {
    let mut forged = proof(&["a"]);
    forged.records[0].1.mode = 0o4755;
    refused(&forged, ProofError::Root);
    let mut forged = proof(&["a"]);
    forged.records[0].1.path = b"evil".to_vec();
    refused(&forged, ProofError::Root);
}
