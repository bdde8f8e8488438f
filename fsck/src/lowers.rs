//! Images below a volume: found by `--lower`, or by the notes that the volume keeps on them, locked, and given to the volume.
//!
//! A note is an [`ImageSpec`] as text: the image's absolute path, and the names of the places of a key that is its own.
//!
//! *Security*: which image it is, the volume says by root digest, and what the note leads to is refused if it is another. A note is
//! authenticated as all that the volume holds, is as secret, and tells whoever has the key paths of the host where the volume was
//! made; a secret never stands in it. An image that names no key is tried with the volume's own.
//!
//! *Invariants*: images are locked for reading, so that many volumes lie over one, and stay locked until the volume's own lock goes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use sefs::error::{Error, Incompatible};
use sefs::format::{ImageType, LOWER_NOTE_MAX};
use sefs::keys::VolumeKey;
use sefs::vfs::{Lower, LowerRecord, NewLower, Volume};

use crate::image::{Image, ImageUse};
use crate::image_spec::ImageSpec;
use crate::key_source::{Environment, KeyArgs, KeySource};
use crate::names::escaped;
use crate::opening::Located;
use crate::provider::CryptoKind;
use crate::report::{Failure, Tool};
use crate::root_digest::RootDigest;
use crate::volume_id::VolumeId;

/// The images below one volume, opened when they are first asked for and once.
pub struct Below {
    /// The volume's own options.
    args: KeyArgs,
    tool: Tool,
    images: OnceLock<Vec<LowerImage>>,
}

/// An image to be put below a volume, locked.
pub struct LowerImage {
    /// As it was named, or noted.
    pub spec: ImageSpec,
    /// What the library is given.
    pub lower: Lower,
    image: Image,
    crypto: CryptoKind,
}

impl Below {
    pub(crate) fn new(args: KeyArgs, tool: Tool) -> Below {
        Below { args, tool, images: OnceLock::new() }
    }

    /// Gives an open volume the images that it lies over.
    pub(crate) fn attach(&self, volume: &mut Volume, path: &Path, source: &KeySource) -> Result<(), Failure> {
        let table = volume.lowers().to_vec();
        for image in self.opened(Some(&table), path, source)? {
            volume.attach_lower(&image.lower, &image.crypto.host_env()).map_err(|error| image.refused(&error, path))?;
        }
        Ok(())
    }

    /// The images that were given to the volume; if it never opened, those that the caller named.
    pub(crate) fn images(&self, path: &Path, source: &KeySource) -> Result<Vec<Lower>, Failure> {
        Ok(self.opened(None, path, source)?.iter().map(|image| image.lower.clone()).collect())
    }

    /// The locks alone.
    pub(crate) fn into_images(self) -> impl Iterator<Item = Image> {
        self.images.into_inner().unwrap_or_default().into_iter().map(|lower| lower.image)
    }

    fn opened(&self, table: Option<&[LowerRecord]>, path: &Path, source: &KeySource) -> Result<&[LowerImage], Failure> {
        if let Some(images) = self.images.get() {
            return Ok(images);
        }
        let mut images = Vec::new();
        for (index, spec) in self.specs(table, path)?.into_iter().enumerate() {
            if !spec.path.exists() {
                return Err(Failure::new(spec.path.display(), "it is not there")
                    .below(path)
                    .way_out("name where it is now with --lower IMAGE[,KEY]"));
            }
            let image = LowerImage::open(spec, &self.args, std::slice::from_ref(source), self.tool)
                .map_err(|failure| failure.below(path))?;
            if let Some(wanted) = table.and_then(|table| table.get(index)) {
                image.demand(wanted, path)?;
            }
            images.push(image);
        }
        Ok(self.images.get_or_init(|| images))
    }

    /// How the images are to be found.
    fn specs(&self, table: Option<&[LowerRecord]>, path: &Path) -> Result<Vec<ImageSpec>, Failure> {
        let (given, needed) = (&self.args.lower, table.map(<[LowerRecord]>::len));
        if needed == Some(0) {
            refuse_below_none(given, path)?;
        }
        if given.is_empty() {
            return table.unwrap_or_default().iter().map(|record| noted(record, path)).collect();
        }
        match needed {
            Some(needed) if needed != given.len() => {
                let error = Incompatible::Lowers { needed, given: given.len() };
                Err(Failure::volume(path, &error.into()))
            }
            Some(_) | None => Ok(given.clone()),
        }
    }
}

