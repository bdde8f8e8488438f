//! Both adapters, used as a LibOS and as a kernel use them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sefs::backend::{Backend, MemoryBackend};
use sefs::env::Env;
use sefs::keys::VolumeKey;
use sefs::types::InodeNo;
use sefs::vfs::{FormatOptions, OpenOptions, Owner, Volume};
use sefs_adapters::kernel;
use sefs_adapters::kernel::vfs::{DirentVisitor as _, Errno, Error, Inode, InodeType, PAGE_SIZE, PageCacheBackend};
use sefs_adapters::occlum::SefsFs;
use sefs_adapters::occlum::vfs::{
    DirentVisitor, FallocateMode, FileSystem, FileType, FsError, INode, Result as FsResult, Timespec,
};

const SIZE_BYTES: u64 = 16 << 20;

fn backend() -> Arc<dyn Backend> {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(SIZE_BYTES));
    let format = FormatOptions {
        size_bytes: SIZE_BYTES,
        volume_id: *b"adapters' volume",
        label: String::new(),
        slots: Vec::new(),
        anchor: None,
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    Volume::format(backend.clone(), &key(), &format, &Env::host()).unwrap();
    backend
}

fn key() -> VolumeKey {
    VolumeKey::new([7; 32])
}

fn open(backend: &Arc<dyn Backend>) -> Arc<Volume> {
    let options = OpenOptions { memory_bytes: 4 << 20, ..OpenOptions::default() };
    Arc::new(Volume::open(backend.clone(), &key(), &options, &Env::host()).unwrap())
}

/// Takes as many entries as fit, as getdents(2) does.
struct Buffer(Vec<(String, usize)>, usize);

impl DirentVisitor for Buffer {
    fn visit_entry(&mut self, name: &str, _: u64, _: FileType, offset: usize) -> FsResult<()> {
        if self.0.len() == self.1 {
            return Err(FsError::InvalidParam);
        }
        self.0.push((name.into(), offset));
        Ok(())
    }
}

#[test]
fn occlum_files() {
    let backend = backend();
    let volume = open(&backend);
    let fs: Arc<dyn FileSystem> = SefsFs::new(volume.clone());
    let root = fs.root_inode();
    let dir = root.create("dir", FileType::Dir, 0o755).unwrap();
    let file = dir.create("file", FileType::File, 0o640).unwrap();
    assert_eq!(dir.create("file", FileType::File, 0o640).err(), Some(FsError::EntryExist));
    assert_eq!(file.write_at(3, b"content").unwrap(), 7);
    let mut buf = [1; 16];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 10);
    assert_eq!(&buf[..10], b"\0\0\0content");

    let mut metadata = file.metadata().unwrap();
    assert_eq!((metadata.type_, metadata.mode, metadata.size), (FileType::File, 0o640, 10));
    metadata.mode = 0o600;
    metadata.uid = 12;
    metadata.mtime = Timespec { sec: 99, nsec: 1 };
    file.set_metadata(&metadata).unwrap();
    let now = file.metadata().unwrap();
    assert_eq!((now.mode, now.uid, now.mtime), (0o600, 12, Timespec { sec: 99, nsec: 1 }));
    metadata.mtime.nsec = -1;
    assert_eq!(file.set_metadata(&metadata), Err(FsError::InvalidParam));

    file.resize(4).unwrap();
    file.fallocate(&FallocateMode::Allocate { keep_size: false }, 0, 9000).unwrap();
    file.fallocate(&FallocateMode::PunchHole, 0, 4096).unwrap();
    file.fallocate(&FallocateMode::ZeroRange { keep_size: true }, 0, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().size, 9000);

    root.link("other", &file).unwrap();
    assert_eq!(root.find("other").unwrap().metadata().unwrap().inode, metadata.inode);
    root.move_("other", &dir, "moved").unwrap();
    assert_eq!(root.find("other").err(), Some(FsError::EntryNotFound));
    assert_eq!(root.unlink("dir"), Err(FsError::DirNotEmpty));
    dir.unlink("file").unwrap();
    dir.unlink("moved").unwrap();
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 16, "an open file lives on");
    drop(file);
    volume.work(true).unwrap();
    root.unlink("dir").unwrap();
    file_system_is_one(&fs, &root);
    fs.sync().unwrap();
}

