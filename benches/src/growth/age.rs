//! How old the content is: a volume that one file nearly fills, and that is overwritten block by block, all over the file,
//! again and again.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, Volume, WriteMode};

use super::Run;
use super::results::{About, COST, Shown};
use super::site::{BLOCK, Sample, Site, Start, make};
use crate::Outcome;
use crate::place::{Scattered, content};

const ABOUT: About = About {
    slug: "growth-age",
    title: "Cost against how often everything was written",
    grows: "times that everything was written",
    shown: Shown::Count,
    measured: COST,
};
const SEQUENTIAL: u64 = 128 << 10;

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    let site = Site::new(plan, plan.volume_bytes, Start::Written)?;
    let volume = site.format()?;
    let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
    let blocks = volume.stat_fs().blocks_available * plan.aged_percent / 100;
    site.fill(&volume, file, blocks * BLOCK)?;
    let mut done = 0;
    for overwrites in &plan.overwrites {
        // The first writing counts too, so that a logarithmic axis has a place for it.
        let written = overwrites + 1;
        let mut overwrite = None;
        while done < *overwrites {
            done += 1;
            run.progress.set_label(format!("age: overwrite {done}"));
            overwrite = Some(overwrite_all(&site, &volume, file, blocks)?);
        }
        let (write, read) = site.blocks(&volume, file, blocks * BLOCK)?;
        let sequential = read_all(&site, &volume, file, blocks)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("random 4 KiB write, synced at the end", written, write);
        figure.cost("random 4 KiB read", written, read);
        figure.cost("sequential read of 128 KiB", written, sequential);
        if let Some(overwrite) = overwrite {
            figure.cost("4 KiB of an overwrite of everything", written, overwrite);
        }
        run.progress.add(1);
    }
    Ok(volume.close()?)
}

/// Overwrites each block once, in an order that leaves no neighbours together.
fn overwrite_all(site: &Site<'_>, volume: &Volume, file: InodeNo, blocks: u64) -> Outcome<Sample> {
    let (data, mut meter) = (content(BLOCK as usize), site.meter());
    let mut places = Scattered::new(blocks);
    meter.batch(blocks, |_| {
        let block = places.next().ok_or("there are as many places as blocks")?;
        volume.write(&Caller::root(), file, block * BLOCK, &data, WriteMode::Direct)?;
        Ok(())
    })?;
    meter.also(|| Ok(volume.sync()?))?;
    Ok(meter.sample())
}

fn read_all(site: &Site<'_>, volume: &Volume, file: InodeNo, blocks: u64) -> Outcome<Sample> {
    let (mut out, mut meter) = (vec![0; usize::try_from(SEQUENTIAL)?], site.meter());
    meter.batch((blocks * BLOCK / SEQUENTIAL).min(site.plan.operations), |index| {
        volume.read(file, index * SEQUENTIAL, &mut out)?;
        Ok(())
    })?;
    Ok(meter.sample())
}