impl LowerImage {
    /// Locks the image and finds its key: its own, else, where the options in `args` name one, what `sources` were read from them;
    /// else what is named for this image, as for any.
    pub(crate) fn open(
        spec: ImageSpec,
        args: &KeyArgs,
        sources: &[KeySource],
        tool: Tool,
    ) -> Result<LowerImage, Failure> {
        spec.refuse_what_images_have_not()?;
        let mut located = Located::open(&spec.path, ImageUse::ReadOnly)?;
        let key = spec.done_as(args);
        let found = match located.header.image {
            ImageType::Volume => {
                return Err(Failure::new(
                    spec.path.display(),
                    "it is no packed image, and no other lies below a volume",
                )
                .way_out("make one with mkfs.sefs --from DIR --read-only"));
            }
            ImageType::Public if key.has_key() => {
                return Err(Failure::usage(spec.path.display(), "it is public: no key authenticates it")
                    .way_out("leave its key away"));
            }
            ImageType::Public => None,
            ImageType::Packed => Some(find_key(&located, &spec, &key, args, sources, tool)?),
        };
        if key.volume_id.is_some_and(|wanted| wanted.0 != located.header.volume_id) {
            return Err(Failure::volume(&spec.path, &Incompatible::VolumeId.into()));
        }
        located.choose_io(&key, tool)?;
        let lower = Lower { backend: located.backend.clone(), key: found.map(Into::into) };
        let crypto = key.crypto.unwrap_or_default();
        Ok(LowerImage { spec, lower, image: located.image, crypto })
    }

    /// For a volume that is to be made over it: bound to the digest that was named, else to the one that stands there.
    pub(crate) fn as_new(&self) -> Result<NewLower, Failure> {
        let root_digest = match self.spec.key.root_digest {
            Some(digest) => digest.0,
            None => Volume::read_root_digest(&*self.lower.backend, &self.crypto.host_env())
                .map_err(|error| Failure::volume(&self.spec.path, &error))?,
        };
        Ok(NewLower { image: self.lower.clone(), root_digest: Some(root_digest), note: self.spec.note()? })
    }

    /// What is to be said where nothing but the image itself says which it is.
    pub(crate) fn taken_as_it_stands(&self, new: &NewLower) -> Option<String> {
        match (new.root_digest, &new.image.key, self.spec.key.root_digest) {
            (Some(digest), None, None) => Some(format!(
                "{} is public, and no root digest was given: the volume is bound to the one that stands there, {}",
                self.spec.path.display(),
                RootDigest(digest)
            )),
            _ => None,
        }
    }

    /// The image's name and its root digest, for people.
    pub(crate) fn bound(&self, new: &NewLower) -> (String, String) {
        let name = escaped(self.spec.path.as_os_str().as_encoded_bytes());
        (name, new.root_digest.map(|digest| RootDigest(digest).to_string()).unwrap_or_default())
    }

