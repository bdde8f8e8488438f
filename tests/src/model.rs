//! POSIX as plain maps: what every operation must do, without blocks, logs or crashes.
//!
//! The caller is always the superuser; permission rules have their own tests. A refusal names every error number that
//! the rules allow, for where two rules are broken at once the standards leave the order open.

use std::collections::{BTreeMap, BTreeSet};

use sefs::error::Posix;
use sefs::format::FileKind;
use sefs::types::Timestamp;

use crate::content::Content;
use crate::tree::{Entry, Tree};

/// A node's number in the model; the volume has its own.
pub type Id = u64;
/// What an operation returns, or every errno it may return instead.
pub type Outcome<T> = Result<T, &'static [Posix]>;

/// The root directory.
pub const ROOT: Id = 1;
/// Longest name.
pub const NAME_MAX: usize = 255;
/// Longest value of an extended attribute.
pub const XATTR_MAX: usize = 65_536;

/// One inode.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count.
    pub links: u32,
    /// Device number.
    pub rdev: u64,
    /// A symlink's target.
    pub target: Vec<u8>,
    /// A regular file's bytes.
    pub content: Content,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A directory's names.
    pub entries: BTreeMap<Vec<u8>, Id>,
    /// A directory's parent.
    pub parent: Id,
    /// How often it is held open.
    pub open: u32,
    /// Made without a name and never linked: the only kind of inode without links that may get one.
    pub nameless: bool,
    /// Last change of content.
    pub mtime: i64,
    /// Last change.
    pub ctime: i64,
    /// Creation.
    pub btime: i64,
}

/// What a new inode is to be.
#[derive(Clone, Debug)]
pub struct New {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Device number.
    pub rdev: u64,
    /// A symlink's target.
    pub target: Vec<u8>,
}

/// What happens to a taken name in a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renaming {
    /// It is replaced.
    Replace,
    /// The rename is refused.
    NoReplace,
    /// The two are exchanged.
    Exchange,
}

/// What fallocate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Space is promised.
    Allocate {
        /// The size stays.
        keep_size: bool,
    },
    /// The range becomes a hole.
    Punch,
    /// The range becomes zeros.
    Zero {
        /// The size stays.
        keep_size: bool,
    },
    /// The range is cut out, or a gap opened: refused.
    Shift,
}

/// What setting an extended attribute demands of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSetting {
    /// Nothing.
    Any,
    /// There must be none.
    Create,
    /// There must be one.
    Replace,
}

/// The filesystem.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: BTreeMap<Id, Node>,
    next: Id,
    /// The time of the next operation.
    pub now: i64,
}

impl Model {
    /// An empty filesystem, made at time `now`.
    pub fn new(now: i64, root_mode: u32) -> Model {
        let new = New { kind: FileKind::Directory, mode: root_mode, rdev: 0, target: Vec::new() };
        let mut model = Model { nodes: BTreeMap::new(), next: ROOT, now };
        let root = model.insert(&new, ROOT);
        model.node_mut(root).links = 2;
        model
    }

    /// A node that exists.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    /// Whether a node exists.
    pub fn exists(&self, id: Id) -> bool {
        self.nodes.contains_key(&id)
    }

    /// All nodes, the nameless too.
    pub fn ids(&self) -> Vec<Id> {
        self.nodes.keys().copied().collect()
    }

    /// All directories that have a name, the root included.
    pub fn directories(&self) -> Vec<Id> {
        let named = |node: &Node| node.kind == FileKind::Directory && node.links > 0;
        self.nodes.iter().filter(|(_, node)| named(node)).map(|(id, _)| *id).collect()
    }

    /// Blocks that file contents take or were promised.
    pub fn used_blocks(&self) -> u64 {
        self.nodes.values().map(|node| node.content.used_blocks()).sum()
    }

    /// What a name leads to.
    pub fn lookup(&self, dir: Id, name: &[u8]) -> Outcome<Id> {
        check_name(name)?;
        self.directory(dir)?.entries.get(name).copied().ok_or(&[Posix::NotFound])
    }

    /// Makes a node with a name.
    pub fn make(&mut self, dir: Id, name: &[u8], new: &New) -> Outcome<Id> {
        check_name(name)?;
        self.vacant(dir, name)?;
        if new.kind == FileKind::Symlink && new.target.is_empty() {
            return Err(&[Posix::NotFound, Posix::InvalidArgument]);
        }
        let id = self.insert(new, dir);
        if new.kind == FileKind::Directory {
            self.node_mut(id).links = 2;
            self.node_mut(dir).links += 1;
        } else {
            self.node_mut(id).links = 1;
        }
        self.enter(dir, name, id);
        Ok(id)
    }

