//! A sparse disk image that is cheap to copy: the state of a host's disk at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page of an image.
pub const PAGE: usize = 4096;
/// Bytes that a disk writes whole: the grain at which a write may be torn.
pub const SECTOR: usize = 512;

/// An image; absent pages are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
    len_bytes: u64,
}

impl Disk {
    /// An image of zeros.
    pub fn new(len_bytes: u64) -> Disk {
        Disk { pages: BTreeMap::new(), len_bytes }
    }

    /// Its length.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Cuts or extends it.
    pub fn set_len(&mut self, len_bytes: u64) {
        self.len_bytes = len_bytes;
        let end = len_bytes.div_ceil(PAGE as u64);
        self.pages.retain(|page, _| *page < end);
        let rest = (len_bytes % PAGE as u64) as usize;
        if let Some(page) = self.pages.get_mut(&(len_bytes / PAGE as u64))
            && rest > 0
        {
            Arc::make_mut(page)[rest..].fill(0);
        }
    }

    /// Reads; the range lies within the image.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) {
        self.pieces(offset_bytes, out.len(), |page, within, range| match self.pages.get(&page) {
            Some(bytes) => out[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
            None => out[range].fill(0),
        });
    }

    /// Writes; the range lies within the image.
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) {
        let mut pieces = Vec::new();
        self.pieces(offset_bytes, data.len(), |page, within, range| pieces.push((page, within, range)));
        for (page, within, range) in pieces {
            let target = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(target)[within..within + range.len()].copy_from_slice(&data[range]);
        }
    }

    /// The bytes of one page.
    pub fn page(&self, page: u64) -> [u8; PAGE] {
        self.pages.get(&page).map_or([0; PAGE], |bytes| **bytes)
    }

    /// Replaces one page.
    pub fn put_page(&mut self, page: u64, bytes: [u8; PAGE]) {
        self.pages.insert(page, Arc::new(bytes));
    }

    /// The pages that are not all zeros, rising.
    pub fn used_pages(&self) -> Vec<u64> {
        self.pages.iter().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).map(|(page, _)| *page).collect()
    }

    /// A number that follows from how this image differs from `base`: equal images have equal ones, different ones
    /// hardly ever.
    pub fn print(&self, base: &Disk) -> u64 {
        let mut sum = self.len_bytes;
        for (page, bytes) in &self.pages {
            let same = base.pages.get(page).is_some_and(|other| Arc::ptr_eq(bytes, other) || bytes == other);
            if !same {
                sum = sum.wrapping_add(page_print(*page, bytes));
            }
        }
        sum
    }

    /// Changes bits of one byte.
    pub fn flip(&mut self, offset_bytes: u64, mask: u8) {
        let mut byte = [0];
        self.read(offset_bytes, &mut byte);
        self.write(offset_bytes, &[byte[0] ^ mask]);
    }

    fn pieces(&self, offset: u64, len: usize, mut each: impl FnMut(u64, usize, core::ops::Range<usize>)) {
        assert!(offset + len as u64 <= self.len_bytes, "the test itself reaches past the image");
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let count = (PAGE - within).min(len - done);
            each(at / PAGE as u64, within, done..done + count);
            done += count;
        }
    }
}

/// Two lanes of multiply and rotate: no defence against malice, and cheap enough for a hundred thousand images.
fn page_print(page: u64, bytes: &[u8; PAGE]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [page.wrapping_mul(ODD), !page];
    for pair in bytes.chunks_exact(16) {
        for (lane, word) in lanes.iter_mut().zip(pair.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks_exact"));
            *lane = (*lane ^ word).wrapping_mul(ODD).rotate_left(29);
        }
    }
    lanes[0].wrapping_add(lanes[1].wrapping_mul(ODD))
}
