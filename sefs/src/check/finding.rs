//! What a check can find: one variant for each invariant, with ids and a code that never changes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::Loss;
use crate::error::Error;
use crate::types::{BlockAddr, EpochId, Generation, InodeNo, Lsn, ObjectId};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// To be expected after a crash, or harmless.
    Note,
    /// An invariant does not hold.
    Error,
}

/// A field's value as text.
trait Told {
    fn told(&self) -> Option<String>;
}

macro_rules! told {
    ($($type:ty)*) => { $( impl Told for $type {
        fn told(&self) -> Option<String> {
            Some(self.to_string())
        }
    } )* };
}

told! { bool u8 u32 u64 i32 &'static str Error BlockAddr EpochId Generation InodeNo Lsn ObjectId }

impl Told for Option<Loss> {
    /// What a finding can be given up as is told by [`Finding::loss`].
    fn told(&self) -> Option<String> {
        None
    }
}

/// What puts a finding right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The checkpoints that the next read-write mount writes.
    Mount,
    /// A repair, from records that all authenticate: nothing is lost.
    Sums,
    /// A repair, after a loss was accepted that it may follow from. It is an error of ours, or a key holder's, otherwise.
    Consequence,
    /// Nothing here; and other repairs need not wait for it.
    None,
    /// Nothing here, unless it is given up by name; until then nothing else is repaired, for what it hides is not known.
    Hides,
}

/// Stops a finding's table from being written three times.
macro_rules! findings {
    ($( $(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }
        = $code:literal, $severity:ident, $remedy:ident, $text:literal; )*) => {
        /// An invariant that does not hold. Fields are ids, never names: the host may read an enclave's output.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Finding {
            $( $(#[$doc])* $name { $($(#[$field_doc])* $field: $type),* }, )*
        }

        impl Finding {
            /// A fixed name.
            pub fn code(&self) -> &'static str {
                match self { $( Finding::$name { .. } => $code, )* }
            }

            /// How bad it is.
            pub fn severity(&self) -> Severity {
                match self { $( Finding::$name { .. } => Severity::$severity, )* }
            }

            /// Its ids and figures, by name; those that say nothing are left out.
            pub fn fields(&self) -> Vec<(&'static str, String)> {
                match self { $( Finding::$name { $($field),* } => {
                    let fields: Vec<(&'static str, Option<String>)> = alloc::vec![$((stringify!($field), $field.told())),*];
                    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
                } )* }
            }

            /// What puts it right.
            pub fn remedy(&self) -> Remedy {
                match self { $( Finding::$name { .. } => Remedy::$remedy, )* }
            }
        }

        impl fmt::Display for Finding {
            #[allow(unused_variables)]
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $( Finding::$name { $($field),* } => write!(f, $text), )* }
            }
        }

        #[cfg(test)]
        pub(super) const CODES: &[&str] = &[$($code),*];
    };
}