    /// Makes a regular file without a name; it is held open once.
    pub fn make_tmpfile(&mut self, dir: Id, new: &New) -> Outcome<Id> {
        self.directory(dir)?;
        let id = self.insert(new, dir);
        let node = self.node_mut(id);
        node.open = 1;
        node.nameless = true;
        Ok(id)
    }

    /// Gives a node one more name.
    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Outcome<()> {
        check_name(name)?;
        let node = self.node(id);
        let taken = self.directory(dir)?.entries.contains_key(name);
        let is_dir = node.kind == FileKind::Directory;
        let gone = node.links == 0 && !node.nameless;
        match (taken, is_dir, gone) {
            (false, false, false) => {}
            (true, false, false) => return Err(&[Posix::Exists]),
            (false, true, false) => return Err(&[Posix::NotPermitted]),
            (false, false, true) => return Err(&[Posix::NotFound, Posix::Stale]),
            _ => return Err(&[Posix::Exists, Posix::NotPermitted, Posix::NotFound, Posix::Stale]),
        }
        let now = self.now;
        let node = self.node_mut(id);
        node.links += 1;
        node.nameless = false;
        node.ctime = now;
        self.enter(dir, name, id);
        Ok(())
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Outcome<()> {
        let id = self.lookup(dir, name)?;
        if self.node(id).kind == FileKind::Directory {
            return Err(&[Posix::IsDirectory, Posix::NotPermitted]);
        }
        self.leave(dir, name);
        self.drop_link(id);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Outcome<()> {
        let id = self.lookup(dir, name)?;
        let node = self.node(id);
        if node.kind != FileKind::Directory {
            return Err(&[Posix::NotDirectory]);
        }
        if !node.entries.is_empty() {
            return Err(&[Posix::NotEmpty]);
        }
        self.leave(dir, name);
        self.node_mut(dir).links -= 1;
        self.drop_directory(id);
        Ok(())
    }

    /// Moves a name.
    pub fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), mode: Renaming) -> Outcome<()> {
        if check_name(from.1).and(check_name(to.1)).is_err() {
            return Err(&[Posix::NameTooLong, Posix::NotFound]);
        }
        let source = self.lookup(from.0, from.1)?;
        let target = self.directory(to.0)?.entries.get(to.1).copied();
        self.check_rename(source, from.0, target, to.0, mode)?;
        match target {
            Some(target) if target == source => return Ok(()),
            Some(target) if mode == Renaming::Exchange => self.exchange((from, source), (to, target)),
            target => self.replace((from, source), to, target),
        }
        Ok(())
    }

    fn check_rename(&self, source: Id, from: Id, target: Option<Id>, to: Id, mode: Renaming) -> Outcome<()> {
        match (mode, target) {
            (Renaming::NoReplace, Some(_)) if self.is_below(to, source) => {
                return Err(&[Posix::Exists, Posix::InvalidArgument]);
            }
            (Renaming::NoReplace, Some(_)) => return Err(&[Posix::Exists]),
            (Renaming::Exchange, None) if self.is_below(to, source) => {
                return Err(&[Posix::NotFound, Posix::InvalidArgument]);
            }
            (Renaming::Exchange, None) => return Err(&[Posix::NotFound]),
            _ => {}
        }
        if self.is_below(to, source) {
            return Err(&[Posix::InvalidArgument]);
        }
        let Some(target) = target else { return Ok(()) };
        let is_dir = |id: Id| self.node(id).kind == FileKind::Directory;
        if self.is_below(from, target) {
            return match (mode, is_dir(source)) {
                (Renaming::Exchange, _) => Err(&[Posix::InvalidArgument]),
                (_, true) => Err(&[Posix::NotEmpty]),
                (_, false) => Err(&[Posix::NotEmpty, Posix::IsDirectory]),
            };
        }
        if source == target || mode == Renaming::Exchange {
            return Ok(());
        }
        match (is_dir(source), is_dir(target)) {
            (true, false) => Err(&[Posix::NotDirectory]),
            (false, true) => Err(&[Posix::IsDirectory]),
            (true, true) if !self.node(target).entries.is_empty() => Err(&[Posix::NotEmpty]),
            _ => Ok(()),
        }
    }

    fn replace(&mut self, (from, source): ((Id, &[u8]), Id), to: (Id, &[u8]), target: Option<Id>) {
        let is_dir = self.node(source).kind == FileKind::Directory;
        self.leave(from.0, from.1);
        if let Some(target) = target {
            self.leave(to.0, to.1);
            if is_dir {
                self.node_mut(to.0).links -= 1;
                self.drop_directory(target);
            } else {
                self.drop_link(target);
            }
        }
        self.enter(to.0, to.1, source);
        if is_dir {
            self.node_mut(from.0).links -= 1;
            self.node_mut(to.0).links += 1;
            self.node_mut(source).parent = to.0;
        }
        self.touch_change(source);
    }

