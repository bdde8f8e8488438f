//! The shutdown ioctl (`goingdown`) of XFS and ext4: the volume stops at once, as in a crash, and stays mounted.
//!
//! The number says "the kernel writes 4 bytes back", though in truth it reads 4 bytes of flags. FUSE believes the number and
//! brings no flags along, so they are read where the caller has them: proc(5) shows the arguments of the system call
//! that a thread is in, and its memory. The caller waits for the answer meanwhile.
//!
//! *Security*: only root and whoever mounted may shut a volume down; so the memory that is read belongs to somebody who may
//! do more than this anyway. What it holds decides nothing but how much is flushed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fuser::{Errno, ReplyIoctl};
use nix::sys::stat::{fstat, major, minor};

use crate::mountpoint::Device;
use crate::report::note;
use crate::served::Served;

/// `_IOR('X', 125, __u32)`: `XFS_IOC_GOINGDOWN`, `EXT4_IOC_SHUTDOWN`.
pub(crate) const COMMAND: u32 = 0x8004_587d;

/// What is made durable before the volume stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flush {
    /// Everything, what the kernel has in its cache too.
    All,
    /// What has reached the volume.
    Log,
    /// Nothing.
    Nothing,
}

/// The mount as it can be reached from outside.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) point: PathBuf,
    pub(crate) device: Device,
}

/// Whether this user may shut the volume down.
pub(crate) fn allowed(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::getuid().as_raw()
}

/// What this thread, which waits in ioctl(2), asks for.
pub(crate) fn requested(thread: u32) -> Result<Flush, Errno> {
    let flags = flags_of(thread).map_err(|_| Errno::EFAULT)?;
    match flags {
        0 => Ok(Flush::All),
        1 => Ok(Flush::Log),
        2 => Ok(Flush::Nothing),
        _ => Err(Errno::EINVAL),
    }
}

/// Shuts the volume down and answers. On a thread of its own: it waits for requests that the event loops serve.
pub(crate) fn run(served: &Served, place: &Place, flush: Flush, reply: ReplyIoctl) {
    match shut(served, place, flush) {
        Ok(()) => {
            note(&"shut down; every request fails from now on, until it is unmounted");
            reply.ioctl(0, &[]);
        }
        Err(errno) => reply.error(errno),
    }
}

/// If something cannot be flushed that should be, the volume goes on. A second time is no error, as with ext4.
fn shut(served: &Served, place: &Place, flush: Flush) -> Result<(), Errno> {
    if served.is_shut() {
        return Ok(());
    }
    if flush == Flush::All {
        place.write_back()?;
        // The kernel has sent what it held when this returns; some do not wait until it was written (6.18 does not).
        served.wait_for_quiet();
    }
    if flush != Flush::Nothing {
        served.read(|volume| volume.sync())?;
    }
    served.shut();
    Ok(())
}

impl Place {
    /// Has the kernel write all that it holds for this mount.
    fn write_back(&self) -> Result<(), Errno> {
        // The caller has a file of this mount open, so one more descriptor does not make it busier.
        let top = File::open(&self.point).map_err(Errno::from)?;
        let device = fstat(&top).map_err(|_| Errno::EIO)?.st_dev;
        // Something else was mounted over it: what lies below cannot be reached from here.
        let ours = (major(device), minor(device)) == (self.device.major.into(), self.device.minor.into());
        if !ours {
            return Err(Errno::EBUSY);
        }
        nix::unistd::syncfs(top.as_fd()).map_err(|errno| Errno::from_i32(errno as i32))
    }
}

fn flags_of(thread: u32) -> io::Result<u32> {
    let call = std::fs::read_to_string(format!("/proc/{thread}/syscall"))?;
    let address = argument(&call).ok_or(io::ErrorKind::InvalidData)?;
    let mut flags = [0; 4];
    File::open(format!("/proc/{thread}/mem"))?.read_exact_at(&mut flags, address)?;
    #[expect(clippy::host_endian_bytes, reason = "it is a number in the memory of a process of this machine")]
    Ok(u32::from_ne_bytes(flags))
}

/// The third argument of the ioctl(2) in a line of /proc/PID/syscall: `number descriptor command argument ...`, all but the
/// first in hexadecimal.
fn argument(call: &str) -> Option<u64> {
    let hexadecimal = |field: &str| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok();
    let mut fields = call.split_whitespace().skip(2);
    // A command is 32 bits; what the caller left above them is not looked at.
    let command = hexadecimal(fields.next()?)? & u64::from(u32::MAX);
    if command == u64::from(COMMAND) { hexadecimal(fields.next()?) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_found_in_a_call_of_this_command_only() {
        assert_eq!(argument("16 0x3 0x8004587d 0x7ffd13aef3c0 0x0 0x0 0x0 0x7ffd 0x7f11\n"), Some(0x7ffd_13ae_f3c0));
        assert_eq!(argument("16 0x3 0xffffffff8004587d 0x10 0x0 0x0 0x0 0x7ffd 0x7f11\n"), Some(0x10));
        assert_eq!(argument("16 0x3 0x5401 0x7ffd13aef3c0 0x0 0x0 0x0 0x7ffd 0x7f11\n"), None);
        for other in ["running", "-1 0x7ffd 0x7f11", "", "16 3 8004587d"] {
            assert_eq!(argument(other), None, "{other}");
        }
    }
}
