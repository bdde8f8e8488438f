//! Where something grows: a volume on a counted backend of its own, and a meter for operations on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sefs::env::Env;
use sefs::types::InodeNo;
use sefs::vfs::{Caller, FileKind, NewInode, OpenOptions, Volume, WriteMode};

use super::Plan;
use crate::Outcome;
use crate::counting::{Counting, Counts};
use crate::place::{self, Dice, content};

pub(crate) const BLOCK: u64 = 4096;

/// A backend for one volume.
pub(crate) struct Site<'a> {
    pub(crate) plan: &'a Plan,
    backend: Arc<Counting>,
    volume_bytes: u64,
    env: Env,
    _dir: tempfile::TempDir,
}

/// Whether a backend's memory or blocks are there before anything is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing was ever written.
    Sparse,
    /// All of it was written over.
    Written,
}

impl<'a> Site<'a> {
    pub(crate) fn new(plan: &'a Plan, volume_bytes: u64, start: Start) -> Outcome<Site<'a>> {
        let dir = plan.setting.temporary()?;
        let backend = plan.kind.backend(&dir, "volume", volume_bytes)?;
        if start == Start::Written {
            place::write_over(&*backend, volume_bytes)?;
        }
        let backend = Arc::new(Counting::new(backend));
        Ok(Site { plan, backend, volume_bytes, env: plan.setting.crypto.host_env(), _dir: dir })
    }

    /// A volume with nothing in it.
    pub(crate) fn format(&self) -> Outcome<Volume> {
        // Every site has one volume, so that no id repeats on a backend.
        let options = place::format_options(self.volume_bytes, 1);
        Volume::format(self.backend.clone(), &place::key(), &options, &self.env)?;
        self.open(self.plan.setting.memory)
    }

    pub(crate) fn open(&self, memory_bytes: u64) -> Outcome<Volume> {
        let options = OpenOptions { memory_bytes: usize::try_from(memory_bytes)?, ..OpenOptions::default() };
        Ok(Volume::open(self.backend.clone(), &place::key(), &options, &self.env)?)
    }

    pub(crate) fn meter(&self) -> Meter<'_> {
        Meter { site: self, times: Vec::new(), total: Duration::ZERO, counts: Counts::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.backend.counts()
    }

    /// Measures writes of blocks at random places, with a sync at the end, and reads of such blocks.
    pub(crate) fn blocks(&self, volume: &Volume, file: InodeNo, file_bytes: u64) -> Outcome<(Sample, Sample)> {
        let (blocks, count) = ((file_bytes / BLOCK).max(1), self.plan.operations);
        let (data, mut dice) = (content(BLOCK as usize), Dice::new(file_bytes));
        let mut write = |_| -> Outcome<()> {
            volume.write(&Caller::root(), file, dice.below(blocks) * BLOCK, &data, WriteMode::Direct)?;
            Ok(())
        };
        // What a first few touch is not what they all cost.
        self.meter().batch(count / 4, &mut write)?;
        volume.sync()?;
        let mut meter = self.meter();
        meter.batch(count, &mut write)?;
        meter.also(|| Ok(volume.sync()?))?;
        let (written, mut out) = (meter.sample(), vec![0; BLOCK as usize]);
        let mut read = |_| -> Outcome<()> {
            volume.read(file, dice.below(blocks) * BLOCK, &mut out)?;
            Ok(())
        };
        self.meter().batch(count / 4, &mut read)?;
        let mut meter = self.meter();
        meter.batch(count, &mut read)?;
        Ok((written, meter.sample()))
    }

    /// Measures making, looking up and removing names of a directory; at most `at_once` new ones are there at the same time.
    pub(crate) fn names(&self, volume: &Volume, dir: InodeNo, at_once: u64) -> Outcome<[Sample; 3]> {
        let (mut create, mut stat, mut unlink) = (self.meter(), self.meter(), self.meter());
        let (mut left, at_once) = (self.plan.operations, at_once.max(1));
        let name = |index: u64| format!("new {index}");
        while left > 0 {
            let part = left.min(at_once);
            create.batch(part, |index| make(volume, dir, &name(index), FileKind::Regular).map(drop))?;
            create.also(|| if part == left { Ok(volume.sync()?) } else { Ok(()) })?;
            stat.batch(part, |index| Ok(volume.lookup(&Caller::root(), dir, name(index).as_bytes()).map(drop)?))?;
            unlink.batch(part, |index| Ok(volume.unlink(&Caller::root(), dir, name(index).as_bytes())?))?;
            unlink.also(|| if part == left { Ok(volume.sync()?) } else { Ok(()) })?;
            left -= part;
        }
        Ok([create.sample(), stat.sample(), unlink.sample()])
    }

    /// Measures listing a directory, for each of its entries.
    pub(crate) fn list(&self, volume: &Volume, dirs: &[InodeNo]) -> Outcome<Sample> {
        let (mut meter, mut entries) = (self.meter(), 0);
        // Small directories are listed more often, large ones as often as tells enough.
        while entries < self.plan.operations || meter.times.len() < 3 {
            let dir = dirs[meter.times.len() % dirs.len()];
            meter.batch(1, |_| {
                entries += list(volume, dir)?;
                Ok(())
            })?;
        }
        let lists = meter.times.len() as u64;
        Ok(meter.sample().share(entries / lists.max(1)))
    }

    /// Writes a file from its start.
    pub(crate) fn fill(&self, volume: &Volume, file: InodeNo, bytes: u64) -> Outcome<()> {
        let data = content(1 << 20);
        for offset in (0..bytes).step_by(1 << 20) {
            self.plan.go_on()?;
            let part = &data[..usize::try_from((bytes - offset).min(1 << 20))?];
            if volume.write(&Caller::root(), file, offset, part, WriteMode::Direct)? != part.len() {
                return Err("a write came to an early end".into());
            }
        }
        Ok(volume.sync()?)
    }
}

/// Makes an inode in a directory.
pub(crate) fn make(volume: &Volume, dir: InodeNo, name: &str, kind: FileKind) -> Outcome<InodeNo> {
    let new = NewInode { kind, mode: 0o700, rdev: 0, target: Vec::new() };
    Ok(volume.make(&Caller::root(), dir, name.as_bytes(), &new)?.ino)
}

/// Lists a directory, and says how many entries it has.
fn list(volume: &Volume, dir: InodeNo) -> Outcome<u64> {
    let (mut cookie, mut count) = (0, 0);
    loop {
        let part = volume.read_dir(dir, cookie, 1024)?;
        let Some(last) = part.last() else { return Ok(count) };
        cookie = last.cookie;
        count += part.len() as u64;
    }
}

/// Measures operations one by one, and what they cost together.
pub(crate) struct Meter<'a> {
    site: &'a Site<'a>,
    /// Of each operation, on the wall.
    times: Vec<Duration>,
    /// Of all of them, by the clock that was chosen.
    total: Duration,
    counts: Counts,
}

