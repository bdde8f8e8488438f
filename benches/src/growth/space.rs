//! Space in use for each byte of content, by the size of the files that hold it: names, inodes, nodes and allocation included.

use sefs::types::InodeNo;
use sefs::vfs::FileKind;

use super::results::{About, Shown};
use super::site::{BLOCK, Site, Start, make};
use super::{MIB, Run};
use crate::Outcome;

const ABOUT: About = About {
    slug: "growth-space",
    title: "Space in use for content in files of a size",
    grows: "size of each file",
    shown: Shown::Bytes,
    measured: "bytes in use for each byte of content",
};
/// Sizes of files: in the inode's record up to 2 KiB, in blocks above.
pub(super) const POINTS: [u64; 7] = [512, 2048, 3072, 4096, 64 << 10, 1 << 20, 16 << 20];

pub(super) fn measure(run: &mut Run<'_>) -> Outcome<()> {
    let plan = run.plan;
    for bytes in POINTS {
        run.progress.set_label(format!("space: files of {bytes} bytes"));
        let count = (plan.volume_bytes / 8 / bytes).clamp(1, 8 * plan.operations);
        let content = count * bytes;
        let site = Site::new(plan, 4 * content + count * 8192 + 128 * MIB, Start::Sparse)?;
        let volume = site.format()?;
        let free = volume.stat_fs().blocks_free;
        for index in 0..count {
            let file = make(&volume, InodeNo::ROOT, &format!("file {index}"), FileKind::Regular)?;
            site.fill(&volume, file, bytes)?;
        }
        volume.close()?;
        // A volume that was closed holds nothing back for a checkpoint to come, but what the one before still needs.
        let volume = site.open(plan.setting.memory)?;
        let used = (free - volume.stat_fs().blocks_free.min(free)) * BLOCK;
        run.results.figure(ABOUT).value("space", bytes, used as f64 / content as f64);
        volume.close()?;
        run.progress.add(1);
    }
    Ok(())
}
