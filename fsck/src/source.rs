//! The walk over a directory tree of the host, for `mkfs.sefs --from`: one pass that hands over every entry, in a fixed
//! order, with all of its attributes.
//!
//! *Security*: every entry is opened once, by name within its opened parent and without following links (`O_PATH`,
//! `O_NOFOLLOW`); attributes and content are then read through that descriptor. So a tree that changes during the walk
//! cannot lead it elsewhere.
//!
//! *Invariants*: entries of a directory come in byte order of their names; [`Item::Enter`] and [`Item::Leave`] nest; a
//! file's [`Item::Data`] follow it in rising order and end with [`Item::End`] or [`Item::Abort`].

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Whence, faccessat, lseek};
use sefs::format::FileKind;
use sefs::types::Timestamp;

use crate::names::escaped;

/// How a tree is walked.
#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    /// Mount points below the root stay empty.
    pub one_file_system: bool,
    /// What cannot be read is left out instead of ending the walk.
    pub skip_unreadable: bool,
    /// Files that are left out wherever they are met: the image itself.
    pub exclude: Vec<FileId>,
    /// Attributes and content are read too; without it, only what [`Entry::meta`] holds.
    pub contents: bool,
}

/// What makes a file the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The filesystem's device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

impl FileId {
    /// The id of what `metadata` describes.
    pub fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// One entry of the tree.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name in its directory; empty for the root.
    pub name: Vec<u8>,
    /// Its identity on the host.
    pub id: FileId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes of it that are data, not hole; known only when the walk leaves contents out.
    pub data_bytes: u64,
    /// Names of the same file on the host.
    pub links: u64,
    /// Device number, for device nodes.
    pub rdev: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything, where the source says what the copy's is to be: a host's is about the host.
    pub ctime: Option<Timestamp>,
    /// Creation, likewise.
    pub btime: Option<Timestamp>,
    /// Extended attributes, names and values, ACLs and `security.*` among them.
    pub xattrs: Attributes,
}

/// Names and values of extended attributes.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// A step of the walk.
#[derive(Clone, Debug)]
pub enum Item {
    /// A directory; its entries follow until the matching `Leave`. The first one is the root.
    Enter(Entry),
    /// The end of the directory entered last.
    Leave,
    /// A regular file; with contents wanted, its data follow.
    File(Entry),
    /// Bytes of the file named last; holes are left out.
    Data {
        /// Where they stand.
        offset: u64,
        /// At most [`READ_BYTES`].
        bytes: Vec<u8>,
    },
    /// The file named last is complete. `size` is its length as read.
    End {
        /// Bytes, trailing hole included.
        size: u64,
    },
    /// The file named last could not be read to its end.
    Abort(Unreadable),
    /// A symbolic link.
    Symlink(Entry, Vec<u8>),
    /// A fifo, a socket or a device node.
    Special(Entry),
    /// Another name of a file that was handed over already.
    Link {
        /// The name in the current directory.
        name: Vec<u8>,
        /// The file.
        of: FileId,
    },
    /// Something was left out because it cannot be read.
    Skipped(Unreadable),
    /// Something was left out because it is in [`WalkOptions::exclude`].
    Excluded(PathBuf),
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its path, below the root as it was given.
    pub path: PathBuf,
    /// Why.
    pub errno: Errno,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot read {}: {}", escaped(self.path.as_os_str().as_bytes()), self.errno.desc())
    }
}

/// Bytes of one read, aligned.
pub const READ_BYTES: u64 = 1 << 20;

