//! `fsck.sefs`: checks a volume, and with `-y` or `-p` puts right what a read-write mount would put right too.
//!
//! *Security*: repair never turns what failed to authenticate, or what was rolled back, into absence. It replays the log
//! and writes new checkpoints, and does so only if nothing worse was found. The anchor is not touched by anything but that.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sefs::check::{CheckOptions, CheckSummary, Event, Finding, Severity, Stage, check};
use sefs::error::Error;
use sefs::format::FileKind;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, Env, NewInode, Notice, Volume};
use serde_json::json;

use crate::image::ImageUse;
use crate::interrupt;
use crate::invocation::{self, Role};
use crate::key_source::KeyArgs;
use crate::mount_options::MountOptions;
use crate::names::escaped;
use crate::opening::{Located, Unlocked};
use crate::progress::{Progress, Unit};
use crate::report::{Failure, FsckExit, Output, Tool, harden};

/// Check a SEFS volume, and repair what can be repaired without loss.
///
/// Without -y or -p nothing is changed. With them the log is replayed and new checkpoints are written, if nothing worse
/// was found than a crash leaves behind. What does not authenticate or was rolled back is never repaired: that would turn
/// an attack into a loss nobody notices.
///
/// Exit codes as in fsck(8): 0 no errors, 1 errors corrected, 4 errors left, 8 the check could not be made, 16 wrong usage,
/// 32 interrupted.
#[derive(Parser, Debug)]
#[command(name = "fsck.sefs", bin_name = "fsck.sefs", version, max_term_width = 100, disable_version_flag = true)]
pub struct FsckArgs {
    /// The image or block device
    #[arg(value_hint = clap::ValueHint::FilePath)]
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// The same as mount options: key-file=FILE,passphrase-file=FILE,…
    #[arg(short = 'o', value_name = "OPTION,…", help_heading = "Key and trust")]
    options: Vec<String>,
    /// Change nothing (the default)
    #[arg(short = 'n', conflicts_with_all = ["yes", "preen"])]
    no: bool,
    /// Repair what can be repaired
    #[arg(short = 'y')]
    yes: bool,
    /// As -y; and a volume that was closed properly is not checked, unless -f or --scrub is given
    #[arg(short = 'p', visible_short_alias = 'a')]
    preen: bool,
    /// With -p: check even a volume that was closed properly
    #[arg(short = 'f')]
    force: bool,
    /// Also read every data block and see whether it authenticates
    #[arg(long)]
    scrub: bool,
    /// Print JSON: a line for each finding, and one with the result
    #[arg(long)]
    json: bool,
    /// Give up what does not authenticate (not supported by this release)
    #[arg(long, value_name = "ID", hide = true)]
    accept_loss: Vec<String>,
    /// Options of fsck(8) and its other helpers that mean nothing here
    #[arg(short = 'T', short_aliases = ['V', 'v', 'M', 'r', 'c', 'k', 'l'], hide = true, action = clap::ArgAction::Count)]
    tolerated: u8,
    /// Print version
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// Runs the tool: `args` start with the program's name.
pub fn run(args: &[OsString]) -> ExitCode {
    harden();
    let role = Role::of(args.first());
    let args: FsckArgs = match invocation::parse(&without_progress_fd(args), FsckExit::Usage.into()) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    // A check changes nothing, and a repair is as crash-safe as any mount: there is nothing to put in order first.
    interrupt::exit_on_signal(i32::from(FsckExit::Cancelled.code()));
    let mut fsck = Fsck { out: Output::stdout(), quiet: role == Role::Helper && !args.json, args };
    match fsck.run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            TOOL.fail(&failure);
            failure.fsck_exit().into()
        }
    }
}

const TOOL: Tool = Tool("fsck.sefs");
/// More findings than this are counted only: the first ones say what happened.
const FINDINGS_SHOWN: u64 = 1000;

struct Fsck {
    out: Output,
    args: FsckArgs,
    quiet: bool,
}

/// What a check came to.
struct Checked {
    summary: CheckSummary,
    /// Findings that the next checkpoints put right.
    repairable: u64,
    /// Errors that they do not.
    hopeless: u64,
}

