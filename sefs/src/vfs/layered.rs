//! Volumes over images: made, opened, told about.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::backend::Backend;
use crate::env::Env;
use crate::error::{Invalid, Result};
use crate::format::{LOWER_NOTE_MAX, LowerRecord, MAX_LOWERS};
use crate::keys::VolumeKey;
use crate::store::{Lower, Store};
use crate::vfs::volume::{store_format, store_options};
use crate::vfs::{FormatOptions, OpenOptions, Volume};

/// An image that a volume is to be made over.
#[derive(Clone)]
pub struct NewLower {
    /// The image.
    pub image: Lower,
    /// The root digest that it must have; a public image cannot do without.
    pub root_digest: Option<[u8; 32]>,
    /// Whatever helps to find the image again, at most 4,096 bytes; it is stored with the volume. No secret.
    pub note: Vec<u8>,
}

impl Volume {
    /// Makes a volume over packed images, the topmost first: it has all that they have, and what is changed is stored in it.
    ///
    /// It is bound to the images by their root digests. `options.root` is not asked: the images have a root directory.
    pub fn format_over(
        backend: Arc<dyn Backend>,
        key: &VolumeKey,
        options: &FormatOptions,
        lowers: &[NewLower],
        env: &Env,
    ) -> Result<()> {
        if lowers.is_empty() || lowers.len() > MAX_LOWERS {
            return Err(Invalid::Option("a volume lies over 1 to 16 images").into());
        }
        if lowers.iter().any(|lower| lower.note.len() > LOWER_NOTE_MAX) {
            return Err(Invalid::Option("a note on an image has at most 4,096 bytes").into());
        }
        let survey = |lower: &NewLower| Store::survey_lower(&lower.image, lower.root_digest, lower.note.clone(), env);
        let table: Vec<LowerRecord> = lowers.iter().map(survey).collect::<Result<_>>()?;
        Store::format(&*backend, key, &store_format(options, true), env)?;
        let anchor = options.anchor.as_ref().map(|(anchor, _)| anchor.clone());
        let open = store_options(&OpenOptions { anchor, ..OpenOptions::default() });
        let mut store = Store::open(backend, key, &open, env)?;
        store.put_lowers(table)?;
        for lower in lowers {
            store.attach_lower(&lower.image, env)?;
        }
        store.count_lower_inodes()?;
        store.close()
    }

    /// The images that the volume lies over, the topmost first. Each has to be given to [`Volume::attach_lower`] before anything
    /// else is asked of the volume.
    pub fn lowers(&self) -> &[LowerRecord] {
        self.store.lowers()
    }

    /// Puts the next image below the volume, from the topmost down. Errors: what opening the image gives, `Incompatible::RootDigest`
    /// if it is another than the volume was made over, `Incompatible::Lowers` if there is no next one.
    pub fn attach_lower(&mut self, image: &Lower, env: &Env) -> Result<()> {
        self.store.attach_lower(image, env)
    }
}
