//! An input as a stream of choices. It never ends early: past its end there are zeros, so every prefix means something.

use std::sync::atomic::{AtomicBool, Ordering};

use sefs_tests::seed::Dice;

static EVERYTHING: AtomicBool = AtomicBool::new(false);

/// From now on inputs do what takes long, all of it: for those that once found something.
pub fn do_everything() {
    EVERYTHING.store(true, Ordering::Relaxed);
}

/// What is left of the input, and dice that all of its bytes decide.
pub struct Input<'a> {
    rest: &'a [u8],
    dice: Dice,
}

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        // FNV-1a: the dice need no more than a seed that each byte changes.
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Input { rest: bytes, dice: Dice::new(bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)) }
    }

    /// True for one in `every` inputs: for what takes long.
    ///
    /// No part of the input says so. A corpus collects what reaches most, so parts that say so would soon be in most of
    /// it, and whatever is made from it would take long too.
    pub fn rarely(&mut self, every: u64) -> bool {
        self.dice.below(every) == 0 || EVERYTHING.load(Ordering::Relaxed)
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next bytes, fewer at the end.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A length of at most 255 and that many bytes.
    pub fn short(&mut self) -> &'a [u8] {
        let len = self.u8();
        self.bytes(len.into())
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number near what breaks arithmetic, or a small one, or any: one byte chooses.
    pub fn number(&mut self) -> u64 {
        let choice = self.u8();
        let near = u64::from(choice & 7);
        match choice >> 3 {
            0..=7 => u64::from(choice),
            8..=15 => u64::from(choice) << 12,
            16 => near << 32,
            17 => (1 << 48) - near,
            18 => u64::MAX - near,
            19 => (1 << 63) - near,
            20 => (1 << 31) + near,
            21 => u64::from(u32::MAX) - near,
            22..=25 => self.u16().into(),
            26..=28 => self.u32().into(),
            _ => self.u64(),
        }
    }

    /// One of `items`, which is not empty.
    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[usize::from(self.u16()) % items.len()]
    }

    /// The next bytes, with zeros past the end.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }
}
