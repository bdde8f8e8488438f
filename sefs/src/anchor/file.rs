//! An anchor in a file of a place that the host of the volume cannot write to, or roll back: another machine's disk, a
//! token, the confidential part of a guest.
//!
//! ```text
//! 0 magic `SEFSanc1` │ 8 identity 32 │ 40 counter u64 │ 48 digest 32 │ 80 SHA-256 of bytes 0..80 │ 112 end
//! ```
//! *Security*: the checksum finds accidents, not attacks; the place has to be trusted. An advance writes a new file and
//! renames it over the old one, so that after a crash there is the old state or the new one.
//!
//! *Invariants*: whoever replaces the file holds the lock of the very file that he replaces.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::string::ToString;

use super::{Anchor, AnchorKind, AnchorState, check_step};
use crate::error::AnchorError;
use crate::suite::{OsRng, Rng, RustCrypto, Suite};

const MAGIC: &[u8; 8] = b"SEFSanc1";
const CHECKED_LEN: usize = 80;
const FILE_LEN: usize = 112;

/// An anchor in a file.
pub struct FileAnchor {
    path: PathBuf,
    identity: [u8; 32],
}

impl FileAnchor {
    /// Makes a new anchor with an identity of its own. What exists already is not touched.
    pub fn create(path: &Path) -> Result<FileAnchor, AnchorError> {
        let mut identity = [0; 32];
        OsRng.fill(&mut identity).map_err(|_| AnchorError::Unreachable("no random bytes".to_string()))?;
        let content = encode(&identity, &AnchorState { counter: 0, digest: [0; 32] });
        let mut file = fresh(OpenOptions::new().create_new(true), path).map_err(unreachable)?;
        let written = file.write_all(&content).and_then(|()| file.sync_all()).and_then(|()| sync_directory(path));
        if let Err(failure) = written {
            // Half an anchor would only say that it is malformed.
            let _ = fs::remove_file(path);
            return Err(unreachable(failure));
        }
        Ok(FileAnchor { path: path.to_path_buf(), identity })
    }

    /// Opens an anchor; one that does not exist is [`AnchorError::Missing`].
    pub fn open(path: &Path) -> Result<FileAnchor, AnchorError> {
        let mut file = File::open(path).map_err(unreachable)?;
        let (identity, _) = load(&mut file)?;
        Ok(FileAnchor { path: path.to_path_buf(), identity })
    }

    /// The state that a file holds, if it is still this anchor.
    fn state(&self, file: &mut File) -> Result<AnchorState, AnchorError> {
        let (identity, state) = load(file)?;
        if identity == self.identity { Ok(state) } else { Err(AnchorError::Conflict) }
    }

    /// The file, locked. Another process may have renamed a new one into its place while we waited: then that one counts.
    fn lock(&self) -> Result<File, AnchorError> {
        loop {
            let file = File::open(&self.path).map_err(unreachable)?;
            file.lock().map_err(unreachable)?;
            let ours = file.metadata().map_err(unreachable)?;
            let named = fs::metadata(&self.path).map_err(unreachable)?;
            if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
                return Ok(file);
            }
        }
    }
}

impl Anchor for FileAnchor {
    fn kind(&self) -> AnchorKind {
        AnchorKind::ContentBound
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn read(&self) -> Result<AnchorState, AnchorError> {
        self.state(&mut File::open(&self.path).map_err(unreachable)?)
    }

    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
        let mut locked = self.lock()?;
        check_step(&self.state(&mut locked)?, from, to)?;
        replace(&self.path, &encode(&self.identity, to)).map_err(unreachable)
    }
}

