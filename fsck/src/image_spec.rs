//! An image and what opens it in one argument, `IMAGE[,KEY]`, for commands that take more images than one:
//! `base.sefs,key-file=/run/key,volume-id=…`. What follows the path are the mount options of [`KeyArgs`].
//!
//! A backslash takes the next character as it is, so that a path may hold a comma or a backslash.
//!
//! *Security*: an image that names no key is tried with the key options of the command's first image, never with what pins
//! that image: its volume id, its anchor and its root digest belong to no other. A public image is admitted by a digest of its own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use sefs::format::ImageType;

use crate::image::ImageUse;
use crate::key_source::{Environment, KeyArgs};
use crate::mount_options;
use crate::opening::{Entry, Located};
use crate::report::{Failure, Tool};

/// An image, and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Where it is.
    pub path: PathBuf,
    /// What was named for it, and for it alone.
    pub key: KeyArgs,
}

impl ImageSpec {
    /// Reads one on a command line.
    pub fn value_parser() -> impl TypedValueParser<Value = ImageSpec> {
        OsStringValueParser::new().try_map(|text| ImageSpec::parse(&text))
    }

    /// Reads `IMAGE[,KEY]`. Wrong usage: no path, an option that does not say how an image is opened, one given twice.
    pub fn parse(text: &OsStr) -> Result<ImageSpec, Failure> {
        let (path, options) = split_path(text.as_bytes());
        if path.is_empty() {
            return Err(Failure::usage(text.display(), "it names no image").way_out("write IMAGE[,KEY]"));
        }
        let path = PathBuf::from(OsString::from_vec(path));
        let options = std::str::from_utf8(options).map_err(|_| {
            Failure::usage(path.display(), "its options are not UTF-8").way_out("name its key by another path")
        })?;
        let mut key = KeyArgs::default();
        for item in mount_options::split(options) {
            let (name, value) = item.split_once('=').map_or((&item[..], None), |(name, value)| (name, Some(value)));
            if !key.take_option(name, value)? {
                return Err(Failure::usage(format_args!("option {name}"), "it does not say how an image is opened")
                    .way_out("leave it away, or write \\, for a comma in a path"));
            }
        }
        Ok(ImageSpec { path, key })
    }

    /// Locks the image and finds what lets it in: what was named for it; else, unless it is public, the key in `first`, the options
    /// of the command's first image; else `SEFS_KEY_FILE` and the table of images, as for any image.
    pub fn open(&self, first: &KeyArgs, image_use: ImageUse, tool: Tool) -> Result<Entry, Failure> {
        let located = Located::open(&self.path, image_use)?;
        let key = match located.header.image {
            ImageType::Public => self.pinned(first)?,
            ImageType::Volume | ImageType::Packed => self.unlocking(first)?,
        };
        located.enter(&key, tool)
    }

    fn pinned(&self, first: &KeyArgs) -> Result<KeyArgs, Failure> {
        let unpinned = || {
            Failure::usage(self.path.display(), "it is public: only a root digest tells whether it is the right one")
                .way_out(format_args!(
                    "write {},root-digest=HEX, which whoever built the image knows",
                    self.path.display()
                ))
        };
        self.key.root_digest.is_some().then(|| self.done_as(first)).ok_or_else(unpinned)
    }

    fn unlocking(&self, first: &KeyArgs) -> Result<KeyArgs, Failure> {
        let mut key = self.done_as(first);
        if !key.has_key() {
            if reads_standard_input(first) {
                return Err(Failure::usage(
                    self.path.display(),
                    "standard input holds one key, and is read for another image",
                )
                .way_out(self.naming()));
            }
            key.key_file.clone_from(&first.key_file);
            key.passphrase_file.clone_from(&first.passphrase_file);
            key.platform.clone_from(&first.platform);
            key.share_file.clone_from(&first.share_file);
            key.allow_development |= first.allow_development;
        }
        if !key.names_key(&self.path, &Environment::host())? {
            return Err(Failure::usage(self.path.display(), "no key is given").way_out(self.naming()));
        }
        Ok(key)
    }

    pub(crate) fn naming(&self) -> String {
        format!("write {},key-file=FILE", self.path.display())
    }

    /// Its own options, and those of the first image that say how to do things but not what is opened.
    pub(crate) fn done_as(&self, first: &KeyArgs) -> KeyArgs {
        let mut key = self.key.clone();
        key.io = key.io.or(first.io);
        key.crypto = key.crypto.or(first.crypto);
        key
    }
}