findings! {
    // The volume as a whole.

    /// A read-only mount refuses the volume.
    Unmountable {
        /// Why.
        error: Error,
    } = "unmountable", Error, None, "the volume does not open: {error}";
    /// An image below cannot be read.
    BelowUnreadable {
        /// Why.
        error: Error,
    } = "below-unreadable", Error, Hides, "an image below the volume cannot be read: {error}; check that image";
    /// Something could not be read or did not authenticate, so nothing can be said of what should be named there.
    Incomplete {} = "incomplete", Note, None,
        "parts of the trees are not readable; what depends on all records is not checked";
    /// The host failed to read.
    Unreadable {
        /// The first block.
        addr: BlockAddr,
        /// The host's error number.
        errno: i32,
        /// What would have to be given up.
        loss: Option<Loss>,
    } = "unreadable", Error, Hides, "block {addr} cannot be read (host error {errno})";

    // Header, slots, epochs.

    /// A copy of the header does not authenticate.
    HeaderCopy {
        /// The one at the volume's end.
        replica: bool,
    } = "header-copy", Error, Mount, "a copy of the header does not authenticate (replica: {replica})";
    /// Both copies authenticate and differ: a change of the header was interrupted.
    HeaderCopiesDiffer {
        /// The primary's generation.
        primary: u64,
        /// The replica's generation.
        replica: u64,
    } = "header-copies-differ", Note, None, "the header has generation {primary}, its replica {replica}";
    /// Two header digests are accepted: a change of the header was interrupted.
    HeaderChangePending {} = "header-change-pending", Note, None, "the checkpoint accepts two headers";
    /// The volume key was changed, and something that the old one can open is left.
    KeyRotation {} = "key-rotation", Note, None,
        "key rotation in progress: old blocks are neither secret nor authentic against the old key's holder";
    /// The newest checkpoint does not accept any copy of the header.
    HeaderNotAccepted {
        /// The header's generation.
        generation: u64,
    } = "header-not-accepted", Error, Hides, "header generation {generation} is not the one that the checkpoint accepts";
    /// A checkpoint slot does not authenticate: a torn write, or tampering.
    SlotDamaged {
        /// Which one.
        index: u8,
    } = "slot-damaged", Note, Mount, "checkpoint slot {index} does not authenticate";
    /// An authentic checkpoint does not decode.
    SlotCorrupt {
        /// Which slot.
        index: u8,
        /// What is wrong.
        why: &'static str,
    } = "slot-corrupt", Error, Hides, "checkpoint slot {index} is authentic and does not decode: {why}";
    /// The slots do not hold one checkpoint and the one after it.
    SlotOrder {
        /// The newest.
        newest: Generation,
        /// The other one.
        older: Generation,
    } = "slot-order", Error, Mount, "checkpoint {newest} does not follow checkpoint {older}, which the other slot holds";
    /// The allocation levels are not those that the volume's size demands.
    AllocLevels {
        /// What the checkpoint says.
        stored: u8,
        /// What the size demands.
        expected: u8,
    } = "alloc-levels", Error, Hides, "the checkpoint names {stored} allocation levels, the size demands {expected}";
    /// A page of the epoch table does not authenticate, or does not decode.
    EpochPage {
        /// Its index.
        index: u32,
    } = "epoch-page", Error, Hides, "page {index} of the epoch table does not open";
    /// The epoch table holds another number of epochs than the checkpoint says.
    EpochCount {
        /// What the checkpoint says.
        stored: u32,
        /// What the table holds.
        found: u64,
    } = "epoch-count", Error, Mount, "the checkpoint names {stored} epochs, the table holds {found}";
    /// More is alive than the table says: the epoch's key would be dropped too early.
    EpochLiveLow {
        /// The epoch.
        epoch: EpochId,
        /// The table's count.
        stored: u64,
        /// What is alive.
        found: u64,
    } = "epoch-live-low", Error, Sums, "epoch {epoch} has {found} live blocks, its count says {stored}";
    /// Less is alive than the table says: the epoch's key is kept too long.
    EpochLiveHigh {
        /// The epoch.
        epoch: EpochId,
        /// The table's count.
        stored: u64,
        /// What is alive.
        found: u64,
    } = "epoch-live-high", Error, Sums, "epoch {epoch} has {found} live blocks, its count says {stored}";
    /// Something names an epoch that the table does not hold.
    UnknownEpoch {
        /// The epoch.
        epoch: EpochId,
        /// What was sealed with it.
        addr: BlockAddr,
    } = "unknown-epoch", Error, Hides, "block {addr} is sealed with epoch {epoch}, which the table does not hold";

    // The log.

    /// A group that was known flushed is not there, or does not authenticate.
    LogBroken {
        /// Where.
        lsn: Lsn,
    } = "log-broken", Error, Hides, "the log group at {lsn}, which was flushed, is not there or does not authenticate";
    /// An authentic group does not decode.
    LogGroup {
        /// Where.
        lsn: Lsn,
        /// What is wrong.
        why: &'static str,
    } = "log-group", Error, Hides, "the log group at {lsn} is authentic and does not decode: {why}";
    /// Groups at the end of the log that were never confirmed as flushed are torn, and do not count.
    LogDropped {
        /// How many.
        groups: u64,
    } = "log-dropped", Note, Mount, "{groups} unconfirmed groups at the end of the log are torn and do not count";
    /// A group changes a record that no group may change.
    LogRecord {
        /// Where the group stands.
        lsn: Lsn,
        /// The record's object.
        object: ObjectId,
        /// The record's kind.
        kind: u8,
    } = "log-record", Error, Hides, "the log group at {lsn} changes a record of object {object}, kind {kind}, as it must not";

    // Trees.

    /// A node does not authenticate.
    NodeTampered {
        /// Where.
        addr: BlockAddr,
        /// Its level.
        level: u8,
        /// The first object that may have records below it.
        from: ObjectId,
        /// The last one.
        to: ObjectId,
    } = "node-tampered", Error, Hides,
        "the level-{level} tree node at block {addr} (records of objects {from} to {to}) does not authenticate";
    /// An authentic node does not decode, or its keys are not within its parent's bounds.
    NodeCorrupt {
        /// Where.
        addr: BlockAddr,
        /// What is wrong.
        why: &'static str,
        /// The first object that may have records below it.
        from: ObjectId,
        /// The last one.
        to: ObjectId,
    } = "node-corrupt", Error, Hides,
        "the tree node at block {addr} (records of objects {from} to {to}) is authentic and wrong: {why}";
    /// A reference points into a reserved area or past the volume's end.
    Address {
        /// Where.
        addr: BlockAddr,
    } = "address", Error, Hides, "something refers to block {addr}, which is outside of the data area";
    /// A block is referred to twice.
    ReferredTwice {
        /// Which one.
        addr: BlockAddr,
    } = "referred-twice", Error, Hides, "block {addr} is referred to twice";
    /// A tree names blocks of a later checkpoint.
    Birth {
        /// The block.
        addr: BlockAddr,
        /// Its birth.
        birth: Generation,
    } = "birth", Error, None, "block {addr} claims to be written by checkpoint {birth}, which is still to come";
    /// The checkpoint counts another number of nodes.
    NodeCount {
        /// What the checkpoint says.
        stored: u64,
        /// What the trees hold.
        found: u64,
    } = "node-count", Error, Sums, "the checkpoint counts {stored} tree nodes, there are {found}";
    /// A record does not decode.
    RecordCorrupt {
        /// The object it hangs on.
        object: ObjectId,
        /// The key kind.
        kind: u8,
        /// What is wrong.
        why: &'static str,
    } = "record-corrupt", Error, Hides, "a record of object {object}, kind {kind}, does not decode: {why}";
    /// A record stands where no record of its kind belongs.
    RecordMisplaced {
        /// The object it hangs on.
        object: ObjectId,
        /// The key kind.
        kind: u8,
        /// The key's offset.
        offset: u64,
    } = "record-misplaced", Error, Hides, "a record of kind {kind} stands under object {object}, offset {offset}";

    // Space.

    /// A data block does not authenticate.
    DataTampered {
        /// Where.
        addr: BlockAddr,
        /// The object.
        object: ObjectId,
        /// The block's number in it.
        block: u64,
    } = "data-tampered", Error, None, "data block {addr} (object {object}, block {block}) does not authenticate";
    /// Bytes after the end of a file in its last block are not zero.
    TailNotZero {
        /// The object.
        object: ObjectId,
    } = "tail-not-zero", Error, None, "bytes after the end of object {object} in its last block are not zero";
    /// An allocation page does not authenticate.
    AllocPageTampered {
        /// The first group that it covers.
        group: u64,
        /// 0 for a bitmap.
        level: u8,
    } = "alloc-page-tampered", Error, Hides, "the level-{level} allocation page of group {group} does not authenticate";
    /// An authentic allocation page is wrong.
    AllocPageCorrupt {
        /// The first group that it covers.
        group: u64,
        /// 0 for a bitmap.
        level: u8,
        /// What is wrong.
        why: &'static str,
    } = "alloc-page-corrupt", Error, Sums, "the level-{level} allocation page of group {group} is wrong: {why}";
    /// The counts of an allocation entry are not those of what it covers.
    AllocCounts {
        /// The first group that it covers.
        group: u64,
        /// 0 for a bitmap.
        level: u8,
        /// Free blocks as the entry says.
        stored: u64,
        /// Free blocks below.
        found: u64,
    } = "alloc-counts", Error, Sums,
        "the level-{level} allocation page of group {group} should count {found} free blocks and their quads, not {stored}";
    /// Blocks are marked in use, and nothing refers to them.
    Leaked {
        /// The first one.
        addr: BlockAddr,
        /// How many.
        blocks: u64,
    } = "leaked", Error, Sums, "{blocks} blocks from {addr} on are marked in use, but nothing refers to them";
    /// Blocks of a packed image that nothing refers to.
    Unreferred {
        /// The first one.
        addr: BlockAddr,
        /// How many.
        blocks: u64,
    } = "unreferred", Error, None, "nothing refers to the {blocks} blocks from {addr} on";
    /// A packed image's reference has an epoch, a birth or a nonce that none has.
    NotCanonical {
        /// What it refers to.
        addr: BlockAddr,
    } = "not-canonical", Error, None, "the reference to block {addr} has fields that no packed image has";
    /// Blocks are in use and marked free.
    NotAllocated {
        /// The first one.
        addr: BlockAddr,
        /// How many.
        blocks: u64,
    } = "not-allocated", Error, Sums, "{blocks} blocks from {addr} on are in use, but marked free";
    /// The log gives content to a block that was not free.
    LogTookUsed {
        /// The first one.
        addr: BlockAddr,
        /// How many.
        blocks: u64,
    } = "log-took-used", Error, Sums, "the log gives content to {blocks} blocks from {addr} on, which were in use before";
    /// The checkpoint counts another number of free blocks.
    FreeBlocks {
        /// What the checkpoint says.
        stored: u64,
        /// What the bitmaps say.
        found: u64,
    } = "free-blocks", Error, Sums, "the checkpoint counts {stored} free blocks, the bitmaps have {found}";
    /// The checkpoint counts another number of unwritten blocks.
    Unwritten {
        /// What the checkpoint says.
        stored: u64,
        /// What the chunks hold.
        found: u64,
    } = "unwritten", Error, Sums, "the checkpoint counts {stored} unwritten blocks, the chunks have {found}";
    /// An object's space record is not what its chunks hold.
    Space {
        /// The object.
        object: ObjectId,
        /// What the record says.
        stored: u64,
        /// What the chunks hold.
        found: u64,
    } = "space", Error, Sums, "the space record of object {object} says {stored} blocks, its chunks have {found}";

    // Files.

    /// There is no root directory.
    NoRoot {} = "no-root", Error, Consequence, "there is no root directory";
    /// Another number of inodes than the newest group or checkpoint says.
    InodeCount {
        /// The count.
        stored: u64,
        /// The inodes.
        found: u64,
    } = "inode-count", Error, Sums, "{stored} inodes are counted, there are {found}";
    /// A number is in use that is still to be given out.
    NextId {
        /// The next number.
        next: u64,
        /// The number in use.
        id: u64,
    } = "next-id", Error, Sums, "number {id} is in use, but the next one to be given out is {next}";
    /// Directory entries or attributes of an inode that does not exist.
    NoInode {
        /// Its number.
        object: ObjectId,
        /// The kind of its first such record.
        kind: u8,
    } = "no-inode", Error, Consequence, "there are records of kind {kind} for inode {object}, which does not exist";
    /// Directory entries below something that is no directory.
    NotDirectory {
        /// What it is.
        ino: InodeNo,
    } = "not-directory", Error, None, "inode {ino} has directory entries and is no directory";
    /// A directory entry is not where its name's hash puts it.
    EntryHash {
        /// The directory.
        dir: InodeNo,
        /// The entry's key.
        key: u64,
    } = "entry-hash", Error, None, "entry {key} of directory {dir} is not where its name belongs";
    /// A directory has a name twice.
    EntryTwice {
        /// The directory.
        dir: InodeNo,
        /// The second entry's key.
        key: u64,
    } = "entry-twice", Error, None, "entry {key} of directory {dir} has the name of another one";
    /// A directory entry names an inode that does not exist.
    DanglingEntry {
        /// The directory.
        dir: InodeNo,
        /// The missing inode.
        ino: InodeNo,
    } = "dangling-entry", Error, Consequence, "directory {dir} names inode {ino}, which does not exist";
    /// A directory entry says another type than the inode.
    EntryKind {
        /// The directory.
        dir: InodeNo,
        /// The inode.
        ino: InodeNo,
    } = "entry-kind", Error, None, "directory {dir} says another type of inode {ino} than the inode";
    /// A directory counts another number of entries.
    EntryCount {
        /// The directory.
        dir: InodeNo,
        /// Its count.
        stored: u64,
        /// Its entries.
        found: u64,
    } = "entry-count", Error, Sums, "directory {dir} counts {stored} entries, it has {found}";
    /// A directory counts another number of subdirectories.
    SubdirCount {
        /// The directory.
        dir: InodeNo,
        /// Its count.
        stored: u32,
        /// Its subdirectories.
        found: u64,
    } = "subdir-count", Error, Sums, "directory {dir} counts {stored} subdirectories, it has {found}";
    /// An inode's link count is not the number of entries that name it (a directory's: 2 and its subdirectories).
    LinkCount {
        /// The inode.
        ino: InodeNo,
        /// Its count.
        stored: u32,
        /// What it should be.
        found: u64,
    } = "link-count", Error, Sums, "inode {ino} counts {stored} links, it has {found}";
    /// A directory's parent is not the directory that names it.
    Parent {
        /// The directory.
        ino: InodeNo,
        /// Its parent, as it says.
        stored: InodeNo,
        /// The directory that names it.
        found: InodeNo,
    } = "parent", Error, Sums, "directory {ino} has the parent {stored}, but {found} names it";
    /// A directory has several names, or none.
    DirectoryNames {
        /// The directory.
        ino: InodeNo,
        /// How many.
        found: u64,
    } = "directory-names", Error, Sums, "directory {ino} has {found} names";
    /// A directory does not hang on the root.
    Unreachable {
        /// The directory.
        ino: InodeNo,
    } = "unreachable", Error, None, "directory {ino} does not hang on the root";
    /// An inode without links and without an orphan record.
    OrphanUnrecorded {
        /// The inode.
        ino: InodeNo,
    } = "orphan-unrecorded", Error, Sums, "inode {ino} has no links, and no orphan record";
    /// An orphan record of an inode that has links.
    OrphanLinked {
        /// The inode.
        ino: InodeNo,
    } = "orphan-linked", Error, Sums, "inode {ino} has links, and an orphan record";
    /// An orphan record of an inode that does not exist.
    OrphanMissing {
        /// The inode.
        ino: InodeNo,
    } = "orphan-missing", Error, Sums, "there is an orphan record of inode {ino}, which does not exist";

    // Attributes and content.

    /// An attribute lacks a part, has one too many, or one of the wrong length.
    XattrParts {
        /// The inode.
        ino: InodeNo,
        /// The key of the attribute, or of the part.
        key: u64,
    } = "xattr-parts", Error, Consequence, "attribute {key} of inode {ino} does not consist of the parts that it should";
    /// An attribute is not where its name's hash puts it.
    XattrHash {
        /// The inode.
        ino: InodeNo,
        /// The key of the attribute.
        key: u64,
    } = "xattr-hash", Error, None, "attribute {key} of inode {ino} is not where its name belongs";
    /// An inode has an attribute twice.
    XattrTwice {
        /// The inode.
        ino: InodeNo,
        /// The key of the second one.
        key: u64,
    } = "xattr-twice", Error, None, "attribute {key} of inode {ino} has the name of another one";
    /// What an inode says of its attributes is not what they are.
    XattrSummary {
        /// The inode.
        ino: InodeNo,
        /// Flags of those that there are.
        flags: u32,
        /// How many there are.
        count: u32,
        /// Bytes of their names.
        bytes: u32,
    } = "xattr-summary", Error, Sums, "inode {ino} says something else of its attributes than they are";
    /// Content that no inode has.
    NoOwner {
        /// The object.
        object: ObjectId,
    } = "no-owner", Error, Consequence, "object {object} has content, but no inode has the object";
    /// Two inodes have the same content.
    TwoOwners {
        /// The object.
        object: ObjectId,
        /// The second inode.
        ino: InodeNo,
    } = "two-owners", Error, None, "object {object} of inode {ino} is another inode's too";
    /// An inode that can have no content has an object.
    OwnsContent {
        /// The inode.
        ino: InodeNo,
    } = "owns-content", Error, None, "inode {ino} can have no content, but names an object";
    /// Content stands inline and in chunks, or not where the inode's flag says.
    InlineAndChunks {
        /// The inode.
        ino: InodeNo,
    } = "inline-and-chunks", Error, None, "the content of inode {ino} is not, or not only, where its inline flag says";
    /// Inline content is not as long as the file.
    InlineLength {
        /// The inode.
        ino: InodeNo,
        /// The file's size.
        size: u64,
        /// The record's length.
        found: u64,
    } = "inline-length", Error, Consequence, "inode {ino} has {size} bytes, its inline content {found}";
    /// Blocks after the end of a file that has no flag for that, or data blocks there.
    PastEnd {
        /// The inode.
        ino: InodeNo,
        /// The first such block.
        block: u64,
    } = "past-end", Error, Consequence, "inode {ino} has block {block} after its end, where none may stand";
}

