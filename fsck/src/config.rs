//! `/etc/sefs.toml`: a table of images and where their keys are. It holds paths, never secrets.
//!
//! ```toml
//! [image."/srv/data.sefs"]
//! key-file = "/etc/sefs/data.key"          # or passphrase-file
//! anchor = "file:/var/lib/sefs/data.anchor"
//! volume-id = "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74"
//! ```
//! *Security*: it names trust inputs, so it is for host tools only, and refused when others than its owner can write it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::report::Failure;

/// Where the table lies.
pub const PATH: &str = "/etc/sefs.toml";

/// The table of images.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    image: BTreeMap<PathBuf, ImageEntry>,
}

/// What the table says about one image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageEntry {
    /// The path of a key file.
    pub key_file: Option<PathBuf>,
    /// The path of a passphrase file.
    pub passphrase_file: Option<PathBuf>,
    /// A platform and its options.
    pub platform: Option<String>,
    /// Whether the platform may be one for development.
    #[serde(default)]
    pub allow_development: bool,
    /// The volume that must be found.
    pub volume_id: Option<String>,
    /// The volume's anchor, as `KIND:PLACE`.
    pub anchor: Option<String>,
}

impl Config {
    /// Reads the table; `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Config>, Failure> {
        let mut file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(path, &error).way_out("give the key on the command line")),
        };
        let metadata = file.metadata().map_err(|error| Failure::io(path, &error))?;
        if metadata.mode() & 0o022 != 0 {
            let reason = "others can write it, so it cannot be trusted";
            return Err(Failure::usage(path.display(), reason).way_out(format!("chmod go-w {}", path.display())));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| Failure::io(path, &error))?;
        Config::parse(path, &text).map(Some)
    }

    /// Reads the table's text; `path` is for messages only.
    pub fn parse(path: &Path, text: &str) -> Result<Config, Failure> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Failure::usage(format_args!("{}, line {line}", path.display()), error.message())
        })?;
        match config.image.keys().find(|image| !image.is_absolute()) {
            Some(image) => {
                let reason = format!("'{}' is not an absolute path", image.display());
                Err(Failure::usage(path.display(), reason).way_out("write the image's whole path"))
            }
            None => Ok(config),
        }
    }

    /// The entry of an image, whatever links lead to it.
    pub fn entry(&self, image: &Path) -> Option<&ImageEntry> {
        let wanted = std::fs::canonicalize(image).or_else(|_| std::path::absolute(image)).ok()?;
        self.image.iter().find(|(path, _)| same(path, &wanted)).map(|(_, entry)| entry)
    }
}

fn same(path: &Path, wanted: &Path) -> bool {
    path == wanted || std::fs::canonicalize(path).is_ok_and(|path| path == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/sefs.toml"), text).map_err(|failure| failure.to_string())
    }

    #[test]
    fn finds_an_image_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.sefs");
        std::fs::write(&image, "").unwrap();
        let link = dir.path().join("link.sefs");
        std::os::unix::fs::symlink(&image, &link).unwrap();
        let text = format!("[image.\"{}\"]\nkey-file = \"/k\"\nvolume-id = \"x\"\n", link.display());
        let config = parse(&text).unwrap();
        assert_eq!(config.entry(&image).unwrap().key_file.as_deref(), Some(Path::new("/k")));
        assert_eq!(config.entry(&link).unwrap().volume_id.as_deref(), Some("x"));
        assert!(config.entry(&dir.path().join("b.sefs")).is_none());
    }

    #[test]
    fn an_image_that_does_not_exist_yet_has_an_entry() {
        let config = parse("[image.\"/nowhere/a.sefs\"]\nkey-file = \"/k\"\n").unwrap();
        assert!(config.entry(Path::new("/nowhere/a.sefs")).is_some());
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(
            parse("[image.\"/a\"]\nkey = \"secret\"\n").unwrap_err(),
            "/etc/sefs.toml, line 2: unknown field `key`, expected one of `key-file`, `passphrase-file`, `platform`, \
             `allow-development`, `volume-id`, `anchor`"
        );
        assert!(parse("[image.\"a\"]\n").unwrap_err().contains("not an absolute path"));
        assert!(parse("[images]\n").is_err());
        assert!(parse("x").is_err());
    }

    #[test]
    fn a_table_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sefs.toml");
        assert!(Config::load(&path).unwrap().is_none());
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Config::load(&path).unwrap().is_some());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("others can write it"));
    }
}
