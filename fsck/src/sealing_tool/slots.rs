//! Key slots of a volume: list, add, remove, test, rotate; and the drill with recovery shares.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sealing::approval::Approvers;
use sealing::shares::{Share, ShareSet};
use sealing::{
    Argon2Cost, Argon2Limits, Key, OsRng, PlatformOwner, SigningKey, SlotKind, SlotSecret, set_of_slot, wrap_shares,
};
use sefs::format::{Header, KeySlot, MAX_KEY_SLOTS};
use sefs::keys::VolumeKey;
use sefs::vfs::Volume;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::rotate::rotation_text;
use super::{Sealing, TOOL, hex, owner, public_key, write_file};
use crate::image::ImageUse;
use crate::key_source::{Environment, KeyArgs, KeySource, SHARE_PREFIX, read_key, read_share};
use crate::opening::{Located, Unlocked};
use crate::report::Failure;
use crate::showing::slot_label;
use crate::volume_id::VolumeId;

/// What prints the public key of an approver or dealer.
const APPROVER_KEY: &str = "sealing approver-key";

#[derive(Subcommand, Debug)]
pub(super) enum SlotsCommand {
    /// Show the slots, without a key as the unverified header has them; with one also how far a rotation of the volume key is
    List {
        /// The image
        image: PathBuf,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Give the volume another slot
    Add(AddArgs),
    /// Take a slot away. That does not revoke: an old header with its secret still gives the volume key
    Remove(RemoveArgs),
    /// Say whether a key opens the volume, and through which slot
    Test {
        /// The image
        image: PathBuf,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Replace a slot by a new one, in one step
    Rotate(RotateArgs),
}

#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    new: NewSlot,
}

#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// The slot's number, as slots list shows it
    #[arg(long, value_name = "N")]
    slot: usize,
}

#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// The slot's number, as slots list shows it
    #[arg(long, value_name = "N")]
    slot: usize,
    #[command(flatten)]
    new: NewSlot,
}

/// The owner of a new slot: exactly one.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "New slot")]
pub(super) struct NewSlot {
    /// A key file: 32 bytes, or 64 hex digits
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// A key file that is made now, with a random key in it; it must not exist yet
    #[arg(long, value_name = "FILE")]
    make_key_file: Option<PathBuf>,
    /// A passphrase, without one newline at its end
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Code on a platform
    #[arg(long, value_name = "NAME[:OPTIONS]")]
    new_platform: Option<String>,
    /// With --new-platform: the public key of who may approve a successor (64 hex digits in FILE); once for each
    #[arg(long, value_name = "FILE", requires = "new_platform")]
    approver: Vec<PathBuf>,
    /// With --approver: how many of them must
    #[arg(long, value_name = "M", requires = "approver", default_value_t = 1)]
    approvals: u8,
    /// Recovery shares, as 2/3: so many of so many
    #[arg(long, value_name = "T/N", requires = "share_dir")]
    shares: Option<String>,
    /// With --shares: the directory that they are written to, as share-1 …
    #[arg(long, requires = "shares", value_name = "DIR")]
    share_dir: Option<PathBuf>,
    /// With --shares: the dealer's signing key [default: a fresh one that is forgotten]
    #[arg(long, requires = "shares", value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct VerifySharesArgs {
    /// The shares
    #[arg(required = true)]
    shares: Vec<PathBuf>,
    /// Compare with this volume's slots too
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,
    /// The public key of the dealer who must have signed (64 hex digits in FILE)
    #[arg(long, value_name = "FILE")]
    dealer: Option<PathBuf>,
}

pub(super) const NOT_REVOKED: &str = "whoever kept an older header and the old slot's secret still has the volume key; removing a slot does not revoke it, \
     sealing rotate does";

impl Sealing {
    pub(super) fn slots(&mut self, command: &SlotsCommand) -> Result<bool, Failure> {
        match command {
            SlotsCommand::List { image, key } => self.list(image, key),
            SlotsCommand::Add(args) => self.change(&args.image, &args.key, None, Some(&args.new)),
            SlotsCommand::Remove(args) => self.change(&args.image, &args.key, Some(args.slot), None),
            SlotsCommand::Test { image, key } => self.test(image, key),
            SlotsCommand::Rotate(args) => self.change(&args.image, &args.key, Some(args.slot), Some(&args.new)),
        }
    }

