//! The builder of packed images: read-only, as small as their content and the tree.
//!
//! ```text
//! Packer ─► names (inode numbers)
//!        ─► blocks (deduplication, placing, sealing) ─► spread (threads)
//!        ─► tree (bottom-up) ─► records
//!        ─► finish (content digest, root block, header)
//! ```
//! Content goes out as it comes, in the order in which it comes; records stay in memory until the end: some 500 bytes for an
//! inode and, of the content, 3 % (addresses, digests, what deduplication knows).
//!
//! *Security*: an address is sealed once, under keys that are this image's alone, so its nonce is the address. The header comes
//! last: what was not finished is no image. A public image has no keys at all.
//!
//! *Invariants*: blocks of zeros are holes; equal blocks are stored once, unless told otherwise; data stand side by side from
//! [`PACKED_DATA_ADDR`](crate::format::PACKED_DATA_ADDR), nodes behind them, the root last; all else is zero. The same calls give
//! the same bytes.

mod blocks;
mod finish;
mod names;
mod records;
mod spread;
#[cfg(test)]
mod tests;
mod tree;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub(crate) use self::blocks::nonce_of;
use self::blocks::{Blocks, Cipher, Placed};
pub use self::finish::reproducible_salt;
use self::names::PathHash;
use crate::backend::Backend;
use crate::env::Env;
use crate::error::{Invalid, Posix, Result};
use crate::format::{
    Digest, DirEntryRecord, FileKind, Header, INLINE_FILE_MAX, ImageType, Inode, InodeFlags, Key, KeySlot, Kind,
    MAX_FILE_SIZE, MAX_KEY_SLOTS, MAX_LABEL_LEN, MAX_SLOT_BODY, NAME_DISCRIMINATORS, NAME_MAX, SYMLINK_MAX, name_hash,
    name_key,
};
use crate::keys::{Keyring, VolumeKey};
use crate::suite::Suite;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, InodeNo, ObjectId, Timestamp};
use crate::vfs::{LINK_MAX, given_attribute};

/// Bytes of a tree node of packed images.
pub(crate) const NODE_SIZE_BYTES: u32 = 16_384;

/// How to build.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// A name for people, at most 64 bytes.
    pub label: String,
    /// Equal blocks are stored once; in an encrypted image the host can see which are.
    pub dedup: bool,
    /// Threads that hash and seal; 1 where there are none.
    pub threads: usize,
}

/// What is built, and where it goes.
pub enum Output {
    /// Nothing is written; for the content's digest.
    Measure(ImageType),
    /// A public image.
    Public {
        /// Where it goes; grown as needed, empty or all zeros before.
        backend: Arc<dyn Backend>,
        /// Its id; otherwise it follows from the content.
        volume_id: Option<[u8; 16]>,
    },
    /// An encrypted image.
    Sealed {
        /// Where it goes; grown as needed, empty or all zeros before.
        backend: Arc<dyn Backend>,
        /// The volume key.
        key: VolumeKey,
        /// Its id.
        volume_id: [u8; 16],
        /// The wrapped volume keys.
        slots: Vec<KeySlot>,
        /// Fresh random bytes; or [`reproducible_salt`] of the content's digest, and nothing else.
        salt: [u8; 32],
        /// The content's digest as it was measured: anything else is `Invalid::ContentChanged`, and no image.
        measured: Option<Digest>,
    },
}

/// Attributes of an inode to be stored.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Its type.
    pub kind: FileKind,
    /// Permission bits (0o7777); of a symlink always 0o777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Device number, for devices.
    pub rdev: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Where a symlink points.
    pub target: Vec<u8>,
}

/// A finished image, or the measure of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSummary {
    /// Names the complete plaintext, the layout, the label, the image type and this builder's version.
    pub content_digest: Digest,
    /// What pins the image; `None` if nothing was written.
    pub root_digest: Option<Digest>,
    /// The image's id; zeros if nothing was written.
    pub volume_id: [u8; 16],
    /// Its exact length in bytes.
    pub size_bytes: u64,
    /// Data blocks, each counted once.
    pub data_blocks: u64,
    /// Data blocks that were there already.
    pub shared_blocks: u64,
    /// Tree nodes.
    pub nodes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Builds a packed image: the root first, every directory before what is in it, one file at a time.
pub struct Packer {
    suite: Arc<dyn Suite>,
    output: Output,
    options: PackOptions,
    blocks: Blocks,
    inodes: BTreeMap<u64, Stored>,
    open: Option<OpenFile>,
    keyring: Option<Keyring>,
}

