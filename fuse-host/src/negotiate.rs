//! What is agreed with the kernel when the session begins.

use std::io;

use fuser::{InitFlags, KernelConfig};

/// Bytes of the longest read or write.
pub(crate) const TRANSFER_BYTES: usize = 1 << 20;
/// The same for the protocol.
const TRANSFER: u32 = 1 << 20;
/// Requests that the kernel sends ahead (readahead, writeback) before it waits.
const BACKGROUND: u16 = 32;

/// Without these the mount would not keep its promises: modes with default ACLs would be wrong.
const NEEDED: InitFlags = InitFlags::FUSE_DONT_MASK.union(InitFlags::FUSE_POSIX_ACL);

/// What is taken where the kernel has it.
///
/// Left out on purpose: `SETXATTR_EXT` (fuser 0.18.0 does not parse its longer request), `AUTO_INVAL_DATA` (nobody else
/// writes), `POSIX_LOCKS` and `FLOCK_LOCKS` (the kernel's own locks are right for one owner), `ATOMIC_O_TRUNC` (opens do
/// not reach the server), `ABORT_ERROR` (fuser ends a session on ENODEV).
const WANTED: [InitFlags; 10] = [
    InitFlags::FUSE_WRITEBACK_CACHE,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Asks for what the kernel offers.
pub(crate) fn negotiate(config: &mut KernelConfig) -> io::Result<()> {
    if let Err(missing) = config.add_capabilities(NEEDED) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("this kernel's FUSE lacks {missing:?}; Linux 4.9 or newer is needed"),
        ));
    }
    for flag in WANTED {
        // Each only saves work; the mount is as correct without it.
        let _ = config.add_capabilities(flag);
    }
    // Each returns the nearest value that would do, where this one would not; the default stays then.
    let _ = config.set_max_write(TRANSFER);
    if let Err(most) = config.set_max_readahead(TRANSFER) {
        let _ = config.set_max_readahead(most);
    }
    let _ = config.set_max_background(BACKGROUND);
    Ok(())
}
