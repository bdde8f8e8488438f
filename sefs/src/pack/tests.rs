mod hostile;

use alloc::string::String;
use alloc::vec;

use super::*;
use crate::backend::MemoryBackend;
use crate::check::{CheckOptions, CheckSummary, Event, check, check_public};
use crate::env::Env;
use crate::error::Error;
use crate::types::Timestamp;
use crate::vfs::{Caller, OpenOptions, Volume};

fn options() -> PackOptions {
    PackOptions { label: "test".into(), dedup: true, threads: 2 }
}

fn entry(kind: FileKind, mode: u32) -> NewEntry {
    let time = Timestamp { seconds: 1_000, nanoseconds: 5 };
    let target = if kind == FileKind::Symlink { b"where/to".to_vec() } else { Vec::new() };
    NewEntry { kind, mode, uid: 7, gid: 8, rdev: 0, atime: time, mtime: time, ctime: time, btime: time, target }
}

fn block(fill: u8) -> Vec<u8> {
    vec![fill; BLOCK_SIZE]
}

fn file(packer: &mut Packer, dir: InodeNo, name: &[u8], content: &[u8]) -> InodeNo {
    let ino = packer.make(dir, name, &entry(FileKind::Regular, 0o644)).unwrap();
    packer.write(ino, 0, content).unwrap();
    packer.end_file(ino, content.len() as u64).unwrap();
    ino
}

/// A tree with something of everything.
fn fill(packer: &mut Packer, mode: u32) {
    let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
    let dir = packer.make(root, b"dir", &entry(FileKind::Directory, mode)).unwrap();
    file(packer, root, b"small", b"hello");
    file(packer, root, b"empty", b"");
    let large = file(packer, dir, b"large", &[block(1), block(2), block(1), vec![9; 100]].concat());
    packer.link(root, b"again", large).unwrap();
    packer.make(root, b"link", &entry(FileKind::Symlink, 0)).unwrap();
    packer.make(root, b"fifo", &entry(FileKind::Fifo, 0o600)).unwrap();
    let sparse = packer.make(root, b"sparse", &entry(FileKind::Regular, 0o600)).unwrap();
    packer.write(sparse, 1 << 30, &[3; 10]).unwrap();
    packer.write(sparse, 1 << 31, &[0; 8192]).unwrap();
    packer.end_file(sparse, 5 << 30).unwrap();
    packer.set_xattr(dir, b"user.colour", b"green").unwrap();
    packer.set_xattr(dir, b"user.long", &[5; 60_000]).unwrap();
    for number in 0..300_u32 {
        file(packer, dir, alloc::format!("file {number}").as_bytes(), &number.to_le_bytes());
    }
}

fn public() -> (Arc<MemoryBackend>, PackSummary) {
    let backend = Arc::new(MemoryBackend::new(0));
    let output = Output::Public { backend: backend.clone(), volume_id: None };
    let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
    fill(&mut packer, 0o700);
    (backend, packer.finish([6; 32]).unwrap())
}

fn key() -> VolumeKey {
    VolumeKey::new([42; 32])
}

fn sealed_with(salt: [u8; 32], mode: u32) -> (Arc<MemoryBackend>, PackSummary) {
    let backend = Arc::new(MemoryBackend::new(0));
    let output = Output::Sealed {
        backend: backend.clone(),
        key: key(),
        volume_id: [4; 16],
        slots: Vec::new(),
        salt,
        measured: None,
    };
    let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
    fill(&mut packer, mode);
    (backend, packer.finish([6; 32]).unwrap())
}

fn sealed() -> (Arc<MemoryBackend>, PackSummary) {
    sealed_with([1; 32], 0o700)
}

fn pinned(summary: &PackSummary) -> OpenOptions {
    OpenOptions { root_digest: summary.root_digest, ..OpenOptions::default() }
}

fn bytes(backend: &MemoryBackend) -> Vec<u8> {
    let len = usize::try_from(backend.len_bytes().unwrap()).unwrap();
    backend.read_at(0, len).unwrap().bytes().to_vec()
}

fn scrubbed(check: impl FnOnce(&CheckOptions, &mut dyn FnMut(Event)) -> Result<CheckSummary>, pin: Option<Digest>) {
    let options = CheckOptions { scrub: true, root_digest: pin, ..CheckOptions::default() };
    let mut findings = Vec::new();
    let summary = check(&options, &mut |event| {
        if let Event::Finding(finding) = event {
            findings.push(finding);
        }
    });
    assert_eq!(findings, []);
    assert!(summary.unwrap().scrubbed_blocks >= 5);
}

