//! `sealing`: seals data to code, keeps the key slots of volumes, and says why something does not open.
//!
//! It lives with the tools because it joins the `sealing` crate, which knows nothing of volumes, and `sefs`, which knows
//! nothing of platforms. See decision 8.

mod anchor;
mod data;
mod doctor;
mod recover;
mod rotate;
mod slots;
mod tpm;
mod upgrade;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sealing::platform::software::RootFile;
use sealing::{OsRng, PlatformOwner};
use zeroize::Zeroizing;

use crate::invocation;
use crate::key_source::KeyArgs;
use crate::platform_source::{label, platform_owner, root_failure, warning};
use crate::report::{Failure, FailureKind, Output, Tool, harden};
use crate::showing::hex;
use crate::volume_id::decode_hex;

const TOOL: Tool = Tool("sealing");
/// A file with a public key is no longer.
const PUBLIC_KEY_BYTES_MAX: usize = 512;

/// Seal data to code, keep the key slots of SEFS volumes, and learn why something does not open.
///
/// Secrets are read from files only. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Parser, Debug)]
#[command(name = "sealing", bin_name = "sealing", version, max_term_width = 100)]
pub struct SealingArgs {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a root key for the platform software, in a file that must not exist yet
    Root {
        /// The file
        file: PathBuf,
    },
    /// Seal a file to code on a platform, at the current security versions
    Seal(data::SealArgs),
    /// Open a sealed blob
    Unseal(data::UnsealArgs),
    /// Show a blob's header, or a volume's platform slots, without a key; nothing of it is authenticated
    Inspect {
        /// A blob, an image, or an upgrade manifest
        file: PathBuf,
    },
    /// Say which field keeps a blob, or a volume's slots, from opening on a platform
    Explain(data::ExplainArgs),
    /// Say which volumes and blobs would no longer open after a change
    Doctor(doctor::DoctorArgs),
    /// Key slots of a volume
    #[command(subcommand)]
    Slots(slots::SlotsCommand),
    /// Give a volume another key, with slots for all whose secrets are given, and seal what the old key sealed anew
    ///
    /// An interrupted call loses nothing; the same command goes on. Until it has ended, old blocks are neither secret nor authentic
    /// against the old key's holder.
    Rotate(rotate::RotateKeyArgs),
    /// Check recovery shares without using them, against each other and against a volume
    VerifyShares(slots::VerifySharesArgs),
    /// Write the manifest of an upgrade, for approvers to sign
    Manifest(upgrade::ManifestArgs),
    /// Sign a manifest
    Approve(upgrade::ApproveArgs),
    /// Print the public key of an approver or dealer
    ApproverKey {
        /// 32 bytes, or 64 hex digits
        #[arg(long, value_name = "FILE")]
        signing_key: PathBuf,
    },
    /// Hand a volume over to the code that an approved manifest names
    Migrate(upgrade::MigrateArgs),
    /// Open a volume with recovery shares and give it a new key, in one step
    ///
    /// For when everything else is lost. Any T of the N shares will do; sealing verify-shares checks them first. What is to be
    /// done afterwards is printed. The image of an anchored volume needs its --anchor too, or --abandon-anchor if that is lost.
    Recover(recover::RecoverArgs),
    /// Anchors: what keeps a volume from being rolled back
    #[command(subcommand)]
    Anchor(anchor::AnchorCommand),
    /// A root key in a TPM, for the platform tpm
    #[command(subcommand)]
    Tpm(tpm::TpmCommand),
}

/// A platform on a command line of its own.
#[derive(Args, Debug)]
struct PlatformArgs {
    /// The platform: sgx-sim, software or tpm, with options as mrenclave=HEX,policy=mrsigner,config=FILE
    #[arg(long, value_name = "NAME[:OPTIONS]", long_help = crate::platform_source::HELP)]
    platform: String,
    /// Use a platform for development, whose keys are no secret
    #[arg(long)]
    allow_development: bool,
}

impl PlatformArgs {
    fn owner(&self) -> Result<PlatformOwner, Failure> {
        owner(&self.platform, self.allow_development)
    }
}

/// The owner that a specification names, with its warning said.
fn owner(spec: &str, allow_development: bool) -> Result<PlatformOwner, Failure> {
    let owner = platform_owner(spec, allow_development)?;
    if let Some(text) = warning(&owner) {
        TOOL.warn(&text);
    }
    Ok(owner)
}

