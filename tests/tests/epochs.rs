//! Every mount that writes takes an epoch, and the table of epochs is finite: old ones are re-encrypted, so that a volume can
//! be written for ever. Nothing of that shows: contents and times stay, newer writes win, a crash at any write loses nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sefs::backend::{Backend, MemoryBackend};
use sefs::env::Env;
use sefs::error::{Error, Posix, Result};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, Volume, WriteMode};
use sefs_tests::ledger::Ledger;
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::walk::walk;
use sefs_tests::watchdog::Watchdog;
use sefs_tests::world::{World, format_options, small_memory};

/// Epochs that the volumes here may keep, unless a test says otherwise.
const FEW: u32 = 16;
/// So many that none is re-encrypted.
const PLENTY: u32 = 64;

/// A volume over many mounts, and what its files must hold.
struct Estate {
    world: World,
    disk: Recorder,
    options: OpenOptions,
    files: BTreeMap<String, Vec<u8>>,
    dice: Dice,
}

/// How a mount ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    /// After a sync, the process is gone.
    Crash,
}

impl Estate {
    fn new(size_bytes: u64, seed: u64) -> Estate {
        Estate::of(World::new(seed), size_bytes, seed)
    }

    fn of(world: World, size_bytes: u64, seed: u64) -> Estate {
        let disk = Recorder::plain(world.format(size_bytes));
        let options = OpenOptions { max_epochs: FEW, ..small_memory() };
        Estate { world, disk, options, files: BTreeMap::new(), dice: Dice::new(seed) }
    }

    fn open(&self) -> Volume {
        self.world.open(Arc::new(self.disk.clone()), &self.options).expect("a healthy disk")
    }

    fn check(&self, context: &str) {
        self.world.check(Arc::new(self.disk.clone()), &self.options, context);
    }

    /// Writes a piece of a file, which is made if it is not there.
    fn write(&mut self, volume: &Volume, name: &str, offset: usize, len: usize) -> Result<()> {
        let mut data = vec![0; len];
        self.dice.fill(&mut data);
        put(volume, name, offset, &data)?;
        let content = self.files.entry(name.into()).or_default();
        content.resize(content.len().max(offset + len), 0);
        content[offset..offset + len].copy_from_slice(&data);
        Ok(())
    }

    /// A mount that leaves something behind that its epoch has sealed.
    fn live(&mut self, mount: usize, end: End) {
        let volume = self.open();
        let name = format!("file {}", mount % 40);
        let offset = self.dice.index(60_000);
        self.write(&volume, &name, offset, 6000).unwrap_or_else(|error| panic!("mount {mount} is refused: {error}"));
        finish(volume, end);
    }

    /// Mounts that leave their epochs behind.
    fn age(&mut self, mounts: usize, end: End) {
        self.options.max_epochs = PLENTY;
        (0..mounts).for_each(|mount| self.live(mount, end));
        self.options.max_epochs = FEW;
    }

    fn verify(&self, volume: &Volume, context: &str) {
        for (name, content) in &self.files {
            let found =
                get(volume, name, content.len() + 1).unwrap_or_else(|error| panic!("{context}: {name}: {error}"));
            let wrong = found.iter().zip(content).position(|(found, right)| found != right);
            assert!(found == *content, "{context}: {name} differs at {wrong:?}, {} bytes", found.len());
        }
    }
}

fn finish(volume: Volume, end: End) {
    match end {
        End::Close => volume.close().expect("closing"),
        End::Crash => volume.sync().expect("a sync"),
    }
}

fn find(volume: &Volume, name: &str) -> Result<InodeNo> {
    volume.lookup(&Caller::root(), InodeNo::ROOT, name.as_bytes()).map(|attr| attr.ino)
}

fn put(volume: &Volume, name: &str, offset: usize, data: &[u8]) -> Result<()> {
    let root = Caller::root();
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = match find(volume, name) {
        Ok(ino) => ino,
        Err(Error::Posix(Posix::NotFound)) => volume.make(&root, InodeNo::ROOT, name.as_bytes(), &new)?.ino,
        Err(error) => return Err(error),
    };
    volume.write(&root, ino, offset as u64, data, WriteMode::Direct).map(drop)
}

