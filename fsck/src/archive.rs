//! Trees out of archives, for `mkfs.sefs --from-tar` and `--from-oci`: merged in memory, handed over as a walk over a
//! directory would.
//!
//! ```text
//! oci ─► Archive ─► member ─► pax          spool: the content of files
//!           └─► tree                       decoder: gzip, zstd
//! ```
//! *Security*: archives are hostile. What is refused ends the making of the image with a line that names the entry (see
//! [`refusal::Refusal`]); nothing is written but the spool; memory is bounded by what [`tree::Tree`] counts, and content never is in
//! memory as a whole.
//!
//! *Invariants*: [`Archive::walk`] keeps those of [`crate::source`]. The order is that of the paths, not of the archive.

mod decoder;
mod member;
pub(crate) mod oci;
mod pax;
mod refusal;
mod spool;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{HashSet, btree_map};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use sefs::format::FileKind;

use self::decoder::decoded;
use self::member::{Member, MemberKind, TarReader};
use self::refusal::{Refusal, Refused};
use self::spool::{Piece, Spool};
use self::tree::{Body, Child, Names, Node, NodeAttributes, Part, Tree};
use crate::names::escaped;
use crate::report::Failure;
use crate::source::{Entry, FileId, Item, READ_BYTES, Unreadable};

/// A tree that was read from archives.
pub(crate) struct Archive {
    name: PathBuf,
    tree: Tree,
    spool: Spool,
    holes_bytes: u64,
    left_out: u64,
}

/// What to tell while archives are read.
pub(crate) struct Watch<'a> {
    /// Set when it is to end.
    pub(crate) stop: &'a AtomicBool,
    /// Called with bytes of the archives as they were read.
    pub(crate) read: &'a mut dyn FnMut(u64),
    /// Called with what is left out: one line.
    pub(crate) warn: &'a mut dyn FnMut(String),
}

/// Whether an archive stands alone or over others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Names that begin with `.wh.` are names.
    Alone,
    /// They are whiteouts.
    Layer,
}

impl Archive {
    /// Reads the tar stream `file`; `-` is standard input. Content waits in a file without a name in `spool`.
    pub(crate) fn of_tar(file: &Path, spool: &Path, watch: &mut Watch<'_>) -> Result<Archive, Failure> {
        let mut archive = Archive::new(file, spool)?;
        let from: Box<dyn Read> =
            if file == Path::new("-") {
                Box::new(io::stdin().lock())
            } else {
                Box::new(File::open(file).map_err(|error| {
                    Failure::io(file, &error).way_out("name a tar archive, or - for standard input")
                })?)
            };
        let from = Watched { from, stop: watch.stop, read: &mut *watch.read };
        let from = Box::new(BufReader::with_capacity(BUFFER_BYTES, from));
        let applied = archive.apply(from, Role::Alone, watch.stop, &mut *watch.warn);
        applied.map_err(|refused| archive.failure(file, refused, watch.stop))?;
        archive.finish()
    }

    fn new(name: &Path, spool: &Path) -> Result<Archive, Failure> {
        let made = Spool::new(spool);
        let spool = made.map_err(|error| Failure::io(spool, &error).way_out("check its permissions and its space"))?;
        Ok(Archive { name: name.to_path_buf(), tree: Tree::new(), spool, holes_bytes: 0, left_out: 0 })
    }

    fn finish(mut self) -> Result<Archive, Failure> {
        self.spool.flush().map_err(|error| self.no_room(&error))?;
        Ok(self)
    }

    /// For messages: what was read.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// Entries of types that nothing is known of.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Merges one archive over what is there.
    fn apply(
        &mut self,
        from: Box<dyn BufRead + '_>,
        role: Role,
        stop: &AtomicBool,
        warn: &mut dyn FnMut(String),
    ) -> Result<(), Refused> {
        let whole = |why: Refusal| why.of(b"");
        let mut reader = TarReader::new(decoded(from).map_err(whole)?);
        self.tree.next_layer();
        while let Some(mut member) = reader.next()? {
            if stop.load(Ordering::Relaxed) {
                return Err(whole(Refusal::Interrupted));
            }
            let name = std::mem::take(&mut member.name);
            self.take(&name, member, &mut reader, role, warn).map_err(|why| why.of(&name))?;
        }
        Ok(())
    }

