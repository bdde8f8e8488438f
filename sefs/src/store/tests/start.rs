//! The start of a mount: what a slot that is gone costs, and what a refusing host can do to it.

use core::sync::atomic::Ordering;

use super::room::{NO_SPACE, Refusing, open_on, write};
use super::*;
use crate::backend::HostBuf;
use crate::check::{CheckOptions, Event, check};
use crate::format::HEADER_LEN;
use crate::keys::slot_of;
use crate::store::SLOT_ADDRS;
use crate::types::BLOCK_SIZE_U64;

/// A volume with some data that was closed, and where the older of its two slots stands.
fn closed() -> (Arc<Refusing>, u8) {
    let backend = Arc::new(Refusing::new(16 << 20));
    let store = open_on(backend.clone());
    write(&store, 0, 20).unwrap();
    store.close().unwrap();
    let older = slot_of(store.next_generation());
    (backend, older)
}

fn place(slot: u8) -> u64 {
    SLOT_ADDRS[usize::from(slot)].0 * BLOCK_SIZE_U64
}

/// The generation that a mount after a crash at this moment would find.
fn found_after_a_crash(backend: &Arc<Refusing>) -> Generation {
    open_on(backend.clone()).base_generation()
}

/// The slot that was damaged when the volume was opened holds the newest checkpoint once the first one is written: trying the
/// second one again must not give it up, nor draw another epoch.
#[test]
fn a_start_that_was_refused_goes_on_where_it_was() {
    let mut refusals = 0;
    for homes in 0..4 {
        let (backend, older) = closed();
        backend.memory.write_at(place(older), HostBuf::zeroed(BLOCK_SIZE)).unwrap();
        let store = open_on(backend.clone());
        assert_eq!(store.replayed.damaged_slot, Some(older));
        let epochs = store.sealer.epochs().len();
        let mut newest = found_after_a_crash(&backend);
        backend.refuse.store(true, Ordering::SeqCst);
        backend.after.store(homes, Ordering::SeqCst);
        for attempt in 0..3 {
            match write(&store, 100, 1) {
                Ok(()) => break,
                Err(failure) => assert_eq!(failure, NO_SPACE),
            }
            refusals += 1;
            store.check_latch().unwrap();
            let found = found_after_a_crash(&backend);
            assert!(found >= newest, "{homes} homes, attempt {attempt}: {found:?} after {newest:?}");
            newest = found;
            assert_eq!(store.sealer.epochs().len(), epochs + 1, "one epoch for a mount");
            backend.given.lock().clear();
        }
        backend.refuse.store(false, Ordering::SeqCst);
        write(&store, 200, 1).unwrap();
        store.close().unwrap();
        let (store, mut out) = (open_on(backend), vec![0; BLOCK_SIZE]);
        for block in [0, 19, 200] {
            store.read_blocks(ObjectId(9), block, &mut out).unwrap();
            assert_eq!(out, vec![1; BLOCK_SIZE]);
        }
    }
    assert!(refusals > 4, "{refusals}");
}

/// Nothing is sealed with an epoch that only one slot knows: with the newest one gone, what the first commit of a mount made
/// durable is still there.
#[test]
fn either_slot_leads_to_the_first_commit_of_a_mount() {
    for slot in [0, 1] {
        let (backend, _) = closed();
        let store = open_on(backend.clone());
        write(&store, 100, 1).unwrap();
        store.commit().unwrap();
        drop(store);
        backend.memory.write_at(place(slot), HostBuf::zeroed(BLOCK_SIZE)).unwrap();
        let (store, mut out) = (open_on(backend), vec![0; BLOCK_SIZE]);
        assert_eq!(store.replayed.damaged_slot, Some(slot));
        store.read_blocks(ObjectId(9), 100, &mut out).unwrap();
        assert_eq!(out, vec![1; BLOCK_SIZE], "without slot {slot}");
    }
}

/// A slot write that lost its power may leave a sector that cannot even be read.
#[test]
fn a_slot_that_cannot_be_read_is_a_damaged_one() {
    for newest in [false, true] {
        let (backend, older) = closed();
        let slot = if newest { 1 - older } else { older };
        *backend.unreadable.lock() = Some(place(slot));
        let store = open_on(backend.clone());
        assert_eq!(store.replayed.damaged_slot, Some(slot));
        let mut out = vec![0; BLOCK_SIZE];
        store.read_blocks(ObjectId(9), 19, &mut out).unwrap();
        assert_eq!(out, vec![1; BLOCK_SIZE]);
        // What is written over can be read again.
        *backend.unreadable.lock() = None;
        write(&store, 200, 1).unwrap();
        store.close().unwrap();
        assert_eq!(open_on(backend).replayed.damaged_slot, None);
    }
}

/// What a mount goes on from is no reason for a check to end.
#[test]
fn a_check_reads_on_where_a_mount_does() {
    let (backend, older) = closed();
    let codes = || {
        let mut codes = Vec::new();
        let on = &mut |event| {
            if let Event::Finding(finding) = event {
                codes.push(finding.code());
            }
        };
        let checked = check(backend.clone(), &key(), &CheckOptions::default(), &env(), on);
        (checked.map(drop), codes)
    };
    let unreadable = |place| *backend.unreadable.lock() = Some(place);
    // There is no root directory in here, and more that only the store's users know.
    let of_users = codes().1;
    let codes = || {
        let (checked, mut codes) = codes();
        codes.retain(|code| !of_users.contains(code));
        (checked, codes)
    };
    for slot in [older, 1 - older] {
        unreadable(place(slot));
        assert_eq!(codes(), (Ok(()), vec!["slot-damaged"]));
    }
    unreadable(0);
    assert_eq!(codes(), (Ok(()), vec!["header-copy"]));
    unreadable((16 << 20) - HEADER_LEN as u64);
    assert_eq!(codes(), (Ok(()), vec!["header-copy"]));
}
