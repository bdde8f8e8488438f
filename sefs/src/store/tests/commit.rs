//! What a commit promises: the flush that it waited for began after the group was there.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use super::room::{Refusing, open_on, write};
use super::*;

#[test]
fn what_is_logged_while_a_commit_flushes_waits_for_the_next_flush() {
    let host = Arc::new(Refusing::new(16 << 20));
    let store = Arc::new(open_on(host.clone()));
    let change = |store: &Store, number: u64| {
        let mut tx = store.begin(Need::Metadata).unwrap();
        tx.put(Key::new(5, Kind::DirEntry, number), vec![1; 10]);
        tx.finish();
    };
    change(&store, 0);
    store.commit().unwrap();
    change(&store, 1);
    let other = store.clone();
    *host.at_flush.lock() = Some(Box::new(move || {
        change(&other, 2);
        other.cut_group().unwrap();
    }));
    store.commit().unwrap();
    let before = host.flushes.load(Ordering::SeqCst);
    store.commit().unwrap();
    assert_eq!(host.flushes.load(Ordering::SeqCst), before + 1, "the second group was logged, not flushed");
    store.commit().unwrap();
    assert_eq!(host.flushes.load(Ordering::SeqCst), before + 1, "there was nothing new");
}

/// A store with so many blocks in the log only, each synced by itself: between them stand the heads of their groups.
fn synced_one_by_one(host: &Arc<Refusing>, blocks: u64) -> Store {
    let store = open_on(host.clone());
    for block in 0..blocks {
        write(&store, block, 1).unwrap();
        store.commit().unwrap();
    }
    assert_eq!(store.layers.read().ring_active.len() as u64, blocks);
    store
}

/// The head of a group is in memory, and nothing needs it again.
#[test]
fn a_head_that_cannot_be_read_keeps_nothing_from_going_home() {
    let host = Arc::new(Refusing::new(16 << 20));
    let store = synced_one_by_one(&host, 3);
    let places: Vec<u64> = store.layers.read().ring_active.values().map(|lsn| lsn.0).collect();
    let head = places.iter().max().unwrap() - 1;
    assert!(!places.contains(&head));
    *host.unreadable.lock() = Some(store.ring.addr(Lsn(head)).0 * BLOCK_SIZE as u64);
    store.checkpoint().unwrap();
    assert!(store.layers.read().ring_active.is_empty());
}

#[test]
fn a_checkpoint_reads_the_log_in_long_stretches() {
    let host = Arc::new(Refusing::new(16 << 20));
    let store = synced_one_by_one(&host, 60);
    let before = host.reads.load(Ordering::SeqCst);
    store.checkpoint().unwrap();
    let reads = host.reads.load(Ordering::SeqCst) - before;
    assert!(reads < 20, "{reads} requests to read for 60 blocks");
}