/// Walks the tree below `root` and hands every step to `emit`, until it breaks.
pub fn walk(
    root: &Path,
    options: &WalkOptions,
    emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<(), Unreadable> {
    let mut walk = Walk { options, emit, path: root.to_path_buf(), stack: Vec::new(), seen: HashSet::new(), device: 0 };
    match walk.run(root) {
        Ok(()) | Err(Stop::Asked) => Ok(()),
        Err(Stop::Unreadable(what)) => Err(what),
    }
}

enum Stop {
    Asked,
    Unreadable(Unreadable),
}

struct Frame {
    dir: File,
    names: std::vec::IntoIter<CString>,
}

struct Walk<'a> {
    options: &'a WalkOptions,
    emit: &'a mut dyn FnMut(Item) -> ControlFlow<()>,
    path: PathBuf,
    stack: Vec<Frame>,
    seen: HashSet<FileId>,
    device: u64,
}

impl Walk<'_> {
    fn run(&mut self, root: &Path) -> Result<(), Stop> {
        // The root is followed if it is a link: it is the one path that the caller named.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(root, flags, Mode::empty()).map_err(|errno| self.unreadable(errno))?;
        let dir = File::from(dir);
        let metadata = dir.metadata().map_err(|error| self.unreadable(errno_of(&error)))?;
        self.device = metadata.dev();
        let (frame, entry) = self.directory(dir, &metadata, Vec::new()).map_err(|errno| self.unreadable(errno))?;
        self.send(Item::Enter(entry))?;
        self.stack.push(frame);
        while let Some(frame) = self.stack.last_mut() {
            match frame.names.next() {
                Some(name) => {
                    self.path.push(std::ffi::OsStr::from_bytes(name.as_bytes()));
                    let entered = self.visit(name)?;
                    if !entered {
                        self.path.pop();
                    }
                }
                None => {
                    self.stack.pop();
                    self.path.pop();
                    self.send(Item::Leave)?;
                }
            }
        }
        Ok(())
    }

    /// Hands one entry over. Returns whether it was a directory that is now on the stack.
    fn visit(&mut self, name: CString) -> Result<bool, Stop> {
        let parent = &self.stack.last().expect("the stack holds the directory whose names are visited").dir;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(parent, name.as_c_str(), flags, Mode::empty()).map(File::from);
        let file = match opened {
            Ok(file) => file,
            Err(errno) => return self.skip(errno).map(|()| false),
        };
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return self.skip(errno_of(&error)).map(|()| false),
        };
        let id = FileId::of(&metadata);
        let name = name.into_bytes();
        if self.options.exclude.contains(&id) {
            let path = self.path.clone();
            return self.send(Item::Excluded(path)).map(|()| false);
        }
        if metadata.is_dir() {
            return self.enter(file, &metadata, name);
        }
        if metadata.nlink() > 1 && self.seen.contains(&id) {
            return self.send(Item::Link { name, of: id }).map(|()| false);
        }
        if self.leaf(file, &metadata, name)? && metadata.nlink() > 1 {
            self.seen.insert(id);
        }
        Ok(false)
    }

    fn enter(&mut self, dir: File, metadata: &Metadata, name: Vec<u8>) -> Result<bool, Stop> {
        match self.directory(dir, metadata, name) {
            Ok((frame, entry)) => {
                self.send(Item::Enter(entry))?;
                self.stack.push(frame);
                Ok(true)
            }
            Err(errno) => self.skip(errno).map(|()| false),
        }
    }

    fn directory(&self, dir: File, metadata: &Metadata, name: Vec<u8>) -> Result<(Frame, Entry), Errno> {
        let entry = self.entry(&dir, metadata, name)?;
        let mount_point = metadata.dev() != self.device;
        let names = if mount_point && self.options.one_file_system { Vec::new() } else { names_of(&dir)? };
        Ok((Frame { dir, names: names.into_iter() }, entry))
    }

    /// Hands over what is not a directory. Returns whether it was complete.
    fn leaf(&mut self, file: File, metadata: &Metadata, name: Vec<u8>) -> Result<bool, Stop> {
        let entry = match self.entry(&file, metadata, name) {
            Ok(entry) => entry,
            Err(errno) => return self.skip(errno).map(|()| false),
        };
        match entry.kind {
            FileKind::Regular => self.regular(&file, entry),
            FileKind::Symlink => match readlinkat(&file, c"") {
                Ok(target) => self.send(Item::Symlink(entry, target.into_vec())).map(|()| true),
                Err(errno) => self.skip(errno).map(|()| false),
            },
            _ => self.send(Item::Special(entry)).map(|()| true),
        }
    }

    fn regular(&mut self, file: &File, entry: Entry) -> Result<bool, Stop> {
        if self.options.contents { self.read(file, entry) } else { self.measure(file, entry) }
    }

    fn measure(&mut self, file: &File, mut entry: Entry) -> Result<bool, Stop> {
        match data_bytes(file, entry.size) {
            Ok(data_bytes) => entry.data_bytes = data_bytes,
            Err(errno) => return self.skip(errno).map(|()| false),
        }
        self.send(Item::File(entry)).map(|()| true)
    }

    fn read(&mut self, file: &File, entry: Entry) -> Result<bool, Stop> {
        let size = entry.size;
        let content = match reopen(file, OFlag::O_RDONLY) {
            Ok(content) => content,
            Err(errno) => return self.skip(errno).map(|()| false),
        };
        self.send(Item::File(entry))?;
        match self.content(&content, size)? {
            Ok(size) => self.send(Item::End { size }).map(|()| true),
            Err(errno) => {
                let what = Unreadable { path: self.path.clone(), errno };
                if !self.options.skip_unreadable {
                    return Err(Stop::Unreadable(what));
                }
                self.send(Item::Abort(what)).map(|()| false)
            }
        }
    }

    /// Hands over the data up to `size` and returns the length that was found.
    fn content(&mut self, file: &File, size: u64) -> Result<Result<u64, Errno>, Stop> {
        let mut offset = 0;
        while offset < size {
            let (start, end) = match next_data(file, offset, size) {
                Ok(Some(range)) => range,
                Ok(None) => break,
                Err(errno) => return Ok(Err(errno)),
            };
            offset = start;
            while offset < end {
                let stop = ((offset / READ_BYTES + 1) * READ_BYTES).min(end);
                let bytes = match read_range(file, offset, stop) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(Err(errno_of(&error))),
                };
                let length = bytes.len() as u64;
                if length > 0 {
                    self.send(Item::Data { offset, bytes })?;
                }
                offset += length;
                if offset < stop {
                    return Ok(Ok(offset));
                }
            }
        }
        Ok(Ok(size))
    }

    fn entry(&self, file: &File, metadata: &Metadata, name: Vec<u8>) -> Result<Entry, Errno> {
        let time =
            |seconds, nanoseconds: i64| Timestamp { seconds, nanoseconds: nanoseconds.clamp(0, 999_999_999) as u32 };
        Ok(Entry {
            name,
            id: FileId::of(metadata),
            kind: kind_of(metadata),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.size(),
            data_bytes: metadata.size(),
            links: metadata.nlink(),
            rdev: metadata.rdev(),
            atime: time(metadata.atime(), metadata.atime_nsec()),
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ctime: None,
            btime: None,
            xattrs: if self.options.contents { xattrs_of(file)? } else { Vec::new() },
        })
    }

    fn skip(&mut self, errno: Errno) -> Result<(), Stop> {
        match self.unreadable(errno) {
            Stop::Unreadable(what) if self.options.skip_unreadable => self.send(Item::Skipped(what)),
            stop => Err(stop),
        }
    }

    fn unreadable(&self, errno: Errno) -> Stop {
        Stop::Unreadable(Unreadable { path: self.path.clone(), errno })
    }

    fn send(&mut self, item: Item) -> Result<(), Stop> {
        match (self.emit)(item) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Asked),
        }
    }
}

