//! A bounds-checked reader and a writer of little-endian integers.
//!
//! *Invariants*: reading never panics and never allocates; a field that is not wholly there is `Err`.

use alloc::vec::Vec;

/// A decoder's result; the text names the field that is wrong.
pub type Decoded<T> = Result<T, &'static str>;

/// One more than the largest 48-bit integer.
pub(crate) const U48_END: u64 = 1 << 48;
/// Stored counters are below: no volume counts that far, and whoever adds to one does not overflow.
pub(crate) const COUNTER_END: u64 = 1 << 62;
/// Numbers of inodes and objects are below: those of images below 2^62, those that are counted out from there on leave as much room.
pub(crate) const ID_END: u64 = 1 << 63;

/// Reads fields from the front of a byte string.
#[derive(Clone)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("truncated")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or("truncated")?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Decoded<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u48(&mut self) -> Decoded<u64> {
        self.array().map(u48_from_bytes)
    }

    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Decoded<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Takes `len` reserved bytes, which must be zero.
    pub(crate) fn zeros(&mut self, len: usize) -> Decoded<()> {
        // Without an early end the compiler takes many bytes at once, and a header has 60,000 of them.
        let set = self.bytes(len)?.iter().fold(0, |set, byte| set | byte);
        if set == 0 { Ok(()) } else { Err("reserved bytes are set") }
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    /// Demands that nothing is left.
    pub(crate) fn end(self) -> Decoded<()> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes follow the end") }
    }
}

/// Appends fields to a byte string.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(len_bytes: usize) -> Writer {
        Writer(Vec::with_capacity(len_bytes))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Writer {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u48(&mut self, value: u64) -> &mut Writer {
        self.bytes(&u48_to_bytes(value))
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Writer {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn zeros(&mut self, len: usize) -> &mut Writer {
        self.pad_to(self.0.len() + len)
    }

    /// Appends zeros up to `len_bytes` in all. Panics when more is there already, for then a field would be lost.
    pub(crate) fn pad_to(&mut self, len_bytes: usize) -> &mut Writer {
        assert!(self.0.len() <= len_bytes, "a record outgrew its place");
        self.0.resize(len_bytes, 0);
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// The bytes as an array; panics when a different number was written.
    pub(crate) fn finish_array<const N: usize>(self) -> [u8; N] {
        self.0.try_into().unwrap_or_else(|bytes: Vec<u8>| panic!("{} bytes written, {N} expected", bytes.len()))
    }
}

/// A count that its limits keep far below 2^16.
pub(crate) fn count_u16(count: usize) -> u16 {
    u16::try_from(count).expect("counts are checked against limits below 2^16 before they are written")
}

/// A length that its limits keep far below 2^32.
pub(crate) fn count_u32(count: usize) -> u32 {
    u32::try_from(count).expect("lengths are checked against limits below 2^32 before they are written")
}

/// Widens a stored 32-bit length; a target whose addresses are narrower could not hold the bytes anyway.
pub(crate) fn len_usize(len: u32) -> Decoded<usize> {
    usize::try_from(len).map_err(|_| "length exceeds the address space")
}

pub(crate) fn u48_from_bytes(bytes: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = bytes;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Panics for values of 2^48 or more: addresses and generations are bounded long before they are stored.
pub(crate) fn u48_to_bytes(value: u64) -> [u8; 6] {
    assert!(value < U48_END, "{value} does not fit into 48 bits");
    let [a, b, c, d, e, f, _, _] = value.to_le_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut writer = Writer::with_capacity(0);
        writer.u8(1).u16(0x0203).u32(4).u48(U48_END - 1).u64(u64::MAX).i64(-7).zeros(3).bytes(b"xy");
        let bytes = writer.finish();
        assert_eq!(bytes[1..3], [3, 2]);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(4));
        assert_eq!(reader.u48(), Ok(U48_END - 1));
        assert_eq!(reader.u64(), Ok(u64::MAX));
        assert_eq!(reader.i64(), Ok(-7));
        assert_eq!(reader.zeros(3), Ok(()));
        assert_eq!(reader.remaining(), 2);
        assert_eq!(reader.clone().end(), Err("bytes follow the end"));
        assert_eq!(reader.bytes(2), Ok(&b"xy"[..]));
        assert_eq!(reader.u8(), Err("truncated"));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn set_reserved_bytes_are_refused() {
        assert_eq!(Reader::new(&[0, 0, 1]).zeros(3), Err("reserved bytes are set"));
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn u48_refuses_larger_values() {
        u48_to_bytes(U48_END);
    }
}
