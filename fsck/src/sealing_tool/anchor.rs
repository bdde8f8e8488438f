//! Anchors: looked at, compared with an image, and made for a volume that exists.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use sefs::anchor::{Anchor, AnchorKind, AnchorPolicy, FileAnchor};
use sefs::error::{Error, RolledBack};
use sefs::keys::VolumeKey;
use sefs::vfs::{AnchorStanding, OpenOptions};
use serde_json::json;

use super::{Sealing, TOOL, hex};
use crate::anchor::AnchorSpec;
use crate::image::ImageUse;
use crate::key_source::KeyArgs;
use crate::new_anchor::NewAnchor;
use crate::opening::{Located, Unlocked};
use crate::report::Failure;
#[cfg(feature = "tpm")]
use crate::tpm_anchor::TpmAnchor;

#[derive(Subcommand, Debug)]
pub(super) enum AnchorCommand {
    /// Bind a volume that exists to a new anchor: its first, or one in place of another, or of one that is lost
    ///
    /// The volume is bound in the state that it is in. With --anchor that state is compared with the anchor of before, which
    /// has no part in the volume afterwards. Without, nothing tells whether it is the newest one: look before you do it.
    Make(MakeArgs),
    /// Show what an anchor holds; nothing is made or moved
    ///
    /// An anchor in a TPM is recognized by the key of its volume, so it takes --image and a key.
    #[command(mut_arg("anchor", |arg| arg.hide(true)), mut_arg("abandon_anchor", |arg| arg.hide(true)))]
    Show(ShowArgs),
    /// Remove an anchor that no volume needs any more
    ///
    /// The volume of --image must not name it, or --force be given: a volume that names an anchor which is gone opens with
    /// --abandon-anchor only. An anchor in a TPM is recognized by the key of its volume, so it takes --image and a key.
    #[command(mut_arg("anchor", |arg| arg.hide(true)), mut_arg("abandon_anchor", |arg| arg.hide(true)))]
    Remove(RemoveArgs),
    /// Compare an image with its anchor (--anchor): equal, ahead or behind. Nothing is moved
    ///
    /// Exit codes: 0 the image opens with this anchor, 1 it does not.
    Check(CheckArgs),
}

#[derive(Args, Debug)]
pub(super) struct MakeArgs {
    /// The image
    image: PathBuf,
    /// The new anchor: file:PATH, or tpm:[counter:]INDEX[@TCTI] with TPM support. It must not exist yet
    #[arg(long, value_name = "KIND:PLACE")]
    new_anchor: AnchorSpec,
    /// When it advances: at every commit, or at checkpoints [default: strict; checkpoint for a TPM]
    #[arg(long, value_name = "WHEN")]
    anchor_policy: Option<Policy>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The anchor: file:PATH, or tpm:[counter:]INDEX[@TCTI] with TPM support
    #[arg(value_name = "KIND:PLACE")]
    place: AnchorSpec,
    /// Its volume
    #[arg(long)]
    image: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// The anchor: file:PATH, or tpm:[counter:]INDEX[@TCTI] with TPM support
    #[arg(value_name = "KIND:PLACE")]
    place: AnchorSpec,
    /// The volume that it belonged to
    #[arg(long)]
    image: Option<PathBuf>,
    /// Remove it though a volume may name it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
}

/// When an anchor advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// At every commit.
    Strict,
    /// At checkpoints.
    Checkpoint,
}

/// How an image and its anchor stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    /// The image leads through the anchor's state and beyond.
    Ahead,
    ImageBehind,
    AnchorBehind,
}

/// Writes that cells of a TPM's memory are made for, by its makers' data sheets.
const RATED_WRITES: u64 = 100_000;

impl Sealing {
    pub(super) fn anchor(&mut self, command: &AnchorCommand) -> Result<bool, Failure> {
        match command {
            AnchorCommand::Make(args) => self.make_anchor(args),
            AnchorCommand::Show(args) => self.show_anchor(args),
            AnchorCommand::Remove(args) => self.remove_anchor(args),
            AnchorCommand::Check(args) => self.check_anchor(args),
        }
    }