    fn list(&mut self, image: &Path, key: &KeyArgs) -> Result<bool, Failure> {
        let located = Located::open(image, ImageUse::ReadOnly)?;
        if key.names_key(image, &Environment::host())? {
            return self.list_authentic(located.unlock(key, TOOL)?);
        }
        let slots: Vec<Value> = numbered(&located.header.slots);
        if self.json {
            self.out.json(&json!({"authenticated": false, "slots": slots}))?;
            return Ok(true);
        }
        self.out.line("# Not authenticated: anyone could have written this. With a key it is.")?;
        for (index, slot) in located.header.slots.iter().enumerate() {
            self.out.line(format!("slot {index:>2}: {}", slot_label(slot)))?;
        }
        Ok(true)
    }

    fn list_authentic(&mut self, unlocked: Unlocked) -> Result<bool, Failure> {
        let volume = unlocked.bare_volume()?;
        let (slots, info) = (&volume.header().slots, volume.info());
        if self.json {
            self.out.json(&json!({
                "authenticated": true,
                "slots": numbered(slots),
                "key_generation": info.key_generation,
                "rotation": if info.rotating.is_some() { "in progress" } else { "none" },
                "blocks_left": info.rotating.map_or(0, |left| left.blocks_left),
            }))?;
            return Ok(true);
        }
        for (index, slot) in slots.iter().enumerate() {
            self.out.line(format!("slot {index:>2}: {}", slot_label(slot)))?;
        }
        if let Some(text) = rotation_text(&unlocked.located.path, info.key_generation, info.rotating) {
            self.out.line(text)?;
        }
        Ok(true)
    }

    fn test(&mut self, image: &Path, key: &KeyArgs) -> Result<bool, Failure> {
        let unlocked = Located::open(image, ImageUse::ReadOnly)?.unlock(key, TOOL)?;
        let volume = unlocked.bare_volume()?;
        let slot = opening_slot(&unlocked.source, &volume);
        let label = unlocked.source.label();
        self.say(json!({"opens": true, "slot": slot, "kind": label}), || {
            format!("{}: opens with {label}, slot {}", image.display(), slot.map_or("?".into(), |it| it.to_string()))
        })
    }

    /// Takes `old` away and puts `new` in its place, or at the end: one change of the header.
    fn change(
        &mut self,
        image: &Path,
        key: &KeyArgs,
        old: Option<usize>,
        new: Option<&NewSlot>,
    ) -> Result<bool, Failure> {
        let slots = self.changed(image, key, old, new)?;
        if old.is_some() {
            TOOL.warn(NOT_REVOKED);
        }
        self.say(json!({"image": image, "slots": numbered(&slots)}), || {
            let labels: Vec<String> = slots.iter().map(slot_label).collect();
            format!("{}: key slots: {}", image.display(), labels.join(", "))
        })
    }

    /// The same, without a word about success: the slots that the volume has then.
    pub(super) fn changed(
        &self,
        image: &Path,
        key: &KeyArgs,
        old: Option<usize>,
        new: Option<&NewSlot>,
    ) -> Result<Vec<KeySlot>, Failure> {
        let unlocked = Located::open(image, ImageUse::ReadWrite)?.unlock(key, TOOL)?;
        let volume = unlocked.volume()?;
        let mut slots = volume.header().slots.clone();
        if old.is_some_and(|index| index >= slots.len()) {
            return Err(Failure::usage("--slot", format!("the volume has {} slots", slots.len()))
                .way_out("sealing slots list shows them"));
        }
        if old.is_some() && new.is_none() && slots.len() == 1 {
            return Err(Failure::usage("--slot", "it is the volume's only one, without which nobody opens it")
                .way_out("add another first"));
        }
        if old.is_none() && slots.len() == MAX_KEY_SLOTS {
            return Err(Failure::new(image.display(), "all its key slots are taken").way_out("remove one first"));
        }
        let mut made = Made::default();
        if let Some(new) = new {
            let id = VolumeId(volume.header().volume_id);
            made = new.make(&unlocked.key, &id, image, key.allow_development)?;
        }
        match (old, made.slot.take()) {
            (Some(index), Some(slot)) => slots[index] = slot,
            (Some(index), None) => drop(slots.remove(index)),
            (None, Some(slot)) => slots.push(slot),
            (None, None) => {}
        }
        // What opens a slot is durable before the slot, so that none is left without.
        made.write_secrets()?;
        let slots = commit(&unlocked, volume, slots)?;
        if slots.len() == 1 {
            TOOL.warn("this volume has a single key; whoever loses it loses the data: add another slot");
        }
        Ok(slots)
    }