    fn exchange(&mut self, (from, source): ((Id, &[u8]), Id), (to, target): ((Id, &[u8]), Id)) {
        self.enter(from.0, from.1, target);
        self.enter(to.0, to.1, source);
        for (id, old_dir, new_dir) in [(source, from.0, to.0), (target, to.0, from.0)] {
            if self.node(id).kind == FileKind::Directory {
                self.node_mut(old_dir).links -= 1;
                self.node_mut(new_dir).links += 1;
                self.node_mut(id).parent = new_dir;
            }
            self.touch_change(id);
        }
    }

    /// Writes; the caller says how much of it the volume took.
    pub fn write(&mut self, id: Id, offset: u64, data: &[u8]) {
        self.node_mut(id).content.write(offset, data);
        if !data.is_empty() {
            self.touch_content(id);
        }
    }

    /// Sets a file's size.
    pub fn truncate(&mut self, id: Id, size: u64) -> Outcome<()> {
        self.regular(id)?;
        self.node_mut(id).content.truncate(size);
        self.touch_content(id);
        Ok(())
    }

    /// fallocate.
    pub fn allocate(&mut self, id: Id, offset: u64, len: u64, mode: Allocation) -> Outcome<()> {
        self.regular(id)?;
        if len == 0 {
            return Err(&[Posix::InvalidArgument]);
        }
        let content = &mut self.node_mut(id).content;
        let end = offset + len;
        match mode {
            Allocation::Allocate { keep_size } | Allocation::Zero { keep_size } => {
                if matches!(mode, Allocation::Zero { .. }) {
                    content.clear(offset, len);
                }
                content.promise(offset, len);
                if !keep_size && end > content.size() {
                    content.truncate(end);
                }
            }
            Allocation::Punch => content.clear(offset, len),
            Allocation::Shift => return Err(&[Posix::NotSupported]),
        }
        self.touch_content(id);
        Ok(())
    }

    /// Copies; the caller says how much the volume copied.
    pub fn copy_range(&mut self, from: (Id, u64), to: (Id, u64), len: u64) {
        let data = self.node(from.0).content.read(from.1, len);
        self.write(to.0, to.1, &data);
    }

    /// Sets permission bits.
    pub fn set_mode(&mut self, id: Id, mode: u32) {
        self.node_mut(id).mode = mode;
        self.touch_change(id);
    }

    /// Sets the owner; on a file this takes set-user-id and set-group-id away.
    pub fn set_owner(&mut self, id: Id, uid: u32, gid: u32) {
        let node = self.node_mut(id);
        (node.uid, node.gid) = (uid, gid);
        if node.kind != FileKind::Directory {
            node.mode &= !0o4000;
            if node.mode & 0o010 != 0 {
                node.mode &= !0o2000;
            }
        }
        self.touch_change(id);
    }

