//! `mkfs.sefs --read-only` and `debug.sefs commit`: a packed image, public or encrypted, and where it was asked for a reproducible one.
//!
//! *Security*: a reproducible encrypted image is built in two passes. The first measures the complete plaintext; key, id and
//! salts follow from the raw key and that measure, so that no two contents share one; the second seals, and gives up if it
//! sealed anything else than was measured. The file beside the image that holds its root digest is for people: nothing reads it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use sealing::{Argon2Cost, Rng, RngFailed, SlotSecret};
use sefs::backend::Backend;
use sefs::error::Error;
use sefs::format::{ImageType, KeySlot};
use sefs::keys::VolumeKey;
use sefs::pack::{Output, PackOptions, PackSummary, Packer, reproducible_salt};
use sefs::suite::{RustCrypto, SecretKey, Suite};
use sefs::types::Timestamp;
use serde_json::json;

use crate::key_source::KeySource;
use crate::mkfs::{Content, Mkfs, counts_json, counts_text, slots};
use crate::names::escaped;
use crate::origin::Origin;
use crate::packing::{Contents, Times, pack_from};
use crate::place::Place;
use crate::populate::{Counts, PopulateError, Step, feed};
use crate::progress::{Progress, Unit};
use crate::report::{Failure, Output as Lines};
use crate::root_digest::RootDigest;
use crate::size;
use crate::volume_id::VolumeId;

/// What was asked for.
struct Plan {
    public: bool,
    reproducible: bool,
    times: Times,
    options: PackOptions,
    sources: Vec<KeySource>,
}

/// What is being written.
struct Writing<'a> {
    backend: Arc<dyn Backend>,
    origin: Origin<'a>,
    content: Content,
}

/// What was made.
struct Made {
    summary: PackSummary,
    counts: Counts,
    manifest_root: [u8; 32],
}

impl Mkfs {
    pub(crate) fn run_packed(&self) -> Result<(), Failure> {
        let plan = self.plan()?;
        let place = self.packed_place(&plan)?;
        let Some(origin) = self.origin(&place)? else {
            return Err(Failure::usage("--read-only", "a packed image is made of something")
                .way_out("give --from, --from-tar or --from-oci"));
        };
        self.make_packed(&plan, place, origin)
    }

    /// Packs `origin`, which the command line does not name.
    pub(crate) fn pack(&self, origin: Origin<'_>) -> Result<(), Failure> {
        let plan = self.plan()?;
        let place = self.packed_place(&plan)?;
        self.make_packed(&plan, place, origin)
    }

    fn packed_place(&self, plan: &Plan) -> Result<Place, Failure> {
        let place = Place::find(&self.args.image, self.args.force)?;
        if place.is_device() {
            return Err(Failure::new(
                self.args.image.display(),
                "a packed image has the length of its content, not a device's",
            )
            .way_out("make it in a file, which can be mounted as it is"));
        }
        self.refuse_replacing_parts(&place, &plan.sources)?;
        Ok(place)
    }

    fn make_packed(&self, plan: &Plan, place: Place, mut origin: Origin<'_>) -> Result<(), Failure> {
        let found = self.survey(&origin)?;
        place.has_room(found.block_bytes)?;
        let unplaced = place.begin(0)?;
        origin.exclude(unplaced.id()?);
        let content = Content { survey: Some(found), ..Content::unknown() };
        let backend = unplaced.backend(self.args.key.io.unwrap_or_default(), self.tool)?;
        let writing = Writing { backend, origin, content };
        let made = if plan.public { self.make_public(plan, &writing) } else { self.make_sealed(plan, &writing) }?;
        unplaced.cut(made.summary.size_bytes)?;
        unplaced.place()?;
        self.report_packed(plan, &made)
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let args = &self.args;
        let refused = |option: &str, reason: &str, way_out: &str| Err(Failure::usage(option, reason).way_out(way_out));
        if args.size.is_some() {
            return refused("--size", "a packed image is as large as its content", "leave it away");
        }
        if args.key.anchor.is_some() || args.anchor_policy.is_some() {
            return refused(
                "--anchor",
                "a packed image never changes, so there is no newest state",
                "pin its root digest",
            );
        }
        if args.public && args.key.has_key() {
            return refused("--public", "a public image has no key", "leave the key away, or --public");
        }
        let sources = if args.public { Vec::new() } else { self.key_sources()? };
        let is_raw = |source: &KeySource| matches!(source.secret(), SlotSecret::RawKey(_));
        if args.reproducible && !args.public && !matches!(&sources[..], [source] if is_raw(source)) {
            return refused(
                "--reproducible",
                "only a raw key gives the same slots each time",
                "give one --key-file, or --public",
            );
        }
        let times = match args.reproducible {
            true => Times::Clamped { latest: source_date_epoch()? },
            false => Times::Source { now: self.env().clock.now() },
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MOST);
        let options = PackOptions { label: args.label.clone(), dedup: !args.no_dedup, threads };
        Ok(Plan { public: args.public, reproducible: args.reproducible, times, options, sources })
    }

