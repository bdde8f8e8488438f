//! How large a file is: one that is written in full, and a sparse one of which only some blocks are.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, SetAttr};

use super::results::{About, COST, Shown};
use super::site::{BLOCK, Site, Start, make};
use super::{MIB, Run};
use crate::Outcome;

const ABOUT: About = About {
    slug: "growth-size",
    title: "Cost against the size of a file",
    grows: "size of the file",
    shown: Shown::Bytes,
    measured: COST,
};

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    for bytes in &plan.sizes {
        run.progress.set_label(format!("size: {} MiB", bytes / MIB));
        let site = Site::new(plan, bytes + bytes / 8 + written(plan.operations), Start::Sparse)?;
        let volume = site.format()?;
        let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
        site.fill(&volume, file, *bytes)?;
        let (write, read) = site.blocks(&volume, file, *bytes)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("random 4 KiB write, synced at the end", *bytes, write);
        figure.cost("random 4 KiB read", *bytes, read);
        volume.close()?;
        run.progress.add(1);
    }
    for bytes in &plan.sparse {
        run.progress.set_label(format!("size: {} MiB, sparse", bytes / MIB));
        let site = Site::new(plan, bytes + bytes / 8 + written(plan.operations), Start::Sparse)?;
        let volume = site.format()?;
        let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
        volume.set_attr(&Caller::root(), file, &SetAttr { size: Some(*bytes), ..SetAttr::default() })?;
        let (write, read) = site.blocks(&volume, file, *bytes)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("random 4 KiB write, sparse file", *bytes, write);
        figure.cost("random 4 KiB read, sparse file", *bytes, read);
        volume.close()?;
        run.progress.add(1);
    }
    Ok(())
}

/// Room for what is overwritten and not free before the checkpoint after the next, with nodes.
fn written(operations: u64) -> u64 {
    4 * operations * BLOCK + 128 * MIB
}
