//! A tar stream, entry by entry: v7, ustar, pax and GNU, as POSIX.1-2017 (pax) and GNU tar's manual ("Basic Tar Format",
//! "Storing Sparse Files") describe them.
//!
//! The `tar` crate knows the header's fields. Its reader of whole archives is not used: it reads extended headers of any
//! length into memory and takes a line end within a value for the end of a record.
//!
//! *Security*: every length is checked before it is used, extended headers are bounded, and a stream without an end mark is a
//! truncated one. Names come as they are; [`super::tree`] judges them.

use std::io::Read;

use sefs::format::MAX_FILE_SIZE;
use sefs::types::Timestamp;
use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{self, Pax};
use super::refusal::{Refusal, Refused};
use crate::source::Attributes;

/// Bytes that the extended headers of one entry may have: attributes of 64 KiB, some of them.
pub(crate) const EXTENDED_BYTES_MAX: u64 = 1 << 20;

/// An entry, without its content.
#[derive(Debug)]
pub(crate) struct Member {
    /// The name as the archive has it.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: MemberKind,
    /// Permission bits (0o7777).
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Device number, for device nodes.
    pub(crate) rdev: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) xattrs: Attributes,
    /// It has an access control list that is not read.
    pub(crate) text_acl: bool,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// A file; its content follows.
    File {
        /// Bytes, holes included.
        size: u64,
        /// Offsets and lengths of what is no hole, rising; `None`: all of it.
        map: Option<Vec<(u64, u64)>>,
    },
    /// Another name of what this leads to.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Directory,
    Fifo,
    CharDevice,
    BlockDevice,
    /// The type's letter, of which nothing is known.
    Unknown(u8),
}

/// Reads a stream.
pub(crate) struct TarReader<R> {
    from: R,
    /// Bytes of the content that are not read yet, and what fills their last block.
    content_bytes: u64,
    padding_bytes: u64,
    global: Pax,
}

/// Extended headers before an entry.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

type Block = [u8; BLOCK_BYTES];

impl<R: Read> TarReader<R> {
    pub(crate) fn new(from: R) -> TarReader<R> {
        TarReader { from, content_bytes: 0, padding_bytes: 0, global: Pax::default() }
    }

