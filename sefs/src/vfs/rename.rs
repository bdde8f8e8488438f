//! Moving names, and exchanging them.
//!
//! A move between directories holds the rename lock, so that no directory's parent changes but through the holder: only
//! then does the walk from a directory up to the root tell its ancestors. Moves within a directory change no ancestor.

use alloc::vec::Vec;

use crate::error::{Corrupt, Error, Posix, Result};
use crate::format::{FileKind, Inode};
use crate::store::{Need, Store};
use crate::types::InodeNo;
use crate::vfs::attr::{require_directory, touch_content, touch_status};
use crate::vfs::dir::{self, Bucket, Entry};
use crate::vfs::inode::{Edit, Locked, inode_key, read_inode, record_error};
use crate::vfs::make::add_entry;
use crate::vfs::remove::{peek, put_or_drop, subtract_entry, subtract_link};
use crate::vfs::{Caller, EXECUTE, RenameMode, Volume, WRITE, permission};

/// One end of a rename.
#[derive(Clone, Copy)]
pub(super) struct Side<'n> {
    /// The directory.
    pub(super) dir: InodeNo,
    /// The name in it.
    pub(super) name: &'n [u8],
}

/// What both names stood for when that was looked up.
#[derive(PartialEq, Eq)]
struct Seen {
    source: Entry,
    target: Option<Entry>,
}

/// Inodes as they will be, each once.
struct Drafts<'a> {
    store: &'a Store,
    locked: &'a Locked<'a>,
    inodes: Vec<(InodeNo, Inode)>,
}

/// Moves a name, or exchanges two.
pub(super) fn rename(volume: &Volume, caller: &Caller, from: Side<'_>, to: Side<'_>, mode: RenameMode) -> Result<()> {
    dir::check_entry_name(from.name, Posix::Busy)?;
    let refusal = if mode == RenameMode::NoReplace { Posix::Exists } else { Posix::Busy };
    if dir::is_dots(to.name) {
        return Err(refusal.into());
    }
    let _rename = (from.dir != to.dir).then(|| volume.renames.lock());
    loop {
        let source = peek(volume, caller, from.dir, from.name)?.ok_or(Posix::NotFound)?;
        dir::check_name(to.name)?;
        let target = peek(volume, caller, to.dir, to.name)?;
        let mut inos = alloc::vec![from.dir, to.dir, source.ino];
        inos.extend(target.as_ref().map(|target| target.ino));
        let held = volume.inodes.hold_all(&inos);
        let locked = held.lock();
        if rename_locked(volume, caller, &locked, from, to, mode, &Seen { source, target })? {
            return Ok(());
        }
    }
}

/// Renames if both names still are what they were; false if they are not.
fn rename_locked(
    volume: &Volume,
    caller: &Caller,
    locked: &Locked<'_>,
    from: Side<'_>,
    to: Side<'_>,
    mode: RenameMode,
    seen: &Seen,
) -> Result<bool> {
    let store = &volume.store;
    require_directory(&*locked.inode(store, from.dir)?)?;
    require_directory(&*locked.inode(store, to.dir)?)?;
    let (from_names, to_names) = (Bucket::read(store, from.dir, from.name)?, Bucket::read(store, to.dir, to.name)?);
    if (Seen { source: from_names.existing()?, target: to_names.entry() }) != *seen {
        return Ok(false);
    }
    let Seen { source, target } = seen;
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => return Err(Posix::Exists.into()),
        (RenameMode::Exchange, None) => return Err(Posix::NotFound.into()),
        _ => {}
    }
    check_ancestors(store, locked, from, to, mode, seen)?;
    if target.as_ref().is_some_and(|target| target.ino == source.ino) {
        return Ok(true);
    }
    check_permissions(store, caller, locked, from, to, mode, seen)?;
    let drafts = Drafts { store, locked, inodes: Vec::new() };
    match (mode, target) {
        (RenameMode::Exchange, Some(target)) => {
            exchange(volume, drafts, (from, &from_names, source), (to, &to_names, target))?;
        }
        _ => replace(volume, drafts, (from, source), (to, &to_names, target.as_ref()))?,
    }
    Ok(true)
}