    fn take<R: Read>(
        &mut self,
        name: &[u8],
        member: Member,
        reader: &mut TarReader<R>,
        role: Role,
        warn: &mut dyn FnMut(String),
    ) -> Result<(), Refusal> {
        let names = Names::parse(name)?;
        if role == Role::Layer && self.is_whiteout(&names, warn)? {
            return Ok(());
        }
        if member.text_acl {
            warn(format!("{}: its access control list is in text form, which is not read; left out", escaped(name)));
        }
        let attributes = NodeAttributes {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            atime: member.atime.unwrap_or(member.mtime),
            mtime: member.mtime,
            xattrs: member.xattrs,
        };
        let special = |kind, rdev| Body::Special { kind, rdev };
        let body = match member.kind {
            MemberKind::HardLink(target) => return self.tree.link(&names, &Names::parse(&target)?),
            MemberKind::Unknown(letter) => {
                self.left_out += 1;
                let letter = escaped(&[letter]);
                warn(format!("{}: an entry of type '{letter}', of which nothing is known; left out", escaped(name)));
                return Ok(());
            }
            MemberKind::File { size, map } => self.content(size, map, reader)?,
            MemberKind::Symlink(target) => Body::Symlink(target),
            MemberKind::Directory => Body::Directory(btree_map::BTreeMap::new()),
            MemberKind::Fifo => special(FileKind::Fifo, 0),
            MemberKind::CharDevice => special(FileKind::CharDevice, member.rdev),
            MemberKind::BlockDevice => special(FileKind::BlockDevice, member.rdev),
        };
        self.tree.put(&names, attributes, body)
    }

    /// Applies a whiteout. `false`: it is none.
    fn is_whiteout(&mut self, names: &Names, warn: &mut dyn FnMut(String)) -> Result<bool, Refusal> {
        let Some((before, name)) = names.split() else { return Ok(false) };
        if before.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(Refusal::Whiteout);
        }
        match name.strip_prefix(WHITEOUT) {
            None => return Ok(false),
            Some(b"" | b"." | b"..") => return Err(Refusal::Whiteout),
            Some(OPAQUE) => self.tree.make_opaque(before)?,
            Some(hidden) if hidden.starts_with(WHITEOUT) => {
                self.left_out += 1;
                warn(format!("{}: a mark of AUFS for itself; left out", escaped(name)));
            }
            Some(hidden) => self.tree.white_out(before, hidden)?,
        }
        Ok(true)
    }

    /// Puts a file's content into the spool.
    fn content<R: Read>(
        &mut self,
        size: u64,
        map: Option<Vec<(u64, u64)>>,
        reader: &mut TarReader<R>,
    ) -> Result<Body, Refusal> {
        let map = map.unwrap_or_else(|| vec![(0, size)]);
        let data_bytes: u64 = map.iter().map(|(_, length)| length).sum();
        self.holes_bytes = self.holes_bytes.saturating_add(size - data_bytes);
        if self.holes_bytes > HOLE_BYTES_MAX {
            return Err(Refusal::Holes);
        }
        let (mut pieces, mut buffer) = (Vec::new(), vec![0; PIECE_BYTES]);
        for (start, length) in map {
            let mut offset = start;
            while offset < start + length {
                let left = usize::try_from(start + length - offset).unwrap_or(usize::MAX).min(PIECE_BYTES);
                let mut filled = 0;
                while filled < left {
                    match reader.read(&mut buffer[filled..left])? {
                        0 => return Err(Refusal::Truncated),
                        count => filled += count,
                    }
                }
                self.spool.append(&mut pieces, offset, &buffer[..filled]).map_err(Refusal::Spool)?;
                offset += filled as u64;
            }
        }
        Ok(Body::File { size, pieces })
    }

    /// Hands every step over, as [`crate::source::walk`] does; content only if it is wanted.
    pub(crate) fn walk(&self, contents: bool, emit: &mut dyn FnMut(Item) -> ControlFlow<()>) -> Result<(), Unreadable> {
        let mut walk = Walk { archive: self, contents, emit, stack: Vec::new(), seen: HashSet::new() };
        match walk.run() {
            Ok(()) | Err(Stop::Asked) => Ok(()),
            Err(Stop::Unreadable(what)) => Err(what),
        }
    }

    fn failure(&self, file: &Path, refused: Refused, stop: &AtomicBool) -> Failure {
        let Refused { entry, why } = refused;
        let why = if stop.load(Ordering::Relaxed) { Refusal::Interrupted } else { why };
        if let Refusal::Spool(error) = &why {
            return self.no_room(error);
        }
        let file = escaped(file.as_os_str().as_bytes());
        let thing = if entry.is_empty() { file } else { format!("{file}: {}", shown(&entry)) };
        let way_out = why.way_out();
        Failure::new(thing, why).way_out(way_out)
    }

    fn no_room(&self, error: &io::Error) -> Failure {
        Failure::io(self.spool.directory(), error).way_out("the content waits there until it is packed: make room")
    }
}

