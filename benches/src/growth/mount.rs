//! How large the volume is: making it, mounting it after it was closed, and after it was not.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, WriteMode};

use super::results::{About, Shown};
use super::site::{BLOCK, Sample, Site, Start, make};
use super::{MIB, Run};
use crate::Outcome;
use crate::place::content;

const ABOUT: About = About {
    slug: "growth-mount",
    title: "Mounting, against the size of the (sparse) volume",
    grows: "size of the volume",
    shown: Shown::Bytes,
    measured: "µs (mean)",
};
const MOUNTS: u64 = 5;
/// Synced writes that stand in the log when it is cut off.
const LOGGED: u64 = 64;

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    for bytes in &plan.volumes {
        run.progress.set_label(format!("mount: {} MiB", bytes / MIB));
        let site = Site::new(plan, *bytes, Start::Sparse)?;
        let mut made = site.meter();
        made.batch(1, |_| Ok(site.format()?.close()?))?;
        let clean = opened(&site, plan.setting.memory)?;

        let volume = site.open(plan.setting.memory)?;
        let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
        let data = content(BLOCK as usize);
        for block in 0..LOGGED {
            volume.write(&Caller::root(), file, block * BLOCK, &data, WriteMode::Direct)?;
            volume.sync()?;
        }
        // As when the process is killed: nothing is written any more.
        drop(volume);
        let replayed = opened(&site, plan.setting.memory)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("make a volume", *bytes, made.sample());
        figure.cost("mount", *bytes, clean);
        figure.cost("mount after a crash, 64 commits", *bytes, replayed);
        run.progress.add(1);
    }
    Ok(())
}

/// Mounts that write nothing, until the root directory was seen.
pub(super) fn opened(site: &Site<'_>, memory_bytes: u64) -> Outcome<Sample> {
    let mut meter = site.meter();
    meter.batch(MOUNTS, |_| Ok(site.open(memory_bytes)?.attr(InodeNo::ROOT).map(drop)?))?;
    Ok(meter.sample())
}
