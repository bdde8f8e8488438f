//! Directories: buckets, cookies, renames, against maps.

use alloc::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::format::{DirEntryRecord, NAME_DISCRIMINATORS, name_key};
use crate::vfs::dir::Bucket;

/// Names that share a hash stand beside each other, each keeps its place, and the 129th has none.
#[test]
fn colliding_names() {
    let volume = volume();
    let dir = dir_in(&volume, ROOT, "d");
    for hash in [0, 1, (1 << 56) - 1] {
        let names: Vec<String> = (0..200).map(|number| alloc::format!("{hash} {number}")).collect();
        let bucket = |name: usize| Bucket::of_hash(&volume.store, dir, names[name].as_bytes(), hash).unwrap();
        let enter = |name: usize| -> Result<Key> {
            let bucket = bucket(name);
            let key = bucket.free_key()?;
            let mut tx = volume.store.begin(Need::Metadata)?;
            bucket.put(&mut tx, key, InodeNo(name as u64), FileKind::Fifo);
            tx.finish();
            Ok(key)
        };
        let mut keys = BTreeMap::new();
        let mut refused = 0;
        for name in 0..130 {
            match enter(name) {
                Ok(key) => drop(keys.insert(name, key)),
                Err(error) => {
                    assert_eq!(error, Posix::NoSpace.into());
                    refused += 1;
                }
            }
        }
        // Of hash 0 the keys 0 to 2 stand for others, so it has three fewer.
        let room = if hash == 0 { 125 } else { 128 };
        assert_eq!((keys.len(), refused), (room, 130 - room));
        assert_eq!(keys.values().collect::<BTreeSet<_>>().len(), room, "no key twice");
        assert!(keys.values().all(|key| (3..1 << 63).contains(&key.offset)));
        let (gone, freed) = keys.pop_first().unwrap();
        forge(&volume, alloc::vec![(freed, None)]);
        assert_eq!(bucket(gone).entry(), None);
        for (name, key) in &keys {
            assert_eq!(bucket(*name).existing().unwrap().key, *key, "others keep their places");
        }
        assert_eq!(enter(150), Ok(freed), "the lowest free place");
    }
    let listed = volume.read_dir(dir, 0, 10_000).unwrap();
    assert_eq!(listed.len(), 2 + 125 + 2 * 128);
    assert!(listed.windows(2).all(|pair| pair[0].cookie < pair[1].cookie));
    assert_eq!(listed.last().unwrap().cookie, (1 << 63) - 1, "the last place there is");
    assert_eq!(volume.read_dir(dir, (1 << 63) - 1, 10), Ok(Vec::new()));
    assert_eq!(volume.read_dir(dir, u64::MAX, 10), Ok(Vec::new()));
    assert_eq!(name_key((1 << 56) - 1, NAME_DISCRIMINATORS - 1), (1 << 63) - 1);
}

/// A hash alone does not make a name: what stands under it is compared.
#[test]
fn an_entry_under_another_names_hash_is_not_taken_for_it() {
    let volume = volume();
    file(&volume, "f");
    let key = Bucket::read(&volume.store, ROOT, b"f").unwrap().existing().unwrap().key;
    let record = DirEntryRecord { ino: ROOT, kind: FileKind::Directory, name: b"g".to_vec() };
    forge(&volume, alloc::vec![(key, Some(record.encode()))]);
    assert_eq!(posix(volume.lookup(&root(), ROOT, b"f")), Posix::NotFound);
    assert_eq!(posix(volume.unlink(&root(), ROOT, b"f")), Posix::NotFound);
}

