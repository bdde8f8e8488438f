//! `fsck.sefs`: checks a volume, and repairs it when asked.
//!
//! *Security*: what fails to authenticate becomes absent only where `--accept-loss` names it; what was rolled back is never
//! repaired. The automatic modes `-y` and `-p` do neither, and write nothing to a volume that has an anchor: whatever is
//! written there has to move the anchor.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sefs::check::{CheckOptions, CheckSummary, Event, Finding, Loss, Severity};
use sefs::error::Error;
use sefs::format::{FEATURE_LAYERED, FileKind};
use sefs::repair::{Fix, Outcome, Refusal, repair};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, NewInode, Notice};
use serde_json::json;

use crate::image::ImageUse;
use crate::interrupt;
use crate::invocation::{self, Role};
use crate::key_source::KeyArgs;
use crate::mount_options::MountOptions;
use crate::names::escaped;
use crate::opening::{Entry, Located, Unlocked};
use crate::progress::StageProgress;
use crate::report::{Failure, FsckExit, Output, Tool, harden};

/// Check a SEFS volume, and repair it when asked.
///
/// Without -y, -p, --repair or --accept-loss nothing is changed. A repair replays the log and puts right what follows from
/// records that all authenticate: counts, links, orphans, allocation. Inodes that have no name are put into /lost+found. It
/// is written as one checkpoint: when it is cut off, it has happened or it has not.
///
/// What does not authenticate is given up only by name: a finding ends with the --accept-loss that accepts it. Until then
/// reading it fails. Automatic modes (-y, -p) never give anything up, and change nothing as long as anything does not
/// authenticate; nor do they change a volume with an anchor, for that moves the anchor: --repair does. What was rolled
/// back is never repaired.
///
/// What --accept-loss names:
///   data:OBJECT[:FIRST[-LAST]]  blocks of an object that do not authenticate become holes (reads every block)
///   node:ADDRESS                a tree node goes, with all records below it
///   log:LSN                     the log ends before this group (not on an anchored volume: give --abandon-anchor)
///   allocation                  allocation pages are made anew; no content is lost
///
/// A volume over images is checked together with them: they are found as for a mount (--lower), and never changed. What an image
/// holds is checked as far as names, links and blocks lead into it, and read when it is checked by itself.
///
/// Exit codes as in fsck(8): 0 no errors, 1 errors corrected, 4 errors left, 8 the check could not be made, 16 wrong usage,
/// 32 interrupted.
#[derive(Parser, Debug)]
#[command(
    name = "fsck.sefs",
    bin_name = "fsck.sefs",
    version,
    max_term_width = 100,
    disable_version_flag = true,
    verbatim_doc_comment
)]
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
    #[arg(short = 'n', conflicts_with_all = ["yes", "preen", "repair", "accept_loss"])]
    no: bool,
    /// Repair what can be repaired without loss, on a volume without an anchor
    #[arg(short = 'y')]
    yes: bool,
    /// Repair what can be repaired without loss; an anchor advances
    #[arg(long, conflicts_with_all = ["yes", "preen"])]
    repair: bool,
    /// As -y; and a volume that was closed properly is not checked, unless -f or --scrub is given
    #[arg(short = 'p', visible_short_alias = 'a')]
    preen: bool,
    /// With -p: check even a volume that was closed properly
    #[arg(short = 'f')]
    force: bool,
    /// Also read every data block and see whether it authenticates; of a volume over images its own (check an image by itself)
    #[arg(long)]
    scrub: bool,
    /// Print JSON: a line for each finding, and one with the result or what failed
    #[arg(long)]
    json: bool,
    /// Give up this damage, and repair; can be given more than once
    #[arg(long, value_name = "LOSS", conflicts_with_all = ["yes", "preen"])]
    accept_loss: Vec<Loss>,
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
    // A check changes nothing, and a repair is one checkpoint: there is nothing to put in order first.
    interrupt::exit_on_signal(i32::from(FsckExit::Cancelled.code()));
    let mut fsck = Fsck { out: Output::stdout(), quiet: role == Role::Helper && !args.json, args };
    match fsck.run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            TOOL.fail_for(&failure, fsck.args.json);
            failure.fsck_exit().into()
        }
    }
}

const TOOL: Tool = Tool("fsck.sefs");
/// More findings than this are counted only: the first ones say what happened.
const FINDINGS_SHOWN: usize = 1000;
const NOTHING_CHANGED: &str = "nothing was changed; what is hit stays unreadable";

struct Fsck {
    out: Output,
    args: FsckArgs,
    quiet: bool,
}

fn is_rolled_back(finding: &Finding) -> bool {
    matches!(finding, Finding::Unmountable { error: Error::RolledBack(_) })
}

/// What a check came to.
struct Checked {
    summary: CheckSummary,
    /// The first findings.
    findings: Vec<Finding>,
    /// Findings that the next checkpoints or a repair put right.
    repairable: u64,
    /// The volume lies over images, whose blocks are read when they are checked.
    over_images: bool,
}

/// Who asks for a repair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Look,
    Automatic,
    Asked,
}

