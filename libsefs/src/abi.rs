//! The exported functions that make, open and close what files live in. What callers owe stands at the crate's head.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn, clippy::missing_safety_doc)]

use core::ffi::{CStr, c_char, c_int};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sefs::anchor::AnchorPolicy;
use sefs::env::Env;
use sefs::vfs::{FormatOptions, OpenOptions, Owner};

use crate::error::{self, Failure, Outcome, handle, status};
use crate::host::{SefsAnchor, SefsAnchorOps, SefsBackend, SefsBackendOps, SefsEnvironment, SefsEnvironmentOps};
use crate::raw::{array, lent, perhaps, put, sized, slice, taken};
use crate::values::{
    SEFS_ABI_VERSION, SEFS_OPEN_ABANDON_ANCHOR, SEFS_OPEN_READ_ONLY, SefsError, SefsFormatOptions, SefsKey,
    SefsOpenOptions,
};
use crate::volume::{self, Given, Opening, SefsVolume};

/// What Argon2id may take while a passphrase is tried, unless the program says less.
pub(crate) const PASSPHRASE_BYTES: u64 = 1 << 30;

/// The version of the interface that this library has; at least that of the header that a program was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn sefs_abi_version() -> u32 {
    SEFS_ABI_VERSION
}

/// What the last failed call of this thread failed of. Calls that succeed leave it as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_last_error(out: *mut SefsError) {
    put(out, error::last());
}

/// Opens an image file or block device and locks it, as the tools do, until no volume uses it and it was freed. Null on
/// failure; a missing file is not made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_backend_file(path: *const c_char, writable: c_int) -> *mut SefsBackend {
    handle(|| SefsBackend::file(path_of(path)?, writable != 0))
}

/// Makes a sparse image file of so many bytes. Null on failure; an existing file is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_backend_new_file(path: *const c_char, len_bytes: u64) -> *mut SefsBackend {
    handle(|| SefsBackend::new_file(path_of(path)?, len_bytes))
}

/// Memory of so many bytes, zero at first; what is not written takes none.
#[unsafe(no_mangle)]
pub extern "C" fn sefs_backend_memory(len_bytes: u64) -> *mut SefsBackend {
    handle(|| Ok(SefsBackend::memory(len_bytes)))
}

/// A place that the program's callbacks read and write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_backend_custom(ops: *const SefsBackendOps) -> *mut SefsBackend {
    handle(|| SefsBackend::of(sized(ops)?))
}

/// Frees a handle; volumes that use the place go on. Null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_backend_free(backend: *mut SefsBackend) {
    drop(taken(backend));
}

/// Opens an anchor in a file that the host cannot write to or roll back. Null on failure; a missing one is not made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_anchor_file(path: *const c_char) -> *mut SefsAnchor {
    handle(|| SefsAnchor::file(path_of(path)?, false))
}

/// Makes an anchor in a file. Null on failure; an existing file is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_anchor_new_file(path: *const c_char) -> *mut SefsAnchor {
    handle(|| SefsAnchor::file(path_of(path)?, true))
}

/// An anchor that the program's callbacks read and advance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_anchor_custom(ops: *const SefsAnchorOps) -> *mut SefsAnchor {
    handle(|| SefsAnchor::of(sized(ops)?))
}

/// Frees a handle; volumes that use the anchor go on. Null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_anchor_free(anchor: *mut SefsAnchor) {
    drop(taken(anchor));
}

/// Random bytes and time from the program's callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_environment_custom(ops: *const SefsEnvironmentOps) -> *mut SefsEnvironment {
    handle(|| Ok(SefsEnvironment::of(sized(ops)?)))
}

/// Frees a handle; volumes that use the environment go on. Null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_environment_free(environment: *mut SefsEnvironment) {
    drop(taken(environment));
}

/// Makes a volume that holds an empty root directory. Whatever was in the place is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_format(
    backend: *const SefsBackend,
    key: *const SefsKey,
    options: *const SefsFormatOptions,
) -> c_int {
    status(|| {
        let (backend, options) = (lent(backend)?, sized(options)?);
        let env = env_of(options.environment);
        volume::format(&backend.0, key_of(key)?, format_of(&options, &env)?, &[], &env)
    })
}

