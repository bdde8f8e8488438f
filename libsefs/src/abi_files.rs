//! The exported functions that work on what is in a volume. What callers owe stands at the crate's head.
//!
//! All may be called from many threads at once on one volume. They answer 0, or where it is said a count, and on failure a
//! negative error number. Names are bytes with a length; they need no zero at their end.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn, clippy::missing_safety_doc)]

use core::ffi::{c_int, c_void};

use sefs::error::{Error, Posix};
use sefs::types::InodeNo;
use sefs::vfs::{AllocateMode, Caller, NewInode, RenameMode, Seek, Volume, WriteMode, XattrMode};

use crate::error::{Failure, Outcome, call, status};
use crate::raw::{lent, perhaps, put, slice, slice_mut};
use crate::values::{
    SEFS_ALLOCATE_KEEP_SIZE, SEFS_ALLOCATE_PUNCH_HOLE, SEFS_ALLOCATE_ZERO_RANGE, SEFS_RENAME_EXCHANGE,
    SEFS_RENAME_NOREPLACE, SEFS_WRITE_APPEND, SEFS_WRITE_BACK, SEFS_WRITE_KILL_PRIVILEGES, SEFS_XATTR_CREATE,
    SEFS_XATTR_REPLACE, SefsAttr, SefsCaller, SefsDirCallback, SefsDirEntry, SefsSetAttr, SefsStatFs, caller, kind_of,
    type_bits,
};
use crate::volume::SefsVolume;

/// Entries that one look into a directory takes at once.
const DIR_BATCH: usize = 64;

/// Finds a name in a directory; "." and ".." too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_lookup(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    dir: u64,
    name: *const u8,
    name_len: usize,
    attr: *mut SefsAttr,
) -> c_int {
    status(|| {
        let found = open(volume)?.lookup(&who_is(who)?, InodeNo(dir), slice(name, name_len)?)?;
        put(attr, (&found).into());
        Ok(())
    })
}

/// Tells an inode's attributes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_get_attr(volume: *const SefsVolume, ino: u64, attr: *mut SefsAttr) -> c_int {
    status(|| {
        let found = open(volume)?.attr(InodeNo(ino))?;
        put(attr, (&found).into());
        Ok(())
    })
}

/// Changes attributes, all or none; the length of a file too. `attr`, which may be null, tells what they are afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_set_attr(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    change: *const SefsSetAttr,
    attr: *mut SefsAttr,
) -> c_int {
    status(|| {
        let now = open(volume)?.set_attr(&who_is(who)?, InodeNo(ino), &lent(change)?.change()?)?;
        put(attr, (&now).into());
        Ok(())
    })
}

/// Whether the caller may do all of `mask` (4 read, 2 write, 1 execute).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_access(volume: *const SefsVolume, who: *const SefsCaller, ino: u64, mask: u32) -> c_int {
    status(|| Ok(open(volume)?.access(&who_is(who)?, InodeNo(ino), mask)?))
}

/// Makes a file, directory, fifo, socket or device; `mode` has type and permission bits as `st_mode`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_make(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    dir: u64,
    name: *const u8,
    name_len: usize,
    mode: u32,
    rdev: u64,
    attr: *mut SefsAttr,
) -> c_int {
    status(|| {
        let new = NewInode { kind: kind_of(mode)?, mode: mode & 0o7777, rdev, target: Vec::new() };
        let made = open(volume)?.make(&who_is(who)?, InodeNo(dir), slice(name, name_len)?, &new)?;
        put(attr, (&made).into());
        Ok(())
    })
}

/// Makes a symlink that points to `target`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_symlink(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    dir: u64,
    name: *const u8,
    name_len: usize,
    target: *const u8,
    target_len: usize,
    attr: *mut SefsAttr,
) -> c_int {
    status(|| {
        let target = slice(target, target_len)?.to_vec();
        let new = NewInode { kind: sefs::vfs::FileKind::Symlink, mode: 0o777, rdev: 0, target };
        let made = open(volume)?.make(&who_is(who)?, InodeNo(dir), slice(name, name_len)?, &new)?;
        put(attr, (&made).into());
        Ok(())
    })
}

/// Makes a file without a name, acquired once; it can be linked while it is acquired.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_make_unnamed(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    dir: u64,
    mode: u32,
    attr: *mut SefsAttr,
) -> c_int {
    status(|| {
        let new = NewInode { kind: kind_of(mode)?, mode: mode & 0o7777, rdev: 0, target: Vec::new() };
        let made = open(volume)?.make_tmpfile(&who_is(who)?, InodeNo(dir), &new)?;
        put(attr, (&made).into());
        Ok(())
    })
}

/// Gives an inode another name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_link(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    dir: u64,
    name: *const u8,
    name_len: usize,
) -> c_int {
    status(|| {
        open(volume)?.link(&who_is(who)?, InodeNo(ino), InodeNo(dir), slice(name, name_len)?)?;
        Ok(())
    })
}

