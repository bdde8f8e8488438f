//! Anchors that hold a number only: no two states with one number, and no crash that is refused but one.

use sefs::error::{Invalid, Result};

use super::*;

const BARE: AnchorKind = AnchorKind::BareCounter;

fn run(seed: u64) -> Run {
    Run::of(BARE, AnchorPolicy::Checkpoint, &workload(seed), seed)
}

fn change(volume: &Volume, name: &[u8]) -> Result<()> {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, name, &new)?.ino;
    volume.write(&Caller::root(), ino, 0, &[3; 20_000], WriteMode::Direct)?;
    volume.sync()
}

/// Every image at the moment at which the counter had a value, against every later value: from the next slot on it is refused.
#[test]
fn older_images_are_refused_by_a_counter() {
    let seed = seed("older_images_are_refused_by_a_counter", 101);
    let run = run(seed);
    assert!(run.anchors.len() > 20, "a counter counts at every slot, here {} times", run.anchors.len());
    for (position, state) in &run.anchors {
        let disk = run.history.recording.prefix(*position);
        run.open(&disk, state).unwrap_or_else(|error| panic!("at {}: {error}", state.counter));
        for (_, later) in run.anchors.iter().filter(|(_, later)| later.counter > state.counter + 4) {
            let opened = run.open(&disk, later);
            assert!(rolled_back(&opened), "the image of {} at {}: {:?}", state.counter, later.counter, opened.err());
        }
    }
}

/// What a checkpoint merged does not go away: not by an image from before it, whatever the host prepared.
#[test]
fn confirmed_slots_are_confirmed() {
    let run = run(102);
    let slots: Vec<usize> = (0..run.end()).filter(|at| is_slot(&run.history.recording.events[*at])).collect();
    assert!(slots.len() > 6);
    for position in 0..=run.end() {
        let at_end = &run.last_anchor();
        let opened = run.open(&run.history.recording.prefix(position), at_end);
        let last = *slots.last().expect("there are slots");
        assert_eq!(opened.is_ok(), position > last, "after event {position}, the last slot is written by {last}");
    }
}

fn is_slot(event: &Event) -> bool {
    let slots = [16 * PAGE as u64, 17 * PAGE as u64];
    matches!(event, Event::Write { offset_bytes, .. } if slots.contains(offset_bytes))
}

/// Twins prepare slots for numbers to come, from an image whose tail is withheld, and are stopped at every write. A third
/// mount, with the tail, goes on: once it has merged the tail, nothing of the twins' opens.
#[test]
fn twins_with_numbers_to_come_are_refused() {
    let mut ops = workload(103);
    let merged = ops.len();
    ops.extend([Op::Make((0, 0), sefs_tests::op::Making::Directory, 0o750), Op::Sync]);
    let run = Run::of(BARE, AnchorPolicy::Checkpoint, &ops, 103);
    let whole = run.history.recording.prefix(run.end());
    let without_tail = run.history.recording.prefix(run.history.spans[merged].begin);
    let vault = of_kind(BARE, run.last_anchor());

    // The twin runs against the real counter, and is then as if it had never come back: all its disks are kept.
    let twin_host = Recorder::new(without_tail);
    vault.watch(&twin_host);
    let mut prepared = Vec::new();
    {
        let twin =
            run.world.reseeded(1).open(Arc::new(twin_host.clone()), &anchored(&vault)).expect("within the policy");
        let before = vault.state();
        vault.stop_at(Some(before.counter + 1));
        assert!(change(&twin, b"twin").is_err(), "it is stopped after its claim");
        let recording = twin_host.recording();
        prepared.extend((0..=recording.events.len()).map(|count| recording.prefix(count)));
        vault.stop_at(None);
    }
    let host = Recorder::plain(whole);
    let volume = run.world.reseeded(2).open(Arc::new(host.clone()), &anchored(&vault)).expect("the newest state");
    change(&volume, b"third").expect("a healthy disk");
    for round in 0..6u64 {
        let state = vault.state();
        for (index, disk) in prepared.iter().enumerate() {
            let opened = run.open(disk, &state);
            assert!(rolled_back(&opened), "round {round}: disk {index} of the twin at {}", state.counter);
        }
        run.open(&host.disk(), &state).expect("the newest state");
        volume
            .unlink(&Caller::root(), InodeNo::ROOT, if round == 0 { b"third" } else { b"more" })
            .expect("it is there");
        change(&volume, b"more").expect("a healthy disk");
        volume.stat_fs();
    }
}

