//! Where the content of archives waits until it is packed: a file without a name, beside the image.
//!
//! *Security*: the content stands there in plain, readable for this process only, and is gone when the process is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file. Bytes are appended, then read from anywhere.
pub(crate) struct Spool {
    file: File,
    directory: PathBuf,
    /// Bytes that stand behind those in the file.
    unwritten: Vec<u8>,
    written_bytes: u64,
}

/// A part of a file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it stands in its file.
    pub(crate) offset: u64,
    /// Where it stands in the spool.
    pub(crate) at: u64,
    /// Its bytes.
    pub(crate) len_bytes: u64,
}

impl Spool {
    /// Makes an empty one.
    pub(crate) fn new(directory: &Path) -> io::Result<Spool> {
        let (unwritten, directory) = (Vec::with_capacity(UNWRITTEN_BYTES), directory.to_path_buf());
        Ok(Spool { file: tempfile::tempfile_in(&directory)?, directory, unwritten, written_bytes: 0 })
    }

    /// Where it is, for messages.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds bytes of a file that stand at `offset`, behind its other `pieces`. Zeros alone become a hole.
    pub(crate) fn append(&mut self, pieces: &mut Vec<Piece>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let at = self.written_bytes + self.unwritten.len() as u64;
        let len_bytes = bytes.len() as u64;
        match pieces.last_mut() {
            Some(last) if last.offset + last.len_bytes == offset && last.at + last.len_bytes == at => {
                last.len_bytes += len_bytes;
            }
            _ => pieces.push(Piece { offset, at, len_bytes }),
        }
        self.unwritten.extend_from_slice(bytes);
        if self.unwritten.len() >= UNWRITTEN_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is not written; it comes before all reading.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.unwritten, self.written_bytes)?;
        self.written_bytes += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }

    /// Reads what was appended.
    pub(crate) fn read(&self, at: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len_bytes];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

const UNWRITTEN_BYTES: usize = 1 << 20;
