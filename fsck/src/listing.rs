//! Looking into a volume by path: resolving, listing, and showing attributes as people know them.

use std::io::Write;

use sefs::error::{Error, Posix, Result};
use sefs::format::FileKind;
use sefs::types::{InodeNo, Timestamp};
use sefs::vfs::{Attr, Caller, DirEntry, Volume};

use crate::names::escaped;

/// What a path leads to; links within it are followed, one at its end only if `follow` says so.
///
/// The path may be absolute or not, both start at the volume's root; ".." of the root is the root.
pub fn resolve(volume: &Volume, path: &[u8], follow: bool) -> Result<Attr> {
    let caller = Caller::root();
    let mut pending: Vec<Vec<u8>> = components(path).rev().collect();
    let mut trail = vec![volume.attr(InodeNo::ROOT)?];
    let mut links_left = LINKS_MAX;
    while let Some(name) = pending.pop() {
        let here = trail.last().expect("the root is never popped");
        if here.kind != FileKind::Directory {
            return Err(Posix::NotDirectory.into());
        }
        if name == b".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let found = volume.lookup(&caller, here.ino, &name)?;
        if found.kind != FileKind::Symlink || (pending.is_empty() && !follow) {
            trail.push(found);
            continue;
        }
        if links_left == 0 {
            return Err(Posix::SymlinkLoop.into());
        }
        links_left -= 1;
        let target = volume.read_link(found.ino)?;
        if target.starts_with(b"/") {
            trail.truncate(1);
        }
        pending.extend(components(&target).rev());
    }
    Ok(trail.pop().expect("the root is never popped"))
}

/// All entries of a directory but "." and "..", by name.
pub fn entries(volume: &Volume, dir: InodeNo) -> Result<Vec<DirEntry>> {
    let (mut found, mut cookie) = (Vec::new(), 0);
    loop {
        let some = volume.read_dir(dir, cookie, ENTRIES_AT_ONCE)?;
        let Some(last) = some.last() else { break };
        if last.cookie <= cookie {
            return Err(Error::Posix(Posix::InvalidArgument));
        }
        cookie = last.cookie;
        found.extend(some.into_iter().filter(|entry| !matches!(&entry.name[..], b"." | b"..")));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Hands a file's content to `out`, piece by piece.
pub fn copy_out(volume: &Volume, ino: InodeNo, out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> CopyResult {
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        let count = volume.read(ino, offset, &mut piece).map_err(CopyError::Volume)?;
        if count == 0 {
            return Ok(offset);
        }
        out(&piece[..count]).map_err(CopyError::Output)?;
        offset += count as u64;
    }
}

/// The bytes copied, or what failed.
pub type CopyResult = std::result::Result<u64, CopyError>;

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// The volume.
    Volume(Error),
    /// The output.
    Output(std::io::Error),
}

/// Type and permissions as `ls -l` shows them.
pub fn mode_text(kind: FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(kind_letter(kind));
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// A kind in words, as stat(1) says it.
pub fn kind_text(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "regular file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::BlockDevice => "block device",
        FileKind::CharDevice => "character device",
    }
}

/// Date and time in UTC, to the nanosecond if `exact`.
pub fn time_text(time: Timestamp, exact: bool) -> String {
    let (days, second) = (time.seconds.div_euclid(86_400), time.seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    if exact {
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:09} UTC", time.nanoseconds)
    } else {
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
    }
}

/// Major and minor number of a device.
pub fn device_numbers(rdev: u64) -> (u64, u64) {
    ((rdev >> 8 & 0xfff) | (rdev >> 32 & 0xffff_f000), (rdev & 0xff) | (rdev >> 12 & 0xffff_ff00))
}

/// Writes a name: escaped for a terminal, byte for byte for another program.
pub fn write_name(out: &mut dyn Write, name: &[u8], terminal: bool) -> std::io::Result<()> {
    if terminal { out.write_all(escaped(name).as_bytes()) } else { out.write_all(name) }
}

const LINKS_MAX: u32 = 40;
const ENTRIES_AT_ONCE: usize = 1024;
const PIECE_BYTES: usize = 1 << 20;

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|&byte| byte == b'/').filter(|name| !matches!(name, [] | [b'.'])).map(<[u8]>::to_vec)
}

fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::BlockDevice => 'b',
        FileKind::CharDevice => 'c',
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March 0000, years start after the leap day and 400 years have 146,097 days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_like_ls() {
        assert_eq!(mode_text(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(FileKind::Regular, 0o4755), "-rwsr-xr-x");
        assert_eq!(mode_text(FileKind::Regular, 0o2640), "-rw-r-S---");
        assert_eq!(mode_text(FileKind::Socket, 0), "s---------");
    }

    #[test]
    fn times_are_calendar_dates() {
        let text = |seconds| time_text(Timestamp { seconds, nanoseconds: 5 }, true);
        assert_eq!(text(0), "1970-01-01 00:00:00.000000005 UTC");
        assert_eq!(text(951_782_400), "2000-02-29 00:00:00.000000005 UTC");
        assert_eq!(text(1_767_225_599), "2025-12-31 23:59:59.000000005 UTC");
        assert_eq!(text(-1), "1969-12-31 23:59:59.000000005 UTC");
    }

    #[test]
    fn no_time_breaks_the_calendar() {
        for seconds in [i64::MIN, i64::MAX] {
            time_text(Timestamp { seconds, nanoseconds: u32::MAX }, true);
        }
    }

    #[test]
    fn device_numbers_are_as_the_kernel_packs_them() {
        assert_eq!(device_numbers(0x0801), (8, 1));
        assert_eq!(device_numbers(nix::sys::stat::makedev(259, 70_000)), (259, 70_000));
    }

    #[test]
    fn empty_and_dot_components_mean_nothing() {
        assert_eq!(components(b"//a/./b/").collect::<Vec<_>>(), [b"a", b"b"]);
    }
}
