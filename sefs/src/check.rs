//! The check of a whole volume: every invariant that the stored state must have, each with a finding of its own.
//!
//! It reads the volume by its own means, through the same doors for authentication as a mount, but without a mount's
//! shortcuts; only whether the volume opens at all is asked of the store itself. It never writes.
//!
//! ```text
//! image (header, slots, epochs) ─► log (replay) ─► walk (trees, data) ─► space (bitmaps, counts)
//!                                                       └─► files (names, links, content)
//! packed (images without log and bitmaps) ──────────────────┘
//! ```
//! *Memory*: one bit for each block in use, 32 bytes for each inode and 24 for each directory entry, the log's records.
//!
//! *Bounds*: a node is visited once, however often it is named; everything else is bounded by what authenticated.

mod amend;
mod files;
mod finding;
mod homes;
mod image;
mod log;
mod loss;
mod packed;
mod records;
mod space;
#[cfg(test)]
pub(crate) mod tests;
mod walk;
mod xattrs;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub use finding::{Finding, Remedy, Severity};
pub use loss::{Loss, NoLoss};

pub(crate) use self::amend::Amend;
pub(crate) use self::files::Counted;
use self::files::Files;
pub(crate) use self::image::Image;
pub(crate) use self::log::Replay;
pub(crate) use self::records::Scanned;
pub(crate) use self::space::Truth;
use self::space::{Scope, Space};
pub(crate) use self::xattrs::SUMMARY_EXTENSION;
use crate::anchor::Anchor;
use crate::backend::Backend;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::format::{FILES_TREE, Key, Kind, MAX_EPOCHS, MAX_LOWERS, SYSTEM_TREE};
use crate::keys::VolumeKey;
use crate::store::{GivenUp, Lower, Store, StoreOptions, claims_to_be_packed};
use crate::suite::Suite;
use crate::types::{Generation, InodeNo};
use crate::workers::NoWorkers;

/// How to check.
#[derive(Clone)]
pub struct CheckOptions {
    /// Also read every data block, and see whether it authenticates.
    pub scrub: bool,
    /// The volume's anchor.
    pub anchor: Option<Arc<dyn Anchor>>,
    /// Check an anchored volume without its anchor.
    pub abandon_anchor: bool,
    /// The volume id that must be found.
    pub volume_id: Option<[u8; 16]>,
    /// The packed image that must be found.
    pub root_digest: Option<[u8; 32]>,
    /// The images that the volume lies over, all of them, the topmost first.
    pub lowers: Vec<Lower>,
    /// The budget of the mount that is tried, at least 4 MiB.
    pub memory_bytes: usize,
}

impl Default for CheckOptions {
    fn default() -> CheckOptions {
        CheckOptions {
            scrub: false,
            anchor: None,
            abandon_anchor: false,
            volume_id: None,
            root_digest: None,
            lowers: Vec::new(),
            memory_bytes: 16 << 20,
        }
    }
}

/// What a check tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// How far it is; `total` is an estimate.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all; 0 if not known.
        total: u64,
        /// What is being done.
        what: Stage,
    },
    /// Something does not hold.
    Finding(Finding),
}

/// The parts of a check, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Header, slots, epochs and log.
    Opening,
    /// Trees, and with `scrub` data; the unit is a block.
    Trees,
    /// Allocation; the unit is a group.
    Space,
    /// Names and links; the unit is a directory entry.
    Names,
    /// Not of a check but of an upgrade, before it: what the volume has changed of its images; the unit is an inode.
    Changes,
}

impl Stage {
    /// A word for people.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Opening => "opening",
            Stage::Trees => "trees",
            Stage::Space => "space",
            Stage::Names => "names",
            Stage::Changes => "changes",
        }
    }
}

/// What a check has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are notes.
    pub notes: u64,
    /// The newest checkpoint.
    pub generation: Generation,
    /// Log groups that count.
    pub groups: u64,
    /// Tree nodes.
    pub nodes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Data blocks that files have.
    pub data_blocks: u64,
    /// Data blocks that were read.
    pub scrubbed_blocks: u64,
}

