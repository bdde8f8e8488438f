//! A backend in a file or on a block device, with pread, pwrite and fdatasync.
//!
//! Long sequential writes are handed to the disk while they come, 4 MiB at a time, so that a flush finds little left to do.
//! `sync_file_range` would say just that; there is no safe binding for it. `posix_fadvise(DONTNEED)` starts writeback of the
//! dirty pages of its range too, and gives up the clean ones, which nobody misses: they hold ciphertext of blocks that were
//! just written, and whoever reads files keeps their plaintext.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::pool::BufferPool;
use super::{Backend, BackendError, BackendOperation, Batch, HostBuf, Io, Ticket};
use crate::sync::Mutex;

/// Sequentially written bytes after which writeback is started.
const WRITEBACK_BYTES: u64 = 4 << 20;

/// A volume in a regular file (sparse) or on a block device. Locking the image is the caller's business.
pub struct FileBackend {
    file: File,
    regular: bool,
    /// Bytes from–to that were written one after the other since writeback was last started.
    sequential: Mutex<(u64, u64)>,
    buffers: BufferPool,
}

impl FileBackend {
    /// Opens an existing file or device.
    pub fn open(path: &Path, writable: bool) -> io::Result<FileBackend> {
        FileBackend::new(OpenOptions::new().read(true).write(writable).open(path)?)
    }

    /// Makes a new sparse file of `len_bytes` zeros. What exists already is not touched.
    pub fn create(path: &Path, len_bytes: u64) -> io::Result<FileBackend> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(len_bytes)?;
        FileBackend::new(file)
    }

    /// Takes an open file over.
    pub fn new(file: File) -> io::Result<FileBackend> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"));
        }
        let (sequential, buffers) = (Mutex::new((0, 0)), BufferPool::new(1));
        Ok(FileBackend { file, regular: kind.is_file(), sequential, buffers })
    }

    /// Starts writeback when enough was written in one piece; for backends that write to the same file by other means. Advice
    /// that is not taken costs nothing but time.
    pub fn hand_over(&self, offset_bytes: u64, len_bytes: usize) {
        let end = offset_bytes.saturating_add(u64::try_from(len_bytes).unwrap_or(u64::MAX));
        let (from, to) = {
            let mut sequential = self.sequential.lock();
            let from = if sequential.1 == offset_bytes { sequential.0 } else { offset_bytes };
            let due = end - from >= WRITEBACK_BYTES;
            *sequential = (if due { end } else { from }, end);
            if !due {
                return;
            }
            (from, end)
        };
        if let (Ok(from), Ok(len)) = (i64::try_from(from), i64::try_from(to - from)) {
            let _ = posix_fadvise(&self.file, from, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
    }
}

impl Backend for FileBackend {
    fn buffer(&self, len_bytes: usize) -> HostBuf {
        self.buffers.take(len_bytes)
    }

    fn give_back(&self, buf: HostBuf) {
        self.buffers.put(buf);
    }

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
                    self.hand_over(*offset_bytes, buf.bytes().len());
                }
            }
        }
        Ok(Ticket::Done(batch))
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        super::completed(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.file.sync_data().map_err(failed(BackendOperation::Flush, 0))
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        let failure = |errno| BackendError { operation: BackendOperation::Discard, offset_bytes, errno };
        let (Ok(offset), Ok(len)) = (i64::try_from(offset_bytes), i64::try_from(len_bytes)) else {
            return Err(failure(Errno::EINVAL as i32));
        };
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, punch, offset, len) {
            // Not every filesystem and device can; discarding is a favour to the host.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(errno) => Err(failure(errno as i32)),
        }
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        // A block device tells its length only by where its end is. All I/O names its offset, so that the file's own
        // position matters to nobody.
        (&self.file).seek(SeekFrom::End(0)).map_err(failed(BackendOperation::Length, 0))
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        if self.len_bytes()? >= len_bytes {
            return Ok(());
        }
        if !self.regular {
            let errno = Errno::ENOSPC as i32;
            return Err(BackendError { operation: BackendOperation::Grow, offset_bytes: len_bytes, errno });
        }
        self.file.set_len(len_bytes).map_err(failed(BackendOperation::Grow, len_bytes))
    }
}

fn failed(operation: BackendOperation, offset_bytes: u64) -> impl FnOnce(io::Error) -> BackendError {
    move |failure| {
        let short = failure.kind() == io::ErrorKind::UnexpectedEof;
        let operation = if short { BackendOperation::ShortRead } else { operation };
        BackendError { operation, offset_bytes, errno: failure.raw_os_error().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::check_promises;
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn keeps_the_promises_of_a_backend() {
        let place = tempfile::tempdir().unwrap();
        check_promises(&FileBackend::create(&place.path().join("image"), 1 << 20).unwrap());
    }

    #[test]
    fn opening_never_creates_and_creating_never_replaces() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        assert!(FileBackend::open(&path, true).is_err());
        assert!(!path.exists());
        FileBackend::create(&path, 8192).unwrap();
        assert!(FileBackend::create(&path, 4096).is_err());
        assert_eq!(FileBackend::open(&path, false).unwrap().len_bytes(), Ok(8192));
        assert!(FileBackend::new(File::open(place.path()).unwrap()).is_err(), "a directory is no image");
    }

    #[test]
    fn failures_carry_the_hosts_error_number() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        FileBackend::create(&path, 8192).unwrap();
        let read_only = FileBackend::open(&path, false).unwrap();
        let failure = read_only.write_at(4096, HostBuf::zeroed(4096));
        let expected =
            BackendError { operation: BackendOperation::Write, offset_bytes: 4096, errno: Errno::EBADF as i32 };
        assert_eq!(failure, Err(expected));
        let failure = read_only.discard(0, 4096).map_err(|failure| (failure.operation, failure.errno));
        assert_eq!(failure, Err((BackendOperation::Discard, Errno::EBADF as i32)));
    }

    #[test]
    fn discarding_gives_blocks_back() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        let backend = FileBackend::create(&path, 4 << 20).unwrap();
        let mut full = HostBuf::zeroed(2 << 20);
        full.bytes_mut().fill(7);
        backend.write_at(0, full).unwrap();
        backend.flush().unwrap();
        let before = path.metadata().unwrap().blocks();
        backend.discard(0, 1 << 20).unwrap();
        let after = path.metadata().unwrap().blocks();
        assert!(after == before || after <= before - 2048, "{before} blocks before, {after} after");
        assert_eq!(backend.len_bytes(), Ok(4 << 20));
        assert!(backend.read_at(1 << 20, 4096).unwrap().bytes().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn only_long_sequential_writes_are_handed_over() {
        let place = tempfile::tempdir().unwrap();
        let backend = FileBackend::create(&place.path().join("image"), 16 << 20).unwrap();
        let write = |offset_bytes| {
            backend.write_at(offset_bytes, HostBuf::zeroed(1 << 20)).unwrap();
            *backend.sequential.lock()
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(write(MIB), (MIB, 2 * MIB));
        assert_eq!(write(2 * MIB), (MIB, 3 * MIB));
        assert_eq!(write(9 * MIB), (9 * MIB, 10 * MIB), "elsewhere begins anew");
        write(10 * MIB);
        write(11 * MIB);
        assert_eq!(write(12 * MIB), (13 * MIB, 13 * MIB), "4 MiB were handed over");
    }
}