/// Runs the tool: `args` start with the program's name.
pub fn run(args: &[OsString]) -> ExitCode {
    harden();
    let args: SealingArgs = match invocation::parse(args, ExitCode::from(2)) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let mut sealing = Sealing { out: Output::stdout(), json: args.json };
    match sealing.run(&args.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            TOOL.fail_for(&failure, args.json);
            match failure.kind() {
                FailureKind::Usage => ExitCode::from(2),
                FailureKind::Operational => ExitCode::FAILURE,
            }
        }
    }
}

struct Sealing {
    out: Output,
    json: bool,
}

impl Sealing {
    /// `false`: the answer is no, and was given.
    fn run(&mut self, command: &Command) -> Result<bool, Failure> {
        match command {
            Command::Root { file } => {
                RootFile::create(file, &OsRng).map_err(|error| root_failure(file, &error))?;
                self.say(serde_json::json!({"root": file, "assurance": "development"}), || {
                    format!("{}: a root key for the platform software (development)", file.display())
                })
            }
            Command::Seal(args) => self.seal(args),
            Command::Unseal(args) => self.unseal(args),
            Command::Inspect { file } => self.inspect(file),
            Command::Explain(args) => self.explain(args),
            Command::Doctor(args) => self.doctor(args),
            Command::Slots(command) => self.slots(command),
            Command::Rotate(args) => self.rotate_key(args),
            Command::VerifyShares(args) => self.verify_shares(args),
            Command::Manifest(args) => self.manifest(args),
            Command::Approve(args) => self.approve(args),
            Command::ApproverKey { signing_key } => self.approver_key(signing_key),
            Command::Migrate(args) => self.migrate(args),
            Command::Recover(args) => self.recover(args),
            Command::Anchor(command) => self.anchor(command),
            Command::Tpm(command) => self.tpm(command),
        }
    }

    /// One answer, for programs or for people.
    fn say(&mut self, value: serde_json::Value, text: impl FnOnce() -> String) -> Result<bool, Failure> {
        if self.json {
            self.out.json(&value)?
        } else {
            self.out.line(text())?
        }
        Ok(true)
    }
}

/// A whole file of bounded length, in memory that is wiped.
fn read_file(path: &Path, max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let file = std::fs::File::open(path).map_err(|error| Failure::io(path, &error).way_out("check the path"))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(max_bytes + 1));
    let read = file.take(max_bytes as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(path, &error).way_out("check the path"))?;
    if bytes.len() > max_bytes {
        return Err(
            Failure::new(path.display(), format!("it is longer than {max_bytes} bytes")).way_out("check the path")
        );
    }
    Ok(bytes)
}

/// Writes a new file that only its owner can read, durably, name and all; "-" is standard output. What exists is not replaced,
/// and of what cannot be written whole nothing stays.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path == Path::new("-") {
        return Output::stdout().bytes(bytes);
    }
    let failed = |error| Failure::io(path, &error).way_out("name a new file in a directory that you can write");
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        // It is ours, made a moment ago, and half a file would be taken for a whole one.
        let _ = std::fs::remove_file(path);
        return Err(failed(error));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Some filesystems cannot sync directories; then it is as it is.
    if let Ok(directory) = std::fs::File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// A public key from a file, in hex digits; `made_by` is the command that prints one.
fn public_key<const LEN: usize>(path: &Path, made_by: &str) -> Result<[u8; LEN], Failure> {
    let text = read_file(path, PUBLIC_KEY_BYTES_MAX)?;
    let mut key = [0; LEN];
    decode_hex(text.trim_ascii(), &mut key).map(|()| key).ok_or_else(|| {
        Failure::usage(path.display(), format_args!("it does not hold a public key of {} hex digits", 2 * LEN))
            .way_out(format_args!("see {made_by}"))
    })
}

/// The platform in the key arguments, for commands that cannot work with another key.
fn only_platform(key: &KeyArgs) -> Result<PlatformOwner, Failure> {
    match &key.platform {
        Some(spec) => platform_owner(spec, key.allow_development),
        None => Err(Failure::usage("--platform", "only code on a platform can do this")
            .way_out("give --platform NAME[:OPTIONS]")),
    }
}

fn owner_label(owner: &PlatformOwner) -> String {
    label(owner)
}

/// The clock of this host, which is worth what the host is.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
