//! The tree that archives make, layer over layer: kept in memory, with the content of files elsewhere.
//!
//! *Security*: no name leads anywhere but down from the root: "..", symbolic links and files on the way are refused, never
//! followed. What is kept is counted, and bounded.
//!
//! *Invariants*: a whiteout takes away what lower layers brought, and nothing of its own layer, wherever in the layer it stands
//! (OCI image specification, "Layer Filesystem Changeset"). A directory over a directory changes its attributes only; anything
//! else takes the place of what had its name.

use std::collections::BTreeMap;

use sefs::format::{FileKind, NAME_MAX, SYMLINK_MAX};
use sefs::types::Timestamp;

use super::refusal::Refusal;
use super::spool::Piece;
use crate::source::Attributes;

/// The tree.
pub(crate) struct Tree {
    nodes: Vec<Node>,
    layer: u32,
    kept_bytes: u64,
}

/// A node's place in the tree's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

impl NodeId {
    /// As an inode number: one for all names.
    pub(crate) fn number(self) -> u64 {
        self.0 as u64
    }
}

/// A file of any kind.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: NodeAttributes,
    pub(crate) body: Body,
    /// How many names it has.
    pub(crate) names: u64,
}

/// What all kinds have.
#[derive(Clone, Debug)]
pub(crate) struct NodeAttributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Attributes,
}

/// What it is, and what it holds.
#[derive(Debug)]
pub(crate) enum Body {
    /// Names in the order of their bytes.
    Directory(BTreeMap<Part, Child>),
    File {
        /// Bytes, holes included.
        size: u64,
        /// What is no hole, rising.
        pieces: Vec<Piece>,
    },
    Symlink(Vec<u8>),
    /// A fifo or a device node.
    Special {
        kind: FileKind,
        /// Device number.
        rdev: u64,
    },
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pub(crate) node: NodeId,
    /// The layer that has an entry for it.
    listed: u32,
    /// The last layer that has an entry for it or for anything below it.
    touched: u32,
}

/// A part of a name, between slashes.
pub(crate) type Part = Box<[u8]>;

/// A name as an archive has it, taken apart. The root has no parts.
pub(crate) struct Names(Vec<Part>);

impl Names {
    /// Slashes at its start and end and parts "." say nothing.
    pub(crate) fn parse(name: &[u8]) -> Result<Names, Refusal> {
        if name.contains(&0) {
            return Err(Refusal::Nul);
        }
        let parts: Vec<Part> =
            name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(Part::from).collect();
        if parts.iter().any(|part| **part == *b"..") {
            return Err(Refusal::ParentDirectory);
        }
        if parts.iter().any(|part| part.len() > NAME_MAX) {
            return Err(Refusal::NameTooLong);
        }
        let length: usize = parts.iter().map(|part| part.len() + 1).sum();
        if length > PATH_BYTES_MAX { Err(Refusal::PathTooLong) } else { Ok(Names(parts)) }
    }

    /// The last part, and those before it; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[Part], &[u8])> {
        self.0.split_last().map(|(last, before)| (before, &**last))
    }

    /// All parts.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.0
    }

    fn len_bytes(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64 + 1).sum()
    }
}

impl Tree {
    /// An empty root, in the lowest layer.
    pub(crate) fn new() -> Tree {
        Tree { nodes: vec![Node::unlisted_directory()], layer: 1, kept_bytes: 0 }
    }

    pub(crate) const ROOT: NodeId = NodeId(0);

