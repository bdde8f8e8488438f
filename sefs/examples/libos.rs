//! A library OS in small: a measured image at `/` and a volume of its own over it, both on memory that the host could change.
//!
//! `cargo run -p sefs --example libos`. A real one gets the image and its root digest from whoever built it, brings the volume key
//! out of a key slot, and calls `work` from a thread.

use std::sync::Arc;

use sefs::anchor::{AnchorPolicy, MemoryAnchor};
use sefs::backend::{Backend, MemoryBackend};
use sefs::error::{Error, Posix, Result};
use sefs::keys::VolumeKey;
use sefs::pack::{NewEntry, Output, PackOptions, Packer};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{
    Caller, Env, FileKind, FormatOptions, Lower, NewInode, NewLower, OpenOptions, Owner, Volume, WriteMode,
};

struct LibOs(Volume);

impl LibOs {
    /// The inode that an absolute path names.
    fn walk(&self, path: &str) -> Result<InodeNo> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(InodeNo::ROOT, |dir, name| Ok(self.0.lookup(&Caller::root(), dir, name.as_bytes())?.ino))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let ino = self.walk(path)?;
        let mut content = vec![0; usize::try_from(self.0.attr(ino)?.size).unwrap_or(usize::MAX)];
        self.0.read(ino, 0, &mut content)?;
        Ok(content)
    }

    fn write(&self, path: &str, at: u64, content: &[u8]) -> Result<()> {
        let (dir, name) = path.rsplit_once('/').ok_or(Posix::InvalidArgument)?;
        let root = Caller::root();
        let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
        let ino = match self.walk(path) {
            Err(Error::Posix(Posix::NotFound)) => self.0.make(&root, self.walk(dir)?, name.as_bytes(), &new)?.ino,
            found => found?,
        };
        self.0.write(&root, ino, at, content, WriteMode::Direct)?;
        self.0.sync()
    }
}

/// What an image builder does (`mkfs.sefs --from DIR --read-only --public`): the image, and the digest that pins it.
fn build_image(env: &Env) -> Result<(Arc<dyn Backend>, [u8; 32])> {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(0));
    let output = Output::Public { backend: backend.clone(), volume_id: None };
    let options = PackOptions { label: "image".into(), dedup: true, threads: 1 };
    let mut packer = Packer::new(output, options, env)?;
    let time = Timestamp::default();
    let (atime, mtime, ctime, btime) = (time, time, time, time);
    let entry =
        |kind, mode| NewEntry { kind, mode, uid: 0, gid: 0, rdev: 0, atime, mtime, ctime, btime, target: vec![] };
    let root = packer.make_root(&entry(FileKind::Directory, 0o755))?;
    let motd = packer.make(root, b"motd", &entry(FileKind::Regular, 0o644))?;
    packer.write(motd, 0, b"welcome\n")?;
    packer.end_file(motd, 8)?;
    Ok((backend, packer.finish([0; 32])?.root_digest.expect("it was written")))
}

fn main() -> Result<()> {
    let env = Env::host();
    let (base, root_digest) = build_image(&env)?;
    let (image, digest) = (Lower { backend: base, key: None }, Some(root_digest));
    let (disk, anchor) = (Arc::new(MemoryBackend::new(16 << 20)), Arc::new(MemoryAnchor::new([1; 32])));
    let key = VolumeKey::generate(&*env.rng)?;
    let format = FormatOptions {
        size_bytes: 16 << 20,
        volume_id: *b"a UUID as bytes.",
        label: "data".into(),
        slots: Vec::new(),
        anchor: Some((anchor.clone(), AnchorPolicy::Strict)),
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    let below = NewLower { image: image.clone(), root_digest: digest, note: Vec::new() };
    Volume::format_over(disk.clone(), &key, &format, &[below], &env)?;
    // 4 MiB of caches: enclaves are small.
    let options = OpenOptions { memory_bytes: 4 << 20, anchor: Some(anchor), ..OpenOptions::default() };
    for words in ["welcome\n", "WELCOME\n"] {
        let mut volume = Volume::open(disk.clone(), &key, &options, &env)?;
        volume.attach_lower(&image, &env)?;
        let os = LibOs(volume);
        assert_eq!(os.read("/motd")?, words.as_bytes(), "the image's, then what was written over it");
        os.write("/motd", 0, b"WELCOME")?;
        os.write("/greeting", 0, &os.read("/motd")?)?;
        print!("{}", String::from_utf8_lossy(&os.read("/greeting")?));
        os.0.close()?;
    }
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
