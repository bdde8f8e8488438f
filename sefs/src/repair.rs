//! Repair: what a check found is put right, and what does not authenticate is given up where it is named.
//!
//! ```text
//! survey ─► losses that were named are assumed ─► survey ─► records that are wrong are put ─► survey … nothing new
//!                                                                   └─► one checkpoint with all of it
//! ```
//! The whole repair is tried out in memory first, by checks that take it for given. Then the store is opened with the
//! result laid over it, and the first checkpoint makes all of it durable at once.
//!
//! *Security*: nothing that fails to authenticate becomes absent unless a [`Loss`] names it; as long as one that hides
//! something is not named, nothing is repaired at all. Nothing is written in place.
//!
//! *Bounds*: a survey is bounded as a check is; there are at most [`MAX_ROUNDS`]; memory grows with what is put right.

mod fit;
mod plan;
mod records;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

pub(crate) use self::fit::{Fitted, fit};
use self::plan::Plan;
use crate::allocator::Made;
use crate::backend::Backend;
use crate::check::{
    CheckOptions, Event, Finding, Loss, Remedy, Severity, Stage, SurveyScope, Surveyed, survey_amended,
};
use crate::env::Env;
use crate::error::{Corrupt, Result};
use crate::format::{ID_END, MAX_EPOCHS};
use crate::keys::VolumeKey;
use crate::store::{Corrections, Store, StoreOptions};
use crate::types::{InodeNo, ObjectId};
use crate::workers::NoWorkers;

/// Surveys until nothing new is found: what was lost leaves names without inodes, then inodes without names, then counts.
const MAX_ROUNDS: usize = 16;

/// Something that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fix {
    /// An invariant holds again, and nothing was lost for it.
    Right(Finding),
    /// This was given up.
    GivenUp(Loss),
    /// An inode that no directory named has a name in `lost+found` now: `#` and its number.
    Reconnected {
        /// The inode.
        ino: InodeNo,
    },
    /// An inode whose record was lost was made anew, for what hangs on it. Owner, permissions and times are lost, of a
    /// file also the exact size.
    MadeAnew {
        /// The inode.
        ino: InodeNo,
    },
    /// A name was removed, for its inode is lost.
    NameLost {
        /// The directory.
        dir: InodeNo,
        /// What it named.
        ino: InodeNo,
    },
    /// Extended attributes were removed, for parts of them are lost.
    AttributesLost {
        /// The inode.
        ino: InodeNo,
    },
    /// The content of an inode is lost, all or what stood past its end.
    ContentLost {
        /// The object.
        object: ObjectId,
    },
}

impl Fix {
    /// A fixed name.
    pub fn code(&self) -> &'static str {
        match self {
            Fix::Right(finding) => finding.code(),
            Fix::GivenUp(_) => "given-up",
            Fix::Reconnected { .. } => "reconnected",
            Fix::MadeAnew { .. } => "made-anew",
            Fix::NameLost { .. } => "name-lost",
            Fix::AttributesLost { .. } => "attributes-lost",
            Fix::ContentLost { .. } => "content-lost",
        }
    }

    /// Whether something is lost with it.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Fix::Right(_) | Fix::Reconnected { .. } | Fix::GivenUp(Loss::Allocation))
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fix::Right(finding) => write!(f, "put right: {finding}"),
            Fix::GivenUp(loss) => write!(f, "given up: {loss}"),
            Fix::Reconnected { ino } => write!(f, "inode {ino} had no name and is lost+found/#{ino} now"),
            Fix::MadeAnew { ino } => {
                write!(f, "the record of inode {ino} is lost; it was made anew for what hangs on it")
            }
            Fix::NameLost { dir, ino } => write!(f, "inode {ino} is lost, and its name in directory {dir} with it"),
            Fix::AttributesLost { ino } => write!(f, "extended attributes of inode {ino} are lost"),
            Fix::ContentLost { object } => write!(f, "content of object {object} is lost"),
        }
    }
}

/// Why a repair did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// These hide what is true; each has to be given up by name first, as far as it can be.
    Hidden(Vec<Finding>),
    /// This is not damaged.
    NotLost(Loss),
    /// The log of an anchored volume is not cut: that would be the roll back that the anchor is there to notice.
    AnchoredLog,
}

/// What a repair came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is nothing that a repair could do.
    Nothing,
    /// All of this was done; it is durable.
    Repaired(Vec<Fix>),
    /// Nothing was done.
    Refused(Refusal),
}

