//! A change of any stored byte yields an error that names what was hit, or nothing changes for the reader (P2, P3): never
//! wrong data, never a panic, never a hang. On an unanchored volume, groups that no later group confirmed may be dropped.

use std::sync::Arc;

use sefs::error::{Error, Incompatible, Malformed, Tampered};
use sefs::keys::VolumeKey;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Notice, OpenOptions, Volume, WriteMode, XattrMode};
use sefs_tests::attack::{Attack, blames_the_host, consistent};
use sefs_tests::disk::{Disk, PAGE};
use sefs_tests::image::{HEADER_PAGES, Image, SIZE, SLOT_PAGES, SMALL_SIZE, fill, make, read_only};
use sefs_tests::recorder::{Event, Recorder};
use sefs_tests::seed::{Dice, long, scaled, seed};
use sefs_tests::stage::filling;
use sefs_tests::walk::{walk, walk_all};
use sefs_tests::world::{SeededRng, World, format_options, key, small_memory};

fn flips(image: &Image, test: &str) {
    let seed = seed(test, 41);
    let mut attack = Attack::new(image, seed);
    let mut dice = Dice::new(seed);
    for page in image.pages() {
        let per_page = if SLOT_PAGES.contains(&page) { 40 } else { 5 };
        let offsets: Vec<u64> = if long() {
            (0..PAGE as u64).collect()
        } else {
            (0..per_page).map(|part| (part * PAGE as u64 + dice.below(PAGE as u64)) / per_page).collect()
        };
        for offset in offsets {
            let mut disk = image.disk.clone();
            let mask = 1 << dice.below(8);
            disk.flip(page * PAGE as u64 + offset, mask);
            attack.judge(&format!("page {page}, byte {offset}, bit mask {mask:#x}"), &disk);
        }
    }
    attack.summary(test);
    assert!(attack.refused > 0 && attack.partly > 0, "the attack hit nothing that matters");
}

#[test]
fn flipped_bytes_of_a_closed_image() {
    flips(&Image::closed(), "flipped_bytes_of_a_closed_image");
}

#[test]
fn flipped_bytes_of_an_image_with_a_log() {
    flips(&Image::dropped(), "flipped_bytes_of_an_image_with_a_log");
}

#[test]
fn zeroed_and_garbled_blocks() {
    for image in [Image::closed(), Image::dropped()] {
        let mut attack = Attack::new(&image, 42);
        let mut dice = Dice::new(42);
        for page in image.pages() {
            let mut garbage = [0; PAGE];
            dice.fill(&mut garbage);
            for (name, bytes) in [("zeros", [0; PAGE]), ("ones", [0xff; PAGE]), ("garbage", garbage)] {
                let mut disk = image.disk.clone();
                disk.put_page(page, bytes);
                attack.judge(&format!("page {page} replaced by {name}"), &disk);
            }
        }
        attack.summary("zeroed_and_garbled_blocks");
    }
}

#[test]
fn swapped_blocks() {
    let seed = seed("swapped_blocks", 43);
    let image = Image::dropped();
    let pages: Vec<u64> = image.pages().into_iter().filter(|page| *page >= HEADER_PAGES).collect();
    let mut attack = Attack::new(&image, seed);
    let mut dice = Dice::new(seed);
    let mut swap = |left: u64, right: u64| {
        let mut disk = image.disk.clone();
        disk.put_page(left, image.disk.page(right));
        disk.put_page(right, image.disk.page(left));
        attack.judge(&format!("pages {left} and {right} swapped"), &disk);
    };
    if long() {
        for (number, left) in pages.iter().enumerate() {
            pages[number + 1..].iter().for_each(|right| swap(*left, *right));
        }
    } else {
        (0..800).for_each(|_| swap(*dice.pick(&pages), *dice.pick(&pages)));
    }
    attack.summary("swapped_blocks");
}

#[test]
fn older_versions_of_each_block() {
    for image in [Image::closed(), Image::dropped()] {
        let mut attack = Attack::new(&image, 44);
        for (page, versions) in image.recording.versions() {
            for (age, bytes) in versions.iter().enumerate().filter(|(_, bytes)| **bytes != image.disk.page(page)) {
                let mut disk = image.disk.clone();
                disk.put_page(page, *bytes);
                attack.judge(&format!("page {page} back at its version {age}"), &disk);
            }
        }
        attack.summary("older_versions_of_each_block");
    }
}

