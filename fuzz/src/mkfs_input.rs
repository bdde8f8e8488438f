//! What `mkfs.sefs` and its sisters take from outside: sizes, ids, anchors, mount options, key files, the table of images,
//! and the tree of `--from` with whatever names, attributes and lengths a host's filesystem hands over.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sefs::error::{Error, Posix};
use sefs::format::FileKind;
use sefs::types::Timestamp;
use sefs_tests::disk::Disk;
use sefs_tests::recorder::Recorder;
use sefs_tests::world::{World, small_memory};
use sefs_tools::anchor::AnchorSpec;
use sefs_tools::config::Config;
use sefs_tools::key_source::Environment;
use sefs_tools::names::escaped;
use sefs_tools::populate::{PopulateError, Survey, populate_from};
use sefs_tools::source::{Entry, FileId, Item};
use sefs_tools::{KeyArgs, MountOptions, VolumeId, size};

use crate::image::{IMAGE_BYTES, world};
use crate::input::Input;
use crate::memory;
use crate::suites::{Quick, Remembering, shared};

static FRESH: LazyLock<(World, Disk)> = LazyLock::new(|| {
    let world = world(&shared(Remembering::<Quick>::default()));
    let disk = world.format(IMAGE_BYTES);
    (world, disk)
});

static KEY_FILE: LazyLock<Mutex<(tempfile::TempPath, File)>> = LazyLock::new(|| {
    // In memory where there is such a folder: it is written anew for each input.
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::NamedTempFile::new_in(memory) } else { tempfile::NamedTempFile::new() };
    let (file, path) = made.expect("a temporary file").into_parts();
    Mutex::new((path, file))
});

/// The tree's volume has a budget of 4 MiB; what is written to it is memory here.
const BUDGET_BYTES: usize = 24 << 20;
/// Entries of a tree.
const MOST_ITEMS: usize = 24;

/// The target.
pub fn run(input: &[u8]) {
    let _ = (LazyLock::force(&FRESH), LazyLock::force(&KEY_FILE));
    let Some((&which, bytes)) = input.split_first() else { return };
    memory::within(BUDGET_BYTES, || match which % 16 {
        0..=4 => words(&String::from_utf8_lossy(bytes), bytes),
        5 | 6 => options(&String::from_utf8_lossy(bytes)),
        7 | 8 => drop(Config::parse(Path::new("/etc/sefs.toml"), &String::from_utf8_lossy(bytes))),
        9 => key_file(bytes),
        _ => tree(&mut Input::new(bytes)),
    });
}

/// What is read is what was written, in another spelling perhaps.
fn words(text: &str, bytes: &[u8]) {
    if let Ok(size_bytes) = size::parse(text) {
        assert_eq!(size::parse(&size_bytes.to_string()), Ok(size_bytes));
        let rendered = size::render(size_bytes);
        assert!(rendered.len() < 16, "{rendered}");
    }
    if let Ok(id) = text.parse::<VolumeId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(anchor) = text.parse::<AnchorSpec>() {
        assert_eq!(anchor.to_string().parse(), Ok(anchor));
    }
    let shown = escaped(bytes);
    assert!(!shown.chars().any(char::is_control), "a terminal would obey {shown:?}");
}

fn options(text: &str) {
    let lists: Vec<&str> = text.split('\n').take(4).collect();
    let Ok(mut options) = MountOptions::parse(&lists, KeyArgs::default()) else { return };
    for name in ["allow_other", "commit", "io"] {
        let _ = (options.take_flag(name), options.take_value(name));
    }
    let _ = options.finish();
}

/// A key file of any content: 32 bytes, 64 digits, or a refusal.
fn key_file(bytes: &[u8]) {
    let guard = KEY_FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, file) = &*guard;
    file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("a temporary file");
    let environment = Environment { key_file: None, config: "/nonexistent/sefs.toml".into() };
    let raw = KeyArgs { key_file: Some(path.to_path_buf()), ..KeyArgs::default() };
    let digits = bytes.trim_ascii_end();
    let right = bytes.len() == 32 || digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let read = raw.key_source_in(Path::new("a.sefs"), &environment).is_ok();
    assert!(right || !read, "{} bytes are no key", bytes.len());
    let passphrase = KeyArgs { passphrase_file: Some(path.to_path_buf()), ..KeyArgs::default() };
    let read = passphrase.key_source_in(Path::new("a.sefs"), &environment).is_ok();
    assert_eq!(read, !matches!(bytes, [] | [b'\n']) && bytes.len() <= 65_536);
}

