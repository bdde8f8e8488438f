//! Volumes over images get other versions of these: at any moment, and after a crash at any write, they show one version or the
//! other whole, and all that is the volume's own.

use std::sync::Arc;

use sefs::check::CheckOptions;
use sefs::layers::{Upgraded, Why, upgrade};
use sefs::vfs::{Lower, OpenOptions};
use sefs_tests::op::{Op, Profile, sequence};
use sefs_tests::packed::Packed;
use sefs_tests::recorder::{Event, Recorder};
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::Stage;
use sefs_tests::tree::Tree;
use sefs_tests::walk::walk;
use sefs_tests::world::{World, key, small_memory};

const PROFILE: Profile = Profile { atomic: true, largest: 120_000, huge: false, remounts: false };

fn run(stage: &mut Stage, ops: &[Op]) {
    for op in ops {
        stage.run(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
}

/// A volume over one version of an image, and the next version.
struct Versions {
    stage: Stage,
    disk: Recorder,
    old: Vec<Lower>,
    new: Packed,
    /// What the next version shows by itself.
    plain: Tree,
}

impl Versions {
    /// `own` operations on the volume.
    fn new(seed: u64, own: usize) -> Versions {
        let options = small_memory();
        let (mut stage, _) = Stage::new(16 << 20, &options, seed);
        run(&mut stage, &sequence(PROFILE, 80, seed));
        // Both versions come from one tree, so that most of it is the same.
        stage.rebase(seed.is_multiple_of(2)).unwrap();
        let (world, old) = (stage.world.clone(), stage.world.lowers.clone());
        let memory = stage.memory();
        run(&mut stage, &sequence(PROFILE, 40, seed + 1));
        let plain = walk(stage.volume()).unwrap();
        let new = Packed::of(stage.volume(), seed.is_multiple_of(3), &world.env).unwrap();
        let mut world = world;
        let notes: Vec<_> = old
            .iter()
            .map(|image| sefs::vfs::NewLower {
                image: image.clone(),
                root_digest: digest(image, &world),
                note: Vec::new(),
            })
            .collect();
        let disk = Recorder::new(world.format_over(16 << 20, &notes));
        let mut stage = Stage::recall(world, Arc::new(disk.clone()), &options, &memory).unwrap();
        run(&mut stage, &sequence(PROFILE, own, seed + 2));
        stage.volume().sync().unwrap();
        Versions { stage, disk, old, new, plain }
    }

    fn upgrade(&self, disk: &Recorder, world: &World) -> Upgraded {
        let options = CheckOptions { lowers: self.old.clone(), memory_bytes: 4 << 20, ..CheckOptions::default() };
        let new = [self.new.new_lower()];
        upgrade(Arc::new(disk.clone()), &key(), &options, &new, &world.env, &mut |_, _, _| {}).unwrap()
    }

    fn over_new(&self, world: &World) -> World {
        World { lowers: vec![self.new.lower()], ..world.clone() }
    }
}

fn digest(image: &Lower, world: &World) -> Option<[u8; 32]> {
    sefs::vfs::Volume::read_root_digest(&*image.backend, &world.env).ok()
}

fn tree(world: &World, disk: &Recorder) -> Result<Tree, sefs::error::Error> {
    walk(&world.open(Arc::new(disk.clone()), &OpenOptions { read_only: true, ..small_memory() })?)
}

#[test]
fn a_volume_without_changes_shows_the_new_version() {
    let seed = seed("a_volume_without_changes_shows_the_new_version", 5);
    for round in 0..scaled(4, 100) as u64 {
        let versions = Versions::new(seed + 10 * round, 0);
        let world = versions.stage.world.clone();
        let disk = Recorder::plain(versions.disk.disk());
        let done = versions.upgrade(&disk, &world);
        assert_eq!(done, Upgraded::Done(Vec::new()), "round {round}");
        let world = versions.over_new(&world);
        world.check(Arc::new(disk.clone()), &small_memory(), "after the upgrade");
        let found = tree(&world, &disk).unwrap();
        assert!(found == versions.plain, "round {round}:\n{}", versions.plain.difference(&found));
    }
}

/// Random changes on both sides: the volume is whole, opens over the new image only, and nothing of its own is gone.
#[test]
fn random_changes_on_both_sides() {
    let seed = seed("random_changes_on_both_sides", 77);
    for round in 0..scaled(6, 300) as u64 {
        let versions = Versions::new(seed + 10 * round, 50);
        let (world, context) = (versions.stage.world.clone(), format!("round {round}"));
        let disk = Recorder::plain(versions.disk.disk());
        let before = tree(&world, &disk).unwrap();
        let done = versions.upgrade(&disk, &world);
        let Upgraded::Done(conflicts) = done else { panic!("{context}: {done:?}") };
        assert!(tree(&world, &disk).is_err(), "{context}: it still opens over the old image");
        let world = versions.over_new(&world);
        world.check(Arc::new(disk.clone()), &small_memory(), &context);
        let after = tree(&world, &disk).unwrap();
        // What has a change of the volume's own has its content, wherever the new version has nothing to say.
        let kept = |path: &[u8]| conflicts.iter().any(|conflict| conflict.path == path && conflict.why != Why::LeftOut);
        for (path, entry) in before.0.iter().filter(|(path, _)| kept(path)) {
            let found =
                after.0.get(path).unwrap_or_else(|| panic!("{context}: {path:?} is gone: {entry:?}; {conflicts:?}"));
            assert_eq!(
                (found.kind, &found.print, found.size),
                (entry.kind, &entry.print, entry.size),
                "{context}: {path:?}"
            );
        }
    }
}

#[test]
fn an_upgrade_that_is_cut_off_has_happened_or_has_not() {
    let seed = seed("an_upgrade_that_is_cut_off_has_happened_or_has_not", 9);
    for round in 0..scaled(3, 60) as u64 {
        let versions = Versions::new(seed + 10 * round, 40);
        let world = versions.stage.world.clone();
        let disk = Recorder::new(versions.disk.disk());
        let before = tree(&world, &disk).unwrap();
        let done = versions.upgrade(&disk, &world);
        assert!(matches!(done, Upgraded::Done(_)), "{done:?}");
        let new_world = versions.over_new(&world);
        let after = tree(&new_world, &disk).unwrap();
        let (recording, mut dice) = (disk.recording(), Dice::new(seed + round));
        println!("round {round}: {} writes and flushes", recording.events.len());
        let (mut old_states, mut new_states) = (0, 0);
        for count in 0..=recording.events.len() {
            let after_flush = count > 0 && matches!(recording.events[count - 1], Event::Flush { .. });
            let mut disks = vec![recording.crash(count, &mut dice)];
            disks.extend((!after_flush).then(|| recording.prefix(count)));
            for disk in disks {
                let (disk, context) = (Recorder::plain(disk), format!("round {round}, crash after event {count}"));
                let (found, world) = match tree(&world, &disk) {
                    Ok(found) => {
                        assert!(found == before, "{context}:\n{}", before.difference(&found));
                        old_states += 1;
                        (found, &world)
                    }
                    Err(_) => {
                        let found = tree(&new_world, &disk).unwrap_or_else(|error| panic!("{context}: {error}"));
                        assert!(found == after, "{context}:\n{}", after.difference(&found));
                        new_states += 1;
                        (found, &new_world)
                    }
                };
                drop(found);
                if dice.one_in(4) {
                    world.check(Arc::new(disk), &small_memory(), &context);
                }
            }
        }
        assert!(old_states > 0 && new_states > 0, "round {round}: {old_states} and {new_states}");
    }
}
