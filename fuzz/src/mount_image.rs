//! A hostile image: it is opened, walked, read, written and synced while the host changes it. Every eighth input runs under
//! the real suite, the others under a quick one that notices every change as well: ciphers are not what is looked for.
//!
//! Nothing but an error may come of it: what is read is what the image held at some time (P2), and it stays the same for
//! as long as it is mounted (P4).

use std::sync::{Arc, LazyLock};

use sefs::suite::RustCrypto;
use sefs_tests::world::World;

use crate::image::{Image, world};
use crate::input::Input;
use crate::memory;
use crate::script::play;
use crate::suites::{Quick, Remembering, shared};

/// What inputs run on, under each suite: the images and the surroundings.
static IMAGES: LazyLock<[(Vec<Arc<Image>>, World); 2]> = LazyLock::new(|| {
    let suites = [shared(Remembering::<Quick>::default()), shared(Remembering::<RustCrypto>::default())];
    suites.map(|suite| (Image::all(&suite), world(&suite)))
});

/// More than the mount's budget of 4 MiB: what the host has changed is memory too, and what the walk remembers.
const BUDGET_BYTES: usize = 16 << 20;

/// The target.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (images, world) = &IMAGES[usize::from(input.rarely(8))];
    memory::within(BUDGET_BYTES, || play(input, images, world, None));
}
