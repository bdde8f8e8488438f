//! The exported functions for volumes over packed images. What callers owe stands at the crate's head.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn, clippy::missing_safety_doc)]

use core::ffi::c_int;

use sefs::format::LowerRecord;
use sefs::vfs::NewLower;

use crate::abi::{PASSPHRASE_BYTES, env_of, format_of, key_of, perhaps_key};
use crate::error::{Failure, Outcome, call, status};
use crate::host::SefsBackend;
use crate::raw::{array, lent, lent_mut, put, sized, slice, slice_mut};
use crate::values::{SefsFormatOptions, SefsKey, SefsLowerInfo, SefsNewLower};
use crate::volume::{self, SefsVolume};

/// Makes a volume over packed images, the topmost first: it has all that they have, and what is changed is stored in it. It is
/// bound to them by their root digests. Root directory and owner are the images'. Whatever was in the place is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_format_over(
    backend: *const SefsBackend,
    key: *const SefsKey,
    options: *const SefsFormatOptions,
    lowers: *const *const SefsNewLower,
    lower_count: usize,
) -> c_int {
    status(|| {
        let (backend, options) = (lent(backend)?, sized(options)?);
        let env = env_of(options.environment);
        let mut images = Vec::new();
        for lower in slice(lowers, lower_count)? {
            images.push(new_lower(&sized(*lower)?)?);
        }
        if images.is_empty() {
            return Err(Failure::INVALID);
        }
        volume::format(&backend.0, key_of(key)?, format_of(&options, &env)?, &images, &env)
    })
}

/// Tells how many images the volume lies over; 0 for one that stands alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_count_lowers(volume: *const SefsVolume) -> i64 {
    call(|| counted(lent(volume)?.0.lowers().len()))
}

/// Tells which image the volume lies over at a place, from 0 down: its id, its root digest, and how long its note is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_get_lower(volume: *const SefsVolume, place: usize, out: *mut SefsLowerInfo) -> c_int {
    status(|| {
        let record = record(volume, place)?;
        let note_len = record.note.len() as u64;
        put(out, SefsLowerInfo { volume_id: record.volume_id, root_digest: record.root_digest, note_len });
        Ok(())
    })
}

/// Fills `buffer` with the note on an image, cut to what fits, and tells how long the whole note is. It is what `sefs_format_over`
/// was given, or of a volume that mkfs.sefs made the image's path and the names of its key sources.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_get_lower_note(
    volume: *const SefsVolume,
    place: usize,
    buffer: *mut u8,
    len: usize,
) -> i64 {
    call(|| {
        let (note, buffer) = (&record(volume, place)?.note, slice_mut(buffer, len)?);
        let fits = note.len().min(buffer.len());
        buffer[..fits].copy_from_slice(&note[..fits]);
        counted(note.len())
    })
}

/// Puts the next image below an open volume, from the topmost down: all of them, before any call but the three above and those that
/// free the volume. No other call may be under way on it. A public image has no key. Another image than the volume was made over
/// is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_attach_lower(
    volume: *mut SefsVolume,
    backend: *const SefsBackend,
    key: *const SefsKey,
) -> c_int {
    status(|| {
        let SefsVolume(volume, opening) = lent_mut(volume)?;
        let lower = volume::lower(&lent(backend)?.0, perhaps_key(key)?, opening.passphrase_bytes)?;
        Ok(volume.attach_lower(&lower, &opening.env)?)
    })
}

unsafe fn record<'a>(volume: *const SefsVolume, place: usize) -> Outcome<&'a LowerRecord> {
    lent(volume)?.0.lowers().get(place).ok_or(Failure::INVALID)
}

unsafe fn new_lower(lower: &SefsNewLower) -> Outcome<NewLower> {
    Ok(NewLower {
        image: volume::lower(&lent(lower.backend)?.0, perhaps_key(lower.key)?, PASSPHRASE_BYTES)?,
        root_digest: array(lower.root_digest),
        note: slice(lower.note, lower.note_len)?.to_vec(),
    })
}

fn counted(count: usize) -> Outcome<i64> {
    i64::try_from(count).map_err(|_| Failure::INVALID)
}
