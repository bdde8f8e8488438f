//! What C lends, as borrows that live as long as the call.
//!
//! *Safety*: each function relies on what the crate's head says that callers owe, and on nothing else. Null is checked, and
//! so is every count that a slice could not have.
#![allow(unsafe_code)]

use crate::error::{Failure, Outcome};

/// One value that must be there.
pub(crate) unsafe fn lent<'a, T>(pointer: *const T) -> Outcome<&'a T> {
    // SAFETY: not null, hence a value that stays for the call.
    unsafe { pointer.as_ref() }.ok_or(Failure::NULL)
}

/// One value that must be there and that nobody else uses during the call.
pub(crate) unsafe fn lent_mut<'a, T>(pointer: *mut T) -> Outcome<&'a mut T> {
    // SAFETY: not null, hence a value that stays for the call, and the caller's alone.
    unsafe { pointer.as_mut() }.ok_or(Failure::NULL)
}

/// One value that may be missing.
pub(crate) unsafe fn perhaps<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: null, or a value that stays for the call.
    unsafe { pointer.as_ref() }
}

/// `count` values; null is allowed for none.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> Outcome<&'a [T]> {
    match () {
        () if count == 0 => Ok(&[]),
        () if pointer.is_null() => Err(Failure::NULL),
        () if count > isize::MAX as usize / size_of::<T>() => Err(Failure::INVALID),
        // SAFETY: `count` values stand there, which nobody changes during the call, and a slice can be so long.
        () => Ok(unsafe { core::slice::from_raw_parts(pointer, count) }),
    }
}

/// `count` values to be filled.
pub(crate) unsafe fn slice_mut<'a, T>(pointer: *mut T, count: usize) -> Outcome<&'a mut [T]> {
    match () {
        () if count == 0 => Ok(&mut []),
        () if pointer.is_null() => Err(Failure::NULL),
        () if count > isize::MAX as usize / size_of::<T>() => Err(Failure::INVALID),
        // SAFETY: `count` values can be written there, nobody else uses them during the call, and a slice can be so long.
        () => Ok(unsafe { core::slice::from_raw_parts_mut(pointer, count) }),
    }
}

/// An array of exactly `N` bytes that may be missing.
pub(crate) unsafe fn array<const N: usize>(pointer: *const u8) -> Option<[u8; N]> {
    // SAFETY: null, or `N` bytes, for which every alignment will do.
    unsafe { pointer.cast::<[u8; N]>().as_ref() }.copied()
}

/// Hands a value out; null if the caller does not want it.
pub(crate) unsafe fn put<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: not null, hence room for a value, whose old content needs no dropping: it is C's.
        unsafe { pointer.write(value) };
    }
}

/// A struct that C made and that may be longer or shorter than the one known here. It begins with its own size.
///
/// `T` has to be such that all-zero bytes, and any bytes that C puts there, are a value: integers, pointers, and functions in
/// [`Option`].
pub(crate) unsafe fn sized<T: Copy>(pointer: *const T) -> Outcome<T> {
    // SAFETY: not null; whatever its length, its first field is the size.
    let size = unsafe { pointer.cast::<usize>().as_ref() }.copied().ok_or(Failure::NULL)?;
    if size < size_of::<usize>() || size > 1 << 16 {
        return Err(Failure::INVALID);
    }
    // SAFETY: `size` bytes stand there.
    let bytes = unsafe { core::slice::from_raw_parts(pointer.cast::<u8>(), size) };
    let known = bytes.len().min(size_of::<T>());
    // A newer caller that uses a field that is not known here must not be taken for one that does not.
    if bytes[known..].iter().any(|byte| *byte != 0) {
        return Err(Failure::INVALID);
    }
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes fit both; all-zero bytes, changed to those of C, are a value of such a type.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast::<u8>(), known);
        Ok(value.assume_init())
    }
}

/// Gives a value to C, which brings it back to [`taken`].
pub(crate) fn given<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes back what was [`given`]; null is nothing.
pub(crate) unsafe fn taken<T>(pointer: *mut T) -> Option<T> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: it came from `given`, and is brought back once.
    Some(*unsafe { Box::from_raw(pointer) })
}