/// Repairs a volume that nobody has mounted. `options` are those of a check; the anchor, if the volume has one, advances
/// as it does for a mount. `accepted` names what may be given up; without it a repair loses nothing, and it does nothing
/// unless all that is stored authenticates, but for one copy of the header.
///
/// Errors leave the volume as it was, or repaired.
pub fn repair(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    options: &CheckOptions,
    accepted: &[Loss],
    env: &Env,
    on: &mut dyn FnMut(Stage, u64, u64),
) -> Result<Outcome> {
    if options.anchor.is_some() && accepted.iter().any(|loss| matches!(loss, Loss::Log { .. })) {
        return Ok(Outcome::Refused(Refusal::AnchoredLog));
    }
    let lowers = &options.lowers[..];
    let mut survey =
        |scrub: bool, plan: &Plan| survey(backend.clone(), key, env, SurveyScope { scrub, lowers }, plan, on);
    let mut plan = Plan::new(!accepted.is_empty(), env.clock.now());
    let scrub = options.scrub || accepted.iter().any(|loss| matches!(loss, Loss::Data { .. }));
    let (_, found) = survey(scrub, &plan)?;
    if let Err(loss) = plan.accept(accepted, &found) {
        return Ok(Outcome::Refused(Refusal::NotLost(loss)));
    }
    // A header copy hides nothing: the other one authenticated.
    let hides = |finding: &Finding| finding.is_of_the_host() && finding.remedy() != Remedy::Mount;
    if accepted.is_empty() && found.iter().any(hides) {
        return Ok(Outcome::Refused(Refusal::Hidden(found.into_iter().filter(hides).collect())));
    }
    for _ in 0..MAX_ROUNDS {
        let (surveyed, found) = survey(false, &plan)?;
        let hidden: Vec<Finding> = found.iter().filter(|finding| finding.remedy() == Remedy::Hides).cloned().collect();
        if !hidden.is_empty() {
            return Ok(Outcome::Refused(Refusal::Hidden(hidden)));
        }
        // Without a slot there is nothing to start from.
        let Some(surveyed) = surveyed else { return Ok(Outcome::Refused(Refusal::Hidden(found))) };
        if !plan.put_right(&surveyed, &found)? {
            return write(backend, key, options, env, plan, surveyed, &found);
        }
    }
    // Every round puts something right that the next one no longer finds, unless what is stored plays games with us.
    Ok(Outcome::Nothing)
}

fn survey(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    env: &Env,
    scope: SurveyScope<'_>,
    plan: &Plan,
    on: &mut dyn FnMut(Stage, u64, u64),
) -> Result<(Option<Surveyed>, Vec<Finding>)> {
    let mut found = Vec::new();
    let surveyed = survey_amended(backend, key, env, scope, plan.amend(), &mut |event| match event {
        Event::Progress { done, total, what } => on(what, done, total),
        Event::Finding(finding) => found.push(finding),
    })?;
    Ok((surveyed, found))
}

/// Opens the volume with everything laid over it, and writes it.
fn write(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    options: &CheckOptions,
    env: &Env,
    plan: Plan,
    surveyed: Surveyed,
    found: &[Finding],
) -> Result<Outcome> {
    let mut fixes = plan.fixes();
    let sums = found.iter().filter(|finding| {
        finding.severity() == Severity::Error && matches!(finding.remedy(), Remedy::Sums | Remedy::Mount)
    });
    fixes.extend(sums.cloned().map(Fix::Right));
    if fixes.is_empty() {
        return Ok(Outcome::Nothing);
    }
    lay_down(backend, key, options, env, plan, surveyed, found)?;
    Ok(Outcome::Repaired(fixes))
}

/// Makes what is planned durable, with one checkpoint.
fn lay_down(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    options: &CheckOptions,
    env: &Env,
    plan: Plan,
    surveyed: Surveyed,
    found: &[Finding],
) -> Result<()> {
    let corrections = corrections(plan, surveyed, found);
    if corrections.next_id >= ID_END {
        // A checkpoint with it would be the last one that anybody can read.
        return Err(Corrupt::Checkpoint("numbers of inodes are used up").into());
    }
    let store = StoreOptions {
        read_only: false,
        anchor: options.anchor.clone(),
        abandon_anchor: options.abandon_anchor,
        volume_id: options.volume_id,
        root_digest: options.root_digest,
        memory_bytes: options.memory_bytes,
        max_epochs: MAX_EPOCHS,
        workers: Arc::new(NoWorkers),
        corrections: Some(Arc::new(corrections)),
    };
    let mut store = Store::open(backend, key, &store, env)?;
    options.lowers.iter().try_for_each(|lower| store.attach_lower(lower, env))?;
    store.write_corrections()
}

fn corrections(plan: Plan, surveyed: Surveyed, found: &[Finding]) -> Corrections {
    let amend = plan.amend();
    let wrong_pages = amend.allocation || found.iter().any(is_of_allocation);
    let allocation =
        wrong_pages.then(|| Made::new(&surveyed.image.geometry, &surveyed.truth.in_use, &surveyed.homes()));
    let mut live = surveyed.truth.live;
    if allocation.is_none() {
        for (epoch, pages) in &surveyed.truth.live_pages {
            *live.entry(*epoch).or_default() += pages;
        }
    }
    Corrections {
        given_up: surveyed.given_up,
        log_end: amend.log_end,
        allocation,
        leaked: surveyed.truth.leaked,
        live,
        nodes: surveyed.truth.nodes,
        unwritten: surveyed.truth.unwritten,
        inodes: surveyed.counted.inodes,
        next_id: plan.next_id().max(surveyed.counted.highest_id.saturating_add(1)),
        spaces: surveyed.truth.spaces,
        patches: amend.patches(),
        records: amend.records.clone(),
    }
}

fn is_of_allocation(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Leaked { .. }
            | Finding::NotAllocated { .. }
            | Finding::LogTookUsed { .. }
            | Finding::AllocCounts { .. }
            | Finding::AllocPageCorrupt { .. }
            | Finding::FreeBlocks { .. }
    )
}