/// What is kept of an inode.
struct Stored {
    inode: Inode,
    /// The content of a small file, or where a symlink points.
    inline: Vec<u8>,
    /// Keys and values of the records of extended attributes.
    xattrs: BTreeMap<u64, Vec<u8>>,
    /// Blocks of the content and their addresses, rising.
    content: Vec<(u64, BlockAddr)>,
    directory: Option<Box<Directory>>,
}

struct Directory {
    path: PathHash,
    entries: BTreeMap<u64, DirEntryRecord>,
}

/// The file whose content is coming in.
struct OpenFile {
    ino: InodeNo,
    dir: InodeNo,
    entry_key: u64,
    /// The block that `bytes` holds.
    block: u64,
    bytes: Box<[u8; BLOCK_SIZE]>,
    end: u64,
}

impl Packer {
    /// Starts an image. Nothing of it counts before [`Packer::finish`] has returned.
    pub fn new(output: Output, options: PackOptions, env: &Env) -> Result<Packer> {
        if options.label.len() > MAX_LABEL_LEN || options.label.contains('\0') {
            return Err(Invalid::Label.into());
        }
        let (mut keyring, mut cipher, mut backend) = (None, None, None);
        match &output {
            Output::Measure(_) => {}
            Output::Public { backend: to, .. } => backend = Some(to.clone()),
            Output::Sealed { backend: to, key, volume_id, slots, salt, .. } => {
                if slots.len() > MAX_KEY_SLOTS || slots.iter().any(|slot| slot.body.len() > MAX_SLOT_BODY) {
                    return Err(Invalid::KeySlots.into());
                }
                // The keys bind what never changes of the header; its length is not known yet.
                let header = new_header(&output, &options, *volume_id, crate::format::PACKED_DATA_ADDR.0);
                let (_, verified) = key.seal_header(&*env.suite, &header);
                let ring = Keyring::new(env.suite.clone(), key, &verified);
                cipher = Some(Cipher::new(&ring, salt));
                (keyring, backend) = (Some(ring), Some(to.clone()));
            }
        }
        let blocks = Blocks::new(env.suite.clone(), backend, cipher, &options);
        let suite = env.suite.clone();
        Ok(Packer { suite, output, options, blocks, inodes: BTreeMap::new(), open: None, keyring })
    }

    /// Stores the root directory.
    pub fn make_root(&mut self, entry: &NewEntry) -> Result<InodeNo> {
        if entry.kind != FileKind::Directory || !self.inodes.is_empty() {
            return Err(Posix::InvalidArgument.into());
        }
        let mut inode = inode_of(InodeNo::ROOT, entry);
        inode.parent = InodeNo::ROOT;
        let path = PathHash::root(&*self.suite);
        self.inodes.insert(InodeNo::ROOT.0, Stored::new(inode, Vec::new(), Some(path)));
        Ok(InodeNo::ROOT)
    }

    /// Stores an inode under a name that `dir` does not have. Of a regular file the content follows, until it is ended or
    /// abandoned.
    pub fn make(&mut self, dir: InodeNo, name: &[u8], entry: &NewEntry) -> Result<InodeNo> {
        if self.open.is_some() {
            return Err(Posix::Busy.into());
        }
        check_target(entry)?;
        let path = self.directory(dir)?.path.child(&*self.suite, name);
        let key = self.free_entry_key(dir, name)?;
        let ino = InodeNo(path.number(|number| self.inodes.contains_key(&number)));
        let mut inode = inode_of(ino, entry);
        if entry.kind == FileKind::Directory {
            inode.parent = dir;
        }
        let inline = if entry.kind == FileKind::Symlink { entry.target.clone() } else { Vec::new() };
        inode.size = inline.len() as u64;
        self.add_name(dir, key, name, ino, entry.kind)?;
        let path = (entry.kind == FileKind::Directory).then_some(path);
        self.inodes.insert(ino.0, Stored::new(inode, inline, path));
        if entry.kind == FileKind::Regular {
            let bytes = Box::new([0; BLOCK_SIZE]);
            self.open = Some(OpenFile { ino, dir, entry_key: key, block: 0, bytes, end: 0 });
        }
        Ok(ino)
    }

    /// Gives what is no directory another name.
    pub fn link(&mut self, dir: InodeNo, name: &[u8], ino: InodeNo) -> Result<()> {
        let key = self.free_entry_key(dir, name)?;
        let stored = self.stored(ino)?;
        let kind = stored.inode.kind();
        if kind == FileKind::Directory {
            return Err(Posix::NotPermitted.into());
        }
        if stored.inode.links >= LINK_MAX {
            return Err(Posix::TooManyLinks.into());
        }
        stored.inode.links += 1;
        self.add_name(dir, key, name, ino, kind)
    }