impl Finding {
    /// Whether a mount or a repair that loses nothing puts it right.
    pub fn repairable(&self) -> bool {
        matches!(self.remedy(), Remedy::Mount | Remedy::Sums)
    }

    /// What has to be given up by name to get rid of it.
    pub fn loss(&self) -> Option<Loss> {
        match *self {
            Finding::DataTampered { object, block, .. } => Some(Loss::data_block(object, block)),
            Finding::NodeTampered { addr, .. } | Finding::NodeCorrupt { addr, .. } => Some(Loss::Node { addr }),
            Finding::LogBroken { lsn } => Some(Loss::Log { lsn }),
            Finding::AllocPageTampered { .. } => Some(Loss::Allocation),
            Finding::Unreadable { loss, .. } => loss,
            _ => None,
        }
    }

    /// Whether it is only about what the host stores, not about what we wrote.
    pub fn is_of_the_host(&self) -> bool {
        let unmountable = matches!(self, Finding::Unmountable { error } if !matches!(error, Error::Corrupt(_)));
        let header = matches!(self, Finding::HeaderCopy { .. } | Finding::HeaderNotAccepted { .. });
        unmountable || header || matches!(self, Finding::EpochPage { .. }) || self.loss().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let unique: alloc::collections::BTreeSet<_> = CODES.iter().collect();
        assert_eq!(unique.len(), CODES.len());
        assert!(CODES.iter().all(|code| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
    }

    #[test]
    fn a_finding_tells_its_fields() {
        let finding = Finding::Unreadable { addr: BlockAddr(7), errno: 5, loss: Some(Loss::Allocation) };
        assert_eq!(finding.fields(), [("addr", "7".into()), ("errno", "5".into())]);
        assert_eq!(finding.loss(), Some(Loss::Allocation));
        assert_eq!(Finding::Incomplete {}.fields(), []);
    }

    #[test]
    fn a_finding_names_its_ids() {
        let finding = Finding::LinkCount { ino: InodeNo(5), stored: 2, found: 1 };
        assert_eq!(alloc::format!("{finding}"), "inode 5 counts 2 links, it has 1");
        assert_eq!((finding.code(), finding.severity(), finding.repairable()), ("link-count", Severity::Error, true));
    }
}
