//! Takes over a file descriptor that another process sent through a socket. The only unsafe code of this crate.
//!
//! *Safety*: recvmsg(2) with `SCM_RIGHTS` makes new descriptors in this process, which nothing else knows. Each is made
//! an [`OwnedFd`] here, once and at once, so each has exactly one owner.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::fusermount::nothing_came;

/// The first descriptor that comes through the socket; further ones are closed.
pub(crate) fn descriptor(socket: RawFd) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = loop {
        match recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut owned = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just made these descriptors for this process (recvmsg(2), unix(7)); they are open
            // and nothing else owns them, since this is the only place that saw their numbers.
            owned.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    owned.into_iter().next().ok_or_else(nothing_came)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IoSlice, Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    #[test]
    fn a_sent_descriptor_reaches_the_same_file() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut pipe, mut end) = std::io::pipe().unwrap();
        let rights = [end.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None).unwrap();
        let mut received = File::from(descriptor(ours.as_raw_fd()).unwrap());
        received.write_all(b"through").unwrap();
        end.flush().unwrap();
        drop((received, end));
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_closed_socket_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(descriptor(ours.as_raw_fd()).is_err());
    }
}
