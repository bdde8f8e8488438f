//! Opened blocks by what vouches for them: a least-recently-used cache with a budget in bytes.
//!
//! *Security*: only what authenticated goes in; the key must name the content, not just the place, or an older block
//! could stand in for a newer one.
//!
//! *Invariants*: the bytes of all values, as their inserters gave them, stay within the budget. No value is dropped under
//! a lock.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash};

use lru::{DefaultHasher, LruCache};

use crate::sync::Mutex;

/// A shard is worth its lock from this size on.
const SHARD_BYTES: usize = 1 << 20;
const MAX_SHARDS: usize = 16;

/// An LRU cache of shared values within a budget of bytes, split into shards with a lock each.
pub(crate) struct ByteCache<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: DefaultHasher,
    shard_budget: usize,
}

struct Shard<K, V> {
    entries: LruCache<K, (Arc<V>, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V> ByteCache<K, V> {
    /// An empty cache of at most `budget_bytes`.
    pub(crate) fn new(budget_bytes: usize) -> ByteCache<K, V> {
        let count = (budget_bytes / SHARD_BYTES).clamp(1, MAX_SHARDS);
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 });
        ByteCache {
            shards: core::iter::repeat_with(shard).take(count).collect(),
            hasher: DefaultHasher::default(),
            shard_budget: budget_bytes / count,
        }
    }

    /// What the values may take together.
    pub(crate) fn budget_bytes(&self) -> usize {
        self.shard_budget * self.shards.len()
    }

    /// The value of `key`, which becomes the most recently used.
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.shard(key).lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Puts a value in that takes `bytes`; the least recently used go. One that is larger than a shard's budget is not
    /// kept.
    pub(crate) fn insert(&self, key: K, value: Arc<V>, bytes: usize) {
        if bytes > self.shard_budget {
            self.remove(&key);
            return;
        }
        let mut evicted = Vec::new();
        let mut shard = self.shard(&key).lock();
        shard.bytes += bytes;
        if let Some((_, (before, freed))) = shard.entries.push(key, (value, bytes)) {
            shard.bytes -= freed;
            evicted.push(before);
        }
        while shard.bytes > self.shard_budget {
            let Some((_, (value, freed))) = shard.entries.pop_lru() else { break };
            shard.bytes -= freed;
            evicted.push(value);
        }
        drop(shard);
        drop(evicted);
    }

    /// Takes the value of `key` out.
    pub(crate) fn remove(&self, key: &K) -> Option<Arc<V>> {
        let mut shard = self.shard(key).lock();
        let (value, bytes) = shard.entries.pop(key)?;
        shard.bytes -= bytes;
        Some(value)
    }

    /// Bytes that the values take.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let count = self.shards.len();
        let hash = self.hasher.hash_one(key);
        // The remainder is below `count`, a usize; the high bits are left to the shard's own table.
        let index = usize::try_from((hash >> 32) % u64::try_from(count).unwrap_or(1)).unwrap_or(0);
        &self.shards[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first() {
        let cache = ByteCache::new(100);
        for i in 0..5_u32 {
            cache.insert(i, Arc::new(i), 20);
        }
        assert_eq!(cache.get(&0).as_deref(), Some(&0));
        cache.insert(5, Arc::new(5), 20);
        assert!(cache.get(&1).is_none());
        assert_eq!(cache.get(&0).as_deref(), Some(&0));
        assert_eq!(cache.bytes(), 100);
    }

    #[test]
    fn the_budget_holds_over_all_shards() {
        let budget = 4 << 20;
        let cache = ByteCache::new(budget);
        for i in 0..10_000_u64 {
            cache.insert(i, Arc::new(()), 4096);
        }
        assert!(cache.bytes() <= budget);
        assert!(cache.bytes() > budget / 2);
    }

    #[test]
    fn replacing_and_removing_give_their_bytes_back() {
        let cache = ByteCache::new(100);
        cache.insert(1, Arc::new('a'), 60);
        cache.insert(1, Arc::new('b'), 80);
        assert_eq!((cache.bytes(), cache.get(&1).as_deref()), (80, Some(&'b')));
        assert_eq!(cache.remove(&1).as_deref(), Some(&'b'));
        assert_eq!((cache.bytes(), cache.remove(&1)), (0, None));
    }

    #[test]
    fn what_is_larger_than_the_budget_is_not_kept_and_hides_nothing_old() {
        let cache = ByteCache::new(100);
        cache.insert(1, Arc::new('a'), 60);
        cache.insert(1, Arc::new('b'), 101);
        assert_eq!((cache.bytes(), cache.get(&1)), (0, None));
    }
}
