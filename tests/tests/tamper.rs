//! A change of any stored byte yields an error that names what was hit, or nothing changes for the reader (P2, P3): never
//! wrong data, never a panic, never a hang. On an unanchored volume, groups that no later group confirmed may be dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use sefs::error::{Error, Incompatible, Malformed, Tampered};
use sefs::keys::VolumeKey;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Notice, OpenOptions, SetAttr, Volume, WriteMode, XattrMode};
use sefs_tests::disk::{Disk, PAGE};
use sefs_tests::recorder::{Event, Recorder, Recording};
use sefs_tests::seed::{Dice, long, scaled, seed};
use sefs_tests::stage::filling;
use sefs_tests::tree::Tree;
use sefs_tests::walk::{Found, walk, walk_all};
use sefs_tests::watchdog::Watchdog;
use sefs_tests::world::{World, format_options, key, small_memory};

const SIZE: u64 = 8 << 20;
const HEADER_PAGES: u64 = 16;
const SLOT_PAGES: [u64; 2] = [16, 17];

/// An image with a bit of everything, and its history.
struct Image {
    world: World,
    disk: Disk,
    recording: Recording,
    expected: Tree,
    /// States that a reader may see instead: those after the last group that a later one confirmed.
    earlier: Vec<Tree>,
}

impl Image {
    /// Closed cleanly: nothing may be missing.
    fn closed() -> Image {
        let (world, disk, volume, _) = build();
        let expected = walk(&volume).expect("a healthy disk");
        volume.close().expect("a healthy disk");
        Image { world, disk: disk.disk(), recording: disk.recording(), expected, earlier: Vec::new() }
    }

    /// Dropped after the last sync: the log holds several groups, the last of which nothing confirms.
    fn dropped() -> Image {
        let (world, disk, volume, before_last_sync) = build();
        let expected = walk(&volume).expect("a healthy disk");
        drop(volume);
        Image { world, disk: disk.disk(), recording: disk.recording(), expected, earlier: vec![before_last_sync] }
    }

    /// Ring pages of groups since the last checkpoint, oldest first, by sync.
    fn live_groups(&self) -> Vec<Vec<u64>> {
        let ring_start = word(&self.disk, 56);
        let ring = ring_start..ring_start + word(&self.disk, 64);
        let mut groups: Vec<Vec<u64>> = vec![Vec::new()];
        for event in &self.recording.events {
            match event {
                Event::Write { offset_bytes, .. } if SLOT_PAGES.contains(&(offset_bytes / PAGE as u64)) => {
                    groups = vec![Vec::new()];
                }
                Event::Write { offset_bytes, data } => {
                    let first = offset_bytes / PAGE as u64;
                    let pages = first..first + (data.len() / PAGE) as u64;
                    groups.last_mut().expect("never empty").extend(pages.filter(|page| ring.contains(page)));
                }
                Event::Flush { .. } => groups.push(Vec::new()),
                Event::Discard { .. } | Event::Grow(_) => {}
            }
        }
        groups.retain(|pages| !pages.is_empty());
        groups
    }

