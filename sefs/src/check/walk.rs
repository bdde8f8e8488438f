//! The walk over a tree: its nodes, its records with the log's changes over them, and their data blocks.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::files::Files;
use super::image::{Image, is_born};
use super::log::{Replay, ring_addr};
use super::records::{Merged, Overlay, Stored};
use super::space::Space;
use super::{Finding, Loss, Report};
use crate::error::{Corrupt, Error, Result, Tampered};
use crate::format::{BlockLoc, BlockState, Chunk, FileKind, Inode, Key, Kind, SYSTEM_TREE, SpaceRecord};
use crate::node::Node;
use crate::store::{GivenUp, Lowers, NodeName};
use crate::tree::{self, Place, Visitor};
use crate::types::{BLOCK_SIZE, BlockAddr, ObjectId};

/// Walks one tree.
pub(super) fn tree(
    image: &Image,
    tree: u32,
    replay: &Replay,
    scrub: bool,
    space: &mut Space,
    files: &mut Files,
    report: &mut Report<'_>,
) -> Result<GivenUp> {
    let system = tree == SYSTEM_TREE;
    let (overlay, path, given_up) = (Overlay::new(replay, system), Vec::new(), GivenUp::default());
    let below = Below::new(&image.lowers, system);
    let mut walk =
        Walk { image, replay, system, scrub, below, owner: None, overlay, space, files, path, given_up, report };
    tree::walk(image, image.root(tree), &mut walk)?;
    walk.below(None);
    while let Some((key, merged)) = walk.overlay.before(None) {
        walk.merged(key, &merged);
    }
    walk.space.end_object(walk.files.incomplete, walk.report);
    if system {
        walk.files.end_system();
    }
    Ok(walk.given_up)
}

struct Walk<'a, 'b, 'on> {
    image: &'a Image,
    replay: &'a Replay,
    system: bool,
    scrub: bool,
    below: Below<'a>,
    /// The inode whose number is being seen.
    owner: Option<(u64, Inode)>,
    overlay: Overlay<'a>,
    space: &'b mut Space,
    files: &'b mut Files,
    /// The inner nodes down to where the walk stands: level, place and nonce.
    path: Vec<(u8, NodeName)>,
    given_up: GivenUp,
    report: &'b mut Report<'on>,
}

impl Visitor for Walk<'_, '_, '_> {
    fn enter(&mut self, place: &Place) -> Result<bool> {
        let reference = &place.reference;
        self.report.progress(self.image.node_blocks());
        if !is_born(reference.birth, self.image.checkpoint.generation, false) {
            self.report.found(Finding::Birth { addr: reference.addr, birth: reference.birth });
        }
        let new = self.space.node(self.image, reference, self.report);
        if new && self.image.given_up.contains(&reference.addr) {
            self.given_up.nodes.insert((reference.addr, reference.nonce));
            let above = self.path.iter().filter(|(level, _)| *level > place.level);
            self.given_up.above.extend(above.map(|(_, name)| *name));
            return Ok(false);
        }
        self.files.incomplete |= !new;
        Ok(new)
    }

    fn node(&mut self, place: &Place, node: core::result::Result<&Node, &Error>) -> Result<()> {
        let addr = place.reference.addr;
        match node {
            Ok(node) => {
                self.report.summary.nodes += 1;
                self.path.retain(|(level, _)| *level > place.level);
                self.path.push((place.level, (addr, place.reference.nonce)));
                if place.level == 0 {
                    (0..node.len()).for_each(|i| self.stored(node.key(i), node.value(i)));
                }
                return Ok(());
            }
            Err(error) => self.report.found(node_finding(place, error)?),
        }
        self.files.incomplete = true;
        Ok(())
    }
}

