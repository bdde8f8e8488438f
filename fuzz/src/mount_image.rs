//! A hostile image under the real suite: it is opened, walked, read, written and synced while the host changes it.
//!
//! Nothing but an error may come of it: what is read is what the image held at some time (P2), and it stays the same for
//! as long as it is mounted (P4).

use std::sync::{Arc, LazyLock};

use sefs::suite::RustCrypto;
use sefs_tests::world::World;

use crate::image::{Image, world};
use crate::memory;
use crate::script::play;
use crate::suites::{Remembering, shared};

static IMAGES: LazyLock<(Vec<Arc<Image>>, World)> = LazyLock::new(|| {
    let suite = shared(Remembering::<RustCrypto>::default());
    (Image::all(&suite), world(&suite))
});

/// More than the mount's budget of 4 MiB: what the host has changed is memory too, and what the walk remembers.
const BUDGET_BYTES: usize = 16 << 20;

/// The target.
pub fn run(input: &[u8]) {
    let (images, world) = &*IMAGES;
    memory::within(BUDGET_BYTES, || play(input, images, world, None));
}
