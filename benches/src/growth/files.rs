//! How many files there are: empty ones, a thousand to a directory.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, Volume};

use super::results::{About, COST, Shown};
use super::site::{BLOCK, Site, Start, make};
use super::{MIB, Run, mount};
use crate::Outcome;
use crate::place::Dice;

const ABOUT: About = About {
    slug: "growth-files",
    title: "Cost against how many files there are",
    grows: "files",
    shown: Shown::Count,
    measured: COST,
};
const MOUNT: About = About {
    slug: "growth-mount-files",
    title: "Mounting, against how many files there are",
    grows: "files",
    shown: Shown::Count,
    measured: "µs for a mount (mean)",
};
const SPACE: About = About {
    slug: "growth-space-files",
    title: "Space of an empty file with its name",
    grows: "files",
    shown: Shown::Count,
    measured: "bytes in use for each file",
};
const IN_A_DIRECTORY: u64 = 1000;
/// Room for an inode, a name, and nodes that are not full; twice, for the checkpoint before is kept.
const BYTES_OF_A_FILE: u64 = 2048;

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    let most = plan.files.last().copied().unwrap_or(0) + plan.operations;
    let site = Site::new(plan, most * BYTES_OF_A_FILE + 256 * MIB, Start::Sparse)?;
    let mut volume = site.format()?;
    let free = volume.stat_fs().blocks_free;
    let mut dirs = Vec::new();
    let mut made = 0;
    for count in &plan.files {
        run.progress.set_label(format!("files: {count}"));
        grow(&site, &volume, &mut dirs, made, *count)?;
        made = *count;
        volume.close()?;
        // The last point's volume was just closed whole: what is free is exact.
        let opened = mount::opened(&site, plan.setting.memory)?;
        run.results.figure(MOUNT).cost("mount", *count, opened);
        volume = site.open(plan.setting.memory)?;
        let used = (free - volume.stat_fs().blocks_free.min(free)) * BLOCK;
        run.results.figure(SPACE).value("inode and name", *count, used as f64 / *count as f64);

        let new = make(&volume, InodeNo::ROOT, &format!("new at {count}"), FileKind::Directory)?;
        let [create, _, unlink] = site.names(&volume, new, plan.operations)?;
        let mut dice = Dice::new(*count);
        let mut meter = site.meter();
        meter.batch(plan.operations, |_| {
            let file = dice.below(*count);
            let (dir, name) = (dirs[usize::try_from(file / IN_A_DIRECTORY)?], name(file));
            Ok(volume.lookup(&Caller::root(), dir, name.as_bytes()).map(drop)?)
        })?;
        let listed: Vec<InodeNo> = (0..64).map(|_| dirs[dice.below(dirs.len() as u64) as usize]).collect();
        let list = site.list(&volume, &listed)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("create", *count, create);
        figure.cost("stat, any file", *count, meter.sample());
        figure.cost("readdir, an entry", *count, list);
        figure.cost("unlink", *count, unlink);
        run.progress.add(1);
    }
    Ok(volume.close()?)
}

fn name(file: u64) -> String {
    format!("file {file}")
}

fn grow(site: &Site<'_>, volume: &Volume, dirs: &mut Vec<InodeNo>, from: u64, to: u64) -> Outcome<()> {
    for file in from..to {
        if file / IN_A_DIRECTORY == dirs.len() as u64 {
            site.plan.go_on()?;
            dirs.push(make(volume, InodeNo::ROOT, &format!("directory {}", dirs.len()), FileKind::Directory)?);
        }
        make(volume, dirs[usize::try_from(file / IN_A_DIRECTORY)?], &name(file), FileKind::Regular)?;
    }
    Ok(volume.sync()?)
}
