//! Checkpoint payloads: everything that is reachable hangs on one of the two newest.
//!
//! The byte table stands in section 3 of the format page.
//!
//! *Security*: a payload exists only after a slot authenticated, so a payload that does not decode is `Corrupt`.

use alloc::vec::Vec;

use super::alloc_entry::AllocEntry;
use super::block_ref::BlockRef;
use super::codec::{COUNTER_END, Decoded, ID_END, Reader, U48_END, Writer, count_u16, count_u32};
use super::epoch_page::ENTRIES_PER_EPOCH_PAGE;
use crate::suite::Tag;
use crate::types::{BlockAddr, EpochId, Generation, Lsn};

/// Bytes of the sealed payload.
pub const CHECKPOINT_LEN: usize = 4048;
/// Roots that a checkpoint can name.
pub const MAX_ROOTS: usize = 8;
/// Epoch pages that a checkpoint can name.
pub const MAX_EPOCH_PAGES: usize = 52;
/// Epochs that may be live at once.
pub const MAX_EPOCHS: u32 = 4096;
/// The highest level of a tree node.
pub const MAX_TREE_LEVEL: u8 = 12;
/// The tree of the system's records.
pub const SYSTEM_TREE: u32 = 0;
/// The tree of files.
pub const FILES_TREE: u32 = 1;

/// Generations are below: the next ones still fit the 48 bits that a birth has.
const GENERATION_END: u64 = U48_END / 2;
const FLAG_CLEAN: u16 = 1;
const FLAG_EPOCH_START: u16 = 2;
const ROOT_LEN: usize = 96;
const EPOCH_PAGE_REF_LEN: usize = 24;
const ROTATION_LEN: usize = 72;

/// The state of a volume at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Its number, from 1, below 2^47.
    pub generation: Generation,
    /// The salt of the slot that held the checkpoint before; zero for the first.
    pub previous_salt: [u8; 32],
    /// The first group that is not merged.
    pub log_start: Lsn,
    /// What that group binds as its previous tag.
    pub previous_tag: Tag,
    /// The log's epoch at its start.
    pub log_epoch: EpochId,
    /// Live epochs, at most [`MAX_EPOCHS`].
    pub epoch_count: u32,
    /// Written by an unmount: nothing follows in the log.
    pub clean: bool,
    /// The first group binds this slot's tag, and every longer log of before is refused.
    pub epoch_start: bool,
    /// Digests of the headers that this checkpoint accepts: one, or two during a change.
    pub accepted_headers: Vec<[u8; 32]>,
    /// Levels above the bitmaps, 1 to 4.
    pub alloc_levels: u8,
    /// The next inode or object number.
    pub next_id: u64,
    /// Clear bits of the allocation bitmaps.
    pub free_blocks: u64,
    /// Blocks promised without an address.
    pub unwritten_blocks: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Nodes of all trees.
    pub nodes: u64,
    /// What proves the allocation's root page.
    pub alloc_root: AllocEntry,
    /// The anchor that this volume was made for.
    pub anchor: AnchorBinding,
    /// The trees, with rising ids; at most [`MAX_ROOTS`].
    pub roots: Vec<TreeRoot>,
    /// The pages of the epoch table; at most [`MAX_EPOCH_PAGES`].
    pub epoch_pages: Vec<EpochPageRef>,
    /// The volume key was changed, and something that an epoch of the old one sealed is left.
    pub rotation: Option<Rotation>,
}

/// What is needed of the time before the volume key was changed. None of it is secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// The first epoch of the new key; those below are of the old one. Above 1.
    pub first_epoch: EpochId,
    /// The digest of the old header's immutable part: keys of old epochs derive with it.
    pub old_immutable_digest: [u8; 32],
    /// The digest of the old header: the last state of the old key is anchored with it.
    pub old_header_digest: [u8; 32],
}

/// A tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeRoot {
    /// Which tree: [`SYSTEM_TREE`] or [`FILES_TREE`].
    pub tree: u32,
    /// The root node's level; 0 for an empty tree.
    pub level: u8,
    /// The checkpoint that the tree was made in.
    pub birth: Generation,
    /// The tree that it was made from; 0 for none.
    pub parent: u32,
    /// The root node; `None` for an empty tree.
    pub reference: Option<BlockRef>,
}

/// Where a page of the epoch table lies and what proves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochPageRef {
    /// Its block.
    pub addr: BlockAddr,
    /// What proves it.
    pub tag: Tag,
}

/// When an anchor advances.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AnchorPolicy {
    /// There is no anchor.
    #[default]
    None,
    /// At every commit.
    Strict,
    /// At every checkpoint.
    Checkpoint,
}

/// What an anchor can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AnchorKind {
    /// There is no anchor.
    #[default]
    None,
    /// A counter and a digest of the state.
    ContentBound,
    /// A counter only.
    BareCounter,
}

/// Which anchor a volume belongs to. Policy and kind are `None` together; then the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AnchorBinding {
    /// When it advances.
    pub policy: AnchorPolicy,
    /// What it can hold.
    pub kind: AnchorKind,
    /// Its identity.
    pub identity: [u8; 32],
    /// Its counter when the checkpoint was written.
    pub counter: u64,
}

