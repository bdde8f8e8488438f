//! Opens changed images and judges the outcome: an error that blames the host, or nothing changes for the reader (P2).

use std::time::Duration;

use sefs::error::Error;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, Volume, WriteMode};

use crate::campaign::caught;
use crate::disk::Disk;
use crate::image::Image;
use crate::recorder::Recorder;
use crate::seed::Dice;
use crate::tree::{Entry, Tree};
use crate::walk::{Found, walk_all};
use crate::watchdog::Watchdog;

/// Whether an error blames the stored bytes before it trusts them. `Corrupt` does not: it says that the bytes are
/// authentic, which no change from outside can make true.
pub fn blames_the_host(error: &Error) -> bool {
    matches!(
        error,
        Error::Tampered(_) | Error::RolledBack(_) | Error::Malformed(_) | Error::Incompatible(_) | Error::WrongKey
    )
}

/// Changed images of one kind, judged one after the other.
pub struct Attack<'a> {
    image: &'a Image,
    /// States that are acceptable beside the image's own.
    pub also: Vec<Tree>,
    /// One case in so many is opened for writing, and used.
    pub used_one_in: u64,
    watchdog: Watchdog,
    dice: Dice,
    /// Images judged.
    pub cases: usize,
    /// Of them refused at open.
    pub refused: usize,
    /// Of them read in part.
    pub partly: usize,
    /// Of them at another state.
    pub earlier: usize,
    /// The host's reads may fail too: the image is too short.
    pub short: bool,
}

impl<'a> Attack<'a> {
    /// On one image.
    pub fn new(image: &'a Image, seed: u64) -> Attack<'a> {
        let watchdog = Watchdog::new(Duration::from_secs(60));
        Attack {
            image,
            also: Vec::new(),
            used_one_in: 3,
            watchdog,
            dice: Dice::new(seed),
            cases: 0,
            refused: 0,
            partly: 0,
            earlier: 0,
            short: false,
        }
    }

    /// Opens a changed image, reads all of it, and panics where the outcome is not what P2 says.
    pub fn judge(&mut self, what: &str, disk: &Disk) {
        self.try_judge(what, disk).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
    }

    /// The same; returns what is wrong.
    pub fn try_judge(&mut self, what: &str, disk: &Disk) -> Result<(), String> {
        self.cases += 1;
        let read_only = !self.dice.one_in(self.used_one_in);
        let host = Recorder::plain(disk.clone());
        host.limit_reads(100_000);
        let image = self.image;
        let world = image.world.reseeded(self.dice.next());
        let attempt = || match image.open_in(&world, host.clone(), read_only) {
            Err(error) => Ok(Err(error)),
            Ok(volume) => {
                let found = walk_all(&volume);
                if !read_only {
                    use_it(&volume, self.short);
                    drop(volume.close());
                }
                Ok(Ok(found))
            }
        };
        let outcome = self.watchdog.watch(what, || caught(attempt))?;
        if host.read_limit_passed() {
            return Err("reads without end".into());
        }
        if read_only && host.disk() != *disk {
            return Err("a read-only mount changed the image".into());
        }
        match outcome {
            Err(error) if self.acceptable(&error) => {
                self.refused += 1;
                Ok(())
            }
            Err(error) => Err(format!("open: {error} ({error:?})")),
            Ok(found) => self.judge_found(&found),
        }
    }

    fn judge_found(&mut self, found: &Found) -> Result<(), String> {
        if !found.violations.is_empty() {
            return Err(format!("{:?}", found.violations));
        }
        if let Some((path, error)) = found.errors.iter().find(|(_, error)| !self.acceptable(error)) {
            return Err(format!("at {}: {error} ({error:?})", String::from_utf8_lossy(path)));
        }
        let states = std::iter::once(&self.image.expected).chain(&self.image.earlier).chain(&self.also);
        let mut wrong = None;
        for (number, state) in states.enumerate() {
            match consistent(found, state) {
                Ok(()) => {
                    self.earlier += usize::from(number > 0);
                    self.partly += usize::from(!found.errors.is_empty());
                    return Ok(());
                }
                Err(difference) => wrong = wrong.or(Some(difference)),
            }
        }
        Err(format!("wrong data:\n{}", wrong.unwrap_or_default()))
    }

    fn acceptable(&self, error: &Error) -> bool {
        blames_the_host(error) || (self.short && matches!(error, Error::Backend(_)))
    }

    /// Prints what it came to.
    pub fn summary(&self, what: &str) {
        println!(
            "{what}: {} cases, {} refused at open, {} read in part, {} at an earlier state",
            self.cases, self.refused, self.partly, self.earlier
        );
    }
}

/// Uses a writable mount of a hostile image; anything but a panic or a lie will do.
fn use_it(volume: &Volume, short: bool) {
    let root = Caller::root();
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let steps = || -> Result<(), Error> {
        let ino = volume.make(&root, InodeNo::ROOT, b"new", &new)?.ino;
        volume.write(&root, ino, 0, &[1; 9000], WriteMode::Direct)?;
        volume.sync()?;
        volume.work(true)?;
        let mut back = vec![0; 9000];
        volume.read(ino, 0, &mut back)?;
        assert!(back == [1; 9000], "a new file reads back wrong");
        volume.unlink(&root, InodeNo::ROOT, b"new")?;
        volume.sync()
    };
    if let Err(error) = steps() {
        let fair = blames_the_host(&error) || matches!(error, Error::Latched(_)) || short;
        assert!(fair, "using it: {error} ({error:?})");
    }
}

/// Whether everything that was found is as in `state`, and what is missing is explained by an error at or above it.
pub fn consistent(found: &Found, state: &Tree) -> Result<(), String> {
    if found.errors.is_empty() {
        return if found.tree == *state { Ok(()) } else { Err(state.difference(&found.tree)) };
    }
    for (path, entry) in &found.tree.0 {
        let name = String::from_utf8_lossy(path);
        let expected = state.0.get(path).ok_or_else(|| format!("  {name}: should not be there\n"))?;
        // An error may have hidden the first of several names.
        let entry = Entry { identity: expected.identity.clone(), ..entry.clone() };
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
