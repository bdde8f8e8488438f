//! Seeds and sizes of random campaigns.
//!
//! Every random test prints its seed and takes it back from `SEFS_SEED`. `SEFS_CAMPAIGN=long` multiplies the work; without
//! it a test binary stays within what a continuous build can wait for.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed of this run: `SEFS_SEED` if set, otherwise `default`. Printed, so that a failure can be repeated.
///
/// The default is fixed in the short campaign, so that a build is repeatable, and drawn from the clock in the long one.
pub fn seed(test: &str, default: u64) -> u64 {
    let given = std::env::var("SEFS_SEED").ok().map(|text| parse(&text));
    let seed = given.unwrap_or_else(|| if long() { from_clock() } else { default });
    println!("{test}: seed {seed} (repeat with SEFS_SEED={seed})");
    seed
}

/// Whether the long campaign was asked for.
pub fn long() -> bool {
    std::env::var("SEFS_CAMPAIGN").is_ok_and(|value| value == "long")
}

/// `short` in a continuous build, `long` in the long campaign.
pub fn scaled(short: usize, long_campaign: usize) -> usize {
    if long() { long_campaign } else { short }
}

fn parse(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("SEFS_SEED is not a number: {text}"))
}

fn from_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_secs() ^ u64::from(since.subsec_nanos()) << 24)
}

/// A small generator (splitmix64): fast, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// An index below `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, which is not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
