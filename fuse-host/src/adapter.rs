//! The kernel's requests, each answered by one call of the volume.
//!
//! *Invariants*
//! 1. Each reply that carries an entry counts as one acquisition of its inode, taken before the reply and given back by
//!    FORGET: an inode without links lives as long as the kernel knows it. (Files are opened without asking the server,
//!    so there is no count of opens.)
//! 2. No request waits for a commit in an event loop, but a change for which only a checkpoint makes room; and none waits for
//!    the kernel there.
//! 3. The kernel has checked permissions (`default_permissions` is always on), so no call here checks them again.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use sefs::error::{Posix, Result};
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, DirEntry, FileKind, NewInode, RenameMode, SetAttr, Volume, WriteMode};

use crate::committer::{Committer, Waiting};
use crate::convert;
use crate::negotiate;
use crate::privileges;
use crate::seeker::Sought;
use crate::served::Served;
use crate::shortage::{self, Shortage};
use crate::shutdown::{self, Place};

/// How long the kernel may keep entries and attributes without asking: there is no other writer.
///
/// So long that it never ends: a read at the end of a file whose attributes have expired would be taken for a write.
pub(crate) const TTL: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Inode numbers are never used twice, so all have one generation.
const GENERATION: Generation = Generation(0);
/// How long what is made on a full volume waits for files that were closed before, try by try.
const RELEASES_MS: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// Entries with attributes that are read at once: what fits a reply of 4 KiB.
const ENTRIES: usize = 24;
/// Entries without attributes that are read at once.
const NAMES: usize = 96;
/// Open flags that make a write durable before it returns.
const O_DSYNC: i32 = 0o10_000;
/// An extended attribute that exists for reading only: the time of creation, as seconds since 1970.
const CREATED: &[u8] = b"system.sefs.btime";

thread_local! {
    /// Where reads are decrypted to; one for each event loop.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The volume as a filesystem of the kernel.
pub(crate) struct Adapter {
    pub(crate) served: Arc<Served>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) seeker: Sender<Sought>,
    pub(crate) shortage: Arc<Shortage>,
    pub(crate) place: Place,
    /// Set once the session stands.
    pub(crate) notifier: Arc<OnceLock<Notifier>>,
}

impl Adapter {
    /// Looks at or makes an inode for an entry reply, and acquires it for the kernel.
    fn entry(&self, make: impl FnOnce(&Volume) -> Result<Attr>) -> std::result::Result<FileAttr, Errno> {
        self.served.read(|volume| {
            let attr = make(volume)?;
            volume.acquire(attr.ino)?;
            Ok(convert::attributes(&attr))
        })
    }

    fn make(
        &self,
        caller: &Caller,
        dir: INodeNo,
        name: &OsStr,
        new: &NewInode,
    ) -> std::result::Result<FileAttr, Errno> {
        let make = |volume: &Volume| volume.make(caller, convert::inode(dir), name.as_bytes(), new);
        let mut made = self.entry(make);
        // Whoever removed a file a moment ago has room, though the kernel tells later, to another event loop, that it is closed.
        for wait_ms in RELEASES_MS {
            if !made.as_ref().is_err_and(|errno| i32::from(*errno) == Posix::NoSpace.errno()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(wait_ms));
            made = self.entry(make);
        }
        self.served.activity.happened();
        made
    }

    /// The kernel keeps the mode that it knows through a write that clears bits of it, so it is told to ask again.
    fn mode_may_have_changed(&self, ino: INodeNo) {
        if let Some(notifier) = self.notifier.get() {
            shortage::ask_again(notifier, ino);
        }
    }

