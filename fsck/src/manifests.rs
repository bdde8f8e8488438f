//! Manifests: the list of everything in a volume, proofs that a path is on it, and their checking without volume or key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sefs::error::Error;
use sefs::types::InodeNo;
use sefs::vfs::{Attr, Caller, FileKind, Volume};
use sefs_manifest::{Digest, Kind, Manifest, Proof, Record, digest_of_attributes};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::listing::{entries, kind_text};
use crate::names::escaped;
use crate::progress::{Progress, Unit};
use crate::report::Failure;
use crate::showing::hex;
use crate::volume_id::decode_hex;

/// Links that are followed on the way to one path.
const LINKS_MAX: usize = 40;
/// A proof of the most records with the longest paths is shorter.
const PROOF_BYTES_MAX: u64 = 1 << 30;
/// Pieces that content is read in.
const PIECE_BYTES: usize = 1 << 20;

/// Lists everything in the volume: reads and hashes all content.
pub fn of_volume(volume: &Volume) -> Result<Manifest, Failure> {
    let found = walk(volume)?;
    let total = found.values().filter(|attr| attr.kind == FileKind::Regular).map(|attr| attr.size).sum();
    let mut progress = Progress::start("measuring", Unit::Bytes, Some(total));
    let (mut records, mut named) = (Vec::with_capacity(found.len()), BTreeMap::new());
    for (path, attr) in found {
        let first = named.entry(attr.ino).or_insert_with(|| path.clone());
        let record = match *first == path {
            true => record(volume, &path, &attr, &mut progress)
                .map_err(|error| Failure::volume(Path::new(&shown(&path)), &error))?,
            false => hard_link(path, first.clone()),
        };
        records.push(record);
    }
    drop(progress);
    Manifest::new(records).map_err(|error| Failure::new("manifest", error).way_out("check the volume with fsck.sefs"))
}

/// Every path in the volume, without a slash before it.
fn walk(volume: &Volume) -> Result<BTreeMap<Vec<u8>, Attr>, Failure> {
    let failed = |path: &[u8]| {
        let path = shown(path);
        move |error: Error| Failure::volume(Path::new(&path), &error)
    };
    let (mut found, mut directories) = (BTreeMap::new(), BTreeSet::new());
    let mut pending = vec![(Vec::new(), volume.attr(InodeNo::ROOT).map_err(failed(b""))?)];
    while let Some((path, attr)) = pending.pop() {
        if attr.kind == FileKind::Directory {
            // Whoever has the key can store a directory below itself, and the walk would never end.
            if !directories.insert(attr.ino) {
                return Err(Failure::new(shown(&path), "this directory stands in two places")
                    .way_out("check the volume with fsck.sefs"));
            }
            for entry in entries(volume, attr.ino).map_err(failed(&path))? {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(&entry.name);
                let attr = volume.attr(entry.ino).map_err(failed(&below))?;
                pending.push((below, attr));
            }
        }
        found.insert(path, attr);
    }
    Ok(found)
}

fn record(volume: &Volume, path: &[u8], attr: &Attr, progress: &mut Progress) -> sefs::error::Result<Record> {
    let (root, ino) = (Caller::root(), attr.ino);
    let names = volume.list_xattr(&root, ino)?;
    let values =
        names.iter().map(|name| volume.get_xattr(&root, ino, name)).collect::<sefs::error::Result<Vec<Vec<u8>>>>()?;
    let attributes = names.iter().map(Vec::as_slice).zip(values.iter().map(Vec::as_slice));
    let (size, content) = match attr.kind {
        FileKind::Regular => content(volume, ino, progress)?,
        _ => (0, [0; 32]),
    };
    let is_link = attr.kind == FileKind::Symlink;
    Ok(Record {
        path: path.to_vec(),
        kind: kind_of(attr.kind),
        mode: if is_link { 0 } else { attr.mode },
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size,
        content,
        attributes: digest_of_attributes(attributes),
        target: if is_link { volume.read_link(ino)? } else { Vec::new() },
    })
}

fn content(volume: &Volume, ino: InodeNo, progress: &mut Progress) -> sefs::error::Result<(u64, Digest)> {
    let (mut hash, mut piece, mut offset) = (sha2::Sha256::new(), vec![0; PIECE_BYTES], 0);
    loop {
        match volume.read(ino, offset, &mut piece)? {
            0 => return Ok((offset, hash.finalize().into())),
            count => {
                hash.update(&piece[..count]);
                offset += count as u64;
                progress.add(count as u64);
            }
        }
    }
}

pub(crate) fn hard_link(path: Vec<u8>, first: Vec<u8>) -> Record {
    Record {
        path,
        kind: Kind::HardLink,
        mode: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        content: [0; 32],
        attributes: [0; 32],
        target: first,
    }
}

