//! Where volumes are kept while they are measured.
//!
//! A backend is written over once before anything is measured on it, so that no figure holds the host's first allocation
//! of its memory or blocks.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sefs::backend::{Backend, FileBackend, MemoryBackend};
use sefs::env::Env;
use sefs::keys::VolumeKey;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, FormatOptions, NewInode, OpenOptions, Owner, Volume};
use sefs_uring::UringBackend;

use crate::limits::bare;
use crate::pool::Pool;
use crate::protected::Protected;
use crate::{Args, Outcome};

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Ordinary memory.
    Memory,
    /// A file, with pread and pwrite.
    File,
    /// A file, through io_uring.
    Uring,
    /// A file, through io_uring past the page cache.
    UringDirect,
}

/// A backend that is used again and again, and another of the same kind for its limits.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) env: Env,
    pub(crate) clock: Clock,
    backend: Arc<dyn Backend>,
    bare: Arc<dyn Backend>,
    /// The limits' part once more, past the page cache, where there is one and the kernel and the folder's filesystem allow it.
    direct: Option<Arc<dyn Backend>>,
    baseline_at: u64,
    size_bytes: u64,
    memory_bytes: usize,
    workers: usize,
    /// Volume ids never repeat.
    made: AtomicU64,
    dir: tempfile::TempDir,
}

const FILL: usize = 1 << 20;

