//! Into the background. A process with threads cannot fork safely, so the tool starts itself anew: the child mounts and
//! serves, the parent waits until the mount is up and ends with the child's verdict.
//!
//! The child's standard output is a pipe to the parent: a line through it means "ready", its end without a whole line that
//! the child failed and has said why on standard error, which both share; for programs it says so through the pipe too,
//! without an end of line. Standard input passes through, for a key may come from there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use sefs_tools::{Failure, MountExit};

/// The hidden option that makes a process the child.
const CHILD: &str = "--ready-on-stdout";
/// This program, even when its file was replaced since.
const MYSELF: &str = "/proc/self/exe";

/// What became of the child.
pub(crate) enum Started {
    /// It is up, and reports this.
    Up(String),
    /// It ended with this exit code, and said this to programs.
    Ended(u8, String),
}

/// Starts the child and waits.
pub(crate) fn start(args: &[OsString]) -> Result<Started, Failure> {
    let failed = |error: std::io::Error| Failure::io(Path::new(MYSELF), &error);
    let (name, rest) = args.split_first().map_or((OsString::from(crate::report::TOOL), args), |(n, r)| (n.clone(), r));
    let mut child =
        Command::new(MYSELF).arg0(name).arg(CHILD).args(rest).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(failed)?;
    }
    if line.ends_with('\n') {
        return Ok(Started::Up(line.trim_end().to_owned()));
    }
    let status = child.wait().map_err(failed)?;
    Ok(Started::Ended(verdict(status), line))
}

fn verdict(status: std::process::ExitStatus) -> u8 {
    match (status.code().map(u8::try_from), status.signal()) {
        // It ended well without mounting anything: that is its mistake.
        (Some(Ok(0)), _) => MountExit::Internal.code(),
        (Some(Ok(code)), _) => code,
        (_, Some(_)) => MountExit::Interrupted.code(),
        _ => MountExit::Internal.code(),
    }
}

/// In the child: tells the parent, then lets go of everything that ties it to whoever called.
pub(crate) fn ready(report: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    // If the parent is gone, the mount is up all the same.
    let _ = writeln!(output, "{report}").and_then(|()| output.flush());
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    nix::unistd::dup2_stdout(&nothing)?;
    nix::unistd::dup2_stderr(&nothing)?;
    // Fails only for the leader of a process group, which a child is not unless somebody made it one.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")
}

/// In the child: what failed, as the object that the parent passes on.
pub(crate) fn report_failure(failure: &Failure) {
    let mut output = std::io::stdout().lock();
    // If the parent is gone, nobody asks.
    let _ = write!(output, "{}", failure.json()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn the_childs_verdict_is_passed_on() {
        assert_eq!(verdict(ExitStatus::from_raw(32 << 8)), 32);
        assert_eq!(verdict(ExitStatus::from_raw(1 << 8)), 1);
        assert_eq!(verdict(ExitStatus::from_raw(0)), 4, "no report, no mount");
        assert_eq!(verdict(ExitStatus::from_raw(9)), 8, "killed");
    }
}