    /// Gives an inode an extended attribute that it does not have, and returns the value that will be read. An access ACL
    /// gets the bits of the mode; one that says nothing else is left out: `None`.
    pub fn set_xattr(&mut self, ino: InodeNo, name: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let suite = self.suite.clone();
        let stored = self.stored(ino)?;
        let is_taken = |key| stored.xattrs.contains_key(&key);
        let Some(given) = given_attribute(&*suite, &mut stored.inode, name, value, is_taken)? else { return Ok(None) };
        stored.xattrs.extend(given.records);
        Ok(Some(given.value))
    }

    /// The next bytes of the open file's content; what lies between pieces reads as zeros.
    pub fn write(&mut self, ino: InodeNo, offset: u64, bytes: &[u8]) -> Result<()> {
        let open = self.open.as_ref().filter(|open| open.ino == ino).ok_or(Posix::InvalidArgument)?;
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= MAX_FILE_SIZE);
        let end = end.ok_or(Posix::FileTooBig)?;
        if offset < open.end {
            return Err(Posix::InvalidArgument.into());
        }
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (block, within) = (at / BLOCK_SIZE_U64, (at % BLOCK_SIZE_U64) as usize);
            let (part, after) = rest.split_at(rest.len().min(BLOCK_SIZE - within));
            self.turn_to(block)?;
            if let Some(open) = &mut self.open {
                open.bytes[within..within + part.len()].copy_from_slice(part);
            }
            at += part.len() as u64;
            rest = after;
        }
        if let Some(open) = &mut self.open {
            open.end = end;
        }
        Ok(())
    }

    /// The open file is complete and has so many bytes, no fewer than were written.
    pub fn end_file(&mut self, ino: InodeNo, size: u64) -> Result<()> {
        let open = self.open.as_ref().filter(|open| open.ino == ino && open.end <= size && size <= MAX_FILE_SIZE);
        let block = open.ok_or(Posix::InvalidArgument)?.block;
        let small = usize::try_from(size).ok().filter(|size| *size <= INLINE_FILE_MAX && block == 0);
        if small.is_none() {
            self.put_block()?;
        }
        let open = self.open.take().ok_or(Posix::InvalidArgument)?;
        let stored = self.stored(ino)?;
        stored.inode.size = size;
        stored.inode.flags = InodeFlags { inline: small.is_some(), past_end: false };
        if let Some(size) = small {
            stored.inline = open.bytes[..size].to_vec();
        }
        Ok(())
    }

    /// The open file could not be read to its end: it was never there.
    pub fn abandon_file(&mut self, ino: InodeNo) -> Result<()> {
        let open = self.open.take().filter(|open| open.ino == ino).ok_or(Posix::InvalidArgument)?;
        let placed = self.blocks.flush()?;
        self.note(placed);
        self.blocks.forget_newest_of(ino);
        self.inodes.remove(&ino.0);
        let parent = self.stored(open.dir)?;
        parent.inode.entries -= 1;
        if let Some(directory) = &mut parent.directory {
            directory.entries.remove(&open.entry_key);
        }
        Ok(())
    }

    /// Moves the open file on to another block.
    fn turn_to(&mut self, block: u64) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.block != block) {
            self.put_block()?;
            if let Some(open) = &mut self.open {
                open.block = block;
                open.bytes.fill(0);
            }
        }
        Ok(())
    }

    /// Stores the open file's block, unless it is a hole.
    fn put_block(&mut self) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        if open.bytes.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        let placed = self.blocks.push(open.ino, open.block, &open.bytes)?;
        self.note(placed);
        Ok(())
    }

    fn note(&mut self, placed: Vec<Placed>) {
        for Placed { ino, block, addr } in placed {
            if let Some(stored) = self.inodes.get_mut(&ino.0) {
                stored.content.push((block, addr));
            }
        }
    }

    fn stored(&mut self, ino: InodeNo) -> Result<&mut Stored> {
        Ok(self.inodes.get_mut(&ino.0).ok_or(Posix::NotFound)?)
    }

    fn directory(&self, dir: InodeNo) -> Result<&Directory> {
        let stored = self.inodes.get(&dir.0).ok_or(Posix::NotFound)?;
        Ok(stored.directory.as_deref().ok_or(Posix::NotDirectory)?)
    }

    /// Where a new name goes; `EEXIST` if the directory has it.
    fn free_entry_key(&self, dir: InodeNo, name: &[u8]) -> Result<u64> {
        check_name(name)?;
        let (entries, hash) = (&self.directory(dir)?.entries, name_hash(&*self.suite, name));
        let mut free = None;
        for key in (0..NAME_DISCRIMINATORS).map(|discriminator| name_key(hash, discriminator)) {
            match entries.get(&key) {
                Some(entry) if entry.name == name => return Err(Posix::Exists.into()),
                Some(_) => {}
                None => free = free.or(Some(key)),
            }
        }
        Ok(free.ok_or(Posix::NoSpace)?)
    }

    fn add_name(&mut self, dir: InodeNo, key: u64, name: &[u8], ino: InodeNo, kind: FileKind) -> Result<()> {
        let parent = self.stored(dir)?;
        parent.inode.entries += 1;
        if kind == FileKind::Directory {
            parent.inode.subdirs = parent.inode.subdirs.checked_add(1).ok_or(Posix::TooManyLinks)?;
            parent.inode.links = parent.inode.links.checked_add(1).ok_or(Posix::TooManyLinks)?;
        }
        if let Some(directory) = &mut parent.directory {
            directory.entries.insert(key, DirEntryRecord { ino, kind, name: name.to_vec() });
        }
        Ok(())
    }
}

