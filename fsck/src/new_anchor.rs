//! The anchor of a new volume. Making a volume is the one occasion on which an anchor is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sefs::anchor::{Anchor, FileAnchor};
use sefs::error::Error;

use crate::anchor::AnchorSpec;
use crate::key_source::KeySource;
use crate::report::Failure;

/// The anchor that a new volume is bound to. What is not kept is removed: it belongs to no volume.
pub struct NewAnchor {
    anchor: Option<Arc<dyn Anchor>>,
    path: Option<PathBuf>,
}

impl NewAnchor {
    /// Makes the anchor that was asked for, if one was.
    pub fn make(sources: &[KeySource]) -> Result<NewAnchor, Failure> {
        let Some(AnchorSpec::File(path)) = sources.first().and_then(|source| source.anchor.clone()) else {
            return Ok(NewAnchor { anchor: None, path: None });
        };
        let name = format!("anchor file:{}", path.display());
        if path.exists() {
            return Err(Failure::new(name, "it exists and may be another volume's")
                .way_out("name a new file, or remove it if its volume is gone"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(Failure::new(name, "its directory does not exist").way_out("make that directory first"));
        }
        let anchor = FileAnchor::create(&path)
            .map_err(|error| Failure::new(name, Error::from(error)).way_out("check the path and its permissions"))?;
        Ok(NewAnchor { anchor: Some(Arc::new(anchor)), path: Some(path) })
    }

    /// The anchor.
    pub fn get(&self) -> Option<Arc<dyn Anchor>> {
        self.anchor.clone()
    }

    /// The volume is in its place: the anchor is its own now.
    pub fn keep(&mut self) {
        self.path = None;
    }
}

impl Drop for NewAnchor {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}
