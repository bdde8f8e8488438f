//! Freshness (P4, P7): with an anchor, a state older than its last advance is refused; with a strict one, not even the
//! log's tail can be cut. Without one, a complete older image is accepted, and the mount says so.

mod binding;
mod counter;
mod forks;
mod header;
mod overtaking;
mod ring;
mod second_crashes;

use std::sync::Arc;

use sefs::anchor::{AnchorKind, AnchorPolicy, AnchorState};
use sefs::error::{AnchorError, Error, Incompatible, RolledBack};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, FormatOptions, NewInode, Notice, OpenOptions, Volume, WriteMode};
use sefs_tests::disk::{Disk, PAGE};
use sefs_tests::history::History;
use sefs_tests::op::{Op, Profile, sequence};
use sefs_tests::recorder::{Event, Recorder};
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::vault::Vault;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, format_options, small_memory};

const SIZE: u64 = 8 << 20;
const PROFILE: Profile = Profile { atomic: true, largest: 60_000, huge: false, remounts: false };

fn anchored(vault: &Arc<Vault>) -> OpenOptions {
    OpenOptions { anchor: Some(vault.clone()), ..small_memory() }
}

fn with_state(state: &AnchorState) -> Arc<Vault> {
    of_kind(AnchorKind::ContentBound, state)
}

fn of_kind(kind: AnchorKind, state: &AnchorState) -> Arc<Vault> {
    Arc::new(Vault::of(kind, 1, state.clone()))
}

/// What a volume can be anchored by.
const KINDS: [(AnchorKind, AnchorPolicy); 3] = [
    (AnchorKind::ContentBound, AnchorPolicy::Strict),
    (AnchorKind::ContentBound, AnchorPolicy::Checkpoint),
    (AnchorKind::BareCounter, AnchorPolicy::Checkpoint),
];

/// A run on an anchored volume.
struct Run {
    kind: AnchorKind,
    world: World,
    history: History,
    /// Every state of the anchor, with the events on the disk when it was reached.
    anchors: Vec<(usize, AnchorState)>,
}

impl Run {
    fn new(policy: AnchorPolicy, ops: &[Op], seed: u64) -> Run {
        Run::of(AnchorKind::ContentBound, policy, ops, seed)
    }

    fn of(kind: AnchorKind, policy: AnchorPolicy, ops: &[Op], seed: u64) -> Run {
        let world = World::new(seed);
        let vault = of_kind(kind, &AnchorState { counter: 0, digest: [0; 32] });
        let blank = Recorder::plain(Disk::new(SIZE));
        let options = FormatOptions { anchor: Some((vault.clone(), policy)), ..format_options(SIZE) };
        world.format_on(Arc::new(blank.clone()), &options).expect("formatting an empty disk");
        let disk = Recorder::new(blank.disk());
        vault.watch(&disk);
        let mut stage = Stage::on(world.clone(), Arc::new(disk.clone()), &anchored(&vault)).expect("a fresh volume");
        let (history, outcome) = History::of(&mut stage, &disk, ops);
        outcome.expect("a healthy disk");
        Run { kind, world, history, anchors: vault.history() }
    }

    fn open(&self, disk: &Disk, state: &AnchorState) -> sefs::error::Result<Volume> {
        let vault = of_kind(self.kind, state);
        self.world.reseeded(state.counter).open(Arc::new(Recorder::plain(disk.clone())), &anchored(&vault))
    }

    /// The states that the anchor may have had at a crash after that many events, with their places in the history: at the
    /// moment of an advance the one before it and the one after it.
    fn anchors_at(&self, position: usize) -> Vec<(usize, AnchorState)> {
        states_at(&self.anchors, position)
    }

    fn end(&self) -> usize {
        self.history.recording.events.len()
    }

    fn last_anchor(&self) -> &AnchorState {
        &self.anchors.last().expect("it has at least its first state").1
    }
}