    /// Demands what can be seen before the image is authenticated, so that another one is not taken for a wrong key, and what the
    /// caller demands beside the volume.
    fn demand(&self, wanted: &LowerRecord, volume: &Path) -> Result<(), Failure> {
        let header = Volume::read_header(&*self.lower.backend);
        let header = header.map_err(|error| Failure::volume(&self.spec.path, &error))?;
        if header.volume_id != wanted.volume_id {
            let (its, needed) = (VolumeId(header.volume_id), VolumeId(wanted.volume_id));
            return Err(self.is_another(&format!("its id is {its}, not {needed}"), volume));
        }
        match self.spec.key.root_digest {
            Some(digest) if digest.0 != wanted.root_digest => {
                let needed = RootDigest(wanted.root_digest);
                Err(Failure::new(self.spec.path.display(), format!("{} was made over {needed}", volume.display()))
                    .way_out("give that root digest, or leave it away: the volume is bound to it in any case"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What the library said when the image was put below `volume`.
    fn refused(&self, error: &Error, volume: &Path) -> Failure {
        match error {
            Error::Incompatible(Incompatible::RootDigest) => self.is_another("its root digest differs", volume),
            Error::Incompatible(Incompatible::VolumeId) => self.is_another("its id differs", volume),
            _ => Failure::volume(&self.spec.path, error).below(volume),
        }
    }

    fn is_another(&self, how: &str, volume: &Path) -> Failure {
        let reason = format!("it is not the image that {} was made over: {how}", volume.display());
        Failure::new(self.spec.path.display(), reason)
            .way_out("give that one with --lower IMAGE[,KEY], or see debug.sefs upgrade")
    }
}

impl ImageSpec {
    /// The text that leads back to the image from anywhere on this host. What opens it by the volume's own key is not in it, nor what
    /// the volume itself binds. Wrong usage: it is longer than a volume keeps.
    pub fn note(&self) -> Result<Vec<u8>, Failure> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Failure::io(path, &error));
        let mut note = Vec::new();
        put_escaped(&mut note, absolute(&self.path)?.as_os_str().as_bytes());
        let mut put = |name: &str, value: &[u8]| {
            note.extend_from_slice(format!(",{name}=").as_bytes());
            put_escaped(&mut note, value);
        };
        let key = &self.key;
        let files = [("key-file", key.key_file.as_slice()), ("passphrase-file", key.passphrase_file.as_slice())];
        for (name, paths) in files.into_iter().chain([("share-file", &key.share_file[..])]) {
            // Standard input is nowhere to come back to.
            for path in paths.iter().filter(|path| path.as_path() != Path::new("-")) {
                put(name, absolute(path)?.as_os_str().as_bytes());
            }
        }
        if let Some(platform) = &key.platform {
            put("platform", platform.as_bytes());
        }
        if key.allow_development {
            note.extend_from_slice(b",allow-development");
        }
        if note.len() > LOWER_NOTE_MAX {
            let reason = format!("its paths have {} bytes, and a volume notes at most {LOWER_NOTE_MAX}", note.len());
            return Err(Failure::usage(self.path.display(), reason).way_out("use shorter paths"));
        }
        ImageSpec::parse(std::ffi::OsStr::from_bytes(&note)).map(|_| note)
    }

    fn refuse_what_images_have_not(&self) -> Result<(), Failure> {
        let refused = |reason: &str, way_out: &str| Err(Failure::usage(self.path.display(), reason).way_out(way_out));
        if self.key.anchor.is_some() || self.key.abandon_anchor {
            return refused("a packed image has no anchor", "leave it away");
        }
        if !self.key.lower.is_empty() {
            return refused("a packed image lies over no other", "give --lower once for each image");
        }
        Ok(())
    }
}

/// Refuses images that are named for what lies over none.
pub(crate) fn refuse_below_none(given: &[ImageSpec], path: &Path) -> Result<(), Failure> {
    match given.is_empty() {
        true => Ok(()),
        false => Err(Failure::usage(path.display(), "it lies over no image").way_out("leave --lower away")),
    }
}

fn find_key(
    located: &Located,
    spec: &ImageSpec,
    key: &KeyArgs,
    args: &KeyArgs,
    sources: &[KeySource],
    tool: Tool,
) -> Result<VolumeKey, Failure> {
    let is_named = key.has_key() || !args.has_key() && key.names_key(&spec.path, &Environment::host())?;
    if is_named {
        let source = key.key_source(&spec.path)?;
        source.warnings.iter().for_each(|warning| tool.warn(warning));
        return located.key_of_volume(&source);
    }
    let mut failure = None;
    for source in sources {
        match located.key_of_volume(source) {
            Ok(key) => return Ok(key),
            Err(error) => failure = Some(error),
        }
    }
    // The volume's key opens the volume, so what is wrong is that the image has another.
    let failure = failure.unwrap_or_else(|| Failure::usage(spec.path.display(), "no key is given"));
    Err(failure.way_out(format_args!("if its key is not the volume's, {}", spec.naming())))
}

/// How the image is found that a record is about.
fn noted(record: &LowerRecord, volume: &Path) -> Result<ImageSpec, Failure> {
    let note = std::ffi::OsStr::from_bytes(&record.note);
    ImageSpec::parse(note).ok().filter(|spec| spec.path.is_absolute()).ok_or_else(|| {
        let digest = RootDigest(record.root_digest);
        let reason =
            format!("it lies over the image {digest}, and its note does not say where: {}", escaped(&record.note));
        Failure::new(volume.display(), reason).way_out("give that image with --lower IMAGE[,KEY]")
    })
}

/// As [`ImageSpec::parse`] takes it back.
fn put_escaped(note: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        if matches!(byte, b',' | b'\\') {
            note.push(b'\\');
        }
        note.push(byte);
    }
}
