//! Rotation of the volume key: a crash at any write leads to the old key or to the new one, whoever opens first goes on, and in the
//! end nothing on the volume hangs on the old key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sefs::anchor::{Anchor, AnchorKind, AnchorPolicy, AnchorState};
use sefs::check::{self, CheckOptions, Event, Finding};
use sefs::error::{Error, Invalid, Posix, Result, RolledBack, Tampered};
use sefs::format::{HEADER_LEN, Header, KeySlot};
use sefs::keys::VolumeKey;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, FormatOptions, NewInode, Notice, OpenOptions, RotationStep, Volume, WriteMode};
use sefs_tests::disk::Disk;
use sefs_tests::ledger::Ledger;
use sefs_tests::op::{Profile, sequence};
use sefs_tests::recorder::{Recorder, Recording};
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::tree::Tree;
use sefs_tests::vault::Vault;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, format_options, key, small_memory};

const SIZE: u64 = 8 << 20;
const BLOCK: usize = 4096;
const PROFILE: Profile = Profile { atomic: true, largest: 60_000, huge: false, remounts: false };

/// Slots in which a test finds the number of the key that they stand for.
fn slots(byte: u8) -> Vec<KeySlot> {
    vec![KeySlot { kind: 1, body: vec![byte; 144] }]
}

fn new_key() -> VolumeKey {
    VolumeKey::new([0xa5; 32])
}

fn third_key() -> VolumeKey {
    VolumeKey::new([0x77; 32])
}

/// What the volume is anchored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchoring {
    None,
    Strict,
    Checkpoint,
    Counter,
}

impl Anchoring {
    fn policy(self) -> Option<AnchorPolicy> {
        match self {
            Anchoring::None => None,
            Anchoring::Strict => Some(AnchorPolicy::Strict),
            Anchoring::Checkpoint | Anchoring::Counter => Some(AnchorPolicy::Checkpoint),
        }
    }

    fn kind(self) -> AnchorKind {
        if self == Anchoring::Counter { AnchorKind::BareCounter } else { AnchorKind::ContentBound }
    }

    fn vault(self, state: AnchorState) -> Option<Arc<Vault>> {
        self.policy().map(|_| Arc::new(Vault::of(self.kind(), 1, state)))
    }
}

/// A volume whose key is changed from `key()` with `slots(1)` to `new_key()` with `slots(2)`, everything recorded.
struct Run {
    world: World,
    anchoring: Anchoring,
    recording: Recording,
    /// Events before the change of the key: an anchored volume was written to in the same mount.
    from: usize,
    /// Events when the key was changed, before the rotation went on.
    changed: usize,
    anchors: Option<Vec<(usize, AnchorState)>>,
    tree: Tree,
    ledger: Ledger,
    /// Machines so far: each has a generator of its own.
    machines: Arc<AtomicU64>,
}

fn options_with(vault: Option<&Arc<Vault>>) -> OpenOptions {
    let anchor = vault.cloned().map(|vault| vault as Arc<dyn Anchor>);
    OpenOptions { anchor, ..small_memory() }
}

fn open(world: &World, host: &Recorder, key: &VolumeKey, options: &OpenOptions) -> Result<Volume> {
    Volume::open(Arc::new(host.clone()), key, options, &world.env)
}

/// Works until the rotation has ended.
fn drain(volume: &Volume) {
    for _ in 0..1000 {
        match volume.rotate_step().expect("a healthy disk") {
            RotationStep::Ended => return,
            RotationStep::Working => {}
            RotationStep::Stuck => panic!("a small volume with room is stuck: {:?}", volume.info()),
        }
    }
    panic!("the rotation does not end: {:?}", volume.info());
}

fn touch(volume: &Volume, name: &[u8]) -> Result<()> {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, name, &new)?.ino;
    volume.write(&Caller::root(), ino, 0, &[7; 9000], WriteMode::Direct)?;
    volume.sync()
}

/// What a whole check of the volume finds wrong, and whether it says that a rotation is under way.
fn check(world: &World, disk: &Disk, key: &VolumeKey, options: &OpenOptions, context: &str) -> bool {
    let check = CheckOptions { scrub: true, anchor: options.anchor.clone(), ..CheckOptions::default() };
    let (mut rotating, mut wrong) = (false, Vec::new());
    let backend = Arc::new(Recorder::plain(disk.clone()));
    let summary = check::check(backend, key, &check, &world.env, &mut |event| match event {
        Event::Finding(Finding::KeyRotation {}) => rotating = true,
        Event::Finding(finding) if finding.severity() == check::Severity::Error => wrong.push(finding),
        _ => {}
    });
    summary.unwrap_or_else(|error| panic!("{context}: cannot be checked: {error}"));
    assert!(wrong.is_empty(), "{context}: {wrong:#?}");
    rotating
}

