//! The public face of a volume.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::anchor::{Anchor, AnchorPolicy};
use crate::backend::Backend;
use crate::error::{Corrupt, Error, Posix, Result};
use crate::format::KeySlot;
use crate::keys::VolumeKey;
use crate::store::{self, Need, Store, StoreFormat, StoreOptions};
use crate::sync::Mutex;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use crate::vfs::allocate::{self, Span};
use crate::vfs::copy::{self, Place};
use crate::vfs::inode::InodeTable;
use crate::vfs::reclaim::{self, Orphans};
use crate::vfs::rename::{self, Side};
use crate::vfs::{
    AllocateMode, AnchorStanding, Attr, Caller, Clock, DataRun, DirEntry, EXECUTE, Env, EpochInfo, FormatOptions,
    FsStat, Header, NAME_MAX, NewInode, OpenOptions, RenameMode, Room, RotationStep, Seek, SetAttr, VolumeInfo,
    WorkDone, WriteMode, XattrMode, attr, dir, file, make, permission, remove, write, xattr,
};

/// Orphans that one call of `work` reclaims while others are busy, and while nobody is.
const RECLAIM_BUSY: usize = 16;
const RECLAIM_IDLE: usize = 256;

/// An open volume. All methods take `&self` and may be called from many threads at once.
///
/// Inode numbers come from [`Volume::lookup`], [`Volume::make`] and [`Volume::read_dir`]; the root is
/// [`InodeNo::ROOT`]. They are never used again for another inode: one that is gone gives `ESTALE`.
pub struct Volume {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) inodes: InodeTable,
    /// Held by moves between directories.
    pub(super) renames: Mutex<()>,
    pub(super) orphans: Orphans,
    commit_ms: u64,
}

impl Volume {
    /// Makes a volume that holds a root directory and nothing else.
    pub fn format(backend: Arc<dyn Backend>, key: &VolumeKey, options: &FormatOptions, env: &Env) -> Result<()> {
        Store::format(&*backend, key, &store_format(options, false), env)?;
        let anchor = options.anchor.as_ref().map(|(anchor, _)| anchor.clone());
        let open = OpenOptions { anchor, ..OpenOptions::default() };
        let store = Store::open(backend, key, &store_options(&open), env)?;
        make::make_root(&store, &options.root, env.clock.now())?;
        store.close()
    }

    /// Opens a volume: authenticates it, replays its log, checks its anchor. Or an encrypted packed image, which is always
    /// read-only. One that lies over images ([`Volume::lowers`]) is then given these.
    pub fn open(backend: Arc<dyn Backend>, key: &VolumeKey, options: &OpenOptions, env: &Env) -> Result<Volume> {
        let store = Store::open(backend, key, &store_options(options), env)?;
        Ok(Volume::over(store, options, env))
    }

    /// Opens a public image, which `options.root_digest` pins. It is read-only.
    pub fn open_public(backend: Arc<dyn Backend>, options: &OpenOptions, env: &Env) -> Result<Volume> {
        let store = Store::open_packed(backend, None, &store_options(options), env)?;
        Ok(Volume::over(store, options, env))
    }

    fn over(store: Store, options: &OpenOptions, env: &Env) -> Volume {
        let orphans = Orphans::new(!store.read_only());
        let (clock, inodes) = (env.clock.clone(), InodeTable::default());
        Volume { store, clock, inodes, renames: Mutex::new(()), orphans, commit_ms: options.commit_ms }
    }

    /// The root digest of the packed image that stands there, whoever put it there: only a pin of the caller's makes it proof.
    pub fn read_root_digest(backend: &dyn Backend, env: &Env) -> Result<[u8; 32]> {
        store::root_digest(backend, &*env.suite)
    }

    /// The header as it stands there, not authenticated: only to find the key slots.
    pub fn read_header(backend: &dyn Backend) -> Result<Header> {
        store::read_header(backend)
    }

    /// The authenticated header.
    pub fn header(&self) -> &Header {
        self.store.header()
    }

    /// Gives the volume other key slots, durably: a crash leads to the old ones or to the new ones, and once this succeeded
    /// a header with the old ones is `RolledBack`. It needs the volume key that the volume was opened with.
    ///
    /// That a slot is gone does not revoke: whoever kept an old header and its secret has the volume key.
    pub fn change_key_slots(&mut self, key: &VolumeKey, slots: Vec<KeySlot>) -> Result<()> {
        self.store.change_slots(key, slots)
    }

