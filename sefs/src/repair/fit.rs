//! A volume fitted to the images below it, when it is made over several of them or gets others: names, links and counts follow
//! from what the images have together, and inodes of an image that no name leads to any more are hidden.
//!
//! It is a repair that loses nothing of the volume: tried out in memory, and durable with one checkpoint.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::plan::{Plan, inode_key};
use super::{MAX_ROUNDS, lay_down, survey};
use crate::backend::Backend;
use crate::check::{Amend, CheckOptions, Finding, Remedy, Severity, Stage, SurveyScope, Surveyed};
use crate::env::Env;
use crate::error::Result;
use crate::format::{DirEntryRecord, FileKind, Key, Kind};
use crate::keys::VolumeKey;
use crate::types::InodeNo;

/// What became of it.
pub(crate) enum Fitted {
    /// Done, and durable.
    Done,
    /// Nothing was changed, for this would not hold.
    Refused(Vec<Finding>),
}

/// Entries of a directory that are looked at with one scan.
const SCAN: usize = 256;

/// Fits a volume to the images of `options`, `amend` laid over it.
pub(crate) fn fit(
    backend: Arc<dyn Backend>,
    key: &VolumeKey,
    options: &CheckOptions,
    amend: Amend,
    env: &Env,
    on: &mut dyn FnMut(Stage, u64, u64),
) -> Result<Fitted> {
    let mut plan = Plan::new(false, env.clock.now());
    plan.amend = amend;
    let scope = SurveyScope { scrub: false, lowers: &options.lowers };
    let mut last = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let (surveyed, found) = survey(backend.clone(), key, env, scope, &plan, on)?;
        let Some(surveyed) = surveyed else { return Ok(Fitted::Refused(found)) };
        let (hidden, rest) = plan.hide_nameless(&surveyed, found)?;
        if plan.put_right(&surveyed, &rest)? || hidden {
            last = rest;
            continue;
        }
        let wrong = |finding: &Finding| {
            finding.severity() == Severity::Error && !matches!(finding.remedy(), Remedy::Sums | Remedy::Mount)
        };
        if rest.iter().any(wrong) {
            return Ok(Fitted::Refused(rest.into_iter().filter(wrong).collect()));
        }
        lay_down(backend, key, options, env, plan, surveyed, &rest)?;
        return Ok(Fitted::Done);
    }
    Ok(Fitted::Refused(last))
}

impl Plan {
    /// Hides inodes of images that no name leads to, with everything below them that is an image's too; true if there were some.
    /// Returns the findings that are left.
    fn hide_nameless(&mut self, surveyed: &Surveyed, found: Vec<Finding>) -> Result<(bool, Vec<Finding>)> {
        let (mut hidden, mut rest) = (false, Vec::new());
        for finding in found {
            match finding {
                Finding::LinkCount { ino, found: 0, .. } | Finding::DirectoryNames { ino, found: 0 }
                    if !surveyed.has_own_inode(ino)? =>
                {
                    self.hide(surveyed, ino)?;
                    hidden = true;
                }
                Finding::DanglingEntry { dir, ino } => match self.hide_names(surveyed, dir, ino)? {
                    true => hidden = true,
                    false => rest.push(finding),
                },
                finding => rest.push(finding),
            }
        }
        Ok((hidden, rest))
    }

    /// Hides an inode and, of a directory, the directories below it, which nothing else leads to. Files below may have other
    /// names: the next survey tells.
    fn hide(&mut self, surveyed: &Surveyed, ino: InodeNo) -> Result<()> {
        let mut pending = alloc::vec![ino];
        while let Some(ino) = pending.pop() {
            let Some(inode) = self.inode(surveyed, ino)? else { continue };
            self.put(inode_key(ino), None);
            if inode.kind() == FileKind::Directory {
                for (_, record) in self.names_of(surveyed, ino)? {
                    if record.kind == FileKind::Directory && !surveyed.has_own_inode(record.ino)? {
                        pending.push(record.ino);
                    }
                }
            }
        }
        Ok(())
    }

    /// Hides the names that images have in a directory for an inode that is hidden itself; false if there are none. Names of the
    /// volume's own stay, and then nothing is done at all.
    fn hide_names(&mut self, surveyed: &Surveyed, dir: InodeNo, ino: InodeNo) -> Result<bool> {
        let mut hidden = false;
        for (key, record) in self.names_of(surveyed, dir)? {
            if record.ino == ino && self.record(surveyed, key)?.is_some() && !surveyed.has_own(key)? {
                self.put(key, None);
                hidden = true;
            }
        }
        Ok(hidden)
    }

    fn names_of(&self, surveyed: &Surveyed, dir: InodeNo) -> Result<Vec<(Key, DirEntryRecord)>> {
        let end = Key::new(dir.0, Kind::Xattr, 0);
        let (mut from, mut names) = (Some(Key::new(dir.0, Kind::DirEntry, 0)), Vec::new());
        while let Some(key) = from {
            let (records, next) = surveyed.records(key, end, SCAN)?;
            names.extend(
                records.into_iter().filter_map(|(key, bytes)| Some((key, DirEntryRecord::decode(&bytes).ok()?))),
            );
            from = next;
        }
        Ok(names)
    }
}
