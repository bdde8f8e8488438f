//! Why an archive is refused: one variant for each thing that it must not say.

use std::fmt;
use std::io;

use crate::names::escaped;

/// A refusal, and the entry that caused it.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The entry's name as the archive has it; empty if it is the archive as a whole.
    pub(crate) entry: Vec<u8>,
    /// What is wrong.
    pub(crate) why: Refusal,
}

/// What is wrong with an archive or one of its entries.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The system failed, or the compressed stream is damaged.
    Io(io::Error),
    /// There is no room for its content, or it cannot be read back.
    Spool(io::Error),
    /// The archive ends within an entry, or before its end mark.
    Truncated,
    /// Something that is not zero follows the end mark.
    AfterEnd,
    /// A block that should be a header is none.
    NoHeader,
    /// A number in a header is none, or larger than its field in a volume.
    Number(&'static str),
    /// A record of extended headers is malformed.
    Pax,
    /// An extended header is longer than [`super::member::EXTENDED_BYTES_MAX`].
    ExtendedTooLong,
    /// Extended headers that no entry follows.
    Dangling,
    /// The map of a sparse file contradicts itself or its content.
    SparseMap,
    /// The holes of all files are longer than [`super::HOLE_BYTES_MAX`].
    Holes,
    /// A file longer than a volume can hold.
    TooLarge,
    /// The name has a part "..".
    ParentDirectory,
    /// The name, or where a link points, has a NUL.
    Nul,
    /// A part of the name is longer than 255 bytes.
    NameTooLong,
    /// The whole name is longer than 4,096 bytes.
    PathTooLong,
    /// The name leads through a symbolic link of the archive.
    ThroughSymlink,
    /// The name leads through something that is neither directory nor symbolic link.
    ThroughFile,
    /// The root is something else than a directory.
    RootNotDirectory,
    /// A hard link to what is not there.
    LinkToNothing,
    /// A hard link to its own name.
    LinkToItself,
    /// A hard link to a directory.
    LinkToDirectory,
    /// A symbolic link that points nowhere, or whose target is too long.
    Target,
    /// A whiteout for no name.
    Whiteout,
    /// So many entries that their list would not fit into memory.
    TooManyEntries,
    /// A compression that is not known.
    Compression(&'static str),
    /// A blob that is not as long as its descriptor says.
    BlobSize {
        /// What the descriptor says.
        expected_bytes: u64,
        /// What was found.
        found_bytes: u64,
    },
    /// A blob whose SHA-256 is not the one in its descriptor.
    BlobDigest,
    /// The caller asked to stop.
    Interrupted,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Refusal::Truncated,
            _ => Refusal::Io(error),
        }
    }
}

impl Refusal {
    /// The same, about an entry.
    pub(crate) fn of(self, entry: &[u8]) -> Refused {
        Refused { entry: entry.to_vec(), why: self }
    }

    /// What the reader can do about it.
    pub(crate) fn way_out(&self) -> &'static str {
        match self {
            Refusal::Io(_)
            | Refusal::Spool(_)
            | Refusal::Truncated
            | Refusal::BlobSize { .. }
            | Refusal::BlobDigest => "get the archive again",
            Refusal::NoHeader | Refusal::Compression(_) => "give a tar stream, plain or compressed by gzip or zstd",
            Refusal::Interrupted => "run it again",
            Refusal::TooManyEntries | Refusal::Holes | Refusal::TooLarge => {
                "unpack it where that does no harm, and give --from DIR"
            }
            _ => "make the archive again without that entry",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Refusal::Io(error) => return write!(f, "it cannot be read: {}", escaped(error.to_string().as_bytes())),
            Refusal::Spool(error) => return write!(f, "its content cannot be kept: {error}"),
            Refusal::Number(field) => return write!(f, "its {field} is no number that a volume can hold"),
            Refusal::Compression(name) => return write!(f, "it is compressed by {name}"),
            Refusal::BlobSize { expected_bytes, found_bytes } => {
                return write!(f, "it should have {expected_bytes} bytes and has {found_bytes}");
            }
            Refusal::Truncated => "the archive is truncated",
            Refusal::AfterEnd => "something follows the archive's end mark",
            Refusal::NoHeader => "this is no tar header",
            Refusal::Pax => "its extended header is malformed",
            Refusal::ExtendedTooLong => "its extended header is too long",
            Refusal::Dangling => "an extended header belongs to no entry",
            Refusal::SparseMap => "the map of its holes is wrong",
            Refusal::Holes => "the holes of its files are larger than 1 TiB",
            Refusal::TooLarge => "it is larger than a volume can hold",
            Refusal::ParentDirectory => "its name has a part '..'",
            Refusal::Nul => "its name has a NUL",
            Refusal::NameTooLong => "a part of its name is longer than 255 bytes",
            Refusal::PathTooLong => "its name is longer than 4096 bytes",
            Refusal::ThroughSymlink => "its name leads through a symbolic link, which is not followed",
            Refusal::ThroughFile => "its name leads through what is no directory",
            Refusal::RootNotDirectory => "the root can only be a directory",
            Refusal::LinkToNothing => "it is a hard link to what is not there",
            Refusal::LinkToItself => "it is a hard link to itself",
            Refusal::LinkToDirectory => "it is a hard link to a directory",
            Refusal::Target => "what it points to is no path of 1 to 4095 bytes",
            Refusal::Whiteout => "it is a whiteout of no name",
            Refusal::TooManyEntries => "it has too many entries to be held in memory",
            Refusal::BlobDigest => "its SHA-256 is not the one that it should have",
            Refusal::Interrupted => "interrupted; nothing was made",
        };
        f.write_str(text)
    }
}
