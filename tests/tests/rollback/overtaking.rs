//! A strict commit that overtakes a checkpoint: the anchor names a point of the new slot's log under the old slot's salt.

use std::sync::{Arc, Mutex, OnceLock};

use sefs::error::{Error, RolledBack};
use sefs_tests::interposed::Interposed;

use super::*;

/// Where the slots stand.
const SLOTS: [u64; 2] = [16 * PAGE as u64, 17 * PAGE as u64];
const LATE: &[u8] = b"late";

/// Disk and anchor at one moment.
#[derive(Clone)]
struct Moment {
    disk: Disk,
    state: AnchorState,
}

impl Moment {
    fn of(disk: &Recorder, vault: &Vault) -> Moment {
        Moment { disk: disk.disk(), state: vault.state() }
    }
}

/// What such a run leaves behind.
struct Overtaken {
    world: World,
    /// When the slot was written, before the commit.
    before: Moment,
    /// After the commit, before the anchor heard of the slot.
    between: Moment,
    /// After the checkpoint.
    after: Moment,
}

fn make(volume: &Volume, name: &[u8]) -> InodeNo {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), InodeNo::ROOT, name, &new).expect("a healthy disk").ino
}

impl Overtaken {
    /// `len` bytes are written by the commit: few travel in the ring, many go home.
    fn new(len: usize, seed: u64) -> Overtaken {
        let world = World::new(seed);
        let vault = Arc::new(Vault::new(1));
        let disk = Recorder::plain(Disk::new(SIZE));
        let options = FormatOptions { anchor: Some((vault.clone(), AnchorPolicy::Strict)), ..format_options(SIZE) };
        world.format_on(Arc::new(disk.clone()), &options).expect("formatting an empty disk");
        let host = Interposed::new(disk.clone());
        let volume = Arc::new(world.open(Arc::new(host.clone()), &anchored(&vault)).expect("a fresh volume"));
        let early = make(&volume, b"early");
        volume.write(&Caller::root(), early, 0, &[1; 70_000], WriteMode::Direct).expect("a healthy disk");
        volume.sync().expect("a healthy disk");
        volume.unlink(&Caller::root(), InodeNo::ROOT, b"early").expect("a healthy disk");

        let seen: Arc<OnceLock<(Moment, Moment)>> = Arc::default();
        let (weak, inner) = (Arc::downgrade(&volume), Mutex::new((disk.clone(), vault.clone(), seen.clone())));
        host.after_write(&SLOTS, move || {
            let (disk, vault, seen) = &*inner.lock().expect("nobody else has it");
            let before = Moment::of(disk, vault);
            let volume = weak.upgrade().expect("it is the one that writes");
            let ino = make(&volume, LATE);
            volume.write(&Caller::root(), ino, 0, &vec![2; len], WriteMode::Direct).expect("a healthy disk");
            volume.sync().expect("a healthy disk");
            seen.set((before, Moment::of(disk, vault))).ok().expect("it runs once");
        });
        // What was given back is merged before the space is told.
        volume.stat_fs();
        let (before, between) = seen.get().expect("the checkpoint wrote a slot").clone();
        let after = Moment::of(&disk, &vault);
        assert_ne!(between.state, before.state, "the commit moved the anchor");
        assert_ne!(after.state, between.state, "the checkpoint moved it once more");
        Overtaken { world, before, between, after }
    }

    /// Whether the late file is there; `None` if the volume is refused.
    fn look(&self, disk: &Disk, state: &AnchorState, context: &str) -> Option<bool> {
        let opened =
            self.world.reseeded(3).open(Arc::new(Recorder::plain(disk.clone())), &anchored(&with_state(state)));
        match opened {
            Ok(volume) => match volume.lookup(&Caller::root(), InodeNo::ROOT, LATE) {
                Ok(_) => Some(true),
                Err(Error::Posix(_)) => Some(false),
                Err(error) => panic!("{context}: {error}"),
            },
            Err(Error::RolledBack(RolledBack::Anchor { .. }) | Error::Tampered(_)) => None,
            Err(error) => panic!("{context}: {error}"),
        }
    }
}

fn changed(left: &Disk, right: &Disk) -> Vec<u64> {
    (0..SIZE / PAGE as u64).filter(|page| left.page(*page) != right.page(*page)).collect()
}

#[test]
fn a_commit_that_overtook_a_slot_is_there_and_cannot_be_dropped() {
    for (len, seed) in [(3000, 81), (20_000, 82), (200_000, 83)] {
        let run = Overtaken::new(len, seed);
        for moment in [&run.between, &run.after] {
            assert_eq!(run.look(&moment.disk, &moment.state, "as it was"), Some(true), "{len} bytes");
            // Whatever the commit wrote is withheld, page by page and as a whole.
            let pages = changed(&run.before.disk, &run.between.disk);
            assert!(!pages.is_empty());
            let mut without = moment.disk.clone();
            for page in &pages {
                let mut disk = moment.disk.clone();
                disk.put_page(*page, run.before.disk.page(*page));
                without.put_page(*page, run.before.disk.page(*page));
                let found = run.look(&disk, &moment.state, &format!("{len} bytes, page {page}"));
                assert_ne!(found, Some(false), "{len} bytes: with page {page} withheld the commit is gone unnoticed");
            }
            assert_eq!(run.look(&without, &moment.state, "the whole tail"), None, "{len} bytes");
        }
    }
}

/// One of the two slots is taken away: the anchor does not follow to a state that it has left.
#[test]
fn a_slot_that_the_anchor_has_left_is_no_way_back() {
    let run = Overtaken::new(3000, 84);
    let newer = changed(&run.before.disk, &run.after.disk);
    assert!(!newer.is_empty());
    for offset in SLOTS {
        for moment in [&run.between, &run.after] {
            let mut disk = moment.disk.clone();
            disk.put_page(offset / PAGE as u64, [0; PAGE]);
            assert_ne!(run.look(&disk, &moment.state, "a slot is gone"), Some(false));
        }
    }
    assert_eq!(run.look(&run.before.disk, &run.between.state, "an older image"), None);
    assert_eq!(run.look(&run.before.disk, &run.after.state, "an older image"), None);
    assert_eq!(run.look(&run.between.disk, &run.after.state, "the same state"), Some(true));
}
