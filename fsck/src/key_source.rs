//! Where a tool's key comes from: a file, a platform or recovery shares, named by an option, a mount option,
//! `SEFS_KEY_FILE` or `/etc/sefs.toml`.
//!
//! *Security*: secrets are read from files and pipes only, never from the command line or the environment. What is read
//! opens key slots; it is never the volume key itself. Only slots of the kind that the caller supplied are tried.
//!
//! *Invariants*: an explicit option wins over `SEFS_KEY_FILE`, which wins over the table. Two sources of one rank are a
//! mistake, never a choice.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sealing::shares::Share;
use sealing::{Argon2Cost, Argon2Limits, Key, OsRng, Rng, Secret, SlotError, SlotKind, SlotSecret};
use sefs::error::{Error, Incompatible};
use sefs::format::{Header, KeySlot};
use sefs::keys::VolumeKey;
use zeroize::Zeroizing;

use crate::anchor::AnchorSpec;
use crate::config::{self, Config, ImageEntry};
use crate::image_spec::ImageSpec;
use crate::io::IoKind;
use crate::platform_source;
use crate::provider::CryptoKind;
use crate::report::{Failure, FailureKind};
use crate::root_digest::RootDigest;
use crate::showing::slot_kind;
use crate::volume_id::{VolumeId, decode_hex};

/// The options that say how a volume is opened. Each is also a mount option of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Key and trust")]
pub struct KeyArgs {
    /// Take the key from FILE: 32 bytes, or 64 hex digits; "-" is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// Take the passphrase from FILE, without one newline at its end; "-" is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
    /// Take the key from a platform: sgx-sim, software or tpm, with options as mrenclave=HEX,policy=mrsigner,config=FILE
    #[arg(long, value_name = "NAME[:OPTIONS]", long_help = platform_source::HELP)]
    pub platform: Option<String>,
    /// Use a platform for development, whose keys are no secret
    #[arg(long)]
    pub allow_development: bool,
    /// Open with recovery shares: give it once for each share
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub share_file: Vec<PathBuf>,
    /// Open this volume and no other
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<VolumeId>,
    /// Where the volume's newest state is kept, to detect rollback (file:PATH, or tpm:INDEX with TPM support)
    #[arg(long, value_name = "KIND:PLACE")]
    pub anchor: Option<AnchorSpec>,
    /// Open an anchored volume without its anchor, unprotected against rollback; once it is written to it has none (see sealing anchor make)
    #[arg(long)]
    pub abandon_anchor: bool,
    /// Open exactly this packed image: a public one opens with nothing else
    #[arg(long, value_name = "HEX")]
    pub root_digest: Option<RootDigest>,
    /// An image that the volume lies over; once for each, the topmost first [default: where they were when the volume was made]
    #[arg(long, value_name = "IMAGE[,KEY]", value_parser = ImageSpec::value_parser())]
    pub lower: Vec<ImageSpec>,
    /// How to read and write the image [default: sync]
    #[arg(long, value_name = "HOW")]
    pub io: Option<IoKind>,
    /// Whose AES-GCM to use; a volume opens with either [default: aws-lc]
    #[arg(long, value_name = "WHOSE")]
    pub crypto: Option<CryptoKind>,
}

/// A key that was read, and what else the caller demanded of the volume.
pub struct KeySource {
    secret: SlotSecret,
    place: String,
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
    /// Lines that the tool prints with [`crate::Tool::warn`].
    pub warnings: Vec<String>,
    /// The volume that must be found.
    pub volume_id: Option<VolumeId>,
    /// The volume's anchor.
    pub anchor: Option<AnchorSpec>,
    /// Open an anchored volume without its anchor.
    pub abandon_anchor: bool,
    /// The packed image that must be found.
    pub root_digest: Option<RootDigest>,
    /// Whose cryptography to use.
    pub crypto: CryptoKind,
}

/// What is read besides the command line.
pub struct Environment {
    /// `SEFS_KEY_FILE`.
    pub key_file: Option<OsString>,
    /// The table of images.
    pub config: PathBuf,
}

impl Environment {
    /// This process's.
    pub fn host() -> Environment {
        Environment { key_file: std::env::var_os(KEY_FILE_VARIABLE), config: config::PATH.into() }
    }
}

impl KeyArgs {
    /// Finds and reads the key of `image`.
    pub fn key_source(&self, image: &Path) -> Result<KeySource, Failure> {
        self.key_source_in(image, &Environment::host())
    }