/// Removes a name of anything but a directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_unlink(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    dir: u64,
    name: *const u8,
    name_len: usize,
) -> c_int {
    status(|| Ok(open(volume)?.unlink(&who_is(who)?, InodeNo(dir), slice(name, name_len)?)?))
}

/// Removes an empty directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_rmdir(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    dir: u64,
    name: *const u8,
    name_len: usize,
) -> c_int {
    status(|| Ok(open(volume)?.rmdir(&who_is(who)?, InodeNo(dir), slice(name, name_len)?)?))
}

/// Moves a name, or exchanges two; `flags` are `SEFS_RENAME_*`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_rename(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    from_dir: u64,
    from_name: *const u8,
    from_len: usize,
    to_dir: u64,
    to_name: *const u8,
    to_len: usize,
    flags: u32,
) -> c_int {
    status(|| {
        let mode = match flags {
            0 => RenameMode::Replace,
            SEFS_RENAME_NOREPLACE => RenameMode::NoReplace,
            SEFS_RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(Failure::INVALID),
        };
        let (from, to) = (slice(from_name, from_len)?, slice(to_name, to_len)?);
        Ok(open(volume)?.rename(&who_is(who)?, InodeNo(from_dir), from, InodeNo(to_dir), to, mode)?)
    })
}

/// Where a symlink points: the length of the target, of which as much as fits is in `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_read_link(volume: *const SefsVolume, ino: u64, buffer: *mut u8, len: usize) -> i64 {
    call(|| Ok(copied(&open(volume)?.read_link(InodeNo(ino))?, slice_mut(buffer, len)?)))
}

/// Hands the entries after `cookie` (0: from the start), "." and ".." included, to a callback until it answers something
/// else than 0. The callback may not call into the volume to change this directory. Returns how many it took.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_read_dir(
    volume: *const SefsVolume,
    dir: u64,
    cookie: u64,
    take: SefsDirCallback,
    context: *mut c_void,
) -> i64 {
    call(|| {
        let (volume, take) = (open(volume)?, take.ok_or(Failure::NULL)?);
        let (mut cookie, mut count) = (cookie, 0);
        loop {
            let entries = volume.read_dir(InodeNo(dir), cookie, DIR_BATCH)?;
            let Some(last) = entries.last() else { return Ok(count) };
            cookie = last.cookie;
            for entry in &entries {
                let entry = SefsDirEntry {
                    ino: entry.ino.0,
                    cookie: entry.cookie,
                    mode: type_bits(entry.kind),
                    name_len: u32::try_from(entry.name.len()).unwrap_or(u32::MAX),
                    name: entry.name.as_ptr(),
                };
                count += 1;
                if take(context, &raw const entry) != 0 {
                    return Ok(count);
                }
            }
        }
    })
}

/// Keeps an inode alive, linked or not, until it is released as often: what an open file does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_acquire(volume: *const SefsVolume, ino: u64) -> c_int {
    status(|| Ok(open(volume)?.acquire(InodeNo(ino))?))
}

/// Gives back `count` acquisitions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_release(volume: *const SefsVolume, ino: u64, count: u64) -> c_int {
    status(|| {
        open(volume)?.release(InodeNo(ino), count);
        Ok(())
    })
}

/// Reads from a regular file: how many bytes, fewer than asked for only at its end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_read(
    volume: *const SefsVolume,
    ino: u64,
    offset: u64,
    buffer: *mut u8,
    len: usize,
) -> i64 {
    call(|| Ok(counted(open(volume)?.read(InodeNo(ino), offset, slice_mut(buffer, len)?)?)))
}

/// Writes into a regular file: how many bytes. Up to 1 MiB is all or nothing. `flags` are `SEFS_WRITE_*`, one at most.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_write(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    offset: u64,
    data: *const u8,
    len: usize,
    flags: u32,
) -> i64 {
    call(|| {
        let mode = match flags {
            0 => WriteMode::Direct,
            SEFS_WRITE_APPEND => WriteMode::Append,
            SEFS_WRITE_KILL_PRIVILEGES => WriteMode::KillPrivileges,
            SEFS_WRITE_BACK => WriteMode::Writeback,
            _ => return Err(Failure::INVALID),
        };
        Ok(counted(open(volume)?.write(&who_is(who)?, InodeNo(ino), offset, slice(data, len)?, mode)?))
    })
}