impl Fsck {
    fn run(&mut self) -> Result<FsckExit, Failure> {
        if !self.args.accept_loss.is_empty() {
            return Err(Failure::usage(
                "--accept-loss",
                "giving up parts of a volume is not supported by this release",
            )
            .way_out("copy what can still be read with debug.sefs or a read-only mount"));
        }
        let repair = self.args.yes || self.args.preen;
        let key = MountOptions::key_args(&self.args.options, &self.args.key)?;
        let image_use = if repair { ImageUse::ReadWrite } else { ImageUse::ReadOnly };
        let unlocked = Located::open(&self.args.image, image_use)?.unlock(&key, TOOL)?;
        if self.args.preen && !self.args.force && !self.args.scrub && self.closed_properly(&unlocked)? {
            self.result(&json!({"state": "clean", "checked": false}), "closed properly; not checked, -f checks it")?;
            return Ok(FsckExit::Clean);
        }
        let first = self.check(&unlocked)?;
        if first.hopeless > 0 || (first.summary.errors > 0 && !repair) {
            self.tell(&first, "errors")?;
            return Ok(FsckExit::Uncorrected);
        }
        if !repair || (first.repairable == 0 && first.summary.groups == 0) {
            self.tell(&first, "clean")?;
            return Ok(FsckExit::Clean);
        }
        self.repair(&unlocked)?;
        let second = self.check(&unlocked)?;
        let corrected = second.summary.errors == 0 && second.repairable == 0;
        self.tell(&second, if corrected { "corrected" } else { "errors" })?;
        Ok(if corrected { FsckExit::Corrected } else { FsckExit::Uncorrected })
    }

