//! A volume with a tree of two levels: every node of it is lost once.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::crash::copy;
use super::*;
use crate::tree::{NodeReader, Root};
use crate::vfs::{Caller, FormatOptions, NewInode, Owner, WriteMode, XattrMode};

/// Names and content of all files, by path.
type Tree = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn filled() -> Arc<MemoryBackend> {
    let backend = Arc::new(MemoryBackend::new(SIZE_BYTES));
    let root = Owner { mode: 0o755, uid: 0, gid: 0 };
    let (label, slots, anchor) = ("repair".into(), Vec::new(), None);
    let options = FormatOptions { size_bytes: SIZE_BYTES, volume_id: [4; 16], label, slots, anchor, root };
    Volume::format(backend.clone(), &key(), &options, &env()).unwrap();
    let volume = Volume::open(backend.clone(), &key(), &OpenOptions::default(), &env()).unwrap();
    let caller = Caller::root();
    let make = |dir, name: &str, kind| {
        let new = NewInode { kind, mode: 0o755, rdev: 0, target: b"somewhere".to_vec() };
        volume.make(&caller, dir, name.as_bytes(), &new).unwrap().ino
    };
    for d in 0..6_u32 {
        let dir = make(InodeNo::ROOT, &format!("dir {d}"), FileKind::Directory);
        for f in 0..30_u32 {
            let file = make(dir, &format!("file {f}"), FileKind::Regular);
            let len = if f % 3 == 0 { 40_000 } else { 100 + 10 * f };
            let content: Vec<u8> = (0..len).map(|at| ((at + d + f) % 251) as u8).collect();
            volume.write(&caller, file, 0, &content, WriteMode::Direct).unwrap();
            if f % 5 == 0 {
                volume.set_xattr(&caller, file, b"user.long", &[7; 5000], XattrMode::Any).unwrap();
            }
            if f % 7 == 0 {
                volume.link(&caller, file, InodeNo::ROOT, format!("link {d} {f}").as_bytes()).unwrap();
            }
        }
        make(dir, "symlink", FileKind::Symlink);
    }
    volume.close().unwrap();
    assert_eq!(findings(&backend, true), []);
    backend
}

fn read(backend: &Arc<MemoryBackend>) -> Tree {
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let volume = Volume::open(backend.clone(), &key(), &options, &env()).unwrap();
    let mut tree = Tree::new();
    let mut waiting = vec![(InodeNo::ROOT, Vec::new())];
    while let Some((dir, path)) = waiting.pop() {
        for entry in volume.read_dir(dir, 2, 10_000).unwrap() {
            let path = [&path[..], b"/", &entry.name].concat();
            let content = match entry.kind {
                FileKind::Directory => {
                    waiting.push((entry.ino, path.clone()));
                    None
                }
                FileKind::Regular => {
                    let size = volume.attr(entry.ino).unwrap().size;
                    let mut content = vec![0; usize::try_from(size).unwrap()];
                    volume.read(entry.ino, 0, &mut content).unwrap();
                    Some(content)
                }
                _ => volume.read_link(entry.ino).ok(),
            };
            tree.insert(path, content);
        }
    }
    tree
}

/// All nodes of the files' tree, with their levels.
fn nodes(backend: &Arc<MemoryBackend>) -> Vec<(BlockAddr, u8)> {
    let image = image(backend);
    let mut waiting: Vec<Root> = vec![image.root(crate::format::FILES_TREE).unwrap()];
    let mut nodes = Vec::new();
    while let Some(Root { reference, level }) = waiting.pop() {
        nodes.push((reference.addr, level));
        let node = image.read(level, &reference).unwrap();
        for child in (0..node.len()).filter_map(|at| (level > 0).then(|| node.child(at)).flatten()) {
            waiting.push(Root { reference: child, level: level - 1 });
        }
    }
    nodes
}

fn losses(backend: &Arc<MemoryBackend>) -> Vec<Loss> {
    findings(backend, false).iter().filter_map(Finding::loss).collect()
}

/// How many contents are there whole, under whatever name: what loses its directory goes to `lost+found`.
fn contents_kept(before: &Tree, after: &Tree) -> usize {
    let mut left: Vec<&Vec<u8>> = after.values().flatten().collect();
    let kept = before.values().flatten().filter(|old| {
        let at = left.iter().position(|new| new == old);
        at.map(|at| left.swap_remove(at)).is_some()
    });
    kept.count()
}

#[test]
fn every_node_can_be_lost_and_given_up() {
    let whole = filled();
    let before = read(&whole);
    let nodes = nodes(&whole);
    assert!(nodes.len() > 8 && nodes.iter().any(|(_, level)| *level == 1), "{nodes:?}");
    for (addr, level) in nodes {
        let backend = copy(&whole);
        flip(&backend, addr, 77);
        let loss = Loss::Node { addr };
        assert_eq!(losses(&backend), [loss]);
        assert!(matches!(left_alone(&backend, &[]), Refusal::Hidden(_)));
        let fixes = becomes_clean(&backend, &[loss]);
        assert!(fixes.contains(&Fix::GivenUp(loss)));
        let after = read(&backend);
        // Whatever a file still has under its name is what it had there, or a hole.
        for (path, content) in &after {
            let (Some(content), Some(Some(old))) = (content, before.get(path)) else { continue };
            assert!(content.len() <= old.len(), "{path:?}");
            assert!(content.iter().zip(old).all(|(new, old)| *new == 0 || new == old), "{path:?}");
        }
        let same = contents_kept(&before, &after);
        assert!(level > 0 || same > before.len() / 3, "one leaf cost all but {same} of {}", before.len());
    }
}

#[test]
fn two_nodes_are_given_up_together_or_not_at_all() {
    let backend = filled();
    let nodes = nodes(&backend);
    let leaves: Vec<BlockAddr> = nodes.iter().filter(|(_, level)| *level == 0).map(|(addr, _)| *addr).collect();
    flip(&backend, leaves[1], 77);
    flip(&backend, leaves[3], 77);
    let both = [Loss::Node { addr: leaves[1] }, Loss::Node { addr: leaves[3] }];
    let Refusal::Hidden(hidden) = left_alone(&backend, &both[..1]) else { panic!() };
    assert_eq!(hidden.iter().filter_map(Finding::loss).collect::<Vec<_>>(), both[1..]);
    becomes_clean(&backend, &both);
}