/// Opens a volume: authenticates it, replays its log, checks its anchor. Null on failure, and then nothing was written.
/// `options` may be null. One that lies over images (`sefs_count_lowers`) is then given these with `sefs_attach_lower`. Without a key it opens a public packed image, which `options` has to pin.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_open(
    backend: *const SefsBackend,
    key: *const SefsKey,
    options: *const SefsOpenOptions,
) -> *mut SefsVolume {
    handle(|| {
        let backend = lent(backend)?;
        if options.is_null() {
            let opening = Opening { passphrase_bytes: PASSPHRASE_BYTES, env: Env::host() };
            return volume::open(&backend.0, perhaps_key(key)?, &OpenOptions::default(), opening);
        }
        let options = sized(options)?;
        if options.flags > (SEFS_OPEN_READ_ONLY | SEFS_OPEN_ABANDON_ANCHOR) {
            return Err(Failure::INVALID);
        }
        let default = OpenOptions::default();
        let open = OpenOptions {
            read_only: options.flags & SEFS_OPEN_READ_ONLY != 0,
            anchor: perhaps(options.anchor).map(|anchor| anchor.0.clone()),
            abandon_anchor: options.flags & SEFS_OPEN_ABANDON_ANCHOR != 0,
            volume_id: array(options.volume_id),
            root_digest: array(options.root_digest),
            memory_bytes: match options.memory_bytes {
                0 => default.memory_bytes,
                bytes => usize::try_from(bytes).map_err(|_| Failure::INVALID)?,
            },
            commit_ms: if options.commit_ms == 0 { default.commit_ms } else { options.commit_ms },
            ..default
        };
        let passphrase_bytes = if options.passphrase_bytes == 0 { PASSPHRASE_BYTES } else { options.passphrase_bytes };
        let opening = Opening { passphrase_bytes, env: env_of(options.environment) };
        volume::open(&backend.0, perhaps_key(key)?, &open, opening)
    })
}

/// Commits everything, writes a last checkpoint, and frees the volume, whatever the outcome. No other call may be under way
/// on it or come later. Null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_close(volume: *mut SefsVolume) -> c_int {
    status(|| match taken(volume) {
        Some(volume) => Ok(volume.0.close()?),
        None => Ok(()),
    })
}

/// Frees a volume without writing anything more: what was not committed is lost, as in a crash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_abandon(volume: *mut SefsVolume) {
    drop(taken(volume));
}

/// Tells the volume's id, 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sefs_volume_id(volume: *const SefsVolume, out: *mut u8) -> c_int {
    status(|| {
        let id = lent(volume)?.0.info().volume_id;
        put(out.cast::<[u8; 16]>(), id);
        Ok(())
    })
}

/// The options of a new volume.
pub(crate) unsafe fn format_of(options: &SefsFormatOptions, env: &Env) -> Outcome<FormatOptions> {
    let volume_id = match array(options.volume_id) {
        Some(id) => id,
        None => random_id(env)?,
    };
    Ok(FormatOptions {
        size_bytes: options.size_bytes,
        volume_id,
        label: label_of(options.label)?,
        slots: Vec::new(),
        anchor: match perhaps(options.anchor) {
            None => None,
            Some(anchor) => Some((anchor.0.clone(), policy_of(options.anchor_policy)?)),
        },
        root: Owner {
            mode: if options.root_mode == 0 { 0o755 } else { options.root_mode },
            uid: options.root_uid,
            gid: options.root_gid,
        },
    })
}

unsafe fn path_of<'a>(path: *const c_char) -> Outcome<&'a Path> {
    lent(path)?;
    Ok(Path::new(OsStr::from_bytes(CStr::from_ptr(path).to_bytes())))
}

unsafe fn label_of(label: *const c_char) -> Outcome<String> {
    match perhaps(label) {
        None => Ok(String::new()),
        Some(label) => Ok(CStr::from_ptr(label).to_str().map_err(|_| Failure::INVALID)?.into()),
    }
}

pub(crate) unsafe fn key_of(key: *const SefsKey) -> Outcome<Given> {
    let key = lent(key)?;
    Given::of(key.kind, slice(key.bytes, key.len)?)
}

pub(crate) unsafe fn perhaps_key(key: *const SefsKey) -> Outcome<Option<Given>> {
    if key.is_null() { Ok(None) } else { key_of(key).map(Some) }
}

pub(crate) unsafe fn env_of(environment: *const SefsEnvironment) -> Env {
    perhaps(environment).map_or_else(Env::host, |environment| environment.0.clone())
}

fn policy_of(number: u32) -> Outcome<AnchorPolicy> {
    match number {
        0 => Ok(AnchorPolicy::Strict),
        1 => Ok(AnchorPolicy::Checkpoint),
        _ => Err(Failure::INVALID),
    }
}

fn random_id(env: &Env) -> Outcome<[u8; 16]> {
    let mut id = [0; 16];
    env.rng.fill(&mut id).map_err(|_| Failure::Volume(sefs::error::Error::Rng))?;
    // A UUID of version 4.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(id)
}