impl Stored {
    fn new(inode: Inode, inline: Vec<u8>, path: Option<PathHash>) -> Stored {
        let directory = path.map(|path| Box::new(Directory { path, entries: BTreeMap::new() }));
        Stored { inode, inline, xattrs: BTreeMap::new(), content: Vec::new(), directory }
    }
}

fn inode_of(ino: InodeNo, entry: &NewEntry) -> Inode {
    let has_content = matches!(entry.kind, FileKind::Regular | FileKind::Symlink);
    let is_device = matches!(entry.kind, FileKind::BlockDevice | FileKind::CharDevice);
    let bits = if entry.kind == FileKind::Symlink { 0o777 } else { entry.mode & 0o7777 };
    Inode {
        mode: entry.kind.mode_bits() | bits,
        uid: entry.uid,
        gid: entry.gid,
        links: if entry.kind == FileKind::Directory { 2 } else { 1 },
        flags: InodeFlags { inline: has_content, past_end: false },
        size: 0,
        object: if has_content { ino.into() } else { ObjectId(0) },
        change: 1,
        rdev: if is_device { entry.rdev } else { 0 },
        atime: entry.atime,
        mtime: entry.mtime,
        ctime: entry.ctime,
        btime: entry.btime,
        project: 0,
        parent: InodeNo(0),
        entries: 0,
        subdirs: 0,
        extensions: Vec::new(),
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Posix::NameTooLong.into());
    }
    let is_name = !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if is_name { Ok(()) } else { Err(Posix::InvalidArgument.into()) }
}

fn check_target(entry: &NewEntry) -> Result<()> {
    let times = [entry.atime, entry.mtime, entry.ctime, entry.btime];
    let is_wrong = match entry.kind {
        FileKind::Symlink if entry.target.len() > SYMLINK_MAX => return Err(Posix::NameTooLong.into()),
        FileKind::Symlink => entry.target.is_empty() || entry.target.contains(&0),
        _ => !entry.target.is_empty(),
    };
    if is_wrong || times.iter().any(|time| time.nanoseconds >= 1_000_000_000) {
        return Err(Posix::InvalidArgument.into());
    }
    Ok(())
}

fn new_header(output: &Output, options: &PackOptions, volume_id: [u8; 16], total_blocks: u64) -> Header {
    let (image, key_generation, slots) = match output {
        Output::Sealed { slots, .. } => (ImageType::Packed, 1, slots.clone()),
        Output::Measure(_) | Output::Public { .. } => (ImageType::Public, 0, Vec::new()),
    };
    Header {
        image,
        incompatible: 0,
        volume_id,
        node_size_bytes: NODE_SIZE_BYTES,
        ring_start: BlockAddr(0),
        ring_blocks: 0,
        max_unmerged_bytes: 0,
        generation: 1,
        read_only_compatible: 0,
        compatible: 0,
        total_blocks,
        key_generation,
        label: options.label.clone(),
        slots,
    }
}

/// Keys of an object's records.
fn key(object: u64, kind: Kind, offset: u64) -> Key {
    Key::new(object, kind, offset)
}
