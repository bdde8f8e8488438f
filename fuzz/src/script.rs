//! A script: what a host does to an image, and what the owner of the volume does meanwhile. An input is one script.
//!
//! ```text
//! shape u16 │ flags │ items: { tag, arguments }*
//! ```
//! Edits before the first use are there when the volume is opened; later ones happen under the mount, or between two
//! requests of the product.

use std::sync::Arc;

use sefs::backend::Backend;
use sefs::check::{self, CheckOptions};
use sefs::error::Result;
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{
    AllocateMode, Caller, FileKind, NewInode, OpenOptions, RenameMode, Seek, SetAttr, SetTime, Volume, WriteMode,
    XattrMode,
};
use sefs_tests::op::{NAMES, XATTRS};
use sefs_tests::tree::Tree;
use sefs_tests::walk::{Found, walk_all};
use sefs_tests::world::{World, key, small_memory};

use crate::edit::Edit;
use crate::image::{Image, world};
use crate::input::Input;
use crate::layered::Layered;

/// What a script runs on.
pub struct Stage<'a> {
    /// The image that the host starts from.
    pub image: Arc<Image>,
    /// The host.
    pub host: Layered,
    world: World,
    options: OpenOptions,
    volume: Option<Volume>,
    oracle: Oracle<'a>,
    /// Whether the whole check is still to come. Once in a script, and not in each, for it takes longer than all the rest.
    checks: bool,
}

/// What the answers are compared with.
pub enum Oracle<'a> {
    /// Nothing: the host has the keys, and whatever it says is what the volume holds.
    Nothing,
    /// The states of the image: nothing else may ever be seen.
    States {
        /// All states.
        states: &'a [Tree],
        /// The owner has changed the volume, so it is in another state than the image was.
        changed: bool,
        /// What was seen since the volume was opened.
        seen: Option<Tree>,
    },
}

/// Requests of a script, and pages that it may read: several times what the longest honest one takes.
const MOST_REQUESTS: u64 = 100_000;
const MOST_PAGES: u64 = 1_000_000;
/// Items of a script that count, and of every sixteenth: many short ones reach more than a long one.
const MOST_ITEMS: [usize; 2] = [8, 32];

/// Runs the script on one of `images`; `forge` makes what only a holder of the keys can.
pub fn play(mut input: Input<'_>, images: &[Arc<Image>], env: &World, forge: Option<Forge>) {
    let image = input.pick(images).clone();
    let flags = input.u8();
    let oracle = match forge {
        Some(_) => Oracle::Nothing,
        None => Oracle::States { states: image.states(), changed: false, seen: None },
    };
    let host = Layered::new(image.clone(), MOST_REQUESTS, MOST_PAGES);
    let options = OpenOptions { read_only: flags & 1 != 0, ..small_memory() };
    let world = world(&env.env.suite);
    let checks = input.rarely(8);
    let mut stage = Stage { image: image.clone(), host, world, options, volume: None, oracle, checks };
    for _ in 0..MOST_ITEMS[usize::from(input.rarely(16))] {
        if input.is_empty() {
            break;
        }
        stage.item(&mut input, forge);
    }
    stage.look();
    stage.check(true);
    if flags & 0x10 != 0
        && let Some(volume) = stage.volume.take()
    {
        let _ = volume.close();
    }
    stage.host.assert_bounded();
}

/// What a holder of the keys writes.
pub type Forge = fn(&mut Input<'_>, &Image, &Layered);

impl Stage<'_> {
    fn item(&mut self, input: &mut Input<'_>, forge: Option<Forge>) {
        let tag = input.u8();
        match (tag >> 4, forge) {
            (0..=4, _) => self.host.edit(Edit::of(input, &self.image)),
            (5, _) => {
                let requests = input.u8().into();
                self.host.edit_later(requests, Edit::of(input, &self.image));
            }
            (6 | 7, Some(forge)) => forge(input, &self.image, &self.host),
            (8, _) => self.reopen(tag & 1 != 0),
            (9, _) => {
                self.look();
            }
            (10, _) if tag & 0xe == 0 => self.check(tag & 1 != 0),
            (6 | 7 | 10.., _) => self.use_volume(tag & 0x1f, input),
        }
    }

    /// The volume, if it opens.
    fn open(&mut self) -> Option<&Volume> {
        if self.volume.is_none() {
            let backend: Arc<dyn Backend> = Arc::new(self.host.clone());
            self.volume = self.world.open(backend, &self.options).ok();
        }
        self.volume.as_ref()
    }

    fn reopen(&mut self, close: bool) {
        if let Some(volume) = self.volume.take()
            && close
        {
            // Closing may write a checkpoint, which changes what slots say but no state.
            let _ = volume.close();
        }
        if let Oracle::States { seen, .. } = &mut self.oracle {
            *seen = None;
        }
        self.open();
    }

    fn check(&mut self, scrub: bool) {
        if !std::mem::replace(&mut self.checks, false) {
            return;
        }
        let options = CheckOptions { scrub, memory_bytes: self.options.memory_bytes, ..CheckOptions::default() };
        let _ = check::check(Arc::new(self.host.clone()), &key(), &options, &self.world.env, &mut |_| {});
    }

    /// Reads everything and compares.
    fn look(&mut self) {
        self.open();
        let Some(volume) = &self.volume else { return };
        match self.oracle {
            Oracle::Nothing | Oracle::States { changed: true, .. } => look_around(volume),
            Oracle::States { .. } => self.oracle.judge(walk_all(volume)),
        }
    }

    fn use_volume(&mut self, which: u8, input: &mut Input<'_>) {
        self.world.clock.set(self.world.clock.seconds() + 1);
        let (ino, dir) = (number(input), number(input));
        let Some(volume) = self.open() else { return };
        if !read(volume, which, ino, input) {
            let _ = change(volume, which, ino, dir, input);
            self.oracle.owner_changed();
        }
    }
}

