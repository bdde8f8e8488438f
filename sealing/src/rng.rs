//! Where fresh salts and keys come from.

/// A fallible source of random bytes. Failure stops what needed them.
pub trait Rng {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed>;
}

/// The generator failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngFailed;

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

impl Rng for OsRng {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        getrandom::fill(out).map_err(|_| RngFailed)
    }
}