/// Promises or gives back space; `flags` are `SEFS_ALLOCATE_*`, with the values of fallocate(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_allocate(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    offset: u64,
    len: u64,
    flags: u32,
) -> c_int {
    const PUNCH: u32 = SEFS_ALLOCATE_PUNCH_HOLE | SEFS_ALLOCATE_KEEP_SIZE;
    status(|| {
        let keep_size = flags & SEFS_ALLOCATE_KEEP_SIZE != 0;
        let mode = match flags {
            PUNCH => AllocateMode::PunchHole,
            flags if flags & !SEFS_ALLOCATE_KEEP_SIZE == 0 => AllocateMode::Allocate { keep_size },
            flags if flags & !SEFS_ALLOCATE_KEEP_SIZE == SEFS_ALLOCATE_ZERO_RANGE => {
                AllocateMode::ZeroRange { keep_size }
            }
            _ => return Err(Failure::Volume(Error::Posix(Posix::NotSupported))),
        };
        Ok(open(volume)?.allocate(&who_is(who)?, InodeNo(ino), offset, len, mode)?)
    })
}

/// The offset of the next data (`hole` 0) or hole (`hole` 1) at or after `offset`; `-ENXIO` if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_seek(volume: *const SefsVolume, ino: u64, offset: u64, hole: c_int) -> i64 {
    call(|| {
        let whence = if hole == 0 { Seek::Data } else { Seek::Hole };
        Ok(i64::try_from(open(volume)?.seek(InodeNo(ino), offset, whence)?).unwrap_or(i64::MAX))
    })
}

/// Copies a range between files: how many bytes, perhaps fewer than asked for; 0 at the end of the source.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_copy_range(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    from: u64,
    from_offset: u64,
    to: u64,
    to_offset: u64,
    len: u64,
) -> i64 {
    call(|| {
        let volume = open(volume)?;
        let copied = volume.copy_range(&who_is(who)?, InodeNo(from), from_offset, InodeNo(to), to_offset, len)?;
        Ok(i64::try_from(copied).unwrap_or(i64::MAX))
    })
}

/// An extended attribute: the length of its value, of which as much as fits is in `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_get_xattr(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    name: *const u8,
    name_len: usize,
    buffer: *mut u8,
    len: usize,
) -> i64 {
    call(|| {
        let value = open(volume)?.get_xattr(&who_is(who)?, InodeNo(ino), slice(name, name_len)?)?;
        Ok(copied(&value, slice_mut(buffer, len)?))
    })
}

/// Sets an extended attribute; `flags` are `SEFS_XATTR_*`, with the values of setxattr(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_set_xattr(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    name: *const u8,
    name_len: usize,
    value: *const u8,
    value_len: usize,
    flags: u32,
) -> c_int {
    status(|| {
        let mode = match flags {
            0 => XattrMode::Any,
            SEFS_XATTR_CREATE => XattrMode::Create,
            SEFS_XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Failure::INVALID),
        };
        let (name, value) = (slice(name, name_len)?, slice(value, value_len)?);
        Ok(open(volume)?.set_xattr(&who_is(who)?, InodeNo(ino), name, value, mode)?)
    })
}

/// The names of all extended attributes, each with a zero at its end, as listxattr(2): the length of the list, of which as
/// much as fits is in `buffer`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_list_xattr(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    buffer: *mut u8,
    len: usize,
) -> i64 {
    call(|| {
        let mut list = Vec::new();
        for name in open(volume)?.list_xattr(&who_is(who)?, InodeNo(ino))? {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(copied(&list, slice_mut(buffer, len)?))
    })
}

/// Removes an extended attribute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_remove_xattr(
    volume: *const SefsVolume,
    who: *const SefsCaller,
    ino: u64,
    name: *const u8,
    name_len: usize,
) -> c_int {
    status(|| Ok(open(volume)?.remove_xattr(&who_is(who)?, InodeNo(ino), slice(name, name_len)?)?))
}

/// Space and inodes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_stat_fs(volume: *const SefsVolume, out: *mut SefsStatFs) -> c_int {
    status(|| {
        put(out, open(volume)?.stat_fs().into());
        Ok(())
    })
}

/// Makes everything up to now durable; fsync(2) of anything is this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_sync(volume: *const SefsVolume) -> c_int {
    status(|| Ok(open(volume)?.sync()?))
}

/// Background work: logs and flushes when due, checkpoints, reclaims. A thread of the program calls it again and again;
/// the answer is after how many milliseconds, or -1 for when something was written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_work(volume: *const SefsVolume, idle: c_int, again_ms: *mut i64) -> c_int {
    status(|| {
        let done = open(volume)?.work(idle != 0)?;
        put(again_ms, done.again_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
        Ok(())
    })
}

unsafe fn open<'a>(volume: *const SefsVolume) -> Outcome<&'a Volume> {
    Ok(&lent(volume)?.0)
}

unsafe fn who_is(who: *const SefsCaller) -> Outcome<Caller> {
    match perhaps(who) {
        None => caller(None),
        Some(who) => caller(Some((who, slice(who.groups, who.group_count)?))),
    }
}

/// As much as fits, and the whole length.
fn copied(from: &[u8], to: &mut [u8]) -> i64 {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
    counted(from.len())
}

fn counted(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