    fn make_anchor(&mut self, args: &MakeArgs) -> Result<bool, Failure> {
        let MakeArgs { image, new_anchor, .. } = args;
        let unlocked = Located::open(image, ImageUse::ReadWrite)?.unlock(&args.key, TOOL)?;
        let mut volume = unlocked.volume()?;
        let unchecked = unlocked.source.anchor.is_none();
        let mut made = NewAnchor::make(Some(new_anchor), &unlocked.key)?;
        made.warnings.iter().for_each(|warning| TOOL.warn(warning));
        let policy = policy(new_anchor, args.anchor_policy);
        budget(new_anchor, policy).iter().for_each(|text| TOOL.warn(text));
        if let Some(anchor) = made.get() {
            volume.bind_anchor(anchor, policy).map_err(|error| kept(&mut made, &unlocked, new_anchor, &error))?;
        }
        made.keep();
        volume.close().map_err(|error| unlocked.failed(&error))?;
        if unchecked {
            TOOL.warn("nothing told whether this was the volume's newest state; from now on the anchor does");
        }
        let value = json!({"image": image, "anchor": new_anchor.to_string(), "policy": policy_name(policy)});
        self.say(value, || {
            format!(
                "{}: bound to {new_anchor} ({}); give --anchor {new_anchor} from now on",
                image.display(),
                policy_name(policy)
            )
        })
    }

    fn remove_anchor(&mut self, args: &RemoveArgs) -> Result<bool, Failure> {
        let RemoveArgs { place, image, force, key } = args;
        let key = KeyArgs { anchor: None, abandon_anchor: false, ..key.clone() };
        let unlocked = match image {
            Some(image) => Some(Located::open(image, ImageUse::ReadOnly)?.unlock(&key, TOOL)?),
            None => None,
        };
        let anchor = StandingAnchor::open(place, unlocked.as_ref().map(|unlocked| &unlocked.key))?;
        match &unlocked {
            _ if *force => {}
            None => {
                return Err(Failure::usage("--image", format_args!("nothing tells whether a volume names {place}"))
                    .way_out("give its volume with --image and a key, or --force"));
            }
            Some(unlocked) if names(unlocked, &anchor.identity())? => {
                return Err(Failure::new(unlocked.located.path.display(), format_args!("it is bound to {place}"))
                    .way_out("bind it to another with sealing anchor make, or give --force"));
            }
            Some(_) => {}
        }
        anchor.remove(place)?;
        self.say(json!({"anchor": place.to_string(), "removed": true}), || format!("{place}: removed"))
    }

    fn show_anchor(&mut self, args: &ShowArgs) -> Result<bool, Failure> {
        let anchor: Arc<dyn Anchor> = match (&args.place, &args.image) {
            (AnchorSpec::File(path), None) => {
                Arc::new(FileAnchor::open(path).map_err(|error| unread(&args.place, error.into()))?)
            }
            #[cfg(feature = "tpm")]
            (AnchorSpec::Tpm(_), None) => {
                return Err(known_by_key());
            }
            (place, Some(image)) => {
                let unlocked = Located::open(image, ImageUse::ReadOnly)?.unlock(&args.key, TOOL)?;
                place.open(&unlocked.key).map_err(|error| unread(place, error))?
            }
        };
        let state = anchor.read().map_err(|error| unread(&args.place, error.into()))?;
        let (kind, identity, digest) = (kind_name(anchor.kind()), hex(&anchor.identity()), hex(&state.digest));
        let budget = match anchor.kind() {
            AnchorKind::ContentBound => used(&args.place, state.counter),
            AnchorKind::BareCounter | AnchorKind::None => None,
        };
        if self.json {
            let value = json!({
                "anchor": args.place.to_string(), "kind": kind, "identity": identity, "counter": state.counter,
                "digest": digest, "write_budget": budget,
            });
            self.out.json(&value)?;
            return Ok(true);
        }
        self.out.line(format!("anchor     {} ({kind})", args.place))?;
        self.out.line(format!("identity   {identity}"))?;
        self.out.line(format!("counter    {}", state.counter))?;
        if anchor.kind() == AnchorKind::ContentBound {
            self.out.line(format!("digest     {digest}"))?;
        }
        budget.map_or(Ok(()), |text| self.out.line(format!("budget     {text}")))?;
        Ok(true)
    }