    /// The next entry; what is left of the content of the last one is skipped. `None` once, at the end mark.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Refused> {
        self.skip_content().map_err(|why| why.of(b""))?;
        let mut extended = Extended::default();
        loop {
            let block = self.block().map_err(|why| why.of(b""))?.ok_or(Refusal::Truncated.of(b""))?;
            if is_zero(&block) {
                if extended.name.is_some() || extended.link.is_some() || extended.pax.is_some() {
                    return Err(Refusal::Dangling.of(b""));
                }
                return self.end().map(|()| None).map_err(|why| why.of(b""));
            }
            let header = Header::from_byte_slice(&block);
            check_sum(header).map_err(|why| why.of(b""))?;
            let name = extended.name.clone().unwrap_or_else(|| header.path_bytes().into_owned());
            match self.extended(header, &mut extended) {
                Ok(true) => {}
                Ok(false) => return self.member(header, extended, &name).map(Some).map_err(|why| why.of(&name)),
                Err(why) => return Err(why.of(&name)),
            }
        }
    }

    /// Reads from the content of the entry that came last; 0 at its end.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, Refusal> {
        let length = usize::try_from(self.content_bytes).unwrap_or(usize::MAX).min(out.len());
        if length == 0 {
            return Ok(0);
        }
        let count = self.from.read(&mut out[..length])?;
        if count == 0 {
            return Err(Refusal::Truncated);
        }
        self.content_bytes -= count as u64;
        Ok(count)
    }

    /// Takes an extended header in. `false`: it is none.
    fn extended(&mut self, header: &Header, extended: &mut Extended) -> Result<bool, Refusal> {
        match header.as_old().linkflag[0] {
            b'L' => extended.name = Some(until_nul(self.long(header)?)?),
            b'K' => extended.link = Some(until_nul(self.long(header)?)?),
            // 'X' is Solaris' letter for the same.
            b'x' | b'X' => extended.pax = Some(Pax::decode(&self.long(header)?)?),
            b'g' => self.global = Pax::decode(&self.long(header)?)?.over(&self.global),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn long(&mut self, header: &Header) -> Result<Vec<u8>, Refusal> {
        let size = header.entry_size().map_err(|_| Refusal::Number("size"))?;
        if size > EXTENDED_BYTES_MAX {
            return Err(Refusal::ExtendedTooLong);
        }
        self.expect(size);
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Refusal::ExtendedTooLong)?];
        self.read_exact(&mut bytes)?;
        self.skip_content()?;
        Ok(bytes)
    }

    fn member(&mut self, header: &Header, extended: Extended, name: &[u8]) -> Result<Member, Refusal> {
        let pax = extended.pax.unwrap_or_default().over(&self.global);
        let link = pax.link.clone().or(extended.link).or_else(|| header.link_name_bytes().map(|it| it.into_owned()));
        let (name, link) = (pax.path.clone().unwrap_or_else(|| name.to_vec()), link.unwrap_or_default());
        let kind = self.kind(header, &pax, &name, link)?;
        let rdev = match kind {
            MemberKind::CharDevice | MemberKind::BlockDevice => device(header)?,
            _ => 0,
        };
        // The field is signed where it is binary.
        let seconds = if is_blank(&header.as_old().mtime) { 0 } else { value(header.mtime(), "time")?.cast_signed() };
        Ok(Member {
            mode: if is_blank(&header.as_old().mode) { 0 } else { value(header.mode(), "mode")? & 0o7777 },
            uid: owner(pax.uid, &header.as_old().uid, || header.uid(), "owner")?,
            gid: owner(pax.gid, &header.as_old().gid, || header.gid(), "group")?,
            rdev,
            mtime: pax.mtime.unwrap_or(Timestamp { seconds, nanoseconds: 0 }),
            atime: pax.atime,
            text_acl: pax.text_acl,
            xattrs: pax.xattrs(),
            name,
            kind,
        })
    }

    /// What it is, and how much content follows: of what is neither a file nor unknown none, whatever its size says.
    fn kind(&mut self, header: &Header, pax: &Pax, name: &[u8], link: Vec<u8>) -> Result<MemberKind, Refusal> {
        let letter = header.as_old().linkflag[0];
        let without_content = match letter {
            b'1' => Some(MemberKind::HardLink(link)),
            b'2' => Some(MemberKind::Symlink(link)),
            b'3' => Some(MemberKind::CharDevice),
            b'4' => Some(MemberKind::BlockDevice),
            b'5' => Some(MemberKind::Directory),
            b'6' => Some(MemberKind::Fifo),
            _ => None,
        };
        if let Some(kind) = without_content {
            return Ok(kind);
        }
        let size = pax.size.map_or_else(|| value(header.entry_size(), "size"), Ok)?;
        if size > MAX_FILE_SIZE {
            return Err(Refusal::TooLarge);
        }
        self.expect(size);
        match letter {
            // The oldest archives have no letter for directories.
            0 | b'0' if name.ends_with(b"/") => Ok(MemberKind::Directory),
            0 | b'0' | b'7' => self.file(pax, size),
            b'S' => self.gnu_sparse(header, size),
            other => Ok(MemberKind::Unknown(other)),
        }
    }

    fn file(&mut self, pax: &Pax, size: u64) -> Result<MemberKind, Refusal> {
        let map = match &pax.sparse {
            sparse if sparse.map_in_content => self.map_in_content()?,
            sparse => match &sparse.map {
                Some(map) => map.clone(),
                None => return Ok(MemberKind::File { size, map: None }),
            },
        };
        let real_size = pax.sparse.size.ok_or(Refusal::SparseMap)?;
        if map.len() % 2 != 0 {
            return Err(Refusal::SparseMap);
        }
        let map = map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        self.sparse(real_size, map)
    }

    /// Format 1.0 of GNU tar: decimal lines in the first blocks of the content, their number first.
    fn map_in_content(&mut self) -> Result<Vec<u64>, Refusal> {
        let (mut numbers, mut line, mut expected) = (Vec::new(), Vec::new(), None);
        loop {
            let mut block = [0; BLOCK_BYTES];
            self.read_exact(&mut block).map_err(|_| Refusal::SparseMap)?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > NUMBER_BYTES_MAX {
                        return Err(Refusal::SparseMap);
                    }
                    continue;
                }
                let number = pax::number(&line).map_err(|_| Refusal::SparseMap)?;
                line.clear();
                match expected {
                    None if number > RANGES_MAX as u64 => return Err(Refusal::SparseMap),
                    None => expected = Some(number * 2),
                    Some(_) => numbers.push(number),
                }
                if expected == Some(numbers.len() as u64) {
                    return Ok(numbers);
                }
            }
        }
    }

    /// The map of GNU's own format: four ranges in the header, others in the blocks behind it.
    fn gnu_sparse(&mut self, header: &Header, size: u64) -> Result<MemberKind, Refusal> {
        let gnu = header.as_gnu().ok_or(Refusal::SparseMap)?;
        let real_size = gnu.real_size().map_err(|_| Refusal::SparseMap)?;
        let (mut map, mut more) = (Vec::new(), gnu.is_extended());
        add_ranges(&mut map, &gnu.sparse)?;
        while more {
            let block = self.block()?.ok_or(Refusal::Truncated)?;
            let mut extension = GnuExtSparseHeader::new();
            extension.as_mut_bytes().copy_from_slice(&block);
            add_ranges(&mut map, extension.sparse())?;
            more = extension.is_extended();
        }
        self.expect(size);
        self.sparse(real_size, map)
    }

    /// A map that rises, stays within the file and has a length for each byte of content.
    fn sparse(&self, size: u64, map: Vec<(u64, u64)>) -> Result<MemberKind, Refusal> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &map {
            if *offset < end {
                return Err(Refusal::SparseMap);
            }
            end = offset.checked_add(*length).filter(|end| *end <= size).ok_or(Refusal::SparseMap)?;
            sum += length;
        }
        if size > MAX_FILE_SIZE {
            return Err(Refusal::TooLarge);
        }
        if sum != self.content_bytes || map.len() > RANGES_MAX {
            return Err(Refusal::SparseMap);
        }
        let map = map.into_iter().filter(|(_, length)| *length > 0).collect();
        Ok(MemberKind::File { size, map: Some(map) })
    }

    fn expect(&mut self, size: u64) {
        self.content_bytes = size;
        self.padding_bytes = size.next_multiple_of(BLOCK_BYTES as u64) - size;
    }

    fn read_exact(&mut self, out: &mut [u8]) -> Result<(), Refusal> {
        let mut done = 0;
        while done < out.len() {
            match self.read(&mut out[done..])? {
                0 => return Err(Refusal::Truncated),
                count => done += count,
            }
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), Refusal> {
        self.content_bytes += self.padding_bytes;
        self.padding_bytes = 0;
        let mut skipped = [0; 1 << 14];
        while self.read(&mut skipped)? > 0 {}
        Ok(())
    }

    /// A block; `None` where the stream ends instead.
    fn block(&mut self) -> Result<Option<Block>, Refusal> {
        let (mut block, mut done) = ([0; BLOCK_BYTES], 0);
        while done < BLOCK_BYTES {
            match self.from.read(&mut block[done..])? {
                0 if done == 0 => return Ok(None),
                0 => return Err(Refusal::Truncated),
                count => done += count,
            }
        }
        Ok(Some(block))
    }

    /// Behind the end mark come zeros only. They are read too: a compressed stream has its checksum at its end.
    fn end(&mut self) -> Result<(), Refusal> {
        let mut rest = [0; 1 << 14];
        loop {
            match self.from.read(&mut rest)? {
                0 => return Ok(()),
                count if is_zero(&rest[..count]) => {}
                _ => return Err(Refusal::AfterEnd),
            }
        }
    }
}