    fn make_public(&self, plan: &Plan, writing: &Writing<'_>) -> Result<Made, Failure> {
        let volume_id = match (self.args.key.volume_id, plan.reproducible) {
            (Some(id), _) => Some(id.0),
            (None, true) => None,
            (None, false) => Some(self.random_id(&writing.content)?.0),
        };
        let output = Output::Public { backend: writing.backend.clone(), volume_id };
        self.pass(plan, writing, output, "packing", true)
    }

    fn make_sealed(&self, plan: &Plan, writing: &Writing<'_>) -> Result<Made, Failure> {
        if plan.reproducible {
            return self.make_reproducible(plan, writing);
        }
        let failed = |error: Error| self.not_made(error, &writing.content);
        let env = self.env();
        let volume_id = match plan.sources.iter().find_map(|source| source.volume_id) {
            Some(id) => id,
            None => self.random_id(&writing.content)?,
        };
        let (key, slots) = slots(&plan.sources, &volume_id, &env)?;
        let mut salt = [0; 32];
        env.rng.fill(&mut salt).map_err(|_| failed(Error::Rng))?;
        let (backend, volume_id) = (writing.backend.clone(), volume_id.0);
        let output = Output::Sealed { backend, key, volume_id, slots, salt, measured: None };
        self.pass(plan, writing, output, "sealing", true)
    }

    fn make_reproducible(&self, plan: &Plan, writing: &Writing<'_>) -> Result<Made, Failure> {
        let measure = self.pass(plan, writing, Output::Measure(ImageType::Packed), "measuring", true)?;
        let measured = measure.summary.content_digest;
        let source = plan.sources.first().ok_or_else(|| Failure::usage("--reproducible", "no key is given"))?;
        let SlotSecret::RawKey(raw) = source.secret() else {
            return Err(Failure::usage("--reproducible", "only a raw key gives the same slots each time"));
        };
        let derived = Derived::new(&SecretKey::copy_of(raw.expose()), &measured);
        let key = VolumeKey::copy_of(derived.secret("volume key").expose());
        let volume_id = source.volume_id.unwrap_or_else(|| VolumeId(derived.id()));
        let volume_key = sealing::Key::from_bytes(key.expose());
        let body = source.slot_body_with(&volume_key, &volume_id, &Argon2Cost::DEFAULT, &derived)?;
        let slots = vec![KeySlot { kind: source.kind().number(), body }];
        let salt = reproducible_salt(&RustCrypto, &key, &measured);
        let (backend, volume_id) = (writing.backend.clone(), volume_id.0);
        let output = Output::Sealed { backend, key, volume_id, slots, salt, measured: Some(measured) };
        self.pass(plan, writing, output, "sealing", false)
    }

