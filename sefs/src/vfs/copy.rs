//! Copying between files without the caller's memory: copy_file_range(2).

use crate::error::{Posix, Result};
use crate::types::{BLOCK_SIZE_U64, InodeNo};
use crate::vfs::allocate::{Span, zero};
use crate::vfs::attr::require_regular;
use crate::vfs::resize::extend;
use crate::vfs::{ATOMIC_WRITE_MAX, Caller, FILE_SIZE_MAX, Seek, Volume, WriteMode, file, write};

/// Bytes of data that one call copies; callers come back for more.
const CALL_MAX: u64 = 64 << 20;

/// Where a copy goes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The file.
    pub(super) ino: InodeNo,
    /// Where in it.
    pub(super) offset: u64,
}

/// Copies a range; holes stay holes.
pub(super) fn copy(volume: &Volume, caller: &Caller, from: Place, to: Place, len: u64) -> Result<u64> {
    let size = regular_size(volume, from.ino)?;
    regular_size(volume, to.ino)?;
    let len = len.min(size.saturating_sub(from.offset));
    if to.offset > FILE_SIZE_MAX - len.min(FILE_SIZE_MAX) {
        return Err(Posix::FileTooBig.into());
    }
    if from.ino == to.ino && from.offset.abs_diff(to.offset) < len {
        return Err(Posix::InvalidArgument.into());
    }
    let (mut done, mut data) = (0, 0);
    while done < len && data < CALL_MAX {
        let (from, to) = (from.ahead(done), to.ahead(done));
        let step = match copy_step(volume, caller, from, to, len - done) {
            Ok(step) => step,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        if step.bytes == 0 {
            break;
        }
        done += step.bytes;
        data += if step.is_data { step.bytes } else { 0 };
    }
    Ok(done)
}

struct Step {
    bytes: u64,
    is_data: bool,
}

/// Copies one piece of data, or one hole.
fn copy_step(volume: &Volume, caller: &Caller, from: Place, to: Place, len: u64) -> Result<Step> {
    let hole_end = match file::seek(volume, from.ino, from.offset, Seek::Data) {
        Ok(data) => data,
        // No data up to the end; the end is where the caller's `len` ends at the latest.
        Err(error) if error == Posix::NoSuchOffset.into() => from.offset.saturating_add(len),
        Err(error) => return Err(error),
    };
    let hole = (hole_end - from.offset).min(len);
    if hole > 0 {
        copy_hole(volume, caller, to, hole)?;
        return Ok(Step { bytes: hole, is_data: false });
    }
    // A whole number of blocks from a block's start, so that the pieces that follow are aligned.
    let ahead = from.offset % BLOCK_SIZE_U64;
    let most = usize::try_from(len).unwrap_or(usize::MAX).min(ATOMIC_WRITE_MAX - usize::try_from(ahead).unwrap_or(0));
    let mut bytes = alloc::vec![0; most];
    let count = file::read(volume, from.ino, from.offset, &mut bytes)?;
    let written = write::write(volume, caller, to.ino, to.offset, &bytes[..count], WriteMode::Direct)?;
    Ok(Step { bytes: written as u64, is_data: true })
}

/// Makes a range read as zeros, without space, and part of the file.
fn copy_hole(volume: &Volume, caller: &Caller, to: Place, len: u64) -> Result<()> {
    let size = regular_size(volume, to.ino)?;
    if to.offset < size {
        zero(volume, caller, to.ino, Span::new(to.offset, len)?)?;
    }
    let end = to.offset.saturating_add(len);
    if end > size {
        extend(volume, caller, to.ino, end)?;
    }
    Ok(())
}

fn regular_size(volume: &Volume, ino: InodeNo) -> Result<u64> {
    volume.inodes.hold(ino).shared(&volume.store, |inode| {
        require_regular(inode)?;
        Ok(inode.size)
    })
}

impl Place {
    fn ahead(self, by: u64) -> Place {
        Place { offset: self.offset.saturating_add(by), ..self }
    }
}