impl Oracle<'_> {
    fn owner_changed(&mut self) {
        if let Oracle::States { changed, .. } = self {
            *changed = true;
        }
    }

    /// What was read without an error is what the image held at some time, and the same for as long as it is mounted.
    fn judge(&mut self, found: Found) {
        let Oracle::States { states, seen, .. } = self else { return };
        if !found.errors.is_empty() {
            for (path, entry) in &found.tree.0 {
                let known = states.iter().filter_map(|state| state.0.get(path)).any(|known| {
                    known.print == entry.print && known.target == entry.target && known.xattrs == entry.xattrs
                });
                assert!(known, "wrong data at {:?}: {entry:?}", String::from_utf8_lossy(path));
            }
            return;
        }
        assert!(found.violations.is_empty(), "the volume contradicts itself: {:#?}", found.violations);
        let newest = states.last().map(|state| state.difference(&found.tree)).unwrap_or_default();
        assert!(states.contains(&found.tree), "the image never was in this state; from its own:\n{newest}");
        if let Some(seen) = seen {
            assert!(*seen == found.tree, "another state under a mount:\n{}", seen.difference(&found.tree));
        }
        *seen = Some(found.tree);
    }
}

/// Reads everything that is within reach, but a bounded part of it: a hostile tree may be anything.
fn look_around(volume: &Volume) {
    let (root, mut out) = (Caller::root(), [0; 5000]);
    let mut queue = vec![InodeNo::ROOT];
    let mut next = 0;
    while next < queue.len().min(48) {
        let ino = queue[next];
        next += 1;
        let Ok(attr) = volume.attr(ino) else { continue };
        for name in volume.list_xattr(&root, ino).unwrap_or_default().iter().take(6) {
            let _ = volume.get_xattr(&root, ino, name);
        }
        match attr.kind {
            FileKind::Directory => {
                let entries = volume.read_dir(ino, 0, 24).unwrap_or_default();
                for entry in entries.iter().filter(|entry| !matches!(entry.name.as_slice(), b"." | b"..")) {
                    let _ = volume.lookup(&root, ino, &entry.name);
                    queue.push(entry.ino);
                }
            }
            FileKind::Regular => {
                let _ = volume.read(ino, 0, &mut out);
                let _ = volume.read(ino, attr.size.saturating_sub(4500), &mut out);
                let mut at = 0;
                for whence in [Seek::Data, Seek::Hole, Seek::Data] {
                    at = volume.seek(ino, at, whence).unwrap_or(at);
                }
            }
            FileKind::Symlink => drop(volume.read_link(ino)),
            _ => {}
        }
    }
    let _ = (volume.stat_fs(), volume.info());
}

/// What leaves the volume as it is; false if it is something else.
fn read(volume: &Volume, which: u8, ino: InodeNo, input: &mut Input<'_>) -> bool {
    let (root, mut out) = (Caller::root(), [0; 9000]);
    match which {
        0 => drop(volume.attr(ino)),
        1 => drop(volume.read(ino, input.number(), &mut out)),
        2 => drop(volume.lookup(&root, ino, name(input))),
        3 => drop(volume.read_dir(ino, input.number(), 10)),
        4 => drop(volume.seek(ino, input.number(), if input.u8() & 1 == 0 { Seek::Data } else { Seek::Hole })),
        5 => drop(volume.get_xattr(&root, ino, XATTRS[usize::from(input.u8()) % 4])),
        6 => drop(volume.access(&Caller::user(1, 1), ino, input.u8().into())),
        7 => drop(volume.acquire(ino)),
        8 => drop(volume.sync()),
        _ => return false,
    }
    true
}