impl Walk<'_, '_, '_> {
    /// A record of the volume's own tree.
    fn stored(&mut self, key: Key, value: &[u8]) {
        self.below(Some(key));
        if (key.object == 0) != self.system {
            return self.report.found(misplaced(key));
        }
        self.below.skip(key);
        match key.kind {
            Kind::Extent => match Chunk::decode(value) {
                Ok(chunk) => self.chunk(key, &chunk),
                Err(why) => self.report.found(corrupt(key, why)),
            },
            _ => {
                let says_none = value.is_empty() && self.image.lowers.may_have(key.object);
                self.value(key, (!says_none).then_some(value), true);
            }
        }
    }

    /// The records of images below that stand before `key`, which the volume itself says nothing of; all that are left without a
    /// key.
    fn below(&mut self, until: Option<Key>) {
        loop {
            let (key, value) = match self.below.before(until) {
                Ok(Some(record)) => record,
                Ok(None) => return,
                Err(error) => return self.lose_below(error),
            };
            match key.kind {
                Kind::Extent => self.chunk(key, &Chunk::default()),
                _ => self.value(key, Some(&value), false),
            }
        }
    }

    /// Whether a record of an image is looked at: what hangs on a number is through the inode that has it, and content through
    /// the inode whose content it is. A volume that hides an inode of an image, or gives it other content, hides the rest with it.
    fn shows(&self, key: Key) -> bool {
        let owner = self.owner.as_ref().filter(|(number, _)| *number == key.object).map(|(_, inode)| inode);
        match key.kind {
            Kind::Inode => true,
            Kind::DirEntry => owner.is_some_and(|inode| inode.kind() == FileKind::Directory),
            Kind::Xattr => owner.is_some(),
            _ => owner.is_some_and(|inode| inode.object == ObjectId(key.object)),
        }
    }

    fn lose_below(&mut self, error: Error) {
        self.report.found(Finding::BelowUnreadable { error });
        self.files.incomplete = true;
        self.below.lose();
    }

    /// A record that is no chunk, or that one of an image is not there.
    fn value(&mut self, key: Key, value: Option<&[u8]>, is_own: bool) {
        self.logged_before(key);
        if let (Kind::Space, Some(value)) = (key.kind, value) {
            match SpaceRecord::decode(value) {
                Ok(record) => self.space.record(key, record, self.files.incomplete, self.report),
                Err(why) => return self.report.found(corrupt(key, why)),
            }
        }
        let merged = self.overlay.over(key, value.filter(|_| is_own || self.shows(key)).map(Stored::Value));
        if key.kind == Kind::Inode {
            let inode = match &merged {
                Some(Merged::Value(bytes)) => Inode::decode(bytes).ok(),
                Some(Merged::Chunk(_)) | None => None,
            };
            self.owner = inode.map(|inode| (key.object, inode));
        }
        if let Some(merged) = merged {
            self.merged(key, &merged);
        }
    }

    /// The volume's own chunk, which may say nothing, over what images have.
    fn chunk(&mut self, key: Key, own: &Chunk) {
        self.logged_before(key);
        let below = if self.below.lost { Ok(Chunk::default()) } else { self.image.lowers.chunk(key) };
        let whole = match below {
            Ok(below) => own.over(&below),
            Err(error) => return self.lose_below(error),
        };
        if own.hides_some() && !self.image.lowers.may_have(key.object) {
            return self.report.found(corrupt(key, "holes over an image that is not there"));
        }
        // A space record counts what is put together, looked at or not.
        self.space.chunk(self.image, key, (own, &whole), self.files.incomplete, self.report);
        let content = if self.shows(key) { whole } else { own.over(&Chunk::default()) };
        let stored = (!content.is_empty()).then_some(Stored::Chunk(&content));
        if let Some(merged) = self.overlay.over(key, stored) {
            self.merged(key, &merged);
        }
    }

    /// What only the log has and stands before `key`.
    fn logged_before(&mut self, key: Key) {
        while let Some((key, merged)) = self.overlay.before(Some(key)) {
            self.merged(key, &merged);
        }
    }

    fn merged(&mut self, key: Key, merged: &Merged<'_>) {
        match merged {
            Merged::Value(value) => self.files.record(key, value, self.report),
            Merged::Chunk(chunk) => {
                let content = self.files.chunk(key, chunk, self.report);
                if content {
                    self.report.summary.data_blocks += u64::from(chunk.data_blocks());
                    if self.scrub {
                        self.scrub(key, chunk);
                    }
                }
            }
        }
    }

    /// Reads a chunk's data blocks, neighbours at once.
    fn scrub(&mut self, key: Key, chunk: &Chunk) {
        let mut run: Vec<(u64, BlockLoc, BlockAddr)> = Vec::new();
        for (index, state) in chunk.iter() {
            let BlockState::Data(loc) = state else { continue };
            // What images have is for their own check.
            if state.is_below() || !self.image.is_usable(loc.addr, 1) {
                continue;
            }
            let place = self.replay.ring.get(&loc.addr).map_or(loc.addr, |lsn| ring_addr(self.image, *lsn));
            if run.last().is_some_and(|(_, _, last)| last.0 + 1 != place.0) {
                self.scrub_run(key, &run);
                run.clear();
            }
            run.push((key.block_number(index), loc, place));
        }
        self.scrub_run(key, &run);
    }

    fn scrub_run(&mut self, key: Key, run: &[(u64, BlockLoc, BlockAddr)]) {
        let Some(&(first, _, addr)) = run.first() else { return };
        let object = ObjectId(key.object);
        self.report.progress(u64::try_from(run.len()).unwrap_or(0));
        let bytes = match self.image.read_bytes(addr, run.len() * BLOCK_SIZE) {
            Ok(bytes) => bytes,
            // One bad block must not hide its neighbours.
            Err(_) if run.len() > 1 => return run.chunks(1).for_each(|one| self.scrub_run(key, one)),
            Err(failure) => {
                let loss = Some(Loss::data_block(object, first));
                return self.report.found(Finding::Unreadable { addr, errno: failure.errno, loss });
            }
        };
        for (sealed, &(block, loc, _)) in bytes.chunks_exact(BLOCK_SIZE).zip(run) {
            self.report.summary.scrubbed_blocks += 1;
            match self.image.open_block(&loc, sealed) {
                None => self.report.found(Finding::DataTampered { addr: loc.addr, object, block }),
                Some(plain) => {
                    let tail = self.files.bytes_in_block(block);
                    if tail.is_some_and(|used| plain[used..].iter().any(|&byte| byte != 0)) {
                        self.report.found(Finding::TailNotZero { object });
                    }
                }
            }
        }
    }
}

