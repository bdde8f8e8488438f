//! How many entries a directory has.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind};

use super::results::{About, COST, Shown};
use super::site::{Site, Start, make};
use super::{MIB, Run};
use crate::Outcome;
use crate::place::Dice;

const ABOUT: About = About {
    slug: "growth-directory",
    title: "Cost against the size of a directory",
    grows: "entries of the directory",
    shown: Shown::Count,
    measured: COST,
};

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    let most = plan.entries.last().copied().unwrap_or(0) + plan.operations;
    let site = Site::new(plan, most * 2048 + 256 * MIB, Start::Sparse)?;
    let volume = site.format()?;
    let dir = make(&volume, InodeNo::ROOT, "directory", FileKind::Directory)?;
    let mut made = 0;
    let name = |index: u64| format!("entry {index}");
    for count in &plan.entries {
        run.progress.set_label(format!("directory: {count} entries"));
        for index in made..*count {
            if index % 1024 == 0 {
                plan.go_on()?;
            }
            make(&volume, dir, &name(index), FileKind::Regular)?;
        }
        made = *count;
        volume.sync()?;
        // New names come and go by tenths, so that the directory stays as large as it is said to be.
        let [create, _, unlink] = site.names(&volume, dir, count / 10)?;
        let (mut dice, mut stat) = (Dice::new(*count), site.meter());
        stat.batch(plan.operations, |_| {
            Ok(volume.lookup(&Caller::root(), dir, name(dice.below(*count)).as_bytes()).map(drop)?)
        })?;
        let list = site.list(&volume, &[dir])?;
        let figure = run.results.figure(ABOUT);
        figure.cost("create", *count, create);
        figure.cost("stat", *count, stat.sample());
        figure.cost("readdir, an entry", *count, list);
        figure.cost("unlink", *count, unlink);
        run.progress.add(1);
    }
    Ok(volume.close()?)
}
