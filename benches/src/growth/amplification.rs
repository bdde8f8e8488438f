//! Bytes that reach the backend for each byte of data, everything counted until the volume is closed.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, WriteMode};

use super::results::{About, Shown};
use super::site::{BLOCK, Site, Start, make};
use super::{MIB, Plan, Run};
use crate::Outcome;
use crate::place::{Dice, content};

const ABOUT: About = About {
    slug: "growth-amplification",
    title: "Bytes written at the backend",
    grows: "content that is there",
    shown: Shown::Bytes,
    measured: "bytes written for each byte of data",
};
/// A file of this length has its content in blocks, not in its inode.
const SMALL_FILE: u64 = 4096;

/// Content larger than this tells nothing that smaller content does not.
fn contents(plan: &Plan) -> impl Iterator<Item = u64> {
    plan.sizes.iter().copied().filter(|bytes| *bytes <= 1024 * MIB)
}

pub(super) fn points(plan: &Plan) -> usize {
    contents(plan).count()
}

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    for bytes in contents(plan) {
        run.progress.set_label(format!("amplification: {} MiB", bytes / MIB));
        let ratios = one_file(plan, bytes)?;
        let small = small_files(plan, bytes)?;
        let figure = run.results.figure(ABOUT);
        for (operation, ratio) in ratios {
            figure.value(operation, bytes, ratio);
        }
        figure.value("small files of 4 KiB", bytes, small);
        run.progress.add(1);
    }
    Ok(())
}

/// Fills a file from start to end, and then writes into it at random.
fn one_file(plan: &Plan, bytes: u64) -> Outcome<[(&'static str, f64); 3]> {
    let site = Site::new(plan, 2 * bytes + 16 * plan.operations * BLOCK + 128 * MIB, Start::Sparse)?;
    let volume = site.format()?;
    let before = site.counts();
    let file = make(&volume, InodeNo::ROOT, "file", FileKind::Regular)?;
    site.fill(&volume, file, bytes)?;
    volume.close()?;
    let sequential = (site.counts() - before).written_bytes as f64 / bytes as f64;

    let (data, blocks) = (content(BLOCK as usize), (bytes / BLOCK).max(1));
    let at_random = |count: u64, synced: bool| -> Outcome<f64> {
        let volume = site.open(plan.setting.memory)?;
        let (before, mut dice) = (site.counts(), Dice::new(count));
        for index in 0..count {
            if index % 256 == 0 {
                plan.go_on()?;
            }
            volume.write(&Caller::root(), file, dice.below(blocks) * BLOCK, &data, WriteMode::Direct)?;
            if synced {
                volume.sync()?;
            }
        }
        volume.close()?;
        Ok((site.counts() - before).written_bytes as f64 / (count * BLOCK) as f64)
    };
    Ok([
        ("sequential, 1 MiB", sequential),
        ("random 4 KiB", at_random(4 * plan.operations, false)?),
        ("random 4 KiB, each synced", at_random(plan.operations, true)?),
    ])
}

fn small_files(plan: &Plan, bytes: u64) -> Outcome<f64> {
    let count = (bytes / SMALL_FILE).max(1);
    let site = Site::new(plan, 4 * bytes + 128 * MIB, Start::Sparse)?;
    let volume = site.format()?;
    let (before, data) = (site.counts(), content(SMALL_FILE as usize));
    for index in 0..count {
        if index % 256 == 0 {
            plan.go_on()?;
        }
        let file = make(&volume, InodeNo::ROOT, &format!("file {index}"), FileKind::Regular)?;
        volume.write(&Caller::root(), file, 0, &data, WriteMode::Direct)?;
    }
    volume.close()?;
    Ok((site.counts() - before).written_bytes as f64 / (count * SMALL_FILE) as f64)
}