    /// The same, with a given environment.
    pub fn key_source_in(&self, image: &Path, environment: &Environment) -> Result<KeySource, Failure> {
        self.refuse_contradictions()?;
        let table = self.table_entry(image, environment)?;
        let origin = match (Origin::of(self, &OPTIONS)?, &environment.key_file) {
            (Some(origin), _) => origin,
            (None, Some(path)) => Origin::File(Place::key_file(path.into(), KEY_FILE_VARIABLE)),
            (None, None) => Origin::of(&table, &TABLE)?.ok_or_else(|| no_key(image))?,
        };
        let (secret, mut warnings) = origin.read(self.allow_development || table.allow_development)?;
        let abandon_anchor = self.abandon_anchor;
        if abandon_anchor {
            warnings.push(ABANDONED.into());
        }
        let anchor = self.anchor.clone().or(table.anchor).filter(|_| !abandon_anchor);
        let volume_id = self.volume_id.or(table.volume_id);
        let (place, files) = (origin.described(), origin.files());
        let crypto = self.crypto.unwrap_or_default();
        let root_digest = self.root_digest;
        Ok(KeySource { secret, place, files, warnings, volume_id, anchor, abandon_anchor, root_digest, crypto })
    }

    /// Takes a mount option over. `false`: the option is not one of these.
    pub fn take_option(&mut self, name: &str, value: Option<&str>) -> Result<bool, Failure> {
        let needed =
            || match value {
                Some(value) if !value.is_empty() => Ok(value),
                _ => Err(Failure::usage(format_args!("option {name}"), "it needs a value")
                    .way_out(format!("write {name}=…"))),
            };
        let wrong = |reason: String| Failure::usage(format_args!("option {name}"), reason);
        match name {
            "key-file" => set_once(&mut self.key_file, name, needed()?.into())?,
            "passphrase-file" => set_once(&mut self.passphrase_file, name, needed()?.into())?,
            "platform" => set_once(&mut self.platform, name, needed()?.into())?,
            "share-file" => self.share_file.push(needed()?.into()),
            "allow-development" if value.is_none() => self.allow_development = true,
            "allow-development" => return Err(wrong("it takes no value".into())),
            "volume-id" => set_once(&mut self.volume_id, name, needed()?.parse().map_err(wrong)?)?,
            "anchor" => set_once(&mut self.anchor, name, needed()?.parse().map_err(wrong)?)?,
            "io" => {
                let kind = clap::ValueEnum::from_str(needed()?, false);
                set_once(&mut self.io, name, kind.map_err(|_| wrong("it is sync, uring or uring-direct".into()))?)?;
            }
            "crypto" => {
                let kind = clap::ValueEnum::from_str(needed()?, false);
                set_once(&mut self.crypto, name, kind.map_err(|_| wrong("it is aws-lc or rustcrypto".into()))?)?;
            }
            "lower" => self.lower.push(ImageSpec::parse(OsStr::new(needed()?))?),
            "root-digest" => set_once(&mut self.root_digest, name, needed()?.parse().map_err(wrong)?)?,
            "abandon-anchor" if value.is_none() => self.abandon_anchor = true,
            "abandon-anchor" => return Err(wrong("it takes no value".into())),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn from_entry(entry: &ImageEntry, table: &Path) -> Result<KeyArgs, Failure> {
        let wrong = |reason: String| Failure::usage(table.display(), reason);
        Ok(KeyArgs {
            key_file: entry.key_file.clone(),
            passphrase_file: entry.passphrase_file.clone(),
            platform: entry.platform.clone(),
            allow_development: entry.allow_development,
            share_file: Vec::new(),
            volume_id: entry.volume_id.as_deref().map(str::parse).transpose().map_err(wrong)?,
            anchor: entry.anchor.as_deref().map(str::parse).transpose().map_err(wrong)?,
            abandon_anchor: false,
            root_digest: None,
            lower: Vec::new(),
            io: None,
            crypto: None,
        })
    }

    /// What the table says about the image, as if it had been given as options.
    fn table_entry(&self, image: &Path, environment: &Environment) -> Result<KeyArgs, Failure> {
        match Config::load(&environment.config) {
            Ok(Some(config)) => match config.entry(image) {
                Some(entry) => KeyArgs::from_entry(entry, &environment.config),
                None => Ok(KeyArgs::default()),
            },
            Ok(None) => Ok(KeyArgs::default()),
            // A table that this user may not read concerns nobody who brought a key.
            Err(failure) if failure.kind() == FailureKind::Operational && self.brings_key(environment) => {
                Ok(KeyArgs::default())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether a key for `image` is named anywhere. A table that this user may not read names none.
    pub fn names_key(&self, image: &Path, environment: &Environment) -> Result<bool, Failure> {
        if self.brings_key(environment) {
            return Ok(true);
        }
        match self.table_entry(image, environment) {
            Ok(table) => Ok(table.has_key()),
            Err(failure) if failure.kind() == FailureKind::Operational => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn brings_key(&self, environment: &Environment) -> bool {
        self.has_key() || environment.key_file.is_some()
    }

    /// Whether an option names a key.
    pub fn has_key(&self) -> bool {
        self.key_file.is_some()
            || self.passphrase_file.is_some()
            || self.platform.is_some()
            || !self.share_file.is_empty()
    }

    pub(crate) fn refuse_contradictions(&self) -> Result<(), Failure> {
        if self.abandon_anchor && self.anchor.is_some() {
            return Err(Failure::usage("--abandon-anchor", "it contradicts --anchor").way_out("give one of the two"));
        }
        Ok(())
    }
}

impl KeySource {
    /// The kind of slot that this opens.
    pub fn kind(&self) -> SlotKind {
        self.secret.kind()
    }

    /// The secret, for what makes and opens slots.
    pub fn secret(&self) -> &SlotSecret {
        &self.secret
    }

    /// The kind of slot that this opens, for people: a platform for development says so.
    pub fn label(&self) -> String {
        match &self.secret {
            SlotSecret::Platform(owner) => platform_source::label(owner),
            _ => slot_kind(self.kind().number()).into(),
        }
    }

    /// Where the key was read, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Wraps a volume key for the owner of this key: the body of a new slot.
    pub fn slot_body(&self, volume_key: &Key, volume_id: &VolumeId, cost: &Argon2Cost) -> Result<Vec<u8>, Failure> {
        self.slot_body_with(volume_key, volume_id, cost, &OsRng)
    }

    /// The same with salts from `rng`, which no other content may ever get again.
    pub fn slot_body_with(
        &self,
        volume_key: &Key,
        volume_id: &VolumeId,
        cost: &Argon2Cost,
        rng: &dyn Rng,
    ) -> Result<Vec<u8>, Failure> {
        sealing::wrap(&self.secret, volume_key, &volume_id.0, cost, rng)
            .map_err(|error| Failure::new(&self.place, error).way_out("try again with more memory"))
    }

    /// A new slot for the header of a volume.
    pub fn slot_for(&self, key: &VolumeKey, volume_id: &VolumeId, cost: &Argon2Cost) -> Result<KeySlot, Failure> {
        let body = self.slot_body(&Key::from_bytes(key.expose()), volume_id, cost)?;
        Ok(KeySlot { kind: self.kind().number(), body })
    }

    /// Opens a slot of an unverified header. The volume key that comes out is authentic only once the volume opened with
    /// it: whoever has the caller's secret can make slots too.
    pub fn open_key(&self, image: &Path, header: &Header, budget_bytes: u64) -> Result<VolumeKey, Failure> {
        if self.volume_id.is_some_and(|wanted| wanted != VolumeId(header.volume_id)) {
            return Err(Failure::volume(image, &Error::Incompatible(Incompatible::VolumeId)));
        }
        self.open_key_of_any(image, header, budget_bytes)
    }

    /// The same, whatever volume was demanded: for an image below it, which has an id of its own.
    pub fn open_key_of_any(&self, image: &Path, header: &Header, budget_bytes: u64) -> Result<VolumeKey, Failure> {
        let id = VolumeId(header.volume_id);
        let slots = header.slots.iter().map(|slot| (slot.kind, &slot.body[..]));
        match self.open_slots(slots, &id, budget_bytes) {
            Ok(key) => Ok(VolumeKey::copy_of(key.expose())),
            Err(SlotError::WrongKey) => Err(Failure::volume(image, &Error::WrongKey)),
            Err(error @ SlotError::OverLimit { .. }) => {
                Err(Failure::new(image.display(), error).way_out("use another slot's key"))
            }
            Err(error) => Err(Failure::new(image.display(), error).way_out("try again with more memory")),
        }
    }

    /// Tries the slots of this key's kind. `budget_bytes` bounds what Argon2id may allocate.
    pub fn open_slots<'a>(
        &self,
        slots: impl IntoIterator<Item = (u16, &'a [u8])>,
        volume_id: &VolumeId,
        budget_bytes: u64,
    ) -> Result<Key, SlotError> {
        let limits = Argon2Limits { max_memory_bytes: budget_bytes };
        let mut outcome = SlotError::WrongKey;
        for (_, body) in slots.into_iter().filter(|(kind, _)| *kind == self.kind().number()) {
            match sealing::unwrap(&self.secret, body, &volume_id.0, &limits) {
                Ok(key) => return Ok(key),
                Err(SlotError::WrongKey) => {}
                Err(error) => outcome = error,
            }
        }
        Err(outcome)
    }
}

/// Where a key comes from.
enum Origin {
    File(Place),
    Platform(String),
    Shares(Vec<Place>),
}

/// What the places of keys are called where they were named.
struct Names {
    key_file: &'static str,
    passphrase_file: &'static str,
    all: &'static str,
}

const OPTIONS: Names = Names { key_file: "--key-file", passphrase_file: "--passphrase-file", all: "key options" };
const TABLE: Names = Names {
    key_file: "key-file of /etc/sefs.toml",
    passphrase_file: "passphrase-file of /etc/sefs.toml",
    all: "/etc/sefs.toml",
};

impl Origin {
    /// The one origin that `args` name, if any; `names` are those of their fields, where the caller wrote them.
    fn of(args: &KeyArgs, names: &Names) -> Result<Option<Origin>, Failure> {
        let place = |kind, named_by| move |path: &PathBuf| Place { path: path.clone(), kind, named_by };
        let key = args.key_file.as_ref().map(place(SlotKind::RawKey, names.key_file)).map(Origin::File);
        let passphrase = args.passphrase_file.as_ref().map(place(SlotKind::Passphrase, names.passphrase_file));
        let platform = args.platform.clone().map(Origin::Platform);
        let shares: Vec<Place> = args.share_file.iter().map(place(SlotKind::Shares, "--share-file")).collect();
        let shares = (!shares.is_empty()).then_some(Origin::Shares(shares));
        let mut named = [key, passphrase.map(Origin::File), platform, shares].into_iter().flatten();
        match (named.next(), named.next()) {
            (_, Some(_)) => Err(Failure::usage(names.all, "more than one key is named").way_out("name one")),
            (one, None) => Ok(one),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        match self {
            Origin::File(place) => vec![place.path.clone()],
            Origin::Shares(places) => places.iter().map(|place| place.path.clone()).collect(),
            Origin::Platform(_) => Vec::new(),
        }
    }

    fn described(&self) -> String {
        match self {
            Origin::File(place) => place.described(),
            Origin::Platform(spec) => format!("--platform {}", spec.split(':').next().unwrap_or(spec)),
            Origin::Shares(_) => "--share-file".into(),
        }
    }

    fn read(&self, allow_development: bool) -> Result<(SlotSecret, Vec<String>), Failure> {
        match self {
            Origin::File(place) => place.read(),
            Origin::Platform(spec) => {
                let owner = platform_source::platform_owner(spec, allow_development)?;
                let warnings = platform_source::warning(&owner).into_iter().collect();
                Ok((SlotSecret::Platform(owner), warnings))
            }
            Origin::Shares(places) => {
                let (mut shares, mut warnings) = (Vec::with_capacity(places.len()), Vec::new());
                for place in places {
                    let (share, more) = place.share()?;
                    shares.push(share);
                    warnings.extend(more);
                }
                let secret = sealing::shares::recover(&shares).map_err(|error| {
                    Failure::usage("--share-file", error).way_out("give shares of one set, each once")
                })?;
                Ok((SlotSecret::Shares(secret), warnings))
            }
        }
    }
}

/// A recovery share from a file, checked.
pub fn read_share(path: &Path) -> Result<(Share, Vec<String>), Failure> {
    Place { path: path.to_path_buf(), kind: SlotKind::Shares, named_by: "share" }.share()
}

/// A secret of 32 bytes, or 64 hex digits, from a file.
pub fn read_key(path: &Path) -> Result<(Key, Vec<String>), Failure> {
    let place = Place::key_file(path.to_path_buf(), "key");
    let (bytes, warnings) = place.content()?;
    let key = raw_key(&bytes).ok_or_else(|| place.refused("it holds neither 32 bytes nor 64 hex digits"))?;
    Ok((key, warnings))
}

/// One place that a key is read from.
struct Place {
    path: PathBuf,
    kind: SlotKind,
    /// What named it.
    named_by: &'static str,
}

impl Place {
    fn key_file(path: PathBuf, named_by: &'static str) -> Place {
        Place { path, kind: SlotKind::RawKey, named_by }
    }

    fn share(&self) -> Result<(Share, Vec<String>), Failure> {
        let (bytes, warnings) = self.content()?;
        let text = bytes.strip_prefix(SHARE_PREFIX.as_bytes()).map(|text| text.trim_ascii());
        let decoded = text.and_then(|digits| {
            let mut raw = Zeroizing::new(vec![0; digits.len() / 2]);
            decode_hex(digits, &mut raw).map(|()| raw)
        });
        let raw = decoded.ok_or_else(|| {
            self.refused("it is no recovery share").way_out("give a file that sealing slots add --share-dir wrote")
        })?;
        let share = Share::decode(&raw).map_err(|error| {
            self.refused(error).way_out("use another share; this one was changed, or never was one")
        })?;
        Ok((share, warnings))
    }

    fn described(&self) -> String {
        format!("{} {}", self.named_by, self.path.display())
    }

    fn read(&self) -> Result<(SlotSecret, Vec<String>), Failure> {
        let (bytes, warnings) = self.content()?;
        let secret = match self.kind {
            SlotKind::Passphrase => SlotSecret::Passphrase(passphrase(bytes).map_err(|why| self.refused(why))?),
            _ => SlotSecret::RawKey(raw_key(&bytes).ok_or_else(|| {
                self.refused("a key file holds 32 bytes or 64 hex digits")
                    .way_out("make one with: head -c 32 /dev/urandom > FILE")
            })?),
        };
        Ok((secret, warnings))
    }

    /// At most [`MAX_SECRET_LEN`] bytes, in memory that is wiped and never grows.
    fn content(&self) -> Result<(Zeroizing<Vec<u8>>, Vec<String>), Failure> {
        if self.path == Path::new("-") {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                return Err(self.refused("standard input is a terminal").way_out("pipe the secret in, or name a file"));
            }
            return Ok((self.bounded(stdin.lock())?, Vec::new()));
        }
        let file = std::fs::File::open(&self.path).map_err(|error| self.failed(&error))?;
        let metadata = file.metadata().map_err(|error| self.failed(&error))?;
        let open_to_others = metadata.is_file() && metadata.mode() & 0o044 != 0;
        let warning = format!("{} can be read by others; chmod go= {0}", self.path.display());
        Ok((self.bounded(file)?, if open_to_others { vec![warning] } else { Vec::new() }))
    }

    fn bounded(&self, mut from: impl Read) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut buffer = Zeroizing::new(vec![0; MAX_SECRET_LEN + 1]);
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        if filled > MAX_SECRET_LEN {
            return Err(self.refused(format!("it is longer than {MAX_SECRET_LEN} bytes")));
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    fn refused(&self, why: impl std::fmt::Display) -> Failure {
        Failure::usage(self.described(), why)
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        let reason = Failure::io(&self.path, error).to_string();
        Failure::new(self.named_by, reason).way_out("check the path and its permissions")
    }
}

fn raw_key(bytes: &[u8]) -> Option<Key> {
    if let Ok(raw) = bytes.try_into() {
        return Some(Key::from_bytes(raw));
    }
    let mut key = Key::zeroed();
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    decode_hex(digits, key.expose_mut()).map(|()| key)
}

fn passphrase(mut bytes: Zeroizing<Vec<u8>>) -> Result<Secret, &'static str> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err("the passphrase is empty");
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

fn set_once<T>(field: &mut Option<T>, name: &str, value: T) -> Result<(), Failure> {
    if field.is_some() {
        return Err(Failure::usage(format_args!("option {name}"), "it is given twice").way_out("give it once"));
    }
    *field = Some(value);
    Ok(())
}

fn no_key(image: &Path) -> Failure {
    Failure::usage(image.display(), "no key is given").way_out(ONE_OF)
}

const KEY_FILE_VARIABLE: &str = "SEFS_KEY_FILE";
const ONE_OF: &str = "give --key-file FILE or --passphrase-file FILE, or name the key in /etc/sefs.toml";
const ABANDONED: &str = "--abandon-anchor: an older state of this volume would not be noticed; once something is written to it, \
     it has no anchor any more";
/// What stands before the hex digits of a share.
pub const SHARE_PREFIX: &str = "sealing-share-1:";
const MAX_SECRET_LEN: usize = 65_536;

#[cfg(test)]
mod tests;
