//! From a path and a key to an open volume: the image is locked first, then its key found, then the volume opened.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::anchor::Anchor;
use sefs::backend::{Backend, FileBackend};
use sefs::check::{CheckOptions, CheckSummary, Event, check, check_public};
use sefs::format::{HEADER_LEN, Header, ImageType};
use sefs::keys::VolumeKey;
use sefs::vfs::{Env, Lower, OpenOptions, Volume};

use crate::anchor::AnchorSpec;
use crate::image::{Image, ImageUse};
use crate::key_source::{KeyArgs, KeySource};
use crate::lowers;
use crate::lowers::Below;
use crate::provider::CryptoKind;
use crate::report::{Failure, PIN_NEEDED, Tool};
use crate::root_digest::RootDigest;

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
    below: Below,
}

/// A located image that may be opened: with its key, or a public one with its root digest.
pub enum Entry {
    /// With a key.
    Unlocked(Box<Unlocked>),
    /// A public image.
    Pinned(Box<Pinned>),
}

/// A public image and what the caller demands of it.
pub struct Pinned {
    /// Where it is.
    pub located: Located,
    root_digest: RootDigest,
    volume_id: Option<[u8; 16]>,
    crypto: CryptoKind,
}

impl Located {
    /// As [`Located::open`]; a packed image, which nobody writes to, is opened for reading whatever is wanted.
    pub fn open_as_it_is(path: &Path, image_use: ImageUse) -> Result<Located, Failure> {
        // A hint: what it leads to is opened as what it then is.
        let is_packed = || {
            let (file, mut bytes) = (File::open(path).ok()?, vec![0; HEADER_LEN]);
            file.read_exact_at(&mut bytes, 0).ok()?;
            Some(Header::decode(&bytes).ok()?.image.is_packed())
        };
        let image_use = if is_packed() == Some(true) { ImageUse::ReadOnly } else { image_use };
        Located::open(path, image_use)
    }

    /// Whether it says that it is packed.
    pub fn is_packed(&self) -> bool {
        self.header.image.is_packed()
    }

    /// Finds what lets the image in: its key, or for a public image the root digest that the caller gave.
    pub fn enter(mut self, key: &KeyArgs, tool: Tool) -> Result<Entry, Failure> {
        if self.header.image != ImageType::Public {
            return self.unlock(key, tool).map(|unlocked| Entry::Unlocked(Box::new(unlocked)));
        }
        key.refuse_contradictions()?;
        if key.has_key() {
            return Err(Failure::usage(self.path.display(), "it is public: no key authenticates it")
                .way_out("give --root-digest and no key"));
        }
        if key.anchor.is_some() {
            return Err(
                Failure::usage(self.path.display(), "a packed image has no anchor").way_out("leave --anchor away")
            );
        }
        lowers::refuse_below_none(&key.lower, &self.path)?;
        let root_digest = key.root_digest.ok_or_else(|| {
            Failure::usage(self.path.display(), "it is public: only a root digest tells whether it is the right one")
                .way_out(PIN_NEEDED)
        })?;
        self.choose_io(key, tool)?;
        let (volume_id, crypto) = (key.volume_id.map(|id| id.0), key.crypto.unwrap_or_default());
        Ok(Entry::Pinned(Box::new(Pinned { located: self, root_digest, volume_id, crypto })))
    }