#[test]
fn truncated_images() {
    let image = Image::closed();
    let mut attack = Attack::new(&image, 45);
    attack.short = true;
    let total = SIZE / PAGE as u64;
    for pages in (0..total).step_by(scaled(29, 1)).chain([1, 15, 16, 17, 18, total - 1]) {
        let mut disk = image.disk.clone();
        disk.set_len(pages * PAGE as u64);
        attack.judge(&format!("cut to {pages} pages"), &disk);
    }
    for odd in [1, 511, 4095, 65_535, 65_537] {
        let mut disk = image.disk.clone();
        disk.set_len(odd);
        attack.judge(&format!("cut to {odd} bytes"), &disk);
    }
    attack.summary("truncated_images");
    assert_eq!(attack.refused, attack.cases, "every cut is refused");
}

/// A backend that claims to be longer than the volume changes nothing: geometry comes from the header.
#[test]
fn an_image_that_is_too_long_is_the_same_volume() {
    let image = Image::closed();
    let mut attack = Attack::new(&image, 46);
    for more in [PAGE as u64, 1 << 20] {
        let mut disk = image.disk.clone();
        disk.set_len(SIZE + more);
        attack.judge("a longer image", &disk);
    }
    assert_eq!((attack.refused, attack.partly), (0, 0));
}

/// A flip in the middle of the log, with later groups present, is an attack and not the end of the log.
#[test]
fn a_flip_in_a_confirmed_group_is_tampering() {
    let image = Image::dropped();
    let groups = image.live_groups();
    assert!(groups.len() >= 3, "the image should have several groups, has {}", groups.len());
    let heads =
        groups[..groups.len() - 1].iter().flatten().filter(|page| image.disk.page(**page).starts_with(b"SEFSgrp1"));
    let mut checked = 0;
    for page in heads {
        for offset in [0, 8, 20, 33, 50, 70, 90] {
            let mut disk = image.disk.clone();
            disk.flip(page * PAGE as u64 + offset, 4);
            let opened = image.world.open(Arc::new(Recorder::plain(disk)), &read_only());
            let tampered = matches!(opened, Err(Error::Tampered(Tampered::LogGroup { .. })));
            assert!(tampered, "page {page}, byte {offset}: {:?}", opened.err());
            checked += 1;
        }
    }
    assert!(checked > 0);
}

/// The data of a group that a later one confirmed are missed where they are read; no operation is gone for it.
#[test]
fn a_flip_in_the_data_of_a_confirmed_group_cuts_nothing() {
    let image = Image::dropped();
    let groups = image.live_groups();
    let is_head = |page: &&u64| image.disk.page(**page).starts_with(b"SEFSgrp1");
    let data: Vec<u64> = groups[..groups.len() - 1].iter().flatten().filter(|page| !is_head(page)).copied().collect();
    assert!(data.len() > 3, "the image should have groups with data");
    for page in data {
        let mut disk = image.disk.clone();
        disk.flip(page * PAGE as u64 + 100, 4);
        match image.world.open(Arc::new(Recorder::plain(disk)), &read_only()) {
            Err(error) => assert!(matches!(error, Error::Tampered(_)), "page {page}: {error:?}"),
            Ok(volume) => consistent(&walk_all(&volume), &image.expected)
                .unwrap_or_else(|difference| panic!("page {page}: not the newest state:\n{difference}")),
        }
    }
}

/// The last group may be torn by a crash, so its loss mounts; the mount says what it dropped.
#[test]
fn a_flip_in_the_last_group_drops_it_and_says_so() {
    let image = Image::dropped();
    let groups = image.live_groups();
    let last = groups.last().expect("the image has a log");
    let mut disk = image.disk.clone();
    disk.flip(last[0] * PAGE as u64 + 100, 4);
    let volume = image.world.open(Arc::new(Recorder::plain(disk)), &read_only()).expect("mounts without it");
    assert_eq!(walk(&volume).expect("an earlier state"), image.earlier[0]);
    assert!(volume.info().dropped_groups > 0);
    assert!(volume.info().notices.iter().any(|notice| matches!(notice, Notice::DroppedGroups { .. })));
}