fn compare(volume: &Volume) {
    let root = Caller::root();
    let find = |name: &[u8]| volume.lookup(&root, InodeNo::ROOT, name).unwrap();
    let read = |ino, offset, len| {
        let mut out = vec![0xee; len];
        let count = volume.read(ino, offset, &mut out).unwrap();
        out.truncate(count);
        out
    };
    assert_eq!(read(find(b"small").ino, 0, 100), b"hello");
    assert_eq!(read(find(b"empty").ino, 0, 100), b"");
    let again = find(b"again");
    assert_eq!((again.links, again.size, again.blocks_512, again.uid, again.mode), (2, 12_388, 32, 7, 0o644));
    assert_eq!(read(again.ino, 0, 20_000), [block(1), block(2), block(1), vec![9; 100]].concat());
    assert_eq!(volume.read_link(find(b"link").ino).unwrap(), b"where/to");
    let sparse = find(b"sparse");
    assert_eq!((sparse.size, sparse.blocks_512), (5 << 30, 8));
    assert_eq!(read(sparse.ino, (1 << 30) - 1, 12), [&[0][..], &[3; 10], &[0]].concat());
    assert_eq!(volume.seek(sparse.ino, 0, crate::vfs::Seek::Data).unwrap(), 1 << 30);
    let dir = find(b"dir");
    assert_eq!((dir.links, dir.size), (2, 301));
    assert_eq!(volume.lookup(&root, dir.ino, b"large").unwrap().ino, again.ino);
    assert_eq!(volume.get_xattr(&root, dir.ino, b"user.long").unwrap(), [5; 60_000]);
    assert_eq!(volume.list_xattr(&root, dir.ino).unwrap().len(), 2);
    assert_eq!(volume.read_dir(dir.ino, 0, 1_000).unwrap().len(), 303);
    let new = crate::vfs::NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    assert_eq!(volume.make(&root, InodeNo::ROOT, b"new", &new), Err(Posix::ReadOnly.into()));
    assert!(volume.info().read_only);
    assert_eq!(volume.info().manifest_root, Some([6; 32]));
}

#[test]
fn a_public_image_opens_with_its_root_digest() {
    let (backend, summary) = public();
    assert_eq!(backend.len_bytes().unwrap(), summary.size_bytes);
    assert_eq!((summary.data_blocks, summary.shared_blocks), (4, 1));
    let before = bytes(&backend);
    let volume = Volume::open_public(backend.clone(), &pinned(&summary), &Env::host()).unwrap();
    compare(&volume);
    volume.work(true).unwrap();
    volume.sync().unwrap();
    volume.close().unwrap();
    assert!(before == bytes(&backend), "a mount changes no byte");
    scrubbed(|options, on| check_public(backend.clone(), options, &Env::host(), on), summary.root_digest);
}

#[test]
fn an_encrypted_image_opens_with_its_key() {
    let (backend, summary) = sealed();
    for options in [OpenOptions::default(), pinned(&summary)] {
        let volume = Volume::open(backend.clone(), &key(), &options, &Env::host()).unwrap();
        compare(&volume);
        assert_eq!(volume.info().notices.is_empty(), options.root_digest.is_some());
    }
    assert_eq!(Volume::read_root_digest(&*backend, &Env::host()).ok(), summary.root_digest);
    scrubbed(|options, on| check(backend.clone(), &key(), options, &Env::host(), on), None);
    let stored = bytes(&backend);
    for plain in [&b"hello"[..], b"where/to", b"file 17", &[2; 64], &[5; 64]] {
        assert!(!stored.windows(plain.len()).any(|window| window == plain), "{plain:?} stands there in plain");
    }
}

fn refusal(outcome: Result<Volume>) -> Error {
    outcome.err().expect("it is refused")
}