    fn check_anchor(&mut self, args: &CheckArgs) -> Result<bool, Failure> {
        if args.key.abandon_anchor {
            return Err(Failure::usage("--abandon-anchor", "there is nothing to compare without the anchor")
                .way_out("give --anchor"));
        }
        let unlocked = Located::open(&args.image, ImageUse::ReadOnly)?.unlock(&args.key, TOOL)?;
        let Some(place) = unlocked.source.anchor.clone() else {
            return Err(Failure::usage("--anchor", "which anchor?").way_out("give --anchor KIND:PLACE"));
        };
        let options = unlocked.options()?;
        let (standing, anchor, relation) = match compare(&unlocked, &options) {
            Ok(standing) => {
                let relation = if standing.current { Relation::Equal } else { Relation::Ahead };
                (standing, standing.anchor.unwrap_or_default(), relation)
            }
            Err(Error::RolledBack(RolledBack::Anchor { counter })) => {
                let alone = OpenOptions { anchor: None, abandon_anchor: true, ..options };
                let standing = compare(&unlocked, &alone).map_err(|error| unlocked.failed(&error))?;
                let relation = if counter < standing.image { Relation::AnchorBehind } else { Relation::ImageBehind };
                (standing, counter, relation)
            }
            Err(error) => return Err(unlocked.failed(&error)),
        };
        let opens = matches!(relation, Relation::Equal | Relation::Ahead);
        let value = json!({
            "image": args.image, "image_at": standing.image, "anchor": place.to_string(), "anchor_at": anchor,
            "kind": kind_name(standing.kind), "policy": policy_name(standing.policy), "identity": hex(&standing.identity),
            "relation": relation.to_string(), "opens": opens,
        });
        self.say(value, || {
            let image = args.image.display();
            format!("{image}: image is at {}, anchor at {anchor}: {relation}; {}", standing.image, relation.meaning())
        })?;
        Ok(opens)
    }
}

/// Opens the volume, which moves nothing, and asks where it stands.
fn compare(unlocked: &Unlocked, options: &OpenOptions) -> Result<AnchorStanding, Error> {
    let volume = sefs::vfs::Volume::open(unlocked.located.backend.clone(), &unlocked.key, options, &unlocked.env())?;
    volume.anchor_standing().ok_or(Error::Incompatible(sefs::error::Incompatible::NotAnchored))
}

/// Whether the volume, in the state that it is in, is bound to this anchor.
fn names(unlocked: &Unlocked, identity: &[u8; 32]) -> Result<bool, Failure> {
    let volume_id = unlocked.source.volume_id.map(|id| id.0);
    let alone = OpenOptions { abandon_anchor: true, read_only: true, volume_id, ..OpenOptions::default() };
    let volume = unlocked.volume_with(&alone)?;
    Ok(volume.anchor_standing().is_some_and(|standing| standing.identity == *identity))
}

/// An anchor that was found and read, so that nothing else is ever removed in its place.
enum StandingAnchor {
    File(PathBuf, FileAnchor),
    #[cfg(feature = "tpm")]
    Tpm(Box<TpmAnchor>),
}

impl StandingAnchor {
    fn open(place: &AnchorSpec, key: Option<&VolumeKey>) -> Result<StandingAnchor, Failure> {
        #[cfg(not(feature = "tpm"))]
        let _ = key;
        match place {
            AnchorSpec::File(path) => {
                let anchor = FileAnchor::open(path).map_err(|error| unread(place, error.into()))?;
                Ok(StandingAnchor::File(path.clone(), anchor))
            }
            #[cfg(feature = "tpm")]
            AnchorSpec::Tpm(index) => {
                let anchor = TpmAnchor::open(index, key.ok_or_else(known_by_key)?);
                anchor.map(Box::new).map(StandingAnchor::Tpm).map_err(|error| unread(place, error.into()))
            }
        }
    }