impl Run {
    fn new(anchoring: Anchoring, seed: u64) -> Run {
        let ledger = Ledger::default();
        let world = World::new(seed).recorded_by(&ledger);
        let vault = anchoring.vault(AnchorState { counter: 0, digest: [0; 32] });
        let blank = Recorder::plain(Disk::new(SIZE));
        let anchor = vault.clone().zip(anchoring.policy()).map(|(vault, policy)| (vault as Arc<dyn Anchor>, policy));
        let options = FormatOptions { anchor, slots: slots(1), ..format_options(SIZE) };
        world.format_on(Arc::new(blank.clone()), &options).expect("formatting an empty disk");
        let options = options_with(vault.as_ref());
        let before = Recorder::plain(blank.disk());
        let mut stage = Stage::on(world.clone(), Arc::new(before.clone()), &options).expect("a fresh volume");
        for op in sequence(PROFILE, 60, seed) {
            stage.run(&op).expect("a healthy disk");
        }
        // Not closed: the rotation begins on a log that was never merged.
        stage.volume().sync().expect("a healthy disk");
        stage.compare().expect("an intact image");
        drop(stage.into_volume());
        let disk = Recorder::new(before.disk());
        if let Some(vault) = &vault {
            vault.watch(&disk);
        }
        let mut volume = open(&world, &disk, &key(), &options).expect("a volume that was synced");
        if anchoring != Anchoring::None {
            touch(&volume, b"in the log").expect("a healthy disk");
        }
        let (from, tree) = (disk.position(), walk(&volume).expect("an intact image"));
        volume.rotate_key(&key(), &new_key(), slots(2)).expect("a healthy disk");
        assert!(volume.info().rotating.is_some(), "there is something left of the old key");
        let changed = disk.position();
        drain(&volume);
        assert_eq!(volume.info().rotating, None);
        volume.close().expect("a healthy disk");
        let (recording, anchors) = (disk.recording(), vault.map(|vault| vault.history()));
        Run { world, anchoring, recording, from, changed, anchors, tree, ledger, machines: Arc::default() }
    }

    fn machine(&self) -> World {
        self.world.reseeded(1 << 40 | self.machines.fetch_add(1, Ordering::Relaxed))
    }

    fn end(&self) -> usize {
        self.recording.events.len()
    }

    /// States of the anchor that a crash at a moment may find.
    fn anchors_at(&self, position: usize) -> Vec<Option<AnchorState>> {
        let Some(anchors) = &self.anchors else { return vec![None] };
        let next = |index: usize| anchors.get(index + 1).map_or(usize::MAX, |next| next.0);
        let possible =
            anchors.iter().enumerate().filter(|(index, (reached, _))| *reached <= position && position <= next(*index));
        possible.map(|(_, (_, state))| Some(state.clone())).collect()
    }

    fn options(&self, state: Option<&AnchorState>) -> OpenOptions {
        options_with(state.and_then(|state| self.anchoring.vault(state.clone())).as_ref())
    }
}

/// The key that whoever has a secret of the slots comes to, as tools do: from the first copy of the header whose slots give a key
/// under which a copy authenticates.
fn led_to(world: &World, disk: &Disk) -> Option<u8> {
    let host = Recorder::plain(disk.clone());
    let headers: Vec<Header> = Volume::read_headers(&host).unwrap_or_default();
    let numbers = headers.iter().filter_map(|header| {
        let body = &header.slots.first()?.body;
        body.iter().all(|byte| *byte == body[0]).then_some(body[0])
    });
    numbers.into_iter().find(|number| Volume::is_key_of_header(&host, &numbered(*number), &world.env))
}

fn numbered(number: u8) -> VolumeKey {
    if number == 1 { key() } else { new_key() }
}

