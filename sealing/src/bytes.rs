//! Little-endian integers out of byte arrays whose length is known.

/// Bytes that integers are read from. The offsets are constants of a layout, and the length was checked before.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(array(&self.0[at..at + 2]))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(array(&self.0[at..at + 4]))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(array(&self.0[at..at + 8]))
    }
}

/// A slice as an array of the same length; a layout's constants see to that.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}
