//! Rotation of a volume's key: a new key, slots for every owner whose secret is at hand, and old blocks sealed anew.
//!
//! *Security*: no slot is left out unless it was named. The new slots are durable together with the new key, so nobody is locked out
//! by a crash. Until the rotation has ended, the old key's holder can read and change what it has not come to yet; that is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use sealing::{Argon2Cost, BlobHeader, Key, OsRng, SlotSecret, open_platform_slot};
use sefs::format::{KeySlot, MAX_KEY_SLOTS};
use sefs::keys::VolumeKey;
use sefs::vfs::{Rotating, RotationStep, Volume};
use serde_json::json;

use super::slots::{Made, NewSlot, numbered};
use super::{Sealing, TOOL};
use crate::anchor::AnchorSpec;
use crate::image::ImageUse;
use crate::interrupt;
use crate::key_source::{KeyArgs, KeySource};
use crate::opening::{Located, Unlocked};
use crate::progress::{Progress, Unit};
use crate::report::Failure;
use crate::showing::slot_label;
use crate::volume_id::VolumeId;

#[derive(Args, Debug)]
pub(super) struct RotateKeyArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// The slot of another key file gets the new volume key too; once for each
    #[arg(long, value_name = "FILE", help_heading = "Other slots")]
    with_key_file: Vec<PathBuf>,
    /// The slot of another passphrase gets the new volume key too; once for each
    #[arg(long, value_name = "FILE", help_heading = "Other slots")]
    with_passphrase_file: Vec<PathBuf>,
    /// The slot of code on a platform gets the new volume key too; once for each
    #[arg(long, value_name = "NAME[:OPTIONS]", help_heading = "Other slots")]
    with_platform: Vec<String>,
    /// Leave this slot out, by the number that slots list shows; once for each
    #[arg(long, value_name = "N", help_heading = "Other slots")]
    drop_slot: Vec<usize>,
    /// End once the volume has its new key: mounts that write seal old blocks anew, and so does this command when called again
    #[arg(long)]
    start_only: bool,
    #[command(flatten)]
    new: NewSlot,
}

/// Bytes that Argon2id may take for each passphrase.
const ARGON2_BYTES: u64 = 1 << 30;
const IN_PROGRESS: &str =
    "key rotation in progress: old blocks are neither secret nor authentic against the old key's holder";
const GOES_ON: &str =
    "a rotation is in progress and goes on; the slots are those that it began with, and no others are made or dropped";
const SAME_SECRET: &str =
    "whoever has an old slot's secret opens its new slot with it; give new secrets for those that others know";

impl Sealing {
    pub(super) fn rotate_key(&mut self, args: &RotateKeyArgs) -> Result<bool, Failure> {
        let interrupted = interrupt::watch();
        let mut unlocked = args.unlock()?;
        let mut volume = unlocked.opened.volume()?;
        let mut dropped = None;
        if volume.info().rotating.is_none() {
            if let Some(refused) = unlocked.refused.take() {
                // The new owner's key alone opens it: an earlier call has ended. A volume that never had another key is no such.
                let slots = volume.header().slots.clone();
                let ended = volume.info().key_generation > 1;
                if !ended {
                    return Err(refused);
                }
                TOOL.warn(
                    "nothing was rotated: the key that was given opens no slot, and the new owner's does already",
                );
                return self.told(args, &volume, None, &slots, None);
            }
            refuse_tpm_anchor(&unlocked.opened)?;
            dropped = Some(args.begin(&mut unlocked.opened, &mut volume)?);
        } else if args.changes_slots() {
            TOOL.warn(GOES_ON);
        }
        let left =
            if args.start_only { volume.info().rotating } else { args.finish(&unlocked, &volume, &interrupted)? };
        let slots = volume.header().slots.clone();
        let done = self.told(args, &volume, left, &slots, dropped.as_deref())?;
        volume.close().map_err(|error| unlocked.opened.failed(&error))?;
        Ok(done)
    }

    fn told(
        &mut self,
        args: &RotateKeyArgs,
        volume: &Volume,
        left: Option<Rotating>,
        slots: &[KeySlot],
        dropped: Option<&[usize]>,
    ) -> Result<bool, Failure> {
        let generation = volume.info().key_generation;
        let value = json!({
            "image": args.image,
            "key_generation": generation,
            "rotation": if left.is_some() { "in progress" } else { "done" },
            "blocks_left": left.map_or(0, |left| left.blocks_left),
            "slots": numbered(slots),
            "begun": dropped.is_some(),
            "dropped": dropped.unwrap_or_default(),
        });
        self.say(value, || {
            let labels: Vec<String> = slots.iter().map(slot_label).collect();
            let labels = labels.join(", ");
            let image = args.image.display();
            match left {
                None => {
                    format!("{image}: has key generation {generation} and nothing of an older one; key slots: {labels}")
                }
                Some(left) => format!(
                    "{image}: has key generation {generation}; {IN_PROGRESS}; {} blocks are left; key slots: {labels}",
                    left.blocks_left
                ),
            }
        })?;
        Ok(left.is_none() || args.start_only)
    }
}

