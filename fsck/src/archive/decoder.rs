//! Streams as they come, decompressed: plain, gzip or zstd, told by their first bytes.
//!
//! *Security*: both decoders are Rust; a window of zstd larger than 128 MiB is refused. Their checksums are compared.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::refusal::Refusal;

/// The stream's plain bytes.
pub(crate) fn decoded<'a>(mut from: Box<dyn BufRead + 'a>) -> Result<Box<dyn Read + 'a>, Refusal> {
    let magic = from.fill_buf()?;
    let starts = |bytes: &[u8]| magic.starts_with(bytes);
    // A skippable frame may come before the others; its magic has a free half byte.
    let skippable = magic.len() >= 4 && magic[0] & 0xf0 == 0x50 && magic[1..4] == [0x2a, 0x4d, 0x18];
    if starts(b"\x1f\x8b") {
        return Ok(Box::new(MultiGzDecoder::new(from)));
    }
    if starts(b"\x28\xb5\x2f\xfd") || skippable {
        return Ok(Box::new(Zstd { from, decoder: FrameDecoder::new(), in_frame: false }));
    }
    for (bytes, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")] {
        if starts(bytes) {
            return Err(Refusal::Compression(name));
        }
    }
    Ok(Box::new(from))
}

/// Frames of zstd, one after the other.
struct Zstd<R> {
    from: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Starts the next frame. `false`: there is none.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.from).take(u64::from(length)), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    fn end_frame(&self) -> io::Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(expected), found) if found != Some(expected) => Err(io::Error::other("zstd: wrong checksum")),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.in_frame && self.decoder.can_collect() > 0 {
                return self.decoder.read(out);
            }
            if !self.in_frame {
                self.in_frame = self.begin_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            } else if self.decoder.is_finished() {
                self.end_frame()?;
                self.in_frame = false;
            } else {
                let block = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.from, block).map_err(io::Error::other)?;
            }
        }
    }
}