fn replace(
    volume: &Volume,
    mut drafts: Drafts<'_>,
    (from, source): (Side<'_>, &Entry),
    (to, to_names, target): (Side<'_>, &Bucket<'_>, Option<&Entry>),
) -> Result<()> {
    let now = volume.clock.now();
    let key = target.map_or_else(|| to_names.free_key(), |target| Ok(target.key))?;
    let moved = drafts.of(source.ino)?;
    let kind = moved.kind();
    if kind == FileKind::Directory {
        moved.parent = to.dir;
    }
    touch_status(moved, now);
    subtract_entry(drafts.of(from.dir)?, kind);
    if let Some(target) = target {
        let replaced = drafts.of(target.ino)?;
        let replaced_kind = replaced.kind();
        subtract_link(replaced);
        touch_status(replaced, now);
        subtract_entry(drafts.of(to.dir)?, replaced_kind);
    }
    add_entry(drafts.of(to.dir)?, kind)?;
    drafts.touch_directories(from, to, now)?;
    let need = if target.is_some() { Need::Release } else { Need::Metadata };
    let mut edit = Edit::begin(drafts.store, need, drafts.locked)?;
    edit.tx.delete(source.key);
    to_names.put(&mut edit.tx, key, source.ino, kind);
    drafts.finish(volume, edit)
}

fn exchange(
    volume: &Volume,
    mut drafts: Drafts<'_>,
    (from, from_names, source): (Side<'_>, &Bucket<'_>, &Entry),
    (to, to_names, target): (Side<'_>, &Bucket<'_>, &Entry),
) -> Result<()> {
    let now = volume.clock.now();
    let mut kinds = Vec::new();
    for (ino, parent) in [(source.ino, to.dir), (target.ino, from.dir)] {
        let inode = drafts.of(ino)?;
        if inode.kind() == FileKind::Directory {
            inode.parent = parent;
        }
        touch_status(inode, now);
        kinds.push(inode.kind());
    }
    let (source_kind, target_kind) = (kinds[0], kinds[1]);
    subtract_entry(drafts.of(from.dir)?, source_kind);
    add_entry(drafts.of(from.dir)?, target_kind)?;
    subtract_entry(drafts.of(to.dir)?, target_kind);
    add_entry(drafts.of(to.dir)?, source_kind)?;
    drafts.touch_directories(from, to, now)?;
    let mut edit = Edit::begin(drafts.store, Need::Metadata, drafts.locked)?;
    from_names.put(&mut edit.tx, source.key, target.ino, target_kind);
    to_names.put(&mut edit.tx, target.key, source.ino, source_kind);
    drafts.finish(volume, edit)
}

impl Drafts<'_> {
    /// The draft of a locked inode, begun with its value.
    fn of(&mut self, ino: InodeNo) -> Result<&mut Inode> {
        let index = match self.inodes.iter().position(|(known, _)| *known == ino) {
            Some(index) => index,
            None => {
                self.inodes.push((ino, (*self.locked.inode(self.store, ino)?).clone()));
                self.inodes.len() - 1
            }
        };
        Ok(&mut self.inodes[index].1)
    }

    fn touch_directories(&mut self, from: Side<'_>, to: Side<'_>, now: crate::types::Timestamp) -> Result<()> {
        touch_content(self.of(from.dir)?, now);
        if from.dir != to.dir {
            touch_content(self.of(to.dir)?, now);
        }
        Ok(())
    }

    fn finish(self, volume: &Volume, mut edit: Edit<'_>) -> Result<()> {
        for (ino, inode) in self.inodes {
            put_or_drop(&mut edit, self.locked, ino, inode)?;
        }
        if edit.finish_unlink() {
            volume.orphans.expect_some();
        }
        Ok(())
    }
}

