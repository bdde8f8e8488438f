//! Copying between files without the caller's memory: copy_file_range(2).

use crate::error::{Posix, Result};
use crate::types::InodeNo;
use crate::vfs::allocate::{Span, zero};
use crate::vfs::attr::require_regular;
use crate::vfs::file::within_block;
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

/// Copies one piece of data, or one hole, in one step. What one step can hold is not divided for the holes in it.
fn copy_step(volume: &Volume, caller: &Caller, from: Place, to: Place, len: u64) -> Result<Step> {
    let hole_end = match file::seek(volume, from.ino, from.offset, Seek::Data) {
        Ok(data) => data,
        // No data up to the end, which is where `len` ends at the latest, and earlier if the file was cut meanwhile.
        Err(error) if error == Posix::NoSuchOffset.into() => {
            regular_size(volume, from.ino)?.min(from.offset.saturating_add(len))
        }
        Err(error) => return Err(error),
    };
    let hole = hole_end.saturating_sub(from.offset).min(len);
    if hole > 0 && (hole == len || len > ATOMIC_WRITE_MAX as u64) {
        zero(volume, caller, to.ino, Span::new(to.offset, hole)?, false)?;
        return Ok(Step { bytes: hole, is_data: false });
    }
    let mut bytes = alloc::vec![0; piece_len(from.offset, len)];
    let count = file::read(volume, from.ino, from.offset, &mut bytes)?;
    let written = write::write(volume, caller, to.ino, to.offset, &bytes[..count], WriteMode::Direct)?;
    Ok(Step { bytes: written as u64, is_data: true })
}

/// All of what one step can hold; of more, up to a block's end, so that the pieces that follow are aligned.
fn piece_len(offset: u64, len: u64) -> usize {
    match usize::try_from(len) {
        Ok(len) if len <= ATOMIC_WRITE_MAX => len,
        _ => ATOMIC_WRITE_MAX - within_block(offset),
    }
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
