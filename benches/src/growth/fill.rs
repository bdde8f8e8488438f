//! How full the volume is. What fills it are files of 1 MiB, every fourth of which is removed and written again elsewhere.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, Volume};

use super::Run;
use super::results::{About, COST, Shown};
use super::site::{BLOCK, Site, Start, make};
use crate::Outcome;

const ABOUT: About = About {
    slug: "growth-fill",
    title: "Cost against how full the volume is",
    grows: "space in use",
    shown: Shown::Percent,
    measured: COST,
};
const BALLAST: u64 = 1 << 20;

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    let site = Site::new(plan, plan.volume_bytes, Start::Written)?;
    let volume = site.format()?;
    let whole = volume.stat_fs().blocks_available;
    let file_bytes = (plan.volume_bytes / 16).next_multiple_of(BLOCK);
    let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
    site.fill(&volume, file, file_bytes)?;
    let dir = make(&volume, InodeNo::ROOT, "new", FileKind::Directory)?;
    let mut ballast = 0;
    for percent in &plan.fill_percent {
        run.progress.set_label(format!("fill: {percent} %"));
        while used_percent(&volume, whole) < *percent {
            add(&site, &volume, ballast)?;
            if ballast % 4 == 3 {
                volume.unlink(&Caller::root(), InodeNo::ROOT, name(ballast - 2).as_bytes())?;
                add(&site, &volume, ballast - 2)?;
            }
            ballast += 1;
        }
        let (write, read) = site.blocks(&volume, file, file_bytes)?;
        let [create, stat, unlink] = site.names(&volume, dir, plan.operations)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("random 4 KiB write, synced at the end", *percent, write);
        figure.cost("random 4 KiB read", *percent, read);
        figure.cost("create", *percent, create);
        figure.cost("stat", *percent, stat);
        figure.cost("unlink", *percent, unlink);
        run.progress.add(1);
    }
    Ok(volume.close()?)
}

fn name(ballast: u64) -> String {
    format!("ballast {ballast}")
}

fn add(site: &Site<'_>, volume: &Volume, ballast: u64) -> Outcome<()> {
    let file = make(volume, InodeNo::ROOT, &name(ballast), FileKind::Regular)?;
    site.fill(volume, file, BALLAST)
}

/// Of what an empty volume offers.
fn used_percent(volume: &Volume, whole: u64) -> u64 {
    let available = volume.stat_fs().blocks_available.min(whole);
    (whole - available) * 100 / whole.max(1)
}