/// Blocks of another volume under the same key are not this volume's blocks.
#[test]
fn nothing_moves_between_volumes_of_one_key() {
    let image = Image::closed();
    let other = World::new(77);
    let host = Recorder::plain(Disk::new(SIZE));
    let options = sefs::vfs::FormatOptions { volume_id: *b"another volume!!", ..format_options(SIZE) };
    other.format_on(Arc::new(host.clone()), &options).expect("formatting");
    let volume = other.open(Arc::new(host.clone()), &small_memory()).expect("a fresh volume");
    let dir = make(&volume, InodeNo::ROOT, "dir", FileKind::Directory);
    fill(&volume, dir, "big", 0, 700_000);
    volume.close().expect("a healthy disk");
    let foreign = host.disk();

    let mut attack = Attack::new(&image, 47);
    for page in image.pages().into_iter().filter(|page| image.disk.page(*page) != foreign.page(*page)) {
        let mut disk = image.disk.clone();
        disk.put_page(page, foreign.page(page));
        attack.judge(&format!("page {page} from another volume"), &disk);
    }
    let mut headers = image.disk.clone();
    (0..HEADER_PAGES).for_each(|page| headers.put_page(page, foreign.page(page)));
    attack.judge("the header from another volume", &headers);
    attack.summary("nothing_moves_between_volumes_of_one_key");

    let pinned = OpenOptions { volume_id: Some(sefs_tests::world::VOLUME_ID), ..read_only() };
    let refused = other.open(Arc::new(host), &pinned).err();
    assert_eq!(refused, Some(Error::Incompatible(Incompatible::VolumeId)));
}

#[test]
fn a_wrong_key_is_a_wrong_key() {
    let image = Image::closed();
    let wrong = VolumeKey::new([0x5b; 32]);
    let host = Arc::new(Recorder::plain(image.disk.clone()));
    let opened = Volume::open(host, &wrong, &read_only(), &image.world.env);
    assert_eq!(opened.err(), Some(Error::WrongKey));
}

/// What a hostile header can claim, and what it is refused as.
#[test]
fn hostile_headers() {
    let image = Image::closed();
    let with = |offset: u64, bytes: &[u8]| {
        let mut disk = image.disk.clone();
        disk.write(offset, bytes);
        disk.write(SIZE - HEADER_PAGES * PAGE as u64 + offset, bytes);
        image.world.open(Arc::new(Recorder::plain(disk)), &read_only()).err()
    };
    let cases: [(&str, u64, &[u8]); 18] = [
        ("magic", 0, b"SEFSvom\0"),
        ("version", 8, &2u16.to_le_bytes()),
        ("image type", 10, &3u16.to_le_bytes()),
        ("an unknown incompatible feature", 16, &(1u64 << 40).to_le_bytes()),
        ("volume id", 24, &[1]),
        ("suite: digests only", 40, &3u16.to_le_bytes()),
        ("suite: unknown", 40, &9u16.to_le_bytes()),
        ("node size 0", 44, &0u32.to_le_bytes()),
        ("node size 4 GiB", 44, &u32::MAX.to_le_bytes()),
        ("no blocks in a group", 52, &0u32.to_le_bytes()),
        ("ring past the end", 56, &u64::MAX.to_le_bytes()),
        ("endless ring", 64, &u64::MAX.to_le_bytes()),
        ("endless volume", 280, &u64::MAX.to_le_bytes()),
        ("layers without end", 292, &u16::MAX.to_le_bytes()),
        // What nothing but the tag tells from the truth.
        ("another generation", 256, &77u64.to_le_bytes()),
        ("a compatible feature", 272, &1u64.to_le_bytes()),
        ("another generation of the key", 288, &2u32.to_le_bytes()),
        ("another label", 296, b"theirs"),
    ];
    for (what, offset, bytes) in cases {
        let error = with(offset, bytes).unwrap_or_else(|| panic!("{what}: opened"));
        assert!(blames_the_host(&error), "{what}: {error:?}");
    }
    assert_eq!(with(0, b"XXXXXXXX"), Some(Error::Malformed(Malformed::NotSefs)));
    assert_eq!(with(8, &7u16.to_le_bytes()), Some(Error::Incompatible(Incompatible::FormatVersion(7))));
}

