//! Anchors as they are named on a command line: `KIND:PLACE`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a volume's newest committed state is kept, out of reach of whoever holds the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnchorSpec {
    /// A file on storage that the adversary does not control.
    File(PathBuf),
}

impl FromStr for AnchorSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<AnchorSpec, String> {
        match text.split_once(':') {
            Some(("file", "")) => Err("an anchor file needs a path; write file:PATH".into()),
            Some(("file", path)) => Ok(AnchorSpec::File(PathBuf::from(path))),
            Some((kind, _)) => Err(format!("anchors of kind '{kind}' are not supported; write file:PATH")),
            None => Err(format!("'{text}' is not an anchor; write file:PATH")),
        }
    }
}

impl fmt::Display for AnchorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnchorSpec::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_so_far() {
        assert_eq!("file:/var/lib/a".parse(), Ok(AnchorSpec::File("/var/lib/a".into())));
        assert_eq!("file:a:b".parse(), Ok(AnchorSpec::File("a:b".into())));
        for text in ["", "file", "file:", "tpm:0x1500", "/var/lib/a"] {
            assert!(text.parse::<AnchorSpec>().is_err(), "{text}");
        }
    }
}