/// A clone of a mount that goes on is held up before its first count. It has prepared nothing that opens at a value to come.
#[test]
fn a_clone_that_cannot_count_prepares_nothing() {
    let run = run(106);
    let vault = of_kind(BARE, run.last_anchor());
    let host = Recorder::plain(run.history.recording.prefix(run.end()));
    let volume = run.world.reseeded(1).open(Arc::new(host.clone()), &anchored(&vault)).expect("the newest state");
    change(&volume, b"more").expect("a healthy disk");
    let clone_host = Recorder::new(host.disk());
    let clone = run.world.reseeded(2).open(Arc::new(clone_host.clone()), &anchored(&vault)).expect("a clone");
    vault.stop_at(Some(vault.state().counter));
    assert!(change(&clone, b"clone").is_err(), "it is held up");
    vault.stop_at(None);
    let recording = clone_host.recording();
    let prepared: Vec<Disk> = (0..=recording.events.len()).map(|count| recording.prefix(count)).collect();
    for round in 0..4 {
        let before = vault.state().counter;
        volume.unlink(&Caller::root(), InodeNo::ROOT, b"more").expect("it is there");
        change(&volume, b"more").expect("a healthy disk");
        volume.stat_fs();
        assert!(vault.state().counter > before, "what was given back is merged, by a checkpoint");
        for (index, disk) in prepared.iter().enumerate() {
            let opened = run.open(disk, &vault.state());
            assert!(rolled_back(&opened), "round {round}: disk {index} of the clone at {}", vault.state().counter);
        }
    }
}

/// Two mounts in a row die after they have counted and before their first slot is there: the one crash that costs a volume.
#[test]
fn the_one_window_of_a_counter() {
    let run = run(107);
    let disk = run.history.recording.prefix(run.end());
    let at = |steps| AnchorState { counter: run.last_anchor().counter + steps, digest: [0; 32] };
    run.open(&disk, &at(0)).expect("the newest state");
    run.open(&disk, &at(1)).expect("after one such crash");
    assert!(rolled_back(&run.open(&disk, &at(2))), "after two");
    let options = OpenOptions { abandon_anchor: true, ..small_memory() };
    run.world.open(Arc::new(Recorder::plain(disk)), &options).expect("the user says so outright");
}

/// A counter cannot name every commit.
#[test]
fn a_strict_counter_is_refused() {
    let world = World::new(104);
    let vault = of_kind(BARE, &AnchorState { counter: 0, digest: [0; 32] });
    let options = FormatOptions { anchor: Some((vault.clone(), AnchorPolicy::Strict)), ..format_options(SIZE) };
    let made = world.format_on(Arc::new(Recorder::plain(Disk::new(SIZE))), &options);
    assert!(matches!(made, Err(Error::Invalid(Invalid::Option(_)))), "{made:?}");
    assert_eq!((vault.state().counter, vault.history().len()), (0, 0));
}

/// A counter that was used before goes on from where it is.
#[test]
fn a_used_counter_serves_too() {
    for start in [1, 8, 1 << 40] {
        let world = World::new(105);
        let vault = of_kind(BARE, &AnchorState { counter: start, digest: [0; 32] });
        let options = FormatOptions { anchor: Some((vault.clone(), AnchorPolicy::Checkpoint)), ..format_options(SIZE) };
        let host = Recorder::plain(Disk::new(SIZE));
        world.format_on(Arc::new(host.clone()), &options).expect("formatting an empty disk");
        for restart in 0..4u8 {
            let volume =
                world.reseeded(restart.into()).open(Arc::new(host.clone()), &anchored(&vault)).expect("its counter");
            change(&volume, &[b'a' + restart]).expect("a healthy disk");
            if restart % 2 == 0 {
                volume.close().expect("a healthy disk");
            }
        }
        assert!(vault.state().counter > start);
    }
}
