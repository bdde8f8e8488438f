//! Full volumes of many sizes and shapes: only `NoSpace` ever comes of it, everything can be deleted, and all space returns.

use std::sync::atomic::{AtomicU32, Ordering};

use sefs::error::{Error, Posix, Result};
use sefs::types::InodeNo;
use sefs::vfs::{AllocateMode, Caller, FileKind, NewInode, SetAttr, WriteMode, XattrMode};
use sefs_tests::play::Play;
use sefs_tests::seed::{Dice, scaled, seed};
use sefs_tests::stage::filling;
use sefs_tests::walk::walk;

const MIB: u64 = 1 << 20;

/// What fills the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    OneFile,
    SmallFiles,
    Sparse,
    Attributes,
    Directories,
    Punched,
    Promised,
    Mixed,
}

const SHAPES: [Shape; 8] = [
    Shape::OneFile,
    Shape::SmallFiles,
    Shape::Sparse,
    Shape::Attributes,
    Shape::Directories,
    Shape::Punched,
    Shape::Promised,
    Shape::Mixed,
];

/// True until there is no space; any other failure ends the test.
fn fits<T>(outcome: Result<T>, what: &str) -> bool {
    match outcome {
        Ok(_) => true,
        Err(Error::Posix(Posix::NoSpace)) => false,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// One volume that is filled and emptied.
struct Vessel {
    play: Play,
    dice: Dice,
    context: String,
    paths: Vec<(String, FileKind)>,
    made: u32,
}

impl Vessel {
    fn make(&mut self, kind: FileKind, name_len: usize) -> Option<InodeNo> {
        let path = format!("{:0>name_len$}", self.made);
        self.made += 1;
        match self.play.make_as(&Caller::root(), &path, kind, 0o755) {
            Ok(attr) => {
                self.paths.push((path, kind));
                Some(attr.ino)
            }
            Err(error) => {
                fits(Err::<(), _>(error), &self.context);
                None
            }
        }
    }

    fn write(&self, ino: InodeNo, offset: u64, len: u64) -> bool {
        let data = filling(1, u32::try_from(len).expect("a short write"));
        match self.play.write(ino, offset, &data) {
            Ok(count) => count as u64 == len,
            Err(error) => fits(Err::<(), _>(error), &self.context),
        }
    }

    fn fill(&mut self, shape: Shape) {
        match shape {
            Shape::OneFile => self.one_file(MIB),
            Shape::SmallFiles => while self.small_file() {},
            Shape::Sparse => {
                self.make(FileKind::Regular, 8).map(|ino| self.sparse(ino));
            }
            Shape::Attributes => while self.attributes() {},
            Shape::Directories => while self.make(FileKind::Directory, 200).is_some() {},
            Shape::Punched => self.punched(),
            Shape::Promised => self.promised(),
            Shape::Mixed => while self.anything() {},
        }
    }

    fn one_file(&mut self, step: u64) {
        let Some(ino) = self.make(FileKind::Regular, 8) else { return };
        let mut step = step;
        let mut at = 0;
        while step >= 4096 {
            if self.write(ino, at, step) {
                at += step;
            } else {
                step /= 4;
            }
        }
    }

    fn small_file(&mut self) -> bool {
        let len = [0, 100, 1500, 2048, 5000][self.dice.index(5)];
        self.make(FileKind::Regular, 30).is_some_and(|ino| len == 0 || self.write(ino, 0, len))
    }

    /// Every second block, each by itself: data in one place, holes between. How many there are.
    fn sparse(&self, ino: InodeNo) -> u64 {
        (0..).take_while(|block| self.write(ino, block * 8192, 4096)).count() as u64
    }

    fn attributes(&mut self) -> bool {
        let Some(ino) = self.make(FileKind::Regular, 12) else { return false };
        (0..3).all(|number| {
            let (name, len) = (format!("user.{number}"), [100, 4000, 20_000, 65_536][self.dice.index(4)]);
            let value = filling(2, len);
            let set = self.play.volume.set_xattr(&Caller::root(), ino, name.as_bytes(), &value, XattrMode::Any);
            fits(set, &self.context)
        })
    }

    /// A full volume, every second block of which is given back; then blocks one by one until it is full again, and again.
    /// The files for them are made before, for directories take what names may have.
    fn punched(&mut self) {
        let into = [(); 2].map(|()| self.make(FileKind::Regular, 8));
        self.one_file(MIB);
        let Some((path, _)) = self.paths.last().cloned() else { return };
        let (ino, blocks) = (self.play.ino(&path), self.play.stat(&path).size / 4096);
        for (parity, into) in (0..).zip(into) {
            for block in (parity..blocks).step_by(2) {
                let punch =
                    self.play.volume.allocate(&Caller::root(), ino, block * 4096, 4096, AllocateMode::PunchHole);
                punch.unwrap_or_else(|error| panic!("{}: punching when full: {error}", self.context));
            }
            let fitted = into.map_or(0, |into| self.sparse(into));
            assert!(fitted > 0 || blocks < 64, "{}: nothing fits into the holes", self.context);
            while self.make(FileKind::Directory, 100).is_some() {}
        }
    }

    /// Nearly all the space there is, promised in one call.
    fn promised(&mut self) {
        for part in [100, 97, 90, 70, 50] {
            let Some(ino) = self.make(FileKind::Regular, 8) else { return };
            let len = self.play.volume.stat_fs().blocks_available * 4096 / 100 * part;
            let mode = AllocateMode::Allocate { keep_size: self.dice.below(2) == 0 };
            if len > 0 && fits(self.play.volume.allocate(&Caller::root(), ino, 0, len, mode), &self.context) {
                self.play.volume.sync().unwrap_or_else(|error| panic!("{}: sync: {error}", self.context));
            }
            self.write(ino, 0, 100_000);
        }
        self.one_file(100_000);
    }

    fn anything(&mut self) -> bool {
        match self.dice.below(12) {
            0 => self.make(FileKind::Directory, 40).is_some(),
            1 => self.attributes(),
            2 => self.make(FileKind::Symlink, 90).is_some(),
            3 | 4 => {
                let len = 1 + self.dice.below(MIB);
                self.make(FileKind::Regular, 20).is_some_and(|ino| self.write(ino, self.dice.clone().below(MIB), len))
            }
            5 => {
                let len = 1 + self.dice.below(MIB);
                self.make(FileKind::Regular, 20).is_some_and(|ino| {
                    let mode = AllocateMode::Allocate { keep_size: true };
                    fits(self.play.volume.allocate(&Caller::root(), ino, 0, len, mode), &self.context)
                })
            }
            6 => self.remove_some(2),
            7 => self.cut_some(),
            _ => self.small_file(),
        }
    }

    /// Removing works whatever the state; true, for it makes room.
    fn remove_some(&mut self, count: usize) -> bool {
        for _ in 0..count.min(self.paths.len()) {
            let (path, kind) = self.paths.swap_remove(self.dice.index(self.paths.len()));
            self.remove(&path, kind);
        }
        true
    }

    fn cut_some(&mut self) -> bool {
        if let Some((path, FileKind::Regular)) = self.paths.last() {
            let size = self.play.stat(path).size / 2;
            self.play.truncate(self.play.ino(path), size);
        }
        true
    }

    fn remove(&self, path: &str, kind: FileKind) {
        let gone = if kind == FileKind::Directory { self.play.rmdir(path) } else { self.play.unlink(path) };
        gone.unwrap_or_else(|error| panic!("{}: deleting {path} when full: {error}", self.context));
    }

    fn empty(&mut self) {
        let mut paths = core::mem::take(&mut self.paths);
        if self.dice.below(2) == 0 {
            paths.reverse();
        }
        for (path, kind) in &paths {
            self.remove(path, *kind);
        }
    }
}

/// Fills and empties one volume with shape after shape; `rounds` of them, drawn from all.
fn fill_and_empty(size_mib: u64, rounds: usize, seed: u64) {
    let mut dice = Dice::new(seed ^ size_mib);
    let play = Play::new(size_mib * MIB);
    play.settle();
    let (before, inodes) = (play.volume.stat_fs(), play.inodes());
    let mut vessel = Vessel { play, dice: dice.clone(), context: String::new(), paths: Vec::new(), made: 0 };
    for round in 0..rounds {
        let shape = SHAPES.get(round).copied().unwrap_or_else(|| *dice.pick(&SHAPES));
        vessel.context = format!("seed {seed}, {size_mib} MiB, round {round}, {shape:?}");
        vessel.fill(shape);
        vessel.play.volume.sync().unwrap_or_else(|error| panic!("{}: sync when full: {error}", vessel.context));
        if dice.below(4) == 0 {
            vessel.play = if dice.below(2) == 0 { vessel.play.crash() } else { vessel.play.remount() };
        }
        vessel.empty();
        vessel.play.settle();
        let after = vessel.play.volume.stat_fs();
        assert_eq!(vessel.play.inodes(), inodes, "{}", vessel.context);
        let lost = before.blocks_free.saturating_sub(after.blocks_free);
        assert!(lost < 64, "{}: {lost} blocks are lost", vessel.context);
    }
    walk(&vessel.play.volume).expect("consistent");
    vessel.play.remount();
}

#[test]
fn small_volumes_of_every_shape() {
    let seed = seed("small_volumes_of_every_shape", 71);
    for (size_mib, rounds) in [(4, scaled(12, 200)), (16, scaled(8, 200))] {
        fill_and_empty(size_mib, rounds, seed);
    }
}

#[test]
fn larger_volumes_of_every_shape() {
    let seed = seed("larger_volumes_of_every_shape", 72);
    for (size_mib, rounds) in [(64, scaled(2, 60)), (256, scaled(1, 30))] {
        fill_and_empty(size_mib, rounds, seed);
    }
}

/// Promising nearly the whole volume works or is refused; either way it can be written to, synced and given back.
#[test]
fn promising_nearly_the_whole_volume() {
    for size_mib in [4, 16, 64] {
        for part in [10, 50, 90, 99, 100, 101, 200] {
            let play = Play::new(size_mib * MIB);
            let ino = play.file("f");
            let len = play.volume.stat_fs().blocks_available * 4096 / 100 * part;
            let allocate = AllocateMode::Allocate { keep_size: false };
            let context = format!("{size_mib} MiB, {part} % of what is available");
            let fitted = fits(play.volume.allocate(&Caller::root(), ino, 0, len, allocate), &context);
            assert!(fitted || part > 90, "{context} is refused");
            play.volume.sync().unwrap_or_else(|error| panic!("{context}: {error}"));
            fits(play.write(ino, 0, &vec![1; 500_000]), &context);
            play.volume.sync().unwrap_or_else(|error| panic!("{context}: {error}"));
            let play = play.crash();
            play.unlink("f").unwrap_or_else(|error| panic!("{context}: {error}"));
            play.volume.sync().unwrap_or_else(|error| panic!("{context}: {error}"));
            play.remount();
        }
    }
}

/// The largest operations of every kind, on the smallest volume.
#[test]
fn the_largest_operations_on_the_smallest_volume() {
    let play = Play::new(4 * MIB);
    let (root, volume) = (Caller::root(), &play.volume);
    let sync = |what: &str| volume.sync().unwrap_or_else(|error| panic!("{what}: {error}"));
    let long = |byte: u8| String::from_utf8(vec![byte; 255]).expect("ASCII");
    let ino = play.file(&long(b'a'));
    play.put(ino, 1234, &filling(1, 900_000));
    sync("a long write");
    for round in 0..5 {
        volume.set_xattr(&root, ino, b"user.big", &filling(round, 65_536), XattrMode::Any).expect("a long attribute");
        sync("a long attribute");
    }
    play.dir(&long(b'd'));
    play.rename(&long(b'a'), &format!("{}/{}", long(b'd'), long(b'b'))).expect("a rename of long names");
    sync("a rename of long names");
    play.truncate(ino, 1);
    sync("a truncate");
    let fits = volume.allocate(&root, ino, 0, MIB, AllocateMode::Allocate { keep_size: true });
    assert!(fits.is_ok(), "{fits:?}");
    sync("a promise");
    let target = vec![b't'; 4095];
    let link = NewInode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target };
    volume.make(&root, InodeNo::ROOT, long(b'l').as_bytes(), &link).expect("a long symlink");
    sync("a long symlink");
    volume.set_attr(&root, ino, &SetAttr { size: Some(MIB << 20), ..SetAttr::default() }).expect("a sparse file");
    play.put(ino, MIB << 18, &filling(1, 10_000));
    play.truncate(ino, 0);
    sync("a truncate of a sparse file");
    play.remount();
}

/// Many threads on a volume that is nearly full: who finds no space is told so, and what was accepted is there.
#[test]
fn threads_fill_a_volume() {
    let seed = seed("threads_fill_a_volume", 73);
    for (size_mib, threads) in [(4, 4), (8, 4), (8, 12), (24, 4)] {
        let mut play = Play::new(size_mib * MIB);
        for round in 0..scaled(4, 60) {
            let refused = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (play, refused) = (&play, &refused);
                    let dice = Dice::new(seed + round as u64 * 100 + thread);
                    scope.spawn(move || fill_in_thread(play, thread, dice, refused));
                }
            });
            let context = format!("seed {seed}, {size_mib} MiB, round {round}");
            assert!(refused.load(Ordering::Relaxed) >= threads as u32, "{context}: the volume was never full");
            play.volume.sync().unwrap_or_else(|error| panic!("{context}: sync when full: {error}"));
            play = if round % 2 == 0 { play.crash() } else { play.remount() };
            for thread in 0..threads {
                for number in 0.. {
                    match play.unlink(&format!("{thread} {number}")) {
                        Ok(()) => {}
                        Err(Error::Posix(Posix::NotFound)) => break,
                        Err(error) => panic!("{context}: deleting when full: {error}"),
                    }
                }
            }
        }
        play.settle();
        play.remount();
    }
}

fn fill_in_thread(play: &Play, thread: u64, mut dice: Dice, refused: &AtomicU32) {
    let (root, volume) = (Caller::root(), &play.volume);
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let (mut number, mut told) = (0, 0);
    while told < 6 {
        let name = format!("{thread} {number}");
        let Ok(file) = volume.make(&root, InodeNo::ROOT, name.as_bytes(), &new) else {
            told += 1;
            refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        number += 1;
        for piece in 0..4u64 {
            let len = [500, 4096, 30_000, 61_440, 65_536, 300_000][dice.index(6)];
            let written = volume.write(&root, file.ino, piece << 20, &filling(3, len), WriteMode::Direct);
            if !fits(written, "writing") {
                told += 1;
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        if dice.below(8) == 0 {
            volume.sync().expect("sync on a nearly full volume");
        }
    }
}
