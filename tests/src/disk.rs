//! A sparse disk image that is cheap to copy: the state of a host's disk at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page of an image.
pub const PAGE: usize = 4096;
/// Bytes that a disk writes whole: the grain at which a write may be torn.
pub const SECTOR: usize = 512;

/// An image; absent pages are zeros. Copies share what neither has changed.
///
/// *Invariant*: no piece is without a page, so that equal images have equal pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pieces: BTreeMap<u64, Arc<Piece>>,
    len_bytes: u64,
}

thread_local! {
    /// What a page holds before it is written.
    static ZEROS: Arc<[u8; PAGE]> = Arc::new([0; PAGE]);
}

/// Neighbouring pages.
type Piece = [Option<Arc<[u8; PAGE]>>; PIECE_PAGES as usize];
const PIECE_PAGES: u64 = 64;

impl Disk {
    /// An image of zeros.
    pub fn new(len_bytes: u64) -> Disk {
        Disk { pieces: BTreeMap::new(), len_bytes }
    }

    /// Its length.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Cuts or extends it.
    pub fn set_len(&mut self, len_bytes: u64) {
        self.len_bytes = len_bytes;
        let end = len_bytes.div_ceil(PAGE as u64);
        drop(self.pieces.split_off(&end.div_ceil(PIECE_PAGES)));
        if let Some(last) = self.pieces.get_mut(&(end / PIECE_PAGES)) {
            Arc::make_mut(last)[(end % PIECE_PAGES) as usize..].fill(None);
            if last.iter().all(Option::is_none) {
                self.pieces.remove(&(end / PIECE_PAGES));
            }
        }
        let rest = (len_bytes % PAGE as u64) as usize;
        if rest > 0 && self.at(len_bytes / PAGE as u64).is_some() {
            Arc::make_mut(self.at_mut(len_bytes / PAGE as u64))[rest..].fill(0);
        }
    }

    /// Reads; the range lies within the image.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) {
        self.split(offset_bytes, out.len(), |page, within, range| match self.at(page) {
            Some(bytes) => out[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
            None => out[range].fill(0),
        });
    }

    /// Writes; the range lies within the image.
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) {
        self.assert_within(offset_bytes, data.len());
        let mut rest = data;
        let mut at = offset_bytes;
        while !rest.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE - within));
            let page = self.at_mut(at / PAGE as u64);
            match now.try_into() {
                Ok(whole) => *page = Arc::new(whole),
                Err(_) => Arc::make_mut(page)[within..within + now.len()].copy_from_slice(now),
            }
            at += now.len() as u64;
            rest = later;
        }
    }

    /// The bytes of one page.
    pub fn page(&self, page: u64) -> [u8; PAGE] {
        self.at(page).map_or([0; PAGE], |bytes| **bytes)
    }

    /// Replaces one page.
    pub fn put_page(&mut self, page: u64, bytes: [u8; PAGE]) {
        *self.at_mut(page) = Arc::new(bytes);
    }

    /// The pages that are not all zeros, rising.
    pub fn used_pages(&self) -> Vec<u64> {
        self.pages().filter(|(_, bytes)| ***bytes != [0; PAGE]).map(|(page, _)| page).collect()
    }

    /// A number that follows from how this image differs from `base`: equal images have equal ones, different ones
    /// hardly ever.
    pub fn print(&self, base: &Disk) -> u64 {
        let mut sum = self.len_bytes;
        for (number, piece) in &self.pieces {
            let other = base.pieces.get(number);
            if other.is_some_and(|other| Arc::ptr_eq(piece, other)) {
                continue;
            }
            for (page, bytes) in pages_of(*number, piece) {
                let same = base.at(page).is_some_and(|other| Arc::ptr_eq(bytes, other) || bytes == other);
                if !same {
                    sum = sum.wrapping_add(page_print(page, bytes));
                }
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

    /// A page that was written.
    fn at(&self, page: u64) -> Option<&Arc<[u8; PAGE]>> {
        self.pieces.get(&(page / PIECE_PAGES))?[(page % PIECE_PAGES) as usize].as_ref()
    }

    /// A page to be changed; it is there from now on.
    fn at_mut(&mut self, page: u64) -> &mut Arc<[u8; PAGE]> {
        let piece =
            self.pieces.entry(page / PIECE_PAGES).or_insert_with(|| Arc::new([const { None }; PIECE_PAGES as usize]));
        let page = &mut Arc::make_mut(piece)[(page % PIECE_PAGES) as usize];
        page.get_or_insert_with(|| ZEROS.with(Arc::clone))
    }

    fn pages(&self) -> impl Iterator<Item = (u64, &Arc<[u8; PAGE]>)> {
        self.pieces.iter().flat_map(|(number, piece)| pages_of(*number, piece))
    }

    fn assert_within(&self, offset: u64, len: usize) {
        assert!(offset + len as u64 <= self.len_bytes, "the test itself reaches past the image");
    }

    fn split(&self, offset: u64, len: usize, mut each: impl FnMut(u64, usize, core::ops::Range<usize>)) {
        self.assert_within(offset, len);
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

fn pages_of(number: u64, piece: &Piece) -> impl Iterator<Item = (u64, &Arc<[u8; PAGE]>)> {
    (number * PIECE_PAGES..).zip(piece).filter_map(|(page, bytes)| Some((page, bytes.as_ref()?)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Dice;

    const PAGES: u64 = 3 * PIECE_PAGES;

    fn bytes(disk: &Disk) -> Vec<u8> {
        let mut out = vec![0xee; usize::try_from(disk.len_bytes()).expect("a small disk")];
        disk.read(0, &mut out);
        out
    }

    /// Writes, copies and cuts against a plain vector.
    #[test]
    fn copies_go_their_own_ways() {
        let mut dice = Dice::new(3);
        let mut disks = vec![(Disk::new(PAGES * PAGE as u64), vec![0; PAGES as usize * PAGE])];
        for step in 0..60 {
            let (mut disk, mut plain) = disks[dice.index(disks.len())].clone();
            if step % 10 == 9 {
                let len = dice.index(plain.len());
                disk.set_len(len as u64);
                plain.truncate(len);
                let longer = PAGES as usize * PAGE;
                disk.set_len(longer as u64);
                plain.resize(longer, 0);
            }
            let offset = dice.index(plain.len() - 3 * PAGE) / 512 * 512;
            let data = vec![step + 1; 1 + dice.index(3 * PAGE)];
            disk.write(offset as u64, &data);
            plain[offset..offset + data.len()].copy_from_slice(&data);
            disks.push((disk, plain));
        }
        for (disk, plain) in &disks {
            assert!(bytes(disk) == *plain);
            let used = (0..).zip(plain.chunks(PAGE)).filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            assert_eq!(disk.used_pages(), used.map(|(page, _)| page).collect::<Vec<u64>>());
            for (other, _) in &disks {
                let same = disk.print(&disks[0].0) == other.print(&disks[0].0);
                assert!(if same { bytes(disk) == bytes(other) } else { disk != other });
            }
        }
    }

    #[test]
    fn what_was_cut_off_is_not_there_any_more() {
        let mut disk = Disk::new(PAGES * PAGE as u64);
        disk.write(PIECE_PAGES * PAGE as u64, &[1; PAGE]);
        disk.set_len(PIECE_PAGES * PAGE as u64);
        assert_eq!(disk, Disk::new(PIECE_PAGES * PAGE as u64));
    }
}
