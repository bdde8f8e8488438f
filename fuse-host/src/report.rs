//! What goes wrong while the mount is up, on stderr: errors name ids only, so the host that reads along learns no names.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines within one period; a damaged volume that is read over and over must not fill a disk with logs.
const LINES: u32 = 20;
/// The period.
const PERIOD: Duration = Duration::from_secs(10);

/// The name that stands before every line.
pub(crate) const TOOL: &str = "mount.sefs";

/// A bounded number of lines in a period.
#[derive(Default)]
pub(crate) struct Reports(Mutex<Option<Window>>);

struct Window {
    began: Instant,
    lines: u32,
}

impl Reports {
    /// Reports a failed request, unless there were too many just now.
    pub(crate) fn failure(&self, error: &dyn Display) {
        match self.admit(Instant::now()) {
            Admitted::Yes => note(error),
            Admitted::Last => {
                note(error);
                note(&format_args!("further failures within {} seconds are not shown", PERIOD.as_secs()));
            }
            Admitted::No => {}
        }
    }

    fn admit(&self, now: Instant) -> Admitted {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |window: &Window| now.duration_since(window.began) < PERIOD;
        let window = match &mut *window {
            Some(current) if fresh(current) => current,
            other => other.insert(Window { began: now, lines: 0 }),
        };
        window.lines = window.lines.saturating_add(1);
        match window.lines {
            ..LINES => Admitted::Yes,
            LINES => Admitted::Last,
            _ => Admitted::No,
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Admitted {
    Yes,
    Last,
    No,
}

/// One line on stderr. A closed stderr is no reason to stop serving.
pub(crate) fn note(line: &dyn Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{TOOL}: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_next_period_starts_anew() {
        let reports = Reports::default();
        let start = Instant::now();
        for _ in 1..LINES {
            assert_eq!(reports.admit(start), Admitted::Yes);
        }
        assert_eq!(reports.admit(start), Admitted::Last);
        assert_eq!(reports.admit(start), Admitted::No);
        assert_eq!(reports.admit(start + PERIOD), Admitted::Yes);
    }
}
