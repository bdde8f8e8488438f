//! What may be given up: the argument that a finding prints, and that a repair takes.
//!
//! ```text
//! data:OBJECT             all blocks of the object that do not authenticate
//! data:OBJECT:BLOCK       this one
//! data:OBJECT:FIRST-LAST  those among these
//! node:ADDRESS            the tree node at this block, and every record below it
//! log:LSN                 the log from this group on
//! allocation              the allocation pages; nothing of the content, for they are made anew
//! ```

use core::fmt;
use core::str::FromStr;

use crate::types::{BlockAddr, Lsn, ObjectId};

/// Something that does not authenticate and may be given up, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Loss {
    /// Data blocks become holes, if they do not authenticate.
    Data {
        /// The object that they belong to.
        object: ObjectId,
        /// The first block.
        first: u64,
        /// The last one; 2^64 − 1 for all that follow.
        last: u64,
    },
    /// A tree node, with all records below it.
    Node {
        /// Where it stands.
        addr: BlockAddr,
    },
    /// All log groups from here on.
    Log {
        /// The first group that is not there.
        lsn: Lsn,
    },
    /// Allocation pages. They say nothing that the trees do not say, so no content goes with them.
    Allocation,
}

impl Loss {
    /// One data block.
    pub fn data_block(object: ObjectId, block: u64) -> Loss {
        Loss::Data { object, first: block, last: block }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Loss::Data { object, first: 0, last: u64::MAX } => write!(f, "data:{object}"),
            Loss::Data { object, first, last } if first == last => write!(f, "data:{object}:{first}"),
            Loss::Data { object, first, last } => write!(f, "data:{object}:{first}-{last}"),
            Loss::Node { addr } => write!(f, "node:{addr}"),
            Loss::Log { lsn } => write!(f, "log:{lsn}"),
            Loss::Allocation => f.write_str("allocation"),
        }
    }
}

/// Text that names no loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLoss;

impl fmt::Display for NoLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither data:OBJECT[:FIRST[-LAST]], node:ADDRESS, log:LSN nor allocation")
    }
}

impl core::error::Error for NoLoss {}

impl FromStr for Loss {
    type Err = NoLoss;

    fn from_str(text: &str) -> Result<Loss, NoLoss> {
        let (kind, ids) = match text.split_once(':') {
            Some((kind, ids)) => (kind, Some(ids)),
            None => (text, None),
        };
        match (kind, ids) {
            ("allocation", None) => Ok(Loss::Allocation),
            ("node", Some(addr)) => Ok(Loss::Node { addr: BlockAddr(number(addr)?) }),
            ("log", Some(lsn)) => Ok(Loss::Log { lsn: Lsn(number(lsn)?) }),
            ("data", Some(ids)) => data(ids),
            _ => Err(NoLoss),
        }
    }
}

fn data(ids: &str) -> Result<Loss, NoLoss> {
    let Some((object, blocks)) = ids.split_once(':') else {
        return Ok(Loss::Data { object: ObjectId(number(ids)?), first: 0, last: u64::MAX });
    };
    let object = ObjectId(number(object)?);
    let (first, last) = match blocks.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(blocks)?, number(blocks)?),
    };
    if first > last { Err(NoLoss) } else { Ok(Loss::Data { object, first, last }) }
}

/// Digits only: `parse` would take a sign too.
fn number(text: &str) -> Result<u64, NoLoss> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(|_| NoLoss) } else { Err(NoLoss) }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn what_is_printed_is_what_is_taken() {
        for text in ["data:7", "data:7:3", "data:7:3-9", "node:900", "log:0", "allocation"] {
            assert_eq!(text.parse::<Loss>().unwrap().to_string(), text);
        }
        assert_eq!("data:7:3-3".parse(), Ok(Loss::data_block(ObjectId(7), 3)));
    }

    #[test]
    fn nothing_else_is_taken() {
        let bad =
            ["", "all", "data", "data:", "data:x", "data:7:", "data:7:9-3", "data:7:+3", "node", "node:", "log:-1"];
        for text in bad.into_iter().chain(["allocation:1", "data:7:1-2-3", "node:99999999999999999999", " node:1"]) {
            assert_eq!(text.parse::<Loss>(), Err(NoLoss), "{text}");
        }
    }
}