/// The records of the images below, a page at a time.
struct Below<'a> {
    lowers: &'a Lowers,
    page: VecDeque<(Key, Vec<u8>)>,
    /// Where the next page begins.
    from: Option<Key>,
    /// One of them could not be read.
    lost: bool,
}

/// Records of a page.
const PAGE: usize = 256;

impl<'a> Below<'a> {
    fn new(lowers: &'a Lowers, system: bool) -> Below<'a> {
        Below { lowers, page: VecDeque::new(), from: (!system).then_some(Key::MIN), lost: false }
    }

    /// The next record, if it stands before `key`.
    fn before(&mut self, key: Option<Key>) -> Result<Option<(Key, Vec<u8>)>> {
        if self.page.is_empty()
            && let Some(from) = self.from
        {
            self.page = self.lowers.scan(from, Key::MAX, PAGE)?.into();
            self.from = self.page.back().filter(|_| self.page.len() == PAGE).and_then(|(last, _)| last.successor());
        }
        let before = self.page.front().is_some_and(|(next, _)| key.is_none_or(|key| *next < key));
        Ok(if before { self.page.pop_front() } else { None })
    }

    /// The volume itself has the record that stands here.
    fn skip(&mut self, key: Key) {
        if self.page.front().is_some_and(|(next, _)| *next == key) {
            self.page.pop_front();
        }
    }

    fn lose(&mut self) {
        self.page.clear();
        (self.from, self.lost) = (None, true);
    }
}

/// What it means that a node cannot be had. `Err` is what keeps the check from going on.
pub(super) fn node_finding(place: &Place, error: &Error) -> Result<Finding> {
    let addr = place.reference.addr;
    let (from, to) = objects_below(place);
    Ok(match error {
        Error::Tampered(Tampered::Node { addr, level }) => {
            Finding::NodeTampered { addr: *addr, level: *level, from, to }
        }
        Error::Corrupt(Corrupt::UnknownEpoch(epoch)) => Finding::UnknownEpoch { epoch: *epoch, addr },
        Error::Corrupt(Corrupt::Node(addr, why)) => Finding::NodeCorrupt { addr: *addr, why, from, to },
        Error::Corrupt(Corrupt::NodeLevel(addr)) => Finding::NodeCorrupt { addr: *addr, why: "its level", from, to },
        Error::Backend(failure) => Finding::Unreadable { addr, errno: failure.errno, loss: Some(Loss::Node { addr }) },
        other => return Err(other.clone()),
    })
}

/// The objects that may have records below a node.
fn objects_below(place: &Place) -> (ObjectId, ObjectId) {
    let to = place.upper.map_or(u64::MAX, |upper| {
        if upper == Key::new(upper.object, Kind::Inode, 0) { upper.object.saturating_sub(1) } else { upper.object }
    });
    (ObjectId(place.lower.map_or(0, |lower| lower.object)), ObjectId(to))
}

/// A record that does not decode.
pub(super) fn corrupt(key: Key, why: &'static str) -> Finding {
    Finding::RecordCorrupt { object: ObjectId(key.object), kind: key.kind.into(), why }
}

/// A record where none of its kind belongs.
pub(super) fn misplaced(key: Key) -> Finding {
    Finding::RecordMisplaced { object: ObjectId(key.object), kind: key.kind.into(), offset: key.offset }
}