    /// Whether there is nothing to replay and nothing to report; asked of a read-only mount, which replays in memory.
    fn closed_properly(&self, unlocked: &Unlocked) -> Result<bool, Failure> {
        let options = sefs::vfs::OpenOptions { read_only: true, ..unlocked.options()? };
        match Volume::open(unlocked.located.backend.clone(), &unlocked.key, &options, &Env::host()) {
            Ok(volume) => {
                let info = volume.info();
                let only_unanchored = info.notices.iter().all(|notice| matches!(notice, Notice::Unanchored));
                Ok(only_unanchored && info.replayed_groups == 0 && info.dropped_groups == 0)
            }
            // What keeps it from opening is what the check is for.
            Err(Error::Tampered(_) | Error::RolledBack(_) | Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(unlocked.failed(&error)),
        }
    }

    fn check(&mut self, unlocked: &Unlocked) -> Result<Checked, Failure> {
        let mount = unlocked.options()?;
        let options = CheckOptions {
            scrub: self.args.scrub,
            anchor: mount.anchor,
            abandon_anchor: mount.abandon_anchor,
            volume_id: mount.volume_id,
            ..CheckOptions::default()
        };
        let (mut stage, mut progress) = (None, None);
        let (mut repairable, mut hopeless, mut shown) = (0, 0, 0);
        let mut written = Ok(());
        let backend = unlocked.located.backend.clone();
        let summary = check(backend, &unlocked.key, &options, &Env::host(), &mut |event| match event {
            Event::Progress { done, total, what } => {
                if stage != Some(what) {
                    (stage, progress) = (Some(what), self.progress(what, total));
                }
                if let Some(progress) = &mut progress {
                    progress.set_total(total);
                    progress.set(done);
                }
            }
            Event::Finding(finding) => {
                repairable += u64::from(finding.repairable());
                hopeless += u64::from(finding.severity() == Severity::Error && !finding.repairable());
                shown += 1;
                // The bar would be torn by what is printed.
                (stage, progress) = (None, None);
                if shown <= FINDINGS_SHOWN && written.is_ok() {
                    written = self.finding(&finding);
                }
            }
        });
        drop(progress);
        written?;
        let summary = summary.map_err(|error| unlocked.failed(&error))?;
        if shown > FINDINGS_SHOWN && !self.args.json {
            self.out.line(format!("{}: {} more findings", self.image(), shown - FINDINGS_SHOWN))?;
        }
        Ok(Checked { summary, repairable, hopeless })
    }

    fn progress(&self, what: Stage, total: u64) -> Option<Progress> {
        let total = (total > 0).then_some(total);
        (!self.quiet).then(|| Progress::start(&format!("checking {}", what.name()), Unit::Items, total))
    }

    fn finding(&mut self, finding: &Finding) -> Result<(), Failure> {
        let severity = match finding.severity() {
            Severity::Note => "note",
            Severity::Error => "error",
        };
        if self.args.json {
            return self.out.json(&json!({
                "finding": finding.code(),
                "severity": severity,
                "repairable": finding.repairable(),
                "text": finding.to_string(),
            }));
        }
        if self.quiet && finding.severity() == Severity::Note {
            return Ok(());
        }
        self.out.line(format!("{}: {severity}: {finding} [{}]", self.image(), finding.code()))
    }

    /// Lets a read-write mount replay the log and write its checkpoints, which put both slots right.
    fn repair(&self, unlocked: &Unlocked) -> Result<(), Failure> {
        let failed = |error: Error| unlocked.failed(&error);
        let volume = unlocked.volume()?;
        // A mount writes nothing until something is to be written. A file without a name is, and leaves nothing behind.
        let root = Caller::root();
        let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
        let made = volume.make_tmpfile(&root, InodeNo::ROOT, &new).map_err(failed)?;
        volume.release(made.ino, 1);
        volume.sync().map_err(failed)?;
        volume.close().map_err(failed)
    }

    fn tell(&mut self, checked: &Checked, state: &str) -> Result<(), Failure> {
        let CheckSummary { errors, notes, generation, groups, nodes, inodes, data_blocks, scrubbed_blocks } =
            checked.summary;
        let value = json!({
            "state": state,
            "checked": true,
            "errors": errors,
            "notes": notes,
            "checkpoint": generation.0,
            "log_groups": groups,
            "nodes": nodes,
            "inodes": inodes,
            "data_blocks": data_blocks,
            "scrubbed_blocks": scrubbed_blocks,
        });
        let data = if self.args.scrub { "all read" } else { "not read, --scrub does" };
        let content = [
            counted(inodes, "inode"),
            format!("{} ({data})", counted(data_blocks, "data block")),
            format!("{} to replay", counted(groups, "log group")),
        ]
        .join(", ");
        let way_out = "nothing was changed; what is hit stays unreadable, take it from a copy";
        let text = match state {
            "errors" => format!("{} in {content}; {way_out}", counted(errors, "error")),
            state => format!("{state}: {content}"),
        };
        self.result(&value, &text)
    }

    fn result(&mut self, value: &serde_json::Value, text: &str) -> Result<(), Failure> {
        if self.args.json {
            self.out.json(value)
        } else if self.quiet && value["state"] != "errors" {
            Ok(())
        } else {
            self.out.line(format!("{}: {text}", self.image()))
        }
    }

    fn image(&self) -> String {
        escaped(self.args.image.as_os_str().as_bytes())
    }
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// fsck(8) hands its helpers `-C`, `-C0` or `-C 0`, the descriptor for a progress bar. Ours goes to the terminal.
fn without_progress_fd(args: &[OsString]) -> Vec<OsString> {
    let is_number = |arg: &OsStr| !arg.is_empty() && arg.as_bytes().iter().all(u8::is_ascii_digit);
    let mut kept = Vec::with_capacity(args.len());
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        match arg.as_bytes() {
            b"-C" => {
                rest.next_if(|next| is_number(next));
            }
            [b'-', b'C', digits @ ..] if is_number(OsStr::from_bytes(digits)) => {}
            b"--" => {
                kept.push(arg.clone());
                kept.extend(rest.by_ref().cloned());
            }
            _ => kept.push(arg.clone()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(args: &[&str]) -> Vec<String> {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        without_progress_fd(&args).into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn a_progress_descriptor_is_dropped() {
        assert_eq!(kept(&["fsck", "-C", "image"]), ["fsck", "image"]);
        assert_eq!(kept(&["fsck", "-C", "0", "image"]), ["fsck", "image"]);
        assert_eq!(kept(&["fsck", "-C5", "image", "-Cx"]), ["fsck", "image", "-Cx"]);
        assert_eq!(kept(&["fsck", "--", "-C", "3"]), ["fsck", "--", "-C", "3"]);
    }

    #[test]
    fn options_of_other_helpers_are_tolerated() {
        let parsed = FsckArgs::try_parse_from(["fsck.sefs", "-T", "-a", "-V", "-M", "image"]).unwrap();
        assert!(parsed.preen);
        assert!(FsckArgs::try_parse_from(["fsck.sefs", "-n", "-y", "image"]).is_err());
    }
}