    /// Gives the volume another key, and key slots that hold it, durably: a crash leads to the old key with the old slots or to the
    /// new one with the new ones. Once this succeeded the old key opens it no more; [`Volume::info`] tells the new generation.
    ///
    /// What was stored before can still be read, and changed unnoticed, by whoever has the old key, until it was sealed anew:
    /// [`Volume::rotate_step`] does that, and so does [`Volume::work`] in any later mount; `VolumeInfo::rotating` tells what is left.
    /// An anchor whose own key derives from the volume key cannot follow; take another volume then.
    ///
    /// Errors: `WrongKey` if `old` is not the key that the volume was opened with; `Invalid` if `new` is that key too, if the slots
    /// do not fit, or while an earlier rotation has not ended. After a failure of the host the volume is latched, and opening
    /// it again tells which key it has.
    pub fn rotate_key(&mut self, old: &VolumeKey, new: &VolumeKey, slots: Vec<KeySlot>) -> Result<()> {
        self.store.change_key(old, new, slots)
    }

    /// Does a bounded part of what a rotation of the volume key has left, durably.
    pub fn rotate_step(&self) -> Result<RotationStep> {
        self.store.rotate_slice()
    }

    /// The headers as they stand there, not authenticated: the primary, and the replica if it is another. A change of the volume key
    /// that was cut short may have left two.
    pub fn read_headers(backend: &dyn Backend) -> Result<Vec<Header>> {
        store::read_headers(backend)
    }

    /// Whether a copy of the header authenticates under this key. Nothing more is said of the volume.
    pub fn is_key_of_header(backend: &dyn Backend, key: &VolumeKey, env: &Env) -> bool {
        store::is_key_of_header(backend, key, env)
    }

    /// Binds the volume to another anchor, or to its first one: durably, from the state on in which it was opened. The anchor
    /// has to be a new one, which no other volume has. Only as the first thing that is written after opening.
    ///
    /// If the volume was opened with the anchor of before, that one has no part in it any more. If it was opened without any
    /// (`abandon_anchor`, or because it had none), nothing tells whether this state was the newest: that is the caller's word.
    pub fn bind_anchor(&mut self, anchor: Arc<dyn Anchor>, policy: AnchorPolicy) -> Result<()> {
        self.store.bind(anchor, policy)
    }

    /// Where the volume and its anchor stand; `None` for a volume that has none.
    pub fn anchor_standing(&self) -> Option<AnchorStanding> {
        self.store.anchor_standing()
    }

    /// What is known of the volume.
    pub fn info(&self) -> VolumeInfo {
        self.store.info()
    }

    /// The epochs whose keys are known, rising; none of a packed image. Those with nothing live that no log needs are on the way
    /// out, and `VolumeInfo::epochs` does not count them.
    pub fn epochs(&self) -> Vec<EpochInfo> {
        self.store.epochs()
    }

