//! Anchors as they are named on a command line: `KIND:PLACE`.
//!
//! ```text
//! file:/var/lib/sefs/data.anchor
//! tpm:0x1500016                            an NV index, and the next one, of the TPM at /dev/tpmrm0
//! tpm:counter:0x1500016@swtpm:HOST:PORT    a bare counter, of another TPM
//! ```
//! There is no comma in any of them, for commas separate mount options.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use sefs::anchor::{Anchor, FileAnchor};
use sefs::keys::VolumeKey;

#[cfg(feature = "tpm")]
use crate::tpm_anchor::{TpmAnchor, TpmPlace};

/// Where a volume's newest committed state is kept, out of reach of whoever holds the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorSpec {
    /// A file on storage that the adversary does not control.
    File(PathBuf),
    /// NV memory of a TPM.
    #[cfg(feature = "tpm")]
    Tpm(TpmPlace),
}

impl AnchorSpec {
    /// Whether each advance costs some of its life: a TPM's memory is made for a number of writes.
    pub fn wears_out(&self) -> bool {
        match self {
            AnchorSpec::File(_) => false,
            #[cfg(feature = "tpm")]
            AnchorSpec::Tpm(_) => true,
        }
    }

    /// Opens the anchor of a volume; one that is not there is not made. The holder of `key` is who may advance it.
    pub fn open(&self, key: &VolumeKey) -> sefs::error::Result<Arc<dyn Anchor>> {
        #[cfg(not(feature = "tpm"))]
        let _ = key;
        match self {
            AnchorSpec::File(path) => {
                // A server changes its directory, and the anchor is opened anew for each advance.
                let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                Ok(Arc::new(FileAnchor::open(&whole)?))
            }
            #[cfg(feature = "tpm")]
            AnchorSpec::Tpm(place) => Ok(Arc::new(TpmAnchor::open(place, key)?)),
        }
    }
}

impl FromStr for AnchorSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<AnchorSpec, String> {
        match text.split_once(':') {
            Some(("file", "")) => Err("an anchor file needs a path; write file:PATH".into()),
            Some(("file", path)) => Ok(AnchorSpec::File(PathBuf::from(path))),
            #[cfg(feature = "tpm")]
            Some(("tpm", place)) => place.parse().map(AnchorSpec::Tpm),
            #[cfg(not(feature = "tpm"))]
            Some(("tpm", _)) => Err(WITHOUT_TPM.into()),
            Some((kind, _)) => Err(format!("anchors of kind '{kind}' are not supported; write file:PATH or tpm:INDEX")),
            None => Err(format!("'{text}' is not an anchor; write file:PATH or tpm:INDEX")),
        }
    }
}

impl fmt::Display for AnchorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnchorSpec::File(path) => write!(f, "file:{}", path.display()),
            #[cfg(feature = "tpm")]
            AnchorSpec::Tpm(place) => write!(f, "tpm:{place}"),
        }
    }
}

/// What a tool says that cannot reach a TPM.
#[cfg(not(feature = "tpm"))]
pub(crate) const WITHOUT_TPM: &str = "built without TPM support; build with --features tpm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        assert_eq!("file:/var/lib/a".parse(), Ok(AnchorSpec::File("/var/lib/a".into())));
        assert_eq!("file:a:b".parse(), Ok(AnchorSpec::File("a:b".into())));
        for text in ["", "file", "file:", "tpn:0x1500", "/var/lib/a"] {
            assert!(text.parse::<AnchorSpec>().is_err(), "{text}");
        }
    }

    #[test]
    #[cfg(not(feature = "tpm"))]
    fn a_tool_without_tpm_support_says_so() {
        assert_eq!("tpm:0x1500016".parse::<AnchorSpec>(), Err(WITHOUT_TPM.to_string()));
    }

    #[test]
    #[cfg(feature = "tpm")]
    fn indices() {
        let shown = |text: &str| text.parse::<AnchorSpec>().map(|spec| spec.to_string());
        for text in ["tpm:0x1500016", "tpm:counter:0x1500016", "tpm:0x1500016@device:/dev/tpm0"] {
            assert_eq!(shown(text), Ok(text.to_string()));
        }
        assert_eq!(shown("tpm:22020118@swtpm:localhost:1"), Ok("tpm:0x1500016@swtpm:host=localhost,port=1".into()));
        for text in
            ["tpm:", "tpm:x", "tpm:0x", "tpm:counter", "tpm:0x1500016@", "tpm:0x1500016@x", "tpm:bits:0x1500016"]
        {
            assert!(shown(text).is_err(), "{text}");
        }
    }
}
