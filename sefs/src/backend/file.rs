//! A backend in a file or on a block device, with pread, pwrite and fdatasync.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::backend::{Backend, BackendError, BackendOperation, Batch, Io, Ticket};

/// A volume in a regular file (sparse) or on a block device.
pub struct FileBackend {
    file: File,
    regular: bool,
}

impl FileBackend {
    /// Opens an existing file or device.
    pub fn open(path: &Path, writable: bool) -> io::Result<FileBackend> {
        FileBackend::new(OpenOptions::new().read(true).write(writable).open(path)?)
    }

    /// Takes an open file over.
    pub fn new(file: File) -> io::Result<FileBackend> {
        let regular = file.metadata()?.is_file();
        Ok(FileBackend { file, regular })
    }
}

fn failed(operation: BackendOperation, offset_bytes: u64) -> impl FnOnce(io::Error) -> BackendError {
    move |failure| {
        let short = failure.kind() == io::ErrorKind::UnexpectedEof;
        let operation = if short { BackendOperation::ShortRead } else { operation };
        BackendError { operation, offset_bytes, errno: failure.raw_os_error().unwrap_or(0) }
    }
}

impl Backend for FileBackend {
    fn submit(&self, mut batch: Batch) -> Result<Ticket, BackendError> {
        for io in &mut batch {
            match io {
                Io::Read { offset_bytes, buf } => {
                    let read = self.file.read_exact_at(buf.bytes_mut(), *offset_bytes);
                    read.map_err(failed(BackendOperation::Read, *offset_bytes))?;
                }
                Io::Write { offset_bytes, buf } => {
                    let written = self.file.write_all_at(buf.bytes(), *offset_bytes);
                    written.map_err(failed(BackendOperation::Write, *offset_bytes))?;
                }
            }
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        match ticket {
            Ticket::Done(batch) => Ok(batch),
            // This backend completes every batch while it is submitted.
            Ticket::Pending(_) => Err(BackendError { operation: BackendOperation::Read, offset_bytes: 0, errno: 22 }),
        }
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.file.sync_data().map_err(failed(BackendOperation::Flush, 0))
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        use nix::fcntl::{FallocateFlags, fallocate};
        if !self.regular {
            return Ok(());
        }
        let (Ok(offset), Ok(len)) = (i64::try_from(offset_bytes), i64::try_from(len_bytes)) else { return Ok(()) };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(self.file.as_fd(), flags, offset, len) {
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(BackendError { operation: BackendOperation::Discard, offset_bytes, errno: errno as i32 }),
        }
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        // The length of a block device is where seeking to its end leads.
        (&self.file).seek(SeekFrom::End(0)).map_err(failed(BackendOperation::Length, 0))
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        if !self.regular || self.len_bytes()? >= len_bytes {
            return Ok(());
        }
        self.file.set_len(len_bytes).map_err(failed(BackendOperation::Grow, len_bytes))
    }
}