/// A directory must not become its own descendant.
fn check_ancestors(
    store: &Store,
    locked: &Locked<'_>,
    from: Side<'_>,
    to: Side<'_>,
    mode: RenameMode,
    seen: &Seen,
) -> Result<()> {
    if from.dir == to.dir {
        return Ok(());
    }
    if is_directory(store, locked, from.dir, &seen.source)? && is_ancestor(store, seen.source.ino, to.dir)? {
        return Err(Posix::InvalidArgument.into());
    }
    let Some(target) = &seen.target else { return Ok(()) };
    if is_directory(store, locked, to.dir, target)? && is_ancestor(store, target.ino, from.dir)? {
        let refusal = if mode == RenameMode::Exchange { Posix::InvalidArgument } else { Posix::NotEmpty };
        return Err(refusal.into());
    }
    Ok(())
}

fn is_directory(store: &Store, locked: &Locked<'_>, dir: InodeNo, entry: &Entry) -> Result<bool> {
    Ok(locked.named(store, dir, entry.ino)?.kind() == FileKind::Directory)
}

/// Whether `ancestor` is `dir` or above it. `dir` is locked and linked, so everything above it is linked too; and the
/// rename lock keeps it in its place.
fn is_ancestor(store: &Store, ancestor: InodeNo, dir: InodeNo) -> Result<bool> {
    let (mut at, mut mark, mut steps) = (dir, dir, 0u64);
    while at != ancestor {
        if at == InodeNo::ROOT {
            return Ok(false);
        }
        at = read_inode(store, at).map_err(|error| missing(error, at))?.parent;
        steps += 1;
        // Parents that run in a circle come back to a mark that is set ever further apart.
        if at == mark {
            return Err(record_error(inode_key(at), "a directory is its own ancestor"));
        }
        if steps.is_power_of_two() {
            mark = at;
        }
    }
    Ok(true)
}

fn missing(error: Error, ino: InodeNo) -> Error {
    match error {
        Error::Posix(Posix::Stale) => Corrupt::MissingInode(ino).into(),
        error => error,
    }
}

fn check_permissions(
    store: &Store,
    caller: &Caller,
    locked: &Locked<'_>,
    from: Side<'_>,
    to: Side<'_>,
    mode: RenameMode,
    seen: &Seen,
) -> Result<()> {
    let (from_dir, to_dir) = (locked.inode(store, from.dir)?, locked.inode(store, to.dir)?);
    let source = locked.named(store, from.dir, seen.source.ino)?;
    permission::check(store, caller, to.dir, &to_dir, EXECUTE)?;
    permission::check_remove(store, caller, from.dir, &from_dir, &source)?;
    check_parent_change(store, caller, from, to, seen.source.ino, &source)?;
    let Some(entry) = &seen.target else {
        return permission::check_insert(store, caller, to.dir, &to_dir);
    };
    let target = locked.named(store, to.dir, entry.ino)?;
    permission::check_remove(store, caller, to.dir, &to_dir, &target)?;
    if mode == RenameMode::Exchange {
        return check_parent_change(store, caller, from, to, entry.ino, &target);
    }
    match (source.kind() == FileKind::Directory, target.kind() == FileKind::Directory) {
        (true, false) => Err(Posix::NotDirectory.into()),
        (false, true) => Err(Posix::IsDirectory.into()),
        (true, true) if target.entries > 0 => Err(Posix::NotEmpty.into()),
        _ => Ok(()),
    }
}

/// A directory that changes its parent is changed itself: its ".." is.
fn check_parent_change(
    store: &Store,
    caller: &Caller,
    from: Side<'_>,
    to: Side<'_>,
    ino: InodeNo,
    inode: &Inode,
) -> Result<()> {
    if from.dir != to.dir && inode.kind() == FileKind::Directory {
        permission::check(store, caller, ino, inode, WRITE)?;
    }
    Ok(())
}
