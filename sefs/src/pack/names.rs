//! Inode numbers that follow from paths, so that they are the same in every build.
//!
//! ```text
//! P(root) = SHA-256("sefs 1 path")    P(entry) = SHA-256(P(directory) ‖ name)
//! number  = first 30 bits of P(directory) ‖ first 32 bits of P(entry)
//! ```
//! The directory's bits come first, so a directory's inodes are neighbours in the tree.

use crate::format::Digest;
use crate::store::PACKED_IDS_END;
use crate::suite::Suite;

const DOMAIN: &[u8] = b"sefs 1 path";
/// Numbers below belong to the root and to what may come.
const FIRST: u64 = 1 << 16;

/// Stands for a path and for that of its directory.
#[derive(Clone, Copy)]
pub(super) struct PathHash {
    own: Digest,
    directory: Digest,
}

impl PathHash {
    pub(super) fn root(suite: &dyn Suite) -> PathHash {
        let own = suite.sha256(&[DOMAIN]);
        PathHash { own, directory: own }
    }

    pub(super) fn child(&self, suite: &dyn Suite, name: &[u8]) -> PathHash {
        PathHash { own: suite.sha256(&[&self.own, name]), directory: self.own }
    }

    /// The number of what is first met under this path; one that is taken moves up. There are far more numbers than inodes.
    pub(super) fn number(&self, is_taken: impl Fn(u64) -> bool) -> u64 {
        let first_four = |digest: &Digest| u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]));
        let mut number = (first_four(&self.directory) >> 2) << 32 | first_four(&self.own);
        loop {
            if !(FIRST..PACKED_IDS_END).contains(&number) {
                number = FIRST;
            }
            if !is_taken(number) {
                return number;
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::RustCrypto;

    #[test]
    fn numbers_follow_from_paths_and_move_up_where_they_are_taken() {
        let root = PathHash::root(&RustCrypto);
        let usr = root.child(&RustCrypto, b"usr");
        let (one, two) = (usr.child(&RustCrypto, b"bin"), usr.child(&RustCrypto, b"lib"));
        let number = one.number(|_| false);
        assert_eq!(number, usr.child(&RustCrypto, b"bin").number(|_| false));
        assert_ne!(number, two.number(|_| false));
        assert_eq!(number >> 32, two.number(|_| false) >> 32, "neighbours share their directory's bits");
        assert!((FIRST..PACKED_IDS_END).contains(&number));
        assert_eq!(one.number(|taken| taken == number), number + 1);
        let last = PathHash { own: [0xff; 32], directory: [0xff; 32] };
        assert_eq!(last.number(|taken| taken == PACKED_IDS_END - 1), FIRST, "the last number is followed by the first");
    }
}