#[test]
fn who_lets_an_image_in() {
    use crate::error::Incompatible::{KeyNeeded, NoKeyAdmits, NotPacked, RootDigest};
    let env = Env::host();
    let ((public, public_summary), (sealed, sealed_summary)) = (public(), sealed());
    let wrong = OpenOptions { root_digest: Some([9; 32]), ..OpenOptions::default() };
    let none = OpenOptions::default();
    assert_eq!(refusal(Volume::open_public(public.clone(), &wrong, &env)), RootDigest.into());
    assert_eq!(refusal(Volume::open_public(public.clone(), &none, &env)), NoKeyAdmits.into());
    for options in [&none, &wrong, &pinned(&public_summary)] {
        assert_eq!(refusal(Volume::open(public.clone(), &key(), options, &env)), NoKeyAdmits.into());
    }
    assert_eq!(refusal(Volume::open(sealed.clone(), &key(), &wrong, &env)), RootDigest.into());
    assert_eq!(refusal(Volume::open_public(sealed.clone(), &pinned(&sealed_summary), &env)), KeyNeeded.into());
    assert_eq!(refusal(Volume::open(sealed, &VolumeKey::new([1; 32]), &none, &env)), Error::WrongKey);
    let volume = Arc::new(MemoryBackend::new(8 << 20));
    let owner = crate::vfs::Owner { mode: 0o755, uid: 0, gid: 0 };
    let format = crate::vfs::FormatOptions {
        size_bytes: 8 << 20,
        volume_id: [1; 16],
        label: String::new(),
        slots: Vec::new(),
        anchor: None,
        root: owner,
    };
    Volume::format(volume.clone(), &key(), &format, &env).unwrap();
    assert_eq!(refusal(Volume::open(volume.clone(), &key(), &wrong, &env)), NotPacked.into());
    assert_eq!(refusal(Volume::open_public(volume, &wrong, &env)), NotPacked.into());
}

#[test]
fn the_same_calls_make_the_same_bytes_on_any_number_of_threads() {
    let (one, two) = (public(), public());
    assert!(bytes(&one.0) == bytes(&two.0));
    let backend = Arc::new(MemoryBackend::new(0));
    let output = Output::Public { backend: backend.clone(), volume_id: None };
    let mut packer = Packer::new(output, PackOptions { threads: 1, ..options() }, &Env::host()).unwrap();
    fill(&mut packer, 0o700);
    assert_eq!(packer.finish([6; 32]).unwrap(), one.1);
    assert!(bytes(&backend) == bytes(&one.0));
    assert!(bytes(&sealed().0) == bytes(&sealed().0));
}

fn measured(mode: u32) -> Digest {
    let mut packer = Packer::new(Output::Measure(ImageType::Packed), options(), &Env::host()).unwrap();
    fill(&mut packer, mode);
    packer.finish([6; 32]).unwrap().content_digest
}

#[test]
fn what_is_sealed_is_what_was_measured() {
    let measure = measured(0o700);
    let backend = Arc::new(MemoryBackend::new(0));
    let sealing = |mode, measured| {
        let backend = backend.clone();
        let output =
            Output::Sealed { backend, key: key(), volume_id: [4; 16], slots: Vec::new(), salt: [1; 32], measured };
        let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
        fill(&mut packer, mode);
        packer.finish([6; 32])
    };
    assert_eq!(sealing(0o701, Some(measure)).err(), Some(Invalid::ContentChanged.into()));
    assert!(Volume::read_header(&*backend).is_err(), "what was not finished is no image");
    assert_eq!(sealing(0o700, Some(measure)).unwrap().content_digest, measure);
}

#[test]
fn pairs_that_differ_in_one_bit_of_a_mode_share_no_salt_and_no_ciphertext() {
    let digests = [0o700, 0o701].map(measured);
    let salts = digests.map(|digest| reproducible_salt(&crate::suite::RustCrypto, &key(), &digest));
    assert_ne!(salts[0], salts[1]);
    let [one, two] = [(salts[0], 0o700), (salts[1], 0o701)].map(|(salt, mode)| bytes(&sealed_with(salt, mode).0));
    let (one, two) = (one.chunks_exact(BLOCK_SIZE).skip(16), two.chunks_exact(BLOCK_SIZE).skip(16));
    let equal: Vec<&[u8]> = one.zip(two).filter(|(one, two)| one == two).map(|(one, _)| one).collect();
    assert_eq!(equal, [&[0; BLOCK_SIZE][..]; 3], "but for the padding every block differs, root block, data and nodes");
}