/// Opens a disk as a crash left it with one key, goes on with it, and opens it once more.
fn go_on(run: &Run, disk: &Disk, state: Option<&AnchorState>, number: u8, context: &str) {
    let (world, options) = (run.machine(), run.options(state));
    let host = Recorder::plain(disk.clone());
    let key = numbered(number);
    let volume = open(&world, &host, &key, &options).unwrap_or_else(|e| panic!("{context}, key {number}: {e}"));
    assert_eq!(volume.header().slots, slots(number), "{context}: the key's own slots");
    assert_eq!(volume.info().key_generation, u32::from(number), "{context}");
    assert!(walk(&volume).expect("an intact image") == run.tree, "{context}, key {number}");
    touch(&volume, b"touched").unwrap_or_else(|e| panic!("{context}, key {number}: {e}"));
    drain(&volume);
    volume.close().unwrap_or_else(|e| panic!("{context}, key {number}: {e}"));
    let settled = host.disk();
    assert_eq!(led_to(&world, &settled), Some(number), "{context}: the header leads to the key that went on");
    assert!(!check(&world, &settled, &key, &options, context), "{context}: the rotation has ended");
    let other = open(&world, &Recorder::plain(settled.clone()), &numbered(3 - number), &options).map(drop);
    assert!(matches!(other, Err(Error::WrongKey)), "{context}: the other key after {number} went on: {other:?}");
    let again = open(&world, &Recorder::plain(settled), &key, &options).map(|volume| volume.info());
    let info = again.unwrap_or_else(|e| panic!("{context}, settled: {e}"));
    assert_eq!(info.rotating, None, "{context}");
}