/// A machine is cloned as it runs, so that both halves seal with the same keys. A group of the other half in place of ours
/// opens under its key, and stands where it says; that it follows another group than ours is what gives it away.
#[test]
fn groups_of_a_cloned_machine_do_not_continue_our_log() {
    let world = World::new(6);
    let image = world.format(SMALL_SIZE);
    let halves = [1, 2].map(|half| {
        let rng = Arc::new(SeededRng::new(6));
        let host = Recorder::new(image.clone());
        let volume = world.with_rng(rng.clone()).open(Arc::new(host.clone()), &small_memory()).expect("a fresh volume");
        let files = ["a", "b"].map(|name| fill(&volume, InodeNo::ROOT, name, 0, 100));
        volume.sync().expect("a healthy disk");
        rng.part(half);
        let mut cuts = Vec::new();
        for ino in files {
            let data = filling(half as u32, 9000);
            volume.write(&Caller::root(), ino, 0, &data, WriteMode::Direct).expect("a healthy disk");
            volume.sync().expect("a healthy disk");
            cuts.push((host.position(), walk(&volume).expect("a healthy disk")));
        }
        (host.recording(), cuts)
    });
    let [(ours, cuts), (theirs, _)] = halves;
    let (first, second) = (ours.prefix(cuts[0].0), ours.prefix(cuts[1].0));
    assert_ne!(cuts[0].1, cuts[1].1);
    let other = theirs.prefix(cuts[1].0);
    // What the second group wrote, as the other half has it, behind our first.
    let pages: Vec<u64> =
        (0..SMALL_SIZE / PAGE as u64).filter(|page| first.page(*page) != second.page(*page)).collect();
    assert!(!pages.is_empty());
    let mut mixed = first.clone();
    pages.iter().for_each(|page| mixed.put_page(*page, other.page(*page)));
    assert_ne!(mixed.print(&image), second.print(&image), "the halves differ");
    let volume = world.open(Arc::new(Recorder::plain(mixed)), &read_only()).expect("our log ends with our first group");
    assert_eq!(walk(&volume).expect("our own state"), cuts[0].1);
}

/// The header is gone, and the host says that the image is as long as it likes: looking for the replica ends soon all the same.
#[test]
fn a_length_that_is_a_lie_costs_little() {
    let image = Image::closed();
    let mut disk = image.disk.clone();
    (0..HEADER_PAGES).for_each(|page| disk.put_page(page, [0xee; PAGE]));
    disk.set_len(1 << 40);
    let host = Recorder::plain(disk);
    host.limit_reads(1000);
    let error = image.world.open(Arc::new(host.clone()), &read_only()).err();
    assert_eq!(error, Some(Error::Malformed(Malformed::NotSefs)));
    assert!(!host.read_limit_passed(), "reads as far as the host tells it to");
}

/// P1: whatever a volume holds, the host sees none of it in the clear.
#[test]
fn nothing_that_can_be_read_reaches_the_host() {
    let world = World::new(7);
    let host = Recorder::new(world.format(SMALL_SIZE));
    let volume = world.open(Arc::new(host.clone()), &small_memory()).expect("a fresh volume");
    let root = Caller::root();
    let secrets = ["secret directory", "secret name", "inline secret", "secret in a page", "secret at home"];
    let more = ["user.secret attribute", "secret value", "secret target"];
    let dir = make(&volume, InodeNo::ROOT, secrets[0], FileKind::Directory);
    let file = make(&volume, dir, secrets[1], FileKind::Regular);
    let repeated = |text: &str, len: usize| text.as_bytes().iter().copied().cycle().take(len).collect::<Vec<u8>>();
    for (name, text, len) in [("1", secrets[2], 500), ("2", secrets[3], 20_000), ("3", secrets[4], 300_000)] {
        let ino = make(&volume, dir, name, FileKind::Regular);
        let data = repeated(text, len);
        volume.write(&root, ino, 0, &data, WriteMode::Direct).expect("a healthy disk");
    }
    let value = repeated(more[1], 3000);
    volume.set_xattr(&root, file, more[0].as_bytes(), &value, XattrMode::Any).expect("a healthy disk");
    let target = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target: more[2].into() };
    volume.make(&root, dir, b"link", &target).expect("a healthy disk");
    volume.sync().expect("a healthy disk");
    volume.work(true).expect("a healthy disk");
    volume.close().expect("a healthy disk");
    let mut written = 0;
    for event in host.recording().events {
        let Event::Write { data, .. } = event else { continue };
        written += data.len();
        for secret in secrets.iter().chain(&more) {
            let seen = data.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
            assert!(!seen, "the host sees {secret:?}");
        }
        assert!(!data.windows(32).any(|bytes| bytes == [0x5a; 32]), "the host sees the key");
    }
    assert!(written > 300_000, "{written} bytes were written");
}

