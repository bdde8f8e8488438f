//! Many threads on one volume: nobody's work is lost or mixed up, link counts and listings agree afterwards, and what a
//! thread was told is durable survives a crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sefs::anchor::AnchorPolicy;
use sefs::error::{Error, Posix};
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, FormatOptions, NewInode, OpenOptions, RenameMode, SetAttr, Volume, WriteMode};
use sefs_tests::disk::Disk;
use sefs_tests::play::Play;
use sefs_tests::recorder::Recorder;
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::vault::Vault;
use sefs_tests::walk::walk;
use sefs_tests::watchdog::Watchdog;
use sefs_tests::world::{World, format_options, small_memory};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `threads` workers and, beside them, the background work that the owner of a volume calls.
fn together(volume: &Volume, threads: u64, worker: impl Fn(u64) + Sync) {
    let watchdog = Watchdog::new(LIMIT);
    let stop = AtomicBool::new(false);
    watchdog.watch("threads", || {
        thread::scope(|scope| {
            let background = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    volume.work(false).expect("background work on a healthy disk");
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let worker = &worker;
            let workers: Vec<_> = (0..threads).map(|number| scope.spawn(move || worker(number))).collect();
            let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            stop.store(true, Ordering::Relaxed);
            background.join().expect("the background thread");
            assert!(results.iter().all(Result::is_ok), "a worker failed; see above");
        });
    });
}

fn new_file() -> NewInode {
    NewInode { kind: FileKind::Regular, mode: 0o644, rdev: 0, target: Vec::new() }
}

/// Each thread works in a directory of its own and knows what must be there.
#[test]
fn private_directories() {
    let seed = seed("private_directories", 61);
    let play = Play::new(128 << 20);
    let dirs: Vec<InodeNo> = (0..4).map(|number| play.dir(&format!("thread {number}"))).collect();
    let volume = &play.volume;
    let expected = std::sync::Mutex::new(BTreeMap::new());
    together(volume, 4, |number| {
        let mut life = Life::new(volume, dirs[usize::try_from(number).expect("few")], seed + number);
        for _ in 0..scaled(400, 20_000) {
            life.step();
        }
        expected.lock().expect("no worker failed").insert(number, life.files);
    });
    let expected = expected.into_inner().expect("no worker failed");
    let check = |play: &Play| {
        walk(&play.volume).expect("a healthy disk");
        for (number, files) in &expected {
            for (name, content) in files {
                let ino = play.ino(&format!("thread {number}/{name}"));
                assert!(play.get(ino, 0, content.len() + 1) == *content, "seed {seed}: thread {number}: {name}");
            }
            assert_eq!(play.stat(&format!("thread {number}")).size, files.len() as u64);
        }
    };
    check(&play);
    let play = play.remount();
    check(&play);
}

/// One thread's files, as they must be.
struct Life<'a> {
    volume: &'a Volume,
    dir: InodeNo,
    files: BTreeMap<String, Vec<u8>>,
    dice: Dice,
}

