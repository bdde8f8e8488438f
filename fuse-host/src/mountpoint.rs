//! The mount as the kernel's mount table shows it: whether it stands, and whether it is on top.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A mount's device number. The kernel gives each FUSE mount its own, and gives it away again as soon as that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// One line of the mount table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) device: Device,
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
    pub(crate) source: OsString,
}

/// Where a mount stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It is what a path to it reaches.
    Top,
    /// Something else was mounted over it.
    Covered,
    /// It is not there any more.
    Gone,
}

/// The mount table of this process's namespace, oldest first.
pub(crate) fn table() -> io::Result<Vec<Entry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// How a mount stands at its path.
pub(crate) fn standing(table: &[Entry], ours: &Entry) -> Standing {
    match table.iter().rev().find(|entry| entry.point == ours.point) {
        Some(top) if top == ours => Standing::Top,
        _ if table.contains(ours) => Standing::Covered,
        _ => Standing::Gone,
    }
}

/// proc(5), "mountinfo": `id parent major:minor root point options [tags] - type source options`.
fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let point = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-");
    let kind = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    let source = unescape(rest.next()?);
    Some(Entry {
        device: Device { major: major.parse().ok()?, minor: minor.parse().ok()? },
        point: PathBuf::from(OsString::from_vec(point)),
        kind,
        source: OsString::from_vec(source),
    })
}

/// The kernel writes space, tab, line feed and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match (first, octal(after)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// A path for the options of fusermount3, where a comma ends an option and a backslash takes its meaning away.
pub(crate) fn escape_option(path: &Path) -> OsString {
    let escaped = path.as_os_str().as_bytes().iter().flat_map(|&byte| match byte {
        b',' | b'\\' => vec![b'\\', byte],
        _ => vec![byte],
    });
    OsString::from_vec(escaped.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 22 0:50 / /mnt/a\\040b rw,nosuid,nodev - fuse.sefs /img/x\\134,y.img rw,user_id=0\n\
        31 30 0:51 / /mnt/a\\040b rw shared:2 master:3 - tmpfs none rw\n\
        nonsense\n";

    #[test]
    fn lines_are_read_with_tags_or_without() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 3);
        assert_eq!(table[1].point, Path::new("/mnt/a b"));
        assert_eq!(table[1].kind, "fuse.sefs");
        assert_eq!(table[1].source, OsString::from("/img/x\\,y.img"));
        assert_eq!(table[2].kind, "tmpfs");
    }

    #[test]
    fn what_is_mounted_over_another_mount_covers_it() {
        let table = parse(TABLE);
        let (ours, theirs) = (&table[1], &table[2]);
        assert_eq!(standing(&table, ours), Standing::Covered);
        assert_eq!(standing(&table, theirs), Standing::Top);
        assert_eq!(standing(&table[..2], ours), Standing::Top);
        assert_eq!(standing(&table, &Entry { point: "/mnt".into(), ..ours.clone() }), Standing::Gone);
    }

    #[test]
    fn another_mount_with_our_device_number_is_not_ours() {
        let table = parse(TABLE);
        let before = Entry { device: table[2].device, ..table[1].clone() };
        assert_eq!(standing(&table[2..], &before), Standing::Gone);
    }

    #[test]
    fn commas_in_a_path_cannot_inject_options() {
        assert_eq!(escape_option(Path::new("/a,suid\\b")), OsString::from("/a\\,suid\\\\b"));
    }
}
