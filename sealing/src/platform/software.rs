//! `software`: SGX's identity model and checks over a root key in a file.
//!
//! Seal key = HKDF-Expand(root key, "sealing 1 software seal key" ‖ derivation structure, 32): the structure is the one of
//! [`super::Derivation`], with a zero owner epoch, and the root key is a random HKDF pseudorandom key.
//!
//! Root file: 96 bytes, {magic `SEALroot`, version u16 = 1, reserved 6, salt 32, root key 32, zero 16}: the reserved parts
//! and the length are checked, so a truncated or foreign file is never taken for a key.
//!
//! *Security*: whoever reads the file has every key, so this is for development, and it says so. The file is made once, by
//! [`RootFile::create`], which never replaces one. Opening never creates: a missing file is an error, so that data never get
//! sealed under a key that silently is a new one. A file that others than its owner can read is refused.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::egetkey::Derivation;
use super::{Assurance, Identity, KeyRequest, Platform, PlatformError, PlatformKind, Versions};
use crate::prk::Prk;
use crate::rng::Rng;
use crate::secret::Secret;

/// A root key from a protected file.
pub struct RootFile(Prk);

/// Why there is no root key.
#[derive(Debug)]
#[non_exhaustive]
pub enum RootError {
    /// There is no such file. It is made on purpose only.
    Missing,
    /// There is one already, and it is not replaced.
    Exists,
    /// Others than its owner can read or write it.
    NotPrivate,
    /// It is not a root file, or was cut short.
    Malformed,
    /// The operating system failed.
    Io(std::io::Error),
    /// The random generator failed; nothing was made.
    Rng,
}

/// An enclave in name only.
pub struct Software {
    root: RootFile,
    identity: Identity,
    cpu_svn: [u8; 16],
}

impl RootFile {
    /// Reads the root key.
    pub fn open(path: &Path) -> Result<RootFile, RootError> {
        let mut file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => RootError::Missing,
            _ => RootError::Io(error),
        })?;
        let metadata = file.metadata().map_err(RootError::Io)?;
        if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
            return Err(RootError::NotPrivate);
        }
        let mut bytes = Zeroizing::new([0; ROOT_LEN + 1]);
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(RootError::Io(error)),
            }
        }
        let whole = filled == ROOT_LEN && bytes[..16] == ROOT_HEAD && bytes[80..ROOT_LEN] == [0; 16];
        // A key that reads as zeros is a file that was never written to the end.
        if !whole || bytes[48..80].iter().all(|&byte| byte == 0) {
            return Err(RootError::Malformed);
        }
        Ok(RootFile(Prk::extract(&bytes[16..48], &bytes[48..80])))
    }

    /// Makes a root file, readable by its owner only, durable before this returns. One that exists stays.
    pub fn create(path: &Path, rng: &dyn Rng) -> Result<(), RootError> {
        let mut bytes = Zeroizing::new([0; ROOT_LEN]);
        bytes[..16].copy_from_slice(&ROOT_HEAD);
        rng.fill(&mut bytes[16..80]).map_err(|_| RootError::Rng)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            match error.kind() {
                ErrorKind::AlreadyExists => RootError::Exists,
                _ => RootError::Io(error),
            }
        })?;
        file.write_all(&bytes[..]).and_then(|()| file.sync_all()).map_err(RootError::Io)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(RootError::Io)
    }
}

impl Software {
    /// Code with this identity. `cpu_svn` has one version in each byte.
    pub fn new(root: RootFile, identity: Identity, cpu_svn: [u8; 16]) -> Software {
        Software { root, identity, cpu_svn }
    }
}

impl Platform for Software {
    fn kind(&self) -> PlatformKind {
        PlatformKind::Software
    }

    fn assurance(&self) -> Assurance {
        Assurance::Development
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn versions(&self) -> Versions {
        Versions { cpu_svn: self.cpu_svn, isv_svn: self.identity.isv_svn, config_svn: self.identity.config_svn }
    }

    fn derive(&self, request: &KeyRequest) -> Result<Secret, PlatformError> {
        let exists = request.cpu_svn.iter().zip(&self.cpu_svn).all(|(requested, current)| requested <= current);
        let derivation = Derivation::check(request, &self.identity, &request.cpu_svn, exists, &[0; 16])?;
        Ok(seal_key(&self.root.0, LABEL, &derivation))
    }
}

/// The key of a derivation under a root.
pub(super) fn seal_key(root: &Prk, label: &[u8], derivation: &Derivation) -> Secret {
    Secret::new(root.expand(&[label, derivation.bytes()]).expose().to_vec())
}

impl core::fmt::Display for RootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RootError::Missing => f.write_str("there is no root key here, and opening never makes one"),
            RootError::Exists => f.write_str("there is a root key already, and it is never replaced"),
            RootError::NotPrivate => f.write_str("it is not a file that only its owner can read"),
            RootError::Malformed => f.write_str("it is not a whole root key"),
            RootError::Io(error) => write!(f, "{error}"),
            RootError::Rng => f.write_str("the random generator failed"),
        }
    }
}

impl core::error::Error for RootError {}

const LABEL: &[u8] = b"sealing 1 software seal key";
const ROOT_LEN: usize = 96;
/// Magic, version 1, reserved.
const ROOT_HEAD: [u8; 16] = *b"SEALroot\x01\0\0\0\0\0\0\0";