impl Fsck {
    fn run(&mut self) -> Result<FsckExit, Failure> {
        let mode = self.mode();
        let key = MountOptions::key_args(&self.args.options, &self.args.key)?;
        let image_use = if mode == Mode::Look { ImageUse::ReadOnly } else { ImageUse::ReadWrite };
        let entry = Located::open_as_it_is(&self.args.image, image_use)?.enter(&key, TOOL)?;
        if self.args.preen && !self.args.force && !self.args.scrub && self.closed_properly(&entry)? {
            self.result(&json!({"state": "clean", "checked": false}), "closed properly; not checked, -f checks it")?;
            return Ok(FsckExit::Clean);
        }
        let first = self.check(&entry)?;
        let unlocked = match entry.unlocked().filter(|_| !entry.located().is_packed()) {
            Some(unlocked) => unlocked,
            None => return self.end(&first, None, "a packed image is not repaired; take it from a copy"),
        };
        let errors = first.summary.errors > 0;
        let wanted = errors || first.repairable > 0 || first.summary.groups > 0 || !self.args.accept_loss.is_empty();
        if mode == Mode::Look || !wanted {
            return self.end(&first, None, NOTHING_CHANGED);
        }
        if first.findings.iter().any(is_rolled_back) {
            return self.end(&first, None, "nothing was changed; put the newest image back");
        }
        let anchored = unlocked.source.anchor.is_some() || unlocked.source.abandon_anchor;
        if mode == Mode::Automatic && anchored {
            return self.end(&first, None, "nothing was changed: that would move the anchor; --repair does");
        }
        if mode == Mode::Automatic && first.findings.iter().any(Finding::is_of_the_host) {
            return self.end(
                &first,
                None,
                "nothing was changed, for not all of it authenticates; --repair does what loses nothing",
            );
        }
        if !errors && self.args.accept_loss.is_empty() {
            self.replay(unlocked)?;
        } else if let Err(why) = self.repair(unlocked)? {
            return self.end(&first, None, &why);
        }
        let second = self.check(&entry)?;
        self.end(&first, Some(&second), "what was not repaired stays as it is")
    }

    fn mode(&self) -> Mode {
        let args = &self.args;
        match (args.repair || !args.accept_loss.is_empty(), args.yes || args.preen) {
            (true, _) => Mode::Asked,
            (false, true) => Mode::Automatic,
            (false, false) => Mode::Look,
        }
    }

    /// Tells what was found and what came of it. `second` is the check after a repair.
    fn end(&mut self, first: &Checked, second: Option<&Checked>, way_out: &str) -> Result<FsckExit, Failure> {
        let left = second.unwrap_or(first);
        for finding in &first.findings {
            let repaired = second.is_some_and(|second| !second.findings.contains(finding));
            self.finding(finding, repaired)?;
        }
        for finding in left.findings.iter().filter(|finding| !first.findings.contains(finding)) {
            self.finding(finding, false)?;
        }
        let all = left.summary.errors + left.summary.notes;
        let more = all.saturating_sub(u64::try_from(left.findings.len()).unwrap_or(u64::MAX));
        if more > 0 && !self.args.json {
            self.out.line(format!("{}: {more} more findings", self.image()))?;
        }
        let (state, exit) = match (left.summary.errors > 0, second) {
            (true, _) => ("errors", FsckExit::Uncorrected),
            (false, None) => ("clean", FsckExit::Clean),
            (false, Some(second)) if second.repairable > 0 => ("errors", FsckExit::Uncorrected),
            (false, Some(_)) => ("corrected", FsckExit::Corrected),
        };
        self.tell(left, state, way_out)?;
        Ok(exit)
    }

