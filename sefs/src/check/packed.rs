//! The check of a packed image: its tree, its files, with `scrub` its data, and that no block of it belongs to nothing.
//!
//! Header, root block, length and padding are checked where an image is opened; what is left is that every block behind is
//! exactly one node, or data that something refers to.
//!
//! *Memory*: one bit for each block that something refers to, and what [`Files`] keeps.

use alloc::sync::Arc;

use super::files::Files;
use super::space::Seen;
use super::walk::{corrupt, misplaced, node_finding};
use super::{CheckOptions, Finding, Loss, Report, Stage, store_options};
use crate::backend::Backend;
use crate::env::Env;
use crate::error::{Corrupt, Error, Result, Tampered};
use crate::format::{
    BlockLoc, BlockRef, BlockState, Chunk, ImageType, Key, Kind, PACKED_DATA_ADDR, ProofKind, SpaceRecord,
};
use crate::keys::VolumeKey;
use crate::node::Node;
use crate::sealer::{OpenFailure, PACKED_EPOCH};
use crate::store::{Admitted, PACKED_IDS_END, admit};
use crate::suite::Nonce;
use crate::tree::{self, NodeReader, Place, Root, Visitor};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, Generation, ObjectId};

/// Checks a packed image. Errors are those that keep it from looking.
pub(super) fn check(
    backend: Arc<dyn Backend>,
    key: Option<&VolumeKey>,
    options: &CheckOptions,
    env: &Env,
    report: &mut Report<'_>,
) -> Result<()> {
    let admitted = match admit(&*backend, key, &store_options(options), env) {
        Ok(admitted) => admitted,
        Err(error @ (Error::Tampered(_) | Error::Corrupt(_))) => {
            report.found(Finding::Unmountable { error });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let image = Image::new(backend, admitted);
    let (nodes, data) = (image.admitted.root.nodes, image.admitted.root.data_blocks);
    report.stage(Stage::Trees, nodes * image.node_blocks + if options.scrub { data } else { 0 });
    let files = Files::new(env.suite.clone(), PACKED_IDS_END);
    let mut walk = Walk { image: &image, scrub: options.scrub, files, used: Used::default(), object: None, report };
    let root = Root { reference: image.admitted.root.root, level: image.admitted.root.level };
    tree::walk(&image, Some(root), &mut walk)?;
    walk.end_object();
    let Walk { files, used, report, .. } = walk;
    if files.incomplete {
        report.found(Finding::Incomplete {});
    } else {
        used.compare(nodes, image.data_end, report);
    }
    files.finish(image.admitted.root.inodes, report);
    Ok(())
}

/// An image, read by the check's own means.
struct Image {
    backend: Arc<dyn Backend>,
    admitted: Admitted,
    node_size: usize,
    node_blocks: u64,
    nodes_start: u64,
    data_end: u64,
}

impl Image {
    fn new(backend: Arc<dyn Backend>, admitted: Admitted) -> Image {
        let node_blocks = u64::from(admitted.header.node_size_bytes) / BLOCK_SIZE_U64;
        let data_end = PACKED_DATA_ADDR.0 + admitted.root.data_blocks;
        // A header states one of three sizes.
        let node_size = usize::try_from(admitted.header.node_size_bytes).unwrap_or(BLOCK_SIZE);
        let nodes_start = data_end.next_multiple_of(node_blocks);
        Image { backend, admitted, node_size, node_blocks, nodes_start, data_end }
    }

    fn is_node(&self, addr: BlockAddr) -> bool {
        let end = self.admitted.header.total_blocks;
        addr.0 >= self.nodes_start && addr.0 < end && (addr.0 - self.nodes_start).is_multiple_of(self.node_blocks)
    }

    fn is_data(&self, addr: BlockAddr) -> bool {
        (PACKED_DATA_ADDR.0..self.data_end).contains(&addr.0)
    }

    /// What a reference of this image holds beside its address and proof.
    fn is_plain(&self, epoch: crate::types::EpochId, birth: Generation) -> bool {
        epoch == PACKED_EPOCH && birth == Generation(0)
    }

    /// The nonce of an encrypted image's block is its address; a public one's counts from zero in each run.
    fn is_nonce(&self, nonce: &Nonce, addr: BlockAddr) -> bool {
        match self.admitted.header.image {
            ImageType::Public => nonce[..8] == [0; 8],
            ImageType::Packed | ImageType::Volume => *nonce == crate::pack::nonce_of(addr),
        }
    }
}

impl NodeReader for Image {
    fn read(&self, level: u8, reference: &BlockRef) -> Result<Arc<Node>> {
        let addr = reference.addr;
        let mut bytes = self.backend.read_at(addr.0 * BLOCK_SIZE_U64, self.node_size)?.bytes().to_vec();
        self.admitted.sealer.open_node(level, reference, &mut bytes).map_err(|failure| match failure {
            OpenFailure::UnknownEpoch(epoch) => Error::from(Corrupt::UnknownEpoch(epoch)),
            OpenFailure::Auth => Tampered::Node { addr, level }.into(),
        })?;
        let node = Node::decode_as(bytes, level, self.node_size, ProofKind::Digest);
        node.map(Arc::new).map_err(|why| Corrupt::Node(addr, why).into())
    }
}

/// Blocks that something refers to.
#[derive(Default)]
struct Used {
    data: Seen,
    nodes: Seen,
    node_count: u64,
}

impl Used {
    /// A node is named; false if it was before.
    fn add_node(&mut self, addr: BlockAddr) -> bool {
        let new = self.nodes.add(addr);
        self.node_count += u64::from(new);
        new
    }

    fn compare(&self, nodes: u64, data_end: u64, report: &mut Report<'_>) {
        if self.node_count != nodes {
            report.found(Finding::NodeCount { stored: nodes, found: self.node_count });
        }
        let mut at = PACKED_DATA_ADDR.0;
        while at < data_end {
            let used = self.data.next(at, data_end, true);
            if used > at {
                report.found(Finding::Unreferred { addr: BlockAddr(at), blocks: used - at });
            }
            at = self.data.next(used, data_end, false);
        }
    }
}

struct Walk<'a, 'on> {
    image: &'a Image,
    scrub: bool,
    files: Files,
    used: Used,
    /// The object whose chunks are being seen, and its blocks so far.
    object: Option<(ObjectId, u64)>,
    report: &'a mut Report<'on>,
}

impl Visitor for Walk<'_, '_> {
    fn enter(&mut self, place: &Place) -> Result<bool> {
        let BlockRef { addr, epoch, birth, nonce, .. } = place.reference;
        self.report.progress(self.image.node_blocks);
        let is_sound = self.image.is_node(addr);
        if !is_sound {
            self.report.found(Finding::Address { addr });
        } else if !self.image.is_plain(epoch, birth) || !self.image.is_nonce(&nonce, addr) {
            self.report.found(Finding::NotCanonical { addr });
        }
        let new = is_sound && self.used.add_node(addr);
        if is_sound && !new {
            self.report.found(Finding::ReferredTwice { addr });
        }
        self.files.incomplete |= !new;
        Ok(new)
    }

    fn node(&mut self, place: &Place, node: core::result::Result<&Node, &Error>) -> Result<()> {
        match node {
            Ok(node) => {
                self.report.summary.nodes += 1;
                if place.level == 0 {
                    (0..node.len()).for_each(|i| self.record(node.key(i), node.value(i)));
                }
            }
            Err(error) => {
                self.report.found(node_finding(place, error)?);
                self.files.incomplete = true;
            }
        }
        Ok(())
    }
}

impl Walk<'_, '_> {
    fn record(&mut self, key: Key, value: &[u8]) {
        match key.kind {
            _ if key.object == 0 => self.report.found(misplaced(key)),
            Kind::Extent => match Chunk::decode_as(value, ProofKind::Digest) {
                Ok(chunk) => self.chunk(key, &chunk),
                Err(why) => self.report.found(corrupt(key, why)),
            },
            Kind::Space => {
                match SpaceRecord::decode(value) {
                    Ok(record) => self.space(ObjectId(key.object), record.data_blocks),
                    Err(why) => self.report.found(corrupt(key, why)),
                }
                self.files.record(key, value, self.report);
            }
            _ => self.files.record(key, value, self.report),
        }
    }

    fn chunk(&mut self, key: Key, chunk: &Chunk) {
        let object = ObjectId(key.object);
        if self.object.is_none_or(|(current, _)| current != object) {
            self.end_object();
            self.object = Some((object, 0));
        }
        if !self.files.chunk(key, chunk, self.report) {
            return;
        }
        for (index, state) in chunk.iter() {
            let BlockState::Data(loc) = state else {
                self.report.found(corrupt(key, "a promised block"));
                continue;
            };
            if let Some((_, used)) = &mut self.object {
                *used += 1;
            }
            self.block(key, index, &loc);
        }
    }

    fn block(&mut self, key: Key, index: u8, loc: &BlockLoc) {
        let addr = loc.addr;
        if !self.image.is_data(addr) {
            return self.report.found(Finding::Address { addr });
        }
        if !self.image.is_plain(loc.epoch, loc.birth) || !self.image.is_nonce(&loc.nonce, addr) {
            self.report.found(Finding::NotCanonical { addr });
        }
        self.used.data.add(addr);
        self.report.summary.data_blocks += 1;
        if self.scrub {
            self.scrub_block(ObjectId(key.object), key.block_number(index), loc);
        }
    }

    fn scrub_block(&mut self, object: ObjectId, block: u64, loc: &BlockLoc) {
        let addr = loc.addr;
        self.report.progress(1);
        let read = self.image.backend.read_at(addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE);
        let mut plain = [0; BLOCK_SIZE];
        match read {
            Ok(buf) => plain.copy_from_slice(buf.bytes()),
            Err(failure) => {
                let loss = Some(Loss::data_block(object, block));
                return self.report.found(Finding::Unreadable { addr, errno: failure.errno, loss });
            }
        }
        self.report.summary.scrubbed_blocks += 1;
        if self.image.admitted.sealer.open_data(loc, &mut plain).is_err() {
            return self.report.found(Finding::DataTampered { addr, object, block });
        }
        let tail = self.files.bytes_in_block(block);
        if tail.is_some_and(|used| plain[used..].iter().any(|&byte| byte != 0)) {
            self.report.found(Finding::TailNotZero { object });
        }
    }

    fn space(&mut self, object: ObjectId, stored: u64) {
        let found = self.object.take_if(|(current, _)| *current == object).map_or(0, |(_, used)| used);
        if stored != found && !self.files.incomplete {
            self.report.found(Finding::Space { object, stored, found });
        }
    }

    /// No more chunks of the object follow, nor its space record.
    fn end_object(&mut self) {
        if let Some((object, found)) = self.object.take()
            && found > 0
            && !self.files.incomplete
        {
            self.report.found(Finding::Space { object, stored: 0, found });
        }
    }
}