impl Checkpoint {
    /// The payload to be sealed. Panics if a field exceeds the range that its documentation states.
    pub fn encode(&self) -> [u8; CHECKPOINT_LEN] {
        assert!((1..=2).contains(&self.accepted_headers.len()), "accepted header digests");
        assert!(self.roots.len() <= MAX_ROOTS && self.epoch_pages.len() <= MAX_EPOCH_PAGES, "roots or epoch pages");
        let flags = (if self.clean { FLAG_CLEAN } else { 0 }) | (if self.epoch_start { FLAG_EPOCH_START } else { 0 });
        let mut out = Writer::with_capacity(CHECKPOINT_LEN);
        out.u64(self.generation.0).bytes(&self.previous_salt).u64(self.log_start.0).bytes(&self.previous_tag);
        out.u32(self.log_epoch.0).u32(self.epoch_count).u32(count_u32(self.epoch_pages.len())).u16(flags);
        out.u8(if self.accepted_headers.len() == 2 { 2 } else { 1 }).u8(self.alloc_levels);
        for digest in &self.accepted_headers {
            out.bytes(digest);
        }
        out.pad_to(144).u64(self.next_id).u64(self.free_blocks).u64(self.unwritten_blocks).u64(self.inodes);
        out.bytes(&self.alloc_root.encode_root());
        self.anchor.write(&mut out);
        out.u16(count_u16(self.roots.len())).zeros(6);
        for root in &self.roots {
            root.write(&mut out);
        }
        out.pad_to(280 + MAX_ROOTS * ROOT_LEN);
        for page in &self.epoch_pages {
            out.u48(page.addr.0).zeros(2).bytes(&page.tag);
        }
        out.pad_to(280 + MAX_ROOTS * ROOT_LEN + MAX_EPOCH_PAGES * 24).u64(self.nodes);
        if let Some(rotation) = &self.rotation {
            rotation.write(&mut out);
        }
        out.pad_to(CHECKPOINT_LEN);
        out.finish_array()
    }

    /// The value of an opened payload.
    pub fn decode(bytes: &[u8]) -> Decoded<Checkpoint> {
        let mut reader = Reader::new(bytes);
        let generation = Generation(reader.u64()?);
        if generation.0 == 0 || generation.0 >= GENERATION_END {
            return Err("generation");
        }
        let (previous_salt, log_start, previous_tag) = (reader.array()?, Lsn(reader.u64()?), reader.array()?);
        let (log_epoch, epoch_count, page_count) = (EpochId(reader.u32()?), reader.u32()?, reader.u32()?);
        let page_count = usize::try_from(page_count).ok().filter(|&count| count <= MAX_EPOCH_PAGES);
        let page_count = page_count.ok_or("epoch page count")?;
        if epoch_count > MAX_EPOCHS || epoch_count > count_u32(page_count * ENTRIES_PER_EPOCH_PAGE) {
            return Err("epoch count");
        }
        let flags = reader.u16()?;
        if flags & !(FLAG_CLEAN | FLAG_EPOCH_START) != 0 {
            return Err("checkpoint flags");
        }
        let (accepted_count, alloc_levels) = (reader.u8()?, reader.u8()?);
        if !(1..=4).contains(&alloc_levels) {
            return Err("allocation levels");
        }
        let accepted_headers = read_accepted(&mut reader, accepted_count)?;
        let (next_id, free_blocks) = (reader.u64()?, reader.u64()?);
        let (unwritten_blocks, inodes) = (reader.u64()?, reader.u64()?);
        let alloc_root = AllocEntry::decode_root(&reader.array()?)?;
        let anchor = AnchorBinding::read(&mut reader)?;
        let roots = read_roots(&mut reader)?;
        let epoch_pages = read_epoch_pages(&mut reader, page_count)?;
        let nodes = reader.u64()?;
        let rotation = Rotation::read(&mut reader)?;
        reader.zeros(1744 - ROTATION_LEN)?;
        reader.end()?;
        let counters = [log_start.0, free_blocks, unwritten_blocks, inodes, nodes, anchor.counter];
        if next_id >= ID_END || counters.iter().any(|&counter| counter >= COUNTER_END) {
            return Err("a counter that no volume reaches");
        }
        let (clean, epoch_start) = (flags & FLAG_CLEAN != 0, flags & FLAG_EPOCH_START != 0);
        #[rustfmt::skip]
        let checkpoint = Checkpoint {
            generation, previous_salt, log_start, previous_tag, log_epoch, epoch_count, clean, epoch_start,
            accepted_headers, alloc_levels, next_id, free_blocks, unwritten_blocks, inodes, nodes, alloc_root,
            anchor, roots, epoch_pages, rotation,
        };
        Ok(checkpoint)
    }

    /// The tree with this id.
    pub fn root(&self, tree: u32) -> Option<&TreeRoot> {
        self.roots.iter().find(|root| root.tree == tree)
    }
}