    /// Finds a name in a directory; "." and ".." too.
    pub fn lookup(&self, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<Attr> {
        dir::check_name(name)?;
        loop {
            let ino = self.inodes.hold(dir).shared(&self.store, |parent| {
                attr::require_directory(parent)?;
                permission::check(&self.store, caller, dir, parent, EXECUTE)?;
                match name {
                    b"." => Ok(dir),
                    b".." => Ok(parent.parent),
                    _ => Ok(dir::Bucket::read(&self.store, dir, name)?.existing()?.ino),
                }
            })?;
            match self.attr(ino) {
                // A rename over the name leaves no moment at which it is not there, so whoever took it is looked up.
                Err(Error::Posix(Posix::Stale)) if !dir::is_dots(name) => self.explain_missing(dir, name, ino)?,
                outcome => return outcome,
            }
        }
    }

    /// An inode's attributes.
    pub fn attr(&self, ino: InodeNo) -> Result<Attr> {
        self.inodes.hold(ino).shared(&self.store, |inode| attr::of(&self.store, ino, inode))
    }

    /// Changes attributes, all or none.
    pub fn set_attr(&self, caller: &Caller, ino: InodeNo, change: &SetAttr) -> Result<Attr> {
        self.with_space(|| attr::set(self, caller, ino, change))
    }

    /// Whether the caller may do all of `mask` ([`READ`], [`WRITE`], [`EXECUTE`]); `Caller::check` is not asked.
    pub fn access(&self, caller: &Caller, ino: InodeNo, mask: u32) -> Result<()> {
        self.inodes.hold(ino).shared(&self.store, |inode| {
            permission::permit(&self.store, caller, ino, inode, mask)?;
            permission::check_writable(self.store.read_only(), inode, mask)
        })
    }

    /// Makes a file, directory, symlink, fifo, socket or device.
    pub fn make(&self, caller: &Caller, dir: InodeNo, name: &[u8], new: &NewInode) -> Result<Attr> {
        self.with_space(|| make::make(self, caller, dir, name, new))
    }

    /// Makes a file without a name (`O_TMPFILE`), acquired once; it can be linked while it is acquired.
    pub fn make_tmpfile(&self, caller: &Caller, dir: InodeNo, new: &NewInode) -> Result<Attr> {
        self.with_space(|| make::make_tmpfile(self, caller, dir, new))
    }

    /// Gives an inode another name.
    pub fn link(&self, caller: &Caller, ino: InodeNo, dir: InodeNo, name: &[u8]) -> Result<Attr> {
        self.with_space(|| make::link(self, caller, ino, dir, name))
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<()> {
        self.with_space(|| remove::unlink(self, caller, dir, name))
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: &Caller, dir: InodeNo, name: &[u8]) -> Result<()> {
        self.with_space(|| remove::rmdir(self, caller, dir, name))
    }

    /// Moves a name, or exchanges two.
    pub fn rename(
        &self,
        caller: &Caller,
        from_dir: InodeNo,
        from_name: &[u8],
        to_dir: InodeNo,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let (from, to) = (Side { dir: from_dir, name: from_name }, Side { dir: to_dir, name: to_name });
        self.with_space(|| rename::rename(self, caller, from, to, mode))
    }

    /// Where a symlink points.
    pub fn read_link(&self, ino: InodeNo) -> Result<Vec<u8>> {
        file::read_link(self, ino)
    }

    /// At most `limit` entries after `cookie` (0: from the start), "." and ".." included.
    pub fn read_dir(&self, dir: InodeNo, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        self.inodes.hold(dir).shared(&self.store, |inode| dir::list(&self.store, dir, inode, cookie, limit))
    }

    /// Keeps an inode alive, linked or not, until it is released as often.
    pub fn acquire(&self, ino: InodeNo) -> Result<()> {
        let held = self.inodes.hold(ino);
        held.shared(&self.store, |_| {
            held.acquire();
            Ok(())
        })
    }

    /// Gives back `count` acquisitions.
    pub fn release(&self, ino: InodeNo, count: u64) {
        if self.inodes.release(ino, count) {
            self.orphans.expect_some();
        }
    }

    /// Reads from a regular file; fewer bytes than `out` holds only at its end.
    pub fn read(&self, ino: InodeNo, offset: u64, out: &mut [u8]) -> Result<usize> {
        file::read(self, ino, offset, out)
    }

    /// Writes into a regular file. Up to 1 MiB is all or nothing; of more, what was written before a failure counts.
    pub fn write(&self, caller: &Caller, ino: InodeNo, offset: u64, data: &[u8], mode: WriteMode) -> Result<usize> {
        write::write(self, caller, ino, offset, data, mode)
    }

    /// Promises or gives back space (fallocate(2)).
    pub fn allocate(&self, caller: &Caller, ino: InodeNo, offset: u64, len: u64, mode: AllocateMode) -> Result<()> {
        let span = Span::new(offset, len)?;
        self.with_space(|| allocate::allocate(self, caller, ino, span, mode))
    }

    /// The next data or hole at or after `offset`; `ENXIO` if there is none before the file's end.
    pub fn seek(&self, ino: InodeNo, offset: u64, whence: Seek) -> Result<u64> {
        file::seek(self, ino, offset, whence)
    }

    /// How a regular file's content lies, from block `from_block` on: at most `limit` runs, rising. Content that stands in the
    /// inode's own record, holes and space that is only promised are in none.
    pub fn data_runs(&self, ino: InodeNo, from_block: u64, limit: usize) -> Result<Vec<DataRun>> {
        file::data_runs(self, ino, from_block, limit)
    }

    /// Copies a range between files, or within one where the ranges do not overlap. Returns the bytes copied, which may
    /// be fewer than asked for; 0 at the end of the source.
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: InodeNo,
        from_offset: u64,
        to: InodeNo,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let (from, to) = (Place { ino: from, offset: from_offset }, Place { ino: to, offset: to_offset });
        copy::copy(self, caller, from, to, len)
    }

    /// An extended attribute's value.
    pub fn get_xattr(&self, caller: &Caller, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        xattr::get(self, caller, ino, name)
    }

    /// Sets an extended attribute. An access ACL also sets the permission bits.
    pub fn set_xattr(&self, caller: &Caller, ino: InodeNo, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.with_space(|| xattr::set(self, caller, ino, name, value, mode))
    }

    /// The names of all extended attributes that the caller may know of.
    pub fn list_xattr(&self, caller: &Caller, ino: InodeNo) -> Result<Vec<Vec<u8>>> {
        xattr::list(self, caller, ino)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, caller: &Caller, ino: InodeNo, name: &[u8]) -> Result<()> {
        self.with_space(|| xattr::remove(self, caller, ino, name))
    }

    /// Space and inodes.
    pub fn stat_fs(&self) -> FsStat {
        let space = self.store.space();
        FsStat {
            block_size: BLOCK_SIZE as u32,
            blocks: space.total_blocks,
            blocks_free: space.free_blocks,
            blocks_available: space.available_blocks,
            inodes: space.inodes.saturating_add(space.available_blocks),
            inodes_free: space.available_blocks,
            name_max: NAME_MAX as u32,
        }
    }

    /// What is left for writers. Cheap enough for every write: no I/O, and nothing is waited for.
    pub fn room(&self) -> Room {
        let room = self.store.room();
        Room {
            available_bytes: room.available_blocks.saturating_mul(BLOCK_SIZE_U64),
            promised_bytes: room.promised_blocks.saturating_mul(BLOCK_SIZE_U64),
        }
    }

    /// Whether a write of new data would find room, after everything that can be reclaimed was: `NoSpace` if not, and
    /// whatever else would keep it from happening.
    pub fn find_room(&self) -> Result<()> {
        self.with_space(|| self.store.begin(Need::Data { blocks: 1 }).map(drop))
    }

    /// Makes everything up to now durable; fsync(2) of anything is this.
    pub fn sync(&self) -> Result<()> {
        self.store.commit()
    }

    /// Background work: logs and flushes when due, checkpoints, reclaims. The owner's thread calls it again and again;
    /// the result says when.
    pub fn work(&self, idle: bool) -> Result<WorkDone> {
        let done = self.store.work(self.commit_ms)?;
        if self.store.read_only() {
            return Ok(done);
        }
        reclaim::reclaim(self, if idle { RECLAIM_IDLE } else { RECLAIM_BUSY })?;
        Ok(if self.orphans.are_expected() { WorkDone { again_ms: Some(0) } } else { done })
    }

    /// Reclaims what nobody needs any more, commits, and writes a last checkpoint.
    pub fn close(self) -> Result<()> {
        if self.store.read_only() {
            return self.store.close();
        }
        // An inode that cannot be reclaimed is told of, after everything else was made durable.
        let reclaimed = reclaim::reclaim(&self, usize::MAX);
        self.store.close()?;
        reclaimed.map(drop)
    }

    /// Runs an operation, and again if it found no space but space could be had from inodes that nobody needs any more.
    /// No lock is held here, so reclaiming may take those that it needs.
    pub(super) fn with_space<T>(&self, operation: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let before = self.orphans.reclaimed();
            let outcome = operation();
            if !matches!(outcome, Err(Error::Posix(Posix::NoSpace))) {
                return outcome;
            }
            // What keeps an orphan from going is told by `work`; this operation's outcome is that there is no space. What the
            // background work reclaimed meanwhile counts too.
            let _ = reclaim::reclaim(self, RECLAIM_BUSY);
            if self.orphans.reclaimed() == before {
                return outcome;
            }
        }
    }