/// Checks a volume that nobody has mounted, and tells `on` what it finds. It changes nothing.
///
/// Errors are those that keep it from looking: a wrong key, no volume, a host that cannot read the header, an anchor that
/// is missing. What is wrong with the volume is a [`Finding`].
pub fn check(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    options: &CheckOptions,
    env: &Env,
    on: &mut dyn FnMut(Event),
) -> Result<CheckSummary> {
    let mut report = Report::new(on);
    report.stage(Stage::Opening, 0);
    if claims_to_be_packed(&*backend) {
        packed::check(backend, Some(key), options, env, &mut report)?;
        return Ok(report.summary);
    }
    let opened = try_mount(backend.clone(), key, options, env)?;
    if let Some(error) = opened {
        report.found(Finding::Unmountable { error });
    }
    let scope = SurveyScope { scrub: options.scrub, lowers: &options.lowers };
    survey(backend, key, env, scope, &Amend::default(), &mut report)?;
    Ok(report.summary)
}

/// Checks a public image, which `options.root_digest` pins; as [`check`].
pub fn check_public(
    backend: Arc<dyn Backend>,
    options: &CheckOptions,
    env: &Env,
    on: &mut dyn FnMut(Event),
) -> Result<CheckSummary> {
    let mut report = Report::new(on);
    report.stage(Stage::Opening, 0);
    packed::check(backend, None, options, env, &mut report)?;
    Ok(report.summary)
}

/// What a survey looks at.
#[derive(Clone, Copy)]
pub(crate) struct SurveyScope<'a> {
    /// Data blocks too.
    pub(crate) scrub: bool,
    /// The images that the volume lies over.
    pub(crate) lowers: &'a [Lower],
}

/// A volume as a check saw it, assumptions laid over.
pub(crate) struct Surveyed {
    pub(crate) image: Image,
    pub(crate) replay: Replay,
    pub(crate) truth: Truth,
    pub(crate) counted: Counted,
    pub(crate) given_up: GivenUp,
}

/// Checks the volume under assumptions, telling `on` what it finds; whether it would open is not asked. `None` if too
/// little of it authenticates.
pub(crate) fn survey_amended(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    env: &Env,
    scope: SurveyScope<'_>,
    amend: &Amend,
    on: &mut dyn FnMut(Event),
) -> Result<Option<Surveyed>> {
    let mut report = Report::new(on);
    report.stage(Stage::Opening, 0);
    survey(backend, key, env, scope, amend, &mut report)
}

