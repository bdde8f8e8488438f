//! `docs/sealing-format.md` against the code: every table covers its bytes without a gap, and fields stand where it says.

use std::collections::BTreeMap;

use sealing::approval::{APPROVAL_LEN, MANIFEST_LEN, Manifest};
use sealing::platform::{KeyPolicy, PlatformKind};
use sealing::shares::deal;
use sealing::{BLOB_HEADER_LEN, Key, OsRng, SigningKey};

/// A row: where a field starts, how long it is, and its words. A size with an n in it is `None`.
type Row = (usize, Option<usize>, String);

/// The tables of bytes, by the heading above.
fn tables() -> BTreeMap<String, Vec<Row>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sealing-format.md")).unwrap();
    let (mut tables, mut heading) = (BTreeMap::<String, Vec<Row>>::new(), String::new());
    for line in page.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches(['#', ' ']).to_string();
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [offset, size, field] = cells[..] else { continue };
        if let Ok(offset) = offset.parse() {
            tables.entry(heading.clone()).or_default().push((offset, size.parse().ok(), field.to_string()));
        }
    }
    tables
}

fn table(name: &str) -> Vec<Row> {
    let mut found: Vec<Vec<Row>> =
        tables().into_iter().filter(|(heading, _)| heading.contains(name)).map(|(_, rows)| rows).collect();
    assert_eq!(found.len(), 1, "{name}");
    found.remove(0)
}

/// Where the field stands whose words begin so.
fn field(rows: &[Row], start: &str) -> std::ops::Range<usize> {
    let row = rows.iter().find(|(.., field)| field.starts_with(start)).unwrap_or_else(|| panic!("no {start}"));
    row.0..row.0 + row.1.unwrap()
}

#[test]
fn tables_have_no_gap_and_the_length_that_the_code_has() {
    let all = tables();
    assert_eq!(all.len(), 7, "{:?}", all.keys());
    for (heading, rows) in &all {
        let mut at = 0;
        for (offset, size, field) in rows {
            assert_eq!(*offset, at, "{heading}: {field}");
            at += size.unwrap_or_default();
        }
    }
    let end = |name: &str| table(name).iter().map(|(offset, size, _)| offset + size.unwrap_or_default()).max();
    assert_eq!(end("Body (144 bytes)"), Some(144));
    assert_eq!(end("Sealed blob"), Some(BLOB_HEADER_LEN));
    assert_eq!(end("Upgrade manifest"), Some(MANIFEST_LEN));
    assert_eq!(end("Approval"), Some(APPROVAL_LEN));
}

#[test]
fn a_manifest_is_what_its_table_says() {
    let manifest = Manifest {
        kind: PlatformKind::Tpm,
        policy: KeyPolicy(3),
        min_isv_svn: 0x0102,
        volume_id: [0x11; 16],
        generation: 0x0304_0506_0708_090a,
        not_after: 0x0b0c_0d0e_0f10_1112,
        predecessor: [0x22; 32],
        mrenclave: [0x33; 32],
        mrsigner: [0x44; 32],
        isv_prod_id: 0x1314,
    };
    let (bytes, rows) = (manifest.encode(), table("Upgrade manifest"));
    for (start, expected) in [
        ("magic", &b"SEALmig\0"[..]),
        ("version", &[1, 0]),
        ("the successor's platform", &[6, 0]),
        ("policy", &[3, 0]),
        ("minimum ISVSVN", &[2, 1]),
        ("volume id", &[0x11; 16]),
        ("generation", &manifest.generation.to_le_bytes()),
        ("not after", &manifest.not_after.to_le_bytes()),
        ("identity digest", &[0x22; 32]),
        ("MRENCLAVE", &[0x33; 32]),
        ("MRSIGNER", &[0x44; 32]),
        ("ISVPRODID", &[0x14, 0x13]),
        ("reserved", &[0; 14]),
    ] {
        assert_eq!(bytes[field(&rows, start)], *expected, "{start}");
    }
}

#[test]
fn a_share_is_what_its_table_says() {
    let dealer = SigningKey::from_bytes(&[9; 32]);
    let shares = deal(&Key::from_bytes(&[7; 32]), &[0x11; 16], 2, 3, &dealer, &OsRng).unwrap();
    let (bytes, rows) = (shares[1].encode(), table("Share, version 1"));
    assert_eq!(bytes[field(&rows, "magic")], *b"SEALshr\0");
    assert_eq!((&bytes[field(&rows, "version")], &bytes[field(&rows, "i:")]), (&[1, 0][..], &[2][..]));
    assert_eq!(bytes.len(), 184 + 32 * 3);
    let (set, rows) = (&bytes[rows.last().unwrap().0..], table("Share set"));
    assert_eq!(set[field(&rows, "set id")], shares[1].set().set_id);
    assert_eq!(set[field(&rows, "volume id")], [0x11; 16]);
    assert_eq!((&set[field(&rows, "threshold")], &set[field(&rows, "n:")]), (&[2][..], &[3][..]));
    assert_eq!(set[field(&rows, "the dealer's")], dealer.verifying_key().to_bytes());
    assert_eq!(set[72..], *shares[1].set().commitments.as_flattened());
}