    pub(super) fn verify_shares(&mut self, args: &VerifySharesArgs) -> Result<bool, Failure> {
        let mut shares: Vec<Share> = Vec::new();
        for path in &args.shares {
            let (share, warnings) = read_share(path)?;
            warnings.iter().for_each(|warning| TOOL.warn(warning));
            shares.push(share);
        }
        let set = shares.first().map(|share| share.set().clone());
        let set = set.ok_or_else(|| Failure::usage("shares", "none is given").way_out("name their files"))?;
        if shares.iter().any(|share| *share.set() != set) {
            return Err(Failure::new("shares", "they are of different sets").way_out("see which belong together"));
        }
        if let Some(path) = &args.dealer
            && public_key(path, APPROVER_KEY)? != set.dealer
        {
            return Err(Failure::new("shares", "another dealer signed them").way_out("do not rely on them"));
        }
        let mut indices: Vec<u8> = shares.iter().map(Share::index).collect();
        indices.sort_unstable();
        indices.dedup();
        let enough = indices.len() >= usize::from(set.threshold);
        if let Some(image) = &args.image {
            let located = Located::open(image, ImageUse::ReadOnly)?;
            demand_slot(image, &located.header, &set)?;
            if enough {
                demand_opens(image, &located.header, &shares)?;
            }
        }
        let value = json!({
            "shares": indices, "threshold": set.threshold, "count": set.count(), "enough": enough,
            "volume_id": VolumeId(set.volume_id).to_string(), "dealer": hex(&set.dealer),
        });
        self.say(value, || {
            let state = if enough { "enough" } else { "not enough" };
            format!(
                "{} true shares of a set of {}, {} needed: {state} to open volume {}",
                indices.len(),
                set.count(),
                set.threshold,
                VolumeId(set.volume_id)
            )
        })
    }
}

/// Demands that these shares are of this volume, and that it has a slot for them still. A hint, for the header is not authentic.
pub(super) fn demand_slot(image: &Path, header: &Header, set: &ShareSet) -> Result<(), Failure> {
    let (theirs, its) = (VolumeId(set.volume_id), VolumeId(header.volume_id));
    if set.volume_id != header.volume_id {
        return Err(Failure::new(
            image.display(),
            format!("it has no slot for these shares, which are of volume {theirs}"),
        )
        .way_out(format!("this is volume {its}: bring its own")));
    }
    let is_theirs =
        |slot: &KeySlot| slot.kind == SlotKind::Shares.number() && set_of_slot(&slot.body).as_ref() == Some(set);
    if header.slots.iter().any(is_theirs) {
        return Ok(());
    }
    Err(Failure::new(image.display(), "it has no slot for these shares")
        .way_out("the slot was removed or replaced: newer shares open it, or another key"))
}

/// Demands that these shares open their slot, as they would in earnest.
fn demand_opens(image: &Path, header: &Header, shares: &[Share]) -> Result<(), Failure> {
    let secret =
        sealing::shares::recover(shares).map_err(|error| Failure::usage("shares", error).way_out("give each once"))?;
    let secret = SlotSecret::Shares(secret);
    let opens = |slot: &KeySlot| {
        slot.kind == SlotKind::Shares.number()
            && sealing::unwrap(&secret, &slot.body, &header.volume_id, &Argon2Limits::default()).is_ok()
    };
    if header.slots.iter().any(opens) {
        return Ok(());
    }
    Err(Failure::new(image.display(), "the shares are true, and its slot does not open with them: it was changed")
        .way_out("open the volume with another key and deal new shares, or bring the image's last whole copy"))
}

/// A slot that was made, and what opens it.
#[derive(Default)]
pub(super) struct Made {
    pub(super) slot: Option<KeySlot>,
    shares: Vec<Share>,
    directory: PathBuf,
    key_file: Option<(PathBuf, Key)>,
}

