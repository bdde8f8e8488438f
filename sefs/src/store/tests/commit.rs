//! What a commit promises: the flush that it waited for began after the group was there.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use super::room::{Refusing, open_on};
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
