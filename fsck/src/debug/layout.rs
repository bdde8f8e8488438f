//! `debug.sefs fragmentation` and `epochs`: how a volume lies in its image.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use sefs::error::Error;
use sefs::format::FileKind;
use sefs::types::{BLOCK_SIZE_U64, InodeNo};
use sefs::vfs::{Attr, Volume};
use serde_json::{Map, Value, json};

use super::{Debug, at};
use crate::listing::{entries, resolve};
use crate::names::escaped;
use crate::report::Failure;
use crate::showing::{line, put_name};
use crate::size;

/// Runs that are asked for at once.
const RUNS_AT_ONCE: usize = 1024;

/// How one file lies, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lies {
    files: u64,
    /// Those whose content is in blocks: not empty, and not in the inode's own record.
    in_blocks: u64,
    /// Those that lie in more than one run.
    in_several_runs: u64,
    runs: u64,
    blocks: u64,
}

impl Lies {
    fn add(&mut self, one: Lies) {
        self.files += one.files;
        self.in_blocks += one.in_blocks;
        self.in_several_runs += one.in_several_runs;
        self.runs += one.runs;
        self.blocks += one.blocks;
    }

    fn average_run_bytes(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK_SIZE_U64).checked_div(self.runs).unwrap_or(0)
    }
}

impl Debug {
    pub(super) fn fragmentation(&mut self, volume: &Volume, path: &OsStr, list: bool) -> Result<(), Failure> {
        let failed = |path: &[u8], error: Error| at(path, &error);
        let top = resolve(volume, path.as_bytes(), true).map_err(|error| failed(path.as_bytes(), error))?;
        // A file with several names counts once, and a directory that stands in two places, as a hostile key holder may store it,
        // is looked at once.
        let (mut all, mut seen): (Lies, BTreeSet<InodeNo>) = (Lies::default(), BTreeSet::new());
        let mut pending: Vec<(Vec<u8>, Attr)> = vec![(path.as_bytes().to_vec(), top)];
        while let Some((path, attr)) = pending.pop() {
            let once = attr.kind != FileKind::Directory && attr.links <= 1 || seen.insert(attr.ino);
            match attr.kind {
                FileKind::Directory if once => {
                    for entry in entries(volume, attr.ino).map_err(|error| failed(&path, error))?.into_iter().rev() {
                        let mut below = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
                        below.push(b'/');
                        below.extend_from_slice(&entry.name);
                        let attr = volume.attr(entry.ino).map_err(|error| failed(&below, error))?;
                        pending.push((below, attr));
                    }
                }
                FileKind::Regular if once => {
                    let one = lies(volume, attr.ino).map_err(|error| failed(&path, error))?;
                    all.add(one);
                    if list && one.runs > 1 {
                        self.fragmented(&path, one)?;
                    }
                }
                _ => {}
            }
            if self.out.is_closed() {
                return Ok(());
            }
        }
        self.fragmentation_of_all(all)
    }

    fn fragmented(&mut self, path: &[u8], one: Lies) -> Result<(), Failure> {
        if !self.args.json {
            return self.out.line(format!("{:>8} runs  {:>10} blocks  {}", one.runs, one.blocks, escaped(path)));
        }
        let mut fields = Map::new();
        put_name(&mut fields, "path", path);
        fields.insert("data_runs".into(), one.runs.into());
        fields.insert("data_blocks".into(), one.blocks.into());
        self.out.json(&fields)
    }

    fn fragmentation_of_all(&mut self, all: Lies) -> Result<(), Failure> {
        if self.args.json {
            return self.out.json(&json!({
                "files": all.files,
                "files_in_blocks": all.in_blocks,
                "files_in_several_runs": all.in_several_runs,
                "data_runs": all.runs,
                "data_blocks": all.blocks,
                "average_run_bytes": all.average_run_bytes(),
            }));
        }
        let mut text = String::new();
        line(&mut text, "files", all.files);
        line(&mut text, "with data blocks", all.in_blocks);
        line(&mut text, "in several runs", all.in_several_runs);
        let bytes = all.blocks.saturating_mul(BLOCK_SIZE_U64);
        line(&mut text, "data", format!("{} ({} blocks)", size::render(bytes), all.blocks));
        line(&mut text, "data runs", all.runs);
        line(&mut text, "average run", size::render(all.average_run_bytes()));
        self.out.bytes(text.as_bytes())
    }

    pub(super) fn epochs(&mut self, volume: &Volume) -> Result<(), Failure> {
        let (info, epochs) = (volume.info(), volume.epochs());
        if info.root_digest.is_some() {
            return Err(
                Failure::usage("epochs", "a packed image is sealed once, in one epoch").way_out("use super or space")
            );
        }
        if self.args.json {
            let listed: Vec<Value> = epochs
                .iter()
                .map(|it| json!({"epoch": it.id.0, "live_blocks": it.live_blocks, "old_key": it.old_key}))
                .collect();
            return self.out.json(&json!({"epochs": listed, "in_use": info.epochs, "max_epochs": info.max_epochs}));
        }
        let mut text = String::new();
        for epoch in &epochs {
            let live = epoch.live_blocks.map_or("an unknown number of".into(), |live| live.to_string());
            let key = if epoch.old_key { ", of the volume key of before" } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "epoch {:>10}  {live:>10} live blocks{key}", epoch.id.0);
        }
        let _ = writeln!(text, "{} of {} epochs in use", info.epochs, info.max_epochs);
        self.out.bytes(text.as_bytes())
    }
}

/// A run goes on behind a hole if what follows the hole lies where the run ended: whoever reads on reads on there.
fn lies(volume: &Volume, ino: InodeNo) -> Result<Lies, Error> {
    let (mut one, mut from, mut end) = (Lies { files: 1, ..Lies::default() }, 0, None);
    loop {
        let runs = volume.data_runs(ino, from, RUNS_AT_ONCE)?;
        let Some(last) = runs.last() else { break };
        from = last.first_block.saturating_add(last.blocks);
        for run in &runs {
            let first = run.addr.map(|addr| addr.0);
            if first.is_none() || first != end {
                one.runs += 1;
            }
            one.blocks += run.blocks;
            end = first.map(|first| first.saturating_add(run.blocks));
        }
    }
    one.in_blocks = u64::from(one.blocks > 0);
    one.in_several_runs = u64::from(one.runs > 1);
    Ok(one)
}