fn file_system_is_one(fs: &Arc<dyn FileSystem>, root: &Arc<dyn INode>) {
    assert_eq!(root.fs().info(), fs.info());
    let stranger = SefsFs::new(open(&backend()));
    assert_eq!(root.link("stranger", &stranger.root_inode()), Err(FsError::NotSameFs));
}

#[test]
fn occlum_symlinks_get_their_target_by_the_first_write() {
    let root = SefsFs::new(open(&backend())).root_inode();
    let link = root.create("link", FileType::SymLink, 0o777).unwrap();
    assert_eq!(root.find("link").err(), Some(FsError::EntryNotFound), "not before it points anywhere");
    assert_eq!(link.metadata().err(), Some(FsError::EntryNotFound));
    assert_eq!(link.write_at(0, b"over/there").unwrap(), 10);
    let found = root.find("link").unwrap();
    assert_eq!(found.metadata().unwrap().type_, FileType::SymLink);
    let mut buf = [0; 6];
    assert_eq!(found.read_at(5, &mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"there");
    assert_eq!(root.create("link", FileType::SymLink, 0o777).err(), Some(FsError::EntryExist));
    let late = root.create("late", FileType::SymLink, 0o777).unwrap();
    root.create("late", FileType::File, 0o600).unwrap();
    assert_eq!(late.write_at(0, b"too late"), Err(FsError::EntryExist));
}

#[test]
fn occlum_directories_are_listed_in_pieces_and_by_number() {
    let root = SefsFs::new(open(&backend())).root_inode();
    for number in 0..150 {
        root.create(&format!("{number}"), FileType::File, 0o600).unwrap();
    }
    let all = root.list().unwrap();
    assert_eq!(all.len(), 152);
    let (mut pieces, mut offset) = (Vec::new(), 0);
    loop {
        let mut buffer = Buffer(Vec::new(), 7);
        let count = root.iterate_entries(offset, &mut buffer).unwrap();
        assert_eq!(count, buffer.0.len());
        let Some((_, last)) = buffer.0.last() else { break };
        offset = *last;
        pieces.extend(buffer.0.into_iter().map(|(name, _)| name));
    }
    assert_eq!(pieces, all);
    let by_number: Vec<String> = (0..152).map(|id| root.get_entry(id).unwrap()).collect();
    assert_eq!(by_number, all);
    assert_eq!(root.get_entry(100).unwrap(), all[100], "backwards too");
    assert_eq!(root.get_entry(152).err(), Some(FsError::EntryNotFound));
    let (metadata, name) = root.get_entry_with_metadata(140).unwrap();
    assert_eq!(metadata.inode, root.find(&name).unwrap().metadata().unwrap().inode);
    assert_eq!(root.iterate_entries(0, &mut Buffer(Vec::new(), 0)), Err(FsError::InvalidParam));
}

/// A kernel's page cache in small: pages by number, dirty ones brought back when told.
struct PageCache {
    backend: Arc<dyn PageCacheBackend>,
    pages: Mutex<BTreeMap<usize, [u8; PAGE_SIZE]>>,
}

impl PageCache {
    fn of(inode: &Arc<dyn Inode>) -> PageCache {
        PageCache { backend: inode.page_cache().unwrap(), pages: Mutex::default() }
    }

    fn page<T>(&self, index: usize, with: impl FnOnce(&mut [u8; PAGE_SIZE]) -> T) -> T {
        let mut pages = self.pages.lock().unwrap();
        let page = pages.entry(index).or_insert_with(|| {
            let mut page = [0xee; PAGE_SIZE];
            self.backend.read_page(index, &mut page).unwrap();
            page
        });
        with(page)
    }

    fn write_back(&self) {
        for (index, page) in std::mem::take(&mut *self.pages.lock().unwrap()) {
            self.backend.write_page(index, &page).unwrap();
        }
    }
}

#[test]
fn kernel_pages() {
    let backend = backend();
    let volume = open(&backend);
    let root = kernel::root(&volume);
    assert!(root.page_cache().is_none(), "a directory has no pages");
    let file = root.create(b"file", InodeType::Regular, 0o600).unwrap();
    file.resize(5000).unwrap();
    file.set_mtime(Duration::from_secs(5)).unwrap();
    let cache = PageCache::of(&file);
    assert_eq!(cache.backend.npages().unwrap(), 2);
    cache.page(0, |page| {
        assert_eq!(*page, [0; PAGE_SIZE]);
        page[..5].copy_from_slice(b"first");
    });
    cache.page(1, |page| page.fill(0x77));
    cache.write_back();
    assert_eq!(file.metadata().unwrap().mtime, Duration::from_secs(5), "the kernel tells the time itself");
    assert_eq!(file.size().unwrap(), 5000, "the last page does not make the file longer");
    cache.page(1, |page| {
        assert_eq!(page[..904], [0x77; 904]);
        assert_eq!(page[904..], [0; PAGE_SIZE - 904]);
    });
    file.resize(100).unwrap();
    cache.write_back();
    assert_eq!(file.size().unwrap(), 100, "a page behind the end is dropped");
    file.sync_all().unwrap();
    drop((cache, file, root));

    let volume = Arc::into_inner(volume).expect("nothing holds the volume");
    volume.close().unwrap();
    let root = kernel::root(&open(&backend));
    let mut buf = [0; 8];
    assert_eq!(root.lookup(b"file").unwrap().read_direct_at(0, &mut buf).unwrap(), 8);
    assert_eq!(&buf, b"first\0\0\0");
}

struct Names(Vec<(Vec<u8>, u64, usize)>, usize);

impl kernel::vfs::DirentVisitor for Names {
    fn visit(&mut self, name: &[u8], ino: u64, _: InodeType, offset: usize) -> bool {
        if self.0.len() == self.1 {
            return false;
        }
        self.0.push((name.into(), ino, offset));
        true
    }
}

#[test]
fn kernel_names() {
    let volume = open(&backend());
    let root = kernel::root(&volume);
    let dir = root.create(b"dir\xff", InodeType::Directory, 0o755).unwrap();
    let file = dir.create(b"file", InodeType::Regular, 0o600).unwrap();
    root.link(&file, b"link").unwrap();
    root.symlink(b"symlink", b"dir\xff/file").unwrap();
    root.mknod(b"null", InodeType::CharDevice, 0o666, 0x103).unwrap();
    assert_eq!(root.lookup(b"null").unwrap().metadata().unwrap().rdev, 0x103);
    assert_eq!(root.lookup(b"symlink").unwrap().read_link().unwrap(), b"dir\xff/file");
    assert_eq!(root.create(b"link", InodeType::Regular, 0).err(), Some(Error::Errno(Errno::Exists)));
    assert_eq!(root.create(b"fifo", InodeType::Fifo, 0).err(), Some(Error::Errno(Errno::InvalidArgument)));

    let mut all = Names(Vec::new(), usize::MAX);
    assert_eq!(root.readdir_at(0, &mut all).unwrap(), 6);
    let mut piece = Names(Vec::new(), 3);
    assert_eq!(root.readdir_at(0, &mut piece).unwrap(), 3);
    let mut rest = Names(Vec::new(), usize::MAX);
    root.readdir_at(piece.0[2].2, &mut rest).unwrap();
    assert_eq!([piece.0, rest.0].concat(), all.0);
    assert!(!Names(Vec::new(), 0).visit(b"", 0, InodeType::Regular, 0));

    root.rename(b"link", &dir, b"renamed").unwrap();
    assert_eq!(dir.lookup(b"renamed").unwrap().ino(), file.ino());
    assert_eq!(root.unlink(b"dir\xff"), Err(Error::Errno(Errno::IsDirectory)));
    assert_eq!(root.rmdir(b"dir\xff"), Err(Error::Errno(Errno::NotEmpty)));
    dir.unlink(b"renamed").unwrap();
    dir.unlink(b"file").unwrap();
    assert_eq!(file.write_direct_at(0, b"still here").unwrap(), 10);
    root.rmdir(b"dir\xff").unwrap();

    file.set_xattr(b"user.a", b"b").unwrap();
    assert_eq!(
        (file.get_xattr(b"user.a").unwrap(), file.list_xattr().unwrap()),
        (b"b".to_vec(), vec![b"user.a".to_vec()])
    );
    file.remove_xattr(b"user.a").unwrap();
    file.set_mode(0o4711).unwrap();
    file.set_owner(3).unwrap();
    file.set_group(4).unwrap();
    file.set_atime(Duration::new(8, 9)).unwrap();
    file.fallocate(0, 8192, false).unwrap();
    file.punch_hole(0, 4096).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.uid, metadata.gid, metadata.size, metadata.atime), (3, 4, 8192, Duration::new(8, 9)));
    assert_eq!(volume.attr(InodeNo::ROOT).unwrap().links, 2);
}