fn states_at(history: &[(usize, AnchorState)], position: usize) -> Vec<(usize, AnchorState)> {
    let until = |index: usize| history.get(index + 1).map_or(usize::MAX, |next| next.0);
    let states =
        history.iter().enumerate().filter(|(index, (reached, _))| *reached <= position && position <= until(*index));
    states.map(|(index, (_, state))| (index, state.clone())).collect()
}

fn rolled_back(opened: &sefs::error::Result<Volume>) -> bool {
    matches!(opened, Err(Error::RolledBack(RolledBack::Anchor { .. })))
}

fn workload(seed: u64) -> Vec<Op> {
    let mut ops = Vec::new();
    for round in 0..6 {
        ops.extend(sequence(PROFILE, 8, seed + round));
        ops.push(Op::Sync);
        match round {
            2 => ops.push(Op::Remount),
            4 => ops.push(Op::Crash),
            _ => {}
        }
    }
    ops
}

/// Every whole older image, at every sync, against every later state of the anchor.
#[test]
fn older_images_are_refused_under_a_strict_anchor() {
    let seed = seed("older_images_are_refused_under_a_strict_anchor", 71);
    let run = Run::new(AnchorPolicy::Strict, &workload(seed), seed);
    assert!(run.anchors.len() > 8, "a strict anchor advances at every commit, here {} times", run.anchors.len());
    for (age, (position, _)) in run.anchors.iter().enumerate() {
        let disk = run.history.recording.prefix(*position);
        for (later, (_, state)) in run.anchors.iter().enumerate().skip(age) {
            let opened = run.open(&disk, state);
            if later == age {
                let volume = opened.unwrap_or_else(|error| panic!("state {age} with its own anchor: {error}"));
                let found = walk(&volume).expect("an intact image");
                run.history.judge(*position, &found).unwrap_or_else(|wrong| panic!("state {age}: {wrong}"));
            } else {
                let outcome = opened.as_ref().err().map(ToString::to_string);
                assert!(rolled_back(&opened), "state {age} with anchor {later}: {outcome:?}");
            }
        }
    }
}

/// The host cuts the log before, in and after each of its last groups.
#[test]
fn a_strict_anchor_refuses_a_cut_tail() {
    let seed = seed("a_strict_anchor_refuses_a_cut_tail", 72);
    let run = Run::new(AnchorPolicy::Strict, &workload(seed), seed);
    let whole = run.history.recording.prefix(run.end());
    run.open(&whole, run.last_anchor()).expect("the newest state");
    let mut cuts = 0;
    for position in (0..run.end()).rev().take(scaled(40, 100_000)) {
        let Event::Write { offset_bytes, data } = &run.history.recording.events[position] else { continue };
        // Only what the log holds: losing a later write of something else is for the crash tests.
        let older = run.history.recording.prefix(position);
        let mut disk = whole.clone();
        for page in offset_bytes / PAGE as u64..(offset_bytes + data.len() as u64) / PAGE as u64 {
            disk.put_page(page, older.page(page));
        }
        match run.open(&disk, run.last_anchor()) {
            Ok(volume) => {
                let found = walk(&volume);
                let current = run.history.states.last().expect("there is a last state");
                assert!(found.is_err() || found.as_ref().ok() == Some(current), "write {position} undone unnoticed");
            }
            Err(error) => {
                cuts += 1;
                assert!(matches!(error, Error::RolledBack(_) | Error::Tampered(_)), "write {position}: {error:?}");
            }
        }
    }
    assert!(cuts > 0);
}

