//! What stands where a volume is to be made: `mkfs.sefs` overwrites nothing unasked.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sefs::format::{HEADER_LEN, Header};

use crate::names::escaped;
use crate::volume_id::VolumeId;

/// The content of a file or device, as far as its first bytes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// No data at all.
    Nothing,
    /// A SEFS volume (its header is not authenticated here).
    Volume {
        /// Its label.
        label: String,
        /// Its id.
        id: [u8; 16],
    },
    /// Something with a well-known mark.
    Known(&'static str),
    /// A file of that many bytes.
    Bytes(u64),
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Occupant::Nothing => f.write_str("nothing"),
            Occupant::Volume { label, id } => {
                write!(f, "a SEFS volume (id {}", VolumeId(*id))?;
                if !label.is_empty() {
                    write!(f, ", label \"{}\"", escaped(label.as_bytes()))?;
                }
                f.write_str(")")
            }
            Occupant::Known(what) => f.write_str(what),
            Occupant::Bytes(length) => write!(f, "a file of {length} bytes"),
        }
    }
}

/// Looks at the start of `file`, which has `length` bytes.
pub fn occupant(file: &File, length: u64) -> io::Result<Occupant> {
    if length == 0 || holds_no_data(file) {
        return Ok(Occupant::Nothing);
    }
    let start = read_start(file)?;
    if start.len() >= HEADER_LEN
        && let Ok(header) = Header::decode(&start[..HEADER_LEN])
    {
        return Ok(Occupant::Volume { label: header.label, id: header.volume_id });
    }
    let known = MARKS.iter().find(|(offset, mark, _)| start.get(*offset..).is_some_and(|rest| rest.starts_with(mark)));
    if let Some((_, _, what)) = known {
        return Ok(Occupant::Known(what));
    }
    if is_device(file)? && start.iter().all(|&byte| byte == 0) {
        return Ok(Occupant::Nothing);
    }
    Ok(Occupant::Bytes(length))
}

const START_BYTES: usize = HEADER_LEN + 4096;

/// Where a mark stands, the mark, and what it says. The more particular come first.
const MARKS: [(usize, &[u8], &str); 16] = [
    (0, b"SEFSvol\0", "a SEFS volume with a damaged or newer header"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 filesystem"),
    (0, b"XFSB", "an XFS filesystem"),
    (65_600, b"_BHRfS_M", "a btrfs filesystem"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS filesystem"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS image"),
    (0, b"hsqs", "a SquashFS image"),
    (32_769, b"CD001", "an ISO 9660 image"),
    (4086, b"SWAPSPACE2", "swap space"),
    (0, b"QFI\xfb", "a QCOW2 disk image"),
    (0, b"\x7fELF", "an ELF file"),
    (0, b"\x1f\x8b", "a gzip file"),
    (257, b"ustar", "a tar archive"),
    (512, b"EFI PART", "a partition table"),
    (510, b"\x55\xaa", "a partition table or boot sector"),
];

/// A file that is one hole was only reserved (`truncate -s 1G image`).
fn holds_no_data(file: &File) -> bool {
    matches!(lseek(file, 0, Whence::SeekData), Err(Errno::ENXIO))
}

fn is_device(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(file.metadata()?.file_type().is_block_device())
}

fn read_start(file: &File) -> io::Result<Vec<u8>> {
    let mut start = vec![0; START_BYTES];
    let mut done = 0;
    while done < start.len() {
        match file.read_at(&mut start[done..], done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(done);
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(content: &[u8], hole_bytes: u64) -> Occupant {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let length = content.len() as u64 + hole_bytes;
        file.set_len(length).unwrap();
        occupant(&file, length).unwrap()
    }

    #[test]
    fn an_empty_or_merely_reserved_file_holds_nothing() {
        assert_eq!(check(b"", 0), Occupant::Nothing);
        assert_eq!(check(b"", 1 << 30), Occupant::Nothing);
    }

    #[test]
    fn anything_else_is_named() {
        assert_eq!(check(b"precious", 0), Occupant::Bytes(8));
        assert_eq!(check(&[0; 4096], 0), Occupant::Bytes(4096));
        assert_eq!(check(b"hsqs....", 0).to_string(), "a SquashFS image");
        assert_eq!(
            check(b"SEFSvol\0 from the future", 70_000).to_string(),
            "a SEFS volume with a damaged or newer header"
        );
    }

    #[test]
    fn a_label_cannot_forge_output() {
        let volume = Occupant::Volume { label: "a\nb".into(), id: [0xab; 16] };
        assert_eq!(volume.to_string(), "a SEFS volume (id abababab-abab-abab-abab-abababababab, label \"a\\nb\")");
    }
}
