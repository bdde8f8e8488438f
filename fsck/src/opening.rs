//! From a path and a key to an open volume: the image is locked first, then its key found, then the volume opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::anchor::Anchor;
use sefs::backend::{Backend, FileBackend};
use sefs::format::Header;
use sefs::keys::VolumeKey;
use sefs::vfs::{Env, OpenOptions, Volume};

use crate::anchor::AnchorSpec;
use crate::image::{Image, ImageUse};
use crate::key_source::{KeyArgs, KeySource};
use crate::report::{Failure, Tool};

/// A locked image whose header can be read, as yet without a key.
pub struct Located {
    /// The path as the caller gave it.
    pub path: PathBuf,
    /// The image's blocks.
    pub backend: Arc<dyn Backend>,
    /// The header, not authenticated.
    pub header: Header,
    /// The image, locked for as long as this is there.
    pub image: Image,
    image_use: ImageUse,
}

/// A located image with its key.
pub struct Unlocked {
    /// Where it is.
    pub located: Located,
    /// The volume key.
    pub key: VolumeKey,
    /// Where the key came from, and what else the caller demands.
    pub source: KeySource,
}

impl Located {
    /// Locks the image at `path` and reads its header.
    pub fn open(path: &Path, image_use: ImageUse) -> Result<Located, Failure> {
        let image = Image::open(path, image_use)?;
        let io = |error| Failure::io(path, &error);
        let file = image.file().try_clone().map_err(io)?;
        let backend: Arc<dyn Backend> = Arc::new(FileBackend::new(file).map_err(io)?);
        let header = Volume::read_header(&*backend).map_err(|error| Failure::volume(path, &error))?;
        Ok(Located { path: path.to_path_buf(), backend, header, image, image_use })
    }

    /// Finds the key, and from here on does I/O as is wanted.
    pub fn unlock(mut self, key: &KeyArgs, tool: Tool) -> Result<Unlocked, Failure> {
        let source = key.key_source(&self.path)?;
        source.warnings.iter().for_each(|warning| tool.warn(warning));
        let volume_key = self.find_key(&source)?;
        if let Some(kind) = key.io {
            let file = self.image.file().try_clone();
            let backend = file.and_then(|file| kind.backend(file, tool));
            self.backend = backend.map_err(|error| Failure::io(&self.path, &error))?;
        }
        Ok(Unlocked { located: self, key: volume_key, source })
    }

    /// The key in the slots of the header. A change of the volume key that was cut short can leave slots of two keys, or a copy with
    /// parts of both: then what counts is that a copy authenticates.
    fn find_key(&self, source: &KeySource) -> Result<VolumeKey, Failure> {
        let env = source.crypto.host_env();
        let from = |header: &Header| source.open_key(&self.path, header, ARGON2_BYTES);
        let fits = |key: &VolumeKey| Volume::is_key_of_header(&*self.backend, key, &env);
        let first = from(&self.header);
        if first.as_ref().is_ok_and(fits) {
            return first;
        }
        let headers = Volume::read_headers(&*self.backend).unwrap_or_default();
        let others = headers.iter().filter(|header| **header != self.header);
        others.filter_map(|header| from(header).ok()).find(fits).map_or(first, Ok)
    }
}

impl Unlocked {
    /// Opens the volume, for writing if the image was opened for that.
    pub fn volume(&self) -> Result<Volume, Failure> {
        self.volume_with(&self.options()?)
    }

    /// Opens the volume with changed options.
    pub fn volume_with(&self, options: &OpenOptions) -> Result<Volume, Failure> {
        let Unlocked { located, key, .. } = self;
        Volume::open(located.backend.clone(), key, options, &self.env()).map_err(|error| self.failed(&error))
    }

    /// What the volume needs from this host.
    pub fn env(&self) -> Env {
        self.source.crypto.host_env()
    }

    /// How the volume is to be opened.
    pub fn options(&self) -> Result<OpenOptions, Failure> {
        Ok(OpenOptions {
            read_only: self.located.image_use == ImageUse::ReadOnly,
            anchor: self.anchor()?,
            abandon_anchor: self.source.abandon_anchor,
            volume_id: self.source.volume_id.map(|id| id.0),
            ..OpenOptions::default()
        })
    }

    fn anchor(&self) -> Result<Option<Arc<dyn Anchor>>, Failure> {
        let Some(spec) = &self.source.anchor else { return Ok(None) };
        let place = match spec {
            AnchorSpec::File(path) => path.clone(),
            #[cfg(feature = "tpm")]
            AnchorSpec::Tpm(_) => PathBuf::from(spec.to_string()),
        };
        spec.open(&self.key).map(Some).map_err(|error| Failure::volume(&place, &error))
    }

    /// What the library said, about this image.
    pub fn failed(&self, error: &sefs::error::Error) -> Failure {
        Failure::volume(&self.located.path, error)
    }
}

/// Memory that a passphrase's key derivation may take.
const ARGON2_BYTES: u64 = 1 << 30;