    /// Sets the time of the last change of content.
    pub fn set_mtime(&mut self, id: Id, mtime: i64) {
        self.node_mut(id).mtime = mtime;
        self.touch_change(id);
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], setting: XattrSetting) -> Outcome<()> {
        let node = self.node(id);
        if value.len() > XATTR_MAX {
            return Err(&[Posix::TooLong, Posix::Exists, Posix::NoAttribute, Posix::NotPermitted]);
        }
        let user_may = matches!(node.kind, FileKind::Regular | FileKind::Directory);
        if name.starts_with(b"user.") && !user_may {
            return Err(&[Posix::NotPermitted]);
        }
        match (setting, node.xattrs.contains_key(name)) {
            (XattrSetting::Create, true) => return Err(&[Posix::Exists]),
            (XattrSetting::Replace, false) => return Err(&[Posix::NoAttribute]),
            _ => {}
        }
        self.node_mut(id).xattrs.insert(name.to_vec(), value.to_vec());
        self.touch_change(id);
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Outcome<()> {
        let node = self.node_mut(id);
        let user_may = matches!(node.kind, FileKind::Regular | FileKind::Directory);
        if node.xattrs.remove(name).is_none() {
            let strict = name.starts_with(b"user.") && !user_may;
            return Err(if strict { &[Posix::NotPermitted, Posix::NoAttribute] } else { &[Posix::NoAttribute] });
        }
        self.touch_change(id);
        Ok(())
    }

    /// Holds a node open.
    pub fn acquire(&mut self, id: Id) {
        self.node_mut(id).open += 1;
    }

    /// Lets a node go; without links it is gone.
    pub fn release(&mut self, id: Id) {
        self.node_mut(id).open -= 1;
        self.reap(id);
    }

    /// Nothing is open any more, as after a remount.
    pub fn close_all(&mut self) {
        self.nodes.values_mut().for_each(|node| node.open = 0);
        self.nodes.retain(|_, node| node.links > 0);
    }

    /// The whole visible state.
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        let mut seen: BTreeMap<Id, BTreeSet<Vec<u8>>> = BTreeMap::new();
        self.walk(ROOT, Vec::new(), &mut seen, &mut tree);
        seen.values().for_each(|paths| tree.identify(paths));
        tree
    }

    fn walk(&self, id: Id, path: Vec<u8>, seen: &mut BTreeMap<Id, BTreeSet<Vec<u8>>>, tree: &mut Tree) {
        let node = self.node(id);
        seen.entry(id).or_default().insert(path.clone());
        let time = |seconds: i64| Timestamp { seconds, nanoseconds: 0 };
        let size = match node.kind {
            FileKind::Regular => node.content.size(),
            FileKind::Symlink => node.target.len() as u64,
            _ => 0,
        };
        let entry = Entry {
            identity: Vec::new(),
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            links: node.links,
            size,
            rdev: node.rdev,
            target: node.target.clone(),
            print: node.content.print(),
            xattrs: node.xattrs.clone(),
            mtime: time(node.mtime),
            ctime: time(node.ctime),
            btime: time(node.btime),
        };
        tree.0.insert(path.clone(), entry);
        for (name, child) in &node.entries {
            self.walk(*child, join(&path, name), seen, tree);
        }
    }

    /// Whether `id` is `top` or lies below it.
    fn is_below(&self, mut id: Id, top: Id) -> bool {
        while id != top && id != ROOT {
            id = self.node(id).parent;
        }
        id == top
    }

    fn regular(&self, id: Id) -> Outcome<()> {
        match self.node(id).kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory => Err(&[Posix::IsDirectory, Posix::InvalidArgument]),
            _ => Err(&[Posix::InvalidArgument]),
        }
    }

    fn directory(&self, dir: Id) -> Outcome<&Node> {
        let node = self.node(dir);
        match node.kind {
            FileKind::Directory if node.links == 0 => Err(&[Posix::NotFound, Posix::Stale]),
            FileKind::Directory => Ok(node),
            _ => Err(&[Posix::NotDirectory]),
        }
    }

    fn vacant(&self, dir: Id, name: &[u8]) -> Outcome<()> {
        let taken = self.directory(dir)?.entries.contains_key(name);
        if taken { Err(&[Posix::Exists]) } else { Ok(()) }
    }

    fn insert(&mut self, new: &New, parent: Id) -> Id {
        let id = self.next;
        self.next += 1;
        let from = self.nodes.get(&parent);
        let inherits = from.is_some_and(|dir| dir.mode & 0o2000 != 0);
        let gid = if inherits { from.map_or(0, |dir| dir.gid) } else { 0 };
        let directory = new.kind == FileKind::Directory;
        let node = Node {
            kind: new.kind,
            mode: new.mode | if inherits && directory { 0o2000 } else { 0 },
            uid: 0,
            gid,
            links: 0,
            rdev: new.rdev,
            target: new.target.clone(),
            content: Content::default(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            parent,
            open: 0,
            nameless: false,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
        };
        self.nodes.insert(id, node);
        id
    }

    fn enter(&mut self, dir: Id, name: &[u8], id: Id) {
        self.node_mut(dir).entries.insert(name.to_vec(), id);
        self.touch_content(dir);
    }

    fn leave(&mut self, dir: Id, name: &[u8]) {
        self.node_mut(dir).entries.remove(name);
        self.touch_content(dir);
    }

    fn drop_link(&mut self, id: Id) {
        self.node_mut(id).links -= 1;
        self.touch_change(id);
        self.reap(id);
    }

    fn drop_directory(&mut self, id: Id) {
        self.node_mut(id).links = 0;
        self.touch_change(id);
        self.reap(id);
    }

    fn reap(&mut self, id: Id) {
        let node = self.node(id);
        if node.links == 0 && node.open == 0 {
            self.nodes.remove(&id);
        }
    }

    fn touch_content(&mut self, id: Id) {
        let now = self.now;
        let node = self.node_mut(id);
        (node.mtime, node.ctime) = (now, now);
    }

    fn touch_change(&mut self, id: Id) {
        let now = self.now;
        self.node_mut(id).ctime = now;
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("the model only names nodes that it has")
    }
}

/// A path and a name below it.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn check_name(name: &[u8]) -> Outcome<()> {
    if name.len() > NAME_MAX { Err(&[Posix::NameTooLong]) } else { Ok(()) }
}