/// Under the weaker policy the tail since the last checkpoint can be cut; nothing before it.
#[test]
fn a_checkpoint_anchor_refuses_what_is_older_than_its_checkpoint() {
    let seed = seed("a_checkpoint_anchor_refuses_what_is_older_than_its_checkpoint", 73);
    let run = Run::new(AnchorPolicy::Checkpoint, &workload(seed), seed);
    let last = run.last_anchor();
    let advanced = run.anchors.last().expect("it has at least its first state").0;
    assert!(advanced < run.end(), "the workload ends with commits that do not advance the anchor");
    for position in 0..=run.end() {
        if position > 0 && !matches!(run.history.recording.events[position - 1], Event::Flush { .. }) {
            continue;
        }
        let opened = run.open(&run.history.recording.prefix(position), last);
        if position >= advanced {
            let volume = opened.unwrap_or_else(|error| panic!("after event {position}: {error}"));
            let found = walk(&volume).expect("an intact image");
            run.history.judge(position, &found).unwrap_or_else(|wrong| panic!("after event {position}: {wrong}"));
        } else if let Ok(volume) = opened {
            // The slot may be there before the anchor has advanced; that is the same state.
            let first = run.history.allowed(advanced);
            let found = walk(&volume).expect("an intact image");
            let fresh = first.clone().any(|state| run.history.states[state] == found);
            assert!(fresh, "after event {position}, before the anchor's advance at {advanced}, an older state opened");
        }
    }
}

/// A crash at any write, with the anchor as it was at that moment, always mounts, to an allowed state.
#[test]
fn crashes_of_anchored_volumes() {
    let seed = seed("crashes_of_anchored_volumes", 74);
    let mut dice = Dice::new(seed);
    for (kind, policy) in KINDS {
        let run = Run::of(kind, policy, &workload(seed), seed);
        for position in 0..=run.end() {
            for (index, state) in run.anchors_at(position) {
                for sample in 0..scaled(2, 10) {
                    let disk = match sample {
                        0 => run.history.recording.prefix(position),
                        _ => run.history.recording.crash(position, &mut dice),
                    };
                    let context =
                        format!("seed {seed}, {kind:?}, {policy:?}, event {position}, anchor {index}, sample {sample}");
                    let volume = run.open(&disk, &state).unwrap_or_else(|error| panic!("{context}: {error}"));
                    let found = walk(&volume).unwrap_or_else(|error| panic!("{context}: {error}"));
                    run.history.judge(position, &found).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                }
            }
        }
    }
}

/// The tail that the host withheld at one mount does not come back at the next.
#[test]
fn a_withheld_tail_stays_away() {
    let seed = seed("a_withheld_tail_stays_away", 75);
    let (mut stage, disk) = Stage::new(SIZE, &small_memory(), seed);
    let ops = sequence(PROFILE, 20, seed);
    let (history, outcome) = History::of(&mut stage, &disk, &[&ops[..], &[Op::Sync]].concat());
    outcome.expect("a healthy disk");
    let without_tail = disk.disk();
    stage.run(&Op::Make((0, 0), sefs_tests::op::Making::File, 0o600)).expect("a healthy disk");
    stage.run(&Op::Write(0, 0, 9000, 77)).expect("a healthy disk");
    stage.run(&Op::Sync).expect("a healthy disk");
    let (with_tail, tail_state) = (disk.disk(), stage.model.tree());
    let world = stage.world.clone();
    drop(stage);

    let host = Recorder::plain(without_tail.clone());
    let volume =
        world.reseeded(1).open(Arc::new(host.clone()), &small_memory()).expect("the tail is missing unnoticed");
    let last = history.states.last().expect("there is a last state");
    assert!(*last != tail_state);
    assert_eq!(walk(&volume).expect("an intact image"), *last);
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), InodeNo::ROOT, b"after", &new).expect("a healthy disk");
    volume.sync().expect("a healthy disk");
    let current = walk(&volume).expect("an intact image");
    drop(volume);

    // Every page that the tail wrote and the new mount did not touch comes back, then also those that it did touch.
    let now = host.disk();
    let changed = |left: &Disk, right: &Disk, page: u64| left.page(page) != right.page(page);
    let tail: Vec<u64> = (0..SIZE / PAGE as u64).filter(|page| changed(&without_tail, &with_tail, *page)).collect();
    assert!(!tail.is_empty());
    let mut back = now.clone();
    for page in tail.iter().filter(|page| !changed(&without_tail, &now, **page)) {
        back.put_page(*page, with_tail.page(*page));
    }
    let volume = world.open(Arc::new(Recorder::plain(back)), &small_memory()).expect("nothing that counts changed");
    assert_eq!(walk(&volume).expect("an intact image"), current);
    for page in &tail {
        let mut back = now.clone();
        back.put_page(*page, with_tail.page(*page));
        // Where it hits the newest group, that one was never confirmed and may be lost; the old tail is not an answer.
        if let Ok(volume) = world.open(Arc::new(Recorder::plain(back)), &small_memory())
            && let Ok(found) = walk(&volume)
        {
            assert!(found != tail_state, "page {page} brought the old tail back");
            assert!(found == current || found == *last, "page {page}: {}", current.difference(&found));
        }
    }
}

