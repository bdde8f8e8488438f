//! `mount.sefs`: a SEFS volume as a directory of this host, through FUSE.
//!
//! ```text
//! run ─► daemon (into the background)
//!     ─► arguments
//!     ─► open (lock, key, volume)
//!     ─► serve ─► attach (fusermount, received, mountpoint)
//!              ─► adapter ─► negotiate, privileges, convert
//!              │            ├─► committer, seeker, shortage, shutdown
//!              └─► worker ──┴─► served ─► activity, report
//!              │     └─► throttle
//!              └─► eager
//! ```
//! The host is entitled to the key here: nothing in this crate runs in an enclave.
#![deny(unsafe_code)]

mod activity;
mod adapter;
mod arguments;
mod attach;
mod committer;
mod convert;
mod daemon;
mod eager;
mod fusermount;
mod mountpoint;
mod negotiate;
mod open;
mod privileges;
mod received;
mod report;
mod seeker;
mod serve;
mod served;
mod shortage;
mod shutdown;
mod throttle;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use nix::mount::MsFlags;
use sefs_tools::invocation;
use sefs_tools::{Failure, MountExit, Output, Tool, VolumeId, harden};
use serde_json::json;

pub use arguments::Arguments;
use daemon::Started;

const TOOL: Tool = Tool(report::TOOL);

/// Runs the tool: `args` start with the program's name.
pub fn run(args: &[OsString]) -> ExitCode {
    let arguments: Arguments = match invocation::parse(args, MountExit::Usage.into()) {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let request = match arguments.request() {
        Ok(request) => request,
        Err(failure) => return failed(&arguments, &failure, failure.mount_exit()),
    };
    let helper = arguments::is_helper(args.first());
    if arguments.foreground && helper {
        return fake(&arguments, &request);
    }
    if !arguments.foreground && !arguments.ready_on_stdout {
        return in_background(args, &arguments);
    }
    serve(&arguments, &request)
}

/// mount(8)'s `-f`: everything but the mount.
fn fake(arguments: &Arguments, request: &arguments::Request) -> ExitCode {
    match open::open(&arguments::Request { read_only: true, ..request.clone() }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => failed(arguments, &failure, failure.mount_exit()),
    }
}

fn in_background(args: &[OsString], arguments: &Arguments) -> ExitCode {
    match daemon::start(args) {
        Ok(Started::Up(report)) => {
            tell_programs(arguments, &report);
            ExitCode::SUCCESS
        }
        // Killed, or it panicked: it had no time to say anything.
        Ok(Started::Ended(code, said))
            if said.is_empty() && (arguments.json || code == MountExit::Interrupted.code()) =>
        {
            let failure = Failure::new("mount.sefs", format!("the process that was to mount ended with code {code}"))
                .way_out("nothing is mounted; see the system's log, then try again");
            TOOL.fail_for(&failure, arguments.json);
            code.into()
        }
        Ok(Started::Ended(code, said)) => {
            tell_programs(arguments, &said);
            code.into()
        }
        Err(failure) => failed(arguments, &failure, MountExit::System),
    }
}

/// One line on standard output. What became of the mount is what the exit code says, whoever reads or not.
fn tell_programs(arguments: &Arguments, line: &str) {
    if arguments.json
        && !line.is_empty()
        && let Err(failure) = Output::stdout().line(line)
    {
        TOOL.warn(&failure.to_string());
    }
}

/// In the process that stays.
fn serve(arguments: &Arguments, request: &arguments::Request) -> ExitCode {
    harden();
    // The child was started as /proc/self/exe; whoever looks for the holder of an image shall find a name that tells.
    let _ = nix::sys::prctl::set_name(c"mount.sefs");
    let opened = match open::open(request) {
        Ok(opened) => opened,
        Err(failure) => return failed(arguments, &failure, failure.mount_exit()),
    };
    // A packed image is read-only, whatever was asked for; the kernel shall know.
    let mut flags = request.flags;
    flags.set(MsFlags::MS_RDONLY, opened.info.read_only);
    let request = &arguments::Request { flags, read_only: opened.info.read_only, ..request.clone() };
    if arguments.verbose {
        opened.info.notices.iter().for_each(|notice| report::note(&open::said_of(&request.image, notice)));
        report::note(&format_args!("{}: AES-GCM of {}", request.image.display(), opened.crypto));
    }
    let report = describe(request, &opened);
    let source = opened.source.clone();
    let running = match serve::start(request, opened) {
        Ok(running) => running,
        Err(error) => return failed(arguments, &error.failure, error.exit),
    };
    if arguments.ready_on_stdout {
        if let Err(error) = daemon::ready(&report) {
            report::note(&error);
        }
        report::into_background(&source);
    } else if arguments.json {
        // A reader that went away does not end the mount.
        let _ = Output::stdout().line(report);
    }
    match running.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(arguments, &Failure::volume(&request.image, &error), MountExit::System),
    }
}

/// What `--json` prints.
fn describe(request: &arguments::Request, opened: &open::Opened) -> String {
    let info = &opened.info;
    let notices: Vec<String> = info.notices.iter().map(ToString::to_string).collect();
    json!({
        "image": opened.source.to_string_lossy(),
        "directory": std::path::absolute(&request.dir).as_deref().unwrap_or(&request.dir).to_string_lossy(),
        "process": std::process::id(),
        "volume_id": VolumeId(info.volume_id).to_string(),
        "label": info.label,
        "size_bytes": info.size_bytes,
        "generation": info.generation.0,
        "read_only": info.read_only,
        "replayed_groups": info.replayed_groups,
        "dropped_groups": info.dropped_groups,
        "notices": notices,
        "key": opened.key_label,
        "crypto": opened.crypto.to_string(),
    })
    .to_string()
}

fn failed(arguments: &Arguments, failure: &Failure, exit: MountExit) -> ExitCode {
    TOOL.fail_for(failure, arguments.json && !arguments.ready_on_stdout);
    if arguments.json && arguments.ready_on_stdout {
        daemon::report_failure(failure);
    }
    exit.into()
}
