//! A library OS in small: a measured image at `/`, a volume of its own at `/data`, both on memory that the host could change.
//!
//! `cargo run -p sefs --example libos`. A real one gets the image and its root digest from whoever built it, brings the volume key
//! out of a key slot, has the volume anchored, and calls `work` from a thread.

use std::sync::Arc;

use sefs::anchor::{AnchorPolicy, MemoryAnchor};
use sefs::backend::{Backend, MemoryBackend};
use sefs::error::{Error, Posix, Result};
use sefs::keys::VolumeKey;
use sefs::pack::{NewEntry, Output, PackOptions, Packer};
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{Caller, Env, FileKind, FormatOptions, NewInode, OpenOptions, Owner, Volume, WriteMode};

/// What is mounted where; the longest place that fits a path has it.
struct LibOs(Vec<(&'static str, Volume)>);

impl LibOs {
    /// The volume and the inode that an absolute path names.
    fn walk(&self, path: &str) -> Result<(&Volume, InodeNo)> {
        let fits = |place: &&(&'static str, Volume)| path.starts_with(place.0);
        let (place, volume) = self.0.iter().filter(fits).max_by_key(|(place, _)| place.len()).ok_or(Posix::NotFound)?;
        let names = path[place.len()..].split('/').filter(|name| !name.is_empty());
        let step = |dir, name: &str| Ok::<_, Error>(volume.lookup(&Caller::root(), dir, name.as_bytes())?.ino);
        Ok((volume, names.into_iter().try_fold(InodeNo::ROOT, step)?))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let (volume, ino) = self.walk(path)?;
        let mut content = vec![0; usize::try_from(volume.attr(ino)?.size).unwrap_or(usize::MAX)];
        let len = volume.read(ino, 0, &mut content)?;
        content.truncate(len);
        Ok(content)
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let (dir, name) = path.rsplit_once('/').ok_or(Posix::InvalidArgument)?;
        let ((volume, dir), root) = (self.walk(&format!("{dir}/"))?, Caller::root());
        let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
        let file = volume.make(&root, dir, name.as_bytes(), &new)?;
        volume.write(&root, file.ino, 0, content, WriteMode::Direct)?;
        volume.sync()
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
    let built = packer.finish([0; 32])?;
    Ok((backend, built.root_digest.expect("it was written")))
}

fn main() -> Result<()> {
    let env = Env::host();
    let (image, root_digest) = build_image(&env)?;
    // 4 MiB of caches for each: enclaves are small.
    let small = OpenOptions { memory_bytes: 4 << 20, ..OpenOptions::default() };
    let pinned = OpenOptions { root_digest: Some(root_digest), ..small.clone() };

    let (disk, key) = (Arc::new(MemoryBackend::new(16 << 20)), VolumeKey::generate(&*env.rng)?);
    let anchor = Arc::new(MemoryAnchor::new([1; 32]));
    let format = FormatOptions {
        size_bytes: 16 << 20,
        volume_id: *b"a UUID as bytes.",
        label: "data".into(),
        slots: Vec::new(),
        anchor: Some((anchor.clone(), AnchorPolicy::Strict)),
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    Volume::format(disk.clone(), &key, &format, &env)?;
    let anchored = OpenOptions { anchor: Some(anchor), ..small };
    let data = Volume::open(disk, &key, &anchored, &env)?;
    let os = LibOs(vec![("/", Volume::open_public(image, &pinned, &env)?), ("/data", data)]);

    os.write("/data/greeting", &os.read("/motd")?)?;
    print!("{}", String::from_utf8_lossy(&os.read("/data/greeting")?));
    assert!(matches!(os.write("/new", b""), Err(Error::Posix(Posix::ReadOnly))), "the image stays as it was measured");
    os.0.into_iter().try_for_each(|(_, volume)| volume.close())
}

#[test]
fn it_runs() {
    main().unwrap();
}
