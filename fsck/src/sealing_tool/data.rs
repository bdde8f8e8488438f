//! Data: seal, unseal, inspect, explain.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use sealing::approval::{MANIFEST_LEN, MANIFEST_MAGIC, Manifest};
use sealing::blob::{self, BlobUse, MAX_PAYLOAD_LEN, SealError};
use sealing::explain::explain;
use sealing::platform::KeyPolicy;
use sealing::policy::Development;
use sealing::{BLOB_HEADER_LEN, BlobHeader, OsRng, PlatformOwner, Purpose, SlotKind, slot_use};
use sefs::vfs::Volume;
use serde_json::{Map, Value, json};

use super::upgrade::{manifest_json, manifest_text};
use super::{PlatformArgs, Sealing, TOOL, hex, now, owner_label, read_file, write_file};
use crate::image::ImageUse;
use crate::opening::Located;
use crate::platform_source::owner_even_locked;
use crate::report::Failure;
use crate::volume_id::VolumeId;

/// What a blob is for.
#[derive(Args, Debug)]
pub(super) struct UseArgs {
    /// What the data is: it opens for the same purpose only
    #[arg(long, value_name = "TEXT")]
    purpose: String,
    /// The volume that the data belongs to
    #[arg(long, value_name = "UUID")]
    volume_id: Option<VolumeId>,
}

#[derive(Args, Debug)]
pub(super) struct SealArgs {
    /// What to seal
    input: PathBuf,
    /// Where the blob goes: a new file, or "-"
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    what: UseArgs,
    /// Seconds since 1970 after which it should not open; advisory, for the clock is the host's
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    not_after: u64,
    #[command(flatten)]
    platform: PlatformArgs,
}

#[derive(Args, Debug)]
pub(super) struct UnsealArgs {
    /// The blob
    blob: PathBuf,
    /// Where the data goes: a new file, or "-"
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    what: UseArgs,
    #[command(flatten)]
    platform: PlatformArgs,
}

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// A blob or an image
    file: PathBuf,
    /// What the blob should be for
    #[arg(long, value_name = "TEXT")]
    purpose: Option<String>,
    /// The volume that the blob should belong to
    #[arg(long, value_name = "UUID")]
    volume_id: Option<VolumeId>,
    #[command(flatten)]
    platform: PlatformArgs,
}

/// One value of a list that is shown. Programs get numbers as numbers as long as every JSON reader can hold them.
pub(super) enum Shown {
    Text(String),
    Number(u64),
    Flag(bool),
}

/// Headers of sealed blobs, and where in the file they stand.
pub(super) struct Found {
    /// The slot, in an image.
    pub(super) slot: Option<usize>,
    pub(super) header: BlobHeader,
    pub(super) bytes: Vec<u8>,
}

/// What a file holds.
pub(super) enum Holds {
    Blob(Box<Found>),
    /// An image: its id, its platform slots, and how many others there are.
    Image {
        volume_id: [u8; 16],
        slots: Vec<Found>,
        others: usize,
    },
    /// An upgrade manifest, which is in plain.
    Manifest(Box<Manifest>),
}

pub(super) const HINT: &str = "a hint from unauthenticated bytes: whoever holds the file could have written them";
const MAX_BLOB_LEN: usize = BLOB_HEADER_LEN + MAX_PAYLOAD_LEN;

/// Every number below is one that a double can hold, which is what many readers of JSON have.
const NUMBERS_END: u64 = 1 << 53;

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Text(text) => f.pad(text),
            Shown::Number(number) => fmt::Display::fmt(number, f),
            Shown::Flag(flag) => fmt::Display::fmt(flag, f),
        }
    }
}

impl From<Shown> for Value {
    fn from(shown: Shown) -> Value {
        match shown {
            Shown::Text(text) => text.into(),
            Shown::Number(number) if number < NUMBERS_END => number.into(),
            Shown::Number(number) => number.to_string().into(),
            Shown::Flag(flag) => flag.into(),
        }
    }
}

