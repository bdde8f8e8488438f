//! Work on many independent items, on several threads where the system has them.

/// Fewer items than this for each thread are not worth one.
#[cfg(feature = "std")]
const LEAST_ITEMS: usize = 8;

/// Does `work` for each item; in which order, nobody can tell.
#[cfg(feature = "std")]
pub(super) fn each<T: Send>(items: &mut [T], threads: usize, work: impl Fn(&mut T) + Sync) {
    let threads = threads.min(items.len() / LEAST_ITEMS);
    if threads < 2 {
        return items.iter_mut().for_each(work);
    }
    let share = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let work = &work;
        for part in items.chunks_mut(share) {
            scope.spawn(move || part.iter_mut().for_each(work));
        }
    });
}

/// Does `work` for each item.
#[cfg(not(feature = "std"))]
pub(super) fn each<T: Send>(items: &mut [T], _threads: usize, work: impl Fn(&mut T) + Sync) {
    items.iter_mut().for_each(work);
}
