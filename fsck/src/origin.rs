//! Where the content of an image comes from: a directory of the host, archives, or a volume. All of them are walked alike.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sefs::vfs::Volume;

use crate::archive::Archive;
use crate::populate::PopulateError;
use crate::source::{FileId, Item, WalkOptions, walk};
use crate::volume_walk;

/// A tree to be copied.
pub(crate) enum Origin<'a> {
    /// A directory of the host.
    Directory { root: PathBuf, options: WalkOptions },
    /// Archives, merged.
    Archive(Archive),
    /// A volume, from its root.
    Volume {
        /// The path of its image, for messages.
        image: &'a Path,
        volume: &'a Volume,
    },
}

impl Origin<'_> {
    /// For messages: what the paths in them are below.
    pub(crate) fn name(&self) -> &Path {
        match self {
            Origin::Directory { root, .. } => root,
            Origin::Archive(archive) => archive.name(),
            Origin::Volume { image, .. } => image,
        }
    }

    /// Leaves a file of the host out, if it is met.
    pub(crate) fn exclude(&mut self, file: FileId) {
        if let Origin::Directory { options, .. } = self {
            options.exclude.push(file);
        }
    }

    /// Entries that were left out already.
    pub(crate) fn left_out(&self) -> u64 {
        match self {
            Origin::Archive(archive) => archive.left_out(),
            Origin::Directory { .. } | Origin::Volume { .. } => 0,
        }
    }

    /// Hands every step over until `emit` breaks; attributes and content only if they are wanted. It can be done again.
    pub(crate) fn walk(
        &self,
        contents: bool,
        emit: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> Result<(), PopulateError> {
        match self {
            Origin::Directory { root, options } => {
                walk(root, &WalkOptions { contents, ..options.clone() }, emit).map_err(PopulateError::Source)
            }
            Origin::Archive(archive) => archive.walk(contents, emit).map_err(PopulateError::Source),
            Origin::Volume { volume, .. } => volume_walk::walk(volume, contents, emit),
        }
    }
}