/// Names and values as an object.
pub(super) fn object(fields: Vec<(&'static str, Shown)>) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.replace(' ', "_"), value.into())).collect()
}

impl UseArgs {
    fn blob_use(&self) -> Result<BlobUse, Failure> {
        let volume_id = self.volume_id.map_or([0; 16], |id| id.0);
        Ok(BlobUse { purpose: purpose(&self.purpose)?, volume_id })
    }
}

fn purpose(text: &str) -> Result<Purpose, Failure> {
    Purpose::new(text).ok_or_else(|| {
        Failure::usage("--purpose", "it is 1 to 32 bytes of text on one line").way_out("give a shorter one")
    })
}

/// Reads a blob's header, or those in an image's slots.
pub(super) fn look_into(path: &Path) -> Result<Holds, Failure> {
    let mut head = [0; 8];
    let file = std::fs::File::open(path).map_err(|error| Failure::io(path, &error).way_out("check the path"))?;
    let read = file.take(8).read_exact(&mut head).is_ok();
    if read && head == *MANIFEST_MAGIC {
        let manifest = Manifest::decode(&read_file(path, MANIFEST_LEN)?);
        let manifest = manifest.map_err(|error| Failure::new(path.display(), error).way_out("take it from a copy"))?;
        return Ok(Holds::Manifest(Box::new(manifest)));
    }
    if read && head == *b"SEALblob" {
        let bytes = read_file(path, MAX_BLOB_LEN)?.to_vec();
        let header = BlobHeader::decode(&bytes)
            .map_err(|error| Failure::new(path.display(), error).way_out("take it from a copy"))?;
        return Ok(Holds::Blob(Box::new(Found { slot: None, header, bytes })));
    }
    let located = Located::open(path, ImageUse::ReadOnly)?;
    let header = Volume::read_header(&*located.backend).map_err(|error| Failure::volume(path, &error))?;
    let is_platform = |kind: u16| kind == SlotKind::Platform.number();
    let slots: Vec<Found> = header
        .slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| is_platform(slot.kind))
        .filter_map(|(slot, it)| {
            let header = BlobHeader::decode(&it.body).ok()?;
            Some(Found { slot: Some(slot), header, bytes: it.body.clone() })
        })
        .collect();
    let others = header.slots.iter().filter(|slot| !is_platform(slot.kind)).count();
    Ok(Holds::Image { volume_id: header.volume_id, slots, others })
}

impl Holds {
    pub(super) fn found(&self) -> &[Found] {
        match self {
            Holds::Blob(found) => std::slice::from_ref(&**found),
            Holds::Image { slots, .. } => slots,
            Holds::Manifest(_) => &[],
        }
    }
}

impl Found {
    fn place(&self) -> String {
        self.slot.map_or("blob".into(), |slot| format!("slot {slot}"))
    }
}

impl Sealing {
    pub(super) fn seal(&mut self, args: &SealArgs) -> Result<bool, Failure> {
        let owner = args.platform.owner()?;
        let data = read_file(&args.input, MAX_PAYLOAD_LEN)?;
        let sealed = blob::seal(
            owner.platform(),
            owner.policy(),
            &args.what.blob_use()?,
            args.not_after,
            &data,
            development(&args.platform),
            &OsRng,
        );
        let sealed = sealed.map_err(|error| refused(&args.input, &error))?;
        write_file(&args.out, &sealed)?;
        if args.out == Path::new("-") {
            return Ok(true);
        }
        let policy = owner.policy().bits();
        self.say(json!({"blob": args.out, "policy": policy.to_string(), "platform": owner_label(&owner)}), || {
            format!("{}: sealed to {policy}, {}", args.out.display(), owner_label(&owner))
        })
    }

