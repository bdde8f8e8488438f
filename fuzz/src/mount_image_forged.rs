//! A hostile image whose host has the keys: the same as `mount_image`, with a suite that authenticates everything.
//!
//! So what stands behind authentication is reached: slots, epoch tables, tree nodes, allocation pages, records, log groups.
//! Whatever they say, there is no panic, no more memory than there may be, and an end.

use std::sync::{Arc, LazyLock};

use sefs::format::{
    BlockLoc, BlockState, Checkpoint, DirEntryRecord, FileKind, GROUP_PREFIX_LEN, GroupBody, GroupPrefix, HEADER_LEN,
    Header, Inode, InodeFlags, Key, Kind, LogRecord, Patch, RangeRecord, SpaceRecord, XattrHead, name_hash, name_key,
    xattr_key,
};
use sefs::suite::SecretKey;
use sefs::types::{BlockAddr, EpochId, Generation, InodeNo, Lsn, ObjectId, Timestamp};
use sefs_tests::disk::PAGE;
use sefs_tests::op::{NAMES, XATTRS};
use sefs_tests::world::World;

use crate::edit::Edit;
use crate::image::{Image, world};
use crate::input::Input;
use crate::layered::Layered;
use crate::memory;
use crate::script::play;
use crate::suites::{Forging, shared};

static IMAGES: LazyLock<(Vec<Arc<Image>>, World)> = LazyLock::new(|| {
    let suite = shared(Forging);
    (Image::all(&suite), world(&suite))
});

/// More than the mount's budget of 4 MiB: what the host has changed is memory too.
const BUDGET_BYTES: usize = 16 << 20;

/// The target.
pub fn run(input: &[u8]) {
    let (images, world) = &*IMAGES;
    memory::within(BUDGET_BYTES, || play(Input::new(input), images, world, Some(append_group)));
}

/// The end of the log: what the next group has to say of itself.
struct End {
    header: Header,
    lsn: u64,
    previous_tag: [u8; 16],
    epoch: EpochId,
}

/// Appends a log group that says anything.
fn append_group(input: &mut Input<'_>, _: &Image, host: &Layered) {
    let Some(end) = end_of_log(host) else { return };
    let data_blocks = u32::from(input.u8() >> 6);
    let body = GroupBody {
        flushed_lsn: Lsn(if input.u8() & 7 == 0 { input.number() } else { end.lsn }),
        base: Generation(input.u8().into()),
        sequence: input.u8().into(),
        next_id: if input.u8() & 7 == 0 { input.number() } else { 100 },
        inodes: input.u8().into(),
        data_addresses: (0..data_blocks).map(|_| BlockAddr(input.number() & 0xffff_ffff_ffff)).collect(),
        records: (0..1 + input.u8() % 6).map(|_| record(input)).collect(),
    };
    let sealed = body.encode();
    let prefix = GroupPrefix {
        lsn: Lsn(end.lsn),
        previous_tag: end.previous_tag,
        sealed_len: u32::try_from(sealed.len()).expect("a short group"),
        epoch: end.epoch,
        data_blocks,
        nonce: [0; 12],
        tag: [0x7a; 16],
    };
    let bytes = [&prefix.encode()[..], &sealed].concat();
    for (lsn, block) in (end.lsn..).zip(bytes.chunks(PAGE)) {
        let mut page = Box::new([0; PAGE]);
        page[..block.len()].copy_from_slice(block);
        host.edit(Edit::Page { page: ring_page(&end.header, lsn), bytes: page });
    }
}

fn ring_page(header: &Header, lsn: u64) -> u64 {
    header.ring_start.0 + lsn % header.ring_blocks
}

/// Follows the log as a mount does.
fn end_of_log(host: &Layered) -> Option<End> {
    let bytes: Vec<u8> = (0..HEADER_LEN / PAGE).flat_map(|page| host.page(page as u64)).collect();
    let header = Header::decode(&bytes).ok()?;
    let slots = [16, 17].map(|slot| host.page(slot));
    let opened = slots.iter().filter_map(|slot| Some((Checkpoint::decode(&slot[48..]).ok()?, slot)));
    let (newest, slot) = opened.max_by_key(|(checkpoint, _)| checkpoint.generation)?;
    let mut tag = [0; 16];
    tag.copy_from_slice(if newest.epoch_start { &slot[32..48] } else { &newest.previous_tag });
    let mut end = End { header, lsn: newest.log_start.0, previous_tag: tag, epoch: newest.log_epoch };
    for _ in 0..end.header.ring_blocks {
        let page = host.page(ring_page(&end.header, end.lsn));
        let prefix = page.first_chunk::<GROUP_PREFIX_LEN>().and_then(GroupPrefix::decode);
        let Some(prefix) = prefix.filter(|prefix| prefix.lsn.0 == end.lsn && prefix.previous_tag == end.previous_tag)
        else {
            break;
        };
        end.lsn = end.lsn.checked_add(prefix.total_blocks())?;
        end.previous_tag = prefix.tag;
    }
    Some(end)
}