#[test]
fn names_that_no_entry_can_have() {
    let volume = volume();
    let longest = [b'n'; 256];
    let make = |name: &[u8]| volume.make(&root(), ROOT, name, &new(FileKind::Regular, 0o644)).map(drop);
    let cases: [(&[u8], Posix); 6] = [
        (b"", Posix::NotFound),
        (b".", Posix::Exists),
        (b"..", Posix::Exists),
        (b"a/b", Posix::InvalidArgument),
        (b"a\0", Posix::InvalidArgument),
        (&longest, Posix::NameTooLong),
    ];
    for (name, refusal) in cases {
        assert_eq!(posix(make(name)), refusal, "{name:?}");
    }
    for name in [&longest[..255], b"...", b" ", b"\xff\xfe\n"] {
        make(name).unwrap();
        assert_eq!(volume.unlink(&root(), ROOT, name), Ok(()));
    }
    for (outcome, refusal) in [
        (volume.unlink(&root(), ROOT, b"."), Posix::IsDirectory),
        (volume.rmdir(&root(), ROOT, b"."), Posix::InvalidArgument),
        (volume.rmdir(&root(), ROOT, b".."), Posix::NotEmpty),
        (volume.rename(&root(), ROOT, b".", ROOT, b"a", RenameMode::Replace), Posix::Busy),
        (volume.rename(&root(), ROOT, b"a", ROOT, b"..", RenameMode::NoReplace), Posix::Exists),
    ] {
        assert_eq!(posix(outcome), refusal);
    }
    assert_eq!(volume.lookup(&root(), ROOT, b"..").unwrap().ino, ROOT);
}

#[test]
fn a_directory_never_gets_below_itself() {
    let volume = volume();
    let a = dir_in(&volume, ROOT, "a");
    let b = dir_in(&volume, a, "b");
    let c = dir_in(&volume, b, "c");
    dir_in(&volume, ROOT, "x");
    for (dir, mode, refusal) in [
        (a, RenameMode::Replace, Posix::InvalidArgument),
        (c, RenameMode::Replace, Posix::InvalidArgument),
        (c, RenameMode::NoReplace, Posix::InvalidArgument),
        (b, RenameMode::Exchange, Posix::InvalidArgument),
    ] {
        let name: &[u8] = if mode == RenameMode::Exchange { b"c" } else { b"new" };
        assert_eq!(posix(volume.rename(&root(), ROOT, b"a", dir, name, mode)), refusal);
    }
    assert_eq!(posix(volume.rename(&root(), b, b"c", ROOT, b"a", RenameMode::Replace)), Posix::NotEmpty);
    assert_eq!(posix(volume.rename(&root(), b, b"c", ROOT, b"a", RenameMode::Exchange)), Posix::InvalidArgument);
    volume.rename(&root(), b, b"c", ROOT, b"x", RenameMode::Exchange).unwrap();
    assert_eq!(volume.lookup(&root(), c, b"..").unwrap().ino, ROOT);
    volume.rename(&root(), ROOT, b"a", c, b"a", RenameMode::Replace).unwrap();
    assert_eq!(volume.lookup(&root(), a, b"..").unwrap().ino, c);
    let links = [ROOT, c, a, b].map(|ino| volume.attr(ino).unwrap().links);
    assert_eq!(links, [3, 3, 3, 3]);
}

