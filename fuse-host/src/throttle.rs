//! How much the kernel may hold that it has not sent: as much as the volume has room for, so that what write(2) accepted
//! before space became short can still be stored.

use std::path::PathBuf;

/// The least that is left to the kernel; below that its throttling stalls writers.
const LEAST_BYTES: u64 = 4 << 20;
/// The kernel's share of its own limit for all filesystems, in percent. FUSE mounts begin with 1.
const RATIO_PERCENT: &str = "20";

/// The mount's limit in the kernel. Without root it stays at 1 % of the kernel's limit for all filesystems.
pub(crate) struct Throttle {
    folder: PathBuf,
    /// What `RATIO_PERCENT` comes to.
    most_bytes: u64,
    now_bytes: u64,
}

impl Throttle {
    /// Takes over the limit in this folder of /sys/class/bdi; `None` where this process may not, or the kernel is older
    /// than 6.2.
    pub(crate) fn new(folder: PathBuf) -> Option<Throttle> {
        std::fs::write(folder.join("max_ratio"), RATIO_PERCENT).ok()?;
        let text = std::fs::read_to_string(folder.join("max_bytes")).ok()?;
        let most_bytes = text.trim().parse().ok()?;
        Some(Throttle { folder, most_bytes, now_bytes: most_bytes })
    }

    /// Follows the room that is left.
    pub(crate) fn follow(&mut self, available_bytes: u64) {
        let Some(wanted) = wanted(self.now_bytes, self.most_bytes, available_bytes) else { return };
        if std::fs::write(self.folder.join("max_bytes"), wanted.to_string()).is_ok() {
            self.now_bytes = wanted;
        }
    }
}

/// The limit that should be, unless the one that is will do: it is lowered early and raised late.
fn wanted(now_bytes: u64, most_bytes: u64, available_bytes: u64) -> Option<u64> {
    let wanted = (available_bytes / 2).max(LEAST_BYTES).min(most_bytes);
    let lower = wanted < now_bytes / 8 * 7;
    let raise = wanted > now_bytes && (wanted == most_bytes || wanted / 2 > now_bytes);
    (lower || raise).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_room_and_not_each_write() {
        const MOST: u64 = 800 << 20;
        assert_eq!(wanted(MOST, MOST, 1 << 40), None);
        assert_eq!(wanted(MOST, MOST, 1 << 30), Some(512 << 20));
        assert_eq!(wanted(512 << 20, MOST, 1000 << 20), None, "a little less");
        assert_eq!(wanted(512 << 20, MOST, 0), Some(LEAST_BYTES));
        assert_eq!(wanted(LEAST_BYTES, MOST, 0), None);
        assert_eq!(wanted(LEAST_BYTES, MOST, 12 << 20), None, "a little more");
        assert_eq!(wanted(LEAST_BYTES, MOST, 1 << 40), Some(MOST));
        assert_eq!(wanted(700 << 20, MOST, 1 << 40), Some(MOST), "in the end all of it");
        assert_eq!(wanted(1 << 20, 1 << 20, 0), None, "a machine with little memory");
    }
}