fn record(input: &mut Input<'_>) -> LogRecord {
    let object = match input.u8() {
        small @ 0..=0xf7 => u64::from(small) % 48,
        _ => input.number(),
    };
    match input.u8() % 16 {
        0 | 1 => LogRecord::Put(Key::new(object, Kind::Inode, 0), inode(input).encode()),
        2 | 3 => {
            let name = NAMES[usize::from(input.u8()) % 7];
            let key = name_key(name_hash(&Forging, name), input.u8() & 1);
            let kind = FileKind::from_entry_type(1 + input.u8() % 7).unwrap_or(FileKind::Regular);
            let entry = DirEntryRecord { ino: InodeNo(small_or_any(input)), kind, name: name.to_vec() };
            LogRecord::Put(Key::new(object, Kind::DirEntry, key), entry.encode())
        }
        4 => {
            let name = XATTRS[usize::from(input.u8()) % 4];
            let key = xattr_key(&Forging, name, input.u8() & 1, input.u8() & 3);
            let value_len = input.number() as u32;
            let first = vec![input.u8(); (value_len as usize).min(2048)];
            let head = XattrHead { name: name.to_vec(), value_len, first };
            LogRecord::Put(Key::new(object, Kind::Xattr, key), head.encode())
        }
        5 => LogRecord::Put(Key::new(object, Kind::Inline, 0), vec![input.u8(); usize::from(input.u16() % 4352)]),
        6..=8 => LogRecord::Patch(Key::new(object, Kind::Extent, small_or_any(input)), patch(input)),
        9 => {
            let space = SpaceRecord { data_blocks: input.number() };
            LogRecord::Put(Key::new(object, Kind::Space, 0), space.encode())
        }
        10 => {
            let (first_chunk, len) = (small_or_any(input), input.number());
            let range =
                RangeRecord { object: ObjectId(object), first_chunk, end_chunk: first_chunk.saturating_add(len) };
            LogRecord::Put(Key::new(0, Kind::Range, small_or_any(input)), range.encode())
        }
        11 => LogRecord::Put(Key::new(0, Kind::Orphan, object), vec![0; 8]),
        12 => LogRecord::Delete(Key::new(object, kind(input), small_or_any(input))),
        13 => LogRecord::NewEpoch { id: EpochId(input.number() as u32), secret: SecretKey::new([1; 32]) },
        _ => LogRecord::Put(Key::new(object, kind(input), small_or_any(input)), input.short().to_vec()),
    }
}

fn kind(input: &mut Input<'_>) -> Kind {
    Kind::try_from(input.u8() % 18).unwrap_or(Kind::Extent)
}

fn small_or_any(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        small @ 0..=0xdf => u64::from(small) % 48,
        _ => input.number(),
    }
}

fn inode(input: &mut Input<'_>) -> Inode {
    let modes = [0o100_644, 0o40_755, 0o120_777, 0o10_644, 0o20_644];
    let flags = input.u8();
    let time = Timestamp { seconds: 1, nanoseconds: 1 };
    let extensions = if flags & 4 != 0 { vec![(1, input.array::<12>().to_vec())] } else { Vec::new() };
    Inode {
        mode: *input.pick(&modes),
        uid: 0,
        gid: 0,
        links: if flags & 8 != 0 { input.number() as u32 } else { 2 },
        flags: InodeFlags { inline: flags & 1 != 0, past_end: flags & 2 != 0 },
        size: input.number() & i64::MAX as u64,
        object: ObjectId(small_or_any(input)),
        change: input.number(),
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        project: 0,
        parent: InodeNo(small_or_any(input)),
        entries: input.number(),
        subdirs: input.number() as u32,
        extensions,
    }
}

fn patch(input: &mut Input<'_>) -> Patch {
    let choice = input.u8();
    let mut patch = if choice & 0x80 != 0 { Patch::resetting() } else { Patch::default() };
    for _ in 0..choice % 8 {
        let (block, state) = (input.u8() % 64, input.u8());
        let state = match state % 4 {
            0 => BlockState::Absent,
            1 => BlockState::Unwritten,
            _ => BlockState::Data(BlockLoc {
                source: 0,
                epoch: EpochId(1 + u32::from(state >> 6)),
                addr: BlockAddr(if state & 4 == 0 { u64::from(input.u16() % 1024) } else { input.number() >> 16 }),
                birth: Generation(state.into()),
                nonce: [state; 12],
                proof: [0x7a; 16].into(),
            }),
        };
        patch.set(block, state, &mut |_| {});
    }
    patch
}