impl<'a> Life<'a> {
    fn new(volume: &'a Volume, dir: InodeNo, seed: u64) -> Life<'a> {
        Life { volume, dir, files: BTreeMap::new(), dice: Dice::new(seed) }
    }

    fn step(&mut self) {
        let root = Caller::root();
        let name = format!("file {}", self.dice.below(12));
        if !self.files.contains_key(&name) {
            self.volume.make(&root, self.dir, name.as_bytes(), &new_file()).expect("a name that is free");
            self.files.insert(name, Vec::new());
            return;
        }
        let ino = self.volume.lookup(&root, self.dir, name.as_bytes()).expect("a name that exists").ino;
        match self.dice.below(12) {
            0 => {
                self.volume.unlink(&root, self.dir, name.as_bytes()).expect("a name that exists");
                self.files.remove(&name);
            }
            1 => {
                let to = format!("file {}", self.dice.below(12));
                let mode = RenameMode::Replace;
                self.volume.rename(&root, self.dir, name.as_bytes(), self.dir, to.as_bytes(), mode).expect("a rename");
                let content = self.files.remove(&name).expect("a name that exists");
                self.files.insert(to, content);
            }
            2 => {
                let size = self.dice.below(200_000);
                let change = SetAttr { size: Some(size), ..SetAttr::default() };
                self.volume.set_attr(&root, ino, &change).expect("a truncate");
                self.files.get_mut(&name).expect("a name that exists").resize(size as usize, 0);
            }
            3 => self.volume.sync().expect("a sync"),
            4..=6 => {
                let content = &self.files[&name];
                let mut found = vec![0; content.len() + 10];
                let count = self.volume.read(ino, 0, &mut found).expect("a read");
                assert!(found[..count] == *content, "{name} reads back wrong");
            }
            _ => self.write(&name, ino),
        }
    }

    fn write(&mut self, name: &str, ino: InodeNo) {
        let offset = self.dice.index(150_000);
        let mut data = vec![0; 1 + self.dice.index(40_000)];
        self.dice.fill(&mut data);
        let caller = Caller::root();
        self.volume.write(&caller, ino, offset as u64, &data, WriteMode::Direct).expect("a write");
        let content = self.files.get_mut(name).expect("a name that exists");
        content.resize(content.len().max(offset + data.len()), 0);
        content[offset..offset + data.len()].copy_from_slice(&data);
    }
}

/// All threads fight for the same names: directories move under each other, names are linked, exchanged and removed.
#[test]
fn one_name_space() {
    let seed = seed("one_name_space", 62);
    let play = Play::new(64 << 20);
    let volume = &play.volume;
    let inodes = play.inodes();
    let dirs: Vec<InodeNo> = ["x", "y", "x/z"].into_iter().map(|path| play.dir(path)).collect();
    together(volume, 4, |number| {
        let mut dice = Dice::new(seed + number);
        for _ in 0..scaled(1500, 50_000) {
            scuffle(volume, &dirs, &mut dice);
        }
    });
    let before = walk(volume).expect("a healthy disk");
    let play = play.remount();
    let after = walk(&play.volume).expect("a healthy disk");
    assert!(before == after, "seed {seed}: the remount shows another tree:\n{}", before.difference(&after));
    remove_all(&play, "");
    play.settle();
    assert_eq!(play.inodes(), inodes, "seed {seed}: inodes are left over");
}

fn scuffle(volume: &Volume, dirs: &[InodeNo], dice: &mut Dice) {
    const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"z", b"d"];
    let root = Caller::root();
    let (from, to) = (*dice.pick(dirs), *dice.pick(dirs));
    let (name, other) = (*dice.pick(&NAMES), *dice.pick(&NAMES));
    let directory = NewInode { kind: FileKind::Directory, ..new_file() };
    let result = match dice.below(10) {
        0 | 1 => volume.make(&root, from, name, &new_file()).map(drop),
        2 => volume.make(&root, from, name, &directory).map(drop),
        3 => volume.unlink(&root, from, name),
        4 => volume.rmdir(&root, from, name),
        5 => volume.rename(&root, from, name, to, other, RenameMode::Replace),
        6 => volume.rename(&root, from, name, to, other, RenameMode::Exchange),
        7 => volume.lookup(&root, from, name).and_then(|attr| volume.link(&root, attr.ino, to, other).map(drop)),
        8 => volume.read_dir(from, 0, 100).map(drop),
        _ => volume.lookup(&root, from, name).and_then(|attr| {
            let data = [0x42; 3000];
            volume.write(&root, attr.ino, 0, &data, WriteMode::Direct).map(drop)
        }),
    };
    match result {
        Ok(()) => {}
        Err(Error::Posix(outcome)) => {
            assert!(
                !matches!(outcome, Posix::NoSpace | Posix::ReadOnly),
                "an outcome that nothing explains: {outcome:?}"
            );
        }
        Err(error) => panic!("not an outcome of an operation: {error:?}"),
    }
}

fn remove_all(play: &Play, path: &str) {
    let dir = play.ino(path);
    for entry in play.volume.read_dir(dir, 2, 10_000).expect("a healthy disk") {
        let below = format!("{path}/{}", String::from_utf8(entry.name).expect("these tests use UTF-8"));
        if entry.kind == FileKind::Directory {
            remove_all(play, &below);
            play.rmdir(&below).expect("an empty directory");
        } else {
            play.unlink(&below).expect("a name that was listed");
        }
    }
}

/// Appends do not overwrite each other.
#[test]
fn appends_from_many_threads() {
    let play = Play::new(32 << 20);
    let (volume, ino) = (&play.volume, play.file("log"));
    let rounds = scaled(300, 10_000) as u64;
    together(volume, 4, |number| {
        for round in 0..rounds {
            let record = [number.to_le_bytes(), round.to_le_bytes()].concat();
            volume.write(&Caller::root(), ino, 0, &record, WriteMode::Append).expect("an append");
        }
    });
    let all = play.get(ino, 0, 16 * 4 * rounds as usize + 1);
    let mut next = [0u64; 4];
    for record in all.chunks(16) {
        let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("whole records"));
        let thread = usize::try_from(word(0)).expect("a thread's number");
        assert_eq!(word(8), next[thread], "thread {thread}'s records are lost or out of order");
        next[thread] += 1;
    }
    assert_eq!(next, [rounds; 4]);
}