const BLOCK_BYTES: usize = 512;
/// Ranges of one file.
const RANGES_MAX: usize = 1 << 20;
/// Decimal digits of 64 bits.
const NUMBER_BYTES_MAX: usize = 20;

fn add_ranges(map: &mut Vec<(u64, u64)>, headers: &[GnuSparseHeader]) -> Result<(), Refusal> {
    for range in headers.iter().take_while(|range| !range.is_empty()) {
        let offset = range.offset().map_err(|_| Refusal::SparseMap)?;
        map.push((offset, range.length().map_err(|_| Refusal::SparseMap)?));
    }
    if map.len() > RANGES_MAX { Err(Refusal::SparseMap) } else { Ok(()) }
}

/// The sum of all bytes but its own; some old programs add them up as signed ones.
fn check_sum(header: &Header) -> Result<(), Refusal> {
    let expected = header.cksum().map_err(|_| Refusal::NoHeader)?;
    let bytes = header.as_bytes();
    let sum = |value: fn(u8) -> i64| -> i64 {
        let own = 8 * i64::from(b' ');
        bytes[..148].iter().chain(&bytes[156..]).map(|byte| value(*byte)).sum::<i64>() + own
    };
    let known = [sum(i64::from), sum(|byte| i64::from(byte.cast_signed()))];
    if known.contains(&i64::from(expected)) { Ok(()) } else { Err(Refusal::NoHeader) }
}

