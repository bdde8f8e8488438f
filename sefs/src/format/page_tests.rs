//! The format page against the code: its tables have no gaps, and each field that it names stands where it says.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::checkpoint::tests::example as checkpoint;
use super::header::tests::example as header;
use super::*;
use crate::suite::{RustCrypto, SecretKey};
use crate::types::{BlockAddr, EpochId, Generation, Lsn};

struct Row {
    bytes: Range<usize>,
    what: String,
}

fn number(cell: &str) -> Option<usize> {
    let factors = cell.split('×').map(|factor| factor.trim().replace(',', "").parse::<usize>().ok());
    factors.reduce(|product, factor| Some(product? * factor?)).flatten()
}

/// The rows of the `index`-th table with offsets in a section whose title starts with `section`.
fn table(section: &str, index: usize) -> Vec<Row> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md")).unwrap();
    let text = page.split("\n## ").find(|text| text.starts_with(section)).unwrap().to_string();
    let mut tables = text.split("| offset | size |").skip(1);
    let rows = tables.nth(index).unwrap().lines().skip(2).take_while(|line| line.starts_with('|')).filter_map(|line| {
        let cells: Vec<&str> = line.splitn(4, '|').map(str::trim).collect();
        let (start, len) = (number(cells[1])?, number(cells[2])?);
        Some(Row { bytes: start..start + len, what: cells[3].trim_end_matches('|').trim().to_string() })
    });
    rows.collect()
}

/// No byte between `from` and `to` is left out or named twice.
fn check_tiling(rows: &[Row], from: usize, to: usize) {
    let mut end = from;
    for row in rows {
        assert_eq!(row.bytes.start, end, "{}", row.what);
        end = row.bytes.end;
    }
    assert_eq!(end, to);
}

/// The row whose description starts with `field` covers all bytes in which the two encodings differ, and one at least.
fn check_field(rows: &[Row], base: usize, field: &str, before: &[u8], after: &[u8]) {
    let row = rows.iter().find(|row| row.what.starts_with(field)).unwrap_or_else(|| panic!("no row {field}"));
    let differing: Vec<_> = (0..before.len()).filter(|&at| before[at] != after[at]).map(|at| at - base).collect();
    assert!(!differing.is_empty(), "{field}");
    assert!(differing.iter().all(|at| row.bytes.contains(at)), "{field}: bytes {differing:?}, not in {:?}", row.bytes);
}

#[test]
fn tables_have_no_gaps() {
    check_tiling(&table("2. Header", 0), 0, HEADER_LEN);
    check_tiling(&table("3. Checkpoint", 0), 0, 4096);
    check_tiling(&table("3. Checkpoint", 1), 0, CHECKPOINT_LEN);
    check_tiling(&table("4. Block reference", 0), 0, BLOCK_REF_LEN);
    let group = table("7. Log", 0);
    check_tiling(&group[..group.len()], 0, GROUP_PREFIX_LEN);
    check_tiling(&table("8. Allocation", 0), 0, ALLOC_ENTRY_LEN);
}

