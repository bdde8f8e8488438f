//! Volumes over packed images: made, and put over other versions of the images.
//!
//! ```text
//! make, upgrade ─► content (what an inode of one version is in another)
//!       └─► repair (fit): names, links and counts that follow, and the one checkpoint that makes all of it true
//! ```
//! What a volume over images is, and how it is read, is the store's business.

mod content;
mod make;
#[cfg(test)]
mod tests;
mod upgrade;

pub use self::upgrade::{Conflict, Upgraded, Why, upgrade};
