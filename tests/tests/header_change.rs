//! A change of key slots: a crash at any write leads to the old slots or to the new ones, and afterwards the old header is
//! refused.

use std::sync::Arc;

use sefs::anchor::{AnchorPolicy, AnchorState};
use sefs::backend::Backend;
use sefs::error::{Error, Posix, RolledBack};
use sefs::format::{HEADER_LEN, KeySlot};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, FormatOptions, NewInode, OpenOptions, Volume, WriteMode};
use sefs_tests::disk::Disk;
use sefs_tests::op::{Profile, sequence};
use sefs_tests::recorder::{Recorder, Recording};
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::vault::Vault;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, format_options, key, small_memory};

const SIZE: u64 = 8 << 20;
const PROFILE: Profile = Profile { atomic: true, largest: 60_000, huge: false, remounts: false };

fn slots(byte: u8) -> Vec<KeySlot> {
    (1..=u16::from(byte)).map(|kind| KeySlot { kind, body: vec![byte; 144] }).collect()
}

/// A volume whose slots are changed from `slots(1)` to `slots(2)`, everything recorded.
struct Run {
    world: World,
    recording: Recording,
    anchors: Option<Vec<(usize, AnchorState)>>,
    tree: sefs_tests::tree::Tree,
}

impl Run {
    fn new(policy: Option<AnchorPolicy>, seed: u64) -> Run {
        let world = World::new(seed);
        let vault = policy.map(|_| Arc::new(Vault::new(1)));
        let blank = Recorder::plain(Disk::new(SIZE));
        let anchor = vault.clone().zip(policy).map(|(vault, policy)| (vault as Arc<dyn sefs::anchor::Anchor>, policy));
        let options = FormatOptions { anchor, slots: slots(1), ..format_options(SIZE) };
        world.format_on(Arc::new(blank.clone()), &options).expect("formatting an empty disk");
        let options = options_with(vault.as_ref());
        let before = Recorder::plain(blank.disk());
        let mut stage = Stage::on(world.clone(), Arc::new(before.clone()), &options).expect("a fresh volume");
        for op in sequence(PROFILE, 12, seed) {
            stage.run(&op).expect("a healthy disk");
        }
        let tree = stage.model.tree();
        stage.into_volume().close().expect("a healthy disk");
        let disk = Recorder::new(before.disk());
        if let Some(vault) = &vault {
            vault.watch(&disk);
        }
        let mut volume = world.open(Arc::new(disk.clone()), &options).expect("a closed volume");
        assert_eq!(volume.header().slots, slots(1));
        volume.change_key_slots(&key(), slots(2)).expect("a healthy disk");
        assert_eq!((volume.header().slots.clone(), volume.header().generation), (slots(2), 2));
        drop(volume);
        Run { world, recording: disk.recording(), anchors: vault.map(|vault| vault.history()), tree }
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
}

fn options_with(vault: Option<&Arc<Vault>>) -> OpenOptions {
    let anchor = vault.cloned().map(|vault| vault as Arc<dyn sefs::anchor::Anchor>);
    OpenOptions { anchor, ..small_memory() }
}

fn vault_at(state: Option<&AnchorState>) -> Option<Arc<Vault>> {
    state.map(|state| Arc::new(Vault::holding(1, state.clone())))
}

fn with_header_of(disk: &Disk, from: &Disk) -> Disk {
    let mut out = disk.clone();
    let mut bytes = vec![0; HEADER_LEN];
    for offset in [0, SIZE - HEADER_LEN as u64] {
        from.read(offset, &mut bytes);
        out.write(offset, &bytes);
    }
    out
}

fn touch(volume: &Volume) -> sefs::error::Result<()> {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, b"touched", &new)?.ino;
    volume.write(&Caller::root(), ino, 0, b"x", WriteMode::Direct)?;
    volume.sync()
}

fn crash_everywhere(policy: Option<AnchorPolicy>, name: &str, base: u64) {
    let seed = seed(name, base);
    let mut dice = Dice::new(seed);
    let run = Run::new(policy, seed);
    let (mut old, mut new) = (0, 0);
    for position in 0..=run.end() {
        for state in run.anchors_at(position) {
            for sample in 0..scaled(3, 12) {
                let disk = match sample {
                    0 => run.recording.prefix(position),
                    _ => run.recording.crash(position, &mut dice),
                };
                let context = format!("seed {seed}, {policy:?}, event {position} of {}, sample {sample}", run.end());
                let host = Recorder::plain(disk);
                let vault = vault_at(state.as_ref());
                let options = options_with(vault.as_ref());
                let world = run.world.reseeded(position as u64);
                let volume = world.open(Arc::new(host.clone()), &options).unwrap_or_else(|e| panic!("{context}: {e}"));
                let found = volume.header().slots.clone();
                assert!(found == slots(1) || found == slots(2), "{context}: neither old nor new slots");
                *(if found == slots(1) { &mut old } else { &mut new }) += 1;
                assert!(walk(&volume).expect("an intact image") == run.tree, "{context}");
                // The next mount that writes settles, and both copies are of one header again.
                touch(&volume).unwrap_or_else(|e| panic!("{context}: {e}"));
                volume.close().unwrap_or_else(|e| panic!("{context}: {e}"));
                let settled = host.disk();
                let again = world.open(Arc::new(Recorder::plain(settled.clone())), &options);
                let again = again.unwrap_or_else(|e| panic!("{context}, settled: {e}"));
                assert_eq!(again.header().slots, found, "{context}: another answer after settling");
                world.check(Arc::new(Recorder::plain(settled)), &options, &context);
            }
        }
    }
    assert!(old > 0 && new > 0, "both outcomes are seen: {old} old, {new} new");
}