    /// Whether there is nothing to replay and nothing to report; asked of a read-only mount, which replays in memory.
    fn closed_properly(&self, entry: &Entry) -> Result<bool, Failure> {
        let options = sefs::vfs::OpenOptions { read_only: true, ..entry.options()? };
        match entry.try_bare(&options) {
            Ok(volume) => {
                let info = volume.info();
                let expected = |notice: &Notice| {
                    matches!(notice, Notice::Unanchored | Notice::Unpinned | Notice::KeyRotation { .. })
                };
                let nothing_found = info.notices.iter().all(expected);
                Ok(nothing_found && info.replayed_groups == 0 && info.dropped_groups == 0)
            }
            // What keeps it from opening is what the check is for.
            Err(Error::Tampered(_) | Error::RolledBack(_) | Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(entry.failed(&error)),
        }
    }

    fn check_options(&self, mount: sefs::vfs::OpenOptions) -> Result<CheckOptions, Failure> {
        Ok(CheckOptions {
            scrub: self.args.scrub,
            anchor: mount.anchor,
            abandon_anchor: mount.abandon_anchor,
            volume_id: mount.volume_id,
            root_digest: mount.root_digest,
            ..CheckOptions::default()
        })
    }

    fn check(&self, entry: &Entry) -> Result<Checked, Failure> {
        let options = CheckOptions { scrub: self.scrubs(), ..self.check_options(entry.options()?)? };
        let mut progress = StageProgress::new("checking", self.quiet);
        let (mut findings, mut repairable) = (Vec::new(), 0);
        let summary = entry.check(&options, &mut |event| match event {
            Event::Progress { done, total, what } => progress.set(what, done, total),
            Event::Finding(finding) => {
                repairable += u64::from(finding.repairable());
                if findings.len() < FINDINGS_SHOWN {
                    findings.push(finding);
                }
            }
        });
        drop(progress);
        let over_images = entry.located().header.incompatible & FEATURE_LAYERED != 0;
        Ok(Checked { summary: summary?, findings, repairable, over_images })
    }

    /// Data blocks are given up only after it was seen that they do not authenticate.
    fn scrubs(&self) -> bool {
        self.args.scrub || self.args.accept_loss.iter().any(|loss| matches!(loss, Loss::Data { .. }))
    }

    fn finding(&mut self, finding: &Finding, repaired: bool) -> Result<(), Failure> {
        let severity = match finding.severity() {
            Severity::Note => "note",
            Severity::Error => "error",
        };
        let accept = finding.loss().map(|loss| loss.to_string());
        if self.args.json {
            let ids: serde_json::Map<String, serde_json::Value> =
                finding.fields().into_iter().map(|(name, value)| (name.to_string(), number_or_text(value))).collect();
            return self.out.json(&json!({
                "finding": finding.code(),
                "severity": severity,
                "repairable": finding.repairable(),
                "repaired": repaired,
                "accept_loss": accept,
                "ids": ids,
                "text": finding.to_string(),
            }));
        }
        if self.quiet && finding.severity() == Severity::Note {
            return Ok(());
        }
        let hint = match accept.filter(|_| !repaired) {
            Some(loss) => format!("; --accept-loss {loss} gives it up"),
            None => String::new(),
        };
        self.out.line(format!("{}: {severity}: {finding} [{}]{hint}", self.image(), finding.code()))
    }

    /// Repairs, and tells what was done; `Err` says why nothing was.
    fn repair(&mut self, unlocked: &Unlocked) -> Result<Result<(), String>, Failure> {
        let options = CheckOptions { lowers: unlocked.lowers()?, ..self.check_options(unlocked.options()?)? };
        let mut progress = StageProgress::new("checking", self.quiet);
        let backend = unlocked.located.backend.clone();
        let outcome = repair(
            backend,
            &unlocked.key,
            &options,
            &self.args.accept_loss,
            &unlocked.env(),
            &mut |what, done, total| progress.set(what, done, total),
        );
        drop(progress);
        match outcome.map_err(|error| unlocked.failed(&error))? {
            Outcome::Repaired(fixes) => {
                fixes.iter().try_for_each(|fix| self.fix(fix))?;
                Ok(Ok(()))
            }
            Outcome::Nothing => Ok(Err(NOTHING_CHANGED.into())),
            Outcome::Refused(refusal) => Ok(Err(self.refused(&refusal)?)),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Result<String, Failure> {
        Ok(match refusal {
            Refusal::NotLost(loss) => {
                let reason = format!("{loss} is not damaged, so it is not given up");
                return Err(Failure::usage("--accept-loss", &reason).way_out("take what a finding names"));
            }
            Refusal::AnchoredLog => {
                let reason = "the log of an anchored volume is not cut: that is what its anchor is there to notice";
                return Err(
                    Failure::usage("--accept-loss", reason).way_out("give --abandon-anchor instead of --anchor")
                );
            }
            Refusal::Hidden(hidden) => {
                let names: Vec<String> = hidden.iter().filter_map(Finding::loss).map(|loss| loss.to_string()).collect();
                match names.is_empty() {
                    true => NOTHING_CHANGED.into(),
                    false => {
                        format!("nothing was changed, for this would have to be given up too: {}", names.join(" "))
                    }
                }
            }
            _ => NOTHING_CHANGED.into(),
        })
    }

    fn fix(&mut self, fix: &Fix) -> Result<(), Failure> {
        if self.args.json {
            return self.out.json(&json!({"fix": fix.code(), "loss": fix.is_loss(), "text": fix.to_string()}));
        }
        if self.quiet && !fix.is_loss() {
            return Ok(());
        }
        self.out.line(format!("{}: {}{fix}", self.image(), if fix.is_loss() { "LOST: " } else { "" }))
    }

    /// Lets a read-write mount replay the log and write its checkpoints, which put both slots right.
    fn replay(&self, unlocked: &Unlocked) -> Result<(), Failure> {
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

    fn tell(&mut self, checked: &Checked, state: &str, way_out: &str) -> Result<(), Failure> {
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
        let data = match (self.scrubs(), checked.over_images) {
            (true, false) => "all read".into(),
            (true, true) => format!("{scrubbed_blocks} read, the volume's own"),
            (false, _) => "not read, --scrub does".to_string(),
        };
        let content = [
            counted(inodes, "inode"),
            format!("{} ({data})", counted(data_blocks, "data block")),
            format!("{} to replay", counted(groups, "log group")),
        ]
        .join(", ");
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

fn number_or_text(value: String) -> serde_json::Value {
    value.parse::<u64>().map_or_else(|_| value.into(), Into::into)
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