fn get(volume: &Volume, name: &str, len: usize) -> Result<Vec<u8>> {
    let mut found = vec![0xee; len];
    let count = volume.read(find(volume, name)?, 0, &mut found)?;
    found.truncate(count);
    Ok(found)
}

/// Works until re-encryption has nothing left to do; tells how often it had to be called.
fn work_off(volume: &Volume) -> usize {
    for slices in 0..1000 {
        let info = volume.info();
        if info.reencrypting.is_none() && info.epochs <= info.max_epochs / 2 {
            return slices;
        }
        volume.work(false).expect("background work on a healthy disk");
    }
    panic!("re-encryption does not end: {:?}", volume.info());
}

fn mounts(size_bytes: u64, count: usize, seed: u64, end: impl Fn(usize) -> End) {
    let mut estate = Estate::new(size_bytes, seed);
    let (mut passes, mut before) = (0, 0);
    for mount in 0..count {
        let end = end(mount);
        estate.live(mount, end);
        let context = format!("seed {seed}, mount {mount}, {end:?}");
        let volume = estate.open();
        passes += usize::from(volume.info().epochs < before);
        before = volume.info().epochs;
        assert!(before < FEW, "{context}: {:?}", volume.info());
        if mount % 4 == 0 {
            estate.verify(&volume, &context);
            drop(volume);
            estate.check(&context);
        }
    }
    assert!(passes >= count / 20, "old epochs end again and again: {passes} times");
}

#[test]
fn mounts_that_close_never_use_the_table_up() {
    mounts(8 << 20, scaled(120, 2000), seed("mounts_that_close", 71), |_| End::Close);
}

#[test]
fn mounts_that_crash_never_use_the_table_up() {
    mounts(8 << 20, scaled(120, 2000), seed("mounts_that_crash", 72), |_| End::Crash);
}

/// A volume so large that a pass takes many slices, by mounts of one write each.
#[test]
fn mounts_of_a_moment_get_on_with_a_pass_of_many_slices() {
    let seed = seed("mounts_of_a_moment", 73);
    let mut estate = Estate::new(64 << 20, seed);
    estate.options.max_epochs = 64;
    let (mut passes, mut left) = (0, 0);
    for mount in 0..scaled(150, 2000) {
        let volume = estate.open();
        for piece in 0..6 {
            let name = format!("file {}", (mount * 6 + piece) % 400);
            let offset = estate.dice.index(100_000);
            estate.write(&volume, &name, offset, 6000).unwrap_or_else(|error| panic!("mount {mount}: {error}"));
        }
        finish(volume, if mount % 7 == 0 { End::Close } else { End::Crash });
        if mount % 10 == 0 {
            estate.check(&format!("seed {seed}, mount {mount}"));
        }
        let info = estate.open().info();
        assert!(info.epochs < 64, "seed {seed}, mount {mount}: {info:?}");
        passes += usize::from(left > 0 && info.reencrypting.is_none());
        left = info.reencrypting.map_or(0, |job| job.blocks_left);
    }
    estate.verify(&estate.open(), &format!("seed {seed}"));
    assert!(passes > 2, "passes go on over mounts: {passes}");
}

/// What re-encryption moves looks as before: contents, times, sizes, space.
#[test]
fn nothing_of_it_shows() {
    let mut estate = Estate::new(16 << 20, 74);
    estate.age(9, End::Crash);
    let volume = estate.open();
    estate.world.clock.set(5000);
    estate.write(&volume, "new", 0, 5000).expect("a write");
    volume.sync().expect("a sync");
    let (before, space) = (walk(&volume).expect("a healthy disk"), volume.stat_fs());
    assert!(volume.info().epochs > FEW / 2);
    estate.world.clock.set(6000);
    assert!(work_off(&volume) > 0);
    let after = walk(&volume).expect("a healthy disk");
    assert!(before == after, "re-encryption shows:\n{}", before.difference(&after));
    assert_eq!(volume.stat_fs().blocks_free, space.blocks_free);
    volume.close().expect("closing");
    estate.check("after a pass");
    let after = walk(&estate.open()).expect("a healthy disk");
    assert!(before == after, "re-encryption shows after a remount:\n{}", before.difference(&after));
}