    pub(super) fn unseal(&mut self, args: &UnsealArgs) -> Result<bool, Failure> {
        let owner = args.platform.owner()?;
        let sealed = read_file(&args.blob, MAX_BLOB_LEN)?;
        let opened =
            blob::unseal(owner.platform(), &sealed, &args.what.blob_use()?, Some(now()), development(&args.platform));
        let payload = opened.map_err(|error| refused(&args.blob, &error))?;
        write_file(&args.out, payload.expose())?;
        Ok(true)
    }

    pub(super) fn inspect(&mut self, file: &Path) -> Result<bool, Failure> {
        let holds = look_into(file)?;
        if let Holds::Manifest(manifest) = &holds {
            return self.say(manifest_json(manifest), || format!("# {HINT}\n{}", manifest_text(manifest)));
        }
        if self.json {
            let all: Vec<Value> = holds.found().iter().map(as_json).collect();
            self.out.json(&json!({"authenticated": false, "blobs": all}))?;
            return Ok(true);
        }
        self.out.line(format!("# {HINT}"))?;
        if let Holds::Image { slots, others, .. } = &holds {
            self.out.line(format!("{} platform slots, {others} others", slots.len()))?;
        }
        for found in holds.found() {
            self.out.line(format!("{}:", found.place()))?;
            for (name, value) in fields(found) {
                self.out.line(format!("  {name:<18} {value}"))?;
            }
        }
        Ok(true)
    }

    pub(super) fn explain(&mut self, args: &ExplainArgs) -> Result<bool, Failure> {
        let owner = owner_even_locked(&args.platform.platform, args.platform.allow_development)?;
        let holds = look_into(&args.file)?;
        let wanted = match &holds {
            Holds::Image { volume_id, .. } => Some(slot_use(volume_id)),
            Holds::Blob(found) => {
                let recorded = found.header.blob_use;
                let purpose = args.purpose.as_deref().map_or(Ok(recorded.purpose), purpose)?;
                Some(BlobUse { purpose, volume_id: args.volume_id.map_or(recorded.volume_id, |id| id.0) })
            }
            Holds::Manifest(_) => None,
        };
        if holds.found().is_empty() {
            return Err(Failure::new(args.file.display(), "it has no blob and no slot for a platform")
                .way_out("open it with another key, and see sealing slots add"));
        }
        let mut any = false;
        let mut answers = Vec::new();
        for found in holds.found() {
            let blob_use = wanted.unwrap_or(found.header.blob_use);
            let opened =
                blob::unseal(owner.platform(), &found.bytes, &blob_use, Some(now()), development(&args.platform));
            any |= opened.is_ok();
            answers.push(answer(found, &owner, wanted.as_ref(), opened.err()));
        }
        if self.json {
            self.out.json(&json!({"opens": any, "blobs": answers}))?;
        } else {
            let texts: Vec<String> = answers.iter().map(answer_text).collect();
            self.out.line(texts.join("\n"))?;
        }
        if !any {
            TOOL.warn(&format!("what stands here is {HINT}; type no recovery share because of it"));
        }
        Ok(any)
    }
}

fn development(platform: &PlatformArgs) -> Development {
    if platform.allow_development { Development::Allowed } else { Development::Refused }
}

fn refused(path: &Path, error: &SealError) -> Failure {
    let way_out = match error {
        SealError::WrongKey | SealError::Platform(_) | SealError::OtherPlatform { .. } => {
            "sealing explain says what differs"
        }
        SealError::Purpose | SealError::Volume => "sealing inspect shows what it is for",
        SealError::Malformed(_) => "take it from a copy",
        SealError::Expired => "seal it anew",
        SealError::TooLong => "seal a key to the file, and encrypt the file with that",
        _ => "see sealing --help",
    };
    Failure::new(path.display(), error).way_out(way_out)
}

