//! Images below a volume: what its trees do not say, they do.
//!
//! ```text
//! overlays ─► the volume's own trees ─► image 1 ─► image 2 …
//! ```
//! A volume over images is one map of records that stands over others, key by key. Inode numbers of images are below
//! [`PACKED_IDS_END`] and the volume's own from there on, so only records with smaller numbers are looked for below. An own record
//! stands before all below; one without a value says that there is none (a whiteout). A chunk is put together block by block.
//!
//! Of several images the topmost that has an inode has it with all that hangs on it; only the entries of directories are merged.
//! Numbers are made of paths, so that means what it means for paths.
//!
//! *Security*: the volume names the images that it was made over by root digest, in records that its newest checkpoint or log
//! authenticates; another image is refused before anything of it is believed. What an image has is authenticated as in a mount of
//! its own, and is never written.
//!
//! Who built an image may have had anything in mind. So its records lead nowhere else: an inode has content of its own number or none,
//! an entry names an inode of the images. Anything else is `Corrupt` where it is met, and no image can reach what is the volume's.
//!
//! *Invariants*: nothing is read below before all images were given; images do not change while they are below.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::backend::Backend;
use crate::env::Env;
use crate::error::{Corrupt, Error, Incompatible, Result};
use crate::format::{
    BlockLoc, Chunk, DirEntryRecord, FileKind, ImageType, Inode, Key, Kind, LowerRecord, MAX_EPOCHS, MAX_LOWERS,
};
use crate::keys::VolumeKey;
use crate::store::read::record_error;
use crate::store::{Need, PACKED_IDS_END, Store, StoreOptions};
use crate::tree;
use crate::types::ObjectId;
use crate::workers::NoWorkers;

/// An image to be put below a volume.
#[derive(Clone)]
pub struct Lower {
    /// Where it lies.
    pub backend: Arc<dyn Backend>,
    /// What opens an encrypted image; a public one has none.
    pub key: Option<Arc<VolumeKey>>,
}

/// The images below one volume, the topmost first.
#[derive(Default)]
pub(crate) struct Lowers {
    /// Those that are demanded.
    table: Vec<LowerRecord>,
    /// Those that were given so far.
    images: Vec<Store>,
    /// The volume lies over images, whether or not it is known which.
    layered: bool,
}

/// Memory of one image that its caches of nodes and chunks take.
const CACHED: (usize, usize) = (12, 32);

impl Lowers {
    pub(crate) fn new(layered: bool, table: Vec<LowerRecord>) -> Result<Lowers> {
        if !layered && !table.is_empty() {
            return Err(Corrupt::Checkpoint("images below a volume that is not made for them").into());
        }
        Ok(Lowers { table, images: Vec::new(), layered })
    }

    /// The table as its records say.
    pub(crate) fn of_records(layered: bool, records: Vec<(Key, Vec<u8>)>) -> Result<Lowers> {
        let decoded = (1..).zip(records).map(|(place, (key, bytes))| {
            let record = LowerRecord::decode(&bytes).map_err(|why| record_error(key, why))?;
            if key.offset == place { Ok(record) } else { Err(record_error(key, "images are numbered from 1")) }
        });
        let table: Vec<LowerRecord> = decoded.collect::<Result<_>>()?;
        if table.len() > MAX_LOWERS {
            return Err(Corrupt::Checkpoint("too many images below").into());
        }
        Lowers::new(layered, table)
    }

    pub(crate) fn table(&self) -> &[LowerRecord] {
        &self.table
    }

    /// Takes the next image down, which must be the one that the table names. `cache_bytes` is for its caches.
    pub(crate) fn attach(&mut self, lower: &Lower, cache_bytes: usize, env: &Env) -> Result<()> {
        let (needed, given) = (self.table.len(), self.images.len() + 1);
        let Some(wanted) = self.table.get(self.images.len()) else {
            return Err(Incompatible::Lowers { needed, given }.into());
        };
        let image = open(lower, (Some(wanted.volume_id), Some(wanted.root_digest)), cache_bytes, env)?;
        self.images.push(image);
        Ok(())
    }

    /// Whether records with this number may stand below.
    pub(crate) fn may_have(&self, object: u64) -> bool {
        self.layered && (1..PACKED_IDS_END).contains(&object)
    }

    /// All images, once they are there.
    pub(crate) fn images(&self) -> Result<&[Store]> {
        let (needed, given) = (self.table.len(), self.images.len());
        match needed == given && needed > 0 {
            true => Ok(&self.images),
            false => Err(Incompatible::Lowers { needed, given }.into()),
        }
    }