/// An unlocked image, and what was wrong with the key if only the new owner's opened it.
struct Resumed {
    opened: Unlocked,
    refused: Option<Failure>,
}

impl RotateKeyArgs {
    /// Whether other slots are asked for than those of now.
    fn changes_slots(&self) -> bool {
        let (owner, shares) = self.new.split();
        owner.is_some() || shares.is_some() || !self.drop_slot.is_empty()
    }

    /// By the key, or, after a call that was interrupted, by the new owner's.
    fn unlock(&self) -> Result<Resumed, Failure> {
        let locate = || Located::open(&self.image, ImageUse::ReadWrite);
        let failure = match locate()?.unlock(&self.key, TOOL) {
            Ok(opened) => return Ok(Resumed { opened, refused: None }),
            Err(failure) => failure,
        };
        let Some(new) = self.new.as_opener(&self.key) else { return Err(failure) };
        match locate()?.unlock(&new, TOOL) {
            Ok(opened) => Ok(Resumed { opened, refused: Some(failure) }),
            Err(_) => Err(failure),
        }
    }

    /// Gives the volume its new key. Returns the numbers of the slots that were left out.
    fn begin(&self, unlocked: &mut Unlocked, volume: &mut Volume) -> Result<Vec<usize>, Failure> {
        let new_key = VolumeKey::generate(&*unlocked.env().rng).map_err(|error| unlocked.failed(&error))?;
        let (slots, made) = self.new_slots(unlocked, volume, &new_key)?;
        if slots.is_empty() {
            return Err(Failure::usage("--drop-slot", "no slot would be left, and nobody could open the volume")
                .way_out("give a new owner, or leave a slot"));
        }
        if slots.len() > MAX_KEY_SLOTS {
            return Err(Failure::new(
                self.image.display(),
                format!("it would have {} key slots, of {MAX_KEY_SLOTS}", slots.len()),
            )
            .way_out("leave some out with --drop-slot"));
        }
        // Key files and shares are durable before the slots that need them, so that no slot is left without.
        made.iter().try_for_each(Made::write_secrets)?;
        volume.rotate_key(&unlocked.key, &new_key, slots).map_err(|error| unlocked.failed(&error))?;
        unlocked.key = new_key;
        TOOL.warn(SAME_SECRET);
        Ok(self.drop_slot.clone())
    }

    /// For each slot of now the one that follows it, and new owners'.
    fn new_slots(
        &self,
        unlocked: &Unlocked,
        volume: &Volume,
        new_key: &VolumeKey,
    ) -> Result<(Vec<KeySlot>, Vec<Made>), Failure> {
        let header = volume.header();
        let id = VolumeId(header.volume_id);
        let others = self.others()?;
        let (owner, shares) = self.new.split();
        let make = |new: &NewSlot| new.make(new_key, &id, &self.image, self.key.allow_development);
        let (mut owner, mut shares) = (owner.as_ref().map(make).transpose()?, shares.as_ref().map(make).transpose()?);
        let (has_owner, has_shares) = (owner.is_some(), shares.is_some());
        let (mut slots, mut uncovered) = (Vec::new(), Vec::new());
        let mut used = vec![false; others.len()];
        if let Some(index) = self.drop_slot.iter().find(|index| **index >= header.slots.len()) {
            return Err(Failure::usage("--drop-slot", format!("{index} is no slot; there are {}", header.slots.len()))
                .way_out("sealing slots list shows them"));
        }
        for (index, slot) in header.slots.iter().enumerate() {
            if self.drop_slot.contains(&index) {
                continue;
            }
            let by_itself = opens(&unlocked.source, slot, &id);
            let other = others.iter().position(|source| opens(source, slot, &id));
            // What is new takes the place of one slot; a second one like it is another owner's, and nobody named it.
            let next = if has_shares && slot.kind == sealing::SlotKind::Shares.number() {
                shares.as_mut().and_then(|made| made.slot.take())
            } else if by_itself && has_owner {
                owner.as_mut().and_then(|made| made.slot.take())
            } else if by_itself {
                Some(rewrap(&unlocked.source, slot, new_key, &id)?)
            } else if let Some(number) = other {
                used[number] = true;
                Some(rewrap(&others[number], slot, new_key, &id)?)
            } else {
                None
            };
            match next {
                Some(slot) => slots.push(slot),
                None => uncovered.push(format!("{index} ({})", slot_label(slot))),
            }
        }
        if let Some((source, _)) = others.iter().zip(&used).find(|(_, used)| !**used) {
            return Err(Failure::usage(source.place(), "it opens no slot that is kept").way_out("leave it out"));
        }
        if !uncovered.is_empty() {
            return Err(Failure::new(self.image.display(), format!("no secret is given for slot {}", uncovered.join(", ")))
                .way_out("give it with --with-key-file, --with-passphrase-file or --with-platform, deal new --shares, or name it with --drop-slot"));
        }
        for made in [&mut owner, &mut shares].into_iter().flatten() {
            slots.extend(made.slot.take());
        }
        Ok((slots, [owner, shares].into_iter().flatten().collect()))
    }