#[derive(Clone, Debug)]
enum Step {
    Make(u8, bool),
    Remove(u8),
    Rename(u8, u8, RenameMode),
    Link(u8, u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0u8..12;
    let mode = prop_oneof![Just(RenameMode::Replace), Just(RenameMode::NoReplace), Just(RenameMode::Exchange)];
    prop_oneof![
        4 => (name(), any::<bool>()).prop_map(|(name, dir)| Step::Make(name, dir)),
        2 => name().prop_map(Step::Remove),
        4 => (name(), name(), mode).prop_map(|(from, to, mode)| Step::Rename(from, to, mode)),
        1 => (name(), name()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => Just(Step::Reopen),
    ]
}

type Names = BTreeMap<u8, (InodeNo, bool)>;

fn run(volume: &Volume, dir: InodeNo, names: &mut Names, step: &Step) {
    let bytes = |name: u8| alloc::vec![b'a' + name; 1 + usize::from(name) * 20];
    match *step {
        Step::Make(name, is_dir) => {
            let kind = if is_dir { FileKind::Directory } else { FileKind::Regular };
            match volume.make(&root(), dir, &bytes(name), &new(kind, 0o700)) {
                Ok(attr) => assert_eq!(names.insert(name, (attr.ino, is_dir)), None),
                outcome => assert!(posix(outcome) == Posix::Exists && names.contains_key(&name)),
            }
        }
        Step::Remove(name) => match names.remove(&name) {
            Some((_, true)) => assert_eq!(volume.rmdir(&root(), dir, &bytes(name)), Ok(())),
            Some((_, false)) => assert_eq!(volume.unlink(&root(), dir, &bytes(name)), Ok(())),
            None => assert_eq!(posix(volume.unlink(&root(), dir, &bytes(name))), Posix::NotFound),
        },
        Step::Rename(from, to, mode) => {
            let outcome = volume.rename(&root(), dir, &bytes(from), dir, &bytes(to), mode);
            let expected = match (names.get(&from).copied(), names.get(&to).copied(), mode) {
                (None, _, _) => Err(Posix::NotFound),
                (_, Some(_), RenameMode::NoReplace) => Err(Posix::Exists),
                (_, None, RenameMode::Exchange) => Err(Posix::NotFound),
                (Some(source), Some(target), _) if source == target => Ok(()),
                (Some(source), Some(target), RenameMode::Exchange) => {
                    names.extend([(from, target), (to, source)]);
                    Ok(())
                }
                (Some((_, true)), Some((_, false)), _) => Err(Posix::NotDirectory),
                (Some((_, false)), Some((_, true)), _) => Err(Posix::IsDirectory),
                (Some(source), _, _) => {
                    names.remove(&from);
                    names.insert(to, source);
                    Ok(())
                }
            };
            assert_eq!(outcome, expected.map_err(Error::Posix));
        }
        Step::Link(from, to) => {
            let Some(&(ino, is_dir)) = names.get(&from) else { return };
            match volume.link(&root(), ino, dir, &bytes(to)) {
                Ok(_) => assert!(!is_dir && names.insert(to, (ino, false)).is_none()),
                outcome => assert!(matches!(posix(outcome), Posix::Exists | Posix::NotPermitted)),
            }
        }
        Step::Reopen => {}
    }
}

fn check(volume: &Volume, dir: InodeNo, names: &Names) {
    let mut found = Names::new();
    let mut cookie = 2;
    while let Some(entry) = volume.read_dir(dir, cookie, 1).unwrap().pop() {
        assert!(entry.cookie > cookie);
        cookie = entry.cookie;
        assert_eq!(volume.lookup(&root(), dir, &entry.name).unwrap().ino, entry.ino);
        found.insert(entry.name[0] - b'a', (entry.ino, entry.kind == FileKind::Directory));
    }
    assert_eq!(found, *names);
    let attr = volume.attr(dir).unwrap();
    let subdirs = names.values().filter(|(_, is_dir)| *is_dir).count();
    assert_eq!((attr.size, attr.links), (names.len() as u64, 2 + u32::try_from(subdirs).unwrap()));
    for (ino, is_dir) in names.values().filter(|(_, is_dir)| !is_dir) {
        let links = names.values().filter(|other| **other == (*ino, *is_dir)).count();
        assert_eq!(volume.attr(*ino).unwrap().links, u32::try_from(links).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_is_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        let backend = formatted();
        let mut volume = opened(&backend);
        let dir = dir_in(&volume, ROOT, "d");
        let mut names = Names::new();
        for step in &steps {
            run(&volume, dir, &mut names, step);
            if matches!(step, Step::Reopen) {
                volume.close().unwrap();
                volume = opened(&backend);
            }
        }
        check(&volume, dir, &names);
        let inodes: BTreeSet<InodeNo> = names.values().map(|(ino, _)| *ino).collect();
        volume.work(true).unwrap();
        prop_assert_eq!(volume.store.space().inodes, 2 + inodes.len() as u64);
    }
}
