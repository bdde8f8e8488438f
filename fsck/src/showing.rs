//! How attributes, headers and states look as text and as JSON.

use std::fmt::Write as _;

use sefs::format::{FORMAT_VERSION, FileKind, Header, ImageType, KeySlot};
use sefs::types::{BLOCK_SIZE_U64, Timestamp};
use sefs::vfs::{Attr, LowerRecord, VolumeInfo};
use serde_json::{Map, Value, json};

use crate::listing::{device_numbers, kind_text, mode_text, time_text};
use crate::names::escaped;
use crate::size;
use crate::volume_id::VolumeId;

/// A line of a name and a value.
pub(crate) fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<22} {value}", format!("{name}:"));
}

pub(crate) fn stat_text(text: &mut String, path: &[u8], attr: &Attr, target: Option<&[u8]>) {
    line(text, "path", escaped(path));
    line(text, "kind", kind_text(attr.kind));
    if let Some(target) = target {
        line(text, "target", escaped(target));
    }
    line(text, "inode", attr.ino);
    line(text, "mode", format!("{:04o} {}", attr.mode, mode_text(attr.kind, attr.mode)));
    line(text, "owner", format!("{}:{}", attr.uid, attr.gid));
    line(text, "links", attr.links);
    line(text, "size", attr.size);
    line(text, "blocks", format!("{} of 512 bytes", attr.blocks_512));
    if matches!(attr.kind, FileKind::BlockDevice | FileKind::CharDevice) {
        let (major, minor) = device_numbers(attr.rdev);
        line(text, "device", format!("{major}:{minor}"));
    }
    for (name, time) in
        [("accessed", attr.atime), ("modified", attr.mtime), ("changed", attr.ctime), ("created", attr.btime)]
    {
        line(text, name, time_text(time, true));
    }
    line(text, "change counter", attr.change);
}

pub(crate) fn entry_json(name: &[u8], attr: &Attr, target: Option<&[u8]>) -> Value {
    let time = |time: Timestamp| json!({"seconds": time.seconds, "nanoseconds": time.nanoseconds});
    let mut value = json!({
        "kind": kind_text(attr.kind),
        "inode": attr.ino.0,
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "links": attr.links,
        "size": attr.size,
        "blocks_512": attr.blocks_512,
        "rdev": attr.rdev,
        "atime": time(attr.atime),
        "mtime": time(attr.mtime),
        "ctime": time(attr.ctime),
        "btime": time(attr.btime),
        "change": attr.change,
    });
    if let Value::Object(fields) = &mut value {
        put_name(fields, "name", name);
        if let Some(target) = target {
            put_name(fields, "target", target);
        }
    }
    value
}

/// A name as text; where it is not UTF-8, escaped and with its bytes beside it.
pub(crate) fn put_name(fields: &mut Map<String, Value>, key: &str, name: &[u8]) {
    match std::str::from_utf8(name) {
        Ok(text) => fields.insert(key.into(), text.into()),
        Err(_) => {
            fields.insert(format!("{key}_hex"), hex(name).into());
            fields.insert(key.into(), escaped(name).into())
        }
    };
}

pub(crate) fn header_text(text: &mut String, header: &Header) {
    line(text, "format version", FORMAT_VERSION);
    line(text, "volume id", VolumeId(header.volume_id));
    line(text, "label", escaped(header.label.as_bytes()));
    let bytes = header.total_blocks.saturating_mul(BLOCK_SIZE_U64);
    line(text, "size", format!("{} ({} blocks)", size::render(bytes), header.total_blocks));
    line(text, "image type", image_kind(header.image));
    line(text, "suite", header.image.suite_name());
    line(text, "node size", header.node_size_bytes);
    if !header.image.is_packed() {
        line(text, "log ring", format!("{} blocks from block {}", header.ring_blocks, header.ring_start));
        line(text, "unmerged at most", size::render(header.max_unmerged_bytes));
    }
    line(text, "header generation", header.generation);
    line(text, "key generation", header.key_generation);
    let flags = (header.incompatible, header.read_only_compatible, header.compatible);
    line(text, "feature flags", format!("{:#x} {:#x} {:#x}", flags.0, flags.1, flags.2));
    let kinds: Vec<String> = header.slots.iter().map(slot_label).collect();
    line(text, "key slots", kinds.join(", "));
}

