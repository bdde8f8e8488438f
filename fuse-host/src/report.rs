//! What goes wrong while the mount is up: on stderr, and in the background in the system's log. Errors name ids only, so the
//! host that reads along learns no names.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
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

/// One line on stderr, or in the system's log. That neither takes it is no reason to stop serving.
pub(crate) fn note(line: &dyn Display) {
    match LOG.get() {
        Some(log) => log.note(line),
        None => drop(writeln!(std::io::stderr(), "{TOOL}: {line}")),
    }
}

/// From here on notes go to the system's log, where there is one; each names the image.
pub(crate) fn into_background(image: &Path) {
    if let Some(log) = Log::open(image, Path::new("/dev/log"), Path::new("/dev/kmsg")) {
        let _ = LOG.set(log);
    }
}

static LOG: OnceLock<Log> = OnceLock::new();

/// The system's log, and whose lines go there.
struct Log {
    to: LogPlace,
    image: String,
}

enum LogPlace {
    /// A syslog daemon's socket.
    Daemon(UnixDatagram),
    /// The kernel's own log.
    Kernel(File),
}

/// Facility "daemon", severity "error" (RFC 3164).
const PRIORITY: u8 = 3 << 3 | 3;

impl Log {
    fn open(image: &Path, socket: &Path, kernel: &Path) -> Option<Log> {
        let daemon = UnixDatagram::unbound().and_then(|log| log.connect(socket).map(|()| log));
        let to = match daemon {
            Ok(daemon) => LogPlace::Daemon(daemon),
            Err(_) => LogPlace::Kernel(File::options().append(true).open(kernel).ok()?),
        };
        Some(Log { to, image: image.display().to_string() })
    }

    fn note(&self, line: &dyn Display) {
        let text = format!("<{PRIORITY}>{TOOL}[{}]: {}: {line}", std::process::id(), self.image);
        let text = sefs_tools::report::one_line(&text);
        let _ = match &self.to {
            LogPlace::Daemon(daemon) => daemon.send(text.as_bytes()).map(drop),
            LogPlace::Kernel(kernel) => (&*kernel).write_all(format!("{text}\n").as_bytes()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_one_line_that_names_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, kernel) = (dir.path().join("log"), dir.path().join("kmsg"));
        let image = Path::new("/images/a");
        assert!(Log::open(image, &socket, &kernel).is_none());
        std::fs::write(&kernel, "").unwrap();
        let expected = format!("<27>mount.sefs[{}]: /images/a: two\\nlines", std::process::id());
        Log::open(image, &socket, &kernel).unwrap().note(&"two\nlines");
        assert_eq!(std::fs::read_to_string(&kernel).unwrap(), format!("{expected}\n"));
        let daemon = UnixDatagram::bind(&socket).unwrap();
        Log::open(image, &socket, &kernel).unwrap().note(&"two\nlines");
        let mut got = [0; 200];
        let len = daemon.recv(&mut got).unwrap();
        assert_eq!(std::str::from_utf8(&got[..len]), Ok(&*expected));
    }

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