/// Why one blob opens or does not.
fn answer(found: &Found, owner: &PlatformOwner, wanted: Option<&BlobUse>, error: Option<SealError>) -> Value {
    let platform = owner.platform();
    let differences = match &error {
        None => Vec::new(),
        Some(_) => {
            let header = explain(&found.header, platform.kind(), platform.identity(), &platform.versions(), wanted);
            platform.refusals().into_iter().chain(header).collect()
        }
    };
    let mut differences: Vec<Value> =
        differences.iter().map(|it| json!({"field": it.field, "sealed": it.sealed, "here": it.here})).collect();
    if error == Some(SealError::Expired) {
        differences.push(
            json!({"field": "not after", "sealed": found.header.not_after.to_string(), "here": now().to_string()}),
        );
    }
    json!({
        "place": found.place(),
        "opens": error.is_none(),
        "error": error.as_ref().map(ToString::to_string),
        "authenticated": error.is_none(),
        "differences": differences,
    })
}

fn answer_text(answer: &Value) -> String {
    let place = answer["place"].as_str().unwrap_or_default();
    if answer["opens"] == true {
        return format!("{place}: opens");
    }
    let mut text = format!("{place}: does not open: {}", answer["error"].as_str().unwrap_or_default());
    let differences = answer["differences"].as_array().map_or(&[][..], Vec::as_slice);
    for it in differences {
        let part = |name: &str| it[name].as_str().unwrap_or_default().to_string();
        text += &format!("\n  {}: sealed {}, here {}", part("field"), part("sealed"), part("here"));
    }
    if differences.is_empty() {
        text += "\n  by its header it should open here: it was changed, or the platform's root key is another";
    }
    text
}

fn fields(found: &Found) -> Vec<(&'static str, Shown)> {
    let header = &found.header;
    let identity = &header.identity;
    let policy = header.policy.bits();
    let mask = header.policy.attribute_mask();
    let mut out = vec![
        ("platform", Shown::Text(format!("{} ({})", header.kind.name(), header.assurance))),
        ("policy", Shown::Text(policy.to_string())),
        ("purpose", Shown::Text(header.blob_use.purpose.text().to_string())),
        ("volume id", Shown::Text(VolumeId(header.blob_use.volume_id).to_string())),
        ("isvsvn", Shown::Number(header.isv_svn.into())),
        ("configsvn", Shown::Number(header.config_svn.into())),
        ("cpusvn", Shown::Text(hex(&header.cpu_svn))),
        ("attribute mask", Shown::Text(format!("{:#x} {:#x}", mask.flags, mask.xfrm))),
        ("misc mask", Shown::Text(format!("{:#x}", header.policy.misc_mask()))),
        ("not after", Shown::Number(header.not_after)),
        ("key id", Shown::Text(hex(&header.key_id))),
        ("identity digest", Shown::Text(hex(&header.identity_digest()))),
        ("debug", Shown::Flag(identity.is_debug())),
        ("isvprodid", Shown::Number(identity.isv_prod_id.into())),
        ("payload bytes", Shown::Number(header.payload_len.into())),
    ];
    let selected: [(KeyPolicy, &'static str, &[u8]); 5] = [
        (KeyPolicy::MRENCLAVE, "mrenclave", &identity.mrenclave),
        (KeyPolicy::MRSIGNER, "mrsigner", &identity.mrsigner),
        (KeyPolicy::CONFIGID, "configid", &identity.config_id),
        (KeyPolicy::ISVFAMILYID, "isvfamilyid", &identity.isv_family_id),
        (KeyPolicy::ISVEXTPRODID, "isvextprodid", &identity.isv_ext_prod_id),
    ];
    let selected = selected.into_iter().filter(|(bit, ..)| policy.has(*bit));
    out.extend(selected.map(|(_, name, value)| (name, Shown::Text(hex(value)))));
    out
}

fn as_json(found: &Found) -> Value {
    let mut value = object(fields(found));
    value.insert("place".into(), found.place().into());
    value.into()
}
