//! How a tool speaks: one line for a failure, exit codes that scripts know, JSON on request.
//!
//! A failure names the thing, the reason and the way out: `mkfs.sefs: /srv/a.sefs: it exists; give --force to replace it`.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use sefs::error::{Error, Incompatible, Invalid, Malformed, Posix};

/// Why a tool could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    thing: String,
    reason: String,
    way_out: Option<String>,
    kind: FailureKind,
}

/// Whose fault a failure is, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The command line or a configuration file makes no sense.
    Usage,
    /// The system or the image.
    Operational,
}

/// fsck(8)'s exit codes. They are bits and can be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsckExit {
    /// No errors.
    Clean = 0,
    /// Errors were corrected.
    Corrected = 1,
    /// Errors are left.
    Uncorrected = 4,
    /// The check could not be carried out.
    Operational = 8,
    /// Wrong usage.
    Usage = 16,
    /// Cancelled by the user.
    Cancelled = 32,
}

/// mount(8)'s exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountExit {
    /// Mounted.
    Success = 0,
    /// Wrong usage, or not permitted.
    Usage = 1,
    /// The system failed: out of memory, no /dev/fuse.
    System = 2,
    /// A bug in the tool.
    Internal = 4,
    /// Interrupted by the user.
    Interrupted = 8,
    /// The mount failed.
    Failed = 32,
}

/// A tool's name, which starts each of its lines.
#[derive(Clone, Copy, Debug)]
pub struct Tool(pub &'static str);

impl Tool {
    /// Prints a failure on standard error.
    pub fn fail(self, failure: &Failure) {
        self.line(&failure.to_string());
    }

    /// The same; for programs, also as one object on standard output.
    pub fn fail_for(self, failure: &Failure, programs: bool) {
        self.fail(failure);
        if programs {
            // The exit code says it too.
            let _ = Output::stdout().json(&failure.json());
        }
    }

    /// Prints a warning on standard error.
    pub fn warn(self, text: &str) {
        self.line(&format!("warning: {}", one_line(text)));
    }

    fn line(self, text: &str) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr().lock(), "{}: {text}", self.0);
    }
}

impl Failure {
    /// A failure of the system or the image.
    pub fn new(thing: impl fmt::Display, reason: impl fmt::Display) -> Failure {
        Failure::of_kind(FailureKind::Operational, thing, reason)
    }

    /// A mistake on the command line or in a configuration file.
    pub fn usage(thing: impl fmt::Display, reason: impl fmt::Display) -> Failure {
        Failure::of_kind(FailureKind::Usage, thing, reason)
    }

    fn of_kind(kind: FailureKind, thing: impl fmt::Display, reason: impl fmt::Display) -> Failure {
        Failure { thing: thing.to_string(), reason: reason.to_string(), way_out: None, kind }
    }

    /// Adds what the reader can do about it.
    pub fn way_out(mut self, text: impl fmt::Display) -> Failure {
        self.way_out = Some(text.to_string());
        self
    }

    /// Adds which volume lies over the image that this is about.
    pub fn below(mut self, volume: &Path) -> Failure {
        self.reason.push_str(&format!(" (the volume {} lies over it)", volume.display()));
        self
    }

    /// What the library said about the volume at `path`.
    pub fn volume(path: &Path, error: &Error) -> Failure {
        let failure = Failure::new(path.display(), error);
        match volume_way_out(error) {
            Some(text) => failure.way_out(text),
            None => failure,
        }
    }