fn survey(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    env: &Env,
    SurveyScope { scrub, lowers }: SurveyScope<'_>,
    amend: &Amend,
    report: &mut Report<'_>,
) -> Result<Option<Surveyed>> {
    let Some(mut image) = Image::open(backend, key, env, report)? else { return Ok(None) };
    image.given_up.clone_from(&amend.nodes);
    report.summary.generation = image.checkpoint.generation;
    let mut replay = log::replay(&image, amend.log_end, report)?;
    amend.lay_over(&mut replay);
    report.summary.groups = replay.groups;
    if image.layered {
        let (first, end) = (Key::new(0, Kind::Lower, 0), Key::new(0, Kind::Orphan, 0));
        match records::scan(&image, &replay, first, end, MAX_LOWERS + 1) {
            Ok((named, _)) => image.put_below(named, lowers, env)?,
            // The walk tells what is wrong with the tree.
            Err(Error::Tampered(_) | Error::Corrupt(_) | Error::Backend(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let (mut space, mut files) = (Space::new(&image), Files::new(env.suite.clone(), replay.next_id));
    let nodes = image.checkpoint.nodes.saturating_mul(image.node_blocks());
    report.stage(Stage::Trees, if scrub { image.used_blocks() } else { nodes });
    let mut given_up = GivenUp::default();
    for tree in [SYSTEM_TREE, FILES_TREE] {
        given_up.extend(walk::tree(&image, tree, &replay, scrub, &mut space, &mut files, report)?);
    }
    if files.incomplete {
        report.found(Finding::Incomplete {});
    }
    report.stage(Stage::Space, image.geometry.groups());
    let scope = Scope { incomplete: files.incomplete, pages_given_up: amend.allocation };
    let truth = space.finish(&image, &replay, scope, report);
    let counted = files.finish(replay.inodes, report);
    Ok(Some(Surveyed { image, replay, truth, counted, given_up }))
}

impl Surveyed {
    /// A record as a mount would see it.
    pub(crate) fn record(&self, key: Key) -> Result<Option<Vec<u8>>> {
        records::read(&self.image, &self.replay, key)
    }

    /// At most `limit` records of one tree, or a few more, and where to go on.
    pub(crate) fn records(&self, from: Key, end: Key, limit: usize) -> Result<Scanned> {
        records::scan(&self.image, &self.replay, from, end, limit)
    }

    /// Whether the volume itself says something of an inode, be it that there is none.
    pub(crate) fn has_own_inode(&self, ino: InodeNo) -> Result<bool> {
        self.has_own(Key::new(ino.0, Kind::Inode, 0))
    }

    /// Whether the volume itself says something of a record, be it that there is none.
    pub(crate) fn has_own(&self, key: Key) -> Result<bool> {
        records::is_own(&self.image, &self.replay, key)
    }

    /// Which homes of allocation pages the slots name, as bits, by level and index.
    pub(crate) fn homes(&self) -> BTreeMap<(u8, u64), u8> {
        homes::named(&self.image)
    }

    pub(crate) fn suite(&self) -> &dyn Suite {
        &**self.image.sealer.suite()
    }
}

/// Whether the volume opens, as a mount would open it. `Err` is what also keeps the check from looking.
fn try_mount(backend: Arc<dyn Backend>, key: &VolumeKey, options: &CheckOptions, env: &Env) -> Result<Option<Error>> {
    match Store::open(backend, key, &store_options(options), env) {
        Ok(_) => Ok(None),
        Err(error) => match error {
            Error::Tampered(_) | Error::RolledBack(_) | Error::Corrupt(_) | Error::Posix(_) | Error::Latched(_) => {
                Ok(Some(error))
            }
            Error::Malformed(_)
            | Error::Incompatible(_)
            | Error::Backend(_)
            | Error::WrongKey
            | Error::Rng
            | Error::Anchor(_)
            | Error::Invalid(_) => Err(error),
        },
    }
}

/// How a mount that changes nothing opens it.
fn store_options(options: &CheckOptions) -> StoreOptions {
    StoreOptions {
        read_only: true,
        anchor: options.anchor.clone(),
        abandon_anchor: options.abandon_anchor,
        volume_id: options.volume_id,
        root_digest: options.root_digest,
        memory_bytes: options.memory_bytes,
        workers: Arc::new(NoWorkers),
        corrections: None,
        max_epochs: MAX_EPOCHS,
    }
}

/// Counts findings and passes them on.
struct Report<'a> {
    on: &'a mut dyn FnMut(Event),
    summary: CheckSummary,
    what: Stage,
    done: u64,
    total: u64,
    told: u64,
}

/// Progress is told that many times in a stage, at most.
const STEPS: u64 = 1000;

impl<'a> Report<'a> {
    fn new(on: &'a mut dyn FnMut(Event)) -> Report<'a> {
        Report { on, summary: CheckSummary::default(), what: Stage::Opening, done: 0, total: 0, told: 0 }
    }

    fn found(&mut self, finding: Finding) {
        match finding.severity() {
            Severity::Error => self.summary.errors += 1,
            Severity::Note => self.summary.notes += 1,
        }
        (self.on)(Event::Finding(finding));
    }

    fn stage(&mut self, what: Stage, total: u64) {
        (self.what, self.done, self.total, self.told) = (what, 0, total, 0);
        (self.on)(Event::Progress { done: 0, total, what });
    }

    fn progress(&mut self, units: u64) {
        self.done += units;
        if self.done - self.told > (self.total / STEPS).max(64) {
            self.told = self.done;
            (self.on)(Event::Progress { done: self.done, total: self.total.max(self.done), what: self.what });
        }
    }
}
