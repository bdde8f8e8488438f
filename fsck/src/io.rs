//! How the tools do their I/O: with pread and pwrite, or through io_uring where the system allows it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use sefs::backend::{Backend, FileBackend};
use sefs_uring::UringBackend;

use crate::report::Tool;

/// How a file backend does its I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum IoKind {
    /// pread, pwrite and fdatasync: the default.
    #[default]
    Sync,
    /// io_uring: the requests of a batch are under way together.
    Uring,
    /// io_uring past the page cache: for images larger than memory, on a disk that is fast by itself.
    UringDirect,
}

impl IoKind {
    /// The blocks of an open image. Where there is no io_uring, or no direct I/O, the tool says so and does without.
    pub fn backend(self, file: File, tool: Tool) -> io::Result<Arc<dyn Backend>> {
        let attempt = match self {
            IoKind::Sync => return Ok(Arc::new(FileBackend::new(file)?)),
            IoKind::Uring => file.try_clone().and_then(|file| UringBackend::new(file, false)),
            IoKind::UringDirect => reopened(&file).and_then(|file| UringBackend::new(file, true)),
        };
        match attempt {
            Ok(backend) => Ok(Arc::new(backend)),
            Err(error) => {
                let wanted = if self == IoKind::Uring { "--io uring" } else { "--io uring-direct" };
                tool.warn(&format!("{wanted}: not to be had here ({error}); going on as with --io sync"));
                Ok(Arc::new(FileBackend::new(file)?))
            }
        }
    }
}

/// The same file with a state of its own: direct I/O is not for whoever else has the file. Its lock stays with the first.
fn reopened(file: &File) -> io::Result<File> {
    let writable = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL)? & nix::libc::O_ACCMODE == nix::libc::O_RDWR;
    File::options().read(true).write(writable).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sefs::backend::{HostBuf, Io};

    #[test]
    fn every_kind_reads_what_another_wrote() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("image");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(1 << 20).unwrap();
        let kinds = [IoKind::Sync, IoKind::Uring, IoKind::UringDirect];
        for (number, kind) in kinds.into_iter().enumerate() {
            let backend = kind.backend(file.try_clone().unwrap(), Tool("test")).unwrap();
            let byte = number as u8 + 1;
            let batch = (0..4).map(|page| {
                let mut buf = backend.buffer(4096);
                buf.bytes_mut().fill(byte);
                Io::Write { offset_bytes: page * 8192, buf }
            });
            backend.wait(backend.submit(batch.collect()).unwrap()).unwrap();
            backend.flush().unwrap();
            for other in kinds {
                let backend = other.backend(file.try_clone().unwrap(), Tool("test")).unwrap();
                let batch = (0..2).map(|page| Io::Read { offset_bytes: page * 8192, buf: HostBuf::zeroed(4096) });
                let read = backend.wait(backend.submit(batch.collect()).unwrap()).unwrap();
                assert!(read.iter().all(|io| matches!(io, Io::Read { buf, .. } if buf.bytes() == [byte; 4096])));
            }
        }
    }
}