/// What an operation costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Half of the operations took no longer, in microseconds on the wall.
    pub(crate) p50_us: f64,
    /// With everything that was done for it later, in microseconds.
    pub(crate) mean_us: f64,
    /// Bytes and requests at the backend, for each operation.
    pub(crate) read_bytes: f64,
    pub(crate) written_bytes: f64,
    pub(crate) requests: f64,
    pub(crate) operations: u64,
}

/// Between two looks at whether somebody wants the end.
const LOOK_EVERY: u64 = 256;

impl Meter<'_> {
    /// Does something so often, and hands it the number of the time.
    pub(crate) fn batch(&mut self, count: u64, mut work: impl FnMut(u64) -> Outcome<()>) -> Outcome<()> {
        let mut times = Vec::with_capacity(usize::try_from(count)?);
        self.measured(|plan| {
            for index in 0..count {
                if index % LOOK_EVERY == 0 {
                    plan.go_on()?;
                }
                let started = Instant::now();
                work(index)?;
                times.push(started.elapsed());
            }
            Ok(())
        })?;
        self.times.extend(times);
        Ok(())
    }

    /// Does what belongs to all operations together.
    pub(crate) fn also(&mut self, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        self.measured(|_| work())
    }

    fn measured(&mut self, work: impl FnOnce(&Plan) -> Outcome<()>) -> Outcome<()> {
        let (site, before) = (self.site, self.site.counts());
        self.total += place::on_this_thread(site.plan.setting.clock, || work(site.plan))?;
        let now = site.counts() - before;
        self.counts.reads += now.reads;
        self.counts.read_bytes += now.read_bytes;
        self.counts.writes += now.writes;
        self.counts.written_bytes += now.written_bytes;
        self.counts.flushes += now.flushes;
        Ok(())
    }

    pub(crate) fn sample(mut self) -> Sample {
        self.times.sort_unstable();
        let operations = self.times.len().max(1) as f64;
        let p50 = self.times.get(self.times.len() / 2).copied().unwrap_or_default();
        let each = |value: u64| value as f64 / operations;
        Sample {
            p50_us: p50.as_secs_f64() * 1e6,
            mean_us: self.total.as_secs_f64() * 1e6 / operations,
            read_bytes: each(self.counts.read_bytes),
            written_bytes: each(self.counts.written_bytes),
            requests: each(self.counts.reads + self.counts.writes + self.counts.flushes),
            operations: self.times.len() as u64,
        }
    }
}

impl Sample {
    /// The cost of one of so many things that each operation did.
    pub(crate) fn share(self, things: u64) -> Sample {
        let things = things.max(1);
        let share = |value: f64| value / things as f64;
        Sample {
            p50_us: share(self.p50_us),
            mean_us: share(self.mean_us),
            read_bytes: share(self.read_bytes),
            written_bytes: share(self.written_bytes),
            requests: share(self.requests),
            operations: self.operations * things,
        }
    }
}
