//! Which of its three homes each allocation page has: of the newest checkpoint, and of the one in the other slot. Pages
//! that are made anew go to the third.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::image::Image;
use crate::format::{ALLOC_ENTRY_LEN, AllocEntry, Checkpoint};
use crate::types::BLOCK_SIZE;

const FANOUT: u64 = 64;

/// Bit h is set if home h of the page, given by level and index, is named. What cannot be read names nothing.
pub(super) fn named(image: &Image) -> BTreeMap<(u8, u64), u8> {
    let mut homes = of(image, &image.checkpoint);
    if let Some(older) = &image.older {
        for (page, bits) in of(image, older) {
            *homes.entry(page).or_default() |= bits;
        }
    }
    homes
}

/// The homes of one checkpoint's pages.
pub(super) fn of(image: &Image, checkpoint: &Checkpoint) -> BTreeMap<(u8, u64), u8> {
    let mut homes = BTreeMap::new();
    learn_epochs(image, checkpoint);
    page(image, image.geometry.levels(), 0, &checkpoint.alloc_root, &mut homes);
    homes
}

/// The older checkpoint may know epochs that the newest does not know any more.
fn learn_epochs(image: &Image, checkpoint: &Checkpoint) {
    for (index, entry) in (0u32..).zip(&checkpoint.epoch_pages) {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        if let Ok(read) = image.read_bytes(entry.addr, BLOCK_SIZE) {
            bytes.copy_from_slice(&read);
            // One that does not open teaches nothing.
            let _ = image.sealer.open_epoch_page(index, &bytes, &entry.tag, checkpoint.generation, false);
        }
    }
}

/// No deeper than the levels of the volume's size, 4 at most.
fn page(image: &Image, level: u8, index: u64, entry: &AllocEntry, homes: &mut BTreeMap<(u8, u64), u8>) {
    let group = index.saturating_mul(FANOUT.saturating_pow(u32::from(level)));
    if !entry.present || group >= image.geometry.groups() {
        return;
    }
    *homes.entry((level, index)).or_default() |= 1 << entry.home;
    let Some(below) = level.checked_sub(1) else { return };
    let Ok(mut bytes) = image.read_bytes(image.geometry.home(level, group, entry.home), BLOCK_SIZE) else { return };
    if image.sealer.open_alloc_page(level, entry, &mut bytes).is_err() {
        return;
    }
    let (entries, _) = bytes.as_chunks::<ALLOC_ENTRY_LEN>();
    for (child, bytes) in (index * FANOUT..).zip(entries) {
        if let Ok(entry) = AllocEntry::decode(bytes) {
            page(image, below, child, &entry, homes);
        }
    }
}
