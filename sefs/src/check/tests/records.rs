//! Records that contradict each other: as the log has them, and merged into the trees.

use super::*;

/// Damages records of the sample and checks them twice: as the log has them, and merged.
fn damaged(damage: impl Fn(&mut Tx<'_>), expected: &[&'static str]) {
    let (backend, store) = sample();
    let mut tx = store.begin(Need::Metadata).unwrap();
    damage(&mut tx);
    tx.finish();
    store.commit().unwrap();
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    assert_eq!(codes(&backend), expected, "in the log");
    store.close().unwrap();
    drop(store);
    assert_eq!(codes(&backend), expected, "in the trees");
}

#[test]
fn links_and_counts() {
    damaged(|tx| tx.put(inode_key(SMALL), Inode { links: 3, ..inline(SMALL, 5) }.encode()), &["link-count"]);
    damaged(|tx| tx.put(inode_key(ROOT), Inode { links: 2, ..root() }.encode()), &["link-count"]);
    damaged(|tx| tx.put(inode_key(ROOT), Inode { entries: 5, ..root() }.encode()), &["entry-count"]);
    damaged(|tx| tx.put(inode_key(ROOT), Inode { subdirs: 2, ..root() }.encode()), &["subdir-count"]);
    damaged(
        |tx| {
            tx.put(inode_key(DIR), dir().encode());
            tx.count_inodes(1);
        },
        &["inode-count"],
    );
    damaged(
        |tx| {
            tx.put(inode_key(NEXT_ID + 60), Inode { links: 0, ..inline(NEXT_ID + 60, 0) }.encode());
            tx.put(Key::new(0, Kind::Orphan, NEXT_ID + 60), OrphanRecord.encode());
            tx.count_inodes(1);
        },
        &["next-id"],
    );
}

#[test]
fn names() {
    damaged(
        |tx| tx.put(entry_key(DIR, b"again", 0), entry(UNUSED, FileKind::Regular, b"again")),
        &["dangling-entry", "link-count"],
    );
    damaged(|tx| put_entry(tx, DIR, b"again", SMALL, FileKind::Fifo), &["entry-kind"]);
    damaged(
        |tx| {
            tx.delete(entry_key(DIR, b"again", 0));
            tx.put(entry_key(DIR, b"other", 0), entry(SMALL, FileKind::Regular, b"again"));
        },
        &["entry-hash"],
    );
    damaged(
        |tx| {
            tx.put(entry_key(DIR, b"again", 5), entry(SMALL, FileKind::Regular, b"again"));
            tx.put(inode_key(DIR), Inode { entries: 2, ..dir() }.encode());
            tx.put(inode_key(SMALL), Inode { links: 3, ..inline(SMALL, 5) }.encode());
        },
        &["entry-twice"],
    );
    damaged(|tx| put_entry(tx, UNUSED, b"x", UNUSED, FileKind::Regular), &["no-inode", "dangling-entry"]);
    damaged(|tx| put_xattr(tx, UNUSED, b"user.x", b"x", 0), &["no-inode"]);
    damaged(|tx| put_entry(tx, SMALL, b"x", UNUSED, FileKind::Regular), &["not-directory", "dangling-entry"]);
}

#[test]
fn the_tree_of_directories() {
    damaged(
        |tx| tx.put(inode_key(DIR), Inode { parent: InodeNo(SMALL), ..dir() }.encode()),
        &["parent", "unreachable"],
    );
    damaged(|tx| tx.put(inode_key(ROOT), Inode { parent: InodeNo(DIR), ..root() }.encode()), &["parent"]);
    damaged(
        |tx| {
            put_entry(tx, ROOT, b"second", DIR, FileKind::Directory);
            tx.put(inode_key(ROOT), Inode { entries: 7, subdirs: 2, links: 4, ..root() }.encode());
        },
        &["directory-names"],
    );
    damaged(
        |tx| {
            // Two directories that hold each other.
            for (one, two) in [(UNUSED, UNUSED + 1), (UNUSED + 1, UNUSED)] {
                let inode = Inode { parent: InodeNo(two), entries: 1, subdirs: 1, links: 3, ..dir() };
                tx.put(inode_key(one), inode.encode());
                put_entry(tx, one, b"loop", two, FileKind::Directory);
            }
            tx.count_inodes(2);
        },
        &["unreachable"],
    );
    damaged(
        |tx| {
            tx.delete(inode_key(ROOT));
            tx.count_inodes(-1);
        },
        &["no-root", "no-inode"],
    );
}

#[test]
fn orphans() {
    damaged(|tx| tx.delete(Key::new(0, Kind::Orphan, ORPHAN)), &["orphan-unrecorded"]);
    damaged(|tx| tx.put(Key::new(0, Kind::Orphan, SMALL), OrphanRecord.encode()), &["orphan-linked"]);
    damaged(|tx| tx.put(Key::new(0, Kind::Orphan, UNUSED), OrphanRecord.encode()), &["orphan-missing"]);
}