    /// Whose slots are kept beside the one that opened the volume.
    fn others(&self) -> Result<Vec<KeySource>, Failure> {
        let base = KeyArgs { allow_development: self.key.allow_development, ..KeyArgs::default() };
        let files = self.with_key_file.iter().map(|file| KeyArgs { key_file: Some(file.clone()), ..base.clone() });
        let passphrases = self
            .with_passphrase_file
            .iter()
            .map(|file| KeyArgs { passphrase_file: Some(file.clone()), ..base.clone() });
        let platforms = self.with_platform.iter().map(|spec| KeyArgs { platform: Some(spec.clone()), ..base.clone() });
        let source = |args: KeyArgs| {
            let source = args.key_source(&self.image)?;
            source.warnings.iter().for_each(|warning| TOOL.warn(warning));
            Ok(source)
        };
        files.chain(passphrases).chain(platforms).map(source).collect()
    }

    /// Seals old blocks anew until nothing is left, or somebody interrupts. Each step is durable by itself.
    fn finish(
        &self,
        unlocked: &Resumed,
        volume: &Volume,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Option<Rotating>, Failure> {
        let left = |volume: &Volume| volume.info().rotating;
        let total = left(volume).map_or(0, |left| left.blocks_left);
        let mut progress = Progress::start("sealing old blocks anew", Unit::Items, Some(total));
        loop {
            if interrupted.load(Ordering::Relaxed) {
                drop(progress);
                TOOL.warn("interrupted; nothing is lost, and the same command goes on");
                return Ok(left(volume));
            }
            match volume.rotate_step().map_err(|error| unlocked.opened.failed(&error))? {
                RotationStep::Ended => return Ok(None),
                RotationStep::Working => {
                    progress.set(total.saturating_sub(left(volume).map_or(0, |left| left.blocks_left)));
                }
                RotationStep::Stuck => {
                    drop(progress);
                    TOOL.warn(
                        "the rest cannot be sealed anew now: it is damaged (fsck.sefs --scrub names it), or the volume is full",
                    );
                    return Ok(left(volume));
                }
            }
        }
    }
}

fn opens(source: &KeySource, slot: &KeySlot, id: &VolumeId) -> bool {
    source.open_slots([(slot.kind, &slot.body[..])], id, ARGON2_BYTES).is_ok()
}

/// A slot for the same owner that holds the new key. Code on a platform is bound to what it was bound to, whatever policy the
/// caller's options say, and who may approve its successor stays the same.
fn rewrap(source: &KeySource, slot: &KeySlot, new_key: &VolumeKey, id: &VolumeId) -> Result<KeySlot, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(source.place(), error).way_out("deal new ones with --shares, or see sealing --help")
    };
    match source.secret() {
        SlotSecret::Platform(owner) => {
            let opened = open_platform_slot(owner, &slot.body, &id.0).map_err(|error| failed(&error))?;
            let key = Key::from_bytes(new_key.expose());
            let bound = BlobHeader::decode(&slot.body).map_err(|error| failed(&error))?;
            let body = owner
                .wrap_under(&bound.policy, &key, &id.0, opened.approvers.as_ref(), &OsRng)
                .map_err(|error| failed(&error))?;
            Ok(KeySlot { kind: slot.kind, body })
        }
        SlotSecret::Shares(_) => Err(Failure::new("recovery shares", "they cannot be given another key")
            .way_out("deal new ones with --shares T/N --share-dir DIR")),
        _ => source.slot_for(new_key, id, &Argon2Cost::DEFAULT),
    }
}

/// The policy of a TPM's index names a key that derives from the volume key, and cannot be changed.
fn refuse_tpm_anchor(unlocked: &Unlocked) -> Result<(), Failure> {
    match &unlocked.source.anchor {
        #[cfg(feature = "tpm")]
        Some(AnchorSpec::Tpm(_)) => Err(Failure::new(
            unlocked.located.path.display(),
            "its anchor in the TPM obeys a key that derives from the volume key, which so cannot be changed",
        )
        .way_out("bind it to an anchor in a file before, and to a new one in the TPM afterwards: sealing anchor make")),
        Some(AnchorSpec::File(_)) | None => Ok(()),
    }
}

/// What a list says of a volume's key beyond its slots.
pub(super) fn rotation_text(image: &Path, generation: u32, left: Option<Rotating>) -> Option<String> {
    let left = left?;
    Some(format!(
        "{}: key generation {generation}; {IN_PROGRESS}; {} blocks are left; sealing rotate goes on with it",
        image.display(),
        left.blocks_left
    ))
}