fn change(volume: &Volume, which: u8, ino: InodeNo, dir: InodeNo, input: &mut Input<'_>) -> Result<()> {
    let root = Caller::root();
    match which {
        9 | 10 => {
            let data = vec![input.u8(); usize::from(input.u16() % 20_000)];
            volume.write(&root, ino, input.number(), &data, WriteMode::Direct).map(drop)
        }
        11 | 12 => {
            let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink, FileKind::Socket];
            let kind = *input.pick(&kinds);
            let new = NewInode { kind, mode: input.u16().into(), rdev: 0, target: b"target".to_vec() };
            volume.make(&root, dir, name(input), &new).map(drop)
        }
        13 => volume.unlink(&root, dir, name(input)),
        14 => volume.rmdir(&root, dir, name(input)),
        15 | 16 => {
            let mode = *input.pick(&[RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
            volume.rename(&root, ino, name(input), dir, name(input), mode)
        }
        17 => volume.link(&root, ino, dir, name(input)).map(drop),
        18 => {
            let change = SetAttr { size: Some(input.number()), ..SetAttr::default() };
            volume.set_attr(&root, ino, &change).map(drop)
        }
        19 => {
            let mtime = Some(SetTime::At(Timestamp { seconds: input.u32().into(), nanoseconds: 0 }));
            let change =
                SetAttr { mode: Some(input.u16().into()), uid: Some(input.u32()), mtime, ..SetAttr::default() };
            volume.set_attr(&root, ino, &change).map(drop)
        }
        20 | 21 => {
            let keep_size = input.u8() & 1 == 0;
            let modes =
                [AllocateMode::Allocate { keep_size }, AllocateMode::PunchHole, AllocateMode::ZeroRange { keep_size }];
            let mode = *input.pick(&modes);
            // How much may be promised is not the question here, and every block of it takes time.
            let len = if mode == AllocateMode::PunchHole { input.number() } else { input.number() % (4 << 20) };
            volume.allocate(&root, ino, input.number(), len, mode)
        }
        22 => volume.copy_range(&root, ino, input.number(), dir, input.number(), input.number() % (1 << 20)).map(drop),
        23 | 24 => {
            let value = vec![input.u8(); usize::from(input.u16() % 9000)];
            volume.set_xattr(&root, ino, XATTRS[usize::from(input.u8()) % 4], &value, XattrMode::Any)
        }
        25 => volume.remove_xattr(&root, ino, XATTRS[usize::from(input.u8()) % 4]),
        26 => {
            volume.release(ino, 1);
            Ok(())
        }
        _ => volume.work(true).map(drop),
    }
}

/// Any inode; most of the time one that may be there.
fn number(input: &mut Input<'_>) -> InodeNo {
    match input.u8() {
        small @ 0..=0xef => InodeNo(u64::from(small) % 40),
        _ => InodeNo(input.number()),
    }
}

fn name(input: &mut Input<'_>) -> &'static [u8] {
    NAMES[usize::from(input.u8()) % NAMES.len()]
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::suites::{Forging, Quick, shared};

    /// Scripts that flip a bit of each used page of an image that was closed, one after another; how many go wrong.
    fn wrong_answers(suite: &Arc<dyn sefs::suite::Suite>) -> usize {
        let (images, world) = (vec![Image::all(suite).swap_remove(1)], world(suite));
        let script = |page: u16, offset: u16| {
            let ([p0, p1], [o0, o1]) = (page.to_le_bytes(), offset.to_le_bytes());
            vec![0, 0, 0, 0, 3, p0, p1, o0, o1, 1]
        };
        let pages = 0..u16::try_from(images[0].used().len()).expect("a small image");
        let scripts = pages.flat_map(|page| [100, 600].map(|offset| script(page, offset)));
        let wrong = |script: Vec<u8>| {
            catch_unwind(AssertUnwindSafe(|| play(Input::new(&script), &images, &world, None))).is_err()
        };
        scripts.filter(|script| wrong(script.clone())).count()
    }

    #[test]
    fn what_a_suite_lets_through_is_noticed() {
        assert_eq!(wrong_answers(&shared(Quick)), 0);
        assert!(wrong_answers(&shared(Forging)) > 0, "wrong data were taken for right");
    }

    #[test]
    #[should_panic(expected = "no end")]
    fn whoever_reads_for_ever_is_noticed() {
        let image = Image::all(&shared(Quick)).swap_remove(0);
        let host = Layered::new(image, 3, 100);
        let reads = (0..5).map(|_| host.read_at(0, 4096).is_ok()).filter(|worked| *worked).count();
        assert_eq!(reads, 3, "the bound holds for the product too");
        host.assert_bounded();
    }
}
