//! Volumes over images, as they are opened.

use alloc::vec::Vec;

use crate::env::Env;
use crate::error::Result;
use crate::format::LowerRecord;
use crate::store::Lower;
use crate::vfs::Volume;

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
