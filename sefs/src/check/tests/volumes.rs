//! Whatever is done with a volume through its public face, and however it ends, the check finds nothing.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use crate::backend::MemoryBackend;
use crate::check::{CheckOptions, Event, check};
use crate::error::Result;
use crate::keys::VolumeKey;
use crate::types::InodeNo;
use crate::vfs::{
    AllocateMode, Caller, Env, FileKind, FormatOptions, NewInode, OpenOptions, Owner, RenameMode, SetAttr, Volume,
    WriteMode, XattrMode,
};

const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"a longer name"];
const ATTRIBUTES: [&[u8]; 4] = [b"user.a", b"user.b", b"trusted.c", b"security.capability"];

/// A directory, by its place among the known ones, and a name in it.
type Place = (prop::sample::Index, usize);

#[derive(Clone, Debug)]
enum Op {
    Make(Place, u8),
    Temporary(bool, Place),
    Link(prop::sample::Index, Place),
    Remove(Place),
    RemoveDirectory(Place),
    Rename(Place, Place, u8),
    Write(prop::sample::Index, u64, usize),
    Truncate(prop::sample::Index, u64),
    Allocate(prop::sample::Index, u64, u64, u8),
    Copy(prop::sample::Index, u64, prop::sample::Index, u64, u64),
    SetXattr(prop::sample::Index, usize, usize),
    RemoveXattr(prop::sample::Index, usize),
    Acquire(prop::sample::Index),
    ReleaseAll,
    Sync,
    Work,
    Close,
    Crash,
}

fn any_op() -> impl Strategy<Value = Op> {
    use prop::sample::Index;
    let place = || (any::<Index>(), 0..NAMES.len());
    let offset = || prop_oneof![3 => 0..9_000_u64, 3 => 0..700_000_u64, 1 => 0..1_u64 << 40];
    let attribute = || 0..ATTRIBUTES.len();
    prop_oneof![
        12 => (place(), any::<u8>()).prop_map(|(place, kind)| Op::Make(place, kind)),
        2 => (any::<bool>(), place()).prop_map(|(link, place)| Op::Temporary(link, place)),
        3 => (any::<Index>(), place()).prop_map(|(of, place)| Op::Link(of, place)),
        4 => place().prop_map(Op::Remove),
        2 => place().prop_map(Op::RemoveDirectory),
        5 => (place(), place(), any::<u8>()).prop_map(|(from, to, mode)| Op::Rename(from, to, mode)),
        14 => (any::<Index>(), offset(), prop_oneof![1..3_000_usize, 1..400_000_usize])
            .prop_map(|(file, offset, len)| Op::Write(file, offset, len)),
        5 => (any::<Index>(), offset()).prop_map(|(file, size)| Op::Truncate(file, size)),
        5 => (any::<Index>(), offset(), 1..900_000_u64, any::<u8>())
            .prop_map(|(file, offset, len, mode)| Op::Allocate(file, offset, len, mode)),
        2 => (any::<Index>(), offset(), any::<Index>(), offset(), 1..300_000_u64)
            .prop_map(|(from, at, to, there, len)| Op::Copy(from, at, to, there, len)),
        4 => (any::<Index>(), attribute(), prop_oneof![0..200_usize, 0..65_537_usize])
            .prop_map(|(of, name, len)| Op::SetXattr(of, name, len)),
        2 => (any::<Index>(), attribute()).prop_map(|(of, name)| Op::RemoveXattr(of, name)),
        2 => any::<Index>().prop_map(Op::Acquire),
        1 => Just(Op::ReleaseAll),
        3 => Just(Op::Sync),
        3 => Just(Op::Work),
        2 => Just(Op::Close),
        3 => Just(Op::Crash),
    ]
}

struct Play {
    backend: Arc<MemoryBackend>,
    options: OpenOptions,
    volume: Option<Volume>,
    /// What is there: directories, regular files, and others.
    dirs: Vec<InodeNo>,
    files: Vec<InodeNo>,
    others: Vec<InodeNo>,
    acquired: Vec<InodeNo>,
}

fn key() -> VolumeKey {
    VolumeKey::new([5; 32])
}

impl Play {
    fn new(size_bytes: u64, memory_bytes: usize) -> Play {
        let backend = Arc::new(MemoryBackend::new(size_bytes));
        let root = Owner { mode: 0o755, uid: 0, gid: 0 };
        let (label, slots, anchor) = ("play".into(), Vec::new(), None);
        let options = FormatOptions { size_bytes, volume_id: [2; 16], label, slots, anchor, root };
        Volume::format(backend.clone(), &key(), &options, &Env::host()).unwrap();
        let options = OpenOptions { memory_bytes, ..OpenOptions::default() };
        let volume = Some(Volume::open(backend.clone(), &key(), &options, &Env::host()).unwrap());
        let (dirs, files, others) = (vec![InodeNo::ROOT], Vec::new(), Vec::new());
        let mut play = Play { backend, options, volume, dirs, files, others, acquired: Vec::new() };
        play.make(InodeNo::ROOT, 0, FileKind::Directory).unwrap();
        play.make(InodeNo::ROOT, 1, FileKind::Regular).unwrap();
        play.make(play.dirs[1], 1, FileKind::Regular).unwrap();
        play
    }

    fn check(&self) {
        let mut found = Vec::new();
        let on = &mut |event| {
            if let Event::Finding(finding) = event {
                found.push(finding);
            }
        };
        let options = CheckOptions { scrub: true, ..CheckOptions::default() };
        check(self.backend.clone(), &key(), &options, &Env::host(), on).unwrap();
        assert_eq!(found, []);
    }