type Change<T> = (&'static str, fn(&mut T));

#[test]
fn header_fields_stand_where_the_page_says() {
    let changes: [Change<Header>; 12] = [
        ("volume id", |header| header.volume_id = [0xff; 16]),
        ("node size", |header| header.node_size_bytes = 32_768),
        ("ring_start", |header| header.ring_start.0 += 1),
        ("ring_blocks", |header| header.ring_blocks += 1),
        ("max_unmerged_bytes", |header| header.max_unmerged_bytes += 1),
        ("header generation", |header| header.generation += 1),
        ("read-only-compatible", |header| header.read_only_compatible = u64::MAX),
        ("compatible", |header| header.compatible = u64::MAX),
        ("total_blocks", |header| header.total_blocks += 1),
        ("volume key generation", |header| header.key_generation = u32::MAX),
        ("label", |header| header.label = "a".repeat(64)),
        ("key slots", |header| header.slots = vec![KeySlot { kind: 1, body: vec![0xff; MAX_SLOT_BODY] }; 16]),
    ];
    let seal = |header: &Header| header.seal(&RustCrypto, &SecretKey::new([1; 32])).0;
    let (rows, before) = (table("2. Header", 0), seal(&header()));
    let changing_with_others = ["key commitment", "HMAC"].map(|field| {
        rows.iter().find(|row| row.what.starts_with(field)).unwrap_or_else(|| panic!("no row {field}")).bytes.clone()
    });
    for (field, change) in changes {
        let mut header = header();
        change(&mut header);
        let mut after = seal(&header);
        for range in changing_with_others.clone() {
            after[range.clone()].copy_from_slice(&before[range]);
        }
        check_field(&rows, 0, field, &before, &after);
    }
}

#[test]
fn checkpoint_fields_stand_where_the_page_says() {
    let changes: [Change<Checkpoint>; 20] = [
        ("generation G", |it| it.generation.0 = (1 << 48) - 1),
        ("salt of the checkpoint before", |it| it.previous_salt = [0xff; 32]),
        ("log start", |it| it.log_start = Lsn(u64::MAX)),
        ("previous tag", |it| it.previous_tag = [0xff; 16]),
        ("epoch of the log", |it| it.log_epoch = EpochId(u32::MAX)),
        ("epoch count", |it| it.epoch_count = 0),
        ("flags", |it| it.clean = true),
        ("allocation levels", |it| it.alloc_levels = 4),
        ("accepted header digests", |it| it.accepted_headers = vec![[0xff; 32]; 2]),
        ("next id", |it| it.next_id = u64::MAX),
        ("free blocks", |it| it.free_blocks = u64::MAX),
        ("unwritten blocks", |it| it.unwritten_blocks = u64::MAX),
        ("inodes in use", |it| it.inodes = u64::MAX),
        ("tree nodes in use", |it| it.nodes = u64::MAX),
        ("allocation root", |it| it.alloc_root.free_blocks = u64::MAX),
        ("anchor policy", |it| it.anchor.policy = AnchorPolicy::Checkpoint),
        ("anchor kind", |it| it.anchor.kind = AnchorKind::ContentBound),
        ("anchor identity", |it| it.anchor.identity = [0xff; 32]),
        ("content-bound: the anchor's counter", |it| it.anchor.counter = u64::MAX),
        ("roots", |it| it.roots[1].parent = u32::MAX),
    ];
    // Two rows start with the same words: the number of accepted digests and the digests.
    let mut rows = table("3. Checkpoint", 1);
    rows.retain(|row| row.bytes.len() != 1 || !row.what.starts_with("accepted"));
    let before = checkpoint().encode();
    for (field, change) in changes {
        let mut checkpoint = checkpoint();
        change(&mut checkpoint);
        check_field(&rows, 0, field, &before, &checkpoint.encode());
    }
    let mut last_page = checkpoint();
    last_page.epoch_pages[1] = EpochPageRef { addr: BlockAddr((1 << 48) - 1), tag: [0xff; 16] };
    check_field(&rows, 0, "epoch pages", &before, &last_page.encode());
}

#[test]
fn reference_prefix_and_entry_fields_stand_where_the_page_says() {
    let zero = BlockRef {
        source: 0,
        epoch: EpochId(0),
        addr: BlockAddr(0),
        nonce: [0; 12],
        birth: Generation(0),
        proof: [0; 16].into(),
        len_bytes: 16,
    };
    let references: [Change<BlockRef>; 6] = [
        ("stored length", |it| it.len_bytes = 1 << 20),
        ("epoch", |it| it.epoch = EpochId(u32::MAX)),
        ("address", |it| it.addr = BlockAddr((1 << 48) - 1)),
        ("nonce", |it| it.nonce = [0xff; 12]),
        ("birth", |it| it.birth = Generation((1 << 48) - 1)),
        ("tag", |it| it.proof = [0xff; 16].into()),
    ];
    let rows = table("4. Block reference", 0);
    for (field, change) in references {
        let mut reference = zero;
        change(&mut reference);
        check_field(&rows, 0, field, &zero.encode(), &reference.encode());
    }
    let zero = AllocEntry::default();
    let entries: [Change<AllocEntry>; 7] = [
        ("present", |it| it.present = true),
        ("home", |it| it.home = 2),
        ("epoch", |it| it.epoch = EpochId(u32::MAX)),
        ("nonce", |it| it.nonce = [0xff; 12]),
        ("tag", |it| it.tag = [0xff; 16]),
        ("free quads", |it| it.free_quads = u32::MAX),
        ("free blocks", |it| it.free_blocks = u64::MAX),
    ];
    let rows = table("8. Allocation", 0);
    for (field, change) in entries {
        let mut entry = zero;
        change(&mut entry);
        check_field(&rows, 0, field, &zero.encode(), &entry.encode());
    }
    let zero = GroupPrefix {
        lsn: Lsn(0),
        previous_tag: [0; 16],
        sealed_len: 0,
        epoch: EpochId(0),
        data_blocks: 0,
        nonce: [0; 12],
        tag: [0; 16],
    };
    let prefixes: [Change<GroupPrefix>; 7] = [
        ("LSN", |it| it.lsn = Lsn(u64::MAX)),
        ("previous tag", |it| it.previous_tag = [0xff; 16]),
        ("length n", |it| it.sealed_len = u32::MAX),
        ("epoch", |it| it.epoch = EpochId(u32::MAX)),
        ("number of data blocks", |it| it.data_blocks = u32::MAX),
        ("nonce", |it| it.nonce = [0xff; 12]),
        ("tag", |it| it.tag = [0xff; 16]),
    ];
    let rows = table("7. Log", 0);
    for (field, change) in prefixes {
        let mut prefix = zero;
        change(&mut prefix);
        check_field(&rows, 0, field, &zero.encode(), &prefix.encode());
    }
}