fn crash_everywhere(anchoring: Anchoring, name: &str, base: u64) {
    let seed = seed(name, base);
    let mut dice = Dice::new(seed);
    let run = Run::new(anchoring, seed);
    let mut seen = [0; 3];
    for position in run.from..=run.end() {
        // Draining is long; the change of the key is looked at more closely.
        let samples = if position <= run.changed { scaled(3, 12) } else { scaled(1, 4) };
        for state in run.anchors_at(position) {
            for sample in 0..samples {
                let disk = match sample {
                    0 => run.recording.prefix(position),
                    _ => run.recording.crash(position, &mut dice),
                };
                let context = format!("seed {seed}, {anchoring:?}, event {position} of {}, sample {sample}", run.end());
                let options = run.options(state.as_ref());
                let opens = [1, 2].map(|number| {
                    let read_only = OpenOptions { read_only: true, ..options.clone() };
                    let host = Recorder::plain(disk.clone());
                    let opened = open(&run.world, &host, &numbered(number), &read_only);
                    opened.is_ok_and(|volume| walk(&volume).expect("an intact image") == run.tree)
                });
                let led = led_to(&run.world, &disk).unwrap_or_else(|| panic!("{context}: no header leads to a key"));
                assert!(opens[usize::from(led) - 1], "{context}: the header leads to key {led}, which does not open");
                for number in [1, 2].into_iter().filter(|number| opens[usize::from(*number) - 1]) {
                    go_on(&run, &disk, state.as_ref(), number, &context);
                }
                seen[usize::from(opens[0]) + 2 * usize::from(opens[1]) - 1] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "the old key, the new one, both for a moment: {seen:?}");
    run.ledger.assert_clean(&format!("seed {seed}, {anchoring:?}"));
}

#[test]
fn a_crash_leads_to_a_key_that_opens() {
    crash_everywhere(Anchoring::None, "a_crash_leads_to_a_key_that_opens", 91);
}

#[test]
fn a_crash_of_an_anchored_rotation_leads_to_a_key_that_opens() {
    for anchoring in [Anchoring::Strict, Anchoring::Checkpoint] {
        crash_everywhere(anchoring, "a_crash_of_an_anchored_rotation_leads_to_a_key_that_opens", 92);
    }
}

#[test]
fn a_crash_of_a_counted_rotation_leads_to_a_key_that_opens() {
    crash_everywhere(Anchoring::Counter, "a_crash_of_a_counted_rotation_leads_to_a_key_that_opens", 93);
}

/// Two crashes in a row: the second one in the first writes of a mount that went on with the new key, while the primary still led to
/// the old one.
#[test]
fn a_second_crash_leads_to_a_key_that_opens() {
    for anchoring in [Anchoring::None, Anchoring::Strict] {
        let seed = seed("a_second_crash_leads_to_a_key_that_opens", 94);
        let run = Run::new(anchoring, seed);
        let mut looked = 0;
        for position in run.from..=run.changed {
            let disk = run.recording.prefix(position);
            for state in run.anchors_at(position) {
                let vault = state.as_ref().and_then(|state| run.anchoring.vault(state.clone()));
                let options = options_with(vault.as_ref());
                let host = Recorder::new(disk.clone());
                if let Some(vault) = &vault {
                    vault.watch(&host);
                }
                let Ok(volume) = open(&run.machine(), &host, &new_key(), &options) else { continue };
                touch(&volume, b"second").expect("a healthy disk");
                drop(volume);
                let second = Run {
                    world: run.world.clone(),
                    recording: host.recording(),
                    anchors: vault.map(|vault| vault.history()),
                    tree: run.tree.clone(),
                    ledger: run.ledger.clone(),
                    machines: run.machines.clone(),
                    ..run
                };
                for again in 0..=second.end() {
                    let crashed = second.recording.prefix(again);
                    for state in second.anchors_at(again) {
                        let context = format!("{anchoring:?}, event {position}, then {again} of {}", second.end());
                        let led = led_to(&run.world, &crashed);
                        let led = led.unwrap_or_else(|| panic!("{context}: no header leads to a key"));
                        let options = run.options(state.as_ref());
                        let opened = open(&run.world, &Recorder::plain(crashed.clone()), &numbered(led), &options);
                        opened.map(drop).unwrap_or_else(|error| panic!("{context}: key {led}: {error}"));
                        looked += 1;
                    }
                }
            }
        }
        assert!(looked > 50, "{looked} second crashes");
        run.ledger.assert_clean("second crashes");
    }
}

/// What stands where both copies of the header stand.
fn with_header_of(disk: &Disk, from: &Disk) -> Disk {
    let mut out = disk.clone();
    let mut bytes = vec![0; HEADER_LEN];
    for offset in [0, SIZE - HEADER_LEN as u64] {
        from.read(offset, &mut bytes);
        out.write(offset, &bytes);
    }
    out
}

fn with_slots_of(disk: &Disk, from: &Disk) -> Disk {
    let mut out = disk.clone();
    let mut bytes = vec![0; 2 * BLOCK];
    from.read(16 * BLOCK as u64, &mut bytes);
    out.write(16 * BLOCK as u64, &bytes);
    out
}

/// With an anchor the old key opens nothing afterwards, whatever of the old time, or of its holder's own making, is put back.
#[test]
fn the_old_key_opens_and_forges_nothing_afterwards() {
    let run = Run::new(Anchoring::Strict, seed("the_old_key_opens_and_forges_nothing_afterwards", 95));
    let before = run.recording.prefix(run.from);
    let first_anchor = run.anchors_at(run.from).pop().flatten();
    // The holder of the old key goes on from his copy, with an anchor of his own that says what he likes.
    let forged = Recorder::plain(before.clone());
    let volume = open(&run.machine(), &forged, &key(), &run.options(first_anchor.as_ref())).expect("his copy");
    touch(&volume, b"forged").expect("a healthy disk");
    volume.close().expect("a healthy disk");
    let forged = forged.disk();
    for at in [run.changed, run.end()] {
        let current = run.recording.prefix(at);
        let state = run.anchors_at(at).pop().flatten();
        let outcome = |disk: &Disk, key: &VolumeKey| {
            open(&run.world, &Recorder::plain(disk.clone()), key, &run.options(state.as_ref())).map(drop)
        };
        assert_eq!(outcome(&current, &new_key()), Ok(()), "event {at}");
        assert_eq!(outcome(&current, &key()), Err(Error::WrongKey), "event {at}");
        for old in [&before, &forged] {
            let rolled_back = outcome(old, &key());
            assert!(matches!(rolled_back, Err(Error::RolledBack(RolledBack::Anchor { .. }))), "{rolled_back:?}");
            assert_eq!(outcome(old, &new_key()), Err(Error::WrongKey));
            let header = with_header_of(&current, old);
            assert_eq!(outcome(&header, &key()), Err(Tampered::CheckpointSlots.into()), "event {at}: an old header");
            let slots = with_slots_of(&header, old);
            let refused = outcome(&slots, &key());
            let host = matches!(refused, Err(Error::RolledBack(_) | Error::Tampered(_)));
            assert!(host, "event {at}: old header and slots: {refused:?}");
            let slots = with_slots_of(&current, old);
            assert_eq!(outcome(&slots, &new_key()), Err(Tampered::CheckpointSlots.into()), "event {at}: old slots");
        }
    }
    // Also without an anchor: nothing of the old time can be mixed into the new volume.
    let unanchored = Run::new(Anchoring::None, 96);
    let before = unanchored.recording.prefix(unanchored.from);
    let after = unanchored.recording.prefix(unanchored.end());
    let mixed = with_header_of(&after, &before);
    let opened = open(&unanchored.world, &Recorder::plain(mixed), &key(), &small_memory()).map(drop);
    assert_eq!(opened, Err(Tampered::CheckpointSlots.into()));
}

/// After the end, no block that was on the disk before it is needed: whatever the old key's holder wrote or kept, nothing of it is
/// read.
#[test]
fn nothing_of_the_old_key_is_needed_afterwards() {
    let run = Run::new(Anchoring::None, seed("nothing_of_the_old_key_is_needed_afterwards", 97));
    let (before, mut after) = (run.recording.prefix(run.from), run.recording.prefix(run.end()));
    let (mut scrambled, mut live_before) = (0, 0);
    let (mut old, mut new) = ([0; BLOCK], [0; BLOCK]);
    for block in 0..SIZE / BLOCK as u64 {
        before.read(block * BLOCK as u64, &mut old);
        after.read(block * BLOCK as u64, &mut new);
        live_before += u32::from(old.iter().any(|byte| *byte != 0));
        if old == new && new.iter().any(|byte| *byte != 0) {
            new.iter_mut().for_each(|byte| *byte ^= 0x55);
            after.write(block * BLOCK as u64, &new);
            scrambled += 1;
        }
    }
    assert!(scrambled > 20 && live_before > 40, "{scrambled} of {live_before} blocks are as before");
    let host = Recorder::plain(after.clone());
    let volume = open(&run.world, &host, &new_key(), &small_memory()).expect("nothing old is needed");
    assert!(walk(&volume).expect("nothing old is needed") == run.tree);
    drop(volume);
    check(&run.world, &after, &new_key(), &small_memory(), "scrambled");
}

/// From the change of the key on, no key seals that sealed before: its holder learns nothing of what is written since.
#[test]
fn no_key_of_before_seals_again() {
    let ledger = Ledger::default();
    let world = World::new(98).recorded_by(&ledger);
    let host = Recorder::plain(world.format(SIZE));
    let mut volume = open(&world, &host, &key(), &small_memory()).expect("a fresh volume");
    for name in [b"one".as_slice(), b"two"] {
        touch(&volume, name).expect("a healthy disk");
    }
    let old = ledger.marked();
    volume.rotate_key(&key(), &new_key(), slots(2)).expect("a healthy disk");
    let changed = ledger.marked();
    let again = |now: HashMap<[u8; 32], u64>| old.keys().filter(|key| now[*key] != changed[*key]).count();
    touch(&volume, b"three").expect("a healthy disk");
    assert_eq!(again(ledger.marked()), 0, "keys of before go on sealing");
    drain(&volume);
    touch(&volume, b"four").expect("a healthy disk");
    volume.close().expect("a healthy disk");
    let volume = open(&world, &host, &new_key(), &small_memory()).expect("a closed volume");
    touch(&volume, b"five").expect("a healthy disk");
    assert_eq!(again(ledger.marked()), 0, "keys of before go on sealing");
    ledger.assert_clean("a rotation in the middle of a mount");
}

/// The rest is worked off by mounts that know nothing of it, also when each of them lives for a moment.
#[test]
fn mounts_of_a_moment_end_a_rotation() {
    let run = Run::new(Anchoring::Checkpoint, seed("mounts_of_a_moment_end_a_rotation", 99));
    let state = run.anchors_at(run.changed).pop().flatten();
    let options = run.options(state.as_ref());
    let host = Recorder::plain(run.recording.prefix(run.changed));
    let mut before = u64::MAX;
    for mount in 0u32.. {
        assert!(mount < 40, "it does not end: {before} blocks are left");
        let volume = open(&run.machine(), &host, &new_key(), &options).expect("a healthy disk");
        let info = volume.info();
        let told = info.notices.iter().any(|notice| matches!(notice, Notice::KeyRotation { .. }));
        assert_eq!(told, info.rotating.is_some(), "mount {mount}: it is told for as long as it lasts");
        let Some(left) = info.rotating else { break };
        assert!(left.blocks_left <= before, "mount {mount}");
        before = left.blocks_left;
        volume.work(true).expect("a healthy disk");
        drop(volume);
        check(&run.world, &host.disk(), &new_key(), &options, &format!("mount {mount}"));
    }
    let volume = open(&run.world, &host, &new_key(), &options).expect("a healthy disk");
    assert!(walk(&volume).expect("an intact image") == run.tree);
}

/// A rotation, more writes while it lasts, and another one: as often as one likes.
#[test]
fn keys_change_again_and_again() {
    let world = World::new(100);
    let host = Recorder::plain(world.format(SIZE));
    let keys = [key(), new_key(), third_key()];
    for round in 0..6 {
        let (old, new) = (&keys[round % 3], &keys[(round + 1) % 3]);
        let mut volume = open(&world, &host, old, &small_memory()).expect("the key of the round");
        touch(&volume, format!("before {round}").as_bytes()).expect("a healthy disk");
        volume.rotate_key(old, new, slots(round as u8 + 1)).expect("a healthy disk");
        let again = volume.rotate_key(new, old, slots(1));
        assert_eq!(again, Err(Invalid::KeyRotation.into()), "one at a time");
        touch(&volume, format!("during {round}").as_bytes()).expect("a healthy disk");
        volume.change_key_slots(new, slots(round as u8 + 50)).expect("slots change meanwhile");
        drain(&volume);
        assert_eq!(volume.info().key_generation, round as u32 + 2);
        volume.close().expect("a healthy disk");
        check(&world, &host.disk(), new, &small_memory(), &format!("round {round}"));
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let world = World::new(101);
    let disk = world.format(SIZE);
    let refused = |options: &OpenOptions, old: &VolumeKey, new: &VolumeKey, slots: Vec<KeySlot>| {
        let host = Recorder::plain(disk.clone());
        let mut volume = open(&world, &host, &key(), options).expect("an intact image");
        let error = volume.rotate_key(old, new, slots).expect_err("it is refused");
        assert!(host.disk() == disk, "{error} changed something");
        error
    };
    let read_only = OpenOptions { read_only: true, ..small_memory() };
    assert_eq!(refused(&read_only, &key(), &new_key(), slots(2)), Error::Posix(Posix::ReadOnly));
    assert_eq!(refused(&small_memory(), &new_key(), &third_key(), slots(2)), Error::WrongKey);
    assert_eq!(refused(&small_memory(), &key(), &key(), slots(2)), Invalid::VolumeKey.into());
    let long = vec![KeySlot { kind: 1, body: vec![0; 2045] }];
    assert_eq!(refused(&small_memory(), &key(), &new_key(), long), Invalid::KeySlots.into());
}

/// What cannot be read stays as it is, and the rotation says so instead of ending.
#[test]
fn damage_is_neither_hidden_nor_forgotten() {
    let run = Run::new(Anchoring::None, seed("damage_is_neither_hidden_nor_forgotten", 102));
    let mut disk = run.recording.prefix(run.changed);
    // One data block of the old key: the first in the file area that a scrub finds unreadable once it is flipped.
    let damaged = (80..SIZE / BLOCK as u64 - 16).find_map(|block| {
        let mut flipped = disk.clone();
        flipped.flip(block * BLOCK as u64 + 9, 1);
        let mut losses = Vec::new();
        let options = CheckOptions { scrub: true, ..CheckOptions::default() };
        let backend = Arc::new(Recorder::plain(flipped.clone()));
        let _ = check::check(backend, &new_key(), &options, &run.world.env, &mut |event| {
            if let Event::Finding(Finding::DataTampered { .. }) = event {
                losses.push(());
            }
        });
        (losses.len() == 1).then_some(flipped)
    });
    disk = damaged.expect("the volume has a data block");
    let host = Recorder::plain(disk);
    let volume = open(&run.world, &host, &new_key(), &small_memory()).expect("a data block is not needed for that");
    let mut stuck = false;
    for _ in 0..100 {
        stuck = volume.rotate_step().expect("a healthy disk") == RotationStep::Stuck;
        if stuck {
            break;
        }
    }
    assert!(stuck && volume.info().rotating.is_some_and(|left| left.blocks_left >= 1), "{:?}", volume.info());
    volume.close().expect("a healthy disk");
    let volume = open(&run.world, &host, &new_key(), &small_memory()).expect("a closed volume");
    assert!(volume.info().rotating.is_some(), "it has not ended");
    assert!(walk(&volume).is_err(), "what was hit stays so");
}
