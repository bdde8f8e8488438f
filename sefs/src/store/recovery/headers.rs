//! The header's two copies: finding them, and putting back one that is damaged.
//!
//! The replica's place follows from the volume's size, which the primary tells. If the primary does not say, its damaged
//! bytes may still hold the number, and the backend may be as long as the volume; otherwise the replica is looked for before
//! the backend's end. A copy that says of itself that it belongs elsewhere is not a replica.
//!
//! *Security*: a place is a guess that costs a read. What is found there counts only if it authenticates, and is used only
//! if the newest checkpoint accepts its digest; so an older header, wherever it is put, is `RolledBack`.
//!
//! *Invariants*: a copy is written only over one that no checkpoint accepts, with the very bytes that this mount uses; while
//! it is written, the other copy stands.

use alloc::vec::Vec;

use crate::backend::{Backend, Io};
use crate::env::Env;
use crate::error::{Malformed, Result};
use crate::format::{HEADER_BLOCKS, HEADER_LEN, HEADER_MAGIC, Header, VerifiedHeader, usable_blocks};
use crate::keys::VolumeKey;
use crate::store::Store;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64};

/// How far before the backend's end a replica is looked for.
const SEARCH_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE_U64;
/// Blocks that the search reads at once.
const SEARCH_READ_BLOCKS: u64 = 256;

/// A copy that authenticated.
pub(in crate::store) struct OpenedHeader {
    pub(in crate::store) header: Header,
    pub(in crate::store) verified: VerifiedHeader,
    pub(in crate::store) replica: bool,
    pub(in crate::store) bytes: Vec<u8>,
}

/// Copies that a writing mount puts back: where, and what.
#[derive(Default)]
pub(in crate::store) struct HeaderRepair {
    places: Vec<u64>,
    bytes: Vec<u8>,
}

/// The header as it stands there, not authenticated: only to find the key slots.
pub(crate) fn read_header(backend: &dyn Backend) -> Result<Header> {
    let primary = read_copy(backend, 0);
    let decoded = primary.as_ref().map_err(Clone::clone).and_then(|bytes| Header::decode(bytes));
    let Err(failure) = decoded else { return decoded };
    find_replica(backend, primary.ok().as_deref(), |bytes| Header::decode(bytes).ok())?.ok_or(failure)
}

/// The primary, and the replica if it says something else, as they stand there.
pub(crate) fn read_headers(backend: &dyn Backend) -> Result<Vec<Header>> {
    let primary = read_copy(backend, 0);
    let found = find_replica(backend, primary.as_deref().ok(), |bytes| Header::decode(bytes).ok())?;
    match primary.and_then(|bytes| Header::decode(&bytes)) {
        Ok(header) => {
            let other = found.filter(|replica| *replica != header);
            Ok(core::iter::once(header).chain(other).collect())
        }
        Err(failure) => Ok(alloc::vec![found.ok_or(failure)?]),
    }
}

/// Whether a copy authenticates under this key.
pub(crate) fn is_key_of_header(backend: &dyn Backend, key: &VolumeKey, env: &Env) -> bool {
    open_headers(backend, key, env).is_ok_and(|copies| !copies.is_empty())
}

/// The copies that authenticate, the primary first; if none does, what is wrong with the primary.
pub(super) fn open_headers(backend: &dyn Backend, key: &VolumeKey, env: &Env) -> Result<Vec<OpenedHeader>> {
    let verify = |bytes: &[u8]| key.verify_header(&*env.suite, bytes);
    let opened = |(header, verified), bytes, replica| OpenedHeader { header, verified, replica, bytes };
    let primary = read_copy(backend, 0);
    match primary.as_ref().map_err(Clone::clone).and_then(|bytes| verify(bytes)) {
        Ok(verified) => {
            let primary = opened(verified, primary?, false);
            let bytes = read_copy(backend, replica_block(&primary.header));
            let replica = bytes.and_then(|bytes| Ok(opened(verify(&bytes)?, bytes, true)));
            Ok(core::iter::once(primary).chain(replica.ok()).collect())
        }
        Err(failure) => {
            let accept = |bytes: &[u8]| Some(opened(verify(bytes).ok()?, bytes.to_vec(), true));
            let replica = find_replica(backend, primary.ok().as_deref(), accept)?;
            replica.map(|opened| alloc::vec![opened]).ok_or(failure)
        }
    }
}