#[test]
fn attributes() {
    let key = |name: &[u8], part| Key::new(LARGE, Kind::Xattr, xattr_key(&RustCrypto, name, 0, part));
    damaged(|tx| tx.delete(key(b"user.b", 2)), &["xattr-parts"]);
    damaged(|tx| tx.delete(key(b"user.b", 1)), &["xattr-parts"]);
    damaged(|tx| tx.put(key(b"user.b", 3), vec![1]), &["xattr-parts"]);
    damaged(|tx| tx.put(key(b"user.a", 1), vec![1]), &["xattr-parts"]);
    damaged(|tx| tx.put(key(b"user.b", 1), vec![7; 10]), &["xattr-parts"]);
    damaged(
        |tx| tx.put(inode_key(LARGE), Inode { extensions: summary(0, 1, 14), ..large() }.encode()),
        &["xattr-summary"],
    );
    damaged(|tx| tx.put(inode_key(LARGE), Inode { extensions: Vec::new(), ..large() }.encode()), &["xattr-summary"]);
    damaged(
        |tx| {
            put_xattr(tx, LARGE, b"user.a", b"", 1);
            tx.put(inode_key(LARGE), Inode { extensions: summary(0, 3, 21), ..large() }.encode());
        },
        &["xattr-twice"],
    );
    damaged(
        |tx| {
            let head = XattrHead { name: b"user.c".to_vec(), value_len: 0, first: Vec::new() };
            tx.put(key(b"user.a", 0), head.encode());
        },
        &["xattr-hash"],
    );
}

#[test]
fn content() {
    damaged(|tx| tx.put(Key::new(UNUSED, Kind::Inline, 0), vec![1]), &["no-owner"]);
    damaged(|tx| tx.put(inode_key(DIR), Inode { object: ObjectId(UNUSED), ..dir() }.encode()), &["owns-content"]);
    damaged(|tx| tx.put(inode_key(SMALL), Inode { links: 2, ..inline(SMALL, 6) }.encode()), &["inline-length"]);
    damaged(|tx| tx.delete(Key::new(SMALL, Kind::Inline, 0)), &["inline-length"]);
    damaged(
        |tx| {
            let flags = InodeFlags { inline: true, past_end: false };
            tx.put(inode_key(LARGE), Inode { flags, ..large() }.encode());
        },
        &["inline-and-chunks", "inline-length"],
    );
    damaged(|tx| tx.put(Key::new(LARGE, Kind::Inline, 0), vec![1]), &["inline-and-chunks"]);
    damaged(|tx| tx.put(inode_key(LARGE), Inode { size: 10 * BLOCK_SIZE_U64, ..large() }.encode()), &["past-end"]);
    damaged(
        |tx| {
            let second = Inode { links: 0, size: 1 << 30, ..inode(FileKind::Regular, MOVED_OBJECT) };
            tx.put(inode_key(UNUSED - 20), second.encode());
            tx.put(Key::new(0, Kind::Orphan, UNUSED - 20), OrphanRecord.encode());
            tx.count_inodes(1);
        },
        &["two-owners"],
    );
    damaged(|tx| tx.put(inode_key(LARGE), Inode { size: large().size - 1, ..large() }.encode()), &["tail-not-zero"]);
}

#[test]
fn records() {
    damaged(|tx| tx.put(Key::new(SMALL, Kind::Inline, 5), vec![1]), &["record-misplaced"]);
    damaged(|tx| tx.put(Key::new(0, Kind::DirEntry, 5), vec![1]), &["record-misplaced"]);
    damaged(|tx| tx.put(Key::new(0, Kind::Job, 5), vec![1]), &["record-corrupt"]);
    damaged(|tx| tx.put(entry_key(DIR, b"again", 0), vec![1]), &["record-corrupt", "link-count"]);
    let range = RangeRecord { object: ObjectId(NEXT_ID + 60), first_chunk: 3, end_chunk: 9 };
    damaged(|tx| tx.put(Key::new(0, Kind::Range, UNUSED), range.encode()), &["next-id"]);
}

#[test]
fn space_records_are_the_mergers_alone() {
    let (backend, store) = sample();
    store.close().unwrap();
    drop(store);
    let store = open(&backend);
    let mut tx = store.begin(Need::Metadata).unwrap();
    tx.put(Key::new(LARGE, Kind::Space, 0), SpaceRecord { data_blocks: 5 }.encode());
    tx.finish();
    store.commit().unwrap();
    assert_eq!(codes(&backend), BTreeSet::from(["log-record"]));
    store.close().unwrap();
    drop(store);
    assert_eq!(codes(&backend), BTreeSet::from(["space"]));
}
