//! Mounting without being root: fusermount3, which is set-user-id, mounts and hands the kernel's end over.
//!
//! The protocol (libfuse, `util/fusermount.c`): the environment names a socket in `_FUSE_COMMFD`; one byte comes through
//! it with the descriptor. The socket is the helper's standard input, so that no descriptor has to be made inheritable.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MntFlags;

use crate::attach::{MountError, Wanted, helper_options};
use crate::received;

const HELPER: &str = "fusermount3";

/// Mounts.
pub(crate) fn attach(wanted: &Wanted) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::NoHelper)?;
    let helper = Command::new(HELPER)
        .arg("-o")
        .arg(helper_options(wanted))
        .arg("--")
        .arg(&wanted.point)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    let received = received::descriptor(ours.as_raw_fd());
    let output = helper.wait_with_output().map_err(MountError::NoHelper)?;
    match received {
        Ok(connection) if output.status.success() => Ok(connection),
        _ => Err(MountError::Helper(said(&output.stderr))),
    }
}

/// Unmounts; what does not work is reported as "busy", the one cause that a lazy second try can help.
pub(crate) fn detach(point: &Path, flags: MntFlags) -> Result<(), Errno> {
    let mode = if flags.contains(MntFlags::MNT_DETACH) { "-uz" } else { "-u" };
    let output = Command::new(HELPER).arg(mode).arg("-q").arg("--").arg(point).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) if mode == "-u" => Err(Errno::EBUSY),
        Ok(_) => Err(Errno::EPERM),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
}

/// The helper's last line, without its name.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason");
    line.trim_start_matches("fusermount3: ").trim().to_owned()
}

/// What `received` returns when the helper closed the socket without sending anything.
pub(crate) fn nothing_came() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "fusermount3 sent no descriptor")
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn the_helpers_reason_is_its_last_line() {
        assert_eq!(said(b"warning\nfusermount3: mountpoint is not empty\n\n"), "mountpoint is not empty");
        assert_eq!(said(b""), "it gave no reason");
    }
}
