//! How much memory the caches may take, on a file and on names that are larger than most budgets.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind};

use super::results::{About, COST, Shown};
use super::site::{BLOCK, Site, Start, make};
use super::{MIB, Run};
use crate::Outcome;
use crate::place::Dice;

const ABOUT: About = About {
    slug: "growth-memory",
    title: "Cost against the memory budget",
    grows: "memory budget",
    shown: Shown::Bytes,
    measured: COST,
};

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    // Names as many as blocks of half the file: their records take more than any usual budget.
    let (file_bytes, names) = (plan.volume_bytes / 2, plan.volume_bytes / 2 / BLOCK);
    let site = Site::new(plan, plan.volume_bytes + names * 1024 + 128 * MIB, Start::Written)?;
    let volume = site.format()?;
    let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
    site.fill(&volume, file, file_bytes)?;
    let dir = make(&volume, InodeNo::ROOT, "directory", FileKind::Directory)?;
    let name = |index: u64| format!("entry {index}");
    for index in 0..names {
        if index % 1024 == 0 {
            plan.go_on()?;
        }
        make(&volume, dir, &name(index), FileKind::Regular)?;
    }
    volume.close()?;
    for budget in &plan.budgets {
        run.progress.set_label(format!("memory: {} MiB", budget / MIB));
        let volume = site.open(*budget)?;
        let (write, read) = site.blocks(&volume, file, file_bytes)?;
        let (mut dice, mut stat) = (Dice::new(*budget), site.meter());
        stat.batch(plan.operations, |_| {
            Ok(volume.lookup(&Caller::root(), dir, name(dice.below(names)).as_bytes()).map(drop)?)
        })?;
        let [create, _, unlink] = site.names(&volume, dir, plan.operations)?;
        let figure = run.results.figure(ABOUT);
        figure.cost("random 4 KiB write, synced at the end", *budget, write);
        figure.cost("random 4 KiB read", *budget, read);
        figure.cost("stat, any file", *budget, stat.sample());
        figure.cost("create", *budget, create);
        figure.cost("unlink", *budget, unlink);
        volume.close()?;
        run.progress.add(1);
    }
    Ok(())
}
