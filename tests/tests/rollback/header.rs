//! The header's two copies: the replica is found wherever the backend ends, a damaged copy is put back, and an older header
//! is refused wherever it stands.

use sefs::error::{Result, Tampered};
use sefs::format::{HEADER_LEN, Header};
use sefs_tests::tree::Tree;
use sefs_tests::world::key;

use super::*;

const REPLICA: u64 = SIZE - HEADER_LEN as u64;

/// A closed volume with something in it.
fn image(seed: u64) -> (World, Disk, Tree) {
    let (mut stage, disk) = Stage::new(SIZE, &small_memory(), seed);
    for op in sequence(PROFILE, 12, seed) {
        stage.run(&op).expect("a healthy disk");
    }
    let (world, tree) = (stage.world.clone(), stage.model.tree());
    stage.into_volume().close().expect("a healthy disk");
    (world, disk.disk(), tree)
}

fn header_at(disk: &Disk, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    disk.read(offset, &mut bytes);
    bytes
}

fn open(world: &World, disk: &Disk, read_only: bool) -> (Recorder, Result<Volume>) {
    let host = Recorder::new(disk.clone());
    let options = OpenOptions { read_only, ..small_memory() };
    let volume = world.reseeded(9).open(Arc::new(host.clone()), &options);
    (host, volume)
}

fn says_so(volume: &Volume) -> bool {
    volume.info().notices.contains(&Notice::HeaderReplica)
}

/// A header as an attacker with an old copy has it: authentic, and not the one that the checkpoints accept.
fn older_header(disk: &Disk) -> Vec<u8> {
    let header = Header::decode(&header_at(disk, 0)).expect("a sound image");
    let other = Header { label: "as it was".into(), ..header };
    key().seal_header(&*World::new(0).env.suite, &other).0.into_vec()
}

#[test]
fn the_replica_is_found_wherever_the_backend_ends() {
    let (world, disk, tree) = image(111);
    for more in [0, 512, PAGE as u64, 65_536, 1 << 20, (60 << 20) + 4096] {
        for damage in ["zeros", "noise", "a wrong size", "one bit"] {
            let mut disk = disk.clone();
            disk.set_len(SIZE + more);
            match damage {
                "zeros" => disk.write(0, &[0; HEADER_LEN]),
                "noise" => disk.write(0, &[0xa7; HEADER_LEN]),
                "a wrong size" => disk.flip(281, 0x40),
                _ => disk.flip(300, 1),
            }
            let context = format!("{damage}, {more} bytes more");
            // What is not authenticated is believed as it stands there.
            if damage != "a wrong size" {
                let found = Volume::read_header(&Recorder::plain(disk.clone()));
                let found = found.unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(found.total_blocks, SIZE / PAGE as u64, "{context}");
            }
            let (_, volume) = open(&world, &disk, true);
            let volume = volume.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(says_so(&volume), "{context}");
            assert!(walk(&volume).expect("an intact image") == tree, "{context}");
        }
    }
    // However far the device goes on, a primary that still tells the size leads there.
    let mut far = disk.clone();
    far.set_len(SIZE + (1 << 30));
    far.flip(300, 1);
    assert!(says_so(&open(&world, &far, true).1.expect("the replica")));
    far.write(REPLICA, &[0; HEADER_LEN]);
    assert_eq!(open(&world, &far, true).1.map(drop), Err(Error::Tampered(Tampered::Header)), "neither copy");
}

#[test]
fn a_writing_mount_puts_a_damaged_copy_back() {
    let (world, disk, _) = image(112);
    let sound = header_at(&disk, 0);
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    for (name, at, other) in [("primary", 0, REPLICA), ("replica", REPLICA, 0)] {
        for damage in [vec![0; HEADER_LEN], older_header(&disk)] {
            let mut damaged = disk.clone();
            damaged.write(at, &damage);
            let (host, volume) = open(&world, &damaged, true);
            assert_eq!(says_so(&volume.expect("the other copy")), at == 0);
            assert!(host.disk() == damaged, "a read-only mount changes nothing");
            let (host, volume) = open(&world, &damaged, false);
            let volume = volume.expect("the other copy");
            assert!(host.disk() == damaged, "opening changes nothing");
            volume.make(&Caller::root(), InodeNo::ROOT, b"new", &new).expect("a healthy disk");
            volume.close().expect("a healthy disk");
            assert!(header_at(&host.disk(), at) == sound, "the {name} is put back");
            assert!(header_at(&host.disk(), other) == sound);
            let again = open(&world, &host.disk(), true).1.expect("a sound image");
            assert!(!says_so(&again));
            let (recording, mut dice) = (host.recording(), Dice::new(112));
            for count in 0..=recording.events.len() {
                let crashed = recording.crash(count, &mut dice);
                open(&world, &crashed, false).1.unwrap_or_else(|error| panic!("{name}, event {count}: {error}"));
            }
        }
    }
    let (host, volume) = open(&world, &disk, false);
    let volume = volume.expect("a sound image");
    volume.make(&Caller::root(), InodeNo::ROOT, b"new", &new).expect("a healthy disk");
    volume.close().expect("a healthy disk");
    let header = [0, REPLICA];
    let rewritten = host
        .recording()
        .events
        .iter()
        .any(|event| matches!(event, Event::Write { offset_bytes, .. } if header.contains(offset_bytes)));
    assert!(!rewritten, "sound copies are left alone");
}

#[test]
fn an_older_header_is_refused() {
    let (world, disk, tree) = image(113);
    let old = older_header(&disk);
    let mut both = disk.clone();
    both.write(0, &old);
    both.write(REPLICA, &old);
    let opened = open(&world, &both, false).1.map(drop);
    assert!(matches!(opened, Err(Error::RolledBack(RolledBack::Header { .. }))), "{opened:?}");
    let mut hidden = disk.clone();
    hidden.write(0, &[0; HEADER_LEN]);
    hidden.write(REPLICA, &old);
    let opened = open(&world, &hidden, false).1.map(drop);
    assert!(matches!(opened, Err(Error::RolledBack(RolledBack::Header { .. }))), "{opened:?}");
    for at in [0, REPLICA] {
        let mut one = disk.clone();
        one.write(at, &old);
        let volume = open(&world, &one, true).1.expect("the other copy is the right one");
        assert!(walk(&volume).expect("an intact image") == tree);
        assert_eq!(volume.info().label, "under test");
    }
}