fn read_accepted(reader: &mut Reader<'_>, count: u8) -> Decoded<Vec<[u8; 32]>> {
    let (first, second) = (reader.array()?, reader.array()?);
    match count {
        1 if second == [0; 32] => Ok(alloc::vec![first]),
        2 => Ok(alloc::vec![first, second]),
        _ => Err("accepted header digests"),
    }
}

fn read_roots(reader: &mut Reader<'_>) -> Decoded<Vec<TreeRoot>> {
    let count = usize::from(reader.u16()?);
    reader.zeros(6)?;
    if count > MAX_ROOTS {
        return Err("root count");
    }
    let mut roots: Vec<TreeRoot> = Vec::with_capacity(count);
    for _ in 0..count {
        let root = TreeRoot::read(reader)?;
        if roots.last().is_some_and(|last| last.tree >= root.tree) {
            return Err("tree ids do not rise");
        }
        roots.push(root);
    }
    reader.zeros((MAX_ROOTS - count) * ROOT_LEN)?;
    Ok(roots)
}

fn read_epoch_pages(reader: &mut Reader<'_>, count: usize) -> Decoded<Vec<EpochPageRef>> {
    let mut pages = Vec::with_capacity(count);
    for _ in 0..count {
        let addr = BlockAddr(reader.u48()?);
        reader.zeros(2)?;
        pages.push(EpochPageRef { addr, tag: reader.array()? });
    }
    reader.zeros((MAX_EPOCH_PAGES - count) * EPOCH_PAGE_REF_LEN)?;
    Ok(pages)
}

impl TreeRoot {
    fn write(&self, out: &mut Writer) {
        out.u32(self.tree).u8(self.level).u8(u8::from(self.reference.is_some())).zeros(2);
        out.u48(self.birth.0).zeros(2).u32(self.parent).zeros(4);
        match &self.reference {
            Some(reference) => out.bytes(&reference.encode()),
            None => out.zeros(48),
        };
        out.zeros(24);
    }

    fn read(reader: &mut Reader<'_>) -> Decoded<TreeRoot> {
        let (tree, level, present) = (reader.u32()?, reader.u8()?, reader.u8()?);
        reader.zeros(2)?;
        let birth = Generation(reader.u48()?);
        reader.zeros(2)?;
        let parent = reader.u32()?;
        reader.zeros(4)?;
        let reference = match present {
            0 if level == 0 => reader.zeros(48).map(|()| None)?,
            1 if level <= MAX_TREE_LEVEL => Some(BlockRef::decode(&reader.array()?).ok_or("root reference")?),
            _ => return Err("root presence or level"),
        };
        reader.zeros(24)?;
        Ok(TreeRoot { tree, level, birth, parent, reference })
    }
}

impl Rotation {
    fn write(&self, out: &mut Writer) {
        out.u8(1).zeros(3).u32(self.first_epoch.0).bytes(&self.old_immutable_digest).bytes(&self.old_header_digest);
    }

    fn read(reader: &mut Reader<'_>) -> Decoded<Option<Rotation>> {
        match reader.u8()? {
            0 => reader.zeros(ROTATION_LEN - 1).map(|()| None),
            1 => {
                reader.zeros(3)?;
                let first_epoch = EpochId(reader.u32()?);
                if first_epoch.0 < 2 {
                    return Err("first epoch of the new key");
                }
                let (old_immutable_digest, old_header_digest) = (reader.array()?, reader.array()?);
                Ok(Some(Rotation { first_epoch, old_immutable_digest, old_header_digest }))
            }
            _ => Err("rotation presence"),
        }
    }
}

impl AnchorBinding {
    fn write(&self, out: &mut Writer) {
        let policy = match self.policy {
            AnchorPolicy::None => 0,
            AnchorPolicy::Strict => 1,
            AnchorPolicy::Checkpoint => 2,
        };
        let kind = match self.kind {
            AnchorKind::None => 0,
            AnchorKind::ContentBound => 1,
            AnchorKind::BareCounter => 2,
        };
        out.u8(policy).u8(kind).zeros(6).bytes(&self.identity).u64(self.counter);
    }

    fn read(reader: &mut Reader<'_>) -> Decoded<AnchorBinding> {
        let policy = match reader.u8()? {
            0 => AnchorPolicy::None,
            1 => AnchorPolicy::Strict,
            2 => AnchorPolicy::Checkpoint,
            _ => return Err("anchor policy"),
        };
        let kind = match reader.u8()? {
            0 => AnchorKind::None,
            1 => AnchorKind::ContentBound,
            2 => AnchorKind::BareCounter,
            _ => return Err("anchor kind"),
        };
        reader.zeros(6)?;
        let binding = AnchorBinding { policy, kind, identity: reader.array()?, counter: reader.u64()? };
        let none = (policy == AnchorPolicy::None, kind == AnchorKind::None);
        match none {
            (false, false) => Ok(binding),
            (true, true) if binding == AnchorBinding::default() => Ok(binding),
            _ => Err("anchor binding"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