    /// What comes now stands over all that is there.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Takes an entry in that has an inode of its own.
    pub(crate) fn put(&mut self, names: &Names, attributes: NodeAttributes, body: Body) -> Result<(), Refusal> {
        self.charge(names, &attributes, &body)?;
        if let Body::Symlink(target) = &body
            && (target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0))
        {
            return Err(Refusal::Target);
        }
        let is_directory = matches!(body, Body::Directory(_));
        let Some((before, name)) = names.split() else {
            self.nodes[Tree::ROOT.0].attributes = attributes;
            return if is_directory { Ok(()) } else { Err(Refusal::RootNotDirectory) };
        };
        let dir = self.make_way(before)?;
        let layer = self.layer;
        if let Some(child) = self.children(dir).get_mut(name)
            && is_directory
        {
            let node = child.node;
            (child.listed, child.touched) = (layer, layer);
            if matches!(self.nodes[node.0].body, Body::Directory(_)) {
                self.nodes[node.0].attributes = attributes;
                return Ok(());
            }
        }
        self.nodes.push(Node { attributes, body, names: 0 });
        self.name(dir, name, NodeId(self.nodes.len() - 1));
        Ok(())
    }

    /// Takes a hard link in.
    pub(crate) fn link(&mut self, names: &Names, target: &Names) -> Result<(), Refusal> {
        if names.parts() == target.parts() {
            return Err(Refusal::LinkToItself);
        }
        self.keep(ENTRY_BYTES + names.len_bytes())?;
        let (before, name) = names.split().ok_or(Refusal::RootNotDirectory)?;
        let node = self.find(target.parts())?.ok_or(Refusal::LinkToNothing)?;
        if matches!(self.nodes[node.0].body, Body::Directory(_)) {
            return Err(Refusal::LinkToDirectory);
        }
        let dir = self.make_way(before)?;
        // What loses its last name now keeps its content: it gets this one.
        self.nodes[node.0].names += 1;
        self.name(dir, name, node);
        self.nodes[node.0].names -= 1;
        Ok(())
    }

    /// Takes away what lower layers have under a name.
    pub(crate) fn white_out(&mut self, before: &[Part], name: &[u8]) -> Result<(), Refusal> {
        let Some(dir) = self.find(before)? else { return Ok(()) };
        let layer = self.layer;
        if !matches!(self.nodes[dir.0].body, Body::Directory(_)) {
            return Err(self.no_directory(dir));
        }
        let children = self.children(dir);
        match children.get(name).copied() {
            Some(child) if child.touched < layer => {
                children.remove(name);
                self.forget(child.node);
            }
            Some(child) => {
                if let Some(child) = children.get_mut(name) {
                    child.listed = layer;
                }
                self.hide_lower(child);
            }
            None => {}
        }
        Ok(())
    }

    /// Takes away all that lower layers have in a directory.
    pub(crate) fn make_opaque(&mut self, dir: &[Part]) -> Result<(), Refusal> {
        match self.find(dir)? {
            Some(dir) if matches!(self.nodes[dir.0].body, Body::Directory(_)) => {
                self.hide_lower(Child { node: dir, listed: self.layer, touched: self.layer });
                Ok(())
            }
            Some(other) => Err(self.no_directory(other)),
            None => Ok(()),
        }
    }

    /// Leaves of a directory what this layer has, at any depth. `top` itself stays; of its attributes those of lower layers
    /// do not.
    fn hide_lower(&mut self, top: Child) {
        let (layer, mut pending) = (self.layer, vec![top]);
        while let Some(Child { node, listed, .. }) = pending.pop() {
            if listed < layer {
                self.nodes[node.0].attributes = NodeAttributes::unlisted();
            }
            let Body::Directory(children) = &mut self.nodes[node.0].body else { continue };
            let mut gone = Vec::new();
            children.retain(|_, child| {
                let stays = child.touched >= layer;
                if stays {
                    pending.push(*child);
                    child.listed = layer;
                } else {
                    gone.push(child.node);
                }
                stays
            });
            gone.into_iter().for_each(|node| self.forget(node));
        }
    }

    /// Where a name leads, if it is there.
    fn find(&self, parts: &[Part]) -> Result<Option<NodeId>, Refusal> {
        let mut here = Tree::ROOT;
        for part in parts {
            let Body::Directory(children) = &self.nodes[here.0].body else { return Err(self.no_directory(here)) };
            match children.get(part) {
                Some(child) => here = child.node,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The directory that a name leads to; those that no entry has made yet are made.
    fn make_way(&mut self, parts: &[Part]) -> Result<NodeId, Refusal> {
        let (layer, mut here) = (self.layer, Tree::ROOT);
        for part in parts {
            let known = match self.children(here).get_mut(part) {
                Some(child) => {
                    child.touched = layer;
                    Some(child.node)
                }
                None => None,
            };
            here = match known {
                Some(node) if matches!(self.nodes[node.0].body, Body::Directory(_)) => node,
                Some(node) => return Err(self.no_directory(node)),
                None => {
                    self.keep(ENTRY_BYTES + part.len() as u64)?;
                    self.nodes.push(Node::unlisted_directory());
                    let made = NodeId(self.nodes.len() - 1);
                    self.name(here, part, made);
                    made
                }
            };
        }
        Ok(here)
    }

    fn no_directory(&self, node: NodeId) -> Refusal {
        match self.nodes[node.0].body {
            Body::Symlink(_) => Refusal::ThroughSymlink,
            _ => Refusal::ThroughFile,
        }
    }

    /// Gives a node a name, in place of whatever had it.
    fn name(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        let child = Child { node, listed: self.layer, touched: self.layer };
        self.nodes[node.0].names += 1;
        if let Some(old) = self.children(dir).insert(name.into(), child) {
            self.forget(old.node);
        }
    }

    /// Takes a name away from a node, and all below it with the last one.
    fn forget(&mut self, node: NodeId) {
        let mut pending = vec![node];
        while let Some(NodeId(at)) = pending.pop() {
            let node = &mut self.nodes[at];
            node.names -= 1;
            if node.names > 0 {
                continue;
            }
            node.attributes.xattrs = Vec::new();
            let gone = Body::Special { kind: FileKind::Fifo, rdev: 0 };
            if let Body::Directory(children) = std::mem::replace(&mut node.body, gone) {
                pending.extend(children.values().map(|child| child.node));
            }
        }
    }

    fn children(&mut self, dir: NodeId) -> &mut BTreeMap<Part, Child> {
        match &mut self.nodes[dir.0].body {
            Body::Directory(children) => children,
            _ => unreachable!("ways lead through directories only"),
        }
    }

    fn charge(&mut self, names: &Names, attributes: &NodeAttributes, body: &Body) -> Result<(), Refusal> {
        let xattrs: usize = attributes.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        let body = match body {
            Body::File { pieces, .. } => pieces.len() * size_of::<Piece>(),
            Body::Symlink(target) => target.len(),
            _ => 0,
        };
        self.keep(ENTRY_BYTES + names.len_bytes() + (xattrs + body) as u64)
    }

    /// Counts what is kept in memory. What is replaced counts too: a bound need not be exact.
    pub(crate) fn keep(&mut self, len_bytes: u64) -> Result<(), Refusal> {
        self.kept_bytes += len_bytes;
        if self.kept_bytes > KEPT_BYTES_MAX { Err(Refusal::TooManyEntries) } else { Ok(()) }
    }
}

impl Node {
    /// A directory that is there because something below it is.
    fn unlisted_directory() -> Node {
        Node { attributes: NodeAttributes::unlisted(), body: Body::Directory(BTreeMap::new()), names: 0 }
    }
}

impl NodeAttributes {
    fn unlisted() -> NodeAttributes {
        let time = Timestamp::default();
        NodeAttributes { mode: 0o755, uid: 0, gid: 0, atime: time, mtime: time, xattrs: Vec::new() }
    }
}

/// The longest path that a manifest takes. It bounds the depth too.
const PATH_BYTES_MAX: usize = 4096;
/// What an entry takes besides its name, some 200 bytes here and 500 in the packer.
const ENTRY_BYTES: u64 = 256;
/// 8 million entries with names of ordinary length.
const KEPT_BYTES_MAX: u64 = 2 << 30;