/// Puts new content under the name, durably and in one step.
fn replace(path: &Path, content: &[u8; FILE_LEN]) -> io::Result<()> {
    let mut name = OsString::from(path);
    name.push(".new");
    let temporary = PathBuf::from(name);
    let mut file = fresh(OpenOptions::new().create(true).truncate(true), &temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(path)
}

fn fresh(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.write(true).mode(0o600).open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn encode(identity: &[u8; 32], state: &AnchorState) -> [u8; FILE_LEN] {
    let mut bytes = [0; FILE_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..40].copy_from_slice(identity);
    bytes[40..48].copy_from_slice(&state.counter.to_le_bytes());
    bytes[48..CHECKED_LEN].copy_from_slice(&state.digest);
    let checksum = RustCrypto.sha256(&[&bytes[..CHECKED_LEN]]);
    bytes[CHECKED_LEN..].copy_from_slice(&checksum);
    bytes
}

fn load(file: &mut File) -> Result<([u8; 32], AnchorState), AnchorError> {
    let mut bytes = std::vec::Vec::with_capacity(FILE_LEN + 1);
    // One byte more than an anchor has, to notice longer files without reading them.
    file.take(FILE_LEN as u64 + 1).read_to_end(&mut bytes).map_err(unreachable)?;
    decode(&bytes).ok_or(AnchorError::Malformed)
}

fn decode(bytes: &[u8]) -> Option<([u8; 32], AnchorState)> {
    let bytes: &[u8; FILE_LEN] = bytes.try_into().ok()?;
    let (checked, checksum) = bytes.split_first_chunk::<CHECKED_LEN>()?;
    if checked[..8] != *MAGIC || RustCrypto.sha256(&[checked]) != *checksum {
        return None;
    }
    let counter = u64::from_le_bytes(*checked[40..].first_chunk()?);
    Some((*checked[8..].first_chunk()?, AnchorState { counter, digest: *checked[48..].first_chunk()? }))
}

fn unreachable(failure: io::Error) -> AnchorError {
    match failure.kind() {
        ErrorKind::NotFound => AnchorError::Missing,
        _ => AnchorError::Unreachable(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_promises, state};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_file_anchor_keeps_the_promises() {
        let place = tempfile::tempdir().unwrap();
        check_promises(Arc::new(FileAnchor::create(&place.path().join("anchor")).unwrap()));
    }

    #[test]
    fn opening_never_creates_and_creating_never_replaces() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("anchor");
        assert_eq!(FileAnchor::open(&path).map(drop), Err(AnchorError::Missing));
        assert!(!path.exists());
        let made = FileAnchor::create(&path).unwrap();
        made.advance(&made.read().unwrap(), &state(1)).unwrap();
        assert!(matches!(FileAnchor::create(&path).map(drop), Err(AnchorError::Unreachable(_))));
        let opened = FileAnchor::open(&path).unwrap();
        assert_eq!((opened.identity(), opened.read()), (made.identity(), Ok(state(1))));
        fs::remove_file(&path).unwrap();
        assert_eq!(opened.advance(&state(1), &state(2)), Err(AnchorError::Missing));
        assert!(!path.exists(), "advancing never creates either");
    }

    #[test]
    fn changed_bytes_and_lengths_are_malformed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("anchor");
        FileAnchor::create(&path).unwrap();
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len(), FILE_LEN);
        for at in 0..FILE_LEN {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert_eq!(FileAnchor::open(&path).map(drop), Err(AnchorError::Malformed), "byte {at}");
        }
        for bad in [&good[..FILE_LEN - 1], &[&good[..], &[0]].concat(), &[]] {
            fs::write(&path, bad).unwrap();
            assert_eq!(FileAnchor::open(&path).map(drop), Err(AnchorError::Malformed));
        }
    }

    #[test]
    fn another_anchor_under_the_same_name_is_a_conflict() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("anchor");
        let old = FileAnchor::create(&path).unwrap();
        let start = old.read().unwrap();
        fs::remove_file(&path).unwrap();
        let new = FileAnchor::create(&path).unwrap();
        assert_ne!(old.identity(), new.identity());
        assert_eq!(old.read(), Err(AnchorError::Conflict));
        assert_eq!(old.advance(&start, &state(1)), Err(AnchorError::Conflict));
        assert_eq!(new.read(), Ok(start));
    }

    #[test]
    fn a_temporary_file_from_a_crash_does_no_harm() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("anchor");
        let anchor = FileAnchor::create(&path).unwrap();
        fs::write(place.path().join("anchor.new"), b"half of something much longer than an anchor ".repeat(9)).unwrap();
        anchor.advance(&anchor.read().unwrap(), &state(1)).unwrap();
        assert_eq!(FileAnchor::open(&path).unwrap().read(), Ok(state(1)));
    }
}