/// What was written since the last checkpoint lies over what a slice moves.
#[test]
fn newer_writes_win() {
    let mut estate = Estate::new(16 << 20, 75);
    estate.options.max_epochs = PLENTY;
    for mount in 0..9 {
        let volume = estate.open();
        estate.write(&volume, "shared", mount * 4096, 4096).expect("a write");
        finish(volume, End::Close);
    }
    estate.options.max_epochs = FEW;
    let volume = estate.open();
    for block in [1, 4, 5] {
        estate.write(&volume, "shared", block * 4096, 4096).expect("a write");
    }
    volume.sync().expect("a sync");
    estate.write(&volume, "shared", 7 * 4096, 4096).expect("a write");
    assert!(work_off(&volume) > 0);
    estate.verify(&volume, "after a pass");
    finish(volume, End::Close);
    estate.check("after a pass");
    estate.verify(&estate.open(), "after a remount");
}

/// Writers and readers of the very blocks that are being moved.
#[test]
fn writers_and_readers_beside_it() {
    let seed = seed("writers_and_readers_beside_it", 76);
    let mut estate = Estate::new(24 << 20, seed);
    let watchdog = Watchdog::new(std::time::Duration::from_secs(120));
    for round in 0..scaled(3, 60) {
        estate.options.max_epochs = PLENTY;
        for mount in estate.open().info().epochs..10 {
            let volume = estate.open();
            for file in 0..3 {
                let offset = estate.dice.index(900_000);
                estate.write(&volume, &format!("shared {file}"), offset, 60_000).expect("a write");
            }
            finish(volume, if mount % 2 == 0 { End::Close } else { End::Crash });
        }
        estate.options.max_epochs = FEW;
        let volume = estate.open();
        estate.write(&volume, "start", 0, 5000).expect("a write");
        let files: Vec<_> = estate.files.iter().map(|(name, content)| (name.clone(), content.clone())).collect();
        let done = AtomicBool::new(false);
        let written: Vec<_> = watchdog.watch("writers", || {
            thread::scope(|scope| {
                let (volume, done) = (&volume, &done);
                let writers: Vec<_> = files
                    .into_iter()
                    .enumerate()
                    .map(|(number, (name, content))| {
                        let dice = Dice::new(seed + (round * 10 + number) as u64);
                        scope.spawn(move || scribble(volume, name, content, dice, done))
                    })
                    .collect();
                work_off(volume);
                done.store(true, Ordering::Relaxed);
                writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
            })
        });
        estate.files.extend(written);
        estate.verify(&volume, &format!("seed {seed}, round {round}"));
        finish(volume, End::Close);
        estate.check(&format!("seed {seed}, round {round}"));
    }
}

/// Writes into a file and reads it back until told to stop, and for a while at least.
fn scribble(volume: &Volume, name: String, content: Vec<u8>, dice: Dice, done: &AtomicBool) -> (String, Vec<u8>) {
    let (mut content, mut dice, mut steps) = (content, dice, 0);
    while steps < 30 || (steps < 2000 && !done.load(Ordering::Relaxed)) {
        steps += 1;
        let offset = dice.index(content.len() - 1);
        let mut data = vec![0; (1 + dice.index(9000)).min(content.len() - offset)];
        dice.fill(&mut data);
        put(volume, &name, offset, &data).expect("a write");
        content[offset..offset + data.len()].copy_from_slice(&data);
        if dice.one_in(4) {
            assert!(get(volume, &name, content.len()).expect("a read") == content, "{name} reads back wrong");
        }
        if dice.one_in(10) {
            volume.sync().expect("a sync");
        }
    }
    (name, content)
}