/// Bytes of a hole cost nothing but the time to hash them.
const HOLE_BYTES_MAX: u64 = 1 << 40;
/// Content is looked at in pieces of so many bytes; those of zeros alone become holes.
const PIECE_BYTES: usize = 64 << 10;
const BUFFER_BYTES: usize = 1 << 20;
/// What the names of whiteouts begin with.
const WHITEOUT: &[u8] = b".wh.";
/// What is left of an opaque directory's mark.
const OPAQUE: &[u8] = b".wh..opq";

/// A name for one line of a message.
fn shown(name: &[u8]) -> String {
    const BYTES: usize = 256;
    match name.get(..BYTES) {
        Some(start) => format!("{}…", escaped(start)),
        None => escaped(name),
    }
}

/// Counts what is read, and ends when it is to.
struct Watched<'a, R> {
    from: R,
    stop: &'a AtomicBool,
    read: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let count = self.from.read(out)?;
        (self.read)(count as u64);
        Ok(count)
    }
}

enum Stop {
    Asked,
    Unreadable(Unreadable),
}

struct Walk<'a> {
    archive: &'a Archive,
    contents: bool,
    emit: &'a mut dyn FnMut(Item) -> ControlFlow<()>,
    stack: Vec<btree_map::Iter<'a, Part, Child>>,
    seen: HashSet<u64>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), Stop> {
        self.visit(b"", 0, self.archive.tree.node(Tree::ROOT))?;
        while let Some(directory) = self.stack.last_mut() {
            match directory.next() {
                Some((name, child)) => self.visit(name, child.node.number(), self.archive.tree.node(child.node))?,
                None => {
                    self.stack.pop();
                    self.send(Item::Leave)?;
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, name: &[u8], number: u64, node: &'a Node) -> Result<(), Stop> {
        let entry = entry(name, number, node);
        if node.names > 1 && !self.seen.insert(number) {
            return self.send(Item::Link { name: entry.name, of: entry.id });
        }
        match &node.body {
            Body::Directory(children) => {
                self.stack.push(children.iter());
                self.send(Item::Enter(entry))
            }
            Body::File { size, pieces } => {
                self.send(Item::File(entry))?;
                if self.contents { self.content(*size, pieces) } else { Ok(()) }
            }
            Body::Symlink(target) => self.send(Item::Symlink(entry, target.clone())),
            Body::Special { .. } => self.send(Item::Special(entry)),
        }
    }

    fn content(&mut self, size: u64, pieces: &[Piece]) -> Result<(), Stop> {
        for piece in pieces {
            let (mut offset, end) = (piece.offset, piece.offset + piece.len_bytes);
            while offset < end {
                let stop = ((offset / READ_BYTES + 1) * READ_BYTES).min(end);
                let bytes = self.read(piece.at + (offset - piece.offset), stop - offset)?;
                self.send(Item::Data { offset, bytes })?;
                offset = stop;
            }
        }
        self.send(Item::End { size })
    }

    fn read(&self, at: u64, len_bytes: u64) -> Result<Vec<u8>, Stop> {
        let spool = &self.archive.spool;
        let length = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        spool.read(at, length).map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Stop::Unreadable(Unreadable { path: spool.directory().to_path_buf(), errno })
        })
    }

    fn send(&mut self, item: Item) -> Result<(), Stop> {
        match (self.emit)(item) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Asked),
        }
    }
}

fn entry(name: &[u8], number: u64, node: &Node) -> Entry {
    let (kind, size, rdev) = match &node.body {
        Body::Directory(_) => (FileKind::Directory, 0, 0),
        Body::File { size, .. } => (FileKind::Regular, *size, 0),
        Body::Symlink(target) => (FileKind::Symlink, target.len() as u64, 0),
        Body::Special { kind, rdev } => (*kind, 0, *rdev),
    };
    let data_bytes = match &node.body {
        Body::File { pieces, .. } => pieces.iter().map(|piece| piece.len_bytes).sum(),
        _ => 0,
    };
    let NodeAttributes { mode, uid, gid, atime, mtime, ref xattrs } = node.attributes;
    Entry {
        name: name.to_vec(),
        id: FileId { device: 0, inode: number },
        kind,
        mode,
        uid,
        gid,
        size,
        data_bytes,
        links: node.names,
        rdev,
        atime,
        mtime,
        ctime: None,
        btime: None,
        xattrs: xattrs.clone(),
    }
}