    fn take_privileges(&self, volume: &Volume, caller: &Caller, ino: INodeNo) -> Result<()> {
        if privileges::content_changes(volume, caller, convert::inode(ino))? {
            self.mode_may_have_changed(ino);
        }
        Ok(())
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate::negotiate(config)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let caller = convert::caller(request);
        match self.entry(|volume| volume.lookup(&caller, convert::inode(parent), name.as_bytes())) {
            Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
            Err(Errno::ENOENT) => reply.entry(&TTL, &nothing(), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        let ino = convert::inode(ino);
        // An inode without links is reclaimed from now on: that is a change. After the close there is nothing to release.
        let _ = self.served.change(|volume| {
            volume.release(ino, count);
            Ok(())
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        // With a file handle it is write(2) that asks, before it fills the kernel's cache.
        if fh.is_some() && self.shortage.concerns(&self.served, ino) {
            return self.shortage.ask(ino, reply);
        }
        match self.served.read(|volume| volume.attr(convert::inode(ino))) {
            Ok(attr) => reply.attr(&TTL, &convert::attributes(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::requested_time),
            btime: None,
        };
        let caller = convert::caller(request);
        match self.served.change(|volume| volume.set_attr(&caller, convert::inode(ino), &change)) {
            Ok(attr) => reply.attr(&TTL, &convert::attributes(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.served.read(|volume| volume.read_link(convert::inode(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = convert::node_kind(mode) else { return reply.error(Errno::EINVAL) };
        let new = NewInode { kind, mode: mode & 0o7777, rdev: rdev.into(), target: Vec::new() };
        answer_entry(reply, self.make(&maker(request, umask), parent, name, &new));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let new = NewInode { kind: FileKind::Directory, mode: mode & 0o7777, rdev: 0, target: Vec::new() };
        answer_entry(reply, self.make(&maker(request, umask), parent, name, &new));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes().to_vec();
        let new = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
        answer_entry(reply, self.make(&maker(request, 0), parent, name, &new));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let new = NewInode { kind: FileKind::Regular, mode: mode & 0o7777, rdev: 0, target: Vec::new() };
        match self.make(&maker(request, umask), parent, name, &new) {
            Ok(attr) => {
                // Where space is short a new file is written through, which needs no questions.
                let short = self.shortage.is_short(&self.served);
                let through = if short { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
                let flags = FopenFlags::FOPEN_KEEP_CACHE | through;
                self.shortage.may_be_written(attr.ino);
                reply.created(&TTL, &attr, GENERATION, FileHandle(0), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = convert::caller(request);
        answer(reply, self.served.change(|volume| volume.unlink(&caller, convert::inode(parent), name.as_bytes())));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = convert::caller(request);
        answer(reply, self.served.change(|volume| volume.rmdir(&caller, convert::inode(parent), name.as_bytes())));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            flags if flags.is_empty() => RenameMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (caller, from, to) = (convert::caller(request), convert::inode(parent), convert::inode(new_parent));
        let rename = |volume: &Volume| volume.rename(&caller, from, name.as_bytes(), to, new_name.as_bytes(), mode);
        answer(reply, self.served.change(rename));
    }

    fn link(&self, request: &Request, ino: INodeNo, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let caller = convert::caller(request);
        let linked =
            self.entry(|volume| volume.link(&caller, convert::inode(ino), convert::inode(dir), name.as_bytes()));
        self.served.activity.happened();
        answer_entry(reply, linked);
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel never asks again: there is no state of open files here, and cached pages stay good.
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let len = usize::try_from(size).unwrap_or(usize::MAX).min(negotiate::TRANSFER_BYTES);
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            match self.served.read(|volume| volume.read(convert::inode(ino), offset, &mut buffer[..len])) {
                Ok(got) => reply.data(&buffer[..got]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mode = write_mode(write_flags);
        let caller = convert::caller(request);
        let written = self.served.change(|volume| volume.write(&caller, convert::inode(ino), offset, data, mode));
        match mode {
            WriteMode::Writeback => self.shortage.pages_came(&self.served, ino, &written),
            WriteMode::KillPrivileges => self.mode_may_have_changed(ino),
            WriteMode::Direct | WriteMode::Append => {}
        }
        match written.map(|len| u32::try_from(len).unwrap_or(u32::MAX)) {
            Ok(len) if mode != WriteMode::Writeback && flags.0 & O_DSYNC != 0 => {
                self.committer.add(Waiting::Written(reply, len));
            }
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.committer.add(Waiting::Sync(reply));
    }

    fn fsyncdir(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.committer.add(Waiting::Sync(reply));
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, cookie: u64, mut reply: ReplyDirectory) {
        match self.served.read(|volume| list(volume, convert::inode(ino), cookie, &mut reply)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.served.read(|volume| list_with_attributes(volume, convert::inode(ino), cookie, &mut reply)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.committer.add(Waiting::Space(reply));
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, ino, name) = (convert::caller(request), convert::inode(ino), name.as_bytes());
        let outcome = self.served.change(|volume| {
            match name {
                CREATED => return Err(Posix::NotPermitted.into()),
                privileges::ACCESS_ACL => privileges::acl_is_set(volume, &caller, request.pid(), ino)?,
                _ => {}
            }
            volume.set_xattr(&caller, ino, name, value, convert::xattr_mode(flags)?)
        });
        answer(reply, outcome);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (caller, ino, name) = (convert::caller(request), convert::inode(ino), name.as_bytes());
        let value = self.served.read(|volume| match name {
            CREATED => volume.attr(ino).map(|attr| created(&attr)),
            _ => volume.get_xattr(&caller, ino, name),
        });
        answer_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = convert::caller(request);
        let names = self.served.read(|volume| volume.list_xattr(&caller, convert::inode(ino)));
        let list = names.map(|names| {
            names.into_iter().fold(Vec::new(), |mut list, name| {
                list.extend_from_slice(&name);
                list.push(0);
                list
            })
        });
        answer_xattr(reply, size, list);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let caller = convert::caller(request);
        let remove = |volume: &Volume| match name.as_bytes() {
            CREATED => Err(Posix::NotPermitted.into()),
            name => volume.remove_xattr(&caller, convert::inode(ino), name),
        };
        answer(reply, self.served.change(remove));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::allocate_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let caller = convert::caller(request);
        let allocate = |volume: &Volume| {
            self.take_privileges(volume, &caller, ino)?;
            volume.allocate(&caller, convert::inode(ino), offset, length, mode)
        };
        answer(reply, self.served.change(allocate));
    }

    fn lseek(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (Some(whence), Ok(offset)) = (convert::seek(whence), u64::try_from(offset)) else {
            return reply.error(Errno::EINVAL);
        };
        // If the seeker is gone, so is the mount; the dropped reply answers with EIO.
        let _ = self.seeker.send(Sought { ino: convert::inode(ino), offset, whence, reply });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _from_fh: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_fh: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = convert::caller(request);
        // The reply has 32 bits for the length; the caller asks again for the rest.
        let len = len.min(COPY_BYTES);
        let copied = self.served.change(|volume| {
            self.take_privileges(volume, &caller, to)?;
            volume.copy_range(&caller, convert::inode(from), from_offset, convert::inode(to), to_offset, len)
        });
        match copied.map(u32::try_from) {
            Ok(Ok(len)) => reply.written(len),
            Ok(Err(_)) => reply.error(Errno::EIO),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        if cmd != shutdown::COMMAND {
            return reply.error(Errno::ENOTTY);
        }
        if !shutdown::allowed(request.uid()) {
            return reply.error(Errno::EPERM);
        }
        match shutdown::requested(request.pid()) {
            Ok(flush) => {
                let (served, place) = (Arc::clone(&self.served), self.place.clone());
                // If there can be no thread, the dropped reply answers with EIO.
                let run = move || shutdown::run(&served, &place, flush, reply);
                let _ = std::thread::Builder::new().name("shutdown".into()).spawn(run);
            }
            Err(errno) => reply.error(errno),
        }
    }
}

/// Bytes that one request copies at most, so that it does not keep an event loop for long.
const COPY_BYTES: u64 = 8 << 20;

/// Who makes an inode, with the mask that a default ACL would replace.
fn maker(request: &Request, umask: u32) -> Caller {
    Caller { umask: Some(umask & 0o777), ..convert::caller(request) }
}

fn write_mode(flags: WriteFlags) -> WriteMode {
    if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
        WriteMode::Writeback
    } else if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
        WriteMode::KillPrivileges
    } else {
        WriteMode::Direct
    }
}

/// The entries after `cookie`, as many as fit.
fn list(volume: &Volume, dir: InodeNo, mut cookie: u64, reply: &mut ReplyDirectory) -> Result<()> {
    loop {
        let entries = volume.read_dir(dir, cookie, NAMES)?;
        let Some(last) = entries.last() else { return Ok(()) };
        cookie = last.cookie;
        for entry in &entries {
            let kind = convert::file_type(entry.kind);
            if reply.add(INodeNo(entry.ino.0), entry.cookie, kind, OsStr::from_bytes(&entry.name)) {
                return Ok(());
            }
        }
    }
}

/// The entries after `cookie` with their attributes, as many as fit.
fn list_with_attributes(volume: &Volume, dir: InodeNo, mut cookie: u64, reply: &mut ReplyDirectoryPlus) -> Result<()> {
    let mut any = false;
    loop {
        let entries = volume.read_dir(dir, cookie, ENTRIES)?;
        let Some(last) = entries.last() else { return Ok(()) };
        cookie = last.cookie;
        for entry in &entries {
            match add(volume, entry, reply) {
                Ok(Added::Yes) => any = true,
                Ok(Added::Full) => return Ok(()),
                // What came before is good; the next request starts here and reports the failure.
                Err(_) if any => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

enum Added {
    Yes,
    Full,
}

/// Adds one entry; the kernel counts it as a lookup unless it is "." or "..".
fn add(volume: &Volume, entry: &DirEntry, reply: &mut ReplyDirectoryPlus) -> Result<Added> {
    let attr = convert::attributes(&volume.attr(entry.ino)?);
    let counted = entry.name != b"." && entry.name != b"..";
    if counted {
        volume.acquire(entry.ino)?;
    }
    let name = OsStr::from_bytes(&entry.name);
    let full = reply.add(INodeNo(entry.ino.0), entry.cookie, name, &TTL, &attr, GENERATION);
    if full && counted {
        volume.release(entry.ino, 1);
    }
    Ok(if full { Added::Full } else { Added::Yes })
}

/// The entry reply that says "there is none, and you may remember that".
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The time of creation as text: seconds, a point, nine digits.
fn created(attr: &Attr) -> Vec<u8> {
    format!("{}.{:09}", attr.btime.seconds, attr.btime.nanoseconds).into_bytes()
}

fn answer(reply: ReplyEmpty, outcome: std::result::Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_entry(reply: ReplyEntry, outcome: std::result::Result<FileAttr, Errno>) {
    match outcome {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

/// A value, or with `size` 0 only its length.
fn answer_xattr(reply: ReplyXattr, size: u32, value: std::result::Result<Vec<u8>, Errno>) {
    let value = match value {
        Ok(value) => value,
        Err(errno) => return reply.error(errno),
    };
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(&value),
        _ => reply.error(Errno::ERANGE),
    }
}