/// The path that leads to exactly what a descriptor holds, links not followed any further.
fn magic_link(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens what an `O_PATH` descriptor holds, if possible without touching its access time.
fn reopen(file: &File, flags: OFlag) -> Result<File, Errno> {
    let open = |flags: OFlag| OpenOptions::new().read(true).custom_flags(flags.bits()).open(magic_link(file));
    open(flags | OFlag::O_NOATIME).or_else(|_| open(flags)).map_err(|error| match errno_of(&error) {
        Errno::ENOENT if !Path::new("/proc/self/fd").exists() => Errno::ENOSYS,
        errno => errno,
    })
}

fn names_of(dir: &File) -> Result<Vec<CString>, Errno> {
    let mut listing = Dir::from_fd(reopen(dir, OFlag::O_DIRECTORY)?.into())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The next range of data at or after `offset` and below `size`; `None`: only a hole is left.
fn next_data(file: &File, offset: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    let signed = |value: u64| i64::try_from(value).map_err(|_| Errno::EOVERFLOW);
    let start = match lseek(file, signed(offset)?, Whence::SeekData) {
        Ok(start) => start as u64,
        Err(Errno::ENXIO) => return Ok(None),
        // A filesystem that does not know holes: all is data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((offset, size))),
        Err(errno) => return Err(errno),
    };
    if start >= size {
        return Ok(None);
    }
    let end = (lseek(file, signed(start)?, Whence::SeekHole)? as u64).min(size);
    // A file that changes meanwhile must not hold the walk up.
    Ok((end > start).then_some((start, end)))
}

/// Data of an opened-by-path file. Only a file that has fewer blocks than bytes is opened for it; whether the others may
/// be read is asked without opening.
fn data_bytes(file: &File, size: u64) -> Result<u64, Errno> {
    let metadata = file.metadata().map_err(|error| errno_of(&error))?;
    if metadata.blocks().saturating_mul(512) >= size {
        let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_EACCESS;
        return match faccessat(file, c"", AccessFlags::R_OK, flags) {
            Err(Errno::EACCES) => Err(Errno::EACCES),
            // Whatever else it says, opening the file for its content says it better.
            _ => Ok(size),
        };
    }
    let content = reopen(file, OFlag::O_RDONLY)?;
    let (mut offset, mut data_bytes) = (0, 0);
    while let Some((start, end)) = next_data(&content, offset, size)? {
        data_bytes += end - start;
        offset = end;
    }
    Ok(data_bytes)
}

/// Reads a range; fewer bytes come back only at the end of the file.
fn read_range(file: &File, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - offset).map_err(io::Error::other)?];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// All extended attributes that this process may read.
fn xattrs_of(file: &File) -> Result<Attributes, Errno> {
    let path = magic_link(file);
    let names = match xattr::list_deref(&path) {
        Ok(names) => names,
        Err(error) => {
            return match errno_of(&error) {
                Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EACCES | Errno::EPERM => Ok(Vec::new()),
                errno => Err(errno),
            };
        }
    };
    let mut found = Vec::new();
    for name in names {
        match xattr::get_deref(&path, &name) {
            Ok(Some(value)) => found.push((name.into_vec(), value)),
            Ok(None) => {}
            Err(error) => match errno_of(&error) {
                Errno::EOPNOTSUPP | Errno::EACCES | Errno::EPERM => {}
                errno => return Err(errno),
            },
        }
    }
    Ok(found)
}

fn kind_of(metadata: &Metadata) -> FileKind {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_block_device() {
        FileKind::BlockDevice
    } else if kind.is_char_device() {
        FileKind::CharDevice
    } else {
        FileKind::Regular
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};

    fn collect(root: &Path, options: &WalkOptions) -> Result<Vec<Item>, Unreadable> {
        let mut items = Vec::new();
        walk(root, options, &mut |item| {
            items.push(item);
            ControlFlow::Continue(())
        })?;
        Ok(items)
    }

    fn shape(items: &[Item]) -> Vec<String> {
        items
            .iter()
            .map(|item| match item {
                Item::Enter(entry) => format!("enter {}", escaped(&entry.name)),
                Item::Leave => "leave".into(),
                Item::File(entry) => format!("file {}", escaped(&entry.name)),
                Item::Data { offset, bytes } => format!("data {offset}+{}", bytes.len()),
                Item::End { size } => format!("end {size}"),
                Item::Abort(what) => format!("abort {what}"),
                Item::Symlink(entry, target) => format!("link {} -> {}", escaped(&entry.name), escaped(target)),
                Item::Special(entry) => format!("special {}", escaped(&entry.name)),
                Item::Link { name, .. } => format!("again {}", escaped(name)),
                Item::Skipped(what) => format!("skipped {}", what.errno),
                Item::Excluded(_) => "excluded".into(),
            })
            .collect()
    }

    const ALL: WalkOptions =
        WalkOptions { one_file_system: false, skip_unreadable: false, exclude: Vec::new(), contents: true };

    #[test]
    fn a_tree_comes_in_order_with_links_holes_and_specials() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("b")).unwrap();
        fs::write(root.join("b/file"), b"hello").unwrap();
        fs::hard_link(root.join("b/file"), root.join("z")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("a")).unwrap();
        let mut sparse = File::create(root.join("c")).unwrap();
        sparse.seek(SeekFrom::Start(3 << 20)).unwrap();
        sparse.write_all(&[7; 4096]).unwrap();
        sparse.set_len(8 << 20).unwrap();
        nix::unistd::mkfifo(&root.join("d"), Mode::from_bits_truncate(0o600)).unwrap();
        let found = shape(&collect(root, &ALL).unwrap());
        let expected = [
            "enter ",
            "link a -> nowhere",
            "enter b",
            "file file",
            "data 0+5",
            "end 5",
            "leave",
            "file c",
            "data 3145728+4096",
            "end 8388608",
            "special d",
            "again z",
            "leave",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_link_to_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        assert_eq!(shape(&collect(dir.path(), &ALL).unwrap()), ["enter ", "link root -> /", "leave"]);
    }

    #[test]
    fn the_image_itself_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::write(&image, b"x").unwrap();
        let exclude = vec![FileId::of(&fs::metadata(&image).unwrap())];
        let found = collect(dir.path(), &WalkOptions { exclude, ..ALL }).unwrap();
        assert_eq!(shape(&found), ["enter ", "excluded", "leave"]);
    }

    #[test]
    fn a_missing_root_is_named() {
        let error = collect(Path::new("/nonexistent/tree"), &ALL).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/tree: No such file or directory");
    }

    #[test]
    fn attributes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"").unwrap();
        if xattr::set(&path, "user.colour", b"green").is_err() {
            return crate::tests::skipped("the host's temporary directory keeps no attributes");
        }
        let items = collect(dir.path(), &ALL).unwrap();
        let Some(Item::File(entry)) = items.get(1) else { panic!("{:?}", shape(&items)) };
        assert!(entry.xattrs.contains(&(b"user.colour".to_vec(), b"green".to_vec())));
        assert_eq!(entry.mtime.seconds, fs::metadata(&path).unwrap().mtime());
    }

    #[test]
    fn a_long_file_is_read_in_aligned_pieces() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), vec![1; (2 << 20) + 5]).unwrap();
        let found = shape(&collect(dir.path(), &ALL).unwrap());
        assert_eq!(found[2..5], ["data 0+1048576", "data 1048576+1048576", "data 2097152+5"]);
    }

    #[test]
    fn holes_are_measured_without_reading() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        file.write_all_at(&[1; 4096], 1 << 30).unwrap();
        let items = collect(dir.path(), &WalkOptions::default()).unwrap();
        let Some(Item::File(entry)) = items.get(1) else { panic!("{:?}", shape(&items)) };
        assert_eq!((entry.size, entry.data_bytes), ((1 << 30) + 4096, 4096));
    }

    #[test]
    fn a_break_ends_the_walk() {
        let mut steps = 0;
        let result = walk(Path::new("/proc/self"), &WalkOptions::default(), &mut |_| {
            steps += 1;
            ControlFlow::Break(())
        });
        assert_eq!((result, steps), (Ok(()), 1));
    }
}