pub(crate) fn info_text(text: &mut String, info: &VolumeInfo) {
    if let (Some(root), Some(manifest)) = (&info.root_digest, &info.manifest_root) {
        line(text, "root digest", hex(root));
        line(text, "manifest root", hex(manifest));
        info.notices.iter().for_each(|notice| line(text, "notice", notice));
        return;
    }
    for (place, lower) in (1..).zip(&info.lowers) {
        line(text, &format!("over image {place}"), VolumeId(lower.volume_id));
        line(text, "  its root digest", hex(&lower.root_digest));
        line(text, "  noted at", escaped(&lower.note));
    }
    line(text, "checkpoint", info.generation);
    line(text, "epochs", format!("{} of {}", info.epochs, info.max_epochs));
    if let Some(left) = &info.rotating {
        line(text, "key rotation", format!("in progress: {} blocks of {} epochs left", left.blocks_left, left.epochs));
    }
    if let Some(job) = &info.reencrypting {
        line(text, "re-encrypting", format!("{} epochs, {} blocks left", job.epochs, job.blocks_left));
    }
    line(text, "anchor", format!("{:?}", info.anchor).to_lowercase());
    line(text, "log groups", format!("{} replayed, {} dropped", info.replayed_groups, info.dropped_groups));
    for notice in &info.notices {
        line(text, "notice", notice);
    }
}

pub(crate) fn header_json(header: &Header, slots: &[Value]) -> Value {
    json!({
        "format_version": FORMAT_VERSION,
        "image_type": image_kind(header.image),
        "suite": header.image.suite_name(),
        "volume_id": VolumeId(header.volume_id).to_string(),
        "label": header.label,
        "size_bytes": header.total_blocks.saturating_mul(BLOCK_SIZE_U64),
        "total_blocks": header.total_blocks,
        "node_size_bytes": header.node_size_bytes,
        "ring_start_block": header.ring_start.0,
        "ring_blocks": header.ring_blocks,
        "max_unmerged_bytes": header.max_unmerged_bytes,
        "header_generation": header.generation,
        "key_generation": header.key_generation,
        "incompatible": header.incompatible,
        "read_only_compatible": header.read_only_compatible,
        "compatible": header.compatible,
        "slots": slots,
    })
}

pub(crate) fn info_json(info: &VolumeInfo) -> Value {
    json!({
        "root_digest": info.root_digest.map(|digest| hex(&digest)),
        "manifest_root": info.manifest_root.map(|root| hex(&root)),
        "lowers": info.lowers.iter().map(lower_json).collect::<Vec<_>>(),
        "checkpoint": info.generation.0,
        "epochs": info.epochs,
        "max_epochs": info.max_epochs,
        "rotation": info.rotating.map(|left| json!({ "epochs": left.epochs, "blocks_left": left.blocks_left })),
        "reencrypting": info.reencrypting.map(|job| json!({ "epochs": job.epochs, "blocks_left": job.blocks_left })),
        "anchor": format!("{:?}", info.anchor).to_lowercase(),
        "replayed_groups": info.replayed_groups,
        "dropped_groups": info.dropped_groups,
        "notices": info.notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn lower_json(lower: &LowerRecord) -> Value {
    let mut fields = Map::new();
    fields.insert("volume_id".into(), VolumeId(lower.volume_id).to_string().into());
    fields.insert("root_digest".into(), hex(&lower.root_digest).into());
    put_name(&mut fields, "note", &lower.note);
    fields.into()
}

fn image_kind(image: ImageType) -> &'static str {
    match image {
        ImageType::Volume => "volume",
        ImageType::Packed => "packed, encrypted",
        ImageType::Public => "packed, public",
    }
}

/// A slot for people, in its own unauthenticated words: a platform for development says so.
pub(crate) fn slot_label(slot: &KeySlot) -> String {
    let kind = slot_kind(slot.kind);
    if slot.kind != sealing::SlotKind::Platform.number() {
        return kind.into();
    }
    match sealing::BlobHeader::decode(&slot.body) {
        Ok(header) => format!("{kind} {} ({})", header.kind.name(), header.assurance),
        Err(_) => format!("{kind}, damaged"),
    }
}

pub(crate) fn slot_kind(kind: u16) -> &'static str {
    match kind {
        0 => "empty",
        1 => "key file",
        2 => "passphrase",
        3 => "platform",
        4 => "recovery shares",
        _ => "unknown",
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
