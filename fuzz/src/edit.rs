//! What a hostile host does to an image, chosen by an input.

use sefs_tests::disk::PAGE;

use crate::image::Image;
use crate::input::Input;

/// One act.
pub enum Edit {
    /// Bytes are replaced, as far as the page goes.
    Bytes {
        /// Where.
        page: u64,
        /// Within the page.
        offset: usize,
        /// By what.
        bytes: Vec<u8>,
    },
    /// Bits of one byte change.
    Flip {
        /// Where.
        page: u64,
        /// Within the page.
        offset: usize,
        /// Which.
        mask: u8,
    },
    /// A page gets the content of another.
    Copy {
        /// From where.
        from: u64,
        /// To where.
        to: u64,
    },
    /// A page is replaced.
    Page {
        /// Where.
        page: u64,
        /// By what.
        bytes: Box<[u8; PAGE]>,
    },
    /// The host says that it is that long.
    Len(u64),
}

impl Edit {
    /// An edit of `image`.
    pub fn of(input: &mut Input<'_>, image: &Image) -> Edit {
        match input.u8() % 8 {
            0 | 1 => Edit::Bytes { page: place(input, image), offset: within(input), bytes: input.short().to_vec() },
            2 => {
                let (page, offset, wide) = (place(input, image), within(input), input.u8());
                let value = input.number().to_le_bytes();
                Edit::Bytes { page, offset, bytes: value[..[1, 2, 4, 6, 8][usize::from(wide % 5)]].to_vec() }
            }
            3 => Edit::Flip { page: place(input, image), offset: within(input), mask: input.u8() },
            4 => Edit::Copy { from: place(input, image), to: place(input, image) },
            5 => match image.older() {
                [] => Edit::Len(image.len_bytes()),
                // What once stood there, or anywhere else, comes back.
                older => {
                    let (page, bytes) = input.pick(older);
                    let page = if input.u8() < 0xe0 { *page } else { place(input, image) };
                    Edit::Page { page, bytes: Box::new(**bytes) }
                }
            },
            6 => {
                let mut bytes = Box::new([0; PAGE]);
                let (page, given) = (place(input, image), input.short());
                bytes[..given.len()].copy_from_slice(given);
                Edit::Page { page, bytes }
            }
            _ => Edit::Len(length(input, image)),
        }
    }
}

/// A page that holds something, most of the time.
pub fn place(input: &mut Input<'_>, image: &Image) -> u64 {
    let choice = input.u16();
    match choice >> 14 {
        3 => u64::from(choice & 0x3ff),
        _ => image.used()[usize::from(choice) % image.used().len()],
    }
}

fn within(input: &mut Input<'_>) -> usize {
    usize::from(input.u16()) % PAGE
}

fn length(input: &mut Input<'_>, image: &Image) -> u64 {
    match input.u8() % 4 {
        0 => image.len_bytes(),
        1 => image.len_bytes().wrapping_add_signed(i64::from(input.u16().cast_signed())),
        _ => input.number(),
    }
}
