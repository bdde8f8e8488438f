//! `debug.sefs diff`: what differs, said line by line as it is found.

use std::ffi::OsStr;

use sefs::format::FileKind;
use sefs::vfs::Volume;
use serde_json::{Map, Value, json};

use super::{Debug, OUTPUT_BYTES, TOOL};
use crate::diff::{Aspect, Changed, Counts, Difference, Side, Wanted, compare};
use crate::image::ImageUse;
use crate::image_spec::ImageSpec;
use crate::listing::kind_text;
use crate::names::escaped;
use crate::report::{Failure, Output};
use crate::showing::put_name;

impl Debug {
    /// `false`: something differs.
    pub(super) fn diff(&mut self, volume: &Volume, other: &OsStr, times: bool) -> Result<bool, Failure> {
        let spec = ImageSpec::parse(other)?;
        let entry = spec.open(&self.args.key, ImageUse::ReadOnly, TOOL)?;
        let other = entry.volume()?;
        let wanted = Wanted { times, extent: self.args.json };
        let (old, new) = (Side { image: &self.args.image, volume }, Side { image: &spec.path, volume: &other });
        let mut report = Report { out: &mut self.out, json: self.args.json, pending: Vec::new(), any: false };
        self.answered = self.args.json;
        report.begin()?;
        let compared = compare(old, new, wanted, &mut |difference| report.tell(&difference));
        report.end(&compared)?;
        compared.map(|counts| counts.same())
    }
}

/// The differences as lines, or as the list in one object of JSON, which is written as it grows.
struct Report<'o> {
    out: &'o mut Output,
    json: bool,
    pending: Vec<u8>,
    any: bool,
}

impl Report<'_> {
    fn begin(&mut self) -> Result<(), Failure> {
        if self.json { self.out.bytes(b"{\"differences\":[") } else { Ok(()) }
    }

    /// Whether anybody wants to hear more.
    fn tell(&mut self, difference: &Difference) -> Result<bool, Failure> {
        if self.json {
            let comma = if self.any { "," } else { "" };
            self.pending.extend_from_slice(format!("{comma}{}", as_json(difference)).as_bytes());
        } else {
            self.pending.extend_from_slice(as_text(difference).as_bytes());
            self.pending.push(b'\n');
        }
        self.any = true;
        if self.pending.len() >= OUTPUT_BYTES {
            self.flush()?;
        }
        Ok(!self.out.is_closed())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.bytes(&std::mem::take(&mut self.pending))
    }

    /// A comparison that failed says so within the object that it began.
    fn end(&mut self, compared: &Result<Counts, Failure>) -> Result<(), Failure> {
        self.flush()?;
        if !self.json {
            return Ok(());
        }
        let rest = match compared {
            Ok(counts) => json!({
                "same": counts.same(), "added": counts.added, "removed": counts.removed, "changed": counts.changed,
                "unchanged": counts.unchanged,
            }),
            Err(failure) => failure.json(),
        };
        let rest = rest.to_string();
        self.out.line(format_args!("],{}", rest.trim_start_matches('{')))
    }
}

fn as_text(difference: &Difference) -> String {
    let slash = |kind: &FileKind, path: &[u8]| if *kind == FileKind::Directory && path != b"/" { "/" } else { "" };
    match difference {
        Difference::Added(path, kind) => format!("A {}{}", escaped(path), slash(kind, path)),
        Difference::Removed(path, kind) => format!("D {}{}", escaped(path), slash(kind, path)),
        Difference::Changed(changed) => {
            let aspects: Vec<String> = changed.aspects.iter().map(|aspect| aspect_text(changed, *aspect)).collect();
            format!("M {}: {}", escaped(&changed.path), aspects.join(", "))
        }
    }
}

fn aspect_text(changed: &Changed, aspect: Aspect) -> String {
    match changed.values.get(&aspect) {
        Some([old, new]) => format!("{} {old} -> {new}", aspect.name()),
        None => aspect.name().into(),
    }
}

fn as_json(difference: &Difference) -> Value {
    let mut fields = Map::new();
    let (what, path) = match difference {
        Difference::Added(path, kind) => {
            fields.insert("kind".into(), kind_text(*kind).into());
            ("added", path)
        }
        Difference::Removed(path, kind) => {
            fields.insert("kind".into(), kind_text(*kind).into());
            ("removed", path)
        }
        Difference::Changed(changed) => {
            let aspects: Vec<&str> = changed.aspects.iter().map(|aspect| aspect.name()).collect();
            fields.insert("aspects".into(), aspects.into());
            for (aspect, values) in &changed.values {
                fields.insert(aspect.name().into(), json!(values));
            }
            if let Some(diff) = changed.content {
                let value = json!({
                    "first_byte": diff.first_byte, "end_byte": diff.end_byte, "differing_bytes": diff.bytes,
                });
                fields.insert(Aspect::Content.name().into(), value);
            }
            ("changed", &changed.path)
        }
    };
    fields.insert("difference".into(), what.into());
    put_name(&mut fields, "path", path);
    fields.into()
}