/// The newest slot zeroed: the older one with the log leads to the same state, or it is refused.
#[test]
fn one_lost_slot_loses_nothing() {
    for image in [Image::closed(), Image::dropped()] {
        for slot in SLOT_PAGES {
            let mut disk = image.disk.clone();
            disk.put_page(slot, [0; PAGE]);
            let host = Arc::new(Recorder::plain(disk));
            let volume = image.world.open(host, &read_only()).expect("either slot leads to the same state");
            assert_eq!(walk(&volume).expect("either slot leads to the same state"), image.expected, "without {slot}");
        }
        let mut disk = image.disk.clone();
        SLOT_PAGES.iter().for_each(|slot| disk.put_page(*slot, [0; PAGE]));
        let error = image.world.open(Arc::new(Recorder::plain(disk)), &read_only()).err();
        assert_eq!(error, Some(Error::Tampered(Tampered::CheckpointSlots)));
    }
}

/// During a mount an older state is refused whatever the anchor: the whole disk goes back under a running volume.
#[test]
fn going_back_under_a_mount_is_seen() {
    let world = World::new(5);
    let host = Recorder::plain(world.format(48 << 20));
    let volume = world.open(Arc::new(host.clone()), &small_memory()).expect("a fresh volume");
    let files: Vec<InodeNo> =
        (0..8).map(|number| fill(&volume, InodeNo::ROOT, &format!("{number}"), 0, 1 << 20)).collect();
    volume.sync().expect("a healthy disk");
    let old = host.disk();
    let root = Caller::root();
    for (number, ino) in files.iter().enumerate() {
        let data = filling(1000 + number as u32, 1 << 20);
        volume.write(&root, *ino, 0, &data, WriteMode::Direct).expect("a healthy disk");
    }
    volume.sync().expect("a healthy disk");
    host.replace_disk(old);
    let mut refused = 0;
    for (number, ino) in files.iter().enumerate() {
        let mut back = vec![0; 1 << 20];
        match volume.read(*ino, 0, &mut back) {
            Ok(_) => assert!(back == filling(1000 + number as u32, 1 << 20), "file {number}: old or wrong data"),
            Err(error) => {
                assert!(matches!(error, Error::Tampered(Tampered::Data { .. })), "file {number}: {error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "8 MiB do not fit into a budget of 4 MiB");
}

/// Nothing that is refused is remembered: put back, the bytes are read again.
#[test]
fn a_refusal_is_not_remembered() {
    let image = Image::closed();
    let host = Recorder::plain(image.disk.clone());
    let volume = image.world.open(Arc::new(host.clone()), &read_only()).expect("an intact image");
    let mut zeros = image.disk.clone();
    image.disk.used_pages().iter().filter(|page| **page >= 64).for_each(|page| zeros.put_page(*page, [0; PAGE]));
    host.replace_disk(zeros);
    let found = walk_all(&volume);
    assert!(!found.errors.is_empty(), "nothing was read from the disk");
    host.replace_disk(image.disk.clone());
    assert_eq!(walk(&volume).expect("the image is intact again"), image.expected);
}

#[test]
fn the_key_opens_its_own_volume() {
    let image = Image::closed();
    let host = Arc::new(Recorder::plain(image.disk.clone()));
    let volume = Volume::open(host, &key(), &read_only(), &image.world.env).expect("the right key");
    assert_eq!(walk(&volume).expect("an intact image"), image.expected);
}
