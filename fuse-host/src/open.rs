//! From a request to an open volume: the image is locked first, then its key found, then the volume opened.

use std::path::{Path, PathBuf};

use sefs::vfs::{Notice, OpenOptions, Volume, VolumeInfo};
use sefs_tools::opening::Located;
use sefs_tools::{CryptoKind, Failure, Image, ImageUse};

use crate::TOOL;
use crate::arguments::Request;

/// An open volume, its image locked.
pub(crate) struct Opened {
    pub(crate) volume: Volume,
    /// The image, and those that it lies over: held for as long as the volume is open.
    pub(crate) images: Vec<Image>,
    /// The image's canonical path: what the mount table shows.
    pub(crate) source: PathBuf,
    pub(crate) info: VolumeInfo,
    /// What kind of key opened it; a platform for development says so.
    pub(crate) key_label: String,
    /// Whose cryptography it uses.
    pub(crate) crypto: CryptoKind,
}

/// Opens the volume of a request.
pub(crate) fn open(request: &Request) -> Result<Opened, Failure> {
    let path = &request.image;
    let image_use = if request.read_only { ImageUse::ReadOnly } else { ImageUse::ReadWrite };
    let entry = Located::open_as_it_is(path, image_use)?.enter(&request.key, TOOL)?;
    let options = OpenOptions {
        memory_bytes: request.memory_bytes,
        commit_ms: u64::try_from(request.commit.as_millis()).unwrap_or(u64::MAX),
        ..entry.options()?
    };
    let volume = entry.volume_with(&options)?;
    let info = volume.info();
    for notice in info.notices.iter().filter(|notice| is_warning(notice)) {
        TOOL.warn(&said_of(path, notice));
    }
    Ok(Opened {
        volume,
        source: path.canonicalize().map_err(|error| Failure::io(path, &error))?,
        info,
        key_label: entry.label(),
        crypto: entry.crypto(),
        images: entry.into_images(),
    })
}

/// An unanchored volume, and an image that nothing pins, is what its owner chose; everything else is damage.
fn is_warning(notice: &Notice) -> bool {
    !matches!(notice, Notice::Unanchored | Notice::Unpinned)
}

/// A notice as a line about the image.
pub(crate) fn said_of(image: &Path, notice: &Notice) -> String {
    format!("{}: {notice}", image.display())
}
