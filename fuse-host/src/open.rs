//! From a request to an open volume: the image is locked first, then its key found, then the volume opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::backend::{Backend, FileBackend};
use sefs::vfs::{Notice, OpenOptions, Volume, VolumeInfo};
use sefs_tools::{CryptoKind, Failure, Image, ImageUse};

use crate::arguments::Request;

/// Memory that a passphrase's key derivation may take.
const ARGON2_BYTES: u64 = 1 << 30;

/// An open volume, its image locked.
pub(crate) struct Opened {
    pub(crate) volume: Volume,
    /// Held for as long as the volume is open.
    pub(crate) image: Image,
    /// The image's canonical path: what the mount table shows.
    pub(crate) source: PathBuf,
    pub(crate) info: VolumeInfo,
    /// What kind of key opened it; a platform for development says so.
    pub(crate) key_label: String,
    /// Whose cryptography it uses.
    pub(crate) crypto: CryptoKind,
    /// What the tool should say.
    pub(crate) warnings: Vec<String>,
}

/// Opens the volume of a request.
pub(crate) fn open(request: &Request) -> Result<Opened, Failure> {
    let path = &request.image;
    let image_use = if request.read_only { ImageUse::ReadOnly } else { ImageUse::ReadWrite };
    let image = Image::open(path, image_use)?;
    let source = path.canonicalize().map_err(|error| Failure::io(path, &error))?;
    let key_source = request.key.key_source(path)?;
    let file = image.file().try_clone().map_err(|error| Failure::io(path, &error))?;
    let backend: Arc<dyn Backend> = Arc::new(FileBackend::new(file).map_err(|error| Failure::io(path, &error))?);
    let of_volume = |error: sefs::error::Error| Failure::volume(path, &error);
    let header = Volume::read_header(&*backend).map_err(of_volume)?;
    let key = key_source.open_key(path, &header, ARGON2_BYTES)?;
    let options = OpenOptions {
        read_only: request.read_only,
        anchor: key_source.anchor.as_ref().map(|anchor| anchor.open(&key)).transpose().map_err(of_volume)?,
        abandon_anchor: key_source.abandon_anchor,
        volume_id: key_source.volume_id.map(|id| id.0),
        memory_bytes: request.memory_bytes,
        commit_ms: u64::try_from(request.commit.as_millis()).unwrap_or(u64::MAX),
        ..OpenOptions::default()
    };
    let volume = Volume::open(backend, &key, &options, &key_source.crypto.host_env()).map_err(of_volume)?;
    let info = volume.info();
    let key_label = key_source.label();
    let crypto = key_source.crypto;
    let mut warnings = key_source.warnings;
    warnings.extend(info.notices.iter().filter(|notice| is_warning(notice)).map(|notice| said_of(path, notice)));
    Ok(Opened { volume, image, source, info, key_label, crypto, warnings })
}

/// An unanchored volume is what its owner chose; everything else is damage.
fn is_warning(notice: &Notice) -> bool {
    !matches!(notice, Notice::Unanchored)
}

/// A notice as a line about the image.
pub(crate) fn said_of(image: &Path, notice: &Notice) -> String {
    format!("{}: {notice}", image.display())
}