    /// Reads the whole source once.
    fn pass(
        &self,
        plan: &Plan,
        writing: &Writing<'_>,
        output: Output,
        label: &str,
        warns: bool,
    ) -> Result<Made, Failure> {
        let content = &writing.content;
        let failed = |error: Error| self.not_made(error, content);
        let mut packer = Packer::new(output, plan.options.clone(), &self.env()).map_err(failed)?;
        let total = content.survey.map(|survey| survey.data_bytes);
        let mut progress = (!self.quiet).then(|| Progress::start(label, Unit::Bytes, total));
        let files_expected = content.survey.map_or(0, |survey| survey.files);
        let mut on = |step: Step<'_>| match step {
            Step::Progress(counts) => {
                if let Some(progress) = &mut progress {
                    progress.set_label(format!("{label} file {} of {files_expected}", counts.files));
                    progress.set(counts.bytes);
                }
            }
            Step::Warning(line) if warns => self.warn(&line),
            Step::Warning(_) => {}
        };
        let packed = feed(&writing.origin, &self.stop, |items| {
            pack_from(&mut packer, writing.origin.name(), items, plan.times, &self.stop, &mut on)
        });
        drop(progress);
        let Contents { mut counts, manifest } =
            packed.map_err(|error: PopulateError| self.not_filled(error, content))?;
        counts.skipped += writing.origin.left_out();
        let manifest_root = manifest.root();
        let summary = packer.finish(manifest_root).map_err(failed)?;
        Ok(Made { summary, counts, manifest_root })
    }

    fn report_packed(&self, plan: &Plan, made: &Made) -> Result<(), Failure> {
        let (summary, image) = (&made.summary, &self.args.image);
        let root = RootDigest(summary.root_digest.unwrap_or_default());
        let beside = beside(image);
        std::fs::write(&beside, format!("{root}\n")).map_err(|error| Failure::io(&beside, &error))?;
        let kinds: Vec<String> = plan.sources.iter().map(KeySource::label).collect();
        let (mut lines, id) = (Lines::stdout(), VolumeId(summary.volume_id));
        let name = escaped(image.as_os_str().as_encoded_bytes());
        if self.args.json {
            lines.json(&json!({
                "image": name,
                "volume_id": id.to_string(),
                "label": self.args.label,
                "image_type": if plan.public { "packed, public" } else { "packed, encrypted" },
                "size_bytes": summary.size_bytes,
                "root_digest": root.to_string(),
                "manifest_root": RootDigest(made.manifest_root).to_string(),
                "data_blocks": summary.data_blocks,
                "shared_blocks": summary.shared_blocks,
                "nodes": summary.nodes,
                "key_slots": kinds,
                "content": counts_json(&made.counts),
            }))?;
        } else if !self.quiet {
            let what = if plan.public { "public packed image" } else { "encrypted packed image" };
            lines.line(format!("{name}: {}, {what} {id}", size::render(summary.size_bytes)))?;
            lines.line(format!("{name}: {}", counts_text(&made.counts)))?;
            lines.line(format!("manifest root {}", RootDigest(made.manifest_root)))?;
            lines.line(format!("root digest {root}"))?;
        }
        Ok(())
    }
}

/// More threads find nothing to do.
const THREADS_MOST: usize = 8;

/// Where the digest is written for people.
fn beside(image: &Path) -> PathBuf {
    let mut name = OsString::from(image.as_os_str());
    name.push(".root-digest");
    PathBuf::from(name)
}

/// The latest time in a reproducible image (reproducible-builds.org, SOURCE_DATE_EPOCH); 0 if nothing says otherwise.
fn source_date_epoch() -> Result<Timestamp, Failure> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Timestamp::default()) };
    let seconds = text.to_str().and_then(|text| text.parse::<i64>().ok()).filter(|seconds| *seconds >= 0);
    seconds.map(|seconds| Timestamp { seconds, nanoseconds: 0 }).ok_or_else(|| {
        Failure::usage("SOURCE_DATE_EPOCH", "it is no number of seconds").way_out("set it to a number, or unset it")
    })
}

/// What follows from a raw key and the measure of a content: only the same content gets the same again.
struct Derived {
    secret: SecretKey,
    drawn: Mutex<u32>,
}

impl Derived {
    fn new(raw: &SecretKey, measured: &[u8; 32]) -> Derived {
        Derived { secret: RustCrypto.derive(measured, raw, &[b"sefs 1 reproducible image"]), drawn: Mutex::new(0) }
    }

    fn secret(&self, label: &str) -> SecretKey {
        RustCrypto.derive(&[], &self.secret, &[b"sefs 1 reproducible ", label.as_bytes()])
    }

    /// A UUID (RFC 9562, version 8).
    fn id(&self) -> [u8; 16] {
        let secret = self.secret("volume id");
        let mut id = [0; 16];
        id.copy_from_slice(&secret.expose()[..16]);
        (id[6], id[8]) = (id[6] & 0x0f | 0x80, id[8] & 0x3f | 0x80);
        id
    }
}

/// For the salt and nonce of a slot: the same for the same image, and for no other.
impl Rng for Derived {
    fn fill(&self, out: &mut [u8]) -> Result<(), RngFailed> {
        let mut drawn = self.drawn.lock().map_err(|_| RngFailed)?;
        for piece in out.chunks_mut(32) {
            let bytes = self.secret(&format!("slot {drawn}"));
            piece.copy_from_slice(&bytes.expose()[..piece.len()]);
            *drawn += 1;
        }
        Ok(())
    }
}