#[test]
fn a_crash_leads_to_old_or_new_slots() {
    crash_everywhere(None, "a_crash_leads_to_old_or_new_slots", 81);
}

#[test]
fn a_crash_of_an_anchored_volume_leads_to_old_or_new_slots() {
    for policy in [AnchorPolicy::Strict, AnchorPolicy::Checkpoint] {
        crash_everywhere(Some(policy), "a_crash_of_an_anchored_volume_leads_to_old_or_new_slots", 82);
    }
}

/// Once the change returned, the old header is refused, in both places and whatever happens to one slot.
#[test]
fn an_old_header_put_back_is_rolled_back() {
    let run = Run::new(None, seed("an_old_header_put_back_is_rolled_back", 83));
    let (before, after) = (run.recording.prefix(0), run.recording.prefix(run.end()));
    let open = |disk: Disk| run.world.open(Arc::new(Recorder::plain(disk)), &small_memory()).map(drop);
    assert_eq!(open(after.clone()), Ok(()));
    let old = with_header_of(&after, &before);
    assert!(matches!(open(old.clone()), Err(Error::RolledBack(RolledBack::Header { .. }))));
    for slot in [16, 17] {
        let mut damaged = old.clone();
        damaged.flip(slot * 4096 + 100, 1);
        assert!(matches!(open(damaged), Err(Error::RolledBack(_))), "slot {slot} damaged");
        let mut damaged = after.clone();
        damaged.flip(slot * 4096 + 100, 1);
        assert_eq!(open(damaged), Ok(()), "slot {slot} damaged, the new header");
    }
}

/// The same after a change that a crash cut short and the next mount settled.
#[test]
fn settling_ends_the_acceptance_of_the_other_header() {
    let run = Run::new(None, seed("settling_ends_the_acceptance_of_the_other_header", 84));
    let mut settled = 0;
    for position in 0..=run.end() {
        let host = Recorder::plain(run.recording.prefix(position));
        let volume = run.world.reseeded(1).open(Arc::new(host.clone()), &small_memory()).expect("an intact image");
        let chosen = volume.header().slots.clone();
        touch(&volume).expect("a healthy disk");
        drop(volume);
        let other = run.recording.prefix(if chosen == slots(1) { run.end() } else { 0 });
        let swapped = with_header_of(&host.disk(), &other);
        let opened = run.world.open(Arc::new(Recorder::plain(swapped)), &small_memory()).map(drop);
        assert!(matches!(opened, Err(Error::RolledBack(_))), "event {position}: {opened:?}");
        settled += 1;
    }
    assert!(settled > 10);
}

#[test]
fn what_is_refused_changes_nothing() {
    let run = Run::new(None, 85);
    let disk = run.recording.prefix(run.end());
    let refused = |options: &OpenOptions, slots: Vec<KeySlot>, with: &sefs::keys::VolumeKey| {
        let host = Recorder::plain(disk.clone());
        let mut volume = run.world.open(Arc::new(host.clone()), options).expect("an intact image");
        let error = volume.change_key_slots(with, slots).expect_err("it is refused");
        assert!(host.disk() == disk, "{error} changed something");
        error
    };
    let read_only = OpenOptions { read_only: true, ..small_memory() };
    assert_eq!(refused(&read_only, slots(1), &key()), Error::Posix(Posix::ReadOnly));
    let other = sefs::keys::VolumeKey::new([1; 32]);
    assert_eq!(refused(&small_memory(), slots(1), &other), Error::WrongKey);
    refused(&small_memory(), slots(17), &key());
    refused(&small_memory(), vec![KeySlot { kind: 1, body: vec![0; 2045] }], &key());
    refused(&small_memory(), vec![KeySlot { kind: 0, body: vec![] }], &key());
}

/// The largest header there can be, changed again and again on one mount.
#[test]
fn slots_change_as_often_as_one_likes() {
    let world = World::new(86);
    let host = Recorder::plain(world.format(SIZE));
    let mut volume = world.open(Arc::new(host.clone()), &small_memory()).expect("a fresh volume");
    for round in 1..=20u8 {
        touch(&volume)
            .map(drop)
            .or_else(|error| match error {
                Error::Posix(Posix::Exists) => Ok(()),
                error => Err(error),
            })
            .expect("a healthy disk");
        let body = vec![round; if round % 2 == 0 { 2044 } else { 0 }];
        let many: Vec<KeySlot> = (0..16).map(|_| KeySlot { kind: 9, body: body.clone() }).collect();
        volume.change_key_slots(&key(), many.clone()).expect("a healthy disk");
        assert_eq!((volume.header().slots.clone(), volume.header().generation), (many, u64::from(round) + 1));
    }
    volume.close().expect("a healthy disk");
    world.check(Arc::new(Recorder::plain(host.disk())), &small_memory(), "after twenty changes");
    let _ = Arc::new(host) as Arc<dyn Backend>;
}