impl Made {
    /// Writes what opens the slot, all of it or nothing: what is half there would be taken for a way in.
    pub(super) fn write_secrets(&self) -> Result<(), Failure> {
        let secrets = self.secrets();
        if let Some((path, _)) = secrets.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
            return Err(Failure::new(path.display(), "it exists already")
                .way_out("name another, or remove it if an earlier call that failed left it"));
        }
        for (number, (path, text)) in secrets.iter().enumerate() {
            if let Err(failure) = write_file(path, text.as_bytes()) {
                for (written, _) in &secrets[..number] {
                    let _ = std::fs::remove_file(written);
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    /// The files, and what each holds.
    fn secrets(&self) -> Vec<(PathBuf, Zeroizing<String>)> {
        let key = self.key_file.iter().map(|(path, key)| {
            let digits = Zeroizing::new(hex(key.expose()));
            (path.clone(), Zeroizing::new(format!("{}\n", *digits)))
        });
        let shares = self.shares.iter().map(|share| {
            let digits = Zeroizing::new(hex(&share.encode()));
            let path = self.directory.join(format!("share-{}", share.index()));
            (path, Zeroizing::new(format!("{SHARE_PREFIX}{}\n", *digits)))
        });
        key.chain(shares).collect()
    }
}

impl NewSlot {
    /// The owner and the shares, where both are given: two slots.
    pub(super) fn split(&self) -> (Option<NewSlot>, Option<NewSlot>) {
        let owner = NewSlot { shares: None, share_dir: None, signing_key: None, ..self.clone() };
        let shares = NewSlot {
            new_key_file: None,
            make_key_file: None,
            new_passphrase_file: None,
            new_platform: None,
            ..self.clone()
        };
        let has_owner = owner.new_key_file.is_some()
            || owner.make_key_file.is_some()
            || owner.new_passphrase_file.is_some()
            || owner.new_platform.is_some();
        (has_owner.then_some(owner), shares.shares.is_some().then_some(shares))
    }

    /// The same owner as somebody who opens the volume that `key` names; `None` if it is none that can by itself.
    pub(super) fn as_opener(&self, key: &KeyArgs) -> Option<KeyArgs> {
        let (owner, _) = self.split();
        let NewSlot {
            new_key_file, make_key_file, new_passphrase_file: passphrase_file, new_platform: platform, ..
        } = owner?;
        let key_file = new_key_file.or(make_key_file);
        Some(KeyArgs { key_file, passphrase_file, platform, share_file: Vec::new(), ..key.clone() })
    }

    /// A slot that holds `key`, and for shares themselves. `image` is for what the table says of it.
    pub(super) fn make(
        &self,
        key: &VolumeKey,
        id: &VolumeId,
        image: &Path,
        allow_development: bool,
    ) -> Result<Made, Failure> {
        let given = [
            self.new_key_file.is_some(),
            self.make_key_file.is_some(),
            self.new_passphrase_file.is_some(),
            self.new_platform.is_some(),
            self.shares.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(Failure::usage("new slot", "exactly one owner is needed")
                .way_out("give --new-key-file, --make-key-file, --new-passphrase-file, --new-platform or --shares"));
        }
        if let Some(shares) = &self.shares {
            return self.deal(shares, key, id);
        }
        if let Some(spec) = &self.new_platform {
            let owner = owner(spec, allow_development)?;
            let slot = platform_slot(&owner, key, id, self.approvers()?.as_ref())?;
            return Ok(Made { slot: Some(slot), ..Made::default() });
        }
        if let Some(path) = &self.make_key_file {
            let file_key = random_key()?;
            let secret = SlotSecret::RawKey(Key::from_bytes(file_key.expose()));
            let body = sealing::wrap(&secret, &Key::from_bytes(key.expose()), &id.0, &Argon2Cost::DEFAULT, &OsRng)
                .map_err(|error| Failure::new("--make-key-file", error).way_out("try again"))?;
            let slot = Some(KeySlot { kind: SlotKind::RawKey.number(), body });
            return Ok(Made { slot, key_file: Some((path.clone(), file_key)), ..Made::default() });
        }
        let args = KeyArgs {
            key_file: self.new_key_file.clone(),
            passphrase_file: self.new_passphrase_file.clone(),
            ..KeyArgs::default()
        };
        let source = args.key_source(image)?;
        source.warnings.iter().for_each(|warning| TOOL.warn(warning));
        let slot = source.slot_for(key, id, &Argon2Cost::DEFAULT)?;
        Ok(Made { slot: Some(slot), ..Made::default() })
    }

    /// How the new slot is named where a key is asked for.
    pub(super) fn as_key(&self) -> String {
        let file = |option: &str, path: &Path| format!("{option} {}", path.display());
        match (&self.new_key_file, &self.make_key_file, &self.new_passphrase_file, &self.new_platform) {
            (Some(path), ..) | (None, Some(path), ..) => file("--key-file", path),
            (.., Some(path), _) => file("--passphrase-file", path),
            (.., Some(spec)) => format!("--platform {spec}"),
            _ => "--share-file …".to_string(),
        }
    }

    fn approvers(&self) -> Result<Option<Approvers>, Failure> {
        if self.approver.is_empty() {
            return Ok(None);
        }
        let keys: Result<Vec<[u8; 32]>, Failure> =
            self.approver.iter().map(|path| public_key(path, APPROVER_KEY)).collect();
        let set = Approvers::new(self.approvals, keys?);
        set.map(Some).map_err(|error| Failure::usage("--approver", error).way_out("see sealing approver-key"))
    }

    fn deal(&self, text: &str, key: &VolumeKey, id: &VolumeId) -> Result<Made, Failure> {
        let numbers = text.split_once('/').and_then(|(t, n)| Some((t.parse().ok()?, n.parse().ok()?)));
        let (threshold, count): (u8, u8) = numbers
            .ok_or_else(|| Failure::usage("--shares", format!("'{text}' is not T/N")).way_out("write 2/3, for one"))?;
        let dealer = match &self.signing_key {
            Some(path) => signing_key(path)?,
            None => SigningKey::from_bytes(random_key()?.expose()),
        };
        let key = Key::from_bytes(key.expose());
        let (shares, body) = wrap_shares(&key, &id.0, threshold, count, &dealer, &OsRng)
            .map_err(|error| Failure::usage("--shares", error).way_out("write 2/3, for one"))?;
        let directory = self.share_dir.clone().unwrap_or_default();
        Ok(Made { slot: Some(KeySlot { kind: SlotKind::Shares.number(), body }), shares, directory, key_file: None })
    }
}

fn random_key() -> Result<Key, Failure> {
    Key::random(&OsRng).map_err(|_| Failure::new("random generator", "it failed").way_out("try again"))
}

/// Writes the slots and closes the volume.
pub(super) fn commit(unlocked: &Unlocked, mut volume: Volume, slots: Vec<KeySlot>) -> Result<Vec<KeySlot>, Failure> {
    volume.change_key_slots(&unlocked.key, slots).map_err(|error| unlocked.failed(&error))?;
    let slots = volume.header().slots.clone();
    volume.close().map_err(|error| unlocked.failed(&error))?;
    Ok(slots)
}

pub(super) fn platform_slot(
    owner: &PlatformOwner,
    key: &VolumeKey,
    id: &VolumeId,
    approvers: Option<&Approvers>,
) -> Result<KeySlot, Failure> {
    let body = owner.wrap(&Key::from_bytes(key.expose()), &id.0, approvers, &OsRng);
    let body = body.map_err(|error| Failure::new("--new-platform", error).way_out("see sealing --help"))?;
    Ok(KeySlot { kind: SlotKind::Platform.number(), body })
}

/// The first slot of the authenticated header that this key opens.
fn opening_slot(source: &KeySource, volume: &Volume) -> Option<usize> {
    let id = VolumeId(volume.header().volume_id);
    let opens = |slot: &KeySlot| source.open_slots([(slot.kind, &slot.body[..])], &id, u64::MAX).is_ok();
    volume.header().slots.iter().position(opens)
}

pub(super) fn numbered(slots: &[KeySlot]) -> Vec<Value> {
    let one = |(index, slot): (usize, &KeySlot)| json!({"slot": index, "kind": slot_label(slot)});
    slots.iter().enumerate().map(one).collect()
}

/// An Ed25519 key from its 32 secret bytes.
pub(super) fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let (key, warnings) = read_key(path)?;
    warnings.iter().for_each(|warning| TOOL.warn(warning));
    Ok(SigningKey::from_bytes(key.expose()))
}