/// A header that stands where a header of its size has its replica, and that `accept` takes. `primary` is what stands in
/// the place of the primary, if it can be read. What cannot be read is not there.
pub(crate) fn find_replica<T>(
    backend: &dyn Backend,
    primary: Option<&[u8]>,
    accept: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>> {
    let look = |block: u64| {
        let bytes = read_copy(backend, block).ok()?;
        let belongs = Header::stored_total_blocks(&bytes) == block.checked_add(HEADER_BLOCKS);
        if belongs { accept(&bytes) } else { None }
    };
    let len_blocks = backend.len_bytes()? / BLOCK_SIZE_U64;
    let totals = [primary.and_then(Header::stored_total_blocks), usable_blocks(len_blocks), Some(len_blocks)];
    let likely = totals.into_iter().flatten().filter_map(|total| total.checked_sub(HEADER_BLOCKS));
    if let Some(found) = likely.filter(|block| *block > 0).find_map(look) {
        return Ok(Some(found));
    }
    Ok(magic_blocks(backend, len_blocks).into_iter().find_map(look))
}

/// Where the replica of a volume stands.
fn replica_block(header: &Header) -> u64 {
    header.total_blocks - HEADER_BLOCKS
}

/// Blocks before the backend's end that begin as a header does, the last first.
fn magic_blocks(backend: &dyn Backend, len_blocks: u64) -> Vec<u64> {
    let (mut end, first) = (len_blocks, len_blocks.saturating_sub(SEARCH_BLOCKS).max(HEADER_BLOCKS));
    let mut found = Vec::new();
    while end > first {
        let start = end.saturating_sub(SEARCH_READ_BLOCKS).max(first);
        let blocks = usize::try_from(end - start).unwrap_or(0);
        if let Ok(buf) = backend.read_at(start * BLOCK_SIZE_U64, blocks * BLOCK_SIZE) {
            let begins = buf.bytes().chunks_exact(BLOCK_SIZE).map(|block| block.starts_with(HEADER_MAGIC));
            let mut here: Vec<u64> = (start..end).zip(begins).filter(|(_, begins)| *begins).map(|(at, _)| at).collect();
            here.reverse();
            found.append(&mut here);
        }
        end = start;
    }
    found
}

/// The bytes of a header's length from a block on.
fn read_copy(backend: &dyn Backend, block: u64) -> Result<Vec<u8>> {
    let end = block.checked_add(HEADER_BLOCKS).and_then(|end| end.checked_mul(BLOCK_SIZE_U64));
    let len_bytes = backend.len_bytes()?;
    if end.is_none_or(|end| end > len_bytes) {
        return Err(Malformed::NotSefs.into());
    }
    let buf = backend.read_at(block * BLOCK_SIZE_U64, HEADER_LEN)?;
    let bytes = buf.bytes().to_vec();
    backend.give_back(buf);
    Ok(bytes)
}

impl HeaderRepair {
    /// What has to be written so that both copies are the one that is used. A checkpoint that accepted another beside it,
    /// because a change was cut short, is followed by ones that do not before anything is written.
    pub(super) fn plan(opened: &[OpenedHeader], used: &OpenedHeader) -> HeaderRepair {
        let digest = used.verified.digest();
        let sound =
            |replica: bool| opened.iter().any(|copy| copy.replica == replica && copy.verified.digest() == digest);
        let places = [(false, 0), (true, replica_block(&used.header))];
        let places: Vec<u64> = places.into_iter().filter(|(replica, _)| !sound(*replica)).map(|(_, at)| at).collect();
        let bytes = if places.is_empty() { Vec::new() } else { used.bytes.clone() };
        HeaderRepair { places, bytes }
    }
}

impl Store {
    /// Puts back the copies of the header that were damaged when the volume was opened.
    pub(in crate::store) fn repair_headers(&self) -> Result<()> {
        let repair = core::mem::take(&mut *self.header_repair.lock());
        if repair.places.is_empty() {
            return Ok(());
        }
        for block in repair.places {
            let mut buf = self.backend.buffer(HEADER_LEN);
            buf.bytes_mut().copy_from_slice(&repair.bytes);
            self.submit(alloc::vec![Io::Write { offset_bytes: block * BLOCK_SIZE_U64, buf }])?;
        }
        self.flush()
    }
}