    /// What the operating system said about `path`.
    pub fn io(path: &Path, error: &io::Error) -> Failure {
        // The standard library adds "(os error N)", which tells a reader nothing more.
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text);
        Failure::new(path.display(), reason)
    }

    /// The same for programs: an object whose only field is `error`.
    pub fn json(&self) -> serde_json::Value {
        let kind = match self.kind {
            FailureKind::Usage => "usage",
            FailureKind::Operational => "operational",
        };
        serde_json::json!({
            "error": {"thing": self.thing, "reason": self.reason, "way_out": self.way_out, "kind": kind},
        })
    }

    /// Whose fault it is.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The exit code for fsck.sefs.
    pub fn fsck_exit(&self) -> FsckExit {
        match self.kind {
            FailureKind::Usage => FsckExit::Usage,
            FailureKind::Operational => FsckExit::Operational,
        }
    }

    /// The exit code for mount.sefs.
    pub fn mount_exit(&self) -> MountExit {
        match self.kind {
            FailureKind::Usage => MountExit::Usage,
            FailureKind::Operational => MountExit::Failed,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", one_line(&self.thing), one_line(&self.reason))?;
        match &self.way_out {
            Some(text) => write!(f, "; {}", one_line(text)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl FsckExit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            FsckExit::Clean => 0,
            FsckExit::Corrected => 1,
            FsckExit::Uncorrected => 4,
            FsckExit::Operational => 8,
            FsckExit::Usage => 16,
            FsckExit::Cancelled => 32,
        }
    }
}

impl MountExit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            MountExit::Success => 0,
            MountExit::Usage => 1,
            MountExit::System => 2,
            MountExit::Internal => 4,
            MountExit::Interrupted => 8,
            MountExit::Failed => 32,
        }
    }
}

impl From<FsckExit> for std::process::ExitCode {
    fn from(exit: FsckExit) -> std::process::ExitCode {
        exit.code().into()
    }
}

impl From<MountExit> for std::process::ExitCode {
    fn from(exit: MountExit) -> std::process::ExitCode {
        exit.code().into()
    }
}

/// Standard output for people, or for programs when `--json` was given. A reader that goes away, as `head` does, ends
/// the output and not the work: SIGPIPE is ignored in Rust programs, and a write to a closed pipe is no failure here.
pub struct Output<W: Write = io::Stdout> {
    to: W,
    closed: bool,
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Output {
        Output::new(io::stdout())
    }
}

impl<W: Write> Output<W> {
    /// Any writer.
    pub fn new(to: W) -> Output<W> {
        Output { to, closed: false }
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        match self.to.write_all(bytes).and_then(|()| self.to.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::io(Path::new("standard output"), &error)),
        }
    }

    /// Writes a line.
    pub fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes a value as one line of JSON.
    pub fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::new("standard output", error))?;
        self.line(text)
    }

    /// Nobody reads any more: work that only makes output can stop.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

/// Keeps secrets in this process: no core dumps, no reading of its memory by other processes of the same user, nothing of
/// it on a swap device. What the system refuses is not fatal, for a tool without these is still the tool that was asked for.
///
/// Call it first, before any secret is read.
pub fn harden() {
    use nix::sys::resource::{Resource, setrlimit};
    let locks_freely = locks_freely();
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    // Under a limit there would be no more memory once the limit is reached; that is worse than a page that is swapped out.
    if locks_freely {
        lock_memory();
    }
}

/// Whether this process may lock as much memory as it likes: by its limit, or by its capabilities outside of any container
/// with users of its own.
fn locks_freely() -> bool {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    const CAP_IPC_LOCK: u32 = 14;
    if matches!(getrlimit(Resource::RLIMIT_MEMLOCK), Ok((RLIM_INFINITY, _))) {
        return true;
    }
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc/self").join(name)).unwrap_or_default();
    let (status, users) = (read("status"), read("uid_map"));
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    capabilities >> CAP_IPC_LOCK & 1 == 1 && users.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Keeps every page that is used in memory from now on, and takes none that is not.
fn lock_memory() {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    let as_they_are_used = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | as_they_are_used);
}

/// Control characters, which a file name may hold, as escapes: a line stays one line and a terminal is left alone.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// How a public image is opened.
pub(crate) const PIN_NEEDED: &str = "give --root-digest HEX, which whoever built the image knows (debug.sefs IMAGE root-digest \
     shows what this one has, and that proves nothing)";