    pub(crate) fn choose_io(&mut self, key: &KeyArgs, tool: Tool) -> Result<(), Failure> {
        if let Some(kind) = key.io {
            let file = self.image.file().try_clone();
            let backend = file.and_then(|file| kind.backend(file, tool));
            self.backend = backend.map_err(|error| Failure::io(&self.path, &error))?;
        }
        Ok(())
    }

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
        let volume_key = self.find_key(|header| source.open_key(&self.path, header, ARGON2_BYTES), source.crypto)?;
        self.choose_io(key, tool)?;
        Ok(Unlocked { located: self, key: volume_key, source, below: Below::new(key.clone(), tool) })
    }

    /// The key that `source` gives, which was read for the volume that this image lies below.
    pub(crate) fn key_of_volume(&self, source: &KeySource) -> Result<VolumeKey, Failure> {
        self.find_key(|header| source.open_key_of_any(&self.path, header, ARGON2_BYTES), source.crypto)
    }

    /// The key in the slots of the header. A change of the volume key that was cut short can leave slots of two keys, or a copy with
    /// parts of both: then what counts is that a copy authenticates.
    fn find_key(
        &self,
        from: impl Fn(&Header) -> Result<VolumeKey, Failure>,
        crypto: CryptoKind,
    ) -> Result<VolumeKey, Failure> {
        let env = crypto.host_env();
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
        let mut volume = self.bare(options).map_err(|error| self.failed(&error))?;
        self.below.attach(&mut volume, &self.located.path, &self.source)?;
        Ok(volume)
    }

    /// Opens the volume without the images that it lies over: only what concerns its header and state can be asked.
    pub fn bare_volume(&self) -> Result<Volume, Failure> {
        self.bare(&self.options()?).map_err(|error| self.failed(&error))
    }

    fn bare(&self, options: &OpenOptions) -> sefs::error::Result<Volume> {
        Volume::open(self.located.backend.clone(), &self.key, options, &self.env())
    }

    /// The images that the volume lies over, for a check or a repair. A volume that does not open has those that the caller named.
    pub fn lowers(&self) -> Result<Vec<Lower>, Failure> {
        let alone = OpenOptions { read_only: true, ..self.options()? };
        let path = &self.located.path;
        if let Ok(mut volume) = self.bare(&alone) {
            // Says of each image what is wrong with it, which a check does not.
            self.below.attach(&mut volume, path, &self.source)?;
        }
        self.below.images(path, &self.source)
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
            root_digest: self.source.root_digest.map(|digest| digest.0),
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

impl Entry {
    /// Where it is.
    pub fn located(&self) -> &Located {
        match self {
            Entry::Unlocked(unlocked) => &unlocked.located,
            Entry::Pinned(pinned) => &pinned.located,
        }
    }

    /// The locks alone, for as long as a volume is open.
    pub fn into_images(self) -> Vec<Image> {
        match self {
            Entry::Unlocked(unlocked) => {
                let Unlocked { located, below, .. } = *unlocked;
                std::iter::once(located.image).chain(below.into_images()).collect()
            }
            Entry::Pinned(pinned) => vec![pinned.located.image],
        }
    }

    /// The key, of which public images have none.
    pub fn unlocked(&self) -> Option<&Unlocked> {
        match self {
            Entry::Unlocked(unlocked) => Some(unlocked),
            Entry::Pinned(_) => None,
        }
    }

    /// Opens the volume, for writing if the image was opened for that.
    pub fn volume(&self) -> Result<Volume, Failure> {
        self.volume_with(&self.options()?)
    }

    /// Opens the volume with changed options.
    pub fn volume_with(&self, options: &OpenOptions) -> Result<Volume, Failure> {
        match self {
            Entry::Unlocked(unlocked) => unlocked.volume_with(options),
            Entry::Pinned(_) => self.try_bare(options).map_err(|error| self.failed(&error)),
        }
    }

    /// Opens the volume without the images that it lies over: only what concerns its header and state can be asked.
    pub fn bare_volume(&self) -> Result<Volume, Failure> {
        self.try_bare(&self.options()?).map_err(|error| self.failed(&error))
    }

    /// The same with changed options and the library's own words.
    pub fn try_bare(&self, options: &OpenOptions) -> sefs::error::Result<Volume> {
        match self {
            Entry::Unlocked(unlocked) => unlocked.bare(options),
            Entry::Pinned(pinned) => Volume::open_public(pinned.located.backend.clone(), options, &self.env()),
        }
    }

    /// Checks it, over the images that it lies over.
    pub fn check(&self, options: &CheckOptions, on: &mut dyn FnMut(Event)) -> Result<CheckSummary, Failure> {
        let backend = self.located().backend.clone();
        let summary = match self {
            Entry::Unlocked(unlocked) => {
                let options = CheckOptions { lowers: unlocked.lowers()?, ..options.clone() };
                check(backend, &unlocked.key, &options, &self.env(), on)
            }
            Entry::Pinned(_) => check_public(backend, options, &self.env(), on),
        };
        summary.map_err(|error| self.failed(&error))
    }

    /// How it is to be opened.
    pub fn options(&self) -> Result<OpenOptions, Failure> {
        match self {
            Entry::Unlocked(unlocked) => unlocked.options(),
            Entry::Pinned(pinned) => Ok(OpenOptions {
                read_only: true,
                volume_id: pinned.volume_id,
                root_digest: Some(pinned.root_digest.0),
                ..OpenOptions::default()
            }),
        }
    }

    /// Whose cryptography is used.
    pub fn crypto(&self) -> CryptoKind {
        match self {
            Entry::Unlocked(unlocked) => unlocked.source.crypto,
            Entry::Pinned(pinned) => pinned.crypto,
        }
    }

    /// What lets it in, for people.
    pub fn label(&self) -> String {
        match self {
            Entry::Unlocked(unlocked) => unlocked.source.label(),
            Entry::Pinned(_) => "root digest".into(),
        }
    }

    /// What the volume needs from this host.
    pub fn env(&self) -> Env {
        self.crypto().host_env()
    }

    /// What the library said, about this image.
    pub fn failed(&self, error: &sefs::error::Error) -> Failure {
        Failure::volume(&self.located().path, error)
    }
}

/// Memory that a passphrase's key derivation may take.
const ARGON2_BYTES: u64 = 1 << 30;
