//! The whole visible state of a filesystem as a value, so that two states can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sefs::format::FileKind;
use sefs::types::Timestamp;

use crate::content::Print;

/// Everything that an observer sees of one name. Sizes of directories are the implementation's business and left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first path, in order, that leads to the same inode: equal for hard links and only for them.
    pub identity: Vec<u8>,
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
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Device number.
    pub rdev: u64,
    /// A symlink's target.
    pub target: Vec<u8>,
    /// What a regular file holds.
    pub print: Print,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Time of the last change of content.
    pub mtime: Timestamp,
    /// Time of the last change of anything.
    pub ctime: Timestamp,
    /// Time of creation.
    pub btime: Timestamp,
}

/// All names, by path. The root is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Vec<u8>, Entry>);

impl Tree {
    /// Sets the identity of all paths of one inode: the first of them.
    pub fn identify(&mut self, paths: &BTreeSet<Vec<u8>>) {
        let Some(first) = paths.first() else { return };
        for path in paths {
            if let Some(entry) = self.0.get_mut(path) {
                entry.identity = first.clone();
            }
        }
    }

    /// What is different in `other`, as text; empty if nothing is.
    pub fn difference(&self, other: &Tree) -> String {
        let mut text = String::new();
        for (path, entry) in &self.0 {
            let name = String::from_utf8_lossy(path);
            match other.0.get(path) {
                None => writeln!(text, "  {name}: missing").expect("a string grows"),
                Some(found) if found != entry => entry.describe(found, &name, &mut text),
                Some(_) => {}
            }
        }
        for path in other.0.keys().filter(|path| !self.0.contains_key(*path)) {
            writeln!(text, "  {}: should not be there", String::from_utf8_lossy(path)).expect("a string grows");
        }
        text
    }
}

impl Entry {
    fn describe(&self, found: &Entry, name: &str, text: &mut String) {
        let mut field = |field: &str, expected: String, found: String| {
            if expected != found {
                let cut = |text: String| text.chars().take(160).collect::<String>();
                writeln!(text, "  {name}: {field}: expected {}, found {}", cut(expected), cut(found))
                    .expect("a string grows");
            }
        };
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        field("identity", lossy(&self.identity), lossy(&found.identity));
        field("kind", format!("{:?}", self.kind), format!("{:?}", found.kind));
        field("mode", format!("{:o}", self.mode), format!("{:o}", found.mode));
        field("owner", format!("{}:{}", self.uid, self.gid), format!("{}:{}", found.uid, found.gid));
        field("links", self.links.to_string(), found.links.to_string());
        field("size", self.size.to_string(), found.size.to_string());
        field("rdev", self.rdev.to_string(), found.rdev.to_string());
        field("target", lossy(&self.target), lossy(&found.target));
        field("mtime", format!("{:?}", self.mtime), format!("{:?}", found.mtime));
        field("ctime", format!("{:?}", self.ctime), format!("{:?}", found.ctime));
        field("btime", format!("{:?}", self.btime), format!("{:?}", found.btime));
        field("xattrs", format!("{:?}", brief(&self.xattrs)), format!("{:?}", brief(&found.xattrs)));
        let wrong: Vec<u64> = self
            .print
            .keys()
            .chain(found.print.keys())
            .copied()
            .filter(|block| self.print.get(block) != found.print.get(block))
            .collect();
        field("blocks that differ", "[]".into(), format!("{wrong:?}"));
        if self.xattrs != found.xattrs && brief(&self.xattrs) == brief(&found.xattrs) {
            field("xattr values", "equal".into(), "different".into());
        }
    }
}

fn brief(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(String, usize)> {
    xattrs.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.len())).collect()
}