/// Without an anchor a whole older image is accepted, and the mount says what that means.
#[test]
fn unanchored_volumes_say_so() {
    let seed = seed("unanchored_volumes_say_so", 76);
    let (mut stage, disk) = Stage::new(SIZE, &small_memory(), seed);
    let mut ops = sequence(PROFILE, 20, seed);
    ops.push(Op::Sync);
    let (history, _) = History::of(&mut stage, &disk, &ops);
    let old = disk.disk();
    stage.run(&Op::Make((0, 5), sefs_tests::op::Making::Directory, 0o700)).expect("a healthy disk");
    stage.run(&Op::Sync).expect("a healthy disk");
    let volume = stage.world.open(Arc::new(Recorder::plain(old)), &small_memory()).expect("an older image");
    assert_eq!(walk(&volume).expect("an intact image"), *history.states.last().expect("there is a last state"));
    assert!(volume.info().notices.contains(&Notice::Unanchored));
    assert_eq!(volume.info().anchor, AnchorPolicy::None);
}

#[test]
fn the_right_anchor_or_none() {
    let run = Run::new(AnchorPolicy::Strict, &workload(3), 3);
    let disk = run.history.recording.prefix(run.end());
    let open = |options: &OpenOptions| run.world.open(Arc::new(Recorder::plain(disk.clone())), options).map(drop);
    assert_eq!(open(&small_memory()), Err(Error::Incompatible(Incompatible::AnchorRequired)), "no anchor");
    let stranger = Arc::new(Vault::holding(2, run.last_anchor().clone()));
    assert_eq!(open(&anchored(&stranger)), Err(Error::Incompatible(Incompatible::OtherAnchor)), "another anchor");
    for failure in [AnchorError::Missing, AnchorError::Unreachable("down".into()), AnchorError::Malformed] {
        let vault = with_state(run.last_anchor());
        vault.fail(Some(failure.clone()));
        assert_eq!(open(&anchored(&vault)), Err(Error::Anchor(failure)));
        assert_eq!(vault.history(), [], "opening creates nothing");
    }
    let fresh = Arc::new(Vault::new(1));
    assert!(matches!(open(&anchored(&fresh)), Err(Error::RolledBack(_))), "an anchor without a state");
    open(&OpenOptions { abandon_anchor: true, ..small_memory() }).expect("the user says so outright");

    let (stage, disk) = Stage::new(SIZE, &small_memory(), 4);
    stage.into_volume().close().expect("a healthy disk");
    let world = World::new(4);
    let given = world.open(Arc::new(disk), &anchored(&Arc::new(Vault::new(1)))).map(drop);
    assert_eq!(given, Err(Error::Incompatible(Incompatible::NotAnchored)));
}

#[test]
fn an_abandoned_anchor_stays_abandoned() {
    let run = Run::new(AnchorPolicy::Strict, &workload(5), 5);
    let host = Recorder::plain(run.history.recording.prefix(run.end()));
    let options = OpenOptions { abandon_anchor: true, ..small_memory() };
    let volume = run.world.open(Arc::new(host.clone()), &options).expect("the user says so outright");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), InodeNo::ROOT, b"new", &new).expect("a healthy disk");
    volume.close().expect("a healthy disk");
    let volume = run.world.open(Arc::new(host), &small_memory()).expect("it is unanchored now");
    assert!(volume.info().notices.contains(&Notice::Unanchored));
}