impl Place {
    pub(crate) fn new(kind: Kind, args: &Args) -> Outcome<Place> {
        let dir = args.setting.temporary()?;
        // Content twice, for what is overwritten stays until the checkpoint after the next; files of names; the ring.
        let size_bytes = (2 * args.size + (args.files * 1024) + (192 << 20)).next_multiple_of(FILL as u64);
        let backend = kind.backend(&dir, "volume", size_bytes)?;
        write_over(&*backend, size_bytes)?;
        // The limits' part, and behind it the baseline's file with its tree and recovery copy.
        let baseline_at = args.size.max(args.blocks * 4096).next_multiple_of(FILL as u64);
        let bare_bytes = (baseline_at + args.size + args.size / 64 + (4 << 20)).next_multiple_of(FILL as u64);
        let bare = kind.backend(&dir, "bare", bare_bytes)?;
        write_over(&*bare, bare_bytes)?;
        let direct = Kind::UringDirect.backend(&dir, "direct", baseline_at).ok().filter(|_| kind != Kind::Memory);
        if let Some(direct) = &direct {
            write_over(&**direct, baseline_at)?;
        }
        Ok(Place {
            kind,
            env: args.setting.crypto.host_env(),
            clock: args.setting.clock,
            backend,
            bare,
            direct,
            baseline_at,
            size_bytes,
            memory_bytes: usize::try_from(args.setting.memory)?,
            workers: args.setting.workers,
            made: AtomicU64::new(0),
            dir,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// A backend for limits: no volume stands on it.
    pub(crate) fn bare(&self) -> &Arc<dyn Backend> {
        &self.bare
    }

    /// The disk under it, past the page cache; memory has none.
    pub(crate) fn direct(&self) -> Option<&Arc<dyn Backend>> {
        self.direct.as_ref()
    }

    /// Whether there is a page cache between a volume and what it reads.
    pub(crate) fn has_disk(&self) -> bool {
        self.kind != Kind::Memory
    }

    /// What the page cache has of the files is gone afterwards.
    pub(crate) fn cool_down(&self) -> Outcome<()> {
        for name in ["volume", "bare"] {
            let file = File::open(self.dir.path().join(name))?;
            // What is dirty stays.
            file.sync_data()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(())
    }

    /// A file of the baseline's scheme, on the same kind of backend.
    pub(crate) fn protected(&self, blocks: u64) -> Outcome<Protected> {
        Protected::new(self.bare.clone(), self.env.clone(), blocks, self.baseline_at)
    }

    /// A volume with nothing in it.
    pub(crate) fn fresh(&self) -> Outcome<Volume> {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let options = format_options(self.size_bytes, made);
        Volume::format(self.backend.clone(), &key(), &options, &self.env)?;
        self.reopened()
    }

    /// The volume that stands there.
    pub(crate) fn reopened(&self) -> Outcome<Volume> {
        let mut options = OpenOptions { memory_bytes: self.memory_bytes, ..OpenOptions::default() };
        if self.workers > 1 {
            options.workers = Arc::new(Pool::new(self.workers)?);
        }
        Ok(Volume::open(self.backend.clone(), &key(), &options, &self.env)?)
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Memory => "memory",
            Kind::File => "file",
            Kind::Uring => "uring",
            Kind::UringDirect => "uring-direct",
        }
    }

    /// A backend of zeros, sparse.
    pub(crate) fn backend(self, dir: &tempfile::TempDir, name: &str, len_bytes: u64) -> Outcome<Arc<dyn Backend>> {
        Ok(match self {
            Kind::Memory => Arc::new(MemoryBackend::new(len_bytes)),
            Kind::File => Arc::new(FileBackend::create(&dir.path().join(name), len_bytes)?),
            Kind::Uring | Kind::UringDirect => {
                let file = File::options().read(true).write(true).create_new(true).open(dir.path().join(name))?;
                file.set_len(len_bytes)?;
                Arc::new(UringBackend::new(file, self == Kind::UringDirect)?)
            }
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes over all of a backend.
pub(crate) fn write_over(backend: &dyn Backend, len_bytes: u64) -> Outcome<()> {
    for offset_bytes in (0..len_bytes).step_by(FILL) {
        let mut buf = backend.buffer(usize::try_from((len_bytes - offset_bytes).min(FILL as u64))?);
        buf.bytes_mut().fill(0x5a);
        bare(backend.write_at(offset_bytes, buf))?;
    }
    bare(backend.flush())
}

pub(crate) fn format_options(size_bytes: u64, volume: u64) -> FormatOptions {
    FormatOptions {
        size_bytes,
        volume_id: u128::from(volume).to_be_bytes(),
        label: String::new(),
        slots: Vec::new(),
        anchor: None,
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    }
}

pub(crate) fn key() -> VolumeKey {
    VolumeKey::new([0x5a; 32])
}

/// Makes a regular file in the root directory.
pub(crate) fn make_file(volume: &Volume, name: &str) -> Outcome<InodeNo> {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    Ok(volume.make(&Caller::root(), InodeNo::ROOT, name.as_bytes(), &new)?.ino)
}

/// What time is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Clock {
    /// What passes on the wall.
    #[default]
    Wall,
    /// What the slowest thread computed: for the memory backend, on a machine that others use too.
    Cpu,
}

/// Runs `work` on each of `threads` threads at once, and says how long that took.
pub(crate) fn on_threads(clock: Clock, threads: u64, work: impl Fn(u64) -> Outcome<()> + Sync) -> Outcome<Duration> {
    let ready = Barrier::new(usize::try_from(threads)? + 1);
    std::thread::scope(|scope| {
        let (ready, work) = (&ready, &work);
        let run = |index| {
            move || {
                ready.wait();
                let before = computed()?;
                work(index)?;
                Ok(computed()?.saturating_sub(before))
            }
        };
        let running: Vec<_> = (0..threads).map(|index| scope.spawn(run(index))).collect();
        ready.wait();
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        for thread in running {
            let took: Outcome<Duration> = thread.join().map_err(|_| "a thread panicked")?;
            slowest = slowest.max(took?);
        }
        Ok(match clock {
            Clock::Wall => started.elapsed(),
            Clock::Cpu => slowest,
        })
    })
}

/// Does something on the caller's thread, and says how long that took.
pub(crate) fn on_this_thread(clock: Clock, work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let (before, started) = (computed()?, Instant::now());
    work()?;
    Ok(match clock {
        Clock::Wall => started.elapsed(),
        Clock::Cpu => computed()?.saturating_sub(before),
    })
}

/// How long this thread has been on a processor.
fn computed() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split_whitespace().next().ok_or("/proc/thread-self/schedstat is empty")?;
    Ok(Duration::from_nanos(first.parse()?))
}

/// A generator of places that is quick and always the same: xorshift.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// Every number below an end once, in an order that leaves no neighbours together.
#[derive(Clone)]
pub(crate) struct Scattered {
    index: u64,
    end: u64,
}

impl Scattered {
    pub(crate) fn new(end: u64) -> Scattered {
        Scattered { index: 0, end }
    }
}

impl Iterator for Scattered {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // A prime, so that no smaller end has a divisor in common with it, near the golden section of 2^32: next to no
        // multiple of a power of two.
        const STRIDE: u64 = 2_654_435_761;
        let next = (self.index < self.end).then(|| self.index.wrapping_mul(STRIDE) % self.end);
        self.index += 1;
        next
    }
}

/// Content that differs from block to block.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut dice = Dice::new(len as u64);
    (0..len.div_ceil(8)).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_numbers_are_all_there_and_no_neighbours() {
        for end in [1, 2, 4096, 50_000, 117_964] {
            let order: Vec<u64> = Scattered::new(end).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..end), "{end}");
            let neighbours = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
            assert!(end < 100 || neighbours < order.len() / 100, "{end}: {neighbours}");
        }
    }
}