fn reads_standard_input(key: &KeyArgs) -> bool {
    let places = key.key_file.iter().chain(&key.passphrase_file).chain(&key.share_file);
    places.into_iter().any(|place| place == Path::new("-"))
}

/// The path without its escapes, and what follows the comma that ends it.
fn split_path(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let (mut path, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest.split_first()) {
            (b',', _) => break,
            (b'\\', Some((&next, after))) => {
                path.push(next);
                rest = after;
            }
            _ => path.push(byte),
        }
    }
    (path, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ImageSpec {
        ImageSpec::parse(OsStr::new(text)).unwrap()
    }

    fn refused(text: &str) -> String {
        ImageSpec::parse(OsStr::new(text)).unwrap_err().to_string()
    }

    #[test]
    fn a_path_alone_names_no_key() {
        assert_eq!(parse("/srv/base.sefs"), ImageSpec { path: "/srv/base.sefs".into(), key: KeyArgs::default() });
        assert_eq!(parse("base,"), parse("base"));
    }

    #[test]
    fn options_are_those_of_a_mount() {
        let spec = parse("b,passphrase-file=/p=q,crypto=rustcrypto,volume-id=0f8e4a527c1d4b399a605d3c2b1e8f74");
        assert_eq!(spec.key.passphrase_file.as_deref(), Some(Path::new("/p=q")));
        assert!(spec.key.crypto.is_some() && spec.key.volume_id.is_some());
        assert_eq!(parse("b,share-file=1,share-file=2").key.share_file.len(), 2);
    }

    #[test]
    fn a_backslash_takes_the_next_character_as_it_is() {
        let spec = parse(r"a\,b\\c,key-file=/k\,1");
        assert_eq!(spec.path, Path::new(r"a,b\c"));
        assert_eq!(spec.key.key_file.as_deref(), Some(Path::new("/k,1")));
        let odd = ImageSpec::parse(OsStr::from_bytes(b"\xff\\,,key-file=k")).unwrap();
        assert_eq!(odd.path, Path::new(OsStr::from_bytes(b"\xff,")));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(
            refused("a,ro").starts_with("option ro: it does not say how an image is opened"),
            "{}",
            refused("a,ro")
        );
        assert!(refused("a,b.sefs").ends_with("write \\, for a comma in a path"));
        assert!(refused(",key-file=k").contains("names no image"));
        assert!(refused("").contains("names no image"));
        assert!(refused("a,key-file=k,key-file=l").contains("given twice"));
        assert!(refused("a,root-digest=12").contains("64 hex digits"));
        assert!(ImageSpec::parse(OsStr::from_bytes(b"a,key-file=\xff")).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn the_key_of_the_first_image_is_inherited_and_its_pins_are_not() {
        let first = KeyArgs {
            key_file: Some("/first".into()),
            volume_id: Some("0f8e4a527c1d4b399a605d3c2b1e8f74".parse().unwrap()),
            anchor: Some("file:/x".parse().unwrap()),
            abandon_anchor: true,
            root_digest: Some("0".repeat(64).parse().unwrap()),
            crypto: Some(crate::CryptoKind::Rustcrypto),
            ..KeyArgs::default()
        };
        let expected = KeyArgs { key_file: first.key_file.clone(), crypto: first.crypto, ..KeyArgs::default() };
        assert_eq!(parse("b").unlocking(&first).unwrap(), expected);
        let own = parse("b,passphrase-file=/own").unlocking(&first).unwrap();
        assert_eq!((own.key_file, own.passphrase_file), (None, Some("/own".into())));
        let digest = first.root_digest.unwrap();
        assert!(parse("b").pinned(&first).unwrap_err().to_string().contains("b,root-digest=HEX"));
        let pinned = parse(&format!("b,root-digest={digest}")).pinned(&first).unwrap();
        assert_eq!((pinned.key_file, pinned.root_digest), (None, Some(digest)));
    }

    #[test]
    fn standard_input_is_read_for_one_image() {
        let first = KeyArgs { key_file: Some("-".into()), ..KeyArgs::default() };
        assert!(parse("b").unlocking(&first).unwrap_err().to_string().contains("b,key-file=FILE"));
        parse("b,key-file=k").unlocking(&first).unwrap();
    }
}
