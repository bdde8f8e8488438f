//! Upgrades by approval: manifest, signatures, and the hand-over.

use std::path::{Path, PathBuf};

use clap::Args;
use sealing::approval::{APPROVAL_LEN, MANIFEST_LEN, Manifest, approve};
use sealing::blob::SealError;
use sealing::platform::KeyPolicy;
use sealing::{BlobHeader, Key, Opened, OsRng, PlatformOwner, SlotKind, open_platform_slot};
use sefs::format::{Header, KeySlot};
use serde_json::{Value, json};

use super::data::{Shown, object};
use super::slots::{NOT_REVOKED, commit, signing_key};
use super::{Sealing, TOOL, hex, now, only_platform, owner, owner_label, read_file, write_file};
use crate::image::ImageUse;
use crate::key_source::KeyArgs;
use crate::opening::Located;
use crate::report::Failure;
use crate::showing::slot_label;
use crate::volume_id::VolumeId;

#[derive(Args, Debug)]
pub(super) struct ManifestArgs {
    /// The image
    image: PathBuf,
    /// The slot that is to hand over, as slots list shows it
    #[arg(long, value_name = "N")]
    slot: usize,
    /// The successor
    #[arg(long, value_name = "NAME[:OPTIONS]")]
    to: String,
    /// The successor's platform may be one for development
    #[arg(long)]
    allow_development: bool,
    /// The lowest version that the successor may have [default: the one in --to]
    #[arg(long, value_name = "N")]
    min_isvsvn: Option<u16>,
    /// Seconds since 1970 after which the approval counts no longer; advisory, for the clock is the host's
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    not_after: u64,
    /// Where the manifest goes: a new file, or "-"
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct ApproveArgs {
    /// The manifest
    manifest: PathBuf,
    /// The approver's key: 32 bytes, or 64 hex digits
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
    /// Where the signature goes: a new file, or "-"
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// The successor
    #[arg(long, value_name = "NAME[:OPTIONS]")]
    to: String,
    /// The manifest
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// A signature; once for each
    #[arg(long, value_name = "FILE", required = true)]
    approval: Vec<PathBuf>,
    /// Leave the old slot too
    #[arg(long)]
    keep_old: bool,
}

impl Sealing {
    pub(super) fn manifest(&mut self, args: &ManifestArgs) -> Result<bool, Failure> {
        let successor = owner(&args.to, args.allow_development)?;
        let located = Located::open(&args.image, ImageUse::ReadOnly)?;
        let header = &located.header;
        let slot = header.slots.get(args.slot).filter(|slot| slot.kind == SlotKind::Platform.number());
        let predecessor = slot.and_then(|slot| BlobHeader::decode(&slot.body).ok()).ok_or_else(|| {
            Failure::usage("--slot", "it is no slot for a platform").way_out("sealing slots list shows them")
        })?;
        let (platform, bits) = (successor.platform(), successor.policy().bits());
        let identity = platform.identity();
        let chosen = |bit, value| if bits.has(bit) { value } else { [0; 32] };
        let manifest = Manifest {
            kind: platform.kind(),
            policy: bits,
            min_isv_svn: args.min_isvsvn.unwrap_or(identity.isv_svn),
            volume_id: header.volume_id,
            generation: header.generation,
            not_after: args.not_after,
            predecessor: predecessor.identity_digest(),
            mrenclave: chosen(KeyPolicy::MRENCLAVE, identity.mrenclave),
            mrsigner: chosen(KeyPolicy::MRSIGNER, identity.mrsigner),
            isv_prod_id: if bits.has(KeyPolicy::NOISVPRODID) { 0 } else { identity.isv_prod_id },
        };
        manifest.check().map_err(|error| Failure::usage("--to", error).way_out("see sealing manifest --help"))?;
        write_file(&args.out, &manifest.encode())?;
        if args.out == Path::new("-") {
            return Ok(true);
        }
        self.say(json!({"manifest": args.out, "generation": manifest.generation, "policy": bits.to_string()}), || {
            format!(
                "{}: to {bits}, header generation {}; let approvers sign it",
                args.out.display(),
                manifest.generation
            )
        })
    }

    pub(super) fn approve(&mut self, args: &ApproveArgs) -> Result<bool, Failure> {
        let raw = read_file(&args.manifest, MANIFEST_LEN)?;
        // Nobody should sign what cannot be understood.
        let manifest = Manifest::decode(&raw)
            .map_err(|error| Failure::new(args.manifest.display(), error).way_out("make it with sealing manifest"))?;
        let signature = approve(&raw, &signing_key(&args.signing_key)?);
        write_file(&args.out, &signature)?;
        if args.out == Path::new("-") {
            return Ok(true);
        }
        let mut value = manifest_json(&manifest);
        value["approval"] = json!(args.out);
        self.say(value, || format!("{}: approves\n{}", args.out.display(), manifest_text(&manifest)))
    }

    pub(super) fn approver_key(&mut self, path: &Path) -> Result<bool, Failure> {
        let public = hex(&signing_key(path)?.verifying_key().to_bytes());
        self.say(json!({"public_key": public}), || public.clone())
    }

