//! Buffers that are used again. A new one is zeroed memory, which costs a good part of what sealing its content costs.
//!
//! *Security*: a buffer keeps what was in it: ciphertext, which the host has seen anyway. Nothing reads it as anything else
//! than the host's word.
//!
//! *Invariants*: at most [`POOL_BYTES`] are kept.

use alloc::vec::Vec;

use super::HostBuf;
use crate::sync::Mutex;

/// Buffers of a few sizes, kept until they are wanted again.
pub struct BufferPool {
    alignment: usize,
    shelves: [Mutex<Vec<HostBuf>>; SIZES.len()],
}

/// The sizes that are kept in bytes, and how many of each.
const SIZES: [(usize, usize); 5] = [(4 << 10, 16), (16 << 10, 16), (64 << 10, 8), (256 << 10, 6), (1 << 20, 2)];
/// What a pool holds at most.
const POOL_BYTES: usize = 5 << 20;
const _: () = {
    let (mut bytes, mut shelf) = (0, 0);
    while shelf < SIZES.len() {
        bytes += SIZES[shelf].0 * SIZES[shelf].1;
        shelf += 1;
    }
    assert!(bytes <= POOL_BYTES);
};

impl BufferPool {
    /// An empty pool of buffers whose addresses are multiples of `alignment`, a power of two; 1 for any.
    pub fn new(alignment: usize) -> BufferPool {
        BufferPool { alignment, shelves: core::array::from_fn(|_| Mutex::new(Vec::new())) }
    }

    /// A buffer of `len_bytes` with something in it.
    pub fn take(&self, len_bytes: usize) -> HostBuf {
        let Some(shelf) = SIZES.iter().position(|(size, _)| len_bytes <= *size) else {
            return HostBuf::aligned(len_bytes, self.alignment);
        };
        let kept = self.shelves[shelf].lock().pop();
        let mut buf = kept.unwrap_or_else(|| HostBuf::aligned(SIZES[shelf].0, self.alignment));
        buf.len_bytes = len_bytes;
        buf
    }

    /// Keeps a buffer, or frees it.
    pub fn put(&self, buf: HostBuf) {
        let Some(shelf) = SIZES.iter().position(|(size, _)| buf.memory.len() == size + self.alignment - 1) else {
            return;
        };
        let mut kept = self.shelves[shelf].lock();
        if kept.len() < SIZES[shelf].1 {
            kept.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_in_the_length_that_is_wanted() {
        let pool = BufferPool::new(1);
        let mut buf = pool.take(5000);
        assert_eq!(buf.bytes(), [0; 5000]);
        buf.bytes_mut().fill(7);
        pool.put(buf);
        assert_eq!(pool.take(16_384).bytes()[..5000], [7; 5000], "the same memory");
        assert_eq!(pool.take(4097).bytes(), [0; 4097], "there was one only");
        assert_eq!(pool.take((1 << 20) + 1).bytes().len(), (1 << 20) + 1);
    }

    #[test]
    fn buffers_stand_where_they_are_wanted() {
        let pool = BufferPool::new(4096);
        for len_bytes in [1, 4096, 70_000, 3 << 20].repeat(3) {
            let buf = pool.take(len_bytes);
            assert_eq!((buf.bytes().as_ptr().addr() % 4096, buf.bytes().len()), (0, len_bytes));
            pool.put(buf);
        }
    }

    #[test]
    fn no_more_than_the_pools_share_is_kept() {
        let pool = BufferPool::new(1);
        for len_bytes in [1, 4096, 10_000, 65_536, 200_000, 1 << 20, 2 << 20].repeat(40) {
            pool.put(HostBuf::zeroed(len_bytes));
            pool.put(pool.take(len_bytes));
        }
        let kept = |shelf: &Mutex<Vec<HostBuf>>| shelf.lock().iter().map(|buf| buf.memory.len()).sum::<usize>();
        assert!(pool.shelves.iter().map(kept).sum::<usize>() <= POOL_BYTES);
    }
}