/// An anchor that fails at a commit fails the commit, and the volume latches.
#[test]
fn an_unreachable_anchor_fails_the_commit() {
    let run = Run::new(AnchorPolicy::Strict, &workload(6), 6);
    let vault = with_state(run.last_anchor());
    let host = Recorder::plain(run.history.recording.prefix(run.end()));
    let volume = run.world.open(Arc::new(host.clone()), &anchored(&vault)).expect("the newest state");
    let before = walk(&volume).expect("an intact image");
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), InodeNo::ROOT, b"one", &new).expect("a healthy disk");
    volume.sync().expect("the anchor is there");
    let synced = walk(&volume).expect("an intact image");
    vault.fail(Some(AnchorError::Unreachable("down".into())));
    volume.make(&Caller::root(), InodeNo::ROOT, b"two", &new).expect("not durable yet");
    assert!(matches!(volume.sync(), Err(Error::Anchor(_) | Error::Latched(_))));
    vault.fail(None);
    assert!(matches!(volume.sync(), Err(Error::Latched(_))), "it stays latched");
    let after = walk(&volume).expect("reading goes on");
    drop(volume);
    let volume = run.world.open(Arc::new(host), &anchored(&vault)).expect("the chain leads through the anchor");
    let found = walk(&volume).expect("an intact image");
    assert!(found == synced || found == after, "not the state before: {}", before.difference(&found));
}

/// A read-only mount compares with the anchor and moves nothing.
#[test]
fn a_read_only_mount_compares_and_moves_nothing() {
    let run = Run::new(AnchorPolicy::Strict, &workload(8), 8);
    let disk = run.history.recording.prefix(run.end());
    let vault = with_state(run.last_anchor());
    let host = Recorder::plain(disk.clone());
    let options = OpenOptions { read_only: true, ..anchored(&vault) };
    let volume = run.world.open(Arc::new(host.clone()), &options).expect("the newest state");
    assert_eq!(walk(&volume).expect("an intact image"), *run.history.states.last().expect("there is a last state"));
    volume.close().expect("nothing to write");
    assert!(host.disk() == disk);
    assert_eq!((vault.state(), vault.history().len()), (run.last_anchor().clone(), 0));
    let (position, _) = run.anchors[run.anchors.len() / 2];
    let old = Recorder::plain(run.history.recording.prefix(position));
    assert!(rolled_back(&run.world.open(Arc::new(old), &options)));
}

/// Restarts cost an epoch each; they never use up the table, the space or the ring.
#[test]
fn restarts_without_end() {
    let world = World::new(9);
    let host = Recorder::plain(world.format(SIZE));
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let root = Caller::root();
    let mut free = None;
    for restart in 0..scaled(300, 100_000) as u64 {
        let volume = world.open(Arc::new(host.clone()), &small_memory()).unwrap_or_else(|e| panic!("{restart}: {e}"));
        let name = format!("{}", restart % 10);
        drop(volume.unlink(&root, InodeNo::ROOT, name.as_bytes()));
        let ino = volume.make(&root, InodeNo::ROOT, name.as_bytes(), &new).expect("space enough").ino;
        volume.write(&root, ino, 0, &restart.to_le_bytes(), WriteMode::Direct).expect("space enough");
        volume.sync().unwrap_or_else(|error| panic!("restart {restart}: {error}"));
        let epochs = volume.info().epochs;
        assert!(epochs < 200, "restart {restart}: {epochs} epochs are live, for 10 files");
        let now = volume.stat_fs().blocks_free;
        let first = *free.get_or_insert(now);
        assert!(now + 64 > first, "restart {restart}: {now} blocks free, {first} at first");
        if restart % 3 == 0 {
            volume.close().expect("space enough");
        }
    }
}