    fn identity(&self) -> [u8; 32] {
        match self {
            StandingAnchor::File(_, anchor) => anchor.identity(),
            #[cfg(feature = "tpm")]
            StandingAnchor::Tpm(anchor) => anchor.identity(),
        }
    }

    fn remove(&self, place: &AnchorSpec) -> Result<(), Failure> {
        match self {
            StandingAnchor::File(path, _) => std::fs::remove_file(path).map_err(|error| {
                Failure::new(place, Failure::io(path, &error)).way_out("check the permissions of its directory")
            }),
            #[cfg(feature = "tpm")]
            StandingAnchor::Tpm(anchor) => anchor.remove().map_err(|error| {
                Failure::new(place, error).way_out(
                    "where the TPM's owner has a password, tpm2_nvundefine INDEX -C o -P PASSWORD removes it; content takes the next index too",
                )
            }),
        }
    }
}

/// The new anchor is removed again, unless the volume may be bound to it by now.
fn kept(made: &mut NewAnchor, unlocked: &Unlocked, place: &AnchorSpec, error: &Error) -> Failure {
    let refused = matches!(error, Error::Invalid(_) | Error::Posix(_));
    if !refused {
        made.keep();
        TOOL.warn(&format!(
            "the volume may be bound to {place} by now, or to what it was before; that anchor was left"
        ));
    }
    unlocked.failed(error)
}

#[cfg(feature = "tpm")]
fn known_by_key() -> Failure {
    Failure::usage("--image", "an anchor in a TPM is known by its volume's key").way_out("give --image and a key")
}

fn unread(place: &AnchorSpec, error: Error) -> Failure {
    Failure::volume(Path::new(&place.to_string()), &error)
}

fn policy(place: &AnchorSpec, wanted: Option<Policy>) -> AnchorPolicy {
    match wanted {
        Some(Policy::Strict) => AnchorPolicy::Strict,
        Some(Policy::Checkpoint) => AnchorPolicy::Checkpoint,
        None if place.wears_out() => AnchorPolicy::Checkpoint,
        None => AnchorPolicy::Strict,
    }
}

/// What the policy costs memory that wears out.
fn budget(place: &AnchorSpec, policy: AnchorPolicy) -> Option<String> {
    let (each, lasts) = match policy {
        AnchorPolicy::Strict => ("commit", "a day, at one commit a second"),
        AnchorPolicy::Checkpoint | AnchorPolicy::None => ("checkpoint", "years, at a few mounts a day"),
    };
    place.wears_out().then(|| {
        format!(
            "each {each} writes two cells of the TPM's memory, which are made for some {RATED_WRITES} writes: {lasts}"
        )
    })
}

/// How much of that is used.
fn used(place: &AnchorSpec, advances: u64) -> Option<String> {
    place.wears_out().then(|| format!("{advances} of some {RATED_WRITES} writes that its memory is made for"))
}

fn kind_name(kind: AnchorKind) -> &'static str {
    match kind {
        AnchorKind::ContentBound => "content",
        AnchorKind::BareCounter => "counter",
        AnchorKind::None => "none",
    }
}

fn policy_name(policy: AnchorPolicy) -> &'static str {
    match policy {
        AnchorPolicy::Strict => "strict",
        AnchorPolicy::Checkpoint => "checkpoint",
        AnchorPolicy::None => "none",
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Equal => "equal",
            Relation::Ahead => "ahead",
            Relation::ImageBehind => "behind",
            Relation::AnchorBehind => "the anchor is behind",
        })
    }
}

impl Relation {
    fn meaning(self) -> &'static str {
        match self {
            Relation::Equal => "the anchor names this very state",
            Relation::Ahead => "it goes on from the anchor's state, which follows at the next mount that writes",
            Relation::ImageBehind => {
                "the image was rolled back, or forked: put the newest one back (--abandon-anchor opens this one, unprotected)"
            }
            Relation::AnchorBehind => {
                "the anchor was set back, or is a copy: bring the true one (--abandon-anchor opens the image, unprotected)"
            }
        }
    }
}