    /// Why an entry's inode is not there: the name went with it since, or the directory is wrong. Nothing is wrong if the name
    /// is another inode's by now.
    fn explain_missing(&self, dir: InodeNo, name: &[u8], ino: InodeNo) -> Result<()> {
        let entry = self.inodes.hold(dir).shared(&self.store, |parent| {
            attr::require_directory(parent)?;
            dir::Bucket::read(&self.store, dir, name)?.existing()
        });
        if entry?.ino == ino { Err(Corrupt::DanglingEntry { dir, ino }.into()) } else { Ok(()) }
    }
}

pub(crate) fn store_format(options: &FormatOptions, layered: bool) -> StoreFormat {
    StoreFormat {
        size_bytes: options.size_bytes,
        volume_id: options.volume_id,
        label: options.label.clone(),
        slots: options.slots.clone(),
        anchor: options.anchor.clone(),
        layered,
    }
}

pub(crate) fn store_options(options: &OpenOptions) -> StoreOptions {
    StoreOptions {
        read_only: options.read_only,
        anchor: options.anchor.clone(),
        abandon_anchor: options.abandon_anchor,
        volume_id: options.volume_id,
        root_digest: options.root_digest,
        max_epochs: options.max_epochs,
        memory_bytes: options.memory_bytes,
        workers: options.workers.clone(),
        corrections: None,
    }
}