/// A walk over a tree that no honest filesystem has.
fn tree(input: &mut Input<'_>) {
    let (fresh, disk) = &*FRESH;
    let check = input.rarely(4);
    let items = items(input);
    let mut survey = Survey::default();
    items.iter().for_each(|item| survey.count(item));
    let _ = (survey.size_bytes(), survey.least_bytes());
    let backend = Recorder::plain(disk.clone());
    let world = world(&fresh.env.suite);
    let volume = world.open(Arc::new(backend.clone()), &small_memory()).expect("a fresh volume");
    let filled = populate_from(&volume, Path::new("tree"), items, &AtomicBool::new(false), &mut |_| {});
    match filled {
        Ok(_) | Err(PopulateError::NoSpace) => {}
        Err(PopulateError::Volume { error: Error::Posix(outcome), .. }) => {
            assert!(!matches!(outcome, Posix::Stale | Posix::ReadOnly), "{outcome:?}");
        }
        Err(other) => panic!("the host is healthy: {other}"),
    }
    // Every fourth time, for it takes longer than all the rest.
    if volume.close().is_ok() && check {
        world.check(Arc::new(backend), &small_memory(), "after a tree");
    }
}

/// Steps that follow one another as a walk's do; everything in them is the input's.
fn items(input: &mut Input<'_>) -> Vec<Item> {
    let mut items = vec![Item::Enter(Entry { name: Vec::new(), ..entry(input, FileKind::Directory) })];
    let (mut depth, mut named) = (1, Vec::new());
    while items.len() < MOST_ITEMS && !input.is_empty() {
        match input.u8() % 8 {
            0 => {
                items.push(Item::Enter(entry(input, FileKind::Directory)));
                depth += 1;
            }
            1 if depth > 1 => {
                items.push(Item::Leave);
                depth -= 1;
            }
            2 => {
                let kinds = [FileKind::Fifo, FileKind::Socket, FileKind::BlockDevice, FileKind::CharDevice];
                let kind = *input.pick(&kinds);
                items.push(Item::Special(entry(input, kind)));
            }
            3 => {
                let len = if input.u8() & 7 == 0 { 4096 } else { 10 };
                items.push(Item::Symlink(entry(input, FileKind::Symlink), input.bytes(len).to_vec()));
            }
            4 if !named.is_empty() => items.push(Item::Link { name: name(input), of: *input.pick(&named) }),
            _ => file(input, &mut items, &mut named),
        }
    }
    items.extend((0..depth).map(|_| Item::Leave));
    items
}

fn file(input: &mut Input<'_>, items: &mut Vec<Item>, named: &mut Vec<FileId>) {
    let file = entry(input, FileKind::Regular);
    let (id, links, size) = (file.id, file.links, file.size);
    items.push(Item::File(file));
    let mut offset = 0;
    for _ in 0..input.u8() % 4 {
        offset += input.number() >> 4;
        let bytes = vec![input.u8(); usize::from(input.u16()).max(1)];
        let end = offset + bytes.len() as u64;
        items.push(Item::Data { offset, bytes });
        offset = end;
    }
    if input.u8() & 15 == 0 {
        let what = sefs_tools::source::Unreadable { path: "tree/file".into(), errno: nix::errno::Errno::EIO };
        return items.push(Item::Abort(what));
    }
    items.push(Item::End { size: size.max(offset) });
    if links > 1 {
        named.push(id);
    }
}

fn entry(input: &mut Input<'_>, kind: FileKind) -> Entry {
    let name = name(input);
    let time = |input: &mut Input<'_>| Timestamp {
        seconds: input.number().cast_signed(),
        nanoseconds: input.u32() % 1_000_000_000,
    };
    let xattrs = (0..input.u8() % 3).map(|_| xattr(input)).collect();
    Entry {
        name,
        id: FileId { device: 1, inode: u64::from(input.u8()) },
        kind,
        mode: u32::from(input.u16()) & 0o7777,
        uid: input.u32(),
        gid: input.u32(),
        size: input.number() >> 1,
        data_bytes: input.number() >> 1,
        links: u64::from(input.u8() & 3),
        rdev: input.number(),
        atime: time(input),
        mtime: time(input),
        ctime: (input.u8() & 1 == 1).then(|| time(input)),
        btime: (input.u8() & 1 == 1).then(|| time(input)),
        xattrs,
    }
}

fn name(input: &mut Input<'_>) -> Vec<u8> {
    match input.u8() {
        small @ 0..=0xbf => vec![b'a' + small % 26],
        0xc0..=0xcf => vec![b'n'; 255 + usize::from(input.u8() & 1)],
        _ => input.short().to_vec(),
    }
}

fn xattr(input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let names: [&[u8]; 6] = [
        b"user.a",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"security.capability",
        b"trusted.overlay.opaque",
        b"",
    ];
    let name = match usize::from(input.u8() % 8) {
        known @ 0..6 => names[known].to_vec(),
        _ => input.short().to_vec(),
    };
    let value = if input.u8() & 15 == 0 { vec![1; usize::from(input.u16()) * 2] } else { input.short().to_vec() };
    (name, value)
}