fn value<T>(read: std::io::Result<T>, field: &'static str) -> Result<T, Refusal> {
    read.map_err(|_| Refusal::Number(field))
}

fn owner(
    pax: Option<u64>,
    field: &[u8],
    read: impl FnOnce() -> std::io::Result<u64>,
    name: &'static str,
) -> Result<u32, Refusal> {
    let id = match pax {
        Some(id) => id,
        None if is_blank(field) => 0,
        None => value(read(), name)?,
    };
    u32::try_from(id).map_err(|_| Refusal::Number(name))
}

fn device(header: &Header) -> Result<u64, Refusal> {
    let number = |read: std::io::Result<Option<u32>>| value(read, "device number").map(Option::unwrap_or_default);
    let (major, minor) = (number(header.device_major())?, number(header.device_minor())?);
    Ok(nix::sys::stat::makedev(major.into(), minor.into()))
}

/// A field that nothing was written to.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|byte| matches!(byte, 0 | b' '))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A long name ends with NULs; one within it would hide what follows.
fn until_nul(mut bytes: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(length);
    if bytes.contains(&0) { Err(Refusal::Nul) } else { Ok(bytes) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Records of an extended header.
    pub(crate) fn records(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
            bytes.extend(format!("{length} {key}=").bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes
    }

    /// An entry, padded to whole blocks.
    pub(crate) fn entry(letter: u8, name: &[u8], content: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkflag = [letter];
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// A whole archive.
    pub(crate) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = entries.concat();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, String> {
        let (mut reader, mut found) = (TarReader::new(bytes), Vec::new());
        let text = |refused: Refused| format!("{}: {}", String::from_utf8_lossy(&refused.entry), refused.why);
        while let Some(member) = reader.next().map_err(text)? {
            let (mut content, mut piece) = (Vec::new(), [0; 1000]);
            loop {
                match reader.read(&mut piece).map_err(|why| why.to_string())? {
                    0 => break,
                    count => content.extend_from_slice(&piece[..count]),
                }
            }
            found.push((member, content));
        }
        Ok(found)
    }

    fn refused(bytes: &[u8], text: &str) {
        match read_all(bytes) {
            Err(found) => assert!(found.contains(text), "{found}, not {text}"),
            Ok(found) => panic!("{found:?}, not {text}"),
        }
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        entry(b'0', name.as_bytes(), content, |_| {})
    }

    #[test]
    fn extended_headers_win_over_the_header() {
        let pax = records(&[("path", b"long/name"), ("uid", b"3000000000"), ("mtime", b"5.25"), ("size", b"3")]);
        let all = archive(&[
            entry(b'g', b"", &records(&[("gid", b"77"), ("path", b"nonsense")]), |_| {}),
            entry(b'x', b"", &pax, |_| {}),
            entry(b'0', b"short", b"abc", |header| header.set_size(0)),
            entry(b'L', b"", b"gnu/name\0", |_| {}),
            file("short", b""),
        ]);
        let found = read_all(&all).unwrap();
        let (first, content) = &found[0];
        assert_eq!((&first.name[..], first.uid, first.gid), (&b"long/name"[..], 3_000_000_000, 77));
        assert_eq!((first.mtime.seconds, first.mtime.nanoseconds, &content[..]), (5, 250_000_000, &b"abc"[..]));
        assert_eq!((&found[1].0.name[..], found[1].0.gid, found[1].0.mtime.seconds), (&b"gnu/name"[..], 77, 7));
    }

    #[test]
    fn a_stream_that_ends_early_is_refused_wherever_it_ends() {
        let whole =
            archive(&[file("a", &[1; 700]), entry(b'x', b"", &records(&[("uid", b"1")]), |_| {}), file("b", b"x")]);
        assert_eq!(read_all(&whole).unwrap().len(), 2);
        let marked = whole.len() - 512;
        for length in 0..marked {
            assert!(read_all(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
        assert!(read_all(&whole[..marked]).is_ok(), "one block of zeros marks the end");
    }

    #[test]
    fn any_changed_byte_of_a_header_is_noticed() {
        let whole = archive(&[file("a", b"x")]);
        for at in 0..512 {
            let mut changed = whole.clone();
            changed[at] ^= 0x41;
            assert!(read_all(&changed).is_err(), "byte {at}");
        }
        refused(
            b"this is not a tar archive, but it is long enough to be a header".repeat(20).as_slice(),
            "no tar header",
        );
    }

    #[test]
    fn what_follows_the_end_and_what_belongs_to_nothing_is_refused() {
        let mut two = archive(&[file("a", b"")]);
        two.extend(archive(&[file("b", b"")]));
        refused(&two, "follows the archive's end");
        refused(&archive(&[entry(b'x', b"", &records(&[("path", b"x")]), |_| {})]), "belongs to no entry");
    }

    #[test]
    fn extended_headers_are_bounded() {
        let huge = entry(b'L', b"n", b"", |header| header.set_size(EXTENDED_BYTES_MAX + 1));
        refused(&archive(&[huge]), "too long");
        let huge = entry(b'x', b"n", b"", |header| header.set_size(u64::MAX / 2));
        refused(&archive(&[huge]), "too long");
    }

    #[test]
    fn sizes_and_numbers_beyond_all_measure_are_refused() {
        refused(&archive(&[entry(b'0', b"a", b"", |header| header.set_size(u64::MAX))]), "larger than a volume");
        refused(&archive(&[entry(b'0', b"a", b"", |header| header.set_size(1 << 40))]), "truncated");
        refused(&archive(&[entry(b'0', b"a", b"", |header| header.set_uid(1 << 33))]), "owner");
        let pax = entry(b'x', b"", &records(&[("size", b"99999999999999999999999")]), |_| {});
        refused(&archive(&[pax, file("a", b"")]), "malformed");
        refused(&archive(&[entry(b'0', b"a", b"", |header| header.as_old_mut().mode = *b"99999999")]), "mode");
    }

    #[test]
    fn what_has_no_content_has_none_whatever_its_size_says() {
        let link = entry(b'1', b"b", b"", |header| {
            header.set_size(512);
            header.as_old_mut().linkname[0] = b'a';
        });
        let found = read_all(&archive(&[file("a", b"x"), link, file("c", b"y")])).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].0.kind, MemberKind::HardLink(b"a".to_vec()));
    }

    #[test]
    fn the_oldest_archives_have_directories_too() {
        let old = entry(0, b"d/", b"", |header| header.as_mut_bytes()[257..265].fill(0));
        assert_eq!(read_all(&archive(&[old])).unwrap()[0].0.kind, MemberKind::Directory);
        let unknown = read_all(&archive(&[entry(b'V', b"label", b"", |_| {}), file("a", b"")])).unwrap();
        assert_eq!((&unknown[0].0.kind, unknown.len()), (&MemberKind::Unknown(b'V'), 2));
    }

    fn sparse(records_: &[(&str, &[u8])], content: &[u8]) -> Vec<u8> {
        archive(&[entry(b'x', b"", &records(records_), |_| {}), file("a", content)])
    }

    #[test]
    fn maps_of_holes_must_fit_content_and_size() {
        let map = |size: &'static [u8], map: &'static [u8]| {
            sparse(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)], b"abcdef")
        };
        let found = read_all(&map(b"100", b"10,2,50,4,100,0")).unwrap();
        assert_eq!(found[0].0.kind, MemberKind::File { size: 100, map: Some(vec![(10, 2), (50, 4)]) });
        for bad in [
            map(b"100", b"10,2,50,3"),
            map(b"100", b"10,2,50,5"),
            map(b"100", b"50,4,10,2"),
            map(b"100", b"10,4,12,2"),
            map(b"53", b"10,2,50,4"),
            map(b"100", b"10,2,50"),
            map(b"100", b"18446744073709551615,2,50,4"),
            sparse(&[("GNU.sparse.map", b"0,6")], b"abcdef"),
            sparse(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")], b"abcdef"),
        ] {
            refused(&bad, "holes is wrong");
        }
        refused(&map(b"9999999999999999999", b"0,6"), "larger than a volume");
    }

    #[test]
    fn a_map_in_the_content_is_no_content() {
        let mut content = b"2\n10\n2\n50\n4\n".to_vec();
        content.resize(512, 0);
        content.extend(b"abcdef");
        let records = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"100")];
        let found = read_all(&sparse(&records, &content)).unwrap();
        assert_eq!(found[0].0.kind, MemberKind::File { size: 100, map: Some(vec![(10, 2), (50, 4)]) });
        assert_eq!(found[0].1, b"abcdef");
        for bad in [&b"9999999999\n"[..], b"3\n1\n", b"-1\n", b"\n", &[b'1'; 600]] {
            let mut content = bad.to_vec();
            content.resize(content.len().next_multiple_of(512), 0);
            refused(&sparse(&records, &content), "holes is wrong");
        }
    }
}