/// Cuts a mount that re-encrypts at each of its writes.
fn crashes(estate: &mut Estate, samples: usize, context: &str) {
    let disk = Recorder::new(estate.disk.disk());
    let before = estate.files.clone();
    let volume = estate.world.open(Arc::new(disk.clone()), &estate.options).expect("a healthy disk");
    estate.write(&volume, "file 3", 1000, 9000).expect("a write");
    volume.sync().expect("a sync");
    let promised = disk.position();
    work_off(&volume);
    volume.close().expect("closing");
    let after = core::mem::replace(&mut estate.files, before.clone());
    let recording = disk.recording();
    println!("{context}: {} writes and flushes", recording.events.len());
    for count in 0..=recording.events.len() {
        for sample in 0..samples {
            let context = format!("{context}, crash after event {count}, loss {sample}");
            let left = if sample == 0 { recording.prefix(count) } else { recording.crash(count, &mut estate.dice) };
            let left = Recorder::plain(left);
            let world = estate.world.reseeded(estate.dice.next());
            if estate.dice.one_in(2) {
                world.check(Arc::new(left.clone()), &estate.options, &context);
            }
            let volume = world.open(Arc::new(left.clone()), &estate.options);
            let volume = volume.unwrap_or_else(|error| panic!("{context}: does not mount: {error}"));
            let is_new = get(&volume, "file 3", 100_000).expect("a file from before") == after["file 3"];
            assert!(is_new || count < promised, "{context}: a promised write is lost");
            estate.files = if is_new { after.clone() } else { before.clone() };
            estate.verify(&volume, &context);
            if estate.dice.one_in(4) {
                put(&volume, "second life", 0, &[7; 5000]).unwrap_or_else(|error| panic!("{context}: {error}"));
                work_off(&volume);
                estate.verify(&volume, &context);
                finish(volume, *estate.dice.pick(&[End::Close, End::Crash]));
                world.check(Arc::new(left.clone()), &estate.options, &format!("{context}, second life"));
                let volume = world.open(Arc::new(left), &estate.options).expect("a second life");
                estate.verify(&volume, &context);
            }
        }
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing_and_no_nonce_is_used_twice() {
    let seed = seed("a_crash_at_any_write", 77);
    let ledger = Ledger::default();
    for round in 0..scaled(2, 30) as u64 {
        let world = World::new(seed + round);
        let env = Env { suite: ledger.suite(world.env.suite.clone()), ..world.env.clone() };
        let mut estate = Estate::of(World { env, ..world }, 8 << 20, seed + round);
        // Below three quarters of the table, so that the background has the work; and above, so that the first write has.
        match round % 2 {
            0 => estate.age(9, End::Close),
            _ => estate.age(13, End::Crash),
        }
        crashes(&mut estate, scaled(2, 8), &format!("seed {}", seed + round));
    }
    assert!(ledger.seals() > 1000);
    ledger.assert_clean("over re-encryption");
}

/// A block that does not authenticate keeps its epoch, and nothing else from going on.
#[test]
fn damage_stops_nothing_but_itself() {
    let mut estate = Estate::new(16 << 20, 78);
    estate.age(10, End::Close);
    estate.options.max_epochs = PLENTY;
    let volume = estate.open();
    let before = estate.disk.disk();
    estate.write(&volume, "hurt", 0, 3 * 4096).expect("a write");
    finish(volume, End::Close);
    let after = estate.disk.disk();
    // Blocks of the file are the only new ones that are neither nodes nor pages: found by hurting one page at a time.
    let changed: Vec<u64> =
        after.used_pages().into_iter().filter(|page| before.page(*page) != after.page(*page)).collect();
    let is_hurt = |page: u64| {
        let disk = Recorder::plain(hurt(&after, page));
        let volume = estate.world.open(Arc::new(disk), &estate.options);
        volume.is_ok_and(|volume| {
            let others = estate.files.keys().filter(|name| *name != "hurt");
            let mut others = others.map(|name| get(&volume, name, 1 << 20));
            matches!(get(&volume, "hurt", 1 << 20), Err(Error::Tampered(_)))
                && others.all(|found| found.is_ok())
                && volume.lookup(&Caller::root(), InodeNo::ROOT, b"hurt").is_ok()
        })
    };
    let page = changed.into_iter().find(|page| *page > 128 && is_hurt(*page)).expect("a data block of the file");
    estate.disk = Recorder::plain(hurt(&after, page));
    estate.options.max_epochs = FEW;
    estate.files.remove("hurt");
    let volume = estate.open();
    estate.write(&volume, "file 1", 0, 5000).expect("a write");
    work_off(&volume);
    estate.verify(&volume, "beside damage");
    assert!(matches!(get(&volume, "hurt", 1 << 20), Err(Error::Tampered(_))), "damage stays damage");
    finish(volume, End::Close);
    (0..20).for_each(|mount| estate.live(mount, End::Close));
    let volume = estate.open();
    assert!(volume.info().epochs < FEW, "{:?}", volume.info());
    estate.verify(&volume, "beside damage, later");
    assert!(matches!(get(&volume, "hurt", 1 << 20), Err(Error::Tampered(_))), "damage stays damage");
}

fn hurt(disk: &sefs_tests::disk::Disk, page: u64) -> sefs_tests::disk::Disk {
    let mut disk = disk.clone();
    let mut bytes = disk.page(page);
    bytes[77] ^= 1;
    disk.write(page * 4096, &bytes);
    disk
}

/// A full volume can be written by as many mounts as any: the reserve is enough for slices.
#[test]
fn a_full_volume_goes_on() {
    let mut estate = Estate::new(8 << 20, 79);
    for mount in 0..8 {
        let volume = estate.open();
        let name = format!("filling {mount}");
        let mut offset = 0;
        while estate.write(&volume, &name, offset, 40_000).is_ok() {
            offset += 40_000;
            if mount < 7 && offset > 400_000 {
                break;
            }
        }
        volume.close().expect("closing a full volume");
    }
    for mount in 0..scaled(40, 1000) {
        let volume = estate.open();
        // Giving back is always possible, and what was given back can be taken again.
        let name = format!("filling {}", mount % 7);
        let root = Caller::root();
        volume.unlink(&root, InodeNo::ROOT, name.as_bytes()).unwrap_or_else(|error| panic!("mount {mount}: {error}"));
        let content = estate.files.remove(&name).expect("a file from before");
        for offset in (0..content.len()).step_by(40_000) {
            match estate.write(&volume, &name, offset, 40_000) {
                Ok(()) | Err(Error::Posix(Posix::NoSpace)) => {}
                Err(error) => panic!("mount {mount} is refused: {error}"),
            }
        }
        estate.files.entry(name.clone()).or_default();
        if find(&volume, &name).is_err() {
            put(&volume, &name, 0, b"").unwrap_or_else(|error| panic!("mount {mount}: {error}"));
        }
        finish(volume, if mount % 2 == 0 { End::Close } else { End::Crash });
        if mount % 4 == 0 {
            estate.check(&format!("mount {mount}"));
        }
        let volume = estate.open();
        assert!(volume.info().epochs < FEW, "mount {mount}: {:?}", volume.info());
        estate.verify(&volume, &format!("mount {mount}"));
    }
}

/// The real limit, passed by far.
#[test]
fn five_thousand_mounts() {
    let world = World::new(80);
    let disk = Arc::new(MemoryBackend::new(32 << 20));
    world.format_on(disk.clone(), &format_options(32 << 20)).expect("formatting");
    let options = small_memory();
    let mut most = 0;
    for mount in 0..5000_u32 {
        let volume = world.open(disk.clone() as Arc<dyn Backend>, &options).expect("opening");
        let data = mount.to_le_bytes().repeat(700);
        put(&volume, &format!("file {}", mount % 2500), 0, &data)
            .unwrap_or_else(|error| panic!("mount {mount} is refused: {error}"));
        finish(volume, if mount % 5 == 0 { End::Close } else { End::Crash });
        if mount % 500 == 499 {
            let volume = world.open(disk.clone() as Arc<dyn Backend>, &options).expect("opening");
            most = most.max(volume.info().epochs);
            drop(volume);
            world.check(disk.clone(), &options, &format!("mount {mount}"));
        }
    }
    let volume = world.open(disk.clone() as Arc<dyn Backend>, &options).expect("opening");
    for mount in 2500..5000_u32 {
        let found = get(&volume, &format!("file {}", mount % 2500), 4000).expect("a file from before");
        assert!(found == mount.to_le_bytes().repeat(700), "what mount {mount} wrote");
    }
    assert!(most > 2048 && volume.info().epochs < 4096, "at most {most}, in the end {:?}", volume.info());
}
