//! The anchor of a volume that is made, or bound anew: the occasions on which an anchor is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::anchor::{Anchor, FileAnchor};
use sefs::error::Error;
use sefs::keys::VolumeKey;

use crate::anchor::AnchorSpec;
use crate::report::Failure;
#[cfg(feature = "tpm")]
use crate::tpm_anchor::{TpmAnchor, TpmPlace};

/// The anchor that a new volume is bound to. What is not kept is removed: it belongs to no volume.
pub struct NewAnchor {
    anchor: Option<Arc<dyn Anchor>>,
    made: Made,
    /// Lines that the tool prints with [`crate::Tool::warn`].
    pub warnings: Vec<String>,
}

/// What is removed again.
enum Made {
    Nothing,
    File(PathBuf),
    #[cfg(feature = "tpm")]
    Tpm(Arc<TpmAnchor>),
}

impl NewAnchor {
    /// Makes the anchor that was asked for, if one was. The holder of `key` is who may advance it.
    pub fn make(place: Option<&AnchorSpec>, key: &VolumeKey) -> Result<NewAnchor, Failure> {
        #[cfg(not(feature = "tpm"))]
        let _ = key;
        match place {
            None => Ok(NewAnchor { anchor: None, made: Made::Nothing, warnings: Vec::new() }),
            Some(AnchorSpec::File(path)) => NewAnchor::file(path),
            #[cfg(feature = "tpm")]
            Some(AnchorSpec::Tpm(place)) => NewAnchor::tpm(place, key),
        }
    }

    fn file(path: &Path) -> Result<NewAnchor, Failure> {
        let name = format!("anchor file:{}", path.display());
        if path.exists() {
            return Err(Failure::new(name, "it exists and may be another volume's")
                .way_out("name a new file, or remove it if its volume is gone"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(Failure::new(name, "its directory does not exist").way_out("make that directory first"));
        }
        let anchor = FileAnchor::create(path)
            .map_err(|error| Failure::new(name, Error::from(error)).way_out("check the path and its permissions"))?;
        let anchor: Option<Arc<dyn Anchor>> = Some(Arc::new(anchor));
        Ok(NewAnchor { anchor, made: Made::File(path.to_path_buf()), warnings: Vec::new() })
    }

    #[cfg(feature = "tpm")]
    fn tpm(place: &TpmPlace, key: &VolumeKey) -> Result<NewAnchor, Failure> {
        use sealing::platform::Assurance;
        use sealing::tpm::TpmError;

        let failure = |error: TpmError| {
            let way_out = match error {
                TpmError::IndexExists(_) => "it may be another volume's anchor: name another index",
                TpmError::BadIndex(_) => "name one from 0x1000000 to 0x1bffffe",
                _ => "check the index and the TPM",
            };
            Failure::new(format!("anchor tpm:{place}"), error).way_out(way_out)
        };
        let anchor = Arc::new(TpmAnchor::create(place, key).map_err(failure)?);
        let mut made =
            NewAnchor { anchor: Some(anchor.clone()), made: Made::Tpm(anchor.clone()), warnings: Vec::new() };
        if anchor.assurance(place).map_err(failure)? == Assurance::Development {
            made.warnings.push("the anchor's TPM is a program (development): whoever runs it can set it back".into());
        }
        Ok(made)
    }

    /// The anchor.
    pub fn get(&self) -> Option<Arc<dyn Anchor>> {
        self.anchor.clone()
    }

    /// The volume is in its place: the anchor is its own now.
    pub fn keep(&mut self) {
        self.made = Made::Nothing;
    }
}

impl Drop for NewAnchor {
    fn drop(&mut self) {
        match &self.made {
            Made::Nothing => {}
            Made::File(path) => {
                let _ = fs::remove_file(path);
            }
            #[cfg(feature = "tpm")]
            Made::Tpm(anchor) => {
                let _ = anchor.remove();
            }
        }
    }
}