#[test]
fn an_abandoned_file_leaves_nothing_behind() {
    let build = |abandon: bool| {
        let backend = Arc::new(MemoryBackend::new(0));
        let output = Output::Public { backend: backend.clone(), volume_id: None };
        let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
        let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
        file(&mut packer, root, b"before", &[block(1), block(2)].concat());
        if abandon {
            let ino = packer.make(root, b"bad", &entry(FileKind::Regular, 0o644)).unwrap();
            packer.write(ino, 0, &[block(2), block(3), block(4)].concat()).unwrap();
            packer.abandon_file(ino).unwrap();
        }
        file(&mut packer, root, b"c", &[block(3), block(5)].concat());
        let summary = packer.finish([0; 32]).unwrap();
        (summary.root_digest, summary.data_blocks, backend)
    };
    let ((with, blocks, backend), (without, ..)) = (build(true), build(false));
    assert_eq!((with, blocks), (without, 4));
    scrub_any(&backend, with);
}

fn scrub_any(backend: &Arc<MemoryBackend>, pin: Option<Digest>) {
    let options = CheckOptions { scrub: true, root_digest: pin, ..CheckOptions::default() };
    let summary = check_public(backend.clone(), &options, &Env::host(), &mut |_| {}).unwrap();
    assert_eq!((summary.errors, summary.notes), (0, 0));
}

#[test]
fn numbers_stay_when_files_are_added() {
    let numbers = |more: bool| {
        let mut packer = Packer::new(Output::Measure(ImageType::Public), options(), &Env::host()).unwrap();
        let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
        if more {
            file(&mut packer, root, b"a new one", b"1");
        }
        let dir = packer.make(root, b"dir", &entry(FileKind::Directory, 0o755)).unwrap();
        (dir, file(&mut packer, dir, b"file", b"2"))
    };
    assert_eq!(numbers(false), numbers(true));
    assert!(numbers(true).1.0 < 1 << 62);
}

#[test]
fn what_no_image_may_hold_is_refused() {
    let mut packer = Packer::new(Output::Measure(ImageType::Public), options(), &Env::host()).unwrap();
    let refused = |outcome: Result<InodeNo>| outcome.err().unwrap();
    let regular = entry(FileKind::Regular, 0o644);
    assert_eq!(refused(packer.make(InodeNo::ROOT, b"early", &regular)), Posix::NotFound.into());
    let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(refused(packer.make(root, name, &regular)), Posix::InvalidArgument.into(), "{name:?}");
    }
    assert_eq!(refused(packer.make(root, &[b'x'; 256], &regular)), Posix::NameTooLong.into());
    let ino = file(&mut packer, root, b"once", b"x");
    assert_eq!(refused(packer.make(root, b"once", &regular)), Posix::Exists.into());
    assert_eq!(packer.link(root, b"once", ino), Err(Posix::Exists.into()));
    assert_eq!(packer.link(root, b"dir", root), Err(Posix::NotPermitted.into()));
    assert_eq!(refused(packer.make(ino, b"below a file", &regular)), Posix::NotDirectory.into());
    assert_eq!(packer.set_xattr(ino, b"odd.name", b""), Err(Posix::NotSupported.into()));
    let open = packer.make(root, b"open", &regular).unwrap();
    packer.write(open, 10, b"later").unwrap();
    assert_eq!(packer.write(open, 9, b"earlier"), Err(Posix::InvalidArgument.into()));
    assert_eq!(packer.end_file(open, 14), Err(Posix::InvalidArgument.into()), "shorter than what was written");
    assert_eq!(packer.finish([0; 32]).err(), Some(Posix::Busy.into()));
}

#[test]
fn a_check_accounts_for_every_block() {
    let backend = Arc::new(MemoryBackend::new(0));
    let output = Output::Public { backend: backend.clone(), volume_id: None };
    let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
    let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
    file(&mut packer, root, b"a", &[block(1), block(2)].concat());
    // Blocks of an inode that there is not.
    for (number, fill) in [(0, 3), (1, 4)] {
        packer.blocks.push(InodeNo(77), number, &[fill; BLOCK_SIZE]).unwrap();
    }
    file(&mut packer, root, b"b", &block(5));
    let root_digest = packer.finish([0; 32]).unwrap().root_digest;
    let (options, mut found) = (CheckOptions { root_digest, ..CheckOptions::default() }, Vec::new());
    let told = check_public(backend, &options, &Env::host(), &mut |event| {
        if let Event::Finding(finding) = event {
            found.push(finding);
        }
    });
    assert_eq!(found, [crate::check::Finding::Unreferred { addr: BlockAddr(19), blocks: 2 }]);
    assert_eq!(told.unwrap().errors, 1);
}