fn volume_way_out(error: &Error) -> Option<&'static str> {
    match error {
        Error::Posix(Posix::NoSpace) => Some("delete something or make a larger volume"),
        Error::Posix(_) => None,
        Error::Tampered(_) => Some("fsck.sefs -n shows all that is hit; take the rest from a copy"),
        Error::RolledBack(_) => Some("put the newest image back"),
        Error::Corrupt(_) => Some("fsck.sefs -n shows all that is hit; please report it with its output"),
        Error::Malformed(Malformed::NotSefs) => Some("check the path; if it was one, take the image from a copy"),
        Error::Malformed(Malformed::Truncated { .. }) => Some("take the whole image from a copy"),
        Error::Malformed(Malformed::Longer { .. }) => Some("take the image from a copy, or cut off what follows it"),
        Error::Malformed(Malformed::HeaderField(_)) => Some("take the image from a copy"),
        // These say themselves what to do.
        Error::Incompatible(Incompatible::AnchorRequired | Incompatible::FormatVersion(_))
        | Error::Incompatible(Incompatible::Features(_)) => None,
        Error::Incompatible(Incompatible::NotAnchored) => Some("leave --anchor away"),
        Error::Incompatible(Incompatible::OtherAnchor) => Some("give its own anchor"),
        Error::Incompatible(Incompatible::RootDigest) => {
            Some("check the path and --root-digest; if both are right, this is not the image that was built")
        }
        Error::Incompatible(Incompatible::NotPacked) => Some("leave --root-digest away"),
        Error::Incompatible(Incompatible::NoKeyAdmits) => Some(PIN_NEEDED),
        Error::Incompatible(Incompatible::KeyNeeded) => Some("give its key too"),
        Error::Incompatible(Incompatible::Lowers { .. }) => {
            Some("give --lower IMAGE[,KEY] for each, the topmost first; debug.sefs IMAGE super shows them")
        }
        Error::Incompatible(Incompatible::VolumeId) => Some("check the path and --volume-id"),
        Error::Incompatible(Incompatible::Suite(_) | Incompatible::ImageType(_)) => Some("use a newer release"),
        Error::Backend(_) => Some("check the disk below the image"),
        Error::WrongKey => Some("check that the key is this volume's"),
        Error::Rng => Some("try again once the system has entropy"),
        Error::Anchor(_) => {
            Some("check --anchor; --abandon-anchor opens the volume without protection against rollback")
        }
        Error::Latched(_) => Some("unmount, mend the cause and mount again"),
        Error::Invalid(Invalid::BackendSize { .. }) => Some("give a smaller --size"),
        Error::Invalid(_) => None,
        // The library may learn new errors; their own text must do.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new("/tmp/a\nb", "no such file").way_out("check the path");
        assert_eq!(failure.to_string(), "/tmp/a\\nb: no such file; check the path");
        assert_eq!(failure.fsck_exit().code(), 8);
        assert_eq!(failure.mount_exit().code(), 32);
        assert_eq!(Failure::usage("-o", "x").fsck_exit().code(), 16);
        assert_eq!(Failure::usage("-o", "x").mount_exit().code(), 1);
    }

    #[test]
    fn operating_system_errors_are_short() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(Failure::io(Path::new("/x"), &error).to_string(), "/x: No such file or directory");
    }

    #[test]
    fn a_wrong_key_says_what_to_check() {
        let text = Failure::volume(Path::new("/x"), &Error::WrongKey).to_string();
        assert!(text.starts_with("/x: ") && text.ends_with("; check that the key is this volume's"), "{text}");
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_output_only() {
        struct Pipe(usize);
        impl Write for Pipe {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                self.0 -= 1;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut output = Output::new(Pipe(1));
        output.line("one").unwrap();
        assert!(!output.is_closed());
        output.line("two").unwrap();
        assert!(output.is_closed());
        output.json(&3).unwrap();
    }

    #[test]
    fn json_is_one_line() {
        let mut output = Output::new(Vec::new());
        output.json(&serde_json::json!({"state": "clean", "why": "a\nb"})).unwrap();
        assert_eq!(output.to, b"{\"state\":\"clean\",\"why\":\"a\\nb\"}\n");
    }

    #[test]
    fn hardened_processes_leave_no_core() {
        use nix::sys::resource::{Resource, getrlimit};
        harden();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        if locks_freely() {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            assert_ne!(locked.trim(), "0 kB", "memory is locked where the limit allows it");
        }
    }
}