    pub(super) fn migrate(&mut self, args: &MigrateArgs) -> Result<bool, Failure> {
        let predecessor = only_platform(&args.key)?;
        let successor = owner(&args.to, args.key.allow_development)?;
        let raw = read_file(&args.manifest, MANIFEST_LEN)?;
        let mut approvals = Vec::new();
        for path in &args.approval {
            approvals.push(read_file(path, APPROVAL_LEN)?.to_vec());
        }
        let unlocked = Located::open(&args.image, ImageUse::ReadWrite)?.unlock(&args.key, TOOL)?;
        let volume = unlocked.volume()?;
        // From here on the header is authentic, and with an anchor the newest.
        let header = volume.header().clone();
        let (index, blob, opened) = handing_over(&args.image, &predecessor, &header)?;
        let approvers = opened.approvers.as_ref().ok_or_else(|| {
            Failure::new(args.image.display(), "its slot names nobody who may approve a successor")
                .way_out("add a slot with sealing slots add --new-platform … --approver FILE")
        })?;
        let refused = |error| {
            Failure::new(args.manifest.display(), error).way_out("let the approvers sign a manifest for this volume")
        };
        let approved = approvers.verify(&raw, &approvals).map_err(refused)?;
        let policy = approved
            .admits(&header.volume_id, header.generation, &blob, successor.platform(), Some(now()))
            .map_err(refused)?;
        let key = Key::from_bytes(unlocked.key.expose());
        let body = successor
            .wrap_under(&policy, &key, &header.volume_id, Some(approvers), &OsRng)
            .map_err(|error| Failure::new("--to", error).way_out("see sealing --help"))?;
        let slot = KeySlot { kind: SlotKind::Platform.number(), body };
        let mut slots = header.slots.clone();
        if args.keep_old {
            slots.push(slot)
        } else {
            slots[index] = slot
        }
        let slots = commit(&unlocked, volume, slots)?;
        if !args.keep_old {
            TOOL.warn(NOT_REVOKED);
        }
        self.say(json!({"image": args.image, "to": owner_label(&successor)}), || {
            let labels: Vec<String> = slots.iter().map(slot_label).collect();
            format!("{}: handed over; key slots: {}", args.image.display(), labels.join(", "))
        })
    }
}

/// The slot that the predecessor opens.
fn handing_over(
    image: &Path,
    predecessor: &PlatformOwner,
    header: &Header,
) -> Result<(usize, BlobHeader, Opened), Failure> {
    let mut failure = SealError::WrongKey;
    for (index, slot) in header.slots.iter().enumerate().filter(|(_, it)| it.kind == SlotKind::Platform.number()) {
        match open_platform_slot(predecessor, &slot.body, &header.volume_id) {
            Ok(opened) => {
                let blob = BlobHeader::decode(&slot.body).map_err(|error| Failure::new(image.display(), error))?;
                return Ok((index, blob, opened));
            }
            Err(error) => failure = error,
        }
    }
    Err(Failure::new(image.display(), failure).way_out("sealing explain says what differs"))
}

/// All that an approver signs, by name.
pub(super) fn manifest_fields(manifest: &Manifest) -> Vec<(&'static str, Shown)> {
    let mut fields = vec![
        ("volume id", Shown::Text(VolumeId(manifest.volume_id).to_string())),
        ("header generation", Shown::Number(manifest.generation)),
        ("predecessor", Shown::Text(hex(&manifest.predecessor))),
        ("platform", Shown::Text(manifest.kind.name().to_string())),
        ("policy", Shown::Text(manifest.policy.to_string())),
    ];
    if manifest.policy.has(KeyPolicy::MRENCLAVE) {
        fields.push(("mrenclave", Shown::Text(hex(&manifest.mrenclave))));
    }
    if manifest.policy.has(KeyPolicy::MRSIGNER) {
        fields.push(("mrsigner", Shown::Text(hex(&manifest.mrsigner))));
    }
    if !manifest.policy.has(KeyPolicy::NOISVPRODID) {
        fields.push(("isvprodid", Shown::Number(manifest.isv_prod_id.into())));
    }
    fields.push(("isvsvn at least", Shown::Number(manifest.min_isv_svn.into())));
    let end = match manifest.not_after {
        0 => Shown::Text("no end".into()),
        seconds => Shown::Number(seconds),
    };
    fields.push(("not after", end));
    fields
}

/// The same for people, a line each.
pub(super) fn manifest_text(manifest: &Manifest) -> String {
    let lines: Vec<String> =
        manifest_fields(manifest).iter().map(|(name, value)| format!("  {name:<18} {value}")).collect();
    lines.join("\n")
}

/// The same for programs.
pub(super) fn manifest_json(manifest: &Manifest) -> Value {
    let mut value = object(manifest_fields(manifest));
    // As in the manifest itself, where 0 is no end.
    value.insert("not_after".into(), Shown::Number(manifest.not_after).into());
    value.into()
}