/// A reader never sees half of a block that is being overwritten.
#[test]
fn readers_see_whole_blocks() {
    let play = Play::new(32 << 20);
    let (volume, ino) = (&play.volume, play.file("file"));
    play.put(ino, 0, &vec![1; 300_000]);
    let rounds = scaled(400, 20_000);
    together(volume, 4, |number| {
        let mut dice = Dice::new(number);
        for _ in 0..rounds {
            let block = dice.below(70) * 4096;
            if number < 2 {
                let data = [1 + dice.below(250) as u8; 4096];
                volume.write(&Caller::root(), ino, block, &data, WriteMode::Direct).expect("a write");
            } else {
                let mut found = [0; 4096];
                assert_eq!(volume.read(ino, block, &mut found).expect("a read"), 4096);
                assert!(found.iter().all(|byte| *byte == found[0] && *byte != 0), "a mixed block");
            }
        }
    });
}

/// Each thread counts in a file of its own and syncs; after a crash no counter is behind what its thread was told.
#[test]
fn acknowledged_counters_survive_a_crash() {
    let seed = seed("acknowledged_counters_survive_a_crash", 63);
    let world = World::new(seed);
    let disk = Recorder::new(world.format(32 << 20));
    let volume = world.open(Arc::new(disk.clone()), &small_memory()).expect("a fresh volume");
    let root = Caller::root();
    let name = |number: u64| format!("counter {number}").into_bytes();
    let counters: Vec<InodeNo> = (0..4)
        .map(|number| volume.make(&root, InodeNo::ROOT, &name(number), &new_file()).expect("a fresh volume").ino)
        .collect();
    volume.sync().expect("a healthy disk");
    let made = disk.position();
    let told = std::sync::Mutex::new(Vec::new());
    together(&volume, 4, |number| {
        for count in 1..=scaled(40, 2000) as u64 {
            let ino = counters[usize::try_from(number).expect("few")];
            volume.write(&root, ino, 0, &count.to_le_bytes(), WriteMode::Direct).expect("a write");
            volume.sync().expect("a sync");
            told.lock().expect("no worker failed").push((disk.position(), number, count));
        }
    });
    drop(volume);
    let told = told.into_inner().expect("no worker failed");
    let recording = disk.recording();
    let mut dice = Dice::new(seed);
    for _ in 0..scaled(100, 3000) {
        let cut = made + dice.index(recording.events.len() - made + 1);
        let crashed = Arc::new(Recorder::plain(recording.crash(cut, &mut dice)));
        let volume = world.reseeded(dice.next()).open(crashed, &small_memory()).expect("mounts after a crash");
        for number in 0..4 {
            let of_mine = |entry: &&(usize, u64, u64)| entry.0 <= cut && entry.1 == number;
            let least = told.iter().filter(of_mine).map(|entry| entry.2).max().unwrap_or(0);
            let ino = volume.lookup(&root, InodeNo::ROOT, &name(number)).expect("it was synced").ino;
            let mut found = [0; 8];
            volume.read(ino, 0, &mut found).expect("a read after a crash");
            let found = u64::from_le_bytes(found);
            assert!(found >= least, "seed {seed}, cut {cut}: counter {number} is {found}, its thread was told {least}");
        }
    }
}

/// Commits and checkpoints race for the anchor; whatever order they come in, it ends at a state that the disk leads to.
#[test]
fn the_anchor_follows_threads() {
    let seed = seed("the_anchor_follows_threads", 64);
    for policy in [AnchorPolicy::Strict, AnchorPolicy::Checkpoint] {
        let size = 16 << 20;
        let world = World::new(seed);
        let vault = Arc::new(Vault::new(1));
        let disk = Recorder::plain(Disk::new(size));
        let made = FormatOptions { anchor: Some((vault.clone(), policy)), ..format_options(size) };
        world.format_on(Arc::new(disk.clone()), &made).expect("an empty disk");
        let options = OpenOptions { anchor: Some(vault.clone()), ..small_memory() };
        let mut dice = Dice::new(seed);
        for round in 0..scaled(8, 500) as u64 {
            let volume = world
                .reseeded(dice.next())
                .open(Arc::new(disk.clone()), &options)
                .unwrap_or_else(|error| panic!("seed {seed}, {policy:?}, round {round}: {error}"));
            let root = Caller::root();
            together(&volume, 4, |number| {
                let name = format!("{round} {number}");
                let made = volume.make(&root, InodeNo::ROOT, name.as_bytes(), &new_file()).expect("space enough");
                for count in 0..25u64 {
                    let data = vec![count as u8; 1 + (count as usize * 3777) % 90_000];
                    volume.write(&root, made.ino, 0, &data, WriteMode::Direct).expect("space enough");
                    volume.sync().expect("a healthy disk");
                }
                volume.unlink(&root, InodeNo::ROOT, name.as_bytes()).expect("it exists");
            });
            walk(&volume).expect("a healthy disk");
        }
    }
}
