//! A crash, and another one in the mount that recovers from it.

use super::*;

/// Where the slots stand.
const SLOT_PAGES: [u64; 2] = [16, 17];

/// At any write of the second mount an honest crash is accepted, to a state that it had.
#[test]
fn second_crashes_of_anchored_volumes() {
    let seed = seed("second_crashes_of_anchored_volumes", 91);
    for (kind, policy) in KINDS {
        let mut dice = Dice::new(seed);
        let run = Run::of(kind, policy, &workload(seed), seed);
        let (mut cases, mut lost) = (0, 0);
        for position in 0..=run.end() {
            // The moments of an advance are those that count: what was written may be one state ahead of the anchor.
            let states = run.anchors_at(position);
            if states.len() == 1 && !dice.one_in(scaled(10, 1) as u64) {
                continue;
            }
            for (index, state) in states {
                let disk = if dice.one_in(2) {
                    run.history.recording.prefix(position)
                } else {
                    run.history.recording.crash(position, &mut dice)
                };
                let context = format!("seed {seed}, {kind:?}, {policy:?}, event {position}, anchor {index}");
                let (more, refused) = crash_again(&run, &disk, &state, &mut dice, &context);
                cases += more;
                lost += refused;
            }
        }
        println!("{kind:?}, {policy:?}: {cases} second crashes, {lost} in the one window of a bare counter");
        assert!(cases > 100);
        assert!(lost == 0 || kind == AnchorKind::BareCounter);
    }
}

/// Mounts, changes something, and crashes at every write since. Returns how many crashes, and how many of them left a
/// bare counter two steps ahead of its newest slot.
fn crash_again(run: &Run, disk: &Disk, state: &AnchorState, dice: &mut Dice, context: &str) -> (usize, usize) {
    let vault = of_kind(run.kind, state);
    let host = Recorder::new(disk.clone());
    vault.watch(&host);
    let world = run.world.reseeded(dice.next());
    let volume = world.open(Arc::new(host.clone()), &anchored(&vault)).unwrap_or_else(|e| panic!("{context}: {e}"));
    let first = walk(&volume).expect("an intact image");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, b"second life", &new).expect("a healthy disk").ino;
    let made = walk(&volume).expect("an intact image");
    volume.write(&Caller::root(), ino, 0, &[7; 5000], WriteMode::Direct).expect("a healthy disk");
    volume.sync().expect("a healthy disk");
    let (written, acknowledged) = (walk(&volume).expect("an intact image"), host.position());
    volume.close().expect("a healthy disk");
    let (recording, history) = (host.recording(), vault.history());
    let (mut cases, mut lost) = (0, 0);
    for count in 0..=recording.events.len() {
        for (index, state) in states_at(&history, count) {
            let again = if dice.one_in(3) { recording.prefix(count) } else { recording.crash(count, dice) };
            let context = format!("{context}, then event {count}, anchor {index}");
            cases += 1;
            let volume = match run.open(&again, &state) {
                Err(Error::RolledBack(_)) if is_window(run, disk, &again, &history[0].1, &state) => {
                    lost += 1;
                    continue;
                }
                opened => opened.unwrap_or_else(|error| panic!("{context}: {error}")),
            };
            let found = walk(&volume).unwrap_or_else(|error| panic!("{context}: {error}"));
            let allowed = found == written || (count < acknowledged && (found == first || found == made));
            assert!(allowed, "{context}: {}", written.difference(&found));
        }
    }
    (cases, lost)
}

/// Both mounts died after they had counted and before their first slot was there.
fn is_window(run: &Run, first: &Disk, second: &Disk, before: &AnchorState, after: &AnchorState) -> bool {
    let same_slots = SLOT_PAGES.iter().filter(|page| first.page(**page) == second.page(**page)).count() > 0;
    let spent = AnchorState { counter: before.counter + 1, ..before.clone() };
    run.kind == AnchorKind::BareCounter
        && same_slots
        && after.counter > before.counter
        && rolled_back(&run.open(first, &spent))
}