    fn reopen(&mut self, clean: bool) -> Result<()> {
        self.acquired.clear();
        if let Some(volume) = self.volume.take()
            && clean
        {
            volume.close()?;
        }
        self.check();
        self.volume = Some(Volume::open(self.backend.clone(), &key(), &self.options, &Env::host())?);
        self.forget_gone();
        Ok(())
    }

    fn make(&mut self, dir: InodeNo, name: usize, kind: FileKind) -> Result<()> {
        let new = NewInode { kind, mode: 0o644, rdev: 0, target: vec![b't'; 40] };
        let made = self.volume.as_ref().unwrap().make(&Caller::root(), dir, NAMES[name], &new)?.ino;
        match kind {
            FileKind::Regular => self.files.push(made),
            FileKind::Directory => self.dirs.push(made),
            _ => self.others.push(made),
        }
        Ok(())
    }

    fn forget_gone(&mut self) {
        let volume = self.volume.as_ref().unwrap();
        for list in [&mut self.dirs, &mut self.files, &mut self.others] {
            list.retain(|ino| volume.attr(*ino).is_ok());
        }
    }

    /// Outcomes are not asked for: a name may be taken, an inode gone, the volume full.
    fn run(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Close => return self.reopen(true),
            Op::Crash => return self.reopen(false),
            _ => {}
        }
        let root = Caller::root();
        let volume = self.volume.as_ref().unwrap();
        let (dirs, files, others, acquired) = (&mut self.dirs, &mut self.files, &mut self.others, &mut self.acquired);
        let all: Vec<InodeNo> = files.iter().chain(&*others).chain(&*dirs).copied().collect();
        // A volume may have lost all its files.
        let pick = |index: &prop::sample::Index, list: &[InodeNo]| {
            if list.is_empty() { InodeNo::ROOT } else { *index.get(list) }
        };
        match op {
            Op::Make((dir, name), kind) => {
                let kinds =
                    [FileKind::Regular, FileKind::Directory, FileKind::Symlink, FileKind::Regular, FileKind::Fifo];
                let kind = kinds[usize::from(*kind) % kinds.len()];
                let dir = pick(dir, dirs);
                self.make(dir, *name, kind)?;
            }
            Op::Temporary(link, (dir, name)) => {
                let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
                let ino = volume.make_tmpfile(&root, InodeNo::ROOT, &new)?.ino;
                files.push(ino);
                acquired.push(ino);
                if *link {
                    volume.link(&root, ino, pick(dir, dirs), NAMES[*name])?;
                }
            }
            Op::Link(of, (dir, name)) => {
                volume.link(&root, pick(of, files), pick(dir, dirs), NAMES[*name])?;
            }
            Op::Remove((dir, name)) => volume.unlink(&root, pick(dir, dirs), NAMES[*name])?,
            Op::RemoveDirectory((dir, name)) => volume.rmdir(&root, pick(dir, dirs), NAMES[*name])?,
            Op::Rename((from, old), (to, new), mode) => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][usize::from(*mode) % 3];
                volume.rename(&root, pick(from, dirs), NAMES[*old], pick(to, dirs), NAMES[*new], mode)?;
            }
            Op::Write(file, offset, len) => {
                let data = vec![0xd5; *len];
                volume.write(&root, pick(file, files), *offset, &data, WriteMode::Direct)?;
            }
            Op::Truncate(file, size) => {
                volume.set_attr(&root, pick(file, files), &SetAttr { size: Some(*size), ..SetAttr::default() })?;
            }
            Op::Allocate(file, offset, len, mode) => {
                let mode = match mode % 5 {
                    0 => AllocateMode::Allocate { keep_size: false },
                    1 => AllocateMode::Allocate { keep_size: true },
                    2 => AllocateMode::PunchHole,
                    3 => AllocateMode::ZeroRange { keep_size: false },
                    _ => AllocateMode::ZeroRange { keep_size: true },
                };
                volume.allocate(&root, pick(file, files), *offset, *len, mode)?;
            }
            Op::Copy(from, at, to, there, len) => {
                volume.copy_range(&root, pick(from, files), *at, pick(to, files), *there, *len)?;
            }
            Op::SetXattr(of, name, len) => {
                let value = vec![7; *len];
                volume.set_xattr(&root, pick(of, &all), ATTRIBUTES[*name], &value, XattrMode::Any)?;
            }
            Op::RemoveXattr(of, name) => volume.remove_xattr(&root, pick(of, &all), ATTRIBUTES[*name])?,
            Op::Acquire(of) => {
                let ino = pick(of, &all);
                volume.acquire(ino)?;
                acquired.push(ino);
            }
            Op::ReleaseAll => acquired.drain(..).for_each(|ino| volume.release(ino, 1)),
            Op::Sync => volume.sync()?,
            Op::Work => drop(volume.work(true)?),
            Op::Close | Op::Crash => {}
        }
        self.forget_gone();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn used_volumes_have_no_findings(
        ops in prop::collection::vec(any_op(), 20..160),
        size_mib in prop_oneof![Just(8_u64), Just(48)],
        memory_mib in prop_oneof![Just(4_usize), Just(64)],
    ) {
        let mut play = Play::new(size_mib << 20, memory_mib << 20);
        for op in &ops {
            if let Err(error) = play.run(op) {
                let expected = matches!(error, crate::error::Error::Posix(_));
                prop_assert!(expected, "{op:?}: {error:?}");
            }
        }
        play.run(&Op::Sync).ok();
        play.run(&Op::Crash).unwrap();
        play.run(&Op::Close).unwrap();
    }
}