    /// The image that a block says it is of.
    pub(crate) fn image(&self, source: u8) -> Result<&Store> {
        let at = usize::from(source).checked_sub(1);
        Ok(at
            .and_then(|at| self.images.get(at))
            .ok_or(Incompatible::Lowers { needed: usize::from(source), given: self.images.len() })?)
    }

    /// What an image is.
    pub(crate) fn image_type(&self, source: u8) -> Result<ImageType> {
        Ok(self.image(source)?.header.image)
    }

    /// Reads a block of an image.
    pub(crate) fn read_block(&self, object: ObjectId, block: u64, loc: &BlockLoc, out: &mut [u8]) -> Result<()> {
        self.image(loc.source)?.read_run(object, block, core::slice::from_ref(loc), out)
    }

    /// The record below, which may not be there; never a chunk.
    pub(crate) fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        Ok(self.find(key)?.map(|(_, bytes)| bytes))
    }

    /// The chunk below, its blocks named as that image's.
    pub(crate) fn chunk(&self, key: Key) -> Result<Chunk> {
        let Some((source, bytes)) = self.find(key)? else { return Ok(Chunk::default()) };
        let proofs = self.image(source)?.header.image.proofs();
        let chunk = Chunk::decode_as(&bytes, proofs).map_err(|why| record_error(key, why))?;
        Ok(chunk.named_below(source))
    }

    /// At most `limit` records from `from` up to, without, `end`, rising; chunks as their image has them.
    pub(crate) fn scan(&self, from: Key, end: Key, limit: usize) -> Result<Vec<(Key, Vec<u8>)>> {
        let (from, end) = (from.max(Key::new(1, Kind::Inode, 0)), end.min(Key::new(PACKED_IDS_END, Kind::Inode, 0)));
        if !self.layered || from >= end {
            return Ok(Vec::new());
        }
        let images = self.images()?;
        if let [only] = images {
            let records = tree::scan(only, only.files_root(), from, end, limit)?;
            records.iter().try_for_each(|(key, bytes)| check_record(*key, bytes))?;
            return Ok(records);
        }
        let (mut found, mut from) = (Vec::new(), Some(from));
        while let Some(at) = from
            && found.len() < limit
        {
            let (merged, horizon) = self.window(images, at, end, limit)?;
            found.extend(merged);
            from = horizon.and_then(Key::successor).filter(|next| *next < end);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The first key of a chunk from `from` up to, without, `end`, which are keys of one object.
    pub(crate) fn next_key(&self, from: Key, end: Key) -> Result<Option<Key>> {
        if !self.may_have(from.object) {
            return Ok(None);
        }
        let mut first = None;
        for (at, image) in self.images()?.iter().enumerate() {
            if let Some(key) = tree::next_key(image, image.files_root(), from, end)?
                && !self.is_hidden(at, key)?
            {
                first = Some(first.map_or(key, |first: Key| first.min(key)));
            }
        }
        Ok(first)
    }

    fn find(&self, key: Key) -> Result<Option<(u8, Vec<u8>)>> {
        if !self.may_have(key.object) {
            return Ok(None);
        }
        for (at, image) in self.images()?.iter().enumerate() {
            if let Some(bytes) = tree::get(image, image.files_root(), key)? {
                // At most MAX_LOWERS images.
                let source = u8::try_from(at + 1).unwrap_or(u8::MAX);
                if self.is_hidden(at, key)? {
                    continue;
                }
                check_record(key, &bytes)?;
                return Ok(Some((source, bytes)));
            }
        }
        Ok(None)
    }

    /// Up to `limit` records of every image, merged up to the last key that all of them reached; `None` as that key means that
    /// nothing is left.
    #[allow(clippy::type_complexity)]
    fn window(
        &self,
        images: &[Store],
        from: Key,
        end: Key,
        limit: usize,
    ) -> Result<(BTreeMap<Key, Vec<u8>>, Option<Key>)> {
        let (mut merged, mut horizon) = (BTreeMap::new(), None::<Key>);
        for (at, image) in images.iter().enumerate() {
            let records = tree::scan(image, image.files_root(), from, end, limit)?;
            if let Some((last, _)) = records.last()
                && records.len() == limit
            {
                horizon = Some(horizon.map_or(*last, |old| old.min(*last)));
            }
            // Records of one number are asked about once.
            let mut asked: Option<(u64, bool, bool)> = None;
            for (key, bytes) in records {
                let question = (key.object, key.kind == Kind::DirEntry);
                let hidden = match asked {
                    Some((object, is_entry, hidden)) if (object, is_entry) == question => hidden,
                    _ => self.is_hidden(at, key)?,
                };
                asked = Some((question.0, question.1, hidden));
                if !hidden {
                    check_record(key, &bytes)?;
                    merged.entry(key).or_insert(bytes);
                }
            }
        }
        if let Some(horizon) = horizon {
            merged.retain(|key, _| *key <= horizon);
        }
        Ok((merged, horizon))
    }

    /// Whether an image above the one at index `at` has the number that this key is of, or this one has something that hangs on
    /// a number which it does not have.
    pub(crate) fn is_hidden(&self, at: usize, key: Key) -> Result<bool> {
        let inode_key = Key::new(key.object, Kind::Inode, 0);
        if let [_, _, ..] = &self.images[..]
            && key.kind != Kind::Inode
            && tree::get(&self.images[at], self.images[at].files_root(), inode_key)?.is_none()
        {
            return Ok(true);
        }
        for above in &self.images[..at] {
            let Some(bytes) = tree::get(above, above.files_root(), inode_key)? else { continue };
            let inode = Inode::decode(&bytes).map_err(|why| record_error(inode_key, why))?;
            if key.kind != Kind::DirEntry || inode.kind() != FileKind::Directory {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Store {
    /// Which image this is, for a volume that is to be made over it. A public image needs `root_digest`.
    pub(crate) fn survey_lower(
        lower: &Lower,
        root_digest: Option<[u8; 32]>,
        note: Vec<u8>,
        env: &Env,
    ) -> Result<LowerRecord> {
        let image = open(lower, (None, root_digest), MIN_CACHE_BYTES, env)?;
        let facts = image.packed.ok_or(Incompatible::NotPacked)?;
        Ok(LowerRecord { volume_id: image.header.volume_id, root_digest: facts.root_digest, note })
    }

    /// Names the images that a new volume lies over.
    pub(crate) fn put_lowers(&mut self, table: Vec<LowerRecord>) -> Result<()> {
        let mut tx = self.begin(Need::Metadata)?;
        for (place, record) in (1..).zip(&table) {
            tx.put(Key::new(0, Kind::Lower, place), record.encode());
        }
        tx.finish();
        self.lowers.table = table;
        Ok(())
    }

    pub(crate) fn lowers(&self) -> &[LowerRecord] {
        self.lowers.table()
    }

    /// The images below.
    pub(crate) fn below(&self) -> &Lowers {
        &self.lowers
    }

    /// The inodes of the images become the volume's.
    pub(crate) fn count_lower_inodes(&self) -> Result<()> {
        let inodes: u64 = self.lowers.images()?.iter().map(|image| image.layers.read().inodes).sum();
        let mut tx = self.begin(Need::Metadata)?;
        tx.count_inodes(i64::try_from(inodes).map_err(|_| Corrupt::Checkpoint("inodes of an image"))?);
        tx.finish();
        Ok(())
    }

    /// Takes the next image below; see [`Lowers::attach`].
    pub(crate) fn attach_lower(&mut self, lower: &Lower, env: &Env) -> Result<()> {
        let count = self.lowers.table.len().max(1);
        if self.lower_cache_bytes == 0 {
            // Half of what its own nodes and chunks could take is theirs.
            self.lower_cache_bytes = (self.nodes.budget_bytes() + self.chunks.budget_bytes()) / 2 / count;
            self.nodes = crate::cache::ByteCache::new(self.nodes.budget_bytes() / 2);
            self.chunks = crate::cache::ByteCache::new(self.chunks.budget_bytes() / 2);
        }
        self.lowers.attach(lower, self.lower_cache_bytes, env)?;
        let inodes = self.layers.read().inodes;
        self.say_trees(self.nodes_in_use(), inodes);
        Ok(())
    }

    /// A record as the volume's trees and the images below have it; never a chunk.
    pub(super) fn stored_record(&self, root: Option<tree::Root>, key: Key) -> Result<Option<Vec<u8>>> {
        match tree::get(self, root, key)? {
            Some(bytes) if bytes.is_empty() && self.lowers.may_have(key.object) => Ok(None),
            Some(bytes) => Ok(Some(bytes)),
            None => self.lowers.get(key),
        }
    }

    /// What a tree holds to say that a record is not there: nothing, or, over one of an image, a record without a value.
    pub(super) fn absence(&self, key: Key) -> Result<Option<Vec<u8>>> {
        match self.lowers.get(key) {
            Ok(below) => Ok(below.map(|_| Vec::new())),
            // What an image has there cannot be used, but it is there: a checkpoint must not fail for it for ever.
            Err(Error::Corrupt(_)) => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// The chunk below, for whoever merges one above it; `None` if what an image has there cannot be used.
    pub(super) fn chunk_below(&self, key: Key) -> Result<Option<Chunk>> {
        match self.lowers.chunk(key) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(Error::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the volume itself says of a record: nothing, or its value, empty if it says that there is none. Only after
    /// [`Store::merge_all`].
    pub(crate) fn own_record(&self, key: Key) -> Result<Option<Vec<u8>>> {
        tree::get(self, self.files_root(), key)
    }

    /// The same of all records from `from` up to, without, `end`, at most `limit`.
    pub(crate) fn own_records(&self, from: Key, end: Key, limit: usize) -> Result<Vec<(Key, Vec<u8>)>> {
        tree::scan(self, self.files_root(), from, end, limit)
    }

    /// Everything committed, tombstones worked off, and merged into the trees.
    pub(crate) fn merge_all(&self) -> Result<()> {
        self.commit()?;
        self.reclaim_ranges(usize::MAX)?;
        self.commit()?;
        self.checkpoint()
    }

    pub(crate) fn files_root(&self) -> Option<tree::Root> {
        self.layers.read().files_root
    }
}

/// Refuses records that would lead out of the images, or to what belongs to another number.
fn check_record(key: Key, bytes: &[u8]) -> Result<()> {
    let is_below = |number: u64| number < PACKED_IDS_END;
    let why = match key.kind {
        Kind::Inode => Inode::decode(bytes).and_then(|inode| match inode.object.0 {
            object if object != 0 && object != key.object => Err("an image's inode with content of another number"),
            _ if !is_below(inode.parent.0) => Err("an image's directory in one that is none of the images'"),
            _ => Ok(()),
        }),
        Kind::DirEntry => DirEntryRecord::decode(bytes).and_then(|entry| match entry.ino.0 {
            1.. if is_below(entry.ino.0) => Ok(()),
            _ => Err("an image's entry for an inode that is none of the images'"),
        }),
        _ => Ok(()),
    };
    why.map_err(|why| record_error(key, why))
}

/// Bytes that are enough for an image which is opened only to be asked who it is.
const MIN_CACHE_BYTES: usize = 256 << 10;

/// The id and the root digest that an image must have.
type Wanted = (Option<[u8; 16]>, Option<[u8; 32]>);

fn open(lower: &Lower, (volume_id, root_digest): Wanted, cache_bytes: usize, env: &Env) -> Result<Store> {
    let options = StoreOptions {
        read_only: true,
        anchor: None,
        abandon_anchor: false,
        volume_id,
        root_digest,
        memory_bytes: cache_bytes / CACHED.0 * CACHED.1,
        max_epochs: MAX_EPOCHS,
        workers: Arc::new(NoWorkers),
        corrections: None,
    };
    Store::open_packed(lower.backend.clone(), lower.key.as_deref(), &options, env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::InodeFlags;
    use crate::types::{InodeNo, ObjectId, Timestamp};

    fn inode(object: u64, parent: u64) -> Vec<u8> {
        let time = Timestamp { seconds: 0, nanoseconds: 0 };
        Inode {
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            links: 1,
            flags: InodeFlags { inline: true, past_end: false },
            size: 0,
            object: ObjectId(object),
            change: 1,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            project: 0,
            parent: InodeNo(parent),
            entries: 0,
            subdirs: 0,
            extensions: Vec::new(),
        }
        .encode()
    }

    /// A hostile builder's records that would lead to what is the volume's, or to what is another inode's.
    #[test]
    fn records_of_images_lead_nowhere_else() {
        let check = |kind, bytes: &[u8]| check_record(Key::new(70, kind, 0), bytes).is_ok();
        assert!(check(Kind::Inode, &inode(70, 0)) && check(Kind::Inode, &inode(0, 1)));
        for (object, parent) in [(71, 0), (PACKED_IDS_END, 0), (u64::MAX, 0), (70, PACKED_IDS_END), (70, u64::MAX)] {
            assert!(!check(Kind::Inode, &inode(object, parent)), "{object} in {parent}");
        }
        let entry = |ino| DirEntryRecord { ino: InodeNo(ino), kind: FileKind::Regular, name: b"n".to_vec() }.encode();
        assert!(check(Kind::DirEntry, &entry(1)) && check(Kind::DirEntry, &entry(PACKED_IDS_END - 1)));
        for ino in [0, PACKED_IDS_END, PACKED_IDS_END + 5, u64::MAX] {
            assert!(!check(Kind::DirEntry, &entry(ino)), "{ino}");
        }
        assert!(!check(Kind::Inode, b"nonsense") && !check(Kind::DirEntry, b"nonsense"));
    }
}