    /// Pages that hold something or that a reader asks for.
    fn pages(&self) -> Vec<u64> {
        let disk = Recorder::plain(self.disk.clone());
        let volume = self.world.open(Arc::new(disk.clone()), &read_only()).expect("an intact image");
        assert_eq!(walk(&volume).expect("an intact image"), self.expected);
        let mut pages = disk.pages_read();
        pages.extend(self.disk.used_pages());
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

fn word(disk: &Disk, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    disk.read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn read_only() -> OpenOptions {
    OpenOptions { read_only: true, ..small_memory() }
}

/// Directories, an inline file, files of several chunks, holes, links, symlinks, attributes; overwritten here and there,
/// over two mounts, with a checkpoint in between and a log after it.
fn build() -> (World, Recorder, Volume, Tree) {
    let world = World::new(77);
    let disk = Recorder::new(world.format(SIZE));
    let volume = world.open(Arc::new(disk.clone()), &small_memory()).expect("a fresh volume");
    let dir = make(&volume, InodeNo::ROOT, "dir", FileKind::Directory);
    let inner = make(&volume, dir, "inner", FileKind::Directory);
    let big = fill(&volume, dir, "big", 0, 700_000);
    fill(&volume, inner, "inline", 0, 1500);
    volume.sync().expect("a healthy disk");
    fill(&volume, inner, "holes", 900_000, 10_000);
    for number in 0..40 {
        fill(&volume, inner, &format!("many {number}"), 0, 100 + number * 37);
    }
    let root = Caller::root();
    volume.set_xattr(&root, big, b"user.large", &filling(9, 9000), XattrMode::Any).expect("a healthy disk");
    volume.link(&root, big, InodeNo::ROOT, b"link to big").expect("a healthy disk");
    make(&volume, dir, "symlink", FileKind::Symlink);
    volume.close().expect("a healthy disk");

    let volume = world.open(Arc::new(disk.clone()), &small_memory()).expect("a healthy disk");
    let overwrite = |offset: u64, seed: u32| {
        let data = filling(seed, 30_000);
        volume.write(&root, big, offset, &data, WriteMode::Direct).expect("a healthy disk");
        volume.sync().expect("a healthy disk");
    };
    overwrite(100_000, 21);
    overwrite(300_001, 22);
    volume.set_attr(&root, big, &SetAttr { size: Some(650_000), ..SetAttr::default() }).expect("a healthy disk");
    fill(&volume, dir, "late", 0, 20_000);
    volume.sync().expect("a healthy disk");
    let before_last_sync = walk(&volume).expect("a healthy disk");
    volume.unlink(&root, dir, b"late").expect("a healthy disk");
    fill(&volume, dir, "last", 0, 9000);
    volume.sync().expect("a healthy disk");
    (world, disk, volume, before_last_sync)
}

fn make(volume: &Volume, dir: InodeNo, name: &str, kind: FileKind) -> InodeNo {
    let target = if kind == FileKind::Symlink { b"dir/inner".to_vec() } else { Vec::new() };
    let new = NewInode { kind, mode: 0o755, rdev: 0, target };
    volume.make(&Caller::root(), dir, name.as_bytes(), &new).expect("a healthy disk").ino
}

fn fill(volume: &Volume, dir: InodeNo, name: &str, offset: u64, len: u32) -> InodeNo {
    let ino = make(volume, dir, name, FileKind::Regular);
    let data = filling(len, len);
    volume.write(&Caller::root(), ino, offset, &data, WriteMode::Direct).expect("a healthy disk");
    ino
}

/// Whether an error blames the stored bytes before it trusts them. `Corrupt` does not: it says that the bytes are
/// authentic, which no change from outside can make true.
fn blames_the_host(error: &Error) -> bool {
    matches!(
        error,
        Error::Tampered(_) | Error::RolledBack(_) | Error::Malformed(_) | Error::Incompatible(_) | Error::WrongKey
    )
}

/// Changed images of one kind, judged one after the other.
struct Attack<'a> {
    image: &'a Image,
    watchdog: Watchdog,
    dice: Dice,
    cases: usize,
    refused: usize,
    partly: usize,
    earlier: usize,
    /// The host's reads may fail too: the image is too short.
    short: bool,
}

impl<'a> Attack<'a> {
    fn new(image: &'a Image, seed: u64) -> Attack<'a> {
        let watchdog = Watchdog::new(Duration::from_secs(60));
        Attack { image, watchdog, dice: Dice::new(seed), cases: 0, refused: 0, partly: 0, earlier: 0, short: false }
    }

    fn judge(&mut self, what: &str, disk: &Disk) {
        self.cases += 1;
        let options = if self.dice.one_in(3) { small_memory() } else { read_only() };
        let host = Recorder::plain(disk.clone());
        host.limit_reads(100_000);
        let (image, world) = (self.image, self.image.world.reseeded(self.dice.next()));
        let (backend, opts) = (host.clone(), options.clone());
        let attempt = || match world.open(Arc::new(backend), &opts) {
            Err(error) => Err(error),
            Ok(volume) => {
                let found = walk_all(&volume);
                if !opts.read_only {
                    use_it(&volume, what, self.short);
                    drop(volume.close());
                }
                Ok(found)
            }
        };
        let outcome = self.watchdog.watch(what, || catch_unwind(AssertUnwindSafe(attempt)));
        let outcome = outcome.unwrap_or_else(|_| panic!("{what}: panicked"));
        assert!(!host.read_limit_passed(), "{what}: reads without end");
        if options.read_only {
            assert!(host.disk() == *disk, "{what}: a read-only mount changed the image");
        }
        match outcome {
            Err(error) => {
                assert!(self.acceptable(&error), "{what}: open: {error} ({error:?})");
                self.refused += 1;
            }
            Ok(found) => self.judge_found(what, &found, image),
        }
    }

    fn judge_found(&mut self, what: &str, found: &Found, image: &Image) {
        assert!(found.violations.is_empty(), "{what}: {:?}", found.violations);
        for (path, error) in &found.errors {
            let path = String::from_utf8_lossy(path);
            assert!(self.acceptable(error), "{what}: at {path}: {error} ({error:?})");
        }
        let states = std::iter::once(&image.expected).chain(&image.earlier);
        let mut wrong = String::new();
        for (number, state) in states.enumerate() {
            match consistent(found, state) {
                Ok(()) => {
                    self.earlier += usize::from(number > 0);
                    self.partly += usize::from(!found.errors.is_empty());
                    return;
                }
                Err(difference) => wrong.push_str(&difference),
            }
        }
        panic!("{what}: wrong data:\n{wrong}");
    }

    fn acceptable(&self, error: &Error) -> bool {
        blames_the_host(error) || (self.short && matches!(error, Error::Backend(_)))
    }

    fn summary(&self, what: &str) {
        println!(
            "{what}: {} cases, {} refused at open, {} read in part, {} at an earlier state",
            self.cases, self.refused, self.partly, self.earlier
        );
    }
}

/// Uses a writable mount of a hostile image; anything but a panic or a lie will do.
fn use_it(volume: &Volume, what: &str, short: bool) {
    let root = Caller::root();
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let steps = || -> Result<(), Error> {
        let ino = volume.make(&root, InodeNo::ROOT, b"new", &new)?.ino;
        volume.write(&root, ino, 0, &[1; 9000], WriteMode::Direct)?;
        volume.sync()?;
        volume.work(true)?;
        let mut back = vec![0; 9000];
        volume.read(ino, 0, &mut back)?;
        assert!(back == [1; 9000], "{what}: a new file reads back wrong");
        volume.unlink(&root, InodeNo::ROOT, b"new")?;
        volume.sync()
    };
    if let Err(error) = steps() {
        let fair = blames_the_host(&error) || matches!(error, Error::Latched(_)) || short;
        assert!(fair, "{what}: using it: {error} ({error:?})");
    }
}

/// Whether everything that was found is as in `state`, and what is missing is explained by an error at or above it.
fn consistent(found: &Found, state: &Tree) -> Result<(), String> {
    if found.errors.is_empty() {
        return if found.tree == *state { Ok(()) } else { Err(state.difference(&found.tree)) };
    }
    for (path, entry) in &found.tree.0 {
        let name = String::from_utf8_lossy(path);
        let expected = state.0.get(path).ok_or_else(|| format!("  {name}: should not be there\n"))?;
        // An error may have hidden the first of several names.
        let entry = sefs_tests::tree::Entry { identity: expected.identity.clone(), ..entry.clone() };
        if entry != *expected {
            return Err(format!("  {name}: expected {expected:?}\n  found {entry:?}\n"));
        }
    }
    for path in state.0.keys().filter(|path| !found.tree.0.contains_key(*path)) {
        let above = |error: &[u8]| error.is_empty() || path == error || path.starts_with(&[error, b"/"].concat());
        if !found.errors.iter().any(|(error, _)| above(error)) {
            return Err(format!("  {}: missing without an error\n", String::from_utf8_lossy(path)));
        }
    }
    Ok(())
}

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
    let cases: [(&str, u64, &[u8]); 14] = [
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
    ];
    for (what, offset, bytes) in cases {
        let error = with(offset, bytes).unwrap_or_else(|| panic!("{what}: opened"));
        assert!(blames_the_host(&error), "{what}: {error:?}");
    }
    assert_eq!(with(0, b"XXXXXXXX"), Some(Error::Malformed(Malformed::NotSefs)));
    assert_eq!(with(8, &7u16.to_le_bytes()), Some(Error::Incompatible(Incompatible::FormatVersion(7))));
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