pub(crate) fn kind_of(kind: FileKind) -> Kind {
    match kind {
        FileKind::Regular => Kind::Regular,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::BlockDevice => Kind::BlockDevice,
        FileKind::CharDevice => Kind::CharDevice,
    }
}

/// Proves what paths lead to: also each symbolic link on the way, and the name that a hard link is another of.
pub fn prove(manifest: &Manifest, paths: &[&[u8]]) -> Result<Proof, Failure> {
    let mut wanted = Vec::new();
    for path in paths {
        let way = way_to(manifest, path)
            .map_err(|why| Failure::new(escaped(path), why).way_out("name a path that debug.sefs tree shows"))?;
        wanted.extend(way);
    }
    manifest.prove(&wanted).map_err(|error| Failure::new("proof", error))
}

/// The path that `path` leads to, after those of the links that lead there.
fn way_to(manifest: &Manifest, path: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let names = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).rev().map(<[u8]>::to_vec).collect()
    };
    let (mut pending, mut here, mut way) = (names(path), Vec::new(), Vec::new());
    while let Some(name) = pending.pop() {
        if name == b".." {
            here.truncate(here.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        }
        let parent = here.len();
        if parent > 0 {
            here.push(b'/');
        }
        here.extend_from_slice(&name);
        let records = manifest.records();
        let found = records.binary_search_by(|record| record.path.cmp(&here)).map_err(|_| "it is not in the volume")?;
        let record = &records[found];
        match record.kind {
            Kind::Symlink if way.len() == LINKS_MAX => return Err("too many symbolic links lead to it"),
            Kind::Symlink => {
                way.push(record.path.clone());
                here.truncate(if record.target.starts_with(b"/") { 0 } else { parent });
                pending.extend(names(&record.target));
            }
            Kind::HardLink => way.push(record.target.clone()),
            Kind::Directory => {}
            _ if pending.is_empty() => {}
            _ => return Err("a part of it is no directory"),
        }
    }
    way.push(here);
    Ok(way)
}

/// Reads a proof from a file, and checks it against a root.
pub fn verify(file: &Path, root: &Digest) -> Result<Proof, Failure> {
    let io = |error: std::io::Error| Failure::io(file, &error).way_out("name a file that prove wrote");
    let mut bytes = Vec::new();
    File::open(file).map_err(io)?.take(PROOF_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    let refused = |error| {
        Failure::new(file.display(), format!("the proof does not hold: {error}"))
            .way_out("check the root, or have another proof made")
    };
    let proof = Proof::decode(&bytes).map_err(refused)?;
    proof.verify(root).map_err(refused)?;
    Ok(proof)
}

/// A record as a line: what it is, whose, how long, its digest, its path.
pub fn record_text(record: &Record) -> String {
    let path = shown(&record.path);
    let target = escaped(&record.target);
    let owner = format!("{:04o} {}:{}", record.mode, record.uid, record.gid);
    match record.kind {
        Kind::Regular => {
            format!("{path}: regular file, {owner}, {} bytes, sha256 {}", record.size, hex(&record.content))
        }
        Kind::Symlink => format!("{path}: symbolic link to {target}, {}:{}", record.uid, record.gid),
        Kind::HardLink => format!("{path}: another name of /{target}"),
        kind => format!("{path}: {}, {owner}", kind_name(kind)),
    }
}

/// A record as JSON.
pub fn record_json(record: &Record) -> Value {
    let regular = record.kind == Kind::Regular;
    json!({
        "path": shown(&record.path),
        "kind": kind_name(record.kind),
        "mode": format!("{:04o}", record.mode),
        "uid": record.uid,
        "gid": record.gid,
        "rdev": record.rdev,
        "size": record.size,
        "sha256": regular.then(|| hex(&record.content)),
        "xattrs_sha256": hex(&record.attributes),
        "target": (!record.target.is_empty()).then(|| escaped(&record.target).to_string()),
    })
}

fn kind_name(kind: Kind) -> &'static str {
    let kinds = [
        FileKind::Regular,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::BlockDevice,
        FileKind::CharDevice,
    ];
    kinds.into_iter().find(|known| kind_of(*known) == kind).map_or("hard link", kind_text)
}

fn shown(path: &[u8]) -> String {
    format!("/{}", escaped(path))
}

/// A root from the command line: 64 hex digits.
pub fn parse_root(text: &str) -> Result<Digest, String> {
    let mut root = [0; 32];
    decode_hex(text.as_bytes(), &mut root).map(|()| root).ok_or_else(|| "a root has 64 hex digits".into())
}
