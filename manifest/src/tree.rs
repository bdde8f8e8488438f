//! The whole list and its root.

use alloc::vec::Vec;
use core::fmt;

use rs_merkle::MerkleTree;

use crate::proof::Proof;
use crate::record::RecordError;
use crate::{Digest, Record, VERSION, sha256};

/// The tree's hash: a leaf is hashed by its record, so that bytes that are none never become one.
#[derive(Clone)]
pub(crate) struct Nodes;

impl rs_merkle::Hasher for Nodes {
    type Hash = Digest;

    /// The library calls it only from the default of what stands below.
    fn hash(data: &[u8]) -> Digest {
        sha256(&[data])
    }

    fn concat_and_hash(left: &Digest, right: Option<&Digest>) -> Digest {
        match right {
            Some(right) => sha256(&[&[1], left, right]),
            None => *left,
        }
    }
}

/// The root that is published for the top of a tree with so many leaves.
pub(crate) fn published(leaves: u64, top: &Digest) -> Digest {
    sha256(&[&[2, VERSION], &leaves.to_le_bytes(), top])
}

/// Everything in an image.
pub struct Manifest {
    records: Vec<Record>,
    tree: MerkleTree<Nodes>,
    root: Digest,
}

/// Why records are no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The list is empty; an image has at least its root directory.
    Empty,
    /// Two records have this path.
    Twice(Vec<u8>),
    /// A record cannot be on a list.
    Record(Vec<u8>, RecordError),
    /// A path that a proof is wanted of is not on the list.
    Missing(Vec<u8>),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Empty => f.write_str("there is nothing to list"),
            ManifestError::Twice(_) => f.write_str("a path is listed twice"),
            ManifestError::Record(_, why) => write!(f, "a path cannot be listed: {why}"),
            ManifestError::Missing(_) => f.write_str("the path is not on the list"),
        }
    }
}

impl core::error::Error for ManifestError {}

impl Manifest {
    /// Makes the list of these records, in whatever order they come.
    pub fn new(mut records: Vec<Record>) -> Result<Manifest, ManifestError> {
        records.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some(twice) = records.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(ManifestError::Twice(twice[0].path.clone()));
        }
        if let Some((path, why)) = records.iter().find_map(|record| Some((&record.path, record.check().err()?))) {
            return Err(ManifestError::Record(path.clone(), why));
        }
        let leaves: Vec<Digest> = records.iter().map(Record::leaf).collect();
        let tree = MerkleTree::from_leaves(&leaves);
        let top = tree.root().ok_or(ManifestError::Empty)?;
        let root = published(leaves.len() as u64, &top);
        Ok(Manifest { records, tree, root })
    }

    /// What stands for the whole list.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// The list, sorted by path.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// A proof that these paths are on the list.
    pub fn prove(&self, paths: &[Vec<u8>]) -> Result<Proof, ManifestError> {
        let index = |path: &Vec<u8>| {
            let found = self.records.binary_search_by(|record| record.path.cmp(path));
            found.map_err(|_| ManifestError::Missing(path.clone()))
        };
        let mut indices = paths.iter().map(index).collect::<Result<Vec<usize>, ManifestError>>()?;
        indices.sort_unstable();
        indices.dedup();
        Ok(Proof {
            leaves: self.records.len() as u64,
            records: indices.iter().map(|index| (*index as u64, self.records[*index].clone())).collect(),
            hashes: self.tree.proof(&indices).proof_hashes().to_vec(),
        })
    }
}
