//! Packed images of what a volume holds, for volumes that lie over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sefs::backend::MemoryBackend;
use sefs::env::Env;
use sefs::error::{Error, Result};
use sefs::pack::{NewEntry, Output, PackOptions, PackSummary, Packer};
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, FileKind, Lower, NewLower, Seek, Volume};

use crate::world::key;

/// Pieces that content is copied in.
const PIECE: usize = 64 << 10;

/// An image, and which of its inodes was which.
pub struct Packed {
    /// Where it lies.
    pub backend: Arc<MemoryBackend>,
    /// What the packer says of it.
    pub summary: PackSummary,
    /// The image's numbers by the volume's.
    pub numbers: BTreeMap<InodeNo, InodeNo>,
    is_public: bool,
}

impl Packed {
    /// Packs everything in a volume.
    pub fn of(volume: &Volume, is_public: bool, env: &Env) -> Result<Packed> {
        let backend = Arc::new(MemoryBackend::new(0));
        let output = match is_public {
            true => Output::Public { backend: backend.clone(), volume_id: None },
            false => Output::Sealed {
                backend: backend.clone(),
                key: key(),
                volume_id: [9; 16],
                slots: Vec::new(),
                salt: [3; 32],
                measured: None,
            },
        };
        let options = PackOptions { label: "below".into(), dedup: true, threads: 1 };
        let mut packing = Packing { volume, packer: Packer::new(output, options, env)?, numbers: BTreeMap::new() };
        let root = volume.attr(InodeNo::ROOT)?;
        let new = packing.packer.make_root(&entry(volume, &root)?)?;
        packing.attributes(InodeNo::ROOT, new)?;
        packing.directory(InodeNo::ROOT, new)?;
        let Packing { packer, numbers, .. } = packing;
        Ok(Packed { backend, summary: packer.finish([0; 32])?, numbers, is_public })
    }

    /// The image, to be put below a volume.
    pub fn lower(&self) -> Lower {
        Lower { backend: self.backend.clone(), key: (!self.is_public).then(|| Arc::new(key())) }
    }

    /// The image, for a volume to be made over it.
    pub fn new_lower(&self) -> NewLower {
        let root_digest = self.summary.root_digest;
        NewLower { image: self.lower(), root_digest, note: b"in memory".to_vec() }
    }
}

struct Packing<'a> {
    volume: &'a Volume,
    packer: Packer,
    numbers: BTreeMap<InodeNo, InodeNo>,
}

impl Packing<'_> {
    fn directory(&mut self, dir: InodeNo, new_dir: InodeNo) -> Result<()> {
        self.numbers.insert(dir, new_dir);
        for found in self.volume.read_dir(dir, 0, usize::MAX)? {
            if found.name == b"." || found.name == b".." {
                continue;
            }
            if let Some(&there) = self.numbers.get(&found.ino) {
                self.packer.link(new_dir, &found.name, there)?;
                continue;
            }
            let attr = self.volume.attr(found.ino)?;
            let new = self.packer.make(new_dir, &found.name, &entry(self.volume, &attr)?)?;
            if attr.kind == FileKind::Regular {
                self.content(&attr, new)?;
            }
            self.attributes(found.ino, new)?;
            self.numbers.insert(found.ino, new);
            if attr.kind == FileKind::Directory {
                self.directory(found.ino, new)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, attr: &Attr, new: InodeNo) -> Result<()> {
        let mut at = 0;
        let mut piece = vec![0; PIECE];
        while at < attr.size {
            match self.volume.seek(attr.ino, at, Seek::Data) {
                Ok(data) => at = data,
                Err(Error::Posix(_)) => break,
                Err(error) => return Err(error),
            }
            let count = self.volume.read(attr.ino, at, &mut piece)?;
            self.packer.write(new, at, &piece[..count])?;
            at += count as u64;
        }
        self.packer.end_file(new, attr.size)
    }

    fn attributes(&mut self, ino: InodeNo, new: InodeNo) -> Result<()> {
        let root = Caller::root();
        for name in self.volume.list_xattr(&root, ino)? {
            let value = self.volume.get_xattr(&root, ino, &name)?;
            self.packer.set_xattr(new, &name, &value)?;
        }
        Ok(())
    }
}

fn entry(volume: &Volume, attr: &Attr) -> Result<NewEntry> {
    Ok(NewEntry {
        kind: attr.kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        btime: attr.btime,
        target: if attr.kind == FileKind::Symlink { volume.read_link(attr.ino)? } else { Vec::new() },
    })
}
