//! What a volume needs from where it runs: cryptography, random bytes and the time of day.

use alloc::sync::Arc;

use crate::suite::{Rng, Suite};
use crate::types::Timestamp;

/// The time of day. Only timestamps come from it; nothing that is trusted depends on it.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// What a volume needs from where it runs.
#[derive(Clone)]
pub struct Env {
    /// AEAD, digest and key derivation.
    pub suite: Arc<dyn Suite>,
    /// Random bytes.
    pub rng: Arc<dyn Rng>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

#[cfg(feature = "std")]
impl Env {
    /// What the operating system offers, and cryptography in Rust.
    pub fn host() -> Env {
        use crate::suite::{OsRng, RustCrypto};
        Env { suite: Arc::new(RustCrypto), rng: Arc::new(OsRng), clock: Arc::new(SystemClock) }
    }
}

/// The operating system's clock.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(feature = "std")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Timestamp {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: since.subsec_nanos(),
            },
            Err(before) => before_epoch(before.duration()),
        }
    }
}

/// A clock set before 1970 counts seconds down and nanoseconds up.
#[cfg(feature = "std")]
fn before_epoch(before: core::time::Duration) -> Timestamp {
    let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
    match before.subsec_nanos() {
        0 => Timestamp { seconds, nanoseconds: 0 },
        nanoseconds => Timestamp { seconds: seconds.saturating_sub(1), nanoseconds: 1_000_000_000 - nanoseconds },
    }
}
