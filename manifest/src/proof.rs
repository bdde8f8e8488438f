//! A proof that records are on a list: what a verifier gets from a stranger.

use alloc::vec::Vec;
use core::fmt;

use rs_merkle::MerkleProof;

use crate::record::RecordError;
use crate::tree::{Nodes, published};
use crate::{Digest, Record, VERSION};

/// The most leaves that a list may have: far more than an image has inodes, and few enough that no sum overflows.
const LEAVES_MAX: u64 = 1 << 31;
/// The most records that one proof may name.
const RECORDS_MAX: usize = 1 << 16;
const MAGIC: &[u8; 8] = b"SEFSPRF\0";

/// Records of a list, and the hashes that lead from them to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// How many records the list has.
    pub leaves: u64,
    /// The records and their places on the list.
    pub records: Vec<(u64, Record)>,
    /// Hashes of the rest of the tree.
    pub hashes: Vec<Digest>,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// It does not begin as a proof does, or has too few or too many bytes.
    Malformed,
    /// It is of a version that this release does not know.
    Version(u8),
    /// One of its records is none.
    Record(RecordError),
    /// It is about nothing, or about more than a proof may be.
    Size,
    /// The records' places do not increase, lie beyond the list, or their paths are not in the order of the list.
    Order,
    /// It has more or fewer hashes than it needs.
    Hashes,
    /// It leads to another root.
    Root,
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProofError::Malformed => f.write_str("it is no proof"),
            ProofError::Version(version) => write!(f, "it is of version {version}, which this release does not know"),
            ProofError::Record(why) => write!(f, "a record of it is none: {why}"),
            ProofError::Size => f.write_str("it is about nothing, or about too much"),
            ProofError::Order => f.write_str("its records are not in the order of a list"),
            ProofError::Hashes => f.write_str("it has more or fewer hashes than it needs"),
            ProofError::Root => f.write_str("it does not lead to this root"),
        }
    }
}

impl core::error::Error for ProofError {}

impl Proof {
    /// Checks the proof against a root that the caller trusts; what comes out is on the list.
    pub fn verify(&self, root: &Digest) -> Result<&[(u64, Record)], ProofError> {
        if self.records.is_empty() || self.records.len() > RECORDS_MAX || self.leaves > LEAVES_MAX {
            return Err(ProofError::Size);
        }
        let ordered = |pair: &[(u64, Record)]| pair[0].0 < pair[1].0 && pair[0].1.path < pair[1].1.path;
        let last = self.records.last().map_or(0, |(index, _)| *index);
        if !self.records.windows(2).all(ordered) || last >= self.leaves {
            return Err(ProofError::Order);
        }
        if let Some(why) = self.records.iter().find_map(|(_, record)| record.check().err()) {
            return Err(ProofError::Record(why));
        }
        let indices: Vec<u64> = self.records.iter().map(|(index, _)| *index).collect();
        if self.hashes.len() != hashes_needed(indices.clone(), self.leaves) {
            return Err(ProofError::Hashes);
        }
        let small = |number: u64| usize::try_from(number).map_err(|_| ProofError::Size);
        let indices = indices.into_iter().map(small).collect::<Result<Vec<usize>, ProofError>>()?;
        let leaves: Vec<Digest> = self.records.iter().map(|(_, record)| record.leaf()).collect();
        let top = MerkleProof::<Nodes>::new(self.hashes.clone())
            .root(&indices, &leaves, small(self.leaves)?)
            .map_err(|_| ProofError::Hashes)?;
        if published(self.leaves, &top) == *root { Ok(&self.records) } else { Err(ProofError::Root) }
    }

    /// The proof's bytes. Integers are little-endian.
    ///
    /// `"SEFSPRF\0", version u8, leaves u64, number of records u32, of each: place u64, length u32, record; hashes, 32 each`
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&self.leaves.to_le_bytes());
        out.extend_from_slice(&len_u32(self.records.len()));
        for (index, record) in &self.records {
            let bytes = record.encode();
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&len_u32(bytes.len()));
            out.extend_from_slice(&bytes);
        }
        self.hashes.iter().for_each(|hash| out.extend_from_slice(hash));
        out
    }

    /// Reads a proof; it proves nothing before [`Proof::verify`].
    pub fn decode(bytes: &[u8]) -> Result<Proof, ProofError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(ProofError::Malformed)?;
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(ProofError::Version(version));
        }
        let leaves = u64::from_le_bytes(take(&mut rest)?);
        let count = u32::from_le_bytes(take(&mut rest)?) as usize;
        if count > RECORDS_MAX {
            return Err(ProofError::Size);
        }
        let mut records = Vec::new();
        for _ in 0..count {
            let index = u64::from_le_bytes(take(&mut rest)?);
            let len = u32::from_le_bytes(take(&mut rest)?) as usize;
            let (record, left) = rest.split_at_checked(len).ok_or(ProofError::Malformed)?;
            rest = left;
            records.push((index, Record::decode(record).map_err(ProofError::Record)?));
        }
        let (hashes, left) = rest.as_chunks::<32>();
        if left.is_empty() {
            Ok(Proof { leaves, records, hashes: hashes.to_vec() })
        } else {
            Err(ProofError::Malformed)
        }
    }
}

/// Hashes that lead from these places (increasing, below `leaves`) to the top: in each layer one for each node that is known and
/// has a sibling that is not.
fn hashes_needed(mut known: Vec<u64>, mut nodes: u64) -> usize {
    let mut needed = 0;
    while nodes > 1 {
        let mut parents = Vec::with_capacity(known.len());
        let mut at = 0;
        while at < known.len() {
            let sibling = known[at] ^ 1;
            parents.push(known[at] / 2);
            if known.get(at + 1) == Some(&sibling) {
                at += 1;
            } else if sibling < nodes {
                needed += 1;
            }
            at += 1;
        }
        (known, nodes) = (parents, nodes.div_ceil(2));
    }
    needed
}

fn len_u32(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ProofError> {
    let (taken, left) = rest.split_first_chunk().ok_or(ProofError::Malformed)?;
    *rest = left;
    Ok(*taken)
}
